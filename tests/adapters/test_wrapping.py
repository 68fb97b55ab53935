"""Wrapping keys: where they lie, how one follows another, and what is left of keys that were destroyed."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests import warm

import tallybook
from tallybook import BookDamaged, BookError, KeysMissing
from tallybook.adapters import key_tables
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters.keys import KeyName
from tallybook.adapters.wrapping import (
    KEY_BYTES,
    FileWrappingKeys,
    KmsWrappingKeys,
    Wrapping,
    WrappingKeys,
    fingerprint,
)
from tallybook.domain.control import WrappingKeyRotated
from tallybook.testing.conformance import WrappingKeysSuite

ORIGIN = "tallybook/test"


class Kms:
    """A key management service that keeps its own key, and refuses another context."""

    def encrypt(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        return repr(sorted(context.items())).encode() + b"|" + bytes(one ^ 0x5A for one in plaintext)

    def decrypt(self, ciphertext: bytes, context: Mapping[str, str]) -> bytes:
        bound, _, sealed = ciphertext.partition(b"|")
        if bound != repr(sorted(context.items())).encode():
            raise PermissionError("AccessDenied")
        return bytes(one ^ 0x5A for one in sealed)


class TestFiles(WrappingKeysSuite):
    def make(self, tmp_path: Path) -> WrappingKeys:
        return FileWrappingKeys(tmp_path / "wrapping-key")

    def reopen(self, store: WrappingKeys) -> WrappingKeys:
        return FileWrappingKeys(store.place)


class TestKms(WrappingKeysSuite):
    def make(self, tmp_path: Path) -> WrappingKeys:
        return KmsWrappingKeys(Kms(), tmp_path / "wrapping-key", {"book": "shop"})

    def reopen(self, store: WrappingKeys) -> WrappingKeys:
        return KmsWrappingKeys(Kms(), store.place, {"book": "shop"})


@pytest.fixture
def source(tmp_path: Path) -> FileWrappingKeys:
    return FileWrappingKeys(tmp_path / "wrapping-key")


@pytest.fixture
def store(tmp_path: Path, source: FileWrappingKeys) -> Iterator[FileKeyStore]:
    with closing(FileKeyStore(tmp_path / "x.keys", source, origin=ORIGIN)) as made:
        yield made


def some(count: int) -> dict[KeyName, bytes]:
    return {(uuid4(), 1 + number % 2): os.urandom(KEY_BYTES) for number in range(count)}


def all_files(folder: Path) -> bytes:
    return b"".join(one.read_bytes() for one in folder.iterdir())


# ── rotation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rotation_wraps_all_keys_anew_and_drops_the_old_key(store: FileKeyStore, source: FileWrappingKeys) -> None:
    keys = some(key_tables.A_BATCH + 300)
    store.add(keys)
    [old] = source.read(ORIGIN)
    lookup_key = store.lookup_key
    assert store.rotate() == (fingerprint(old).hex(), store.wrapping())
    [new] = source.read(ORIGIN)
    assert new != old
    assert store.wrapping() == fingerprint(new).hex()
    assert store.behind() == 0
    assert store.get(keys) == keys
    with closing(FileKeyStore(store.path, source)) as again:
        assert again.get(keys) == keys
        assert again.lookup_key == lookup_key


def test_other_stores_go_on_through_a_rotation(store: FileKeyStore, source: FileWrappingKeys) -> None:
    before, after = some(30), some(30)
    store.add(before)
    with closing(FileKeyStore(store.path, source)) as other:
        for _ in range(3):
            store.rotate()
            assert other.get(before) == before
        store.rotate()
        other.add(after)
        assert other.behind() == 0
        store.rotate()
        other.rotate()
        other.destroy(list(after)[:1], 7)
    assert store.get(before | after) == before | dict(list(after.items())[1:])


def test_a_key_that_is_made_to_look_destroyed_is_not_lost_by_a_rotation(store: FileKeyStore) -> None:
    keys = some(3)
    [hidden, gone, _] = keys
    store.add(keys)

    def mark(destroyed: int) -> None:
        with store.database.session(write=True) as session:
            session.run("UPDATE data_keys SET destroyed=? WHERE subject=?", [destroyed, hidden[0].bytes])

    mark(5)
    store.destroy([gone], 7)
    before = store.wrapping()
    with pytest.raises(BookDamaged, match="holds a key"):
        store.rotate()
    assert store.wrapping() == before
    mark(0)
    assert store.get([hidden]) == {hidden: keys[hidden]}
    store.rotate()
    assert store.get(keys) == {name: key for name, key in keys.items() if name != gone}


@pytest.mark.parametrize("moment", range(4))
def test_a_rotation_that_was_cut_short_is_finished_by_the_next_opening(
    store: FileKeyStore, source: FileWrappingKeys, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    class Cut(BaseException):
        pass

    keys = some(40)
    store.add(keys)
    [old] = source.read(ORIGIN)
    steps = [0]
    replace, wrap = FileWrappingKeys.replace, FileKeyStore._wrap_rows

    def step() -> None:
        if steps[0] == moment:
            raise Cut
        steps[0] += 1

    def replacing(self: FileWrappingKeys, origin: str, held: list[bytes]) -> None:
        step()
        replace(self, origin, held)

    def wrapping(self: FileKeyStore, *args: object) -> None:
        step()
        wrap(self, *args)  # type: ignore[arg-type]  # as they were given
        step()

    with monkeypatch.context() as patched:
        patched.setattr(FileWrappingKeys, "replace", replacing)
        patched.setattr(FileKeyStore, "_wrap_rows", wrapping)
        with pytest.raises(Cut):
            store.rotate()
    left = source.read(ORIGIN)
    assert (len(left), old in left) == ((1, True) if moment == 0 else (2, True))
    with closing(FileKeyStore(store.path, source)) as again:
        assert again.get(keys) == store.get(keys) == keys
        assert (again.behind(), source.read(ORIGIN)) == (0, [left[0]])


KILLED = """
import os, signal, sys
from pathlib import Path
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters import wrapping
steps = []
def step():
    steps.append(1)
    if len(steps) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
def stepping(real):
    def stepped(*args):
        step()
        found = real(*args)
        step()
        return found
    return stepped
folder = Path(sys.argv[1])
store = FileKeyStore(folder / "x.keys", wrapping.FileWrappingKeys(folder / "wrapping-key"))
for name in ("write", "fsync", "replace"):
    setattr(os, name, stepping(getattr(os, name)))
run = type(store.database.session(write=True)).rows
type(store.database.session(write=True)).rows = stepping(run)
store.rotate()
print("done")
"""


def test_a_rotation_that_is_killed_at_any_step_loses_no_key(
    store: FileKeyStore, source: FileWrappingKeys, tmp_path: Path
) -> None:
    keys = some(20)
    store.add(keys)
    kills = 0
    while True:
        done = warm.run(KILLED, str(tmp_path), str(kills + 1))
        with closing(FileKeyStore(store.path, source)) as again:
            assert again.get(keys) == keys
            assert (len(source.read(ORIGIN)), again.behind()) == (1, 0)
        if done.stdout:
            break
        assert done.returncode == -9, done.stderr
        kills += 1
    assert kills > 20
    store.rotate()
    assert {one.name for one in tmp_path.iterdir()} == {"x.keys", "x.keys-journal", "wrapping-key"}


def test_a_rotation_is_recorded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book:
        with book.acting("agent:lin", purpose="support"):
            ada = book.customers.register(name="Ada")
        position = book.position()
        with pytest.raises(tallybook.Refused) as refused:
            book.rotate_wrapping_key()
        assert refused.value.code == "acting_required"
        with book.acting("agent:sec", purpose="security"):
            rotated = book.rotate_wrapping_key()
        [recorded] = book.follow(after=position, timeout_s=0)
        assert (recorded.event.stored_name, recorded.event.metadata.actor) == ("book.wrapping_key_rotated", "agent:sec")
        event: Any = recorded.event
        assert (event.old, event.new) == (rotated.old, rotated.new)
        [key] = FileWrappingKeys(tmp_path / "shop.book.wrapping-key").read(book.origin)
        assert rotated.new == fingerprint(key).hex() != rotated.old
        assert rotated.keys == 1
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert book.profiles.get(ada)["name"] == "Ada"


def test_a_book_in_memory_has_no_wrapping_key() -> None:
    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="support"):
        assert book._core.storage.keys.wrapping() is None
        with pytest.raises(BookError, match="no wrapping key"):
            book.rotate_wrapping_key()


# ── what is left in files ─────────────────────────────────────────────────────────────────────────────────────────


def wrapped_in(store: FileKeyStore) -> dict[UUID, bytes]:
    rows = store.database.rows("SELECT subject, wrapped FROM data_keys WHERE destroyed=0")
    return {UUID(bytes=subject): wrapped for subject, wrapped in rows}


@pytest.mark.parametrize("at_once", [True, False])
def test_no_wrapped_key_is_left_of_what_was_destroyed_and_no_key_in_clear(
    store: FileKeyStore, tmp_path: Path, at_once: bool
) -> None:
    keys: dict[KeyName, bytes] = {}
    for _ in range(1 if at_once else 60):
        more = some(3000 if at_once else 25)
        store.add(more)
        keys |= more
    wrapped = wrapped_in(store)
    content = all_files(tmp_path)
    assert all(one in content for one in wrapped.values())
    gone = list(keys)[::3]
    for start in range(0, len(gone), 50):
        store.destroy(gone[start : start + 50], 7)
    store.get(keys)
    content = all_files(tmp_path)
    assert [subject for subject, _ in gone if wrapped[subject] in content] == []
    before = wrapped_in(store)
    store.rotate()
    content = all_files(tmp_path)
    assert [subject for subject, one in before.items() if one in content] == []
    assert not any(form in content for key in keys.values() for form in (key, key.hex().encode(), b64encode(key)))
    assert store.lookup_key not in content


@pytest.mark.parametrize("seed", [0, 12, 15, 24])
def test_a_row_of_a_key_stays_where_it_is_so_that_sqlite_leaves_no_copy_of_it(
    store: FileKeyStore, tmp_path: Path, seed: int
) -> None:
    """SQLite overwrites what is deleted, and not the copies that stay in a page when it moves rows to another."""
    chance = Random(seed)
    for _ in range(3):
        store.add({(UUID(int=chance.getrandbits(128)), 1): os.urandom(KEY_BYTES) for _ in range(200)})
        before = wrapped_in(store)
        places = store.database.rows("SELECT rowid, subject, key_id FROM data_keys ORDER BY rowid")
        store.destroy([(subject, 1) for subject in chance.sample(sorted(before), len(before) // 3)], 7)
        store.rotate()
        content = all_files(tmp_path)
        assert [subject for subject, one in before.items() if one in content] == []
        assert [subject for subject, one in wrapped_in(store).items() if content.count(one) != 1] == []
        assert store.database.rows("SELECT rowid, subject, key_id FROM data_keys ORDER BY rowid") == places


def test_the_old_wrapping_key_is_overwritten_where_it_lay(source: FileWrappingKeys) -> None:
    source.replace(ORIGIN, [b"o" * KEY_BYTES])
    with source.path.open("rb") as held:
        length = len(held.read())
        held.seek(0)
        source.replace(ORIGIN, [b"n" * KEY_BYTES])
        assert held.read() == bytes(length)
    copy = source.path.with_name("copy")
    os.link(source.path, copy)
    content = copy.read_bytes()
    source.replace(ORIGIN, [b"m" * KEY_BYTES])
    assert copy.read_bytes() == content  # somebody's own copy is left alone
    assert source.path.stat().st_mode & 0o777 == 0o600


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────


def rewrite(path: Path, keys: list[bytes], origin: str | None = None) -> None:
    """Put other keys into a wrapping key's file, of the same book or another."""
    first, second, *_ = path.read_text().splitlines()
    path.write_text("\n".join([first, origin or second, *(b64encode(key).decode() for key in keys), ""]))


def refused(url: str, kind: type[BookError], says: str, **options: object) -> None:
    with pytest.raises(kind, match=says) as caught:
        tallybook.open(url, **options)  # type: ignore[arg-type]  # what is tried
    assert type(caught.value) is kind
    assert caught.value.path
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (lambda path: path.unlink(), KeysMissing, "wrapping key .* is not there"),
        (lambda path: rewrite(path, [bytes(KEY_BYTES)]), KeysMissing, "is not the wrapping key of the book"),
        (lambda path: rewrite(path, []), KeysMissing, "32 bytes in base64 are wanted"),
        (lambda path: rewrite(path, [b"short"]), KeysMissing, "32 bytes in base64 are wanted"),
        (lambda path: rewrite(path, [bytes(KEY_BYTES)] * 3), KeysMissing, "32 bytes in base64 are wanted"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), KeysMissing, "32 bytes in base64 are wanted"),
        (lambda path: path.write_bytes(path.read_bytes() + b"?"), KeysMissing, "32 bytes in base64 are wanted"),
        (lambda path: path.write_bytes(bytes(KEY_BYTES)), KeysMissing, "32 bytes in base64 are wanted"),
        (lambda path: rewrite(path, [bytes(KEY_BYTES)], "tallybook/x"), KeysMissing, "of another book .tallybook/x, "),
        (lambda path: path.chmod(0o640), BookError, "Others than its owner .* 0640"),
        (lambda path: path.with_name("shop.book.keys").chmod(0o604), BookError, "the key file .* 0604"),
        (lambda path: path.with_name("shop.book.keys").unlink(), KeysMissing, "key file .* is not there"),
    ],
)
def test_what_is_not_right_with_keys_refuses_and_changes_nothing(
    tmp_path: Path, spoil: object, kind: type[BookError], says: str
) -> None:
    url, path = f"sqlite:///{tmp_path}/shop.book", tmp_path / "shop.book.wrapping-key"
    tallybook.open(url).close()
    spoil(path)  # type: ignore[operator]  # a function
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    refused(url, kind, says)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["keys", "wrapping-key", "signing-key"])
def test_doctor_names_a_file_of_keys_that_others_may_use(tmp_path: Path, name: str) -> None:
    url, path = f"sqlite:///{tmp_path}/shop.book", tmp_path / f"shop.book.{name}"
    tallybook.open(url).close()
    assert [one for one in tallybook.doctor(url) if one.state == "failed"] == []
    path.chmod(0o640)
    found = [one for one in tallybook.doctor(url) if one.state == "failed"]
    assert any(path.name in one.what and "640" in one.what for one in found)
    assert any("600" in one.remedy for one in found)


def test_the_wrapping_key_may_lie_elsewhere_and_with_a_service(tmp_path: Path) -> None:
    url, context = f"sqlite:///{tmp_path}/shop.book", {"book": "shop"}
    source = KmsWrappingKeys(Kms(), tmp_path / "apart" / "key", context)
    with tallybook.open(url, wrapping_key=source) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada")
        book.rotate_wrapping_key()
        assert not [one for one in book.doctor() if one.state == "failed"]
    assert not (tmp_path / "shop.book.wrapping-key").exists()
    with tallybook.open(url, wrapping_key=source) as book, book.acting("agent:lin", purpose="support"):
        assert book.profiles.get(ada)["name"] == "Ada"
    refused(url, KeysMissing, "AccessDenied", wrapping_key=KmsWrappingKeys(Kms(), source.path, {"book": "other"}))
    refused(url, KeysMissing, "is not there")


def test_scoring_and_replay_need_no_subjects_key(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
        ada = book.customers.register(name="Ada", identifiers={"crm": "77"})
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, [{"sku": "a", "quantity": 1, "net_minor": 1000}])
        points = book.loyalty.balance(ada)
    with (
        closing(
            FileKeyStore(tmp_path / "shop.book.keys", FileWrappingKeys(f"{tmp_path}/shop.book.wrapping-key"))
        ) as store,
        store.database.session(write=True) as session,
    ):
        session.run("DELETE FROM data_keys")
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert book.loyalty.balance(ada) == points > 0
        assert book.replay().holds
        assert book.backtest("standard")
        assert book.projections.rebuild()
        assert all(one.holds for one in book.audit.verify())
        book.customers.record_purchase(ada, [{"sku": "a", "quantity": 1, "net_minor": 1000}])
        assert book.loyalty.balance(ada) == 2 * points
        with pytest.raises(tallybook.KeyLost, match=str(ada)):
            book.profiles.get(ada)


# ── a wrapping key is of one book ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("service", [False, True], ids=["file", "service"])
def test_a_book_is_not_made_on_another_books_wrapping_key(tmp_path: Path, service: bool) -> None:
    path = tmp_path / "apart" / "key"
    shared: WrappingKeys = KmsWrappingKeys(Kms(), path) if service else FileWrappingKeys(path)
    one, other = f"sqlite:///{tmp_path}/one.book", f"sqlite:///{tmp_path}/other.book"
    with tallybook.open(one, wrapping_key=shared) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada")
        before = path.read_bytes()
        refused(other, KeysMissing, f"is the wrapping key of another book .{book.origin}", wrapping_key=shared)
        assert path.read_bytes() == before
        assert not any(one.stat().st_size for one in tmp_path.glob("other.book*"))
    tallybook.open(other).close()  # with a place of its own
    refused(other, KeysMissing, "is the wrapping key of another book", wrapping_key=shared)
    with tallybook.open(other) as book, book.acting("agent:lin", purpose="support"):
        book.rotate_wrapping_key()
    with tallybook.open(one, wrapping_key=shared) as book, book.acting("agent:lin", purpose="support"):
        assert book.profiles.get(ada)["name"] == "Ada"


def test_a_wrapping_key_that_was_encrypted_for_another_book_is_not_decrypted(tmp_path: Path) -> None:
    """Whoever writes another name into the file does not get around it: the service has the name in its context."""
    source = KmsWrappingKeys(Kms(), tmp_path / "key")
    source.replace("tallybook/one", [bytes(KEY_BYTES)])
    source.path.write_text(source.path.read_text().replace("tallybook/one", "tallybook/two"))
    with pytest.raises(KeysMissing, match="AccessDenied"):
        source.read("tallybook/two")


def test_a_making_that_was_cut_short_goes_on_with_its_wrapping_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, keys = f"sqlite:///{tmp_path}/shop.book", tmp_path / "shop.book.wrapping-key"
    wrap = Wrapping.wrap
    with monkeypatch.context() as patched:
        patched.setattr(Wrapping, "wrap", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tallybook.open(url)
    assert wrap is Wrapping.wrap
    before = keys.read_bytes()
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert book.origin.encode() in before
        ada = book.customers.register(name="Ada")
    assert keys.read_bytes() == before
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert book.profiles.get(ada)["name"] == "Ada"


@pytest.mark.server
def test_books_on_a_server_share_no_wrapping_key(server_book_url: str, tmp_path: Path) -> None:
    tallybook.open(f"sqlite:///{tmp_path}/shop.book", wrapping_key=tmp_path / "key").close()
    refused(server_book_url, KeysMissing, "is the wrapping key of another book", wrapping_key=tmp_path / "key")
    tallybook.open(server_book_url, wrapping_key=tmp_path / "own").close()
    refused(server_book_url, KeysMissing, "is the wrapping key of another book", wrapping_key=tmp_path / "key")


# ── a rotation is on record ─────────────────────────────────────────────────────────────────────────────────────────


def rotations(book: tallybook.Book) -> list[tuple[str, str, str]]:
    return [
        (one.event.metadata.actor, one.event.old, one.event.new)
        for one in book.follow(timeout_s=0, names=["book.wrapping_key_rotated"])
        if isinstance(one.event, WrappingKeyRotated)
    ]


def keys_finding(url: str) -> list[tuple[str, str]]:
    found = tallybook.doctor(url)
    return [(one.state, one.what) for one in found if one.name == "keys" and "on record" in one.what]


def test_a_rotation_that_was_cut_off_before_its_event_is_recorded_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("agent:sec", purpose="security"):
        made = book._core.storage.keys.wrapping()
        assert rotations(book) == []
        store = book._core.storage.keys
        store.rotate()  # and no event
        first = store.wrapping()
        assert [state for state, _ in keys_finding(url)] == ["warning"]
    with tallybook.open(url) as book, book.acting("agent:sec", purpose="security"):
        assert rotations(book) == [("system:keys", made, first)]
        assert keys_finding(url) == []
        rotated = book.rotate_wrapping_key()
        assert rotations(book)[1:] == [("agent:sec", first, rotated.new)]
        replace = FileWrappingKeys.replace

        def cut(self: FileWrappingKeys, origin: str, held: list[bytes]) -> None:
            replace(self, origin, held)
            raise KeyboardInterrupt  # once the new key is there, and nothing is wrapped under it

        monkeypatch.setattr(FileWrappingKeys, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            book.rotate_wrapping_key()
        monkeypatch.setattr(FileWrappingKeys, "replace", replace)
    with tallybook.open(url) as book:
        assert [actor for actor, _, _ in rotations(book)] == ["system:keys", "agent:sec", "system:keys"]
        assert rotations(book)[2][1:] == (rotated.new, book._core.storage.keys.wrapping())
        position = book.position()
    with tallybook.open(url) as book:
        assert book.position() == position


def test_two_that_open_a_book_record_a_rotation_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book:
        book._core.storage.keys.rotate()
        with ThreadPoolExecutor(4) as pool:
            for opened in pool.map(lambda _: tallybook.open(url), range(4)):
                opened.close()
        assert len(rotations(book)) == 1


def test_whoever_may_not_rotate_rotates_nothing(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'name = "shop"\nversion = "1"\n[purposes.security]\ntext = "Security"\nbasis = "contract"\n'
        '[[rules]]\nid = "admin"\nroles = ["admin"]\ncommands = ["policy.*"]\n'
        '[[rules]]\nid = "sec"\nroles = ["sec"]\ncommands = ["keys.rotate"]\n'
    )
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        with book.acting("admin:a", purpose="security"):
            book.policy.grant("admin:a", "admin")
            book.policy.grant("agent:sec", "sec")
            book.policy.adopt(policy)
        before = book._core.storage.keys.wrapping()
        with book.acting("agent:lin", purpose="security"), pytest.raises(tallybook.Refused) as denied:
            book.rotate_wrapping_key()
        assert denied.value.code == "access_denied"
        assert book._core.storage.keys.wrapping() == before
        with book.acting("agent:sec", purpose="security"):
            assert book.rotate_wrapping_key().old == before
        assert [actor for actor, _, _ in rotations(book)] == ["agent:sec"]
