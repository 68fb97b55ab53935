"""Import real purchase history end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallybook.adapters.cdnow import CdnowRow, read_cdnow
from tallybook.book import Book

from .conftest import Measure
from .ours import copy_book, import_into, open_book
from .raw import LogRow, RawLog, log_rows
from .rows import OURS, RAW, STOCK
from .stock import StockCustomer, StockShop
from .workload import Sizes, chunks


def end_to_end(path: Path, file: Path) -> Book:
    """The whole job, from opening a new book to read models that are up to date."""
    book = open_book(path)
    import_into(book, file)
    book.projections.catch_up()
    return book


@pytest.fixture(scope="module")
def rows(imported: Path) -> list[LogRow]:
    """What Tallybook stores of it."""
    return log_rows(imported)


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


def test_stock(measure: Measure, sizes: Sizes, history: Path, rows: list[LogRow], tmp_path: Path) -> None:
    """Facts alone, the package's own way."""
    size = per_commit(rows)
    purchases = [row for row in read_cdnow(history) if isinstance(row, CdnowRow)]
    count = len(purchases) + len({row.customer for row in purchases})

    def prepare(folder: Path) -> tuple[StockShop]:
        return (StockShop(folder / "stock.db"),)

    def run(shop: StockShop) -> None:
        customers: dict[str, StockCustomer] = {}
        touched: dict[str, StockCustomer] = {}
        pending = 0
        for row in read_cdnow(history):
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


def test_ours(
    measure: Measure, sizes: Sizes, history: Path, imported: Path, rows: list[LogRow], tmp_path: Path
) -> None:
    """Tallybook."""
    whole = copy_book(imported, tmp_path)
    with open_book(whole) as book:
        book.projections.catch_up()
    keys = whole.with_name(whole.name + ".keys")
    log, beside, models = (path.stat().st_size / len(rows) for path in (imported, keys, whole))
    measure.sizes(log=log, log_and_keys=log + beside, log_keys_and_read_models=models + beside)

    def prepare(folder: Path) -> tuple[Path]:
        return (folder / "ours.book",)

    def run(path: Path) -> None:
        book = end_to_end(path, history)
        measure.closing(book)
        assert book.position() == len(rows)

    measure("import", OURS, len(rows), run, prepare, rounds=sizes.import_rounds)
