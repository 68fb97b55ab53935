"""`book.follow`: the book's events as they come, for a host's own reactions and for brokers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from tallybook.adapters.log import Row, Tail, check_no_gap
from tallybook.domain.errors import BookClosed, BookError, listed, refusal, whole
from tallybook.domain.events import REGISTRY
from tallybook.projections.read_models import Recorded

from .core import Core


class Follower:
    """A book's events after a position as they come: in order, each once, none left out. For one thread or task.

    Iterate it with `for`, or with `async for` under asyncio, where a thread of its own does the waiting. What comes
    out is `Recorded`: (position, event). At most 500 events are held at a time. Sealed values stay sealed: nothing
    personal is opened, and no read is recorded. The iteration ends when the book or the follower is closed, by any
    thread, and when `timeout_s` is over without an event; iterated again, it then goes on where it was.

    An event that can't be read raises StoredFormError, which names its position; iterated again, the follower goes on
    after it. A position that is gone raises BookDamaged, once. An error of the database leaves the follower where it
    was.
    """

    def __init__(self, core: Core, after: int, names: Sequence[str], timeout_s: float | None) -> None:
        self._core = core
        self._timeout_s = timeout_s
        self._position = after
        self._names = names
        self._tail = Tail(core.app.log, after, names)
        self._held: Iterator[Row] = iter(())
        self._pending: Future[Sequence[Row]] | None = None
        self._in_use = Lock()

    @property
    def position(self) -> int:
        """Where it is: each event up to here came out, or has a name that was not asked for."""
        return self._position

    def close(self) -> None:
        """End it; whoever waits for an event stops waiting at once. May be called from any thread."""
        self._tail.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was refused before it had a tail
            self._tail.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Recorded:
        self._begin()
        try:
            while (recorded := self._next()) is None:
                rows = self._tail.pull(self._timeout_s) if self._pending is None else self._pulled()
                if not self._hold(rows):
                    raise StopIteration
            return recorded
        except BookClosed:
            raise StopIteration from None
        finally:
            self._in_use.release()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Recorded:
        self._begin()
        try:
            while (recorded := self._next()) is None:
                if self._pending is None:
                    self._pending = _pull_aside(self._tail, self._timeout_s)
                # A task that is cancelled here leaves the pull under way, and what it brings to the next call.
                with suppress(Exception):
                    await asyncio.wrap_future(self._pending)
                if not self._hold(self._pulled()):
                    raise StopAsyncIteration
            return recorded
        except BookClosed:
            raise StopAsyncIteration from None
        finally:
            self._in_use.release()

    def _begin(self) -> None:
        if not self._in_use.acquire(blocking=False):
            raise BookError(
                "Two threads or tasks iterate one follower at once.",
                path=self._core.storage.url,
                remedy="Give each of them a follower of its own.",
            )

    def _next(self) -> Recorded | None:
        """The next event that is held. Raises BookClosed when there is to be no more, StoredFormError."""
        self._core.check_open()
        if self._tail.closed:
            raise BookClosed("The follower is closed.", path=self._core.storage.url)
        for position, stream, version, name, state in self._held:
            # Moved on first: whoever goes on after an event that can't be read does not meet it again.
            self._position = position
            return next(self._core.app.decode([(position, stream, version, name, state)]))
        return None

    def _hold(self, rows: Sequence[Row]) -> bool:
        before, self._held = self._position, iter(rows)
        if not rows:
            self._position = self._tail.after
        elif not self._names:
            check_no_gap(rows, before, self._core.storage.url)
        return bool(rows)

    def _pulled(self) -> Sequence[Row]:
        pending, self._pending = self._pending, None
        assert pending is not None
        return pending.result()


def _pull_aside(tail: Tail, timeout_s: float | None) -> Future[Sequence[Row]]:
    """Pull in a thread that keeps no interpreter from exiting, and no follower from being forgotten."""
    future: Future[Sequence[Row]] = Future()
    future.set_running_or_notify_cancel()  # from here on nobody can cancel it

    def run() -> None:
        try:
            future.set_result(tail.pull(timeout_s))
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, name="tallybook-follow", daemon=True).start()
    return future


def follow(core: Core, after: int, names: Sequence[str], timeout_s: float | None) -> Follower:
    """A follower of an open book. Refuses: invalid_argument. Raises BookClosed."""
    core.check_open()
    whole(after, "after", 0, 2**62)
    wanted = listed(names, "names", "stored names")
    unknown = [name for name in wanted if name not in REGISTRY]
    if unknown:
        raise refusal(
            "invalid_argument",
            f"names: there is no event of the name {unknown[0]!r}; docs/events.md lists them.",
            argument="names",
        )
    if timeout_s is not None and not (isinstance(timeout_s, (int, float)) and timeout_s >= 0):
        raise refusal("invalid_argument", "timeout_s: seconds, 0 or more, are wanted, or None.", argument="timeout_s")
    return Follower(core, after, tuple(dict.fromkeys(wanted)), timeout_s)
