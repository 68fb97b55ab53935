"""Erasure: nothing personal can be opened again, nothing else changes, and a receipt shows it."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic_core import to_json
from typer.testing import CliRunner

import tallybook
from tallybook import Book, Erased
from tallybook.adapters.wrapping import NONCE_BYTES, FileWrappingKeys, KmsWrappingKeys, Wrapping
from tallybook.cli import app
from tallybook.data import verify
from tallybook.domain.erasure import ORDINARY_KEY, SubjectErased
from tallybook.domain.errors import BookError, KeysMissing, Refused, refusal
from tallybook.erasing import Erasing

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


def test_an_erasure_is_not_dated_before_the_customer_was_there(book: Book) -> None:
    ada = book.customers.register(name=NAME, effective_at="2024-05-01T09:00:00Z")
    with pytest.raises(Refused) as refused:
        book.erasures.erase(ada, reason="gdpr-17", effective_at="2024-05-01T08:59:59Z")
    assert refused.value.code == "effective_too_early"
    assert book.profiles.get(ada)["name"] == NAME
    receipt = book.erasures.erase(ada, reason="gdpr-17", effective_at="2024-05-01T09:00:00Z")
    assert receipt.erased_at == "2024-05-01T09:00:00Z"


def test_what_is_given_with_an_erasure_that_was_carried_out_is_looked_at_all_the_same(book: Book) -> None:
    ada = book.customers.register(name=NAME, effective_at="2024-05-01T09:00:00Z")
    bob = book.customers.register(name="Bob")
    asked = book.customers.record_request(ada, "erasure")
    other = book.customers.record_request(ada, "access")
    of_bob = book.customers.record_request(bob, "erasure")
    given: dict[str, Any] = {"reason": "gdpr-17", "request_id": asked, "even_so": "subject-insists"}
    receipt = book.erasures.erase(ada, **given)
    book.customers.complete_request(ada, asked)
    head = book.position()
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("naive_time", {"effective_at": "2024-06-01T09:00:00"}),
        ("invalid_argument", {"effective_at": "soon"}),
        ("effective_in_future", {"effective_at": "8000-01-01T00:00:00Z"}),
        ("effective_too_early", {"effective_at": "2024-04-01T00:00:00Z"}),
        ("unknown_request", {"request_id": uuid4()}),
        ("unknown_request", {"request_id": of_bob}),
        ("request_of_other_kind", {"request_id": other}),
        ("invalid_argument", {"request_id": "r"}),
        ("invalid_argument", {"reason": "no code"}),
        ("invalid_argument", {"even_so": "no code"}),
    ]
    for code, more in wrong:
        with pytest.raises(Refused) as refused:
            book.erasures.erase(ada, **{**given, **more})
        assert refused.value.code == code, more
    again = book.erasures.erase(ada, **given)
    assert (again.event_id, again.position, again.reason) == (receipt.event_id, receipt.position, receipt.reason)
    assert book.position() == head, "nothing was recorded"


def test_the_command_line_refuses_what_is_wrong_of_who_is_erased_already(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as opened, opened.acting("agent:lin", purpose="support"):
        ada = opened.customers.register(name=NAME)
        opened.erasures.erase(ada, reason="gdpr-17")
    command = ["erase", str(ada), "--book", url, "--reason", "gdpr-17", "--yes", "--actor", "a", "--purpose", "p"]
    assert CliRunner().invoke(app, command).exit_code == 0
    for wrong in (["--at", "2024-06-01T09:00:00"], ["--request", str(uuid4())]):
        assert CliRunner().invoke(app, [*command, *wrong]).exit_code == 1, wrong


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
            [(wrapped,)] = keys.database.rows("SELECT wrapped FROM data_keys WHERE subject=?", [ada.bytes])
            schema = server_book_url.rpartition("schema=")[2]
            assert [name for name, data in all_bytes(schema).items() if wrapped in data], (
                "the search finds what is there"
            )
            receipt = book.erasures.erase(ada, reason="gdpr-17")
            assert receipt.unfinished == ()
            assert "the server's pages, log and backups" in receipt.done["deleted rows"]
            after = keys.source.read(book.origin)
            assert len(before) == len(after) == 1
            assert before != after
            assert book.profiles.get(bob)["name"] == "Bob"
        with other.acting("agent:bo", purpose="support"):
            assert other.profiles.get(bob)["name"] == "Bob"  # reads the wrapping key again
        searched = all_bytes(schema)
        for secret in (NAME, MAIL, TEXT, ORDER):
            assert not [name for name, data in searched.items() if secret.encode() in data]
        assert not [name for name, data in searched.items() if before[0] in data or after[0] in data]
        assert wrapped not in searched["data_keys"]
        # In the server's own files it may still stand. Neither of the two keys is there, and that of now does not fit.
        wrapping = Wrapping(keys.source, other.origin)
        with pytest.raises(KeysMissing):
            wrapping.unwrap(wrapping.newest, wrapped, ada, ORDINARY_KEY)


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


def found_in(files: Iterable[Path], needles: Mapping[str, bytes]) -> dict[str, set[str]]:
    """Which needles stand in which files."""
    contents = {file.name: file.read_bytes() for file in files}
    found = {name: {file for file, data in contents.items() if needle in data} for name, needle in needles.items()}
    return {name: files for name, files in found.items() if files}


def needles_of(book: Book, folder: Path, subject: UUID) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What stands in a book's files of a subject, and must not after an erasure; and what must stand there never."""
    core = book._core
    with closing(sqlite3.connect(folder / "shop.book.keys")) as raw:
        [(wrapped,)] = raw.execute("SELECT wrapped FROM data_keys WHERE subject=?", [subject.bytes]).fetchall()
    [wrapping] = FileWrappingKeys(folder / "shop.book.wrapping-key").read(book.origin)
    there = {
        "the wrapped key": wrapped,
        "its nonce": wrapped[:NONCE_BYTES],
        "its ciphertext": wrapped[NONCE_BYTES:],
        "the wrapping key of then": b64encode(wrapping),
        "the look-up of the external id": core.keyring.lookup_hash("identifier", "crm", "C-1"),
        "the look-up of the order": core.keyring.lookup_hash("order", ORDER),
    }
    [key] = core.storage.keys.get([(subject, ORDINARY_KEY)]).values()
    never = {secret: secret.encode() for secret in (NAME, MAIL, TEXT, ORDER, "C-1")}
    return there, never | {"the data key": key, "the bytes of the wrapping key": wrapping}


def test_no_plaintext_no_look_up_and_no_wrapped_key_is_left_in_any_file(folder: Path, tmp_path: Path) -> None:
    """Of the book as it is open and as it is closed, and of what is copied from it later."""
    url = f"sqlite:///{folder / 'shop.book'}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book.customers.register(name="Bob")
        there, never = needles_of(book, folder, ada)
        before = found_in(folder.iterdir(), there)
        assert before.keys() == there.keys(), "the search finds what is there"
        assert before["the wrapped key"] == {"shop.book.keys"}
        assert before["the wrapping key of then"] == {"shop.book.wrapping-key"}
        assert before["the look-up of the order"] <= {"shop.book", "shop.book-wal"}
        assert found_in(folder.iterdir(), never) == {}, "what is never written"
        (tmp_path / "planted").write_bytes(b"\n".join(never.values()))
        assert found_in([tmp_path / "planted"], never).keys() == never.keys(), "but would be found"

        assert book.erasures.erase(ada, reason="gdpr-17").unfinished == ()
        searched = {file.name for file in folder.iterdir()}
        assert searched >= {
            f"shop.book{end}"
            for end in ("", "-wal", "-shm", ".keys", ".keys-journal", ".wrapping-key", ".reads", ".reads-wal")
        }
        assert found_in(folder.iterdir(), there | never) == {}
        book.backup(tmp_path / "later.backup")
        book.backup_keys(tmp_path / "later.keys")
        book.audit.export(tmp_path / "later.pack")
    later = [tmp_path / "later.backup", tmp_path / "later.keys"]
    later += [file for file in (tmp_path / "later.pack").rglob("*") if file.is_file()]
    assert found_in([*folder.iterdir(), *later], there | never) == {}


def test_old_copies_open_nothing_with_the_wrapping_key_of_now(folder: Path, tmp_path: Path) -> None:
    """Nor of anybody else: whoever wants to keep copies copies keys and wrapping key after an erasure."""
    url = f"sqlite:///{folder / 'shop.book'}"
    backup, keys, then = (tmp_path / name for name in ("old.backup", "old.keys", "old.wrapping-key"))
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book.backup(backup)
        book.backup_keys(keys)
        shutil.copy2(folder / "shop.book.wrapping-key", then)
        receipt = book.erasures.erase(ada, reason="gdpr-17")
    assert "so is the wrapping key" in receipt.done["keys"]
    assert receipt.unfinished == ()
    now = tmp_path / "now.wrapping-key"
    shutil.copy2(folder / "shop.book.wrapping-key", now)
    again = f"sqlite:///{tmp_path}/again.book"
    with pytest.raises(KeysMissing, match="open nothing now"):
        tallybook.restore(backup, again, keys=keys, wrapping_key=now)
    wrapping = Wrapping(FileWrappingKeys(now), book.origin)
    with closing(sqlite3.connect(keys)) as raw:
        [(wrapped,)] = raw.execute("SELECT wrapped FROM data_keys WHERE subject=?", [ada.bytes]).fetchall()
    with pytest.raises(KeysMissing):
        wrapping.unwrap(wrapping.newest, wrapped, ada, ORDINARY_KEY)
    # Only whoever copied the wrapping key of then as well has all that is needed.
    tallybook.restore(backup, again, keys=keys, wrapping_key=then)
    with tallybook.open(again, wrapping_key=then) as old, old.acting("agent:lin", purpose="support"):
        assert old.profiles.get(ada)["name"] == NAME


class Held(FileWrappingKeys):
    """A source of the host's own. Once it is `fixed`, it takes no other key, each in its own way."""

    fixed = ""

    def replace(self, origin: str, keys: Sequence[bytes]) -> None:
        if self.fixed == "raises":
            raise PermissionError("AccessDenied: kms:Encrypt")
        if self.fixed == "drops nothing" and len(keys) == 1:
            raise NotImplementedError
        if self.fixed != "says nothing":
            super().replace(origin, keys)


@pytest.mark.parametrize("how", ["raises", "says nothing"])
def test_where_the_wrapping_key_can_not_be_replaced_the_erasure_is_done_and_says_so(
    url: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Held(tmp_path / "held.wrapping-key")
    with tallybook.open(url, wrapping_key=source) as book, book.acting("agent:lin", purpose="support"):
        ada, bob = lived(book), book.customers.register(name="Bob")
        source.fixed = how
        receipt = book.erasures.erase(ada, reason="gdpr-17")
        assert receipt.unfinished == ("keys",)
        assert "copies of the key store from before still open" in receipt.done["keys"]
        assert "held.wrapping-key can't be replaced" in receipt.done["keys"]
        assert "could not be rotated" in caplog.text
        assert book._core.storage.keys.get([(ada, ORDINARY_KEY)]) == {}
        assert isinstance(book.profiles.get(ada)["name"], Erased)
        assert book.profiles.get(bob)["name"] == "Bob"
        with pytest.raises(BookError, match="can't be replaced"):
            book.rotate_wrapping_key()
        assert states(book, "erasures") == ["warning", "ok"]
    for _ in range(2):  # the book is opened all the same
        with tallybook.open(url, wrapping_key=source) as book, book.acting("agent:lin", purpose="support"):
            assert book.profiles.get(bob)["name"] == "Bob"
            assert book.erasures.receipt(ada).unfinished == ("keys",)
    source.fixed = ""
    with tallybook.open(url, wrapping_key=source) as book, book.acting("agent:lin", purpose="support"):
        assert states(book, "erasures") == ["ok"]
        receipt = book.erasures.receipt(ada)
        assert receipt.unfinished == ()
        assert "so is the wrapping key" in receipt.done["keys"]
        assert book.profiles.get(bob)["name"] == "Bob"
        assert len(source.read(book.origin)) == 1


def test_a_wrapping_key_that_is_not_dropped_is_no_end_of_it(url: str, tmp_path: Path) -> None:
    source = Held(tmp_path / "held.wrapping-key")
    with tallybook.open(url, wrapping_key=source) as book, book.acting("agent:lin", purpose="support"):
        ada, bob = lived(book), book.customers.register(name="Bob")
        [old] = source.read(book.origin)
        source.fixed = "drops nothing"
        receipt = book.erasures.erase(ada, reason="gdpr-17")
        assert old in source.read(book.origin)  # beside the new one, which all keys are under
        assert receipt.unfinished == ("keys",)
        assert "NotImplementedError" in receipt.done["keys"]
    with tallybook.open(url, wrapping_key=source) as book, book.acting("agent:lin", purpose="support"):
        assert old not in source.read(book.origin)  # the next rotation puts its own key in that place
        assert book.erasures.receipt(ada).unfinished == ()
        assert book.profiles.get(bob)["name"] == "Bob"


def test_a_key_management_service_that_encrypts_nothing_more_stops_no_erasure(url: str, tmp_path: Path) -> None:
    class Service:
        denies = False

        def encrypt(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
            if self.denies:
                raise PermissionError("AccessDenied")
            return plaintext[::-1]

        def decrypt(self, ciphertext: bytes, context: Mapping[str, str]) -> bytes:
            return ciphertext[::-1]

    service = Service()
    source = KmsWrappingKeys(service, tmp_path / "kms.wrapping-key")
    with tallybook.open(url, wrapping_key=source) as book, book.acting("agent:lin", purpose="support"):
        ada, bob = lived(book), book.customers.register(name="Bob")
        service.denies = True
        receipt = book.erasures.erase(ada, reason="gdpr-17")
        assert (receipt.unfinished, "AccessDenied" in receipt.done["keys"]) == (("keys",), True)
        service.denies = False
        before = source.read(book.origin)
        assert book.erasures.erase(bob, reason="gdpr-17").unfinished == ()
        assert book.erasures.receipt(ada).unfinished == ()
        assert source.read(book.origin) != before


def test_a_book_without_a_wrapping_key_says_so() -> None:
    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="support"):
        receipt = book.erasures.erase(lived(book), reason="gdpr-17")
        assert "no wrapping key" in receipt.done["keys"]
        assert (receipt.done["deleted rows"], receipt.unfinished) == ("overwritten", ())


# ── somebody reads meanwhile ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("finisher", ["receipt", "erasure", "opening"])
def test_what_a_reader_holds_up_is_told_and_finished_later(folder: Path, finisher: str) -> None:
    url = f"sqlite:///{folder / 'shop.book'}"
    with closing(sqlite3.connect(folder / "shop.book", isolation_level=None)) as reader:
        with tallybook.open(url, lock_timeout_s=0) as book, book.acting("agent:lin", purpose="support"):
            ada, bob = lived(book), book.customers.register(name="Bob")
            there, never = needles_of(book, folder, ada)
            lookups = {name: there.pop(name) for name in list(there) if "look-up" in name}
            reader.execute("BEGIN")
            reader.execute("SELECT COUNT(*) FROM stored_events").fetchall()
            receipt = book.erasures.erase(ada, reason="gdpr-17")
            assert receipt.unfinished == ("deleted rows",)
            assert "shop.book, which somebody is reading" in receipt.done["deleted rows"]
            assert isinstance(book.profiles.get(ada)["name"], Erased)
            assert book._core.storage.keys.get([(ada, ORDINARY_KEY)]) == {}
            assert found_in(folder.iterdir(), there | never) == {}, "the key is gone at once"
            assert found_in(folder.iterdir(), lookups).keys() == lookups.keys(), "the look-ups are what waits"
            book.customers.change(bob, name="Robert")  # nobody is held up
            shown = CliRunner().invoke(app, ["erasures", "show", str(ada), "--book", url])
            assert "unfinished" in shown.output
            assert "deleted rows" in shown.output.partition("unfinished")[2]
            assert book.erasures.receipt(ada).unfinished == ("deleted rows",)
            reader.execute("ROLLBACK")
            if finisher == "receipt":
                assert book.erasures.receipt(ada).unfinished == ()
            elif finisher == "erasure":
                assert book.erasures.erase(bob, reason="gdpr-17").unfinished == ()
            else:
                reader.execute("BEGIN")
                reader.execute("SELECT COUNT(*) FROM stored_events").fetchall()
        if finisher == "opening":
            reader.execute("ROLLBACK")
            assert found_in(folder.iterdir(), lookups).keys() == lookups.keys()
            tallybook.open(url).close()
        assert found_in(folder.iterdir(), there | never | lookups) == {}


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
        "one name more": {**receipt, "note": "all is well"},
    }.items():
        assert verified("forged", forged).returncode == 1, name


def test_whatever_a_receipt_says_is_held_against_its_leaf(book: Book, tmp_path: Path) -> None:
    ada = lived(book)
    receipt = json.loads(to_json(book.erasures.erase(ada, reason="gdpr-17"), fallback=str))
    with book.acting("auditor:pat", purpose="audit"):
        book.audit.export(tmp_path / "pack")
        book.audit.export(tmp_path / "part", after=book.position() - 1)
    file = tmp_path / "receipt"

    def verified(text: str, pack: str = "pack") -> tuple[int, str]:
        file.write_text(text)
        told = io.StringIO()
        with redirect_stdout(told):
            status = verify.main([str(tmp_path / pack), "--vkey", book.audit.vkey, "--proof", str(file), "--quiet"])
        return status, told.getvalue()

    status, told = verified(json.dumps(receipt))
    assert status == 0, told
    assert "not proven: done, unfinished\n" in told
    assert receipt["commitments"].keys() == {"1"}
    assert receipt.keys() == verify.RECEIPT_NAMES
    others: dict[str, list[object]] = {
        "origin": ["tallybook/other"],
        "event_id": [str(UUID(int=9)), None],
        "request_id": [str(UUID(int=5)), ""],
        "even_so": ["subject-insists"],
        "erased_at": ["2020-01-01T00:00:00Z", None],
        "recorded_at": ["2020-01-01T00:00:00Z"],
        "actor": ["agent:nobody"],
        "reason": ["forged"],
        "lookups": [999, str(receipt["lookups"]), True],
        "kept": [7, None, False],
        "kept_until": ["2030-01-01T00:00:00Z"],
        "commitments": [{"1": "00" * 32}, {}, {"1": None}, {"01": receipt["commitments"]["1"]}, [], None],
        "position": [receipt["position"] + 1, None, float(receipt["position"])],
    }
    said = receipt.keys() - {"subject", "leaf", "proof", "done", "unfinished"}
    assert others.keys() == said
    for name, values in others.items():
        for value in values:
            assert verified(json.dumps({**receipt, name: value}))[0] == 1, (name, value)
    # A name that stands twice has one value for who reads the first, another for who reads the last.
    twice = json.dumps({**receipt, "reason": "forged"})[:-1] + f', "reason": "{receipt["reason"]}"}}'
    status, told = verified(twice)
    assert status == 1
    assert "stands twice" in told
    # What no log holds is named; so are keys that the pack says nothing of.
    status, told = verified(json.dumps({**receipt, "commitments": {**receipt["commitments"], "9": "00" * 32}}))
    assert status == 0
    assert "not proven: done, unfinished, commitments.9\n" in told


def test_a_receipt_of_a_pack_without_the_key_s_event_says_what_is_unproven(book: Book, tmp_path: Path) -> None:
    ada = lived(book)
    for _ in range(300):
        book.customers.register(name="Somebody")
    receipt = json.loads(to_json(book.erasures.erase(ada, reason="gdpr-17"), fallback=str))
    with book.acting("auditor:pat", purpose="audit"):
        book.audit.export(tmp_path / "part", after=book.position() - 1)
    file, told = tmp_path / "receipt", io.StringIO()
    file.write_text(json.dumps(receipt))
    with redirect_stdout(told):
        arguments = [str(tmp_path / "part"), "--vkey", book.audit.vkey, "--proof", str(file), "--quiet"]
        assert verify.main(arguments) == 0
    assert "not proven: done, unfinished, commitments.1\n" in told.getvalue()


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


YEAR_US = 366 * 86_400_000_000


def keeping(book: Book, schedule: str, years: int) -> None:
    book.retention.declare(
        schedule, "transaction", purpose="tax", legal_basis="tax-law", period=years, unit="years", action="keep"
    )


def kept_of(book: Book, subject: UUID) -> list[object]:
    """What can be read of the values that an erasure kept."""
    return [
        value
        for entry in book.profiles.timeline(subject)
        if entry.action == "customer.value_resealed"
        for value in entry.texts.values()
    ]


def test_what_was_kept_goes_once_no_schedule_that_is_in_force_demands_it(url: str) -> None:
    clock = [1_700_000_000_000_000]
    with tallybook.open(url, now_us=lambda: clock[0]) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        keeping(book, "invoices", 10)
        keeping(book, "ledgers", 6)
        assert book.erasures.erase(ada, reason="gdpr-17").kept_until == "2033-11-14T22:13:20Z"
        book.retention.withdraw("invoices")
        with pytest.raises(Refused, match="ledgers") as refused:
            book.erasures.erase_kept(ada)
        assert refused.value.code == "still_kept"
        assert refused.value.values["until_us"] == clock[0] + (6 * 365 + 2) * 86_400_000_000
        assert (book.retention.due().ready, kept_of(book, ada)) == ((), [ORDER])
        book.retention.withdraw("ledgers")
        assert [one.due for one in book.retention.due().ready] == [("kept",)]
        keeping(book, "ledgers", 6)  # before anything is swept, it was a mistake
        assert book.retention.sweep().erased == 0
        assert kept_of(book, ada) == [ORDER]
        book.retention.withdraw("ledgers")
        assert book.retention.sweep().erased == 1
        assert [type(one) for one in kept_of(book, ada)] == [Erased]
        assert book.erasures.receipt(ada).unfinished == ()
        assert all(one.holds for one in book.audit.verify())


def test_a_schedule_that_is_declared_anew_counts_for_what_was_kept_before(url: str) -> None:
    clock = [1_700_000_000_000_000]
    with tallybook.open(url, now_us=lambda: clock[0]) as book, book.acting("agent:lin", purpose="support"):
        ada, bob = lived(book), book.customers.register(name="Bob")
        keeping(book, "invoices", 10)
        book.erasures.erase(ada, reason="gdpr-17")
        assert book.erasures.erase(bob, reason="gdpr-17").kept == 0
        book.retention.withdraw("invoices")
        keeping(book, "invoices", 12)
        clock[0] += 11 * YEAR_US
        assert book.retention.due().ready == ()
        with pytest.raises(Refused, match="still_kept"):
            book.erasures.erase_kept(ada)
        assert kept_of(book, ada) == [ORDER]
        clock[0] += 2 * YEAR_US
        assert [one.customer_id for one in book.retention.due().ready] == [ada]
        assert book.erasures.erase_kept(ada).commitments.keys() == {1, 2}
        assert book.erasures.erase_kept(bob).commitments.keys() == {1}  # nothing was kept of him


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
        assert book.profiles.get(ada)["name"] == NAME  # the head tells of no such row
        assert states(book, "erasures") == ["failed"]
        assert not book.audit.verify()[0].holds
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):  # which makes the table anew
        assert book.profiles.get(ada)["name"] == NAME
        assert set(states(book, "erasures")) == {"ok"}
        assert book.audit.verify()[0].holds


def test_a_row_of_the_table_that_names_no_subject_is_damage(folder: Path) -> None:
    url = f"sqlite:///{folder / 'shop.book'}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        lived(book)
        with book._core.storage.events.session(write=True) as session:
            session.run("INSERT INTO erased VALUES (?, 1, ?)", [b"nobody", book.position()])
        assert states(book, "erasures") == ["failed"]
    with tallybook.open(url) as book:
        assert set(states(book, "erasures")) == {"ok"}


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


def test_the_question_for_a_receipt_destroys_and_records_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise refusal("busy", "Somebody holds the keys.")

    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada")
        with monkeypatch.context() as held:
            held.setattr(Erasing, "follow", busy)
            with pytest.raises(BookError, match="could not be destroyed yet"):
                book.erasures.erase(ada, reason="gdpr-17")
        keys, position = book._core.storage.keys, book.position()
        for _ in range(2):
            receipt = book.erasures.receipt(ada)
            assert receipt.unfinished == ("keys",)
            assert "not destroyed yet" in receipt.done["keys"]
        assert keys.get([(ada, ORDINARY_KEY)]) != {}
        assert book.position() == position
        assert book.erasures.erase(ada, reason="gdpr-17").unfinished == ()
        assert keys.get([(ada, ORDINARY_KEY)]) == {}
        assert "destroyed" in book.erasures.receipt(ada).done["keys"]
        assert book.erasures.receipt(ada).unfinished == ()
