"""Rows of a log in an SQLite file, taken through SQLite's own C interface.

The sqlite3 module makes objects of each row, under Python's lock; here machine code steps from row to row, and copies
what stands there. So several threads read at once, each by a connection of its own that only reads. Where it can't be
done so (a log in memory, an SQLite whose functions can't be reached, rows that are not as they should be), nothing is
told, and the log is asked for its rows.
"""

from __future__ import annotations

import ctypes
import logging
import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from . import decoding
from .columns import ROW_NUMBERS

if TYPE_CHECKING:
    from .building import Texts
    from .replay_columns import Log

Array = npt.NDArray[Any]
SQLITE_OK = 0
READ_ONLY, BY_URI, ONE_THREAD = 0x1, 0x40, 0x8000
BYTES_A_ROW = 512
"""So much room is made for a state at first."""
_FUNCTIONS = ("step", "column_int64", "column_blob", "column_bytes")
"""What machine code calls, in the order in which `decoding.take` expects them."""

logger = logging.getLogger("tallybook.archive")


class SQLiteRows:
    """The rows of a log, slice by slice, for several threads."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._idle: SimpleQueue[_Connection] = SimpleQueue()
        self._usable = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def take(self, after: int, stop: int, names: Texts) -> tuple[Array, Array, Array] | None:
        """The rows after a position up to another: what is known of each (see `columns.ROW_NUMBERS`), where each one's
        state ends, and the states; None where the log has to be asked. `names`: the numbers of stored names. Raises
        BookClosed, BookError."""
        connection = self._connection()
        if connection is None:
            return None
        try:
            return connection.take(after, stop, names)
        finally:
            self._idle.put(connection)

    def _connection(self) -> _Connection | None:
        try:
            return self._idle.get_nowait()
        except Empty:
            pass
        file: Callable[[], str | None] = getattr(self._log.database, "open_file", lambda: None)
        place = file() if self._usable else None
        library = None if place is None else _library()
        if place is None or library is None:
            self._usable = False
            return None
        try:
            made = _Connection(library, place, self._log)
        except _Refused as error:
            logger.info("%s is read by way of Python: %s", place, error)
            self._usable = False
            return None
        try:
            file()  # it may have been exchanged meanwhile
        except BaseException:
            made.close()
            raise
        return made


class _Refused(Exception):
    """SQLite doesn't do it."""


class _Connection:
    """A connection that reads, with the one statement that it runs; for one thread at a time."""

    def __init__(self, library: ctypes.CDLL, place: str, log: Any) -> None:
        self._library = library
        self._database, self._statement = ctypes.c_void_p(), ctypes.c_void_p()
        self._functions = np.array([_address(library, name) for name in _FUNCTIONS], np.int64)
        uri = f"{Path(place).absolute().as_uri()}?mode=ro".encode()
        columns = "position, originator_version, originator_id, topic, state"
        where = "position>?1 AND position<=?2 ORDER BY position"
        statement = f"SELECT {columns} FROM {log.table.name} NOT INDEXED WHERE {where}".encode()  # noqa: S608 - names of ours
        try:
            self._do("open_v2", uri, ctypes.byref(self._database), READ_ONLY | BY_URI | ONE_THREAD, None)
            self._do("busy_timeout", self._database, round(log.database.lock_timeout_s * 1000))
            self._do("prepare_v2", self._database, statement, -1, ctypes.byref(self._statement), None)
        except _Refused:
            self.close()
            raise

    def _do(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, f"sqlite3_{name}")(*arguments)
        if code != SQLITE_OK:
            raise _Refused(f"sqlite3_{name} gives {code}")

    def close(self) -> None:
        """Let go of the file."""
        self._library.sqlite3_finalize(self._statement)
        self._library.sqlite3_close_v2(self._database)

    def take(self, after: int, stop: int, names: Texts) -> tuple[Array, Array, Array] | None:
        """The rows after a position up to another; None where they are not so."""
        count = stop - after
        rows, ends = np.zeros((count, ROW_NUMBERS), np.uint64), np.zeros(count, np.int64)
        data = np.empty(count * BYTES_A_ROW, np.uint8)
        try:
            for place, bound in enumerate((after, stop), 1):
                self._do("bind_int64", self._statement, place, ctypes.c_int64(bound))
            statement = self._statement.value
            known, code = decoding.take(self._functions, statement, after, 0, False, rows, ends, data, *names.table)
            while code == decoding.NO_ROOM:
                data = np.concatenate([data, np.empty(max(len(data), int(ends[known])), np.uint8)])
                known, code = decoding.take(
                    self._functions, statement, after, known, True, rows, ends, data, *names.table
                )
        except _Refused:
            return None
        finally:
            self._library.sqlite3_reset(self._statement)
        return (rows, ends, data[: ends[-1]]) if code == decoding.FINE else None


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, f"sqlite3_{name}"), ctypes.c_void_p).value or 0


@cache
def _library() -> ctypes.CDLL | None:
    """SQLite's functions, as the sqlite3 module calls them; None where they can't be reached.

    Never those of another copy of SQLite: of two in one process, the one that closes a file drops the locks that the
    other holds on it.
    """
    try:
        import _sqlite3

        library = ctypes.CDLL(_sqlite3.__file__)
        used = library.sqlite3_memory_used
        used.restype = ctypes.c_int64
        for name in ("step", "finalize", "close_v2", "reset", "bind_int64", "open_v2", "busy_timeout", "prepare_v2"):
            getattr(library, f"sqlite3_{name}")
        before = used()
        connection = sqlite3.connect(":memory:")
        try:
            same = used() > before
        finally:
            connection.close()
    except (ImportError, OSError, AttributeError):
        return None
    return library if same else None
