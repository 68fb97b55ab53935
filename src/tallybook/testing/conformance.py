"""What every adapter must do, as suites for pytest: an adapter's own test is four lines.

    from tallybook.testing.conformance import EventStoreSuite

    class TestMine(EventStoreSuite):
        def make(self, tmp_path):
            return MyEventStore(tmp_path / "events")

`make` gives an empty store with its tables made. `reopen` gives another store on the same data, as another process
would open it, while the first is open and after it was closed; where `durable` is False, only while it is open.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

import msgpack
import pytest
from eventsourcing.persistence import IntegrityError

from tallybook.adapters.keys import KeyName, KeyStore
from tallybook.adapters.log import NAMING_BYTES, EventStore, NewRow, Receipt
from tallybook.adapters.wrapping import KEY_BYTES, WrappingKeys
from tallybook.domain.errors import BookClosed, BookDamaged, BookError, KeysMissing
from tallybook.projections.read_models import (
    BuildRecord,
    Generation,
    ReadModelStore,
    Recorded,
    Rows,
    Table,
    shape_of,
)

__all__ = ["EventStoreSuite", "KeyStoreSuite", "ReadModelStoreSuite", "WrappingKeysSuite"]

S = TypeVar("S")
Raised = BaseException | None

PATIENCE_S = 60.0
"""After this long without an end, a test says that a thread is stuck."""


class Suite(Generic[S]):
    """What the suites share."""

    durable = True
    """Whether the data outlives the closing of the store."""

    def make(self, tmp_path: Path) -> S:
        """A new, empty store. Each adapter's test defines it."""
        raise NotImplementedError

    def reopen(self, store: S) -> S:
        """Another store on the same data. Where an adapter's test defines none, tests that need one are skipped."""
        raise NotImplementedError

    def close(self, store: S) -> None:
        """Release what `make` or `reopen` gave. By default: the store's own `close`, if it has one."""
        close = getattr(store, "close", None)
        if close is not None:
            close()

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[S]:
        """A store for one test."""
        made = self.make(tmp_path)
        yield made
        self.close(made)

    def opened_again(self, store: S) -> S:
        """Another store on the same data, or the test is skipped."""
        try:
            return self.reopen(store)
        except NotImplementedError:
            pytest.skip("the adapter's test defines no reopen")

    def lasting(self, store: S) -> S:
        """The store closed and opened again, or the test is skipped."""
        if not self.durable:
            pytest.skip("the adapter's data ends with its store")
        self.close(store)
        return self.opened_again(store)


def seeded(seed: int) -> random.Random:
    """Numbers that are the same in each run."""
    return random.Random(seed)  # noqa: S311 - nothing here is a secret


def together(*works: Callable[[], Any]) -> list[Any]:
    """Results of works that run at once in threads of their own; an IntegrityError is a result, others are raised."""
    results: list[Any] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(index: int, work: Callable[[], Any]) -> None:
        try:
            start.wait(PATIENCE_S)
            results[index] = work()
        except BaseException as error:  # noqa: BLE001 - shown in the test's own thread
            results[index] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), f"after {PATIENCE_S} s a thread is not done"
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, IntegrityError):
            raise result
    return results


def won(results: Sequence[Any]) -> int:
    """How many of several works were not refused."""
    return sum(not isinstance(result, IntegrityError) for result in results)


# ── the Merkle tree, by its definition: RFC 6962, section 2.1 ───────────────────────────────────────────────────────


def leaf_of(origin: str, row: Sequence[Any]) -> bytes:
    """The bytes that a row's leaf commits to (docs/stored-form.md)."""
    entry: bytes = msgpack.packb([origin, *row])
    if len(entry) > 65_535:
        entry = msgpack.packb([origin, *row[:4], None, sha256(row[4]).digest()])
    return entry


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """The root over leaves."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def full_subtrees(leaves: Sequence[bytes]) -> bytes:
    """The roots of the full subtrees over leaves, largest first, one after the other."""
    if not leaves:
        return b""
    size = 1 << len(leaves).bit_length() - 1
    return tree_hash(leaves[:size]) + full_subtrees(leaves[size:])


def check_log(store: EventStore) -> list[tuple[Any, ...]]:
    """All rows of a log, after its positions, extent, head and frontier were compared with them."""
    rows = list(store.iterate())
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1)), "positions count from 1 without gaps"
    assert store.extent() == ((len(rows), 1, len(rows)) if rows else (0, 0, 0))
    assert store.position() == len(rows)
    head = store.head()
    leaves = [leaf_of(store.origin, row) for row in rows]
    assert (head.position, head.frontier.size) == (len(rows), len(rows))
    assert head.frontier.root() == tree_hash(leaves), "the head's root is not that of the rows"
    assert head.frontier.packed() == full_subtrees(leaves), "the head's frontier is not that of the rows"
    return rows


def events(stream: UUID, *versions: int, name: str = "made.up", size: int = 12) -> list[NewRow]:
    """New rows of a stream."""
    return [(stream.bytes, version, name, f"{version} of {stream}".encode()[:size]) for version in versions]


class Rollback(Exception):
    """Raised in the middle of a transaction."""


def roll_back(*_: Any) -> None:
    """What else belongs to a commit, and fails."""
    raise Rollback


class EventStoreSuite(Suite[EventStore]):
    """The contract of `tallybook.adapters.log.EventStore`."""

    text_streams = True
    """Whether streams may be named by texts beside UUIDs, as `eventsourcing` allows."""

    # ── positions and order ─────────────────────────────────────────────────────────────────────────────────────

    def test_an_empty_log_has_nothing(self, store: EventStore) -> None:
        assert check_log(store) == []
        assert list(store.log_rows(0, 10)) == []
        assert list(store.stream_rows(uuid4())) == []
        assert list(store.streams_rows([uuid4()], 9)) == list(store.streams_rows([], 9)) == []
        assert list(store.rows_at([])) == list(store.rows_at([1])) == []
        assert store.holders([]) == store.holders([b"claim"]) == {}
        assert store.holder(b"claim") is None
        assert store.receipt(b"command") is None

    def test_positions_count_from_one_without_gaps_over_commits_of_any_size(self, store: EventStore) -> None:
        expected: list[tuple[Any, ...]] = []
        for size in (1, 2, 1, 7, 0, 30, 1):
            new = events(uuid4(), *range(1, size + 1))
            positions = list(store.append(new))
            assert positions == list(range(len(expected) + 1, len(expected) + size + 1))
            expected += [(position, *row) for position, row in zip(positions, new, strict=True)]
        assert check_log(store) == expected

    def test_events_stand_in_the_order_in_which_they_were_given(self, store: EventStore) -> None:
        streams = sorted((uuid4() for _ in range(10)), reverse=True)
        new = [row for version in (1, 2) for stream in streams for row in events(stream, version)]
        seeded(7).shuffle(new)
        store.append(new)
        assert [row[1:] for row in check_log(store)] == new

    def test_rows_are_tuples_of_plain_values(self, store: EventStore) -> None:
        stream = uuid4()
        store.append([(stream.bytes, 1, "made.up", b"state")])
        for row in (*store.iterate(), *store.log_rows(0, 1), *store.rows_at([1]), *store.streams_rows([stream], 1)):
            assert row == (1, stream.bytes, 1, "made.up", b"state")
            assert [type(value) for value in row] == [int, bytes, int, str, bytes]
        assert list(store.stream_rows(stream)) == [(1, 1, "made.up", b"state")]

    def test_appending_nothing_moves_nothing(self, store: EventStore) -> None:
        assert list(store.append([])) == []
        store.append(events(uuid4(), 1, 2))
        before = store.head()
        assert list(store.append([])) == []
        assert list(store.append([], claims=[(b"claim", b"holder")])) == []
        assert store.holder(b"claim") == b"holder"
        assert (store.head().position, store.head().frontier.root()) == (2, before.frontier.root())

    def test_the_log_is_read_in_parts(self, store: EventStore) -> None:
        for name in "abcabcabca":
            store.append(events(uuid4(), 1, name=name))
        rows = check_log(store)
        assert list(store.log_rows(0, 100)) == rows
        assert list(store.log_rows(3, 4)) == rows[3:7]
        assert list(store.log_rows(3, 100, 5)) == rows[3:5]
        assert list(store.log_rows(5, 100, 5)) == list(store.log_rows(10, 100)) == list(store.log_rows(99, 1)) == []
        assert list(store.log_rows(1, 2, topics=["a"])) == [rows[3], rows[6]]
        assert list(store.log_rows(1, 100, 7, ["a", "c"])) == [rows[2], rows[3], rows[5], rows[6]]
        assert list(store.log_rows(0, 100, topics=["unheard of"])) == []

    def test_a_walk_through_the_log_leaves_nothing_out_whatever_its_steps(self, store: EventStore) -> None:
        for index in range(25):
            store.append(events(uuid4(), 1, name="even" if index % 2 else "odd"))
        rows = check_log(store)
        for chunk in (1, 2, 5, 24, 25, 26, 1000):
            assert list(store.iterate(chunk=chunk)) == rows
            assert list(store.iterate(7, stop=20, chunk=chunk)) == rows[7:20]
            assert list(store.iterate(topics=["even"], chunk=chunk)) == rows[1::2]
        assert list(store.iterate(25)) == []

    def test_a_walk_ends_at_the_head_where_it_began(self, store: EventStore) -> None:
        store.append(events(uuid4(), *range(1, 8)))
        walk = store.iterate(chunk=2)
        seen = [next(walk)]
        store.append(events(uuid4(), *range(1, 8)))
        seen += walk
        assert [row[0] for row in seen] == list(range(1, 8))

    def test_rows_are_found_by_position_in_order(self, store: EventStore) -> None:
        store.append([row for _ in range(1200) for row in events(uuid4(), 1)])
        rows = check_log(store)
        assert list(store.rows_at([2, 5, 9])) == [rows[1], rows[4], rows[8]]
        assert list(store.rows_at([1200, 1201, 5000])) == [rows[1199]]
        assert list(store.rows_at(range(1, 1201))) == rows

    # ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_stream_is_read_by_version_forwards_backwards_and_in_part(self, store: EventStore) -> None:
        mine, other = uuid4(), uuid4()
        for version in (1, 2, 3, 4):
            store.append(events(mine, version) + events(other, version))
        rows = [(row[0], *row[2:]) for row in check_log(store) if row[1] == mine.bytes]
        assert list(store.stream_rows(mine)) == rows
        assert list(store.stream_rows(mine, desc=True)) == rows[::-1]
        assert list(store.stream_rows(mine, gt=1, lte=3)) == rows[1:3]
        assert list(store.stream_rows(mine, gt=4)) == list(store.stream_rows(mine, lte=0)) == []
        assert list(store.stream_rows(mine, limit=2)) == rows[:2]
        assert list(store.stream_rows(mine, lte=3, desc=True, limit=1)) == [rows[2]]

    def test_many_streams_are_read_at_once_each_by_version(self, store: EventStore) -> None:
        streams = [uuid4() for _ in range(1100)]
        store.append([row for stream in streams for row in events(stream, 1)])
        store.append([row for stream in streams[::-1] for row in events(stream, 2, 3)])
        by_stream: dict[bytes, list[int]] = {}
        last = b""
        wanted = [*streams[:1050], uuid4()]
        for row in store.streams_rows(wanted, 2):
            if row[1] != last:
                assert row[1] not in by_stream, "a stream's rows stand together"
                last = row[1]
            by_stream.setdefault(row[1], []).append(row[2])
            assert row[4] == events(UUID(bytes=row[1]), row[2])[0][3]
        assert by_stream == {stream.bytes: [1, 2] for stream in streams[:1050]}

    def test_streams_may_be_named_by_texts(self, store: EventStore) -> None:
        if not self.text_streams:
            pytest.skip("the adapter has streams with UUIDs only")
        for name in ("a stream", "客户/Ünï 😀"):
            store.append([(name, 1, "made.up", b"state")])
            assert [row[1:] for row in store.stream_rows(name)] == [(1, "made.up", b"state")]
        assert [row[1] for row in check_log(store)] == ["a stream", "客户/Ünï 😀"]

    # ── what an event may hold ──────────────────────────────────────────────────────────────────────────────────

    def test_any_bytes_come_back_the_same(self, store: EventStore) -> None:
        states = [
            b"", b"\0", b"\0" * 100, b"a\0b", bytes(range(256)), "😀客\U0010ffff".encode(), b"\xff\xfe", b"\\x00",
            b"';--", b"%s?$1{text}", seeded(1).randbytes(65_500), seeded(2).randbytes(3_000_000),
        ]  # fmt: skip
        stream = uuid4()
        store.append([(stream.bytes, version, "made.up", state) for version, state in enumerate(states, 1)])
        for position, state in enumerate(states, 1):
            assert [row[4] for row in store.rows_at([position])] == [state]
        check_log(store)

    def test_a_stored_name_may_be_of_any_script(self, store: EventStore) -> None:
        names = ["客户.登记", "😀", "a'b\"c;--", "%s?{text}", "x" * 300]
        for name in names:
            store.append(events(uuid4(), 1, name=name))
            assert [row[3] for row in store.log_rows(0, 10, topics=[name])] == [name]
        assert [row[3] for row in check_log(store)] == names

    def test_a_commit_may_be_large(self, store: EventStore) -> None:
        streams = [uuid4() for _ in range(20)]
        new = [row for version in range(1, 501) for stream in streams for row in events(stream, version, size=60)]
        assert list(store.append(new)) == list(range(1, 10_001))
        assert list(store.append(new[:0] + events(uuid4(), 1))) == [10_001]
        assert [row[1:] for row in check_log(store)[:-1]] == new

    def test_head_and_frontier_are_those_of_the_tree_at_every_size(self, store: EventStore) -> None:
        for size in range(40):
            store.append(events(uuid4(), *range(1, size % 3 + 2)))
            check_log(store)

    def test_a_state_that_does_not_fit_an_entry_is_committed_by_its_hash(self, store: EventStore) -> None:
        # Around the largest entry: a leaf is a byte or two longer than its state and what stands beside it.
        sizes = range(65_300, 65_535, 5)
        store.append([(uuid4().bytes, 1, "made.up", bytes(size)) for size in sizes])
        entries = [len(msgpack.packb([store.origin, *row])) for row in check_log(store)]
        assert min(entries) <= 65_535 < max(entries)

    # ── what a commit refuses ───────────────────────────────────────────────────────────────────────────────────

    def refused(self, store: EventStore, rows: Sequence[NewRow], **kwargs: Any) -> None:
        """A commit fails with IntegrityError, and leaves everything as it was."""
        before = (check_log(store), store.holders([b"free", b"held"]), store.receipt(b"new"))
        with pytest.raises(IntegrityError):
            store.append(
                rows,
                **{
                    "claims": [(b"free", b"me")],
                    "releases": [b"held"],
                    "receipt": Receipt(b"new", b"digest", b"result"),
                    **kwargs,
                },
            )
        assert (check_log(store), store.holders([b"free", b"held"]), store.receipt(b"new")) == before

    def test_a_version_is_written_once_and_what_is_refused_leaves_nothing(self, store: EventStore) -> None:
        mine = uuid4()
        store.append(events(mine, 1, 2), claims=[(b"held", b"owner")])
        self.refused(store, events(mine, 2))
        self.refused(store, events(mine, 3, 1))
        self.refused(store, events(uuid4(), 1) + events(mine, 3, 3))
        assert list(store.append(events(mine, 3))) == [3]
        check_log(store)

    def test_a_stream_that_was_read_must_stand_where_it_was_seen(self, store: EventStore) -> None:
        mine, other, absent = uuid4(), uuid4(), uuid4()
        store.append(events(other, 1, 2), claims=[(b"held", b"owner")])
        store.append(events(mine, 1), reads=[(other, 2), (absent, 0)])
        for wrong in ([(other, 1)], [(other, 3)], [(other, 0)], [(absent, 1)], [(absent, 0), (other, 1)]):
            self.refused(store, events(mine, 2), reads=wrong)
            self.refused(store, [], reads=wrong)
        store.append(events(mine, 2), reads=[(other, 2)])

    def test_each_of_many_streams_that_were_read_counts(self, store: EventStore) -> None:
        streams = [uuid4() for _ in range(1100)]
        store.append([row for stream in streams for row in events(stream, 1)], claims=[(b"held", b"owner")])
        reads = [(stream, 1) for stream in streams] + [(uuid4(), 0)]
        for wrong in (0, 499, 500, 1099, 1100):
            moved = [(stream, version + (index == wrong)) for index, (stream, version) in enumerate(reads)]
            self.refused(store, events(uuid4(), 1), reads=moved)
        store.append(events(uuid4(), 1), reads=reads)

    def test_a_claim_is_held_once_until_it_is_released(self, store: EventStore) -> None:
        store.append(events(uuid4(), 1), claims=[(b"held", b"ada"), (b"other", b"ada")])
        self.refused(store, events(uuid4(), 1), claims=[(b"free", b"bob"), (b"held", b"bob")], releases=[])
        self.refused(store, events(uuid4(), 1), claims=[(b"held", b"ada")], releases=[])
        self.refused(store, events(uuid4(), 1), claims=[(b"free", b"a"), (b"free", b"b")])
        store.append(events(uuid4(), 1), releases=[b"held", b"never taken"])
        assert store.holders([b"held", b"other"]) == {b"other": b"ada"}
        store.append([], claims=[(b"held", b"bob")])
        assert store.holder(b"held") == b"bob"

    def test_a_claim_passes_from_one_to_another_in_one_commit(self, store: EventStore) -> None:
        store.append([], claims=[(b"code", b"ada")])
        store.append([], releases=[b"code"], claims=[(b"code", b"bob")])
        assert store.holder(b"code") == b"bob"

    def test_who_holds_many_claims_is_asked_at_once(self, store: EventStore) -> None:
        wanted = {f"claim {index}".encode(): f"holder {index}\0".encode() for index in range(1100)}
        store.append([], claims=list(wanted.items()))
        assert store.holders([*wanted, b"free"]) == wanted
        store.append([], releases=list(wanted)[:1050])
        assert store.holders(list(wanted)) == dict(list(wanted.items())[1050:])

    def test_nothing_is_recorded_under_a_key_that_is_to_be_destroyed(self, store: EventStore) -> None:
        ada, bob, *many = (uuid4().bytes for _ in range(1100))
        everybody = [(subject, 1) for subject in (ada, bob, *many)]
        store.append(events(uuid4(), 1), about=everybody)
        [position] = store.append(events(uuid4(), 1), erased=[(ada, 1), (ada, 2), (many[-1], 3)])
        assert store.erased_keys([ada, bob]) == {(ada, 1), (ada, 2)}
        assert list(store.erasures()) == [(*one, position) for one in sorted([(ada, 1), (ada, 2), (many[-1], 3)])]
        assert list(store.erasures(position)) == []
        for gone in ([(ada, 1)], [(bob, 1), (ada, 2)], [*everybody[1:], (many[-1], 3)]):
            self.refused(store, events(uuid4(), 1), about=gone)
        store.append(events(uuid4(), 1), about=[(ada, 3), *everybody[1:]])
        self.refused(store, events(uuid4(), 1), erased=[(ada, 1)])

    def test_a_commit_that_must_be_the_next_about_a_subject_is_refused_behind_another(self, store: EventStore) -> None:
        ada, bob = uuid4(), uuid4()
        [seen] = store.append([(uuid4().bytes, 1, "made.up", b"about " + ada.bytes)])
        store.append([(uuid4().bytes, 1, "made.up", b"about " + bob.bytes)])
        store.append([(uuid4().bytes, 1, "made.up", b"about " + ada.bytes)], quiet=(seen, ada.bytes))
        for since in (0, seen):
            self.refused(store, events(uuid4(), 1), quiet=(since, ada.bytes))
        store.append(events(uuid4(), 1), quiet=(store.position(), ada.bytes))

    def test_a_receipt_is_kept_once_with_its_result(self, store: EventStore) -> None:
        store.append([], claims=[(b"held", b"owner")])
        receipts = [
            Receipt(b"a" * 16, b"digest", b"+42"),
            Receipt(b"\0", b"\0\xff", b""),
            Receipt(b"b", b"", bytes(range(256))),
        ]
        for index, receipt in enumerate(receipts):
            store.append(events(uuid4(), *range(1, index + 1)), receipt=receipt)
            assert store.receipt(receipt.command_id) == receipt
        self.refused(store, events(uuid4(), 1), receipt=Receipt(b"b", b"another", b"another"))
        self.refused(store, [], receipt=receipts[0])
        assert [store.receipt(receipt.command_id) for receipt in receipts] == receipts

    def test_of_a_command_that_is_forgotten_a_receipt_tells_the_name_and_no_arguments(self, store: EventStore) -> None:
        def digest_of(receipt: Receipt) -> bytes:
            found = store.receipt(receipt.command_id)
            assert found is not None
            assert (found.command_id, found.result) == (receipt.command_id, receipt.result)
            return found.digest

        digest = bytes(range(32))
        named = [Receipt(uuid4().bytes, digest, b"+1") for _ in range(1200)]
        kept = Receipt(b"k" * 16, digest, b"+2")
        for one in (*named, kept):
            store.append(events(uuid4(), 1), receipt=one)
        with pytest.raises(Rollback):
            store.append(events(uuid4(), 1), forgotten=[named[0].command_id], inline=roll_back)
        store.append(events(uuid4(), 1), erased=[(uuid4().bytes, 1)], forgotten=[])
        assert digest_of(named[0]) == digest
        for _ in range(2):
            store.append(events(uuid4(), 1), forgotten=[*(one.command_id for one in named), b"nobody's"])
            assert {digest_of(one) for one in named} == {digest[:NAMING_BYTES]}
        assert digest_of(kept) == digest

    def test_what_else_belongs_to_a_commit_fails_with_it_and_leaves_nothing(self, store: EventStore) -> None:
        store.append(events(uuid4(), 1, 2), claims=[(b"held", b"owner")])
        before = check_log(store)
        with pytest.raises(Rollback):
            store.append(
                events(uuid4(), 1),
                claims=[(b"free", b"me")],
                releases=[b"held"],
                receipt=Receipt(b"new", b"", b""),
                inline=roll_back,
            )
        assert (check_log(store), store.receipt(b"new")) == (before, None)
        assert store.holders([b"free", b"held"]) == {b"held": b"owner"}
        calls: list[int] = []
        store.append(events(uuid4(), 1), inline=lambda _, last: calls.append(last))
        store.append([], inline=lambda _, last: calls.append(last))
        assert calls == [2], "called once for each commit with events, with the position before it"

    def test_what_it_does_not_know_is_passed_over(self, store: EventStore) -> None:
        # `eventsourcing` hands on whatever a save was given.
        assert list(store.append(events(uuid4(), 1), something=object())) == [1]

    # ── at once ─────────────────────────────────────────────────────────────────────────────────────────────────

    def test_writers_at_once_lose_nothing_and_share_one_order(self, store: EventStore) -> None:
        def writer(index: int) -> Callable[[], list[int]]:
            stream, rng = uuid4(), seeded(index)

            def work() -> list[int]:
                versions, positions = count(1), list[int]()
                for _ in range(12):
                    new = events(stream, *(next(versions) for _ in range(rng.randint(1, 4))))
                    found = list(store.append(new))
                    assert found == list(range(found[0], found[0] + len(new))), "one commit's positions are neighbours"
                    assert [row[1:] for row in store.rows_at(found)] == new
                    positions += found
                return positions

            return work

        positions = together(*map(writer, range(8)))
        assert all(found == sorted(found) for found in positions)
        rows = check_log(store)
        assert sorted(one for found in positions for one in found) == [row[0] for row in rows]

    def test_of_many_who_write_a_version_at_once_one_wins(self, store: EventStore) -> None:
        mine = uuid4()
        for version in range(1, 9):
            new = [[(mine.bytes, version, "made.up", bytes([index]))] for index in range(6)]
            assert won(together(*(partial(store.append, rows) for rows in new))) == 1
        assert [row[2] for row in check_log(store)] == list(range(1, 9))

    def test_of_many_who_claim_at_once_one_wins(self, store: EventStore) -> None:
        for number in range(8):
            claim = f"code {number}".encode()
            holders = [bytes([index]) for index in range(6)]
            results = together(*(partial(store.append, events(uuid4(), 1), claims=[(claim, one)]) for one in holders))
            assert won(results) == 1
            (winner,) = [one for one, result in zip(holders, results, strict=True) if isinstance(result, Sequence)]
            assert store.holder(claim) == winner
        assert len(check_log(store)) == 8

    def test_of_many_who_repeat_a_command_at_once_one_counts(self, store: EventStore) -> None:
        for number in range(8):
            receipts = [Receipt(bytes([number]), b"digest", bytes([index])) for index in range(6)]
            results = together(*(partial(store.append, events(uuid4(), 1), receipt=one) for one in receipts))
            assert won(results) == 1
            (winner,) = [one for one, result in zip(receipts, results, strict=True) if isinstance(result, Sequence)]
            assert store.receipt(bytes([number])) == winner
        assert len(check_log(store)) == 8

    def test_of_two_who_each_read_what_the_other_writes_one_wins(self, store: EventStore) -> None:
        for _ in range(12):
            one, two = uuid4(), uuid4()
            results = together(
                partial(store.append, events(one, 1), reads=[(two, 0)]),
                partial(store.append, events(two, 1), reads=[(one, 0)]),
            )
            assert won(results) == 1, "both wrote on the strength of what the other changed"

    def test_a_reader_sees_a_log_that_only_grows_and_a_head_that_fits_it(self, store: EventStore) -> None:
        done = threading.Event()
        roots: dict[int, bytes] = {}

        def write() -> None:
            for index in range(60):
                if index % 5 == 4:
                    with pytest.raises(Rollback):
                        store.append(events(uuid4(), 1, 2, 3), inline=roll_back)
                store.append(events(uuid4(), *range(1, index % 3 + 2)))

        def writer() -> None:
            try:
                write()
            finally:
                done.set()

        def reader() -> list[int]:
            seen: list[int] = []
            while True:
                finished = done.is_set()
                head = store.head()
                roots[head.position] = head.frontier.root()
                rows = store.log_rows(len(seen), 1000)
                assert store.position() >= head.position
                seen += [row[0] for row in rows]
                assert len(seen) >= head.position, "the head was ahead of the log"
                assert seen == list(range(1, len(seen) + 1)), "a position was left out"
                if finished:
                    return seen

        _, seen, again = together(writer, reader, reader)
        rows = check_log(store)
        assert seen == again == [row[0] for row in rows]
        leaves = [leaf_of(store.origin, row) for row in rows]
        assert roots == {position: tree_hash(leaves[:position]) for position in roots}

    # ── tailing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_commit_wakes_a_watch_and_one_between_two_waits_counts(self, store: EventStore) -> None:
        watch = store.watch()
        try:
            store.append(events(uuid4(), 1))
            assert watch.wait(PATIENCE_S)
            # It may wake for nothing, but not for ever.
            assert any(not watch.wait(0.02) for _ in range(50))
            _, woken = together(lambda: store.append(events(uuid4(), 1)), lambda: watch.wait(PATIENCE_S))
            assert woken
        finally:
            watch.close()

    def test_a_watch_that_is_closed_lets_its_thread_go(self, store: EventStore) -> None:
        watch = store.watch()

        def close() -> None:
            time.sleep(0.05)
            watch.close()

        def wait() -> float:
            start = time.monotonic()
            while watch.wait(PATIENCE_S):
                pass
            return time.monotonic() - start

        waited, _ = together(wait, close)
        assert waited < PATIENCE_S / 2
        assert not watch.wait(0)

    def test_whoever_follows_by_a_watch_misses_nothing(self, store: EventStore) -> None:
        self.follow_storm(store, store)

    def test_another_store_on_the_same_data_follows_too(self, store: EventStore) -> None:
        other = self.opened_again(store)
        try:
            self.follow_storm(store, other)
        finally:
            self.close(other)

    def follow_storm(self, store: EventStore, followed: EventStore) -> None:
        """Four writers, of whose transactions some are rolled back; who follows sees every position once, in order."""
        total = 4 * 25
        watch = followed.watch()

        def writer() -> None:
            for index in range(25):
                if index % 4 == 3:
                    with pytest.raises(Rollback):
                        store.append(events(uuid4(), 1, 2), inline=roll_back)
                store.append(events(uuid4(), 1))

        def follower() -> list[int]:
            seen: list[int] = []
            while len(seen) < total:
                rows = followed.log_rows(seen[-1] if seen else 0, 7)
                seen += [row[0] for row in rows]
                if not rows:
                    assert watch.wait(PATIENCE_S / 2), f"nothing wakes who waits after position {len(seen)}"
            return seen

        try:
            assert together(writer, writer, writer, writer, follower)[-1] == list(range(1, total + 1))
        finally:
            watch.close()

    def test_a_subscription_misses_nothing_and_ends_when_it_is_stopped(self, store: EventStore) -> None:
        store.append(events(uuid4(), 1, 2, 3))
        subscription = store.subscribe(gt=1)

        def writer() -> None:
            for _ in range(30):
                store.append(events(uuid4(), 1))

        def follower() -> list[int]:
            seen: list[int] = []
            for notification in subscription:
                seen.append(int(notification.id))
                if len(seen) == 62:
                    subscription.stop()
            return seen

        with subscription:
            assert together(writer, writer, follower)[-1] == list(range(2, 64))

    # ── other processes, other days ─────────────────────────────────────────────────────────────────────────────

    def test_another_store_on_the_same_data_sees_what_is_committed_and_writes_on(self, store: EventStore) -> None:
        mine = uuid4()
        store.append(events(mine, 1), claims=[(b"held", b"owner")], receipt=Receipt(b"a", b"b", b"c"))
        other = self.opened_again(store)
        try:
            assert check_log(other) == check_log(store)
            assert other.origin == store.origin
            self.refused(other, events(mine, 1))
            self.refused(other, events(uuid4(), 1), claims=[(b"held", b"me")], releases=[])
            self.refused(other, events(uuid4(), 1), receipt=Receipt(b"a", b"b", b"c"))
            self.refused(other, events(uuid4(), 1), reads=[(mine, 0)])
            assert list(other.append(events(mine, 2))) == [2]
            assert check_log(store) == check_log(other)
        finally:
            self.close(other)

    def test_two_stores_on_the_same_data_share_one_order(self, store: EventStore) -> None:
        other = self.opened_again(store)

        def writer(one: EventStore) -> Callable[[], list[int]]:
            return lambda: [position for _ in range(20) for position in one.append(events(uuid4(), 1, 2))]

        try:
            positions = together(writer(store), writer(other), writer(store), writer(other))
            assert sorted(one for found in positions for one in found) == list(range(1, 161))
            assert check_log(store) == check_log(other)
        finally:
            self.close(other)

    def test_what_was_committed_is_there_after_closing(self, store: EventStore) -> None:
        new = [row for _ in range(20) for row in events(uuid4(), 1, 2, 3)]
        store.append(new, claims=[(b"held", b"owner")], receipt=Receipt(b"a", b"b", b"c"))
        with pytest.raises(Rollback):
            store.append(events(uuid4(), 1), inline=roll_back)
        head = store.head()
        again = self.lasting(store)
        try:
            assert [row[1:] for row in check_log(again)] == new
            assert again.head().frontier.root() == head.frontier.root()
            assert again.holder(b"held") == b"owner"
            assert again.receipt(b"a") == Receipt(b"a", b"b", b"c")
            assert list(again.append(events(uuid4(), 1))) == [61]
        finally:
            self.close(again)


def key_name(key_id: int = 1) -> KeyName:
    """The name of a key of a new subject."""
    return uuid4(), key_id


class KeyStoreSuite(Suite[KeyStore]):
    """The contract of `tallybook.adapters.keys.KeyStore`."""

    def forge(self, store: KeyStore, name: KeyName, position: int) -> None:
        """Have what lies there of a key look like a tombstone: as somebody does who can write where the keys lie, and
        has none of them. Where an adapter's test defines none, the test that needs it is skipped.
        """
        raise NotImplementedError

    def test_a_new_store_holds_no_key_and_followed_no_erasure(self, store: KeyStore) -> None:
        assert store.get([key_name()]) == store.get([]) == {}
        assert store.destroyed([key_name()]) == store.destroyed([]) == dict(store.tombstones()) == {}
        assert (store.count(), store.erased_up_to()) == (0, 0)

    def test_what_was_kept_is_found(self, store: KeyStore) -> None:
        keys = {key_name(): bytes([index]) * KEY_BYTES for index in range(5)}
        keys[key_name()] = bytes(KEY_BYTES)
        store.add(keys)
        for name, key in keys.items():
            assert store.get([name]) == {name: key}
            assert type(store.get([name])[name]) is bytes
        store.add({})
        assert store.get(keys) == keys
        assert store.count() == 6

    def test_keys_of_one_subject_are_told_apart_by_their_ids(self, store: KeyStore) -> None:
        ada = uuid4()
        store.add({(ada, 2): b"2" * KEY_BYTES})
        assert store.get([(ada, 1)]) == {}
        store.add({(ada, 1): b"1" * KEY_BYTES, (ada, 70_000): b"7" * KEY_BYTES})
        assert store.get([(ada, 1)]) == {(ada, 1): b"1" * KEY_BYTES}
        store.destroy([(ada, 1)], 9)
        assert store.get([(ada, 1), (ada, 2)]) == {(ada, 2): b"2" * KEY_BYTES}
        assert store.destroyed([(ada, 1), (ada, 2)]) == {(ada, 1): 9}
        assert store.get([(ada, 70_000)]) == {(ada, 70_000): b"7" * KEY_BYTES}

    def test_many_are_found_at_once_and_those_that_are_missing_left_out(self, store: KeyStore) -> None:
        keys = {key_name(): seeded(index).randbytes(KEY_BYTES) for index in range(1300)}
        store.add(keys)
        wanted = list(keys)[:1250]
        asked = [*wanted, key_name(), *wanted[:3]]
        assert store.get(iter(asked)) == {name: keys[name] for name in wanted}

    def test_a_key_is_never_replaced(self, store: KeyStore) -> None:
        ada = key_name()
        store.add({ada: b"a" * KEY_BYTES})
        for other in (b"b" * KEY_BYTES, b"a" * KEY_BYTES):
            with pytest.raises(IntegrityError):
                store.add({ada: other})
            assert store.get([ada]) == {ada: b"a" * KEY_BYTES}

    def test_of_several_keys_all_are_kept_or_none(self, store: KeyStore) -> None:
        ada, bob = key_name(), key_name()
        store.add({ada: b"a" * KEY_BYTES})
        store.destroy([bob], 1)
        for one in (ada, bob):
            for before, after in ((0, 3), (3, 0), (700, 700)):
                new = {key_name(): b"n" * KEY_BYTES for _ in range(before)}
                new[one] = b"b" * KEY_BYTES
                new.update({key_name(): b"n" * KEY_BYTES for _ in range(after)})
                with pytest.raises(IntegrityError):
                    store.add(new)
                assert store.get(new) == store.get([one])
                del new[one]
                store.add(new)
                assert store.get(new) == new

    def test_what_is_done_with_an_answer_or_an_argument_changes_nothing(self, store: KeyStore) -> None:
        ada = key_name()
        given = {ada: b"a" * KEY_BYTES}
        store.add(given)
        given[ada] = b"b" * KEY_BYTES
        store.get([ada])[ada] = b"c" * KEY_BYTES
        assert store.get([ada]) == {ada: b"a" * KEY_BYTES}

    def test_of_many_who_give_a_key_at_once_one_wins_and_all_of_what_it_gave_is_kept(self, store: KeyStore) -> None:
        for _ in range(10):
            ada = key_name()
            given = [{key_name(): bytes([index]) * KEY_BYTES, ada: bytes([index]) * KEY_BYTES} for index in range(6)]
            results = together(*(partial(store.add, keys) for keys in given))
            winners = [keys for keys, result in zip(given, results, strict=True) if result is None]
            assert len(winners) == 1
            assert store.get([name for keys in given for name in keys]) == winners[0]

    def test_many_who_give_keys_of_their_own_at_once_lose_none(self, store: KeyStore) -> None:
        given = [{key_name(): bytes([index]) * KEY_BYTES for _ in range(40)} for index in range(6)]

        def work(keys: dict[KeyName, bytes]) -> None:
            for name, key in keys.items():
                store.add({name: key})
                assert store.get([name]) == {name: key}

        together(*(partial(work, keys) for keys in given))
        together_kept = {name: key for keys in given for name, key in keys.items()}
        assert store.get(together_kept) == together_kept

    def test_what_was_destroyed_is_gone_and_leaves_a_tombstone(self, store: KeyStore) -> None:
        keys = {key_name(): seeded(index).randbytes(KEY_BYTES) for index in range(1300)}
        store.add(keys)
        gone = list(keys)[:1250]
        store.destroy(iter([*gone, gone[0]]), 2**40)
        assert store.get(keys) == {name: keys[name] for name in list(keys)[1250:]}
        assert store.destroyed(iter([*keys, key_name()])) == dict.fromkeys(gone, 2**40)
        assert store.count() == 50
        store.destroy([], 1)

    def test_a_key_that_was_destroyed_never_comes_back(self, store: KeyStore) -> None:
        ada, never = key_name(), key_name()
        store.add({ada: b"a" * KEY_BYTES})
        store.destroy([ada, never], 7)
        for name in (ada, never):
            for key in (b"a" * KEY_BYTES, b"b" * KEY_BYTES):
                with pytest.raises(IntegrityError):
                    store.add({name: key})
            assert store.get([name]) == {}
            assert store.destroyed([name]) == {name: 7}

    def test_destroying_again_changes_nothing(self, store: KeyStore) -> None:
        ada, bob = key_name(), key_name()
        store.add({bob: b"b" * KEY_BYTES})
        store.destroy([ada], 7)
        store.destroy([ada, bob], 9)
        store.destroy([ada], 3)
        assert store.destroyed([ada, bob]) == {ada: 7, bob: 9}

    def test_all_tombstones_are_told(self, store: KeyStore) -> None:
        ada, bob, cyd = key_name(), key_name(), key_name(3)
        store.add({ada: b"a" * KEY_BYTES, key_name(): b"d" * KEY_BYTES})
        store.destroy([ada], 7)
        store.destroy([bob, cyd], 2**40)
        store.destroy([ada], 2**41)
        many = [key_name() for _ in range(6000)]
        store.destroy(many, 8)
        everything = {ada: 7, bob: 2**40, cyd: 2**40, **dict.fromkeys(many, 8)}
        assert dict(store.tombstones()) == everything
        assert len(list(store.tombstones())) == len(everything)

    def test_a_tombstone_that_somebody_else_made_is_not_believed(self, store: KeyStore) -> None:
        ada, bob, cyd = key_name(), key_name(), key_name()
        store.add({ada: b"a" * KEY_BYTES, bob: b"b" * KEY_BYTES})
        store.destroy([cyd], 5)
        if store.wrapping() is not None:
            store.rotate()
        try:
            self.forge(store, ada, 7)
            self.forge(store, cyd, 9)
        except NotImplementedError:
            pytest.skip("the adapter's test defines no forge")
        for name in (ada, cyd):
            with suppress(BookDamaged):
                assert store.destroyed([name]) in ({}, {cyd: 5})
            with suppress(BookDamaged):
                assert store.get([name]) == {}
        assert dict(store.tombstones()) in ({}, {cyd: 5})
        assert store.get([bob]) == {bob: b"b" * KEY_BYTES}
        assert not store.outlived(), "no wrapping key is given up for it"
        store.destroy([bob], 10)
        assert store.outlived() == (store.wrapping() is not None), "nor kept"

    def test_an_erasure_stands_at_a_position(self, store: KeyStore) -> None:
        ada = key_name()
        store.add({ada: b"a" * KEY_BYTES})
        for position in (0, -1):
            with pytest.raises(ValueError, match="position"):
                store.destroy([ada], position)
        assert store.get([ada]) == {ada: b"a" * KEY_BYTES}

    def test_of_one_who_adds_and_one_who_destroys_at_once_no_key_outlives_the_tombstone(self, store: KeyStore) -> None:
        for index in range(20):
            ada = key_name()
            together(partial(store.add, {ada: bytes([index]) * KEY_BYTES}), partial(store.destroy, [ada], index + 1))
            assert store.get([ada]) == {}
            assert store.destroyed([ada]) == {ada: index + 1}

    def test_how_far_erasures_were_followed_is_noted_as_given(self, store: KeyStore) -> None:
        for position in (5, 2**40, 3):
            store.set_erased_up_to(position)
            assert store.erased_up_to() == position
        store.destroy([key_name()], 9)
        assert store.erased_up_to() == 3

    def test_a_rotation_changes_the_wrapping_key_and_nothing_else(self, store: KeyStore) -> None:
        keys = {key_name(): seeded(index).randbytes(KEY_BYTES) for index in range(20)}
        gone = key_name()
        store.add(keys)
        store.destroy([gone], 3)
        before = (store.origin, store.lookup_key)
        old = store.wrapping()
        if old is None:
            with pytest.raises(BookError):
                store.rotate()
        else:
            other = self.opened_again(store)
            try:
                for _ in range(2):
                    assert store.rotate() == (old, store.wrapping())
                    assert store.wrapping() != old
                    old = store.wrapping() or ""
                    more = {key_name(): b"m" * KEY_BYTES}
                    other.add(more)
                    keys |= more
                    assert other.get(keys) == keys
                    assert other.wrapping() == old
            finally:
                self.close(other)
        assert store.get(keys) == keys
        assert store.destroyed([gone]) == {gone: 3}
        assert (store.origin, store.lookup_key) == before

    def test_a_wrapping_key_outlives_destroyed_keys_until_it_is_rotated(self, store: KeyStore) -> None:
        ada, bob, nobody = key_name(), key_name(), key_name()
        store.add({ada: b"a" * KEY_BYTES, bob: b"b" * KEY_BYTES})
        assert not store.outlived()
        store.destroy([ada, nobody], 5)
        if store.wrapping() is None:
            assert not store.outlived()
            assert not store.outlived([ada, nobody])
            return
        other = self.opened_again(store)
        try:
            for one in (store, other):
                assert one.outlived()
                assert one.outlived([ada])
                assert one.outlived([nobody]), "a copy may hold it"
                assert not one.outlived([bob])
                assert not one.outlived([])
            store.rotate()
            assert not other.outlived()
            assert not other.outlived([ada, nobody])
            store.destroy([bob, ada], 9)
            for one in (store, other):
                assert one.outlived()
                assert one.outlived([bob])
                assert not one.outlived([ada]), "a tombstone that is there stays as it is"
        finally:
            self.close(other)

    def test_the_books_name_and_look_up_key_stay_what_they_are(self, store: KeyStore) -> None:
        assert store.origin
        assert len(store.lookup_key) == KEY_BYTES
        assert len(set(store.lookup_key)) > 4, "the look-up key is random"
        before = (store.origin, store.lookup_key)
        store.add({key_name(): b"a" * KEY_BYTES})
        assert (store.origin, store.lookup_key) == before

    def test_no_two_books_share_a_look_up_key(self, store: KeyStore, tmp_path: Path) -> None:
        folder = tmp_path / "another"
        folder.mkdir()
        other = self.make(folder)
        try:
            assert other.lookup_key != store.lookup_key
        finally:
            self.close(other)

    def test_another_store_on_the_same_data_sees_what_is_kept_and_can_not_replace_it(self, store: KeyStore) -> None:
        ada, bob = key_name(), key_name()
        store.add({ada: b"a" * KEY_BYTES})
        other = self.opened_again(store)
        try:
            assert other.get([ada]) == {ada: b"a" * KEY_BYTES}
            assert (other.origin, other.lookup_key) == (store.origin, store.lookup_key)
            with pytest.raises(IntegrityError):
                other.add({ada: b"b" * KEY_BYTES, bob: b"b" * KEY_BYTES})
            other.add({bob: b"b" * KEY_BYTES})
            assert store.get([ada, bob]) == {ada: b"a" * KEY_BYTES, bob: b"b" * KEY_BYTES}
            other.destroy([ada], 7)
            assert (store.get([ada]), store.destroyed([ada])) == ({}, {ada: 7})
            other.set_erased_up_to(7)
            assert store.erased_up_to() == 7
        finally:
            self.close(other)

    def test_what_was_kept_and_destroyed_is_so_after_closing(self, store: KeyStore) -> None:
        keys = {key_name(): seeded(index).randbytes(KEY_BYTES) for index in range(20)}
        store.add(keys)
        gone = list(keys)[:5]
        store.destroy(gone, 30)
        store.set_erased_up_to(30)
        before = (store.origin, store.lookup_key)
        again = self.lasting(store)
        try:
            assert again.get(keys) == {name: keys[name] for name in list(keys)[5:]}
            assert again.destroyed(keys) == dict(again.tombstones()) == dict.fromkeys(gone, 30)
            assert (again.origin, again.lookup_key, again.erased_up_to()) == (*before, 30)
        finally:
            self.close(again)

    def test_a_closed_store_refuses(self, store: KeyStore) -> None:
        ada = key_name()
        store.add({ada: b"a" * KEY_BYTES})
        store.close()
        for use in (
            partial(store.get, [ada]),
            partial(store.add, {key_name(): b"b" * KEY_BYTES}),
            partial(store.destroy, [ada], 1),
            partial(store.destroyed, [ada]),
            lambda: list(store.tombstones()),
            partial(store.set_erased_up_to, 1),
            store.erased_up_to,
            store.count,
        ):
            with pytest.raises(BookClosed):
                use()
        store.close()


OF_A_BOOK, OF_ANOTHER = "tallybook/one", "tallybook/another"


class WrappingKeysSuite(Suite[WrappingKeys]):
    """The contract of `tallybook.adapters.wrapping.WrappingKeys`."""

    def close(self, store: WrappingKeys) -> None:
        """A source holds nothing open."""

    def test_a_new_source_holds_no_key_and_has_a_name(self, store: WrappingKeys) -> None:
        assert list(store.read(OF_A_BOOK)) == []
        assert store.place

    def test_it_holds_what_it_was_given_last_in_that_order(self, store: WrappingKeys) -> None:
        one, two = b"1" * KEY_BYTES, bytes(range(KEY_BYTES))
        for keys in ([one], [two, one], [two], [one, two], [one]):
            store.replace(OF_A_BOOK, keys)
            assert list(store.read(OF_A_BOOK)) == keys
            assert {type(key) for key in store.read(OF_A_BOOK)} == {bytes}

    def test_another_source_at_the_same_place_holds_the_same(self, store: WrappingKeys) -> None:
        store.replace(OF_A_BOOK, [b"1" * KEY_BYTES])
        again = self.opened_again(store)
        assert list(again.read(OF_A_BOOK)) == [b"1" * KEY_BYTES]
        again.replace(OF_A_BOOK, [b"2" * KEY_BYTES, b"1" * KEY_BYTES])
        assert list(store.read(OF_A_BOOK)) == [b"2" * KEY_BYTES, b"1" * KEY_BYTES]

    def test_another_book_gets_no_key_and_puts_none_in_their_place(self, store: WrappingKeys) -> None:
        store.replace(OF_A_BOOK, [b"1" * KEY_BYTES])
        for use in (partial(store.read, OF_ANOTHER), partial(store.replace, OF_ANOTHER, [b"2" * KEY_BYTES])):
            with pytest.raises(KeysMissing) as refused:
                use()
            assert OF_A_BOOK in refused.value.message, "it says whose they are"
            assert OF_ANOTHER in refused.value.message, "and whose were asked for"
            assert refused.value.remedy
            assert list(store.read(OF_A_BOOK)) == [b"1" * KEY_BYTES]

    def test_of_books_that_are_made_at_one_place_at_once_one_has_it(self, tmp_path: Path) -> None:
        origins = {f"{OF_A_BOOK}/{index}": bytes([index]) * KEY_BYTES for index in range(4)}
        for number in range(20):
            folder = tmp_path / str(number)
            folder.mkdir()
            store = self.make(folder)

            def make(origin: str, store: WrappingKeys = store) -> bool:
                try:
                    store.replace(origin, [origins[origin]])
                except KeysMissing:
                    return False
                return True

            made = together(*(partial(make, origin) for origin in origins))
            assert made.count(True) == 1, "exactly one is told that its keys are there"
            [origin] = [one for one, told in zip(origins, made, strict=True) if told]
            assert list(store.read(origin)) == [origins[origin]]

    def test_whoever_reads_while_it_is_replaced_sees_one_or_the_other(self, store: WrappingKeys) -> None:
        sets = [[bytes([index]) * KEY_BYTES] * (1 + index % 2) for index in range(1, 30)]
        store.replace(OF_A_BOOK, sets[0])

        replaced = threading.Event()

        def read() -> None:
            while not replaced.is_set():
                assert list(store.read(OF_A_BOOK)) in sets

        def replace() -> None:
            try:
                for keys in sets:
                    store.replace(OF_A_BOOK, keys)
            finally:
                replaced.set()

        assert [one for one in together(read, replace, read) if one is not None] == []
        assert list(store.read(OF_A_BOOK)) == sets[-1]


THINGS = Table("suite_things", (("id", "integer"), ("label", "text"), ("raw", "blob")), ("id",), (("label", "id"),))
PAIRS = Table(
    "suite_pairs", (("left_one", "blob"), ("right_one", "text"), ("number", "integer")), ("left_one", "right_one")
)
WIDER = Table("suite_things", (*THINGS.columns, ("more", "text")), ("id",))

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Model:
    """A read model of the suite's own; it is filled by hand, so its fold is never asked."""

    name: str = "suite"
    version: int = 1
    tables: tuple[Table, ...] = (THINGS, PAIRS)
    by_subject: bool = True

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        """Not used."""
        raise NotImplementedError


MODEL = Model()


class ReadModelStoreSuite(Suite[ReadModelStore]):
    """The contract of `tallybook.projections.read_models.ReadModelStore`."""

    def transaction(self, store: ReadModelStore) -> AbstractContextManager[Any]:
        """A writing transaction in the store's database, whose session `within` takes.

        Each adapter's test defines it.
        """
        raise NotImplementedError

    # ── what the tests do ───────────────────────────────────────────────────────────────────────────────────────

    def live(self, store: ReadModelStore, model: Model = MODEL, head: int = 0) -> Generation:
        """A new build that is live."""
        build = store.begin(model, head)
        assert store.go_live(build) is not None
        return build

    def put(self, store: ReadModelStore, build: Generation, *rows: Row, upto: int) -> bool:
        """Write rows of `suite_things` and move the position."""
        unit = store.rows(build)
        for row in rows:
            unit.put(THINGS, row[:1], row)
        return store.commit([(build, unit, store.tracked(build))], upto)

    def things(self, store: ReadModelStore, model: Model = MODEL) -> list[Row]:
        """All rows of `suite_things` of the live build."""
        return list(store.select(model, THINGS, ["id", "label", "raw"], "1=1 ORDER BY id"))

    def record(self, store: ReadModelStore, build: Generation) -> BuildRecord:
        """What the store keeps of a build."""
        (found,) = [one for one in store.builds() if one.number == build.number]
        return found

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_new_store_holds_nothing(self, store: ReadModelStore) -> None:
        assert store.builds() == []
        assert store.generation(MODEL) is None
        assert self.things(store) == []
        assert store.drop("suite") == 0
        assert store.tracked(Generation(MODEL, 1)) == 0

    def test_a_unit_of_work_sees_what_it_wrote_and_nobody_else_does_before_the_commit(
        self, store: ReadModelStore
    ) -> None:
        build = self.live(store)
        self.put(store, build, (1, "old", b"1"), (2, "old", b"2"), upto=5)
        unit = store.rows(build)
        unit.load(THINGS, [(1,), (3,)])
        unit.put(THINGS, (1,), (1, "new", b"1"))
        unit.put(THINGS, (3,), (3, "new", b"3"))
        assert [unit.get(THINGS, (key,)) for key in (1, 2, 3, 4)] == [
            (1, "new", b"1"), (2, "old", b"2"), (3, "new", b"3"), None,
        ]  # fmt: skip
        assert store.rows(build).get(THINGS, (1,)) == (1, "old", b"1")
        assert self.things(store) == [(1, "old", b"1"), (2, "old", b"2")]
        assert store.commit([(build, unit, 5)], 9)
        assert self.things(store) == [(1, "new", b"1"), (2, "old", b"2"), (3, "new", b"3")]
        assert store.rows(build).get(THINGS, (3,)) == (3, "new", b"3")

    def test_any_value_comes_back_the_same(self, store: ReadModelStore) -> None:
        build = self.live(store)
        rows: list[Row] = [
            (-(2**62), "", b""),
            (0, "客户 😀 \U0010ffff", b"\0"),
            (7, "a'b\"c;--%s?{x}", bytes(range(256))),
            (2**62, None, None),
            (2**53 + 1, "\n\t ", seeded(3).randbytes(200_000)),
        ]
        assert self.put(store, build, *rows, upto=1)
        assert sorted(self.things(store)) == sorted(rows)
        unit = store.rows(build)
        for row in rows:
            assert unit.get(THINGS, row[:1]) == row
            assert [type(value) for value in unit.get(THINGS, row[:1]) or ()] == [type(value) for value in row]

    def test_rows_are_found_by_keys_of_several_columns(self, store: ReadModelStore) -> None:
        build = self.live(store)
        unit = store.rows(build)
        for number, key in enumerate([(b"a", "b"), (b"b", "a"), (b"", ""), (b"a", "客")]):
            unit.put(PAIRS, key, (*key, number))
        assert store.commit([(build, unit, 0)], 1)
        fresh = store.rows(build)
        fresh.load(PAIRS, [(b"a", "b"), (b"b", "b")])
        assert fresh.get(PAIRS, (b"a", "b")) == (b"a", "b", 0)
        assert fresh.get(PAIRS, (b"b", "b")) is None
        assert fresh.get(PAIRS, (b"a", "客")) == (b"a", "客", 3)

    def test_many_rows_are_written_and_loaded_at_once(self, store: ReadModelStore) -> None:
        build = self.live(store)
        rows = [(number, f"label {number}", None) for number in range(0, 6000, 2)]
        assert self.put(store, build, *rows, upto=1)
        unit = store.rows(build)
        unit.load(THINGS, ((number,) for number in range(6000)))
        assert [unit.get(THINGS, (number,)) for number in range(0, 6000, 2)] == rows
        assert all(unit.get(THINGS, (number,)) is None for number in range(1, 6000, 2))
        assert self.put(store, build, *((number, "again", b"x") for number, *_ in rows), upto=2)
        assert self.things(store) == [(number, "again", b"x") for number, *_ in rows]

    def test_rows_are_selected_by_conditions(self, store: ReadModelStore) -> None:
        build = self.live(store)
        self.put(store, build, (1, "b", b""), (2, "a", b""), (3, "b", b""), (4, None, b""), upto=1)
        select = store.select
        assert list(select(MODEL, THINGS, ["id"], "label=? ORDER BY id DESC", ["b"])) == [(3,), (1,)]
        some = select(MODEL, THINGS, ["label", "id"], "label IN (?,?) ORDER BY label, id LIMIT 2", ["a", "b"])
        assert list(some) == [("a", 2), ("b", 1)]
        counted = select(MODEL, THINGS, ["label", "COUNT(*)"], "id<? GROUP BY label ORDER BY 2 DESC, 1", [4])
        assert list(counted) == [("b", 2), ("a", 1)]
        assert len(select(MODEL, THINGS, ["*"])) == 4
        assert list(select(MODEL, PAIRS, ["*"])) == []

    # ── exactly once ────────────────────────────────────────────────────────────────────────────────────────────

    def test_rows_and_position_are_committed_together_and_each_start_counts_once(self, store: ReadModelStore) -> None:
        build = self.live(store)
        one, two = store.rows(build), store.rows(build)
        one.put(THINGS, (1,), (1, "one", None))
        two.put(THINGS, (1,), (1, "two", None))
        assert store.commit([(build, one, 0)], 5)
        assert store.tracked(build) == 5
        assert not store.commit([(build, two, 0)], 5)
        assert not store.commit([(build, two, 4)], 9)
        assert (self.things(store), store.tracked(build)) == ([(1, "one", None)], 5)
        assert store.commit([(build, two, 5)], 6)
        assert (self.things(store), store.tracked(build)) == ([(1, "two", None)], 6)

    def test_several_builds_are_committed_together_or_not_at_all(self, store: ReadModelStore) -> None:
        other = Model("other", tables=(PAIRS,))
        first, second = self.live(store), self.live(store, other)
        for start, wrote in ((1, False), (0, True)):
            one, two = store.rows(first), store.rows(second)
            one.put(THINGS, (1,), (1, "x", None))
            two.put(PAIRS, (b"k", "k"), (b"k", "k", 1))
            # The second is stale at first: nothing of the other may be written.
            assert store.commit([(first, one, 0), (second, two, start)], 3) is wrote
            assert (store.tracked(first), store.tracked(second)) == ((3, 3) if wrote else (0, 0))
            assert len(self.things(store)) == len(store.select(other, PAIRS, ["*"])) == wrote

    def test_many_who_fold_at_once_count_every_position_once(self, store: ReadModelStore) -> None:
        build = self.live(store)

        def fold() -> int:
            done = 0
            for _ in range(15):
                start = store.tracked(build)
                unit = store.rows(build)
                before = unit.get(THINGS, (1,)) or (1, "0", None)
                unit.put(THINGS, (1,), (1, str(int(before[1]) + 1), None))
                done += store.commit([(build, unit, start)], start + 1)
            return done

        done = sum(together(fold, fold, fold, fold))
        assert done >= 15
        assert (store.tracked(build), self.things(store)) == (done, [(1, str(done), None)])

    def test_parts_of_the_subjects_are_written_without_moving_the_position(self, store: ReadModelStore) -> None:
        build = store.begin(MODEL, 10)

        def part(number: int) -> None:
            for step in range(5):
                unit = store.rows(build)
                key = number * 100 + step
                unit.put(THINGS, (key,), (key, "part", None))
                assert store.write(build, unit)

        together(*(partial(part, number) for number in range(4)))
        assert store.tracked(build) == 0
        assert store.commit([(build, store.rows(build), 0)], 10)
        assert store.go_live(build) is not None
        assert len(self.things(store)) == 20

    # ── builds side by side ─────────────────────────────────────────────────────────────────────────────────────

    def test_a_build_is_filled_beside_the_live_one_and_swapped_in(self, store: ReadModelStore) -> None:
        live = self.live(store, head=3)
        self.put(store, live, (1, "live", None), upto=7)
        beside = store.begin(MODEL, 8)
        assert beside != live
        assert self.put(store, beside, (2, "beside", None), upto=7)
        assert store.generation(MODEL) == live
        assert self.things(store) == [(1, "live", None)]
        assert [(one.number, one.live, one.position) for one in store.builds()] == [
            (live.number, True, 7), (beside.number, False, 7),
        ]  # fmt: skip
        assert store.go_live(beside) == 7
        assert store.generation(MODEL) == beside
        assert self.things(store) == [(2, "beside", None)]
        assert [one.number for one in store.builds()] == [beside.number]
        assert (store.tracked(live), store.tracked(beside)) == (0, 7)

    def test_what_is_kept_of_a_build_says_how_it_stands(self, store: ReadModelStore) -> None:
        first = store.begin(MODEL, 40)
        assert self.record(store, first) == BuildRecord(
            first.number, "suite", 1, shape_of(MODEL), live=False, position=0, target=40, muted=40
        )
        assert store.go_live(first) == 40
        self.put(store, first, upto=50)
        second = store.begin(MODEL, 60)
        # What the live build has folded, it has told of.
        assert (self.record(store, second).target, self.record(store, second).muted) == (60, 50)
        self.put(store, first, upto=55)
        self.put(store, second, upto=60)
        assert store.go_live(second) == 55
        assert (self.record(store, second).live, self.record(store, second).muted) == (True, 55)

    def test_a_build_that_is_behind_the_live_one_is_not_swapped_in(self, store: ReadModelStore) -> None:
        live = self.live(store)
        self.put(store, live, (1, "live", None), upto=7)
        beside = store.begin(MODEL, 7)
        self.put(store, beside, (2, "beside", None), upto=6)
        assert store.go_live(beside) is None
        assert (store.generation(MODEL), self.things(store)) == (live, [(1, "live", None)])
        self.put(store, beside, upto=7)
        assert store.go_live(beside) == 7

    def test_the_newer_of_two_builds_stays(self, store: ReadModelStore) -> None:
        self.live(store)
        older, newer = store.begin(MODEL, 0), store.begin(MODEL, 0)
        assert store.go_live(newer) is not None
        assert store.go_live(older) is None
        assert store.generation(MODEL) == newer
        assert [one.number for one in store.builds()] == [newer.number]

    def test_versions_and_shapes_live_side_by_side(self, store: ReadModelStore) -> None:
        first = self.live(store)
        self.put(store, first, (1, "first", None), upto=1)
        others = Model(version=2), Model(tables=(WIDER, PAIRS))
        for other in others:
            assert store.generation(other) is None
            assert list(store.select(other, THINGS, ["id"])) == []
            build = self.live(store, other)
            unit = store.rows(build)
            table = other.tables[0]
            unit.put(table, (2,), (2, "other", None, *["more"] * (table is WIDER)))
            assert store.commit([(build, unit, 0)], 1)
            assert list(store.select(other, table, ["id"])) == [(2,)]
        assert (store.generation(MODEL), self.things(store)) == (first, [(1, "first", None)])
        assert len(store.builds()) == 3
        assert store.drop("suite", version=2) == 1
        assert store.generation(others[0]) is None
        assert self.things(store) == [(1, "first", None)]
        assert store.drop("suite") == 2
        assert store.builds() == []

    def test_a_build_is_dropped_by_its_number_alone(self, store: ReadModelStore) -> None:
        live = self.live(store)
        self.put(store, live, (1, "live", None), upto=2)
        other = self.live(store, Model("other", tables=(PAIRS,)))
        beside = store.begin(MODEL, 0)
        assert store.drop("suite", number=other.number) == 0
        assert store.drop("suite", number=beside.number) == 1
        assert [one.number for one in store.builds()] == [live.number, other.number]
        assert self.things(store) == [(1, "live", None)]

    def test_a_build_that_was_dropped_takes_nothing_more(self, store: ReadModelStore) -> None:
        build = self.live(store)
        self.put(store, build, (1, "x", None), upto=3)
        unit = store.rows(build)
        unit.put(THINGS, (2,), (2, "y", None))
        assert store.drop("suite") == 1
        assert not store.commit([(build, unit, 3)], 4)
        assert not store.write(build, unit)
        assert store.go_live(build) is None
        assert store.rows(build).get(THINGS, (1,)) is None
        assert (store.tracked(build), store.generation(MODEL), store.builds()) == (0, None, [])
        # A later build is another one, and has none of its rows.
        assert self.things(store) == []
        self.live(store)
        assert not store.write(build, unit)
        assert not store.commit([(build, unit, 0)], 4)
        assert self.things(store) == []

    def test_a_failure_is_noted_and_forgotten_with_the_next_commit(self, store: ReadModelStore) -> None:
        build = self.live(store)
        self.put(store, build, (1, "x", None), upto=3)
        store.fail(build, 4, "KeyError: 'é😀'", 2)
        found = self.record(store, build)
        assert (found.position, found.failed_position, found.failed_error, found.failed_seen) == (
            3, 4, "KeyError: 'é😀'", 2,
        )  # fmt: skip
        assert self.things(store) == [(1, "x", None)]
        self.put(store, build, upto=4)
        assert (self.record(store, build).failed_position, self.record(store, build).failed_error) == (None, "")

    def test_builds_that_are_begun_at_once_are_told_apart(self, store: ReadModelStore) -> None:
        builds = together(*(partial(store.begin, MODEL, 0) for _ in range(5)))
        numbers = [build.number for build in builds]
        assert len(set(numbers)) == 5
        assert [one.number for one in store.builds()] == sorted(numbers)

    def test_whoever_asks_during_swaps_sees_one_whole_build(self, store: ReadModelStore) -> None:
        size = 50
        self.fill(store, self.live(store), "0", size)
        done = threading.Event()

        def swap() -> None:
            try:
                for number in range(1, 12):
                    build = store.begin(MODEL, 1)
                    self.fill(store, build, str(number), size)
                    assert store.go_live(build) is not None
            finally:
                done.set()

        def ask() -> None:
            last = 0
            while not done.is_set():
                rows = self.things(store)
                labels = {row[1] for row in rows}
                assert (len(rows), len(labels)) == (size, 1), "rows of no build or of two"
                assert int(labels.pop()) >= last, "an older build came back"
                last = int(rows[0][1])

        together(swap, ask, ask)

    def fill(self, store: ReadModelStore, build: Generation, label: str, size: int) -> None:
        """As many rows with one label."""
        assert self.put(store, build, *((number, label, None) for number in range(size)), upto=1)

    # ── transactions, other processes, other days ───────────────────────────────────────────────────────────────

    def test_what_only_one_has_is_held_until_it_is_released(self, store: ReadModelStore) -> None:
        """Whoever rebuilds a read model holds its name."""
        held = store.hold("one")
        assert held is not None
        assert held.alive()
        assert store.hold("one") is None
        other = store.hold("other")
        assert other is not None
        other.release()
        held.release()
        again = store.hold("one")
        assert again is not None
        again.release()

    def test_within_a_transaction_everything_belongs_to_it(self, store: ReadModelStore) -> None:
        build = self.live(store)
        try:
            transaction = self.transaction(store)
        except NotImplementedError:
            pytest.skip("the adapter's test defines no transaction")

        def written_and_rolled_back() -> None:
            with transaction as session:
                inner = store.within(session)
                assert inner.generation(MODEL) == build
                assert self.put(inner, build, (1, "x", None), upto=3)
                assert (inner.tracked(build), self.things(inner)) == (3, [(1, "x", None)])
                raise Rollback

        with pytest.raises(Rollback):
            written_and_rolled_back()
        assert (store.tracked(build), self.things(store)) == (0, [])
        with self.transaction(store) as session:
            assert self.put(store.within(session), build, (1, "x", None), upto=3)
        assert (store.tracked(build), self.things(store)) == (3, [(1, "x", None)])

    def test_another_store_on_the_same_data_shares_builds_and_positions(self, store: ReadModelStore) -> None:
        build = self.live(store)
        self.put(store, build, (1, "x", None), upto=3)
        other = self.opened_again(store)
        try:
            assert other.builds() == store.builds()
            assert (other.generation(MODEL), self.things(other)) == (build, [(1, "x", None)])
            late = store.rows(build)
            assert self.put(other, build, (2, "y", None), upto=4)
            assert not store.commit([(build, late, 3)], 4)
            assert self.things(store) == [(1, "x", None), (2, "y", None)]
            rebuilt = other.begin(MODEL, 4)
            self.put(other, rebuilt, (3, "z", None), upto=4)
            assert other.go_live(rebuilt) == 4
            assert (store.generation(MODEL), self.things(store)) == (rebuilt, [(3, "z", None)])
        finally:
            self.close(other)

    def test_what_was_committed_is_there_after_closing(self, store: ReadModelStore) -> None:
        build = self.live(store)
        self.put(store, build, (1, "x", b"raw"), upto=3)
        kept = store.builds()
        again = self.lasting(store)
        try:
            assert again.builds() == kept
            assert (again.generation(MODEL), self.things(again)) == (build, [(1, "x", b"raw")])
            assert self.put(again, build, (1, "y", b"raw"), upto=4)
        finally:
            self.close(again)
