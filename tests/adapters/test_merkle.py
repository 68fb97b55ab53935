"""The Merkle tree against RFC 6962, and what `book.audit.verify()` finds."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallybook
from tallybook.adapters import merkle
from tallybook.adapters.integrity import verify
from tallybook.adapters.log import LogRecorder
from tallybook.adapters.merkle import EMPTY_ROOT, ENTRY_BYTES_MAX, Frontier, leaf
from tallybook.adapters.sqlite import SQLiteDatabase


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH as RFC 6962, section 2.1, writes it."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def frontier_of(leaves: Sequence[bytes]) -> Frontier:
    frontier = Frontier()
    frontier.append(leaves)
    return frontier


# Leaves and roots of the reference tests of Certificate Transparency (merkletree/merkle_tree_test.cc).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_the_root_of_an_empty_tree_is_the_hash_of_nothing() -> None:
    wanted = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert EMPTY_ROOT.hex() == Frontier().root().hex() == naive_root([]).hex() == wanted


@pytest.mark.parametrize("size", range(1, 9))
def test_the_roots_of_certificate_transparency_come_out(size: int) -> None:
    assert frontier_of(CT_LEAVES[:size]).root().hex() == CT_ROOTS[size - 1]
    assert naive_root(CT_LEAVES[:size]).hex() == CT_ROOTS[size - 1]


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 300), st.integers(0, 2**32), st.lists(st.integers(0, 300), max_size=5))
def test_a_frontier_gives_the_root_that_the_recursion_gives(size: int, seed: int, cuts: list[int]) -> None:
    leaves = [b"%d/%d" % (seed, number) for number in range(size)]
    frontier = Frontier()
    at = 0
    for cut in [*sorted(cut for cut in cuts if cut <= size), size]:
        frontier.append(leaves[at:cut])
        at = max(at, cut)
        # Stored and read back at each commit.
        frontier = Frontier(frontier.size, frontier.packed())
        assert frontier.root() == naive_root(leaves[:at])
    assert frontier.size == size
    assert len(frontier.hashes) == size.bit_count()


def test_every_size_up_to_three_hundred_has_its_root() -> None:
    leaves = [bytes([number % 256]) * (number % 7) for number in range(300)]
    frontier = Frontier()
    for size, entry in enumerate(leaves, start=1):
        frontier.append([entry])
        assert frontier.root() == naive_root(leaves[:size])


def test_leaves_and_nodes_are_told_apart() -> None:
    left, right = b"left", b"right"
    inner = hashlib.sha256(b"\x00left").digest() + hashlib.sha256(b"\x00right").digest()
    assert frontier_of([inner]).root() != frontier_of([left, right]).root()


@pytest.mark.parametrize(
    ("size", "length"), [(0, 32), (1, 0), (1, 31), (1, 64), (3, 32), (3, 96), (4, 64), (2, 33), (5, 65)]
)
def test_a_packed_frontier_of_another_size_is_refused(size: int, length: int) -> None:
    with pytest.raises(ValueError, match="frontier"):
        Frontier(size, b"x" * length)


# ── leaves ────────────────────────────────────────────────────────────────────────────────────────────────────────

STREAM = uuid4().bytes


def test_a_leaf_holds_origin_position_stream_version_name_and_state() -> None:
    entry = leaf("tallybook/x", 7, STREAM, 3, "customer.changed", b"state")
    assert msgpack.unpackb(entry) == ["tallybook/x", 7, STREAM, 3, "customer.changed", b"state"]


def test_leaves_that_differ_in_anything_differ() -> None:
    variants = [
        leaf("o", 1, STREAM, 1, "n", b"s"),
        leaf("p", 1, STREAM, 1, "n", b"s"),
        leaf("o", 2, STREAM, 1, "n", b"s"),
        leaf("o", 1, uuid4().bytes, 1, "n", b"s"),
        leaf("o", 1, STREAM.hex(), 1, "n", b"s"),
        leaf("o", 1, STREAM, 2, "n", b"s"),
        leaf("o", 1, STREAM, 1, "m", b"s"),
        leaf("o", 1, STREAM, 1, "n", b"t"),
        leaf("o", 1, STREAM, 1, "n", b""),
        leaf("o", 1, STREAM, 1, "ns", b""),
    ]
    assert len(set(variants)) == len(variants)


def test_what_exceeds_an_entry_of_a_tile_is_committed_by_its_hash() -> None:
    overhead = len(leaf("o", 1, STREAM, 1, "n", b"x" * 60_000)) - 60_000
    largest = b"x" * (ENTRY_BYTES_MAX - overhead)
    assert len(leaf("o", 1, STREAM, 1, "n", largest)) == ENTRY_BYTES_MAX == 65_535
    over = largest + b"y"
    entry = leaf("o", 1, STREAM, 1, "n", over)
    assert msgpack.unpackb(entry) == ["o", 1, STREAM, 1, "n", None, hashlib.sha256(over).digest()]
    assert entry != leaf("o", 1, STREAM, 1, "n", over[:-1] + b"z")
    assert len(entry) <= ENTRY_BYTES_MAX


# ── verify ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("merkle") / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        for number in range(5):
            customer = book.customers.register(name=f"Customer {number}", email=f"{number}@example.org")
            book.profiles.get(customer)
        book.customers.change(customer, note="x" * 19_000, hobbies="chess")
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    for file in original.parent.glob("shop.book*"):
        shutil.copy2(file, tmp_path / file.name)
    return tmp_path / "shop.book"


def problems(path: Path, signing_key: str | None = None) -> dict[str, str | None]:
    with tallybook.open(f"sqlite:///{path}", signing_key=signing_key) as book:
        found = book.audit.verify()
        assert [one.holds for one in found] == [one.problem is None for one in found]
        return {one.log: one.problem for one in found}


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("PRAGMA ignore_check_constraints=ON")  # whoever can write the file can switch them off
        for statement in statements:
            assert raw.execute(statement).rowcount > 0, statement


def test_a_book_that_nobody_touched_holds_and_names_its_root(path: Path) -> None:
    assert problems(path) == {"events": None, "reads": None}
    with tallybook.open(f"sqlite:///{path}") as book:
        for one, log in zip(book.audit.verify(), (book._core.app.log, book._core.gate.reads), strict=True):
            leaves = [
                leaf(book.origin, position, stream, version, name, state)
                for position, stream, version, name, state in log.log_rows(0, 10_000)
            ]
            assert one.size == len(leaves) > 0
            assert one.root == naive_root(leaves).hex() == log.head().frontier.root().hex()


def _flip(column: str) -> str:
    other = f"CASE WHEN substr({column}, -1) = x'ff' THEN x'00' ELSE x'ff' END"
    return f"CAST(substr({column}, 1, length({column}) - 1) || {other} AS BLOB)"


NEW_ROW = "x'00112233445566778899aabbccddeeff', 1, '{name}', x'90'"
TAMPERING: Mapping[str, Sequence[str]] = {
    "a byte of a state": [f"UPDATE {{table}} SET state={_flip('state')} WHERE position=2"],
    "a byte of the last state": [f"UPDATE {{table}} SET state={_flip('state')} WHERE position={{last}}"],
    "a state as text": ["UPDATE {table} SET state=CAST(x'41' AS TEXT) WHERE position=2"],
    "a state that is a number": ["UPDATE {table} SET state=5 WHERE position=2"],
    "a row deleted within": ["DELETE FROM {table} WHERE position=2"],
    "the first row deleted": ["DELETE FROM {table} WHERE position=1"],
    "the last row deleted": ["DELETE FROM {table} WHERE position={last}"],
    "all rows deleted": ["DELETE FROM {table}"],
    "two rows swapped": [
        "UPDATE {table} SET position=-1 WHERE position=2",
        "UPDATE {table} SET position=2 WHERE position=3",
        "UPDATE {table} SET position=3 WHERE position=-1",
    ],
    "a stream id": [f"UPDATE {{table}} SET originator_id={_flip('originator_id')} WHERE position=2"],
    "a stream id as text": ["UPDATE {table} SET originator_id='a text' WHERE position=2"],
    "a stored name": ["UPDATE {table} SET topic='customer.changed' WHERE position=2"],
    "a stored name that is no text": ["UPDATE {table} SET topic=CAST(x'ff' AS TEXT) WHERE position=2"],
    "a version": ["UPDATE {table} SET originator_version=99 WHERE position=2"],
    "a row appended": ["INSERT INTO {table} VALUES ({last} + 1, " + NEW_ROW + ")"],
    "a row appended after a gap": ["INSERT INTO {table} VALUES ({last} + 1000, " + NEW_ROW + ")"],
    "a row before the first": ["INSERT INTO {table} VALUES (0, " + NEW_ROW + ")"],
    "a row at a negative position": ["INSERT INTO {table} VALUES (-5, " + NEW_ROW + ")"],
    "a row appended and counted": [
        "INSERT INTO {table} VALUES ({last} + 1, " + NEW_ROW + ")",
        "UPDATE head SET position=position + 1 WHERE log='{table}'",
    ],
    "the head's position up": ["UPDATE head SET position=position + 1 WHERE log='{table}'"],
    "the head's position down": ["UPDATE head SET position=position - 1 WHERE log='{table}'"],
    "the head's position zero": ["UPDATE head SET position=0, frontier=x'' WHERE log='{table}'"],
    "the head's position negative": ["UPDATE head SET position=-1 WHERE log='{table}'"],
    "the head's frontier": [f"UPDATE head SET frontier={_flip('frontier')} WHERE log='{{table}}'"],
    "the head's frontier cut short": ["UPDATE head SET frontier=substr(frontier, 2) WHERE log='{table}'"],
    "the head's frontier empty": ["UPDATE head SET frontier=x'' WHERE log='{table}'"],
    "the head gone": ["DELETE FROM head WHERE log='{table}'"],
}
LOGS = {"events": ("", "stored_events"), "reads": (".reads", "access_records")}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("tampering", TAMPERING)
def test_tampering_is_found(path: Path, log: str, tampering: str) -> None:
    suffix, table = LOGS[log]
    file = path.with_name(path.name + suffix)
    with closing(sqlite3.connect(file)) as raw:
        last = raw.execute(f"SELECT MAX(position) FROM {table}").fetchone()[0]
    name = "customer.key_created" if log == "events" else "access.personal_data_read"
    tamper(file, *[text.format(table=table, last=last, name=name) for text in TAMPERING[tampering]])
    found = problems(path)
    assert found.pop(log), f"{tampering} was not found"
    assert list(found.values()) == [None], "the other log holds"


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("position", [-5, 0])
def test_a_position_before_the_first_can_not_be_written_in_passing(path: Path, log: str, position: int) -> None:
    suffix, table = LOGS[log]
    with (
        closing(sqlite3.connect(path.with_name(path.name + suffix))) as raw,
        pytest.raises(sqlite3.IntegrityError, match="CHECK"),
    ):
        raw.execute(f"INSERT INTO {table} VALUES ({position}, {NEW_ROW.format(name='customer.changed')})")
    assert problems(path) == {"events": None, "reads": None}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("position", [-(2**63), -5, 0, 1000, 2**63 - 1])
def test_a_problem_names_the_event_that_lies_outside_of_the_log(path: Path, log: str, position: int) -> None:
    suffix, table = LOGS[log]
    statement = f"INSERT INTO {table} VALUES ({position}, {NEW_ROW.format(name='customer.changed')})"
    tamper(path.with_name(path.name + suffix), statement)
    found = problems(path)
    assert f"there is an event at position {position}" in (found.pop(log) or "")
    assert list(found.values()) == [None]


def test_a_problem_says_where_the_head_ends_the_log(path: Path) -> None:
    tamper(path, "UPDATE head SET position=4 WHERE log='stored_events'", "UPDATE head SET frontier=zeroblob(32)")
    found = problems(path)["events"] or ""
    with closing(sqlite3.connect(path)) as raw:
        last = raw.execute("SELECT MAX(position) FROM stored_events").fetchone()[0]
    assert f"position {last}" in found
    assert "ends at 4" in found


def test_a_book_under_another_origin_does_not_hold(path: Path) -> None:
    for suffix in ("", ".reads"):
        tamper(path.with_name(path.name + suffix), "UPDATE book SET value='tallybook/forged' WHERE name='origin'")
    for name, log in (("", "stored_events"), (".reads", "access_records")):
        with closing(SQLiteDatabase(str(path.with_name(path.name + name)))) as database:
            assert verify("log", LogRecorder(database, log, "tallybook/forged")).problem
    # Nor is the book opened: its keys are bound to its name.
    tamper(path.with_name(path.name + ".keys"), "UPDATE book SET value='tallybook/forged' WHERE name='origin'")
    with pytest.raises(tallybook.KeysMissing, match="of another book"):
        tallybook.open(f"sqlite:///{path}")


def test_a_problem_names_the_position_that_is_missing(path: Path) -> None:
    tamper(path, "DELETE FROM stored_events WHERE position=4")
    assert "4" in (problems(path)["events"] or "")


def test_a_log_longer_than_one_batch_of_verifying_holds_and_its_end_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.book"
    lines = tmp_path / "lines.txt"
    lines.write_bytes(b"".join(b" %05d 19970101  1   11.77\n" % number for number in range(2600)))
    steps: list[tuple[int, int]] = []
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("job:import", purpose="import"):
        book.imports.cdnow(lines)
        assert book.position() == 10_400
        verification = book.audit.verify(progress=lambda done, total: steps.append((done, total)))
        assert all(one.holds for one in verification)
        assert verification[0].root == book._core.app.log.head().frontier.root().hex()
    assert steps == [(10_400, 10_400)]
    tamper(path, "UPDATE stored_events SET originator_version=9 WHERE position=10399")
    assert problems(path)["events"]


def test_an_event_larger_than_an_entry_is_verified_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merkle, "ENTRY_BYTES_MAX", 300)
    path = tmp_path / "large.book"
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name="Ada", note="x" * 2000)
        assert all(one.holds for one in book.audit.verify())
    assert problems(path)["events"] is None
    tamper(path, f"UPDATE stored_events SET state={_flip('state')} WHERE position=2")
    assert problems(path)["events"]


def test_the_frontier_moves_with_each_commit_and_not_with_a_refused_one(
    path: Path,
) -> None:
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        head: Callable[[], merkle.Frontier] = lambda: book._core.app.log.head().frontier  # noqa: E731 - a name for what is asked three times
        before = head()
        with pytest.raises(tallybook.Refused):
            book.customers.change(uuid4(), name="nobody")
        assert head().packed() == before.packed()
        book.customers.register(name="Ada")
        assert head().size == before.size + 2
        assert head().packed() != before.packed()
