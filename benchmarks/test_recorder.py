"""The recorder alone: rows that are ready, 1, 100 and 1,000 a commit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from eventsourcing.persistence import StoredEvent

from tallybook.adapters.log import LogRecorder, NewRow, Receipt
from tallybook.book import Book

from .conftest import Measure
from .ours import Till, open_book, registered
from .raw import LogRow, RawLog, log_rows
from .rows import OURS, RAW, STOCK
from .stock import StockRecorder, StockShop
from .workload import Sizes, chunks, sales

CASES = [("recorder-1", 1), ("recorder-100", 100), ("bulk", 1000)]


def rows_of(folder: Path, count: int) -> list[LogRow]:
    """Purchases as Tallybook stores them, from position 1 on, a hundred of a customer each time."""
    path = folder / "source.book"
    with open_book(path) as book:
        till = Till(book, registered(book, 50))
        before = book.position()
        work = sales(count)
        for number, part in enumerate(chunks(count, 100)):
            till.record(number, work[part])
    return [(position, *row[1:]) for position, row in enumerate(log_rows(path)[before:], 1)]


@pytest.mark.parametrize(("key", "size"), CASES, ids=[key for key, _ in CASES])
class TestRecorder:
    """Appending what is ready."""

    def test_raw(self, measure: Measure, sizes: Sizes, tmp_path: Path, key: str, size: int) -> None:
        """The same rows."""
        rows = rows_of(tmp_path, sizes.append_commits[size] * size)
        commits = [rows[part] for part in chunks(len(rows), size)]

        def prepare(folder: Path) -> tuple[RawLog, list[list[LogRow]]]:
            return RawLog(folder / "raw.db"), commits

        measure(key, RAW, len(rows), RawLog.append, prepare, rounds=sizes.append_rounds)

    def test_stock(self, measure: Measure, sizes: Sizes, tmp_path: Path, key: str, size: int) -> None:
        """The package's recorder."""
        shop = StockShop(tmp_path / "source.db")
        customers = shop.registered(50)
        work = sales(sizes.append_commits[size] * size)
        stored: list[StoredEvent] = []
        for number, part in enumerate(chunks(len(work), 100)):
            customer = customers[number % 50]
            for sale in work[part]:
                customer.buy(sale)
            stored += [shop.mapper.to_stored_event(event) for event in customer.collect_events()]
        shop.close()
        commits = [stored[part] for part in chunks(len(stored), size)]

        def prepare(folder: Path) -> tuple[StockRecorder, list[list[StoredEvent]]]:
            return StockRecorder(folder / "stock.db"), commits

        measure(key, STOCK, len(stored), StockRecorder.append, prepare, rounds=sizes.append_rounds)

    def test_ours(self, measure: Measure, sizes: Sizes, tmp_path: Path, key: str, size: int) -> None:
        """Tallybook's, with a receipt in each commit."""
        rows = rows_of(tmp_path, sizes.append_commits[size] * size)
        commits = [[row[1:] for row in rows[part]] for part in chunks(len(rows), size)]
        receipts = [Receipt(os.urandom(16), os.urandom(32), b'+"' + b"0" * 36 + b'"') for _ in commits]

        def prepare(folder: Path) -> tuple[Book]:
            return (open_book(folder / "ours.book"),)

        def run(book: Book) -> None:
            append(book._core.app.log, commits, receipts)

        measure(key, OURS, len(rows), run, prepare, rounds=sizes.append_rounds)


def append(log: LogRecorder, commits: Sequence[Sequence[NewRow]], receipts: Sequence[Receipt]) -> None:
    """One transaction for each list."""
    for rows, receipt in zip(commits, receipts, strict=True):
        log.append(rows, receipt=receipt)
