#!/usr/bin/env python3
"""Check an auditor's pack of a Tallybook log. One file, Python 3.11 or later, standard library only.

    python verify.py PACK --vkey FILE_OR_KEY [--against CHECKPOINT] [--proof FILE] [--json]

Written from the public specifications (RFC 6962 and 9162, RFC 8032, and C2SP's tlog-tiles, tlog-checkpoint,
signed-note, tlog-cosignature and tlog-proof), and from none of Tallybook's own code: a second implementation.

What is checked, in the pack's folder and in its folder `reads`:

1. the checkpoint's signature, by a key that you give with --vkey. The pack brings a `log.vkey` of its own: who forges
   a pack forges that too, so without --vkey nothing is proven but that the pack fits itself;
2. every tile against the checkpoint's root, and no tile too many or too few;
3. every entry against its leaf hash; that positions count from 1 without gaps, and that all are of this log;
4. every line of events.jsonl against its entry;
5. every file against SHA256SUMS, and that against `manifest`, which the log's key signed too;
6. --against: that the log goes on from a checkpoint which was kept elsewhere. Without one, a log that was
   written anew from its beginning, and signed with the real key, looks as good as the true one;
7. --proof: inclusion proofs (.tlog-proof), such as receipts of erasures.

Exit status: 0 all of that holds, 1 something does not, 2 wrong use. Names the first position that is bad.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import io
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

WIDTH = 256
"""Hashes of a full tile."""
NOTE_BYTES_MAX = 1 << 20
SIGNATURES_MAX = 100
LINE_BYTES_MAX = 1 << 26
NOTE_SIGNATURE, COSIGNATURE = 1, 4
COSIGNED = "cosigned"
EM_DASH = "\u2014"


class Bad(Exception):
    """What was found wrong, with the first and last position that it touches, where they are known."""

    def __init__(self, message: str, first: int | None = None, last: int | None = None) -> None:
        super().__init__(message)
        self.first = first
        self.last = first if last is None else last


class Misuse(Exception):
    """The command was called in a way that can't be answered."""


# ── RFC 8032: Ed25519 ───────────────────────────────────────────────────────────────────────────────────────────────

Point = tuple[int, int, int, int]

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)
_IDENTITY: Point = (0, 1, 1, 0)


def _add(one: Point, other: Point) -> Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _times(number: int, point: Point) -> Point:
    sum_ = _IDENTITY
    while number:
        if number & 1:
            sum_ = _add(sum_, point)
        point = _add(point, point)
        number >>= 1
    return sum_


def _same_point(one: Point, other: Point) -> bool:
    return (one[0] * other[2] - other[0] * one[2]) % _P == 0 and (one[1] * other[2] - other[1] * one[2]) % _P == 0


def _point(encoded: bytes) -> Point | None:
    """The point that 32 bytes stand for; None for no point, and for a form that is not the canonical one."""
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if len(encoded) != 32 or y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if (v * x * x - u) % _P:
        x = x * _ROOT_OF_MINUS_ONE % _P
        if (v * x * x - u) % _P:
            return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = _P - x
    return (x, y, 1, x * y % _P)


_BASE = _point((4 * pow(5, -1, _P) % _P).to_bytes(32, "little")) or _IDENTITY


def verify_ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature is valid: strictly, so that nobody can make a second form of one.

    S below the group's order, both points in canonical form, no key or commitment of small order, and the equation
    without its cofactor.
    """
    if len(public) != 32 or len(signature) != 64:
        return False
    key, commitment = _point(public), _point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or s >= _ORDER:
        return False
    if _same_point(_times(8, key), _IDENTITY) or _same_point(_times(8, commitment), _IDENTITY):
        return False
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _ORDER
    return _same_point(_times(s, _BASE), _add(commitment, _times(challenge, key)))


# ── C2SP signed-note, tlog-checkpoint, tlog-cosignature ─────────────────────────────────────────────────────────────


def _base64(text: str) -> bytes:
    """The bytes of standard base64 in its one canonical form. Raises ValueError."""
    try:
        found = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("no base64") from None
    if base64.b64encode(found).decode() != text:
        raise ValueError("base64 that is not in its canonical form")
    return found


class Key(NamedTuple):
    """A verifier key: `name+key id+base64(type, public key)`."""

    name: str
    public: bytes
    text: str

    def id(self, signature_type: int) -> bytes:
        """The key id of a type of signature by this key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([signature_type]) + self.public).digest()[:4]


def parse_vkey(text: str, signature_type: int = NOTE_SIGNATURE) -> Key:
    """A key from its text. Raises ValueError."""
    text = text.strip()
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    raw = _base64(encoded)
    if not name or any(one.isspace() for one in name) or len(raw) != 33 or raw[0] != signature_type:
        raise ValueError("not a verifier key of type Ed25519")
    key = Key(name, raw[1:], text)
    if key.id(signature_type).hex() != key_id:
        raise ValueError("its key id does not fit its name and public key")
    if _point(key.public) is None:
        raise ValueError("its public key is no point of the curve")
    return key


class Signature(NamedTuple):
    """A line under a note."""

    name: str
    key_id: bytes
    value: bytes


def parse_note(raw: bytes) -> tuple[str, list[Signature]]:
    """The text of a signed note, and the signatures under it. Raises ValueError."""
    if len(raw) > NOTE_BYTES_MAX:
        raise ValueError("it is too long for a note")
    try:
        whole = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if any(one < " " and one != "\n" for one in whole):
        raise ValueError("it holds control characters")
    text, blank, under = whole.rpartition("\n\n")
    if not blank or not under.endswith("\n"):
        raise ValueError("it is no signed note")
    signatures = []
    for line in under.removesuffix("\n").split("\n"):
        mark, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        if mark != EM_DASH or not name or "+" in name or any(one.isspace() for one in name):
            raise ValueError("a line under it is no signature")
        value = _base64(encoded)
        if len(value) < 5:
            raise ValueError("a signature is too short")
        signatures.append(Signature(name, value[:4], value[4:]))
    if len(signatures) > SIGNATURES_MAX:
        raise ValueError("it bears too many signatures")
    return text + "\n", signatures


def check_note(raw: bytes, keys: Sequence[Key], what: str) -> tuple[str, Key, int | None]:
    """The text of a note that one of the keys signed, that key, and the time of its timestamped signature if any.

    Every signature by a key that is known has to be valid. Raises Bad.
    """
    try:
        text, signatures = parse_note(raw)
    except ValueError as error:
        raise Bad(f"{what}: {error}") from None
    signed_by, time_s = None, None
    for one in signatures:
        for key in keys:
            cosigner = book_of(key)
            if one.name == key.name and one.key_id == key.id(NOTE_SIGNATURE):
                if not verify_ed25519(key.public, text.encode(), one.value):
                    raise Bad(f"{what}: the signature by {key.name} is not valid")
                signed_by = signed_by or key
            elif one.name == cosigner.name and one.key_id == cosigner.id(COSIGNATURE):
                time_s = _cosigned(text, cosigner, one.value, what)
    if signed_by is None:
        raise Bad(f"{what}: no signature by the key {' or '.join(key.text for key in keys)}")
    return text, signed_by, time_s


READS = "/reads"
"""How the name of the log of reads ends. Its time is signed under the book's own name, as one cosigner has one name."""


def book_of(key: Key) -> Key:
    """The same key under the book's name."""
    return key._replace(name=key.name.removesuffix(READS))


def _cosigned(text: str, key: Key, value: bytes, what: str) -> int:
    if len(value) != 72:
        raise Bad(f"{what}: the timestamped signature by {key.name} has a wrong length")
    time_s = int.from_bytes(value[:8], "big")
    message = f"cosignature/v1\ntime {time_s}\n{text}".encode()
    if time_s >= 2**63 or not verify_ed25519(key.public, message, value[8:]):
        raise Bad(f"{what}: the timestamped signature by {key.name} is not valid")
    return time_s


def witnessed_at(raw: bytes, witness: Key, what: str) -> int | None:
    """When a witness cosigned a note, as its signature tells; None: it did not. Raises Bad for a wrong signature."""
    text, signatures = parse_note(raw)
    for one in signatures:
        if one.name == witness.name and one.key_id == witness.id(COSIGNATURE):
            return _cosigned(text, witness, one.value, what)
    return None


class Checkpoint(NamedTuple):
    """A tree head that was signed."""

    origin: str
    size: int
    root: bytes
    key: Key
    time_s: int | None


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or (text != "0" and text.startswith("0")) or len(text) > 19:
        raise ValueError(f"{text!r} is no decimal number")
    return int(text)


def check_checkpoint(raw: bytes, keys: Sequence[Key], what: str) -> Checkpoint:
    """A checkpoint whose signature holds. Raises Bad."""
    text, key, time_s = check_note(raw, keys, what)
    lines = text.split("\n")[:-1]
    try:
        if len(lines) < 3 or not all(lines):
            raise ValueError("it is not origin, size and root")
        size, root = _decimal(lines[1]), _base64(lines[2])
        if len(root) != 32:
            raise ValueError("its root is not 32 bytes")
    except ValueError as error:
        raise Bad(f"{what}: {error}") from None
    if lines[0] != key.name:
        raise Bad(f"{what}: it is of the log {lines[0]}, and its key is {key.name}'s")
    return Checkpoint(lines[0], size, root, key, time_s)


# ── RFC 6962: the Merkle tree ───────────────────────────────────────────────────────────────────────────────────────


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes of equal subtrees: pairs are joined from the left, the last one without a pair goes up."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    level = list(hashes)
    while len(level) > 1:
        joined = [node_hash(level[index], level[index + 1]) for index in range(0, len(level) - 1, 2)]
        level = joined + level[len(level) & ~1 :]
    return level[0]


def root_of(full: Sequence[bytes], rest: Sequence[bytes]) -> bytes:
    """The root of a tree from the hashes of its full tiles, and the leaf hashes after them (less than a tile)."""
    if not full:
        return tree_hash(rest)
    # The full tiles are the leaves of a tree of their own, in which the rest hangs as a smaller subtree on the right.
    return tree_hash([*full, tree_hash(rest)]) if rest else tree_hash(full)


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether a proof leads from a leaf's hash to the root (RFC 9162, 2.1.3.2)."""
    if index >= size:
        return False
    fn, sn, found = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            found = node_hash(sibling, found)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = node_hash(found, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and found == root


# ── C2SP tlog-tiles ─────────────────────────────────────────────────────────────────────────────────────────────────


def tile_path(level: int | str, index: int, width: int) -> str:
    """The path of a tile, or of a bundle of entries (level "entries")."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03d}")
    return f"tile/{level}/{'/'.join(groups)}" + (f".p/{width}" if width < WIDTH else "")


def widths(count: int) -> Iterator[tuple[int, int]]:
    """Index and width of each tile of a level with so many hashes."""
    for index in range(count // WIDTH):
        yield index, WIDTH
    if count % WIDTH:
        yield count // WIDTH, count % WIDTH


def tile_paths(size: int) -> Iterator[str]:
    """All tiles of a tree, without the bundles of its entries."""
    level, count = 0, size
    while count:
        for index, width in widths(count):
            yield tile_path(level, index, width)
        level, count = level + 1, count // WIDTH


def parse_bundle(raw: bytes) -> list[bytes]:
    """The entries of a bundle: each with its length in two bytes before it. Raises ValueError."""
    entries, at = [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 2], "big")
        if at + 2 + length > len(raw):
            raise ValueError("it ends within an entry")
        entries.append(raw[at + 2 : at + 2 + length])
        at += 2 + length
    return entries


# ── msgpack: nil, bool, int, str, bin and arrays are all that an entry holds ─────────────────────────────────────────


def parse_msgpack(raw: bytes) -> Any:
    """The value that bytes hold: all of them, and one value only. Raises ValueError."""
    value, end = _value(raw, 0, 0)
    if end != len(raw):
        raise ValueError("bytes follow its value")
    return value


def _value(raw: bytes, at: int, depth: int) -> tuple[Any, int]:
    if at >= len(raw):
        raise ValueError("it ends too early")
    kind = raw[at]
    at += 1
    if kind < 0x80:
        return kind, at
    if kind >= 0xE0:
        return kind - 256, at
    if 0x90 <= kind < 0xA0:
        return _array(raw, at, kind & 15, depth)
    if 0xA0 <= kind < 0xC0:
        return _text(raw, at, kind & 31)
    if kind == 0xC0:
        return None, at
    if kind in (0xC2, 0xC3):
        return kind == 0xC3, at
    if 0xCC <= kind <= 0xD3:
        length = 1 << (kind & 3)
        return int.from_bytes(_take(raw, at, length), "big", signed=kind >= 0xD0), at + length
    if kind in (0xC4, 0xC5, 0xC6):
        length, at = _length(raw, at, 1 << (kind - 0xC4))
        return _take(raw, at, length), at + length
    if kind in (0xD9, 0xDA, 0xDB):
        length, at = _length(raw, at, 1 << (kind - 0xD9))
        return _text(raw, at, length)
    if kind in (0xDC, 0xDD):
        length, at = _length(raw, at, 2 if kind == 0xDC else 4)
        return _array(raw, at, length, depth)
    raise ValueError(f"a value of the kind {kind:#x} is in it")


def _take(raw: bytes, at: int, length: int) -> bytes:
    if at + length > len(raw):
        raise ValueError("it ends too early")
    return raw[at : at + length]


def _length(raw: bytes, at: int, size: int) -> tuple[int, int]:
    return int.from_bytes(_take(raw, at, size), "big"), at + size


def _text(raw: bytes, at: int, length: int) -> tuple[str, int]:
    try:
        return _take(raw, at, length).decode("utf-8"), at + length
    except UnicodeDecodeError:
        raise ValueError("a text in it is not UTF-8") from None


def _array(raw: bytes, at: int, length: int, depth: int) -> tuple[list[Any], int]:
    if length > len(raw) - at or depth > 32:
        raise ValueError("an array in it is longer or deeper than it can be")
    values = []
    for _ in range(length):
        value, at = _value(raw, at, depth + 1)
        values.append(value)
    return values, at


# ── entries, and the events in clear ────────────────────────────────────────────────────────────────────────────────


DETACHED = "tallybook/detached/"
"""How the name of a log begins whose leaves hold only the hashes of states."""


class Entry(NamedTuple):
    """A leaf, taken apart. `state` is None where the leaf holds only its hash."""

    stream: str
    version: int
    name: str
    state: bytes | None
    state_hash: bytes | None


def check_entry(raw: bytes, origin: str, position: int) -> Entry:
    """A leaf of a log at its position. Raises Bad."""

    def bad(why: str) -> Bad:
        return Bad(f"the entry of position {position}: {why}", position)

    try:
        values = parse_msgpack(raw)
    except ValueError as error:
        raise bad(str(error)) from None
    if not isinstance(values, list) or len(values) not in (6, 7):
        raise bad("it is not what a log of Tallybook holds")
    if values[0] != origin:
        raise bad(f"it is of the log {values[0]!r}")
    if type(values[1]) is not int or values[1] != position:
        raise bad(f"it says that it is at position {values[1]!r}")
    stream, version, name, state = values[2:6]
    hashed = values[6] if len(values) == 7 else None
    if (
        not isinstance(stream, (bytes, str))
        or type(version) is not int
        or version < 1
        or not isinstance(name, str)
        or not isinstance(state if hashed is None else hashed, bytes)
        or (hashed is not None and (state is not None or len(hashed) != 32))
    ):
        raise bad("its parts are not of the kinds that they have to be")
    if hashed is None and origin.startswith(DETACHED):
        raise bad("it holds a state, and those of this log hold hashes only")
    return Entry(rendered(stream), version, name, state, hashed)


def rendered(value: Any) -> Any:
    """A stored value as it stands in JSON: ids of 16 bytes as UUIDs, other bytes as base64."""
    if isinstance(value, bytes):
        return str(uuid.UUID(bytes=value)) if len(value) == 16 else base64.b64encode(value).decode()
    return value


def difference(shown: Any, stored: Any, shape: Any, where: str) -> str | None:
    """Where a JSON value is not the stored one; None: it is. Objects stand for arrays, with the names of `shape`."""
    if isinstance(stored, list):
        items = list(shown.values()) if isinstance(shown, dict) else shown
        if not isinstance(items, list) or len(items) != len(stored):
            return where
        if isinstance(shape, dict):
            if not isinstance(shown, dict) or list(shown) != list(shape):
                return f"{where}: the names in it"
            inner: Sequence[Any] = list(shape.values())
            names = [f"{where}.{name}" for name in shape]
        else:
            if isinstance(shown, dict):
                return f"{where}: the names in it"
            inner = [shape[0] if isinstance(shape, list) and shape else None] * len(stored)
            names = [f"{where}[{index}]" for index in range(len(stored))]
        for one, other, kind, name in zip(items, stored, inner, names, strict=True):
            if type(one) is type(other) is int or type(one) is type(other) is str:
                if one != other:
                    return name
            elif found := difference(one, other, kind, name):
                return found
        return None
    expected = rendered(stored)
    return None if type(shown) is type(expected) and shown == expected else where


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return made


def _no_float(text: str) -> Any:
    raise ValueError(f"{text} is no whole number")


_LINE = json.JSONDecoder(object_pairs_hook=_once, parse_float=_no_float, parse_constant=_no_float)
LINE_NAMES = ["position", "stream", "version", "name", "event"]


def check_line(raw: bytes, entry: Entry, position: int, schemas: dict[str, Any]) -> None:
    """A line of events.jsonl against the entry of its position. Raises Bad."""

    def bad(why: str) -> Bad:
        return Bad(f"events.jsonl, position {position}: {why}", position)

    try:
        line = _LINE.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise bad(f"no JSON ({error})") from None
    if (
        not isinstance(line, dict)
        or list(line)[:5] != LINE_NAMES
        or set(list(line)[5:]) - {"state", "upcast", "opened"}
    ):
        raise bad("it is not an event's line")
    for name, value in zip(LINE_NAMES[:4], (position, entry.stream, entry.version, entry.name), strict=True):
        if type(line[name]) is not type(value) or line[name] != value:
            raise bad(f"{name} is not what the log holds")
    state = entry.state
    if state is None:
        try:
            state = _base64(line["state"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise bad("the state is not there, and the log holds its hash only") from None
        if hashlib.sha256(state).digest() != entry.state_hash:
            raise bad("the state is not the one whose hash the log holds")
    elif "state" in line:
        raise bad("it is not an event's line")
    try:
        stored = parse_msgpack(state)
    except ValueError as error:
        raise bad(f"the stored state can't be read: {error}") from None
    envelope = schemas["envelope"]
    if not isinstance(stored, list) or len(stored) <= len(envelope):
        raise bad("the stored state is no event's")
    shown = line["event"]
    if not isinstance(shown, dict) or list(shown) != [*envelope, "fields", "sealed"]:
        raise bad("event: the names in it")
    known = schemas["events"].get(entry.name)
    current = known is not None and stored[0] == known["schema_version"]
    # Fields of an older version have no names here: they stand as they are stored, and `upcast` beside them is no
    # part of the log.
    fields = known["fields"] if known is not None and current else None
    middle = len(envelope)
    for name, value, shape in (
        *((name, stored[index], envelope[name]) for index, name in enumerate(envelope)),
        ("fields", stored[middle:-1], fields),
        ("sealed", stored[-1], None),
    ):
        if found := difference(shown[name], value, shape, name):
            raise bad(f"{found} is not what the log holds")
    if "upcast" in line and current:
        raise bad("an event of the newest version has nothing to bring up")
    opened = line.get("opened", {})
    if not isinstance(opened, dict) or (known is not None and not set(opened) <= set(known["personal"])):
        raise bad("opened: it names no personal field of this event")
    if opened and stored[-1] is None:
        raise bad("opened: this event holds no personal field")


# ── a folder with one log ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Found:
    """What was found in one log."""

    log: str
    size: int = 0
    root: str = ""
    signed_at: str | None = None
    entries: int = 0
    events: int = 0
    problems: list[Bad] = field(default_factory=list)


class Tree:
    """The hashes of a log that fit its checkpoint, as far as there are any."""

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self.folder = folder
        self.checkpoint = checkpoint
        self.full: list[bytes] = []
        self.rest: list[bytes] = []

    def leaves_of(self, index: int) -> list[bytes]:
        """The leaf hashes of a tile: of those that were checked."""
        if index == len(self.full):
            return self.rest
        raw = (self.folder / tile_path(0, index, WIDTH)).read_bytes()
        return [raw[at : at + 32] for at in range(0, len(raw), 32)]

    def root_at(self, size: int) -> bytes:
        """The root of the first leaves."""
        whole, rest = divmod(size, WIDTH)
        return root_of(self.full[:whole], self.leaves_of(whole)[:rest] if rest else [])


def read(path: Path, what: str, limit: int) -> bytes:
    """A file, no longer than it may be. Raises Bad."""
    try:
        if path.is_symlink():
            raise Bad(f"{what} is a link")
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise Bad(f"{what} can't be read: {error.strerror or error}") from None
    if len(raw) > limit:
        raise Bad(f"{what} is longer than it can be")
    return raw


def covering(level: int, index: int, width: int) -> tuple[int, int]:
    """First and last position under a tile."""
    span = WIDTH ** (level + 1)
    return index * span + 1, index * span + width * WIDTH**level


def read_tile(folder: Path, level: int, index: int, width: int) -> list[bytes]:
    """The hashes of a tile. Raises Bad."""
    path, positions = tile_path(level, index, width), covering(level, index, width)
    try:
        raw = read(folder / path, path, width * 32)
    except Bad as error:
        raise Bad(str(error), *positions) from None
    if len(raw) != width * 32:
        raise Bad(f"{path} has {len(raw):,} bytes, {width * 32:,} belong there", *positions)
    return [raw[at : at + 32] for at in range(0, len(raw), 32)]


class Lines:
    """The lines of events.jsonl one after the other, for the positions that a pack holds."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.number = 0

    def next(self, position: int) -> bytes:
        """The next line. Raises Bad."""
        raw = self._file.readline(LINE_BYTES_MAX)
        if not raw.endswith(b"\n"):
            raise Bad(
                f"events.jsonl ends before position {position}" if not raw else "events.jsonl ends within a line",
                position,
            )
        self.number += 1
        return raw

    def end(self, position: int) -> None:
        """Raises Bad where lines follow, closes the file."""
        if self._file.read(1):
            raise Bad(f"events.jsonl goes on after position {position}", position + 1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_log(
    folder: Path, keys: Sequence[Key], found: Found, span: tuple[int, int] | None, progress: Callable[[int, int], None]
) -> Tree | None:
    """Check one log of a pack; the tree that fits its checkpoint. `span`: the positions whose events it holds."""
    problems = found.problems
    try:
        checkpoint = check_checkpoint(read(folder / "checkpoint", "checkpoint", NOTE_BYTES_MAX), keys, "checkpoint")
    except Bad as error:
        problems.append(error)
        return None
    size = found.size = checkpoint.size
    found.root = checkpoint.root.hex()
    if checkpoint.time_s is not None:
        found.signed_at = shown_time(checkpoint.time_s)
    first, last = (1, size) if span is None else span
    if not 1 <= first <= last + 1 <= size + 1:
        problems.append(Bad(f"the manifest tells of positions {first} to {last}, and the log has {size}"))
        return None
    tree = Tree(folder, checkpoint)
    _check_names(folder, size, first, last, problems)
    by_tiles, by_entries, parents = _leaves(folder, found, checkpoint, (first, last), progress)
    _judge(tree, size, by_tiles, by_entries, parents, problems)
    _check_upper(folder, tree, problems)
    return tree


def shown_time(time_s: int) -> str:
    """A POSIX time as people write it."""
    try:
        return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_s} s after 1970"


def bundles(size: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Index and width of the bundles that hold positions."""
    for index, width in widths(size):
        if last >= first and index * WIDTH < last and index * WIDTH + width >= first:
            yield index, width


def _check_names(folder: Path, size: int, first: int, last: int, problems: list[Bad]) -> None:
    """No file under `tile` may be there that does not belong to the tree, and none may be missing."""
    wanted = {*tile_paths(size), *(tile_path("entries", *one) for one in bundles(size, first, last))}
    there = set()
    for place, _, names in os.walk(folder / "tile"):
        for name in names:
            there.add((Path(place) / name).relative_to(folder).as_posix())
    for path in sorted(there - wanted):
        problems.append(Bad(f"{path} does not belong to a tree of {size:,} leaves"))
        break


class _Side(NamedTuple):
    """What one reading of the leaves gives: the hashes of full tiles, and the leaf hashes after them."""

    full: list[bytes]
    rest: list[bytes]

    def root(self) -> bytes:
        return root_of(self.full, self.rest)


def _leaves(
    folder: Path, found: Found, checkpoint: Checkpoint, span: tuple[int, int], progress: Callable[[int, int], None]
) -> tuple[_Side, _Side, list[bytes | None]]:
    """Read the leaves, a tile at a time: by level 0, by the entries; and what level 1 says of each full tile."""
    size, problems = checkpoint.size, found.problems
    first, last = span
    held = dict(bundles(size, first, last))
    by_tiles, by_entries = _Side([], []), _Side([], [])
    lines: Lines | None = None
    schemas: dict[str, Any] = {}
    try:
        schemas = _schemas(folder)
        if (folder / "events.jsonl").is_symlink():
            raise Bad("events.jsonl is a link")
        lines = Lines(folder / "events.jsonl")
    except Bad as error:
        problems.append(error)
    except OSError as error:
        problems.append(Bad(f"events.jsonl can't be read: {error.strerror or error}", first))
    failed: set[str] = set()

    def note(kind: str, error: Bad) -> None:
        # The first of each kind: what follows it is often only its consequence.
        if kind not in failed:
            failed.add(kind)
            problems.append(error)

    try:
        for index, width in widths(size):
            tile, entries = None, None
            try:
                tile = read_tile(folder, 0, index, width)
            except Bad as error:
                note("tile", error)
            if index in held:
                try:
                    entries = _bundle(folder, index, width)
                except Bad as error:
                    note("entries", error)
            hashes = [leaf_hash(one) for one in entries] if entries is not None else None
            if tile is not None and hashes is not None and tile != hashes:
                at = next(at for at, (one, other) in enumerate(zip(tile, hashes, strict=True)) if one != other)
                position = index * WIDTH + at + 1
                note("pair", Bad(f"the entry of position {position} and its hash in the tile do not fit", position))
            nothing = [bytes(32)] * width
            for side, leaves in ((by_tiles, tile or hashes), (by_entries, hashes or tile)):
                if width == WIDTH:
                    side.full.append(tree_hash(leaves or nothing))
                else:
                    side.rest.extend(leaves or nothing)
            for at, raw in enumerate(entries or ()):
                position = index * WIDTH + at + 1
                if "entry" in failed:
                    break
                try:
                    entry = check_entry(raw, checkpoint.origin.removesuffix(READS), position)
                    found.entries += 1
                except Bad as error:
                    note("entry", error)
                    break
                if lines is not None and first <= position <= last and "line" not in failed:
                    try:
                        check_line(lines.next(position), entry, position, schemas)
                        found.events += 1
                    except Bad as error:
                        note("line", error)
            progress(min(size, (index + 1) * WIDTH), size)
        if lines is not None and not failed:
            try:
                lines.end(last)
            except Bad as error:
                note("line", error)
    finally:
        if lines is not None:
            lines.close()
    parents: list[bytes | None] = []
    for index, width in widths(size // WIDTH):
        try:
            parents += read_tile(folder, 1, index, width)
        except Bad as error:
            note("upper", error)
            parents += [None] * width
    return by_tiles, by_entries, parents


def _bundle(folder: Path, index: int, width: int) -> list[bytes]:
    path, positions = tile_path("entries", index, width), covering(0, index, width)
    try:
        entries = parse_bundle(read(folder / path, path, width * (2 + 0xFFFF)))
        if len(entries) != width:
            raise ValueError(f"it holds {len(entries)} entries, {width} belong there")
    except Bad as error:
        raise Bad(str(error), *positions) from None
    except ValueError as error:
        raise Bad(f"{path}: {error}", *positions) from None
    return entries


def _schemas(folder: Path) -> dict[str, Any]:
    """The names of fields. Raises Bad."""
    try:
        found = json.loads(read(folder / "schemas.json", "schemas.json", 1 << 24), object_pairs_hook=_once)
        if not isinstance(found["envelope"], dict) or not all(
            {"schema_version", "fields", "personal"} <= set(one) for one in found["events"].values()
        ):
            raise ValueError("it does not say what it has to")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Bad(f"schemas.json: {error}") from None
    return dict(found)


PARENTS = "the tiles of level 1"


def _judge(
    tree: Tree, size: int, by_tiles: _Side, by_entries: _Side, parents: list[bytes | None], problems: list[Bad]
) -> None:
    """Which reading gives the signed root: the others are measured by it."""
    root = tree.checkpoint.root
    readings = [("the tiles of level 0", by_tiles), ("the entries", by_entries)]
    if None not in parents:
        readings.append((PARENTS, _Side([one for one in parents if one is not None], by_tiles.rest)))
    true = next((side for _, side in readings if side.root() == root), None)
    if true is None:
        first: int | None = None
        for index, (one, other, parent) in enumerate(zip(by_tiles.full, by_entries.full, parents, strict=True)):
            if one != other or (parent is not None and parent != one):
                first = index * WIDTH + 1
                break
        problems.append(
            Bad(
                "neither tiles nor entries give the root that was signed: something was altered, moved, added or left "
                "out" + ("" if first is not None else ", and all of it was made to fit: nothing here tells where"),
                first,
                None if first is None else min(size, first + WIDTH - 1),
            )
        )
        tree.full, tree.rest = by_tiles.full, by_tiles.rest
        return
    tree.full, tree.rest = true.full, true.rest
    for name, side in readings:
        for index, (one, other) in enumerate(zip(side.full, true.full, strict=True)):
            if one != other:
                bad_first, bad_last = index * WIDTH + 1, (index + 1) * WIDTH
                problems.append(Bad(f"{name} of positions {bad_first} to {bad_last} were altered", bad_first, bad_last))
                break
        if name == PARENTS:
            continue  # they hold nothing of the rest
        for at, (one, other) in enumerate(zip(side.rest, true.rest, strict=True)):
            if one != other:
                position = len(true.full) * WIDTH + at + 1
                problems.append(Bad(f"{name}: position {position} was altered", position))
                break


def _check_upper(folder: Path, tree: Tree, problems: list[Bad]) -> None:
    """Each tile above level 0 against the hashes below it."""
    below, level = tree.full, 1
    while below:
        above = []
        for index, width in widths(len(below)):
            part = below[index * WIDTH : index * WIDTH + width]
            try:
                if read_tile(folder, level, index, width) != part:
                    path = tile_path(level, index, width)
                    raise Bad(f"{path} does not fit the tiles below it", *covering(level, index, width))
            except Bad as error:
                problems.append(error)
                return
            if width == WIDTH:
                above.append(tree_hash(part))
        below, level = above, level + 1


# ── checkpoints and proofs that were kept elsewhere ─────────────────────────────────────────────────────────────────


def check_against(raw: bytes, keys: Sequence[Key], tree: Tree, what: str) -> Checkpoint:
    """That a log goes on from an older checkpoint. Raises Bad."""
    older = check_checkpoint(raw, keys, what)
    newer = tree.checkpoint
    if older.origin != newer.origin:
        raise Bad(f"{what}: it is of the log {older.origin}")
    if older.size > newer.size:
        raise Bad(
            f"{what} tells of {older.size:,} leaves, and this pack has {newer.size:,}: the pack is older, or its end "
            "was cut off",
            newer.size + 1,
            older.size,
        )
    if tree.root_at(older.size) != older.root:
        raise Bad(
            f"the log does not go on from {what}: something up to position {older.size} is another", 1, older.size
        )
    return older


class Proof(NamedTuple):
    """A .tlog-proof."""

    leaf: int
    hashes: list[bytes]
    extra: bytes | None
    checkpoint: bytes


def parse_proof(raw: bytes) -> Proof:
    """A proof from its file. Raises ValueError."""
    try:
        head, blank, checkpoint = raw.decode("utf-8").partition("\n\n")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    lines = head.split("\n")
    if not blank or lines.pop(0) != "c2sp.org/tlog-proof@v1" or not lines:
        raise ValueError("it is no tlog-proof")
    extra = None
    if lines[0].startswith("extra "):
        extra = _base64(lines.pop(0).removeprefix("extra "))
    if not lines or not lines[0].startswith("index "):
        raise ValueError("it names no index")
    index = _decimal(lines.pop(0).removeprefix("index "))
    hashes = [_base64(line) for line in lines]
    if len(hashes) > 64 or any(len(one) != 32 for one in hashes):
        raise ValueError("its hashes are not 32 bytes each")
    return Proof(index, hashes, extra, checkpoint.encode())


ERASED = "customer.erased"


class Receipt(NamedTuple):
    """What a receipt of an erasure says, beside its proof."""

    subject: str
    position: int
    leaf: bytes
    proof: bytes


def parse_receipt(raw: bytes) -> Receipt:
    """A receipt of an erasure from its JSON. Raises ValueError."""
    try:
        says = json.loads(raw)
        subject, position, leaf, proof = (says[name] for name in ("subject", "position", "leaf", "proof"))
        receipt = Receipt(str(uuid.UUID(subject)), position, base64.b64decode(leaf, validate=True), proof.encode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("it is no receipt of an erasure with a proof") from None
    if type(position) is not int:
        raise ValueError("its position is no number")
    return receipt


def check_receipt(raw: bytes, keys: Sequence[Key], trees: dict[str, Tree], what: str) -> str:
    """That a receipt is of an erasure of its subject, in the log that its proof leads to. Raises Bad."""
    try:
        receipt = parse_receipt(raw)
    except ValueError as error:
        raise Bad(f"{what}: {error}") from None
    tree = trees.get(_origin(receipt.proof.partition(b"\n\n")[2]))
    position, checkpoint, entry = check_proof(receipt.proof, keys, tree, receipt.leaf, what)
    assert entry is not None
    if (position, entry.stream, entry.name) != (receipt.position, receipt.subject, ERASED):
        raise Bad(f"{what}: what it proves is not the erasure of {receipt.subject}", position)
    return f"{what} proves the erasure of {receipt.subject} at position {position} of {checkpoint.origin}"


def check_proof(
    raw: bytes, keys: Sequence[Key], tree: Tree | None, entry: bytes | None, what: str
) -> tuple[int, Checkpoint, Entry | None]:
    """That a proof holds: its position, checkpoint, and the entry where it is known. Raises Bad.

    The entry is one that was given, that which the proof brings as its extra data, or the pack's.
    """
    try:
        proof = parse_proof(raw)
    except ValueError as error:
        raise Bad(f"{what}: {error}") from None
    checkpoint = check_checkpoint(proof.checkpoint, keys, what)
    position = proof.leaf + 1
    inside = tree is not None and tree.checkpoint.origin == checkpoint.origin and position <= tree.checkpoint.size
    entry = proof.extra if entry is None else entry
    if entry is not None:
        leaf = leaf_hash(entry)
    elif tree is not None and inside:
        leaf = tree.leaves_of(proof.leaf // WIDTH)[proof.leaf % WIDTH]
    else:
        raise Bad(f"{what}: the entry of position {position} is not here (--entry names its file)", position)
    if not check_inclusion(leaf, proof.leaf, checkpoint.size, proof.hashes, checkpoint.root):
        raise Bad(
            f"{what}: it does not lead from the entry of position {position} to the root that was signed", position
        )
    if tree is not None and tree.checkpoint.origin == checkpoint.origin and checkpoint.size <= tree.checkpoint.size:
        check_against(proof.checkpoint, keys, tree, f"the checkpoint of {what}")
    return (
        position,
        checkpoint,
        check_entry(entry, checkpoint.origin.removesuffix(READS), position) if entry is not None else None,
    )


# ── the pack ────────────────────────────────────────────────────────────────────────────────────────────────────────

MANIFEST = "tallybook-pack/v1"
SUMS = "SHA256SUMS"


def parse_manifest(text: str) -> dict[str, str]:
    """What a pack says of itself: a line that names the form, then `name: value`. Raises ValueError."""
    lines = text.split("\n")[:-1]
    if not lines or lines[0] != MANIFEST:
        raise ValueError(f"it is no manifest of the form {MANIFEST}")
    says = dict(line.split(": ", 1) for line in lines[1:])
    if len(says) != len(lines) - 1:
        raise ValueError("a line stands in it twice")
    return says


def parse_sums(raw: bytes) -> dict[str, str]:
    """The digests of files by their paths, in the form of sha256sum. Raises ValueError."""
    digests = {}
    lines = raw.decode("utf-8").split("\n")
    if lines.pop():
        raise ValueError("it ends within a line")
    for line in lines:
        digest, two, path = line.partition("  ")
        if not two or len(digest) != 64 or path in digests:
            raise ValueError(f"a line in it can't be read: {line!r}")
        digests[path] = digest
    return digests


def check_manifest(folder: Path, keys: Sequence[Key], problems: list[Bad]) -> dict[str, str] | None:
    """What the manifest says, if the log's key signed it; and every file against its digest."""
    try:
        text, _, _ = check_note(read(folder / "manifest", "manifest", NOTE_BYTES_MAX), keys, "manifest")
        says = parse_manifest(text)
        sums = read(folder / SUMS, SUMS, 1 << 32)
        if hashlib.sha256(sums).hexdigest() != says.get("sha256sums"):
            raise Bad(f"{SUMS} is not the file of the manifest")
    except ValueError as error:
        problems.append(Bad(f"manifest: {error}"))
        return None
    except Bad as error:
        problems.append(error)
        return None
    try:
        digests = parse_sums(sums)
    except ValueError as error:
        problems.append(Bad(f"{SUMS}: {error}"))
        return says
    there = set()
    for place, folders, names in os.walk(folder):
        for name in [*names, *(one for one in folders if (Path(place) / one).is_symlink())]:
            there.add((Path(place) / name).relative_to(folder).as_posix())
    there -= {"manifest", SUMS}
    wrong = [f"{path} is not in {SUMS}" for path in sorted(there - set(digests))]
    wrong += [f"{path} is missing" for path in sorted(set(digests) - there)]
    for path in sorted(there & set(digests)):
        if (folder / path).is_symlink() or _digest(folder / path) != digests[path]:
            wrong.append(f"{path} is not the file of {SUMS}")
    if wrong:
        problems.append(Bad(wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")))
    return says


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def pack_keys(folder: Path, given: Sequence[Key]) -> list[Key]:
    """The keys to check a log by: those that were given for it; where none were, the pack's own. Raises Bad."""
    own = []
    for line in read(folder / "log.vkey", "log.vkey", 1 << 16).decode("utf-8", "replace").splitlines():
        try:
            own.append(parse_vkey(line))
        except ValueError as error:
            raise Bad(f"log.vkey: {error}") from None
    if not own:
        raise Bad("log.vkey names no key")
    if not given:
        return own
    known = {(key.name, key.public) for key in given}
    if not any((key.name, key.public) in known for key in own):
        raise Bad(f"log.vkey is not the key that you gave: {own[0].text}")
    return [key for key in given if key.name in {one.name for one in own}]


def _given_keys(texts: Iterable[str], option: str = "--vkey", signature_type: int = NOTE_SIGNATURE) -> list[Key]:
    keys = []
    for text in texts:
        lines = [text]
        if "+" not in text or Path(text).is_file():
            try:
                lines = Path(text).read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise Misuse(f"{option}: {text!r} is neither a key nor a file of keys ({error})") from None
        try:
            keys += [parse_vkey(line, signature_type) for line in lines if line.strip()]
        except ValueError as error:
            raise Misuse(f"{option}: {text!r}: {error}") from None
    if texts and not keys:
        raise Misuse(f"{option}: no key in it")
    return keys


def _file(name: str, option: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise Misuse(f"{option}: {name} can't be read: {error.strerror or error}") from None


@dataclass
class Report:
    """What was found in a pack."""

    logs: list[Found]
    notes: list[str]
    problems: list[Bad]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(one.problems for one in self.logs)


def _unwatched(done: int, size: int) -> None:
    """Show nothing."""
    del done, size


def check_pack(
    folder: Path,
    given: Sequence[Key],
    against: Sequence[tuple[str, bytes]] = (),
    proofs: Sequence[tuple[str, bytes]] = (),
    entry: bytes | None = None,
    progress: Callable[[int, int], None] = _unwatched,
    witnesses: Sequence[Key] = (),
) -> Report:
    """Check all of a pack."""
    report = Report([], [], [])
    trees: dict[str, Tree] = {}
    keys: list[Key] = []
    manifest = None
    for place, name in ((folder, "events"), (folder / "reads", "reads")):
        found = Found(name)
        report.logs.append(found)
        # The log of reads is signed with the same key, under a name of its own.
        wanted = [renamed(key, READS) for key in given] + list(given) if name == "reads" else given
        try:
            of_log = pack_keys(place, wanted)
        except Bad as error:
            found.problems.append(error)
            continue
        keys += of_log
        span = None
        if name == "events":
            manifest = check_manifest(folder, of_log, report.problems)
            if manifest is not None and of_log[0].name != manifest.get("origin"):
                report.problems.append(Bad("the manifest is another log's"))
            span = _span(manifest, "positions", report.problems)
        elif manifest is not None and of_log[0].name != f"{manifest.get('origin')}{READS}":
            found.problems.append(Bad("the log of reads is another book's"))
            continue
        else:
            # Records of reads are deleted after their time; their hashes stay, and are in the tiles.
            span = _span(manifest, "reads", report.problems)
        tree = check_log(place, of_log, found, span, progress)
        if tree is not None:
            trees[tree.checkpoint.origin] = tree
    _check_kept(report, trees, keys, against, proofs, entry)
    _check_cosigned(report, folder, trees, keys, witnesses)
    if not given:
        report.notes.append(
            "checked by the pack's own log.vkey: that proves only that the pack fits itself. Get the key from whoever "
            "keeps the log, by another way, and give it with --vkey."
        )
    if not against:
        report.notes.append(
            "no older checkpoint was given (--against): a log that was rewritten before this checkpoint and signed "
            "with the real key would not be noticed."
        )
    return report


def _check_cosigned(
    report: Report, folder: Path, trees: dict[str, Tree], keys: Sequence[Key], witnesses: Sequence[Key]
) -> None:
    """The checkpoints that witnesses cosigned: the tree goes on from each; and each witness that is known did sign."""
    unseen = {one.text for one in witnesses}
    paths = [one for place in (folder, folder / "reads") for one in sorted((place / COSIGNED).glob("*"))]
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if path.name == "witness.vkeys":
            continue
        try:
            raw = read(path, name, NOTE_BYTES_MAX)
            tree = trees.get(_origin(raw))
            if tree is None:
                raise Bad(f"{name}: it is of no log that is here and could be read")
            older = check_against(raw, keys, tree, name)
            for one in witnesses:
                time_s = witnessed_at(raw, one, name)
                if time_s is not None:
                    unseen.discard(one.text)
                    seen = f"{one.name} saw {older.size:,} leaves of this tree at {shown_time(time_s)}"
                    report.notes.append(f"{older.origin}: {seen}")
        except Bad as error:
            report.problems.append(error)
    report.problems.extend([Bad(f"no checkpoint in this pack was cosigned by {one}") for one in sorted(unseen)])
    if paths and not witnesses:
        report.notes.append(
            "checkpoints here are cosigned by witnesses: get their keys from them, and give them with --witness."
        )


def _check_kept(
    report: Report,
    trees: dict[str, Tree],
    keys: Sequence[Key],
    against: Sequence[tuple[str, bytes]],
    proofs: Sequence[tuple[str, bytes]],
    entry: bytes | None,
) -> None:
    """Checkpoints and proofs that were kept elsewhere."""
    for name, raw in against:
        try:
            tree = trees.get(_origin(raw))
            if tree is None:
                raise Bad(f"{name}: it is of no log that is here and could be read")
            older = check_against(raw, keys, tree, name)
            report.notes.append(f"{older.origin} goes on from {name} ({older.size:,} leaves)")
        except Bad as error:
            report.problems.append(error)
    for name, raw in proofs:
        try:
            if raw.lstrip()[:1] == b"{":
                report.notes.append(check_receipt(raw, keys, trees, name))
                continue
            tree = trees.get(_origin(raw.partition(b"\n\n")[2]))
            position, checkpoint, proven = check_proof(raw, keys, tree, entry, name)
            what = f" ({proven.name})" if proven else ""
            report.notes.append(f"{name} proves position {position}{what} of {checkpoint.origin}")
        except Bad as error:
            report.problems.append(error)


def _origin(raw: bytes) -> str:
    return raw.partition(b"\n")[0].decode("utf-8", "replace")


def renamed(key: Key, suffix: str) -> Key:
    """The same key under another name."""
    made = Key(key.name + suffix, key.public, "")
    encoded = base64.b64encode(bytes([NOTE_SIGNATURE]) + key.public).decode()
    return made._replace(text=f"{made.name}+{made.id(NOTE_SIGNATURE).hex()}+{encoded}")


def _span(manifest: dict[str, str] | None, name: str, problems: list[Bad]) -> tuple[int, int] | None:
    if manifest is None or name not in manifest:
        return None
    first, _, last = manifest[name].partition("-")
    try:
        return _decimal(first), _decimal(last)
    except ValueError as error:
        problems.append(Bad(f"manifest: {name}: {error}"))
        return None


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _answer(report: Report, as_json: bool) -> None:
    problems = [(found.log, bad) for found in report.logs for bad in found.problems]
    problems += [("pack", bad) for bad in report.problems]
    named = sorted((bad.first, log) for log, bad in problems if bad.first is not None)
    if as_json:
        answer = {
            "holds": report.holds,
            "first_bad": None if not named else {"log": named[0][1], "position": named[0][0]},
            "logs": [
                {
                    "log": one.log,
                    "size": one.size,
                    "root": one.root,
                    "signed_at": one.signed_at,
                    "entries": one.entries,
                    "events": one.events,
                }
                for one in report.logs
            ],
            "problems": [
                {"log": log, "problem": str(bad), "first": bad.first, "last": bad.last} for log, bad in problems
            ],
            "notes": report.notes,
        }
        print(json.dumps(answer, indent=2))
        return
    for one in report.logs:
        verdict = "NOT VERIFIED" if one.problems else "verified"
        at = f", signed at {one.signed_at}" if one.signed_at else ""
        print(
            f"{one.log}: {verdict}: {one.size:,} leaves{at}, {one.entries:,} entries and {one.events:,} events "
            f"compared, root {one.root or '?'}"
        )
    for log, bad in problems:
        where = (
            ""
            if bad.first is None
            else f" [position {bad.first}" + ("]" if bad.last in (None, bad.first) else f" to {bad.last}]")
        )
        print(f"WRONG ({log}){where}: {bad}")
    for note in report.notes:
        print(f"note: {note}")
    print("VERIFIED" if report.holds else "NOT VERIFIED")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="verify.py",
        description="Check an auditor's pack of a Tallybook log.",
        epilog="Exit: 0 holds, 1 does not, 2 wrong use.",
    )
    parser.add_argument(
        "pack", nargs="?", default=str(Path(__file__).parent), help="the pack's folder (default: this file's)"
    )
    parser.add_argument(
        "--vkey", action="append", default=[], help="the log's key, kept elsewhere: its text, or a file"
    )
    parser.add_argument("--against", action="append", default=[], help="an older checkpoint, kept elsewhere")
    parser.add_argument(
        "--witness", action="append", default=[], help="the key of a witness who cosigned checkpoints: text, or a file"
    )
    parser.add_argument("--proof", action="append", default=[], help="a .tlog-proof, or the receipt of an erasure")
    parser.add_argument("--entry", help="the file of the entry that a proof is about, where the pack lacks it")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    given = parser.parse_args(arguments)
    folder = Path(given.pack)
    watched = not given.quiet and not given.json and sys.stderr.isatty()

    def progress(done: int, size: int) -> None:
        if watched and (done == size or done % (WIDTH * 64) == 0):
            print(f"\r{done:,} of {size:,} leaves", end="\n" if done == size else "", file=sys.stderr)

    try:
        if not folder.is_dir():
            raise Misuse(f"{folder} is no folder")
        report = check_pack(
            folder,
            _given_keys(given.vkey),
            [(name, _file(name, "--against")) for name in given.against],
            [(name, _file(name, "--proof")) for name in given.proof],
            None if given.entry is None else _file(given.entry, "--entry"),
            progress,
            _given_keys(given.witness, "--witness", COSIGNATURE),
        )
    except Misuse as error:
        print(f"verify.py: {error}", file=sys.stderr)
        return 2
    _answer(report, given.json)
    return 0 if report.holds else 1


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
