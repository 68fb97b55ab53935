"""Signed notes with Ed25519, as C2SP's signed-note, tlog-checkpoint and tlog-cosignature define them: the texts that
strangers verify with tools of their own (Go's `sumdb/note` among them).

    origin                          ┐
    size                            │ the text, which is what is signed
    base64 of the root              ┘

    — name base64(key id, signature)                    a signature of the text
    — name base64(key id, seconds, signature)           a signature of the time and the text
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tallybook.domain.errors import NoteError

ED25519 = 1
"""The kind of a key that signs the text of a note."""
COSIGNATURE = 4
"""The kind of a key that signs the text of a checkpoint together with the time."""

NOTE_BYTES_MAX = 1_000_000
SIGNATURES_MAX = 100
SIZE_MAX = 2**63 - 1
HASH_BYTES = 32
_PRIVATE = "PRIVATE+KEY+"
_DASH = "— "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
"""A control character that a note does not hold: any but the newline."""
_NOT_IN_A_NAME = re.compile(r"[\s\x00-\x1f+]")


def encoded(data: bytes) -> str:
    """Base64, on one line."""
    return b64encode(data).decode("ascii")


def decoded(text: str, what: str) -> bytes:
    """The bytes of base64 in its one right form. Raises NoteError."""
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError(f"{what} is not base64.") from error
    if encoded(data) != text:
        raise NoteError(f"{what} is not base64 in its one right form.")
    return data


def _check_name(name: str) -> str:
    if not name or _NOT_IN_A_NAME.search(name):
        raise NoteError(f"{name[:80]!r} is no name of a key: it is empty, or holds a space or a plus.")
    return name


def _key_id(name: str, kind: int, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


@dataclass(frozen=True, slots=True)
class Verifier:
    """The public key of a signer, with the name and the kind of signature that it goes by."""

    name: str
    public: bytes
    kind: int = ED25519

    @property
    def key_id(self) -> bytes:
        """Four bytes by which a signature names its key."""
        return _key_id(self.name, self.kind, self.public)

    @property
    def vkey(self) -> str:
        """The key as a text, in the form of Go's `sumdb/note`."""
        return f"{self.name}+{self.key_id.hex()}+{encoded(bytes([self.kind]) + self.public)}"

    @classmethod
    def parse(cls, vkey: str) -> Verifier:
        """A key from its text. Raises NoteError."""
        name, key_id, data = _parts(vkey.strip(), "a verifier key")
        if len(data) != 33 or data[0] not in (ED25519, COSIGNATURE):
            raise NoteError("A verifier key that is not of Ed25519.")
        found = cls(name, data[1:], data[0])
        if found.key_id != key_id:
            raise NoteError("A verifier key whose id does not fit its name and its bytes.")
        return found

    def cosigner(self, name: str | None = None) -> Verifier:
        """The same key where it signs with the time."""
        return Verifier(name or self.name, self.public, COSIGNATURE)

    def check(self, text: str, signature: bytes) -> int | None:
        """The time (seconds) that a signature tells, if it is of a kind that does. Raises NoteError."""
        signed, seconds = text.encode(), None
        if self.kind == COSIGNATURE:
            if len(signature) != 8 + 64:
                raise NoteError(f"The signature of {self.name} is not {8 + 64} bytes long.")
            seconds, signature = int.from_bytes(signature[:8], "big"), signature[8:]
            if seconds > SIZE_MAX:
                raise NoteError(f"The signature of {self.name} tells no time.")
            signed = _with_time(text, seconds)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, signed)
        except (InvalidSignature, ValueError) as error:
            raise NoteError(f"The signature of {self.name} is not of this text: one of them was altered.") from error
        return seconds


def _with_time(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _parts(text: str, what: str) -> tuple[str, bytes, bytes]:
    name, _, rest = text.partition("+")
    key_id, _, data = rest.partition("+")
    try:
        found = bytes.fromhex(key_id)
    except ValueError as error:
        raise NoteError(f"The id in {what} is not hexadecimal.") from error
    if len(found) != 4 or found.hex() != key_id:
        raise NoteError(f"The id in {what} is not eight hexadecimal digits.")
    return _check_name(name), found, decoded(data, f"What follows the id in {what}")


class Signer:
    """A private key, with the name that it signs under."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier = Verifier(_check_name(name), public)

    @classmethod
    def new(cls, name: str) -> Signer:
        """A new key."""
        made = Ed25519PrivateKey.generate()
        return cls(name, made.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))

    @classmethod
    def parse(cls, text: str) -> Signer:
        """A key from its text. Raises NoteError, which never shows it."""
        text = text.strip()
        if not text.startswith(_PRIVATE):
            raise NoteError(f"A signing key begins with {_PRIVATE!r}, and this does not.")
        name, key_id, data = _parts(text.removeprefix(_PRIVATE), "a signing key")
        if len(data) != 33 or data[0] != ED25519:
            raise NoteError("A signing key that is not of Ed25519.")
        found = cls(name, data[1:])
        if found.verifier.key_id != key_id:
            raise NoteError("A signing key whose id does not fit its name and its bytes.")
        return found

    @property
    def text(self) -> str:
        """The private key as a text, in the form of Go's `sumdb/note`. A secret."""
        seed = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        verifier = self.verifier
        return f"{_PRIVATE}{verifier.name}+{verifier.key_id.hex()}+{encoded(bytes([ED25519]) + seed)}"

    @property
    def vkey(self) -> str:
        """The public key as a text."""
        return self.verifier.vkey

    def named(self, name: str) -> Signer:
        """The same key under another name."""
        seed = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return Signer(name, seed)

    def sign(self, text: str) -> str:
        """The line of a signature of a text."""
        return _line(self.verifier, self._key.sign(text.encode()))

    def cosign(self, text: str, seconds: int) -> str:
        """The line of a signature of a checkpoint's text together with a time."""
        signature = self._key.sign(_with_time(text, seconds))
        return _line(self.verifier.cosigner(), seconds.to_bytes(8, "big") + signature)

    def __repr__(self) -> str:
        return f"Signer({self.vkey!r})"


def _line(verifier: Verifier, signature: bytes) -> str:
    return line(verifier.name, verifier.key_id + signature)


def line(name: str, data: bytes) -> str:
    """The line of a signature: whose, and the key's id with what it signed."""
    return f"{_DASH}{name} {encoded(data)}\n"


class Signature(NamedTuple):
    """A signature that was verified, and the time (seconds) that it tells, if it does."""

    verifier: Verifier
    seconds: int | None


class Note(NamedTuple):
    """A note: its text, and the signatures of known keys, all of which hold."""

    text: str
    signatures: Sequence[Signature]


def made(text: str, lines: Iterable[str]) -> str:
    """A note of a text that ends with a newline, and the lines of its signatures."""
    return f"{text}\n{''.join(lines)}"


def opened(note: str | bytes, verifiers: Iterable[Verifier]) -> Note:
    """A note that at least one of the keys signed; signatures of others are passed over.

    Raises NoteError where it is none, or where a known key's signature does not hold.
    """
    text, signatures = taken_apart(note)
    known = {(one.name, one.key_id): one for one in verifiers}
    found: list[Signature] = []
    for name, data in signatures:
        verifier = known.get((name, data[:4]))
        if verifier is not None:
            found.append(Signature(verifier, verifier.check(text, data[4:])))
    if not found:
        names = ", ".join(sorted({name for name, _ in signatures}))
        raise NoteError(f"None of the keys that are known has signed this note; signed by {names[:200]}.")
    return Note(text, found)


def taken_apart(note: str | bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """The text of a note, and its signatures as they stand: name, and key id with what follows. Raises NoteError."""
    if isinstance(note, bytes):
        try:
            note = note.decode()
        except UnicodeDecodeError as error:
            raise NoteError("A note is a text in UTF-8, and this is none.") from error
    try:
        long = len(note.encode()) > NOTE_BYTES_MAX
    except UnicodeEncodeError as error:
        raise NoteError("A note is a text in UTF-8, and this is none.") from error
    if long:
        raise NoteError(f"A note has up to {NOTE_BYTES_MAX:,} bytes, and this has more.")
    if _CONTROL.search(note):
        raise NoteError("A note holds no control character but the newline.")
    before, blank, after = note.rpartition("\n\n")
    if not blank or not after.endswith("\n"):
        raise NoteError("A note is a text, an empty line and signatures, each of which ends with a newline.")
    signatures: list[tuple[str, bytes]] = []
    for line in after.removesuffix("\n").split("\n"):
        name, space, data = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not space:
            raise NoteError("After the empty line, a note holds signatures only.")
        signature = decoded(data, "A signature")
        if len(signature) < 5:
            raise NoteError("A signature is longer than its key's id.")
        signatures.append((_check_name(name), signature))
    if len(signatures) > SIGNATURES_MAX:
        raise NoteError(f"A note has up to {SIGNATURES_MAX} signatures, and this has {len(signatures):,}.")
    return before + "\n", signatures


class Checkpoint(NamedTuple):
    """The head of a log: who it is of, how many leaves it has, and their root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed of it."""
        return f"{self.origin}\n{self.size}\n{encoded(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The head that a note's text tells. Raises NoteError."""
        if not text.endswith("\n"):
            raise NoteError("A checkpoint ends with a newline.")
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < 3 or not all(lines):
            raise NoteError("A checkpoint has at least three lines, and none that is empty.")
        origin, size, root = lines[:3]
        if not (size.isascii() and size.isdigit()) or len(size) > 19 or str(int(size)) != size or int(size) > SIZE_MAX:
            raise NoteError(f"The size of a checkpoint is a number, and {size[:40]!r} is none.")
        found = decoded(root, "The root of a checkpoint")
        if len(found) != HASH_BYTES:
            raise NoteError(f"The root of a checkpoint has {HASH_BYTES} bytes, and this has {len(found)}.")
        return cls(origin, int(size), found)


PROOF = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """That a leaf is in a log: its index (from 0), the hashes beside its path, and the checkpoint as a signed note."""

    index: int
    hashes: Sequence[bytes]
    note: str

    @property
    def text(self) -> str:
        """In the form of C2SP's tlog-proof, for a file that ends with `.tlog-proof`."""
        hashes = "".join(f"{encoded(one)}\n" for one in self.hashes)
        return f"{PROOF}\nindex {self.index}\n{hashes}\n{self.note}"

    @classmethod
    def parse(cls, text: str) -> Proof:
        """A proof from its text; what `extra` tells is passed over. Raises NoteError."""
        before, blank, note = text.partition("\n\n")
        lines = before.split("\n")
        if not blank or lines.pop(0) != PROOF:
            raise NoteError(f"A proof begins with {PROOF!r}, and has an empty line before its checkpoint.")
        if lines and lines[0].startswith("extra "):
            decoded(lines.pop(0).removeprefix("extra "), "What stands under extra")
        word, _, index = (lines.pop(0) if lines else "").partition(" ")
        if word != "index" or not (index.isascii() and index.isdigit()) or len(index) > 19 or str(int(index)) != index:
            raise NoteError("A proof names the index of its leaf, as a number.")
        hashes = [decoded(line, "A hash of the proof") for line in lines]
        if any(len(one) != HASH_BYTES for one in hashes) or len(hashes) > 63:
            raise NoteError(f"A proof has up to 63 hashes, each of {HASH_BYTES} bytes.")
        return cls(int(index), hashes, note)
