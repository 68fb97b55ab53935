"""Where facts meet rules."""

from __future__ import annotations

from .crediting import correct, credit, extend, receive_transfer, reinstate
from .due import activate, expire_all, release, settle
from .earning import earn, item_at
from .layout import (
    ACTIVE,
    ADJUSTED_UP,
    BY_CREDIT,
    BY_LINES,
    C_FORFEITED,
    CLOSED,
    D_ACTIVATED,
    D_COUPON_REFUSED,
    F_ACTIVITY,
    F_CLOSED,
    F_CONFIRMED,
    F_CORRECTION,
    F_COUPON_GRANTED,
    F_COUPON_USED,
    F_COUPON_VOIDED,
    F_ENROLLED,
    F_EXTENSION,
    F_GOODWILL,
    F_HOLD,
    F_HOLD_RELEASE,
    F_LIFT,
    F_OVERRIDE,
    F_PURCHASE,
    F_RECEIVED,
    F_REDEEM,
    F_REDEMPTION_RETURNED,
    F_REDUCED,
    F_REFERRAL,
    F_REINSTATEMENT,
    F_RESUMED,
    F_RETURN,
    F_SUSPENDED,
    F_TRANSFER,
    F_WITHDRAWN,
    H_PART0,
    H_PART1,
    L_PENDING,
    M_COUPON,
    M_HOLD,
    M_SPENDING,
    NONE,
    ON_ACTIVITY,
    ON_ENROLMENT,
    ON_PURCHASE,
    ON_REFERRAL,
    OPEN,
    REWARD_COUNTED,
    REWARD_DAYS,
    RS_EXPIRY,
    SILENT,
    SUSPENDED,
    T_ADJUSTED_UP,
    T_BALANCE_CHANGED,
    T_CLOSED,
    T_EARNING_REVERSED,
    T_EMPTY,
    T_ENROLLED,
    T_EXPIRED,
    T_GRANTED,
    T_OUT_OF_STOCK,
    T_OVERRIDDEN,
    T_OVERRIDE_ENDED,
    T_POINTS_EARNED,
    T_RELEASED,
    T_UNKNOWN_REWARD,
    T_USED,
    T_VOIDED,
    TIER_COUPON,
    V_A,
    V_AT,
    V_B,
    V_BUCKETS,
    V_C,
    V_CHANGE_POINTS,
    V_CHANGE_TIER,
    V_CLOCK,
    V_DUE_HEAD,
    V_DUE_N,
    V_ENROLLED,
    V_HORIZON,
    V_ITEM1,
    V_KIND,
    V_MEMBER,
    V_MODE,
    V_MOVED,
    V_OVER,
    V_OVERRIDE,
    V_POS,
    V_POS_A,
    V_STATUS,
    V_SUSPENDED,
    V_SUSPENSIONS,
    V_SWEPT,
    V_TEMP0,
    V_TEMPS,
    V_TIER,
    WHOLE,
    Words,
)
from .ledger import lot_named, new_lot
from .limits import barred, fits
from .returning import take_back
from .rules import expires_us, in_force, tier_at
from .spending import give_back, hold_points, mapped, put_ref, redeem, reward_of, send, spent_points, why_not_returned
from .tiers import (
    after_points,
    change_tier,
    close_coupon,
    coupon_named,
    evaluate_tier,
    issue,
    qualifying,
    standing,
    why_not_good,
)
from .writing import because, begin, more, noted, push, put, put_id, unsettle


def applied(s: Words) -> None:
    """What a fact of the account's own stream changes by itself."""
    kind, at_us = s[V_KIND], s[V_AT]
    if kind == F_ENROLLED:
        s[V_MEMBER] = 1
        s[V_ENROLLED] = at_us
        s[V_CLOCK] = at_us
        s[V_MOVED] = at_us
        unsettle(s)
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
        unsettle(s)
        if s[V_B] > s[V_CLOCK]:
            s[V_OVERRIDE] = s[V_B]
    elif kind == F_LIFT and s[V_OVERRIDE] != NONE:
        # What is told later of a time before that still meets the override.
        unsettle(s)
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
