"""The book that is attacked, and all that it says: public reads, and commands whose answer rests on what is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import pytest

import tallybook
from tallybook import Book, Refused, TallybookError
from tallybook.adapters import application, snapshots

BOOK = "shop.book"
OLDER = ".older"
"""What a copy of a file of the book is called that somebody made earlier."""
LINES = [{"sku": "a", "category": "c", "quantity": 1, "net_minor": 5000}]
NOW_US = int(datetime(2024, 6, 1, tzinfo=UTC).timestamp()) * 1_000_000
NOW = "2024-06-01T00:00:00Z"
ADA, BOB, CYD, DAN = (UUID(int=number) for number in range(1, 5))
FEW = 8
"""After so many events a stream has a snapshot."""


class Ids:
    """Ids that count on from what is being done, whatever was done before."""

    def __init__(self, what: str = "opening") -> None:
        self.begin(what)

    def begin(self, what: str) -> None:
        """Start again, for something else."""
        self._ids = (uuid5(NAMESPACE_OID, f"{what} {number}") for number in count())

    def __call__(self) -> UUID:
        return next(self._ids)


class Clock:
    """A clock that goes on by itself, by so much at each look."""

    def __init__(self, now_us: int, step_us: int = 0) -> None:
        self.now = now_us
        self._step = step_us

    def __call__(self) -> int:
        self.now += self._step
        return self.now


def opened(folder: Path, clock: Clock, ids: Ids) -> Book:
    """The book in a folder."""
    return tallybook.open(f"sqlite:///{folder}/{BOOK}", now_us=clock, new_id=ids, checkpoint_s=30.0)


@dataclass(frozen=True, slots=True)
class Template:
    """A book that nobody touched, a checkpoint of each log that was kept elsewhere, and what it says."""

    folder: Path
    kept: dict[str, str]
    answers: dict[str, str]


def template(folder: Path) -> Template:
    """Make the book: something in each table, more than a tile of events."""
    folder.mkdir()
    with short_streams():
        clock = Clock(NOW_US - 5_000_000_000, 1_000_000)
        with opened(folder, clock, Ids("made")) as book, book.acting("admin:root", purpose="administration"):
            fill(book)
            book.audit.checkpoint()
            book.audit.checkpoint("reads")
            for name in (BOOK, f"{BOOK}.reads"):
                with (
                    closing(sqlite3.connect(folder / name)) as now,
                    closing(sqlite3.connect(folder / f"{name}{OLDER}")) as then,
                ):
                    now.backup(then)
            with book.acting("agent:lin", purpose="support"):
                for number in range(3):
                    book.customers.record_interaction(BOB, "visit", text=f"note {number}")
                    book.profiles.get(BOB)
        assert clock.now < NOW_US
        with sqlite3.connect(folder / BOOK) as one, sqlite3.connect(folder / f"{BOOK}.reads") as other:
            last = "SELECT note FROM checkpoints ORDER BY size DESC, signed_us DESC LIMIT 1"
            kept = {"events": one.execute(last).fetchone()[0], "reads": other.execute(last).fetchone()[0]}
        one.close()
        other.close()
        twin = folder.with_name(folder.name + "-twin")
        copy(folder, twin)
        with opened(twin, Clock(NOW_US), ids := Ids()) as book:
            answers = {name: told for name, told, _ in asked(book, ids)}
        return Template(folder, kept, answers)


@contextmanager
def short_streams() -> Iterator[None]:
    """Streams are long early, while this is entered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "EVERY", FEW)
        patch.setattr(application, "PIECE", FEW)
        yield


def copy(source: Path, target: Path) -> None:
    """Copy a book's files with their modes."""
    target.mkdir()
    for one in source.iterdir():
        made = target / one.name
        made.write_bytes(one.read_bytes())
        made.chmod(one.stat().st_mode)


def fill(book: Book) -> None:
    """Something in each table."""
    book.policy.grant("admin:root", "admin")
    for actor, role in (("agent:lin", "support"), ("agent:kim", "clerk")):
        book.policy.grant(actor, role)
    book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
    book.retention.declare(
        "orders", "transaction", purpose="bookkeeping", legal_basis="legal_obligation", period=10, unit="years",
        action="keep",
    )  # fmt: skip
    for customer, name in ((ADA, "Ada"), (BOB, "Bob"), (CYD, "Cyd"), (DAN, "Dan")):
        book.customers.register(
            customer_id=customer,
            name=name,
            email=f"{name}@example.org".lower(),
            identifiers={"crm": name},
            command_id=name,
        )
        book.loyalty.enrol(customer)
        book.customers.grant_consent(customer, "marketing", source="web", text_version="v1")
    for number in range(40):
        book.customers.register(name=f"Client {number}", phone=f"+49 30 {number}", identifiers={"crm": f"C{number}"})
    for number in range(24):
        buyer = (ADA, ADA, BOB)[number % 3]
        book.customers.record_purchase(buyer, LINES, order_id=f"order {number}", command_id=f"purchase {number}")
    book.customers.record_purchase(DAN, LINES, order_id="kept")
    ticket = book.tickets.open(ADA, subject="late", text="where is it?", kind="complaint", command_id="ticket")
    book.tickets.assign(ticket, "agent:lin")
    book.tickets.reply(ticket, "we look into it")
    book.tickets.resolve(ticket, "found")
    book.customers.withdraw_consent(BOB, "marketing")
    book.customers.restrict(CYD, reason="disputed")
    book.loyalty.redeem(ADA, 5, reward="R1", command_id="redeem")
    book.erasures.erase(DAN, reason="gdpr-17")
    book.policy.adopt(POLICY)
    with book.acting("agent:lin", purpose="support"):
        for customer in (ADA, BOB):
            book.profiles.get(customer)
            book.profiles.timeline(customer)
            with suppress(Refused):
                book.tickets.read(ticket)
        with suppress(Refused):
            book.rules.adopt("candidate", effective_at="2030-01-01T00:00:00Z")
    book.tiers.counts()
    book.projections.catch_up()


POLICY: dict[str, Any] = {
    "name": "all",
    "version": "1",
    "purposes": {
        "administration": {"text": "All that there is", "basis": "legitimate_interests", "during_restriction": True},
        "support": {"text": "Answering", "basis": "contract"},
    },
    "rules": [
        {"id": "all", "roles": ["admin"], "fields": ["*"], "commands": ["*"]},
        {"id": "some", "roles": ["support"], "purposes": ["support"], "fields": ["name"], "commands": ["customers.*"]},
        {"id": "year", "roles": ["support"], "effect": "mask", "fields": ["contact.*"]},
    ],
}
"""What a book says is told to an administrator, from whom nothing is withheld: that would hide wrong answers."""

# ── what is asked ───────────────────────────────────────────────────────────────────────────────────────────────


def _export(form: str) -> Callable[[Book], object]:
    def export(book: Book) -> object:
        file = Path(book._core.storage.url.removeprefix("sqlite:///")).parent / "out"
        try:
            getattr(book.exports, form)(file, replace=True, **({"log": "events"} if form == "ocsf" else {}))
            return sha256(file.read_bytes()).hexdigest()
        finally:
            file.unlink(missing_ok=True)

    return export


def _tickets(book: Book) -> list[Any]:
    return [one.event.originator_id for one in book.follow(timeout_s=0) if one.event.stored_name == "ticket.opened"]


def _kept(book: Book, log: str) -> str:
    old = {f"{one.size} {one.root} {one.note!r}" for one in book.audit.checkpoints(log) if one.signed_at < NOW}
    return "\n".join(sorted(old))


ALL_CUSTOMERS = (ADA, BOB, CYD, DAN)
READS: dict[str, Callable[[Book], object]] = {
    "position": lambda book: book.position(),
    "origin": lambda book: book.origin,
    "profiles": lambda book: [book.profiles.get(one) for one in ALL_CUSTOMERS],
    "profiles as of": lambda book: [book.profiles.get(one, as_of="2024-05-31T23:00:00Z") for one in (ADA, BOB)],
    "timelines": lambda book: [book.profiles.timeline(one) for one in ALL_CUSTOMERS],
    "privacy": lambda book: [book.customers.privacy(one) for one in ALL_CUSTOMERS],
    "requests": lambda book: book.customers.requests(),
    "segments": lambda book: list(book.profiles.segments(system="crm")),
    "tickets": lambda book: [(book.tickets.get(one), book.tickets.read(one)) for one in _tickets(book)],
    "balances": lambda book: [book.loyalty.balance(one) for one in (ADA, BOB, CYD)],
    "accounts": lambda book: [book.loyalty.account(one) for one in (ADA, BOB, CYD)],
    "account as of": lambda book: book.loyalty.account(ADA, as_of="2024-05-31T23:30:00Z"),
    "tiers": lambda book: [book.tiers.counts(), book.tiers.members("basic"), book.tiers.history(ADA)],
    "rules": lambda book: book.rules.adopted(),
    "policy": lambda book: [book.policy.in_force(), book.policy.roles()],
    "retention": lambda book: [book.retention.schedules(), book.retention.due()],
    "erased": lambda book: book.erasures.all(),
    "trail": lambda book: [book.audit.trail(one) for one in (None, *ALL_CUSTOMERS)],
    "subject report": lambda book: book.audit.subject_report(ADA).json(),
    "vkeys": lambda book: book.audit.vkeys(),
    "checkpoints": lambda book: _kept(book, "events"),
    "checkpoints of reads": lambda book: _kept(book, "reads"),
    "proofs": lambda book: [(one.leaf, one.hashes) for one in map(book.audit.proof, (1, 100, 255, 256, 257))],
    "follow": lambda book: [(one.position, one.event) for one in book.follow(timeout_s=0)],
    "replay": lambda book: book.replay(),
    "cloudevents": _export("cloudevents"),
    "ocsf": _export("ocsf"),
    "ocel": _export("ocel"),
    # Behind all that shows the reads: one that fails on damaged claims is not on record.
    "find": lambda book: [
        book.customers.find("crm", name) for name in ("Ada", "Bob", "Cyd", "Dan", "Eve", "C7", "C39")
    ],
}
COMMANDS: dict[str, Callable[[Book], object]] = {
    "repeat a registration": lambda book: book.customers.register(
        customer_id=ADA, name="Ada", email="ada@example.org", identifiers={"crm": "Ada"}, command_id="Ada"
    ),
    "repeat a purchase": lambda book: book.customers.record_purchase(
        ADA, LINES, order_id="order 3", command_id="purchase 3"
    ),
    "an order twice": lambda book: book.customers.record_purchase(ADA, LINES, order_id="order 9"),
    "an identifier twice": lambda book: book.customers.register(identifiers={"crm": "Bob"}),
    "a free identifier": lambda book: book.customers.register(identifiers={"crm": "Dan"}, customer_id=UUID(int=99)),
    "a redemption": lambda book: book.loyalty.redeem(ADA, 5, reward="R2"),
    "a redemption that is too much": lambda book: book.loyalty.redeem(ADA, 10**6, reward="R1"),
    "a purchase": lambda book: book.customers.record_purchase(BOB, LINES, order_id="order 99").points,
    "erase again": lambda book: (lambda one: (one.position, one.reason, one.lookups))(
        book.erasures.erase(DAN, reason="gdpr-17")
    ),
}


PARTS_MAY_BE_GONE = ("checkpoints", "checkpoints of reads")
"""Of these answers, some lines may be missing: of the checkpoints of one size, the later ones are not missed when they
are taken out. That is no wrong answer; one that was not signed must not be told."""


def _lines(told: str) -> list[str]:
    return [one for one in told.strip("'\"").split("\\n") if one]


def right(name: str, told: str, answer: str) -> bool:
    """Whether what a book says is what it said before it was attacked."""
    return told == answer or (name in PARTS_MAY_BE_GONE and {*_lines(told)} <= {*_lines(answer)})


def asked(book: Book, ids: Ids) -> list[tuple[str, str, bool]]:
    """What a book says: name of the question, its answer or error, and whether it is an error that is not a refusal of
    what was asked."""
    found = []
    for name, ask in (READS | COMMANDS).items():
        ids.begin(name)
        with book.acting("admin:root", purpose="administration"):
            try:
                found.append((name, repr(ask(book)), False))
            except TallybookError as error:
                found.append((name, f"{type(error).__name__} {getattr(error, 'code', '')}", True))
    return found
