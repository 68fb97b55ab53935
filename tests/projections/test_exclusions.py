"""Restricted and objecting customers are left out of scoring, and counted; bookkeeping goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.projections.conftest import Shop

    from tallybook.domain.rules import RuleSet

OF = "2021-01-01"


def test_segments_leave_out_who_is_restricted_or_objects_and_say_how_many(shop: Shop) -> None:
    ada, bob, eve, mia, leo = (shop.member("2020-01-01") for _ in range(5))
    for one in (ada, bob, eve, mia):
        shop.buy(one, "2020-02-01", 1_000)
    customers = shop.book.customers
    customers.restrict(bob, "unlawful", effective_at="2020-03-01T00:00:00Z")
    customers.object_to(eve, "automated_decisions", effective_at="2020-04-01T00:00:00Z")
    customers.object_to(bob, "automated_decisions", effective_at="2020-04-01T00:00:00Z")
    customers.object_to(mia, "marketing", effective_at="2020-04-01T00:00:00Z")
    customers.restrict(leo, "unlawful", effective_at="2020-04-01T00:00:00Z")  # bought nothing: counts nowhere
    found = shop.book.profiles.segments(as_of=OF)
    assert {one.customer_id for _, one in found} == {ada, mia}
    assert (found.restricted, found.objecting, len(found)) == (1, 1, 2)
    # At a date before, nobody had said anything.
    then = shop.book.profiles.segments(as_of="2020-02-15")
    assert (len(then), then.restricted, then.objecting) == (4, 0, 0)
    customers.lift_restriction(bob, effective_at="2020-05-01T00:00:00Z")
    customers.withdraw_objection(eve, "automated_decisions", effective_at="2020-05-01T00:00:00Z")
    now = shop.book.profiles.segments(as_of=OF)
    assert ({one.customer_id for _, one in now}, now.restricted, now.objecting) == ({ada, eve, mia}, 0, 1)


def test_what_the_book_did_not_know_leaves_nobody_out(shop: Shop) -> None:
    ada = shop.member("2020-01-01")
    shop.buy(ada, "2020-02-01", 1_000)
    known = shop.book.position()
    shop.book.customers.restrict(ada, "unlawful", effective_at="2020-01-15T00:00:00Z")
    assert len(shop.book.profiles.segments(as_of=OF, known_at=known)) == 1
    assert len(shop.book.profiles.segments(as_of=OF)) == 0


def test_an_external_id_of_who_is_left_out_is_not_opened(shop: Shop) -> None:
    ada = shop.member("2020-01-01", identifiers={"crm": "A-1"})
    bob = shop.member("2020-01-01", identifiers={"crm": "B-1"})
    for one in (ada, bob):
        shop.buy(one, "2020-02-01", 1_000)
    shop.book.customers.restrict(bob, "unlawful")
    assert [name for name, _ in shop.book.profiles.segments(system="crm")] == ["A-1"]
    assert [entry.subject for entry in shop.book.audit.trail(bob) if entry.action == "read:profiles.segments"] == []


def test_lists_of_a_tier_leave_them_out_and_count_them_and_sums_go_on(shop: Shop) -> None:
    ada, bob, eve, mia = (shop.member("2020-01-01") for _ in range(4))
    tiers, customers = shop.book.tiers, shop.book.customers
    for one in (ada, bob, eve):
        shop.buy(one, "2020-02-01", 15_000)
    known = shop.book.position()
    customers.restrict(bob, "unlawful", effective_at="2020-03-01T00:00:00Z")
    customers.object_to(bob, "automated_decisions", effective_at="2020-03-01T00:00:00Z")
    customers.object_to(eve, "automated_decisions", effective_at="2020-03-01T00:00:00Z")
    customers.object_to(ada, "marketing", effective_at="2020-03-01T00:00:00Z")
    customers.restrict(mia, "unlawful", effective_at="2020-03-01T00:00:00Z")  # holds another tier: counts nowhere
    found = tiers.members("silver", as_of=OF)
    assert ([one.customer_id for one in found], found.restricted, found.objecting) == ([ada], 1, 1)
    whole = tiers.members("silver", as_of=OF, everybody=True)
    assert ({one.customer_id for one in whole}, whole.restricted, whole.objecting) == ({ada, bob, eve}, 0, 0)
    # Before anybody said so, and as the book knew it then.
    assert len(tiers.members("silver", as_of="2020-02-15")) == 3
    assert len(tiers.members("silver", as_of=OF, known_at=known)) == 3
    # What the contract gives goes on: sums, and what a customer holds.
    assert tiers.counts(as_of=OF) == {"silver": 3, "basic": 1}
    assert tiers.history(bob)[-1].tier == "silver"
    customers.lift_restriction(bob, effective_at="2020-05-01T00:00:00Z")
    found = tiers.members("silver", as_of=OF)
    assert ([one.customer_id for one in found], found.restricted, found.objecting) == ([ada], 0, 2)


def test_a_backtest_leaves_them_out_and_the_certificate_does_not(
    shop: Shop, rules_with: Callable[..., RuleSet]
) -> None:
    ada, bob, eve = (shop.member("2020-01-01") for _ in range(3))
    for one in (ada, bob, eve):
        shop.buy(one, "2020-02-01", 15_000)
    shop.book.customers.register()  # without an account
    candidate = rules_with(version="2", earning=[{"id": "base", "kind": "per_amount", "points": 2, "per_minor": 100}])
    whole = shop.book.backtest(candidate)
    assert (whole.accounts, whole.before.earned, whole.after.earned) == (3, 450, 900)
    before = shop.book.replay()
    shop.book.customers.restrict(bob, "unlawful")
    shop.book.customers.object_to(eve, "automated_decisions")
    shop.book.customers.restrict(shop.book.customers.register(), "unlawful")
    report = shop.book.backtest(candidate)
    assert (report.accounts, report.before.earned, report.after.earned) == (1, 150, 300)
    assert (report.restricted, report.objecting) == (1, 1)
    assert report.explain(bob) is None
    after = shop.book.replay()
    assert (after.holds, after.matched, after.accounts) == (True, before.matched, 3)
    # Points go on: they are owed by contract.
    shop.buy(bob, "2020-03-01", 1_000)
    assert shop.book.loyalty.balance(bob, as_of="2020-03-02") == 160
    shop.book.customers.lift_restriction(bob)
    assert shop.book.backtest(candidate).restricted == 0
