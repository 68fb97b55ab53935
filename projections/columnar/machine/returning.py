"""What a return takes back of what was earned."""

from __future__ import annotations

from tallybook.domain.arithmetic import given_back

from .earning import item_at
from .layout import (
    ACTIVE,
    AS_DEBT,
    BY_CREDIT,
    BY_LINES,
    D_REVERSED,
    DEBT,
    L_ACTIVE,
    L_EARNED,
    L_LINE0,
    L_LINE1,
    L_LOST,
    L_PENDING,
    L_PIECES,
    L_RECOVERABLE,
    LINE,
    N_BASIS,
    N_POINTS,
    N_QUALIFYING,
    N_RETURNED,
    PENDING,
    PENDING_ONLY,
    REVERSED,
    RS_REFUND,
    SILENT,
    V_ACTIVE_HEAD,
    V_ACTIVE_N,
    V_AT,
    V_ITEM1,
    V_MODE,
    V_OVER,
    V_POS,
    V_TEMPS,
    WHOLE,
    Words,
)
from .ledger import lot_named, move, move_parts
from .tiers import qualify
from .writing import because, begin, more, noted, push, put, put_lot, put_parts


def take_back(s: Words, rules: int, row: int, number: int, by: int) -> int:
    """Take back what another fact earned, of each of its lots what came back of its lines; 1 if there was something."""
    found = 0
    if row < 0:
        return 0
    place = 0
    while s[V_OVER] == 0:
        lot = lot_named(s, row, number ^ place)
        if lot == 0:
            return found
        if reverse(s, rules, lot, by) != 0:
            found = 1
        place += 1
    return found


def reverse(s: Words, rules: int, lot: int, by: int) -> int:
    """Take back what the lines of a lot earned that came back, at most what is left."""
    at_us = s[V_AT]
    lines = (s[lot + L_LINE1] - s[lot + L_LINE0]) // LINE
    back = more(s, V_TEMPS, lines)
    if s[V_OVER] != 0:
        return 0
    for line in range(lines):
        s[back + line] = s[s[lot + L_LINE0] + line * LINE + N_BASIS] if by == WHOLE else 0
    item0, item1 = 0, s[V_ITEM1]
    if by == BY_LINES:
        for item in range(item0, item1):
            line = s[item_at(s, item)] - 1
            if 0 <= line < lines:
                s[back + line] += s[item_at(s, item) + 1] if s[lot + L_PIECES] != 0 else s[item_at(s, item) + 2]
    elif by == BY_CREDIT:
        for line in range(min(lines, item1 - item0)):
            s[back + line] = s[item_at(s, item0 + line) + 0]
    points = counts = 0
    some = False
    for line in range(lines):
        at = s[lot + L_LINE0] + line * LINE
        s[back + line] = min(s[back + line], s[at + N_BASIS] - s[at + N_RETURNED])
        if s[back + line] != 0:
            some = True
            upto = s[at + N_RETURNED] + s[back + line]
            points += given_back(s[at + N_POINTS], s[at + N_BASIS], s[at + N_RETURNED], upto)
            counts += given_back(s[at + N_QUALIFYING], s[at + N_BASIS], s[at + N_RETURNED], upto)
    if not some:
        return 0
    policy = s[rules + RS_REFUND]
    pending = min(points, s[lot + L_PENDING])
    rest = points - pending
    taken = s[V_TEMPS]
    debt = lost = recoverable = 0
    if policy != PENDING_ONLY:
        own = min(rest, s[lot + L_ACTIVE])
        if own != 0:
            push(s, lot, own)
        rest -= own
        lost = min(rest, s[lot + L_LOST])
        others = rest - lost
        for place in range(s[V_ACTIVE_HEAD], s[V_ACTIVE_HEAD] + s[V_ACTIVE_N]):
            if others <= 0:
                break
            other = s[place]
            left = s[other + L_ACTIVE] - (own if other == lot else 0)
            part = min(others, left)
            if part > 0:
                push(s, other, part)
                others -= part
                rest -= part
        if policy == AS_DEBT:
            debt, rest = rest - lost, lost
        else:
            recoverable = rest - lost
    count_of = noted(s, taken)
    if s[V_OVER] != 0:
        return 0
    begin(s, D_REVERSED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put_lot(s, lot)
        put(s, points)
        put(s, counts)
        put(s, lines)
        for line in range(lines):
            put(s, s[back + line])
        put(s, pending)
    put_parts(s, taken, count_of)
    if s[V_MODE] != SILENT:
        put(s, debt)
        put(s, rest)
        put(s, lost)
        put(s, recoverable)
    move(s, lot, PENDING, REVERSED, pending)
    move_parts(s, taken, count_of, ACTIVE, REVERSED)
    move(s, lot, DEBT, REVERSED, debt)
    for line in range(lines):
        s[s[lot + L_LINE0] + line * LINE + N_RETURNED] += s[back + line]
    s[lot + L_LOST] -= lost
    s[lot + L_RECOVERABLE] += recoverable
    qualify(s, s[lot + L_EARNED], -counts)
    return 1
