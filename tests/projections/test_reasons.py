"""Explanations: the arithmetic that is shown gives the points that were recorded, for random lives and every programme.

The arithmetic is read here by an evaluator of its own, from the text that people see.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from fractions import Fraction
from math import ceil, floor
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.domain.conftest import World
from tests.domain.test_account_machine import AccountMachine

from tallybook.domain.account import OVERRIDDEN
from tallybook.domain.points import (
    TierChanged,
)
from tallybook.projections.reasons import Explained, explained, figures

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
    held = names.index(event.previous) if event.previous in names else -1
    assert inputs["held"] == event.previous
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
