"""The `eventsourcing` application under a book: our recorder, our mapper, nothing taken from the host's environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, groupby
from typing import Any, Protocol, cast
from uuid import UUID

import msgpack
from eventsourcing.application import AggregateNotFoundError, Application, Repository
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import EventStore, InfrastructureFactory, Mapper, Recording
from eventsourcing.utils import Environment, EnvType

from tallybook.domain.aggregate import A
from tallybook.domain.errors import StoredFormError, refusal
from tallybook.domain.events import Event
from tallybook.projections.read_models import Batch, Recorded, Unreadable

from .codec import EventMapper, subject_of
from .database import Database, Session
from .form import known_uuid
from .keys import Keyring
from .log import BookFactory, LogRecorder


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
        state_of = self._mapper.state_of
        rows = [(one.originator_id.bytes, one.originator_version, one.stored_name, state_of(one)) for one in events]
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
        except InlineError:
            # What can't be folded stops a read model, never a command.
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
        """A stream's events."""
        read = self._mapper.read
        rows = self._recorder.stream_rows(originator_id, gt=gt, lte=lte, desc=desc, limit=limit)
        return (read(originator_id, version, name, state, position) for position, version, name, state in rows)


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
        return LogRecorder(self.database, origin=self.keyring.origin)

    def construct_event_store(self) -> EventStore[UUID]:
        """Our event store."""
        return BookEventStore(self.codec, self.log)

    @property
    def log(self) -> LogRecorder:  # type: ignore[override]  # the library's property of this name is deprecated
        """The recorder, by what it is."""
        assert isinstance(self.recorder, LogRecorder)
        return self.recorder

    def events_inline(self, inline: Inlining) -> None:
        """Fold read models within each commit from now on."""
        assert isinstance(self.events, BookEventStore)
        self.events.inline = inline

    @property
    def codec(self) -> EventMapper:
        """The mapper, by what it is."""
        assert isinstance(self.mapper, EventMapper)
        return self.mapper

    def load(self, kind: type[A], stream_id: UUID) -> A:
        """An aggregate as the log has it now: version 0 where there are no events. Never to be changed.

        Refuses: invalid_argument, if the stream is another kind's.
        """
        repository: Repository[UUID] = self.repository

        def project(state: Any, events: Iterable[Any]) -> Any:
            rest = iter(events)
            first = next(rest, None)
            starts = state is None and first is not None and type(first) not in kind.APPLIERS
            if starts or not (state is None or isinstance(state, kind)):
                raise refusal("invalid_argument", "The id belongs to something of another kind.", id=stream_id)
            return state if first is None else kind.fold(state, chain([first], rest))

        try:
            found: Any = repository.get(stream_id, projector_func=project)
        except AggregateNotFoundError:
            return kind(stream_id)
        if repository.cache is not None:
            # The repository leaves an immutable aggregate in the cache as it was before it was brought up to date.
            repository.cache.put(stream_id, found)
        return cast("A", found)

    def load_many(self, kind: type[A], stream_ids: Sequence[UUID]) -> dict[UUID, A]:
        """Many aggregates at once, past the cache: those that have events."""
        read = self.codec.read
        found: dict[UUID, A] = {}
        for stream, rows in groupby(self.log.streams_rows(stream_ids), key=lambda row: row[1]):
            stream_id = known_uuid(stream)
            events = [read(stream_id, version, name, state, position) for position, _, version, name, state in rows]
            aggregate = kind.fold(None, events)
            if aggregate is not None:
                found[stream_id] = aggregate
        return found

    def save(self, *objs: Any, **kwargs: Any) -> list[Recording[UUID]]:
        """Store what aggregates have recorded, and single events, in one commit with what `kwargs` say belongs to it.

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
        return self.events.put(events, **kwargs)

    def decode(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Recorded]:
        """Rows of the log as events with their positions."""
        read, recorded = self.codec.read, Recorded
        for position, stream, version, stored_name, state in rows:
            yield recorded(position, read(known_uuid(stream), version, stored_name, state, position))

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
