"""Lots of points, in the order in which they are used, and the arithmetic on them.

The order of use: soonest expiry first, then oldest, then as they came; lots without expiry last.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple
from uuid import UUID

from .calendar import Times, days_later, month_end_us, months_later, year_end_us
from .copy_on_write import SortedAmounts

NEVER = 2**62
"""Stands for the expiry of a lot that does not expire, so that it sorts last."""
FOR_EVER, DAYS, MONTHS = 0, 1, 2
"""How long points live, as codes."""
EXACT, MONTH_END, YEAR_END = 0, 1, 2
"""How far that is extended."""


def end_us(starts: Times, offsets: Times, turns: Times, from_us: int, unit: int, count: int, until: int) -> int:
    """The first instant at which points that count from a moment are gone; NEVER: they don't expire. The arrays are
    those of the programme's zone."""
    if unit == FOR_EVER:
        return NEVER
    if unit == DAYS:
        moment = days_later(starts, offsets, turns, from_us, count)
    else:
        moment = months_later(starts, offsets, turns, from_us, count)
    if until == EXACT:
        return moment
    if until == MONTH_END:
        return month_end_us(starts, offsets, turns, moment)
    return year_end_us(starts, offsets, turns, moment)


class Lot(NamedTuple):
    """What is left of one earning. Sorts in the order of use."""

    expires_us: int
    earned_us: int
    arrival: int
    lot_id: UUID
    points: int


Lots = SortedAmounts[Lot]
"""What an account holds, in the order of use."""


def take(lots: Lots, points: int) -> list[tuple[UUID, int]]:
    """Use up to so many points in the order of use: which lot gave how many. Takes them from `lots`."""
    used: list[tuple[Lot, int]] = []
    for lot in lots:
        if points <= 0:
            break
        part = min(points, lot.points)
        used.append((lot, part))
        points -= part
    for lot, part in used:
        _use(lots, lot, part)
    return [(lot.lot_id, part) for lot, part in used]


def take_from(lots: Lots, key: tuple[int, int, int, UUID], points: int) -> int:
    """Use up to so many points of one lot (all of it but its points); how many it had."""
    lot = lots.find(key)
    if lot is None:
        return 0
    part = min(points, lot.points)
    _use(lots, lot, part)
    return part


def take_expired(lots: Lots, at_us: int) -> list[tuple[UUID, int]]:
    """Remove all lots that are gone at a moment: which lot lost how many."""
    gone = list(takewhile(lambda lot: lot.expires_us <= at_us, lots))
    for lot in gone:
        lots.remove(lot[:-1])
    return [(lot.lot_id, lot.points) for lot in gone]


def split(parts: Iterable[tuple[UUID, int]], points: int) -> tuple[list[tuple[UUID, int]], list[tuple[UUID, int]]]:
    """The first so many points of parts of lots, and the rest."""
    first, rest = [], []
    for lot_id, there in parts:
        part = min(points, there)
        points -= part
        first += [(lot_id, part)] if part else []
        rest += [(lot_id, there - part)] if there > part else []
    return first, rest


def _use(lots: Lots, lot: Lot, points: int) -> None:
    if points == lot.points:
        lots.remove(lot[:-1])
    else:
        lots.put(lot._replace(points=lot.points - points))
