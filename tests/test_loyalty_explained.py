"""`book.loyalty.explain` and its kind, over random lives in each of the programmes that ship."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from tests.loyalty_lives import PROGRAMMES, Step, living, steps
from tests.projections.test_reasons import check

from tallybook.projections.reasons import explained
from tallybook.statements import _history

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_what_is_explained_gives_the_recorded_points_in_every_programme_that_ships(programme: str) -> None:
    told: Counter[str] = Counter()

    @QUICK
    @given(life=steps)
    def live(life: list[Step]) -> None:
        with living(programme) as one:
            one.lives(life)
            for customer in one.members:
                found = check(explained(_history(one.book._core, customer)))
                seen = one.book.loyalty.explain_account(customer)
                assert [one.decision_id for one in seen] == [one.recorded.event.event_id for one in found]
                assert all(one.agrees for one in seen)
                told.update(one.kind for one in seen)
            assert one.book.replay().holds

    live()
    assert {"loyalty.points_earned", "loyalty.tier_changed"} <= set(told), told
