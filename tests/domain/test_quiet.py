"""Up to the moment that is noted of an account, time alone does nothing to it, and at that moment something."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant
from tests.domain.conftest import World, rule_set, us
from tests.domain.test_account_machine import LIVES, AccountMachine

from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import DAY_US
from tallybook.domain.control import RuleBook
from tallybook.domain.earning import Rules
from tallybook.domain.events import Event, Metadata
from tallybook.domain.loyalty import LoyaltyAccount

FAR_US = 3 * 366 * DAY_US
START = us("2020-03-01")


def decided(account: LoyaltyAccount, until_us: int, rule_book: RuleBook) -> list[Event]:
    """What a sweep up to a moment would record."""
    journal: list[Event] = []
    stamp = Stamp(Metadata(recorded_us=0, actor="job:sweep", purpose="expiry"), until_us, uuid4)
    account.draft(journal).settle_until(stamp, until_us, rule_book)
    return journal


def check(account: LoyaltyAccount, look_us: int, rule_book: RuleBook) -> bool:
    """Whether something is due within the look."""
    quiet_until_us = account.quiet_until_us(rule_book, look_us)
    assert quiet_until_us <= look_us
    assert not decided(account, quiet_until_us - 1, rule_book)
    if quiet_until_us == look_us:
        return False
    assert decided(account, quiet_until_us, rule_book)
    return True


class QuietMachine(AccountMachine):
    """The same lives; after each step it is asked from when on time does something."""

    @invariant()
    def time_does_nothing_before_and_something_then(self) -> None:
        if hasattr(self, "plain"):
            rule_book = self.world.control.rule_book
            account = self.world.accounts["ada"]
            check(account, self.now + FAR_US, rule_book)
            check(account, self.now + 20 * DAY_US, rule_book)


TestQuiet = QuietMachine.TestCase
TestQuiet.settings = settings(LIVES, max_examples=60)


LADDER: dict[str, Any] = {"levels": [{"name": "basic", "threshold": 0}, {"name": "gold", "threshold": 100}]}


@pytest.mark.parametrize("window", ["calendar_year", "membership_year"])
def test_years_are_looked_at_as_far_as_the_look_goes(window: str) -> None:
    world = World(rule_set(expiry={"never": True}, tiers={**LADDER, "window": window, "downgrade": "never"}))
    world.enrol(START)
    world.buy(START, 500_00)
    account = world.accounts["ada"]
    assert account.tier == "gold"
    assert not check(account, START + 400 * 366 * DAY_US, world.control.rule_book)


def test_a_rule_set_that_is_adopted_brings_the_moment_on() -> None:
    world = World(rule_set(expiry={"never": True}, tiers={**LADDER, "window_months": 12}))
    world.enrol(START)
    world.buy(START, 500_00)
    account, rule_book = world.accounts["ada"], world.control.rule_book
    assert account.quiet_until_us(rule_book, START + FAR_US) == us("2021-03-01")
    lazy = rule_set(version="2", expiry={"never": True}, inactivity_months=1, tiers={**LADDER, "window_months": 12})
    changed = rule_book.adding(us("2020-06-01"), "main", Rules(lazy, world.zone))
    assert account.quiet_until_us(changed, START + FAR_US) == us("2020-06-01")
    assert check(account, START + FAR_US, changed)
