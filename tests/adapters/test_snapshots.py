"""Snapshots: a shorter way to what the events add up to, and never anything else."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgpack
import pytest
from eventsourcing.application import LRUCache
from eventsourcing.persistence import OperationalError

import tallybook
from tallybook.adapters import application, snapshots
from tallybook.adapters.application import BookApplication
from tallybook.adapters.database import Database
from tallybook.adapters.keys import secret
from tallybook.adapters.snapshots import StateForm, current_form, differing, packed, restored
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.adapters.storage import file_of
from tallybook.book import Book
from tallybook.domain.aggregate import Aggregate, Stamp
from tallybook.domain.control import Control
from tallybook.domain.customer import Customer, Line
from tallybook.domain.errors import BookFull, refusal
from tallybook.domain.events import Event, Metadata
from tallybook.domain.loyalty import LoyaltyAccount, account_id
from tallybook.domain.operations import PAUSED, RESUMED, RETRIED, SKIPPED, Operations
from tallybook.domain.ticket import Author, Ticket, TicketKind

FEW = 8
"""How many events make a stream long in most of these tests."""

SECRET = "Ada Lovelace"
START = datetime(2020, 1, 1, tzinfo=UTC)
RULES: dict[str, Any] = {
    "name": "standard",
    "version": "1",
    "currency": "USD",
    "earning": [{"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100}],
    "expiry": {"months": 12, "until": "month_end"},
    "tiers": {"window_months": 12, "levels": [{"name": "basic", "threshold": 0}, {"name": "gold", "threshold": 300}]},
}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are long early."""
    monkeypatch.setattr(snapshots, "EVERY", FEW)
    monkeypatch.setattr(application, "PIECE", FEW)


class Shop:
    """A book with one member, and what these tests do with it."""

    def __init__(self, url: str, rules: dict[str, Any] | None = None) -> None:
        self.url = url
        self.book = tallybook.open(url)
        self.app: BookApplication = self.book._core.app
        with self.acting():
            parsed = tallybook.RuleSet.model_validate({**RULES, **(rules or {})})
            self.book.rules.adopt(parsed, effective_at=START)
            self.ada = self.book.customers.register(name=SECRET, email="ada@example.org", effective_at=START)
            self.book.loyalty.enrol(self.ada, effective_at=START)
        self.account = account_id(self.ada, "main")

    def acting(self) -> Any:
        return self.book.acting("agent:lin", purpose="support")

    def buy(self, count: int = 1, effective_at: datetime | None = None) -> None:
        lines = [{"sku": "a", "quantity": 2, "net_minor": 500}]
        with self.acting():
            for _ in range(count):
                self.book.customers.record_purchase(self.ada, lines, effective_at=effective_at)

    def reopened(self) -> BookApplication:
        """The application of the book, opened again: nothing is cached."""
        self.book.close()
        self.book = tallybook.open(self.url)
        self.app = self.book._core.app
        return self.app

    def rows(self, statement: str = "SELECT stream, version, kind FROM snapshots ORDER BY kind") -> list[Any]:
        return self.app.database.rows(statement)

    def execute(self, statement: str, *params: Any) -> None:
        with self.app.database.session(write=True) as session:
            session.run(statement, params)

    def plant(self, stream: UUID, **changes: Any) -> None:
        """Alter a snapshot, its checksum with it unless that is what is altered: as only the book itself could."""
        [row] = self.app.database.rows("SELECT * FROM snapshots WHERE stream=?", [stream.bytes])
        names = ["stream", "version", "kind", "form", "state", "checksum"]
        held = {**dict(zip(names, row, strict=True)), **changes}
        if "checksum" not in changes:
            held["checksum"] = hmac.digest(self.key(), msgpack.packb([held[name] for name in names[:-1]]), "sha256")
        self.execute("DELETE FROM snapshots WHERE stream=?", stream.bytes)
        self.execute("INSERT INTO snapshots VALUES (?,?,?,?,?,?)", *held.values())

    def key(self) -> bytes:
        """What snapshots are sealed with."""
        return secret(self.book._core.storage.keys.lookup_key, "snapshots")

    def state(self, stream: UUID) -> list[Any]:
        [(state,)] = self.app.database.rows("SELECT state FROM snapshots WHERE stream=?", [stream.bytes])
        found: list[Any] = msgpack.unpackb(state)
        return found


@pytest.fixture
def new_shop(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def make(url: str = "", **kwargs: Any) -> Shop:
        made.append(Shop(url or f"sqlite:///{tmp_path / f'shop{len(made)}.book'}", **kwargs))
        return made[-1]

    yield make
    for shop in made:
        shop.book.close()


@pytest.fixture
def shop(few: None, book_url: str, new_shop: Callable[..., Shop]) -> Shop:
    """A shop in files, and one on a server."""
    return new_shop(book_url)


def decoded(app: BookApplication, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """The events that are read from now on: stream and version."""
    read, seen = app.codec.read, []

    def watched(stream: Any, version: int, *rest: Any) -> Event:
        seen.append((stream, version))
        return read(stream, version, *rest)

    monkeypatch.setattr(app.codec, "read", watched)
    return seen


def selects(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The queries from now on, and how many rows each gave."""
    rows, seen = database.rows, []

    def watched(statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        found = rows(statement, params)
        seen.append((statement, len(found)))
        return found

    monkeypatch.setattr(database, "rows", watched)
    return seen


# ── when they are written, and what they save ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", ["", "memory:"])
def test_a_long_stream_gets_a_snapshot_after_a_commit_and_a_load_begins_there(
    few: None, new_shop: Callable[..., Shop], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = new_shop(url)
    shop.buy(FEW * 3)
    written = {kind: version for _, version, kind in shop.rows()}
    assert set(written) == {"Customer", "LoyaltyAccount"}
    assert all(version >= FEW for version in written.values())
    before = shop.app.load(LoyaltyAccount, shop.account)
    if url != "memory:":
        shop.reopened()
    shop.app.repository.cache = LRUCache(10)
    seen = decoded(shop.app, monkeypatch)
    account = shop.app.load(LoyaltyAccount, shop.account)
    # From the event that the snapshot stands at, which shows that the stream reaches that far.
    assert seen == [(shop.account, version) for version in range(written["LoyaltyAccount"], account.version + 1)]
    assert (differing(account, before), account.version, account.active) == ((), before.version, before.active)


def test_a_snapshot_moves_on_with_its_stream(shop: Shop) -> None:
    shop.buy(FEW * 2)
    versions = set()
    for _ in range(FEW * 4):
        shop.buy()
        versions |= {version for _, version, kind in shop.rows() if kind == "Customer"}
    assert len(versions) >= 3
    assert all(later - earlier >= FEW for earlier, later in pairwise(sorted(versions)))


def test_a_stream_has_one_snapshot(shop: Shop) -> None:
    shop.buy(FEW * 8)
    assert shop.rows("SELECT COUNT(*), COUNT(DISTINCT stream) FROM snapshots") == [(2, 2)]


def test_the_longer_a_stream_the_rarer_its_snapshots(few: None) -> None:
    customer = Customer(UUID(int=1))
    due = []
    for customer.version in range(1, 2000):
        if snapshots.is_due(customer):
            due.append(customer.version)
            customer.snapshot_version = customer.version
    assert due[0] == FEW
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert gaps == sorted(gaps)
    assert gaps[0] == FEW
    assert all(FEW <= gap <= max(FEW, version // 8 + 1) for gap, version in zip(gaps, due[1:], strict=True))


def test_a_book_without_long_streams_pays_nothing(
    new_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = new_shop()
    shop.buy(20)
    app = shop.reopened()
    seen = selects(app.database, monkeypatch)
    app.load(Customer, shop.ada)
    assert len(seen) == 1
    app.load_many(LoyaltyAccount, [shop.account])
    assert len(seen) == 2
    assert not app.database.has_table("snapshots")


def test_reading_writes_nothing_and_a_commit_writes_what_reading_found_due(
    new_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = new_shop()
    shop.buy(FEW * 2)
    monkeypatch.setattr(snapshots, "EVERY", FEW)
    monkeypatch.setattr(application, "PIECE", FEW)
    app = shop.reopened()
    assert app.load(LoyaltyAccount, shop.account).version > FEW
    assert set(app.load_many(Customer, [shop.ada])) == {shop.ada}
    assert not app.database.has_table("snapshots")
    with shop.acting():
        shop.book.customers.register()
    assert [kind for _, _, kind in shop.rows()] == ["Customer", "LoyaltyAccount"]


def test_no_query_and_no_command_reads_a_long_stream_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.buy(FEW * 6)
    app = shop.reopened()
    app.drop_snapshots()
    seen = selects(app.database, monkeypatch)
    app.load(LoyaltyAccount, shop.account)
    app.load(Customer, shop.ada)
    app.load_many(LoyaltyAccount, [shop.account])
    with shop.acting():
        shop.book.loyalty.redeem(shop.ada, 1, reward="R1")
    assert len(seen) > 6 * 3
    assert max(count for _, count in seen) == FEW


def test_what_an_unfinished_command_did_is_never_in_a_snapshot(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.buy(FEW * 2, effective_at=START)
    until = START + timedelta(days=900)
    with shop.acting():
        shop.book.loyalty._announce_sweep(until)
    shop.app.drop_snapshots()
    append = shop.app.log.append

    def full(*args: Any, **kwargs: Any) -> Any:
        raise BookFull("There is no space left.", path="shop.book", remedy="Make space.")

    monkeypatch.setattr(shop.app.log, "append", full)
    with shop.acting(), pytest.raises(BookFull):
        shop.book.loyalty.redeem(shop.ada, 5, reward="R1")
    with shop.acting(), pytest.raises(BookFull):
        # A sweep loads many accounts, past the cache, and settles them: here, points expire.
        shop.book.loyalty._settle(_batch(shop.account))
    monkeypatch.setattr(shop.app.log, "append", append)
    with shop.acting():
        shop.book.customers.register()  # a commit that has nothing to do with the account
    report = shop.app.check_snapshots()
    assert (report.compared, report.skipped, report.wrong) == (2, 0, ())
    assert shop.book.loyalty.account(shop.ada).expired == FEW * 2 * 5


def _batch(account: UUID) -> Any:
    from tallybook.loyalty import _Accounts

    return _Accounts((account,))


# ── disposable ────────────────────────────────────────────────────────────────────────────────────────────────────


def unusable(shop: Shop) -> dict[str, Callable[[UUID], None]]:
    def state(change: Callable[[list[Any]], Any]) -> Callable[[UUID], None]:
        return lambda stream: shop.plant(stream, state=msgpack.packb(change(shop.state(stream))))

    return {
        "a wrong checksum": lambda stream: shop.plant(stream, checksum=b"\0" * 32),
        "another version under the same checksum": lambda stream: shop.execute(
            "UPDATE snapshots SET version=version-1 WHERE stream=?", stream.bytes
        ),
        "another kind": lambda stream: shop.plant(stream, kind="Ticket"),
        "a kind that is not known": lambda stream: shop.plant(stream, kind="Voucher"),
        "another form": lambda stream: shop.plant(stream, form=b"\0" * 32),
        "bytes that are no msgpack": lambda stream: shop.plant(stream, state=b"\xc1"),
        "bytes that are cut": lambda stream: shop.plant(stream, state=msgpack.packb(shop.state(stream))[:-3]),
        "bytes after the end": lambda stream: shop.plant(stream, state=msgpack.packb(shop.state(stream)) + b"\0"),
        "no list": state(lambda _: 5),
        "a field less": state(lambda values: values[:-1]),
        "a field of another type": state(lambda values: [3.5, *values[1:]]),
        "nothing where a container belongs": state(lambda values: [*values[:-1], None]),
        "a version beyond the end of the stream": lambda stream: shop.plant(stream, version=10_000),
        "a version of nothing": lambda stream: shop.plant(stream, version=0),
    }


CASES = [
    "a wrong checksum", "another version under the same checksum", "another kind", "a kind that is not known",
    "another form", "bytes that are no msgpack", "bytes that are cut", "bytes after the end", "no list",
    "a field less", "a field of another type", "nothing where a container belongs",
    "a version beyond the end of the stream", "a version of nothing",
]  # fmt: skip


def test_every_unusable_case_is_tested(shop: Shop) -> None:
    assert list(unusable(shop)) == CASES


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [LoyaltyAccount, Customer])
def test_a_snapshot_that_cannot_be_used_is_passed_over_and_replaced(
    shop: Shop, case: str, kind: type[Aggregate]
) -> None:
    shop.buy(FEW * 2)
    stream = shop.account if kind is LoyaltyAccount else shop.ada
    before = shop.app.load(kind, stream)
    unusable(shop)[case](stream)
    app = shop.reopened()
    after = app.load(kind, stream)
    assert (differing(after, before), after.version) == ((), before.version)
    report = app.check_snapshots()
    assert (report.compared, report.skipped, report.wrong) == (1, 1, ())
    shop.buy(FEW * 2)
    report = app.check_snapshots()
    assert (report.compared, report.skipped, report.wrong) == (2, 0, ())


@pytest.mark.parametrize(
    "wreck", ["DROP TABLE snapshots", "DELETE FROM snapshots", "ALTER TABLE snapshots RENAME COLUMN state TO was"]
)
def test_the_table_may_be_emptied_dropped_or_broken_at_any_time(shop: Shop, wreck: str) -> None:
    shop.buy(FEW * 2)
    view = shop.book.loyalty.account(shop.ada)
    shop.execute(wreck)
    shop.reopened()
    assert shop.book.loyalty.account(shop.ada) == view
    shop.buy(FEW * 2)
    assert shop.book.loyalty.account(shop.ada).earned == view.earned + FEW * 2 * 5
    assert shop.book.replay().holds


def test_dropping_all_changes_nothing_that_the_book_says(shop: Shop) -> None:
    shop.buy(FEW * 2)
    view, position = shop.book.loyalty.account(shop.ada), shop.book.position()
    shop.app.drop_snapshots()
    assert shop.rows() == []
    assert (shop.book.loyalty.account(shop.ada), shop.book.position()) == (view, position)
    shop.app.drop_snapshots()
    assert shop.app.check_snapshots() == snapshots.SnapshotReport(0, 0, ())


class Failing:
    """A database whose sessions fail."""

    def __init__(self, database: Database, error: Exception) -> None:
        self._database, self._error = database, error
        self.tried = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def session(self, *, write: bool) -> Any:
        self.tried += write
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        refusal("busy", "The book's write lock was not free in time."),
        BookFull("There is no space left.", path="shop.book", remedy="Make space."),
        OperationalError("unable to open database file"),
    ],
)
def test_a_snapshot_that_cannot_be_written_fails_no_command(
    shop: Shop, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(shop.app.database, error)
    monkeypatch.setattr(shop.app.snapshot_store, "_database", failing)
    shop.buy(FEW * 3)
    assert shop.book.loyalty.account(shop.ada).earned == FEW * 3 * 5
    assert shop.book.position() == len(list(shop.book._core.history()))
    assert not shop.app.database.has_table("snapshots")
    # It is not tried again with every command.
    assert 2 <= failing.tried <= 2 * 4


def test_a_snapshot_that_the_database_refuses_repeats_no_command(few: None, new_shop: Callable[..., Shop]) -> None:
    shop = new_shop()
    shop.buy(FEW * 2)
    shop.app.drop_snapshots()
    # An IntegrityError is what makes a command start again.
    shop.execute("CREATE TRIGGER no_more BEFORE INSERT ON snapshots BEGIN SELECT RAISE(ABORT, 'no'); END")
    before = shop.book.position()
    shop.buy(FEW)
    assert shop.rows() == []
    assert shop.book.position() == before + 2 * FEW


def test_a_state_with_a_number_that_is_too_long_has_no_snapshot(shop: Shop) -> None:
    account = LoyaltyAccount(shop.account)
    account.earned = 2**70
    with pytest.raises(OverflowError):
        packed(account)
    shop.app.snapshot_store.write(account)
    assert shop.app.snapshot_store.streams() == []


def test_another_host_uses_the_snapshot_and_an_older_one_does_no_harm(shop: Shop) -> None:
    shop.buy(FEW * 2)
    other = tallybook.open(shop.url)
    older = other._core.app.load(LoyaltyAccount, shop.account)
    shop.buy(FEW * 2)
    other._core.app.snapshot_store.write(older)
    other.close()
    [(version,)] = shop.rows("SELECT version FROM snapshots WHERE kind='LoyaltyAccount'")
    assert version == older.version
    view = shop.book.loyalty.account(shop.ada)
    assert shop.reopened().check_snapshots().wrong == ()
    assert shop.book.loyalty.account(shop.ada) == view


# ── checked against replay ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("earned", 9_999), ("tier", "gold"), ("debt", 1), ("lots", []), ("window", []), ("known", [])],
)
def test_a_snapshot_that_says_something_else_than_its_stream_is_named(shop: Shop, field: str, wrong: Any) -> None:
    shop.buy(FEW * 2)
    fields = list(StateForm(LoyaltyAccount).fields)
    state = shop.state(shop.account)
    state[fields.index(field)] = wrong
    shop.plant(shop.account, state=msgpack.packb(state))
    app = shop.reopened()
    calls: list[tuple[int, int]] = []
    report = app.check_snapshots(lambda done, total: calls.append((done, total)))
    assert (report.compared, report.skipped) == (2, 0)
    [found] = report.wrong
    assert (found.stream_id, found.kind, found.fields) == (shop.account, "LoyaltyAccount", (field,))
    for told in (str(shop.account), "LoyaltyAccount", str(found.version), field):
        assert told in str(found)
    assert calls == [(1, 2), (2, 2)]
    # It is believed until it is dropped: that is why it is checked.
    assert getattr(app.load(LoyaltyAccount, shop.account), field) != getattr(
        LoyaltyAccount.fold(None, app.store.get(shop.account)), field
    )
    app.drop_snapshots()
    assert app.check_snapshots().wrong == ()
    right = app.load(LoyaltyAccount, shop.account)
    assert differing(right, LoyaltyAccount.fold(None, app.store.get(shop.account)) or right) == ()


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "a plain hash": lambda parts: hashlib.sha256(parts).digest(),
    "no key": lambda parts: hmac.digest(b"", parts, "sha256"),
    "a key of zeros": lambda parts: hmac.digest(bytes(32), parts, "sha256"),
    "another book's key": lambda parts: hmac.digest(secret(os.urandom(32), "snapshots"), parts, "sha256"),
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("forged", FORGERIES)
def test_whoever_can_write_the_database_makes_no_command_believe_a_state(shop: Shop, forged: str) -> None:
    shop.buy(FEW * 2)
    before = shop.book.loyalty.account(shop.ada)
    state = shop.state(shop.account)
    fields = list(StateForm(LoyaltyAccount).fields)
    lots, earned = fields.index("lots"), fields.index("earned")
    state[lots] = [[*lot[:-1], lot[-1] * 1000] for lot in state[lots]]
    state[earned] *= 1000
    [row] = shop.rows("SELECT * FROM snapshots WHERE kind='LoyaltyAccount'")
    parts = msgpack.packb([*row[:4], msgpack.packb(state)])
    shop.plant(shop.account, state=msgpack.packb(state), checksum=FORGERIES[forged](parts))
    shop.reopened()
    looked = [one for one in shop.book.doctor() if one.name == "snapshots"]
    assert [one.state for one in looked] == ["warning", "ok"]
    assert str(shop.account) in looked[0].what
    assert shop.app.check_snapshots().foreign == (shop.account,)
    assert shop.book.loyalty.account(shop.ada) == before
    with shop.acting(), pytest.raises(tallybook.NotAllowed) as refused:
        shop.book.loyalty.redeem(shop.ada, before.active + 1, reward="R1")
    assert refused.value.code == "insufficient_points"
    assert shop.book.replay().holds
    shop.buy(FEW * 2)  # the next one takes its place
    assert shop.app.check_snapshots().foreign == ()


def test_a_forgery_under_the_books_own_key_would_be_believed(shop: Shop) -> None:
    # What the test before this one alters is indeed what a command decides by: only the key makes the difference.
    shop.buy(FEW * 2)
    state = shop.state(shop.account)
    lots = list(StateForm(LoyaltyAccount).fields).index("lots")
    state[lots] = [[*lot[:-1], lot[-1] * 1000] for lot in state[lots]]
    shop.plant(shop.account, state=msgpack.packb(state))
    shop.reopened()
    with shop.acting():
        assert shop.book.loyalty.redeem(shop.ada, 5000, reward="R1").points == 5000


def test_all_who_have_the_books_keys_share_its_snapshots(shop: Shop) -> None:
    shop.buy(FEW * 2)
    with tallybook.open(shop.url) as other:
        report = other._core.app.check_snapshots()
        assert (report.compared, report.skipped, report.foreign) == (2, 0, ())
    written = [value for row in shop.rows("SELECT * FROM snapshots") for value in row]
    assert not any(shop.key() in value for value in written if type(value) is bytes)


def test_without_the_keys_doctor_does_not_judge_snapshots(few: None, new_shop: Callable[..., Shop]) -> None:
    shop = new_shop()
    shop.buy(FEW * 2)
    shop.book.close()
    path = file_of(shop.url)
    assert path is not None
    keys = path.with_name(f"{path.name}.keys")
    keys.rename(path.with_name("away"))
    found = tallybook.doctor(shop.url)
    assert ("files", "failed") in [(one.name, one.state) for one in found]
    [judged] = [one for one in found if one.name == "snapshots"]
    assert judged.state == "warning"
    assert "not checked" in judged.what
    path.with_name("away").rename(keys)


def test_doctor_finds_a_wrong_snapshot_and_dropping_all_mends_it(shop: Shop) -> None:
    def looked() -> list[tuple[str, str]]:
        return [(one.state, one.what) for one in shop.book.doctor() if one.name == "snapshots"]

    shop.buy(FEW * 2)
    view = shop.book.loyalty.account(shop.ada)
    assert looked() == [("ok", "2 snapshots agree with their events, 0 are out of use")]
    state = shop.state(shop.account)
    state[list(StateForm(LoyaltyAccount).fields).index("spent")] = 77
    shop.plant(shop.account, state=msgpack.packb(state))
    shop.reopened()
    assert shop.book.loyalty.account(shop.ada).spent == 77
    [(found, what)] = looked()
    assert (found, str(shop.account) in what, "spent" in what) == ("failed", True, True)
    shop.book.drop_snapshots()
    assert looked() == [("ok", "0 snapshots agree with their events, 0 are out of use")]
    assert shop.book.loyalty.account(shop.ada) == view


# ── what is in them ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_snapshot_holds_no_personal_value_open_or_sealed(shop: Shop) -> None:
    with shop.acting():
        customers = shop.book.customers
        customers.link_identifier(shop.ada, "crm", "C-77 Lovelace")
        customers.add_contact_point(shop.ada, "phone", "+44 20 7946")
        customers.change(shop.ada, occupation="countess", note="likes engines")
        customers.record_purchase(shop.ada, [{"sku": "a", "quantity": 1, "net_minor": 500}], order_id="order of Ada")
    shop.buy(FEW)
    states = [state for (state,) in shop.rows("SELECT state FROM snapshots")]
    assert len(states) == 2
    for state in states:
        for text in (b"Lovelace", b"example.org", b"7946", b"countess", b"engines", b"order of"):
            assert text not in state
        for value in _leaves(msgpack.unpackb(state)):
            # Ids, and commitments to keys; a sealed blob is longer than both.
            assert not isinstance(value, bytes) or len(value) in (16, 32)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _all_kinds(kind: type[Aggregate]) -> Iterator[type[Aggregate]]:
    """The aggregates of streams: not what some of them share."""
    for one in kind.__subclasses__():
        if one.__module__.startswith("tallybook."):
            if not one.__subclasses__():
                yield one
            yield from _all_kinds(one)


def test_every_aggregate_has_a_form_and_no_state_beside_its_fields() -> None:
    kinds = set(_all_kinds(Aggregate))
    assert {Customer, LoyaltyAccount, Ticket, Control, Operations} <= kinds
    bookkeeping = {"id", "version", "journal", "snapshot_version"}
    derived: dict[type[Aggregate], set[str]] = {Control: {"rule_book"}}
    for kind in kinds:
        name, state = packed(kind(UUID(int=1)))
        assert restored(name, UUID(int=1), 0, state) is not None
        fields = set(StateForm(kind).fields)
        assert set(vars(kind(UUID(int=1)))) - bookkeeping - derived.get(kind, set()) <= fields
        containers = {name for name in fields if hasattr(getattr(kind(UUID(int=1)), name), "copy")}
        assert containers == set(kind.CONTAINERS)


def test_a_snapshot_of_a_ticket_at_any_version_goes_on_as_the_ticket_does() -> None:
    stamp = Stamp(Metadata(recorded_us=0, actor="agent:lin", purpose="support"), 5, uuid4)
    ticket = Ticket(UUID(int=4)).draft([])
    ticket.open(stamp, UUID(int=9), TicketKind.COMPLAINT, "subject", None, "high")
    ticket.reply(stamp.at(7), "text", Author.BOT, True)
    ticket.assign(stamp.at(8), "agent:lin")
    ticket.reply(stamp.at(9), "text", Author.HUMAN, True)
    ticket.compensate(stamp.at(10), 5, "sorry")
    ticket.resolve(stamp.at(11), "done", None)
    ticket.close(stamp.at(12))
    _goes_on(Ticket, ticket.journal or [])


def test_a_snapshot_of_the_operators_decisions_at_any_version_goes_on_as_they_do() -> None:
    stamp = Stamp(Metadata(recorded_us=0, actor="agent:lin", purpose="support"), 5, uuid4)
    operations = Operations(UUID(int=4)).draft([])
    decided = [(PAUSED, None), (RESUMED, None), (SKIPPED, 7), (SKIPPED, 3), (RETRIED, None), (PAUSED, None)]
    for action, position in decided:
        operations.direct(stamp, "tiers", 2, action, position)
    _goes_on(Operations, operations.journal or [])


def _goes_on(kind: type[Aggregate], events: list[Event]) -> None:
    whole = kind.fold(None, events)
    assert whole is not None
    for version in range(1, len(events) + 1):
        state = kind.fold(None, events[:version])
        assert state is not None
        name, plain = packed(state)
        back = restored(name, state.id, version, plain)
        assert back is not None
        assert differing(back, state) == ()
        resumed = kind.fold(back, events[version:])
        assert resumed is not None
        assert (differing(resumed, whole), resumed.version) == ((), whole.version)


def test_decisions_go_on_from_a_snapshot_of_the_books_own_stream(shop: Shop) -> None:
    with shop.acting():
        for day in range(1, FEW + 1):
            shop.book.loyalty.sweep(START + timedelta(days=day))
    assert "Control" in {kind for _, _, kind in shop.rows()}
    app = shop.reopened()
    control = app.load(Control, shop.book._core.book_id)
    replayed = Control.fold(None, app.store.get(shop.book._core.book_id))
    assert replayed is not None
    assert differing(control, replayed) == ()
    assert control.rule_book.programmes() == ("main",)
    with shop.acting():
        shop.book.loyalty.sweep(START + timedelta(days=20))
    shop.buy()
    assert shop.book.loyalty.account(shop.ada).earned == 5
    assert shop.book.replay().holds


def test_changed_code_uses_no_old_snapshot(tmp_path: Path) -> None:
    package = Path(tallybook.__file__).parent
    script = "from tallybook.adapters.snapshots import current_form; print(current_form().hex())"

    def form_of(file: str, text: str) -> str:
        site = tmp_path / file.replace("/", "-") / str(len(text))
        shutil.copytree(package, site / "tallybook", ignore=shutil.ignore_patterns("__pycache__", "data"))
        with (site / "tallybook" / file).open("a", encoding="utf-8") as changed:
            changed.write(text)
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=site, env={"PYTHONPATH": str(site)}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        return done.stdout.strip()

    assert form_of("domain/lots.py", "") == current_form().hex()
    changed = {form_of(file, "# changed\n") for file in ("domain/lots.py", "domain/events.py", "adapters/codec.py")}
    assert len(changed) == 3
    assert current_form().hex() not in changed
    assert form_of("adapters/clock.py", "# changed\n") == current_form().hex()


# ── at size ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Till:
    """Many events in one commit: the domain without the command around it."""

    version = 0

    def __init__(self, shop: Shop) -> None:
        self.id = shop.book._core.book_id
        self.journal: list[Event] = []

    def collect_events(self) -> list[Event]:
        """What is to be stored."""
        return self.journal


def grown(shop: Shop, events: int) -> None:
    """Purchases until the account has so many events; a tenth of them is redeemed or given back."""
    app, till = shop.app, Till(shop)
    customer = app.load(Customer, shop.ada).draft(till.journal)
    account = app.load(LoyaltyAccount, shop.account).draft(till.journal)
    control = app.load(Control, shop.book._core.book_id)
    metadata = Metadata(recorded_us=0, actor="agent:lin", purpose="support")
    at_us = int(START.timestamp()) * 1_000_000
    number = 0
    while account.version < events:
        number += 1
        at_us += 3_600_000_000
        stamp = Stamp(metadata, at_us, uuid4)
        account.settle(stamp, at_us, control)
        fact = customer.record_purchase(
            stamp, (Line(sku=f"sku-{number % 97}", quantity=2, net_minor=500 + number % 3000),), currency="USD"
        )
        account.receive(fact, stamp, control)
        if number % 20 == 0:
            account.redeem(stamp, 40, "R1", control)
        if number % 20 == 10:
            back = customer.record_return(stamp, fact.event_id, {1: 1 + number % 2}, None)
            account.receive(back, stamp, control)
    app.save(till)


class Steps:
    """Counts the steps of SQLite's virtual machine, in hundreds."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(database, SQLiteDatabase)
        self.hundreds = 0
        connect = database._connect

        def watched(*, write: bool = False) -> sqlite3.Connection:
            connection = connect(write=write)
            connection.set_progress_handler(self._count, 100)
            return connection

        monkeypatch.setattr(database, "_connect", watched)
        for connection in (*database._idle[True], *database._idle[False]):
            connection.set_progress_handler(self._count, 100)

    def _count(self) -> int:
        self.hundreds += 1
        return 0


LONG = 5_000


@pytest.fixture(scope="module")
def long_book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UUID]:
    """A book with an account of 5,000 events; the path to copy it from."""
    path = tmp_path_factory.mktemp("long") / "shop.book"
    shop = Shop(f"sqlite:///{path}")
    grown(shop, LONG)
    shop.book.close()
    return path, shop.ada


@pytest.fixture
def long_shop(long_book: tuple[Path, UUID], tmp_path: Path) -> Iterator[tuple[Book, UUID]]:
    path, ada = long_book
    for file in path.parent.glob(path.name + "*"):
        shutil.copy(file, tmp_path / file.name)
    with tallybook.open(f"sqlite:///{tmp_path / path.name}") as book, book.acting("agent:lin", purpose="support"):
        yield book, ada


def test_an_account_of_5000_events_is_the_same_with_and_without_a_snapshot(
    long_shop: tuple[Book, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    book, ada = long_shop
    app = book._core.app
    stream = account_id(ada, "main")
    seen = decoded(app, monkeypatch)
    without = app.load(LoyaltyAccount, stream)
    assert without.version >= LONG
    assert len(seen) == without.version
    app.load(Customer, ada)
    app.write_snapshots()
    app.repository.cache = LRUCache(10)
    seen.clear()
    account = app.load(LoyaltyAccount, stream)
    assert len(seen) == 1
    assert (differing(account, without), account.version) == ((), without.version)
    report = app.check_snapshots()
    assert (report.compared, report.skipped, report.wrong) == (2, 0, ())
    assert book.replay().holds
    rules = book.rules.in_force("2024-01-01T00:00:00Z")
    assert rules is not None
    assert book.backtest(rules).changed == 0
    assert book.loyalty.balance(ada, as_of="2020-06-01T00:00:00Z") > 0


def test_a_command_on_a_long_stream_costs_the_database_no_more_than_on_a_short_one(
    long_shop: tuple[Book, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    book, ada = long_shop
    bob = book.customers.register()
    book.loyalty.enrol(bob)
    lines = [{"sku": "a", "quantity": 1, "net_minor": 500_000}]
    for customer in (ada, bob):  # what is due is settled, and all is in the cache
        book.customers.record_purchase(customer, lines)
        book.loyalty.redeem(customer, 1, reward="R1")
    steps = Steps(book._core.app.database, monkeypatch)
    spent = []
    for customer in (ada, bob):
        before = steps.hundreds
        for _ in range(20):
            book.customers.record_purchase(customer, lines)
            book.loyalty.redeem(customer, 1, reward="R1")
            book.loyalty.balance(customer)
        spent.append(steps.hundreds - before)
    assert min(spent) > 20
    assert spent[0] < 1.5 * spent[1]


def test_a_draft_of_a_long_account_is_small(long_shop: tuple[Book, UUID]) -> None:
    book, ada = long_shop
    app = book._core.app
    for kind, stream in ((LoyaltyAccount, account_id(ada, "main")), (Customer, ada)):
        loaded = app.load(kind, stream)
        loaded.draft([])
        tracemalloc.start()
        draft = loaded.draft([])
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert draft.version == loaded.version
        # A plain copy of the earnings alone is 300 KB.
        assert size < 40_000
