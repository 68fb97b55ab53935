"""Balances: the points of every lot by bucket, as the moves of the decisions left them.

One row for each lot, and double entry within it: so the sums close for a lot, an account and a programme alike. What
expires soon, and what is outstanding by age and tier, are questions to the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from tallybook.domain.account import Account
from tallybook.domain.calendar import Zone
from tallybook.domain.events import REGISTRY, Event
from tallybook.domain.lots import NEVER
from tallybook.domain.points import (
    BUCKETS,
    DEBT,
    PLACES,
    LotsExtended,
    LoyaltyDecision,
    NewLot,
    PointsActivated,
    PointsCredited,
    PointsEarned,
    RedemptionReversed,
)

from .read_models import Recorded, Rows, Table

Key = tuple[bytes, bytes]
"""lot, account: those of one commit stand side by side, since its ids count on from a random one"""


class OpenLot(NamedTuple):
    """What an account has of a lot."""

    account: bytes
    customer: bytes
    earned_us: int
    expires_us: int
    pending: int
    active: int
    held: int
    inactive_us: int = NEVER
    """When its account's inactivity takes what is there; NEVER: it does not."""

    @property
    def points(self) -> int:
        """All of it."""
        return self.pending + self.active + self.held

    @property
    def ends_us(self) -> int:
        """When it is gone, if nothing happens before."""
        return min(self.expires_us, self.inactive_us)


NOT_MOVED = -NEVER
"""When a lot was moved that earned nothing but qualifying points, or is a debt alone."""


class Balances:
    """The read model of lots with their buckets.

    `moved_us` is when points last came to the lot, or were spent or given away of it: the latest of an account's lots
    is when its inactivity began. A debt that stands on no lot (`PointsCorrected`) has a row of its own.
    """

    name = "balances"
    version = 1
    by_subject = True
    table = Table(
        "lot_balances",
        (
            ("lot", "blob"),
            ("account", "blob"),
            ("customer", "blob"),
            ("programme", "text"),
            ("earned_us", "integer"),
            ("expires_us", "integer"),
            ("moved_us", "integer"),
            *((bucket, "integer") for bucket in BUCKETS),
        ),
        ("lot", "account"),
    )
    tables = (table,)

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        """Fold events in order."""
        due = [event for _, event in batch if type(event) in _TOUCHING]
        # A lot that is earned is new: only those that later decisions touch are looked for.
        wanted = {key for event in due if not isinstance(event, PointsEarned) for key in _touched(event)}
        rows.load(self.table, wanted)
        lots: dict[Key, list[Any]] = {}
        for key in wanted:
            row = rows.get(self.table, key)
            if row is not None:
                lots[key] = [*row]
        for event in due:
            _post(lots, event)
        for key, lot in lots.items():
            rows.put(self.table, key, (*lot,))


_EXPIRES_US, _MOVED_US, _OF_LOT = 5, 6, 7
_LEAVES = {name: (place, -1 if name in PLACES else 1) for place, name in enumerate(BUCKETS, _OF_LOT)}
"""Where a bucket stands in a row, and what leaving it does: of a source it counts what came out."""
_ENTERS = {name: (place, -1 if name == DEBT else 1) for place, name in enumerate(BUCKETS, _OF_LOT)}
_NOTHING = (0,) * len(BUCKETS)


def _touched(event: Any) -> Iterator[Key]:
    """The lots that a decision moves or gives another end."""
    account = event.originator_id.bytes
    for lot_id, _, _, _ in event.moves():
        yield lot_id.bytes, account
    if isinstance(event, LotsExtended):
        for lot_id in event.lots:
            yield lot_id.bytes, account


def _post(lots: dict[Key, list[Any]], event: Any) -> None:
    """Post a decision to the lots that it moves, brings, or gives another end."""
    account, at_us, kind = event.originator_id.bytes, event.effective_us, type(event)
    known: UUID | None = None
    lot: list[Any] = []
    if kind is PointsEarned:
        known = event.lot_id
        key = (event.lot_id.bytes, account)
        lot = lots[key] = _row(key, event, at_us, event.expires_us)
    elif kind in _AGES:
        for lot_id, earned_us, expires_us in _AGES[kind](event):
            key = (lot_id.bytes, account)
            if key in lots:
                lots[key][_EXPIRES_US] = expires_us
            else:
                lots[key] = _row(key, event, earned_us, expires_us)
    moved = event.in_use
    for lot_id, source, target, points in event.moves():
        if lot_id is not known:
            known, key = lot_id, (lot_id.bytes, account)
            if key not in lots:
                lots[key] = _row(key, event, at_us, NEVER)
            lot = lots[key]
        place, sign = _LEAVES[source]
        lot[place] += sign * points
        place, sign = _ENTERS[target]
        lot[place] += sign * points
        if moved and at_us > lot[_MOVED_US]:
            lot[_MOVED_US] = at_us


def _row(key: Key, event: LoyaltyDecision, earned_us: int, expires_us: int) -> list[Any]:
    customer = b"" if event.subject_id is None else event.subject_id.bytes
    return [*key, customer, event.programme, earned_us, expires_us, NOT_MOVED, *_NOTHING]


def _of(lots: Sequence[NewLot]) -> list[tuple[UUID, int, int]]:
    return [(lot.lot_id, lot.earned_us, lot.expires_us) for lot in lots]


_AGES: dict[type[Event], Callable[[Any], list[tuple[UUID, int, int]]]] = {
    PointsActivated: lambda event: _of(event.lots),
    PointsCredited: lambda event: _of(event.lots),
    RedemptionReversed: lambda event: [] if event.new_lot is None else _of([event.new_lot]),
    LotsExtended: lambda event: [(lot_id, event.effective_us, event.expires_us) for lot_id in event.lots],
}
"""Lots that a decision brings or gives another end: their ids, when they were earned, when they expire."""
_TOUCHING: frozenset[type[Event]] = frozenset(
    schema.event_class
    for schema in REGISTRY.values()
    if issubclass(schema.event_class, LoyaltyDecision)
    and (schema.event_class.moves is not LoyaltyDecision.moves or schema.event_class is LotsExtended)
)
"""Decisions that change a lot."""


def open_lots(account: Account, gone_us: int = NEVER) -> Iterator[OpenLot]:
    """What a derived account has of its lots. `gone_us`: when inactivity takes it."""
    there: dict[UUID, list[int]] = {}
    parts = [(lot_id, points, 0) for _, _, lot_id, points in account.pending]
    parts += [(lot.lot_id, lot.points, 1) for lot in account.lots]
    set_aside = (part for *_, hold_id, _ in account.held for part in account.holds[hold_id].parts)
    parts += [(part.lot_id, part.points, 2) for part in set_aside]
    for lot_id, points, place in parts:
        there.setdefault(lot_id, [0, 0, 0])[place] += points
    customer = b"" if account.customer_id is None else account.customer_id.bytes
    for lot_id, (pending, active, held) in there.items():
        known = account.known[lot_id]
        yield OpenLot(account.id.bytes, customer, known.earned_us, known.expires_us, pending, active, held, gone_us)


@dataclass(frozen=True, slots=True)
class OutstandingPoints:
    """What accounts of a tier have of the points that were earned in a month of the programme's zone."""

    earned_in: str
    tier: str
    pending: int
    active: int
    held: int

    @property
    def points(self) -> int:
        """All of it."""
        return self.pending + self.active + self.held


def outstanding(
    lots: Iterable[OpenLot], tier_of: Mapping[bytes, str], at_us: int, zone: Zone
) -> tuple[list[OutstandingPoints], int]:
    """Points by the month in which they were earned and the tier of their account; and, apart, those that were over at
    a moment though nothing recorded it yet."""
    sums: dict[tuple[int, str], list[int]] = {}
    overdue = 0
    for lot in lots:
        if lot.ends_us <= at_us:
            overdue += lot.points
            continue
        one = sums.setdefault((zone.period(lot.earned_us, "month"), tier_of.get(lot.account, "")), [0, 0, 0])
        one[0] += lot.pending
        one[1] += lot.active
        one[2] += lot.held
    rows = [
        OutstandingPoints(f"{month // 12:04}-{month % 12 + 1:02}", tier, *places)
        for (month, tier), places in sorted(sums.items())
    ]
    return rows, overdue


EXPIRY, INACTIVITY = "expiry", "inactivity"


class Ending(NamedTuple):
    """Points that a customer loses unless something happens: when the first of them, why, and how many in all."""

    at_us: int
    customer: bytes
    reason: str
    points: int


def expiring(lots: Iterable[OpenLot], after_us: int, until_us: int, zone: Zone) -> tuple[list[Ending], dict[int, int]]:
    """Who loses points after a moment and up to another, soonest first; and how many go on each local day.

    Points that go as a day begins count for the day that ends with it: it is the last on which they can be spent.
    """
    found: dict[bytes, Ending] = {}
    by_day: dict[int, int] = {}
    for lot in lots:
        at_us = lot.ends_us
        if not after_us < at_us <= until_us:
            continue
        day = zone.day(at_us - 1)
        by_day[day] = by_day.get(day, 0) + lot.points
        had = found.get(lot.account)
        one = Ending(at_us, lot.customer, EXPIRY if at_us == lot.expires_us else INACTIVITY, lot.points)
        found[lot.account] = one if had is None else min(one, had)._replace(points=one.points + had.points)
    return sorted(found.values()), dict(sorted(by_day.items()))
