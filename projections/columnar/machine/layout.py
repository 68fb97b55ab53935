"""Where everything stands in the array that the machine works on: registers, records, rule sets; and the codes of
facts, decisions and texts."""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSequence
from typing import TypeAlias

from tallybook.domain.calendar import DAY_US
from tallybook.projections.columnar.compiling import Memory

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
    V_OVER, V_STATUS, V_SUSPENDED, V_TIER, V_TIER_SINCE, V_LENT, V_OVERRIDE, V_ENROLLED, V_CLOCK, V_MOVED,
    V_MEMBER, V_PROGRAMME, V_ACCOUNT, V_VERSION, V_HORIZON, V_SWEPT, V_FOLLOWED, V_PASSED, V_MODE,
    # what is known without reckoning it anew: nothing is due before; time alone does not change the tier before;
    # whether that holds while points come in order; where the window begins, and of which calendar its entries know
    # when they leave; a year of tiers; whether there are several rule sets, or which is the only one (-1: none), and
    # from when on
    V_QUIET, V_CALM, V_STEADY, V_FIRST, V_CALENDAR, V_YEAR_RULES, V_YEAR_LAST, V_YEAR_FROM, V_YEAR_UNTIL, V_SEVERAL,
    V_ONLY, V_ONLY_FROM,
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
    # how many facts and items there are: so long are the columns of what facts and items say
    V_FACT_COUNT, V_ITEM_COUNT,
    V_BUCKETS,
) = range(129)

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
    RS_CALENDAR, RS_PLAIN, RS_RULES,
) = range(41)

RULE_SET = RS_RULES + 8
"""From RS_RULES on: for each kind of fact, where its rules begin and where they end. RS_PLAIN: the only rule that gives
something for a purchase, where `plain` can do that; 0: there is none."""

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


# ── what time alone does ──────────────────────────────────────────────────────────────────────────────────────────

T_ACTIVATE, T_TIER, T_HOLD, T_EXPIRE, T_INACTIVE, T_COUPON, T_EXPIRE_PENDING = 0, 1, 2, 3, 4, 5, 6

USE = 5
"""A use that is to be counted: counter, period, number, amount, slot."""


# ── earning ───────────────────────────────────────────────────────────────────────────────────────────────────────

S_RULE, S_UNCAPPED, S_POINTS, S_QUALIFYING, S_CUT, S_MULTIPLIER, S_LOT, S_WEIGHTS = range(8)

SHARE = 8

BY_AMOUNTS, BY_PIECES, BY_REFERRAL, BY_NOTHING = range(4)

G_ACTIVATES, G_EXPIRES, G_OPEN, G_POINTS, G_QUALIFYING, G_CUT = range(6)

GIVEN = 6


# ── taking back ───────────────────────────────────────────────────────────────────────────────────────────────────

BY_LINES, WHOLE, BY_CREDIT = range(3)
"""What came back: lines of a return, all of it, or lines of a purchase that a referral was credited for."""

TIER_COUPON = -3
"""A reference to a coupon that a tier granted: V_B and V_C are its id."""


# ── many accounts ─────────────────────────────────────────────────────────────────────────────────────────────────

(
    O_DIFFERS, O_UNFUNDED, O_FUNDED, O_SHORT, O_TIER, O_BUCKETS,
) = range(6)  # fmt: skip

OUTCOME = O_BUCKETS + BALANCES
"""What came of an account: its tier and balances; beside another rule book, the position of the first fact about which
they decide otherwise (END: of a sweep; 0: nowhere), how many redemptions there is too little for now, and how many are
paid now; the points that were lacking where they were honoured."""


# ── tables by day ─────────────────────────────────────────────────────────────────────────────────────────────────
NEAR_US = 2 * DAY_US
