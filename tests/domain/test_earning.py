"""What a rule set gives for a fact: conditions, amounts, factors, groups, caps, lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallybook.domain import arithmetic
from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import DAY_US, UTC_ZONE, days_from_civil
from tallybook.domain.customer import Line, PurchaseRecorded, Traits
from tallybook.domain.earning import Measured, NewPoints, Rules, Share, cohort
from tallybook.domain.events import Metadata
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import NOBODY, LoyaltyAccount, measured_purchase
from tallybook.domain.rules import ALL_RULES, ROUNDINGS, Caps, RuleSet, parse_rule_set

Document = dict[str, Any]
Counts = Mapping[tuple[str, str, int], int]

ACCOUNT = UUID(int=5)
BASE = {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100}
BONUS = {"id": "bonus", "kind": "fixed", "points": 7}
LEVELS = [
    {"name": "basic", "threshold": 0},
    {"name": "gold", "threshold": 100, "multiplier": "3/2"},
    {"name": "tin", "threshold": 200, "multiplier": "1/2"},
]
NOON = days_from_civil(2024, 6, 15) * DAY_US + DAY_US // 2
"""A Saturday."""


def rules(*earning: Document, **changes: Any) -> Rules:
    tiers = {"window_months": 12, "levels": LEVELS, **changes.pop("tiers", {})}
    document = {"name": "test", "version": "1", "currency": "USD", "expiry": {"months": 12}, "tiers": tiers}
    return Rules(parse_rule_set({**document, "earning": list(earning), **changes}, "test"), UTC_ZONE)


def bought(
    ready: Rules, *lines: Line | int, at_us: int = NOON, currency: str = "USD", store: str | None = None,
    traits: Traits = NOBODY,
) -> Measured | None:  # fmt: skip
    """A purchase as the rules see it, in the tier basic."""
    account = LoyaltyAccount(ACCOUNT)
    stamp = Stamp(Metadata(recorded_us=0, actor="a", purpose="p"), at_us, lambda: UUID(int=9))
    fact = PurchaseRecorded(
        originator_id=ACCOUNT, originator_version=1, event_id=stamp.new_id(), effective_us=at_us,
        metadata=stamp.metadata, subject_id=ACCOUNT, currency=currency, store=store, order_id=None, source_ref=None,
        lines=tuple(one if isinstance(one, Line) else Line(sku="sku", quantity=1, net_minor=one) for one in lines),
    )  # fmt: skip
    return measured_purchase(account, fact, ready, traits)


def shares(
    ready: Rules, *lines: Line | int, tier: str = "basic", used: Counts | None = None, **order: Any
) -> list[Share]:
    measured = bought(ready, *lines, **order)
    return [] if measured is None else ready.shares(measured, tier, ACCOUNT, reader(used))


def lots(
    ready: Rules, *lines: Line | int, tier: str = "basic", used: Counts | None = None, **order: Any
) -> list[NewPoints]:
    measured = bought(ready, *lines, **order)
    return [] if measured is None else ready.earn(measured, tier, ACCOUNT, reader(used))


def reader(used: Counts | None) -> Any:
    found = {} if used is None else used
    return lambda counter, period, number: found.get((counter, period, number), 0)


def points(ready: Rules, *lines: Line | int, **order: Any) -> int:
    return sum(share.points for share in shares(ready, *lines, **order))


def named(ready: Rules, *lines: Line | int, **order: Any) -> list[str]:
    return [share.rule.id for share in shares(ready, *lines, **order) if share.points]


# ── amounts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_points_are_for_the_sum_of_the_lines_and_not_for_each_of_them() -> None:
    (share,) = shares(rules(BASE), 150, 150)
    assert (share.points, share.measured, share.weights) == (3, 300, (150, 150))


def test_rules_add_up_and_each_is_rounded_by_itself() -> None:
    ready = rules(BASE, {**BASE, "id": "other", "per_minor": 300}, rounding="half_up")
    assert [share.points for share in shares(ready, 150)] == [2, 1]


def test_lines_are_picked_by_a_condition_that_may_read_the_order() -> None:
    ready = rules({**BASE, "lines": 'line.category == "books" && order.store == "rome"'})
    lines = [Line(sku="a", quantity=1, net_minor=500, category="books"), Line(sku="b", quantity=1, net_minor=900)]
    assert points(ready, *lines, store="rome") == 5
    assert points(ready, *lines, store="oslo") == 0


def test_nothing_of_an_excluded_line_counts_in_any_rule() -> None:
    ready = rules(
        BASE,
        {**BASE, "id": "pieces", "per_minor": None, "per_quantity": 1, "points": 10},
        BONUS,
        {**BASE, "id": "big", "when": "order.amount_minor >= 600"},
        amount={"exclude": 'line.category in ["gift_card", "tobacco"]'},
    )
    card = Line(sku="card", quantity=3, net_minor=5000, category="gift_card")
    tea = Line(sku="tea", quantity=2, net_minor=500)
    found = {share.rule.id: (share.points, share.weights) for share in shares(ready, card, tea)}
    assert found == {"base": (5, (0, 500)), "pieces": (20, (0, 2)), "bonus": (7, (0, 500))}
    assert shares(ready, card) == []


@pytest.mark.parametrize(
    ("include", "wanted"),
    [(["net"], 10), (["net", "tax"], 12), (["tax"], 2), (["shipping"], 5), (["net", "tax", "shipping"], 17)],
)
def test_tax_and_shipping_count_where_they_are_included(include: list[str], wanted: int) -> None:
    line = Line(sku="a", quantity=1, net_minor=1000, tax_minor=200, shipping_minor=500, discount_minor=300)
    assert points(rules(BASE, amount={"include": include}), line) == wanted


def test_whole_multiples_alone_count_where_a_rule_says_so() -> None:
    whole = {**BASE, "points": 3, "per_minor": 1000, "whole": True}
    assert [points(rules(whole), net) for net in (999, 1000, 1999, 2000)] == [0, 3, 3, 6]
    assert [points(rules({**whole, "whole": False}), net) for net in (999, 1000, 1999, 2000)] == [2, 3, 5, 6]
    double = {"id": "double", "kind": "multiplier", "factor": "3/2"}
    assert points(rules(whole, double), 1999) == 4


def test_pieces_are_counted_by_quantity() -> None:
    ready = rules({"id": "pieces", "kind": "per_amount", "points": 5, "per_quantity": 3, "whole": True})
    assert points(ready, Line(sku="a", quantity=4, net_minor=0), Line(sku="b", quantity=3, net_minor=9)) == 10


def test_other_currencies_count_by_their_named_rate_and_those_without_one_earn_nothing() -> None:
    rates = [{"code": "EUR", "rate": "11/10", "name": "bank"}, {"code": "JPY", "rate": "2/3", "name": "bank"}]
    ready = rules(BASE, currencies=rates)
    assert [points(ready, 1000, currency=code) for code in ("USD", "EUR", "JPY", "CHF")] == [10, 11, 6, 0]
    assert bought(ready, 1000, currency="CHF") is None
    # A return names what the line cost in the order's own currency.
    (lot,) = lots(ready, 1000, currency="EUR")
    assert (lot.basis_unit, lot.lines[0].basis, lot.points) == ("minor", 1000, 11)
    seen = rules({**BASE, "when": "order.net_minor >= 1100"}, currencies=rates)
    assert [points(seen, 1000, currency=code) for code in ("USD", "EUR")] == [0, 11]


@settings(deadline=None, max_examples=60)
@given(
    nets=st.lists(st.integers(0, 10**9), min_size=1, max_size=4),
    given_=st.integers(1, 1000),
    per=st.integers(1, 10**6),
    factor=st.fractions(0, 10, max_denominator=20),
    rounding=st.sampled_from(sorted(ROUNDINGS)),
)
def test_the_arithmetic_is_exact(nets: list[int], given_: int, per: int, factor: Fraction, rounding: str) -> None:
    rule = {**BASE, "points": given_, "per_minor": per * 1000}
    more = {"id": "more", "kind": "multiplier", "factor": f"{factor.numerator}/{factor.denominator}"}
    for tier, level in (("basic", Fraction(1)), ("gold", Fraction(3, 2)), ("tin", Fraction(1, 2))):
        exact = Fraction(given_ * sum(nets), per * 1000) * factor * level
        found = points(rules(rule, more, rounding=rounding), *nets, tier=tier)
        assert found == arithmetic.quotient(exact.numerator, exact.denominator, ROUNDINGS[rounding])


# ── factors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def times(factor: object, **changes: Any) -> Document:
    return {"id": f"times-{factor}", "kind": "multiplier", "factor": factor, **changes}


def test_of_several_multipliers_the_greatest_alone_counts_whatever_their_order() -> None:
    factors = [times("3/2"), times(3), times(2)]
    for earning in ([BASE, *factors], [*reversed(factors), BASE]):
        (share,) = shares(rules(*earning), 1000)
        assert (share.points, share.factor, share.multiplier) == (30, Fraction(3), "times-3")


def test_a_multiplier_below_one_counts_where_no_greater_one_applies() -> None:
    assert points(rules(BASE, times("1/2")), 1000) == 5
    assert points(rules(BASE, times("1/2"), times("3/4")), 1000) == 7
    assert points(rules(BASE, times(0)), 1000) == 0


def test_a_multiplier_that_does_not_apply_does_not_count() -> None:
    big = times(9, when="order.net_minor > 1000")
    assert [points(rules(BASE, big), net) for net in (1000, 1100)] == [10, 99]


def test_the_factor_of_a_level_comes_on_top_and_rounding_is_last() -> None:
    ready = rules(BASE, times("3/2"))
    (share,) = shares(ready, 199, tier="gold")
    assert (share.points, share.factor) == (4, Fraction(9, 4))
    assert points(ready, 199) == 2
    assert points(ready, 199, tier="tin") == 1
    assert points(ready, 199, tier="unknown") == 2


def test_a_rule_that_is_not_multiplied_is_what_it_is() -> None:
    ready = rules({**BASE, "multiplied": False}, times(3))
    (share,) = shares(ready, 1000, tier="gold")
    assert (share.points, share.factor, share.multiplier) == (10, Fraction(1), None)


def test_the_rules_that_a_lot_names_are_those_that_gave_and_what_multiplied_them() -> None:
    ready = rules(BASE, {**BONUS, "when": "order.net_minor > 5000"}, times(2))
    assert lots(ready, 1000)[0].rule_ids == ("base", "times-2")
    assert lots(rules(BASE, times(0)), 1000)[0].rule_ids == ()


# ── when ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_campaign_lasts_from_its_first_day_to_the_end_of_its_last() -> None:
    ready = rules(BASE, {**BONUS, "starts": "2024-06-10", "ends": "2024-06-20"})
    first, last = days_from_civil(2024, 6, 10) * DAY_US, days_from_civil(2024, 6, 21) * DAY_US
    given_at = [(at_us, named(ready, 1000, at_us=at_us)) for at_us in (first - 1, first, last - 1, last)]
    assert ["bonus" in found for _, found in given_at] == [False, True, True, False]


def test_conditions_read_the_day_the_customer_and_the_account() -> None:
    def gives(when: str, **order: Any) -> bool:
        return "bonus" in named(rules(BASE, {**BONUS, "when": when}), 1000, **order)

    assert gives("fact.year == 2024 && fact.month == 6 && fact.day == 15 && fact.weekday == 6")
    assert gives('account.tier == "basic"') is False  # the account of these tests has none yet
    june = Traits(kind="internal", country="IT", source="fair", birth_month=6)
    assert gives("customer.birth_month == fact.month", traits=june)
    assert not gives("customer.birth_month == fact.month")
    assert gives('customer.kind == "internal" && customer.country == "IT" && customer.source == "fair"', traits=june)
    assert not gives('customer.kind == "internal"')
    seen = bought(rules(BASE, {**BONUS, "when": "customer.birth_month == fact.month"}), 1000, traits=june)
    assert seen is not None
    assert seen.inputs == ("customer.birth_month=6",)
    unread = bought(rules(BASE), 1000, traits=june)
    assert unread is not None
    assert unread.inputs == ()


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 99])
def test_a_control_group_has_its_share_of_accounts_and_is_drawn_by_ids_alone(percent: int) -> None:
    accounts = [uuid5(UUID(int=0), str(number)) for number in range(4000)]
    ready = rules(BASE, {**BONUS, "campaign": "spring", "control_percent": percent})
    measured = bought(ready, 1000)
    assert measured is not None
    without = [one for one in accounts if len(ready.shares(measured, None, one, reader(None))) == 1]
    assert abs(len(without) - 4000 * percent / 100) < 5 * (4000 * percent / 100 * (1 - percent / 100)) ** 0.5 + 1
    assert without == [one for one in accounts if cohort(one, "spring") < percent]


def test_two_campaigns_draw_other_control_groups() -> None:
    accounts = [uuid5(UUID(int=0), str(number)) for number in range(4000)]
    both = [one for one in accounts if cohort(one, "spring") < 50 and cohort(one, "autumn") < 50]
    assert 700 < len(both) < 1300
    assert {cohort(one, "spring") for one in accounts} == set(range(100))


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = {"id": "small", "kind": "fixed", "points": 3, "group": "offers"}
GREAT = {"id": "great", "kind": "fixed", "points": 9, "group": "offers"}
EQUAL = {"id": "equal", "kind": "fixed", "points": 9, "group": "offers"}


@pytest.mark.parametrize(
    ("how", "earning", "wanted"),
    [
        ("best", [SMALL, GREAT, EQUAL], ["great"]),
        ("best", [EQUAL, SMALL, GREAT], ["equal"]),
        ("first", [SMALL, GREAT], ["small"]),
        ("first", [{**SMALL, "when": "order.net_minor > 5000"}, EQUAL, GREAT], ["equal"]),
    ],
)
def test_of_a_group_the_best_or_the_first_counts(how: str, earning: list[Document], wanted: list[str]) -> None:
    assert named(rules(*earning, groups={"offers": how}), 1000) == wanted
    assert named(rules(BASE, *earning, groups={"offers": how}), 1000) == ["base", *wanted]


def test_the_best_is_what_gives_most_before_caps() -> None:
    capped = {**GREAT, "caps": {"event": 1}}
    assert [(one.rule.id, one.points) for one in shares(rules(SMALL, capped, groups={"offers": "best"}), 1)] == [
        ("great", 1)
    ]


# ── caps ──────────────────────────────────────────────────────────────────────────────────────────────────────────

AMOUNT = st.none() | st.integers(0, 60)
CAPS = st.fixed_dictionaries({"event": AMOUNT, "day": AMOUNT, "month": AMOUNT, "year": AMOUNT})


@settings(deadline=None, max_examples=80)
@given(
    caps=st.lists(CAPS, min_size=3, max_size=3),
    orders=st.lists(st.tuples(st.integers(0, 800), st.integers(0, 4000)), min_size=1, max_size=12),
    gives=st.sampled_from(["both", "points", "qualifying"]),
)
def test_no_cap_is_ever_exceeded(caps: list[Document], orders: list[tuple[int, int]], gives: str) -> None:
    ready = rules(
        {**BASE, "caps": caps[0], "gives": gives}, {**BONUS, "caps": caps[1]}, times(2, when="fact.day <= 10"),
        caps=caps[2],
    )  # fmt: skip
    of = {"base": Caps(**caps[0]), "bonus": Caps(**caps[1]), ALL_RULES: Caps(**caps[2])}
    used: Counter[tuple[str, str, int]] = Counter()
    spent: Counter[tuple[str, str, int]] = Counter()
    for day, net in sorted(orders):
        at_us = NOON + day * DAY_US
        found = shares(ready, net, at_us=at_us, used=used)
        event: Counter[str] = Counter()
        for share in found:
            amount = max(share.points, share.qualifying)
            assert amount <= share.uncapped
            for counter in (share.rule.id, ALL_RULES):
                event[counter] += amount
                for period in ("day", "month", "year"):
                    spent[counter, period, UTC_ZONE.period(at_us, period)] += amount
        for counter, total in event.items():
            cap = of[counter].event
            assert cap is None or total <= cap
        for lot in lots(ready, net, at_us=at_us, used=used):
            for use in lot.uses:
                used[use.counter, use.period, use.number] += use.amount
    for (counter, period, number), total in spent.items():
        cap = getattr(of[counter], period)
        if cap is not None:
            assert total <= cap
            assert used[counter, period, number] == total


def test_a_cap_takes_no_more_than_it_must() -> None:
    ready = rules({**BASE, "caps": {"event": 8, "day": 20}}, {**BONUS, "caps": {"year": 10}}, caps={"month": 25})
    june = UTC_ZONE.period(NOON, "month")
    assert [one.points for one in shares(ready, 1000)] == [8, 7]
    assert [one.points for one in shares(ready, 1000, used={("base", "day", UTC_ZONE.period(NOON, "day")): 15})] == [
        5,
        7,
    ]
    assert [one.points for one in shares(ready, 1000, used={("bonus", "year", 2024): 9})] == [8, 1]
    # What the programme leaves goes to the rules in their order.
    assert [one.points for one in shares(ready, 1000, used={(ALL_RULES, "month", june): 15})] == [8, 2]
    assert [one.points for one in shares(ready, 1000, used={(ALL_RULES, "month", june): 99})] == [0, 0]
    (lot,) = lots(ready, 1000, used={(ALL_RULES, "month", june): 15})
    assert (lot.points, lot.capped) == (10, 7)


# ── points and qualifying points ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("gives", "qualify", "wanted"),
    [
        ("both", "points", (30, 30)),
        ("points", "points", (30, 0)),
        ("qualifying", "points", (0, 30)),
        ("both", "base", (30, 10)),
        ("points", "base", (30, 0)),
        ("qualifying", "base", (0, 10)),
    ],
)
def test_a_rule_gives_points_to_spend_qualifying_points_or_both(
    gives: str, qualify: str, wanted: tuple[int, int]
) -> None:
    ready = rules({**BASE, "gives": gives}, times(2), tiers={"qualify": qualify})
    (lot,) = lots(ready, 1000, tier="gold")
    assert (lot.points, lot.qualifying) == wanted


# ── lots ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_points_of_one_age_are_one_lot_and_others_lots_of_their_own() -> None:
    ready = rules(
        BASE,
        BONUS,
        {**BASE, "id": "short", "expiry": {"days": 10}},
        {**BASE, "id": "late", "pending": {"days": 5}},
        {**BASE, "id": "from-then", "pending": {"days": 5}, "expiry": {"days": 10, "from": "activated"}},
        {**BASE, "id": "confirmed", "pending": {"confirmed": True}, "expiry": {"days": 10, "from": "activated"}},
        {**BASE, "id": "for-ever", "expiry": {"never": True}},
    )
    year = days_from_civil(2025, 6, 15) * DAY_US + DAY_US // 2
    assert [(lot.rule_ids, lot.activates_us, lot.expires_us) for lot in lots(ready, 1000)] == [
        (("base", "bonus"), NOON, year),
        (("short",), NOON, NOON + 10 * DAY_US),
        (("late",), NOON + 5 * DAY_US, year),
        (("from-then",), NOON + 5 * DAY_US, NOON + 15 * DAY_US),
        (("confirmed",), NEVER, NEVER),
        (("for-ever",), NOON, NEVER),
    ]


def test_points_whose_expiry_is_known_once_they_are_active_are_lots_by_their_rules_expiry() -> None:
    waits = {"pending": {"confirmed": True}}
    ready = rules(
        {**BASE, **waits, "expiry": {"days": 10, "from": "activated"}},
        {**BASE, **waits, "id": "longer", "expiry": {"days": 20, "from": "activated"}},
        {**BASE, **waits, "id": "for-ever", "expiry": {"never": True}},
        {**BASE, **waits, "id": "same", "expiry": {"days": 10, "from": "activated"}},
    )
    found = lots(ready, 1000)
    assert [lot.rule_ids for lot in found] == [("base", "same"), ("longer",), ("for-ever",)]
    assert {(lot.activates_us, lot.expires_us) for lot in found} == {(NEVER, NEVER)}


@settings(deadline=None, max_examples=80)
@given(
    lines=st.lists(
        st.builds(
            lambda sku, quantity, net: Line(sku=sku, quantity=quantity, net_minor=net, category=sku),
            st.sampled_from(["a", "b", "card"]), st.integers(1, 5), st.integers(0, 5000),
        ),
        min_size=1, max_size=6,
    ),
    cap=AMOUNT,
)  # fmt: skip
def test_what_lines_earn_adds_up_to_the_lot(lines: Sequence[Line], cap: int | None) -> None:
    ready = rules(
        {**BASE, "lines": 'line.category == "a"', "caps": {"event": cap}},
        {**BASE, "id": "pieces", "per_minor": None, "per_quantity": 2, "gives": "points"},
        {**BONUS, "gives": "qualifying"},
        times("7/3"),
        amount={"exclude": 'line.category == "card"'},
    )
    found = lots(ready, *lines, tier="gold")
    for lot in found:
        assert sum(line.points for line in lot.lines) == lot.points
        assert sum(line.qualifying for line in lot.lines) == lot.qualifying
        assert len(lot.lines) == len(lines)
        for line, share in zip(lines, lot.lines, strict=True):
            if line.category == "card":
                assert share == share.__class__(basis=0, points=0, qualifying=0)
            if share.points or share.qualifying:
                assert share.basis == (line.net_minor if lot.basis_unit == "minor" else line.quantity)
    assert bool(found) == any(line.category != "card" for line in lines)


def test_a_fact_without_lines_comes_back_whole() -> None:
    ready = rules(
        BASE, {"id": "flight", "kind": "per_amount", "on": "activity", "points": 3, "per_quantity": 2},
        {"id": "survey", "kind": "fixed", "on": "activity", "points": 10, "gives": "qualifying"},
        {"id": "joined", "kind": "fixed", "on": "enrolment", "points": 5},
    )  # fmt: skip
    (lot,) = ready.earn(Measured("activity", NOON, (), quantity=7), "gold", ACCOUNT, reader(None))
    assert (lot.points, lot.qualifying, lot.basis_unit) == (15, 30, "pieces")
    assert [(line.basis, line.points, line.qualifying) for line in lot.lines] == [(1, 15, 30)]
    (joined,) = ready.earn(Measured("enrolment", NOON, ()), None, ACCOUNT, reader(None))
    assert joined.rule_ids == ("joined",)
    assert ready.earn(Measured("referral", NOON, ()), None, ACCOUNT, reader(None)) == []


def test_free_goods_earn_by_the_piece_and_so_come_back() -> None:
    (lot,) = lots(rules(BONUS), Line(sku="gift", quantity=2, net_minor=0))
    assert (lot.points, lot.basis_unit, lot.lines[0].basis) == (7, "pieces", 2)


def test_rules_are_made_of_a_rule_set_that_was_read() -> None:
    ready = rules(BASE)
    assert isinstance(ready.rule_set, RuleSet)
    assert ready.label == "test@1"
    assert ready.expiry_of("base") == ready.expiry_of("gone") == ready.rule_set.expiry
