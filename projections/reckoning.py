"""Arithmetic that is shown: each line says what it gives, how, in numbers, and what that comes to.

The text of a line is made together with its value, so that neither can say what the other doesn't. It is written with
+ − × /, parentheses, min, max, and the roundings floor, ceil, half_up, half_even; from left to right, × and / before +
and −, fractions exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from tallybook.domain.rules import Rounding, rounded


class Sum(NamedTuple):
    """A line of arithmetic: `what` it gives, `how`, and what that is."""

    what: str
    how: str
    gives: int


class Term(NamedTuple):
    """A part of a line: its text, and its value."""

    text: str
    value: Fraction
    loose: bool = False
    """Whether it needs parentheses beside × and /."""

    @property
    def tight(self) -> str:
        """Its text beside × and /."""
        return f"({self.text})" if self.loose else self.text


Part = Term | int | Fraction


def term(part: Part) -> Term:
    """A number as a term; a fraction as a quotient."""
    if isinstance(part, Term):
        return part
    value = Fraction(part)
    text = str(value.numerator) if value.denominator == 1 else f"{value.numerator} / {value.denominator}"
    return Term(text, value, value < 0)


def plus(parts: Iterable[Part]) -> Term:
    """The sum of some; 0 of none."""
    terms = [term(part) for part in parts] or [term(0)]
    if len(terms) == 1:
        return terms[0]
    return Term(" + ".join(one.text for one in terms), sum((one.value for one in terms), Fraction(0)), True)


def minus(whole: Part, *parts: Part) -> Term:
    """A difference."""
    first, others = term(whole), [term(part) for part in parts]
    text = " − ".join([first.text, *(one.tight for one in others)])
    return Term(text, first.value - sum((one.value for one in others), Fraction(0)), True)


def times(*parts: Part) -> Term:
    """A product."""
    terms = [term(part) for part in parts]
    value = Fraction(1)
    for one in terms:
        value *= one.value
    return Term(" × ".join(one.tight for one in terms), value)


def over(whole: Part, part: Part) -> Term:
    """A quotient."""
    first, second = term(whole), term(part)
    divisor = f"({second.text})" if second.loose or " " in second.text else second.text
    return Term(f"{first.tight} / {divisor}", first.value / second.value)


def least(*parts: Part) -> Term:
    """The smallest of some."""
    terms = [term(part) for part in parts]
    if len(terms) == 1:
        return terms[0]
    return Term(f"min({', '.join(one.text for one in terms)})", min(one.value for one in terms))


def most(*parts: Part) -> Term:
    """The greatest of some."""
    terms = [term(part) for part in parts]
    return Term(f"max({', '.join(one.text for one in terms)})", max(one.value for one in terms))


def whole(of: Part, rounding: Rounding = "floor") -> Term:
    """A value that is not negative, as a whole number; as it is, where it is one already and says so."""
    found = term(of)
    value = Fraction(rounded(found.value.numerator, found.value.denominator, rounding))
    return Term(f"{rounding}({found.text})", value)


def reckoned(what: str, how: Part) -> Sum:
    """A line of arithmetic. Its value is a whole number."""
    found = term(how)
    assert found.value.denominator == 1, found
    return Sum(what, found.text, int(found.value))
