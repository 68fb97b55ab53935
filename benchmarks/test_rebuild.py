"""Rebuild the read models with two processes, against one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from unittest import mock

import pytest

from tallybook.book import Book
from tallybook.projections import projector

from .conftest import Measure
from .ours import copy_book, open_book
from .rows import OURS, STOCK
from .workload import Sizes


def children_s() -> float:
    """The processor's time that processes took which this one started, in seconds."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(("who", "processes"), [(STOCK, 1), (OURS, 2)])
def test_rebuild(measure: Measure, sizes: Sizes, imported: Path, tmp_path: Path, who: str, processes: int) -> None:
    """All three, beside live ones."""
    source = copy_book(imported, tmp_path)
    with open_book(source) as book:
        count = book.projections.catch_up()

    def prepare(folder: Path) -> tuple[Book]:
        return (open_book(copy_book(source, folder)),)

    def run(book: Book) -> None:
        before = children_s()
        # One process writes as many events at once as each of several does: what is compared is the processes.
        with mock.patch.object(projector, "BATCH", projector.PART_BATCH) if processes == 1 else nullcontext():
            assert book.projections.rebuild(processes=processes) == count
        measure.spent(children_s() - before)

    measure("rebuild", who, count, run, prepare, rounds=sizes.rebuild_rounds)
