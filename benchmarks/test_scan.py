"""Scan the whole log with a trivial fold: the sum of all purchases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallybook.book import Book
from tallybook.domain.customer import Line, PurchaseRecorded

from .conftest import Measure
from .ours import Till, open_book, registered
from .raw import RawLog, log_rows
from .rows import OURS, RAW, STOCK
from .stock import StockCustomer, StockShop
from .workload import Sizes, chunks, sales

PAGE = 5000
KEYS = ["scan", "scan-events"]


@pytest.fixture(scope="module")
def ours(sizes: Sizes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Book]]:
    """A book of purchases, a thousand or so of each customer."""
    path = tmp_path_factory.mktemp("scan") / "ours.book"
    with open_book(path) as book:
        till = Till(book, registered(book, sizes.scan_customers))
        work = sales(sizes.scan_customers * sizes.scan_events_each)
        for number, part in enumerate(chunks(len(work), 100)):
            till.record(number, work[part])
        yield path, book


@pytest.fixture(scope="module")
def stock(sizes: Sizes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockShop]:
    """The same, stock."""
    shop = StockShop(tmp_path_factory.mktemp("scan") / "stock.db")
    customers = shop.registered(sizes.scan_customers)
    work = sales(sizes.scan_customers * sizes.scan_events_each)
    for number, part in enumerate(chunks(len(work), 100)):
        customer = customers[number % len(customers)]
        for sale in work[part]:
            customer.buy(sale)
        shop.save(customer)
    yield shop
    shop.close()


def total(sizes: Sizes) -> int:
    """What the fold must give."""
    return sum(sale.net_minor for sale in sales(sizes.scan_customers * sizes.scan_events_each))


@pytest.mark.parametrize("key", KEYS)
def test_raw(measure: Measure, sizes: Sizes, key: str, ours: tuple[Path, Book]) -> None:
    """The rows."""
    rows = log_rows(ours[0])

    def prepare(folder: Path) -> tuple[RawLog]:
        log = RawLog(folder / "raw.db")
        log.append([rows])
        return (log,)

    def run(log: RawLog) -> None:
        assert log.pages(PAGE) == len(rows)

    measure(key, RAW, len(rows), run, prepare, rounds=sizes.scan_rounds)


@pytest.mark.parametrize("key", KEYS)
def test_stock(measure: Measure, sizes: Sizes, key: str, stock: StockShop) -> None:
    """The package's recorder and mapper."""
    expected = total(sizes)

    def run() -> None:
        spent = 0
        for event in stock.history(PAGE):
            if isinstance(event, StockCustomer.Purchased):
                for line in event.lines:
                    spent += line["net_minor"]
        assert spent == expected

    count = stock.recorder.max_notification_id() or 0
    measure(key, STOCK, count, run, lambda folder: (), rounds=sizes.scan_rounds)


def test_ours(measure: Measure, sizes: Sizes, ours: tuple[Path, Book]) -> None:
    """Tallybook: the fields that are wanted."""
    app = ours[1]._core.app
    expected = total(sizes)
    net_minor = list(Line.model_fields).index("net_minor")

    def run() -> None:
        spent = 0
        for _, (lines,) in app.scan(PurchaseRecorded, ["lines"]):
            for line in lines:
                spent += line[net_minor]
        assert spent == expected

    measure("scan", OURS, app.position(), run, lambda folder: (), rounds=sizes.scan_rounds)


def test_ours_events(measure: Measure, sizes: Sizes, ours: tuple[Path, Book]) -> None:
    """Tallybook: whole events."""
    app = ours[1]._core.app
    expected = total(sizes)

    def run() -> None:
        spent = 0
        for _, event in app.decode(app.log.iterate(chunk=PAGE)):
            if isinstance(event, PurchaseRecorded):
                spent += event.net_minor
        assert spent == expected

    measure("scan-events", OURS, app.position(), run, lambda folder: (), rounds=sizes.scan_rounds)
