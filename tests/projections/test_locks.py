"""Locks of read models on a server: whoever folds takes them in one order, so that nobody waits in a circle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest
from tests.postgres import run_sql

import tallybook
from tallybook.adapters import postgres
from tallybook.domain.errors import Conflict
from tallybook.projections.read_models import Recorded, Rows
from tallybook.projections.tiers import Tiers

LINE = {"sku": "s", "quantity": 1, "net_minor": 100}


@pytest.fixture
def deadlocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the server said of deadlocks, to anybody in this process; there must be nothing at the end."""
    found: list[str] = []
    real = postgres.translated

    def translated(error: psycopg.Error, place: str, **known: Any) -> Exception:
        if error.sqlstate == "40P01":
            found.append(str(error))
        return real(error, place, **known)

    monkeypatch.setattr(postgres, "translated", translated)
    yield found
    assert found == []


def until_somebody_waits_for_a_lock(url: str) -> None:
    """Wait until a session of the book's schema waits for a lock."""
    schema = url.rpartition("=")[2]
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if run_sql(
            "SELECT 1 FROM pg_stat_activity WHERE application_name=%s AND wait_event_type='Lock'",
            f"tallybook {schema}",
        ):
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


@pytest.mark.parametrize("inline", [["tiers", "profiles"], ["profiles", "tiers"]])
def test_a_command_that_folds_inline_and_another_that_folds_the_same_models_never_wait_in_a_circle(
    server_book_url: str, monkeypatch: pytest.MonkeyPatch, deadlocks: list[str], inline: list[str]
) -> None:
    with tallybook.open(server_book_url, inline=inline) as book, book.acting("a", purpose="p"):
        book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
        core = book._core
        builds = [build for model in (core.profiles, core.tiers) if (build := core.store.generation(model))]
        assert [build.number for build in builds] == [1, 2]
        others: list[threading.Thread] = []
        real = Tiers.fold

        def fold(self: Tiers, batch: Sequence[Recorded], rows: Rows) -> None:
            real(self, batch, rows)
            if not others:
                # In the middle of the command's transaction, somebody else folds into both.
                at = core.store.tracked(builds[0])
                work = [(build, core.store.rows(build), at) for build in builds]
                others.append(threading.Thread(target=core.store.commit, args=(work, at + 1)))
                others[0].start()
                until_somebody_waits_for_a_lock(server_book_url)

        monkeypatch.setattr(Tiers, "fold", fold)
        book.customers.register(name="Ada")
        others[0].join(timeout=30)
        assert not others[0].is_alive()
    assert deadlocks == []


def test_commands_inline_questions_projectors_and_rebuilds_at_once_meet_no_deadlock(
    server_book_url: str, deadlocks: list[str]
) -> None:
    errors: list[str] = []
    stop = threading.Event()
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(tallybook.open(server_book_url, inline=inline))
            for inline in (["tiers", "profiles"], ["trail", "profiles"], [])
        ]
        with hosts[0].acting("a", purpose="p"):
            hosts[0].rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
            customers = [hosts[0].customers.register(name="x") for _ in range(3)]
            for customer in customers:
                hosts[0].loyalty.enrol(customer)
        hosts[0].projections.catch_up()  # profiles is the first build from now on, and tiers the second

        def again(act: Callable[[int], object]) -> threading.Thread:
            def run() -> None:
                turn = 0
                while not stop.is_set():
                    try:
                        act(turn)
                    except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
                        errors.append(repr(error))
                    turn += 1

            return threading.Thread(target=run)

        def buy(host: tallybook.Book, turn: int) -> None:
            # Three writers, three customers: that others were faster each time is an answer. To wait for ever is none.
            with suppress(Conflict), host.acting("a", purpose="p"):
                host.customers.record_purchase(customers[turn % 3], [LINE])

        threads = [
            again(lambda turn: buy(hosts[0], turn)),
            again(lambda turn: buy(hosts[1], turn + 1)),
            again(lambda turn: buy(hosts[0], turn + 2)),
            again(lambda _: hosts[2].tiers.counts()),
            again(lambda _: hosts[1].tiers.counts()),
            again(lambda _: hosts[2].projections.rebuild("trail")),
            threading.Thread(target=hosts[2].projections.run, kwargs={"stop": stop}),
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60
        while hosts[0].position() < 400 and time.monotonic() < until:
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
        assert hosts[0].position() >= 400
        assert errors == []
        assert deadlocks == []
        assert hosts[0].projections.catch_up() == hosts[0].position()


def test_a_deadlock_is_called_one(server_book_url: str) -> None:
    with tallybook.open(server_book_url) as book, book.acting("a", purpose="p"):
        book.customers.register(name="Ada")
        database = book._core.storage.events
        assert isinstance(database, postgres.PostgresDatabase)
        said: list[str] = []
        both_hold = threading.Barrier(2)

        def lock(*numbers: int) -> None:
            try:
                with database.session(write=True) as session:
                    session.rows("SELECT pg_advisory_xact_lock(?)", (database.lock_number(str(numbers[0])),))
                    both_hold.wait()
                    session.rows("SELECT pg_advisory_xact_lock(?)", (database.lock_number(str(numbers[1])),))
            except tallybook.Conflict as refused:
                said.append(f"{refused.code}: {refused}")

        threads = [threading.Thread(target=lock, args=order) for order in ((1, 2), (2, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [message] = said
        assert message.startswith("busy: A deadlock")
