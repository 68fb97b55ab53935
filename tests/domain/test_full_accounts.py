"""No account takes more points than its sums can hold in 64 bits: one bound, whatever the points come from."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.domain.conftest import World, rule_set, us

from tallybook.domain.account import POINTS_MAX
from tallybook.domain.errors import Refused
from tallybook.domain.events import Event
from tallybook.domain.loyalty import BRINGING
from tallybook.domain.points import (
    BUCKETS,
    SOURCES,
    CorrectionRecorded,
    CouponVoided,
    EarningRefused,
    EarningWithdrawn,
    GoodwillGranted,
    NewLot,
    PointsEarned,
    PointsExpired,
    RedemptionReturned,
    ReinstatementGranted,
    TransferReceived,
)
from tallybook.projections.reasons import explained
from tallybook.projections.replay import certify

RULES: dict[str, Any] = {
    "expiry": {"never": True},
    "transfers": {"allowed": True},
    "tiers": {"window": "lifetime", "levels": [{"name": "basic", "threshold": 0}]},
}


def received(points: int) -> dict[str, Any]:
    """A transfer of so many points, from nowhere in particular."""
    lots = (NewLot(lot_id=UUID(int=9), points=points, earned_us=0, expires_us=us("2030-01-01")),)
    return {"transfer_id": UUID(int=7), "from_account": UUID(int=8), "lots": lots}


def full(less: int = 0, **changes: Any) -> World:
    """Ada, who has room for so many points."""
    world = World(rule_set(**{**RULES, **changes}))
    world.enrol("2020-01-01")
    world.tell("2020-01-01", TransferReceived, **received(POINTS_MAX - less))
    return world


def refused(world: World, kind: type[Event], **fields: Any) -> None:
    """A fact is refused, and nothing is recorded."""
    before = len(world.log)
    with pytest.raises(Refused) as error:
        world.tell("2020-02-01", kind, **fields)
    assert error.value.code == "account_full"
    assert len(world.log) == before


def test_one_point_more_than_fits_is_refused_whatever_brings_it() -> None:
    told: dict[type[Event], dict[str, Any]] = {
        GoodwillGranted: {"points": 11, "reason": "sorry"},
        CorrectionRecorded: {"points": 11, "reason": "wrong", "into_debt": True},
        TransferReceived: received(11),
        ReinstatementGranted: {"points": 11, "until_us": us("2031-01-01"), "reason": "sorry"},
        RedemptionReturned: {"points": 11, "reason": "broken"},
        CouponVoided: {"reason": "wrong"},
    }
    assert told.keys() == BRINGING.keys()
    for kind, fields in told.items():
        coupon = [{"id": "R1", "price": 11, "coupon_days": 30}] if kind is CouponVoided else []
        world = full(10, rewards=coupon)
        redemption = world.redeem("2020-01-05", 11).request.event_id
        if kind is RedemptionReturned:
            fields["redemption_id"] = redemption
        if kind is CouponVoided:
            fields["coupon_id"] = redemption
        refused(world, kind, **fields)
        # One point less fits.
        if "points" in fields:
            world.tell("2020-02-01", kind, **{**fields, "points": 10})
        assert certify(world.history()).holds


def test_points_that_are_taken_without_a_debt_bring_none() -> None:
    world = full()
    world.tell("2020-02-01", CorrectionRecorded, points=11, reason="wrong", into_debt=False)
    assert world.look("2020-02-02").active == POINTS_MAX - 11
    refused(world, GoodwillGranted, points=1, reason="sorry")


def test_an_earning_that_does_not_fit_is_recorded_as_refused() -> None:
    world = full(10)
    world.buy("2020-02-01", 11_00)
    [earning] = [one for one in world.decisions() if isinstance(one, EarningRefused)]
    assert (earning.code, earning.points) == ("account_full", 11)
    world.buy("2020-02-02", 10_00)
    [earned] = [one for one in world.decisions() if isinstance(one, PointsEarned)]
    assert earned.points == 10
    told = next(one for one in explained(world.history()) if one.recorded.event == earning)
    assert told.reason.agrees
    assert told.reason.steps[-1] == (
        f"Of all sources, at most {POINTS_MAX} points come to one account: 11 points were not earned (account_full)."
    )
    assert certify(world.history()).holds


def test_points_that_only_qualify_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallybook.domain.account.POINTS_MAX", 100)
    earning = [{"id": "growth", "kind": "fixed", "points": 60, "gives": "qualifying"}]
    world = World(rule_set(**RULES, earning=earning))
    world.enrol("2020-01-01")
    for day in ("2020-02-01", "2020-02-02"):
        world.buy(day, 1_00)
    assert [type(one) for one in world.decisions()][-2:] == [PointsEarned, EarningRefused]


def test_a_full_account_still_gives_back_spends_and_expires() -> None:
    world = full(1_000)
    world.buy("2020-02-01", 1_000_00, ref="A")
    world.redeem("2020-02-02", 10**12)
    world.tell("2020-02-03", EarningWithdrawn, fact_id=world.purchases["A"], reason="wrong")
    world.sweep("2030-02-01")
    [gone] = [one for one in world.decisions() if isinstance(one, PointsExpired)]
    assert gone.points == POINTS_MAX - 10**12 - 1_000
    assert world.look("2030-02-02").active == 0
    assert certify(world.history()).holds


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("buy"), st.integers(1, 400)),
        st.tuples(st.just("redeem"), st.integers(1, 300)),
        st.tuples(st.sampled_from(["back", "return"]), st.integers(0, 9)),
        st.tuples(st.just("goodwill"), st.integers(1, 300)),
        st.tuples(st.just("debt"), st.integers(1, 900)),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_however_points_come_and_go_no_sum_leaves_the_bound(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tallybook.domain.account.POINTS_MAX", 1_000)
        world = World(rule_set(**RULES))
        world.enrol("2020-01-01")
        bought: list[str] = []
        spent: list[UUID] = []
        codes: set[str] = set()
        for number, (what, value) in enumerate(steps):
            at = us("2020-02-01") + number * 60_000_000
            try:
                if what == "buy":
                    world.buy(at, value * 100, ref=str(number))
                    bought.append(str(number))
                elif what == "redeem":
                    spent.append(world.redeem(at, value).request.event_id)
                elif what == "back" and spent:
                    points = 1 + value * 30
                    redemption = spent[value % len(spent)]
                    world.tell(at, RedemptionReturned, redemption_id=redemption, points=points, reason="broken")
                elif what == "return" and bought:
                    fact = world.purchases[bought[value % len(bought)]]
                    world.tell(at, EarningWithdrawn, fact_id=fact, reason="wrong")
                elif what == "goodwill":
                    world.goodwill(at, value)
                else:
                    world.tell(at, CorrectionRecorded, points=value, reason="wrong", into_debt=True)
            except Refused as error:
                codes.add(error.code)
        assert codes <= {"account_full"}
        account = world.look("2021-01-01")
        assert sum(account.bucket(one) for one in SOURCES if one != "debt") <= 1_000
        # What returns made a debt is on top: at most all that was earned.
        assert all(account.bucket(one) <= 2_000 for one in BUCKETS)
        assert certify(world.history()).holds
