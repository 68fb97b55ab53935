"""Figures of programmes, against plain counting of the same events: local days by zoneinfo, means by statistics."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from math import sqrt
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.programme_life import MAIN, NOW, SIDE, START, ZONE, Life, Step, rules_of, steps

import tallybook
from tallybook.domain.calendar import UTC_ZONE
from tallybook.domain.customer import CustomerRegistered, PurchaseRecorded, ReturnRecorded
from tallybook.domain.earning import cohort
from tallybook.domain.events import Event, from_us
from tallybook.domain.loyalty import account_id
from tallybook.domain.points import (
    AccountClosed,
    CouponClosed,
    CouponIssued,
    EarningReversed,
    Enrolled,
    PointsEarned,
    PointsExpired,
    PointsRedeemed,
    RedemptionRefused,
    RedemptionReversed,
)
from tallybook.projections.programme import (
    Membership,
    Period,
    Sale,
    additional,
    beside_others,
    difference,
    gain,
    nearest,
)
from tallybook.projections.programme import Share as CountedShare

NEVER = datetime(9000, 1, 1, tzinfo=UTC)


def day_of(event: Event, zone: str = ZONE) -> date:
    return from_us(event.effective_us).astimezone(ZoneInfo(zone)).date()


def half_up(value: Fraction) -> int:
    return int((value + Fraction(1, 2)) // 1)


def share(part: int, whole: int, counted: int | None = None) -> CountedShare:
    return CountedShare(part, whole, (whole if counted is None else counted) < 30)


class Plain:
    """A programme's events as the log has them, and a count of each thing by itself."""

    def __init__(self, events: list[Event], programme: str = "main", zone: str = ZONE) -> None:
        self.events, self.programme, self.zone = events, programme, zone
        self.accounts: dict[UUID, tuple[UUID, int, int]] = {}
        for one in self.of(Enrolled):
            ends = [
                other.effective_us
                for other in events
                if isinstance(other, AccountClosed) and other.originator_id == one.originator_id
            ]
            self.accounts[one.subject_id] = (one.originator_id, one.effective_us, min([2**62, *ends]))

    def of(self, kind: type[Any]) -> list[Any]:
        found = [one for one in self.events if isinstance(one, kind)]
        return [one for one in found if getattr(one, "programme", self.programme) == self.programme]

    def within(self, kind: type[Any], since: date, until: date) -> list[Any]:
        return [one for one in self.of(kind) if since <= day_of(one, self.zone) <= until]

    def member(self, customer: Any, at_us: int) -> bool:
        _, since, until = self.accounts.get(customer, (None, 0, 0))
        return since <= at_us < until

    def minor(self, event: Any, currency: str) -> int:
        net: int = sum(line.net_minor for line in event.lines)
        return net if currency == "EUR" else net * 9 // 10

    def group(self, ours: bool, since: date, until: date, before: tuple[date, date]) -> dict[str, Any]:
        bought = {one.event_id: one for one in self.of(PurchaseRecorded)}
        mine = [
            one
            for one in self.within(PurchaseRecorded, since, until)
            if self.member(one.subject_id, one.effective_us) is ours
        ]
        returned = 0
        back: Counter[UUID] = Counter()
        for one in self.within(ReturnRecorded, since, until):
            back[one.purchase_id] += one.net_minor
        for purchase_id, net in back.items():
            purchase = bought[purchase_id]
            if self.member(purchase.subject_id, purchase.effective_us) is ours:
                returned += net if purchase.currency == "EUR" else net * 9 // 10
        sold = sum(self.minor(one, one.currency) for one in mine)
        buyers = {one.subject_id for one in mine}
        first: dict[Any, Any] = {}
        for one in self.within(PurchaseRecorded, since, until):
            if one.subject_id not in first or one.effective_us < first[one.subject_id].effective_us:
                first[one.subject_id] = one
        began = [who for who, one in first.items() if self.member(who, one.effective_us) is ours]
        days = {who: {day_of(one, self.zone) for one in self.within(PurchaseRecorded, since, until)
                      if one.subject_id == who} for who in began}  # fmt: skip
        eve = int(datetime(since.year, since.month, since.day, tzinfo=ZoneInfo(self.zone)).timestamp()) * 1_000_000 - 1
        had = {one.subject_id for one in self.within(PurchaseRecorded, *before)}
        had = {who for who in had if self.member(who, eve) is ours}
        net = sold - returned
        return {
            "buyers": len(buyers),
            "purchases": len(mine),
            "net_minor": net,
            "returned_minor": returned,
            "per_buyer_minor": half_up(Fraction(net, len(buyers))) if buyers else None,
            "per_purchase_minor": half_up(Fraction(net, len(mine))) if mine else None,
            "repurchase": share(sum(len(one) > 1 for one in days.values()), len(began)),
            "retention": share(len(had & set(first)), len(had)),
        }


def fields_of(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


@settings(max_examples=25, deadline=None, print_blob=True)
@given(what=steps, first=st.integers(-20, 420), length=st.integers(1, 120), data=st.data())
def test_programme_figures_are_what_counting_by_hand_gives(
    what: list[Step], first: int, length: int, data: st.DataObject
) -> None:
    life = Life().live(what)
    since = date(2024, 1, 1) + timedelta(days=max(first, 0))
    until = since + timedelta(days=length - 1)
    before = since - timedelta(days=length), since - timedelta(days=1)
    if data.draw(st.booleans(), label="whole months"):
        since, until = since.replace(day=1), (since.replace(day=1) + timedelta(days=31)).replace(day=1)
        until -= timedelta(days=1)
        before = (since - timedelta(days=1)).replace(day=1), since - timedelta(days=1)
    elif since.day == 1 and (until + timedelta(days=1)).day == 1:
        until -= timedelta(days=1)  # whole months, by chance
        before = since - timedelta(days=length - 1), before[1]
        if until < since:
            life.close()
            return
    events = [event for _, event in life.book._core.history()]
    plain = Plain(events)
    told = life.book.loyalty.programme_figures(since, until.isoformat(), margin="0.35", point_cost="3/2")
    assert (told.since, told.until) == (since.isoformat(), until.isoformat())
    assert told.before == (before[0].isoformat(), before[1].isoformat())
    assert (told.zone, told.rules, told.currency, told.position) == (ZONE, "shop@1", "EUR", len(events))
    for is_ours, group in ((True, told.members), (False, told.others)):
        assert fields_of(group) == plain.group(is_ours, since, until, before)
    at_end = until + timedelta(days=1)
    end_us = int(datetime(at_end.year, at_end.month, at_end.day, tzinfo=ZoneInfo(ZONE)).timestamp()) * 1_000_000
    members = {who for who in plain.accounts if plain.member(who, end_us - 1)}
    registered = {one.subject_id for one in plain.of(CustomerRegistered) if one.effective_us < end_us}
    active = {
        one.subject_id
        for kind in (PurchaseRecorded, PointsEarned, PointsRedeemed)
        for one in plain.within(kind, since, until)
    }
    part = told.participation
    assert part.members == share(len(members), len(registered))
    assert part.active == share(len(members & active), len(members))
    assert part.enrolled == len(plain.within(Enrolled, since, until))
    ours_alone = {account for account, _, _ in plain.accounts.values()}
    assert part.closed == sum(one.originator_id in ours_alone for one in plain.within(AccountClosed, since, until))
    ours, others = told.members, told.others
    assert part.buyers == share(ours.buyers, ours.buyers + others.buyers)
    purchases = ours.purchases + others.purchases
    assert part.purchases == share(ours.purchases, purchases)
    assert part.net == share(ours.net_minor, ours.net_minor + others.net_minor, purchases)
    earned = sum(one.points for one in plain.within(PointsEarned, since, until)) - sum(
        one.points - one.forgiven for one in plain.within(EarningReversed, since, until)
    )
    redeemed = sum(one.points for one in plain.within(PointsRedeemed, since, until)) - sum(
        one.points for one in plain.within(RedemptionReversed, since, until)
    )
    assert (told.points.earned, told.points.redeemed) == (earned, redeemed)
    assert told.points.expired == sum(one.points for one in plain.within(PointsExpired, since, until))
    assert told.points.redemption == share(redeemed, earned, len(plain.within(PointsEarned, since, until)))
    assert told.cost is not None
    assert (told.cost.margin, told.cost.point_cost) == ("7/20", "3/2")
    assert told.cost.margin_minor == half_up(ours.net_minor * Fraction(7, 20))
    assert told.cost.redeemed_minor == half_up(redeemed * Fraction(3, 2))
    assert told.cost.earned_minor == half_up(earned * Fraction(3, 2))
    life.close()


@pytest.mark.parametrize("by", ["position", "time"])
@settings(max_examples=15, deadline=None, print_blob=True)
@given(what=steps, more=steps)
def test_figures_as_the_book_knew_them_are_those_that_it_gave_then(by: str, what: list[Step], more: list[Step]) -> None:
    """Late facts, later rule sets and all."""
    life = Life().live(what)
    life.member(0)
    life.step("buy", 0, 60, 77)

    def told() -> list[dict[str, Any]]:
        loyalty = life.book.loyalty
        found = [
            loyalty.programme_figures("2024-03-01", "2024-06-30", margin=1, known_at=known),
            loyalty.campaign_effect("spring", margin=1, known_at=known),
            loyalty.reward_popularity("2024-01-01", "2024-12-31", known_at=known),
            loyalty.balances(as_of=NOW, known_at=known),
            loyalty.outstanding(as_of=START + timedelta(days=100), known_at=known),
            loyalty.expiring("2024-06-30", as_of=START + timedelta(days=100), known_at=known),
        ]
        # As known by a time, positions are counted up to the head.
        return [{name: value for name, value in fields_of(one).items() if by == "position" or name != "position"}
                for one in found]  # fmt: skip

    known = life.book.position() if by == "position" else NOW
    before = told()
    life.now += timedelta(days=1)
    dearer = {**MAIN, "version": "2", "zone": "UTC", "point_price": 5, "rewards": [{**MAIN["rewards"][1], "price": 7}]}
    life.book.rules.adopt(rules_of(dearer), effective_at=START + timedelta(days=2))
    life.step("buy", 1, -20, 99)
    life.live(more)
    life.book.loyalty.sweep(NOW)
    assert told() == before
    life.close()


@settings(max_examples=20, deadline=None, print_blob=True)
@given(what=steps)
def test_rewards_are_counted_as_by_hand(what: list[Step]) -> None:
    life = Life().live(what)
    plain = Plain([event for _, event in life.book._core.history()])
    since, until = date(2024, 2, 10), date(2024, 9, 20)
    told = life.book.loyalty.reward_popularity(since, until)
    paid = plain.within(PointsRedeemed, since, until)
    reward_of = {one.facts[0]: one.reward for one in plain.of(PointsRedeemed)}
    coupons = {one.coupon_id: one.reward for one in plain.of(CouponIssued)}
    for one in told.rewards:
        mine = [other for other in paid if other.reward == one.reward]
        assert one.redemptions == share(len(mine), len(paid))
        assert one.customers == len({other.subject_id for other in mine})
        assert one.points == sum(other.points for other in mine)
        assert one.returned_points == sum(
            other.points
            for other in plain.within(RedemptionReversed, since, until)
            if reward_of[other.redemption_id] == one.reward
        )
        refused = Counter(
            other.code for other in plain.within(RedemptionRefused, since, until) if other.reward == one.reward
        )
        assert one.refused == dict(refused)
        ended = Counter(
            other.outcome
            for other in plain.within(CouponClosed, since, until)
            if coupons[other.coupon_id] == one.reward
        )
        issued = [other for other in plain.within(CouponIssued, since, until) if other.reward == one.reward]
        assert (one.coupons_issued, one.coupons_used, one.coupons_voided, one.coupons_expired) == (
            len(issued), ended["used"], ended["voided"] + ended["withdrawn"], ended["expired"],
        )  # fmt: skip
        assert one.price == {"mug": 15, "tea": 6, "car": 9999}[one.reward]
    assert {one.reward for one in told.rewards} == {"mug", "tea", "car"}
    assert [one.redemptions.part for one in told.rewards] == sorted(
        (one.redemptions.part for one in told.rewards), reverse=True
    )
    assert (told.redemptions, told.points) == (len(paid), sum(one.points for one in paid))
    life.close()


# ── campaigns ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def spring() -> Life:
    """Sixty members, of whom the half that got the campaign buy more; two others."""
    life = Life()
    buy = life.book.customers.record_purchase
    for number in range(62):
        at = START + timedelta(hours=number)
        customer = life.book.customers.register(name=f"n{number}", effective_at=at)
        life.customers.append(customer)
        if number < 60:
            life.book.loyalty.enrol(customer, effective_at=at)
        treated = cohort(account_id(customer, "main"), "spring") >= 50
        for month in (2, 4, 5, 8):
            net = 1_000 + 130 * number + (4_000 if treated and month in (4, 5) else 0)
            for _ in range(1 + (number + month) % 2):
                lines = [{"sku": "s", "quantity": 2, "net_minor": net}]
                bought = buy(customer, lines, currency="EUR", effective_at=f"2024-{month:02}-15T12:00:00Z")
        if number % 7 == 0 and month == 8:
            life.book.customers.record_return(
                customer, {1: 1}, purchase_id=bought.purchase_id, effective_at="2024-09-01T12:00:00Z"
            )
    # Who closes or joins while it runs, having bought before and after.
    life.book.loyalty.close(life.customers[20], reason="asked", effective_at="2024-05-01T12:00:00Z")
    life.book.loyalty.enrol(life.customers[60], effective_at="2024-04-20T12:00:00Z")
    # Who closed before, or came after it.
    for number in (3, 11):
        life.book.loyalty.close(life.customers[number], reason="asked", effective_at="2024-02-20T12:00:00Z")
    late = life.book.customers.register(name="late", effective_at="2024-07-01T00:00:00Z")
    life.book.loyalty.enrol(late, effective_at="2024-07-01T00:00:00Z")
    life.customers.append(late)
    return life


def by_hand(life: Life, since: date, until: date) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """Treated and control, account by account."""
    plain = Plain([event for _, event in life.book._core.history()])
    groups: tuple[list[dict[str, int]], list[dict[str, int]]] = ([], [])
    day = timedelta(days=1)
    start, end = (
        int(datetime(one.year, one.month, one.day, tzinfo=ZoneInfo(ZONE)).timestamp()) * 1_000_000
        for one in (since, until + day)
    )
    for customer, (account, opened, closed) in plain.accounts.items():
        if opened >= end or closed <= start:
            continue
        mine = [one for one in plain.within(PurchaseRecorded, since, until)
                if one.subject_id == customer and plain.member(customer, one.effective_us)]  # fmt: skip
        ids = {one.event_id for one in mine}
        back = sum(one.net_minor for one in plain.within(ReturnRecorded, since, until) if one.purchase_id in ids)
        earned = [one for one in plain.within(PointsEarned, since, until)
                  if one.subject_id == customer and plain.member(customer, one.effective_us)]  # fmt: skip
        groups[cohort(account, "spring") < 50].append(
            {
                "net": sum(one.net_minor for one in mine) - back,
                "bought": len(mine),
                "points": sum(one.points for one in earned),
                "reached": any("spring" in one.rule_ids for one in earned),
            }
        )
    return groups


@pytest.mark.parametrize(
    ("since", "until"), [(None, None), (date(2024, 3, 1), date(2024, 12, 31)), (date(2024, 8, 1), date(2024, 9, 30))]
)
def test_a_campaign_is_measured_against_those_whom_it_left_out(
    spring: Life, since: date | None, until: date | None
) -> None:
    told = spring.book.loyalty.campaign_effect("spring", since=since, until=until, margin="2/5", point_cost=1)
    first, last = since or date(2024, 3, 1), until or date(2024, 5, 31)
    assert (told.since, told.until, told.control_percent) == (first.isoformat(), last.isoformat(), 50)
    groups = by_hand(spring, first, last)
    for group, plain in zip((told.treated, told.control), groups, strict=True):
        count = len(plain)
        assert count > 20
        assert group.accounts == count
        assert group.reached == share(sum(one["reached"] for one in plain), count)
        assert group.buyers == share(sum(one["bought"] > 0 for one in plain), count)
        assert group.purchases == sum(one["bought"] for one in plain)
        assert group.net_minor == sum(one["net"] for one in plain)
        assert group.points == sum(one["points"] for one in plain)
    assert told.between == 0
    treated, control = ([one["net"] for one in group] for group in groups)
    estimate = statistics.mean(treated) - statistics.mean(control)
    error = sqrt(statistics.variance(treated) / len(treated) + statistics.variance(control) / len(control))
    assert told.net_per_account is not None
    assert abs(told.net_per_account.estimate - estimate) <= 0.51
    assert abs(told.net_per_account.low - (estimate - 1.96 * error)) <= 1
    assert abs(told.net_per_account.high - (estimate + 1.96 * error)) <= 1
    assert told.net_per_account.clear is (abs(estimate) > 1.96 * error)
    assert told.additional_net_minor is not None
    assert abs(told.additional_net_minor - estimate * len(treated)) <= 0.51
    assert told.gain is not None
    assert told.additional_points is not None
    assert told.gain.gain_minor == half_up(told.additional_net_minor * Fraction(2, 5)) - told.additional_points
    if since is None:
        assert told.net_per_account.clear
        assert told.treated.reached.part == told.treated.accounts
    assert told.control.reached.part == (0 if last < date(2024, 12, 1) else told.control.reached.part)


def test_a_campaign_without_a_control_group_tells_no_effect_and_an_unknown_one_is_refused() -> None:
    earning = [{**MAIN["earning"][0], "campaign": "always"}, *MAIN["earning"][1:]]
    life = Life(main={**MAIN, "earning": earning})
    life.step("buy", 0, 30, 100)
    told = life.book.loyalty.campaign_effect("always", margin="0.5")
    assert (told.since, told.until) == ("2024-01-01", "2025-02-04")
    assert (told.control_percent, told.treated.accounts, told.control.accounts) == (0, 1, 0)
    assert (told.net_per_account, told.buyers, told.additional_net_minor, told.gain) == (None, None, None, None)
    assert told.treated.buyers == CountedShare(1, 1, few=True)
    with pytest.raises(tallybook.Refused) as refused:
        life.book.loyalty.campaign_effect("autumn")
    assert refused.value.code == "invalid_argument"
    assert refused.value.values["known"] == ["always", "spring"]
    life.close()


def test_who_is_left_out_by_some_of_a_campaign_s_rules_is_in_neither_group() -> None:
    later = {"id": "more", "kind": "fixed", "points": 5, "campaign": "spring", "control_percent": 20}
    life = Life(main={**MAIN, "earning": [*MAIN["earning"], later]})
    for number in range(30):
        customer = life.book.customers.register(effective_at=START + timedelta(hours=number))
        life.book.loyalty.enrol(customer, effective_at=START + timedelta(hours=number))
        life.customers.append(customer)
    told = life.book.loyalty.campaign_effect("spring")
    drawn = [cohort(account_id(one, "main"), "spring") for one in life.customers]
    assert told.control.accounts == sum(one < 20 for one in drawn)
    assert told.between == sum(20 <= one < 50 for one in drawn)
    assert told.treated.accounts == sum(one >= 50 for one in drawn)
    life.close()


def test_a_campaign_runs_while_its_rule_set_is_in_force() -> None:
    life = Life()
    without = {**MAIN, "version": "2", "earning": [MAIN["earning"][0]]}
    life.book.rules.adopt(rules_of(without), effective_at="2024-04-10T12:00:00Z")
    life.member(0)
    told = life.book.loyalty.campaign_effect("spring")
    assert (told.since, told.until) == ("2024-03-01", "2024-04-10")
    life.close()


# ── who counts ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_restricted_and_objecting_customers_are_left_out_and_counted_but_for_sums_of_the_books(spring: Life) -> None:
    loyalty = spring.book.loyalty
    asks: list[Callable[[], Any]] = [
        lambda: loyalty.programme_figures("2024-04-01", "2024-04-30"),
        lambda: loyalty.campaign_effect("spring"),
    ]
    before = [ask() for ask in asks]
    rewards, balances = loyalty.reward_popularity(), loyalty.balances()
    spring.book.customers.restrict(spring.customers[0], reason="accuracy")
    spring.book.customers.object_to(spring.customers[1], "automated_decisions")
    after = [ask() for ask in asks]
    assert [(one.restricted, one.objecting) for one in before] == [(0, 0), (0, 0)]
    assert [(one.restricted, one.objecting) for one in after] == [(1, 1), (1, 1)]
    assert after[0].members.buyers == before[0].members.buyers - 2
    both = [sum(group.accounts for group in (one.treated, one.control)) for one in (before[1], after[1])]
    assert both[1] == both[0] - 2
    again = loyalty.reward_popularity()
    assert (again.rewards, loyalty.balances()) == (rewards.rewards, balances)
    spring.book.customers.lift_restriction(spring.customers[0], reason="settled")
    spring.book.customers.withdraw_objection(spring.customers[1], "automated_decisions")
    assert [fields_of(ask()) | {"position": 0} for ask in asks] == [fields_of(one) | {"position": 0} for one in before]


def test_an_erasure_changes_no_figure() -> None:
    life = Life().live([("buy", n % 5, 6, 50 + 13 * n) for n in range(40)] + [("tea", n, 2, 1) for n in range(5)])

    def told() -> list[dict[str, Any]]:
        loyalty = life.book.loyalty
        found = [
            loyalty.programme_figures("2024-03-01", "2024-05-31", margin="0.3"),
            loyalty.campaign_effect("spring"),
            loyalty.reward_popularity(),
        ]
        return [fields_of(one) | {"position": 0} for one in found]

    before = told()
    for customer in life.customers[:4]:
        life.book.erasures.erase(customer, reason="gdpr-17", even_so="subject-insists")
    assert told() == before
    life.close()


def test_purchases_without_a_rate_are_told_and_not_counted() -> None:
    life = Life()
    ada = life.member(0)
    for currency in ("EUR", "USD", "JPY", "JPY"):
        lines = [{"sku": "s", "quantity": 1, "net_minor": 1_005}]
        life.book.customers.record_purchase(ada, lines, currency=currency, effective_at="2024-04-10T12:00:00Z")
    told = life.book.loyalty.programme_figures("2024-04-01", "2024-04-30")
    assert (told.unconverted, told.members.purchases, told.members.net_minor) == (2, 2, 1_005 + 904)
    assert life.book.loyalty.programme_figures("2024-05-01", "2024-05-31").unconverted == 0
    life.close()


def test_each_programme_has_figures_of_its_own_and_one_without_rules_none() -> None:
    life = Life().live([("buy", n % 5, 3, 100) for n in range(20)])
    loyalty = life.book.loyalty
    main, club = (loyalty.programme_figures("2024-01-01", "2024-03-31", programme=one) for one in ("main", "club"))
    assert (main.zone, club.zone) == (ZONE, "UTC")
    assert main.points.earned != club.points.earned
    assert main.cost is None
    for ask in (
        lambda: loyalty.programme_figures("2024-01-01", "2024-03-31", programme="none"),
        lambda: loyalty.programme_figures("2023-01-01", "2023-03-31"),  # before any rule set
        lambda: loyalty.campaign_effect("spring", programme="none"),
        lambda: loyalty.reward_popularity(programme="none"),
    ):
        with pytest.raises(tallybook.Refused) as refused:
            ask()
        assert refused.value.code == "no_rule_set"
    assert SIDE["programme"] == "club"
    life.close()


@pytest.mark.parametrize(
    "asked",
    [
        {"since": "2024-13-01"},
        {"since": "2024-02-01T00:00:00Z"},
        {"since": datetime(2024, 2, 1, tzinfo=UTC)},
        {"since": "2024-05-01"},
        {"since": "0001-01-01"},
        {"margin": "a third"},
        {"margin": 0.35},
        {"margin": "1.01"},
        {"margin": True},
        {"margin": "-1/3"},
        {"margin": "1/0"},
        {"margin": "0.3", "point_cost": "-1"},
    ],
)
def test_days_and_rates_that_are_none_are_refused(asked: dict[str, Any]) -> None:
    life = Life()
    with pytest.raises(tallybook.Refused) as refused:
        life.book.loyalty.programme_figures(**{"since": "2024-04-01", "until": "2024-04-30", **asked})
    assert refused.value.code == "invalid_argument"
    assert refused.value.values["argument"] in (*asked, "until")
    life.close()


def test_who_joins_meanwhile_counts_by_the_time_that_matters() -> None:
    zone, day = UTC_ZONE, 86_400_000_000
    before, period = Period.of(0, 9, zone), Period.of(10, 19, zone)
    # b joins on day 15, c leaves on day 12; d was one in neither period.
    members = {
        b"a": Membership(0, 2**62),
        b"b": Membership(15 * day, 2**62),
        b"c": Membership(0, 12 * day),
        b"e": Membership(0, 12 * day),
    }
    bought = {b"a": [5, 17, 11], b"b": [3, 16, 12], b"c": [4, 11, 11, 13], b"d": [9, 19, 20], b"e": [4]}
    sales = [Sale(who, at * day, 100) for who, days in bought.items() for at in days]
    returned = [Sale(b"b", 12 * day, 30), Sale(b"c", 11 * day, 7)]
    ours, others = beside_others(sales, returned, members, period, before, zone)
    assert (ours.buyers, ours.purchases, ours.net_minor, ours.returned_minor) == (3, 5, 493, 7)
    assert (others.buyers, others.purchases, others.net_minor, others.returned_minor) == (3, 3, 270, 30)
    # First purchases: a and c as members, b (day 12) and d as others; all but d on two days.
    assert (ours.repurchase, others.repurchase) == (share(2, 2), share(1, 2))
    # Members at the end of day 9: a, c and e. All but e came again.
    assert (ours.retention, others.retention) == (share(2, 3), share(2, 2))


def test_a_point_costs_what_the_rule_set_says_unless_told() -> None:
    life = Life(main={**MAIN, "point_price": "5/2"})
    for number in range(12):
        customer = life.member(number)
        for day in ("2024-02-10", "2024-04-10"):
            lines = [{"sku": "s", "quantity": 1, "net_minor": 4_000 + number}]
            life.book.customers.record_purchase(customer, lines, currency="EUR", effective_at=f"{day}T12:00:00Z")
        if number % 6 != 5:
            life.book.loyalty.redeem(customer, reward="mug", effective_at="2024-04-11T12:00:00Z")
    loyalty = life.book.loyalty
    figures = loyalty.programme_figures("2024-04-01", "2024-04-30", margin=1)
    assert figures.cost is not None
    assert (figures.cost.point_cost, figures.cost.redeemed_minor) == ("5/2", 375)
    effect = loyalty.campaign_effect("spring", margin=1)
    assert effect.gain is not None
    assert effect.additional_points == 40 * effect.treated.accounts
    assert (effect.gain.point_cost, effect.gain.points_minor) == ("5/2", 100 * effect.treated.accounts)
    life.close()


# ── arithmetic ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_period_before_is_as_many_days_or_as_many_whole_months() -> None:
    def before(since: date, until: date) -> tuple[date, date]:
        epoch = date(1970, 1, 1)
        found = Period.of((since - epoch).days, (until - epoch).days, UTC_ZONE).before(UTC_ZONE)
        return epoch + timedelta(days=found.first), epoch + timedelta(days=found.last)

    assert before(date(2024, 3, 1), date(2024, 3, 31)) == (date(2024, 2, 1), date(2024, 2, 29))
    assert before(date(2024, 1, 1), date(2024, 12, 31)) == (date(2023, 1, 1), date(2023, 12, 31))
    assert before(date(2024, 2, 1), date(2024, 3, 31)) == (date(2023, 12, 1), date(2024, 1, 31))
    assert before(date(2024, 3, 1), date(2024, 3, 30)) == (date(2024, 1, 31), date(2024, 2, 29))
    assert before(date(2024, 3, 4), date(2024, 3, 10)) == (date(2024, 2, 26), date(2024, 3, 3))


@given(
    treated=st.lists(st.integers(-(10**9), 10**9), min_size=2, max_size=40),
    control=st.lists(st.integers(-(10**9), 10**9), min_size=2, max_size=40),
)
def test_a_difference_has_welch_s_standard_error(treated: list[int], control: list[int]) -> None:
    found = difference(treated, control)
    assert found is not None
    estimate = Fraction(sum(treated), len(treated)) - Fraction(sum(control), len(control))
    error = sqrt(statistics.variance(treated) / len(treated) + statistics.variance(control) / len(control))
    assert found.estimate == half_up(estimate)
    assert found.low - 1e-3 <= estimate - Fraction(1.96 * error) <= found.low + 1.001
    assert found.high - 1.001 <= estimate + Fraction(1.96 * error) <= found.high + 1e-3
    assert additional(treated, control) == half_up(estimate * len(treated))


def test_groups_of_one_or_none_have_no_difference() -> None:
    assert difference([1], [1, 2]) is None
    assert difference([1, 2], []) is None
    assert additional([], [1]) is None
    assert additional([7], [1]) == 6
    assert difference([5, 5], [5, 5, 5]) is not None


def test_halves_go_up_and_gains_may_be_losses() -> None:
    assert [nearest(Fraction(one, 2)) for one in (-3, -1, 1, 3)] == [-1, 0, 1, 2]
    lost = gain(1_000, 900, Fraction(1, 3), Fraction(1))
    assert (lost.margin, lost.point_cost, lost.margin_minor, lost.points_minor, lost.gain_minor) == (
        "1/3", "1", 333, 900, -567,
    )  # fmt: skip
