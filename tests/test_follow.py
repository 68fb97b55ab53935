"""`book.follow`, alone: what comes out, how it waits, and how it ends. That nothing is ever left out while many write
is in test_following.py.

Where a test is about a wake-up, the intervals after which a follower would look by itself are set to an hour.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import tallybook
from tallybook import Book, Follower, Recorded, Refused, StoredFormError
from tallybook.adapters import log, sqlite
from tallybook.adapters.log import LogRecorder
from tallybook.domain.errors import BookClosed, BookError

HOUR_S = 3600.0
ENOUGH_S = 60.0
"""What a thread is given that should be done at once; nothing is told by how long it took."""


@pytest.fixture(params=["files", "memory", "server"])
def any_book(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/shop.book"
    if request.param == "server":
        url = request.getfixturevalue("server_book_url")
    with tallybook.open(url) as opened, opened.acting("agent:lin", purpose="support"):
        yield opened


@pytest.fixture
def only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself: neither for a commit that was not announced, nor for other processes."""
    monkeypatch.setattr(log, "HEARTBEAT_S", HOUR_S)
    monkeypatch.setattr(sqlite, "POLL_S", HOUR_S)


def register(book: Book, many: int = 1) -> list[UUID]:
    """Two events each: the key and the registration."""
    return [book.customers.register(name=f"Customer {number}") for number in range(many)]


def positions(recorded: Sequence[Recorded]) -> list[int]:
    return [one.position for one in recorded]


class Aside(threading.Thread):
    """A job in a thread, with its result or error."""

    def __init__(self, job: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.job = job
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.job()
        except BaseException as error:  # noqa: BLE001 - shown by `result`
            self.error = error

    def result(self) -> Any:
        self.join(ENOUGH_S)
        assert not self.is_alive(), "it did not end"
        if self.error is not None:
            raise self.error
        return self.outcome


def until_waiting(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a follower has found nothing and goes to wait."""
    reached = threading.Event()
    watch = follower._tail._watch
    real = watch.wait

    def wait(timeout_s: float) -> bool:
        reached.set()
        return real(timeout_s)

    monkeypatch.setattr(watch, "wait", wait)
    return reached


# ── what comes out ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_events_come_in_order_with_their_positions_from_any_position_on(any_book: Book) -> None:
    register(any_book, 5)
    history = list(any_book._core.history())
    assert len(history) == 10
    for after in (0, 1, 5, 9, 10):
        followed = list(any_book.follow(after, timeout_s=0))
        assert followed == history[after:]
        assert all(isinstance(one, Recorded) for one in followed)


def test_at_the_head_it_ends_and_iterated_again_it_goes_on(any_book: Book) -> None:
    follower = any_book.follow(timeout_s=0)
    assert list(follower) == []
    for so_far in range(0, 10, 2):
        register(any_book)
        assert positions(list(follower)) == [so_far + 1, so_far + 2]
        assert follower.position == any_book.position()
    assert list(follower) == []


def test_an_iteration_that_is_broken_off_goes_on_with_the_next_event(any_book: Book) -> None:
    register(any_book, 3)
    follower = any_book.follow(timeout_s=0)
    seen = []
    for _ in range(6):
        for recorded in follower:
            seen.append(recorded.position)
            assert follower.position == recorded.position
            break
    assert seen == [1, 2, 3, 4, 5, 6]


def test_only_the_names_that_are_wanted_come_and_the_position_moves_past_the_others(book: Book) -> None:
    register(book, 3)
    wanted = ["customer.registered"]
    follower = book.follow(names=wanted, timeout_s=0)
    followed = list(follower)
    assert followed == list(book._core.history(wanted))
    assert len(followed) == 3
    book.customers.record_interaction(followed[0].event.originator_id, "visit")
    assert list(follower) == []
    assert follower.position == book.position() == 7
    assert list(book.follow(names=[*wanted, *wanted], timeout_s=0)) == followed


def test_a_rare_name_is_looked_for_piece_by_piece_and_no_piece_twice(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, *_ = register(book, 10)
    book.customers.record_interaction(ada, "visit")
    monkeypatch.setattr(log, "TAIL_POSITIONS", 8)
    looked: list[tuple[int, int | None]] = []
    real = LogRecorder.log_rows

    def log_rows(self: LogRecorder, after: int, limit: int, stop: int | None = None, topics: Any = ()) -> Any:
        looked.append((after, stop))
        return real(self, after, limit, stop, topics)

    monkeypatch.setattr(LogRecorder, "log_rows", log_rows)
    follower = book.follow(names=["customer.interaction_recorded"], timeout_s=0)
    assert positions(list(follower)) == [21]
    book.customers.record_interaction(ada, "visit")
    assert positions(list(follower)) == [22]
    assert looked == [(0, 8), (8, 16), (16, 21), (21, 22)]


def test_no_more_is_read_ahead_than_a_chunk(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    register(book, 20)
    monkeypatch.setattr(log, "TAIL_ROWS", 7)
    fetched: list[int] = []
    real = LogRecorder.log_rows

    def log_rows(self: LogRecorder, after: int, limit: int, *rest: Any) -> Any:
        rows = real(self, after, limit, *rest)
        fetched.append(len(rows))
        return rows

    monkeypatch.setattr(LogRecorder, "log_rows", log_rows)
    follower = book.follow(timeout_s=0)
    for count in range(1, 41):
        assert next(follower).position == count
        assert sum(fetched) - count < 7
    assert fetched == [7, 7, 7, 7, 7, 5]
    with pytest.raises(StopIteration):
        next(follower)


def test_a_position_beyond_the_head_is_waited_for(book: Book, only_woken: None, monkeypatch: Any) -> None:
    register(book)
    follower = book.follow(5)
    waiting = until_waiting(follower, monkeypatch)
    thread = Aside(lambda: next(follower))
    assert waiting.wait(ENOUGH_S)
    with book.acting("agent:lin", purpose="support"):
        register(book)  # 3 and 4: the follower looks, and waits on
        register(book)
    assert thread.result().position == 6
    assert list(book.follow(100, timeout_s=0)) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"after": -1},
        {"after": "1"},
        {"after": True},
        {"after": 1.0},
        {"names": "customer.registered"},
        {"names": ["customer.unheard_of"]},
        {"names": ["customer.registered", ""]},
        {"timeout_s": -0.1},
        {"timeout_s": float("nan")},
        {"timeout_s": "1"},
    ],
)
def test_what_makes_no_sense_is_refused(book: Book, arguments: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        book.follow(**arguments)
    assert caught.value.code == "invalid_argument"
    assert caught.value.values["argument"] == next(iter(arguments))


def test_nothing_personal_is_opened_and_no_read_is_recorded(book: Book) -> None:
    book.customers.register(name="Ada Lovelace", email="ada@example.org")
    reads = len(list(book._core.reads()))
    shown = repr(list(book.follow(timeout_s=0)))
    assert "Ada" not in shown
    assert "example.org" not in shown
    assert len(list(book._core.reads())) == reads


def test_nobody_needs_to_act(book: Book) -> None:
    register(book)
    assert Aside(lambda: list(book.follow(timeout_s=0))).result() == list(book._core.history())


def test_an_event_that_cannot_be_read_is_named_and_what_follows_it_comes(book: Book) -> None:
    register(book, 2)
    with book._core.app.log.database.session(write=True) as session:
        session.run("UPDATE stored_events SET state=? WHERE position=2", [b"\xc1"])
        session.run("UPDATE stored_events SET topic='customer.from_the_future' WHERE position=3", [])
    follower = book.follow(timeout_s=0)
    assert next(follower).position == 1
    for position in (2, 3):
        with pytest.raises(StoredFormError, match=f"position {position},"):
            next(follower)
        assert follower.position == position
    assert positions(list(follower)) == [4]
    assert positions(list(book.follow(3, timeout_s=0))) == [4]


def test_a_reaction_that_is_a_command_with_an_id_from_the_position_happens_once(book: Book) -> None:
    register(book, 3)
    for after in (0, 0, 3):  # a host that lost its position, and one that was killed before it kept the next
        for position, event in book.follow(after, names=["customer.registered"], timeout_s=0):
            book.customers.record_interaction(event.originator_id, "welcome", command_id=f"welcome/{position}")
    assert len(list(book._core.history(["customer.interaction_recorded"]))) == 3


def test_an_error_of_the_database_leaves_it_where_it_was(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    register(book, 2)
    monkeypatch.setattr(log, "TAIL_ROWS", 2)
    follower = book.follow(timeout_s=0)
    assert positions([next(follower), next(follower)]) == [1, 2]
    with monkeypatch.context() as broken:
        broken.setattr(LogRecorder, "log_rows", lambda *_: (_ for _ in ()).throw(BookError("no disk")))
        for _ in range(2):
            with pytest.raises(BookError, match="no disk"):
                next(follower)
    assert follower.position == 2
    assert positions(list(follower)) == [3, 4]


# ── waking up ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_commit_of_this_process_wakes_it(any_book: Book, only_woken: None, monkeypatch: Any) -> None:
    follower = any_book.follow()
    for position in (1, 3, 5):
        waiting = until_waiting(follower, monkeypatch)
        thread = Aside(lambda: [next(follower).position, next(follower).position])
        assert waiting.wait(ENOUGH_S)
        register(any_book)
        assert thread.result() == [position, position + 1]


def test_a_commit_of_another_process_wakes_it(book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "HEARTBEAT_S", HOUR_S)
    follower = book.follow()
    waiting = until_waiting(follower, monkeypatch)
    thread = Aside(lambda: next(follower))
    assert waiting.wait(ENOUGH_S)
    script = """
import sys, tallybook
with tallybook.open(sys.argv[1]) as book, book.acting("agent:other", purpose="test"):
    book.customers.register(name="Ada")
"""
    subprocess.run([sys.executable, "-c", script, book._core.storage.url], check=True, timeout=ENOUGH_S)
    position, event = thread.result()
    assert (position, event.metadata.actor) == (1, "agent:other")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_commit_between_looking_and_waiting_is_not_missed(
    book: Book, only_woken: None, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    # The commit happens after the tail has found nothing, before it waits. The other book stands for a process.
    with tallybook.open(book._core.storage.url) as other, other.acting("agent:other", purpose="test"):
        register(other)
        writer = other if elsewhere else book
        follower = book.follow(2)
        real = LogRecorder.position
        looked: list[int] = []

        def position(self: LogRecorder) -> int:
            found = real(self)
            if not looked:
                with writer.acting("agent:lin", purpose="support"):
                    looked.append(found)
                    register(writer)
            return found

        monkeypatch.setattr(LogRecorder, "position", position)
        assert Aside(lambda: next(follower)).result().position == 3
        assert looked == [2]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_watch_that_was_told_of_one_commit_tells_the_next(book: Book, only_woken: None, elsewhere: bool) -> None:
    with tallybook.open(book._core.storage.url) as other, other.acting("agent:other", purpose="test"):
        writer = other if elsewhere else book
        watch = book._core.app.log.watch()
        assert not watch.wait(0)
        for _ in range(3):
            register(writer)
            assert watch.wait(ENOUGH_S)
            assert not watch.wait(0)


def test_many_followers_are_all_woken(any_book: Book, only_woken: None) -> None:
    followers = [any_book.follow() for _ in range(20)]
    threads = [Aside(lambda one=one: positions(list(islice(one, 10)))) for one in followers]  # type: ignore[misc]  # defaults
    register(any_book, 5)
    assert [thread.result() for thread in threads] == [list(range(1, 11))] * 20


# ── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_closing_it_from_another_thread_ends_it(any_book: Book, only_woken: None, monkeypatch: Any) -> None:
    register(any_book)
    follower = any_book.follow()
    waiting = until_waiting(follower, monkeypatch)
    thread = Aside(lambda: positions(list(follower)))
    assert waiting.wait(ENOUGH_S)
    follower.close()
    assert thread.result() == [1, 2]
    register(any_book)
    assert list(follower) == []


def test_closing_the_book_ends_it(only_woken: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("memory:", f"sqlite:///{tmp_path}/shop.book"):
        book = tallybook.open(url)
        follower = book.follow()
        waiting = until_waiting(follower, monkeypatch)
        thread = Aside(partial(list, follower))
        assert waiting.wait(ENOUGH_S)
        book.close()
        assert thread.result() == []
        assert list(follower) == []
        with pytest.raises(BookClosed):
            book.follow()


def test_after_closing_nothing_comes_that_was_held(book: Book) -> None:
    register(book, 3)
    with book.follow() as follower:
        assert next(follower).position == 1
    assert list(follower) == []
    other = tallybook.open(book._core.storage.url)
    last = other.follow()
    assert next(last).position == 1
    other.close()
    assert list(last) == []


def test_two_threads_on_one_follower_are_told(book: Book, only_woken: None, monkeypatch: Any) -> None:
    follower = book.follow()
    waiting = until_waiting(follower, monkeypatch)
    thread = Aside(lambda: list(follower))
    assert waiting.wait(ENOUGH_S)
    with pytest.raises(BookError, match="a follower of its own"):
        next(follower)
    follower.close()
    assert thread.result() == []


def test_a_process_that_was_forked_cannot_follow_and_the_first_one_goes_on(book_url: str) -> None:
    # A thread of the parent holds the lock at which watches wait: in the child, nobody will ever give it back.
    script = """
import os, sys, threading, tallybook
book = tallybook.open(sys.argv[1])
with book.acting("agent:lin", purpose="support"):
    book.customers.register(name="Ada")
follower, watch = book.follow(timeout_s=0), book._core.app.log.watch()
next(follower)
held, go_on = threading.Event(), threading.Event()
def hold():
    with watch._listener.noticed if hasattr(watch, "_listener") else watch._database.committed:
        held.set()
        go_on.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    follower._held = iter(())
    for job in (follower.__next__, lambda: watch.wait(60)):
        try:
            job()
        except tallybook.BookError as error:
            print("child:", "forked" in str(error), flush=True)
    follower.close()
    os._exit(0)
_, status = os.waitpid(child, 0)
go_on.set()
thread.join()
print("parent:", status, [position for position, _ in follower])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, book_url],
        capture_output=True,
        text=True,
        timeout=ENOUGH_S,
        check=True,
    )
    assert done.stdout.splitlines() == ["child: True", "child: True", "parent: 0 [2]"]


# ── asyncio ───────────────────────────────────────────────────────────────────────────────────────────────────────


def followers_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tallybook-follow"]


def all_end(threads: Sequence[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(ENOUGH_S)
    return not any(thread.is_alive() for thread in threads)


def test_async_for_gives_the_same_and_blocks_no_loop(any_book: Book, only_woken: None) -> None:
    async def main() -> list[int]:
        seen = []

        async def write() -> None:
            for _ in range(5):
                await any_book.customers.register.aio(name="Ada")

        async with any_book.follow() as follower:
            writing = asyncio.create_task(write())  # gets its turns only if following gives them
            async for recorded in follower:
                seen.append(recorded.position)
                if len(seen) == 10:
                    break
            await writing
        return seen

    assert asyncio.run(main()) == list(range(1, 11))
    assert all_end(followers_threads())


def test_a_cancelled_wait_loses_no_event(book: Book, only_woken: None) -> None:
    async def main() -> list[int]:
        seen = []
        async with book.follow() as follower:
            for _ in range(20):
                task = asyncio.ensure_future(anext(follower))
                await asyncio.sleep(0)
                register(book)  # the pull may have it at any moment from here on
                task.cancel()
                with suppress(asyncio.CancelledError):
                    seen.append((await task).position)
            while len(seen) < 40:
                seen.append((await anext(follower)).position)
        return seen

    assert asyncio.run(main()) == list(range(1, 41))
    assert all_end(followers_threads())


def test_waiting_for_the_next_event_with_a_time_limit_can_be_tried_again(book: Book) -> None:
    async def main() -> None:
        async with book.follow() as follower:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(follower), 0.01)
            assert len(followers_threads()) == 1  # one wait goes on, however often it was given up
            register(book)
            assert (await asyncio.wait_for(anext(follower), ENOUGH_S)).position == 1

    asyncio.run(main())
    assert all_end(followers_threads())


def test_async_it_ends_at_the_head_and_when_it_or_the_book_is_closed(book: Book, only_woken: None) -> None:
    register(book)

    async def main() -> None:
        follower = book.follow(timeout_s=0)
        assert [position async for position, _ in follower] == [1, 2]
        assert [position async for position, _ in follower] == []
        other = tallybook.open(book._core.storage.url)
        for close in (book.follow, other.follow):
            endless = close(2)
            task = asyncio.create_task(anext(endless, None))
            await asyncio.sleep(0.01)
            if close == book.follow:
                endless.close()
            else:
                other.close()
            assert await asyncio.wait_for(task, ENOUGH_S) is None

    asyncio.run(main())
    assert all_end(followers_threads())


def test_errors_reach_the_task_that_waits(book: Book) -> None:
    register(book, 2)
    with book._core.app.log.database.session(write=True) as session:
        session.run("UPDATE stored_events SET state=? WHERE position=2", [b"\xc1"])

    async def main() -> None:
        follower = book.follow(timeout_s=0)
        assert (await anext(follower)).position == 1
        with pytest.raises(StoredFormError, match="position 2,"):
            await anext(follower)
        assert [one.position async for one in follower] == [3, 4]

    asyncio.run(main())


def test_a_database_error_in_an_async_wait_is_raised_once_and_it_goes_on(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(book)

    async def main() -> None:
        follower = book.follow(timeout_s=0)
        with monkeypatch.context() as broken:
            broken.setattr(LogRecorder, "log_rows", lambda *_: (_ for _ in ()).throw(BookError("no disk")))
            with pytest.raises(BookError, match="no disk"):
                await anext(follower)
        assert [one.position async for one in follower] == [1, 2]

    asyncio.run(main())


def test_two_tasks_on_one_follower_are_told(book: Book) -> None:
    async def main() -> None:
        async with book.follow() as follower:
            task = asyncio.ensure_future(anext(follower))
            await asyncio.sleep(0)
            with pytest.raises(BookError, match="a follower of its own"):
                await anext(follower)
            task.cancel()

    asyncio.run(main())


def test_a_wait_that_was_given_up_serves_another_loop_and_a_thread(book: Book, only_woken: None) -> None:
    follower = book.follow()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(follower), 0.01)

    async def one_more() -> int:
        return (await anext(follower)).position

    asyncio.run(give_up())
    register(book)
    assert asyncio.run(one_more()) == 1
    assert next(follower).position == 2
    asyncio.run(give_up())
    register(book)
    assert next(follower).position == 3
    follower.close()


def test_a_follower_that_is_forgotten_leaves_no_thread(book: Book, only_woken: None) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(book.follow()), 0.01)

    asyncio.run(main())
    waiting = followers_threads()
    gc.collect()
    assert all_end(waiting)


def test_an_interpreter_exits_with_followers_still_waiting(tmp_path: Path) -> None:
    script = """
import asyncio, sys, threading
import tallybook
from tallybook.adapters import log, sqlite
log.HEARTBEAT_S = sqlite.POLL_S = 3600.0
book = tallybook.open(sys.argv[1])
threading.Thread(target=lambda: list(book.follow()), daemon=True).start()
left = book.follow()
async def main():
    tasks = [asyncio.create_task(anext(one)) for one in (left, book.follow())]
    await asyncio.sleep(0.05)
asyncio.run(main())
print("done")
"""
    for url in (f"sqlite:///{tmp_path}/shop.book", "memory:"):
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "ignore", "-c", script, url],
            capture_output=True,
            text=True,
            timeout=ENOUGH_S,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
