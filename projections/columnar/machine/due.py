"""What time alone does: lots become active or expire, holds end, tiers are lost."""

from __future__ import annotations

from tallybook.domain.lots import NEVER

from .layout import (
    ACTIVE,
    ADOPTION,
    B_VERSION0,
    C_EXPIRES,
    C_ID0,
    C_ID1,
    D_ACTIVATED,
    D_EXPIRED,
    D_RELEASED,
    DEBT,
    E_CODE,
    E_EXPIRY,
    E_KIND,
    EXPIRED,
    H_FACT,
    H_PART0,
    H_PART1,
    H_POINTS,
    H_UNTIL,
    HELD,
    L_ACTIVATES,
    L_ACTIVE,
    L_EARNED,
    L_EXPIRES,
    L_LOST,
    L_LOST_AT,
    L_OPEN,
    L_PENDING,
    L_RECOVERABLE,
    L_RULE,
    MULTIPLIER,
    NONE,
    P_POINTS,
    PART,
    PENDING,
    REVERSED,
    RS_EXPIRY,
    RS_IDLE,
    RS_INACTIVE,
    RS_RULES,
    RULE,
    SILENT,
    T_ACTIVATE,
    T_BALANCE_CHANGED,
    T_COUPON,
    T_EXPIRE,
    T_EXPIRE_PENDING,
    T_EXPIRED,
    T_EXPIRY,
    T_HOLD,
    T_INACTIVE,
    T_INACTIVITY,
    T_TIER,
    V_ACTIVE_HEAD,
    V_ACTIVE_N,
    V_BUCKETS,
    V_CALM,
    V_CHANGE_POINTS,
    V_CHANGE_REASON,
    V_CHANGE_RULES,
    V_CHANGE_TIER,
    V_DUE_HEAD,
    V_DUE_N,
    V_HELD_HEAD,
    V_HELD_N,
    V_HELD_ORDER,
    V_MEMBER,
    V_MODE,
    V_MOVED,
    V_OVER,
    V_PENDING_HEAD,
    V_PENDING_N,
    V_PENDING_ORDER,
    V_PLACE,
    V_QUIET,
    V_TEMP0,
    V_TEMPS,
    V_VERSION,
    VERSION,
    X_ACTIVATED,
    Words,
)
from .ledger import age, first_key, leave, move_parts, pay_debt
from .rules import expires_us, in_force, months_after
from .tiers import change_tier, close_coupon, evaluate_tier, next_moment, next_tier_change
from .writing import because, because_of_lots, begin, noted, push, put, put_id, put_lot, put_parts


def next_due(s: Words, until_us: int) -> int:
    """When the first decision is due that time alone makes, up to a moment, with what it is in V_PLACE; NEVER: none."""
    at_us, place = NEVER, T_ACTIVATE
    if s[V_PENDING_N] > 0:
        at_us = first_key(s, V_PENDING_ORDER, s[s[V_PENDING_HEAD]])
        place = T_EXPIRE_PENDING
        for one in range(s[V_PENDING_HEAD], s[V_PENDING_HEAD] + s[V_PENDING_N]):
            if first_key(s, V_PENDING_ORDER, s[one]) != at_us:
                break
            if s[s[one] + L_ACTIVATES] == at_us:
                place = T_ACTIVATE
                break
    rank_of = 3 if place == T_EXPIRE_PENDING else 0
    if s[V_HELD_N] > 0:
        held_us = s[s[s[V_HELD_HEAD]] + H_UNTIL]
        if held_us < at_us or (held_us == at_us and rank_of > 2):
            at_us, place, rank_of = held_us, T_HOLD, 2
    if s[V_ACTIVE_N] > 0:
        gone_us = s[s[s[V_ACTIVE_HEAD]] + L_EXPIRES]
        if gone_us < at_us or (gone_us == at_us and rank_of > 3):
            at_us, place, rank_of = gone_us, T_EXPIRE, 3
    if s[V_ACTIVE_N] > 0 or s[V_PENDING_N] > 0 or s[V_HELD_N] > 0:
        inactive = inactive_us(s)
        if inactive != NONE and (inactive < at_us or (inactive == at_us and rank_of > 4)):
            at_us, place, rank_of = inactive, T_INACTIVE, 4
    if s[V_DUE_N] > 0:
        over_us = s[s[s[V_DUE_HEAD]] + C_EXPIRES]
        if over_us < at_us or (over_us == at_us and rank_of > 5):
            at_us, place, rank_of = over_us, T_COUPON, 5
    last_us = min(until_us, at_us)
    change_us = NEVER if last_us < s[V_CALM] else next_tier_change(s, last_us)
    if change_us < at_us or (change_us == at_us and change_us < NEVER and rank_of > 1):
        s[V_PLACE] = T_TIER
        return change_us
    s[V_PLACE] = place
    return NEVER if at_us > until_us or at_us >= NEVER else at_us


def inactive_us(s: Words) -> int:
    """When the account has been inactive for so long that its points go; NONE: never, by the rule sets known."""
    moved_us = s[V_MOVED]
    version = s[B_VERSION0] + s[V_VERSION] * VERSION
    first, count = s[version], s[version + 1]
    last = first + count * ADOPTION
    start_us = moved_us
    place = first
    rules = -1
    while place < last and s[place] <= moved_us:
        rules = s[place + 1]
        place += ADOPTION
    while True:
        until_us = s[place] if place < last else NEVER + 1
        if rules >= 0 and s[rules + RS_INACTIVE] >= 0:
            at_us = max(start_us, months_after(s, rules, RS_IDLE, moved_us, s[rules + RS_INACTIVE]))
            if place >= last or at_us < until_us:
                return at_us
        if place >= last:
            return NONE
        start_us = s[place]
        rules = s[place + 1]
        place += ADOPTION


def settle(s: Words, until_us: int) -> None:
    """Decide all that time alone makes due by a moment, each dated when it was due."""
    if until_us < s[V_QUIET] or s[V_MEMBER] == 0:
        return
    while s[V_OVER] == 0:
        at_us = next_due(s, until_us)
        if at_us == NEVER:
            s[V_QUIET] = quiet_until(s, until_us)
            return
        place = s[V_PLACE]
        active = s[V_BUCKETS + ACTIVE]
        s[V_TEMPS] = s[V_TEMP0]
        if place == T_TIER:
            change_tier(
                s, at_us, NONE, s[V_CHANGE_RULES], s[V_CHANGE_TIER], s[V_CHANGE_POINTS], s[V_CHANGE_REASON], NONE
            )
        else:
            rules = in_force(s, at_us)
            if place == T_ACTIVATE:
                activate_due(s, at_us, rules)
            elif place == T_HOLD:
                hold = s[s[V_HELD_HEAD]]
                release(s, at_us, rules, s[hold + H_FACT], hold, T_EXPIRED)
            elif place == T_EXPIRE:
                expire_due(s, at_us, rules)
            elif place == T_INACTIVE:
                expire_all(s, at_us, rules, NONE, T_INACTIVITY)
            elif place == T_COUPON:
                coupon = s[s[V_DUE_HEAD]]
                close_coupon(s, at_us, s[coupon + C_ID0], s[coupon + C_ID1], rules, coupon, T_EXPIRED)
            else:
                expire_pending(s, at_us, rules)
        if s[V_BUCKETS + ACTIVE] != active:
            evaluate_tier(s, NONE, at_us, T_BALANCE_CHANGED, 1)


def quiet_until(s: Words, after_us: int) -> int:
    """Up to when nothing is due, where nothing is due by a moment and nothing happens."""
    at_us = NEVER
    if s[V_PENDING_N] > 0:
        at_us = first_key(s, V_PENDING_ORDER, s[s[V_PENDING_HEAD]])
    if s[V_HELD_N] > 0:
        at_us = min(at_us, s[s[s[V_HELD_HEAD]] + H_UNTIL])
    if s[V_ACTIVE_N] > 0:
        at_us = min(at_us, s[s[s[V_ACTIVE_HEAD]] + L_EXPIRES])
    if s[V_ACTIVE_N] > 0 or s[V_PENDING_N] > 0 or s[V_HELD_N] > 0:
        inactive = inactive_us(s)
        if inactive != NONE:
            at_us = min(at_us, inactive)
    if s[V_DUE_N] > 0:
        at_us = min(at_us, s[s[s[V_DUE_HEAD]] + C_EXPIRES])
    if s[V_CALM] <= after_us:
        s[V_CALM] = next_moment(s, after_us)
    return min(at_us, s[V_CALM])


def activate_due(s: Words, at_us: int, rules: int) -> None:
    """Points whose time has come become active."""
    due = s[V_TEMPS]
    for place in range(s[V_PENDING_HEAD], s[V_PENDING_HEAD] + s[V_PENDING_N]):
        lot = s[place]
        if first_key(s, V_PENDING_ORDER, lot) > at_us:
            break
        if s[lot + L_ACTIVATES] <= at_us:
            push(s, lot, s[lot + L_PENDING])
    count = noted(s, due)
    begin(s, D_ACTIVATED, at_us, rules)
    because_of_lots(s, due, count)
    activate(s, at_us, rules, due, count)


def activate(s: Words, at_us: int, rules: int, due: int, count: int) -> None:
    """Pending points become active; an open end is decided by the rules of the moment. The decision is begun."""
    if s[V_MODE] != SILENT:
        put(s, count)
    ages = s[V_TEMPS]
    for place in range(due, due + count * PART, PART):
        lot = s[place]
        ends_us = new_age(s, rules, lot, at_us)
        push(s, lot, ends_us)
        if s[V_MODE] != SILENT:
            put_lot(s, lot)
            put(s, s[place + P_POINTS])
            put(s, s[lot + L_EARNED])
            put(s, ends_us)
    paid = pay_debt(s, due, count)
    debts = noted(s, paid)
    put_parts(s, paid, debts)
    if s[V_OVER] != 0:
        return
    for place in range(ages, ages + count * PART, PART):
        age(s, s[place], s[place + 1])
    move_parts(s, due, count, PENDING, ACTIVE)
    move_parts(s, paid, debts, ACTIVE, DEBT)


def new_age(s: Words, rules: int, lot: int, at_us: int) -> int:
    """When a lot expires that is activated at a moment."""
    if rules < 0 or s[lot + L_OPEN] == 0:
        return s[lot + L_EXPIRES]
    expiry = expiry_of(s, rules, s[lot + L_RULE])
    return expires_us(s, rules, expiry, at_us if s[expiry + X_ACTIVATED] != 0 else s[lot + L_EARNED])


def expiry_of(s: Words, rules: int, code: int) -> int:
    """How points of a rule expire; of one that these rules don't know, as the programme's."""
    first, last = s[rules + RS_RULES], s[rules + RS_RULES + 7]
    for rule in range(first, last, RULE):
        if s[rule + E_CODE] == code and s[rule + E_KIND] != MULTIPLIER:
            return s[rule + E_EXPIRY]
    return s[rules + RS_EXPIRY]


def recover(s: Words, parts: int, count: int) -> int:
    """Of points that come back to their lots: what a return could not take of these before is noted first, then the
    others; how many parts are of the first kind."""
    for place in range(parts, parts + count * PART, PART):
        part = min(s[place + P_POINTS], s[s[place] + L_RECOVERABLE])
        if part != 0:
            push(s, s[place], part)
    found = s[V_TEMPS]
    for place in range(parts, parts + count * PART, PART):
        part = min(s[place + P_POINTS], s[s[place] + L_RECOVERABLE])
        if s[place + P_POINTS] > part:
            push(s, s[place], s[place + P_POINTS] - part)
    return found


def recovered(s: Words, parts: int, count: int) -> None:
    """Points that a return could not take, and had forgiven, came back and were taken."""
    for place in range(parts, parts + count * PART, PART):
        s[s[place] + L_RECOVERABLE] -= s[place + P_POINTS]


def release(s: Words, at_us: int, rules: int, fact: int, hold: int, reason: int) -> None:
    """What is left of a hold is free again."""
    held = s[V_TEMPS]
    for place in range(s[hold + H_PART0], s[hold + H_PART1], PART):
        push(s, s[place], s[place + P_POINTS])
    count = noted(s, held)
    back = s[V_TEMPS]
    free = recover(s, held, count)
    backs = (free - back) // PART
    frees = noted(s, free)
    paid = pay_debt(s, free, frees)
    debts = noted(s, paid)
    begin(s, D_RELEASED, at_us, rules)
    because(s, fact, 0)
    if s[V_MODE] != SILENT:
        put_id(s, s[hold + H_FACT], 0)
        put(s, reason)
    put_parts(s, back, backs)
    put_parts(s, free, frees)
    put_parts(s, paid, debts)
    if s[V_OVER] != 0:
        return
    leave(s, V_HELD_ORDER, hold)
    s[hold + H_PART1] = s[hold + H_PART0]
    s[hold + H_POINTS] = 0
    move_parts(s, back, backs, HELD, REVERSED)
    move_parts(s, free, frees, HELD, ACTIVE)
    move_parts(s, paid, debts, ACTIVE, DEBT)
    recovered(s, back, backs)


def expired(s: Words, parts: int, count: int, at_us: int) -> None:
    """Points of lots are lost: a return that would take them back later finds them lost already."""
    for place in range(parts, parts + count * PART, PART):
        lot = s[place]
        s[lot + L_LOST] += s[place + P_POINTS]
        s[lot + L_LOST_AT] = max(s[lot + L_LOST_AT], at_us)


def expire(s: Words, at_us: int, reason: int, gone: int, gones: int, pending: int, pendings: int) -> None:
    """Points reached their end. The decision is begun."""
    if s[V_MODE] != SILENT:
        points = 0
        for place in range(gone, gone + gones * PART, PART):
            points += s[place + P_POINTS]
        for place in range(pending, pending + pendings * PART, PART):
            points += s[place + P_POINTS]
        put(s, points)
        put(s, reason)
    put_parts(s, gone, gones)
    put_parts(s, pending, pendings)
    if s[V_OVER] != 0:
        return
    move_parts(s, gone, gones, ACTIVE, EXPIRED)
    move_parts(s, pending, pendings, PENDING, EXPIRED)
    expired(s, gone, gones, at_us)
    expired(s, pending, pendings, at_us)


def expire_due(s: Words, at_us: int, rules: int) -> None:
    """Lots whose time is over go."""
    gone = s[V_TEMPS]
    for place in range(s[V_ACTIVE_HEAD], s[V_ACTIVE_HEAD] + s[V_ACTIVE_N]):
        if s[s[place] + L_EXPIRES] > at_us:
            break
        push(s, s[place], s[s[place] + L_ACTIVE])
    count = noted(s, gone)
    begin(s, D_EXPIRED, at_us, rules)
    because_of_lots(s, gone, count)
    expire(s, at_us, T_EXPIRY, gone, count, gone, 0)


def expire_pending(s: Words, at_us: int, rules: int) -> None:
    """Lots whose time is over before they became active go."""
    gone = s[V_TEMPS]
    for place in range(s[V_PENDING_HEAD], s[V_PENDING_HEAD] + s[V_PENDING_N]):
        if first_key(s, V_PENDING_ORDER, s[place]) > at_us:
            break
        push(s, s[place], s[s[place] + L_PENDING])
    count = noted(s, gone)
    begin(s, D_EXPIRED, at_us, rules)
    because_of_lots(s, gone, count)
    expire(s, at_us, T_EXPIRY, gone, 0, gone, count)


def expire_all(s: Words, at_us: int, rules: int, fact: int, reason: int) -> None:
    """All points go, those that are held too. `fact`: why; NONE: the facts that brought them."""
    while s[V_HELD_N] > 0 and s[V_OVER] == 0:
        hold = s[s[V_HELD_HEAD]]
        release(s, at_us, rules, s[hold + H_FACT] if fact == NONE else fact, hold, reason)
    gone = s[V_TEMPS]
    for place in range(s[V_ACTIVE_HEAD], s[V_ACTIVE_HEAD] + s[V_ACTIVE_N]):
        push(s, s[place], s[s[place] + L_ACTIVE])
    gones = noted(s, gone)
    pending = s[V_TEMPS]
    for place in range(s[V_PENDING_HEAD], s[V_PENDING_HEAD] + s[V_PENDING_N]):
        push(s, s[place], s[s[place] + L_PENDING])
    pendings = noted(s, pending)
    if (gones == 0 and pendings == 0) or s[V_OVER] != 0:
        return
    begin(s, D_EXPIRED, at_us, rules)
    if fact == NONE:
        because_of_lots(s, gone, gones + pendings)
    else:
        because(s, fact, 0)
    expire(s, at_us, reason, gone, gones, pending, pendings)
