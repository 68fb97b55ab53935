"""Data keys in tables, each wrapped: in an SQLite file of their own, or beside the log on a server."""

from __future__ import annotations

import hmac
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallybook.domain.errors import BookClosed, BookError, KeysMissing, NotABook
from tallybook.projections.read_models import Table

from .database import FORMAT, Database, Session, damaged, marks, onward, sound
from .files import is_ours
from .form import uuid_from
from .keys import KEYS_APPLICATION_ID, PUT_BACK, KeyName, check_position, secret
from .sqlite import DIALECT, SQLiteDatabase, translated
from .wrapping import KEY_BYTES, RESTORE_KEYS, Wrapping, WrappingKeys, ciphers, fingerprint, hold

DATA_KEYS = Table(
    "data_keys",
    (
        ("subject", "blob"),
        ("key_id", "integer"),
        ("wrapping_key", "blob"),
        ("wrapped", "blob"),
        ("destroyed", "integer"),
        ("mac", "blob"),
    ),
    ("subject", "key_id"),
)
"""A key, or its tombstone: the position of its erasure, nothing wrapped, and a MAC, so that a key which somebody else
took away is none that was destroyed. `wrapping_key` of a tombstone is what all keys were under when the key was
destroyed: as long as that is there, copies from before can be opened."""
BOOK_KEYS = Table("book_keys", (("name", "text"), ("wrapping_key", "blob"), ("wrapped", "blob")), ("name",))
"""The look-up key. Whoever writes keys locks its row, whose wrapping key is the one that all are to be under."""
KEY_NOTES = Table("key_notes", (("name", "text"), ("value", "integer")), ("name",))
LOOKUP = "lookup"
ERASED_UP_TO = "erased_up_to"
FALSE_TOMBSTONE = (
    "Put the row back from a backup of the keys; or delete it, and open the book: what the log tells to be erased has "
    "its tombstone again, and of everybody else the values can't be opened until the key is back."
)
A_BATCH = 5000
_COLUMNS = ", ".join(name for name, _ in DATA_KEYS.columns)

_Row = tuple[KeyName, bytes, bytes, int]


class _Rotated(Exception):
    """All keys are to be under another wrapping key than this process saw last."""


def _lookup_row(lock: str = "") -> str:
    select = "SELECT wrapping_key, wrapped FROM book_keys WHERE name=?"
    return select + lock


class WrappedKeyStore:
    """Keys in a database, wrapped under a key that lies elsewhere. Whoever opened the database closes it."""

    def __init__(self, database: Database, origin: str, source: WrappingKeys) -> None:
        """Raises KeysMissing, if the wrapping key is another than the book's."""
        self.database = database
        self.origin = origin
        self._closed = False
        self._wrapping = Wrapping(source, origin)
        self._current, self.lookup_key = self._lookup_key()
        self._mac_key = secret(self.lookup_key, DATA_KEYS.name)

    @staticmethod
    def definitions() -> list[str]:
        """Statements that make the tables."""
        return [
            "CREATE TABLE data_keys (subject {blob}, key_id {integer}, wrapping_key {blob} NOT NULL, "
            "wrapped {blob} NOT NULL, destroyed {integer} NOT NULL, mac {blob} NOT NULL, "
            "PRIMARY KEY (subject, key_id))",
            "CREATE INDEX data_keys_destroyed ON data_keys (wrapping_key, subject, key_id) WHERE destroyed<>0",
            "CREATE TABLE book_keys (name {text} PRIMARY KEY, wrapping_key {blob} NOT NULL, wrapped {blob} NOT NULL)",
            "CREATE TABLE key_notes (name {text} PRIMARY KEY, value {integer} NOT NULL)",
        ]

    @staticmethod
    def begin(
        insert: Callable[[Table, list[tuple[Any, ...]]], object], origin: str, source: WrappingKeys, lookup_key: bytes
    ) -> str:
        """Write the look-up key of a new book; the fingerprint of its wrapping key, which is made, and durable before.

        Raises KeysMissing where another book's wrapping key is.
        """
        if not source.read(origin):
            hold(source, origin, [os.urandom(KEY_BYTES)])
        wrapping = Wrapping(source, origin)
        name = wrapping.newest
        insert(KEY_NOTES, [(ERASED_UP_TO, 0)])
        insert(BOOK_KEYS, [(LOOKUP, name, wrapping.wrap(name, lookup_key, LOOKUP, 0))])
        return name.hex()

    @property
    def source(self) -> WrappingKeys:
        """Where the wrapping key lies."""
        return self._wrapping.source

    def add(self, keys: Mapping[KeyName, bytes]) -> None:
        """Keep new keys: committed when this returns. Raises IntegrityError if one is there, or was destroyed."""
        self._check_open()
        wrapping = self._wrapping

        def rows(name: bytes, held: Mapping[bytes, AESGCM]) -> list[tuple[Any, ...]]:
            return [
                (subject.bytes, key_id, name, wrapping.wrap(name, key, subject, key_id, held), 0, b"")
                for (subject, key_id), key in keys.items()
            ]

        name = self._current
        held = wrapping.holding([name])
        if name in held:
            with suppress(_Rotated), self.database.session(write=True) as session:
                current = session.ask(_lookup_row(self.database.for_share), [LOOKUP])
                session.insert(DATA_KEYS, rows(name, held))
                self._current, _ = self._one(current.rows())
                if self._current != name:
                    raise _Rotated  # and rolls back: nobody could unwrap these rows once the old key is gone
                return
        with self.database.session(write=True) as session:
            # First the lock: until this is committed, the key of now stays what it is.
            self._current, _ = self._one(session.rows(_lookup_row(self.database.for_share), [LOOKUP]))
            session.insert(DATA_KEYS, rows(self._current, wrapping.holding([self._current])))

    def get(self, names: Iterable[KeyName]) -> dict[KeyName, bytes]:
        """The keys that there are. Raises KeysMissing for one that can't be unwrapped."""
        self._check_open()
        wanted = set(names)
        wrapping = self._wrapping
        lacked: set[bytes] = set()
        while True:
            rows = [row for row in self._rows(self.database.rows, wanted) if not row[3]]
            under = {row[1] for row in rows}
            held = wrapping.holding(under)
            lacking = under - held.keys()
            # A key leaves the source once no row is under it: rows that still are under one that was not there before
            # are under another book's key, or a lost one. All others were wrapped anew since they were read.
            if not lacking or lacking & lacked:
                break
            lacked = lacking
        return {name: wrapping.unwrap(under, wrapped, *name, held) for name, under, wrapped, _ in rows}

    def destroy(self, names: Iterable[KeyName], position: int) -> None:
        """Destroy keys, and leave tombstones: committed when this returns.

        What they were wrapped in may stand in copies, and on a server in its pages and its log: it is worth nothing
        once the wrapping key is another.
        """
        self._check_open()
        check_position(position)
        gone = set(names)
        with self.database.session(write=True) as session:
            under, _ = self._one(session.rows(_lookup_row(self.database.for_share), [LOOKUP]))
            gone.difference_update([name for name, _, _, destroyed in self._rows(session.rows, gone) if destroyed])
            tombstones = [
                (subject.bytes, key_id, under, b"", position, self._mac(subject.bytes, key_id, under, position))
                for subject, key_id in sorted(gone)
            ]
            session.upsert(DATA_KEYS, tombstones)

    def destroyed(self, names: Iterable[KeyName]) -> dict[KeyName, int]:
        """The tombstones that there are."""
        self._check_open()
        return {name: destroyed for name, _, _, destroyed in self._rows(self.database.rows, set(names)) if destroyed}

    def tombstones(self) -> Iterator[tuple[KeyName, int]]:
        """All tombstones that the book made."""
        self._check_open()
        last: tuple[bytes, bytes, int] = (b"", b"", 0)
        while rows := self.database.rows(
            f"SELECT {_COLUMNS} FROM data_keys WHERE destroyed<>0 AND (wrapping_key, subject, key_id) > (?, ?, ?) "  # noqa: S608 - names of ours
            "ORDER BY wrapping_key, subject, key_id LIMIT ?",
            (*last, A_BATCH),
        ):
            for subject, key_id, _, _, position, _ in filter(self._made, sound(DATA_KEYS, rows, self.database.place)):
                yield (uuid_from(subject), key_id), position
            subject, key_id, under, *_ = rows[-1]
            last = onward((under, subject, key_id), last, self.database.place)

    def erased_up_to(self) -> int:
        """The position up to which erasures were carried out."""
        self._check_open()
        rows = self.database.rows("SELECT value FROM key_notes WHERE name=?", [ERASED_UP_TO])
        if not rows:
            raise damaged("The table key_notes does not say how far erasures were followed", self.database.place)
        [(_, position)] = sound(KEY_NOTES, [(ERASED_UP_TO, *rows[0])], self.database.place)
        return int(position)

    def set_erased_up_to(self, position: int) -> None:
        """Note it: committed when this returns."""
        self._check_open()
        with self.database.session(write=True) as session:
            session.upsert(KEY_NOTES, [(ERASED_UP_TO, position)])

    def count(self) -> int:
        """How many keys there are."""
        self._check_open()
        return int(self.database.rows("SELECT COUNT(*) FROM data_keys WHERE destroyed=0")[0][0])

    # ── the wrapping key ────────────────────────────────────────────────────────────────────────────────────────────

    def wrapping(self) -> str:
        """The fingerprint of the wrapping key that all keys are under."""
        self._check_open()
        name, _ = self._one(self.database.rows(_lookup_row(), [LOOKUP]))
        return name.hex()

    def outlived(self, names: Iterable[KeyName] | None = None) -> bool:
        """Whether the wrapping key that destroyed keys were under is still there: of some keys, or of any."""
        self._check_open()
        there = {bytes.fromhex(self.wrapping()), *map(fingerprint, self._wrapping.read())}
        if names is not None:
            return any(under in there for _, under, _, dead in self._rows(self.database.rows, set(names)) if dead)
        statement = (
            f"SELECT {_COLUMNS} FROM data_keys "  # noqa: S608 - names of ours, and marks
            f"WHERE destroyed<>0 AND wrapping_key IN ({marks(len(there))})"
        )
        # One is enough; unless somebody else wrote it: for that one, no wrapping key is given up, and none kept.
        rows = self.database.rows(f"{statement} LIMIT 1", list(there))
        if not all(map(self._made, sound(DATA_KEYS, rows, self.database.place))):
            rows = self.database.rows(statement, list(there))
        return any(map(self._made, sound(DATA_KEYS, rows, self.database.place)))

    def rotate(self) -> tuple[str, str]:
        """Wrap all keys under a new wrapping key; the fingerprints of the old and the new."""
        self._check_open()
        found = self._wrap_anew(os.urandom(KEY_BYTES))
        self._drop_the_old()
        return found

    def finish_rotation(self) -> None:
        """Go on with a rotation that was cut short, if one was."""
        if len(self._wrapping.read()) > 1:
            self._wrap_anew(None)
            # A source that can't be replaced keeps two keys: all is readable, and `outlived` tells of it.
            with suppress(BookError):
                self._drop_the_old()

    def behind(self) -> int:
        """How many keys are wrapped under another key than the one that all are to be under."""
        self._check_open()
        current = bytes.fromhex(self.wrapping())
        rows = self.database.rows("SELECT COUNT(*) FROM data_keys WHERE destroyed=0 AND wrapping_key<>?", [current])
        return int(rows[0][0])

    def _wrap_anew(self, fresh: bytes | None) -> tuple[str, str]:
        """Have the source hold a fresh key before the one of now, unless it does so already, and wrap all under it."""
        wrapping = self._wrapping
        with self.database.session(write=True) as session:
            # Under this lock nobody else rotates, adds or destroys, and the source is nobody else's to replace.
            current, wrapped = self._one(session.rows(_lookup_row(self.database.for_update), [LOOKUP]))
            held = ciphers(wrapping.read())
            if current not in held:
                raise wrapping.another(current)
            if next(iter(held)) == current and fresh is not None:
                [own] = [key for key in wrapping.read() if fingerprint(key) == current]
                hold(wrapping.source, self.origin, [fresh, own])
                held = ciphers(wrapping.read())
            name = next(iter(held))
            if name != current:
                self._wrap_rows(session, name, held)
                key = wrapping.unwrap(current, wrapped, LOOKUP, 0, held)
                session.upsert(BOOK_KEYS, [(LOOKUP, name, wrapping.wrap(name, key, LOOKUP, 0, held))])
        return current.hex(), name.hex()

    def _wrap_rows(self, session: Session, name: bytes, held: Mapping[bytes, AESGCM]) -> None:
        columns = f"SELECT {_COLUMNS} FROM data_keys"  # noqa: S608 - names of ours
        # What looks like a tombstone is not wrapped anew: if it held a key, that would be lost.
        self._sound(session.rows(f"{columns} WHERE destroyed<>0 AND wrapped<>? LIMIT 1", [b""]))
        last: tuple[bytes, int] = (b"", 0)
        while True:
            rows = session.rows(
                f"{columns} WHERE destroyed=0 AND (subject, key_id) > (?, ?) ORDER BY subject, key_id LIMIT ?",
                (*last, A_BATCH),
            )
            if not rows:
                return
            left = [row for row in sound(DATA_KEYS, rows, self.database.place) if row[2] != name]
            anew = self._wrapping.wrap_anew(name, [row[:4] for row in left], held)
            session.upsert(
                DATA_KEYS, [(*row[:2], name, wrapped, 0, b"") for row, wrapped in zip(left, anew, strict=True)]
            )
            last = onward(rows[-1][:2], last, self.database.place)

    def _drop_the_old(self) -> None:
        """Have the source hold the wrapping key of now alone, once all keys are durable under it."""
        wrapping = self._wrapping
        with self.database.session(write=True) as session:
            current, _ = self._one(session.rows(_lookup_row(self.database.for_update), [LOOKUP]))
            keys = wrapping.read()
            if len(keys) > 1 and fingerprint(keys[0]) == current:
                hold(wrapping.source, self.origin, keys[:1])
                wrapping.read()

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _lookup_key(self) -> tuple[bytes, bytes]:
        wrapping = self._wrapping
        before: bytes | None = None
        while True:
            name, wrapped = self._one(self.database.rows(_lookup_row(), [LOOKUP]))
            held = wrapping.holding([name])
            if name in held or name == before:
                break
            before = name  # and once more: it may have been rotated between the two readings
        key = wrapping.unwrap(name, wrapped, LOOKUP, 0, held)
        if len(key) != KEY_BYTES:
            raise damaged("The table book_keys holds no look-up key", self.database.place, RESTORE_KEYS)
        return name, key

    def _one(self, rows: Sequence[tuple[Any, ...]]) -> tuple[bytes, bytes]:
        if not rows:
            raise KeysMissing(
                f"The book's look-up key is not in {self.database.place}.",
                path=self.database.place,
                remedy=RESTORE_KEYS,
            )
        [(_, name, wrapped)] = sound(BOOK_KEYS, [(LOOKUP, *rows[0])], self.database.place)
        return name, wrapped

    def _rows(
        self, select: Callable[[str, Sequence[Any]], list[tuple[Any, ...]]], wanted: set[KeyName]
    ) -> Iterator[_Row]:
        subjects = sorted({subject.bytes for subject, _ in wanted})
        for start in range(0, len(subjects), 500):
            chunk = subjects[start : start + 500]
            rows = select(
                f"SELECT {_COLUMNS} FROM data_keys "  # noqa: S608 - names of ours, and marks
                f"WHERE subject IN ({marks(len(chunk))})",
                chunk,
            )
            for subject, key_id, under, wrapped, destroyed, _ in self._sound(rows):
                name = (uuid_from(subject), key_id)
                if name in wanted:
                    yield name, under, wrapped, destroyed

    def _sound(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Rows of keys and tombstones, each of which is one of the two, and made by the book. Raises BookDamaged."""
        for row in sound(DATA_KEYS, rows, self.database.place):
            subject, key_id, _, wrapped, destroyed, _ = row
            if destroyed and wrapped:
                raise damaged("A tombstone in the table data_keys holds a key", self.database.place, RESTORE_KEYS)
            if not self._made(row):
                raise damaged(
                    f"What stands of the data key {key_id} of {subject.hex()} in the table data_keys is no tombstone "
                    "that was made with the keys of this book: somebody else wrote it, and destroyed the key, if it "
                    "was there",
                    self.database.place,
                    FALSE_TOMBSTONE,
                )
        return rows

    def _made(self, row: tuple[Any, ...]) -> bool:
        """Whether a row is a tombstone that the book made, or none."""
        subject, key_id, under, _, destroyed, mac = row
        made = self._mac(subject, key_id, under, destroyed) if destroyed else b""
        return hmac.compare_digest(mac, made)

    def _mac(self, subject: bytes, key_id: int, under: bytes, position: int) -> bytes:
        """What authenticates a tombstone. Whoever has the database alone can't make it."""
        told: bytes = msgpack.packb([self.origin, subject, key_id, under, position])
        return hmac.digest(self._mac_key, told, sha256)

    def close(self) -> None:
        """Answer no more."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise BookClosed("The book is closed.", path=self.database.place, remedy="Open it again.")


class FileKeyStore(WrappedKeyStore):
    """Keys in an SQLite file of their own, for its owner alone, deleted bytes overwritten and the journal emptied."""

    database: SQLiteDatabase

    def __init__(
        self,
        path: Path,
        source: WrappingKeys,
        *,
        origin: str | None = None,
        book: str | None = None,
        lock_timeout_s: float = 30,
    ) -> None:
        """Open the key file; with `origin`, make one if there is none. Raises KeysMissing, NewerBook.

        `book` is the origin of the book that the keys must be of.

        Nothing foreign is altered.
        """
        self.path = path
        try:
            exists = is_ours(path, KEYS_APPLICATION_ID, "key file", lock_timeout_s=lock_timeout_s)
        except NotABook as error:
            raise KeysMissing(error.message, path=str(path), remedy="Put back the book's own key file.") from error
        if not exists and origin is None:
            raise KeysMissing(
                f"The key file {path} is not there.",
                path=str(path),
                remedy="Put it back from its backup: without it, no personal value of the book can be opened.",
            )
        with suppress(FileExistsError):
            # Never a handle on a file that may be open already: closing it would drop this process's locks.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        check_private(path)
        if origin is not None:
            self._make(path, origin, source, lock_timeout_s)
        database = SQLiteDatabase(
            str(path),
            lock_timeout_s=lock_timeout_s,
            create=False,
            journal_mode="TRUNCATE",
            secure_delete=True,
        )
        try:
            found = _origin_in(database)
            if book not in (None, found):
                raise KeysMissing(
                    f"{path} holds the keys of another book ({found}, not {book}).",
                    path=str(path),
                    remedy="Put back the key file that belongs to this book.",
                )
            super().__init__(database, found, source)
            self.finish_rotation()
        except BaseException:
            database.close()
            raise

    @classmethod
    def _make(cls, path: Path, origin: str, source: WrappingKeys, lock_timeout_s: float) -> None:
        try:
            with closing(sqlite3.connect(path, isolation_level=None, timeout=lock_timeout_s)) as connection:
                connection.execute("PRAGMA secure_delete=ON")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA journal_mode=TRUNCATE")
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("PRAGMA application_id").fetchone()[0] == 0:
                    source.read(origin)  # raises, before anything is written, where another book's wrapping key is
                    for statement in (
                        *cls.definitions(),
                        "CREATE TABLE book (name {text} PRIMARY KEY, value NOT NULL)",
                    ):
                        connection.execute(statement.format_map(DIALECT))
                    connection.execute("INSERT INTO book VALUES ('origin', ?)", [origin])
                    connection.execute(f"PRAGMA application_id={KEYS_APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version={FORMAT}")
                # The book's name first, and durable: a making that is cut short goes on with the wrapping key that
                # was made for it. Without a look-up key, the file is of no use yet.
                connection.execute("COMMIT")
                connection.execute("BEGIN IMMEDIATE")
                [(begun,)] = connection.execute(
                    "SELECT EXISTS (SELECT 1 FROM book_keys) OR EXISTS (SELECT 1 FROM data_keys)"
                ).fetchall()
                named = connection.execute("SELECT value FROM book WHERE name='origin'").fetchone()
                if named and not begun:

                    def insert(table: Table, rows: list[tuple[Any, ...]]) -> None:
                        connection.executemany(
                            f"INSERT INTO {table.name} VALUES ({marks(len(table.columns))})",  # noqa: S608 - names of ours
                            rows,
                        )

                    cls.begin(insert, str(named[0]), source, os.urandom(KEY_BYTES))
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translated(error, str(path)) from error

    def copy_to(self, copy: sqlite3.Connection) -> None:
        """Copy the file as it is, page by page."""
        self._check_open()
        with self.database.connection() as connection:
            connection.backup(copy)

    def is_within(self, other: FileKeyStore) -> bool:
        """Whether another file holds all keys of this one."""
        rows = self.database.rows("SELECT subject, key_id FROM data_keys WHERE destroyed=0")
        held = self.get([(uuid_from(subject), key_id) for subject, key_id in rows])
        return other.get(held) == held

    def close(self) -> None:
        """Release the file, once nobody is reading it."""
        super().close()
        self.database.close()


def _origin_in(database: SQLiteDatabase) -> str:
    rows = database.rows("SELECT value FROM book WHERE name='origin'")
    if not rows or type(rows[0][0]) is not str:
        raise KeysMissing(
            f"The key file {database.place} is damaged: the book's name does not stand in its table book.",
            path=database.place,
            remedy=PUT_BACK,
        )
    origin: str = rows[0][0]
    return origin


def check_private(path: Path) -> None:
    """Raises BookError for a file of keys that others than its owner may use."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise BookError(
            f"Others than its owner may use the key file {path} (mode {mode:04o}).",
            path=str(path),
            remedy="Give it mode 0600. If somebody may have read it, rotate the wrapping key: `tallybook keys rotate`.",
        )
