"""The part of the `sqlite3` module that Tallybook uses, on APSW: so that a file system of ours lies under its files."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self
from unittest import mock

import apsw

WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
KINDS = {
    apsw.SQLITE_INTERNAL: sqlite3.InternalError,
    apsw.SQLITE_NOTFOUND: sqlite3.InternalError,
    apsw.SQLITE_CORRUPT: sqlite3.DatabaseError,
    apsw.SQLITE_NOTADB: sqlite3.DatabaseError,
    apsw.SQLITE_TOOBIG: sqlite3.DataError,
    apsw.SQLITE_CONSTRAINT: sqlite3.IntegrityError,
    apsw.SQLITE_MISMATCH: sqlite3.IntegrityError,
    apsw.SQLITE_MISUSE: sqlite3.InterfaceError,
    apsw.SQLITE_RANGE: sqlite3.InterfaceError,
}
"""As the `sqlite3` module sorts result codes; every other one is an OperationalError."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        extended = getattr(error, "extendedresult", 0) or getattr(error, "result", 0)
        translated = KINDS.get(extended & 0xFF, sqlite3.OperationalError)(str(error))
        translated.sqlite_errorcode = extended
        translated.sqlite_errorname = str(apsw.mapping_result_codes.get(extended & 0xFF, ""))
        raise translated from error


class Cursor:
    """A cursor that fetches all rows when it executes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: Iterator[tuple[Any, ...]] = iter(())

    def execute(self, statement: str, params: Sequence[Any] = ()) -> Self:
        raw = self._connection.raw
        with _translated():
            if (
                self._connection.isolation_level is not None
                and not raw.in_transaction
                and statement.lstrip()[:7].upper().startswith(WRITES)
            ):
                raw.execute("BEGIN")
            self._rows = iter(raw.execute(statement, tuple(params)).fetchall())
        return self

    def executemany(self, statement: str, params: Iterable[Sequence[Any]]) -> Self:
        with _translated():
            self._connection.raw.executemany(statement, [tuple(one) for one in params])
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows


class Connection:
    """A connection on a file system of ours."""

    def __init__(self, name: str, vfs: str, uri: bool, isolation_level: str | None, timeout: float) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | (apsw.SQLITE_OPEN_URI if uri else 0)
        self.isolation_level = isolation_level
        with _translated():
            self.raw = apsw.Connection(name, flags=flags, vfs=vfs)
            self.raw.set_busy_timeout(int(timeout * 1000))

    @property
    def in_transaction(self) -> bool:
        return self.raw.in_transaction

    def cursor(self) -> Cursor:
        return Cursor(self)

    def execute(self, statement: str, params: Sequence[Any] = ()) -> Cursor:
        return Cursor(self).execute(statement, params)

    def executemany(self, statement: str, params: Iterable[Sequence[Any]]) -> Cursor:
        return Cursor(self).executemany(statement, params)

    def backup(self, target: Connection, *, pages: int = -1, **_: object) -> None:
        with _translated(), target.raw.backup("main", self.raw, "main") as copying:
            while not copying.done:
                copying.step(pages)

    def commit(self) -> None:
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        # APSW tells of a failure of the file system while closing; SQLite has no use for it, and `sqlite3` is silent.
        with suppress(apsw.Error):
            self.raw.close(True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        if exc is None:
            self.commit()
        else:
            with suppress(sqlite3.Error):
                self.rollback()


def connecting(vfs: str) -> Callable[..., Connection]:
    """What stands for `sqlite3.connect` while a file system is in use."""

    def connect(
        database: str | os.PathLike[str],
        timeout: float = 5.0,
        isolation_level: str | None = "DEFERRED",
        check_same_thread: bool = True,
        uri: bool = False,
    ) -> Connection:
        return Connection(os.fspath(database), vfs, uri, isolation_level, timeout)

    return connect


@contextmanager
def on(vfs: str) -> Iterator[None]:
    """Let every connection that is made within lie on a file system by its name."""
    with mock.patch.object(sqlite3, "connect", connecting(vfs)):
        yield
