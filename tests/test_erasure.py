"""Erasure: nothing personal can be opened again, nothing else changes, and a receipt shows it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic_core import to_json

import tallybook
from tallybook import Book, Erased
from tallybook.domain.erasure import ORDINARY_KEY, SubjectErased
from tallybook.domain.errors import BookDamaged, BookError, Refused

from .conftest import STANDARD
from .postgres import all_bytes

LINE = {"sku": "cd", "quantity": 2, "net_minor": 5000}
NAME, MAIL, TEXT, ORDER = "Ada Lovelace", "ada@example.org", "The parcel was wet", "ORDER-4711"


@pytest.fixture(params=["sqlite", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "server":
        return str(request.getfixturevalue("server_book_url"))
    return f"sqlite:///{tmp_path / 'shop.book'}"


def lived(book: Book) -> UUID:
    """A customer with something in every corner."""
    book.rules.adopt(STANDARD, effective_at="1990-01-01T00:00:00Z")
    ada = book.customers.register(name=NAME, email=MAIL, identifiers={"crm": "C-1"}, birth_date="1985-12-10")
    book.loyalty.enrol(ada)
    book.customers.record_purchase(ada, [LINE], order_id=ORDER)
    case = book.tickets.open(ada, subject=TEXT, kind="complaint")
    book.tickets.reply(case, "We are sorry")
    return ada


@pytest.fixture
def book(url: str) -> Iterator[Book]:
    with tallybook.open(url) as opened, opened.acting("agent:lin", purpose="support"):
        yield opened


def test_nothing_personal_can_be_read_after_an_erasure(book: Book) -> None:
    ada = lived(book)
    assert book.profiles.get(ada)["name"] == NAME
    receipt = book.erasures.erase(ada, reason="gdpr-17")
    profile = book.profiles.get(ada)
    assert isinstance(profile["name"], Erased)
    assert [type(point.value) for point in profile.contact_points] == [Erased]
    assert isinstance(profile.identifiers["crm"].value, Erased)
    assert profile["birth_month"] == 12  # coarse, for scoring
    for entry in book.profiles.timeline(ada):
        assert all(isinstance(value, Erased) for value in entry.texts.values())
    assert receipt.subject == ada
    assert receipt.reason == "gdpr-17"
    assert receipt.lookups == 2  # the external id, and the order
    assert receipt.commitments.keys() == {ORDINARY_KEY}


def test_points_tiers_and_proofs_stay(book: Book) -> None:
    ada = lived(book)
    before = (book.loyalty.balance(ada), book.tiers.history(ada), book.backtest(STANDARD).matrix)
    book.erasures.erase(ada, reason="gdpr-17")
    assert (book.loyalty.balance(ada), book.tiers.history(ada), book.backtest(STANDARD).matrix) == before
    assert book.replay().holds
    assert all(one.holds for one in book.audit.verify())


def test_look_ups_are_gone_and_free_again(book: Book) -> None:
    ada = lived(book)
    book.erasures.erase(ada, reason="gdpr-17")
    assert book.customers.find("crm", "C-1") is None
    again = book.customers.register(name="Ada", identifiers={"crm": "C-1"})
    assert again != ada
    book.customers.record_purchase(again, [LINE], order_id=ORDER)


AFTER: dict[str, Callable[[Book, UUID, UUID], object]] = {
    "change": lambda book, ada, _: book.customers.change(ada, name="Ada again"),
    "purchase": lambda book, ada, _: book.customers.record_purchase(ada, [LINE]),
    "contact point": lambda book, ada, _: book.customers.add_contact_point(ada, "email", "new@example.org"),
    "ticket": lambda book, ada, _: book.tickets.open(ada, subject="Again", kind="enquiry"),
    "reply": lambda book, _, case: book.tickets.reply(case, "One more word"),
    "reply without a text to seal": lambda book, _, case: book.tickets.assign(case, "agent:bo"),
    "redemption": lambda book, ada, _: book.loyalty.redeem(ada, 1, reward="R1"),
}


@pytest.mark.parametrize("what", AFTER)
def test_nothing_new_is_recorded_of_whoever_was_erased(book: Book, what: str) -> None:
    ada = lived(book)
    case = book.tickets.open(ada, subject=TEXT, kind="complaint")
    book.erasures.erase(ada, reason="gdpr-17")
    position = book.position()
    with pytest.raises(Refused) as refused:
        AFTER[what](book, ada, case)
    assert refused.value.code == "customer_erased"
    assert book.position() == position


def test_sweeps_go_on(book: Book) -> None:
    ada = lived(book)
    book.erasures.erase(ada, reason="gdpr-17")
    book.loyalty.sweep(datetime.now(UTC))
    assert book.replay().holds


def test_another_process_that_still_has_the_key_opens_nothing(url: str) -> None:
    with (
        tallybook.open(url) as one,
        tallybook.open(url) as other,
        one.acting("agent:lin", purpose="support"),
        other.acting("agent:bo", purpose="support"),
    ):
        ada = lived(one)
        case = one.tickets.open(ada, subject=TEXT, kind="complaint")
        assert other.profiles.get(ada)["name"] == NAME  # its cipher is cached now
        one.erasures.erase(ada, reason="gdpr-17")
        assert isinstance(other.profiles.get(ada)["name"], Erased)
        with pytest.raises(Refused, match="customer_erased"):
            other.tickets.reply(case, "I did not know")


def test_erasing_twice_gives_the_receipt_again(book: Book) -> None:
    ada = lived(book)
    first = book.erasures.erase(ada, reason="gdpr-17")
    position = book.position()
    again = book.erasures.erase(ada, reason="another")
    assert (again.position, again.reason, again.event_id) == (first.position, "gdpr-17", first.event_id)
    assert book.position() == position
    assert book.erasures.receipt(ada).event_id == first.event_id
    assert book.erasures.all() == [ada]


def test_refusals(book: Book) -> None:
    ada = lived(book)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: book.erasures.erase(uuid4(), reason="gdpr-17"), "unknown_customer"),
        (lambda: book.erasures.erase(ada, reason="two words"), "invalid_argument"),
        (lambda: book.erasures.erase("nobody", reason="gdpr-17"), "invalid_argument"),
        (lambda: book.erasures.receipt(ada), "not_erased"),
        (lambda: book.erasures.erase_kept(ada), "not_erased"),
    ]
    for call, code in calls:
        with pytest.raises(Refused) as refused:
            call()
        assert refused.value.code == code
    assert book.profiles.get(ada)["name"] == NAME


@pytest.mark.server
def test_on_a_server_the_wrapping_key_changes_with_each_erasure(server_book_url: str) -> None:
    """Of a deleted row, bytes stay in dead pages and in the server's log: the key that they are wrapped under goes."""
    with tallybook.open(server_book_url) as book, tallybook.open(server_book_url) as other:
        with book.acting("agent:lin", purpose="support"):
            ada, bob = lived(book), book.customers.register(name="Bob")
            keys: Any = book._core.storage.keys
            before = keys.source.read(book.origin)
            book.erasures.erase(ada, reason="gdpr-17")
            after = keys.source.read(book.origin)
            assert len(before) == len(after) == 1
            assert before != after
            assert book.profiles.get(bob)["name"] == "Bob"
        with other.acting("agent:bo", purpose="support"):
            assert other.profiles.get(bob)["name"] == "Bob"  # reads the wrapping key again
        searched = all_bytes(server_book_url.rpartition("schema=")[2])
        for secret in (NAME, MAIL, TEXT, ORDER):
            assert not [name for name, data in searched.items() if secret.encode() in data]
        assert not [name for name, data in searched.items() if before[0] in data or after[0] in data]


def test_it_can_be_awaited(book: Book) -> None:
    ada = lived(book)
    receipt = asyncio.run(book.erasures.erase.aio(ada, reason="gdpr-17"))
    assert receipt.subject == ada


# ── files: copies that are put back, kills, bytes ───────────────────────────────────────────────────────────────────


def put_back(folder: Path, copies: Path, *names: str) -> None:
    for name in names:
        for side in ("-wal", "-shm", "-journal"):
            (folder / (name + side)).unlink(missing_ok=True)
        shutil.copy2(copies / name, folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    return folder


def erased_book(folder: Path, copies: Path) -> tuple[str, UUID]:
    """A book with an erasure, and copies of its files from just before it."""
    url = f"sqlite:///{folder / 'shop.book'}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
    shutil.copytree(folder, copies)
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        book.erasures.erase(ada, reason="gdpr-17")
    return url, ada


def test_keys_that_are_put_back_are_destroyed_again_before_the_book_opens(folder: Path, tmp_path: Path) -> None:
    url, ada = erased_book(folder, tmp_path / "before")
    put_back(folder, tmp_path / "before", "shop.book.keys", "shop.book.wrapping-key")
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert book._core.storage.keys.get([(ada, ORDINARY_KEY)]) == {}
        assert isinstance(book.profiles.get(ada)["name"], Erased)


def test_a_log_that_is_put_back_erases_again(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url, ada = erased_book(folder, tmp_path / "before")
    put_back(folder, tmp_path / "before", "shop.book", "shop.book.reads")
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert "erased again" in caplog.text
        assert isinstance(book.profiles.get(ada)["name"], Erased)
        assert book.customers.find("crm", "C-1") is None
        assert book.erasures.receipt(ada).reason == "restored"
        position = book.position()
    with tallybook.open(url) as book:
        assert book.position() == position


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["destroy", "set_erased_up_to"])
def test_an_erasure_that_is_cut_short_after_its_commit_is_finished_at_the_next_opening(
    folder: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{folder / 'shop.book'}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)

        def killed(*_: Any) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(type(book._core.storage.keys), step, killed)
            with pytest.raises(Killed):
                book.erasures.erase(ada, reason="gdpr-17")
        assert isinstance(book.profiles.get(ada)["name"], Erased)  # at once, whatever the key store still has
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert book._core.storage.keys.get([(ada, ORDINARY_KEY)]) == {}
        assert book.erasures.erase(ada, reason="gdpr-17").reason == "gdpr-17"


def test_no_plaintext_and_no_usable_key_is_left_in_any_file(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{folder / 'shop.book'}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        key = book._core.storage.keys.get([(ada, ORDINARY_KEY)])[ada, ORDINARY_KEY]
        claim = book._core.keyring.lookup_hash("identifier", "crm", "C-1")
        held = {file.name for file in folder.iterdir() if claim in file.read_bytes()}
        assert held, "the search finds what is there"
        book.erasures.erase(ada, reason="gdpr-17")
        book.backup(tmp_path / "later.backup")
        book.backup_keys(tmp_path / "later.keys")
        files = [*folder.iterdir(), tmp_path / "later.backup", tmp_path / "later.keys"]
        for file in files:
            found = file.read_bytes()
            for secret in (NAME, MAIL, TEXT, ORDER, "C-1"):
                assert secret.encode() not in found, (file.name, secret)
            assert key not in found, file.name
            assert claim not in found, file.name


def test_a_stranger_verifies_the_receipt(book: Book, tmp_path: Path) -> None:
    ada, bob = lived(book), book.customers.register(name="Bob")
    receipt = json.loads(to_json(book.erasures.erase(ada, reason="gdpr-17"), fallback=str))
    other = json.loads(to_json(book.erasures.erase(bob, reason="gdpr-17"), fallback=str))
    with book.acting("auditor:pat", purpose="audit"):
        book.audit.export(tmp_path / "pack")

    def verified(name: str, content: object) -> subprocess.CompletedProcess[str]:
        file = tmp_path / name
        file.write_text(json.dumps(content))
        arguments = ["--vkey", book.audit.vkey, "--proof", str(file), "--quiet"]
        command = [sys.executable, "-I", "-S", str(tmp_path / "pack" / "verify.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = verified("receipt", receipt)
    assert f"proves the erasure of {ada} at position {receipt['position']}" in done.stdout
    assert done.returncode == 0
    for name, forged in {
        "of another": {**receipt, "subject": str(bob)},
        "another's proof": {**receipt, "proof": other["proof"]},
        "another's leaf": {**receipt, "leaf": other["leaf"]},
        "another position": {**receipt, "position": receipt["position"] - 1},
        "no proof": {**receipt, "proof": None},
        "no leaf": {key: value for key, value in receipt.items() if key != "leaf"},
    }.items():
        assert verified("forged", forged).returncode == 1, name


def test_doubled_ids_of_erasures_are_no_second_erasure(book: Book) -> None:
    ada = lived(book)
    first = book.erasures.erase(ada, reason="gdpr-17", command_id="erase-ada")
    assert book.erasures.erase(ada, reason="gdpr-17", command_id="erase-ada").event_id == first.event_id
    found = [one.event for one in book._core.history([SubjectErased.stored_name])]
    assert [event.event_id for event in found] == [first.event_id]


def states(book: Book, check: str) -> list[str]:
    return [one.state for one in book.doctor() if one.name == check]


def test_doctor_tells_erased_from_lost(folder: Path, tmp_path: Path) -> None:
    url, ada = erased_book(folder, tmp_path / "before")
    with tallybook.open(url) as book:
        assert set(states(book, "keys") + states(book, "erasures") + states(book, "claims")) == {"ok"}
        book._core.storage.keys.close()
        put_back(folder, tmp_path / "before", "shop.book.keys", "shop.book.wrapping-key")
        assert states(book, "erasures") == ["failed"]  # the next opening destroys it
    with tallybook.open(url) as book:
        assert states(book, "erasures") == ["ok"]
        with book._core.storage.events.session(write=True) as session:
            session.run("DELETE FROM erased")
        assert states(book, "erasures") == ["failed"]
        with book.acting("agent:lin", purpose="support"):
            assert isinstance(book.profiles.get(ada)["name"], Erased)  # the tombstone stands


# ── what the law demands to keep ────────────────────────────────────────────────────────────────────────────────────


def test_what_a_schedule_keeps_is_sealed_anew_and_goes_when_its_time_is_over(url: str) -> None:
    clock = [1_700_000_000_000_000]
    with tallybook.open(url, now_us=lambda: clock[0]) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book.retention.declare(
            "invoices", "transaction", purpose="tax", legal_basis="tax-law", period=10, unit="years", action="keep"
        )
        receipt = book.erasures.erase(ada, reason="gdpr-17")
        assert receipt.kept == 1  # the order id: all else is of another category
        assert receipt.kept_until == "2033-11-14T22:13:20Z"
        texts = {name: value for entry in book.profiles.timeline(ada) for name, value in entry.texts.items()}
        assert texts.pop("value") == ORDER
        assert all(isinstance(value, Erased) for value in texts.values())
        with pytest.raises(Refused) as refused:
            book.erasures.erase_kept(ada)
        assert refused.value.code == "still_kept"
        assert book.retention.due().ready == ()

        clock[0] += 11 * 366 * 86_400_000_000
        assert [one.customer_id for one in book.retention.due().ready] == [ada]
        assert book.retention.sweep().erased == 1
        over = book.erasures.receipt(ada)
        assert over.commitments.keys() == {1, 2}
        assert book.retention.due().ready == ()
        for entry in book.profiles.timeline(ada):
            assert all(isinstance(value, Erased) for value in entry.texts.values())
        assert all(one.holds for one in book.audit.verify())


def test_a_reply_that_comes_between_is_kept_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tallybook.open(url) as book, tallybook.open(url) as other, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book.retention.declare(
            "letters", "communication", purpose="law", legal_basis="law", period=6, unit="years", action="keep"
        )
        case = book.tickets.open(ada, subject=TEXT, kind="complaint")
        opened = book._core.gate.open
        late: list[UUID] = []

        def opening(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("to_seal_again") and not late:
                with other.acting("agent:bo", purpose="support"):
                    late.append(other.tickets.reply(case, "Just in time"))
            return opened(*args, **kwargs)

        monkeypatch.setattr(book._core.gate, "open", opening)
        book.erasures.erase(ada, reason="gdpr-17")
        values = [value for entry in book.profiles.timeline(ada) for value in entry.texts.values()]
        assert "Just in time" in values


def test_a_row_of_the_table_alone_destroys_no_key_and_gives_no_erased_value(folder: Path) -> None:
    url = f"sqlite:///{folder / 'shop.book'}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        with book._core.storage.events.session(write=True) as session:
            session.run("INSERT INTO erased VALUES (?, 1, 1)", [ada.bytes])
        with pytest.raises(BookDamaged, match="no erasure"):
            book.profiles.get(ada)
        assert states(book, "erasures") == ["failed"]
    with pytest.raises(BookDamaged, match="no erasure"):
        tallybook.open(url)
    with closing(sqlite3.connect(folder / "shop.book")) as raw, raw:
        raw.execute("DELETE FROM erased")
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert book.profiles.get(ada)["name"] == NAME


def test_a_row_of_the_table_that_names_no_subject_is_damage(folder: Path) -> None:
    url = f"sqlite:///{folder / 'shop.book'}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        lived(book)
        with book._core.storage.events.session(write=True) as session:
            session.run("INSERT INTO erased VALUES (?, 1, ?)", [b"nobody", book.position()])
        assert states(book, "erasures") == ["failed"]
    with pytest.raises(BookDamaged, match="no subject"):
        tallybook.open(url)


def test_where_the_key_file_is_held_the_answer_is_not_that_nothing_happened(folder: Path) -> None:
    url = f"sqlite:///{folder / 'shop.book'}"
    with tallybook.open(url, lock_timeout_s=1) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        with closing(sqlite3.connect(folder / "shop.book.keys", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM data_keys").fetchall()
            with pytest.raises(BookError, match="is recorded"):
                book.erasures.erase(ada, reason="gdpr-17")
            assert isinstance(book.profiles.get(ada)["name"], Erased)
        assert book.erasures.erase(ada, reason="gdpr-17").reason == "gdpr-17"
        assert book._core.storage.keys.get([(ada, ORDINARY_KEY)]) == {}


def test_what_is_written_for_people_is_for_its_owner_alone(folder: Path, tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{folder / 'shop.book'}") as book, book.acting("agent:lin", purpose="support"):
        lived(book)
        book.audit.export(tmp_path / "pack", sealed=False)
        book.exports.ocsf(tmp_path / "o.jsonl")
    assert stat.S_IMODE((tmp_path / "pack").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "o.jsonl").stat().st_mode) == 0o600
