"""A statement: what an account held, bucket by bucket, when a period began, what moved in it, and what it held then.

A movement belongs to the period in which the book recorded it, or in which it took effect. Each is a set of moves from
one bucket to another, so the sums close either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tallybook.domain.points import BUCKETS, DEBT, SINKS, SOURCES, LoyaltyDecision


class Booked(NamedTuple):
    """A decision with its place in the log; one that is due and not recorded yet has none.

    `correction`: it rests on a late fact, as `corrections` has it.
    """

    position: int | None
    decision: LoyaltyDecision
    correction: bool = False


@dataclass(frozen=True, slots=True)
class Movement:
    """A decision that moved points: how many came `into` the account, how many went `out_of` it, what it held then."""

    booked: Booked
    into: int
    out_of: int
    after: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Stated:
    """Balances by bucket at the beginning of a period and at its end, and what moved between."""

    opening: Mapping[str, int]
    movements: tuple[Movement, ...]
    closing: Mapping[str, int]


def stated(decisions: Iterable[Booked], start_us: int, end_us: int, now_us: int, *, by_effective: bool) -> Stated:
    """The statement of a period, both ends included. `decisions`: all of an account, in order; due ones come last.

    By the time of recording, what is due and not recorded belongs to now.
    """

    def booked_us(one: Booked) -> int:
        if by_effective:
            return one.decision.effective_us
        return now_us if one.position is None else one.decision.metadata.recorded_us

    ordered = sorted(decisions, key=booked_us) if by_effective else list(decisions)
    balances: dict[str, int] = dict.fromkeys(BUCKETS, 0)
    for one in ordered:
        if booked_us(one) < start_us:
            move(balances, one.decision)
    opening = dict(balances)
    movements = []
    for one in ordered:
        if not start_us <= booked_us(one) <= end_us:
            continue
        into, out_of = move(balances, one.decision)
        if into is None or out_of is None:
            continue
        movements.append(Movement(one, into, out_of, dict(balances)))
    return Stated(opening, tuple(movements), dict(balances))


def move(balances: dict[str, int], decision: LoyaltyDecision) -> tuple[int, int] | tuple[None, None]:
    """Carry a decision's moves out; how many points came in and went out, None where nothing moved."""
    into = out_of = 0
    moved = False
    for _, source, target, points in decision.moves():
        if not points:
            continue
        moved = True
        balances[source] += points if source in SOURCES else -points
        balances[target] += -points if target == DEBT else points
        into += points if source in SOURCES and source != DEBT else 0
        out_of += points if target in SINKS else 0
    return (into, out_of) if moved else (None, None)
