"""Opening a book: each thing that can be wrong with its three files, and what is left as it was."""

from __future__ import annotations

import inspect
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests import warm
from tests.conftest import holder_of

import tallybook
from tallybook.adapters import files, key_tables, storage
from tallybook.adapters.database import FORMAT
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.adapters.storage import APPLICATION_ID, READS_APPLICATION_ID
from tallybook.domain.errors import (
    BookClosed,
    BookError,
    BookNotFound,
    KeysMissing,
    NewerBook,
    NotABook,
    ReadsMissing,
)

FILES = ("", ".keys", ".reads", ".wrapping-key", ".signing-key")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.book"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def make(path: Path, name: str = "Ada") -> None:
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name=name, identifiers={"crm": "77"})


def works(path: Path) -> None:
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="support"):
        grace = book.customers.register(name="Grace")
        assert book.profiles.get(grace)["name"] == "Grace"
        assert all(one.holds for one in book.audit.verify())


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, without those that SQLite puts beside one that it only looks at."""
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and not file.name.endswith(("-wal", "-shm", "-journal"))
    }


def lasting(folder: Path) -> list[str]:
    """Names of what a closed book leaves; the journal of its keys stays, empty."""
    for file in folder.glob("*-journal"):
        assert file.stat().st_size == 0
    return sorted(file.name for file in folder.iterdir() if not file.name.endswith(".keys-journal"))


def refused(path: Path, kind: type[BookError], *, create: bool = True) -> BookError:
    """Opening fails with exactly this error, which names the path and a remedy, and leaves every file as it was."""
    before = contents(path.parent)
    with pytest.raises(BookError) as caught:
        tallybook.open(url_of(path), create=create)
    assert type(caught.value) is kind, caught.value
    assert str(path) in str(caught.value)
    assert caught.value.path
    assert caught.value.remedy
    assert caught.value.remedy in str(caught.value)
    assert contents(path.parent) == before
    return caught.value


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE songs (title TEXT)")
        raw.execute("INSERT INTO songs VALUES ('Yesterday')")


# ── urls ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop.book",
        "/tmp/shop.book",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite://shop.book",
        "SQLITE:///x",
        "memory",
        "memory:x",
        ":memory:",
        "postgres://x",
        "file:///x",
        "sqlite:///a\0b",
        "sqlite:///\0",
    ],
)
def test_what_names_no_book_is_refused_with_the_form_to_write(url: str) -> None:
    with pytest.raises(BookError) as caught:
        tallybook.open(url)
    assert type(caught.value) is BookError
    assert caught.value.remedy


def test_a_name_that_the_file_system_refuses_is_a_book_error(tmp_path: Path) -> None:
    with pytest.raises(BookError):
        tallybook.open(url_of(tmp_path / ("x" * 300)))


@pytest.mark.parametrize(
    "name",
    ["a b.book", "ü客.book", "a%20b.book", "a?mode=memory.book", "a#b.book", "file:x.book", "-.book", ":memory:.book"],
)
def test_a_book_may_have_any_name_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    make(tmp_path / name)
    works(tmp_path / name)
    assert lasting(tmp_path) == sorted(f"{name}{suffix}" for suffix in FILES)


def test_three_slashes_are_relative_and_four_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with tallybook.open("sqlite:///relative.book") as book:
        origin = book.origin
        monkeypatch.chdir("/")  # the book stays where it is
        with book.acting("agent:lin", purpose="support"):
            book.customers.register(name="Ada")
            book.customers.register(name="Grace")
    with tallybook.open(f"sqlite:///{tmp_path}/relative.book", create=False) as book:
        assert book.origin == origin
        assert book.position() == 4


# ── what is there already ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_no_sqlite_file_is_no_book(path: Path) -> None:
    for content in (b"not a book", b"SQLite format 3", b"\0" * 4096):
        path.write_bytes(content)
        refused(path, NotABook)


def test_a_damaged_sqlite_header_is_no_book(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 500)
    refused(path, NotABook)


def test_a_book_that_was_cut_short_is_no_book(path: Path) -> None:
    make(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(NotABook):
        tallybook.open(url_of(path))


def test_an_sqlite_file_of_something_else_is_no_book(path: Path) -> None:
    foreign(path)
    refused(path, NotABook)


@pytest.mark.parametrize("suffix", [".keys", ".reads"])
def test_a_books_other_files_are_no_books(path: Path, suffix: str) -> None:
    make(path)
    shutil.copy(beside(path, suffix), path.parent / "other.book")
    refused(path.parent / "other.book", NotABook)


@pytest.mark.parametrize("suffix", ["", ".keys", ".reads"])
def test_a_file_of_a_newer_format_asks_for_an_upgrade(path: Path, suffix: str) -> None:
    make(path)
    with closing(sqlite3.connect(beside(path, suffix))) as raw:
        raw.execute("PRAGMA journal_mode=DELETE")
        raw.execute(f"PRAGMA user_version={FORMAT + 1}")
    with pytest.raises(NewerBook, match=f"{beside(path, suffix).name} has format 2") as caught:
        tallybook.open(url_of(path))
    assert caught.value.remedy == "Upgrade Tallybook."
    assert str(caught.value).count("Upgrade") == 1


@pytest.mark.parametrize("suffix", ["", ".keys", ".reads"])
def test_a_format_that_is_raised_under_an_open_book_ends_its_writing(path: Path, suffix: str) -> None:
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="test"):
        ada = book.customers.register(name="Ada")
        assert book.profiles.get(ada)["name"] == "Ada"
        position = book.position()
        with closing(sqlite3.connect(beside(path, suffix))) as raw:
            raw.execute(f"PRAGMA user_version={FORMAT + 1}")
        with pytest.raises(NewerBook, match=f"{beside(path, suffix).name} has format 2"):
            _ = book.profiles.get(ada) if suffix == ".reads" else book.customers.register(name="Bob")
        if suffix == "":
            with pytest.raises(NewerBook):
                book.projections.rebuild()
        assert book.position() == position
        with closing(sqlite3.connect(beside(path, suffix))) as raw:
            raw.execute(f"PRAGMA user_version={FORMAT}")
        book.customers.register(name="Bob")
        assert book.profiles.get(ada)["name"] == "Ada"
        assert [one.problem for one in book.audit.verify()] == [None, None]


def test_a_folder_is_no_book(path: Path) -> None:
    path.mkdir()
    refused(path, NotABook)


@pytest.mark.parametrize("suffix", [".keys", ".reads"])
def test_a_folder_in_the_place_of_another_file_is_a_book_error(path: Path, suffix: str) -> None:
    beside(path, suffix).mkdir()
    with pytest.raises(BookError):
        tallybook.open(url_of(path))
    assert not path.exists() or path.stat().st_size == 0 or suffix == ".reads"


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="is not there") as caught:
        tallybook.open(url_of(tmp_path / "nowhere" / "shop.book"))
    assert "Make it first" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_without_create_a_book_that_is_not_there_stays_so(path: Path) -> None:
    refused(path, BookNotFound, create=False)
    assert list(path.parent.iterdir()) == []


def test_without_create_a_book_that_is_there_opens(path: Path) -> None:
    make(path)
    with tallybook.open(url_of(path), create=False) as book:
        assert holder_of(book, "crm", "77")


def test_a_link_to_a_book_opens_the_book_where_its_keys_are(path: Path, tmp_path: Path) -> None:
    make(path)
    link = tmp_path / "elsewhere"
    link.mkdir()
    os.symlink(path, link / "link.book")
    # Its other files are looked for beside the link: a key file is missing there, and none is made.
    with pytest.raises(KeysMissing):
        tallybook.open(url_of(link / "link.book"))
    assert [file.name for file in link.iterdir()] == ["link.book"]


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_book_without_its_key_file_is_refused_and_none_is_made(path: Path) -> None:
    make(path)
    beside(path, ".keys").unlink()
    refused(path, KeysMissing)
    assert not beside(path, ".keys").exists()


def test_the_key_file_of_another_book_is_refused(path: Path) -> None:
    make(path)
    other = path.parent / "other.book"
    make(other)
    shutil.copy(beside(other, ".keys"), beside(path, ".keys"))
    assert "another book" in str(refused(path, KeysMissing))


def test_a_key_file_in_use_without_its_book_makes_no_new_book(path: Path) -> None:
    make(path)
    path.unlink()
    refused(path, KeysMissing)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"not a key file", b"SQLite format 3\x00" + b"\xff" * 500])
def test_what_is_no_key_file_is_refused_and_left_as_it_was(path: Path, content: bytes) -> None:
    make(path)
    beside(path, ".keys").write_bytes(content)
    refused(path, KeysMissing)


def test_an_sqlite_file_of_something_else_in_the_place_of_the_keys_is_left_as_it_was(path: Path) -> None:
    make(path)
    beside(path, ".keys").unlink()
    foreign(beside(path, ".keys"))
    refused(path, KeysMissing)


def test_the_key_file_is_readable_by_its_owner_only(path: Path) -> None:
    old = os.umask(0)
    try:
        make(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(beside(path, ".keys").stat().st_mode) == 0o600


def test_no_data_key_lies_in_the_book_or_the_log_of_reads(path: Path) -> None:
    make(path)
    with closing(sqlite3.connect(beside(path, ".keys"))) as raw:
        secrets = [key for (key,) in raw.execute("SELECT wrapped FROM data_keys")]
        secrets += [key for (key,) in raw.execute("SELECT wrapped FROM book_keys")]
    assert len(secrets) == 2
    for suffix in ("", ".reads"):
        content = beside(path, suffix).read_bytes()
        assert not [key for key in secrets if key in content]


# ── the log of reads ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("instead", ["gone", "zero bytes", "header only"])
def test_a_log_of_reads_that_was_removed_is_noticed(path: Path, instead: str) -> None:
    # Whoever wants to hide what was read deletes one file: a new, empty log must not take its place in silence.
    make(path)
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="snooping"):
        customer = book.customers.find("crm", "77")
        assert customer
        book.profiles.get(customer)
    beside(path, ".reads").unlink()
    if instead == "zero bytes":
        beside(path, ".reads").touch()
    if instead == "header only":
        wal_header_only(beside(path, ".reads"))
    for _ in range(2):
        assert "log of reads" in str(refused(path, ReadsMissing))
    assert beside(path, ".reads").exists() == (instead != "gone")


def test_a_new_books_log_of_reads_is_noticed_when_it_is_gone_though_nothing_was_read(path: Path) -> None:
    with tallybook.open(url_of(path)):
        pass
    beside(path, ".reads").unlink()
    refused(path, ReadsMissing)
    assert not beside(path, ".reads").exists()


def test_the_log_of_reads_of_another_book_is_noticed(path: Path) -> None:
    make(path)
    other = path.parent / "other.book"
    make(other)
    shutil.copy(beside(other, ".reads"), beside(path, ".reads"))
    assert "another book" in str(refused(path, ReadsMissing))


def test_a_log_of_reads_that_is_something_else_is_refused(path: Path) -> None:
    make(path)
    beside(path, ".reads").unlink()
    foreign(beside(path, ".reads"))
    refused(path, NotABook)


def test_the_files_say_what_they_are(path: Path) -> None:
    make(path)
    for suffix, wanted in (("", APPLICATION_ID), (".reads", READS_APPLICATION_ID)):
        with closing(sqlite3.connect(beside(path, suffix))) as raw:
            assert raw.execute("PRAGMA application_id").fetchone()[0] == wanted
            assert raw.execute("PRAGMA user_version").fetchone()[0] == FORMAT


def test_commits_are_durable_by_default(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        for database in (book._core.storage.events, book._core.storage.reads):
            assert isinstance(database, SQLiteDatabase)
            with database.connection() as raw:
                assert raw.execute("PRAGMA synchronous").fetchone()[0] == 2
                assert raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        keys: Any = book._core.storage.keys
        with keys.database.session(write=True) as session:
            assert session.rows("PRAGMA synchronous") == [(2,)]
            assert session.rows("PRAGMA secure_delete") == [(1,)]
            assert session.rows("PRAGMA journal_mode") == [("truncate",)]


# ── half-made books ───────────────────────────────────────────────────────────────────────────────────────────────


def wal_header_only(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA journal_mode=WAL")
    assert path.stat().st_size > 0


@pytest.mark.parametrize("keys", ["no keys", "empty keys", "new keys"])
@pytest.mark.parametrize("book", ["no book", "zero bytes", "header only"])
def test_a_book_whose_making_was_cut_short_is_made(path: Path, book: str, keys: str) -> None:
    if book == "zero bytes":
        path.touch()
    if book == "header only":
        wal_header_only(path)
    if keys == "empty keys":
        beside(path, ".keys").touch(mode=0o600)
    if keys == "new keys":
        with tallybook.open(url_of(path.parent / "other.book")):
            pass
        for suffix in (".keys", ".wrapping-key"):
            shutil.copy(beside(path.parent / "other.book", suffix), beside(path, suffix))
    with pytest.raises(BookNotFound):
        tallybook.open(url_of(path), create=False)
    works(path)


@pytest.mark.parametrize("reads", ["gone", "zero bytes", "header only", "made"])
def test_a_new_book_whose_log_of_reads_was_not_made_yet_gets_one(path: Path, reads: str) -> None:
    with tallybook.open(url_of(path)):
        pass
    # The book notes its log of reads once that is made: whoever is killed before has left no note.
    with closing(sqlite3.connect(path)) as raw, raw:
        assert raw.execute("DELETE FROM book WHERE name='reads'").rowcount == 1
    if reads != "made":
        beside(path, ".reads").unlink()
    if reads == "zero bytes":
        beside(path, ".reads").touch()
    if reads == "header only":
        wal_header_only(beside(path, ".reads"))
    works(path)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT value FROM book WHERE name='reads'").fetchall() == [("made",)]
    beside(path, ".reads").unlink()
    refused(path, ReadsMissing)


KILLED = """
import os, signal, sqlite3, sys
import tallybook
from tallybook.adapters import key_tables, storage
steps = []
def step():
    steps.append(1)
    if len(steps) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
real = sqlite3.connect
class Traced(sqlite3.Connection):
    def execute(self, *args):
        step()
        return super().execute(*args)
sqlite3.connect = lambda *args, **kwargs: real(*args, **{**kwargs, "factory": Traced})
tallybook.open(sys.argv[1])
print(len(steps))
"""


def test_a_book_that_was_killed_while_it_was_made_is_made_when_it_is_opened_again(tmp_path: Path) -> None:
    whole = warm.run(KILLED, url_of(tmp_path / "whole.book"), "0")
    assert whole.returncode == 0, whole.stderr
    steps = int(whole.stdout)
    assert steps > 10
    for step in range(1, steps + 1, 7):
        path = tmp_path / f"killed-{step}.book"
        done = warm.run(KILLED, url_of(path), str(step))
        assert done.returncode == -9, done.stderr
        works(path)


# ── rights ────────────────────────────────────────────────────────────────────────────────────────────────────────

ORDINARY = """
import os, sys
import urllib.parse  # pathlib imports it late, and an ordinary user may not read an interpreter of root's
import tallybook
with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="test"):  # everything is imported by now
    book.profiles.get(book.customers.register(name="Ada"))
import tallybook.domain.errors
os.chdir("/")
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    with tallybook.open(sys.argv[1]) as book, book.acting("agent:lin", purpose="test"):
        book.customers.register(name="Grace")
    print("opened")
except tallybook.BookError as error:
    print(type(error).__name__, bool(error.remedy), sep=" ")
"""


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """A folder that any user may enter; root's privileges are dropped, for they override every mode."""
    folder = Path(tempfile.mkdtemp(prefix="tallybook-"))
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


def opened_by_anybody(path: Path) -> str:
    done = warm.run(ORDINARY, url_of(path))
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_an_ordinary_user_opens_a_book_of_its_own(public: Path) -> None:
    assert opened_by_anybody(public / "shop.book") == "opened"
    assert opened_by_anybody(public / "shop.book") == "opened"


def _given_away(path: Path, mode: int = 0o666) -> None:
    for suffix in FILES:
        beside(path, suffix).chmod(mode)


def test_a_folder_that_can_not_be_written_makes_no_book(public: Path) -> None:
    public.chmod(0o555)
    assert opened_by_anybody(public / "shop.book") == "BookReadOnly True"
    assert list(public.iterdir()) == []


def test_a_book_in_a_folder_that_can_not_be_written_is_read_only(public: Path) -> None:
    make(public / "shop.book")
    _given_away(public / "shop.book")
    public.chmod(0o555)
    assert opened_by_anybody(public / "shop.book") == "BookReadOnly True"


@pytest.mark.parametrize("suffix", FILES[:3])
def test_a_book_with_a_file_that_can_not_be_written_is_read_only(public: Path, suffix: str) -> None:
    make(public / "shop.book")
    _given_away(public / "shop.book")
    beside(public / "shop.book", suffix).chmod(0o444)
    assert opened_by_anybody(public / "shop.book") == "BookReadOnly True"


@pytest.mark.parametrize("suffix", FILES[:3])
def test_a_book_with_a_file_that_can_not_be_read_is_a_book_error(public: Path, suffix: str) -> None:
    make(public / "shop.book")
    _given_away(public / "shop.book")
    beside(public / "shop.book", suffix).chmod(0o000)
    answer = opened_by_anybody(public / "shop.book")
    assert answer in ("BookReadOnly True", "BookError True", "KeysMissing True" if suffix == ".keys" else "")


def test_a_book_in_a_folder_that_can_not_be_entered_is_a_book_error(public: Path) -> None:
    (public / "closed").mkdir()
    make(public / "closed" / "shop.book")
    (public / "closed").chmod(0o000)
    assert opened_by_anybody(public / "closed" / "shop.book").split()[0] in ("BookReadOnly", "BookError")
    (public / "closed").chmod(0o700)


# ── several at once ───────────────────────────────────────────────────────────────────────────────────────────────

TOGETHER = """
import sys, time
from pathlib import Path
import tallybook
with tallybook.open("memory:") as warm, warm.acting("agent:lin", purpose="test"):
    warm.customers.register(name="warm")
go = Path(sys.argv[1])
(go.parent / f"ready-{sys.argv[2]}").touch()
while not go.exists():
    time.sleep(0.0005)
for number in range(6):
    with tallybook.open(f"sqlite:///{go.parent}/{number}.book") as book, book.acting("agent:lin", purpose="test"):
        book.customers.register(name=sys.argv[2])
        print(book.origin)
"""


def test_processes_that_make_the_same_book_at_once_make_one(tmp_path: Path) -> None:
    go = tmp_path / "go"
    running = [warm.start(TOGETHER, str(go), str(number)) for number in range(3)]
    while len(list(tmp_path.glob("ready-*"))) < 3:
        assert all(one.poll() is None for one in running)
    go.touch()
    outputs = [one.communicate(timeout=60) for one in running]
    assert [one.returncode for one in running] == [0, 0, 0], [error[-600:] for _, error in outputs]
    origins = {tuple(out.split()) for out, _ in outputs}
    assert len(origins) == 1
    for number in range(6):
        with tallybook.open(url_of(tmp_path / f"{number}.book")) as book:
            assert book.position() == 6
            assert all(one.holds for one in book.audit.verify())


LOOKS = {
    "the first look for the book": 1,
    "the look for the key file": 2,
    "the second look for the book": 3,
    "the look for the log of reads": 4,
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_book_that_another_process_made_and_used_meanwhile_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    # Between a look whether there is a file and the making of one, another process is faster.
    real = files.is_ours
    calls: list[Path] = []

    def overtaken(file: Path, *args: Any, **kwargs: Any) -> bool:
        found = real(file, *args, **kwargs)
        calls.append(file)
        if len(calls) == LOOKS[look]:
            assert found is False
            monkeypatch.setattr(storage, "is_ours", real)
            monkeypatch.setattr(key_tables, "is_ours", real)
            make(path)
        return found

    monkeypatch.setattr(storage, "is_ours", overtaken)
    monkeypatch.setattr(key_tables, "is_ours", overtaken)
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.find("crm", "77")
        assert ada
        assert book.profiles.get(ada)["name"] == "Ada"
        assert all(one.holds for one in book.audit.verify())
    assert calls == [path, beside(path, ".keys"), path, beside(path, ".reads")][: LOOKS[look]]


def test_two_books_in_one_process_do_not_know_each_other(tmp_path: Path) -> None:
    with tallybook.open(url_of(tmp_path / "a.book")) as one, tallybook.open(url_of(tmp_path / "b.book")) as other:
        assert one.origin != other.origin
        with one.acting("agent:lin", purpose="support"):
            ada = one.customers.register(name="Ada", identifiers={"crm": "77"}, command_id="c-1")
            with pytest.raises(tallybook.Refused) as caught:
                other.customers.register(name="Grace")
            assert caught.value.code == "acting_required"
            with other.acting("agent:kim", purpose="audit"):
                with pytest.raises(tallybook.NotFound):
                    other.profiles.get(ada)
                grace = other.customers.register(name="Grace", identifiers={"crm": "77"}, command_id="c-1")
                assert one.customers.change(ada, country="GB")
        assert holder_of(one, "crm", "77") == ada != grace
        actors = {recorded.event.metadata.actor for recorded in one._core.history()}
        assert actors == {"agent:lin"}


def test_two_books_in_memory_do_not_know_each_other() -> None:
    with tallybook.open("memory:") as one, tallybook.open("memory:") as other:
        with one.acting("agent:lin", purpose="support"):
            one.customers.register(name="Ada")
        assert (one.position(), other.position()) == (2, 0)


def test_a_book_in_memory_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada")
        assert book.profiles.get(ada)["name"] == "Ada"
        assert book.replay().holds
        assert all(one.holds for one in book.audit.verify())
    assert list(tmp_path.iterdir()) == []


# ── closing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def public_calls(book: tallybook.Book) -> Iterator[tuple[str, Any]]:
    """Every public method of a book and of its desks, by reflection."""
    for name in dir(book):
        if name.startswith("_") or name in ("close", "acting", "origin"):
            continue
        member = getattr(book, name)
        if callable(member):
            yield name, member
            continue
        for inner in dir(member):
            # What only reads a file asks for no open book; a property is looked at by its own test.
            left_out = {("rules", "check"), ("rules", "rules_of"), ("policy", "check"), ("audit", "vkey")}
            if not inner.startswith("_") and (name, inner) not in left_out:
                yield f"{name}.{inner}", getattr(member, inner)


def arguments(function: Any, tmp_path: Path) -> list[Any]:
    """Something for each parameter that must be given."""
    known = {
        "path": tmp_path / "x.txt",
        "candidate": RULES,
        "rule_set": RULES,
        "lines": {1: 1},
        "points": 1,
        "score": 1,
        "name": "retention",
    }
    wanted = [
        parameter
        for parameter in inspect.signature(getattr(function, "__wrapped__", function)).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("self", "work")
    ]
    return [known.get(parameter.name, "00000000-0000-4000-8000-000000000000") for parameter in wanted]


RULES = Path(tallybook.__file__).parent / "data" / "standard.toml"


def test_a_closed_book_refuses_every_call(path: Path, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    book = tallybook.open(url_of(path))
    calls = dict(public_calls(book))
    assert {"position", "replay", "customers.register", "audit.verify", "profiles.get", "imports.cdnow"} <= set(calls)
    with book.acting("agent:lin", purpose="support"):
        book.close()
        book.close()  # once more is nothing
        for name, call in calls.items():
            given = arguments(call, tmp_path)
            parameters = inspect.signature(getattr(call, "__wrapped__", call)).parameters.values()
            named = {one.name: "x" for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty}
            with pytest.raises(BookClosed) as caught:
                call(*given, **named)
            assert caught.value.remedy, name
        with pytest.raises(BookClosed):
            _ = book.audit.vkey


def test_closing_releases_all_files(path: Path) -> None:
    make(path)
    assert lasting(path.parent) == sorted(f"shop.book{suffix}" for suffix in FILES)
    with tallybook.open(url_of(path)) as book:
        held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
        assert any(str(path) in name for name in held)
        del book
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert not [name for name in held if str(path) in name]


def _is_link(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


def test_an_opening_that_fails_releases_all_files(path: Path) -> None:
    make(path)
    other = path.parent / "other.book"
    make(other)
    shutil.copy(beside(other, ".keys"), beside(path, ".keys"))
    refused(path, KeysMissing)
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert not [name for name in held if str(path.parent) in name]


# ── the host's environment ────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = {
    "PERSISTENCE_MODULE": "eventsourcing.popo",
    "TALLYBOOK_PERSISTENCE_MODULE": "eventsourcing.popo",
    "INFRASTRUCTURE_FACTORY": "eventsourcing.popo:POPOFactory",
    "SQLITE_DBNAME": "{folder}/hijacked.sqlite",
    "TALLYBOOK_SQLITE_DBNAME": "{folder}/hijacked.sqlite",
    "SQLITE_LOCK_TIMEOUT": "nonsense",
    "CREATE_TABLE": "nonsense",
    "ORIGINATOR_ID_TYPE": "text",
    "SINGLE_ROW_TRACKING": "n",
    "IS_SNAPSHOTTING_ENABLED": "y",
    "COMPRESSOR_TOPIC": "zlib",
    "CIPHER_TOPIC": "eventsourcing.cipher:AESCipher",
    "CIPHER_KEY": "nonsense",
    "AGGREGATE_CACHE_MAXSIZE": "nonsense",
    "AGGREGATE_CACHE_FASTFORWARD": "n",
    "DEEPCOPY_FROM_AGGREGATE_CACHE": "y",
    "APPLICATION_RECORDER_TOPIC": "os:system",
    "TRACKING_RECORDER_TOPIC": "os:system",
    "PROCESS_RECORDER_TOPIC": "os:system",
    "MAPPER_TOPIC": "os:system",
    "TRANSCODER_TOPIC": "os:system",
}

STEERED = """
import sys
import tallybook
with tallybook.open(sys.argv[1]) as book, book.acting("agent:lin", purpose="support"):
    ada = book.customers.register(name="Ada")
    book.customers.change(ada, name="Ada King")
    assert book.profiles.get(ada)["name"] == "Ada King"
    assert book._core.app.repository.cache.maxsize == book._core.app.CACHED_AGGREGATES
    assert book._core.app.repository.fastforward
    assert book._core.app.snapshots is None
    assert type(book._core.app.recorder).__name__ == "LogRecorder"
    print(book.position())
"""


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_the_hosts_eventsourcing_variables_do_not_steer_a_book(tmp_path: Path, kind: str) -> None:
    hostile = {name: value.format(folder=tmp_path) for name, value in HOSTILE.items()}
    url = "memory:" if kind == "memory" else url_of(tmp_path / "shop.book")
    done = subprocess.run(
        [sys.executable, "-c", STEERED, url],
        env={**os.environ, **hostile},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == "3", done.stderr[-2000:]
    assert not (tmp_path / "hijacked.sqlite").exists()
    if kind == "file":
        with tallybook.open(url_of(tmp_path / "shop.book")) as book:
            assert book.position() == 3


CLOSED_MEANWHILE = """
import sys, threading, time
import tallybook
errors = set()
for number in range(8):
    book = tallybook.open(sys.argv[1])
    def work():
        try:
            while True:
                book.position()
                with book.acting("agent:lin", purpose="test"):
                    book.customers.find("crm", "77")
                book.tiers.counts()
        except BaseException as error:
            errors.add(type(error).__name__)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.03)
    book.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
print(*sorted(errors))
"""


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_closing_a_book_that_other_threads_use_refuses_them_and_never_crashes_the_host(path: Path, kind: str) -> None:
    make(path)
    url = "memory:" if kind == "memory" else url_of(path)
    done = warm.run(CLOSED_MEANWHILE, url, timeout=60)
    assert done.returncode == 0, f"the process died: {done.returncode}\n{done.stderr[-500:]}"
    assert done.stdout.strip() == "BookClosed"


LATE = """
import gc, sys, threading
import tallybook
from tallybook.adapters.sqlite import SQLiteDatabase
book = tallybook.open(sys.argv[1])
real = SQLiteDatabase._take
within, closed = threading.Event(), threading.Event()
def late(self, *, write):
    if threading.current_thread().name == "late":
        within.set()
        closed.wait(20)
    return real(self, write=write)
SQLiteDatabase._take = late
said = []
def work():
    try:
        said.append(book.position())
    except BaseException as error:
        said.append(type(error).__name__)
thread = threading.Thread(target=work, name="late", daemon=True)
thread.start()
assert within.wait(20)
book.close()
closed.set()
thread.join(20)
print(*said, flush=True)
if sys.argv[2] == "collected":
    del book, thread
    gc.collect()
    print("collected")
"""


@pytest.mark.parametrize("wanted", ["refused", "collected"])
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_thread_that_asks_for_a_connection_while_the_book_is_closed_is_refused(
    path: Path, kind: str, wanted: str
) -> None:
    url = "memory:" if kind == "memory" else url_of(path)
    done = warm.run(LATE, url, wanted, timeout=15)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split() == ["BookClosed", "collected"][: 1 + (wanted == "collected")]


def test_closing_waits_for_a_connection_in_use_and_refuses_who_comes_later(path: Path) -> None:
    book = tallybook.open(url_of(path))
    database = book._core.storage.events
    closing_thread = threading.Thread(target=book.close)
    with database.session(write=False) as session:
        closing_thread.start()
        closing_thread.join(0.2)
        assert closing_thread.is_alive()
        with pytest.raises(BookClosed), database.session(write=False):
            pass
        assert session.rows("SELECT COUNT(*) FROM stored_events") == [(0,)]
    closing_thread.join(10)
    assert not closing_thread.is_alive()
    with pytest.raises(BookClosed), database.session(write=False):
        pass
