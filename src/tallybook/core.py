"""What the desks of one book share."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from eventsourcing.persistence import PersistenceError

from tallybook.adapters import integrity, merkle
from tallybook.adapters.application import BookApplication, InlineError
from tallybook.adapters.checkpoints import (
    DEFAULT_CHECKPOINT_S,
    Checkpoints,
    History,
    Stored,
    TailTimer,
    signed_by,
)
from tallybook.adapters.codec import subject_of
from tallybook.adapters.database import SCRUB_S, Session, damaged
from tallybook.adapters.form import unvalidated, uuid_from
from tallybook.adapters.gate import Gate, Told
from tallybook.adapters.keys import Keyring
from tallybook.adapters.log import Fresh, OwnStreams, check_stream, log_of, missing
from tallybook.adapters.policy_files import decider_of
from tallybook.adapters.read_models import TableReadModelStore
from tallybook.adapters.storage import READS_TABLE, Storage
from tallybook.adapters.tiles import TileStore
from tallybook.domain.access import Standing
from tallybook.domain.aggregate import Stamp
from tallybook.domain.customer import Customer, KeyCreated
from tallybook.domain.erasure import DESTROYING, ORDINARY_KEY, ValueResealed, newest_of
from tallybook.domain.errors import BookClosed, BookError, KeysMissing, Refused, TallybookError, refusal, whole
from tallybook.domain.events import REGISTRY, Metadata
from tallybook.domain.operations import Operations
from tallybook.domain.personal import Personal
from tallybook.domain.policy import ALLOW, DENY, InForce, Policy, PolicyHistory, Verdict, out_of_hours
from tallybook.domain.privacy import Objected, ObjectionTo, Restricted, RestrictionLifted
from tallybook.domain.retention import RetentionSwept
from tallybook.projections.balances import Balances
from tallybook.projections.exclusions import EXCLUDING, Exclusions, Notice, exclusions
from tallybook.projections.profiles import Profiles
from tallybook.projections.projector import Projector
from tallybook.projections.read_models import ReadModel, Recorded
from tallybook.projections.tiers import Tiers
from tallybook.projections.trail import Trail

from .times import When, as_of_us

RESERVED = "system:"
"""What the book does by itself is done by an actor whose name begins so. No host can take such a name."""
LOOKING = Stamp(Metadata(recorded_us=0, actor="system:look", purpose="look"), 0, lambda: UUID(int=0))
"""For what is derived to be looked at, and recorded nowhere."""
RECORDED_US = list(Metadata.model_fields).index("recorded_us")
"""Where it stands in the metadata that a scan of the log gives."""

_TOLD = [one.stored_name for one in (*DESTROYING, ValueResealed)]

logger = logging.getLogger("tallybook.projections")


class Core:
    """What the desks share: storage, application, gate, projector, clock. Not part of the public API."""

    def __init__(
        self,
        storage: Storage,
        now_us: Callable[[], int],
        new_id: Callable[[], UUID],
        inline: Sequence[str] = (),
        checkpoint_s: float = DEFAULT_CHECKPOINT_S,
        archive: str | Path | None = None,
    ) -> None:
        self.storage = storage
        self.archive = archive
        """Where the archive is, if the book was opened with a place of its own."""
        self.origin = storage.origin
        own = OwnStreams.of(storage.origin)
        self.book_id, self.operations_id, self.retention_id, self.policy_id, self.signing_id = own
        self.verified: frozenset[UUID] = frozenset()
        """Subjects of whom a sweep that goes on has seen that log and index tell all."""
        self.now_us = now_us
        self.new_id = new_id
        self.closed = False
        self.keyring = Keyring(storage.keys, self._commitment, self._ordinary_key)
        self.app = BookApplication(storage.events, self.keyring)
        reads = log_of(storage.reads, storage.keys, READS_TABLE)
        self.gate = Gate(
            self.keyring, reads, new_id, self.app.log, self.policy, self.standings, self.address_now, self.check_erased,
            self.told,
        )  # fmt: skip
        self.store = TableReadModelStore(storage.models)
        self.profiles, self.tiers, self.trail, self.balances = Profiles(), Tiers(), Trail(), Balances()
        models: list[ReadModel] = [self.profiles, self.tiers, self.trail, self.balances]
        self.projector = Projector(self.app, self.store, models, self.operations)
        if inline:
            self.app.events_inline(Inline(self, inline))
        self.checkpoints = {
            log: Checkpoints(TileStore(recorder), name, self.signed_by, storage.signing, now_us, checkpoint_s)
            for log, recorder, name in (
                ("events", self.app.log, storage.origin),
                ("reads", reads, f"{storage.origin}/reads"),
            )
        }
        """Of each of the two logs."""
        for checkpoints in self.checkpoints.values():
            checkpoints.log.fresh = Fresh()
            checkpoints.log.committed = checkpoints.after_commit
        self.tail_timer = TailTimer(list(self.checkpoints.values()))
        if storage.signing is not None:
            self.finish_rotation()

    def signed_by(self) -> History:
        """The public keys of the book, in their order. Raises BookDamaged, and BookError for a book that has none."""
        return signed_by(self.app.log, self.storage.vkey)

    def finish_rotation(self) -> None:
        """See that the present key is at hand, and finish a rotation that was cut short. Raises SigningKeyMissing."""
        signing = self.storage.signing
        assert signing is not None
        history = self.signed_by()
        signer = signing.signer(history.now)
        if len(history.vkeys) > 1 and signing.writable and len(signing.signers()) > 1:
            for one in self.checkpoints.values():
                one.sign()
            signing.put(signer)

    def heartbeat(self) -> None:
        """Sign the logs' heads where their last checkpoints are too old."""
        for one in self.checkpoints.values():
            one.heartbeat()

    def look_at_heads(self) -> bool:
        """See where the logs stand: from here on, they don't go back behind that. Whether the events' can be gone on
        with."""
        for one in self.checkpoints.values():
            one.at_open()
        try:
            self.app.log.position()
        except (TallybookError, PersistenceError):
            return False
        return True

    def last_checkpoints(self) -> None:
        """Sign what was added since the last checkpoints. Nothing of it in the middle of this thread's own work: a
        signal handler that closes the book would wait for itself."""
        self.tail_timer.stop()
        for one in self.checkpoints.values():
            if not one.log.database.in_use_here():
                one.at_close()

    def check_open(self) -> None:
        """Raises BookClosed."""
        if self.closed:
            raise BookClosed("The book is closed.", path=self.storage.url, remedy="Open it again.")

    def check_keys(self) -> None:
        """Raises KeysMissing in a book that is open without its data keys: it can be verified, and not worked with."""
        if self.storage.keyless:
            raise KeysMissing(
                f"The book {self.storage.url} is open without its data keys: it takes no command.",
                path=self.storage.url,
                remedy="Put back its keys, and open it again.",
            )

    def acting_now(self) -> Metadata:
        """Who acts in this thread or task, and why. Refuses: acting_required."""
        acting = ACTING.get({}).get(self)
        if acting is None:
            raise refusal("acting_required", "Nobody is acting.")
        return acting.metadata

    def somebody_acts(self) -> bool:
        """Whether anybody does, in this thread or task."""
        return self in ACTING.get({})

    def address_now(self) -> str | None:
        """Where the request comes from, if the host said so: for the log of reads alone."""
        acting = ACTING.get({}).get(self)
        return None if acting is None else acting.address

    @contextmanager
    def acting(self, acting: Acting) -> Iterator[None]:
        """Act as somebody, for a purpose, in this thread or task."""
        before = ACTING.get({})
        ACTING.set({**before, self: acting})
        try:
            yield
        finally:
            # Only this book's entry, and only if it is still ours: a context that is left late, or by the garbage
            # collector, must not bring back an actor who has gone.
            held = dict(ACTING.get({}))
            if held.get(self) is acting:
                held.pop(self)
                if self in before:
                    held[self] = before[self]
                ACTING.set(held)

    def gate_metadata(self, acting: Metadata) -> Metadata:
        """The acting context, with the time of the read."""
        return unvalidated(Metadata, {**acting.__dict__, "recorded_us": self.now_us()})

    def policy(self, *, newest: bool = True) -> Policy:
        """The access policy and the roles, in force now; without `newest`, as this process saw them last."""
        return self.app.load(Policy, self.policy_id, newest=newest)

    def policies(self) -> PolicyHistory:
        """Which access policy was in force at which place of the log."""
        return PolicyHistory(self.stream(self.policy_id))

    def verdict(self, policy: Policy, in_force: InForce, acting: Metadata, command: str) -> Verdict:
        """Whether the policy in force lets somebody give a command now."""
        if ACTING.get({})[self].by_book:
            return Verdict(ALLOW)
        now_us, decider = self.now_us(), decider_of(in_force)
        if out_of_hours(decider.purposes.get(acting.purpose), now_us, in_force.zone):
            return Verdict(DENY)
        return decider.command(policy.roles_of(acting.actor, now_us), acting.purpose, command)

    def standings(
        self, subjects: Sequence[UUID], consent: str | None, *, newest: bool = True
    ) -> Mapping[UUID, Standing]:
        """Whose data is restricted, and who has given the consent of a purpose; who is left out: neither.

        Without `newest`, a single subject may be as this process saw it last, and has its version.
        """
        now_us = self.now_us()
        alone = len(subjects) == 1
        if alone:
            customers = {subjects[0]: self.app.load(Customer, subjects[0], newest=newest)}
        else:
            customers = self.app.load_many(Customer, subjects)
        return {
            subject: Standing(
                one.restricted,
                None if consent is None else one.text_version_for(consent, now_us),
                one.version if alone and not newest else None,
            )
            for subject, one in customers.items()
        }

    def clear_after_erasure(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Bring what follows the log up to it, and overwrite what was deleted. What was done, by place, and what of it
        waits for others.
        """
        waits = []
        models = "hold no personal value, and are brought up to the log"
        try:
            self.projector.catch_up()
        except (BookError, Refused) as error:
            models = f"hold no personal value, and are not brought up to the log yet: {error.message}"
            waits.append("read models")
        rows, finished = self.overwrite_deleted()
        if not finished:
            waits.append("deleted rows")
        return {
            "look-ups": "released in the commit of the erasure; their hashes in older copies of the book can be "
            "compared with guesses by whoever has the look-up key, which stays",
            "caches": "forgotten; every read asks the log first, in all processes",
            "read models": models,
            "snapshots": "hold no personal value",
            "deleted rows": rows,
        }, tuple(waits)

    def overwrite_deleted(self, wait_s: float = SCRUB_S) -> tuple[str, bool]:
        """Overwrite what was deleted in the log's database and that of the read models. What became of it, and
        whether nothing is left to be done here.
        """
        databases = list(dict.fromkeys((self.storage.events, self.storage.models)))
        try:
            held = [one.place for one in databases if one.overwrites and not one.scrub(wait_s)]
        except (BookError, Refused) as error:
            return f"not overwritten yet: {error.message}", False
        if held:
            return f"overwritten, but for the journal of {' and '.join(held)}, which somebody is reading", False
        if not all(one.overwrites for one in databases):
            return (
                "stay in the server's pages, log and backups until it drops them: wrapped keys, which open nothing "
                "without their wrapping key, and hashes of look-ups and of arguments of commands",
                True,
            )
        return "overwritten", True

    def check_erased(self, subject: UUID, key_id: int) -> None:
        """Raises BookDamaged, where the table of erasures names a subject whose own stream tells of no erasure."""
        if key_id not in self.app.load(Customer, subject).erased_keys:
            raise damaged(
                f"The table erased names {subject}, of whom the log tells no erasure", self.app.database.place
            )

    def told(self, subjects: Iterable[UUID]) -> Told:
        """Which keys of subjects the log says to be destroyed, and what was sealed anew: one query for a hundred."""
        rows = self.app.log.named_rows(list(subjects), _TOLD)
        erased: set[tuple[UUID, int]] = set()
        resealed: dict[tuple[UUID, UUID, str], Personal[Any]] = {}
        for subject, recorded in groupby(self.app.decode(rows), key=lambda one: one.event.originator_id):
            events = [event for _, event in recorded]
            erased |= {(subject, key_id) for one in events if isinstance(one, DESTROYING) for key_id in one.key_ids}
            newest = newest_of(one for one in events if isinstance(one, ValueResealed))
            resealed.update(((subject, *place), handle) for place, handle in newest.items())
        return Told(erased, resealed)

    def proof_of(self, position: int, under: Stored | None = None) -> tuple[str, str | None]:
        """An event's leaf (base64), and a tlog-proof of it, by default under a checkpoint of now; None in a book that
        signs nothing."""
        checkpoints = self.checkpoints["events"]
        [row] = self.app.log.rows_at([position])
        leaf = b64encode(merkle.leaf(self.origin, *row)).decode()
        if self.storage.signing is None:
            return leaf, None
        return leaf, checkpoints.proof(position, under or checkpoints.sign()).text

    def operations(self) -> Operations:
        """What was decided about read models."""
        return self.app.load(Operations, self.operations_id)

    def catch_up(self, *models: ReadModel) -> None:
        """Bring read models up to the head, so that a query of these sees every commit before it.

        Refuses: read_model_stopped, busy.
        """
        for model in models:
            self.projector.require(model)

    def known(self, known_at: When | int | None, name: str = "known_at") -> Callable[[Recorded], bool]:
        """Whether the book knew an event by a time or a position (default: the head)."""
        known = self.known_at(known_at, name)
        return lambda recorded: known(recorded.position, recorded.event.metadata.recorded_us)

    def known_at(self, known_at: When | int | None, name: str = "known_at") -> Callable[[int, int], bool]:
        """The same by the event's position and the time when it was recorded."""
        if known_at is None:
            return lambda position, recorded_us: True  # noqa: ARG005 - everything is known
        if isinstance(known_at, int):
            last = whole(known_at, name, 0, 2**62)
            return lambda position, recorded_us: position <= last  # noqa: ARG005 - the place decides
        until_us = as_of_us(known_at, name)
        return lambda position, recorded_us: recorded_us <= until_us  # noqa: ARG005 - the time decides

    def time_of(self, known_at: When | int | None) -> int:
        """The time at which the book knew what it knew by a time or a position (default: now)."""
        if known_at is None:
            return self.now_us()
        if not isinstance(known_at, int):
            return as_of_us(known_at, "known_at")
        position = min(whole(known_at, "known_at", 0, 2**62), self.app.position())
        return max([0, *(one.event.metadata.recorded_us for one in self.at_positions([position] if position else []))])

    def holders(self, claims: Sequence[bytes]) -> dict[bytes, UUID]:
        """Who holds each of many claims; free ones are left out. Raises BookDamaged."""
        found = self.app.log.holders(claims)
        try:
            return {claim: uuid_from(holder) for claim, holder in found.items()}
        except ValueError as error:
            raise damaged("A holder in the table claims is no id", self.app.database.place) from error

    def customer_of(self, claim: bytes) -> UUID | None:
        """The customer who holds a claim. Raises BookDamaged where the log knows of none."""
        holder = self.holders([claim]).get(claim)
        if holder is not None and not self.app.log.stream_rows(holder, limit=1):
            raise damaged(f"A row of the table claims names {holder}, who is not in the log", self.app.database.place)
        return holder

    def stream(self, stream_id: UUID) -> list[Recorded]:
        """All events of a stream."""
        read = self.app.codec.read
        rows = self.app.log.stream_rows(stream_id)
        if rows:
            check_stream(stream_id, rows[-1][1], len(rows), self.app.database.place)
        return [
            Recorded(position, read(stream_id, version, name, state, position))
            for position, version, name, state in rows
        ]

    def history(self, names: Sequence[str] = (), until: int | None = None) -> Iterator[Recorded]:
        """All events of the book (or those of some stored names; or up to a position), in order."""
        return self.app.decode(self.app.log.iterate(stop=until, topics=names))

    def reads(self) -> Iterator[Recorded]:
        """All recorded reads, in order."""
        return self.app.decode(self.gate.reads.iterate())

    def reads_pruned(self) -> Pruning | None:
        """Up to where records of reads were deleted after their time; None: all that were ever made are there."""
        last = self.checkpoints["reads"].log.pruned().position
        for position, event in self.history([RetentionSwept.stored_name]) if last else ():
            if isinstance(event, RetentionSwept) and event.reads_pruned == last:
                return Pruning(last, event.metadata.recorded_us, position)
        return None

    def left_out(self, at_us: int, known: Callable[[int, int], bool]) -> Exclusions:
        """Who is left out of scoring at a moment, as the book knew it: from a scan of four kinds of facts."""

        def notices() -> Iterator[Notice]:
            for position, event in self.history([kind.stored_name for kind in EXCLUDING]):
                restricts = isinstance(event, (Restricted, RestrictionLifted))
                holds = isinstance(event, (Restricted, Objected))
                about = restricts or getattr(event, "to", None) == ObjectionTo.AUTOMATED_DECISIONS
                if about and event.effective_us <= at_us and known(position, event.metadata.recorded_us):
                    assert event.subject_id is not None  # they are all about somebody
                    yield Notice(position, event.subject_id, restricts, holds)

        return exclusions(notices())

    def subject_history(self, subject: UUID) -> list[Recorded]:
        """All events about a subject, in order."""
        return list(self.subject_events(subject))

    def subject_events(self, subject: UUID) -> Iterator[Recorded]:
        """The same one by one, for those who keep none of them."""
        rows = self.store.select(self.trail, Trail.table, ["position"], "subject=? ORDER BY position", [subject.bytes])
        return self.at([position for (position,) in rows])

    def whole_history(self, subject: UUID) -> list[Recorded]:
        """All events about a subject, found in the log itself, whatever the index of the trail says: for what is
        destroyed, and for what is evidence. Goes through all of the log: a second for a million events or two.
        """
        # An event holds the ids of those whom it is about as they are.
        found = self.at(self.app.log.holding(subject.bytes))
        return [recorded for recorded in found if subject in recorded.event.subject_ids()]

    def commands_about(self, subject: UUID) -> list[bytes]:
        """The ids, as receipts have them, of the commands with an id that recorded something about a subject.

        By the trail's index; where that can't be used, from the log itself, which takes longer.
        """

        def ids(history: Iterable[Recorded]) -> list[bytes]:
            given = (recorded.event.metadata.command_id for recorded in history)
            return list(dict.fromkeys(one.bytes for one in given if one is not None))

        try:
            self.catch_up(self.trail)
            return ids(self.subject_events(subject))
        except (BookError, Refused):
            return ids(self.at(self.app.log.holding(subject.bytes)))

    def check_index(self, subjects: Iterable[UUID]) -> None:
        """Raises BookDamaged where the trail's index lacks an event about one of many subjects: in one pass."""
        wanted = {subject.bytes: set[int]() for subject in subjects}
        for position, _, _, _, state in self.app.log.iterate():
            about = subject_of(state)
            if about in wanted:
                wanted[about].add(position)
        several = [name for name, kind in REGISTRY.items() if kind.event_class.other_subjects]
        for position, event in self.history(several):
            for one in event.subject_ids():
                if one.bytes in wanted:
                    wanted[one.bytes].add(position)
        self.catch_up(self.trail)  # now, that it can't be behind what was seen
        for subject, positions in wanted.items():
            rows = self.store.select(self.trail, Trail.table, ["position"], "subject=?", [subject])
            if lacking := positions - {position for (position,) in rows}:
                raise damaged(
                    f"The read model trail lacks the event at position {min(lacking)}, which is about "
                    f"{uuid_from(subject)}",
                    self.storage.url,
                    "Rebuild it: `tallybook projections rebuild trail`. See `tallybook audit verify --read-models`.",
                )

    def check_events(self) -> None:
        """Raises BookDamaged where the log of events is not what its head, its tiles and its checkpoints tell."""
        checkpoints = self.checkpoints["events"]
        kept = checkpoints if self.storage.vkey is not None else None
        found = integrity.verify("events", self.app.log, checkpoints=kept, events=self.app.log)
        if found.problem is not None:
            raise damaged(f"Nothing is erased: of the log of events, {found.problem}", self.storage.url)

    def opened(
        self, acting: Metadata, action: str, history: Sequence[Recorded], subject: UUID
    ) -> list[dict[str, object]]:
        """The personal values of events, by field, for each of them: one recorded read."""
        handles = {
            (recorded.position, name): handle
            for recorded in history
            for name in recorded.event.personal_fields
            if (handle := getattr(recorded.event, name)) is not None
        }
        values = self.gate.open(self.gate_metadata(acting), action, handles, [subject])
        return [
            {
                name: values[recorded.position, name]
                for name in recorded.event.personal_fields
                if (recorded.position, name) in values
            }
            for recorded in history
        ]

    def at_positions(self, positions: Sequence[int]) -> list[Recorded]:
        """The events at positions."""
        return list(self.at(positions))

    def at(self, positions: Sequence[int]) -> Iterator[Recorded]:
        """The same one by one. Raises BookDamaged where one is missing."""
        wanted = iter(positions)
        for recorded in self.app.decode(self.app.log.rows_at(positions)):
            if (position := next(wanted)) != recorded.position:
                raise missing(position, self.storage.url)
            yield recorded
        for position in wanted:
            raise missing(position, self.storage.url)

    def _ordinary_key(self, subject: UUID) -> int:
        return self.app.load(Customer, subject).ordinary_key

    def _commitment(self, subject: UUID, key_id: int) -> bytes | None:
        if key_id != ORDINARY_KEY:
            return self.app.load(Customer, subject).commitments.get(key_id)
        rows = self.app.log.stream_rows(subject, limit=1)
        if not rows:
            return None
        position, version, name, state = rows[0]
        event = self.app.codec.read(subject, version, name, state, position)
        return event.commitment if isinstance(event, KeyCreated) and event.key_id == key_id else None


class Inline:
    """Folds some read models in the transaction of each command."""

    def __init__(self, core: Core, names: Sequence[str]) -> None:
        known = [model.name for model in core.projector.models]
        for name in names:
            if name not in known:
                raise BookError(
                    f"There is no read model {name!r}; there are {', '.join(known)}.", path=core.storage.url
                )
        if core.storage.models is not core.storage.events:
            raise BookError(
                "Read models that live in another database can't be kept in the transaction of the events.",
                path=core.storage.url,
                remedy="Open the book without `inline`, or with its read models in the log's database.",
            )
        self._core = core
        self._names = tuple(names)

    def before(self) -> Callable[[Session, int, Sequence[Recorded]], None]:
        """What folds the events of a commit in it."""
        core, names = self._core, self._names
        operations = core.operations()

        def fold(session: Session, after: int, events: Sequence[Recorded]) -> None:
            try:
                core.projector.fold_in(session, operations, after, events, names)
            except Exception as error:
                raise InlineError from error

        return fold

    def after(self) -> None:
        """Catch up what could not be folded in the commit. What is committed stands, whatever happens here."""
        try:
            self._core.projector.catch_up(names=self._names)
        except (TallybookError, PersistenceError):
            logger.warning("Read models kept inline could not be caught up after a commit.", exc_info=True)


class Pruning(NamedTuple):
    """A sweep that deleted the records of reads up to a position: when, and where in the log of events it stands."""

    reads: int
    at_us: int
    position: int


class Acting(NamedTuple):
    """Who acts, and where from: the address is in records of reads alone, never in the events of commands."""

    metadata: Metadata
    address: str | None = None
    by_book: bool = False
    """The book acts by itself, as the law of its log demands; no access policy forbids that. No host can say so."""


ACTING: ContextVar[dict[Core, Acting]] = ContextVar("tallybook_acting")
"""Who acts in this thread or task, in which open book."""
