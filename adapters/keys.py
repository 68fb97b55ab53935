"""Data keys: each of one subject, in a store of their own, and the sealing done with them."""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Protocol
from uuid import UUID

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import IntegrityError

from tallybook.domain.erasure import KEPT_KEY, ORDINARY_KEY
from tallybook.domain.errors import BookClosed, BookDamaged, BookError, KeyLost, KeysMissing, SealError, refusal
from tallybook.domain.personal import Sealed

from .wrapping import KEY_BYTES, NONCE_BYTES

KEYS_APPLICATION_ID = 0x7A11B00E
PUT_BACK = "Put the key file back from its backup."
HAS_A_KEY = "a subject has this key already, or had it and it was destroyed"

KeyName = tuple[UUID, int]
"""A data key's subject and its id."""


class KeyStore(Protocol):
    """Where data keys live. Each is named by its subject and its key id; a destroyed key is gone for good.

    Threads and processes may share it. `tallybook.testing.conformance.KeyStoreSuite` is its contract.
    """

    @property
    def origin(self) -> str:
        """The book that the keys belong to."""
        ...

    @property
    def lookup_key(self) -> bytes:
        """The book's key for look-up hashes and argument digests."""
        ...

    def add(self, keys: Mapping[KeyName, bytes]) -> None:
        """Keep new keys, durably. A key that is there is never replaced, and one that was destroyed never comes back:
        IntegrityError, and nothing is kept.
        """
        ...

    def get(self, names: Iterable[KeyName]) -> dict[KeyName, bytes]:
        """The keys that there are."""
        ...

    def destroy(self, names: Iterable[KeyName], position: int) -> None:
        """Destroy keys, durably, and leave a tombstone for each, of a key that never was there too.

        `position` is that of the event that says so, from 1. A tombstone that is there keeps its position.
        """
        ...

    def destroyed(self, names: Iterable[KeyName]) -> dict[KeyName, int]:
        """The tombstones that there are, each with its position.

        Only those that `destroy` left: whoever can write where the keys lie can take a key away, and not make anybody
        believe that the book destroyed it. For a row that is neither a key nor such a tombstone, this and `get` raise
        BookDamaged, or leave it out.
        """
        ...

    def tombstones(self) -> Iterable[tuple[KeyName, int]]:
        """All tombstones, each with its position: a log that was put back may know nothing of some of the erasures.

        What somebody else wrote is left out.
        """
        ...

    def erased_up_to(self) -> int:
        """The position up to which every erasure of the log was carried out here; 0 at first.

        It saves work, and proves nothing.
        """
        ...

    def set_erased_up_to(self, position: int) -> None:
        """Note that position, durably: as given, and not only upwards, since a log may be put back too."""
        ...

    def count(self) -> int:
        """How many keys there are; tombstones are none."""
        ...

    def wrapping(self) -> str | None:
        """The fingerprint of the wrapping key that the keys are stored under; None for a store that has none."""
        ...

    def outlived(self, names: Iterable[KeyName] | None = None) -> bool:
        """Whether the wrapping key of destroyed keys is still there: of some keys, or (default) of any.

        Copies of the store from before they were destroyed open with it then. `rotate` ends that. False for a store
        that has no wrapping key.
        """
        ...

    def rotate(self) -> tuple[str, str]:
        """Have all keys wrapped under a new wrapping key, and the old one destroyed, both durable when this returns.

        The fingerprints of the old one and the new. Cut short at any point, it is finished when the store is opened
        again. Other stores on the same data go on: they read the wrapping key again. Raises BookError where there is no
        wrapping key.
        """
        ...

    def close(self) -> None:
        """Release files. After that, all but the name and the look-up key raise BookClosed."""
        ...


class MemoryKeyStore:
    """Keys of a book in memory."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.lookup_key = os.urandom(KEY_BYTES)
        self._keys: dict[KeyName, bytes] = {}
        self._destroyed: dict[KeyName, int] = {}
        self._erased_up_to = 0
        self._lock = threading.Lock()
        self._closed = False

    def add(self, keys: Mapping[KeyName, bytes]) -> None:
        """Keep new keys. Raises IntegrityError if one is there, or was destroyed."""
        with self._open():
            if not (self._keys.keys() | self._destroyed.keys()).isdisjoint(keys):
                raise IntegrityError(HAS_A_KEY)
            self._keys.update(keys)

    def get(self, names: Iterable[KeyName]) -> dict[KeyName, bytes]:
        """The keys that there are."""
        with self._open():
            return {name: self._keys[name] for name in names if name in self._keys}

    def destroy(self, names: Iterable[KeyName], position: int) -> None:
        """Destroy keys, and leave tombstones."""
        check_position(position)
        with self._open():
            for name in names:
                self._keys.pop(name, None)
                self._destroyed.setdefault(name, position)

    def destroyed(self, names: Iterable[KeyName]) -> dict[KeyName, int]:
        """The tombstones that there are."""
        with self._open():
            return {name: self._destroyed[name] for name in names if name in self._destroyed}

    def tombstones(self) -> list[tuple[KeyName, int]]:
        """All tombstones."""
        with self._open():
            return list(self._destroyed.items())

    def erased_up_to(self) -> int:
        """The position up to which erasures were carried out."""
        with self._open():
            return self._erased_up_to

    def set_erased_up_to(self, position: int) -> None:
        """Note it."""
        with self._open():
            self._erased_up_to = position

    def count(self) -> int:
        """How many keys there are."""
        with self._open():
            return len(self._keys)

    def wrapping(self) -> None:
        """None: nothing is wrapped that is in no file."""
        with self._open():
            return

    def outlived(self, names: Iterable[KeyName] | None = None) -> bool:  # noqa: ARG002 - as declared in KeyStore
        """False: there is no wrapping key."""
        with self._open():
            return False

    def rotate(self) -> tuple[str, str]:
        """Raises BookError."""
        with self._open():
            raise BookError(
                "A book in memory has no wrapping key.",
                path="the book in memory",
                remedy="Rotate that of a book in files, or on a server.",
            )

    def close(self) -> None:
        """Answer no more."""
        self._closed = True

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise BookClosed("The book is closed.", path="the book in memory", remedy="Open it again.")
            yield


class NoKeys:
    """In the place of the keys of a book that is opened without: all that would need one raises KeysMissing."""

    def __init__(self, origin: str, place: str) -> None:
        self.origin = origin
        self._place = place

    @property
    def lookup_key(self) -> bytes:
        """Raises KeysMissing."""
        raise self.missing()

    def add(self, keys: Mapping[KeyName, bytes]) -> None:  # noqa: ARG002 - as in the protocol
        """Raises KeysMissing."""
        raise self.missing()

    def get(self, names: Iterable[KeyName]) -> dict[KeyName, bytes]:
        """None for none; else raises KeysMissing."""
        if list(names):
            raise self.missing()
        return {}

    def destroy(self, names: Iterable[KeyName], position: int) -> None:  # noqa: ARG002 - as in the protocol
        """Raises KeysMissing."""
        raise self.missing()

    def destroyed(self, names: Iterable[KeyName]) -> dict[KeyName, int]:  # noqa: ARG002 - as in the protocol
        """Raises KeysMissing."""
        raise self.missing()

    def tombstones(self) -> list[tuple[KeyName, int]]:
        """Raises KeysMissing."""
        raise self.missing()

    def erased_up_to(self) -> int:
        """Raises KeysMissing."""
        raise self.missing()

    def set_erased_up_to(self, position: int) -> None:  # noqa: ARG002 - as in the protocol
        """Raises KeysMissing."""
        raise self.missing()

    def count(self) -> int:
        """Raises KeysMissing."""
        raise self.missing()

    def wrapping(self) -> None:
        """None: it is not known."""

    def outlived(self, names: Iterable[KeyName] | None = None) -> bool:  # noqa: ARG002 - as in the protocol
        """Raises KeysMissing."""
        raise self.missing()

    def rotate(self) -> tuple[str, str]:
        """Raises KeysMissing."""
        raise self.missing()

    def close(self) -> None:
        """Nothing is open."""

    def missing(self, told: str = "") -> KeysMissing:
        """The error for whoever needs the keys."""
        return KeysMissing(
            f"The book {self._place} is open without its data keys{told}.",
            path=self._place,
            remedy="Open it with its keys.",
        )


def check_position(position: int) -> None:
    """Raises ValueError for what can't be the position of an event."""
    if position < 1:
        raise ValueError("an erasure is an event, and stands at a position from 1")


def commitment(data_key: bytes) -> bytes:
    """What the log holds of a key, so that a ciphertext can't be opened under two keys."""
    return hmac.digest(data_key, b"commit", sha256)


def secret(lookup_key: bytes, purpose: str) -> bytes:
    """A book's key for one purpose. It is nowhere written, so that whoever has the database alone lacks it."""
    # No look-up hash is the same: what they are made of begins as a msgpack array does.
    return hmac.digest(lookup_key, f"tallybook {purpose}".encode(), sha256)


class Keyring:
    """Seals and opens with the keys of a store; caches a cipher for each key, up to a number."""

    CACHED_MAX = 100_000

    def __init__(
        self,
        store: KeyStore,
        commitment_of: Callable[[UUID, int], bytes | None],
        ordinary_of: Callable[[UUID], int] = lambda _: ORDINARY_KEY,
    ) -> None:
        """`commitment_of` is what the log holds of a key, by subject and key id; `ordinary_of` the id of the key under
        which it has new values of a subject sealed.
        """
        self.store = store
        self.origin = store.origin
        self._commitment_of = commitment_of
        self._ordinary_of = ordinary_of
        self._ordinary: dict[UUID, int] = {}  # of whom it is not the first
        self._ciphers: dict[KeyName, tuple[AESGCM, bytes]] = {}  # with the key's commitment
        self._checked: set[KeyName] = set()
        self._forgotten = 0
        self._lock = threading.Lock()

    def key_for(self, subject: UUID, *, fresh: bool, key_id: int = ORDINARY_KEY) -> tuple[int, bytes, bytes]:
        """Key id, commitment and key for a subject that is being registered.

        A subject whose registration failed once may have a key already: it is used again. `fresh`: the id is new, so
        that there is none. The key counts from `keep` on. Refuses: customer_erased, where one was destroyed: a log that
        was put back from a copy may know nothing of that.
        """
        name = (subject, key_id)
        key = None if fresh else self.store.get([name]).get(name)
        if key is None:
            if not fresh and self.store.destroyed([name]):
                raise refusal("customer_erased", f"The customer {subject} was erased.", customer=subject)
            key = os.urandom(KEY_BYTES)
        return key_id, commitment(key), key

    def believed(self, subject: UUID) -> int:
        """Id of the key under which new values of a subject are sealed, as this process learned it last.

        Another process may have erased single values since: whoever commits asks the log whether the key still is.
        """
        return self._ordinary.get(subject, ORDINARY_KEY)

    def ordinary(self, subject: UUID) -> int:
        """The same, asked of the log where the key that this process knows of was destroyed."""
        name = (subject, self.believed(subject))
        if name not in self._ciphers:
            self.load([name])
            if name not in self._ciphers and self.store.destroyed([name]):
                return self.learn(subject)
        return name[1]

    def learn(self, subject: UUID) -> int:
        """Ask the log for the id of the key under which new values of a subject are sealed."""
        key_id = self._ordinary_of(subject)
        if key_id != ORDINARY_KEY:
            self._ordinary[subject] = key_id
        else:
            self._ordinary.pop(subject, None)
        return key_id

    def following(self, subject: UUID, key_id: int) -> int:
        """Id of the ordinary key that comes after one. Left out are those that were destroyed: a log that was put back
        may know nothing of them.
        """
        while True:
            key_id = KEPT_KEY + 1 if key_id == ORDINARY_KEY else key_id + 1
            if not self.store.destroyed([(subject, key_id)]):
                return key_id

    def left_over(self, subject: UUID, key_id: int) -> list[int]:
        """Ids of the keys of a subject that were made for what never was committed: they follow the ordinary one."""
        key_id = self.following(subject, key_id)
        return [key_id] if self.store.get([(subject, key_id)]) else []

    def keep(self, keys: Mapping[KeyName, bytes]) -> None:
        """Commit new keys to the store: before any event sealed with them. Raises IntegrityError if one is another."""
        held = self.store.get(keys)
        if any(keys[name] != key for name, key in held.items()):
            raise IntegrityError("a subject was given a key meanwhile")
        new = {name: key for name, key in keys.items() if name not in held}
        if new:
            self.store.add(new)
        with self._lock:
            for name, key in keys.items():
                self._remember(name, key)
                self._checked.add(name)  # it is what the log is about to commit to

    def destroy(self, names: Iterable[KeyName], position: int) -> None:
        """Destroy keys for good, here and in the store; `position` is that of the event that says so.

        Raises BookDamaged where one is there all the same, or its tombstone is not.
        """
        gone = list(names)
        self.store.destroy(gone, position)
        self.forget(gone)
        self.check_destroyed(gone)

    def check_destroyed(self, names: Iterable[KeyName]) -> None:
        """Raises BookDamaged where a key that was to be destroyed is in the store, or its tombstone is not."""
        gone = list(names)
        left = [*self.store.get(gone), *(set(gone) - self.store.destroyed(gone).keys())]
        if left:
            raise BookDamaged(
                f"The key store was told to destroy the data key {left[0][1]} of {left[0][0]}, and did not.",
                path=self.origin,
                remedy="Find out who altered the store of the keys, and what keeps them. Then open the book again.",
            )

    def forget(self, names: Iterable[KeyName]) -> None:
        """Drop what is cached of keys: another process may have destroyed them."""
        with self._lock:
            self._forgotten += 1  # a load that is under way must not bring them back
            for name in names:
                self._ciphers.pop(name, None)
                self._checked.discard(name)

    def seal(
        self,
        subject: UUID,
        event_id: UUID,
        stored_name: str,
        schema_version: int,
        fields: Sequence[str],
        values: Sequence[object],
        key_id: int = ORDINARY_KEY,
    ) -> bytes:
        """One blob of an event's personal values, bound to the event, its form and its subject."""
        nonce = os.urandom(NONCE_BYTES)
        bound = self._bound(event_id, stored_name, schema_version, subject, key_id, fields)
        held = self._checked_cipher((subject, key_id))
        if held is None:
            if self.store.destroyed([(subject, key_id)]):
                raise refusal("customer_erased", f"The customer {subject} was erased.", customer=subject)
            raise SealError(f"There is no data key for subject {subject}.")
        return nonce + held[0].encrypt(nonce, msgpack.packb(list(values)), bound)

    def open(self, sealed: Sealed) -> dict[str, object] | None:
        """The values of a blob by field; None where the subject's key was destroyed. Raises KeyLost, SealError.

        Only the gate calls this.
        """
        subject, name = sealed.subject_id, (sealed.subject_id, sealed.key_id)
        held = self._checked_cipher(name)
        if held is None:
            if self.store.destroyed([name]):
                return None
            raise KeyLost(
                f"The data key {sealed.key_id} of subject {subject} is not in the key store, and nobody destroyed it.",
                path=self.origin,
                remedy=PUT_BACK,
            )
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

    def load(self, names: Iterable[KeyName]) -> None:
        """Read many keys at once."""
        missing = [name for name in names if name not in self._ciphers]
        while missing:
            forgotten = self._forgotten
            found = self.store.get(missing)
            with self._lock:
                if forgotten == self._forgotten:
                    for name, key in found.items():
                        self._remember(name, key)
                    return

    def lookup_hash(self, kind: str, *parts: str) -> bytes:
        """A keyed hash by which something personal can be found again without being written."""
        return hmac.digest(self.store.lookup_key, msgpack.packb([kind, *parts]), sha256)

    def _checked_cipher(self, name: KeyName) -> tuple[AESGCM, bytes] | None:
        """What seals and opens under a key; None without it. Raises SealError for another key than the log's."""
        held = self._ciphers.get(name)
        if held is None:
            self.load([name])
            held = self._ciphers.get(name)
        if held is not None and name not in self._checked:
            expected = self._commitment_of(*name)
            if expected is None or not hmac.compare_digest(held[1], expected):
                raise SealError(f"The data key of subject {name[0]} is not the one that the log commits to. {PUT_BACK}")
            self._checked.add(name)
        return held

    def _remember(self, name: KeyName, key: bytes) -> None:
        while len(self._ciphers) >= self.CACHED_MAX:
            oldest = next(iter(self._ciphers))
            del self._ciphers[oldest]
            self._checked.discard(oldest)
        self._ciphers[name] = (AESGCM(key), commitment(key))

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
