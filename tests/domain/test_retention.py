"""Retention: what schedules make due, what they keep, and until when, as a table of cases."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any
from uuid import UUID

import pytest

from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import DAY_US, days_from_civil
from tallybook.domain.customer import (
    ContactPointAdded,
    CustomerRegistered,
    InteractionRecorded,
    PurchaseRecorded,
)
from tallybook.domain.errors import Refused
from tallybook.domain.events import Event, Metadata
from tallybook.domain.privacy import RelationEnded
from tallybook.domain.retention import Activity, Retention, Schedule, activity_of, assess, kept
from tallybook.domain.ticket import TicketReplied

ADA = UUID(int=77)
_IDS = count(1)


def us(year: int, month: int, day: int) -> int:
    return days_from_civil(year, month, day) * DAY_US


def event(of: type[Event], effective_us: int, recorded_us: int | None = None, /, **fields: Any) -> Event:
    metadata = Metadata(recorded_us=recorded_us or effective_us, actor="agent:test", purpose="test")
    return of(
        originator_id=ADA, originator_version=1, event_id=UUID(int=next(_IDS)), effective_us=effective_us,
        subject_id=ADA, metadata=metadata, **fields,
    )  # fmt: skip


def schedule(category: str, period: int, unit: str = "months", since: str = "recorded", action: str = "erase",
             name: str = "s") -> Schedule:  # fmt: skip
    return Schedule(name, category, "crm", "GDPR:5.1.e", period, unit, since, action)


def registered(at_us: int, **fields: Any) -> Event:
    return event(CustomerRegistered, at_us, kind="person", **fields)


def bought(at_us: int, recorded_us: int | None = None) -> Event:
    return event(PurchaseRecorded, at_us, recorded_us, currency="EUR", lines=(), order_id="O-1")


INVOICES = schedule("transaction", 10, "years", action="keep", name="invoices")
QUIET = schedule("all", 36, since="last_activity", name="quiet")
LEFT = schedule("all", 30, "days", since="end_of_relation", name="left")


@pytest.mark.parametrize(
    ("one", "begins", "ends"),
    [
        (schedule("all", 30, "days"), us(2024, 1, 31), us(2024, 3, 1)),
        (schedule("all", 1, "months"), us(2024, 1, 31), us(2024, 2, 29)),
        (schedule("all", 1, "years"), us(2024, 2, 29), us(2025, 2, 28)),
        (schedule("all", 10, "years"), us(2020, 6, 1), us(2030, 6, 1)),
    ],
)
def test_periods_are_of_the_calendar(one: Schedule, begins: int, ends: int) -> None:
    assert one.ends_us(begins, Activity(0)) == ends


def test_a_period_runs_from_what_the_schedule_names() -> None:
    when = Activity(us(2022, 1, 1), us(2023, 1, 1))
    assert schedule("all", 1, since="recorded").ends_us(us(2021, 1, 1), when) == us(2021, 2, 1)
    assert schedule("all", 1, since="last_activity").ends_us(us(2021, 1, 1), when) == us(2022, 2, 1)
    assert schedule("all", 1, since="end_of_relation").ends_us(us(2021, 1, 1), when) == us(2023, 2, 1)
    assert schedule("all", 1, since="end_of_relation").ends_us(us(2021, 1, 1), Activity(0)) is None


def test_what_we_do_is_no_activity_of_theirs() -> None:
    def asked(direction: str, at_us: int) -> Event:
        return event(InteractionRecorded, at_us, kind="mail", direction=direction)

    def replied(author: str, at_us: int) -> Event:
        return event(TicketReplied, at_us, author=author, public=True, text="x")

    events = [registered(100), asked("in", 300), asked("out", 400), replied("human", 500), replied("customer", 350)]
    assert activity_of(events) == Activity(350)
    assert activity_of([*events, event(RelationEnded, 450, reason=None)]) == Activity(350, 450)
    assert activity_of([event(RelationEnded, 340, reason=None), *events]) == Activity(350, None), "it began anew"


def test_a_subject_is_due_when_every_category_is_past_its_period() -> None:
    mail = event(ContactPointAdded, us(2020, 1, 1), point_id=ADA, kind="email", value="a@example.org")
    events = [registered(us(2020, 1, 1), name="Ada"), mail]
    identity, contact = schedule("identity", 12, name="i"), schedule("contact", 24, name="c")
    early = assess([identity, contact], events, us(2021, 6, 1))
    assert (early.due, early.waiting, early.ready) == (("identity",), ("contact",), False)
    late = assess([identity, contact], events, us(2022, 1, 1))
    assert (late.due, late.waiting, late.ready, late.schedules) == (("contact", "identity"), (), True, ("c", "i"))
    assert not assess([identity, contact], events, us(2022, 1, 1) - 1).ready
    assert not assess([], events, us(2099, 1, 1)).ready


def test_the_newest_of_a_category_counts() -> None:
    events = [registered(us(2020, 1, 1), name="Ada"), bought(us(2020, 2, 1)), bought(us(2023, 2, 1))]
    assert assess([QUIET], events, us(2026, 2, 1)).ready
    assert not assess([QUIET], events, us(2026, 2, 1) - 1).ready


def test_what_must_be_kept_is_set_apart_and_stops_nothing_else() -> None:
    events = [registered(us(2020, 1, 1), name="Ada"), bought(us(2020, 2, 1))]
    found = assess([QUIET, INVOICES], events, us(2024, 1, 1))
    assert (found.due, found.kept, found.ready) == (("identity",), ("transaction",), True)
    after = assess([QUIET, INVOICES], events, us(2031, 1, 1))
    assert (after.due, after.kept) == (("identity", "transaction"), ())


def test_a_relation_that_has_not_ended_makes_nothing_due() -> None:
    events = [registered(us(2020, 1, 1), name="Ada")]
    assert assess([LEFT], events, us(2099, 1, 1)).due == ()
    ended = event(RelationEnded, us(2021, 1, 1), reason=None)
    assert assess([LEFT], [*events, ended], us(2021, 1, 31)).ready
    assert assess([LEFT], [*events, ended, bought(us(2022, 1, 1))], us(2099, 1, 1)).due == ()


def test_kept_tells_each_field_until_when_and_why() -> None:
    purchase = bought(us(2020, 2, 1))
    found = kept([INVOICES, QUIET], purchase, Activity(0), us(2024, 1, 1))
    assert found == {"order_id": (us(2030, 2, 1), "invoices", "crm", "GDPR:5.1.e")}
    assert kept([INVOICES], purchase, Activity(0), us(2030, 2, 1)) == {}
    assert kept([INVOICES], registered(us(2020, 1, 1), name="Ada"), Activity(0), us(2024, 1, 1)) == {}
    longer = schedule("all", 12, "years", action="keep", name="longer")
    assert kept([longer, INVOICES], purchase, Activity(0), us(2024, 1, 1))["order_id"].schedule == "longer"
    endless = schedule("transaction", 1, since="end_of_relation", action="keep", name="endless")
    assert kept([longer, endless], purchase, Activity(0), us(2024, 1, 1))["order_id"] == (
        None, "endless", "crm", "GDPR:5.1.e",
    )  # fmt: skip


def test_it_counts_from_the_recording_not_from_the_purchase() -> None:
    imported = bought(us(1997, 1, 1), recorded_us=us(2024, 1, 1))
    assert kept([INVOICES], imported, Activity(0), us(2030, 1, 1))["order_id"].until_us == us(2034, 1, 1)


# ── declaring ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def stamp() -> Stamp:
    return Stamp(Metadata(recorded_us=1, actor="agent:test", purpose="test"), 0, lambda: UUID(int=next(_IDS)))


def refused(code: str, act: Callable[[], object], retention: Retention) -> None:
    before = list(retention.journal or ())
    with pytest.raises(Refused) as error:
        act()
    assert error.value.code == code
    assert retention.journal == before


def test_schedules_are_declared_once_and_withdrawn() -> None:
    retention = Retention(UUID(int=1)).draft([])
    assert retention.declare(stamp(), QUIET) is not None
    assert retention.declare(stamp(), QUIET) is None
    refused("schedule_declared", lambda: retention.declare(stamp(), QUIET._replace(period=24)), retention)
    refused("unknown_schedule", lambda: retention.withdraw(stamp(), "other"), retention)
    retention.withdraw(stamp(), "quiet")
    assert not retention.schedules
    retention.declare(stamp(), QUIET._replace(period=24))
    assert [one.period for one in retention.schedules] == [24]


@pytest.mark.parametrize(
    "change",
    [
        {"category": "shoes"}, {"unit": "weeks"}, {"since": "never"}, {"action": "hide"},
        {"category": "access_records", "since": "last_activity"},
        {"category": "access_records", "since": "recorded", "action": "keep"},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    retention = Retention(UUID(int=1)).draft([])
    refused("invalid_argument", lambda: retention.declare(stamp(), QUIET._replace(**change)), retention)
