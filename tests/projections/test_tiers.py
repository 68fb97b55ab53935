"""Tier membership: who holds a tier, as of a moment, and as the book knew it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallybook
from tallybook.domain.events import from_us
from tallybook.domain.points import TierChanged
from tallybook.projections.read_models import OPEN_END
from tallybook.projections.tiers import Tiers

if TYPE_CHECKING:
    from tests.projections.conftest import Shop

START = 1_577_836_800_000_000
DAY = 86_400_000_000


def test_members_are_those_whose_time_in_the_tier_covers_the_moment(shop: Shop) -> None:
    ada, bob = shop.member(), shop.member()
    shop.buy(ada, "2020-02-01", 15_000)
    shop.buy(bob, "2020-03-01", 15_000)
    shop.buy(ada, "2020-04-01", 20_000)
    shop.sweep("2021-03-15")
    tiers = shop.book.tiers

    def members(tier: str, **asked: object) -> list[object]:
        return [one.customer_id for one in tiers.members(tier, **asked)]  # type: ignore[arg-type]  # as_of and known_at

    assert members("silver", as_of="2020-01-31") == []
    assert members("silver", as_of="2020-02-01T00:00:00Z") == [ada]
    assert members("silver", as_of="2020-03-15") == [ada, bob]
    assert members("silver", as_of="2020-04-01T00:00:00Z") == [bob]
    assert members("gold", as_of="2020-04-01T00:00:00Z") == [ada]
    assert members("gold", as_of="2020-03-31T23:59:59Z") == []
    assert members("silver", as_of="2021-02-01T00:00:00Z") == [bob, ada]
    assert (members("silver"), members("gold"), members("basic")) == ([ada], [], [bob])
    assert tiers.counts() == {"basic": 1, "silver": 1}
    assert tiers.counts(as_of="2020-03-15") == {"silver": 2}


def test_a_membership_says_from_when_to_when_and_why(shop: Shop) -> None:
    ada = shop.member()
    bought = shop.buy(ada, "2020-02-01", 15_000)
    shop.give_back(ada, "2020-05-01", bought, 1)
    told = [(one.tier, one.since, one.until, one.reason, one.qualifying) for one in shop.book.tiers.history(ada)]
    assert told == [
        ("basic", "2020-01-01T00:00:00Z", "2020-02-01T00:00:00Z", "enrolled", 0),
        ("silver", "2020-02-01T00:00:00Z", "2020-05-01T00:00:00Z", "points_earned", 150),
        ("basic", "2020-05-01T00:00:00Z", None, "earning_reversed", 0),
    ]
    assert {one.rules for one in shop.book.tiers.history(ada)} == {"standard@1"}


def test_what_the_book_did_not_know_yet_does_not_count(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-05-01", 6_000)
    known = shop.book.position()
    shop.buy(ada, "2020-02-01", 6_000)
    tiers = shop.book.tiers
    assert tiers.counts(as_of="2020-06-01") == {"silver": 1}
    assert tiers.counts(as_of="2020-06-01", known_at=known) == {"basic": 1}
    # A late fact changes the tier from the account's clock on.
    assert tiers.counts(as_of="2020-04-30") == {"basic": 1}


def test_a_membership_that_ended_later_lasts_as_the_book_knew_it(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-02-01", 15_000)
    known = shop.book.position()
    shop.sweep("2022-01-01")
    (one,) = shop.book.tiers.members("silver", as_of="2021-12-31", known_at=known)
    assert one.customer_id == ada
    assert list(shop.book.tiers.members("silver", as_of="2021-12-31")) == []


def test_a_standing_tells_the_tier_of_a_moment_and_those_before(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-02-01", 15_000)
    known = shop.book.position()
    shop.buy(ada, "2020-04-01", 20_000)
    shop.sweep("2022-01-01")
    standing = shop.book.tiers.standing
    now = standing(ada)
    assert (now.customer_id, now.programme, now.tier, now.reason) == (ada, "main", "basic", "window_moved")
    assert (now.member_since, now.rules) == ("2020-01-01T00:00:00Z", "standard@1")
    assert [(one.tier, one.until) for one in now.previous] == [
        ("basic", "2020-02-01T00:00:00Z"), ("silver", "2020-04-01T00:00:00Z"), ("gold", "2021-02-01T00:00:00Z"),
        ("silver", "2021-04-01T00:00:00Z"),
    ]  # fmt: skip
    assert now.since == now.previous[-1].until
    then = standing(ada, as_of="2020-05-01")
    assert (then.tier, then.since, then.qualifying, len(then.previous)) == ("gold", "2020-04-01T00:00:00Z", 350, 2)
    then = standing(ada, as_of="2020-05-01", known_at=known)
    assert (then.tier, then.since, then.qualifying, len(then.previous)) == ("silver", "2020-02-01T00:00:00Z", 150, 1)
    first = standing(ada, as_of="2020-01-15")
    assert (first.tier, first.since, first.member_since, first.previous) == (
        "basic", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z", (),
    )  # fmt: skip
    for asked in ({"as_of": "2019-12-31"}, {"programme": "other"}, {"known_at": 1}):
        with pytest.raises(tallybook.Refused) as refused:
            standing(ada, **asked)
        assert refused.value.code == "not_enrolled"


def test_two_customers_do_not_disturb_each_other(shop: Shop) -> None:
    ada, bob = shop.member(), shop.member()
    shop.buy(ada, "2020-02-01", 15_000)
    before = shop.book.tiers.history(ada)
    shop.buy(bob, "2020-02-01", 95_000)
    assert shop.book.tiers.history(ada) == before


_facts = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 40_000), st.booleans()), min_size=1, max_size=10)


@settings(max_examples=25, deadline=None, print_blob=True)
@given(facts=_facts, moments=st.lists(st.integers(-5, 1200), min_size=1, max_size=5), data=st.data())
def test_memberships_of_an_account_follow_one_another_without_gap_or_overlap(
    open_shop: Callable[..., Shop], facts: list[tuple[int, int, bool]], moments: list[int], data: st.DataObject
) -> None:
    shop = open_shop()
    ada = shop.member()
    horizon = 0
    for day, net, sweeps in facts:
        lines = [{"sku": "s", "quantity": 1, "net_minor": net}]
        shop.book.customers.record_purchase(ada, lines, effective_at=from_us(START + day * DAY))
        if sweeps and day >= horizon:
            horizon = day
            shop.book.loyalty.sweep(from_us(START + day * DAY))
    shop.book.projections.catch_up()
    rows = shop.rows(shop.book._core.tiers, Tiers.memberships)
    names = [name for name, _ in Tiers.memberships.columns]
    memberships = [dict(zip(names, row, strict=True)) for row in rows]
    for one, following in pairwise(memberships):
        assert one["from_us"] <= one["to_us"] == following["from_us"]
        assert one["from_position"] < one["to_position"] == following["from_position"]
        assert one["tier"] != following["tier"]
    assert memberships[0]["from_us"] == START
    assert (memberships[-1]["to_us"], memberships[-1]["to_position"]) == (OPEN_END, OPEN_END)

    # Asked as of any moment, as known at any position: the last change known and effective by then.
    history = shop.history()
    for moment in moments:
        known = data.draw(st.integers(0, len(history)), label="known")
        at_us = START + moment * DAY
        changes = [event for at, event in history
                   if isinstance(event, TierChanged) and at <= known and event.effective_us <= at_us]  # fmt: skip
        wanted = {changes[-1].tier: 1} if changes else {}
        assert shop.book.tiers.counts(as_of=from_us(at_us), known_at=known) == wanted
        if changes:
            standing = shop.book.tiers.standing(ada, as_of=from_us(at_us), known_at=known)
            assert [one.tier for one in standing.previous] + [standing.tier] == [one.tier for one in changes]
    shop.close()
