"""Files whose pages stand in each other's place: what is read page by page, in the order of a key, comes to an end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import tallybook
from tallybook import Book
from tallybook.adapters import rows_check
from tallybook.adapters.database import onward
from tallybook.adapters.sqlite import SQLiteDatabase, SQLiteSession
from tallybook.domain.errors import BookDamaged


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book, book.acting("agent:ada", purpose="service"):
        for number in range(5):
            book.customers.register(name=f"customer {number}", command_id=f"command-{number}")
        book.projections.catch_up()
        yield book


def in_circles(monkeypatch: pytest.MonkeyPatch, owner: type[Any]) -> None:
    """Whatever asks for what follows a key gets the first page again."""
    real = owner.rows

    def rows(self: Any, statement: str, params: Sequence[Any] = ()) -> Any:
        values = [0, *params[1:]]
        return real(self, statement, values if "LIMIT" in statement and "position>?" in statement else params)

    monkeypatch.setattr(owner, "rows", rows)


def test_a_reading_goes_on_or_tells() -> None:
    assert onward(3, 2, "shop.book") == 3
    assert onward((b"b", 1), (b"a", 9), "shop.book") == (b"b", 1)
    for last in (2, 1):
        with pytest.raises(BookDamaged, match=r"do not stand in the order of their keys in shop.book"):
            onward(last, 2, "shop.book")


@pytest.mark.parametrize(
    "read",
    [
        lambda book: list(book._core.app.log.iterate(chunk=2)),
        lambda book: list(book._core.app.log.iterate(chunk=2, topics=["customer.registered"])),
        lambda book: list(book._core.app.scan(tallybook.domain.customer.CustomerRegistered, ["kind"], chunk=2)),
    ],
    ids=["all", "of one name", "fields"],
)
def test_the_log_is_not_read_in_a_circle(
    book: Book, read: Callable[[Book], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_circles(monkeypatch, SQLiteDatabase)
    with pytest.raises(BookDamaged, match="do not stand in the order of their keys"):
        read(book)


def test_read_models_are_not_compared_in_a_circle(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SQLiteSession.rows

    def rows(self: Any, statement: str, params: Sequence[Any] = ()) -> Any:
        circle = "ORDER BY" in statement and "WHERE (" in statement
        first = re.sub(r"WHERE \(.*?\) > \(.*?\) ", "", statement)
        return real(self, first) if circle else real(self, statement, params)

    monkeypatch.setattr(SQLiteSession, "rows", rows)
    monkeypatch.setattr(rows_check, "CHUNK", 2)
    found = {one.read_model: one.problem for one in book.audit.verify_read_models()}
    assert "do not stand in the order of their keys" in (found["profiles"] or "")


def test_the_doctor_does_not_go_in_circles(book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SQLiteDatabase.rows

    def rows(self: Any, statement: str, params: Sequence[Any] = ()) -> Any:
        return real(self, statement, [b""] if "command_id>?" in statement else params)

    book.close()
    monkeypatch.setattr(SQLiteDatabase, "rows", rows)
    told = tallybook.doctor(f"sqlite:///{tmp_path}/shop.book")
    assert any("do not stand in the order of their keys" in one.what for one in told), told
