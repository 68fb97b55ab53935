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
    Customer,
    CustomerKind,
    CustomerRegistered,
    InteractionRecorded,
    PurchaseRecorded,
    Referred,
)
from tallybook.domain.erasure import KEPT_KEY, ValueResealed, erase, erase_values, held_of, newest_of
from tallybook.domain.errors import Refused
from tallybook.domain.events import Event, Metadata
from tallybook.domain.personal import Personal, Sealed
from tallybook.domain.privacy import RelationEnded
from tallybook.domain.retention import (
    Activity,
    Assessment,
    Held,
    Kept,
    Retention,
    Schedule,
    activity_of,
    assess,
    kept,
    unscheduled,
)
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


def assessed(schedules: list[Schedule], events: list[Event], at_us: int) -> Assessment:
    return assess(schedules, held_of(ADA, enumerate(events, 1)), activity_of(events), at_us)


def fields(values: tuple[Held, ...]) -> list[str]:
    return [value.field for value in values]


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


def test_single_values_are_due_and_others_stay() -> None:
    mail = event(ContactPointAdded, us(2020, 1, 1), point_id=ADA, kind="email", value="a@example.org")
    events = [registered(us(2020, 1, 1), name="Ada", note="Likes tea"), mail, registered(us(2022, 1, 1), note="Or not")]
    schedules = [schedule("identity", 12, name="i"), schedule("communication", 24, name="c")]
    early = assessed(schedules, events, us(2021, 6, 1))
    assert (fields(early.due), fields(early.stays), early.schedules) == (["name"], ["note", "value", "note"], ("i",))
    late = assessed(schedules, events, us(2022, 1, 1))
    assert [value.place for value in late.due] == [(events[0].event_id, "name"), (events[0].event_id, "note")]
    assert late.schedules == ("c", "i")
    assert fields(assessed(schedules, events, us(2022, 1, 1) - 1).due) == ["name"]
    assert not assessed([], events, us(2099, 1, 1)).due


def test_a_subject_is_due_as_a_whole_who_was_quiet_for_long_and_never_for_the_age_of_values_alone() -> None:
    events = [registered(us(2020, 1, 1), name="Ada")]
    old = schedule("all", 12, name="old")
    assert not assessed([old], events, us(2024, 1, 1)).whole, "he may have bought something today"
    assert assessed([QUIET], events, us(2024, 1, 1)).whole
    assert assessed([old, QUIET], events, us(2024, 1, 1)).whole
    assert not assessed([old, QUIET], events, us(2022, 1, 1)).whole
    purchases = schedule("transaction", 12, since="last_activity")
    assert not assessed([purchases], [*events, bought(us(2020, 2, 1))], us(2024, 1, 1)).whole, "the name stays"


def test_each_value_counts_by_itself() -> None:
    events = [registered(us(2020, 1, 1), name="Ada"), bought(us(2020, 2, 1)), bought(us(2023, 2, 1))]
    found = assessed([schedule("transaction", 36)], events, us(2023, 2, 1))
    assert [value.position for value in found.due] == [2]
    assert assessed([QUIET], events, us(2026, 2, 1)).whole
    assert not assessed([QUIET], events, us(2026, 2, 1) - 1).due


def test_what_must_be_kept_is_set_apart_and_stops_nothing_else() -> None:
    events = [registered(us(2020, 1, 1), name="Ada"), bought(us(2020, 2, 1))]
    found = assessed([QUIET, INVOICES], events, us(2024, 1, 1))
    assert (fields(found.due), fields(found.kept), found.whole) == (["name"], ["order_id"], True)
    after = assessed([QUIET, INVOICES], events, us(2031, 1, 1))
    assert (fields(after.due), after.kept) == (["name", "order_id"], ())


def test_a_relation_that_has_not_ended_makes_nothing_due() -> None:
    events = [registered(us(2020, 1, 1), name="Ada")]
    assert assessed([LEFT], events, us(2099, 1, 1)).due == ()
    ended = event(RelationEnded, us(2021, 1, 1), reason=None)
    assert assessed([LEFT], [*events, ended], us(2021, 1, 31)).whole
    assert assessed([LEFT], [*events, ended, bought(us(2022, 1, 1))], us(2099, 1, 1)).due == ()


def why(schedules: list[Schedule], one: Event, at_us: int) -> Kept | None:
    [value] = held_of(ADA, [(1, one)])
    return kept(schedules, value, Activity(0), at_us)


def test_kept_tells_until_when_and_why() -> None:
    purchase = bought(us(2020, 2, 1))
    assert why([INVOICES, QUIET], purchase, us(2024, 1, 1)) == (us(2030, 2, 1), "invoices", "crm", "GDPR:5.1.e")
    assert why([INVOICES], purchase, us(2030, 2, 1)) is None
    assert why([INVOICES], registered(us(2020, 1, 1), name="Ada"), us(2024, 1, 1)) is None
    longer = schedule("all", 12, "years", action="keep", name="longer")
    assert why([longer, INVOICES], purchase, us(2024, 1, 1)) == (us(2032, 2, 1), "longer", "crm", "GDPR:5.1.e")
    endless = schedule("transaction", 1, since="end_of_relation", action="keep", name="endless")
    assert why([longer, endless], purchase, us(2024, 1, 1)) == (None, "endless", "crm", "GDPR:5.1.e")


def test_it_counts_from_the_recording_not_from_the_purchase() -> None:
    imported = bought(us(1997, 1, 1), recorded_us=us(2024, 1, 1))
    found = why([INVOICES], imported, us(2030, 1, 1))
    assert found is not None
    assert found.until_us == us(2034, 1, 1)


def test_categories_that_no_schedule_is_about_are_told() -> None:
    assert unscheduled([]) == ("identity", "contact", "transaction", "communication", "preference")
    assert unscheduled([INVOICES, schedule("identity", 1)]) == ("contact", "communication", "preference")
    assert unscheduled([QUIET]) == ()
    assert len(unscheduled([schedule("access_records", 1)])) == 5


# ── what is held ──────────────────────────────────────────────────────────────────────────────────────────────────────


def sealed(value: Event, key_id: int) -> Event:
    """The event as it is loaded: its values sealed under a key."""
    handles: dict[str, Personal[str]] = {
        name: Personal(sealed=Sealed(value.event_id, value.stored_name, 1, ADA, key_id, (name,), b"blob"), field=name)
        for name in value.personal_fields
        if getattr(value, name) is not None
    }
    return value.model_copy(update=handles)


def resealed(source: Event, field: str, key_id: int) -> Event:
    made = event(
        ValueResealed, us(2024, 1, 1), source=source.event_id, position=1, field=field, known_as=field, key_id=key_id,
        value="x",
    )  # fmt: skip
    return sealed(made, key_id)


def test_a_value_is_held_as_long_as_the_newest_key_that_seals_it() -> None:
    first = sealed(registered(us(2020, 1, 1), name="Ada", note="Likes tea"), 1)
    again = [resealed(first, "name", 3), resealed(first, "name", 4)]

    def held(history: list[Event], *erased: int) -> list[tuple[UUID, str]]:
        return [value.place for value in held_of(ADA, enumerate(history, 1), erased)]

    name, note = (first.event_id, "name"), (first.event_id, "note")
    assert held([first]) == [name, note]
    assert held([first], 1) == []
    assert held([first, again[0]], 1) == [name]
    assert held([first, again[0]], 1, 3) == []
    assert held([first, *again], 1, 3) == [name]
    assert held([first, *again], 1, 3, 4) == []
    assert held([first, resealed(first, "name", KEPT_KEY)], 1) == [], "kept for its purpose alone"
    assert list(held_of(UUID(int=78), [(1, first)])) == []


def test_a_referral_holds_values_of_two() -> None:
    other = UUID(int=78)
    referral = event(Referred, us(2020, 1, 1), referred=other, note="A friend", relation="sister")
    assert [value.field for value in held_of(ADA, [(1, referral)])] == ["note"]
    assert [value.field for value in held_of(other, [(1, referral)])] == ["relation"]


def test_the_newest_copy_is_found_by_each_that_held_the_value_before() -> None:
    first = sealed(registered(us(2020, 1, 1), name="Ada"), 1)
    older, newer = resealed(first, "name", 3), resealed(first, "name", 4)
    assert isinstance(older, ValueResealed)
    assert isinstance(newer, ValueResealed)
    found = newest_of([older, newer])
    assert found == {(first.event_id, "name"): newer.value, (older.event_id, "value"): newer.value}


# ── erasing values ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_values_that_stay_are_recorded_after_those_that_go_and_the_customer_goes_on() -> None:
    journal: list[Event] = []
    ada = Customer(ADA).draft(journal)
    ada.register(stamp(), CustomerKind.PERSON, key_id=1, commitment=b"1" * 32, fields={"name": "Ada"})
    ada.link_identifier(stamp(), "crm", "C-1")
    name, number = held_of(ADA, enumerate([sealed(one, 1) for one in journal], 1))
    erase_values(
        ada, stamp(), "retention", schedules=["i"], erased=[number], stays=[name], texts=["Ada"], key_id=3,
        commitment=b"3" * 32, identifiers=["crm"],
    )  # fmt: skip
    assert [one.stored_name for one in journal[3:]] == [
        "customer.key_created", "customer.values_erased", "customer.value_resealed",
    ]  # fmt: skip
    assert (ada.ordinary_key, ada.erased_keys, ada.erased) == (3, (1,), False)
    ada.link_identifier(stamp(), "crm", "C-2")
    erase(ada, stamp(), "gdpr-17", lookups=0, kept=0, kept_until_us=None, request_id=None)
    assert (ada.erased_keys, ada.erased) == ((1, 3), True)
    with pytest.raises(Refused, match="customer_erased"):
        erase_values(
            ada, stamp(), "retention", schedules=[], erased=[], stays=[], texts=[], key_id=4, commitment=b"4" * 32
        )  # fmt: skip


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
