"""How long personal data is kept: schedules, declared as events on a stream of their own, and what they make due.

A schedule says that a category must be kept (`keep`: the law demands it, an erasure leaves it until then) or must go
(`erase`) a period after a moment. What is due are single values. A subject is due as a whole where nothing stays of
them but what must be kept, and the schedules say that they are gone: nothing came for long, or the relation ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, NamedTuple
from uuid import UUID

from pydantic import Field

from .aggregate import Aggregate, Appliers, Stamp, applies
from .calendar import DAY_US, UTC_ZONE, days_from_civil
from .customer import CustomerRegistered, InteractionRecorded, PurchaseRecorded, ReturnRecorded
from .errors import refusal
from .events import Code, Event, Fact, stored
from .personal import Category
from .points import Enrolled, RedemptionRequested
from .privacy import ConsentConfirmed, ConsentGranted, RelationEnded
from .ticket import Author, SatisfactionRecorded, TicketOpened, TicketReplied

LAST_US = days_from_civil(10_000, 1, 1) * DAY_US - 1
"""The end of the year 9999: what comes after is no date that can be told."""
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

    `erased` were erased as a whole; of `partly`, single `values` were. Of the log of reads, the records up to position
    `reads_pruned` go; `reads_root` (hex) is the Merkle root of so many leaves, whose hashes stay. 0 and empty: nothing
    goes. They go after this is recorded.
    """

    until_us: int
    due: int
    erased: int
    partly: int
    values: int
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
        """When the period of something recorded at a time is over, at the latest at the end of the year 9999; None
        while it has not begun."""
        begins_us: int | None = recorded_us
        if self.since == Since.LAST_ACTIVITY:
            begins_us = activity.last_us
        elif self.since == Since.END_OF_RELATION:
            begins_us = activity.ended_us
        if begins_us is None:
            return None
        return min(self.after_us(begins_us), LAST_US)

    def after_us(self, begins_us: int) -> int:
        """The period after a moment, whenever that is."""
        if self.unit == Unit.DAYS:
            return UTC_ZONE.add_days(begins_us, self.period)
        return UTC_ZONE.add_months(begins_us, self.period * (12 if self.unit == Unit.YEARS else 1))


class Activity(NamedTuple):
    """When a subject last did something, and when the relation ended (None: it has not, or it began anew)."""

    last_us: int
    ended_us: int | None = None


class Held(NamedTuple):
    """A personal value of a subject that is not erased: the event that brought it, with its position, and the field."""

    position: int
    event: Event
    field: str
    category: str

    @property
    def place(self) -> tuple[UUID, str]:
        """Event and field."""
        return self.event.event_id, self.field


class Kept(NamedTuple):
    """Why a value must be kept, and until when (None: the period has not begun)."""

    until_us: int | None
    schedule: str
    purpose: str
    legal_basis: str

    @property
    def lasts_us(self) -> int:
        """Until when, to compare: a period that has not begun lasts longest."""
        return 2**62 if self.until_us is None else self.until_us


class Assessment(NamedTuple):
    """What schedules say of a subject's values: past their period, to be kept, or neither."""

    due: tuple[Held, ...]
    kept: tuple[Held, ...]
    stays: tuple[Held, ...]
    schedules: tuple[str, ...]
    """Those by which values are due."""
    gone: bool
    """Whether each value that is due is so since the subject's last activity, or since the end of the relation."""

    @property
    def whole(self) -> bool:
        """Whether the subject is due as a whole: nothing stays but what must be kept. What is past its period since it
        was recorded says nothing of the subject, who may have bought something today."""
        return bool(self.due) and not self.stays and self.gone


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


def kept(schedules: Sequence[Schedule], value: Held, activity: Activity, at_us: int) -> Kept | None:
    """Why a value must still be kept at a moment; None: it need not. Of several reasons the longest. Pure."""
    reasons = [
        Kept(ends_us, one.schedule, one.purpose, one.legal_basis)
        for one in schedules
        if one.action == Action.KEEP and one.covers(value.category)
        for ends_us in [one.ends_us(value.event.metadata.recorded_us, activity)]
        if ends_us is None or at_us < ends_us
    ]
    return max(reasons, key=lambda one: one.lasts_us, default=None)


def assess(schedules: Sequence[Schedule], values: Iterable[Held], activity: Activity, at_us: int) -> Assessment:
    """What schedules say at a moment of a subject's values. Pure."""
    due: list[Held] = []
    keeping: list[Held] = []
    stays: list[Held] = []
    by: set[str] = set()
    gone = True
    for value in values:
        past = [
            one
            for one in schedules
            if one.action == Action.ERASE and one.covers(value.category)
            for ends_us in [one.ends_us(value.event.metadata.recorded_us, activity)]
            if ends_us is not None and ends_us <= at_us
        ]
        if kept(schedules, value, activity, at_us) is not None:
            keeping.append(value)
        elif past:
            due.append(value)
            by.update(one.schedule for one in past)
            gone = gone and any(one.since != Since.RECORDED for one in past)
        else:
            stays.append(value)
    return Assessment(tuple(due), tuple(keeping), tuple(stays), tuple(sorted(by)), gone)


def unscheduled(schedules: Sequence[Schedule]) -> tuple[str, ...]:
    """The categories of personal data that no schedule is about."""
    return tuple(one.value for one in Category if not any(schedule.covers(one) for schedule in schedules))


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
        if schedule.after_us(max(stamp.effective_us, stamp.metadata.recorded_us)) > LAST_US:
            raise refusal("invalid_argument", "period: it would end after the year 9999.", argument="period")
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
        partly: int = 0,
        values: int = 0,
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
            partly=partly,
            values=values,
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
