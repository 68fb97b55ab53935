"""Read models in a database: rows, and builds of them side by side."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

from eventsourcing.persistence import IntegrityError, PersistenceError

from tallybook.domain.errors import BookDamaged
from tallybook.projections.read_models import BuildRecord, Generation, Hold, ReadModel, Rows, Table, shape_of

from .database import Database, Session, damaged, definition, flaw, marks


def _built(build: Generation, table: Table) -> Table:
    return replace(table, name=table_name(table.name, build.number))


def table_name(table: str, number: int) -> str:
    """What a read model's table is called in the build of a number."""
    return f"{table}__{number}"


BUILDS = Table(
    "read_model_builds",
    (
        ("number", "integer"),
        ("name", "text"),
        ("version", "integer"),
        ("shape", "text"),
        ("tables", "text"),
        ("live", "integer"),
        ("position", "integer"),
        ("target", "integer"),
        ("muted", "integer"),
        ("mark", "blob"),
        ("failed_position", "integer"),
        ("failed_error", "text"),
        ("failed_seen", "integer"),
    ),
    ("number",),
)
_KEPT = [column for column, _ in BUILDS.columns]
NUMBER_MAX = 2**53

logger = logging.getLogger("tallybook.projections")

_TABLE_NAMES = re.compile(r"(?<!\S)[a-z_][a-z0-9_]*(?!\S)", re.IGNORECASE)
"""What `tables` holds goes into a statement that drops them: nothing else may."""


def _tables_in(tables: object, number: int) -> list[str]:
    """The names of a build's tables."""
    return [table_name(table, number) for table in _TABLE_NAMES.findall(tables if type(tables) is str else "")]


def _record(row: Sequence[Any], there: Collection[str] | None = None) -> BuildRecord:
    """What a row of a build says. One that can't be ours stands for rows that are of no use.

    `there`: the tables that the database has.
    """
    number, name, version, shape, tables, live, position, target, muted, mark, at, error, seen = row
    wrong = flaw(BUILDS, row, ("failed_position",)) or not (
        0 < number < NUMBER_MAX
        and live in (0, 1)
        and min(position, target, muted, seen) >= 0
        and (at is None or at > position)
    )
    if wrong:
        return BuildRecord(number, str(name), version, str(shape), True, 0, 0, 0, damaged=True)
    missing = [] if there is None else [one for one in _tables_in(tables, number) if one not in there]
    return BuildRecord(
        number,
        name,
        version,
        shape,
        bool(live),
        position,
        target,
        muted,
        mark,
        at,
        error,
        seen,
        damaged=bool(missing),
        missing=tuple(missing),
    )


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


class TableReadModelStore:
    """Rows of read models in tables of their own, one set for each build, and a row for each build."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._within: Session | None = None
        self.create_table()

    def create_table(self) -> None:
        """Make the table of builds if it is not there yet."""
        if self.database.has_table("read_model_builds"):
            return
        # Where another process makes it at the same moment, the first to commit wins.
        with suppress(IntegrityError), self.database.session(write=True) as session:
            session.define(
                "CREATE TABLE IF NOT EXISTS read_model_builds (number {integer} PRIMARY KEY, name {text} NOT NULL, "
                "version {integer} NOT NULL, shape {text} NOT NULL, tables {text} NOT NULL, live {integer} NOT NULL, "
                "position {integer} NOT NULL, target {integer} NOT NULL, muted {integer} NOT NULL, "
                "mark {blob} NOT NULL, "
                "failed_position {integer}, failed_error {text} NOT NULL, failed_seen {integer} NOT NULL)"
            )

    def within(self, session: Session) -> TableReadModelStore:
        """The same store, all of whose work belongs to a transaction that is under way in its database."""
        inner = copy(self)
        inner._within = session
        return inner

    def _session(self) -> AbstractContextManager[Session]:
        return self.database.session(write=True) if self._within is None else nullcontext(self._within)

    def _rows(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return (self._within or self.database).rows(statement, params)

    # ── builds ──────────────────────────────────────────────────────────────────────────────────────────────────

    def generation(self, model: ReadModel) -> Generation | None:
        """The live build of this version and shape of the model."""
        rows = self._rows(
            "SELECT number FROM read_model_builds WHERE name=? AND version=? AND shape=? AND live=1",
            (model.name, model.version, shape_of(model)),
        )
        return Generation(model, rows[0][0]) if rows else None

    def builds(self) -> list[BuildRecord]:
        """All builds, of other versions too, in the order in which they were begun."""
        # With one statement: a build that is swapped out between two would seem to lack its tables.
        asked = (
            f"SELECT {self.database.table_names}, {', '.join(_KEPT)} FROM read_model_builds "  # noqa: S608 - names of ours
            "WHERE name<>'' ORDER BY number"
        )
        try:
            rows = self._rows(asked)
        except BookDamaged:
            if self._within is not None or self.database.has_table(BUILDS.name):
                raise
            logger.warning("The table %s in %s is gone: read models are built anew.", BUILDS.name, self.database.place)
            self.create_table()
            rows = self._rows(asked)
        there = frozenset((rows[0][0] or "").split()) if rows else frozenset()
        return [_record(row, there) for _, *row in rows]

    def begin(self, model: ReadModel, head: int) -> Generation:
        """Make empty tables for a new build."""
        while True:
            try:
                with self._session() as session:
                    [(last,)] = session.rows("SELECT MAX(number) FROM read_model_builds")
                    build = Generation(model, (last or 0) + 1)
                    ownerless = self._ownerless(session, model)
                    [(before,)] = session.rows(
                        "SELECT MAX(position) FROM read_model_builds WHERE name=? AND live=1", (model.name,)
                    )
                    session.run(
                        "INSERT INTO read_model_builds VALUES (?,?,?,?,?,0,0,?,?,?,NULL,'',0)",
                        (
                            build.number,
                            model.name,
                            model.version,
                            shape_of(model),
                            " ".join(table.name for table in model.tables),
                            head,
                            head if before is None else before,
                            b"",
                        ),
                    )
                    session.run("DELETE FROM read_model_builds WHERE name='' AND number<?", (build.number,))
                    for table in ownerless:
                        session.define(f"DROP TABLE IF EXISTS {table}")
                    for built in map(partial(_built, build), model.tables):
                        for statement in definition(built):
                            session.define(statement)
                    return build
            except IntegrityError:
                continue  # another process took the number

    def _ownerless(self, session: Session, model: ReadModel) -> list[str]:
        """Tables of a read model that no row of a build speaks of: somebody deleted the row."""
        [(names,)] = session.rows(f"SELECT {self.database.table_names}")
        owned = {number for (number,) in session.rows("SELECT number FROM read_model_builds WHERE name<>''")}
        patterns = [re.compile(rf"{re.escape(table.name)}__([0-9]+)") for table in model.tables]
        found = [(name, one.fullmatch(name)) for name in (names or "").split() for one in patterns]
        return [name for name, match in found if match is not None and int(match[1]) not in owned]

    def go_live(self, build: Generation) -> int | None:
        """Swap a build in at once and drop those before it, of the same version; side effects are due after the
        position that it returns. None if the build is behind the live one, or was dropped itself."""
        model = build.model
        with self._session() as session:
            rows = session.rows(
                "SELECT number, live, position, muted FROM read_model_builds WHERE name=? AND version=? AND shape=? "  # noqa: S608 - names of ours
                "ORDER BY number" + self.database.for_update,
                (model.name, model.version, shape_of(model)),
            )
            found: dict[int, tuple[int, int, int]] = {number: (*rest,) for number, *rest in rows}
            if build.number not in found:
                return None
            _, reached, muted = found[build.number]
            live = next((number for number, (is_live, _, _) in found.items() if is_live), None)
            due_after = muted
            if live is not None:
                if live > build.number or found[live][1] > reached:
                    return None
                due_after = max(found[live][1], found[live][2])
            session.run("UPDATE read_model_builds SET live=1, muted=? WHERE number=?", (due_after, build.number))
            self._drop(session, [number for number in found if number < build.number])
            return due_after

    def drop(self, name: str, *, version: int | None = None, number: int | None = None) -> int:
        """Drop builds of a read model: all, those of a version, or one; how many there were."""
        with self._session() as session:
            of, wanted = ("name", name) if number is None else ("number", number)
            rows = session.rows(
                f"SELECT {', '.join(_KEPT)} FROM read_model_builds WHERE {of}=? "  # noqa: S608 - names of ours
                "ORDER BY number" + self.database.for_update,
                (wanted,),
            )
            found = [one for one in map(_record, rows) if one.name == name and version in (None, one.version)]
            numbers = [one.number for one in found]
            self._drop(session, numbers)
            return len(numbers)

    def _drop(self, session: Session, numbers: Sequence[int]) -> None:
        """Drop builds. The highest number stays taken, by a row without a name: no number is given twice, so that a
        part of a rebuild that outlived it can't write into another build."""
        for number in numbers:
            for (tables,) in session.rows("SELECT tables FROM read_model_builds WHERE number=?", (number,)):
                for table in _tables_in(tables, number) if number > 0 else ():
                    session.define(f"DROP TABLE IF EXISTS {table}")
            [(last,)] = session.rows("SELECT MAX(number) FROM read_model_builds")
            if number == last and 0 < number < NUMBER_MAX:
                session.run(
                    "UPDATE read_model_builds SET name='', tables='', live=0, position=-1 WHERE number=?", (number,)
                )
            else:
                session.run("DELETE FROM read_model_builds WHERE number=?", (number,))

    def tracked(self, build: Generation) -> int:
        """The position up to which a build is folded; 0 for one that was dropped."""
        lock = "" if self._within is None else self.database.for_update
        rows = self._rows("SELECT position FROM read_model_builds WHERE number=? AND name<>''" + lock, (build.number,))  # noqa: S608 - names of ours
        if rows and type(rows[0][0]) is not int:
            raise damaged(
                f"The position of build {build.number} in the table read_model_builds is none", self.database.place
            )
        return rows[0][0] if rows else 0

    def fail(self, build: Generation, position: int, error: str, seen: int) -> None:
        """Note that a build could not fold the event at a position."""
        with self._session() as session:
            session.run(
                "UPDATE read_model_builds SET failed_position=?, failed_error=?, failed_seen=? "
                "WHERE number=? AND position<?",
                (position, error, seen, build.number, position),
            )

    def hold(self, name: str) -> Hold | None:
        """Take what only one holder among all processes has."""
        return self.database.hold(name)

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────

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
        # A join, since SQLite scans the whole table for `(a, b) IN (VALUES …)`.
        same = " AND ".join(f"kept.{name}=wanted.column{place}" for place, name in enumerate(table.key, 1))
        for start in range(0, len(keys), 250):
            chunk = keys[start : start + 250]
            try:
                rows = self._rows(
                    f"SELECT kept.* FROM (VALUES {', '.join([mark] * len(chunk))}) AS wanted "  # noqa: S608 - names of ours
                    f"CROSS JOIN {_built(build, table).name} AS kept WHERE {same}",
                    [value for key in chunk for value in key],
                )
            except (PersistenceError, BookDamaged):
                if self._is_there(build):
                    raise
                break
            for row in rows:
                found[tuple(row[place] for place in places)] = row
        return found

    def _is_there(self, build: Generation) -> bool:
        return bool(self._rows("SELECT 1 FROM read_model_builds WHERE number=? AND name<>''", (build.number,)))

    def commit(self, work: Sequence[tuple[Generation, Rows, int]], position: int, mark: bytes = b"") -> bool:
        """Write rows and position of a batch, unless a build moved or was dropped meanwhile."""
        # In one order everywhere, so that two processes never wait for each other's rows.
        ordered = sorted(work, key=lambda one: one[0].number)
        with self._session() as session:
            for build, _, start in ordered:
                found = session.rows(
                    "SELECT position FROM read_model_builds WHERE number=?" + self.database.for_update,  # noqa: S608 - names of ours
                    (build.number,),
                )
                if found != [(start,)]:
                    return False
            for build, rows, _ in ordered:
                assert isinstance(rows, TableRows)
                rows.flush(session)
                session.run(
                    "UPDATE read_model_builds SET position=?, mark=?, failed_position=NULL, failed_error='' "
                    "WHERE number=?",
                    (position, mark, build.number),
                )
        return True

    def write(self, build: Generation, rows: Rows) -> bool:
        """Write a unit of work of one part of the subjects; the position stays. False if the build was dropped."""
        with self._session() as session:
            if not session.rows(
                "SELECT number FROM read_model_builds WHERE number=? AND name<>''" + self.database.for_share,  # noqa: S608 - names of ours
                (build.number,),
            ):
                return False
            assert isinstance(rows, TableRows)
            rows.flush(session)
            return True

    def select(
        self, model: ReadModel, table: Table, columns: Sequence[str], where: str = "", params: Sequence[Any] = ()
    ) -> Sequence[tuple[Any, ...]]:
        """Rows of the live build."""
        build = self.generation(model)
        while build is not None:
            statement = f"SELECT {', '.join(columns)} FROM {_built(build, table).name}"  # noqa: S608 - names of ours
            try:
                return self._rows(statement + (f" WHERE {where}" if where else ""), params)
            except (PersistenceError, BookDamaged):
                before, build = build, self.generation(model)
                if build == before:
                    raise
        return []
