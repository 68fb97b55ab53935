"""Data keys: kept before they are used, one for each subject, whatever becomes of the command that made them."""

from __future__ import annotations

import hmac
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import IntegrityError
from tests.conftest import holder_of

import tallybook
from tallybook.adapters.database import FORMAT
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters.keys import (
    KEYS_APPLICATION_ID,
    KeyName,
    Keyring,
    KeyStore,
    MemoryKeyStore,
    commitment,
    secret,
)
from tallybook.adapters.log import LogRecorder, NewRow
from tallybook.adapters.wrapping import KEY_BYTES, NONCE_BYTES, FileWrappingKeys, Wrapping
from tallybook.commands import Work
from tallybook.domain.erasure import KEPT_KEY, ORDINARY_KEY
from tallybook.domain.errors import BookClosed, KeyLost, KeysMissing, Refused, SealError
from tallybook.domain.personal import Sealed

ORIGIN = "tallybook/test"


def source_in(folder: Path) -> FileWrappingKeys:
    return FileWrappingKeys(folder / "wrapping-key")


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyStore]:
    made: KeyStore = MemoryKeyStore(ORIGIN)
    if request.param == "file":
        made = FileKeyStore(tmp_path / "x.keys", source_in(tmp_path), origin=ORIGIN)
    yield made
    made.close()


def ring(store: KeyStore) -> Keyring:
    return Keyring(store, lambda *name: commitment(store.get([name])[name]))


def new_key(keyring: Keyring, *subjects: UUID) -> None:
    keyring.keep({(subject, 1): keyring.key_for(subject, fresh=True)[2] for subject in subjects})


def seal(keyring: Keyring, subject: UUID, value: object = "Ada", key_id: int = ORDINARY_KEY) -> Sealed:
    event = uuid4()
    blob = keyring.seal(subject, event, "customer.registered", 1, ["name"], [value], key_id)
    return Sealed(event, "customer.registered", 1, subject, key_id, ("name",), blob)


# ── stores ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_store_gives_back_what_it_keeps_and_nothing_else(store: KeyStore) -> None:
    keys = {(uuid4(), 1): bytes([number % 256]) * KEY_BYTES for number in range(1100)}
    store.add(keys)
    assert store.get(keys) == keys
    assert store.get([(uuid4(), 1)]) == {}
    assert store.get([]) == {}
    some = list(keys)[:3]
    assert store.get([*some, (uuid4(), 1)]) == {subject: keys[subject] for subject in some}


def test_a_key_that_is_there_is_never_replaced(store: KeyStore) -> None:
    # What was sealed under the first key could never be opened again.
    subject, other = (uuid4(), 1), (uuid4(), 1)
    store.add({subject: b"1" * KEY_BYTES})
    with pytest.raises(IntegrityError):
        store.add({other: b"2" * KEY_BYTES, subject: b"3" * KEY_BYTES})
    assert store.get([subject, other]) == {subject: b"1" * KEY_BYTES}
    with pytest.raises(IntegrityError):
        store.add({subject: b"1" * KEY_BYTES})
    store.add({other: b"2" * KEY_BYTES})  # the store works on
    assert store.get([other]) == {other: b"2" * KEY_BYTES}


def test_a_file_keeps_keys_origin_and_lookup_key(tmp_path: Path) -> None:
    path = tmp_path / "x.keys"
    subject = (uuid4(), 1)
    first = FileKeyStore(path, source_in(tmp_path), origin=ORIGIN)
    first.add({subject: b"1" * KEY_BYTES})
    first.close()
    second = FileKeyStore(path, source_in(tmp_path), origin="tallybook/ignored")
    assert (second.origin, second.lookup_key, second.count()) == (ORIGIN, first.lookup_key, 1)
    assert second.get([subject]) == {subject: b"1" * KEY_BYTES}
    assert len(second.lookup_key) == KEY_BYTES
    second.close()


def test_a_key_is_on_disk_when_add_returns(tmp_path: Path) -> None:
    path = tmp_path / "x.keys"
    store = FileKeyStore(path, source_in(tmp_path), origin=ORIGIN)
    name = (uuid4(), 1)
    store.add({name: b"1" * KEY_BYTES})
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT subject, key_id FROM data_keys").fetchall() == [(name[0].bytes, 1)]
    store.close()


def test_a_key_file_is_not_made_without_an_origin(tmp_path: Path) -> None:
    with pytest.raises(KeysMissing, match="is not there"):
        FileKeyStore(tmp_path / "x.keys", source_in(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_two_books_have_different_lookup_keys(tmp_path: Path) -> None:
    assert MemoryKeyStore(ORIGIN).lookup_key != MemoryKeyStore(ORIGIN).lookup_key
    stores = [FileKeyStore(tmp_path / name, source_in(tmp_path), origin=ORIGIN) for name in ("a", "b")]
    assert stores[0].lookup_key != stores[1].lookup_key
    for one in stores:
        one.close()


# ── keyring ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_commitment_is_the_hmac_that_the_design_names() -> None:
    key = bytes(range(32))
    assert commitment(key) == hmac.new(key, b"commit", sha256).digest()
    assert commitment(key) != commitment(key[::-1])


def test_keys_are_random_and_long_enough(store: KeyStore) -> None:
    keyring = ring(store)
    subjects = [uuid4() for _ in range(50)]
    made = {subject: keyring.key_for(subject, fresh=number % 2 == 0) for number, subject in enumerate(subjects)}
    keyring.keep({(subject, 1): key for subject, (_, _, key) in made.items()})
    keys = store.get([(subject, 1) for subject in subjects])
    assert keys == {(subject, 1): key for subject, (_, _, key) in made.items()}
    assert len(set(keys.values())) == 50
    assert {len(key) for key in keys.values()} == {KEY_BYTES}
    for subject, (key_id, committed, _) in made.items():
        assert (key_id, committed) == (ORDINARY_KEY, commitment(keys[subject, 1]))


@pytest.mark.parametrize("fresh", [True, False])
def test_a_new_key_counts_and_is_stored_when_it_is_kept_and_once(store: KeyStore, fresh: bool) -> None:
    keyring = ring(store)
    subject = uuid4()
    name = (subject, 1)
    _, _, key = keyring.key_for(subject, fresh=fresh)
    assert store.get([name]) == {}
    with pytest.raises(SealError, match="no data key"):
        seal(keyring, subject)
    keyring.keep({name: key})
    assert store.get([name]) == {name: key}
    keyring.keep({name: key})
    assert store.get([name]) == {name: key}
    assert keyring.open(seal(keyring, subject)) == {"name": "Ada"}


def test_a_subject_that_has_a_key_already_gets_the_same_again(store: KeyStore) -> None:
    subject, other = (uuid4(), 1), (uuid4(), 1)
    store.add({subject: b"1" * KEY_BYTES})
    keyring = ring(store)
    again = keyring.key_for(subject[0], fresh=False)
    assert again == (ORDINARY_KEY, commitment(b"1" * KEY_BYTES), b"1" * KEY_BYTES)
    keyring.keep({subject: again[2], other: b"2" * KEY_BYTES})
    assert store.get([subject, other]) == {subject: b"1" * KEY_BYTES, other: b"2" * KEY_BYTES}
    assert keyring.open(seal(keyring, subject[0])) == {"name": "Ada"}


def test_keeping_another_key_for_a_subject_is_refused_and_keeps_nothing(store: KeyStore) -> None:
    subject, other = (uuid4(), 1), (uuid4(), 1)
    keyring = ring(store)
    keyring.keep({subject: b"1" * KEY_BYTES})
    sealed = seal(keyring, subject[0])
    for ring_of in (keyring, ring(store)):  # whether it knows the first key or not
        with pytest.raises(IntegrityError):
            ring_of.keep({other: b"2" * KEY_BYTES, subject: b"3" * KEY_BYTES})
        assert store.get([subject, other]) == {subject: b"1" * KEY_BYTES}
        with pytest.raises(SealError, match="no data key"):
            seal(ring_of, other[0])
        assert ring_of.open(sealed) == {"name": "Ada"}
        assert ring_of.open(seal(ring_of, subject[0], "Eve")) == {"name": "Eve"}


def test_a_key_that_another_process_keeps_between_the_look_and_the_keeping_is_not_replaced(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = (uuid4(), 1)
    keyring = ring(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "get", lambda subjects: {})
        _, _, key = keyring.key_for(subject[0], fresh=False)
        store.add({subject: b"1" * KEY_BYTES})
        with pytest.raises(IntegrityError):
            keyring.keep({subject: key})
    assert store.get([subject]) == {subject: b"1" * KEY_BYTES} != {subject: key}
    assert keyring.open(seal(keyring, subject[0])) == {"name": "Ada"}


def test_a_key_file_that_is_locked_says_so_and_keeps_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.keys"
    store = FileKeyStore(path, source_in(tmp_path), origin=ORIGIN, lock_timeout_s=0)
    subject = (uuid4(), 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for use in (lambda: store.add({subject: b"1" * KEY_BYTES}), lambda: store.get([subject])):
            with pytest.raises(Refused) as refused:
                use()
            assert refused.value.code == "busy"
        other.execute("ROLLBACK")
    assert store.get([subject]) == {}
    store.add({subject: b"1" * KEY_BYTES})
    assert store.count() == 1
    store.close()
    with pytest.raises(BookClosed):
        store.get([subject])


def test_a_key_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.keys"
    FileKeyStore(path, source_in(tmp_path), origin=ORIGIN).close()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA application_id").fetchone()[0] == KEYS_APPLICATION_ID
        assert raw.execute("PRAGMA user_version").fetchone()[0] == FORMAT


def test_what_is_sealed_is_nonce_ciphertext_and_tag_and_never_the_same_twice(store: KeyStore) -> None:
    keyring = ring(store)
    subject = uuid4()
    new_key(keyring, subject)
    blobs = {seal(keyring, subject).blob for _ in range(20)}
    assert len(blobs) == len({blob[:NONCE_BYTES] for blob in blobs}) == 20
    assert {len(blob) for blob in blobs} == {NONCE_BYTES + 16 + len(b"\x91\xa3Ada")}
    assert not [blob for blob in blobs if b"Ada" in blob]


def test_a_keyring_that_forgot_its_ciphers_reads_the_keys_again(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keyring, "CACHED_MAX", 3)
    keyring = ring(store)
    subjects = [uuid4() for _ in range(10)]
    new_key(keyring, *subjects)
    blobs = {subject: seal(keyring, subject, str(subject)) for subject in subjects}
    for subject in subjects * 2:
        assert keyring.open(blobs[subject]) == {"name": str(subject)}
    assert len(keyring._ciphers) <= 3
    assert len(keyring._checked) <= 3


def test_sealing_for_a_subject_without_a_key_is_refused(store: KeyStore) -> None:
    with pytest.raises(SealError, match="no data key"):
        seal(ring(store), uuid4())


def test_opening_gives_nothing_where_the_key_was_destroyed_and_is_refused_where_it_was_lost(store: KeyStore) -> None:
    subject = uuid4()
    keyring = ring(MemoryKeyStore(ORIGIN))
    new_key(keyring, subject)
    sealed = seal(keyring, subject)
    with pytest.raises(KeyLost, match=f"subject {subject} .* nobody destroyed it") as lost:
        ring(store).open(sealed)
    assert "backup" in lost.value.remedy
    store.destroy([(subject, 1)], 7)
    assert ring(store).open(sealed) is None


def test_what_was_destroyed_is_no_longer_sealed_or_opened_here(store: KeyStore) -> None:
    ada, bob = uuid4(), uuid4()
    keyring = ring(store)
    new_key(keyring, ada, bob)
    keyring.keep({(ada, KEPT_KEY): b"2" * KEY_BYTES})
    sealed, kept, other = seal(keyring, ada), seal(keyring, ada, key_id=KEPT_KEY), seal(keyring, bob)
    keyring.destroy([(ada, 1)], 7)
    assert keyring.open(sealed) is None
    with pytest.raises(tallybook.Refused) as refused:
        seal(keyring, ada)
    assert refused.value.code == "customer_erased"
    assert keyring.open(kept) == keyring.open(other) == {"name": "Ada"}
    with pytest.raises(IntegrityError):
        keyring.keep({(ada, 1): b"3" * KEY_BYTES})


def test_a_key_that_another_process_destroyed_is_used_until_it_is_forgotten(store: KeyStore) -> None:
    ada, bob = uuid4(), uuid4()
    keyring = ring(store)
    new_key(keyring, ada, bob)
    sealed, other = seal(keyring, ada), seal(keyring, bob)
    store.destroy([(ada, 1), (bob, 1)], 7)
    assert keyring.open(sealed) == {"name": "Ada"}
    keyring.forget([(ada, 1)])
    assert keyring.open(sealed) is None
    assert keyring.open(other) == {"name": "Ada"}


def test_a_load_that_is_under_way_does_not_bring_back_what_is_forgotten_meanwhile(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = uuid4()
    keyring = ring(store)
    new_key(keyring, ada)
    sealed = seal(keyring, ada)
    keyring.forget([(ada, 1)])
    get, slow = store.get, [True]

    def getting(names: Iterable[KeyName]) -> dict[KeyName, bytes]:
        found = get(names)
        if slow.pop() if slow else False:
            keyring.destroy([(ada, 1)], 7)
        return found

    monkeypatch.setattr(store, "get", getting)
    keyring.load([(ada, 1)])
    assert not slow
    assert keyring.open(sealed) is None


def test_many_threads_seal_and_open_without_losing_a_key(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keyring, "CACHED_MAX", 5)
    keyring = ring(store)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(30):
                subject = uuid4()
                new_key(keyring, subject)
                assert keyring.open(seal(keyring, subject, str(number))) == {"name": str(number)}
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_lookup_hashes_tell_kinds_and_parts_apart_and_need_the_key(store: KeyStore) -> None:
    keyring = ring(store)
    hashes = [
        keyring.lookup_hash("identifier", "crm", "77"),
        keyring.lookup_hash("order", "crm", "77"),
        keyring.lookup_hash("identifier", "crm7", "7"),
        keyring.lookup_hash("identifier", "crm", "7", "7"),
        ring(MemoryKeyStore(ORIGIN)).lookup_hash("identifier", "crm", "77"),
    ]
    assert len(set(hashes)) == len(hashes)
    assert keyring.lookup_hash("identifier", "crm", "77") == hashes[0]


# ── keys of commands that did not succeed ─────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["file", "memory"])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tallybook.Book]:
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'shop.book'}"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        yield book


FAILING: dict[str, Callable[[tallybook.Book, UUID], object]] = {
    "identifier taken": lambda book, one: book.customers.register(customer_id=one, identifiers={"crm": "77"}),
    "argument invalid": lambda book, one: book.customers.register(customer_id=one, name="x" * 501),
    "contact point invalid": lambda book, one: book.customers.register(customer_id=one, phone=""),
}


@pytest.mark.parametrize("failing", FAILING)
def test_a_customer_whose_registration_was_refused_can_be_registered_later(book: tallybook.Book, failing: str) -> None:
    book.customers.register(name="Ada", identifiers={"crm": "77"})
    wanted = uuid4()
    with pytest.raises(Refused):
        FAILING[failing](book, wanted)
    book.customers.register(name="Bella")  # another command writes its keys
    assert book.customers.register(customer_id=wanted, name="Cleo") == wanted
    assert book.profiles.get(wanted)["name"] == "Cleo"
    assert book.profiles.get(book.customers.register(name="Dora"))["name"] == "Dora"


def test_a_registration_that_is_tried_again_keeps_the_key_that_the_log_commits_to(
    book: tallybook.Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another writer is faster at the first try: the commit fails after the keys were kept.
    wanted = uuid4()
    real = Work.reads
    tries: list[int] = []

    def overtaken(self: Work) -> list[tuple[UUID, int]]:
        tries.append(1)
        return [(uuid4(), 99)] if len(tries) == 1 else real(self)

    monkeypatch.setattr(Work, "reads", overtaken)
    assert book.customers.register(customer_id=wanted, name="Ada") == wanted
    assert len(tries) == 2
    committed: Any = book._core.stream(wanted)[0].event
    assert committed.commitment == commitment(book._core.storage.keys.get([(wanted, 1)])[wanted, 1])
    assert book.profiles.get(wanted)["name"] == "Ada"
    assert book.profiles.get(book.customers.register(name="Bella"))["name"] == "Bella"


def test_registering_twice_under_one_id_leaves_the_first_readable(book: tallybook.Book) -> None:
    wanted = book.customers.register(name="Ada", customer_id=uuid4())
    with pytest.raises(Refused) as caught:
        book.customers.register(name="Eve", customer_id=wanted)
    assert caught.value.code == "already_registered"
    book.customers.register(name="Bella")
    assert book.profiles.get(wanted)["name"] == "Ada"


@pytest.mark.parametrize("failing", FAILING)
def test_a_refused_registration_leaves_no_key_behind(book: tallybook.Book, failing: str) -> None:
    book.customers.register(name="Ada", identifiers={"crm": "77"})
    wanted = uuid4()
    with pytest.raises(Refused):
        FAILING[failing](book, wanted)
    book.customers.register(name="Bella")
    assert book._core.storage.keys.get([(wanted, 1)]) == {}


def test_a_key_is_kept_before_any_event_is_stored(book: tallybook.Book, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    keep, append = Keyring.keep, LogRecorder.append

    def keeping(self: Keyring, keys: Mapping[KeyName, bytes]) -> None:
        keep(self, keys)
        steps.append(f"{len(self.store.get(keys))} kept")

    def appending(self: LogRecorder, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        steps.append(f"{len(rows)} stored")
        return append(self, rows, **kwargs)

    monkeypatch.setattr(Keyring, "keep", keeping)
    monkeypatch.setattr(LogRecorder, "append", appending)
    ada = book.customers.register(name="Ada")
    book.customers.change(ada, name="Ada King")
    assert steps == ["1 kept", "2 stored", "1 stored"]


# ── key files that were altered ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, UUID]:
    """A book that is closed, and a customer of it."""
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        customer = book.customers.register(name="Ada", identifiers={"crm": "77"}, command_id="first")
    return path, customer


def alter(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path.with_name(path.name + ".keys"))) as raw, raw:
        raw.execute(statement, values)


def test_nothing_is_sealed_under_a_key_that_the_log_does_not_commit_to(shop: tuple[Path, UUID]) -> None:
    path, customer = shop
    before = path.with_name("shop.book.keys").read_bytes()
    store = FileKeyStore(path.with_name("shop.book.keys"), FileWrappingKeys(f"{path}.wrapping-key"))
    alter(path, "DELETE FROM data_keys")
    store.add({(customer, 1): os.urandom(32)})
    store.close()
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        position = book.position()
        with pytest.raises(SealError, match="commits to"):
            book.customers.change(customer, name="Ada Lovelace")
        assert book.position() == position
    path.with_name("shop.book.keys").write_bytes(before)
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        book.customers.change(customer, name="Ada Lovelace")
        assert book.profiles.get(customer)["name"] == "Ada Lovelace"


def test_a_book_is_not_opened_with_another_look_up_key_than_its_own(shop: tuple[Path, UUID], tmp_path: Path) -> None:
    path, customer = shop
    with tallybook.open(f"sqlite:///{path}") as book:
        book.backup(tmp_path / "backup")
        book.backup_keys(tmp_path / "keys")
    wrapping = Wrapping(FileWrappingKeys(f"{path}.wrapping-key"), book.origin)
    other_key = wrapping.wrap(wrapping.newest, os.urandom(32), "lookup", 0)
    alter(path, "UPDATE book_keys SET wrapped=? WHERE name='lookup'", other_key)
    with pytest.raises(KeysMissing, match="another look-up key"):
        tallybook.open(f"sqlite:///{path}")
    found = [one for one in tallybook.doctor(f"sqlite:///{path}") if one.name == "keys"]
    assert [(one.state, "another look-up key" in one.what) for one in found] == [("failed", True)]
    other = path.with_name("shop.book.keys")
    again = f"sqlite:///{tmp_path}/again.book"
    with pytest.raises(KeysMissing, match="another look-up key"):
        tallybook.restore(tmp_path / "backup", again, keys=other, wrapping_key=f"{path}.wrapping-key")
    assert not (tmp_path / "again.book").exists()
    tallybook.restore(tmp_path / "backup", again, keys=tmp_path / "keys", wrapping_key=f"{path}.wrapping-key")
    with tallybook.open(again, wrapping_key=f"{path}.wrapping-key") as book:
        assert holder_of(book, "crm", "77") == customer


def test_a_book_never_holds_its_look_up_key(shop: tuple[Path, UUID]) -> None:
    path, _ = shop
    store = FileKeyStore(path.with_name("shop.book.keys"), FileWrappingKeys(f"{path}.wrapping-key"))
    key = store.lookup_key
    store.close()
    content = path.read_bytes()
    assert commitment(key).hex().encode() in content
    assert not any(one in content for one in (key, key.hex().encode(), secret(key, "snapshots")))
