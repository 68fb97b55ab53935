"""The price of read models that are folded in each command's transaction, and of asking after each command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

import tallybook
from tallybook.book import Book

from .conftest import Measure
from .ours import enrolled, url
from .rows import OURS, STOCK
from .test_append import run_commands
from .workload import Sale, Sizes, sales

ALL = ("profiles", "tiers", "trail")
CASES = [("inline-tiers", ("tiers",), False), ("inline-all", ALL, False), ("inline-ask", (), True)]


@pytest.mark.parametrize(("key", "inline", "asks"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("who", [STOCK, OURS])
def test_inline(measure: Measure, sizes: Sizes, who: str, key: str, inline: Sequence[str], asks: bool) -> None:
    """Purchases with their decisions."""
    work = sales(sizes.commands)

    def prepare(folder: Path) -> tuple[Book, list[UUID], list[Sale]]:
        book = tallybook.open(url(folder / "ours.book"), inline=inline if who == OURS else ())
        customers = enrolled(book, sizes.customers)
        book.projections.catch_up()
        return book, customers, work

    def run(book: Book, customers: list[UUID], work: list[Sale]) -> None:
        run_commands(book, list(customers), work, book.tiers.counts if asks and who == OURS else None)
        if inline and who == OURS:
            statuses = {status.name: status.position for status in book.projections.status()}
            assert all(statuses[name] == book.position() for name in inline)

    measure(key, who, len(work), run, prepare, rounds=sizes.append_rounds)
