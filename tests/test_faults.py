"""What a disk, a host or an operator can do to an open book: a clear error or correct work, and nothing lost."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from uuid import UUID

import pytest
from tests.conftest import holder_of
from tests.crash import workload
from tests.crash.checks import check
from tests.crash.disk import Disk, failure
from tests.crash.ledger import Ledger

import tallybook
from tallybook import Book, BookError, Conflict, TallybookError
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters.wrapping import FileWrappingKeys
from tallybook.domain.errors import BookFull, BookReadOnly, KeysMissing


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


def test_two_books_in_a_process_work_side_by_side(path: Path, tmp_path: Path) -> None:
    with tallybook.open(url_of(path)) as one, tallybook.open(url_of(tmp_path / "other.book")) as two:
        ada, bob = register(one, "Ada"), register(two, "Ada")
        assert ada != bob
        assert holder_of(one, "crm", "Ada") == ada
        assert holder_of(two, "crm", "Ada") == bob
        assert names(one, ada) == names(two, bob) == ["Ada"]
        sound(one)
        sound(two)


def test_a_book_that_is_opened_twice_in_a_process_is_one_book(path: Path) -> None:
    with tallybook.open(url_of(path)) as first, tallybook.open(url_of(path)) as second:
        opened = (first, second)
        customers: dict[int, list[UUID]] = {}

        def work(number: int) -> None:
            customers[number] = [register(opened[number % 2], f"{number} {count}") for count in range(10)]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({one for made in customers.values() for one in made}) == 40
        for number, made in customers.items():
            assert names(opened[(number + 1) % 2], *made) == [f"{number} {count}" for count in range(10)]
        with pytest.raises(Conflict) as caught:
            register(second, "0 0")
        assert caught.value.code == "identifier_taken"
        sound(first)


# ── fork ──────────────────────────────────────────────────────────────────────────────────────────────────────────

FORKED = """
import os, sys, threading, time
import tallybook
url = sys.argv[1]
book = tallybook.open(url)
acting = book.acting("agent:lin", purpose="test")
acting.__enter__()
ada = book.customers.register(name="Ada", identifiers={"crm": "Ada"})
{before}
child = os.fork()
if child == 0:
    {child}
    sys.exit(0)  # as a child ends that was made by hand: everything of it is finalized
_, status = os.waitpid(child, 0)
assert status == 0, status
{after}
bob = book.customers.register(name="Bob")
assert [book.profiles.get(one)["name"] for one in (ada, bob)] == ["Ada", "Bob"]
assert all(one.holds for one in book.audit.verify())
acting.__exit__(None, None, None)
book.close()
with tallybook.open(url) as book, book.acting("agent:lin", purpose="test"):
    assert book.customers.find("crm", "Ada") == ada
    assert all(one.holds for one in book.audit.verify())
print("unharmed")
"""

REFUSED = """
    for use in (
        lambda: book.customers.register(name="Eve"),
        lambda: book.customers.register(name="Eve", command_id="eve"),
        lambda: book.customers.change(ada, name="Eve"),
        lambda: book.profiles.get(ada),
        lambda: book.profiles.segments(system="crm"),
        lambda: book.customers.find("crm", "Ada"),
        lambda: book._core.storage.keys.get([(ada, 1)]),
        lambda: book._core.storage.keys.add({(ada, 1): bytes(32)}),
        book.projections.catch_up,
        book.position,
        book.audit.verify,
        book.replay,
    ):
        try:
            use()
        except tallybook.BookError as error:
            assert "forked" in str(error) and "child" in error.remedy, error
        else:
            raise AssertionError("the child uses its parent's connections")
    book.close()
"""

NOT_OPENED_AGAIN = """
    path = url.removeprefix("sqlite:///")
    folder = os.path.dirname(path)
    os.symlink(folder, folder + "/link")
    began = time.monotonic()
    for name, how in ((path, {}), (folder + "/link/shop.book", {}), (path, {"keyless": True})):
        try:
            tallybook.open("sqlite:///" + name, **how)
        except tallybook.BookError as error:
            assert "forked" in str(error) and "spawn" in error.remedy, error
        else:
            raise AssertionError("the child opens what its parent has open")
    assert time.monotonic() - began < 10
    assert any(one.state == "failed" and "forked" in one.what for one in tallybook.doctor(url))
"""

GRANDCHILD = """
    book.close()
    again = os.fork()
    if again == 0:
        {again}
        os._exit(0)
    assert os.waitpid(again, 0)[1] == 0
"""

EVENTS_HALF_WRITTEN = """
inside, go = threading.Event(), threading.Event()
def write():
    with book._core.storage.events.session(write=True):
        inside.set()
        go.wait()
writer = threading.Thread(target=write)
writer.start()
inside.wait()
"""

OTHERS = """
closed = url.replace("shop.book", "closed.book")
with tallybook.open(closed) as other, other.acting("agent:lin", purpose="test"):
    other.customers.register(name="Bob", identifiers={"crm": "Bob"})
"""

OPENED_AFTER = """
    for name in (closed, url.replace("shop.book", "new.book")):
        with tallybook.open(name) as mine, mine.acting("agent:lin", purpose="test"):
            eve = mine.customers.register(name="Eve", identifiers={"crm": "Eve"})
            assert mine.profiles.get(eve)["name"] == "Eve"
            assert all(one.holds for one in mine.audit.verify())
"""

FORKED_FIRST = """
import os, sys, tallybook
url = sys.argv[1]
tallybook.open(url).close()
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        with tallybook.open(url) as book, book.acting("agent:lin", purpose="test"):
            book.profiles.get(book.customers.register(name="Ada"))
        os._exit(0)
    children.append(child)
with tallybook.open(url) as book, book.acting("agent:lin", purpose="test"):
    book.customers.register(name="Bob")
    assert [os.waitpid(one, 0)[1] for one in children] == [0] * 3
    assert all(one.holds for one in book.audit.verify())
    assert book.position() == 8
print("holds")
"""

KEYS_HALF_WRITTEN = """
store = book._core.storage.keys
# As in the middle of a commit: the journal is on disk, and pages are being written.
import threading
written, go = threading.Event(), threading.Event()
def write():
    writing = store.database._take(write=True)
    writing.execute("PRAGMA cache_size=1")
    writing.execute("BEGIN IMMEDIATE")
    more = [(os.urandom(16), bytes(60)) for _ in range(2000)]
    writing.executemany("INSERT INTO data_keys VALUES (?, 1, x'', ?, 0, x'')", more)
    written.set()
    go.wait()
    writing.execute("COMMIT")
    store.database._give_back(writing, write=True)
writer = threading.Thread(target=write)
writer.start()
written.wait()
"""

KEYS_COMMITTED = """
go.set()
writer.join()
assert store.count() == 2001
assert store.database.rows("PRAGMA integrity_check") == [("ok",)]
"""


def forked(path: Path, child: str, before: str = "", after: str = "") -> None:
    code = FORKED
    for name, text in (("before", before), ("child", child.strip()), ("after", after)):
        code = code.replace(f"{{{name}}}", text)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, url_of(path)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("unharmed\n", 0), done.stderr


def test_a_child_that_was_forked_from_an_open_book_is_told_to_open_its_own(path: Path) -> None:
    forked(path, REFUSED)


def test_a_child_can_not_open_what_its_parent_had_open(path: Path) -> None:
    """By no name of it: SQLite's own table of locks was copied with the process."""
    forked(path, NOT_OPENED_AGAIN)


def test_a_grandchild_can_not_either(path: Path) -> None:
    grandchild = GRANDCHILD.replace("{again}", NOT_OPENED_AGAIN.strip().replace("\n", "\n    "))
    forked(path, grandchild, "import warnings; warnings.simplefilter('ignore')")


def test_a_child_whose_parent_is_writing_is_told_at_once(path: Path) -> None:
    """It would wait for a lock that nobody gives back in its copy of the table."""
    forked(path, NOT_OPENED_AGAIN, EVENTS_HALF_WRITTEN, "go.set()\nwriter.join()")


def test_a_child_works_beside_its_parent_with_what_was_closed_before_and_what_is_another_s(path: Path) -> None:
    forked(path, OPENED_AFTER, OTHERS)
    with tallybook.open(f"sqlite:///{path.parent}/closed.book") as book, book.acting("agent:lin", purpose="test"):
        assert book.customers.find("crm", "Eve") is not None


def test_who_forks_first_opens_the_book_in_each_process(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED_FIRST, url_of(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.returncode) == ("holds\n", 0), done.stderr


@pytest.mark.parametrize("child", ["pass", "del book, store", "book.close()"], ids=["ends", "forgets", "closes"])
def test_a_child_that_ends_does_not_roll_back_what_its_parent_is_writing(path: Path, child: str) -> None:
    forked(path, child, KEYS_HALF_WRITTEN, KEYS_COMMITTED)


# ── no space, no right, no lock ───────────────────────────────────────────────────────────────────────────────────


def limit_pages(book: Book, more: int | None) -> None:
    """Let the book's file grow by so many pages (None: without limit), as a full disk would."""
    with book._core.storage.events.session(write=True) as session:
        [(used,)] = session.rows("PRAGMA page_count")
        session.run(f"PRAGMA max_page_count={2**32 - 2 if more is None else used + more}")


def test_a_full_disk_is_a_clear_error_that_writes_nothing_and_ends_when_there_is_space(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        kept = [register(book, "Ada")]
        limit_pages(book, 20)

        def fill() -> None:
            while len(kept) < 1000:
                kept.append(register(book, f"{len(kept)}"))

        with pytest.raises(BookFull) as caught:
            fill()
        assert caught.value.path == str(path)
        assert "space" in caught.value.remedy
        failed = f"{len(kept)}"
        position = book.position()
        with pytest.raises(BookFull):
            fill()
        assert book.position() == position
        assert holder_of(book, "crm", failed) is None
        limit_pages(book, None)
        kept.append(register(book, failed))
        assert [holder_of(book, "crm", name) is not None for name in ("Ada", failed)] == [True, True]
        assert names(book, kept[0], kept[-1]) == ["Ada", failed]
        sound(book)
    with tallybook.open(url_of(path)) as book:
        assert all(names(book, *kept))
        sound(book)


@pytest.fixture
def disk(path: Path) -> Disk:
    """A disk for a book that is made on it; its operations succeed until `fails` says otherwise."""
    return Disk(path.parent, random.Random(1))


@pytest.mark.parametrize("part", ["shop.book-wal", "shop.book.keys", "shop.book.reads-wal"])
@pytest.mark.parametrize(("kind", "error"), [("full", BookFull), ("write", BookError), ("readonly", BookReadOnly)])
def test_a_file_that_can_not_be_written_is_a_clear_error_and_the_book_goes_on_when_it_can(
    path: Path, disk: Disk, part: str, kind: str, error: type[BookError]
) -> None:
    broken = [False]

    def fails(doing: str, number: int) -> None:
        if broken[0] and disk.last.endswith((part, f"{part}-journal")):
            raise failure(kind)

    disk.fails = fails
    with disk.in_use():
        with tallybook.open(url_of(path)) as book:
            ada = register(book, "Ada")
            names(book, ada)
            broken[0] = True
            position = book.position()
            for number in range(3):
                with pytest.raises(error) as caught:
                    _ = names(book, ada) if "reads" in part else register(book, f"lost {number}")
                assert caught.value.path.startswith(str(path))
                assert caught.value.remedy
            assert book.position() == position
            broken[0] = False
            assert all(holder_of(book, "crm", f"lost {number}") is None for number in range(3))
            customers = [ada, *(register(book, name) for name in ("lost 0", "Bob"))]
            assert names(book, *customers) == ["Ada", "lost 0", "Bob"]
            sound(book)
        with tallybook.open(url_of(path)) as book:
            assert names(book, *customers) == ["Ada", "lost 0", "Bob"]
            sound(book)


HOLDS = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2].split(";"):
    connection.execute(statement).fetchall()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("part", ["", ".keys", ".reads"])
@pytest.mark.parametrize(
    "holding", ["BEGIN EXCLUSIVE", "PRAGMA locking_mode=EXCLUSIVE;BEGIN IMMEDIATE;PRAGMA user_version=1"]
)
def test_a_file_that_another_process_has_locked_is_busy_and_nothing_is_lost(
    path: Path, part: str, holding: str
) -> None:
    with tallybook.open(url_of(path)) as book:
        ada = register(book, "Ada")
        position = book.position()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, f"{path}{part}", holding],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"

    def use() -> None:
        with tallybook.open(url_of(path), lock_timeout_s=0) as book:
            names(book, ada)
            register(book, "Bob")

    with pytest.raises(Conflict) as caught:
        use()
    assert caught.value.code == "busy"
    holder.communicate("")
    with tallybook.open(url_of(path)) as book:
        assert book.position() == position
        bob = register(book, "Bob")
        assert names(book, ada, bob) == ["Ada", "Bob"]
        sound(book)


# ── files that go away ────────────────────────────────────────────────────────────────────────────────────────────


def delete(file: Path) -> None:
    file.unlink()


def replace(file: Path) -> None:
    file.rename(f"{file}.away")
    file.write_bytes(Path(f"{file}.away").read_bytes())


@pytest.mark.parametrize("happens", [delete, replace])
@pytest.mark.parametrize("part", ["", ".keys", ".reads"])
def test_a_file_that_is_deleted_or_replaced_under_an_open_book_acknowledges_nothing_more(
    path: Path, happens: Callable[[Path], None], part: str
) -> None:
    with tallybook.open(url_of(path)) as book:
        ada = register(book, "Ada")
        assert names(book, ada) == ["Ada"]
        happens(Path(f"{path}{part}"))
        for _ in range(2):
            with pytest.raises(BookError) as caught:
                _ = names(book, ada) if part == ".reads" else register(book, "Bob")
            assert caught.value.path == f"{path}{part}"
            assert "replaced" in str(caught.value)


def test_a_file_that_was_moved_away_and_is_put_back_has_lost_nothing(path: Path) -> None:
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="support"):
        for _ in range(20):
            book.customers.register(name="Ada")
        book.tiers.counts()
        noted = book.position()
        moved = path.rename(path.with_name("moved"))
        ready = threading.Barrier(4)

        def ask(_: int) -> None:
            ready.wait()
            for _ in range(20):
                with suppress(BookError):
                    book.tiers.counts()

        with ThreadPoolExecutor(4) as threads:  # so that new connections are made
            list(threads.map(ask, range(4)))
        with suppress(BookError):
            list(book.follow(timeout_s=0))
        assert not path.exists()
        moved.rename(path)
    with tallybook.open(url_of(path)) as book:
        assert book.position() == noted
        assert all(check.holds for check in book.audit.verify())


def test_a_log_of_reads_that_goes_away_before_it_is_used_is_not_made_anew(path: Path) -> None:
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada")
        reads = path.with_name(path.name + ".reads")
        reads.unlink()
        with pytest.raises(BookError, match="reads"):
            book.profiles.get(ada)
        assert not reads.exists()


def test_a_log_that_is_deleted_under_an_open_book_takes_no_more_and_comes_home_at_closing(path: Path) -> None:
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name="Ada")
        noted = book.position()
        path.with_name(path.name + "-wal").unlink()
        for _ in range(2):
            with pytest.raises(BookError, match="-wal was deleted") as caught:
                book.customers.register(name="Ada")
            assert "Close the book in each process" in str(caught.value)
        assert book.position() == noted
    with tallybook.open(url_of(path)) as book:
        assert book.position() == noted
        assert all(check.holds for check in book.audit.verify())


def test_a_key_file_that_goes_away_under_an_open_book_lets_no_event_be_sealed_with_a_lost_key(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        ada = register(book, "Ada")
        position = book.position()
        keys = Path(f"{path}.keys")
        keys.rename(f"{keys}.away")
        with pytest.raises(BookError):
            register(book, "Bob")
        assert book.position() == position
    with pytest.raises(KeysMissing):
        tallybook.open(url_of(path))
    Path(f"{keys}.away").rename(keys)
    with tallybook.open(url_of(path)) as book:
        assert names(book, ada, register(book, "Bob")) == ["Ada", "Bob"]
        sound(book)


def test_a_log_that_is_deleted_after_the_book_was_closed_is_not_missed(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        ada = register(book, "Ada")
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with tallybook.open(url_of(path)) as book:
        assert names(book, ada) == ["Ada"]
        sound(book)


def test_a_log_that_is_deleted_after_a_kill_takes_what_was_only_in_it_and_leaves_a_book_that_is_whole(
    path: Path,
) -> None:
    with tallybook.open(url_of(path)) as book:
        ada = register(book, "Ada")
    code = """
import os, signal, sys, tallybook
book = tallybook.open(sys.argv[1])
with book.acting("agent:lin", purpose="test"):
    book.customers.register(name="Bob", identifiers={"crm": "Bob"})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, url_of(path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    Path(f"{path}-wal").unlink()
    with tallybook.open(url_of(path)) as book:
        assert holder_of(book, "crm", "Bob") is None
        assert names(book, ada, register(book, "Bob")) == ["Ada", "Bob"]
        sound(book)


def test_a_key_store_whose_file_is_locked_or_broken_says_so_and_holds_no_connection(tmp_path: Path) -> None:
    path = tmp_path / "a.keys"
    FileKeyStore(path, FileWrappingKeys(tmp_path / "key"), origin="tallybook/1").close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Conflict) as caught:
            FileKeyStore(path, FileWrappingKeys(tmp_path / "key"), lock_timeout_s=0)
        assert caught.value.code == "busy"
    store = FileKeyStore(path, FileWrappingKeys(tmp_path / "key"))
    assert store.origin == "tallybook/1"
    store.close()


# ── a disk with errors ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(6))
def test_commands_on_a_disk_with_errors_are_done_or_raise_and_the_book_goes_on(path: Path, seed: int) -> None:
    chance, faults = random.Random(seed), random.Random(f"{seed}/faults")
    ledger = Ledger()
    raised: dict[str, int] = {}
    healthy = [True]

    def fails(kind: str, number: int) -> None:
        if not healthy[0] and faults.random() < 0.01:
            raise failure(faults.choice((kind, "full")) if kind == "write" else kind)

    def reads_fail() -> None:
        if not healthy[0] and faults.random() < 0.002:
            raise failure("read")

    disk = Disk(path.parent, chance, fails=fails, reads_fail=reads_fail)
    with disk.in_use():
        book = tallybook.open(url_of(path))
        workload.prepare(book)
        healthy[0] = False
        for number in range(300):
            deed = workload.next_deed(chance, ledger)
            try:
                workload.perform(book, deed, ledger.begin, ledger.end)
                if deed.verb == "register":
                    workload.enrol(book, ledger.customers[-1])
                if number % 20 == 0:
                    book.projections.catch_up()
            except TallybookError as error:
                raised[type(error).__name__] = raised.get(type(error).__name__, 0) + 1
            if number % 100 == 99:
                book.close()
                while True:
                    try:
                        book = tallybook.open(url_of(path))
                        break
                    except TallybookError as error:
                        raised[type(error).__name__] = raised.get(type(error).__name__, 0) + 1
        healthy[0] = True
        book.close()
    assert sum(raised.values()) > 10, raised
    assert len(ledger.outcomes) > 100
    assert check(url_of(path), ledger, chance, thorough=True) == []
