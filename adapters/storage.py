"""Where a book lies: three files side by side, or memory. Opening checks each before it touches it.

shop.book         the log with its head, claims, receipts, and the read models
shop.book.keys    the subjects' data keys (mode 0600; back it up apart, and for a short time)
shop.book.reads   the log of reads of personal data
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tallybook.domain.errors import BookError, BookNotFound, BookReadOnly, KeysMissing, NewerBook, NotABook

from .keys import FileKeyStore, KeyStore, MemoryKeyStore
from .sqlite import BookDatastore, LogRecorder

APPLICATION_ID = 0x7A11B00C
READS_APPLICATION_ID = 0x7A11B00D
FORMAT = 1
READS_TABLE = "access_records"


@dataclass(frozen=True, slots=True)
class Storage:
    """The open parts of a book."""

    url: str
    origin: str
    datastore: BookDatastore
    reads: BookDatastore
    keys: KeyStore

    def close(self) -> None:
        """Release all files."""
        self.datastore.close()
        self.reads.close()
        self.keys.close()


def open_storage(url: str, *, create: bool, lock_timeout_s: int) -> Storage:
    """Open or make what a URL names: `sqlite:///relative/path`, `sqlite:////absolute/path`, `memory:`."""
    if url in ("memory:", "memory://"):
        return _in_memory(url, lock_timeout_s)
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        return _in_files(url, Path(url.removeprefix("sqlite:///")), create, lock_timeout_s)
    raise BookError(
        f"{url!r} names no book.",
        path=url,
        remedy='Write "sqlite:///shop.book" (four slashes for an absolute path) or "memory:".',
    )


def _in_memory(url: str, lock_timeout_s: int) -> Storage:
    origin = _new_origin()
    stores = [
        BookDatastore(f"file:tallybook-{uuid4().hex}?mode=memory&cache=shared", lock_timeout_s=lock_timeout_s)
        for _ in range(2)
    ]
    LogRecorder(stores[0]).create_table()
    LogRecorder(stores[1], READS_TABLE).create_table()
    return Storage(url, origin, stores[0], stores[1], MemoryKeyStore(origin))


def _in_files(url: str, path: Path, create: bool, lock_timeout_s: int) -> Storage:
    path = Path(os.path.abspath(path))
    keys_path, reads_path = (path.with_name(path.name + suffix) for suffix in (".keys", ".reads"))
    if not path.parent.is_dir():
        raise BookError(f"The folder {path.parent} is not there.", path=str(path), remedy="Make it first.")
    if path.is_dir():
        raise NotABook(f"{path} is a folder.", path=str(path), remedy="Name a file in it.")
    exists = _check(path, APPLICATION_ID)
    if not exists and not create:
        raise BookNotFound(
            f"There is no book at {path}.", path=str(path), remedy="Check the path, or make one with `tallybook.open`."
        )
    _check_writable(path)
    keys: FileKeyStore | None = None
    try:
        if exists:
            origin = _origin(path)
            keys = FileKeyStore(keys_path)
        else:
            keys = FileKeyStore(keys_path, origin=_new_origin())
            if keys.count():
                raise KeysMissing(
                    f"{keys_path} holds the keys of a book, and the book {path} is not there.",
                    path=str(path),
                    remedy="Put the book back from its backup, or move the key file away.",
                )
            origin = _create(path, APPLICATION_ID, "stored_events", keys.origin)
        if keys.origin != origin:
            raise KeysMissing(
                f"{keys_path} holds the keys of another book ({keys.origin}, not {origin}).",
                path=str(path),
                remedy="Put back the key file that belongs to this book.",
            )
        if not _check(reads_path, READS_APPLICATION_ID):
            _create(reads_path, READS_APPLICATION_ID, READS_TABLE, origin)
    except sqlite3.OperationalError as error:
        if keys:
            keys.close()
        raise BookReadOnly(
            f"{path} can't be opened for writing: {error}.",
            path=str(path),
            remedy="Check owner and mode of the file and its folder, and free space.",
        ) from error
    except BaseException:
        if keys:
            keys.close()
        raise
    stores = [BookDatastore(str(file), lock_timeout_s=lock_timeout_s) for file in (path, reads_path)]
    return Storage(url, origin, stores[0], stores[1], keys)


def _new_origin() -> str:
    return f"tallybook/{uuid4().hex}"


def _check(path: Path, application_id: int) -> bool:
    """Whether there is a book's file; False for none, or one whose making was cut short. Raises BookError's kinds."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\x00":
            raise NotABook(f"{path} is not a book: it is no SQLite file.", path=str(path), remedy="Name another file.")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            found = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise NotABook(
            f"{path} can't be read: {error}.", path=str(path), remedy="Restore it from a backup, or name another file."
        ) from error
    if found == 0 and tables == 0:
        return False
    if found != application_id:
        raise NotABook(
            f"{path} is an SQLite file of something else.", path=str(path), remedy="Name another file for the book."
        )
    if version > FORMAT:
        raise NewerBook(
            f"{path} has format {version}; this release reads up to {FORMAT}.",
            path=str(path),
            remedy="Upgrade Tallybook.",
        )
    return True


def _check_writable(path: Path) -> None:
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise BookReadOnly(
                f"{place} can't be written.", path=str(path), remedy="Check its owner and mode: a book is written to."
            )


def _origin(path: Path) -> str:
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        origin: str = connection.execute("SELECT value FROM book WHERE name='origin'").fetchone()[0]
        return origin


def _create(path: Path, application_id: int, table: str, origin: str) -> str:
    """Make a log's file in one transaction; if another process was faster, its origin counts."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA application_id").fetchone()[0] == 0:
            recorder = LogRecorder(BookDatastore(":memory:"), table)
            for statement in recorder.create_table_statements:
                connection.execute(statement)
            connection.execute("CREATE TABLE book (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")
            connection.execute("INSERT INTO book VALUES ('origin', ?)", (origin,))
            connection.execute(f"PRAGMA application_id={application_id}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
        found: str = connection.execute("SELECT value FROM book WHERE name='origin'").fetchone()[0]
        connection.execute("COMMIT")
        return found
