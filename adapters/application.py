"""The `eventsourcing` application under a book: our recorder, our mapper, nothing taken from the host's environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, count, groupby, islice
from operator import itemgetter
from typing import Any, Protocol, cast
from uuid import UUID

import msgpack
from eventsourcing.application import AggregateNotFoundError, Application, LRUCache, Repository
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import DataError, EventStore, InfrastructureFactory, IntegrityError, Mapper, Recording
from eventsourcing.utils import Environment, EnvType

from tallybook.domain.aggregate import A, Aggregate
from tallybook.domain.errors import BookDamaged, Refused, StoredFormError, refusal
from tallybook.domain.events import Event
from tallybook.projections.read_models import Batch, Progress, Recorded, Unreadable

from .bulk import rarely_collecting
from .codec import EventMapper, subject_of
from .database import Database, Session
from .due_index import DUE_INDEX, DueIndex
from .form import known_uuid
from .keys import Keyring, NoKeys, secret
from .log import EVENTS_TABLE, BookFactory, LogRecorder, check_no_gap, check_stream, log_of
from .snapshots import EVERY, EVERY_BY_MANY, SNAPSHOTS, SnapshotReport, SnapshotStore, WrongSnapshot, differing, is_due

PIECE = EVERY
"""How many rows of a stream are read at once. A stream that has fewer events has no snapshot, so none is looked for."""
MANY = 256
"""From how many rows on it pays to let Python look for cycles less often: the state keeps a part of each event."""
DUE_MAX = 100
"""How many aggregates wait for a snapshot at most. They do where nothing is committed: reading writes nothing."""


class InlineError(Exception):
    """A read model could not fold events within their commit."""


class Inlining(Protocol):
    """Read models that are folded in the transaction that inserts the events."""

    def before(self) -> Callable[[Session, int, Sequence[Recorded]], None]:
        """Called before a commit; what it gives is called in it, with the position before. Raises InlineError."""
        ...

    def after(self) -> None:
        """Called after the commit, to catch up what could not be folded in it."""
        ...


class BookEventStore(EventStore[UUID]):
    """An event store that goes straight from events to rows and back, without the objects in between."""

    def __init__(self, mapper: EventMapper, recorder: LogRecorder) -> None:
        super().__init__(mapper, recorder)
        self._mapper = mapper
        self._recorder = recorder
        self.inline: Inlining | None = None

    def put(self, domain_events: Sequence[DomainEventProtocol[UUID]], **kwargs: Any) -> list[Recording[UUID]]:
        """Store events, and with them what belongs to the same commit. Makes no recordings: nobody looks at them."""
        events = cast("Sequence[Event]", domain_events)
        rows = self._mapper.rows(events)
        inline = self.inline if events else None
        if inline is None:
            self._recorder.append(rows, **kwargs)
            return []
        fold = inline.before()
        try:
            self._recorder.append(
                rows,
                inline=lambda session, last: fold(session, last, [*map(Recorded, count(last + 1), events)]),
                **kwargs,
            )
        except (InlineError, IntegrityError, DataError, BookDamaged):
            # What can't be folded stops a read model, never a command. A server may refuse a row at the commit only;
            # what the command itself is refused for is refused again.
            self._recorder.append(rows, **kwargs)
        inline.after()
        return []

    def get(
        self,
        originator_id: UUID,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Iterator[DomainEventProtocol[UUID]]:
        """A stream's events. All of them, in order, are read in pieces: a stream may be longer than memory."""
        if not desc and limit is None:
            return self.go_on(originator_id, gt=gt, lte=lte)
        read = self._mapper.read
        rows = self._recorder.stream_rows(originator_id, gt=gt, lte=lte, desc=desc, limit=limit)
        return (read(originator_id, version, name, state, position) for position, version, name, state in rows)

    def piece(self, originator_id: UUID, gt: int | None = None, lte: int | None = None) -> Sequence[tuple[Any, ...]]:
        """The next rows of a stream; fewer than PIECE if these are the last. Raises BookDamaged if one is missing."""
        rows = self._recorder.stream_rows(originator_id, gt=gt, lte=lte, limit=PIECE)
        if rows:
            check_stream(originator_id, rows[-1][1], (gt or 0) + len(rows), self._recorder.database.place)
        return rows

    def go_on(
        self,
        originator_id: UUID,
        rows: Sequence[tuple[Any, ...]] | None = None,
        *,
        gt: int | None = None,
        lte: int | None = None,
    ) -> Iterator[Event]:
        """The events of a piece (default: the next one), and all that come after it."""
        read = self._mapper.read
        while True:
            if rows is None:
                rows = self.piece(originator_id, gt, lte)
            for position, version, name, state in rows:
                yield read(originator_id, version, name, state, position)
            if len(rows) < PIECE:
                return
            gt, rows = rows[-1][1], None


_recorded = partial(tuple.__new__, Recorded)
"""Recorded from a pair, at half the price of its constructor."""


def _part_of(state: bytes, parts: int) -> int:
    """Which part of the subjects an event belongs to. What is about nobody, or can't be read, to the first."""
    try:
        subject = subject_of(state)
        return 0 if subject is None else subject[-1] % parts
    except (ValueError, IndexError, TypeError, msgpack.exceptions.UnpackException):
        return 0


class BookApplication(Application[UUID]):
    """Saves and loads the aggregates of one book."""

    name = "Tallybook"
    CACHED_AGGREGATES = 2000

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self.database = database
        self.keyring = keyring
        # Without keys, nobody can tell which snapshots and notes the book wrote: none is believed, and none is written.
        keyless = isinstance(keyring.store, NoKeys)
        marks = [
            os.urandom(32) if keyless else secret(keyring.store.lookup_key, one.name) for one in (SNAPSHOTS, DUE_INDEX)
        ]
        self.snapshot_store = SnapshotStore(database, marks[0])
        self.due_index = DueIndex(database, marks[1], EVENTS_TABLE)
        self._due: dict[UUID, Aggregate] = {}
        self.sweeps_held = False
        """Whether sweeps take the accounts that this process holds for what they are, until the commit finds out."""
        super().__init__()

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:  # noqa: ARG002 - the library's signature
        """A complete environment of our own: the host's variables must not steer an embedded book."""
        return Environment(
            name,
            {
                "PERSISTENCE_MODULE": BookFactory.__module__,
                "CREATE_TABLE": "n",
                "AGGREGATE_CACHE_MAXSIZE": str(self.CACHED_AGGREGATES),
                "DEEPCOPY_FROM_AGGREGATE_CACHE": "n",
            },
        )

    def construct_factory(self, env: Environment) -> InfrastructureFactory[Any]:
        """Our factory, on the book's database."""
        return BookFactory(env, self.database)

    def construct_mapper(self) -> Mapper[UUID]:
        """Our stored form."""
        return EventMapper(self.keyring)

    def construct_recorder(self) -> LogRecorder:
        """Our recorder, with the book's origin in its leaves."""
        return log_of(self.database, self.keyring.store)

    def construct_event_store(self) -> EventStore[UUID]:
        """Our event store."""
        return BookEventStore(self.codec, self.log)

    @property
    def log(self) -> LogRecorder:  # type: ignore[override]  # the library's property of this name is deprecated
        """The recorder, by what it is."""
        assert isinstance(self.recorder, LogRecorder)
        return self.recorder

    @property
    def store(self) -> BookEventStore:
        """The event store, by what it is."""
        assert isinstance(self.events, BookEventStore)
        return self.events

    def events_inline(self, inline: Inlining) -> None:
        """Fold read models within each commit from now on."""
        self.store.inline = inline

    @property
    def codec(self) -> EventMapper:
        """The mapper, by what it is."""
        assert isinstance(self.mapper, EventMapper)
        return self.mapper

    def is_recorded(self, event: Event) -> bool:
        """Whether an event is in the log, once whatever commit is under way has ended."""
        row = self.log.settled_row(event.originator_id, event.originator_version)
        if row is None:
            return False
        position, version, name, state = row
        return self.codec.read(event.originator_id, version, name, state, position).event_id == event.event_id

    def load(self, kind: type[A], stream_id: UUID, *, newest: bool = True) -> A:
        """An aggregate as the log has it now: version 0 where there are no events. Never to be changed.

        Without `newest`, it may be as it was when this process saw it last: for commands, whose commit finds out.
        Refuses: invalid_argument, if the stream is another kind's.
        """
        repository: Repository[UUID] = self.repository
        cache = repository.cache
        if cache is not None:
            with suppress(KeyError):
                held: Any = cache.get(stream_id)
                if type(held) is kind and (not newest or self.log.stand([(stream_id, held.version)])):
                    return held
                if not self.log.stream_rows(stream_id, gt=held.version - 1, limit=1):
                    cache.get(stream_id, evict=True)  # the log went back: it was restored, or another server took over

        def project(state: Any, events: Iterable[Any]) -> Any:
            if state is None or not state.version:
                return self._from_the_start(kind, stream_id)
            if not isinstance(state, kind):
                raise _of_another_kind(stream_id)
            return kind.fold(state, events)

        try:
            found: Any = repository.get(stream_id, projector_func=project)
        except AggregateNotFoundError:
            found = kind(stream_id)
        if cache is not None:
            # The repository leaves an immutable aggregate in the cache as it was before it was brought up to date.
            cache.put(stream_id, found)
        self._note(found)
        return cast("A", found)

    def _from_the_start(self, kind: type[A], stream_id: UUID) -> A | None:
        """An aggregate from its snapshot and the events after it, or from all of its events."""
        rows = self.store.piece(stream_id)
        if len(rows) < min(MANY, PIECE):
            return self._folded(kind, stream_id, rows)
        with rarely_collecting():
            if len(rows) < PIECE:
                return self._folded(kind, stream_id, rows)
            snapshot = self.snapshot_store.find(stream_id)
            if isinstance(snapshot, kind):
                # From its last event on, so that it shows whether the stream reaches that far.
                newer = self.store.piece(stream_id, snapshot.version - 1)
                if newer and newer[0][1] == snapshot.version:
                    return kind.fold(snapshot, islice(self.store.go_on(stream_id, newer), 1, None))
            return self._folded(kind, stream_id, rows)

    def _folded(self, kind: type[A], stream_id: UUID, rows: Sequence[tuple[Any, ...]]) -> A | None:
        events = self.store.go_on(stream_id, rows)
        first = next(events, None)
        if first is None:
            return None
        if type(first) not in kind.APPLIERS:
            raise _of_another_kind(stream_id)
        return kind.fold(None, chain([first], events))

    def load_many(self, kind: type[A], stream_ids: Sequence[UUID], *, kept: bool = False) -> dict[UUID, A]:
        """Many aggregates at once, past the cache: those that have events. Never to be changed.

        `kept`: from the snapshots of short streams too, which `keep_many` wrote.
        """
        found: dict[UUID, A] = {}
        snapshots = self.snapshot_store.find_many(stream_ids) if kept else {}
        seen = [(one.id, one.version) for one in snapshots.values() if isinstance(one, kind)]
        for stream_id, rows in self._by_stream(self.log.newer_rows(seen)):
            # From its last event on, so that it shows whether the stream reaches that far.
            snapshot = snapshots[stream_id]
            if rows[0][2] == snapshot.version and isinstance(snapshot, kind):
                check_stream(stream_id, rows[-1][2], snapshot.version + len(rows) - 1, self.database.place)
                found[stream_id] = cast("A", kind.fold(snapshot, self._read(stream_id, rows[1:])))
        others = [one for one in stream_ids if one not in found]
        for stream_id, rows in self._by_stream(self.log.streams_rows(others, PIECE)):
            if len(rows) < PIECE:
                check_stream(stream_id, rows[-1][2], len(rows), self.database.place)
                aggregate = kind.fold(None, self._read(stream_id, rows))
            else:
                aggregate = self._from_the_start(kind, stream_id)
            if aggregate is not None:
                found[stream_id] = aggregate
        for one in found.values():
            self._note(one)
        return found

    def held(self, kind: type[A], stream_ids: Iterable[UUID]) -> dict[UUID, A]:
        """Of many aggregates, those that this process holds, as it saw them last. Never to be changed."""
        found: dict[UUID, A] = {}
        cache = self.repository.cache
        if cache is None:
            return found
        for one in stream_ids:
            with suppress(KeyError):
                aggregate: Any = cache.get(one)
                if type(aggregate) is kind:
                    found[one] = aggregate
        return found

    def fetch(self, kind: type[A], stream_ids: Iterable[UUID]) -> None:
        """Load many aggregates at once for the commands of a bulk job, those that this process does not hold yet."""
        wanted = list(dict.fromkeys(stream_ids))
        held = self.held(kind, wanted)
        missing = [one for one in wanted if one not in held]
        found = self.load_many(kind, missing) if missing else {}
        cache = self.repository.cache
        assert cache is not None
        for one in missing:
            cache.put(one, found.get(one) or kind(one))

    def hold(self, aggregates: int) -> None:
        """How many aggregates this process holds at most, for a bulk job that comes back to the same ones, sweeps
        included: these go by the log alone otherwise."""
        self.repository.cache = LRUCache(max(aggregates, self.CACHED_AGGREGATES))
        self.sweeps_held = True

    @staticmethod
    def _by_stream(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[UUID, list[tuple[Any, ...]]]]:
        return ((known_uuid(stream), [*of_one]) for stream, of_one in groupby(rows, key=itemgetter(1)))

    def _read(self, stream_id: UUID, rows: Sequence[tuple[Any, ...]]) -> list[Event]:
        read = self.codec.read
        return [read(stream_id, version, name, state, position) for position, _, version, name, state in rows]

    # ── snapshots ───────────────────────────────────────────────────────────────────────────────────────────────

    def _note(self, aggregate: Aggregate) -> None:
        if is_due(aggregate) and len(self._due) < DUE_MAX:
            self._due[aggregate.id] = aggregate

    def write_snapshots(self) -> None:
        """Write the snapshots that are due: after a commit, in a transaction of their own, if that can be done."""
        while self._due:
            with suppress(KeyError), rarely_collecting():  # KeyError: another thread was faster
                self.snapshot_store.write(self._due.popitem()[1])

    def keep_many(self, aggregates: Iterable[Aggregate]) -> None:
        """Write snapshots of what was loaded with many others, and has moved on, if that can be done."""
        due = [one for one in aggregates if is_due(one, EVERY_BY_MANY)]
        if due:
            self.snapshot_store.write(*due)

    def drop_snapshots(self) -> None:
        """Drop all snapshots, what was loaded from them, and the notes of when something is due. Changes nothing that
        the book says. Refuses: busy.
        """
        self.snapshot_store.drop_all()
        self.due_index.drop_all()
        self._due.clear()
        self.repository.cache = LRUCache(self.CACHED_AGGREGATES)

    def check_snapshots(self, progress: Progress | None = None) -> SnapshotReport:
        """Compare every snapshot with a replay of its stream up to its version."""
        return compared(self.snapshot_store, self.store, progress)

    def save(self, *objs: Any, **kwargs: Any) -> list[Recording[UUID]]:
        """Store what aggregates have recorded, and single events, in one commit with what `kwargs` say belongs to it.

        `keys` are durable before it; `drafts` are what the commit makes of aggregates, for the next commands to find.
        The library's way here asks each object for its protocols, which takes longer than all else that is not SQL.
        """
        events: list[Event] = []
        for one in objs:
            if isinstance(one, Event):
                events.append(one)
            elif one is not None:
                events += one.collect_events()
        # A key is on disk before anything that is sealed with it.
        keys = kwargs.pop("keys", None)
        if keys:
            self.keyring.keep(keys)
        drafts = kwargs.pop("drafts", ())
        recordings = self.events.put(events, **kwargs)
        cache = self.repository.cache
        for draft in drafts:
            if cache is not None:
                cache.put(draft.id, draft.shared())
            self._note(draft)
        self.write_snapshots()
        return recordings

    def decode(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Recorded]:
        """Rows of the log as events with their positions."""
        read, made = self.codec.read, _recorded
        for position, stream, version, stored_name, state in rows:
            try:
                stream_id = known_uuid(stream)
            except ValueError as error:
                where = f"position {position}, {stored_name}"
                raise StoredFormError(f"the stream's id: {error}", where=where) from error
            yield made((position, read(stream_id, version, stored_name, state, position)))

    def scan(
        self, kind: type[Event], fields: Sequence[str], *, chunk: int = 500
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Position and clear fields of all events of one class, in order, as they are stored (see EventMapper.scan).

        For folds over many events that need few of their fields: at a fifth of the price of `decode`.
        """
        after, stop = 0, self.log.position()
        while rows := self.log.states(kind.stored_name, after, stop, chunk):
            yield from self.codec.scan(kind.stored_name, fields, rows)
            after = rows[-1][0]

    def read(self, after: int, limit: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """Up to `limit` events after a position: what the projector pulls."""
        rows = self.log.log_rows(after, limit)
        last = rows[-1][0] if rows else after
        check_no_gap(rows, after, self.log.origin)
        index, parts = part
        if parts > 1:
            rows = [row for row in rows if _part_of(row[4], parts) == index]
        events: list[Recorded] = []
        try:
            events.extend(self.decode(rows))
        except StoredFormError as error:
            at = rows[len(events)][0]
            return Batch(events, at - 1, Unreadable(at, error))
        return Batch(events, last)

    def position(self) -> int:
        """The last position."""
        return self.log.position()

    def mark(self, position: int) -> bytes | None:
        """The id of the event at a position; empty if it can't be read, None if there is none."""
        for row in self.log.rows_at([position]):
            try:
                return next(self.decode([row])).event.event_id.bytes
            except StoredFormError:
                return b""
        return None


def compared(snapshots: SnapshotStore, events: BookEventStore, progress: Progress | None = None) -> SnapshotReport:
    """Compare every snapshot with a replay of its stream up to its version."""
    skipped = 0
    wrong = []
    streams = snapshots.streams()
    for done, stream_id in enumerate(streams, 1):
        snapshot = snapshots.find(stream_id)
        replayed = None
        if snapshot is not None:
            replayed = type(snapshot).fold(None, events.get(stream_id, lte=snapshot.version))
        if snapshot is None or replayed is None or replayed.version != snapshot.version:
            skipped += 1
        elif fields := differing(snapshot, replayed):
            wrong.append(WrongSnapshot(stream_id, type(snapshot).__name__, snapshot.version, fields))
        if progress:
            progress(done, len(streams))
    return SnapshotReport(len(streams) - skipped, skipped, tuple(wrong), tuple(snapshots.foreign()))


def _of_another_kind(stream_id: UUID) -> Refused:
    return refusal("invalid_argument", "The id belongs to something of another kind.", id=stream_id)
