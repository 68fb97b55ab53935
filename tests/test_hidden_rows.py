"""Streams are read by an index, and a log is verified by position: rows that the index does not lead to are missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tallybook
from tallybook import Book

from .hidden import hide, hide_on_server
from .postgres import run_sql
from .test_unsigned_tail import run

POLICY = {
    "name": "p",
    "version": "1",
    "purposes": {"administration": {"text": "All", "basis": "legitimate_interests", "during_restriction": True}},
    "rules": [{"id": "all", "roles": ["admin"], "fields": ["*"], "commands": ["*"]}],
}


def ruled(book: Book) -> Any:
    """A customer in a book with a policy by which one role sees everything, and nobody else anything."""
    with book.acting("admin:root", purpose="administration"):
        book.policy.grant("admin:root", "admin")
        ada = book.customers.register(name="Ada Lovelace")
        book.policy.adopt(POLICY)
    return ada


def problems(book: Book) -> list[str]:
    return [f"{one.log}: {one.problem}" for one in book.audit.verify() if one.problem]


@pytest.mark.parametrize("instead", ["", "zeroblob(16)"])
def test_rows_that_the_index_of_a_log_lacks_are_missed(tmp_path: Path, instead: str) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book:
        ada = ruled(book)
        assert problems(book) == []
    hide(path, "stored_events", f"originator_id=x'{ada.hex}'", instead=instead)
    with tallybook.open(f"sqlite:///{path}") as book:
        [problem] = problems(book)
        assert problem.startswith("events: its rows are sound, and the index by which streams are read")
        assert problem.endswith("does not find the event at position 2")
        assert {one.name for one in book.doctor() if one.state == "failed"} >= {"pages", "root"}


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("CREATE INDEX mine ON stored_events (originator_id)", "'mine'"),
        ("CREATE INDEX mine ON stored_events (topic) WHERE topic='x'", "'mine'"),
    ],
)
def test_an_index_that_the_book_never_made_is_told(tmp_path: Path, statement: str, told: str) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book:
        ruled(book)
        run(path, statement)
        assert told in problems(book)[0]
        run(path, "DROP INDEX mine")
        assert problems(book) == []


@pytest.mark.server
def test_so_they_are_on_a_server(server_book_url: str) -> None:
    schema = server_book_url.rpartition("schema=")[2].partition("&")[0]
    with tallybook.open(server_book_url) as book:
        ada = ruled(book)
        assert problems(book) == []
        run_sql(f"CREATE INDEX mine ON {schema}.stored_events (originator_id)")
        assert "'mine'" in problems(book)[0]
        run_sql(f"DROP INDEX {schema}.mine")
        hide_on_server(schema, "stored_events", f"originator_id='\\x{ada.hex}'::bytea")
        assert problems(book) == [
            "events: its rows are sound, and the index by which streams are read does not lead to them: who reads its "
            "stream does not find the event at position 2"
        ]
        assert "root" in {one.name for one in book.doctor() if one.state == "failed"}
