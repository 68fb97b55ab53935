"""Records of reads go after their time, and their hashes stay: checkpoints, proofs and later records stay provable."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import Book, BookDamaged, Refused
from tallybook.adapters import integrity
from tallybook.adapters.log import LogRecorder
from tallybook.cli import app
from tallybook.data import verify
from tallybook.times import iso

ADA = UUID(int=1)
CHANNEL = "a-channel-that-nothing-else-names"


class Clock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self.set(2020)

    def set(self, year: int) -> None:
        self.us = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000

    def __call__(self) -> int:
        self.us += 1_000_000
        return self.us


class Shop:
    """A book of which the first 600 reads are old, the others young."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = Clock()
        self.book = self.opened()
        with self.acting(self.book):
            self.book.customers.register(customer_id=ADA, name="Ada")
            self.book.retention.declare(
                "reads", "access_records", purpose="audit", legal_basis="GDPR:5.2", period=1, unit="years"
            )
            self.look(600)
            self.kept = self.book.audit.checkpoint("reads")
            self.clock.set(2022)
            self.look(50)

    def opened(self) -> Book:
        return tallybook.open(self.url, now_us=self.clock)

    @staticmethod
    def acting(book: Book) -> AbstractContextManager[None]:
        return book.acting("agent:lin", purpose="support", channel=CHANNEL)

    def look(self, count: int) -> None:
        for _ in range(count):
            self.book.profiles.get(ADA)

    @property
    def reads(self) -> LogRecorder:
        return self.book._core.checkpoints["reads"].log


@pytest.fixture
def shop(book_url: str) -> Iterator[Shop]:
    made = Shop(book_url)
    with made.acting(made.book):
        yield made
    made.book.close()


def problems(book: Book) -> list[str | None]:
    return [one.problem for one in book.audit.verify()]


def test_a_sweep_prunes_whole_tiles_and_everything_stays_provable(shop: Shop) -> None:
    book, head = shop.book, shop.reads.position()
    swept = book.retention.sweep()
    assert swept.pruned == 512  # of 601 old records
    assert shop.reads.extent() == (head - 512, 513, head)
    for one in book.audit.verify(), book.audit.verify(against=shop.kept.note):
        assert [(check.problem, check.pruned) for check in one] == [(None, 0), (None, 512)]
    # Later records, their proofs, and the proof that the log goes on from an older checkpoint.
    shop.look(300)
    now = book.audit.checkpoint("reads")
    assert book.audit.proof(513, log="reads").position == 513
    assert book.audit.proof(head + 300, log="reads", checkpoint=now).size == now.size
    assert book.audit.consistency(shop.kept, now).old_size == shop.kept.size
    with pytest.raises(Refused) as refused:
        book.audit.proof(512, log="reads")
    assert refused.value.code == "invalid_argument"
    assert problems(book) == [None, None]
    assert next(one.position for one in book.audit.trail() if one.log == "reads") == 513
    assert [one for one in book.doctor() if one.state == "failed"] == []
    assert any("those up to 512 were pruned" in one.what for one in book.doctor())
    # The next one goes on where this one ended; another one has nothing to do.
    assert book.retention.sweep().pruned == 512
    shop.clock.set(2024)
    shop.look(1)
    assert book.retention.sweep().pruned == (head + 300) // 256 * 256
    assert problems(book) == [None, None]
    book.audit.rebuild_tiles()
    assert problems(book) == [None, None]
    assert book.retention.due().access_records < 256
    book.close()
    with shop.opened() as again:
        assert problems(again) == [None, None]
        assert again.audit.verify()[1].pruned == (head + 300) // 256 * 256


def test_the_sweep_is_on_record_with_position_and_root(shop: Shop) -> None:
    shop.book.retention.sweep()
    [event] = [one.event for one in shop.book._core.history(["book.retention_swept"])]
    root = shop.book._core.checkpoints["reads"].tiles.reader(512).root().hex()
    assert (event.reads_pruned, event.reads_root) == (512, root)  # type: ignore[attr-defined]  # that event's fields
    report = shop.book.audit.review("access-review")
    assert report.made_of["records of reads pruned up to"] == "512"
    retention = shop.book.audit.review("retention")
    [swept] = [one for one in retention.sections if one.title == "Sweeps"]
    assert [row[-1] for row in swept.rows] == [512]


def test_the_last_record_stays_however_old(shop: Shop) -> None:
    while shop.reads.position() % 256:
        shop.look(1)
    head = shop.reads.position()
    shop.clock.set(2030)
    assert shop.book.retention.sweep().pruned == head - 256
    shop.look(1)
    assert problems(shop.book) == [None, None]


def test_a_sweep_beside_a_verification_is_no_damage(shop: Shop) -> None:
    def sweep(done: int, total: int) -> None:
        if not shop.reads.pruned().position:
            shop.book.retention.sweep()

    core = shop.book._core
    checkpoints = core.checkpoints["reads"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integrity, "CHUNK", 64)
        found = integrity.verify("reads", shop.reads, sweep, checkpoints=checkpoints, events=core.app.log)
    assert (found.problem, found.pruned) == (None, 512)


def test_a_sweep_that_is_repeated_by_its_command_id_prunes_nothing_that_is_not_on_record(shop: Shop) -> None:
    shop.book.retention.sweep("2021-06-01", command_id="nightly")
    while shop.reads.position() < 1100:
        shop.look(100)
    shop.clock.set(2030)
    with suppress(Refused):
        shop.book.retention.sweep("2021-06-01", command_id="nightly")
    assert problems(shop.book) == [None, None]


def test_nothing_goes_without_a_schedule_or_before_its_time(book_url: str) -> None:
    made = Shop(book_url)
    with made.book, made.acting(made.book):
        assert made.book.retention.sweep("2020-06-01").pruned == 0
        made.book.retention.withdraw("reads")
        assert made.book.retention.sweep().pruned == 0
        assert made.reads.pruned().position == 0


def test_altered_records_are_not_pruned_away(shop: Shop) -> None:
    with shop.reads.database.session(write=True) as session:
        session.run("UPDATE access_records SET originator_version=7 WHERE position=40")
    with pytest.raises(BookDamaged):
        shop.book.retention.sweep()
    assert shop.reads.pruned().position == 0
    assert "position 40" in (problems(shop.book)[1] or "")


@pytest.mark.parametrize(
    "statements",
    [
        ["DELETE FROM access_records WHERE position<=512"],
        ["DELETE FROM access_records WHERE position<=256", "INSERT INTO pruned VALUES ('access_records', 256, {root})"],
        ["INSERT INTO pruned VALUES ('access_records', 256, {root})"],
        ["INSERT INTO pruned VALUES ('access_records', 100, {root})"],
        ["INSERT INTO pruned VALUES ('stored_events', 256, {root})"],
    ],
)
def test_rows_that_are_gone_without_a_sweep_on_record_are_damage(shop: Shop, statements: list[str]) -> None:
    root = shop.book._core.checkpoints["reads"].tiles.reader(256).root()
    database = shop.book._core.app.database if "stored_events" in statements[0] else shop.reads.database
    with database.session(write=True) as session:
        for statement in statements:
            session.run(statement.replace("{root}", "?"), [root] if "{root}" in statement else [])
    found = problems(shop.book)
    assert any(found), found
    assert [one for one in shop.book.doctor() if one.state == "failed"]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM pruned",
        "UPDATE pruned SET position=256",
        "UPDATE pruned SET root={root}",
        "DELETE FROM tiles WHERE log='access_records' AND level=0 AND tile=1",
        "UPDATE tiles SET hashes={tile} WHERE log='access_records' AND level=0 AND tile=0",
        "DELETE FROM access_records WHERE position=513",
    ],
)
def test_after_a_sweep_tampering_is_found(shop: Shop, statement: str) -> None:
    shop.book.retention.sweep()
    values = {"{root}": bytes(32), "{tile}": bytes(256 * 32)}
    given = [value for name, value in values.items() if name in statement]
    for name in values:
        statement = statement.replace(name, "?")
    with shop.reads.database.session(write=True) as session:
        session.run(statement, given)
    assert problems(shop.book)[1] is not None


def test_a_kill_between_the_record_and_the_rows_leaves_it_sound(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LogRecorder, "prune", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.book.retention.sweep()
    assert problems(shop.book) == [None, None]
    assert shop.reads.pruned().position == 0
    assert shop.book.retention.sweep().pruned == 512
    assert problems(shop.book) == [None, None]


def test_the_bytes_of_deleted_records_are_gone_from_the_file(tmp_path: Path) -> None:
    made = Shop(f"sqlite:///{tmp_path}/shop.book")
    with made.book, made.acting(made.book):
        rows = [row[4] for row in made.reads.log_rows(0, 512)]
        made.book.retention.sweep()
        held = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
        assert not any(state in held for state in rows)
        assert made.reads.log_rows(512, 1)[0][4] in held


def test_a_pack_of_a_pruned_log_verifies(shop: Shop, tmp_path: Path) -> None:
    shop.book.retention.sweep()
    pack, vkey, kept = tmp_path / "pack", tmp_path / "vkey", tmp_path / "kept"
    with shop.book.acting("auditor:kay", purpose="audit"):
        shop.book.audit.export(pack)
    vkey.write_text(shop.book.audit.vkey)
    kept.write_text(shop.kept.note)
    run: list[str | Path] = [sys.executable, "-I", "-S", pack / "verify.py", pack, "--vkey", vkey, "--against", kept]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reads: 513-" in (pack / "manifest").read_text()
    assert not (pack / "reads" / "tile" / "entries" / "000").exists()
    assert (pack / "reads" / "tile" / "entries").is_dir()
    os.unlink(pack / "reads" / "tile" / "0" / "001")
    assert subprocess.run(run, capture_output=True, check=False).returncode == 1


def test_records_of_reads_are_gone_from_a_pack_by_a_sweep_on_record_only(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.book.retention.sweep()
    sweeps = range(shop.book.position() + 1)
    for _ in range(520):
        shop.book.customers.register(name="Somebody")
    with shop.book.acting("auditor:kay", purpose="audit"):
        shop.book.audit.export(tmp_path / "whole")
        shop.book.audit.export(tmp_path / "part", after=shop.book.position() - 1)
    keys = [verify.parse_vkey(shop.book.audit.vkey)]
    report = verify.check_pack(tmp_path / "whole", keys)
    assert report.holds
    assert verify.check_pack(tmp_path / "part", keys).holds
    proof = tmp_path / "part" / "reads" / "swept.tlog-proof"
    text = proof.read_text()
    proof.unlink()
    assert "no sweep among the events deleted them" in str(verify.check_pack(tmp_path / "part", keys).logs[1].problems)
    proof.write_text(text.replace("extra ", "extra AAAA", 1))
    assert "swept.tlog-proof" in str(verify.check_pack(tmp_path / "part", keys).logs[1].problems)

    def seeing(how: Callable[[str], str | None]) -> verify.Report:
        real = verify.Told.see

        def see(self: verify.Told, position: int, entry: verify.Entry, stored: Any) -> None:
            real(self, position, entry, stored)
            if position in sweeps and self.swept:
                told = how(self.swept.pop(512))
                self.swept |= {} if told is None else {512: told}

        with monkeypatch.context() as patch:
            patch.setattr(verify.Told, "see", see)
            return verify.check_pack(tmp_path / "whole", keys)

    assert seeing(str).holds
    for how, why in ((lambda _: None, "no sweep among the events deleted them"), (lambda _: "00" * 32, "another root")):
        [bad] = seeing(how).logs[1].problems
        assert why in str(bad)
        assert (bad.first, bad.last) == (1, 512)


def test_a_backup_holds_what_was_pruned_and_what_was_not(tmp_path: Path) -> None:
    made, again = Shop(f"sqlite:///{tmp_path}/shop.book"), tmp_path / "again"
    again.mkdir()
    with made.book, made.acting(made.book):
        made.book.retention.sweep()
        made.book.backup(tmp_path / "backup")
        made.book.backup_keys(tmp_path / "keys")
    shutil.copy2(tmp_path / "shop.book.wrapping-key", again / "shop.book.wrapping-key")
    tallybook.restore(tmp_path / "backup", f"sqlite:///{again}/shop.book", keys=tmp_path / "keys")
    with tallybook.open(f"sqlite:///{again}/shop.book", now_us=made.clock) as book:
        found = book.audit.verify(against=made.kept.note)
        assert [(one.problem, one.pruned) for one in found] == [(None, 0), (None, 512)]
        assert [one for one in book.doctor() if one.state == "failed"] == []
    with closing(sqlite3.connect(again / "shop.book")) as raw:
        assert raw.execute("SELECT COUNT(*) FROM pruned").fetchall() == [(0,)]
    # And a log of reads that lies there, pruned, goes on from the backup's.
    for file in again.glob("shop.book"):
        file.unlink()
    for file in again.glob("shop.book-*"):
        file.unlink()
    tallybook.restore(tmp_path / "backup", f"sqlite:///{again}/shop.book")
    done = CliRunner().invoke(app, ["audit", "verify", "--book", f"sqlite:///{again}/shop.book"])
    assert done.exit_code == 0, done.output
    assert "rows after 512 (pruned up to there)" in done.output


@pytest.mark.parametrize(
    "value",
    [
        "position='nonsense'", "position=1.5", "position=-256", "position=9223372036854775807", "position=x'00'",
        "root='nonsense'", "root=x''", "root=substr(root, 1, 16)", "root=7", "log='nobody'",
    ],
)  # fmt: skip
def test_nonsense_in_the_note_is_damage_and_no_foreign_error(tmp_path: Path, value: str) -> None:
    made = Shop(f"sqlite:///{tmp_path}/shop.book")
    with made.book, made.acting(made.book):
        made.book.retention.sweep()
        with made.reads.database.session(write=True) as session:
            session.run(f"UPDATE pruned SET {value}")
        assert problems(made.book)[1] is not None
        assert [one.name for one in made.book.doctor() if one.state == "failed"]


def test_whoever_asks_who_looked_is_told_that_reads_were_pruned(shop: Shop) -> None:
    with shop.acting(shop.book):
        before = shop.book.audit.subject_report(ADA)
        assert before.data["reads_pruned"] is None
        assert "book.retention_swept" not in {one.action for one in shop.book.audit.trail(ADA)}
        known = shop.book.position()
        first = shop.book.audit.replay(ADA, "2021-06-01", known_at=known)
        assert "reads_pruned" not in first.evidence
        assert "reads_pruned_up_to" not in first.document["access"]
        shop.book.retention.sweep()
        swept_at = next(one.recorded_at for one in shop.book.audit.trail() if one.action == "book.retention_swept")
        report = shop.book.audit.subject_report(ADA)
        assert report.data["reads_pruned"] == {"position": 512, "at": swept_at}
        assert "up to number 512 were deleted at" in report.html()
        for entries in (shop.book.audit.trail(ADA), shop.book.audit.trail(actor="agent:nobody")):
            [told] = [one for one in entries if one.action == "book.retention_swept"]
            assert (told.log, told.subject, "records of reads up to 512 were pruned" in told.why) == (
                "events",
                None,
                True,
            )
        replayed = shop.book.audit.replay(ADA, "2021-06-01", known_at=known)
        assert replayed.evidence["reads_pruned"] == {"position": 512, "at": swept_at}
        # What is digested tells it too: it is not the document of before.
        [left] = list(shop.book._core.app.decode(shop.reads.iterate(512, stop=513)))
        until = min(iso(left.event.metadata.recorded_us) or "", "2021-06-01T23:59:59.999999Z")
        assert replayed.document["access"]["reads_pruned_up_to"] == until
        assert replayed.digest != first.digest
        assert f"Records of reads up to {until} were pruned" in replayed.html()


def test_a_replay_is_the_same_between_a_sweep_and_its_pruning_and_after_later_sweeps(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was pruned is taken from the events: whoever is cut short before the rows are deleted tells the same."""
    with shop.acting(shop.book):
        known = shop.book.position()

        def asked() -> bytes:
            return shop.book.audit.replay(ADA, "2021-06-01", known_at=known).canonical()

        with monkeypatch.context() as patched:
            patched.setattr(type(shop.reads), "prune", lambda *_: None)
            shop.book.retention.sweep()
            assert shop.reads.pruned().position == 0
            between = asked()
        shop.book.retention.sweep()
        assert shop.reads.pruned().position == 512
        assert asked() == between
