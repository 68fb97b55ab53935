"""Read models in the book's SQLite file: rows, tracking, and builds side by side."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from eventsourcing.persistence import IntegrityError, Tracking
from eventsourcing.sqlite import SQLiteCursor

from tallybook.projections.read_models import Generation, ReadModel, Rows, Table

from .sqlite import BookDatastore, LogTrackingRecorder


def _table(build: Generation, table: Table) -> str:
    return f"{table.name}__{build.number}"


def _tracking(build: Generation) -> str:
    return f"{build.model.name}#{build.number}"


class SQLiteRows:
    """A unit of work on a build: rows that were read or written while a batch is folded."""

    def __init__(self, store: SQLiteReadModelStore, build: Generation) -> None:
        self._store = store
        self._build = build
        self._seen: dict[str, dict[tuple[Any, ...], tuple[Any, ...] | None]] = {
            table.name: {} for table in build.model.tables
        }
        self._written: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {
            table.name: {} for table in build.model.tables
        }

    def load(self, table: Table, keys: Iterable[tuple[Any, ...]]) -> None:
        """Read many rows at once."""
        seen, written = self._seen[table.name], self._written[table.name]
        missing = [key for key in keys if key not in seen and key not in written]
        if missing:
            seen.update(self._store.rows_of(self._build, table, missing))

    def get(self, table: Table, key: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The row with a key."""
        written = self._written[table.name].get(key)
        if written is not None:
            return written
        seen = self._seen[table.name]
        if key not in seen:
            self.load(table, [key])
        return seen[key]

    def put(self, table: Table, key: tuple[Any, ...], row: tuple[Any, ...]) -> None:
        """Insert or replace a row."""
        self._written[table.name][key] = row

    def flush(self, cursor: sqlite3.Cursor) -> None:
        """Write all rows."""
        for table in self._build.model.tables:
            rows = self._written[table.name]
            if rows:
                marks = ",".join("?" * len(table.columns))
                cursor.executemany(
                    f"INSERT OR REPLACE INTO {_table(self._build, table)} VALUES ({marks})",  # noqa: S608 - names of ours
                    rows.values(),
                )


class SQLiteReadModelStore(LogTrackingRecorder):
    """`eventsourcing`'s tracking recorder, with the rows of read models beside it."""

    def __init__(self, datastore: BookDatastore) -> None:
        super().__init__(datastore)
        try:
            self.create_table()
        except IntegrityError:
            # Another process made the tables at the same moment; now they are there.
            self.create_table()

    def construct_create_table_statements(self) -> list[str]:
        """The tracking table, and which build of each read model is live."""
        return [
            *super().construct_create_table_statements(),
            "CREATE TABLE IF NOT EXISTS read_models "
            "(name TEXT PRIMARY KEY, version INTEGER NOT NULL, build INTEGER NOT NULL) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS read_model_builds "
            "(number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL)",
        ]

    def generation(self, model: ReadModel) -> Generation | None:
        """The live build of this version of the model."""
        with self.datastore.transaction(commit=False) as cursor:
            return self._generation(cursor.sqlite_cursor, model)

    def _generation(self, cursor: sqlite3.Cursor, model: ReadModel) -> Generation | None:
        row = cursor.execute(
            "SELECT build FROM read_models WHERE name=? AND version=?", (model.name, model.version)
        ).fetchone()
        return Generation(model, row[0]) if row else None

    def begin(self, model: ReadModel) -> Generation:
        """Make empty tables for a new build."""
        with self.datastore.transaction(commit=True) as c:
            cursor = c.sqlite_cursor
            cursor.execute("INSERT INTO read_model_builds (name) VALUES (?)", (model.name,))
            build = Generation(model, int(cursor.lastrowid or 0))
            for table in model.tables:
                columns = ", ".join(f"{name} {kind.upper()}" for name, kind in table.columns)
                name = _table(build, table)
                integer_key = len(table.key) == 1 and dict(table.columns)[table.key[0]] == "integer"
                cursor.execute(
                    f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({', '.join(table.key)}))"
                    + ("" if integer_key else " WITHOUT ROWID")
                )
                for index, columns_indexed in enumerate(table.indexes):
                    cursor.execute(f"CREATE INDEX {name}__{index} ON {name} ({', '.join(columns_indexed)})")
            return build

    def go_live(self, build: Generation) -> bool:
        """Swap a build in and drop all older ones of the model; False if it is behind the live one.

        True as well where a newer build is live already.
        """
        with self.datastore.transaction(commit=True) as c:
            cursor = c.sqlite_cursor
            live = self._generation(cursor, build.model)
            if live is not None and live.number > build.number:
                return True
            if live is not None and self._tracked(c, live) > self._tracked(c, build):
                return False
            cursor.execute(
                "INSERT OR REPLACE INTO read_models VALUES (?,?,?)",
                (build.model.name, build.model.version, build.number),
            )
            numbers = cursor.execute(
                "SELECT number FROM read_model_builds WHERE name=? AND number<?", (build.model.name, build.number)
            ).fetchall()
            for (number,) in numbers:
                for name in self._tables_of(cursor, number):
                    cursor.execute(f"DROP TABLE {name}")
                cursor.execute("DELETE FROM tracking WHERE application_name=?", (f"{build.model.name}#{number}",))
                cursor.execute("DELETE FROM read_model_builds WHERE number=?", (number,))
            return True

    @staticmethod
    def _tables_of(cursor: sqlite3.Cursor, number: int) -> list[str]:
        names = cursor.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        return [name for (name,) in names if name.endswith(f"__{number}")]

    def tracked(self, build: Generation) -> int:
        """The position up to which a build is folded."""
        with self.datastore.transaction(commit=False) as cursor:
            return self._tracked(cursor, build)

    def _tracked(self, cursor: SQLiteCursor, build: Generation) -> int:
        return self._max_tracking_id(_tracking(build), cursor) or 0

    def rows(self, build: Generation) -> SQLiteRows:
        """An empty unit of work."""
        return SQLiteRows(self, build)

    def rows_of(
        self, build: Generation, table: Table, keys: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], tuple[Any, ...] | None]:
        """The rows of keys; None where there is none, or the build was dropped meanwhile (its commit then fails)."""
        found: dict[tuple[Any, ...], tuple[Any, ...] | None] = dict.fromkeys(keys)
        names = [name for name, _ in table.columns]
        places = [names.index(name) for name in table.key]
        mark = f"({','.join('?' * len(table.key))})"
        with self.datastore.transaction(commit=False) as c:
            for start in range(0, len(keys), 250):
                chunk = keys[start : start + 250]
                statement = (
                    f"SELECT * FROM {_table(build, table)} WHERE ({', '.join(table.key)}) "  # noqa: S608 - names of ours
                    f"IN (VALUES {', '.join([mark] * len(chunk))})"
                )
                try:
                    c.sqlite_cursor.execute(statement, [value for key in chunk for value in key])
                except sqlite3.OperationalError:
                    break
                for row in c.sqlite_cursor:
                    found[tuple(row[place] for place in places)] = row
        return found

    def commit(self, work: Sequence[tuple[Generation, Rows, int]], position: int) -> bool:
        """Write rows and tracking of a batch, unless a build moved or was dropped meanwhile."""
        with self.datastore.transaction(commit=True) as c:
            cursor = c.sqlite_cursor
            for build, _, start in work:
                alive = cursor.execute("SELECT 1 FROM read_model_builds WHERE number=?", (build.number,)).fetchone()
                if alive is None or self._tracked(c, build) != start:
                    return False
            for build, rows, _ in work:
                assert isinstance(rows, SQLiteRows)
                rows.flush(cursor)
                self._insert_tracking(c, Tracking(_tracking(build), position))
            return True

    def select(
        self, model: ReadModel, table: Table, columns: Sequence[str], where: str = "", params: Sequence[Any] = ()
    ) -> Sequence[tuple[Any, ...]]:
        """Rows of the live build."""
        with self.datastore.transaction(commit=False) as c:
            cursor = c.sqlite_cursor
            build = self._generation(cursor, model)
            if build is None:
                return []
            statement = f"SELECT {', '.join(columns)} FROM {_table(build, table)}"  # noqa: S608 - names of ours
            rows: Sequence[tuple[Any, ...]] = cursor.execute(
                statement + (f" WHERE {where}" if where else ""), params
            ).fetchall()
            return rows
