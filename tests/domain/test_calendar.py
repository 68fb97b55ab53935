"""Calendar arithmetic on integers, against `datetime` and `zoneinfo`."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tallybook.adapters.rule_files import frozen_zone
from tallybook.domain.calendar import (
    DAY_US,
    UTC_ZONE,
    civil_from_days,
    days_from_civil,
    days_in_month,
)
from tallybook.domain.errors import RuleSetError
from tallybook.domain.events import from_us, to_us
from tallybook.domain.lots import NEVER
from tallybook.domain.rules import Expiry

# Half-hour saving, no saving, southern, saving given up, a whole day skipped (Apia 2011), two-hour saving, negative.
ZONES = [
    "UTC", "America/New_York", "Europe/Rome", "Europe/Dublin", "Asia/Shanghai", "Australia/Lord_Howe",
    "America/Sao_Paulo", "Pacific/Apia", "Antarctica/Troll", "Africa/Casablanca", "Asia/Kathmandu",
]  # fmt: skip
HOUR_US = DAY_US // 24

zones = st.sampled_from(ZONES)
moments = st.integers(0, to_us(datetime(2099, 12, 1, tzinfo=UTC)))
# The first of two: what `utc_us` promises.
wall_clocks = st.datetimes(datetime(1970, 1, 3), datetime(2099, 12, 1)).map(  # noqa: DTZ001 - wall clocks have no zone
    lambda wall: wall.replace(fold=0)
)


def wall_us(moment: datetime) -> int:
    return to_us(moment.replace(tzinfo=UTC))


def instant_us(wall: datetime, zone: str) -> int:
    return to_us(wall.replace(tzinfo=zoneinfo.ZoneInfo(zone)))


@settings(deadline=None, print_blob=True)
@given(days=st.integers(date.min.toordinal(), date.max.toordinal()))
@example(days=date(2000, 2, 29).toordinal())
@example(days=date(1900, 2, 28).toordinal())
@example(days=date(1, 1, 1).toordinal())
def test_civil_dates_are_those_of_the_gregorian_calendar(days: int) -> None:
    wanted = date.fromordinal(days)
    count = days - date(1970, 1, 1).toordinal()
    assert civil_from_days(count) == (wanted.year, wanted.month, wanted.day)
    assert days_from_civil(wanted.year, wanted.month, wanted.day) == count


@settings(deadline=None, print_blob=True)
@given(year=st.integers(1, 9998), month=st.integers(1, 12))
def test_months_have_their_lengths(year: int, month: int) -> None:
    following = date(year + month // 12, month % 12 + 1, 1)
    assert days_in_month(year, month) == (following - date(year, month, 1)).days


@settings(max_examples=200, deadline=None, print_blob=True)
@given(at_us=moments, name=zones)
def test_local_time_is_what_the_time_zone_database_says(at_us: int, name: str) -> None:
    local = from_us(at_us).astimezone(zoneinfo.ZoneInfo(name))
    zone = frozen_zone(name)
    assert zone.local_us(at_us) == wall_us(local)
    assert zone.day(at_us) == (local.date() - date(1970, 1, 1)).days
    assert zone.month(at_us) == local.month


@settings(max_examples=200, deadline=None, print_blob=True)
@given(wall=wall_clocks, name=zones)
@example(wall=datetime(2011, 12, 30, 12), name="Pacific/Apia")  # noqa: DTZ001 - a day that never was
def test_the_instant_of_a_wall_clock_is_what_the_time_zone_database_says(wall: datetime, name: str) -> None:
    assert frozen_zone(name).utc_us(wall_us(wall)) == instant_us(wall, name)


@settings(max_examples=200, deadline=None, print_blob=True)
@given(data=st.data(), name=st.sampled_from(ZONES[1:]), minutes=st.integers(-26 * 60, 26 * 60))
def test_wall_clocks_around_each_change_of_offset(data: st.DataObject, name: str, minutes: int) -> None:
    zone = frozen_zone(name)
    change = data.draw(st.sampled_from(zone.starts_us[1:] or (0,)))
    wall = from_us(change + minutes * 60_000_000).replace(tzinfo=None)
    assert zone.utc_us(wall_us(wall)) == instant_us(wall, name)


@settings(max_examples=100, deadline=None, print_blob=True)
@given(data=st.data(), name=st.sampled_from(ZONES[1:]), off_us=st.sampled_from([-1, 0, 1]))
def test_an_offset_changes_at_its_instant_and_not_a_microsecond_sooner(
    data: st.DataObject, name: str, off_us: int
) -> None:
    zone = frozen_zone(name)
    at_us = data.draw(st.sampled_from(zone.starts_us[1:] or (0,))) + off_us
    assert zone.local_us(at_us) == wall_us(from_us(at_us).astimezone(zoneinfo.ZoneInfo(name)))


def test_a_wall_clock_that_the_clock_skips_is_read_with_the_offset_from_before() -> None:
    zone = frozen_zone("America/New_York")
    skipped = wall_us(datetime(2024, 3, 10, 2, 30))  # noqa: DTZ001 - a wall clock has no zone
    assert from_us(zone.utc_us(skipped)) == datetime(2024, 3, 10, 7, 30, tzinfo=UTC)
    assert zone.local_us(zone.utc_us(skipped)) == skipped + HOUR_US


def test_a_wall_clock_that_occurs_twice_is_the_first_of_the_two() -> None:
    zone = frozen_zone("Europe/Rome")
    twice = wall_us(datetime(2024, 10, 27, 2, 30))  # noqa: DTZ001 - a wall clock has no zone
    assert from_us(zone.utc_us(twice)) == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert zone.local_us(zone.utc_us(twice) + HOUR_US) == twice


@settings(max_examples=100, deadline=None, print_blob=True)
@given(at_us=moments, name=zones, days=st.integers(0, 1000))
def test_days_later_is_the_same_wall_clock(at_us: int, name: str, days: int) -> None:
    wall = from_us(at_us).astimezone(zoneinfo.ZoneInfo(name)).replace(tzinfo=None, fold=0) + timedelta(days=days)
    if wall.year < 2099:
        assert frozen_zone(name).add_days(at_us, days) == instant_us(wall, name)


@settings(max_examples=200, deadline=None, print_blob=True)
@given(at_us=moments, name=zones, months=st.integers(0, 120))
def test_months_later_is_the_same_wall_clock_on_a_day_that_the_month_has(at_us: int, name: str, months: int) -> None:
    wall = from_us(at_us).astimezone(zoneinfo.ZoneInfo(name)).replace(tzinfo=None, fold=0)
    year, month = divmod(wall.year * 12 + wall.month - 1 + months, 12)
    if year >= 2099:
        return
    last = (date(year + (month + 1) // 12, (month + 1) % 12 + 1, 1) - timedelta(days=1)).day
    wanted = wall.replace(year=year, month=month + 1, day=min(wall.day, last))
    assert frozen_zone(name).add_months(at_us, months) == instant_us(wanted, name)


@settings(max_examples=100, deadline=None, print_blob=True)
@given(at_us=moments, name=zones)
def test_the_month_ends_at_the_first_instant_of_the_next(at_us: int, name: str) -> None:
    zone = frozen_zone(name)
    end = zone.month_end(at_us)
    assert end > at_us
    assert zone.month(end) == zone.month(at_us) % 12 + 1
    assert zone.month(end - 1) == zone.month(at_us)
    assert civil_from_days(zone.day(end))[2] == 1


@settings(max_examples=200, deadline=None, print_blob=True)
@given(at_us=moments, name=zones, months=st.integers(1, 120))
@example(at_us=to_us(datetime(2020, 2, 29, 12, tzinfo=UTC)), name="UTC", months=12)
@example(at_us=to_us(datetime(2010, 12, 30, 20, tzinfo=UTC)), name="Pacific/Apia", months=12)
def test_months_after_begins_the_same_day_or_the_last_of_the_month(at_us: int, name: str, months: int) -> None:
    local = from_us(at_us).astimezone(zoneinfo.ZoneInfo(name))
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    if year >= 2099:
        return
    last = (date(year + (month + 1) // 12, (month + 1) % 12 + 1, 1) - timedelta(days=1)).day
    midnight = datetime(year, month + 1, min(local.day, last))  # noqa: DTZ001 - a wall clock has no zone
    found = frozen_zone(name).months_after(at_us, months)
    assert found == instant_us(midnight, name)
    assert found > at_us


def falls(name: str, months: int) -> list[datetime]:
    """Moments, minute by minute around each change of the clock, at which `months_after` is less than before."""
    zone = frozen_zone(name)
    found = []
    for change in zone.starts_us[1:]:
        before = 0
        for minute in range(-90, 91, 10):
            for at_us in (change + minute * 60_000_000 - 1, change + minute * 60_000_000):
                after = zone.months_after(at_us, months)
                if after < before:
                    found.append(from_us(at_us))
                before = after
    return found


@pytest.mark.parametrize("months", [1, 12])
@pytest.mark.parametrize("name", ZONES)
def test_months_after_never_falls_as_time_goes_on(name: str, months: int) -> None:
    assert falls(name, months) == []


@pytest.mark.parametrize("name", ["America/St_Johns", "America/Goose_Bay", "America/Moncton", "Antarctica/Casey"])
def test_months_after_never_falls_where_a_clock_goes_back_over_midnight(name: str) -> None:
    assert falls(name, 12) == []


@pytest.mark.parametrize(
    ("earned", "months", "until", "expires"),
    [
        ("2020-07-06T10:00", 12, "month_end", "2021-08-01T00:00"),
        ("2020-01-22T10:00", 0, "month_end", "2020-02-01T00:00"),
        ("2019-12-31T23:59", 0, "month_end", "2020-01-01T00:00"),
        ("2020-01-31T08:00", 1, "exact", "2020-02-29T08:00"),
        ("2021-01-31T08:00", 1, "exact", "2021-02-28T08:00"),
        ("2020-02-29T08:00", 12, "exact", "2021-02-28T08:00"),
        ("2020-02-29T08:00", 48, "exact", "2024-02-29T08:00"),
        ("2020-01-31T08:00", 1, "month_end", "2020-03-01T00:00"),
        ("2020-11-30T08:00", 3, "month_end", "2021-03-01T00:00"),
    ],
)
@pytest.mark.parametrize("name", ["UTC", "America/New_York", "Asia/Shanghai"])
def test_points_expire_at_the_end_of_the_month_or_to_the_minute(
    earned: str, months: int, until: str, expires: str, name: str
) -> None:
    expiry = Expiry.model_validate({"months": months, "until": until})
    earned_us = instant_us(datetime.fromisoformat(earned), name)
    assert expiry.expires_us(earned_us, frozen_zone(name)) == instant_us(datetime.fromisoformat(expires), name)


def test_thirty_days_over_a_change_of_the_clock_are_thirty_calendar_days() -> None:
    zone = frozen_zone("America/New_York")
    earned = instant_us(datetime(2024, 3, 1, 12), zone.name)  # noqa: DTZ001 - a wall clock has no zone
    expires = Expiry(days=30).expires_us(earned, zone)
    assert expires == instant_us(datetime(2024, 3, 31, 12), zone.name)  # noqa: DTZ001 - a wall clock has no zone
    assert expires is not None
    assert expires - earned == 30 * DAY_US - HOUR_US


def test_points_that_never_expire_have_no_moment() -> None:
    assert Expiry(never=True).expires_us(0, UTC_ZONE) == NEVER


def test_a_frozen_zone_says_from_which_release_it_was_read() -> None:
    zone = frozen_zone("Europe/Rome")
    assert zone.name == "Europe/Rome"
    assert zone.tzdata not in ("", "unknown")
    assert list(zone.starts_us) == sorted(zone.starts_us)
    assert len(zone.starts_us) == len(zone.offsets_s)


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "", "/etc/localtime"])
def test_a_zone_that_nobody_knows_is_refused_by_its_path(name: str) -> None:
    with pytest.raises(RuleSetError, match="zone: "):
        frozen_zone(name, "test")


@pytest.mark.parametrize("name", ["localtime", "Factory", "posixrules", "right/UTC", "posix/Europe/Rome", "Right/UTC"])
def test_what_lies_beside_the_zones_is_none_whatever_this_machine_has(name: str) -> None:
    with pytest.raises(RuleSetError, match=r"zone: '.*' is no time zone of a place; write one like Europe/Rome"):
        frozen_zone(name, "test")
