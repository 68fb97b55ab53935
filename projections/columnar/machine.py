"""The account's state machine over integers: what `domain.loyalty` decides about an account, fact by fact.

Plain functions of integers and one array, and of the domain's own integer functions: `compiling` turns them into
machine code, and Python runs them as they are.

All that it works on is one array, `s`. Its first words (`V_…`) are registers; the rule sets follow (`rulebook` writes
them), then regions for what an account has, for scratch, and for the decisions that fall. Rules, lots, holds, coupons
are records in it, named by the index at which they begin. Of the fact at hand, registers say when it was and what it
says; what the rule sets see of it, and its items (lines), are copied in.

A decision is a run of integers ("words"): its kind, its time, then its clear fields in their order; ids as two words, a
tuple as its length and its items. So it can be compared with what the domain decides, or with what was recorded, word
by word.
"""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSequence
from typing import TypeAlias

from tallybook.domain.account import POINTS_MAX
from tallybook.domain.arithmetic import allocate, given_back, level_after, level_reached, quotient, room
from tallybook.domain.calendar import (
    DAY,
    DAY_US,
    MONTH,
    calendar_year_us,
    civil_from_days,
    days_later,
    local_day,
    local_us,
    midnight_months_later,
    period_number,
    year_start_us,
)
from tallybook.domain.lots import EXACT, FOR_EVER, NEVER, end_us

from .compiling import Memory, address, view

Words: TypeAlias = Memory
"""64-bit integers, one after another."""
Array: TypeAlias = MutableSequence[int]
"""A one-dimensional array of them, as Python hands it in."""
Rows: TypeAlias = MutableMapping[tuple[int, int], int]
"""A two-dimensional one, by row and column."""

LONG_AGO = -(2**62)
NONE = -(2**63)
"""Stands for None among words."""

# fmt: off
# ── registers ─────────────────────────────────────────────────────────────────────────────────────────────────────

(
    V_OVER, V_STATUS, V_SUSPENDED, V_TIER, V_TIER_SINCE, V_LENT, V_OVERRIDE, V_ENROLLED, V_CLOCK, V_MOVED, V_FORGIVEN,
    V_MEMBER, V_PROGRAMME, V_ACCOUNT, V_VERSION, V_HORIZON, V_SWEPT, V_FOLLOWED, V_PASSED, V_MODE,
    # what is known without reckoning it anew: nothing is due before; whether that holds while points come in order;
    # where the window begins, and of which calendar its entries know when they leave; a year of tiers
    V_QUIET, V_STEADY, V_FIRST, V_CALENDAR, V_YEAR_RULES, V_YEAR_LAST, V_YEAR_FROM, V_YEAR_UNTIL, V_SEVERAL,
    # of what is counted by month: the month of the last decision, and where that begins and ends
    V_MONTH, V_MONTH_FROM, V_MONTH_UNTIL,
    # redemptions for which there is too little now, and that are paid now; the points lacking that were honoured
    V_LACKING, V_FUNDED, V_SHORT,
    # the fact at hand
    V_KIND, V_ROW, V_POS, V_AT, V_A, V_B, V_C, V_D, V_POS_A, V_POS_D, V_ITEM1, V_TRAIT, V_ROW0, V_SEEN, V_LINED, V_PAID,
    # regions: where they begin, how far they are used, where they end
    V_LOT0, V_LOTS, V_LOT_END, V_LINE0, V_LINES, V_LINE_END, V_PART0, V_PARTS, V_PART_END, V_HOLD0, V_HOLDS, V_HOLD_END,
    V_COUPON0, V_COUPONS, V_COUPON_END, V_SPENDING0, V_SPENDINGS, V_SPENDING_END, V_SUSPENSION0, V_SUSPENSIONS,
    V_SUSPENSION_END, V_WINDOW0, V_WINDOWS, V_WINDOW_END, V_MOMENT0, V_MOMENTS, V_MOMENT_END, V_COUNT0, V_COUNTS,
    V_COUNT_END, V_TEMP0, V_TEMPS, V_TEMP_END, V_OUT0, V_OUTS, V_OUT_END,
    V_MAP0, V_MAP_END, V_SPENT0, V_SLOTS, V_STEP0, V_STEPS, V_STEP_END, V_OUTCOME,
    V_ITEMS0, V_ITEM_END, V_ITEM_WORDS,
    # four orders: where they begin, where the first stands, how many there are, where the region ends
    V_ACTIVE_ORDER, V_ACTIVE_HEAD, V_ACTIVE_N, V_ACTIVE_END, V_PENDING_ORDER, V_PENDING_HEAD, V_PENDING_N,
    V_PENDING_END, V_HELD_ORDER, V_HELD_HEAD, V_HELD_N, V_HELD_END, V_DUE_ORDER, V_DUE_HEAD, V_DUE_N, V_DUE_END,
    # answers of functions that give more than one
    V_CHANGE_TIER, V_CHANGE_POINTS, V_CHANGE_RULES, V_CHANGE_REASON, V_PLACE,
    # what is counted of all accounts: balances by month, points by rule (0: it is not); when months begin
    V_TALLY, V_RULE_TALLY, V_MONTH0, V_MONTHS, V_UNFUNDED,
    V_BUCKETS,
) = range(125)

# Balances, from V_BUCKETS on, in this order.
(
    EARNED, TRANSFERRED_IN, ADJUSTED_UP, REINSTATED, DEBT, PENDING, ACTIVE, HELD,
    SPENT, EXPIRED, REVERSED, TRANSFERRED_OUT, ADJUSTED_DOWN,
) = range(13)
BALANCES = 13
REGISTERS = V_BUCKETS + BALANCES
"""Where the rule sets begin."""

OPEN, SUSPENDED, CLOSED = 0, 1, 2

# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────

(
    L_FACT, L_NUMBER, L_EARNED, L_ACTIVATES, L_EXPIRES, L_ACTIVE, L_PENDING, L_LOST, L_LOST_AT, L_RECOVERABLE,
    L_RULE, L_OPEN, L_PIECES, L_LINE0, L_LINE1,
) = range(15)
LOT = 15
N_BASIS, N_POINTS, N_QUALIFYING, N_RETURNED = range(4)
LINE = 4
P_LOT, P_POINTS = 0, 1
PART = 2
H_FACT, H_UNTIL, H_PART0, H_PART1, H_POINTS = range(5)
HOLD = 5
R_PART0, R_PART1 = range(2)
SPENDING = 2
C_ID0, C_ID1, C_SINCE, C_EXPIRES, C_REASON, C_FORFEITED, C_OUTCOME = range(7)
COUPON = 7
W_AT, W_POINTS, W_BEFORE, W_LEAVES = range(4)
WINDOW = 4
"""`W_BEFORE`: the sum of the points of all entries before this one. `W_LEAVES`: when it counts no more; NONE: that was
not reckoned yet."""
GOOD = 0
"""The outcome of a coupon that is good; of others, the code of the text."""
MAP = 4
"""For each row of the account: its first lot, its hold, its spending, its coupon."""
M_LOT, M_HOLD, M_SPENDING, M_COUPON = range(4)

# ── the array of rule sets ────────────────────────────────────────────────────────────────────────────────────────

(
    RS_LABEL, RS_ROUNDING, RS_OF_BASE, RS_LEVEL0, RS_LEVELS, RS_WINDOW, RS_MONTHS, RS_BALANCE, RS_DOWNGRADE, RS_GRACE,
    RS_HOLD, RS_REFUND, RS_NEW_LOT, RS_TRANSFERS, RS_KEEP_AGES, RS_INACTIVE, RS_EXPIRY, RS_REWARD0, RS_REWARDS,
    RS_LIMIT0, RS_LIMITS, RS_ZONE0, RS_ZONES, RS_RANK0, RS_RANKS, RS_FACTOR0, RS_X, RS_Y, RS_SLOTS,
    RS_INPUT0, RS_THRESHOLD0, RS_DAY0, RS_DAYS, RS_OFFSETS, RS_MONTH_NUMBERS, RS_LEAVING, RS_HELD, RS_IDLE,
    RS_CALENDAR, RS_RULES,
) = range(40)
RULE_SET = RS_RULES + 8
"""From RS_RULES on: for each kind of fact, where its rules begin and where they end."""
ON_PURCHASE, ON_ACTIVITY, ON_ENROLMENT, ON_REFERRAL = range(4)
ROLLING, CALENDAR_YEAR, MEMBERSHIP_YEAR, LIFETIME = range(4)
PENDING_ONLY, WITHIN_BALANCE, AS_DEBT = range(3)
L_TIER, L_GRANTED_BY, L_GRANT0, L_GRANTS = range(4)
LEVEL = 4
(
    E_KIND, E_POINTS, E_PER, E_WHOLE, E_GIVES, E_GROUP, E_BEST, E_MULTIPLIED, E_EXPIRY, E_PENDING, E_CAP0, E_CAPS,
    E_CODE, E_FACTOR, E_NUMERATOR, E_DENOMINATOR, E_MASK, E_MEASURED, E_PICKS, E_TALLY,
) = range(20)
RULE = 20
PER_AMOUNT, PER_PIECE, FIXED, MULTIPLIER = range(4)
BOTH, POINTS, QUALIFYING = range(3)
CAP_SLOT, CAP_PERIOD, CAP_MOST, CAP_COUNTER, CAP_PERIOD_CODE = range(5)
CAP = 5
X_UNIT, X_COUNT, X_UNTIL, X_ACTIVATED, X_TABLE = range(5)
EXPIRY = 5
REWARD_CODE, REWARD_PRICE, REWARD_TIER0, REWARD_TIERS, REWARD_SEGMENT0, REWARD_SEGMENTS = range(6)
REWARD_COUNTED, REWARD_DAYS, REWARD_FORFEITED = 6, 7, 8
REWARD = 9
LIMIT_ON, LIMIT_PERIOD, LIMIT_PERIOD_CODE, LIMIT_COUNT, LIMIT_POINTS, LIMIT_SLOT_COUNT, LIMIT_SLOT_POINTS = range(7)
LIMIT_CODE_COUNT, LIMIT_CODE_POINTS = 7, 8
LIMIT = 9
LIMIT_EARN, LIMIT_REDEEM, LIMIT_TRANSFER = range(3)

# Registers that lead to the rest of it. From B_VERSION0 on stands, for each version of the rule book: its first
# adoption in force, how many these are, how many adoptions there were in all.
B_VERSION0, B_CONTROL0, B_CONTROLS, B_PURCHASES = range(REGISTERS, REGISTERS + 4)
BOOK = REGISTERS + 4
VERSION = 3
ADOPTION = 2
CONTROL = 5
CONTROL_POS, CONTROL_KIND, CONTROL_VALUE, CONTROL_PASSED0, CONTROL_PASSED = range(5)
RULES_ADOPTED, SWEEP_BEGUN, SWEEP_ENDED = range(3)

# ── kinds of facts and decisions ──────────────────────────────────────────────────────────────────────────────────

FACTS = (
    "loyalty.enrolled", "customer.purchase_recorded", "customer.return_recorded", "loyalty.activity_recorded",
    "loyalty.earning_confirmed", "loyalty.earning_withdrawn", "loyalty.redemption_requested",
    "loyalty.redemption_returned", "loyalty.hold_requested", "loyalty.hold_release_requested",
    "loyalty.transfer_requested", "loyalty.transfer_received", "loyalty.goodwill_granted",
    "loyalty.correction_recorded", "loyalty.extension_granted", "loyalty.reinstatement_granted",
    "loyalty.tier_overridden", "loyalty.tier_override_lifted", "loyalty.referral_credited", "loyalty.referral_reduced",
    "loyalty.coupon_granted", "loyalty.coupon_used", "loyalty.coupon_voided", "loyalty.suspended", "loyalty.resumed",
    "loyalty.closed",
)
(
    F_ENROLLED, F_PURCHASE, F_RETURN, F_ACTIVITY, F_CONFIRMED, F_WITHDRAWN, F_REDEEM, F_REDEMPTION_RETURNED, F_HOLD,
    F_HOLD_RELEASE, F_TRANSFER, F_RECEIVED, F_GOODWILL, F_CORRECTION, F_EXTENSION, F_REINSTATEMENT, F_OVERRIDE, F_LIFT,
    F_REFERRAL, F_REDUCED, F_COUPON_GRANTED, F_COUPON_USED, F_COUPON_VOIDED, F_SUSPENDED, F_RESUMED, F_CLOSED,
) = range(26)
NAMING = {
    F_RETURN: (0,), F_CONFIRMED: (0,), F_WITHDRAWN: (0,), F_REDEEM: (3,), F_REDEMPTION_RETURNED: (0,),
    F_HOLD_RELEASE: (0,), F_EXTENSION: (0,), F_REDUCED: (0,), F_COUPON_USED: (0,), F_COUPON_VOIDED: (0,),
}
"""The slots of facts that name rows."""

DECISIONS = (
    "loyalty.points_earned", "loyalty.earning_refused", "loyalty.points_activated", "loyalty.points_credited",
    "loyalty.points_redeemed", "loyalty.redemption_refused", "loyalty.redemption_reversed", "loyalty.points_held",
    "loyalty.hold_refused", "loyalty.hold_released", "loyalty.points_expired", "loyalty.earning_reversed",
    "loyalty.points_transferred", "loyalty.transfer_refused", "loyalty.points_corrected", "loyalty.lots_extended",
    "loyalty.tier_changed", "loyalty.coupon_issued", "loyalty.coupon_closed", "loyalty.coupon_refused",
)
(
    D_EARNED, D_EARNING_REFUSED, D_ACTIVATED, D_CREDITED, D_REDEEMED, D_REDEMPTION_REFUSED, D_REDEMPTION_REVERSED,
    D_HELD, D_HOLD_REFUSED, D_RELEASED, D_EXPIRED, D_REVERSED, D_TRANSFERRED, D_TRANSFER_REFUSED, D_CORRECTED,
    D_EXTENDED, D_TIER, D_COUPON_ISSUED, D_COUPON_CLOSED, D_COUPON_REFUSED,
) = range(20)

CODES = (
    "", "none@0", "expiry", "inactivity", "closed", "released", "captured", "expired", "enrolled", "points_earned",
    "earning_reversed", "balance_changed", "override_ended", "rules_changed", "window_moved", "overridden", "used",
    "voided", "withdrawn", "redeemed", "granted", "returned", "forfeited", "minor", "pieces", "transferred_in",
    "adjusted_up", "reinstated", "limit_exceeded", "account_full", "account_suspended", "account_closed",
    "unknown_reward", "tier_required", "segment_required", "out_of_stock", "insufficient_points",
    "transfers_not_allowed", "unknown_coupon", "coupon_used", "coupon_voided", "coupon_expired", "effective_too_early",
    "coupon_whole",
)
"""Texts that the machine itself writes: their codes are their places."""
(
    T_EMPTY, T_NO_RULES, T_EXPIRY, T_INACTIVITY, T_CLOSED, T_RELEASED, T_CAPTURED, T_EXPIRED, T_ENROLLED,
    T_POINTS_EARNED, T_EARNING_REVERSED, T_BALANCE_CHANGED, T_OVERRIDE_ENDED, T_RULES_CHANGED, T_WINDOW_MOVED,
    T_OVERRIDDEN, T_USED, T_VOIDED, T_WITHDRAWN, T_REDEEMED, T_GRANTED, T_RETURNED, T_FORFEITED, T_MINOR, T_PIECES,
    T_TRANSFERRED_IN, T_ADJUSTED_UP, T_REINSTATED, T_LIMIT, T_FULL, T_SUSPENDED_ACCOUNT, T_CLOSED_ACCOUNT,
    T_UNKNOWN_REWARD, T_TIER_REQUIRED, T_SEGMENT_REQUIRED, T_OUT_OF_STOCK, T_INSUFFICIENT, T_NO_TRANSFERS,
    T_UNKNOWN_COUPON, T_COUPON_USED, T_COUPON_VOIDED, T_COUPON_EXPIRED, T_TOO_EARLY, T_COUPON_WHOLE,
) = range(44)

STEP = 2
"""Where the decisions of a fact begin: its position, the index of the first word."""
PAID, REFUSED, HONOURED = 1, 2, 3
REJECT, CLAMP, DEFICIT = range(3)
"""What becomes of a redemption that was paid and can't be any more."""
BY_RULE = 2
"""Of each rule: the points that it gave, and how often; of a multiplier: the points that it multiplied."""
SLOTS, ITEMS = 4, 6
"""How many numbers a fact and an item have in their columns."""
END = 2**62
"""Stands for the position after all."""
NO_REF, UNKNOWN_REF = -2, -16
"""A reference of a fact: the row of what it names; NO_REF: None; from UNKNOWN_REF downwards: an id of no event here."""
UNKNOWN_ID = -(2**40)
GRANT_BITS = 20
SILENT, STEPS, ALL = 0, 1, 2
"""What of decisions is written: nothing; what two rule sets may differ in; everything."""
# fmt: on


# ── words that are written ────────────────────────────────────────────────────────────────────────────────────────


def put(s: Words, word: int) -> None:
    """Write a word of a decision."""
    at = s[V_OUTS]
    if at < s[V_OUT_END]:
        s[at] = word
    else:
        s[V_OVER] = 1
    s[V_OUTS] = at + 1


def put_id(s: Words, first: int, second: int) -> None:
    """Write an id."""
    put(s, first)
    put(s, second)


def put_lot(s: Words, lot: int) -> None:
    """Write the id of a lot."""
    put_id(s, s[lot + L_FACT], s[lot + L_NUMBER])


def put_parts(s: Words, parts: int, count: int) -> None:
    """Write parts of lots."""
    if s[V_MODE] == SILENT:
        return
    put(s, count)
    for place in range(parts, parts + count * PART, PART):
        put_lot(s, s[place + P_LOT])
        put(s, s[place + P_POINTS])


def begin(s: Words, kind: int, at_us: int, rules: int) -> None:
    """Begin a decision: it is counted, and the account's clock goes on. The facts follow (`because`)."""
    if at_us > s[V_CLOCK]:
        s[V_CLOCK] = at_us
    if s[V_TALLY] != 0 and not s[V_MONTH_FROM] <= at_us < s[V_MONTH_UNTIL]:
        find_month(s, at_us)
    if s[V_SEVERAL] != 0:
        # At the account's clock, other rules may hold than those that decided last.
        s[V_QUIET] = LONG_AGO
    if s[V_MODE] == SILENT:
        return
    put(s, kind)
    put(s, at_us)
    if s[V_MODE] == ALL:
        put(s, T_NO_RULES if rules < 0 else s[rules + RS_LABEL])


def find_month(s: Words, at_us: int) -> None:
    """The month of a decision; what lies before the first counts as of the first, what lies after the last as of it."""
    low, high = 1, s[V_MONTHS]
    while low < high:
        middle = (low + high) // 2
        if s[s[V_MONTH0] + middle] <= at_us:
            low = middle + 1
        else:
            high = middle
    s[V_MONTH] = low - 1
    s[V_MONTH_FROM] = LONG_AGO if low == 1 else s[s[V_MONTH0] + low - 1]
    s[V_MONTH_UNTIL] = NEVER + 1 if low == s[V_MONTHS] else s[s[V_MONTH0] + low]


def change(s: Words, bucket: int, by: int) -> None:
    """A balance becomes another: the only place where one does."""
    s[V_BUCKETS + bucket] += by
    if s[V_TALLY] != 0:
        s[s[V_TALLY] + s[V_MONTH] * BALANCES + bucket] += by


def because(s: Words, first: int, second: int) -> None:
    """Write the one fact that a decision rests on."""
    if s[V_MODE] == SILENT:
        return
    put(s, 1)
    put_id(s, first, second)
    put(s, s[V_PROGRAMME])


def because_of_lots(s: Words, parts: int, count: int) -> None:
    """Write the facts that lots were earned for, each once."""
    if s[V_MODE] == SILENT:
        return
    put(s, 0)
    counter = s[V_OUTS] - 1
    found = 0
    for place in range(parts, parts + count * PART, PART):
        fact = s[s[place + P_LOT] + L_FACT]
        known = False
        for before in range(parts, place, PART):
            if s[s[before + P_LOT] + L_FACT] == fact:
                known = True
                break
        if not known:
            put_id(s, fact, 0)
            found += 1
    if s[V_OVER] == 0:
        s[counter] = found
    put(s, s[V_PROGRAMME])


def because_of_nothing(s: Words) -> None:
    """Write that no fact is named."""
    if s[V_MODE] == SILENT:
        return
    put(s, 0)
    put(s, s[V_PROGRAMME])


def used(s: Words, at_us: int) -> None:
    """The account was in use: inactivity counts from now."""
    if at_us > s[V_MOVED]:
        s[V_MOVED] = at_us


# ── room ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def more(s: Words, pointer: int, size: int) -> int:
    """So many words more of a region, whose first, next and last word the registers from `pointer` - 1 on name; the
    region's beginning, where there is no room: then nothing that follows counts."""
    at = s[pointer]
    if at + size > s[pointer + 1]:
        s[V_OVER] = 1
        return s[pointer - 1]
    s[pointer] = at + size
    return at


def push(s: Words, lot: int, points: int) -> None:
    """Note so many points of a lot."""
    at = more(s, V_TEMPS, PART)
    s[at + P_LOT] = lot
    s[at + P_POINTS] = points


def noted(s: Words, since: int) -> int:
    """How many parts were noted since."""
    return (s[V_TEMPS] - since) // PART


# ── orders ────────────────────────────────────────────────────────────────────────────────────────────────────────
#
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


# ── moves ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── rule sets ─────────────────────────────────────────────────────────────────────────────────────────────────────


def in_force(s: Words, at_us: int) -> int:
    """The rule set for a moment, in the account's programme, as known now; -1: none."""
    version = s[B_VERSION0] + s[V_VERSION] * VERSION
    first, count = s[version], s[version + 1]
    found = -1
    for place in range(first, first + count * ADOPTION, ADOPTION):
        if s[place] > at_us:
            break
        found = s[place + 1]
    return found


def rank(s: Words, rules: int, tier: int) -> int:
    """A tier's place from 0; -1 for none, or one that these rules don't know."""
    if tier < 0 or tier >= s[rules + RS_RANKS]:
        return -1
    return s[s[rules + RS_RANK0] + tier]


def tier_at(s: Words, rules: int, place: int) -> int:
    """The tier of a place."""
    return s[s[rules + RS_LEVEL0] + place * LEVEL + L_TIER]


def starts_of(s: Words, rules: int) -> Array:
    """From when on each offset of the rule set's zone counts."""
    return view(s, s[rules + RS_ZONE0], s[rules + RS_ZONES])


def offsets_of(s: Words, rules: int) -> Array:
    """The offsets of the rule set's zone."""
    return view(s, s[rules + RS_ZONE0] + s[rules + RS_ZONES], s[rules + RS_ZONES])


def turns_of(s: Words, rules: int) -> Array:
    """The wall-clock times from which on each offset but the first counts."""
    return view(s, s[rules + RS_ZONE0] + 2 * s[rules + RS_ZONES], s[rules + RS_ZONES] - 1)


def offset_us(s: Words, rules: int, at_us: int) -> int:
    """What the rule set's clocks are ahead, from two days before a moment up to two days after; NONE: not known so."""
    day = at_us // DAY_US - s[rules + RS_DAY0]
    if day < 0 or day >= s[rules + RS_DAYS]:
        return NONE
    return s[s[rules + RS_OFFSETS] + day]


def day_place(s: Words, rules: int, at_us: int) -> int:
    """The place of a moment's local day in the tables by day; -1: they can't be asked about it."""
    day = at_us // DAY_US - s[rules + RS_DAY0]
    if day < 1 or day >= s[rules + RS_DAYS] - 1:
        return -1
    ahead_us = s[s[rules + RS_OFFSETS] + day]
    if ahead_us == NONE:
        return -1
    of_day = at_us - (day + s[rules + RS_DAY0]) * DAY_US + ahead_us
    if of_day < 0:
        return day - 1
    return day + 1 if of_day >= DAY_US else day


def days_after(s: Words, rules: int, at_us: int, days: int) -> int:
    """The same wall-clock time so many days later, in the rule set's zone."""
    then_us = at_us + days * DAY_US
    ahead_us = offset_us(s, rules, at_us)
    if ahead_us != NONE and offset_us(s, rules, then_us) == ahead_us:
        return then_us
    return days_later(starts_of(s, rules), offsets_of(s, rules), turns_of(s, rules), at_us, days)


def months_after(s: Words, rules: int, table: int, at_us: int, months: int) -> int:
    """Midnight at which the same day so many months later begins, in the rule set's zone; the rule set's `table` has
    that by day."""
    place = day_place(s, rules, at_us)
    if place >= 0:
        known_us = s[s[rules + table] + place]
        if known_us != NONE:
            return known_us
    return midnight_months_later(starts_of(s, rules), offsets_of(s, rules), turns_of(s, rules), at_us, months)


def period_of(s: Words, rules: int, at_us: int, period: int) -> int:
    """The number of the day, month or year of a moment, in the rule set's zone."""
    place = day_place(s, rules, at_us)
    if place >= 0:
        if period == DAY:
            return place + s[rules + RS_DAY0]
        month = s[s[rules + RS_MONTH_NUMBERS] + place]
        return month if period == MONTH else month // 12
    return period_number(starts_of(s, rules), offsets_of(s, rules), at_us, period)


def expires_us(s: Words, rules: int, expiry: int, from_us: int) -> int:
    """When points expire that count from a moment."""
    if s[expiry + X_UNIT] == FOR_EVER:
        return NEVER
    place = day_place(s, rules, from_us)
    if place >= 0:
        known_us = s[s[expiry + X_TABLE] + place]
        if known_us != NONE:
            return from_us + known_us if s[expiry + X_UNTIL] == EXACT else known_us
    return end_us(
        starts_of(s, rules),
        offsets_of(s, rules),
        turns_of(s, rules),
        from_us,
        s[expiry + X_UNIT],
        s[expiry + X_COUNT],
        s[expiry + X_UNTIL],
    )


def yearly(s: Words, rules: int) -> bool:
    """Whether tiers go by years."""
    return CALENDAR_YEAR <= s[rules + RS_WINDOW] <= MEMBERSHIP_YEAR


def year_of(s: Words, rules: int, at_us: int, years: int) -> int:
    """When the year began by which tiers go, of a moment, or one so many years later."""
    if years == 0 or years == -1 or years == 1:
        if s[V_YEAR_RULES] != rules or not s[V_YEAR_FROM] <= at_us < s[V_YEAR_UNTIL]:
            s[V_YEAR_RULES] = rules
            s[V_YEAR_LAST] = reckoned_year(s, rules, at_us, -1)
            s[V_YEAR_FROM] = reckoned_year(s, rules, at_us, 0)
            s[V_YEAR_UNTIL] = reckoned_year(s, rules, at_us, 1)
        return s[V_YEAR_FROM + years]
    return reckoned_year(s, rules, at_us, years)


def reckoned_year(s: Words, rules: int, at_us: int, years: int) -> int:
    """The same, from the calendar."""
    starts, offsets, turns = starts_of(s, rules), offsets_of(s, rules), turns_of(s, rules)
    if s[rules + RS_WINDOW] == CALENDAR_YEAR:
        return calendar_year_us(starts, offsets, turns, at_us, years)
    return year_start_us(starts, offsets, turns, s[V_ENROLLED], at_us, years)


# ── what counts for tiers ─────────────────────────────────────────────────────────────────────────────────────────


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
        s[V_QUIET] = LONG_AGO
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
    several = s[version + 2] > 1
    if several:
        # Rules that were adopted since, from before the account's clock, hold from the clock on.
        moment(s, clock_us, T_RULES_CHANGED)
        for place in range(first, first + count * ADOPTION, ADOPTION):
            if clock_us < s[place] <= until_us:
                moment(s, s[place], T_RULES_CHANGED)
    rules = in_force(s, clock_us)
    if rules >= 0:
        moments(s, rules, clock_us, until_us)
    if several:
        for place in range(first, first + count * ADOPTION, ADOPTION):
            if clock_us < s[place] <= until_us:
                moments(s, s[place + 1], clock_us, until_us)
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
    if s[V_OVERRIDE] != NONE and s[V_OVERRIDE] >= clock_us and s[V_OVERRIDE] > after_us:
        found_us = s[V_OVERRIDE]
    if s[V_SEVERAL] != 0 and clock_us > after_us:
        return clock_us
    from_us = max(clock_us, after_us)
    rules = in_force(s, clock_us)
    if rules >= 0:
        found_us = min(found_us, next_moment_of(s, rules, from_us))
    if s[V_SEVERAL] != 0:
        version = s[B_VERSION0] + s[V_VERSION] * VERSION
        first, count = s[version], s[version + 1]
        for place in range(first, first + count * ADOPTION, ADOPTION):
            if s[place] > from_us:
                return min(found_us, s[place])
            if s[place] > clock_us:
                found_us = min(found_us, next_moment_of(s, s[place + 1], from_us))
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
        if in_all - before(s, place) < keeps:
            at_us = leaving(s, rules, place - WINDOW)
            due_us = at_us if grace == 0 else days_after(s, rules, at_us, grace)
            if due_us > after_us:
                return min(found_us, due_us)
    s[V_STEADY] = 0
    return found_us


# ── tiers that change ─────────────────────────────────────────────────────────────────────────────────────────────


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
    s[V_QUIET] = LONG_AGO
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


# ── coupons ───────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── what time alone does ──────────────────────────────────────────────────────────────────────────────────────────

T_ACTIVATE, T_TIER, T_HOLD, T_EXPIRE, T_INACTIVE, T_COUPON, T_EXPIRE_PENDING = 0, 1, 2, 3, 4, 5, 6


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
    change_us = next_tier_change(s, min(until_us, at_us))
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
    return min(at_us, next_moment(s, after_us))


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
        s[V_FORGIVEN] -= s[place + P_POINTS]


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


# ── counters ──────────────────────────────────────────────────────────────────────────────────────────────────────
#
# What was counted in a period: of each slot (a counter and a period) the last period and its amount; then what there
# was in earlier ones, as slot, number, amount.


def counted(s: Words, slot: int, number: int) -> int:
    """What was counted in a slot in a period."""
    at = s[V_COUNT0] + slot * 2
    if s[at] == number:
        return s[at + 1]
    if s[at] < number:
        return 0
    place = s[V_COUNTS] - 3
    while place >= s[V_COUNT0] + s[V_SLOTS] * 2:
        if s[place] == slot and s[place + 1] == number:
            return s[place + 2]
        place -= 3
    return 0


def count(s: Words, slot: int, number: int, amount: int) -> None:
    """Count an amount in a slot in a period."""
    at = s[V_COUNT0] + slot * 2
    if s[at] == number:
        s[at + 1] += amount
        return
    if s[at] < number:
        if s[at + 1] != 0:
            older = more(s, V_COUNTS, 3)
            if s[V_OVER] != 0:
                return
            s[older] = slot
            s[older + 1] = s[at]
            s[older + 2] = s[at + 1]
        s[at] = number
        s[at + 1] = amount
        return
    place = s[V_COUNTS] - 3
    while place >= s[V_COUNT0] + s[V_SLOTS] * 2:
        if s[place] == slot and s[place + 1] == number:
            s[place + 2] += amount
            return
        place -= 3
    older = more(s, V_COUNTS, 3)
    if s[V_OVER] != 0:
        return
    s[older] = slot
    s[older + 1] = number
    s[older + 2] = amount


USE = 5
"""A use that is to be counted: counter, period, number, amount, slot."""


def note_use(s: Words, counter: int, period: int, number: int, amount: int, slot: int) -> None:
    """Note what is counted; of the same counter and period, together."""
    at = more(s, V_TEMPS, USE)
    s[at] = counter
    s[at + 1] = period
    s[at + 2] = number
    s[at + 3] = amount
    s[at + 4] = slot


def put_uses(s: Words, uses: int, until: int) -> None:
    """Write what is counted."""
    if s[V_MODE] == SILENT:
        return
    put(s, (until - uses) // USE)
    for place in range(uses, until, USE):
        for field in range(4):
            put(s, s[place + field])


def count_uses(s: Words, uses: int, until: int) -> None:
    """Count what was noted."""
    for place in range(uses, until, USE):
        count(s, s[place + 4], s[place + 2], s[place + 3])


def limited(s: Words, on: int, points: int, at_us: int, rules: int) -> int:
    """Whether a limit does not let so many points through; what they count against limits is noted from V_TEMPS on."""
    first = s[rules + RS_LIMIT0]
    noted_from = s[V_TEMPS]
    for limit in range(first, first + s[rules + RS_LIMITS] * LIMIT, LIMIT):
        if s[limit + LIMIT_ON] != on:
            continue
        number = period_of(s, rules, at_us, s[limit + LIMIT_PERIOD])
        if s[limit + LIMIT_COUNT] >= 0:
            if counted(s, s[limit + LIMIT_SLOT_COUNT], number) + 1 > s[limit + LIMIT_COUNT]:
                s[V_TEMPS] = noted_from
                return 1
            note_use(
                s, s[limit + LIMIT_CODE_COUNT], s[limit + LIMIT_PERIOD_CODE], number, 1, s[limit + LIMIT_SLOT_COUNT]
            )
        if s[limit + LIMIT_POINTS] >= 0:
            if counted(s, s[limit + LIMIT_SLOT_POINTS], number) + points > s[limit + LIMIT_POINTS]:
                s[V_TEMPS] = noted_from
                return 1
            note_use(
                s,
                s[limit + LIMIT_CODE_POINTS],
                s[limit + LIMIT_PERIOD_CODE],
                number,
                points,
                s[limit + LIMIT_SLOT_POINTS],
            )
    return 0


def fits(s: Words, points: int, more_qualifying: int) -> bool:
    """Whether so many points can come still."""
    came = 0
    for bucket in range(EARNED, DEBT + 1):
        came += s[V_BUCKETS + bucket]
    return came + points <= POINTS_MAX and before(s, s[V_WINDOWS]) + more_qualifying <= POINTS_MAX


def barred(s: Words, at_us: int) -> int:
    """Why nothing of a moment is earned or spent; T_EMPTY: it is."""
    if s[V_STATUS] == SUSPENDED:
        return T_SUSPENDED_ACCOUNT
    if s[V_STATUS] == CLOSED:
        return T_CLOSED_ACCOUNT
    for place in range(s[V_SUSPENSION0], s[V_SUSPENSIONS], 2):
        if s[place] <= at_us < s[place + 1]:
            return T_SUSPENDED_ACCOUNT
    return T_EMPTY


# ── earning ───────────────────────────────────────────────────────────────────────────────────────────────────────

S_RULE, S_UNCAPPED, S_POINTS, S_QUALIFYING, S_CUT, S_MULTIPLIER, S_LOT, S_WEIGHTS = range(8)
SHARE = 8
BY_AMOUNTS, BY_PIECES, BY_REFERRAL, BY_NOTHING = range(4)
G_ACTIVATES, G_EXPIRES, G_OPEN, G_POINTS, G_QUALIFYING, G_CUT = range(6)
GIVEN = 6


def item_at(s: Words, item: int) -> int:
    """Where an item of the fact at hand stands: three numbers of it, and then what the rule sets see of it."""
    return s[V_ITEMS0] + item * s[V_ITEM_WORDS]


def weight_of(s: Words, rules: int, rule: int, by: int, item: int) -> int:
    """What of an item counts for a rule."""
    if by == BY_REFERRAL:
        return s[item_at(s, item)]
    column = s[rules + RS_Y]
    weight = s[item_at(s, item) + 3 + column] if by == BY_AMOUNTS else s[item_at(s, item) + 3 + column + 1]
    if s[rule + E_PICKS] >= 0 and not (s[item_at(s, item) + 3 + s[rule + E_PICKS]] >> (s[V_TIER] + 1)) & 1:
        return 0
    return weight


def holds(s: Words, x: Words, rule: int, bit: int) -> bool:
    """Whether a rule's conditions hold for the fact at hand, in the tier that a bit stands for."""
    column = s[rule + E_MASK]
    return column < 0 or (x[column + s[V_SEEN]] >> bit) & 1 != 0


def earn(s: Words, x: Words, rules: int, on: int) -> int:
    """What the fact at hand earns: a lot for each age that rules give; 1, if points were earned, 2, if something else
    was decided."""
    at_us = s[V_AT]
    if s[V_STATUS] == CLOSED or at_us < s[V_ENROLLED]:
        return 0
    first, last = s[rules + RS_RULES + 2 * on], s[rules + RS_RULES + 2 * on + 1]
    item0, item1 = 0, s[V_ITEM1]
    weighs = 0
    if on == ON_PURCHASE:
        weighs = x[s[rules + RS_X] + s[V_SEEN]]
        if weighs == 0:
            return 0  # in a currency without a rate
    elif on == ON_REFERRAL:
        some = False
        for item in range(item0, item1):
            some = some or s[item_at(s, item)] != 0
        if not some:
            item1 = item0
    else:
        item1 = item0
    tier = s[V_TIER]
    bit = tier + 1
    by = -1
    for rule in range(first, last, RULE):
        if s[rule + E_KIND] != MULTIPLIER or not holds(s, x, rule, bit):
            continue
        if by < 0 or s[rule + E_NUMERATOR] * s[by + E_DENOMINATOR] > s[by + E_NUMERATOR] * s[rule + E_DENOMINATOR]:
            by = rule
    level = rank(s, rules, tier) + 1
    multiplied = 0 if by < 0 else s[by + E_FACTOR]
    factor = s[rules + RS_FACTOR0] + (multiplied * (s[rules + RS_LEVELS] + 1) + level) * 2
    numerator_of, denominator_of = s[factor], s[factor + 1]
    rounding = s[rules + RS_ROUNDING]
    shares = s[V_TEMPS]
    for rule in range(first, last, RULE):
        kind = s[rule + E_KIND]
        if kind == MULTIPLIER or not holds(s, x, rule, bit):
            continue
        weights = BY_NOTHING
        if kind == FIXED:
            numerator, denominator = s[rule + E_POINTS], 1
            if on == ON_PURCHASE:
                if weighs == 1:
                    continue
                weights = BY_AMOUNTS if weighs == 2 else BY_PIECES
            elif on == ON_REFERRAL:
                weights = BY_REFERRAL
        else:
            measured = s[V_A]
            if on == ON_PURCHASE:
                by_tier = bit * s[B_PURCHASES] if s[rule + E_WHOLE] > 1 else 0
                measured = x[s[rule + E_MEASURED] + by_tier + s[V_SEEN]]
            if measured == 0:
                continue
            denominator = s[rule + E_PER]
            whole = s[rule + E_WHOLE] & 1
            numerator = s[rule + E_POINTS] * (measured // denominator * denominator if whole else measured)
            if on == ON_PURCHASE:
                weights = BY_AMOUNTS if kind == PER_AMOUNT else BY_PIECES
        if s[rule + E_MULTIPLIED] != 0:
            uncapped = quotient(numerator * numerator_of, denominator * denominator_of, rounding)
        else:
            uncapped = quotient(numerator, denominator, rounding)
        counts = quotient(numerator, denominator, rounding) if s[rules + RS_OF_BASE] != 0 else uncapped
        share = more(s, V_TEMPS, SHARE)
        if s[V_OVER] != 0:
            return 0
        gives = s[rule + E_GIVES]
        s[share + S_RULE] = rule
        s[share + S_UNCAPPED] = uncapped
        s[share + S_POINTS] = 0 if gives == QUALIFYING else uncapped
        s[share + S_QUALIFYING] = 0 if gives == POINTS else min(counts, uncapped)
        s[share + S_CUT] = 0
        s[share + S_MULTIPLIER] = by if s[rule + E_MULTIPLIED] != 0 else -1
        s[share + S_LOT] = -1
        s[share + S_WEIGHTS] = weights
    if s[V_TEMPS] == shares:
        return 0
    choose(s, shares)
    cap(s, rules, shares, at_us)
    given = s[V_TEMPS]
    group(s, rules, shares, given, at_us)
    if s[V_OVER] != 0:
        return 0
    givens = (s[V_TEMPS] - given) // GIVEN
    points = in_all = found = 0
    for one in range(given, given + givens * GIVEN, GIVEN):
        if s[one + G_POINTS] != 0 or s[one + G_QUALIFYING] != 0 or s[one + G_CUT] != 0:
            found += 1
            points += s[one + G_POINTS]
            in_all += s[one + G_QUALIFYING]
    if found == 0:
        return 0
    limits = s[V_TEMPS]
    code = T_LIMIT if limited(s, LIMIT_EARN, points, at_us, rules) else T_EMPTY
    limits_end = s[V_TEMPS]
    if not fits(s, points, in_all):
        code = T_FULL
    bar = barred(s, at_us)
    if bar != T_EMPTY:
        code = bar
    if code != T_EMPTY:
        begin(s, D_EARNING_REFUSED, at_us, rules)
        because(s, s[V_POS], 0)
        if s[V_MODE] != SILENT:
            put(s, points)
            put(s, code)
        return 2
    number = 0
    for place in range(givens):
        one = given + place * GIVEN
        if s[one + G_POINTS] != 0 or s[one + G_QUALIFYING] != 0 or s[one + G_CUT] != 0:
            uses_end = limits_end if number == 0 else limits
            earned(s, rules, on, shares, given, place, number, item0, item1, limits, uses_end)
            number += 1
        if s[V_OVER] != 0:
            return 0
    if s[V_TALLY] != 0:
        tally_rules(s, shares, given)
    return 1


def tally_rules(s: Words, shares: int, given: int) -> None:
    """Count what each rule gave."""
    for share in range(shares, given, SHARE):
        one = given + s[share + S_LOT] * GIVEN
        if s[one + G_POINTS] == 0 and s[one + G_QUALIFYING] == 0 and s[one + G_CUT] == 0:
            continue
        points = s[share + S_POINTS]
        at = s[V_RULE_TALLY] + s[s[share + S_RULE] + E_TALLY] * BY_RULE
        s[at] += points
        s[at + 1] += 1
        if s[share + S_MULTIPLIER] >= 0:
            at = s[V_RULE_TALLY] + s[s[share + S_MULTIPLIER] + E_TALLY] * BY_RULE
            s[at] += points
            s[at + 1] += 1


def choose(s: Words, shares: int) -> None:
    """Of each group the best or the first; of two that give the same, the first. The others are taken out."""
    end = s[V_TEMPS]
    kept = shares
    for share in range(shares, end, SHARE):
        rule = s[share + S_RULE]
        wins = True
        if s[rule + E_GROUP] >= 0:
            for other in range(shares, end, SHARE):
                if other == share or s[s[other + S_RULE] + E_GROUP] != s[rule + E_GROUP]:
                    continue
                more_of = s[other + S_UNCAPPED] > s[share + S_UNCAPPED]
                alike = s[other + S_UNCAPPED] == s[share + S_UNCAPPED]
                if s[rule + E_BEST] != 0:
                    if more_of or (alike and other < share):
                        wins = False
                elif other < share:
                    wins = False
        s[share + S_LOT] = 0 if wins else -2
    for share in range(shares, end, SHARE):
        if s[share + S_LOT] == 0:
            for field in range(SHARE):
                s[kept + field] = s[share + field]
            kept += SHARE
    s[V_TEMPS] = kept


def cap(s: Words, rules: int, shares: int, at_us: int) -> None:
    """In the order of the rules, each is cut by its own caps and then by what the programme's leave."""
    spent = s[V_SPENT0]
    for slot in range(s[rules + RS_SLOTS]):
        s[spent + slot] = 0
    for share in range(shares, s[V_TEMPS], SHARE):
        rule = s[share + S_RULE]
        first, caps = s[rule + E_CAP0], s[rule + E_CAPS]
        if caps == 0:
            continue
        left = s[share + S_UNCAPPED]
        for one in range(first, first + caps * CAP, CAP):
            had = s[spent + s[one + CAP_SLOT]]
            if s[one + CAP_PERIOD] >= 0:
                had += counted(s, s[one + CAP_SLOT], period_of(s, rules, at_us, s[one + CAP_PERIOD]))
            left = min(left, room(s[one + CAP_MOST], had))
        for one in range(first, first + caps * CAP, CAP):
            s[spent + s[one + CAP_SLOT]] += left
        s[share + S_POINTS] = min(s[share + S_POINTS], left)
        s[share + S_QUALIFYING] = min(s[share + S_QUALIFYING], left)
        s[share + S_CUT] = s[share + S_UNCAPPED] - left


def group(s: Words, rules: int, shares: int, given: int, at_us: int) -> None:
    """Shares of one age are one lot. What each lot has in all is noted from `given` on."""
    for share in range(shares, given, SHARE):
        rule = s[share + S_RULE]
        waits, expiry = s[rule + E_PENDING], s[rule + E_EXPIRY]
        activates = at_us
        if waits != 0:
            activates = NEVER if waits < 0 else days_after(s, rules, at_us, waits)
        opens = -1
        if s[expiry + X_ACTIVATED] == 0:
            ends = expires_us(s, rules, expiry, at_us)
        elif activates <= at_us:
            ends = expires_us(s, rules, expiry, activates)
        else:
            opens = expiry
            ends = NEVER if activates >= NEVER else expires_us(s, rules, expiry, activates)
        found = -1
        for one in range(given, s[V_TEMPS], GIVEN):
            if s[one + G_ACTIVATES] == activates and s[one + G_EXPIRES] == ends and s[one + G_OPEN] == opens:
                found = one
                break
        if found < 0:
            found = more(s, V_TEMPS, GIVEN)
            if s[V_OVER] != 0:
                return
            s[found + G_ACTIVATES] = activates
            s[found + G_EXPIRES] = ends
            s[found + G_OPEN] = opens
            s[found + G_POINTS] = 0
            s[found + G_QUALIFYING] = 0
            s[found + G_CUT] = 0
        s[share + S_LOT] = (found - given) // GIVEN
        s[found + G_POINTS] += s[share + S_POINTS]
        s[found + G_QUALIFYING] += s[share + S_QUALIFYING]
        s[found + G_CUT] += s[share + S_CUT]


def earned(
    s: Words, rules: int, on: int, shares: int, given: int, place: int,
    number: int, item0: int, item1: int, limits: int, limits_end: int,
) -> None:  # fmt: skip
    """Points of one age are earned: one lot."""
    one = given + place * GIVEN
    at_us = s[V_AT]
    points, counts = s[one + G_POINTS], s[one + G_QUALIFYING]
    lines = 0
    if s[V_LINED] != 0:
        lines = item1 - item0 if item1 > item0 else 1
    line0 = more(s, V_LINES, lines * LINE)
    # Temporarily, what each line gets stands in two runs, as `allocate` takes them.
    weights = more(s, V_TEMPS, 3 * lines)
    if s[V_OVER] != 0:
        return
    shared, qualified = weights + lines, weights + 2 * lines
    for place_of_line in range(lines):
        s[shared + place_of_line] = 0
        s[qualified + place_of_line] = 0
    if lines == 0:
        pass
    elif item1 == item0:
        # No lines: it comes back whole, or not at all.
        s[shared] = points
        s[qualified] = counts
    else:
        for share in range(shares, given, SHARE):
            if s[share + S_LOT] != place or (s[share + S_POINTS] == 0 and s[share + S_QUALIFYING] == 0):
                continue
            by = s[share + S_WEIGHTS]
            if by == BY_NOTHING:
                continue
            if lines == 1:
                if weight_of(s, rules, s[share + S_RULE], by, item0) > 0:
                    s[shared] += s[share + S_POINTS]
                    s[qualified] += s[share + S_QUALIFYING]
                continue
            weighs = False
            for line in range(lines):
                s[weights + line] = weight_of(s, rules, s[share + S_RULE], by, item0 + line)
                weighs = weighs or s[weights + line] != 0
            if weighs:
                allocate(s[share + S_POINTS], view(s, weights, lines), view(s, shared, lines))
                allocate(s[share + S_QUALIFYING], view(s, weights, lines), view(s, qualified, lines))
    # By amounts, unless one is so small that a piece of its line has none.
    in_minor = lines > 0 and item1 > item0
    for line in range(lines if in_minor else 0):
        if s[shared + line] != 0 or s[qualified + line] != 0:
            pieces = s[item_at(s, item0 + line) + 3 + s[rules + RS_Y] + 1] if on == ON_PURCHASE else 1
            if s[item_at(s, item0 + line) + 0] < pieces:
                in_minor = False
    for line in range(lines):
        at = line0 + line * LINE
        earns = s[shared + line] != 0 or s[qualified + line] != 0
        basis = 1
        if in_minor:
            basis = s[item_at(s, item0 + line) + 0]
        elif on == ON_PURCHASE and item1 > item0:
            basis = s[item_at(s, item0 + line) + 3 + s[rules + RS_Y] + 1]
        s[at + N_BASIS] = basis if earns else 0
        s[at + N_POINTS] = s[shared + line]
        s[at + N_QUALIFYING] = s[qualified + line]
        s[at + N_RETURNED] = 0
    activates, ends = s[one + G_ACTIVATES], s[one + G_EXPIRES]
    paid = min(s[V_BUCKETS + DEBT], points) if activates <= at_us else 0
    uses = s[V_TEMPS]
    uses_of(s, rules, shares, given, place, at_us)
    uses_end = s[V_TEMPS]
    if s[V_OVER] != 0:
        return
    begin(s, D_EARNED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put_id(s, s[V_POS], number)
        put(s, points)
        put(s, counts)
        put(s, activates)
        put(s, ends)
        if s[V_MODE] == ALL:
            put_rules(s, shares, given, place)
        put(s, lines)
        for line in range(lines):
            for field in range(N_RETURNED):
                put(s, s[line0 + line * LINE + field])
        put(s, T_MINOR if in_minor else T_PIECES)
        put(s, s[V_TIER])
        put(s, paid)
        put(s, s[one + G_CUT])
        put(s, (uses_end - uses + limits_end - limits) // USE)
        for use in range(uses, uses_end, USE):
            for field in range(4):
                put(s, s[use + field])
        for use in range(limits, limits_end, USE):
            for field in range(4):
                put(s, s[use + field])
        first = s[rules + RS_INPUT0] + (on * s[s[rules + RS_INPUT0] - 1] + s[V_TRAIT]) * 2
        put(s, s[first + 1])
        for text in range(s[first], s[first] + s[first + 1]):
            put(s, s[text])
        put(s, 1 if s[one + G_OPEN] >= 0 else 0)
    lot = new_lot(s, number, at_us, activates, ends)
    if s[V_OVER] != 0:
        return
    s[lot + L_LINE0] = line0
    s[lot + L_LINE1] = line0 + lines * LINE
    s[lot + L_PIECES] = 0 if in_minor else 1
    s[lot + L_OPEN] = 1 if s[one + G_OPEN] >= 0 else 0
    s[lot + L_RULE] = first_rule(s, shares, given, place)
    if points != 0 or counts != 0:
        used(s, at_us)
    move(s, lot, EARNED, PENDING if activates > at_us else ACTIVE, points)
    if paid > 0:
        move(s, lot, ACTIVE, DEBT, paid)
    qualify(s, at_us, counts)
    count_uses(s, uses, uses_end)
    count_uses(s, limits, limits_end)


def first_rule(s: Words, shares: int, given: int, place: int) -> int:
    """The first of the rules that gave a lot."""
    for share in range(shares, given, SHARE):
        if s[share + S_LOT] == place and (s[share + S_POINTS] != 0 or s[share + S_QUALIFYING] != 0):
            return s[s[share + S_RULE] + E_CODE]
    return T_EMPTY


def put_rules(s: Words, shares: int, given: int, place: int) -> None:
    """Write the rules that gave a lot, and then the one that multiplied."""
    put(s, 0)
    counter = s[V_OUTS] - 1
    found = 0
    multiplier = -1
    for share in range(shares, given, SHARE):
        if s[share + S_LOT] == place and (s[share + S_POINTS] != 0 or s[share + S_QUALIFYING] != 0):
            put(s, s[s[share + S_RULE] + E_CODE])
            found += 1
            if s[share + S_MULTIPLIER] >= 0:
                multiplier = s[share + S_MULTIPLIER]
    if multiplier >= 0:
        put(s, s[multiplier + E_CODE])
        found += 1
    if s[V_OVER] == 0:
        s[counter] = found


def uses_of(s: Words, rules: int, shares: int, given: int, place: int, at_us: int) -> None:
    """Note what of a lot counts against caps: of each rule that has some, and of the programme."""
    uses = s[V_TEMPS]
    for share in range(shares, given, SHARE):
        if s[share + S_LOT] != place:
            continue
        rule = s[share + S_RULE]
        first = s[rule + E_CAP0]
        amount = max(s[share + S_POINTS], s[share + S_QUALIFYING])
        for one in range(first, first + s[rule + E_CAPS] * CAP, CAP):
            if s[one + CAP_PERIOD] < 0:
                continue
            known = False
            for use in range(uses, s[V_TEMPS], USE):
                if s[use + 4] == s[one + CAP_SLOT]:
                    s[use + 3] += amount
                    known = True
            if not known:
                number = period_of(s, rules, at_us, s[one + CAP_PERIOD])
                note_use(s, s[one + CAP_COUNTER], s[one + CAP_PERIOD_CODE], number, amount, s[one + CAP_SLOT])
            if s[V_OVER] != 0:
                return
    # What came to nothing is not told.
    kept = uses
    for use in range(uses, s[V_TEMPS], USE):
        if s[use + 3] != 0:
            for field in range(USE):
                s[kept + field] = s[use + field]
            kept += USE
    s[V_TEMPS] = kept


# ── taking back ───────────────────────────────────────────────────────────────────────────────────────────────────

BY_LINES, WHOLE, BY_CREDIT = range(3)
"""What came back: lines of a return, all of it, or lines of a purchase that a referral was credited for."""


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
    s[V_FORGIVEN] += rest
    for line in range(lines):
        s[s[lot + L_LINE0] + line * LINE + N_RETURNED] += s[back + line]
    s[lot + L_LOST] -= lost
    s[lot + L_RECOVERABLE] += recoverable
    qualify(s, s[lot + L_EARNED], -counts)
    return 1


# ── spending ──────────────────────────────────────────────────────────────────────────────────────────────────────


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
        put_ref(s, ref, s[V_POS_D])
    put_uses(s, uses, uses_end)
    if s[V_MODE] != SILENT:
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


# ── what comes without an earning rule ────────────────────────────────────────────────────────────────────────────


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


# ── where facts meet rules ────────────────────────────────────────────────────────────────────────────────────────


def applied(s: Words) -> None:
    """What a fact of the account's own stream changes by itself."""
    kind, at_us = s[V_KIND], s[V_AT]
    if kind == F_ENROLLED:
        s[V_MEMBER] = 1
        s[V_ENROLLED] = at_us
        s[V_CLOCK] = at_us
        s[V_MOVED] = at_us
        s[V_QUIET] = LONG_AGO
    elif kind == F_SUSPENDED:
        s[V_STATUS] = SUSPENDED
        s[V_SUSPENDED] = at_us
    elif kind == F_RESUMED:
        s[V_STATUS] = OPEN
        if at_us > s[V_SUSPENDED]:
            at = more(s, V_SUSPENSIONS, 2)
            s[at] = s[V_SUSPENDED]
            s[at + 1] = at_us
    elif kind == F_CLOSED:
        s[V_STATUS] = CLOSED
    elif kind == F_OVERRIDE:
        # One that was over before it was told leaves alone what is decided since.
        s[V_QUIET] = LONG_AGO
        if s[V_B] > s[V_CLOCK]:
            s[V_OVERRIDE] = s[V_B]
    elif kind == F_LIFT and s[V_OVERRIDE] != NONE:
        # What is told later of a time before that still meets the override.
        s[V_QUIET] = LONG_AGO
        s[V_OVERRIDE] = min(s[V_OVERRIDE], max(at_us, s[V_CLOCK]))


def brings(s: Words) -> int:
    """How many points, or what debt, the fact at hand brings without an earning rule."""
    kind = s[V_KIND]
    if kind in (F_GOODWILL, F_REINSTATEMENT):
        return s[V_A]
    if kind == F_CORRECTION:
        return s[V_A] if s[V_B] != 0 else 0
    if kind == F_RECEIVED:
        points = 0
        for item in range(s[V_ITEM1]):
            points += s[item_at(s, item)]
        return points
    if kind == F_REDEMPTION_RETURNED:
        return s[V_B]
    if kind == F_COUPON_VOIDED:
        spending = mapped(s, s[V_A], M_SPENDING) if s[V_A] >= 0 else 0
        return 0 if spending == 0 else spent_points(s, spending)
    return -1


def receive(s: Words, x: Words) -> None:
    """Decide what the fact at hand decides. What is due by then is settled."""
    kind, effective_us = s[V_KIND], s[V_AT]
    rules = in_force(s, effective_us) if s[V_MEMBER] != 0 else -1
    if rules < 0:
        return
    more_points = brings(s)
    if more_points >= 0 and not fits(s, more_points, 0):
        return
    active, at_us = s[V_BUCKETS + ACTIVE], max(effective_us, s[V_CLOCK])
    takes = kind in (F_RETURN, F_WITHDRAWN, F_REDUCED)
    then = in_force(s, at_us) if takes else -1
    counts = qualifying(s, then, at_us) if then >= 0 else 0
    reason = react(s, x, rules)
    if s[V_OVER] != 0:
        return
    if then >= 0 and qualifying(s, then, at_us) == counts:
        # What was taken did not count for the tier any more.
        reason = -1
    moved = s[V_BUCKETS + ACTIVE] != active
    if reason < 0 and moved:
        reason = T_BALANCE_CHANGED
    if reason >= 0:
        evaluate_tier(s, s[V_POS], effective_us, reason, 1 if moved else 0)
    if s[V_SWEPT] != 0:
        # A late fact may bring a lot or a tier that is over already by the last sweep.
        settle(s, s[V_HORIZON])


def earning_on(kind: int) -> int:
    """Which earning rules are about a kind of fact."""
    if kind == F_PURCHASE:
        return ON_PURCHASE
    if kind == F_ACTIVITY:
        return ON_ACTIVITY
    return ON_ENROLMENT if kind == F_ENROLLED else ON_REFERRAL


def react(s: Words, x: Words, rules: int) -> int:
    """Decide about the fact at hand; why the tier is looked at then, -1: it is not."""
    kind, at_us = s[V_KIND], s[V_AT]
    s[V_TEMPS] = s[V_TEMP0]
    if kind == F_ENROLLED:
        change_tier(s, at_us, s[V_POS], rules, tier_at(s, rules, 0), 0, T_ENROLLED, NONE)
        s[V_TEMPS] = s[V_TEMP0]
    if kind in (F_PURCHASE, F_ACTIVITY, F_REFERRAL, F_ENROLLED):
        return T_POINTS_EARNED if earn(s, x, rules, earning_on(kind)) == 1 else -1
    if kind == F_RETURN:
        return T_EARNING_REVERSED if take_back(s, rules, s[V_A], 0, BY_LINES) else -1
    if kind == F_WITHDRAWN:
        return T_EARNING_REVERSED if take_back(s, rules, s[V_A], s[V_B], WHOLE) else -1
    if kind == F_REDUCED:
        return T_EARNING_REVERSED if take_back(s, rules, s[V_A], s[V_B], BY_CREDIT) else -1
    if kind == F_CONFIRMED:
        confirm(s, rules)
    elif kind == F_REDEEM:
        redeem(s, rules)
    elif kind == F_REDEMPTION_RETURNED:
        spending = mapped(s, s[V_A], M_SPENDING) if s[V_A] >= 0 else 0
        coupon = mapped(s, s[V_A], M_COUPON) if s[V_A] >= 0 else 0
        points = spent_points(s, spending) if spending != 0 and s[V_C] != 0 else s[V_B]
        if why_not_returned(s, spending, coupon, points, at_us) == T_EMPTY:
            back = give_back(s, rules, spending, points)
            if back != 0 and coupon != 0:
                close_coupon(s, at_us, s[V_POS], 0, rules, coupon, T_VOIDED)
    elif kind == F_HOLD:
        hold_points(s, rules)
    elif kind == F_HOLD_RELEASE:
        hold = mapped(s, s[V_A], M_HOLD) if s[V_A] >= 0 else 0
        if hold != 0 and s[hold + H_PART0] != s[hold + H_PART1]:
            release(s, at_us, rules, s[V_POS], hold, T_RELEASED)
    elif kind == F_TRANSFER:
        send(s, rules)
    elif kind == F_RECEIVED:
        receive_transfer(s, rules)
    elif kind == F_GOODWILL:
        lots = s[V_TEMPS]
        ends_us = expires_us(s, rules, s[rules + RS_EXPIRY], at_us)
        push(s, new_lot(s, 0, at_us, at_us, ends_us), s[V_A])
        credit(s, rules, ADJUSTED_UP, T_ADJUSTED_UP, lots, s[V_TEMPS], 0)
    elif kind == F_REINSTATEMENT:
        reinstate(s, rules)
    elif kind == F_CORRECTION:
        correct(s, rules)
    elif kind == F_EXTENSION:
        extend(s, rules)
    elif kind == F_OVERRIDE:
        then_us = max(at_us, s[V_CLOCK])
        if s[V_A] != s[V_TIER] and s[V_B] > then_us:
            points = qualifying(s, rules, then_us)
            change_tier(s, then_us, s[V_POS], rules, s[V_A], points, T_OVERRIDDEN, s[V_B])
    elif kind == F_LIFT:
        then_us = max(at_us, s[V_CLOCK])
        if s[V_OVERRIDE] == then_us:
            after_points(s, rules, then_us, 1)
            if s[V_CHANGE_TIER] != s[V_TIER] or standing(s) != s[V_TIER]:
                change_tier(s, then_us, s[V_POS], rules, s[V_CHANGE_TIER], s[V_CHANGE_POINTS], T_OVERRIDE_ENDED, NONE)
    elif kind == F_COUPON_GRANTED:
        award(s, rules)
    elif kind == F_COUPON_USED:
        present(s, rules)
    elif kind == F_COUPON_VOIDED:
        coupon = coupon_meant(s)
        if why_not_good(s, coupon, at_us) == T_EMPTY:
            forfeits = s[coupon + C_FORFEITED] != 0
            close_coupon(s, at_us, s[V_POS], 0, rules, coupon, T_VOIDED)
            spending = mapped(s, s[V_A], M_SPENDING) if s[V_A] >= 0 else 0
            if spending != 0 and not forfeits:
                give_back(s, rules, spending, spent_points(s, spending))
    elif kind == F_CLOSED:
        while s[V_DUE_N] > 0 and s[V_OVER] == 0:
            close_coupon(s, at_us, s[V_POS], 0, rules, s[s[V_DUE_HEAD]], T_EXPIRED)
        expire_all(s, at_us, rules, s[V_POS], T_CLOSED)
    return -1


def confirm(s: Words, rules: int) -> None:
    """What pending points wait for has happened."""
    at_us, row = s[V_AT], s[V_A]
    if row < 0:
        return
    due = s[V_TEMPS]
    place = 0
    while True:
        lot = lot_named(s, row, s[V_B] ^ place)
        if lot == 0:
            break
        if s[lot + L_PENDING] != 0:
            push(s, lot, s[lot + L_PENDING])
        place += 1
    count_of = noted(s, due)
    if count_of == 0 or s[V_OVER] != 0:
        return
    begin(s, D_ACTIVATED, at_us, rules)
    because(s, s[V_POS], 0)
    activate(s, at_us, rules, due, count_of)


def award(s: Words, rules: int) -> None:
    """A coupon is to be given by hand."""
    at_us = s[V_AT]
    reward = reward_of(s, rules, s[V_A])
    code = T_EMPTY
    if reward < 0 or s[reward + REWARD_DAYS] < 0:
        code = T_UNKNOWN_REWARD
    elif s[reward + REWARD_COUNTED] != 0 and s[V_B] != 0:
        code = T_OUT_OF_STOCK
    if code == T_EMPTY:
        issue(s, at_us, s[V_POS], rules, s[V_POS], 0, reward, T_GRANTED)
        return
    begin(s, D_COUPON_REFUSED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        put_id(s, s[V_POS], 0)
        put(s, code)


TIER_COUPON = -3
"""A reference to a coupon that a tier granted: V_B and V_C are its id."""


def coupon_meant(s: Words) -> int:
    """The coupon that the fact at hand names; 0: there is none."""
    if s[V_A] >= 0:
        return mapped(s, s[V_A], M_COUPON)
    return coupon_named(s, s[V_B], s[V_C]) if s[V_A] == TIER_COUPON else 0


def present(s: Words, rules: int) -> None:
    """A coupon was presented."""
    at_us = s[V_AT]
    code = barred(s, at_us)
    coupon = coupon_meant(s)
    if code == T_EMPTY:
        code = why_not_good(s, coupon, at_us)
    if code == T_EMPTY:
        close_coupon(s, at_us, s[V_POS], 0, rules, coupon, T_USED)
        return
    begin(s, D_COUPON_REFUSED, at_us, rules)
    because(s, s[V_POS], 0)
    if s[V_MODE] != SILENT:
        if s[V_A] == TIER_COUPON:
            put_id(s, s[V_B], s[V_C])
        else:
            put_ref(s, s[V_A], s[V_POS_A])
        put(s, code)


# ── an account, from its first fact to its last ───────────────────────────────────────────────────────────────────


def reset(s: Words, rows: int) -> None:
    """An account that nothing has happened to."""
    for register in range(V_OVER, V_LOT0):
        if register != V_MODE and register != V_ACCOUNT and register != V_PROGRAMME:
            s[register] = 0
    for bucket in range(BALANCES):
        s[V_BUCKETS + bucket] = 0
    s[V_TIER] = -1
    s[V_LENT] = NONE
    s[V_OVERRIDE] = NONE
    for pointer in range(V_LOTS, V_MAP0, 3):
        s[pointer] = s[pointer - 1]
    s[V_STEPS] = s[V_STEP0]
    for order in range(V_ACTIVE_ORDER, V_CHANGE_TIER, 4):
        s[order + 1] = s[order]
        s[order + 2] = 0
    for slot in range(s[V_SLOTS]):
        s[s[V_COUNT0] + 2 * slot] = LONG_AGO
        s[s[V_COUNT0] + 2 * slot + 1] = 0
    s[V_COUNTS] = s[V_COUNT0] + 2 * s[V_SLOTS]
    s[V_FIRST] = s[V_WINDOW0]
    s[V_YEAR_RULES] = -1
    know_rules(s, 0)
    if s[V_MAP0] + rows * MAP > s[V_MAP_END]:
        s[V_OVER] = 1
        return
    for place in range(s[V_MAP0], s[V_MAP0] + rows * MAP):
        s[place] = 0


def step(s: Words, position: int, began: int) -> None:
    """Note where the decisions of a fact begin, if there are some."""
    if s[V_OUTS] > began:
        at = more(s, V_STEPS, STEP)
        s[at] = position
        s[at + 1] = began
    s[V_OUTCOME] = 0


def decide(
    s: Array, x: Array, y: Rows, it: Rows, positions: Array, kinds: Array, times: Array, accounts: Array, slots: Rows,
    items: Array, traits: Array, lined: Array, ordinals: Array, depth: int, paid: Array,
    row0: int, row1: int,
) -> None:  # fmt: skip
    """Run one account (V_ACCOUNT) over the rows of its customer, as `run` does."""
    run(
        address(s), address(x), address(y), address(it), address(positions), address(kinds), address(times),
        address(accounts), address(slots), address(items), address(traits), address(lined), address(ordinals), depth,
        address(paid), 0, row0, row1,
    )  # fmt: skip


def run(
    s: Words, x: Words, y: Words, it: Words, positions: Words, kinds: Words, times: Words, accounts: Words,
    slots: Words, items: Words, traits: Words, lined: Words, ordinals: Words, depth: int, paid: Words, reads: int,
    row0: int, row1: int,
) -> None:  # fmt: skip
    """All that an account (V_ACCOUNT, of V_PROGRAMME) decides about the rows of its customer, in their order.

    `x` and `y` are what the rule sets see: `x` of facts, a column after the other, in which each fact stands at its
    place among those of its kind (`ordinals`); `y` of items, `depth` numbers of each. `it` are the items; the others
    are columns of `Facts`. Whether a redemption is paid is noted in `paid` by row, unless that `reads` what was paid
    under other rules. Whether there was room for it all is told by V_OVER.
    """
    reset(s, row1 - row0)
    s[V_ROW0] = row0
    control, controls = s[B_CONTROL0], s[B_CONTROL0] + s[B_CONTROLS] * CONTROL
    exists = False
    s[V_FOLLOWED] = 1
    account, silent = s[V_ACCOUNT], s[V_MODE] == SILENT
    for row in range(row0, row1):
        if accounts[row] >= 0 and accounts[row] != account:
            continue
        if accounts[row] < 0 and not exists:
            continue
        position = positions[row]
        while control < controls and s[control + CONTROL_POS] < position:
            follow(s, control, exists)
            control += CONTROL
        exists = True
        s[V_KIND] = kinds[row]
        s[V_ROW] = row
        s[V_POS] = position
        s[V_AT] = times[row]
        slot = row * SLOTS
        s[V_A] = slots[slot]
        s[V_B] = slots[slot + 1]
        s[V_C] = slots[slot + 2]
        s[V_D] = slots[slot + 3]
        s[V_POS_A] = positions[slots[slot]] if row0 <= slots[slot] < row1 else 0
        s[V_POS_D] = positions[slots[slot + 3]] if row0 <= slots[slot + 3] < row1 else 0
        s[V_TRAIT] = traits[row]
        s[V_SEEN] = ordinals[row]
        s[V_PAID] = paid[row] if reads != 0 else 0
        s[V_LINED] = 0 if silent and lined[row] == 0 else 1
        copy_items(s, y, it, items[row], items[row + 1], depth)
        if s[V_OVER] != 0:
            return
        began = s[V_OUTS]
        until_us = times[row]
        if s[V_SWEPT] != 0:
            until_us = max(until_us, s[V_HORIZON])
        settle(s, until_us)
        if accounts[row] >= 0:
            applied(s)
        receive(s, x)
        if reads == 0:
            paid[row] = s[V_OUTCOME]
        elif s[V_PAID] == PAID and s[V_OUTCOME] in (REFUSED, HONOURED):
            s[V_LACKING] += 1
        elif s[V_PAID] == REFUSED and s[V_OUTCOME] == PAID:
            s[V_FUNDED] += 1
        step(s, position, began)
        if s[V_OVER] != 0:
            return
    while control < controls and exists:
        follow(s, control, exists)
        control += CONTROL
    if exists and s[V_SWEPT] != 0 and (s[V_FOLLOWED] == 0 or s[V_PASSED] != 0):
        began = s[V_OUTS]
        settle(s, s[V_HORIZON])
        step(s, END, began)


def copy_items(s: Words, y: Words, it: Words, item0: int, item1: int, depth: int) -> None:
    """Take in the items of the fact at hand."""
    s[V_ITEM1] = item1 - item0
    s[V_ITEM_WORDS] = 3 + depth
    if s[V_ITEMS0] + (item1 - item0) * (3 + depth) > s[V_ITEM_END]:
        s[V_OVER] = 1
        return
    if s[V_KIND] == F_PURCHASE and s[V_LINED] == 0:
        return
    at = s[V_ITEMS0]
    for item in range(item0, item1):
        for field in range(3):
            s[at + field] = it[item * ITEMS + field]
        for column in range(depth):
            s[at + 3 + column] = y[item * depth + column]
        at += 3 + depth


def know_rules(s: Words, version: int) -> None:
    """From now on a version of the rule book is known."""
    s[V_VERSION] = version
    s[V_SEVERAL] = 1 if s[s[B_VERSION0] + version * VERSION + 2] > 1 else 0
    s[V_QUIET] = LONG_AGO


def follow(s: Words, control: int, exists: bool) -> None:
    """What the book itself does: rule sets are adopted, a sweep begins, or ends: then every account follows it that was
    not passed over."""
    kind = s[control + CONTROL_KIND]
    if kind == RULES_ADOPTED:
        know_rules(s, s[control + CONTROL_VALUE])
    elif kind == SWEEP_BEGUN:
        s[V_HORIZON] = s[control + CONTROL_VALUE]
        s[V_SWEPT] = 1
        s[V_FOLLOWED] = 0
        s[V_PASSED] = 0
    else:
        due = s[V_SWEPT] != 0 and (s[V_FOLLOWED] == 0 or s[V_PASSED] != 0)
        passed = passes(s, control)
        if exists and due and not passed:
            began = s[V_OUTS]
            settle(s, s[V_HORIZON])
            step(s, s[control + CONTROL_POS], began)
        s[V_FOLLOWED] = 1
        s[V_PASSED] = 1 if passed else 0


def passes(s: Words, control: int) -> bool:
    """Whether a sweep passed the account over."""
    first = s[control + CONTROL_PASSED0]
    found = False
    for place in range(first, first + s[control + CONTROL_PASSED]):
        found = found or s[place] == s[V_ACCOUNT]
    return found


# ── many accounts ─────────────────────────────────────────────────────────────────────────────────────────────────

(
    O_DIFFERS, O_UNFUNDED, O_FUNDED, O_SHORT, O_TIER, O_BUCKETS,
) = range(6)  # fmt: skip
OUTCOME = O_BUCKETS + BALANCES
"""What came of an account: its tier and balances; beside another rule book, the position of the first fact about which
they decide otherwise (END: of a sweep; 0: nowhere), how many redemptions there is too little for now, and how many are
paid now; the points that were lacking where they were honoured."""


def replay(
    s: Array, x: Array, y: Rows, it: Rows, positions: Array, kinds: Array, times: Array, accounts: Array, slots: Rows,
    items: Array, traits: Array, lined: Array, ordinals: Array, depth: int, paid: Array, reads: int, places: Array,
    first: Array, last: Array, out: Rows, done: int,
) -> int:  # fmt: skip
    """Run accounts (`places`; the rows of each are `first` up to `last`), from the one at `done` on; what came of each
    is in a row of `out`. How many are done: fewer than there are, where the next one needs more room.
    """
    words, outcomes = address(s), address(out)
    for place in range(done, len(places)):
        words[V_ACCOUNT] = places[place]
        run(
            words, address(x), address(y), address(it), address(positions), address(kinds), address(times),
            address(accounts), address(slots), address(items), address(traits), address(lined), address(ordinals),
            depth, address(paid), reads, first[place], last[place],
        )  # fmt: skip
        if words[V_OVER] != 0:
            return place
        ends(words, outcomes, place)
    return len(places)


def compare(
    s: Array, x: Array, y: Rows, other: Array, other_x: Array, other_y: Rows, it: Rows, positions: Array, kinds: Array,
    times: Array, accounts: Array, slots: Rows, items: Array, traits: Array, lined: Array, ordinals: Array,
    paid: Array, places: Array, first: Array, last: Array, depths: Array, out: Rows, other_out: Rows, done: int,
) -> int:  # fmt: skip
    """The same under two rule books, side by side: `depths` are those of `y` and `other_y`."""
    one, two = address(s), address(other)
    for place in range(done, len(places)):
        one[V_ACCOUNT] = places[place]
        two[V_ACCOUNT] = places[place]
        run(
            one, address(x), address(y), address(it), address(positions), address(kinds), address(times),
            address(accounts), address(slots), address(items), address(traits), address(lined), address(ordinals),
            depths[0], address(paid), 0, first[place], last[place],
        )  # fmt: skip
        run(
            two, address(other_x), address(other_y), address(it), address(positions), address(kinds), address(times),
            address(accounts), address(slots), address(items), address(traits), address(lined), address(ordinals),
            depths[1], address(paid), 1, first[place], last[place],
        )  # fmt: skip
        if one[V_OVER] != 0 or two[V_OVER] != 0:
            return place
        ends(one, address(out), place)
        ends(two, address(other_out), place)
        address(other_out)[place * OUTCOME + O_DIFFERS] = differs(one, two)
    return len(places)


def ends(s: Words, out: Words, place: int) -> None:
    """Note what came of an account."""
    at = place * OUTCOME
    out[at + O_DIFFERS] = 0
    out[at + O_UNFUNDED] = s[V_LACKING]
    out[at + O_FUNDED] = s[V_FUNDED]
    out[at + O_SHORT] = s[V_SHORT]
    out[at + O_TIER] = s[V_TIER]
    for bucket in range(BALANCES):
        out[at + O_BUCKETS + bucket] = s[V_BUCKETS + bucket]


def differs(s: Words, other: Words) -> int:
    """The position of the first fact about which two runs of an account decide otherwise; 0: nowhere."""
    mine, theirs = s[V_STEP0], other[V_STEP0]
    while mine < s[V_STEPS] or theirs < other[V_STEPS]:
        if theirs >= other[V_STEPS]:
            return s[mine]
        if mine >= s[V_STEPS]:
            return other[theirs]
        if s[mine] != other[theirs]:
            return min(s[mine], other[theirs])
        my_end = s[mine + STEP + 1] if mine + STEP < s[V_STEPS] else s[V_OUTS]
        their_end = other[theirs + STEP + 1] if theirs + STEP < other[V_STEPS] else other[V_OUTS]
        words = my_end - s[mine + 1]
        if their_end - other[theirs + 1] != words:
            return s[mine]
        for word in range(words):
            if s[s[mine + 1] + word] != other[other[theirs + 1] + word]:
                return s[mine]
        mine += STEP
        theirs += STEP
    return 0


# ── what is reckoned for many facts at once ───────────────────────────────────────────────────────────────────────


def rate_lines(
    rows: Array, item: Array, it: Rows, rated: Array, currencies: Array, numerators: Array, denominators: Array,
    rounding: int, tax: int, shipping: int, net0: int, known: Array, net: Array, amounts: Array, pieces: Array,
) -> None:  # fmt: skip
    """What lines of purchases come to in the programme's currency: `net`, and `amounts` with all that counts.

    `rated`: the currency of each purchase; `known`: whether it has a rate. `net0`, `tax`, `shipping`: 1 if that counts.
    """
    at = 0
    for place in range(len(rows)):
        rate = -1
        for one in range(len(currencies)):
            if currencies[one] == rated[place]:
                rate = one
        known[place] = 1 if rate >= 0 else 0
        for line in range(item[rows[place]], item[rows[place] + 1]):
            minor = it[line, 0]
            whole = net0 * minor + tax * it[line, 2] + shipping * it[line, 3]
            net[at] = minor
            amounts[at] = whole
            if rate >= 0 and (numerators[rate] != 1 or denominators[rate] != 1):
                net[at] = quotient(minor * numerators[rate], denominators[rate], rounding)
                amounts[at] = quotient(whole * numerators[rate], denominators[rate], rounding)
            pieces[at] = it[line, 1]
            at += 1


def sum_lines(
    rows: Array, item: Array, known: Array, amounts: Array, pieces: Array, y: Rows, column: int, weighs: Array,
    in_all: Array, in_pieces: Array,
) -> None:  # fmt: skip
    """What counts of each line goes into `y`; of each purchase, the sums, and by what its lines weigh: 0: its currency
    has no rate, 1: nothing, 2: amounts, 3: pieces."""
    at = 0
    for place in range(len(rows)):
        by_amount = by_piece = total = count_of = 0
        for line in range(item[rows[place]], item[rows[place] + 1]):
            y[line, column] = amounts[at]
            y[line, column + 1] = pieces[at]
            total += amounts[at]
            count_of += pieces[at]
            by_amount |= amounts[at]
            by_piece |= pieces[at]
            at += 1
        in_all[place] = total
        in_pieces[place] = count_of
        weighs[place] = 0
        if known[place] != 0:
            weighs[place] = 2 if by_amount != 0 else 3 if by_piece != 0 else 1


def civil(starts: Array, offsets: Array, times: Array, into: Rows) -> None:
    """The local day of each time (since 1970-01-01), its year, month, day, and weekday (Monday is 1)."""
    for place in range(len(times)):
        day = local_day(starts, offsets, times[place])
        year, month, of_month = civil_from_days(day)
        into[place, 0] = day
        into[place, 1] = year
        into[place, 2] = month
        into[place, 3] = of_month
        # 1970-01-01 was a Thursday.
        into[place, 4] = (day + 3) % 7 + 1


# ── tables by day ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# What calendars say of each day from one on, so that it need not be reckoned for each fact. Where it is not the same
# all day long, or clocks are put back or forth near, NONE stands there, and the calendar itself is asked.

NEAR_US = 2 * DAY_US


def months_by_day(first: int, into: Array) -> None:
    """The number of the month of each local day."""
    for place in range(len(into)):
        year, month, _ = civil_from_days(first + place)
        into[place] = year * 12 + month - 1


def offsets_by_day(starts: Array, offsets: Array, first: int, into: Array) -> None:
    """What clocks are ahead on each UTC day, and two days before and after, in µs."""
    for place in range(len(into)):
        begin_us = (first + place) * DAY_US
        before_us = local_us(starts, offsets, begin_us - NEAR_US) - (begin_us - NEAR_US)
        into[place] = before_us
        # They are put back or forth some times a year: from one such time on there are others within days at most.
        for index in range(len(starts)):
            if begin_us - NEAR_US <= starts[index] <= begin_us + DAY_US + NEAR_US:
                into[place] = NONE


def midnights_by_day(
    starts: Array, offsets: Array, turns: Array, ahead: Array, first: int, months: int, into: Array
) -> None:
    """Midnight at which the same day so many months later begins, for each local day."""
    for place in range(len(into)):
        into[place] = NONE
        if ahead[place] != NONE:
            begin_us = (first + place) * DAY_US - ahead[place]
            early_us = midnight_months_later(starts, offsets, turns, begin_us, months)
            if early_us == midnight_months_later(starts, offsets, turns, begin_us + DAY_US - 1, months):
                into[place] = early_us


def ends_by_day(
    starts: Array, offsets: Array, turns: Array, ahead: Array, first: int, unit: int, count: int, until: int,
    into: Array,
) -> None:  # fmt: skip
    """When points expire that count from some time of each local day; where they live to the µs: how long they do."""
    days = len(into)
    for place in range(days):
        into[place] = NONE
        if ahead[place] == NONE:
            continue
        begin_us = (first + place) * DAY_US - ahead[place]
        last_us = begin_us + DAY_US - 1
        early_us = end_us(starts, offsets, turns, begin_us, unit, count, EXACT)
        late_us = end_us(starts, offsets, turns, last_us, unit, count, EXACT)
        early, late = early_us // DAY_US - first, late_us // DAY_US - first
        if early < 0 or late >= days or ahead[early] == NONE or ahead[early] != ahead[late]:
            continue
        if until == EXACT:
            if early_us - begin_us == late_us - last_us:
                into[place] = early_us - begin_us
        else:
            early_us = end_us(starts, offsets, turns, begin_us, unit, count, until)
            if early_us == end_us(starts, offsets, turns, last_us, unit, count, until):
                into[place] = early_us
