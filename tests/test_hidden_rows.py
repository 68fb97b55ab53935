"""Streams are read by an index, and a log is verified by position: rows that the index does not lead to are missed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import tallybook
from tallybook import Book, BookDamaged
from tallybook.domain.errors import Refused

from .conftest import STANDARD
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


def seen_by_a_clerk(book: Book, ada: Any) -> Any:
    with book.acting("clerk:9", purpose="administration"):
        return book.profiles.get(ada)["name"]


def problems(book: Book) -> list[str]:
    return [f"{one.log}: {one.problem}" for one in book.audit.verify() if one.problem]


@pytest.mark.parametrize("instead", [[], ["originator_id=zeroblob(16)"]])
def test_rows_that_the_index_of_a_log_lacks_are_missed(tmp_path: Path, instead: list[str]) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book:
        ada = ruled(book)
        assert problems(book) == []
    hide(path, "stored_events", f"originator_id=x'{ada.hex}'", *instead)
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


OF_POLICY = "topic>='policy.' AND topic<'policy/'"
RULES = "by which the book rules itself"


@pytest.mark.parametrize(
    ("which", "instead"),
    [
        (OF_POLICY, []),
        (OF_POLICY, ["originator_id=zeroblob(16)"]),
        ("topic='policy.adopted'", []),
        # The last one, which adopts, is read as the first one.
        (OF_POLICY, ["originator_version=-originator_version", "originator_version=3+originator_version"]),
    ],
)
def test_no_policy_is_switched_off_by_an_index_that_lacks_it(tmp_path: Path, which: str, instead: list[str]) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book:
        ada = ruled(book)
        with pytest.raises(Refused, match="does not allow"):
            seen_by_a_clerk(book, ada)
    hide(path, "stored_events", which, *instead)
    with tallybook.open(f"sqlite:///{path}") as book:
        for _ in range(2):
            with pytest.raises(BookDamaged, match=RULES):
                seen_by_a_clerk(book, ada)
        assert "the index by which streams are read" in problems(book)[0]
    assert "failed" in {one.state for one in tallybook.doctor(f"sqlite:///{path}")}


def test_nor_under_an_open_book(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book:
        ada = ruled(book)
        hide(path, "stored_events", OF_POLICY)
        for _ in range(2):
            with pytest.raises(BookDamaged, match=RULES):
                seen_by_a_clerk(book, ada)


@pytest.mark.server
def test_nor_on_a_server(server_book_url: str) -> None:
    schema = server_book_url.rpartition("schema=")[2].partition("&")[0]
    with tallybook.open(server_book_url) as book:
        ada = ruled(book)
    hide_on_server(schema, "stored_events", OF_POLICY)
    run_sql("ALTER DATABASE postgres SET enable_seqscan=off")
    try:
        with tallybook.open(server_book_url) as book, pytest.raises(BookDamaged, match=RULES):
            seen_by_a_clerk(book, ada)
    finally:
        run_sql("ALTER DATABASE postgres RESET enable_seqscan")


def test_a_head_that_counts_other_events_of_its_own_is_none_of_the_book_s(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book:
        ruled(book)
        for own in ("x''", "x'950000000000'", "x'00'", "x'c1'"):
            run(path, f"UPDATE head SET own={own}")
            with pytest.raises(BookDamaged, match="head of stored_events"):
                book.position()


@pytest.mark.server
def test_doctor_tells_of_claims_that_an_index_hides(server_book_url: str) -> None:
    schema = server_book_url.rpartition("schema=")[2].partition("&")[0]
    with tallybook.open(server_book_url) as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name="Ada", identifiers={"crm": "1"})
        hide_on_server(schema, "claims", "true", key="claim")
        assert [one.name for one in book.doctor() if one.state == "failed"] == ["claims"]


def test_an_account_that_its_index_lacks_is_missed_as_is_an_index_of_other_accounts(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    index = "stored_events__enrolled"
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("till:1", purpose="fulfilment"):
        book.rules.adopt(STANDARD)
        book.loyalty.enrol(book.customers.register(name="Ada"))
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        [(made,)] = raw.execute("SELECT sql FROM sqlite_master WHERE name=?", [index])
        raw.execute("CREATE TABLE twin (originator_id, topic)")
        raw.execute("CREATE INDEX empty ON twin (originator_id, topic)")
        pages = dict(raw.execute("SELECT name, rootpage FROM sqlite_master WHERE name IN (?, 'empty')", [index]))
        raw.execute("PRAGMA writable_schema=ON")
        raw.execute("UPDATE sqlite_master SET rootpage=? WHERE name=?", (pages["empty"], index))
        raw.execute("UPDATE sqlite_master SET rootpage=? WHERE name='empty'", (pages[index],))
    with tallybook.open(f"sqlite:///{path}") as book:
        assert problems(book) == ["events: its rows are sound, and the index of accounts leads to 0 of 1"]
    run(path, f"DROP INDEX {index}")
    run(path, made.replace("loyalty.enrolled", "loyalty.closed"))
    with tallybook.open(f"sqlite:///{path}") as book:
        assert repr(index) in problems(book)[0]
    run(path, f"DROP INDEX {index}")
    with tallybook.open(f"sqlite:///{path}") as book:
        assert "has no index over originator_id, topic any more" in problems(book)[0]
    run(path, made)
    with tallybook.open(f"sqlite:///{path}") as book:
        assert problems(book) == []


@pytest.mark.server
def test_so_it_is_on_a_server(server_book_url: str) -> None:
    schema = server_book_url.rpartition("schema=")[2].partition("&")[0]
    index = f"{schema}.stored_events__enrolled"
    with tallybook.open(server_book_url) as book, book.acting("till:1", purpose="fulfilment"):
        book.rules.adopt(STANDARD)
        book.loyalty.enrol(book.customers.register(name="Ada"))
        assert problems(book) == []
        run_sql(f"DROP INDEX {index}")
        run_sql(
            f"CREATE INDEX stored_events__enrolled ON {schema}.stored_events (originator_id, topic) WHERE topic='none'"
        )
        assert "stored_events__enrolled" in problems(book)[0]
