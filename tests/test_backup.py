"""Backup and restore: while others write, after kills, on a full disk, and of files that are something else."""

from __future__ import annotations

import inspect
import json
import os
import random
import re
import shutil
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import (
    Book,
    BookDamaged,
    BookError,
    BookFull,
    BookNotFound,
    BookReadOnly,
    KeysMissing,
    NewerBook,
    NotABook,
    ReadsMissing,
)
from tallybook.adapters import backup as module
from tallybook.adapters import doctor, outputs, storage
from tallybook.adapters.integrity import root_at
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters.notes import Signer
from tallybook.adapters.storage import signing_file
from tallybook.adapters.wrapping import FileWrappingKeys, WrappingKeys
from tallybook.cli import app

from . import warm
from .postgres import _programs, run_sql, server_url, with_parameters

STANDARD = Path(tallybook.__file__).parent / "data" / "standard.toml"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def fill(book: Book, customers: int = 30) -> None:
    with book.acting("agent:lin", purpose="test"):
        if not book.rules.adopted():
            book.rules.adopt(STANDARD, effective_at="1997-01-01T00:00:00Z")
        for number in range(customers):
            ada = book.customers.register(name=f"Ada {number}", email="ada@example.org")
            book.loyalty.enrol(ada)
            book.customers.record_purchase(ada, [{"sku": "x", "quantity": 1, "net_minor": 5_000}])
            book.profiles.get(ada)


def sound(book: Book) -> None:
    """Logs, decisions and keys fit, and the read models hold what a rebuild would give."""
    assert [one.problem for one in book.audit.verify()] == [None, None]
    certificate = book.replay()
    assert certificate.holds, certificate.first
    assert certificate.facts > 0
    before = rows(book)
    assert any(before.values())
    book.projections.rebuild()
    assert rows(book) == before
    assert [one for one in book.doctor() if one.state == "failed"] == []


def rows(book: Book) -> dict[str, list[Any]]:
    store = book._core.store
    book.projections.catch_up()
    return {
        table.name: sorted(store.select(model, table, [name for name, _ in table.columns]), key=repr)
        for model in book._core.projector.models
        for table in model.tables
    }


@pytest.fixture(scope="module", autouse=True)
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Each book's wrapping key lies in one place, wherever the book is restored: no backup holds it."""
    path = tmp_path_factory.mktemp("apart") / "wrapping-key"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APART", str(path))
        for one in (storage, module, doctor):
            patch.setattr(one, "wrapping_keys", chosen)
        yield path


class Apart(FileWrappingKeys):
    """In one folder, a file for each book."""

    def read(self, origin: str) -> Sequence[bytes]:
        return FileWrappingKeys(f"{self.path}-{origin[-32:]}").read(origin)

    def replace(self, origin: str, keys: Sequence[bytes]) -> None:
        FileWrappingKeys(f"{self.path}-{origin[-32:]}").replace(origin, keys)


def chosen(given: Any, _: Path) -> WrappingKeys:
    """In the place of `wrapping_keys`: apart, where nothing is named."""
    if given is None:
        return Apart(os.environ["APART"])
    return FileWrappingKeys(given) if isinstance(given, (str, Path)) else given


APART = f"""
import os
from pathlib import Path
from typing import Any
from collections.abc import Sequence
from tallybook.adapters import backup, doctor, outputs, storage
from tallybook.adapters.wrapping import FileWrappingKeys, WrappingKeys
{inspect.getsource(Apart)}
{inspect.getsource(chosen)}
for one in (storage, backup, doctor):
    one.wrapping_keys = chosen
"""
"""The same in another process."""


class Place(NamedTuple):
    """A book that was backed up, and where its copies lie."""

    book: Path
    file: Path
    keys: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A backup with its keys; never changed."""
    folder = tmp_path_factory.mktemp("made")
    place = Place(folder / "shop.book", folder / "shop.backup", folder / "shop.keys-copy")
    with tallybook.open(url_of(place.book)) as book:
        fill(book)
        book.backup(place.file)
        book.backup_keys(place.keys)
    return place


@pytest.fixture
def copy(made: Place, tmp_path: Path) -> Place:
    """Copies of a backup that a test may spoil. Their book is elsewhere."""
    for one in (made.file, made.keys, signing_file(made.keys)):
        shutil.copy2(one, tmp_path / one.name)
    return Place(tmp_path / "again" / "shop.book", tmp_path / made.file.name, tmp_path / made.keys.name)


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


# ── what a backup is ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_restored_book_is_the_book_and_goes_on(made: Place, tmp_path: Path) -> None:
    with tallybook.open(url_of(made.book)) as book:
        position, root = book.position(), book.audit.verify()[0].root
        reads = (
            book.audit.verify()[1].size - 5
        )  # but for the records of the copies, its closing after them, and this opening
        before = rows(book)
        pairs = [(customer, book.loyalty.balance(customer)) for customer in people(book)]
    report = tallybook.restore(made.file, url_of(tmp_path / "new.book"), keys=made.keys)
    assert (report.position, report.root, report.reads) == (position, root, reads)
    assert (report.subjects, report.erased, report.lost) == (30, (), ())
    assert {"new.book", "new.book.keys", "new.book.reads", "new.book.signing-key"} == names(tmp_path)
    assert stat.S_IMODE((tmp_path / "new.book.keys").stat().st_mode) == 0o600
    with tallybook.open(url_of(tmp_path / "new.book"), create=False) as again:
        assert rows(again) == before
        assert [one.lag for one in again.projections.status()] == [0, 0, 0, 0]
        assert [(customer, again.loyalty.balance(customer)) for customer in people(again)] == pairs
        with again.acting("agent:lin", purpose="test"):
            assert again.profiles.get(pairs[3][0])["name"] == "Ada 3"
        sound(again)
        fill(again, 3)
        assert again.position() > position
        sound(again)


def people(book: Book) -> list[Any]:
    return [one.event.originator_id for one in book._core.history(["customer.registered"])]


def test_a_backup_is_one_file_without_any_key_and_for_its_owner_alone(made: Place) -> None:
    with closing(sqlite3.connect(made.keys)) as raw:
        keys = [key for (key,) in raw.execute("SELECT wrapped FROM data_keys")]
        [(lookup_key,)] = raw.execute("SELECT wrapped FROM book_keys")
    assert len(keys) == 30
    content = made.file.read_bytes()
    assert not any(key in content for key in (*keys, lookup_key))
    assert stat.S_IMODE(made.file.stat().st_mode) == stat.S_IMODE(made.keys.stat().st_mode) == 0o600
    assert not [name for name in names(made.file.parent) if name.startswith("shop.backup") and name != "shop.backup"]
    with pytest.raises(NotABook):
        tallybook.open(url_of(made.file))  # a backup is no book: it can't be written to by mistake


def test_a_restored_book_holds_nothing_of_the_reads_in_its_own_file(made: Place, tmp_path: Path) -> None:
    tallybook.restore(made.file, url_of(tmp_path / "new.book"), keys=made.keys)
    assert b"profile" in (tmp_path / "new.book.reads").read_bytes()
    with closing(sqlite3.connect(made.file)) as raw:
        [(event,)] = raw.execute("SELECT originator_id FROM access_records WHERE position=7")
    assert event in (tmp_path / "new.book.reads").read_bytes()
    assert event not in (tmp_path / "new.book").read_bytes()


def test_an_empty_book_can_be_backed_up_and_restored(tmp_path: Path) -> None:
    with tallybook.open(url_of(tmp_path / "a.book")) as book:
        report = book.backup(tmp_path / "a.backup")
        assert (report.position, report.reads) == (0, 2)  # that it was opened, and that this copy was asked for
        assert book.backup_keys(tmp_path / "a.keys-copy").subjects == 0
    tallybook.restore(tmp_path / "a.backup", url_of(tmp_path / "b.book"), keys=tmp_path / "a.keys-copy")
    with tallybook.open(url_of(tmp_path / "b.book"), create=False) as book:
        fill(book, 2)
        sound(book)


def test_progress_counts_pages_then_events(made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGES_A_STEP", 8)
    seen: list[tuple[int, int]] = []
    with tallybook.open(url_of(made.book)) as book:
        book.backup(tmp_path / "b", progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 3
    assert seen[-1][0] == seen[-1][1] > 20
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("kind", ["backup", "backup_keys"])
def test_a_file_that_is_there_is_kept_unless_it_is_to_be_replaced(made: Place, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "b"
    target.write_text("precious")
    with tallybook.open(url_of(made.book)) as book:
        run: Callable[..., object] = getattr(book, kind)
        with pytest.raises(BookError, match="is there already"):
            run(target)
        assert target.read_text() == "precious"
        assert names(tmp_path) == {"b"}
        run(target, replace=True)
        run(target, replace=True)
    assert target.read_bytes()[:15] == b"SQLite format 3"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    beside = {"b.signing-key"} if kind == "backup_keys" else set[str]()
    assert names(tmp_path) == {"b"} | beside


@pytest.mark.parametrize("suffix", ["", ".keys", ".reads", "-wal"])
@pytest.mark.parametrize("how", ["by its name", "by a link"])
def test_a_backup_never_replaces_a_file_of_the_book(tmp_path: Path, suffix: str, how: str) -> None:
    with tallybook.open(url_of(tmp_path / "shop.book")) as book:
        fill(book, 2)
        target = tmp_path / f"shop.book{suffix}"
        if how == "by a link":
            (tmp_path / "link").symlink_to(target)
            target = tmp_path / "link"
        for run in (book.backup, book.backup_keys):
            with pytest.raises(BookError, match="a file of the book itself"):
                run(target, replace=True)
        sound(book)


def test_a_book_in_memory_and_its_keys_are_refused(tmp_path: Path) -> None:
    with tallybook.open("memory:") as book:
        for run in (book.backup, book.backup_keys):
            with pytest.raises(BookError, match=r"memory|no file"):
                run(tmp_path / "b")
    assert names(tmp_path) == set()


def test_what_others_publish_meanwhile_is_not_overwritten(
    made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._must_be_sound

    def slow(*args: Any) -> None:
        real(*args)
        (tmp_path / "b").write_text("precious")

    monkeypatch.setattr(module, "_must_be_sound", slow)
    with tallybook.open(url_of(made.book)) as book, pytest.raises(BookError, match="is there already"):
        book.backup(tmp_path / "b")
    assert (tmp_path / "b").read_text() == "precious"
    assert names(tmp_path) == {"b"}


def test_where_there_are_no_hard_links_a_backup_is_moved_into_its_place(
    made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with tallybook.open(url_of(made.book)) as book:
        book.backup(tmp_path / "b")
        with pytest.raises(BookError, match="is there already"):
            outputs.publish(tmp_path / "b", tmp_path / "b")
    tallybook.restore(tmp_path / "b", url_of(tmp_path / "new.book"), keys=made.keys)
    assert names(tmp_path) == {"b", "new.book", "new.book.keys", "new.book.reads", "new.book.signing-key"}


def test_what_a_kill_left_is_removed_by_the_next_backup_a_day_later(made: Place, tmp_path: Path) -> None:
    old, new, others = (tmp_path / name for name in ("b.0123.part", "b.4567.part", "other.0123.part"))
    for one in (old, new, others):
        one.touch()
    for one in (old, others):
        os.utime(one, (time.time() - 100_000,) * 2)
    with tallybook.open(url_of(made.book)) as book:
        book.backup(tmp_path / "b")
    assert names(tmp_path) == {"b", new.name, others.name}


# ── while others write ────────────────────────────────────────────────────────────────────────────────────────────

WRITER = """
import sys, time
import tallybook
with tallybook.open(sys.argv[1]) as book, book.acting(f"agent:{sys.argv[2]}", purpose="test"):
    print("ready", flush=True)
    while True:
        ada = book.customers.register(name="Ada", email="ada@example.org")
        book.loyalty.enrol(ada)
        for _ in range(3):
            book.customers.record_purchase(ada, [{"sku": "x", "quantity": 1, "net_minor": 5_000}])
        book.profiles.get(ada)
"""


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[warm.Started]]:
    """Four processes that write to a book, until the test ends."""
    with tallybook.open(url_of(tmp_path / "shop.book")) as book:
        fill(book, 100)
    children = [warm.start(APART + WRITER, url_of(tmp_path / "shop.book"), str(number)) for number in range(4)]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_backups_under_four_writing_processes_are_each_one_moment(
    writers: list[warm.Started], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGES_A_STEP", 8)  # in many steps: writers come in between
    reports = []
    with tallybook.open(url_of(tmp_path / "shop.book")) as book:
        for number in range(3):
            started = book.position()

            def wait_for_a_commit(*_: int, started: int = started) -> None:
                until = time.monotonic() + 60
                while book.position() <= started + 1000 and time.monotonic() < until:
                    time.sleep(0.01)

            reports.append(book.backup(tmp_path / f"{number}.backup", progress=wait_for_a_commit))
            assert started <= reports[-1].position
            assert reports[-1].position < book.position() - 500, "it holds what was written after it had begun"
        book.backup_keys(tmp_path / "keys-copy")
    assert all(child.poll() is None for child in writers), "a writer died"
    assert reports[0].position < reports[1].position < reports[2].position
    for number, report in enumerate(reports):
        target = tmp_path / f"{number}.book"
        restored = tallybook.restore(
            tmp_path / f"{number}.backup",
            url_of(target),
            keys=tmp_path / "keys-copy",
            checkpoint=(report.position, report.root),
        )
        assert (restored.position, restored.root, restored.reads) == (report.position, report.root, report.reads)
        assert restored.lost == ()
        with tallybook.open(url_of(target), create=False) as book:
            assert all(0 <= one.lag < 1000 for one in book.projections.status())
            seen = {subject for one in book._core.reads() for subject in getattr(one.event, "subjects", ())}
            assert seen
            assert seen <= set(people(book)), "a read of somebody whom the log does not know"
            sound(book)
    # A later log has the earlier one's checkpoint as its beginning; an earlier one has not the later one's.
    tallybook.restore(
        tmp_path / "2.backup",
        url_of(tmp_path / "more.book"),
        keys=tmp_path / "keys-copy",
        checkpoint=(reports[0].position, reports[0].root),
    )
    with pytest.raises(BookError, match="before the checkpoint"):
        tallybook.restore(
            tmp_path / "0.backup",
            url_of(tmp_path / "less.book"),
            keys=tmp_path / "keys-copy",
            checkpoint=(reports[2].position, reports[2].root),
        )
    assert not (tmp_path / "less.book").exists()


def test_a_backup_and_threads_that_write_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGES_A_STEP", 8)
    with tallybook.open(url_of(tmp_path / "shop.book"), lock_timeout_s=2) as book:
        fill(book, 20)
        written = threading.Event()

        def write() -> None:
            fill(book, 1)
            written.set()

        def within(*_: int) -> None:
            if not written.is_set():
                thread = threading.Thread(target=write)
                thread.start()
                thread.join(20)
                assert written.is_set(), "a commit waited for the backup"

        position = book.position()
        report = book.backup(tmp_path / "b", progress=within)
        assert report.position == position < book.position()


# ── kills ─────────────────────────────────────────────────────────────────────────────────────────────────────────

KILLED = """
import os, signal, sys
from pathlib import Path
import tallybook
from tallybook.adapters import backup as module, outputs
kind, file, keys, book, root = sys.argv[1:]
module.PAGES_A_STEP = 16
steps, moment = 0, 0
def step(*args):
    global steps
    steps += 1
    if steps == moment:
        os.kill(os.getpid(), signal.SIGKILL)
def stepping(real):
    def wrapped(*args, **kwargs):
        step()
        result = real(*args, **kwargs)
        step()
        return result
    return wrapped
outputs.sync = stepping(outputs.sync)
for name in ("_must_be_sound", "publish", "_copy_pages", "_copy_reads", "outline", "verify"):
    setattr(module, name, stepping(getattr(module, name)))
os.link = stepping(os.link)
while True:
    moment += 1
    folder = Path(root, str(moment))
    folder.mkdir()
    child = os.fork()
    if child == 0:
        if kind == "backup":
            with tallybook.open(book) as opened:
                opened.backup(folder / "b", progress=step)
                opened.backup_keys(folder / "b-keys")
        else:
            tallybook.restore(file, f"sqlite:///{folder}/shop.book", keys=keys, progress=step)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status
"""


def killed_at_each_step(kind: str, made: Place, root: Path) -> Iterator[Path]:
    """Backups or restores, each killed one step later than the one before: the folders that they worked in."""
    args = (str(made.file), str(made.keys), url_of(made.book), str(root))
    done = warm.run(APART + KILLED, kind, *args)
    assert done.returncode == 0, done.stderr
    count = len(list(root.iterdir()))
    assert count > 25
    for moment in range(1, count):
        yield root / str(moment)
    assert {"b", "b-keys", "b-keys.signing-key"} == names(root / str(count)) or (
        root / str(count) / "shop.book"
    ).exists()


def test_a_backup_that_is_killed_at_any_step_leaves_a_whole_file_or_none(made: Place, tmp_path: Path) -> None:
    whole = none = 0
    for folder in killed_at_each_step("backup", made, tmp_path):
        if (folder / "b").exists():
            whole += 1
            keys = folder / "b-keys" if (folder / "b-keys").exists() else made.keys
            tallybook.restore(folder / "b", url_of(folder / "new.book"), keys=keys)
        else:
            none += 1
            assert not (folder / "b-keys").exists()
            with tallybook.open(url_of(made.book), create=False) as book:
                book.backup(folder / "b")  # what is left is in nobody's way
    assert whole >= 3
    assert none >= 15
    with tallybook.open(url_of(made.book), create=False) as book:
        sound(book)


def test_a_restore_that_is_killed_at_any_step_leaves_the_whole_book_or_none(made: Place, tmp_path: Path) -> None:
    whole = none = 0
    for folder in killed_at_each_step("restore", made, tmp_path):
        path = folder / "shop.book"
        if path.exists():
            whole += 1
        else:
            none += 1
            left = names(folder)
            with pytest.raises(BookNotFound):
                tallybook.open(url_of(path), create=False)
            if {"shop.book.keys", "shop.book.reads"} & left:
                with pytest.raises((KeysMissing, BookNotFound)):
                    tallybook.open(url_of(path))  # no new book beside what was restored
            tallybook.restore(made.file, url_of(path), keys=made.keys)  # the same again does the rest
        with tallybook.open(url_of(path), create=False) as book:
            assert [one.problem for one in book.audit.verify()] == [None, None]
            assert book.replay().holds
            with book.acting("agent:lin", purpose="test"):
                assert book.profiles.get(people(book)[0])["name"] == "Ada 0"
    assert whole >= 2
    assert none >= 15


def test_backups_and_restores_that_are_killed_at_random_moments(made: Place, tmp_path: Path) -> None:
    seed = int(os.environ.get("TALLYBOOK_CRASH_SEED", "0")) or time.time_ns() % 2**32
    print(f"TALLYBOOK_CRASH_SEED={seed}")
    chance = random.Random(seed)
    code = (
        "import sys, tallybook\n"
        "with tallybook.open(sys.argv[1]) as book:\n"
        "    print('go', flush=True)\n"
        "    while True:\n"
        "        book.backup(sys.argv[2], replace=True)\n"
    )
    target = tmp_path / "b"
    seen = 0
    for _ in range(10):
        child = warm.start(APART + code, url_of(made.book), str(target))
        child.stdout.readline()
        time.sleep(chance.random() * 0.1)
        child.kill()
        child.communicate()
        if target.exists():
            seen += 1
            tallybook.restore(target, url_of(tmp_path / f"{seen}.book"), keys=made.keys)
    assert seen, f"seed {seed}"


# ── no space, no right ────────────────────────────────────────────────────────────────────────────────────────────


def test_free_space_is_looked_at_first(made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with tallybook.open(url_of(made.book)) as book, pytest.raises(BookFull, match="1,000 are free"):
        book.backup(tmp_path / "b")
    with pytest.raises(BookFull, match="1,000 are free"):
        tallybook.restore(made.file, url_of(tmp_path / "new.book"), keys=made.keys)
    assert names(tmp_path) == set()


LIMITED = """
import resource, signal, sys
import tallybook
from tallybook import BookError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
args = sys.argv[2:]
book = tallybook.open(args[1]) if args[0] == "backup" else None
if book:
    book.audit.verify()  # its own shared memory is made before there is no space
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
try:
    if book:
        book.backup(args[2])
    else:
        tallybook.restore(args[2], args[1], keys=args[3])
except BookError as error:
    print(type(error).__name__, error.path, "|", error)
else:
    print("done")
"""


@pytest.mark.parametrize("limit", [0, 4096, 40_000, 100_000])
def test_a_disk_that_fills_up_leaves_nothing(made: Place, tmp_path: Path, limit: int) -> None:
    """The limit on a file's size is met as a full disk is: a write in the middle fails."""
    assert made.file.stat().st_size > 100_000
    target, path = tmp_path / "b", tmp_path / "new.book"
    for args in (
        ("backup", url_of(made.book), str(target)),
        ("restore", url_of(path), str(made.file), str(made.keys)),
    ):
        done = warm.run(APART + LIMITED, str(limit), *args)
        kind, place, *_ = [*done.stdout.split(), "", ""]
        assert kind in ("BookError", "BookFull"), done.stdout + done.stderr
        places = [str(target), f"{made.book}.reads"] if args[0] == "backup" else [str(path)]
        assert place in places, "the copy, or the log that has to hold that it was made"
        assert names(tmp_path) == set()
    with tallybook.open(url_of(made.book)) as book:
        sound(book)


def test_a_backup_is_restored_from_where_nothing_can_be_written(copy: Place) -> None:
    source = copy.file.parent / "media"
    source.mkdir()
    for one in (copy.file, copy.keys, signing_file(copy.keys)):
        one.chmod(0o400)
        one.rename(source / one.name)
    source.chmod(0o500)
    copy.book.parent.mkdir()
    before = names(source)
    tallybook.restore(source / copy.file.name, url_of(copy.book), keys=source / copy.keys.name)
    assert names(source) == before
    source.chmod(0o700)
    with tallybook.open(url_of(copy.book), create=False) as book:
        sound(book)


def test_a_folder_that_can_not_be_written_is_named(
    made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def denied(path: Any, flags: int, *args: Any) -> int:
        if str(path).endswith(".part"):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *args)

    monkeypatch.setattr(os, "open", denied)
    with tallybook.open(url_of(made.book)) as book:
        with pytest.raises(BookReadOnly, match="Permission denied") as caught:
            book.backup(tmp_path / "b")
        assert caught.value.path == str(tmp_path / "b")
        with pytest.raises(BookError, match="folder"):
            book.backup(tmp_path / "no" / "b")


# ── what can't be restored ────────────────────────────────────────────────────────────────────────────────────────


def refused(copy: Place, kind: type[BookError], match: str, **more: Any) -> None:
    """Restoring fails with exactly this error, and puts nothing in place."""
    copy.book.parent.mkdir(exist_ok=True)
    before = {one.name: one.read_bytes() for one in copy.book.parent.iterdir()}
    with pytest.raises(BookError, match=match) as caught:
        tallybook.restore(copy.file, url_of(copy.book), **{"keys": copy.keys, **more})
    assert type(caught.value) is kind, repr(caught.value)
    assert caught.value.path
    assert caught.value.remedy
    assert {one.name: one.read_bytes() for one in copy.book.parent.iterdir()} == before


def said(*arguments: str) -> str:
    """What the command line prints, if it is done."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def altered(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        for statement in statements:
            raw.execute(statement)


def seal_again(copy: Place) -> None:
    """Let a backup end as if the book itself had written it so."""
    os.truncate(copy.file, copy.file.stat().st_size // 4096 * 4096)
    with closing(FileKeyStore(copy.keys, Apart(os.environ["APART"]))) as keys:
        module._seal(copy.file, keys.lookup_key)


def test_what_is_no_backup_is_refused(copy: Place, made: Place) -> None:
    good = copy.file.read_bytes()
    copy.file.write_bytes(b"not a database" * 1000)
    refused(copy, NotABook, "no SQLite file")
    copy.file.write_bytes(b"")
    refused(copy, NotABook, "something else")
    shutil.copy(made.book, copy.file)
    refused(copy, NotABook, "a plain copy")
    copy.file.unlink()
    altered(copy.file, "CREATE TABLE songs (title TEXT)")
    refused(copy, NotABook, "something else")
    copy.file.unlink()
    refused(copy, BookError, "unable to open")
    copy.file.write_bytes(good)
    altered(copy.file, "PRAGMA user_version=99")
    refused(copy, NewerBook, "format 99")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.99])
def test_a_backup_that_was_cut_short_is_refused(copy: Place, part: float) -> None:
    size = copy.file.stat().st_size
    os.truncate(copy.file, int(size * part))
    refused(copy, BookDamaged, "damaged or cut short")


def test_a_backup_with_a_single_bit_that_is_another_is_refused_wherever_it_is(copy: Place) -> None:
    good = copy.file.read_bytes()
    chance = random.Random(7)
    for at in [*(chance.randrange(len(good)) for _ in range(60)), len(good) - 1]:
        spoilt = bytearray(good)
        spoilt[at] ^= 1 << chance.randrange(8)
        copy.file.write_bytes(spoilt)
        copy.book.parent.mkdir(exist_ok=True)
        with pytest.raises((BookDamaged, NotABook, NewerBook, KeysMissing)):
            tallybook.restore(copy.file, url_of(copy.book), keys=copy.keys)
        assert not any(copy.book.parent.iterdir())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {tiers} SET tier='gole'",
        "DELETE FROM receipts",
        "DELETE FROM claims",
        "INSERT INTO book VALUES ('read_models', 'elsewhere')",
    ],
)
def test_a_backup_whose_other_tables_were_altered_is_refused(copy: Place, statement: str) -> None:
    with closing(sqlite3.connect(copy.file)) as raw:
        [(tiers,)] = raw.execute(
            "SELECT name FROM sqlite_master WHERE name LIKE 'tier_memberships\\_\\_%' ESCAPE '\\' AND type='table'"
        )
    before = copy.file.read_bytes()
    altered(copy.file, statement.format(tiers=tiers))
    assert copy.file.read_bytes() != before
    refused(copy, BookDamaged, "not those that were written")


def test_what_follows_the_end_of_a_backup_is_no_part_of_it(copy: Place) -> None:
    with copy.file.open("ab") as file:
        file.write(b"x")
    refused(copy, BookDamaged, "not those that were written")


def test_a_backup_that_somebody_without_the_keys_wrote_is_refused(copy: Place) -> None:
    altered(copy.file, "DELETE FROM claims")
    os.truncate(copy.file, copy.file.stat().st_size // 4096 * 4096)
    module._seal(copy.file, bytes(32))
    refused(copy, BookDamaged, "not those that were written")


def test_a_page_of_zeros_or_noise_is_found_whatever_the_end_of_a_backup_says(copy: Place) -> None:
    good = copy.file.read_bytes()
    pages = len(good) // 4096
    with closing(sqlite3.connect(copy.file)) as raw:
        used = (
            {
                page
                for (page,) in raw.execute(
                    "SELECT pageno FROM dbstat WHERE name NOT LIKE '%#_#_%' ESCAPE '#' AND name NOT LIKE 'tracking%'"
                )
            }
            if has_dbstat()
            else set(range(2, pages))
        )
    for page in random.Random(7).sample(sorted(used - {1}), 12):
        for content in (bytes(4096), random.Random(page).randbytes(4096)):
            start = (page - 1) * 4096
            copy.file.write_bytes(good[:start] + content + good[start + 4096 :])
            seal_again(copy)
            refused(copy, BookDamaged, "damaged")


def has_dbstat() -> bool:
    with closing(sqlite3.connect(":memory:")) as raw:
        return ("ENABLE_DBSTAT_VTAB",) in raw.execute("PRAGMA compile_options").fetchall()


@pytest.mark.parametrize("table", ["stored_events", "access_records"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {table} SET state=CAST(state || x'00' AS BLOB) WHERE position=5",
        "DELETE FROM {table} WHERE position=5",
        "DELETE FROM {table} WHERE position=(SELECT MAX(position) FROM {table})",
        "UPDATE head SET position=position+1 WHERE log='{table}'",
        "UPDATE head SET frontier=zeroblob(length(frontier)) WHERE log='{table}'",
    ],
)
def test_a_backup_whose_log_was_altered_is_refused(copy: Place, table: str, statement: str) -> None:
    altered(copy.file, statement.format(table=table))
    seal_again(copy)
    refused(copy, BookDamaged, "log of reads: " if table == "access_records" else ": log: ")


def test_a_checkpoint_that_the_log_does_not_reproduce_is_refused(copy: Place) -> None:
    refused(copy, BookDamaged, "checkpoint's root", checkpoint=(5, "ab" * 32))
    refused(copy, BookError, "before the checkpoint's 100000", checkpoint=(100_000, "ab" * 32))


def test_keys_that_are_missing_or_of_another_book_are_refused(copy: Place, tmp_path: Path, apart: Path) -> None:
    refused(copy, KeysMissing, "not there", keys=None)
    refused(copy, KeysMissing, "not there|nothing", keys=tmp_path / "nowhere")
    with tallybook.open(url_of(tmp_path / "other.book")) as book:
        fill(book, 1)
        book.backup_keys(tmp_path / "other-keys")
    refused(copy, KeysMissing, "does not hold the keys of the book", keys=tmp_path / "other-keys")
    refused(copy, KeysMissing, "nothing", keys=copy.file)
    (tmp_path / "text").write_text("no keys")
    refused(copy, KeysMissing, "no key file", keys=tmp_path / "text")
    with closing(FileKeyStore(copy.keys, Apart(apart))) as store:
        [(subject, key_id)] = store.database.rows("SELECT subject, key_id FROM data_keys ORDER BY subject LIMIT 1")
        altered(copy.keys, "DELETE FROM data_keys WHERE subject=(SELECT MIN(subject) FROM data_keys)")
        store.add({(UUID(bytes=subject), key_id): bytes(32)})
    refused(copy, KeysMissing, "another key for subject")


def test_who_was_erased_and_whose_key_is_lost_are_told_apart(tmp_path: Path) -> None:
    """Erased before the backup, erased after it (which the keys know alone), and lost."""
    place, again = tmp_path / "shop.book", tmp_path / "again.book"
    with tallybook.open(url_of(place)) as book, book.acting("agent:lin", purpose="support"):
        ada, bob, cyd, dan = (book.customers.register(name=name) for name in ("Ada", "Bob", "Cyd", "Dan"))
        book.erasures.erase(ada, reason="gdpr-17")
        book.backup(tmp_path / "backup")
        book.erasures.erase(bob, reason="gdpr-17")
        report = book.backup_keys(tmp_path / "keys")
    assert report.subjects == 2
    altered(tmp_path / "keys", f"DELETE FROM data_keys WHERE subject=x'{cyd.hex}'")
    arguments = [str(tmp_path / "backup"), "--book", url_of(again), "--keys", str(tmp_path / "keys")]
    told = " ".join(said("restore", *arguments).split())
    assert "2 of 4 subjects were erased" in told
    assert "1 of 4 subjects have lost their key, and nobody erased them" in told
    assert str(cyd) in told.partition("lost their key")[2]
    again.unlink()
    restored = tallybook.restore(tmp_path / "backup", url_of(again))
    assert (restored.subjects, set(restored.erased), restored.lost) == (4, {ada, bob}, (cyd,))
    with tallybook.open(url_of(again)) as book, book.acting("agent:lin", purpose="support"):
        assert set(book.erasures.all()) == {ada, bob}
        assert book.profiles.get(dan)["name"] == "Dan"
        with pytest.raises(tallybook.KeyLost):
            book.profiles.get(cyd)
        [word] = [one for one in book.doctor() if one.name == "keys" and "no key" in one.what]
        assert (word.state, "1 of 4 subjects" in word.what, str(cyd) in word.what) == ("warning", True, True)


def test_an_opening_after_a_restore_names_lost_keys_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "shop.book"
    with tallybook.open(url_of(place)) as book, book.acting("agent:lin", purpose="support"):
        ada, bob, cyd = (book.customers.register(name=name) for name in ("Ada", "Bob", "Cyd"))
        book.backup(tmp_path / "backup")
        book.erasures.erase(ada, reason="gdpr-17")
    for one in tmp_path.glob("shop.book*"):
        if one.name in ("shop.book", "shop.book-wal", "shop.book.reads"):
            one.unlink()
    altered(tmp_path / "shop.book.keys", f"DELETE FROM data_keys WHERE subject=x'{cyd.hex}'")
    tallybook.restore(tmp_path / "backup", url_of(place))
    with tallybook.open(url_of(place)) as book, book.acting("agent:lin", purpose="support"):
        assert book.profiles.get(bob)["name"] == "Bob"
    assert "before the erasure of 1 customers" in caplog.text
    assert "1 customers of" in caplog.text
    assert f"the first is {cyd}" in caplog.text


@pytest.mark.parametrize("signing", ["a file", "the environment", "unsigned"])
def test_a_copy_of_the_keys_says_what_it_is_and_what_is_not_in_it(
    tmp_path: Path, signing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"a file": None, "the environment": "env:SIGNING", "unsigned": "unsigned"}[signing]
    monkeypatch.setenv("SIGNING", Signer.new("anybody").text)
    url = url_of(tmp_path / "shop.book")
    tallybook.open(url, signing_key=None if place == "unsigned" else place).close()
    with tallybook.open(url, signing_key=place) as book:
        report = book.backup_keys(tmp_path / "keys")
        assert report.wrapping == book._core.storage.keys.wrapping()
    copied = tmp_path / "keys.signing-key"
    assert report.signing_key == (str(copied) if signing == "a file" else None)
    assert copied.exists() == (signing == "a file")
    options = [] if place is None else ["--signing-key", place]
    arguments = [str(tmp_path / "backup"), "--book", url, "--keys", str(tmp_path / "keys")]
    told = "".join(said(*options, "backup", *arguments, "--replace").split())
    assert report.wrapping in told
    assert ("keys.signing-key:thekeythatsigns" in told) == (signing == "a file")
    assert ("Nocopyofthesigningkeywasmade" in told) == (signing != "a file")


def test_keys_that_lie_in_their_place_are_used(copy: Place) -> None:
    copy.book.parent.mkdir()
    shutil.copy2(copy.keys, copy.book.with_name("shop.book.keys"))
    shutil.copy2(signing_file(copy.keys), signing_file(copy.book))
    tallybook.restore(copy.file, url_of(copy.book))
    with tallybook.open(url_of(copy.book), create=False) as book:
        sound(book)


def test_keys_in_place_that_the_copy_does_not_match_are_kept_and_refused(copy: Place) -> None:
    copy.book.parent.mkdir()
    place = copy.book.with_name("shop.book.keys")
    shutil.copy2(copy.keys, place)
    altered(place, "DELETE FROM data_keys WHERE subject=(SELECT MAX(subject) FROM data_keys)")
    before = place.read_bytes()
    with pytest.raises(BookError, match="is there already"):
        tallybook.restore(copy.file, url_of(copy.book), keys=copy.keys)
    assert place.read_bytes() == before
    assert not copy.book.exists()


@pytest.mark.parametrize("name", ["shop.book", "shop.book-wal", "shop.book-journal", "shop.book.reads-wal"])
def test_what_is_left_of_another_book_at_the_place_is_refused(copy: Place, name: str) -> None:
    copy.book.parent.mkdir()
    copy.book.with_name(name).write_bytes(b"x")
    refused(copy, BookError, f"{name} is there already")


def test_a_log_of_reads_that_was_left_is_kept_if_it_goes_on_from_the_backups(made: Place, tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    first = tallybook.restore(made.file, url_of(path), keys=made.keys)
    with tallybook.open(url_of(path)) as book:
        fill(book, 2)  # two more reads, that the backup does not hold
    path.unlink()
    report = tallybook.restore(made.file, url_of(path))
    assert report.reads == first.reads + 4  # and that the book was opened and closed
    with tallybook.open(url_of(path)) as book:
        assert book.audit.verify()[1].size == first.reads + 5
        assert book.audit.verify()[1].holds


def test_a_log_of_reads_that_was_left_and_is_another_is_refused(copy: Place, made: Place, tmp_path: Path) -> None:
    copy.book.parent.mkdir()
    reads = copy.book.with_name("shop.book.reads")
    with tallybook.open(url_of(tmp_path / "other.book")) as book:
        fill(book, 1)
    shutil.copy(tmp_path / "other.book.reads", reads)
    refused(copy, ReadsMissing, "does not go on")
    shutil.copy(made.book.with_name("shop.book.reads"), reads)
    altered(reads, "UPDATE access_records SET state=state || x'00' WHERE position=2")
    refused(copy, ReadsMissing, "does not go on")


@pytest.mark.parametrize("url", ["memory:", "postgresql://localhost/x", "shop.book", "sqlite:///no/such/folder/x"])
def test_restoring_to_what_is_no_place_for_a_book_is_refused(made: Place, url: str) -> None:
    with pytest.raises(BookError) as caught:
        tallybook.restore(made.file, url, keys=made.keys)
    assert caught.value.remedy


def test_a_damaged_book_is_not_backed_up(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(url_of(path)) as book:
        fill(book, 20)
    with closing(sqlite3.connect(path)) as raw:
        [(root,)] = raw.execute("SELECT rootpage FROM sqlite_master WHERE name='claims'")
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    with tallybook.open(url_of(path)) as book, pytest.raises(BookDamaged) as caught:
        book.backup(tmp_path / "b")
    assert caught.value.path == str(path)
    altered(path, "UPDATE head SET position=position-1")
    assert not [name for name in names(tmp_path) if name.startswith("b")]


def test_a_log_that_goes_past_its_head_is_not_backed_up(tmp_path: Path) -> None:
    with tallybook.open(url_of(tmp_path / "shop.book")) as book:
        fill(book, 2)
        altered(tmp_path / "shop.book", "UPDATE stored_events SET position=position+1000 WHERE position>3")
        with pytest.raises(BookDamaged, match="its head says"):
            book.backup(tmp_path / "b")
    assert not [name for name in names(tmp_path) if name.startswith("b")]


# ── on a server ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_book_on_a_server_is_backed_up_by_pg_dump(server_book_url: str, tmp_path: Path) -> None:
    with tallybook.open(server_book_url) as book:
        with pytest.raises(BookError, match="pg_dump"):
            book.backup(tmp_path / "b")
        with pytest.raises(BookError, match="no file"):
            book.backup_keys(tmp_path / "k")
    with pytest.raises(BookError, match="pg_restore") as caught:
        tallybook.restore(tmp_path / "b", "postgresql://user:secret@host/x")
    assert "secret" not in str(caught.value)


def recipe(program: str) -> str:
    """The command of docs/operations.md."""
    page = Path(__file__).parent.parent / "docs" / "operations.md"
    [command] = re.findall(rf"^{program} .*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return str(command)


def test_the_documented_dump_and_restore_give_the_book_back(server_book_url: str, tmp_path: Path) -> None:
    """The commands are those of the page, run as they stand there."""
    other = f"restored_{uuid4().hex}"
    here = urlsplit(server_url())
    there = here._replace(path=f"/{other}").geturl()
    environment = {
        **os.environ,
        "PATH": f"{_programs() / 'bin'}:{os.environ['PATH']}",
        "SCHEMA": parse_qs(urlsplit(server_book_url).query)["schema"][0],
        "SERVER": here.geturl(),
        "OTHER": there,
    }

    def run(command: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    key = tmp_path / "wrapping-key"
    with tallybook.open(server_book_url, wrapping_key=key) as book:
        fill(book, 20)
        before, earlier = book.position(), book.audit.verify()[0].root
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                fill(book, 1)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            while book.position() < before + 20:
                time.sleep(0.01)
            run(recipe("pg_dump"))
            ended = book.position()
        finally:
            stop.set()
            writer.join()
    assert key.read_bytes() not in (tmp_path / "shop.dump").read_bytes()
    run_sql(f'CREATE DATABASE "{other}"')
    try:
        run(recipe("pg_restore"))
        restored = with_parameters(there, schema=environment["SCHEMA"])
        with pytest.raises(KeysMissing):
            tallybook.open(restored, create=False, wrapping_key=tmp_path / "none")
        with tallybook.open(restored, create=False, wrapping_key=key) as book:
            assert before < book.position() <= ended
            assert root_at(book._core.app.log, before) == earlier
            with book.acting("agent:lin", purpose="test"):
                assert book.profiles.get(people(book)[0])["name"] == "Ada 0"
            sound(book)
            fill(book, 3)
            sound(book)
    finally:
        run_sql(f'DROP DATABASE "{other}" WITH (FORCE)')


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_commands(made: Place, tmp_path: Path) -> None:
    run = CliRunner().invoke
    file, keys, new = tmp_path / "b", tmp_path / "k", tmp_path / "new.book"
    done = run(app, ["backup", str(file), "--book", url_of(made.book), "--keys", str(keys), "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["path"], answer["keys"]["path"], answer["keys"]["subjects"]) == (str(file), str(keys), 30)
    checkpoint = f"{answer['position']}:{answer['root']}"
    shown = run(app, ["backup", str(file), "--book", url_of(made.book), "--replace"])
    assert f"--checkpoint {checkpoint}" in shown.stdout
    args = ["restore", str(file), "--book", url_of(new), "--keys", str(keys)]
    with pytest.raises(tallybook.InvalidInput):
        run(app, [*args, "--checkpoint", "x"], catch_exceptions=False)
    done = run(app, [*args, "--checkpoint", checkpoint, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["root"] == answer["root"]
    new.unlink()
    shown = run(app, ["restore", str(file), "--book", url_of(new)])
    assert f"restored up to position {answer['position']:,}" in shown.stdout
    with tallybook.open(url_of(new), create=False) as book:
        sound(book)
