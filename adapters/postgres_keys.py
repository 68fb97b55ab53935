"""Data keys in PostgreSQL, each wrapped under a key that is never in the database.

A database keeps deleted rows in its pages, its log and its backups; only the wrapping key, a file on each host, makes
them worth anything. The look-up key is wrapped in the same way. Each wrapped key is bound to the book and to what it
is for, and names its wrapping key, so that one can follow another.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallybook.domain.errors import BookClosed, BookError, KeysMissing
from tallybook.projections.read_models import Table

from . import limits
from .database import Database, Session, marks, sound
from .form import uuid_from
from .keys import KEY_BYTES, NONCE_BYTES, KeyName, check_position

DATA_KEYS = Table(
    "data_keys",
    (
        ("subject", "blob"),
        ("key_id", "integer"),
        ("wrapping_key", "blob"),
        ("wrapped", "blob"),
        ("destroyed", "integer"),
    ),
    ("subject", "key_id"),
)
"""A key, or its tombstone: the position of its erasure, and nothing wrapped."""
BOOK_KEYS = Table("book_keys", (("name", "text"), ("wrapping_key", "blob"), ("wrapped", "blob")), ("name",))
KEY_NOTES = Table("key_notes", (("name", "text"), ("value", "integer")), ("name",))
LOOKUP = "lookup"
ERASED_UP_TO = "erased_up_to"

_COPY = "Copy the wrapping key from the host that made the book, with mode 0600, and name it with `wrapping_key`."


class WrappingKey:
    """A key that wraps others. Its fingerprint tells it from other wrapping keys."""

    def __init__(self, key: bytes, path: Path) -> None:
        self.path = path
        self.fingerprint = sha256(b"tallybook wrapping key\0" + key).digest()[:16]
        self._cipher = AESGCM(key)

    def wrap(self, key: bytes, origin: str, owner: UUID | str, key_id: int) -> bytes:
        """A key, sealed and bound to a book and to what it is for: a subject or a name, and the key's id."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, _bound(origin, owner, key_id))

    def unwrap(self, wrapped: bytes, fingerprint: bytes, origin: str, owner: UUID | str, key_id: int) -> bytes:
        """The key. Raises KeysMissing, if it was wrapped under another key, or altered, or moved."""
        if fingerprint != self.fingerprint:
            raise KeysMissing(
                f"{self.path} is not the wrapping key of the book {origin} "
                f"({self.fingerprint.hex()}, not {fingerprint.hex()}).",
                path=str(self.path),
                remedy=_COPY,
            )
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _bound(origin, owner, key_id))
        except (InvalidTag, ValueError) as error:
            raise KeysMissing(
                f"A key of the book {origin} can't be unwrapped: it was altered or moved in the database.",
                path=str(self.path),
                remedy="Restore the tables of keys from their backup.",
            ) from error


def _bound(origin: str, owner: UUID | str, key_id: int) -> bytes:
    bound: bytes = msgpack.packb([origin, owner if isinstance(owner, str) else owner.bytes, key_id])
    return bound


def wrapping_key_path(given: str | Path | None, origin: str) -> Path:
    """Where a book's wrapping key lies on this host: as given, or in the folder .tallybook of the user's home."""
    if given is not None:
        return Path(given)
    return Path.home() / ".tallybook" / f"{origin.rpartition('/')[2]}.wrapping-key"


def read_wrapping_key(path: Path) -> WrappingKey:
    """The wrapping key in a file. Raises KeysMissing, and BookError for a file that others may read."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except FileNotFoundError as error:
        raise KeysMissing(
            f"The wrapping key {path} is not there: without it, no personal value of the book can be opened.",
            path=str(path),
            remedy=_COPY,
        ) from error
    except OSError as error:
        raise limits.of_error(error, str(path)) or KeysMissing(
            f"The wrapping key {path} can't be read: {error.strerror or error}.", path=str(path), remedy=_COPY
        ) from error
    others = mode & (stat.S_IRWXG | stat.S_IRWXO)
    mode_too = f" (mode {stat.S_IMODE(mode):04o})."
    if len(key) != KEY_BYTES:
        raise KeysMissing(
            f"{path} is no wrapping key: {KEY_BYTES} bytes are wanted"
            + (f"; and others than its owner may use it{mode_too}" if others else "."),
            path=str(path),
            remedy=_COPY,
        )
    if others:
        raise BookError(
            f"Others than its owner may use the wrapping key {path}{mode_too}",
            path=str(path),
            remedy="Give it mode 0600. If somebody may have read it, treat the book's keys as known to them.",
        )
    return WrappingKey(key, path)


def make_wrapping_key(path: Path) -> WrappingKey:
    """Make a wrapping key, durable when this returns; one that is there already is taken. Raises KeysMissing."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Under another name first: a kill in between leaves no half of a key under this one.
        draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(file, os.urandom(KEY_BYTES))
            os.fsync(file)
        finally:
            os.close(file)
        try:
            os.link(draft, path)  # unlike a rename, never in the place of a key that is there
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise limits.of_error(error, str(path)) or KeysMissing(
            f"The wrapping key {path} can't be made: {error.strerror or error}.",
            path=str(path),
            remedy="Name a place for it that you may write to, with `wrapping_key`.",
        ) from error
    return read_wrapping_key(path)


class PostgresKeyStore:
    """Wrapped keys beside the log. Its database is closed by whoever opened it."""

    def __init__(self, database: Database, origin: str, wrapping_key: WrappingKey) -> None:
        """Raises KeysMissing, if the wrapping key is another than the book's."""
        self.origin = origin
        self.database = database
        self._wrapping_key = wrapping_key
        self._closed = False
        rows = database.rows("SELECT wrapping_key, wrapped FROM book_keys WHERE name=?", [LOOKUP])
        if not rows:
            raise KeysMissing(
                f"The book's look-up key is not in {database.place}.",
                path=database.place,
                remedy="Restore the tables of keys from their backup.",
            )
        [(_, fingerprint, wrapped)] = sound(BOOK_KEYS, [(LOOKUP, *rows[0])], database.place)
        self.lookup_key = wrapping_key.unwrap(wrapped, fingerprint, origin, LOOKUP, 0)

    @staticmethod
    def definitions() -> list[str]:
        """Statements that make the tables."""
        return [
            "CREATE TABLE data_keys (subject {blob}, key_id {integer}, wrapping_key {blob} NOT NULL, "
            "wrapped {blob} NOT NULL, destroyed {integer} NOT NULL, PRIMARY KEY (subject, key_id))",
            "CREATE TABLE key_notes (name {text} PRIMARY KEY, value {integer} NOT NULL)",
            "CREATE TABLE book_keys (name {text} PRIMARY KEY, wrapping_key {blob} NOT NULL, wrapped {blob} NOT NULL)",
        ]

    @staticmethod
    def begin(session: Session, origin: str, wrapping_key: WrappingKey) -> None:
        """Write the look-up key of a new book."""
        wrapped = wrapping_key.wrap(os.urandom(KEY_BYTES), origin, LOOKUP, 0)
        session.insert(BOOK_KEYS, [(LOOKUP, wrapping_key.fingerprint, wrapped)])

    def count(self) -> int:
        """How many keys there are."""
        self._check_open()
        return int(self.database.rows("SELECT COUNT(*) FROM data_keys WHERE destroyed=0")[0][0])

    def add(self, keys: Mapping[KeyName, bytes]) -> None:
        """Keep new keys: committed when this returns. Raises IntegrityError if one is there, or was destroyed."""
        self._check_open()
        wrapping_key = self._wrapping_key
        rows = [
            (
                subject.bytes,
                key_id,
                wrapping_key.fingerprint,
                wrapping_key.wrap(key, self.origin, subject, key_id),
                0,
            )
            for (subject, key_id), key in keys.items()
        ]
        with self.database.session(write=True) as session:
            session.insert(DATA_KEYS, rows)

    def get(self, names: Iterable[KeyName]) -> dict[KeyName, bytes]:
        """The keys that there are. Raises KeysMissing for one that can't be unwrapped."""
        self._check_open()
        return {
            name: self._wrapping_key.unwrap(wrapped, fingerprint, self.origin, *name)
            for name, fingerprint, wrapped, destroyed in self._rows(self.database.rows, names)
            if not destroyed
        }

    def destroy(self, names: Iterable[KeyName], position: int) -> None:
        """Destroy keys, and leave tombstones: committed when this returns.

        What they were wrapped in may still stand in the server's pages and its log, until the wrapping key is another.
        """
        self._check_open()
        check_position(position)
        gone = set(names)
        with self.database.session(write=True) as session:
            gone.difference_update(
                name for name, _, _, destroyed in self._rows(session.rows, gone, self.database.for_update) if destroyed
            )
            tombstones = [(subject.bytes, key_id, b"", b"", position) for subject, key_id in sorted(gone)]
            session.upsert(DATA_KEYS, tombstones)

    def destroyed(self, names: Iterable[KeyName]) -> dict[KeyName, int]:
        """The tombstones that there are."""
        self._check_open()
        return {name: destroyed for name, _, _, destroyed in self._rows(self.database.rows, names) if destroyed}

    def erased_up_to(self) -> int:
        """The position up to which erasures were carried out."""
        self._check_open()
        rows = self.database.rows("SELECT value FROM key_notes WHERE name=?", [ERASED_UP_TO])
        if not rows:
            return 0
        [(_, position)] = sound(KEY_NOTES, [(ERASED_UP_TO, *rows[0])], self.database.place)
        return int(position)

    def set_erased_up_to(self, position: int) -> None:
        """Note it: committed when this returns."""
        self._check_open()
        with self.database.session(write=True) as session:
            session.upsert(KEY_NOTES, [(ERASED_UP_TO, position)])

    def _rows(
        self, select: Callable[[str, Sequence[Any]], list[tuple[Any, ...]]], names: Iterable[KeyName], lock: str = ""
    ) -> Iterator[tuple[KeyName, bytes, bytes, int]]:
        wanted = set(names)
        subjects = sorted({subject.bytes for subject, _ in wanted})
        for start in range(0, len(subjects), 500):
            chunk = subjects[start : start + 500]
            rows = select(
                "SELECT subject, key_id, wrapping_key, wrapped, destroyed FROM data_keys "  # noqa: S608 - marks only
                f"WHERE subject IN ({marks(len(chunk))}) ORDER BY subject, key_id{lock}",
                chunk,
            )
            for subject, key_id, fingerprint, wrapped, destroyed in sound(DATA_KEYS, rows, self.database.place):
                name = (uuid_from(subject), key_id)
                if name in wanted:
                    yield name, fingerprint, wrapped, destroyed

    def close(self) -> None:
        """Answer no more."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise BookClosed("The book is closed.", path=self.database.place, remedy="Open it again.")
