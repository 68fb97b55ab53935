"""Load one aggregate of many events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from eventsourcing.application import LRUCache

from tallybook.adapters.application import BookApplication
from tallybook.domain.customer import Customer

from .conftest import Measure
from .ours import Till, open_book, registered
from .raw import RawLog, log_rows
from .rows import OURS, RAW, STOCK
from .stock import StockShop
from .workload import Sizes, sales

KEYS = ["load", "load-plain"]


@pytest.fixture(scope="module")
def ours(sizes: Sizes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, BookApplication, UUID]]:
    """A book with one customer of so many purchases."""
    path = tmp_path_factory.mktemp("load") / "ours.book"
    with open_book(path) as book:
        [customer] = registered(book, 1)
        events = book.position()
        Till(book, [customer]).record(0, sales(sizes.load_events - events))
        yield path, book._core.app, customer


@pytest.fixture(scope="module")
def stock(sizes: Sizes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StockShop, UUID]]:
    """The same, stock."""
    shop = StockShop(tmp_path_factory.mktemp("load") / "stock.db")
    [customer] = shop.registered(1)
    for sale in sales(sizes.load_events - 1):
        customer.buy(sale)
    shop.save(customer)
    yield shop, customer.id
    shop.close()


@pytest.mark.parametrize("key", KEYS)
def test_raw(measure: Measure, sizes: Sizes, key: str, ours: tuple[Path, BookApplication, UUID]) -> None:
    """The rows."""
    path, _, customer = ours
    rows = [row for row in log_rows(path) if row[1] == customer.bytes]
    assert len(rows) == sizes.load_events

    def prepare(folder: Path) -> tuple[RawLog]:
        log = RawLog(folder / "raw.db")
        log.append([rows])
        return (log,)

    def run(log: RawLog) -> None:
        assert len(log.stream(customer.bytes)) == sizes.load_events

    measure(key, RAW, sizes.load_events, run, prepare, rounds=sizes.load_rounds)


@pytest.mark.parametrize("key", KEYS)
def test_stock(measure: Measure, sizes: Sizes, key: str, stock: tuple[StockShop, UUID]) -> None:
    """The package's repository."""
    shop, customer = stock
    load = shop.customer if key == "load" else shop.customer_without_assertion

    def run() -> None:
        assert load(customer).version == sizes.load_events

    measure(key, STOCK, sizes.load_events, run, lambda folder: (), rounds=sizes.load_rounds)


@pytest.mark.parametrize("key", KEYS)
def test_ours(measure: Measure, sizes: Sizes, key: str, ours: tuple[Path, BookApplication, UUID]) -> None:
    """Tallybook."""
    _, app, customer = ours

    def prepare(folder: Path) -> tuple[()]:
        # A new one: the package's `clear` leaves the entries where they are.
        app.repository.cache = LRUCache(BookApplication.CACHED_AGGREGATES)
        return ()

    def run() -> None:
        assert app.load(Customer, customer).version == sizes.load_events

    measure(key, OURS, sizes.load_events, run, prepare, rounds=sizes.load_rounds)
