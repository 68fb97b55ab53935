"""A command trusts what its process saw last of the streams: what that saves, and that it never shows."""

from __future__ import annotations

import inspect
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.heads import head_in, put_head

import tallybook
from tallybook.adapters.snapshots import differing
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.book import Book
from tallybook.commands import Work, command
from tallybook.customers import CustomerDesk
from tallybook.domain.aggregate import Aggregate
from tallybook.domain.errors import Refused
from tallybook.imports import ImportDesk
from tallybook.loyalty import LoyaltyDesk
from tallybook.rules import RulesDesk
from tallybook.tickets import TicketDesk

RULES = Path(tallybook.__file__).parent / "data" / "standard.toml"
SINCE = "2020-01-01T00:00:00Z"


def line(net_minor: int = 5000) -> list[dict[str, Any]]:
    return [{"sku": "a", "quantity": 1, "net_minor": net_minor}]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Book, Book]]:
    """One book, opened twice, as by two processes: neither sees what the other has in memory."""
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    with ExitStack() as stack:
        books = tuple(stack.enter_context(tallybook.open(url)) for _ in range(2))
        for book in books:
            stack.enter_context(book.acting("agent:lin", purpose="test"))
        books[0].rules.adopt(RULES, effective_at=SINCE)
        yield books[0], books[1]
        for book in books:
            certificate = book.replay()
            assert certificate.holds, certificate.first


class Tries:
    """Counts the tries of commands, and the pauses between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = self.pauses = 0
        begin = Work.__init__

        def counted(work: Work, *args: Any, **kwargs: Any) -> None:
            self.made += 1
            begin(work, *args, **kwargs)

        def paused(_: float) -> None:
            self.pauses += 1

        monkeypatch.setattr(Work, "__init__", counted)
        monkeypatch.setattr("tallybook.commands.time.sleep", paused)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Tries:
    return Tries(monkeypatch)


def cached(book: Book) -> dict[UUID, Aggregate]:
    """What a book has in memory."""
    cache: Any = book._core.app.repository.cache
    return {stream: cache.get(stream) for stream in list(cache.cache)}


def test_what_commands_leave_in_memory_is_what_the_log_adds_up_to(two: tuple[Book, Book]) -> None:
    book, other = two
    ada = book.customers.register(name="Ada", email="ada@example.org", identifiers={"crm": "7"}, effective_at=SINCE)
    book.loyalty.enrol(ada, effective_at=SINCE)
    for number in range(5):
        book.customers.record_purchase(
            ada, line(), order_id=f"O-{number}", effective_at=f"2021-0{number + 1}-01T00:00:00Z"
        )
    book.customers.record_return(ada, {1: 1}, order_id="O-3")
    book.customers.change(ada, clear=["name"], country="NZ")
    book.loyalty.sweep("2023-01-01T00:00:00Z")
    book.customers.record_interaction(ada, "visit", text="said hello")
    ticket = book.tickets.open(ada, subject="late", text="very late")
    book.tickets.assign(ticket, "agent:kim")
    book.tickets.compensate(ticket, 500)
    book.loyalty.redeem(ada, 100, reward="cup")
    held = cached(book)
    assert {type(one).__name__ for one in held.values()} >= {"Customer", "Control", "LoyaltyAccount", "Ticket"}
    for stream, one in held.items():
        from_the_log = other._core.app.load(type(one), stream)
        assert (one.version, one.journal) == (from_the_log.version, None)
        assert differing(one, from_the_log) == ()
        assert one.version == len(book._core.stream(stream))


def test_a_command_reads_no_stream_that_its_process_has_seen(two: tuple[Book, Book]) -> None:
    book, _ = two
    ada = book.customers.register()
    database = book._core.storage.events
    assert isinstance(database, SQLiteDatabase)
    said: list[str] = []
    for connection in [*database._idle[False], *database._idle[True]]:
        connection.set_trace_callback(said.append)
    book.customers.record_interaction(ada, "visit")
    words = ["BEGIN", "PRAGMA", "SELECT", "SELECT", "INSERT", "UPDATE", "COMMIT"]
    assert [statement.split()[0] for statement in said] == words
    assert "user_version" in said[1]
    assert "FROM head" in said[2]
    assert "MAX(originator_version)" in said[3]  # within the commit: does the stream stand where it was seen?


def test_a_stream_that_another_process_moved_costs_one_more_try_and_no_pause(
    two: tuple[Book, Book], tries: Tries
) -> None:
    book, other = two
    ada = book.customers.register()
    other.customers.record_interaction(ada, "visit")
    tries.made = 0
    book.customers.record_interaction(ada, "visit")
    assert (tries.made, tries.pauses) == (2, 0)
    book.customers.record_interaction(ada, "visit")
    assert (tries.made, tries.pauses) == (3, 0)
    assert [one.event.originator_version for one in book._core.stream(ada)] == [1, 2, 3, 4, 5]


def test_what_another_process_did_is_not_refused(two: tuple[Book, Book], tries: Tries) -> None:
    book, other = two
    ada = book.customers.register(effective_at=SINCE)
    book.loyalty.enrol(ada, effective_at=SINCE)
    with pytest.raises(Refused):
        book.loyalty.redeem(ada, 100, reward="cup")
    other.tickets.compensate(other.tickets.open(ada, subject="late"), 500)
    book.loyalty.redeem(ada, 100, reward="cup")
    # Known to be missing is no better known than anything else.
    ticket = UUID(int=1)
    with pytest.raises(Refused, match="no such customer"):
        book.customers.record_interaction(ticket, "visit")
    other.customers.register(customer_id=ticket)
    book.customers.record_interaction(ticket, "visit")
    assert tries.pauses == 0


def test_what_is_refused_is_tried_once_where_nothing_moved(two: tuple[Book, Book], tries: Tries) -> None:
    book, _ = two
    ada = book.customers.register()
    tries.made = 0
    with pytest.raises(Refused) as refused:
        book.customers.change(ada)
    assert refused.value.code == "nothing_changed"
    assert (tries.made, tries.pauses) == (1, 0)


def test_an_enrolment_in_another_process_is_seen_by_the_next_purchase(two: tuple[Book, Book], tries: Tries) -> None:
    book, other = two
    ada = book.customers.register(effective_at=SINCE)
    assert book.customers.record_purchase(ada, line()).earned == {}
    other.loyalty.enrol(ada, effective_at=SINCE)
    assert book.customers.record_purchase(ada, line()).points > 0
    assert tries.pauses == 0


def test_a_rule_set_that_another_process_adopted_decides_the_next_purchase(two: tuple[Book, Book]) -> None:
    book, other = two
    ada = book.customers.register(effective_at=SINCE)
    book.loyalty.enrol(ada, effective_at=SINCE)
    before = book.customers.record_purchase(ada, line()).points
    document = RULES.read_text(encoding="utf-8")
    double = document.replace('version = "', 'version = "double-', 1).replace("points = 1\n", "points = 2\n", 1)
    assert double.count("points = 2\n") > document.count("points = 2\n")
    path = Path(other._core.storage.url.removeprefix("sqlite:///")).with_name("double.toml")
    path.write_text(double, encoding="utf-8")
    other.rules.adopt(path, effective_at="2021-01-01T00:00:00Z")
    assert book.customers.record_purchase(ada, line()).points == 2 * before


def test_a_stream_known_to_be_missing_may_become_one_of_any_kind(two: tuple[Book, Book]) -> None:
    book, _ = two
    one = UUID(int=2)
    with pytest.raises(Refused):
        book.tickets.close(one)
    book.customers.register(customer_id=one)
    book.customers.record_interaction(one, "visit")
    with pytest.raises(Refused) as refused:
        book.tickets.close(one)
    assert refused.value.code in ("invalid_argument", "unknown_ticket")


ALL = [
    found
    for desk in (CustomerDesk, TicketDesk, LoyaltyDesk, RulesDesk, ImportDesk)
    for found in vars(desk).values()
    if isinstance(found, command)
]


@pytest.mark.parametrize("found", ALL, ids=lambda found: found.function.__qualname__)
def test_arguments_are_named_as_the_signature_binds_them(found: command[Any, Any, Any]) -> None:
    parameters = list(found.signature.parameters.values())[2:]
    by_place = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    by_name = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    takes_others = any(one.kind is one.VAR_KEYWORD for one in parameters)
    everything = {name: f"the {name}" for name in by_name} | ({"country": "NZ"} if takes_others else {})
    for count in range(len(by_place) + 1):
        args = tuple(f"the {name}" for name in by_place[:count])
        kwargs = {**{name: f"the {name}" for name in by_place[count:]}, **everything}
        bound = inspect.signature(found.function).bind(None, None, *args, **kwargs)
        wanted = {name: value for name, value in list(bound.arguments.items())[2:] if name != "command_id"}
        assert found._given(args, kwargs) == wanted
    with pytest.raises(TypeError):
        found._given((*by_place, "one too many"), everything)
    if by_place:
        with pytest.raises(TypeError):
            found._given(("given",), {by_place[0]: "twice"})
    if not takes_others:
        with pytest.raises(TypeError):
            found._given((), {"unheard_of": 1})


def test_a_log_that_went_back_makes_no_wrong_decision_and_answers_of_what_it_holds(tmp_path: Path) -> None:
    """As after a fail-over to a server that lagged: what this process has seen last is no longer in the log."""
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
        ada = book.customers.register()
        book.loyalty.enrol(ada)
        before = head_in(path)
        book.customers.record_purchase(ada, [{"sku": "s", "quantity": 1, "net_minor": 900_000}])
        assert book.loyalty.balance(ada) > 5_000
        book.customers.record_interaction(ada, "visit")
        with closing(sqlite3.connect(path)) as raw, raw:
            raw.execute("DELETE FROM stored_events WHERE position>?", before[:1])
            raw.execute("DELETE FROM checkpoints WHERE size>?", before[:1])
        put_head(path, before)
        for act in (
            lambda: book.loyalty.redeem(ada, 5_000, reward="cup"),
            lambda: book.customers.record_interaction(ada, "visit"),
            book.position,
        ):
            with pytest.raises(tallybook.BookDamaged, match=f"went back: the log ends at position {before[0]}"):
                act()
        assert book.loyalty.balance(ada) == 0
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        with pytest.raises(tallybook.Refused) as refused:
            book.loyalty.redeem(ada, 5_000, reward="cup")
        assert refused.value.code == "insufficient_points"
        assert book.loyalty.balance(ada) == 0
        book.customers.record_interaction(ada, "visit")
        assert [check.problem for check in book.audit.verify()] == [None, None]
        assert book.replay().holds
        for stream in {row[1] for row in book._core.app.log.iterate()}:
            versions = [row[1] for row in book._core.app.log.stream_rows(UUID(bytes=stream))]
            assert versions == list(range(1, len(versions) + 1))


def test_an_interruption_while_waiting_for_the_write_lock_leaves_the_book_usable(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                book.customers.register()
            other.execute("ROLLBACK")
        assert book.customers.register()
