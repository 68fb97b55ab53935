"""Looking at a file before it is opened as part of a book: nothing foreign is ever altered."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from tallybook.domain.errors import BookError, BookReadOnly, NewerBook, NotABook

FORMAT = 1
"""Newest layout of a book's files that this release knows."""


def is_ours(path: Path, application_id: int, what: str = "book") -> bool:
    """Whether there is such a file of a book; False for none, or one whose making was cut short.

    Raises NotABook, NewerBook, BookReadOnly, BookError. Reads only.
    """
    try:
        if path.is_dir():
            raise NotABook(f"{path} is a folder.", path=str(path), remedy="Name a file in it.")
        if not path.exists() or path.stat().st_size == 0:
            return False
    except OSError as error:
        raise BookError(
            f"{path} can't be read: {error.strerror or error}.",
            path=str(path),
            remedy="Check the name, its owner and its mode.",
        ) from error
    written = _application_id(path, what)
    check_writable(path)
    try:
        # What was ours when it was last written is opened for writing: a journal that a kill left is then rolled back.
        mode = "rw" if written == application_id else "ro"
        where = f"{path.as_uri()}?mode={mode}"
        with closing(sqlite3.connect(where, uri=True, timeout=30, isolation_level=None)) as connection:
            # One snapshot: between two reads, another process may make the book.
            connection.execute("BEGIN")
            found = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.OperationalError as error:
        raise BookReadOnly(
            f"{path} can't be opened: {error}.",
            path=str(path),
            remedy="Check owner and mode of the file and its folder, and that it is not locked.",
        ) from error
    except sqlite3.DatabaseError as error:
        raise NotABook(
            f"{path} can't be read: {error}.", path=str(path), remedy="Restore it from a backup, or name another file."
        ) from error
    if found == 0 and tables == 0:
        return False
    if found != application_id:
        raise NotABook(
            f"{path} is an SQLite file of something else, no {what}.", path=str(path), remedy="Name another file."
        )
    if version > FORMAT:
        raise NewerBook(
            f"{path} has format {version}; this release reads up to {FORMAT}.",
            path=str(path),
            remedy="Upgrade Tallybook.",
        )
    return True


def _application_id(path: Path, what: str) -> int:
    """What the file's first page says, whatever its journals hold. Raises NotABook, BookError.

    Read by SQLite, never by `open`: POSIX drops all locks of a process on a file when it closes any handle of that
    file, and another process would then take the log of a book that is open here for one that nobody uses.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            # A commit that is under way, or was cut short, may leave a header that tells of more pages than there are:
            # this setting lets SQLite read it all the same.
            connection.execute("PRAGMA writable_schema=ON")
            return int(connection.execute("PRAGMA application_id").fetchone()[0])
    except sqlite3.OperationalError as error:
        raise BookError(
            f"{path} can't be read: {error}.", path=str(path), remedy="Check the name, its owner and its mode."
        ) from error
    except sqlite3.DatabaseError as error:
        raise NotABook(
            f"{path} is not a {what}: it is no SQLite file.", path=str(path), remedy="Name another, or put it back."
        ) from error


def check_writable(path: Path) -> None:
    """Raises BookReadOnly where the file or its folder can't be written."""
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise BookReadOnly(
                f"{place} can't be written.", path=str(path), remedy="Check its owner and mode: a book is written to."
            )
