"""Looking at a file before it is opened as part of a book: nothing foreign is ever altered."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from tallybook.domain.errors import BookError, BookReadOnly, NotABook

from .database import check_format
from .sqlite import DEFAULT_LOCK_TIMEOUT_S, check_not_inherited, translated

JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")


def is_ours(
    path: Path, application_id: int, what: str = "book", *, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S
) -> bool:
    """Whether there is such a file of a book; False for none, or one whose making was cut short.

    Raises NotABook, NewerBook, BookReadOnly, BookError (also in a process that was forked while it was open). Refuses:
    busy. Reads only.
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
    check_not_inherited(path)
    if _in_the_making(path):
        return False
    written = _application_id(path, what)
    check_writable(path)
    try:
        # What was ours when it was last written is opened for writing: a journal that a kill left is then rolled back.
        mode = "rw" if written == application_id else "ro"
        where = f"{path.as_uri()}?mode={mode}"
        with closing(sqlite3.connect(where, uri=True, timeout=lock_timeout_s, isolation_level=None)) as connection:
            # One snapshot: between two reads, another process may make the book.
            connection.execute("BEGIN")
            found = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.OperationalError as error:
        raise translated(error, str(path)) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: of a message that quotes what is no text
        raise NotABook(
            f"{path} can't be read: {error}.", path=str(path), remedy="Restore it from a backup, or name another file."
        ) from error
    if found == 0 and tables == 0:
        return False
    if found != application_id:
        raise NotABook(
            f"{path} is an SQLite file of something else, no {what}.", path=str(path), remedy="Name another file."
        )
    check_format(version, str(path))
    return True


def _in_the_making(path: Path) -> bool:
    """Whether the file's first transaction is under way, or was cut short: its pages are anything, until rolled back.

    The rollback journal tells: it begins with a magic number, and says how many pages the file had.
    """
    try:
        header = path.with_name(path.name + "-journal").read_bytes()[:20]
    except OSError:
        return False
    return header[:8] == JOURNAL_MAGIC and header[16:20] == bytes(4)


def _application_id(path: Path, what: str) -> int:
    """What the file's first page says, whatever its journals hold. Raises NotABook, BookError.

    Read by SQLite, never by `open`: POSIX drops all locks of a process on a file when it closes any handle of that
    file, and another process would then take the log of a book that is open here for one that nobody uses.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            # Also where the file is shorter than it says, as long as its log is not brought in: the log mends that.
            connection.execute("PRAGMA writable_schema=ON")
            return int(connection.execute("PRAGMA application_id").fetchone()[0])
    except sqlite3.OperationalError as error:
        raise translated(error, str(path)) from error
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
