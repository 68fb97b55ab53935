"""Rule sets: what the document may say, how problems are named, and what the rules give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import UTC_ZONE
from tallybook.domain.control import Control, RuleBook
from tallybook.domain.earning import Rules, compiled
from tallybook.domain.errors import Refused, RuleSetError
from tallybook.domain.events import Metadata
from tallybook.domain.rules import (
    OPERATORS,
    ORDER_MINOR_MAX,
    ORDER_POINTS_MAX,
    Predicate,
    Rounding,
    RuleSet,
    parse_rule_set,
    rounded,
)

if TYPE_CHECKING:
    from tests.domain.conftest import World

RulesWith = Callable[..., RuleSet]
Document = dict[str, Any]

BASE = {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100}
DOCUMENT: Document = {
    "name": "standard",
    "version": "1",
    "currency": "USD",
    "earning": [BASE],
    "expiry": {"months": 12},
    "tiers": {"window_months": 12, "levels": [{"name": "basic", "threshold": 0}, {"name": "gold", "threshold": 100}]},
}


def problems(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(RuleSetError) as error:
        parse_rule_set({**DOCUMENT, **changes}, "shop.toml")
    assert str(error.value).startswith("shop.toml: ")
    return error.value.problems


def parsed(**changes: Any) -> RuleSet:
    return parse_rule_set({**DOCUMENT, **changes}, "shop.toml")


def earning(*rules: Mapping[str, Any], **order: Any) -> tuple[int, list[int], list[str]]:
    """What rules give for an order of lines given as `lines=[{...}]` with `net_minor` each."""
    lines: list[dict[str, Any]] = order.pop("lines", [{"net_minor": 1000}])
    rounding = order.pop("rounding", "floor")
    fields = {f"order.{name}": value for name, value in order.items()}
    fields.setdefault("order.net_minor", sum(line["net_minor"] for line in lines))
    fields.setdefault("account.tier", "basic")
    ready = Rules(parsed(earning=list(rules), rounding=rounding), UTC_ZONE)
    readers = [{f"line.{name}": value for name, value in line.items()}.__getitem__ for line in lines]
    return ready.earn(fields.__getitem__, readers, [line["net_minor"] for line in lines])


# ── validation ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"colour": "red"}, "colour: "),
        ({"earning": [{**BASE, "pionts": 2}]}, "earning.0.pionts: "),
        ({"earning": [BASE, {**BASE, "id": "more", "points": 0}]}, "earning.1.points: "),
        ({"earning": [{**BASE, "per_minor": 0}]}, "earning.0.per_minor: "),
        ({"earning": [{**BASE, "kind": "magic"}]}, "earning.0: "),
        ({"earning": []}, "earning: "),
        ({"currency": "usd"}, "currency: "),
        ({"rounding": "nearest"}, "rounding: "),
        ({"expiry": {"months": 1201}}, "expiry.months: "),
        ({"expiry": {"days": 0}}, "expiry.days: "),
        ({"expiry": {}}, "expiry: give exactly one"),
        ({"expiry": {"months": 1, "days": 1}}, "expiry: give exactly one"),
        ({"expiry": {"months": 1, "never": True}}, "expiry: give exactly one"),
        ({"expiry": {"months": 0}}, "expiry: months = 0 needs"),
        ({"refunds": {"earning": "keep"}}, "refunds.policy: "),
        ({"tiers": {"window_months": 0, "levels": [{"name": "a", "threshold": 0}]}}, "tiers.window_months: "),
        ({"tiers": {"window_months": 12, "levels": []}}, "tiers.levels: "),
        ({"tiers": {"window_months": 12, "levels": [{"name": "a", "threshold": 1}]}}, "tiers: the first level"),
        ({"name": "two words"}, "name: "),
        ({"version": ""}, "version: "),
        ({"earning": [BASE, BASE]}, "two earning rules have the same id"),
        ({"earning": [{"id": "x", "kind": "multiplier", "factor": 2}]}, "no rule gives points"),
    ],
)
def test_a_problem_names_its_path(changes: Document, path: str) -> None:
    found = problems(**changes)
    assert any(path in problem for problem in found), found


def test_all_problems_are_told_at_once() -> None:
    assert len(problems(currency="x", rounding="y", colour="red")) == 3


@pytest.mark.parametrize("missing", ["name", "version", "currency", "earning", "expiry", "tiers"])
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(RuleSetError) as error:
        parse_rule_set({key: value for key, value in DOCUMENT.items() if key != missing}, "shop.toml")
    assert error.value.problems == (f"{missing}: Field required",)


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_what_is_no_document_is_refused(document: object) -> None:
    with pytest.raises(RuleSetError):
        parse_rule_set(document, "shop.toml")


@pytest.mark.parametrize("factor", [1.5, True, "half", "1/0", "-1", 1001, "1/10001", None])
def test_a_factor_is_exact(factor: object) -> None:
    found = problems(earning=[BASE, {"id": "more", "kind": "multiplier", "factor": factor}])
    assert any(problem.startswith("earning.1.factor: ") for problem in found), found


@pytest.mark.parametrize(
    "condition",
    [
        {"field": "order.weather", "op": "==", "value": 1},
        {"field": "order.net_minor", "op": "~", "value": 1},
        {"field": "order.net_minor", "op": "==", "value": "1"},
        {"field": "order.net_minor", "op": "==", "value": 1.5},
        {"field": "order.net_minor", "op": "==", "value": True},
        {"field": "order.net_minor", "op": "in", "value": 1},
        {"field": "order.net_minor", "op": "==", "value": [1]},
        {"field": "order.net_minor", "op": "in", "value": ["a"]},
        {"field": "order.net_minor", "op": "in", "value": [1, "a"]},
        {"field": "order.net_minor", "op": "=="},
        {"field": "order.net_minor", "value": 1},
        {"field": "order.store", "op": ">=", "value": "a"},
        {"field": "order.store", "op": "==", "value": 1},
        {"field": "order.store", "op": "==", "value": "a", "all": []},
        {"op": "==", "value": 1},
        {"all": [{"field": "order.store", "op": "==", "value": "a"}], "op": "=="},
        {"all": [{"field": "order.store", "op": "==", "value": "a"}], "any": []},
        {"not": {"field": "order.weather", "op": "==", "value": 1}},
        {"any": [{"all": [{"field": "order.store", "op": "<", "value": "a"}]}]},
        {},
    ],
)
def test_a_condition_that_is_not_typed_right_is_refused_by_its_path(condition: Document) -> None:
    found = problems(earning=[{**BASE, "when": condition}])
    assert all(problem.startswith("earning.0.when") for problem in found), found


def test_a_condition_deep_inside_is_named_by_its_whole_path() -> None:
    inner = {"field": "order.weather", "op": "==", "value": 1}
    (problem,) = problems(earning=[BASE, {**BASE, "id": "b", "when": {"all": [{"not": {"any": [inner]}}]}}])
    assert problem.startswith("earning.1.when.all.0.not.any.0: unknown field 'order.weather'; known: ")


def test_the_condition_of_an_order_does_not_read_lines() -> None:
    when = {"not": {"field": "line.sku", "op": "==", "value": "a"}}
    (problem,) = problems(earning=[{**BASE, "when": when}])
    assert "earning rule base" in problem
    assert "use `lines`" in problem


@pytest.mark.parametrize("name", ["order.net_minor", "account.tier"])
def test_the_condition_that_picks_lines_reads_only_lines(name: str) -> None:
    value: object = 5 if name == "order.net_minor" else "gold"
    deep = {
        "all": [{"field": "line.sku", "op": "==", "value": "a"}, {"not": {"field": name, "op": "==", "value": value}}]
    }
    for condition in (deep, {"field": name, "op": "==", "value": value}):
        (problem,) = problems(earning=[{**BASE, "lines": condition}])
        assert "earning rule base" in problem
        assert f"it can't read {name}" in problem


def test_a_tier_that_no_level_has_is_refused() -> None:
    (problem,) = problems(earning=[{**BASE, "when": {"field": "account.tier", "op": "in", "value": ["gold", "tin"]}}])
    assert "no tier is called 'tin'" in problem


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"earning": [{**BASE, "points": "1"}]}, "earning.0.points: "),
        ({"earning": [{**BASE, "points": 1.0}]}, "earning.0.points: "),
        ({"earning": [{**BASE, "points": True}]}, "earning.0.points: "),
        ({"earning": [{**BASE, "per_minor": "100"}]}, "earning.0.per_minor: "),
        ({"earning": [{"id": "visit", "kind": "fixed", "points": 5.0}]}, "earning.0.points: "),
        ({"earning": [{**BASE, "id": 1}]}, "earning.0.id: "),
        ({"expiry": {"never": "yes"}}, "expiry.never: "),
        ({"expiry": {"never": 1}}, "expiry.never: "),
        ({"expiry": {"months": True}}, "expiry.months: "),
        ({"expiry": {"days": "30"}}, "expiry.days: "),
        ({"version": 1}, "version: "),
        ({"zone": 1}, "zone: "),
        ({"tiers": {"window_months": 12.0, "levels": [{"name": "a", "threshold": 0}]}}, "tiers.window_months: "),
        ({"tiers": {"window_months": 12, "levels": [{"name": "a", "threshold": "0"}]}}, "tiers.levels.0.threshold: "),
        ({"earning": [{**BASE, "when": {"field": "order.lines", "op": "in", "value": [1.0]}}]}, "earning.0.when"),
        ({"earning": [{**BASE, "when": {"field": "order.lines", "op": "==", "value": 1.0}}]}, "earning.0.when"),
    ],
)
def test_nothing_in_a_document_is_coerced(changes: Document, path: str) -> None:
    found = problems(**changes)
    assert all(problem.startswith(path) for problem in found), found


@pytest.mark.parametrize("when", [{"all": []}, {"any": []}, {"field": "order.lines", "op": "in", "value": []}])
def test_an_empty_condition_is_a_mistake(when: Document) -> None:
    found = problems(earning=[{**BASE, "when": when}])
    assert all(problem.startswith("earning.0.when") for problem in found), found
    found = problems(earning=[{**BASE, "when": {"not": when}}])
    assert all(problem.startswith("earning.0.when.not") for problem in found), found


@pytest.mark.parametrize(
    ("earning", "most"),
    [
        ([{**BASE, "points": 1000, "per_minor": 1}], 10**15),
        ([{**BASE, "points": 500, "per_minor": 1}, {"id": "x", "kind": "multiplier", "factor": 2}], 10**15),
        ([{**BASE, "points": 999, "per_minor": 1}, {**BASE, "id": "b", "points": 1, "per_minor": 1}], 10**15),
        # A factor below 1 is not counted on: it need not apply.
        ([{**BASE, "points": 1000, "per_minor": 1}, {"id": "x", "kind": "multiplier", "factor": "1/2"}], 10**15),
    ],
)
def test_a_rule_set_gives_no_more_for_one_order_than_can_be_counted(earning: list[Document], most: int) -> None:
    assert most == ORDER_POINTS_MAX
    parsed(earning=earning)
    (problem,) = problems(earning=[*earning, {"id": "one_more", "kind": "fixed", "points": 1}])
    assert f"at most {most}" in problem
    assert str(most + 1) in problem or str(most + 2) in problem


# ── tiers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("names", "thresholds", "told"),
    [
        (["a", "b", "c"], [0, 200, 100], "rising thresholds"),
        (["a", "b", "c"], [0, 100, 100], "rising thresholds"),
        (["a", "b", "a"], [0, 100, 200], "same name"),
        (["a"], [5], "threshold is 0"),
    ],
)
def test_levels_rise_and_have_names_of_their_own(names: list[str], thresholds: list[int], told: str) -> None:
    levels = [{"name": name, "threshold": at} for name, at in zip(names, thresholds, strict=True)]
    (problem,) = problems(tiers={"window_months": 12, "levels": levels})
    assert told in problem


@pytest.mark.parametrize(
    ("qualifying", "tier"),
    [(0, "basic"), (99, "basic"), (100, "silver"), (299, "silver"), (300, "gold"), (10**9, "gold")],
)
def test_a_threshold_is_reached_with_exactly_so_many_points(rules_with: RulesWith, qualifying: int, tier: str) -> None:
    assert rules_with().tiers.level_for(qualifying) == tier


# ── conditions ────────────────────────────────────────────────────────────────────────────────────────────────────


def holds(condition: Document, **values: Any) -> bool:
    reader = {name.replace("_", ".", 1): value for name, value in values.items()}
    return Predicate.model_validate(condition).compile()(reader.__getitem__)


@settings(deadline=None, print_blob=True)
@given(left=st.integers(-5, 5), right=st.integers(-5, 5))
def test_comparisons_compare(left: int, right: int) -> None:
    wanted = {"==": left == right, "!=": left != right, ">=": left >= right, ">": left > right, "<=": left <= right,
              "<": left < right}  # fmt: skip
    for op, expected in wanted.items():
        assert holds({"field": "order.lines", "op": op, "value": right}, order_lines=left) is expected
    assert set(wanted) | {"in"} == set(OPERATORS)


def test_in_is_membership() -> None:
    condition = {"field": "order.store", "op": "in", "value": ["rome", "oslo"]}
    assert holds(condition, order_store="oslo")
    assert not holds(condition, order_store="bonn")
    assert not holds(condition, order_store="")


@settings(deadline=None, print_blob=True)
@given(a=st.booleans(), b=st.booleans(), c=st.booleans())
def test_all_any_and_not_are_logic(a: bool, b: bool, c: bool) -> None:
    def one(name: str) -> Document:
        return {"field": name, "op": "==", "value": 1}

    parts = [one("order.lines"), one("order.quantity"), one("order.month")]
    values = {"order_lines": int(a), "order_quantity": int(b), "order_month": int(c)}
    assert holds({"all": parts}, **values) is (a and b and c)
    assert holds({"any": parts}, **values) is (a or b or c)
    assert holds({"not": {"any": [parts[0], {"all": parts[1:]}]}}, **values) is (not (a or (b and c)))


def test_a_condition_names_all_fields_that_it_reads() -> None:
    condition = Predicate.model_validate(
        {
            "any": [
                {"not": {"field": "order.store", "op": "==", "value": "a"}},
                {"all": ['account.tier == "b"']},
            ]
        }
    )
    assert condition.fields() == {"order.store", "account.tier"}


# ── roundings ─────────────────────────────────────────────────────────────────────────────────────────────────────

DECIMAL = {"floor": ROUND_FLOOR, "ceil": ROUND_CEILING, "half_up": ROUND_HALF_UP, "half_even": ROUND_HALF_EVEN}


@settings(deadline=None, print_blob=True)
@given(
    quotient=st.integers(0, 10**6),
    denominator=st.sampled_from([1, 2, 4, 5, 8, 10, 100, 1000]),
    rest=st.integers(0, 1000),
    rounding=st.sampled_from(list(DECIMAL)),
)
@example(quotient=2, denominator=2, rest=1, rounding="half_even")
@example(quotient=3, denominator=2, rest=1, rounding="half_even")
@example(quotient=2, denominator=2, rest=1, rounding="half_up")
def test_roundings_are_those_of_their_names(quotient: int, denominator: int, rest: int, rounding: Rounding) -> None:
    numerator = quotient * denominator + rest % denominator
    with localcontext() as context:
        context.prec = 60
        wanted = int((Decimal(numerator) / Decimal(denominator)).to_integral_value(rounding=DECIMAL[rounding]))
    assert rounded(numerator, denominator, rounding) == wanted


@settings(deadline=None, print_blob=True)
@given(numerator=st.integers(0, 10**24), denominator=st.integers(1, 10**12))
def test_roundings_are_exact_for_any_quotient(numerator: int, denominator: int) -> None:
    exact = Fraction(numerator, denominator)
    floor, ceil = rounded(numerator, denominator, "floor"), rounded(numerator, denominator, "ceil")
    assert floor <= exact <= ceil
    assert ceil - floor == (exact.denominator != 1)
    for rounding in ("half_up", "half_even"):
        assert abs(rounded(numerator, denominator, rounding) - exact) <= Fraction(1, 2)
    assert rounded(numerator, denominator, "half_even") == round(exact)


# ── what rules give ───────────────────────────────────────────────────────────────────────────────────────────────


def test_points_are_for_the_sum_of_the_lines_and_not_for_each_of_them() -> None:
    assert earning(BASE, lines=[{"net_minor": 150}, {"net_minor": 150}]) == (3, [150, 150], ["base"])


def test_rules_add_up_and_each_is_rounded_by_itself() -> None:
    other = {"id": "other", "kind": "per_amount", "points": 1, "per_minor": 300}
    points, _, used = earning(BASE, other, lines=[{"net_minor": 150}], rounding="half_up")
    assert (points, used) == (2 + 1, ["base", "other"])


def test_of_several_multipliers_the_greatest_alone_counts() -> None:
    factors = [{"id": name, "kind": "multiplier", "factor": factor} for name, factor in
               (("small", "3/2"), ("great", 3), ("middle", 2))]  # fmt: skip
    assert earning(BASE, *factors) == (30, [1000], ["base", "great"])
    assert earning(*reversed(factors), BASE) == (30, [1000], ["base", "great"])


def test_a_multiplier_below_one_counts_where_it_is_the_only_one() -> None:
    half = {"id": "half", "kind": "multiplier", "factor": "1/2"}
    assert earning(BASE, half) == (5, [1000], ["base", "half"])
    assert earning(BASE, half, {"id": "more", "kind": "multiplier", "factor": "3/4"})[0] == 7


def test_a_multiplier_that_does_not_apply_does_not_count() -> None:
    big = {"id": "big", "kind": "multiplier", "factor": 9,
           "when": {"field": "order.net_minor", "op": ">", "value": 1000}}  # fmt: skip
    assert earning(BASE, big) == (10, [1000], ["base"])
    assert earning(BASE, big, lines=[{"net_minor": 1100}]) == (99, [1100], ["base", "big"])


def test_a_multiplier_of_nothing_gives_nothing_and_is_not_named() -> None:
    never = {**BASE, "when": {"field": "order.net_minor", "op": "<", "value": 0}}
    assert earning(never, {"id": "double", "kind": "multiplier", "factor": 2}) == (0, [0], [])


def test_a_factor_of_zero_takes_all_points() -> None:
    assert earning(BASE, {"id": "none", "kind": "multiplier", "factor": 0})[0] == 0


def test_a_multiplier_is_applied_before_rounding() -> None:
    assert earning(BASE, {"id": "x", "kind": "multiplier", "factor": "3/2"}, lines=[{"net_minor": 199}])[0] == 2


def test_fixed_points_are_for_the_order_whatever_its_amount() -> None:
    visit = {"id": "visit", "kind": "fixed", "points": 7}
    assert earning(visit, lines=[{"net_minor": 0}, {"net_minor": 1}]) == (7, [0, 1], ["visit"])


def test_lines_that_are_excluded_earn_nothing() -> None:
    picky = {**BASE, "lines": {"not": {"field": "line.category", "op": "in", "value": ["tobacco", "gift_card"]}}}
    lines = [
        {"net_minor": 1000, "category": "tobacco"},
        {"net_minor": 500, "category": "books"},
        {"net_minor": 300, "category": ""},
    ]
    assert earning(picky, lines=lines) == (8, [0, 500, 300], ["base"])


def test_a_rule_whose_lines_are_all_excluded_is_not_named() -> None:
    picky = {**BASE, "lines": {"field": "line.category", "op": "==", "value": "books"}}
    assert earning(picky, lines=[{"net_minor": 1000, "category": "tobacco"}]) == (0, [0], [])


@settings(deadline=None, print_blob=True)
@given(
    amounts=st.lists(st.integers(0, 10**9), min_size=1, max_size=4),
    points=st.integers(1, 1000),
    per_minor=st.integers(1, 10**6) | st.integers(1000, 10**9),
    factor=st.fractions(0, 1000, max_denominator=100),
    rounding=st.sampled_from(list(DECIMAL)),
)
def test_the_arithmetic_is_exact(
    amounts: list[int], points: int, per_minor: int, factor: Fraction, rounding: Rounding
) -> None:
    rules = (
        {"id": "base", "kind": "per_amount", "points": points, "per_minor": per_minor},
        {"id": "more", "kind": "multiplier", "factor": f"{factor.numerator}/{factor.denominator}"},
    )
    if points * ORDER_MINOR_MAX // per_minor * max(factor, Fraction(1)) > ORDER_POINTS_MAX:
        (problem,) = problems(earning=list(rules))
        assert "at most" in problem
        return
    found, basis, _ = earning(*rules, lines=[{"net_minor": amount} for amount in amounts], rounding=rounding)
    exact = Fraction(points * sum(amounts), per_minor) * factor
    assert found == rounded(exact.numerator, exact.denominator, rounding)
    assert basis == amounts


# ── the document as it is kept ────────────────────────────────────────────────────────────────────────────────────

RICH: Document = {
    **DOCUMENT,
    "earning": [
        {**BASE, "when": {"not": {"field": "order.store", "op": "==", "value": "x"}}},
        {"id": "vip", "kind": "multiplier", "factor": "1.5",
         "when": {"field": "account.tier", "op": "in", "value": ["gold"]}},
    ],
}  # fmt: skip


def test_the_kept_document_reads_back_as_the_same_rule_set() -> None:
    rule_set = parse_rule_set(RICH, "x")
    assert RuleSet.model_validate_json(rule_set.canonical()) == rule_set
    assert compiled(rule_set.canonical(), UTC_ZONE).rule_set == rule_set


def test_the_digest_does_not_depend_on_how_the_document_is_written() -> None:
    reordered = dict(reversed(RICH.items()))
    same = {**reordered, "earning": [RICH["earning"][0], {**RICH["earning"][1], "factor": "3/2"}], "zone": "UTC",
            "description": ""}  # fmt: skip
    assert parse_rule_set(same, "x").digest() == parse_rule_set(RICH, "y").digest()


@pytest.mark.parametrize(
    "change", [{"version": "2"}, {"rounding": "ceil"}, {"description": "x"}, {"zone": "Europe/Rome"}]
)
def test_the_digest_changes_with_the_document(change: Document) -> None:
    assert parsed(**change).digest() != parsed().digest()


def test_the_digest_is_the_one_that_books_hold_already() -> None:
    # Pinned: a change would make every adopted rule set "adopted with other content".
    assert parsed().canonical() == (
        '{"currency":"USD","description":"","earning":[{"id":"base","kind":"per_amount","per_minor":100,"points":1}],'
        '"expiry":{"months":12,"never":false,"until":"exact"},"name":"standard","programme":"main",'
        '"refunds":{"policy":"debt"},"rounding":"floor","tiers":{"levels":[{"name":"basic","threshold":0},'
        '{"name":"gold","threshold":100}],"window_months":12},"version":"1","zone":"UTC"}'
    )


def test_a_rule_set_is_named_with_its_version() -> None:
    assert parsed(version="2025.1").label == "standard@2025.1"


# ── which rules are in force ──────────────────────────────────────────────────────────────────────────────────────


def ready(version: str) -> Rules:
    return Rules(parsed(version=version), UTC_ZONE)


def in_force(book: RuleBook, at: int, programme: str = "main") -> str | None:
    rules = book.in_force(programme, at)
    return None if rules is None else rules.rule_set.version


def test_of_those_effective_by_then_the_latest_is_in_force() -> None:
    book = RuleBook().adding(10, "main", ready("1")).adding(30, "main", ready("3")).adding(20, "main", ready("2"))
    assert [in_force(book, at) for at in (9, 10, 19, 20, 29, 30, 99)] == [None, "1", "1", "2", "2", "3", "3"]
    assert book.starts("main", 10, 30) == [20, 30]
    assert len(book) == 3


def test_of_two_from_the_same_time_the_last_adopted_is_in_force() -> None:
    book = RuleBook().adding(10, "main", ready("1")).adding(10, "main", ready("2"))
    assert in_force(book, 10) == "2"
    assert book.starts("main", 0, 10) == [10]


def test_an_adoption_for_the_future_waits() -> None:
    book = RuleBook().adding(10, "main", ready("1")).adding(1000, "main", ready("2"))
    assert in_force(book, 999) == "1"
    assert in_force(book, 1000) == "2"


def test_another_programme_has_rules_of_its_own() -> None:
    book = RuleBook().adding(10, "main", ready("1")).adding(5, "club", ready("2"))
    assert in_force(book, 20) == "1"
    assert in_force(book, 7) is None
    assert in_force(book, 7, "club") == "2"
    assert book.starts("main", 0, 99) == [10]
    assert in_force(book, 99, "other") is None


def test_a_rule_book_is_not_changed_by_adding_to_it() -> None:
    book = RuleBook().adding(10, "main", ready("1"))
    book.adding(10, "main", ready("2"))
    assert in_force(book, 10) == "1"


def _stamp(at_us: int) -> Stamp:
    return Stamp(Metadata(recorded_us=0, actor="a", purpose="p"), at_us, lambda: UUID(int=7))


def test_adopting_the_same_again_from_the_same_time_records_nothing() -> None:
    control = Control(UUID(int=1)).draft([])
    assert control.adopt(_stamp(10), parsed(), UTC_ZONE) is not None
    assert control.adopt(_stamp(10), parsed(), UTC_ZONE) is None
    assert control.adopt(_stamp(20), parsed(), UTC_ZONE) is not None


def test_adopting_other_content_under_the_same_version_is_refused() -> None:
    control = Control(UUID(int=1)).draft([])
    control.adopt(_stamp(10), parsed(), UTC_ZONE)
    with pytest.raises(Refused) as refused:
        control.adopt(_stamp(20), parsed(rounding="ceil"), UTC_ZONE)
    assert refused.value.code == "rule_set_adopted"
    control.adopt(_stamp(20), parsed(rounding="ceil", programme="club"), UTC_ZONE)


def test_going_back_to_a_rule_set_from_the_same_time_puts_it_in_force_again() -> None:
    control = Control(UUID(int=1)).draft([])
    for version in ("1", "2", "1"):
        assert control.adopt(_stamp(10), parsed(version=version), UTC_ZONE) is not None
    assert in_force(control.rule_book, 10) == "1"
    # Another time or another programme in between does not matter.
    control.adopt(_stamp(20), parsed(version="2"), UTC_ZONE)
    control.adopt(_stamp(10), parsed(name="club", programme="club"), UTC_ZONE)
    assert control.adopt(_stamp(10), parsed(version="1"), UTC_ZONE) is None
    assert len(control.rule_book) == len(control.adopted) == 5
    assert control.rule_book.programmes() == ("main", "club")
    assert (control.rule_book.count("main"), control.rule_book.count("club")) == (4, 1)


def test_an_adoption_holds_all_that_it_depends_on(new_world: Callable[..., World]) -> None:
    world = new_world()
    adopted = world.control.adopted[0]
    assert (adopted.name, adopted.version, adopted.programme) == ("standard", "1", "main")
    assert adopted.digest == adopted.rules().rule_set.digest()
    assert adopted.rules().zone == UTC_ZONE


# ── sweeps ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sweep_does_not_go_back() -> None:
    control = Control(UUID(int=1)).draft([])
    assert control.horizon_us is None
    assert control.sweep(_stamp(10), 10) is not None
    with pytest.raises(Refused) as refused:
        control.sweep(_stamp(9), 9)
    assert refused.value.code == "sweep_goes_back"
    assert control.horizon_us == 10


def test_a_sweep_that_was_cut_short_goes_on_and_is_finished_once() -> None:
    control = Control(UUID(int=1)).draft([])
    assert control.finish_sweep(_stamp(10), 0, 0) is None
    control.sweep(_stamp(10), 10)
    assert not control.sweep_is_finished
    assert control.sweep(_stamp(10), 10) is None
    assert control.finish_sweep(_stamp(10), 3, 2) is not None
    assert control.sweep_is_finished
    assert control.finish_sweep(_stamp(10), 3, 2) is None


def test_a_sweep_to_the_same_moment_under_new_rules_is_another_sweep() -> None:
    control = Control(UUID(int=1)).draft([])
    control.sweep(_stamp(10), 10)
    control.finish_sweep(_stamp(10), 0, 0)
    control.adopt(_stamp(5), parsed(), UTC_ZONE)
    assert control.sweep(_stamp(10), 10) is not None
    assert not control.sweep_is_finished
    assert control.horizon_us == 10


def test_no_rule_set_is_adopted_while_a_sweep_is_under_way() -> None:
    control = Control(UUID(int=1)).draft([])
    control.sweep(_stamp(10), 10)
    with pytest.raises(Refused) as refused:
        control.adopt(_stamp(5), parsed(), UTC_ZONE)
    assert refused.value.code == "sweep_unfinished"
    control.finish_sweep(_stamp(10), 0, 0)
    assert control.adopt(_stamp(5), parsed(), UTC_ZONE) is not None
