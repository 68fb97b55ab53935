"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tallybook
from tallybook import Book

from .postgres import drop_schema, new_schema, schema_url

DATA = Path(__file__).parent.parent / "src" / "tallybook" / "data"
MASTER = DATA / "cdnow_master.txt.xz"
STANDARD = DATA / "standard.toml"
CANDIDATE = DATA / "candidate.toml"


@pytest.fixture
def server_book_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a book that is not made yet, in a schema of the test's own. Wrapping keys lie in a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    schema = new_schema()
    yield schema_url(schema)
    drop_schema(schema)


@pytest.fixture(params=["sqlite", "postgresql"])
def book_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a book that is not made yet: in files, and on a server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.book"
    url: str = request.getfixturevalue("server_book_url")
    return url


@pytest.fixture
def book(book_url: str) -> Iterator[Book]:
    """A new book with somebody acting."""
    with tallybook.open(book_url) as opened, opened.acting("agent:lin", purpose="support"):
        yield opened
