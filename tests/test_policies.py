"""Access policies over the doors: names are checked, the shipped one reaches all, hours, masks in every answer."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tools.matrix import MATRIX, matrix
from tools.reference import DESKS, public

import tallybook
from tallybook import Book, Masked, PolicyError, Refused, Withheld, cli
from tallybook.adapters.policy_files import decider, load_policy
from tallybook.commands import Desk, Work, command
from tallybook.domain.access import KEEPING, CommandDenied, PersonalDataRead
from tallybook.domain.policy import ALLOW
from tallybook.policy_names import ACTIONS, check_names, commands
from tallybook.projections.audit_replay import READ_ACTIONS

from .conftest import STANDARD

ROOT = Path(__file__).parent.parent
SHOP = load_policy("shop")
PURPOSES = {"support": {"text": "Answering", "basis": "contract"}}
ADMINS = {"id": "admins", "roles": ["admin"], "commands": ["*"]}


def policy(*rules: dict[str, Any], **purpose: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": "test",
        "version": "1",
        "purposes": {"support": {**PURPOSES["support"], **purpose}, "office": PURPOSES["support"]},
        "rules": [ADMINS, *rules],
    }
    return document


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            {"fields": ["*"], "actions": ["profles.get"]},
            "rules.1.actions.0: there is no action 'profles.get'; did you mean profiles.get",
        ),
        (
            {"fields": ["*"], "actions": ["profiles.get", "ticket.*"]},
            "rules.1.actions.1: 'ticket.*' fits no action; did you mean tickets.*",
        ),
        (
            {"commands": ["policy.*", "customers.regster"]},
            "rules.1.commands.1: there is no command 'customers.regster'; did you mean customers.register",
        ),
        ({"commands": ["customer.*"]}, "rules.1.commands.0: 'customer.*' fits no command; did you mean customers.*"),
        ({"commands": ["customers"]}, "rules.1.commands.0: there is no command 'customers'"),
        ({"commands": ["profiles.get"]}, "rules.1.commands.0: there is no command 'profiles.get'"),
    ],
)
@pytest.mark.parametrize("effect", ["allow", "deny"])
def test_a_rule_that_names_what_is_not_there_is_refused(
    book: Book,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rule: dict[str, Any],
    said: str,
    effect: str,
) -> None:
    wrong = policy({"id": "mistyped", "roles": ["support"], "effect": effect, **rule})
    with pytest.raises(PolicyError) as caught:
        book.policy.adopt(wrong)
    assert said in str(caught.value)
    assert book.policy.in_force() is None
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(wrong))
    monkeypatch.setattr(sys, "argv", ["tallybook", "policy", "check", str(file)])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    assert stop.value.code == 2
    assert said.partition(":")[0] in capsys.readouterr().err


def test_a_document_that_was_parsed_before_is_checked_too(book: Book) -> None:
    document = load_policy(policy({"id": "a", "roles": ["*"], "commands": ["tickets.opn"]}))
    with pytest.raises(PolicyError, match=r"test@1: rules\.1\.commands\.0"):
        book.policy.check(document)


def test_entities_that_rules_in_cedar_name_are_checked() -> None:
    pytest.importorskip("cedarpy")

    def check(text: str) -> None:
        document = load_policy({"name": "c", "version": "1", "purposes": PURPOSES, "cedar": text})
        check_names(document, "c")

    for right in (
        'permit (principal, action == Action::"read", resource == Field::"contact.email");',
        'permit (principal, action, resource) when { resource != Command::"tickets.open" };',
    ):
        check(right)
    for wrong, said in (
        ('forbid (principal, action == Action::"raed", resource);', "there is no action 'raed'; did you mean read"),
        ('forbid (principal, action, resource == Field::"nmae");', "there is no field 'nmae'; did you mean name"),
        ('forbid (principal, action, resource == Field::"contact.*");', "'contact.*' fits no field"),
        ('permit (principal, action, resource) when { resource != Command::"tickets.opn" };', "'tickets.opn'"),
    ):
        with pytest.raises(PolicyError) as caught:
            check(wrong)
        assert said in str(caught.value)


def test_a_host_may_name_its_own_commands() -> None:
    wanted = policy({"id": "own", "roles": ["*"], "commands": ["parcels.send"]})
    document = load_policy(wanted)
    with pytest.raises(PolicyError):
        check_names(document, "own")

    class Parcels(Desk):
        _name = "parcels"

        @command
        def send(self, work: Work, parcel: str) -> None: ...

    assert "parcels.send" in commands()
    check_names(document, "own")


def test_every_action_that_is_recorded_has_its_name() -> None:
    """All literals that a door gives to the gate."""
    seen: set[str] = set()
    for file in (ROOT / "src" / "tallybook").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("open", "record", "bulk", "opened", "_begin")
                and "core" in ast.unparse(node.func) + "core" * (node.func.attr == "_begin")
            ):
                seen |= {
                    one.value
                    for one in node.args
                    if isinstance(one, ast.Constant) and isinstance(one.value, str) and "." in one.value
                }
    assert {"profiles.get", "audit.trail", "export.ocsf", "customers.privacy"} <= seen
    assert seen <= ACTIONS.keys()
    assert set(READ_ACTIONS) - ACTIONS.keys() == {KEEPING}, "no policy applies to what the book does for itself"


# ── the policy that ships ─────────────────────────────────────────────────────────────────────────────────────────


def test_every_desk_method_is_reachable_by_some_role_of_the_shipped_policy() -> None:
    """Commands and what reads; all else is not governed (tests/test_doors.py shows that it gives nothing personal)."""
    decides = decider(SHOP.language, SHOP.canonical())
    roles = [frozenset([role]) for rule in SHOP.rules or () for role in rule.roles]
    governed = {
        f"{path.removeprefix('book.')}.{name}"
        for path, desk in DESKS.items()
        for name, member in public(desk)
        if isinstance(member, command)
    }
    assert governed <= commands()
    for one in commands() - {"parcels.send"}:
        given = [decides.command(role, purpose, one).effect for role in roles for purpose in SHOP.purposes]
        assert ALLOW in given, one
    for action in ACTIONS:
        assert any(
            decides.decide(role, purpose, action).permitted is not None for role in roles for purpose in SHOP.purposes
        ), action


def test_the_data_protection_officer_does_what_the_law_demands(book: Book) -> None:
    ada = book.customers.register(name="Ada Lovelace", birth_date="1815-12-10", email="ada@example.org")
    bob = book.customers.register(name="Bob")
    book.policy.grant("admin:root", "admin")
    book.policy.grant("dpo:kim", "dpo")
    book.policy.grant("auditor:jo", "auditor")
    book.policy.adopt("shop")
    with book.acting("dpo:kim", purpose="subject_rights"):
        book.customers.restrict(ada, "unlawful")
        assert book.audit.subject_report(ada).data["withheld"] == 0
        assert book.audit.replay(ada, book._core.at_positions([1])[0].event.recorded_at).document
        book.audit.review("subject-access", subject=ada)
        request = book.customers.record_request(ada, "erasure")
        book.retention.declare("all", "all", purpose="support", legal_basis="GDPR:17", period=1, unit="years")
        receipt = book.erasures.erase(ada, reason="request", request_id=request, even_so="subject-insists")
        book.customers.complete_request(ada, request)
        assert receipt.position
        with pytest.raises(Refused, match="access_denied"):
            book.policy.withdraw()
        with pytest.raises(Refused, match="access_denied"):
            book.customers.register(name="Eve")
    with book.acting("auditor:jo", purpose="audit"):
        assert book.audit.review("access-review").sections
        with pytest.raises(Refused, match="access_denied"):
            book.erasures.erase(bob, reason="curiosity")


def test_nobody_but_who_audits_and_answers_subjects_sees_the_trail_or_exports() -> None:
    """A mask gives what it shows: one that names no actions opens every door to its field."""
    decides = decider(SHOP.language, SHOP.canonical())
    for role in {role for rule in SHOP.rules or () for role in rule.roles} - {"auditor", "dpo", "admin"}:
        for purpose in SHOP.purposes:
            for action in ACTIONS:
                if action.startswith(("audit.", "export.")):
                    assert decides.decide(frozenset([role]), purpose, action).permitted is None, (role, purpose, action)


def test_the_matrix_in_the_docs_is_the_shipped_policy() -> None:
    page = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")
    assert matrix(SHOP) in page, f"put what `python -m tools.matrix` prints under {MATRIX!r} in docs/access.md"


# ── hours ─────────────────────────────────────────────────────────────────────────────────────────────────────────

MONDAY_NOON_US = 1_767_614_400_000_000  # 2026-01-05T12:00Z
HOUR_US = 3_600_000_000


@pytest.mark.parametrize("enforced", [True, False])
def test_a_purpose_can_enforce_its_hours(tmp_path: Path, enforced: bool) -> None:
    now = [MONDAY_NOON_US]
    everything = {"id": "see", "roles": ["support"], "fields": ["*"], "commands": ["customers.*"]}
    audits = {"id": "audit", "roles": ["admin"], "purposes": ["office"], "actions": ["audit.*"], "fields": ["*"]}
    with (
        tallybook.open(f"sqlite:///{tmp_path}/shop.book", now_us=lambda: now[0]) as book,
        book.acting("agent:lin", purpose="support"),
    ):
        ada = book.customers.register(name="Ada")
        with book.acting("admin:root", purpose="office"):
            book.policy.grant("admin:root", "admin")
            book.policy.grant("agent:lin", "support")
            book.policy.adopt(policy(everything, audits, hours=["Mon-Fri 08:00-18:00"], enforce_hours=enforced))
        assert book.profiles.get(ada)["name"] == "Ada"
        now[0] += 6 * HOUR_US
        if not enforced:
            assert book.profiles.get(ada)["name"] == "Ada"
            book.customers.change(ada, note="late")
            return
        for call in (lambda: book.profiles.get(ada), lambda: book.customers.change(ada, note="late")):
            with pytest.raises(Refused) as caught:
                call()
            assert (caught.value.code, caught.value.values["reason"]) == ("access_denied", "outside_hours")
        read, denied = [one.event for one in book._core.reads()][-2:]
        assert isinstance(read, PersonalDataRead)
        assert isinstance(denied, CommandDenied)
        assert (read.outcome, read.fields, read.rules, denied.rules) == ("denied", (), (), ())
        assert read.policy == denied.policy
        told = book.policy.explain("agent:lin", "support", "profiles.get")
        assert {one.effect for one in told.fields} == {"deny"}
        at_us = now[0]
        now[0] += HOUR_US
        with book.acting("admin:root", purpose="office"):
            review = repr(book.audit.review("access-review").sections)
            replayed = book.audit.replay(ada, datetime.fromtimestamp(at_us / 1e6, UTC)).document
        assert "profiles.get is outside of the hours of support" in review
        [lin] = [one for one in replayed["access"]["actors"] if one["actor"] == "agent:lin"]
        assert {one["reason"] for one in lin["could_see"] if one["purpose"] == "support"} == {"outside_hours"}
        now[0] -= HOUR_US
        now[0] += 14 * HOUR_US
        assert book.profiles.get(ada)["name"] == "Ada"
        book.customers.change(ada, note="in time")


def test_hours_that_are_enforced_must_be_given() -> None:
    with pytest.raises(PolicyError, match=r"purposes\.support: enforce_hours"):
        load_policy(policy(enforce_hours=True))


# ── masked and withheld in every answer ───────────────────────────────────────────────────────────────────────────

PARTS = {
    "id": "parts", "roles": ["support"], "effect": "mask",
    "fields": ["birth_date", "contact.*", "identifier.*", "order_id", "text"],
}  # fmt: skip
REST = {
    "id": "rest", "roles": ["support"],
    "fields": ["name", "subject"],
}  # fmt: skip
SECRETS = {
    "birth_date": "1815-12-10", "email": "ada.lovelace@example.org", "identifier": "C-123456-9876",
    "order": "ORDER-4711-0815", "text": "I like engines very much", "note": "pays late, mind her",
}  # fmt: skip


@pytest.fixture
def masked(tmp_path: Path) -> Iterator[tuple[Book, UUID, UUID, Path]]:
    path = tmp_path / "shop.book"
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("agent:lin", purpose="support"):
        book.rules.adopt(STANDARD, effective_at="2020-01-01T00:00:00Z")
        ada = book.customers.register(
            name="Ada Lovelace", birth_date=SECRETS["birth_date"], note=SECRETS["note"], email=SECRETS["email"],
            identifiers={"crm": SECRETS["identifier"]},
        )  # fmt: skip
        book.customers.record_purchase(ada, [{"sku": "cd", "quantity": 1, "net_minor": 500}], order_id=SECRETS["order"])
        ticket = book.tickets.open(ada, subject="Greetings to all", text=SECRETS["text"])
        book.policy.grant("admin:root", "admin")
        book.policy.grant("agent:lin", "support")
        book.policy.adopt(policy(PARTS, REST))
        yield book, ada, ticket, tmp_path


def clean(answer: str) -> None:
    for name, secret in SECRETS.items():
        assert secret not in answer, name


def last_read(book: Book) -> PersonalDataRead:
    record = [one.event for one in book._core.reads() if isinstance(one.event, PersonalDataRead)][-1]
    assert (record.outcome, "name" in record.masked, "birth_date" in record.fields) == ("released", False, False)
    return record


def test_a_subject_report_shows_no_more_than_is_allowed_and_says_so(masked: tuple[Book, UUID, UUID, Path]) -> None:
    book, ada, _, _ = masked
    report = book.audit.subject_report(ada)
    for shown in (report.json(), report.html(), repr(report)):
        clean(shown if isinstance(shown, str) else shown.decode())
    assert "Ada Lovelace" in str(report.json())
    record = last_read(book)
    assert record.withheld == ("note",)
    assert set(record.masked) == {"birth_date", "contact.email", "identifier.crm", "order_id", "text"}
    assert report.data["withheld"] == 6
    assert "1815" in str(report.json())
    assert "(withheld: denied)" in str(report.json())


def test_an_audit_replay_shows_no_more_than_is_allowed_and_says_so(masked: tuple[Book, UUID, UUID, Path]) -> None:
    book, ada, _, _ = masked
    at = book._core.at_positions([book.position()])[0].event.recorded_at
    replay = book.audit.replay(ada, at)
    for shown in (replay.json().decode(), replay.html()):
        clean(shown)
    text = replay.json().decode()
    assert '{"masked":"1815' in text
    assert '{"withheld":"denied"}' in text
    assert "Ada Lovelace" in text
    assert last_read(book).withheld == ("note",)


def test_a_clear_pack_shows_no_more_than_is_allowed_and_says_so(masked: tuple[Book, UUID, UUID, Path]) -> None:
    book, _, _, folder = masked
    book.audit.export(folder / "pack", sealed=False)
    files = [one for one in (folder / "pack").rglob("*") if one.is_file()]
    held = " ".join(one.read_text(errors="replace") for one in files)
    clean(held)
    assert "Ada Lovelace" in held
    assert '"masked"' in held
    assert last_read(book).withheld == ("note",)


@pytest.mark.parametrize("form", ["cloudevents", "ocsf", "ocel"])
def test_an_export_holds_no_personal_value_at_all(masked: tuple[Book, UUID, UUID, Path], form: str) -> None:
    book, _, _, folder = masked
    file = folder / "export"
    getattr(book.exports, form)(file)
    held = file.read_text()
    clean(held)
    assert "Ada Lovelace" not in held


def test_timeline_and_tickets_show_no_more_than_is_allowed(masked: tuple[Book, UUID, UUID, Path]) -> None:
    book, ada, ticket, _ = masked
    timeline = book.profiles.timeline(ada)
    clean(repr(timeline))
    texts = {name: value for one in timeline for name, value in one.texts.items()}
    assert texts["name"] == "Ada Lovelace"
    assert texts["note"] == Withheld(ada, "denied")
    assert isinstance(texts["birth_date"], Masked)
    assert isinstance(texts["order_id"], Masked)
    assert last_read(book).withheld == ("note",)
    read = book.tickets.read(ticket)
    clean(repr(read))
    assert "Greetings to all" in repr(read)
    assert isinstance(read[0].texts["text"], Masked)
    assert last_read(book).masked == ("text",)


def test_segments_by_external_id_show_no_more_than_is_allowed(masked: tuple[Book, UUID, UUID, Path]) -> None:
    book, _, _, _ = masked
    found = book.profiles.segments(system="crm")
    clean(repr(found))
    [(shown, _)] = found
    assert shown.endswith("9876")
    assert last_read(book).masked == ("identifier.crm",)
    with book.acting("admin:root", purpose="office"):
        book.policy.adopt({**policy({**REST, "actions": ["profiles.get"]}), "version": "2"})
    with pytest.raises(Refused, match="access_denied"):
        book.profiles.segments(system="crm")


def test_a_bulk_read_for_a_consent_releases_those_who_gave_it(book: Book) -> None:
    book.rules.adopt(STANDARD, effective_at="2020-01-01T00:00:00Z")
    people = [book.customers.register(name=f"Person {n}", identifiers={"crm": f"CUSTOMER-{n}"}) for n in range(6)]
    for one in people:
        book.customers.record_purchase(one, [{"sku": "cd", "quantity": 1, "net_minor": 500}])
    for one in people[:3]:
        book.customers.grant_consent(one, "marketing", source="web", text_version="v1")
    book.customers.withdraw_consent(people[2], "marketing")
    book.customers.restrict(people[1], "unlawful")
    book.policy.grant("admin:root", "admin")
    book.policy.grant("agent:mia", "marketing")
    book.policy.adopt("shop")
    with book.acting("agent:mia", purpose="marketing"):
        shown = [name for name, _ in book.profiles.segments(system="crm")]
    assert [name for name in shown if name.startswith("CUSTOMER")] == ["CUSTOMER-0"]
    assert set(shown) - {"CUSTOMER-0"} == {"(withheld: no_consent)"}
    record = [one.event for one in book._core.reads() if isinstance(one.event, PersonalDataRead)][-1]
    said = dict(zip(record.subjects, record.consents, strict=True))
    assert said == {one: "v1" if one == people[0] else "-" for one in people if one != people[1]}
