"""What a read model is, and what the batch projector needs from a log and from a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tallybook.domain.events import Event

OPEN_END = 2**62
"""Stands for "until further notice" in a row's `to_…` columns."""


class Recorded(NamedTuple):
    """An event and its place in the book's order."""

    position: int
    event: Event


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a read model. Column types: integer, text, blob. Rows are tuples in the order of the columns."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = ()


class Rows(Protocol):
    """A read model's rows while a batch is folded: reads see earlier writes of the batch."""

    def load(self, table: Table, keys: Iterable[tuple[Any, ...]]) -> None:
        """Read many rows at once, for `get` to find."""
        ...

    def get(self, table: Table, key: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The row with a key."""
        ...

    def put(self, table: Table, key: tuple[Any, ...], row: tuple[Any, ...]) -> None:
        """Insert a row or put it in the place of the one with the same key."""
        ...


class ReadModel(Protocol):
    """A fold from events to rows. The same events in the same order give the same rows."""

    @property
    def name(self) -> str:
        """By which it is tracked and asked for."""
        ...

    @property
    def version(self) -> int:
        """Goes up when the fold or the tables change: the rows are then rebuilt."""
        ...

    @property
    def tables(self) -> tuple[Table, ...]:
        """Where its rows live."""
        ...

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        """Fold events in order."""
        ...


class Log(Protocol):
    """The book's events, in order."""

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        """Up to `limit` events after a position."""
        ...

    def position(self) -> int:
        """The last position."""
        ...


class Generation(NamedTuple):
    """One build of a read model's tables: the live one, or the one that a rebuild fills beside it."""

    model: ReadModel
    number: int


class ReadModelStore(Protocol):
    """Where rows and tracking positions live."""

    def generation(self, model: ReadModel) -> Generation | None:
        """The live build of this version of the model; None if there is none yet."""
        ...

    def begin(self, model: ReadModel) -> Generation:
        """Make empty tables for a new build beside the live one."""
        ...

    def go_live(self, build: Generation) -> bool:
        """Swap a build in at once and drop the one before. False if another process was faster."""
        ...

    def tracked(self, build: Generation) -> int:
        """The position up to which a build is folded."""
        ...

    def rows(self, build: Generation) -> Rows:
        """An empty unit of work on a build."""
        ...

    def commit(self, work: Sequence[tuple[Generation, Rows, int]], position: int) -> bool:
        """Write units of work and their tracking in one transaction.

        Each comes with the position that it started from; False, and nothing written, if one is no longer there.
        """
        ...

    def select(
        self, model: ReadModel, table: Table, columns: Sequence[str], where: str = "", params: Sequence[Any] = ()
    ) -> Sequence[tuple[Any, ...]]:
        """Rows of the live build; `where` is SQL with ? for the params, and may end with ORDER BY and LIMIT."""
        ...


Progress = Callable[[int, int], None]
"""Called with (done, total) now and then."""
