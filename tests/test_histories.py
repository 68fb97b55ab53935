"""Made-up histories as the arrays of the columnar executor, beside those that a book is filled with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import starmap
from pathlib import Path

import numpy as np
import pytest
from benchmarks.histories import RULE_SETS, event_id, events_of, facts_of, rules_of, swept
from tests.columnar import by_reference, ids
from tests.replay_facts import all_in_full, in_full

import tallybook
from tallybook.adapters import synth
from tallybook.adapters.rule_files import frozen_zone, load_rule_set
from tallybook.adapters.synth import History, chunks
from tallybook.domain.earning import Rules
from tallybook.domain.loyalty import UNFUNDED, account_id
from tallybook.projections.backtest import Partial, Question, reference
from tallybook.projections.columnar import executor
from tallybook.projections.columnar.backtesting import Asked, partial_of
from tallybook.projections.columnar.executor import decisions_of, outcomes
from tallybook.projections.columnar.facts import Facts, Gathering
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.names import Names, words_of
from tallybook.projections.columnar.rulebook import Adoptions, Book
from tallybook.projections.read_models import Recorded

SMALL = History(seed=3, customers=300, events=9_000)
ARRAYS = ("kind", "position", "at_us", "account", "slots", "item", "items", "trait", "channel", "first")


def of_standard(names: Names) -> Book:
    """The standard rule set."""
    rules = load_rule_set("standard")
    return Book(Adoptions("main", (), Rules(rules, frozen_zone(rules.zone))), names)


def test_facts_are_those_of_the_history() -> None:
    whole = list(chunks(SMALL))
    left_out: Counter[str] = Counter()
    facts = facts_of(whole, Names(), left_out=left_out)
    told = Counter(synth.KINDS[kind] for chunk in whole for kind in chunk.kind.tolist())
    assert left_out == {name: count for name, count in told.items() if name not in m.FACTS}
    assert Counter(m.FACTS[kind] for kind in facts.kind.tolist()) == told - left_out
    assert {"customer.registered", "ticket.opened"} <= set(left_out)
    assert sorted(facts.position.tolist()) == list(range(1, len(facts) + 1))
    assert len(facts.customers) == SMALL.customers
    assert all(account == account_id(facts.customers[place], "main") for account, _, place in facts.accounts)


def test_chunks_of_any_size_give_the_same_facts() -> None:
    one, other = facts_of(chunks(SMALL), Names()), facts_of(chunks(SMALL, customers=64), Names())
    for name in ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.traits, one.customers, [*one.accounts]) == (other.traits, other.customers, [*other.accounts])


def test_rules_decide_much_about_them() -> None:
    names = Names()
    facts = facts_of(chunks(SMALL), names)
    book = of_standard(names)
    first = Counter(m.DECISIONS[words[0]] for _, steps in decisions_of(facts, book) for _, words in steps)
    assert {name for name, count in first.items() if count >= 10} >= {
        "loyalty.points_earned",
        "loyalty.points_expired",
        "loyalty.earning_reversed",
        "loyalty.tier_changed",
        "loyalty.points_redeemed",
        "loyalty.redemption_refused",
        "loyalty.points_held",
        "loyalty.points_credited",
    }


def test_parts_come_to_the_same_as_the_whole() -> None:
    names = Names()
    facts = facts_of(chunks(SMALL), names)
    book = Book(Adoptions("main", swept(facts), rules_of("every")), names)
    _, whole = outcomes(facts, book)
    parts = [outcomes(part, book)[1] for part in facts.split(7)]
    assert np.array_equal(np.concatenate(parts), whole)
    empty = np.flatnonzero(whole[:, m.O_BUCKETS :].sum(axis=0) == 0)
    assert set(empty.tolist()) <= {m.DEBT, m.HELD}  # at the end, of so few accounts


@pytest.mark.parametrize("sums", [False, True], ids=["backtest", "sweep"])
def test_what_parts_come_to_adds_up_however_often_there_is_too_little_room(
    sums: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts that need more room than there is are run again: what was counted before them stays."""
    questions = (Question(rules_of("every"), rules_of("L2")), Question(rules_of("L1"), rules_of("L2")))

    own = Names()
    events = sorted(events_of(facts_of(chunks(SMALL), own), own), key=lambda one: one[0])

    def found(parts: int) -> list[Partial]:
        def load(names: Names) -> Iterator[Facts]:
            # In the order in which they come: not the most active ones first.
            gathering = Gathering(names)
            for position, event in events:
                if position:
                    gathering.feed(position, event)
            return gathering.facts().split(parts)

        return Asked(questions, sums).of(load, [])

    monkeypatch.setattr(executor.Space, "_times", 256)
    whole = found(1)
    assert executor.Space._times == 256
    monkeypatch.setattr(executor.Space, "_times", 1)
    grown = found(3)
    assert executor.Space._times > 1
    for one, other in zip(whole, grown, strict=True):
        assert one.sums == other.sums
        assert (one.gained, one.lost, one.digests) == (other.gained, other.lost, other.digests)
        assert any(key[0] == "month" for key in one.sums) is not sums


def test_parts_are_whole_customers_and_name_their_own_rows() -> None:
    names = Names()
    facts = facts_of(chunks(SMALL), names)
    whole = in_full(facts, names)
    parts = list(facts.split(9))
    assert [customer for part in parts for customer in part.customers] == list(facts.customers)
    assert max(map(len, parts)) < len(facts) / 6
    assert all_in_full(parts, names) == whole
    listed = replace(facts, accounts=list(facts.accounts), customers=list(facts.customers))
    assert all_in_full(listed.split(9), names) == whole
    for other in (
        replace(facts, accounts=list(facts.accounts)[::-1]),
        replace(facts, account=np.where(facts.account >= 0, len(facts.accounts) - 1, -1)),
    ):
        assert [len(part) for part in other.split(2)] == [len(facts)]


def test_a_book_filled_with_the_same_history_earns_the_same(tmp_path: Path) -> None:
    """What a book leaves out, and what depends on its rules (coupons, transfers, referrals), earns nothing here."""
    url = f"sqlite:///{tmp_path}/made-up.book"
    tallybook.synth(url, customers=SMALL.customers, events=SMALL.events, seed=SMALL.seed, rules=["standard"])
    names = Names()
    gathering = Gathering(names)
    with tallybook.open(url) as book:
        for position, event in book._core.history():
            gathering.feed(position, event)
    recorded, made = (
        {facts.accounts[place][0]: row for place, row in zip(*outcomes(facts, of_standard(names)), strict=True)}
        for facts in (gathering.facts(), facts_of(chunks(SMALL), names))
    )
    assert recorded.keys() == made.keys()
    earned, spent = m.O_BUCKETS + m.EARNED, m.O_BUCKETS + m.SPENT
    assert {account: row[earned] for account, row in recorded.items()} == {
        account: row[earned] for account, row in made.items()
    }
    assert sum(row[earned] for row in made.values()) > 100_000
    ours, theirs = (sum(row[spent] for row in one.values()) for one in (made, recorded))
    assert abs(ours - theirs) < theirs / 5


@pytest.mark.parametrize("name", sorted(path.stem for path in RULE_SETS.glob("*.toml")))
def test_both_executors_decide_the_same_under_the_rule_sets_of_the_benchmarks(name: str) -> None:
    rules = rules_of(name)
    assert not rules.rule_set.warnings
    names = Names()
    facts = facts_of(chunks(History(seed=5, customers=60, events=1_800)), names)
    book = Book(Adoptions("main", (), rules), names)
    reference = by_reference(list(events_of(facts, names)), rules)
    positions = {event_id(position): position for position in facts.position.tolist()}
    kinds = Counter[str]()
    for place, steps in decisions_of(facts, book):
        account = facts.accounts[place][0]
        id_of = ids(account, positions, book.grants, names)
        told = reference.get(account, [])
        wanted = [(at, [word for one in decisions for word in words_of(one, names, id_of)]) for at, decisions in told]
        assert [(at, words.tolist()) for at, words in steps] == wanted
        kinds.update(one.stored_name for _, decisions in told for one in decisions)
    assert len(kinds) > 10


@pytest.mark.parametrize("unfunded", UNFUNDED)
def test_both_executors_find_the_same_of_what_was_paid_and_can_not_be_any_more(unfunded: str) -> None:
    names = Names()
    facts = facts_of(chunks(History(31, 400)), names)
    question = Question(rules_of("every"), rules_of("L2"), unfunded=unfunded)
    domain, _, _ = reference(starmap(Recorded, events_of(facts, names)), question)
    own = Names()
    own.take_over(names)
    columns = partial_of([facts], [], question, own)
    assert {key: value for key, value in columns.sums.items() if value} == {
        key: value for key, value in domain.sums.items() if value
    }
    assert columns.digests == domain.digests
    assert columns.sums["unfunded",] > 10
