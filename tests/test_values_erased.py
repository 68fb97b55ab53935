"""Single values past their period are erased, and all else of the customer stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

import tallybook
from tallybook import Book, Erased
from tallybook.domain.customer import KeyCreated
from tallybook.domain.erasure import ValueResealed, ValuesErased
from tallybook.domain.events import to_us

from .conftest import STANDARD

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


def kept_up(book: Book) -> None:
    """Everything agrees with everything else."""
    assert all(one.holds for one in book.audit.verify())
    assert book.replay().holds
    assert all(one.holds for one in book.audit.verify_read_models())
    mine = ("versions", "server", "space")  # of the machine, not of the book
    assert [one for one in book.doctor() if one.state != "ok" and one.name not in mine] == []


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
    assert book._core.app.load(tallybook.domain.Customer, ada).erased_keys == (1, 3)
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
    asked = queries(book, monkeypatch)
    assert [name for name, _ in book.profiles.segments(system="crm").customers] == sorted(
        f"C{one}" for one in range(30)
    )
    assert sum("topic=?" in one and "originator_id IN" in one for one in asked) == 1
