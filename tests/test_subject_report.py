"""The subject report: complete by construction, for whatever field the registry will know."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import tallybook
from tallybook import Book, Refused
from tallybook.domain.customer import Customer, KeyCreated
from tallybook.domain.erasure import KEPT_KEY
from tallybook.domain.events import ENVELOPE, REGISTRY, Metadata

from .golden.make import fields_of

AT = 1_700_000_000_000_000
METADATA = Metadata(recorded_us=AT, actor="agent:planter", purpose="planting", channel="test")


@pytest.fixture
def book() -> Iterator[Book]:
    with tallybook.open("memory:") as opened, opened.acting("agent:dpo", purpose="subject_request"):
        yield opened


def plant(book: Book, subject: UUID) -> dict[tuple[str, str], tuple[str, str]]:
    """One event of every kind that holds personal data, each such field with a value of its own.

    By event and field: the value, and whose it is.
    """
    core = book._core
    # The key of what an erasure keeps, too.
    key_id, committed, key = core.keyring.key_for(subject, fresh=True, key_id=KEPT_KEY)
    core.keyring.keep({(subject, key_id): key})
    created = KeyCreated(
        originator_id=subject, originator_version=core.app.load(Customer, subject).version + 1, event_id=uuid4(),
        effective_us=AT, subject_id=subject, metadata=METADATA, key_id=key_id, commitment=committed,
    )  # fmt: skip
    core.app.log.append(core.app.codec.rows([created]))
    with book.acting("agent:lin", purpose="support"):
        another = book.customers.register()
    planted: dict[tuple[str, str], tuple[str, str]] = {}
    for number, (name, schema) in enumerate(sorted(REGISTRY.items()), 1):
        kind = schema.event_class
        if not kind.personal_fields:
            continue
        fields = fields_of(kind, number, frozenset(ENVELOPE))
        for field, mark in kind.personal_fields.items():
            value = f'<planted "{name}" {field} & №{number}>'
            fields[field] = value
            planted[name, field] = (value, "another" if mark.of else "subject")
            if mark.of:
                fields[mark.of] = another
        event = kind(
            originator_id=uuid4(), originator_version=1, event_id=uuid4(), effective_us=AT + number,
            subject_id=subject, metadata=METADATA, **fields,
        )  # fmt: skip
        core.app.log.append(core.app.codec.rows([event]))
    return planted


def strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, dict):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value


def cells(html: str) -> list[str]:
    """The cells of all tables, as text."""
    return [unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html, re.DOTALL)]


def test_every_personal_field_that_the_registry_knows_is_in_every_form(book: Book) -> None:
    ada = book.customers.register()
    planted = plant(book, ada)
    wanted = {(name, field) for name, one in REGISTRY.items() for field in one.event_class.personal_fields}
    assert planted.keys() == wanted
    assert len(wanted) > 20
    report = book.audit.subject_report(ada)
    for form in (report.json(), report.portable()):
        found = set(strings(json.loads(form)))
        assert {key for key, (value, of) in planted.items() if (value in found) != (of == "subject")} == set()
    shown = set(cells(report.html()))
    assert {key for key, (value, of) in planted.items() if (value in shown) != (of == "subject")} == set()
    marks = {
        (one.name, field.name): (field.category, field.sensitivity) for one in report.events for field in one.fields
    }
    for name, schema in REGISTRY.items():
        for field, mark in schema.event_class.personal_fields.items():
            if not getattr(mark, "of", None):
                assert marks[name, field] == (mark.category.value, mark.sensitivity.value)


def test_every_clear_field_is_in_it_too(book: Book) -> None:
    ada = book.customers.register()
    plant(book, ada)
    report = book.audit.subject_report(ada)
    named = {(entry.name, field.name) for entry in report.events for field in entry.fields}
    for name in {entry.name for entry in report.events if entry.actor == "agent:planter"}:
        assert {field for field in REGISTRY[name].event_class.clear_fields if (name, field) not in named} == set()


@pytest.fixture
def lived(book: Book) -> tuple[Book, UUID, UUID]:
    """Ada, with something of everything, and Bob beside her."""
    customers = book.customers
    book.rules.adopt("standard", effective_at="2019-01-01T00:00:00Z")
    ada = customers.register(
        name="Ada Byron", email="ada@example.org", identifiers={"crm": "A-1"}, effective_at="2020-01-01T00:00:00Z"
    )
    bob = customers.register(name="Bob Secret", phone="+49 555 019 9", identifiers={"crm": "B-1"})
    book.tickets.open(bob, subject="Bobs ticket", text="Bobs text")
    book.loyalty.enrol(ada, effective_at="2020-01-01T00:00:00Z")
    bought = customers.record_purchase(
        ada, [{"sku": "tea", "quantity": 2, "net_minor": 15_000}], order_id="O-77", effective_at="2020-02-01T00:00:00Z"
    )
    customers.record_return(ada, {1: 1}, purchase_id=bought.purchase_id, effective_at="2020-02-03T00:00:00Z")
    customers.change(ada, name="Ada Lovelace", effective_at="2020-03-01T00:00:00Z")
    customers.record_interaction(ada, "enquiry", text="Asked for tea")
    customers.record_interaction(ada, "campaign", direction="out", text="Told her of coffee")
    ticket = book.tickets.open(ada, kind="complaint", subject="Broken cup", text="The cup came broken")
    book.tickets.assign(ticket, "agent:lin")
    book.tickets.reply(ticket, "We send another")
    customers.grant_consent(ada, "marketing", source="web", text_version="terms-3")
    customers.withdraw_consent(ada, "marketing")
    customers.restrict(ada, "accuracy_contested")
    customers.object_to(ada, "automated_decisions")
    customers.record_request(ada, "access", channel="mail")
    book.retention.declare(
        "invoices", "transaction", purpose="tax", legal_basis="HGB:257", period=10, unit="years", action="keep"
    )
    book.profiles.get(ada)
    book.profiles.segments(system="crm")
    return book, ada, bob


def test_it_tells_by_topic_what_is_held_and_why(lived: tuple[Book, UUID, UUID]) -> None:
    book, ada, _ = lived
    data = json.loads(book.audit.subject_report(ada).json())
    profile = {one["field"]: one for one in data["profile"]}
    assert (profile["name"]["value"], profile["name"]["since"]) == ("Ada Lovelace", "2020-03-01T00:00:00Z")
    assert (profile["contact email"]["value"], profile["contact email"]["category"]) == ("ada@example.org", "contact")
    assert profile["external_id crm"]["value"] == "A-1"
    assert [one["value"] for one in data["profile_history"] if one["field"] == "name"] == ["Ada Byron", "Ada Lovelace"]
    [consent] = data["consents"]
    assert (consent["text_version"], consent["in_force"], bool(consent["withdrawn_at"])) == ("terms-3", False, True)
    assert (data["restricted"], [one["to"] for one in data["objections"]]) == (True, ["automated_decisions"])
    assert [one["kind"] for one in data["requests"]] == ["access"]
    assert [one["values"]["order_id"] for one in data["purchases"]] == ["O-77"]
    assert len(data["returns"]) == 1
    assert [one["values"]["text"] for one in data["interactions"]] == ["Asked for tea", "Told her of coffee"]
    [ticket] = data["tickets"]
    assert {"Broken cup", "The cup came broken", "We send another"} <= set(strings(ticket))
    [account] = data["accounts"]
    assert account["programme"] == "main"
    assert account["active"] == book.loyalty.balance(ada)
    assert [one["schedule"] for one in data["retention"]] == ["invoices"]
    assert data["exports"] == []


def test_every_decision_comes_with_its_rules_and_its_inputs(lived: tuple[Book, UUID, UUID]) -> None:
    book, ada, _ = lived
    data = json.loads(book.audit.subject_report(ada).json())
    names = {event["event_id"]: event["name"] for event in data["events"]}
    decisions = data["decisions"]
    assert {one["what"] for one in decisions} >= {
        "loyalty.points_earned", "loyalty.earning_reversed", "loyalty.tier_changed",
    }  # fmt: skip
    rule_sets = {one["rule_set"] for one in data["rule_sets"]}
    for decision in decisions:
        assert decision["values"]["rules"] in rule_sets
        assert all(fact in names for fact in decision["values"]["facts"])
    [rules] = data["rule_sets"]
    assert rules["document"]["earning"]


def test_it_tells_who_looked_and_is_itself_one_recorded_read(lived: tuple[Book, UUID, UUID]) -> None:
    book, ada, bob = lived
    before = book._core.gate.reads.position()
    data = json.loads(book.audit.subject_report(ada).json())
    assert book._core.gate.reads.position() == before + 1
    assert [(one["what"], one["by"], one["purpose"]) for one in data["consulted"]] == [
        ("profiles.get", "agent:dpo", "subject_request"),
        ("audit.subject_report", "agent:dpo", "subject_request"),
    ]
    last = [entry for entry in book.audit.trail(ada) if entry.log == "reads"][-2]
    assert last.action == "read:audit.subject_report"
    assert {"name", "text", "order_id", "contact.email", "identifier.crm", "subject"} <= set(last.fields)
    assert [entry for entry in book.audit.trail(bob) if entry.action == "read:audit.subject_report"] == []


def test_a_bulk_read_is_told_without_the_others_in_it(book: Book) -> None:
    ada = book.customers.register(identifiers={"crm": "A-1"})
    bob = book.customers.register(identifiers={"crm": "B-1"})
    for one in (ada, bob):
        book.customers.record_purchase(one, [{"sku": "tea", "quantity": 1, "net_minor": 100}])
    book.profiles.segments(system="crm")
    report = book.audit.subject_report(ada)
    bulk = next(one for one in json.loads(report.json())["consulted"] if one["what"] == "profiles.segments")
    assert bulk["with_others"] == 1
    for form in (report.json(), report.html(), report.portable()):
        assert str(bob) not in form


def test_nothing_of_anybody_else_is_in_it(lived: tuple[Book, UUID, UUID]) -> None:
    book, ada, bob = lived
    report = book.audit.subject_report(ada)
    for form in (report.json(), report.html(), report.portable()):
        assert not [one for one in ("Bob", "555 019", "5550199", "B-1", "Bobs", str(bob)) if one in form]


def test_the_portable_copy_keeps_apart_what_the_person_provided_and_what_was_derived(
    lived: tuple[Book, UUID, UUID],
) -> None:
    book, ada, _ = lived
    report = book.audit.subject_report(ada)
    copy = json.loads(report.portable())
    assert (copy["schema"], copy["subject"]) == ("tallybook/portable-copy@1", str(ada))
    provided = set(strings(copy["provided_by_you"]))
    derived = set(strings(copy["derived"]))
    assert {"Ada Lovelace", "ada@example.org", "O-77", "Asked for tea", "The cup came broken", "terms-3"} <= provided
    assert {"We send another", "Told her of coffee", "loyalty.points_earned", "customer.restricted"} <= derived
    assert not {"loyalty.points_earned", "We send another"} & provided
    assert len(copy["provided_by_you"]) + len(copy["derived"]) == len(report.events)


def test_after_an_erasure_it_shows_what_was_erased_and_goes_on(lived: tuple[Book, UUID, UUID]) -> None:
    book, ada, _ = lived
    book.erasures.erase(ada, reason="gdpr-17", even_so="subject-insists")
    report = book.audit.subject_report(ada)
    for form in (report.json(), report.html(), report.portable()):
        assert "(erased)" in form
        assert not [one for one in ("Lovelace", "ada@example.org", "cup") if one in form]
    data = json.loads(report.json())
    assert [one["values"]["reason"] for one in data["erasures"]] == ["gdpr-17"]
    # What the schedule keeps is told, and where it came from it is gone.
    [kept] = data["kept"]
    assert (kept["values"]["field"], kept["values"]["value"], kept["values"]["schedule"]) == (
        "order_id", "O-77", "invoices",
    )  # fmt: skip
    assert [one["values"]["order_id"] for one in data["purchases"]] == ["(erased)"]
    assert {one["value"] for one in data["profile"] if one["category"]} == {"(erased)"}
    assert data["accounts"][0]["active"] == book.loyalty.balance(ada)


def test_somebody_must_act_and_the_customer_be_there(book: Book) -> None:
    with pytest.raises(Refused) as error:
        book.audit.subject_report(uuid4())
    assert error.value.code == "unknown_customer"
    with tallybook.open("memory:") as other, pytest.raises(Refused) as error:
        other.audit.subject_report(uuid4())
    assert error.value.code == "acting_required"


def test_files_that_hold_it_are_for_their_owner_only(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from tallybook.cli import app

    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as opened, opened.acting("agent:dpo", purpose="setup"):
        opened.customers.register(name="Ada", identifiers={"crm": "A-1"})
    files = {name: tmp_path / f"{name}.file" for name in ("html", "out", "portable")}
    given = [part for name, place in files.items() for part in (f"--{name}", str(place))]
    who = ["--book", url, "--actor", "agent:dpo", "--purpose", "request"]
    done = CliRunner().invoke(app, ["subject-report", "crm:A-1", *given, *who])
    assert done.exit_code == 0, done.output
    for place in files.values():
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert "Ada" in place.read_text(encoding="utf-8")
    assert json.loads(CliRunner().invoke(app, ["subject-report", "crm:A-1", "--json", *who]).stdout)["profile"]
    assert "Everything that is recorded" in CliRunner().invoke(app, ["subject-report", "crm:A-1", *who]).stdout


def test_exports_that_held_the_subject_are_told_and_others_are_not(book: Book) -> None:
    ada = book.customers.register(name="Ada")
    upto = book.position()
    book.customers.register(name="Bob")
    core = book._core
    for start, end in ((1, upto), (upto + 1, book.position())):
        core.gate.exported(
            core.gate_metadata(core.acting_now()), format="ocel", digest=f"{start:064}", count=1, from_position=start,
            to_position=end,
        )  # fmt: skip
    [found] = json.loads(book.audit.subject_report(ada).json())["exports"]
    assert (found["what"], found["format"], found["digest"], found["by"]) == (
        "access.exported", "ocel", f"{1:064}", "agent:dpo",
    )  # fmt: skip


def test_a_report_that_a_policy_left_gaps_in_says_so(book: Book) -> None:
    ada = book.customers.register(name="Ada Lovelace", email="ada@example.org")
    assert json.loads(book.audit.subject_report(ada).json())["withheld"] == 0
    book.policy.grant("agent:dpo", "dpo")
    book.policy.adopt(
        {
            "name": "house",
            "version": "1",
            "purposes": {"subject_request": {"text": "Answers to those whose data it is", "basis": "legal_obligation"}},
            "rules": [
                {
                    "id": "names", "roles": ["dpo"], "purposes": ["subject_request"], "actions": ["audit.*"],
                    "fields": ["name"], "commands": ["policy.*"],
                },
            ],
        }
    )  # fmt: skip
    report = book.audit.subject_report(ada)
    values = {one.name: one.value for entry in report.events for one in entry.fields if one.personal}
    assert values == {"name": "Ada Lovelace", "value": "(withheld: denied)"}
    assert json.loads(report.json())["withheld"] == 1
    assert "NOT COMPLETE: 1 values were withheld" in report.html()


def test_the_page_on_it_names_every_key(lived: tuple[Book, UUID, UUID]) -> None:
    book, ada, _ = lived
    page = (Path(__file__).parent.parent / "docs" / "subject-report.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    report = book.audit.subject_report(ada)
    data, copy = json.loads(report.json()), json.loads(report.portable())
    assert (data["schema"], f"`{data['schema']}`" in page, f"`{copy['schema']}`" in page) == (
        "tallybook/subject-report@1", True, True,
    )  # fmt: skip
    keys = {*data, *copy, *copy["derived"][0], *data["profile"][0], *data["events"][0]["fields"][0]}
    assert keys - named == set()
