"""Ticket: a case from opening to answer, solution and compensation."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import Field

from . import personal
from .aggregate import Aggregate, Appliers, Stamp, applies
from .errors import refusal, whole
from .events import Code, Fact, Points, stored


class TicketKind(StrEnum):
    """What the customer wants."""

    ENQUIRY = "enquiry"
    INCIDENT = "incident"
    COMPLAINT = "complaint"
    AFTER_SALES = "after_sales"
    REQUEST = "request"
    FEEDBACK = "feedback"


class TicketState(StrEnum):
    """Where the case stands."""

    NEW = "new"
    OPEN = "open"
    RESOLVED = "resolved"
    CLOSED = "closed"


class Author(StrEnum):
    """Who wrote a reply. Only a public reply by a human answers a customer."""

    HUMAN = "human"
    BOT = "bot"
    CUSTOMER = "customer"


@stored("ticket.opened")
class TicketOpened(Fact):
    """A case is open."""

    kind: str
    severity: Code | None = None
    subject: personal.FreeText = None
    text: personal.FreeText = None


@stored("ticket.assigned")
class TicketAssigned(Fact):
    """Somebody owns the case by name."""

    owner: Code


@stored("ticket.replied")
class TicketReplied(Fact):
    """A message in the case."""

    author: str
    public: bool
    text: personal.FreeText = None


@stored("ticket.resolved")
class TicketResolved(Fact):
    """The case has a solution."""

    outcome: Code
    text: personal.FreeText = None


@stored("ticket.compensated")
class TicketCompensated(Fact):
    """The customer was given something for what went wrong."""

    points: Points
    reason: Code


@stored("ticket.satisfaction_recorded")
class SatisfactionRecorded(Fact):
    """How satisfied the customer is with the case, 1 to 5; attributed to its owner at that time."""

    score: Annotated[int, Field(ge=1, le=5)]
    owner: Code | None
    text: personal.FreeText = None


@stored("ticket.closed")
class TicketClosed(Fact):
    """The case is over."""


class Ticket(Aggregate):
    """A ticket's stream, folded."""

    APPLIERS: ClassVar[Appliers] = {}

    customer_id: UUID | None = None
    kind: TicketKind | None = None
    state: TicketState = TicketState.NEW
    owner: str | None = None
    opened_us: int = 0
    first_response_us: int | None = None
    resolved_us: int | None = None
    compensated_points: int = 0

    def open(
        self,
        stamp: Stamp,
        customer_id: UUID,
        kind: TicketKind,
        subject: str,
        text: str | None,
        severity: str | None,
    ) -> TicketOpened:
        """Starts the case."""
        return self.record(
            TicketOpened, stamp, customer_id, kind=kind.value, severity=severity, subject=subject, text=text
        )

    def assign(self, stamp: Stamp, owner: str) -> TicketAssigned:
        """Refuses: effective_too_early, unknown_ticket, ticket_closed."""
        self._must_be_live(stamp)
        return self.record(TicketAssigned, stamp, self.customer_id, owner=owner)

    def reply(self, stamp: Stamp, text: str, author: Author, public: bool) -> TicketReplied:
        """Refuses: effective_too_early, unknown_ticket, ticket_closed."""
        self._must_be_live(stamp)
        return self.record(TicketReplied, stamp, self.customer_id, author=author.value, public=public, text=text)

    def resolve(self, stamp: Stamp, outcome: str, text: str | None) -> TicketResolved:
        """A complaint needs a named owner (ISO 10002). Refuses: unknown_ticket, ticket_closed, owner_required."""
        self._must_be_live(stamp)
        if self.kind is TicketKind.COMPLAINT and self.owner is None:
            raise refusal("owner_required", "The complaint has no owner.", ticket=self.id)
        return self.record(TicketResolved, stamp, self.customer_id, outcome=outcome, text=text)

    def compensate(self, stamp: Stamp, points: int, reason: str) -> TicketCompensated:
        """Refuses: invalid_argument, effective_too_early, unknown_ticket, ticket_closed."""
        whole(points, "points")
        self._must_be_live(stamp)
        return self.record(TicketCompensated, stamp, self.customer_id, points=points, reason=reason)

    def record_satisfaction(self, stamp: Stamp, score: int, text: str | None) -> SatisfactionRecorded:
        """Also after closing. Refuses: unknown_ticket, not_resolved."""
        whole(score, "score", 1, 5)
        self._must_exist(stamp)
        if self.resolved_us is None:
            raise refusal("not_resolved", "Satisfaction is asked after resolution.", ticket=self.id)
        return self.record(SatisfactionRecorded, stamp, self.customer_id, score=score, owner=self.owner, text=text)

    def close(self, stamp: Stamp) -> TicketClosed:
        """Refuses: unknown_ticket, ticket_closed, not_resolved."""
        self._must_be_live(stamp)
        if self.state is not TicketState.RESOLVED:
            raise refusal("not_resolved", "The ticket is not resolved.", ticket=self.id, state=self.state.value)
        return self.record(TicketClosed, stamp, self.customer_id)

    def _must_exist(self, stamp: Stamp, *, live: bool = False) -> None:
        if self.customer_id is None:
            raise refusal("unknown_ticket", "There is no such ticket.", ticket=self.id)
        if live and self.state is TicketState.CLOSED:
            raise refusal("ticket_closed", "The ticket is closed.", ticket=self.id)
        stamp.not_before(self.opened_us, "the ticket was opened")

    def _must_be_live(self, stamp: Stamp) -> None:
        self._must_exist(stamp, live=True)


@applies(Ticket.APPLIERS, TicketOpened)
def _opened(ticket: Ticket, event: TicketOpened) -> None:
    ticket.customer_id = event.subject_id
    ticket.kind = TicketKind(event.kind)
    ticket.opened_us = event.effective_us


@applies(Ticket.APPLIERS, TicketAssigned)
def _assigned(ticket: Ticket, event: TicketAssigned) -> None:
    ticket.owner = event.owner
    if ticket.state is TicketState.NEW:
        ticket.state = TicketState.OPEN


@applies(Ticket.APPLIERS, TicketReplied)
def _replied(ticket: Ticket, event: TicketReplied) -> None:
    # The earliest in the world counts, in whatever order the book learned of them; nothing later moves it.
    if event.public and event.author == Author.HUMAN:
        first = ticket.first_response_us
        ticket.first_response_us = event.effective_us if first is None else min(first, event.effective_us)
    if ticket.state is TicketState.NEW and event.author != Author.CUSTOMER:
        ticket.state = TicketState.OPEN


@applies(Ticket.APPLIERS, TicketResolved)
def _resolved(ticket: Ticket, event: TicketResolved) -> None:
    ticket.state = TicketState.RESOLVED
    first = ticket.resolved_us
    ticket.resolved_us = event.effective_us if first is None else min(first, event.effective_us)


@applies(Ticket.APPLIERS, TicketCompensated)
def _compensated(ticket: Ticket, event: TicketCompensated) -> None:
    ticket.compensated_points += event.points


@applies(Ticket.APPLIERS, TicketClosed)
def _closed(ticket: Ticket, _: TicketClosed) -> None:
    ticket.state = TicketState.CLOSED
