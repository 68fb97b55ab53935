"""The Merkle tree over a log's leaves, as RFC 6962 defines it, kept as a frontier: the roots of its full subtrees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from .packing import pack, packer

_sha256 = hashlib.sha256

HASH = 32
"""Bytes of a hash."""
TILE = 256
"""How many hashes a tile holds, as C2SP's tlog-tiles has it."""
TILE_LEVELS = 8
"""How many levels of the tree lie between a tile's hashes and its root."""

EMPTY_ROOT = _sha256(b"").digest()
ENTRY_BYTES_MAX = 65_535
"""Largest entry of a tlog-tiles bundle: a larger event is committed by its hash."""


DETACHED = "tallybook/detached/"
"""How the origin of a book begins whose leaves hold the hashes of states, and never a state.

Every leaf, checkpoint and key is bound to that name: so it is as fixed as they are, and a stranger sees it.
"""


def is_detached(origin: str) -> bool:
    """Whether every leaf of a log holds the hash of its state only."""
    return origin.startswith(DETACHED)


def leaf(origin: str, position: int, stream: bytes | str, version: int, stored_name: str, state: bytes) -> bytes:
    """The bytes that the log commits to for one event: moving, renaming or altering it shows."""
    if not is_detached(origin):
        entry = pack((origin, position, stream, version, stored_name, state))
        if len(entry) <= ENTRY_BYTES_MAX:
            return entry
    return pack((origin, position, stream, version, stored_name, None, _sha256(state).digest()))


def hashes_of(leaves: Iterable[bytes]) -> list[bytes]:
    """The hashes of leaves."""
    sha256 = _sha256
    return [sha256(b"\x00" + entry).digest() for entry in leaves]


def parents(nodes: Sequence[bytes]) -> list[bytes]:
    """The hashes of pairs of neighbours; one that is left over has no parent yet."""
    sha256 = _sha256
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(nodes[::2], nodes[1::2], strict=False)]


def parent(left: bytes, right: bytes) -> bytes:
    """The hash of two neighbours."""
    return _sha256(b"\x01" + left + right).digest()


def row_hashes(origin: str, rows: Sequence[tuple[int, bytes | str, int, str, bytes]]) -> list[bytes]:
    """The hashes of the leaves of rows: position, stream, version, stored name, state."""
    if not is_detached(origin):
        pack_one = packer()
        # One tuple at a time, here and below: many that live at once have the garbage collector run more often.
        entries = [
            pack_one((origin, position, stream, version, name, state))
            for position, stream, version, name, state in rows
        ]
        if not entries or max(map(len, entries)) <= ENTRY_BYTES_MAX:
            return hashes_of(entries)
    return hashes_of([leaf(origin, *row) for row in rows])


def split(hashes: bytes) -> list[bytes]:
    """Hashes that stand one after another, one by one."""
    return [hashes[start : start + HASH] for start in range(0, len(hashes), HASH)]


def whole_root(nodes: Sequence[bytes]) -> bytes:
    """The root over 1, 2, 4, … neighbours."""
    while len(nodes) > 1:
        nodes = parents(nodes)
    return nodes[0]


Node = Callable[[int, int], bytes]
"""The hash of the whole subtree at a level (0: leaves), by its number from the left."""


def subtree(node: Node, start: int, end: int) -> bytes:
    """The root over the leaves from `start` up to before `end`, which is one that occurs in a tree or its proofs."""
    count = end - start
    if count == 0:
        return EMPTY_ROOT
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, start >> level)
    middle = start + (1 << (count - 1).bit_length() - 1)
    return parent(subtree(node, start, middle), subtree(node, middle, end))


def inclusion(node: Node, index: int, size: int) -> list[bytes]:
    """The proof that a leaf (from 0) is in the tree of a size: RFC 6962, 2.1.1."""
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if index < middle:
            path.append(subtree(node, middle, end))
            end = middle
        else:
            path.append(subtree(node, start, middle))
            start = middle
    return path[::-1]


def consistency(node: Node, old: int, size: int) -> list[bytes]:
    """The proof that the tree of a size begins with that of an older size: RFC 6962, 2.1.2."""
    path: list[bytes] = []
    start, end, whole = 0, size, True
    if old in (0, size):
        return path
    while old != end:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if old <= middle:
            path.append(subtree(node, middle, end))
            end = middle
        else:
            path.append(subtree(node, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(subtree(node, start, end))
    return path[::-1]


def root_of_inclusion(index: int, size: int, leaf_hash: bytes, path: Sequence[bytes]) -> bytes:
    """The root that a proof gives. Raises ValueError where it has not the length that it must have."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has none with the index {index}")
    node, last, rest = leaf_hash, size - 1, iter(path)
    used = 0
    while last:
        if index & 1 or index != last:
            beside = next(rest, None)
            if beside is None:
                raise ValueError("the proof is too short")
            used += 1
            node = parent(beside, node) if index & 1 else parent(node, beside)
        index >>= 1
        last >>= 1
    if used != len(path):
        raise ValueError("the proof is too long")
    return node


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
        self.append_hashes(hashes_of(leaves))

    def append_hashes(self, nodes: list[bytes]) -> dict[int, bytes]:
        """Add the hashes of leaves in order; the roots of the tiles that this made whole, by their number.

        Level by level: pairs are hashed in one go, and what is left over at the right is the frontier's.
        """
        hashes, rest, level, whole = self.hashes, self.size, 0, dict[int, bytes]()
        self.size += len(nodes)
        kept: list[bytes] = []
        while rest or nodes:
            if level == TILE_LEVELS:
                whole = dict(enumerate(nodes, rest))
            if rest & 1:
                nodes = [hashes.pop(), *nodes]
            if len(nodes) & 1:
                kept.append(nodes[-1])
            nodes = parents(nodes)
            rest >>= 1
            level += 1
        hashes += reversed(kept)
        return whole

    def append_rows(
        self, origin: str, rows: Sequence[tuple[bytes | str, int, str, bytes]]
    ) -> tuple[list[bytes], dict[int, bytes]]:
        """Add the leaves of a log's next rows in order (stream, version, stored name, state).

        Gives their hashes, and the roots of the tiles that this made whole (see `append_hashes`).
        """
        first = self.size + 1
        entries: list[bytes] = []
        if not is_detached(origin):
            pack_one = packer()
            entries = [
                pack_one((origin, position, stream, version, name, state))
                for position, (stream, version, name, state) in enumerate(rows, first)
            ]
        if not entries or max(map(len, entries)) > ENTRY_BYTES_MAX:
            entries = [leaf(origin, position, *row) for position, row in enumerate(rows, first)]
        added = hashes_of(entries)
        return added, self.append_hashes(added)

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
