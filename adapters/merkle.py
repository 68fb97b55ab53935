"""The Merkle tree over a log's leaves, as RFC 6962 defines it, kept as a frontier: the roots of its full subtrees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from .packing import pack, packer

_sha256 = hashlib.sha256

EMPTY_ROOT = _sha256(b"").digest()
ENTRY_BYTES_MAX = 65_535
"""Largest entry of a tlog-tiles bundle: a larger event is committed by its hash."""


def leaf(origin: str, position: int, stream: bytes | str, version: int, stored_name: str, state: bytes) -> bytes:
    """The bytes that the log commits to for one event: moving, renaming or altering it shows."""
    entry = pack((origin, position, stream, version, stored_name, state))
    if len(entry) > ENTRY_BYTES_MAX:
        entry = pack((origin, position, stream, version, stored_name, None, _sha256(state).digest()))
    return entry


class Frontier:
    """A growing tree's size and the hashes of its full subtrees, largest first."""

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, packed: bytes = b"") -> None:
        self.size = size
        self.hashes = [packed[index : index + 32] for index in range(0, len(packed), 32)]
        if len(self.hashes) != size.bit_count() or len(packed) % 32:
            raise ValueError(f"a frontier of {size} leaves has {size.bit_count()} hashes, this has {len(packed)} bytes")

    def append(self, leaves: Iterable[bytes]) -> None:
        """Add leaves in order."""
        hashes, size, sha256 = self.hashes, self.size, _sha256
        pop = hashes.pop
        for entry in leaves:
            node = sha256(b"\x00" + entry).digest()
            rest = size
            while rest & 1:
                node = sha256(b"\x01" + pop() + node).digest()
                rest >>= 1
            hashes.append(node)
            size += 1
        self.size = size

    def append_rows(self, origin: str, rows: Sequence[tuple[bytes | str, int, str, bytes]]) -> None:
        """Add the leaves of a log's next rows in order: stream, version, stored name, state."""
        pack, first = packer(), self.size + 1
        entries = [pack((origin, position, *row)) for position, row in enumerate(rows, first)]
        if entries and max(map(len, entries)) > ENTRY_BYTES_MAX:
            entries = [leaf(origin, position, *row) for position, row in enumerate(rows, first)]
        self.append(entries)

    def packed(self) -> bytes:
        """The hashes as bytes, for storage."""
        return b"".join(self.hashes)

    def root(self) -> bytes:
        """The tree head's hash."""
        if not self.hashes:
            return EMPTY_ROOT
        node = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            node = _sha256(b"\x01" + left + node).digest()
        return node
