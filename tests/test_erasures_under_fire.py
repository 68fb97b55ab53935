"""Erasures while others work, fail and die: done whole or not at all, and nobody else's data is touched."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgpack
import pytest
from tests.crash.disk import Disk, failure

import tallybook
from tallybook import Book, Erased
from tallybook.adapters.wrapping import Wrapping
from tallybook.data import verify as verifier
from tallybook.domain.control import WrappingKeyRotated
from tallybook.domain.erasure import ORDINARY_KEY, SubjectErased
from tallybook.domain.errors import BookError, Refused
from tallybook.domain.events import Fact

from . import warm
from .conftest import STANDARD

LINE = {"sku": "cd", "quantity": 1, "net_minor": 5000}

WORKER = """
import json, random, sys, time, traceback
from pathlib import Path
import tallybook
from tallybook import Erased, Refused
url, go, role, seed, doomed, others = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:7]
doomed, others = doomed.split(), others.split()
chance = random.Random(seed)
book = tallybook.open(url)
done = []
def trade():
    who = chance.choice(doomed + others)
    token = f"{seed}-{chance.getrandbits(60):x}"
    what = chance.choice(["purchase", "change", "ticket", "link", "look"])
    if what == "purchase":
        book.customers.record_purchase(who, [{"sku": "cd", "quantity": 1, "net_minor": 900}], order_id=token)
    elif what == "change":
        book.customers.change(who, name=token)
    elif what == "ticket":
        book.tickets.reply(book.tickets.open(who, subject=token, kind="complaint"), token)
    elif what == "link":
        book.customers.link_identifier(who, f"s{chance.getrandbits(40)}", token)
    else:
        name = book.profiles.get(who)["name"]
        assert isinstance(name, (str, Erased)), name
        return
    done.append((what, who, token))
def erase():
    for who in chance.sample(doomed, len(doomed)):
        done.append(("erase", who, str(book.erasures.erase(who, reason="gdpr-17").event_id)))
        time.sleep(chance.random() * 0.02)
def register():
    token = f"{seed}-{chance.getrandbits(60):x}"
    done.append(("register", str(book.customers.register(name=token, identifiers={"crm": token})), token))
acts = {"trade": (trade, 60), "erase": (erase, 1), "register": (register, 40),
    "rotate": (lambda: (book.rotate_wrapping_key(), time.sleep(0.01)), 12), "sweep": (lambda: book.loyalty.sweep(), 12)}
act, times = acts[role]
go.with_name(f"ready-{seed}").touch()
while not go.exists():
    time.sleep(0.005)
with book.acting(f"agent:{role}", purpose="support"):
    for _ in range(times):
        try:
            act()
        except Refused as refused:
            assert refused.code in ("customer_erased", "conflict", "ticket_closed"), refused
book.close()
print(json.dumps(done))
"""


def at_once(url: str, folder: Path, roles: list[str], doomed: list[UUID], others: list[UUID]) -> list[list[str]]:
    """What workers of some roles did, each in a process of its own, all at once."""
    go = folder / "go"
    given = [" ".join(map(str, some)) for some in (doomed, others)]
    running = [warm.start(WORKER, url, str(go), role, str(seed), *given) for seed, role in enumerate(roles)]
    try:
        until = time.monotonic() + 60
        while len(list(folder.glob("ready-*"))) < len(roles) and time.monotonic() < until:
            time.sleep(0.02)
            assert all(one.poll() is None for one in running), [one.communicate()[1][-900:] for one in running]
        go.touch()
        ended = [one.communicate(timeout=240) for one in running]
    finally:
        for one in running:
            one.kill()
    failed = [
        f"{role}: {error[-2500:]}"
        for role, one, (_, error) in zip(roles, running, ended, strict=True)
        if one.returncode
    ]
    assert not failed, "\n".join(failed)
    return [one for out, _ in ended for one in json.loads(out)]


@pytest.mark.parametrize("keep", [False, True], ids=["", "with a schedule that keeps"])
def test_erasures_among_all_else_lose_nothing_and_leave_nothing(book_url: str, tmp_path: Path, keep: bool) -> None:
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        book.rules.adopt(STANDARD, effective_at="1990-01-01T00:00:00Z")
        everybody = [book.customers.register(name=f"N{one}", identifiers={"crm": f"C{one}"}) for one in range(14)]
        for one in everybody:
            book.loyalty.enrol(one)
        if keep:
            book.retention.declare(
                "letters", "communication", purpose="law", legal_basis="law", period=6, unit="years", action="keep"
            )
    doomed, others = everybody[:9], everybody[9:]
    roles = ["erase", "erase", "trade", "trade", "register", "rotate", "sweep"]
    done = at_once(book_url, tmp_path, roles, doomed, others)
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        check_whole(book, set(doomed), done)


def check_whole(book: Book, erased: set[UUID], done: list[list[str]]) -> None:
    """Who is erased is so everywhere, once; all others open; what was answered is there."""
    core = book._core
    history = list(core.history())
    erasures = {one.event.originator_id: one for one in history if isinstance(one.event, SubjectErased)}
    assert Counter(one.event.originator_id for one in history if isinstance(one.event, SubjectErased)) == dict.fromkeys(
        erased, 1
    )
    receipts = {(who, event) for what, who, event in done if what == "erase"}
    assert receipts == {(str(who), str(one.event.event_id)) for who, one in erasures.items()}
    late = [
        one.event.stored_name
        for one in history
        if isinstance(one.event, Fact)
        for who in one.event.subject_ids()
        if who in erasures and one.position > erasures[who].position
    ]
    assert late == []
    assert core.storage.keys.get([(who, ORDINARY_KEY) for who in erased]) == {}
    assert len(core.storage.keys.destroyed([(who, ORDINARY_KEY) for who in erased])) == len(erased)
    handles = {
        (place, name): handle
        for place, one in enumerate(history)
        for name in one.event.personal_fields
        if (handle := getattr(one.event, name)) is not None
    }
    opened = core.gate.open(core.gate_metadata(core.acting_now()), "test", handles)
    values = set()
    for (place, name), value in opened.items():
        sealed = handles[place, name].sealed
        assert sealed is not None
        gone = sealed.subject_id in erased and sealed.key_id == ORDINARY_KEY
        assert isinstance(value, Erased) == gone, history[place].event.stored_name
        values.add(value)
    for what, who, token in done:
        if what != "erase" and UUID(who) not in erased:
            assert token in values, (what, token)
        if what == "register":
            assert book.customers.find("crm", token) == UUID(who)
    held = [one for who in erased for one in (who.bytes,)]
    held += [
        one.event.event_id.bytes
        for one in history
        if one.event.stored_name == "customer.purchase_recorded" and one.event.originator_id in erased
    ]
    assert core.app.log.claims_of(held) == []
    assert all(one.holds for one in book.audit.verify())
    assert book.replay().holds
    assert [one for one in book.doctor() if one.state == "failed"] == []


# ── the key store fails between the commit and the end of it ────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["full", "readonly", "write"])
def test_an_erasure_whose_key_can_not_be_destroyed_counts_and_is_finished_by_the_next_call(
    tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    url = f"sqlite:///{folder / 'shop.book'}"
    disk = Disk(folder, random.Random(1))
    failing = [False]

    def fails(what: str, number: int) -> None:
        if failing[0] and "shop.book.keys" in disk.last:
            raise failure(kind)

    disk.fails = fails
    with disk.in_use(), tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada, bob = (book.customers.register(name=name, identifiers={"crm": name}) for name in ("Ada", "Bob"))
        failing[0] = True
        for _ in range(2):
            with pytest.raises(BookError) as told:
                book.erasures.erase(ada, reason="gdpr-17")
            assert "shop.book.keys" in told.value.message
        assert book._core.storage.keys.get([(ada, ORDINARY_KEY)])
        assert isinstance(book.profiles.get(ada)["name"], Erased)
        assert book.customers.find("crm", "Ada") is None
        assert book.profiles.get(bob)["name"] == "Bob"
        with pytest.raises(Refused, match="customer_erased"):
            book.customers.change(ada, name="Again")
        failing[0] = False
        assert book.erasures.erase(ada, reason="another").reason == "gdpr-17"
        assert book._core.storage.keys.get([(ada, ORDINARY_KEY)]) == {}
        check_whole(book, {ada}, [["erase", str(ada), str(book.erasures.receipt(ada).event_id)]])


@pytest.mark.parametrize("step", ["destroy", "rotate", "set_erased_up_to"])
def test_what_one_process_could_not_finish_another_does(
    book_url: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the erasure of somebody else, and on a server the key is destroyed before the wrapping key goes."""
    with (
        tallybook.open(book_url) as one,
        tallybook.open(book_url) as other,
        one.acting("agent:lin", purpose="support"),
        other.acting("agent:kim", purpose="support"),
    ):
        ada, bob, cyd = (one.customers.register(name=name) for name in ("Ada", "Bob", "Cyd"))
        with monkeypatch.context() as patched:
            unreachable = tallybook.BookUnreachable("Gone.", path="the keys", remedy="Wait.")
            patched.setattr(one._core.storage.keys, step, lambda *_: (_ for _ in ()).throw(unreachable))
            with suppress(tallybook.BookUnreachable):  # in files, nothing is rotated
                one.erasures.erase(ada, reason="gdpr-17")
        assert isinstance(other.profiles.get(ada)["name"], Erased)
        other.erasures.erase(bob, reason="gdpr-17")
        assert other._core.storage.keys.get([(ada, 1), (bob, 1)]) == {}
        done = [["erase", str(who), str(one.erasures.receipt(who).event_id)] for who in (ada, bob)]
        assert one.profiles.get(cyd)["name"] == "Cyd"
        check_whole(one, {ada, bob}, done)


# ── a log that is put back ──────────────────────────────────────────────────────────────────────────────────────────


def back(folder: Path, copies: Path, *names: str) -> None:
    for name in names:
        for side in ("-wal", "-shm", "-journal"):
            (folder / (name + side)).unlink(missing_ok=True)
        shutil.copy2(copies / name, folder / name)


def test_a_log_from_before_does_not_keep_what_can_not_be_opened(tmp_path: Path) -> None:
    """What a schedule kept stood in the log that is gone. It is not replaced by something that looks like it."""
    url, folder, copies = f"sqlite:///{tmp_path}/shop/shop.book", tmp_path / "shop", tmp_path / "copies"
    folder.mkdir()
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada")
        book.tickets.reply(book.tickets.open(ada, subject="Wet", kind="complaint"), "Sorry")
        book.retention.declare(
            "letters", "communication", purpose="law", legal_basis="law", period=6, unit="years", action="keep"
        )
    shutil.copytree(folder, copies)
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        assert book.erasures.erase(ada, reason="gdpr-17").kept == 2
        eve = book.customers.register(name="Eve")
        book.erasures.erase(eve, reason="gdpr-17")
    back(folder, copies, "shop.book", "shop.book.reads")
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        receipt = book.erasures.receipt(ada)
        assert (receipt.reason, receipt.kept) == ("restored", 0)
        texts = [value for entry in book.profiles.timeline(ada) for value in entry.texts.values()]
        assert texts
        assert all(isinstance(value, Erased) for value in texts)
        with pytest.raises(Refused) as refused:  # the log knows nothing of her any more, the keys do
            book.customers.register(name="Eve", customer_id=eve)
        assert refused.value.code == "customer_erased"
        check_whole(book, {ada}, [["erase", str(ada), str(receipt.event_id)]])


def test_many_may_open_a_log_that_was_put_back_at_once(tmp_path: Path) -> None:
    url, folder, copies = f"sqlite:///{tmp_path}/shop/shop.book", tmp_path / "shop", tmp_path / "copies"
    folder.mkdir()
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        many = [book.customers.register(name=f"N{one}", identifiers={"crm": f"{one}"}) for one in range(12)]
    shutil.copytree(folder, copies)
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        for one in many[:8]:
            book.erasures.erase(one, reason="gdpr-17")
    back(folder, copies, "shop.book", "shop.book.reads")
    script = f"import tallybook; b = tallybook.open({url!r}); print(len(b.erasures.all()))"
    running = [warm.start(script) for _ in range(4)]
    ended = [one.communicate(timeout=120) for one in running]
    assert [out.strip() for out, _ in ended] == ["8"] * 4, [error[-900:] for _, error in ended]
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        done = [["erase", str(one), str(book.erasures.receipt(one).event_id)] for one in many[:8]]
        check_whole(book, set(many[:8]), done)


@pytest.mark.parametrize("in_place", [True, False], ids=["over the bytes", "as another file"])
def test_keys_that_are_put_back_under_an_open_book_open_nothing(tmp_path: Path, in_place: bool) -> None:
    url, folder, copies = f"sqlite:///{tmp_path}/shop/shop.book", tmp_path / "shop", tmp_path / "copies"
    folder.mkdir()
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada, bob = book.customers.register(name="Ada"), book.customers.register(name="Bob")
    shutil.copytree(folder, copies)
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        book.erasures.erase(ada, reason="gdpr-17")
        if not in_place:
            (folder / "shop.book.keys").unlink()
        back(folder, copies, "shop.book.keys", "shop.book.wrapping-key")
        assert isinstance(book.profiles.get(ada)["name"], Erased)
        with tallybook.open(url) as again, again.acting("agent:kim", purpose="support"):
            assert again._core.storage.keys.get([(ada, ORDINARY_KEY)]) == {}
            assert isinstance(again.profiles.get(ada)["name"], Erased)
            assert again.profiles.get(bob)["name"] == "Bob"
        # Her key into a file that has no name any more, or under a wrapping key that is gone: never.
        with pytest.raises(tallybook.TallybookError, match=r"shop\.book\.(keys|wrapping-key)"):
            book.customers.register(name="Cyd")
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        check_whole(book, {ada}, [["erase", str(ada), str(book.erasures.receipt(ada).event_id)]])
        assert book.profiles.get(book.customers.register(name="Cyd"))["name"] == "Cyd"


# ── who is not there, and the receipt ───────────────────────────────────────────────────────────────────────────────


def test_who_is_registered_by_half_is_nobody_yet(book_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        nobody = uuid4()
        with monkeypatch.context() as patched:
            patched.setattr(type(book._core.app.log), "append_in", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):  # her key is there, and no event
                book.customers.register(name="Ada", customer_id=nobody)
        assert book._core.storage.keys.get([(nobody, ORDINARY_KEY)])
        with pytest.raises(Refused) as refused:
            book.erasures.erase(nobody, reason="gdpr-17")
        assert refused.value.code == "unknown_customer"
        assert book.customers.register(name="Ada", customer_id=nobody) == nobody
        assert book.profiles.get(nobody)["name"] == "Ada"
        assert book.erasures.erase(nobody, reason="gdpr-17").subject == nobody


def leaf_of(book: Book, position: int) -> bytes:
    """The bytes that the leaf of an event is hashed from."""
    [(found, stream, version, name, state)] = book._core.app.log.log_rows(position - 1, 1)
    assert found == position
    leaf: bytes = msgpack.packb([book.origin, position, stream, version, name, state])
    return leaf


def test_a_receipt_is_verified_by_what_shares_no_code_with_us(book_url: str) -> None:
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        ada, bob = (book.customers.register(name=name) for name in ("Ada", "Bob"))
        before = book.erasures.erase(ada, reason="gdpr-17")
        book.erasures.erase(bob, reason="gdpr-17")
        receipt = book.erasures.receipt(ada)
        [*_, vkey] = book.audit.vkeys()
        assert receipt.proof is not None
        assert before.proof is not None
        for proof, size in ((before.proof, before.position), (receipt.proof, receipt.position + 1)):
            entry = leaf_of(book, receipt.position)
            position, checkpoint, found = verifier.check_proof(
                proof.encode(), [verifier.parse_vkey(vkey)], None, entry, "receipt"
            )
            assert position == receipt.position
            assert checkpoint.size >= size
            assert found is not None
        with pytest.raises(verifier.Bad):
            verifier.check_proof(
                receipt.proof.encode(),
                [verifier.parse_vkey(vkey)],
                None,
                leaf_of(book, receipt.position - 1),
                "receipt",
            )


def test_an_erasure_of_many_look_ups_is_one_commit(book_url: str) -> None:
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada")
        for number in range(1300):
            book.customers.link_identifier(ada, f"s{number}", "x")
        position = book.position()
        assert book.erasures.erase(ada, reason="gdpr-17").lookups == 1300
        assert [one.event.stored_name for one in book.follow(position, timeout_s=0)].count("customer.erased") == 1
        assert book.customers.find("s7", "x") is None
        assert book.customers.find("s1299", "x") is None
        assert [one for one in book.doctor() if one.state == "failed"] == []


# ── rotations ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_are_read_and_written_by_threads_while_the_wrapping_key_changes(book_url: str) -> None:
    """Each rotation takes away the key under which others are about to write, or which they have just read rows of."""
    with tallybook.open(book_url) as book, tallybook.open(book_url) as other:
        keys: Any = book._core.storage.keys
        theirs: Any = other._core.storage.keys
        held = {(uuid4(), 1): bytes([one % 250]) * 32 for one in range(700)}
        keys.add(held)
        going = [True]
        counts = [0, 0, 0]

        def rotate() -> None:
            # On a busy machine the others may not come to their turn for a while.
            for number in range(1_000):
                if number >= 25 and all(counts):
                    break
                keys.rotate()
            going[0] = False

        def read() -> None:
            while going[0]:
                assert theirs.get(held) == held
                counts[0] += 1

        def write(number: int) -> None:
            while going[0]:
                name = (uuid4(), 1)
                theirs.add({name: b"w" * 32})
                assert theirs.get([name]) == {name: b"w" * 32}
                counts[number] += 1

        with ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(rotate), pool.submit(read), pool.submit(write, 1), pool.submit(write, 2)]:
                one.result()
        assert all(counts)
        assert theirs.get(held) == held
        assert keys.behind() == 0


KILLED = """
import os, signal, sys
import tallybook
from tallybook.adapters.postgres import PostgresSession
from tallybook.adapters.sqlite import SQLiteSession
steps = []
def stepping(real):
    def stepped(*args, **kwargs):
        steps.append(1)
        if len(steps) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return stepped
book = tallybook.open(sys.argv[1])
for name in ("write", "fsync", "replace"):
    setattr(os, name, stepping(getattr(os, name)))
session = PostgresSession if sys.argv[1].startswith("postgresql") else SQLiteSession
for name in ("rows", "run", "upsert", "__exit__"):
    setattr(session, name, stepping(getattr(session, name)))
with book.acting("agent:sec", purpose="security"):
    if sys.argv[3] == "rotate":
        book.rotate_wrapping_key()
    else:
        book.erasures.erase(sys.argv[3], reason="gdpr-17")
print("done")
"""


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 17])
@pytest.mark.parametrize("what", ["rotate", "erase"])
def test_a_rotation_or_an_erasure_that_is_killed_at_any_step_is_whole(book_url: str, what: str, every: int) -> None:
    """Everybody else's data is there, and whoever is erased is so in copies of the keys from before, too."""
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="support"):
        bob = book.customers.register(name="Bob", identifiers={"crm": "B"})
        ada = book.customers.register(name="Ada", identifiers={"crm": "A"})
        kills, gone_and_killed = 0, 0
        while True:
            keys: Any = book._core.storage.keys
            before, copied = copies_of(book)
            doing = what if what == "rotate" else str(ada)
            done = warm.run(KILLED, book_url, str(kills * every + 1), doing)
            with tallybook.open(book_url) as again, again.acting("agent:kim", purpose="support"):
                keys = again._core.storage.keys
                assert (len(keys.source.read(again.origin)), keys.behind()) == (1, 0)
                assert keys.wrapping() == last_recorded(again)
                assert not keys.outlived()
                assert again.profiles.get(bob)["name"] == "Bob"
                gone = ada in again.erasures.all()
                assert isinstance(again.profiles.get(ada)["name"], Erased) == gone
                assert (keys.get([(ada, 1)]) == {}) == gone
                assert again.customers.find("crm", "A") == (None if gone else ada)
                if gone:
                    assert set(keys.source.read(again.origin)).isdisjoint(before)
                    opening = Wrapping(keys.source, again.origin)
                    with pytest.raises(tallybook.KeysMissing):
                        opening.unwrap(opening.newest, copied[ada.bytes], ada, ORDINARY_KEY)
                    assert again.erasures.receipt(ada).unfinished == ()
                    gone_and_killed += not done.stdout
                    ada = again.customers.register(name="Ada", identifiers={"crm": "A"})
            if done.stdout:
                break
            assert done.returncode == -9, done.stderr
            kills += 1
        assert kills > (20 if every == 1 else 1)
        assert what == "rotate" or gone_and_killed, "some are killed between the commit and the end"
        assert book.profiles.get(bob)["name"] == "Bob"  # who had it open all the time goes on
        assert all(one.holds for one in book.audit.verify())


def copies_of(book: Book) -> tuple[set[bytes], dict[bytes, bytes]]:
    """The wrapping key of now, and the wrapped keys by subject."""
    keys: Any = book._core.storage.keys
    rows = keys.database.rows("SELECT subject, wrapped FROM data_keys WHERE destroyed=0")
    return set(keys.source.read(book.origin)), dict(rows)


def last_recorded(book: Book) -> str | None:
    """The wrapping key that the log knows of."""
    found = [one.event.new for one in book.follow(timeout_s=0) if isinstance(one.event, WrappingKeyRotated)]
    return found[-1] if found else book._core.storage.first_wrapping
