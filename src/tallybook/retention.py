"""`book.retention`: how long what is kept, what is due, and the sweep that carries it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from tallybook.adapters import integrity, merkle
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.database import damaged
from tallybook.adapters.form import known_uuid
from tallybook.adapters.log import Pruned
from tallybook.domain.access import PersonalDataRead
from tallybook.domain.customer import Customer, CustomerRegistered, InteractionRecorded
from tallybook.domain.erasure import KEPT_KEY, ORDINARY_KEY, still_kept
from tallybook.domain.errors import refusal, text, whole
from tallybook.domain.events import CODE_CHARS_MAX, Event, from_us
from tallybook.domain.privacy import RelationEnded
from tallybook.domain.retention import (
    ACCESS_RECORDS,
    ACTIVITY,
    Action,
    Activity,
    Retention,
    Schedule,
    Since,
    activity,
    assess,
)
from tallybook.domain.ticket import Author, TicketReplied

from .commands import BoundCommand, Desk, Work, command
from .core import Core
from .erasing import KEYS, Erasing
from .times import When, as_of_us, iso

RESTRICTED = "restricted"
AT_ONCE = 500
"""So many erasures are recorded before their keys are destroyed."""
KEPT = "kept"
"""What an erasure kept, and need be kept no longer."""


@dataclass(frozen=True, slots=True)
class DueSubject:
    """A customer whose data is past its period. `ready`: due as a whole.

    Otherwise `waits_for` names what stands in the way: categories that no schedule lets go yet (a customer's data lies
    under one key), or `restricted`: data that is restricted is kept. `kept`: categories that an erasure leaves. Of
    customers who were erased, `due` is `kept`, once no schedule demands any more what was kept of them.
    """

    customer_id: UUID
    ready: bool
    due: tuple[str, ...]
    kept: tuple[str, ...]
    waits_for: tuple[str, ...]
    schedules: tuple[str, ...]
    last_activity_at: str | None


@dataclass(frozen=True, slots=True)
class Due:
    """What is due at a moment: customers, and how many records of reads are past their period."""

    at: str
    customers: tuple[DueSubject, ...]
    access_records: int

    @property
    def ready(self) -> tuple[DueSubject, ...]:
        """Those who are due as a whole."""
        return tuple(one for one in self.customers if one.ready)


@dataclass(frozen=True, slots=True)
class RetentionSweep:
    """What a sweep did. `left` were due when it began, and no more when their turn came.

    `access_records` were past their period when it began. `pruned`: up to this position the log of reads has no rows
    any more. Whole tiles of 256 go, once each record in them and before them is past its period. `unfinished` says
    what still waits, as an erasure's receipt does.
    """

    until: str
    due: int
    erased: int
    left: int
    access_records: int
    pruned: int = 0
    unfinished: tuple[str, ...] = ()


class RetentionDesk(Desk):
    """Retention schedules, and what they make due."""

    _name = "retention"
    _parts = {"_record": "sweep"}  # noqa: RUF012 - as declared in Desk

    def __init__(self, core: Core, erasing: Erasing) -> None:
        super().__init__(core)
        self._erasing = erasing

    @command
    def declare(
        self,
        work: Work,
        schedule: str,
        category: str,
        *,
        purpose: str,
        legal_basis: str,
        period: int,
        unit: str = "months",
        since: str = "recorded",
        action: str = "erase",
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> str:
        """Declare how long a category of personal data is kept, and for what; the schedule's name.

        `category`: identity, contact, transaction, communication, preference, all, or access_records. `unit`: days,
        months, years. `since`: recorded, last_activity, end_of_relation. `action`: erase (after that), or keep (until
        then, even where the customer is erased). Refuses: invalid_argument, schedule_declared.
        """
        text(schedule, "schedule")
        whole(period, "period", 1, 36_500)
        wanted = Schedule(schedule, category, purpose, legal_basis, period, unit, since, action)
        work.retention().declare(work.stamp, wanted)
        return schedule

    @command
    def withdraw(
        self, work: Work, schedule: str, *, effective_at: When | None = None, command_id: str | None = None
    ) -> None:
        """Take a schedule out of force. What erasures kept by it alone goes with the next sweep, before its time.

        Refuses: unknown_schedule.
        """
        work.retention().withdraw(work.stamp, schedule)

    def schedules(self) -> list[Schedule]:
        """The schedules in force, in the order in which they were declared."""
        core = self._core
        core.check_open()
        return list(core.app.load(Retention, core.retention_id).schedules)

    def due(self, at: When | None = None) -> Due:
        """What is past its period at a moment (default: now). Opens no personal data."""
        core = self._core
        core.check_open()
        core.catch_up(core.trail)
        at_us = core.now_us() if at is None else as_of_us(at, "at")
        schedules = core.app.load(Retention, core.retention_id).schedules
        with rarely_collecting():
            found = tuple(self._due(schedules, at_us))
        return Due(iso(at_us) or "", found, self._access_records_due(schedules, at_us))

    @property
    def sweep(self) -> BoundCommand[..., RetentionSweep]:
        """Erase every customer who is due as a whole at a moment (default: now), record the sweep, and delete the
        records of reads that are past their period.

        Each erasure is recorded by itself, and keys are destroyed in groups: a sweep that was cut short goes on when it
        is repeated. Of the log of reads the hashes stay, so that checkpoints and proofs stay valid. Nothing of it is
        deleted that was altered before: raises BookDamaged.
        `sweep(at=None, *, effective_at=None, command_id=None)`. Refuses: invalid_argument, effective_in_future.
        """
        return BoundCommand(self._sweep, RetentionDesk._sweep)

    def _sweep(
        self, at: When | None = None, *, effective_at: When | None = None, command_id: str | None = None
    ) -> RetentionSweep:
        core = self._core
        core.check_open()
        core.acting_now()
        now_us = core.now_us()
        until_us = now_us if at is None else as_of_us(at, "at")
        if until_us > now_us:
            raise refusal("effective_in_future", "at: nothing is due yet then.", effective_us=until_us, now_us=now_us)
        found = self.due(from_us(until_us))
        ready = found.ready
        erased = 0
        for one in ready:
            if KEPT in one.due:
                self._erasing.record_kept(one.customer_id)
            elif self._still_due(one, until_us):
                self._erasing.record(one.customer_id, reason=f"retention:{one.schedules[0]}"[:CODE_CHARS_MAX])
            else:
                continue
            erased += 1
            if not erased % AT_ONCE:
                self._erasing.destroy()
        # The wrapping key is rotated once for all of them: that takes time for each key of the book.
        completed = self._erasing.complete() if erased else None
        pruned = self._prunable(until_us)
        self._record(
            until_us,
            len(ready),
            erased,
            found.access_records,
            pruned.position,
            pruned.root.hex(),
            effective_at=effective_at,
            command_id=command_id,
        )
        reads = core.checkpoints["reads"].log
        # Once it is on record: rows that are gone without that are damage.
        if pruned.position and (pruned.position, pruned.root) in integrity.sweeps(core.app.log):
            reads.prune(pruned)
            reads.database.scrub()
        return RetentionSweep(
            found.at,
            len(ready),
            erased,
            len(ready) - erased,
            found.access_records,
            reads.pruned().position,
            () if completed is None else (*([KEYS] if completed.why else []), *completed.unfinished),
        )

    def _prunable(self, until_us: int) -> Pruned:
        """Up to where the records of reads can go, with the root there; nothing for none. Raises BookDamaged."""
        core = self._core
        checkpoints = core.checkpoints["reads"]
        log, tiles = checkpoints.log, checkpoints.tiles
        periods = self._access_periods(core.app.load(Retention, core.retention_id).schedules)
        last = before = log.pruned().position
        for position, event in core.reads() if periods else ():
            if not _is_past(periods, event, until_us):
                break
            last = position
        # The last record stays, whatever its age: the head must have a row.
        upto = min(last, log.position() - 1) // merkle.TILE * merkle.TILE
        if upto <= before:
            return Pruned()
        tiles.catch_up()
        kept = checkpoints if core.storage.vkey is not None else None
        found = integrity.verify("reads", log, checkpoints=kept, events=core.app.log)
        if found.problem is not None:
            raise damaged(f"The log of reads is not pruned: {found.problem}", core.storage.url)
        return Pruned(upto, tiles.reader(upto).root())

    def _still_due(self, one: DueSubject, until_us: int) -> bool:
        """Whether a customer did nothing since the sweep began."""
        core = self._core
        schedules = core.app.load(Retention, core.retention_id).schedules
        core.catch_up(core.trail)
        found = assess(schedules, [event for _, event in core.subject_events(one.customer_id)], until_us)
        return found.ready and not core.app.load(Customer, one.customer_id).restricted

    @command
    def _record(
        self,
        work: Work,
        until_us: int,
        due: int,
        erased: int,
        access_records: int,
        reads_pruned: int,
        reads_root: str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        work.retention().sweep(
            work.stamp,
            until_us,
            due=due,
            erased=erased,
            access_records=access_records,
            reads_pruned=reads_pruned,
            reads_root=reads_root,
        )

    def _due(self, schedules: tuple[Schedule, ...], at_us: int) -> Iterator[DueSubject]:
        core = self._core
        gone = {known_uuid(subject) for subject, key_id, _ in core.app.log.erasures() if key_id == ORDINARY_KEY}
        yield from self._kept_too_long(schedules, gone, at_us)
        erasing = [one for one in schedules if one.action == Action.ERASE and one.category != ACCESS_RECORDS]
        if not erasing:
            return
        by_recording = any(one.since == Since.RECORDED for one in erasing)
        for subject, when in self._activities().items():
            # Cheap first: where every period runs from the last activity or the end, most are not due.
            past = (one.ends_us(at_us, when) for one in erasing)
            if subject in gone or not (by_recording or any(end is not None and end <= at_us for end in past)):
                continue
            found = assess(schedules, [event for _, event in core.subject_events(subject)], at_us)
            if found.due:
                held = (RESTRICTED,) if core.app.load(Customer, subject).restricted else ()
                waits_for = (*found.waiting, *held)
                yield DueSubject(
                    subject,
                    found.ready and not held,
                    found.due,
                    found.kept,
                    waits_for,
                    found.schedules,
                    iso(when.last_us),
                )

    def _activities(self) -> dict[UUID, Activity]:
        """When each customer was last active, and when the relation ended: from a scan of clear fields."""
        app = self._core.app
        last: dict[bytes, int] = {}
        ended: dict[bytes, int] = {}
        customers = {subject for _, (subject,) in app.scan(CustomerRegistered, ["subject_id"])}
        told_by: dict[type, tuple[str, str]] = {
            InteractionRecorded: ("direction", "in"),
            TicketReplied: ("author", Author.CUSTOMER.value),
        }
        for kind in (*ACTIVITY, RelationEnded):
            field, wanted = told_by.get(kind, ("", ""))
            held = ended if kind is RelationEnded else last
            for _, (subject, effective_us, *said) in app.scan(
                kind, ["subject_id", "effective_us", *([field] if field else [])]
            ):
                if subject in customers and (not field or said == [wanted]):
                    held[subject] = max(held.get(subject, effective_us), effective_us)
        return {known_uuid(subject): activity(last.get(subject, -(2**62)), ended.get(subject)) for subject in customers}

    def _kept_too_long(self, schedules: tuple[Schedule, ...], erased: set[UUID], at_us: int) -> Iterator[DueSubject]:
        """Customers who were erased, and of whom no schedule demands any more to keep what was kept."""
        for subject in sorted(erased):
            customer = self._core.app.load(Customer, subject)
            if customer.kept_until_us is None or KEPT_KEY in customer.erased:
                continue
            if still_kept(schedules, self._core.subject_events(subject), at_us) is None:
                yield DueSubject(subject, True, (KEPT,), (), (), (KEPT,), None)

    def _access_records_due(self, schedules: tuple[Schedule, ...], at_us: int) -> int:
        periods = self._access_periods(schedules)
        if not periods:
            return 0
        return sum(
            1
            for _, event in self._core.reads()
            if isinstance(event, PersonalDataRead) and _is_past(periods, event, at_us)
        )

    @staticmethod
    def _access_periods(schedules: tuple[Schedule, ...]) -> list[Schedule]:
        return [one for one in schedules if one.category == ACCESS_RECORDS]


def _is_past(periods: Sequence[Schedule], event: Event, at_us: int) -> bool:
    """Whether a record of a read is past its period at a moment."""
    return any((one.ends_us(event.metadata.recorded_us, _NEVER) or at_us + 1) <= at_us for one in periods)


_NEVER = Activity(-(2**62))
