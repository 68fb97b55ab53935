"""The suites bite: each of their tests fails on an adapter that is broken in the way that it is there for."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from unittest import mock
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import IntegrityError

import tallybook
from tallybook.adapters import merkle
from tallybook.adapters.database import Session
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters.keys import KeyName, MemoryKeyStore
from tallybook.adapters.log import CLAIMS, RECEIPTS, LogRecorder, LogSubscription, NewRow
from tallybook.adapters.read_models import TableReadModelStore, TableRows
from tallybook.adapters.sqlite import SQLiteDatabase, SQLiteWatch
from tallybook.adapters.wrapping import HEADER, FileWrappingKeys
from tallybook.domain.errors import KeysMissing
from tallybook.projections.read_models import Generation, Hold, Table
from tallybook.testing import conformance
from tallybook.testing.conformance import EventStoreSuite, KeyStoreSuite, ReadModelStoreSuite, WrappingKeysSuite

from .test_ours import InTables

ORIGIN = "tallybook/teeth"
A_MOMENT_S = 0.02
SOURCE = str(Path(tallybook.__file__).parent.parent)

# ── event stores that are wrong in one way ────────────────────────────────────────────────────────────────────────


class HoldsNothingAsEmpty(LogRecorder):
    def holder(self, claim: bytes) -> bytes | None:
        return super().holder(claim) or b""


class LosesTheLastEvent(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        found = super().append(rows[:-1] if len(rows) > 1 else rows, **kwargs)
        return range(found[0], found[0] + len(rows)) if found else found


class LeavesAGapBehindARollback(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        try:
            return super().append(rows, **kwargs)
        except Exception:
            head = self.head()
            head.frontier.append([b""])
            with self.database.session(write=True) as session:
                session.run("UPDATE head SET position=?, frontier=?", (head.frontier.size, head.frontier.packed()))
            raise


class SortsByStream(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append(sorted(rows, key=lambda row: bytes(row[0])), **kwargs)  # type: ignore[arg-type]  # UUIDs only


class GivesLists(LogRecorder):
    def log_rows(self, *args: Any, **kwargs: Any) -> Sequence[Any]:
        return [list(row) for row in super().log_rows(*args, **kwargs)]


class ForgetsClaimsWithoutEvents(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append(rows, **kwargs) if rows else []


class StopsBeforeTheStop(LogRecorder):
    def log_rows(
        self, after: int, limit: int, stop: int | None = None, topics: Sequence[str] = ()
    ) -> Sequence[tuple[Any, ...]]:
        return super().log_rows(after, limit, stop - 1 if stop else stop, topics)

    def iterate(self, after: int = 0, **kwargs: Any) -> Iterator[tuple[Any, ...]]:
        return iter(LogRecorder.log_rows(self, after, 10**9, kwargs.get("stop"), kwargs.get("topics", ())))


class EndsAtAFullChunk(LogRecorder):
    def iterate(
        self, after: int = 0, *, stop: int | None = None, topics: Sequence[str] = (), chunk: int = 5000
    ) -> Iterator[tuple[Any, ...]]:
        rows = self.log_rows(after, chunk, stop, topics)
        yield from rows
        if len(rows) > chunk:
            yield from self.iterate(rows[-1][0], stop=stop, topics=topics, chunk=chunk)


class WalksOnBehindTheHead(LogRecorder):
    def iterate(self, after: int = 0, **kwargs: Any) -> Iterator[tuple[Any, ...]]:
        while rows := self.log_rows(after, kwargs.get("chunk", 5000), kwargs.get("stop"), kwargs.get("topics", ())):
            yield from rows
            after = rows[-1][0]


class FindsFiveHundredRows(LogRecorder):
    def rows_at(self, positions: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        return super().rows_at(positions[:500])


class ForgetsTheBoundBackwards(LogRecorder):
    def stream_rows(self, originator_id: UUID | str, **kwargs: Any) -> Sequence[tuple[Any, ...]]:
        if kwargs.get("desc"):
            kwargs["lte"] = None
        return super().stream_rows(originator_id, **kwargs)


class ReadsFiveHundredStreams(LogRecorder):
    def streams_rows(self, originator_ids: Sequence[UUID], lte: int) -> Iterator[tuple[Any, ...]]:
        return super().streams_rows(originator_ids[:500], lte)


class ReadsStreamsToTheirEnd(LogRecorder):
    def streams_rows(self, originator_ids: Sequence[UUID], lte: int) -> Iterator[tuple[Any, ...]]:
        return super().streams_rows(originator_ids, 2**40)


class NamesStreamsByBytesOnly(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append([(row[0].encode() if isinstance(row[0], str) else row[0], *row[1:]) for row in rows])


class CutsAtNul(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append([(*row[:3], row[3].split(b"\0")[0]) for row in rows], **kwargs)


class WritesAsciiNames(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append([(*row[:2], row[2].encode("ascii", "replace").decode(), row[3]) for row in rows])


class TakesAThousand(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        super().append(rows[:1000], **kwargs)
        return range(1, len(rows) + 1)


class LeavesTheOriginOut(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        with mock.patch.object(self, "origin", ""):
            return super().append(rows, **kwargs)


class CommitsToEveryStateItself(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        with mock.patch.object(merkle, "ENTRY_BYTES_MAX", 10**9):
            return super().append(rows, **kwargs)


class KeepsQuietAboutConflicts(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        try:
            return super().append(rows, **kwargs)
        except IntegrityError:
            return range(1, len(rows) + 1)


class KeepsClaimsOfWhatItRefuses(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        claims = kwargs.pop("claims", ())
        with self.database.session(write=True) as session:
            session.insert(CLAIMS, [(*one, self.mac_of(CLAIMS, one)) for one in claims])
        return super().append(rows, **kwargs)


class IgnoresReads(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append(rows, **{**kwargs, "reads": ()})


class ChecksFiveHundredReads(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append(rows, **{**kwargs, "reads": kwargs.get("reads", ())[:500]})


class GivesClaimsTwice(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        taken = [claim for claim, _ in kwargs.get("claims", ())]
        return super().append(rows, **{**kwargs, "releases": [*kwargs.get("releases", ()), *taken]})


class ClaimsBeforeItReleases(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        releases = kwargs.pop("releases", ())
        found = super().append(rows, **kwargs)
        super().append([], releases=releases)
        return found


class LooksFiveHundredClaimsUp(LogRecorder):
    def holders(self, claims: Sequence[bytes]) -> dict[bytes, bytes]:
        return super().holders(claims[:500])


class ReplacesReceipts(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        if kwargs.get("receipt"):
            with self.database.session(write=True) as session:
                session.run("DELETE FROM receipts WHERE command_id=?", [kwargs["receipt"].command_id])
        return super().append(rows, **kwargs)


class CallsInlineBehindTheCommit(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        inline = kwargs.pop("inline", None)
        found = super().append(rows, **kwargs)
        if inline is not None and found:
            with self.database.session(write=True) as session:
                inline(session, found[0] - 1)
        return found


class TakesNothingUnknown(LogRecorder):
    def append(  # type: ignore[override]  # that is what is wrong with it
        self,
        rows: Sequence[NewRow],
        *,
        reads: Any = (),
        claims: Any = (),
        releases: Any = (),
        receipt: Any = None,
        inline: Any = None,
    ) -> Sequence[int]:
        return super().append(rows, reads=reads, claims=claims, releases=releases, receipt=receipt, inline=inline)


class ForgetsWhatIsDestroyed(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append(rows, **{**kwargs, "about": ()})


class KnowsTheFirstKeyOnly(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append(rows, **{**kwargs, "about": [one for one in kwargs.get("about", ()) if one[1] == 1]})


class HearsNothingNew(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        return super().append(rows, **{**kwargs, "quiet": None})


class IsNeverQuiet(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        quiet = kwargs.get("quiet")
        return super().append(rows, **{**kwargs, "quiet": quiet and (0, quiet[1])})


class CountsPositionsBeforeTheLock(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        last = self.position()
        time.sleep(A_MOMENT_S)
        super().append(rows, **kwargs)
        return range(last + 1, last + 1 + len(rows))


class MovesVersionsOutOfTheWay(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        try:
            return super().append(rows, **kwargs)
        except IntegrityError:
            return self.append([(row[0], row[1] + 100, *row[2:]) for row in rows], **kwargs)


class LooksBeforeItClaims(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        claims = kwargs.pop("claims", ())
        if self.holders([claim for claim, _ in claims]):
            raise IntegrityError
        time.sleep(A_MOMENT_S)
        with self.database.session(write=True) as session:
            session.upsert(CLAIMS, [(*one, self.mac_of(CLAIMS, one)) for one in claims])
            return self.append_in(session, rows, **kwargs)


class LooksBeforeItKeepsAReceipt(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        kept = kwargs.pop("receipt")
        if self.receipt(kept.command_id):
            raise IntegrityError
        time.sleep(A_MOMENT_S)
        with self.database.session(write=True) as session:
            row = (kept.command_id, kept.digest, 1, 1, kept.result)
            session.upsert(RECEIPTS, [(*row, self.mac_of(RECEIPTS, row))])
            return self.append_in(session, rows, **kwargs)


class ForgetsNoArguments(LogRecorder):
    def append_in(self, *args: Any, **kwargs: Any) -> Sequence[int]:
        kwargs.pop("forgotten", ())
        return super().append_in(*args, **kwargs)


class ForgetsAThousandArguments(LogRecorder):
    def append_in(self, *args: Any, **kwargs: Any) -> Sequence[int]:
        return super().append_in(*args, **{**kwargs, "forgotten": kwargs.get("forgotten", ())[:1000]})


class ForgetsTheReceipt(LogRecorder):
    def append_in(self, session: Session, *args: Any, **kwargs: Any) -> Sequence[int]:
        for one in kwargs.pop("forgotten", ()):
            session.run("DELETE FROM receipts WHERE command_id=?", [one])
        return super().append_in(session, *args, **kwargs)


class ForgetsTheArgumentsOfAll(LogRecorder):
    def append_in(self, session: Session, *args: Any, **kwargs: Any) -> Sequence[int]:
        if kwargs.get("erased"):
            session.run("UPDATE receipts SET digest=substr(digest, 1, 8)")
        return super().append_in(session, *args, **kwargs)


class LooksAtReadsBeforeTheLock(LogRecorder):
    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        for stream, version in kwargs.pop("reads", ()):
            if len(self.stream_rows(stream)) != version:
                raise IntegrityError
        time.sleep(A_MOMENT_S)
        return super().append(rows, **kwargs)


class ShowsAPositionLate(LogRecorder):
    """As where positions are given before the commit, and a later one is seen before an earlier one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.passed = 0

    def log_rows(self, *args: Any, **kwargs: Any) -> Sequence[tuple[Any, ...]]:
        rows = [row for row in super().log_rows(*args, **kwargs) if row[0] % 7 != 3 or row[0] < self.passed]
        self.passed = max([self.passed, *(row[0] for row in rows)])
        return rows


class CountsFromTheWait(SQLiteWatch):
    def wait(self, timeout_s: float) -> bool:
        self._seen = (self._database._data_version(), self._database.commits)
        return super().wait(min(timeout_s, 0.2))


class ForgetsCommitsBetweenWaits(LogRecorder):
    def watch(self) -> SQLiteWatch:
        return CountsFromTheWait(cast("SQLiteDatabase", self.database))


class Sleeper:
    """A watch that nothing wakes."""

    def wait(self, timeout_s: float) -> bool:
        time.sleep(timeout_s)
        return False

    def close(self) -> None:
        """Nobody is told."""


class NeverWakes(LogRecorder):
    def watch(self) -> Any:
        return Sleeper()


class SeesItsOwnCommitsOnly(LogRecorder):
    def watch(self) -> SQLiteWatch:
        database = cast("SQLiteDatabase", self.database)
        database._data_version = lambda: 0  # type: ignore[method-assign]  # it looks at no file
        return SQLiteWatch(database)


class SubscribesFromTheHead(LogRecorder):
    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> LogSubscription:
        return super().subscribe(self.position(), topics)


class RemembersTheHead(LogRecorder):
    known: int | None = None

    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        found = super().append(rows, **kwargs)
        self.known = found[-1] if found else self.known
        return found

    def position(self) -> int:
        return super().position() if self.known is None else self.known


class IsElsewhereWhenReopened(LogRecorder):
    """Its suite opens another file."""


EVENT_STORES: dict[str, list[type[LogRecorder]]] = {
    "test_an_empty_log_has_nothing": [HoldsNothingAsEmpty],
    "test_positions_count_from_one_without_gaps_over_commits_of_any_size": [LosesTheLastEvent],
    "test_events_stand_in_the_order_in_which_they_were_given": [SortsByStream],
    "test_rows_are_tuples_of_plain_values": [GivesLists],
    "test_appending_nothing_moves_nothing": [ForgetsClaimsWithoutEvents],
    "test_the_log_is_read_in_parts": [StopsBeforeTheStop],
    "test_a_walk_through_the_log_leaves_nothing_out_whatever_its_steps": [EndsAtAFullChunk],
    "test_a_walk_ends_at_the_head_where_it_began": [WalksOnBehindTheHead],
    "test_rows_are_found_by_position_in_order": [FindsFiveHundredRows],
    "test_a_stream_is_read_by_version_forwards_backwards_and_in_part": [ForgetsTheBoundBackwards],
    "test_many_streams_are_read_at_once_each_by_version": [ReadsFiveHundredStreams, ReadsStreamsToTheirEnd],
    "test_streams_may_be_named_by_texts": [NamesStreamsByBytesOnly],
    "test_any_bytes_come_back_the_same": [CutsAtNul],
    "test_a_stored_name_may_be_of_any_script": [WritesAsciiNames],
    "test_a_commit_may_be_large": [TakesAThousand],
    "test_head_and_frontier_are_those_of_the_tree_at_every_size": [LeavesTheOriginOut],
    "test_a_state_that_does_not_fit_an_entry_is_committed_by_its_hash": [CommitsToEveryStateItself],
    "test_a_version_is_written_once_and_what_is_refused_leaves_nothing": [
        KeepsQuietAboutConflicts,
        LeavesAGapBehindARollback,
        KeepsClaimsOfWhatItRefuses,
    ],
    "test_a_stream_that_was_read_must_stand_where_it_was_seen": [IgnoresReads],
    "test_each_of_many_streams_that_were_read_counts": [ChecksFiveHundredReads],
    "test_a_claim_is_held_once_until_it_is_released": [GivesClaimsTwice],
    "test_a_claim_passes_from_one_to_another_in_one_commit": [ClaimsBeforeItReleases],
    "test_who_holds_many_claims_is_asked_at_once": [LooksFiveHundredClaimsUp],
    "test_nothing_is_recorded_under_a_key_that_is_to_be_destroyed": [ForgetsWhatIsDestroyed, KnowsTheFirstKeyOnly],
    "test_a_commit_that_must_be_the_next_about_a_subject_is_refused_behind_another": [HearsNothingNew, IsNeverQuiet],
    "test_a_receipt_is_kept_once_with_its_result": [ReplacesReceipts],
    "test_of_a_command_that_is_forgotten_a_receipt_tells_the_name_and_no_arguments": [
        ForgetsNoArguments,
        ForgetsAThousandArguments,
        ForgetsTheReceipt,
        ForgetsTheArgumentsOfAll,
    ],
    "test_what_else_belongs_to_a_commit_fails_with_it_and_leaves_nothing": [
        CallsInlineBehindTheCommit,
        LeavesAGapBehindARollback,
        KeepsClaimsOfWhatItRefuses,
    ],
    "test_what_it_does_not_know_is_passed_over": [TakesNothingUnknown],
    "test_writers_at_once_lose_nothing_and_share_one_order": [CountsPositionsBeforeTheLock],
    "test_of_many_who_write_a_version_at_once_one_wins": [MovesVersionsOutOfTheWay],
    "test_of_many_who_claim_at_once_one_wins": [LooksBeforeItClaims],
    "test_of_many_who_repeat_a_command_at_once_one_counts": [LooksBeforeItKeepsAReceipt],
    "test_of_two_who_each_read_what_the_other_writes_one_wins": [LooksAtReadsBeforeTheLock],
    "test_a_reader_sees_a_log_that_only_grows_and_a_head_that_fits_it": [ShowsAPositionLate],
    "test_a_commit_wakes_a_watch_and_one_between_two_waits_counts": [ForgetsCommitsBetweenWaits, NeverWakes],
    "test_a_watch_that_is_closed_lets_its_thread_go": [NeverWakes],
    "test_whoever_follows_by_a_watch_misses_nothing": [ShowsAPositionLate],
    "test_another_store_on_the_same_data_follows_too": [SeesItsOwnCommitsOnly],
    "test_a_subscription_misses_nothing_and_ends_when_it_is_stopped": [SubscribesFromTheHead],
    "test_another_store_on_the_same_data_sees_what_is_committed_and_writes_on": [RemembersTheHead],
    "test_two_stores_on_the_same_data_share_one_order": [CountsPositionsBeforeTheLock, RemembersTheHead],
    "test_what_was_committed_is_there_after_closing": [IsElsewhereWhenReopened],
}
"""Each test of the suite → stores that it must fail on."""


class EventStores(EventStoreSuite):
    """The suite on a file, with a broken recorder."""

    def __init__(self, kind: type[LogRecorder]) -> None:
        self.kind = kind

    def make(self, tmp_path: Path) -> LogRecorder:
        return self.opened(str(tmp_path / "teeth.book"))

    def reopen(self, store: Any) -> LogRecorder:
        return self.opened(store.database.name + ("2" if self.kind is IsElsewhereWhenReopened else ""))

    def close(self, store: Any) -> None:
        store.database.close()

    def opened(self, name: str) -> LogRecorder:
        store = self.kind(SQLiteDatabase(name), origin=ORIGIN)
        store.create_table()
        return store


# ── key stores that are wrong in one way ──────────────────────────────────────────────────────────────────────────


class InventsKeys(MemoryKeyStore):
    def get(self, names: Any) -> dict[KeyName, bytes]:
        wanted = list(names)
        return {name: bytes(32) for name in wanted} | super().get(wanted)


class GivesAnotherType(FileKeyStore):
    def get(self, names: Any) -> dict[KeyName, bytes]:
        return {name: bytearray(key) for name, key in super().get(names).items()}  # type: ignore[misc]  # meant


class ReadsFiveHundredKeys(FileKeyStore):
    def get(self, names: Any) -> dict[KeyName, bytes]:
        return super().get(list(names)[:500])


class ReplacesKeys(MemoryKeyStore):
    def add(self, keys: Any) -> None:
        self._keys.update(keys)


class IgnoresKeysThatAreThere(MemoryKeyStore):
    def add(self, keys: Any) -> None:
        self._keys = {**keys, **self._keys}


class TakesTheSameKeyTwice(MemoryKeyStore):
    def add(self, keys: Any) -> None:
        if self.get(keys) != keys:
            super().add(keys)


class AddsOneByOne(FileKeyStore):
    def add(self, keys: Any) -> None:
        for subject, key in keys.items():
            super().add({subject: key})


class AddsAThousand(MemoryKeyStore):
    def add(self, keys: Any) -> None:
        super().add(dict(list(keys.items())[:1000]))


class HandsItsKeysOut(MemoryKeyStore):
    def add(self, keys: Any) -> None:
        if self.get(keys):
            raise IntegrityError
        self._keys = keys if not self._keys else {**self._keys, **keys}


class LooksBeforeItAdds(MemoryKeyStore):
    def add(self, keys: Any) -> None:
        if self.get(keys):
            raise IntegrityError
        time.sleep(A_MOMENT_S)
        self._keys.update(keys)


class LosesWhatOthersAdd(MemoryKeyStore):
    def add(self, keys: Any) -> None:
        if self.get(keys):
            raise IntegrityError
        mine = {**self._keys, **keys}
        time.sleep(0.0001)
        self._keys = mine


class ChangesItsName(MemoryKeyStore):
    def add(self, keys: Any) -> None:
        super().add(keys)
        self.origin += "x"


class FollowedOneAlready(MemoryKeyStore):
    def __init__(self, origin: str) -> None:
        super().__init__(origin)
        self._erased_up_to = 1


class HasOneKeyForEachSubject(MemoryKeyStore):
    """Its second key is found under the name of the first."""

    def get(self, names: Any) -> dict[KeyName, bytes]:
        by_subject = {subject: key for (subject, _), key in self._keys.items()}
        return {name: by_subject[name[0]] for name in names if name[0] in by_subject}


class DestroysAllOfASubject(MemoryKeyStore):
    def destroy(self, names: Any, position: int) -> None:
        subjects = {subject for subject, _ in names}
        super().destroy([name for name in self._keys if name[0] in subjects], position)


class DestroysAThousand(MemoryKeyStore):
    def destroy(self, names: Any, position: int) -> None:
        super().destroy(list(names)[:1000], position)


class LeavesNoTombstone(MemoryKeyStore):
    def destroy(self, names: Any, position: int) -> None:
        super().destroy(names, position)
        self._destroyed.clear()


class KeepsWhatItDestroyed(MemoryKeyStore):
    def destroy(self, names: Any, position: int) -> None:
        self._destroyed.update(dict.fromkeys(names, position))


class TakesItBack(MemoryKeyStore):
    def add(self, keys: Any) -> None:
        for name in keys:
            self._destroyed.pop(name, None)
        super().add(keys)


class NeedsAKeyToDestroy(MemoryKeyStore):
    def destroy(self, names: Any, position: int) -> None:
        super().destroy([name for name in names if name in self._keys], position)


class MovesTombstones(MemoryKeyStore):
    def destroy(self, names: Any, position: int) -> None:
        gone = list(names)
        super().destroy(gone, position)
        self._destroyed.update(dict.fromkeys(gone, position))


class TellsFiveThousandTombstones(MemoryKeyStore):
    def tombstones(self) -> list[tuple[KeyName, int]]:
        return super().tombstones()[:5000]


class TellsATombstoneTwice(MemoryKeyStore):
    def tombstones(self) -> list[tuple[KeyName, int]]:
        found = super().tombstones()
        return found + found[-1:]


class BelievesEveryTombstone(FileKeyStore):
    def _made(self, row: Any) -> bool:
        return True


class BelievesAMacOfAnother(FileKeyStore):
    """Its MACs are good for any position and any key."""

    def _mac(self, *_: Any) -> bytes:
        return b"made"


class DestroysAtAnyPosition(MemoryKeyStore):
    def destroy(self, names: Any, position: int) -> None:
        super().destroy(names, abs(position) + 1)


class BuriesLate(MemoryKeyStore):
    """A key that is added between the destruction and its tombstone stays."""

    def add(self, keys: Any) -> None:
        time.sleep(A_MOMENT_S / 2)
        super().add(keys)

    def destroy(self, names: Any, position: int) -> None:
        gone = list(names)
        for name in gone:
            self._keys.pop(name, None)
        time.sleep(A_MOMENT_S)
        self._destroyed.update(dict.fromkeys(gone, position))


class FollowsOnlyUpwards(MemoryKeyStore):
    def set_erased_up_to(self, position: int) -> None:
        super().set_erased_up_to(max(position, self.erased_up_to()))


class FollowsWhatItDestroys(MemoryKeyStore):
    def destroy(self, names: Any, position: int) -> None:
        super().destroy(names, position)
        self.set_erased_up_to(position)


class FollowsForItself(FileKeyStore):
    """How far it followed is known to this process alone."""

    noted = 0

    def set_erased_up_to(self, position: int) -> None:
        self.noted = position

    def erased_up_to(self) -> int:
        return self.noted


class RotatesNothing(FileKeyStore):
    def rotate(self) -> tuple[str, str]:
        return self.wrapping(), self.wrapping()


class WrapsNothingAnew(FileKeyStore):
    def _wrap_rows(self, *_: Any) -> None:
        """The look-up key alone."""


class SaysThatNoneOutlived(FileKeyStore):
    def outlived(self, names: Any = None) -> bool:
        return False


class SaysThatAllOutlived(FileKeyStore):
    """Also of keys that nobody destroyed."""

    def outlived(self, names: Any = None) -> bool:
        return super().outlived()


class OutlivesWithoutAKey(MemoryKeyStore):
    def outlived(self, names: Any = None) -> bool:
        return bool(self._destroyed)


class BuriesUnderTheKeyOfNow(FileKeyStore):
    """A tombstone that is there is written anew."""

    def destroy(self, names: Any, position: int) -> None:
        gone = list(names)
        super().destroy(gone, position)
        under = bytes.fromhex(self.wrapping())
        with self.database.session(write=True) as session:
            for subject, key_id in gone:
                session.run(
                    "UPDATE data_keys SET wrapping_key=? WHERE subject=? AND key_id=?", [under, subject.bytes, key_id]
                )


class LooksOnlyAtTheKeysThatThereWere(FileKeyStore):
    """A key that lies only in a copy outlives nothing."""

    def destroy(self, names: Any, position: int) -> None:
        gone = list(names)
        there = self.get(gone)
        super().destroy(gone, position)
        with self.database.session(write=True) as session:
            for subject, _ in set(gone) - there.keys():
                session.run("UPDATE data_keys SET wrapping_key=x'' WHERE subject=?", [subject.bytes])


class SaysItRotates(MemoryKeyStore):
    def rotate(self) -> tuple[str, str]:
        return "old", "new"


class HasOneLookUpKeyForAll(FileKeyStore):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lookup_key = bytes(range(32))


class HasANewLookUpKeyEachTime(FileKeyStore):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lookup_key = os.urandom(32)


class ForgetsAtTheEnd(FileKeyStore):
    def close(self) -> None:
        if not self._closed:
            with self.database.session(write=True) as session:
                session.run("DELETE FROM data_keys")
        super().close()


class AnswersWhenClosed(MemoryKeyStore):
    def close(self) -> None:
        """Goes on."""


KEY_STORES: dict[str, list[type[MemoryKeyStore | FileKeyStore]]] = {
    "test_a_new_store_holds_no_key_and_followed_no_erasure": [InventsKeys, FollowedOneAlready],
    "test_what_was_kept_is_found": [GivesAnotherType],
    "test_keys_of_one_subject_are_told_apart_by_their_ids": [HasOneKeyForEachSubject, DestroysAllOfASubject],
    "test_many_are_found_at_once_and_those_that_are_missing_left_out": [ReadsFiveHundredKeys, InventsKeys],
    "test_what_was_destroyed_is_gone_and_leaves_a_tombstone": [
        DestroysAThousand,
        LeavesNoTombstone,
        KeepsWhatItDestroyed,
    ],
    "test_a_key_that_was_destroyed_never_comes_back": [TakesItBack, LeavesNoTombstone, NeedsAKeyToDestroy],
    "test_destroying_again_changes_nothing": [MovesTombstones],
    "test_all_tombstones_are_told": [TellsFiveThousandTombstones, TellsATombstoneTwice, MovesTombstones],
    "test_a_tombstone_that_somebody_else_made_is_not_believed": [BelievesEveryTombstone, BelievesAMacOfAnother],
    "test_an_erasure_stands_at_a_position": [DestroysAtAnyPosition],
    "test_of_one_who_adds_and_one_who_destroys_at_once_no_key_outlives_the_tombstone": [BuriesLate],
    "test_how_far_erasures_were_followed_is_noted_as_given": [FollowsOnlyUpwards, FollowsWhatItDestroys],
    "test_a_key_is_never_replaced": [ReplacesKeys, IgnoresKeysThatAreThere, TakesTheSameKeyTwice],
    "test_of_several_keys_all_are_kept_or_none": [AddsOneByOne, AddsAThousand],
    "test_what_is_done_with_an_answer_or_an_argument_changes_nothing": [HandsItsKeysOut],
    "test_of_many_who_give_a_key_at_once_one_wins_and_all_of_what_it_gave_is_kept": [LooksBeforeItAdds, AddsOneByOne],
    "test_many_who_give_keys_of_their_own_at_once_lose_none": [LosesWhatOthersAdd],
    "test_a_rotation_changes_the_wrapping_key_and_nothing_else": [RotatesNothing, WrapsNothingAnew, SaysItRotates],
    "test_a_wrapping_key_outlives_destroyed_keys_until_it_is_rotated": [
        SaysThatNoneOutlived,
        SaysThatAllOutlived,
        OutlivesWithoutAKey,
        BuriesUnderTheKeyOfNow,
        LooksOnlyAtTheKeysThatThereWere,
    ],
    "test_the_books_name_and_look_up_key_stay_what_they_are": [ChangesItsName],
    "test_no_two_books_share_a_look_up_key": [HasOneLookUpKeyForAll],
    "test_another_store_on_the_same_data_sees_what_is_kept_and_can_not_replace_it": [
        HasANewLookUpKeyEachTime,
        FollowsForItself,
    ],
    "test_what_was_kept_and_destroyed_is_so_after_closing": [
        ForgetsAtTheEnd,
        HasANewLookUpKeyEachTime,
        FollowsForItself,
    ],
    "test_a_closed_store_refuses": [AnswersWhenClosed],
}


class KeyStores(InTables):
    """The suite with a broken key store."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def make(self, tmp_path: Path) -> Any:
        if issubclass(self.kind, MemoryKeyStore):
            return self.kind(ORIGIN)
        return self.kind(tmp_path / "teeth.keys", FileWrappingKeys(tmp_path / "teeth.wrapping-key"), origin=ORIGIN)

    def reopen(self, store: Any) -> Any:
        return self.kind(store.path, store.source)


# ── stores of read models that are wrong in one way ───────────────────────────────────────────────────────────────


class ForgetsNothing(TableReadModelStore):
    """Its suite opens a file in which another store has worked before."""


class WritesAtOnce(TableReadModelStore):
    def rows(self, build: Generation) -> TableRows:
        store = self

        class Hasty(TableRows):
            def put(self, table: Table, key: tuple[Any, ...], row: tuple[Any, ...]) -> None:
                super().put(table, key, row)
                store.write(build, self)

        return Hasty(self, build)


class CutsRowsAtNul(TableReadModelStore):
    def select(self, *args: Any, **kwargs: Any) -> Sequence[tuple[Any, ...]]:
        rows = super().select(*args, **kwargs)
        return [tuple(one.split(b"\0")[0] if isinstance(one, bytes) else one for one in row) for row in rows]


class FindsByTheFirstColumn(TableReadModelStore):
    def rows_of(self, build: Generation, table: Table, keys: Sequence[tuple[Any, ...]]) -> Any:
        rows = self.database.rows(f"SELECT * FROM {table.name}__{build.number}")
        return {key: next((row for row in rows if row[0] == key[0]), None) for key in keys}


class LoadsTwoHundredAndFifty(TableReadModelStore):
    def rows_of(self, build: Generation, table: Table, keys: Sequence[tuple[Any, ...]]) -> Any:
        return {**dict.fromkeys(keys), **super().rows_of(build, table, keys[:250])}


class IgnoresTheOrder(TableReadModelStore):
    def select(
        self, model: Any, table: Table, columns: Sequence[str], where: str = "", params: Sequence[Any] = ()
    ) -> Sequence[tuple[Any, ...]]:
        return super().select(model, table, columns, where.partition(" ORDER")[0], params)


class TracksWithoutRows(TableReadModelStore):
    def commit(self, work: Any, position: int, mark: bytes = b"") -> bool:
        return super().commit([(build, self.rows(build), start) for build, _, start in work], position, mark)


class RowsWithoutTracking(TableReadModelStore):
    def commit(self, work: Any, position: int, mark: bytes = b"") -> bool:
        for build, rows, _ in work:
            self.write(build, rows)
        return True


class FoldsFromAnywhere(TableReadModelStore):
    def commit(self, work: Any, position: int, mark: bytes = b"") -> bool:
        return super().commit([(build, rows, self.tracked(build)) for build, rows, _ in work], position, mark)


class CommitsOneByOne(TableReadModelStore):
    def commit(self, work: Any, position: int, mark: bytes = b"") -> bool:
        done = [super(CommitsOneByOne, self).commit([one], position, mark) for one in work]
        return all(done)


class LooksBeforeItCommits(TableReadModelStore):
    def commit(self, work: Any, position: int, mark: bytes = b"") -> bool:
        if any(self.tracked(build) != start for build, _, start in work):
            return False
        time.sleep(A_MOMENT_S / 10)
        while not super().commit([(build, rows, self.tracked(build)) for build, rows, _ in work], position, mark):
            pass  # it was sure to be alone
        return True


class MovesWithAPart(TableReadModelStore):
    def write(self, build: Generation, rows: Any) -> bool:
        return self.commit([(build, rows, self.tracked(build))], self.tracked(build) + 1)


class OverwritesTheLiveBuild(TableReadModelStore):
    def begin(self, model: Any, head: int) -> Generation:
        return self.generation(model) or super().begin(model, head)


class KeepsTheOldBuild(TableReadModelStore):
    def _drop(self, session: Any, numbers: Sequence[int]) -> None:
        """Nothing is dropped."""


class GivesNumbersAgain(TableReadModelStore):
    def _drop(self, session: Session, numbers: Sequence[int]) -> None:
        super()._drop(session, numbers)
        session.run("DELETE FROM read_model_builds WHERE name=''")


class TellsEverythingAgain(TableReadModelStore):
    def go_live(self, build: Generation) -> int | None:
        return None if super().go_live(build) is None else 0


class SwapsWhateverIsBehind(TableReadModelStore):
    def go_live(self, build: Generation) -> int | None:
        with self.database.session(write=True) as session:
            session.run("UPDATE read_model_builds SET position=10000 WHERE number=?", (build.number,))
        return super().go_live(build)


class GivesToEverybody(TableReadModelStore):
    def hold(self, name: str) -> Hold | None:
        return self.database.hold(f"{name}-{uuid4().hex}")


class HoldsOneForAll(TableReadModelStore):
    def hold(self, name: str) -> Hold | None:
        return self.database.hold("everything")


class SwapsTheOlderIn(TableReadModelStore):
    def go_live(self, build: Generation) -> int | None:
        with self.database.session(write=True) as session:
            session.run("DELETE FROM read_model_builds WHERE number>?", (build.number,))
        return super().go_live(build)


class TakesAnyVersion(TableReadModelStore):
    def generation(self, model: Any) -> Generation | None:
        rows = self.database.rows("SELECT number FROM read_model_builds WHERE name=? AND live=1", (model.name,))
        return Generation(model, rows[-1][0]) if rows else None


class DropsAllOfAName(TableReadModelStore):
    def drop(self, name: str, *, version: int | None = None, number: int | None = None) -> int:
        return super().drop(name)


class BringsADroppedBuildBack(TableReadModelStore):
    def write(self, build: Generation, rows: Any) -> bool:
        super().write(build, rows)
        return True


class KeepsAFailureForEver(TableReadModelStore):
    def commit(self, work: Any, position: int, mark: bytes = b"") -> bool:
        failed = {one.number: one for one in self.builds() if one.failed_position}
        done = super().commit(work, position, mark)
        for build, _, _ in work:
            if one := failed.get(build.number):
                self.fail(build, max(one.failed_position or 0, position + 1), one.failed_error, one.failed_seen)
        return done


class NumbersBuildsBeforeTheLock(TableReadModelStore):
    def begin(self, model: Any, head: int) -> Generation:
        number = max((one.number for one in self.builds()), default=0) + 1
        time.sleep(A_MOMENT_S)
        super().begin(model, head)
        return Generation(model, number)


class DropsBeforeItSwaps(TableReadModelStore):
    def go_live(self, build: Generation) -> int | None:
        for one in self.builds():
            if one.live:
                self.drop(one.name, number=one.number)
                time.sleep(A_MOMENT_S)
        return super().go_live(build)


class CommitsByItself(TableReadModelStore):
    def within(self, session: Any) -> TableReadModelStore:
        return self


class RemembersPositions(TableReadModelStore):
    def __init__(self, database: SQLiteDatabase) -> None:
        self.known: dict[int, int] = {}
        super().__init__(database)

    def tracked(self, build: Generation) -> int:
        return self.known.setdefault(build.number, super().tracked(build))

    def commit(self, work: Any, position: int, mark: bytes = b"") -> bool:
        if any(self.tracked(build) != start for build, _, start in work):
            return False
        there = super().tracked
        self.known.update({build.number: position for build, _, _ in work})
        return super().commit([(build, rows, there(build)) for build, rows, _ in work], position, mark)


class RowsElsewhereWhenReopened(TableReadModelStore):
    """Its suite opens another file."""


READ_MODEL_STORES: dict[str, list[type[TableReadModelStore]]] = {
    "test_a_new_store_holds_nothing": [ForgetsNothing],
    "test_a_unit_of_work_sees_what_it_wrote_and_nobody_else_does_before_the_commit": [WritesAtOnce],
    "test_any_value_comes_back_the_same": [CutsRowsAtNul],
    "test_rows_are_found_by_keys_of_several_columns": [FindsByTheFirstColumn],
    "test_many_rows_are_written_and_loaded_at_once": [LoadsTwoHundredAndFifty],
    "test_rows_are_selected_by_conditions": [IgnoresTheOrder],
    "test_rows_and_position_are_committed_together_and_each_start_counts_once": [
        TracksWithoutRows,
        RowsWithoutTracking,
        FoldsFromAnywhere,
    ],
    "test_several_builds_are_committed_together_or_not_at_all": [CommitsOneByOne],
    "test_many_who_fold_at_once_count_every_position_once": [LooksBeforeItCommits],
    "test_parts_of_the_subjects_are_written_without_moving_the_position": [MovesWithAPart],
    "test_a_build_is_filled_beside_the_live_one_and_swapped_in": [OverwritesTheLiveBuild, KeepsTheOldBuild],
    "test_what_is_kept_of_a_build_says_how_it_stands": [TellsEverythingAgain],
    "test_a_build_that_is_behind_the_live_one_is_not_swapped_in": [SwapsWhateverIsBehind],
    "test_the_newer_of_two_builds_stays": [SwapsTheOlderIn],
    "test_versions_and_shapes_live_side_by_side": [TakesAnyVersion, DropsAllOfAName],
    "test_a_build_is_dropped_by_its_number_alone": [DropsAllOfAName],
    "test_a_build_that_was_dropped_takes_nothing_more": [GivesNumbersAgain, BringsADroppedBuildBack],
    "test_a_failure_is_noted_and_forgotten_with_the_next_commit": [KeepsAFailureForEver],
    "test_builds_that_are_begun_at_once_are_told_apart": [NumbersBuildsBeforeTheLock],
    "test_whoever_asks_during_swaps_sees_one_whole_build": [DropsBeforeItSwaps],
    "test_within_a_transaction_everything_belongs_to_it": [CommitsByItself],
    "test_what_only_one_has_is_held_until_it_is_released": [GivesToEverybody, HoldsOneForAll],
    "test_another_store_on_the_same_data_shares_builds_and_positions": [RemembersPositions],
    "test_what_was_committed_is_there_after_closing": [RowsElsewhereWhenReopened],
}


class ReadModelStores(ReadModelStoreSuite):
    """The suite on a file, with a broken store."""

    def __init__(self, kind: type[TableReadModelStore]) -> None:
        self.kind = kind

    def make(self, tmp_path: Path) -> TableReadModelStore:
        store = self.kind(SQLiteDatabase(str(tmp_path / "teeth.rows"), lock_timeout_s=1))
        if self.kind is ForgetsNothing:
            store.begin(conformance.MODEL, 0)
        return store

    def reopen(self, store: Any) -> TableReadModelStore:
        name = store.database.name + ("2" if self.kind is RowsElsewhereWhenReopened else "")
        return self.kind(SQLiteDatabase(name, lock_timeout_s=1))

    def transaction(self, store: Any) -> Any:
        return store.database.session(write=True)

    def close(self, store: Any) -> None:
        store.database.close()


# ── the proof ─────────────────────────────────────────────────────────────────────────────────────────────────────


def names_of_tests(suite: type) -> set[str]:
    """Names of a suite's tests."""
    return {name for name in dir(suite) if name.startswith("test_")}


def run(suite: Any, test: str, tmp_path: Path) -> None:
    """Run one test of a suite, as pytest would."""
    store = suite.make(tmp_path)
    try:
        method = getattr(suite, test)
        method(*([store, tmp_path] if "tmp_path" in inspect.signature(method).parameters else [store]))
    finally:
        suite.close(store)


def cases(table: dict[str, list[Any]]) -> list[Any]:
    """Each test with each store that it must fail on."""
    return [pytest.param(test, kind, id=f"{kind.__name__}-{test}") for test, kinds in table.items() for kind in kinds]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "PATIENCE_S", 3.0)


def must_fail(suite: Any, test: str, tmp_path: Path) -> None:
    """A test of a suite must fail, and not because the run of it is broken: skipped is not failed."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever shows the fault
        run(suite, test, tmp_path)
    assert not isinstance(caught.value, (pytest.skip.Exception, KeyboardInterrupt, NameError, AttributeError))


@pytest.mark.parametrize(("test", "kind"), cases(EVENT_STORES))
def test_a_broken_event_store_does_not_pass(test: str, kind: type[LogRecorder], tmp_path: Path) -> None:
    must_fail(EventStores(kind), test, tmp_path)


@pytest.mark.parametrize(("test", "kind"), cases(KEY_STORES))
def test_a_broken_key_store_does_not_pass(test: str, kind: Any, tmp_path: Path) -> None:
    must_fail(KeyStores(kind), test, tmp_path)


@pytest.mark.parametrize(("test", "kind"), cases(READ_MODEL_STORES))
def test_a_broken_store_of_read_models_does_not_pass(
    test: str, kind: type[TableReadModelStore], tmp_path: Path
) -> None:
    must_fail(ReadModelStores(kind), test, tmp_path)


class IsMadeWithAKey(FileWrappingKeys):
    def read(self, origin: str) -> Any:
        return super().read(origin) or [bytes(32)]


class HasNoName(FileWrappingKeys):
    place = ""


class KeepsTheNewestAlone(FileWrappingKeys):
    def replace(self, origin: str, keys: Any) -> None:
        super().replace(origin, keys[:1])


class SortsItsKeys(FileWrappingKeys):
    def replace(self, origin: str, keys: Any) -> None:
        super().replace(origin, sorted(keys))


class RemembersForItself(FileWrappingKeys):
    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self._held: Any = []

    def read(self, origin: str) -> Any:
        return self._held

    def replace(self, origin: str, keys: Any) -> None:
        self._held = keys


class WritesInPieces(FileWrappingKeys):
    def replace(self, origin: str, keys: Any) -> None:
        self.path.touch(mode=0o600)
        self.path.write_bytes(b"")
        time.sleep(0.002)
        self.path.write_text("\n".join([HEADER, origin, *(b64encode(key).decode() for key in keys)]))


class IsOfAnyBook(FileWrappingKeys):
    def read(self, origin: str) -> Any:
        return super().read("any")

    def replace(self, origin: str, keys: Any) -> None:
        super().replace("any", keys)


class TakesTheirPlace(FileWrappingKeys):
    def replace(self, origin: str, keys: Any) -> None:
        self.path.unlink(missing_ok=True)
        super().replace(origin, keys)


class SaysNotWhose(FileWrappingKeys):
    def read(self, origin: str) -> Any:
        try:
            return super().read(origin)
        except KeysMissing as error:
            raise KeysMissing("Not these.", path=error.path, remedy=error.remedy) from None


class LooksFirst(FileWrappingKeys):
    def replace(self, origin: str, keys: Any) -> None:
        there = self.path.exists()
        if there:
            super().read(origin)
        time.sleep(0.002)
        draft = FileWrappingKeys(self.path.with_name(f"{threading.get_ident()}"))
        draft.replace(origin, keys)
        draft.path.replace(self.path)


WRAPPING_KEYS: dict[str, list[type[FileWrappingKeys]]] = {
    "test_a_new_source_holds_no_key_and_has_a_name": [IsMadeWithAKey, HasNoName],
    "test_it_holds_what_it_was_given_last_in_that_order": [KeepsTheNewestAlone, SortsItsKeys],
    "test_another_source_at_the_same_place_holds_the_same": [RemembersForItself],
    "test_another_book_gets_no_key_and_puts_none_in_their_place": [IsOfAnyBook, TakesTheirPlace, SaysNotWhose],
    "test_of_books_that_are_made_at_one_place_at_once_one_has_it": [IsOfAnyBook, LooksFirst],
    "test_whoever_reads_while_it_is_replaced_sees_one_or_the_other": [WritesInPieces],
}


class Sources(WrappingKeysSuite):
    """The suite with a broken source of wrapping keys."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def make(self, tmp_path: Path) -> Any:
        return self.kind(tmp_path / "wrapping-key")

    def reopen(self, store: Any) -> Any:
        return self.kind(store.path)


@pytest.mark.parametrize(("test", "kind"), cases(WRAPPING_KEYS))
def test_a_broken_source_of_wrapping_keys_does_not_pass(test: str, kind: Any, tmp_path: Path) -> None:
    must_fail(Sources(kind), test, tmp_path)


@pytest.mark.parametrize(
    ("suite", "table"),
    [
        (WrappingKeysSuite, WRAPPING_KEYS),
        (EventStoreSuite, EVENT_STORES),
        (KeyStoreSuite, KEY_STORES),
        (ReadModelStoreSuite, READ_MODEL_STORES),
    ],
    ids=["wrapping keys", "events", "keys", "rows"],
)
def test_every_test_of_a_suite_is_shown_to_fail(suite: type, table: dict[str, Any]) -> None:
    assert names_of_tests(suite) == set(table)


THIRD_PARTY = """
from tallybook.adapters.log import LogRecorder
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.testing.conformance import EventStoreSuite

class Mine(LogRecorder):
    def append(self, rows, **kwargs):
        return super().append(rows[: {most}], **kwargs)

class TestMine(EventStoreSuite):
    def make(self, tmp_path):
        store = Mine(SQLiteDatabase(str(tmp_path / "mine")))
        store.create_table()
        return store
"""


@pytest.mark.parametrize(("most", "status"), [(10**9, 0), (9_999, 1)])
def test_a_third_party_runs_a_suite_in_four_lines_and_is_told_what_is_wrong(
    tmp_path: Path, most: int, status: int
) -> None:
    file = tmp_path / f"test_mine_{uuid4().hex}.py"
    file.write_text(THIRD_PARTY.format(most=most))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "large or gaps", str(file)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    assert ("1 failed, 1 passed" if status else "2 passed") in done.stdout
    if status:
        # The suite's own assertions are shown with both sides.
        assert "assert [1, 2, 3, 4, 5, 6, ...] == [1, 2, 3, 4, 5, 6, ...]" in done.stdout


def test_without_pytest_the_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['pytest'] = None\n"
        "import tallybook; tallybook.open\n"
        "try: import tallybook.testing.conformance\n"
        "except tallybook.MissingExtra as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install 'tallybook[testing]'" in done.stdout


def test_a_book_loads_no_pytest() -> None:
    script = "import sys, tallybook; tallybook.open('memory:').close(); print('pytest' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
