"""Frequency, recency, tenure and value: a case that can be counted by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from tallybook.adapters.rule_files import frozen_zone
from tallybook.domain.customer import PurchaseRecorded
from tallybook.projections.segments import Segment, segments

if TYPE_CHECKING:
    from tests.projections.conftest import Shop

# 1997-01-01 and 1997-09-30, as in the CDNOW papers
AS_OF = 875_577_600_000_000


def test_days_count_and_not_purchases_and_the_first_day_is_no_repeat(shop: Shop) -> None:
    ada, bob, eve = (shop.book.customers.register(effective_at="1997-01-01T00:00:00Z") for _ in range(3))
    shop.buy(ada, "1997-01-11", 1_000)
    shop.buy(ada, "1997-01-11T18:00", 500)
    shop.buy(ada, "1997-03-12", 2_000)
    shop.buy(ada, "1997-03-12", 1_001)
    shop.buy(ada, "1997-09-30", 4_000)
    shop.buy(ada, "1997-10-01", 9_999)
    shop.buy(bob, "1997-02-10", 700, 50)
    shop.buy(eve, "1997-10-05", 100)
    found = dict(shop.book.profiles.segments(as_of="1997-09-30"))
    assert found == {
        # (3001 + 4000) / 2, rounded half up; first to last day 262, first day to the date 262
        str(ada): Segment(ada, 2, 262, 262, 3_501, 8_501),
        str(bob): Segment(bob, 0, 0, 232, 0, 750),
    }


def test_a_purchase_that_is_learned_of_late_may_be_the_first(shop: Shop) -> None:
    ada = shop.book.customers.register(effective_at="1997-01-01T00:00:00Z")
    shop.buy(ada, "1997-03-01", 1_000)
    known = shop.book.position()
    shop.buy(ada, "1997-02-01", 500)
    ((_, now),) = shop.book.profiles.segments(as_of="1997-03-31")
    ((_, then),) = shop.book.profiles.segments(as_of="1997-03-31", known_at=known)
    assert (now.frequency, now.recency_days, now.tenure_days, now.monetary_minor) == (1, 28, 58, 1_000)
    assert (then.frequency, then.recency_days, then.tenure_days, then.monetary_minor) == (0, 0, 30, 0)


def test_a_day_is_a_day_of_the_zone(shop: Shop) -> None:
    ada = shop.book.customers.register(effective_at="1997-01-01T00:00:00Z")
    shop.buy(ada, "1997-03-01T23:30", 100)
    shop.buy(ada, "1997-03-02T00:30", 100)
    at_us = AS_OF
    purchases = [
        (ada, event.effective_us, event.net_minor) for _, event in shop.history() if isinstance(event, PurchaseRecorded)
    ]
    (in_utc,) = segments(purchases, at_us)
    (in_rome,) = segments(purchases, at_us, frozen_zone("Europe/Rome"))
    assert (in_utc.frequency, in_rome.frequency) == (1, 0)


def test_segments_are_by_the_external_id_where_a_system_is_named(shop: Shop) -> None:
    ada = shop.book.customers.register(effective_at="1997-01-01T00:00:00Z", identifiers={"cdnow": "00002"})
    bob = shop.book.customers.register(effective_at="1997-01-01T00:00:00Z", identifiers={"cdnow": "00001"})
    shop.buy(ada, "1997-03-01", 100)
    shop.buy(bob, "1997-03-02", 100)
    found = shop.book.profiles.segments(as_of="1997-09-30", system="cdnow")
    assert [(name, one.customer_id) for name, one in found] == [("00001", bob), ("00002", ada)]
    assert isinstance(found[0][1].customer_id, UUID)
