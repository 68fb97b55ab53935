"""Detached books: what is signed and handed out of a log commits to hashes of states, and holds none of their bytes."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock
from uuid import UUID

import msgpack
import pytest
from tests.conftest import DATA
from typer.testing import CliRunner

import tallybook
from tallybook import Book, BookError, Refused
from tallybook.adapters import merkle
from tallybook.adapters.merkle import DETACHED
from tallybook.adapters.storage import open_storage
from tallybook.cli import app

NAME = "Ada Lovelace of the detached book"


def fill(book: Book, count: int = 300) -> None:
    with book.acting("agent:lin", purpose="support"):
        for number in range(count):
            customer = book.customers.register(name=f"{NAME} {number}")
        for _ in range(3):
            book.profiles.get(customer)


def states(book: Book) -> list[bytes]:
    """The stored states of both logs that have something sealed in them."""
    rows = [row for one in book._core.checkpoints.values() for row in one.log.iterate()]
    return [row[4] for row in rows if len(row[4]) > 40]


def bundles(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("tile/**/*")) if path.is_file())


@pytest.fixture
def detached(book_url: str) -> Book:
    book = tallybook.open(book_url, detached=True)
    fill(book)
    return book


def test_every_leaf_of_both_logs_is_the_hash_of_its_state(detached: Book) -> None:
    with detached as book:
        assert book.origin.startswith(DETACHED)
        for log in ("events", "reads"):
            checkpoints = book._core.checkpoints[log]
            frontier = merkle.Frontier()
            for position, stream, version, name, state in checkpoints.log.iterate():
                found = book.audit.proof(position, log=log) if position in (1, 2, 300) else None
                entry = merkle.leaf(book.origin, position, stream, version, name, state)
                *_, none, hashed = msgpack.unpackb(entry)
                assert (none, len(hashed)) == (None, 32)
                assert state not in entry
                assert found is None or found.leaf == entry
                frontier.append([entry])
            assert frontier.root().hex() == book.audit.checkpoint(log).root
        assert [one.problem for one in book.audit.verify()] == [None, None]
        assert all(one.holds for one in book.audit.verify_read_models())
        assert [one for one in book.doctor() if one.state == "failed"] == []
        with book.acting("agent:lin", purpose="support"):
            customer = next(iter(book._core.app.log.rows_at([1])))[1]
            assert str(book.profiles.get(UUID(bytes=customer))["name"]).startswith(NAME)


def test_an_altered_row_is_found_by_its_position(detached: Book, book_url: str) -> None:
    with detached as book, book._core.storage.events.session(write=True) as session:
        [(state,)] = session.rows("SELECT state FROM stored_events WHERE position=100")
        session.run("UPDATE stored_events SET state=? WHERE position=100", [state[:-1] + bytes([state[-1] ^ 1])])
    with tallybook.open(book_url) as book:
        found = book.audit.verify()[0]
        assert found.position == 100
        assert "the event at position 100 was altered" in (found.problem or "")


def test_the_pack_holds_no_state_in_its_entries_and_verifies(detached: Book, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    with detached as book:
        with book.acting("auditor:kay", purpose="audit"):
            book.audit.export(pack)
        vkey = tmp_path / "vkey"
        vkey.write_text(book.audit.vkey)
        held = states(book)
    entries = bundles(pack)
    assert len(held) > 300
    assert not any(state in entries or state[-40:] in entries for state in held)
    run: list[str | Path] = [sys.executable, "-I", "-S", pack / "verify.py", pack, "--vkey", vkey]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (pack / "events.jsonl").read_text().splitlines()]
    assert all("state" in line for line in lines)
    # Another state under the same hash is none; and an entry with a state in it is no entry of such a log.
    lines[6]["state"] = base64.b64encode(base64.b64decode(lines[5]["state"])).decode()
    (pack / "events.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "position 7: the state is not the one whose hash the log holds" in done.stdout


def test_the_verifier_takes_no_state_in_a_detached_log() -> None:
    spec = importlib.util.spec_from_file_location("verifier_of_detached", DATA / "verify.py")
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {spec.name: code}):
        spec.loader.exec_module(code)
    for origin, fine in (("tallybook/1", True), (f"{DETACHED}1", False)):
        entry = msgpack.packb([origin, 1, bytes(16), 1, "customer.registered", b"state"])
        if fine:
            assert code.check_entry(entry, origin, 1).state == b"state"
        else:
            with pytest.raises(code.Bad, match="hold hashes only"):
                code.check_entry(entry, origin, 1)
        assert code.check_entry(merkle.leaf(origin, 1, b"", 1, "n", bytes(70_000)), origin, 1).state is None


def test_it_is_fixed_when_the_book_is_made(book_url: str) -> None:
    with tallybook.open(book_url, detached=True) as book:
        origin = book.origin
    for wanted in (None, True):
        with tallybook.open(book_url, detached=wanted) as book:
            assert book.origin == origin
    with pytest.raises(BookError, match="is detached") as refused:
        tallybook.open(book_url, detached=False)
    assert "made" in str(refused.value)


def test_a_book_that_is_not_detached_is_not_opened_as_one(book_url: str) -> None:
    with tallybook.open(book_url) as book:
        assert not book.origin.startswith(DETACHED)
    with pytest.raises(BookError, match="is not detached"):
        tallybook.open(book_url, detached=True)
    with tallybook.open(book_url, detached=False):
        pass


def test_stores_of_the_host_s_own_have_it_in_their_origin() -> None:
    storage = open_storage("memory:", create=True, lock_timeout_s=5, detached=True)
    with pytest.raises(Refused) as refused:
        tallybook.open(storage, detached=True)
    assert refused.value.code == "invalid_argument"
    with tallybook.open(storage) as book:
        assert book.origin.startswith(DETACHED)


def test_whoever_alters_what_the_book_notes_of_itself_is_found(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url, detached=True) as book:
        fill(book, 3)
    with closing(sqlite3.connect(tmp_path / "shop.book")) as raw, raw:
        raw.execute("UPDATE book SET value=replace(value, 'detached/', '') WHERE name='origin'")
    with pytest.raises(BookError):
        tallybook.open(url)


def test_a_backup_gives_it_back(tmp_path: Path) -> None:
    url, again = f"sqlite:///{tmp_path}/shop.book", tmp_path / "again"
    again.mkdir()
    with tallybook.open(url, detached=True) as book:
        fill(book, 5)
        origin, checkpoint = book.origin, book.audit.checkpoint()
        book.backup(tmp_path / "backup")
        book.backup_keys(tmp_path / "keys")
    shutil.copy2(tmp_path / "shop.book.wrapping-key", again / "shop.book.wrapping-key")
    tallybook.restore(tmp_path / "backup", f"sqlite:///{again}/shop.book", keys=tmp_path / "keys")
    with tallybook.open(f"sqlite:///{again}/shop.book", detached=True) as book:
        assert book.origin == origin
        assert [one.problem for one in book.audit.verify(against=checkpoint.note)] == [None, None]


def test_an_audit_replay_proves_by_hashes(tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book", detached=True) as book:
        with book.acting("agent:lin", purpose="support"):
            customer = book.customers.register(name=NAME)
            found = book.audit.replay(customer, datetime.now(UTC), proofs=True)
        said = json.dumps(found.document)
        for state in states(book):
            assert base64.b64encode(state).decode()[4:-4] not in said


def test_the_command_line_makes_one(tmp_path: Path) -> None:
    run, candidate = CliRunner(), ["rules", "adopt", "standard", "--actor", "admin:zoe", "--purpose", "setup"]
    for name, options, detached in (("whole", [], False), ("detached", ["--detached"], True)):
        url = f"sqlite:///{tmp_path}/{name}.book"
        assert run.invoke(app, [*options, *candidate, "--book", url]).exit_code == 0
        with tallybook.open(url) as book:
            assert book.origin.startswith(DETACHED) is detached
        assert run.invoke(app, ["audit", "verify", "--book", url]).exit_code == 0
        again = run.invoke(app, ["--detached", "audit", "verify", "--book", url])
        assert isinstance(again.exception, BookError) is not detached
