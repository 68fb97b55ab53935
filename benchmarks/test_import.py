"""Import real purchase history end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallybook.adapters.cdnow import CdnowRow, read_cdnow
from tallybook.book import Book

from .conftest import Measure
from .ours import copy_book, open_book
from .raw import LogRow, RawLog, log_rows
from .rows import OURS, RAW, STOCK
from .stock import StockCustomer, StockShop
from .workload import RULES, RULES_FROM, SWEEP_TO, Sizes, cdnow_lines, chunks


def import_into(book: Book, file: Path) -> None:
    """Adopt the rules, import, sweep."""
    with book.acting("system:import", purpose="import"):
        book.rules.adopt(RULES, effective_at=RULES_FROM)
        book.imports.cdnow(file)
        book.loyalty.sweep(SWEEP_TO)


def end_to_end(path: Path, file: Path) -> Book:
    """The whole job, from opening a new book to read models that are up to date."""
    book = open_book(path)
    import_into(book, file)
    book.projections.catch_up()
    return book


@pytest.fixture(scope="module")
def file(sizes: Sizes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is imported."""
    return cdnow_lines(tmp_path_factory.mktemp("cdnow"), sizes.import_lines)


@pytest.fixture(scope="module")
def source(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed book of it, without read models."""
    path = tmp_path_factory.mktemp("import") / "source.book"
    with open_book(path) as book:
        import_into(book, file)
    return path


@pytest.fixture(scope="module")
def rows(source: Path) -> list[LogRow]:
    """What Tallybook stores of it."""
    return log_rows(source)


def per_commit(rows: list[LogRow]) -> int:
    """Events that Tallybook's import records a commit, about: 500 lines with what they decide."""
    return round(500 * len(rows) / sum(row[3] == "customer.purchase_recorded" for row in rows))


def test_raw(measure: Measure, sizes: Sizes, rows: list[LogRow], tmp_path: Path) -> None:
    """The same blobs."""
    floor = RawLog(tmp_path / "size.db")
    floor.append([rows])
    floor.close()
    measure.sizes(log=(tmp_path / "size.db").stat().st_size / len(rows))
    commits = [rows[part] for part in chunks(len(rows), per_commit(rows))]

    def prepare(folder: Path) -> tuple[RawLog, list[list[LogRow]]]:
        return RawLog(folder / "raw.db"), commits

    measure("import", RAW, len(rows), RawLog.append, prepare, rounds=sizes.import_rounds)


def test_stock(measure: Measure, sizes: Sizes, file: Path, rows: list[LogRow], tmp_path: Path) -> None:
    """Facts alone, the package's own way."""
    size = per_commit(rows)
    purchases = [row for row in read_cdnow(file) if isinstance(row, CdnowRow)]
    count = len(purchases) + len({row.customer for row in purchases})

    def prepare(folder: Path) -> tuple[StockShop]:
        return (StockShop(folder / "stock.db"),)

    def run(shop: StockShop) -> None:
        customers: dict[str, StockCustomer] = {}
        touched: dict[str, StockCustomer] = {}
        pending = 0
        for row in read_cdnow(file):
            assert isinstance(row, CdnowRow)
            customer = customers.get(row.customer)
            if customer is None:
                customer = customers[row.customer] = StockCustomer.register(row.effective_us)
                pending += 1
            customer.purchase("cd", row.quantity, row.net_minor, 0, row.effective_us, f"cdnow:{row.line}")
            touched[row.customer] = customer
            pending += 1
            if pending >= size:
                shop.save(*touched.values())
                touched.clear()
                pending = 0
        shop.save(*touched.values())
        assert shop.recorder.max_notification_id() == count

    shop = StockShop(tmp_path / "size.db")
    run(shop)
    shop.close()
    measure.sizes(log=(tmp_path / "size.db").stat().st_size / count)
    measure("import", STOCK, count, run, prepare, rounds=sizes.import_rounds)


def test_ours(measure: Measure, sizes: Sizes, file: Path, source: Path, rows: list[LogRow], tmp_path: Path) -> None:
    """Tallybook."""
    whole = copy_book(source, tmp_path)
    with open_book(whole) as book:
        book.projections.catch_up()
    measure.sizes(log=source.stat().st_size / len(rows), with_read_models=whole.stat().st_size / len(rows))

    def prepare(folder: Path) -> tuple[Path]:
        return (folder / "ours.book",)

    def run(path: Path) -> None:
        book = end_to_end(path, file)
        measure.closing(book)
        assert book.position() == len(rows)

    measure("import", OURS, len(rows), run, prepare, rounds=sizes.import_rounds)
