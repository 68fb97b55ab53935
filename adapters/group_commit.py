"""Group commit: threads that append to one log at the same time share a transaction."""

from __future__ import annotations

import os
from _thread import LockType, allocate_lock
from collections.abc import Sequence

from eventsourcing.persistence import DataError, IntegrityError

from .log import EventStore, NewRow

GROUP_ROWS_MAX = 2000
"""How many rows one transaction takes at most."""

_OF_ONE_ROW = (DataError, IntegrityError, ValueError, TypeError, OverflowError, AttributeError)
"""What may be one row's fault. All other errors are the database's, and each row would meet them again."""


class _Waiting:
    """A row, and the thread that waits for it. `wake` is released when it is durable, has failed, or is to lead."""

    __slots__ = ("done", "error", "leads", "row", "wake")

    def __init__(self, row: NewRow) -> None:
        self.row = row
        self.wake: LockType | None = None
        self.leads = self.done = False
        self.error: BaseException | None = None


class GroupCommit:
    """Appends single rows, each the first of its own stream, to a log.

    Whoever comes while nobody commits leads: he commits all that waits, and then wakes those who wait, one of whom
    leads the next group. `append` returns when its row is durable, and raises the error if it is not. A group that
    fails for what may be one row's fault is tried again row by row, so that no row fails its neighbours.
    """

    def __init__(self, log: EventStore) -> None:
        self._log = log
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = allocate_lock()
        self._waiting: list[_Waiting] = []
        self._led = False

    def append(self, row: NewRow) -> None:
        """Append a row. It is durable when this returns; any error means that it must count as missing."""
        if self._pid != os.getpid():
            self._begin()  # in a forked child, whoever led stayed behind
        mine = _Waiting(row)
        try:
            with self._lock:
                self._waiting.append(mine)
                if self._led:
                    mine.wake = allocate_lock()
                    mine.wake.acquire()
                else:
                    self._led = mine.leads = True
            if mine.wake is not None:
                mine.wake.acquire()
            if not mine.done:
                self._lead(mine)
        except BaseException:
            self._leave(mine)
            raise
        if mine.error is not None:
            raise mine.error

    def _lead(self, mine: _Waiting) -> None:
        with self._lock:
            group, self._waiting = self._waiting[:GROUP_ROWS_MAX], self._waiting[GROUP_ROWS_MAX:]
        try:
            self._commit(group)
        except BaseException as error:  # an interrupt
            for one in group:
                if not one.done:
                    one.error = error
            raise
        finally:
            for one in group:
                one.done = True
            with self._lock:
                self._hand_on(mine)
            for one in group:
                if one.wake is not None and one.wake.locked():
                    one.wake.release()

    def _hand_on(self, mine: _Waiting) -> None:
        """Give the lead to the first who waits."""
        mine.leads = False
        self._led = bool(self._waiting)
        if self._waiting:
            heir = self._waiting[0]
            assert heir.wake is not None
            heir.leads = True
            heir.wake.release()

    def _leave(self, mine: _Waiting) -> None:
        """Whoever is interrupted takes neither his row nor the lead with him."""
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
            if mine.leads:
                self._hand_on(mine)

    def _commit(self, group: Sequence[_Waiting]) -> None:
        try:
            self._log.append([one.row for one in group])
        except _OF_ONE_ROW as error:
            if len(group) == 1:
                group[0].error = error
                return
            for one in group:
                try:
                    self._log.append([one.row])
                except _OF_ONE_ROW as alone:
                    one.error = alone
                else:
                    one.done = True
        except Exception as error:  # noqa: BLE001 - each who waits gets it
            for one in group:
                one.error = error
