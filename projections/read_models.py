"""What a read model is, and what the batch projector needs from a log and from a store."""

from __future__ import annotations

import hashlib
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
    """A fold from events to rows. The same events in the same order give the same rows, however they are batched."""

    @property
    def name(self) -> str:
        """By which it is tracked and asked for."""
        ...

    @property
    def version(self) -> int:
        """Goes up when the fold changes: the rows are then rebuilt. A changed table is noticed without it."""
        ...

    @property
    def tables(self) -> tuple[Table, ...]:
        """Where its rows live."""
        ...

    @property
    def by_subject(self) -> bool:
        """Whether no row depends on the events of two subjects, so that subjects can be folded apart, in parallel."""
        ...

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        """Fold events in order."""
        ...


def shape_of(model: ReadModel) -> str:
    """A short digest of a read model's tables: rows of another shape are not its rows."""
    return hashlib.sha256(repr(model.tables).encode()).hexdigest()[:16]


class Unreadable(NamedTuple):
    """A place in the log whose event can't be read, and why."""

    position: int
    error: Exception


class Batch(NamedTuple):
    """Events in order, and the position up to which the log was read for them."""

    events: Sequence[Recorded]
    last: int
    unreadable: Unreadable | None = None
    """What follows `last`, if that is where reading had to stop."""


class Log(Protocol):
    """The book's events, in order."""

    def read(self, after: int, limit: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """Up to `limit` events after a position. `part` (i, n): of these, those of every n-th subject only."""
        ...

    def position(self) -> int:
        """The last position."""
        ...

    def mark(self, position: int) -> bytes | None:
        """The id of the event at a position; empty if it can't be read, None if there is none."""
        ...


class Generation(NamedTuple):
    """One build of a read model's tables: the live one, or the one that a rebuild fills beside it."""

    model: ReadModel
    number: int


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """What a store keeps of a build."""

    number: int
    name: str
    version: int
    shape: str
    live: bool
    position: int
    """Up to which it is folded."""
    target: int
    """The head when it was begun: until there it is catching up."""
    muted: int
    """Up to which side effects are of the past."""
    mark: bytes = b""
    """The id of the event at the position; empty where it is not known. In another history of the log it differs."""
    failed_position: int | None = None
    failed_error: str = ""
    failed_seen: int = 0
    """How many decisions about read models were known when it failed."""
    damaged: bool = False
    """Whether it is of no use: what is kept can't be what was written, so that only the number counts, or …"""
    missing: tuple[str, ...] = ()
    """… these tables of it are not there, since somebody dropped them."""


class Hold(Protocol):
    """Something that only one holder among all processes has."""

    def alive(self) -> bool:
        """Whether it is still held: a connection that was lost takes it along."""
        ...

    def release(self) -> None:
        """Give it up."""
        ...


class ReadModelStore(Protocol):
    """Where rows and builds live."""

    def generation(self, model: ReadModel) -> Generation | None:
        """The live build of this version and shape of the model; None if there is none yet."""
        ...

    def builds(self) -> list[BuildRecord]:
        """All builds, of other versions too, in the order in which they were begun."""
        ...

    def begin(self, model: ReadModel, head: int) -> Generation:
        """Make empty tables for a new build beside the live one."""
        ...

    def go_live(self, build: Generation) -> int | None:
        """Swap a build in at once and drop those before it, of the same version; side effects are due after the
        position that it returns. None if the build is behind the live one, or was dropped itself."""
        ...

    def drop(self, name: str, *, version: int | None = None, number: int | None = None) -> int:
        """Drop builds of a read model: all, those of a version, or one; how many there were."""
        ...

    def tracked(self, build: Generation) -> int:
        """The position up to which a build is folded; 0 for one that was dropped."""
        ...

    def rows(self, build: Generation) -> Rows:
        """An empty unit of work on a build."""
        ...

    def commit(self, work: Sequence[tuple[Generation, Rows, int]], position: int, mark: bytes = b"") -> bool:
        """Write units of work, and the position up to which each is folded with its mark, in one transaction.

        Each comes with the position that it started from; False, and nothing written, if one is no longer there.
        """
        ...

    def write(self, build: Generation, rows: Rows) -> bool:
        """Write a unit of work of one part of the subjects; the position stays. False if the build was dropped."""
        ...

    def fail(self, build: Generation, position: int, error: str, seen: int) -> None:
        """Note that a build could not fold the event at a position."""
        ...

    def hold(self, name: str) -> Hold | None:
        """Take what only one holder among all processes has; None if somebody has it. It ends with the process."""
        ...

    def within(self, session: Any) -> ReadModelStore:
        """The same store, all of whose work belongs to a transaction that is under way in its database."""
        ...

    def select(
        self, model: ReadModel, table: Table, columns: Sequence[str], where: str = "", params: Sequence[Any] = ()
    ) -> Sequence[tuple[Any, ...]]:
        """Rows of the live build; `where` is SQL with ? for the params, and may end with ORDER BY and LIMIT."""
        ...


Progress = Callable[[int, int], None]
"""Called with (done, total) now and then."""
