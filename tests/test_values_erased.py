"""Single values past their period are erased, and all else of the customer stays as it was."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tallybook
from tallybook import Book, Erased, Refused, Withheld
from tallybook.domain.customer import Customer, KeyCreated
from tallybook.domain.erasure import KEPT_KEY, SubjectErased, ValueResealed, ValuesErased
from tallybook.domain.events import to_us

from .conftest import STANDARD
from .test_reviews import tables

LINE = {"sku": "tea", "quantity": 1, "net_minor": 5_000}
NAME, MAIL, TEXT, LATER = "Ada Lovelace", "ada@example.org", "The parcel was wet", "It came again"


class Clock:
    """The time of the test."""

    now = datetime(2020, 1, 1, tzinfo=UTC)

    def __call__(self) -> int:
        return to_us(self.now)

    def at(self, year: int, month: int = 1, day: int = 1) -> None:
        self.now = datetime(year, month, day, tzinfo=UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(book_url: str, clock: Clock) -> Iterator[Book]:
    with tallybook.open(book_url, now_us=clock) as opened, opened.acting("agent:dpo", purpose="retention"):
        yield opened


def letters(book: Book) -> None:
    book.retention.declare("letters", "communication", purpose="crm", legal_basis="GDPR:5.1.e", period=24)


def lived(book: Book) -> tuple[UUID, UUID]:
    """A customer with something in every corner, and a ticket."""
    book.rules.adopt(STANDARD, effective_at="1990-01-01T00:00:00Z")
    ada = book.customers.register(
        name=NAME, email=MAIL, note=TEXT, identifiers={"crm": "C-1"}, birth_date="1985-12-10", hobbies="Tea"
    )
    book.loyalty.enrol(ada)
    book.customers.record_purchase(ada, [LINE], order_id="O-1")
    case = book.tickets.open(ada, subject=TEXT, text=TEXT, kind="complaint")
    book.tickets.reply(case, TEXT)
    book.customers.record_interaction(ada, "enquiry", text=TEXT)
    return ada, case


def kept_up(book: Book, *but: str) -> None:
    """Everything agrees with everything else."""
    assert all(one.holds for one in book.audit.verify())
    assert book.replay().holds
    assert all(one.holds for one in book.audit.verify_read_models())
    others = ("versions", "server", "space", *but)  # of the machine, not of the book
    assert [one for one in book.doctor() if one.state != "ok" and one.name not in others] == []


def coarse(book: Book, customer: UUID) -> tuple[object, ...]:
    """What is decided and counted: nothing personal."""
    segments = book.profiles.segments(as_of="2021-06-01").customers
    return book.loyalty.balance(customer), book.tiers.history(customer), segments, book.backtest(STANDARD).matrix


def said(book: Book, customer: UUID) -> str:
    return book.audit.subject_report(customer).json()


def test_letters_go_after_their_period_and_the_customer_stays(book: Book, clock: Clock) -> None:
    ada, case = lived(book)
    letters(book)
    clock.at(2021, 6)
    book.tickets.reply(case, LATER)
    before = coarse(book, ada)
    checkpoint = book.audit.checkpoint().note
    clock.at(2022)
    [due] = book.retention.due().customers
    assert (due.ready, due.whole, due.due, dict(due.values), due.schedules) == (
        True, False, ("communication",), {"communication": 5}, ("letters",),
    )  # fmt: skip
    assert due.stays == ("communication", "contact", "identity", "preference", "transaction")
    swept = book.retention.sweep()
    assert (swept.due, swept.erased, swept.partly, swept.values, swept.left) == (1, 0, 1, 5, 0)
    assert book.retention.due().customers == ()
    profile = book.profiles.get(ada)
    assert (profile["name"], profile["birth_date"], profile["hobbies"]) == (NAME, "1985-12-10", "Tea")
    assert isinstance(profile["note"], Erased)
    assert [point.value for point in profile.contact_points] == [MAIL]
    assert profile.identifiers["crm"].value == "C-1"
    texts = [value for entry in book.profiles.timeline(ada) for value in entry.texts.values()]
    assert texts.count(LATER) == 1
    assert sum(isinstance(value, Erased) for value in texts) == 5
    assert [type(one.texts.get("text")) for one in book.tickets.read(case)] == [Erased, Erased, str]
    report = said(book, ada)
    assert TEXT not in report
    assert LATER in report
    assert coarse(book, ada) == before
    assert all(one.holds for one in book.audit.verify(against=checkpoint))
    assert book.customers.find("crm", "C-1") == ada
    assert book.erasures.all() == []
    kept_up(book)


def test_what_is_recorded_says_what_went_by_which_schedule(book: Book, clock: Clock) -> None:
    ada, _ = lived(book)
    letters(book)
    clock.at(2022)
    position = book.position()
    book.retention.sweep()
    events = [event for event_position, event in book._core.stream(ada) if event_position > position]
    assert [type(one) for one in events[:2]] == [KeyCreated, ValuesErased]
    _, erased, *resealed = events
    assert isinstance(erased, ValuesErased)
    assert [(one.category, one.values) for one in erased.erased] == [("communication", 5)]
    assert (erased.schedules, erased.key_ids, erased.new_key_id, erased.resealed) == (("letters",), (1,), 3, 6)
    assert {one.field for one in resealed if isinstance(one, ValueResealed)} == {
        "name", "birth_date", "hobbies", "value", "external_id", "order_id",
    }  # fmt: skip
    assert {one.known_as for one in resealed if isinstance(one, ValueResealed)} >= {"contact.email", "identifier.crm"}


def test_the_customer_goes_on_under_the_new_key(book: Book, clock: Clock) -> None:
    ada, case = lived(book)
    letters(book)
    clock.at(2022)
    book.retention.sweep()
    book.customers.change(ada, name="Ada King")
    book.tickets.reply(case, LATER)
    book.customers.record_purchase(ada, [LINE], order_id="O-2")
    assert book.profiles.get(ada)["name"] == "Ada King"
    assert [one.texts.get("text") for one in book.tickets.read(case)][-1] == LATER
    with tallybook_again(book) as again, again.acting("agent:kim", purpose="support"):
        again.customers.change(ada, occupation="Countess")
        profile = again.profiles.get(ada)
        assert (profile["name"], profile["occupation"], profile.identifiers["crm"].value) == (
            "Ada King", "Countess", "C-1",
        )  # fmt: skip
    clock.at(2024, 6)
    assert book.retention.sweep().values == 1
    assert isinstance([one.texts.get("text") for one in book.tickets.read(case)][-1], Erased)
    assert book.profiles.get(ada)["name"] == "Ada King"
    assert book._core.app.load(Customer, ada).erased_keys == (1, 3)
    kept_up(book)


def tallybook_again(book: Book) -> Book:
    """The same book as another process opens it."""
    options = book._core.storage.options
    assert options is not None
    return tallybook.open(options["url"], now_us=book._core.now_us)


# ── every door ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_door_gives_what_stays_and_nothing_of_what_went(book: Book, clock: Clock, tmp_path: Path) -> None:
    ada, _ = lived(book)
    letters(book)
    clock.at(2022)
    before = book.audit.replay(ada, "2020-06-01", known_at=book.position()).document["state"]
    book.retention.sweep()
    clock.at(2022, 2)
    replayed = book.audit.replay(ada, "2020-06-01").document["state"]
    assert replayed["fields"]["note"]["value"] == {"erased": True}
    for name in ("name", "birth_date", "hobbies"):
        assert replayed["fields"][name] == before["fields"][name]
    assert replayed["identifiers"] == before["identifiers"]
    assert replayed["contact_points"] == before["contact_points"]
    [row] = tables(book.audit.review("erasure-evidence"))["Single values erased"]
    assert (row["subject"], row["schedules"], row["erased"], row["sealed anew"], row["key left"]) == (
        str(ada), "letters", "communication: 5", 6, "none",
    )  # fmt: skip
    assert row["proof"].isdecimal()
    now = book.audit.replay(ada, "2022-01-15").document
    assert [one["event"] for one in now["state"]["erasures"]] == ["customer.values_erased"]
    book.audit.export(tmp_path / "pack", sealed=False)
    told = "".join(one.read_text() for one in (tmp_path / "pack").rglob("events.jsonl"))
    assert TEXT not in told
    for value in (NAME, MAIL, "C-1", "O-1", "1985-12-10"):
        assert told.count(value) >= 2, "where it stood, and where it was sealed anew"
    assert [name for name, _ in book.profiles.segments(system="crm").customers] == ["C-1"]
    for review in ("subject-access", "portable-copy", "corrections"):
        shown = str(book.audit.review(review, subject=ada))
        assert TEXT not in shown
    assert NAME in str(book.audit.review("portable-copy", subject=ada))
    portable = json.loads(book.audit.subject_report(ada).portable())
    assert NAME in json.dumps(portable["provided_by_you"])


def test_a_value_that_was_sealed_anew_is_released_as_the_value_that_it_is(book: Book, clock: Clock) -> None:
    ada, _ = lived(book)
    letters(book)
    clock.at(2022)
    book.retention.sweep()
    book.policy.grant("agent:dpo", "admin")
    book.policy.grant("agent:kim", "clerk")
    book.policy.adopt(
        {
            "name": "test", "version": "1", "purposes": {"support": {"text": "Answering", "basis": "contract"}},
            "rules": [
                {"id": "admins", "roles": ["admin"], "commands": ["*"]},
                {"id": "orders", "roles": ["clerk"], "fields": ["category:transaction"]},
                {"id": "mails", "roles": ["clerk"], "fields": ["contact.email"], "effect": "mask"},
            ],
        }
    )  # fmt: skip
    with book.acting("agent:kim", purpose="support"):
        report = said(book, ada)
        profile = book.profiles.get(ada)
    assert report.count("O-1") >= 2
    for value in (NAME, MAIL, "C-1", "1985-12-10", "Tea"):
        assert value not in report
    assert isinstance(profile["name"], Withheld)
    assert [str(point.value) for point in profile.contact_points] == ["…@example.org"]


def queries(book: Book, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that the log's database answers from now on."""
    asked: list[str] = []
    database = book._core.app.log.database
    rows = database.rows

    def counted(statement: str, *given: Any) -> Any:
        asked.append(statement)
        return rows(statement, *given)

    monkeypatch.setattr(database, "rows", counted)
    return asked


def test_a_bulk_read_asks_once_for_many(book: Book, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [book.customers.register(name=f"N{one}", note=TEXT, identifiers={"crm": f"C{one}"}) for one in range(30)]
    for one in many:
        book.customers.record_purchase(one, [LINE])
    letters(book)
    clock.at(2022)
    assert book.retention.sweep().partly == 30
    book.projections.catch_up()
    asked = queries(book, monkeypatch)
    assert [name for name, _ in book.profiles.segments(system="crm").customers] == sorted(
        f"C{one}" for one in range(30)
    )
    assert len(asked) < 30, "for all of them at once"
    del asked[:]
    assert book.profiles.get(many[0])["name"] == "N0"
    assert len(asked) < 12
    del asked[:]
    for _ in range(20):
        book.customers.change(many[0], name="New", note=LATER)
    book.projections.catch_up()
    del asked[:]
    book.profiles.timeline(many[0])
    assert len(asked) < 12


# ── look-ups, what must be kept, restriction ────────────────────────────────────────────────────────────────────────


def test_look_ups_of_what_went_are_released_and_no_others(book: Book, clock: Clock) -> None:
    ada = book.customers.register(name=NAME, identifiers={"crm": "C-1", "shop": "S-1"})
    book.customers.remove_identifier(ada, "shop", "S-1")
    bob = book.customers.register(identifiers={"shop": "S-1"})
    first = book.customers.record_purchase(ada, [LINE], order_id="O-1")
    clock.at(2021, 6)
    book.customers.link_identifier(ada, "shop", "S-2")
    book.customers.record_purchase(ada, [LINE], order_id="O-2")
    book.customers.link_identifier(bob, "crm", "C-2")
    for category in ("identity", "transaction"):
        book.retention.declare(category, category, purpose="crm", legal_basis="GDPR:5.1.e", period=24)
    clock.at(2022)
    swept = book.retention.sweep()
    assert (swept.partly, swept.values) == (2, 5)  # of Ada name, two ids and an order, of Bob an id
    [erased] = [one.event for one in book._core.stream(ada) if isinstance(one.event, ValuesErased)]
    assert isinstance(erased, ValuesErased)
    assert (erased.identifiers, erased.orders) == (("crm",), (first.purchase_id,))
    found = [book.customers.find(*one) for one in (("crm", "C-1"), ("shop", "S-1"), ("shop", "S-2"), ("crm", "C-2"))]
    assert found == [None, None, ada, bob]
    kept_up(book)
    book.customers.record_purchase(bob, [LINE], order_id="O-1")  # nobody knows it any more
    with pytest.raises(Refused, match="order_recorded"):
        book.customers.record_purchase(bob, [LINE], order_id="O-2")
    book.customers.link_identifier(ada, "crm", "C-1")
    with pytest.raises(Refused, match="identifier_linked"):
        book.customers.link_identifier(ada, "shop", "S-3")
    book.customers.remove_identifier(ada, "crm", "C-1")
    assert book.customers.find("crm", "C-1") is None
    kept_up(book)


def test_a_claim_that_a_later_value_holds_stays(book: Book, clock: Clock) -> None:
    ada = book.customers.register(name=NAME, identifiers={"crm": "C-1"})
    clock.at(2021, 6)
    book.customers.remove_identifier(ada, "crm", "C-1")
    book.customers.link_identifier(ada, "crm", "C-1")
    book.retention.declare("identity", "identity", purpose="crm", legal_basis="GDPR:5.1.e", period=24)
    clock.at(2022)
    assert book.retention.sweep().values == 2  # the name, and the id as it was linked at first
    assert book.customers.find("crm", "C-1") == ada
    assert book.profiles.get(ada).identifiers["crm"].value == "C-1"
    kept_up(book)


def test_what_must_be_kept_stays_and_a_later_erasure_keeps_it_still(book: Book, clock: Clock) -> None:
    ada, _ = lived(book)
    book.retention.declare("old", "all", purpose="crm", legal_basis="GDPR:5.1.e", period=24)
    book.retention.declare(
        "invoices", "transaction", purpose="tax", legal_basis="HGB:257", period=10, unit="years", action="keep"
    )
    clock.at(2022)
    swept = book.retention.sweep()
    assert (swept.partly, swept.values, swept.erased) == (1, 10, 0), "he may have bought something today"
    report = said(book, ada)
    assert "O-1" in report
    for value in (NAME, MAIL, TEXT, "C-1"):
        assert value not in report
    book.customers.record_purchase(ada, [LINE], order_id="O-2")
    receipt = book.erasures.erase(ada, reason="gdpr-17")
    assert (receipt.kept, receipt.kept_until, receipt.lookups) == (2, "2032-01-01T00:00:00Z", 2)
    assert receipt.commitments.keys() == {1, 3}
    [erased] = [one.event for one in book._core.stream(ada) if isinstance(one.event, SubjectErased)]
    assert isinstance(erased, SubjectErased)
    assert erased.key_ids == (3,)
    kept = [one["values"]["value"] for one in json.loads(said(book, ada))["kept"]]
    assert kept == ["O-1", "O-2"]
    assert all(isinstance(one.value, Erased) for one in book.profiles.get(ada).fields.values() if one.personal)
    with pytest.raises(Refused, match="customer_erased"):
        book.customers.change(ada, name="Again")
    kept_up(book)
    clock.at(2032)
    assert book.retention.sweep().erased == 1
    assert "O-1" not in said(book, ada)
    assert book._core.app.load(Customer, ada).erased_keys == (1, 3, KEPT_KEY)
    assert book._core.storage.keys.get([(ada, key_id) for key_id in range(1, 6)]) == {}
    kept_up(book)


def test_after_an_erasure_nothing_of_what_was_sealed_anew_can_be_read(book: Book, clock: Clock) -> None:
    ada, case = lived(book)
    letters(book)
    clock.at(2022)
    book.retention.sweep()
    with closing(tallybook_again(book)) as again, again.acting("agent:kim", purpose="support"):
        assert again.profiles.get(ada)["name"] == NAME
        book.erasures.erase(ada, reason="gdpr-17")
        for one in (book, again):
            report = said(one, ada)
            for value in (NAME, MAIL, TEXT, "C-1", "O-1", "Tea", "1985-12-10"):
                assert value not in report
            with pytest.raises(Refused) as refused:
                one.tickets.reply(case, "One more word")
            assert refused.value.code == "customer_erased"
    assert book.customers.find("crm", "C-1") is None
    assert book.erasures.all() == [ada]
    kept_up(book)


def test_restricted_customers_stay_as_they_are(book: Book, clock: Clock) -> None:
    ada, _ = lived(book)
    letters(book)
    book.customers.restrict(ada, "needed_for_claims")
    clock.at(2022)
    [due] = book.retention.due().customers
    assert (due.ready, due.waits_for, dict(due.values)) == (False, ("restricted",), {"communication": 5})
    position = book._core.app.load(Customer, ada).version
    assert book.retention.sweep().partly == 0
    assert book._core.app.load(Customer, ada).version == position
    book.customers.lift_restriction(ada)
    assert book.retention.sweep().values == 5


def test_who_is_restricted_while_a_sweep_runs_stays(book: Book, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, _ = lived(book)
    letters(book)
    clock.at(2022)
    found = book.retention.due()
    book.customers.restrict(ada, "needed_for_claims")
    monkeypatch.setattr(book.retention, "due", lambda at: found)
    swept = book.retention.sweep()
    assert (swept.due, swept.partly, swept.left) == (1, 0, 1)
    assert book.profiles.get(ada)["note"] == TEXT


def test_a_value_in_another_s_event_is_sealed_anew_for_whom_it_is_about(book: Book, clock: Clock) -> None:
    ada, bob = book.customers.register(name=NAME), book.customers.register(name="Bob", note=TEXT)
    book.customers.refer(ada, bob, note="A friend of mine", relation="sister")
    letters(book)
    clock.at(2021)
    book.customers.change(bob, note=LATER)
    clock.at(2022)
    assert book.retention.sweep().values == 2  # a note of each
    relations = {"relation": "sister"}
    for one in (ada, bob):
        [texts] = [entry.texts for entry in book.profiles.timeline(one) if entry.action == "customer.referred"]
        assert isinstance(texts["note"], Erased)
        assert {name: value for name, value in texts.items() if name != "note"} == relations
    assert "sister" in said(book, bob)
    assert "sister" not in said(book, ada)
    book.erasures.erase(bob, reason="gdpr-17")
    [texts] = [entry.texts for entry in book.profiles.timeline(ada) if entry.action == "customer.referred"]
    assert isinstance(texts["relation"], Erased)
    assert book.profiles.get(ada)["name"] == NAME


def test_a_customer_is_sealed_anew_once_a_sweep_and_only_if_something_is_due(book: Book, clock: Clock) -> None:
    ada, _ = lived(book)
    bob = book.customers.register(name="Bob")
    letters(book)
    for category, period in (("identity", 36), ("contact", 36)):
        book.retention.declare(category, category, purpose="crm", legal_basis="GDPR:5.1.e", period=period)

    def resealed(customer: UUID) -> int:
        return sum(isinstance(one.event, ValueResealed) for one in book._core.stream(customer))

    clock.at(2022)
    book.retention.sweep()
    assert (resealed(ada), resealed(bob)) == (6, 0)
    for month in range(2, 13):
        clock.at(2022, month)
        book.retention.sweep()
    assert (resealed(ada), resealed(bob)) == (6, 0)
    clock.at(2023)
    book.retention.sweep()
    assert (resealed(ada), resealed(bob)) == (8, 0)  # hobbies, and the order
    assert book._core.app.load(Customer, ada).ordinary_key == 4
    assert book.profiles.get(ada)["hobbies"] == "Tea"
    assert isinstance(book.profiles.get(bob)["name"], Erased)
    assert book.customers.find("crm", "C-1") is None
    kept_up(book)


# ── others who work meanwhile ───────────────────────────────────────────────────────────────────────────────────────

NEW: dict[str, Callable[[Book, UUID, UUID], object]] = {
    "change": lambda book, ada, _: book.customers.change(ada, name=LATER),
    "interaction": lambda book, ada, _: book.customers.record_interaction(ada, "enquiry", text=LATER),
    "contact point": lambda book, ada, _: book.customers.add_contact_point(ada, "email", LATER),
    "purchase": lambda book, ada, _: book.customers.record_purchase(ada, [LINE], order_id=LATER),
    "reply": lambda book, _, case: book.tickets.reply(case, LATER),
    "ticket": lambda book, ada, _: book.tickets.open(ada, subject=LATER, kind="enquiry"),
    "external id": lambda book, ada, _: book.customers.link_identifier(ada, "shop", LATER),
    "referral": lambda book, ada, _: book.customers.refer(
        book.customers.register(name="Eve"), ada, note="Eve's", relation=LATER
    ),
}
"""Whatever is sealed under a customer's key, on their own stream and on others."""


@pytest.mark.parametrize("what", NEW)
def test_who_works_with_the_old_key_in_hand_goes_on_with_the_new(book: Book, clock: Clock, what: str) -> None:
    ada, case = lived(book)
    letters(book)
    with closing(tallybook_again(book)) as other, other.acting("agent:kim", purpose="support"):
        other.tickets.reply(case, "The key of then is in its cache")
        clock.at(2022, 2)
        book.retention.sweep()
        NEW[what](other, ada, case)
        assert other._core.keyring.believed(ada) == 3
        for one in (other, book):
            assert LATER in said(one, ada)
    with closing(tallybook_again(book)) as fresh, fresh.acting("agent:kim", purpose="support"):
        fresh.tickets.assign(case, "agent:kim")  # nothing of it is sealed
        fresh.customers.record_purchase(ada, [LINE], order_id="O-9")
    kept_up(book)


@pytest.mark.parametrize("what", NEW)
def test_what_was_sealed_before_a_sweep_and_comes_after_it_is_sealed_again(
    book: Book, clock: Clock, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, case = lived(book)
    letters(book)
    clock.at(2022)
    with closing(tallybook_again(book)) as other, other.acting("agent:kim", purpose="support"):
        log = other._core.app.log
        append = log.append
        swept: list[int] = []

        def late(rows: Any, **kwargs: Any) -> Any:
            if not swept and any(subject == ada.bytes for subject, _ in kwargs.get("about", ())):
                swept.append(book.retention.sweep().values)
            return append(rows, **kwargs)

        monkeypatch.setattr(log, "append", late)
        NEW[what](other, ada, case)
        assert swept == [5]
        assert LATER in said(book, ada)
    keys = {
        handle.sealed.key_id
        for _, event in book._core.subject_history(ada)
        for name in event.personal_fields
        if isinstance(event, ValueResealed) is False
        and (handle := getattr(event, name)) is not None
        and handle.sealed.subject_id == ada
    }
    assert keys == {1, 3}
    kept_up(book)


@pytest.mark.parametrize("what", NEW)
def test_what_comes_while_a_sweep_seals_anew_is_not_lost(
    book: Book, clock: Clock, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, case = lived(book)
    letters(book)
    clock.at(2022)
    with closing(tallybook_again(book)) as other:
        opened = book._core.gate.open
        late: list[object] = []

        def opening(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("to_seal_again") and not late:
                with other.acting("agent:bo", purpose="support"):
                    late.append(NEW[what](other, ada, case))
            return opened(*args, **kwargs)

        monkeypatch.setattr(book._core.gate, "open", opening)
        assert book.retention.sweep().values == 5
        assert len(late) == 1
        assert LATER in said(book, ada)
        with other.acting("agent:bo", purpose="support"):
            assert LATER in said(other, ada)
    kept_up(book)


def test_two_sweeps_at_once_seal_anew_once(book: Book, clock: Clock) -> None:
    many = [book.customers.register(name=f"N{one}", note=TEXT) for one in range(12)]
    letters(book)
    book.projections.catch_up()
    clock.at(2022)
    with closing(tallybook_again(book)) as other:
        swept: list[Any] = []
        failed: list[BaseException] = []

        def sweep(one: Book) -> None:
            try:
                with one.acting("job:retention", purpose="retention"):
                    swept.append(one.retention.sweep())
            except BaseException as error:  # noqa: BLE001 - told below
                failed.append(error)

        threads = [threading.Thread(target=sweep, args=(one,)) for one in (book, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
    assert sum(one.partly for one in swept) == sum(one.values for one in swept) == 12
    for number, one in enumerate(many):
        assert book.profiles.get(one)["name"] == f"N{number}"
        assert isinstance(book.profiles.get(one)["note"], Erased)
        assert book._core.app.load(Customer, one).erased_keys == (1,)
    kept_up(book, "keys")  # both rotated the wrapping key: the next opening records which did so last


def test_writers_and_sweeps_at_once_leave_nothing_that_nobody_can_open(book: Book, clock: Clock) -> None:
    many = [book.customers.register(name=f"N{one}") for one in range(4)]
    book.retention.declare("notes", "communication", purpose="crm", legal_basis="GDPR:5.1.e", period=30, unit="days")
    book.projections.catch_up()
    failed: list[BaseException] = []
    written: list[tuple[UUID, str]] = []
    over = threading.Event()

    def write(number: int) -> None:
        try:
            with closing(tallybook_again(book)) as mine, mine.acting(f"agent:{number}", purpose="support"):
                for turn in count():
                    if over.is_set():
                        return
                    who, said_then = many[(turn + number) % 4], f"W{number}-{turn}-"
                    with suppress(Refused):  # others were faster each time
                        mine.customers.change(who, name=said_then, note=said_then)
                        written.append((who, said_then))
                        mine.tickets.open(who, subject=said_then, kind="enquiry")
                    time.sleep(0.02)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    def sweep() -> None:
        try:
            with closing(tallybook_again(book)) as mine, mine.acting("job:retention", purpose="retention"):
                for turn in range(1, 7):
                    while len(written) < 2 * turn and not failed:
                        time.sleep(0.01)
                    clock.now += timedelta(days=21)
                    mine.retention.sweep()
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)
        over.set()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    sweeper = threading.Thread(target=sweep)
    for thread in (*writers, sweeper):
        thread.start()
    for thread in (*writers, sweeper):
        thread.join()
    assert not failed, failed
    assert len(written) > 4
    core = book._core
    assert any(core.app.load(Customer, one).ordinary_key > 3 for one in many)
    for customer in many:
        names = [value for value in (entry.texts.get("name") for entry in book.profiles.timeline(customer)) if value]
        assert not [one for one in names if isinstance(one, Erased)], "of them, no schedule is"
        assert {one for who, one in written if who == customer} <= {*names}
    clock.now += timedelta(days=31)
    book.retention.sweep()
    for customer in many:
        for entry in book.profiles.timeline(customer):
            for name, value in entry.texts.items():
                assert isinstance(value, Erased) == (name in ("note", "subject"))
    kept_up(book, "events")  # the clock leapt under a command


# ── cut short, and put back ─────────────────────────────────────────────────────────────────────────────────────────

CUT = """
import os, sys
import tallybook
step, url, now_us = sys.argv[1], sys.argv[2], int(sys.argv[3])
book = tallybook.open(url, now_us=lambda: now_us)
core = book._core
def cut(of, name, after):
    function = getattr(of, name)
    def dying(*args, **kwargs):
        if name != "append" or any(True for _ in kwargs.get("erased", ())):
            if after:
                function(*args, **kwargs)
            os._exit(9)
        return function(*args, **kwargs)
    setattr(of, name, dying)
place, _, when = step.partition(", ")
cut({"append": core.app.log}.get(place, core.storage.keys), place, when == "after")
with book.acting("job:retention", purpose="retention"):
    book.retention.sweep()
"""
STEPS = [
    "add, after", "append, before", "append, after", "destroy, before", "destroy, after", "rotate, before",
    "set_erased_up_to, before", "set_erased_up_to, after",
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_a_sweep_that_is_killed_at_any_step_is_whole(book_url: str, clock: Clock, step: str) -> None:
    with tallybook.open(book_url, now_us=clock) as book, book.acting("agent:dpo", purpose="retention"):
        ada, _ = lived(book)
        letters(book)
    clock.at(2022)
    died = subprocess.run(
        [sys.executable, "-c", CUT, step, book_url, str(clock())], capture_output=True, text=True, check=False
    )
    assert died.returncode == 9, died.stderr
    recorded = not step.startswith(("add", "append, before"))
    with tallybook.open(book_url, now_us=clock) as book, book.acting("agent:dpo", purpose="retention"):
        assert book._core.app.load(Customer, ada).erased_keys == ((1,) if recorded else ())
        assert book.profiles.get(ada)["name"] == NAME
        assert isinstance(book.profiles.get(ada)["note"], Erased) == recorded
        assert book._core.storage.keys.get([(ada, 1)]).keys() == (set() if recorded else {(ada, 1)})
        book.customers.change(ada, occupation="Countess")
        assert book.retention.sweep().values == (0 if recorded else 5)
        assert TEXT not in said(book, ada)
        assert NAME in said(book, ada)
        kept_up(book)


FILES = ("shop.book", "shop.book.reads")
KEYS = ("shop.book.keys", "shop.book.wrapping-key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a book in files lies, alone."""
    (tmp_path / "shop").mkdir()
    return tmp_path / "shop"


def opened(folder: Path, clock: Clock) -> Book:
    return tallybook.open(f"sqlite:///{folder / 'shop.book'}", now_us=clock)


def put_back(folder: Path, copies: Path, *names: str) -> None:
    for name in names:
        for side in ("-wal", "-shm", "-journal"):
            (folder / (name + side)).unlink(missing_ok=True)
        shutil.copy2(copies / name, folder / name)


def before_and_after(folder: Path, tmp_path: Path, clock: Clock) -> tuple[UUID, UUID, UUID]:
    """Ada, of whom values were erased after a copy was made; Bob, who was erased then; and Ada's ticket."""
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        ada, case = lived(book)
        bob = book.customers.register(name="Bob", identifiers={"crm": "B-1"})
        letters(book)
    shutil.copytree(folder, tmp_path / "copies")
    clock.at(2022)
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        assert book.retention.sweep().partly == 1
        book.erasures.erase(bob, reason="gdpr-17")
        book.customers.change(ada, occupation="Countess")
    return ada, bob, case


def test_with_log_and_keys_of_the_same_time_all_is_as_it_was(folder: Path, tmp_path: Path, clock: Clock) -> None:
    ada, bob, _ = before_and_after(folder, tmp_path, clock)
    put_back(folder, tmp_path / "copies", *FILES, *KEYS)
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        assert TEXT in said(book, ada)
        assert book.profiles.get(bob)["name"] == "Bob"
        assert book.retention.sweep().values == 5
        assert TEXT not in said(book, ada)
        assert book.profiles.get(ada)["name"] == NAME
        kept_up(book)


def test_a_log_from_before_does_not_make_who_goes_on_one_who_was_erased(
    folder: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ada, bob, case = before_and_after(folder, tmp_path, clock)
    put_back(folder, tmp_path / "copies", *FILES)
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        assert "single values of 1 customers were erased" in caplog.text
        assert book.erasures.all() == [bob]
        [told] = [one.event for one in book._core.stream(ada) if isinstance(one.event, ValuesErased)]
        assert isinstance(told, ValuesErased)
        assert (told.reason, told.schedules, told.resealed, told.new_key_id) == ("restored", (), 0, 3)
        assert sum(one.values for one in told.erased) == 11
        report = said(book, ada)
        for value in (NAME, MAIL, TEXT, "C-1", "O-1", "Tea"):
            assert value not in report
        assert isinstance(book.profiles.get(ada)["name"], Erased)
        assert book.customers.find("crm", "C-1") == ada
        assert book.customers.find("crm", "B-1") is None
        assert book.retention.sweep().due == 0
        book.customers.change(ada, name="Ada King", note=LATER)
        book.tickets.reply(case, LATER)
        book.customers.record_purchase(ada, [LINE], order_id="O-3")
        kept_up(book)
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        assert book.profiles.get(ada)["name"] == "Ada King"
        clock.at(2024)
        assert book.retention.sweep().values == 2
        assert book.profiles.get(ada)["name"] == "Ada King"
        assert isinstance(book.profiles.get(ada)["note"], Erased)
        kept_up(book)


def test_a_key_that_was_made_for_nothing_does_not_hide_an_erasure(folder: Path, tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{folder / 'shop.book'}"
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        ada, _ = lived(book)
        letters(book)
    clock.at(2022)
    died = subprocess.run(
        [sys.executable, "-c", CUT, "add, after", url, str(clock())], capture_output=True, check=False
    )
    assert died.returncode == 9
    shutil.copytree(folder, tmp_path / "copies")
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        assert book._core.storage.keys.get([(ada, 3)])
        book.erasures.erase(ada, reason="gdpr-17")
        assert book._core.storage.keys.get([(ada, 1), (ada, 3)]) == {}
        kept_up(book)
    put_back(folder, tmp_path / "copies", *FILES)
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        assert book.erasures.all() == [ada]
        kept_up(book)


def test_a_backup_of_after_holds_nothing_of_what_went(folder: Path, tmp_path: Path, clock: Clock) -> None:
    ada, bob, _ = before_and_after(folder, tmp_path, clock)
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        book.backup(tmp_path / "copy.book")
        report = book.backup_keys(tmp_path / "copy.keys")
        assert report is not None
    target = f"sqlite:///{tmp_path / 'restored.book'}"
    restored = tallybook.restore(
        tmp_path / "copy.book", target, keys=tmp_path / "copy.keys", wrapping_key=folder / "shop.book.wrapping-key"
    )
    assert (restored.erased, restored.lost) == ((bob,), ())
    with (
        tallybook.open(target, now_us=clock, wrapping_key=folder / "shop.book.wrapping-key") as book,
        book.acting("agent:dpo", purpose="retention"),
    ):
        assert book.profiles.get(ada)["name"] == NAME
        assert book.profiles.get(ada)["occupation"] == "Countess"
        assert TEXT not in said(book, ada)
        kept_up(book)


def test_no_usable_key_and_no_look_up_of_what_went_is_left_in_any_file(folder: Path, clock: Clock) -> None:
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        ada, _ = lived(book)
        for category in ("communication", "transaction"):
            book.retention.declare(category, category, purpose="crm", legal_basis="GDPR:5.1.e", period=24)
        order = book._core.keyring.lookup_hash("order", "O-1")
        [wrapped] = rows_of(folder, ada, 1)
        assert wrapped in (folder / "shop.book.keys").read_bytes()
        clock.at(2022)
        assert book.retention.sweep().unfinished == ()
        assert rows_of(folder, ada, 1) == [b""]
        [now] = rows_of(folder, ada, 3)
    data = {one.name: one.read_bytes() for one in folder.iterdir()}
    for needle in (
        wrapped,
        wrapped[:12],
        wrapped[12:],
        order,
        *(value.encode() for value in (TEXT, "O-1", NAME, MAIL)),
    ):
        assert [name for name, content in data.items() if needle in content] == []
    assert now in data["shop.book.keys"]


def rows_of(folder: Path, subject: UUID, key_id: int) -> list[bytes]:
    """The wrapped key of a subject, as it stands in the key file."""
    with closing(sqlite3.connect(folder / "shop.book.keys")) as raw:
        rows = raw.execute("SELECT wrapped FROM data_keys WHERE subject=? AND key_id=?", [subject.bytes, key_id])
        return [wrapped for (wrapped,) in rows.fetchall()]


@pytest.mark.parametrize("key_id", [1, 3])
def test_a_row_of_the_table_alone_destroys_and_hides_nothing(
    folder: Path, tmp_path: Path, clock: Clock, key_id: int
) -> None:
    ada, _, _ = before_and_after(folder, tmp_path, clock)
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        database = book._core.app.log.database
        who = ada if key_id == 3 else book.customers.register(name="Eve")
        with database.session(write=True) as session:
            session.run("INSERT INTO erased VALUES (?,?,?)", [who.bytes, key_id, 1])
        assert not book.audit.verify()[0].holds
        book.customers.change(who, name="Again")
        assert book.profiles.get(who)["name"] == "Again"
    with opened(folder, clock) as book, book.acting("agent:dpo", purpose="retention"):
        assert book.audit.verify()[0].holds
        assert book.profiles.get(who)["name"] == "Again"


# ── against a plain model ───────────────────────────────────────────────────────────────────────────────────────────

DAY = 86_400_000_000


@dataclass
class Life:
    """What a customer's values should be: which can be read, told by days and sets alone."""

    schedules: list[tuple[str, int, str, str]]
    values: dict[str, tuple[str, int]] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    active: int = 0
    ended: int | None = None
    erased: int | None = None

    def add(self, category: str, day: int) -> str:
        """A new value."""
        text = f"{category}-{len(self.values)}-of-{day}-"
        self.values[text] = (category, day)
        self.alive.add(text)
        return text

    def over(self, value: str, action: str, day: int, ended: int | None) -> list[tuple[str, bool]]:
        """Of the schedules about a value: from when each counts, and whether its period is over."""
        category, recorded = self.values[value]
        begins = {"recorded": recorded, "last_activity": self.active, "end_of_relation": ended}
        return [
            (since, begins[since] is not None and begins[since] + period <= day)  # type: ignore[operator]  # not None
            for about, period, since, what in self.schedules
            if what == action and about in (category, "all")
        ]

    def demanded(self, day: int, ended: int | None) -> set[str]:
        """What must be kept."""
        return {
            one for one in self.alive | self.kept if not all(past for _, past in self.over(one, "keep", day, ended))
        }

    def sweep(self, day: int) -> None:
        """Erase what is due."""
        ended = None if self.ended is None or self.ended < self.active else self.ended
        if self.erased is not None:
            if not self.demanded(day, self.erased if ended is None else ended):
                self.kept = set()
            return
        must = self.demanded(day, ended)
        past = {
            one: [since for since, gone in self.over(one, "erase", day, ended) if gone] for one in self.alive - must
        }
        due = {one for one, by in past.items() if by}
        if due and due == past.keys() and all(set(by) != {"recorded"} for by in past.values()):
            self.kept = self.demanded(day, day if ended is None else ended)
            self.alive, self.erased = set(), day
        else:
            self.alive -= due


periods = st.integers(1, 60)
schedules = st.lists(
    st.tuples(
        st.sampled_from(["all", "identity", "contact", "transaction", "communication"]),
        periods,
        st.sampled_from(["recorded", "recorded", "last_activity", "end_of_relation"]),
        st.sampled_from(["erase", "erase", "keep"]),
    ),
    max_size=5,
)
deeds = st.lists(
    st.tuples(
        st.sampled_from(["name", "mail", "order", "asked", "told", "ended", "sweep", "sweep", "erase"]),
        st.integers(0, 25),
    ),
    min_size=3,
    max_size=25,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedules, deeds)
def test_what_can_be_read_is_what_a_plain_model_says(
    declared: list[tuple[str, int, str, str]], done: list[tuple[str, int]]
) -> None:
    day = [0]
    life = Life(declared)
    with (
        tallybook.open("memory:", now_us=lambda: day[0] * DAY) as book,
        book.acting("agent:dpo", purpose="retention"),
    ):
        for number, (category, period, since, action) in enumerate(declared):
            book.retention.declare(
                f"s{number}", category, purpose="crm", legal_basis="law", period=period, unit="days", since=since,
                action=action,
            )  # fmt: skip
        ada = book.customers.register(name=life.add("identity", 0))
        for what, wait in [*done, ("sweep", 0)]:
            day[0] += wait
            now = day[0]
            if what == "sweep":
                book.retention.sweep()
                life.sweep(now)
                report = said(book, ada)
                assert {one for one in life.values if one in report} == life.alive | life.kept
                assert book.erasures.all() == ([] if life.erased is None else [ada])
            elif life.erased is not None:
                continue
            elif what == "erase":
                book.erasures.erase(ada, reason="gdpr-17")
                ended = None if life.ended is None or life.ended < life.active else life.ended
                life.kept = life.demanded(now, now if ended is None else ended)
                life.alive, life.erased = set(), now
            elif what == "name":
                book.customers.change(ada, name=life.add("identity", now))
            elif what == "mail":
                book.customers.add_contact_point(ada, "email", life.add("contact", now))
            elif what == "order":
                book.customers.record_purchase(ada, [LINE], order_id=life.add("transaction", now))
                life.active = now
            elif what == "asked":
                book.customers.record_interaction(ada, "enquiry", text=life.add("communication", now))
                life.active = now
            elif what == "told":
                book.customers.record_interaction(ada, "mail", direction="out", text=life.add("communication", now))
            else:
                book.customers.end_relation(ada, "moved_away")
                life.ended = now
        kept_up(book)
