"""A programme's points as one pool, at a moment: issued, redeemed, outstanding, what of prices is allocated to them,
and what of that is revenue by then. See `domain.liability`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar
from uuid import UUID

from tallybook.domain import arithmetic
from tallybook.domain.customer import PurchaseRecorded
from tallybook.domain.earning import Rules
from tallybook.domain.events import REGISTRY
from tallybook.domain.liability import PriceAllocated, RedemptionEstimated, allocated
from tallybook.domain.points import (
    ADJUSTED_DOWN,
    ADJUSTED_UP,
    BUCKETS,
    DEBT,
    EARNED,
    EXPIRED,
    PLACES,
    REINSTATED,
    REVERSED,
    SPENT,
    EarningReversed,
    LoyaltyDecision,
    PointsCredited,
    PointsEarned,
    RedemptionReversed,
)

from .read_models import Recorded
from .reckoning import Part, Sum, least, minus, most, over, plus, reckoned, times, whole
from .statement import move

POOLED = (
    PurchaseRecorded.stored_name,
    *(
        name
        for name, schema in REGISTRY.items()
        if issubclass(schema.event_class, LoyaltyDecision) and schema.event_class.moves is not LoyaltyDecision.moves
    ),
)
"""Stored names of what a pool is made of: sales, and decisions that move points."""
Known = Callable[[Recorded], bool]
"""Whether the book knew an event by a moment."""
Given = TypeVar("Given", RedemptionEstimated, PriceAllocated)


def in_force(given: Iterable[Recorded], kind: type[Given], at_us: int) -> Given | None:
    """The estimate, or the given price, that holds at a moment: the last to take effect; of two, the last recorded."""
    best: Given | None = None
    for _, event in given:
        if (
            isinstance(event, kind)
            and event.effective_us <= at_us
            and (best is None or event.effective_us >= best.effective_us)
        ):
            best = event
    return best


class Allocations:
    """What of each sale is for points, as the book reckons it, and what of that goes back with returns.

    Events are fed in order. `labelled`: the programme's rule sets by label; `returned`: the lots that any return is
    about, which alone have to be remembered.
    """

    def __init__(self, labelled: Mapping[str, Rules], currency: str, returned: Set[UUID]) -> None:
        self._labelled = labelled
        self._currency = currency
        self._returned = returned
        self._sale: PurchaseRecorded | None = None
        self._lots: list[tuple[UUID, int]] = []
        self._total = 0
        self._kept: dict[UUID, tuple[int, int, int]] = {}
        """(allocated, points, points taken back)."""

    def sold(self, sale: PurchaseRecorded) -> None:
        """A sale. What it earned follows it at once."""
        self._sale, self._lots, self._total = sale, [], 0

    def change(self, decision: LoyaltyDecision) -> int | None:
        """By how much a decision changes what is allocated; None: its sale was in another currency."""
        if isinstance(decision, PointsEarned):
            return self._earned(decision)
        if isinstance(decision, EarningReversed) and decision.lot_id in self._kept:
            amount, points, back = self._kept[decision.lot_id]
            if points:
                so_far = arithmetic.share(amount, back, points)
                gone = arithmetic.share(amount, back + decision.points, points) - so_far
                self._kept[decision.lot_id] = amount, points, back + decision.points
                return -gone
        return 0

    def _earned(self, decision: PointsEarned) -> int | None:
        sale = self._sale
        if sale is None or sale.event_id != decision.facts[0]:
            return 0  # points for what was no sale
        rules = self._labelled[decision.rules]
        if rules.rule_set.currency != self._currency:
            return None
        goods = sum(line.net_minor + line.discount_minor for line in sale.lines)
        price, alone = rules.converted(sale.net_minor, sale.currency), rules.converted(goods, sale.currency)
        assert price is not None, "what earned points has a rate"
        assert alone is not None
        self._lots.append((decision.lot_id, decision.points))
        points = [one for _, one in self._lots]
        before = self._total
        self._total = allocated(price, alone, sum(points), rules.rule_set.point_price)
        if not self._returned.isdisjoint(lot_id for lot_id, _ in self._lots) and any(points):
            amounts = [0] * len(points)
            arithmetic.allocate(self._total, points, amounts)
            for (lot_id, of_lot), amount in zip(self._lots, amounts, strict=True):
                self._kept[lot_id] = amount, of_lot, 0
        return self._total - before


@dataclass(slots=True)
class Pool:
    """All points of a programme that had been issued by a moment, and what had become of them.

    `given`: a price that people allocated; what the book reckons counts after it. `mixed`: some of that was in another
    currency, and is missing.
    """

    at_us: int
    given: PriceAllocated | None
    balances: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BUCKETS, 0))
    returned: int = 0
    given_back: int = 0
    reckoned_minor: int = 0
    mixed: bool = False

    def feed(self, decision: LoyaltyDecision, change: int | None) -> None:
        """A decision that the book knew, with the change of what is allocated."""
        if decision.effective_us > self.at_us:
            return
        move(self.balances, decision)
        if isinstance(decision, RedemptionReversed):
            self.returned += decision.points
        if isinstance(decision, PointsCredited) and decision.source == REINSTATED:
            self.given_back += sum(lot.points for lot in decision.lots)
        if self.given is None or decision.effective_us > self.given.effective_us:
            self.mixed |= change is None
            self.reckoned_minor += change or 0

    @property
    def issued(self) -> int:
        """Points given, for sales or otherwise, less those that were taken back. Transfers change nothing."""
        held = self.balances
        return held[EARNED] + held[ADJUSTED_UP] - held[REVERSED] - held[ADJUSTED_DOWN]

    @property
    def redeemed(self) -> int:
        """Points spent, less those of redemptions that were taken back."""
        return self.balances[SPENT] - self.returned

    @property
    def expired(self) -> int:
        """Points that expired and were not given back."""
        return self.balances[EXPIRED] - self.given_back

    @property
    def outstanding(self) -> int:
        """Points that can be spent, or will be."""
        return sum(self.balances[name] for name in PLACES)

    @property
    def debt(self) -> int:
        """Points that customers owe: redeemed, and then their earning came back; or taken away by hand."""
        return self.balances[DEBT]


def fill(
    pools: Sequence[tuple[Pool, Known]], events: Iterable[Recorded], programme: str, allocations: Allocations
) -> None:
    """Feed the events of a book to pools of a programme; each takes what the book knew by a moment of its own."""
    for recorded in events:
        event = recorded.event
        if isinstance(event, PurchaseRecorded):
            allocations.sold(event)
        elif isinstance(event, LoyaltyDecision) and event.programme == programme:
            change = allocations.change(event)
            for pool, known in pools:
                if known(recorded):
                    pool.feed(event, change)


class Valued(NamedTuple):
    """What a pool comes to: points that are expected to be redeemed in the end, and money in minor units."""

    expected: int
    allocated_minor: int
    recognised_minor: int
    liability_minor: int
    sums: tuple[Sum, ...]
    notes: tuple[str, ...]


def valued(pool: Pool, estimate: RedemptionEstimated | None) -> Valued:
    """What of the price that is allocated to a pool is revenue by its moment, and what is owed still."""
    sums: list[Sum] = []
    notes: list[str] = []

    def line(what: str, how: Part) -> int:
        sums.append(reckoned(what, how))
        return sums[-1].gives

    # A return may be dated before what it is of: a moment between the two has less than nothing.
    redeemed, outstanding, issued = max(0, pool.redeemed), max(0, pool.outstanding), max(0, pool.issued)
    possible = line("redeemed or redeemable", plus([redeemed, outstanding]))
    expected = possible
    if estimate is None:
        notes.append("No estimate was given: all that can still be redeemed is expected to be.")
    else:
        share = whole(over(times(issued, estimate.expected), estimate.issued), "half_up")
        wanted = line("estimated", share)
        expected = line("expected", least(wanted, possible))
        if wanted > possible:
            notes.append(f"The estimate comes to {wanted} points, and {possible} can be redeemed at most: these count.")
        if expected < redeemed:
            notes.append(f"{redeemed} points were redeemed, and {expected} expected: all of the price is revenue.")
    if pool.debt:
        notes.append(f"Customers owe {pool.debt} points.")
    given = [] if pool.given is None else [pool.given.allocated_minor]
    amount = line("allocated", most(0, plus([*given, pool.reckoned_minor])))
    revenue = arithmetic.recognised(amount, redeemed, expected)
    if redeemed < expected:
        line("recognised", whole(over(times(amount, redeemed), expected), "half_up"))
    else:
        line("recognised", amount)
    assert sums[-1].gives == revenue
    owed = line("liability", minus(amount, revenue))
    return Valued(expected, amount, revenue, owed, tuple(sums), tuple(notes))
