"""What is reckoned for many facts at once, and tables by day."""

from __future__ import annotations

from tallybook.domain.arithmetic import quotient
from tallybook.domain.calendar import DAY_US, civil_from_days, local_day, local_us, midnight_months_later
from tallybook.domain.lots import EXACT, end_us

from .layout import (
    F_ACTIVITY,
    F_ENROLLED,
    F_PURCHASE,
    F_REDUCED,
    F_REFERRAL,
    F_RETURN,
    F_WITHDRAWN,
    NEAR_US,
    NONE,
    Array,
    Rows,
)


def sort_out(kinds: Array, slots: Rows, made: Rows, counts: Array) -> None:
    """Of each fact in `made`: 1 if another one takes back what it earned; its place among those of its kind, 0 where
    no earning rule is about it. In the rest of `made` the rows of purchases, of activities, of enrolments, of
    referrals; how many these are, in `counts`."""
    for row in range(len(kinds)):
        made[0, row] = 0
    for row in range(len(kinds)):
        kind = kinds[row]
        number = -1
        if kind == F_PURCHASE:
            number = 0
        elif kind == F_ACTIVITY:
            number = 1
        elif kind == F_ENROLLED:
            number = 2
        elif kind == F_REFERRAL:
            number = 3
        elif kind in (F_RETURN, F_WITHDRAWN, F_REDUCED) and 0 <= slots[0, row] < len(kinds):
            made[0, slots[0, row]] = 1
        made[1, row] = 0
        if number >= 0:
            made[1, row] = counts[number]
            made[2 + number, counts[number]] = row
            counts[number] += 1


def rate_of(currencies: Array, currency: int) -> int:
    """The place of a currency's rate; -1: it has none."""
    rate = -1
    for one in range(len(currencies)):
        if currencies[one] == currency:
            rate = one
    return rate


def weighed_by(rated: bool, by_amount: int, by_piece: int) -> int:
    """By what the lines of a purchase weigh: 0: its currency has no rate, 1: nothing, 2: amounts, 3: pieces."""
    if not rated:
        return 0
    return 2 if by_amount != 0 else 3 if by_piece != 0 else 1


def rate_lines(
    rows: Array, item: Array, it: Rows, rated: Array, currencies: Array, numerators: Array, denominators: Array,
    rounding: int, tax: int, shipping: int, net0: int, known: Array, net: Array, amounts: Array, pieces: Array,
) -> None:  # fmt: skip
    """What lines of purchases come to in the programme's currency: `net`, and `amounts` with all that counts.

    `rated`: the currency of each purchase; `known`: whether it has a rate. `net0`, `tax`, `shipping`: 1 if that counts.
    """
    at = 0
    for place in range(len(rows)):
        rate = rate_of(currencies, rated[place])
        known[place] = 1 if rate >= 0 else 0
        for line in range(item[rows[place]], item[rows[place] + 1]):
            minor = it[0, line]
            whole = net0 * minor + tax * it[2, line] + shipping * it[3, line]
            net[at] = minor
            amounts[at] = whole
            if rate >= 0 and (numerators[rate] != 1 or denominators[rate] != 1):
                net[at] = quotient(minor * numerators[rate], denominators[rate], rounding)
                amounts[at] = quotient(whole * numerators[rate], denominators[rate], rounding)
            pieces[at] = it[1, line]
            at += 1


def weigh_lines(
    rows: Array, item: Array, it: Rows, slots: Rows, currencies: Array, numerators: Array, denominators: Array,
    rounding: int, tax: int, shipping: int, net: int, lined: Array, every: int, y: Rows, column: int, weighs: Array,
    in_all: Array, in_pieces: Array,
) -> None:  # fmt: skip
    """What `rate_lines` and then `sum_lines` do, in one pass, where nobody reads what lines come to on the way. Into
    `y` go the lines of `every` purchase, or of those that are `lined`."""
    for place in range(len(rows)):
        row = rows[place]
        rate = rate_of(currencies, slots[0, row])
        rated = rate >= 0 and (numerators[rate] != 1 or denominators[rate] != 1)
        kept = every != 0 or lined[row] != 0
        by_amount = by_piece = total = count_of = 0
        for line in range(item[row], item[row + 1]):
            amount, pieces = net * it[0, line], it[1, line]
            if tax != 0:
                amount += it[2, line]
            if shipping != 0:
                amount += it[3, line]
            if rated:
                amount = quotient(amount * numerators[rate], denominators[rate], rounding)
            if kept:
                y[line, column] = amount
                y[line, column + 1] = pieces
            total += amount
            count_of += pieces
            by_amount |= amount
            by_piece |= pieces
        in_all[place] = total
        in_pieces[place] = count_of
        weighs[place] = weighed_by(rate >= 0, by_amount, by_piece)


def sum_lines(
    rows: Array, item: Array, known: Array, amounts: Array, pieces: Array, y: Rows, column: int, weighs: Array,
    in_all: Array, in_pieces: Array,
) -> None:  # fmt: skip
    """What counts of each line goes into `y`; of each purchase, the sums, and by what its lines weigh."""
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
        weighs[place] = weighed_by(known[place] != 0, by_amount, by_piece)


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


# What calendars say of each day from one on, so that it need not be reckoned for each fact. Where it is not the same
# all day long, or clocks are put back or forth near, NONE stands there, and the calendar itself is asked.


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
