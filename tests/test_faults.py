"""What a disk, a host or an operator can do to an open book: a clear error or correct work, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

import tallybook
from tallybook import Book


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.book"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def register(book: Book, name: str) -> UUID:
    with book.acting("agent:lin", purpose="test"):
        return book.customers.register(name=name, identifiers={"crm": name})


def names(book: Book, *customers: UUID) -> list[object]:
    with book.acting("agent:lin", purpose="test"):
        return [book.profiles.get(one)["name"] for one in customers]


def sound(book: Book) -> None:
    assert [one.problem for one in book.audit.verify()] == [None, None]
    certificate = book.replay()
    assert certificate.holds, certificate.first


def in_another_process(path: Path, work: str) -> str:
    """What a process of its own prints that opens the book and works on it."""
    code = f"""
import sys, tallybook
with tallybook.open(sys.argv[1]) as book, book.acting("agent:kim", purpose="test"):
    {work}
"""
    done = subprocess.run(
        [sys.executable, "-c", code, url_of(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ── one process, more than one book ───────────────────────────────────────────────────────────────────────────────


def test_a_book_that_is_opened_twice_in_a_process_loses_nothing_when_another_process_comes_and_goes(
    path: Path,
) -> None:
    # POSIX drops all of a process's locks on a file when it closes any handle of it. If opening the second time did,
    # the other process would take itself for the last, and delete the log under the first.
    with tallybook.open(url_of(path)) as first:
        customers = [register(first, "Ada")]
        with tallybook.open(url_of(path)) as second:
            customers.append(UUID(in_another_process(path, 'print(book.customers.register(name="Bob"))')))
            customers.append(register(first, "Cyd"))
            customers.append(register(second, "Dan"))
            assert first.position() == second.position()
        customers.append(UUID(in_another_process(path, 'print(book.customers.register(name="Eve"))')))
        customers.append(register(first, "Fay"))
        position = first.position()
    with tallybook.open(url_of(path)) as again:
        assert again.position() == position
        assert names(again, *customers) == ["Ada", "Bob", "Cyd", "Dan", "Eve", "Fay"]
        sound(again)


def test_looking_whether_a_file_is_a_book_keeps_the_locks_of_the_book_that_is_open(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        register(book, "Ada")
        wal = os.stat(f"{path}-wal").st_ino
        tallybook.open(url_of(path)).close()
        in_another_process(path, 'book.customers.register(name="Bob")')
        assert os.stat(f"{path}-wal").st_ino == wal
