"""What the command line says, in its own words: options, codes, folders, ids that can be copied."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import NoteError, Refused, cli, terminal
from tallybook.adapters.gate import Gate
from tallybook.cli import app
from tallybook.domain.access import PersonalDataRead

WHO = ("--actor", "dpo:kim", "--purpose", "subject_rights")


@pytest.fixture
def shop(tmp_path: Path) -> tuple[str, UUID]:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("dpo:kim", purpose="subject_rights"):
        ada = book.customers.register(name="Ada")
        book.customers.record_request(ada, "access")
        return url, ada


def run(*arguments: object) -> tuple[int, str]:
    """As its users run it: errors as messages."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    error = done.exception
    if isinstance(error, (tallybook.TallybookError, OSError)):
        return 2, str(error)
    return done.exit_code, done.output


def reads(url: str) -> int:
    with tallybook.open(url) as book:
        return sum(isinstance(one.event, PersonalDataRead) for one in book._core.reads())


def test_a_damaged_log_of_reads_is_told_in_one_line(shop: tuple[str, UUID], caplog: pytest.LogCaptureFixture) -> None:
    def broken(self: Gate) -> None:
        raise tallybook.BookDamaged("The log of reads\nis damaged", path="shop.book.reads", remedy="See doctor.")

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Gate, "_write_opening", broken)
        tallybook.open(shop[0]).close()
    [told] = [one for one in caplog.records if "could not be recorded yet" in one.getMessage()]
    assert told.exc_info is None
    assert told.getMessage().endswith("yet: The log of reads is damaged See doctor.")


def test_options_are_called_as_on_the_command_line(shop: tuple[str, UUID]) -> None:
    url, _ = shop
    for arguments, said in (
        (("exposure",), "--by: exposure needs it"),
        (("subject-access",), "--subject: subject-access needs it"),
        (("retention", "--from", "2024-01-01"), "--from: retention does not take it"),
        (("corrections", "--tie-days", "3"), "--tie-days and the other thresholds: corrections does not take it"),
    ):
        status, told = run("audit", "review", *arguments, "--book", url, *WHO)
        assert (status, said in told) == (2, True), told
    _, told = run("show", "ticket", "1", "--book", url, *WHO)
    assert "an id is wanted, such as" in told


def test_a_missing_signing_key_names_the_option(shop: tuple[str, UUID], tmp_path: Path) -> None:
    (tmp_path / "shop.book.signing-key").unlink()
    _, told = run("audit", "checkpoint", "--book", shop[0])
    assert "--signing-key unsigned" in told


def test_it_is_said_what_a_code_is(shop: tuple[str, UUID]) -> None:
    url, ada = shop
    status, told = run("restrict", ada, "--reason", "gdpr 17", "--book", url, *WHO)
    assert status == 2
    assert "reason: a code is wanted" in told
    assert "without spaces, such as gdpr-17" in told
    assert "pattern" not in told


def test_a_folder_that_is_not_there_is_told_before_anything_is_read(shop: tuple[str, UUID], tmp_path: Path) -> None:
    url, ada = shop
    before = reads(url)
    gone = tmp_path / "nodir" / "x"
    rest = ("--book", url, *WHO)
    for command in (
        ("subject-report", ada, "--html", gone), ("audit", "review", "corrections", "--html", gone),
        ("audit", "review", "corrections", "--csv", gone),
        ("audit", "replay", "--subject", ada, "--at", "2020-01-01", "--out", gone),
        ("erase", ada, "--reason", "x", "--yes", "--even-so", "x", "--receipt", gone),
    ):  # fmt: skip
        status, told = run(*command, *rest)
        assert (status, "is no folder" in " ".join(told.split())) == (2, True), (command, told)
    assert reads(url) == before
    with tallybook.open(url) as book:
        assert book.erasures.all() == []


def test_a_pack_of_no_events_says_so(shop: tuple[str, UUID], tmp_path: Path) -> None:
    url, _ = shop
    with tallybook.open(url) as book:
        head = book.position()
    status, told = run("audit", "export", tmp_path / "pack", "--after", head, "--book", url, *WHO)
    assert (status, "no events of" in told) == (0, True)
    status, told = run("audit", "export", tmp_path / "more", "--until", 5000, "--book", url, *WHO)
    assert (status, "the log ends at position" in told) == (2, True)


def test_a_checkpoint_is_kept_in_the_book_though_the_timestamp_authority_is_silent(
    shop: tuple[str, UUID], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rfc3161_client")
    file = tmp_path / "kept"
    arguments = ["audit", "checkpoint", "--timestamp", "http://127.0.0.1:9/", "--out", str(file), "--book", shop[0]]
    monkeypatch.setattr(sys, "argv", ["tallybook", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    assert stop.value.code == 2
    assert "The checkpoint is signed and kept all the same." in capsys.readouterr().err
    assert not file.exists(), "the same may be asked again"
    with tallybook.open(shop[0]) as book:
        assert [one.token for one in book.audit.checkpoints()][-1:] == [None]


def test_a_file_that_is_no_checkpoint_is_named(shop: tuple[str, UUID], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with tallybook.open(shop[0]) as book, pytest.raises(NoteError, match=str(empty)):
        book.audit.verify(against=empty)


def test_an_action_that_is_not_there_is_refused(shop: tuple[str, UUID]) -> None:
    with tallybook.open(shop[0]) as book:
        with pytest.raises(Refused, match=r"there is no action or command 'profile\.get'; did you mean profiles\.get"):
            book.policy.explain("agent:lin", "support", "profile.get")
        for known in ("profiles.get", "customers.register", "audit.review.exposure"):
            assert book.policy.explain("agent:lin", "support", known).policy is None


def test_ids_and_times_are_never_cut_within(shop: tuple[str, UUID], monkeypatch: pytest.MonkeyPatch) -> None:
    url, ada = shop
    monkeypatch.setattr(terminal, "out", terminal.Terminal(soft_wrap=True, highlight=False, width=80))
    _, told = run("request", "list", "--book", url, *WHO)
    assert str(ada) in told
    [request] = json.loads(run("request", "list", "--json", "--book", url, *WHO)[1])
    for cell in ("request_id", "customer_id", "received_at", "due_at"):
        assert request[cell] in told
    _, told = run("audit", "trail", "--book", url, *WHO)
    assert "customer.request_received" in told
    run("erase", ada, "--reason", "gdpr-17", "--yes", "--even-so", "asked", "--book", url, *WHO)
    _, told = run("erasures", "list", "--book", url)
    [entry] = json.loads(run("erasures", "list", "--json", "--book", url)[1])
    assert entry["customer_id"] == str(ada)
    for cell in ("customer_id", "erased_at", "actor", "reason"):
        assert entry[cell] in told
