"""Whether the rows of read models are what the log gives: folded anew, aside, and compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from sqlite3 import Connection
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from eventsourcing.persistence import PersistenceError

from tallybook.domain.errors import BookDamaged, BookError, Refused, StoredFormError
from tallybook.domain.operations import Operations
from tallybook.projections.projector import DIVERGED, Projector, Status
from tallybook.projections.read_models import BuildRecord, Log, Progress, ReadModel, Table, shape_of

from .database import Session, flaw
from .read_models import TableReadModelStore, table_name
from .sqlite import SQLiteDatabase

MISSING, EXTRA, OTHER = "missing", "extra", "other"
CHUNK = 5000
"""How many rows are copied at a time."""
ATTEMPTS = 5
"""How often rows are looked for that a rebuild swaps meanwhile."""


@dataclass(frozen=True, slots=True)
class RowDifference:
    """A row that is not what the log gives. `difference`: missing, extra, or other (some `columns` are)."""

    table: str
    key: str
    difference: str
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = f"{self.difference} ({', '.join(self.columns)})" if self.columns else self.difference
        return f"{self.table} {self.key}: {told}"


@dataclass(frozen=True, slots=True)
class ReadModelVerification:
    """What was found in the rows of a read model, as of the `position` up to which they are folded.

    `problem` tells what is wrong, None: nothing. `first` is the first row that differs, in the order of the tables and
    their keys; `differing` counts all of them, `rows` those that were compared. `state` is that of
    `projections.status`: one that is stopped, or behind the `head`, is compared as of where it stands.
    """

    read_model: str
    state: str
    position: int
    head: int
    rows: int = 0
    problem: str | None = None
    first: RowDifference | None = None
    differing: int = 0

    @property
    def holds(self) -> bool:
        """Whether its rows are those that the log gives."""
        return self.problem is None

    @property
    def behind(self) -> int:
        """Events that it has not folded yet."""
        return self.head - self.position


@dataclass(slots=True)
class _Copy:
    """The rows of a read model as of a position. `odd`: of each table, how many rows could not be copied by key."""

    model: ReadModel
    position: int
    odd: dict[str, int] = field(default_factory=dict)


UNREADABLE = (PersistenceError, BookDamaged, StoredFormError, TypeError, ValueError, AttributeError)
"""What reading altered rows may raise."""


class _Unsound(Exception):
    """What is live of a read model can't be looked at; why."""


def verify_rows(
    projector: Projector,
    store: TableReadModelStore,
    log: Log,
    operations: Callable[[], Operations],
    progress: Progress | None = None,
) -> list[ReadModelVerification]:
    """Fold each read model anew from the log, in a file of its own, and compare that with its live rows.

    They are copied as of one moment, so that writers and projectors go on. Nothing is written to the book. The file
    lies in the system's folder for temporary files, is about twice as large as the rows, and holds no personal value.
    """
    try:
        statuses = projector.status()[: len(projector.models)]
    except UNREADABLE as error:
        told = f"how it stands can't be told: {error}"
        return [ReadModelVerification(model.name, "unknown", 0, 0, problem=told) for model in projector.models]
    found: dict[str, ReadModelVerification] = {}
    with TemporaryDirectory(prefix="tallybook-") as folder:
        aside = SQLiteDatabase(str(Path(folder, "rows.db")), synchronous="OFF")
        try:
            copies: list[_Copy] = []
            for model, status in zip(projector.models, statuses, strict=True):
                one = ReadModelVerification(model.name, status.state, status.position, status.head)
                try:
                    copied = _copied(store, aside, model, status)
                except (_Unsound, *UNREADABLE) as error:
                    one = replace(one, problem=f"its rows can't be compared: {error}")
                else:
                    if copied is not None:
                        copies.append(copied)
                found[model.name] = one
            folded = _folded(projector, aside, log, operations, copies, progress)
            for copied in copies:
                name = copied.model.name
                one = replace(found[name], position=copied.position, head=max(found[name].head, copied.position))
                built = folded[name]
                if isinstance(built, str):
                    found[name] = replace(one, problem=built)
                else:
                    with aside.connection() as connection:
                        found[name] = _compared(connection, one, copied, built)
        finally:
            aside.close()
    return list(found.values())


# ── the live rows ───────────────────────────────────────────────────────────────────────────────────────────────────


def _copied(store: TableReadModelStore, aside: SQLiteDatabase, model: ReadModel, status: Status) -> _Copy | None:
    """Copy the live rows of a read model; None where it has none: it is new, or retired. Raises _Unsound."""
    before = number = None
    for attempt in range(ATTEMPTS):
        try:
            with store.database.session(write=False) as session:
                record = _live(store.within(session), model)
                if record is None:
                    return None
                if record.missing:
                    raise _Unsound(f"the table {', '.join(record.missing)} is gone; the next catch-up builds it anew")
                if record.damaged:
                    raise _Unsound("what is kept of its build is damaged; the next catch-up builds it anew")
                if status.state == DIVERGED:
                    raise _Unsound("they come from another history of the log; the next catch-up builds them anew")
                before, number = number, record.number
                copied = _Copy(model, record.position)
                for table in model.tables:
                    copied.odd[table.name] = _copy(session, aside, table, record.number)
                return copied
        except (PersistenceError, BookDamaged):
            # On a server, a rebuild may swap a build out between two statements: then there is another one.
            if before == number and attempt:
                raise
    raise _Unsound("they were built anew each time they were looked at")


def _live(store: TableReadModelStore, model: ReadModel) -> BuildRecord | None:
    wanted = (model.name, model.version, shape_of(model))
    return next((one for one in store.builds() if one.live and (one.name, one.version, one.shape) == wanted), None)


def _copy(session: Session, aside: SQLiteDatabase, table: Table, number: int) -> int:
    """Copy a table's rows in the order of their keys; how many there are of which the key is none, or stands twice."""
    columns = ", ".join(name for name, _ in table.columns)
    key = ", ".join(table.key)
    places = [[name for name, _ in table.columns].index(name) for name in table.key]
    live, copy = table_name(table.name, number), _copy_of(table)
    with aside.session(write=True) as copying:
        copying.run(f"DROP TABLE IF EXISTS {copy}")
        copying.run(f"CREATE TABLE {copy} ({columns})")  # without types: they would change values that are none
    statement = f"SELECT {columns} FROM {live} "  # noqa: S608 - names of ours
    order = f"ORDER BY {key} LIMIT {CHUNK}"
    marks = ", ".join("?" * len(table.key))
    copied = 0
    seen: set[tuple[Any, ...]] = set()
    rows = session.rows(statement + order)
    while rows:
        with aside.session(write=True) as copying:
            copying.insert(replace(table, name=copy), rows)
        copied += len(rows)
        last = tuple(rows[-1][place] for place in places)
        if last in seen:  # keys may be of any kind, so that they have no order
            raise _Unsound(f"the rows of {live} do not stand in the order of their keys")
        seen.add(last)
        rows = session.rows(f"{statement}WHERE ({key}) > ({marks}) {order}", last)
    [(count,)] = session.rows(f"SELECT COUNT(*) FROM {live}")  # noqa: S608 - names of ours
    return int(count) - copied


def _copy_of(table: Table) -> str:
    return f"{table.name}__live"


# ── the same from the log ───────────────────────────────────────────────────────────────────────────────────────────


def _folded(
    projector: Projector,
    aside: SQLiteDatabase,
    log: Log,
    operations: Callable[[], Operations],
    copies: Sequence[_Copy],
    progress: Progress | None,
) -> dict[str, int | str]:
    """Fold read models anew, each up to where its copy stands: the numbers of their builds, or what kept one from it.

    The log is read once for all of them.
    """
    store = TableReadModelStore(aside)
    anew = Projector(log, store, projector.models, operations)
    builds = {one.model.name: store.begin(one.model, one.position).number for one in copies}
    after = 0
    try:
        for stop in sorted({one.position for one in copies}):
            due = [(one.model.name, builds[one.model.name]) for one in copies if one.position >= stop]
            anew.fold_part(due, stop, after=after, progress=progress)
            after = stop
    except Exception as error:  # whatever a fold raises concerns that read model alone
        if isinstance(error, BookError | Refused | MemoryError) and not isinstance(error, BookDamaged):
            raise
        if len(copies) > 1:
            return {
                name: built
                for one in copies
                for name, built in _folded(projector, aside, log, operations, [one], None).items()
            }
        return {one.model.name: f"its rows can't be folded anew: {type(error).__name__}: {error}" for one in copies}
    return dict(builds)


def _compared(connection: Connection, one: ReadModelVerification, copied: _Copy, number: int) -> ReadModelVerification:
    """Compare a copy with the rows that the log gives, both in the order of their keys."""
    differing, rows, first = 0, 0, None
    for table in copied.model.tables:
        for difference in _differences(connection, table, number, copied.odd[table.name]):
            if difference is None:
                rows += 1
                continue
            differing += 1
            first = first or difference
    problem = None
    if first is not None:
        problem = f"{differing:,} of its rows differ from what the log gives; the first: {first}"
    return replace(one, rows=rows + differing, problem=problem, first=first, differing=differing)


def _differences(connection: Connection, table: Table, number: int, odd: int) -> Iterator[RowDifference | None]:
    """What differs, row by row; None for a row that does not."""
    names = [name for name, _ in table.columns]
    places = [names.index(name) for name in table.key]
    columns, key = ", ".join(names), ", ".join(table.key)
    wanted = connection.execute(f"SELECT {columns} FROM {table_name(table.name, number)} ORDER BY {key}")  # noqa: S608 - names of ours
    held = connection.execute(f"SELECT {columns} FROM {_copy_of(table)} ORDER BY {key}")  # noqa: S608 - names of ours
    ours: Any = wanted.fetchone()
    live: Any = held.fetchone()
    while ours is not None or live is not None:
        if live is not None and ours == live and flaw(table, live) is None:
            ours, live = wanted.fetchone(), held.fetchone()
            yield None
            continue
        our_place: Any = None if ours is None else _order([ours[place] for place in places])
        live_place: Any = None if live is None else _order([live[place] for place in places])
        if ours is not None and (live is None or our_place < live_place):
            yield RowDifference(table.name, _shown([ours[place] for place in places]), MISSING)
            ours = wanted.fetchone()
        elif live is not None and (ours is None or live_place < our_place):
            yield RowDifference(table.name, _shown([live[place] for place in places]), EXTRA)
            live = held.fetchone()
        elif ours is not None and live is not None:
            differ = [
                name
                for name, left, right in zip(names, ours, live, strict=True)
                if left != right or type(left) is not type(right)
            ]
            yield RowDifference(table.name, _shown([ours[place] for place in places]), OTHER, tuple(differ))
            ours, live = wanted.fetchone(), held.fetchone()
    for _ in range(odd):
        yield RowDifference(table.name, "(no key, or one that stands twice)", EXTRA)


_RANKS = {type(None): 0, int: 1, float: 1, str: 2, bytes: 3}


def _order(key: Sequence[Any]) -> list[tuple[int, Any]]:
    """What sorts keys as SQLite does, whatever somebody put into them."""
    return [(_RANKS[type(value)], 0 if value is None else value) for value in key]


def _shown(key: Sequence[Any]) -> str:
    return ", ".join(map(_part_shown, key))


def _part_shown(value: object) -> str:
    if isinstance(value, bytes):
        return str(UUID(bytes=value)) if len(value) == 16 else f"x'{value.hex()}'"
    return str(value)
