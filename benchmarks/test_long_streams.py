"""Load an account of very many events, from its events and from its snapshot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from eventsourcing.application import LRUCache

from tallybook.adapters.application import BookApplication
from tallybook.adapters.clock import new_id, now_us
from tallybook.domain.aggregate import Stamp
from tallybook.domain.control import Control
from tallybook.domain.customer import Customer, Line
from tallybook.domain.loyalty import LoyaltyAccount, account_id

from .conftest import Measure
from .ours import Till, enrolled, open_book
from .raw import RawLog, log_rows
from .rows import OURS, RAW, STOCK
from .stock import StockShop
from .workload import CURRENCY, FIRST_US, QUICK_VARIABLE, chunks, sales

KEYS = ["load-long", "load-long-snapshot"]
EVENTS = 3_000 if os.environ.get(QUICK_VARIABLE) else 100_000
ROUNDS = 3
HOUR_US = 3_600_000_000


class LoyaltyTill(Till):
    """Records purchases of a member and what they decide, many in one commit."""

    def fill(self, customer_id: UUID, events: int) -> UUID:
        """One purchase an hour, every tenth followed by a redemption; the account, which then has so many events."""
        app = self.app
        customer = app.load(Customer, customer_id).draft(self.journal)
        account = app.load(LoyaltyAccount, account_id(customer_id, "main")).draft(self.journal)
        control = app.load(Control, self.id)
        number = 0
        while account.version < events:
            number += 1
            metadata = self.acting.model_copy(update={"recorded_us": now_us()})
            stamp = Stamp(metadata, FIRST_US + number * HOUR_US, new_id)
            account.settle(stamp, stamp.effective_us, control)
            line = Line(sku=f"sku-{number % 97}", quantity=1 + number % 3, net_minor=500 + number * 7919 % 9000)
            account.receive(customer.record_purchase(stamp, (line,), currency=CURRENCY), stamp, control)
            if number % 10 == 0 and account.version + 2 <= events:
                account.redeem(stamp, 40, "R1", control)
            if len(self.journal) > 1000:
                app.save(self)
        app.save(self)
        return account.id


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, BookApplication, UUID, int]]:
    """A book with one member, the account and how many events it has."""
    path = tmp_path_factory.mktemp("long") / "ours.book"
    with open_book(path) as book:
        [customer] = enrolled(book, 1)
        account = LoyaltyTill(book, []).fill(customer, EVENTS)
        app = book._core.app
        yield path, app, account, app.load(LoyaltyAccount, account).version


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StockShop, UUID]]:
    """A customer of as many purchases, stock."""
    shop = StockShop(tmp_path_factory.mktemp("long") / "stock.db")
    [customer] = shop.registered(1)
    made = sales(EVENTS - 1)
    for part in chunks(len(made), 1000):
        for sale in made[part]:
            customer.buy(sale)
        shop.save(customer)
    yield shop, customer.id
    shop.close()


@pytest.mark.parametrize("key", KEYS)
def test_raw(measure: Measure, tmp_path: Path, key: str, ours: tuple[Path, BookApplication, UUID, int]) -> None:
    """The rows."""
    path, _, account, events = ours
    rows = [row for row in log_rows(path) if row[1] == account.bytes]

    def prepare(folder: Path) -> tuple[RawLog]:
        log = RawLog(folder / "raw.db")
        log.append([rows])
        return (log,)

    def run(log: RawLog) -> None:
        assert len(log.stream(account.bytes)) == events

    measure(key, RAW, events, run, prepare, rounds=ROUNDS)
    if key == KEYS[0]:
        log = RawLog(tmp_path / "memory.db")
        log.append([rows])
        measure.memory(lambda: log.stream(account.bytes))
        log.close()


@pytest.mark.parametrize("key", KEYS)
def test_stock(measure: Measure, key: str, stock: tuple[StockShop, UUID]) -> None:
    """The package's repository."""
    shop, customer = stock

    def run() -> None:
        assert shop.customer_without_assertion(customer).version == EVENTS

    measure(key, STOCK, EVENTS, run, lambda folder: (), rounds=ROUNDS, warmup=0)
    if key == KEYS[0]:
        measure.memory(lambda: shop.customer_without_assertion(customer))


@pytest.mark.parametrize("key", KEYS)
def test_ours(measure: Measure, tmp_path: Path, key: str, ours: tuple[Path, BookApplication, UUID, int]) -> None:
    """Tallybook."""
    _, app, account, events = ours

    def prepare(folder: Path) -> tuple[()]:
        app.drop_snapshots()
        if key == "load-long-snapshot":
            app.load(LoyaltyAccount, account)
            app.write_snapshots()
            assert app.snapshot_store.streams() == [account]
        app.repository.cache = LRUCache(BookApplication.CACHED_AGGREGATES)
        return ()

    def run() -> None:
        assert app.load(LoyaltyAccount, account).version == events

    measure(key, OURS, events, run, prepare, rounds=ROUNDS)
    prepare(tmp_path)
    measure.memory(lambda: app.load(LoyaltyAccount, account))
