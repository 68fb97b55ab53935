"""Checkpoints that a witness cosigned: verified against his key, kept, told by `verify`, put into packs."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import Book, BookDamaged, NoteError
from tallybook.adapters.notes import Checkpoint, Signer, Verifier, taken_apart
from tallybook.cli import app

SEEN_S = 1_800_000_000
SEEN_AT = "2027-01-15T08:00:00Z"
WITNESS = Signer.new("witness.example/w1")
KEY = WITNESS.verifier.cosigner().vkey


def cosigned(note: str, witness: Signer = WITNESS, seconds: int = SEEN_S) -> str:
    """A note as a witness gives it back."""
    return note + witness.cosign(taken_apart(note)[0], seconds)


def fill(book: Book, count: int = 3) -> None:
    with book.acting("agent:lin", purpose="support"):
        for number in range(count):
            book.profiles.get(book.customers.register(name=f"Customer {number}"))


@pytest.mark.parametrize("log", ["events", "reads"])
def test_what_a_witness_cosigned_is_kept_and_told(book_url: str, tmp_path: Path, log: str) -> None:
    with tallybook.open(book_url) as book:
        fill(book)
        made = book.audit.checkpoint(log)
        (tmp_path / "back").write_text(cosigned(made.note))
        kept = book.audit.keep(tmp_path / "back", KEY)
        assert (kept.log, kept.size, kept.root, kept.signed_at) == (log, made.size, made.root, made.signed_at)
        assert kept.cosigned == ((KEY, SEEN_AT),)
        # Twice is once; a second witness stands beside the first; later checkpoints of that size don't put it away.
        assert book.audit.keep(cosigned(made.note), KEY) == kept
        other = Signer.new("other.example/w2")
        both = book.audit.keep(cosigned(made.note, other, SEEN_S + 1), other.verifier.cosigner().vkey)
        assert [name for name, _ in both.cosigned] == [KEY, other.verifier.cosigner().vkey]
        assert taken_apart(both.note)[0] == taken_apart(made.note)[0]
        for _ in range(3):
            book.audit.checkpoint(log)
    with tallybook.open(book_url) as book:
        [stored] = [one for one in book.audit.checkpoints(log) if one.cosigned]
        assert stored == both
        found = {one.log: one for one in book.audit.verify()}
        assert all(one.holds for one in found.values())
        assert found[log].cosigned == (
            f"{made.size} by {KEY} at {SEEN_AT}",
            f"{made.size} by {other.verifier.cosigner().vkey} at 2027-01-15T08:00:01Z",
        )
        # The log goes on, and what the witness saw is a checkpoint to be held against.
        fill(book)
        assert all(one.holds for one in book.audit.verify(against=both.note))


def test_one_that_the_book_did_not_keep_is_kept_again(tmp_path: Path) -> None:
    """Of those of one size, a book keeps the first and the last."""
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        fill(book)
        checkpoints = book._core.checkpoints["events"]
        now_us = checkpoints._now_us()
        made = []
        for seconds in (0, 60, 120):
            checkpoints._now_us = partial(int, now_us + seconds * 1_000_000)
            made.append(book.audit.checkpoint())
        middle = made[1]
        assert middle.signed_at not in [one.signed_at for one in book.audit.checkpoints()]
        assert book.audit.keep(cosigned(middle.note), KEY).signed_at[:19] == middle.signed_at[:19]
        events, _ = book.audit.verify()
        assert (events.holds, len(events.cosigned)) == (True, 1)


def test_one_of_a_size_that_the_book_did_not_keep_is_missed_when_it_is_taken_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book:
        fill(book)
        checkpoints = book._core.checkpoints["events"]
        size, table = book.position(), checkpoints.log.table.name
        root = checkpoints.log.head().frontier.root()
        fill(book)
        signer = checkpoints._must_have_keys().signer(book.audit.vkey)
        unkept = checkpoints._note(Checkpoint(checkpoints.name, size, root), [signer], SEEN_S * 1_000_000)
        book.audit.keep(cosigned(unkept), KEY)
        assert all(one.holds for one in book.audit.verify())
    with closing(sqlite3.connect(tmp_path / "shop.book")) as raw, raw:
        assert raw.execute("DELETE FROM checkpoints WHERE log=? AND size=?", (table, size)).rowcount == 1
    with tallybook.open(url) as book:
        events, _ = book.audit.verify()
        assert "were taken out" in str(events.problem)


def test_a_witness_note_hides_no_checkpoints_that_were_taken_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book:
        fill(book)
        made = book.audit.checkpoint()
        fill(book)
        book.audit.checkpoint()
    with closing(sqlite3.connect(tmp_path / "shop.book")) as raw, raw:
        raw.execute("DELETE FROM checkpoints")
    with tallybook.open(url) as book:
        assert book.audit.keep(cosigned(made.note), KEY).signed_at[:19] == made.signed_at[:19]
        events, _ = book.audit.verify()
        assert "were taken out" in str(events.problem)
        assert len(events.cosigned) == 1


def test_what_no_witness_signed_is_not_kept(tmp_path: Path) -> None:
    with tallybook.open("memory:") as book, tallybook.open("memory:") as other:
        fill(book)
        fill(other)
        made = book.audit.checkpoint()
        text = taken_apart(made.note)[0]
        stranger = Signer.new(WITNESS.verifier.name)
        own = Verifier.parse(book.audit.vkey)
        for note, key in (
            (made.note, KEY),  # cosigned by nobody
            (cosigned(made.note, stranger), KEY),  # by another of that name
            (made.note + WITNESS.cosign(text.replace("\n3\n", "\n4\n") + "x\n", SEEN_S), KEY),  # something else
            (cosigned(made.note, seconds=2**62), KEY),  # at no time
            (cosigned(other.audit.checkpoint().note), KEY),  # another book's
            (made.note.replace(made.root[:4], "ffff") + "nothing", KEY),
            (made.note, own.cosigner().vkey),  # the log's own key is no witness
            (cosigned(made.note), "no key"),
            (str(tmp_path / "not there"), KEY),
        ):
            with pytest.raises(NoteError):
                book.audit.keep(note, key)
        assert not any(one.cosigned for one in book.audit.checkpoints())


def test_a_log_that_is_not_the_one_that_the_witness_saw_is_damaged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book:
        fill(book)
        note = cosigned(book.audit.checkpoint().note)
    path = tmp_path / "shop.book"
    whole = path.read_bytes()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE stored_events SET state=zeroblob(length(state)) WHERE position=2")
        raw.execute("DELETE FROM tiles")
        raw.execute("DELETE FROM checkpoints")
    with tallybook.open(url) as book, pytest.raises(BookDamaged):
        book.audit.keep(note, KEY)
    path.write_bytes(whole)
    with tallybook.open(url) as book:
        assert book.audit.keep(note, KEY).cosigned


@pytest.mark.parametrize(
    "change",
    [
        "witnesses=replace(witnesses, 'witness', 'another')",
        "witnesses='nonsense'||char(10)",
        "note=substr(note, 1, length(note)-6)||'AAAA='||char(10)",
        "note=replace(note, char(8212)||' witness', char(8212)||' somebody')",
    ],
)
def test_a_cosignature_that_was_altered_is_found(tmp_path: Path, change: str) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book:
        fill(book)
        book.audit.keep(cosigned(book.audit.checkpoint().note), KEY)
    with closing(sqlite3.connect(tmp_path / "shop.book")) as raw, raw:
        assert raw.execute(f"UPDATE checkpoints SET {change} WHERE witnesses!=''").rowcount == 1
    with tallybook.open(url) as book:
        events, _ = book.audit.verify()
        assert not events.holds
        assert "checkpoint of size" in str(events.problem)


def test_a_pack_holds_it_and_its_verifier_checks_the_witness(tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        fill(book)
        made = book.audit.checkpoint()
        book.audit.keep(cosigned(made.note), KEY)
        reads = book.audit.checkpoint("reads")
        book.audit.keep(cosigned(reads.note), KEY)
        fill(book)
        vkey = book.audit.vkey
        with book.acting("auditor:ann", purpose="audit"):
            book.audit.export(tmp_path / "pack")
    pack = tmp_path / "pack"
    assert (pack / "cosigned" / "witness.vkeys").read_text() == f"{KEY}\n"
    assert len(list((pack / "cosigned").iterdir())) == len(list((pack / "reads" / "cosigned").iterdir())) == 2

    def ran(*more: str) -> tuple[int, str]:
        found = subprocess.run(
            [sys.executable, "-I", pack / "verify.py", pack, "--vkey", vkey, *more],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return found.returncode, found.stdout + found.stderr

    code, told = ran("--witness", KEY)
    assert code == 0, told
    assert f"{WITNESS.verifier.name} saw {made.size} leaves of this tree at 2027-01-15T08:00:00Z" in told
    assert f"saw {reads.size} leaves" in told
    code, told = ran()
    assert (code, "give them with --witness" in told) == (0, True)
    code, told = ran("--witness", Signer.new("w").verifier.cosigner().vkey)
    assert (code, "was cosigned by w" in told) == (1, True)
    assert ran("--witness", vkey)[0] == 2
    # Whoever alters the note is told of, though the list of files were made anew.
    [note] = [one for one in (pack / "cosigned").iterdir() if one.name != "witness.vkeys"]
    text = note.read_text()
    note.write_text(text[:-8] + ("AAAAAA=\n" if text[-8:] != "AAAAAA=\n" else "BBBBBB=\n"))
    code, told = ran("--witness", KEY)
    assert (code, "cosigned/" in told) == (1, True)


def test_the_command_line_keeps_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book:
        fill(book)
    run = CliRunner()
    out = tmp_path / "checkpoint"
    assert run.invoke(app, ["audit", "checkpoint", "--book", url, "--out", str(out)]).exit_code == 0
    out.write_text(cosigned(out.read_text()))
    ran = run.invoke(app, ["audit", "checkpoint", "--cosigned", str(out), "--witness", KEY, "--book", url])
    assert ran.exit_code == 0
    assert f"Cosigned by {KEY} at {SEEN_AT}" in ran.stdout
    ran = run.invoke(app, ["audit", "verify", "--book", url])
    assert f"by {KEY} at {SEEN_AT}" in ran.stdout
    events, *_ = json.loads(run.invoke(app, ["audit", "verify", "--json", "--book", url]).stdout)
    assert len(events["cosigned"]) == 1
    for alone in (["--cosigned", str(out)], ["--witness", KEY]):
        assert run.invoke(app, ["audit", "checkpoint", *alone, "--book", url]).exit_code == 2
