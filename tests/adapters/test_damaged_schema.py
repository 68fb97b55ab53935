"""Files whose own description is damaged: what they hold can't be told, and that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

import tallybook
from tallybook import BookError


@pytest.mark.parametrize("file", ["shop.book", "shop.book.reads"])
def test_a_description_that_is_no_text_is_told(tmp_path: Path, file: str) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    tallybook.open(url).close()
    damaged = tmp_path / file
    raw = damaged.read_bytes()
    assert b"CREATE TABLE" in raw
    damaged.write_bytes(raw.replace(b"CREATE TABLE", b"CREATE \xdfABLE"))
    with pytest.raises(BookError, match=f"{file} can't be read"):
        tallybook.open(url)
