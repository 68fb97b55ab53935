"""Redemptions, holds, transfers."""

from __future__ import annotations

from tallybook.projections.columnar.compiling import apart

from .due import expired, recover, recovered, release
from .earning import item_at
from .layout import (
    ACTIVE,
    CLAMP,
    D_HELD,
    D_HOLD_REFUSED,
    D_REDEEMED,
    D_REDEMPTION_REFUSED,
    D_REDEMPTION_REVERSED,
    D_TRANSFER_REFUSED,
    D_TRANSFERRED,
    DEBT,
    DEFICIT,
    EXPIRED,
    H_FACT,
    H_PART0,
    H_PART1,
    H_POINTS,
    H_UNTIL,
    HELD,
    HOLD,
    HONOURED,
    L_ACTIVE,
    L_EARNED,
    L_EXPIRES,
    LIMIT_REDEEM,
    LIMIT_TRANSFER,
    M_HOLD,
    M_SPENDING,
    MAP,
    NO_REF,
    NONE,
    P_POINTS,
    PAID,
    PART,
    R_PART0,
    R_PART1,
    REFUSED,
    REINSTATED,
    REVERSED,
    REWARD,
    REWARD_CODE,
    REWARD_COUNTED,
    REWARD_DAYS,
    REWARD_PRICE,
    REWARD_SEGMENT0,
    REWARD_SEGMENTS,
    REWARD_TIER0,
    REWARD_TIERS,
    RS_EXPIRY,
    RS_NEW_LOT,
    RS_REWARD0,
    RS_REWARDS,
    RS_TRANSFERS,
    SILENT,
    SPENDING,
    SPENT,
    T_CAPTURED,
    T_COUPON_WHOLE,
    T_EMPTY,
    T_INSUFFICIENT,
    T_LIMIT,
    T_NO_TRANSFERS,
    T_OUT_OF_STOCK,
    T_REDEEMED,
    T_SEGMENT_REQUIRED,
    T_TIER_REQUIRED,
    T_UNKNOWN_REWARD,
    TRANSFERRED_OUT,
    UNKNOWN_ID,
    V_A,
    V_ACTIVE_HEAD,
    V_ACTIVE_N,
    V_AT,
    V_B,
    V_BUCKETS,
    V_C,
    V_D,
    V_HELD_ORDER,
    V_HOLDS,
    V_ITEM1,
    V_MAP0,
    V_MODE,
    V_OUTCOME,
    V_OVER,
    V_PAID,
    V_PARTS,
    V_POS,
    V_POS_A,
    V_POS_D,
    V_ROW,
    V_ROW0,
    V_SHORT,
    V_SPENDINGS,
    V_TEMPS,
    V_TIER,
    V_UNFUNDED,
    Words,
)
from .ledger import enter, leave, move, move_parts, new_lot, pay_debt
from .limits import barred, count_uses, limited, put_uses
from .rules import expires_us
from .tiers import issue, why_not_good
from .writing import because, begin, more, noted, push, put, put_id, put_lot, put_parts, used


@apart
def put_ref(s: Words, ref: int, position: int) -> None:
    """Write the id that a fact names: that of a position, or none, or an unknown one."""
    if ref >= 0:
        put_id(s, position, 0)
    elif ref == NO_REF:
        put_id(s, NONE, 0)
    else:
        put_id(s, UNKNOWN_ID + ref, 0)


def mapped(s: Words, row: int, what: int) -> int:
    """The hold, spending or coupon that a row of the account brought; 0: none."""
    if row < s[V_ROW0]:
        return 0
    return s[s[V_MAP0] + (row - s[V_ROW0]) * MAP + what]


def take(s: Words, points: int) -> None:
    """Note what pays for so many points, in the order of use."""
    for place in range(s[V_ACTIVE_HEAD], s[V_ACTIVE_HEAD] + s[V_ACTIVE_N]):
        if points <= 0:
            return
        part = min(points, s[s[place] + L_ACTIVE])
        push(s, s[place], part)
        points -= part


def reward_of(s: Words, rules: int, code: int) -> int:
    """The reward with a code; -1: these rules have none."""
    first = s[rules + RS_REWARD0]
    for reward in range(first, first + s[rules + RS_REWARDS] * REWARD, REWARD):
        if s[reward + REWARD_CODE] == code:
            return reward
    return -1


def redeem(s: Words, rules: int) -> None:
    """Points are to be spent."""
    s[V_OUTCOME] = REFUSED
    at_us, ref = s[V_AT], s[V_D]
    reward = reward_of(s, rules, s[V_B])
    points = s[V_A] if reward < 0 else s[reward + REWARD_PRICE]
    hold = mapped(s, ref, M_HOLD) if ref >= 0 else 0
    if hold != 0 and s[hold + H_PART0] == s[hold + H_PART1]:
        hold = 0
    there = s[V_BUCKETS + ACTIVE] if ref == NO_REF else (0 if hold == 0 else s[hold + H_POINTS])
    uses = s[V_TEMPS]
    code = T_LIMIT if limited(s, LIMIT_REDEEM, points, at_us, rules) else T_EMPTY
    uses_end = s[V_TEMPS]
    bar = barred(s, at_us)
    if bar != T_EMPTY:
        code = bar
    elif reward < 0 and s[rules + RS_REWARDS] > 0:
        code = T_UNKNOWN_REWARD
    elif reward >= 0 and not for_tier(s, reward):
        code = T_TIER_REQUIRED
    elif reward >= 0 and not for_segment(s, reward):
        code = T_SEGMENT_REQUIRED
    elif reward >= 0 and s[reward + REWARD_COUNTED] != 0 and s[V_C] != 0:
        code = T_OUT_OF_STOCK
    elif points > there:
        code = T_INSUFFICIENT
    debt = 0
    outcome = PAID
    honoured = s[V_UNFUNDED] == DEFICIT or (s[V_UNFUNDED] == CLAMP and there > 0)
    if code == T_INSUFFICIENT and s[V_PAID] == PAID and honoured:
        code = T_EMPTY
        outcome = HONOURED
        s[V_SHORT] += points - there
        if s[V_UNFUNDED] == DEFICIT:
            debt = points - there
        else:
            points = there
    if code != T_EMPTY:
        begin(s, D_REDEMPTION_REFUSED, at_us, rules)
        because(s, s[V_POS], 0)
        if s[V_MODE] != SILENT:
            put(s, points)
            put(s, s[V_B])
            put(s, code)
            put(s, there)
        return
    parts = s[V_TEMPS]
    if hold == 0:
        if ref == NO_REF:
            take(s, points)
    else:
        left = points
        for place in range(s[hold + H_PART0], s[hold + H_PART1], PART):
            part = min(left, s[place + P_POINTS])
            if part > 0:
                push(s, s[place], part)
            left -= part
    count_of = noted(s, parts)
    spending = more(s, V_SPENDINGS, SPENDING)
    kept = more(s, V_PARTS, count_of * PART)
    if s[V_OVER] != 0:
        return
    s[V_OUTCOME] = outcome
    begin(s, D_REDEEMED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put(s, points)
        put(s, s[V_B])
    put_parts(s, parts, count_of)
    if s[V_MODE] != SILENT:
        put_ref(s, ref if hold != 0 else NO_REF, s[V_POS_D])
    put_uses(s, uses, uses_end)
    if debt != 0 and s[V_MODE] != SILENT:
        put(s, debt)
    for word in range(count_of * PART):
        s[kept + word] = s[parts + word]
    s[spending + R_PART0] = kept
    s[spending + R_PART1] = kept + count_of * PART
    s[s[V_MAP0] + (s[V_ROW] - s[V_ROW0]) * MAP + M_SPENDING] = spending
    if hold != 0:
        out_of_hold(s, hold, parts, count_of)
    used(s, at_us)
    move_parts(s, parts, count_of, ACTIVE if ref == NO_REF else HELD, SPENT)
    move(s, 0, DEBT, SPENT, debt)
    count_uses(s, uses, uses_end)
    if hold != 0 and s[hold + H_PART0] != s[hold + H_PART1]:
        release(s, at_us, rules, s[V_POS], hold, T_CAPTURED)
    if reward >= 0 and s[reward + REWARD_DAYS] >= 0:
        issue(s, at_us, s[V_POS], rules, s[V_POS], 0, reward, T_REDEEMED)


def for_tier(s: Words, reward: int) -> bool:
    """Whether a reward is for the account's tier."""
    first, count_of = s[reward + REWARD_TIER0], s[reward + REWARD_TIERS]
    for place in range(first, first + count_of):
        if s[place] == s[V_TIER]:
            return True
    return count_of == 0


def for_segment(s: Words, reward: int) -> bool:
    """Whether a reward is for one of the segments that the fact names."""
    first, count_of = s[reward + REWARD_SEGMENT0], s[reward + REWARD_SEGMENTS]
    for place in range(first, first + count_of):
        for item in range(s[V_ITEM1]):
            if s[item_at(s, item)] == s[place]:
                return True
    return count_of == 0


def out_of_hold(s: Words, hold: int, parts: int, count_of: int) -> None:
    """Points of a hold are gone: each of the first of its parts, as they stand there."""
    leave(s, V_HELD_ORDER, hold)
    left = place = s[hold + H_PART0]
    points = 0
    while place < s[hold + H_PART1]:
        gone = 0
        for part in range(parts, parts + count_of * PART, PART):
            if s[part] == s[place]:
                gone += s[part + P_POINTS]
        if s[place + P_POINTS] > gone:
            lot, rest = s[place], s[place + P_POINTS] - gone
            s[left] = lot
            s[left + P_POINTS] = rest
            points += rest
            left += PART
        place += PART
    s[hold + H_PART1] = left
    s[hold + H_POINTS] = points
    if points > 0:
        enter(s, V_HELD_ORDER, hold)


def why_not_returned(s: Words, spending: int, coupon: int, points: int, at_us: int) -> int:
    """Why so many points of a redemption can't be given back; T_EMPTY: they can."""
    if spending == 0:
        return 1
    if coupon == 0:
        return T_EMPTY
    code = why_not_good(s, coupon, at_us)
    if code != T_EMPTY:
        return code
    return T_COUPON_WHOLE if points < spent_points(s, spending) else T_EMPTY


def spent_points(s: Words, spending: int) -> int:
    """How many points of a redemption can be given back."""
    points = 0
    for place in range(s[spending + R_PART0], s[spending + R_PART1], PART):
        points += s[place + P_POINTS]
    return points


def give_back(s: Words, rules: int, spending: int, points: int) -> int:
    """Points of a redemption come back, those that were used last first: to what a return could not take of their
    lots, to a debt (first those that would lapse), and then to the customer; 1 if some did."""
    if spending == 0:
        return 0
    at_us = s[V_AT]
    points = min(points, spent_points(s, spending))
    if points == 0:
        return 0
    coming = s[V_TEMPS]
    left = points
    place = s[spending + R_PART1] - PART
    while place >= s[spending + R_PART0]:
        part = min(left, s[place + P_POINTS])
        if part > 0:
            push(s, s[place], part)
        left -= part
        place -= PART
    comings = noted(s, coming)
    back = s[V_TEMPS]
    free = recover(s, coming, comings)
    backs = (free - back) // PART
    frees = noted(s, free)
    made = 0
    restored = lapsed = s[V_TEMPS]
    restoreds = lapseds = 0
    expires = 0
    if s[rules + RS_NEW_LOT] != 0:
        for place in range(free, free + frees * PART, PART):
            made += s[place + P_POINTS]
        expires = expires_us(s, rules, s[rules + RS_EXPIRY], at_us)
    else:
        debt = s[V_BUCKETS + DEBT]
        for place in range(free, free + frees * PART, PART):
            if s[s[place] + L_EXPIRES] <= at_us:
                part = min(debt, s[place + P_POINTS])
                debt -= part
                if part > 0:
                    push(s, s[place], part)
        for place in range(free, free + frees * PART, PART):
            if s[s[place] + L_EXPIRES] > at_us:
                push(s, s[place], s[place + P_POINTS])
        restoreds = noted(s, restored)
        lapsed = s[V_TEMPS]
        debt = s[V_BUCKETS + DEBT]
        for place in range(free, free + frees * PART, PART):
            if s[s[place] + L_EXPIRES] <= at_us:
                part = min(debt, s[place + P_POINTS])
                debt -= part
                if s[place + P_POINTS] > part:
                    push(s, s[place], s[place + P_POINTS] - part)
        lapseds = noted(s, lapsed)
    lot = 0
    if made > 0:
        lot = new_lot(s, 0, at_us, at_us, expires)
        restored = s[V_TEMPS]
        push(s, lot, made)
        restoreds = 1
    paid = pay_debt(s, restored, restoreds)
    debts = noted(s, paid)
    if s[V_OVER] != 0:
        return 0
    begin(s, D_REDEMPTION_REVERSED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put_id(s, s[V_POS_A], 0)
        put(s, points)
    put_parts(s, back, backs)
    put_parts(s, restored, 0 if lot != 0 else restoreds)
    put_parts(s, lapsed, lapseds)
    if s[V_MODE] != SILENT:
        put(s, 1 if lot != 0 else 0)
        if lot != 0:
            put_lot(s, lot)
            put(s, made)
            put(s, at_us)
            put(s, expires)
    put_parts(s, paid, debts)
    used(s, at_us)
    move_parts(s, back, backs, REINSTATED, REVERSED)
    move_parts(s, restored, restoreds, REINSTATED, ACTIVE)
    move_parts(s, lapsed, lapseds, REINSTATED, EXPIRED)
    move_parts(s, paid, debts, ACTIVE, DEBT)
    expired(s, lapsed, lapseds, at_us)
    recovered(s, back, backs)
    left = points
    place = s[spending + R_PART1] - PART
    while place >= s[spending + R_PART0]:
        part = min(left, s[place + P_POINTS])
        left -= part
        s[place + P_POINTS] -= part
        if s[place + P_POINTS] == 0:
            s[spending + R_PART1] = place
        place -= PART
    return 1


def hold_points(s: Words, rules: int) -> None:
    """Points are to be set aside."""
    at_us, points, active = s[V_AT], s[V_A], s[V_BUCKETS + ACTIVE]
    code = barred(s, at_us)
    if code == T_EMPTY and points > active:
        code = T_INSUFFICIENT
    if code != T_EMPTY:
        refuse(s, D_HOLD_REFUSED, rules, points, code, active)
        return
    parts = s[V_TEMPS]
    take(s, points)
    count_of = noted(s, parts)
    until_us = s[V_B]
    for place in range(parts, parts + count_of * PART, PART):
        until_us = min(until_us, s[s[place] + L_EXPIRES])
    hold = more(s, V_HOLDS, HOLD)
    kept = more(s, V_PARTS, count_of * PART)
    if s[V_OVER] != 0:
        return
    begin(s, D_HELD, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put(s, points)
        put(s, until_us)
    put_parts(s, parts, count_of)
    for word in range(count_of * PART):
        s[kept + word] = s[parts + word]
    s[hold + H_FACT] = s[V_POS]
    s[hold + H_UNTIL] = until_us
    s[hold + H_PART0] = kept
    s[hold + H_PART1] = kept + count_of * PART
    s[hold + H_POINTS] = points
    s[s[V_MAP0] + (s[V_ROW] - s[V_ROW0]) * MAP + M_HOLD] = hold
    move_parts(s, parts, count_of, ACTIVE, HELD)
    enter(s, V_HELD_ORDER, hold)


def refuse(s: Words, kind: int, rules: int, points: int, code: int, active: int) -> None:
    """What was asked for is refused."""
    begin(s, kind, s[V_AT], rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put(s, points)
        put(s, code)
        put(s, active)


def send(s: Words, rules: int) -> None:
    """Points are to go to another account."""
    at_us, points, active = s[V_AT], s[V_A], s[V_BUCKETS + ACTIVE]
    uses = s[V_TEMPS]
    code = T_LIMIT if limited(s, LIMIT_TRANSFER, points, at_us, rules) else T_EMPTY
    uses_end = s[V_TEMPS]
    bar = barred(s, at_us)
    if bar != T_EMPTY:
        code = bar
    elif s[rules + RS_TRANSFERS] == 0:
        code = T_NO_TRANSFERS
    elif s[V_B] != NONE:
        code = s[V_B]
    elif points > active:
        code = T_INSUFFICIENT
    if code != T_EMPTY:
        refuse(s, D_TRANSFER_REFUSED, rules, points, code, active)
        return
    parts = s[V_TEMPS]
    take(s, points)
    count_of = noted(s, parts)
    begin(s, D_TRANSFERRED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put_id(s, s[V_C], 0)
        put(s, points)
        put(s, count_of)
        for place in range(parts, parts + count_of * PART, PART):
            put_lot(s, s[place])
            put(s, s[place + P_POINTS])
            put(s, s[s[place] + L_EARNED])
            put(s, s[s[place] + L_EXPIRES])
    put_uses(s, uses, uses_end)
    used(s, at_us)
    move_parts(s, parts, count_of, ACTIVE, TRANSFERRED_OUT)
    count_uses(s, uses, uses_end)
