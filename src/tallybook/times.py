"""Times as people write them, as microseconds since 1970-01-01T00:00Z."""

from __future__ import annotations

import re
from datetime import datetime

from tallybook.domain.calendar import DAY_US, days_from_civil
from tallybook.domain.errors import refusal
from tallybook.domain.events import to_us, utc_text

When = datetime | str
"""An aware datetime, or an ISO 8601 text with an offset or Z."""

EARLIEST_US = days_from_civil(1, 1, 2) * DAY_US
LATEST_US = days_from_civil(9000, 1, 1) * DAY_US
"""Bounds of times, with room for zones before and for expiries after."""

_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")


def moment_us(when: When, name: str) -> int:
    """Refuses: naive_time, invalid_argument."""
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError:
            raise refusal(
                "invalid_argument", f"{name}: this is no time of the form 2025-12-31T23:59:59Z.", argument=name
            ) from None
    if not isinstance(when, datetime):
        raise refusal("invalid_argument", f"{name}: a datetime or a text is wanted.", argument=name)
    if when.tzinfo is None or when.utcoffset() is None:
        raise refusal("naive_time", f"{name}: the time has no zone.", argument=name)
    found = to_us(when)
    if not EARLIEST_US <= found < LATEST_US:
        raise refusal("invalid_argument", f"{name}: a time between the years 1 and 9000 is wanted.", argument=name)
    return found


def as_of_us(when: When, name: str = "as_of") -> int:
    """The same for looking back: a plain date means all of that day, in UTC."""
    if isinstance(when, str) and (match := _DATE.fullmatch(when)):
        moment_us(f"{when}T00:00:00Z", name)
        return (days_from_civil(*map(int, match.groups())) + 1) * DAY_US - 1
    return moment_us(when, name)


def since_us(when: When, name: str = "since") -> int:
    """The same for the beginning of a period: a plain date means from the beginning of that day on, in UTC."""
    if isinstance(when, str) and _DATE.fullmatch(when):
        return moment_us(f"{when}T00:00:00Z", name)
    return moment_us(when, name)


def iso(us: int | None) -> str | None:
    """ISO 8601 in UTC, as short as exact allows."""
    return None if us is None else utc_text(us)
