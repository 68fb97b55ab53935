"""The benchmarks of replays run, at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import answers, books, passes
from tools import replay_speed


def test_scenarios_are_twenty_and_differ() -> None:
    rules = passes.scenarios()
    assert len({one.rule_set.digest() for one in rules}) == passes.SCENARIOS == len(rules)


def test_passes_out_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = tmp_path / "told.json"
    arguments = ["--facts", "30000", "--rounds", "1", "--passes", "1", "2", "-k", "L2-2", "sweep", "--json", str(told)]
    assert passes.main(arguments) == 0
    rows = json.loads(told.read_text(encoding="utf-8"))["rows"]
    assert [(one["key"], one["passes"]) for one in rows] == [("L2-2", 1), ("L2-2", 2), ("sweep", 1)]
    facts = rows[0]["count"]
    assert [one["count"] for one in rows] == [facts, 2 * facts, passes.SCENARIOS * facts]
    assert "sweep of 20 scenarios" in capsys.readouterr().out


def test_a_book_gives_the_same_answer_by_either_executor(tmp_path: Path) -> None:
    url = books.made_up(tmp_path, 20)
    for what in ("backtest", "certificate"):
        told = [answers.answer(url, what, executor, 1)["told"] for executor in ("default", "reference")]
        assert told[0] == told[1], what
    assert (
        answers.answer(url, "archive rebuild", "default", 2)["told"]
        == [answers.answer(url, "certificate", "reference", 1)["events"]] * 2
    )


def test_the_page_tells_what_was_measured() -> None:
    text = replay_speed.PAGE.read_text(encoding="utf-8")
    assert replay_speed.page(text) == text, "run `python -m tools.replay_speed`"
