"""SQLite, in files or in memory: connections in WAL mode with a named durability, writers one at a time."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Lock, get_ident
from types import TracebackType
from typing import Any, ClassVar, Self
from weakref import WeakSet

from tallybook.domain.errors import BookClosed, BookDamaged, BookError, BookFull, BookReadOnly, refusal
from tallybook.projections.read_models import Table

from . import limits
from .database import (
    ALTERED,
    DROP,
    SCRUB_S,
    Answer,
    KeyTaken,
    Session,
    check_format,
    damaged,
    for_reading_only,
    refused,
    unexpected,
)

DEFAULT_LOCK_TIMEOUT_S = 30
POLL_S = 0.02
"""How often a watch looks whether another process has committed."""

DIALECT: Mapping[str, str] = {"integer": "INTEGER", "text": "TEXT", "blob": "BLOB", "compact": " WITHOUT ROWID"}

_ALTERED = ("no such table", "no such column", "table ", "Could not decode to UTF-8")
"""What SQLite says of a table or column that is not there or has another shape, and the module of a text that is none:
errors of SQL have one code."""


def moved(place: str) -> BookError:
    """The error for a file that is no longer where it was opened."""
    return BookError(
        f"{place} was deleted, moved or replaced while it was open; what was being written is not in it.",
        path=place,
        remedy="Put the file back, with the `-wal` that belongs to it, and open the book again.",
    )


def translated(error: sqlite3.Error, place: str) -> Exception:
    """What Tallybook raises for an error of the sqlite3 module."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_DBMOVED:
        return moved(place)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return refusal("busy", "The book's write lock was not free in time.")
    if code == sqlite3.SQLITE_FULL:
        return limits.of_file(place) or BookFull(
            f"There is no space left for {place}; what was being written is not in it.",
            path=place,
            remedy="Make space, and try again.",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return BookReadOnly(
            f"{place} can't be written: {error}.", path=place, remedy="Check owner and mode of the file and its folder."
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return BookDamaged(
            f"{place} is damaged: {error}.",
            path=place,
            remedy="See `tallybook doctor`; restore the book from a backup.",
        )
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return limits.of_file(place) or BookError(
            f"{place} can't be read or written: {error}.",
            path=place,
            remedy="Check the disk, and that the file and its folder are still there.",
        )
    if str(error).startswith(_ALTERED):
        return damaged(f"Something of the book was dropped or altered ({error})", place, ALTERED)
    if isinstance(error, sqlite3.IntegrityError):
        return KeyTaken(str(error))
    if isinstance(error, (sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)):
        return refused(error, place)
    return unexpected(error, place)


FORKED = (
    'Start the child by "spawn" (multiprocessing.get_context("spawn"), subprocess), or fork first, and open the book '
    "in each process after that."
)


def check_same_process(pid: int, place: str) -> None:
    """Raises BookError in a process that was forked after a connection was made."""
    if pid != os.getpid():
        raise BookError(
            "The book was opened before this process was forked: SQLite's connections don't survive that.",
            path=place,
            remedy=FORKED,
        )


def check_not_inherited(path: str | Path) -> None:
    """Raises BookError in a process that was forked while its parent had the file open.

    SQLite's own table of who has locked what in which file was copied with the process: it would wait for ever for
    locks that nobody here holds, or take none where it believes to have them.
    """
    if _INHERITED and OpenFile.identity(str(path)) in _INHERITED:
        raise BookError(
            f"{path} was open when this process was forked: SQLite's locks on it don't survive that.",
            path=str(path),
            remedy=FORKED,
        )


_INHERITED: set[tuple[int, int]] = set()
"""The files that were open when this process was forked, by device and number."""


IN_THIS_PROCESS: WeakSet[SQLiteDatabase] = WeakSet()
"""All that is open."""


def _leave_to_the_parent() -> None:
    """Let a forked child never close its parent's connections, not even when it ends: it would roll back what the
    parent's threads are in the middle of writing."""
    held = [connection for one in IN_THIS_PROCESS for connection in one.held()]
    _INHERITED.update(*(one.files() for one in IN_THIS_PROCESS))
    for hold in HOLDS:
        hold.leave()
    if held:
        import ctypes

        for connection in held:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


HOLDS: WeakSet[SQLiteHold] = WeakSet()
"""What this process holds among all."""

os.register_at_fork(after_in_child=_leave_to_the_parent)


class OpenFile:
    """Tells whether a file that is open is still the one of its name: what is written to another would be lost."""

    __slots__ = ("_log", "_log_was", "_path", "_was")

    def __init__(self, path: str) -> None:
        self._path, self._log = path, f"{path}-wal"
        self._was = self.identity(path)
        self._log_was: tuple[int, int] | None = None

    def check(self) -> None:
        """Raises BookError."""
        if self.identity(self._path) != self._was:
            raise moved(self._path)

    def check_written(self) -> None:
        """The same in a writing transaction, when there is a `-wal` that stays as long as a connection is open."""
        self.check()
        log = self.identity(self._log)
        if self._log_was is None:
            self._log_was = log
        elif log != self._log_was:
            raise BookError(
                f"{self._log} was deleted, moved or replaced while it was open; what was being written is lost.",
                path=self._log,
                remedy="Close the book in each process that has it open: that brings the commits home from the `-wal`.",
            )

    @property
    def opened(self) -> tuple[int, int] | None:
        """Device and number of the file that was opened."""
        return self._was

    @staticmethod
    def identity(path: str) -> tuple[int, int] | None:
        """Device and number of the file that has a name now; None for none."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


def patiently(run: Callable[[], object], timeout_s: float) -> None:
    """Do what needs a lock, once it is free. Raises sqlite3's error when the time is over.

    SQLite's own waiting sleeps up to 100 ms at a time, so that a busy process would keep the lock from all others, and
    it does not wait at all for a change of the journal's mode. Here they look every 2 ms.
    """
    until = None
    pause_s = 0.0002
    while True:
        try:
            run()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            now = time.monotonic()
            until = until or now + timeout_s
            if now >= until:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.002)


class SQLiteAnswer:
    """The rows of a statement."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    def rows(self) -> list[tuple[Any, ...]]:
        """All of them."""
        return self._rows


class SQLiteSession:
    """One transaction. A writing one takes the write lock when it begins: a plain BEGIN that reads first and writes
    then fails at once when another writer was in between."""

    __slots__ = ("_announced", "_connection", "_cursor", "_database", "_write")

    def __init__(self, database: SQLiteDatabase, write: bool) -> None:
        self._database = database
        self._write = write
        self._announced = False

    def __enter__(self) -> Self:
        self._connection = self._database._take(write=self._write)
        try:
            self._cursor = self._connection.cursor()
            if self._write:
                self._begin_writing()
            else:
                self._cursor.execute("BEGIN")
        except BaseException as error:
            # An interruption too: the lock must not stay with a session that never began.
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            self._database._give_back(self._connection, write=self._write)
            if isinstance(error, sqlite3.Error):
                raise translated(error, self._database.place) from error
            raise
        return self

    def _begin_writing(self) -> None:
        patiently(lambda: self._cursor.execute("BEGIN IMMEDIATE"), self._database.lock_timeout_s)
        # A later release may have changed the file since it was opened; from here on, it stays as it is.
        check_format(self._cursor.execute("PRAGMA user_version").fetchone()[0], self._database.place)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._write and exc is None:
                if self._database._file is not None:
                    self._database._file.check_written()
                if self._database.journal_mode == "WAL":
                    self._cursor.execute("COMMIT")
                else:  # it waits for those who read
                    patiently(lambda: self._cursor.execute("COMMIT"), self._database.lock_timeout_s)
            else:
                self._cursor.execute("ROLLBACK")
        except (sqlite3.Error, BookError) as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            if isinstance(error, BookError):
                raise
            if exc is None:
                raise translated(error, self._database.place) from error
        finally:
            self._database._give_back(self._connection, write=self._write)
        if isinstance(exc, sqlite3.Error):
            raise translated(exc, self._database.place) from exc
        if self._announced and exc is None:
            self._database._wake()

    def rows(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and fetch all of its rows."""
        return self._cursor.execute(statement, params).fetchall()

    def ask(self, statement: str, params: Sequence[Any] = ()) -> SQLiteAnswer:
        """The same: here an answer takes no time."""
        return SQLiteAnswer(self.rows(statement, params))

    def run(self, statement: str, params: Sequence[Any] = ()) -> None:
        """Run a statement that answers nothing."""
        self._cursor.execute(statement, params)

    def insert(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows."""
        statement = self._database._inserts.get(table.name)
        if statement is None:
            marks = ",".join("?" * len(table.columns))
            statement = self._database._inserts[table.name] = f"INSERT INTO {table.name} VALUES ({marks})"  # noqa: S608 - names of ours
        if len(rows) == 1:
            self._cursor.execute(statement, rows[0])
        else:
            self._cursor.executemany(statement, rows)

    def insert_after(self, last: Answer, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows whose first column counts on from an answer."""
        for first, *_ in last.rows():
            if isinstance(first, int) and first < 2**62:  # whoever asked tells what is wrong with another answer
                self.insert(table, [(number, *row) for number, row in enumerate(rows, first + 1)])

    def upsert(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows, each in the place of the one with its key.

        In its very place: what is replaced by a deletion and an insertion makes pages merge, and SQLite leaves copies
        of rows that it moves in the unused middle of a page, where `secure_delete` never looks.
        """
        marks = ",".join("?" * len(table.columns))
        changed = [name for name, _ in table.columns if name not in table.key]
        then = f"UPDATE SET {', '.join(f'{name}=excluded.{name}' for name in changed)}" if changed else "NOTHING"
        self._cursor.executemany(
            f"INSERT INTO {table.name} VALUES ({marks}) ON CONFLICT ({', '.join(table.key)}) DO {then}",  # noqa: S608 - names of ours
            rows,
        )

    def define(self, statement: str) -> None:
        """Run a statement that defines a table or an index."""
        self._cursor.execute(statement.format_map(DIALECT))

    def announce(self, channel: str) -> None:  # noqa: ARG002 - one file has one channel
        """Wake those who watch, once this is committed."""
        self._announced = True


class SQLiteDatabase:
    """An SQLite file, or a database in memory that the connections of one process share.

    `read_only`: the file is looked at as it is. It must be there then, and with `create=False`. `secure_delete`: what
    is deleted is overwritten.
    """

    for_update = ""
    for_share = ""
    overwrites = True
    table_names = "(SELECT group_concat(name, ' ') FROM sqlite_master WHERE type='table')"
    holds = "instr(state, ?)>0"
    code_names = "(SELECT group_concat(type || ' ' || name, ', ') FROM sqlite_master WHERE type IN ('trigger', 'view'))"

    def __init__(
        self,
        name: str,
        *,
        lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S,
        synchronous: str = "FULL",
        read_only: bool = False,
        create: bool = True,
        journal_mode: str = "WAL",
        secure_delete: bool = False,
    ) -> None:
        self.name = name
        self.journal_mode = journal_mode
        self.secure_delete = secure_delete
        self.read_only = read_only
        self._create = create
        self.lock_timeout_s = lock_timeout_s
        self.synchronous = synchronous
        self.in_memory = ":memory:" in name or "mode=memory" in name
        self.commits = 0  # announced ones, of this process
        self.committed = Condition()
        self._pid = os.getpid()
        self._inserts: dict[str, str] = {}
        self._state = Condition()
        self._write_lock = Lock()  # in memory, readers take it too
        self._idle: dict[bool, list[sqlite3.Connection]] = {True: [], False: []}  # those that write, and the others
        self._users: dict[int, int] = {}  # id of a connection in use → its thread
        self._closed = False
        self._poll_lock = Lock()
        self._poll: sqlite3.Connection | None = None  # sees commits by data_version; one for all watches
        self._file: OpenFile | None = None  # known once there is a connection
        self._connected = False  # from before the first connection until after the last
        IN_THIS_PROCESS.add(self)
        # In memory, the database lives as long as a connection to it.
        self._anchor = self._connect() if self.in_memory else None

    @property
    def place(self) -> str:
        """The file."""
        return "the book in memory" if self.in_memory else self.name

    def held(self) -> Iterable[sqlite3.Connection]:
        """The connections that are not in use."""
        return [*self._idle[True], *self._idle[False], *([self._poll] if self._poll else [])]

    def files(self) -> set[tuple[int, int]]:
        """The file that a process which is forked now must not open: there are connections to it here."""
        if self.in_memory or not self._connected:
            return set()
        found = OpenFile.identity(self.name) if self._file is None else self._file.opened
        return set() if found is None else {found}

    def check_usable(self) -> None:
        """Raises BookClosed, and BookError in a process that was forked after it was opened."""
        check_same_process(self._pid, self.place)
        if self._closed:
            raise BookClosed("The book is closed.", path=self.place, remedy="Open it again.")

    def open_file(self) -> str | None:
        """The file that is open here, for whoever reads it by a connection of SQLite's own; None: it is in memory.
        Raises BookClosed; BookError where another has taken its place."""
        self.check_usable()
        if self.in_memory:
            return None
        if self._file is not None:
            self._file.check()
        return self.name

    def session(self, *, write: bool) -> SQLiteSession:
        """A transaction."""
        if write and self.read_only:
            raise for_reading_only(self.place)
        return SQLiteSession(self, write)

    def indexed_by(self, session: Session, table: str, columns: Sequence[str], made: Mapping[str, str]) -> str:
        """What has a SELECT read by the index over some columns."""
        found = ""
        for _, name, unique, origin, partial in session.rows(f"PRAGMA index_list({table})"):
            over = [column for _, _, column in session.rows(f'PRAGMA index_info("{name}")')]
            if origin == "c" and session.rows("SELECT sql FROM sqlite_master WHERE name=?", [name]) != [
                (made.get(name, "").replace("IF NOT EXISTS ", ""),)
            ]:
                raise damaged(f"The table {table} has an index {name!r}, which the book never made", self.place, DROP)
            if over == list(columns) and (origin == "c" or (unique and not partial)):
                found = f' INDEXED BY "{name}"'
        if not found:
            raise damaged(f"The table {table} has no index over {', '.join(columns)} any more", self.place)
        return found

    def rows(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT."""
        connection = self._take(write=False)
        try:
            return connection.execute(statement, params).fetchall()
        except sqlite3.Error as error:
            raise translated(error, self.place) from error
        finally:
            self._give_back(connection, write=False)

    def has_table(self, name: str) -> bool:
        """Whether there is a table of a name."""
        return bool(self.rows("SELECT 1 FROM sqlite_master WHERE type='table' AND name=?", [name]))

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection of the sqlite3 module, for what only SQLite has: backups, integrity checks."""
        connection = self._take(write=False)
        try:
            yield connection
        except sqlite3.Error as error:
            raise translated(error, self.place) from error
        finally:
            self._give_back(connection, write=False)

    def scrub(self, wait_s: float = SCRUB_S) -> bool:
        """Bring all commits into the file and empty the -wal: what was deleted is overwritten in both.

        False where somebody reads for so long that it can't be emptied. Raises BookError and its kinds.
        """
        if self.in_memory or self.read_only:
            return True
        until = time.monotonic() + min(wait_s, self.lock_timeout_s)
        while not self._emptied():
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)  # without the write lock: others go on
        return True

    def _emptied(self) -> bool:
        connection = self._take(write=True)
        try:
            return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            raise translated(error, self.place) from error
        finally:
            self._give_back(connection, write=True)

    def hold(self, name: str) -> SQLiteHold | None:
        """Take what only one holder among all processes has: the lock on an empty file beside the book."""
        self.check_usable()
        try:
            return SQLiteHold(self, name)
        except BlockingIOError:
            return None
        except OSError as error:
            raise limits.of_error(error, self.place) or BookError(
                f"{self.place}.{name}.lock can't be locked: {error.strerror or error}.",
                path=self.place,
                remedy="Check owner and mode of the folder.",
            ) from error

    def watch(self, channel: str) -> SQLiteWatch:  # noqa: ARG002 - one file has one channel
        """Watch for commits from now on."""
        self.check_usable()
        return SQLiteWatch(self)

    def in_use_here(self) -> bool:
        """Whether this thread is in the middle of using it, or can't use it any more."""
        return self._closed or self._pid != os.getpid() or get_ident() in self._users.values()

    def close(self) -> None:
        """Close all connections, once the threads that use one have given it back. Raises BookError.

        To close a connection under the thread that uses it would bring the process down.
        """
        if self._pid != os.getpid():
            return  # the parent's connections: to close them here would take its locks away
        with self._state:
            if get_ident() in self._users.values():
                raise BookError(
                    "The book can't be closed in the middle of its own work.",
                    path=self.place,
                    remedy="In a signal handler, set a flag, and close the book where nothing of it is running.",
                )
            self._closed = True
        with self.committed:
            self.committed.notify_all()  # watches end at once, not when the last statement has
        with self._state:
            while self._users:
                self._state.wait(0.05)
            idle = [*self._idle[True], *self._idle[False]]
            self._idle = {True: [], False: []}
        for connection in idle:
            connection.close()
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None
        with self._poll_lock:
            if self._poll is not None:
                self._poll.close()
                self._poll = None
        self._connected = False

    def _connect(self, *, write: bool = False) -> sqlite3.Connection:
        mode = "ro" if self.read_only else "rwc" if self._create and self._file is None else "rw"
        try:
            if not self.in_memory:
                check_not_inherited(self.name)
            self._connected = True
            if self._file is not None:
                # Before SQLite looks: it would make an empty file in the place of one that is gone, and delete the
                # commits in the -wal beside it.
                self._file.check()
            connection = sqlite3.connect(
                self.name if self.in_memory else f"{Path(self.name).absolute().as_uri()}?mode={mode}",
                uri=True,
                check_same_thread=False,
                isolation_level=None,
                timeout=self.lock_timeout_s,
            )
            try:
                if not self.in_memory and not self.read_only:
                    connection.execute(f"PRAGMA journal_mode={self.journal_mode}")
                if self.secure_delete:
                    connection.execute("PRAGMA secure_delete=ON")
                connection.execute(f"PRAGMA synchronous={self.synchronous}")
                connection.execute("PRAGMA cache_size=-65536")
                if self._file is not None:
                    self._file.check()  # it may have been exchanged meanwhile
                elif not self.in_memory:
                    self._file = OpenFile(self.name)
                if write:
                    connection.execute("PRAGMA secure_delete=ON")  # deleted look-ups are overwritten
                    connection.execute("PRAGMA busy_timeout=0")  # a session waits for the write lock itself
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise translated(error, self.place) from error
        return connection

    def _take(self, *, write: bool) -> sqlite3.Connection:
        """A connection for this thread."""
        if self._pid != os.getpid() or self._closed:
            self.check_usable()
        exclusive = write or self.in_memory
        if exclusive and not self._write_lock.acquire(timeout=self.lock_timeout_s):
            raise refusal("busy", "The book's write lock was not free in time.")
        try:
            with self._state:
                if self._closed:
                    self.check_usable()
                idle = self._idle[write]
                connection = idle.pop() if idle else None
                if connection is not None:
                    self._users[id(connection)] = get_ident()
                    return connection
            connection = self._connect(write=write)
            with self._state:
                if self._closed:
                    connection.close()
                    self.check_usable()
                self._users[id(connection)] = get_ident()
        except BaseException:
            if exclusive:
                self._write_lock.release()
            raise
        return connection

    def _give_back(self, connection: sqlite3.Connection, *, write: bool) -> None:
        with self._state:
            del self._users[id(connection)]
            if connection.in_transaction:
                connection.close()  # a ROLLBACK that failed: nothing of it may leak into the next transaction
            else:
                self._idle[write].append(connection)
            if self._closed:
                self._state.notify_all()
        if write or self.in_memory:
            self._write_lock.release()

    def _wake(self) -> None:
        with self.committed:
            self.commits += 1
            self.committed.notify_all()

    def _data_version(self) -> int:
        """Another number after each commit to the file, whoever made it. In memory, where `commits` tells all: 0."""
        if self.in_memory:
            return 0
        with self._poll_lock:
            if self._closed:
                return 0
            if self._poll is None:
                self._poll = self._connect()
            try:
                return int(self._poll.execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error as error:
                raise translated(error, self.place) from error


class SQLiteHold:
    """The kernel's lock on a file: it ends with the process that holds it, however that ends."""

    _in_memory: ClassVar[set[tuple[int, str]]] = set()

    def __init__(self, database: SQLiteDatabase, name: str) -> None:
        self._named = (id(database), name)
        self._file: int | None = None
        if database.in_memory:
            if self._named in self._in_memory:
                raise BlockingIOError
            self._in_memory.add(self._named)
            return
        self._file = os.open(f"{database.name}.{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise
        HOLDS.add(self)

    def leave(self) -> None:
        """In a forked child: the lock is the parent's, and must end with it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def alive(self) -> bool:
        """A kernel's lock is held until it is released."""
        return True

    def release(self) -> None:
        """Give it up."""
        self._in_memory.discard(self._named)
        if self._file is not None:
            os.close(self._file)
            self._file = None


class SQLiteWatch:
    """Notices commits: those of this process at once, those of others by `PRAGMA data_version`, every 20 ms."""

    def __init__(self, database: SQLiteDatabase) -> None:
        self._database = database
        self._closed = False
        self._seen = (database._data_version(), database.commits)

    def wait(self, timeout_s: float) -> bool:
        """Whether something may have been committed since the last call. Raises BookError in a forked process."""
        database = self._database
        until = time.monotonic() + timeout_s
        while True:
            if database._pid != os.getpid():
                database.check_usable()
            # Looked up before the lock is taken, and kept as it was then: what is committed from here on differs
            # from it, and is found by the next look or call.
            version = database._data_version()
            with database.committed:
                if self._closed or database._closed:
                    return False
                now = (version, database.commits)
                if now != self._seen:
                    self._seen = now
                    return True
                left = until - time.monotonic()
                if left <= 0:
                    return False
                database.committed.wait(left if database.in_memory else min(left, POLL_S))

    def close(self) -> None:
        """Stop."""
        self._closed = True
        if self._database._pid == os.getpid():  # a forked process may have inherited the lock as somebody held it
            with self._database.committed:
                self._database.committed.notify_all()
