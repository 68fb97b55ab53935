"""The ticket: who answers whom, what a complaint needs, and what is over when it is over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallybook.domain.aggregate import Stamp
from tallybook.domain.errors import REFUSALS, Refused
from tallybook.domain.events import Event, Metadata
from tallybook.domain.ticket import Author, SatisfactionRecorded, Ticket, TicketKind, TicketOpened, TicketState

CUSTOMER = UUID(int=9)
OPENED = 1000


def stamp(at_us: int = OPENED) -> Stamp:
    ids = count(at_us * 1000)
    return Stamp(Metadata(recorded_us=1, actor="agent:test", purpose="test"), at_us, lambda: UUID(int=next(ids)))


def opened(kind: TicketKind = TicketKind.ENQUIRY, journal: list[Event] | None = None) -> Ticket:
    ticket = Ticket(UUID(int=3)).draft([] if journal is None else journal)
    ticket.open(stamp(), CUSTOMER, kind, "Parcel damaged", "It is wet", "high")
    return ticket


def refused(code: str, act: Callable[[], object], ticket: Ticket) -> None:
    before = list(ticket.journal or ())
    with pytest.raises(Refused) as error:
        act()
    assert error.value.code == code
    assert type(error.value) is REFUSALS[code].error
    assert ticket.journal == before


DATED: list[Callable[[Ticket, Stamp], object]] = [
    lambda t, at: t.assign(at, "agent:lin"),
    lambda t, at: t.reply(at, "text", Author.HUMAN, True),
    lambda t, at: t.resolve(at, "refunded", None),
    lambda t, at: t.compensate(at, 5, "sorry"),
    lambda t, at: t.close(at),
]
COMMANDS: list[Callable[[Ticket], object]] = [partial(lambda act, t: act(t, stamp()), act) for act in DATED]


def test_a_ticket_is_opened_new_and_without_owner() -> None:
    ticket = opened(TicketKind.COMPLAINT)
    assert ticket.journal is not None
    (fact,) = ticket.journal
    assert isinstance(fact, TicketOpened)
    assert (fact.subject_id, fact.kind, fact.severity) == (CUSTOMER, "complaint", "high")
    assert (ticket.state, ticket.owner, ticket.customer_id, ticket.opened_us) == (
        TicketState.NEW, None, CUSTOMER, OPENED,
    )  # fmt: skip


@pytest.mark.parametrize("act", [*COMMANDS, lambda t: t.record_satisfaction(stamp(), 5, None)])
def test_a_ticket_that_is_not_there_does_nothing(act: Callable[[Ticket], object]) -> None:
    ticket = Ticket(UUID(int=3)).draft([])
    refused("unknown_ticket", lambda: act(ticket), ticket)


@pytest.mark.parametrize("act", COMMANDS)
def test_a_closed_ticket_is_over(act: Callable[[Ticket], object]) -> None:
    ticket = opened()
    ticket.resolve(stamp(), "refunded", None)
    ticket.close(stamp())
    assert ticket.state is TicketState.CLOSED
    refused("ticket_closed", lambda: act(ticket), ticket)


def test_a_complaint_needs_a_named_owner_before_it_is_resolved() -> None:
    ticket = opened(TicketKind.COMPLAINT)
    refused("owner_required", lambda: ticket.resolve(stamp(), "refunded", None), ticket)
    ticket.assign(stamp(), "agent:lin")
    ticket.resolve(stamp(2000), "refunded", None)
    assert (ticket.state, ticket.resolved_us, ticket.owner) == (TicketState.RESOLVED, 2000, "agent:lin")


@pytest.mark.parametrize("kind", [kind for kind in TicketKind if kind is not TicketKind.COMPLAINT])
def test_other_cases_need_no_owner(kind: TicketKind) -> None:
    ticket = opened(kind)
    ticket.resolve(stamp(), "done", None)
    assert ticket.state is TicketState.RESOLVED


def test_a_ticket_is_closed_only_when_it_is_resolved() -> None:
    ticket = opened()
    refused("not_resolved", lambda: ticket.close(stamp()), ticket)
    ticket.assign(stamp(), "agent:lin")
    refused("not_resolved", lambda: ticket.close(stamp()), ticket)
    ticket.resolve(stamp(), "done", None)
    ticket.close(stamp())


def test_satisfaction_is_asked_after_resolution_and_goes_to_the_owner_of_that_time() -> None:
    ticket = opened()
    ticket.assign(stamp(), "agent:lin")
    refused("not_resolved", lambda: ticket.record_satisfaction(stamp(), 5, None), ticket)
    ticket.resolve(stamp(), "done", None)
    first = ticket.record_satisfaction(stamp(), 5, "quick")
    ticket.assign(stamp(), "agent:max")
    ticket.close(stamp())
    second = ticket.record_satisfaction(stamp(), 1, None)
    assert isinstance(first, SatisfactionRecorded)
    assert (first.owner, second.owner) == ("agent:lin", "agent:max")


@pytest.mark.parametrize("score", [0, 6, -1, 4.5, 5.0, "5", True, None])
def test_satisfaction_is_from_one_to_five(score: Any) -> None:
    ticket = opened()
    ticket.resolve(stamp(), "done", None)
    refused("invalid_argument", lambda: ticket.record_satisfaction(stamp(), score, None), ticket)


@pytest.mark.parametrize("points", [0, -1, 10**12 + 1, 1.0, "5", True, None])
def test_a_compensation_is_a_whole_number_of_points(points: Any) -> None:
    ticket = opened()
    refused("invalid_argument", lambda: ticket.compensate(stamp(), points, "sorry"), ticket)
    ticket.compensate(stamp(), 10**12, "sorry")
    assert ticket.compensated_points == 10**12


def test_of_several_refusals_the_first_in_the_catalogue_wins() -> None:
    nowhere = Ticket(UUID(int=3)).draft([])
    refused("invalid_argument", lambda: nowhere.record_satisfaction(stamp(), 9, None), nowhere)
    refused("invalid_argument", lambda: nowhere.compensate(stamp(), 0, "sorry"), nowhere)
    complaint = opened(TicketKind.COMPLAINT)
    early = stamp(OPENED - 1)
    refused("effective_too_early", lambda: complaint.resolve(early, "done", None), complaint)
    refused("effective_too_early", lambda: complaint.close(early), complaint)
    refused("effective_too_early", lambda: complaint.record_satisfaction(early, 5, None), complaint)
    complaint.assign(stamp(), "agent:lin")
    complaint.resolve(stamp(), "done", None)
    complaint.close(stamp())
    refused("ticket_closed", lambda: complaint.assign(early, "agent:max"), complaint)
    order = list(REFUSALS)
    codes = ["invalid_argument", "unknown_ticket", "ticket_closed", "effective_too_early", "owner_required",
             "not_resolved"]  # fmt: skip
    assert sorted(codes, key=order.index) == codes


def test_compensations_add_up_and_are_at_least_one_point() -> None:
    ticket = opened()
    ticket.compensate(stamp(), 5, "sorry")
    ticket.compensate(stamp(), 7, "sorry")
    assert ticket.compensated_points == 12
    for points in (0, -3):
        refused("invalid_argument", partial(ticket.compensate, stamp(), points, "sorry"), ticket)


@pytest.mark.parametrize(
    ("author", "public", "answers"),
    [
        (Author.HUMAN, True, True),
        (Author.HUMAN, False, False),
        (Author.BOT, True, False),
        (Author.BOT, False, False),
        (Author.CUSTOMER, True, False),
        (Author.CUSTOMER, False, False),
    ],
)
def test_only_a_public_reply_by_a_human_is_a_first_response(author: Author, public: bool, answers: bool) -> None:
    ticket = opened()
    ticket.reply(stamp(2000), "text", author, public)
    assert ticket.first_response_us == (2000 if answers else None)
    ticket.reply(stamp(3000), "text", Author.HUMAN, True)
    assert ticket.first_response_us == (2000 if answers else 3000)


@settings(deadline=None, print_blob=True)
@given(times=st.lists(st.integers(OPENED, 10**6), min_size=1, max_size=6))
def test_the_first_response_is_the_earliest_in_the_world_in_whatever_order_it_is_recorded(times: list[int]) -> None:
    ticket = opened()
    ticket.reply(stamp(OPENED), "we got it", Author.BOT, True)
    for at_us in times:
        ticket.reply(stamp(at_us), "text", Author.HUMAN, True)
    assert ticket.first_response_us == min(times)


def test_nothing_after_the_first_response_moves_it() -> None:
    # Chatwoot 12058, 10178
    ticket = opened(TicketKind.COMPLAINT)
    ticket.reply(stamp(2000), "hello", Author.HUMAN, True)
    ticket.assign(stamp(2500), "agent:lin")
    ticket.assign(stamp(2600), "agent:max")
    ticket.resolve(stamp(3000), "done", None)
    ticket.reply(stamp(4000), "thanks", Author.CUSTOMER, True)
    ticket.reply(stamp(5000), "welcome", Author.HUMAN, True)
    assert (ticket.first_response_us, ticket.resolved_us, ticket.state) == (2000, 3000, TicketState.RESOLVED)


def test_a_resolution_is_the_first_one() -> None:
    ticket = opened()
    ticket.resolve(stamp(3000), "done", None)
    ticket.resolve(stamp(4000), "done_again", None)
    assert ticket.resolved_us == 3000


def test_a_resolution_that_is_learned_of_late_is_still_the_first() -> None:
    ticket = opened()
    ticket.resolve(stamp(4000), "done_again", None)
    ticket.resolve(stamp(3000), "done", None)
    assert ticket.resolved_us == 3000


def test_nobody_answers_before_the_case_is_open() -> None:
    ticket = opened()
    refused("effective_too_early", lambda: ticket.reply(stamp(OPENED - 1), "text", Author.HUMAN, True), ticket)
    assert ticket.first_response_us is None


@pytest.mark.parametrize("act", [*DATED, lambda t, at: t.record_satisfaction(at, 5, None)])
def test_nothing_happens_in_a_case_before_it_is_open(act: Callable[[Ticket, Stamp], object]) -> None:
    ticket = opened()
    ticket.resolve(stamp(2000), "done", None)
    refused("effective_too_early", lambda: act(ticket, stamp(OPENED - 1)), ticket)
    act(ticket, stamp(OPENED))


@settings(deadline=None, print_blob=True)
@given(times=st.lists(st.integers(OPENED, 10**6), min_size=1, max_size=6))
def test_the_resolution_is_the_earliest_in_the_world_in_whatever_order_it_is_recorded(times: list[int]) -> None:
    ticket = opened()
    for at_us in times:
        ticket.resolve(stamp(at_us), "done", None)
    assert ticket.resolved_us == min(times)


def test_work_on_a_new_ticket_opens_it_and_a_customers_message_does_not() -> None:
    ticket = opened()
    ticket.reply(stamp(), "x", Author.CUSTOMER, True)
    states = [ticket.state]
    ticket.reply(stamp(), "x", Author.HUMAN, False)
    states.append(ticket.state)
    ticket = opened()
    ticket.assign(stamp(), "agent:lin")
    assert [*states, ticket.state] == [TicketState.NEW, TicketState.OPEN, TicketState.OPEN]


def test_a_ticket_is_the_fold_of_its_events() -> None:
    journal: list[Event] = []
    ticket = opened(TicketKind.COMPLAINT, journal)
    ticket.reply(stamp(2000), "hello", Author.HUMAN, True)
    ticket.assign(stamp(2500), "agent:lin")
    ticket.compensate(stamp(2600), 5, "sorry")
    ticket.resolve(stamp(3000), "done", None)
    ticket.close(stamp(3500))
    folded = Ticket.fold(None, journal)
    assert folded is not None
    assert {**vars(folded), "journal": None} == {**vars(ticket), "journal": None}
    assert Ticket.fold(folded, []) is folded
