"""The tiles of a log's Merkle tree, as C2SP's tlog-tiles has them, beside the log: proofs are made of them, and an
altered row is found by them.

Tiles are derived. They are written from what is committed, so they are never ahead of the log, and whoever writes them
writes the same: writers need no lock, a tile only grows. What was not written when a process was killed is written by
the next one that looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from threading import RLock

from tallybook.projections.read_models import Table

from . import merkle
from .database import EXAMINE, Session, damaged, onward, sound
from .log import LogRecorder
from .merkle import HASH, TILE, TILE_LEVELS, split

FULL = TILE * HASH
"""Bytes of a tile that is full."""
CHUNK = 64 * TILE
"""How many leaves are hashed, and written in one transaction."""

TILES = Table(
    "tiles",
    (("log", "text"), ("level", "integer"), ("tile", "integer"), ("hashes", "blob")),
    ("log", "level", "tile"),
)
AGAIN = "Tiles are derived from the log: `tallybook audit rebuild-tiles` makes them anew."

_PUT = (
    "INSERT INTO tiles VALUES (?,?,?,?) ON CONFLICT (log, level, tile) DO UPDATE SET hashes=excluded.hashes "
    "WHERE length(tiles.hashes)<length(excluded.hashes)"
)
_PUT_AGAIN = (
    "INSERT INTO tiles VALUES (?,?,?,?) ON CONFLICT (log, level, tile) DO UPDATE SET hashes=excluded.hashes "
    "WHERE tiles.hashes<>excluded.hashes"
)


class TileStore:
    """The tiles of one log."""

    def __init__(self, log: LogRecorder) -> None:
        self.log = log
        self._name = log.table.name
        self._lock = RLock()  # one thread of a process writes at a time: the others would only do the same work

    @property
    def _place(self) -> str:
        return self.log.database.place

    def size(self) -> int:
        """How many leaves the tiles hold."""
        rows = self.log.database.rows(
            "SELECT log, level, tile, hashes FROM tiles WHERE log=? AND level=0 ORDER BY tile DESC LIMIT 1",
            [self._name],
        )
        for _, _, tile, hashes in sound(TILES, rows, self._place):
            if not 0 <= tile < 2**48 or not hashes or len(hashes) % HASH or len(hashes) > FULL:
                raise damaged(f"Tile {tile} of {self._name} is none", self._place, AGAIN)
            return int(tile * TILE + len(hashes) // HASH)
        return 0

    def catch_up(self, stop: int | None = None) -> int:
        """Write the tiles of the log's leaves up to a position (default: the head's); how many leaves they hold.

        Raises BookDamaged where tiles that are there can't be what was written, or where rows are missing.
        """
        stop = self.log.position() if stop is None else stop
        with self._lock:
            size = self.size()
            fresh = self.log.fresh
            while size < stop:
                taken = None if fresh is None else fresh.take(size, stop)
                hashes, roots = taken if taken is not None else (self._hashes(size, min(stop, _end(size))), {})
                with self.log.database.session(write=True) as session:
                    self._extend(session, 0, size, b"".join(hashes), roots, _PUT)
                size += len(hashes)
            return size

    def rebuild(self, stop: int | None = None) -> int:
        """Make all tiles anew from the rows; how many leaves they hold. What is right is left as it is."""
        database = self.log.database
        stop = self.log.position() if stop is None else stop
        with self._lock:
            with database.session(write=True) as session:
                # First what can't be: it could not be told from what others write meanwhile.
                session.run("DELETE FROM tiles WHERE log=? AND (level<0 OR tile<0)", [self._name])
            frontier = merkle.Frontier()
            while (size := frontier.size) < stop:
                hashes = self._hashes(size, min(stop, _end(size)))
                roots = frontier.append_hashes(hashes)
                with database.session(write=True) as session:
                    self._extend(session, 0, size, b"".join(hashes), roots, _PUT_AGAIN)
            with database.session(write=True) as session:
                count = stop
                for level in range(64 // TILE_LEVELS):
                    session.run(
                        "DELETE FROM tiles WHERE log=? AND level=? AND tile>=?",
                        [self._name, level, -(-count // TILE)],
                    )
                    count //= TILE
                session.run("DELETE FROM tiles WHERE log=? AND level>=?", [self._name, 64 // TILE_LEVELS])
        return stop

    def rows_give(self, known: Mapping[int, bytes]) -> bool:
        """Whether the rows give the roots that are known, by size. Raises BookDamaged where rows are missing."""
        frontier = merkle.Frontier()
        for stop in sorted(known):
            while (size := frontier.size) < stop:
                frontier.append_hashes(self._hashes(size, min(stop, _end(size))))
            if frontier.root() != known[stop]:
                return False
        return True

    def reader(self, size: int) -> Tiles:
        """The tree of the log's first leaves. Raises BookDamaged as it is read, where a tile is not there."""
        return Tiles(size, self._tile)

    def each(self) -> Iterator[tuple[int, bytes]]:
        """The tiles of leaf hashes in order, with their numbers, a few at a time."""
        after = -1
        while rows := self.log.database.rows(
            "SELECT log, level, tile, hashes FROM tiles WHERE log=? AND level=0 AND tile>? ORDER BY tile LIMIT 64",
            [self._name, after],
        ):
            for _, _, tile, hashes in sound(TILES, rows, self._place):
                yield tile, hashes
            after = onward(rows[-1][2], after, self._place)

    def held(self, level: int, tile: int) -> bytes:
        """The hashes of a tile; empty where it is not there. Raises BookDamaged."""
        rows = self.log.database.rows(
            "SELECT log, level, tile, hashes FROM tiles WHERE log=? AND level=? AND tile=?", [self._name, level, tile]
        )
        return b"".join(row[3] for row in sound(TILES, rows, self._place))

    def _tile(self, level: int, tile: int) -> bytes:
        held = self.held(level, tile)
        if held:
            return held
        raise damaged(f"Tile {tile} of level {level} of {self._name} is missing", self._place, AGAIN)

    def kept(self, number: int) -> list[bytes]:
        """The hashes of a whole tile of leaves: all that is left of those that were pruned. Raises BookDamaged."""
        held = self.held(0, number)
        if len(held) != FULL:
            raise damaged(
                f"Tile {number} of {self._name} is missing or cut short, and its rows were pruned", self._place, EXAMINE
            )
        return split(held)

    def _hashes(self, size: int, stop: int) -> list[bytes]:
        """The hashes of the leaves after a size, up to a position, from their rows; those of rows that were pruned from
        the tiles. Raises BookDamaged."""
        pruned = self.log.pruned().position
        if size < pruned:
            return self.kept(size // TILE)[size % TILE :]
        rows = self.log.log_rows(size, stop - size, stop)
        if len(rows) != stop - size or rows[-1][0] != stop:
            raise damaged(f"Between positions {size + 1} and {stop} of {self._name}, some are missing", self._place)
        return merkle.row_hashes(self.log.origin, rows)

    def _extend(
        self, session: Session, level: int, count: int, hashes: bytes, roots: Mapping[int, bytes], statement: str
    ) -> None:
        """Add hashes to a level that has `count` of them, and the roots of the tiles that are full to the next."""
        tile, filled = divmod(count, TILE)
        if filled:
            rows = session.rows(
                "SELECT log, level, tile, hashes FROM tiles WHERE log=? AND level=? AND tile=?",
                [self._name, level, tile],
            )
            found: bytes = rows[0][3] if rows and type(rows[0][3]) is bytes else b""
            if len(found) < filled * HASH:
                raise damaged(f"Tile {tile} of level {level} of {self._name} is cut short", self._place, AGAIN)
            hashes = found[: filled * HASH] + hashes
        above: list[bytes] = []
        for number, start in enumerate(range(0, len(hashes), FULL), tile):
            part = hashes[start : start + FULL]
            session.run(statement, (self._name, level, number, part))
            if len(part) == FULL:
                above.append(roots[number] if level == 0 and number in roots else merkle.whole_root(split(part)))
        if above:
            self._extend(session, level + 1, tile, b"".join(above), {}, statement)


def _end(size: int) -> int:
    """Where the chunk after a size ends: at the end of a tile."""
    return (size // TILE) * TILE + CHUNK


class Tiles:
    """A tree of some size, read from its tiles: its root, and the proofs of it."""

    def __init__(self, size: int, tile: Callable[[int, int], bytes]) -> None:
        self.size = size
        self._tile = tile
        self._seen: dict[tuple[int, int], bytes] = {}

    def node(self, level: int, index: int) -> bytes:
        """The hash of the whole subtree at a level, by its number. Raises BookDamaged."""
        tile_level, rest = divmod(level, TILE_LEVELS)
        tile, start = divmod(index << rest, TILE)
        hashes = self._seen.get((tile_level, tile))
        if hashes is None:
            if len(self._seen) > 1024:
                self._seen.clear()
            hashes = self._seen[tile_level, tile] = self._tile(tile_level, tile)
        part = hashes[start * HASH : (start + (1 << rest)) * HASH]
        if len(part) != HASH << rest:
            raise damaged(f"Tile {tile} of level {tile_level} is cut short", "the table tiles", AGAIN)
        return merkle.whole_root(split(part))

    def root(self, size: int | None = None) -> bytes:
        """The root of the whole, or of its first leaves."""
        return merkle.subtree(self.node, 0, self.size if size is None else size)

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The proof that a leaf (from 0) is in it, or in its first leaves."""
        return merkle.inclusion(self.node, index, self.size if size is None else size)

    def consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """The proof that it goes on from its first leaves."""
        return merkle.consistency(self.node, old, self.size if size is None else size)
