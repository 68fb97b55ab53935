"""Both executors over made-up histories: some rounds of `tests.differential`, and that it finds what is planted."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from benchmarks.histories import PROGRAMME
from tests.differential import (
    Case,
    adopted,
    backtested,
    differences,
    drawn_rules,
    main,
    one,
    one_backtest,
    question,
    varied,
)

from tallybook.domain.control import RuleSetAdopted
from tallybook.domain.earning import Rules
from tallybook.projections.columnar.backtesting import partial_of
from tallybook.projections.columnar.executor import decisions_of, outcomes
from tallybook.projections.columnar.facts import Facts
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.rulebook import Adoptions, Book
from tallybook.projections.exclusions import NOBODY, Exclusions


def book_of(rules: Rules, case: Case) -> Book:
    """Rules that hold all the time, with the sweeps of a case."""
    sweeps = [(position, event) for position, event in case.control if not isinstance(event, RuleSetAdopted)]
    return Book(Adoptions(PROGRAMME, sweeps, rules), case.names)


@pytest.mark.parametrize("seed", range(1, 9))
def test_both_decide_the_same_about_made_up_histories_under_drawn_rules(seed: int) -> None:
    verdict = one(seed, 60)
    assert verdict.differences == []
    assert verdict.accounts > 40
    assert verdict.decisions > 50
    assert verdict.given_up == 0


# 2, 5, 12: of redemptions about which nothing is decided without rules, none is newly funded.
@pytest.mark.parametrize("seed", [1, 2, 5, 9, 11, 12])
def test_both_find_the_same_in_a_backtest(seed: int) -> None:
    verdict = one_backtest(seed, 150)
    assert verdict.differences == []
    assert verdict.facts > 400


def test_a_backtest_that_finds_something_else_is_told() -> None:
    case = Case.drawn(3, 60)
    asked = question(case, Random(3))
    lower = replace(asked, left_out=Exclusions(frozenset(case.facts.customers[:2]), frozenset()))
    # Columns are asked without two of the customers.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tests.differential.partial_of", lambda parts, control, _, names: partial_of(parts, control, lower, names)
        )
        found = list(backtested(case, replace(asked, left_out=NOBODY)))
    assert any("accounts" in told for told in found)
    assert "what came of accounts is another by columns" in found


def test_a_policy_that_one_of_them_does_not_keep_is_found() -> None:
    def lives_less(book: Book) -> None:
        for _, expiry in book._expiries:
            book._words[expiry + m.X_COUNT] += 1

    *found, counts = differences(Case.drawn(2, 60), lives_less)
    assert isinstance(counts, tuple)
    assert any("account" in str(told) for told in found)


def plain_in(book: Book) -> list[int]:
    """Where the array tells the rules that the shortest way is for."""
    places = [at + m.RS_PLAIN for at in book._at.values()]
    return [place for place in places if book._words[place]]


@pytest.mark.parametrize("seed", range(1, 13))
def test_the_shortest_way_comes_to_what_the_long_one_does(seed: int) -> None:
    case = Case.drawn(seed, 400)
    random = Random(seed)
    while not plain_in(short := book_of(rules := drawn_rules(random), case)):
        pass
    long = book_of(rules, case)
    for place in plain_in(long):
        long._words[place] = 0
    assert outcomes(case.facts, short)[1].tolist() == outcomes(case.facts, long)[1].tolist()


def test_an_account_that_one_of_them_leaves_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.differential.decisions_of", lambda *given: list(decisions_of(*given))[1:])
    assert "1 accounts were left out" in list(differences(Case.drawn(1, 40)))


def test_a_balance_that_is_another_where_nothing_is_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def another(facts: Facts, book: Book) -> tuple[Any, Any]:
        places, out = outcomes(facts, book)
        out[0, m.O_BUCKETS + m.EARNED] += 1
        return places, out

    monkeypatch.setattr("tests.differential.outcomes", another)
    *found, _ = differences(Case.drawn(1, 40))
    assert len(found) == 1


def test_rules_that_are_drawn_differ_and_hold() -> None:
    random = Random(7)
    rules = [drawn_rules(random) for _ in range(12)]
    assert len({one.rule_set.digest() for one in rules}) > 8
    assert len({one.zone.name for one in rules}) > 2
    event = adopted(rules[0], 5, 3)
    assert isinstance(event, RuleSetAdopted)
    assert event.digest == rules[0].rule_set.digest()
    document = {
        "tiers": {"levels": [], "qualify": "base"},
        "earning": [{"kind": "fixed", "group": "a"}],
        "groups": {"a": 1},
    }
    assert all(set(varied(Random(seed), document)["groups"]) <= {"a"} for seed in range(20))
    assert document["groups"] == {"a": 1}


def test_the_campaign_ends_with_what_it_came_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["differential", "--accounts", "1", "--seed", "3"])
    monkeypatch.setattr("tests.differential.CUSTOMERS", 20)
    assert main() == 0
    assert "0 differences." in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["differential", "--accounts", "1", "--seed", "3", "--backtests"])
    assert main() == 0
