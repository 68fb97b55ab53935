"""Doctor: nothing to find in a sound book, and each fault is found by its check."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import msgpack
import psycopg
import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import BookNotFound, upkeep
from tallybook.adapters import doctor as module
from tallybook.adapters.doctor import Finding
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters.wrapping import FileWrappingKeys
from tallybook.cli import app

from .heads import fit_head, key_of
from .postgres import Proxy, run_sql, server_url

DATA = Path(tallybook.__file__).parent / "data"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture(autouse=True)
def mended_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever release the tests run on: it has a test of its own."""
    monkeypatch.setattr(module, "_may_lose_the_wal", lambda _: False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of real purchases, with orders, receipts, claims and reads; closed, and never changed."""
    folder = tmp_path_factory.mktemp("made")
    with lzma.open(DATA / "cdnow_master.txt.xz", "rb") as file:
        (folder / "slice.txt").write_bytes(b"".join(next(file) for _ in range(2001)))
    path = folder / "shop.book"
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="test"):
        book.rules.adopt(DATA / "standard.toml", effective_at="1997-01-01T00:00:00Z")
        book.imports.cdnow(folder / "slice.txt")
        for number in range(5):
            ada = book.customers.register(name="Ada", identifiers={"crm": str(number)}, command_id=f"c-{number}")
            book.customers.record_purchase(
                ada, [{"sku": "x", "quantity": 1, "net_minor": 5_000}], order_id=f"A-{number}", command_id=f"o-{number}"
            )
            book.profiles.get(ada)
        book.loyalty.sweep("1998-06-30T23:59:59Z")
        book.projections.catch_up()
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    for suffix in ("", ".keys", ".wrapping-key", ".reads", ".signing-key"):
        shutil.copy2(f"{made}{suffix}", tmp_path / f"shop.book{suffix}")
    return tmp_path / "shop.book"


def altered(path: Path, *statements: str, sealed: bool = False) -> None:
    """Alter a file; `sealed`: and let the head agree, so that the root doesn't tell."""
    with closing(sqlite3.connect(path)) as raw, raw:
        for statement in statements:
            raw.execute(statement)
    if sealed:
        reseal(path)


def found(path: Path, *, quick: bool = False) -> list[Finding]:
    """What is not well, by looking from outside; nothing is changed by that."""
    return [one for one in tallybook.doctor(url_of(path), quick=quick) if one.state != "ok"]


def brief(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(one.name, one.state) for one in findings}


NOT_LOOKED_AT = ("read models", "warning")
NO_KEYS_LOOKED_AT = {(name, "warning") for name in ("keys", "erasures", "snapshots", "sweep notes")}
"""A book that is not well is not opened."""


# ── a sound book ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sound_book_has_no_findings(path: Path) -> None:
    everything = {check.name for check in module.CHECKS} - {"server"} | {"files"}
    assert found(path) == []
    assert {one.name for one in tallybook.doctor(url_of(path))} == everything
    with tallybook.open(url_of(path)) as book:
        findings = book.doctor()
        assert [one for one in findings if one.state != "ok"] == []
        assert {one.name for one in findings} == everything
        root = book.audit.verify()[0].root
        assert any(root in one.what for one in findings)
        assert any(f"{book.position():,} positions" in one.what for one in findings)
    deep = {check.name for check in module.CHECKS if check.deep}
    assert {one.name for one in tallybook.doctor(url_of(path), quick=True)} == everything - deep


def test_a_book_in_memory_has_none_either() -> None:
    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="test"):
        book.profiles.get(book.customers.register(name="Ada"))
        findings = book.doctor()
        assert [one for one in findings if one.state != "ok"] == []
        assert {"positions", "root", "keys", "read models"} <= {one.name for one in findings}


def test_looking_changes_nothing(path: Path) -> None:
    altered(path, "UPDATE receipts SET last_position=10000000")
    before = {one.name: one.read_bytes() for one in path.parent.iterdir()}
    assert ("receipts", "failed") in brief(found(path))
    after = {one.name: one.read_bytes() for one in path.parent.iterdir() if not one.name.endswith(("-shm", "-wal"))}
    assert after == before
    assert all(one.stat().st_size == 0 for one in path.parent.glob("*-wal"))


WRITER = """
import os, sys, tallybook
with tallybook.open(sys.argv[1]) as book, book.acting("agent:lin", purpose="test"):
    print("ready", flush=True)
    while True:
        book.profiles.get(book.customers.register(name="Ada", identifiers={"x": f"{os.getpid()} {book.position()}"}))
"""


def test_a_book_that_others_write_to_has_no_findings(path: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", WRITER, url_of(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        with tallybook.open(url_of(path)) as book:
            start = book.position()
            for _ in range(5):
                assert [one for one in book.doctor() if one.state != "ok"] == []
            assert book.position() > start
        assert all(child.poll() is None for child in children)
    finally:
        for child in children:
            child.kill()
            child.communicate()


# ── planted faults ────────────────────────────────────────────────────────────────────────────────────────────────


def with_state(path: Path, position: int, change: Callable[[list[Any]], None]) -> None:
    """Alter the stored form of an event, and let the Merkle tree agree: only reading it can tell."""
    with closing(sqlite3.connect(path)) as raw, raw:
        [(state,)] = raw.execute("SELECT state FROM stored_events WHERE position=?", (position,))
        values = msgpack.unpackb(state)
        change(values)
        raw.execute("UPDATE stored_events SET state=? WHERE position=?", (msgpack.packb(values), position))
    reseal(path)


def reseal(path: Path, table: str = "stored_events") -> None:
    """Make the head what the rows give, and leave nothing that tells of others."""
    with closing(sqlite3.connect(path)) as raw, raw:
        for derived in ("tiles", "checkpoints"):
            raw.execute(f"DELETE FROM {derived} WHERE log=?", (table,))
    fit_head(path, key_of(path), table)


def version_of(values: list[Any]) -> None:
    values[0] = 99


def with_another_key(path: Path) -> None:
    with closing(FileKeyStore(Path(f"{path}.keys"), FileWrappingKeys(f"{path}.wrapping-key"))) as store:
        [[subject]] = store.database.rows("SELECT MIN(subject) FROM data_keys")
        with store.database.session(write=True) as session:
            session.run("DELETE FROM data_keys WHERE subject=?", [subject])
        store.add({(UUID(bytes=subject), 1): bytes(32)})


def too_short(values: list[Any]) -> None:
    values.pop()


def a_day_later(values: list[Any]) -> None:
    values[5][0] += 86_400_000_000


REGISTERED = "(SELECT MIN(position) FROM stored_events WHERE topic='customer.registered')"
LAST = "(SELECT MAX(position) FROM stored_events)"

FAULTS: dict[str, tuple[Callable[[Path], object], set[tuple[str, str]], str]] = {
    "a position is missing": (
        lambda path: altered(path, "DELETE FROM stored_events WHERE position=10"),
        {("positions", "failed"), ("root", "failed"), ("streams", "failed")},
        "1 are missing",
    ),
    "the last event is missing": (
        lambda path: altered(path, f"DELETE FROM stored_events WHERE position={LAST}"),
        {("positions", "failed"), ("root", "failed")},
        "its head says",
    ),
    "an event was altered": (
        lambda path: altered(
            path, f"UPDATE stored_events SET state=CAST(state || x'00' AS BLOB) WHERE position={REGISTERED}"
        ),
        {("root", "failed"), ("events", "failed")},
        "can't be read",
    ),
    "the recorded root is another": (
        lambda path: altered(path, "UPDATE head SET frontier=zeroblob(length(frontier))"),
        {("positions", "failed"), ("root", "failed")},
        "the head was altered",
    ),
    "a frontier can't be one": (
        lambda path: altered(path, "UPDATE head SET frontier=x'00'"),
        {("positions", "failed"), ("root", "failed")},
        "has 1 bytes|this has",
    ),
    "a stream has a gap": (
        lambda path: altered(
            path,
            "UPDATE stored_events SET originator_version=originator_version+5 WHERE position="
            "(SELECT MAX(position) FROM stored_events WHERE originator_version>1)",
            sealed=True,
        ),
        {("streams", "failed")},
        "have gaps in their versions",
    ),
    "an event has an unknown name": (
        lambda path: altered(
            path, f"UPDATE stored_events SET topic='customer.teleported' WHERE position={REGISTERED}", sealed=True
        ),
        {("stored names", "failed")},
        "'customer.teleported', which this release does not know; first at ",
    ),
    "an event is of a later release": (
        lambda path: with_state(path, 30, version_of),
        {("events", "failed")},
        "1 events have a newer schema version; first at position 30",
    ),
    "an event is not of its form": (
        lambda path: with_state(path, 30, too_short),
        {("events", "failed")},
        "1 events can't be read; first: position 30",
    ),
    "the clock went back": (
        lambda path: with_state(path, 30, a_day_later),
        {("events", "warning")},
        "first at position 31",
    ),
    "a claim is nobody's": (
        lambda path: altered(path, "UPDATE claims SET holder=zeroblob(16) WHERE claim=(SELECT MIN(claim) FROM claims)"),
        {("claims", "failed")},
        "1 are not what the book wrote, and 0 are held by those to whom the log gives none; 1 that it gives",
    ),
    "a claim is on something else": (
        lambda path: altered(
            path,
            "UPDATE claims SET claim=CAST(substr(claim, 1, 9) || x'5a' || substr(claim, 11) AS BLOB) "
            "WHERE claim=(SELECT MIN(claim) FROM claims)",
        ),
        {("claims", "failed")},
        "1 are not what the book wrote, and 0 are held by those to whom the log gives none; 1 that it gives",
    ),
    "a receipt has the outcome of another command": (
        lambda path: altered(
            path,
            "UPDATE receipts SET result=(SELECT result FROM receipts AS b WHERE b.result<>receipts.result LIMIT 1) "
            "WHERE command_id=(SELECT MIN(command_id) FROM receipts)",
        ),
        {("receipts", "failed")},
        " receipts can't be what was written",
    ),
    "a receipt tells of lost events": (
        lambda path: altered(path, "UPDATE receipts SET last_position=last_position+1000000"),
        {("receipts", "failed")},
        "those are lost",
    ),
    "a read was altered": (
        lambda path: altered(
            path.with_name("shop.book.reads"), "UPDATE access_records SET originator_id=zeroblob(16) WHERE position=2"
        ),
        {("root", "failed")},
        "log of reads: the event at position 2 was altered",
    ),
    "a key is missing": (
        lambda path: altered(
            path.with_name("shop.book.keys"), "DELETE FROM data_keys WHERE subject=(SELECT MIN(subject) FROM data_keys)"
        ),
        {("keys", "warning")},
        "1 of [0-9,]+ subjects have no key",
    ),
    "a key is another": (
        with_another_key,
        {("keys", "failed")},
        "have another key than the log commits to",
    ),
    "a wrapped key was altered": (
        lambda path: altered(
            path.with_name("shop.book.keys"),
            "UPDATE data_keys SET wrapped=zeroblob(60) WHERE subject=(SELECT MIN(subject) FROM data_keys)",
        ),
        {("keys", "failed")},
        "altered or moved",
    ),
    "a read model is ahead of the log": (
        lambda path: altered(path, "UPDATE read_model_builds SET position=position+500 WHERE name='tiers'"),
        {("read models", "failed")},
        "ahead of the log",
    ),
    "others may read the keys": (
        lambda path: path.with_name("shop.book.keys").chmod(0o644),
        {("files", "failed")},
        "has mode 644",
    ),
    "the key file is another book's": (
        lambda path: altered(path.with_name("shop.book.keys"), "UPDATE book SET value='other' WHERE name='origin'"),
        {("files", "failed"), *NO_KEYS_LOOKED_AT},
        "shop.book.keys belongs to another book",
    ),
    "the log of reads is another book's": (
        lambda path: altered(path.with_name("shop.book.reads"), "UPDATE book SET value='other' WHERE name='origin'"),
        {("files", "failed")},
        "shop.book.reads belongs to another book",
    ),
    "the keys are not there": (
        lambda path: path.with_name("shop.book.keys").unlink(),
        {("files", "failed"), *NO_KEYS_LOOKED_AT},
        "the key file shop.book.keys is not there",
    ),
    "the log of reads is not there": (
        lambda path: path.with_name("shop.book.reads").unlink(),
        {("files", "failed")},
        "the log of reads shop.book.reads is not there",
    ),
    "the log is not there": (
        lambda path: path.unlink(),
        {("files", "failed")},
        "the book shop.book is not there",
    ),
    "the format is a later release's": (
        lambda path: altered(path, "PRAGMA user_version=99"),
        {("files", "failed")},
        "has format 99",
    ),
    "the file is something else": (
        lambda path: altered(path, "PRAGMA application_id=7"),
        {("files", "failed")},
        "its application id is 0x7",
    ),
    "the file is no database": (
        lambda path: path.write_bytes(b"not a database" * 1000),
        {("files", "failed"), ("pages", "failed")},
        "file is not a database",
    ),
    "the file is cut short": (
        lambda path: os.truncate(path, path.stat().st_size // 2),
        {("files", "failed"), ("pages", "failed")},
        "malformed",
    ),
    "a backup was killed beside it": (
        lambda path: path.with_name("shop.book.0123.part").touch(),
        {("left over", "warning")},
        "shop.book.0123.part",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_check_and_by_no_other(path: Path, fault: str) -> None:
    plant, expected, told = FAULTS[fault]
    plant(path)
    findings = found(path)
    if any(state == "failed" for name, state in expected if name != "read models"):
        expected = expected | {NOT_LOOKED_AT}
    assert brief(findings) == expected, findings
    assert any(re.search(told, one.what) for one in findings), findings
    assert all(one.remedy for one in findings)
    names = [one.name for one in findings]
    assert len(names) == len(set(names)), "one fault, one finding of each check"


def test_a_damaged_page_is_found(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        [(root,)] = raw.execute("SELECT rootpage FROM sqlite_master WHERE name='receipts'")
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    findings = found(path)
    assert brief(findings) == {("pages", "failed"), ("receipts", "failed"), ("command ids", "failed"), NOT_LOOKED_AT}
    assert any("could not be checked" in one.what for one in findings)
    assert found(path, quick=True)


def test_a_hot_journal_of_the_keys_is_told_and_undone_by_opening(path: Path) -> None:
    code = (
        "import os, sqlite3, sys\n"
        "raw = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "raw.execute('PRAGMA journal_mode=TRUNCATE'); raw.execute('PRAGMA cache_size=1')\n"
        "raw.execute('BEGIN IMMEDIATE')\n"
        "rows = [(os.urandom(16), bytes(60)) for _ in range(3000)]\n"
        "raw.executemany('INSERT INTO data_keys VALUES (?,1,zeroblob(16),?,0,zeroblob(0))', rows)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path) + ".keys"], check=False)
    [finding, unchecked] = found(path, quick=True)
    assert (finding.name, finding.state) == ("files", "warning")
    assert (unchecked.name, unchecked.state) == ("keys", "warning")
    assert "cut short" in finding.what
    assert found(path) == []  # its read models were looked at by opening it, which undid the commit


def test_little_space_and_a_reader_that_never_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(path.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert brief(found(path)) == {("space", "warning")}
    monkeypatch.undo()
    monkeypatch.setattr(module, "_may_lose_the_wal", lambda _: False)
    monkeypatch.setattr(module, "WAL_BYTES_MAX", 6 * 2**20)

    def write(book: tallybook.Book) -> None:
        for _ in range(12):
            with book.acting("agent:lin", purpose="test"):
                for _ in range(20):
                    book.customers.register(name="Ada" * 100)
            book.projections.rebuild()

    with tallybook.open(url_of(path)) as book:
        write(book)
        assert found(path, quick=True) == [], "SQLite folds its log in as it goes"
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("BEGIN")
            raw.execute("SELECT COUNT(*) FROM stored_events").fetchone()
            write(book)
            findings = found(path, quick=True)
    assert brief(findings) == {("write-ahead log", "warning")}
    assert "a reader that does not end" in findings[0].what


def test_a_read_model_that_failed_is_told_with_its_position(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tallybook.open(url_of(path)) as book, book.acting("agent:lin", purpose="test"):

        def poison(*_: object) -> None:
            raise RuntimeError("poison")

        monkeypatch.setattr(book._core.tiers, "fold", poison)
        position = book.position()
        book.customers.register(name="Ada")
        book.projections.catch_up()
        findings = [one for one in book.doctor(quick=True) if one.state != "ok"]
    assert brief(findings) == {("read models", "failed")}
    assert f"position {position + 1}" in findings[0].what
    assert "poison" in findings[0].what
    assert "tallybook projections retry tiers" in findings[0].remedy


def test_a_book_that_can_not_be_opened_for_another_reason_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise tallybook.BookReadOnly("It can't be written.", path=str(path))

    monkeypatch.setattr(upkeep, "open_book", broken)
    findings = found(path, quick=True)
    assert brief(findings) == {("read models", "failed")}
    assert "BookReadOnly" in findings[0].what


HOLDER = """
import sqlite3, sys
raw = sqlite3.connect(sys.argv[1], isolation_level=None)
raw.execute("PRAGMA locking_mode=EXCLUSIVE")
raw.execute("BEGIN EXCLUSIVE")
raw.execute("UPDATE " + sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("suffix", "row"), [("", "head SET position=position"), (".keys", "book SET value=value")])
def test_a_file_that_another_process_holds_is_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, row: str
) -> None:
    waits: list[float] = []
    looking = module._looking

    def noted(file: Path, wait_s: float) -> sqlite3.Connection:
        waits.append(wait_s)
        return looking(file, wait_s)

    monkeypatch.setattr(module, "_looking", noted)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, f"{path}{suffix}", row],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        findings = [one for one in tallybook.doctor(url_of(path), lock_timeout_s=1) if one.state != "ok"]
        done = CliRunner().invoke(app, ["doctor", "--book", url_of(path), "--quick", "--lock-timeout", "0"])
    finally:
        child.kill()
        child.communicate()
    assert ("files", "failed") in brief(findings), findings
    assert not any("backup" in one.remedy for one in findings), findings
    assert all("Try again" in one.remedy for one in findings if one.state == "failed")
    assert done.exit_code == 1
    assert "Try again" in done.stdout
    assert waits[:3] == [1, 1, 1]
    assert set(waits[3:]) == {0}, "it waits in vain once"
    assert found(path) == []


def test_a_place_that_can_not_be_read_is_no_damage(path: Path) -> None:
    path.unlink()
    path.mkdir()
    [finding, *_] = found(path, quick=True)
    assert (finding.name, finding.state) == ("files", "failed")
    assert "could not be checked" in finding.what
    assert "backup" not in finding.remedy


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (PermissionError(13, "Permission denied"), "owner and mode"),
        (tallybook.BookUnreachable("It is away.", remedy="Check that the server runs."), "server runs"),
        (tallybook.BookReadOnly("It can't be written.", remedy="Check the user's rights."), "rights"),
        (tallybook.BookDamaged("It is damaged.", remedy="See doctor."), "restore"),
        (ValueError("no such number"), "restore"),
    ],
)
def test_a_check_that_could_not_be_made_says_how_to_mend_its_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "outline", broken)
    [finding, *_] = found(path, quick=True)
    assert (finding.name, finding.state) == ("positions", "failed")
    assert "could not be checked" in finding.what
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("release", "bad"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 54, 0), False),
    ],
)
def test_releases_of_sqlite_that_may_damage_a_file_are_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, release: tuple[int, ...], bad: bool
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(sqlite3, "sqlite_version_info", release)
    assert brief(found(path, quick=True)) == ({("versions", "warning")} if bad else set())


# ── on a server ───────────────────────────────────────────────────────────────────────────────────────────────────


def wrong(book: tallybook.Book) -> list[Finding]:
    """What is not well, apart from the settings of the tests' own server."""
    return [one for one in book.doctor() if one.state != "ok" and one.name != "server"]


def test_a_sound_book_on_a_server_has_no_findings(server_book_url: str) -> None:
    with tallybook.open(server_book_url) as book, book.acting("agent:lin", purpose="test"):
        ada = book.customers.register(name="Ada", identifiers={"crm": "1"}, command_id="c-1")
        book.profiles.get(ada)
        assert wrong(book) == []
        told = [one for one in book.doctor(quick=True) if one.name == "server"]
    [(fsync,)] = run_sql("SHOW fsync")
    assert [one.state for one in told] == (["warning", "ok"] if fsync == "off" else ["ok"])
    assert "PostgreSQL" in told[-1].what
    assert brief([one for one in tallybook.doctor(server_book_url) if one.state == "failed"]) == set()


def test_a_book_on_a_server_is_told_nothing_of_files(
    server_book_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_may_lose_the_wal", lambda _: True)
    models = f"sqlite:///{tmp_path}/models.db"
    for read_models, states in ((None, ["ok"]), (models, ["ok", "warning"])):
        findings = tallybook.doctor(server_book_url, quick=True, read_models=read_models) if read_models else []
        if not findings:
            with tallybook.open(server_book_url) as book:
                findings = book.doctor(quick=True)
        assert [one.state for one in findings if one.name == "versions"] == states
        [told] = [one for one in findings if one.name == "space"]
        assert (told.state, "not known" in told.what) == ("ok", True)
    with tallybook.open("memory:") as book:
        names = {(one.name, one.state) for one in book.doctor(quick=True)}
    assert ("versions", "warning") not in names
    assert "space" not in {name for name, _ in names}


SERVER_FAULTS = {
    "DELETE FROM {}.stored_events WHERE position=2": {"positions", "root", "streams"},
    "UPDATE {}.stored_events SET state=state || '\\x00'::bytea WHERE position=2": {"root", "events"},
    "UPDATE {}.receipts SET last_position=1000": {"receipts"},
    "UPDATE {}.claims SET holder='\\x00000000000000000000000000000000'::bytea": {"claims"},
    "UPDATE {}.head SET position=position+1 WHERE log='access_records'": {"positions", "root"},
    "UPDATE {}.read_model_builds SET position=position+5 WHERE name='trail'": {"read models"},
}


@pytest.mark.parametrize("statement", SERVER_FAULTS)
def test_a_fault_on_a_server_is_found_by_its_check(server_book_url: str, statement: str) -> None:
    schema = parse_qs(urlsplit(server_book_url).query)["schema"][0]
    with tallybook.open(server_book_url) as book, book.acting("agent:lin", purpose="test"):
        book.customers.register(name="Ada", identifiers={"crm": "1"}, command_id="c-1")
        book.profiles.get(book.customers.register(name="Bea"))
        run_sql(statement.format(f'"{schema}"'))
        found = {one.name for one in wrong(book) if one.state == "failed"}
    assert found == SERVER_FAULTS[statement]


def test_what_is_locked_on_a_server_is_no_damage(server_book_url: str) -> None:
    schema = parse_qs(urlsplit(server_book_url).query)["schema"][0]
    with (
        tallybook.open(server_book_url, lock_timeout_s=1) as book,
        psycopg.connect(server_url()) as other,
    ):
        other.execute(f'LOCK TABLE "{schema}".receipts')
        failures = [one for one in book.doctor() if one.state == "failed"]
    assert "receipts" in [one.name for one in failures]
    assert {one.remedy for one in failures} == {module.AGAIN}, failures


def test_a_server_that_goes_away_is_no_damage(server_book_url: str) -> None:
    schema = parse_qs(urlsplit(server_book_url).query)["schema"][0]
    proxy = Proxy()
    try:
        with tallybook.open(proxy.url(schema)) as book:
            proxy.refuses = True
            proxy.cut_all()
            failures = [one for one in book.doctor() if one.state == "failed"]
    finally:
        proxy.close()
    assert {"positions", "root", "receipts"} <= {one.name for one in failures}
    assert all("Check that the server runs" in one.remedy for one in failures), failures


def test_settings_that_lose_what_was_acknowledged_are_told(
    server_book_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tallybook.open(server_book_url) as book:
        settings = book._core.storage.events.settings()  # type: ignore[attr-defined]  # PostgreSQL's has it
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            for value, states in (("off", ["warning", "ok"]), ("on", ["ok"])):
                given = {**settings, "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", name: value}
                monkeypatch.setattr(type(book._core.storage.events), "settings", lambda _, given=given: given)
                findings = [one for one in book.doctor(quick=True) if one.name == "server"]
                assert [one.state for one in findings] == states
                assert value == "on" or name in findings[0].what


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run() -> Callable[..., Any]:
    def command(*args: str) -> Any:
        return CliRunner().invoke(app, ["doctor", *args])

    return command


def test_the_command_says_what_and_how_to_mend_it(path: Path, run: Callable[..., Any]) -> None:
    done = run("--book", url_of(path), "--json")
    assert done.exit_code == 0
    assert {one["state"] for one in json.loads(done.stdout)} == {"ok"}
    assert run("--book", url_of(path), "--quick").exit_code == 0
    path.with_name("shop.book.keys").unlink()
    done = run("--book", url_of(path))
    assert done.exit_code == 1
    assert "is not there" in " ".join(done.stdout.split())
    assert "files: Put it back" in done.stdout
    done = run("--book", url_of(path), "--json", "--quick")
    assert done.exit_code == 1
    assert {"name": "files", "state": "failed"}.items() <= json.loads(done.stdout)[0].items()
    os.truncate(path, 5000)
    assert run("--book", url_of(path)).exit_code == 1


def test_where_there_is_nothing_of_a_book_nothing_is_examined(tmp_path: Path) -> None:
    with pytest.raises(BookNotFound):
        tallybook.doctor(url_of(tmp_path / "shop.book"))
    assert list(tmp_path.iterdir()) == []


def test_a_command_is_not_answered_with_the_outcome_of_another(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    url = f"sqlite:///{path}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        first, second = (book.customers.register(command_id=f"c-{number}") for number in (1, 2))
        assert first != second
    altered(path, "CREATE TABLE before AS SELECT command_id AS whose, result FROM receipts")
    altered(path, "UPDATE receipts SET result=(SELECT before.result FROM before WHERE whose<>command_id)")
    altered(path, "DROP TABLE before")
    with (
        tallybook.open(url) as book,
        book.acting("agent:lin", purpose="support"),
        pytest.raises(tallybook.BookDamaged, match="is not what the book wrote"),
    ):
        book.customers.register(command_id="c-1")
