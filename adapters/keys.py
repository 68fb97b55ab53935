"""Data keys: one for each subject, in a store of their own, and the sealing done with them."""

from __future__ import annotations

import hmac
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import IntegrityError

from tallybook.domain.errors import BookClosed, KeysMissing, NotABook, SealError
from tallybook.domain.personal import Sealed

from .database import FORMAT, check_format, damaged
from .files import is_ours
from .sqlite import IN_THIS_PROCESS, check_same_process, translated

KEY_BYTES = 32
NONCE_BYTES = 12
FIRST_KEY_ID = 1
KEYS_APPLICATION_ID = 0x7A11B00E
PUT_BACK = "Put the key file back from its backup."


class KeyStore(Protocol):
    """Where data keys live. Each subject has one; a destroyed key is gone for good. Threads may share it.

    `tallybook.testing.conformance.KeyStoreSuite` is its contract.
    """

    @property
    def origin(self) -> str:
        """The book that the keys belong to."""
        ...

    @property
    def lookup_key(self) -> bytes:
        """The book's key for look-up hashes and argument digests."""
        ...

    def add(self, keys: Mapping[UUID, bytes]) -> None:
        """Keep new keys, durably. A key that is there is never replaced: IntegrityError, and nothing is kept."""
        ...

    def get(self, subjects: Iterable[UUID]) -> dict[UUID, bytes]:
        """The keys that there are."""
        ...

    def close(self) -> None:
        """Release files. After that, `add` and `get` raise BookClosed."""
        ...


class MemoryKeyStore:
    """Keys of a book in memory."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.lookup_key = os.urandom(KEY_BYTES)
        self._keys: dict[UUID, bytes] = {}
        self._lock = threading.Lock()
        self._closed = False

    def add(self, keys: Mapping[UUID, bytes]) -> None:
        """Keep new keys. Raises IntegrityError if one is there."""
        with self._lock:
            self._check_open()
            if not self._keys.keys().isdisjoint(keys):
                raise IntegrityError("a subject has a key already")
            self._keys.update(keys)

    def get(self, subjects: Iterable[UUID]) -> dict[UUID, bytes]:
        """The keys that there are."""
        with self._lock:
            self._check_open()
            return {subject: self._keys[subject] for subject in subjects if subject in self._keys}

    def close(self) -> None:
        """Answer no more."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise BookClosed("The book is closed.", path="the book in memory", remedy="Open it again.")


class FileKeyStore:
    """Keys in an SQLite file of their own, readable by its owner only, deleted bytes overwritten."""

    def __init__(self, path: Path, *, origin: str | None = None, lock_timeout_s: int = 30) -> None:
        """Open the key file; with `origin`, make one if there is none. Raises KeysMissing, NewerBook.

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
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        try:
            self._connection = connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=lock_timeout_s
            )
            try:
                connection.execute("PRAGMA secure_delete=ON")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA journal_mode=TRUNCATE")
                if not exists:
                    self._make(origin or "")
                meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise translated(error, str(path)) from error
        origin, lookup_key = meta.get("origin"), meta.get("lookup_key")
        if type(origin) is not str or type(lookup_key) is not bytes or len(lookup_key) != KEY_BYTES:
            connection.close()
            raise KeysMissing(
                f"The key file {path} is damaged: the book's name or its look-up key does not stand in the table meta.",
                path=str(path),
                remedy=PUT_BACK,
            )
        self.origin: str = origin
        self.lookup_key: bytes = lookup_key
        IN_THIS_PROCESS.add(self)

    def _make(self, origin: str) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        if execute("PRAGMA application_id").fetchone()[0] == 0:
            execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")
            execute("CREATE TABLE keys (subject BLOB PRIMARY KEY, data_key BLOB NOT NULL) WITHOUT ROWID")
            execute("INSERT INTO meta VALUES ('origin', ?)", (origin,))
            execute("INSERT INTO meta VALUES ('lookup_key', ?)", (os.urandom(KEY_BYTES),))
            execute(f"PRAGMA application_id={KEYS_APPLICATION_ID}")
            execute(f"PRAGMA user_version={FORMAT}")
        execute("COMMIT")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        check_same_process(self._pid, str(self.path))
        with self._lock:
            if self._closed:
                raise BookClosed("The book is closed.", path=str(self.path), remedy="Open it again.")
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise translated(error, str(self.path)) from error

    def held(self) -> Iterable[sqlite3.Connection]:
        """The one connection."""
        return [self._connection]

    def count(self) -> int:
        """How many subjects have a key."""
        with self._open() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM keys").fetchone()[0])

    def add(self, keys: Mapping[UUID, bytes]) -> None:
        """Keep new keys: committed when this returns. Raises IntegrityError if one is there."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                check_format(connection.execute("PRAGMA user_version").fetchone()[0], str(self.path))
                connection.executemany(
                    "INSERT INTO keys VALUES (?, ?)", [(subject.bytes, key) for subject, key in keys.items()]
                )
                connection.execute("COMMIT")
            except BaseException:
                # SQLite may have rolled back by itself, and a commit that failed leaves the transaction open.
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

    def get(self, subjects: Iterable[UUID]) -> dict[UUID, bytes]:
        """The keys that there are."""
        wanted = list(subjects)
        found: dict[UUID, bytes] = {}
        with self._open() as connection:
            for start in range(0, len(wanted), 500):
                chunk = [subject.bytes for subject in wanted[start : start + 500]]
                marks = ",".join("?" * len(chunk))
                rows = connection.execute(
                    f"SELECT subject, data_key FROM keys WHERE subject IN ({marks})",  # noqa: S608 - marks only
                    chunk,
                )
                found.update(self._sound(rows))
        return found

    def _sound(self, rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[UUID, bytes]]:
        for subject, key in rows:
            if type(subject) is not bytes or len(subject) != 16 or type(key) is not bytes or len(key) != KEY_BYTES:
                raise damaged("A row of the table keys holds no subject and key", str(self.path), PUT_BACK)
            yield UUID(bytes=subject), key

    def copy_to(self, copy: sqlite3.Connection) -> None:
        """Copy the file as it is, page by page."""
        with self._open() as connection:
            connection.backup(copy)

    def is_within(self, other: FileKeyStore) -> bool:
        """Whether another file holds all keys of this one."""
        with self._open() as connection:
            rows = connection.execute("SELECT subject, data_key FROM keys").fetchall()
        held = dict(self._sound(rows))
        return other.get(held) == held

    def close(self) -> None:
        """Release the file, once nobody is reading it."""
        if self._pid != os.getpid():
            return  # the parent's connection
        with self._lock:
            self._closed = True
            self._connection.close()


def commitment(data_key: bytes) -> bytes:
    """What the log holds of a key, so that a ciphertext can't be opened under two keys."""
    return hmac.digest(data_key, b"commit", sha256)


def secret(lookup_key: bytes, purpose: str) -> bytes:
    """A book's key for one purpose. It is nowhere written, so that whoever has the database alone lacks it."""
    # No look-up hash is the same: what they are made of begins as a msgpack array does.
    return hmac.digest(lookup_key, f"tallybook {purpose}".encode(), sha256)


class Keyring:
    """Seals and opens with the keys of a store; caches a cipher for each subject."""

    CACHED_MAX = 100_000

    def __init__(self, store: KeyStore, commitment_of: Callable[[UUID], bytes | None]) -> None:
        self.store = store
        self.origin = store.origin
        self._commitment_of = commitment_of
        self._ciphers: dict[UUID, tuple[AESGCM, bytes]] = {}  # with the key's commitment
        self._checked: set[UUID] = set()
        self._lock = threading.Lock()

    def key_for(self, subject: UUID, *, fresh: bool) -> tuple[int, bytes, bytes]:
        """Key id, commitment and key for a subject that is being registered.

        A subject whose registration failed once may have a key already: it is used again. `fresh`: the id is new, so
        that there is none. The key counts from `keep` on.
        """
        key = None if fresh else self.store.get([subject]).get(subject)
        if key is None:
            key = os.urandom(KEY_BYTES)
        return FIRST_KEY_ID, commitment(key), key

    def keep(self, keys: Mapping[UUID, bytes]) -> None:
        """Commit new keys to the store: before any event sealed with them. Raises IntegrityError if one is another."""
        held = self.store.get(keys)
        if any(keys[subject] != key for subject, key in held.items()):
            raise IntegrityError("a subject was given a key meanwhile")
        new = {subject: key for subject, key in keys.items() if subject not in held}
        if new:
            self.store.add(new)
        with self._lock:
            for subject, key in keys.items():
                self._remember(subject, key)
                self._checked.add(subject)  # it is what the log is about to commit to

    def seal(
        self,
        subject: UUID,
        event_id: UUID,
        stored_name: str,
        schema_version: int,
        fields: Sequence[str],
        values: Sequence[object],
    ) -> bytes:
        """One blob of an event's personal values, bound to the event, its form and its subject."""
        nonce = os.urandom(NONCE_BYTES)
        bound = self._bound(event_id, stored_name, schema_version, subject, FIRST_KEY_ID, fields)
        held = self._checked_cipher(subject)
        if held is None:
            raise SealError(f"There is no data key for subject {subject}.")
        return nonce + held[0].encrypt(nonce, msgpack.packb(list(values)), bound)

    def open(self, sealed: Sealed) -> dict[str, object] | None:
        """The values of a blob by field; None where the subject's key was destroyed. Raises SealError.

        Only the gate calls this.
        """
        subject = sealed.subject_id
        held = self._checked_cipher(subject)
        if held is None:
            return None
        cipher, _ = held
        bound = self._bound(
            sealed.event_id, sealed.stored_name, sealed.schema_version, subject, sealed.key_id, sealed.fields
        )
        try:
            values = msgpack.unpackb(cipher.decrypt(sealed.blob[:NONCE_BYTES], sealed.blob[NONCE_BYTES:], bound))
        except (InvalidTag, ValueError) as error:
            raise SealError(
                f"The sealed values of event {sealed.event_id} ({sealed.stored_name}) of subject {subject} "
                "can't be opened: the bytes were moved or altered, or the key is another."
            ) from error
        return dict(zip(sealed.fields, values, strict=True))

    def load(self, subjects: Iterable[UUID]) -> None:
        """Read many subjects' keys at once."""
        missing = [subject for subject in subjects if subject not in self._ciphers]
        if missing:
            found = self.store.get(missing)
            with self._lock:
                for subject, key in found.items():
                    self._remember(subject, key)

    def lookup_hash(self, kind: str, *parts: str) -> bytes:
        """A keyed hash by which something personal can be found again without being written."""
        return hmac.digest(self.store.lookup_key, msgpack.packb([kind, *parts]), sha256)

    def _checked_cipher(self, subject: UUID) -> tuple[AESGCM, bytes] | None:
        """What seals and opens for a subject; None without a key. Raises SealError for another key than the log's."""
        held = self._ciphers.get(subject)
        if held is None:
            self.load([subject])
            held = self._ciphers.get(subject)
        if held is not None and subject not in self._checked:
            expected = self._commitment_of(subject)
            if expected is None or not hmac.compare_digest(held[1], expected):
                raise SealError(f"The data key of subject {subject} is not the one that the log commits to. {PUT_BACK}")
            self._checked.add(subject)
        return held

    def _remember(self, subject: UUID, key: bytes) -> None:
        while len(self._ciphers) >= self.CACHED_MAX:
            oldest = next(iter(self._ciphers))
            del self._ciphers[oldest]
            self._checked.discard(oldest)
        self._ciphers[subject] = (AESGCM(key), commitment(key))

    def _bound(
        self,
        event_id: UUID,
        stored_name: str,
        schema_version: int,
        subject: UUID,
        key_id: int,
        fields: Sequence[str],
    ) -> bytes:
        bound: bytes = msgpack.packb(
            [self.origin, event_id.bytes, stored_name, schema_version, subject.bytes, key_id, list(fields)]
        )
        return bound
