"""The proof of order: while eight writers write, fail and are killed, no reader ever misses an event, meets one twice,
or meets it out of order. And that the proof fails where the order is taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import tallybook
from tallybook.adapters.log import Tail

from .storm import NAMES, WAYS, Outcome, place, storm, storm_of_commands

ORDERED = ["sqlite", "postgresql"]
WITHOUT_ORDER = ["sqlite without order", "postgresql without order"]


def sound(outcome: Outcome) -> None:
    problems = outcome.problems_of_readers() + outcome.problems_of_the_log()
    assert problems == [], f"seed {outcome.seed}"


@pytest.fixture
def where(way: str, tmp_path: Path) -> Iterator[str]:
    with place(way, tmp_path) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("way", ORDERED)
def test_no_reader_misses_doubles_or_disorders_an_event_while_eight_write_fail_and_are_killed(
    way: str, where: str
) -> None:
    outcome = storm(way, where)
    sound(outcome)
    assert outcome.killed == 8
    assert len(outcome.seen) == 8
    assert len(outcome.stored) > 500


@pytest.mark.slow
@pytest.mark.parametrize("way", WITHOUT_ORDER)
def test_the_proof_fails_where_positions_are_given_out_ahead_of_the_transaction(way: str, where: str) -> None:
    outcome = storm(way, where)
    assert any("missed" in problem for problem in outcome.problems_of_readers()), f"seed {outcome.seed}"
    assert "the positions have gaps" in outcome.problems_of_the_log()


@pytest.mark.parametrize("way", WITHOUT_ORDER)
def test_what_is_missed_without_order_is_what_was_numbered_first_and_committed_last(way: str, where: str) -> None:
    # The same without chance: a reader comes between the commits of two writers who got their positions before.
    log = WAYS[way](where)
    tail = Tail(log, 0)
    given: list[int] = []

    def second_writer(*_: object) -> None:
        given.extend(log.append([(uuid4().bytes, 1, NAMES[0], b"second")]))
        assert [row[0] for row in tail.pull(0)] == given

    log.append([(uuid4().bytes, 1, NAMES[0], b"first")], between=second_writer)
    assert given == [2]
    assert tail.pull(0) == ()
    assert [row[4] for row in log.iterate()] == [b"first", b"second"]
    log.database.close()


@pytest.mark.slow
def test_no_follower_of_a_book_misses_an_event_while_commands_fail_and_are_killed(book_url: str) -> None:
    outcome = storm_of_commands(book_url)
    sound(outcome)
    assert outcome.killed >= 2
    assert len(outcome.seen) == 7
    with tallybook.open(book_url) as book:
        assert [one.problem for one in book.audit.verify()] == [None, None]
        assert book.replay().holds
