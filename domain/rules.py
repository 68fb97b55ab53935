"""Rule sets: what earns points, when points expire, how refunds and tiers work. Written once, as data.

A rule set is a document (TOML). All its arithmetic is on integers and fractions; every rounding has a name.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from .calendar import Zone
from .errors import RuleSetError
from .events import Code, Value

FIELDS: dict[str, type] = {
    "order.net_minor": int,
    "order.quantity": int,
    "order.lines": int,
    "order.month": int,
    "order.channel": str,
    "order.store": str,
    "account.tier": str,
    "line.sku": str,
    "line.category": str,
    "line.net_minor": int,
    "line.quantity": int,
}
"""What a predicate may read, and its type. `line.*` only where a predicate picks lines; a text not given is ""."""

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "in": lambda value, options: value in options,
}

Reader = Callable[[str], Any]
Whole = Annotated[int, Field(strict=True)]
Text = Annotated[str, Field(strict=True)]
YesNo = Annotated[bool, Field(strict=True)]
NotEmpty = Field(min_length=1)

ORDER_MINOR_MAX = 10**12
"""Largest net amount of one purchase, in minor units."""
ORDER_POINTS_MAX = 10**15
"""Most points that a rule set may give for one purchase: 64-bit sums then hold thousands of them."""


class Document(Value):
    """A part of a rule set: unknown keys are refused."""

    model_config = ConfigDict(strict=False)


class Predicate(Document):
    """A condition on one field, or all / any / not of conditions."""

    field: str | None = None
    op: Literal["==", "!=", ">=", ">", "<=", "<", "in"] | None = None
    value: Whole | Text | Annotated[list[Whole], NotEmpty] | Annotated[list[Text], NotEmpty] | None = None
    all: Annotated[list[Predicate], NotEmpty] | None = None
    any: Annotated[list[Predicate], NotEmpty] | None = None
    negated: Annotated[Predicate | None, Field(alias="not")] = None

    @model_validator(mode="after")
    def _one_form(self) -> Predicate:
        forms = [self.field is not None, self.all is not None, self.any is not None, self.negated is not None]
        if sum(forms) != 1:
            raise ValueError("a condition is either field/op/value, or one of all, any, not")
        if self.field is None:
            if self.op is not None or self.value is not None:
                raise ValueError("op and value belong to a condition with a field")
            return self
        if self.field not in FIELDS:
            raise ValueError(f"unknown field {self.field!r}; known: {', '.join(FIELDS)}")
        if self.op is None or self.value is None:
            raise ValueError("a condition on a field needs op and value")
        wanted = FIELDS[self.field]
        values = self.value if isinstance(self.value, list) else [self.value]
        if (self.op == "in") != isinstance(self.value, list):
            raise ValueError("`in` takes a list, and the other operators take one value")
        if wanted is str and self.op not in ("==", "!=", "in"):
            raise ValueError(f"{self.field} is a text: use ==, != or in")
        if any(type(value) is not wanted for value in values):
            raise ValueError(
                f"{self.field} is {'a whole number' if wanted is int else 'a text'}, {self.value!r} is not"
            )
        return self

    def fields(self) -> set[str]:
        """Names of all fields that it reads."""
        found = {self.field} if self.field else set[str]()
        for part in (*(self.all or ()), *(self.any or ()), *((self.negated,) if self.negated else ())):
            found |= part.fields()
        return found

    def compile(self) -> Callable[[Reader], bool]:
        """The condition as a function of a field reader."""
        if self.field is not None and self.op is not None:
            name, test, value = self.field, OPERATORS[self.op], self.value
            return lambda read: test(read(name), value)
        if self.negated is not None:
            inner = self.negated.compile()
            return lambda read: not inner(read)
        parts = [part.compile() for part in (self.all if self.all is not None else self.any or ())]
        if self.all is not None:
            return lambda read: all(part(read) for part in parts)
        return lambda read: any(part(read) for part in parts)


_FACTOR = re.compile(r"\d{1,6}(/\d{1,6}|\.\d{1,6})?", re.ASCII)


def _fraction(text: object) -> Fraction:
    if isinstance(text, Fraction):
        return text
    if not isinstance(text, (str, int)) or isinstance(text, bool) or not _FACTOR.fullmatch(str(text)):
        raise ValueError('write a factor as a whole number or as a text like "3/2" or "1.5"')
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f'{text!r} is no factor: write 2, "3/2" or "1.5"') from None
    if not 0 <= value <= 1000 or value.denominator > 10_000:
        raise ValueError("a factor lies between 0 and 1000, with a denominator of at most 10000")
    return value


Factor = Annotated[
    Any, AfterValidator(_fraction), PlainSerializer(lambda value: f"{value.numerator}/{value.denominator}")
]

Rounding = Literal["floor", "ceil", "half_up", "half_even"]


def rounded(numerator: int, denominator: int, rounding: Rounding) -> int:
    """A quotient of non-negative integers as an integer, by a named rounding. `denominator` is above 0."""
    quotient, rest = divmod(numerator, denominator)
    if rounding == "floor" or rest == 0:
        return quotient
    if rounding == "ceil":
        return quotient + 1
    if 2 * rest == denominator:
        return quotient + 1 if rounding == "half_up" else quotient + quotient % 2
    return quotient + 1 if 2 * rest > denominator else quotient


class PerAmount(Document):
    """`points` for each `per_minor` of the net amount of the lines that `lines` picks (default: all)."""

    id: Code
    kind: Literal["per_amount"]
    points: Annotated[Whole, Field(ge=1, le=1_000_000)]
    per_minor: Annotated[Whole, Field(ge=1, le=10**12)]
    when: Predicate | None = None
    lines: Predicate | None = None


class Fixed(Document):
    """`points` for a purchase, whatever its amount."""

    id: Code
    kind: Literal["fixed"]
    points: Annotated[Whole, Field(ge=1, le=1_000_000_000)]
    when: Predicate | None = None


class Multiplier(Document):
    """Multiplies what the other rules give. Where several apply, the greatest alone counts."""

    id: Code
    kind: Literal["multiplier"]
    factor: Factor
    when: Predicate | None = None


EarningRule = Annotated[PerAmount | Fixed | Multiplier, Field(discriminator="kind")]


class Expiry(Document):
    """Points expire so many months or days after they were earned, or never.

    `until = "month_end"` extends to the midnight at which that month ends (earned 6 July with 12 months: 1 August
    of the next year).
    """

    months: Annotated[Whole, Field(ge=0, le=1200)] | None = None
    days: Annotated[Whole, Field(ge=1, le=36_500)] | None = None
    never: YesNo = False
    until: Literal["exact", "month_end"] = "exact"

    @model_validator(mode="after")
    def _one_form(self) -> Expiry:
        if (self.months is not None) + (self.days is not None) + self.never != 1:
            raise ValueError("give exactly one of months, days, never = true")
        if self.until == "exact" and self.months == 0:
            raise ValueError('months = 0 needs until = "month_end"')
        return self

    def expires_us(self, earned_us: int, zone: Zone) -> int | None:
        """When points earned then expire: the first instant at which they are gone. None: never."""
        if self.never:
            return None
        if self.days is not None:
            moment = zone.add_days(earned_us, self.days)
        else:
            moment = zone.add_months(earned_us, self.months or 0)
        return zone.month_end(moment) if self.until == "month_end" else moment


class Level(Document):
    """A tier, held with at least `threshold` qualifying points in the window."""

    name: Code
    threshold: Annotated[Whole, Field(ge=0, le=10**12)]


class Tiers(Document):
    """Tiers by qualifying points in a rolling window of months, in the programme's zone.

    A point counts from when it was earned until the same day `window_months` later begins. Upgrades are immediate; a
    downgrade goes, at the moment when points leave the window, straight to what is earned.
    """

    window_months: Annotated[Whole, Field(ge=1, le=1200)]
    levels: Annotated[list[Level], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascending(self) -> Tiers:
        thresholds = [level.threshold for level in self.levels]
        if thresholds[0] != 0:
            raise ValueError("the first level is where everybody starts: its threshold is 0")
        if thresholds != sorted(set(thresholds)):
            raise ValueError("levels stand in order of rising thresholds")
        if len({level.name for level in self.levels}) != len(self.levels):
            raise ValueError("two levels have the same name")
        return self

    def level_for(self, qualifying: int) -> str:
        """The name of the highest level that so many qualifying points hold."""
        name = self.levels[0].name
        for level in self.levels:
            if qualifying >= level.threshold:
                name = level.name
        return name


class Refunds(Document):
    """What a return takes back when the points are spent already.

    `within_balance`: at most what is there; `debt`: the rest becomes a debt that the next earnings pay.
    """

    policy: Literal["within_balance", "debt"] = "debt"


class RuleSet(Document):
    """A versioned set of scoring rules for one programme."""

    name: Code
    version: Code
    programme: Code = "main"
    description: str = ""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    zone: str = "UTC"
    rounding: Rounding = "floor"
    earning: Annotated[list[EarningRule], Field(min_length=1)]
    expiry: Expiry
    refunds: Refunds = Refunds()
    tiers: Tiers

    @model_validator(mode="after")
    def _consistent(self) -> RuleSet:
        ids = [rule.id for rule in self.earning]
        if len(set(ids)) != len(ids):
            raise ValueError("two earning rules have the same id")
        if all(isinstance(rule, Multiplier) for rule in self.earning):
            raise ValueError("no rule gives points: add one of kind per_amount or fixed")
        names = {level.name for level in self.tiers.levels}
        for rule in self.earning:
            if rule.when and any(field.startswith("line.") for field in rule.when.fields()):
                raise ValueError(f"earning rule {rule.id}: `when` is about the whole order; use `lines` for lines")
            if isinstance(rule, PerAmount) and rule.lines:
                strange = [field for field in sorted(rule.lines.fields()) if not field.startswith("line.")]
                if strange:
                    raise ValueError(f"earning rule {rule.id}: `lines` is about one line, it can't read {strange[0]}")
            for part in _parts(rule.when):
                if part.field == "account.tier":
                    options = part.value if isinstance(part.value, list) else [part.value]
                    unknown = [option for option in options if option not in names]
                    if unknown:
                        raise ValueError(f"earning rule {rule.id}: no tier is called {unknown[0]!r}")
        factor = max([Fraction(1), *(rule.factor for rule in self.earning if isinstance(rule, Multiplier))])
        most = sum(
            rule.points * ORDER_MINOR_MAX // rule.per_minor if isinstance(rule, PerAmount) else rule.points
            for rule in self.earning
            if not isinstance(rule, Multiplier)
        )
        if most * factor > ORDER_POINTS_MAX:
            raise ValueError(
                f"an order of {ORDER_MINOR_MAX} minor units could earn {int(most * factor)} points; at most "
                f"{ORDER_POINTS_MAX} can be counted: raise per_minor, or lower points or factors"
            )
        return self

    @property
    def label(self) -> str:
        """`name@version`, as decisions name it."""
        return f"{self.name}@{self.version}"

    def canonical(self) -> str:
        """The document as canonical JSON: what is adopted, digested and stored."""
        return json.dumps(
            self.model_dump(mode="json", exclude_none=True, by_alias=True),
            sort_keys=True,
            separators=(",", ":"),
        )

    def digest(self) -> str:
        """SHA-256 of the canonical document, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def _parts(predicate: Predicate | None) -> list[Predicate]:
    if predicate is None:
        return []
    found = [predicate]
    for part in (
        *(predicate.all or ()),
        *(predicate.any or ()),
        *((predicate.negated,) if predicate.negated else ()),
    ):
        found += _parts(part)
    return found


def parse_rule_set(document: object, source: str) -> RuleSet:
    """Validate a document; every problem names its path within the document."""
    try:
        return RuleSet.model_validate(document)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            path = ".".join(str(part) for part in problem["loc"] if part not in ("per_amount", "fixed", "multiplier"))
            problems.append(f"{path or 'document'}: {problem['msg'].removeprefix('Value error, ')}")
        raise RuleSetError(source, problems) from None


class Share(NamedTuple):
    """What one earning rule gives for a purchase. `amount_minor` is what it counted (0: a fixed number of points)."""

    rule: PerAmount | Fixed
    amount_minor: int
    factor: Fraction
    multiplier: str | None
    """The rule that the factor is from; None: no rule multiplies."""
    points: int


class Rules:
    """A rule set ready to decide: predicates compiled, its zone frozen."""

    def __init__(self, rule_set: RuleSet, zone: Zone) -> None:
        self.rule_set = rule_set
        self.zone = zone
        self.label = rule_set.label
        self.window_months = rule_set.tiers.window_months
        self.base_tier = rule_set.tiers.levels[0].name
        self._whens = [rule.when.compile() if rule.when else None for rule in rule_set.earning]
        self._picks = [
            rule.lines.compile() if isinstance(rule, PerAmount) and rule.lines else None for rule in rule_set.earning
        ]

    def earn(
        self, order: Reader, lines: Sequence[Reader], net_minor: Sequence[int]
    ) -> tuple[int, list[int], list[str]]:
        """Points for a purchase, the part of each line's net amount that earned, and the ids of the rules that gave.

        Each rule's points are its base times the greatest factor, rounded as the rule set says, and then added up.
        `order` reads `order.*` and `account.*`, each of `lines` reads `line.*` of one line.
        """
        factor, chosen, bases, basis = self._bases(order, lines, net_minor)
        rounding = self.rule_set.rounding
        points = sum(
            [
                rounded(numerator * factor.numerator, denominator * factor.denominator, rounding)
                for _, numerator, denominator in bases
            ]
        )
        used = [rule.id for rule, _, _ in bases]
        if chosen is not None and used:
            used.append(chosen)
        return points, basis, used

    def shares(self, order: Reader, lines: Sequence[Reader], net_minor: Sequence[int]) -> list[Share]:
        """What each rule gives for a purchase: the parts that `earn` adds up."""
        factor, chosen, bases, _ = self._bases(order, lines, net_minor)
        rounding = self.rule_set.rounding
        return [
            Share(
                rule,
                numerator // rule.points if isinstance(rule, PerAmount) else 0,
                factor,
                chosen,
                rounded(numerator * factor.numerator, denominator * factor.denominator, rounding),
            )
            for rule, numerator, denominator in bases
        ]

    def _bases(
        self, order: Reader, lines: Sequence[Reader], net_minor: Sequence[int]
    ) -> tuple[Fraction, str | None, list[tuple[PerAmount | Fixed, int, int]], list[int]]:
        """The factor and its rule, each giving rule's base as a quotient, the part of each line that earned."""
        factor = Fraction(1)
        chosen: str | None = None
        bases: list[tuple[PerAmount | Fixed, int, int]] = []
        basis = [0] * len(net_minor)
        for rule, when, pick in zip(self.rule_set.earning, self._whens, self._picks, strict=True):
            if when is not None and not when(order):
                continue
            if isinstance(rule, Multiplier):
                if chosen is None or rule.factor > factor:
                    factor, chosen = rule.factor, rule.id
                continue
            if isinstance(rule, Fixed):
                bases.append((rule, rule.points, 1))
                basis = [max(had, net) for had, net in zip(basis, net_minor, strict=True)]
                continue
            amount = 0
            for index, net in enumerate(net_minor):
                if pick is None or pick(lines[index]):
                    amount += net
                    basis[index] = net
            if amount:
                bases.append((rule, rule.points * amount, rule.per_minor))
        return factor, chosen, bases, basis


@lru_cache(maxsize=256)
def compiled(document: str, zone: Zone) -> Rules:
    """The rules of a canonical document and its frozen zone."""
    return Rules(RuleSet.model_validate_json(document), zone)
