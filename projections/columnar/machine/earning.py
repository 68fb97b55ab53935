"""What a fact earns."""

from __future__ import annotations

from tallybook.domain.arithmetic import allocate, quotient, room
from tallybook.domain.lots import NEVER
from tallybook.projections.columnar.compiling import view

from .layout import (
    ACTIVE,
    ALL,
    B_PURCHASES,
    BY_AMOUNTS,
    BY_NOTHING,
    BY_PIECES,
    BY_REFERRAL,
    BY_RULE,
    CAP,
    CAP_COUNTER,
    CAP_MOST,
    CAP_PERIOD,
    CAP_PERIOD_CODE,
    CAP_SLOT,
    CLOSED,
    D_EARNED,
    D_EARNING_REFUSED,
    DEBT,
    E_BEST,
    E_CAP0,
    E_CAPS,
    E_CODE,
    E_DENOMINATOR,
    E_EXPIRY,
    E_FACTOR,
    E_GIVES,
    E_GROUP,
    E_KIND,
    E_MASK,
    E_MEASURED,
    E_MULTIPLIED,
    E_NUMERATOR,
    E_PENDING,
    E_PER,
    E_PICKS,
    E_POINTS,
    E_TALLY,
    E_WHOLE,
    EARNED,
    FIXED,
    G_ACTIVATES,
    G_CUT,
    G_EXPIRES,
    G_OPEN,
    G_POINTS,
    G_QUALIFYING,
    GIVEN,
    L_LINE0,
    L_LINE1,
    L_OPEN,
    L_PIECES,
    L_RULE,
    LIMIT_EARN,
    LINE,
    MULTIPLIER,
    N_BASIS,
    N_POINTS,
    N_QUALIFYING,
    N_RETURNED,
    ON_PURCHASE,
    ON_REFERRAL,
    PENDING,
    PER_AMOUNT,
    POINTS,
    QUALIFYING,
    RS_FACTOR0,
    RS_INPUT0,
    RS_LEVELS,
    RS_OF_BASE,
    RS_ROUNDING,
    RS_RULES,
    RS_SLOTS,
    RS_X,
    RS_Y,
    RULE,
    S_CUT,
    S_LOT,
    S_MULTIPLIER,
    S_POINTS,
    S_QUALIFYING,
    S_RULE,
    S_UNCAPPED,
    S_WEIGHTS,
    SHARE,
    SILENT,
    T_EMPTY,
    T_FULL,
    T_LIMIT,
    T_MINOR,
    T_PIECES,
    USE,
    V_A,
    V_AT,
    V_BUCKETS,
    V_ENROLLED,
    V_ITEM1,
    V_ITEM_WORDS,
    V_ITEMS0,
    V_LINED,
    V_LINES,
    V_MODE,
    V_OUTS,
    V_OVER,
    V_POS,
    V_RULE_TALLY,
    V_SEEN,
    V_SPENT0,
    V_STATUS,
    V_TALLY,
    V_TEMPS,
    V_TIER,
    V_TRAIT,
    X_ACTIVATED,
    Words,
)
from .ledger import move, new_lot
from .limits import barred, count_uses, counted, fits, limited, note_use, put_used
from .rules import days_after, expires_us, period_of, rank
from .tiers import qualify
from .writing import because, begin, more, out, put, used


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


def multiplier(s: Words, x: Words, first: int, last: int, bit: int) -> int:
    """The greatest of the multipliers that hold for the fact at hand, in the tier that a bit stands for; -1: none."""
    by = -1
    for rule in range(first, last, RULE):
        if s[rule + E_KIND] != MULTIPLIER or not holds(s, x, rule, bit):
            continue
        if by < 0 or s[rule + E_NUMERATOR] * s[by + E_DENOMINATOR] > s[by + E_NUMERATOR] * s[rule + E_DENOMINATOR]:
            by = rule
    return by


def factor_of(s: Words, rules: int, by: int) -> int:
    """Where the numerator and the denominator stand by which a multiplier and the account's tier multiply."""
    multiplied = 0 if by < 0 else s[by + E_FACTOR]
    level = rank(s, rules, s[V_TIER]) + 1
    return s[rules + RS_FACTOR0] + (multiplied * (s[rules + RS_LEVELS] + 1) + level) * 2


def bought(s: Words, x: Words, rule: int, bit: int) -> int:
    """What of a purchase a rule counts: an amount, or pieces."""
    by_tier = bit * s[B_PURCHASES] if s[rule + E_WHOLE] > 1 else 0
    return x[s[rule + E_MEASURED] + by_tier + s[V_SEEN]]


def in_whole(s: Words, rule: int, measured: int) -> int:
    """What of a measure gives points: whole steps, if the rule says so."""
    per = s[rule + E_PER]
    return measured // per * per if s[rule + E_WHOLE] & 1 else measured


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
    by = multiplier(s, x, first, last, bit)
    factor = factor_of(s, rules, by)
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
            measured = s[V_A] if on != ON_PURCHASE else bought(s, x, rule, bit)
            if measured == 0:
                continue
            denominator = s[rule + E_PER]
            numerator = s[rule + E_POINTS] * in_whole(s, rule, measured)
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
        at = out(s, 6)
        s[at] = s[V_POS]
        s[at + 1] = number
        s[at + 2] = points
        s[at + 3] = counts
        s[at + 4] = activates
        s[at + 5] = ends
        if s[V_MODE] == ALL:
            put_rules(s, shares, given, place)
        at = out(s, 6 + lines * N_RETURNED)
        if s[V_OVER] != 0:
            return
        s[at] = lines
        for line in range(line0, line0 + lines * LINE, LINE):
            for field in range(N_RETURNED):
                s[at + 1 + field] = s[line + field]
            at += N_RETURNED
        s[at + 1] = T_MINOR if in_minor else T_PIECES
        s[at + 2] = s[V_TIER]
        s[at + 3] = paid
        s[at + 4] = s[one + G_CUT]
        s[at + 5] = (uses_end - uses + limits_end - limits) // USE
        put_used(s, uses, uses_end)
        put_used(s, limits, limits_end)
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
