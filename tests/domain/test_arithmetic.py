"""The arithmetic of points: against fractions, and as integers that another executor can compile."""

from __future__ import annotations

import ast
import inspect
from fractions import Fraction
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tallybook.domain import arithmetic, calendar
from tallybook.domain.arithmetic import (
    CEIL,
    FLOOR,
    HALF_EVEN,
    HALF_UP,
    KEEP,
    ONE_STEP,
    STRAIGHT,
    allocate,
    level_after,
    level_reached,
    quotient,
    recognised,
    room,
    share,
)

WHOLE = st.integers(0, 10**15)
POSITIVE = st.integers(1, 10**12)


@settings(deadline=None)
@given(WHOLE, POSITIVE)
@example(5, 2)
@example(7, 2)
@example(0, 1)
def test_a_quotient_is_the_fraction_rounded_as_its_rounding_says(numerator: int, denominator: int) -> None:
    exact = Fraction(numerator, denominator)
    floor = exact.__floor__()
    assert quotient(numerator, denominator, FLOOR) == floor
    assert quotient(numerator, denominator, CEIL) == exact.__ceil__()
    assert quotient(numerator, denominator, HALF_UP) == floor + (exact - floor >= Fraction(1, 2))
    assert quotient(numerator, denominator, HALF_EVEN) == round(exact)


@settings(deadline=None)
@given(amount=WHOLE, parts=st.lists(st.integers(0, 10**6), min_size=1, max_size=8).filter(any))
def test_shares_that_are_taken_one_by_one_add_up_to_the_whole(amount: int, parts: list[int]) -> None:
    whole, taken, upto = sum(parts), 0, 0
    for part in parts:
        upto += part
        now = share(amount, upto, whole) - taken
        assert now >= 0
        taken += now
        assert taken == Fraction(amount * upto, whole).__floor__()
    assert taken == amount


@given(cap=WHOLE, used=WHOLE)
def test_room_is_what_is_left_and_never_negative(cap: int, used: int) -> None:
    assert room(cap, used) == max(0, cap - used)


@settings(deadline=None)
@given(
    amount=WHOLE,
    weights=st.lists(st.integers(0, 10**9), min_size=1, max_size=10).filter(any),
    before=st.integers(0, 100),
)
def test_what_is_allocated_adds_up_and_is_in_proportion_to_a_unit(amount: int, weights: list[int], before: int) -> None:
    into = [before] * len(weights)
    allocate(amount, weights, into)
    found = [one - before for one in into]
    assert sum(found) == amount
    for upto in range(len(found) + 1):
        assert sum(found[:upto]) == Fraction(amount * sum(weights[:upto]), sum(weights)).__floor__()
    for part, weight in zip(found, weights, strict=True):
        assert abs(part - Fraction(amount * weight, sum(weights))) < 1
        assert part == 0 or weight > 0


@settings(deadline=None)
@given(
    amount=WHOLE,
    more=WHOLE,
    weights=st.lists(st.integers(0, 10**9), min_size=1, max_size=10).filter(any),
)
def test_of_more_every_first_lines_together_get_no_less(amount: int, more: int, weights: list[int]) -> None:
    less, greater = [0] * len(weights), [0] * len(weights)
    allocate(amount, weights, less)
    allocate(amount + more, weights, greater)
    for upto in range(1, len(weights) + 1):
        assert sum(less[:upto]) <= sum(greater[:upto])


@st.composite
def ladders(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    steps = draw(st.lists(st.integers(1, 1000), max_size=5))
    thresholds = [sum(steps[:upto]) for upto in range(len(steps) + 1)]
    keeps: list[int] = []
    for reach in thresholds:
        keeps.append(draw(st.integers(keeps[-1] if keeps else 0, reach)))
    return thresholds, keeps


@settings(deadline=None)
@given(ladder=ladders(), points=st.integers(0, 6000), data=st.data())
def test_a_level_is_reached_with_its_threshold_and_kept_with_less(
    ladder: tuple[list[int], list[int]], points: int, data: st.DataObject
) -> None:
    thresholds, keeps = ladder
    held = data.draw(st.integers(-1, len(thresholds) - 1))
    found = level_reached(points, thresholds, keeps, held)
    reached = max((rank for rank, least in enumerate(thresholds) if points >= least), default=0)
    kept = max((rank for rank, least in enumerate(keeps) if rank <= held and points >= least), default=0)
    assert found == max(reached, kept)
    assert found == level_reached(points, thresholds, keeps, found)
    assert found <= level_reached(points + 1, thresholds, keeps, held)
    assert level_reached(points, thresholds, thresholds, held) == reached


@given(held=st.integers(0, 9), earned=st.integers(0, 9), policy=st.sampled_from([STRAIGHT, ONE_STEP, KEEP]))
def test_a_tier_goes_up_at_once_and_down_as_the_policy_says(held: int, earned: int, policy: int) -> None:
    found = level_after(held, earned, policy)
    if earned >= held:
        assert found == earned
    else:
        assert found == {STRAIGHT: earned, ONE_STEP: held - 1, KEEP: held}[policy]
        assert earned <= found <= held


# ── revenue ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_revenue_is_recognised_as_the_example_of_ifrs_15_has_it() -> None:
    # 9,000 allocated to 10,000 points, of which 9,700 are expected to be redeemed.
    first = recognised(9000, 4500, 9700)
    assert first == 4175
    # Another 4,000 are redeemed. With an estimate of 9,900: 8,500/9,900 in all, 3,552 more.
    assert recognised(9000, 8500, 9900) - first == 3552
    # With one of 9,200: 4,140 more.
    assert recognised(9000, 8500, 9200) - first == 4140
    assert recognised(9000, 9200, 9200) == 9000
    assert recognised(9000, 10_000, 9200) == 9000


@settings(deadline=None)
@given(allocated=WHOLE, redeemed=POSITIVE, more=POSITIVE, expected=POSITIVE)
def test_revenue_grows_with_what_is_redeemed_up_to_what_was_allocated(
    allocated: int, redeemed: int, more: int, expected: int
) -> None:
    found = recognised(allocated, redeemed, expected)
    assert 0 <= found <= recognised(allocated, redeemed + more, expected) <= allocated
    if redeemed < expected:
        assert abs(found - Fraction(allocated * redeemed, expected)) <= Fraction(1, 2)
    assert recognised(allocated, expected, expected) == allocated


# ── what another executor can compile ─────────────────────────────────────────────────────────────────────────────

CIVIL = ("civil_from_days", "days_from_civil", "days_in_month", "shift_months")
ALLOWED = (
    ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.If, ast.For,
    ast.Expr, ast.Name, ast.Load, ast.Store, ast.Constant, ast.BinOp, ast.UnaryOp, ast.USub, ast.Not, ast.BoolOp,
    ast.And, ast.Or, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.IfExp, ast.Tuple,
    ast.Subscript, ast.Call, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod,
    ast.RShift, ast.BitAnd,
)  # fmt: skip
TYPES = {"int", "None", "Sequence[int]", "MutableSequence[int]", "tuple[int, int, int]"}


def functions(module: ModuleType, names: tuple[str, ...] | None = None) -> list[ast.FunctionDef]:
    tree = ast.parse(inspect.getsource(module))
    return [one for one in tree.body if isinstance(one, ast.FunctionDef) and (names is None or one.name in names)]


@pytest.mark.parametrize(
    "function", [*functions(arithmetic), *functions(calendar, CIVIL)], ids=lambda function: function.name
)
def test_it_is_made_of_integers_sequences_of_them_and_loops_alone(function: ast.FunctionDef) -> None:
    named = {one.name for one in (*functions(arithmetic), *functions(calendar, CIVIL))}
    assert function.returns is not None
    assert {ast.unparse(one.annotation) for one in function.args.args if one.annotation} | {
        ast.unparse(function.returns)
    } <= TYPES
    body = function.body[1:]  # without the docstring
    for statement in body:
        for node in ast.walk(statement):
            assert isinstance(node, ALLOWED), ast.unparse(node)
            if isinstance(node, ast.Constant):
                assert type(node.value) in (int, bool), ast.unparse(node)
            if isinstance(node, ast.Call):
                assert isinstance(node.func, ast.Name)
                assert node.func.id in named | {"range", "len", "min", "max"}, ast.unparse(node)
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.In) for op in node.ops):
                assert all(isinstance(one, ast.Tuple) for one in node.comparators)


def test_all_functions_of_the_arithmetic_are_looked_at() -> None:
    public = {name for name, one in vars(arithmetic).items() if inspect.isfunction(one)}
    assert public == {one.name for one in functions(arithmetic)}
    assert {one.name for one in functions(calendar, CIVIL)} == set(CIVIL)


def test_the_check_sees_what_can_not_be_compiled() -> None:
    def written(of: str, gives: str) -> str:
        return f"def f(a: {of}) -> int:\n    '.'\n    return {gives}"

    for text in (written("int", "a / 2"), written("int", "sum([a])"), written("int", "1.5"), written("str", "1")):
        (function,) = ast.parse(text).body
        assert isinstance(function, ast.FunctionDef)
        with pytest.raises(AssertionError):
            test_it_is_made_of_integers_sequences_of_them_and_loops_alone(function)


class Int64(int):
    """An integer that has 64 bits, as those of other executors: what does not fit is a failure."""

    def __add__(self, other: int) -> Int64:
        return held(int(self) + int(other))

    def __sub__(self, other: int) -> Int64:
        return held(int(self) - int(other))

    def __mul__(self, other: int) -> Int64:
        return held(int(self) * int(other))

    def __floordiv__(self, other: int) -> Int64:
        return held(int(self) // int(other))

    def __rshift__(self, other: int) -> Int64:
        return held(int(self) >> int(other))

    __radd__, __rmul__ = __add__, __mul__


def held(value: int) -> Int64:
    assert -(2**63) <= value < 2**63, f"{value} has more than 64 bits"
    return Int64(value)


@settings(deadline=None)
@given(amount=st.integers(0, 10**15), part=st.integers(0, 10**13), rest=st.integers(0, 10**13))
@example(10**15, 10**13 - 1, 1)
@example(10**15 + 7, 10**13, 0)
@example(3, 0, 1)
def test_a_share_is_exact_and_no_step_of_it_needs_more_than_64_bits(amount: int, part: int, rest: int) -> None:
    whole = max(1, part + rest)
    assert share(Int64(amount), Int64(part), Int64(whole)) == amount * part // whole


@settings(deadline=None)
@given(
    amount=st.integers(0, 10**15),
    weights=st.lists(st.integers(0, 10**12), min_size=1, max_size=5).filter(any),
)
def test_an_allocation_stays_within_64_bits(amount: int, weights: list[int]) -> None:
    into: list[int] = [Int64(0)] * len(weights)
    allocate(Int64(amount), [Int64(weight) for weight in weights], into)
    assert sum(map(int, into)) == amount


def test_the_check_of_64_bits_has_teeth() -> None:
    with pytest.raises(AssertionError, match="more than 64 bits"):
        _ = Int64(10**15) * Int64(10**12) // Int64(10**12)
