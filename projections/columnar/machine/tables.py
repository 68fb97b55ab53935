"""What is reckoned for many facts at once, and tables by day."""

from __future__ import annotations

from tallybook.domain.arithmetic import quotient
from tallybook.domain.calendar import DAY_US, civil_from_days, local_day, local_us, midnight_months_later
from tallybook.domain.lots import EXACT, end_us

from .layout import NEAR_US, NONE, Array, Rows


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
