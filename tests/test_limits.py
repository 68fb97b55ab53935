"""What a book says when the system has run out of something: which limit it is, and never that the book is damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from tests.postgres import is_own_server, run_sql

import tallybook
from tallybook.adapters import limits
from tallybook.adapters.backup import _errors
from tallybook.adapters.sqlite import translated
from tallybook.domain.errors import BookFull, BookUnreachable

BEGIN = """
import os, resource, sys, tallybook
from tallybook import BookError
from tallybook.domain.errors import BookFull

folder, elsewhere = sys.argv[1:]
url = f"sqlite:///{folder}/shop.book"

def told(doing, does):
    try:
        done = does()
    except Exception as error:
        print(f"{doing}: {type(error).__name__}: {error}")
    else:
        print(f"{doing}: {done}")

def fill(book):
    with book.acting("agent:lin", purpose="test"):
        try:
            for number in range(len(kept), 5000):
                kept.append(book.customers.register(name="Ada" * 100, identifiers={"crm": str(number)}))
        except BookFull as error:
            print("filled:", error)

kept = []
"""
END = """
    with book.acting("agent:lin", purpose="test"):
        print("again:", book.customers.register(name="Bob", identifiers={"crm": "again"}) is not None)
        print("kept:", all(book.customers.find("crm", str(n)) == one for n, one in enumerate(kept)), len(kept) > 20)
        print("sound:", [one.problem for one in book.audit.verify()], book.replay().holds)
"""
LOOK = """
    told("verify", lambda: [one.problem for one in book.audit.verify()])
    told("backup", lambda: book.backup(f"{elsewhere}/copy", replace=True).position == book.position())
    for one in book.doctor():
        if one.state == "failed":
            print("doctor:", one.name, one.what, one.remedy)
"""


def run(code: str, folder: Path, elsewhere: Path | str, within: tuple[str, ...] = ()) -> list[str]:
    """The lines that a process of its own prints."""
    done = subprocess.run(
        [*within, sys.executable, "-c", code, str(folder), str(elsewhere)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def no_fault_of_the_disk(lines: list[str]) -> None:
    for line in lines:
        assert "Check the disk" not in line, line
        assert "disk I/O error" not in line, line
        assert "amaged" not in line, line
        assert "backup" not in line.partition(": ")[2], line


def test_a_limit_of_the_size_of_files_is_named_and_ends_when_it_is_raised(tmp_path: Path) -> None:
    # SQLite takes what the kernel says here for a fault of the disk.
    code = f"""{BEGIN}
limit = resource.RLIMIT_FSIZE
with tallybook.open(url) as book:
    _, most = resource.getrlimit(limit)
    resource.setrlimit(limit, (600_000, most))
    fill(book)
    told("append", lambda: fill(book))
    told("catch up", book.projections.catch_up)
    {LOOK.strip()}
    resource.setrlimit(limit, (20_000, most))
    told("open", lambda: tallybook.open(f"sqlite:///{{folder}}/other.book"))
    resource.setrlimit(limit, (most, most))
{END}
"""
    lines = run(code, tmp_path, tmp_path)
    no_fault_of_the_disk(lines)
    limited = [line for line in lines if "ulimit -f" in line]
    assert [line.split(":")[0] for line in limited[:2]] == ["filled", "filled"], lines
    assert any(line.startswith("open: BookFull") for line in limited), lines
    assert lines[-3:] == ["again: True", "kept: True True", "sound: [None, None] True"]


SMALL = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=3m small "$1" && shift && exec "$@"', "sh")


def test_a_full_disk_is_named_whatever_is_asked_and_ends_when_there_is_space(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    within = (*SMALL, str(small))
    if (
        shutil.which("unshare") is None
        or subprocess.run([*within, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this user may not mount a small disk")  # the other tests of this file do without
    code = f"""{BEGIN}
with tallybook.open(url) as book:
    with open(f"{{folder}}/ballast", "wb") as ballast:
        ballast.write(bytes(2_000_000))
    fill(book)
    told("append", lambda: fill(book))
    told("catch up", book.projections.catch_up)
    with open(f"{{folder}}/rest", "wb", buffering=0) as rest:
        try:
            while True:
                rest.write(bytes(4096))
        except OSError:
            pass
    {LOOK.strip()}
    told("follow", lambda: next(iter(book.follow(after=0))).position)
    told("open", lambda: tallybook.open(f"sqlite:///{{folder}}/other.book"))
    told("backup here", lambda: book.backup(f"{{folder}}/copy"))
    told("key file here", lambda: book.backup_keys(f"{{folder}}/keys-copy"))
    os.remove(f"{{folder}}/ballast")
{END}
"""
    lines = run(code, small, tmp_path, within)
    no_fault_of_the_disk([line for line in lines if not line.startswith("backup")])
    assert all("Make space" in line for line in lines if "BookFull" in line or line.startswith("filled"))
    for doing in ("filled", "catch up: BookFull", "open: BookFull", "backup here: BookFull", "key file here: BookFull"):
        assert any(line.startswith(doing) for line in lines), lines
    assert lines[-3:] == ["again: True", "kept: True True", "sound: [None, None] True"]


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("number", sorted(limits.FULL))
@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL]
)
def test_whatever_sqlite_calls_it_a_disk_that_takes_nothing_more_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, number: int
) -> None:
    place = str(tmp_path / "shop.book")
    ours = translated(sqlite_error(code), place)
    assert isinstance(ours, BookFull) == (code == sqlite3.SQLITE_FULL)

    def takes_nothing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", takes_nothing)
    ours = translated(sqlite_error(code), place)
    assert isinstance(ours, BookFull)
    assert (ours.path, ours.remedy) == (place, limits.FULL[number][1])


@pytest.mark.parametrize("number", sorted(limits.FULL))
def test_a_system_call_of_ours_that_finds_no_space_is_a_full_disk(tmp_path: Path, number: int) -> None:
    with pytest.raises(BookFull), _errors(tmp_path / "copy"):
        raise OSError(number, os.strerror(number))


def test_looking_for_limits_leaves_nothing_behind(tmp_path: Path) -> None:
    assert limits.of_file(str(tmp_path / "shop.book")) is None
    assert limits.of_file(str(tmp_path / "no such folder" / "shop.book")) is None
    assert list(tmp_path.iterdir()) == []


DESCRIPTORS = f"""{BEGIN}
if elsewhere.startswith("postgresql:"):
    url = elsewhere
    options = {{"wrapping_key": f"{{folder}}/wrapping-key"}}
else:
    options = {{}}
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
tallybook.open(url, **options).close()
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for _ in range(12):
    told("open", lambda: tallybook.open(url, **options).close())
    os.close(held.pop())
"""


def test_a_process_without_file_descriptors_is_told_so(book_url: str, tmp_path: Path) -> None:
    *refused, last = run(DESCRIPTORS, tmp_path, book_url)
    assert last == "open: None"
    while refused[-1] == last:
        refused.pop()
    assert len(refused) >= 2, refused
    for line in refused:
        assert line.startswith("open: BookError: This process has no file descriptor left for "), line
        assert line.endswith(limits.NO_DESCRIPTORS), line


def test_a_server_without_a_free_connection_is_told_so(server_book_url: str) -> None:
    if not is_own_server():
        pytest.skip("roles are made on the tests' own server only")
    role = f"crowded_{uuid4().hex[:8]}"
    _, _, rest = server_book_url.partition("@")
    run_sql(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    try:
        with pytest.raises(BookUnreachable, match="too many connections for role") as refused:
            tallybook.open(f"postgresql://{role}@{rest}")
    finally:
        run_sql(f"DROP ROLE {role}")
    assert "`max_connections`" in refused.value.remedy
    assert "password" not in refused.value.remedy
