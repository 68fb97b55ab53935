"""PostgreSQL: sessions in pipeline mode, so that an append is two round trips; connections that break are replaced.

What a book is, is in its URL: server, database, user and schema are never taken from the environment (PGHOST,
PGDATABASE, PGSERVICE, PGOPTIONS and their kind don't count). Passwords and TLS files may come from where libpq looks
for them (PGPASSFILE, PGPASSWORD, PGSSLROOTCERT), so that they need not stand in a URL.
"""

from __future__ import annotations

import logging
import os
import re
import select
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from threading import Condition, Event, Thread, get_ident
from types import TracebackType
from typing import Any, LiteralString, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from tallybook.domain.errors import (
    BookClosed,
    BookDamaged,
    BookError,
    BookFull,
    BookReadOnly,
    BookUnreachable,
    MissingExtra,
    NotABook,
    refusal,
)
from tallybook.projections.read_models import Table

from . import limits
from .database import (
    ALTERED,
    DROP,
    FORMAT,
    NOTES,
    SCRUB_S,
    Answer,
    KeyTaken,
    Session,
    StatementRefused,
    check_format,
    damaged,
    for_reading_only,
    refused,
    unexpected,
)

try:
    import psycopg
    from psycopg import sql
    from psycopg.adapt import AdaptersMap
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus
    from psycopg.pq.abc import PGresult
    from psycopg.types.numeric import Int8BinaryDumper
except ImportError as error:  # libpq is missing, or the package
    raise MissingExtra("psycopg", "postgres") from error

DEFAULT_SCHEMA = "tallybook"
DEFAULT_LOCK_TIMEOUT_S = 30
CONNECTIONS_MAX = 16
"""Connections of one open book for sessions and reads. A thread that has one gets another beyond this."""
IDLE_IN_TRANSACTION_S = 60
"""When the server ends a transaction that its client abandoned, so that it does not hold the head for ever."""

VANISHED_S = 11
"""When the server gives up a client whose host vanished without a word: its locks go to the next. See `_ALIVE`."""
_ALIVE: LiteralString = (
    "SET tcp_keepalives_idle TO 5; SET tcp_keepalives_interval TO 2; SET tcp_keepalives_count TO 3; "
    "SET tcp_user_timeout TO {}; "
)
"""For the server's side of a connection (the client's has parameters of its own): 5 s of silence, then 3 times 2 s."""

DIALECT: Mapping[str, str] = {"integer": "BIGINT", "text": 'TEXT COLLATE "C"', "blob": "BYTEA", "compact": ""}

logger = logging.getLogger("tallybook.postgres")

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_BUSY = {
    "55P03": "A lock in the book's database was not free in time",
    "40P01": "A deadlock in the book's database was broken off, and this transaction with it",
    "40001": "The book's database could not bring this transaction into an order with others",
    "57014": "The server broke off a statement",  # somebody cancelled it, or it took longer than is allowed
}
_LOST = {"57P01", "57P02", "57P03", "57P05", "25P03"}  # shutdowns, and sessions that the server ended
_ALTERED = {
    "3F000", "42P01", "42703",  # no such schema, table, column
    "42804", "42883",  # a column of another type than the one that was made
    "42601", "42P10",  # more values than columns, a key is gone
}  # fmt: skip
_NO_SLOT = ("too many clients", "too many connections", "connection slots")
"""What a server says to one client too many, of all or of a role or database. An error while connecting has no code."""
_CHECK = "Check that the server runs, and that its URL, user and password are right."
_SLOTS = (
    "Close connections to the server, or raise its `max_connections` (or the limit of the role or the database), "
    "and try again."
)
_REFUSING = {"38", "39", "54", "P0"}
"""Classes of SQLSTATE that tell of what a statement holds, whatever psycopg calls them: a trigger's or a function's
refusal, and a row, a key or a statement that is beyond the server's limits."""


# ── what a URL names ────────────────────────────────────────────────────────────────────────────────────────────────


def parse(url: str) -> tuple[dict[str, str], str]:
    """libpq's parameters and the schema that a URL names. Raises BookError, which never shows a password."""

    def wrong(problem: str) -> BookError:
        return BookError(
            f"The PostgreSQL URL {problem}.",
            path="postgresql:",
            remedy='Write "postgresql://user@host:5432/database?schema=shop".',
        )

    try:
        parts = urlsplit(url)
    except ValueError:
        raise wrong("can't be understood") from None  # the message might repeat the password
    if parts.netloc.count("@") > 1:
        raise wrong(
            "has more than one @ before its path; one in a password is written %40"
        )  # and what follows is shown
    given = parse_qsl(parts.query, keep_blank_values=True)
    schemas = [value for name, value in given if name == "schema"]
    schema = schemas[-1] if schemas else DEFAULT_SCHEMA
    if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_") or schema == "information_schema":
        raise wrong(f"names a schema {schema!r}; a name of a-z, 0-9 and _ with up to 48 characters is wanted")
    query = urlencode([pair for pair in given if pair[0] != "schema"], quote_via=quote)
    try:
        found = conninfo_to_dict(urlunsplit(("postgresql", parts.netloc, parts.path, query, "")))
    except (psycopg.Error, UnicodeError):
        raise wrong("can't be understood") from None
    named = {name: str(value) for name, value in found.items() if value is not None}
    for wanted, what in (("user", "user"), ("dbname", "database")):
        if not named.get(wanted):
            raise wrong(f"names no {what}")
    if "service" in named:
        raise wrong("names a service: what a book is must stand in its URL")
    return named, schema


def place_of(named: Mapping[str, str], schema: str) -> str:
    """A URL for messages: without password, and without what does not tell where."""
    host, port = named.get("host", "localhost"), named.get("port", "5432")
    query = urlencode({"host": host, "schema": schema}, safe="/") if host.startswith(("/", "@")) else f"schema={schema}"
    at = "" if host.startswith(("/", "@")) else f"{host}:{port}"
    return f"postgresql://{named['user']}@{at}/{named['dbname']}?{query}"


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def translated(error: psycopg.Error, place: str, *, lost: bool = False, committing: bool = False) -> Exception:
    """What Tallybook raises for an error of psycopg. `lost`: the connection is gone; `committing`: in a commit."""
    state = error.sqlstate
    if lost or state in _LOST or (state or "").startswith("08"):
        return BookUnreachable(
            f"The connection to {place} was lost{' in the middle of a commit' if committing else ''}: {_said(error)}.",
            path=place,
            remedy="Repeat the command with its command_id: it has one effect."
            if committing
            else "Check that the server runs, and try again; nothing of what was being written is in the book.",
            unknown=committing,
        )
    if state in _BUSY:
        return refusal("busy", f"{_BUSY[state]}: {_said(error)}.", sqlstate=state)
    if state == "53100":
        return BookFull(
            f"There is no space left for {place}; what was being written is not in it.",
            path=place,
            remedy="Make space on the server, and try again.",
        )
    if state in ("25006", "42501"):
        return BookReadOnly(
            f"{place} can't be {'written' if state == '25006' else 'used'}: {_said(error)}.",
            path=place,
            remedy="Check the user's rights on the schema, and that the server is no standby.",
        )
    # The last: a statement was prepared for columns that have changed since.
    if state in _ALTERED or error.diag.source_function == "RevalidateCachedQuery":
        # A schema that the user may not use is passed over, as if nothing were in it.
        remedy = f"Check the user's rights on the schema. {ALTERED}"
        return damaged(f"Something of the book was dropped, altered or hidden ({_said(error)})", place, remedy)
    if state in ("XX001", "XX002"):
        return BookDamaged(
            f"{place} is damaged: {_said(error)}.",
            path=place,
            remedy="See `tallybook doctor`; restore the book from a backup.",
        )
    if isinstance(error, psycopg.IntegrityError):
        return KeyTaken(_said(error))
    told = (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)
    if isinstance(error, told) or (state or "")[:2] in _REFUSING:
        return refused(_said(error), place)
    return unexpected(_said(error), place)


def _said(error: psycopg.Error | OSError) -> str:
    """The server's, the driver's or the system's words, on one line."""
    said = error.strerror if isinstance(error, OSError) else error.diag.message_primary
    return " ".join((said or str(error)).split()).rstrip(".")


# ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_Key = tuple[str, tuple[int, ...]]
"""A statement with the types of its values."""

_BEGIN_WRITING = "BEGIN ISOLATION LEVEL READ COMMITTED"
_BEGIN_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"

_BY_INDEX = "SELECT " + ", ".join(
    f"set_config('enable_{way}', 'off', true)"
    for way in ("seqscan", "bitmapscan", "sort", "incremental_sort", "hashagg", "gathermerge")
)
_INDEXES = (
    "SELECT relname, COALESCE((SELECT contype::text FROM pg_constraint WHERE conindid=indexrelid AND conrelid=indrelid "
    "LIMIT 1), ''), "
    "CASE WHEN indisunique AND indisvalid AND indimmediate AND indpred IS NULL AND indexprs IS NULL THEN "
    "(SELECT string_agg(attname::text, ' ' ORDER BY place) FROM unnest(indkey) WITH ORDINALITY AS over(number, place) "
    "JOIN pg_attribute ON attrelid=indrelid AND attnum=number) ELSE '' END "
    "FROM pg_index JOIN pg_class ON pg_class.oid=indexrelid WHERE indrelid=?::regclass"
)

_HERE = "relnamespace=current_schema()::regnamespace"
_PLANTED = " UNION ALL ".join(
    f"SELECT {told} FROM {among}"  # noqa: S608 - texts of ours
    for told, among in (
        (
            "'trigger ' || tgname AS told",
            f"pg_trigger JOIN pg_class ON pg_class.oid=tgrelid WHERE NOT tgisinternal AND {_HERE}",
        ),
        # One for statements that define something is told by what it leaves.
        ("'event trigger ' || evtname", "pg_event_trigger WHERE evtevent='login' AND evtenabled<>'D'"),
        ("'view ' || relname", f"pg_class WHERE relkind IN ('v', 'm', 'f') AND {_HERE}"),
        ("'rule ' || rulename", "pg_rules WHERE schemaname=current_schema()"),
        ("'policy ' || policyname", "pg_policies WHERE schemaname=current_schema()"),
        ("'row security of ' || relname", f"pg_class WHERE (relrowsecurity OR relforcerowsecurity) AND {_HERE}"),
        (
            "'constraint ' || conname",
            f"pg_constraint AS one JOIN pg_class ON pg_class.oid=conrelid WHERE contype NOT IN ('p', 'u', 'n') "
            f"AND {_HERE} AND (conname, pg_get_constraintdef(one.oid))"
            "<>(relname || '_position_check', 'CHECK ((\"position\" > 0))')",
        ),
        (
            "DISTINCT 'table ' || inhrelid::regclass || ' that inherits from ' || inhparent::regclass",
            f"pg_inherits JOIN pg_class ON pg_class.oid IN (inhrelid, inhparent) WHERE {_HERE}",
        ),
        # What an index or a default calls is called whenever a row is written.
        (
            "'index ' || indexrelid::regclass",
            f"pg_index JOIN pg_class ON pg_class.oid=indrelid WHERE {_HERE} AND (indexprs IS NOT NULL "
            "OR EXISTS (SELECT FROM pg_opclass AS one WHERE one.oid=ANY(indclass) "
            "AND opcnamespace<>'pg_catalog'::regnamespace) "
            "OR indpred IS NOT NULL AND (relname, pg_get_expr(indpred, indrelid)) NOT IN "
            "(('data_keys', '(destroyed <> 0)'), ('stored_events', '(topic = ''loyalty.enrolled''::text)')))",
        ),
        (
            "'default of ' || relname || '.' || attname",
            f"pg_attrdef JOIN pg_class ON pg_class.oid=adrelid JOIN pg_attribute ON attrelid=adrelid AND attnum=adnum "
            f"WHERE {_HERE}",
        ),
        (
            "'type of ' || relname || '.' || attname",
            "pg_attribute JOIN pg_class ON pg_class.oid=attrelid WHERE relkind IN ('r', 'p') AND attnum>0 "
            f"AND NOT attisdropped AND atttypid NOT IN (17, 20, 25) AND {_HERE}",
        ),
        ("'function ' || proname", "pg_proc WHERE pronamespace=current_schema()::regnamespace"),
        ("'operator ' || oprname", "pg_operator WHERE oprnamespace=current_schema()::regnamespace"),
    )
)
"""What acts by itself, or has others act: a book makes tables with keys and plain indexes, and nothing else."""

_INT8, _BYTEA, _TEXT = 20, 17, 25
_ARRAYS: Mapping[str, tuple[str, int, int]] = {
    # our kind: its array, the array's type, the elements' type
    "integer": ("bigint[]", 1016, _INT8),
    "text": ("text[]", 1009, _TEXT),
    "blob": ("bytea[]", 1001, _BYTEA),
}
_LENGTH = struct.Struct(">i").pack
_INTEGER = struct.Struct(">q").pack
_ITEM = struct.Struct(">iq").pack
_ARRAY = struct.Struct(">iiIii").pack
_NULL = _LENGTH(-1)


def _arrays(columns: Sequence[tuple[str, str]]) -> str:
    """Marks for the values of columns."""
    return ",".join(f"?::{_ARRAYS[kind][0]}" for _, kind in columns)


class _Column:
    """A column of rows on its way into `unnest`."""

    __slots__ = ("kind", "values")

    def __init__(self, kind: str, values: Sequence[Any]) -> None:
        self.kind = kind
        self.values = values

    def dumped(self) -> bytes:
        """PostgreSQL's binary form of an array of one dimension."""
        values, kind = self.values, self.kind
        if kind == "integer":
            items = b"".join([_NULL if one is None else _ITEM(8, one) for one in values])
        else:
            if kind == "text":
                values = [None if one is None else one.encode() for one in values]
            parts = chain.from_iterable([(_NULL,) if one is None else (_LENGTH(len(one)), one) for one in values])
            try:
                items = b"".join(parts)
            except TypeError as error:
                raise StatementRefused("Bytes are wanted: streams have UUIDs here, no texts.") from error
        return _ARRAY(1, 1, _ARRAYS[kind][2], len(values), 1) + items


def _dumped(params: Sequence[Any]) -> tuple[list[bytes | None], tuple[int, ...]]:
    """Values in PostgreSQL's binary form, and their types: one for all integers, so that it is prepared once."""
    values: list[bytes | None] = []
    kinds: list[int] = []
    try:
        for one in params:
            if isinstance(one, _Column):
                values.append(one.dumped())
                kinds.append(_ARRAYS[one.kind][1])
            elif one is None:
                values.append(None)
                kinds.append(0)
            elif isinstance(one, int):
                values.append(_INTEGER(one))
                kinds.append(_INT8)
            elif isinstance(one, str):
                values.append(one.encode())
                kinds.append(_TEXT)
            else:
                values.append(bytes(one))
                kinds.append(_BYTEA)
    except struct.error as error:
        raise OverflowError("an integer does not fit into 64 bits") from error
    return values, tuple(kinds)


_LOADERS: Mapping[int, Callable[[bytes], Any]] = {
    **dict.fromkeys((_INT8, 21, 23), lambda data: int.from_bytes(data, "big", signed=True)),
    **dict.fromkeys((_TEXT, 19, 1043), bytes.decode),
    16: lambda data: data != b"\0",
}


def _rows_of(answer: PGresult | None) -> list[tuple[Any, ...]]:
    if answer is None:
        return []
    loaders = [_LOADERS.get(answer.ftype(column), bytes) for column in range(answer.nfields)]
    value, columns = answer.get_value, list(enumerate(loaders))
    return [
        tuple([None if (data := value(row, column)) is None else load(data) for column, load in columns])
        for row in range(answer.ntuples)
    ]


def _error_of(answer: PGresult | None) -> psycopg.Error:
    if answer is None:
        return psycopg.OperationalError("the connection was closed")
    if answer.status == ExecStatus.PIPELINE_ABORTED:
        return psycopg.errors.PipelineAborted("a statement before it failed")
    return psycopg.errors.error_from_result(answer)


def _is_gone(link: _Link, error: psycopg.Error) -> bool:
    """Whether the connection is lost, or about to be.

    An error that no server told is of the connection, which libpq may not have noticed yet (a socket that hung up).
    """
    told = error.sqlstate is not None or isinstance(error, psycopg.errors.PipelineAborted)
    return link.lost or error.sqlstate in _LOST or (not told and isinstance(error, psycopg.OperationalError))


@lru_cache(10_000)
def _with_numbers(statement: str) -> bytes:
    """A statement with PostgreSQL's marks."""
    first, *rest = statement.split("?")
    return "".join([first, *(f"${number}{part}" for number, part in enumerate(rest, 1))]).encode()


@lru_cache(10_000)
def _with_percents(statement: str) -> bytes:
    """A statement with psycopg's marks, which ask for binary values."""
    return statement.replace("%", "%%").replace("?", "%b").encode()


_ADAPTERS = AdaptersMap(psycopg.adapters)
_ADAPTERS.register_dumper(int, Int8BinaryDumper)  # one type for all integers here too


# ── sessions ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Link:
    """A connection in libpq's pipeline mode: statements gather until an answer is wanted, and are sent at once.

    psycopg's own pipeline sends each statement by itself, and takes a statement for prepared whose preparation was cut
    off by an error (3.3).
    """

    PREPARED_MAX = 200

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.connection = connection
        self._pgconn = connection.pgconn
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)
        # What has no answer yet: statements that are being prepared by their keys, those that were asked by the place
        # for their answers.
        self._pending: deque[_Key | PostgresAnswer | None] = deque()
        self._seen: set[_Key] = set()
        self._prepared: dict[_Key, bytes] = {}
        self._names = 0

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._pgconn.status == ConnStatus.BAD

    @property
    def idle(self) -> bool:
        """Whether it may serve another transaction."""
        return (
            not self.connection.closed
            and not self._pending
            and self._pgconn.transaction_status == TransactionStatus.IDLE
        )

    def open(self) -> None:
        """Begin to gather."""
        self._pgconn.enter_pipeline_mode()

    def send(
        self,
        statement: str,
        params: Sequence[Any] = (),
        *,
        keep: bool = True,
        answer: PostgresAnswer | None = None,
    ) -> None:
        """Add a statement, which the server answers at once if there is a place for that, and at the end otherwise.

        With `keep`, it is prepared when it comes a second time.
        """
        values, kinds = _dumped(params)
        formats = [Format.BINARY] * len(values)
        key = (statement, kinds)
        name = self._prepared.get(key)
        if name is None and keep:
            if key not in self._seen:
                if len(self._seen) < 10 * self.PREPARED_MAX:
                    self._seen.add(key)
            elif len(self._prepared) < self.PREPARED_MAX:
                self._names += 1
                name = self._prepared[key] = b"tallybook_%d" % self._names
                self._pgconn.send_prepare(name, _with_numbers(statement), kinds)
                self._pending.append(key)
        if name is None:
            self._pgconn.send_query_params(_with_numbers(statement), values, kinds, formats, Format.BINARY)
        else:
            self._pgconn.send_query_prepared(name, values, formats, Format.BINARY)
        self._pending.append(answer)
        if answer is not None:
            self._pgconn.send_flush_request()

    def take(self, until: PostgresAnswer) -> None:
        """Send all, and take the answers up to one. Raises the first error among them."""
        self._taken(until)
        if until.result is None:
            raise psycopg.OperationalError("the connection was closed")

    def close(self) -> PGresult | None:
        """Take all answers and end the pipeline: after an error, this is where the connection works again."""
        self._pgconn.pipeline_sync()
        last: PGresult | None = None
        error: psycopg.Error | None = None
        try:
            last = self._taken()
        except psycopg.Error as failure:
            error = failure
        try:
            if not self.lost:
                self._next()  # what answers the sync
                self._pgconn.exit_pipeline_mode()
        except psycopg.Error:
            self.connection.close()  # it died after the last answer, or with it: what was answered counts
        if error is not None:
            raise error
        return last

    def _taken(self, until: PostgresAnswer | None = None) -> PGresult | None:
        self._flush()
        last: PGresult | None = None
        error: psycopg.Error | None = None
        while self._pending:
            sent = self._pending.popleft()
            last = self._next()
            if last is not None and last.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                if isinstance(sent, PostgresAnswer):
                    sent.result = last
            else:
                if isinstance(sent, tuple):
                    del self._prepared[sent]
                if error is None:
                    error = _error_of(last)
                if self.lost:
                    self._pending.clear()
                    break
            while self._next() is not None:
                pass
            if until is not None and sent is until:
                break
        if error is not None:
            raise error
        return last

    def _next(self) -> PGresult | None:
        while self._pgconn.is_busy():
            self._poll.poll()
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def _flush(self) -> None:
        while self._pgconn.flush():
            # The server may be waiting for us to read before it reads on.
            self._poll.modify(self.connection.fileno(), select.POLLIN | select.POLLOUT)
            ready = self._poll.poll()
            self._poll.modify(self.connection.fileno(), select.POLLIN)
            if any(event & ~select.POLLOUT for _, event in ready):
                self._pgconn.consume_input()


class PostgresAnswer:
    """The answer to a statement that was asked, once it is taken."""

    __slots__ = ("_session", "result", "statement")

    def __init__(self, session: PostgresSession, statement: str) -> None:
        self._session = session
        self.statement = statement
        self.result: PGresult | None = None

    def rows(self) -> list[tuple[Any, ...]]:
        """All of its rows."""
        if self.result is None:
            self._session._take(self)
        return _rows_of(self.result)


class PostgresSession:
    """One transaction: what answers nothing is sent together with what follows, so that an append is two round trips.

    A writing one is READ COMMITTED: what it reads after it took a lock, it reads as the one who had the lock before
    left it. A reading one sees one moment.
    """

    __slots__ = ("_begun", "_database", "_link", "_sent", "_write")

    _link: _Link
    _begun: bool
    _sent: list[tuple[str, Sequence[Any], bool, PostgresAnswer | None]]

    def __init__(self, database: PostgresDatabase, write: bool) -> None:
        self._database = database
        self._write = write

    def __enter__(self) -> Self:
        self._link = self._database._take()
        self._begin()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self._roll_back()
            return
        link, place = self._link, self._database.place
        try:
            self._send("COMMIT", keep=False)
            last = link.close()
        except psycopg.Error as error:
            gone = _is_gone(link, error)
            self._roll_back()
            raise translated(error, place, lost=gone, committing=gone and self._write) from error
        except BaseException:
            self._abandon()
            raise
        self._database._give_back(link)
        if last is None or last.command_status != b"COMMIT":
            raise unexpected("a statement failed, and the transaction was rolled back", place)

    def rows(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and fetch all of its rows."""
        return self.ask(statement, params).rows()

    def ask(self, statement: str, params: Sequence[Any] = ()) -> PostgresAnswer:
        """The same, but what follows may be sent before the rows are here."""
        answer = PostgresAnswer(self, statement)
        self._send(statement, params, answer=answer)
        return answer

    def _take(self, answer: PostgresAnswer) -> None:
        try:
            try:
                self._link.take(answer)
            except psycopg.Error as error:
                if self._begun or not _is_gone(self._link, error):
                    raise
                # The pooled connection died while nobody used it. Without a COMMIT, nothing was done on it yet.
                self._abandon()
                self._link = self._database._take(fresh=True)
                again = self._sent
                self._begin()
                for statement, params, keep, place in again[1:]:
                    self._send(statement, params, keep=keep, answer=place)
                self._link.take(answer)
        except psycopg.Error as error:
            raise translated(error, self._database.place, lost=_is_gone(self._link, error)) from error
        self._begun = True
        self._sent.clear()

    def run(self, statement: str, params: Sequence[Any] = ()) -> None:
        """Run a statement that answers nothing, some time before the next rows or the end."""
        self._begun = True
        self._send(statement, params)

    def insert(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows."""
        self._begun = True
        self._put(self._database._insert_statement(table), table.columns, rows)

    def insert_after(self, last: Answer, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows whose first column counts on from an answer: the server needs nobody to tell it."""
        assert isinstance(last, PostgresAnswer)
        columns = table.columns[1:]
        names = ", ".join(name for name, _ in columns)
        (first, _), *_ = table.columns
        self._put(
            f"INSERT INTO {table.name} SELECT answer.{first} + number, {names} FROM ({last.statement}) AS answer, "  # noqa: S608 - names of ours
            f"unnest({_arrays(columns)}) WITH ORDINALITY AS new({names}, number)",
            columns,
            rows,
        )

    def upsert(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows, each in the place of the one with its key."""
        changed = [name for name, _ in table.columns if name not in table.key]
        then = f"UPDATE SET {', '.join(f'{name}=excluded.{name}' for name in changed)}" if changed else "NOTHING"
        insert = self._database._insert_statement(table)
        self._begun = True
        self._put(f"{insert} ON CONFLICT ({', '.join(table.key)}) DO {then}", table.columns, rows)

    def define(self, statement: str) -> None:
        """Run a statement that defines a table or an index."""
        self._begun = True
        self._send(statement.format_map(DIALECT), keep=False)

    def announce(self, channel: str) -> None:
        """Wake those who watch, once this is committed."""
        self.run("SELECT pg_notify(?,?)", (self._database.channel, channel))

    def _put(self, statement: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            values = zip(*rows, strict=True)
            self._send(statement, [_Column(kind, column) for (_, kind), column in zip(columns, values, strict=True)])

    def _begin(self) -> None:
        self._begun = False  # whether what was sent can't be sent again on another connection
        self._sent = []
        self._link.open()
        self._send(_BEGIN_WRITING if self._write else _BEGIN_READING, keep=False)

    def _send(
        self,
        statement: str,
        params: Sequence[Any] = (),
        *,
        keep: bool = True,
        answer: PostgresAnswer | None = None,
    ) -> None:
        if not self._begun:
            self._sent.append((statement, params, keep, answer))
        try:
            self._link.send(statement, params, keep=keep, answer=answer)
        except psycopg.Error as error:
            if not self._begun and self._link.lost:
                return  # whoever takes the first answer finds it, and sends all again
            raise translated(error, self._database.place, lost=self._link.lost) from error

    def _roll_back(self) -> None:
        """End the transaction without effect, and give the connection back if it is fit for another."""
        link = self._link
        with suppress(psycopg.Error):
            link.close()
        with suppress(psycopg.Error):
            if not link.lost and not link.idle:
                link.open()
                link.send("ROLLBACK", keep=False)
                link.close()
        self._database._give_back(link)

    def _abandon(self) -> None:
        """Close a connection of which nothing is known any more: the server rolls back."""
        self._link.connection.close()
        self._database._give_back(self._link)


class PostgresDatabase:
    """A schema in a PostgreSQL database."""

    overwrites = False
    for_update = " FOR UPDATE"
    for_share = " FOR SHARE"
    table_names = "(SELECT string_agg(tablename::text, ' ') FROM pg_tables WHERE schemaname=current_schema())"
    holds = "position(? IN state)>0"
    code_names = f"(SELECT string_agg(found.told, ', ' ORDER BY found.told) FROM ({_PLANTED}) AS found)"  # noqa: S608 - a text of ours

    def __init__(self, url: str, *, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S, read_only: bool = False) -> None:
        """Raises BookError for a URL that names no database; connects when it is first used."""
        named, self.schema = parse(url)
        self.read_only = read_only
        self.lock_timeout_s = lock_timeout_s
        self.channel = f"tallybook {self.schema}"
        self._place = place_of(named, self.schema)
        self._parameters: dict[str, Any] = {
            # A server that died must be noticed, without waiting for hours.
            "connect_timeout": "10",
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            "tcp_user_timeout": "60000",
            # All that could name another place, so that libpq does not look for it in the environment.
            "host": "localhost",
            "hostaddr": "",
            "port": "5432",
            "options": "",
            "target_session_attrs": "any",
            **named,
            "client_encoding": "UTF8",
            "application_name": self.channel,
        }
        self._pid = os.getpid()
        self._inserts: dict[str, str] = {}
        self._state = Condition()
        self._idle: list[_Link] = []
        self._users: dict[int, int] = {}  # id of a link in use → its thread
        self._closed = False
        self._listener: _Listener | None = None

    def __repr__(self) -> str:
        return f"PostgresDatabase({self._place!r})"

    @property
    def place(self) -> str:
        """Its URL, without a password."""
        return self._place

    def check_usable(self) -> None:
        """Raises BookClosed, and BookError in a process that was forked after it was opened."""
        if self._pid != os.getpid():
            raise BookError(
                "The book was opened before this process was forked: connections to a server don't survive that.",
                path=self.place,
                remedy="Open it again in the child process.",
            )
        if self._closed:
            raise BookClosed("The book is closed.", path=self.place, remedy="Open it again.")

    def session(self, *, write: bool) -> PostgresSession:
        """A transaction."""
        if write and self.read_only:
            raise for_reading_only(self.place)
        return PostgresSession(self, write)

    def indexed_by(self, session: Session, table: str, columns: Sequence[str], made: Mapping[str, str]) -> str:
        """Have the planner of a session's transaction nothing else to choose than the index over some columns."""
        session.rows(_BY_INDEX)
        found = False
        for name, constraint, over in session.rows(_INDEXES, [table]):
            if constraint not in ("p", "u") and name not in made:  # what it has rows of is seen by `code_names`
                raise damaged(f"The table {table} has an index {name!r}, which the book never made", self.place, DROP)
            found = found or over == " ".join(columns) or f"({', '.join(columns)})" in made.get(name, "")
        if not found:
            raise damaged(f"The table {table} has no index over {', '.join(columns)} any more", self.place)
        return ""

    def rows(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT. Asked again on a new connection if the first one is lost."""
        link = self._take()
        asked = _with_percents(statement)
        try:
            try:
                return link.connection.cursor(binary=True).execute(asked, params).fetchall()
            except psycopg.Error as error:
                if not _is_gone(link, error):
                    raise
                link.connection.close()
                self._give_back(link)
                link = self._take(fresh=True)
                return link.connection.cursor(binary=True).execute(asked, params).fetchall()
        except psycopg.Error as error:
            raise translated(error, self.place, lost=_is_gone(link, error)) from error
        finally:
            self._give_back(link)

    def has_table(self, name: str) -> bool:
        """Whether there is a table of a name in the schema."""
        return bool(self.rows("SELECT 1 FROM pg_tables WHERE schemaname=? AND tablename=?", [self.schema, name]))

    def settings(self) -> dict[str, Any]:
        """What decides about durability, and sizes in bytes: for `doctor`."""
        names = ("server_version", "fsync", "full_page_writes", "synchronous_commit", "server_encoding")
        wanted = ", ".join(f"current_setting('{name}')" for name in names)
        [(*values, database, schema)] = self.rows(
            f"SELECT {wanted}, pg_database_size(current_database()), (SELECT COALESCE(SUM(pg_total_relation_size("  # noqa: S608 - names of ours
            "pg_class.oid)), 0)::bigint FROM pg_class JOIN pg_namespace ON pg_namespace.oid=relnamespace "
            "WHERE nspname=? AND relkind='r')",
            [self.schema],
        )
        return {**dict(zip(names, values, strict=True)), "database_bytes": database, "schema_bytes": schema}

    def check_server(self) -> None:
        """Raises BookError for a database that can't hold a book; warns of a server that survives no power cut."""
        found = self.settings()
        if found["server_encoding"] != "UTF8":
            raise BookError(
                f"The database of {self.place} has the encoding {found['server_encoding']}.",
                path=self.place,
                remedy="Name a database with the encoding UTF8.",
            )
        for name in ("fsync", "full_page_writes"):
            if found[name] != "on":
                logger.warning("%s runs with %s=off: a power cut may destroy the book.", self.place, name)

    def notes(self, application: str) -> dict[str, str] | None:
        """What the schema notes about itself; None for an empty one, or none. Raises NotABook, NewerBook."""
        with self.session(write=False) as session:
            return self._notes(session, application)

    @contextmanager
    def making(self, application: str, origin: str) -> Iterator[tuple[PostgresSession | None, dict[str, str]]]:
        """A transaction in which the schema of a book is made, and what it notes about itself.

        No session is given where it is made already; hosts that make it at once wait for each other.
        Raises NotABook, NewerBook.
        """
        with self.session(write=True) as session:
            session.rows("SELECT pg_advisory_xact_lock(?)", [self.lock_number("making")])
            found = self._notes(session, application)
            if found is not None:
                yield None, found
                return
            if not session.rows("SELECT 1 FROM pg_namespace WHERE nspname=?", [self.schema]):
                session.define(f'CREATE SCHEMA "{self.schema}"')
            session.define("CREATE TABLE book (name {text} PRIMARY KEY, value {text} NOT NULL)")
            notes = {"application": application, "format": str(FORMAT), "origin": origin}
            session.insert(NOTES, list(notes.items()))
            yield session, notes

    def _notes(self, session: PostgresSession, application: str) -> dict[str, str] | None:
        there = {
            name
            for (name,) in session.rows(
                "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid=relnamespace WHERE nspname=?",
                [self.schema],
            )
        }
        if not there:
            return None
        noted: dict[str, str] = {}
        if "book" in there:
            with suppress(StatementRefused, BookDamaged):  # a table of that name with other columns
                noted = dict(session.rows("SELECT name, value FROM book"))
        if noted.get("application") != application or "origin" not in noted:
            raise NotABook(
                f"The schema of {self.place} is in use by something else.",
                path=self.place,
                remedy="Name another schema: `?schema=`.",
            )
        form = str(noted.get("format"))
        if not form.isascii() or not form.isdigit():
            raise damaged(f"The table book notes the format {form}, which is none", self.place)
        check_format(int(form), self.place)
        return noted

    def watch(self, channel: str) -> PostgresWatch:
        """Watch a channel from now on."""
        self.check_usable()
        with self._state:
            if self._listener is None:
                try:
                    self._listener = _Listener(self)
                except OSError as error:
                    raise limits.of_error(error, self.place) or error from error
            return PostgresWatch(self._listener, channel)

    def scrub(self, wait_s: float = SCRUB_S) -> bool:  # noqa: ARG002 - as declared in Database
        """False: a server keeps deleted rows in its pages, its log and its backups. Nothing that a client could do."""
        return False

    def hold(self, name: str) -> PostgresHold | None:
        """Take what only one holder among all processes has: an advisory lock on a connection of its own."""
        self.check_usable()
        connection = self._connect()
        try:
            [(held,)] = connection.execute("SELECT pg_try_advisory_lock(%b)", [self.lock_number(name)]).fetchall()
        except psycopg.Error as error:
            connection.close()
            raise translated(error, self.place, lost=True) from error
        if held:
            return PostgresHold(connection)
        connection.close()
        return None

    def lock_number(self, name: str) -> int:
        """The number of an advisory lock of this schema: locks are the whole database's."""
        digest = sha256(f"tallybook\0{self.schema}\0{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def in_use_here(self) -> bool:
        """Whether this thread is in the middle of using it, or can't use it any more."""
        return self._closed or self._pid != os.getpid() or get_ident() in self._users.values()

    def close(self) -> None:
        """Close all connections, once the threads that use one have given it back. Raises BookError in one of them."""
        if self._pid != os.getpid():
            return  # the parent's connections
        with self._state:
            if get_ident() in self._users.values():
                raise BookError(
                    "The book can't be closed in the middle of its own work.",
                    path=self.place,
                    remedy="In a signal handler, set a flag, and close the book where nothing of it is running.",
                )
            self._closed = True
            self._state.notify_all()
            while self._users:
                self._state.wait(0.05)
            idle, self._idle = self._idle, []
        for link in idle:
            link.connection.close()
        if self._listener is not None:
            self._listener.close()

    # ── connections ─────────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A new connection in autocommit mode, with settings that make it ours whatever the server's defaults are."""
        try:
            connection = psycopg.connect(autocommit=True, context=_ADAPTERS, **self._parameters)
        except (psycopg.Error, OSError, UnicodeError) as error:
            said = "a name in the URL can't be encoded" if isinstance(error, UnicodeError) else _said(error)
            remedy = _SLOTS if any(words in said for words in _NO_SLOT) else _CHECK
            raise limits.of_process(self.place) or BookUnreachable(
                f"{self.place} can't be reached: {said}.", path=self.place, remedy=remedy
            ) from None  # a traceback through the driver would hold the password
        try:
            connection.execute(
                sql.SQL(
                    _ALIVE + "SET search_path TO {}, pg_temp; SET lock_timeout TO {}; SET statement_timeout TO 0; "
                    "SET idle_in_transaction_session_timeout TO {}; SET client_min_messages TO warning; "
                    "SELECT set_config('synchronous_commit', 'on', false) "
                    "WHERE current_setting('synchronous_commit')='off'"
                ).format(
                    sql.Literal(VANISHED_S * 1000),
                    sql.Identifier(self.schema),
                    sql.Literal(max(1, int(self.lock_timeout_s * 1000))),
                    sql.Literal(IDLE_IN_TRANSACTION_S * 1000),
                )
            )
        except psycopg.Error as error:
            connection.close()
            raise translated(error, self.place, lost=True) from error
        return connection

    def _take(self, *, fresh: bool = False) -> _Link:
        """A connection for this thread. `fresh`: one was found broken, so those that lie idle are not trusted."""
        self.check_usable()
        me = get_ident()
        until = time.monotonic() + self.lock_timeout_s
        with self._state:
            if fresh:
                for old in self._idle:
                    old.connection.close()
                self._idle.clear()
            while not self._idle and len(self._users) >= CONNECTIONS_MAX and me not in self._users.values():
                left = until - time.monotonic()
                if left <= 0:
                    raise refusal("busy", f"All {CONNECTIONS_MAX} connections of the book were in use for too long.")
                self._state.wait(left)
                self.check_usable()
            if self._idle:
                link = self._idle.pop()
                self._users[id(link)] = me
                return link
            # A place is kept while the connection is made.
            placeholder = object()
            self._users[id(placeholder)] = me
        try:
            link = _Link(self._connect())
        except BaseException:
            self._leave(id(placeholder))
            raise
        with self._state:
            del self._users[id(placeholder)]
            self._users[id(link)] = me
        return link

    def _give_back(self, link: _Link) -> None:
        with self._state:
            fit = link.idle and len(self._idle) + len(self._users) <= CONNECTIONS_MAX
        if not fit:
            link.connection.close()
        self._leave(id(link), link if fit else None)

    def _leave(self, key: int, link: _Link | None = None) -> None:
        with self._state:
            if self._users.pop(key, None) is not None and link is not None:
                self._idle.append(link)
            self._state.notify()

    def _insert_statement(self, table: Table) -> str:
        statement = self._inserts.get(table.name)
        if statement is None:
            statement = self._inserts[table.name] = (
                f"INSERT INTO {table.name} SELECT * FROM unnest({_arrays(table.columns)})"  # noqa: S608 - names of ours
            )
        return statement


class PostgresHold:
    """An advisory lock: the server gives it to the next when the connection ends, however that happens."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def alive(self) -> bool:
        """Whether the connection is still there."""
        try:
            self._connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def release(self) -> None:
        """Give it up."""
        self._connection.close()


# ── notifications ───────────────────────────────────────────────────────────────────────────────────────────────────


class _Listener:
    """One thread and one connection, that all watches of a database share."""

    FIRST_PAUSE_S = 0.05
    LAST_PAUSE_S = 2.0

    def __init__(self, database: PostgresDatabase) -> None:
        """Raises BookUnreachable."""
        self._database = database
        self.noticed = Condition()
        self.closed = False
        self.pid = os.getpid()
        self._counts: dict[str, int] = {}
        self._gaps = 0
        self._stop = Event()
        try:
            self._waker, self._woken = socket.socketpair()
        except OSError as error:
            raise unexpected(error.strerror or error, database.place) from error
        self._thread = Thread(
            target=self._run, args=(self._listening(),), name=f"{database.channel} listener", daemon=True
        )
        self._thread.start()

    def count(self, channel: str) -> int:
        """Goes up with each announcement, and after each time in which one may have been missed."""
        return self._counts.get(channel, 0) + self._gaps

    def close(self) -> None:
        """End the thread, and wake all who wait."""
        with self.noticed:
            self.closed = True
            self.noticed.notify_all()
        self._stop.set()
        with suppress(OSError):
            self._waker.send(b"x")
        self._thread.join(timeout=2)  # it may be in the middle of connecting; it is a daemon

    def _listening(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = self._database._connect()
        try:
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._database.channel)))
        except psycopg.Error as error:
            connection.close()
            raise translated(error, self._database.place, lost=True) from error
        return connection

    def _run(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        pause_s = self.FIRST_PAUSE_S
        listening: psycopg.Connection[tuple[Any, ...]] | None = connection
        while not self._stop.is_set():
            try:
                if listening is None:
                    listening = self._listening()
                    with self.noticed:
                        self._gaps += 1
                        self.noticed.notify_all()
                pause_s = self.FIRST_PAUSE_S
                self._follow(listening)
            except (BookError, psycopg.Error, OSError):
                logger.info("The connection that listens for commits was lost; trying again.", exc_info=True)
                self._stop.wait(pause_s)
                pause_s = min(pause_s * 2, self.LAST_PAUSE_S)
            finally:
                if listening is not None:
                    listening.close()
                    listening = None
        self._waker.close()
        self._woken.close()

    def _follow(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Count announcements until the end, or until the connection is lost."""
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stop.is_set():
                while (notification := connection.pgconn.notifies()) is not None:
                    channel = notification.extra.decode()
                    with self.noticed:
                        self._counts[channel] = self._counts.get(channel, 0) + 1
                        self.noticed.notify_all()
                selector.select()
                if not self._stop.is_set():
                    connection.pgconn.consume_input()


class PostgresWatch:
    """Waits for the announcements of one channel."""

    def __init__(self, listener: _Listener, channel: str) -> None:
        self._listener = listener
        self._channel = channel
        self._closed = False
        self._seen = listener.count(channel)

    def wait(self, timeout_s: float) -> bool:
        """Whether something may have been committed since the last call. Raises BookError in a forked process."""
        listener = self._listener
        if listener.pid != os.getpid():
            listener._database.check_usable()

        def over() -> bool:
            return self._closed or listener.closed or listener.count(self._channel) != self._seen

        with listener.noticed:
            listener.noticed.wait_for(over, timeout_s)
            if self._closed or listener.closed:
                return False
            before, self._seen = self._seen, listener.count(self._channel)
            return self._seen != before

    def close(self) -> None:
        """Stop."""
        self._closed = True
        if self._listener.pid == os.getpid():  # a forked process may have inherited the lock as somebody held it
            with self._listener.noticed:
                self._listener.noticed.notify_all()
