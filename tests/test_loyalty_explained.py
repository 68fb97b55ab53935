"""`book.loyalty.explain` and its kind, over random lives in each of the programmes that ship."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from tests.domain.conftest import rule_set
from tests.loyalty_lives import PROGRAMMES, Step, living, steps
from tests.projections.test_reasons import check, value_of

import tallybook
from tallybook import Book
from tallybook.domain.errors import Refused
from tallybook.projections.reasons import explained
from tallybook.statements import Explanation, history

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_what_is_explained_gives_the_recorded_points_in_every_programme_that_ships(programme: str) -> None:
    told: Counter[str] = Counter()

    @QUICK
    @given(life=steps)
    def live(life: list[Step]) -> None:
        with living(programme) as one:
            one.lives(life)
            for customer in one.members:
                account = one.book.loyalty.account(customer).account_id
                found = check(explained(history(one.book._core, customer, account)))
                seen = one.book.loyalty.explain_account(customer)
                assert [one.decision_id for one in seen] == [one.recorded.event.event_id for one in found]
                assert all(one.agrees for one in seen)
                told.update(one.kind for one in seen)
            assert one.book.replay().holds

    live()
    assert {"loyalty.points_earned", "loyalty.tier_changed"} <= set(told), told


def explanation(book: Book, customer: UUID, kind: str) -> Explanation:
    """The last decision of a kind."""
    return [one for one in book.loyalty.explain_account(customer) if one.kind == f"loyalty.{kind}"][-1]


def test_a_decision_is_explained_by_its_id_alone_as_with_the_others_of_its_account() -> None:
    with living("stars") as one:
        ada, bob = one.members
        lines = [{"sku": "latte", "quantity": 1, "net_minor": 1_000}]
        for customer in (ada, bob):
            one.book.customers.record_purchase(customer, lines)
        for customer in (ada, bob):
            every = one.book.loyalty.explain_account(customer)
            assert [one.book.loyalty.explain(each.decision_id) for each in every] == every
            assert {each.customer_id for each in every} == {customer}
            assert one.book.loyalty.explain_account(every[0].account_id) == every
        told = explanation(one.book, ada, "points_earned")
        assert told.rules == "stars@1"
        assert told.digest == one.rules.digest()
        assert [fact.kind for fact in told.facts] == ["customer.purchase_recorded"]
        assert told.facts[0].says["lines"][0]["net_minor"] == 1_000
        assert [(move.source, move.target, move.points) for move in told.moves] == [
            ("earned", "active", told.says["points"])
        ]
        for what in (uuid4(), told.facts[0].fact_id, ada):
            with pytest.raises(Refused) as refused:
                one.book.loyalty.explain(what)
            assert refused.value.code == "unknown_decision"


def test_what_is_explained_is_as_it_was_whatever_came_later() -> None:
    with living("retail") as one:
        ada = one.members[0]
        lines = [{"sku": "coat", "quantity": 1, "net_minor": 9_000}]
        one.book.customers.record_purchase(ada, lines, currency="GBP")
        before = one.book.loyalty.explain_account(ada)
        one.clock[0] += 10**12
        one.book.rules.adopt(rule_set(version="9"), effective_at="2023-01-01T00:00:00Z")
        one.book.customers.change(ada, country="US")
        one.book.customers.record_purchase(ada, lines)
        assert one.book.loyalty.explain_account(ada)[: len(before)] == before
        position = before[-1].position
        assert one.book.loyalty.explain_account(ada, known_at=position) == before


def test_points_of_two_lots_are_reckoned_from_before_the_first_and_stand_under_one_cap() -> None:
    rules = rule_set(
        earning=[
            {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100},
            {"id": "bonus", "kind": "fixed", "points": 50, "expiry": {"days": 10}},
        ],
        caps={"day": 60},
    )
    with living(rules) as one:
        ada = one.members[0]
        lines = [{"sku": "coat", "quantity": 1, "net_minor": 4_000}]
        one.book.customers.record_purchase(ada, lines)
        first, second = [one for one in one.book.loyalty.explain_account(ada) if one.kind == "loyalty.points_earned"]
        assert (first.says["points"], second.says["points"], second.says["capped"]) == (40, 20, 30)
        assert first.agrees
        assert second.agrees
        [capped] = [line for line in second.arithmetic if line.what == "bonus: after caps"]
        assert capped.how == "min(50, max(0, 60 − 40))"
        assert second.inputs["lot"] == {"number": 2, "of": 2}
        assert value_of(capped.how) == capped.gives == 20


def test_a_late_fact_is_told_as_a_correction() -> None:
    with living(rule_set()) as one:
        ada = one.members[0]
        lines = [{"sku": "coat", "quantity": 1, "net_minor": 9_000}]
        one.clock[0] += 10 * 86_400_000_000
        one.book.customers.record_purchase(ada, lines)
        assert not explanation(one.book, ada, "points_earned").correction
        one.book.customers.record_purchase(ada, lines, effective_at="2023-01-02T00:00:00Z")
        late, tier = one.book.loyalty.explain_account(ada)[-2:]
        for told in (late, tier):
            assert told.correction
            assert told.agrees
            assert "this is a correction" in told.why[-1]
        assert late.effective_at == "2023-01-02T00:00:00Z"
        assert tier.kind == "loyalty.tier_changed"
        assert tier.effective_at == "2023-01-11T08:00:00Z"
        assert [entry["points"] for entry in tier.inputs["window"]["counted"]] == [90, 90]
        assert tier.inputs["window"]["counted"][0]["facts"] == [str(late.facts[0].fact_id)]


def test_no_decision_about_an_account_that_is_not_there_is_explained() -> None:
    with living(rule_set()) as one:
        with pytest.raises(Refused) as refused:
            one.book.loyalty.explain_account(uuid4())
        assert refused.value.code == "not_enrolled"


@pytest.mark.parametrize(
    ("tiers", "told"),
    [
        ({"window": "calendar_year"}, "from 0001-01-01T05:00:00Z, and from the beginning to then"),
        ({"window": "membership_year"}, "from 0001-01-01T05:00:00Z, and from the beginning to then"),
        ({"window_months": 12, "grace_days": 3_650}, "3650 days before, at the beginning, 0 points counted already"),
    ],
)
def test_what_is_explained_reaches_back_before_the_first_year(tiers: dict[str, Any], told: str) -> None:
    levels = [{"name": "basic", "threshold": 0}, {"name": "gold", "threshold": 100}]
    first = "0001-01-02T00:00:00Z"
    with tallybook.open("memory:") as book, book.acting("agent:ada", purpose="test"):
        easy = rule_set(zone="America/New_York", expiry={"never": True}, tiers={"levels": levels, **tiers})
        hard = easy.model_copy(
            update={
                "version": "2",
                "tiers": rule_set(tiers={"levels": [levels[0], {**levels[1], "threshold": 500}], **tiers}).tiers,
            }
        )
        book.rules.adopt(easy, effective_at=first)
        book.rules.adopt(hard, effective_at="0001-01-03T00:00:00Z")
        ada = book.customers.register(effective_at=first)
        book.loyalty.enrol(ada, effective_at=first)
        book.customers.record_purchase(ada, [{"sku": "a", "quantity": 1, "net_minor": 20_000}], effective_at=first)
        book.loyalty.sweep()
        every = book.loyalty.explain_account(ada)
        assert all(one.agrees for one in every)
        assert any(told in step for one in every for step in one.why), [one.why for one in every]
