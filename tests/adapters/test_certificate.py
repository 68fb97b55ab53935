"""The certificate over columns says what the domain's own code says, of sound histories and of others."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.columnar import Rows, by_columns, certified, plain_python
from tests.loyalty_lives import PROGRAMMES, Step, living, steps
from tests.programme_life import Life
from tests.programme_life import Step as Command
from tests.programme_life import steps as commands
from tests.projections.test_columnar import beginning
from tests.test_synth import generous

import tallybook
from tallybook.adapters import notes
from tallybook.adapters.archive import certificate, decoding, sqlite_rows
from tallybook.adapters.archive.building import Chunk, Texts, chunk_of, program
from tallybook.adapters.archive.certificate import NotByColumns
from tallybook.adapters.archive.sqlite_rows import SQLiteRows
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.domain.errors import BookClosed, BookError
from tallybook.domain.events import Decision, Event, Value
from tallybook.domain.points import CouponIssued, PointsEarned
from tallybook.projections.read_models import Recorded
from tallybook.projections.replay import COLUMNAR, REFERENCE, Certificate, Divergence

QUICK = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
History = Sequence[Recorded]


def altered(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{value}x"
        case UUID():
            return UUID(int=value.int ^ 1)
        case tuple():
            return (*value[:-1], altered(value[-1])) if value else (UUID(int=5),)
        case Value():
            name = next(iter(type(value).model_fields))
            return value.model_copy(update={name: altered(getattr(value, name))})
        case _:
            return None


def decisions_in(history: History) -> list[int]:
    return [place for place, (_, event) in enumerate(history) if isinstance(event, Decision)]


def with_one(history: History, place: int, event: Event) -> list[Recorded]:
    return [Recorded(at, event if number == place else one) for number, (at, one) in enumerate(history)]


def field_altered(history: History, draw: int, name_drawn: int) -> list[Recorded]:
    """One field of one decision is another."""
    found = decisions_in(history)
    place = found[draw % len(found)]
    event = history[place].event
    fields = [name for name in event.clear_fields if getattr(event, name) not in (None, ())]
    name = ("effective_us", *fields)[name_drawn % (len(fields) + 1)]
    return with_one(history, place, event.model_copy(update={name: altered(getattr(event, name))}))


def left_out(history: History, draw: int, _: int) -> list[Recorded]:
    """A decision is not there."""
    found = decisions_in(history)
    gone = found[draw % len(found)]
    return [Recorded(at, one) for at, one in enumerate((one for n, (_, one) in enumerate(history) if n != gone), 1)]


def doubled(history: History, draw: int, _: int) -> list[Recorded]:
    """A decision is there twice."""
    found = decisions_in(history)
    twice = found[draw % len(found)]
    events = [one for n, (_, one) in enumerate(history) for one in ([one, one] if n == twice else [one])]
    return [Recorded(at, one) for at, one in enumerate(events, 1)]


def of_another_command(history: History, draw: int, name_drawn: int) -> list[Recorded]:
    """A decision was recorded by somebody else, or at another time."""
    found = decisions_in(history)
    place = found[draw % len(found)]
    event = history[place].event
    name = ("actor", "purpose", "channel", "recorded_us", "command_id")[name_drawn % 5]
    value = {"recorded_us": 5, "command_id": UUID(int=7)}.get(name, "other")
    return with_one(
        history, place, event.model_copy(update={"metadata": event.metadata.model_copy(update={name: value})})
    )


def before_its_fact(history: History, draw: int, _: int) -> list[Recorded]:
    """A decision stands before the event that it follows."""
    found = decisions_in(history)
    place = found[draw % len(found)]
    events = [event for _, event in history]
    events[place - 1 : place + 1] = events[place], events[place - 1]
    return [Recorded(at, one) for at, one in enumerate(events, 1)]


def of_another_account(history: History, draw: int, name_drawn: int) -> list[Recorded]:
    """A decision is about another customer, or on another stream."""
    found = decisions_in(history)
    place = found[draw % len(found)]
    event = history[place].event
    name = ("subject_id", "originator_id")[name_drawn % 2]
    others = [getattr(one, name) for _, one in history if isinstance(one, Decision)]
    strangers = [one for one in others if one != getattr(event, name)] or [UUID(int=9)]
    return with_one(history, place, event.model_copy(update={name: strangers[name_drawn % len(strangers)]}))


def cut_short(history: History, draw: int, _: int) -> list[Recorded]:
    """The history ends earlier."""
    return list(history[: 1 + draw % len(history)])


FAULTS = (field_altered, left_out, doubled, of_another_command, before_its_fact, of_another_account, cut_short)


# ── whole lives ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_lives_hold_and_whatever_is_planted_both_name_the_same(programme: str) -> None:
    kinds: set[str] = set()

    @QUICK
    @given(life=steps, fault=st.sampled_from(FAULTS), draw=st.integers(0, 10**6), name=st.integers(0, 10**6))
    def live(life: list[Step], fault: Any, draw: int, name: int) -> None:
        with living(programme) as one:
            one.lives(life)
            if draw % 3:
                one.book.loyalty.sweep()
            history = list(one.book._core.history())
        assert certified(history).holds
        planted = fault(history, draw, name)
        try:
            found = certified(planted)
        except NotByColumns:
            assert fault is of_another_account
            found = certified(planted, columnar=False)
        if fault is field_altered:
            assert found.first is not None
            kinds.add(found.first.kind)

    live()
    assert kinds


@settings(max_examples=4, deadline=None)
@given(what=commands)
def test_several_programmes(what: list[Command]) -> None:
    life = Life().live(what)
    try:
        assert certified(life.book._core.history()).holds
    finally:
        life.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.__name__)
def test_faults_in_the_beginning_of_the_cdnow_book(fault: Any, cdnow: History) -> None:
    for draw in (0, 101):
        history = fault(cdnow, draw, draw)
        try:
            found = certified(history)
        except NotByColumns:
            assert fault is of_another_account
        else:
            assert draw == 0 or fault is cut_short or not found.holds


@pytest.fixture(scope="module")
def cdnow(tmp_path_factory: pytest.TempPathFactory) -> History:
    history, _ = beginning(tmp_path_factory.mktemp("cdnow"), 60)
    return [Recorded(at, event) for at, event in history]


def test_the_cdnow_book_holds(cdnow: History) -> None:
    found = by_columns(cdnow)
    assert found.holds
    assert found.matched == found.decisions == len(decisions_in(cdnow)) > 100
    assert (found.executor, found.why) == (COLUMNAR, "")


@pytest.mark.slow
def test_a_made_up_book(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/made.book"
    tallybook.synth(url, customers=150, seed=5, rules=["standard", generous()])
    with tallybook.open(url) as book:
        history = list(book._core.history())
        assert certified(history).holds
        coupons = [place for place, (_, event) in enumerate(history) if isinstance(event, CouponIssued)]
        assert coupons
        assert not certified(field_altered(history, 5, 3)).holds


# ── rows and columns ──────────────────────────────────────────────────────────────────────────────────────────────


def rows_taken(log: Any, after: int, stop: int) -> Chunk | None:
    with SQLiteRows(log) as rows:
        found = rows.take(after, stop, Texts({decoding.TEXT: program().numbers}))
    return None if found is None else Chunk(*found)


@pytest.mark.parametrize("room", [1, 100, 512])
def test_what_is_taken_from_sqlite_is_what_the_log_tells(
    shop: tallybook.Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """However little room is made for states at first; and nothing, where a row is not as it should be."""
    monkeypatch.setattr("tallybook.adapters.archive.sqlite_rows.BYTES_A_ROW", room)
    log = shop._core.app.log
    head = shop.position()
    found, wanted = rows_taken(log, 1, head), chunk_of(log.log_rows(1, 1_000), program())
    assert found is not None
    assert (found.rows == wanted.rows).all()
    assert (found.ends == wanted.ends).all()
    assert (found.data == wanted.data).all()
    assert rows_taken(log, 1, head + 1) is None
    assert rows_taken(log, head, head + 1) is None
    copy = tmp_path / "copy.book"
    with closing(sqlite3.connect(tmp_path / "shop.book")) as database:
        database.execute("VACUUM INTO ?", [str(copy)])
    for number, broken in enumerate((
        "UPDATE {} SET originator_id=x'00' WHERE position=3", "UPDATE {} SET originator_id=NULL WHERE position=3",
        "UPDATE {} SET topic='customer.unknown' WHERE position=3", "UPDATE {} SET topic=NULL WHERE position=3",
        "UPDATE {} SET state=x'' WHERE position=3", "UPDATE {} SET state=NULL WHERE position=3",
        "UPDATE {} SET position='x' WHERE position=3", "DELETE FROM {} WHERE position=3",
    )):  # fmt: skip
        with closing(sqlite3.connect(copy)) as database, database:
            database.execute(f"CREATE TABLE loose_{number} AS SELECT * FROM stored_events")
            assert database.execute(broken.format(f"loose_{number}")).rowcount == 1
        other = SimpleNamespace(database=SQLiteDatabase(str(copy)), table=SimpleNamespace(name=f"loose_{number}"))
        assert rows_taken(other, 0, 2) is not None
        assert rows_taken(other, 0, head) is None
        other.database.close()


def test_a_file_that_was_exchanged_or_closed_is_not_read(shop: tallybook.Book, tmp_path: Path) -> None:
    log = shop._core.app.log
    os.replace(tmp_path / "shop.book", tmp_path / "elsewhere")
    with pytest.raises(BookError, match="deleted, moved or replaced"):
        rows_taken(log, 0, 2)
    os.replace(tmp_path / "elsewhere", tmp_path / "shop.book")
    assert rows_taken(log, 0, 2) is not None
    shop.close()
    with pytest.raises(BookClosed):
        rows_taken(log, 0, 2)


def test_where_sqlite_can_not_be_reached_the_log_is_asked(
    shop: tallybook.Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = shop.replay(executor="columnar")
    monkeypatch.setattr("tallybook.adapters.archive.sqlite_rows._library", lambda: None)
    assert rows_taken(shop._core.app.log, 0, 2) is None
    assert shop.replay(executor="columnar") == told
    assert told.executor == "columnar"


def test_a_second_copy_of_sqlite_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two in one process, the one that closes a file drops the locks of the other."""
    assert sqlite_rows._library.__wrapped__() is not None

    class Used:
        """What this copy has in use, whatever the sqlite3 module opens."""

        def __call__(self) -> int:
            return 1_000

    library = SimpleNamespace(sqlite3_memory_used=Used())
    for name in ("step", "finalize", "close_v2", "reset", "bind_int64", "open_v2", "busy_timeout", "prepare_v2"):
        setattr(library, f"sqlite3_{name}", None)
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    assert sqlite_rows._library.__wrapped__() is None


def test_states_that_are_no_decisions_are_left_to_the_reference(cdnow: History) -> None:
    log = Rows(cdnow)
    place = next(at for at, event in cdnow if isinstance(event, PointsEarned))
    position, stream, version, name, state = log.rows[place]
    values = msgpack.unpackb(state)
    fields = PointsEarned.clear_fields
    for field, value in (("facts", [None] * 9_000), ("points", "x"), ("lines", [[1, 2]]), ("rules", 7), ("uses", None)):
        changed = values.copy()
        changed[6 + fields.index(field)] = value
        log.rows[place] = position, stream, version, name, msgpack.packb(changed)
        with plain_python(), pytest.raises(NotByColumns, match="form"):
            certificate.by_columns(log, log.decode, len(cdnow))
    log.rows[place] = position, stream, version, name, msgpack.packb([*values[:-1], [1, b"sealed"]])
    with plain_python(), pytest.raises(NotByColumns, match="form"):
        certificate.by_columns(log, log.decode, len(cdnow))


# ── through the front door ────────────────────────────────────────────────────────────────────────────────────────


def test_the_book_says_what_replayed_it(tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book, book.acting("agent:test", purpose="test"):
        book.rules.adopt("standard", effective_at="2024-01-01T00:00:00Z")
        ada = book.customers.register(name="Ada", effective_at="2024-01-02T00:00:00Z")
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, [{"sku": "lamp", "quantity": 1, "net_minor": 5_000}], currency="USD")
        small = book.replay()
        assert (small.executor, small.holds) == (REFERENCE, True)
        assert "events" in small.why
        with plain_python():
            found = book.replay(executor="columnar")
            assert (found.executor, found.why, found.holds, found.matched) == (COLUMNAR, "", True, small.matched)
            book.erasures.erase(ada, reason="asked")
            assert book.replay(executor="columnar").holds
        assert book.replay(executor="reference").why == ""
        with pytest.raises(tallybook.Refused) as error:
            book.replay(executor="gpu")
        assert error.value.code == "invalid_argument"


def test_without_the_extra_the_reference_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with tallybook.open("memory:") as book:
        monkeypatch.delitem(sys.modules, certificate.__name__)
        monkeypatch.setitem(sys.modules, "numpy", None)
        found = book.replay(executor="columnar")
    assert (found.executor, found.holds) == (REFERENCE, True)
    assert "tallybook[replay]" in found.why


# ── signed ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tallybook.Book]:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book, book.acting("agent:test", purpose="test"):
        book.rules.adopt("standard", effective_at="2024-01-01T00:00:00Z")
        ada = book.customers.register(name="Ada", effective_at="2024-01-02T00:00:00Z")
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, [{"sku": "lamp", "quantity": 1, "net_minor": 5_000}], currency="USD")
        yield book


def test_a_signed_certificate_says_what_was_signed(shop: tallybook.Book, tmp_path: Path) -> None:
    made = shop.replay(sign=True)
    assert shop.audit.check_certificate(made.note) == made
    assert made.holds
    assert (made.origin, made.position) == (shop.origin, shop.position())
    assert made.root == shop.audit.verify()[0].root
    assert made.document()["holds"] is True
    assert Certificate.parse(made.canonical()) == replace(made, note="")
    assert len(made.digest()) == 64
    kept = tmp_path / "certificate"
    kept.write_text(made.note, "utf-8")
    assert shop.audit.check_certificate(kept, vkey=shop.audit.vkey).matched == made.matched
    (tmp_path / "checkpoint").write_text(made.checkpoint, "utf-8")
    assert all(one.holds for one in shop.audit.verify(against=tmp_path / "checkpoint"))


def test_a_rotated_key_still_tells_its_certificates(shop: tallybook.Book) -> None:
    before = shop.replay(sign=True)
    shop.audit.rotate_signing_key()
    after = shop.replay(sign=True)
    assert shop.audit.check_certificate(before.note).position < shop.audit.check_certificate(after.note).position
    with pytest.raises(tallybook.NoteError):
        shop.audit.check_certificate(before.note, vkey=shop.audit.vkey)


def test_a_certificate_that_names_a_divergence_is_signed_too() -> None:
    first = Divergence("another decision", UUID(int=1), UUID(int=2), 7, "this", "that")
    made = Certificate(position=9, first=first, divergent_accounts=1)
    assert Certificate.parse(made.canonical()) == made
    assert made.document()["holds"] is False
    assert replace(made, first=None).digest() != made.digest()


ALTERED: dict[str, Callable[[str], str]] = {
    "a count": lambda note: note.replace('"matched":2', '"matched":3'),
    "the digest": lambda note: note.replace(note.split("\n")[2], "0" * 64),
    "another log": lambda note: note.replace(note.split("\n")[1], "tallybook.example/other"),
    "no signature": lambda note: note.rpartition("\n\n")[0] + "\n",
    "a line more": lambda note: note.replace("{", "x\n{", 1),
    "nothing": lambda _: "\n",
}


@pytest.mark.parametrize("what", ALTERED)
def test_whatever_is_altered_is_refused(shop: tallybook.Book, what: str) -> None:
    note = shop.replay(sign=True).note
    assert ALTERED[what](note) != note
    with pytest.raises(tallybook.NoteError):
        shop.audit.check_certificate(ALTERED[what](note))


def test_what_the_key_signed_is_not_a_certificate_for_that(shop: tallybook.Book) -> None:
    signer = shop._core.storage.signing.signer(shop.audit.vkey)  # type: ignore[union-attr]  # it has one
    made = shop.replay(sign=True)
    with pytest.raises(tallybook.NoteError):
        shop.audit.check_certificate(shop.audit.checkpoint().note)
    other = replace(made, note="", position=made.position + 1)
    for canonical, digest in (
        ("{}", "0" * 64), ("[]", "0" * 64), (made.canonical(), "0" * 64), (other.canonical(), other.digest()),
    ):  # fmt: skip
        text = f"tallybook-certificate@v1\n{shop.origin}\n{digest}\n{canonical}\n"
        with pytest.raises(tallybook.NoteError):
            shop.audit.check_certificate(notes.made(text, [signer.sign(text)]))


def test_without_its_signing_key_a_book_signs_no_certificate(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    tallybook.open(url).close()
    with tallybook.open(url, signing_key="unsigned") as book, pytest.raises(tallybook.BookError):
        book.replay(sign=True)
