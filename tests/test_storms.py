"""The same command many times at once, and again after a kill: one effect, the same result. Claims under the same
storm: one winner. 8 threads that share a book, and 4 processes.
"""

from __future__ import annotations

import lzma
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

import tallybook
from tallybook.projections.read_models import Recorded

from .conftest import MASTER, holder_of, server_book
from .postgres import tcp_server_url
from .storm import (
    RULES,
    Hand,
    all_at_once,
    give,
    place,
    storm_of_claims,
    storm_of_stock,
    storm_on_a_server_that_crashes,
)

pytestmark = pytest.mark.slow

KINDS = {
    "register": ["customer.key_created", "customer.registered", "customer.identifier_linked"],
    "purchase": ["customer.purchase_recorded", "loyalty.points_earned"],
    "redeem": ["loyalty.redemption_requested", "loyalty.points_redeemed"],
    "refused redeem": ["loyalty.redemption_requested", "loyalty.redemption_refused"],
    "ticket": ["ticket.opened"],
    "adopt": ["book.rule_set_adopted"],
}
"""Each kind of command, with the events that it records (among others)."""


@dataclass
class Arena:
    """A book with customers, and the processes that storm it together with threads."""

    book: tallybook.Book
    hands: list[Hand]
    used: int = 0

    def target(self, kind: str) -> str:
        """Whom or what the next command of a kind is about; never the same twice."""
        self.used += 1
        if kind == "register":
            return f"crm-{self.used}"
        if kind == "adopt":
            return f"{1 + self.used // 28:02}-{1 + self.used % 28:02}"
        with self.book.acting("job:setup", purpose="test"):
            customer = self.book.customers.register(name=f"Customer {self.used}")
            self.book.loyalty.enrol(customer)
            self.book.customers.record_purchase(customer, [tallybook.Line(sku="cd", quantity=1, net_minor=50_000)])
        return str(customer)

    def since(self, position: int) -> list[Recorded]:
        return list(self.book.follow(position, timeout_s=0))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def arena(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("storms")
    on_server = request.param == "postgresql"
    with (
        server_book(folder) if on_server else nullcontext(f"sqlite:///{folder}/shop.book") as url,
        tallybook.open(url) as book,
    ):
        with book.acting("job:setup", purpose="test"):
            book.rules.adopt(RULES, effective_at="1996-01-01T00:00:00Z")
        hands = [Hand(url) for _ in range(4)]
        yield Arena(book, hands)
        for hand in hands:
            hand.close()
        assert [one.problem for one in book.audit.verify()] == [None, None]
        assert book.replay().holds


def recorded_once(arena: Arena, kind: str, before: int) -> None:
    """After `before` stand the events of one command, and of none else."""
    events = [event for _, event in arena.since(before)]
    names = [event.stored_name for event in events]
    for name in KINDS[kind]:
        assert names.count(name) == 1, names
    assert len({event.metadata.command_id for event in events}) == 1
    assert len({event.metadata.recorded_us for event in events}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_from_eight_threads_and_four_processes_has_one_effect_and_one_result(arena: Arena, kind: str) -> None:
    command = (kind, arena.target(kind), f"once/{kind}")
    before = arena.book.position()
    answers = all_at_once(arena.book, arena.hands, command)
    assert len(answers) == 12
    assert set(answers) == {answers[0]}
    assert answers[0].startswith("insufficient_points") == (kind == "refused redeem")
    recorded_once(arena, kind, before)
    after = arena.book.position()
    assert set(all_at_once(arena.book, arena.hands, command)) == {answers[0]}
    assert arena.book.position() == after


@pytest.mark.parametrize("fate", ["die", "die after"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_command_whose_process_was_killed_is_repeated_with_one_effect(arena: Arena, kind: str, fate: str) -> None:
    command = (kind, arena.target(kind), f"{fate}/{kind}")
    before = arena.book.position()
    first = arena.hands[0]
    first.ask(*command, fate=fate)
    assert first.answer() is None  # killed, between insert and commit or between commit and answer
    killed = arena.book.position()
    assert (killed > before) == (fate == "die after")
    first.begin()
    answers = all_at_once(arena.book, arena.hands, command)
    assert set(answers) == {answers[0]}
    recorded_once(arena, kind, before)
    if fate == "die after":
        assert arena.book.position() == killed


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_are_killed_in_the_storm_leave_one_effect(arena: Arena, kind: str) -> None:
    command = (kind, arena.target(kind), f"amid/{kind}")
    before = arena.book.position()
    arena.hands[0].ask(*command, fate="die")
    arena.hands[1].ask(*command, fate="die after")
    answers = {*all_at_once(arena.book, arena.hands[2:], command)}
    for hand in arena.hands[:2]:
        answer = hand.answer()
        if answer is None:  # it came before the others
            hand.begin()
        else:
            answers.add(answer)
    assert len(answers) == 1
    recorded_once(arena, kind, before)
    assert {*all_at_once(arena.book, arena.hands, command)} == answers


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_id_with_other_arguments_is_refused_under_the_storm_as_well(arena: Arena, kind: str) -> None:
    target, command_id = arena.target(kind), f"other/{kind}"
    before = arena.book.position()
    answers = all_at_once(arena.book, arena.hands, (kind, target, command_id, 0), (kind, target, command_id, 1))
    refused = [answer for answer in answers if answer.startswith("command_id_reused")]
    won = {answer for answer in answers if not answer.startswith("command_id_reused")}
    assert len(refused) == 6
    assert len(won) == 1
    recorded_once(arena, kind, before)
    winner = 0 if give(arena.book, kind, target, command_id, 0) in won else 1
    assert give(arena.book, kind, target, command_id, winner) in won
    assert give(arena.book, kind, target, command_id, 1 - winner).startswith("command_id_reused")


def test_a_file_that_all_import_at_once_while_two_are_killed_is_imported_once(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "purchases.txt"
    with lzma.open(MASTER, "rb") as master:
        path.write_bytes(b"".join(master.readline() for _ in range(201)))
    before = arena.book.position()
    arena.hands[0].ask("import", str(path), None, fate="die")
    arena.hands[1].ask("import", str(path), None, fate="die after")
    assert set(all_at_once(arena.book, arena.hands[2:], ("import", str(path), None))) == {"200"}
    for hand in arena.hands[:2]:
        if hand.answer() is None:
            hand.begin()
    names = [event.stored_name for _, event in arena.since(before)]
    assert names.count("customer.purchase_recorded") == 200
    assert names.count("customer.registered") == names.count("customer.identifier_linked")
    after = arena.book.position()
    assert set(all_at_once(arena.book, arena.hands, ("import", str(path), None))) == {"200"}
    assert arena.book.position() == after


@pytest.mark.parametrize("fate", [None, "die"])
def test_an_external_id_that_all_claim_has_one_owner_and_the_others_are_refused(arena: Arena, fate: str | None) -> None:
    for number in range(5):
        wanted = f"claimed-{fate}-{number}"
        if fate:
            arena.hands[0].ask("claim identifier", wanted, None, fate=fate)
            assert arena.hands[0].answer() is None
            arena.hands[0].begin()
            assert holder_of(arena.book, "crm", wanted) is None  # what was not committed claims nothing
        answers = all_at_once(arena.book, arena.hands, ("claim identifier", wanted, None))
        owners = [answer for answer in answers if answer.startswith("UUID")]
        assert len(owners) == 1
        assert {answer.split(":")[0] for answer in answers if answer not in owners} == {"identifier_taken"}
        owner = holder_of(arena.book, "crm", wanted)
        assert repr(owner) == owners[0]


def test_an_external_id_that_was_given_up_is_claimed_again_by_one(arena: Arena) -> None:
    book = arena.book
    for _ in range(3):
        answers = all_at_once(book, arena.hands, ("claim identifier", "re-claimed", None))
        assert sum(answer.startswith("identifier_taken") for answer in answers) == 11
        owner = holder_of(book, "crm", "re-claimed")
        assert isinstance(owner, UUID)
        with book.acting("agent:lin", purpose="test"):
            book.customers.remove_identifier(owner, "crm", "re-claimed")
        assert holder_of(book, "crm", "re-claimed") is None


def test_an_order_id_that_all_record_for_customers_of_their_own_is_recorded_once(arena: Arena) -> None:
    with arena.book.acting("job:setup", purpose="test"):
        customers = [arena.book.customers.register() for _ in range(12)]
    for number in range(5):
        commands = [("claim order", f"{customer} order-{number}", None) for customer in customers]
        answers = all_at_once(arena.book, arena.hands, *commands)
        won = [answer for answer in answers if answer.startswith("PurchaseResult")]
        assert len(won) == 1
        assert {answer.split(":")[0] for answer in answers if answer not in won} == {"order_recorded"}


@pytest.mark.parametrize("way", ["sqlite", "postgresql"])
def test_a_coupon_never_has_two_holders_however_often_it_is_claimed_and_released(way: str, tmp_path: Path) -> None:
    with place(way, tmp_path) as where:
        assert storm_of_claims(way, where) == []


@pytest.mark.parametrize("way", ["sqlite", "postgresql"])
def test_without_claims_coupons_would_have_two_holders(way: str, tmp_path: Path) -> None:
    with place(way, tmp_path) as where:
        problems = storm_of_claims(way, where, guarded=False)
    assert any("while another holds it" in problem for problem in problems)


@pytest.mark.parametrize("way", ["sqlite", "postgresql"])
def test_an_article_in_stock_is_sold_as_often_as_it_is_there(way: str, tmp_path: Path) -> None:
    with place(way, tmp_path) as where:
        assert storm_of_stock(way, where) == []


@pytest.mark.parametrize("way", ["sqlite", "postgresql"])
def test_without_claims_more_would_be_sold_than_is_there(way: str, tmp_path: Path) -> None:
    # On a machine that has much to do, two of them may never be at it at once: so once in a few times.
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        with place(way, folder) as where:
            problems = storm_of_stock(way, where, guarded=False)
        if any("times" in problem for problem in problems):
            return
    pytest.fail("nothing was sold twice, whatever the claims are for")


@pytest.mark.server
def test_a_server_that_crashes_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A backend that is killed makes the whole server start anew from its write-ahead log. Others use the tests' server,
    # so this one is of its own.
    monkeypatch.setenv("HOME", str(tmp_path))
    with tcp_server_url() as server:
        crashes: list[int] = []
        chance = random.Random(1)

        def crash() -> None:
            for _ in range(600):
                # It may be about to start, and a backend may be about to end.
                with (
                    suppress(psycopg.OperationalError, ProcessLookupError),
                    psycopg.connect(server, autocommit=True) as connection,
                ):
                    backends = connection.execute(
                        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tallybook%'"
                    ).fetchall()
                    if backends:
                        os.kill(chance.choice(backends)[0], signal.SIGKILL)
                        crashes.append(len(backends))
                        return
                time.sleep(0.1)

        assert storm_on_a_server_that_crashes(server + "?schema=crashing", crash) == []
    assert len(crashes) == 3
