"""Conditions of rule sets over columns: a tree evaluated for many facts at once, on numpy arrays of 64-bit integers.

Texts are codes. That a condition passed the checks of `domain.expressions` means that nothing of it leaves 64 bits or
divides by zero, so that evaluating both sides of `&&`, `||` and `? :` gives what Python gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from tallybook.domain.expressions import (
    And,
    Arithmetic,
    Call,
    Choose,
    Compare,
    Each,
    Field,
    Flag,
    In,
    Negative,
    Node,
    Not,
    Number,
    Or,
    Quoted,
)

Column = Any
"""A numpy array, or one value for all."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What conditions may read of some facts: columns of the facts by their fields' names, columns of their lines, and
    of which lines each fact has: `first[i]` up to `first[i + 1]`, exclusive.

    `code` gives the code of a text. `fact_of` is the place of each line's fact.
    """

    facts: Mapping[str, Column]
    lines: Mapping[str, Column]
    first: Column
    fact_of: Column
    code: Callable[[str], int]


def evaluated(node: Node, seen: Seen, *, of_lines: bool) -> Column:
    """What a tree gives for each fact; or, `of_lines`, for each line."""
    import numpy as np

    def value(part: Node) -> Column:
        return evaluated(part, seen, of_lines=of_lines)

    match node:
        case Number(number):
            return np.int64(number)
        case Quoted(text):
            return np.int64(seen.code(text))
        case Flag(flag):
            return np.bool_(flag)
        case Field(name) if name in seen.lines:
            return seen.lines[name]
        case Field(name):
            column = seen.facts[name]
            return column[seen.fact_of] if of_lines and np.ndim(column) else column
        case Not(part):
            return np.logical_not(value(part))
        case Negative(part):
            return -value(part)
        case And(parts):
            return reduce(np.logical_and, map(value, parts))
        case Or(parts):
            return reduce(np.logical_or, map(value, parts))
        case Compare(operator, left, right):
            return _COMPARE[operator](value(left), value(right))
        case In(part, options):
            found = value(part)
            return reduce(np.logical_or, (found == value(option) for option in options))
        case Arithmetic(operator, left, right):
            return _ARITHMETIC[operator](value(left), value(right))
        case Choose(condition, then, otherwise):
            return np.where(value(condition), value(then), value(otherwise))
        case Call(function, arguments):
            values = [value(argument) for argument in arguments]
            if function == "abs":
                return np.abs(values[0])
            return np.maximum(*values) if function == "max" else np.minimum(*values)
        case Each(macro, body):
            return _each(macro, evaluated(body, seen, of_lines=True), seen)
    raise TypeError(node)


def _each(macro: str, body: Column, seen: Seen) -> Column:
    """What a macro gives for each fact, from its body for each line."""
    import numpy as np

    values = np.broadcast_to(np.asarray(body), seen.fact_of.shape).astype(np.int64)
    sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))
    found = sums[seen.first[1:]] - sums[seen.first[:-1]]
    if macro == "all":
        return found == seen.first[1:] - seen.first[:-1]
    return found > 0 if macro == "exists" else found


_COMPARE: Mapping[str, Callable[[Column, Column], Column]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_ARITHMETIC: Mapping[str, Callable[[Column, Column], Column]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}
