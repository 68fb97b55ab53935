"""The detectors by themselves: each definition at its bounds."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from tallybook.domain.access import DENIED, NO_CONSENT, RELEASED, RESEALED, PersonalDataRead
from tallybook.domain.calendar import DAY_US
from tallybook.domain.events import Event, Metadata
from tallybook.domain.privacy import Consent, Consents
from tallybook.projections.access_review import (
    HOUR_US,
    BulkReads,
    Dealings,
    OwnTies,
    Policies,
    Spans,
    Thresholds,
    lacking,
    released_subjects,
)

NOON = 1_767_614_400_000_000
SUBJECTS = [UUID(int=number) for number in range(1, 500)]
ADA = SUBJECTS[0]


def read(at_us: int, *subjects: UUID, actor: str = "agent:lin", **more: object) -> PersonalDataRead:
    fields: dict[str, object] = {
        "originator_id": uuid4(), "originator_version": 1, "event_id": uuid4(), "effective_us": at_us,
        "subject_id": None, "metadata": Metadata(recorded_us=at_us, actor=actor, purpose="support"),
        "action": "profiles.get", "outcome": RELEASED, "subjects": subjects, "fields": ("name",),
    }  # fmt: skip
    return PersonalDataRead.model_validate({**fields, **more})


def no_policies() -> Policies:
    def decides(_: object) -> None:
        raise AssertionError("there is no policy")

    return Policies(decides, uuid4())  # type: ignore[arg-type]  # never called


def test_spans_that_meet_become_one_in_any_order() -> None:
    spans, key = Spans(), ("a", b"s")
    for first, last in ((50, 60), (10, 20), (30, 40), (19, 31), (80, 90)):
        spans.add(key, first, last)
    covered = [at for at in range(100) if spans.covers(key, at)]
    assert covered == [*range(10, 41), *range(50, 61), *range(80, 91)]
    assert len(spans._held[key]) == 3
    assert not spans.covers(("b", b"s"), 15)


@pytest.mark.parametrize(("days", "tied"), [(-15, False), (-14, True), (0, True), (14, True), (15, False)])
def test_what_an_actor_records_ties_him_around_it(days: int, tied: bool) -> None:
    dealings = Dealings(14)
    dealings.command("agent:lin", ADA.bytes, NOON, "customer.changed")
    dealings.settle()
    at = NOON + days * DAY_US
    assert dealings.tie(["agent:lin"], [], ADA, at) is tied
    assert not dealings.tie(["agent:kim"], [], ADA, at)
    assert not dealings.tie(["agent:lin"], [], SUBJECTS[1], at)


def test_a_ticket_ties_its_owner_while_it_is_open_and_shortly_after() -> None:
    dealings = Dealings(2)
    dealings.opened(b"t", ADA.bytes, NOON, "agent:lin")
    dealings.assigned(b"t", "agent:lin", NOON + DAY_US, "agent:lin")
    dealings.assigned(b"t", "team:refunds", NOON + 50 * DAY_US, "agent:lin")
    dealings.ended(b"t", NOON + 90 * DAY_US)
    dealings.settle()

    def days(actor: str, *roles: str) -> list[int]:
        return [day for day in range(-5, 100) if dealings.tie([actor], roles, ADA, NOON + day * DAY_US)]

    assert days("agent:lin") == [*range(-1, 53)]  # he got it a day after it was opened
    assert days("agent:kim", "refunds") == [*range(48, 93)]
    assert days("agent:kim", "support") == []


def test_an_open_request_ties_everybody_and_a_subject_is_tied_to_itself() -> None:
    dealings = Dealings(14)
    dealings.request(b"r", ADA.bytes, NOON, "agent:lin")
    dealings.request(b"s", SUBJECTS[1].bytes, NOON, "agent:lin")
    dealings.answered(b"r", NOON + 5 * DAY_US)
    dealings.settle()
    assert dealings.tie(["agent:kim"], [], ADA, NOON + 5 * DAY_US)
    assert not dealings.tie(["agent:kim"], [], ADA, NOON + 5 * DAY_US + 1)
    assert dealings.tie(["agent:kim"], [], SUBJECTS[1], NOON + 500 * DAY_US)  # not answered yet
    assert dealings.tie([f"customer:{SUBJECTS[2]}"], [], SUBJECTS[2], NOON)
    assert not dealings.tie([f"customer:{SUBJECTS[2]}"], [], SUBJECTS[3], NOON)
    for other in (f"agent:{SUBJECTS[2]}", f"x:customer:{SUBJECTS[2]}", str(SUBJECTS[2])):
        assert not dealings.tie([other], [], SUBJECTS[2], NOON), other


def test_a_customer_has_the_owner_whom_the_book_knew() -> None:
    dealings = Dealings(1)
    day = [NOON + number * DAY_US for number in range(101)]
    told = dealings.owner
    told(ADA.bytes, "agent:lin", day[10], "lead:uma", day[10])
    told(ADA.bytes, "agent:kim", day[40], "lead:uma", day[30])  # typed in ten days late
    told(ADA.bytes, "agent:eve", day[60], "agent:eve", day[20])  # about a time before: kim goes on
    told(ADA.bytes, None, day[80], "lead:uma", day[80])
    dealings.settle()

    def days(actor: str) -> list[int]:
        return [number for number, at in enumerate(day) if dealings.tie([actor], [], ADA, at)]

    assert days("agent:lin") == [*range(9, 42)]
    assert days("agent:kim") == [*range(39, 82)]
    assert days("agent:eve") == []


Told = Callable[[Dealings], None]
CUSTOMER = f"customer:{ADA}"


def _bought(by: str) -> Told:
    return lambda dealings: dealings.command(by, ADA.bytes, NOON - DAY_US, "customer.purchase_recorded")


def _contact(by: str, at_us: int = NOON) -> Told:
    return lambda dealings: dealings.command(by, ADA.bytes, at_us, "customer.interaction_recorded")


def _ticket(opener: str, assigner: str, owner: str = "agent:lin") -> Told:
    def told(dealings: Dealings) -> None:
        dealings.opened(b"t", ADA.bytes, NOON, opener)
        dealings.assigned(b"t", owner, NOON, assigner)

    return told


def _owner(by: str, owner: str = "agent:lin") -> Told:
    return lambda dealings: dealings.owner(ADA.bytes, owner, NOON - 40 * DAY_US, by, NOON - 40 * DAY_US)


def _request(by: str) -> Told:
    return lambda dealings: dealings.request(b"r", ADA.bytes, NOON - 9 * DAY_US, by)


@pytest.mark.parametrize(
    ("told", "shared"),
    [
        (lambda dealings: dealings.command("agent:lin", ADA.bytes, NOON, "customer.changed"), False),
        (_contact("agent:lin"), False),
        (_ticket("agent:lin", "agent:lin"), False),
        (_ticket("agent:lin", "agent:lin", "team:support"), False),
        (_owner("agent:lin"), False),
        (_request("agent:lin"), False),
        (_contact("agent:lin", NOON - 2 * DAY_US), False),
        # Now somebody else has a part in it.
        (_bought("agent:lin"), True),
        (_bought("system:shop"), True),
        (lambda dealings: dealings.command("agent:lin", ADA.bytes, NOON - DAY_US, "customer.registered"), True),
        (lambda dealings: dealings.command(CUSTOMER, ADA.bytes, NOON + DAY_US, "customer.changed"), True),
        (_contact("system:telephony"), True),
        (_contact("system:telephony", NOON - 2 * DAY_US), False),
        (_ticket(CUSTOMER, "agent:lin"), True),
        (_ticket("agent:kim", "agent:lin"), True),
        (_ticket("agent:lin", "agent:kim"), True),
        (_ticket("agent:lin", "agent:kim", "team:support"), True),
        (_ticket("agent:lin", "agent:kim", "team:refunds"), False),
        (_owner("lead:uma"), True),
        (_owner("lead:uma", "team:support"), True),
        (_owner("lead:uma", "agent:kim"), False),
        (_request("privacy:noor"), True),
    ],
)  # fmt: skip
def test_in_which_ties_somebody_else_has_a_part(told: Told, shared: bool) -> None:
    dealings = Dealings(14)
    told(dealings)
    dealings.command("agent:lin", ADA.bytes, NOON, "customer.changed")
    dealings.settle()
    assert dealings.tie(["agent:lin"], ["support"], ADA, NOON)
    assert dealings.shared(["agent:lin"], ["support"], ADA, NOON) is shared
    # Whom he acts for has no part of his own in it.
    assert dealings.shared(["agent:lin", "lead:uma"], [], ADA, NOON) <= shared


def own_ties(events: list[PersonalDataRead], *, own: bool = True, **limits: int) -> dict[str, list[tuple[int, float]]]:
    found = OwnTies(Thresholds(**limits), -(2**62))
    for position, event in enumerate(events, 1):
        found.see(position, event, event.subjects, event.subjects if own else ())
    return {actor: [(one.most, habit) for one, habit in episodes] for actor, episodes in found.found().items()}


def test_many_own_ties_within_a_week_are_many_and_a_habit_is_that_of_others() -> None:
    def week(number: int, subjects: int, actor: str = "agent:lin") -> list[PersonalDataRead]:
        at = NOON + number * 7 * DAY_US
        return [read(at + one * DAY_US // 8, SUBJECTS[one], actor=actor) for one in range(subjects)]

    assert own_ties(week(0, 29)) == {}
    assert own_ties(week(0, 30)) == {"agent:lin": [(30, 0.0)]}
    assert own_ties(week(0, 30), own=False) == {}
    assert own_ties(week(0, 30), own_tie_days=3) == {}  # not within three days
    always = [one for number in range(4) for one in week(number, 40)]
    assert own_ties(always) == {}  # nobody else to compare with: his own habit
    others = [one for number in range(4) for one in week(number, 10, "agent:kim")]
    assert own_ties([*others, *always]).keys() == {"agent:lin"}  # his habit excuses nothing beside that of others
    as_many = [one for number in range(4) for one in week(number, 20, "agent:kim")]
    assert own_ties([*as_many, *always]) == {}


def test_what_a_read_released_of_whom() -> None:
    one, two, three = SUBJECTS[:3]
    assert released_subjects(read(NOON, one, two)) == (one, two)
    assert released_subjects(read(NOON, one, fields=())) == (one,)  # consents, a trail: a look is a look
    assert released_subjects(read(NOON, one, outcome=RESEALED)) == ()
    assert released_subjects(read(NOON, one, two, erased=(one,))) == (two,)
    assert released_subjects(read(NOON, one, outcome=DENIED)) == ()
    held = read(NOON, one, two, three, consents=("v1", NO_CONSENT, "v1"), restricted=(three,))
    assert released_subjects(held) == (one,)


CONSENT = Consent(UUID(int=9), "marketing", None, None, "consent", "web", "v1", 10, 10, 20, False, False, 10, None)


@pytest.mark.parametrize(
    ("consent", "at", "why"),
    [
        (CONSENT, 10, None),
        (CONSENT, 19, None),
        (CONSENT, 20, "expired"),
        (CONSENT, 9, "not confirmed"),
        (CONSENT._replace(ended_us=15), 14, None),
        (CONSENT._replace(ended_us=15), 15, "withdrawn"),
        (CONSENT._replace(confirmed_us=None), 15, "not confirmed"),
        (CONSENT._replace(from_us=18), 15, "not in force yet"),
        (CONSENT._replace(purpose="profiling"), 15, "never given"),
    ],
)
def test_why_there_is_no_consent(consent: Consent, at: int, why: str | None) -> None:
    assert lacking(Consents((consent,)), "marketing", at) == why


def bulk(events: list[PersonalDataRead], **limits: int) -> dict[str, list[tuple[int, int, int, int, float]]]:
    reads = BulkReads(no_policies(), Thresholds(**limits), -(2**62))
    for position, event in enumerate(events, 1):
        reads.see(position, event)
    return {
        actor: [(one.first, one.last, one.count, one.most, habit) for one, habit in found]
        for actor, found in reads.found().items()
    }


def test_many_within_an_hour_or_in_one_record_are_many() -> None:
    minute = HOUR_US // 60
    assert bulk([read(NOON + number * minute, SUBJECTS[number]) for number in range(29)]) == {}
    assert bulk([read(NOON + number * minute, SUBJECTS[number]) for number in range(30)]) == {
        "agent:lin": [(1, 30, 30, 30, 0.0)]
    }
    # The hour slides: the first has left it when the thirtieth comes.
    assert (
        bulk([read(NOON + number * 2 * minute + number * minute // 10, SUBJECTS[number]) for number in range(30)]) == {}
    )
    assert bulk([read(NOON, *SUBJECTS[:30])]) == {"agent:lin": [(1, 1, 1, 30, 0.0)]}
    assert bulk([read(NOON + number * minute, ADA) for number in range(59)]) == {}  # one subject again and again


def test_whose_habit_it_is_does_nothing_unusual() -> None:
    every_day = [read(NOON + day * DAY_US, *SUBJECTS[:40]) for day in range(10)]
    assert bulk(every_day) == {}
    assert bulk(every_day[:9]).keys() == {"agent:lin"}  # nine hours are no habit
    far_more = [*every_day, read(NOON + 10 * DAY_US, *SUBJECTS[:121])]
    assert bulk(far_more) == {"agent:lin": [(11, 11, 1, 121, 40)]}
    assert bulk([*every_day, read(NOON + 10 * DAY_US, *SUBJECTS[:120])]) == {}
    # Somebody new does what all his colleagues do.
    assert bulk([*every_day, read(NOON + 10 * DAY_US, *SUBJECTS[:60], actor="agent:new")]) == {}


def test_memory_is_bounded_by_hours_and_subjects_not_by_records() -> None:
    reads = BulkReads(no_policies(), Thresholds(), -(2**62))
    for number in range(5000):
        reads.see(number + 1, read(NOON + number * HOUR_US // 4, SUBJECTS[number % 3]))
    assert len(reads._crowds._window["agent:lin"]) <= 5
    assert len(reads._crowds._histogram["agent:lin"]) <= 4
    event: Event = read(NOON, ADA)
    assert event.subject_id is None
