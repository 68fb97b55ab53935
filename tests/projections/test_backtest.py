"""The backtest: what a candidate would have decided, fact by fact, and what that adds up to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tallybook.domain.rules import RuleSet
from tallybook.projections.replay import backtest

if TYPE_CHECKING:
    from tests.projections.conftest import Shop

RulesWith = Callable[..., RuleSet]


def per_amount(points: int, per_minor: int = 100) -> list[dict[str, Any]]:
    return [{"id": "base", "kind": "per_amount", "points": points, "per_minor": per_minor}]


@pytest.fixture
def lives(shop: Shop) -> tuple[Shop, UUID, UUID, UUID]:
    """Ada is silver and spent, bob is gold, eve is basic and was refused."""
    ada, bob, eve = shop.member(), shop.member(), shop.member()
    shop.buy(ada, "2020-02-01", 15_000)
    assert shop.redeem(ada, "2020-02-02", 120)
    shop.buy(bob, "2020-02-03", 50_000)
    shop.buy(eve, "2020-02-04", 9_000)
    assert not shop.redeem(eve, "2020-02-05", 100)
    return shop, ada, bob, eve


def test_the_adopted_rule_set_itself_changes_nothing(
    lives: tuple[Shop, UUID, UUID, UUID], rules_with: RulesWith
) -> None:
    shop, ada, _, _ = lives
    report = shop.book.backtest(rules_with())
    assert report.matrix == {"silver": {"silver": 1}, "gold": {"gold": 1}, "basic": {"basic": 1}}
    assert (report.changed, report.moved_up, report.moved_down, report.gain_points, report.lose_points) == (0,) * 5
    assert (report.unfunded_redemptions, report.newly_funded_redemptions) == (0, 0)
    assert report.before == report.after
    assert report.explain(ada) is None
    assert (report.candidate, report.baseline) == ("standard@1", "as recorded")


def test_the_totals_are_those_of_the_accounts(lives: tuple[Shop, UUID, UUID, UUID], rules_with: RulesWith) -> None:
    shop, *members = lives
    report = shop.book.backtest(rules_with(version="2", earning=per_amount(2)))
    views = [shop.book.loyalty.account(member, as_of="2020-03-01") for member in members]
    before = report.before
    assert (before.earned, before.redeemed, before.outstanding) == (
        sum(view.earned for view in views), sum(view.spent for view in views), sum(view.active for view in views),
    )  # fmt: skip
    assert (before.earned, before.redeemed, before.expired, before.reversed, before.debt) == (740, 120, 0, 0, 0)
    assert (report.after.earned, report.after.redeemed, report.after.outstanding) == (1480, 220, 1260)


def test_the_matrix_sums_to_the_accounts(lives: tuple[Shop, UUID, UUID, UUID], rules_with: RulesWith) -> None:
    shop, *_ = lives
    report = shop.book.backtest(rules_with(version="2", earning=per_amount(2)))
    assert report.accounts == 3
    assert sum(sum(row.values()) for row in report.matrix.values()) == report.accounts
    assert report.matrix == {"silver": {"gold": 1}, "gold": {"gold": 1}, "basic": {"silver": 1}}
    assert (report.moved_up, report.moved_down) == (2, 0)
    # Eve's refused redemption is paid now, which leaves her with 80 instead of 90.
    assert (report.gain_points, report.lose_points, report.changed) == (2, 1, 3)


def test_a_redemption_that_the_candidate_cannot_fund_is_counted_and_refused(
    lives: tuple[Shop, UUID, UUID, UUID], rules_with: RulesWith
) -> None:
    shop, ada, _, _ = lives
    report = shop.book.backtest(rules_with(version="2", earning=per_amount(1, 200)))
    assert (report.unfunded_redemptions, report.newly_funded_redemptions) == (1, 0)
    assert report.after.redeemed == 0
    # She keeps the 75 points that did not suffice, which is more than the 30 that she has left.
    assert (report.gain_points, report.lose_points, report.moved_down) == (1, 2, 2)
    first = report.explain(ada)
    assert first is not None
    assert first.fact == "customer.purchase_recorded"


def test_a_redemption_that_was_refused_and_can_be_funded_is_counted_and_paid(
    lives: tuple[Shop, UUID, UUID, UUID], rules_with: RulesWith
) -> None:
    shop, _, _, _ = lives
    report = shop.book.backtest(rules_with(version="2", earning=per_amount(2)))
    assert (report.unfunded_redemptions, report.newly_funded_redemptions) == (0, 1)
    assert report.after.redeemed == report.before.redeemed + 100


def test_the_first_fact_at_which_the_candidate_decides_otherwise_is_named(shop: Shop, rules_with: RulesWith) -> None:
    ada, bob = shop.member(), shop.member()
    shop.buy(ada, "2020-02-01", 4_000)
    shop.buy(bob, "2020-02-02", 4_000)
    big = shop.buy(ada, "2020-02-03", 6_000)
    shop.buy(ada, "2020-02-04", 7_000)
    bonus = {"id": "big", "kind": "multiplier", "factor": 2,
             "when": "order.net_minor >= 5000"}  # fmt: skip
    report = shop.book.backtest(rules_with(version="2", earning=[*per_amount(1), bonus]))
    assert report.changed == 1
    assert report.explain(bob) is None
    first = report.explain(ada)
    assert first is not None
    assert shop.history()[first.position - 1].event.event_id == big
    assert first.fact == "customer.purchase_recorded"
    assert (first.customer_id, first.effective_us) == (ada, shop.history()[first.position - 1].event.effective_us)
    assert "points=60" in first.baseline[0]
    assert "points=120" in first.candidate[0]


def test_a_difference_that_only_time_brings_is_named_as_the_sweeps(shop: Shop, rules_with: RulesWith) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-02-01", 4_000)
    shop.sweep("2022-01-01")
    report = shop.book.backtest(rules_with(version="2", tiers={"window_months": 12, "levels": [
        {"name": "basic", "threshold": 0}]}))  # fmt: skip
    assert report.changed == 0
    longer = shop.book.backtest(rules_with(version="2", expiry={"months": 48}))
    assert (longer.changed, longer.gain_points) == (1, 1)
    assert (longer.before.expired, longer.after.expired, longer.after.outstanding) == (40, 0, 40)


def test_a_tier_that_the_candidate_lacks_counts_as_its_first(shop: Shop, rules_with: RulesWith) -> None:
    bob = shop.member()
    shop.buy(bob, "2020-02-03", 50_000)
    names = {"window_months": 12, "levels": [{"name": "blue", "threshold": 0}, {"name": "black", "threshold": 400}]}
    report = shop.book.backtest(rules_with(version="2", tiers=names))
    assert report.matrix == {"gold": {"black": 1}}
    assert (report.moved_up, report.moved_down) == (1, 0)


def test_a_baseline_may_be_given(lives: tuple[Shop, UUID, UUID, UUID], rules_with: RulesWith) -> None:
    shop, *_ = lives
    double, triple = rules_with(version="2", earning=per_amount(2)), rules_with(version="3", earning=per_amount(3))
    report = shop.book.backtest(triple, baseline=double)
    assert (report.candidate, report.baseline) == ("standard@3", "standard@2")
    assert (report.before.earned, report.after.earned) == (1480, 2220)
    assert shop.book.backtest(double, baseline=double).changed == 0


def test_a_renamed_rule_set_that_decides_the_same_changes_nothing(
    lives: tuple[Shop, UUID, UUID, UUID], rules_with: RulesWith
) -> None:
    shop, *_ = lives
    earning = [{"id": "renamed", "kind": "per_amount", "points": 1, "per_minor": 100}]
    assert shop.book.backtest(rules_with(name="other", version="9", earning=earning)).changed == 0


def test_the_candidate_takes_the_place_of_every_adoption(shop: Shop, rules_with: RulesWith) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-02-01", 10_000)
    shop.book.rules.adopt(rules_with(version="2", earning=per_amount(5)), effective_at="2020-03-01T00:00:00Z")
    shop.buy(ada, "2020-04-01", 10_000)
    report = shop.book.backtest(rules_with())
    assert (report.before.earned, report.after.earned) == (600, 200)
    first = report.explain(ada)
    assert first is not None
    assert "points=500" in first.baseline[0]


def test_another_programmes_accounts_are_left_out(shop: Shop, rules_with: RulesWith) -> None:
    shop.member()
    report = shop.book.backtest(rules_with(name="club", programme="club"))
    assert (report.accounts, report.matrix, report.changed) == (0, {}, 0)


def test_late_facts_are_met_in_the_order_in_which_the_book_learned_of_them(shop: Shop, rules_with: RulesWith) -> None:
    ada = shop.member()
    assert not shop.redeem(ada, "2020-03-01", 50)
    shop.buy(ada, "2020-02-01", 8_000)
    report = shop.book.backtest(rules_with(version="2", earning=per_amount(10)))
    assert (report.newly_funded_redemptions, report.after.redeemed) == (0, 0)


def test_two_customers_do_not_disturb_each_other(new_shop: Callable[..., Shop], rules_with: RulesWith) -> None:
    reports = []
    for crowd in (True, False):
        shop = new_shop()
        ada = shop.member()
        if crowd:
            bob = shop.member()
            shop.buy(bob, "2020-01-02", 99_000)
            shop.redeem(bob, "2020-01-03", 900)
        shop.buy(ada, "2020-02-01", 15_000)
        shop.redeem(ada, "2020-02-02", 120)
        first = shop.book.backtest(rules_with(version="2", earning=per_amount(2))).explain(ada)
        assert first is not None
        reports.append((first.fact, first.baseline, first.candidate))
        shop.close()
        shop.close = lambda: None  # type: ignore[method-assign]  # closed already
    assert reports[0] == reports[1]


def test_a_backtest_reads_facts_only_so_recorded_decisions_do_not_matter(
    lives: tuple[Shop, UUID, UUID, UUID], rules_with: RulesWith
) -> None:
    shop, *_ = lives
    candidate = shop.book.rules.rules_of(rules_with(version="2", earning=per_amount(2)))
    whole = shop.history()
    facts = [recorded for recorded in whole if not hasattr(recorded.event, "debt_paid")]
    assert len(facts) < len(whole)
    assert backtest(facts, candidate).after == backtest(whole, candidate).after


def test_missing_keys_do_not_matter(shop: Shop, rules_with: RulesWith) -> None:
    ada = shop.member(name="Ada", email="ada@example.org", birth_date="1815-12-10")
    shop.buy(ada, "2020-02-01", 15_000)
    candidate = shop.book.rules.rules_of(rules_with(version="2", earning=per_amount(2)))
    before = backtest(shop.history(), candidate)
    shop.book._core.keyring.__dict__.clear()
    assert backtest(shop.history(), candidate) == before
    assert before.changed == 1
