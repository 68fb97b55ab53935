"""The life of read models: failing alone, retrying, skipping, pausing, retiring, versions side by side, inline,
rebuilt in parallel, kept by one of several processes."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.postgres import server_url

import tallybook
from tallybook.domain.customer import PurchaseRecorded
from tallybook.domain.errors import BookError, ReadModelFailed
from tallybook.domain.operations import ReadModelDirected
from tallybook.projections import projector as projector_module
from tallybook.projections.profiles import Profile, Profiles
from tallybook.projections.projector import Projector, Status
from tallybook.projections.read_models import Recorded, Rows, Table
from tallybook.projections.tiers import Tiers
from tallybook.projections.trail import Trail

if TYPE_CHECKING:
    from tests.projections.conftest import Shop

NewShop = Callable[..., "Shop"]


def status_of(book: tallybook.Book, name: str) -> Status:
    return next(one for one in book.projections.status() if one.name == name)


def all_rows(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    core = shop.book._core
    return {table.name: list(shop.rows(model, table)) for model in core.projector.models for table in model.tables}


def poison(monkeypatch: pytest.MonkeyPatch, model: Any, at: Callable[[Recorded], bool]) -> None:
    """Let a read model's fold stumble over some events."""
    real = model.fold

    def fold(self: Any, batch: Sequence[Recorded], rows: Rows) -> None:
        if any(map(at, batch)):
            real(self, batch[: len(batch) // 2], rows)  # rows that must not survive
            raise ValueError("what is this?")
        real(self, batch, rows)

    monkeypatch.setattr(model, "fold", fold)


def a_purchase_of(cents: int) -> Callable[[Recorded], bool]:
    return lambda one: isinstance(one.event, PurchaseRecorded) and one.event.net_minor == cents


def position_of(shop: Shop, wanted: Callable[[Recorded], bool]) -> int:
    return next(one.position for one in shop.history() if wanted(one))


def poisoned(shop: Shop) -> int:
    """Some purchases, one of 666 cents among them; its position."""
    ada = shop.member(name="Ada")
    for cents in (20_000, 666, 30_000):
        shop.buy(ada, "2020-03-01", cents)
    return position_of(shop, a_purchase_of(666))


# ── failing ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_a_poisonous_event_stops_one_read_model_at_its_position_and_no_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(projector_module, "BATCH", batch)
    at = poisoned(shop)
    poison(monkeypatch, Profiles, a_purchase_of(666))
    book, head = shop.book, shop.book.position()
    assert book.projections.catch_up() == head
    failed = status_of(book, "profiles")
    assert (failed.state, failed.position, failed.failed_position) == ("failed", at - 1, at)
    assert "what is this?" in failed.error
    assert {one.name: (one.state, one.lag) for one in book.projections.status() if one.name != "profiles"} == {
        "tiers": ("live", 0),
        "trail": ("live", 0),
        "balances": ("live", 0),
    }
    # What was folded is what stood before the event: a fold that fails leaves nothing.
    [(_, packed)] = shop.rows(Profiles(), Profiles.table)
    assert shop.book.tiers.counts() == {"gold": 1}
    monkeypatch.undo()
    monkeypatch.setattr(projector_module, "BATCH", batch)
    assert Profile.unpacked(packed).counts["purchases"] == 1
    # It stays stopped, even where nothing would stand in its way now, until somebody decides.
    book.projections.catch_up()
    assert status_of(book, "profiles").state == "failed"


def test_a_question_to_a_read_model_that_failed_is_refused_and_not_answered_stale(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = poisoned(shop)
    poison(monkeypatch, Profiles, a_purchase_of(666))
    ada = next(one.event.subject_id for one in shop.history() if one.event.subject_id)
    with pytest.raises(tallybook.NotAllowed) as refused:
        shop.book.profiles.get(ada)
    assert refused.value.code == "read_model_stopped"
    assert refused.value.values["failed_position"] == at
    assert len(shop.book.audit.trail(ada)) > 3


def test_retrying_after_the_cause_was_mended_goes_on_and_is_recorded(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(shop)
    poison(monkeypatch, Tiers, a_purchase_of(666))
    shop.book.projections.catch_up()
    before = position_of(shop, lambda one: True) and shop.book.position()
    shop.book.projections.retry("tiers")  # still poisoned: fails again
    shop.book.projections.catch_up()
    assert status_of(shop.book, "tiers").state == "failed"
    monkeypatch.undo()
    shop.book.projections.retry("tiers", command_id="r2")
    shop.book.projections.retry("tiers", command_id="r2")
    assert shop.book.projections.catch_up() == shop.book.position() == before + 2
    assert {one.state for one in shop.book.projections.status()} == {"live"}
    decisions = [one.event for one in shop.history() if isinstance(one.event, ReadModelDirected)]
    assert [(one.model, one.action, one.metadata.actor) for one in decisions] == [
        ("tiers", "retried", "agent:test")
    ] * 2
    live = all_rows(shop)
    shop.book.projections.rebuild()
    assert all_rows(shop) == live


def test_skipping_leaves_the_event_out_now_and_in_every_rebuild_of_this_version_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = poisoned(shop)
    poison(monkeypatch, Profiles, a_purchase_of(666))
    shop.book.projections.catch_up()
    with pytest.raises(tallybook.Refused) as refused:
        shop.book.projections.skip("profiles", at + 1)
    assert refused.value.code == "not_failed"
    shop.book.projections.skip("profiles", at)
    assert shop.book.projections.catch_up() == shop.book.position()
    ada = next(one.event.subject_id for one in shop.history() if one.event.subject_id)
    assert shop.book.profiles.get(ada).purchases == 2
    live = all_rows(shop)
    shop.book.projections.rebuild()
    assert all_rows(shop) == live
    monkeypatch.undo()
    monkeypatch.setattr(Profiles, "version", 99)
    assert shop.book.profiles.get(ada).purchases == 3


def test_only_what_failed_can_be_retried_or_skipped(shop: Shop) -> None:
    shop.member()
    shop.book.projections.catch_up()
    with pytest.raises(tallybook.Refused) as refused:
        shop.book.projections.retry("tiers")
    assert refused.value.code == "not_failed"
    with pytest.raises(tallybook.Refused) as refused:
        shop.book.projections.skip("tiers", 1)
    assert refused.value.code == "not_failed"
    for name in ("pause", "resume", "retry", "retire"):
        with pytest.raises(tallybook.Refused) as refused:
            getattr(shop.book.projections, name)("nonsense")
        assert refused.value.code == "invalid_argument"


def test_a_row_that_the_database_refuses_is_a_poison_too(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    at = poisoned(shop)
    real = Trail.fold

    def fold(self: Trail, batch: Sequence[Recorded], rows: Rows) -> None:
        real(self, batch, rows)
        for one in batch:
            if a_purchase_of(666)(one):
                rows.put(Trail.table, (b"", 2**70), (b"", 2**70, "nobody"))

    monkeypatch.setattr(Trail, "fold", fold)
    shop.book.projections.catch_up()
    assert (status_of(shop.book, "trail").state, status_of(shop.book, "trail").failed_position) == ("failed", at)
    assert status_of(shop.book, "profiles").lag == 0


def test_an_event_that_cannot_be_read_stops_the_read_models_there_until_each_may_leave_it_out(
    new_shop: NewShop, tmp_path: Path
) -> None:
    path = tmp_path / "shop.book"
    shop = new_shop(f"sqlite:///{path}")
    at = poisoned(shop)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE stored_events SET topic='a.name.of.tomorrow' WHERE position=?", (at,))
    shop.book.projections.catch_up()
    for one in shop.book.projections.status():
        assert (one.state, one.position, one.failed_position) == ("failed", at - 1, at)
        assert "a.name.of.tomorrow" in one.error
    for name in ("tiers", "profiles"):
        shop.book.projections.skip(name, at)
    head = shop.book.projections.catch_up()
    assert [one.name for one in shop.book.projections.status() if one.state == "live"] == ["profiles", "tiers"]
    assert [one.name for one in shop.book.projections.status() if one.state == "failed"] == ["trail", "balances"]
    assert shop.book.tiers.counts() == {"gold": 1}
    assert head == shop.book.position()


# ── pausing and retiring ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_paused_read_model_stands_still_in_every_process_until_it_is_resumed(
    new_shop: NewShop, book_url: str
) -> None:
    shop = new_shop(book_url)
    ada = shop.member(name="Ada")
    shop.book.projections.catch_up()
    shop.book.projections.pause("profiles")
    shop.book.projections.pause("profiles")
    at = status_of(shop.book, "profiles").position
    shop.buy(ada, "2020-02-01", 500)
    with tallybook.open(book_url) as other, other.acting("agent:other", purpose="test"):
        other.projections.catch_up()
        assert (status_of(other, "profiles").state, status_of(other, "profiles").position) == ("paused", at)
        assert status_of(other, "trail").lag == 0
        with pytest.raises(tallybook.Refused) as refused:
            other.profiles.get(ada)
        assert (refused.value.code, refused.value.values["state"]) == ("read_model_stopped", "paused")
        other.projections.resume("profiles")
    assert shop.book.profiles.get(ada).purchases == 1
    directed = [one.event.action for one in shop.history() if isinstance(one.event, ReadModelDirected)]
    assert directed == ["paused", "resumed"]


def test_a_retired_read_model_has_no_rows_and_comes_back_whole(new_shop: NewShop, tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    shop = new_shop(f"sqlite:///{path}")
    ada = shop.member(name="Ada")
    shop.buy(ada, "2020-02-01", 20_000)
    shop.book.projections.catch_up()
    live = all_rows(shop)
    shop.book.projections.retire("tiers")
    shop.book.projections.catch_up()
    with closing(sqlite3.connect(path)) as raw:
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    assert not [name for name in tables if name.startswith("tier")]
    assert status_of(shop.book, "tiers").state == "retired"
    with pytest.raises(tallybook.Refused) as refused:
        shop.book.tiers.counts()
    assert refused.value.code == "read_model_stopped"
    shop.book.projections.resume("tiers")
    assert shop.book.tiers.counts() == {"silver": 1}
    assert all_rows(shop)["tier_memberships"] == live["tier_memberships"]


# ── versions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_read_model_whose_tables_changed_is_rebuilt_and_that_is_announced(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ada = shop.member(name="Ada")
    shop.buy(ada, "2020-02-01", 20_000)
    shop.book.projections.catch_up()
    before = all_rows(shop)["trail"]
    wider = Table("trail", (*Trail.table.columns, ("extra", "text")), Trail.table.key, Trail.table.indexes)
    real = Trail.fold

    class Wider:
        def __init__(self, rows: Rows) -> None:
            self.rows = rows

        def put(self, table: Table, key: tuple[Any, ...], row: tuple[Any, ...]) -> None:
            self.rows.put(table, key, (*row, "x"))

    monkeypatch.setattr(Trail, "table", wider)
    monkeypatch.setattr(Trail, "tables", (wider,))
    monkeypatch.setattr(Trail, "fold", lambda self, batch, rows: real(self, batch, Wider(rows)))  # type: ignore[arg-type]  # it only puts
    assert status_of(shop.book, "trail").state == "new"
    with caplog.at_level(logging.WARNING, "tallybook.projections"):
        shop.book.projections.catch_up()
    assert any("'trail' has changed" in record.getMessage() for record in caplog.records)
    assert [row[:-1] for row in all_rows(shop)["trail"]] == before
    left = [one for one in shop.book.projections.status() if one.state == "superseded"]
    assert [(one.name, one.position) for one in left] == [("trail", shop.book.position())]
    # The release from before still finds its rows, and does not take them back and forth.
    monkeypatch.undo()
    assert status_of(shop.book, "trail").lag == 0
    shop.book.projections.catch_up()
    assert len([one for one in shop.book.projections.status() if one.state == "superseded"]) == 1


def test_rows_of_another_version_stay_until_they_are_dropped(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.member()
    shop.book.projections.catch_up()
    monkeypatch.setattr(Tiers, "version", 7)
    shop.book.projections.catch_up()
    states = {(one.name, one.version): one.state for one in shop.book.projections.status()}
    assert states["tiers", 1] == "superseded"
    assert states["tiers", 7] == "live"
    assert shop.book.projections.drop_superseded() == 1
    assert shop.book.projections.drop_superseded() == 0
    assert len(shop.book.projections.status()) == len(shop.book._core.projector.models)
    assert shop.book.tiers.counts() == {"basic": 1}


def test_states_of_a_new_read_model(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = shop.member()
    assert {one.state for one in shop.book.projections.status()} == {"new"}
    monkeypatch.setattr(projector_module, "BATCH", 1)
    core = shop.book._core
    seen = []

    def progress(done: int, total: int) -> None:
        seen.append(status_of(shop.book, "trail").state)

    shop.book.projections.catch_up(progress)
    assert set(seen[:-1]) == {"catching up"}
    assert seen[-1] == "live"
    shop.buy(ada, "2020-02-01", 500)
    behind = status_of(shop.book, "trail")
    assert (behind.state, behind.lag > 0) == ("live", True)
    assert core.projector.model("trail") is core.trail


# ── rebuilding ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rebuild_that_meets_a_poison_says_where_and_leaves_the_live_rows(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = poisoned(shop)
    shop.book.projections.catch_up()
    live = all_rows(shop)
    poison(monkeypatch, Profiles, a_purchase_of(666))
    with pytest.raises(ReadModelFailed) as failed:
        shop.book.projections.rebuild("profiles")
    assert (failed.value.model, failed.value.position) == ("profiles", at)
    assert status_of(shop.book, "profiles").state == "live"
    assert status_of(shop.book, "profiles").rebuilding is None
    assert all_rows(shop) == live
    assert len(shop.book._core.store.builds()) == len(shop.book._core.projector.models)


@pytest.fixture
def big(new_shop: NewShop, book_url: str) -> Shop:
    shop = new_shop(book_url)
    for number in range(12):
        member = shop.member(name=f"n{number}", country="GB")
        purchase = shop.buy(member, "2020-02-01", 9_000, 4_000 * number)
        shop.buy(member, "2020-03-01", 100 * number)
        shop.give_back(member, "2020-04-01", purchase, 1)
        case = shop.book.tickets.open(member, subject="x", kind="complaint")
        shop.book.tickets.assign(case, "agent:x")
    shop.sweep("2022-06-01")
    shop.book.projections.catch_up()
    return shop


@pytest.mark.parametrize("processes", [2, 3])
def test_a_rebuild_in_several_processes_gives_the_same_rows(big: Shop, processes: int) -> None:
    live = all_rows(big)
    numbers = {one.name: one.number for one in big.book._core.store.builds()}
    assert big.book.projections.rebuild(processes=processes) == big.book.position()
    assert all_rows(big) == live
    after = {one.name: one.number for one in big.book._core.store.builds()}
    assert after.keys() == numbers.keys()
    assert all(after[name] > numbers[name] for name in numbers)


def test_a_part_of_a_rebuild_that_dies_is_made_good(
    big: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    live = all_rows(big)
    real = subprocess.Popen

    def dying(args: list[str], **kwargs: Any) -> Any:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)" if not started else args[-1]
        started.append(1)
        return real([*args[:-1], code], **kwargs)

    started: list[int] = []
    monkeypatch.setattr("tallybook.worker.subprocess.Popen", dying)
    assert big.book.projections.rebuild("trail", processes=2) == big.book.position()
    assert all_rows(big) == live
    assert "A part of a rebuild failed" in caplog.text
    assert len(big.book._core.store.builds()) == len(big.book._core.projector.models)


def test_writers_go_on_during_a_rebuild_in_several_processes(big: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = big.member(name="Ada")
    stop = threading.Event()
    bought: list[int] = []

    def write() -> None:
        with big.book.acting("agent:writer", purpose="test"):
            while not stop.is_set():
                big.buy(ada, "2020-05-01", 700)
                bought.append(1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for name in ("profiles", "trail", "tiers"):
            big.book.projections.rebuild(name, processes=2)
    finally:
        stop.set()
        thread.join()
    assert len(bought) > 3
    assert big.book.profiles.get(ada).purchases == len(bought)
    live = all_rows(big)
    big.book.projections.rebuild()
    assert all_rows(big) == live


def test_side_effects_come_once_for_each_event_and_are_muted_in_replays(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-02-01", 500)
    told: list[int] = []
    shop.book.projections.on_update("trail", lambda batch: told.extend(one.position for one in batch))
    shop.book.projections.catch_up()
    assert told == []  # the first catching up is a replay
    muted = shop.book.position()
    shop.buy(ada, "2020-03-01", 500)
    shop.book.projections.catch_up()
    assert told == list(range(muted + 1, shop.book.position() + 1))
    shop.book.projections.rebuild("trail")
    assert told == list(range(muted + 1, shop.book.position() + 1))
    # What a rebuild folds and the live rows did not have yet is news.
    shop.buy(ada, "2020-04-01", 500)
    shop.book.projections.rebuild("trail")
    monkeypatch.setattr(Trail, "version", 5)
    shop.book.projections.catch_up()
    assert told == list(range(muted + 1, shop.book.position() + 1))
    with pytest.raises(tallybook.Refused):
        shop.book.projections.on_update("nonsense", told.append)  # type: ignore[arg-type]  # refused before


# ── inline ────────────────────────────────────────────────────────────────────────────────────────────────────────


def outside(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement past Tallybook, as another process would."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)) as raw, raw:
            return raw.execute(statement).fetchall()
    options = f"-c search_path={url.rpartition('=')[2]}"
    with psycopg.connect(server_url(), autocommit=True, options=options) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def tables_of(url: str) -> list[str]:
    """All tables of a book."""
    if url.startswith("sqlite"):
        return [name for (name,) in outside(url, "SELECT name FROM sqlite_master WHERE type='table'")]
    return [name for (name,) in outside(url, "SELECT tablename FROM pg_tables WHERE schemaname=current_schema()")]


def newest_of(url: str, table: str) -> str:
    """The table of the newest build."""
    return max(
        (name for name in tables_of(url) if name.startswith(f"{table}__")), key=lambda name: int(name.split("__")[1])
    )


def stored_rows(url: str, table: str) -> int:
    """How many rows the newest build of a table has, as another process sees it."""
    return int(outside(url, f"SELECT COUNT(*) FROM {newest_of(url, table)}")[0][0])


def test_inline_read_models_are_there_when_the_command_returns(book_url: str) -> None:
    with tallybook.open(book_url, inline=["trail", "tiers"]) as book, book.acting("a", purpose="p"):
        book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
        assert stored_rows(book_url, "trail") == book.position()
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
        assert stored_rows(book_url, "trail") == book.position()
        assert stored_rows(book_url, "tier_current") == 1
        assert {one.name: one.lag for one in book.projections.status()} == {
            "profiles": book.position(), "trail": 0, "tiers": 0, "balances": book.position(),
        }  # fmt: skip
        with tallybook.open(book_url) as other, other.acting("b", purpose="p"):
            other.customers.register(name="Bob")  # not inline: they lag by it
        book.customers.register(name="Eve")
        assert stored_rows(book_url, "trail") == book.position()
        rows = stored_rows(book_url, "trail")
        book.projections.rebuild("trail")
        assert stored_rows(book_url, "trail") == rows


@pytest.mark.parametrize("where", ["memory", "files", "server"])
def test_inline_read_models_under_threads(request: pytest.FixtureRequest, tmp_path: Path, where: str) -> None:
    url = {"memory": "memory:", "files": f"sqlite:///{tmp_path}/shop.book"}.get(where)
    url = url or str(request.getfixturevalue("server_book_url"))
    with tallybook.open(url, inline=["profiles"]) as book, book.acting("a", purpose="p"):
        ids: list[Any] = []

        def work() -> None:
            with book.acting("a", purpose="p"):
                ids.extend(book.customers.register(name="x") for _ in range(10))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ids) == 40
        assert status_of(book, "profiles").lag == 0
        store, model = book._core.store, book._core.profiles
        assert store.select(model, Profiles.table, ["COUNT(*)"]) == [(40,)]


def test_a_poison_stops_an_inline_read_model_and_never_a_command(
    book_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tallybook.open(book_url, inline=["trail", "profiles"]) as book, book.acting("a", purpose="p"):
        ada = book.customers.register(name="Ada")
        poison(monkeypatch, Profiles, a_purchase_of(666))
        line = {"sku": "s", "quantity": 1, "net_minor": 666}
        book.customers.record_purchase(ada, [line], command_id="c1")
        assert status_of(book, "profiles").state == "failed"
        assert status_of(book, "trail").lag == 0
        position = book.position()
        book.customers.record_purchase(ada, [line], command_id="c1")
        assert book.position() == position
        book.customers.record_purchase(ada, [line], command_id="c2")
        assert status_of(book, "trail").lag == 0
        assert [one.problem for one in book.audit.verify()] == [None, None]


def too_long(one: Recorded) -> tuple[Any, ...]:
    """A row whose key PostgreSQL can't keep in an index (SQLSTATE 54000); SQLite keeps any."""
    return (os.urandom(20_000), one.position, "x")


def no_number(one: Recorded) -> tuple[Any, ...]:
    """A row without its key: a constraint is against it."""
    return (b"x", None, str(one.position))


def no_text(one: Recorded) -> tuple[Any, ...]:
    """A row with a text that PostgreSQL does not keep."""
    return (b"\0" * 16, one.position, "a\0b")


def refusing(monkeypatch: pytest.MonkeyPatch, row: Callable[[Recorded], tuple[Any, ...]]) -> None:
    """Let the trail write a row that the database refuses, for purchases of 666 cents."""
    real = Trail.fold

    def fold(self: Trail, batch: Sequence[Recorded], rows: Rows) -> None:
        real(self, batch, rows)
        for one in filter(a_purchase_of(666), batch):
            rows.put(Trail.table, row(one)[:2], row(one))

    monkeypatch.setattr(Trail, "fold", fold)


@pytest.mark.parametrize("inline", [[], ["trail", "profiles"]])
@pytest.mark.parametrize("row", [too_long, no_number, no_text])
def test_a_row_that_a_server_refuses_stops_its_read_model_at_a_position_and_nothing_else(
    server_book_url: str,
    monkeypatch: pytest.MonkeyPatch,
    inline: list[str],
    row: Callable[[Recorded], tuple[Any, ...]],
) -> None:
    with tallybook.open(server_book_url, inline=inline) as book, book.acting("a", purpose="p"):
        ada = book.customers.register(name="Ada")
        refusing(monkeypatch, row)
        book.customers.record_purchase(ada, [{"sku": "s", "quantity": 1, "net_minor": 666}], command_id="c1")
        at = book.position()
        assert book.profiles.get(ada).purchases == 1
        assert book.tiers.counts() == {}
        failed = status_of(book, "trail")
        assert (failed.state, failed.position, failed.failed_position) == ("failed", at - 1, at)
        assert failed.error
        monkeypatch.undo()
        book.projections.retry("trail")
        assert len(book.audit.trail(ada)) >= 2
        assert status_of(book, "trail").state == "live"


def test_a_refused_or_failed_command_leaves_no_inline_rows(book_url: str) -> None:
    with tallybook.open(book_url, inline=["trail"]) as book, book.acting("a", purpose="p"):
        ada = book.customers.register(name="Ada")
        book.customers.link_identifier(ada, "crm", "1")
        bob = book.customers.register(name="Bob")
        with pytest.raises(tallybook.Refused):
            book.customers.link_identifier(bob, "crm", "1")
        assert stored_rows(book_url, "trail") == book.position()


def test_inline_wants_a_read_model_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="nonsense"):
        tallybook.open(f"sqlite:///{tmp_path}/shop.book", inline=["nonsense"])


# ── one of several ────────────────────────────────────────────────────────────────────────────────────────────────

RUN = """
import sys, tallybook
from tallybook.projections.trail import Trail
real = Trail.fold
def fold(self, batch, rows):
    if batch:
        print(sys.argv[2], batch[-1].position, flush=True)
    real(self, batch, rows)
Trail.fold = fold
book = tallybook.open(sys.argv[1], create=False)
print("ready", flush=True)
book.projections.run()
"""


class Runner:
    """A process that keeps the read models; what it folded stands in `lines`."""

    def __init__(self, url: str, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, url, name], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        wait_for(lambda: "ready" in self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())

    @property
    def folded(self) -> int:
        return len(self.lines) - 1


def wait_for(done: Callable[[], bool], seconds: float = 30) -> float:
    start = time.monotonic()
    while not done():
        assert time.monotonic() - start < seconds, "it did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - start


def test_of_several_projectors_one_works_and_another_takes_over_when_it_is_killed(
    new_shop: NewShop, book_url: str
) -> None:
    shop = new_shop(book_url)
    shop.member()
    runners = [Runner(book_url, name) for name in ("one", "two")]
    try:
        wait_for(lambda: status_of(shop.book, "trail").lag == 0)
        for number in range(5):
            shop.member(name=f"n{number}")
            wait_for(lambda: status_of(shop.book, "trail").lag == 0)
        [worker] = [one for one in runners if one.folded]
        [spare] = [one for one in runners if not one.folded]
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        shop.member(name="after")
        assert wait_for(lambda: status_of(shop.book, "trail").lag == 0) < 10
        wait_for(lambda: bool(spare.folded))  # it says so after it has committed
        wait_for(lambda: all(one.lag == 0 for one in shop.book.projections.status()))
        live = all_rows(shop)
        shop.book.projections.rebuild()
        assert all_rows(shop) == live
    finally:
        for one in runners:
            one.process.kill()
            one.process.wait()


def test_a_running_projector_ends_when_it_is_told_to_and_when_the_book_is_closed(
    new_shop: NewShop, tmp_path: Path
) -> None:
    for url in (f"sqlite:///{tmp_path}/shop.book", "memory:"):
        book = tallybook.open(url)
        stop = threading.Event()
        threads = [
            threading.Thread(target=book.projections.run, kwargs={"names": ["trail"], "stop": stop}),
            threading.Thread(target=book.projections.run),
        ]
        for thread in threads:
            thread.start()
        with book.acting("a", purpose="p"):
            book.customers.register(name="Ada")
        wait_for(lambda book=book: all(one.lag == 0 for one in book.projections.status()))  # type: ignore[misc]  # bound now
        stop.set()
        threads[0].join(10)
        assert not threads[0].is_alive()
        book.close()
        threads[1].join(10)
        assert not threads[1].is_alive()


def test_a_projector_is_made_of_a_log_a_store_and_models(shop: Shop) -> None:
    shop.member()
    core = shop.book._core
    alone = Projector(core.app, core.store, [Tiers()], core.operations)
    assert alone.catch_up() == shop.book.position()
    assert [one.name for one in alone.status()] == ["tiers"]


def test_a_forked_child_does_not_keep_its_parents_read_models(tmp_path: Path) -> None:
    code = f"""
import os, time, tallybook
book = tallybook.open("sqlite:///{tmp_path}/shop.book")
hold = book._core.storage.models.hold("projecting-trail")
assert hold is not None
if os.fork() == 0:
    os.close(1)
    os.close(2)
    time.sleep(8)
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=15)
    assert done.returncode == 0, done.stderr
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        hold = book._core.storage.models.hold("projecting-trail")
        assert hold is not None
        assert hold.alive()
        assert book._core.storage.models.hold("projecting-trail") is None
        hold.release()


# ── another history ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ahead", [True, False])
def test_read_models_elsewhere_don_t_answer_for_a_log_that_was_restored(
    tmp_path: Path, ahead: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They stood further than the log does now: at once, or after the log has grown past them again."""
    url, elsewhere = f"sqlite:///{tmp_path}/shop.book", f"sqlite:///{tmp_path}/models.db"

    def customers(book: tallybook.Book, count: int) -> None:
        for number in range(count):
            book.loyalty.enrol(book.customers.register(name=f"n{number}"))

    with tallybook.open(url, read_models=elsewhere) as book, book.acting("a", purpose="p"):
        book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
        customers(book, 2)
        book.backup(tmp_path / "backup")
        customers(book, 3)
        assert book.tiers.counts() == {"basic": 5}
    for file in tmp_path.glob("shop.book*"):
        if file.suffix not in (".keys", ".wrapping-key", ".signing-key"):
            file.unlink()
    tallybook.restore(tmp_path / "backup", url)
    if not ahead:
        with tallybook.open(url) as book, book.acting("a", purpose="p"):
            customers(book, 6)
    with tallybook.open(url, read_models=elsewhere) as book:
        assert {one.state for one in book.projections.status()} == {"diverged"}
        assert book.tiers.counts() == {"basic": 2 if ahead else 8}
        assert {one.state for one in book.projections.status()} == {"live"}
    assert "another history" in caplog.text


def test_the_words_of_an_error_are_kept_whatever_they_are(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    at = poisoned(shop)

    def fold(self: Any, batch: Sequence[Recorded], rows: Rows) -> None:
        if any(map(a_purchase_of(666), batch)):
            raise ValueError("a\x00b\ud800c" + "x" * 100_000)

    monkeypatch.setattr(Profiles, "fold", fold)
    shop.book.projections.catch_up()
    failed = status_of(shop.book, "profiles")
    assert (failed.state, failed.failed_position) == ("failed", at)
    assert failed.error.startswith("ValueError: a\\x00b\\ud800c")
    assert len(failed.error) <= 500
    assert status_of(shop.book, "tiers").lag == 0


def test_a_listener_that_fails_is_told_of_and_keeps_nothing_from_the_others(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    ada = shop.member()
    shop.book.projections.catch_up()
    told: list[int] = []

    def failing(batch: Sequence[Recorded]) -> None:
        raise RuntimeError("the screen is off")

    shop.book.projections.on_update("profiles", failing)
    shop.book.projections.on_update("profiles", lambda batch: told.extend(one.position for one in batch))
    shop.book.projections.on_update("trail", lambda batch: told.extend(one.position for one in batch))
    shop.buy(ada, "2020-03-01", 500)
    shop.book.projections.catch_up()
    last = shop.book.position()
    assert sorted(told)[-2:] == [last, last]
    assert "the screen is off" in caplog.text
    assert {one.state for one in shop.book.projections.status()} == {"live"}


def test_what_is_paused_or_retired_is_not_rebuilt(shop: Shop) -> None:
    shop.member()
    shop.book.projections.catch_up()
    shop.book.projections.pause("profiles")
    shop.book.projections.retire("tiers")
    for name in ("profiles", "tiers"):
        with pytest.raises(tallybook.Refused) as refused:
            shop.book.projections.rebuild(name)
        assert refused.value.code == "read_model_stopped"
    shop.book.projections.rebuild()
    states = {one.name: one.state for one in shop.book.projections.status()}
    assert states == {"profiles": "paused", "tiers": "retired", "trail": "live", "balances": "live"}
    assert status_of(shop.book, "profiles").lag == 2


# ── what a review found ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_rebuild_that_fails_keeps_what_it_has_swapped_in_and_what_was_live(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(shop)
    shop.book.projections.catch_up()
    live = all_rows(shop)
    poison(monkeypatch, Trail, a_purchase_of(666))
    with pytest.raises(ReadModelFailed):
        shop.book.projections.rebuild()
    assert {one.name: (one.state, one.lag) for one in shop.book.projections.status()} == {
        "profiles": ("live", 0),
        "tiers": ("live", 0),
        "trail": ("live", 0),
        "balances": ("live", 0),
    }
    assert all_rows(shop) == live
    assert len(shop.book._core.store.builds()) == len(shop.book._core.projector.models)


def test_a_failure_that_others_have_got_over_is_not_noted(shop: Shop) -> None:
    shop.member()
    shop.book.projections.catch_up()
    store = shop.book._core.store
    build = store.generation(shop.book._core.trail)
    assert build is not None
    store.fail(build, 2, "too late", 0)
    assert status_of(shop.book, "trail").state == "live"


def test_a_position_that_is_gone_stops_who_reads_the_log(new_shop: NewShop, tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    shop = new_shop(f"sqlite:///{path}")
    shop.member()
    shop.member()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DELETE FROM stored_events WHERE position=4")
    with pytest.raises(BookError, match="Position 4 is missing"):
        shop.book.projections.catch_up()
    follower = shop.book.follow(timeout_s=0)
    with pytest.raises(BookError, match="Position 4 is missing"):
        list(follower)
    assert shop.book.audit.verify()[0].problem == "position 4 is missing"


def test_a_stream_whose_id_is_none_is_told_by_its_position(new_shop: NewShop, tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    shop = new_shop(f"sqlite:///{path}")
    shop.member()
    last = shop.book.position()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE stored_events SET originator_id=x'00' WHERE position=?", (last,))
    shop.book.projections.catch_up()
    assert {(one.state, one.failed_position) for one in shop.book.projections.status()} == {("failed", last)}
    with pytest.raises(tallybook.StoredFormError, match=f"position {last}"):
        list(shop.book.follow(timeout_s=0))


# ── tables that somebody dropped ──────────────────────────────────────────────────────────────────────────────────


def by_hand(url: str, *tables: str) -> None:
    """Drop tables past Tallybook."""
    for table in tables:
        outside(url, f"DROP TABLE {table}")


def small_book(book: tallybook.Book) -> Any:
    """A member with a purchase; their id."""
    book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
    ada = book.customers.register(name="Ada")
    book.loyalty.enrol(ada)
    book.customers.record_purchase(ada, [{"sku": "s", "quantity": 1, "net_minor": 100}])
    book.projections.catch_up()
    return ada


@pytest.mark.parametrize("table", ["tier_current", "tier_memberships"])
def test_a_table_that_somebody_dropped_is_built_anew_by_the_next_question_and_stops_no_other(
    book: tallybook.Book, book_url: str, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    ada = small_book(book)
    members = book.tiers.members("basic")
    gone = newest_of(book_url, table)
    by_hand(book_url, gone)
    found = status_of(book, "tiers")
    assert (found.state, gone in found.error) == ("diverged", True)
    assert [one.state for one in book.projections.status() if one.name != "tiers"] == ["live"] * 3
    [told] = [one for one in book.doctor(quick=True) if one.name == "read models" and one.state != "ok"]
    assert gone in told.what
    assert told.state == "warning"
    caplog.clear()
    assert book.profiles.get(ada).purchases == 1
    assert caplog.text == ""
    assert book.tiers.members("basic") == members
    assert gone in caplog.text
    assert book.tiers.counts() == {"basic": 1}
    assert {one.state for one in book.projections.status()} == {"live"}
    # While it is missing, the others follow the log.
    by_hand(book_url, newest_of(book_url, table))
    book.customers.register(name="Bob")
    assert len(book.audit.trail(ada)) > 3
    assert book.tiers.counts() == {"basic": 1}


@pytest.mark.parametrize("table", ["trail", "profiles", "read_model_builds"])
def test_a_table_that_somebody_dropped_is_built_anew_by_the_next_inline_fold(
    book_url: str, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    with tallybook.open(book_url, inline=["trail", "profiles"]) as book, book.acting("a", purpose="p"):
        ada = small_book(book)
        gone = table if table == "read_model_builds" else newest_of(book_url, table)
        by_hand(book_url, gone)
        book.customers.record_purchase(ada, [{"sku": "s", "quantity": 1, "net_minor": 100}])
        assert stored_rows(book_url, "trail") == book.position()
        assert {one.name: one.lag for one in book.projections.status() if one.name in ("profiles", "trail")} == {
            "profiles": 0, "trail": 0,
        }  # fmt: skip
        assert f"{gone} " in caplog.text
        assert book.profiles.get(ada).purchases == 2
        # From then on they are folded in the commit again, without a fallback.
        caplog.clear()
        book.customers.record_purchase(ada, [{"sku": "s", "quantity": 1, "net_minor": 100}])
        assert stored_rows(book_url, "trail") == book.position()
        assert caplog.text == ""


def test_read_models_are_built_anew_where_nothing_tells_of_their_builds_and_old_tables_go(
    book: tallybook.Book, book_url: str
) -> None:
    ada = small_book(book)
    for _ in range(2):
        book.projections.rebuild()
    before = tables_of(book_url)
    by_hand(book_url, "read_model_builds")
    assert book.profiles.get(ada).purchases == 1
    assert book.tiers.counts() == {"basic": 1}
    assert len(book.audit.trail(ada)) > 3
    # As many as before: those of which nothing tells any more are gone.
    assert len(tables_of(book_url)) == len(before)
    outside(book_url, "DELETE FROM read_model_builds WHERE name='tiers'")
    assert book.tiers.counts() == {"basic": 1}
    assert len(tables_of(book_url)) == len(before)


def test_a_rebuild_mends_what_somebody_dropped_and_a_paused_read_model_has_no_rows_until_it_is_resumed(
    book: tallybook.Book, book_url: str
) -> None:
    small_book(book)
    by_hand(book_url, newest_of(book_url, "tier_current"))
    book.projections.rebuild("tiers")
    assert book.tiers.counts() == {"basic": 1}
    book.projections.pause("tiers")
    by_hand(book_url, newest_of(book_url, "tier_current"))
    with pytest.raises(tallybook.Refused) as refused:
        book.tiers.counts()
    assert refused.value.code == "read_model_stopped"
    book.projections.resume("tiers")
    assert book.tiers.counts() == {"basic": 1}


# ── what the system or the server does not let us do ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("number", "says"), [(errno.EMFILE, "ulimit -n"), (errno.ENFILE, "open"), (errno.EAGAIN, "ulimit -u"), (1, "one")]
)
def test_a_process_of_a_rebuild_that_can_not_be_started_says_why(
    big: Shop, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    live = all_rows(big)
    monkeypatch.setattr("tallybook.worker.subprocess.Popen", none)
    with pytest.raises(BookError, match=says) as caught:
        big.book.projections.rebuild(processes=2)
    assert os.strerror(number) in caught.value.message
    assert all_rows(big) == live
    assert len(big.book._core.store.builds()) == len(big.book._core.projector.models)


def test_a_part_of_a_rebuild_that_is_dead_before_it_has_its_task_is_made_good(
    big: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = all_rows(big)
    real = subprocess.Popen

    def dead(args: list[str], **kwargs: Any) -> Any:
        process = real(["/bin/false", *args[1:]], **kwargs)
        process.wait()
        return process

    monkeypatch.setattr("tallybook.worker.subprocess.Popen", dead)
    assert big.book.projections.rebuild("trail", processes=2) == big.book.position()
    assert all_rows(big) == live


def test_a_statement_that_somebody_cancels_is_busy_and_the_command_can_be_repeated(server_book_url: str) -> None:
    with tallybook.open(server_book_url) as book, book.acting("a", purpose="p"):
        book.customers.register(name="Ada")
        schema = server_book_url.rpartition("=")[2]
        caught: list[BaseException] = []

        def register() -> None:
            try:
                with book.acting("a", purpose="p"):
                    book.customers.register(name="Bob", command_id="c1")
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is looked at below
                caught.append(error)

        with psycopg.connect(server_url()) as holder:
            holder.execute(f"SELECT * FROM {schema}.head FOR UPDATE".encode())
            thread = threading.Thread(target=register)
            thread.start()
            until = time.monotonic() + 10
            while thread.is_alive() and time.monotonic() < until:
                with psycopg.connect(server_url(), autocommit=True) as admin:
                    admin.execute(
                        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                        "WHERE application_name=%s AND wait_event_type='Lock'",
                        [f"tallybook {schema}"],
                    )
                time.sleep(0.02)
        thread.join()
        [error] = caught
        assert isinstance(error, tallybook.Conflict)
        assert (error.code, error.values["sqlstate"]) == ("busy", "57014")
        position = book.position()
        book.customers.register(name="Bob", command_id="c1")
        assert book.position() > position


def test_the_remedy_is_that_of_the_state(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(shop)
    for decide, says, not_says in (
        (shop.book.projections.pause, "resume tiers", "retry"),
        (shop.book.projections.retire, "resume tiers", "retry"),
    ):
        decide("tiers")
        for ask in (shop.book.tiers.counts, lambda: shop.book.projections.rebuild("tiers")):
            with pytest.raises(tallybook.NotAllowed, match=says) as refused:
                ask()
            assert refused.value.code == "read_model_stopped"
            assert not_says not in refused.value.remedy
            assert pickle.loads(pickle.dumps(refused.value)).remedy == refused.value.remedy
        shop.book.projections.resume("tiers")
    poison(monkeypatch, Tiers, lambda one: isinstance(one.event, ReadModelDirected))
    with pytest.raises(tallybook.NotAllowed, match="retry tiers"):
        shop.book.tiers.counts()


# ── rebuilds that were cut off ────────────────────────────────────────────────────────────────────────────────────

CUT_OFF = """
import sys
import tallybook
from tallybook.projections.trail import Trail

book = tallybook.open(sys.argv[1])

def fold(self, batch, rows):
    print("begun", flush=True)
    sys.stdin.read()

Trail.fold = fold
book.projections.rebuild("trail")
"""


@pytest.mark.parametrize("removed_by", ["drop_superseded", "rebuild"])
def test_a_rebuild_that_is_killed_is_told_from_one_that_runs_and_what_it_left_is_removed(
    book: tallybook.Book, book_url: str, removed_by: str
) -> None:
    small_book(book)
    numbers = [one.number for one in book._core.store.builds()]
    other = subprocess.Popen(
        [sys.executable, "-c", CUT_OFF, book_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout
        assert other.stdout.readline() == "begun\n"
        running = status_of(book, "trail")
        assert (running.rebuilding, running.abandoned) == (0, None)
        assert book.projections.drop_superseded() == 0
        assert not any("cut off" in one.what for one in book.doctor(quick=True))
    finally:
        other.kill()
        other.communicate()
    until = time.monotonic() + 20
    while status_of(book, "trail").abandoned is None and time.monotonic() < until:
        time.sleep(0.05)  # a server notices that its client is gone
    left = status_of(book, "trail")
    assert (left.state, left.rebuilding, left.abandoned) == ("live", None, 0)
    [told] = [one for one in book.doctor(quick=True) if "cut off" in one.what]
    assert told.state == "warning"
    assert f"trail__{max(numbers) + 1}" in tables_of(book_url)
    if removed_by == "rebuild":
        book.projections.rebuild("tiers")  # another one's
        assert status_of(book, "trail").abandoned == 0
        book.projections.rebuild("trail")
    else:
        assert book.projections.drop_superseded() == 1
        assert [one.number for one in book._core.store.builds()] == numbers
    assert status_of(book, "trail").abandoned is None
    assert sum(name.startswith("trail__") for name in tables_of(book_url)) == 1
    assert len(book.audit.trail()) >= 4


def test_of_two_rebuilds_of_one_read_model_the_second_waits_for_the_first(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(shop)
    shop.book.projections.catch_up()
    projector = shop.book._core.projector
    last = max(one.number for one in projector.store.builds())
    hold = projector.store.hold("rebuilding-trail")
    assert hold is not None
    thread = threading.Thread(target=projector.rebuild, args=("trail",))
    thread.start()
    shop.book.projections.rebuild("tiers")
    thread.join(timeout=0.3)
    assert thread.is_alive()
    assert [one.number for one in projector.store.builds() if one.name == "trail"] == [3]
    hold.release()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert [one.number for one in projector.store.builds() if one.name == "trail"] == [last + 2]
