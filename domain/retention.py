"""How long personal data is kept: schedules, declared as events on a stream of their own, and what they make due.

A schedule says that a category must be kept (`keep`: the law demands it, an erasure leaves it until then) or must go
(`erase`) a period after a moment. A subject's ordinary data lies under one key: so a subject is due as a whole, once
every category that the book holds of them is past an `erase` schedule or set apart by a `keep` schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from .aggregate import Aggregate, Appliers, Stamp, applies
from .calendar import UTC_ZONE
from .customer import CustomerRegistered, InteractionRecorded, PurchaseRecorded, ReturnRecorded
from .errors import refusal
from .events import Code, Event, Fact, stored
from .personal import Category
from .points import Enrolled, RedemptionRequested
from .privacy import ConsentConfirmed, ConsentGranted, RelationEnded
from .ticket import Author, SatisfactionRecorded, TicketOpened, TicketReplied

ACCESS_RECORDS = "access_records"
"""The category of the records of reads."""
ALL = "all"
"""Stands for every category of personal data."""
CATEGORIES = (ALL, ACCESS_RECORDS, *(one.value for one in Category))


class Unit(StrEnum):
    """Of a period: calendar units, in UTC."""

    DAYS = "days"
    MONTHS = "months"
    YEARS = "years"


class Since(StrEnum):
    """From when a period runs: the field's recording, the subject's last activity, or the end of the relation."""

    RECORDED = "recorded"
    LAST_ACTIVITY = "last_activity"
    END_OF_RELATION = "end_of_relation"


class Action(StrEnum):
    """What a schedule demands: the data must go after the period, or must be kept until its end."""

    ERASE = "erase"
    KEEP = "keep"


@stored("book.retention_declared")
class RetentionDeclared(Fact):
    """A retention schedule is in force from now on."""

    schedule: Code
    category: Code
    purpose: Code
    legal_basis: Code
    period: Annotated[int, Field(ge=1, le=36_500)]
    unit: str
    since: str
    action: str


@stored("book.retention_withdrawn")
class RetentionWithdrawn(Fact):
    """A retention schedule is no longer in force."""

    schedule: Code


@stored("book.retention_swept")
class RetentionSwept(Fact):
    """What was due up to `until_us` was carried out: subjects due and erased, and records of reads that are due.

    Of the log of reads, the records up to position `reads_pruned` go; `reads_root` (hex) is the Merkle root of so many
    leaves, whose hashes stay. 0 and empty: nothing goes. They go after this is recorded.
    """

    until_us: int
    due: int
    erased: int
    access_records: int
    reads_pruned: int
    reads_root: str


class Schedule(NamedTuple):
    """A retention schedule in force."""

    schedule: str
    category: str
    purpose: str
    legal_basis: str
    period: int
    unit: str
    since: str
    action: str

    def covers(self, category: str) -> bool:
        """Whether it is about a category of personal data."""
        return self.category == category or (self.category == ALL and category != ACCESS_RECORDS)

    def ends_us(self, recorded_us: int, activity: Activity) -> int | None:
        """When the period of something recorded at a time is over; None while it has not begun."""
        begins_us: int | None = recorded_us
        if self.since == Since.LAST_ACTIVITY:
            begins_us = activity.last_us
        elif self.since == Since.END_OF_RELATION:
            begins_us = activity.ended_us
        if begins_us is None:
            return None
        if self.unit == Unit.DAYS:
            return UTC_ZONE.add_days(begins_us, self.period)
        return UTC_ZONE.add_months(begins_us, self.period * (12 if self.unit == Unit.YEARS else 1))


class Activity(NamedTuple):
    """When a subject last did something, and when the relation ended (None: it has not, or it began anew)."""

    last_us: int
    ended_us: int | None = None


class Kept(NamedTuple):
    """Why a field must be kept, and until when (None: the period has not begun)."""

    until_us: int | None
    schedule: str
    purpose: str
    legal_basis: str

    @property
    def lasts_us(self) -> int:
        """Until when, to compare: a period that has not begun lasts longest."""
        return 2**62 if self.until_us is None else self.until_us


class Assessment(NamedTuple):
    """What schedules say of a subject's categories: past their period, to be kept, or neither."""

    due: tuple[str, ...]
    kept: tuple[str, ...]
    waiting: tuple[str, ...]
    schedules: tuple[str, ...]
    """Those by which it is due."""

    @property
    def ready(self) -> bool:
        """Whether the subject is due as a whole."""
        return bool(self.due) and not self.waiting


ACTIVITY = (
    CustomerRegistered, PurchaseRecorded, ReturnRecorded, InteractionRecorded, Enrolled, RedemptionRequested,
    TicketOpened, TicketReplied, SatisfactionRecorded, ConsentGranted, ConsentConfirmed,
)  # fmt: skip
"""What a subject does. Of interactions those that came in, of replies the customer's: our own prolong nothing."""


def is_activity(event: Event) -> bool:
    """Whether the subject did something."""
    if isinstance(event, InteractionRecorded):
        return event.direction == "in"
    if isinstance(event, TicketReplied):
        return event.author == Author.CUSTOMER
    return isinstance(event, ACTIVITY)


def activity_of(events: Iterable[Event]) -> Activity:
    """When the subject of events was last active."""
    last_us = -(2**62)
    ended_us: int | None = None
    for event in events:
        if is_activity(event):
            last_us = max(last_us, event.effective_us)
        elif isinstance(event, RelationEnded):
            ended_us = max(ended_us or event.effective_us, event.effective_us)
    return activity(last_us, ended_us)


def activity_until(events: Iterable[Event], erased_us: int) -> Activity:
    """The same of a subject who is erased: that ends the relation, if nothing ended it before."""
    found = activity_of(events)
    return found if found.ended_us is not None else found._replace(ended_us=erased_us)


def activity(last_us: int, ended_us: int | None) -> Activity:
    """What was done after the end of a relation began it anew."""
    return Activity(last_us, None if ended_us is not None and ended_us < last_us else ended_us)


def kept(schedules: Sequence[Schedule], event: Event, activity: Activity, at_us: int) -> dict[str, Kept]:
    """The personal fields of an event that must still be kept at a moment, and why. Of several reasons the longest.

    For an erasure: these survive it until then, all others go. Pure.
    """
    found: dict[str, Kept] = {}
    for name, mark in event.personal_fields.items():
        if getattr(event, name) is None:
            continue
        reasons = [
            Kept(ends_us, one.schedule, one.purpose, one.legal_basis)
            for one in schedules
            if one.action == Action.KEEP and one.covers(mark.category)
            for ends_us in [one.ends_us(event.metadata.recorded_us, activity)]
            if ends_us is None or at_us < ends_us
        ]
        if reasons:
            found[name] = max(reasons, key=lambda one: one.lasts_us)
    return found


def assess(schedules: Sequence[Schedule], events: Sequence[Event], at_us: int) -> Assessment:
    """What schedules say at a moment of a subject, from all events about them. Pure."""
    when = activity_of(events)
    newest: dict[str, int] = {}
    keeping: set[str] = set()
    for event in events:
        for name, mark in event.personal_fields.items():
            if getattr(event, name) is not None:
                category = mark.category.value
                recorded_us: int = event.metadata.recorded_us
                newest[category] = max(newest.get(category, recorded_us), recorded_us)
        keeping.update(event.personal_fields[name].category.value for name in kept(schedules, event, when, at_us))
    past = {
        category: [
            one.schedule
            for one in schedules
            if one.action == Action.ERASE and one.covers(category)
            for ends_us in [one.ends_us(recorded_us, when)]
            if ends_us is not None and ends_us <= at_us
        ]
        for category, recorded_us in newest.items()
    }
    due = sorted(category for category, by in past.items() if by and category not in keeping)
    return Assessment(
        tuple(due),
        tuple(sorted(keeping)),
        tuple(sorted(category for category, by in past.items() if not by and category not in keeping)),
        tuple(sorted({schedule for category in due for schedule in past[category]})),
    )


class Retention(Aggregate):
    """The fold of the schedules' stream."""

    APPLIERS: ClassVar[Appliers] = {}

    schedules: tuple[Schedule, ...] = ()
    swept_us: int | None = None

    def declare(self, stamp: Stamp, schedule: Schedule) -> RetentionDeclared | None:
        """None if it is in force already, unchanged. Refuses: invalid_argument, schedule_declared."""
        allowed: Mapping[str, tuple[str, Sequence[str]]] = {
            "category": (schedule.category, CATEGORIES),
            "unit": (schedule.unit, tuple(Unit)),
            "since": (schedule.since, tuple(Since)),
            "action": (schedule.action, tuple(Action)),
        }
        for name, (given, known) in allowed.items():
            if given not in known:
                raise refusal("invalid_argument", f"{name}: one of {', '.join(known)} is wanted.", argument=name)
        if schedule.category == ACCESS_RECORDS and (schedule.since, schedule.action) != (Since.RECORDED, Action.ERASE):
            raise refusal(
                "invalid_argument",
                "since: records of reads can only go, a period after they were recorded.",
                argument="since",
            )
        held = next((one for one in self.schedules if one.schedule == schedule.schedule), None)
        if held == schedule:
            return None
        if held is not None:
            raise refusal(
                "schedule_declared",
                f"{schedule.schedule} is declared with other content.",
                schedule=schedule.schedule,
            )
        return self.record(RetentionDeclared, stamp, None, **schedule._asdict())

    def withdraw(self, stamp: Stamp, schedule: str) -> RetentionWithdrawn:
        """Refuses: unknown_schedule."""
        if all(one.schedule != schedule for one in self.schedules):
            raise refusal("unknown_schedule", f"There is no schedule {schedule!r}.", schedule=schedule)
        return self.record(RetentionWithdrawn, stamp, None, schedule=schedule)

    def sweep(
        self,
        stamp: Stamp,
        until_us: int,
        *,
        due: int,
        erased: int,
        access_records: int,
        reads_pruned: int = 0,
        reads_root: str = "",
    ) -> RetentionSwept:
        """Record that what was due was carried out."""
        return self.record(
            RetentionSwept,
            stamp,
            None,
            until_us=until_us,
            due=due,
            erased=erased,
            access_records=access_records,
            reads_pruned=reads_pruned,
            reads_root=reads_root,
        )


@applies(Retention.APPLIERS, RetentionDeclared)
def _declared(retention: Retention, event: RetentionDeclared) -> None:
    schedule = Schedule(
        event.schedule,
        event.category,
        event.purpose,
        event.legal_basis,
        event.period,
        event.unit,
        event.since,
        event.action,
    )
    retention.schedules = (*retention.schedules, schedule)


@applies(Retention.APPLIERS, RetentionWithdrawn)
def _withdrawn(retention: Retention, event: RetentionWithdrawn) -> None:
    retention.schedules = tuple(one for one in retention.schedules if one.schedule != event.schedule)


@applies(Retention.APPLIERS, RetentionSwept)
def _swept(retention: Retention, event: RetentionSwept) -> None:
    retention.swept_us = event.until_us
