"""Explanations: the arithmetic that is shown gives the points that were recorded, for random lives and every programme.

The arithmetic is read here by an evaluator of its own, from the text that people see.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from fractions import Fraction
from math import ceil, floor
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.domain.conftest import World, rule_set, us
from tests.domain.test_account_machine import AccountMachine

from tallybook.domain.account import OVERRIDDEN
from tallybook.domain.events import REGISTRY, Decision
from tallybook.domain.points import (
    AccountResumed,
    AccountSuspended,
    CorrectionRecorded,
    CouponUsed,
    EarningConfirmed,
    EarningRefused,
    ExtensionGranted,
    HoldReleaseRequested,
    HoldRequested,
    LotPart,
    PointsEarned,
    PointsExpired,
    PointsRedeemed,
    RedemptionRequested,
    RedemptionReturned,
    TierChanged,
    TierOverridden,
)
from tallybook.projections.read_models import Recorded
from tallybook.projections.reasons import Explained, explained, figures
from tallybook.projections.reckoning import Sum

# ── reading what is shown ─────────────────────────────────────────────────────────────────────────────────────────


def half(value: Fraction, *, up: bool) -> int:
    below = floor(value)
    rest = value - below
    if rest == Fraction(1, 2):
        return below + 1 if up or below % 2 else below
    return below + (rest > Fraction(1, 2))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "floor": floor,
    "ceil": ceil,
    "half_up": lambda value: half(value, up=True),
    "half_even": lambda value: half(value, up=False),
}


def value_of(text: str) -> Fraction:
    """What a line of arithmetic comes to."""

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number)):
                return Fraction(number)
            case ast.UnaryOp(op=ast.USub(), operand=of):
                return -value(of)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return value(left) - value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return value(left) * value(right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return value(left) / value(right)
            case ast.Call(func=ast.Name(id=name), args=args):
                return Fraction(FUNCTIONS[name](*map(value, args)))
        raise AssertionError(ast.dump(node))

    return value(ast.parse(text.replace("×", "*").replace("−", "-"), mode="eval").body)


def check(found: Iterable[Explained]) -> list[Explained]:
    """Every line gives what it says, and all lines of a decision give what was recorded."""
    told = list(found)
    for one in told:
        event, reason = one.recorded.event, one.reason
        for line in reason.sums:
            assert value_of(line.how) == line.gives, (line, event)
        shown = {line.what: line.gives for line in reason.sums if ": " not in line.what}
        assert shown == figures(event), event
        assert reason.agrees
        assert reason.steps
        for lot in reason.inputs.get("lots", ()):
            field, _, number = lot["place"].partition(".")
            part = getattr(event, field)[int(number) - 1]
            assert str(getattr(part, "lot_id", part)) == lot["lot_id"]
        if isinstance(event, TierChanged) and event.reason not in (OVERRIDDEN, "enrolled"):
            assert led_to(reason.inputs, event) == event.tier, (reason, event)
    return told


def led_to(inputs: dict[str, Any], event: TierChanged) -> str:
    """The tier that what was told leads to."""
    levels = inputs["levels"]
    names = [level["name"] for level in levels]
    reached = max(place for place, level in enumerate(levels) if level["reached"])
    assert names[reached] == inputs["reached"]
    held = names.index(inputs["held"]) if inputs["held"] in names else -1
    assert (inputs["lent"] or inputs["held"]) == event.previous
    for place, level in enumerate(levels[1:], 1):
        needed = level["keep"] if place <= held else level["threshold"]
        assert needed == level["needed"]
        assert level["reached"] == (inputs["window"]["qualifying"] >= needed)
    straight = event.reason in ("earning_reversed", "override_ended")
    if reached >= held or straight or inputs["downgrade"] == "straight":
        return str(names[reached])
    return str(names[held - 1] if inputs["downgrade"] == "one_step" else names[held])


def of_world(world: World, name: str = "ada") -> list[Explained]:
    """Every decision about a customer, explained and checked."""
    subject = world.customers[name].id
    history = [one for one in world.history() if one.event.subject_id in (None, subject)]
    return check(explained(history))


# ── random lives ──────────────────────────────────────────────────────────────────────────────────────────────────


class ExplainedLives(AccountMachine):
    """Lives of the account machine, each explained at its end."""

    def agrees_with_the_plain_model(self) -> None:
        """That is another test's."""

    def the_books_balance(self) -> None:
        """That is another test's."""

    def teardown(self) -> None:
        if not hasattr(self, "plain"):
            return
        told = of_world(self.world)
        assert len(told) == len(self.world.decisions())
        SEEN.update(type(one.recorded.event).__name__ for one in told)


SEEN: set[str] = set()


def test_what_is_explained_gives_the_recorded_points_for_random_rules_and_lives() -> None:
    SEEN.clear()
    run_state_machine_as_test(
        ExplainedLives,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert len(SEEN) > 12, SEEN


# ── one by one ────────────────────────────────────────────────────────────────────────────────────────────────────


def steps(told: Explained) -> str:
    return " ".join(told.reason.steps)


def last(world: World, kind: type[Decision]) -> Explained:
    """The last decision of a kind."""
    return [one for one in of_world(world) if isinstance(one.recorded.event, kind)][-1]


def line_of(told: Explained, what: str) -> Sum:
    return next(line for line in told.reason.sums if line.what == what)


def test_every_kind_of_decision_is_explained() -> None:
    world = World(
        rule_set(
            rewards=[{"id": "mug", "price": 20, "coupon_days": 30}],
            transfers={"allowed": True},
            limits=[{"on": "redeem", "period": "day", "count": 2}],
            pending={"confirmed": True},
        )
    )
    for name in ("ada", "bob"):
        world.enrol("2020-01-01", name)
    purchase = world.buy("2020-01-02", 10_000)
    world.tell("2020-01-03", EarningConfirmed, fact_id=purchase)
    paid, _ = world.tell("2020-01-04", RedemptionRequested, points=20, reward="mug")
    world.tell("2020-01-05", RedemptionRequested, points=1, reward="car")
    world.tell("2020-01-05", CouponUsed, coupon_id=UUID(int=1))
    world.tell("2020-01-06", RedemptionReturned, redemption_id=paid.event_id, points=20, reason="cancelled")
    hold, _ = world.tell("2020-01-07", HoldRequested, points=30, until_us=us("2020-02-01"), purpose="order")
    world.tell("2020-01-08", HoldReleaseRequested, hold_id=hold.event_id)
    world.tell("2020-01-08", HoldRequested, points=900, until_us=us("2020-02-01"), purpose="order")
    world.transfer("2020-01-09", 10, "bob")
    world.transfer("2020-01-09", 1_000, "bob")
    world.goodwill("2020-01-10", 5)
    world.tell("2020-01-11", CorrectionRecorded, points=5, into_debt=False, reason="mistake")
    world.tell("2020-01-12", ExtensionGranted, lot_id=None, until_us=us("2022-01-01"), reason="sorry")
    world.give_back("2020-01-13", purchase)
    world.tell("2020-01-14", AccountSuspended, reason="fraud")
    world.buy("2020-01-15", 10_000)
    world.tell("2020-01-16", AccountResumed, reason="cleared")
    world.goodwill("2020-01-17", 500)
    world.sweep("2022-06-01")
    found = {type(one.recorded.event) for one in of_world(world)}
    assert found == {schema.event_class for schema in REGISTRY.values() if issubclass(schema.event_class, Decision)}
    of_world(world, "bob")


def test_what_became_of_each_rule_is_told() -> None:
    world = World(
        rule_set(
            earning=[
                {"id": "base", "kind": "per_amount", "points": 2, "per_minor": 100, "group": "one"},
                {"id": "small", "kind": "fixed", "points": 3, "group": "one"},
                {"id": "later", "kind": "fixed", "points": 5, "starts": "2030-01-01"},
                {"id": "large", "kind": "fixed", "points": 5, "when": "order.net_minor > 100000"},
                {"id": "campaign", "kind": "fixed", "points": 5, "campaign": "spring", "control_percent": 99},
                {"id": "pens", "kind": "per_amount", "points": 1, "per_quantity": 1, "lines": 'line.sku == "pen"'},
                {"id": "double", "kind": "multiplier", "factor": 2},
                {"id": "half-more", "kind": "multiplier", "factor": "3/2"},
            ],
            groups={"one": "best"},
            caps={"event": 50},
        )
    )
    world.enrol("2020-01-01")
    world.buy("2020-01-02", 3_050)
    told = last(world, PointsEarned)
    outcomes = {one["id"]: one["outcome"] for one in told.reason.inputs["rules"]}
    assert outcomes == {
        "base": "counts", "small": "group", "later": "out_of_time", "large": "condition", "campaign": "control_group",
        "pens": "nothing_counts", "double": "multiplies", "half-more": "greater_multiplier",
    }  # fmt: skip
    assert line_of(told, "base: uncapped") == Sum("base: uncapped", "floor(2 × 3050 / 100 × 2)", 122)
    assert line_of(told, "base: after caps").how == "min(122, max(0, 50 − 0))"
    for text in (
        "Rule small is in group one, of which only the best counts: it would have given 6.",
        "Rule large asks for something else: order.net_minor > 100000.",
        "Rule later was not in force on that day.",
        "in whose control group the account is",
        "times 2 by rule double, rounded (floor): 122; caps leave 50.",
    ):
        assert text in steps(told), text


def test_the_multiplier_of_the_tier_stands_in_the_arithmetic_apart_from_a_rules() -> None:
    levels = [
        {"name": "basic", "threshold": 0},
        {"name": "silver", "threshold": 10, "multiplier": "5/4"},
    ]
    earning = [
        {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100},
        {"id": "double", "kind": "multiplier", "factor": "3/2"},
    ]
    world = World(rule_set(earning=earning, tiers={"window_months": 12, "levels": levels}, rounding="half_up"))
    world.enrol("2020-01-01")
    world.buy("2020-01-02", 1_000)
    world.buy("2020-01-03", 1_000)
    told = last(world, PointsEarned)
    assert line_of(told, "base: uncapped").how == "half_up(1 × 1000 / 100 × 3 / 2 × 5 / 4)"
    assert "times 3/2 by rule double, times 5/4 by the tier silver, rounded (half_up): 19." in steps(told)


def test_a_limit_that_refuses_an_earning_is_told_with_what_was_used_of_it() -> None:
    world = World(rule_set(limits=[{"on": "earn", "period": "day", "points": 100}]))
    world.enrol("2020-01-01")
    world.buy("2020-01-02", 9_000)
    world.buy("2020-01-02 10:00", 2_000)
    told = last(world, EarningRefused)
    assert told.reason.inputs["limits"] == [
        {"on": "earn", "period": "day", "in": "points", "limit": 100, "used": 90, "asked": 20}
    ]
    assert "In a day, earn is limited to 100 points: 90 were used, 20 more asked for." in steps(told)


def test_a_tier_that_falls_is_told_with_its_window_its_hold_and_its_grace() -> None:
    levels = [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 100, "keep": 60}]
    tiers = {"window_months": 6, "levels": levels, "grace_days": 30, "hold_months": 2}
    world = World(rule_set(tiers=tiers))
    world.enrol("2020-01-01")
    world.buy("2020-01-10", 10_000)
    world.buy("2020-03-10", 4_000)
    world.sweep("2021-01-01")
    told = last(world, TierChanged)
    event = told.recorded.event
    # The 100 of January leave the window on 10 July, and 40 don't keep silver; 30 days of grace later it falls.
    assert (event.effective_us, told.reason.inputs["window"]["qualifying"]) == (us("2020-08-09"), 40)
    [counted] = told.reason.inputs["window"]["counted"]
    assert (counted["points"], counted["until"]) == (40, "2020-09-10T00:00:00Z")
    assert told.reason.inputs["window"]["left"] == {"entries": 1, "points": 100}
    assert told.reason.inputs["levels"][1] == {
        "name": "silver", "threshold": 100, "keep": 60, "needed": 60, "reached": False
    }  # fmt: skip
    assert told.reason.inputs["hold_until"] == "2020-03-10T00:00:00Z"
    assert told.reason.inputs["grace"] == {"days": 30, "since": "2020-07-10T00:00:00Z", "qualifying": 40}
    assert "40 points counted already, too few for silver: the grace is over." in steps(told)


@pytest.mark.parametrize(
    ("changes", "since", "at", "told"),
    [
        ({}, "2000-01-01", "2020-04-10", "standard@1, points go when it was not for 3 months, which ended at "
         "2020-04-10T00:00:00Z."),
        ({"inactivity_months": 1}, "2020-02-20", "2020-02-20", "standard@2, points go when it was not for 1 month, "
         "which ended at 2020-02-10T00:00:00Z; that rule set is in force from 2020-02-20T00:00:00Z on."),
        ({"inactivity_months": 2}, "2020-01-20", "2020-03-10", "standard@2, points go when it was not for 2 months, "
         "which ended at 2020-03-10T00:00:00Z."),
    ],
)  # fmt: skip
def test_inactivity_is_told_with_its_months_its_beginning_and_the_rule_set(
    changes: dict[str, Any], since: str, at: str, told: str
) -> None:
    never = {"expiry": {"never": True}}
    world = World(rule_set(**never, inactivity_months=3))
    if changes:
        world.adopt(rule_set(version="2", **never, **changes), since)
    world.enrol("2020-01-01")
    world.buy("2020-01-10", 10_000)
    world.sweep("2020-06-01")
    gone = last(world, PointsExpired)
    assert gone.recorded.event.effective_us == us(at)
    assert gone.reason.agrees
    assert f"The account was last in use at 2020-01-10T00:00:00Z; by {told}" in steps(gone)


def test_inactivity_that_is_found_at_the_accounts_clock_is_told_with_what_it_is_by() -> None:
    never = {"expiry": {"never": True}}
    world = World(rule_set(**never, inactivity_months=3))
    world.enrol("2020-01-01")
    world.buy("2020-01-10", 10_000)
    world.goodwill("2020-01-09", 5)
    world.sweep("2020-06-01")
    [gone] = [one for one in world.history() if isinstance(one.event, PointsExpired)]
    # Decided later than the months were over, and by then another rule set is in force, which knows of no inactivity.
    later = gone.event.model_copy(update={"effective_us": us("2020-05-01"), "rules": "standard@2"})
    world.adopt(rule_set(version="2", **never), "2020-05-01")
    adopted = world.history()[-1]
    history = [*world.history()[: gone.position - 1], adopted, Recorded(gone.position, later)]
    told = list(explained(history))[-1]
    assert told.reason.agrees
    assert (
        "by standard@1, points go when it was not for 3 months, which ended at 2020-04-10T00:00:00Z; the account "
        "had been decided up to 2020-05-01T00:00:00Z by then."
    ) in steps(told)


def test_a_tier_by_years_is_told_with_both_sums() -> None:
    levels = [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 100}]
    world = World(rule_set(tiers={"window": "calendar_year", "levels": levels}))
    world.enrol("2020-01-01")
    world.buy("2020-01-10", 10_000)
    world.buy("2021-03-10", 4_000)
    world.sweep("2022-02-01")
    told = last(world, TierChanged)
    assert told.recorded.event.effective_us == us("2022-01-01")
    assert line_of(told, "qualifying").how == "max(0, 0, 40)"
    assert line_of(told, "year: the one before").gives == 40
    assert "The greater of two years' sums counts" in steps(told)


def test_a_tier_that_people_gave_and_its_end_are_told() -> None:
    world = World(rule_set())
    world.enrol("2020-01-01")
    world.tell("2020-01-02", TierOverridden, tier="gold", until_us=us("2020-03-01"), reason="vip")
    told = last(world, TierChanged)
    assert "Whatever is earned, the account holds gold until 2020-03-01T00:00:00Z." in steps(told)
    world.sweep("2020-04-01")
    over = last(world, TierChanged)
    assert over.recorded.event.effective_us == us("2020-03-01")
    assert "From what people decided it goes straight to what is earned." in steps(over)


def test_a_late_fact_decides_by_the_rules_of_its_own_time_and_the_tier_by_those_of_the_accounts_clock() -> None:
    world = World(rule_set())
    world.adopt(rule_set(version="2", earning=[{"id": "base", "kind": "fixed", "points": 1}]), "2020-06-01")
    world.enrol("2020-01-01")
    world.goodwill("2020-07-01", 5)
    world.buy("2020-02-01", 10_000)
    earned, tier = last(world, PointsEarned), last(world, TierChanged)
    assert [one.rules.label if one.rules else "" for one in (earned, tier)] == ["standard@1", "standard@2"]
    for one in (earned, tier):
        assert one.late is not None
        assert one.late.fact.event.stored_name == "customer.purchase_recorded"
        assert "this is a correction" in one.reason.steps[-1]
    assert tier.recorded.event.effective_us == us("2020-07-01")


@pytest.mark.parametrize(
    "changes",
    [{"points": 101}, {"qualifying": 99}, {"capped": 1}, {"debt_paid": 1}, {"rules": "other@1"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_decision_that_says_something_else_than_its_arithmetic_does_not_agree(changes: dict[str, Any]) -> None:
    world = World(rule_set())
    world.enrol("2020-01-01")
    world.buy("2020-01-02", 10_000)
    history = [
        Recorded(position, event.model_copy(update=changes) if isinstance(event, PointsEarned) else event)
        for position, event in world.history()
    ]
    [told] = explained(history, lambda one: isinstance(one.event, PointsEarned))
    assert not told.reason.agrees
    assert "does not give what was recorded" in steps(told) or "was in force" in steps(told)


def test_a_redemption_that_names_another_lot_does_not_agree() -> None:
    world = World(rule_set())
    world.enrol("2020-01-01")
    world.buy("2020-01-02", 10_000)
    world.buy("2020-01-02", 10_000)
    outcome = world.redeem("2020-01-03", 30).outcome
    [*history, (position, event)] = world.history()
    assert event is outcome
    assert isinstance(event, PointsRedeemed)
    other = [lot.lot_id for lot in world.accounts["ada"].lots if lot.lot_id != event.lots[0].lot_id]
    odd = event.model_copy(update={"lots": (LotPart(lot_id=other[0], points=30),)})
    [told] = explained([*history, Recorded(position, odd)], lambda one: one.position == position)
    assert not told.reason.agrees


def test_a_decision_that_names_what_the_account_does_not_hold_does_not_agree() -> None:
    world = World(rule_set())
    world.enrol("2020-01-01")
    world.goodwill("2020-01-03", 50)
    world.redeem("2020-01-04", 5)
    [*history, (position, event)] = world.history()
    odd = event.model_copy(update={"hold_id": UUID(int=3)})
    told = next(explained([*history, Recorded(position, odd)], lambda one: one.position == position))
    assert not told.reason.agrees
    assert "does not hold what the decision names" in steps(told)
