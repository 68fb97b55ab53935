"""Calendar arithmetic on integers: zones as arrays, months with clamped days.

Times are microseconds since 1970-01-01T00:00Z. The functions take and give integers only, so that another executor
can compile the same source. Civil dates after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms" (2013).
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property, lru_cache

from .events import Value

DAY_US = 86_400_000_000
SECOND_US = 1_000_000


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

    def local_us(self, utc_us: int) -> int:
        """Wall-clock time, as microseconds since 1970-01-01T00:00 on that clock."""
        index = bisect_right(self.starts_us, utc_us) - 1
        return utc_us + self.offsets_s[index if index >= 0 else 0] * SECOND_US

    @cached_property
    def _turns_us(self) -> tuple[int, ...]:
        # Wall-clock times from which on each offset counts: of a time that occurs twice the first is meant, and one
        # that the clock skips is read with the offset from before.
        return tuple(
            start + max(before, after) * SECOND_US
            for start, before, after in zip(self.starts_us[1:], self.offsets_s, self.offsets_s[1:], strict=False)
        )

    def utc_us(self, local_us: int) -> int:
        """The instant of a wall-clock time.

        A time that occurs twice is the first of the two; one that the clock skips is read with the offset from before
        the jump (so it falls after it).
        """
        return local_us - self.offsets_s[bisect_right(self._turns_us, local_us)] * SECOND_US

    def day(self, utc_us: int) -> int:
        """The local calendar day, as days since 1970-01-01."""
        return self.local_us(utc_us) // DAY_US

    def add_days(self, utc_us: int, days: int) -> int:
        """The same wall-clock time so many calendar days later."""
        return self.utc_us(self.local_us(utc_us) + days * DAY_US)

    def add_months(self, utc_us: int, months: int) -> int:
        """The same wall-clock time so many months later; a day that the month lacks becomes its last."""
        local = self.local_us(utc_us)
        days = local // DAY_US
        return self.utc_us(shift_months(days, months) * DAY_US + local - days * DAY_US)

    def months_after(self, utc_us: int, months: int) -> int:
        """Local midnight at which the same day so many months later begins. Never falls as the time rises."""
        index = bisect_right(self.starts_us, utc_us) - 1
        day = (utc_us + self.offsets_s[max(index, 0)] * SECOND_US) // DAY_US
        if index > 0:
            # Where a clock went back over a midnight, the day that it had reached still counts.
            day = max(day, (self.starts_us[index] - 1 + self.offsets_s[index - 1] * SECOND_US) // DAY_US)
        return self.utc_us(shift_months(day, months) * DAY_US)

    def month_end(self, utc_us: int) -> int:
        """Local midnight at which the month of that time ends: the first instant of the next month."""
        year, month, _ = civil_from_days(self.day(utc_us))
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        return self.utc_us(days_from_civil(year, month, 1) * DAY_US)

    def year_end(self, utc_us: int) -> int:
        """Local midnight at which the year of that time ends: the first instant of the next year."""
        return self.utc_us(days_from_civil(civil_from_days(self.day(utc_us))[0] + 1, 1, 1) * DAY_US)

    def period(self, utc_us: int, period: str) -> int:
        """The number of the local day (since 1970-01-01), month (year × 12 + month − 1) or year of that time."""
        day = self.day(utc_us)
        if period == "day":
            return day
        year, month, _ = civil_from_days(day)
        return year * 12 + month - 1 if period == "month" else year

    def month(self, utc_us: int) -> int:
        """The local month, 1 to 12."""
        return civil_from_days(self.day(utc_us))[1]


UTC_ZONE = Zone(name="UTC", tzdata="none", starts_us=(-(2**62),), offsets_s=(0,))
