"""`tallybook loyalty`, of whole programmes: what it shows, and that its JSON is what Python gives."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.programme_life import Life

from tallybook import Book, cli
from tallybook.terminal import in_json


class Answer(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("life")
    found = Life(f"sqlite:///{folder}/shop.book")
    found.live([("buy", n % 6, 4, 40 + 9 * n) for n in range(60)])
    found.live([("visit", 0, 1, 1), ("hold", 1, 1, 10), ("tea", 2, 1, 1), ("redeem", 3, 1, 1), ("sweep", 0, 1, 1)])
    yield found
    found.close()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], life: Life) -> Run:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Answer:
        book = [] if "--book" in arguments else ["--book", life.url]
        monkeypatch.setattr(sys, "argv", ["tallybook", "loyalty", *map(str, arguments), *book])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        captured = capsys.readouterr()
        return Answer(int(stop.value.code or 0), captured.out, captured.err)

    return call


DAYS = ("--since", "2024-03-01", "--until", "2024-06-30")
RATES = ("--margin", "0.35", "--point-cost", "3/2")
THEN = "2024-08-01T00:00:00Z"
QUESTIONS: dict[str, tuple[tuple[str, ...], Callable[[Book], Any], tuple[str, ...]]] = {
    "balances": (("--as-of", THEN), lambda book: book.loyalty.balances(as_of=THEN), ("earned", "swept until")),
    "outstanding": (
        ("--as-of", THEN),
        lambda book: book.loyalty.outstanding(as_of=THEN),
        ("by month in Europe/Berlin", "silver"),
    ),
    "figures": (
        (*DAYS, *RATES),
        lambda book: book.loyalty.programme_figures("2024-03-01", "2024-06-30", margin="0.35", point_cost="3/2"),
        ("retention (from 2023-11-01)", "members' share of net", "cost of redeemed points (3/2)", "EUR", "(few)"),
    ),
    "campaign": (
        ("spring", *RATES),
        lambda book: book.loyalty.campaign_effect("spring", margin="0.35", point_cost="3/2"),
        ("control (50 %)", "Net for each account: ", "margin less the cost of points"),
    ),
    "rewards": (
        DAYS,
        lambda book: book.loyalty.reward_popularity("2024-03-01", "2024-06-30"),
        ("mug", "from 2024-03-01 to 2024-06-30"),
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_json_is_what_python_gives_and_people_see_tables(run: Run, life: Life, name: str) -> None:
    arguments, ask, words = QUESTIONS[name]
    found = run(name, *arguments, "--json")
    assert found.status == 0, found.err
    assert found.json == json.loads(in_json(ask(life.book)))
    told = run(name, *arguments)
    assert told.status == 0, told.err
    assert [word for word in words if word not in told.out] == []


def test_who_loses_points_is_told_and_who_is_left_out(run: Run, life: Life) -> None:
    asked = ("expiring", "--until", "2024-10-31", "--as-of", THEN)
    found = run(*asked, "--json").json
    told = life.book.loyalty.expiring("2024-10-31", as_of=THEN)
    assert (found["points"], found["until"], found["by_day"]) == (told.points, told.until, dict(told.by_day))
    assert [one["customer_id"] for one in found["customers"]] == [str(one.customer_id) for one in told]
    assert len(told) > 3
    first = told[0].customer_id
    life.book.customers.restrict(first, reason="accuracy", effective_at="2024-07-01T00:00:00Z")
    without = run(*asked)
    assert str(first) not in without.out
    assert "1 customers whose data is restricted" in without.out
    assert str(first) in run(*asked, "--everybody").out
    assert run(*asked, "--json").json["restricted"] == 1
    life.book.customers.lift_restriction(first, reason="settled", effective_at="2024-07-02T00:00:00Z")


def test_a_customer_s_standing(run: Run, life: Life) -> None:
    customer = life.customers[2]
    found = run("standing", customer, "--json").json
    wanted = dataclasses.asdict(life.book.tiers.standing(customer))
    assert found == json.loads(in_json(wanted))
    told = run("standing", customer, "--as-of", THEN).out
    assert "member since 2024-01-01T02:00:00Z" in told
    assert "enrolled" in told
    nobody = run("standing", customer, "--programme", "none")
    assert (nobody.status, "not_enrolled" in nobody.err) == (2, True)


def test_points_that_are_over_and_not_recorded_are_told(run: Run, tmp_path: Path) -> None:
    young = Life(f"sqlite:///{tmp_path}/shop.book")
    young.step("buy", 0, 1, 50)
    young.close()
    told = run("outstanding", "--book", young.url)
    assert "100 more are over, and no sweep has recorded it yet" in told.out
    campaign = run("campaign", "spring", "--book", young.url)
    assert "No control group was drawn, or nobody is in it" in campaign.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("figures", "--since", "2024-02-30", "--until", "2024-03-01"), "invalid_argument"),
        (("figures", "--since", "2024-02-01", "--until", "2024-03-01", "--margin", "much"), "invalid_argument"),
        (("figures", "--since", "2024-02-01", "--until", "2024-03-01", "--point-cost", "1/0"), "invalid_argument"),
        (("campaign", "spring", "--point-cost", "3/2"), "invalid_argument"),
        (("campaign", "autumn"), "invalid_argument"),
        (("balances", "--programme", "none"), "no_rule_set"),
        (("expiring", "--until", "2024-02-01T00:00:00"), "naive_time"),
    ],
)
def test_a_wrong_question_says_what_is_wrong(run: Run, arguments: tuple[str, ...], code: str) -> None:
    found = run(*arguments, "--json")
    assert (found.status, found.out) == (2, "")
    assert json.loads(found.err)["error"]["code"] == code
