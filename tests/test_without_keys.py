"""A book whose data keys are lost or not at hand: what can be verified is, what can't is named."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import UUID

import msgpack
import pytest
from tests.heads import fit_head
from typer.testing import CliRunner

import tallybook
from tallybook import Book, BookDamaged, BookError, BookNotFound, KeysMissing, NoteError, SigningKeyMissing
from tallybook.adapters.integrity import BY_ITS_OWN_KEY, WITHOUT_KEYS
from tallybook.adapters.log import LogRecorder
from tallybook.adapters.merkle import Frontier, row_hashes
from tallybook.adapters.notes import Checkpoint, Signer, made
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.adapters.tiles import TileStore
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
        assert (events.unchecked, reads.unchecked) == ((*WITHOUT_KEYS, BY_ITS_OWN_KEY), (BY_ITS_OWN_KEY,))
        assert (events.vouched, reads.vouched) == (False, False)
        assert events.checkpoints > 0
        assert all(one.holds for one in book.audit.verify_read_models())


def test_without_keys_nothing_is_worked_with_and_no_look_up_is_guessed(lost: str) -> None:
    with tallybook.open(lost, keyless=True) as book, book.acting("agent:lin", purpose="support"):
        ada, position, reads = whose(book), book.position(), book._core.gate.reads.position()
        before = {log: list(book.audit.checkpoints(log)) for log in ("events", "reads")}
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
        for write in (book.audit.checkpoint, book.audit.rebuild_tiles):
            with pytest.raises(BookError) as refused:
                write()
            assert "key" in refused.value.remedy
        assert book._core.gate.reads.position() == reads
    with tallybook.open(lost, keyless=True) as book:
        assert (book.position(), book._core.gate.reads.position()) == (position, reads)
        assert {log: list(book.audit.checkpoints(log)) for log in ("events", "reads")} == before
    for one in (lost.replace("shop.book", "other.book").replace("schema=", "schema=no_"), "memory:"):
        with pytest.raises(BookNotFound):
            tallybook.open(one, keyless=True)


def test_a_sealed_pack_of_it_goes_as_far_as_its_checkpoints_and_is_verified_by_a_stranger(
    lost: str, tmp_path: Path
) -> None:
    with tallybook.open(lost, keyless=True) as book, book.acting("auditor:ann", purpose="audit"):
        vkey, reads = book.audit.vkey, book._core.gate.reads.position()
        *_, last = book.audit.checkpoints()
        assert book.audit.export(tmp_path / "pack").size == last.size
        with pytest.raises(KeysMissing):
            book.audit.export(tmp_path / "clear", sealed=False)
        assert not (tmp_path / "clear").exists()
        assert book._core.gate.reads.position() == reads
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
    # A place of a key that is misspelt is an error; nothing is opened without keys unless that is asked for.
    assert isinstance(run.invoke(app, ["audit", "verify", "--book", lost]).exception, KeysMissing)
    ran = run.invoke(app, ["audit", "verify", "--keyless", "--book", lost, "--json"])
    assert ran.exit_code == 0
    events, reads, *_ = json.loads(ran.stdout)
    assert (events["unchecked"], events["vouched"]) == ([*WITHOUT_KEYS, BY_ITS_OWN_KEY], False)
    assert (reads["unchecked"], reads["vouched"]) == ([BY_ITS_OWN_KEY], False)
    ran = run.invoke(app, ["audit", "verify", "--keyless", "--book", lost])
    assert f"not checked without the data keys: {WITHOUT_KEYS[0]}" in ran.stdout
    assert ran.stdout.count("verified, by the key that this database names") == 2
    with tallybook.open(lost, keyless=True) as book:
        (tmp_path / "vkey").write_text(book.audit.vkey + "\n")
    ran = run.invoke(app, ["audit", "verify", "--keyless", "--vkey", str(tmp_path / "vkey"), "--book", lost])
    assert (ran.exit_code, "by the key that this database names" in ran.stdout) == (0, False)
    assert run.invoke(app, ["audit", "verify", "--keyless", "--vkey", "nowhere", "--book", lost]).exit_code == 2
    acting = ["--actor", "auditor:ann", "--purpose", "audit", "--book", lost]
    assert isinstance(run.invoke(app, ["audit", "export", str(tmp_path / "p"), *acting]).exception, KeysMissing)
    assert run.invoke(app, ["audit", "export", str(tmp_path / "p"), "--keyless", *acting]).exit_code == 0
    for refused in (["audit", "export", str(tmp_path / "c"), "--clear", "--keyless"], ["audit", "trail"]):
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


def in_files(tmp_path: Path) -> tuple[str, Path]:
    """A closed book in files with a customer, and its file."""
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada Lovelace", identifiers={"crm": "1"})
        book.customers.grant_consent(ada, "marketing", source="web", text_version="v1")
        book.profiles.get(ada)
    return f"sqlite:///{path}", path


def rows_of(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as raw:
        return raw.execute(statement).fetchall()


def test_a_look_without_keys_leaves_a_healthy_book_healthy(tmp_path: Path) -> None:
    url, path = in_files(tmp_path)
    both = (path, path.with_name("shop.book.reads"))
    before = [rows_of(one, f"SELECT * FROM {table} ORDER BY 1") for one in both for table in ("head", "checkpoints")]
    ran = CliRunner().invoke(app, ["audit", "verify", "--keyless", "--book", url])
    assert ran.exit_code == 0
    with tallybook.open(url, keyless=True) as book:
        assert all(one.holds for one in book.audit.verify())
    after = [rows_of(one, f"SELECT * FROM {table} ORDER BY 1") for one in both for table in ("head", "checkpoints")]
    assert after == before
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name="Bob")
        assert book.profiles.get(whose(book)).fields["name"].value == "Ada Lovelace"
        assert all(one.holds for one in book.audit.verify())


@pytest.mark.parametrize("mac", ["stale", "none"])
def test_an_event_that_somebody_added_is_not_signed_by_a_look_without_keys(tmp_path: Path, mac: str) -> None:
    url, path = in_files(tmp_path)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(
            "INSERT INTO stored_events SELECT (SELECT MAX(position)+1 FROM stored_events), randomblob(16), 1, topic, "
            "state FROM stored_events WHERE topic='customer.consent_granted'"
        )
    fit_head(path)
    if mac == "none":
        with closing(sqlite3.connect(path)) as raw, raw:
            raw.execute("UPDATE head SET mac=''")
    before = rows_of(path, "SELECT * FROM checkpoints ORDER BY size, signed_us")
    with tallybook.open(url, keyless=True) as book, book.acting("auditor:ann", purpose="audit"):
        size = book.position()
        assert book.audit.export(tmp_path / "pack").size == size - 1
        with pytest.raises(BookError, match="without a signing key"):
            book.audit.checkpoint()
    assert rows_of(path, "SELECT * FROM checkpoints ORDER BY size, signed_us") == before
    with tallybook.open(url) as book:
        events, _ = book.audit.verify()
        assert "MAC" in (events.problem or "")


def test_a_recorder_without_a_key_moves_no_head_that_bears_a_mac(tmp_path: Path) -> None:
    _, path = in_files(tmp_path)
    [(origin,)] = rows_of(path, "SELECT value FROM book WHERE name='origin'")
    with closing(SQLiteDatabase(str(path))) as database:
        log = LogRecorder(database, origin=str(origin))
        head = rows_of(path, "SELECT * FROM head")
        with pytest.raises(KeysMissing):
            log.append([(bytes(16), 1, "x", b"")])
        with pytest.raises(KeysMissing), database.session(write=True) as session:
            log.count_signed(session, lambda: False)
        assert rows_of(path, "SELECT * FROM head") == head


def rewritten(path: Path, origin: str) -> Signer:
    """Rewrite a book from its beginning as one who has no keys: a consent for something else, all roots and heads to
    fit, signed by a key of his own, which the database names from now on."""
    own = Signer.new(origin)
    for file, table, name in (
        (path, "stored_events", origin),
        (path.with_name("shop.book.reads"), "access_records", f"{origin}/reads"),
    ):
        with closing(sqlite3.connect(file)) as raw, raw:
            for position, state in raw.execute(
                f"SELECT position, state FROM {table} WHERE topic='customer.consent_granted'"
            ).fetchall():
                values = msgpack.unpackb(state)
                values[6] = "profiling"
                raw.execute(f"UPDATE {table} SET state=? WHERE position=?", (msgpack.packb(values), position))
            frontier = Frontier()
            rows = raw.execute(f"SELECT * FROM {table} ORDER BY position").fetchall()
            frontier.append_hashes(row_hashes(origin, rows))
            told = Checkpoint(name, len(rows), frontier.root())
            note = made(told.text, [own.named(name).sign(told.text), own.cosign(told.text, 1_795_351_662)])
            raw.execute("DELETE FROM tiles")
            raw.execute("DELETE FROM checkpoints")
            raw.execute("UPDATE head SET frontier=?, signed=1", (frontier.packed(),))
            raw.execute(
                "INSERT INTO checkpoints VALUES (?,?,?,?,?,x'','')",
                (table, len(rows), 1_795_351_662_000_000, frontier.root(), note),
            )
            raw.execute("UPDATE book SET value=? WHERE name='vkey'", (own.vkey,))
        with closing(SQLiteDatabase(str(file))) as database:
            TileStore(LogRecorder(database, table, origin)).rebuild()
    return own


def test_a_book_that_was_rewritten_under_another_key_is_vouched_for_by_that_key_only(tmp_path: Path) -> None:
    url, path = in_files(tmp_path)
    with tallybook.open(url) as book:
        vkey, origin, kept = book.audit.vkey, book.origin, book.audit.checkpoint().note
        assert all(one.holds for one in book.audit.verify(vkey=vkey))
    own = rewritten(path, origin)
    with tallybook.open(url, keyless=True) as book:
        alone = book.audit.verify()
        assert [(one.holds, one.vouched) for one in alone] == [(True, False)] * 2
        assert all(BY_ITS_OWN_KEY in one.unchecked for one in alone)
        for given in book.audit.verify(vkey=vkey):
            assert "did not sign the last checkpoint" in (given.problem or "")
        assert all(one.vouched and one.holds for one in book.audit.verify(vkey=own.vkey))
        assert "does not fit this book" in (book.audit.verify(against=kept)[0].problem or "")
        with book.acting("auditor:ann", purpose="audit"), pytest.raises(SigningKeyMissing):
            book.audit.export(tmp_path / "pack")  # the real key signs no pack of it
        with pytest.raises(NoteError):
            book.audit.verify(vkey="no key")
        other = Signer.new("another-book").vkey
        assert "is one of another-book" in (book.audit.verify(vkey=other)[0].problem or "")
    told = CliRunner().invoke(app, ["audit", "verify", "--keyless", "--log-only", "--vkey", vkey, "--book", url])
    assert (told.exit_code, told.stdout.count("NOT VERIFIED")) == (1, 2)
    for how in (None, "unsigned"):
        with pytest.raises(BookDamaged, match="table book"):
            tallybook.open(url, signing_key=how)


def test_a_checkpoint_kept_elsewhere_vouches_for_what_it_covers(tmp_path: Path) -> None:
    url, _ = in_files(tmp_path)
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        old = book.audit.checkpoint().note
        book.customers.register(name="Bob")
        last = book.audit.checkpoint().note
    with tallybook.open(url, keyless=True) as book:
        assert [one.vouched for one in book.audit.verify(against=old)] == [False, False]
        assert [one.vouched for one in book.audit.verify(against=last)] == [True, False]


@pytest.mark.parametrize("name", ["vkey", "wrapping key", "origin", "mac"])
def test_a_note_of_the_book_that_was_exchanged_is_not_believed(tmp_path: Path, name: str) -> None:
    url, path = in_files(tmp_path)
    with tallybook.open(url) as book:
        vkey = book.audit.vkey
        exchanged = Signer.new(book.origin).vkey if name == "vkey" else "ab" * 16
        with closing(sqlite3.connect(path)) as raw, raw:
            raw.execute("UPDATE book SET value=? WHERE name=?", (exchanged, name))
        assert "table book" in (book.audit.verify()[0].problem or "")
        assert book.audit.vkey == vkey
        position = book.position()
    with pytest.raises(BookError):
        tallybook.open(url)
    assert rows_of(path, "SELECT MAX(position) FROM stored_events") == [(position,)]  # no rotation that never was
    assert any(one.state == "failed" for one in doctor(url, quick=True))
