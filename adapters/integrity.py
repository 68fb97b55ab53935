"""Whether a log is what its head, its tiles and its checkpoints say: positions without gaps, and the Merkle roots
recomputed from the stored bytes. Where tiles or checkpoints allow, the first position that was altered is named."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from eventsourcing.persistence import PersistenceError

from tallybook.domain.access import LogOpened
from tallybook.domain.errors import BookDamaged, MissingExtra, NoteError
from tallybook.domain.events import utc_text
from tallybook.domain.retention import RetentionSwept
from tallybook.projections.read_models import Progress

from . import merkle
from .checkpoints import Checkpoints, Stored
from .codec import EventMapper
from .database import planted
from .form import known_uuid
from .keys import Keyring, MemoryKeyStore
from .log import EVENTS_TABLE, Head, LogRecorder, Pruned
from .merkle import HASH, TILE, split
from .notes import Checkpoint
from .tiles import AGAIN, CHUNK, FULL, TileStore

GIVEN = "the checkpoint that was given"
SEEN = "the head that this process saw"
INDEX_CHUNK = 50_000
"""How many rows are looked up in one statement."""
MISLED = "its rows are sound, and the index by which streams are read does not lead to them"
UNREADABLE = (PersistenceError, BookDamaged, TypeError, ValueError, AttributeError)
"""What reading altered rows may raise."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found in one log. `problem` names the first thing wrong; None: all is well.

    `position` is that of the first event which is not what was recorded, where it can be told. `checkpoints` counts the
    signed ones that the log was compared with. `pruned`: up to here the rows were deleted, as their retention demanded
    and a sweep in the log of events tells; their hashes, in the tiles, were checked, and rows only after it.
    `unsigned_openings`: how often, as the log of reads tells, a process opened the book without its signing key.
    `head_checked`: whether the MAC of its head was compared, for which the book's keys must be at hand. Without it,
    what follows the last checkpoint may have been added by anybody who can write in the database.
    `cosigned`: which kept checkpoints witnesses signed too, who and when; whose keys those are, the book can't know.
    `unchecked` names what could not be checked in a book that was opened without its data keys. `vouched`: whether its
    checkpoints were compared with something that does not come from the database alone: the book's keys, which
    authenticate the public key that it notes, a public key that was given, or a checkpoint that was.
    """

    log: str
    size: int
    root: str
    problem: str | None
    position: int | None = None
    checkpoints: int = 0
    pruned: int = 0
    unsigned_openings: int = 0
    head_checked: bool = False
    cosigned: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    vouched: bool = True

    @property
    def holds(self) -> bool:
        """Whether the log is what its head, its tiles and its checkpoints say."""
        return self.problem is None


WITHOUT_KEYS = (
    "whether the data keys are there, and are those that the log commits to",
    "whether erased subjects have no key",
    "whether the head of the log is the book's own: what follows the last checkpoint may have been added by anybody "
    "who can write in the database",
)
"""What can't be checked of the log of events without the data keys. All of its Merkle tree can."""
BY_ITS_OWN_KEY = (
    "whose key signed its checkpoints: they were compared with the key that this database names, and whoever rewrites "
    "the database names his own. Get the key by another way and give it, or the last checkpoint as somebody else has it"
)
"""What can't be checked of any log without the data keys, where neither was given."""


def verify(
    name: str,
    log: LogRecorder,
    progress: Progress | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    against: Checkpoint | None = None,
    events: LogRecorder | None = None,
) -> Verification:
    """Recompute a log's root from its rows; compare with its head, its tiles, the checkpoints that are kept of it, and
    with one that was kept elsewhere. `events`: the log in which it stands what was pruned; None: that is not compared.
    """
    while True:
        check = _Check(name, log, progress, checkpoints, against, events)
        try:
            check.run()
        except UNREADABLE as error:
            check.say_unreadable(error)
        if check.problem is None or not check.was_overtaken():
            return check.result()


def sweeps(events: LogRecorder) -> frozenset[tuple[int, bytes]]:
    """Up to where sweeps pruned the log of reads, with the roots there. Raises StoredFormError."""
    read = EventMapper(Keyring(MemoryKeyStore(events.origin), lambda *_: None)).read
    found = set()
    for position, stream, version, name, state in events.iterate(topics=[RetentionSwept.stored_name]):
        event = read(known_uuid(stream), version, name, state, position)
        if isinstance(event, RetentionSwept) and event.reads_pruned:
            found.add((event.reads_pruned, bytes.fromhex(event.reads_root)))
    return frozenset(found)


def unsigned_openings(reads: LogRecorder) -> list[LogOpened]:
    """The openings of a signed book without its signing key, as the log of reads tells. Raises StoredFormError."""
    read = EventMapper(Keyring(MemoryKeyStore(reads.origin), lambda *_: None)).read
    opened = (
        read(known_uuid(stream), version, name, state, position)
        for position, stream, version, name, state in reads.iterate(
            stop=reads.extent()[2], topics=[LogOpened.stored_name]
        )
    )
    return [one for one in opened if isinstance(one, LogOpened) and not one.signs]


def outline(log: LogRecorder) -> tuple[Head, str | None]:
    """The head, and the first thing wrong with it, or with the first and last position; None if all fits."""
    head, problem, flaw = _outline(log)
    return head, problem or (None if flaw is None else f"its head {flaw}")


def _outline(log: LogRecorder) -> tuple[Head, str | None, str | None]:
    """The head, what does not fit it, and what its MAC, or what was seen before, tells against it."""
    # In this order: a commit between the two moves the head on, never back behind what was there.
    count, least, greatest = log.extent()
    head, flaw = log.head_and_flaw()
    return head, _misfit(log, head, count, least, greatest), flaw


def _misfit(log: LogRecorder, head: Head, count: int, least: int, greatest: int) -> str | None:
    if count and least < 1:
        return f"there is an event at position {least}: positions count from 1"
    pruned = log.pruned().position
    if count and least <= pruned:
        return f"there is an event at position {least}, and all up to {pruned} were pruned"
    if pruned >= head.position > 0:
        return f"all up to position {pruned} were pruned, and its head says that it ends at {head.position}"
    if greatest > head.position:
        return f"there is an event at position {greatest}, and its head says that the log ends at {head.position}"
    return None


def root_at(log: LogRecorder, position: int) -> str:
    """The root of a log's first events, recomputed from their rows; from its tiles where rows were pruned."""
    frontier, tiles = merkle.Frontier(), TileStore(log)
    for number in range(min(position, log.pruned().position) // TILE):
        frontier.append_hashes(tiles.kept(number))
    for start in range(frontier.size, position, CHUNK):
        rows = log.log_rows(start, CHUNK, min(position, start + CHUNK))
        frontier.append_hashes(merkle.row_hashes(log.origin, rows))
    return frontier.root().hex()


class _Wrong(Exception):
    """The scan can't go on: what is wrong was said."""


class _Check:
    """One pass over a log's rows, with what it is compared with beside it."""

    def __init__(
        self,
        name: str,
        log: LogRecorder,
        progress: Progress | None,
        checkpoints: Checkpoints | None,
        against: Checkpoint | None,
        events: LogRecorder | None,
    ) -> None:
        self.events = events
        self.pruned = Pruned()
        self.name = name
        self.log = log
        self.progress = progress
        self.checkpoints = checkpoints
        self.against = against
        self.frontier = merkle.Frontier()
        self.tiles = TileStore(log)
        self.head = Head(0, merkle.Frontier())
        self.problem: str | None = None
        self.position: int | None = None
        self.compared = 0
        self.cosigned: list[str] = []
        self.good = 0
        """The greatest size at which the rows give the root of a checkpoint."""
        self.signed = 0
        """The greatest size that was signed, and tiles were written for before."""
        self.seen = log.seen
        self.flaw: str | None = None
        """What its MAC, or what was seen before, tells against the head."""
        self.sizes = 0
        """Of how many sizes there are checkpoints."""
        self.altered_checkpoint: str | None = None
        self.altered_tile: str | None = None
        self.differs: int | None = None
        """The first position whose hash is another in its tile."""
        self._roots = bytearray()
        """Of the tiles that the rows filled: an eighth of a byte for each leaf."""
        self._tiled = 0
        """How many leaves the tiles hold."""

    def say(self, problem: str, position: int | None = None) -> None:
        """Note what is wrong, unless something was before."""
        if self.problem is None:
            self.problem, self.position = problem, position

    def was_overtaken(self) -> bool:
        """Whether a sweep pruned the log meanwhile."""
        try:
            return self.log.pruned().position > self.pruned.position
        except UNREADABLE:
            return False

    def result(self) -> Verification:
        """What was found."""
        root = self.frontier.root().hex()
        return Verification(
            self.name,
            self.head.position,
            root,
            self.problem,
            self.position,
            self.compared,
            self.pruned.position,
            head_checked=self.log.key is not None,
            cosigned=tuple(self.cosigned),
        )

    def run(self) -> None:
        """Look at everything."""
        found = planted(self.log.database)
        if found is not None:
            self.say(f"there is a {found} among its tables, which the book never made: what it reads may be another")
        self.pruned = self.log.pruned()
        self.head, problem, self.flaw = _outline(self.log)
        if problem is not None:
            self.say(problem)
        with ThreadPoolExecutor(1, "tallybook-verify") as beside:
            looked_up = beside.submit(self._look_up)
            try:
                self._compare_sweeps()
                self._scan()
                self._compare_head()
            except _Wrong:
                return
            self._tell_flaw()
            if self.problem is None:
                self._compare_streams(looked_up)
        self._compare_erased()
        if self.altered_checkpoint is not None:
            self.say(self.altered_checkpoint)
        self._compare_tiled()
        if self.altered_tile is not None:
            self.say(self.altered_tile)

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────

    def say_unreadable(self, error: Exception) -> None:
        """Tell which event can't be read; where none by itself is the cause, after which it begins."""
        size = max(self.frontier.size, self.pruned.position)
        for position in range(size + 1, min(size + CHUNK, self.head.position) + 1):
            try:
                self.log.log_rows(position - 1, 1, position)
            except UNREADABLE as wrong:
                self.say(f"the event at position {position} can't be read: {wrong}", position)
                return
        self.say(f"what follows position {size} can't be read: {error}")

    def _compare_sweeps(self) -> None:
        """What is missing must have been pruned by a sweep that is on record."""
        pruned, events = self.pruned, self.events
        if pruned.position and events is not None:
            known = sweeps(events) if events.table.name != self.log.table.name else frozenset()
            if (pruned.position, pruned.root) not in known:
                self.say(f"its rows up to position {pruned.position} are gone, and no sweep on record pruned them", 1)
                raise _Wrong

    def _next(self, size: int, stop: int, tiles: _Ahead[bytes]) -> list[bytes]:
        """The hashes of the leaves after a size: of a tile whose rows were pruned, or of the next rows."""
        if size < self.pruned.position:
            return self.tiles.kept(size // TILE)
        rows = self.log.log_rows(size, CHUNK, stop)
        if not rows or rows[-1][0] - size != len(rows) or rows[0][0] != size + 1:
            expected = next((one for one, row in enumerate(rows, size + 1) if row[0] != one), size + len(rows) + 1)
            self._compare_tiles(tiles, size, merkle.row_hashes(self.log.origin, rows[: expected - size - 1]))
            first = self._altered(stop, self.head.frontier.root())
            if first is not None and first < expected:
                # Whoever deletes an event and moves the others up leaves a gap at the end alone.
                self.say(f"the event at position {first} was altered, moved or replaced: its tile tells", first)
            elif not rows:
                self.say(f"the log ends at position {size}, its head says {stop}", size + 1)
            else:
                self.say(f"position {expected} is missing", expected)
            raise _Wrong
        return merkle.row_hashes(self.log.origin, rows)

    def _scan(self) -> None:
        stop, frontier = self.head.position, self.frontier
        tiles = _Ahead(self._tiles())
        signed = _Ahead(self._signed())
        while (one := signed.up_to(0)) is not None:
            self._compare(*one)
        while frontier.size < stop:
            size = frontier.size
            hashes = self._next(size, stop, tiles)
            self._compare_tiles(tiles, size, hashes)
            end = size + len(hashes)
            while (one := signed.up_to(end)) is not None:
                if one[0] > frontier.size:
                    self._append(hashes[frontier.size - size : one[0] - size])
                self._compare(*one)
            self._append(hashes[frontier.size - size :])
            if frontier.size == self.pruned.position and frontier.root() != self.pruned.root:
                self.say(f"the tiles of its first {frontier.size} leaves, which were pruned, do not give their root", 1)
                raise _Wrong
            if self.progress:
                self.progress(frontier.size, stop)
        now = None
        for size, (_, called) in signed.rest():
            now = self._position_now() if now is None else now  # somebody may have signed a longer one meanwhile
            if size > now:
                self._shorter(size, called)
                raise _Wrong
        for _ in tiles.rest():  # those of leaves that came later
            pass

    def _position_now(self) -> int:
        return self.log.head_and_flaw()[0].position

    def _append(self, hashes: list[bytes]) -> None:
        for root in self.frontier.append_hashes(hashes).values():
            self._roots += root

    # ── tiles ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _tiles(self) -> Iterator[tuple[int, bytes]]:
        """The tiles of leaf hashes in order, as far as they make sense."""
        expected = 0
        try:
            for number, hashes in self.tiles.each():
                if number != expected or not hashes or len(hashes) % HASH or len(hashes) > FULL:
                    break
                yield number, hashes
                expected += 1
                self._tiled = number * TILE + len(hashes) // HASH
                if len(hashes) < FULL:
                    return
            else:
                return
        except UNREADABLE:
            pass
        first = expected * TILE + 1
        self._altered_tile(f"tile {expected} of level 0 (from position {first} on) is missing or makes no sense")

    def _compare_tiles(self, tiles: _Ahead[bytes], size: int, hashes: Sequence[bytes]) -> None:
        end = size + len(hashes)
        while self.differs is None and (one := tiles.up_to((end - 1) // TILE)) is not None:
            number, held = one
            mine = hashes[number * TILE - size : (number + 1) * TILE - size]
            joined = b"".join(mine)
            if held[: len(joined)] == joined[: len(held)]:
                continue
            pairs = zip(mine, split(held), strict=False)
            self.differs = next(at for at, (left, right) in enumerate(pairs, number * TILE + 1) if left != right)

    def _compare_upper(self) -> None:
        """Compare the tiles above the leaves' with what the rows give."""
        level, wanted = 1, bytes(self._roots)
        while wanted and self.altered_tile is None:
            expected = (self._tiled >> merkle.TILE_LEVELS * level) * HASH
            above = bytearray()
            for tile, start in enumerate(range(0, len(wanted), FULL)):
                mine = wanted[start : start + FULL]
                held = self.tiles.held(level, tile)
                least = min(len(mine), max(0, expected - start))
                if held[: len(mine)] != mine[: len(held)] or len(held) < least:
                    self._altered_tile(f"tile {tile} of level {level} is not what the log gives")
                if len(mine) == FULL:
                    above += merkle.whole_root(split(mine))
            level, wanted = level + 1, bytes(above)

    def _altered_tile(self, told: str) -> None:
        self.altered_tile = self.altered_tile or f"{told}; the log itself is sound. {AGAIN}"

    # ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────

    def _signed(self) -> Iterator[tuple[int, tuple[bytes, str]]]:
        """Sizes with the roots that they must have, and how to call them: of checkpoints, the one that was given among
        them, and of the head that this process saw last."""
        known: list[tuple[int, tuple[bytes, str]]] = []
        if self.seen is not None:
            root = merkle.Frontier(self.seen.position, self.seen.frontier).root()
            known.append((self.seen.position, (root, SEEN)))
        if self.against is not None:
            known.append((self.against.size, (self.against.root, GIVEN)))
        yield from heapq.merge(self._kept(), sorted(known), key=lambda one: one[0])

    def _kept(self) -> Iterator[tuple[int, tuple[bytes, str]]]:
        if self.checkpoints is None:
            return
        before = -1
        try:
            for one in self.checkpoints.stored():
                root = self._signed_root(one)
                if root is not None:
                    self.sizes += one.size != before
                    before = one.size
                    yield one.size, (root, f"its checkpoint of size {one.size}")
            if self.sizes < self.head.signed:
                self.altered_checkpoint = self.altered_checkpoint or (
                    f"{self.head.signed - self.sizes} of its checkpoints were taken out: its head counts "
                    f"{self.head.signed} sizes that were signed, and there are {self.sizes}"
                )
        except UNREADABLE as error:
            self.altered_checkpoint = self.altered_checkpoint or f"its checkpoints can't be read: {error}"

    def _signed_root(self, stored: Stored) -> bytes | None:
        """The root that a checkpoint tells, if it is as it was signed."""
        assert self.checkpoints is not None
        try:
            self.checkpoints.must_be_signed(stored)
            _check_token(stored.token)
            cosigned = stored.cosigned()
        except NoteError as error:
            self.altered_checkpoint = self.altered_checkpoint or (
                f"the checkpoint of size {stored.size} that is kept is not what was signed: {error}"
            )
            return None
        self.signed = max(self.signed, min(stored.size, self.head.position))
        self.cosigned += [
            f"{stored.size} by {one.vkey} at {utc_text(seconds * 1_000_000)}" for one, seconds in cosigned
        ]
        return stored.root

    def _compare(self, size: int, signed: tuple[bytes, str]) -> None:
        root, called = signed
        self.compared += called != SEEN
        if self.frontier.root() == root:
            self.good = size
            return
        first = self._altered(size, root)
        if first is not None:
            self.say(f"the event at position {first} was altered, moved or replaced: its tile and {called} tell", first)
        elif self.tiles_fit(size) or self.good == size:
            after = f" (up to {self.good:,} it fits)" if self.good else ""
            self.say(f"the log was rewritten: at size {size} its root is another than in {called}{after}")
        else:
            self.say(
                f"an event at a position from {self.good + 1} to {size} was altered, moved or replaced: at size {size} "
                f"its root is another than in {called}"
            )
        raise _Wrong

    def tiles_fit(self, size: int) -> bool:
        """Whether the tiles of the first leaves are what the rows give."""
        return self.differs is None and self._tiled >= size

    def _altered(self, size: int, root: bytes) -> int | None:
        """The first position that differs from its tile, where the tiles give a root that the rows should give."""
        if self.differs is None or self.differs > size:
            return None
        try:
            return self.differs if self.tiles.reader(size).root() == root else None
        except UNREADABLE:
            return None

    def _shorter(self, size: int, called: str) -> None:
        self.say(f"the log is shorter than {called}: it ends at position {self.head.position}, not {size}")

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _compare_head(self) -> None:
        head = self.head
        if self.frontier.packed() == head.frontier.packed():
            return
        root = head.frontier.root()
        first = self._altered(min(head.position, self._tiled), root) if self._tiled >= head.position else self.differs
        if first is not None:
            self.say(f"the event at position {first} was altered, moved or replaced: its tile tells", first)
        elif self.good == head.position:
            self.say("the head was altered: its root is not the one that was signed, and that the rows give")
        else:
            self.say("the stored bytes do not give the recorded root: an event was altered, moved or replaced")
        raise _Wrong

    def _tell_flaw(self) -> None:
        """Rows and head fit. If somebody else wrote the head, what follows the last size that was vouched for may be
        his."""
        if self.flaw is not None:
            since = f"; what follows position {self.good} may have been added or replaced" if self.good else ""
            self.say(f"its head {self.flaw}{since}")

    def _look_up(self) -> tuple[int, int | None, tuple[int, int]]:
        """Look up all rows by stream and version, as who reads a stream does: how many entries the index has of them,
        and after which position one of the next 50,000 is not found; None: all are. And how many accounts there are,
        by the rows and by the index of those. In another thread: the database does all of it, while this one hashes."""
        first, stop = self.pruned.position, self.head.position
        for start in range(first, stop, INDEX_CHUNK):
            if self.log.looked_up(start, min(stop, start + INDEX_CHUNK)) != min(stop - start, INDEX_CHUNK):
                return 0, start, (0, 0)
        accounts = self.log.accounts(first, stop) if self.log.table.name == EVENTS_TABLE else (0, 0)
        return self.log.indexed(first, stop), None, accounts

    def _compare_streams(self, looked_up: Future[tuple[int, int | None, tuple[int, int]]]) -> None:
        """Streams are read by their index, and what was hashed was read by position: both must be the same."""
        try:
            count, after, (accounts, found_accounts) = looked_up.result()
        except BookDamaged as error:
            self.say(f"{MISLED}: {error.message}")
            return
        stop, first = self.head.position, self.pruned.position
        if after is not None:
            last = min(stop, after + INDEX_CHUNK)
            ends = range(after + 1, last + 1)
            found = bisect_left(ends, True, key=lambda end: self.log.looked_up(after, end) != end - after)
            position = ends[min(found, len(ends) - 1)]
            self.say(f"{MISLED}: who reads its stream does not find the event at position {position}", position)
        elif count != stop - first:
            self.say(f"{MISLED}: it has {count:,} entries for {stop - first:,} events")
        elif accounts != found_accounts:
            self.say(f"its rows are sound, and the index of accounts leads to {found_accounts:,} of {accounts:,}")

    def _compare_erased(self) -> None:
        """The head holds a digest of the table of erasures: of all of its rows."""
        if self.problem is None and self.log.table.name == EVENTS_TABLE:
            try:
                self.log.erasures()
            except UNREADABLE as error:
                told = error.message if isinstance(error, BookDamaged) else str(error)
                self.say(f"its head is sound, and the table of erasures is not: {told}")

    def _compare_tiled(self) -> None:
        """Where rows, head and checkpoints fit, what differs are the tiles: they are derived."""
        if self.differs is not None:
            tile = (self.differs - 1) // TILE
            self._altered_tile(f"tile {tile} of level 0 is not what the log gives, at position {self.differs}")
        self._compare_upper()
        try:
            size = self.tiles.size()
        except UNREADABLE as error:
            self._altered_tile(f"its last tile makes no sense: {error}")
            return
        if self._tiled < self.signed:
            self._altered_tile(f"there are tiles for {self._tiled} leaves only, and {self.signed} were signed")
        if size > self.head.position and size > self._position_now():
            self._altered_tile(f"there are tiles for {size} leaves, and the log ends at {self.head.position}")


def _check_token(token: bytes) -> None:
    """Raises NoteError for a token that is none, where what reads tokens is installed. Not whose it is."""
    with suppress(MissingExtra):
        if token:
            from .timestamps import said_at

            said_at(token)


Beside = TypeVar("Beside")


class _Ahead(Generic[Beside]):
    """Numbered things in order, to be taken up to a number."""

    def __init__(self, things: Iterator[tuple[int, Beside]]) -> None:
        self._things = things
        self._next = next(things, None)

    def up_to(self, number: int) -> tuple[int, Beside] | None:
        """The next one, unless its number is greater."""
        found = self._next
        if found is None or found[0] > number:
            return None
        self._next = next(self._things, None)
        return found

    def rest(self) -> Iterator[tuple[int, Beside]]:
        """All that are left."""
        while self._next is not None:
            yield self._next
            self._next = next(self._things, None)
