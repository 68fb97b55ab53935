"""Read models in a database: rows, tracking, and builds side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from eventsourcing.persistence import PersistenceError, Tracking

from tallybook.projections.read_models import Generation, ReadModel, Rows, Table

from .database import Database, Session, definition, marks
from .log import LogTrackingRecorder


def _built(build: Generation, table: Table) -> Table:
    return replace(table, name=f"{table.name}__{build.number}")


def _tracking(build: Generation) -> str:
    return f"{build.model.name}#{build.number}"


class TableRows:
    """A unit of work on a build: rows that were read or written while a batch is folded."""

    def __init__(self, store: TableReadModelStore, build: Generation) -> None:
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

    def flush(self, session: Session) -> None:
        """Write all rows."""
        for table in self._build.model.tables:
            rows = self._written[table.name]
            if rows:
                session.upsert(_built(self._build, table), list(rows.values()))


class TableReadModelStore(LogTrackingRecorder):
    """`eventsourcing`'s tracking recorder, with the rows of read models beside it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.create_table()

    def tracking_definitions(self) -> list[str]:
        """The tracking table, and which build of each read model is live."""
        return [
            *super().tracking_definitions(),
            "CREATE TABLE IF NOT EXISTS read_models "
            "(name {text} PRIMARY KEY, version {integer} NOT NULL, build {integer} NOT NULL){compact}",
            "CREATE TABLE IF NOT EXISTS read_model_builds (number {integer} PRIMARY KEY, name {text} NOT NULL)",
        ]

    def generation(self, model: ReadModel) -> Generation | None:
        """The live build of this version of the model."""
        rows = self.database.rows(
            "SELECT build FROM read_models WHERE name=? AND version=?", (model.name, model.version)
        )
        return Generation(model, rows[0][0]) if rows else None

    def begin(self, model: ReadModel) -> Generation:
        """Make empty tables for a new build."""
        with self.database.session(write=True) as session:
            [(last,)] = session.rows("SELECT MAX(number) FROM read_model_builds")
            build = Generation(model, (last or 0) + 1)
            session.run("INSERT INTO read_model_builds VALUES (?,?)", (build.number, model.name))
            for table in model.tables:
                for statement in definition(_built(build, table)):
                    session.define(statement)
            return build

    def go_live(self, build: Generation) -> bool:
        """Swap a build in and drop all older ones of the model; False if it is behind the live one.

        True as well where a newer build is live already.
        """
        with self.database.session(write=True) as session:
            rows = session.rows("SELECT version, build FROM read_models WHERE name=?", (build.model.name,))
            if rows and rows[0][0] == build.model.version:
                live = Generation(build.model, rows[0][1])
                if live.number > build.number:
                    return True
                if self._tracked(session, live) > self._tracked(session, build):
                    return False
            session.run("DELETE FROM read_models WHERE name=?", (build.model.name,))
            session.run("INSERT INTO read_models VALUES (?,?,?)", (build.model.name, build.model.version, build.number))
            for (number,) in session.rows(
                "SELECT number FROM read_model_builds WHERE name=? AND number<?", (build.model.name, build.number)
            ):
                for table in build.model.tables:
                    session.run(f"DROP TABLE IF EXISTS {_built(Generation(build.model, number), table).name}")
                session.run("DELETE FROM tracking WHERE application_name=?", (f"{build.model.name}#{number}",))
                session.run("DELETE FROM read_model_builds WHERE number=?", (number,))
            return True

    def tracked(self, build: Generation) -> int:
        """The position up to which a build is folded."""
        return self.max_tracking_id(_tracking(build)) or 0

    @staticmethod
    def _tracked(session: Session, build: Generation) -> int:
        rows = session.rows("SELECT notification_id FROM tracking WHERE application_name=?", (_tracking(build),))
        return rows[0][0] if rows else 0

    def rows(self, build: Generation) -> TableRows:
        """An empty unit of work."""
        return TableRows(self, build)

    def rows_of(
        self, build: Generation, table: Table, keys: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], tuple[Any, ...] | None]:
        """The rows of keys; None where there is none, or the build was dropped meanwhile (its commit then fails)."""
        found: dict[tuple[Any, ...], tuple[Any, ...] | None] = dict.fromkeys(keys)
        names = [name for name, _ in table.columns]
        places = [names.index(name) for name in table.key]
        mark = f"({marks(len(table.key))})"
        for start in range(0, len(keys), 250):
            chunk = keys[start : start + 250]
            try:
                rows = self.database.rows(
                    f"SELECT * FROM {_built(build, table).name} WHERE ({', '.join(table.key)}) "  # noqa: S608 - names of ours
                    f"IN (VALUES {', '.join([mark] * len(chunk))})",
                    [value for key in chunk for value in key],
                )
            except PersistenceError:
                break
            for row in rows:
                found[tuple(row[place] for place in places)] = row
        return found

    def commit(self, work: Sequence[tuple[Generation, Rows, int]], position: int) -> bool:
        """Write rows and tracking of a batch, unless a build moved or was dropped meanwhile."""
        with self.database.session(write=True) as session:
            for build, _, start in work:
                alive = session.rows("SELECT 1 FROM read_model_builds WHERE number=?", (build.number,))
                if not alive or self._tracked(session, build) != start:
                    return False
            for build, rows, _ in work:
                assert isinstance(rows, TableRows)
                rows.flush(session)
                self.track_in(session, Tracking(_tracking(build), position))
            return True

    def select(
        self, model: ReadModel, table: Table, columns: Sequence[str], where: str = "", params: Sequence[Any] = ()
    ) -> Sequence[tuple[Any, ...]]:
        """Rows of the live build."""
        build = self.generation(model)
        if build is None:
            return []
        statement = f"SELECT {', '.join(columns)} FROM {_built(build, table).name}"  # noqa: S608 - names of ours
        return self.database.rows(statement + (f" WHERE {where}" if where else ""), params)
