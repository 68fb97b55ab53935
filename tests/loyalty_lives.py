"""Random lives of two members of a programme, through the front door: what commands a life holds is drawn as numbers.

The clock goes on with each command; some facts are told late. Refusals are part of life.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

import tallybook
from tallybook import Book
from tallybook.adapters.rule_files import load_rule_set
from tallybook.domain.calendar import DAY_US
from tallybook.domain.errors import Refused
from tallybook.domain.rules import RuleSet
from tallybook.times import iso, moment_us

PROGRAMMES = ("stars", "miles", "retail", "growth")
START_US = moment_us("2023-01-01T08:00:00Z", "start")
CATEGORIES = (None, None, "gift_card", "fuel", "food", "merchandise")
_ACTIVITIES = re.compile(r'activity\.code == "(\w+)"')
_PARTNERS = re.compile(r"activity\.partner (?:in|==) \[?([^\])&]*)")

gaps = st.one_of(
    st.sampled_from([0, 3_600_000_000, DAY_US, 7 * DAY_US]),
    st.integers(0, 60).map(lambda days: days * DAY_US),
    st.integers(0, 400).map(lambda days: days * DAY_US),
)
late = st.sampled_from([0, 0, 0, 0, DAY_US, 40 * DAY_US, 400 * DAY_US])
number = st.integers(0, 10_000)
steps = st.lists(st.tuples(st.integers(0, 30), gaps, late, number, number), min_size=6, max_size=30)
Step = tuple[int, int, int, int, int]


class Life:
    """A book with one programme and two members. `at` is the time of the last command."""

    def __init__(self, book: Book, rules: RuleSet, clock: list[int]) -> None:
        self.book, self.rules, self.clock = book, rules, clock
        self.programme = rules.programme
        self.activities = _ACTIVITIES.findall(rules.canonical().replace('\\"', '"')) or ["visit"]
        self.partners = ["", *re.findall(r"\w+", " ".join(_PARTNERS.findall(rules.canonical().replace('\\"', '"'))))]
        self.rewards = [one.id for one in rules.rewards] or ["mug"]
        self.facts: list[UUID] = []
        self.bought: list[tuple[UUID, int]] = []
        self.redeemed: list[UUID] = []
        self.held: list[UUID] = []
        self.coupons: list[UUID] = []
        self.refused = 0
        book.rules.adopt(rules, effective_at="2022-01-01T00:00:00Z")
        self.members = [
            book.customers.register(customer_id=UUID(int=place + 7), birth_date=f"1990-0{3 + place}-14", country="GB")
            for place in range(2)
        ]
        for reward in rules.rewards:
            if reward.counted:
                book.loyalty.stock_reward(reward.id, 2, reason="delivery", programme=self.programme)
        for one in self.members:
            book.loyalty.enrol(one, programme=self.programme)

    def lives(self, life: Sequence[Step]) -> None:
        """Carry the commands out. Every second life begins with points."""
        if life[0][3] % 2:
            self.book.loyalty.adjust(self.members[0], 5_000, reason="welcome", programme=self.programme)
        for what, gap, late_us, a, b in life:
            self.clock[0] += gap
            at = max(START_US, self.clock[0] - late_us)
            try:
                self._does(what, iso(at) or "", a, b)
            except Refused:
                self.refused += 1

    def _does(self, what: int, at: str, a: int, b: int) -> None:
        desk, customers, rules = self.book.loyalty, self.book.customers, self.rules
        ada, bob = self.members
        told: dict[str, Any] = {"programme": self.programme, "effective_at": at}
        match what:
            case 0 | 1 | 2 | 3 | 4:
                known = (rules.currency, *(one.code for one in rules.currencies))
                currency = "JPY" if b % 17 == 16 else known[b % len(known)]
                lines = [
                    {
                        "sku": "s", "quantity": 1 + a % 3, "net_minor": (a * 37 + place * b * 11) % 60_000,
                        "category": CATEGORIES[(a + place) % len(CATEGORIES)], "tax_minor": b % 300,
                        "discount_minor": b % 2 * 500,
                    }
                    for place in range(1 + b % 3)
                ]  # fmt: skip
                bought = customers.record_purchase(ada, lines, currency=currency, effective_at=at)
                self.facts.append(bought.purchase_id)
                self.bought.append((bought.purchase_id, 1 + b % 3))
            case 5 | 6 if self.bought:
                purchase, lines_of = self.bought[a % len(self.bought)]
                customers.record_return(ada, {1 + b % lines_of: 1}, purchase_id=purchase, effective_at=at)
            case 7 | 8 | 24 | 25 | 26:
                activity = self.activities[a % len(self.activities)]
                partner = self.partners[b % len(self.partners)] or None
                self.facts.append(desk.record_activity(ada, activity, 1 + b % 4000, partner=partner, **told).fact_id)
            case 9 | 10 | 27 | 28 if not rules.rewards:
                self.redeemed.append(desk.redeem(ada, 1 + a % 300, reward="mug", **told).redemption_id)
            case 9 | 10 | 27 | 28:
                paid = desk.redeem(ada, reward=self.rewards[a % len(self.rewards)], segments=["best"], **told)
                self.redeemed.append(paid.redemption_id)
                if paid.coupon_id is not None:
                    self.coupons.append(paid.coupon_id)
            case 11 if self.redeemed:
                points = None if b % 2 else 1 + b % 50
                desk.return_redemption(ada, self.redeemed[a % len(self.redeemed)], points, reason="cancelled", **told)
            case 12:
                self.held.append(desk.hold(ada, 1 + a % 400, **told).hold_id)
            case 13 if self.held:
                hold = self.held[a % len(self.held)]
                if b % 2:
                    desk.release(ada, hold, **told)
                else:
                    desk.redeem(ada, None if rules.rewards else 1 + b % 9, reward=self.rewards[0], hold_id=hold, **told)
            case 14 if self.facts:
                desk.confirm_earning(ada, self.facts[a % len(self.facts)], **told)
            case 15 if self.facts:
                desk.withdraw_earning(ada, self.facts[a % len(self.facts)], reason="undone", **told)
            case 16:
                desk.adjust(ada, a % 4000 + 1, reason="sorry", **told)
            case 17:
                desk.adjust(ada, -(a % 300) - 1, reason="mistake", into_debt=bool(b % 2), **told)
            case 18 | 29:
                desk.transfer(ada, bob, 1 + a % 500, **told)
            case 19:
                desk.extend(ada, iso(self.clock[0] + a * DAY_US // 10) or "", reason="sorry", **told)
            case 20:
                desk.reinstate(ada, 1 + a % 50, iso(self.clock[0] + 90 * DAY_US) or "", reason="sorry", **told)
            case 21:
                tier = rules.tiers.levels[a % len(rules.tiers.levels)].name
                desk.override_tier(ada, tier, iso(self.clock[0] + (1 + b % 500) * DAY_US) or "", reason="vip", **told)
            case 22 if self.coupons:
                coupon = self.coupons[a % len(self.coupons)]
                if b % 2:
                    desk.use_coupon(ada, coupon, **told)
                else:
                    desk.void_coupon(ada, coupon, reason="lost", **told)
            case 23:
                desk.sweep()
            case _:
                pass


@contextmanager
def living(rules: RuleSet | str) -> Iterator[Life]:
    """A life in a book of its own, whose clock stands still between commands."""
    clock = [START_US]
    ids = map(UUID, (f"00000000-0000-4000-8000-{one:012x}" for one in count(1, 2**16)))
    with (
        tallybook.open("memory:", now_us=lambda: clock[0], new_id=ids.__next__) as book,
        book.acting("agent:test", purpose="test"),
    ):
        yield Life(book, load_rule_set(rules) if isinstance(rules, str) else rules, clock)


Lives = Callable[..., Life]
