"""The log: events in one order without gaps. Position, Merkle frontier, claims and receipts are written in the
transaction that inserts the events. `eventsourcing`'s recorder, on any database."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock, RLock
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import NAMESPACE_OID, UUID, uuid5

import msgpack
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    IntegrityError,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic, strtobool

from tallybook.domain.errors import BookClosed, BookDamaged, KeysMissing
from tallybook.domain.points import Enrolled
from tallybook.projections.read_models import Table

from . import merkle
from .database import Database, Session, Watch, damaged, marks, onward, sound
from .form import uuid_from
from .keys import KeyStore, NoKeys, secret
from .sqlite import SQLiteDatabase

Row = tuple[int, bytes, int, str, bytes]
"""position, stream id, version, stored name, state"""

NewRow = tuple[bytes | str, int, str, bytes]
"""The same before it has a position."""

EVENTS_TABLE = "stored_events"
STREAM = ("originator_id", "originator_version")
"""The columns of the index by which streams are read."""
ENROLLED_INDEX = f"{EVENTS_TABLE}__enrolled"
HEARTBEAT_S = 5.0
"""How long a tail waits for a wake-up before it looks by itself."""
TAIL_ROWS = 500
"""How many rows a tail holds at most."""
JUMP_ROWS = 4096
"""How many rows of others' commits are hashed at once."""
TAIL_POSITIONS = 20_000
"""How far a tail that wants some names only looks in one statement."""

ErasedKeys = set[tuple[bytes, int]]
"""Subjects, each with the id of a key that is destroyed."""

Ask = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Answers a statement with rows."""

Inline = Callable[[Session, int], None]
"""What else belongs to a commit; called with the position before it, after its events are inserted."""


NAMING_BYTES = 8
"""So many bytes of a receipt's digest tell which command it was of: they stay when its arguments are forgotten."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is kept of a command so that repeating it gives the same result.

    `digest` is a keyed hash of the command's name and one of its arguments, one after the other; of the name alone,
    where the arguments are forgotten.
    """

    command_id: bytes
    digest: bytes
    result: bytes


@dataclass(frozen=True, slots=True)
class Pruned:
    """Up to which position a log's rows were deleted on purpose, and the root of so many leaves: 0, empty for none."""

    position: int = 0
    root: bytes = b""


@dataclass(frozen=True, slots=True)
class Head:
    """A log's last position and its Merkle frontier; and of how many sizes there are checkpoints."""

    position: int
    frontier: merkle.Frontier
    signed: int = 0


class HeadRow(NamedTuple):
    """A log's head as it is stored. `mac` is made with the book's keys; empty where they were not at hand.

    `erased` is the digest of all rows of the table `erased` (see `Destroyed`); `own` tells how many events each of the
    book's own streams has (see `OwnStreams`), packed; empty: none of them has any.
    """

    position: int
    frontier: bytes
    signed: int
    mac: str
    erased: bytes = b""
    own: bytes = b""

    def versions(self) -> list[int]:
        """The versions of the book's own streams, in their order. Raises ValueError where they can't be any."""
        if not self.own:
            return [0] * len(OwnStreams._fields)
        found = msgpack.unpackb(self.own)
        if not isinstance(found, list) or [type(one) for one in found] != [int] * len(OwnStreams._fields):
            raise ValueError("it does not tell the versions of the book's own streams")
        return found


class OwnStreams(NamedTuple):
    """The streams by which a book rules itself: a head counts their events, so that none of them is read shorter."""

    control: UUID
    operations: UUID
    retention: UUID
    policy: UUID
    signing: UUID

    @classmethod
    def of(cls, origin: str) -> OwnStreams:
        """Those of a book, by its name."""
        book_id = uuid5(NAMESPACE_OID, origin)
        return cls(book_id, *(uuid5(book_id, name) for name in cls._fields[1:]))


class Appended(NamedTuple):
    """What a commit appends to a log of a size: the hashes of its leaves, the roots of the tiles that they make whole,
    and the head then."""

    size: int
    hashes: list[bytes]
    roots: dict[int, bytes]
    head: HeadRow


RECEIPTS = Table(
    "receipts",
    (
        ("command_id", "blob"),
        ("digest", "blob"),
        ("first_position", "integer"),
        ("last_position", "integer"),
        ("result", "blob"),
        ("mac", "blob"),
    ),
    ("command_id",),
)
CLAIMS = Table("claims", (("claim", "blob"), ("holder", "blob"), ("mac", "blob")), ("claim",))
ROW_MAC_BYTES = 16
DIGEST_AT = 3
"""Where a receipt's digest stands in what its MAC is of."""
ERASED = Table(
    "erased",
    (("subject", "blob"), ("key_id", "integer"), ("position", "integer")),
    ("subject", "key_id"),
    (("position",),),
)
"""Which keys of which subjects are destroyed, and the last position of the commit that says so."""
PRUNED = Table("pruned", (("log", "text"), ("position", "integer"), ("root", "blob")), ("log",))
"""Up to where the rows of a log were deleted, as their retention demanded; and the root of so many leaves."""
HEAD = Table(
    "head",
    (
        ("position", "integer"),
        ("frontier", "blob"),
        ("signed", "integer"),
        ("mac", "text"),
        ("erased", "blob"),
        ("own", "blob"),
    ),
    (),
)
"""What is read of a log's head."""
EMPTY = HeadRow(0, b"", 0, "")
"""The head of an empty log, without its MAC."""
MAC_AT = HeadRow._fields.index("mac")
WENT_BACK = (
    "If the log was restored, or another server took over, close the book and open it again. If not, somebody altered "
    "it: see what `tallybook doctor` finds, and restore it from a backup."
)
NOT_OURS = (
    "Nothing is added and nothing signed until that is mended. If other keys lie in the place of the book's own, put "
    "those back. If not, somebody else wrote it: see up to where `tallybook doctor` vouches for the log, and restore "
    "the book from a backup."
)


NOT_ERASED = "The table erased is not what the head of the log tells: somebody took rows out, or altered or added some"


def head_key(lookup_key: bytes) -> bytes:
    """What the heads of a book's logs are authenticated with. Whoever has the database alone lacks it."""
    return secret(lookup_key, HEAD.name)


class KeyGone(IntegrityError):
    """The key that a commit rests on is destroyed: of whom, and its id."""

    def __init__(self, subject: UUID, key_id: int) -> None:
        super().__init__(f"the key {key_id} of {subject} is destroyed")
        self.subject = subject
        self.key_id = key_id


def _stream(originator_id: UUID | str) -> bytes | str:
    return originator_id.bytes if isinstance(originator_id, UUID) else originator_id


def _originator(stream: bytes | str) -> UUID | str:
    return uuid_from(stream) if isinstance(stream, bytes) else stream


class EventStore(Protocol):
    """What a book needs of the store of its log. `tallybook.testing.conformance.EventStoreSuite` is its contract.

    `LogRecorder` is one on any `Database`; rows are tuples, in the order of `Row`.
    """

    @property
    def origin(self) -> str:
        """Names the book in every leaf."""
        ...

    def append(
        self,
        rows: Sequence[NewRow],
        *,
        reads: Sequence[tuple[UUID, int]] = (),
        claims: Sequence[tuple[bytes, bytes]] = (),
        releases: Sequence[bytes] = (),
        receipt: Receipt | None = None,
        erased: Sequence[tuple[bytes, int]] = (),
        about: Sequence[tuple[bytes, int]] = (),
        quiet: tuple[int, bytes] | None = None,
        forgotten: Sequence[bytes] = (),
        **kwargs: Any,
    ) -> Sequence[int]:
        """Append events, and what belongs to the same commit, in one durable transaction; their positions.

        `reads` are streams that were read and not written, with the version seen. IntegrityError, and nothing is kept,
        if one moved, or if an event, claim or receipt is there already. Releases count before claims. `erased` are
        subjects with the id of a key that is to be destroyed. `about` are subjects of whom something new is recorded,
        with the id of the key of its values: KeyGone, if that is to be destroyed. `quiet` is a position and a subject:
        IntegrityError, if an event after the position is about them. `forgotten` are ids of commands whose arguments
        are forgotten: of the digests in their receipts, `NAMING_BYTES` stay.
        """
        ...

    def stream_rows(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[tuple[Any, ...]]:
        """A stream's rows by version: position, version, stored name, state."""
        ...

    def streams_rows(self, originator_ids: Sequence[UUID], lte: int) -> Iterator[tuple[Any, ...]]:
        """The rows of many streams, stream by stream, each by version and up to one."""
        ...

    def log_rows(
        self, after: int, limit: int, stop: int | None = None, topics: Sequence[str] = ()
    ) -> Sequence[tuple[Any, ...]]:
        """Up to `limit` rows of the log after a position, in order; up to `stop` (inclusive), of some names only."""
        ...

    def rows_at(self, positions: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """The rows at positions that ascend."""
        ...

    def iterate(
        self, after: int = 0, *, stop: int | None = None, topics: Sequence[str] = (), chunk: int = 5000
    ) -> Iterator[tuple[Any, ...]]:
        """All rows of the log after a position, up to the head at the start."""
        ...

    def position(self) -> int:
        """The head's position; 0 for an empty log."""
        ...

    def extent(self) -> tuple[int, int, int]:
        """How many rows there are, and the least and greatest position; zeros for an empty log."""
        ...

    def head(self) -> Head:
        """Position and Merkle frontier, as of one commit."""
        ...

    def receipt(self, command_id: bytes) -> Receipt | None:
        """What is kept of a command, if it was recorded."""
        ...

    def holders(self, claims: Sequence[bytes]) -> dict[bytes, bytes]:
        """Who holds each of many claims; free ones are left out."""
        ...

    def holder(self, claim: bytes) -> bytes | None:
        """Who holds a claim."""
        ...

    def erased_keys(self, subjects: Sequence[bytes]) -> set[tuple[bytes, int]]:
        """Of some subjects, those that were erased, each with the id of a key that is destroyed."""
        ...

    def erasures(self, after: int = 0) -> Sequence[tuple[bytes, int, int]]:
        """What was erased by commits after a position: subject, key id, position; in order."""
        ...

    def watch(self) -> Watch:
        """Watch for commits from now on."""
        ...

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[Any]:
        """The log's events after a position as they come, in order, none left out."""
        ...


class Fresh:
    """Hashes of the leaves that this process hashed last, its own and others': whoever writes tiles takes them."""

    LEAVES_MAX = 32_768

    def __init__(self) -> None:
        self._lock = Lock()
        self._parts: dict[int, tuple[list[bytes], dict[int, bytes]]] = {}
        self.count = 0

    def add(self, size: int, hashes: list[bytes], roots: dict[int, bytes]) -> None:
        """Keep what a commit appended to a log of a size, and the roots of the tiles that it made whole."""
        with self._lock:
            if self.count > self.LEAVES_MAX:  # nobody takes them
                self._parts.clear()
                self.count = 0
            self._parts[size] = (hashes, roots)
            self.count += len(hashes)

    def take(self, size: int, stop: int) -> tuple[list[bytes], dict[int, bytes]] | None:
        """What follows a size without a gap, up to a position; None if that is not known. What is older is dropped."""
        hashes: list[bytes] = []
        roots: dict[int, bytes] = {}
        with self._lock:
            while (part := self._parts.get(size + len(hashes))) is not None and size + len(hashes) < stop:
                hashes += part[0]
                roots.update(part[1])
            self._parts = {at: part for at, part in self._parts.items() if at >= size + len(hashes)}
            self.count = sum(len(part[0]) for part in self._parts.values())
        return (hashes, roots) if hashes else None


def _parsed(head: HeadRow) -> Head:
    return Head(head.position, merkle.Frontier(head.position, head.frontier), head.signed)


def _moved(reads: Sequence[tuple[UUID, int]], found: Sequence[tuple[Any, ...]]) -> list[tuple[UUID, int]]:
    """The streams that do not stand where they were seen."""
    versions = dict(found)
    return [(stream, version) for stream, version in reads if (versions[stream.bytes] or 0) != version]


class Destroyed:
    """Which keys are destroyed: the rows of the table `erased` as of a head, whose digest they give.

    The digest is a chain in the order of the rows: of each row with the digest before. It stands in the head, under its
    MAC: so the rows are those that the book itself wrote, and none is missing. About 130 bytes for each row.
    """

    def __init__(self) -> None:
        self.digest = b""
        self.last = 0
        """The position of the last row."""
        self.position = 0
        """That of the head."""
        self.keys: dict[bytes, tuple[int, ...]] = {}

    def add(self, rows: Sequence[tuple[bytes, int, int]]) -> None:
        """Go on with rows: subject, key id, position; in order of position, subject and key id."""
        for subject, key_id, position in rows:
            # First the key: whoever sees the digest, without a lock, finds it.
            self.keys[subject] = (*self.keys.get(subject, ()), key_id)
            self.digest = chained(self.digest, subject, key_id, position)
            self.last = position

    def of(self, subjects: Sequence[bytes]) -> ErasedKeys:
        """Of some subjects, the keys that are destroyed."""
        keys = self.keys
        return {(subject, key_id) for subject in subjects if subject in keys for key_id in keys[subject]}


def chained(digest: bytes, subject: bytes, key_id: int, position: int) -> bytes:
    """The digest of the table `erased` with one more row."""
    told: bytes = msgpack.packb([digest, subject, key_id, position])
    return sha256(told).digest()


def _rounded(names: Sequence[bytes]) -> Sequence[bytes]:
    """As many as a power of two, the last one repeated: so that there are few different statements."""
    if not names:
        return names
    return [*names, *[names[-1]] * ((1 << (len(names) - 1).bit_length()) - len(names))]


def _rows(count: int) -> str:
    return ",".join(["(?)"] * count)


def _notification(row: Row) -> Notification:
    position, stream, version, name, state = row
    return Notification(
        id=position, originator_id=_originator(stream), originator_version=version, topic=name, state=state
    )


class LogRecorder(ApplicationRecorder):
    """An application recorder whose positions have no gaps and whose Merkle frontier moves with them."""

    def __init__(
        self,
        database: Database,
        events_table_name: str = EVENTS_TABLE,
        origin: str = "",
        key: bytes | None = None,
    ) -> None:
        """`key` authenticates the log's head (see `head_key`). Without, its MAC is neither checked nor made."""
        self.database = database
        self.origin = origin
        self.key = key
        self.seen: HeadRow | None = None
        """The newest head that was seen here: the log never goes back behind it."""
        self._own: dict[Any, int] = {one.bytes: number for number, one in enumerate(OwnStreams.of(origin))}
        self._seeing = RLock()  # a signal handler may close the book in the middle of this
        self._destroyed = Destroyed()
        self._following = RLock()
        self.fresh: Fresh | None = None
        """Where the hashes of new leaves are kept for whoever writes tiles, if somebody does."""
        self.committed: Callable[[], None] | None = None
        """Called after each commit of events. Raises nothing."""
        self.table = Table(
            events_table_name,
            (
                ("position", "integer"),
                ("originator_id", "blob"),
                ("originator_version", "integer"),
                ("topic", "text"),
                ("state", "blob"),
            ),
            ("position",),
        )
        name = events_table_name
        self._select = f"SELECT position, originator_id, originator_version, topic, state FROM {name} "  # noqa: S608 - a name of ours
        self._select_stream = f"SELECT position, originator_version, topic, state FROM {name} WHERE originator_id=?"  # noqa: S608 - a name of ours
        self._select_head = f"SELECT position, frontier, signed, mac, erased, own FROM head WHERE log='{name}'"  # noqa: S608 - a name of ours
        self._select_since = f"SELECT state FROM {name} WHERE position>? ORDER BY position"  # noqa: S608 - a name of ours
        self._select_span = self._select + "WHERE position>? AND position<=? ORDER BY position"
        self._select_tile = f"SELECT hashes FROM tiles WHERE log='{name}' AND level=0 AND tile=?"  # noqa: S608 - a name of ours
        self._lock_head = self._select_head + database.for_update
        # A head that is ahead of the rows is never moved on: no position is NULL.
        self._move_head = (
            f"UPDATE head SET position=CASE WHEN ?=0 OR EXISTS (SELECT 1 FROM {name} WHERE position=?) THEN ? END, "  # noqa: S608 - a name of ours
            f"frontier=?, mac=?, erased=?, own=? WHERE log='{name}'"
        )
        self._count_signed = f"UPDATE head SET signed=?, mac=? WHERE log='{name}'"  # noqa: S608 - a name of ours
        # The kinds of rows: 0 for a stream and its version, 1 for the digest of what is erased, and where the log ends.
        self._look_streams = (
            f"SELECT column1, (SELECT MAX(originator_version) FROM {name} WHERE originator_id=column1), 0 "  # noqa: S608 - a name of ours
            "FROM (VALUES {}) AS streams"
        )
        self._look_erased = f"SELECT erased, (SELECT MAX(position) FROM {name}), 1 FROM head WHERE log='{name}'"  # noqa: S608 - a name of ours
        self._select_end = (
            f"SELECT position, frontier, signed, mac, erased, own, (SELECT MAX(position) FROM {name}) FROM head "  # noqa: S608 - a name of ours
            f"WHERE log='{name}'"
        )

    def definitions(self) -> list[str]:
        """Statements that make the tables, and an empty head."""
        name = self.table.name
        return [
            f"CREATE TABLE IF NOT EXISTS {name} (position {{integer}} PRIMARY KEY CHECK (position > 0), "
            "originator_id {blob} NOT NULL, originator_version {integer} NOT NULL, topic {text} NOT NULL, "
            "state {blob} NOT NULL, UNIQUE (originator_id, originator_version))",
            *self._indexes().values(),
            "CREATE TABLE IF NOT EXISTS head (log {text} PRIMARY KEY, position {integer} NOT NULL, "
            "frontier {blob} NOT NULL, signed {integer} NOT NULL, mac {text} NOT NULL, erased {blob} NOT NULL, "
            "own {blob} NOT NULL){compact}",
            f"INSERT INTO head VALUES ('{name}', 0, '', 0, '{self._mac(EMPTY)}', '', '') "  # noqa: S608 - a name of ours
            "ON CONFLICT DO NOTHING",
            "CREATE TABLE IF NOT EXISTS receipts (command_id {blob} PRIMARY KEY, digest {blob} NOT NULL, "
            "first_position {integer} NOT NULL, last_position {integer} NOT NULL, result {blob} NOT NULL, "
            "mac {blob} NOT NULL){compact}",
            "CREATE TABLE IF NOT EXISTS claims (claim {blob} PRIMARY KEY, holder {blob} NOT NULL, mac {blob} NOT NULL)"
            "{compact}",
            "CREATE TABLE IF NOT EXISTS erased (subject {blob} NOT NULL, key_id {integer} NOT NULL, "
            "position {integer} NOT NULL, PRIMARY KEY (subject, key_id)){compact}",
            "CREATE INDEX IF NOT EXISTS erased__position ON erased (position)",
            "CREATE TABLE IF NOT EXISTS tiles (log {text} NOT NULL, level {integer} NOT NULL, tile {integer} NOT NULL, "
            "hashes {blob} NOT NULL, PRIMARY KEY (log, level, tile))",
            "CREATE TABLE IF NOT EXISTS pruned (log {text} PRIMARY KEY, position {integer} NOT NULL, "
            "root {blob} NOT NULL){compact}",
            "CREATE TABLE IF NOT EXISTS checkpoints (log {text} NOT NULL, size {integer} NOT NULL, "
            "signed_us {integer} NOT NULL, root {blob} NOT NULL, note {text} NOT NULL, token {blob} NOT NULL, "
            "witnesses {text} NOT NULL, PRIMARY KEY (log, size, signed_us))",
        ]

    def _indexes(self) -> dict[str, str]:
        """What a log of events has beyond its keys, by name: an index of the accounts, for sweeps, which go through all
        of them (see `due_index`). Nothing else is in it, and it has the name too, so that SQLite need not look into the
        rows."""
        if self.table.name != EVENTS_TABLE:
            return {}
        return {
            ENROLLED_INDEX: f"CREATE INDEX IF NOT EXISTS {ENROLLED_INDEX} ON {EVENTS_TABLE} (originator_id, topic) "
            f"WHERE topic='{Enrolled.stored_name}'"
        }

    def create_table(self) -> None:
        """Make the tables that are not there yet."""
        with self.database.session(write=True) as session:
            for statement in self.definitions():
                session.define(statement)

    # ── appending ───────────────────────────────────────────────────────────────────────────────────────────────

    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        """Append events in one durable transaction, with what belongs to it (see `append_in`); their positions."""
        made: list[Appended] = []
        try:
            with self.database.session(write=True) as session:
                positions = self.append_in(session, rows, leaves=made, **kwargs)
        except IntegrityError:
            self.position()  # a head that does not fit its rows is no conflict: to try again would not help
            raise
        for one in made:
            self.saw(one.head)
            if self.fresh is not None:
                self.fresh.add(one.size, one.hashes, one.roots)
        if self.committed is not None and rows:
            self.committed()
        return positions

    def append_in(
        self,
        session: Session,
        new: Sequence[NewRow],
        *,
        reads: Sequence[tuple[UUID, int]] = (),
        claims: Sequence[tuple[bytes, bytes]] = (),
        releases: Sequence[bytes] = (),
        receipt: Receipt | None = None,
        erased: Sequence[tuple[bytes, int]] = (),
        about: Sequence[tuple[bytes, int]] = (),
        quiet: tuple[int, bytes] | None = None,
        forgotten: Sequence[bytes] = (),
        inline: Inline | None = None,
        leaves: list[Appended] | None = None,
        **_: Any,
    ) -> Sequence[int]:
        """Insert events, and with them all that belongs to the same commit.

        `reads` are streams that the command read and did not write, with the version that it saw: if one moved, the
        commit fails with IntegrityError, as it does for an event, claim or receipt that is there already. `about` are
        subjects with the key that seals what is new of them: KeyGone, if it is destroyed. `quiet`: a position, and a
        subject whom no event after it may be about. `forgotten` are commands whose arguments receipts tell no more.
        `leaves` takes what was appended: not to be used before this is committed.
        """
        before = self.seen
        # The head's row is the lock: whoever holds it is the only writer, so what is read from here on stays so.
        head = session.ask(self._lock_head)
        others = self._ask_for_others(session, before)
        versions = [session.ask(*question) for question in self._versions_of(reads)]
        since = None if quiet is None else session.ask(self._select_since, [quiet[0]])
        if new:
            session.insert_after(head, self.table, new)  # a server is at work on this while the leaves are hashed
        found = self._sound_head(head.rows(), before, others)
        self._must_have_key(found)
        last, frontier = found.position, self._tree(found)
        stood = [row for answer in versions for row in answer.rows()]
        self._must_reach(dict(stood), found)
        if moved := _moved(reads, stood):
            raise IntegrityError("stream {} moved on from version {}".format(*moved[0]))
        destroyed = self._destroyed_at(found, session.rows).keys if about else {}
        for subject, key_id in about:
            if key_id in destroyed.get(subject, ()):
                raise KeyGone(uuid_from(subject), key_id)
        # An event holds the ids of those whom it is about as they are.
        if since is not None and quiet is not None and any(quiet[1] in state for (state,) in since.rows()):
            raise IntegrityError(f"something new is about {uuid_from(quiet[1])}")
        gone = [(subject, key_id, last + len(new)) for subject, key_id in sorted(erased)]
        if new or gone:
            hashes, roots = frontier.append_rows(self.origin, new)
            digest = found.erased
            for row in gone:
                digest = chained(digest, *row)
            own = self._with_own(found, new)
            moved_to = self._head_of(HeadRow(frontier.size, frontier.packed(), found.signed, "", digest, own))
            if leaves is not None:
                leaves.append(Appended(last, hashes, roots, moved_to))
            session.run(self._move_head, (last, last, moved_to.position, moved_to.frontier, moved_to.mac, digest, own))
        if new:
            session.announce(self.table.name)
        for start in range(0, len(releases), 500):
            chunk = releases[start : start + 500]
            session.run(f"DELETE FROM claims WHERE claim IN ({marks(len(chunk))})", chunk)  # noqa: S608 - marks only
        if claims:
            session.insert(CLAIMS, [(*one, self.mac_of(CLAIMS, one)) for one in claims])
        if receipt is not None:
            kept = (receipt.command_id, receipt.digest, last + 1, last + len(new), receipt.result)
            session.insert(RECEIPTS, [(*kept, self.mac_of(RECEIPTS, kept))])
        if gone:
            session.insert(ERASED, gone)
        for start in range(0, len(forgotten), 500):
            ids = forgotten[start : start + 500]
            session.run(
                f"UPDATE receipts SET digest=substr(digest, 1, {NAMING_BYTES}) WHERE command_id IN ({marks(len(ids))})",  # noqa: S608 - marks, and a number of ours
                ids,
            )
        if inline is not None and new:
            inline(session, last)
        return range(last + 1, last + len(new) + 1)

    def _ask_for_others(self, session: Session, before: HeadRow | None) -> Ask:
        """Ask for what others added since a head, if somebody did: on a server, in the same message as for its lock."""
        if before is None or not self.database.for_update:
            return session.rows
        span = (before.position, before.position + JUMP_ROWS)
        added = session.ask(self._select_span, span)

        def ask(statement: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
            first = statement == self._select_span and params[0] == span[0]
            return added.rows() if first else session.rows(statement, params)

        return ask

    def stand(self, reads: Sequence[tuple[UUID, int]]) -> bool:
        """Whether streams have the versions that were seen."""
        before = self.seen
        found = [row for question in self._versions_of(reads) for row in self.database.rows(*question)]
        self._must_reach(dict(found), before)
        return not _moved(reads, found)

    def _versions_of(self, reads: Sequence[tuple[UUID, int]]) -> Iterator[tuple[str, list[bytes]]]:
        """Statements, with their values, that answer the versions of streams."""
        for start in range(0, len(reads), 500):
            streams = [stream.bytes for stream, _ in reads[start : start + 500]]
            # A look-up for each in the index; a GROUP BY would go through all events of the streams.
            yield (
                f"SELECT column1, (SELECT MAX(originator_version) FROM {self.table.name} "  # noqa: S608 - a name of ours
                f"WHERE originator_id=column1) FROM (VALUES {_rows(len(streams))}) AS streams",
                streams,
            )

    def look(self, streams: Sequence[bytes], subjects: Sequence[bytes]) -> tuple[dict[bytes, int], ErasedKeys]:
        """The versions of some streams (0: there are no events), and which keys of some subjects are destroyed.

        One statement, unless there are many streams, or something was committed since the last look.
        """
        versions: dict[bytes, int] = {}
        before = self.seen
        known = self._destroyed
        told: tuple[bytes, int] | None = None
        for start in range(0, max(len(streams), 1), 256):
            of_streams = _rounded(streams[start : start + 256])
            questions = [self._look_streams.format(_rows(len(of_streams)))] if of_streams else []
            if subjects and not start:
                questions.append(self._look_erased)
            if not questions:
                break
            for name, number, kind in self.database.rows(" UNION ALL ".join(questions), of_streams):
                if kind:
                    told = (name or b"", number or 0)
                else:
                    versions[name] = number or 0
        self._must_reach(versions, before)
        if subjects and told != (known.digest, known.position):
            known = self._destroyed_now()
        return versions, known.of(subjects)

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Insert events in one durable transaction, as `eventsourcing` asks for it; their positions."""
        rows = [(_stream(one.originator_id), one.originator_version, one.topic, one.state) for one in stored_events]
        return list(self.append(rows, **kwargs))

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """A stream's events, as `eventsourcing` asks for them."""
        return [
            StoredEvent(originator_id, version, topic, state)
            for _, version, topic, state in self.stream_rows(originator_id, gt=gt, lte=lte, desc=desc, limit=limit)
        ]

    def stream_rows(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[tuple[Any, ...]]:
        """A stream's rows: position, version, stored name, state."""
        stream = _stream(originator_id)
        statement = self._select_stream
        params: list[Any] = [stream]
        if gt is not None:
            statement += " AND originator_version>?"
            params.append(gt)
        if lte is not None:
            statement += " AND originator_version<=?"
            params.append(lte)
        statement += f" ORDER BY originator_version {'DESC' if desc else 'ASC'}"
        if limit is not None:
            statement += " LIMIT ?"
            params.append(limit)
        if stream not in self._own:
            return self.database.rows(statement, params)
        before = self._seen_or_found()
        rows = self.database.rows(statement, params)
        if desc or limit is None or len(rows) < limit:
            self._must_reach({stream: rows[0 if desc else -1][1] if rows else gt or 0}, before, lte)
        there = {row[0]: row for row in self.rows_at(sorted(row[0] for row in rows))}
        if any(there.get(row[0]) != (row[0], stream, *row[1:]) for row in rows):
            raise damaged(
                f"The index of {self.table.name} leads from the stream {originator_id}, by which the book rules "
                "itself, to events of another place",
                self.database.place,
            )
        return rows

    def named_rows(self, originator_ids: Sequence[UUID], topics: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The rows of some names in many streams, stream by stream, each by version."""
        for start in range(0, len(originator_ids), 100):
            chunk = [one.bytes for one in originator_ids[start : start + 100]]
            yield from self.database.rows(
                f"{self._select}WHERE originator_id IN ({marks(len(chunk))}) AND topic IN ({marks(len(topics))}) "
                "ORDER BY originator_id, originator_version",
                [*chunk, *topics],
            )

    def settled_row(self, originator_id: UUID, version: int) -> tuple[Any, ...] | None:
        """A stream's row of a version, once whatever commit is under way has ended: it holds the head until then."""
        with self.database.session(write=True) as session:
            session.rows(self._lock_head)
            rows = session.rows(self._select_stream + " AND originator_version=?", (originator_id.bytes, version))
            return rows[0] if rows else None

    def streams_rows(self, originator_ids: Sequence[UUID], lte: int) -> Iterator[tuple[Any, ...]]:
        """The rows of many streams, stream by stream, each up to a version."""
        for start in range(0, len(originator_ids), 100):
            chunk = [one.bytes for one in originator_ids[start : start + 100]]
            yield from self.database.rows(
                f"{self._select}WHERE originator_id IN ({marks(len(chunk))}) AND originator_version<=? "
                "ORDER BY originator_id, originator_version",
                [*chunk, lte],
            )

    def newer_rows(self, seen: Sequence[tuple[UUID, int]]) -> Iterator[tuple[Any, ...]]:
        """The rows of many streams, stream by stream, each from a version on."""
        for start in range(0, len(seen), 100):
            chunk = seen[start : start + 100]
            yield from self.database.rows(
                f"SELECT position, originator_id, originator_version, topic, state "  # noqa: S608 - names of ours
                f"FROM (VALUES {','.join(['(?,?)'] * len(chunk))}) AS seen CROSS JOIN {self.table.name} "
                "WHERE originator_id=seen.column1 AND originator_version>=seen.column2 "
                "ORDER BY originator_id, originator_version",
                [value for stream, version in chunk for value in (stream.bytes, version)],
            )

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """The log's events in order, as `eventsourcing` asks for them."""
        first = (start or 0) if inclusive_of_start else (start or 0) + 1
        rows = self.log_rows(first - 1 if start is not None else 0, limit, stop, topics)
        return list(map(_notification, rows))

    def log_rows(
        self, after: int, limit: int, stop: int | None = None, topics: Sequence[str] = ()
    ) -> Sequence[tuple[Any, ...]]:
        """Up to `limit` rows of the log after a position, in order; up to `stop` (inclusive), of some names only."""
        statement = self._select + "WHERE position>?"
        params: list[Any] = [after]
        if stop is not None:
            statement += " AND position<=?"
            params.append(stop)
        if topics:
            statement += f" AND topic IN ({marks(len(topics))})"
            params += topics
        statement += " ORDER BY position LIMIT ?"
        params.append(limit)
        return self._onward(self.database.rows(statement, params), after)

    def rows_at(self, positions: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """The rows at positions, in order, 500 at a time."""
        for start in range(0, len(positions), 500):
            chunk = positions[start : start + 500]
            yield from self.database.rows(
                f"{self._select}WHERE position IN ({marks(len(chunk))}) ORDER BY position", chunk
            )

    def iterate(
        self, after: int = 0, *, stop: int | None = None, topics: Sequence[str] = (), chunk: int = 5000
    ) -> Iterator[tuple[Any, ...]]:
        """All rows of the log after a position, up to the head at the start; no lock is held between chunks."""
        stop = self.position() if stop is None else stop
        while after < stop:
            rows = self.log_rows(after, chunk, stop, topics)
            yield from rows
            if len(rows) < chunk:
                return
            after = rows[-1][0]

    def holding(self, found: bytes) -> list[int]:
        """The positions of all rows whose state holds some bytes, in order. Goes through all of the log."""
        rows = self.database.rows(
            f"SELECT position FROM {self.table.name} WHERE {self.database.holds} ORDER BY position",  # noqa: S608 - names of ours
            [found],
        )
        return [position for (position,) in rows]

    def states(self, topic: str, after: int, stop: int, limit: int) -> Sequence[tuple[Any, ...]]:
        """Position and state of up to `limit` rows of one name after a position and up to another, in order."""
        rows = self.database.rows(
            f"SELECT position, state FROM {self.table.name} "  # noqa: S608 - a name of ours
            "WHERE position>? AND position<=? AND topic=? ORDER BY position LIMIT ?",
            (after, stop, topic, limit),
        )
        return self._onward(rows, after)

    def _onward(self, rows: Sequence[tuple[Any, ...]], after: int) -> Sequence[tuple[Any, ...]]:
        """Rows by position, which lead beyond the one that they follow. Raises BookDamaged."""
        if rows:
            onward(rows[-1][0], after, self.database.place)
        return rows

    def position(self) -> int:
        """The head's position; 0 for an empty log. Raises BookDamaged where it is not that of the last row."""
        return self._whole_head().position

    def _whole_head(self) -> HeadRow:
        """The head, which is that of the last row. Raises BookDamaged."""
        before = self.seen
        rows = self.database.rows(self._select_end)
        position, last = (rows[0][0], rows[0][-1] or 0) if rows else (None, 0)
        if type(position) is int and position != last:
            raise damaged(
                f"The head of {self.table.name} says that the log ends at position {position}, and it ends at {last}",
                self.database.place,
            )
        return self._sound_head([row[:-1] for row in rows], before)

    def max_notification_id(self) -> int:
        """The same, as `eventsourcing` asks for it: None for an empty log, whatever the signature says."""
        return self.position() or None  # type: ignore[return-value]  # so does the stock recorder

    def _seen_or_found(self) -> HeadRow | None:
        """The newest head that was seen, or the one that is there; None where that can't be believed."""
        if self.seen is None:
            with suppress(BookDamaged):  # whoever asks for it is told
                self.head()
        return self.seen

    def _must_reach(self, versions: Mapping[Any, int | None], head: HeadRow | None, lte: int | None = None) -> None:
        """Raises BookDamaged where one of the book's own streams was read shorter than a head tells that was seen
        before."""
        for stream in versions.keys() & self._own.keys():
            told = 0 if head is None else head.versions()[self._own[stream]]
            found = versions[stream] or 0
            if type(found) is not int or found < (told if lte is None else min(told, lte)):
                raise damaged(
                    f"Of the stream {uuid_from(stream)}, by which the book rules itself, {found} events are found in "
                    f"{self.table.name}, and its head counts {told}: they are gone, or an index does not lead to them",
                    self.database.place,
                )

    def _with_own(self, head: HeadRow, new: Sequence[NewRow]) -> bytes:
        """What a head tells of the book's own streams, once some events are added to it."""
        added = [(stream, version) for stream, version, _, _ in new if stream in self._own]
        if not added:
            return head.own
        versions = head.versions()
        for stream, version in added:
            number = self._own[stream]
            if version != versions[number] + 1:
                raise IntegrityError(f"stream {stream!r} is at version {versions[number]}, not before {version}")
            versions[number] = version
        return bytes(msgpack.packb(versions))

    def extent(self) -> tuple[int, int, int]:
        """How many rows there are, and the least and greatest position; zeros for an empty log."""
        [(count, least, greatest)] = self.database.rows(
            f"SELECT COUNT(*), MIN(position), MAX(position) FROM {self.table.name}"  # noqa: S608 - a name of ours
        )
        return count, least or 0, greatest or 0

    def looked_up(self, after: int, stop: int) -> int:
        """How many rows after a position and up to another are found by their stream and version. Raises BookDamaged
        where there is no index by which they are."""
        name = self.table.name
        with self.database.session(write=False) as session:
            by = self.database.indexed_by(session, name, STREAM, self._indexes())
            [(count,)] = session.rows(
                f"SELECT COUNT(*) FROM {name} AS one WHERE position>? AND position<=? AND (SELECT position FROM {name} "  # noqa: S608 - names of ours
                f"AS found{by} WHERE found.originator_id=one.originator_id "
                "AND found.originator_version=one.originator_version)=position",
                (after, stop),
            )
            return int(count)

    def indexed(self, after: int, stop: int) -> int:
        """How many rows after a position and up to another the index of streams has."""
        name = self.table.name
        with self.database.session(write=False) as session:
            by = self.database.indexed_by(session, name, STREAM, self._indexes())
            [(count,)] = session.rows(
                f"SELECT COUNT(*) FROM (SELECT position FROM {name}{by} WHERE position>? AND position<=? "  # noqa: S608 - names of ours
                f"ORDER BY {', '.join(STREAM)}) AS entries",
                (after, stop),
            )
            return int(count)

    def accounts(self, after: int, stop: int) -> tuple[int, int]:
        """How many accounts were opened after a position and up to another: by the rows, and by the index of them."""
        name = self.table.name
        with self.database.session(write=False) as session:
            by = self.database.indexed_by(session, name, ("originator_id", "topic"), self._indexes())
            [(count, indexed)] = session.rows(
                # What is no bare column is looked up in no index.
                f"SELECT (SELECT COUNT(*) FROM {name} WHERE position>? AND position<=? AND topic||''=?), "  # noqa: S608 - names of ours
                f"(SELECT COUNT(*) FROM (SELECT position FROM {name}{by} WHERE topic='{Enrolled.stored_name}' "
                "ORDER BY originator_id) AS entries WHERE position>? AND position<=?)",
                (after, stop, Enrolled.stored_name, after, stop),
            )
            return int(count), int(indexed)

    def pruned(self) -> Pruned:
        """Up to where rows were deleted, as it is noted. Raises BookDamaged for a note that can't be one."""
        rows = self.database.rows("SELECT log, position, root FROM pruned WHERE log=?", [self.table.name])
        for _, position, root in sound(PRUNED, rows, self.database.place):
            if position <= 0 or position % merkle.TILE or len(root) != len(merkle.EMPTY_ROOT):
                raise damaged(f"The row of {self.table.name} in the table pruned can't be one", self.database.place)
            return Pruned(position, root)
        return Pruned()

    def prune(self, upto: Pruned) -> None:
        """Delete the rows up to a position, which ends a tile and is not the last, and note that, in one transaction.

        Their hashes must be in the tiles, and that this is done must stand in the log of events.
        """
        with self.database.session(write=True) as session:
            session.run(f"DELETE FROM {self.table.name} WHERE position<=?", [upto.position])  # noqa: S608 - a name of ours
            session.run(
                "INSERT INTO pruned VALUES (?,?,?) ON CONFLICT (log) DO UPDATE SET position=excluded.position, "
                "root=excluded.root WHERE pruned.position<excluded.position",
                (self.table.name, upto.position, upto.root),
            )

    # ── the head ────────────────────────────────────────────────────────────────────────────────────────────────

    def head(self) -> Head:
        """Position and frontier, as of one commit. Raises BookDamaged for a head that this book did not write, and for
        one that went back behind what was seen here."""
        before = self.seen
        return _parsed(self._sound_head(self.database.rows(self._select_head), before))

    def head_and_flaw(self) -> tuple[Head, str | None]:
        """The head as it is written, and what its MAC, or what was seen here before, tells against it. Raises
        BookDamaged for one that can't be a head."""
        before = self.seen
        found = self._head_in(self.database.rows(self._select_head))
        flaw = self._flaw(found, before)
        return _parsed(found), None if flaw is None else flaw[0]

    def count_signed(self, session: Session, is_known: Callable[[], bool]) -> HeadRow:
        """Count a checkpoint in the head, unless one of its size was counted (which is asked once nobody else can add
        one): it is missed when it is taken out. The head then, which counts as seen once this is committed. Raises
        BookDamaged."""
        before = self.seen
        found = self._sound_head(session.rows(self._lock_head), before, session.rows)
        self._must_have_key(found)
        if is_known():
            return found
        counted = self._head_of(found._replace(signed=found.signed + 1))
        session.run(self._count_signed, (counted.signed, counted.mac))
        return counted

    def saw(self, head: HeadRow) -> None:
        """Take a head for the newest, if it is newer than what was seen."""
        with self._seeing:
            if self.seen is None or (head.position, head.signed) > (self.seen.position, self.seen.signed):
                self.seen = head

    @staticmethod
    def _tree(head: HeadRow) -> merkle.Frontier:
        return merkle.Frontier(head.position, head.frontier)

    def _head_of(self, head: HeadRow) -> HeadRow:
        """A head with its MAC."""
        return head._replace(mac=self._mac(head))

    def _mac(self, head: HeadRow) -> str:
        if self.key is None:
            return ""
        told: bytes = msgpack.packb([self.origin, self.table.name, *head._replace(mac="")])
        return hmac.digest(self.key, told, sha256).hex()

    def _head_in(self, rows: Sequence[tuple[Any, ...]]) -> HeadRow:
        """The head in its row. Raises BookDamaged where it can't be one."""
        place = self.database.place
        if len(rows) != 1:
            raise damaged(f"The row of {self.table.name} in the table head is missing", place)
        # What SQLite was given as an empty text is one.
        [row] = sound(
            HEAD, [tuple([b"" if one == "" and at != MAC_AT else one for at, one in enumerate(rows[0])])], place
        )
        head = HeadRow(*row)
        try:
            if head.position < 0 or head.signed < 0:
                raise ValueError(f"its position is {head.position}, and it counts {head.signed} checkpoints")
            merkle.Frontier(head.position, head.frontier)
            head.versions()
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise damaged(f"The head of {self.table.name} can't be one ({error})", place) from error
        return head

    def _must_have_key(self, found: HeadRow) -> None:
        """Raises KeysMissing where a head bears a MAC and there is no key to make the next one with: nobody could add
        to the log after that."""
        if self.key is None and found.mac:
            raise KeysMissing(
                f"The head of {self.table.name} can't be moved on without the book's data keys.",
                path=self.database.place,
                remedy="Open the book with its keys.",
            )

    def _sound_head(self, rows: Sequence[tuple[Any, ...]], before: HeadRow | None, ask: Ask | None = None) -> HeadRow:
        """The head in its row, read after another was seen. `ask` answers what is to be read within the same
        transaction. Raises BookDamaged."""
        if before is not None and len(rows) == 1 and rows[0] == before:
            return before
        found = self._head_in(rows)
        flaw = self._flaw(found, before, ask)
        if flaw is not None:
            told, remedy = flaw
            raise damaged(f"The head of {self.table.name} {told}", self.database.place, remedy)
        self.saw(found)
        return found

    def _flaw(self, found: HeadRow, before: HeadRow | None, ask: Ask | None = None) -> tuple[str, str] | None:
        """What is wrong with a head that was read after another was seen, and how to go on; None: nothing."""
        if self.key is not None and not hmac.compare_digest(found.mac.encode(), self._mac(found).encode()):
            return "bears a MAC that was not made with the keys of this book", NOT_OURS
        if before is None:
            return None
        if found.position < before.position:
            told = f"went back: the log ends at position {found.position}, and this process saw it end at "
            return f"{told}{before.position}", WENT_BACK
        if found.position == before.position and found.frontier != before.frontier:
            return f"is another than this process saw at the same position, {found.position}", WENT_BACK
        if found.signed < before.signed:
            told = f"went back: it counts {found.signed} sizes that were signed, and this process saw it count "
            return f"{told}{before.signed}", WENT_BACK
        # What this process committed meanwhile, or looked at, in another thread, is not looked at again.
        newest = self.seen
        base = newest if newest is not None and before.position < newest.position <= found.position else before
        if not self._leads(base, found, ask or self.database.rows):
            told = "goes on from another history than this process saw: the stored bytes after position"
            return f"{told} {base.position} do not lead to that of position {found.position}", WENT_BACK
        return None

    def _leads(self, seen: HeadRow, found: HeadRow, ask: Ask) -> bool:
        """Whether the rows that others added since a head was seen lead from its frontier to that of a later head."""
        frontier = self._tree(seen)
        added: list[tuple[int, list[bytes], dict[int, bytes]]] = []
        while frontier.size < found.position:
            stop = min(found.position, frontier.size + JUMP_ROWS)
            rows = ask(self._select_span, (frontier.size, stop))
            try:
                hashes = merkle.row_hashes(self.origin, rows)
            except (TypeError, ValueError, OverflowError):  # what no event can hold was written there
                return False
            if len(rows) != stop - frontier.size:
                # Their retention was over, and another process pruned them: their hashes are in whole tiles.
                tile, start = divmod(frontier.size, merkle.TILE)
                kept = ask(self._select_tile, (tile,))
                whole = kept[0][0] if len(kept) == 1 and type(kept[0][0]) is bytes else b""
                if len(whole) != merkle.TILE * merkle.HASH:
                    return False
                hashes = merkle.split(whole)[start : start + found.position - frontier.size]
            added.append((frontier.size, hashes, frontier.append_hashes(hashes)))
        if frontier.packed() != found.frontier:
            return False
        if self.fresh is not None:  # whoever writes tiles need not hash them again
            for one in added:
                self.fresh.add(*one)
        return True

    def receipt(self, command_id: bytes) -> Receipt | None:
        """What is kept of a command, if it was recorded."""
        rows = self.database.rows("SELECT * FROM receipts WHERE command_id=?", [command_id])
        for command, digest, _, _, result, _ in self._written(RECEIPTS, rows):
            return Receipt(command, digest, result)
        return None

    def holders(self, claims: Sequence[bytes]) -> dict[bytes, bytes]:
        """Who holds each of many claims; free ones are left out."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(claims), 500):
            chunk = claims[start : start + 500]
            rows = self.database.rows(f"SELECT * FROM claims WHERE claim IN ({marks(len(chunk))})", chunk)  # noqa: S608 - marks only
            found.update((claim, holder) for claim, holder, _ in self._written(CLAIMS, rows))
        return found

    def holder(self, claim: bytes) -> bytes | None:
        """Who holds a claim."""
        return self.holders([claim]).get(claim)

    def claims_of(self, holders: Sequence[bytes]) -> list[bytes]:
        """All claims that some holders have. Goes through all claims of the book."""
        wanted = set(holders)
        rows = sound(CLAIMS, self.database.rows("SELECT * FROM claims"), self.database.place)
        return [claim for claim, holder, _ in rows if holder in wanted]

    def mac_of(self, table: Table, row: Sequence[Any]) -> bytes:
        """What a row of claims or receipts bears, so that it is none that somebody altered; empty without a key. Of the
        digest in a receipt it counts what stays there when its arguments are forgotten."""
        if self.key is None:
            return b""
        told = [self.origin, table.name, *row]
        if table is RECEIPTS:
            told[DIGEST_AT] = told[DIGEST_AT][:NAMING_BYTES]
        return hmac.digest(self.key, msgpack.packb(told), sha256)[:ROW_MAC_BYTES]

    def is_ours(self, table: Table, row: Sequence[Any]) -> bool:
        """Whether a row of claims or receipts bears its MAC; without a key, any does."""
        return self.key is None or hmac.compare_digest(row[-1], self.mac_of(table, row[:-1]))

    def _written(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
        """Rows that the book wrote. Raises BookDamaged."""
        rows = sound(table, rows, self.database.place)
        for row in rows:
            if not self.is_ours(table, row):
                raise damaged(
                    f"The row {row[0].hex()} of the table {table.name} is not what the book wrote", self.database.place
                )
        return rows

    def erased_keys(self, subjects: Sequence[bytes]) -> set[tuple[bytes, int]]:
        """Of some subjects, those that were erased, each with the id of a key that is destroyed. Raises BookDamaged."""
        return self._destroyed_now().of(subjects)

    def erasures(self, after: int = 0) -> Sequence[tuple[bytes, int, int]]:
        """What was erased by commits after a position: subject, key id, position; in order.

        Raises BookDamaged for rows that are not what the head tells; all of them are compared where all are asked for.
        """
        rows = self.erased_rows(after)
        if after and not rows:
            return rows
        if after:
            known = self._destroyed_now()
            if any((subject, key_id) not in known.of([subject]) for subject, key_id, _ in rows):
                raise self._not_erased()
            return rows
        while True:
            head = self._whole_head()
            whole = Destroyed()
            whole.add([row for row in rows if row[2] <= head.position])
            whole.position = head.position
            if whole.digest == head.erased:
                break
            before, rows = rows, self.erased_rows()
            if rows == before:
                raise self._not_erased()
        with self._following:
            if self._destroyed.position <= whole.position:
                self._destroyed = whole
        return rows

    def erased_rows(self, after: int = 0) -> list[tuple[bytes, int, int]]:
        """The rows of the table `erased` as they stand there. Raises BookDamaged for what can't be one."""
        # All means all: a position that is none must not hide its row.
        since, values = ("WHERE position>?", [after]) if after else ("", [])
        rows = self.database.rows(f"SELECT * FROM erased {since} ORDER BY position, subject, key_id", values)  # noqa: S608 - fixed texts
        for subject, _, position in sound(ERASED, rows, self.database.place):
            if len(subject) != 16 or position < 1:
                raise damaged("What is no subject, or no position, stands in the table erased", self.database.place)
        return rows

    def make_erased_anew(self, rows: Sequence[tuple[bytes, int, int]]) -> bool:
        """Put rows in the place of those of the table `erased`, if they are what the head tells. Raises BookDamaged."""
        whole = Destroyed()
        whole.add(rows)
        with self.database.session(write=True) as session:
            if self._sound_head(session.rows(self._lock_head), self.seen, session.rows).erased != whole.digest:
                return False
            session.run("DELETE FROM erased")
            if rows:
                session.insert(ERASED, rows)
        return True

    def _destroyed_now(self) -> Destroyed:
        return self._destroyed_at(self._whole_head(), self.database.rows)

    def _destroyed_at(self, head: HeadRow, select: Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]) -> Destroyed:
        """Which keys are destroyed, as of a head or a later one. Raises BookDamaged."""
        with self._following:
            known = self._destroyed
            if head.position <= known.position:
                return known
            if head.erased != known.digest:
                rows = select(
                    "SELECT subject, key_id, position FROM erased WHERE position>? AND position<=? "
                    "ORDER BY position, subject, key_id",
                    (known.last, head.position),
                )
                digest = known.digest
                for row in sound(ERASED, rows, self.database.place):
                    digest = chained(digest, *row)
                if digest != head.erased:
                    raise self._not_erased()
                known.add(rows)
            known.position = head.position
            return known

    def _not_erased(self) -> BookDamaged:
        return damaged(
            NOT_ERASED, self.database.place, "Open the book again: it makes the table anew, if the log tells."
        )

    # ── tailing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def watch(self) -> Watch:
        """Watch for commits from now on."""
        return self.database.watch(self.table.name)

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> LogSubscription:
        """The log's events after a position as they come, as `eventsourcing` asks for them."""
        return LogSubscription(self, gt, topics)


def check_no_gap(rows: Sequence[Row], after: int, place: str) -> None:
    """Raises BookDamaged where a position after the last one read is missing: it was there, and is gone."""
    if rows and rows[-1][0] - after != len(rows):
        raise missing(next(expected for expected, row in enumerate(rows, after + 1) if row[0] != expected), place)


def missing(position: int, place: str) -> BookDamaged:
    """The error for a position that was there, and is gone."""
    return BookDamaged(
        f"Position {position} is missing from the log.", path=place, remedy="See `tallybook doctor`; restore it."
    )


def check_stream(stream: UUID, last: Any, count: int, place: str) -> None:
    """Raises BookDamaged where the last of a stream's first versions does not tell how many there are."""
    if last != count:
        raise damaged(f"Of the stream {stream}, not all versions up to {last!r} are there", place)


class Tail:
    """The log's rows after a position as they come, a chunk at a time: in order, each once, none left out.

    That holds because positions have no gaps and appear in their order: nothing can appear at or before a head that
    was seen.
    """

    def __init__(self, log: EventStore, after: int, names: Sequence[str] = ()) -> None:
        self.after = after
        """Up to here all rows were given, but for those of other names."""
        self.closed = False
        self._log = log
        self._names = names
        self._watch = log.watch()

    def pull(self, timeout_s: float | None = None) -> Sequence[Row]:
        """The next rows. Waits for the first of them; none when the time is over, or after `close`.

        Raises BookClosed, and what reading the log raises; the tail then stands where it stood.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.closed:
            head = self._log.position()
            if head > self.after:
                stop = min(head, self.after + TAIL_POSITIONS)
                rows = self._log.log_rows(self.after, TAIL_ROWS, stop, self._names)
                self.after = rows[-1][0] if len(rows) == TAIL_ROWS else stop
                if rows:
                    return rows
                continue
            left = HEARTBEAT_S if until is None else min(HEARTBEAT_S, until - time.monotonic())
            if left <= 0:
                break
            self._watch.wait(left)
        return ()

    def close(self) -> None:
        """End it: a thread that waits in `pull` returns at once."""
        self.closed = True
        self._watch.close()


class LogSubscription(Subscription[LogRecorder]):
    """Events after a position, in order, none left out; waits for more until it is stopped."""

    def __init__(self, recorder: LogRecorder, gt: int | None = None, topics: Sequence[str] = ()) -> None:
        super().__init__(recorder, gt, topics)
        self._tail = Tail(recorder, gt or 0, topics)
        self._pulled: Iterator[Row] = iter(())

    def stop(self) -> None:
        """End the iteration, that of a thread which is waiting too."""
        super().stop()
        self._tail.close()

    def __next__(self) -> Notification:
        while not self._has_been_stopped:
            for row in self._pulled:
                return _notification(row)
            try:
                self._pulled = iter(self._tail.pull())
            except BookClosed:
                break
        raise StopIteration


class LogTrackingRecorder(TrackingRecorder):
    """Which position was processed, by name: `eventsourcing`'s tracking, on any database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def tracking_definitions(self) -> list[str]:
        """Statements that make the table."""
        return [
            "CREATE TABLE IF NOT EXISTS tracking (application_name {text} PRIMARY KEY, "
            "notification_id {integer} NOT NULL){compact}"
        ]

    def create_table(self) -> None:
        """Make the table if it is not there yet."""
        with self.database.session(write=True) as session:
            for statement in self.tracking_definitions():
                session.define(statement)

    def insert_tracking(self, tracking: Tracking) -> None:
        """Record a position. IntegrityError unless it is greater than the one before."""
        with self.database.session(write=True) as session:
            self.track_in(session, tracking)

    @staticmethod
    def track_in(session: Session, tracking: Tracking) -> None:
        """The same within a transaction."""
        moved = session.rows(
            "INSERT INTO tracking VALUES (?,?) ON CONFLICT (application_name) DO UPDATE "
            "SET notification_id=excluded.notification_id WHERE tracking.notification_id<excluded.notification_id "
            "RETURNING notification_id",
            (tracking.application_name, tracking.notification_id),
        )
        if not moved:
            raise IntegrityError(f"{tracking.application_name} is past position {tracking.notification_id}")

    def max_tracking_id(self, application_name: str) -> int | None:
        """The position that was recorded last."""
        rows = self.database.rows("SELECT notification_id FROM tracking WHERE application_name=?", [application_name])
        return rows[0][0] if rows else None


def log_of(database: Database, keys: KeyStore, events_table_name: str = EVENTS_TABLE) -> LogRecorder:
    """One of a book's logs, with a head that is authenticated by the book's keys, if they are at hand."""
    key = None if isinstance(keys, NoKeys) else head_key(keys.lookup_key)
    return LogRecorder(database, events_table_name, keys.origin, key)


class LogProcessRecorder(LogTrackingRecorder, LogRecorder, ProcessRecorder):
    """Events and a tracking position in one transaction."""

    def __init__(
        self, database: Database, events_table_name: str = EVENTS_TABLE, origin: str = "", key: bytes | None = None
    ) -> None:
        LogRecorder.__init__(self, database, events_table_name, origin, key)

    def definitions(self) -> list[str]:
        """Statements that make all tables."""
        return [*super().definitions(), *self.tracking_definitions()]

    def create_table(self) -> None:
        """Make the tables that are not there yet."""
        LogRecorder.create_table(self)

    def append_in(self, session: Session, new: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        """Insert events, and the tracking of what they came from."""
        positions = super().append_in(session, new, **kwargs)
        tracking: Tracking | None = kwargs.get("tracking")
        if tracking is not None:
            self.track_in(session, tracking)
        return positions


Rec = TypeVar("Rec", bound=LogRecorder | LogTrackingRecorder)


class BookFactory(InfrastructureFactory[LogTrackingRecorder]):
    """Builds our recorders on one database: the one that is given, or the SQLite file that SQLITE_DBNAME names."""

    def __init__(self, env: Environment | EnvType | None, database: Database | None = None) -> None:
        super().__init__(env)
        self.database: Database = database or SQLiteDatabase(self.env.get("SQLITE_DBNAME") or ":memory:")

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """A recorder of streams."""
        return self._made(LogRecorder(self.database, f"stored_{purpose}"))

    def application_recorder(self) -> ApplicationRecorder:
        """A recorder of a log."""
        return self._made(self._class(self.APPLICATION_RECORDER_TOPIC, LogRecorder)(self.database))

    def tracking_recorder(
        self, tracking_recorder_class: type[LogTrackingRecorder] | None = None
    ) -> LogTrackingRecorder:
        """A recorder of positions."""
        kind = tracking_recorder_class or self._class(self.TRACKING_RECORDER_TOPIC, LogTrackingRecorder)
        return self._made(kind(self.database))

    def process_recorder(self) -> ProcessRecorder:
        """A recorder of both."""
        return self._made(self._class(self.PROCESS_RECORDER_TOPIC, LogProcessRecorder)(self.database))

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def _class(self, key: str, default: type[Rec]) -> type[Rec]:
        topic = self.env.get(key)
        return resolve_topic(topic) if topic else default

    def _made(self, recorder: Rec) -> Rec:
        if strtobool(self.env.get("CREATE_TABLE", "y")):
            recorder.create_table()
        return recorder
