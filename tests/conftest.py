"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tallybook
from tallybook import Book

DATA = Path(__file__).parent.parent / "src" / "tallybook" / "data"
MASTER = DATA / "cdnow_master.txt.xz"
STANDARD = DATA / "standard.toml"
CANDIDATE = DATA / "candidate.toml"


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """A new book in files, with somebody acting."""
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as opened, opened.acting("agent:lin", purpose="support"):
        yield opened
