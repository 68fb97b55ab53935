"""`book.loyalty`, `book.rules` and referrals as hosts call them: what each command answers, and what it refuses."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from tests.domain.conftest import rule_set

import tallybook
from tallybook import Book
from tallybook.commands import command
from tallybook.domain.errors import Refused, RuleSetError
from tallybook.domain.events import Decision, Event, Fact, from_us
from tallybook.domain.loyalty import account_id
from tallybook.domain.points import ReferralCredited
from tallybook.domain.rules import RuleSet
from tallybook.loyalty import LoyaltyDesk

START = "2024-01-01T00:00:00Z"
RULES = rule_set(
    rewards=[
        {"id": "mug", "price": 20, "counted": True, "coupon_days": 30, "voided": "returned"},
        {"id": "print", "price": 20, "counted": True, "coupon_days": 30, "voided": "forfeited"},
        {"id": "pen", "price": 20, "coupon_days": 30},
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


def events(book: Book, after: int) -> list[Event]:
    """What was recorded since."""
    return [one.event for one in book.follow(after=after, timeout_s=0)]


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
    assert positions(book, lambda: book.loyalty.use_coupon(member, "GUESSED-7")) == 2
    assert positions(book, lambda: book.loyalty.issue_coupon(member, "mug", reason="sorry")) == 2


def test_a_closed_account_keeps_nothing_and_takes_nothing(book: Book, member: UUID) -> None:
    held = book.loyalty.hold(member, 30)
    assert held.balance == 70
    assert book.loyalty.close(member, reason="left") == 100
    assert code_of(lambda: book.loyalty.adjust(member, 5, reason="sorry")) == "account_closed"
    assert positions(book, lambda: book.loyalty.adjust(member, 5, reason="sorry")) == 0
    assert positions(book, lambda: book.loyalty.issue_coupon(member, "mug", reason="sorry")) == 0


def test_attempts_on_a_closed_account_are_facts(book: Book, member: UUID) -> None:
    loyalty, other = book.loyalty, joined(book)
    loyalty.stock_reward("mug", 5, reason="delivered")
    paid = loyalty.redeem(member, reward="mug", code="MUG-1")
    loyalty.close(member, reason="left")
    calls: list[Callable[[], Any]] = [
        lambda: loyalty.redeem(member, reward="mug"),
        lambda: loyalty.hold(member, 5),
        lambda: loyalty.transfer(member, other, 5),
        lambda: loyalty.use_coupon(member, "MUG-1"),
        lambda: loyalty.use_coupon(member, "GUESSED-7"),
    ]
    for call in calls:
        before = book.position()
        assert code_of(call) == "account_closed"
        fact, decision = events(book, before)
        assert isinstance(fact, Fact)
        assert isinstance(decision, Decision)
        assert getattr(decision, "code", "") == "account_closed"
    assert paid.coupon_id is not None
    assert book.replay().holds
    assert all(one.agrees for one in loyalty.explain_account(member))


@pytest.mark.parametrize(("end", "code"), [("suspend", "receiver_suspended"), ("close", "receiver_closed")])
def test_nothing_is_transferred_to_an_account_that_takes_nothing(book: Book, member: UUID, end: str, code: str) -> None:
    other = joined(book)
    getattr(book.loyalty, end)(other, reason="fraud-check")
    before = book.position()
    assert code_of(lambda: book.loyalty.transfer(member, other, 5)) == code
    fact, decision = events(book, before)
    assert (fact.stored_name, decision.stored_name) == ("loyalty.transfer_requested", "loyalty.transfer_refused")
    assert (getattr(fact, "barred", None), getattr(decision, "code", None)) == (code, code)
    assert book.loyalty.balance(member) == 100
    assert book.replay().holds
    assert all(one.agrees for one in book.loyalty.explain_account(member))


def test_a_guessed_code_is_recorded_and_stands_nowhere(book: Book, member: UUID) -> None:
    before = book.position()
    assert code_of(lambda: book.loyalty.use_coupon(member, "GUESSED-7")) == "unknown_coupon"
    fact, decision = events(book, before)
    assert (getattr(fact, "coupon_id", 0), getattr(decision, "coupon_id", 0)) == (None, None)
    assert "GUESSED-7" not in repr([fact, decision])
    assert code_of(lambda: book.loyalty.void_coupon(member, "GUESSED-7", reason="x")) == "unknown_coupon"


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
    assert code_of(lambda: loyalty.return_redemption(member, paid.redemption_id, 19, reason="x")) == "coupon_whole"
    assert loyalty.use_coupon(member, "MUG-1") == paid.coupon_id
    before = book.position()
    assert code_of(lambda: loyalty.return_redemption(member, paid.redemption_id, reason="x")) == "coupon_used"
    assert book.position() == before
    assert loyalty.balance(member) == 80


def test_what_bought_no_coupon_comes_back_in_parts(book: Book, member: UUID) -> None:
    paid = book.loyalty.redeem(member, reward="lounge", segments=["flyers"])
    assert book.loyalty.return_redemption(member, paid.redemption_id, 2, reason="cancelled") == 2
    assert book.loyalty.return_redemption(member, paid.redemption_id, reason="cancelled") == 3
    assert code_of(lambda: book.loyalty.return_redemption(member, paid.redemption_id, reason="x")) == (
        "returned_too_much"
    )
    assert book.loyalty.balance(member) == 100


# ── coupons ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_coupon_is_good_once_and_for_its_time(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    loyalty.stock_reward("mug", 5, reason="delivered", effective_at="2024-01-02T00:00:00Z")
    assert code_of(lambda: loyalty.use_coupon(member, "NO-SUCH")) == "unknown_coupon"
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
    assert loyalty.balance(member) == 60
    for coupon, code in expected.items():
        back = lambda coupon=coupon: loyalty.return_redemption(member, coupon, reason="x")  # noqa: E731 - bound here
        assert code_of(back) == code
        assert code_of(lambda coupon=coupon: loyalty.use_coupon(member, coupon)) == code  # type: ignore[misc]  # a default binds it
        assert code_of(lambda coupon=coupon: loyalty.void_coupon(member, coupon, reason="x")) == code  # type: ignore[misc]  # as above


def test_a_coupon_whose_time_is_over_is_not_good_though_no_sweep_came(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    loyalty.stock_reward("mug", 5, reason="delivered", effective_at="2024-01-02T00:00:00Z")
    presented, voided, returned = (
        loyalty.redeem(member, reward="mug", effective_at="2024-01-03T00:00:00Z").redemption_id for _ in range(3)
    )
    over = "2024-02-02T00:00:00Z"
    assert code_of(lambda: loyalty.use_coupon(member, presented, effective_at=over)) == "coupon_expired"
    assert code_of(lambda: loyalty.void_coupon(member, voided, reason="x", effective_at=over)) == "coupon_expired"
    assert (
        code_of(lambda: loyalty.return_redemption(member, returned, reason="x", effective_at=over)) == "coupon_expired"
    )
    # What is told late finds it expired, as points that expired are gone.
    assert code_of(lambda: loyalty.use_coupon(member, voided, effective_at="2024-01-05T00:00:00Z")) == "coupon_expired"
    assert loyalty.balance(member) == 40


def test_a_code_that_is_anothers_coupon_id_takes_nothing_from_them(book: Book, member: UUID) -> None:
    loyalty, other = book.loyalty, joined(book, points=100)
    mine = loyalty.redeem(member, reward="pen").coupon_id
    voided = loyalty.redeem(member, reward="pen").coupon_id
    theirs = loyalty.redeem(other, reward="pen", code=str(mine)).coupon_id
    loyalty.redeem(other, reward="pen", code=str(voided))
    assert mine not in (None, theirs)
    assert loyalty.use_coupon(other, str(mine)) == theirs
    assert loyalty.use_coupon(member, str(mine)) == mine
    loyalty.void_coupon(member, str(voided), reason="unwanted")
    assert book.replay().holds


def test_a_coupon_is_not_good_before_it_was_issued(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    loyalty.stock_reward("mug", 5, reason="delivered", effective_at="2024-01-02T00:00:00Z")
    paid = loyalty.redeem(member, reward="mug", effective_at="2024-01-05T00:00:00Z")
    early = "2024-01-04T00:00:00Z"
    for call in (
        lambda: loyalty.use_coupon(member, paid.redemption_id, effective_at=early),
        lambda: loyalty.void_coupon(member, paid.redemption_id, reason="x", effective_at=early),
        lambda: loyalty.return_redemption(member, paid.redemption_id, reason="x", effective_at=early),
    ):
        assert code_of(call) == "effective_too_early"
    loyalty.use_coupon(member, paid.redemption_id, effective_at="2024-01-05T00:00:00Z")


@pytest.mark.parametrize("order", [*itertools.permutations(["void", "return", "use"])])
@pytest.mark.parametrize("reward", ["mug", "print"])
def test_stock_comes_back_once_in_whatever_order_a_coupon_is_voided_returned_and_used(
    book: Book, member: UUID, reward: str, order: tuple[str, ...]
) -> None:
    loyalty = book.loyalty
    loyalty.stock_reward(reward, 2, reason="delivered")
    paid = loyalty.redeem(member, reward=reward).redemption_id
    calls: dict[str, Callable[[], Any]] = {
        "void": lambda: loyalty.void_coupon(member, paid, reason="x"),
        "return": lambda: loyalty.return_redemption(member, paid, reason="x"),
        "use": lambda: loyalty.use_coupon(member, paid),
    }
    first, *rest = order
    calls[first]()
    ended = {"void": "coupon_voided", "return": "coupon_voided", "use": "coupon_used"}[first]
    for one in [*rest, *order]:
        assert code_of(calls[one]) == ended
    there = 1 if first == "use" else 2
    assert loyalty.stock_reward(reward, 5, reason="delivered") == there + 5
    points_back = first == "return" or (first == "void" and reward == "mug")
    assert loyalty.balance(member) == (100 if points_back else 80)


def test_a_coupon_is_given_by_hand(book: Book, member: UUID) -> None:
    loyalty = book.loyalty
    loyalty.stock_reward("mug", 1, reason="delivered")
    before = book.position()
    coupon = loyalty.issue_coupon(member, "mug", reason="goodwill", code="SORRY-1")
    fact, issued, taken = events(book, before)
    assert (fact.stored_name, issued.stored_name, taken.stored_name) == (
        "loyalty.coupon_granted", "loyalty.coupon_issued", "reward.taken"
    )  # fmt: skip
    assert "SORRY-1" not in repr(fact)
    [view] = loyalty.account(member).coupons
    assert (view.coupon_id, view.reward, view.outcome) == (coupon, "mug", "")
    assert loyalty.balance(member) == 100
    assert code_of(lambda: loyalty.issue_coupon(member, "mug", reason="goodwill")) == "out_of_stock"
    assert code_of(lambda: loyalty.issue_coupon(member, "lounge", reason="goodwill")) == "unknown_reward"
    assert code_of(lambda: loyalty.issue_coupon(member, "nothing", reason="goodwill")) == "unknown_reward"
    assert code_of(lambda: loyalty.issue_coupon(joined(book), "pen", reason="goodwill", code="SORRY-1")) == (
        "code_taken"
    )
    # Nobody paid for it, so no points come back, and what was taken does.
    assert code_of(lambda: loyalty.return_redemption(member, coupon, reason="x")) == "unknown_redemption"
    assert loyalty.void_coupon(member, "SORRY-1", reason="mistake") == 0
    second = loyalty.issue_coupon(member, "mug", reason="goodwill", command_id="second")
    assert loyalty.issue_coupon(member, "mug", reason="goodwill", command_id="second") == second
    assert loyalty.use_coupon(member, second) == second
    assert book.replay().holds
    assert all(one.agrees for one in loyalty.explain_account(member))
    assert book.loyalty.reward_popularity().rewards


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


BROUGHT = rule_set(
    earning=[
        {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100},
        {"id": "join", "kind": "fixed", "on": "referral", "points": 7, "when": "referral.occasion == 'registration'"},
        {"id": "first", "kind": "fixed", "on": "referral", "points": 100,
         "when": "referral.occasion == 'first_purchase'"},
        {"id": "every", "kind": "fixed", "on": "referral", "points": 10, "expiry": {"days": 300},
         "when": "referral.occasion == 'every_purchase'"},
    ],
    amount={"exclude": "line.category == 'gift-card'"},
    expiry={"never": True},
)  # fmt: skip
CLUB = {"name": "club", "programme": "club"}


class Pair(NamedTuple):
    """Who brought whom."""

    ada: UUID
    bob: UUID


@pytest.fixture
def pair(book: Book) -> Pair:
    """Ada brought Bob; both have accounts in two programmes."""
    book.rules.adopt(BROUGHT.model_copy(update={"version": "2"}), effective_at=START)
    book.rules.adopt(BROUGHT.model_copy(update=CLUB), effective_at=START)
    ada, bob = (book.customers.register(effective_at=START) for _ in range(2))
    book.customers.refer(ada, bob, effective_at=START)
    for one in (ada, bob):
        for programme in ("main", "club"):
            book.loyalty.enrol(one, programme=programme, effective_at=START)
    return Pair(ada, bob)


def buys(book: Book, customer: UUID, *lines: tuple[str, int, int]) -> UUID:
    """A purchase of (category, pieces, net amount) each."""
    rows = [{"sku": "x", "category": name, "quantity": many, "net_minor": net} for name, many, net in lines]
    return book.customers.record_purchase(customer, rows).purchase_id


def points_of(book: Book, *customers: UUID) -> list[int]:
    """Balances in both programmes."""
    return [
        book.loyalty.account(one, programme=programme).active for one in customers for programme in ("main", "club")
    ]


def test_what_a_referral_brought_goes_back_with_the_purchase(book: Book, pair: Pair) -> None:
    ada, bob = pair
    assert points_of(book, ada, bob) == [7, 7, 7, 7]
    purchase = buys(book, bob, ("shoes", 4, 3_000), ("hat", 1, 1_000))
    assert points_of(book, ada, bob) == [117, 117, 157, 157]
    # A quarter of the first line: 7.5 of 40.
    book.customers.record_return(bob, {1: 1}, purchase_id=purchase)
    some = points_of(book, ada)
    assert some[0] == some[1]
    assert 7 < some[0] < 117
    book.customers.record_return(bob, {1: 1, 2: 1}, purchase_id=purchase)
    fewer = points_of(book, ada)
    assert 7 < fewer[0] < some[0]
    book.customers.record_return(bob, {1: 2}, purchase_id=purchase)
    # What they got for registering stays; all else is gone, to the last point.
    assert points_of(book, ada, bob) == [7, 7, 7, 7]
    assert book.replay().holds
    for one in pair:
        for programme in ("main", "club"):
            told = book.loyalty.explain_account(one, programme=programme)
            assert all(decision.agrees for decision in told)
            assert {"loyalty.earning_reversed"} <= {decision.kind for decision in told}


def test_a_first_purchase_is_one_though_it_comes_back(book: Book, pair: Pair) -> None:
    ada, bob = pair
    for _ in range(3):
        purchase = buys(book, bob, ("shoes", 1, 5_000))
        book.customers.record_return(bob, {1: 1}, purchase_id=purchase)
    assert points_of(book, ada, bob) == [7, 7, 7, 7]
    buys(book, bob, ("shoes", 1, 5_000))
    assert points_of(book, ada, bob) == [17, 17, 67, 67]


def test_a_gift_card_and_what_is_free_are_no_purchase_for_a_referral(book: Book, pair: Pair) -> None:
    ada, bob = pair
    buys(book, bob, ("gift-card", 1, 5_000))
    buys(book, bob, ("sample", 1, 0))
    assert points_of(book, ada, bob) == [7, 7, 7, 7]
    purchase = buys(book, bob, ("gift-card", 1, 9_000), ("shoes", 1, 1_000))
    assert points_of(book, ada) == [117, 117]
    # The gift card brought nothing, and takes nothing back.
    book.customers.record_return(bob, {1: 1}, purchase_id=purchase)
    assert points_of(book, ada) == [117, 117]
    book.customers.record_return(bob, {2: 1}, purchase_id=purchase)
    assert points_of(book, ada) == [7, 7]
    buys(book, bob, ("shoes", 1, 1_000))
    assert points_of(book, ada) == [17, 17]


def test_whoever_bought_before_has_no_first_purchase_left(book: Book) -> None:
    book.rules.adopt(BROUGHT.model_copy(update={"version": "2"}), effective_at=START)
    ada, bob = joined(book), joined(book)
    buys(book, bob, ("gift-card", 1, 5_000))
    buys(book, bob, ("shoes", 1, 1_000))
    book.customers.refer(ada, bob)
    buys(book, bob, ("shoes", 1, 1_000))
    assert book.loyalty.balance(ada) == 7 + 10


def day(number: int) -> str:
    """A day of February 2024."""
    return f"2024-02-{number:02}T00:00:00+00:00"


def credits_of(book: Book, customer: UUID, programme: str = "main") -> list[tuple[str, str, int, str]]:
    """What an account was told of referrals: role, occasion, number, and when."""
    return [
        (event.role, event.occasion, event.number, from_us(event.effective_us).isoformat())
        for _, event in book._core.stream(account_id(customer, programme))
        if isinstance(event, ReferralCredited)
    ]


@pytest.mark.parametrize("days", list(itertools.permutations((2, 3, 4))))
@pytest.mark.parametrize("order", list(itertools.permutations(("refer", "ada", "bob"))))
def test_each_side_is_credited_once_for_registering_in_whatever_order_it_is_told(
    book: Book, order: Sequence[str], days: Sequence[int]
) -> None:
    book.rules.adopt(BROUGHT.model_copy(update={"version": "2"}), effective_at=START)
    book.rules.adopt(BROUGHT.model_copy(update=CLUB), effective_at=START)
    ada, bob = (book.customers.register(effective_at=START) for _ in range(2))
    on = dict(zip(("refer", "ada", "bob"), days, strict=True))
    for programme in ("main", "club"):
        for what in order:
            if what != "refer":
                member = ada if what == "ada" else bob
                book.loyalty.enrol(member, programme=programme, effective_at=day(on[what]))
            elif programme == "main":
                book.customers.refer(ada, bob, effective_at=day(on["refer"]), command_id="told")
    book.customers.refer(ada, bob, effective_at=day(on["refer"]), command_id="told")
    both = max(on["refer"], on["bob"])
    for programme in ("main", "club"):
        assert credits_of(book, ada, programme) == [("referrer", "registration", 1, day(max(both, on["ada"])))]
        assert credits_of(book, bob, programme) == [("referred", "registration", 1, day(both))]
    assert points_of(book, ada, bob) == [7, 7, 7, 7]
    assert book.replay().holds


def test_a_referrer_who_joins_last_is_credited_for_those_who_have_an_account(book: Book) -> None:
    book.rules.adopt(BROUGHT.model_copy(update={"version": "2"}), effective_at=START)
    ada, bob, cy, dee = (book.customers.register(effective_at=START) for _ in range(4))
    for one in (bob, cy, dee):
        book.customers.refer(ada, one, effective_at=day(2))
    for one in (bob, dee):
        book.loyalty.enrol(one, effective_at=day(3))
    book.erasures.erase(bob, reason="asked")
    book.loyalty.enrol(ada, effective_at=day(4), command_id="joins")
    book.loyalty.enrol(ada, effective_at=day(4), command_id="joins")
    told = [("referrer", "registration", number, day(4)) for number in (1, 3)]
    assert credits_of(book, ada) == told
    assert credits_of(book, dee) == [("referred", "registration", 3, day(3))], "and they nothing more"
    book.loyalty.enrol(cy, effective_at=day(5))
    assert credits_of(book, ada) == [*told, ("referrer", "registration", 2, day(5))]


def test_of_a_referral_and_two_enrolments_at_once_the_last_credits(book: Book) -> None:
    book.rules.adopt(BROUGHT.model_copy(update={"version": "2"}), effective_at=START)
    for _ in range(15):
        ada, bob = (book.customers.register(effective_at=START) for _ in range(2))
        barrier = Barrier(3)

        def at_once(give: Callable[..., Any], *who: UUID, barrier: Barrier = barrier) -> None:
            with book.acting("agent:bob", purpose="service"):
                barrier.wait()
                give(*who, effective_at=day(2))

        with ThreadPoolExecutor(3) as pool:
            jobs = [
                pool.submit(at_once, book.customers.refer, ada, bob),
                *(pool.submit(at_once, book.loyalty.enrol, one) for one in (ada, bob)),
            ]
        assert [job.result() for job in jobs] == [None] * 3
        assert [len(credits_of(book, one)) for one in (ada, bob)] == [1, 1]


def test_the_number_of_a_referral_is_its_own_however_many_are_brought_before_it_comes_to_something(book: Book) -> None:
    few = {"id": "few", "kind": "fixed", "on": "referral", "points": 5, "when": "referral.number <= 2"}
    book.rules.adopt(rule_set(version="2", earning=[few], expiry={"never": True}), effective_at=START)
    ada, early = joined(book), [joined(book) for _ in range(3)]
    late = book.customers.register(effective_at=START)
    for one in (late, *early):
        book.customers.refer(ada, one)
    assert book.loyalty.balance(ada) == 5, "the second joined before he was brought, the first not yet"
    book.loyalty.enrol(late)
    assert book.loyalty.balance(ada) == 5 + 5
    for one in reversed((late, *early)):
        buys(book, one, ("shoes", 1, 1_000))
    # For each of the first two: the first purchase, and as one of every purchase.
    assert book.loyalty.balance(ada) == 10 + 2 * (5 + 5)
    assert [number for _, what, number, _ in credits_of(book, ada) if what == "first_purchase"] == [4, 3, 2, 1]


def test_what_was_bought_before_the_referral_brings_nothing_when_it_is_told_late(book: Book) -> None:
    book.rules.adopt(BROUGHT.model_copy(update={"version": "2"}), effective_at=START)
    ada, bob = joined(book), joined(book)
    book.customers.refer(ada, bob, effective_at=day(10))
    line = [{"sku": "x", "quantity": 1, "net_minor": 1_000}]
    earlier = book.customers.record_purchase(bob, line, effective_at=day(9))
    registered = ("referrer", "registration", 1, day(10))
    assert credits_of(book, ada) == [registered]
    book.customers.record_purchase(bob, line, effective_at=day(10))
    # As told in order: his first purchase was before.
    told = [registered, ("referrer", "every_purchase", 1, day(10))]
    assert credits_of(book, ada) == told
    assert credits_of(book, bob) == [("referred", *one[1:]) for one in told]
    book.customers.record_return(bob, {1: 1}, purchase_id=earlier.purchase_id)
    assert book.loyalty.account(ada).reversed == 0
    assert book.loyalty.account(bob).reversed == 10


@pytest.mark.parametrize("what", ["close", "suspend", "erase", "none"])
def test_a_return_is_recorded_whatever_became_of_whoever_brought_the_customer(
    book: Book, pair: Pair, what: str
) -> None:
    ada, bob = pair
    purchase = buys(book, bob, ("shoes", 2, 5_000))
    if what == "erase":
        book.erasures.erase(ada, reason="asked")
    for programme in ("main", "club"):
        if what in ("close", "suspend"):
            getattr(book.loyalty, what)(ada, programme=programme, reason="left")
    returned = book.customers.record_return(bob, {1: 1}, purchase_id=purchase)
    assert returned.reversed["main"] == 25 + 55
    # And so is a purchase.
    assert buys(book, bob, ("shoes", 1, 1_000))
    assert book.customers.record_return(bob, {1: 1}, purchase_id=purchase).reversed["main"] == 25 + 55
    owed = {"close": (0, 0), "erase": (117, 0), "suspend": (7, 0), "none": (17, 0)}[what]
    account = book.loyalty.account(ada)
    assert (account.active, account.debt) == owed
    assert book.replay().holds


def test_what_was_spent_of_a_referral_is_owed_when_the_purchase_comes_back(book: Book, pair: Pair) -> None:
    ada, bob = pair
    purchase = buys(book, bob, ("shoes", 1, 5_000))
    book.loyalty.redeem(ada, 100, reward="cash")
    book.customers.record_return(bob, {1: 1}, purchase_id=purchase)
    account = book.loyalty.account(ada)
    assert (account.active, account.debt) == (0, 93)


# ── arguments of the wrong kind ───────────────────────────────────────────────────────────────────────────────────

NUMBERS = ["5", None, 1.5, True, 0, 10**30, -(10**30)]
CODES = [5, None, "", " ", "with spaces", "x" * 65, ["a"], b"a", "nul\0"]
IDS = [5, None, "", "no-id", ["a"], 1.5]
TIMES = [5, "", "yesterday", 1.5, ["a"], True]
WRONG: dict[str, list[Any]] = {
    "customer": IDS, "sender": IDS, "receiver": IDS, "redemption_id": IDS, "fact_id": IDS,
    "hold_id": [one for one in IDS if one is not None], "lot_id": [one for one in IDS if one is not None],
    "coupon": [5, None, "", ["a"], 1.5, "\ud800"],
    "points": NUMBERS, "quantity": NUMBERS, "expected": ["5", None, 1.5, True, 10**30, -1],
    "issued": ["5", 1.5, True, 0, 10**30, -1], "allocated_minor": ["5", None, 1.5, True, 10**30, -1],
    "programme": CODES, "reward": CODES, "reason": CODES, "activity": CODES, "tier": CODES, "purpose": CODES,
    "source": CODES, "partner": [one for one in CODES if one is not None],
    "code": [5, "", " ", ["a"], b"a", "\ud800"], "segments": [5, "flyers", None, [5], ["with spaces"]],
    "into_debt": ["yes", 1, None, 0.0], "until": TIMES, "effective_at": TIMES, "command_id": [5, "", "x" * 201, ["a"]],
}  # fmt: skip
"""By the name of an argument, what it can't be."""
OPTIONAL = {"points": ("redeem", "return_redemption"), "until": (), "quantity": ()}
"""Where None may be given for these."""


def good(book: Book, member: UUID) -> dict[str, dict[str, Any]]:
    """Arguments with which each command does its work, or is refused for no argument's sake."""
    other, some = joined(book), uuid4()
    book.loyalty.stock_reward("mug", 9, reason="delivered")
    paid = book.loyalty.redeem(member, reward="lounge", segments=["flyers"]).redemption_id
    held = book.loyalty.hold(member, 5).hold_id
    lot = book.loyalty.account(member).lots[0].lot_id
    why, then = {"reason": "why"}, {"until": "2999-01-01T00:00:00Z"}
    who = {"customer": member}
    return {
        "enrol": {"customer": other},
        "redeem": {**who, "points": 20, "reward": "mug", "code": "C-1", "segments": ["a"], "hold_id": held},
        "return_redemption": {**who, "redemption_id": paid, "points": 2, **why},
        "record_activity": {**who, "activity": "visit", "quantity": 1, "partner": "air"},
        "confirm_earning": {**who, "fact_id": some},
        "withdraw_earning": {**who, "fact_id": some, **why},
        "hold": {**who, "points": 1, "purpose": "order", **then},
        "release": {**who, "hold_id": held},
        "transfer": {"sender": member, "receiver": other, "points": 1},
        "adjust": {**who, "points": 1, "into_debt": False, **why},
        "extend": {**who, "lot_id": lot, **then, **why},
        "reinstate": {**who, "points": 1, **then, **why},
        "override_tier": {**who, "tier": "gold", **then, **why},
        "lift_override": {**who, **why},
        "suspend": {**who, **why},
        "resume": {**who, **why},
        "close": {**who, **why},
        "issue_coupon": {**who, "reward": "pen", "code": "C-2", **why},
        "use_coupon": {**who, "coupon": "C-1"},
        "void_coupon": {**who, "coupon": "C-1", **why},
        "stock_reward": {"reward": "mug", "quantity": 1, **why},
        "estimate": {"expected": 1, "issued": 2, "source": "actuary", **why},
        "allocate": {"allocated_minor": 1, "source": "actuary", **why},
        "sweep": {},
    }


COMMANDS = [name for name, one in vars(LoyaltyDesk).items() if isinstance(one, command) and name[0] != "_"] + ["sweep"]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_argument_of_the_wrong_kind_is_named(book: Book, member: UUID, name: str) -> None:
    arguments = good(book, member)[name]
    if name in ("lift_override", "resume"):
        book.loyalty.override_tier(member, "gold", "2999-01-01T00:00:00Z", reason="vip")
        book.loyalty.suspend(member, reason="check")
    call = getattr(book.loyalty, name)
    # The whole signature is tried.
    rest = {"effective_at", "command_id", "until" if name == "sweep" else "programme"}
    known = set(inspect.signature(call).parameters) if name != "sweep" else rest
    assert {*arguments, *rest} == known - {"self", "work"}
    before = book.position()
    for argument in sorted({*arguments, *rest}):
        for value in WRONG[argument]:
            if value is None and name in OPTIONAL.get(argument, ()):
                continue
            told = {**arguments, argument: value}
            try:
                with pytest.raises(Refused) as refused:
                    call(**told)
            except BaseException as error:
                raise AssertionError(f"{name}({argument}={value!r}): {error!r}") from error
            found = (refused.value.code, refused.value.values.get("argument"))
            assert found == ("invalid_argument", argument), (name, argument, value, str(refused.value))
    assert book.position() == before


def test_a_lot_that_the_account_never_had_is_not_extended(book: Book, member: UUID) -> None:
    until = "2999-01-01T00:00:00Z"
    assert code_of(lambda: book.loyalty.extend(member, until, lot_id=uuid4(), reason="sorry")) == "unknown_lot"
    others = book.loyalty.account(joined(book, points=5)).lots[0].lot_id
    assert code_of(lambda: book.loyalty.extend(member, until, lot_id=others, reason="sorry")) == "unknown_lot"


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


# ── what commands answer, though time went on and no sweep came ───────────────────────────────────────────────────


def at(day: str) -> str:
    return f"{day}T00:00:00Z"


def opened(**changes: Any) -> Book:
    """A book under the standard rules, some parts replaced."""
    book = tallybook.open("memory:")
    with book.acting("agent:ada", purpose="service"):
        book.rules.adopt(rule_set(**changes), effective_at=START)
    return book


def bought(book: Book, customer: UUID, day: str, net_minor: int) -> UUID:
    lines = [{"sku": "a", "quantity": 1, "net_minor": net_minor}]
    return book.customers.record_purchase(customer, lines, currency="USD", effective_at=at(day)).purchase_id


def test_confirming_answers_for_its_own_points_alone() -> None:
    with (
        opened(pending={"days": 10, "confirmed": True}, expiry={"never": True}) as book,
        book.acting("agent:a", purpose="x"),
    ):
        one = joined(book)
        bought(book, one, "2024-01-03", 10_000)
        late = bought(book, one, "2024-01-12", 5_000)
        assert book.loyalty.confirm_earning(one, late, effective_at=at("2024-01-20")) == 50
        assert book.loyalty.balance(one, as_of=at("2024-01-20")) == 150
    with (
        opened(pending={"confirmed": True}, expiry={"days": 5}) as book,
        book.acting("agent:a", purpose="x"),
    ):
        one = joined(book)
        gone = bought(book, one, "2024-01-03", 10_000)
        assert book.loyalty.confirm_earning(one, gone, effective_at=at("2024-01-14")) == 0


def test_a_hold_that_ended_is_not_released_and_what_is_owed_is_not_free() -> None:
    with opened(expiry={"days": 20}, holds_days=5) as book, book.acting("agent:a", purpose="x"):
        one = joined(book)
        bought(book, one, "2024-01-03", 10_000)
        hold = book.loyalty.hold(one, 60, effective_at=at("2024-01-04"))
        before = book.position()
        late = at("2024-03-01")
        assert code_of(lambda: book.loyalty.release(one, hold.hold_id, effective_at=late)) == "unknown_hold"
        assert book.position() == before
    with opened(refunds={"earning": "within_balance"}) as book, book.acting("agent:a", purpose="x"):
        one = joined(book)
        purchase = bought(book, one, "2024-01-03", 10_000)
        hold = book.loyalty.hold(one, 90, effective_at=at("2024-01-04"))
        book.loyalty.adjust(one, 20, reason="sorry", effective_at=at("2024-01-04"))
        back = book.customers.record_return(one, {1: 1}, purchase_id=purchase, effective_at=at("2024-01-05"))
        assert back.points == 30
        assert book.loyalty.release(one, hold.hold_id, effective_at=at("2024-01-06")) == 20
        assert book.loyalty.balance(one, as_of=at("2024-01-06")) == 20


def test_a_return_answers_for_what_it_took_itself() -> None:
    with opened(refunds={"earning": "within_balance"}, holds_days=5) as book, book.acting("agent:a", purpose="x"):
        one = joined(book)
        first = bought(book, one, "2024-01-03", 10_000)
        book.loyalty.hold(one, 100, effective_at=at("2024-01-04"))
        assert book.customers.record_return(
            one, {1: 1}, purchase_id=first, effective_at=at("2024-01-05")
        ).points == 0  # fmt: skip
        second = bought(book, one, "2024-01-06", 3_000)
        back = book.customers.record_return(one, {1: 1}, purchase_id=second, effective_at=at("2024-01-20"))
        assert back.points == 30
        account = book.loyalty.account(one, as_of=at("2024-01-20"))
        assert (account.active, account.reversed, account.forgiven) == (0, 130, 0)


def test_a_voided_coupon_follows_the_catalogue_that_it_was_issued_by(book: Book, member: UUID) -> None:
    book.loyalty.stock_reward("print", 1, reason="delivered", effective_at=at("2024-01-03"))
    paid = book.loyalty.redeem(member, reward="print", effective_at=at("2024-01-04"))
    book.rules.adopt(rule_set(version="2", expiry={"never": True}), effective_at=at("2024-01-05"))
    assert paid.coupon_id is not None
    assert book.loyalty.void_coupon(member, paid.coupon_id, reason="lost", effective_at=at("2024-01-06")) == 0


def test_a_code_is_for_a_coupon(book: Book, member: UUID) -> None:
    with pytest.raises(Refused, match=r"code: the reward brings no coupon") as refused:
        book.loyalty.redeem(member, reward="lounge", segments=["flyers"], code="K")
    assert refused.value.code == "invalid_argument"


def test_an_account_tells_the_benefits_of_its_tier() -> None:
    levels = [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 10, "benefits": ["priority-service"]}]
    with opened(tiers={"window_months": 12, "levels": levels}) as book, book.acting("agent:a", purpose="x"):
        one = joined(book)
        assert book.loyalty.account(one).benefits == ()
        bought(book, one, "2024-01-03", 10_000)
        assert book.loyalty.account(one, as_of=at("2024-02-01")).benefits == ("priority-service",)


def dearer(**changes: Any) -> RuleSet:
    """A copy of a rule set with a point for each 100 of orders above 10, whose condition asks for more than 1,000."""
    first = rule_set(earning=[{**RULES.earning[0].model_dump(exclude={"caps"}), "when": "order.amount_minor > 1000"}])
    assert first.conditions
    rule = first.earning[0].model_copy(update={"when": "order.amount_minor > 100000"})
    return first.model_copy(update={"version": "2", "earning": [rule], **changes})


def test_a_copy_of_a_rule_set_has_conditions_of_its_own(book: Book, member: UUID) -> None:
    copied = dearer()
    assert book.rules.propose(copied, reason="autumn") == copied.digest()
    assert book.backtest(copied).candidate_digest == copied.digest()
    assert book.rules.adopt(copied) == "standard@2"
    in_force = book.rules.in_force()
    assert in_force is not None
    assert in_force.earning[0].when == "order.amount_minor > 100000"
    assert in_force.digest() == copied.digest()
    for net, points in ((50_000, 0), (200_000, 2_000)):
        bought = book.customers.record_purchase(member, [{"sku": "a", "quantity": 1, "net_minor": net}])
        assert bought.points == points
    assert book.replay().holds


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"earning": []}, "earning: at least 1 has to be there"),
        ({"earning": ["base"]}, "earning.0: write a table"),
        ({"tiers": RULES.tiers.model_copy(update={"window_months": None})}, "tiers: window_months belongs to"),
        ({"tiers": RULES.tiers.model_copy(update={"levels": ()})}, "tiers.levels: at least 1 has to be there"),
        ({"expiry": RULES.expiry.model_copy(update={"months": 3})}, "expiry: give exactly one of"),
        ({"expirey": RULES.expiry}, "expirey: there is no such key here"),
        ({"zone": "Nowhere/X"}, "zone: 'Nowhere/X' is not a time zone"),
        ({"description": b"x"}, "description: write a text"),
    ],
)
def test_a_copy_that_is_no_rule_set_is_refused_by_its_paths_and_the_book_goes_on(
    book: Book, changes: dict[str, Any], told: str
) -> None:
    copied, before = dearer(**changes), book.position()
    for call in (
        lambda: book.rules.adopt(copied),
        lambda: book.rules.propose(copied, reason="x"),
        lambda: book.rules.rules_of(copied),
        lambda: book.backtest(copied),
        lambda: book.backtest(RULES, baseline=copied),
    ):
        with pytest.raises(RuleSetError) as caught:
            call()
        assert caught.value.problems[0].startswith(told)
    assert book.position() == before


def test_a_rule_set_that_was_emptied_is_refused_and_the_one_in_force_can_not_be(book: Book) -> None:
    emptied = rule_set(version="2")
    emptied.earning.clear()
    with pytest.raises(RuleSetError, match="earning: at least 1 has to be there"):
        book.rules.adopt(emptied)
    given = book.rules.in_force()
    assert given is not None
    given.earning.clear()
    assert book.rules.in_force() == RULES
