"""Wrapping keys: data keys are stored under one of these only, and it lies elsewhere than they do.

A database keeps deleted rows in its pages, its log and its backups; without the wrapping key they are worth nothing.
Each wrapped key is bound to its book, its subject and its key id, and stands beside the fingerprint of what wraps it,
so that one wrapping key can follow another. A wrapping key is of one book, and says which: a rotation by another book
that shares it would take it away from this one.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from uuid import UUID

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallybook.domain.errors import BookError, KeysMissing, TallybookError

from . import limits

KEY_BYTES = 32
NONCE_BYTES = 12
KEYS_MAX = 2
"""During a rotation a source holds the new key and the one before; else one."""

A_LATER_COPY = (
    "Keys and wrapping key change together, with each erasure and rotation: use copies of one time, or copy the "
    "wrapping key from the host that made the book, with mode 0600. Keys that were copied before open nothing now."
)
COPY_IT = (
    "Copy the wrapping key from the host that made the book, with mode 0600, or name its place with `wrapping_key`."
)
OF_ITS_OWN = (
    "Each book has a wrapping key of its own: put this book's file back, or name its place with `wrapping_key`. For a "
    "new book, name a place where there is none."
)
HEADER = "tallybook wrapping key"
"""First line of a file of wrapping keys. The second is the book's name, each line after it a key (base64)."""
FILE_BYTES_MAX = 256 * 1024
DRAFT = ".new"
RESTORE_KEYS = "Put the keys back from their backup."


class WrappingKeys(Protocol):
    """Where a book's wrapping key lies. What is held there is of one book, by its name (`origin`), and of no other.

    `tallybook.testing.conformance.WrappingKeysSuite` is its contract.
    """

    @property
    def place(self) -> str:
        """What messages call it; without any secret."""
        ...

    def read(self, origin: str) -> Sequence[bytes]:
        """The book's keys, newest first: one, or two during a rotation; none where there is nothing yet.

        Raises KeysMissing for another book's, and for what can't be used.
        """
        ...

    def replace(self, origin: str, keys: Sequence[bytes]) -> None:
        """Hold these keys of the book instead, durably and all at once: whoever reads sees those before or these.

        Raises KeysMissing where another book's are, and leaves those, also if two books are made there at once.
        """
        ...


class KmsClient(Protocol):
    """What is asked of a key management service: to encrypt a few bytes, and to decrypt them, for one context."""

    def encrypt(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """The ciphertext."""
        ...

    def decrypt(self, ciphertext: bytes, context: Mapping[str, str]) -> bytes:
        """The plaintext. Raises an exception of its own, if the ciphertext or the context is another."""
        ...


class FileWrappingKeys:
    """In a file for its owner alone: the book's name, and the keys."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def place(self) -> str:
        """The file."""
        return str(self.path)

    def read(self, origin: str) -> Sequence[bytes]:
        """The keys in the file. Raises KeysMissing, and BookError for a file that others may use."""
        return _checked(_read(self.path, origin, in_clear=True), self.path)

    def replace(self, origin: str, keys: Sequence[bytes]) -> None:
        """Write a new file in the place of the old one, whose bytes are overwritten. Raises KeysMissing, BookError."""
        _replace(self.path, origin, keys)


class KmsWrappingKeys:
    """In a file that a key management service encrypted: whoever has it has to ask the service, too.

    `client` is the service, adapted to `encrypt(plaintext, context)` and `decrypt(ciphertext, context)`; `context` and
    the book's name (`origin`) are bound to the ciphertext, and show in the service's own log.
    """

    def __init__(self, client: KmsClient, path: str | Path, context: Mapping[str, str] | None = None) -> None:
        self.client = client
        self.path = Path(path)
        self.context = dict(context or {"purpose": HEADER})

    @property
    def place(self) -> str:
        """The file."""
        return str(self.path)

    def read(self, origin: str) -> Sequence[bytes]:
        """The keys, decrypted by the service. Raises KeysMissing."""
        held = _read(self.path, origin)
        try:
            keys = [self.client.decrypt(one, self._bound(origin)) for one in held]
        except Exception as error:  # every service has errors of its own
            raise KeysMissing(
                f"The key management service does not decrypt {self.path}: {type(error).__name__}: {error}",
                path=str(self.path),
                remedy="Check who you are to the service, and that this is the book's own file.",
            ) from error
        return _checked(keys, self.path)

    def replace(self, origin: str, keys: Sequence[bytes]) -> None:
        """Have the service encrypt the keys, and write a new file in the place of the old one.

        Raises KeysMissing, BookError.
        """
        _replace(self.path, origin, [self.client.encrypt(key, self._bound(origin)) for key in keys])

    def _bound(self, origin: str) -> Mapping[str, str]:
        return {**self.context, "origin": origin}


def _checked(keys: Sequence[bytes], path: Path) -> Sequence[bytes]:
    if len(keys) > KEYS_MAX or any(type(key) is not bytes or len(key) != KEY_BYTES for key in keys):
        raise _no_key(path)
    return keys


def _no_key(path: Path, more: str = "") -> KeysMissing:
    return KeysMissing(
        f"{path} is no wrapping key: a line {HEADER!r}, the book's name, and {KEY_BYTES} bytes in base64 are wanted"
        f"{more}.",
        path=str(path),
        remedy=COPY_IT,
    )


def _read(path: Path, origin: str, *, in_clear: bool = False) -> list[bytes]:
    """What a file holds for a book; nothing, if there is no file. Raises KeysMissing, and BookError for keys in clear
    that others may use.
    """
    try:
        while True:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX)
                found = os.fstat(file.fileno())
            if found.st_nlink:  # else it was replaced meanwhile, and may have been overwritten before it was read
                break
    except FileNotFoundError:
        return []
    except OSError as error:
        raise limits.of_error(error, str(path)) or KeysMissing(
            f"The wrapping key {path} can't be read: {error.strerror or error}.", path=str(path), remedy=COPY_IT
        ) from error
    others = in_clear and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    mode = f" (mode {stat.S_IMODE(found.st_mode):04o})" if others else ""
    also = f"; and others than its owner may use it{mode}" if mode else ""
    lines = content.decode("ascii", "replace").splitlines()
    if len(lines) < 3 or lines[0] != HEADER:
        raise _no_key(path, also)
    if lines[1] != origin:
        raise KeysMissing(
            f"{path} is the wrapping key of another book ({lines[1]}, not {origin}){also}.",
            path=str(path),
            remedy=OF_ITS_OWN,
        )
    try:
        held = [b64decode(line, validate=True) for line in lines[2:]]
    except ValueError:
        raise _no_key(path, also) from None
    if mode:
        raise BookError(
            f"Others than its owner may use the wrapping key {path}{mode}.",
            path=str(path),
            remedy="Give it mode 0600. If somebody may have read it, rotate it: `tallybook keys rotate`.",
        )
    return held


def _replace(path: Path, origin: str, held: Sequence[bytes]) -> None:
    """Put a file in the place of one of the same book: under another name first, so that a kill leaves one of the two
    whole. Raises KeysMissing, BookError.
    """
    there = _read(path, origin)
    content = "\n".join([HEADER, origin, *(b64encode(one).decode() for one in held), ""]).encode("ascii")
    draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}{DRAFT}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                os.write(file, content)
                os.fsync(file)
            finally:
                os.close(file)
            if there:
                _put_over(draft, path)
            else:
                _put_where_none_is(draft, path, origin)
        finally:
            draft.unlink(missing_ok=True)
        if there:
            for left in path.parent.glob(f"{escape(path.name)}.*{DRAFT}"):
                left.unlink(missing_ok=True)  # by a kill: whoever replaces keys is alone in it
    except OSError as error:
        raise limits.of_error(error, str(path)) or KeysMissing(
            f"The wrapping key {path} can't be written: {error.strerror or error}.",
            path=str(path),
            remedy="Name a place for it that you may write to, with `wrapping_key`.",
        ) from error


def _put_over(draft: Path, path: Path) -> None:
    """Give a file the name of one that is there, and overwrite the bytes of that one."""
    before = os.open(path, os.O_WRONLY)
    try:
        os.replace(draft, path)
        _sync(path.parent)
        if os.fstat(before).st_nlink == 0:
            # Nobody can open it any more. A file system that writes elsewhere keeps the bytes all the same.
            os.write(before, bytes(os.fstat(before).st_size))
            os.fsync(before)
    finally:
        os.close(before)


def _put_where_none_is(draft: Path, path: Path, origin: str) -> None:
    """Give a file its name, unless another book's has it by now. Raises KeysMissing."""
    try:
        os.link(draft, path)  # unlike a rename, never in the place of one that is there
    except OSError:  # it is there, or the file system has no hard links
        if _read(path, origin):
            raise
        os.replace(draft, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def wrapping_keys(given: str | Path | WrappingKeys | None, default: Path) -> WrappingKeys:
    """Where a book's wrapping key lies: a file, or a source of the host's own."""
    if given is None or isinstance(given, (str, Path)):
        return FileWrappingKeys(default if given is None else given)
    return given


def hold(source: WrappingKeys, origin: str, keys: Sequence[bytes]) -> None:
    """Have a source hold keys, and look that it does.

    Raises BookError for one that can't be replaced: sources of hosts and services have errors of their own.
    """
    try:
        source.replace(origin, keys)
        if list(source.read(origin)) == list(keys):
            return
        why = "it holds others than it was given"
    except TallybookError:
        raise
    except Exception as error:
        raise _fixed(source, f"{type(error).__name__}: {error}") from error
    raise _fixed(source, why)


def _fixed(source: WrappingKeys, why: str) -> BookError:
    return BookError(
        f"The wrapping key {source.place} can't be replaced: {why}.",
        path=source.place,
        remedy="Give the book a source that it may replace: an erasure and `tallybook keys rotate` need that.",
    )


def home_of(origin: str) -> Path:
    """Where the wrapping key of a book on a server lies on this host by default."""
    return Path.home() / ".tallybook" / f"{origin.rpartition('/')[2]}.wrapping-key"


def fingerprint(key: bytes) -> bytes:
    """Tells a wrapping key from others; the key can't be found from it."""
    return sha256(b"tallybook wrapping key\0" + key).digest()[:16]


def ciphers(keys: Sequence[bytes]) -> Mapping[bytes, AESGCM]:
    """What wraps and unwraps, by the keys' fingerprints."""
    return {fingerprint(key): AESGCM(key) for key in keys}


class Wrapping:
    """Wraps and unwraps under the keys of a source, which it reads again where it does not know one."""

    def __init__(self, source: WrappingKeys, origin: str) -> None:
        """Raises KeysMissing, and BookError for a source that can't be used."""
        self.source = source
        self.origin = origin
        self._keys: Mapping[bytes, AESGCM] = {}  # replaced, never altered: other threads may have it in hand
        self.read()

    def read(self) -> Sequence[bytes]:
        """The source's keys of now, newest first; others are forgotten. Raises KeysMissing."""
        keys = self.source.read(self.origin)
        if not keys:
            raise KeysMissing(
                f"The wrapping key {self.source.place} is not there: without it, no personal value of the book can "
                "be opened.",
                path=self.source.place,
                remedy=COPY_IT,
            )
        self._keys = ciphers(keys)
        return keys

    def holding(self, names: Iterable[bytes]) -> Mapping[bytes, AESGCM]:
        """The keys at hand by their fingerprints, and the source is read again before some of these are missing.

        To be worked with for a while: whoever reads the source again in another thread may forget one of them.
        """
        if not self._keys.keys() >= set(names):
            self.read()
        return self._keys

    def knows(self, name: bytes) -> bool:
        """Whether there is a key of this fingerprint; the source is read again before it is said that there is none."""
        return name in self.holding([name])

    @property
    def newest(self) -> bytes:
        """The fingerprint of the newest key that was read."""
        return next(iter(self._keys))

    def another(self, name: bytes) -> KeysMissing:
        """The error for a fingerprint of which the source has no key."""
        return KeysMissing(
            f"{self.source.place} is not the wrapping key of the book {self.origin} "
            f"({self.newest.hex()}, not {name.hex()}).",
            path=self.source.place,
            remedy=A_LATER_COPY,
        )

    def wrap(
        self, name: bytes, key: bytes, owner: UUID | str, key_id: int, held: Mapping[bytes, AESGCM] | None = None
    ) -> bytes:
        """A key, sealed under the one of a fingerprint, and bound to the book, to its subject or name, and its id.

        `held`: what `holding` gave.
        """
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher(name, held).encrypt(nonce, key, self._bound(owner, key_id))

    def unwrap(
        self, name: bytes, wrapped: bytes, owner: UUID | str, key_id: int, held: Mapping[bytes, AESGCM] | None = None
    ) -> bytes:
        """The key. Raises KeysMissing, if it was wrapped under another key than the source's, or altered, or moved."""
        return self._opened(self._cipher(name, held), wrapped, self._bound(owner, key_id))

    def _opened(self, cipher: AESGCM, wrapped: bytes, bound: bytes) -> bytes:
        try:
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], bound)
        except (InvalidTag, ValueError) as error:
            raise KeysMissing(
                f"A key of the book {self.origin} can't be unwrapped: it was altered or moved where it is stored.",
                path=self.source.place,
                remedy=RESTORE_KEYS,
            ) from error

    def wrap_anew(
        self, name: bytes, rows: Sequence[tuple[bytes, int, bytes, bytes]], held: Mapping[bytes, AESGCM]
    ) -> list[bytes]:
        """Many keys, each given with its subject, its id and what it is wrapped under, under the key of a fingerprint.

        Raises KeysMissing as `unwrap` does.
        """
        nonces = os.urandom(NONCE_BYTES * len(rows))
        seal = self._cipher(name, held).encrypt
        found = []
        for place, (subject, key_id, under, wrapped) in enumerate(rows):
            bound = self._bound(subject, key_id)
            nonce = nonces[place * NONCE_BYTES : (place + 1) * NONCE_BYTES]
            found.append(nonce + seal(nonce, self._opened(self._cipher(under, held), wrapped, bound), bound))
        return found

    def _cipher(self, name: bytes, held: Mapping[bytes, AESGCM] | None) -> AESGCM:
        keys = self._keys if held is None else held
        if name not in keys:
            raise self.another(name)
        return keys[name]

    def _bound(self, owner: UUID | str | bytes, key_id: int) -> bytes:
        bound: bytes = msgpack.packb([self.origin, owner.bytes if isinstance(owner, UUID) else owner, key_id])
        return bound
