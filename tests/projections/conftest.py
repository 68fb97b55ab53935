"""Books in memory with a clock and ids of the test's own, and a short way to give commands to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

import pytest

import tallybook
from tallybook.domain.events import to_us
from tallybook.domain.rules import RuleSet, parse_rule_set
from tallybook.projections.read_models import Recorded

STANDARD: dict[str, Any] = {
    "name": "standard",
    "version": "1",
    "currency": "USD",
    "earning": [{"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100}],
    "expiry": {"months": 12, "until": "month_end"},
    "tiers": {
        "window_months": 12,
        "levels": [
            {"name": "basic", "threshold": 0},
            {"name": "silver", "threshold": 100},
            {"name": "gold", "threshold": 300},
        ],
    },
}


def rule_set(**changes: Any) -> RuleSet:
    """The standard document with some parts replaced."""
    return parse_rule_set({**STANDARD, **changes}, "test")


def at(text: str) -> datetime:
    """A UTC time of "2020-07-06" or "2020-07-06T15:00"."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Shop:
    """A book under the standard rule set, in force since 2000; the clock stands at `now` until it is set."""

    def __init__(self, url: str = "memory:", *, adopted: bool = True, **changes: Any) -> None:
        self.now = at("2024-01-01")
        ids = count(1)
        self.book = tallybook.open(
            url, now_us=lambda: to_us(self.now), new_id=lambda: UUID(int=(next(ids) << 64) | 0x4000_8000_0000_0000)
        )
        self.acting = self.book.acting("agent:test", purpose="test")
        self.acting.__enter__()
        if adopted:
            self.book.rules.adopt(rule_set(**changes), effective_at=at("2000-01-01"))

    def member(self, since: str = "2020-01-01", **fields: Any) -> UUID:
        """A customer with an account."""
        customer = self.book.customers.register(effective_at=at(since), **fields)
        self.book.loyalty.enrol(customer, effective_at=at(since))
        return customer

    def buy(self, customer: UUID, when: str, *net_minor: int) -> UUID:
        """A purchase of one piece for each amount; its id."""
        lines = [{"sku": "sku", "quantity": 1, "net_minor": net} for net in net_minor]
        return self.book.customers.record_purchase(customer, lines, effective_at=at(when)).purchase_id

    def give_back(self, customer: UUID, when: str, purchase: UUID, *lines: int) -> None:
        """A return of the lines of those numbers."""
        self.book.customers.record_return(
            customer, dict.fromkeys(lines, 1), purchase_id=purchase, effective_at=at(when)
        )

    def redeem(self, customer: UUID, when: str, points: int) -> bool:
        """Spend points; whether that was paid."""
        try:
            self.book.loyalty.redeem(customer, points, reward="R1", effective_at=at(when))
        except tallybook.Refused as refused:
            if refused.code != "insufficient_points":
                raise
            return False
        return True

    def sweep(self, until: str) -> None:
        """Record what is due for every account."""
        self.book.loyalty.sweep(at(until))

    def history(self) -> list[Recorded]:
        """All events of the book, in order."""
        return list(self.book._core.history())

    def rows(self, model: Any, table: Any) -> Sequence[tuple[Any, ...]]:
        """All rows of a table of a read model, by key."""
        store = self.book._core.store
        return store.select(model, table, ["*"], f"1=1 ORDER BY {', '.join(table.key)}")

    def close(self) -> None:
        """Release all files."""
        self.acting.__exit__(None, None, None)
        self.book.close()


@pytest.fixture
def new_shop() -> Iterator[Callable[..., Shop]]:
    """Makes shops that are closed after the test. Their contexts nest, so the last one opened is closed first."""
    with ExitStack() as stack:

        def make(url: str = "memory:", **changes: Any) -> Shop:
            shop = Shop(url, **changes)
            stack.callback(shop.close)
            return shop

        yield make


@pytest.fixture(params=["memory", "postgresql"])
def shop(request: pytest.FixtureRequest, new_shop: Callable[..., Shop]) -> Shop:
    """A shop under the standard rule set, in memory and on a server."""
    return new_shop() if request.param == "memory" else new_shop(request.getfixturevalue("server_book_url"))


@pytest.fixture(scope="session")
def open_shop() -> Callable[..., Shop]:
    """Makes a shop that the test closes itself: for properties, which make one for each example."""
    return Shop


@pytest.fixture(scope="session")
def rules_with() -> Callable[..., RuleSet]:
    """The standard rule set with some parts replaced."""
    return rule_set
