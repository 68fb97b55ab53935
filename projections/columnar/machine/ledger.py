"""An account's lots, holds and coupons in their orders, and points that move between buckets."""

from __future__ import annotations

from .layout import (
    ACTIVE,
    C_EXPIRES,
    DEBT,
    H_UNTIL,
    HELD,
    L_ACTIVATES,
    L_ACTIVE,
    L_EARNED,
    L_EXPIRES,
    L_FACT,
    L_NUMBER,
    L_PENDING,
    L_RULE,
    LONG_AGO,
    LOT,
    M_LOT,
    MAP,
    P_LOT,
    P_POINTS,
    PART,
    PENDING,
    T_EMPTY,
    V_ACTIVE_N,
    V_ACTIVE_ORDER,
    V_BUCKETS,
    V_DUE_ORDER,
    V_HELD_N,
    V_HELD_ORDER,
    V_LOTS,
    V_MAP0,
    V_OVER,
    V_PENDING_N,
    V_PENDING_ORDER,
    V_POS,
    V_QUIET,
    V_ROW,
    V_ROW0,
    V_TEMPS,
    Words,
)
from .writing import change, more, push

# What stands in order (active lots, lots that are pending, holds, coupons) is named by the index of its record, and
# ties go as the records came: they begin at ever higher indices.


def first_key(s: Words, order: int, one: int) -> int:
    """By what an order goes first."""
    if order == V_ACTIVE_ORDER:
        return s[one + L_EXPIRES]
    if order == V_PENDING_ORDER:
        return min(s[one + L_ACTIVATES], s[one + L_EXPIRES])
    if order == V_HELD_ORDER:
        return s[one + H_UNTIL]
    return s[one + C_EXPIRES]


def stands_before(s: Words, order: int, one: int, key: int, other: int) -> bool:
    """Whether one stands before another, whose first key is given."""
    mine = first_key(s, order, one)
    if mine != key:
        return mine < key
    if order == V_ACTIVE_ORDER and s[one + L_EARNED] != s[other + L_EARNED]:
        return s[one + L_EARNED] < s[other + L_EARNED]
    return one < other


def place_of(s: Words, order: int, one: int) -> int:
    """Where one stands in an order, or would stand."""
    key = first_key(s, order, one)
    low = s[order + 1]
    high = low + s[order + 2]
    # Most come last.
    if high > low and stands_before(s, order, s[high - 1], key, one):
        return high
    while low < high:
        middle = (low + high) // 2
        if stands_before(s, order, s[middle], key, one):
            low = middle + 1
        else:
            high = middle
    return low


def enter(s: Words, order: int, one: int) -> None:
    """Put one in its place in an order."""
    due_us = first_key(s, order, one)
    if due_us < s[V_QUIET]:
        s[V_QUIET] = due_us
    if order != V_DUE_ORDER and s[V_ACTIVE_N] + s[V_PENDING_N] + s[V_HELD_N] == 0:
        # Now the account can be inactive.
        s[V_QUIET] = LONG_AGO
    if s[order + 1] + s[order + 2] >= s[order + 3]:
        begins, head = s[order], s[order + 1]
        if head == begins:
            s[V_OVER] = 1
            return
        for place in range(s[order + 2]):
            s[begins + place] = s[head + place]
        s[order + 1] = begins
    at = place_of(s, order, one)
    last = s[order + 1] + s[order + 2]
    while last > at:
        s[last] = s[last - 1]
        last -= 1
    s[at] = one
    s[order + 2] += 1


def leave(s: Words, order: int, one: int) -> None:
    """Take one out of an order."""
    head = s[order + 1]
    if s[head] == one:
        s[order + 1] = head + 1
        s[order + 2] -= 1
        return
    at = place_of(s, order, one)
    last = head + s[order + 2] - 1
    while at < last:
        s[at] = s[at + 1]
        at += 1
    s[order + 2] -= 1


def move(s: Words, lot: int, source: int, target: int, points: int) -> None:
    """Points of a lot go from one bucket to another: the only thing that changes a balance."""
    if points == 0:
        return
    if source == PENDING:
        lot_changes(s, lot, V_PENDING_ORDER, L_PENDING, PENDING, -points)
    elif source == ACTIVE:
        lot_changes(s, lot, V_ACTIVE_ORDER, L_ACTIVE, ACTIVE, -points)
    elif source == HELD:
        change(s, HELD, -points)
    else:
        change(s, source, points)
    if target == PENDING:
        lot_changes(s, lot, V_PENDING_ORDER, L_PENDING, PENDING, points)
    elif target == ACTIVE:
        lot_changes(s, lot, V_ACTIVE_ORDER, L_ACTIVE, ACTIVE, points)
    elif target == DEBT:
        change(s, DEBT, -points)
    else:
        change(s, target, points)


def lot_changes(s: Words, lot: int, order: int, field: int, bucket: int, by: int) -> None:
    """Points of a lot in a place become more or fewer: it stands in the place's order while it has some."""
    had = s[lot + field]
    if had + by == 0:
        leave(s, order, lot)
    elif had == 0:
        enter(s, order, lot)
    s[lot + field] = had + by
    change(s, bucket, by)


def age(s: Words, lot: int, expires_us: int) -> None:
    """A lot gets another end: its points stand elsewhere in the orders that go by it."""
    if s[lot + L_PENDING] != 0:
        leave(s, V_PENDING_ORDER, lot)
    if s[lot + L_ACTIVE] != 0:
        leave(s, V_ACTIVE_ORDER, lot)
    s[lot + L_EXPIRES] = expires_us
    if s[lot + L_PENDING] != 0:
        enter(s, V_PENDING_ORDER, lot)
    if s[lot + L_ACTIVE] != 0:
        enter(s, V_ACTIVE_ORDER, lot)


def move_parts(s: Words, parts: int, count: int, source: int, target: int) -> None:
    """Parts of lots go from one bucket to another."""
    for place in range(parts, parts + count * PART, PART):
        move(s, s[place + P_LOT], source, target, s[place + P_POINTS])


def pay_debt(s: Words, parts: int, count: int) -> int:
    """What of points that become active goes into a debt at once, noted from the index that is given back."""
    paid = s[V_TEMPS]
    debt = s[V_BUCKETS + DEBT]
    for place in range(parts, parts + count * PART, PART):
        part = min(debt, s[place + P_POINTS])
        if part > 0:
            push(s, s[place + P_LOT], part)
            debt -= part
    return paid


def new_lot(s: Words, number: int, earned_us: int, activates_us: int, expires_us: int) -> int:
    """A lot that the fact at hand brings; the index of its record."""
    lot = more(s, V_LOTS, LOT)
    s[lot + L_FACT] = s[V_POS]
    s[lot + L_NUMBER] = number
    s[lot + L_EARNED] = earned_us
    s[lot + L_ACTIVATES] = activates_us
    s[lot + L_EXPIRES] = expires_us
    for field in range(L_ACTIVE, LOT):
        s[lot + field] = 0
    s[lot + L_RULE] = T_EMPTY
    known = s[V_MAP0] + (s[V_ROW] - s[V_ROW0]) * MAP + M_LOT
    if s[known] == 0:
        s[known] = lot
    return lot


def lot_named(s: Words, row: int, number: int) -> int:
    """The lot that a fact brought under a number; 0: there is none."""
    if row < s[V_ROW0]:
        return 0
    lot = s[s[V_MAP0] + (row - s[V_ROW0]) * MAP + M_LOT]
    if lot == 0:
        return 0
    fact = s[lot + L_FACT]
    while lot < s[V_LOTS] and s[lot + L_FACT] == fact:
        if s[lot + L_NUMBER] == number:
            return lot
        lot += LOT
    return 0
