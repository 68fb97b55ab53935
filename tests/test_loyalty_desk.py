"""`book.loyalty`, `book.rules` and referrals as hosts call them: what each command answers, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.domain.conftest import rule_set

import tallybook
from tallybook import Book
from tallybook.domain.errors import Refused

START = "2024-01-01T00:00:00Z"
RULES = rule_set(
    rewards=[
        {"id": "mug", "price": 20, "counted": True, "coupon_days": 30, "voided": "returned"},
        {"id": "lounge", "price": 5, "segments": ["flyers"]},
        {"id": "gift", "price": 5, "tiers": ["gold"]},
    ],
    transfers={"allowed": True},
    expiry={"never": True},
)


@pytest.fixture
def book() -> Iterator[Book]:
    with tallybook.open("memory:") as book, book.acting("agent:ada", purpose="service"):
        book.rules.adopt(RULES, effective_at=START)
        yield book


@pytest.fixture
def member(book: Book) -> UUID:
    return joined(book, points=100)


def joined(book: Book, *, points: int = 0) -> UUID:
    """A customer with an account."""
    customer = book.customers.register(effective_at=START)
    book.loyalty.enrol(customer, effective_at=START)
    if points:
        book.loyalty.adjust(customer, points, reason="welcome", effective_at="2024-01-02T00:00:00Z")
    return customer


def code_of(call: Callable[[], Any]) -> str:
    """Why a call was refused."""
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.code


def positions(book: Book, call: Callable[[], Any]) -> int:
    """How many events a call records, refused or not."""
    before = book.position()
    with suppress(Refused):
        call()
    return book.position() - before


# ── accounts that are suspended and closed ────────────────────────────────────────────────────────────────────────


def test_a_suspended_account_neither_earns_nor_spends_until_it_is_resumed(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    assert code_of(lambda: loyalty.resume(member, reason="cleared")) == "not_suspended"
    loyalty.suspend(member, reason="fraud-check")
    assert code_of(lambda: loyalty.suspend(member, reason="again")) == "account_suspended"
    assert code_of(lambda: loyalty.redeem(member, reward="mug")) == "account_suspended"
    assert code_of(lambda: loyalty.hold(member, 5)) == "account_suspended"
    assert code_of(lambda: loyalty.transfer(member, joined(book), 5)) == "account_suspended"
    bought = book.customers.record_purchase(member, [{"sku": "a", "quantity": 1, "net_minor": 10_000}])
    assert loyalty.balance(member) == 100
    assert code_of(lambda: loyalty.withdraw_earning(member, bought.purchase_id, reason="undone")) == "unknown_earning"
    loyalty.resume(member, reason="cleared")
    loyalty.stock_reward("mug", 1, reason="delivered")
    assert loyalty.redeem(member, reward="mug").balance == 80


def test_attempts_that_fail_are_facts(book: Book, member: UUID) -> None:
    other = joined(book)
    # The request, and the decision that it is refused.
    assert positions(book, lambda: book.loyalty.redeem(member, reward="mug")) == 2
    assert positions(book, lambda: book.loyalty.hold(member, 1_000)) == 2
    assert positions(book, lambda: book.loyalty.transfer(member, other, 1_000)) == 2
    assert positions(book, lambda: book.loyalty.use_coupon(member, uuid4())) == 2


def test_a_closed_account_keeps_nothing_and_takes_nothing(book: Book, member: UUID) -> None:
    held = book.loyalty.hold(member, 30)
    assert held.balance == 70
    assert book.loyalty.close(member, reason="left") == 100
    for call in (
        lambda: book.loyalty.redeem(member, reward="mug"),
        lambda: book.loyalty.adjust(member, 5, reason="sorry"),
        lambda: book.loyalty.transfer(joined(book, points=10), member, 5),
    ):
        assert code_of(call) == "account_closed"


# ── rewards ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rewards_have_conditions(book: Book, member: UUID) -> None:
    assert code_of(lambda: book.loyalty.redeem(member, reward="lounge")) == "segment_required"
    assert code_of(lambda: book.loyalty.redeem(member, reward="lounge", segments=["walkers"])) == "segment_required"
    assert book.loyalty.redeem(member, reward="lounge", segments=["walkers", "flyers"]).points == 5
    assert code_of(lambda: book.loyalty.redeem(member, reward="gift")) == "tier_required"
    assert code_of(lambda: book.loyalty.redeem(member, 4, reward="lounge", segments=["flyers"])) == "invalid_argument"


def test_what_is_counted_is_given_as_often_as_it_is_there(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    assert code_of(lambda: loyalty.stock_reward("lounge", 1, reason="delivered")) == "unknown_reward"
    assert loyalty.stock_reward("mug", 2, reason="delivered") == 2
    assert code_of(lambda: loyalty.stock_reward("mug", -3, reason="broken")) == "out_of_stock"
    first = loyalty.redeem(member, reward="mug")
    loyalty.redeem(member, reward="mug")
    assert code_of(lambda: loyalty.redeem(member, reward="mug")) == "out_of_stock"
    assert loyalty.return_redemption(member, first.redemption_id, reason="unwanted") == 20
    assert loyalty.redeem(member, reward="mug").balance == 60


def test_a_redemption_comes_back_once_and_not_with_what_it_bought(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    loyalty.stock_reward("mug", 5, reason="delivered")
    paid = loyalty.redeem(member, reward="mug", code="MUG-1")
    assert code_of(lambda: loyalty.return_redemption(member, uuid4(), reason="x")) == "unknown_redemption"
    assert code_of(lambda: loyalty.return_redemption(member, paid.redemption_id, 21, reason="x")) == "returned_too_much"
    assert loyalty.return_redemption(member, paid.redemption_id, 5, reason="damaged") == 5
    assert loyalty.use_coupon(member, "MUG-1") == paid.coupon_id
    before = book.position()
    assert code_of(lambda: loyalty.return_redemption(member, paid.redemption_id, reason="x")) == "coupon_used"
    assert book.position() == before
    assert loyalty.balance(member) == 85


# ── coupons ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_coupon_is_good_once_and_for_its_time(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    loyalty.stock_reward("mug", 5, reason="delivered", effective_at="2024-01-02T00:00:00Z")
    assert code_of(lambda: loyalty.use_coupon(member, "NO-SUCH")) == "invalid_argument"
    assert code_of(lambda: loyalty.use_coupon(member, uuid4())) == "unknown_coupon"
    assert code_of(lambda: loyalty.void_coupon(member, uuid4(), reason="x")) == "unknown_coupon"
    at = "2024-01-03T00:00:00Z"
    used, voided, over = (loyalty.redeem(member, reward="mug", effective_at=at).coupon_id for _ in range(3))
    assert used is not None
    assert voided is not None
    assert over is not None
    later = "2024-01-04T00:00:00Z"
    loyalty.use_coupon(member, used, effective_at=later)
    assert loyalty.void_coupon(member, voided, reason="unwanted", effective_at=later) == 20
    expected = {used: "coupon_used", voided: "coupon_voided", over: "coupon_expired"}
    for coupon, code in expected.items():
        assert code_of(lambda coupon=coupon: loyalty.use_coupon(member, coupon)) == code  # type: ignore[misc]  # a default binds it
        assert code_of(lambda coupon=coupon: loyalty.void_coupon(member, coupon, reason="x")) == code  # type: ignore[misc]  # as above


def test_a_coupons_code_is_taken_once_and_belongs_to_its_account(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    loyalty.stock_reward("mug", 5, reason="delivered")
    loyalty.redeem(member, reward="mug", code="SPRING")
    other = joined(book, points=100)
    assert code_of(lambda: loyalty.redeem(other, reward="mug", code="SPRING")) == "code_taken"
    assert loyalty.balance(other) == 100
    assert code_of(lambda: loyalty.use_coupon(other, "SPRING")) == "unknown_coupon"
    assert loyalty.use_coupon(member, "SPRING")


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_holds_are_captured_or_released(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    held = loyalty.hold(member, 30)
    assert code_of(lambda: loyalty.release(member, uuid4())) == "unknown_hold"
    assert loyalty.release(member, held.hold_id) == 30
    assert code_of(lambda: loyalty.release(member, held.hold_id)) == "unknown_hold"
    captured = loyalty.hold(member, 30)
    assert loyalty.redeem(member, reward="lounge", segments=["flyers"], hold_id=captured.hold_id).balance == 95
    assert code_of(lambda: loyalty.hold(member, 5, until=START)) == "invalid_argument"


def test_earnings_are_confirmed_and_withdrawn_by_their_fact(book: Book, member: UUID) -> None:
    assert code_of(lambda: book.loyalty.confirm_earning(member, uuid4())) == "unknown_earning"
    bought = book.customers.record_purchase(member, [{"sku": "a", "quantity": 1, "net_minor": 5_000}])
    earned = book.loyalty.balance(member) - 100
    assert earned > 0
    assert book.loyalty.confirm_earning(member, bought.purchase_id) == 0
    assert book.loyalty.withdraw_earning(member, bought.purchase_id, reason="fraud") == earned
    assert book.loyalty.withdraw_earning(member, bought.purchase_id, reason="fraud") == 0
    assert book.loyalty.balance(member) == 100


def test_a_tier_is_overridden_until_the_override_ends(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    until = "2999-01-01T00:00:00Z"
    assert code_of(lambda: loyalty.lift_override(member, reason="x")) == "no_override"
    assert code_of(lambda: loyalty.override_tier(member, "diamond", until, reason="x")) == "unknown_tier"
    assert code_of(lambda: loyalty.override_tier(member, "gold", START, reason="x")) == "invalid_argument"
    loyalty.override_tier(member, "gold", until, reason="partner")
    assert loyalty.account(member).tier == "gold"
    assert loyalty.lift_override(member, reason="over") == RULES.tiers.levels[0].name
    assert code_of(lambda: loyalty.lift_override(member, reason="x")) == "no_override"


def test_a_repeated_command_answers_as_before(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    loyalty.stock_reward("mug", 5, reason="delivered")
    first = [
        loyalty.redeem(member, reward="mug", command_id="a"),
        loyalty.hold(member, 5, command_id="b"),
        loyalty.adjust(member, -5, reason="mistake", command_id="c"),
        loyalty.transfer(member, joined(book), 5, command_id="d") and None,
    ]
    before = book.position()
    again = [
        loyalty.redeem(member, reward="mug", command_id="a"),
        loyalty.hold(member, 5, command_id="b"),
        loyalty.adjust(member, -5, reason="mistake", command_id="c"),
        None,
    ]
    assert again == first
    assert book.position() == before


# ── referrals ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_is_brought_twice_by_himself_or_in_a_circle(book: Book) -> None:
    ada, bob, cy = (book.customers.register() for _ in range(3))
    assert code_of(lambda: book.customers.refer(ada, ada)) == "invalid_argument"
    book.customers.refer(ada, bob)
    assert code_of(lambda: book.customers.refer(cy, bob)) == "already_referred"
    book.customers.refer(bob, cy)
    assert code_of(lambda: book.customers.refer(bob, ada)) == "referral_circle"
    assert code_of(lambda: book.customers.refer(cy, ada)) == "referral_circle"


# ── rule sets ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_set_is_put_forward_withdrawn_and_adopted_with_its_backtest(book: Book, member: UUID) -> None:
    rules = book.rules
    assert code_of(lambda: rules.withdraw("0" * 64, reason="x")) == "not_proposed"
    candidate = rule_set(version="2")
    digest = rules.propose(candidate, reason="autumn")
    assert [one.digest for one in rules.proposals()] == [digest]
    rules.withdraw(digest, reason="too-dear")
    assert rules.proposals() == []
    rules.require_backtest(reason="policy")
    assert code_of(lambda: rules.adopt(candidate)) == "backtest_required"
    assert code_of(lambda: rules.adopt(candidate, backtest="0" * 64)) == "backtest_required"
    result = book.backtest(candidate, record=True)
    assert rules.adopt(candidate, reason="autumn", backtest=result.digest()) == "standard@2"
    rules.require_backtest(required=False, reason="policy")
    assert rules.adopt(rule_set(version="3")) == "standard@3"
