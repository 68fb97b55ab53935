"""A book with two programmes and all that happens to points, given as a list of steps that Hypothesis can shrink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final
from uuid import UUID

from hypothesis import strategies as st

import tallybook
from tallybook.domain.events import to_us
from tallybook.domain.rules import RuleSet, parse_rule_set

ZONE: Final = "Europe/Berlin"
START: Final = datetime(2024, 1, 1, tzinfo=UTC)
DAYS: Final = 400
NOW: Final = START + timedelta(days=DAYS)

MAIN: dict[str, Any] = {
    "name": "shop",
    "version": "1",
    "currency": "EUR",
    "currencies": [{"code": "USD", "rate": "9/10", "name": "fixed"}],
    "zone": ZONE,
    "earning": [
        {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100},
        {
            "id": "spring", "kind": "fixed", "points": 40, "campaign": "spring", "control_percent": 50,
            "starts": "2024-03-01", "ends": "2024-05-31",
        },
        {
            "id": "visit", "kind": "fixed", "on": "activity", "points": 25, "pending": {"days": 20},
            "expiry": {"months": 2, "from": "activated"},
        },
    ],
    "expiry": {"months": 3, "until": "month_end"},
    "inactivity_months": 4,
    "refunds": {"earning": "within_balance", "redemption": "original"},
    "transfers": {"allowed": True},
    "rewards": [{"id": "mug", "price": 15}, {"id": "tea", "price": 6, "coupon_days": 15}, {"id": "car", "price": 9999}],
    "tiers": {
        "window_months": 3,
        "levels": [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 150, "grants": ["tea"]}],
    },
}  # fmt: skip
"""Points expire, wait, go by inactivity, come back; a campaign has a control group."""
SIDE: dict[str, Any] = {
    "name": "club",
    "version": "1",
    "programme": "club",
    "currency": "EUR",
    "earning": [{"id": "base", "kind": "per_amount", "points": 3, "per_minor": 1000}],
    "expiry": {"never": True},
    "refunds": {"redemption": "new_lot"},
    "tiers": {"window": "lifetime", "levels": [{"name": "club", "threshold": 0}]},
}
"""Another programme, whose accounts may go into debt."""

KINDS = (
    "buy", "buy", "buy", "buy", "buy dollars", "visit", "redeem", "redeem", "tea", "return", "unredeem", "hold",
    "release", "capture", "transfer", "give", "take", "extend", "use coupon", "void coupon", "sweep", "enrol",
    "suspend", "resume", "close",
)  # fmt: skip
Step = tuple[str, int, int, int]
"""what, which customer, after how many days since the last one, how much"""
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 5), st.integers(-6, 25), st.integers(1, 400)),
    min_size=1,
    max_size=35,
)


def rules_of(document: dict[str, Any], **changes: Any) -> RuleSet:
    """A rule set."""
    return parse_rule_set({**document, **changes}, "test")


def scattered(number: int) -> UUID:
    """Ids that follow no order."""
    return UUID(int=(number * 0x9E37_79B9_7F4A_7C15 % 2**64) << 64 | 1 << 63 | number)


@dataclass
class Life:
    """A book in which steps happen. What a step can't do is refused, and goes on."""

    url: str = "memory:"
    main: dict[str, Any] = field(default_factory=lambda: MAIN)
    side: dict[str, Any] = field(default_factory=lambda: SIDE)
    customers: list[UUID] = field(default_factory=list)
    day: int = 1
    done: list[str] = field(default_factory=list)
    now: datetime = NOW

    def __post_init__(self) -> None:
        numbers = count(1)
        self.book = tallybook.open(
            self.url,
            now_us=lambda: to_us(self.now),
            new_id=lambda: UUID(
                int=((number := next(numbers)) * 0x9E37_79B9_7F4A_7C15 % 2**64) << 64 | 1 << 63 | number
            ),
        )
        self._acting = self.book.acting("agent:test", purpose="test")
        self._acting.__enter__()
        self.book.rules.adopt(rules_of(self.main), effective_at=START)
        self.book.rules.adopt(rules_of(self.side), effective_at=START)
        self.bought: list[tuple[UUID, UUID, str]] = []
        self.redeemed: list[tuple[UUID, UUID]] = []
        self.held: list[tuple[UUID, UUID]] = []
        self.coupons: list[tuple[UUID, UUID]] = []

    def live(self, what: Sequence[Step]) -> Life:
        """Let steps happen, one after the other."""
        for step in what:
            try:
                self.step(*step)
            except tallybook.Refused:
                continue
            self.done.append(step[0])
        return self

    def member(self, number: int) -> UUID:
        """A customer; of six, the last is in no programme until a step enrols him."""
        while len(self.customers) <= number:
            at = START + timedelta(hours=len(self.customers))
            customer = self.book.customers.register(name=f"n{len(self.customers)}", effective_at=at)
            self.customers.append(customer)
            if len(self.customers) % 6:
                self.book.loyalty.enrol(customer, effective_at=at)
                self.book.loyalty.enrol(customer, programme="club", effective_at=at)
        return self.customers[number]

    def step(self, kind: str, number: int, days: int, amount: int) -> None:
        """Let one thing happen."""
        loyalty = self.book.loyalty
        self.day = min(max(self.day + days, 1), DAYS - 1)
        at = START + timedelta(days=self.day, minutes=amount)
        ada = self.member(number)
        if kind in ("buy", "buy dollars"):
            currency = "EUR" if kind == "buy" else "USD"
            lines = [
                {"sku": "s", "quantity": 2, "net_minor": amount * 200},
                {"sku": "t", "quantity": 1, "net_minor": 99},
            ]
            result = self.book.customers.record_purchase(ada, lines, currency=currency, effective_at=at)
            self.bought.append((ada, result.purchase_id, currency))
        elif kind == "visit":
            loyalty.record_activity(ada, "visit", effective_at=at)
        elif kind in ("redeem", "tea"):
            paid = loyalty.redeem(ada, reward="mug" if kind == "redeem" else "tea", effective_at=at)
            self.redeemed.append((ada, paid.redemption_id))
            if paid.coupon_id is not None:
                self.coupons.append((ada, paid.coupon_id))
        elif kind == "return" and self.bought:
            bob, purchase, _ = self.bought[number % len(self.bought)]
            self.book.customers.record_return(bob, {1: 1 + amount % 2}, purchase_id=purchase, effective_at=at)
        elif kind == "unredeem" and self.redeemed:
            bob, redemption = self.redeemed[number % len(self.redeemed)]
            loyalty.return_redemption(bob, redemption, reason="returned", effective_at=at)
        elif kind == "hold":
            self.held.append((ada, loyalty.hold(ada, amount // 8 + 1, effective_at=at).hold_id))
        elif kind in ("release", "capture") and self.held:
            bob, hold = self.held[number % len(self.held)]
            if kind == "release":
                loyalty.release(bob, hold, effective_at=at)
            else:
                loyalty.redeem(bob, reward="tea", hold_id=hold, effective_at=at)
        elif kind == "transfer":
            loyalty.transfer(ada, self.member((number + 1) % 6), amount // 8 + 1, effective_at=at)
        elif kind in ("give", "take"):
            points = amount if kind == "give" else -amount
            loyalty.adjust(ada, points, reason="by-hand", into_debt=kind == "take", programme="club", effective_at=at)
        elif kind == "extend":
            loyalty.extend(ada, at + timedelta(days=120), reason="kind", effective_at=at)
        elif kind in ("use coupon", "void coupon") and self.coupons:
            bob, coupon = self.coupons[number % len(self.coupons)]
            if kind == "use coupon":
                loyalty.use_coupon(bob, coupon, effective_at=at)
            else:
                loyalty.void_coupon(bob, coupon, reason="void", effective_at=at)
        elif kind == "sweep":
            loyalty.sweep(at)
        elif kind == "enrol":
            loyalty.enrol(ada, effective_at=at)
        elif kind == "resume" or (kind in ("suspend", "close") and amount > 300):
            getattr(loyalty, kind)(ada, reason="checked", effective_at=at)

    def close(self) -> None:
        """Release all files."""
        self._acting.__exit__(None, None, None)
        self.book.close()
