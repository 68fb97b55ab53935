"""A story for audit replays, told the same way each time: clock, ids and origin are given, keys are random.

As a program, it prints the canonical document of each of its questions: other interpreters are compared by that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any
from unittest import mock
from uuid import NAMESPACE_OID, UUID, uuid5

import tallybook
from tallybook import Book
from tallybook.domain.errors import Refused
from tallybook.domain.rules import parse_rule_set
from tallybook.times import moment_us

ORIGIN = "tallybook/audit-story"
ADA, BOB = UUID(int=1), UUID(int=2)
NAME, MAIL, PHONE, TEXT, REPLY = "Ada Lovelace", "ada@example.org", "+44 20 7946 0018", "The parcel was wet", "So sorry"

MAIN: dict[str, Any] = {
    "name": "main",
    "version": "1",
    "currency": "USD",
    "earning": [
        {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100},
        {
            "id": "large",
            "kind": "multiplier",
            "factor": "3/2",
            "when": "order.net_minor >= 5000",
        },
    ],
    "expiry": {"months": 12},
    "tiers": {
        "window_months": 12,
        "levels": [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 100}],
    },
}
CLUB: dict[str, Any] = {
    **MAIN,
    "name": "club",
    "programme": "club",
    "earning": [{"id": "welcome", "kind": "fixed", "points": 7}],
    "expiry": {"never": True},
    "refunds": {"earning": "within_balance"},
}
POLICY: dict[str, Any] = {
    "name": "story",
    "version": "1",
    "purposes": {
        "sales": {"text": "Selling", "basis": "contract"},
        "support": {"text": "Answering", "basis": "contract"},
        "marketing": {"text": "Writing", "basis": "consent", "consent": "marketing"},
        "audit": {"text": "Showing", "basis": "legal_obligation", "during_restriction": True},
        "administration": {"text": "Running", "basis": "legitimate_interests", "during_restriction": True},
    },
    "rules": [
        {
            "id": "support-answers", "roles": ["support"], "purposes": ["support"],
            "actions": ["profiles.*", "tickets.*"], "fields": ["*"], "commands": ["customers.*", "tickets.*"],
        },
        {"id": "support-sees-the-year", "effect": "mask", "roles": ["support"], "fields": ["birth_date"]},
        {
            "id": "support-writes", "roles": ["support"], "purposes": ["marketing"], "actions": ["profiles.*"],
            "fields": ["name", "contact.email"],
        },
        {"id": "auditors-look", "effect": "mask", "roles": ["auditor"], "purposes": ["audit"], "fields": ["*"]},
        {"id": "counsel", "roles": ["counsel"], "purposes": ["audit"], "fields": ["*"], "commands": ["erasures.*"]},
        {
            "id": "admins-run-the-book", "roles": ["admin"], "purposes": ["administration"], "actions": ["audit.*"],
            "fields": ["identifier.*"], "commands": ["policy.*", "rules.*", "loyalty.sweep"],
        },
    ],
}  # fmt: skip
LINES = [{"sku": "cd", "quantity": 2, "net_minor": 12_001}, {"sku": "pen", "quantity": 1, "net_minor": 99}]


class Clock:
    """Goes on by a second with each look, or to where it is put."""

    def __init__(self) -> None:
        self.now_us = moment_us("2019-12-31T00:00:00Z", "now")

    def __call__(self) -> int:
        self.now_us += 1_000_000
        return self.now_us

    def put(self, when: str) -> None:
        """Time goes by."""
        later = moment_us(when, "when")
        assert later >= self.now_us
        self.now_us = later


def ids() -> Iterator[UUID]:
    """Ids that are far from each other, as random ones are."""
    return (uuid5(NAMESPACE_OID, f"audit story {number}") for number in count())


@contextmanager
def opened(url: str = "memory:") -> Iterator[tuple[Book, Clock]]:
    """A new book whose clock, ids and origin are given."""
    clock = Clock()
    with (
        mock.patch("tallybook.adapters.storage._new_origin", return_value=ORIGIN),
        tallybook.open(url, now_us=clock, new_id=ids().__next__) as book,
    ):
        yield book, clock


def chapters(book: Book, clock: Clock) -> Iterator[str]:
    """What happens, chapter by chapter; after each one the book stands whole."""
    with book.acting("admin:root", purpose="administration"):
        book.rules.adopt(parse_rule_set(MAIN, "main"), effective_at="2019-01-01T00:00:00Z")
        book.rules.adopt(parse_rule_set(CLUB, "club"), effective_at="2019-06-01T00:00:00Z")
        book.policy.grant("admin:root", "admin")
        book.policy.grant("agent:lin", "support")
        book.policy.grant("agent:mo", "support")
        book.policy.grant("audit:jo", "auditor")
        book.policy.grant("counsel:di", "counsel")
    yield "rules"
    clock.put("2020-01-10T09:00:00Z")
    with book.acting("agent:lin", purpose="support", channel="phone"):
        book.customers.register(
            customer_id=ADA, name=NAME, email=MAIL, phone=PHONE, birth_date="1815-12-10", country="GB",
            identifiers={"crm": "C-1"},
        )  # fmt: skip
        book.customers.register(customer_id=BOB, name="Bob", email="bob@example.org")
        book.customers.refer(BOB, ADA, note="Plays chess", relation="a neighbour")
        book.customers.grant_consent(
            ADA, "marketing", source="web", text_version="v3", valid_until="2020-03-01T00:00:00Z"
        )
        book.customers.grant_consent(ADA, "profiling", source="web", text_version="p1", confirmed=False)
        book.loyalty.enrol(ADA)
        book.loyalty.enrol(ADA, programme="club")
        book.loyalty.enrol(BOB)
    yield "registered"
    clock.put("2020-01-15T09:00:00Z")
    with book.acting("agent:lin", purpose="sales", channel="web"):
        first = book.customers.record_purchase(ADA, LINES, order_id="A-1").purchase_id
        book.customers.record_purchase(BOB, LINES, order_id="B-1")
        book.loyalty.redeem(ADA, 150, reward="MUG")
        with suppress(Refused):
            book.loyalty.redeem(ADA, 5_000, reward="CAR")
    yield "bought"
    clock.put("2020-02-01T09:00:00Z")
    with book.acting("agent:mo", purpose="support", channel="email"):
        case = book.tickets.open(ADA, subject=TEXT, text="Very wet", kind="complaint")
        book.tickets.assign(case, "agent:mo")
        book.tickets.reply(case, REPLY)
        book.profiles.get(ADA)
        book.profiles.timeline(ADA)
        book.tickets.compensate(case, 5, reason="wet_parcel")
    with book.acting("admin:root", purpose="administration"):
        book.policy.adopt(POLICY)
        book.policy.revoke("agent:mo", "support")
    yield "complained"
    clock.put("2020-02-10T09:00:00Z")
    with book.acting("agent:lin", purpose="support"):
        # Learned late: she had bought, and gave back what she had spent the points of.
        book.customers.record_purchase(
            ADA, [{"sku": "cap", "quantity": 1, "net_minor": 2_500}], effective_at="2020-01-12T12:00:00Z"
        )
        book.customers.record_return(ADA, {1: 1}, purchase_id=first, effective_at="2020-02-05T12:00:00Z")
        book.customers.record_purchase(ADA, [{"sku": "cd", "quantity": 1, "net_minor": 9_000}], order_id="A-3")
        book.customers.change(ADA, name="Ada King", effective_at="2020-01-20T00:00:00Z")
        book.tickets.resolve(case, outcome="replaced", text="A new one is on its way")
        book.customers.object_to(ADA, "automated_decisions")
        book.customers.record_request(ADA, "access", channel="email")
    with book.acting("agent:mo", purpose="support"), suppress(Refused):
        book.profiles.get(ADA)
    yield "came back"
    clock.put("2021-03-01T02:00:00Z")
    with book.acting("admin:root", purpose="administration"):
        book.loyalty.sweep("2021-03-01T00:00:00Z")
        newer = {**MAIN, "version": "2", "earning": [{**MAIN["earning"][0], "points": 2}]}
        book.rules.adopt(parse_rule_set(newer, "main"), effective_at="2021-03-02T00:00:00Z")
    yield "swept"
    clock.put("2021-03-05T09:00:00Z")
    with book.acting("agent:lin", purpose="support"):
        book.customers.record_purchase(ADA, LINES, order_id="A-2")
        book.customers.restrict(ADA, "accuracy_contested")
    yield "restricted"
    clock.put("2021-04-01T00:00:00Z")


QUESTIONS: tuple[tuple[str, str | None], ...] = (
    ("2020-01-16T00:00:00Z", None),
    ("2020-01-16T00:00:00Z", "2020-01-16T00:00:00Z"),
    ("2020-02-03T00:00:00Z", None),
    ("2020-03-02T00:00:00Z", None),
    ("2021-03-31", None),
)
"""At, known at: of these, documents are compared byte by byte."""


def told(book: Book, clock: Clock) -> Book:
    """The whole story."""
    for _ in chapters(book, clock):
        pass
    return book


def documents(url: str = "memory:") -> list[bytes]:
    """The canonical document of each question."""
    with opened(url) as (book, clock):
        told(book, clock)
        with book.acting("counsel:di", purpose="audit"):
            return [book.audit.replay(ADA, at, known_at=known_at).canonical() for at, known_at in QUESTIONS]


if __name__ == "__main__":
    for document in documents():
        sys.stdout.buffer.write(document)
