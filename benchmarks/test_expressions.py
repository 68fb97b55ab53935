"""How fast the compiled expressions of rule sets are, beside the same written by hand in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tallybook.domain.expressions import Booleans, Codes, Fields, Integers, layout_of, parse

from .conftest import Measure
from .rows import OURS, RAW
from .workload import Sizes

PURCHASES = 100_000
LINES_EACH = 3
FIELDS = Fields(
    {
        "account.tier": Codes(("basic", "silver", "gold")),
        "customer.member": Booleans(),
        "order.month": Integers(1, 12),
        "order.net_minor": Integers(0, 10**12),
        "line.category": Codes(),
        "line.net_minor": Integers(0, 10**12),
    },
    lines=Integers(1, 100),
)
OF_ORDER = 'order.net_minor >= 5000 && account.tier in ["silver", "gold"] && order.month == 12'
OF_LINES = 'lines.exists(l, l.category == "toys") && lines.sum(l, l.net_minor) >= 5000'
"""Their layouts have the fields in order of their names."""

Purchase = tuple[tuple[Any, ...], list[tuple[str, int]]]


def of_order_by_hand(fact: Any, lines: Any) -> bool:
    """`OF_ORDER` in Python."""
    return fact[2] >= 5000 and fact[0] in ("silver", "gold") and fact[1] == 12


def of_lines_by_hand(fact: Any, lines: Any) -> bool:
    """`OF_LINES` in Python."""
    return any(line[0] == "toys" for line in lines) and sum(line[1] for line in lines) >= 5000


def purchases() -> list[Purchase]:
    """Rows of purchases, of which each part of the conditions holds for some."""
    return [
        (
            (("basic", "silver", "gold")[number % 3], number % 12 + 1, number * 7919 % 20_000),
            [
                (("books", "toys", "games", "food")[(number + line) % 4], number * line * 31 % 4000)
                for line in range(LINES_EACH)
            ],
        )
        for number in range(PURCHASES)
    ]


def run(test: Callable[[Any, Any], bool], rows: Sequence[Purchase]) -> None:
    """Each purchase once."""
    for fact, lines in rows:
        test(fact, lines)


def compiled(source: str) -> Callable[[Any, Any], bool]:
    """An expression as a function of a purchase's rows."""
    expression = parse(source, FIELDS)
    return expression.compile(layout_of([expression]))


def measured(
    measure: Measure, sizes: Sizes, key: str, who: str, source: str, by_hand: Callable[[Any, Any], bool]
) -> None:
    """One cell, if both say the same of each purchase."""
    rows, ours = purchases(), compiled(source)
    answers = [ours(*row) for row in rows]
    assert answers == [by_hand(*row) for row in rows]
    assert 0 < sum(answers) < PURCHASES
    test = ours if who == OURS else by_hand
    measure(key, who, PURCHASES, run, lambda _: (test, rows), rounds=sizes.reads_rounds)


class TestOrder:
    """A condition on three fields of a purchase."""

    def test_raw(self, measure: Measure, sizes: Sizes) -> None:
        """By hand."""
        measured(measure, sizes, "expressions", RAW, OF_ORDER, of_order_by_hand)

    def test_ours(self, measure: Measure, sizes: Sizes) -> None:
        """Compiled."""
        measured(measure, sizes, "expressions", OURS, OF_ORDER, of_order_by_hand)


class TestLines:
    """A condition on its lines."""

    def test_raw(self, measure: Measure, sizes: Sizes) -> None:
        """By hand."""
        measured(measure, sizes, "expressions-lines", RAW, OF_LINES, of_lines_by_hand)

    def test_ours(self, measure: Measure, sizes: Sizes) -> None:
        """Compiled."""
        measured(measure, sizes, "expressions-lines", OURS, OF_LINES, of_lines_by_hand)
