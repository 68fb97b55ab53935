"""Reads of personal data: how many can be accounted for in a second, one record each."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tallybook.adapters.policy_files import decider_of
from tallybook.book import Book
from tallybook.domain.customer import IdentifierLinked
from tallybook.domain.policy import out_of_hours

from .conftest import Measure
from .ours import open_book
from .raw import LogRow, RawLog
from .rows import OURS, RAW
from .workload import SIZES, Sizes, cdnow_lines

THREADS = 64
SUBJECTS = 20
LINES_EACH = 6
"""More than CDNOW has for each customer."""
COUNTS = {
    "reads": SIZES.reads,
    "reads-alone": SIZES.reads_alone,
    "reads-open": SIZES.reads,
    "reads-policy": SIZES.reads,
    "reads-profile": max(SIZES.reads // 10, THREADS),
}
DECISIONS = 50_000


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of customers with an external id each."""
    folder = tmp_path_factory.mktemp("reads")
    with open_book(folder / "ours.book") as book, book.acting("agent:bench", purpose="support"):
        book.imports.cdnow(cdnow_lines(folder, LINES_EACH * SIZES.bulk_subjects))
        book.projections.catch_up()  # or the first profile of each copy would pay for it
    return folder


class Reader:
    """An open copy of the book, and its customers' names as the log holds them."""

    def __init__(self, original: Path, folder: Path, subjects: int) -> None:
        for file in original.glob("ours.book*"):
            shutil.copy2(file, folder / file.name)
        self.book: Book = open_book(folder / "ours.book")
        self.core = self.book._core
        self.names: dict[UUID, Any] = {}
        for recorded in self.core.history([IdentifierLinked.stored_name]):
            if len(self.names) < subjects:
                event = recorded.event
                assert isinstance(event, IdentifierLinked)
                self.names[event.originator_id] = event.external_id
        assert len(self.names) == subjects
        self.each = list(self.names.items())

    def record(self, number: int) -> None:
        customer, _ = self.each[number % SUBJECTS]
        core = self.core
        core.gate.record(core.gate_metadata(core.acting_now()), "profiles.get", [customer], ["name"])

    def open(self, number: int) -> None:
        _, name = self.each[number % SUBJECTS]
        core = self.core
        core.gate.open(core.gate_metadata(core.acting_now()), "profiles.get", {"name": name})

    def profile(self, number: int) -> None:
        customer, _ = self.each[number % SUBJECTS]
        self.book.profiles.get(customer)

    def adopt(self) -> None:
        with self.book.acting("admin:bench", purpose="administration"):
            self.book.policy.grant("admin:bench", "admin")
            self.book.policy.grant("agent:bench", "support")
            self.book.policy.adopt("shop")

    def bulk(self) -> None:
        core = self.core
        with self.book.acting("agent:bench", purpose="support"):
            assert len(core.gate.open(core.gate_metadata(core.acting_now()), "bulk", self.names)) == len(self.names)

    def close(self) -> None:
        self.book.close()


def in_threads(reader: Reader, how: Callable[[int], None], threads: int, count: int) -> None:
    before = reader.core.gate.reads.position()

    def run() -> None:
        with reader.book.acting("agent:bench", purpose="support"):
            for number in range(count // threads):
                how(number)

    if threads == 1:
        run()
    else:
        started = [threading.Thread(target=run) for _ in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    assert reader.core.gate.reads.position() - before == count // threads * threads


@pytest.mark.parametrize("key", COUNTS)
def test_ours(measure: Measure, sizes: Sizes, key: str, original: Path) -> None:
    """Each read is one record."""
    threads = 1 if key == "reads-alone" else THREADS
    count = COUNTS[key] // threads * threads

    def prepare(folder: Path) -> tuple[Reader]:
        reader = Reader(original, folder, SUBJECTS)
        if key == "reads-policy":
            reader.adopt()
        return (reader,)

    def run(reader: Reader) -> None:
        how = {"reads-open": reader.open, "reads-policy": reader.open, "reads-profile": reader.profile}
        in_threads(reader, how.get(key, reader.record), threads, count)

    measure(key, OURS, count, run, prepare, rounds=sizes.reads_rounds)


@pytest.fixture(scope="module")
def rows(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LogRow]]:
    """The rows of as many reads."""
    reader = Reader(original, tmp_path_factory.mktemp("rows"), SUBJECTS)
    in_threads(reader, reader.record, 1, SIZES.reads_alone)
    yield [(*row,) for row in reader.core.gate.reads.log_rows(1, SIZES.reads_alone)]
    reader.close()


@pytest.mark.parametrize("key", COUNTS)
def test_raw(measure: Measure, sizes: Sizes, key: str, rows: list[LogRow]) -> None:
    """One transaction a read."""

    def prepare(folder: Path) -> tuple[RawLog]:
        return (RawLog(folder / "raw.db"),)

    measure(key, RAW, len(rows), lambda log: log.append([[row] for row in rows]), prepare, rounds=sizes.reads_rounds)


def test_bulk(measure: Measure, sizes: Sizes, original: Path) -> None:
    """One record with the list of its subjects."""

    def prepare(folder: Path) -> tuple[Reader]:
        return (Reader(original, folder, sizes.bulk_subjects),)

    measure("reads-bulk", OURS, sizes.bulk_subjects, Reader.bulk, prepare, rounds=sizes.reads_rounds)


def test_decisions(measure: Measure, sizes: Sizes, original: Path) -> None:
    """As the gate makes them."""

    def prepare(folder: Path) -> tuple[Reader]:
        reader = Reader(original, folder, SUBJECTS)
        reader.adopt()
        return (reader,)

    def run(reader: Reader) -> None:
        policy, at_us = reader.core.policy(), reader.core.now_us()
        for _ in range(DECISIONS):
            assert policy.in_force is not None
            decider = decider_of(policy.in_force)
            decision = decider.decide(policy.roles_of("agent:bench", at_us), "support", "profiles.get")
            assert not out_of_hours(decision.purpose, at_us, policy.in_force.zone)
            decision.of("name")

    measure("decisions", OURS, DECISIONS, run, prepare, rounds=sizes.reads_rounds)
