"""Where a book lies: three files side by side, or memory. Opening checks each before it touches it.

shop.book         the log with its head, claims, receipts, and the read models
shop.book.keys    the subjects' data keys (mode 0600; back it up apart, and for a short time)
shop.book.reads   the log of reads of personal data
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tallybook.domain.errors import BookError, BookNotFound, KeysMissing, ReadsMissing

from .database import Database
from .files import FORMAT, check_writable, is_ours
from .keys import FileKeyStore, KeyStore, MemoryKeyStore
from .log import LogRecorder
from .sqlite import DEFAULT_LOCK_TIMEOUT_S, DIALECT, SQLiteDatabase, translated

APPLICATION_ID = 0x7A11B00C
READS_APPLICATION_ID = 0x7A11B00D
READS_TABLE = "access_records"


@dataclass(frozen=True, slots=True)
class Storage:
    """The open parts of a book."""

    url: str
    origin: str
    events: Database
    reads: Database
    models: Database
    keys: KeyStore
    options: Mapping[str, Any] | None = None
    """What `open_storage` needs to open it in another process; None for a book that only this process has."""

    def close(self) -> None:
        """Release all files and connections."""
        for database in dict.fromkeys((self.events, self.reads, self.models)):
            database.close()
        self.keys.close()


def open_storage(url: str, *, create: bool, lock_timeout_s: int) -> Storage:
    """Open or make what a URL names: `sqlite:///relative/path`, `sqlite:////absolute/path`, `memory:`."""
    if url in ("memory:", "memory://"):
        return _in_memory(url, lock_timeout_s)
    path = file_of(url)
    if path is not None:
        try:
            return _in_files(url, path, create, lock_timeout_s)
        except OSError as error:
            raise BookError(
                f"{path} can't be opened: {error.strerror or error}.",
                path=str(path),
                remedy="Check the name, its owner and its mode.",
            ) from error
    raise BookError(
        f"{url!r} names no book.",
        path=str(url),
        remedy='Write "sqlite:///shop.book" (four slashes for an absolute path) or "memory:".',
    )


def file_of(url: str) -> Path | None:
    """The file that a `sqlite:///` URL names, as an absolute path; None for any other."""
    prefix = "sqlite:///"
    if not isinstance(url, str) or not url.startswith(prefix) or len(url) == len(prefix) or "\x00" in url:
        return None
    return Path(os.path.abspath(url.removeprefix(prefix)))


def beside(path: Path) -> tuple[Path, Path]:
    """The key file and the log of reads of the book in a file."""
    return path.with_name(path.name + ".keys"), path.with_name(path.name + ".reads")


def _in_memory(url: str, lock_timeout_s: int) -> Storage:
    origin = _new_origin()
    stores = [
        SQLiteDatabase(f"file:tallybook-{uuid4().hex}?mode=memory&cache=shared", lock_timeout_s=lock_timeout_s)
        for _ in range(2)
    ]
    LogRecorder(stores[0]).create_table()
    LogRecorder(stores[1], READS_TABLE).create_table()
    return Storage(url, origin, stores[0], stores[1], stores[0], MemoryKeyStore(origin))


def _in_files(url: str, path: Path, create: bool, lock_timeout_s: int) -> Storage:
    keys_path, reads_path = beside(path)
    if not path.parent.is_dir():
        raise BookError(f"The folder {path.parent} is not there.", path=str(path), remedy="Make it first.")
    exists = is_ours(path, APPLICATION_ID, lock_timeout_s=lock_timeout_s)
    if not exists and not create:
        raise BookNotFound(
            f"There is no book at {path}.", path=str(path), remedy="Check the path, or make one with `tallybook.open`."
        )
    for one in (path, keys_path, reads_path):
        check_writable(one)
    keys: FileKeyStore | None = None
    try:
        if not exists:
            keys = FileKeyStore(keys_path, origin=_new_origin(), lock_timeout_s=lock_timeout_s)
            # Another process may have made the book, and used it, since we looked: count first, then look again.
            used = keys.count()
            exists = is_ours(path, APPLICATION_ID, lock_timeout_s=lock_timeout_s)
            if not exists and used:
                raise KeysMissing(
                    f"{keys_path} holds the keys of a book, and the book {path} is not there.",
                    path=str(path),
                    remedy="Put the book back from its backup, or move the key file away.",
                )
            if not exists and is_ours(reads_path, READS_APPLICATION_ID, "log of reads", lock_timeout_s=lock_timeout_s):
                # A book is there before its log of reads is.
                exists = is_ours(path, APPLICATION_ID, lock_timeout_s=lock_timeout_s)
                if not exists:
                    raise BookNotFound(
                        f"{reads_path} is the log of reads of a book, and the book {path} is not there.",
                        path=str(path),
                        remedy="Put the book back from its backup, or move the log of reads away.",
                    )
            if not exists:
                make_log_file(path, APPLICATION_ID, "stored_events", keys.origin, lock_timeout_s)
        if keys is None:
            keys = FileKeyStore(keys_path, lock_timeout_s=lock_timeout_s)
        origin = note(path, "origin", lock_timeout_s) or ""
        if keys.origin != origin:
            raise KeysMissing(
                f"{keys_path} holds the keys of another book ({keys.origin}, not {origin}).",
                path=str(path),
                remedy="Put back the key file that belongs to this book.",
            )
        _open_reads(path, reads_path, origin, lock_timeout_s)
    except BaseException as error:
        if keys:
            keys.close()
        if isinstance(error, sqlite3.Error):
            raise translated(error, str(path)) from error
        raise
    stores = [SQLiteDatabase(str(file), lock_timeout_s=lock_timeout_s) for file in (path, reads_path)]
    return Storage(
        url,
        origin,
        stores[0],
        stores[1],
        stores[0],
        keys,
        {"url": f"sqlite:///{path}", "lock_timeout_s": lock_timeout_s},
    )


def _open_reads(path: Path, reads_path: Path, origin: str, lock_timeout_s: int) -> None:
    """Make the log of reads once; after that it must be there, and be this book's."""
    noted = note(path, "reads", lock_timeout_s) is not None
    if is_ours(reads_path, READS_APPLICATION_ID, "log of reads", lock_timeout_s=lock_timeout_s):
        found = note(reads_path, "origin", lock_timeout_s)
        if found != origin:
            raise ReadsMissing(
                f"{reads_path} is the log of reads of another book ({found}, not {origin}).",
                path=str(reads_path),
                remedy="Put back the one that belongs to this book.",
            )
    elif noted:
        raise ReadsMissing(
            f"The log of reads {reads_path} is not there.",
            path=str(reads_path),
            remedy="Put it back from its backup: without it, nobody can tell who saw whose data.",
        )
    else:
        make_log_file(reads_path, READS_APPLICATION_ID, READS_TABLE, origin, lock_timeout_s)
    if not noted:
        with closing(sqlite3.connect(path, timeout=lock_timeout_s)) as connection, connection:
            connection.execute("INSERT OR IGNORE INTO book VALUES ('reads', 'made')")


def _new_origin() -> str:
    return f"tallybook/{uuid4().hex}"


def note(path: Path, name: str, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S) -> str | None:
    """What a log's file notes of itself under a name."""
    with closing(sqlite3.connect(path, timeout=lock_timeout_s)) as connection:
        row = connection.execute("SELECT value FROM book WHERE name=?", (name,)).fetchone()
        return None if row is None else str(row[0])


def make_log_file(
    path: Path, application_id: int, table: str, origin: str, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S
) -> None:
    """Make a log's file in one transaction, unless another process was faster."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=lock_timeout_s)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA application_id").fetchone()[0] == 0:
            for statement in LogRecorder(SQLiteDatabase(str(path)), table).definitions():
                connection.execute(statement.format_map(DIALECT))
            connection.execute("CREATE TABLE book (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")
            connection.execute("INSERT INTO book VALUES ('origin', ?)", (origin,))
            connection.execute(f"PRAGMA application_id={application_id}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
