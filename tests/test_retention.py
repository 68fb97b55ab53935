"""`book.retention`: what is due in a book, and the sweep that carries it out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

import tallybook
from tallybook import Book, Refused, retention
from tallybook.domain.erasure import ORDINARY_KEY
from tallybook.domain.events import to_us

DECLARED = "2020-01-01T00:00:00Z"


class Clock:
    """The time of the test."""

    now = datetime(2020, 1, 1, tzinfo=UTC)

    def __call__(self) -> int:
        return to_us(self.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(book_url: str, clock: Clock) -> Iterator[Book]:
    with tallybook.open(book_url, now_us=clock) as opened, opened.acting("agent:dpo", purpose="retention"):
        yield opened


def declare(book: Book) -> None:
    book.retention.declare("quiet", "all", purpose="crm", legal_basis="GDPR:5.1.e", period=36, since="last_activity")


def test_who_was_quiet_for_long_is_due_and_is_erased_by_a_sweep(book: Book, clock: Clock) -> None:
    declare(book)
    quiet, lively = book.customers.register(name="Ada"), book.customers.register(name="Bob")
    clock.now = datetime(2022, 1, 1, tzinfo=UTC)
    book.customers.record_interaction(lively, "enquiry", text="Hello")
    book.customers.record_interaction(quiet, "campaign", direction="out", text="Come back")
    assert book.retention.due("2022-12-31").customers == ()
    [found] = book.retention.due("2023-01-01").customers
    assert (found.customer_id, found.ready, found.due, found.schedules, found.last_activity_at) == (
        quiet, True, ("communication", "identity"), ("quiet",), DECLARED,
    )  # fmt: skip
    clock.now = datetime(2023, 1, 2, tzinfo=UTC)
    swept = book.retention.sweep()
    assert (swept.due, swept.erased, swept.left) == (1, 1, 0)
    assert book.erasures.all() == [quiet]
    assert book.erasures.receipt(quiet).reason == "retention:quiet"
    assert str(book.profiles.get(quiet)["name"]) == "(erased)"
    assert book.profiles.get(lively)["name"] == "Bob"
    again = book.retention.sweep()
    assert (again.due, again.erased) == (0, 0)


def test_a_sweep_that_was_cut_short_goes_on(book: Book, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(book)
    customers = {book.customers.register(name=f"Ada {number}") for number in range(5)}
    clock.now = datetime(2024, 1, 1, tzinfo=UTC)
    record = book.retention._erasing.record
    erased: list[UUID] = []

    def cut(customer: UUID, *, reason: str) -> None:
        if len(erased) == 2:
            raise KeyboardInterrupt
        erased.append(customer)
        record(customer, reason=reason)

    monkeypatch.setattr(book.retention._erasing, "record", cut)
    with pytest.raises(KeyboardInterrupt):
        book.retention.sweep()
    assert set(book.erasures.all()) == set(erased)
    monkeypatch.undo()
    keys = book._core.storage.keys
    assert len(keys.get([(one, ORDINARY_KEY) for one in erased])) == 2  # nobody reads with them: the log tells first
    assert book.retention.sweep().erased == 3
    assert set(book.erasures.all()) == customers
    assert keys.get([(one, ORDINARY_KEY) for one in customers]) == {}


def test_a_sweep_rotates_the_wrapping_key_once(book: Book, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotating takes time for each key of the book: a sweep of many would take it many times."""
    monkeypatch.setattr(retention, "AT_ONCE", 3)
    declare(book)
    customers = [book.customers.register(name=f"Ada {number}") for number in range(7)]
    clock.now = datetime(2024, 1, 1, tzinfo=UTC)
    before = book._core.storage.keys.wrapping()
    swept = book.retention.sweep()
    assert (swept.erased, swept.unfinished) == (7, ())
    keys = book._core.storage.keys
    assert len(keys.destroyed([(one, ORDINARY_KEY) for one in customers])) == 7
    assert not keys.outlived()
    rotations = list(book.follow(names=["book.wrapping_key_rotated"], timeout_s=0))
    assert len(rotations) == (0 if before is None else 1)
    assert book.erasures.receipt(customers[0]).unfinished == ()
    assert len(list(book.follow(names=["book.wrapping_key_rotated"], timeout_s=0))) == len(rotations)


def test_restricted_data_waits(book: Book, clock: Clock) -> None:
    declare(book)
    ada = book.customers.register(name="Ada")
    book.customers.restrict(ada, "needed_for_claims")
    clock.now = datetime(2024, 1, 1, tzinfo=UTC)
    [found] = book.retention.due().customers
    assert (found.ready, found.waits_for) == (False, ("restricted",))
    assert book.retention.sweep().erased == 0
    book.customers.lift_restriction(ada)
    assert book.retention.sweep().erased == 1


def test_what_has_another_period_stays_and_categories_without_a_schedule_are_named(book: Book, clock: Clock) -> None:
    book.retention.declare("names", "identity", purpose="crm", legal_basis="GDPR:5.1.e", period=1, unit="years")
    book.customers.register(name="Ada", email="ada@example.org")
    clock.now = datetime(2024, 1, 1, tzinfo=UTC)
    due = book.retention.due()
    [found] = due.customers
    assert (found.ready, found.whole, found.due, found.stays) == (True, False, ("identity",), ("contact",))
    assert (due.values, due.unscheduled) == (
        {"identity": 1}, ("contact", "transaction", "communication", "preference"),
    )  # fmt: skip
    assert book.retention.sweep().unscheduled == due.unscheduled


def test_the_end_of_a_relation_counts_from_when_it_was_recorded_to_have_ended(book: Book, clock: Clock) -> None:
    book.retention.declare(
        "left", "all", purpose="crm", legal_basis="GDPR:5.1.e", period=30, unit="days", since="end_of_relation"
    )
    ada, _ = book.customers.register(name="Ada"), book.customers.register(name="Bob")
    clock.now = datetime(2020, 6, 1, tzinfo=UTC)
    book.customers.end_relation(ada, "moved_away")
    assert book.retention.due("2020-06-30").customers == ()
    assert [one.customer_id for one in book.retention.due("2020-07-01").customers] == [ada]


def test_records_of_reads_past_their_period_are_counted(book: Book, clock: Clock) -> None:
    book.retention.declare("reads", "access_records", purpose="audit", legal_basis="GDPR:5.2", period=1, unit="years")
    ada = book.customers.register(name="Ada")
    book.profiles.get(ada)
    clock.now = datetime(2020, 6, 1, tzinfo=UTC)
    book.profiles.get(ada)
    assert [book.retention.due(at).access_records for at in ("2020-12-31", "2021-01-01", "2021-06-01")] == [0, 1, 2]


def test_schedules_are_told_and_withdrawn(book: Book) -> None:
    declare(book)
    position = book.position()
    declare(book)
    assert book.position() == position, "the same again records nothing"
    assert [one.schedule for one in book.retention.schedules()] == ["quiet"]
    book.retention.withdraw("quiet")
    assert book.retention.schedules() == []


def test_a_sweep_never_runs_ahead(book: Book, clock: Clock) -> None:
    declare(book)
    book.customers.register(name="Ada")
    with pytest.raises(Refused) as error:
        book.retention.sweep("2030-01-01")
    assert error.value.code == "effective_in_future"
    assert book.erasures.all() == []


def test_points_and_the_certificate_do_not_mind(book: Book, clock: Clock) -> None:
    book.rules.adopt("standard")
    ada = book.customers.register(name="Ada")
    book.loyalty.enrol(ada)
    book.customers.record_purchase(ada, [{"sku": "tea", "quantity": 1, "net_minor": 15_000}])
    declare(book)
    clock.now = datetime(2024, 1, 1, tzinfo=UTC)
    assert book.retention.sweep().erased == 1
    assert book.replay().holds
    book.loyalty.sweep()
    assert book.replay().holds


def test_what_an_erasure_kept_goes_when_its_time_is_over(book: Book, clock: Clock) -> None:
    declare(book)
    book.retention.declare(
        "invoices", "transaction", purpose="tax", legal_basis="HGB:257", period=10, unit="years", action="keep"
    )
    ada = book.customers.register(name="Ada")
    book.customers.record_purchase(ada, [{"sku": "tea", "quantity": 1, "net_minor": 500}], order_id="O-77")
    clock.now = datetime(2024, 1, 1, tzinfo=UTC)
    [due] = book.retention.due().customers
    assert (due.due, due.kept, due.ready) == (("identity",), ("transaction",), True)
    assert book.retention.sweep().erased == 1
    assert book.erasures.receipt(ada).kept_until == "2030-01-01T00:00:00Z"
    assert "O-77" in book.audit.subject_report(ada).json()
    assert book.retention.sweep().due == 0
    assert book.retention.due("2029-12-31T23:59:59Z").customers == ()
    clock.now = datetime(2030, 1, 1, tzinfo=UTC)
    [due] = book.retention.due().customers
    assert (due.customer_id, due.due, due.ready) == (ada, ("kept",), True)
    assert book.retention.sweep().erased == 1
    assert "O-77" not in book.audit.subject_report(ada).json()
    assert book.retention.sweep().due == 0
