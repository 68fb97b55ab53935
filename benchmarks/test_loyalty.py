"""Month ends of many accounts, and redemptions on an account of many lots."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from tallybook.adapters.clock import new_id, now_us
from tallybook.book import Book
from tallybook.commands import Desk, Work, command
from tallybook.customers import record_purchase
from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import DAY_US
from tallybook.domain.control import Control
from tallybook.domain.customer import Customer, CustomerKind, Line
from tallybook.domain.loyalty import LoyaltyAccount, account_id
from tallybook.times import When

from .conftest import Measure
from .ours import Till, copy_book, enrolled, open_book
from .rows import OURS, STOCK
from .workload import ACTOR, CURRENCY, FIRST_US, PURPOSE, RULES, Sizes

OPENED_US = 1_704_067_200_000_000  # 2024-01-01T00:00Z
BATCH = 200
HOUR_US = 3_600_000_000


class MonthEnd(NamedTuple):
    """A month whose purchases expire a year later, and how many of a hundred members bought in it."""

    key: str
    percent: int
    days: tuple[int, int]
    before: str
    until: str


# By the rule set that ships, points live to the end of the month a year later, in New York.
MONTH_ENDS = (
    MonthEnd("sweep-5", 5, (153, 180), "2025-06-30T04:00:00Z", "2025-07-01T04:00:00Z"),
    MonthEnd("sweep-20", 20, (184, 211), "2025-07-31T04:00:00Z", "2025-08-01T04:00:00Z"),
    MonthEnd("sweep-all", 100, (215, 242), "2025-08-31T04:00:00Z", "2025-09-01T04:00:00Z"),
)


class Purchases(NamedTuple):
    """Of one member: the days since the book was opened, and the amounts."""

    days: Sequence[int]
    nets: Sequence[int]


def histories(count: int) -> Iterator[Purchases]:
    """Members who joined at their first purchase; some buy in the months in question, all now and then later."""
    chance = random.Random(1)
    for _ in range(count):
        days = [chance.randrange(*one.days) for one in MONTH_ENDS if chance.randrange(100) < one.percent]
        days += [chance.randrange(246, 500) for _ in range(chance.randrange(5))]
        yield Purchases(sorted(days), [500 + chance.randrange(9000) for _ in days])


class Members(Desk):
    """Many purchases of many members in one commit, as imports record theirs."""

    @command
    def join(
        self,
        work: Work,
        batch: Sequence[Purchases],
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> list[UUID]:
        """New members with what they bought."""
        found = []
        for one in batch:
            stamp = work.at(OPENED_US + one.days[0] * DAY_US)
            customer = work.fresh_customer()
            key_id, commitment = work.key_for(customer)
            customer.register(
                stamp, CustomerKind.PERSON, key_id=key_id, commitment=commitment, fields={"source": "shop"}
            )
            work.fresh_account(customer.id, "main").enrol(stamp, customer.id, "main", work.control())
            for day, net in zip(one.days, one.nets, strict=True):
                bought(work, customer, OPENED_US + day * DAY_US + 12 * HOUR_US, net)
            found.append(customer.id)
        return found

    @command
    def buy(
        self,
        work: Work,
        customers: Sequence[UUID],
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """A purchase of each."""
        for customer in customers:
            bought(work, work.customer(customer), work.stamp.effective_us, 1000)


def bought(work: Work, customer: Customer, at_us: int, net: int) -> None:
    """A purchase, and what it decides."""
    line = Line(sku="sku-1", quantity=1, net_minor=net, tax_minor=net * 19 // 100)
    record_purchase(work, work.at(at_us), customer, (line,), currency=CURRENCY)


@pytest.fixture(scope="module")
def month_ends(sizes: Sizes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A book for each month's end, as it stands on the day before, after the sweep of that night and a day's trade."""
    folder = tmp_path_factory.mktemp("members")
    books: dict[str, Path] = {}
    with open_book(folder / "members.book") as book, book.acting(ACTOR, purpose=PURPOSE):
        book.rules.adopt(RULES, effective_at="2024-01-01T00:00:00Z")
        rest = histories(sizes.members)
        customers: list[UUID] = []
        while batch := list(islice(rest, BATCH)):
            customers += Members(book._core).join(batch)
    for number, one in enumerate(MONTH_ENDS):
        with open_book(folder / "members.book") as book, book.acting(ACTOR, purpose=PURPOSE):
            book.loyalty.sweep(one.before)
            today = customers[number::100]
            for start in range(0, len(today), BATCH):
                Members(book._core).buy(today[start : start + BATCH], effective_at=one.before)
        (folder / one.key).mkdir()
        books[one.key] = copy_book(folder / "members.book", folder / one.key)
    yield books
    shutil.rmtree(folder)


@pytest.mark.parametrize("month_end", MONTH_ENDS, ids=lambda one: one.key)
@pytest.mark.parametrize("who", [STOCK, OURS])
def test_sweep(measure: Measure, sizes: Sizes, month_ends: dict[str, Path], who: str, month_end: MonthEnd) -> None:
    """Expiry and tiers of all accounts."""

    def prepare(folder: Path) -> tuple[Book]:
        book = open_book(copy_book(month_ends[month_end.key], folder))
        if who == STOCK:
            book.drop_snapshots()
        return (book,)

    def run(book: Book) -> None:
        with book.acting(ACTOR, purpose=PURPOSE):
            swept = book.loyalty.sweep(month_end.until)
        assert swept.accounts == sizes.members
        expected = sizes.members * month_end.percent / 100
        assert 0.7 * expected <= swept.decisions <= 1.3 * expected

    measure(month_end.key, who, sizes.members, run, prepare, rounds=sizes.sweep_rounds, warmup=0)


class Lots(Till):
    """An account of so many open lots."""

    def fill(self, customer_id: UUID, count: int, net_minor: int) -> None:
        """One purchase an hour."""
        customer = self.app.load(Customer, customer_id).draft(self.journal)
        account = self.app.load(LoyaltyAccount, account_id(customer_id, "main")).draft(self.journal)
        control = self.app.load(Control, self.id)
        for number in range(count):
            metadata = self.acting.model_copy(update={"recorded_us": now_us()})
            stamp = Stamp(metadata, FIRST_US + number * HOUR_US // 4, new_id)
            line = Line(sku="sku-1", quantity=1, net_minor=net_minor)
            account.receive(customer.record_purchase(stamp, (line,), currency=CURRENCY), stamp, control)
            if len(self.journal) > 1000:
                self.app.save(self)
        self.app.save(self)
        assert len(account.lots) == count


@pytest.mark.parametrize("who", [STOCK, OURS])
def test_redeem(measure: Measure, sizes: Sizes, who: str) -> None:
    """The same points, of few lots or many."""
    lots = sizes.open_lots if who == OURS else 5
    points = 1000 * sizes.open_lots

    def prepare(folder: Path) -> tuple[Book, UUID]:
        book = open_book(folder / "ours.book")
        [customer] = enrolled(book, 1)
        Lots(book, []).fill(customer, lots, points // lots * 100)
        book.loyalty.account(customer)
        return book, customer

    def run(book: Book, customer: UUID) -> None:
        with book.acting(ACTOR, purpose=PURPOSE):
            for _ in range(sizes.commands):
                book.loyalty.redeem(customer, 700, reward="R1")

    measure("redeem-lots", who, sizes.commands, run, prepare, rounds=sizes.append_rounds)
