"""Frequency, recency, tenure and value of customers at a date, counted as Fader and Hardie do.

Source: P. S. Fader, B. G. S. Hardie, K. L. Lee, "RFM and CLV: Using Iso-Value Curves for Customer Base Analysis",
Journal of Marketing Research 42 (2005): several purchases on one day are one; the first purchase is not a repeat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from tallybook.domain.calendar import UTC_ZONE, Zone
from tallybook.domain.rules import rounded

from .exclusions import Scored


@dataclass(frozen=True, slots=True)
class Segment:
    """One customer at a date.

    `frequency`: days with a repeat purchase. `recency_days`: from the first purchase to the last. `tenure_days`: from
    the first purchase to the date. `monetary_minor`: mean net value of a day with a repeat purchase, rounded half up;
    0 without repeats. `total_minor`: net value of all purchases.
    """

    customer_id: UUID
    frequency: int
    recency_days: int
    tenure_days: int
    monetary_minor: int
    total_minor: int


class Segments(Scored[tuple[str, Segment]]):
    """Segments of customers, each under its name; and how many who bought are left out of scoring, by the reason."""

    __slots__ = ()


Purchase = tuple[UUID, int, int]
"""customer, effective µs, net amount in minor units"""


def segments(purchases: Iterable[Purchase], as_of_us: int, zone: Zone = UTC_ZONE) -> list[Segment]:
    """Segments of all customers who bought by a date, in order of their first appearance."""
    days: dict[UUID, dict[int, int]] = {}
    for customer_id, effective_us, net_minor in purchases:
        if effective_us <= as_of_us:
            by_day = days.setdefault(customer_id, {})
            day = zone.day(effective_us)
            by_day[day] = by_day.get(day, 0) + net_minor
    today = zone.day(as_of_us)
    found = []
    for customer_id, by_day in days.items():
        first = min(by_day)
        total = sum(by_day.values())
        frequency = len(by_day) - 1
        found.append(
            Segment(
                customer_id,
                frequency,
                max(by_day) - first,
                today - first,
                rounded(total - by_day[first], frequency, "half_up") if frequency else 0,
                total,
            )
        )
    return found
