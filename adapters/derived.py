"""Whether the rows of read models are what the log gives: folded again, into a file of their own, and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventsourcing.persistence import PersistenceError

from tallybook.domain.errors import TallybookError, refusal
from tallybook.projections.projector import Projector
from tallybook.projections.read_models import Generation, ReadModel, Table

from .read_models import TableReadModelStore
from .sqlite import SQLiteDatabase

PAGE = 2_000
TRIES = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found in the live rows of a read model. `problem` names the first thing wrong; None: all is well.

    `position`: up to where the log is folded into them; `rows`: how many they are.
    """

    name: str
    position: int
    rows: int
    problem: str | None

    @property
    def holds(self) -> bool:
        """Whether the rows are what the log gives."""
        return self.problem is None


def compare_read_models(projector: Projector, store: TableReadModelStore) -> list[Comparison]:
    """Compare all read models that have rows. Refuses: busy, where they go on all the while."""
    with tempfile.TemporaryDirectory(prefix="tallybook-") as folder:
        return [
            found
            for number, model in enumerate(projector.models)
            if (found := _compared(projector, store, model, Path(folder) / f"{number}")) is not None
        ]


def _compared(projector: Projector, store: TableReadModelStore, model: ReadModel, scratch: Path) -> Comparison | None:
    for attempt in range(TRIES):
        build = store.generation(model)
        if build is None:
            return None
        position = store.tracked(build)
        database = SQLiteDatabase(f"{scratch}-{attempt}")
        try:
            again = TableReadModelStore(database)
            twin = again.begin(model, position)
            problem, rows = None, 0
            try:
                Projector(projector.log, again, [model], projector.operations).fold_part(
                    [(model.name, twin.number)], position, (0, 1)
                )
                for table in model.tables:
                    count, problem = _difference(store, build, again, twin, table)
                    rows += count
                    if problem is not None:
                        break
            except (TallybookError, PersistenceError, TypeError, ValueError) as error:
                problem = f"its rows can't be compared: {error}"
        finally:
            database.close()
        if store.generation(model) == build and store.tracked(build) == position:
            return Comparison(model.name, position, rows, problem)
    raise refusal("busy", f"The read model {model.name} went on while its rows were compared, {TRIES} times.")


def _difference(
    store: TableReadModelStore, build: Generation, again: TableReadModelStore, twin: Generation, table: Table
) -> tuple[int, str | None]:
    """How many rows a table has, and the first that is not what the log gives."""
    count = 0
    names = [name for name, _ in table.columns]
    places = [names.index(name) for name in table.key]
    for rows in _pages(store, build, table, places):
        keys = [tuple([row[place] for place in places]) for row in rows]
        wanted = again.rows_of(twin, table, keys)
        for key, row in zip(keys, rows, strict=True):
            right = wanted[key]
            if right is None or [*map(_typed, row)] != [*map(_typed, right)]:
                told = "the log gives none such" if right is None else "the log gives another"
                return count, f"{table.name}, row {_shown(key)}: {told}"
        count += len(rows)
    expected = again.count(twin, table)
    return count, None if count == expected else f"{table.name} has {count:,} rows, and the log gives {expected:,}"


def _pages(
    store: TableReadModelStore, build: Generation, table: Table, places: Sequence[int]
) -> Iterator[Sequence[tuple[Any, ...]]]:
    after: tuple[Any, ...] | None = None
    while rows := store.page(build, table, after, PAGE):
        yield rows
        if len(rows) < PAGE:
            return
        after = tuple([rows[-1][place] for place in places])


def _typed(value: object) -> tuple[type, object]:
    return type(value), value


def _shown(key: Sequence[object]) -> str:
    return ", ".join(one.hex() if isinstance(one, bytes) else str(one) for one in key)


__all__ = ["Comparison", "compare_read_models"]
