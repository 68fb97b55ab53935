"""`tallybook synth`: a book filled with a made-up history is one like any other, and the same for the same seed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import tallybook
from tallybook import BookError, Refused, RuleSet, RuleSetError, synthesis
from tallybook.adapters.rule_files import load_rule_set
from tallybook.domain.customer import KeyCreated
from tallybook.domain.events import Fact
from tallybook.domain.points import (
    CouponClosed,
    EarningReversed,
    LoyaltyDecision,
    RedemptionRefused,
    RedemptionReversed,
)

from .test_cli import Run, run

__all__ = ["run"]  # a fixture

CUSTOMERS = 150


def generous() -> RuleSet:
    """A rule set under which each kind of loyalty fact can come up."""
    document = json.loads(load_rule_set("stars").canonical())
    document["name"] = "generous"
    document["transfers"] = {"allowed": True}
    document["pending"] = {"days": 5, "confirmed": True}
    document["earning"] += [
        {"id": "visit", "kind": "fixed", "on": "activity", "points": 5},
        {
            "id": "brought",
            "kind": "fixed",
            "on": "referral",
            "points": 50,
            "when": 'referral.occasion == "first_purchase"',
        },
    ]
    return RuleSet.model_validate(document)


def url(path: Path) -> str:
    return f"sqlite:///{path}/made.book"


def told(path: str) -> list[Any]:
    """All events of customers: what they say in the clear, their ids and times."""
    found = []
    with tallybook.open(path) as book:
        for _, event in book.follow(timeout_s=0):
            if event.subject_id is None or isinstance(event, KeyCreated):
                continue
            values = {name: getattr(event, name) for name in type(event).clear_fields}
            found.append(
                (
                    event.stored_name,
                    event.originator_id,
                    event.originator_version,
                    event.event_id,
                    event.effective_us,
                    event.metadata.recorded_us,
                    event.metadata.channel,
                    values,
                )
            )
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A book under two rule sets, one after the other."""
    path = url(tmp_path_factory.mktemp("filled"))
    return path, tallybook.synth(path, customers=CUSTOMERS, seed=5, events=6000, rules=["standard", generous()])


def test_a_filled_book_passes_every_check(filled: tuple[str, Any]) -> None:
    path, report = filled
    with tallybook.open(path) as book:
        certificate = book.replay()
        assert certificate.holds, certificate.first
        assert certificate.pending == 0
        assert all(check.holds for check in book.audit.verify())
        assert [finding for finding in book.doctor() if finding.state == "failed"] == []
        assert book.position() == report.events
        assert [one.label for one in book.rules.adopted()] == ["standard@1", "generous@1"]
        assert book.rules.adopted()[1].effective_at.startswith("2022-07-01")


def test_every_kind_of_loyalty_fact_is_in_the_book(filled: tuple[str, Any]) -> None:
    path, report = filled
    with tallybook.open(path) as book:
        events = [one.event for one in book.follow(timeout_s=0)]
    seen = Counter(event.stored_name for event in events)
    wanted = {name for name in report.by_kind if name.startswith("loyalty.")}
    assert {name for name in wanted if not seen[name]} == set()
    kinds = {type(event) for event in events}
    assert {CouponClosed, EarningReversed, RedemptionRefused, RedemptionReversed} <= kinds
    assert (
        sum(isinstance(event, LoyaltyDecision) for event in events)
        > sum(isinstance(event, Fact) for event in events) / 4
    )


def test_what_is_left_out_is_counted_by_why(filled: tuple[str, Any]) -> None:
    _, report = filled
    assert sum(report.left_out.values()) < report.facts / 20
    assert report.recorded == report.facts == sum(report.by_kind.values())


def test_the_log_goes_by_the_times_at_which_facts_became_known(filled: tuple[str, Any]) -> None:
    path, _ = filled
    with tallybook.open(path) as book:
        times = [event.metadata.recorded_us for _, event in book.follow(timeout_s=0)]
        late = [
            event
            for _, event in book.follow(names=["customer.purchase_recorded"], timeout_s=0)
            if event.metadata.recorded_us - event.effective_us > 86_400_000_000
        ]
    assert times == sorted(times)
    assert late


def test_no_personal_value_lies_in_the_clear(filled: tuple[str, Any]) -> None:
    path, _ = filled
    content = Path(path.removeprefix("sqlite:///")).read_bytes()
    assert b"Bauer" not in content
    assert b"S00000001" not in content
    with tallybook.open(path) as book, book.acting("agent:lin", purpose="support"):
        somebody = book.customers.find("synth", "S00000001")
        assert somebody is not None
        assert str(book.profiles.get(somebody)["name"])


def test_the_same_seed_fills_the_same_book(filled: tuple[str, Any], tmp_path: Path) -> None:
    path, report = filled
    again = tallybook.synth(url(tmp_path), customers=CUSTOMERS, seed=5, events=6000, rules=["standard", generous()])
    assert again.digest == report.digest
    assert again.left_out == report.left_out
    assert told(url(tmp_path)) == told(path)


def test_filling_again_records_nothing(book_url: str) -> None:
    first = tallybook.synth(book_url, customers=20, rules=["retail"])
    again = tallybook.synth(book_url, customers=20, rules=["retail"])
    assert (again.recorded, again.events, again.left_out) == (0, first.events, first.left_out)
    with tallybook.open(book_url) as book:
        assert book.replay().holds
        assert all(check.holds for check in book.audit.verify())


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 7, 30, 31, 32])
def test_what_is_cut_short_goes_on_as_if_it_had_not_been(
    filled: tuple[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    path, report = filled
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise Stop

    given: dict[str, Any] = {"customers": CUSTOMERS, "seed": 5, "events": 6000, "rules": ["standard", generous()]}
    with pytest.raises(Stop):
        tallybook.synth(url(tmp_path), progress=stop, **given)
    rest = tallybook.synth(url(tmp_path), **given)
    assert 0 < rest.recorded < rest.facts
    assert rest.left_out == report.left_out
    assert told(url(tmp_path)) == told(path)


KILLED = """
import os, signal, sys
import tallybook
from tallybook.adapters.log import LogRecorder

append, commits = LogRecorder.append, 0

def counted(self, *args, **kwargs):
    global commits
    commits += 1
    if commits == int(sys.argv[2]) and sys.argv[3] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    found = append(self, *args, **kwargs)
    if commits == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return found

LogRecorder.append = counted
tallybook.synth(sys.argv[1], customers=60, seed=5)
"""


def test_killed_at_a_commit_it_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    tallybook.synth(url(whole), customers=60, seed=5)
    expected = told(url(whole))
    for number, (commit, when) in enumerate([(2, "before"), (9, "after"), (64, "before"), (121, "after")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, url(folder), str(commit), when], capture_output=True, check=False
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        tallybook.synth(url(folder), customers=60, seed=5)
        assert told(url(folder)) == expected, (commit, when)


def test_a_book_with_other_data_is_left_alone(tmp_path: Path) -> None:
    with tallybook.open(url(tmp_path)) as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name="Ada")
        before = book.position()
    with pytest.raises(BookError, match="something else"):
        tallybook.synth(url(tmp_path), customers=20)
    with tallybook.open(url(tmp_path)) as book:
        assert book.position() == before


def test_another_history_does_not_go_on_with_one(tmp_path: Path) -> None:
    tallybook.synth(url(tmp_path), customers=20)
    others: tuple[dict[str, Any], ...] = (
        {"customers": 21},
        {"customers": 20, "seed": 2},
        {"customers": 20, "rules": ["candidate"]},
    )
    for other in others:
        with pytest.raises(BookError, match="another history"):
            tallybook.synth(url(tmp_path), **other)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"customers": 0}, "customers"),
        ({"customers": 20, "events": 3}, "events"),
        ({"customers": 20, "years": -1}, "years"),
        ({"customers": 20, "rules": []}, "rules"),
        ({"customers": 20, "rules": ["standard", "standard"]}, "standard@1"),
    ],
)
def test_bad_sizes_are_refused_before_a_book_is_made(tmp_path: Path, given: dict[str, Any], what: str) -> None:
    with pytest.raises(Refused, match=what):
        tallybook.synth(url(tmp_path), **given)
    assert not os.listdir(tmp_path)


def test_an_unknown_rule_set_is_named_before_a_book_is_made(tmp_path: Path) -> None:
    with pytest.raises(RuleSetError, match="nosuch"):
        tallybook.synth(url(tmp_path), customers=20, rules=["nosuch"])
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("rules", ["stars", "miles", "retail", "growth"])
def test_every_rule_set_that_ships_can_fill_a_book(rules: str, tmp_path: Path) -> None:
    tallybook.synth(url(tmp_path), customers=60, seed=9, rules=[rules])
    with tallybook.open(url(tmp_path)) as book:
        certificate = book.replay()
        assert certificate.holds, certificate.first


def test_months_are_held_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tallybook.synth(url(tmp_path), customers=60, seed=5)
    expected = told(url(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(synthesis, "FACTS_IN_MEMORY", 100)
    tallybook.synth(url(other), customers=60, seed=5)
    assert told(url(other)) == expected


def test_progress_goes_up_to_all_facts() -> None:
    seen: list[tuple[int, int]] = []
    report = tallybook.synth("memory:", customers=40, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (report.facts, report.facts)
    assert seen == sorted(seen)


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_fills_a_book_and_says_what_it_did(run: Run, tmp_path: Path) -> None:
    given = ["synth", url(tmp_path), "--customers", 30, "--events", 600, "--seed", 4, "--years", 2]
    given += ["--rules", "standard", "--rules", "candidate"]
    report = run(*given, "--json").json
    assert (report["seed"], report["customers"], report["years"]) == (4, 30, 2)
    assert report["rule_sets"] == ["standard@1", load_rule_set("candidate").label]
    assert report["recorded"] == report["facts"] == sum(report["by_kind"].values())
    assert len(report["digest"]) == 64
    again = run(*given)
    assert again.status == 0
    assert "Nothing new" in again.out
    assert report["digest"] in again.out
    assert "customer.purchase_recorded" in again.out
    assert run("replay", "--book", url(tmp_path)).status == 0


def test_the_command_tells_of_a_wrong_use(run: Run, tmp_path: Path) -> None:
    none = run("synth", url(tmp_path), "--customers", 0)
    assert (none.status, "customers" in none.err) == (2, True)
    unknown = run("synth", url(tmp_path), "--customers", 20, "--rules", "nosuch")
    assert (unknown.status, "the rule sets that ship" in unknown.err) == (2, True)
    assert run("synth", url(tmp_path), "--customers", 20).status == 0
    other = run("synth", url(tmp_path), "--customers", 21)
    assert (other.status, "Name a book that is not there yet" in other.err) == (2, True)
