"""The arithmetic of points: functions of integers and sequences of integers, and nothing else.

No float, no object, no exception for what a rule set can ask: so the columnar executor compiles this same source. All
amounts are whole and not negative unless said; every quotient has a named rounding.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence

INTEGER_MAX = 2**63 - 1

FLOOR, CEIL, HALF_UP, HALF_EVEN = 0, 1, 2, 3
"""Roundings, as codes."""

STRAIGHT, ONE_STEP, KEEP = 0, 1, 2
"""Where a tier goes that is not held any more: to what is earned, one level down, nowhere."""


def quotient(numerator: int, denominator: int, rounding: int) -> int:
    """A quotient of a non-negative integer and a positive one, as an integer."""
    whole = numerator // denominator
    rest = numerator - whole * denominator
    if rest == 0 or rounding == FLOOR:
        return whole
    if rounding == CEIL:
        return whole + 1
    twice = 2 * rest
    if twice == denominator:
        return whole + 1 if rounding == HALF_UP else whole + whole % 2
    return whole + 1 if twice > denominator else whole


def share(amount: int, part: int, whole: int) -> int:
    """What `part` of `whole` is worth of an amount, rounded down: `amount * part // whole`, in 64 bits whatever it is.

    `part` is at most `whole`, which is above 0 and below 2**62. Whoever takes a whole in parts, each time what this
    gives for all of them less what was taken, has taken exactly `amount` in the end, and never more on the way.
    """
    if part == 0 or amount <= INTEGER_MAX // part:
        return amount * part // whole
    times = amount // whole
    over = amount - times * whole
    # over * part // whole, bit by bit of `part` from the highest on: what is over stays below `whole`.
    found = 0
    rest = 0
    for bit in range(61, -1, -1):
        found *= 2
        rest *= 2
        if rest >= whole:
            rest -= whole
            found += 1
        if (part >> bit) & 1:
            rest += over
            if rest >= whole:
                rest -= whole
                found += 1
    return times * part + found


def given_back(amount: int, basis: int, returned: int, upto: int) -> int:
    """What of an amount goes back when of its basis `upto` came back, and `returned` before: what is left is rounded
    down. `basis` is above 0."""
    return share(amount, basis - returned, basis) - share(amount, basis - upto, basis)


def room(cap: int, used: int) -> int:
    """What a cap still lets through."""
    return cap - used if used < cap else 0


def allocate(amount: int, weights: Sequence[int], into: MutableSequence[int]) -> None:
    """Add `amount` to `into`, in proportion to weights, in whole units that add up to it. Their sum is above 0."""
    whole = 0
    for weight in weights:
        whole += weight
    before = 0
    given = 0
    for index in range(len(weights)):
        before += weights[index]
        upto = share(amount, before, whole)
        into[index] += upto - given
        given = upto


def level_reached(points: int, thresholds: Sequence[int], keeps: Sequence[int], held: int) -> int:
    """The highest level that so many points hold, for somebody at level `held` (-1: at none).

    A level that is held, or lies below it, is kept with `keeps` points; one above it is reached with `thresholds`.
    """
    level = 0
    for index in range(1, len(thresholds)):
        if points >= (keeps[index] if index <= held else thresholds[index]):
            level = index
    return level


def level_after(held: int, earned: int, downgrade: int) -> int:
    """The level after an evaluation: up at once; down as the policy says."""
    if earned >= held:
        return earned
    if downgrade == STRAIGHT:
        return earned
    if downgrade == ONE_STEP:
        return held - 1
    return held


def recognised(allocated: int, redeemed: int, expected: int) -> int:
    """Revenue recognised so far, by IFRS 15: in proportion to the points redeemed of those expected to be.

    Rounded half up. What is redeemed beyond the estimate recognises no more than was allocated. `expected` is above 0.
    """
    if redeemed >= expected:
        return allocated
    return quotient(allocated * redeemed, expected, HALF_UP)
