"""Many candidates on the same history: both executors find the same; files say what is varied."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import tallybook
from tallybook import Book
from tallybook.adapters.sweep_files import load_candidates
from tallybook.domain.errors import Refused, RuleSetError
from tallybook.projections.sweep import Sweep

GRID = """
candidate = "candidate"
budget = 1000

[grid]
"expiry.months" = [6, 18]
"earning.base.points" = [1, 2]
"tiers.levels.gold.threshold" = [200, 300, 900]
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    url = f"sqlite:///{tmp_path_factory.mktemp('sweep')}/shop.book"
    tallybook.synth(url, customers=60, seed=5)
    with tallybook.open(url) as one:
        yield one


def written(folder: Path, text: str = GRID) -> Path:
    file = folder / "sweep.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_both_executors_find_the_same(book: Book, tmp_path: Path) -> None:
    file = written(tmp_path)
    questions: list[dict[str, Any]] = [
        {},
        {"unfunded": "clamp", "since": "2023-01-01T00:00:00Z"},
        {"order": "hindsight"},
    ]
    for asked in questions:
        found = [book.backtest_sweep(file, executor=one, **asked) for one in ("columnar", "reference")]
        assert [one.executor for one in found] == ["columnar", "reference"]
        assert found[0].scenarios == found[1].scenarios
        assert found[0].digest() == found[1].digest()
        assert len(found[0].scenarios) == 12


def test_a_scenario_is_what_a_backtest_of_it_says(book: Book, tmp_path: Path) -> None:
    file = written(tmp_path)
    sweep = book.backtest_sweep(file, executor="reference")
    for scenario, (name, rule_set) in list(zip(sweep.scenarios, load_candidates(file).scenarios, strict=True))[::5]:
        report = book.backtest(rule_set, executor="reference")
        assert scenario.name == name
        assert scenario.totals == report.after
        assert sweep.before == report.before
        assert (scenario.moved_up, scenario.moved_down) == (report.moved_up, report.moved_down)
        assert scenario.unfunded_redemptions == report.unfunded_redemptions
        assert scenario.cost == report.after.earned - report.before.earned
        assert scenario.liability == report.after.outstanding + report.after.pending


def test_the_efficient_ones_are_beaten_by_none(book: Book, tmp_path: Path) -> None:
    sweep: Sweep = book.backtest_sweep(written(tmp_path), executor="reference")
    aims = {one.name: (one.cost, one.liability, one.moved_down - one.moved_up) for one in sweep.scenarios}
    for one in sweep.scenarios:
        mine = aims[one.name]
        beaten = [
            n for n, other in aims.items() if other != mine and all(o <= m for o, m in zip(other, mine, strict=True))
        ]
        assert one.efficient == (not beaten)
        assert one.within_budget == (one.cost <= 1000)
    assert 0 < sum(one.efficient for one in sweep.scenarios) < 12
    assert sweep.as_dict()["digest"] == sweep.digest()


def test_rule_sets_may_be_given_as_they_are(book: Book) -> None:
    sweep = book.backtest_sweep(["candidate", "standard"], executor="reference", budget=0)
    assert [one.name for one in sweep.scenarios] == ["candidate@1", "standard@1"]
    same = sweep.scenarios[1]
    assert (same.cost, same.moved_up, same.within_budget) == (0, 0, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('candidates = "candidate"', "candidates: write a list"),
        ("", "nothing to try"),
        ("candidate = 1", "candidate"),
        ("candidat = 'x'", "candidat: there is no such key here: take it out, or correct its spelling"),
        ("[grid]\n'expiry.months' = [1]", "no candidate whose values"),
        ("candidate = 'candidate'\n[grid]\n'expiry.months' = []", "no values"),
        ("candidate = 'candidate'\n[grid]\n'expiri.months' = [1]", "no 'expiri'"),
        ("candidate = 'candidate'\n[grid]\n'earning.bose.points' = [1]", "there is base"),
        ("candidate = 'candidate'\n[grid]\n'earning.base' = [1]", "part of a list"),
        ("candidate = 'candidate'\n[grid]\n'expiry.months' = ['x']", "expiry"),
        (f"candidate = 'candidate'\n[grid]\n'expiry.months' = {list(range(1, 1002))}", "1,001 scenarios"),
        ("candidates = ['candidate', 'candidate']", "named twice"),
        ("candidates = ['candidate', 'other.toml']", "several programmes"),
        ("candidates = ['nowhere.toml']", "not there"),
        ("budget = -1\ncandidate = 'candidate'", "budget: write 0 or more"),
        ("candidate = ", "not TOML"),
    ],
)
def test_what_a_file_can_not_say_is_told(tmp_path: Path, text: str, told: str) -> None:
    standard = files("tallybook").joinpath("data", "standard.toml").read_text(encoding="utf-8")
    (tmp_path / "other.toml").write_text(
        standard.replace('programme = "main"', 'programme = "other"'), encoding="utf-8"
    )
    with pytest.raises(RuleSetError, match=told):
        load_candidates(written(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(RuleSetError, match="not there"):
        load_candidates(tmp_path / "none.toml")
    (tmp_path / "odd.toml").write_bytes(b"candidate = '\xff'")
    with pytest.raises(RuleSetError, match="UTF-8"):
        load_candidates(tmp_path / "odd.toml")


@pytest.mark.parametrize("asked", [{"unfunded": "no"}, {"order": "no"}, {"executor": "no"}])
def test_what_is_asked_wrongly_is_refused(book: Book, asked: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=next(iter(asked))):
        book.backtest_sweep(["candidate"], **asked)
    with pytest.raises(Refused, match=next(iter(asked))):
        book.backtest("candidate", **asked)


def test_no_candidates_and_those_of_several_programmes_are_refused(book: Book) -> None:
    with pytest.raises(Refused, match="none is given"):
        book.backtest_sweep([])
    standard = book.rules.rules_of("standard").rule_set
    with pytest.raises(Refused, match="several programmes"):
        book.backtest_sweep(["candidate", standard.model_copy(update={"programme": "other"})])
