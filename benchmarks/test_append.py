"""Append: 1, 10, 100 events a commit, and whole commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from tallybook.book import Book

from .conftest import Measure
from .ours import BatchDesk, Till, enrolled, open_book, registered
from .raw import LogRow, RawLog, log_rows
from .rows import OURS, RAW, STOCK
from .stock import StockCustomer, StockShop
from .workload import ACTOR, CURRENCY, FIRST_US, PURPOSE, Sale, Sizes, chunks, sales

CASES = [("append-1", 1, False), ("append-10", 10, False), ("append-100", 100, False), ("append-100-sealed", 100, True)]
IDS = [case[0] for case in CASES]


def batches(sizes: Sizes, size: int, order_ids: bool) -> list[list[Sale]]:
    """The commits of one round."""
    made = sales(sizes.append_commits[size] * size, order_ids=order_ids)
    return [made[part] for part in chunks(len(made), size)]


def run_till(till: Till, work: list[list[Sale]]) -> None:
    """Tallybook's application path."""
    for number, batch in enumerate(work):
        till.record(number, batch)


def run_stock(shop: StockShop, customers: list[StockCustomer], work: list[list[Sale]]) -> None:
    """The same, stock."""
    for number, batch in enumerate(work):
        customer = customers[number % len(customers)]
        for sale in batch:
            customer.buy(sale)
        shop.save(customer)


@pytest.mark.parametrize(("key", "size", "order_ids"), CASES, ids=IDS)
class TestAppend:
    """Purchases on aggregates that are held in memory."""

    def test_raw(self, measure: Measure, sizes: Sizes, tmp_path: Path, key: str, size: int, order_ids: bool) -> None:
        """The same blobs."""
        work = batches(sizes, size, order_ids)
        with open_book(tmp_path / "source.book") as book:
            till = Till(book, registered(book, sizes.customers))
            before = book.position()
            run_till(till, work)
        rows = log_rows(tmp_path / "source.book")[before:]
        commits = [rows[part] for part in chunks(len(rows), size)]

        def prepare(folder: Path) -> tuple[RawLog, list[list[LogRow]]]:
            return RawLog(folder / "raw.db"), commits

        measure(key, RAW, len(rows), RawLog.append, prepare, rounds=sizes.append_rounds)

    def test_stock(self, measure: Measure, sizes: Sizes, key: str, size: int, order_ids: bool) -> None:
        """The package's own way."""
        work = batches(sizes, size, order_ids)

        def prepare(folder: Path) -> tuple[StockShop, list[StockCustomer], list[list[Sale]]]:
            shop = StockShop(folder / "stock.db")
            return shop, shop.registered(sizes.customers), work

        measure(key, STOCK, len(work) * size, run_stock, prepare, rounds=sizes.append_rounds)

    def test_ours(self, measure: Measure, sizes: Sizes, key: str, size: int, order_ids: bool) -> None:
        """Tallybook."""
        work = batches(sizes, size, order_ids)

        def prepare(folder: Path) -> tuple[Till, list[list[Sale]]]:
            book = open_book(folder / "ours.book")
            measure.closing(book)
            return Till(book, registered(book, sizes.customers)), work

        measure(key, OURS, len(work) * size, run_till, prepare, rounds=sizes.append_rounds)


def run_commands(
    book: Book, customers: list[object], work: list[Sale], ask: Callable[[], object] | None = None
) -> None:
    """Whole commands, as a host gives them; a question after each, if there is one."""
    record_purchase = book.customers.record_purchase
    with book.acting(ACTOR, purpose=PURPOSE):
        for sale in work:
            record_purchase(
                customers[sale.number % len(customers)],  # type: ignore[arg-type]  # they are ids
                [
                    {
                        "sku": sale.sku,
                        "quantity": sale.quantity,
                        "net_minor": sale.net_minor,
                        "tax_minor": sale.tax_minor,
                    }
                ],
                currency=CURRENCY,
            )
            if ask is not None:
                ask()


class TestCommand:
    """A purchase with everything around it."""

    def test_raw(self, measure: Measure, sizes: Sizes, tmp_path: Path) -> None:
        """The same blobs."""
        work = sales(sizes.commands)
        with open_book(tmp_path / "source.book") as book:
            customers = enrolled(book, sizes.customers)
            before = book.position()
            run_commands(book, list(customers), work)
        rows = log_rows(tmp_path / "source.book")[before:]
        commits: list[list[LogRow]] = []
        for row in rows:
            if row[3] == "customer.purchase_recorded":
                commits.append([])
            commits[-1].append(row)
        assert len(commits) == len(work)

        def prepare(folder: Path) -> tuple[RawLog, list[list[LogRow]]]:
            return RawLog(folder / "raw.db"), commits

        measure("command", RAW, len(work), RawLog.append, prepare, rounds=sizes.append_rounds)

    def test_stock(self, measure: Measure, sizes: Sizes) -> None:
        """Load, trigger, save."""
        work = sales(sizes.commands)

        def prepare(folder: Path) -> tuple[StockShop, list[StockCustomer]]:
            shop = StockShop(folder / "stock.db", cached=2000)
            return shop, shop.registered(sizes.customers)

        def run(shop: StockShop, customers: list[StockCustomer]) -> None:
            for sale in work:
                customer = shop.customer(customers[sale.number % len(customers)].id)
                customer.buy(sale)
                shop.save(customer)

        measure("command", STOCK, len(work), run, prepare, rounds=sizes.append_rounds)

    def test_ours(self, measure: Measure, sizes: Sizes) -> None:
        """Tallybook."""
        work = sales(sizes.commands)

        def prepare(folder: Path) -> tuple[Book, list[object], list[Sale]]:
            book = open_book(folder / "ours.book")
            return book, list(enrolled(book, sizes.customers)), work

        measure("command", OURS, len(work), run_commands, prepare, rounds=sizes.append_rounds)


def run_interactions(book: Book, customers: list[UUID], count: int, *, with_ids: bool) -> None:
    """Commands of one event."""
    record_interaction = book.customers.record_interaction
    with book.acting(ACTOR, purpose=PURPOSE):
        for number in range(count):
            customer = customers[number % len(customers)]
            record_interaction(customer, "visit", command_id=f"visit-{number}" if with_ids else None)


def run_batches(book: Book, customers: list[UUID], work: list[list[Sale]]) -> None:
    """Commands of many events."""
    record = BatchDesk(book._core).record
    with book.acting(ACTOR, purpose=PURPOSE):
        for number, batch in enumerate(work):
            record(customers[number % len(customers)], batch, command_id=f"batch-{number}")


def stored_by(path: Path, sizes: Sizes, run: Callable[[Book, list[UUID]], None]) -> list[LogRow]:
    """What commands store."""
    with open_book(path) as book:
        customers = registered(book, sizes.customers)
        before = book.position()
        run(book, customers)
    return log_rows(path)[before:]


SIMPLE = [("command-1", False), ("command-1-id", True)]


@pytest.mark.parametrize(("key", "with_ids"), SIMPLE, ids=[key for key, _ in SIMPLE])
class TestSimpleCommand:
    """One event a command, nothing decided."""

    def test_raw(self, measure: Measure, sizes: Sizes, tmp_path: Path, key: str, with_ids: bool) -> None:
        """The same blobs."""
        rows = stored_by(
            tmp_path / "source.book",
            sizes,
            lambda book, customers: run_interactions(book, customers, sizes.commands, with_ids=with_ids),
        )

        def prepare(folder: Path) -> tuple[RawLog, list[list[LogRow]]]:
            return RawLog(folder / "raw.db"), [[row] for row in rows]

        measure(key, RAW, len(rows), RawLog.append, prepare, rounds=sizes.append_rounds)

    def test_stock(self, measure: Measure, sizes: Sizes, key: str, with_ids: bool) -> None:
        """Load, trigger, save."""

        def prepare(folder: Path) -> tuple[StockShop, list[StockCustomer]]:
            shop = StockShop(folder / "stock.db", cached=2000)
            return shop, shop.registered(sizes.customers)

        def run(shop: StockShop, customers: list[StockCustomer]) -> None:
            for number in range(sizes.commands):
                customer = shop.customer(customers[number % len(customers)].id)
                customer.interact("visit", FIRST_US + number)
                shop.save(customer)

        measure(key, STOCK, sizes.commands, run, prepare, rounds=sizes.append_rounds)

    def test_ours(self, measure: Measure, sizes: Sizes, key: str, with_ids: bool) -> None:
        """Tallybook."""

        def prepare(folder: Path) -> tuple[Book, list[UUID]]:
            book = open_book(folder / "ours.book")
            return book, registered(book, sizes.customers)

        def run(book: Book, customers: list[UUID]) -> None:
            run_interactions(book, customers, sizes.commands, with_ids=with_ids)

        measure(key, OURS, sizes.commands, run, prepare, rounds=sizes.append_rounds)


class TestBatchCommand:
    """A hundred events a command."""

    def test_raw(self, measure: Measure, sizes: Sizes, tmp_path: Path) -> None:
        """The same blobs."""
        work = batches(sizes, 100, order_ids=False)
        rows = stored_by(tmp_path / "source.book", sizes, lambda book, customers: run_batches(book, customers, work))
        commits = [rows[part] for part in chunks(len(rows), 100)]

        def prepare(folder: Path) -> tuple[RawLog, list[list[LogRow]]]:
            return RawLog(folder / "raw.db"), commits

        measure("command-100", RAW, len(rows), RawLog.append, prepare, rounds=sizes.append_rounds)

    def test_stock(self, measure: Measure, sizes: Sizes) -> None:
        """Load, trigger, save."""
        work = batches(sizes, 100, order_ids=False)

        def prepare(folder: Path) -> tuple[StockShop, list[StockCustomer], list[list[Sale]]]:
            shop = StockShop(folder / "stock.db", cached=2000)
            return shop, shop.registered(sizes.customers), work

        measure("command-100", STOCK, len(work) * 100, run_stock_commands, prepare, rounds=sizes.append_rounds)

    def test_ours(self, measure: Measure, sizes: Sizes) -> None:
        """Tallybook."""
        work = batches(sizes, 100, order_ids=False)

        def prepare(folder: Path) -> tuple[Book, list[UUID], list[list[Sale]]]:
            book = open_book(folder / "ours.book")
            return book, registered(book, sizes.customers), work

        measure("command-100", OURS, len(work) * 100, run_batches, prepare, rounds=sizes.append_rounds)


def run_stock_commands(shop: StockShop, customers: list[StockCustomer], work: list[list[Sale]]) -> None:
    """Load, trigger, save."""
    for number, batch in enumerate(work):
        customer = shop.customer(customers[number % len(customers)].id)
        for sale in batch:
            customer.buy(sale)
        shop.save(customer)
