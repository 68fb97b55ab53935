"""A book whose data keys are lost or not at hand: what can be verified is, what can't is named."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import Book, BookNotFound, KeysMissing
from tallybook.adapters.integrity import WITHOUT_KEYS
from tallybook.cli import app
from tallybook.upkeep import doctor


@pytest.fixture
def lost(book_url: str, tmp_path: Path) -> str:
    """The URL of a book with an erased and a living customer, whose keys were taken away."""
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada Lovelace", identifiers={"crm": "1"})
        book.profiles.get(ada)
        book.erasures.erase(book.customers.register(name="Bob"), reason="gdpr-17")
        book.audit.checkpoint()
    keys = [one for one in tmp_path.rglob("*") if one.name.endswith((".keys", ".wrapping-key"))]
    assert keys
    for one in keys:
        one.rename(tmp_path / f"{one.name}.away")
    return book_url


def whose(book: Book) -> UUID:
    """The customer who lives."""
    return UUID(bytes=next(iter(book._core.app.log.rows_at([1])))[1])


def test_a_book_without_its_keys_is_verified_and_says_what_is_not(lost: str) -> None:
    with pytest.raises(KeysMissing):
        tallybook.open(lost)
    with tallybook.open(lost, keyless=True) as book:
        events, reads = book.audit.verify()
        assert (events.problem, reads.problem) == (None, None)
        assert (events.unchecked, reads.unchecked) == (WITHOUT_KEYS, ())
        assert events.checkpoints > 0
        assert all(one.holds for one in book.audit.verify_read_models())


def test_without_keys_nothing_is_worked_with_and_no_look_up_is_guessed(lost: str) -> None:
    with tallybook.open(lost, keyless=True) as book, book.acting("agent:lin", purpose="support"):
        ada, position, reads = whose(book), book.position(), book._core.gate.reads.position()
        for call in (
            lambda: book.customers.register(name="Cyd"),
            lambda: book.customers.change(ada, address="Here", command_id="one"),
            lambda: book.erasures.erase(ada, reason="gdpr-17"),
            lambda: book.customers.find("crm", "1"),
            lambda: book.profiles.get(ada),
            book.rotate_wrapping_key,
        ):
            with pytest.raises(KeysMissing):
                call()
        assert book.position() == position
        assert book._core.gate.reads.position() >= reads
    for one in (lost.replace("shop.book", "other.book").replace("schema=", "schema=no_"), "memory:"):
        with pytest.raises(BookNotFound):
            tallybook.open(one, keyless=True)


def test_a_sealed_pack_of_it_is_verified_by_a_stranger_and_is_on_record(lost: str, tmp_path: Path) -> None:
    with tallybook.open(lost, keyless=True) as book, book.acting("auditor:ann", purpose="audit"):
        vkey = book.audit.vkey
        book.audit.export(tmp_path / "pack")
        with pytest.raises(KeysMissing):
            book.audit.export(tmp_path / "clear", sealed=False)
        assert not (tmp_path / "clear").exists()
        *_, (_, last) = book._core.reads()
        exported = [event for _, event in book._core.reads() if event.stored_name == "access.exported"]
        assert len(exported) == 1
        assert last.metadata.actor == "auditor:ann"
    pack = tmp_path / "pack"
    ran = subprocess.run(
        [sys.executable, "-I", pack / "verify.py", pack, "--vkey", vkey], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "VERIFIED" in ran.stdout) == (0, True), ran.stdout + ran.stderr


def test_its_doctor_goes_on_and_names_what_it_could_not_check(lost: str) -> None:
    found = doctor(lost)
    assert {one.name for one in found if one.state == "ok"} >= {"root", "streams", "events", "checkpoints"}
    told = {one.name: one for one in found if one.state != "ok"}
    assert told["keys"].state == "failed" or told["files"].state == "failed"
    assert "not checked" in told["erasures"].what
    assert "not checked" in told["snapshots"].what


def test_the_command_line_verifies_and_exports_without_keys(lost: str, tmp_path: Path) -> None:
    run = CliRunner()
    ran = run.invoke(app, ["audit", "verify", "--book", lost, "--json"])
    assert ran.exit_code == 0
    assert "Opened without data keys" in ran.stderr
    events, reads, *_ = json.loads(ran.stdout)
    assert events["unchecked"] == list(WITHOUT_KEYS)
    assert reads["unchecked"] == []
    ran = run.invoke(app, ["audit", "verify", "--book", lost])
    assert f"not checked without the data keys: {WITHOUT_KEYS[0]}" in ran.stdout
    acting = ["--actor", "auditor:ann", "--purpose", "audit", "--book", lost]
    assert run.invoke(app, ["audit", "export", str(tmp_path / "p"), *acting]).exit_code == 0
    for refused in (["audit", "export", str(tmp_path / "c"), "--clear"], ["audit", "trail"]):
        assert isinstance(run.invoke(app, [*refused, *acting]).exception, KeysMissing)


def test_an_altered_row_is_found_without_keys_too(book_url: str, tmp_path: Path) -> None:
    if not book_url.startswith("sqlite"):
        pytest.skip("a row is altered in a file")
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        for number in range(5):
            book.customers.register(name=f"Customer {number}")
    with closing(sqlite3.connect(tmp_path / "shop.book")) as raw, raw:
        raw.execute("UPDATE stored_events SET state=zeroblob(length(state)) WHERE position=3")
    (tmp_path / "shop.book.keys").unlink()
    with tallybook.open(book_url, keyless=True) as book:
        assert [(one.holds, one.position) for one in book.audit.verify()] == [(False, 3), (True, None)]
