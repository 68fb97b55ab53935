"""Group commit: threads that append to one log at the same time share a transaction."""

from __future__ import annotations

import os
from _thread import LockType, allocate_lock
from collections.abc import Callable, Mapping, Sequence

from eventsourcing.persistence import DataError, IntegrityError

from .log import ErasedKeys, EventStore, NewRow

GROUP_ROWS_MAX = 2000
"""How many rows one transaction takes at most."""

_OF_ONE_ROW = (DataError, IntegrityError, ValueError, TypeError, OverflowError, AttributeError)
"""What may be one row's fault. All other errors are the database's, and each row would meet them again."""

Look = Callable[[Sequence[bytes], Sequence[bytes]], tuple[Mapping[bytes, int], ErasedKeys]]
"""Gives the versions of some streams, and the destroyed keys of some subjects, as they are now."""


class Moved(Exception):
    """A stream does not stand where it was seen, so the row was not appended."""


Rewrite = Callable[[ErasedKeys], NewRow]
"""Gives the row as it is to be where keys of its subjects are destroyed."""


class _Waiting:
    """A row, and the thread that waits for it. `wake` is released when it is durable, has failed, or is to lead."""

    __slots__ = ("done", "erased", "error", "leads", "rewrite", "row", "seen", "subjects", "wake")

    def __init__(
        self, row: NewRow, seen: Sequence[tuple[bytes, int]], subjects: Sequence[bytes], rewrite: Rewrite | None
    ) -> None:
        self.row = row
        self.rewrite = rewrite
        self.seen = seen
        self.subjects = subjects
        self.erased: ErasedKeys = set()
        self.wake: LockType | None = None
        self.leads = self.done = False
        self.error: BaseException | None = None


class GroupCommit:
    """Appends single rows, each the first of its own stream, to a log.

    Whoever comes while nobody commits leads: he commits all that waits, and then wakes those who wait, one of whom
    leads the next group. `append` returns when its row is durable, and raises the error if it is not. A group that
    fails for what may be one row's fault is tried again row by row, so that no row fails its neighbours.

    What a row rests on is looked up by whoever leads, once for the whole group, before its commit: so it is at least
    as new as the call of each who waits.
    """

    def __init__(self, log: EventStore, look: Look) -> None:
        self._log = log
        self._look = look
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = allocate_lock()
        self._waiting: list[_Waiting] = []
        self._led = False

    def append(
        self,
        row: NewRow,
        seen: Sequence[tuple[bytes, int]] = (),
        subjects: Sequence[bytes] = (),
        rewrite: Rewrite | None = None,
    ) -> ErasedKeys:
        """Append a row; the destroyed keys of `subjects`, and maybe of others. It is durable when this returns; any
        error means that it must count as missing. Where keys of `subjects` are destroyed, what `rewrite` gives is
        appended in the row's place.

        `seen` are streams that it rests on, with the version seen. Raises Moved if one does not stand there now.
        """
        if self._pid != os.getpid():
            self._begin()  # in a forked child, whoever led stayed behind
        mine = _Waiting(row, seen, subjects, rewrite)
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
        return mine.erased

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

    def _standing(self, group: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """Those of a group whose row rests on what is so now; the others have their error."""
        asking = [one for one in group if one.seen or one.subjects]
        if not asking:
            return group
        streams = dict.fromkeys([stream for one in asking for stream, _ in one.seen])
        subjects = dict.fromkeys([subject for one in asking for subject in one.subjects])
        try:
            versions, erased = self._look([*streams], [*subjects])
        except Exception as error:  # noqa: BLE001 - each who asked gets it
            for one in asking:
                one.error = error
        else:
            whose = {subject for subject, _ in erased}
            for one in asking:
                one.erased = erased
                if any(versions[stream] != version for stream, version in one.seen):
                    one.error = Moved()
                elif one.rewrite is not None and not whose.isdisjoint(one.subjects):
                    try:
                        one.row = one.rewrite(erased)
                    except Exception as error:  # noqa: BLE001 - whoever asked gets it
                        one.error = error
        return [one for one in group if one.error is None]

    def _commit(self, group: Sequence[_Waiting]) -> None:
        group = self._standing(group)
        if not group:
            return
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
