#!/usr/bin/env python3
"""Check an auditor's pack of a Tallybook log. One file, Python 3.11 or later, standard library only.

    python verify.py PACK --vkey FILE_OR_KEY [--against CHECKPOINT] [--proof FILE] [--json]

Written from the public specifications (RFC 6962 and 9162, RFC 8032, and C2SP's tlog-tiles, tlog-checkpoint,
signed-note, tlog-cosignature and tlog-proof), and from none of Tallybook's own code: a second implementation.

What is checked, in the pack's folder and in its folder `reads`:

1. the checkpoint's signature, by a key that you give with --vkey. The pack brings a `log.vkey` of its own: who forges
   a pack forges that too, so without --vkey nothing is proven but that the pack fits itself. From a key that was
   changed since, the steps in `rotations` lead to the present one: each is proved under a checkpoint that it signed;
2. every tile against the checkpoint's root, and no tile too many or too few;
3. every entry against its leaf hash; that positions count from 1 without gaps, and that all are of this log;
4. every line of events.jsonl against its entry, and the names of its fields against those that this file knows;
   where records of reads were deleted, that a sweep among the events says so, with the root that the tiles give;
5. every file against SHA256SUMS, and that against `manifest`, which the log's key signed too;
6. --against: that the log goes on from a checkpoint which was kept elsewhere. Without one, a log that was
   written anew from its beginning, and signed with the real key, looks as good as the true one;
7. --proof: inclusion proofs (.tlog-proof), and receipts of erasures, each field against the leaf that it proves;
   of a position that the pack holds, whatever checkpoint it leads to, against what is there.

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
import stat
import sys
import uuid

if sys.version_info < (3, 11):  # noqa: UP036 - an auditor runs this with whatever Python there is
    sys.exit(f"verify.py needs Python 3.11 or later; this is {sys.version.split()[0]}.")

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

WIDTH = 256
"""Hashes of a full tile."""
NOTE_BYTES_MAX = 1 << 20
SIGNATURES_MAX = 100
LINE_BYTES_MAX = 1 << 26
SUMS_BYTES_MAX = 1 << 30
NOTE_SIGNATURE, COSIGNATURE = 1, 4
COSIGNED = "cosigned"
ROTATIONS, ROTATED = "rotations", "book.signing_key_rotated"
ROTATED_AT = slice(6, 8)
"""Where the state of such an event has the old key and the new one."""
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
        signers = ", ".join(sorted({f"{one.name}+{one.key_id.hex()}" for one in signatures}))
        raise Bad(
            f"{what}: no signature by the key {' or '.join(key.text for key in keys)}; it is signed by {signers}. If "
            "that is a successor, the pack's folder rotations has no step to it that your key signed"
        )
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


ENVELOPE: dict[str, Any] = {
    "schema_version": "int",
    "key_id": "int",
    "event_id": "id",
    "effective_us": "int",
    "subject_id": "id",
    "metadata": {
        "recorded_us": "int",
        "actor": "text",
        "purpose": "text",
        "on_behalf_of": "text",
        "channel": "text",
        "application": "text",
        "rule": "text",
        "correlation_id": "id",
        "causation_id": "id",
        "command_id": "id",
    },
}
"""What each stored state begins with. The fields of its kind follow, and what is sealed."""


def shape_digest(shape: Any) -> str:
    """What SHAPES holds of an event's part of schemas.json: names, kinds and order of its fields."""
    return hashlib.sha256(json.dumps(shape, separators=(",", ":")).encode()).hexdigest()


def check_schemas(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The names of fields, and of which events this file does not know them. Raises Bad."""
    try:
        found = _LINE.decode(read(folder / "schemas.json", "schemas.json", 1 << 24).decode("utf-8"))
        if json.dumps(found["envelope"]) != json.dumps(ENVELOPE):
            raise ValueError("the envelope's fields are not those of an event")
        unknown = []
        for name, one in found["events"].items():
            if type(one["schema_version"]) is not int or not all(isinstance(one[kind], dict) for kind in PARTS):
                raise ValueError("it does not say what it has to")
            known = SHAPES.get(name, {}).get(one["schema_version"])
            if known is None:
                unknown.append(f"{name} (version {one['schema_version']})")
            elif known != shape_digest(one):
                raise ValueError(f"the fields of {name} are not those of its version {one['schema_version']}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Bad(f"schemas.json: {error}") from None
    return dict(found), unknown


PARTS = ("fields", "personal")


def named(entry_name: str, stored: list[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stored state by their names; empty where this file does not know them."""
    known = schemas["events"].get(entry_name)
    if known is None or stored[0] != known["schema_version"] or stored[0] not in SHAPES.get(entry_name, {}):
        return {}
    values = stored[len(ENVELOPE) : -1]
    return dict(zip(known["fields"], values, strict=True)) if len(values) == len(known["fields"]) else {}


ERASED, KEY_CREATED, SWEPT = "customer.erased", "customer.key_created", "book.retention_swept"


@dataclass
class Told:
    """What events that were checked say, as far as other checks need it."""

    subjects: set[str]
    """Whose erasures are asked for."""
    schemas: dict[str, Any] = field(default_factory=lambda: {"events": {}})
    unknown: list[str] = field(default_factory=list)
    erased: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    commitments: dict[tuple[str, int], str] = field(default_factory=dict)
    swept: dict[int, str] = field(default_factory=dict)
    """How many records of reads were deleted → the root of so many leaves (hex)."""

    def erased_of(self, subject: str) -> list[list[Any]]:
        """The states of a subject's erasures."""
        return [stored for (stream, _), stored in self.erased.items() if stream == subject]

    def see(self, position: int, entry: Entry, stored: Any) -> None:
        """Keep what is needed of an event."""
        if not isinstance(stored, list) or len(stored) <= len(ENVELOPE):
            return
        fields = named(entry.name, stored, self.schemas)
        if entry.name == SWEPT and type(pruned := fields.get("reads_pruned")) is int:
            self.swept[pruned] = fields["reads_root"]
        elif entry.name == ERASED and entry.stream in self.subjects:
            self.erased[entry.stream, position] = stored
        elif entry.name == KEY_CREATED and entry.stream in self.subjects and type(fields.get("commitment")) is bytes:
            self.commitments[entry.stream, fields["key_id"]] = fields["commitment"].hex()


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


def check_line(raw: bytes, entry: Entry, position: int, schemas: dict[str, Any]) -> list[Any]:
    """A line of events.jsonl against the entry of its position; the state that is stored. Raises Bad."""

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
    envelope = ENVELOPE
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
    return stored


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
        return read_tile(self.folder, 0, index, WIDTH)

    def root_at(self, size: int) -> bytes:
        """The root of the first leaves."""
        whole, rest = divmod(size, WIDTH)
        return root_of(self.full[:whole], self.leaves_of(whole)[:rest] if rest else [])


def opened(path: Path, what: str) -> io.BufferedReader:
    """A file, to be read: a real one, no link, pipe or device. Raises Bad."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Bad(f"{what} is a link, or no file")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise Bad(f"{what} can't be read: {getattr(error, 'strerror', None) or error}") from None


def read(path: Path, what: str, limit: int) -> bytes:
    """A file, no longer than it may be. Raises Bad."""
    with opened(path, what) as file:
        # By its size, as a buffer of the limit would be taken up whole.
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise Bad(f"{what} is longer than it can be")
        try:
            return file.read(size)
        except OSError as error:
            raise Bad(f"{what} can't be read: {error.strerror or error}") from None


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
        self._file = opened(path, "events.jsonl")
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
    folder: Path,
    keys: Sequence[Key],
    found: Found,
    span: tuple[int, int] | None,
    progress: Callable[[int, int], None],
    told: Told | None = None,
) -> Tree | None:
    """Check one log of a pack; the tree that fits its checkpoint. `span`: the positions whose events it holds."""
    told = told or Told(set())
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
    if first > last and size:
        problems.append(Bad(f"the manifest leaves out all {size:,} positions of the log"))
        return None
    there = sum(len(names) for _, _, names in os.walk(folder / "tile"))
    if size > there * WIDTH:
        problems.append(Bad(f"the checkpoint tells of {size:,} leaves, and {there:,} tiles can't hold them"))
        return None
    tree = Tree(folder, checkpoint)
    _check_names(folder, size, first, last, problems)
    by_tiles, by_entries, parents = _leaves(folder, found, checkpoint, (first, last), told, progress)
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
    folder: Path,
    found: Found,
    checkpoint: Checkpoint,
    span: tuple[int, int],
    told: Told,
    progress: Callable[[int, int], None],
) -> tuple[_Side, _Side, list[bytes | None]]:
    """Read the leaves, a tile at a time: by level 0, by the entries; and what level 1 says of each full tile."""
    size, problems = checkpoint.size, found.problems
    first, last = span
    held = dict(bundles(size, first, last))
    by_tiles, by_entries = _Side([], []), _Side([], [])
    lines: Lines | None = None
    try:
        told.schemas, told.unknown = check_schemas(folder)
    except Bad as error:
        problems.append(error)
    else:
        try:
            lines = Lines(folder / "events.jsonl")
        except Bad as error:
            problems.append(Bad(str(error), first))
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
                if not first <= position <= last:
                    _seen_beside(told, position, entry)
                elif lines is not None and "line" not in failed:
                    try:
                        told.see(position, entry, check_line(lines.next(position), entry, position, told.schemas))
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


def _seen_beside(told: Told, position: int, entry: Entry) -> None:
    """An entry that shares its bundle with the positions that are wanted, and has no line."""
    if entry.name in (ERASED, KEY_CREATED, SWEPT) and entry.state is not None:
        with suppress(ValueError):
            told.see(position, entry, parse_msgpack(entry.state))


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


class Receipt(NamedTuple):
    """A receipt of an erasure: what it says, by name, with the subject, the leaf and the proof taken out of it."""

    says: dict[str, Any]
    subject: str
    leaf: bytes
    proof: bytes


RECEIPT_NAMES = {
    "origin", "subject", "position", "event_id", "erased_at", "recorded_at", "actor", "reason", "request_id",
    "even_so", "commitments", "lookups", "kept", "kept_until", "done", "unfinished", "leaf", "proof",
}  # fmt: skip
LEAF_NAMES = ("reason", "request_id", "even_so", "lookups", "kept")
"""What stands in a receipt as in the event."""
NO_RECORDS = ["done", "unfinished"]
"""What a receipt says of files and keys, which no log can prove."""


def parse_receipt(raw: bytes) -> Receipt:
    """A receipt of an erasure from its JSON. Raises ValueError."""
    try:
        says = _LINE.decode(raw.decode("utf-8").strip())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error})") from None
    if not isinstance(says, dict) or set(says) != RECEIPT_NAMES:
        raise ValueError("it is no receipt of an erasure: the names in it")
    try:
        subject, leaf, proof = says["subject"], says["leaf"], says["proof"]
        receipt = Receipt(says, str(uuid.UUID(subject)), base64.b64decode(leaf, validate=True), proof.encode())
        commitments = says["commitments"].items()
    except (ValueError, TypeError, AttributeError):
        raise ValueError("it is no receipt of an erasure with a proof") from None
    if subject != receipt.subject or any(str(_decimal(key_id)) != key_id for key_id, _ in commitments):
        raise ValueError("an id in it is not in its one form")
    return receipt


def utc_text(us: int | None) -> str | None:
    """A time of microseconds since 1970, as receipts write it; None for none. Raises OverflowError."""
    if us is None:
        return None
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat(timespec="microseconds")
    return text.removesuffix("+00:00").rstrip("0").rstrip(".") + "Z"


def check_receipt(raw: bytes, keys: Sequence[Key], trees: dict[str, Tree], told: Told, what: str) -> str:
    """That a receipt is of an erasure of its subject, in the log that its proof leads to, and says what its leaf says.

    What it says beside the leaf is held against the pack's events; what can't be proven is named. Raises Bad.
    """
    try:
        receipt = parse_receipt(raw)
    except ValueError as error:
        raise Bad(f"{what}: {error}") from None
    says, subject = receipt.says, receipt.subject
    tree = trees.get(_origin(receipt.proof.partition(b"\n\n")[2]))
    position, checkpoint, entry = check_proof(receipt.proof, keys, tree, receipt.leaf, what)
    assert entry is not None
    if (position, entry.stream, entry.name) != (says["position"], subject, ERASED) or type(says["position"]) is not int:
        raise Bad(f"{what}: what it proves is not the erasure of {subject}", position)
    unproven = list(NO_RECORDS)
    if entry.state is None:
        # The leaf holds only the hash of the state: the pack's line, if it is here, holds what was hashed.
        stored = told.erased.get((subject, position)) if tree is not None else None
    else:
        try:
            stored = parse_msgpack(entry.state)
        except ValueError as error:
            raise Bad(f"{what}: the state in its leaf can't be read: {error}", position) from None
    expected: dict[str, Any] = {"origin": checkpoint.origin}
    fields: dict[str, Any] = {}
    if stored is not None:
        try:
            fields = named(ERASED, stored, told.schemas)
            envelope = dict(zip(ENVELOPE, stored, strict=False))
            metadata = dict(zip(ENVELOPE["metadata"], envelope["metadata"], strict=True))
            expected |= {
                "subject": rendered(envelope["subject_id"]),
                "event_id": rendered(envelope["event_id"]),
                "erased_at": utc_text(envelope["effective_us"]),
                "recorded_at": utc_text(metadata["recorded_us"]),
                "actor": metadata["actor"],
            }
            if fields:
                expected |= {name: rendered(fields[name]) for name in LEAF_NAMES}
                expected["kept_until"] = utc_text(fields["kept_until_us"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise Bad(f"{what}: the state in its leaf is no event's", position) from None
    for name in says:
        if name in expected:
            if type(says[name]) is not type(expected[name]) or says[name] != expected[name]:
                raise Bad(f"{what}: {name} is not what the leaf of position {position} holds", position)
        elif name not in {"subject", "position", "commitments", "leaf", "proof", *NO_RECORDS}:
            unproven.append(name)
    of_log = told if tree is not None else Told(set(), told.schemas)
    unproven += _check_commitments(says["commitments"], subject, fields, of_log, what)
    rest = ", ".join([*unproven, *beyond(checkpoint, tree)])
    return f"{what} proves the erasure of {subject} at position {position} of {checkpoint.origin}; not proven: {rest}"


def beyond(checkpoint: Checkpoint, tree: Tree | None) -> Iterator[str]:
    """What a proof under a checkpoint that is newer than the pack's leaves open: nothing, where it is not."""
    if tree is not None and checkpoint.size > tree.checkpoint.size:
        yield (
            f"that the log went on from this pack's {tree.checkpoint.size:,} leaves to the {checkpoint.size:,} of the "
            "checkpoint that it leads to"
        )


def _key_ids(fields: dict[str, Any]) -> list[int]:
    return [one for one in fields.get("key_ids") or () if type(one) is int]


def _check_commitments(
    said: dict[str, Any], subject: str, fields: dict[str, Any], told: Told, what: str
) -> Iterator[str]:
    """The keys that a receipt calls destroyed, against the events that made and erased them; what is not proven."""
    here = _key_ids(fields)
    erased = set(here).union(*[_key_ids(named(ERASED, one, told.schemas)) for one in told.erased_of(subject)])
    for key_id in here:
        if (subject, key_id) in told.commitments and str(key_id) not in said:
            raise Bad(f"{what}: commitments: the key {key_id} is left out")
    for name, commitment in said.items():
        known = told.commitments.get((subject, int(name)))
        if known is None:
            yield f"commitments.{name}"
        elif known != commitment:
            raise Bad(f"{what}: commitments: that of the key {name} is not what the log holds")
        elif int(name) not in erased:
            yield f"that the key {name} is destroyed"


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
    # Whatever checkpoint a proof leads to, what the pack holds at a position is what is there.
    held = tree.leaves_of(proof.leaf // WIDTH)[proof.leaf % WIDTH] if tree is not None and inside else None
    leaf = held if entry is None else leaf_hash(entry)
    if leaf is None:
        raise Bad(f"{what}: the entry of position {position} is not here (--entry names its file)", position)
    if held is not None and held != leaf:
        raise Bad(f"{what}: position {position} of this pack holds another entry than the one that it proves", position)
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


class Rotation(NamedTuple):
    """A step from one key of the log to the next."""

    old: Key
    new: Key
    position: int
    checkpoint: Checkpoint
    leaf: bytes
    proof: bytes


def check_rotation(raw: bytes, keys: Sequence[Key], what: str) -> Rotation | None:
    """A change of the log's key, proved under a checkpoint that one of the keys signed; None: it is of other keys.

    The event names both keys, so that nobody else can make himself the successor of a key. Raises Bad.
    """
    try:
        says = json.loads(raw)
        leaf, state = (_base64(says[name]) for name in ("leaf", "state"))
        proof = str(says["proof"]).encode()
        named = [parse_vkey(str(one)) for one in parse_msgpack(state)[ROTATED_AT]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Bad(f"{what}: it is no change of the key with a proof") from None
    if len(named) != 2 or named[0].name != named[1].name:
        raise Bad(f"{what}: it is no change of the key with a proof")
    known = {(key.name, key.public) for key in keys}
    signers = [key for key in named if (key.name, key.public) in known]
    if not signers:
        return None
    position, checkpoint, entry = check_proof(proof, signers[:1], None, leaf, what)
    if entry is None or entry.name != ROTATED or checkpoint.origin != named[0].name:
        raise Bad(f"{what}: what it proves is no change of the log's key", position)
    if entry.state != state and entry.state_hash != hashlib.sha256(state).digest():
        raise Bad(f"{what}: its state is not that of the entry that it proves", position)
    return Rotation(named[0], named[1], position, checkpoint, leaf, proof)


class Followed(NamedTuple):
    """What the steps in a pack lead to: the keys that were given with those that follow them, and those before."""

    trusted: list[Key]
    former: list[Key]
    steps: list[tuple[str, Rotation]]
    """By which steps, with the names of their files: the tree that the keys lead to has to hold them, too."""


def follow_rotations(folder: Path, given: Sequence[Key], report: Report) -> Followed:
    """The keys to check by, from those that were given."""
    trusted, former, taken = followed = Followed(list(given), [], [])
    paths = sorted((folder / ROTATIONS).glob("*.json"), key=lambda path: (len(path.name), path.name))
    steps = []
    for path in paths if given else ():
        name = path.relative_to(folder).as_posix()
        try:
            raw = read(path, name, NOTE_BYTES_MAX)
            step = check_rotation(raw, trusted, name)
            if step is None:
                steps.append((name, raw))
            elif step.old in trusted and step.new not in trusted:
                trusted.append(step.new)
                taken.append((name, step))
                report.notes.append(
                    f"the key {step.old.text} was followed by {step.new.text} at position {step.position}: a "
                    f"checkpoint of {step.checkpoint.size:,} leaves that it signed says so"
                )
            elif step.old not in trusted:
                steps.append((name, raw))
        except Bad as error:
            report.problems.append(error)
    for name, raw in reversed(steps):
        try:
            step = check_rotation(raw, [*given, *former], name)
            if step is not None and step.old not in trusted:
                former.append(step.old)
                taken.append((name, step))
        except Bad as error:
            report.problems.append(error)
    return followed


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
        sums = read(folder / SUMS, SUMS, SUMS_BYTES_MAX)
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
        with opened(path, path.name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (Bad, OSError):
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
    trusted, former, steps = follow_rotations(folder, given, report)
    told = Told(_subjects(proofs))
    spans: dict[str, tuple[int, int]] = {}
    for place, name in ((folder, "events"), (folder / "reads", "reads")):
        found = Found(name)
        report.logs.append(found)
        # The log of reads is signed with the same key, under a name of its own.
        wanted = [renamed(key, READS) for key in trusted] + trusted if name == "reads" else trusted
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
        of_this = told if name == "events" else Told(set())
        tree = check_log(place, of_log, found, span, progress, of_this)
        if of_this.unknown:
            some = ", ".join(of_this.unknown[:5]) + (" and others" if len(of_this.unknown) > 5 else "")
            report.notes.append(f"{name}: not checked: the names of fields of {some}, which this verifier doesn't know")
        if tree is not None:
            trees[tree.checkpoint.origin] = tree
            spans[name] = (1, tree.checkpoint.size) if span is None else span
            for file, step in steps if name == "events" else ():
                try:
                    check_own_proof(step.proof, [step.old, step.new], tree, step.leaf, file)
                except Bad as error:
                    report.problems.append(error)
            if name == "reads":
                _check_swept(report, found, trees, tree, spans, told, keys)
    # Of a key that a later one followed, what was kept counts; what is signed today does not.
    kept_by = [*keys, *former, *(renamed(key, READS) for key in former)]
    _check_kept(report, trees, kept_by, told, against, proofs, entry)
    _check_cosigned(report, folder, trees, kept_by, witnesses)
    if not given:
        report.notes.append(
            "checked by the pack's own log.vkey: that proves only that the pack fits itself. Get the key from whoever "
            "keeps the log, by another way, and give it with --vkey."
        )
    kept = {_origin(raw) for _, raw in against}
    for name in sorted(trees.keys() - kept) if kept else [""]:
        of = f" of {name}" if name else ""
        report.notes.append(
            f"no older checkpoint{of} was given (--against): a log that was rewritten before this checkpoint and "
            "signed with the real key would not be noticed."
        )
    return report


SWEPT_PROOF = "swept.tlog-proof"


def check_own_proof(
    raw: bytes, keys: Sequence[Key], tree: Tree, entry: bytes | None, what: str
) -> tuple[int, Entry | None]:
    """A proof that a pack brings of its own log: it must lead to what the pack's checkpoint covers. Raises Bad.

    One that leads elsewhere proves nothing about this log: who signs can sign a tree of a single leaf.
    """
    position, checkpoint, proven = check_proof(raw, keys, tree, entry, what)
    if checkpoint.origin != tree.checkpoint.origin:
        raise Bad(f"{what}: it is of the log {checkpoint.origin}")
    if checkpoint.size > tree.checkpoint.size:
        raise Bad(
            f"{what}: it leads to a checkpoint of {checkpoint.size:,} leaves, and this pack's has "
            f"{tree.checkpoint.size:,}: it shows nothing of the tree that is here",
            position,
        )
    return position, proven


def _see_sweep(path: Path, keys: Sequence[Key], events: Tree | None, told: Told) -> None:
    """The sweep that a pack proves by itself, since it need not be among the events that are here. Raises Bad."""
    if not path.exists():
        return
    name = f"reads/{SWEPT_PROOF}"
    if events is None:
        raise Bad(f"{name}: the log of events, which it is of, could not be read")
    position, entry = check_own_proof(read(path, name, NOTE_BYTES_MAX), keys, events, None, name)
    if entry is not None and entry.name == SWEPT and entry.state is not None:
        with suppress(ValueError):
            told.see(position, entry, parse_msgpack(entry.state))


def _check_swept(
    report: Report,
    found: Found,
    trees: dict[str, Tree],
    tree: Tree,
    spans: dict[str, tuple[int, int]],
    told: Told,
    keys: Sequence[Key],
) -> None:
    """That records of reads which are not here were deleted by a sweep that is on record."""
    first, last = spans["reads"]
    if last != found.size:
        found.problems.append(Bad("the manifest leaves out the last records of reads", last + 1, found.size))
    if first == 1:
        return
    origin = tree.checkpoint.origin.removesuffix(READS)
    try:
        _see_sweep(tree.folder / SWEPT_PROOF, keys, trees.get(origin), told)
    except Bad as error:
        found.problems.append(error)
    root = told.swept.get(first - 1)
    if root is None:
        missing = f"the records of reads up to position {first - 1:,} are not here, and no sweep among the events"
        if spans.get("events") == (1, report.logs[0].size) or not origin.startswith(DETACHED):
            found.problems.append(Bad(f"{missing} deleted them", 1, first - 1))
        else:
            # Proofs of such a log hold no states.
            report.notes.append(f"{missing} that are here deleted them: only a pack of all events can show it.")
        return
    try:
        if tree.root_at(first - 1).hex() != root:
            raise Bad("the sweep that deleted records of reads tells of another root", 1, first - 1)
    except Bad as error:
        found.problems.append(error)


def _is_json(raw: bytes) -> bool:
    return raw.lstrip()[:1] == b"{"


def _subjects(proofs: Sequence[tuple[str, bytes]]) -> set[str]:
    """The subjects of the receipts among proofs."""
    subjects = set()
    for _, raw in proofs:
        with suppress(ValueError):
            subjects.update([parse_receipt(raw).subject] if _is_json(raw) else [])
    return subjects


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
    told: Told,
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
            if _is_json(raw):
                report.notes.append(check_receipt(raw, keys, trees, told, name))
                continue
            tree = trees.get(_origin(raw.partition(b"\n\n")[2]))
            position, checkpoint, proven = check_proof(raw, keys, tree, entry, name)
            what = f" ({proven.name})" if proven else ""
            rest = "".join(f"; not proven: {one}" for one in beyond(checkpoint, tree))
            report.notes.append(f"{name} proves position {position}{what} of {checkpoint.origin}{rest}")
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


# ── the shapes of events ────────────────────────────────────────────────────────────────────────────────────────────

SHAPES: dict[str, dict[int, str]] = {
    "access.command_denied": {1: "c0352752ee99eda6a28084ed79d9b3cfaa48705e04315f99c44f621a83749232"},
    "access.exported": {1: "82c1b39f8e7ddf91256843a3fdd59c240e4306678980344c8258b63a7d9639fe"},
    "access.personal_data_read": {1: "ac1fe9f1d6ef471d5885015bd38824715a77a50729cf4550d09694278c7f216a"},
    "book.adoption_guarded": {1: "81622c01b28f4eae5bec4fa1774b463d7334d988e69b0afb1975f2d8ed8e3263"},
    "book.read_model_directed": {1: "f048b28f22f03c66b792209ba499f42de772fdbeb439cd81907a986158f799b8"},
    "book.retention_declared": {1: "1c388c9934b13f529b77dbac828385e53aa0f9418999416ce1c42fd992fb267c"},
    "book.retention_swept": {1: "7b1adb81c0a58309e2a3cd2b1686a4a4023eccaf36af9e205e2671a6fb3ad324"},
    "book.retention_withdrawn": {1: "38ee1201fff8b0a1a8945d70717c2f8a1dfee173ab624dea20a89cc327577cf5"},
    "book.rule_set_adopted": {1: "6442a5b3a72ef9a7f79cdccabab9cbc82db460e343a141b5612956e1a72bf35e"},
    "book.rule_set_backtested": {1: "2441674a32065311c29e4e340eb4a892cf7347b6250be27904a6de36091f12f4"},
    "book.rule_set_proposed": {1: "49f3f230ccf33e345c5ef4dbd1bc8827c030ff973f3a10ba921a47fb0462f7b6"},
    "book.rule_set_withdrawn": {1: "f265aca880c882d0dcdc4a4038b48e83b0ee02c2214ebb472fe7041980ba1c7b"},
    "book.signing_key_rotated": {1: "9916ff8c6e35f2bf55432a48e46ec01c2efd86cc6bd64a7acc90913bbfdb907b"},
    "book.sweep_finished": {1: "1d6d58005832f158c15fb3d815ca23560c96cc0d4db4903db196b30e3ebe978d"},
    "book.swept": {1: "2b2b1adf5db319f4607de7573f4bc1d8bb4fc60ae4d436803e315b3b81eb3597"},
    "book.wrapping_key_rotated": {1: "43c0f4877940a9c19e365b439184b5ff7377e9a75a701fd910d95a4c78324d91"},
    "customer.changed": {1: "e711d9f46f21ad3103b057ec7e0137f3be7d7e73ce8f69bc19fd99eb4b2463f5"},
    "customer.consent_confirmed": {1: "b7a3ae1667b920a95f20a6a21dd10e75672c4be9f3f48f0770d53a76919fa469"},
    "customer.consent_granted": {1: "03ff4736d85a0daf841ee44195f8453fb805b82cd5a9f9295418d6f30fce8dab"},
    "customer.consent_withdrawn": {1: "cc0e2f172afa876532a91c4a76ceb7a02b18e2c3f9844da191eed97c17f772f0"},
    "customer.contact_point_added": {1: "62d27742da8372ed4549c6d6cc248a7ee6f4e64c71ab11fdfc35d7a31c0fc429"},
    "customer.contact_point_removed": {1: "9205934b3832d7b198070fbdb2c5b97f92fb73d0e346ae9b27ea9af448f0911b"},
    "customer.erased": {1: "99dabeb6c8f73606d34cbbf5a904121a99bb5216a24b468d38e07ab9cfd3f61b"},
    "customer.identifier_linked": {1: "38944f034d30038f8dddd1d2e3ceb056242b48f6bf4d2b66db79723abecd60a6"},
    "customer.identifier_removed": {1: "0185c1e1b9b25942ac5a2e51d0d775c22e9a21ebb5eac7479ae281ef76cbcd4a"},
    "customer.interaction_recorded": {1: "4b0609033249fc8a4b6810a3d4fbc4e043885550de65fd5da5e390346eff6e81"},
    "customer.key_created": {1: "c79e926e5e215c66416d44b93e27af2b96785ea9f674ded8538af538138bf8c1"},
    "customer.objected": {1: "996833ca154314d22f2e1771545b1c2fe0d75b1bc1c3fe6c413c790ee258c708"},
    "customer.objection_withdrawn": {1: "996833ca154314d22f2e1771545b1c2fe0d75b1bc1c3fe6c413c790ee258c708"},
    "customer.purchase_recorded": {1: "4cb950351da8bfcce1a7193e4c9ebc018e44932ea32612a5702a5f60604d4d49"},
    "customer.referred": {1: "a5156c1829503b773b2d3ea1b91fa75ac4c5b49c2c00d6ba9d99a4d422ab1154"},
    "customer.referred_by": {1: "e88af304af35e2a4a016a4438d8646c63427a1b183029887ec883885add0b642"},
    "customer.registered": {1: "a281ef73078249aecd446e202173813f1938c54a4805caad7f35876eba293caa"},
    "customer.relation_ended": {1: "76694b243923b3bd70d99c0f9e2e80291bc0dca925190df680c970f2e4c50538"},
    "customer.request_completed": {1: "3c7c95bb681d67046004736711579b3d784de61518c9b1cafa198b3e85b99393"},
    "customer.request_received": {1: "9c97fea54f0d767bb4971360daef350b9a99c867ab6f4b0b72b74a89c2786251"},
    "customer.restricted": {1: "76694b243923b3bd70d99c0f9e2e80291bc0dca925190df680c970f2e4c50538"},
    "customer.restriction_lifted": {1: "76694b243923b3bd70d99c0f9e2e80291bc0dca925190df680c970f2e4c50538"},
    "customer.return_recorded": {1: "74b8ff5d7f1948733d6f62d27b188bf7200ed9bad428d9186e3224cb2c070150"},
    "customer.value_resealed": {1: "9db99d29ffb5a580b335b0e6364e230a4e0fd1406b46ade0561ea4e0bec5dfed"},
    "customer.values_erased": {1: "c50b0d21b3c9a4dd5e0f8efd15939a6a74fa0a61dd3891cf4cf219d1f7e1b043"},
    "liability.price_allocated": {1: "646869c42b508f53a5199aebaa99e5fd1b4c29db18a5d5efe921eb444605f948"},
    "liability.redemption_estimated": {1: "c7f53aed5422ec135db926587b9cb3f3d4f0fccf5fac54d73602ebf0502701e1"},
    "log.closed": {1: "e10cee981dd2206e195e660840f53b571c0c14a0e237d9a52e0ca68577ea1dfb"},
    "log.opened": {1: "ed68ffdc9a418b17d5cf2bda428fbeabd029ff104f2def2c4494d3cbb67cb535"},
    "loyalty.activity_recorded": {1: "d66c494632fe72bdd35861ce1fa1334338bb9cfcb0f284808633c2b28eb71aa0"},
    "loyalty.closed": {1: "76694b243923b3bd70d99c0f9e2e80291bc0dca925190df680c970f2e4c50538"},
    "loyalty.correction_recorded": {1: "d08e9ca5dd9a307bf37587ebea7c24eca6d7c1632d71748ad80d1e8ed5c0a60f"},
    "loyalty.coupon_closed": {1: "0c04aa58d95c7ea57df7c99bd5c6c67dd7ab59626c21c40cb301b6379efcba88"},
    "loyalty.coupon_granted": {1: "c7bcbc5780e790d58cf168f95b9d558b3d9b05d3f6453128b3d4a7bcec751c04"},
    "loyalty.coupon_issued": {1: "099b8059906950584262cd10ed0cadd3838b2019ff793b913aea3558ae421414"},
    "loyalty.coupon_refused": {1: "dad99bc66cc7940cd50c3c7bfdff76fcc3ab76439bc3eb15ca65f9b4a5045a22"},
    "loyalty.coupon_used": {1: "ad3270dbb7b81dc8e2d1c25f5f67ba038fada850d7d48ce651f6497a8dd31e61"},
    "loyalty.coupon_voided": {1: "f3517b7ad193cc81aca66983efdcdac02ba6189a52932e0b6f060680ed60b605"},
    "loyalty.earning_confirmed": {1: "84b41f47a739f5dcdbbbbb17bd4d279754f7b1f5def2d82a1fad3cac099c6d2e"},
    "loyalty.earning_refused": {1: "1a2b8e9cc8e3a9ddad0c929c0711ce9a3e6f884d0a2d48e14397ca9555a5835c"},
    "loyalty.earning_reversed": {1: "e1de7f691d8c5f2250acd74a0ec94da79758cf33d64ff3cf1317e36198e58018"},
    "loyalty.earning_withdrawn": {1: "349ea58209a7428bf5c7c5ab1f236bd8f75829ba81e2524b5e8fbeaede328261"},
    "loyalty.enrolled": {1: "dd6d535d9853aa117042edfe389129bbe204cfc798322f1258f1dba1076060a6"},
    "loyalty.extension_granted": {1: "2383c2d9cb3a6b37fa120aa9aeb381478e85097bae8db340553ac9b5d52cba46"},
    "loyalty.goodwill_granted": {1: "c9def83da88826bdde2d512d446ce880c8c2d972ca148135b57479090c29a9ea"},
    "loyalty.hold_refused": {1: "1b881a05ba333637c1021a59d90783906b6371118e162b1d48dab9f05e62f0ae"},
    "loyalty.hold_release_requested": {1: "2140e5d1e319b5cf1ad5a46cda49a94fd2710847e941d502fec00ccc76fe7d40"},
    "loyalty.hold_released": {1: "ecbb9310d62418ed3cc6106054607c78a293ad9e9d1856563a8fd48cd7bba221"},
    "loyalty.hold_requested": {1: "9797913ab47b3a42701e483f662a65bbcca01885bbbe4641b046da8f00e8ecce"},
    "loyalty.lots_extended": {1: "cbc0da58000fd312dd09c8d5a5f157701301e54cbae83dc7b73660d1bc4f76b9"},
    "loyalty.points_activated": {1: "412a7853095131cbb1d03870cb390474f5ae5f2bc10a4f391e8dfa182fb868f0"},
    "loyalty.points_corrected": {1: "70d1a9c8a3f8dc3dd24dacc4d038f447b2ba9f31a28937f82ba895ddbf838d25"},
    "loyalty.points_credited": {1: "3024fe473686b2796be656076061f5392f1a1cfcb3b5d90e0d48bd2cedf75b12"},
    "loyalty.points_earned": {1: "cd2b72e615743172512c876d5dbd6a59b3e05c3e117337e3a1c8e234378f293d"},
    "loyalty.points_expired": {1: "b370d17b0f905069b890073b40993103dbb9a0066e56b74f7fefd1088f66e1bf"},
    "loyalty.points_held": {1: "acb4452e853787991eedac224a8df466c72656fc73c046ff525969cbe71ff8a2"},
    "loyalty.points_redeemed": {1: "6d99bd5d561239d188e6766edcb6177c8e07e01bc6477debc68f33a78969048a"},
    "loyalty.points_transferred": {1: "6c43e0b1bb26ceefcf012d990e349755b4085034f4ecdca49f6cfcd5df71e199"},
    "loyalty.redemption_refused": {1: "eecb6da680bdab14b3f5b46e08199de903f10837527df5a2fd78edbeca98e710"},
    "loyalty.redemption_requested": {1: "662fd4165c418123b1e3cd266be28077d3a992a3b587c10c80f501675ae1bc52"},
    "loyalty.redemption_returned": {1: "92ad49279547b5fa8c194b81c61394cbcd9ab23e573b85cd77010275f5b0dc3d"},
    "loyalty.redemption_reversed": {1: "ec88abe98fcd6b4f75e4dcde20eb94462013b082014dfa5f3bbf211f42f7644b"},
    "loyalty.referral_credited": {1: "e9ad3ede38ba7fe2abb2f5e2893a49d02dc7ff9dc586ce6cc0b7ef7325c6539c"},
    "loyalty.referral_reduced": {1: "2d2532da91c4e465e63ba571216c6fe663f02fa3f9f673dd816213ee4c77b466"},
    "loyalty.reinstatement_granted": {1: "741af1ba6af89d8ea28a72a6abfc1344c8c84089934b18f80d50f6f33d111d48"},
    "loyalty.resumed": {1: "76694b243923b3bd70d99c0f9e2e80291bc0dca925190df680c970f2e4c50538"},
    "loyalty.suspended": {1: "76694b243923b3bd70d99c0f9e2e80291bc0dca925190df680c970f2e4c50538"},
    "loyalty.tier_changed": {1: "f835470bf6180621606b3c3f6eedca5279c5b9b1059a85f38691dfe800bd6547"},
    "loyalty.tier_overridden": {1: "46ccbf592828c100845b7874fbdd95c81cbd24b7b6ba401687e3a33989bca343"},
    "loyalty.tier_override_lifted": {1: "76694b243923b3bd70d99c0f9e2e80291bc0dca925190df680c970f2e4c50538"},
    "loyalty.transfer_received": {1: "f4caa90c754a7f661ef7655cea8e131830f44970a6e893e1dc4ec0fbe9233fc8"},
    "loyalty.transfer_refused": {1: "1b881a05ba333637c1021a59d90783906b6371118e162b1d48dab9f05e62f0ae"},
    "loyalty.transfer_requested": {1: "36c7e80e813ddebfc763d2cd475e297cc5f3e1ddcc36b587fce2fbda8f540f63"},
    "policy.adopted": {1: "2ea9d2dc5a4d32b23921ed1bf22e6e8351b95161f34b103b5996a55472c167cd"},
    "policy.role_granted": {1: "bcd4f2766593c6ac0b18967ac0fb1cb5005429fdb5e13931d126eff61102f354"},
    "policy.role_revoked": {1: "68337175c8adea367c2020eab50bdc57181c8035b5994d0ea44a384a2576ea9b"},
    "policy.withdrawn": {1: "becc4153fe479132a6549dece7e21f87053e1ad5b84d134cfec745a36e3fad99"},
    "reward.returned": {1: "e0f4089065e86489f909c6b9ed45cca74dc5b7fe5cdc2eac15b992a2860bdcf7"},
    "reward.stocked": {1: "80d2dcde6699ac6f5094f319aa619fc2fbfdfe86f8007f7dfebfba947087dd91"},
    "reward.taken": {1: "e0f4089065e86489f909c6b9ed45cca74dc5b7fe5cdc2eac15b992a2860bdcf7"},
    "ticket.assigned": {1: "dee37fd0f80a867ddcf46330052b16283435f8c81eeec7ca69d7756da2ab0ce8"},
    "ticket.closed": {1: "e10cee981dd2206e195e660840f53b571c0c14a0e237d9a52e0ca68577ea1dfb"},
    "ticket.compensated": {1: "40d8bdb7d1e139710b95275a026b2ddc20d0faae3da16f49c4eb8723e2a9ee18"},
    "ticket.opened": {1: "b6ab86df116e26532a5d0348a3e6465671bd472a5d7cf8ee0744a3cb4ca83122"},
    "ticket.replied": {1: "205304e74bd654f388909b126d0bec5fdc4e3320f1956f96308a8e9419f5c005"},
    "ticket.resolved": {1: "88cb06a6e7027b32591bde86f160579e4cf53f7a9e8836bde07a6981e5b8827e"},
    "ticket.satisfaction_recorded": {1: "905597d7acc203423f7341b99a5d7f18d1cebc6c9aab6f22a3b871de733c4584"},
}
"""Of each event, by schema version: the digest of its part of schemas.json. Written by `python -m tools.reference`."""


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def visible(text: str) -> str:
    """A text that gives no orders to a terminal and stays in its line: all but what can be printed is escaped."""
    return "".join([one if one.isprintable() else one.encode("unicode_escape").decode() for one in text])


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
        print(visible(f"WRONG ({log}){where}: {bad}"))
    for note in report.notes:
        print(visible(f"note: {note}"))
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
        print(visible(f"verify.py: {error}"), file=sys.stderr)
        return 2
    _answer(report, given.json)
    return 0 if report.holds else 1


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
