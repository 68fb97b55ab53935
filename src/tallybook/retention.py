"""`book.retention`: how long what is kept, what is due, and the sweep that carries it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from tallybook.adapters import integrity, merkle
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.database import damaged
from tallybook.adapters.form import known_uuid
from tallybook.adapters.log import Pruned
from tallybook.domain.access import PersonalDataRead
from tallybook.domain.customer import (
    Customer,
    CustomerRegistered,
    IdentifierLinked,
    IdentifierRemoved,
    InteractionRecorded,
    PurchaseRecorded,
)
from tallybook.domain.erasure import KEPT_KEY, ValueResealed, erase_values, held_of, still_kept
from tallybook.domain.errors import Refused, refusal, text, whole
from tallybook.domain.events import CODE_CHARS_MAX, Event, from_us
from tallybook.domain.privacy import RelationEnded
from tallybook.domain.retention import (
    ACCESS_RECORDS,
    ACTIVITY,
    Action,
    Activity,
    Assessment,
    Held,
    Retention,
    Schedule,
    activity,
    activity_of,
    assess,
    unscheduled,
)
from tallybook.domain.ticket import Author, TicketReplied
from tallybook.projections.read_models import Recorded

from .commands import BoundCommand, Desk, Work, command
from .core import RECORDED_US, Core
from .customers import identifier_claim, order_claim
from .erasing import KEYS, Erasing, opened_again
from .times import When, as_of_us, iso

AT_ONCE = 500
"""After so many customers the keys of those who were erased are destroyed."""
KEPT = "kept"
"""What an erasure kept, and need be kept no longer."""


@dataclass(frozen=True, slots=True)
class DueSubject:
    """A customer of whom something is past its period, by category: `due`, with the number of `values` of each.

    `ready`: the next sweep erases it; otherwise `waits_for` names why not (`restricted`: data that is restricted is
    kept; `request`: a data-subject request other than one for erasure waits for its answer). `whole`: the customer is
    erased; otherwise these values are, and all others are sealed anew. `stays`: categories of values that are not due,
    `kept`: of those that must be kept. Of customers who were erased, `due` is `kept`, once what was kept of them has
    had its time.
    """

    customer_id: UUID
    ready: bool
    whole: bool
    due: tuple[str, ...]
    values: Mapping[str, int]
    kept: tuple[str, ...]
    stays: tuple[str, ...]
    waits_for: tuple[str, ...]
    schedules: tuple[str, ...]
    last_activity_at: str | None

    def due_text(self) -> str:
        """What is due, in words."""
        return ", ".join(f"{category}: {count:,}" for category, count in self.values.items())


@dataclass(frozen=True, slots=True)
class Due:
    """What is due at a moment: customers, and how many records of reads are past their period.

    `unscheduled`: categories of personal data that no schedule is about: nothing ever makes them due.
    """

    at: str
    customers: tuple[DueSubject, ...]
    access_records: int
    unscheduled: tuple[str, ...]

    @property
    def ready(self) -> tuple[DueSubject, ...]:
        """Those of whom the next sweep erases something."""
        return tuple(one for one in self.customers if one.ready)

    @property
    def values(self) -> Mapping[str, int]:
        """How many values are past their period, by category."""
        found: Counter[str] = Counter()
        for one in self.customers:
            found.update(one.values)
        return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class RetentionSweep:
    """What a sweep did. Of the customers who were `due` when it began, it `erased` some as a whole, and of others
    (`partly`) single `values`; `left` were due no more when their turn came, or others wrote of them all the time:
    those are for the next sweep.

    `access_records` were past their period when it began. `pruned`: up to this position the log of reads has no rows
    any more. Whole tiles of 256 go, once each record in them and before them is past its period. `unscheduled`:
    categories of personal data that no schedule is about. `unfinished` says what still waits, as an erasure's receipt
    does.
    """

    until: str
    due: int
    erased: int
    partly: int
    values: int
    left: int
    access_records: int
    pruned: int = 0
    unscheduled: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()


class _Sweeping(Erasing):
    """The erasures of a sweep: whoever may sweep may give them."""

    _name = "retention"
    _parts = dict.fromkeys(Erasing._parts, "sweep")


class RetentionDesk(Desk):
    """Retention schedules, and what they make due."""

    _name = "retention"
    _parts = {"_record": "sweep", "_erase_values": "sweep"}  # noqa: RUF012 - as declared in Desk

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._erasing = _Sweeping(core)

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
        """Take a schedule out of force. Refuses: unknown_schedule."""
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
        return Due(iso(at_us) or "", found, self._access_records_due(schedules, at_us), unscheduled(schedules))

    @property
    def sweep(self) -> BoundCommand[..., RetentionSweep]:
        """Erase what is past its period at a moment (default: now), record the sweep, and delete the records of reads
        that are past theirs.

        Who is due as a whole is erased. Of all others, single values are: what stays is sealed anew under another key,
        once for each customer and sweep, and the old key is destroyed. Each is recorded by itself, and keys are
        destroyed in groups: a sweep that was cut short goes on when it is repeated. Of the log of reads the hashes
        stay, so that checkpoints and proofs stay valid. Nothing of it is deleted that was altered before: raises
        BookDamaged. Before anything is erased, the log of events is verified, and that the index of the trail has all
        events about those who are due: a few seconds for a million events. Where not, nothing is: raises BookDamaged.
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
        if ready:
            # What can't be undone rests on schedules and histories that nobody altered, and on all of them.
            core.check_events()
            core.check_index(one.customer_id for one in ready)
        core.verified = frozenset(one.customer_id for one in ready)
        try:
            return self._carry_out(found, until_us, effective_at, command_id)
        finally:
            core.verified = frozenset()

    def _carry_out(
        self, found: Due, until_us: int, effective_at: When | None, command_id: str | None
    ) -> RetentionSweep:
        core = self._core
        ready = found.ready
        erased = partly = values = 0
        for number, one in enumerate(ready, 1):
            if KEPT in one.due:
                self._erasing.record_kept(one.customer_id)
                erased += 1
            else:
                due = self._assessed(one.customer_id, until_us)
                if due is not None and due.whole:
                    erased += self._whole(one.customer_id, f"retention:{due.schedules[0]}"[:CODE_CHARS_MAX])
                elif due is not None and due.due:
                    gone = self._values_of(one.customer_id, until_us)
                    partly += gone > 0
                    values += gone
            if number % AT_ONCE == 0:
                self._erasing.destroy()
        # The wrapping key is rotated once for all of them: that takes time for each key of the book.
        completed = self._erasing.complete(*(one.customer_id for one in ready)) if erased + partly else None
        pruned = self._prunable(until_us)
        self._record(
            until_us,
            [len(ready), erased, partly, values],
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
            partly,
            values,
            len(ready) - erased - partly,
            found.access_records,
            reads.pruned().position,
            found.unscheduled,
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

    def _assessed(self, customer_id: UUID, until_us: int) -> Assessment | None:
        """What is due of a customer as things stand; None for one who waits for something, or was erased."""
        core = self._core
        schedules = core.app.load(Retention, core.retention_id).schedules
        core.catch_up(core.trail)
        customer = core.app.load(Customer, customer_id)
        if customer.holds or customer.erased:
            return None
        history = core.subject_history(customer_id)
        when = activity_of(event for _, event in history)
        return assess(schedules, held_of(customer_id, history, customer.erased_keys), when, until_us)

    def _whole(self, customer_id: UUID, reason: str) -> bool:
        """Whether a customer was erased; not, where somebody restricted them or recorded a request meanwhile."""
        try:
            self._erasing.record(customer_id, reason=reason)
        except Refused as refused:
            if refused.code != "erasure_held":
                raise
            return False
        return True

    def _values_of(self, customer_id: UUID, until_us: int) -> int:
        """How many values of a customer were erased; none, where others write of them all the time."""
        try:
            return self._erase_values(customer_id, until_us)
        except Refused as refused:
            if refused.code != "conflict":
                raise
            return 0

    @command
    def _erase_values(
        self,
        work: Work,
        customer: UUID,
        until_us: int,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """Erase the values of a customer that are past their period, and seal all others anew; how many went."""
        draft = work.customer(customer)
        if draft.holds or draft.erased:
            return 0
        schedules = work.retention().schedules
        history = work.history_of(customer)
        when = activity_of(event for _, event in history)
        held = list(held_of(customer, history, draft.erased_keys))
        found = assess(schedules, held, when, until_us)
        if not found.due:
            return 0
        # One read, of what goes too: its look-ups are found by it. What can't be opened any more goes with the key.
        there, texts = opened_again(self._core, work, customer, held)
        going = {value.place for value in found.due}
        identifiers, orders = _release(
            work,
            draft,
            {value.place: text for value, text in zip(there, texts, strict=True) if value.place in going},
            history,
        )
        stays = [(value, text) for value, text in zip(there, texts, strict=True) if value.place not in going]
        key_id, commitment = work.next_key_for(draft)
        event = erase_values(
            draft,
            work.stamp,
            "retention",
            schedules=found.schedules,
            erased=found.due,
            stays=[value for value, _ in stays],
            texts=[text for _, text in stays],
            key_id=key_id,
            commitment=commitment,
            identifiers=identifiers,
            orders=orders,
        )
        work.erase(draft.id, event.key_ids)
        return len(found.due)

    @command
    def _record(
        self,
        work: Work,
        until_us: int,
        counts: list[int],
        access_records: int,
        reads_pruned: int,
        reads_root: str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        due, erased, partly, values = counts
        work.retention().sweep(
            work.stamp,
            until_us,
            due=due,
            erased=erased,
            partly=partly,
            values=values,
            access_records=access_records,
            reads_pruned=reads_pruned,
            reads_root=reads_root,
        )

    def _due(self, schedules: tuple[Schedule, ...], at_us: int) -> Iterator[DueSubject]:
        core = self._core
        yield from self._kept_too_long(schedules, at_us)
        erasing = [one for one in schedules if one.action == Action.ERASE and one.category != ACCESS_RECORDS]
        if not erasing:
            return
        for subject, (when, first_us) in self._activities().items():
            # Cheap first: before the first period of all is over, nothing is due.
            if all((one.ends_us(first_us, when) or at_us + 1) > at_us for one in erasing):
                continue
            customer = core.app.load(Customer, subject)
            if customer.erased:
                continue
            values = held_of(subject, core.subject_events(subject), customer.erased_keys)
            found = assess(schedules, values, when, at_us)
            if found.due:
                counts = Counter(value.category for value in found.due)
                yield DueSubject(
                    subject,
                    not customer.holds,
                    found.whole,
                    tuple(sorted(counts)),
                    dict(sorted(counts.items())),
                    _categories(found.kept),
                    _categories(found.stays),
                    customer.holds,
                    found.schedules,
                    iso(when.last_us),
                )

    def _activities(self) -> dict[UUID, tuple[Activity, int]]:
        """When each customer was last active, when the relation ended, and when they were registered: from a scan of
        clear fields."""
        app = self._core.app
        last: dict[bytes, int] = {}
        ended: dict[bytes, int] = {}
        customers = {
            subject: metadata[RECORDED_US]
            for _, (subject, metadata) in app.scan(CustomerRegistered, ["subject_id", "metadata"])
        }
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
        return {
            known_uuid(subject): (activity(last.get(subject, -(2**62)), ended.get(subject)), first_us)
            for subject, first_us in customers.items()
        }

    def _kept_too_long(self, schedules: tuple[Schedule, ...], at_us: int) -> Iterator[DueSubject]:
        """Customers who were erased, and of whom no schedule demands any more to keep what was kept."""
        core = self._core
        for subject in sorted({known_uuid(subject) for subject, _, _ in core.app.log.erasures()}):
            customer = core.app.load(Customer, subject)
            if customer.kept_until_us is None or KEPT_KEY in customer.erased_keys:
                continue
            history = core.subject_history(subject)
            if still_kept(schedules, history, at_us) is None:
                count = sum(isinstance(event, ValueResealed) and event.kept for _, event in history)
                yield DueSubject(subject, True, True, (KEPT,), {KEPT: count}, (), (), (), (KEPT,), None)

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


def _release(
    work: Work, customer: Customer, going: Mapping[tuple[UUID, str], str], history: Iterable[Recorded]
) -> tuple[list[str], list[UUID]]:
    """Release the look-ups of values that go: the systems of the external ids, and the purchases of the orders."""
    linked: dict[str, IdentifierLinked] = {}
    claims: dict[bytes, tuple[UUID, str | UUID]] = {}
    for _, event in history:
        if isinstance(event, IdentifierLinked):
            linked[event.system] = event
        elif isinstance(event, IdentifierRemoved):
            linked.pop(event.system, None)
        elif isinstance(event, PurchaseRecorded) and (order := going.get((event.event_id, "order_id"))) is not None:
            claims[order_claim(work, order)] = (event.event_id, event.event_id)
    for system, event in linked.items():
        if (external_id := going.get((event.event_id, "external_id"))) is not None:
            claims[identifier_claim(work, system, external_id)] = (customer.id, system)
    work.look_up(list(claims))
    freed = []
    for claim, (holder, name) in claims.items():
        if work.holder(claim) == holder:
            work.release(claim)
            freed.append(name)
    return [one for one in freed if isinstance(one, str)], [one for one in freed if isinstance(one, UUID)]


def _categories(values: Iterable[Held]) -> tuple[str, ...]:
    return tuple(sorted({value.category for value in values}))


def _is_past(periods: Sequence[Schedule], event: Event, at_us: int) -> bool:
    """Whether a record of a read is past its period at a moment."""
    return any((one.ends_us(event.metadata.recorded_us, _NEVER) or at_us + 1) <= at_us for one in periods)


_NEVER = Activity(-(2**62))
