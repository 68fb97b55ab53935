"""Seeded commands of every kind on one book."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

from tallybook import Book

from .ledger import ACTOR, PURPOSE, Deed, Ledger, Outcome

Clock = Callable[[], int]
"""Microseconds since 1970."""

ADOPTED = "1996-01-01T00:00:00Z"
CHECKPOINT_S = 0.02
"""Checkpoints are signed often, so that crashes meet them."""


def prepare(book: Book) -> None:
    """Put the standard rule set in force, once."""
    if not book.rules.adopted():
        with book.acting("job:setup", purpose=PURPOSE):
            book.rules.adopt("standard", effective_at=ADOPTED)


def next_deed(chance: random.Random, ledger: Ledger, *, ids: float = 0.5, looks: bool = True) -> Deed:
    """A command that makes sense on what the ledger knows. `ids` is the share of commands with a command id."""
    token = UUID(int=chance.getrandbits(128), version=4)
    verb = "register"
    if ledger.customers:
        verb = chance.choice(
            ("register", "purchase", "purchase", "purchase", "purchase", "redeem", "open", "reply", "change", "look")
        )
        if chance.random() < 0.06:
            verb = chance.choice(("erase", "erase", "rotate"))
    if (verb == "reply" and not ledger.tickets) or (verb == "look" and not looks):
        verb = "purchase"
    arguments: dict[str, Any] = {}
    if verb == "reply":
        arguments = {"ticket": chance.choice(ledger.tickets), "text": f"reply {token}"}
    elif verb not in ("register", "rotate"):
        arguments["customer"] = chance.choice(ledger.customers[-30:])
    if verb in ("register", "change"):
        arguments["name"] = f"name {token}"
    if verb == "register":
        arguments["identifiers"] = {"crm": str(token)}
    elif verb == "purchase":
        net_minor = chance.randrange(100, 20000)
        arguments["lines"] = [{"sku": "cd", "category": "music", "quantity": 1, "net_minor": net_minor}]
        if chance.random() < 0.5:
            arguments["order_id"] = str(token)
    elif verb == "redeem":
        arguments |= {"points": chance.randrange(1, 200), "reward": "mug"}
    elif verb == "open":
        arguments["subject"] = f"subject {token}"
    elif verb == "erase":
        arguments["reason"] = "gdpr-17"
    with_id = verb not in ("look", "rotate") and chance.random() < ids
    return Deed(token, verb, arguments, str(token) if with_id else None)


def perform(book: Book, deed: Deed, begin: Callable[[Deed], None], end: Callable[[UUID, Outcome], None]) -> None:
    """Give a command, told before and after. A new customer of a deed is enrolled at once, so that points follow."""
    begin(deed)
    end(deed.token, deed.run(book))


def enrol(book: Book, customer: UUID) -> None:
    """Open an account, so that purchases earn. It may be there already, from a time that nobody was told of."""
    with book.acting(ACTOR, purpose=PURPOSE):
        book.loyalty.enrol(customer, command_id=f"enrol {customer}")
