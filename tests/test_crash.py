"""SIGKILL at any moment: nothing that was acknowledged is lost, nothing is there twice, and work goes on."""

from __future__ import annotations

import lzma
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import warm
from tests.conftest import holder_of

import tallybook
from tallybook.domain.customer import CustomerRegistered, PurchaseRecorded
from tallybook.domain.errors import ImportFileError
from tallybook.projections.replay import Certificate

DATA = Path(tallybook.__file__).parent / "data"
RULES = DATA / "standard.toml"
ADOPTED = "1996-01-01T00:00:00Z"
LINES = 3000


@dataclass
class Slice:
    """Some lines of the CDNOW file, and what they add up to."""

    path: Path
    purchases: int
    cents: int
    customers: int


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    with lzma.open(DATA / "cdnow_master.txt.xz", "rb") as file:
        head = [next(file) for _ in range(LINES + 1)]
    path = tmp_path_factory.mktemp("cdnow") / "slice.txt"
    path.write_bytes(b"".join(head))
    rows = [line.split() for line in head[1:]]
    cents = sum(int(row[3].replace(b".", b"")) for row in rows)
    return Slice(path, len(rows), cents, len({row[0] for row in rows}))


def new_book(url: str) -> None:
    with tallybook.open(url) as book, book.acting("job:setup", purpose="test"):
        book.rules.adopt(RULES, effective_at=ADOPTED)


def totals(book: tallybook.Book) -> dict[str, Any]:
    """What an import adds up to, independent of ids and of where it was cut short."""
    with book.acting("job:test", purpose="test"):
        pairs = book.profiles.segments(system="cdnow")
    segments = {name: {key: value for key, value in asdict(one).items() if key != "customer_id"} for name, one in pairs}
    assert len(segments) == len(pairs)
    points: Counter[str] = Counter()
    for recorded in book._core.history():
        event = recorded.event
        points[event.stored_name] += 1
        points[f"{event.stored_name} points"] += getattr(event, "points", 0)
    # Batches of other sizes register the same customers under as many keys and enrolments.
    return {"segments": segments, "points": dict(points), "tiers": book.tiers.counts(as_of="1998-06-30")}


def sound(book: tallybook.Book) -> Certificate:
    assert [one.problem for one in book.audit.verify()] == [None, None]
    certificate = book.replay()
    assert certificate.holds, certificate.first
    assert [one.position for one in book._core.history()] == list(range(1, book.position() + 1))
    return certificate


def purchases(book: tallybook.Book) -> int:
    return sum(1 for _ in book._core.history([PurchaseRecorded.stored_name]))


IMPORT = """
import os, signal, sys
import tallybook
from tallybook import imports
imports.ROWS_PER_COMMIT = int(sys.argv[3])
def die():
    os.kill(os.getpid(), signal.SIGKILL)
armed = []
{arrange}
book = tallybook.open(sys.argv[1])
armed.append(1)
def acknowledged(done, total):
    print(done, flush=True)
with book.acting("job:import", purpose="import"):
    print(0, flush=True)
    book.imports.cdnow(sys.argv[2], progress=acknowledged)
print("done", flush=True)
"""


def start_import(url: str, part: Slice, rows_per_commit: int, arrange: str = "") -> warm.Started:
    return warm.start(IMPORT.replace("{arrange}", arrange), url, str(part.path), str(rows_per_commit))


@pytest.fixture(scope="module")
def imported(part: Slice, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a book after an import that nobody cut short; to be copied."""
    folder = tmp_path_factory.mktemp("imported")
    url = f"sqlite:///{folder / 'shop.book'}"
    new_book(url)
    with tallybook.open(url) as book, book.acting("job:import", purpose="import"):
        report = book.imports.cdnow(part.path)
        assert (report.recorded, report.known, report.rejected) == (LINES, 0, 0)
        assert report.customers == part.customers
    return folder


@pytest.fixture(scope="module")
def undisturbed(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The totals of an import that nobody cut short."""
    folder = shutil.copytree(imported, tmp_path_factory.mktemp("whole") / "copy")
    with tallybook.open(f"sqlite:///{folder / 'shop.book'}") as book:
        return totals(book)


def finish_and_check(url: str, part: Slice, undisturbed: dict[str, Any]) -> None:
    """Import the rest, and again; the book then holds each line once."""
    with tallybook.open(url) as book, book.acting("job:import", purpose="import"):
        there = purchases(book)
        report = book.imports.cdnow(part.path)
        assert (report.known, report.recorded) == (there, LINES - there)
        assert report.purchases == LINES == purchases(book)
        bought = [recorded.event for recorded in book._core.history([PurchaseRecorded.stored_name])]
        assert sum(event.net_minor for event in bought if isinstance(event, PurchaseRecorded)) == part.cents
        registered = sum(1 for _ in book._core.history([CustomerRegistered.stored_name]))
        assert registered == part.customers
        sound(book)
        assert totals(book) == undisturbed
        position = book.position()
        again = book.imports.cdnow(part.path)
        assert (again.recorded, again.known, again.customers, again.events) == (0, LINES, 0, 0)
        assert book.position() == position


def test_an_import_that_is_killed_at_random_moments_loses_and_doubles_nothing(
    part: Slice, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    seed = int(os.environ.get("TALLYBOOK_CRASH_SEED", "0")) or time.time_ns() % 2**32
    print(f"TALLYBOOK_CRASH_SEED={seed}")
    chance = random.Random(seed)
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    new_book(url)
    kept = killed = 0
    for _ in range(5):
        child = start_import(url, part, chance.choice([20, 50, 110]))
        acknowledged = int(child.stdout.readline())
        for _ in range(chance.randrange(1, 12)):
            text = child.stdout.readline()
            if not text.strip().isdigit():
                break
            acknowledged = int(text)
        time.sleep(chance.random() * 0.02)
        killed += child.poll() is None
        child.kill()
        rest, errors = child.communicate()
        assert errors == "", f"seed {seed}"
        acknowledged = max([acknowledged, *[int(text) for text in rest.split() if text.isdigit()]])
        with tallybook.open(url) as book:
            there = purchases(book)
            assert there >= acknowledged, f"seed {seed}: acknowledged purchases are lost"
            assert there >= kept
            kept = there
            sound(book)
    assert killed, f"seed {seed}: no import was killed while it ran"
    assert kept > 0, f"seed {seed}"
    finish_and_check(url, part, undisturbed)


MOMENTS = {
    "when the keys are on disk and the events are not": """
from tallybook.adapters.keys import Keyring
real, calls = Keyring.keep, []
def keep(self, keys):
    assert keys
    real(self, keys); calls.append(1)
    if len(calls) == 4: die()
Keyring.keep = keep
""",
    "within the transaction, after the events": """
from tallybook.adapters.sqlite import SQLiteSession
real, calls = SQLiteSession.__exit__, []
def leave(self, *args):
    calls.extend([1] * bool(armed and self._write and self._database.journal_mode == "WAL"))
    if len(calls) == 4: die()
    return real(self, *args)
SQLiteSession.__exit__ = leave
""",
    "after the commit, before it is acknowledged": """
from tallybook.adapters.sqlite import SQLiteSession
real, calls = SQLiteSession.__exit__, []
def leave(self, *args):
    calls.extend([1] * bool(armed and self._write and self._database.journal_mode == "WAL"))
    found = real(self, *args)
    if len(calls) == 4: die()
    return found
SQLiteSession.__exit__ = leave
""",
    "while a key is written": """
from tallybook.adapters.key_tables import FileKeyStore
real, calls = FileKeyStore.add, []
def add(self, keys):
    calls.append(1)
    if len(calls) == 4:
        raw = self.database._take(write=True)
        raw.execute("BEGIN IMMEDIATE")
        rows = [(s.bytes, i, k) for (s, i), k in keys.items()]
        raw.executemany("INSERT INTO data_keys VALUES (?,?,x'',?,0,x'')", rows)
        die()
    real(self, keys)
FileKeyStore.add = add
""",
    "while a key is on its way to the disk": """
from tallybook.adapters.key_tables import FileKeyStore
real, calls = FileKeyStore.add, []
def add(self, keys):
    calls.append(1)
    if len(calls) == 4:
        # A small cache makes SQLite write pages before the commit, as the commit does: journal first, then pages.
        raw = self.database._take(write=True)
        raw.execute("PRAGMA cache_size=1")
        raw.execute("BEGIN IMMEDIATE")
        more = [(os.urandom(16), bytes(32)) for _ in range(1000)]
        raw.executemany("INSERT INTO data_keys VALUES (?, 1, x'', ?, 0, x'')", more)
        die()
    real(self, keys)
FileKeyStore.add = add
""",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_import_that_is_killed_at_its_weakest_moments_goes_on(
    part: Slice, tmp_path: Path, undisturbed: dict[str, Any], moment: str
) -> None:
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    new_book(url)
    child = start_import(url, part, 100, MOMENTS[moment])
    out, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, errors
    wanted = 400 if moment.startswith("after the commit") else 300
    with tallybook.open(url) as book:
        assert purchases(book) == wanted
        sound(book)
    assert out.split()[-1] == "300"
    finish_and_check(url, part, undisturbed)


SWEEP = """
import os, signal, sys
import tallybook
from tallybook import loyalty
loyalty.ACCOUNTS_PER_COMMIT = 50
book = tallybook.open(sys.argv[1])
def after(done, total):
    if done >= 150:
        os.kill(os.getpid(), signal.SIGKILL)
with book.acting("job:sweep", purpose="expiry"):
    book.loyalty.sweep("1999-12-31T00:00:00Z", progress=after)
"""


def test_a_sweep_that_is_killed_goes_on_and_ends_like_one_that_was_not(
    part: Slice, imported: Path, tmp_path: Path
) -> None:
    ends = []
    for killed in (False, True):
        url = f"sqlite:///{shutil.copytree(imported, tmp_path / str(killed)) / 'shop.book'}"
        if killed:
            done = warm.run(SWEEP, url)
            assert done.returncode == -signal.SIGKILL, done.stderr
            with tallybook.open(url) as book:
                assert sound(book).pending > 0
        with tallybook.open(url) as book, book.acting("job:sweep", purpose="expiry"):
            result = book.loyalty.sweep("1999-12-31T00:00:00Z")
            assert result.accounts == part.customers
            assert sound(book).pending == 0
            ends.append(totals(book))
            position = book.position()
            book.loyalty.sweep("1999-12-31T00:00:00Z")
            assert book.position() == position
    assert ends[0] == ends[1]


REBUILD = """
import os, signal, sys
import tallybook
from tallybook.adapters.read_models import TableRows
real, calls = TableRows.flush, []
def flush(self, *args, **kwargs):
    real(self, *args, **kwargs); calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
TableRows.flush = flush
with tallybook.open(sys.argv[1]) as book:
    book.projections.rebuild()
print("not killed")
"""


def test_a_rebuild_that_is_killed_leaves_the_live_read_models_as_they_were(imported: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{shutil.copytree(imported, tmp_path / 'copy') / 'shop.book'}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        before = totals(book)
        customer = book.customers.find("cdnow", "00004")
        assert customer is not None
        profile = book.profiles.get(customer)
    done = warm.run(REBUILD, url)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert [one.lag for one in book.projections.status()] == [0, 0, 0, 0]
        assert book.profiles.get(customer) == profile
        book.projections.rebuild()
        assert totals(book) == before
        assert book.profiles.get(customer) == profile
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as raw:
        tables = [
            name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE name LIKE 'profiles!_!_%' ESCAPE '!'")
        ]
        assert len([name for name in tables if name.removeprefix("profiles__").isdigit()]) == 1, tables


def test_a_command_that_was_killed_after_its_commit_gives_its_result_when_it_is_repeated(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    new_book(url)
    code = f"""
import os, signal, sys
import tallybook
armed = []
{MOMENTS["after the commit, before it is acknowledged"].replace("die()", "os.kill(os.getpid(), signal.SIGKILL)")}
calls += [1, 1, 1]
book = tallybook.open(sys.argv[1])
armed.append(1)
with book.acting("agent:lin", purpose="test"):
    book.customers.register(name="Ada", identifiers={{"crm": "77"}}, command_id="c-1")
"""
    done = warm.run(code, url)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="test"):
        position = book.position()
        ada = book.customers.register(name="Ada", identifiers={"crm": "77"}, command_id="c-1")
        assert book.position() == position
        assert holder_of(book, "crm", "77") == ada
        assert book.profiles.get(ada)["name"] == "Ada"


# ── broken lines ──────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = [b" 00001 19970101  1   11.77\n", b" 00002 19970112  1   12.00\n"]


def broken_file(tmp_path: Path, bad: bytes, good_before: int = 700) -> Path:
    path = tmp_path / "broken.txt"
    path.write_bytes(b"".join([GOOD[0]] * good_before) + bad + GOOD[1])
    return path


@pytest.mark.parametrize(
    "bad",
    [
        b" 00001 19970230  1   11.77\n",
        b" 00001 19970101  1\n",
        b" 00001 19970101  0   11.77\n",
        b"\xff\xfe\n",
        b"x" * 5000 + b"\n",
        b" 00001 20990101  1   11.77\n",
    ],
    ids=["no such date", "too few columns", "no pieces", "no ASCII", "too long", "in the future"],
)
def test_a_broken_line_stops_an_import_with_nothing_recorded(tmp_path: Path, bad: bytes) -> None:
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    new_book(url)
    path = broken_file(tmp_path, bad)
    with tallybook.open(url) as book, book.acting("job:import", purpose="import"):
        before = book.position()
        with pytest.raises(ImportFileError) as caught:
            book.imports.cdnow(path)
        assert caught.value.line == 701
        assert str(path) in str(caught.value)
        assert book.position() == before
        assert holder_of(book, "cdnow", "00001") is None
        path.write_bytes(path.read_bytes().replace(bad, b""))
        assert book.imports.cdnow(path).recorded == 701
        sound(book)


def test_bad_lines_that_are_skipped_are_set_aside_byte_for_byte(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    new_book(url)
    bad = [b" 00001 19970230  1   11.77\n", b"\xff\xfe\x00\n", b"a,b,c,d\r\n", b"x" * 6000 + b"\n", b" 1 2 3"]
    path, rejects = tmp_path / "mixed.txt", tmp_path / "rejects.txt"
    path.write_bytes(GOOD[0] + bad[0] + GOOD[1] * 600 + bad[1] + bad[2] + GOOD[0] + bad[3] + GOOD[1] + bad[4])
    with tallybook.open(url) as book, book.acting("job:import", purpose="import"):
        report = book.imports.cdnow(path, skip_bad=rejects)
        assert (report.purchases, report.recorded, report.rejected) == (608, 603, 5)
        assert purchases(book) == 603
        assert rejects.read_bytes() == b"".join(bad) + b"\n"
        again = book.imports.cdnow(path, skip_bad=rejects)
        assert (again.recorded, again.known, again.rejected) == (0, 603, 5)
        sound(book)


def test_rejected_lines_never_go_to_the_file_that_is_imported(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    new_book(url)
    path = broken_file(tmp_path, b"broken\n")
    content = path.read_bytes()
    with tallybook.open(url) as book, book.acting("job:import", purpose="import"):
        before = book.position()
        with pytest.raises(ImportFileError):
            book.imports.cdnow(path, skip_bad=path)
        assert path.read_bytes() == content
        assert book.position() == before


@pytest.mark.parametrize("name", ["nowhere.txt", "nowhere.txt.xz", "."])
def test_a_file_that_is_not_there_is_an_import_error(tmp_path: Path, name: str) -> None:
    with (
        tallybook.open("memory:") as book,
        book.acting("job:import", purpose="import"),
        pytest.raises(ImportFileError),
    ):
        book.imports.cdnow(tmp_path / name)


@pytest.mark.parametrize("cut", [0, 1, 10, 100, -1])
def test_a_packed_file_that_is_cut_short_or_no_packed_file_records_nothing(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "lines.txt.xz"
    packed = lzma.compress(b"".join(GOOD * 50))
    path.write_bytes(b"no xz file" if cut == 0 else packed[:cut])
    with tallybook.open("memory:") as book, book.acting("job:import", purpose="import"):
        with pytest.raises(ImportFileError):
            book.imports.cdnow(path)
        assert book.position() == 0


def test_the_same_purchases_in_another_file_are_other_purchases(tmp_path: Path) -> None:
    # CDNOW has no order ids: a line is known by its file's digest and its number.
    with tallybook.open("memory:") as book, book.acting("job:import", purpose="import"):
        for number in (1, 2):
            path = tmp_path / f"{number}.txt"
            path.write_bytes(GOOD[0] * 3 + b"\n" * number)
            assert book.imports.cdnow(path).recorded == 3
        assert purchases(book) == 6
        packed = tmp_path / "1.txt.xz"
        packed.write_bytes(lzma.compress((tmp_path / "1.txt").read_bytes()))
        assert book.imports.cdnow(packed).known == 3
