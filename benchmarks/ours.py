"""Tallybook, driven as the stock application is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import tallybook
from tallybook.adapters.application import BookApplication
from tallybook.adapters.clock import new_id, now_us
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.book import Book
from tallybook.commands import Desk, Work, command
from tallybook.customers import record_purchase
from tallybook.domain.aggregate import Stamp
from tallybook.domain.customer import Customer, Line
from tallybook.domain.events import Event, Metadata
from tallybook.times import When

from .raw import assert_durable
from .workload import ACTOR, CURRENCY, FIRST_US, PURPOSE, RULES, RULES_FROM, SWEEP_TO, Sale


def url(path: Path) -> str:
    """The book's URL."""
    return f"sqlite:///{path}"


def open_book(path: Path) -> Book:
    """A book in a file; its promise of durability is checked."""
    book = tallybook.open(url(path))
    database = book._core.storage.events
    assert isinstance(database, SQLiteDatabase)
    with database.connection() as connection:
        assert_durable(connection)
    return book


def copy_book(source: Path, folder: Path) -> Path:
    """A closed book's files, copied."""
    for file in source.parent.glob(source.name + "*"):
        shutil.copy(file, folder / file.name)
    return folder / source.name


def import_into(book: Book, file: Path) -> None:
    """Adopt the rules, import, sweep."""
    with book.acting("job:import", purpose="import"):
        book.rules.adopt(RULES, effective_at=RULES_FROM)
        book.imports.cdnow(file)
        book.loyalty.sweep(SWEEP_TO)


def registered(book: Book, count: int) -> list[UUID]:
    """New customers."""
    with book.acting(ACTOR, purpose=PURPOSE):
        return [book.customers.register(source="shop", effective_at="2026-01-01T00:00:00Z") for _ in range(count)]


def enrolled(book: Book, count: int) -> list[UUID]:
    """New customers with accounts under the rule set that ships with the package."""
    with book.acting(ACTOR, purpose=PURPOSE):
        book.rules.adopt(RULES, effective_at=RULES_FROM)
        customers = registered(book, count)
        for customer in customers:
            book.loyalty.enrol(customer, effective_at="2026-01-01T00:00:00Z")
    return customers


class Till:
    """Records purchases on drafts that stay in memory: the application path without the command around it."""

    def __init__(self, book: Book, customers: Sequence[UUID]) -> None:
        self.book = book
        self.app: BookApplication = book._core.app
        self.id = book._core.book_id  # the library saves things that have an id and a version
        self.version = 0
        self.journal: list[Event] = []
        self.acting = Metadata(recorded_us=0, actor=ACTOR, purpose=PURPOSE)
        self.drafts = [self.app.load(Customer, customer).draft(self.journal) for customer in customers]

    def record(self, number: int, batch: Sequence[Sale]) -> None:
        """One commit: purchases of one customer."""
        draft = self.drafts[number % len(self.drafts)]
        metadata = self.acting.model_copy(update={"recorded_us": now_us()})
        stamp = Stamp(metadata, 0, new_id)
        for sale in batch:
            draft.record_purchase(
                stamp.at(FIRST_US + sale.number * 1_000_000),
                (Line(sku=sale.sku, quantity=sale.quantity, net_minor=sale.net_minor, tax_minor=sale.tax_minor),),
                currency=CURRENCY,
                order_id=sale.order_id,
            )
        self.app.save(self)

    def collect_events(self) -> list[Event]:
        """What is to be stored."""
        events = self.journal.copy()
        self.journal.clear()
        return events


class BatchDesk(Desk):
    """Many purchases in one command, as imports record theirs."""

    @command
    def record(
        self,
        work: Work,
        customer: UUID,
        batch: Sequence[Sale],
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """Purchases of one customer; how many."""
        draft = work.customer(customer)
        for sale in batch:
            line = Line(sku=sale.sku, quantity=sale.quantity, net_minor=sale.net_minor, tax_minor=sale.tax_minor)
            record_purchase(work, work.stamp, draft, (line,), currency=CURRENCY)
        return len(batch)
