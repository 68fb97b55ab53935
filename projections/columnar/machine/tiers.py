"""Tiers: what counts for them, when they change, and the coupons that come with them."""

from __future__ import annotations

from tallybook.domain.arithmetic import level_after, level_reached
from tallybook.domain.lots import NEVER
from tallybook.projections.columnar.compiling import view

from .layout import (
    ACTIVE,
    ADOPTION,
    B_VERSION0,
    C_EXPIRES,
    C_FORFEITED,
    C_ID0,
    C_ID1,
    C_OUTCOME,
    C_REASON,
    C_SINCE,
    COUPON,
    D_COUPON_CLOSED,
    D_COUPON_ISSUED,
    D_TIER,
    GOOD,
    GRANT_BITS,
    L_GRANT0,
    L_GRANTED_BY,
    L_GRANTS,
    LEVEL,
    LIFETIME,
    LONG_AGO,
    M_COUPON,
    MAP,
    NONE,
    PART,
    REWARD_CODE,
    REWARD_DAYS,
    REWARD_FORFEITED,
    ROLLING,
    RS_BALANCE,
    RS_CALENDAR,
    RS_DOWNGRADE,
    RS_GRACE,
    RS_HELD,
    RS_HOLD,
    RS_LEAVING,
    RS_LEVEL0,
    RS_LEVELS,
    RS_MONTHS,
    RS_THRESHOLD0,
    RS_WINDOW,
    SILENT,
    T_BALANCE_CHANGED,
    T_COUPON_EXPIRED,
    T_COUPON_USED,
    T_COUPON_VOIDED,
    T_EARNING_REVERSED,
    T_EMPTY,
    T_EXPIRED,
    T_FORFEITED,
    T_OVERRIDDEN,
    T_OVERRIDE_ENDED,
    T_RETURNED,
    T_RULES_CHANGED,
    T_TOO_EARLY,
    T_UNKNOWN_COUPON,
    T_USED,
    T_WINDOW_MOVED,
    T_WITHDRAWN,
    V_BUCKETS,
    V_CALENDAR,
    V_CHANGE_POINTS,
    V_CHANGE_REASON,
    V_CHANGE_RULES,
    V_CHANGE_TIER,
    V_CLOCK,
    V_COUPON0,
    V_COUPONS,
    V_DUE_HEAD,
    V_DUE_N,
    V_DUE_ORDER,
    V_FIRST,
    V_LENT,
    V_MAP0,
    V_MODE,
    V_MOMENT0,
    V_MOMENTS,
    V_OVER,
    V_OVERRIDE,
    V_ROW,
    V_ROW0,
    V_SEVERAL,
    V_STEADY,
    V_TEMPS,
    V_TIER,
    V_TIER_SINCE,
    V_VERSION,
    V_WINDOW0,
    V_WINDOWS,
    VERSION,
    W_AT,
    W_BEFORE,
    W_LEAVES,
    W_POINTS,
    WINDOW,
    Words,
)
from .ledger import enter, leave
from .rules import days_after, in_force, months_after, period_of, rank, tier_at, year_of, yearly
from .writing import because, because_of_nothing, begin, more, push, put, put_id, unsettle


def window_place(s: Words, at_us: int) -> int:
    """The index of the first entry of the window that was earned after a moment."""
    low, high = 0, (s[V_WINDOWS] - s[V_WINDOW0]) // WINDOW
    first = s[V_WINDOW0]
    if high > 0 and s[first + (high - 1) * WINDOW + W_AT] <= at_us:
        return s[V_WINDOWS]
    while low < high:
        middle = (low + high) // 2
        if s[first + middle * WINDOW + W_AT] <= at_us:
            low = middle + 1
        else:
            high = middle
    return first + low * WINDOW


def qualify(s: Words, earned_us: int, points: int) -> None:
    """Qualifying points come, or go, at a moment."""
    if points == 0:
        return
    at = window_place(s, earned_us)
    if at > s[V_WINDOW0] and s[at - WINDOW + W_AT] == earned_us:
        at -= WINDOW
        s[at + W_POINTS] += points
    else:
        last = more(s, V_WINDOWS, WINDOW)
        if s[V_OVER] != 0:
            return
        while last > at:
            for field in range(WINDOW):
                s[last + field] = s[last - WINDOW + field]
            last -= WINDOW
        s[at + W_AT] = earned_us
        s[at + W_POINTS] = points
        s[at + W_BEFORE] = 0 if at == s[V_WINDOW0] else s[at - WINDOW + W_BEFORE] + s[at - WINDOW + W_POINTS]
        s[at + W_LEAVES] = NONE
    at += WINDOW
    if points < 0 or at < s[V_WINDOWS] or s[V_STEADY] == 0:
        unsettle(s)
    while at < s[V_WINDOWS]:
        s[at + W_BEFORE] += points
        at += WINDOW


def before(s: Words, at: int) -> int:
    """The sum of the window up to an index."""
    if at < s[V_WINDOWS]:
        return s[at + W_BEFORE]
    if at == s[V_WINDOW0]:
        return 0
    return s[at - WINDOW + W_BEFORE] + s[at - WINDOW + W_POINTS]


def leaving(s: Words, rules: int, entry: int) -> int:
    """When an entry of a rolling window counts no more."""
    at_us = s[entry + W_LEAVES]
    if at_us == NONE:
        at_us = months_after(s, rules, RS_LEAVING, s[entry + W_AT], s[rules + RS_MONTHS])
        s[entry + W_LEAVES] = at_us
    return at_us


def first_counting(s: Words, rules: int, at_us: int) -> int:
    """The index of the first entry that still counts at a moment, by a rolling window."""
    if s[rules + RS_MONTHS] < 0:
        return s[V_WINDOW0]
    if s[V_CALENDAR] != s[rules + RS_CALENDAR]:
        s[V_CALENDAR] = s[rules + RS_CALENDAR]
        for entry in range(s[V_WINDOW0], s[V_WINDOWS], WINDOW):
            s[entry + W_LEAVES] = NONE
    # It was near there when it was last asked for.
    place = min(s[V_FIRST], s[V_WINDOWS])
    while place < s[V_WINDOWS] and leaving(s, rules, place) <= at_us:
        place += WINDOW
    while place > s[V_WINDOW0] and leaving(s, rules, place - WINDOW) > at_us:
        place -= WINDOW
    s[V_FIRST] = place
    return place


def sum_from(s: Words, first: int, until_us: int) -> int:
    """The points of the window from an index up to a moment."""
    last = max(first, window_place(s, until_us))
    return before(s, last) - before(s, first)


def qualifying(s: Words, rules: int, at_us: int) -> int:
    """The points that count for the tier at a moment: the greater of two years' sums, where windows are years."""
    if s[rules + RS_BALANCE] != 0:
        return s[V_BUCKETS + ACTIVE]
    if not yearly(s, rules):
        return sum_from(s, first_counting(s, rules, at_us), at_us)
    start = year_of(s, rules, at_us, 0)
    last = year_of(s, rules, at_us, -1)
    return max(
        sum_from(s, window_place(s, start - 1), at_us),
        sum_from(s, window_place(s, last - 1), start - 1),
    )


def reached(s: Words, rules: int, points: int, held: int) -> int:
    """The place of the tier that so many points hold, for somebody at a place."""
    levels = s[rules + RS_LEVELS]
    first = s[rules + RS_THRESHOLD0]
    return level_reached(points, view(s, first, levels), view(s, first + levels, levels), held)


def standing(s: Words) -> int:
    """The tier that the rules decided on last."""
    return s[V_TIER] if s[V_LENT] == NONE else s[V_LENT]


def after_points(s: Words, rules: int, at_us: int, taken: int) -> None:
    """The tier after points came or went, in V_CHANGE_TIER and V_CHANGE_POINTS."""
    points = qualifying(s, rules, at_us)
    held = rank(s, rules, standing(s))
    earned = reached(s, rules, points, held)
    s[V_CHANGE_POINTS] = points
    if earned < held and taken == 0:
        if s[rules + RS_BALANCE] != 0:
            earned = level_after(held, earned, s[rules + RS_DOWNGRADE])
        else:
            s[V_CHANGE_TIER] = s[V_TIER] if s[V_TIER] >= 0 else tier_at(s, rules, 0)
            return
    s[V_CHANGE_TIER] = tier_at(s, rules, max(earned, 0))


def held_until(s: Words, rules: int) -> int:
    """Until when a tier is held whatever is earned."""
    if s[rules + RS_HOLD] == 0:
        return LONG_AGO
    return months_after(s, rules, RS_HELD, s[V_TIER_SINCE], s[rules + RS_HOLD])


def by_time(s: Words, rules: int, at_us: int) -> None:
    """The tier at a moment at which time alone may change it."""
    points = qualifying(s, rules, at_us)
    held = rank(s, rules, s[V_TIER])
    earned = reached(s, rules, points, held)
    s[V_CHANGE_POINTS] = points
    if earned >= held:
        s[V_CHANGE_TIER] = tier_at(s, rules, earned)
        return
    s[V_CHANGE_TIER] = tier_at(s, rules, held)
    if at_us < held_until(s, rules):
        return
    if yearly(s, rules) and s[V_TIER_SINCE] >= year_of(s, rules, at_us, 0):
        return
    grace = s[rules + RS_GRACE]
    if grace > 0:
        most = most_since(s, rules, days_after(s, rules, at_us, -grace), at_us)
        if reached(s, rules, most, held) >= held:
            return
    s[V_CHANGE_TIER] = tier_at(s, rules, level_after(held, earned, s[rules + RS_DOWNGRADE]))


def most_since(s: Words, rules: int, since_us: int, at_us: int) -> int:
    """The most that counted at any moment from one to another: it rises where something was earned only."""
    most = qualifying(s, rules, since_us)
    place = window_place(s, since_us - 1)
    while place < s[V_WINDOWS] and s[place + W_AT] <= at_us:
        if s[place + W_POINTS] != 0:
            most = max(most, qualifying(s, rules, s[place + W_AT]))
        place += WINDOW
    return most


def moment(s: Words, at_us: int, reason: int) -> None:
    """Note a moment at which the tier may change."""
    at = more(s, V_MOMENTS, 2)
    s[at] = at_us
    s[at + 1] = reason


def moments(s: Words, rules: int, after_us: int, until_us: int) -> None:
    """Note the moments after one, up to another, at which time alone may lower the tier."""
    held = rank(s, rules, s[V_TIER])
    window = s[rules + RS_WINDOW]
    if s[rules + RS_BALANCE] != 0 or window == LIFETIME or held <= 0:
        return
    hold_us = held_until(s, rules)
    if after_us < hold_us <= until_us:
        moment(s, hold_us, T_WINDOW_MOVED)
    grace = s[rules + RS_GRACE]
    keeps = s[s[rules + RS_THRESHOLD0] + s[rules + RS_LEVELS] + held]
    since_us = after_us if grace == 0 else days_after(s, rules, after_us, -grace)
    if window != ROLLING:
        years = 1
        while s[V_OVER] == 0:
            at_us = year_of(s, rules, since_us, years)
            if at_us > until_us:
                return
            due_us = at_us if grace == 0 else days_after(s, rules, at_us, grace)
            if after_us < due_us <= until_us:
                moment(s, due_us, T_WINDOW_MOVED)
            years += 1
        return
    if s[V_WINDOWS] == s[V_WINDOW0]:
        return
    place = first_counting(s, rules, since_us)
    in_all = before(s, s[V_WINDOWS])
    last_us = s[s[V_WINDOWS] - WINDOW + W_AT]
    while place < s[V_WINDOWS]:
        at_us = leaving(s, rules, place)
        if at_us > until_us:
            return
        place += WINDOW
        # Of those that end at one moment, the last one leaves what is left.
        if last_us <= at_us and in_all - before(s, place) >= keeps:
            continue
        due_us = at_us if grace == 0 else days_after(s, rules, at_us, grace)
        if after_us < due_us <= until_us:
            moment(s, due_us, T_WINDOW_MOVED)


def next_tier_change(s: Words, until_us: int) -> int:
    """The first moment from the account's clock up to another at which time alone changes the tier, with the rest of it
    in V_CHANGE_…; NEVER: there is none."""
    clock_us = s[V_CLOCK]
    if clock_us > until_us:
        return NEVER
    s[V_MOMENTS] = s[V_MOMENT0]
    free_us = clock_us
    if s[V_OVERRIDE] != NONE and s[V_OVERRIDE] >= clock_us:
        free_us = s[V_OVERRIDE]
        moment(s, free_us, T_OVERRIDE_ENDED)
    version = s[B_VERSION0] + s[V_VERSION] * VERSION
    first, count = s[version], s[version + 1]
    # What rules look at ends where others take their place.
    rules, since_us = in_force(s, clock_us), clock_us
    if s[version + 2] > 1:
        # Rules that were adopted since, from before the account's clock, hold from the clock on.
        moment(s, clock_us, T_RULES_CHANGED)
        for place in range(first, first + count * ADOPTION, ADOPTION):
            if clock_us < s[place] <= until_us:
                if rules >= 0:
                    moments(s, rules, since_us, s[place] - 1)
                moment(s, s[place], T_RULES_CHANGED)
                rules, since_us = s[place + 1], s[place]
    if rules >= 0:
        moments(s, rules, since_us, until_us)
    # The earliest first; of several reasons for one, the first that was noted.
    done_us = LONG_AGO - 1
    while s[V_OVER] == 0:
        at_us = NEVER + 1
        reason = -1
        for place in range(s[V_MOMENT0], s[V_MOMENTS], 2):
            if done_us < s[place] < at_us:
                at_us = s[place]
                reason = s[place + 1]
        if reason < 0 or at_us > until_us:
            return NEVER
        done_us = at_us
        rules = in_force(s, at_us)
        if rules < 0 or at_us < free_us:
            continue
        if reason == T_OVERRIDE_ENDED:
            after_points(s, rules, at_us, 1)
        elif reason == T_RULES_CHANGED and yearly(s, rules):
            after_points(s, rules, at_us, 0)
        else:
            by_time(s, rules, at_us)
        if s[V_CHANGE_TIER] != s[V_TIER] or (reason == T_OVERRIDE_ENDED and standing(s) != s[V_TIER]):
            s[V_CHANGE_RULES] = rules
            s[V_CHANGE_REASON] = reason
            return at_us
    return NEVER


def next_moment(s: Words, after_us: int) -> int:
    """A moment before which, and after another, time alone does not change the tier. V_STEADY: whether it still is one
    after points came in order. Nothing happens to the account before."""
    clock_us = s[V_CLOCK]
    s[V_STEADY] = 1
    found_us = NEVER
    if s[V_OVERRIDE] != NONE and s[V_OVERRIDE] >= clock_us:
        # One that ended without effect has one still, once a late fact brought points.
        found_us = s[V_OVERRIDE]
    if s[V_SEVERAL] != 0 and clock_us > after_us:
        return clock_us
    from_us = max(clock_us, after_us)
    rules = in_force(s, from_us)
    if rules >= 0:
        found_us = min(found_us, next_moment_of(s, rules, from_us))
    if s[V_SEVERAL] != 0:
        version = s[B_VERSION0] + s[V_VERSION] * VERSION
        first, count = s[version], s[version + 1]
        for place in range(first, first + count * ADOPTION, ADOPTION):
            if s[place] > from_us:
                return min(found_us, s[place])
    return found_us


def next_moment_of(s: Words, rules: int, after_us: int) -> int:
    """The first moment after one at which a rule set may lower the tier; NEVER: there is none."""
    held = rank(s, rules, s[V_TIER])
    window = s[rules + RS_WINDOW]
    if s[rules + RS_BALANCE] != 0 or window == LIFETIME or held <= 0:
        return NEVER
    found_us = NEVER
    hold_us = held_until(s, rules)
    if hold_us > after_us:
        found_us = hold_us
    grace = s[rules + RS_GRACE]
    since_us = after_us if grace == 0 else days_after(s, rules, after_us, -grace)
    if window != ROLLING:
        years = 1
        while True:
            at_us = year_of(s, rules, since_us, years)
            due_us = at_us if grace == 0 else days_after(s, rules, at_us, grace)
            if due_us > after_us:
                return min(found_us, due_us)
            years += 1
    keeps = s[s[rules + RS_THRESHOLD0] + s[rules + RS_LEVELS] + held]
    place = first_counting(s, rules, since_us)
    end = s[V_WINDOWS]
    in_all = before(s, end)
    while place < end:
        place += WINDOW
        if grace > 0:
            # When it leaves, what is earned while the grace lasts does not count yet.
            in_all = before(s, window_place(s, leaving(s, rules, place - WINDOW)))
        if in_all - before(s, place) < keeps:
            at_us = leaving(s, rules, place - WINDOW)
            due_us = at_us if grace == 0 else days_after(s, rules, at_us, grace)
            if due_us > after_us:
                return min(found_us, due_us)
    s[V_STEADY] = 0
    return found_us


def change_tier(
    s: Words, at_us: int, fact: int, rules: int, tier: int, points: int, reason: int, until_us: int
) -> None:
    """The account holds another tier. `fact`: its position; NONE: time alone."""
    was = rank(s, rules, standing(s))
    begin(s, D_TIER, at_us, rules)
    if fact == NONE:
        because_of_nothing(s)
    else:
        because(s, fact, 0)
    if s[V_MODE] != SILENT:
        put(s, s[V_TIER] if s[V_TIER] >= 0 else NONE)
        put(s, tier)
        put(s, reason)
        put(s, max(points, 0))
        put(s, until_us)
    if reason == T_OVERRIDDEN:
        s[V_LENT] = NONE if standing(s) < 0 else standing(s)
    else:
        s[V_LENT] = NONE
        s[V_OVERRIDE] = NONE
    s[V_TIER] = tier
    s[V_TIER_SINCE] = at_us
    unsettle(s)
    place = rank(s, rules, tier)
    if place > was >= 0 and reason != T_OVERRIDDEN:
        level = s[rules + RS_LEVEL0] + place * LEVEL
        first = s[level + L_GRANT0]
        for reward in range(first, first + s[level + L_GRANTS]):
            grant(s, at_us, fact, rules, s[reward], tier, s[level + L_GRANTED_BY])
    if place < was and reason == T_EARNING_REVERSED:
        withdraw_grants(s, at_us, fact, rules, tier)


def grant(s: Words, at_us: int, fact: int, rules: int, reward: int, tier: int, granted_by: int) -> None:
    """A coupon for reaching a tier: once a year, however often it is reached."""
    year = period_of(s, rules, at_us, 2)
    first = -1 - ((tier << GRANT_BITS) | s[reward + REWARD_CODE])
    had = coupon_named(s, first, year)
    if had == 0 or s[had + C_OUTCOME] == T_WITHDRAWN:
        issue(s, at_us, fact, rules, first, year, reward, granted_by)


def withdraw_grants(s: Words, at_us: int, fact: int, rules: int, tier: int) -> None:
    """What came with tiers above one goes with them when a return took them away, so far as it is good still."""
    kept = rank(s, rules, tier) + 1
    level0 = s[rules + RS_LEVEL0]
    due = s[V_TEMPS]
    for place in range(s[V_DUE_HEAD], s[V_DUE_HEAD] + s[V_DUE_N]):
        coupon = s[place]
        if s[coupon + C_ID0] >= 0:
            continue
        found = False
        for level in range(kept):
            if s[level0 + level * LEVEL + L_GRANTED_BY] == s[coupon + C_REASON]:
                found = True
        if not found:
            push(s, coupon, 0)
    for place in range(due, s[V_TEMPS], PART):
        close_coupon(s, at_us, fact, 0, rules, s[place], T_WITHDRAWN)


def evaluate_tier(s: Words, fact: int, effective_us: int, reason: int, moved: int) -> None:
    """Where the tier goes after points came or went; `moved`: whether the balance is another."""
    # Tiers follow one another in time: a late fact changes the tier from the account's clock on, by the rules of that
    # moment.
    at_us = max(effective_us, s[V_CLOCK])
    rules = in_force(s, at_us)
    if rules < 0:
        return
    if s[V_OVERRIDE] != NONE and s[V_OVERRIDE] > at_us:
        if moved != 0 and reason == T_EARNING_REVERSED:
            after_points(s, rules, at_us, 1)
            withdraw_grants(s, at_us, fact, rules, s[V_CHANGE_TIER])
        return
    if s[rules + RS_BALANCE] != 0:
        if moved == 0:
            return
    elif reason == T_BALANCE_CHANGED:
        return
    after_points(s, rules, at_us, 1 if reason == T_EARNING_REVERSED else 0)
    if s[V_CHANGE_TIER] != s[V_TIER]:
        change_tier(s, at_us, fact, rules, s[V_CHANGE_TIER], s[V_CHANGE_POINTS], reason, NONE)


def coupon_named(s: Words, first: int, second: int) -> int:
    """The coupon that a tier granted under an id, the last one that was issued; 0: there is none."""
    coupon = s[V_COUPONS] - COUPON
    while coupon >= s[V_COUPON0]:
        if s[coupon + C_ID0] == first and s[coupon + C_ID1] == second:
            return coupon
        coupon -= COUPON
    return 0


def issue(s: Words, at_us: int, fact: int, rules: int, first: int, second: int, reward: int, reason: int) -> None:
    """The account has a coupon."""
    days = s[reward + REWARD_DAYS]
    expires = days_after(s, rules, at_us, max(days, 0))
    begin(s, D_COUPON_ISSUED, at_us, rules)
    if fact == NONE:
        because_of_nothing(s)
    else:
        because(s, fact, 0)
    if s[V_MODE] != SILENT:
        put_id(s, first, second)
        put(s, s[reward + REWARD_CODE])
        put(s, expires)
        put(s, reason)
        put(s, T_FORFEITED if s[reward + REWARD_FORFEITED] != 0 else T_RETURNED)
    coupon = more(s, V_COUPONS, COUPON)
    s[coupon + C_ID0] = first
    s[coupon + C_ID1] = second
    s[coupon + C_SINCE] = at_us
    s[coupon + C_EXPIRES] = expires
    s[coupon + C_REASON] = reason
    s[coupon + C_FORFEITED] = s[reward + REWARD_FORFEITED]
    s[coupon + C_OUTCOME] = GOOD
    if s[V_OVER] == 0:
        enter(s, V_DUE_ORDER, coupon)
    if first >= 0:
        s[s[V_MAP0] + (s[V_ROW] - s[V_ROW0]) * MAP + M_COUPON] = coupon


def close_coupon(s: Words, at_us: int, first: int, second: int, rules: int, coupon: int, outcome: int) -> None:
    """A coupon is no longer good. `first`, `second`: the fact; NONE: time alone."""
    begin(s, D_COUPON_CLOSED, at_us, rules)
    if first == NONE:
        because_of_nothing(s)
    else:
        because(s, first, second)
    if s[V_MODE] != SILENT:
        put_id(s, s[coupon + C_ID0], s[coupon + C_ID1])
        put(s, outcome)
    s[coupon + C_OUTCOME] = outcome
    leave(s, V_DUE_ORDER, coupon)


def why_not_good(s: Words, coupon: int, at_us: int) -> int:
    """Why a coupon is not good at a moment; T_EMPTY: it is."""
    if coupon == 0:
        return T_UNKNOWN_COUPON
    outcome = s[coupon + C_OUTCOME]
    if outcome == T_USED:
        return T_COUPON_USED
    if outcome == T_EXPIRED:
        return T_COUPON_EXPIRED
    if outcome != GOOD:
        return T_COUPON_VOIDED
    return T_TOO_EARLY if at_us < s[coupon + C_SINCE] else T_EMPTY
