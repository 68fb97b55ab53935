"""Rule sets: what earns points, when points expire, how refunds and tiers work. Written once, as data.

A rule set is a document (TOML). All its arithmetic is on integers and fractions; every rounding has a name. What it
gives for a fact is in `earning`, how tiers move in `tiers`.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from . import arithmetic
from .calendar import Zone, days_from_civil
from .errors import RuleSetError
from .events import CODE_CHARS_MAX, Code, Value
from .expressions import Booleans, Codes, Expression, ExpressionError, Fields, Integers, Possible, parse
from .lots import DAYS, EXACT, FOR_EVER, MONTH_END, MONTHS, YEAR_END, end_us

Whole = Annotated[int, Field(strict=True)]
Text = Annotated[str, Field(strict=True)]
YesNo = Annotated[bool, Field(strict=True)]
PointsGiven = Annotated[Whole, Field(ge=1, le=1_000_000_000)]
CapSize = Annotated[Whole, Field(ge=0, le=10**15)]
CONDITION_CHARS_MAX = 4000
Condition = Annotated[str, Field(strict=True, min_length=1, max_length=CONDITION_CHARS_MAX)]
"""An expression (docs/expressions.md) that is true or false."""

ORDER_MINOR_MAX = 10**12
"""Most that one purchase comes to, with tax and shipping, in minor units."""
QUANTITY_MAX = 10**9
"""Largest quantity of a purchase, all lines together, or of an activity."""
LINES_MAX = 10_000
"""Most lines of a purchase."""
ORDER_POINTS_MAX = 10**15
"""Most points that a rule set may give for one fact: 64-bit sums then hold thousands of them."""
CURRENCY = r"^[A-Z]{3}$"
DOCUMENT_CHARS_MAX = 1_000_000
"""How long a rule set may be, in its canonical form."""


def _date(value: object) -> object:
    # A number would be read as seconds since 1970, a time as its date.
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        raise ValueError("write a day as 2025-12-24")
    if not isinstance(value, (date, str)) or isinstance(value, datetime):
        raise ValueError("write a day as 2025-12-24, without a time")
    return value


Day = Annotated[date, BeforeValidator(_date)]


class Misplaced(ValueError):
    """What is wrong within a part of a document, each with its path from there."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{path}: {message}" for path, message in problems))


def _twice(where: str, key: str, names: Sequence[str], taken: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    known = set(taken)
    for place, name in enumerate(names):
        if name in known:
            yield f"{where}.{place}.{key}".removesuffix("."), f"{name!r} is there twice"
        known.add(name)


def _shown(text: str) -> str:
    if any(unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t" for sign in text):
        raise ValueError("a text has no control characters but line ends and tabs: take them out")
    return text


Description = Annotated[str, Field(strict=True, max_length=10_000), AfterValidator(_shown)]


class Document(Value):
    """A part of a rule set: unknown keys are refused. One that a host hands in is validated anew, as its fields are
    now: it may be a copy with other ones."""

    model_config = ConfigDict(strict=False, revalidate_instances="always")


_FACTOR = re.compile(r"\d{1,6}(/\d{1,6}|\.\d{1,6})?", re.ASCII)


def _fraction(given: object) -> Fraction:
    if isinstance(given, str) and _FACTOR.fullmatch(given):
        try:
            value = Fraction(given)
        except ZeroDivisionError:
            raise ValueError(f'{given!r} is no factor: write 2, "3/2" or "1.5"') from None
    elif isinstance(given, (int, Fraction)) and not isinstance(given, bool):
        value = Fraction(given)
    else:
        raise ValueError('write a factor as a whole number or as a text like "3/2" or "1.5"')
    if not 0 <= value <= 1000 or value.denominator > 10_000:
        raise ValueError("a factor lies between 0 and 1000, with a denominator of at most 10000")
    if value.numerator > 999_999:
        raise ValueError(f"as a fraction this is {value}, and a factor has six digits at most: round it")
    return value


Factor = Annotated[
    Any, AfterValidator(_fraction), PlainSerializer(lambda value: f"{value.numerator}/{value.denominator}")
]

Rounding = Literal["floor", "ceil", "half_up", "half_even"]
ROUNDINGS: dict[str, int] = {
    "floor": arithmetic.FLOOR,
    "ceil": arithmetic.CEIL,
    "half_up": arithmetic.HALF_UP,
    "half_even": arithmetic.HALF_EVEN,
}


def rounded(numerator: int, denominator: int, rounding: Rounding) -> int:
    """A quotient of non-negative integers as an integer, by a named rounding. `denominator` is above 0."""
    return arithmetic.quotient(numerator, denominator, ROUNDINGS[rounding])


ALL_RULES = "all"
"""The counter of a programme's own caps: no rule may be called so."""
LIMITS = "limit:"
"""Counters of limits begin so: no rule may be called so either."""

Period = Literal["day", "month", "year"]


class Caps(Document):
    """Most points for one fact, and in one day, month or year of the programme's zone, by effective time.

    What a return takes back does not make room again: else buying and returning would farm points.
    """

    event: CapSize | None = None
    day: CapSize | None = None
    month: CapSize | None = None
    year: CapSize | None = None

    @property
    def periods(self) -> list[tuple[str, int]]:
        """The periods that are capped, with their caps."""
        named = {"day": self.day, "month": self.month, "year": self.year}
        return [(period, cap) for period, cap in named.items() if cap is not None]

    def idle(self, path: str) -> Iterator[tuple[str, str]]:
        """Caps that a narrower one keeps from ever being reached; those of 0, which let nothing through."""
        longer: int | None = None
        for period, cap in reversed([("event", self.event), *self.periods]):
            if cap is None:
                continue
            if cap == 0:
                yield f"{path}.{period}", "this lets nothing through"
            elif longer is not None and cap >= longer:
                yield f"{path}.{period}", f"the cap of {longer} over a longer time is reached first"
            longer = cap if longer is None else min(cap, longer)


class Expiry(Document):
    """Points expire so many months or days after they were earned (or activated), or never.

    `until = "month_end"` extends to the midnight at which that month ends (earned 6 July with 12 months: 1 August
    of the next year), `"year_end"` to that of the year. `inactivity_months`: all of an account's points expire where
    it neither earned nor redeemed for so long.
    """

    months: Annotated[Whole, Field(ge=0, le=1200)] | None = None
    days: Annotated[Whole, Field(ge=1, le=36_500)] | None = None
    never: YesNo = False
    until: Literal["exact", "month_end", "year_end"] = "exact"
    counted_from: Annotated[Literal["earned", "activated"], Field(alias="from")] = "earned"

    @model_validator(mode="after")
    def _one_form(self) -> Expiry:
        if (self.months is not None) + (self.days is not None) + self.never != 1:
            raise ValueError("give exactly one of months, days, never = true")
        if self.until == "exact" and self.months == 0:
            raise ValueError('months = 0 needs until = "month_end" or "year_end"')
        return self

    @property
    def form(self) -> tuple[int, int, int]:
        """As `lots.end_us` takes it: unit, count, until."""
        if self.never:
            return FOR_EVER, 0, EXACT
        return (MONTHS if self.days is None else DAYS), self.months or self.days or 0, _UNTIL[self.until]

    def expires_us(self, from_us: int, zone: Zone) -> int:
        """When points that count from a moment expire: the first instant at which they are gone. NEVER: they don't."""
        return end_us(zone.starts_us, zone.offsets_s, zone.turns_us, from_us, *self.form)


_UNTIL = {"exact": EXACT, "month_end": MONTH_END, "year_end": YEAR_END}


class Pending(Document):
    """When points that were earned can be spent: after `days`, or once it is `confirmed` that nothing will come back
    (delivered, the time to return is over), and then after `days` at the latest, if given.
    """

    days: Annotated[Whole, Field(ge=1, le=3650)] | None = None
    confirmed: YesNo = False

    @model_validator(mode="after")
    def _one_form(self) -> Pending:
        if self.days is None and not self.confirmed:
            raise ValueError("give days, or confirmed = true")
        return self


class _Earning(Document):
    """What all earning rules have. `on`: which facts. From the local day `starts` until the day `ends` (included)."""

    id: Code
    on: Literal["purchase", "activity", "enrolment", "referral"] = "purchase"
    when: Condition | None = None
    starts: Day | None = None
    ends: Day | None = None

    @model_validator(mode="after")
    def _in_order(self) -> _Earning:
        if self.starts and self.ends and self.ends < self.starts:
            raise ValueError("ends lies before starts")
        return self

    @property
    def dated(self) -> bool:
        """Whether it is of some days only."""
        return self.starts is not None or self.ends is not None

    @property
    def days(self) -> tuple[int, int]:
        """First and last local day, as days since 1970-01-01."""
        first = -(2**40) if self.starts is None else _day(self.starts)
        return first, 2**40 if self.ends is None else _day(self.ends)


def _day(of: date) -> int:
    return days_from_civil(of.year, of.month, of.day)


class _Giving(_Earning):
    """What all rules have that give points.

    `gives`: points to spend, points that qualify for a tier, or both. `group`: of the rules of a group only the best,
    or the first, counts, as the rule set's `groups` says; without one it is added. `multiplied`: whether
    multipliers apply. `campaign` names the campaign that it belongs to; `control_percent` of the accounts, drawn by
    their ids, are its control group and don't get it.
    """

    points: PointsGiven
    gives: Literal["both", "points", "qualifying"] = "both"
    group: Code | None = None
    multiplied: YesNo = True
    caps: Caps = Caps()
    expiry: Expiry | None = None
    pending: Pending | None = None
    campaign: Code | None = None
    control_percent: Annotated[Whole, Field(ge=0, le=99)] = 0

    @model_validator(mode="after")
    def _control(self) -> _Giving:
        if self.control_percent and self.campaign is None:
            raise ValueError("a control group belongs to a campaign: name it")
        return self


class PerAmount(_Giving):
    """`points` for each `per_minor` of the amount of the lines that `lines` picks (default: all), or for each
    `per_quantity` of their pieces (of an activity: of its quantity). `whole`: for whole multiples of it only.
    """

    kind: Literal["per_amount"]
    per_minor: Annotated[Whole, Field(ge=1, le=10**12)] | None = None
    per_quantity: Annotated[Whole, Field(ge=1, le=10**9)] | None = None
    whole: YesNo = False
    lines: Condition | None = None

    @model_validator(mode="after")
    def _one_measure(self) -> PerAmount:
        if (self.per_minor is None) == (self.per_quantity is None):
            raise ValueError("give per_minor or per_quantity, one of them")
        if self.on == "activity" and self.per_minor is not None:
            raise ValueError("an activity has a quantity and no amount: give per_quantity")
        if self.on in ("enrolment", "referral"):
            raise ValueError(f"{'an' if self.on == 'enrolment' else 'a'} {self.on} has no amount: use kind = fixed")
        if self.lines is not None and self.on != "purchase":
            raise ValueError("only a purchase has lines")
        return self

    @property
    def per(self) -> int:
        """How much of amount or quantity gives `points`."""
        return self.per_minor or self.per_quantity or 1


class Fixed(_Giving):
    """`points` for a fact, whatever its amount."""

    kind: Literal["fixed"]


class Multiplier(_Earning):
    """Multiplies what the other rules give. Where several apply, the greatest alone counts; a level's comes on top."""

    kind: Literal["multiplier"]
    factor: Factor


EarningRule = Annotated[PerAmount | Fixed | Multiplier, Field(discriminator="kind")]


class Amount(Document):
    """What of a line counts: net, tax, shipping; nothing of lines that `exclude` picks (gift cards)."""

    include: Annotated[tuple[Literal["net", "tax", "shipping"], ...], Field(min_length=1)] = ("net",)
    exclude: Condition | None = None

    @model_validator(mode="after")
    def _once(self) -> Amount:
        if found := list(_twice("include", "", self.include)):
            raise Misplaced(*found)
        return self


def _some(rate: Fraction) -> Fraction:
    if not rate:
        raise ValueError("a rate is above 0; orders in a currency without one earn nothing")
    return rate


class Currency(Document):
    """A currency that orders may have beside the programme's: `rate` of its minor units make one of the programme's
    times `rate`. `name` says where the rate is from.
    """

    code: Annotated[str, Field(pattern=CURRENCY)]
    rate: Annotated[Factor, AfterValidator(_some)]
    name: Code


class Level(Document):
    """A tier, reached with at least `threshold` qualifying points, and kept with `keep` (default: the same).

    `multiplier` on points earned while it is held. `benefits` are for the host (priority-service); `grants` are
    rewards given as coupons when the level is reached.
    """

    name: Code
    threshold: Annotated[Whole, Field(ge=0, le=10**12)]
    keep: Annotated[Whole, Field(ge=0, le=10**12)] | None = None
    multiplier: Factor = Fraction(1)
    benefits: tuple[Code, ...] = ()
    grants: tuple[Code, ...] = ()

    @property
    def keeps(self) -> int:
        """Points that keep it."""
        return self.threshold if self.keep is None else self.keep


class Tiers(Document):
    """Tiers by qualifying points in a window of the programme's zone, or by the balance.

    `window`: `rolling` (a point counts from when it was earned until the same day `window_months` later begins),
    `calendar_year`, `membership_year` (from the day of enrolment), `lifetime`. Of a calendar or membership year, what
    was earned in it holds a level until the end of the next.

    Upgrades are immediate. Down it goes when points leave the rolling window, or when a year ends: straight to what is
    earned, one level, or never (`downgrade`); `grace_days` later, if it is still so; not before a level was held for
    `hold_months`. A return that takes qualifying points away lowers the tier at once, straight.
    """

    window: Literal["rolling", "calendar_year", "membership_year", "lifetime"] = "rolling"
    window_months: Annotated[Whole, Field(ge=1, le=1200)] | None = None
    basis: Literal["qualifying", "balance"] = "qualifying"
    qualify: Literal["points", "base"] = "points"
    downgrade: Literal["straight", "one_step", "never"] = "straight"
    grace_days: Annotated[Whole, Field(ge=0, le=3650)] = 0
    hold_months: Annotated[Whole, Field(ge=0, le=1200)] = 0
    levels: Annotated[list[Level], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Tiers:
        found = list(_twice("levels", "name", [level.name for level in self.levels]))
        if self.levels[0].threshold != 0:
            found.append(("levels.0.threshold", "the first level is where everybody starts: its threshold is 0"))
        before: Level | None = None
        for place, level in enumerate(self.levels):
            if before is not None and level.threshold <= before.threshold:
                found.append((f"levels.{place}.threshold", "levels stand in order of rising thresholds"))
            if level.keeps > level.threshold:
                found.append((f"levels.{place}.keep", "a level is kept with at most the points that reach it"))
            elif before is not None and level.keeps < before.keeps:
                found.append((f"levels.{place}.keep", "keep never falls from level to level"))
            before = level
        if found:
            raise Misplaced(*found)
        if (self.window == "rolling") != (self.window_months is not None):
            raise ValueError("window_months belongs to a rolling window, which needs it")
        if self.basis == "balance" and (self.window, self.grace_days, self.hold_months) != ("lifetime", 0, 0):
            raise ValueError('tiers by the balance have no window: give window = "lifetime", no grace, no hold')
        if self.downgrade == "one_step" and self.window == "rolling" and not self.hold_months:
            raise ValueError("one_step in a rolling window needs hold_months: else all steps come at once")
        return self


class Refunds(Document):
    """What a return takes back of what was earned: `pending_only` (only points that are pending still),
    `within_balance` (at most what is there), `debt` (the rest becomes a debt that the next points pay).

    What a redemption gives back that is taken back: the `original` lots with their ages, or a `new_lot`.
    """

    earning: Literal["pending_only", "within_balance", "debt"] = "debt"
    redemption: Literal["original", "new_lot"] = "original"


class Transfers(Document):
    """Whether points may go from account to account, and whether they keep their ages there."""

    allowed: YesNo = False
    keep_ages: YesNo = True


class Limit(Document):
    """At most so many times, or so many points, in a day, month or year: against fraud."""

    on: Literal["earn", "redeem", "transfer"]
    period: Period
    count: Annotated[Whole, Field(ge=1, le=10**9)] | None = None
    points: Annotated[Whole, Field(ge=1, le=10**15)] | None = None

    @model_validator(mode="after")
    def _something(self) -> Limit:
        if self.count is None and self.points is None:
            raise ValueError("give count or points")
        return self


class Reward(Document):
    """Something to be had for points. `tiers`, `segments`: for whom (default: for all). `counted`: it has a stock.

    `coupon_days`: paid with a coupon that lives so long. `voided`: whether points come back with a voided coupon.
    """

    id: Code
    price: Annotated[Whole, Field(ge=1, le=10**12)]
    tiers: tuple[Code, ...] = ()
    segments: tuple[Code, ...] = ()
    counted: YesNo = False
    coupon_days: Annotated[Whole, Field(ge=1, le=36_500)] | None = None
    voided: Literal["returned", "forfeited"] = "returned"


class RuleSet(Document):
    """A versioned set of scoring rules for one programme."""

    name: Code
    version: Code
    programme: Code = "main"
    description: Description = ""
    currency: Annotated[str, Field(pattern=CURRENCY)]
    currencies: tuple[Currency, ...] = ()
    zone: str = "UTC"
    rounding: Rounding = "floor"
    amount: Amount = Amount()
    earning: Annotated[list[EarningRule], Field(min_length=1)]
    groups: dict[Code, Literal["best", "first"]] = Field(default_factory=dict)
    caps: Caps = Caps()
    expiry: Expiry
    inactivity_months: Annotated[Whole, Field(ge=1, le=1200)] | None = None
    pending: Pending | None = None
    refunds: Refunds = Refunds()
    holds_days: Annotated[Whole, Field(ge=1, le=3650)] = 30
    transfers: Transfers = Transfers()
    limits: tuple[Limit, ...] = ()
    rewards: tuple[Reward, ...] = ()
    tiers: Tiers
    point_price: Factor = Fraction(1)
    """What a point is worth when it is sold by itself, in minor units: IFRS 15 allocates by it."""

    @model_validator(mode="after")
    def _consistent(self) -> RuleSet:
        """Names are there once and name what is there; every condition can be evaluated on every fact."""
        found = [
            *_twice("earning", "id", [rule.id for rule in self.earning]),
            *_twice("rewards", "id", [reward.id for reward in self.rewards]),
            *_twice("currencies", "code", [one.code for one in self.currencies], [self.currency]),
            *self._limits_twice(),
        ]
        if all(isinstance(rule, Multiplier) for rule in self.earning):
            found.append(("earning", "no rule gives points: add one of kind per_amount or fixed"))
        named: set[str] = set()
        for place, rule in enumerate(self.earning):
            if rule.id == ALL_RULES:
                found.append((f"earning.{place}.id", f"{ALL_RULES!r} counts for all rules: choose another name"))
            if rule.id.startswith(LIMITS):
                found.append(
                    (f"earning.{place}.id", f"what begins with {LIMITS!r} counts for limits: choose another name")
                )
            if isinstance(rule, Multiplier) or rule.group is None:
                continue
            named.add(rule.group)
            if rule.group not in self.groups:
                found.append((f"earning.{place}.group", f'say what counts: groups = {{ {rule.group} = "best" }}'))
        found += [(f"groups.{group}", "no rule is of this group") for group in self.groups if group not in named]
        tiers = [level.name for level in self.tiers.levels]
        rewards = {reward.id: reward for reward in self.rewards}
        for place, reward in enumerate(self.rewards):
            found += _twice(f"rewards.{place}.tiers", "", reward.tiers)
            found += _twice(f"rewards.{place}.segments", "", reward.segments)
            for number, tier in enumerate(reward.tiers):
                if tier not in tiers:
                    found.append((f"rewards.{place}.tiers.{number}", f"no tier is called {tier!r}"))
        for place, level in enumerate(self.tiers.levels):
            found += _twice(f"tiers.levels.{place}.benefits", "", level.benefits)
            found += _twice(f"tiers.levels.{place}.grants", "", level.grants)
            for number, grant in enumerate(level.grants):
                path, granted = f"tiers.levels.{place}.grants.{number}", rewards.get(grant)
                if granted is None or granted.coupon_days is None:
                    found.append((path, f"no reward with coupon_days is called {grant!r}"))
                elif granted.counted:
                    found.append((path, f"{grant!r} has a stock, which a grant does not look at: take counted from it"))
        found += self._parsed[1]
        if not found:
            found += self._overflowing()
        if not found and len(self.canonical()) > DOCUMENT_CHARS_MAX:
            found.append(("", f"written out, this has more than {DOCUMENT_CHARS_MAX} characters: take parts out of it"))
        if found:
            raise Misplaced(*found)
        return self

    def _limits_twice(self) -> Iterator[tuple[str, str]]:
        known: set[tuple[str, str, str]] = set()
        for place, limit in enumerate(self.limits):
            for key in ("count", "points"):
                named = (limit.on, limit.period, key)
                if getattr(limit, key) is not None and named in known:
                    yield f"limits.{place}.{key}", f"{limit.on} has such a limit in a {limit.period} already: give one"
                if getattr(limit, key) is not None:
                    known.add(named)

    def _overflowing(self) -> Iterator[tuple[str, str]]:
        """Rules whose arithmetic could leave 64 bits, and facts for which more could be given than can be counted."""
        amount = self.amount_max
        levels = [Fraction(1), *(level.multiplier for level in self.tiers.levels)]
        for on in ON:
            multipliers = [rule.factor for rule in self.earning if isinstance(rule, Multiplier) and rule.on == on]
            factors = [one * other for one in (Fraction(1), *multipliers) for other in levels]
            most = Fraction(0)
            for place, rule in enumerate(self.earning):
                if isinstance(rule, Multiplier) or rule.on != on:
                    continue
                measured, per = 1, 1
                if isinstance(rule, PerAmount):
                    measured, per = QUANTITY_MAX if rule.per_minor is None else amount, rule.per
                applied = factors if rule.multiplied else [Fraction(1)]
                product = rule.points * measured * max(factor.numerator for factor in applied)
                # To round, twice the rest is compared, which is below the divisor.
                reckoned = max(product, 2 * per * max(factor.denominator for factor in applied))
                if reckoned > arithmetic.INTEGER_MAX:
                    yield (
                        f"earning.{place}",
                        f"its points could be reckoned from {reckoned}, and integers have 64 bits: write points and "
                        "factors with smaller numbers",
                    )
                most += Fraction(rule.points * measured, per) * max(applied)
            if most > ORDER_POINTS_MAX:
                yield (
                    "earning",
                    f"one {on} could earn {int(most)} points, and at most {ORDER_POINTS_MAX} can be counted: raise "
                    "per_minor or per_quantity, or lower points, factors or rates",
                )

    @property
    def amount_max(self) -> int:
        """Most that a purchase comes to in the programme's currency: lines are converted, and rounded, one by one."""
        rates = [Fraction(1), *(one.rate for one in self.currencies)]
        return max(int(ORDER_MINOR_MAX * rate) + (0 if rate.denominator == 1 else LINES_MAX) for rate in rates)

    @property
    def conditions(self) -> Mapping[str, Expression]:
        """The conditions by their path in the document (`earning.0.when`)."""
        return self._parsed[0]

    @property
    def _parsed(self) -> tuple[Mapping[str, Expression], tuple[tuple[str, str], ...]]:
        """The conditions by their path, and what is wrong with those that can't be read."""
        found: dict[str, Expression] = {}
        wrong: list[tuple[str, str]] = []
        fields = fields_of(self)
        for path, condition, of in self._written():
            try:
                found[path] = parse(condition, fields[of])
            except ExpressionError as error:
                wrong.append((path, str(error)))
            else:
                if len(str(found[path])) > CONDITION_CHARS_MAX:
                    wrong.append((path, f"written out, this has more than {CONDITION_CHARS_MAX} characters"))
        return found, tuple(wrong)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and does nothing, each with its path: conditions that never change, caps that never bind."""
        return tuple(f"{path}: {message}" for path, message in self._idle())

    def _idle(self) -> Iterator[tuple[str, str]]:
        for path, condition in self.conditions.items():
            for finding in condition.warnings:
                yield path, str(finding)
            if isinstance(condition.gives, Booleans) and condition.gives.true != condition.gives.false:
                yield path, f"this is {'always' if condition.gives.true else 'never'} true"
        multiplied = {rule.on for rule in self.earning if not isinstance(rule, Multiplier) and rule.multiplied}
        for place, rule in enumerate(self.earning):
            if isinstance(rule, Multiplier):
                if rule.on not in multiplied:
                    yield f"earning.{place}", f"no rule that is multiplied gives points for a {rule.on}"
            else:
                yield from rule.caps.idle(f"earning.{place}.caps")
        yield from self.caps.idle("caps")
        for group in self.groups:
            if sum(not isinstance(rule, Multiplier) and rule.group == group for rule in self.earning) == 1:
                yield f"groups.{group}", "one rule alone is of this group"
        for place, limit in enumerate(self.limits):
            if limit.on == "transfer" and not self.transfers.allowed:
                yield f"limits.{place}", "transfers are not allowed at all"
        if self.refunds.earning == "pending_only" and not self._ever_pending():
            yield "refunds.earning", "no points are ever pending, so a return takes nothing back"
        for place, level in enumerate(self.tiers.levels):
            if not level.multiplier:
                yield f"tiers.levels.{place}.multiplier", "by this, what is multiplied earns nothing while it is held"
        if self.tiers.levels[0].grants:
            yield "tiers.levels.0.grants", "nobody reaches the first level from another, so these are never given"
        if self.tiers.basis == "balance" and self.tiers.qualify != "points":
            yield "tiers.qualify", "tiers by the balance count no qualifying points"

    def _ever_pending(self) -> bool:
        rules = [rule for rule in self.earning if not isinstance(rule, Multiplier)]
        return self.pending is not None or any(rule.pending is not None for rule in rules)

    def _written(self) -> Iterator[tuple[str, str, str]]:
        if self.amount.exclude is not None:
            yield "amount.exclude", self.amount.exclude, "exclude"
        for place, rule in enumerate(self.earning):
            if rule.when is not None:
                yield f"earning.{place}.when", rule.when, rule.on
            if isinstance(rule, PerAmount) and rule.lines is not None:
                yield f"earning.{place}.lines", rule.lines, "lines"

    @property
    def label(self) -> str:
        """`name@version`, as decisions name it."""
        return f"{self.name}@{self.version}"

    def canonical(self) -> str:
        """The document as canonical JSON, defaults and conditions spelt out: what is adopted, digested and stored."""
        document = self.model_dump(mode="json", exclude_none=True, by_alias=True)
        for path, condition in self.conditions.items():
            *within, key = path.split(".")
            part: Any = document
            for step in within:
                part = part[int(step) if isinstance(part, list) else step]
            part[key] = str(condition)
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of the canonical document, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


ON = ("purchase", "activity", "enrolment", "referral")
"""Kinds of facts that earn."""
_WEEK = 7
_FACT: dict[str, Possible] = {
    "fact.year": Integers(1, 9999),
    "fact.month": Integers(1, 12),
    "fact.day": Integers(1, 31),
    "fact.weekday": Integers(1, _WEEK),
    "fact.channel": Codes(),
    "account.member_days": Integers(0, 4_000_000),
    "customer.kind": Codes(("person", "organisation", "internal")),
    "customer.country": Codes(),
    "customer.source": Codes(),
    "customer.birth_month": Integers(0, 12),
}
_LINE: dict[str, Possible] = {
    "line.sku": Codes(),
    "line.category": Codes(),
    "line.quantity": Integers(1, QUANTITY_MAX),
}
_OF: dict[str, dict[str, Possible]] = {
    "purchase": {
        "order.quantity": Integers(1, QUANTITY_MAX),
        "order.currency": Codes(),
        "order.store": Codes(),
        **_LINE,
    },
    "activity": {
        "activity.code": Codes(),
        "activity.partner": Codes(),
        "activity.quantity": Integers(1, QUANTITY_MAX),
    },
    "enrolment": {},
    "referral": {
        "referral.occasion": Codes(("registration", "first_purchase", "every_purchase")),
        "referral.role": Codes(("referrer", "referred")),
        "referral.number": Integers(1, 10**9),
    },
}


def fields_of(rule_set: RuleSet) -> dict[str, Fields]:
    """What conditions may read: those on each kind of fact, those that pick `lines`, those that `exclude` some.

    A code that is not given is ""; a birth month, 0. What is excluded depends on the line alone: the order's amounts
    are reckoned from it.

    Amounts are in the programme's currency. `fact.*` is the time and the channel of the fact, in the programme's zone
    (`weekday` 1 is Monday); `account.*` the account before it.
    """
    known: dict[str, Possible] = {**_FACT, "account.tier": Codes(tuple(level.name for level in rule_set.tiers.levels))}
    amount = Integers(0, rule_set.amount_max)
    amounts = dict.fromkeys(("order.net_minor", "order.amount_minor", "line.net_minor"), amount)
    purchase = Fields({**known, **_OF["purchase"], **amounts}, Integers(1, LINES_MAX))
    return {
        **{on: Fields({**known, **_OF[on]}) for on in ON},
        "purchase": purchase,
        "lines": purchase.of_line(),
        "exclude": Fields({**_LINE, "line.net_minor": amount}),
    }


def parse_rule_set(document: object, source: str) -> RuleSet:
    """Validate a document, or a rule set as it is now; every problem names its path within. Raises RuleSetError."""
    made = isinstance(document, RuleSet)  # its fields have the names of Python, not those of documents
    try:
        return RuleSet.model_validate(document, by_alias=not made, by_name=made)
    except ValidationError as error:
        raise RuleSetError(source, problems_of(error)) from None


def problems_of(error: ValidationError) -> list[str]:
    """What is wrong with a document, each with its path within and how to mend it."""
    return [told for problem in error.errors() for told in _problems(problem)]


_IN_WORDS = {
    "missing": "this is required",
    "extra_forbidden": "there is no such key here: take it out, or correct its spelling",
    "string_type": "write a text",
    "string_unicode": "a text has characters of Unicode only: write it anew",
    "string_too_short": "write at least {min_length} character",
    "string_too_long": "write at most {max_length} characters",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "bool_type": "write true or false",
    "greater_than_equal": "write {ge} or more",
    "less_than_equal": "write {le} or less",
    "literal_error": "write {expected}",
    "too_short": "at least {min_length} has to be there",
    **dict.fromkeys(("list_type", "tuple_type"), "write a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "write a table: keys with values"),
    "union_tag_not_found": "name its kind: kind = per_amount, fixed or multiplier",
    "union_tag_invalid": "its kind is one of {expected_tags}",
}
"""What pydantic finds, by its type, as whoever wrote the document is told how to mend it."""


def _in_words(problem: ErrorDetails) -> str:
    kind, values = problem["type"], problem.get("ctx", {})
    if kind == "string_pattern_mismatch":
        if values["pattern"] == CURRENCY:
            return "write three capital letters, such as EUR"
        return f"a code is wanted: up to {CODE_CHARS_MAX} letters, digits and . : / + - _, without spaces"
    if kind.startswith("date_"):
        return "there is no such day: write a day as 2025-12-24"
    return _IN_WORDS.get(kind, problem["msg"].removeprefix("Value error, ")).format(**values)


def _problems(problem: ErrorDetails) -> Iterator[str]:
    place = [part for part in problem["loc"] if part != "[key]"]
    if len(place) > 2 and place[0] == "earning":
        del place[2]  # the kind, by which pydantic chose the form of the rule
    path = ".".join(str(part) for part in place)
    cause = problem.get("ctx", {}).get("error")
    told = cause.problems if isinstance(cause, Misplaced) else (("", _in_words(problem)),)
    for inner, message in told:
        yield f"{'.'.join(one for one in (path, inner) if one) or 'document'}: {message}"
