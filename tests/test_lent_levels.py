"""Levels that people lend, times in which an account is barred, and what goes with a level or an account."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.domain.conftest import rule_set
from tests.test_loyalty_desk import code_of, joined, opened

from tallybook import Book
from tallybook.domain.errors import Refused

GOLD = [
    {"name": "member", "threshold": 0},
    {"name": "silver", "threshold": 100},
    {"name": "gold", "threshold": 500, "keep": 200, "grants": ["cake"]},
]
CAKE = [{"id": "cake", "price": 10, "coupon_days": 300}]


@pytest.fixture
def cakes() -> Iterator[Book]:
    """A book whose gold level brings a cake; a point for each unit of money."""
    tiers = {"window_months": 12, "levels": GOLD}
    with opened(tiers=tiers, rewards=CAKE, expiry={"never": True}) as book, book.acting("agent:a", purpose="x"):
        yield book


def bought(book: Book, customer: UUID, units: int, day: str, order: str = "A") -> None:
    lines = [{"sku": "s", "quantity": 6, "net_minor": units * 100}]
    book.customers.record_purchase(customer, lines, order_id=order, effective_at=f"{day}T12:00:00Z")


def seen(book: Book, customer: UUID, day: str) -> tuple[str | None, list[str]]:
    """The tier on a day, and what became of each coupon."""
    account = book.loyalty.account(customer, as_of=f"{day}T00:00:00Z")
    return account.tier, [one.outcome or "good" for one in account.coupons]


def lend(book: Book, customer: UUID, day: str, until: str, tier: str = "gold") -> None:
    book.loyalty.override_tier(customer, tier, f"{until}T00:00:00Z", reason="trial", effective_at=f"{day}T00:00:00Z")


def test_a_level_that_was_lent_is_not_kept_by_fewer_points(cakes: Book) -> None:
    lent, lifted = joined(cakes), joined(cakes)
    for customer in (lent, lifted):
        bought(cakes, customer, 300, "2024-02-01", str(customer))
        lend(cakes, customer, "2024-02-02", "2024-03-01")
    assert seen(cakes, lent, "2024-02-20")[0] == "gold"
    assert seen(cakes, lent, "2024-03-02")[0] == "silver"
    assert cakes.loyalty.lift_override(lifted, reason="mistake", effective_at="2024-02-10T00:00:00Z") == "silver"


def test_a_level_that_is_earned_while_it_is_lent_is_held_and_brings_its_coupon_when_the_rules_decide(
    cakes: Book,
) -> None:
    customer = joined(cakes)
    lend(cakes, customer, "2024-02-01", "2024-02-20")
    bought(cakes, customer, 600, "2024-02-03")
    assert seen(cakes, customer, "2024-02-19") == ("gold", [])
    cakes.loyalty.sweep("2024-02-21T00:00:00Z")
    assert seen(cakes, customer, "2024-02-21") == ("gold", ["good"])
    assert cakes.replay().holds
    assert all(one.agrees for one in cakes.loyalty.explain_account(customer))
    # Lent again, to somebody who holds it: it is kept with what keeps it.
    lend(cakes, customer, "2024-03-01", "2024-03-10", "member")
    assert seen(cakes, customer, "2024-03-05")[0] == "member"
    assert seen(cakes, customer, "2024-03-11") == ("gold", ["good"])


def test_a_return_takes_the_coupons_of_levels_that_are_lent_or_renamed_meanwhile(cakes: Book) -> None:
    lent, renamed = joined(cakes), joined(cakes)
    for customer in (lent, renamed):
        bought(cakes, customer, 600, "2024-02-01", str(customer))
        assert seen(cakes, customer, "2024-02-02") == ("gold", ["good"])
    lend(cakes, lent, "2024-02-03", "2024-02-20", "silver")
    cakes.customers.record_return(lent, {1: 6}, order_id=str(lent), effective_at="2024-02-05T00:00:00Z")
    assert seen(cakes, lent, "2024-02-06") == ("silver", ["withdrawn"])
    assert seen(cakes, lent, "2024-02-21") == ("member", ["withdrawn"])
    named = [*GOLD[:2], {**GOLD[2], "name": "vip"}]
    cakes.rules.adopt(
        rule_set(version="2", tiers={"window_months": 12, "levels": named}, rewards=CAKE, expiry={"never": True}),
        effective_at="2024-02-10T00:00:00Z",
    )
    cakes.customers.record_return(renamed, {1: 6}, order_id=str(renamed), effective_at="2024-02-12T00:00:00Z")
    assert seen(cakes, renamed, "2024-02-13") == ("member", ["withdrawn"])
    assert cakes.replay().holds


def test_what_is_told_later_of_a_time_in_which_the_account_was_suspended_earns_and_spends_nothing(cakes: Book) -> None:
    customer = joined(cakes)
    bought(cakes, customer, 90, "2024-02-01")
    cakes.loyalty.suspend(customer, reason="fraud", effective_at="2024-02-02T00:00:00Z")
    cakes.loyalty.resume(customer, reason="cleared", effective_at="2024-03-02T00:00:00Z")
    bought(cakes, customer, 50, "2024-02-15", "B")
    then: Any = {"effective_at": "2024-02-16T00:00:00Z"}
    assert code_of(lambda: cakes.loyalty.redeem(customer, reward="cake", **then)) == "account_suspended"
    assert code_of(lambda: cakes.loyalty.hold(customer, 5, **then)) == "account_suspended"
    assert code_of(lambda: cakes.loyalty.use_coupon(customer, uuid4(), **then)) == "account_suspended"
    told = "\n".join(step for one in cakes.loyalty.explain_account(customer) for step in one.why)
    assert "The account was suspended then: 50 points were not earned" in told
    assert cakes.loyalty.balance(customer) == 90
    bought(cakes, customer, 7, "2024-03-02", "C")
    bought(cakes, customer, 3, "2024-02-01", "D")
    assert cakes.loyalty.balance(customer) == 100
    assert cakes.replay().holds


def test_closing_an_account_ends_its_coupons(cakes: Book) -> None:
    customer = joined(cakes)
    bought(cakes, customer, 600, "2024-02-01")
    cakes.loyalty.close(customer, reason="left", effective_at="2024-02-02T00:00:00Z")
    assert seen(cakes, customer, "2024-02-03")[1] == ["expired"]
    told = "\n".join(step for one in cakes.loyalty.explain_account(customer) for step in one.why)
    assert "went with the account, which was closed" in told
    assert cakes.replay().holds


def test_a_code_that_somebody_else_has_is_answered_as_one_that_nobody_has(cakes: Book) -> None:
    ada, eve = joined(cakes, points=100), joined(cakes)
    cakes.loyalty.redeem(ada, reward="cake", code="SECRET-1")
    for call in (cakes.loyalty.use_coupon, lambda one, code: cakes.loyalty.void_coupon(one, code, reason="sorry")):
        answers = []
        for code in ("SECRET-1", "SECRET-2"):
            with pytest.raises(Refused) as refused:
                call(eve, code)
            answers.append((refused.value.code, str(refused.value), refused.value.values))
        assert answers[0] == answers[1]


def test_a_purchase_of_which_caps_left_nothing_is_no_use_of_the_account() -> None:
    rules: dict[str, Any] = {"expiry": {"never": True}, "inactivity_months": 3, "caps": {"year": 100}}
    with opened(**rules) as book, book.acting("agent:a", purpose="x"):
        customer = joined(book)
        bought(book, customer, 100, "2024-01-15")
        bought(book, customer, 100, "2024-03-31", "B")
        assert book.loyalty.account(customer, as_of="2024-04-14T00:00:00Z").active == 100
        assert book.loyalty.account(customer, as_of="2024-04-16T00:00:00Z").active == 0
