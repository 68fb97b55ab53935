"""What is kept of a command so that its repetition has no second effect confirms no guess at what was erased."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import tallybook
from tallybook import Book
from tallybook.adapters.database import Database
from tallybook.domain.errors import Refused

DAY_US = 86_400_000_000
LINES = [{"sku": "a", "quantity": 1, "net_minor": 5000}]
START_US = 1_700_000_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = START_US

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["files", pytest.param("server", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "server":
        return str(request.getfixturevalue("server_book_url"))
    return f"sqlite:///{tmp_path}/shop.book"


Commands = dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]]
"""By id: a command, its arguments, and those of them that a guess has otherwise."""


def commands(book: Book, ada: UUID) -> Commands:
    """Commands that were given about a customer, with personal values in them."""
    customers = book.customers
    return {
        "signup": (customers.register, {"customer_id": ada, "name": "Ada", "email": "ada@example.org"}, {"name": "Bo"}),
        "note": (
            customers.record_interaction,
            {"customer": ada, "kind": "note", "text": "is ill"},
            {"text": "is well"},
        ),
        "order": (
            customers.record_purchase,
            {"customer": ada, "lines": LINES, "order_id": "O-1"},
            {"order_id": "O-2"},
        ),
        "case": (
            book.tickets.open,
            {"customer": ada, "kind": "complaint", "subject": "late", "text": "where?"},
            {"subject": "lost"},
        ),
        "crm": (
            customers.link_identifier,
            {"customer": ada, "system": "crm", "external_id": "1"},
            {"external_id": "2"},
        ),
    }


def answers(book: Book, ada: UUID) -> dict[str, tuple[Any, Any]]:
    """To each command repeated as it was, and with a guess."""

    def answer(run: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        try:
            return run(**arguments)
        except Refused as refused:
            return refused.code

    return {
        command_id: (
            answer(run, {**given, "command_id": command_id}),
            answer(run, {**given, **guess, "command_id": command_id}),
        )
        for command_id, (run, given, guess) in commands(book, ada).items()
    }


def digests(book: Book) -> dict[str, int]:
    """How long the digests in the receipts are."""
    log, keyring = book._core.app.log, book._core.keyring
    names = ("signup", "note", "order", "case", "crm", "other")
    found = {one: log.receipt(keyring.lookup_hash("command", one)[:16]) for one in names}
    return {name: len(one.digest) for name, one in found.items() if one is not None}


def given(book: Book) -> UUID:
    """Everything done once."""
    ada = UUID(int=7)
    for command_id, (run, arguments, _) in commands(book, ada).items():
        run(**arguments, command_id=command_id)
    book.customers.register(name="Cyd", command_id="other")
    return ada


def as_before(book: Book, ada: UUID, before: dict[str, tuple[Any, Any]]) -> None:
    """Each repetition has the result of the first, whatever is guessed, and no effect."""
    position = book.position()
    after = answers(book, ada)
    assert {name: right for name, (right, _) in after.items()} == {name: right for name, (right, _) in before.items()}
    assert all(right == guess for right, guess in after.values()), after
    assert book.position() == position
    assert digests(book) == {"signup": 8, "note": 8, "order": 8, "case": 8, "crm": 8, "other": 32}


def test_no_repetition_confirms_a_guess_at_what_was_erased(url: str, clock: Clock) -> None:
    with tallybook.open(url, now_us=clock) as book, book.acting("agent:lin", purpose="support"):
        ada = given(book)
        before = answers(book, ada)
        assert {guess for _, guess in before.values()} == {"command_id_reused"}
        book.erasures.erase(ada, reason="gdpr-17", command_id="erase-ada")
        assert book.erasures.erase(ada, reason="gdpr-17", command_id="erase-ada").reason == "gdpr-17"
        as_before(book, ada, before)
        with pytest.raises(Refused) as refused:  # another command is another
            book.customers.register(name="Ada", command_id="note")
        assert refused.value.code == "command_id_reused"
        assert {one.name for one in book.doctor() if one.state == "failed"} == set()
    with tallybook.open(url, now_us=clock) as book, book.acting("agent:kim", purpose="support"):
        as_before(book, ada, before)


def test_no_byte_of_a_digest_of_arguments_is_left_in_the_files(tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book, book.acting("agent:lin", purpose="support"):
        ada = given(book)
        rows = book._core.app.database.rows("SELECT digest FROM receipts WHERE first_position<?", [book.position()])
        told = [digest[8:] for (digest,) in rows]
        assert len(told) == 6
        book.erasures.erase(ada, reason="gdpr-17")
        files = {one.name: one.read_bytes() for one in tmp_path.iterdir() if one.is_file()}
    assert "shop.book-wal" in files
    found = [sum(digest in held for held in files.values()) for digest in told]
    assert sorted(found) == [0, 0, 0, 0, 0, 1]  # that of another customer is there


def test_nor_at_single_values_that_a_sweep_erased(url: str, clock: Clock) -> None:
    with tallybook.open(url, now_us=clock) as book, book.acting("agent:dpo", purpose="retention"):
        ada = given(book)
        before = answers(book, ada)
        book.retention.declare(
            "talk", "communication", purpose="service", legal_basis="contract", period=1, unit="days"
        )
        clock.now += 3 * DAY_US
        assert book.retention.sweep().partly == 1
        assert book.profiles.get(ada)["name"] == "Ada"
        as_before(book, ada, before)


def test_a_trail_that_can_not_be_used_keeps_no_digest(url: str, clock: Clock) -> None:
    with tallybook.open(url, now_us=clock) as book, book.acting("agent:lin", purpose="support"):
        ada = given(book)
        before = answers(book, ada)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(book._core, "catch_up", _stopped)
            book.erasures.erase(ada, reason="gdpr-17")
        as_before(book, ada, before)


def _stopped(*_: Any) -> None:
    raise tallybook.BookError("The read model trail is stopped.", path="here", remedy="Rebuild it.")


def test_a_receipt_that_somebody_emptied_gives_its_result_to_nobody(url: str, clock: Clock) -> None:
    with tallybook.open(url, now_us=clock) as book, book.acting("agent:lin", purpose="support"):
        ada = given(book)
        events: Database = book._core.app.database
        with events.session(write=True) as session:
            session.run("UPDATE receipts SET digest=?", [b""])
        with pytest.raises(tallybook.BookDamaged, match="of the table receipts is not what the book wrote"):
            answers(book, ada)
        assert "receipts" in {one.name for one in book.doctor() if one.state == "failed"}
