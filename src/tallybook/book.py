"""`tallybook.open` and what it returns: a book, with a desk for each kind of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import NAMESPACE_OID, UUID, uuid5

from pydantic import ValidationError

from tallybook.adapters import clock as real
from tallybook.adapters.application import BookApplication
from tallybook.adapters.gate import Gate
from tallybook.adapters.keys import Keyring
from tallybook.adapters.read_models import SQLiteReadModelStore
from tallybook.adapters.sqlite import LogRecorder
from tallybook.adapters.storage import READS_TABLE, Storage, open_storage
from tallybook.domain.customer import KeyCreated
from tallybook.domain.errors import BookClosed, refusal
from tallybook.domain.events import Metadata
from tallybook.domain.rules import RuleSet
from tallybook.projections.profiles import Profiles
from tallybook.projections.projector import Projector
from tallybook.projections.read_models import Progress, Recorded
from tallybook.projections.replay import DECISION_NAMES, FACT_NAMES, Backtest, Certificate, backtest, certify
from tallybook.projections.tiers import Tiers
from tallybook.projections.trail import Trail

from .customers import CustomerDesk
from .imports import ImportDesk
from .loyalty import LoyaltyDesk, RulesDesk
from .tickets import TicketDesk
from .times import When, as_of_us
from .views import AuditView, ProfilesView, ProjectionsView, TiersView

_acting: ContextVar[dict[str, Metadata]] = ContextVar("tallybook_acting")


class Core:
    """What the desks share: storage, application, gate, projector, clock. Not part of the public API."""

    def __init__(self, storage: Storage, now_us: Callable[[], int], new_id: Callable[[], UUID]) -> None:
        self.storage = storage
        self.origin = storage.origin
        self.book_id = uuid5(NAMESPACE_OID, storage.origin)
        self.now_us = now_us
        self.new_id = new_id
        self.closed = False
        self.keyring = Keyring(storage.keys, self._commitment)
        self.app = BookApplication(storage.datastore, self.keyring)
        self.gate = Gate(self.keyring, LogRecorder(storage.reads, READS_TABLE, storage.origin), new_id)
        self.store = SQLiteReadModelStore(storage.datastore)
        self.profiles, self.tiers, self.trail = Profiles(), Tiers(), Trail()
        self.projector = Projector(self.app, self.store, [self.profiles, self.tiers, self.trail])

    def check_open(self) -> None:
        """Raises BookClosed."""
        if self.closed:
            raise BookClosed("The book is closed.", path=self.storage.url, remedy="Open it again.")

    def acting_now(self) -> Metadata:
        """Who acts in this thread or task, and why. Refuses: acting_required."""
        acting = _acting.get({}).get(self.origin)
        if acting is None:
            raise refusal("acting_required", "Nobody is acting.")
        return acting

    def gate_metadata(self, acting: Metadata) -> Metadata:
        """The acting context, with the time of the read."""
        return acting.model_copy(update={"recorded_us": self.now_us()})

    def catch_up(self) -> None:
        """Bring the read models up to the head, so that a query sees every commit before it."""
        self.projector.catch_up()

    def known(self, known_at: When | int | None) -> Callable[[Recorded], bool]:
        """Whether the book knew an event by a time or a position (default: the head)."""
        if known_at is None:
            return lambda recorded: True  # noqa: ARG005 - everything is known
        if isinstance(known_at, int):
            last = known_at
            return lambda recorded: recorded.position <= last
        until_us = as_of_us(known_at, "known_at")
        return lambda recorded: recorded.event.metadata.recorded_us <= until_us

    def stream(self, stream_id: UUID) -> list[Recorded]:
        """All events of a stream."""
        read = self.app.codec.read
        return [
            Recorded(position, read(stream_id, version, name, state, position))
            for position, version, name, state in self.app.log.stream_rows(stream_id)
        ]

    def history(self, names: Sequence[str] = ()) -> Iterator[Recorded]:
        """All events of the book (or those of some stored names), in order."""
        return map(self.app.decode, self.app.log.iterate(topics=names))

    def reads(self) -> Iterator[Recorded]:
        """All recorded reads, in order."""
        return map(self.app.decode, self.gate.reads.iterate())

    def subject_history(self, subject: UUID) -> list[Recorded]:
        """All events about a subject, in order."""
        rows = self.store.select(self.trail, Trail.table, ["position"], "subject=? ORDER BY position", [subject.bytes])
        return self.at_positions([position for (position,) in rows])

    def at_positions(self, positions: Sequence[int]) -> list[Recorded]:
        """The events at positions."""
        return [self.app.decode(row) for row in self.app.log.rows_at(positions)]

    def _commitment(self, subject: UUID) -> bytes | None:
        rows = self.app.log.stream_rows(subject, limit=1)
        if not rows:
            return None
        position, version, name, state = rows[0]
        event = self.app.codec.read(subject, version, name, state, position)
        return event.commitment if isinstance(event, KeyCreated) else None


class Book:
    """One event log with its projections and keys. Threads may share it; so may processes, each with its own."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.customers = CustomerDesk(core)
        self.tickets = TicketDesk(core)
        self.loyalty = LoyaltyDesk(core)
        self.rules = RulesDesk(core)
        self.imports = ImportDesk(core)
        self.profiles = ProfilesView(core)
        self.tiers = TiersView(core)
        self.audit = AuditView(core)
        self.projections = ProjectionsView(core)

    @property
    def origin(self) -> str:
        """The book's name in its leaves: never changes."""
        return self._core.origin

    def position(self) -> int:
        """Position of the last event; 0 in an empty book."""
        self._core.check_open()
        return self._core.app.position()

    @contextmanager
    def acting(
        self,
        actor: str,
        *,
        purpose: str,
        on_behalf_of: str | None = None,
        channel: str | None = None,
        correlation_id: UUID | None = None,
    ) -> Iterator[None]:
        """Act as somebody, for a purpose, in this thread or task. May be nested; the inner one counts.

        Actor and purpose are surrogates (`agent:lin`, `support`), written in the clear. Refuses: invalid_argument.
        """
        try:
            acting = Metadata(
                recorded_us=0,
                actor=actor,
                purpose=purpose,
                on_behalf_of=on_behalf_of,
                channel=channel,
                correlation_id=correlation_id,
            )
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(map(str, problem["loc"]))
            raise refusal("invalid_argument", f"{name}: {problem['msg']}.", argument=name) from None
        token = _acting.set({**_acting.get({}), self._core.origin: acting})
        try:
            yield
        finally:
            _acting.reset(token)

    def replay(self, progress: Progress | None = None) -> Certificate:
        """Replay all facts under the rule sets then in force: does that reproduce the recorded decisions?"""
        core = self._core
        core.check_open()
        return certify(core.history((*FACT_NAMES, *DECISION_NAMES)), core.app.position(), progress)

    def backtest(
        self,
        candidate: RuleSet | str | Path,
        *,
        baseline: RuleSet | str | Path | None = None,
        progress: Progress | None = None,
    ) -> Backtest:
        """Replay all facts under a candidate and compare with the recorded rule sets (or `baseline`).

        Raises RuleSetError.
        """
        core = self._core
        core.check_open()
        rules = self.rules.rules_of(candidate)
        against = None if baseline is None else self.rules.rules_of(baseline)
        return backtest(core.history(FACT_NAMES), rules, against, core.app.position(), progress)

    def close(self) -> None:
        """Release all files. A closed book refuses every call."""
        if not self._core.closed:
            self._core.closed = True
            self._core.app.close()
            self._core.storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Book({self._core.storage.url!r})"


def open(  # noqa: A001 - the name of the front door
    url: str,
    *,
    create: bool = True,
    lock_timeout_s: int = 30,
    now_us: Callable[[], int] = real.now_us,
    new_id: Callable[[], UUID] = real.new_id,
) -> Book:
    """Open a book: `sqlite:///shop.book` (four slashes for an absolute path) or `memory:`.

    A book that is not there is made, unless `create` is False. `lock_timeout_s` is how long a command waits for
    another process's transaction. `now_us` (µs since 1970-01-01T00:00Z) and `new_id` take the place of clock and ids.
    Raises BookError and its kinds: BookNotFound, NotABook, NewerBook, BookReadOnly, KeysMissing.
    """
    return Book(Core(open_storage(url, create=create, lock_timeout_s=lock_timeout_s), now_us, new_id))
