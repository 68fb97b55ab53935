"""Rule sets: what the document may say, how problems are named, how it is kept; which are in force."""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tallybook.adapters.rule_files import PACKAGED, load_rule_set
from tallybook.domain import arithmetic
from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import UTC_ZONE
from tallybook.domain.control import Control, RuleBook
from tallybook.domain.customer import Line, PurchaseRecorded
from tallybook.domain.earning import Rules, compiled
from tallybook.domain.errors import Refused, RuleSetError
from tallybook.domain.events import Metadata
from tallybook.domain.expressions import Integers
from tallybook.domain.loyalty import NOBODY, LoyaltyAccount, measured_purchase
from tallybook.domain.rules import (
    LINES_MAX,
    ORDER_MINOR_MAX,
    ORDER_POINTS_MAX,
    QUANTITY_MAX,
    Fixed,
    Multiplier,
    PerAmount,
    Rounding,
    RuleSet,
    fields_of,
    parse_rule_set,
    rounded,
)

if TYPE_CHECKING:
    from tests.domain.conftest import World

Document = dict[str, Any]

BASE = {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100}
VISIT = {"id": "visit", "kind": "fixed", "points": 5, "on": "activity"}
DOUBLE = {"id": "double", "kind": "multiplier", "factor": 2}
LEVELS = [{"name": "basic", "threshold": 0}, {"name": "gold", "threshold": 100}]
ROLLING = {"window_months": 12, "levels": LEVELS}
DOCUMENT: Document = {
    "name": "standard",
    "version": "1",
    "currency": "USD",
    "earning": [BASE],
    "expiry": {"months": 12},
    "tiers": ROLLING,
}
REWARD = {"id": "tea", "price": 100}
DAILY = {"on": "redeem", "period": "day", "count": 1}


def problems(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(RuleSetError) as error:
        parse_rule_set({**DOCUMENT, **changes}, "shop.toml")
    assert str(error.value).startswith("shop.toml: ")
    return error.value.problems


def parsed(**changes: Any) -> RuleSet:
    return parse_rule_set({**DOCUMENT, **changes}, "shop.toml")


# ── every key ─────────────────────────────────────────────────────────────────────────────────────────────────────

WHOLE = """
name = "whole"
version = "2025.1"
programme = "club"
description = "Every key"
currency = "EUR"
zone = "Europe/Rome"
rounding = "half_even"
inactivity_months = 24
holds_days = 7
point_price = "1/2"

[[currencies]]
code = "USD"
rate = "9/10"
name = "bank-2025"

[amount]
include = ["net", "tax", "shipping"]
exclude = 'line.category == "gift_card"'

[[earning]]
id = "base"
kind = "per_amount"
on = "purchase"
points = 2
per_minor = 100
whole = true
when = 'order.net_minor >= 500'
lines = 'line.category != "books"'
gives = "both"
multiplied = true
group = "spending"
starts = 2025-01-01
ends = "2025-12-31"
campaign = "year"
control_percent = 5
caps = { event = 100, day = 200, month = 1000, year = 5000 }
expiry = { days = 30, from = "activated" }
pending = { days = 14, confirmed = true }

[[earning]]
id = "pieces"
kind = "per_amount"
points = 1
per_quantity = 3
group = "spending"
gives = "points"

[[earning]]
id = "survey"
kind = "fixed"
on = "activity"
points = 10
gives = "qualifying"
multiplied = false

[[earning]]
id = "joined"
kind = "fixed"
on = "enrolment"
points = 50

[[earning]]
id = "friend"
kind = "fixed"
on = "referral"
points = 100

[[earning]]
id = "gold"
kind = "multiplier"
factor = "1.5"
when = 'account.tier == "gold"'

[groups]
spending = "first"

[caps]
event = 500
day = 600
month = 3000
year = 20000

[expiry]
months = 12
until = "year_end"

[pending]
days = 3

[refunds]
earning = "within_balance"
redemption = "new_lot"

[transfers]
allowed = true
keep_ages = false

[[limits]]
on = "redeem"
period = "month"
count = 3
points = 10000

[[rewards]]
id = "tea"
price = 100
tiers = ["gold"]
segments = ["regulars"]
counted = true
coupon_days = 30
voided = "forfeited"

[[rewards]]
id = "cake"
price = 200
coupon_days = 10

[tiers]
window = "calendar_year"
basis = "qualifying"
qualify = "base"
downgrade = "one_step"
grace_days = 10
hold_months = 3

[[tiers.levels]]
name = "basic"
threshold = 0

[[tiers.levels]]
name = "gold"
threshold = 500
keep = 400
multiplier = "5/4"
benefits = ["priority-service"]
grants = ["cake"]
"""


def whole(**changes: Any) -> RuleSet:
    return parse_rule_set({**tomllib.loads(WHOLE), **changes}, "whole.toml")


def keys_of(value: object, path: str = "") -> set[str]:
    """The keys of a document, without the places of lists and the names in tables of names."""
    if isinstance(value, dict):
        inner = {f"{path}{key}" for key in value}
        return inner.union(*(keys_of(one, f"{path}{key}.") for key, one in value.items())) if inner else inner
    if isinstance(value, list):
        return set().union(*(keys_of(one, path) for one in value))
    return set()


def test_the_whole_document_has_every_key_that_there_is() -> None:
    # What is kept spells out all keys, so those that this document leaves out would be there too.
    kept = keys_of(json.loads(whole().canonical()))
    assert kept - {"expiry.never", "earning.expiry.never", "pending.confirmed", "earning.expiry.until"} == keys_of(
        tomllib.loads(WHOLE)
    ) | {"expiry.from"}
    models = (RuleSet, PerAmount, Fixed, Multiplier)
    for model in models:
        for name, field in model.model_fields.items():
            path = name if model is RuleSet else f"earning.{field.alias or name}"
            assert path in kept, path


def test_what_a_document_says_is_what_the_rule_set_has() -> None:
    rule_set = whole()
    base, pieces, survey, joined, friend, gold = rule_set.earning
    assert isinstance(base, PerAmount)
    assert (base.points, base.per, base.whole, base.group, base.campaign) == (2, 100, True, "spending", "year")
    assert (base.starts, base.ends) == (date(2025, 1, 1), date(2025, 12, 31))
    assert base.days == (20_089, 20_453)
    assert base.caps.periods == [("day", 200), ("month", 1000), ("year", 5000)]
    assert isinstance(pieces, PerAmount)
    assert pieces.per == 3
    assert [one.on for one in (survey, joined, friend)] == ["activity", "enrolment", "referral"]
    assert isinstance(gold, Multiplier)
    assert gold.factor == Fraction(3, 2)
    assert rule_set.tiers.levels[1].keeps == 400
    assert rule_set.tiers.levels[1].multiplier == Fraction(5, 4)
    assert rule_set.currencies[0].rate == Fraction(9, 10)
    assert rule_set.point_price == Fraction(1, 2)
    assert sorted(rule_set.conditions) == ["amount.exclude", "earning.0.lines", "earning.0.when", "earning.5.when"]


def test_the_defaults_are_the_plain_ones() -> None:
    rule_set = parsed()
    assert (rule_set.programme, rule_set.zone, rule_set.rounding) == ("main", "UTC", "floor")
    assert (rule_set.amount.include, rule_set.amount.exclude) == (("net",), None)
    assert (rule_set.refunds.earning, rule_set.refunds.redemption) == ("debt", "original")
    assert (rule_set.holds_days, rule_set.inactivity_months, rule_set.pending) == (30, None, None)
    assert not rule_set.transfers.allowed
    assert (rule_set.tiers.window, rule_set.tiers.downgrade, rule_set.tiers.qualify) == (
        "rolling",
        "straight",
        "points",
    )
    assert rule_set.point_price == 1
    base = rule_set.earning[0]
    assert isinstance(base, PerAmount)
    assert (base.on, base.gives, base.multiplied, base.whole) == ("purchase", "both", True, False)


# ── what is refused, and where ────────────────────────────────────────────────────────────────────────────────────

EARN = "earning.0."


def earn(**changes: Any) -> Document:
    return {"earning": [{**BASE, **changes}]}


def tier(**changes: Any) -> Document:
    return {"tiers": {**ROLLING, **changes}}


def levels(*changes: Document) -> Document:
    return tier(levels=[{**level, **change} for level, change in zip(LEVELS, changes, strict=False)])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"colour": "red"}, "colour: there is no such key here: take it out, or"),
        ({"name": "two words"}, "name: "),
        ({"version": ""}, "version: "),
        ({"programme": "a b"}, "programme: "),
        ({"currency": "usd"}, "currency: "),
        ({"rounding": "nearest"}, "rounding: "),
        ({"inactivity_months": 0}, "inactivity_months: "),
        ({"holds_days": 0}, "holds_days: "),
        ({"point_price": 0.5}, "point_price: write a factor"),
        ({"currencies": [{"code": "EUR", "rate": 1.1, "name": "x"}]}, "currencies.0.rate: write a factor"),
        ({"currencies": [{"code": "EUR", "rate": 0, "name": "x"}]}, "currencies.0.rate: a rate is above 0"),
        ({"currencies": [{"code": "eur", "rate": 1, "name": "x"}]}, "currencies.0.code: "),
        ({"currencies": [{"code": "EUR", "rate": 1}]}, "currencies.0.name: this is required"),
        ({"currencies": [{"code": "USD", "rate": 1, "name": "x"}]}, "currencies.0.code: 'USD' is there twice"),
        (
            {"currencies": [{"code": "EUR", "rate": 1, "name": "x"}, {"code": "EUR", "rate": 2, "name": "y"}]},
            "currencies.1.code: 'EUR' is there twice",
        ),
        ({"amount": {"include": ()}}, "amount.include: "),
        ({"amount": {"include": ["net", "gross"]}}, "amount.include.1: "),
        ({"amount": {"exclude": "line.sku"}}, "amount.exclude: line 1, column 1: "),
        ({"amount": {"exclude": "order.net_minor > 1"}}, "amount.exclude: line 1, column 1: "),
        ({"amount": {"include": ["net", "tax", "net"]}}, "amount.include.2: 'net' is there twice"),
        (
            {"currencies": [{"code": "EUR", "rate": "123.4567", "name": "x"}]},
            "currencies.0.rate: as a fraction this is",
        ),
        ({"point_price": Fraction(1, 10_001)}, "point_price: a factor lies between 0 and 1000"),
        ({"point_price": 10**5000}, "point_price: a factor lies between 0 and 1000"),
        ({"description": "x" * 10_001}, "description: write at most 10000 characters"),
        ({"description": "\x1b[2J"}, "description: a text has no control characters"),
        ({"description": "\ud800"}, "description: a text has characters of Unicode only"),
        ({"name": "a\u200bb"}, "name: a code is wanted: up to 64 letters, digits and . : / + - _, without spaces"),
        ({"groups": {"a b": "best"}}, "groups.a b: a code is wanted"),
        ({"currency": "EURO"}, "currency: write three capital letters, such as EUR"),
        (earn(ends="2025-02-30"), "earning.0.ends: there is no such day"),
        ({"earning": [{"id": "a", "points": 1}]}, "earning.0: name its kind: kind = per_amount, fixed or multiplier"),
        ({"earning": {"id": "a"}}, "earning: write a list"),
        ({"earning": ["a"]}, "earning.0: write a table"),
        ({"earning": []}, "earning: "),
        (earn(id="limit:earn:times"), "earning.0.id: what begins with 'limit:' counts for limits"),
        ({"earning": [BASE, BASE]}, "earning.1.id: 'base' is there twice"),
        ({"earning": [DOUBLE]}, "earning: no rule gives points"),
        (earn(id="all"), "earning.0.id: 'all' counts for all rules"),
        (earn(kind="magic"), "earning.0: "),
        (earn(pionts=2), "earning.0.pionts: "),
        (earn(points=0), "earning.0.points: "),
        (earn(points=1_000_000_001), "earning.0.points: "),
        (earn(on="weather"), "earning.0.on: "),
        (earn(gives="nothing"), "earning.0.gives: "),
        (earn(per_minor=0), "earning.0.per_minor: "),
        (earn(per_quantity=2), "earning.0: give per_minor or per_quantity"),
        (earn(per_minor=None), "earning.0: give per_minor or per_quantity"),
        (earn(on="activity"), "earning.0: an activity has a quantity and no amount"),
        (earn(on="enrolment"), "earning.0: an enrolment has no amount"),
        (earn(on="referral"), "earning.0: a referral has no amount"),
        (earn(on="activity", per_minor=None, per_quantity=1, lines="true"), "earning.0: only a purchase has lines"),
        (earn(starts=date(2025, 2, 1), ends=date(2025, 1, 31)), "earning.0: ends lies before starts"),
        (earn(starts=20_000), "earning.0.starts: write a day as"),
        (earn(starts="20000"), "earning.0.starts: write a day as"),
        (earn(ends="2025-02-30"), "earning.0.ends: "),
        (earn(control_percent=5), "earning.0: a control group belongs to a campaign"),
        (earn(campaign="x", control_percent=100), "earning.0.control_percent: "),
        (earn(group="best"), "earning.0.group: say what counts: groups = { best = "),
        ({"groups": {"spending": "best"}}, "groups.spending: no rule is of this group"),
        (earn(group="fixed") | {"groups": {"fixed": "worst"}}, "groups.fixed: "),
        (earn(caps={"event": -1}), "earning.0.caps.event: "),
        (earn(caps={"week": 1}), "earning.0.caps.week: "),
        (earn(expiry={"days": 0}), "earning.0.expiry.days: "),
        (earn(expiry={}), "earning.0.expiry: give exactly one"),
        (earn(pending={}), "earning.0.pending: give days, or confirmed"),
        ({"earning": [BASE, {**VISIT, "per_minor": 1}]}, "earning.1.per_minor: "),
        ({"earning": [BASE, {**DOUBLE, "points": 1}]}, "earning.1.points: "),
        ({"caps": {"day": 10**15 + 1}}, "caps.day: "),
        ({"expiry": {"months": 1201}}, "expiry.months: "),
        ({"expiry": {}}, "expiry: give exactly one"),
        ({"expiry": {"months": 1, "days": 1}}, "expiry: give exactly one"),
        ({"expiry": {"months": 1, "never": True}}, "expiry: give exactly one"),
        ({"expiry": {"months": 0}}, "expiry: months = 0 needs"),
        ({"expiry": {"months": 1, "until": "week_end"}}, "expiry.until: "),
        ({"expiry": {"months": 1, "from": "birth"}}, "expiry.from: "),
        ({"pending": {"days": 3651}}, "pending.days: "),
        ({"refunds": {"earning": "keep"}}, "refunds.earning: "),
        ({"refunds": {"redemption": "keep"}}, "refunds.redemption: "),
        ({"transfers": {"allowed": "yes"}}, "transfers.allowed: "),
        ({"limits": [{"on": "redeem", "period": "day"}]}, "limits.0: give count or points"),
        ({"limits": [{"on": "redeem", "period": "week", "count": 1}]}, "limits.0.period: "),
        ({"limits": [{"on": "expire", "period": "day", "count": 1}]}, "limits.0.on: "),
        ({"limits": [DAILY, {**DAILY, "count": 2}]}, "limits.1.count: redeem has such a limit in a day already"),
        ({"limits": [{**DAILY, "points": 9}, {**DAILY, "count": None, "points": 8}]}, "limits.1.points: redeem has"),
        ({"rewards": [{**REWARD, "tiers": ["gold", "gold"]}]}, "rewards.0.tiers.1: 'gold' is there twice"),
        ({"rewards": [{**REWARD, "segments": ["a", "a"]}]}, "rewards.0.segments.1: 'a' is there twice"),
        (levels({}, {"benefits": ["a", "b", "a"]}), "tiers.levels.1.benefits.2: 'a' is there twice"),
        (
            levels({}, {"grants": ["tea", "tea"]}) | {"rewards": [{**REWARD, "coupon_days": 9}]},
            "tiers.levels.1.grants.1: 'tea' is there twice",
        ),
        (
            levels({}, {"grants": ["tea"]}) | {"rewards": [{**REWARD, "coupon_days": 9, "counted": True}]},
            "tiers.levels.1.grants.0: 'tea' has a stock, which a grant does not look at",
        ),
        ({"rewards": [REWARD, REWARD]}, "rewards.1.id: 'tea' is there twice"),
        ({"rewards": [{**REWARD, "price": 0}]}, "rewards.0.price: "),
        ({"rewards": [{**REWARD, "tiers": ["basic", "tin"]}]}, "rewards.0.tiers.1: no tier is called 'tin'"),
        ({"rewards": [{**REWARD, "voided": "burnt"}]}, "rewards.0.voided: "),
        (tier(window="week"), "tiers.window: "),
        (tier(window_months=0), "tiers.window_months: "),
        (tier(window_months=None), "tiers: window_months belongs to a rolling window"),
        (tier(window="lifetime"), "tiers: window_months belongs to a rolling window"),
        (tier(basis="balance"), "tiers: tiers by the balance have no window"),
        (tier(downgrade="one_step"), "tiers: one_step in a rolling window needs hold_months"),
        (tier(downgrade="two_steps"), "tiers.downgrade: "),
        (tier(levels=[]), "tiers.levels: "),
        (levels({"threshold": 1}), "tiers.levels.0.threshold: the first level is where everybody starts"),
        (levels({}, {"threshold": 0}), "tiers.levels.1.threshold: levels stand in order"),
        (levels({}, {"name": "basic"}), "tiers.levels.1.name: 'basic' is there twice"),
        (levels({}, {"keep": 101}), "tiers.levels.1.keep: a level is kept with at most"),
        (levels({}, {"multiplier": 1.5}), "tiers.levels.1.multiplier: write a factor"),
        (levels({}, {"grants": ["tea"]}), "tiers.levels.1.grants.0: no reward with coupon_days is called 'tea'"),
        (
            levels({}, {"grants": ["tea"]}) | {"rewards": [REWARD]},
            "tiers.levels.1.grants.0: no reward with coupon_days is called 'tea'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named_by_its_exact_path(changes: Document, problem: str) -> None:
    found = problems(**changes)
    assert [one for one in found if one.startswith(problem)], found
    assert len(found) == 1, found


def test_keep_never_falls_from_level_to_level() -> None:
    three = [*LEVELS, {"name": "platinum", "threshold": 200, "keep": 50}]
    assert problems(**tier(levels=three)) == ("tiers.levels.2.keep: keep never falls from level to level",)
    three[2]["keep"] = 100
    assert parsed(**tier(levels=three)).tiers.levels[2].keeps == 100


def test_problems_of_all_parts_are_told_at_once() -> None:
    assert len(problems(currency="x", rounding="y", colour="red")) == 3
    told = problems(
        earning=[
            {**BASE, "when": "order.net_minor"},
            {**BASE, "when": "order.colour == 1", "group": "g"},
            {**DOUBLE, "when": 'account.tier == "tin"'},
        ],
        rewards=[{**REWARD, "tiers": ["tin"]}],
    )
    assert [problem.partition(": ")[0] for problem in told] == [
        "earning.1.id",
        "earning.1.group",
        "rewards.0.tiers.0",
        "earning.0.when",
        "earning.1.when",
        "earning.2.when",
    ]


def test_a_group_may_be_called_like_a_kind() -> None:
    # The kind of a rule is no part of a path, and a group of that name is.
    assert problems(groups={"per_amount": "worst"})[0].startswith("groups.per_amount: ")


@pytest.mark.parametrize("missing", ["name", "version", "currency", "earning", "expiry", "tiers"])
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(RuleSetError) as error:
        parse_rule_set({key: value for key, value in DOCUMENT.items() if key != missing}, "shop.toml")
    assert error.value.problems == (f"{missing}: this is required",)


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_what_is_no_document_is_refused(document: object) -> None:
    with pytest.raises(RuleSetError) as error:
        parse_rule_set(document, "shop.toml")
    assert error.value.problems[0].startswith("document: ")


@pytest.mark.parametrize("factor", [1.5, True, "half", "1/0", "-1", -1, 1001, "1/10001", "1e3", " 1", "", None, [1]])
def test_a_factor_is_exact(factor: object) -> None:
    (problem,) = problems(earning=[BASE, {**DOUBLE, "factor": factor}])
    assert problem.startswith("earning.1.factor: ")


@pytest.mark.parametrize(
    ("factor", "value"), [(2, Fraction(2)), ("2", Fraction(2)), ("3/2", Fraction(3, 2)), ("1.25", Fraction(5, 4)),
                          ("6/4", Fraction(3, 2)), (0, Fraction(0)), ("1/10000", Fraction(1, 10_000))]
)  # fmt: skip
def test_a_factor_is_read_as_it_is_written(factor: object, value: Fraction) -> None:
    rule = parsed(earning=[BASE, {**DOUBLE, "factor": factor}]).earning[1]
    assert isinstance(rule, Multiplier)
    assert rule.factor == value


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        (earn(points="1"), "earning.0.points: "),
        (earn(points=1.0), "earning.0.points: "),
        (earn(points=True), "earning.0.points: "),
        (earn(per_minor="100"), "earning.0.per_minor: "),
        (earn(id=1), "earning.0.id: "),
        (earn(whole=1), "earning.0.whole: "),
        (earn(when=True), "earning.0.when: "),
        (earn(when=""), "earning.0.when: "),
        (earn(when={"field": "order.net_minor"}), "earning.0.when: "),
        ({"expiry": {"never": "yes"}}, "expiry.never: "),
        ({"expiry": {"never": 1}}, "expiry.never: "),
        ({"expiry": {"months": True}}, "expiry.months: "),
        ({"expiry": {"days": "30"}}, "expiry.days: "),
        ({"version": 1}, "version: "),
        ({"zone": 1}, "zone: "),
        ({"description": 1}, "description: "),
        ({"holds_days": 7.0}, "holds_days: "),
        (tier(window_months=12.0), "tiers.window_months: "),
        (levels({}, {"threshold": "100"}), "tiers.levels.1.threshold: "),
        ({"rewards": [{**REWARD, "counted": 1}]}, "rewards.0.counted: "),
    ],
)
def test_nothing_in_a_document_is_coerced(changes: Document, path: str) -> None:
    found = problems(**changes)
    assert all(problem.startswith(path) for problem in found), found


# ── conditions ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"earning": [BASE, {**DOUBLE, "when": "order.net_minor >= glod"}]},
            "earning.1.when: line 1, column 20: no field is called `glod`",
        ),
        (earn(when="order.net_minor >= 5 &&\n  order.wether == 1"), "earning.0.when: line 2, column 3: no field"),
        (earn(lines="line.net_minr > 1"), "earning.0.lines: line 1, column 1: no field is called `line.net_minr`; did"),
        (earn(when='account.tier == "glod"'), 'earning.0.when: line 1, column 17: `account.tier` is never "glod"; did'),
        (earn(when='line.sku == "a"'), "earning.0.when: line 1, column 1: "),
        (earn(when='activity.code == "a"'), "earning.0.when: line 1, column 1: no field is called `activity.code`"),
        ({"earning": [BASE, {**VISIT, "when": "order.net_minor > 1"}]}, "earning.1.when: line 1, column 1: no field"),
        ({"earning": [BASE, {**VISIT, "when": "lines.exists(l, true)"}]}, "earning.1.when: line 1, column 1: "),
        (earn(when="order.net_minor * order.net_minor * 9 > 1"), "earning.0.when: line 1, column 17: this can be"),
        (earn(when="order.net_minor / fact.weekday / customer.birth_month > 1"), "earning.0.when: line 1, column 32: "),
    ],
)
def test_a_condition_that_is_wrong_is_named_by_path_line_and_column(changes: Document, problem: str) -> None:
    (found,) = problems(**changes)
    assert found.startswith(problem)
    assert found.splitlines()[-1].strip() == "^"


def test_amounts_in_conditions_are_bounded_by_what_an_order_can_be_in_the_dearest_currency() -> None:
    rates = [{"code": "EUR", "rate": 2, "name": "bank"}, {"code": "JPY", "rate": "1/100", "name": "bank"}]
    # Each line is converted by itself, and may be rounded up.
    half = [{"code": "EUR", "rate": "3/2", "name": "bank"}]
    for changes, most in (
        ({}, ORDER_MINOR_MAX),
        ({"currencies": rates}, 2 * ORDER_MINOR_MAX),
        ({"currencies": half}, 3 * ORDER_MINOR_MAX // 2 + LINES_MAX),
    ):
        known = fields_of(parsed(**changes, earning=[{**BASE, "per_minor": 1}]))["purchase"]
        assert known.types["order.net_minor"] == Integers(0, most)
        assert known.types["order.quantity"] == Integers(1, QUANTITY_MAX)


# ── what does nothing ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({}, []),
        (earn(when="fact.month == 12 || fact.month > 12"), ["earning.0.when: line 1, column 32: this is always false"]),
        (earn(when="true"), ["earning.0.when: this is always true"]),
        (
            earn(when="fact.month > 12"),
            ["earning.0.when: line 1, column 12: this is always false", "earning.0.when: this is never true"],
        ),
        ({"amount": {"exclude": "false"}}, ["amount.exclude: this is never true"]),
        ({"earning": [BASE, {**DOUBLE, "on": "activity"}]}, ["earning.1: no rule that is multiplied gives points for"]),
        ({"earning": [{**BASE, "multiplied": False}, DOUBLE]}, ["earning.1: no rule that is multiplied gives points"]),
        (earn(caps={"day": 0}), ["earning.0.caps.day: this lets nothing through"]),
        (earn(caps={"day": 10, "month": 5}), ["earning.0.caps.day: the cap of 5 over a longer time is reached first"]),
        ({"caps": {"event": 7, "year": 7}}, ["caps.event: the cap of 7 over a longer time is reached first"]),
        ({"caps": {"event": 1, "day": 2, "month": 3, "year": 4}}, []),
        (earn(group="g") | {"groups": {"g": "best"}}, ["groups.g: one rule alone is of this group"]),
        (
            {
                "limits": [
                    {"on": "redeem", "period": "day", "count": 1},
                    {"on": "transfer", "period": "day", "count": 1},
                ]
            },
            ["limits.1: transfers are not allowed at all"],
        ),
        (levels({}, {"multiplier": 0}), ["tiers.levels.1.multiplier: by this, what is multiplied earns nothing"]),
        (
            levels({"grants": ["tea"]}) | {"rewards": [{**REWARD, "coupon_days": 9}]},
            ["tiers.levels.0.grants: nobody reaches the first level from another"],
        ),
        ({"limits": [DAILY, {**DAILY, "count": None, "points": 5}, {**DAILY, "period": "month"}]}, []),
        ({"refunds": {"earning": "pending_only"}}, ["refunds.earning: no points are ever pending"]),
        ({"refunds": {"earning": "pending_only"}, "pending": {"days": 1}}, []),
        (
            {"tiers": {"window": "lifetime", "basis": "balance", "qualify": "base", "levels": LEVELS}},
            ["tiers.qualify: tiers by the balance count no qualifying points"],
        ),
    ],
)
def test_what_is_allowed_and_does_nothing_is_a_warning(changes: Document, warnings: list[str]) -> None:
    found = parsed(**changes).warnings
    assert len(found) == len(warnings), found
    assert all(told.startswith(wanted) for told, wanted in zip(found, warnings, strict=True)), found


# ── what can be counted ───────────────────────────────────────────────────────────────────────────────────────────

MINOR = {**BASE, "per_minor": 1}
MOST: list[tuple[Document, str]] = [
    ({"earning": [{**MINOR, "points": 1000}]}, "purchase"),
    ({"earning": [{**MINOR, "points": 500}, DOUBLE]}, "purchase"),
    ({"earning": [{**MINOR, "points": 999}, {**MINOR, "id": "b"}]}, "purchase"),
    # A factor below 1 is not counted on: it need not apply.
    ({"earning": [{**MINOR, "points": 1000}, {**DOUBLE, "factor": "1/2"}]}, "purchase"),
    ({"earning": [{**MINOR, "points": 1000, "multiplied": False}, DOUBLE]}, "purchase"),
    ({"earning": [{**MINOR, "points": 500}], **levels({}, {"multiplier": 2})}, "purchase"),
    ({"earning": [{**MINOR, "points": 100}], "currencies": [{"code": "EUR", "rate": 10, "name": "x"}]}, "purchase"),
    ({"earning": [{**MINOR, "points": 1000}], "amount": {"include": ["net", "tax", "shipping"]}}, "purchase"),
    ({"earning": [{**BASE, "per_minor": None, "per_quantity": 1, "points": 1_000_000}]}, "purchase"),
    (
        {"earning": [BASE, {**VISIT, "id": "b", "kind": "per_amount", "per_quantity": 1, "points": 1_000_000}]},
        "activity",
    ),
]


@pytest.mark.parametrize(("changes", "on"), MOST)
def test_no_fact_can_earn_more_than_can_be_counted(changes: Document, on: str) -> None:
    parsed(**changes)
    one_more = {"id": "one_more", "kind": "fixed", "points": 1, "on": on, "multiplied": False}
    (problem,) = problems(**{**changes, "earning": [*changes["earning"], one_more]})
    assert problem.startswith(f"earning: one {on} could earn {ORDER_POINTS_MAX + 1} points, and at most")


def test_no_rule_is_reckoned_beyond_64_bits() -> None:
    # 10**12 minor units × 1,000 points × 9,223: below 2**63.
    wide = {**BASE, "points": 1000, "per_minor": 10_000_000}
    parsed(earning=[wide, {**DOUBLE, "factor": "9223/10000"}])
    parsed(earning=[{**wide, "multiplied": False}, {**DOUBLE, "factor": "9239/1000"}])
    for changes in (
        {"earning": [wide, {**DOUBLE, "factor": "9239/1000"}]},
        {"earning": [wide, {**DOUBLE, "factor": "103/100"}], **levels({}, {"multiplier": "101/100"})},
    ):
        (problem,) = problems(**changes)
        assert problem.startswith("earning.0: its points could be reckoned from ")
    # A multiplier of another kind of fact does not count.
    parsed(earning=[wide, {**VISIT, "id": "b"}, {**DOUBLE, "factor": "9239/1000", "on": "activity"}])


def test_a_divisor_is_small_enough_that_twice_what_is_left_has_64_bits_too() -> None:
    # 10**12 × 9,999 × 999 is below 2**63, and twice that is not.
    fine = {**BASE, "per_minor": 10**12, "points": 1}
    parsed(earning=[fine, {**DOUBLE, "factor": "1/4611"}], **levels({}, {"multiplier": "1/1000"}))
    for second in ("1/4612", "1/9223"):
        (problem,) = problems(earning=[fine, {**DOUBLE, "factor": second}], **levels({}, {"multiplier": "1/1000"}))
        assert problem.startswith("earning.0: its points could be reckoned from ")


class Machine(int):
    """An integer of 64 bits: what does not fit raises, on the way too."""

    def __new__(cls, value: int) -> Machine:
        if not -(2**63) <= value < 2**63:
            raise OverflowError(value)
        return super().__new__(cls, value)

    def __add__(self, other: int) -> Machine:
        return Machine(int(self) + int(other))

    def __sub__(self, other: int) -> Machine:
        return Machine(int(self) - int(other))

    def __rsub__(self, other: int) -> Machine:
        return Machine(int(other) - int(self))

    def __mul__(self, other: int) -> Machine:
        return Machine(int(self) * int(other))

    def __floordiv__(self, other: int) -> Machine:
        return Machine(int(self) // int(other))

    def __rfloordiv__(self, other: int) -> Machine:
        return Machine(int(other) // int(self))

    __radd__, __rmul__ = __add__, __mul__


@contextmanager
def machine_words() -> Iterator[None]:
    """Meanwhile the integer functions are given integers of 64 bits, whatever they are called with."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("quotient", "share", "room"):
            patch.setattr(arithmetic, name, narrow(getattr(arithmetic, name)))
        yield


def narrow(function: Callable[..., int]) -> Callable[..., int]:
    return lambda *values: Machine(function(*map(Machine, values)))


FACTORS = st.one_of(
    st.sampled_from(["1", "1000", "1/10000", "9999/10000", "999.999", "99.9999", "3/2", "0"]),
    st.builds("{}/{}".format, st.integers(0, 999_999), st.integers(1, 10_000)),
    st.builds("{}.{:04}".format, st.integers(0, 999), st.integers(0, 9_999)),
)
AMOUNTS = st.one_of(st.sampled_from([0, 1, 10**11, 10**12]), st.integers(0, 10**12))
PER_MINOR = st.one_of(st.sampled_from([1, 10**6, 10**12]), st.integers(1, 10**12))
PER_PIECE = st.one_of(st.sampled_from([1, 10**9]), st.integers(1, 10**9))
GIVEN = st.one_of(st.sampled_from([1, 1000, 10**9]), st.integers(1, 10**9))


def _rule(place: int, points: int, minor: int | None, piece: int | None, **more: Any) -> Document:
    measure = {"kind": "per_amount", "per_minor": minor, "per_quantity": piece} if minor or piece else {"kind": "fixed"}
    return {"id": f"r{place}", "points": points, **measure, **more}


RULES = st.lists(
    st.builds(
        lambda points, minor, piece, on, whole, multiplied: (points, minor, piece, on, whole, multiplied),
        GIVEN,
        st.none() | PER_MINOR,
        PER_PIECE,
        st.sampled_from(["minor", "piece", "fixed"]),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rules=RULES,
    multipliers=st.lists(FACTORS, max_size=2),
    level=FACTORS,
    rates=st.lists(FACTORS.filter(lambda text: Fraction(text) > 0), max_size=2),
    rounding=st.sampled_from(["floor", "ceil", "half_up", "half_even"]),
    qualify=st.sampled_from(["points", "base"]),
    lines=st.lists(st.tuples(AMOUNTS, st.sampled_from([1, 10**9]) | st.integers(1, 10**9)), min_size=1, max_size=4),
    currency=st.sampled_from(["USD", "AAA", "BBB"]),
    held=st.sampled_from(["basic", "gold"]),
)
def test_what_is_published_is_reckoned_in_64_bits_whatever_is_bought(
    rules: list[tuple[Any, ...]],
    multipliers: list[str],
    level: str,
    rates: list[str],
    rounding: str,
    qualify: str,
    lines: list[tuple[int, int]],
    currency: str,
    held: str,
) -> None:
    earning = [
        _rule(
            place,
            points,
            (minor or 100) if on == "minor" else None,
            piece if on == "piece" else None,
            multiplied=multiplied,
            **({"whole": whole_only} if on != "fixed" else {}),
        )
        for place, (points, minor, piece, on, whole_only, multiplied) in enumerate(rules)
    ]
    earning += [{"id": f"m{place}", "kind": "multiplier", "factor": one} for place, one in enumerate(multipliers)]
    document = {
        **DOCUMENT,
        "earning": earning,
        "currencies": [
            {"code": code, "rate": one, "name": "x"} for code, one in zip(["AAA", "BBB"], rates, strict=False)
        ],
        "rounding": rounding,
        **tier(qualify=qualify, levels=[LEVELS[0], {**LEVELS[1], "multiplier": level}]),
    }
    try:
        rule_set = parse_rule_set(document, "x")
    except RuleSetError:
        return
    assert RuleSet.model_validate_json(rule_set.canonical()) == rule_set
    ready_rules = Rules(rule_set, UTC_ZONE)
    with machine_words():
        seen = measured_purchase(LoyaltyAccount(UUID(int=1)), _bought(lines, currency), ready_rules, NOBODY)
        if seen is None:
            assert currency not in ("USD", *(one.code for one in rule_set.currencies))
            return
        for lot in ready_rules.earn(seen, held, UUID(int=1), lambda *_: Machine(0)):
            assert lot.points <= ORDER_POINTS_MAX + len(rules)
            assert sum(line.points for line in lot.lines) == lot.points
            for line in lot.lines:
                for upto in {0, line.basis // 2, line.basis} if line.basis else ():
                    arithmetic.share(line.points, upto, line.basis)


def _bought(lines: list[tuple[int, int]], currency: str) -> PurchaseRecorded:
    """A purchase as large as the book takes it, with amounts of 64 bits."""
    left, pieces = ORDER_MINOR_MAX, QUANTITY_MAX
    found = []
    for net, quantity in lines:
        net, quantity = min(net, left), max(1, min(quantity, pieces - len(lines)))
        left, pieces = left - net, pieces - quantity
        line = Line(sku="s", quantity=quantity, net_minor=net)
        found.append(line.model_copy(update={"net_minor": Machine(net), "quantity": Machine(quantity)}))
    purchase: Any = PurchaseRecorded
    made: PurchaseRecorded = purchase.model_construct(currency=currency, lines=tuple(found), store=None, effective_us=0)
    return made


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


# ── the document as it is kept ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["whole", *PACKAGED])
def test_the_kept_document_reads_back_as_the_same_rule_set(name: str) -> None:
    rule_set = whole() if name == "whole" else load_rule_set(name)
    assert RuleSet.model_validate_json(rule_set.canonical()) == rule_set
    assert parse_rule_set(json.loads(rule_set.canonical()), "kept") == rule_set
    assert compiled(rule_set.canonical(), UTC_ZONE).rule_set == rule_set
    assert RuleSet.model_validate_json(rule_set.canonical()).canonical() == rule_set.canonical()


def test_a_document_that_was_kept_is_checked_again_when_it_is_read() -> None:
    broken = whole().canonical().replace("order.net_minor", "order.colour")
    with pytest.raises(ValidationError, match=r"earning\.0\.when: line 1, column 1"):
        RuleSet.model_validate_json(broken)


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_keys(rng: random.Random) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffled(one)) for key, one in value.items()]
            rng.shuffle(items)
            return dict(items)
        return [shuffled(one) for one in value] if isinstance(value, list) else value

    assert parse_rule_set(shuffled(tomllib.loads(WHOLE)), "x").digest() == whole().digest()


def test_the_digest_does_not_depend_on_how_a_value_is_written() -> None:
    def written(factor: object, **changes: Any) -> str:
        return parsed(earning=[BASE, {**DOUBLE, "factor": factor}], **changes).digest()

    assert written("1.5") == written("3/2") == written("6/4", zone="UTC", description="", limits=[], caps={})
    assert written(2) == written("2") == written("2/1")
    texts = ['order.net_minor>1&&(account.tier=="gold")', "order.net_minor > 1 && account.tier == 'gold'"]
    assert len({parsed(**earn(when=text)).digest() for text in texts}) == 1
    macros = ["lines.exists(l, l.sku == 'a')", 'lines.exists(one, (one.sku == "a"))']
    assert len({parsed(**earn(when=text)).digest() for text in macros}) == 1
    assert parsed(**earn(starts="2025-01-01")).digest() == parsed(**earn(starts=date(2025, 1, 1))).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"rounding": "ceil"},
        {"description": "x"},
        {"zone": "Europe/Rome"},
        {"earning": [{**BASE, "when": "order.net_minor > 1"}]},
        {"earning": [{**BASE, "multiplied": False}]},
        {"caps": {"day": 5}},
        {"expiry": {"months": 12, "from": "activated"}},
        {"rewards": [REWARD]},
        {"tiers": {**ROLLING, "grace_days": 1}},
    ],
)
def test_the_digest_changes_with_the_document(change: Document) -> None:
    assert parsed(**change).digest() != parsed().digest()


def test_a_condition_that_is_too_long_when_it_is_written_out_is_refused() -> None:
    short = " || ".join(['lines.exists(l,l.sku=="a")'] * 130)
    assert len(short) < 4000
    assert problems(**earn(when=short)) == ("earning.0.when: written out, this has more than 4000 characters",)
    assert problems(**earn(when="x" * 4001))[0].startswith("earning.0.when: ")


def test_a_document_that_is_too_long_when_it_is_written_out_is_refused_soon() -> None:
    rewards = [{"id": f"reward-{number}", "price": 1} for number in range(20_000)]
    (problem,) = problems(rewards=rewards)
    assert problem.startswith("document: written out, this has more than 1000000 characters")


def test_the_page_tells_of_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rule-sets.md").read_text(encoding="utf-8")
    told = {name.split(".")[-1] for name in re.findall(r"`([\w.]+)`", page)} | set(re.findall(r"\b(\w+) = ", page))
    assert {key.split(".")[-1] for key in keys_of(json.loads(whole().canonical()))} - told == {"spending"}
    for on in ("purchase", "activity", "enrolment", "referral"):
        assert {name for name in fields_of(whole())[on].types if f"`{name}`" not in page} == set()


def test_the_canonical_form_and_the_digest_are_pinned() -> None:
    # A change would make every adopted rule set "adopted with other content".
    assert parsed().canonical() == (
        '{"amount":{"include":["net"]},"caps":{},"currencies":[],"currency":"USD","description":"","earning":'
        '[{"caps":{},"control_percent":0,"gives":"both","id":"base","kind":"per_amount","multiplied":true,"on'
        '":"purchase","per_minor":100,"points":1,"whole":false}],"expiry":{"from":"earned","months":12,"never'
        '":false,"until":"exact"},"groups":{},"holds_days":30,"limits":[],"name":"standard","point_price":"1/'
        '1","programme":"main","refunds":{"earning":"debt","redemption":"original"},"rewards":[],"rounding":"'
        'floor","tiers":{"basis":"qualifying","downgrade":"straight","grace_days":0,"hold_months":0,"levels":'
        '[{"benefits":[],"grants":[],"multiplier":"1/1","name":"basic","threshold":0},{"benefits":[],"grants"'
        ':[],"multiplier":"1/1","name":"gold","threshold":100}],"qualify":"points","window":"rolling","window'
        '_months":12},"transfers":{"allowed":false,"keep_ages":true},"version":"1","zone":"UTC"}'
    )
    assert whole().digest() == "de008f1ba072294ad4fe3d96ead0f96e9b59f95df33e06fbd5b2c66759b8c520"


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
