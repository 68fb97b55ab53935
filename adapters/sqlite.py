"""`eventsourcing`'s SQLite recorders, with one order without gaps: position, Merkle frontier, claims and receipts are
written in the transaction that inserts the events."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any
from uuid import UUID

from eventsourcing import sqlite as stock
from eventsourcing.persistence import (
    ConnectionPoolClosedError,
    IntegrityError,
    InterfaceError,
    Notification,
    OperationalError,
    StoredEvent,
    Tracking,
)
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteCursor,
    SQLiteDatastore,
    SQLiteProcessRecorder,
    SQLiteTrackingRecorder,
    SQLiteTransaction,
)
from eventsourcing.utils import Environment, EnvType

from tallybook.domain.errors import BookClosed, BookError

from . import merkle
from .form import uuid_from

DEFAULT_LOCK_TIMEOUT_S = 30

Row = tuple[int, bytes, int, str, bytes]
"""position, stream id, version, stored name, state"""

NewRow = tuple[bytes | str, int, str, bytes]
"""The same before it has a position."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is kept of a command so that repeating it gives the same result."""

    command_id: bytes
    digest: bytes
    result: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """A log's last position and its Merkle frontier."""

    position: int
    frontier: merkle.Frontier


class ImmediateTransaction(SQLiteTransaction):
    """A transaction that takes the write lock when it begins, if it means to write.

    A plain BEGIN that reads first and writes then fails at once when another writer was in between.
    """

    def __enter__(self) -> SQLiteCursor:
        cursor = self.connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE" if self.commit else "BEGIN")
        except sqlite3.OperationalError as error:
            raise OperationalError(error) from error
        return cursor


class BookConnection(SQLiteConnection):
    """A connection whose writing transactions are immediate."""

    @contextmanager
    def transaction(self, *, commit: bool) -> Iterator[SQLiteCursor]:
        with ImmediateTransaction(self, commit=commit) as cursor, cursor:
            yield cursor

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection of the sqlite3 module."""
        return self._sqlite_conn


class _Draining(ConnectionPoolClosedError):
    """The pool is being closed."""


class BookConnectionPool(SQLiteConnectionPool):
    """Connections in WAL mode with a named durability."""

    synchronous = "FULL"
    _draining = False

    def __init__(self, **kwargs: Any) -> None:
        self._users: dict[int, int] = {}  # id of a connection in use → its thread
        super().__init__(**kwargs)

    def get_connection(self, timeout: float | None = None, *, is_writer: bool | None = None) -> SQLiteConnection:
        """A connection for this thread. Raises BookClosed once the pool is being closed."""
        try:
            return super().get_connection(timeout, is_writer=is_writer)
        except ConnectionPoolClosedError as error:
            if isinstance(error, _Draining) and is_writer:
                self._writer_lock.release()
            raise BookClosed("The book is closed.", path=self.db_name, remedy="Open it again.") from error

    def _get_connection(self, timeout: float = 0.0) -> SQLiteConnection:
        with self._put_condition:
            if self._draining:
                raise _Draining
            connection = super()._get_connection(timeout)
            self._users[id(connection)] = get_ident()
            return connection

    def put_connection(self, conn: SQLiteConnection) -> None:
        """Take a connection back."""
        self._users.pop(id(conn), None)
        super().put_connection(conn)

    def close(self) -> None:
        """Close all connections, once the threads that use one have given it back. Raises BookError.

        The stock pool closes a connection under the thread that uses it, and SQLite then brings the process down.
        """
        with self._put_condition:
            if get_ident() in self._users.values():
                raise BookError(
                    "The book can't be closed in the middle of its own work.",
                    path=self.db_name,
                    remedy="In a signal handler, set a flag, and close the book where nothing of it is running.",
                )
            self._draining = True
            while self._in_use:
                self._put_condition.wait(0.05)
            super().close()

    def __del__(self) -> None:
        # Nobody holds the pool any more; nothing is waited for where garbage is collected.
        super().close()

    def _create_connection(self) -> SQLiteConnection:
        try:
            stock = super()._create_connection()
        except sqlite3.Error as error:
            raise InterfaceError(error) from error
        raw = stock._sqlite_conn
        raw.execute(f"PRAGMA synchronous={self.synchronous}")
        raw.execute("PRAGMA cache_size=-65536")
        raw.row_factory = None
        return BookConnection(raw, max_age=self.max_age)


class BookDatastore(SQLiteDatastore):
    """A datastore that uses our connections."""

    pool: BookConnectionPool

    def __init__(
        self, db_name: str, *, lock_timeout_s: int = DEFAULT_LOCK_TIMEOUT_S, synchronous: str = "FULL"
    ) -> None:
        super().__init__(db_name, lock_timeout=lock_timeout_s, pool_timeout=float(lock_timeout_s))
        self.pool.close()
        self.pool = BookConnectionPool(
            db_name=db_name, lock_timeout=lock_timeout_s, pool_timeout=float(lock_timeout_s), max_overflow=100
        )
        self.pool.synchronous = synchronous


def is_busy(error: OperationalError) -> bool:
    """Whether another process or thread held a lock for too long: trying again later may help."""
    return "locked" in str(error) or "busy" in str(error) or isinstance(error, TimeoutError)


def _stream(originator_id: UUID | str) -> bytes | str:
    return originator_id.bytes if isinstance(originator_id, UUID) else originator_id


def _originator(stream: bytes | str) -> UUID | str:
    return uuid_from(stream) if isinstance(stream, bytes) else stream


class LogRecorder(SQLiteApplicationRecorder):
    """An application recorder whose positions have no gaps and whose Merkle frontier moves with them."""

    def __init__(self, datastore: SQLiteDatastore, events_table_name: str = "stored_events", origin: str = "") -> None:
        self.origin = origin
        super().__init__(datastore, events_table_name)
        table = self.events_table_name
        self.insert_events_statement = f"INSERT INTO {table} VALUES (?,?,?,?,?)"  # noqa: S608 - a name of ours
        self.select_columns = f"SELECT position, originator_id, originator_version, topic, state FROM {table} "  # noqa: S608 - a name of ours
        self.select_max_notification_id_statement = f"SELECT position FROM head WHERE log='{table}'"  # noqa: S608 - a name of ours

    def construct_create_table_statements(self) -> list[str]:
        table = self.events_table_name
        return [
            f"CREATE TABLE IF NOT EXISTS {table} (position INTEGER PRIMARY KEY CHECK (position > 0), "
            "originator_id BLOB NOT NULL, originator_version INTEGER NOT NULL, topic TEXT NOT NULL, "
            "state BLOB NOT NULL, "
            "UNIQUE (originator_id, originator_version))",
            "CREATE TABLE IF NOT EXISTS head (log TEXT PRIMARY KEY, position INTEGER NOT NULL, "
            "frontier BLOB NOT NULL) WITHOUT ROWID",
            f"INSERT OR IGNORE INTO head VALUES ('{table}', 0, x'')",  # noqa: S608 - a name of ours
            "CREATE TABLE IF NOT EXISTS receipts (command_id BLOB PRIMARY KEY, digest BLOB NOT NULL, "
            "first_position INTEGER NOT NULL, last_position INTEGER NOT NULL, result BLOB NOT NULL) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS claims (claim BLOB PRIMARY KEY, holder BLOB NOT NULL) WITHOUT ROWID",
        ]

    def _insert_events(self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int]:
        return self._append(
            c,
            [(_stream(one.originator_id), one.originator_version, one.topic, one.state) for one in stored_events],
            **kwargs,
        )

    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        """Append events in one durable transaction, with what belongs to it (see `_append`); their positions."""
        with self.datastore.transaction(commit=True) as cursor:
            return self._append(cursor, rows, **kwargs)

    def _append(
        self,
        c: SQLiteCursor,
        new: Sequence[NewRow],
        *,
        reads: Sequence[tuple[UUID, int]] = (),
        claims: Sequence[tuple[bytes, bytes]] = (),
        releases: Sequence[bytes] = (),
        receipt: Receipt | None = None,
        **_: Any,
    ) -> Sequence[int]:
        """Insert events, and with them all that belongs to the same commit.

        `reads` are streams that the command read and did not write, with the version that it saw: if one moved, the
        commit fails with IntegrityError, as it does for an event, claim or receipt that is there already.
        """
        cursor = c.sqlite_cursor
        for stream, version in reads:
            cursor.execute(
                f"SELECT MAX(originator_version) FROM {self.events_table_name} WHERE originator_id=?",  # noqa: S608 - a name of ours
                (stream.bytes,),
            )
            if (cursor.fetchone()[0] or 0) != version:
                raise IntegrityError(f"stream {stream} moved on from version {version}")
        cursor.execute("SELECT position, frontier FROM head WHERE log=?", (self.events_table_name,))
        last, packed = cursor.fetchone()
        if new:
            frontier = merkle.Frontier(last, packed)
            origin, leaf = self.origin, merkle.leaf
            rows = [(position, *row) for position, row in enumerate(new, last + 1)]
            cursor.executemany(self.insert_events_statement, rows)
            frontier.append([leaf(origin, *row) for row in rows])
            cursor.execute(
                "UPDATE head SET position=?, frontier=? WHERE log=?",
                (frontier.size, frontier.packed(), self.events_table_name),
            )
        if releases:
            cursor.executemany("DELETE FROM claims WHERE claim=?", [(claim,) for claim in releases])
        if claims:
            cursor.executemany("INSERT INTO claims VALUES (?,?)", claims)
        if receipt is not None:
            cursor.execute(
                "INSERT INTO receipts VALUES (?,?,?,?,?)",
                (receipt.command_id, receipt.digest, last + 1, last + len(new), receipt.result),
            )
        return range(last + 1, last + len(new) + 1)

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Insert events in one durable transaction; their positions."""
        with self.datastore.transaction(commit=True) as cursor:
            return list(self._insert_events(cursor, stored_events, **kwargs))

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """A stream's events, as `eventsourcing` asks for them."""
        return [
            StoredEvent(originator_id, version, topic, state)
            for _, version, topic, state in self.stream_rows(originator_id, gt=gt, lte=lte, desc=desc, limit=limit)
        ]

    def stream_rows(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[tuple[int, int, str, bytes]]:
        """A stream's rows: position, version, stored name, state."""
        statement = (
            f"SELECT position, originator_version, topic, state FROM {self.events_table_name} WHERE originator_id=?"  # noqa: S608 - a name of ours
        )
        params: list[Any] = [_stream(originator_id)]
        if gt is not None:
            statement += " AND originator_version>?"
            params.append(gt)
        if lte is not None:
            statement += " AND originator_version<=?"
            params.append(lte)
        statement += f" ORDER BY originator_version {'DESC' if desc else 'ASC'}"
        if limit is not None:
            statement += " LIMIT ?"
            params.append(limit)
        return self._query(statement, params)

    def streams_rows(self, originator_ids: Sequence[UUID]) -> Iterator[Row]:
        """All rows of many streams, stream by stream."""
        for start in range(0, len(originator_ids), 500):
            chunk = [one.bytes for one in originator_ids[start : start + 500]]
            marks = ",".join("?" * len(chunk))
            yield from self._query(
                f"{self.select_columns}WHERE originator_id IN ({marks}) ORDER BY originator_id, originator_version",
                chunk,
            )

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """The log's events in order, as `eventsourcing` asks for them."""
        first = (start or 0) if inclusive_of_start else (start or 0) + 1
        rows = self.log_rows(first - 1 if start is not None else 0, limit, stop, topics)
        return [
            Notification(
                id=position, originator_id=_originator(stream), originator_version=version, topic=topic, state=state
            )
            for position, stream, version, topic, state in rows
        ]

    def log_rows(self, after: int, limit: int, stop: int | None = None, topics: Sequence[str] = ()) -> Sequence[Row]:
        """Up to `limit` rows of the log after a position, in order; up to `stop` (inclusive), of some names only."""
        statement = self.select_columns + "WHERE position>?"
        params: list[Any] = [after]
        if stop is not None:
            statement += " AND position<=?"
            params.append(stop)
        if topics:
            statement += f" AND topic IN ({','.join('?' * len(topics))})"
            params += topics
        statement += " ORDER BY position LIMIT ?"
        params.append(limit)
        return self._query(statement, params)

    def rows_at(self, positions: Sequence[int]) -> Sequence[Row]:
        """The rows at positions, in order."""
        rows: list[Row] = []
        for start in range(0, len(positions), 500):
            chunk = positions[start : start + 500]
            marks = ",".join("?" * len(chunk))
            rows += self._query(f"{self.select_columns}WHERE position IN ({marks}) ORDER BY position", chunk)
        return rows

    def iterate(
        self, after: int = 0, *, stop: int | None = None, topics: Sequence[str] = (), chunk: int = 5000
    ) -> Iterator[Row]:
        """All rows of the log after a position, up to the head at the start; no lock is held between chunks."""
        stop = self.position() if stop is None else stop
        while after < stop:
            rows = self.log_rows(after, chunk, stop, topics)
            yield from rows
            if len(rows) < chunk:
                return
            after = rows[-1][0]

    def position(self) -> int:
        """The head's position; 0 for an empty log."""
        return self.head().position

    def max_notification_id(self) -> int:
        """The same, as `eventsourcing` asks for it: None for an empty log, whatever the signature says."""
        return self.position() or None  # type: ignore[return-value]  # so does the stock recorder

    def extent(self) -> tuple[int, int, int]:
        """How many rows there are, and the least and greatest position; zeros for an empty log."""
        [(count, least, greatest)] = self._query(
            f"SELECT COUNT(*), MIN(position), MAX(position) FROM {self.events_table_name}",  # noqa: S608 - a name of ours
            [],
        )
        return count, least or 0, greatest or 0

    def head(self) -> Head:
        """Position and frontier, as of one commit."""
        [(position, packed)] = self._query("SELECT position, frontier FROM head WHERE log=?", [self.events_table_name])
        return Head(position, merkle.Frontier(position, packed))

    def receipt(self, command_id: bytes) -> Receipt | None:
        """What is kept of a command, if it was recorded."""
        rows = self._query("SELECT command_id, digest, result FROM receipts WHERE command_id=?", [command_id])
        return Receipt(*rows[0]) if rows else None

    def holders(self, claims: Sequence[bytes]) -> dict[bytes, bytes]:
        """Who holds each of many claims; free ones are left out."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(claims), 500):
            chunk = claims[start : start + 500]
            marks = ",".join("?" * len(chunk))
            found.update(self._query(f"SELECT claim, holder FROM claims WHERE claim IN ({marks})", chunk))  # noqa: S608 - marks only
        return found

    def holder(self, claim: bytes) -> bytes | None:
        """Who holds a claim."""
        rows = self._query("SELECT holder FROM claims WHERE claim=?", [claim])
        return rows[0][0] if rows else None

    def _query(self, statement: str, params: Sequence[Any]) -> Sequence[Any]:
        with self.datastore.transaction(commit=False) as cursor:
            cursor.execute(statement, params)
            rows: Sequence[Any] = cursor.fetchall()
            return rows


class LogTrackingRecorder(SQLiteTrackingRecorder):
    """The stock tracking recorder; its rows read as tuples here."""


class LogProcessRecorder(SQLiteProcessRecorder, LogRecorder):
    """Events and a tracking position in one transaction."""

    def _insert_events(self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int]:
        positions = LogRecorder._insert_events(self, c, stored_events, **kwargs)
        tracking: Tracking | None = kwargs.get("tracking")
        if tracking is not None:
            self._insert_tracking(c, tracking)
        return positions


class BookFactory(stock.SQLiteFactory):
    """Builds our recorders, on our datastore."""

    application_recorder_class = LogRecorder
    tracking_recorder_class = LogTrackingRecorder
    process_recorder_class = LogProcessRecorder

    def __init__(self, env: Environment | EnvType | None, datastore: BookDatastore | None = None) -> None:
        super().__init__(env)
        self.datastore.close()
        self.datastore = datastore or BookDatastore(
            self.datastore.pool.db_name, lock_timeout_s=self.datastore.pool.lock_timeout or DEFAULT_LOCK_TIMEOUT_S
        )
