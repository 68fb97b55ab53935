"""Scan the whole log with a trivial fold: the sum of all purchases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallybook.book import Book
from tallybook.domain.customer import Line, PurchaseRecorded

from .conftest import Measure
from .ours import Till, open_book, registered
from .raw import LogRow, RawLog, log_rows
from .rows import OURS, RAW, STOCK
from .stock import StockCustomer, StockShop
from .workload import SIZES, Sizes, chunks, sales

PAGE = 5000
SCAN_CHUNK = 500
"""As many rows as `BookApplication.scan` reads at a time, unless it is told otherwise."""
CELLS = [("scan", RAW), ("scan", OURS), ("scan-all", OURS)]
EVENTS_AND_ALL = ["scan-events", "scan-all"]


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


@pytest.fixture(scope="module")
def rows(ours: tuple[Path, Book]) -> list[LogRow]:
    """All rows of its log."""
    return log_rows(ours[0])


def total(sizes: Sizes) -> int:
    """What the fold must give."""
    return sum(sale.net_minor for sale in sales(sizes.scan_customers * sizes.scan_events_each))


@pytest.mark.parametrize("key", EVENTS_AND_ALL)
def test_raw(measure: Measure, sizes: Sizes, key: str, rows: list[LogRow]) -> None:
    """The rows."""

    def prepare(folder: Path) -> tuple[RawLog]:
        log = RawLog(folder / "raw.db")
        log.append([rows])
        return (log,)

    def run(log: RawLog) -> None:
        assert log.pages(PAGE) == len(rows)

    measure(key, RAW, len(rows), run, prepare, rounds=sizes.scan_rounds)


@pytest.mark.parametrize("key", ["scan", "scan-events"])
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


@pytest.mark.parametrize(
    ("turn", "key", "who"),
    [
        (turn, *cell)
        for turn in range(SIZES.scan_rounds)
        for cell in (("scan", RAW), ("scan", OURS), ("scan-all", OURS))
    ],
)
def test_in_turns(
    measure: Measure, sizes: Sizes, ours: tuple[Path, Book], rows: list[LogRow], turn: int, key: str, who: str
) -> None:
    """One round of the `SELECT` that Tallybook's scan makes, alone, and one of the scan, in turns."""
    app = ours[1]._core.app
    expected = total(sizes)
    net_minor = list(Line.model_fields).index("net_minor")
    purchases = sum(row[3] == PurchaseRecorded.stored_name for row in rows)

    def prepare(folder: Path) -> tuple[RawLog]:
        log = RawLog(folder / "raw.db")
        log.append([rows])
        return (log,)

    def run_raw(log: RawLog) -> None:
        assert log.states(PurchaseRecorded.stored_name, SCAN_CHUNK) == purchases

    def run_ours() -> None:
        spent = 0
        for _, (lines,) in app.scan(PurchaseRecorded, ["lines"], chunk=SCAN_CHUNK):
            for line in lines:
                spent += line[net_minor]
        assert spent == expected

    if who == RAW:
        measure(key, who, len(rows), run_raw, prepare, rounds=1)
    else:
        measure(key, who, len(rows), run_ours, lambda folder: (), rounds=1)


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
