"""Both executors find the same in a backtest, whatever is asked."""

from __future__ import annotations

from itertools import product, starmap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.columnar import History
from tests.loyalty_lives import PROGRAMMES, Step, living, steps
from tests.projections.test_columnar import beginning

from tallybook.domain.earning import Rules
from tallybook.domain.loyalty import UNFUNDED
from tallybook.projections.backtest import ORDERS, Partial, Question, reference, report_of
from tallybook.projections.columnar.backtesting import partial_of
from tallybook.projections.columnar.facts import Gathering
from tallybook.projections.columnar.names import Names
from tallybook.projections.read_models import Recorded
from tallybook.times import iso


def by_columns(history: History, question: Question) -> Partial:
    names = Names()
    gathering = Gathering(names)
    for position, event in history:
        gathering.feed(position, event)
    partial = partial_of([gathering.facts()], gathering.control, question, names)
    partial.sums["facts",] += len(gathering.control)
    return partial


def alike(history: History, question: Question) -> Partial:
    domain, _, _ = reference(starmap(Recorded, history), question)
    columns = by_columns(history, question)
    kept = {key: value for key, value in domain.sums.items() if value}
    found = {key: value for key, value in columns.sums.items() if value}
    assert found == kept
    assert columns.gained == domain.gained
    assert columns.lost == domain.lost
    assert columns.digests == domain.digests
    reports = [report_of(question, one, 1, lambda _: None) for one in (domain, columns)]
    assert reports[0].digest() == reports[1].digest()
    return columns


def test_both_find_the_same_about_the_beginning_of_the_cdnow_book(tmp_path: Path) -> None:
    history, candidate = beginning(tmp_path, 1_500)
    for unfunded, order in product(UNFUNDED, ORDERS):
        partial = alike(history, Question(candidate, unfunded=unfunded, order=order))
        assert partial.sums["changed",] > 100


QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_both_find_the_same_in_every_programme_that_ships(programme: str) -> None:
    @QUICK
    @given(
        life=steps,
        other=st.sampled_from(PROGRAMMES),
        unfunded=st.sampled_from(UNFUNDED),
        order=st.sampled_from(ORDERS),
        share=st.sampled_from([None, 0.0, 0.5]),
        swept=st.booleans(),
    )
    def live(life: list[Step], other: str, unfunded: str, order: str, share: float | None, swept: bool) -> None:
        with living(programme) as one:
            one.lives(life)
            if swept:
                one.book.loyalty.sweep(iso(one.clock[0]))
            history = list(one.book._core.history())
            recorded = one.book.rules.rules_of(programme)
            rules = one.book.rules.rules_of(other)
            candidate = Rules(rules.rule_set.model_copy(update={"programme": recorded.rule_set.programme}), rules.zone)
            times = [event.effective_us for _, event in history]
            since_us = None if share is None else int(min(times) + share * (max(times) - min(times)))
            alike(history, Question(candidate, unfunded=unfunded, order=order, since_us=since_us))

    live()
