"""What a workload did, kept outside of the book: which commands were begun, which were acknowledged, and with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tallybook import Book, Refused

ACTOR, PURPOSE = "agent:lin", "crash"

FACTS = {
    "register": "customer.registered",
    "change": "customer.changed",
    "purchase": "customer.purchase_recorded",
    "redeem": "loyalty.redemption_requested",
    "open": "ticket.opened",
    "reply": "ticket.replied",
    "look": "access.personal_data_read",
    "erase": "customer.erased",
    "rotate": "book.wrapping_key_rotated",
}
"""Verb → the one event that each such command records, in the book's log or (a look) in the log of reads."""

CALLS: dict[str, Callable[[Book], Callable[..., Any]]] = {
    "register": lambda book: book.customers.register,
    "change": lambda book: book.customers.change,
    "purchase": lambda book: book.customers.record_purchase,
    "redeem": lambda book: book.loyalty.redeem,
    "open": lambda book: book.tickets.open,
    "reply": lambda book: book.tickets.reply,
    "look": lambda book: book.profiles.get,
    "erase": lambda book: book.erasures.erase,
    "rotate": lambda book: book.rotate_wrapping_key,
}


@dataclass(frozen=True, slots=True)
class Deed:
    """One command of a workload. `token` is the correlation id of its events, and nobody else's."""

    token: UUID
    verb: str
    arguments: dict[str, Any]
    command_id: str | None = None

    def run(self, book: Book) -> Outcome:
        """Give the command. Raises what it raises, but for refusals: they are outcomes."""
        given = dict(self.arguments)
        customer = given.pop("customer", None) or given.pop("ticket", None)
        if self.command_id is not None:
            given["command_id"] = self.command_id
        with book.acting(ACTOR, purpose=PURPOSE, correlation_id=self.token):
            call = CALLS[self.verb](book)
            try:
                result = call(**given) if customer is None else call(customer, **given)
                if self.verb == "erase":
                    return Outcome(result.event_id)  # a proof is of its moment
                return Outcome(None if self.verb in ("look", "rotate") else result)
            except Refused as refused:
                return Outcome(refused=refused.code)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command answered."""

    result: Any = None
    refused: str | None = None

    @property
    def recorded(self) -> bool:
        """Whether the command must be in the log: it was done, or refused with a record of the attempt."""
        return self.refused in (None, "insufficient_points")

    @property
    def event_or_stream(self) -> UUID | None:
        """The id that the result names; None for one without."""
        if isinstance(self.result, UUID):
            return self.result
        found = getattr(self.result, "purchase_id", None) or getattr(self.result, "redemption_id", None)
        return found if isinstance(found, UUID) else None


@dataclass
class Import:
    """A file that is imported, how many of its lines were acknowledged, and whether that is being done."""

    path: str
    digest: str
    lines: int
    acknowledged: int = 0
    under_way: bool = False

    def reached(self, done: int, total: int) -> None:
        """So many lines are in the log: what an import tells."""
        self.acknowledged = max(self.acknowledged, done)


@dataclass
class Ledger:
    """What is known of a book's history without looking into the book.

    `backups`: a file, and what was acknowledged before the backup to it began.
    """

    begun: dict[UUID, Deed] = field(default_factory=dict)
    outcomes: dict[UUID, Outcome] = field(default_factory=dict)
    customers: list[UUID] = field(default_factory=list)
    names: dict[UUID, set[str]] = field(default_factory=dict)
    tickets: list[UUID] = field(default_factory=list)
    erased: set[UUID] = field(default_factory=set)
    imported: Import | None = None
    backups: dict[str, tuple[UUID, ...]] = field(default_factory=dict)

    def begin(self, deed: Deed) -> None:
        """A command is about to be given."""
        self.begun[deed.token] = deed
        if deed.verb == "change":
            # From now on the name may be this one: if it is in doubt, either is right.
            self.names.setdefault(deed.arguments["customer"], set()).add(deed.arguments["name"])

    def end(self, token: UUID, outcome: Outcome) -> None:
        """It returned."""
        self.outcomes[token] = outcome
        deed = self.begun[token]
        if outcome.refused is not None:
            return
        if deed.verb == "register":
            self.customers.append(outcome.result)
            self.names.setdefault(outcome.result, set()).add(deed.arguments["name"])
        elif deed.verb == "erase":
            self.erased.add(deed.arguments["customer"])
        elif deed.verb == "open":
            self.tickets.append(outcome.result)

    def in_doubt(self) -> list[Deed]:
        """Commands that were begun and did not return."""
        return [deed for token, deed in self.begun.items() if token not in self.outcomes]
