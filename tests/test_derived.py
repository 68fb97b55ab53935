"""Rows of read models are what the log gives, or `audit verify` tells which are not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.postgres import run_sql
from typer.testing import CliRunner

import tallybook
from tallybook import Book
from tallybook.adapters import derived
from tallybook.cli import app

LINES = [{"sku": "a", "category": "c", "quantity": 1, "net_minor": 5000}]


def fill(book: Book) -> None:
    with book.acting("agent:lin", purpose="support"):
        book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
        for number in range(7):
            customer = book.customers.register(name=f"Customer {number}")
            book.loyalty.enrol(customer)
            book.customers.record_purchase(customer, LINES)
        assert book.tiers.counts()


def test_untouched_rows_are_what_the_log_gives(book_url: str) -> None:
    with tallybook.open(book_url) as book:
        assert book.audit.verify_read_models() != []
        fill(book)
        found = book.audit.verify_read_models()
        assert [(one.name, one.position, one.problem) for one in found] == [
            (name, book.position(), None) for name in ("profiles", "tiers", "trail")
        ]
        assert all(one.holds and one.rows >= 7 for one in found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE profiles__{0} SET profile=x'95' WHERE customer=(SELECT MIN(customer) FROM profiles__{0})", "another"),
        ("DELETE FROM tier_memberships__{0} WHERE from_position=(SELECT MAX(from_position) FROM tier_memberships__{0})",
         "rows, and the log gives"),
        ("UPDATE trail__{0} SET position=position+1000", "none such"),
        ("UPDATE trail__{0} SET actor='agent:max' WHERE position=3", "another"),
        ("UPDATE trail__{0} SET actor=CAST(actor AS BLOB) WHERE position=3", "another"),
    ],
)  # fmt: skip
def test_an_altered_row_is_told_and_mended(
    tmp_path: Path, change: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "PAGE", 3)
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book:
        fill(book)
    table = change.split("__")[0].split()[-1]
    with closing(sqlite3.connect(path)) as raw, raw:
        [(name,)] = raw.execute("SELECT name FROM sqlite_master WHERE type='table' AND name LIKE ?", [f"{table}%"])
        assert raw.execute(change.format(name.rpartition("__")[2])).rowcount > 0
    ran = CliRunner().invoke(app, ["audit", "verify", "--book", f"sqlite:///{path}"])
    assert ran.exit_code == 1
    assert "NOT VERIFIED" in ran.output
    with tallybook.open(f"sqlite:///{path}") as book:
        [problem] = [one.problem for one in book.audit.verify_read_models() if one.problem]
        assert says in problem
        assert all(one.holds for one in book.audit.verify()), "the log itself is sound"
        book.projections.rebuild()
        assert all(one.holds for one in book.audit.verify_read_models())
    assert CliRunner().invoke(app, ["audit", "verify", "--book", f"sqlite:///{path}", "--json"]).exit_code == 0


def test_the_same_on_a_server(server_book_url: str) -> None:
    schema = server_book_url.partition("schema=")[2]
    with tallybook.open(server_book_url) as book:
        fill(book)
        assert all(one.holds for one in book.audit.verify_read_models())
        [number] = [one.number for one in book._core.store.builds() if one.name == "trail"]
        run_sql(f"UPDATE {schema}.trail__{number} SET actor='agent:max' WHERE position=3")
        assert [one.name for one in book.audit.verify_read_models() if not one.holds] == ["trail"]


def test_what_moves_on_all_the_while_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        fill(book)
        monkeypatch.setattr(derived, "TRIES", 0)
        with pytest.raises(tallybook.Refused) as refused:
            book.audit.verify_read_models()
        assert refused.value.code == "busy"
