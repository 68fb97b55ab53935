"""Points that come, or go, without an earning rule."""

from __future__ import annotations

from tallybook.domain.lots import NEVER

from .earning import item_at
from .layout import (
    ACTIVE,
    ADJUSTED_DOWN,
    D_CORRECTED,
    D_CREDITED,
    D_EXTENDED,
    DEBT,
    H_PART0,
    H_PART1,
    L_EARNED,
    L_EXPIRES,
    L_LOST,
    L_LOST_AT,
    L_OPEN,
    LONG_AGO,
    LOT,
    NO_REF,
    P_POINTS,
    PART,
    REINSTATED,
    RS_EXPIRY,
    RS_KEEP_AGES,
    SILENT,
    T_REINSTATED,
    T_TRANSFERRED_IN,
    TRANSFERRED_IN,
    V_A,
    V_ACTIVE_HEAD,
    V_ACTIVE_N,
    V_AT,
    V_B,
    V_C,
    V_HELD_HEAD,
    V_HELD_N,
    V_ITEM1,
    V_LOT0,
    V_LOTS,
    V_MODE,
    V_OVER,
    V_PENDING_HEAD,
    V_PENDING_N,
    V_POS,
    V_TEMPS,
    Words,
)
from .ledger import age, lot_named, move, move_parts, new_lot, pay_debt
from .rules import expires_us
from .spending import take
from .writing import because, begin, noted, push, put, put_id, put_lot, put_parts, used


def credit(s: Words, rules: int, source: int, text: int, lots: int, lost: int, losts: int) -> None:
    """Points come that no earning rule gave: lots from an index of the noted parts up to `lost`, where those begin that
    reinstated points had expired of."""
    at_us = s[V_AT]
    count_of = (lost - lots) // PART
    paid = pay_debt(s, lots, count_of)
    debts = noted(s, paid)
    if s[V_OVER] != 0:
        return
    begin(s, D_CREDITED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put(s, text)
        put(s, count_of)
        for place in range(lots, lost, PART):
            put_lot(s, s[place])
            put(s, s[place + P_POINTS])
            put(s, s[s[place] + L_EARNED])
            put(s, s[s[place] + L_EXPIRES])
    put_parts(s, paid, debts)
    put_parts(s, lost, losts)
    used(s, at_us)
    move_parts(s, lots, count_of, source, ACTIVE)
    move_parts(s, paid, debts, ACTIVE, DEBT)
    for place in range(lost, lost + losts * PART, PART):
        s[s[place] + L_LOST] -= s[place + P_POINTS]


def receive_transfer(s: Words, rules: int) -> None:
    """Points came from another account."""
    at_us = s[V_AT]
    lots = s[V_TEMPS]
    for item in range(s[V_ITEM1]):
        if s[rules + RS_KEEP_AGES] != 0:
            earned_us, ends_us = s[item_at(s, item) + 1], s[item_at(s, item) + 2]
        else:
            earned_us, ends_us = at_us, expires_us(s, rules, s[rules + RS_EXPIRY], at_us)
        push(s, new_lot(s, item, earned_us, earned_us, ends_us), s[item_at(s, item)])
    credit(s, rules, TRANSFERRED_IN, T_TRANSFERRED_IN, lots, s[V_TEMPS], 0)


def reinstate(s: Words, rules: int) -> None:
    """Points that expired are given back: of the lots that expired last first."""
    at_us, left = s[V_AT], s[V_A]
    lost = s[V_TEMPS]
    done_us = NEVER + 1
    while left > 0 and s[V_OVER] == 0:
        latest = LONG_AGO
        found = False
        for lot in range(s[V_LOT0], s[V_LOTS], LOT):
            if s[lot + L_LOST] != 0 and s[lot + L_LOST_AT] <= at_us and latest <= s[lot + L_LOST_AT] < done_us:
                latest = s[lot + L_LOST_AT]
                found = True
        if not found:
            break
        done_us = latest
        for lot in range(s[V_LOT0], s[V_LOTS], LOT):
            if s[lot + L_LOST] != 0 and s[lot + L_LOST_AT] == latest:
                part = min(left, s[lot + L_LOST])
                if part > 0:
                    push(s, lot, part)
                left -= part
    losts = noted(s, lost)
    if losts == 0 or s[V_OVER] != 0:
        return
    points = s[V_A] - left
    # The lots come first, then what they had expired of.
    lots = s[V_TEMPS]
    push(s, new_lot(s, 0, at_us, at_us, s[V_B]), points)
    after = s[V_TEMPS]
    for place in range(losts):
        push(s, s[lost + place * PART], s[lost + place * PART + P_POINTS])
    credit(s, rules, REINSTATED, T_REINSTATED, lots, after, losts)


def correct(s: Words, rules: int) -> None:
    """Points are taken away by hand."""
    at_us, points, into_debt = s[V_AT], s[V_A], s[V_B]
    parts = s[V_TEMPS]
    take(s, points)
    count_of = noted(s, parts)
    short = points
    for place in range(parts, parts + count_of * PART, PART):
        short -= s[place + P_POINTS]
    begin(s, D_CORRECTED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put(s, points)
    put_parts(s, parts, count_of)
    if s[V_MODE] != SILENT:
        put(s, short if into_debt != 0 else 0)
        put_id(s, s[V_POS], 0)
        put(s, 0 if into_debt != 0 else short)
    move_parts(s, parts, count_of, ACTIVE, ADJUSTED_DOWN)
    if into_debt != 0:
        move(s, 0, DEBT, ADJUSTED_DOWN, short)


def extend(s: Words, rules: int) -> None:
    """Lots live longer: one, or all that are there."""
    at_us, ref, until_us = s[V_AT], s[V_A], s[V_B]
    only = lot_named(s, ref, s[V_C]) if ref >= 0 else 0
    if ref != NO_REF and only == 0:
        return
    found = s[V_TEMPS]
    for place in range(s[V_ACTIVE_HEAD], s[V_ACTIVE_HEAD] + s[V_ACTIVE_N]):
        extends(s, found, s[place], only, until_us)
    for place in range(s[V_PENDING_HEAD], s[V_PENDING_HEAD] + s[V_PENDING_N]):
        extends(s, found, s[place], only, until_us)
    for place in range(s[V_HELD_HEAD], s[V_HELD_HEAD] + s[V_HELD_N]):
        for part in range(s[s[place] + H_PART0], s[s[place] + H_PART1], PART):
            extends(s, found, s[part], only, until_us)
    count_of = noted(s, found)
    if count_of == 0 or s[V_OVER] != 0:
        return
    begin(s, D_EXTENDED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put(s, count_of)
        for place in range(found, found + count_of * PART, PART):
            put_lot(s, s[place])
        put(s, until_us)
    for place in range(found, found + count_of * PART, PART):
        age(s, s[place], until_us)
        s[s[place] + L_OPEN] = 0


def extends(s: Words, found: int, lot: int, only: int, until_us: int) -> None:
    """Note a lot that is to live longer, once."""
    if (only != 0 and lot != only) or s[lot + L_EXPIRES] >= until_us:
        return
    for place in range(found, s[V_TEMPS], PART):
        if s[place] == lot:
            return
    push(s, lot, 0)
