"""Tiles: whoever writes them, however often it is killed; and the proofs that are made of them, against a verifier of
our own after the RFC, and another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest
import tamperlog
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.postgres import drop_schema, new_schema, schema_url

from tallybook.adapters import merkle, tiles
from tallybook.adapters.database import Database
from tallybook.adapters.log import Fresh, LogRecorder
from tallybook.adapters.merkle import Frontier
from tallybook.adapters.postgres import PostgresDatabase
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.adapters.tiles import Tiles, TileStore
from tallybook.domain.errors import BookDamaged

SIZES = range(601)


def leaves(size: int) -> list[bytes]:
    return [sha256(b"\0%d" % number).digest() for number in range(size)]


def naive(hashes: Sequence[bytes]) -> bytes:
    """The root, as RFC 6962 writes it."""
    if not hashes:
        return sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return sha256(b"\1" + naive(hashes[:split]) + naive(hashes[split:])).digest()


def path(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(hashes) == 1:
        return []
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    if index < split:
        return [*path(index, hashes[:split]), naive(hashes[split:])]
    return [*path(index - split, hashes[split:]), naive(hashes[:split])]


def subproof(old: int, hashes: Sequence[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, 2.1.2."""
    if old == len(hashes):
        return [] if whole else [naive(hashes)]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    if old <= split:
        return [*subproof(old, hashes[:split], whole), naive(hashes[split:])]
    return [*subproof(old - split, hashes[split:], False), naive(hashes[:split])]


def in_memory(hashes: Sequence[bytes]) -> Tiles:
    """A tree over tiles that lie in a dictionary."""
    levels = [list(hashes)]
    while len(levels[-1]) >= 256:
        below = levels[-1]
        levels.append([naive(below[start : start + 256]) for start in range(0, len(below) // 256 * 256, 256)])
    return Tiles(len(hashes), lambda level, tile: b"".join(levels[level][tile * 256 : tile * 256 + 256]))


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_its_root_and_its_proofs(size: int) -> None:
    hashes = leaves(size)
    tree = in_memory(hashes)
    frontier = Frontier()
    frontier.append_hashes(hashes)
    root = naive(hashes)
    assert tree.root() == frontier.root() == root
    for index in {0, size // 3, size // 2, size - 1} if size else ():
        found = tree.inclusion(index)
        assert found == path(index, hashes)
        assert merkle.root_of_inclusion(index, size, hashes[index], found) == root
        tamperlog.verify_inclusion(index, size, hashes[index], found, root)
    for old in {1, size // 3, size // 2, size} - {0} if size else ():
        found = tree.consistency(old)
        assert found == subproof(old, hashes, True)
        tamperlog.verify_consistency(old, naive(hashes[:old]), size, root, found)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 70_000), st.data())
def test_random_proofs_of_large_trees_are_verified_by_another_s_code(size: int, data: st.DataObject) -> None:
    large = LARGE[:size]
    frontier = Frontier()
    frontier.append_hashes(large)
    tree = Tiles(size, _tile_of(large))
    root = tree.root()
    assert root == frontier.root()
    index = data.draw(st.integers(0, size - 1))
    found = tree.inclusion(index)
    tamperlog.verify_inclusion(index, size, large[index], found, root)
    old = data.draw(st.integers(1, size))
    before = Frontier()
    before.append_hashes(large[:old])
    tamperlog.verify_consistency(old, before.root(), size, root, tree.consistency(old))
    assert tree.root(old) == before.root()
    if found:
        with pytest.raises(ValueError, match="too short"):
            merkle.root_of_inclusion(index, size, large[index], found[:-1])
    with pytest.raises(ValueError, match="too long"):
        merkle.root_of_inclusion(index, size, large[index], [*found, bytes(32)])
    with pytest.raises(ValueError, match="none with the index"):
        merkle.root_of_inclusion(size, size, large[index], found)


LARGE = leaves(70_000)
_ROOTS = [merkle.whole_root(LARGE[start : start + 256]) for start in range(0, 70_000 // 256 * 256, 256)]


def _tile_of(hashes: Sequence[bytes]) -> Callable[[int, int], bytes]:
    """Tiles of some of the large tree's leaves."""
    whole = _ROOTS[: len(hashes) // 256]
    levels = [hashes, whole, [merkle.whole_root(whole[:256])] if len(whole) >= 256 else []]
    return lambda level, tile: b"".join(levels[level][tile * 256 : tile * 256 + 256])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=6))
def test_a_batch_gives_the_roots_of_the_tiles_that_it_made_whole(batches: list[int]) -> None:
    frontier, roots, at = Frontier(), dict[int, bytes](), 0
    for batch in batches:
        roots.update(frontier.append_hashes(LARGE[at : at + batch]))
        at += batch
    assert roots == dict(enumerate(_ROOTS[: at // 256]))
    assert frontier.root() == naive(LARGE[:at])


# ── in a database ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["file", "memory", "server"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made: Database
    if request.param == "server":
        schema = new_schema()
        made = PostgresDatabase(schema_url(schema))
        with made.session(write=True) as session:
            session.define(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
    else:
        made = SQLiteDatabase(
            str(tmp_path / "log.db") if request.param == "file" else "file:x?mode=memory&cache=shared"
        )
    yield made
    made.close()
    if request.param == "server":
        drop_schema(schema)


@pytest.fixture
def log(database: Database) -> LogRecorder:
    made = LogRecorder(database, origin="tallybook/test")
    made.create_table()
    return made


def grow(log: LogRecorder, count: int, of: int = 1) -> None:
    stream = UUID(int=of)
    before = log.stream_rows(stream, desc=True, limit=1)
    version = before[0][1] if before else 0
    log.append([(stream.bytes, version + number, "a.name", b"state %d" % number) for number in range(1, count + 1)])


def check(log: LogRecorder, store: TileStore) -> None:
    """The tiles are those of the log's rows, all of them, and nothing else."""
    size = log.position()
    hashes = merkle.row_hashes(log.origin, log.log_rows(0, 1_000_000))
    assert store.size() == size == len(hashes)
    expected = {}
    level = 0
    while hashes:
        for tile, start in enumerate(range(0, len(hashes), 256)):
            expected[level, tile] = b"".join(hashes[start : start + 256])
        hashes = [naive(hashes[start : start + 256]) for start in range(0, len(hashes) // 256 * 256, 256)]
        level += 1
    rows = log.database.rows("SELECT level, tile, hashes FROM tiles WHERE log=?", [log.table.name])
    assert {(level, tile): data for level, tile, data in rows} == expected
    assert store.reader(size).root() == log.head().frontier.root()


@pytest.mark.parametrize("fresh", [False, True], ids=["from rows", "from memory"])
def test_tiles_follow_the_log_in_steps_of_any_size(
    log: LogRecorder, fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "CHUNK", 1024)
    if fresh:
        log.fresh = Fresh()
    store = TileStore(log)
    assert store.catch_up() == 0
    for step in (1, 254, 1, 1, 255, 513, 3000):
        grow(log, step)
        if step != 254:
            store.catch_up()
            check(log, store)
    assert log.fresh is None or log.fresh.count == 0


def test_what_is_kept_of_a_commit_that_was_rolled_back_is_nothing(log: LogRecorder) -> None:
    log.fresh = Fresh()
    grow(log, 3)
    with pytest.raises(Exception, match=r"UNIQUE|duplicate"):
        log.append([(UUID(int=1).bytes, 2, "a.name", b"again")])
    assert log.fresh.count == 3
    store = TileStore(log)
    store.catch_up()
    check(log, store)


def test_a_writer_that_was_overtaken_takes_nothing_back(log: LogRecorder) -> None:
    first, second = TileStore(log), TileStore(log)
    grow(log, 300)
    first.catch_up(100)
    hashes = merkle.row_hashes(log.origin, log.log_rows(100, 20))
    second.catch_up()
    with log.database.session(write=True) as session:
        first._extend(session, 0, 100, b"".join(hashes), {}, tiles._PUT)
    check(log, second)


DAMAGE = [
    "DELETE FROM tiles",
    "DELETE FROM tiles WHERE level=0 AND tile=1",
    "DELETE FROM tiles WHERE level=1",
    "UPDATE tiles SET hashes=zeroblob(32) WHERE level=0 AND tile=0",
    "UPDATE tiles SET hashes=zeroblob(32) WHERE level=0 AND tile=3",
    "UPDATE tiles SET hashes=zeroblob(8192) WHERE level=0 AND tile=1",
    "UPDATE tiles SET hashes=x'' WHERE level=0 AND tile=3",
    "UPDATE tiles SET hashes=x'00' WHERE level=0 AND tile=3",
    "UPDATE tiles SET hashes=substr(hashes, 2) WHERE level=1",
    "UPDATE tiles SET tile=-7 WHERE level=0 AND tile=0",
    "INSERT INTO tiles VALUES ('stored_events', 0, 4, zeroblob(32))",
    "INSERT INTO tiles VALUES ('stored_events', 0, 400, zeroblob(32))",
    "INSERT INTO tiles VALUES ('stored_events', 3, 0, zeroblob(32))",
    "INSERT INTO tiles VALUES ('stored_events', 99, 0, zeroblob(32))",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tiles_are_made_anew(tmp_path: Path, damage: str) -> None:
    log = LogRecorder(SQLiteDatabase(str(tmp_path / "log.db")), origin="tallybook/test")
    log.create_table()
    store = TileStore(log)
    grow(log, 900)
    store.catch_up()
    with log.database.session(write=True) as session:
        session.run(damage)
    store.rebuild()
    check(log, store)
    log.database.close()


def test_tiles_that_are_not_there_are_told(log: LogRecorder) -> None:
    store = TileStore(log)
    grow(log, 300)
    with pytest.raises(BookDamaged, match="missing"):
        store.reader(300).root()
    store.catch_up(200)
    with pytest.raises(BookDamaged, match=r"cut short|missing"):
        store.reader(300).root()


WRITER = """
import sys
from uuid import UUID
from tallybook.adapters.log import LogRecorder
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.adapters.postgres import PostgresDatabase
from tallybook.adapters.tiles import TileStore

url, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
database = PostgresDatabase(url) if url.startswith("postgresql") else SQLiteDatabase(url)
log = LogRecorder(database, origin="tallybook/test")
if what == "tiles":
    store = TileStore(log)
    while True:
        store.catch_up()
stream = UUID(int=int(what)).bytes
for number in range(count):
    log.append([(stream, number * 7 + one, "a.name", b"x" * number) for one in range(1, 8)])
"""


def place_of(database: Database) -> str:
    if isinstance(database, SQLiteDatabase):
        return database.name
    assert isinstance(database, PostgresDatabase)
    return schema_url(database.schema)


@pytest.mark.parametrize("database", ["file", "server"], indirect=True)
def test_tiles_written_while_two_processes_append_and_their_writer_is_killed(
    log: LogRecorder, database: Database
) -> None:
    url = place_of(database)

    def start(what: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WRITER, url, what, "120"])

    appending = [start("1"), start("2")]
    killed = 0
    while any(one.poll() is None for one in appending):
        writer = start("tiles")
        time.sleep(0.4)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        killed += 1
        assert TileStore(log).size() <= log.position()
    assert [one.returncode for one in appending] == [0, 0]
    assert killed
    store = TileStore(log)
    assert store.catch_up() == 2 * 7 * 120
    check(log, store)


def test_what_others_added_is_hashed_once_by_each(log: LogRecorder) -> None:
    other = LogRecorder(log.database, origin=log.origin)
    fresh = log.fresh = Fresh()
    other.fresh = Fresh()
    store, theirs = TileStore(log), TileStore(other)
    grow(log, 3)
    for step in (1, 254, 600):
        grow(other, step, of=2)
        grow(log, 2)
    [end] = {one.head().position for one in (log, other)}
    # Of all that follows what the tiles hold, the hashes are there, whoever committed it.
    assert (fresh.count, end) == (864, 864)
    assert store.catch_up() == end
    check(log, store)
    assert fresh.count == 0
    assert theirs.catch_up() == end
    check(other, theirs)
