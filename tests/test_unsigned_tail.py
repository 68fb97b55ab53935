"""What is newer than the last signed checkpoint: nobody adds to it, takes it away or sets it back unnoticed who can
write in the database and has no keys; and a timer signs it though nothing more is committed."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.heads import Head, fit_head, head_in, key_of, mac_of, put_head
from tests.postgres import drop_schema, new_schema, run_sql, schema_url

import tallybook
from tallybook import Book, BookDamaged, ReadsMissing
from tallybook.adapters import checkpoints as module
from tallybook.adapters import log as log_module
from tallybook.adapters import merkle, notes
from tallybook.adapters.checkpoints import Checkpoints
from tallybook.adapters.integrity import verify
from tallybook.adapters.log import LogRecorder, Pruned, head_key
from tallybook.adapters.notes import Signer, Verifier
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.adapters.tiles import TileStore

WRONG_MAC = "not made with the keys of this book"
THREAD = "tallybook-checkpoints"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def visit(book: Book, count: int = 1) -> None:
    with book.acting("agent:lin", purpose="support"):
        for _ in range(count):
            book.customers.register(customer_id=None, name="Ada")


def run(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as raw, raw:
        for statement in statements:
            raw.execute(statement)


def table_of(log: str, path: Path) -> tuple[Path, str]:
    return (path, "stored_events") if log == "events" else (path.with_name("shop.book.reads"), "access_records")


def forge(file: Path, table: str, *, head: bool = True) -> None:
    """Append what looks like an event of this book: all is clear that it needs, but the keys."""
    run(
        file,
        f"INSERT INTO {table} SELECT (SELECT MAX(position)+1 FROM {table}), randomblob(16), 1, topic, state "
        f"FROM {table} ORDER BY position DESC LIMIT 1",
    )
    if head:
        fit_head(file, table=table)


def refused(book: Book, match: str) -> None:
    """Whatever needs the head of the log of events is refused; nothing is signed."""
    before = [one.note for one in book.audit.checkpoints()]
    for act in (lambda: visit(book), book.position, book.audit.checkpoint, lambda: list(book.follow(timeout_s=0))):
        with pytest.raises(BookDamaged, match=match) as found:
            act()
        assert "stored_events" in found.value.message
        assert "doctor" in found.value.remedy
    assert [one.note for one in book.audit.checkpoints()] == before


def problem_of(book: Book, log: str = "events") -> str:
    return dict(zip(("events", "reads"), book.audit.verify(), strict=True))[log].problem or ""


def told_by_doctor(book: Book) -> str:
    return "\n".join(one.what for one in book.doctor() if one.state == "failed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A book with some checkpoints, whose last events are signed."""
    path = tmp_path / "shop.book"
    with tallybook.open(url_of(path)) as book:
        visit(book, 10)
        book.audit.checkpoint()
        visit(book, 10)
        book.audit.checkpoint()
        with book.acting("agent:lin", purpose="support"):
            for row in book._core.app.log.rows_at([1, 3]):
                book.profiles.get(UUID(bytes=row[1]))
        visit(book, 10)
    return path


# ── the MAC ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_mac_is_that_of_a_second_implementation(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        key = head_key(book._core.storage.keys.lookup_key)
        origin = book.origin
    for log in ("events", "reads"):
        file, table = table_of(log, path)
        position, frontier, signed, mac, erased, own = head_in(file, table)
        assert mac == mac_of(key, origin, table, position, frontier, signed, erased, own)
        assert signed > 0


@pytest.mark.parametrize("log", ["events", "reads"])
def test_an_event_that_was_added_with_a_fitting_head_is_not_taken_for_the_books_own(path: Path, log: str) -> None:
    file, table = table_of(log, path)
    size = head_in(file, table)[0]
    forge(file, table)
    with tallybook.open(url_of(path)) as book:
        assert f"{WRONG_MAC}; what follows position {size} may have been added" in problem_of(book, log)
        assert WRONG_MAC in told_by_doctor(book)
        if log == "events":
            refused(book, WRONG_MAC)
        else:
            with pytest.raises(BookDamaged, match=f"access_records bears a MAC that was {WRONG_MAC}"):
                book.audit.checkpoint("reads")
            with (
                pytest.raises(BookDamaged, match=WRONG_MAC),
                book.acting("agent:lin", purpose="support"),
            ):
                book.profiles.get(UUID(bytes=next(iter(book._core.app.log.rows_at([1])))[1]))
    with tallybook.open(url_of(path)) as book:  # nor was it signed at closing
        assert max(one.size for one in book.audit.checkpoints(log)) == size


def test_old_copies_of_keys_make_a_head_that_the_book_takes_whatever_was_rotated(path: Path, tmp_path: Path) -> None:
    """What rotations do not help against: the look-up key, which the MACs come from, stays what it is."""
    old = tmp_path / "old"
    old.mkdir()
    for name in ("shop.book", "shop.book.keys", "shop.book.wrapping-key"):
        shutil.copy2(path.with_name(name), old / name)
    with tallybook.open(url_of(path)) as book, book.acting("admin:root", purpose="administration"):
        book.rotate_wrapping_key()
        book.audit.rotate_signing_key()
        kept = book.audit.checkpoint()
    forge(path, "stored_events", head=False)
    fit_head(path, key_of(old / "shop.book"))
    with tallybook.open(url_of(path)) as book:
        assert problem_of(book) == ""
        found = book.audit.checkpoint()
        assert (found.size, found.size > kept.size) == (book.position(), True)  # signed, as its own


def test_it_is_neither_while_the_book_is_open_and_its_tail_unsigned(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        visit(book, 5)
        seen = book.position()
        assert max(one.size for one in book.audit.checkpoints()) < seen
        forge(path, "stored_events")
        assert f"{WRONG_MAC}; what follows position {seen} may have been added" in problem_of(book)
        assert WRONG_MAC in told_by_doctor(book)
        refused(book, WRONG_MAC)


def test_an_event_that_was_added_without_a_head_is_no_conflict_that_is_tried_again(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        forge(path, "stored_events", head=False)
        for act in (lambda: visit(book), book.position):
            with pytest.raises(BookDamaged, match="says that the log ends at position"):
                act()
        assert "there is an event at position" in problem_of(book)


NO_MACS = {
    "none": "''",
    "of nothing": f"'{'0' * 64}'",
    "the other log's": "(SELECT mac FROM other.head WHERE log='access_records')",
    "upper case": "upper(mac)",
    "cut short": "substr(mac, 1, 63)",
    "no text": "x'00'",
}


@pytest.mark.parametrize("mac", NO_MACS)
def test_another_mac_is_none(path: Path, mac: str) -> None:
    run(
        path,
        f"ATTACH '{path}.reads' AS other",
        f"UPDATE main.head SET mac={NO_MACS[mac]} WHERE log='stored_events'",
    )
    with tallybook.open(url_of(path)) as book:
        with pytest.raises(BookDamaged):
            visit(book)
        assert not book.audit.verify()[0].holds


@pytest.mark.parametrize("mac", ["as it was", "none"])
@pytest.mark.parametrize("gone", ["all that tells of it too", "events only"])
def test_a_log_that_had_events_is_not_set_back_to_an_empty_one(path: Path, mac: str, gone: str) -> None:
    run(path, "DELETE FROM stored_events", "UPDATE head SET position=0, frontier=x''")
    if mac == "none":
        run(path, "UPDATE head SET mac='', signed=0")
    if gone != "events only":
        run(path, "DELETE FROM checkpoints", "DELETE FROM tiles", "DELETE FROM receipts", "DELETE FROM claims")
    with tallybook.open(url_of(path)) as book:
        refused(book, WRONG_MAC)
        assert not book.audit.verify()[0].holds


def test_an_empty_log_s_head_is_authentic_too(tmp_path: Path) -> None:
    tallybook.open(url_of(tmp_path / "shop.book")).close()
    position, _, signed, mac, _, _ = head_in(tmp_path / "shop.book")
    assert (position, signed, len(mac)) == (0, 0, 64)
    run(tmp_path / "shop.book", "UPDATE head SET mac=''")
    with tallybook.open(url_of(tmp_path / "shop.book")) as book, pytest.raises(BookDamaged, match=WRONG_MAC):
        visit(book)


def test_whoever_deletes_the_log_of_reads_and_the_note_of_it_gets_no_empty_one(path: Path) -> None:
    path.with_name("shop.book.reads").unlink()
    run(path, "DELETE FROM book WHERE name='reads'")
    with pytest.raises(ReadsMissing):
        tallybook.open(url_of(path))


@pytest.mark.parametrize("how", ["in files", "detached", "in memory"])
def test_each_kind_of_book_has_authentic_heads(tmp_path: Path, how: str) -> None:
    url = "memory:" if how == "in memory" else url_of(tmp_path / "shop.book")
    with tallybook.open(url, detached=True if how == "detached" else None) as book:
        visit(book, 3)
        assert [(one.problem, one.head_checked) for one in book.audit.verify()] == [(None, True)] * 2
        log = book._core.app.log
        with log.database.session(write=True) as session:
            session.run("UPDATE head SET mac=? WHERE log='stored_events'", ["0" * 64])
        refused(book, WRONG_MAC)


def test_what_is_looked_at_without_the_keys_is_said_to_be_so(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        origin = book.origin
    forge(path, "stored_events")
    with closing(SQLiteDatabase(str(path), read_only=True)) as database:
        found = verify("log", LogRecorder(database, origin=origin))
    assert (found.problem, found.head_checked) == (None, False)
    path.with_name("shop.book.keys").unlink()
    told = [one.what for one in tallybook.doctor(url_of(path)) if one.name == "positions"]
    assert len(told) == 2
    assert all("the MAC of its head was not looked at: the book's keys can't be read" in one for one in told)


def test_a_backup_of_a_forged_head_is_not_made(path: Path, tmp_path: Path) -> None:
    forge(path, "stored_events")
    with tallybook.open(url_of(path)) as book, pytest.raises(BookDamaged, match=WRONG_MAC):
        book.backup(tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_restored_book_goes_on(path: Path, tmp_path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        book.backup(tmp_path / "backup")
        book.backup_keys(tmp_path / "keys")
        visit(book, 3)
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy2(f"{path}.wrapping-key", there / "shop.book.wrapping-key")
    tallybook.restore(tmp_path / "backup", url_of(there / "shop.book"), keys=tmp_path / "keys")
    with tallybook.open(url_of(there / "shop.book")) as book:
        visit(book, 3)
        assert [(one.problem, one.head_checked) for one in book.audit.verify()] == [(None, True)] * 2


# ── going back ──────────────────────────────────────────────────────────────────────────────────────────────────


def cut(path: Path, head: Head, *, checkpoints: bool = True) -> None:
    """Put an older head back, and take away what came after it."""
    run(path, f"DELETE FROM stored_events WHERE position>{head[0]}")
    if checkpoints:
        run(path, f"DELETE FROM checkpoints WHERE size>{head[0]}", "DELETE FROM tiles")
    put_head(path, head)


def test_an_older_head_is_refused_while_the_book_is_open(path: Path) -> None:
    older = head_in(path)
    with tallybook.open(url_of(path)) as book:
        visit(book, 5)
        end = book.position()
        cut(path, older)
        told = f"went back: the log ends at position {older[0]}, and this process saw it end at {end}"
        assert told in told_by_doctor(book)
        assert f"the log is shorter than the head that this process saw: it ends at position {older[0]}" in (
            problem_of(book)
        )
        refused(book, told)


def test_so_is_one_from_before_the_book_was_opened_though_nothing_was_committed_since(
    path: Path, tmp_path: Path
) -> None:
    older = head_in(path)
    with tallybook.open(url_of(path)) as book:
        visit(book)
    with tallybook.open(url_of(path)) as book:
        cut(path, older)
        refused(book, "went back")


def test_another_history_of_the_same_length_is_refused(path: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    for one in tmp_path.glob("shop.book*"):
        shutil.copy2(one, twin)
    with tallybook.open(url_of(twin / "shop.book"), checkpoint_s=3600) as book:
        visit(book)  # genuine, with the book's keys, and another event than the one below
    with tallybook.open(url_of(path), checkpoint_s=3600) as book:
        visit(book)
        run(
            path,
            f"ATTACH '{twin / 'shop.book'}' AS twin",
            "DELETE FROM main.checkpoints",
            "INSERT INTO main.checkpoints SELECT * FROM twin.checkpoints",
            "DELETE FROM main.stored_events",
            "INSERT INTO main.stored_events SELECT * FROM twin.stored_events",
        )
        put_head(path, head_in(twin / "shop.book"))
        assert "the log was rewritten" in problem_of(book)
        assert "in the head that this process saw" in problem_of(book)
        refused(book, "is another than this process saw at the same position")


@pytest.mark.parametrize("log", ["events", "reads"])
def test_a_log_that_went_back_and_on_again_by_another_process_is_refused(path: Path, log: str) -> None:
    """One process saw a head; the older one is put back, and another process, which saw no newer one, goes beyond."""
    file, table = table_of(log, path)
    with (
        tallybook.open(url_of(path), checkpoint_s=3600) as book,
        tallybook.open(url_of(path), checkpoint_s=3600) as other,
    ):
        with book.acting("agent:lin", purpose="support"):
            ada = book.customers.register(name="Ada")
            older = head_in(file, table)
            book.customers.restrict(ada, reason="disputed")
            book.profiles.get(ada)
        end = head_in(file, table)[0]
        assert end > older[0]
        run(
            file,
            f"DELETE FROM {table} WHERE position>{older[0]}",
            f"DELETE FROM checkpoints WHERE size>{older[0]}",
        )
        put_head(file, older, table)
        with other.acting("agent:lin", purpose="support"):
            for _ in range(4):
                if log == "events":
                    other.customers.record_interaction(ada, "visit")
                else:
                    other.profiles.get(ada)
        assert head_in(file, table)[0] > end
        told = "goes on from another history than this process saw"
        checkpoints = book._core.checkpoints[log]
        before = list(checkpoints.stored())
        for act in (checkpoints.log.position, checkpoints.log.head, checkpoints.sign):
            with pytest.raises(BookDamaged, match=told):
                act()
        ways: dict[str, Callable[[], object]] = {"events": lambda: visit(book), "reads": lambda: book.profiles.get(ada)}
        with book.acting("agent:lin", purpose="support"), pytest.raises(BookDamaged, match=told):
            ways[log]()
        assert list(checkpoints.stored()) == before
        assert "this process saw" in problem_of(book, log)
        assert told in told_by_doctor(book)
        # The other process wrote what is there, and saw nothing else.
        assert problem_of(other, log) == ""


def test_what_another_process_added_and_pruned_leads_on_by_its_tiles(tmp_path: Path) -> None:
    """The rows that were new are gone by the time that this process looks: their hashes are in whole tiles."""
    with closing(SQLiteDatabase(str(tmp_path / "log"))) as database:
        one, other = (LogRecorder(database, origin="tallybook/x", key=bytes(32)) for _ in range(2))
        one.create_table()
        tiles = TileStore(other)
        one.append([(uuid4().bytes, 1, "x", b"%d" % number) for number in range(100)])
        for _ in range(10):
            other.append([(uuid4().bytes, 1, "x", b"%d" % number) for number in range(1000)])
        tiles.catch_up()
        root = other.head().frontier.root()
        assert one.seen is not None
        other.prune(Pruned(9_984, tiles.reader(9_984).root()))
        before = one.seen
        assert one.position() == 10_100
        assert one.head().frontier.root() == root
        # An altered tile does not lead there; nor do rows that were altered.
        one.seen = before
        with database.session(write=True) as session:
            session.run("UPDATE tiles SET hashes=zeroblob(8192) WHERE level=0 AND tile=3")
        with pytest.raises(BookDamaged, match="goes on from another history"):
            one.position()


def test_what_another_process_added_leads_on_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "JUMP_ROWS", 7)
    with closing(SQLiteDatabase(str(tmp_path / "log"))) as database:
        one, other = (LogRecorder(database, origin="tallybook/x", key=bytes(32)) for _ in range(2))
        one.create_table()
        for size in (1, 3, 40, 2, 700):
            other.append([(uuid4().bytes, 1, "x", b"") for _ in range(size)])
            assert one.position() == other.position()
            one.append([(uuid4().bytes, 1, "x", b"")])
            assert one.head().frontier.packed() == other.head().frontier.packed()
        other.append([(uuid4().bytes, 1, "x", b"") for _ in range(5)])
        with database.session(write=True) as session:
            session.run("UPDATE stored_events SET state=? WHERE position=?", (b"other", other.position() - 2))
        with pytest.raises(BookDamaged, match="goes on from another history"):
            one.append([(uuid4().bytes, 1, "x", b"")])


def test_a_tail_that_was_signed_at_closing_is_missed_by_its_checkpoint(path: Path) -> None:
    older = head_in(path)
    with tallybook.open(url_of(path)) as book:
        visit(book, 5)
        end = book.position()
    cut(path, older, checkpoints=False)
    with tallybook.open(url_of(path)) as book:
        assert f"shorter than its checkpoint of size {end}" in problem_of(book)
        with pytest.raises(BookDamaged, match="its last checkpoint tells of"):
            book.audit.checkpoint()


def test_a_whole_older_state_is_told_by_a_checkpoint_kept_elsewhere_only(path: Path) -> None:
    """The limit: nothing that lies in the database tells that it was newer once."""
    older = path.read_bytes()
    with tallybook.open(url_of(path)) as book:
        visit(book, 5)
        kept = book.audit.checkpoint().note
    path.write_bytes(older)
    with tallybook.open(url_of(path)) as book:
        assert problem_of(book) == ""
        assert "is shorter than the checkpoint that was given" in (book.audit.verify(against=kept)[0].problem or "")


KILLED = """
import os, sys, tallybook
book = tallybook.open(sys.argv[1], checkpoint_s=3600)
with book.acting("agent:lin", purpose="support"):
    for _ in range(5):
        book.customers.register(name="Ada")
print(book.position(), flush=True)
os._exit(0)
"""


def killed(path: Path) -> int:
    """A process leaves an unsigned tail; where that ends."""
    done = subprocess.run([sys.executable, "-c", KILLED, url_of(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_of_a_killed_process_s_tail_nobody_adds_to_it_and_its_loss_is_not_noticed(path: Path, tmp_path: Path) -> None:
    older, position = path.read_bytes(), head_in(path)[0]
    assert killed(path) == position + 10
    twin = tmp_path / "twin"
    twin.mkdir()
    for one in tmp_path.glob("shop.book*"):
        shutil.copy2(one, twin)
    forge(twin / "shop.book", "stored_events")
    with tallybook.open(url_of(twin / "shop.book")) as book:
        refused(book, WRONG_MAC)
    path.with_name("shop.book-wal").unlink(missing_ok=True)
    path.write_bytes(older)
    with tallybook.open(url_of(path)) as book:
        assert book.position() == position
        assert problem_of(book) == "", "the limit: nothing tells that there was more"
        visit(book)
        assert problem_of(book) == ""


def test_threads_that_read_and_write_see_no_log_go_back(path: Path) -> None:
    with tallybook.open(url_of(path), checkpoint_s=0) as book, ThreadPoolExecutor(6) as pool:
        start = book.position()
        stop = threading.Event()

        def look() -> int:
            count = 0
            while not stop.is_set():
                book.position()
                assert book._core.app.log.head().position >= start
                count += 1
            return count

        looking = [pool.submit(look) for _ in range(3)]
        writing = [pool.submit(visit, book, 25) for _ in range(3)]
        for one in writing:
            one.result()
        stop.set()
        assert all(one.result() for one in looking)
        assert problem_of(book) == ""


# ── checkpoints that are taken out ──────────────────────────────────────────────────────────────────────────────


TAKEN = {
    "the first": "size=(SELECT MIN(size) FROM checkpoints)",
    "one in the middle": "size=20",
    "the last": "size=(SELECT MAX(size) FROM checkpoints)",
    "all": "1",
}


@pytest.mark.parametrize("log", ["events", "reads"])
@pytest.mark.parametrize("which", TAKEN)
def test_checkpoints_that_are_taken_out_are_missed(path: Path, which: str, log: str) -> None:
    file, _ = table_of(log, path)
    condition = TAKEN["the last"] if (log, which) == ("reads", "one in the middle") else TAKEN[which]
    run(file, f"DELETE FROM checkpoints WHERE {condition}")
    with tallybook.open(url_of(path)) as book:
        assert "of its checkpoints were taken out" in problem_of(book, log)
        book.audit.checkpoint(log)
        assert "of its checkpoints were taken out" in problem_of(book, log), "a new one does not make up for it"
        assert "taken out" in told_by_doctor(book)


def test_a_head_that_counts_fewer_is_not_the_books_own(path: Path) -> None:
    run(path, "DELETE FROM checkpoints WHERE size=20", "UPDATE head SET signed=signed-1")
    with tallybook.open(url_of(path)) as book:
        refused(book, WRONG_MAC)


def test_many_checkpoints_of_one_size_count_once(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        signed = head_in(path)[2]
        for _ in range(5):
            book.audit.checkpoint()
        assert head_in(path)[2] == signed
        assert problem_of(book) == ""
        visit(book)
        book.audit.checkpoint()
        assert head_in(path)[2] == signed + 1
        assert problem_of(book) == ""


def test_those_that_many_sign_at_once_are_counted(path: Path) -> None:
    books = [tallybook.open(url_of(path)) for _ in range(4)]

    def work(book: Book) -> None:
        for _ in range(8):
            visit(book)
            book.audit.checkpoint()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, books))
    assert [problem_of(book) for book in books] == [""] * 4
    with closing(sqlite3.connect(path)) as raw:
        [(sizes,)] = raw.execute("SELECT COUNT(DISTINCT size) FROM checkpoints")
    assert head_in(path)[2] == sizes
    for book in books:
        book.close()


# ── the timer ───────────────────────────────────────────────────────────────────────────────────────────────────


def waiting() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == THREAD]


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def signed(book: Book, log: str = "events") -> int:
    return max((one.size for one in book.audit.checkpoints(log)), default=0)


@pytest.fixture
def quiet() -> Iterator[None]:
    """No other book's timer is at work."""
    for one in list(module.TIMERS):
        one.finish(5.0)
    until(lambda: not waiting())
    yield
    until(lambda: not waiting())


def test_an_idle_tail_is_signed_in_time_and_then_nobody_waits(path: Path, quiet: None) -> None:
    with tallybook.open(url_of(path), checkpoint_s=0.4) as book:
        for _ in range(3):
            visit(book, 2)  # the first commit may be signed at once; the others leave a tail
            assert signed(book) <= book.position()
            if signed(book) < book.position():
                assert len(waiting()) == 1, "one thread for a book, whatever is committed"
            until(lambda: signed(book) == book.position())
            until(lambda: not waiting())
        assert problem_of(book) == ""


def test_both_logs_have_one_timer(path: Path, quiet: None) -> None:
    with tallybook.open(url_of(path), checkpoint_s=0.4) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada")
        book.customers.register(name="Bob")
        book.profiles.get(ada)
        book.profiles.get(ada)
        assert len(waiting()) <= 1
        reads = book._core.checkpoints["reads"].log
        until(lambda: (signed(book), signed(book, "reads")) == (book.position(), reads.position()))
        until(lambda: not waiting())


def test_without_something_unsigned_nobody_waits(path: Path, quiet: None) -> None:
    with tallybook.open(url_of(path), checkpoint_s=3600) as book:
        book.audit.checkpoint("reads")  # that it was opened
        book.position()
        assert all(one.tail_due() is None for one in book._core.checkpoints.values())
    with tallybook.open(url_of(path), signing_key="unsigned", checkpoint_s=0.2) as book:
        visit(book, 3)
        assert waiting() == [], "who has no key signs nothing"


def test_a_tail_that_a_killed_process_left_is_signed_though_nothing_is_committed(path: Path, quiet: None) -> None:
    end = killed(path)
    with tallybook.open(url_of(path), checkpoint_s=0.3) as book:
        until(lambda: signed(book) == book.position() == end)


def test_what_another_process_signed_is_not_signed_again(path: Path, quiet: None) -> None:
    with tallybook.open(url_of(path), checkpoint_s=1.0) as book, tallybook.open(url_of(path)) as other:
        visit(book, 3)
        other.audit.checkpoint()
        notes = [one.note for one in book.audit.checkpoints()]
        until(lambda: book._core.checkpoints["events"].tail_due() is None)
        assert [one.note for one in book.audit.checkpoints()] == notes


def test_a_failure_is_logged_tried_again_and_harms_nobody(
    path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = 0
    sign = Checkpoints._sign

    def fails(self: Checkpoints) -> object:
        nonlocal failures
        if threading.current_thread().name == THREAD and failures < 2:
            failures += 1
            raise tallybook.BookError("no key today", path="", remedy="")
        return sign(self)

    monkeypatch.setattr(Checkpoints, "_sign", fails)
    with tallybook.open(url_of(path), checkpoint_s=0.2) as book, caplog.at_level(logging.WARNING, "tallybook.log"):
        visit(book, 3)
        visit(book, 3)
        until(lambda: failures == 2)
        visit(book)
        until(lambda: signed(book) == book.position())
    assert "no key today" in caplog.text


def test_nothing_is_signed_after_closing_and_the_thread_ends(
    path: Path, quiet: None, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        book = tallybook.open(url_of(path), checkpoint_s=0.05)
        visit(book, 2)
        time.sleep(0.045)  # about when the timer rings
        book.close()
    until(lambda: not waiting())
    assert "No checkpoint" not in caplog.text
    with tallybook.open(url_of(path)) as book:
        assert problem_of(book) == ""


def test_no_thread_is_to_be_had(
    path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with tallybook.open(url_of(path), checkpoint_s=0.2) as book:
        until(lambda: not waiting())
        with monkeypatch.context() as patch:
            patch.setattr(threading.Timer, "start", start)
            visit(book, 3)
        assert "can't start new thread" in caplog.text
        time.sleep(0.2)
        visit(book)
        until(lambda: signed(book) == book.position())


def test_a_book_that_nobody_closed_is_not_held_up(path: Path, quiet: None) -> None:
    book = tallybook.open(url_of(path), checkpoint_s=0.6)
    visit(book, 3)
    timer = book._core.tail_timer
    assert timer in module.TIMERS
    assert [one.args for one in waiting() if isinstance(one, threading.Timer)] != []
    assert all(timer not in one.args for one in waiting() if isinstance(one, threading.Timer)), "by a weak reference"
    book.close()


def test_a_fork_leaves_the_timer_to_the_parent(path: Path, quiet: None) -> None:
    with tallybook.open(url_of(path), checkpoint_s=0.5) as book:
        visit(book, 3)
        child = os.fork()
        if child == 0:
            try:
                module._finish()  # as at the interpreter's end
                book._core.tail_timer.stop()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        until(lambda: signed(book) == book.position())


NEVER_CLOSED = """
import sys, time, tallybook
book = tallybook.open(sys.argv[1], checkpoint_s=float(sys.argv[2]))
with book.acting("agent:lin", purpose="support"):
    for _ in range(3):
        book.customers.register(name="Ada")
time.sleep(float(sys.argv[3]))
"""


@pytest.mark.parametrize(("checkpoint_s", "sleep_s"), [("3600", "0"), ("0.05", "0.05"), ("0.05", "0.06")])
def test_the_interpreter_ends_though_a_tail_is_unsigned(path: Path, checkpoint_s: str, sleep_s: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEVER_CLOSED, url_of(path), checkpoint_s, sleep_s],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with tallybook.open(url_of(path)) as book:
        assert problem_of(book) == ""


# ── on a server ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def schema() -> Iterator[str]:
    name = new_schema()
    yield name
    drop_schema(name)


def on_server(schema: str, tmp_path: Path) -> Callable[..., Book]:
    def opened(checkpoint_s: float = 60) -> Book:
        return tallybook.open(
            schema_url(schema),
            wrapping_key=tmp_path / "wrapping",
            signing_key=tmp_path / "signing",
            checkpoint_s=checkpoint_s,
        )

    return opened


@pytest.mark.server
def test_on_a_server_too_the_head_is_authentic_and_never_goes_back(schema: str, tmp_path: Path) -> None:
    opened = on_server(schema, tmp_path)
    read = f"SELECT position, frontier, signed, mac FROM {schema}.head WHERE log='stored_events'"
    with opened() as book, opened() as other:
        for one in (book, other, book):
            visit(one, 2)
        [older] = book._core.app.log.database.rows(read)
        visit(other, 2)
        assert book.position() == other.position() == older[0] + 4
        assert [(one.problem, one.head_checked) for one in book.audit.verify()] == [(None, True)] * 2
        run_sql(f"DELETE FROM {schema}.stored_events WHERE position>{older[0]}")
        run_sql(
            f"UPDATE {schema}.head SET position={older[0]}, frontier='\\x{older[1].hex()}', signed={older[2]}, "
            f"mac='{older[3]}' WHERE log='stored_events'"
        )
        for one in (book, other):
            assert "the log is shorter than" in problem_of(one)
            assert "went back" in told_by_doctor(one)
            refused(one, "went back")
    run_sql(f"DELETE FROM {schema}.checkpoints")
    with opened() as book:
        assert "taken out" in problem_of(book)
        run_sql(f"UPDATE {schema}.head SET mac='{'0' * 64}'")
        refused(book, WRONG_MAC)


@pytest.mark.server
def test_on_a_server_a_log_is_not_set_back_to_an_empty_one(schema: str, tmp_path: Path) -> None:
    opened = on_server(schema, tmp_path)
    with opened() as book:
        visit(book)
    run_sql(f"DELETE FROM {schema}.stored_events")
    run_sql(f"UPDATE {schema}.head SET position=0, frontier='', signed=0, mac='' WHERE log='stored_events'")
    with opened() as book:
        refused(book, WRONG_MAC)


@pytest.mark.server
def test_on_a_server_an_idle_tail_is_signed_in_time(schema: str, tmp_path: Path, quiet: None) -> None:
    with on_server(schema, tmp_path)(checkpoint_s=0.4) as book:
        visit(book, 2)
        visit(book, 2)
        until(lambda: signed(book) == book.position())


@pytest.mark.server
def test_on_a_server_hosts_that_write_and_sign_at_once_agree(schema: str, tmp_path: Path) -> None:
    opened = on_server(schema, tmp_path)
    books = [opened(checkpoint_s=0) for _ in range(3)]

    def work(book: Book) -> None:
        for _ in range(10):
            visit(book)
            book.position()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, books))
    assert [problem_of(book) for book in books] == [""] * 3
    for book in books:
        book.close()


# ── rows among the checkpoints that nobody signed ───────────────────────────────────────────────────────────────────


def plant(file: Path, table: str) -> int:
    """Put a row among the checkpoints that tells the true root of now, and that nobody signed; its size."""
    head = head_in(file, table)
    root = merkle.Frontier(*head[:2]).root()
    with closing(sqlite3.connect(file, timeout=10)) as raw, raw:
        raw.execute(
            "INSERT INTO checkpoints VALUES (?,?,?,?,'',x'','')", (table, head[0], time.time_ns() // 1000, root)
        )
    return head[0]


def test_a_row_that_nobody_signed_keeps_nothing_from_being_signed(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(url_of(path)) as book:
        visit(book)  # is signed at once; what follows, later
        visit(book)
        size = plant(path, "stored_events")
        checkpoints = book._core.checkpoints["events"]
        last = checkpoints.last()
        assert last is None or last.size < size
        assert f"the checkpoint of size {size} that is kept is not what was signed" in problem_of(book)
    with closing(sqlite3.connect(path)) as raw:
        rows = raw.execute("SELECT note='' FROM checkpoints WHERE size=?", [size]).fetchall()
    assert sorted(rows) == [(0,), (1,)], "at closing, that size is signed all the same"


def test_a_size_of_which_a_row_was_planted_before_counts(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(url_of(path)) as book:
        visit(book)
        visit(book)
        size = plant(path, "stored_events")
        assert book.audit.checkpoint().size == size
        visit(book)
        book.audit.checkpoint()
        run(path, "DELETE FROM checkpoints WHERE note=''")
        assert problem_of(book) == ""
        run(path, f"DELETE FROM checkpoints WHERE size={size}")
        assert "1 of its checkpoints were taken out" in problem_of(book)


def test_no_row_of_another_tells_since_when_a_key_signs(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    with tallybook.open(url_of(path)) as book:
        visit(book)
        for log in ("events", "reads"):
            book.audit.checkpoint(log)
        with book.acting("job:it", purpose="upkeep"):
            new = book.audit.rotate_signing_key()
        checkpoints = book._core.checkpoints["reads"]
        first = checkpoints._first_signed(new)
        line = notes.line(checkpoints.name, Verifier(checkpoints.name, Verifier.parse(new).public).key_id + bytes(64))
        with closing(sqlite3.connect(path.with_name("shop.book.reads"), timeout=10)) as raw, raw:
            raw.execute(
                "INSERT INTO checkpoints VALUES ('access_records', 1, 1, ?, ?, x'', '')",
                (bytes(32), f"{checkpoints.name}\n1\n{b64encode(bytes(32)).decode()}\n\n{line}"),
            )
        assert checkpoints._first_signed(new) == first


def test_a_clock_that_stands_still_overwrites_no_checkpoint(tmp_path: Path) -> None:
    with tallybook.open(url_of(tmp_path / "shop.book"), now_us=lambda: 1_790_000_000_000_000) as book:
        visit(book)
        witnesses = []
        for _ in range(3):
            one = book.audit.checkpoint()
            text = notes.taken_apart(one.note)[0]
            witness = Signer.new("witness.example")
            book.audit.keep(one.note + witness.cosign(text, 1_790_000_001), witness.vkey)
            witnesses.append(witness.verifier.public)
        found = [vkey for one in book.audit.checkpoints() for vkey, _ in one.cosigned]
        assert [Verifier.parse(one).public for one in found] == witnesses
        assert problem_of(book) == ""
