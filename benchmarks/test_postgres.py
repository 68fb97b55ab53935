"""PostgreSQL: several writers on one log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallybook.adapters.log import NewRow

from .conftest import Measure
from .postgres import Commits, Writers, server
from .rows import OURS, RAW, STOCK
from .test_recorder import rows_of
from .workload import Sizes, chunks

CASES = [("postgres-1", 1), ("postgres-100", 100)]


@pytest.fixture(scope="module")
def promises() -> Iterator[str]:
    """A server for these; what it is and promises."""
    with server() as found:
        yield found


def work_of(folder: Path, sizes: Sizes, size: int) -> list[Commits]:
    """The commits of each writer: the same purchases as Tallybook stores them, on streams of its own."""
    rows = rows_of(folder, sizes.postgres_commits[size] * size)
    work: list[Commits] = []
    for writer in range(sizes.postgres_writers):
        own: list[NewRow] = [(bytes([writer]) + row[1][1:], *row[2:]) for row in rows]
        work.append([own[part] for part in chunks(len(own), size)])
    return work


@pytest.mark.parametrize(("key", "size"), CASES, ids=[key for key, _ in CASES])
@pytest.mark.parametrize("who", [RAW, STOCK, OURS])
def test_writers(measure: Measure, sizes: Sizes, tmp_path: Path, promises: str, key: str, size: int, who: str) -> None:
    """Several processes append at once; they are connected before the clock starts."""
    work = work_of(tmp_path, sizes, size)
    count = sum(len(rows) for commits in work for rows in commits)
    measure.server(promises)

    def prepare(folder: Path) -> tuple[Writers]:
        return (Writers(who, work),)

    def run(writers: Writers) -> None:
        measure.spent(writers.run())

    measure(key, who, count, run, prepare, rounds=sizes.postgres_rounds)
