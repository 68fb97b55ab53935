"""Who can write the database puts nonsense into it: each answer is the right one, or an error of Tallybook's. Nothing
is written on top of nonsense, and doctor names it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import NAMESPACE_OID, UUID, uuid5

import pytest
from tests.postgres import run_sql

import tallybook
from tallybook import Book, BookDamaged, TallybookError
from tallybook.adapters import application, snapshots
from tallybook.adapters.doctor import Finding
from tallybook.adapters.postgres import PostgresDatabase
from tallybook.domain.errors import BookError, BookReadOnly, KeysMissing, StoredFormError

FEW = 8
NOW_US = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
LINES = [{"sku": "a", "category": "c", "quantity": 1, "net_minor": 5000}]
FILES = ("shop.book", "shop.book.keys", "shop.book.reads")
"""Those with tables; the signing key is a text beside them."""


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Streams are long early."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "EVERY", FEW)
        patch.setattr(application, "PIECE", FEW)
        yield


class Ids:
    """Ids that count on from what is being done, whatever was done before."""

    def __init__(self) -> None:
        self.begin("")

    def begin(self, what: str) -> None:
        self._ids = (uuid5(NAMESPACE_OID, f"{what} {number}") for number in count())

    def __call__(self) -> UUID:
        return next(self._ids)


ADA, BOB, EVE = UUID(int=1), UUID(int=2), UUID(int=3)


def fill(book: Book) -> None:
    """Something in each table."""
    book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
    for customer, name in ((ADA, "Ada"), (BOB, "Bob")):
        book.customers.register(customer_id=customer, name=name, identifiers={"crm": name}, command_id=name)
        book.loyalty.enrol(customer, effective_at="2021-01-01T00:00:00Z")
    book.customers.record_purchase(BOB, LINES, effective_at="2021-01-10T00:00:00Z")
    book.loyalty.sweep("2021-12-31T00:00:00Z")
    for number in range(12):
        book.customers.record_purchase(ADA, LINES, order_id=f"order {number}", command_id=f"purchase {number}")
    book.tickets.open(ADA, subject="late", kind="complaint")
    book.profiles.get(ADA)
    book.customers.register(customer_id=EVE, name="Eve", identifiers={"crm": "Eve"})
    book.erasures.erase(EVE, reason="gdpr-17")
    assert book.tiers.counts()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small book in files."""
    folder = tmp_path_factory.mktemp("template")
    with (
        tallybook.open(f"sqlite:///{folder}/shop.book", now_us=lambda: NOW_US, new_id=Ids()) as book,
        book.acting("agent:lin", purpose="support"),
    ):
        fill(book)
    return folder


# ── what is asked and done ──────────────────────────────────────────────────────────────────────────────────────────


def _follow(book: Book) -> list[int]:
    return [one.position for one in book.follow(timeout_s=0)]


def _verify(book: Book) -> None:
    for one in book.audit.verify():
        if not one.holds:
            raise BookDamaged(one.problem or "", remedy="See why.")


def _replay(book: Book) -> None:
    if not book.replay().holds:
        raise BookDamaged("the certificate fails")


def _status(book: Book) -> list[tuple[str, str]]:
    found = book.projections.status()
    for one in found:
        if one.state == "failed":
            raise BookDamaged(one.error)
    return [(one.name, one.state) for one in found if one.state != "superseded"]


READS: dict[str, Callable[[Book], Any]] = {
    "position": lambda book: book.position(),
    "find": lambda book: book.customers.find("crm", "Ada"),
    "find nobody": lambda book: book.customers.find("crm", "Cyd"),
    "balance": lambda book: book.loyalty.balance(ADA),
    "account as of": lambda book: book.loyalty.account(ADA, as_of="2024-01-01T00:00:00Z"),
    "account": lambda book: book.loyalty.account(ADA),
    "adopted": lambda book: repr(book.rules.adopted()),
    "follow": _follow,
    "replay": _replay,
}
SWEEP = "sweep"
"""Of several commits: what it announced stays, whatever becomes of the accounts."""
COMMANDS: dict[str, Callable[[Book], Any]] = {
    "repeat a registration": lambda book: book.customers.register(
        customer_id=ADA, name="Ada", identifiers={"crm": "Ada"}, command_id="Ada"
    ),
    "repeat a purchase": lambda book: book.customers.record_purchase(
        ADA, LINES, order_id="order 3", command_id="purchase 3"
    ),
    "purchase": lambda book: book.customers.record_purchase(ADA, LINES, order_id="order 99", command_id="new").points,
    "purchase again": lambda book: book.customers.record_purchase(ADA, LINES, order_id="order 99"),
    "take an identifier": lambda book: book.customers.register(identifiers={"crm": "Bob"}),
    "redeem": lambda book: book.loyalty.redeem(ADA, 5, reward="R1").points,
    "redeem too much": lambda book: book.loyalty.redeem(ADA, 10**6, reward="R1"),
    "register": lambda book: book.customers.register(name="Cyd"),
    "change": lambda book: book.customers.change(BOB, name="Bobby"),
    "change who was erased": lambda book: book.customers.change(EVE, name="Eva"),
    "take an identifier of who was erased": lambda book: book.customers.register(identifiers={"crm": "Eve"}),
    "return": lambda book: book.customers.record_return(ADA, {1: 1}, order_id="order 3"),
    "open a ticket": lambda book: book.tickets.open(BOB, subject="x", kind="complaint"),
    "pause": lambda book: book.projections.pause("trail"),
    "resume": lambda book: book.projections.resume("trail"),
    SWEEP: lambda book: book.loyalty.sweep("2022-12-31T00:00:00Z"),
}
QUESTIONS: dict[str, Callable[[Book], Any]] = {
    "tiers": lambda book: book.tiers.counts(),
    "members": lambda book: len(book.tiers.members("basic")),
    "history": lambda book: [(one.customer_id, one.tier) for one in book.tiers.history(ADA)],
    "standing": lambda book: book.tiers.standing(ADA).tier,
    "balances": lambda book: book.loyalty.balances(),
    "outstanding": lambda book: book.loyalty.outstanding().rows,
    "expiring": lambda book: book.loyalty.expiring("2026-01-01").customers,
    "balances as of": lambda book: book.loyalty.balances(as_of="2024-01-01T00:00:00Z"),
    # The position of a book to which commands were given meanwhile depends on which of them were carried out.
    "figures": lambda book: book.loyalty.programme_figures("2024-01-01", "2024-01-31").members,
    "rewards": lambda book: book.loyalty.reward_popularity().rewards,
    "profile": lambda book: book.profiles.get(ADA)["name"],
    "profile of who was erased": lambda book: book.profiles.get(EVE)["name"],
    "erasures": lambda book: book.erasures.all(),
    "receipt": lambda book: book.erasures.receipt(EVE).commitments,
    "segments": lambda book: book.profiles.segments(),
    "timeline": lambda book: len(book.profiles.timeline(ADA)),
    # Not of the reads: a search that fails on damaged claims is none.
    "trail": lambda book: len([one for one in book.audit.trail(ADA) if one.log == "events"]),
    "catch up": lambda book: book.projections.catch_up(),
    "status": _status,
    "rebuild": lambda book: book.projections.rebuild(),
    "tiers after a rebuild": lambda book: book.tiers.counts(),
    "verify": _verify,
}
ALL = READS | QUESTIONS | COMMANDS | {f"{name}, again": ask for name, ask in (READS | QUESTIONS).items()}


def answers(folder: Path) -> dict[str, Any]:
    """What a book says to each question, and to each command: an answer, or an error of Tallybook's."""
    found: dict[str, Any] = {}
    ids = Ids()

    def ask(name: str, book: Book) -> None:
        ids.begin(name)
        try:
            found[name] = repr(ALL[name](book))
        except TallybookError as error:
            found[name] = error

    try:
        with (
            closing(sqlite3.connect(folder / "shop.book")) as raw,
            tallybook.open(f"sqlite:///{folder}/shop.book", now_us=lambda: NOW_US, new_id=ids) as book,
            book.acting("agent:lin", purpose="support"),
        ):
            for name in ALL:
                before = _log(raw)
                ask(name, book)
                if (
                    isinstance(found[name], TallybookError)
                    and getattr(found[name], "code", "") != "insufficient_points"
                    and name != SWEEP
                ):
                    assert _log(raw) == before, f"{name} failed, and wrote"
    except TallybookError as error:
        for name in ALL:
            found.setdefault(name, error)
    return found


def _log(raw: sqlite3.Connection) -> Any:
    there = raw.execute("SELECT 1 FROM sqlite_master WHERE name='stored_events'").fetchall()
    return there and raw.execute("SELECT COUNT(*) FROM stored_events").fetchall()


@pytest.fixture(scope="module")
def right(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the untouched twin says."""
    folder = tmp_path_factory.mktemp("twin")
    shutil.copytree(template, folder, dirs_exist_ok=True)
    return answers(folder)


def test_the_untouched_twin_is_well(template: Path, right: dict[str, Any]) -> None:
    failed = {name for name, answer in right.items() if isinstance(answer, TallybookError)}
    assert failed == {"purchase again", "take an identifier", "redeem too much", "change who was erased"}, {
        name: str(right[name]) for name in failed
    }
    assert unwell(template) == []


def unwell(folder: Path) -> list[Finding]:
    """What doctor finds, but for what this machine's SQLite is said to do."""
    found = tallybook.doctor(f"sqlite:///{folder}/shop.book")
    return [one for one in found if one.state != "ok" and one.name != "versions"]


# ── what is planted ─────────────────────────────────────────────────────────────────────────────────────────────────


NONSENSE: dict[str, str] = {
    "nothing": "NULL",
    "a text": "'nonsense'",
    "a text that is none": "CAST(x'ff00fe' AS TEXT)",
    "a fraction": "1.5",
    "bytes": "x'c1ff00'",
    "no bytes": "x''",
    "half of the bytes": "CAST(substr({column}, 1, length({column}) / 2) AS BLOB)",
    "a negative number": "-7",
    "a huge number": "9223372036854775807",
}


GONE = {("claims", "claim"), ("receipts", "command_id"), ("data_keys", "subject"), ("data_keys", "key_id")}
"""What was looked up by these is not there any more. What was never there looks the same: doctor alone can tell."""
EMPTY = {
    ("shop.book.reads", "receipts"), ("shop.book.reads", "claims"), ("shop.book.reads", "erased"),
    ("shop.book", "pruned"),  # of the log of reads alone
    ("shop.book.reads", "pruned"),  # in this book: see test_pruning
}  # fmt: skip
"""Tables that nothing is ever written to, nor read from; or that hold nothing here."""
ONE_OF_MANY = {"stored_events": "position=20"}
HARMLESS = {
    ("snapshots", "form"), ("due_index", "form"),  # another release's
    ("key_notes", "value"),  # up to where erasures were followed: it saves work, and nothing rests on it
    ("read_model_builds", "name"), ("read_model_builds", "version"), ("read_model_builds", "shape"),  # another model's
    ("read_model_builds", "mark"),  # empty: not known
    ("read_model_builds", "tables"), ("read_model_builds", "failed_error"),  # nothing is decided by them
    ("read_model_builds", "target"), ("read_model_builds", "muted"), ("read_model_builds", "failed_seen"),
}  # fmt: skip
"""Here nonsense of the right type looks like something that may be, and the answers are right all the same."""


def cells() -> list[tuple[str, str, str]]:
    """All columns of all tables, with their files."""
    return [
        (file, table, column)
        for file, tables in TABLES.items()
        for table, columns in tables.items()
        for column in columns.split()
        if (file, table) not in EMPTY
    ]


LOG = {
    "head": "log position frontier signed mac erased own",
    "tiles": "log level tile hashes",
    "checkpoints": "log size signed_us root note token witnesses",
    "erased": "subject key_id position",
    "pruned": "log position root",
    "receipts": "command_id digest first_position last_position result mac",
    "claims": "claim holder mac",
    "book": "name value",
}
EVENTS = "position originator_id originator_version topic state"
TABLES: dict[str, dict[str, str]] = {
    "shop.book": {
        **LOG,
        "stored_events": EVENTS,
        "snapshots": "stream version kind form state checksum",
        "due_index": "account version adoptions quiet_until_us form checksum",
        "read_model_builds": "number name version shape tables live position target muted mark failed_position "
        "failed_error failed_seen",
    },
    "shop.book.keys": {
        "book": "name value",
        "book_keys": "name wrapping_key wrapped",
        "data_keys": "subject key_id wrapping_key wrapped destroyed mac",
        "key_notes": "name value",
    },
    "shop.book.reads": {**LOG, "access_records": EVENTS},
}


def test_every_cell_is_tried(template: Path) -> None:
    for file in FILES:
        with closing(sqlite3.connect(template / file)) as raw:
            found = {
                table: " ".join(column for _, column, *_ in raw.execute(f"PRAGMA table_info({table})"))
                for (table,) in raw.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
            }
        rows = {table for table in found if "__" in table}  # of read models: derived
        assert {table: columns for table, columns in found.items() if table not in rows} == TABLES[file]


def plant(path: Path, statement: str) -> bool:
    """Alter a file as whoever has it can: its constraints are lifted first. False if that changes nothing."""
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("PRAGMA writable_schema=ON")
        raw.execute("UPDATE sqlite_master SET sql=replace(replace(sql, 'NOT NULL', ''), 'CHECK (position > 0)', '')")
        [(schema,)] = raw.execute("PRAGMA schema_version").fetchall()
        raw.execute(f"PRAGMA schema_version={schema + 1}")
    with closing(sqlite3.connect(path)) as raw, raw:
        try:
            return raw.execute(statement).rowcount > 0
        except (sqlite3.IntegrityError, sqlite3.OperationalError):
            return False


def check(folder: Path, right: dict[str, Any], planted: str, *, gone: bool = False, harmless: bool = False) -> None:
    findings = unwell(folder)
    found = answers(folder)
    wrong = {}
    for name, answer in found.items():
        if isinstance(answer, TallybookError):
            if name in COMMANDS and type(right[name]) is str:
                break  # from here on, this book lacks what the twin has
        elif answer != right[name]:
            wrong[name] = answer, right[name]
    assert gone or not wrong, planted
    assert findings or harmless, f"doctor finds nothing: {planted}"
    assert all(one.remedy for one in findings)


@pytest.mark.parametrize(("file", "table", "column"), cells())
def test_nonsense_in_a_cell_gives_no_wrong_answer_and_no_foreign_error(
    file: str, table: str, column: str, template: Path, right: dict[str, Any], tmp_path: Path
) -> None:
    tried = 0
    for name, value in NONSENSE.items():
        folder = tmp_path / name
        shutil.copytree(template, folder)
        where = ONE_OF_MANY.get(table, f"{column} IS NOT {value.format(column=column)}")
        if plant(folder / file, f"UPDATE OR REPLACE {table} SET {column}={value.format(column=column)} WHERE {where}"):
            tried += 1
            check(
                folder,
                right,
                f"{name} in {table}.{column}",
                gone=(table, column) in GONE,
                harmless=(table, column) in HARMLESS,
            )
        shutil.rmtree(folder)
    assert tried


DERIVED = ("snapshots", "due_index", "read_model_builds")
ROWS_GONE = {
    ("shop.book", "head"), ("shop.book", "receipts"), ("shop.book", "claims"), ("shop.book", "erased"),
    ("shop.book", "read_model_builds"),
    ("shop.book", "snapshots"), ("shop.book", "due_index"), ("shop.book.keys", "data_keys"),
    ("shop.book.keys", "book_keys"), ("shop.book.keys", "book"),
    ("shop.book.reads", "head"),
}  # fmt: skip
TABLES_GONE = [(file, table) for file, tables in TABLES.items() for table in tables if (file, table) not in EMPTY]


@pytest.mark.parametrize(("file", "table"), sorted(ROWS_GONE))
def test_rows_that_are_gone_give_no_foreign_error(
    file: str, table: str, template: Path, right: dict[str, Any], tmp_path: Path
) -> None:
    # Of a claim, a receipt or a key that is gone, doctor alone can tell that it was there.
    shutil.copytree(template, tmp_path / "book")
    assert plant(tmp_path / "book" / file, f"DELETE FROM {table}")
    derived = table in DERIVED
    gone = table in ("claims", "receipts", "data_keys")
    check(tmp_path / "book", right, f"no rows in {table}", gone=gone, harmless=derived)


@pytest.mark.parametrize(("file", "table"), TABLES_GONE)
def test_a_table_that_is_gone_is_named(
    file: str, table: str, template: Path, right: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "book"
    shutil.copytree(template, folder)
    with closing(sqlite3.connect(folder / file)) as raw:
        raw.execute(f"DROP TABLE {table}")
    check(folder, right, f"no table {table}", harmless=table in DERIVED)


@pytest.mark.parametrize("at", [1, 9, 20])
def test_an_event_that_is_gone_gives_no_wrong_answer(
    at: int, template: Path, right: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "book"
    shutil.copytree(template, folder)
    assert plant(folder / "shop.book", f"DELETE FROM stored_events WHERE position={at}")
    # The first is all that its stream has. What misses it is the order of positions: `verify`, and who walks the log.
    check(folder, right, f"no event at {at}", gone=at == 1)


@pytest.mark.parametrize("by", [-3, -1, 1, 7, 2**40])
def test_a_head_beside_the_rows_is_found_by_whoever_reads_or_writes(
    by: int, template: Path, right: dict[str, Any], tmp_path: Path
) -> None:
    # With a frontier that fits its size, so that its form tells nothing.
    folder = tmp_path / "book"
    shutil.copytree(template, folder)
    with closing(sqlite3.connect(folder / "shop.book")) as raw, raw:
        [(position,)] = raw.execute("SELECT position FROM head")
        size = position + by
        raw.execute("UPDATE head SET position=?, frontier=?", (size, bytes(32 * size.bit_count())))
    check(folder, right, f"head moved by {by}")
    with closing(sqlite3.connect(folder / "shop.book")) as raw:
        assert raw.execute("SELECT MAX(position) FROM stored_events").fetchall() == [(position,)]


def test_a_row_of_a_read_model_that_is_none_is_named_and_built_anew(template: Path, tmp_path: Path) -> None:
    folder = tmp_path / "book"
    shutil.copytree(template, folder)
    with tallybook.open(f"sqlite:///{folder}/shop.book") as book, book.acting("agent:lin", purpose="support"):
        before = book.profiles.get(ADA).fields
        for nonsense in ("NULL", "x'c1'", "x'', ''", "'nonsense'", "7", "x'9501020304'", "x'95c0c0c0c0c0'"):
            with closing(sqlite3.connect(folder / "shop.book")) as raw, raw:
                [(table,)] = raw.execute("SELECT name FROM sqlite_master WHERE name LIKE 'profiles\\_\\_%' ESCAPE '\\'")
                raw.execute(f"UPDATE {table} SET profile={nonsense.partition(',')[0]}")
            with pytest.raises(BookDamaged, match="rebuild profiles"):
                book.profiles.get(ADA)
            book.projections.rebuild("profiles")
            assert book.profiles.get(ADA).fields == before


def test_what_a_build_calls_its_tables_never_reaches_another_table(template: Path, tmp_path: Path) -> None:
    folder = tmp_path / "book"
    shutil.copytree(template, folder)
    assert plant(folder / "shop.book", "UPDATE read_model_builds SET tables='claims-- receipts;-- \"head\"--'")
    with tallybook.open(f"sqlite:///{folder}/shop.book") as book, book.acting("agent:lin", purpose="support"):
        book.projections.rebuild()
        assert book.customers.find("crm", "Ada") == ADA
        assert book.position()


# ── on a server ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def served(server_book_url: str) -> Iterator[tuple[Book, str]]:
    """A book on a server, and its schema."""
    schema = parse_qs(urlsplit(server_book_url).query)["schema"][0]
    with (
        tallybook.open(server_book_url, now_us=lambda: NOW_US, new_id=Ids()) as book,
        book.acting("agent:lin", purpose="support"),
    ):
        fill(book)
        yield book, schema
    run_sql(f'DROP SCHEMA IF EXISTS "{schema}_x" CASCADE')


def errors_of(book: Book) -> list[TallybookError]:
    """What Tallybook says where it can't answer; any other error is raised."""
    found: list[TallybookError] = []
    for ask in ALL.values():
        try:
            ask(book)
        except TallybookError as error:
            found.append(error)
    return found


DROPPED = [
    "DROP SCHEMA {0} CASCADE",
    "ALTER SCHEMA {0} RENAME TO {0}_x",
    *(
        f"DROP TABLE {{0}}.{table}"
        for table in ("stored_events", "head", "receipts", "claims", "data_keys", "access_records")
    ),
    "ALTER TABLE {0}.stored_events DROP COLUMN topic",
    "ALTER TABLE {0}.head DROP COLUMN frontier",
    "ALTER TABLE {0}.receipts DROP COLUMN result",
    "ALTER TABLE {0}.claims DROP COLUMN holder",
    "ALTER TABLE {0}.data_keys DROP COLUMN wrapped",
    "ALTER TABLE {0}.data_keys DROP COLUMN destroyed",
    "ALTER TABLE {0}.read_model_builds DROP COLUMN mark",
    "ALTER TABLE {0}.head ALTER COLUMN position TYPE text",
    "ALTER TABLE {0}.claims ALTER COLUMN holder TYPE text USING 'nonsense'",
    "ALTER TABLE {0}.receipts ALTER COLUMN command_id TYPE text USING 'nonsense' || encode(command_id, 'hex')",
    "ALTER TABLE {0}.stored_events ALTER COLUMN originator_version TYPE text",
]  # fmt: skip


@pytest.mark.parametrize("statement", DROPPED)
def test_what_is_dropped_under_an_open_book_is_damage(served: tuple[Book, str], statement: str) -> None:
    book, schema = served
    run_sql(statement.format(schema))
    for found in (errors_of(book), errors_of(book)):  # the second time, statements are prepared
        told = [one for one in found if isinstance(one, BookDamaged)]
        assert told
        assert all(one.remedy for one in told)
    assert any(one.state == "failed" for one in book.doctor())


NONSENSE_ON_A_SERVER = [
    "UPDATE {0}.head SET position=position+1 WHERE log='stored_events'",
    "UPDATE {0}.head SET frontier='x'",
    "DELETE FROM {0}.head",
    "ALTER TABLE {0}.head ALTER COLUMN frontier DROP NOT NULL; UPDATE {0}.head SET frontier=NULL",
    "UPDATE {0}.claims SET holder='nonsense'",
    "ALTER TABLE {0}.claims ALTER COLUMN holder DROP NOT NULL; UPDATE {0}.claims SET holder=NULL",
    "UPDATE {0}.receipts SET result='nonsense'",
    "ALTER TABLE {0}.receipts ALTER COLUMN result DROP NOT NULL; UPDATE {0}.receipts SET result=NULL",
    "ALTER TABLE {0}.stored_events ALTER COLUMN state DROP NOT NULL; "
    "UPDATE {0}.stored_events SET state=NULL WHERE position=20",
    "UPDATE {0}.stored_events SET originator_version=-7 WHERE position=20",
    "DELETE FROM {0}.stored_events WHERE position=20",
]


@pytest.mark.parametrize("statement", NONSENSE_ON_A_SERVER)
def test_nonsense_on_a_server_is_named(served: tuple[Book, str], server_book_url: str, statement: str) -> None:
    book, schema = served
    run_sql(statement.format(schema))
    with tallybook.open(server_book_url) as again, again.acting("agent:kim", purpose="support"):
        for one in (book, again):
            assert any(isinstance(error, (BookDamaged, StoredFormError)) for error in errors_of(one))
            assert any(finding.state == "failed" for finding in one.doctor())


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE {0}.data_keys SET wrapped='nonsense' WHERE destroyed=0", "can't be unwrapped"),
        ("UPDATE {0}.data_keys SET wrapped='nonsense'", "tombstone"),
        ("UPDATE {0}.data_keys SET wrapping_key='nonsense'", "no tombstone"),
        ("UPDATE {0}.data_keys SET key_id=7", "no tombstone"),
        ("UPDATE {0}.data_keys SET key_id=-1", "no tombstone"),
        (
            "ALTER TABLE {0}.data_keys DROP CONSTRAINT data_keys_pkey, ALTER key_id DROP NOT NULL; "
            "UPDATE {0}.data_keys SET key_id=NULL",
            "data_keys",
        ),
        ("UPDATE {0}.data_keys SET destroyed=5", "tombstone"),
        ("UPDATE {0}.data_keys SET subject=decode('ff', 'hex') || substr(subject, 2)", "nobody destroyed it"),
        ("ALTER TABLE {0}.data_keys ALTER wrapped DROP NOT NULL; UPDATE {0}.data_keys SET wrapped=NULL", "data_keys"),
    ],
)
def test_a_wrapped_key_that_is_none_is_named(
    served: tuple[Book, str], server_book_url: str, statement: str, says: str
) -> None:
    _, schema = served
    run_sql(statement.format(schema))

    # An opening sees to it that erased keys are gone, and names what it meets; else a read does.
    def read() -> None:
        with tallybook.open(server_book_url) as again, again.acting("agent:kim", purpose="support"):
            errors_of(again)
            again.profiles.get(ADA)

    with pytest.raises((KeysMissing, BookDamaged), match=says):
        read()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM {0}.book_keys",
        "DELETE FROM {0}.key_notes",
        "UPDATE {0}.key_notes SET name='nonsense'",
        "ALTER TABLE {0}.key_notes ALTER value TYPE text USING 'nonsense'",
        "ALTER TABLE {0}.key_notes ALTER value DROP NOT NULL; UPDATE {0}.key_notes SET value=NULL",
        "DROP TABLE {0}.key_notes",
        "UPDATE {0}.book_keys SET wrapped='nonsense'",
        "ALTER TABLE {0}.book_keys ALTER wrapped DROP NOT NULL; UPDATE {0}.book_keys SET wrapped=NULL",
        "UPDATE {0}.book SET value='nonsense' WHERE name='format'",
        "UPDATE {0}.book SET value='nonsense' WHERE name='origin'",
        "DELETE FROM {0}.book WHERE name='format'",
        "DELETE FROM {0}.book WHERE name='origin'",
        "DROP TABLE {0}.book_keys",
        "DROP TABLE {0}.book",
    ],
)
def test_a_book_on_a_server_whose_notes_are_nonsense_is_not_opened(
    served: tuple[Book, str], server_book_url: str, statement: str
) -> None:
    _, schema = served
    run_sql(statement.format(schema))
    with pytest.raises(BookError):
        tallybook.open(server_book_url)


@pytest.mark.parametrize(("granted", "kind"), [(True, BookReadOnly), (False, BookDamaged)])
def test_rights_that_are_taken_away_are_told(
    served: tuple[Book, str], monkeypatch: pytest.MonkeyPatch, granted: bool, kind: type[BookError]
) -> None:
    book, schema = served
    if granted:
        run_sql(f"GRANT USAGE ON SCHEMA {schema} TO pg_monitor")
    database = book._core.storage.events
    assert isinstance(database, PostgresDatabase)
    connect = database._connect

    def as_somebody_else() -> Any:
        connection = connect()
        connection.execute("SET ROLE pg_monitor")  # a role of every server, without rights on this schema
        return connection

    monkeypatch.setattr(database, "_connect", as_somebody_else)
    database._idle.clear()
    with pytest.raises(kind, match="permission denied" if granted else "hidden") as told:
        book.customers.register(name="Cyd")
    assert "rights" in told.value.remedy
    errors_of(book)
