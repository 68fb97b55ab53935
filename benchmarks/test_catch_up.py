"""Catch up the projections: batches against a transaction for each event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tallybook.book import Book
from tallybook.projections import projector
from tallybook.projections.read_models import Batch, Recorded

from .conftest import Measure
from .ours import copy_book, import_into, open_book
from .raw import RawLog, RawTables, log_rows
from .rows import OURS, RAW, STOCK
from .stock import StockShop, StockView
from .workload import Sizes, cdnow_lines, chunks, sales

THREE = ("profiles", "tiers", "trail")
"""Those that every book reads all day. Beside them, `balances` has a row for each lot."""
NAMES: dict[str, tuple[str, ...] | None] = {"catch-up": THREE, "catch-up-stock": THREE, "catch-up-all": None}


@pytest.fixture(scope="module")
def source(sizes: Sizes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed book with purchases and the decisions on them, and read models that have seen nothing of it."""
    folder = tmp_path_factory.mktemp("catch-up")
    path = folder / "source.book"
    with open_book(path) as book:
        import_into(book, cdnow_lines(folder, sizes.catch_up_lines))
        assert all(status.position == 0 for status in book.projections.status())
    return path


def final_rows(path: Path) -> list[list[Sequence[Any]]]:
    """All rows of the read models: both ways must end up the same."""
    return [sorted(rows) for _, _, rows in sorted(RawTables(path).tables, key=lambda table: table[1])]


def copied(measure: Measure, source: Path) -> Callable[[Path], tuple[Book]]:
    """A fresh copy of the book for each round."""

    def prepare(folder: Path) -> tuple[Book]:
        return (open_book(copy_book(source, folder)),)

    return prepare


class OneByOne:
    """A log that is read in batches and handed out event by event."""

    def __init__(self, book: Book) -> None:
        self._app = book._core.app
        self.head = 0
        self._batch: list[Recorded] = []

    def position(self) -> int:
        """The last position."""
        return self.head

    def mark(self, position: int) -> bytes | None:
        """The id of an event."""
        return self._app.mark(position)

    def read(self, after: int, limit: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """The next event."""
        if not self._batch:
            self._batch = list(reversed(self._app.read(after, 1000).events))
        return Batch([one := self._batch.pop()], one.position) if self._batch else Batch([], after)


@pytest.mark.parametrize("key", NAMES)
class TestCatchUp:
    """Read models from a fresh log to its head."""

    def test_raw(self, measure: Measure, sizes: Sizes, source: Path, tmp_path: Path, key: str) -> None:
        """The same rows."""
        path = copy_book(source, tmp_path)
        batches: list[int] = []
        with open_book(path) as book:
            book.projections.catch_up(progress=lambda done, total: batches.append(done), names=NAMES[key])
        tables = RawTables(path)
        rows = log_rows(path)

        def prepare(folder: Path) -> tuple[RawLog]:
            log = RawLog(folder / "raw.db")
            log.append([rows])
            return (log,)

        def run(log: RawLog) -> None:
            tables.write(log, len(rows), len(batches))

        measure(key, RAW, len(rows), run, prepare, rounds=sizes.catch_up_rounds)

    def test_stock(self, measure: Measure, sizes: Sizes, source: Path, tmp_path: Path, key: str) -> None:
        """A transaction for each event."""
        if NAMES[key] is None:
            pytest.skip("There is no stock way.")
        rows = log_rows(source)
        if key == "catch-up":

            def run(book: Book) -> None:
                core = book._core
                log = OneByOne(book)
                models = [model for model in core.projector.models if model.name in THREE]
                one_by_one = projector.Projector(log, core.store, models, core.operations)
                one_by_one.catch_up()  # makes the tables, while the log looks empty
                log.head = core.app.position()
                assert one_by_one.catch_up() == log.head

            measure(key, STOCK, len(rows), run, copied(measure, source), rounds=sizes.catch_up_rounds, warmup=0)
            single, batched = (tmp_path / name for name in ("single", "batched"))
            single.mkdir()
            batched.mkdir()
            with open_book(copy_book(source, single)) as book:
                run(book)
            with open_book(copy_book(source, batched)) as book:
                book.projections.catch_up(names=THREE)
            assert final_rows(single / source.name) == final_rows(batched / source.name)
            return

        customers = len({row[1] for row in rows if row[3] == "customer.registered"})

        def prepare(folder: Path) -> tuple[StockShop, StockView]:
            shop = StockShop(folder / "stock.db")
            made = shop.registered(customers)
            work = sales(len(rows) - customers)
            for part in chunks(len(work), 1000):
                touched = {}
                for sale in work[part]:
                    customer = made[sale.number % customers]
                    customer.buy(sale)
                    touched[customer.id] = customer
                shop.save(*touched.values())
            return shop, StockView(folder / "view.db")

        def run_stock(shop: StockShop, view: StockView) -> None:
            for event, tracking in shop.events_from_new_log(500):
                view.process_event(event, tracking)

        measure(key, STOCK, len(rows), run_stock, prepare, rounds=sizes.catch_up_rounds, warmup=0)

    def test_ours(self, measure: Measure, sizes: Sizes, source: Path, key: str) -> None:
        """Tallybook."""
        count = len(log_rows(source))

        def run(book: Book) -> None:
            assert book.projections.catch_up(names=NAMES[key]) == count

        measure(key, OURS, count, run, copied(measure, source), rounds=sizes.catch_up_rounds)
