"""What a rule set gives for a fact: conditions, amounts, factors, groups, caps, lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallybook.domain import arithmetic
from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import DAY_US, UTC_ZONE, days_from_civil
from tallybook.domain.customer import Line, PurchaseRecorded, Traits
from tallybook.domain.earning import Measured, NewPoints, Rules, Share, cohort
from tallybook.domain.events import Metadata
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import LoyaltyAccount, measured_purchase
from tallybook.domain.rules import ALL_RULES, ROUNDINGS, Caps, RuleSet, parse_rule_set

Document = dict[str, Any]
Counts = Mapping[tuple[str, str, int], int]

ACCOUNT = UUID(int=5)
BASE = {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100}
BONUS = {"id": "bonus", "kind": "fixed", "points": 7}
LEVELS = [
    {"name": "basic", "threshold": 0},
    {"name": "gold", "threshold": 100, "multiplier": "3/2"},
    {"name": "tin", "threshold": 200, "multiplier": "1/2"},
]
NOON = days_from_civil(2024, 6, 15) * DAY_US + DAY_US // 2
"""A Saturday."""


def rules(*earning: Document, **changes: Any) -> Rules:
    tiers = {"window_months": 12, "levels": LEVELS, **changes.pop("tiers", {})}
    document = {"name": "test", "version": "1", "currency": "USD", "expiry": {"months": 12}, "tiers": tiers}
    return Rules(parse_rule_set({**document, "earning": list(earning), **changes}, "test"), UTC_ZONE)


def bought(
    ready: Rules, *lines: Line | int, at_us: int = NOON, currency: str = "USD", store: str | None = None,
    traits: Traits = Traits(),
) -> Measured | None:  # fmt: skip
    """A purchase as the rules see it, in the tier basic."""
    account = LoyaltyAccount(ACCOUNT)
    stamp = Stamp(Metadata(recorded_us=0, actor="a", purpose="p"), at_us, lambda: UUID(int=9))
    fact = PurchaseRecorded(
        originator_id=ACCOUNT, originator_version=1, event_id=stamp.new_id(), effective_us=at_us,
        metadata=stamp.metadata, subject_id=ACCOUNT, currency=currency, store=store, order_id=None, source_ref=None,
        lines=tuple(one if isinstance(one, Line) else Line(sku="sku", quantity=1, net_minor=one) for one in lines),
    )  # fmt: skip
    return measured_purchase(account, fact, ready, traits)


def shares(
    ready: Rules, *lines: Line | int, tier: str = "basic", used: Counts | None = None, **order: Any
) -> list[Share]:
    measured = bought(ready, *lines, **order)
    return [] if measured is None else ready.shares(measured, tier, ACCOUNT, reader(used))


def lots(
    ready: Rules, *lines: Line | int, tier: str = "basic", used: Counts | None = None, **order: Any
) -> list[NewPoints]:
    measured = bought(ready, *lines, **order)
    return [] if measured is None else ready.earn(measured, tier, ACCOUNT, reader(used))


def reader(used: Counts | None) -> Any:
    found = {} if used is None else used
    return lambda counter, period, number: found.get((counter, period, number), 0)


def points(ready: Rules, *lines: Line | int, **order: Any) -> int:
    return sum(share.points for share in shares(ready, *lines, **order))


def named(ready: Rules, *lines: Line | int, **order: Any) -> list[str]:
    return [share.rule.id for share in shares(ready, *lines, **order) if share.points]
