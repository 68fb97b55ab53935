"""An account that can't be settled stops no sweep: it is passed over, named, and tried again by the next one."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.projections.conftest import Shop, at, rule_set

import tallybook
from tallybook import Book, cli
from tallybook.domain.aggregate import Stamp
from tallybook.domain.control import Control, SweepFinished
from tallybook.domain.events import to_us
from tallybook.domain.loyalty import LoyaltyAccount, account_id
from tallybook.domain.points import PointsExpired

OF_ACCOUNT = "WHERE originator_id=? AND originator_version=2"
DAMAGED = {
    "an event is gone": f"DELETE FROM stored_events {OF_ACCOUNT}",
    "an event is none": f"UPDATE stored_events SET state=x'c1' {OF_ACCOUNT}",
    "an event is another": f"UPDATE stored_events SET topic='loyalty.closed' {OF_ACCOUNT}",
    "an event has no name": f"UPDATE stored_events SET topic='x' {OF_ACCOUNT}",
}


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    url = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/shop.book"}.get(request.param)
    opened = Shop(url or request.getfixturevalue("server_book_url"))
    yield opened
    opened.close()


def three(shop: Shop) -> list[UUID]:
    """Members whose points expire on 1 April 2021."""
    members = [shop.member() for _ in range(3)]
    for member in members:
        shop.buy(member, "2020-03-10", 50_00)
    return members


def expired(book: Book) -> set[UUID | None]:
    return {one.event.subject_id for one in book._core.history([PointsExpired.stored_name])}


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> set[UUID]:
    """Accounts that raise as soon as time does something to them, after they have decided something."""
    found: set[UUID] = set()
    real = LoyaltyAccount.settle_until

    def settle_until(self: LoyaltyAccount, stamp: Stamp, until_us: int, rule_book: Any) -> None:
        real(self, stamp, until_us, rule_book)
        if self.id in found:
            raise KeyError("something that its stream should hold")

    monkeypatch.setattr(LoyaltyAccount, "settle_until", settle_until)
    return found


def test_who_can_not_be_settled_is_passed_over_and_the_next_sweep_tries_again(shop: Shop, stuck: set[UUID]) -> None:
    ada, bob, eve = three(shop)
    book = shop.book
    stuck.add(account_id(bob, "main"))
    result = book.loyalty.sweep(at("2021-05-01"))
    [over] = result.passed_over
    assert (over.account_id, over.reason) == (str(account_id(bob, "main")), "Its events can't be followed: KeyError.")
    assert (result.accounts, result.decisions) == (2, 2)
    assert expired(book) == {ada, eve}
    # It is finished for all others, so that the book goes on: rule sets can be adopted.
    control = book._core.app.load(Control, book._core.book_id)
    assert (control.sweep_is_finished, control.passed_over) == (True, (account_id(bob, "main"),))
    assert book.loyalty.balances().swept_until is None
    assert "passed over: 1." in book.loyalty.liability(at=at("2021-04-30")).notes[-1]
    [finished] = [one.event for one in book._core.history([SweepFinished.stored_name])]
    assert isinstance(finished, SweepFinished)
    assert finished.passed_over == (account_id(bob, "main"),)
    # To the same moment too, and as long as it is so.
    assert book.loyalty.sweep(at("2021-05-01")).passed_over == (over,)
    assert expired(book) == {ada, eve}
    stuck.clear()
    certificate = book.replay()
    assert certificate.holds
    assert certificate.pending == 1
    again = book.loyalty.sweep(at("2021-05-01"))
    assert (again.accounts, again.decisions, again.passed_over) == (3, 1, ())
    assert expired(book) == {ada, bob, eve}
    assert book.loyalty.balances().swept_until == "2021-05-01T00:00:00Z"
    assert not [note for note in book.loyalty.liability(at=at("2021-04-30")).notes if "sweep" in note]
    certificate = book.replay()
    assert certificate.holds
    assert certificate.pending == 0
    # Now it is done.
    position = book.position()
    assert book.loyalty.sweep(at("2021-05-01")) == again
    assert book.position() == position


def test_what_was_passed_over_follows_with_its_next_command_under_the_rules_of_then(
    shop: Shop, stuck: set[UUID]
) -> None:
    ada, bob, _ = three(shop)
    stuck.add(account_id(bob, "main"))
    shop.sweep("2021-03-01")
    shop.sweep("2021-05-01")
    stuck.clear()
    shop.book.rules.adopt(rule_set(version="2", inactivity_months=6), effective_at=at("2020-01-01"))
    shop.buy(bob, "2021-04-20", 10_00)
    dates = {
        one.event.subject_id: (one.event.effective_at, one.event.rules)
        for one in shop.book._core.history([PointsExpired.stored_name])
        if isinstance(one.event, PointsExpired)
    }
    assert dates[ada] == (at("2021-04-01"), "standard@1")
    assert dates[bob] == (at("2020-09-10"), "standard@2")
    assert shop.book.replay().holds
    shop.sweep("2021-06-01")
    certificate = shop.book.replay()
    assert certificate.holds
    assert certificate.pending == 0


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("many", [500, 1])
def test_a_damaged_stream_stops_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str, many: int
) -> None:
    monkeypatch.setattr("tallybook.loyalty.ACCOUNTS_PER_COMMIT", many)
    url = f"sqlite:///{tmp_path}/shop.book"
    shop = Shop(url)
    _, bob, _ = three(shop)
    shop.close()
    with closing(sqlite3.connect(tmp_path / "shop.book")) as raw, raw:
        assert raw.execute(DAMAGED[what], [account_id(bob, "main").bytes]).rowcount == 1
    with (
        tallybook.open(url, now_us=lambda: to_us(at("2024-01-01"))) as book,
        book.acting("job:sweep", purpose="expiry"),
    ):
        result = book.loyalty.sweep(at("2021-05-01"))
        assert [one.account_id for one in result.passed_over] == [str(account_id(bob, "main"))]
        assert result.passed_over[0].reason
        assert (result.accounts, result.decisions) == (2, 2)
    for options in ([], ["--json"]):
        monkeypatch.setattr(
            sys, "argv", ["tallybook", "sweep", "--until", "2021-06-01T00:00:00Z", "--book", url, *options]
        )
        with pytest.raises(SystemExit) as stop:
            cli.run()
        assert stop.value.code == 1
        told = capsys.readouterr().out
        if options:
            [over] = json.loads(told)["passed_over"]
            assert over["account_id"] == str(account_id(bob, "main"))
        else:
            assert f"Passed over: account {account_id(bob, 'main')}. " in told
            assert "1 accounts could not be settled; the next sweep tries again." in told


def test_a_server_that_is_gone_is_no_accounts_fault(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    three(shop)
    app = shop.book._core.app

    def gone(*_: Any, **__: Any) -> Any:
        raise tallybook.BookUnreachable("The server is gone.", path="x", remedy="Wait.", unknown=True)

    monkeypatch.setattr(app, "load_many", gone)
    with pytest.raises(tallybook.BookUnreachable):
        shop.sweep("2021-05-01")
    monkeypatch.undo()
    shop.sweep("2021-05-01")
    assert len(expired(shop.book)) == 3
