"""The rule set for a moment, and its calendar."""

from __future__ import annotations

from tallybook.domain.calendar import (
    DAY,
    DAY_US,
    MONTH,
    calendar_year_us,
    days_later,
    midnight_months_later,
    period_number,
    year_start_us,
)
from tallybook.domain.lots import EXACT, FOR_EVER, NEVER, end_us
from tallybook.projections.columnar.compiling import view

from .layout import (
    ADOPTION,
    B_VERSION0,
    CALENDAR_YEAR,
    L_TIER,
    LEVEL,
    MEMBERSHIP_YEAR,
    NONE,
    RS_DAY0,
    RS_DAYS,
    RS_LEVEL0,
    RS_MONTH_NUMBERS,
    RS_OFFSETS,
    RS_RANK0,
    RS_RANKS,
    RS_WINDOW,
    RS_ZONE0,
    RS_ZONES,
    V_ENROLLED,
    V_ONLY,
    V_ONLY_FROM,
    V_SEVERAL,
    V_VERSION,
    V_YEAR_FROM,
    V_YEAR_LAST,
    V_YEAR_RULES,
    V_YEAR_UNTIL,
    VERSION,
    X_COUNT,
    X_TABLE,
    X_UNIT,
    X_UNTIL,
    Words,
)


def in_force(s: Words, at_us: int) -> int:
    """The rule set for a moment, in the account's programme, as known now; -1: none."""
    if s[V_SEVERAL] == 0:
        return s[V_ONLY] if at_us >= s[V_ONLY_FROM] else -1
    return last_in_force(s, at_us)


def last_in_force(s: Words, at_us: int) -> int:
    """The same, of several."""
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
    then_ahead_us = offset_us(s, rules, then_us)
    if ahead_us != NONE and then_ahead_us != NONE:
        return then_us + ahead_us - then_ahead_us
    zone, zones = s[rules + RS_ZONE0], s[rules + RS_ZONES]
    return days_later(
        view(s, zone, zones), view(s, zone + zones, zones), view(s, zone + 2 * zones, zones - 1), at_us, days
    )


def months_after(s: Words, rules: int, table: int, at_us: int, months: int) -> int:
    """Midnight at which the same day so many months later begins, in the rule set's zone; the rule set's `table` has
    that by day."""
    place = day_place(s, rules, at_us)
    if place >= 0:
        known_us = s[s[rules + table] + place]
        if known_us != NONE:
            return known_us
    zone, zones = s[rules + RS_ZONE0], s[rules + RS_ZONES]
    return midnight_months_later(
        view(s, zone, zones), view(s, zone + zones, zones), view(s, zone + 2 * zones, zones - 1), at_us, months
    )


def period_of(s: Words, rules: int, at_us: int, period: int) -> int:
    """The number of the day, month or year of a moment, in the rule set's zone."""
    place = day_place(s, rules, at_us)
    if place >= 0:
        if period == DAY:
            return place + s[rules + RS_DAY0]
        month = s[s[rules + RS_MONTH_NUMBERS] + place]
        return month if period == MONTH else month // 12
    zone, zones = s[rules + RS_ZONE0], s[rules + RS_ZONES]
    return period_number(view(s, zone, zones), view(s, zone + zones, zones), at_us, period)


def expires_us(s: Words, rules: int, expiry: int, from_us: int) -> int:
    """When points expire that count from a moment."""
    if s[expiry + X_UNIT] == FOR_EVER:
        return NEVER
    place = day_place(s, rules, from_us)
    if place >= 0:
        known_us = s[s[expiry + X_TABLE] + place]
        if known_us != NONE:
            return from_us + known_us if s[expiry + X_UNTIL] == EXACT else known_us
    zone, zones = s[rules + RS_ZONE0], s[rules + RS_ZONES]
    return end_us(
        view(s, zone, zones),
        view(s, zone + zones, zones),
        view(s, zone + 2 * zones, zones - 1),
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
    zone, zones = s[rules + RS_ZONE0], s[rules + RS_ZONES]
    starts, offsets = view(s, zone, zones), view(s, zone + zones, zones)
    turns = view(s, zone + 2 * zones, zones - 1)
    if s[rules + RS_WINDOW] == CALENDAR_YEAR:
        return calendar_year_us(starts, offsets, turns, at_us, years)
    return year_start_us(starts, offsets, turns, s[V_ENROLLED], at_us, years)
