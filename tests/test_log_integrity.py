"""What somebody who has the database, or the key too, does to a log; and what `audit verify` says to it. Keys: lost,
another's, readable by others, rotated, and killed in the middle of that."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest
import tamperlog
from tests import warm
from tests.heads import fit_head, key_of
from tests.postgres import drop_schema, new_schema, run_sql, schema_url
from typer.testing import CliRunner

import tallybook
from tallybook import Book, BookDamaged, BookError, NoteError, SigningKeyMissing
from tallybook.adapters import integrity, merkle, notes
from tallybook.adapters.notes import Checkpoint, Proof, Signer, Verifier
from tallybook.adapters.tiles import TileStore
from tallybook.audit import SignedCheckpoint
from tallybook.cli import app
from tallybook.domain.access import LogOpened

FEW = 700


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def fill(book: Book, count: int) -> None:
    with book.acting("agent:lin", purpose="support"):
        for number in range(count):
            book.customers.register(name=f"Customer {number}")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of three tiles, with checkpoints in between; and one kept elsewhere."""
    path = tmp_path_factory.mktemp("template") / "shop.book"
    with tallybook.open(url_of(path)) as book:
        fill(book, 100)
        book.audit.checkpoint()
        fill(book, 200)
        (path.parent / "kept").write_text(book.audit.checkpoint().note)
        fill(book, 50)
        with book.acting("agent:lin", purpose="support"):
            for customer in list(book._core.app.log.rows_at([1, 3, 5])):
                book.profiles.get(UUID(bytes=customer[1]))
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    for one in template.parent.iterdir():
        shutil.copy2(one, tmp_path)
    return tmp_path / "shop.book"


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("PRAGMA ignore_check_constraints=ON")
        for statement in statements:
            assert raw.execute(statement).rowcount > 0, statement


def verified(path: Path, **given: object) -> tuple[str | None, int | None]:
    with tallybook.open(url_of(path)) as book:
        found, reads = book.audit.verify(**given)  # type: ignore[arg-type]  # what the test gives
        assert reads.problem is None
        return found.problem, found.position


def test_a_book_that_nobody_touched_fits_all_its_checkpoints(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        events, reads = book.audit.verify(against=path.with_name("kept"))
        assert (events.problem, reads.problem) == (None, None)
        kept = list(book.audit.checkpoints())
        assert events.checkpoints == len(kept) + 1 >= 4
        assert [one.size for one in kept][-1] == events.size == FEW == book.position()
        assert reads.checkpoints == len(list(book.audit.checkpoints("reads"))) >= 1
        assert events.root == kept[-1].root


def test_it_tells_how_far_it_is_and_can_be_interrupted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "CHUNK", 256)
    told: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        told.append((done, total))
        if done >= 512:
            raise KeyboardInterrupt

    with tallybook.open(url_of(path)) as book:
        with pytest.raises(KeyboardInterrupt):
            book.audit.verify(interrupt)
        assert told == [(256, FEW), (512, FEW)]
        assert [one.problem for one in book.audit.verify()] == [None, None]


@pytest.mark.parametrize("position", [1, 2, 255, 256, 257, 600, FEW])
@pytest.mark.parametrize(
    "change",
    ["state=CAST(state || x'00' AS BLOB)", "topic='customer.changed'", "originator_version=7", "originator_id=x'00'"],
)
def test_the_position_of_an_altered_row_is_named(path: Path, position: int, change: str) -> None:
    tamper(path, f"UPDATE stored_events SET {change} WHERE position={position}")
    problem, at = verified(path)
    assert at == position
    assert f"the event at position {position} was altered" in (problem or "")


@pytest.mark.parametrize("position", [1, 100, 256, 600, FEW])
def test_the_position_of_a_row_that_can_t_be_read_is_named(path: Path, position: int) -> None:
    tamper(path, f"UPDATE stored_events SET topic=CAST(x'ff' AS TEXT) WHERE position={position}")
    problem, at = verified(path)
    assert at == position
    assert f"the event at position {position} can't be read" in (problem or "")


def test_rows_that_changed_places_are_named(path: Path) -> None:
    tamper(
        path,
        "UPDATE stored_events SET position=-1 WHERE position=300",
        "UPDATE stored_events SET position=300 WHERE position=301",
        "UPDATE stored_events SET position=301 WHERE position=-1",
    )
    assert verified(path)[1] == 300


def rewrite(path: Path, *, tiles: bool = True, checkpoints: bool = True, sign: bool = False, keys: bool = True) -> None:
    """Have head, tiles and checkpoints tell what the rows tell now, as whoever has the database can; with the book's
    keys, the head's MAC too."""
    if checkpoints:
        with closing(sqlite3.connect(path)) as raw, raw:
            raw.execute("DELETE FROM checkpoints WHERE log='stored_events'")
    fit_head(path, key_of(path) if keys else None)
    with tallybook.open(url_of(path)) as book:
        if tiles:
            TileStore(book._core.app.log).rebuild()
        if sign:
            book.audit.checkpoint()
        sign_no_more(book)


def sign_no_more(book: Book) -> None:
    """Neither in the background nor at closing."""
    book._core.tail_timer.stop()
    book._core.checkpoints.clear()


ALTER = "UPDATE stored_events SET topic='customer.changed' WHERE position=150"


def test_a_head_that_was_rewritten_too_does_not_hide_the_position(path: Path) -> None:
    tamper(path, ALTER)
    rewrite(path, tiles=False, checkpoints=False)
    assert verified(path)[1] == 150


def test_without_tiles_the_checkpoints_bound_the_place(path: Path) -> None:
    tamper(path, "UPDATE stored_events SET topic='customer.changed' WHERE position=350", "DELETE FROM tiles")
    problem, at = verified(path)
    assert at is None
    assert "from 201 to 600" in (problem or "")


def test_rewritten_tiles_don_t_hide_that_the_log_was_rewritten(path: Path) -> None:
    tamper(path, ALTER)
    rewrite(path, checkpoints=False)
    problem, _ = verified(path)
    assert "the log was rewritten: at size 200 its root is another than in its checkpoint of size 200" in (
        problem or ""
    )


@pytest.mark.parametrize("sign", [False, True], ids=["unsigned", "signed again with the real key"])
def test_who_rewrites_everything_is_found_by_a_checkpoint_kept_elsewhere(path: Path, sign: bool) -> None:
    tamper(path, ALTER)
    rewrite(path, sign=sign)
    assert verified(path) == (None, None)  # nothing in the book can tell
    problem, _ = verified(path, against=path.with_name("kept"))
    assert "the log was rewritten: at size 600 its root is another than in the checkpoint that was given" in (
        problem or ""
    )
    problem, _ = verified(path, against=path.with_name("kept").read_text())
    assert problem is not None


def test_a_log_that_was_cut_short_with_its_head_is_shorter_than_its_checkpoints(path: Path) -> None:
    tamper(path, "DELETE FROM stored_events WHERE position>400")
    rewrite(path, checkpoints=False)
    assert "the log is shorter than its checkpoint of size 600" in (verified(path)[0] or "")
    rewrite(path)
    assert verified(path)[0] is None
    problem, _ = verified(path, against=path.with_name("kept"))
    assert "the log is shorter than the checkpoint that was given: it ends at position 400, not 600" in (problem or "")


def test_nothing_is_signed_that_does_not_go_on_from_the_last_checkpoint(path: Path) -> None:
    tamper(path, "DELETE FROM stored_events WHERE position>400")
    rewrite(path, checkpoints=False)
    with tallybook.open(url_of(path)) as book:
        with pytest.raises(BookDamaged, match="its last checkpoint tells of 700"):
            book.audit.checkpoint()
        fill(book, 400)
        with pytest.raises(BookDamaged, match="was rewritten: at size 700"):
            book.audit.checkpoint()
        sizes = [one.size for one in book.audit.checkpoints()]
    with tallybook.open(url_of(path)) as book:
        assert [one.size for one in book.audit.checkpoints()] == sizes, "nor at closing"


def test_rows_that_were_altered_are_not_signed(path: Path) -> None:
    tamper(path, ALTER, "DELETE FROM tiles")
    with tallybook.open(url_of(path)) as book, pytest.raises(BookDamaged, match="do not give the root of its head"):
        book.audit.checkpoint()


CHECKPOINT_DAMAGE = {
    "size=601": "its row says something else",
    "root=zeroblob(32)": "its row says something else",
    "note=replace(note, '600', '601')": "altered",
    "note='nonsense'": "A note is",
    "note=x'00'": "can't be read",
    "root=7": "can't be read",
}


@pytest.mark.parametrize("damage", CHECKPOINT_DAMAGE)
def test_an_altered_checkpoint_is_told(path: Path, damage: str) -> None:
    tamper(path, f"UPDATE checkpoints SET {damage} WHERE size=600")
    assert CHECKPOINT_DAMAGE[damage] in (verified(path)[0] or "")


def test_a_checkpoint_of_a_stranger_is_told(path: Path, tmp_path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        head = Checkpoint(book.origin, 600, bytes(32))
        stranger = Signer.new(book.origin)
        forged = notes.made(head.text, [stranger.sign(head.text)])
        problem, _ = verified(path, against=forged)
        assert "None of the keys" in (problem or "")
        other = Checkpoint("tallybook/other", 600, bytes(32))
        problem, _ = verified(path, against=notes.made(other.text, [stranger.sign(other.text)]))
        assert "does not fit this book" in (problem or "")
    for none in ("no note\n", tmp_path / "nowhere", path):
        with pytest.raises(NoteError):
            verified(path, against=none)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE tiles SET hashes=zeroblob(length(hashes)) WHERE log='stored_events' AND level=0 AND tile=1",
        "UPDATE tiles SET hashes=zeroblob(length(hashes)) WHERE log='stored_events' AND level=0 AND tile=2",
        "UPDATE tiles SET hashes=zeroblob(length(hashes)) WHERE log='stored_events' AND level=1",
        "DELETE FROM tiles WHERE log='stored_events' AND level=0 AND tile=1",
        "DELETE FROM tiles WHERE log='stored_events' AND level=1",
        "UPDATE tiles SET hashes=x'00' WHERE log='stored_events' AND level=0 AND tile=2",
        "UPDATE tiles SET hashes=5 WHERE log='stored_events' AND level=0 AND tile=2",
        "INSERT INTO tiles VALUES ('stored_events', 0, 3, zeroblob(32))",
    ],
)
def test_an_altered_tile_is_told_and_mended_and_proofs_are_right_all_the_same(path: Path, damage: str) -> None:
    tamper(path, damage)
    assert "tile" in (verified(path)[0] or "")
    with tallybook.open(url_of(path)) as book:
        for position in (1, 300, FEW):
            holds(book, position)
        book.audit.rebuild_tiles()
    assert verified(path) == (None, None)


# ── proofs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def holds(book: Book, position: int, checkpoint: SignedCheckpoint | None = None) -> None:
    """A proof as a stranger looks at it: with the public key, and another's code for the tree."""
    made = book.audit.proof(position, checkpoint=checkpoint)
    proof = Proof.parse(made.text)
    head = Checkpoint.parse(notes.opened(proof.note, [Verifier.parse(book.audit.vkey)]).text)
    assert (head.origin, head.size, proof.index) == (book.origin, made.size, position - 1)
    leaf = tamperlog.hash_leaf(made.leaf)
    tamperlog.verify_inclusion(proof.index, head.size, leaf, list(proof.hashes), head.root)
    with pytest.raises(tamperlog.TamperlogError):
        tamperlog.verify_inclusion(proof.index, head.size, bytes(32), list(proof.hashes), head.root)


def test_proofs_and_checkpoints_are_verified_by_another_s_code(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        leaves = [merkle.leaf(book.origin, *row) for row in book._core.app.log.log_rows(0, 10_000)]
        log = tamperlog.AppendOnlyLog(tamperlog.MemoryStorage(leaves))
        kept = list(book.audit.checkpoints())
        for one in kept:
            log.verify_against(tamperlog.Checkpoint(one.size, bytes.fromhex(one.root)))
        for position in random.Random(1).sample(range(1, FEW + 1), 20):
            holds(book, position)
            if position <= kept[0].size:
                holds(book, position, kept[0])
        for old in kept:
            found = book.audit.consistency(old, kept[-1])
            hashes = [bytes.fromhex(one) for one in found.hashes]
            tamperlog.verify_consistency(
                old.size, bytes.fromhex(old.root), kept[-1].size, bytes.fromhex(kept[-1].root), hashes
            )
        book.audit.proof(1, log="reads")


def test_what_makes_no_sense_is_refused(path: Path) -> None:
    with tallybook.open(url_of(path)) as book:
        first, *_, last = book.audit.checkpoints()
        for ask in (
            lambda: book.audit.proof(0),
            lambda: book.audit.proof(FEW + 1),
            lambda: book.audit.proof(first.size + 1, checkpoint=first),
            lambda: book.audit.proof(1, log="other"),
            lambda: book.audit.consistency(last, first),
        ):
            with pytest.raises(tallybook.InvalidInput):
                ask()


def test_an_event_that_was_altered_gets_no_proof(path: Path) -> None:
    tamper(path, ALTER)
    with tallybook.open(url_of(path)) as book, pytest.raises(BookDamaged, match="at position 150"):
        book.audit.proof(150)


# ── when a checkpoint is signed ─────────────────────────────────────────────────────────────────────────────────────


def test_checkpoints_come_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "shop.book"
    now = [1_700_000_000_000_000]
    with tallybook.open(url_of(path), now_us=lambda: now[0], checkpoint_s=0.0) as book:
        fill(book, 3)
        assert [one.size for one in book.audit.checkpoints()] == [2, 4, 6]
    with tallybook.open(url_of(path), checkpoint_s=3600) as book:
        fill(book, 3)
        assert [one.size for one in book.audit.checkpoints()][:4] == [2, 4, 6, 8]  # the last was too old
        before = len(list(book.audit.checkpoints()))
        book.audit.checkpoint()
        book.audit.checkpoint()
        again = book.audit.checkpoint()
        assert len([one for one in book.audit.checkpoints() if one.size == again.size]) == 2, "first and last"
        assert len(list(book.audit.checkpoints())) == before + 2
        fill(book, 1)
    with tallybook.open(url_of(path)) as book:
        assert list(book.audit.checkpoints())[-1].size == book.position(), "at closing"


# ── the key ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_that_is_lost_another_s_or_readable_by_others_is_refused(path: Path, tmp_path: Path) -> None:
    file = path.with_name("shop.book.signing-key")
    right = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    with tallybook.open(url_of(path)) as book:
        origin, root = book.origin, book.audit.verify()[0].root
    file.chmod(0o640)
    with pytest.raises(BookError, match="Others than its owner"):
        tallybook.open(url_of(path))
    file.unlink()
    with pytest.raises(SigningKeyMissing, match="is not there"):
        tallybook.open(url_of(path))
    assert not file.exists(), "a lost key is never made anew"
    with tallybook.open(url_of(path), signing_key="unsigned") as book:
        fill(book, 1)
        assert book.audit.verify()[0].problem is None
        assert len(book.audit.vkeys()) == 1
        assert [one.unsigned_openings for one in book.audit.verify()] == [0, 1]
        [*_, told, looked] = [one for one in book.doctor(quick=True) if one.name == "signing key"]
        assert (told.state, "opened 1 times without its signing key" in told.what) == ("warning", True)
        assert "nothing was signed since" in told.what
        assert looked.state == "warning"
        with pytest.raises(BookError, match="without a signing key"):
            book.audit.checkpoint()
    for wrong in (Signer.new(origin).text, "", "nonsense", right[:-5]):
        file.write_text(wrong)
        file.chmod(0o600)
        with pytest.raises(SigningKeyMissing) as refused:
            tallybook.open(url_of(path))
        assert "PRIVATE+KEY+tallybook" not in str(refused.value)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(right)
    elsewhere.chmod(0o600)
    with tallybook.open(url_of(path), signing_key=elsewhere) as book:
        assert book.audit.verify()[0].root != root
        assert book.audit.verify()[1].unsigned_openings == 1
        book.audit.checkpoint()
        told = next(one for one in book.doctor(quick=True) if one.name == "signing key")
        assert (told.state, "a checkpoint was signed since" in told.what) == ("ok", True)
        signs = [one.event.signs for one in book._core.reads() if isinstance(one.event, LogOpened)]
        assert signs == [True, True, False, True]
    with pytest.raises(BookError, match="from its beginning"):
        tallybook.open(url_of(tmp_path / "new.book"), signing_key="unsigned")
    with pytest.raises(SigningKeyMissing, match="another book"):
        tallybook.open(url_of(tmp_path / "other.book"), signing_key=elsewhere)


def test_a_key_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = url_of(tmp_path / "shop.book")
    with pytest.raises(SigningKeyMissing, match="BOOK_KEY"):
        tallybook.open(url, signing_key="env:BOOK_KEY")
    first, second = Signer.new("any/name"), Signer.new("any/name")
    monkeypatch.setenv("BOOK_KEY", first.text)
    with tallybook.open(url, signing_key="env:BOOK_KEY") as book, book.acting("job:it", purpose="upkeep"):
        fill(book, 1)
        old = book.audit.vkey
        with pytest.raises(BookError, match="no key but the present one"):
            book.audit.rotate_signing_key()
    assert not (tmp_path / "shop.book.signing-key").exists()
    monkeypatch.setenv("BOOK_KEY", f"{second.text} {first.text}")
    with tallybook.open(url, signing_key="env:BOOK_KEY") as book, book.acting("job:it", purpose="upkeep"):
        assert book.audit.vkey == old
        new = book.audit.rotate_signing_key()
        made = book.audit.checkpoint()
        for vkey in (old, new):
            assert notes.opened(made.note, [Verifier.parse(vkey)])
    monkeypatch.setenv("BOOK_KEY", second.text)
    with tallybook.open(url, signing_key="env:BOOK_KEY") as book:
        assert book.audit.vkeys() == [old, new]
        assert book.audit.verify()[0].problem is None


def test_a_rotation_is_an_event_and_the_checkpoint_at_it_bears_both(path: Path) -> None:
    file = path.with_name("shop.book.signing-key")
    with tallybook.open(url_of(path)) as book, tallybook.open(url_of(path)) as other:
        old = book.audit.vkey
        with pytest.raises(tallybook.NotAllowed):
            book.audit.rotate_signing_key()
        with book.acting("job:it", purpose="upkeep"):
            new = book.audit.rotate_signing_key()
        assert book.audit.vkeys() == [old, new]
        first = list(book.audit.checkpoints())[-1]
        assert first.size == book.position()
        reads = list(book.audit.checkpoints("reads"))[-1]
        for vkey in (old, new):
            assert notes.opened(first.note, [Verifier.parse(vkey)])
            public = Verifier.parse(vkey).public
            assert notes.opened(reads.note, [Verifier(f"{book.origin}/reads", public)])
        assert len(file.read_text().split()) == 1
        # Whoever had the book open meanwhile signs with the new key too.
        fill(other, 1)
        made = other.audit.checkpoint()
        assert notes.opened(made.note, [Verifier.parse(new)])
        with pytest.raises(NoteError, match="None"):
            notes.opened(made.note, [Verifier.parse(old)])
        assert [one.problem for one in book.audit.verify()] == [None, None]
    assert verified(path, against=path.with_name("kept")) == (None, None)


@pytest.mark.parametrize("log", ["events", "reads"])
def test_a_key_that_was_retired_counts_no_more(path: Path, log: str) -> None:
    with tallybook.open(url_of(path)) as book:
        name = book._core.checkpoints[log].name
        signing = book._core.storage.signing
        assert signing is not None
        old = signing.signers()[0]
        before = book.audit.checkpoint(log)
        with book.acting("job:it", purpose="upkeep"):
            new = book.audit.rotate_signing_key()
            customer = book.customers.register(name="Ada")
            book.profiles.get(customer)
            last = book.audit.checkpoint(log)

        def signed(size: int, root: bytes, seconds: int = 2_000_000_000) -> str:
            told = Checkpoint(name, size, root)
            return notes.made(told.text, [old.named(name).sign(told.text), old.cosign(told.text, seconds)])

        index = ("events", "reads").index(log)
        retired = f"A key that was retired .* only {re.escape(new)} counts"
        for root in (bytes(32), bytes.fromhex(last.root)):
            note = signed(last.size, root)
            assert re.search(retired, book.audit.verify(against=note)[index].problem or "")
            witness = Signer.new("witness.example")
            cosigned = note + witness.cosign(Checkpoint(name, last.size, root).text, 2_000_000_000)
            with pytest.raises(NoteError, match=retired):
                book.audit.keep(cosigned, witness.verifier.vkey)
        # What it signed in its time counts for ever; so does what the new one signs of a size before.
        assert book.audit.verify(against=before.note)[index].problem is None
        assert book.audit.verify(against=last.note)[index].problem is None
        # One that somebody puts among those that are kept is told too.
        database = book._core.checkpoints[log].log.database
        table = book._core.checkpoints[log].log.table.name
        with database.session(write=True) as session:
            session.run(
                "UPDATE checkpoints SET note=? WHERE log=? AND size=?",
                (signed(last.size, bytes.fromhex(last.root)), table, last.size),
            )
        assert "A key that was retired" in (book.audit.verify()[index].problem or "")


def test_who_opens_a_book_without_its_signing_key_is_on_record_first(path: Path) -> None:
    reads = path.with_name("shop.book.reads")
    with closing(sqlite3.connect(reads, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        with pytest.raises(tallybook.Conflict) as refused:
            tallybook.open(url_of(path), signing_key="unsigned", lock_timeout_s=1)
        assert refused.value.code == "busy"
        lock.execute("ROLLBACK")
    with tallybook.open(url_of(path), signing_key="unsigned") as book:
        assert book.audit.verify()[1].unsigned_openings == 1


ROTATE = """
import os, signal, sys
import tallybook
from tallybook.adapters import signing, log

left = int(sys.argv[2])

def step(*args, **kwargs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    real = getattr(owner, name)
    def run(*args, **kwargs):
        step()
        return real(*args, **kwargs)
    setattr(owner, name, run)

with tallybook.open(sys.argv[1]) as book, book.acting("job:it", purpose="upkeep"):
    for name in ("open", "fsync", "replace", "write"):
        before(os, name)
    before(log.LogRecorder, "append_in")
    before(log.LogRecorder, "append")
    for one in book._core.checkpoints.values():
        before(one, "sign")
    print(book.audit.rotate_signing_key())
"""


def test_a_rotation_that_is_killed_at_any_step_loses_nothing(path: Path, tmp_path: Path) -> None:
    outcomes = set()
    for step in range(1, 60):
        folder = tmp_path / str(step)
        folder.mkdir()
        for one in path.parent.glob("shop.book*"):
            shutil.copy2(one, folder)
        done = warm.run(ROTATE, url_of(folder / "shop.book"), str(step))
        with tallybook.open(url_of(folder / "shop.book")) as book:
            vkeys = book.audit.vkeys()
            outcomes.add(len(vkeys))
            assert [one.problem for one in book.audit.verify()] == [None, None]
            if len(vkeys) == 2:
                assert len((folder / "shop.book.signing-key").read_text().split()) == 1, "opening has finished it"
                both = [one for one in book.audit.checkpoints() if all(_signed_by(one.note, vkey) for vkey in vkeys)]
                assert both
            with book.acting("job:it", purpose="upkeep"):
                assert book.audit.rotate_signing_key() not in vkeys
            assert [one.problem for one in book.audit.verify()] == [None, None]
        if done.returncode == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert outcomes == {1, 2}
    assert step > 10


def _signed_by(note: str, vkey: str) -> bool:
    try:
        notes.opened(note, [Verifier.parse(vkey)])
    except NoteError:
        return False
    return True


# ── on a server ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.server
def test_the_same_on_a_server(tmp_path: Path) -> None:
    schema = new_schema()
    try:
        url, key = schema_url(schema), tmp_path / "key"
        with tallybook.open(url, wrapping_key=key) as book:
            fill(book, 300)
            kept = book.audit.checkpoint()
            holds(book, 17)
            with book.acting("job:it", purpose="upkeep"):
                book.audit.rotate_signing_key()
            fill(book, 10)
            holds(book, 610)
            assert [one.problem for one in book.audit.verify(against=kept.note)] == [None, None]
            [signing_key] = tmp_path.glob("*.signing-key")
            run_sql(f"UPDATE {schema}.stored_events SET topic='customer.changed' WHERE position=150")
            assert book.audit.verify()[0].position == 150
        moved = signing_key.rename(tmp_path / "moved")
        with pytest.raises(SigningKeyMissing):
            tallybook.open(url, wrapping_key=key)
        with tallybook.open(url, wrapping_key=key, signing_key=moved) as book:
            assert len(book.audit.vkeys()) == 2
    finally:
        drop_schema(schema)


# ── the commands ────────────────────────────────────────────────────────────────────────────────────────────────────


def run(path: Path, *args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", *args], env={"TALLYBOOK_URL": url_of(path)})
    return done.exit_code, done.output


def test_the_commands(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    assert run(path, "checkpoint", "--out", str(out))[0] == 0
    assert run(path, "verify", "--against", str(out))[0] == 0
    assert run(path, "checkpoint", "--out", str(out))[0] == 2, "what is there is kept"
    assert run(path, "checkpoint", "--log", "reads")[1].startswith("tallybook/")
    assert run(path, "proof", "17")[1].startswith("c2sp.org/tlog-proof@v1\nindex 16\n")
    code, vkey = run(path, "vkey")
    assert code == 0
    assert Verifier.parse(vkey.strip())
    assert Signer.parse(run(path, "new-key")[1].strip())
    code, rotated = run(path, "rotate-key", "--actor", "job:it", "--purpose", "upkeep")
    assert code == 0
    assert run(path, "vkey")[1].split() == [vkey.strip(), rotated.strip()]
    tamper(path, "UPDATE tiles SET hashes=zeroblob(length(hashes)) WHERE log='stored_events' AND tile=1")
    assert run(path, "verify")[0] == 1
    assert run(path, "rebuild-tiles")[0] == 0
    assert run(path, "verify")[0] == 0
    tamper(path, ALTER)
    code, told = run(path, "verify", "--json")
    assert code == 1
    assert '"position": 150' in told


RANDOM: list[Callable[[random.Random], str]] = [
    lambda chance: f"UPDATE stored_events SET state=x'00' WHERE position={chance.randint(1, FEW)}",
    lambda chance: f"DELETE FROM stored_events WHERE position={chance.randint(1, FEW)}",
    lambda chance: f"DELETE FROM stored_events WHERE position>{chance.randint(1, FEW - 1)}",
    lambda chance: f"UPDATE stored_events SET topic='a.name' WHERE position={chance.randint(1, FEW)}",
    lambda chance: f"UPDATE head SET frontier=zeroblob({32 * chance.randint(0, 9)}) WHERE log='stored_events'",
    lambda chance: f"UPDATE head SET position={chance.randint(0, FEW - 1)} WHERE log='stored_events'",
    lambda chance: f"UPDATE tiles SET hashes=zeroblob({32 * chance.randint(1, 256)}) WHERE tile={chance.randint(1, 2)}",
    lambda chance: f"UPDATE checkpoints SET root=zeroblob({chance.randint(0, 40)}) WHERE log='stored_events'",
]


def test_whatever_is_altered_is_found(path: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        for one in path.parent.glob("shop.book*"):
            shutil.copy2(one, folder)
        statement = chance.choice(RANDOM)(chance)
        tamper(folder / "shop.book", statement)
        with tallybook.open(url_of(folder / "shop.book")) as book:
            assert book.audit.verify()[0].problem is not None, statement
            book._core.checkpoints.clear()
        shutil.rmtree(folder)
        assert os.path.exists(path)


def test_a_proof_that_fails_by_an_altered_row_leaves_the_tiles_that_name_it(path: Path) -> None:
    tamper(path, "UPDATE stored_events SET state=zeroblob(length(state)) WHERE position=150")
    with tallybook.open(url_of(path)) as book:
        with pytest.raises(BookDamaged):
            book.audit.proof(150)
        book.audit.checkpoint()  # by the tiles, which hold what was recorded
    problem, position = verified(path)
    assert (position, "position 150" in str(problem)) == (150, True)
