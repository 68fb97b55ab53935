"""What most purchases earn, by the shortest way: one lot, by one rule, with nothing else to be seen to.

It decides what `earning` does, and leaves alone what that has to see to: lines that may come back, lots of more than
one age, limits, decisions that are written.
"""

from __future__ import annotations

from tallybook.domain.arithmetic import quotient, room

from .due import settle
from .earning import bought, factor_of, holds, in_whole, multiplier
from .layout import (
    ACTIVE,
    CAP_MOST,
    CAP_PERIOD,
    CAP_SLOT,
    D_EARNED,
    DEBT,
    E_CAP0,
    E_CAPS,
    E_CODE,
    E_EXPIRY,
    E_GIVES,
    E_MULTIPLIED,
    E_PER,
    E_POINTS,
    EARNED,
    L_LINE0,
    L_LINE1,
    L_PIECES,
    L_RULE,
    ON_PURCHASE,
    POINTS,
    QUALIFYING,
    RS_OF_BASE,
    RS_PLAIN,
    RS_ROUNDING,
    RS_RULES,
    RS_X,
    T_EMPTY,
    T_POINTS_EARNED,
    V_AT,
    V_BUCKETS,
    V_ENROLLED,
    V_HORIZON,
    V_LINES,
    V_MEMBER,
    V_OVER,
    V_POS,
    V_ROW,
    V_SEEN,
    V_SWEPT,
    V_TALLY,
    V_TIER,
    Words,
)
from .ledger import move, new_lot
from .limits import barred, count, counted, fits
from .rules import expires_us, in_force, period_of
from .tiers import evaluate_tier, qualify
from .writing import begin, used


def buy(s: Words, x: Words, row: int, position: int, at_us: int, seen: int) -> bool:
    """A purchase whose lines nobody names, of which no decision is written. Whether that was all about it: else what is
    due by then was settled, and nothing more."""
    until_us = at_us if s[V_SWEPT] == 0 else max(at_us, s[V_HORIZON])
    settle(s, until_us)
    if s[V_MEMBER] == 0 or s[V_TALLY] != 0:
        return False
    if at_us < s[V_ENROLLED]:
        return True
    rules = in_force(s, at_us)
    rule = s[rules + RS_PLAIN] if rules >= 0 else 0
    if rule == 0 or barred(s, at_us) != T_EMPTY:
        return False
    s[V_SEEN] = seen
    bit = s[V_TIER] + 1
    if x[s[rules + RS_X] + seen] == 0 or not holds(s, x, rule, bit):
        return True
    measured = bought(s, x, rule, bit)
    if measured == 0:
        return True
    numerator, denominator = s[rule + E_POINTS] * in_whole(s, rule, measured), s[rule + E_PER]
    rounding = s[rules + RS_ROUNDING]
    uncapped = 0
    if s[rule + E_MULTIPLIED] != 0:
        first = rules + RS_RULES + 2 * ON_PURCHASE
        factor = factor_of(s, rules, multiplier(s, x, s[first], s[first + 1], bit))
        uncapped = quotient(numerator * s[factor], denominator * s[factor + 1], rounding)
    else:
        uncapped = quotient(numerator, denominator, rounding)
    base = quotient(numerator, denominator, rounding) if s[rules + RS_OF_BASE] != 0 else uncapped
    if uncapped == 0:
        return True
    left, number = uncapped, 0
    cap = s[rule + E_CAP0]
    capped = s[rule + E_CAPS] != 0
    if capped:
        had = 0
        if s[cap + CAP_PERIOD] >= 0:
            number = period_of(s, rules, at_us, s[cap + CAP_PERIOD])
            had = counted(s, s[cap + CAP_SLOT], number)
        left = min(left, room(s[cap + CAP_MOST], had))
    gives = s[rule + E_GIVES]
    points = 0 if gives == QUALIFYING else left
    counts = 0 if gives == POINTS else min(base, left)
    if points == 0 and counts == 0 and left == uncapped:
        return True
    if not fits(s, points, counts):
        return False
    ends = expires_us(s, rules, s[rule + E_EXPIRY], at_us)
    s[V_ROW] = row
    s[V_POS] = position
    s[V_AT] = at_us
    active = s[V_BUCKETS + ACTIVE]
    paid = min(s[V_BUCKETS + DEBT], points)
    begin(s, D_EARNED, at_us, rules)
    lot = new_lot(s, 0, at_us, at_us, ends)
    if s[V_OVER] != 0:
        return True
    s[lot + L_LINE0] = s[V_LINES]
    s[lot + L_LINE1] = s[V_LINES]
    s[lot + L_PIECES] = 1
    if points != 0 or counts != 0:
        s[lot + L_RULE] = s[rule + E_CODE]
        used(s, at_us)
    move(s, lot, EARNED, ACTIVE, points)
    if paid > 0:
        move(s, lot, ACTIVE, DEBT, paid)
    qualify(s, at_us, counts)
    if capped and s[cap + CAP_PERIOD] >= 0 and max(points, counts) != 0:
        count(s, s[cap + CAP_SLOT], number, max(points, counts))
    evaluate_tier(s, position, at_us, T_POINTS_EARNED, 1 if s[V_BUCKETS + ACTIVE] != active else 0)
    return True
