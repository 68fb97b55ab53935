"""What the stores need of a database, whichever it is: one small session, in the SQL that SQLite and PostgreSQL share.

Statements are written once, with `?` for values and `{integer}`, `{text}`, `{blob}`, `{compact}` for what differs in
a table's definition. Nothing outside of `sqlite.py` and `postgres.py` knows which database it talks to, and each of
the two turns its driver's errors into Tallybook's in one place:

    KeyTaken (an IntegrityError)     a row is there already; the command is tried again
    refusal("busy")                  a lock was not free in time, or the server broke a statement off
    StatementRefused (a DataError)   a value or a row that the database does not take: nothing is wrong with the book
    BookError and its kinds          the disk is full, the file read-only or damaged, the server gone
    DatabaseFailed (a BookError)     anything else

All of them are Tallybook's, whatever else they are: no public method raises another's error because of the database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from eventsourcing.persistence import DataError, IntegrityError, OperationalError

from tallybook.domain.errors import BookDamaged, BookError, BookReadOnly, NewerBook, TallybookError
from tallybook.projections.read_models import Hold, Table

FORMAT = 1
"""Newest layout of a book's files and tables that this release knows."""

NOTES = Table("book", (("name", "text"), ("value", "text")), ("name",))
"""What a log's database notes of itself: its origin, and where its read models live, if not beside it."""

ALTERED = (
    "See what `tallybook doctor` finds: read models and snapshots are made anew when the book is opened again, "
    "all else is to be restored from a backup."
)
DROP = (
    "Find out who made it and what it did, then drop it. See what `tallybook doctor` finds; open the book again then."
)
EXAMINE = "See what `tallybook doctor` finds; restore the book from a backup."

SCRUB_S = 1.0
"""How long the overwriting of what was deleted waits for those who read."""

_TYPES: Mapping[str, type] = {"integer": int, "text": str, "blob": bytes}


class KeyTaken(TallybookError, IntegrityError):
    """A key is there already, or a constraint of a table forbids a row."""


class StatementRefused(TallybookError, DataError):
    """A database does not take a statement for what it says or holds, and would not take it another time."""


class DatabaseFailed(BookError, OperationalError):
    """A database did not do what was asked, for a reason of its own."""


class Answer(Protocol):
    """What a statement that was asked answers."""

    def rows(self) -> list[tuple[Any, ...]]:
        """All of its rows, once they are here."""
        ...


class Session(Protocol):
    """The statements of one transaction."""

    def rows(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and fetch all of its rows."""
        ...

    def ask(self, statement: str, params: Sequence[Any] = ()) -> Answer:
        """The same, but what follows may be sent before the rows are here."""
        ...

    def run(self, statement: str, params: Sequence[Any] = ()) -> None:
        """Run a statement that answers nothing. It may be sent together with what follows."""
        ...

    def insert(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows. IntegrityError, now or at the commit, if a key is there."""
        ...

    def insert_after(self, last: Answer, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows without their first column: it counts on from the first value of an answer's only row.

        That statement has no values of its own. IntegrityError, now or later, if a key is there.
        """
        ...

    def upsert(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows, each in the place of the one with its key. No key may stand twice among them."""
        ...

    def define(self, statement: str) -> None:
        """Run a statement that defines a table or an index."""
        ...

    def announce(self, channel: str) -> None:
        """Wake those who watch a channel, here and in other processes, once this is committed."""
        ...


class Watch(Protocol):
    """Waits for commits that announce a channel."""

    def wait(self, timeout_s: float) -> bool:
        """Whether something may have been committed since the last call; False when the time is over, or after close.

        A commit that falls between two calls counts for the second.
        """
        ...

    def close(self) -> None:
        """Stop; a thread that is waiting returns at once."""
        ...


class Database(Protocol):
    """A database that a book's log, reads or read models live in. Threads may share it."""

    @property
    def place(self) -> str:
        """Where it is, for messages. Never with a password."""
        ...

    @property
    def for_update(self) -> str:
        """What a SELECT ends with to lock the rows that it reads, where a writing session has not locked all."""
        ...

    @property
    def for_share(self) -> str:
        """The same, to keep others from changing or deleting the rows."""
        ...

    @property
    def table_names(self) -> str:
        """An expression in SQL: the names of all tables, with spaces between them; NULL where there are none."""
        ...

    @property
    def holds(self) -> str:
        """A condition in SQL: that the bytes of the column `state` hold the bytes that are given."""
        ...

    @property
    def code_names(self) -> str:
        """An expression in SQL: what acts by itself in it, or stands for a table (triggers, views, rules; on a server,
        functions, constraints, defaults and what else has one called), with commas between them; NULL where there is
        nothing of that. A book makes none.
        """
        ...

    def session(self, *, write: bool) -> AbstractContextManager[Session]:
        """A transaction: committed at the end of a block that writes, rolled back at an exception."""
        ...

    def indexed_by(self, session: Session, table: str, columns: Sequence[str], made: Mapping[str, str]) -> str:
        """What follows a table's name in a SELECT that looks up some columns, by its index over them and by nothing
        else. It counts for one session. Raises BookDamaged, where there is no such index, or where the table has one
        beyond its keys and those that the book `made` (name → statement): what is read by that may be another.
        """
        ...

    def rows(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT, as of one moment."""
        ...

    def has_table(self, name: str) -> bool:
        """Whether there is a table of a name."""
        ...

    def watch(self, channel: str) -> Watch:
        """Watch a channel from now on."""
        ...

    @property
    def overwrites(self) -> bool:
        """Whether what is deleted can be overwritten. A server keeps it in its pages, its log and its backups."""
        ...

    def scrub(self, wait_s: float = SCRUB_S) -> bool:
        """Overwrite what was deleted, in journals too. False where its bytes may still lie somewhere.

        Waits for those who read, but no longer than for a lock.
        """
        ...

    def hold(self, name: str) -> Hold | None:
        """Take what only one holder among all processes has; None if somebody has it. It ends with the process."""
        ...

    def check_usable(self) -> None:
        """Raises BookClosed, and BookError in a process that was forked after it was opened."""
        ...

    def in_use_here(self) -> bool:
        """Whether this thread is in the middle of using it, or can't use it any more."""
        ...

    def close(self) -> None:
        """Release connections, once the threads that use one have given it back. Raises BookError in one of them."""
        ...


def definition(table: Table, *, temporary: str = "") -> list[str]:
    """Statements that make a read model's table with its indexes."""
    name = table.name + temporary
    columns = ", ".join(f"{column} {{{kind}}}" for column, kind in table.columns)
    integer_key = len(table.key) == 1 and dict(table.columns)[table.key[0]] == "integer"
    return [
        f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({', '.join(table.key)}))" + ("" if integer_key else "{compact}"),
        *(
            f"CREATE INDEX {name}__{index} ON {name} ({', '.join(indexed)})"
            for index, indexed in enumerate(table.indexes)
        ),
    ]


def damaged(what: str, place: str, remedy: str = EXAMINE) -> BookDamaged:
    """The error for something in a database that Tallybook did not write so."""
    return BookDamaged(f"{what} in {place}.", path=place, remedy=remedy)


def for_reading_only(place: str) -> BookReadOnly:
    """The error for writing where a database was opened to be read."""
    return BookReadOnly(
        f"{place} was opened to be read only, as a book without its data keys is.",
        path=place,
        remedy="Open the book with its keys.",
    )


def refused(said: object, place: str) -> StatementRefused:
    """The error for what a database does not take."""
    return StatementRefused(f"{place} does not take what was to be read or written: {said}.")


def unexpected(said: object, place: str) -> DatabaseFailed:
    """The error for what nothing more is known of than the database's own words."""
    return DatabaseFailed(
        f"{place} did not do what was asked: {said}.",
        path=place,
        remedy="Nothing of it is in the book. Try again; if it stays so, see what `tallybook doctor` finds.",
    )


def flaw(table: Table, row: Sequence[Any], nullable: Collection[str] = ()) -> str | None:
    """What is wrong with a row of all columns: a value that is not of its column's type. None: nothing.

    SQLite keeps any value in any column, and whoever can alter a table can lift its constraints.
    """
    if len(row) != len(table.columns):
        return f"the table {table.name} has {len(row)} columns, not {len(table.columns)}"
    for value, (column, kind) in zip(row, table.columns, strict=True):
        if type(value) is not _TYPES[kind] and not (value is None and column in nullable):
            shown = "nothing" if value is None else f"a value of type {type(value).__name__}"
            return f"{shown} stands in the column {column} of the table {table.name}"
    return None


def sound(table: Table, rows: Sequence[Any], place: str) -> Sequence[Any]:
    """Rows of all columns of a table, as they were read. Raises BookDamaged where one can't be Tallybook's."""
    for row in rows:
        wrong = flaw(table, row)
        if wrong:
            raise damaged(wrong[0].upper() + wrong[1:], place)
    return rows


def onward(last: Any, before: Any, place: str) -> Any:
    """Where a reading that goes page by page, in the order of a key, goes on. Raises BookDamaged where that is no
    further on than before: pages of a file that stand in each other's place would be read in a circle for ever.
    """
    if not last > before:
        raise damaged("Rows do not stand in the order of their keys", place)
    return last


def check_format(found: int, place: str) -> None:
    """Raises NewerBook for a layout that a later release has made."""
    if found > FORMAT:
        raise NewerBook(
            f"{place} has format {found}; this release reads up to {FORMAT}.", path=place, remedy="Upgrade Tallybook."
        )


def marks(count: int) -> str:
    """`?,?,?` for an IN list."""
    return ",".join("?" * count)


def planted(database: Database) -> str | None:
    """What acts by itself in a database of a book's, or stands for a table; None: nothing does, as the book made it."""
    rows = database.rows(f"SELECT {database.code_names}")
    return str(rows[0][0]) if rows and rows[0][0] else None


def check_planted(databases: Iterable[Database]) -> None:
    """Raises BookDamaged where triggers, views or rules are among a book's tables: what it writes or reads may be
    something else then."""
    for database in databases:
        found = planted(database)
        if found is not None:
            raise damaged(
                f"There is a {found} among the book's tables, which the book never made", database.place, DROP
            )
