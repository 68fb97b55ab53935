"""Calendar arithmetic on integers: zones as arrays, months with clamped days.

Times are microseconds since 1970-01-01T00:00Z. The functions take and give integers, and the arrays of a zone
(`Zone.arrays`), so that another executor compiles the same source. Civil dates after Howard Hinnant,
"chrono-Compatible Low-Level Date Algorithms" (2013).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property, lru_cache

from .events import Value

DAY_US = 86_400_000_000
SECOND_US = 1_000_000
DAY, MONTH, YEAR = 0, 1, 2
"""Periods, as codes."""


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Year, month, day of a count of days since 1970-01-01 (proleptic Gregorian)."""
    days += 719_468
    era = days // 146_097
    day_of_era = days - era * 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    return year_of_era + era * 400 + (1 if month <= 2 else 0), month, day


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a Gregorian date."""
    if month <= 2:
        year -= 1
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def days_in_month(year: int, month: int) -> int:
    """28 to 31."""
    if month == 2:
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return 29 if leap else 28
    return 30 if month in (4, 6, 9, 11) else 31


@lru_cache(maxsize=65_536)
def shift_months(days: int, months: int) -> int:
    """A day (since 1970-01-01) so many months later; a day that the month lacks becomes its last."""
    year, month, day = civil_from_days(days)
    total = year * 12 + month - 1 + months
    year, month = total // 12, total % 12 + 1
    return days_from_civil(year, month, min(day, days_in_month(year, month)))


# ── in a zone ─────────────────────────────────────────────────────────────────────────────────────────────────────
#
# From `starts[i]` on, local time is UTC plus `offsets[i]` seconds; `turns` are the wall-clock times from which on each
# offset but the first counts.

Times = Sequence[int]


def local_us(starts: Times, offsets: Times, at_us: int) -> int:
    """Wall-clock time of an instant, as microseconds since 1970-01-01T00:00 on that clock."""
    index = bisect_right(starts, at_us) - 1
    return at_us + offsets[index if index >= 0 else 0] * SECOND_US


def instant_us(offsets: Times, turns: Times, local: int) -> int:
    """The instant of a wall-clock time: of one that occurs twice the first; one that the clock skips is read with the
    offset from before the jump, so it falls after it."""
    return local - offsets[bisect_right(turns, local)] * SECOND_US


def local_day(starts: Times, offsets: Times, at_us: int) -> int:
    """The local calendar day of an instant, as days since 1970-01-01."""
    return local_us(starts, offsets, at_us) // DAY_US


def days_later(starts: Times, offsets: Times, turns: Times, at_us: int, days: int) -> int:
    """The same wall-clock time so many calendar days later."""
    return instant_us(offsets, turns, local_us(starts, offsets, at_us) + days * DAY_US)


def months_later(starts: Times, offsets: Times, turns: Times, at_us: int, months: int) -> int:
    """The same wall-clock time so many months later; a day that the month lacks becomes its last."""
    local = local_us(starts, offsets, at_us)
    days = local // DAY_US
    return instant_us(offsets, turns, shift_months(days, months) * DAY_US + local - days * DAY_US)


def midnight_months_later(starts: Times, offsets: Times, turns: Times, at_us: int, months: int) -> int:
    """Local midnight at which the same day so many months later begins. Never falls as the time rises."""
    index = bisect_right(starts, at_us) - 1
    day = (at_us + offsets[index if index >= 0 else 0] * SECOND_US) // DAY_US
    if index > 0:
        # Where a clock went back over a midnight, the day that it had reached still counts.
        reached = (starts[index] - 1 + offsets[index - 1] * SECOND_US) // DAY_US
        if reached > day:
            day = reached
    return instant_us(offsets, turns, shift_months(day, months) * DAY_US)


def month_end_us(starts: Times, offsets: Times, turns: Times, at_us: int) -> int:
    """Local midnight at which the month of an instant ends: the first instant of the next month."""
    year, month, _ = civil_from_days(local_day(starts, offsets, at_us))
    if month == 12:
        return instant_us(offsets, turns, days_from_civil(year + 1, 1, 1) * DAY_US)
    return instant_us(offsets, turns, days_from_civil(year, month + 1, 1) * DAY_US)


def year_end_us(starts: Times, offsets: Times, turns: Times, at_us: int) -> int:
    """Local midnight at which the year of an instant ends: the first instant of the next year."""
    year, _, _ = civil_from_days(local_day(starts, offsets, at_us))
    return instant_us(offsets, turns, days_from_civil(year + 1, 1, 1) * DAY_US)


def year_start_us(starts: Times, offsets: Times, turns: Times, joined_us: int, at_us: int, years: int) -> int:
    """When the membership year of an instant began, or one so many years later: years count from the day of
    `joined_us`."""
    year, _, _ = civil_from_days(local_day(starts, offsets, at_us))
    joined = local_day(starts, offsets, joined_us)
    joined_year, _, _ = civil_from_days(joined)
    since = year - joined_year
    if instant_us(offsets, turns, shift_months(joined, 12 * since) * DAY_US) > at_us:
        since -= 1
    return instant_us(offsets, turns, shift_months(joined, 12 * (since + years)) * DAY_US)


def calendar_year_us(starts: Times, offsets: Times, turns: Times, at_us: int, years: int) -> int:
    """When the calendar year of an instant began, or one so many years later."""
    year, _, _ = civil_from_days(local_day(starts, offsets, at_us))
    return instant_us(offsets, turns, days_from_civil(year + years, 1, 1) * DAY_US)


def period_number(starts: Times, offsets: Times, at_us: int, period: int) -> int:
    """The number of the local DAY (since 1970-01-01), MONTH (year × 12 + month − 1) or YEAR of an instant."""
    day = local_day(starts, offsets, at_us)
    if period == DAY:
        return day
    year, month, _ = civil_from_days(day)
    return year * 12 + month - 1 if period == MONTH else year


PERIODS = {"day": DAY, "month": MONTH, "year": YEAR}


class Zone(Value):
    """A time zone frozen to arrays: from `starts_us[i]` on, local time is UTC plus `offsets_s[i]` seconds.

    `starts_us[0]` is before every time in use. `tzdata` names the release that the arrays were read from.
    """

    name: str
    tzdata: str
    starts_us: tuple[int, ...]
    offsets_s: tuple[int, ...]

    def __hash__(self) -> int:
        return hash((self.name, self.tzdata, self.starts_us, self.offsets_s))

    @cached_property
    def turns_us(self) -> tuple[int, ...]:
        """Wall-clock times from which on each offset but the first counts: of a time that occurs twice the first is
        meant, and one that the clock skips is read with the offset from before."""
        return tuple(
            start + max(before, after) * SECOND_US
            for start, before, after in zip(self.starts_us[1:], self.offsets_s, self.offsets_s[1:], strict=False)
        )

    def local_us(self, utc_us: int) -> int:
        """Wall-clock time, as microseconds since 1970-01-01T00:00 on that clock."""
        return local_us(self.starts_us, self.offsets_s, utc_us)

    def utc_us(self, local_us: int) -> int:
        """The instant of a wall-clock time.

        A time that occurs twice is the first of the two; one that the clock skips is read with the offset from before
        the jump (so it falls after it).
        """
        return instant_us(self.offsets_s, self.turns_us, local_us)

    def day(self, utc_us: int) -> int:
        """The local calendar day, as days since 1970-01-01."""
        return local_day(self.starts_us, self.offsets_s, utc_us)

    def add_days(self, utc_us: int, days: int) -> int:
        """The same wall-clock time so many calendar days later."""
        return days_later(self.starts_us, self.offsets_s, self.turns_us, utc_us, days)

    def add_months(self, utc_us: int, months: int) -> int:
        """The same wall-clock time so many months later; a day that the month lacks becomes its last."""
        return months_later(self.starts_us, self.offsets_s, self.turns_us, utc_us, months)

    def months_after(self, utc_us: int, months: int) -> int:
        """Local midnight at which the same day so many months later begins. Never falls as the time rises."""
        return midnight_months_later(self.starts_us, self.offsets_s, self.turns_us, utc_us, months)

    def month_end(self, utc_us: int) -> int:
        """Local midnight at which the month of that time ends: the first instant of the next month."""
        return month_end_us(self.starts_us, self.offsets_s, self.turns_us, utc_us)

    def year_end(self, utc_us: int) -> int:
        """Local midnight at which the year of that time ends: the first instant of the next year."""
        return year_end_us(self.starts_us, self.offsets_s, self.turns_us, utc_us)

    def year_start(self, utc_us: int, years: int, joined_us: int | None = None) -> int:
        """When the calendar year of that time began, or the membership year since `joined_us`, or one so many years
        later."""
        if joined_us is None:
            return calendar_year_us(self.starts_us, self.offsets_s, self.turns_us, utc_us, years)
        return year_start_us(self.starts_us, self.offsets_s, self.turns_us, joined_us, utc_us, years)

    def period(self, utc_us: int, period: str) -> int:
        """The number of the local day (since 1970-01-01), month (year × 12 + month − 1) or year of that time."""
        return period_number(self.starts_us, self.offsets_s, utc_us, PERIODS[period])

    def month(self, utc_us: int) -> int:
        """The local month, 1 to 12."""
        return civil_from_days(self.day(utc_us))[1]


UTC_ZONE = Zone(name="UTC", tzdata="none", starts_us=(-(2**62),), offsets_s=(0,))
