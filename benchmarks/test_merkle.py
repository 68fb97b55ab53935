"""What the Merkle tree costs: appends of a hundred events with all of it, against the same with no tree, through the
application and of rows that are ready; and how fast a log is verified, against a bare loop of SHA-256 over the same
leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tallybook.adapters import integrity, merkle
from tallybook.adapters.checkpoints import Checkpoints, History
from tallybook.adapters.log import Fresh, HeadRow, LogRecorder, NewRow
from tallybook.adapters.signing import in_memory
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.adapters.tiles import TileStore

from .conftest import Measure
from .ours import Till, open_book, registered
from .rows import OURS, RAW
from .test_append import batches
from .test_recorder import rows_of
from .workload import Sale, Sizes, chunks

ORIGIN = "tallybook/0123456789abcdef0123456789abcdef"
SIZE = 100
TIMES = 4
"""How often the rows are repeated, under other streams: a log with some hundred tiles."""


class _NoTree(merkle.Frontier):
    """Counts leaves, and hashes none."""

    def append_rows(self, origin: str, rows: Sequence[Any]) -> tuple[list[bytes], dict[int, bytes]]:
        self.size += len(rows)
        return [], {}

    def packed(self) -> bytes:
        return b""


class Bare(LogRecorder):
    """The same recorder without a tree, and without a MAC of its head."""

    def _sound_head(self, rows: Sequence[tuple[Any, ...]], before: HeadRow | None, ask: Any = None) -> HeadRow:
        [row] = rows
        return HeadRow(*row)._replace(mac="")

    @staticmethod
    def _tree(head: HeadRow) -> merkle.Frontier:
        tree = _NoTree()
        tree.size = head.position
        return tree

    def close(self) -> None:
        self.database.close()


class Whole(LogRecorder):
    """A recorder with all of it: frontier, the head's MAC, tiles, signed checkpoints."""

    def __init__(self, database: SQLiteDatabase) -> None:
        super().__init__(database, origin=ORIGIN, key=bytes(32))
        keys = in_memory(ORIGIN)
        history = History(ORIGIN, [keys.signers()[0].vkey], [0])
        self.fresh = Fresh()
        self.checkpoints = Checkpoints(TileStore(self), ORIGIN, lambda: history, keys, checkpoint_s=1)
        self.committed = self.checkpoints.after_commit

    def close(self) -> None:
        self.database.close()


def commits_of(folder: Path, sizes: Sizes) -> list[list[NewRow]]:
    """Purchases as they are stored, a hundred in a list."""
    rows = rows_of(folder, sizes.append_commits[SIZE] * SIZE)
    many: list[NewRow] = [
        (stream[:-1] + bytes([number]), version, name, state)
        for number in range(TIMES)
        for _, stream, version, name, state in rows
    ]
    return [many[part] for part in chunks(len(many), SIZE)]


def append(log: LogRecorder, commits: Sequence[Sequence[NewRow]]) -> None:
    """One transaction for each list; at the end, a checkpoint, as at closing."""
    for rows in commits:
        log.append(rows)
    if isinstance(log, Whole):
        log.checkpoints.sign()


def run_till(till: Till, work: Sequence[Sequence[Sale]]) -> None:
    """As `append-100` does; at the end, a checkpoint, as at closing."""
    for number, batch in enumerate(work):
        till.record(number, batch)
    if not isinstance(till.app.log, Bare):
        till.book._core.last_checkpoints()


def longer(sizes: Sizes) -> list[list[Sale]]:
    """The commits of `append-100`, more of them: the checkpoint at the end is one of each second, not of each round."""
    commits = {SIZE: sizes.append_commits[SIZE] * TIMES}
    return batches(replace(sizes, append_commits=commits), SIZE, order_ids=False)


class TestAppend:
    """Purchases on customers that are held in memory, through the application."""

    def test_raw(self, measure: Measure, sizes: Sizes) -> None:
        """No tree."""
        work = longer(sizes)

        def prepare(folder: Path) -> tuple[Till, list[list[Sale]]]:
            book = open_book(folder / "bare.book")
            till = Till(book, registered(book, sizes.customers))
            # From here on the book has no head that it would believe: so its storage alone is closed.
            measure.closing(book._core.storage)
            log = book._core.app.log
            log.__class__, log.key, log.fresh, log.committed = Bare, None, None, None
            return till, work

        measure("merkle-append", RAW, len(work) * SIZE, run_till, prepare, rounds=sizes.append_rounds, collecting=False)

    def test_ours(self, measure: Measure, sizes: Sizes) -> None:
        """Frontier, tiles and checkpoints."""
        work = longer(sizes)

        def prepare(folder: Path) -> tuple[Till, list[list[Sale]]]:
            book = open_book(folder / "ours.book")
            measure.closing(book)
            return Till(book, registered(book, sizes.customers)), work

        measure(
            "merkle-append", OURS, len(work) * SIZE, run_till, prepare, rounds=sizes.append_rounds, collecting=False
        )


class TestRecorder:
    """Appending what is ready."""

    def test_raw(self, measure: Measure, sizes: Sizes, tmp_path: Path) -> None:
        """No tree."""
        commits = commits_of(tmp_path, sizes)

        def prepare(folder: Path) -> tuple[Bare, list[list[NewRow]]]:
            log = Bare(SQLiteDatabase(str(folder / "log.db")), origin=ORIGIN)
            log.create_table()
            return log, commits

        measure("merkle-recorder", RAW, len(commits) * SIZE, append, prepare, rounds=sizes.append_rounds)

    def test_ours(self, measure: Measure, sizes: Sizes, tmp_path: Path) -> None:
        """Frontier, tiles and checkpoints."""
        commits = commits_of(tmp_path, sizes)

        def prepare(folder: Path) -> tuple[Whole, list[list[NewRow]]]:
            log = Whole(SQLiteDatabase(str(folder / "log.db")))
            log.create_table()
            return log, commits

        measure("merkle-recorder", OURS, len(commits) * SIZE, append, prepare, rounds=sizes.append_rounds)


class TestVerify:
    """Verifying all of a log."""

    def test_raw(self, measure: Measure, sizes: Sizes, tmp_path: Path) -> None:
        """The leaves alone, which lie in memory."""
        leaves = [
            merkle.leaf(ORIGIN, position, *row)
            for position, row in enumerate((row for rows in commits_of(tmp_path, sizes) for row in rows), 1)
        ]

        def run(entries: Sequence[bytes]) -> None:
            for entry in entries:
                sha256(b"\x00" + entry).digest()

        measure("merkle-verify", RAW, len(leaves), run, lambda _: (leaves,), rounds=sizes.append_rounds)

    def test_ours(self, measure: Measure, sizes: Sizes, tmp_path: Path) -> None:
        """Rows read, leaves packed and hashed, tree, tiles, checkpoints."""
        commits = commits_of(tmp_path, sizes)

        def prepare(folder: Path) -> tuple[Whole]:
            log = Whole(SQLiteDatabase(str(folder / "log.db")))
            log.create_table()
            append(log, commits)
            return (log,)

        def run(log: Whole) -> None:
            found = integrity.verify("events", log, checkpoints=log.checkpoints)
            assert found.problem is None

        measure("merkle-verify", OURS, len(commits) * SIZE, run, prepare, rounds=sizes.append_rounds)
