"""The certificate: it holds where nothing was tampered with, and names the first divergence where something was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.columnar import certified

import tallybook
from tallybook.customers import PurchaseResult
from tallybook.domain.control import RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.customer import PurchaseRecorded, ReturnRecorded
from tallybook.domain.events import Decision, Event, Fact, from_us
from tallybook.domain.points import (
    EarningReversed,
    Enrolled,
    NewLot,
    PointsEarned,
    PointsExpired,
    PointsRedeemed,
    RedemptionRequested,
    TierChanged,
    TransferReceived,
)
from tallybook.domain.rules import RuleSet
from tallybook.loyalty import AccountView
from tallybook.projections.read_models import Recorded
from tallybook.projections.replay import Certificate, certify

if TYPE_CHECKING:
    from tests.projections.conftest import Shop

START = 1_577_836_800_000_000  # 2020-01-01
DAY = 86_400_000_000
LINE: dict[str, Any] = {"sku": "sku", "quantity": 1, "net_minor": 100}
DEAR = {**LINE, "net_minor": 10**13}

READ_BY_ACCOUNTS = (Enrolled, PurchaseRecorded, ReturnRecorded, RedemptionRequested, Swept, RuleSetAdopted)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def numbered(events: Sequence[Event]) -> list[Recorded]:
    return [Recorded(position, event) for position, event in enumerate(events, 1)]


def positions(history: Sequence[Recorded], kind: type[Event], customer: UUID | None = None) -> list[int]:
    return [at for at, event in history if isinstance(event, kind) and customer in (None, event.subject_id)]


def replaced(history: Sequence[Recorded], position: int, **fields: Any) -> list[Recorded]:
    return [Recorded(at, event.model_copy(update=fields) if at == position else event) for at, event in history]


def without(history: Sequence[Recorded], position: int) -> list[Recorded]:
    return numbered([event for at, event in history if at != position])


def books_balance(view: AccountView) -> bool:
    """Double entry: sources and debt are what all other buckets hold. What was forgiven stands beside them."""
    came = view.earned + view.transferred_in + view.adjusted_up + view.reinstated
    there = view.pending + view.active + view.held
    went = view.spent + view.expired + view.reversed + view.transferred_out + view.adjusted_down
    least = min(view.active, view.earned, view.spent, view.expired, view.reversed, view.forgiven, view.debt)
    return least >= 0 and came + view.debt == there + went and view.reversed <= view.earned


@pytest.fixture
def two(shop: Shop) -> tuple[Shop, UUID, UUID]:
    """Two customers with full lives, interleaved."""
    ada, bob = shop.member(), shop.member()
    first = shop.buy(ada, "2020-02-01", 20_000, 1_000)
    shop.buy(bob, "2020-02-02", 40_000)
    shop.redeem(ada, "2020-02-03", 50)
    shop.redeem(ada, "2020-02-03", 5_000)
    shop.give_back(ada, "2020-02-04", first, 2)
    shop.redeem(bob, "2020-03-01", 10)
    shop.buy(ada, "2020-01-15", 3_000)
    shop.sweep("2022-01-01")
    shop.buy(bob, "2020-05-05", 7_000)
    return shop, ada, bob


def test_an_untouched_book_certifies(two: tuple[Shop, UUID, UUID]) -> None:
    shop, _, _ = two
    certificate = shop.book.replay()
    decisions = [event for _, event in shop.history() if isinstance(event, Decision)]
    assert certificate.holds
    assert certificate.first is None
    assert certificate.position == shop.book.position() == len(shop.history())
    assert certificate.decisions == certificate.matched == len(decisions) > 12
    # Facts that no account reads (a registration, a key) may be left out of the count.
    accounts_facts = [at for at, event in shop.history() if isinstance(event, READ_BY_ACCOUNTS)]
    assert len(accounts_facts) <= certificate.facts <= len(shop.history()) - len(decisions)
    assert (certificate.accounts, certificate.pending, certificate.divergent_accounts) == (2, 0, 0)
    assert {type(event) for event in decisions} >= {
        PointsEarned, PointsRedeemed, PointsExpired, EarningReversed, TierChanged,
    }  # fmt: skip


def test_the_certificate_and_the_backtest_say_up_to_which_position_they_hold(shop: Shop) -> None:
    shop.buy(shop.member(), "2020-02-01", 15_000)
    shop.book.customers.register(name="Bob")
    head = shop.book.position()
    rules = shop.book.rules.in_force()
    assert rules is not None
    assert (shop.book.replay().position, shop.book.backtest(rules).position) == (head, head)


def test_an_empty_history_certifies() -> None:
    assert certified([]) == certify([]) == Certificate()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (PointsEarned, {"points": 211}),
        (PointsEarned, {"qualifying": 0}),
        (PointsEarned, {"expires_us": 1}),
        (PointsEarned, {"rules": "standard@2"}),
        (PointsEarned, {"facts": (UUID(int=1),)}),
        (PointsEarned, {"rule_ids": ("bonus",)}),
        (PointsEarned, {"lines": ()}),
        (PointsEarned, {"basis_unit": "pieces"}),
        (PointsEarned, {"debt_paid": 1}),
        (PointsRedeemed, {"points": 49}),
        (PointsRedeemed, {"lots": ()}),
        (PointsExpired, {"points": 1}),
        (EarningReversed, {"forgiven": 10, "lots": ()}),
        (TierChanged, {"tier": "gold"}),
        (TierChanged, {"previous": "gold"}),
        (TierChanged, {"reason": "birthday"}),
    ],
)
def test_a_wrong_decision_is_named_with_its_position_and_its_account(
    two: tuple[Shop, UUID, UUID], kind: type[Decision], fields: dict[str, Any]
) -> None:
    shop, ada, _ = two
    history = shop.history()
    position = positions(history, kind, ada)[-1]
    certificate = certified(replaced(history, position, **fields))
    assert not certificate.holds
    assert certificate.first is not None
    assert certificate.first.kind == "another decision"
    assert (certificate.first.position, certificate.first.customer_id) == (position, ada)
    assert certificate.first.account_id == history[position - 1].event.originator_id
    assert certificate.divergent_accounts == 1
    name = next(iter(fields))
    if name not in ("facts", "lines", "basis_unit", "lots", "forgiven"):
        shown = {"expires_us": "1970-01-01T00:00:00Z", "rule_ids": "bonus"}.get(name, fields[name])
        assert f"{name}={shown}" in certificate.first.found
        assert certificate.first.expected != certificate.first.found


@pytest.mark.parametrize("by_us", [-1, 1])
@pytest.mark.parametrize("kind", [PointsEarned, PointsExpired, TierChanged])
def test_a_misdated_decision_is_named(two: tuple[Shop, UUID, UUID], kind: type[Decision], by_us: int) -> None:
    shop, ada, _ = two
    history = shop.history()
    position = positions(history, kind, ada)[0]
    moved = replaced(history, position, effective_us=history[position - 1].event.effective_us + by_us)
    first = certified(moved).first
    assert first is not None
    assert (first.kind, first.position) == ("another decision", position)


def test_a_missing_decision_at_the_end_is_named_at_its_fact(shop: Shop) -> None:
    ada = shop.member()
    purchase = shop.buy(ada, "2020-02-01", 5_000)
    history = shop.history()
    assert isinstance(history[-1].event, PointsEarned)
    first = certified(history[:-1]).first
    assert first is not None
    assert (first.kind, first.found) == ("a missing decision", "nothing")
    assert history[first.position - 1].event.event_id == purchase


def test_a_missing_decision_in_the_middle_is_named_at_the_next_one(two: tuple[Shop, UUID, UUID]) -> None:
    shop, _, bob = two
    history = shop.history()
    tampered = without(history, positions(history, PointsRedeemed, bob)[0])
    first = certified(tampered).first
    assert first is not None
    assert first.customer_id == bob
    assert "points_redeemed" in first.expected


def test_a_doubled_decision_is_named(two: tuple[Shop, UUID, UUID]) -> None:
    shop, ada, _ = two
    history = shop.history()
    for kind in (PointsEarned, PointsExpired):
        position = positions(history, kind, ada)[-1]
        event = history[position - 1].event
        doubled = numbered([*(one for _, one in history), event])
        first = certified(doubled).first
        assert first is not None
        assert (first.kind, first.position, first.expected) == (
            "a decision that nothing derives", len(doubled), "nothing",
        )  # fmt: skip
        beside = numbered([one for at, e in history for one in ([e, e] if at == position else [e])])
        first = certified(beside).first
        assert first is not None
        assert first.position == position + 1


def test_a_decision_for_an_account_that_nobody_opened_is_named(two: tuple[Shop, UUID, UUID]) -> None:
    shop, ada, _ = two
    history = shop.history()
    event = history[positions(history, PointsEarned, ada)[0] - 1].event
    foreign = event.model_copy(update={"originator_id": UUID(int=12345)})
    first = certified([*history, Recorded(len(history) + 1, foreign)]).first
    assert first is not None
    assert (first.kind, first.account_id) == ("a decision that nothing derives", UUID(int=12345))


def test_a_fact_that_was_taken_away_shows(two: tuple[Shop, UUID, UUID]) -> None:
    shop, ada, _ = two
    history = shop.history()
    purchase = next(at for at, e in history if e.stored_name == "customer.purchase_recorded" and e.subject_id == ada)
    first = certified(without(history, purchase)).first
    assert first is not None
    assert first.customer_id == ada


def test_of_several_divergences_the_first_in_the_book_is_named_and_all_accounts_are_counted(
    two: tuple[Shop, UUID, UUID],
) -> None:
    shop, ada, bob = two
    history = shop.history()
    his = positions(history, PointsEarned, bob)[0]
    hers = positions(history, PointsExpired, ada)[0]
    assert his < hers
    certificate = certified(replaced(replaced(history, hers, points=1), his, points=1))
    assert certificate.first is not None
    assert (certificate.first.position, certificate.first.customer_id) == (his, bob)
    assert certificate.divergent_accounts == 2


def test_a_history_that_the_rules_can_not_follow_is_named_and_the_rest_is_compared(
    two: tuple[Shop, UUID, UUID],
) -> None:
    shop, ada, _ = two
    history = shop.history()
    returned = positions(history, ReturnRecorded, ada)[0]
    event = history[returned - 1].event
    assert isinstance(event, ReturnRecorded)
    [line] = event.lines
    planted = replaced(history, returned, lines=(line.model_copy(update={"line": 7}),))
    certificate = certified(planted)
    assert certificate.first is not None
    assert str(certificate.first).startswith(
        f"a history that the rules can't follow at position {returned}, account {certificate.first.account_id} of "
        f"customer {ada}: expected what the rules derive, found customer.return_recorded on 2020-02-04T00:00:00Z, by"
    )
    assert "IndexError" in certificate.first.found
    untouched = certified(history)
    assert (certificate.accounts, certificate.divergent_accounts) == (2, 1)
    assert certificate.decisions == untouched.decisions
    his = [one for at, one in history if isinstance(one, Decision) and one.subject_id != ada]
    hers = [at for at in positions(history, Decision, ada) if at < returned]
    assert certificate.matched == len(his) + len(hers)


def planted_purchase(history: Sequence[Recorded], customer: UUID) -> list[Recorded]:
    """More is bought than any book takes, so that no rule set promises 64 bits."""
    position = positions(history, PurchaseRecorded, customer)[0]
    event = history[position - 1].event
    assert isinstance(event, PurchaseRecorded)
    lines = tuple(line.model_copy(update={"net_minor": 2**80}) for line in event.lines)
    return replaced(history, position, lines=lines)


def planted_rules(history: Sequence[Recorded], customer: UUID) -> list[Recorded]:
    """The rule set that all decisions name is none."""
    return replaced(history, positions(history, RuleSetAdopted)[0], document="{}")


def planted_sweep(history: Sequence[Recorded], customer: UUID) -> list[Recorded]:
    """Points that a sweep has to take: more than a decision may hold."""
    position = positions(history, RedemptionRequested, customer)[0]
    event = history[position - 1].event
    lots = tuple(NewLot(lot_id=UUID(int=n), points=2**62, earned_us=0, expires_us=START + 700 * DAY) for n in (1, 2))
    fields = {name: getattr(event, name) for name in Event.model_fields}
    received = TransferReceived(**fields, transfer_id=UUID(int=3), from_account=UUID(int=4), lots=lots)
    return [Recorded(at, received if at == position else one) for at, one in history]


def planted_redemption(history: Sequence[Recorded], customer: UUID) -> list[Recorded]:
    """A redemption that nobody asked for, of points that are not there, at a time that no calendar has."""
    paid = history[positions(history, PointsRedeemed, customer)[0] - 1].event
    planted = paid.model_copy(update={"effective_us": 2**61, "facts": (UUID(int=9),), "points": 2**61})
    return [*history, Recorded(len(history) + 1, planted)]


def planted_label(history: Sequence[Recorded], customer: UUID) -> list[Recorded]:
    """A decision by a rule set that nobody knows."""
    return replaced(history, positions(history, PointsEarned, customer)[0], rules="unknown@9")


PLANTED: dict[Callable[[Sequence[Recorded], UUID], list[Recorded]], str] = {
    planted_purchase: "a history that the rules can't follow",
    planted_rules: "a history that the rules can't follow",
    planted_sweep: "another decision",
    planted_redemption: "a decision that nothing derives",
    planted_label: "another decision",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda one: one.__name__)
def test_whatever_is_planted_the_certificate_names_it_and_never_raises(
    two: tuple[Shop, UUID, UUID], plant: Callable[[Sequence[Recorded], UUID], list[Recorded]]
) -> None:
    shop, ada, bob = two
    history = plant(shop.history(), ada)
    certificate = certified(history, columnar=plant not in (planted_purchase, planted_rules))
    assert certificate.first is not None
    assert certificate.first.kind == PLANTED[plant]
    assert certificate.position == len(history)
    assert str(certificate.first)
    assert certificate.decisions == len(positions(history, Decision))
    if plant is planted_rules:
        book = shop.book._core.book_id
        assert (certificate.first.position, certificate.first.account_id) == (
            positions(history, RuleSetAdopted)[0],
            book,
        )
        assert (certificate.matched, certificate.divergent_accounts) == (0, 3)
    else:
        assert certificate.first.customer_id == ada
        assert certificate.divergent_accounts == 1
        assert certificate.matched >= len(positions(history, Decision, bob))


def test_two_customers_do_not_disturb_each_other(two: tuple[Shop, UUID, UUID]) -> None:
    shop, ada, bob = two
    history = shop.history()
    wrong = replaced(history, positions(history, PointsEarned, bob)[0], points=1)
    certificate = certified(wrong)
    assert certificate.divergent_accounts == 1
    hers = [event for _, event in history if isinstance(event, Decision) and event.subject_id == ada]
    assert certificate.matched == len(hers) + len(
        [at for at in positions(wrong, Decision, bob) if at < positions(history, PointsEarned, bob)[0]]
    )
    alone = [recorded for recorded in history if recorded.event.subject_id in (ada, None)]
    assert certified(alone).holds


def test_a_sweep_that_was_cut_short_leaves_pending_decisions_and_no_divergence(shop: Shop) -> None:
    ada, bob = shop.member(), shop.member()
    shop.buy(ada, "2020-02-01", 20_000)
    shop.buy(bob, "2020-02-02", 20_000)
    before = len(shop.history())
    shop.sweep("2022-01-01")
    history = shop.history()
    assert isinstance(history[before].event, Swept)
    assert isinstance(history[-1].event, SweepFinished)
    assert len(history) - before == 1 + 4 + 1
    for followed in range(4):
        certificate = certified(history[: before + 1 + followed])
        assert certificate.holds
        assert certificate.pending == 4 - followed
    assert certified(history).pending == 0


def test_a_finished_sweep_leaves_no_decision_pending(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-02-01", 20_000)
    shop.sweep("2022-01-01")
    history = shop.history()
    tampered = numbered([event for _, event in history if not isinstance(event, PointsExpired)])
    first = certified(tampered).first
    assert first is not None
    assert (first.kind, first.found) == ("a missing decision", "nothing")
    assert "points_expired" in first.expected


def test_what_is_missing_from_before_an_unfinished_sweep_is_not_pending(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-02-01", 20_000)
    before = len(shop.history())
    shop.sweep("2022-01-01")
    tampered = [recorded for recorded in shop.history()[: before + 1] if not isinstance(recorded.event, PointsEarned)]
    assert not certified(tampered).holds


def test_progress_is_told(two: tuple[Shop, UUID, UUID]) -> None:
    shop, _, _ = two
    history = shop.history()
    told: list[tuple[int, int]] = []
    certify([Recorded(at * 10_000, event) for at, event in history], 7, lambda done, total: told.append((done, total)))
    assert told == [(at * 10_000, 7) for at, _ in history]


def test_the_certificate_reads_no_personal_value_so_it_holds_after_keys_are_gone(shop: Shop) -> None:
    ada = shop.member(name="Ada", email="ada@example.org")
    shop.buy(ada, "2020-02-01", 20_000)
    shop.book._core.keyring.__dict__.clear()
    assert certified(shop.history()).holds


def test_a_late_adoption_holds_for_facts_recorded_from_then_on(shop: Shop, rules_with: Callable[..., RuleSet]) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-02-01", 10_000)
    double = [{"id": "double", "kind": "per_amount", "points": 2, "per_minor": 100}]
    shop.book.rules.adopt(rules_with(version="2", earning=double), effective_at="2020-01-15T00:00:00Z")
    shop.buy(ada, "2020-02-01", 10_000)
    assert shop.book.loyalty.account(ada, as_of="2020-03-01").earned == 300
    assert shop.book.replay().holds


def test_a_customer_in_two_programmes_certifies(shop: Shop, rules_with: Callable[..., RuleSet]) -> None:
    shop.book.rules.adopt(rules_with(name="club", programme="club"), effective_at="2000-01-01T00:00:00Z")
    ada = shop.member()
    shop.book.loyalty.enrol(ada, programme="club", effective_at="2020-01-01T00:00:00Z")
    bought = shop.buy(ada, "2020-02-01", 10_000, 500)
    shop.give_back(ada, "2020-02-02", bought, 1)
    assert shop.redeem(ada, "2020-02-03", 5)
    views = [shop.book.loyalty.account(ada, programme=programme) for programme in ("main", "club")]
    assert [(view.earned, view.reversed, view.spent) for view in views] == [(105, 100, 5), (105, 100, 0)]
    assert shop.book.replay().holds


def test_a_purchase_and_a_return_reach_every_account_of_the_customer(
    shop: Shop, rules_with: Callable[..., RuleSet]
) -> None:
    double = [{"id": "double", "kind": "per_amount", "points": 2, "per_minor": 100}]
    shop.book.rules.adopt(rules_with(name="club", programme="club", earning=double), effective_at=at("2000-01-01"))
    ada, bob, eve = shop.member(), shop.member(), shop.book.customers.register()
    shop.book.loyalty.enrol(ada, programme="club", effective_at=at("2020-01-01"))
    shop.book.loyalty.enrol(eve, programme="club", effective_at=at("2020-01-01"))
    customers = shop.book.customers

    def bought(who: UUID, net: int = 20_000) -> PurchaseResult:
        lines = [{"sku": "sku", "quantity": 2, "net_minor": net}]
        return customers.record_purchase(who, lines, effective_at=at("2020-02-01"))

    hers = bought(ada)
    assert (hers.earned, hers.tiers) == ({"main": 200, "club": 400}, {"main": "silver", "club": "gold"})
    assert (hers.points, hers.tier) == (600, "silver")
    assert (bought(bob).earned, bought(bob).tier) == ({"main": 200}, "gold")
    only_club = bought(eve, 1_000)
    assert (only_club.earned, only_club.points, only_club.tier) == ({"club": 20}, 20, None)
    stranger = bought(customers.register())
    assert (stranger.earned, stranger.tiers, stranger.points, stranger.tier) == ({}, {}, 0, None)

    back = customers.record_return(ada, {1: 1}, purchase_id=hers.purchase_id, effective_at=at("2020-02-02"))
    assert (back.net_minor, back.reversed, back.tiers) == (
        10_000, {"main": 100, "club": 200}, {"main": "silver", "club": "silver"},
    )  # fmt: skip
    assert (back.points, back.tier) == (300, "silver")
    assert shop.book.replay().holds


def test_an_account_can_be_looked_at_as_of_a_late_redemption(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-03-01", 10_000)
    assert shop.redeem(ada, "2020-02-01", 50)
    view = shop.book.loyalty.account(ada, as_of="2020-02-15")
    # By then there was nothing to spend.
    assert (view.earned, view.spent, view.active) == (0, 0, 0)
    assert books_balance(view)
    # When the book learned of it, there was.
    assert shop.book.loyalty.account(ada, as_of="2020-03-01T00:00:00Z").active == 50


def test_an_account_never_has_a_negative_debt_as_of_any_moment(shop: Shop) -> None:
    ada = shop.member()
    bought = shop.buy(ada, "2020-03-01", 5_000)
    shop.redeem(ada, "2020-03-02", 50)
    shop.give_back(ada, "2020-03-10", bought, 1)
    shop.buy(ada, "2020-02-01", 8_000)
    view = shop.book.loyalty.account(ada, as_of="2020-02-15")
    assert (view.debt, view.active, view.earned) == (0, 80, 80)
    assert books_balance(view)


_days = st.integers(0, 500)
_step = st.one_of(
    st.tuples(st.just("buy"), _days, st.integers(0, 30_000)),
    st.tuples(st.just("buy"), _days, st.integers(0, 30_000)),
    st.tuples(st.just("redeem"), _days, st.integers(1, 300)),
    st.tuples(st.just("return"), _days, st.integers(0, 9)),
    st.tuples(st.just("adopt"), _days, st.integers(2, 3)),
)
VARIANTS: dict[int, dict[str, Any]] = {
    2: {"earning": [{"id": "visit", "kind": "fixed", "points": 60}], "expiry": {"days": 30}},
    3: {"tiers": {"window_months": 2, "levels": [{"name": "basic", "threshold": 0}, {"name": "gold", "threshold": 99}]},
        "refunds": {"earning": "within_balance"}},
}  # fmt: skip


class Life:
    """A customer's life in a shop, step by step."""

    def __init__(self, shop: Shop, rules_with: Callable[..., RuleSet]) -> None:
        self.shop = shop
        self.rules_with = rules_with
        self.ada = shop.member()
        self.purchases: dict[int, UUID] = {}

    def take(self, number: int, step: tuple[str, int, int]) -> bool:
        """One step; whether it left a fact in the book."""
        what, day, argument = step
        moment, book = from_us(START + day * DAY), self.shop.book
        try:
            if what == "buy":
                lines = [{"sku": "s", "quantity": 2, "net_minor": argument}]
                bought = book.customers.record_purchase(self.ada, lines, effective_at=moment)
                self.purchases[number] = bought.purchase_id
            elif what == "redeem":
                book.loyalty.redeem(self.ada, argument, reward="R1", effective_at=moment)
            elif what == "return" and argument in self.purchases:
                purchase = self.purchases[argument]
                book.customers.record_return(self.ada, {1: 1}, purchase_id=purchase, effective_at=moment)
            elif what == "adopt":
                rules = self.rules_with(version=str(argument), **VARIANTS[argument])
                book.rules.adopt(rules, effective_at=moment)
        except tallybook.Refused as refused:
            if refused.code not in ("insufficient_points", "returned_too_much", "effective_too_early"):
                raise
            # An attempt to spend is a fact, whatever came of it.
            return refused.code == "insufficient_points"
        return True


def told(view: AccountView) -> tuple[object, ...]:
    """All of a view but ids of lots."""
    return (replace(view, lots=()), [(lot.points, lot.earned_at, lot.expires_at) for lot in view.lots])


@settings(max_examples=60, deadline=None, print_blob=True)
@given(steps=st.lists(_step, max_size=10), day=st.integers(0, 1000), upto=st.integers(0, 10))
def test_an_account_as_of_a_moment_is_what_the_facts_known_and_effective_by_then_lead_to(
    open_shop: Callable[..., Shop],
    rules_with: Callable[..., RuleSet],
    steps: list[tuple[str, int, int]],
    day: int,
    upto: int,
) -> None:
    whole = open_shop()
    life = Life(whole, rules_with)
    known = whole.book.position()
    by_then = []
    for number, step in enumerate(steps):
        took = life.take(number, step)
        if number < upto:
            known = whole.book.position()
            # A rule set for later is known from its adoption on; it says nothing before its time.
            if took and (step[0] == "adopt" or step[1] <= day):
                by_then.append((number, step))
    # Another book that never heard of the rest, and its clock stands at that moment.
    rest = open_shop()
    other = Life(rest, rules_with)
    for number, step in by_then:
        other.take(number, step)
    rest.now = from_us(START + day * DAY)
    view = whole.book.loyalty.account(life.ada, as_of=rest.now, known_at=known)
    assert told(view) == told(rest.book.loyalty.account(other.ada))
    assert books_balance(view)
    # Known all, and as of now: what the recorded decisions say.
    now = whole.book.loyalty.account(life.ada)
    assert told(whole.book.loyalty.account(life.ada, as_of=whole.now)) == told(now)
    assert books_balance(now)
    rest.close()
    whole.close()


@pytest.mark.parametrize("asked", ["as_of", "known_at"])
def test_a_look_at_the_past_that_leaves_nothing_out_is_a_look_at_today(shop: Shop, asked: str) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-03-01", 5_000)
    shop.sweep("2022-01-01")
    assert not shop.redeem(ada, "2020-05-01", 20)
    all_of_it: dict[str, Any] = {"as_of": shop.now, "known_at": shop.book.position()}
    assert shop.book.replay().holds
    assert shop.book.loyalty.account(ada, **{asked: all_of_it[asked]}) == shop.book.loyalty.account(ada)


def test_an_account_as_of_a_moment_counts_what_was_due_by_then(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-02-01", 20_000)
    book = shop.book
    told = [(view.active, view.tier, view.expired) for day in ("2020-01-31", "2020-02-01", "2021-01-31", "2021-02-28",
            "2021-03-01") for view in [book.loyalty.account(ada, as_of=f"{day}T00:00:00Z")]]  # fmt: skip
    assert told == [
        (0, "basic", 0), (200, "silver", 0), (200, "silver", 0), (200, "basic", 0), (0, "basic", 200),
    ]  # fmt: skip


def test_an_account_as_the_book_knew_it_leaves_out_what_came_late(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-03-01", 5_000)
    known = shop.book.position()
    shop.buy(ada, "2020-02-01", 8_000)
    assert shop.book.loyalty.balance(ada, as_of="2020-03-02") == 130
    assert shop.book.loyalty.balance(ada, as_of="2020-03-02", known_at=known) == 50
    assert shop.book.loyalty.balance(ada, as_of="2020-02-02") == 80
    assert shop.book.loyalty.balance(ada, as_of="2020-02-02", known_at=known) == 0


# ── wrong arguments at the front door ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wrong", ["5", 1.0, True, None, 0, -1, 10**12 + 1])
@pytest.mark.parametrize("act", ["redeem", "compensate", "score", "line", "pieces"])
def test_an_argument_of_the_wrong_type_or_size_is_refused(shop: Shop, act: str, wrong: Any) -> None:
    ada = shop.member()
    bought = shop.buy(ada, "2020-02-01", 5_000)
    ticket = shop.book.tickets.open(ada, subject="x")
    before = shop.book.position()
    acts: dict[str, Callable[[], object]] = {
        "redeem": lambda: shop.book.loyalty.redeem(ada, wrong, reward="R1"),
        "compensate": lambda: shop.book.tickets.compensate(ticket, wrong),
        "score": lambda: shop.book.tickets.record_satisfaction(ticket, wrong),
        "line": lambda: shop.book.customers.record_return(ada, {wrong: 1}, purchase_id=bought),
        "pieces": lambda: shop.book.customers.record_return(ada, {1: wrong}, purchase_id=bought),
    }
    with pytest.raises(tallybook.Refused) as refused:
        acts[act]()
    assert refused.value.code == "invalid_argument"
    assert shop.book.position() == before


def test_nothing_is_dated_before_what_it_rests_on(shop: Shop) -> None:
    ada = shop.member("2020-02-01", identifiers={"shop": "S-1"}, email="ada@example.org")
    book = shop.book
    bought = shop.buy(ada, "2020-03-01", 5_000)
    ticket = book.tickets.open(ada, subject="x", effective_at=at("2020-04-01"))
    (point,) = book.profiles.get(ada).contact_points
    acts: dict[str, Callable[[datetime], object]] = {
        "2020-03-01": lambda when: book.customers.record_return(ada, {1: 1}, purchase_id=bought, effective_at=when),
        "2020-02-01": lambda when: book.loyalty.redeem(ada, 5, reward="R1", effective_at=when),
        "2020-04-01": lambda when: book.tickets.reply(ticket, "Sorry", effective_at=when),
        "2020-04-01T00:00:00": lambda when: book.tickets.compensate(ticket, 5, effective_at=when),
        "2020-02-01T00:00:00": lambda when: book.customers.remove_identifier(ada, "shop", "S-1", effective_at=when),
        "2020-02-01T00:00": lambda when: book.customers.remove_contact_point(ada, point.point_id, effective_at=when),
    }
    for earliest, act in acts.items():
        before = book.position()
        with pytest.raises(tallybook.Refused) as refused:
            act(at(earliest) - timedelta(microseconds=1))
        assert refused.value.code == "effective_too_early"
        assert book.position() == before
        with suppress(tallybook.Refused):  # it has no points to spend by then
            act(at(earliest))
        assert book.position() > before
    assert book.replay().holds


def test_goodwill_for_a_case_is_not_given_before_the_account_was_opened(shop: Shop) -> None:
    ada = shop.book.customers.register(effective_at=at("2020-01-01"))
    ticket = shop.book.tickets.open(ada, subject="x", effective_at=at("2020-01-02"))
    with pytest.raises(tallybook.Refused) as refused:
        shop.book.tickets.compensate(ticket, 5, effective_at=at("2020-02-01"))
    assert refused.value.code == "not_enrolled"
    shop.book.loyalty.enrol(ada, effective_at=at("2020-03-01"))
    before = shop.book.position()
    with pytest.raises(tallybook.Refused) as refused:
        shop.book.tickets.compensate(ticket, 5, effective_at=at("2020-02-01"))
    assert refused.value.code == "effective_too_early"
    assert shop.book.position() == before
    shop.book.tickets.compensate(ticket, 5, effective_at=at("2020-03-01"))
    assert shop.book.loyalty.balance(ada, as_of="2020-03-02") == 5


def test_who_takes_no_part_has_no_account(shop: Shop) -> None:
    stranger = shop.book.customers.register()
    ada = shop.member("2020-03-01")
    acts: list[Callable[[], object]] = [
        lambda: shop.book.loyalty.redeem(stranger, 5, reward="R1"),
        lambda: shop.book.loyalty.redeem(ada, 5, reward="R1", programme="club"),
        lambda: shop.book.loyalty.account(stranger),
        lambda: shop.book.loyalty.balance(ada, as_of="2020-02-28"),
        lambda: shop.book.loyalty.balance(ada, known_at=1),
    ]
    before = shop.book.position()
    for act in acts:
        with pytest.raises(tallybook.Refused) as refused:
            act()
        assert refused.value.code == "not_enrolled"
    assert shop.book.position() == before


NOBODY = UUID(int=5)


@pytest.mark.parametrize(
    ("code", "act"),
    [
        ("invalid_argument", lambda desk, ada: desk.record_purchase(ada, [{**LINE, "quantity": 0}], order_id="O-1")),
        ("unknown_customer", lambda desk, _: desk.record_purchase(NOBODY, [], order_id="O-1")),
        ("unknown_customer", lambda desk, _: desk.record_return(NOBODY, {}, order_id="O-2")),
        pytest.param("invalid_argument", lambda desk, _: desk.record_return(NOBODY, {0: 1}, order_id="O-1")),
        pytest.param("invalid_argument", lambda desk, ada: desk.record_return(ada, {0: 1}, order_id="O-2")),
        pytest.param("no_lines", lambda desk, ada: desk.record_return(ada, {}, order_id="O-2")),
        pytest.param("no_lines", lambda desk, ada: desk.record_purchase(ada, [], order_id="O-1")),
        pytest.param("invalid_argument", lambda desk, ada: desk.record_purchase(ada, [DEAR], order_id="O-1")),
        pytest.param("invalid_argument", lambda desk, _: desk.record_purchase(NOBODY, [{**LINE, "quantity": 0}])),
    ],
)
def test_of_several_refusals_the_first_in_the_catalogue_wins(
    shop: Shop, code: str, act: Callable[[Any, UUID], object]
) -> None:
    ada = shop.member()
    shop.book.customers.record_purchase(ada, [LINE], order_id="O-1")
    with pytest.raises(tallybook.Refused) as refused:
        act(shop.book.customers, ada)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "act",
    [
        lambda customers, ada, bought: customers.record_return(ada, [1], purchase_id=bought),
        lambda customers, ada, bought: customers.record_return(ada, None, purchase_id=bought),
        lambda customers, ada, _: customers.record_purchase(ada, None),
        lambda customers, ada, _: customers.record_purchase(ada, [5]),
    ],
)
def test_lines_that_are_none_are_refused(shop: Shop, act: Callable[[Any, UUID, UUID], object]) -> None:
    ada = shop.member()
    bought = shop.buy(ada, "2020-02-01", 5_000)
    with pytest.raises(tallybook.Refused) as refused:
        act(shop.book.customers, ada, bought)
    assert refused.value.code == "invalid_argument"


def test_more_points_than_can_be_stored_are_refused(
    new_shop: Callable[..., Shop], rules_with: Callable[..., RuleSet]
) -> None:
    with pytest.raises(tallybook.RuleSetError):
        rules_with(earning=[{"id": "base", "kind": "per_amount", "points": 1_000_000, "per_minor": 1}])
    shop = new_shop(earning=[{"id": "base", "kind": "per_amount", "points": 1000, "per_minor": 1}])
    ada = shop.member()
    before = shop.book.position()
    for amounts in ((10**12 + 1,), (10**12, 1), (10**15,)):
        with pytest.raises(tallybook.Refused) as refused:
            shop.buy(ada, "2020-02-01", *amounts)
        assert refused.value.code == "invalid_argument"
    assert shop.book.position() == before
    bought = [shop.buy(ada, "2020-02-01", 10**12) for _ in range(3)]
    shop.give_back(ada, "2020-02-02", bought[0], 1)
    assert shop.book.loyalty.balance(ada, as_of="2020-02-03") == 2 * 10**15
    assert shop.book.tiers.counts() == {"gold": 1}
    shop.sweep("2022-01-01")
    assert (shop.book.loyalty.balance(ada), shop.book.tiers.counts()) == (0, {"basic": 1})
    assert shop.book.replay().holds


def test_facts_alone_carry_the_replay(two: tuple[Shop, UUID, UUID]) -> None:
    shop, _, _ = two
    facts = [recorded for recorded in shop.history() if isinstance(recorded.event, Fact)]
    certificate = certified(facts)
    assert certificate.decisions == 0
    assert certificate.first is not None
    assert certificate.first.kind == "a missing decision"
