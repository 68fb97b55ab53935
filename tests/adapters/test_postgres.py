"""The PostgreSQL adapter by itself: URLs, errors, connections, locks, watches, and its server's settings."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from eventsourcing import persistence
from tests.postgres import (
    Proxy,
    drop_schema,
    is_own_server,
    made_schema,
    run_sql,
    schema_url,
    server_url,
    with_parameters,
)

from tallybook.adapters import postgres
from tallybook.adapters.database import DatabaseFailed, KeyTaken, StatementRefused
from tallybook.adapters.log import LogRecorder, Receipt
from tallybook.adapters.postgres import PostgresDatabase, parse, place_of, translated
from tallybook.domain.errors import (
    BookClosed,
    BookDamaged,
    BookError,
    BookFull,
    BookReadOnly,
    BookUnreachable,
    Refused,
    TallybookError,
)
from tallybook.projections.read_models import Table

pytestmark = pytest.mark.server

ENOUGH_S = 60.0
THINGS = Table("things", (("id", "integer"), ("name", "text"), ("data", "blob")), ("id",))


@pytest.fixture
def schema() -> Iterator[str]:
    name = made_schema()
    yield name
    drop_schema(name)


@pytest.fixture
def database(schema: str) -> Iterator[PostgresDatabase]:
    one = PostgresDatabase(schema_url(schema), lock_timeout_s=0.3)
    with one.session(write=True) as session:
        session.define("CREATE TABLE things (id {integer} PRIMARY KEY, name {text}, data {blob})")
    yield one
    one.close()


@pytest.fixture
def other(schema: str) -> Iterator[PostgresDatabase]:
    one = PostgresDatabase(schema_url(schema), lock_timeout_s=0.3)
    yield one
    one.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    between = Proxy()
    yield between
    between.close()


# ── URLs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_url_names_server_database_user_and_schema_and_the_rest_is_libpqs() -> None:
    named, schema = parse(
        "postgres://ada:a%2Fb@db.example:6543/shop?sslmode=verify-full&schema=east&application_name=x+y"
    )
    assert schema == "east"
    assert named == {
        "user": "ada",
        "password": "a/b",
        "host": "db.example",
        "port": "6543",
        "dbname": "shop",
        "sslmode": "verify-full",
        "application_name": "x y",
    }
    assert place_of(named, schema) == "postgresql://ada@db.example:6543/shop?schema=east"


def test_the_schema_is_tallybook_unless_another_is_named() -> None:
    assert parse("postgresql://ada@db.example/shop")[1] == "tallybook"


@pytest.mark.parametrize(
    "schema", ["", "Shop", "a-b", "1a", "a b", 'a"b', "pg_own", "information_schema", "x" * 49, "ä", "a%00"]
)
def test_a_schema_is_a_plain_name(schema: str) -> None:
    with pytest.raises(BookError, match="a name of a-z"):
        parse(f"postgresql://ada@db.example/shop?schema={schema}")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://db.example/shop", "names no user"),
        ("postgresql://ada@db.example/", "names no database"),
        ("postgresql://ada@db.example", "names no database"),
        ("postgresql://ada@db.example/shop?service=x", "names a service"),
        ("postgresql://ada@db.example/shop?nonsense=x", "can't be understood"),
        ("postgresql://ada:a@secret@db.example/shop", "more than one @"),
    ],
)
def test_a_url_that_leaves_something_to_the_environment_is_refused(url: str, says: str) -> None:
    with pytest.raises(BookError, match=says):
        parse(url)


# ── sessions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_values_of_all_kinds_come_back_as_they_were(database: PostgresDatabase) -> None:
    rows = [
        (1, "a", b"\0\xff"),
        (-(2**63), "", b""),
        (2**63 - 1, "客户 😀 %s ? $1 'x'", bytes(range(256))),
        (2, None, None),
    ]
    with database.session(write=True) as session:
        session.insert(THINGS, rows)
        assert sorted(session.rows("SELECT * FROM things")) == sorted(rows)
        session.run("UPDATE things SET name=?, data=? WHERE id=?", ("b", None, 1))
    rows[0] = (1, "b", None)
    assert database.rows("SELECT * FROM things ORDER BY id") == sorted(rows)
    assert database.rows("SELECT COUNT(*), MAX(id), 'a%' FROM things WHERE name LIKE '%😀%' AND id>?", [3]) == [
        (1, 2**63 - 1, "a%")
    ]


def test_many_rows_at_once_neither_hang_nor_get_lost(database: PostgresDatabase) -> None:
    rows = [(number, "x" * 100, os.urandom(200)) for number in range(20_000)]  # more than any socket's buffer
    with database.session(write=True) as session:
        session.insert(THINGS, rows)
        session.upsert(THINGS, [(number, "y", b"") for number in range(5)])
        assert session.rows("SELECT COUNT(*) FROM things WHERE name='y'") == [(5,)]
        assert session.rows("SELECT * FROM things ORDER BY id") == [
            *((number, "y", b"") for number in range(5)),
            *rows[5:],
        ]


def test_an_integer_that_does_not_fit_and_a_text_with_nul_are_errors(database: PostgresDatabase) -> None:
    for row, error in (((2**63, "", b""), OverflowError), ((1, "a\0b", b""), persistence.DataError)):
        with pytest.raises(error), database.session(write=True) as session:
            session.insert(THINGS, [row])
    assert database.rows("SELECT * FROM things") == []


@pytest.mark.parametrize("before", [0, 1, 3])
def test_statements_that_were_cut_off_by_an_error_work_the_next_time(database: PostgresDatabase, before: int) -> None:
    # Statements are prepared at their second use: whichever use the error falls on, the next ones work.
    for number in range(before):
        with database.session(write=True) as session:
            session.insert(THINGS, [(number, "", b"")])
            session.run("UPDATE things SET name=? WHERE id=?", ("x", number))
    for _ in range(3):
        with pytest.raises(persistence.IntegrityError), database.session(write=True) as session:  # noqa: PT012 - the session's end is part of it
            session.insert(THINGS, [(100, "", b""), (100, "", b"")])
            session.run("UPDATE things SET name=? WHERE id=?", ("x", 1))
            session.rows("SELECT name FROM things WHERE id=?", [1])
    for number in range(200, 203):
        with database.session(write=True) as session:
            session.insert(THINGS, [(number, "", b"")])
            session.run("UPDATE things SET name=? WHERE id=?", ("x", number))
            assert session.rows("SELECT name FROM things WHERE id=?", [number]) == [("x",)]
    assert database.rows("SELECT COUNT(*) FROM things") == [(before + 3,)]


def test_a_transaction_whose_error_was_swallowed_is_not_taken_for_committed(database: PostgresDatabase) -> None:
    with pytest.raises(persistence.PersistenceError), database.session(write=True) as session:  # noqa: PT012 - the session's end is part of it
        session.insert(THINGS, [(1, "", b"")])
        with pytest.raises(StatementRefused):
            session.rows("SELECT MAX(MAX(id)) FROM things")
    assert database.rows("SELECT * FROM things") == []


def test_an_exception_rolls_back_and_the_connection_serves_on(database: PostgresDatabase) -> None:
    for _ in range(3):
        with pytest.raises(KeyError), database.session(write=True) as session:  # noqa: PT012 - the session's end is part of it
            session.insert(THINGS, [(1, "", b"")])
            session.rows("SELECT 1")
            raise KeyError
    assert database.rows("SELECT * FROM things") == []
    assert len(database._idle) == 1


def test_a_reading_session_sees_one_moment_and_writes_nothing(
    database: PostgresDatabase, other: PostgresDatabase
) -> None:
    with database.session(write=False) as session:
        assert session.rows("SELECT COUNT(*) FROM things") == [(0,)]
        with other.session(write=True) as writing:
            writing.insert(THINGS, [(1, "", b"")])
        assert session.rows("SELECT COUNT(*) FROM things") == [(0,)]
    with pytest.raises(BookReadOnly), database.session(write=False) as session:
        session.insert(THINGS, [(2, "", b"")])
    assert database.rows("SELECT id FROM things") == [(1,)]


def test_what_is_read_under_the_lock_is_what_the_one_before_left(
    database: PostgresDatabase, other: PostgresDatabase
) -> None:
    with database.session(write=True) as session:
        session.insert(THINGS, [(1, "0", b"")])

    def add(one: PostgresDatabase) -> None:
        for _ in range(100):
            with one.session(write=True) as session:
                [(name,)] = session.rows("SELECT name FROM things WHERE id=1" + one.for_update)
                session.run("UPDATE things SET name=? WHERE id=1", [str(int(name) + 1)])

    patient = [PostgresDatabase(with_parameters(server_url(), schema=database.schema)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, patient))
    for one in patient:
        one.close()
    assert database.rows("SELECT name FROM things") == [("400",)]


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_that_is_not_free_in_time_refuses_busy(database: PostgresDatabase, other: PostgresDatabase) -> None:
    with database.session(write=True) as session:
        session.insert(THINGS, [(1, "", b"")])
    with database.session(write=True) as session:
        session.rows("SELECT id FROM things FOR UPDATE")
        with pytest.raises(Refused) as refused, other.session(write=True) as waiting:
            waiting.rows("SELECT id FROM things FOR UPDATE")
    assert refused.value.code == "busy"
    with other.session(write=True) as session:
        assert session.rows("SELECT id FROM things FOR UPDATE") == [(1,)]


def test_of_two_that_wait_for_each_other_one_is_refused_and_the_other_goes_on(database: PostgresDatabase) -> None:
    with database.session(write=True) as session:
        session.insert(THINGS, [(1, "", b""), (2, "", b"")])
    one, two = (PostgresDatabase(schema_url(database.schema), lock_timeout_s=30) for _ in range(2))
    both = threading.Barrier(2)

    def lock(one: PostgresDatabase, first: int, second: int) -> str:
        try:
            with one.session(write=True) as session:
                session.rows("SELECT id FROM things WHERE id=? FOR UPDATE", [first])
                both.wait(ENOUGH_S)
                session.rows("SELECT id FROM things WHERE id=? FOR UPDATE", [second])
        except Refused as refused:
            return refused.code
        return "done"

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(lock, one, 1, 2), pool.submit(lock, two, 2, 1)]
        assert sorted(result.result() for result in results) == ["busy", "done"]
    one.close()
    two.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.DiskFull, BookFull),
        (psycopg.errors.ReadOnlySqlTransaction, BookReadOnly),
        (psycopg.errors.InsufficientPrivilege, BookReadOnly),
        (psycopg.errors.DataCorrupted, BookDamaged),
        (psycopg.errors.IndexCorrupted, BookDamaged),
        (psycopg.errors.AdminShutdown, BookUnreachable),
        (psycopg.errors.CrashShutdown, BookUnreachable),
        (psycopg.errors.CannotConnectNow, BookUnreachable),
        (psycopg.errors.ConnectionFailure, BookUnreachable),
        (psycopg.errors.IdleInTransactionSessionTimeout, BookUnreachable),
        (psycopg.errors.SerializationFailure, Refused),
        (psycopg.errors.DeadlockDetected, Refused),
        (psycopg.errors.UniqueViolation, KeyTaken),
        (psycopg.errors.UndefinedTable, BookDamaged),
        (psycopg.errors.UndefinedColumn, BookDamaged),
        (psycopg.errors.InvalidSchemaName, BookDamaged),
        (psycopg.errors.SyntaxError, BookDamaged),
        (psycopg.errors.GroupingError, StatementRefused),
        (psycopg.errors.NumericValueOutOfRange, StatementRefused),
        (psycopg.errors.ProgramLimitExceeded, StatementRefused),
        (psycopg.errors.StatementTooComplex, StatementRefused),
        (psycopg.errors.RaiseException, StatementRefused),
        (psycopg.errors.ExternalRoutineException, StatementRefused),
        (psycopg.errors.QueryCanceled, Refused),
        (psycopg.errors.InternalError_, DatabaseFailed),
        (psycopg.errors.IoError, DatabaseFailed),
        (psycopg.errors.OutOfMemory, DatabaseFailed),
        (psycopg.errors.FeatureNotSupported, StatementRefused),
        (psycopg.InterfaceError, DatabaseFailed),
    ],
)
def test_each_error_of_the_server_has_its_kind(error: type[psycopg.Error], kind: type[Exception]) -> None:
    ours = translated(error("what the server said"), "postgresql://ada@db.example/shop")
    assert isinstance(ours, TallybookError)
    assert type(ours) is kind or (kind is Refused and isinstance(ours, Refused) and ours.code == "busy")


def test_a_user_without_rights_is_told_that_the_book_can_not_be_used(database: PostgresDatabase) -> None:
    run_sql(f"GRANT USAGE ON SCHEMA {database.schema} TO pg_monitor")
    with pytest.raises(BookReadOnly, match="can't be used"), database.session(write=True) as session:  # noqa: PT012 - the session's end is part of it
        session.run("SET LOCAL ROLE pg_monitor")
        session.insert(THINGS, [(1, "", b"")])


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(BookUnreachable, match="can't be reached") as away:
        PostgresDatabase("postgresql://ada:secret@127.0.0.1:1/shop").rows("SELECT 1")
    assert not away.value.unknown
    assert "secret" not in str(away.value)


# ── connections ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_read_and_the_first_statement_of_a_session_survive_a_lost_connection(schema: str, proxy: Proxy) -> None:
    database = PostgresDatabase(proxy.url(schema))
    for _ in range(3):
        assert database.rows("SELECT 1") == [(1,)]
        proxy.cut_all()
        assert database.rows("SELECT 2") == [(2,)]
        proxy.cut_all()
        with database.session(write=True) as session:
            assert session.rows("SELECT 3") == [(3,)]
        run_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name=%s", f"tallybook {schema}"
        )
        with database.session(write=True) as session:
            assert session.rows("SELECT 4") == [(4,)]
    database.close()


def test_a_socket_that_hung_up_is_a_lost_connection_before_libpq_has_noticed(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung_up = psycopg.OperationalError("connection socket closed")  # psycopg, of a hang-up with nothing to read
    failing = [hung_up]
    wait = psycopg.Connection.wait

    def waits(self: psycopg.Connection[Any], *args: Any, **kwargs: Any) -> Any:
        if failing:
            raise failing.pop()
        return wait(self, *args, **kwargs)

    assert database.rows("SELECT 1") == [(1,)]
    monkeypatch.setattr(psycopg.Connection, "wait", waits)
    assert database.rows("SELECT 2") == [(2,)]
    failing += [hung_up, hung_up]
    with pytest.raises(BookUnreachable, match="connection socket closed"):
        database.rows("SELECT 3")
    failing.clear()
    assert database.rows("SELECT 4") == [(4,)]


def test_a_connection_lost_in_the_middle_is_an_error_and_nothing_is_written(schema: str, proxy: Proxy) -> None:
    database = PostgresDatabase(proxy.url(schema))
    with database.session(write=True) as session:
        session.define("CREATE TABLE things (id {integer} PRIMARY KEY, name {text}, data {blob})")
    with pytest.raises(BookUnreachable) as lost, database.session(write=True) as session:  # noqa: PT012 - the session's end is part of it
        session.insert(THINGS, [(1, "", b"")])
        session.rows("SELECT 1")
        proxy.cut_all()
        session.rows("SELECT 2")
    assert not lost.value.unknown
    assert database.rows("SELECT * FROM things") == []
    database.close()


def test_more_threads_than_connections_wait_for_one(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CONNECTIONS_MAX", 3)
    database.lock_timeout_s = ENOUGH_S
    most = 0

    def ask(_: int) -> None:
        nonlocal most
        with database.session(write=False) as session:
            session.rows("SELECT 1")
            most = max(most, len(database._users))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(60)))
    assert most == 3
    assert len(database._idle) <= 3


def test_a_thread_that_has_a_connection_gets_another_and_others_are_refused_in_the_end(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CONNECTIONS_MAX", 1)
    with database.session(write=False) as session:
        session.rows("SELECT 1")
        assert database.rows("SELECT 2") == [(2,)]
        with ThreadPoolExecutor(1) as pool, pytest.raises(Refused) as refused:
            pool.submit(database.rows, "SELECT 3").result()
    assert refused.value.code == "busy"


def test_closing_waits_for_those_at_work_and_is_refused_to_oneself(database: PostgresDatabase) -> None:
    with pytest.raises(BookError, match="in the middle of its own work"), database.session(write=True):
        database.close()
    began, ended = threading.Event(), threading.Event()

    def work() -> str:
        with database.session(write=True) as session:
            session.insert(THINGS, [(1, "", b"")])
            session.rows("SELECT 1")
            began.set()
            ended.wait(ENOUGH_S)
        return "committed"

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        began.wait(ENOUGH_S)
        closing = threading.Thread(target=database.close)
        closing.start()
        with pytest.raises(BookClosed):  # noqa: PT012 - the session's end is part of it
            while True:
                database.rows("SELECT 1")
        ended.set()
        assert working.result() == "committed"
        closing.join(ENOUGH_S)
    database.close()


def test_a_process_that_was_forked_can_not_use_it_and_does_no_harm(database: PostgresDatabase) -> None:
    database.rows("SELECT 1")
    watch = database.watch("things")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: that is the point
        child = os.fork()
    if child == 0:
        status = 1
        try:
            database.rows("SELECT 1")
        except BookError as error:
            database.close()
            status = 0 if "forked" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert database.rows("SELECT 1") == [(1,)]
    with database.session(write=True) as session:
        session.announce("things")
    assert watch.wait(ENOUGH_S)


def test_no_connection_is_left_after_closing(schema: str) -> None:
    database = PostgresDatabase(schema_url(schema))
    database.rows("SELECT 1")
    hold = database.hold("work")
    database.watch("things")
    assert hold
    hold.release()
    database.close()
    until = time.monotonic() + ENOUGH_S
    while run_sql("SELECT 1 FROM pg_stat_activity WHERE application_name=%s", f"tallybook {schema}"):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not [one for one in threading.enumerate() if one.name == f"tallybook {schema} listener"]


# ── holds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hold_has_one_holder_and_ends_with_its_connection(
    database: PostgresDatabase, other: PostgresDatabase, schema: str
) -> None:
    held = database.hold("work")
    assert held
    assert held.alive()
    assert other.hold("work") is None
    elsewhere = other.hold("other work")
    assert elsewhere
    held.release()
    second = other.hold("work")
    assert second
    run_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name=%s", f"tallybook {schema}")
    assert not second.alive()
    until = time.monotonic() + ENOUGH_S
    while (third := database.hold("work")) is None:
        assert time.monotonic() < until
    third.release()
    elsewhere.release()
    second.release()


# ── watches ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def announce(database: PostgresDatabase, channel: str) -> None:
    with database.session(write=True) as session:
        session.announce(channel)


def test_a_watch_hears_of_its_channel_alone_and_of_commits_alone(
    database: PostgresDatabase, other: PostgresDatabase
) -> None:
    watch, another = database.watch("things"), database.watch("others")
    assert not watch.wait(0)
    announce(other, "others")
    assert another.wait(ENOUGH_S)
    with pytest.raises(KeyError), other.session(write=True) as session:  # noqa: PT012 - the session's end is part of it
        session.announce("things")
        raise KeyError
    announce(other, "others")
    assert another.wait(ENOUGH_S)  # later than the one that was rolled back would be
    assert not watch.wait(0)
    announce(other, "things")
    assert watch.wait(ENOUGH_S)
    assert not watch.wait(0.01)


def test_a_watch_is_not_woken_by_another_schema(database: PostgresDatabase) -> None:
    schema = made_schema()
    elsewhere = PostgresDatabase(schema_url(schema))
    watch, own = database.watch("things"), elsewhere.watch("things")
    announce(elsewhere, "things")
    assert own.wait(ENOUGH_S)
    assert not watch.wait(0.05)
    elsewhere.close()
    drop_schema(schema)


def test_all_watches_are_woken_after_the_listening_connection_was_lost(
    database: PostgresDatabase, other: PostgresDatabase, schema: str
) -> None:
    watches = [database.watch(name) for name in ("things", "others")]
    run_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name=%s", f"tallybook {schema}")
    for watch in watches:
        assert watch.wait(ENOUGH_S)  # something may have been missed meanwhile
    announce(other, "things")
    assert watches[0].wait(ENOUGH_S)
    assert not watches[1].wait(0)


def test_closing_a_watch_or_the_database_wakes_who_waits(database: PostgresDatabase) -> None:
    for close in (lambda watch: watch.close(), lambda _: database.close()):
        watch = database.watch("things")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(watch.wait, ENOUGH_S)
            close(watch)
            assert waiting.result() is False
        assert watch.wait(ENOUGH_S) is False
    with pytest.raises(BookClosed):
        database.watch("things")


def test_a_server_that_is_not_there_can_not_be_watched() -> None:
    with pytest.raises(BookUnreachable):
        PostgresDatabase("postgresql://ada@127.0.0.1:1/shop").watch("things")


def test_closing_never_hangs_while_the_server_is_away(schema: str, proxy: Proxy) -> None:
    database = PostgresDatabase(proxy.url(schema))
    database.rows("SELECT 1")
    watch = database.watch("things")
    proxy.refuses = True
    proxy.cut_all()
    closing = threading.Thread(target=database.close)
    closing.start()
    closing.join(ENOUGH_S)
    assert not closing.is_alive()
    assert watch.wait(ENOUGH_S) is False


# ── the server's settings ───────────────────────────────────────────────────────────────────────────────────────────


def test_commits_of_ours_are_durable_whatever_the_server_or_the_url_says(schema: str) -> None:
    database = PostgresDatabase(with_parameters(schema_url(schema), options="-csynchronous_commit%3Doff"))
    assert database.settings()["synchronous_commit"] == "on"
    database.close()


def test_settings_tell_what_decides_about_durability_and_the_sizes(database: PostgresDatabase) -> None:
    before = database.settings()
    assert {"server_version", "fsync", "full_page_writes", "synchronous_commit", "server_encoding"} <= set(before)
    assert 0 < before["schema_bytes"] < before["database_bytes"]
    with database.session(write=True) as session:
        session.insert(THINGS, [(number, "", os.urandom(1000)) for number in range(500)])
    assert database.settings()["schema_bytes"] > before["schema_bytes"] + 400_000


def test_a_server_that_survives_no_power_cut_is_warned_of(
    database: PostgresDatabase, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING, "tallybook.postgres"):
        monkeypatch.setattr(
            database, "settings", lambda: {"fsync": "on", "full_page_writes": "on", "server_encoding": "UTF8"}
        )
        database.check_server()
        assert caplog.messages == []
        monkeypatch.undo()
        database.check_server()
    if is_own_server():
        assert [message for message in caplog.messages if "fsync=off: a power cut may destroy the book" in message]


def test_a_database_of_another_encoding_is_refused(schema: str) -> None:
    if not is_own_server():
        pytest.skip("databases are made on the tests' own server only")
    run_sql(f"CREATE DATABASE {schema} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    database = PostgresDatabase(server_url().replace("/postgres?", f"/{schema}?"))
    with pytest.raises(BookError, match="encoding LATIN1"):
        database.check_server()
    database.close()
    run_sql(f"DROP DATABASE {schema}")


# ── round trips ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_append_is_two_round_trips(database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogRecorder(database, origin="tallybook/test")
    log.create_table()
    log.append([(bytes(16), 1, "made.up", b"state")])
    done: list[str] = []

    def noting(name: str, method: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            if name not in done[-1:]:
                done.append(name)
            return method(*args, **kwargs)

        return noted

    for name in ("send", "_taken"):
        monkeypatch.setattr(postgres._Link, name, noting(name, getattr(postgres._Link, name)))
    log.append(
        [(bytes(16), version, "made.up", b"state") for version in range(2, 51)],
        reads=[(UUID(int=0), 1), *((UUID(int=number), 0) for number in range(1, 600))],
        claims=[(b"claim", bytes(16))],
        receipt=Receipt(bytes(16), bytes(32), b"+1"),
    )
    assert done == ["send", "_taken"] * 2
    assert log.position() == 50


@pytest.mark.parametrize("size", [10, 200_000], ids=["buffered", "more than a buffer"])
def test_an_append_survives_a_connection_that_was_lost_while_nobody_used_it(
    schema: str, proxy: Proxy, size: int
) -> None:
    database = PostgresDatabase(proxy.url(schema))
    log = LogRecorder(database, origin="tallybook/test")
    log.create_table()
    for version in range(1, 8, 2):
        proxy.cut_all()
        assert log.append([(bytes(16), version, "made.up", bytes(size))], reads=[(UUID(int=0), version - 1)]) == range(
            version, version + 1
        )
        run_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name=%s", f"tallybook {schema}"
        )
        log.append([(bytes(16), version + 1, "made.up", bytes(size))], reads=[(UUID(int=0), version)])
    assert [row[:3] for row in log.iterate()] == [(number, bytes(16), number) for number in range(1, 9)]
    database.close()


def test_nothing_is_kept_of_an_append_whose_reads_moved_though_its_rows_were_sent(database: PostgresDatabase) -> None:
    log = LogRecorder(database, origin="tallybook/test")
    log.create_table()
    log.append([(bytes(16), 1, "made.up", b"state")])
    for reads in ([(UUID(int=0), 0)], [(UUID(int=0), 2)], [(UUID(int=1), 1)]):
        with pytest.raises(persistence.IntegrityError, match="moved on"):
            log.append([(bytes(16), 2, "made.up", b"state")], reads=reads)
    assert log.append([(bytes(16), 2, "made.up", b"state")], reads=[(UUID(int=0), 1)]) == range(2, 3)
    assert log.extent() == (2, 1, 2)


def test_text_is_ordered_by_its_bytes_as_in_files(database: PostgresDatabase) -> None:
    words = ["b", "A", "a", "B", "é", "z", "_"]
    with database.session(write=True) as session:
        session.insert(THINGS, [(number, word, b"") for number, word in enumerate(words)])
    assert [name for (name,) in database.rows("SELECT name FROM things ORDER BY name")] == sorted(words)
