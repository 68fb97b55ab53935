"""`book.tickets`: cases from opening to answer, solution and compensation."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from tallybook.domain.errors import refusal
from tallybook.domain.ticket import Author, Ticket, TicketKind

from .commands import Desk, Work, command
from .customers import DEFAULT_PROGRAMME, as_id
from .times import When, as_of_us, iso
from .views import TimelineEntry, timeline_of


@dataclass(frozen=True, slots=True)
class TicketView:
    """A ticket without its texts: times in UTC, first response = the first public reply by a human."""

    ticket_id: UUID
    customer_id: UUID | None
    kind: str
    state: str
    owner: str | None
    opened_at: str | None
    first_response_at: str | None
    first_response_minutes: int | None
    resolved_at: str | None
    compensated_points: int


class TicketDesk(Desk):
    """Commands about tickets. Each also has an awaitable form: `await book.tickets.open.aio(…)`."""

    _name = "tickets"

    @command
    def open(
        self,
        work: Work,
        customer: UUID | str,
        *,
        subject: str,
        kind: TicketKind | str = TicketKind.ENQUIRY,
        text: str | None = None,
        severity: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Open a case for a customer; its id. Refuses: unknown_customer, invalid_argument."""
        owner = work.customer(as_id(customer, "customer"))
        try:
            wanted = TicketKind(kind)
        except ValueError:
            raise refusal(
                "invalid_argument", f"kind: one of {', '.join(TicketKind)} is wanted.", argument="kind"
            ) from None
        ticket = work.fresh_ticket()
        ticket.open(work.stamp, owner.id, wanted, subject, text, severity)
        return ticket.id

    @command
    def assign(
        self,
        work: Work,
        ticket: UUID | str,
        owner: str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Give the case an owner by name (`agent:lin`).

        Refuses: invalid_argument, unknown_ticket, ticket_closed, effective_too_early.
        """
        work.ticket(as_id(ticket, "ticket")).assign(work.stamp, owner)

    @command
    def reply(
        self,
        work: Work,
        ticket: UUID | str,
        text: str,
        *,
        author: Author | str = Author.HUMAN,
        public: bool = True,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Record a message by a human, a bot or the customer; its id. A private one is a note.

        Refuses: invalid_argument, unknown_ticket, ticket_closed, effective_too_early.
        """
        try:
            who = Author(author)
        except ValueError:
            raise refusal(
                "invalid_argument", f"author: one of {', '.join(Author)} is wanted.", argument="author"
            ) from None
        return work.ticket(as_id(ticket, "ticket")).reply(work.stamp, text, who, public).event_id

    @command
    def resolve(
        self,
        work: Work,
        ticket: UUID | str,
        outcome: str,
        *,
        text: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Record the solution.

        Refuses: invalid_argument, unknown_ticket, ticket_closed, effective_too_early, owner_required.
        """
        work.ticket(as_id(ticket, "ticket")).resolve(work.stamp, outcome, text)

    @command
    def compensate(
        self,
        work: Work,
        ticket: UUID | str,
        points: int,
        *,
        reason: str = "complaint",
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Give points for what went wrong: on the ticket and on the account, in one transaction.

        Refuses: invalid_argument, unknown_ticket, ticket_closed, effective_too_early, not_enrolled, no_rule_set.
        """
        case = work.ticket(as_id(ticket, "ticket"))
        case.compensate(work.stamp, points, reason)
        assert case.customer_id is not None
        account = work.enrolled_account(case.customer_id, programme)
        account.grant_goodwill(work.stamp, points, reason, case.id, work.control())

    @command
    def record_satisfaction(
        self,
        work: Work,
        ticket: UUID | str,
        score: int,
        *,
        text: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Record how satisfied the customer is, 1 to 5.

        Refuses: invalid_argument, unknown_ticket, effective_too_early, not_resolved.
        """
        work.ticket(as_id(ticket, "ticket")).record_satisfaction(work.stamp, score, text)

    @command
    def close(
        self,
        work: Work,
        ticket: UUID | str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """End the case. Refuses: unknown_ticket, ticket_closed, effective_too_early, not_resolved."""
        work.ticket(as_id(ticket, "ticket")).close(work.stamp)

    def read(self, ticket: UUID | str) -> list[TimelineEntry]:
        """All that happened in a case, its texts opened: one recorded read.

        Refuses: acting_required, unknown_ticket, invalid_argument.
        """
        core = self._core
        core.check_open()
        acting = core.acting_now()
        found = core.app.load(Ticket, as_id(ticket, "ticket"))
        if found.customer_id is None:
            raise refusal("unknown_ticket", "There is no such ticket.", ticket=found.id)
        return timeline_of(core, acting, "tickets.read", core.stream(found.id), found.customer_id)

    def get(self, ticket: UUID | str, *, as_of: When | None = None, known_at: When | int | None = None) -> TicketView:
        """Where a case stands, or stood. Holds no personal value, so it is no recorded read.

        Refuses: unknown_ticket, naive_time, invalid_argument.
        """
        core = self._core
        core.check_open()
        found = core.app.load(Ticket, as_id(ticket, "ticket"))
        if as_of is not None or known_at is not None:
            at_us = core.now_us() if as_of is None else as_of_us(as_of)
            known = core.known(known_at)
            then = [one.event for one in core.stream(found.id) if one.event.effective_us <= at_us and known(one)]
            found = Ticket.fold(None, then) or Ticket(found.id)
        if found.customer_id is None or found.kind is None:
            raise refusal("unknown_ticket", "There is no such ticket.", ticket=found.id)
        first = found.first_response_us
        return TicketView(
            found.id,
            found.customer_id,
            found.kind.value,
            found.state.value,
            found.owner,
            iso(found.opened_us),
            iso(first),
            None if first is None else (first - found.opened_us) // 60_000_000,
            iso(found.resolved_us),
            found.compensated_points,
        )
