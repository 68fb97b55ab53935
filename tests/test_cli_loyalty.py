"""`tallybook loyalty`, and `show account --explain`: what people and machines read."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest
from tests.domain.conftest import rule_set
from typer.testing import CliRunner, Result

import tallybook
from tallybook import cli

Run = Callable[..., Result]
ADA = UUID(int=7)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A book with one member who bought, spent, and bought again, told late."""
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="sales"):
        book.rules.adopt(rule_set(expiry={"never": True}), effective_at="2024-01-01T00:00:00Z")
        book.customers.register(customer_id=ADA, identifiers={"crm": "C-7"}, effective_at="2024-01-01T00:00:00Z")
        book.loyalty.enrol(ADA, effective_at="2024-01-01T00:00:00Z")
        for minor, day in ((15_000, "2024-01-10"), (4_000, "2024-03-01"), (3_000, "2024-02-01")):
            line = {"sku": "cd", "quantity": 1, "net_minor": minor}
            book.customers.record_purchase(ADA, [line], effective_at=f"{day}T10:00:00Z")
        book.loyalty.redeem(ADA, 40, reward="mug", effective_at="2024-03-02T10:00:00Z")
    return url


@pytest.fixture
def run(url: str) -> Run:
    def run(*words: str, status: int = 0) -> Result:
        who = ["--book", url, "--actor", "agent:lin", "--purpose", "sales"]
        answer = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [*words, *who])
        assert answer.exit_code == status, (answer.output, answer.exception)
        return answer

    return run


def told(answer: Result) -> Any:
    return json.loads(answer.stdout)


def test_a_statement_is_a_table_with_opening_and_closing_balances(run: Run) -> None:
    text = run(
        "loyalty", "statement", str(ADA), "--from", "2024-03-01", "--to", "2024-03-31", "--order", "effective"
    ).stdout  # fmt: skip
    assert "by when it took effect" in text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert rows[0] == ["", "", "opening", "", "", "180", "0", "0", "0", ""]
    assert [row[2:7] for row in rows[1:3]] == [
        ["points earned: base", "40", "", "220", "0"], ["points redeemed: mug", "", "40", "180", "0"]
    ]  # fmt: skip
    assert rows[3] == ["", "", "closing", "", "", "180", "0", "0", "0", ""]
    assert ["spent", "0", "40", "+40"] in rows


def test_a_statement_for_machines_is_json_or_csv(run: Run) -> None:
    found = told(run("loyalty", "statement", "crm:C-7", "--json"))
    assert (found["order"], found["closing"]["active"], found["lines"][0]["points_in"]) == ("recorded", 180, 150)
    by_account = told(run("loyalty", "statement", found["account_id"], "--to", found["end"], "--json"))
    assert by_account["lines"] == found["lines"]
    rows = list(csv.DictReader(io.StringIO(run("loyalty", "statement", str(ADA), "--csv").stdout)))
    assert [row["line"] for row in rows] == ["opening", *["movement"] * 4, "closing"]
    assert [row["active"] for row in rows] == ["0", "150", "190", "220", "180", "180"]


def test_an_account_is_shown_with_why_each_decision_fell(run: Run) -> None:
    text = run("show", "account", str(ADA), "--explain").stdout
    for part in (
        "rule set: standard@1, sha256 ",
        "fact: customer.purchase_recorded of 2024-02-01T10:00:00Z",
        "base: uncapped: floor(1 × 3000 / 100) = 30",
        "this is a correction",
        "from active to spent",
    ):
        assert part in text
    plain, explained = (told(run("show", "account", str(ADA), *more, "--json")) for more in ([], ["--explain"]))
    decisions = explained.pop("decisions")
    assert plain == explained
    assert all(one["agrees"] for one in decisions)
    early = told(run("show", "account", str(ADA), "--explain", "--as-of", "2024-01-31", "--json"))["decisions"]
    assert early == [one for one in decisions if one["effective_at"] < "2024-02"]
    assert told(run("loyalty", "explain", decisions[-1]["decision_id"], "--json")) == decisions[-1]


def test_an_explanation_that_does_not_give_what_was_recorded_ends_with_1(run: Run, tmp_path: Path) -> None:
    [*_, paid] = told(run("show", "account", str(ADA), "--explain", "--json"))["decisions"]
    assert paid["kind"] == "loyalty.points_redeemed"
    with sqlite3.connect(tmp_path / "shop.book") as connection:
        where = "position=?"
        [(state,)] = connection.execute(f"SELECT state FROM stored_events WHERE {where}", [paid["position"]]).fetchall()
        stored = msgpack.unpackb(state)
        assert stored.count(40) == 1
        stored[stored.index(40)] = 41
        connection.execute(f"UPDATE stored_events SET state=? WHERE {where}", [msgpack.packb(stored), paid["position"]])
    connection.close()
    answer = run("loyalty", "explain", paid["decision_id"], status=1)
    assert "This arithmetic does not give what was recorded." in answer.stdout


def test_the_liability_is_told_after_an_estimate_and_a_given_price(run: Run) -> None:
    inputs = ["--source", "actuary", "--reason", "year-end", "--at", "2024-03-31T00:00:00Z"]
    estimate = told(run("loyalty", "estimate", "200", *inputs, "--json"))["fact_id"]
    run("loyalty", "allocate", "5000", *inputs)
    found = told(run("loyalty", "liability", "--at", "2024-12-31", "--since", "2024-03-01", "--json"))
    assert (found["issued"], found["redeemed"], found["expected"]) == (220, 40, 200)
    assert (found["estimate"]["fact_id"], found["estimate"]["issued"]) == (estimate, 220)
    assert (found["recognised_minor"], found["liability_minor"]) == (1_000, 4_000)
    assert found["recognised_in_period_minor"] == 1_000
    text = run("loyalty", "liability", "--at", "2024-12-31", "--since", "2024-03-01").stdout
    for part in ("recognised: half_up(5000 × 40 / 200) = 1,000", "Estimate: 200 of 220 points", "Given: 5,000"):
        assert part in text


@pytest.mark.parametrize(
    "words",
    [
        ["loyalty", "statement", str(ADA), "--order", "alphabetical"],
        ["loyalty", "statement", str(UUID(int=9))],
        ["loyalty", "explain", str(UUID(int=9))],
        ["loyalty", "estimate", "9", "--issued", "8", "--source", "x", "--reason", "y"],
        ["loyalty", "liability", "--programme", "another"],
    ],
)
def test_wrong_use_ends_with_2_or_is_refused(run: Run, url: str, words: list[str]) -> None:
    answer = CliRunner().invoke(cli.app, [*words, "--book", url, "--actor", "agent:lin", "--purpose", "sales"])
    assert answer.exit_code == 2 or isinstance(answer.exception, tallybook.Refused)


def test_a_coupon_is_given_by_hand_and_what_can_not_be_given_is_told(run: Run, url: str) -> None:
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="sales"):
        rewards = [{"id": "pen", "price": 5, "coupon_days": 9}]
        rules = rule_set(version="2", expiry={"never": True}, rewards=rewards)
        book.rules.adopt(rules, effective_at="2024-04-01T00:00:00Z")
    words = ("loyalty", "issue-coupon", "crm:C-7", "pen", "--reason", "goodwill", "--code", "SORRY-1")
    found = told(run(*words, "--json"))
    shown = told(run("show", "account", str(ADA), "--json"))
    assert [one["coupon_id"] for one in shown["coupons"]] == [found["coupon_id"]]
    assert "[code_taken]" in str(run(*words, status=1).exception)
    assert "Coupon " in run(*words[:4], "--reason", "goodwill").stdout
    unknown = run("loyalty", "issue-coupon", str(ADA), "mug", "--reason", "x", status=1)
    assert "[unknown_reward]" in str(unknown.exception)
    assert "reason: a code is wanted" in str(run(*words[:4], "--reason", "so sorry", status=1).exception)


def test_what_was_asked_for_wrongly_is_named(run: Run) -> None:
    liability = ("loyalty", "liability", "--since", "2024-01-01", "--reported-at", "never")
    assert str(run(*liability, status=1).exception).startswith("reported_at: ")
