"""The floor: the sqlite3 module alone, with the same durability (WAL, synchronous=FULL), moving the same blobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LogRow = tuple[int, bytes, int, str, bytes]
"""position, stream id, version, stored name, state: a row as Tallybook stores it"""


def assert_durable(connection: sqlite3.Connection) -> None:
    """Both logs and the floor must promise the same: WAL, and fsync at every commit."""
    [journal_mode] = connection.execute("PRAGMA journal_mode").fetchone()
    [synchronous] = connection.execute("PRAGMA synchronous").fetchone()
    if (journal_mode, synchronous) != ("wal", 2):
        raise AssertionError(f"journal_mode={journal_mode}, synchronous={synchronous}, not wal and 2 (FULL)")


class RawLog:
    """A table of events like Tallybook's, and nothing around it."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("PRAGMA cache_size=-65536")
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS stored_events (position INTEGER PRIMARY KEY, originator_id BLOB NOT NULL, "
            "originator_version INTEGER NOT NULL, topic TEXT NOT NULL, state BLOB NOT NULL, "
            "UNIQUE (originator_id, originator_version))"
        )
        assert_durable(self.connection)

    def append(self, commits: Sequence[Sequence[LogRow]]) -> None:
        """Insert rows, one transaction for each list."""
        execute, executemany = self.connection.execute, self.connection.executemany
        for rows in commits:
            execute("BEGIN IMMEDIATE")
            executemany("INSERT INTO stored_events VALUES (?,?,?,?,?)", rows)
            execute("COMMIT")

    def stream(self, stream_id: bytes) -> list[Any]:
        """All rows of one stream."""
        return self.connection.execute(
            "SELECT position, originator_version, topic, state FROM stored_events WHERE originator_id=? "
            "ORDER BY originator_version",
            (stream_id,),
        ).fetchall()

    def pages(self, size: int) -> int:
        """All rows, so many at a time; how many there were."""
        position = count = 0
        while rows := self.connection.execute(
            "SELECT position, originator_id, originator_version, topic, state FROM stored_events WHERE position>? "
            "ORDER BY position LIMIT ?",
            (position, size),
        ).fetchall():
            position = rows[-1][0]
            count += len(rows)
        return count

    def states(self, topic: str, size: int) -> int:
        """Position and state of all rows of one name, so many at a time, by the statement of Tallybook's own log; how
        many there were."""
        [(stop,)] = self.connection.execute("SELECT max(position) FROM stored_events")
        position = count = 0
        while rows := self.connection.execute(
            "SELECT position, state FROM stored_events WHERE position>? AND position<=? AND topic=? "
            "ORDER BY position LIMIT ?",
            (position, stop, topic, size),
        ).fetchall():
            position = rows[-1][0]
            count += len(rows)
        return count

    def close(self) -> None:
        """Release the file."""
        self.connection.close()


def log_rows(path: Path) -> list[LogRow]:
    """All rows of a book's log."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(
            "SELECT position, originator_id, originator_version, topic, state FROM stored_events ORDER BY position"
        ).fetchall()
    finally:
        connection.close()


class RawTables:
    """The tables of a book's read models with all their rows, to be written again elsewhere."""

    def __init__(self, path: Path) -> None:
        connection = sqlite3.connect(path)
        try:
            self.tables = [
                (sql, name, connection.execute(f"SELECT * FROM {name}").fetchall())
                for name, sql in connection.execute(
                    "SELECT name, sql FROM sqlite_master WHERE type='table' AND name GLOB '*__[0-9]*'"
                ).fetchall()
            ]
            self.indexes = [
                sql
                for (sql,) in connection.execute(
                    "SELECT sql FROM sqlite_master WHERE type='index' AND tbl_name GLOB '*__[0-9]*' AND sql NOT NULL"
                ).fetchall()
            ]
        finally:
            connection.close()
        if not any(rows for _, _, rows in self.tables):
            raise AssertionError("the book has no rows of read models")

    def write(self, log: RawLog, events: int, transactions: int) -> None:
        """Read the log and write all rows, in so many transactions."""
        execute, executemany = log.connection.execute, log.connection.executemany
        for sql, _, _ in self.tables:
            execute(sql)
        for sql in self.indexes:
            execute(sql)
        batch = -(-events // transactions)
        for number in range(transactions):
            execute(
                "SELECT position, originator_id, originator_version, topic, state FROM stored_events "
                "WHERE position>? ORDER BY position LIMIT ?",
                (number * batch, batch),
            ).fetchall()
            execute("BEGIN IMMEDIATE")
            for _, name, rows in self.tables:
                if rows:
                    part = rows[len(rows) * number // transactions : len(rows) * (number + 1) // transactions]
                    executemany(f"INSERT INTO {name} VALUES ({','.join('?' * len(rows[0]))})", part)
            execute("COMMIT")
