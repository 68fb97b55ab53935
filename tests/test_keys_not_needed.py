"""What goes without keys on the command line: replays without data keys, verification without the signing key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import KeysMissing, SigningKeyMissing
from tallybook.cli import app


@pytest.fixture
def lost(book_url: str, tmp_path: Path) -> str:
    """The URL of a book whose data keys were taken away."""
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name="Ada Lovelace", identifiers={"crm": "1"})
    for one in [one for one in tmp_path.rglob("*") if one.name.endswith((".keys", ".wrapping-key"))]:
        one.rename(tmp_path / f"{one.name}.away")
    return book_url


def test_replays_and_backtests_go_by_the_command_line_without_keys(lost: str) -> None:
    run = CliRunner()
    for command in (["replay"], ["backtest", "candidate"]):
        assert isinstance(run.invoke(app, [*command, "--book", lost, "--json"]).exception, KeysMissing)
        ran = run.invoke(app, [*command, "--book", lost, "--keyless", "--json"])
        assert ran.exit_code == 0, ran.output
        assert json.loads(ran.stdout)["position"] > 0


def test_a_missing_signing_key_stops_no_verification_and_is_named(book_url: str, tmp_path: Path) -> None:
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name="Ada Lovelace")
    [key] = tmp_path.rglob("*.signing-key")
    key.rename(tmp_path / "away")
    run = CliRunner()
    ran = run.invoke(app, ["audit", "verify", "--book", book_url, "--json"])
    assert ran.exit_code == 0, ran.output
    assert "Opened without the signing key" in ran.stderr
    assert str(key) in ran.stderr
    assert json.loads(ran.stdout)[1]["unsigned_openings"] == 1
    acting = ["--actor", "auditor:ann", "--purpose", "audit"]
    for refused in (
        ["--signing-key", str(key), "audit", "verify", "--book", book_url],
        ["audit", "export", str(tmp_path / "pack"), "--book", book_url, *acting],
    ):
        assert isinstance(run.invoke(app, refused).exception, SigningKeyMissing)
