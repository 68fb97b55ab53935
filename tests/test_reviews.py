"""The ten reviews, on a story whose every row was counted by hand; in each form, empty, denied, erased."""

from __future__ import annotations

import csv
import json
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import Book, Refused, cli
from tallybook.adapters.reports import Report, as_html, as_json, write_csv
from tallybook.domain.events import REGISTRY, Fact, to_us
from tallybook.projections.access_review import COMMANDS_OF, KINDS
from tallybook.reviews import REVIEWS, Thresholds

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)

POLICY: dict[str, Any] = {
    "name": "house",
    "version": "1",
    "purposes": {
        "support": {"text": "Answering customers", "basis": "contract", "hours": ["Mon-Fri 08:00-18:00"]},
        "marketing": {"text": "Writing to customers", "basis": "consent", "consent": "marketing", "bulk": True},
        "audit": {"text": "Reviews", "basis": "legal_obligation", "during_restriction": True, "bulk": True},
        "administration": {"text": "Running the book", "basis": "legitimate_interests"},
    },
    "rules": [
        {"id": "answer", "roles": ["support"], "purposes": ["support"], "fields": ["name", "contact.*", "subject"],
         "commands": ["customers.*", "tickets.*", "erasures.*"]},
        {"id": "year", "effect": "mask", "roles": ["support"], "purposes": ["support"], "fields": ["birth_date"]},
        {"id": "write", "roles": ["marketing"], "purposes": ["marketing"], "fields": ["name", "contact.email"]},
        {"id": "look", "effect": "mask", "roles": ["auditor"], "purposes": ["audit"], "fields": ["*"]},
        {"id": "rule", "roles": ["admin"], "purposes": ["administration"], "commands": ["policy.*", "retention.*"]},
        {"id": "partner", "roles": ["partner"], "purposes": ["support"], "fields": ["name"]},
    ],
}  # fmt: skip


class Clock:
    """A clock that stands where it was put, and moves on by a second each time it is asked."""

    def __init__(self) -> None:
        self.us = to_us(MONDAY)

    def __call__(self) -> int:
        self.us += 1_000_000
        return self.us

    def set(self, day: int, hour: int, minute: int = 0) -> None:
        """So many days after the Monday."""
        self.us = to_us(MONDAY + timedelta(days=day, hours=hour, minutes=minute))


class Story(NamedTuple):
    """A book, and who is in it."""

    book: Book
    clock: Clock
    ada: UUID
    bob: UUID
    cyd: UUID
    dee: UUID


def tell(book: Book, clock: Clock, folder: Path) -> Story:
    """Two months of a small house. Records of reads: position 1 is the opening of the book."""
    clock.set(0, 8)
    with book.acting("admin:zoe", purpose="administration"):
        for actor, role in (("admin:zoe", "admin"), ("agent:lin", "support"), ("agent:bo", "support"),
                            ("mail:mia", "marketing"), ("audit:ann", "auditor")):  # fmt: skip
            book.policy.grant(actor, role)
        book.policy.grant("agent:kim", "support", until="2026-01-10T00:00:00Z")
        book.policy.adopt(POLICY)
        book.retention.declare(
            "identity-1m", "identity", purpose="support", legal_basis="GDPR:5.1.e", period=1, unit="months"
        )
    clock.set(0, 9)
    with book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada Lovelace", birth_date="1985-12-10", email="ada@example.org")
        bob = book.customers.register(name="Bob", email="bob@example.org")
        cyd = book.customers.register(name="Cyd")
        dee = book.customers.register(name="Dee")
        book.customers.grant_consent(
            ada, "marketing", source="web", text_version="v1", valid_until="2026-02-01T00:00:00Z", cross_border=True
        )
        book.customers.grant_consent(bob, "marketing", source="web", text_version="v1", separate=True)
        book.customers.grant_consent(cyd, "marketing", source="web", text_version="v1", confirmed=False)
        clock.set(1, 10)
        book.profiles.get(ada)  # 2: her own customer
        book.customers.change(ada, name="Ada King")
        book.customers.withdraw_consent(bob, "marketing")
        clock.set(1, 22)
        book.profiles.get(bob)  # 3: at night
    clock.set(2, 11)
    with book.acting("agent:kim", purpose="support"):
        book.profiles.get(dee)  # 4: nothing ties kim to dee
        book.profiles.get(dee)  # 5
    with book.acting("mail:mia", purpose="marketing"):
        book.profiles.get(ada)  # 6: with a consent
        with pytest.raises(Refused):
            book.profiles.get(bob)  # 7: withdrawn
        with pytest.raises(Refused):
            book.profiles.get(cyd)  # 8: not confirmed
    clock.set(7, 11)
    with book.acting("agent:kim", purpose="support"), pytest.raises(Refused):
        book.profiles.get(ada)  # 9: the role has ended
    with book.acting("mail:mia", purpose="support"), pytest.raises(Refused):
        book.customers.change(dee, name="Dora")  # 10: no such right
    clock.set(8, 9)
    with book.acting("agent:lin", purpose="support"):
        asked = book.customers.record_request(cyd, "erasure")
        late = book.customers.record_request(ada, "rectification", due="2026-01-20T00:00:00Z")
        book.customers.record_request(bob, "access")
        book.customers.restrict(dee, reason="disputed")
        with pytest.raises(Refused):
            book.profiles.get(dee)  # 11: restricted
        book.erasures.erase(cyd, reason="gdpr-17", request_id=asked)
        clock.set(20, 9)
        book.customers.complete_request(ada, late)
    clock.set(35, 10)
    with book.acting("mail:mia", purpose="marketing"), pytest.raises(Refused):
        book.profiles.get(ada)  # 12: expired
    with book.acting("agent:lin", purpose="support"):
        book.exports.cloudevents(folder / "events.jsonl", after=0, until=12)  # 13 (may he?), 14 (exported)
    with book.acting("audit:ann", purpose="audit"):
        book.audit.trail(ada)  # 15
    return Story(book, clock, ada, bob, cyd, dee)


@pytest.fixture(params=["sqlite", "server"])
def story(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Story]:
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    if request.param == "server":
        url = str(request.getfixturevalue("server_book_url"))
    clock = Clock()
    with tallybook.open(url, now_us=clock) as book:
        yield tell(book, clock, tmp_path)


def asked(story: Story, name: str, **given: Any) -> dict[str, list[dict[str, Any]]]:
    """A review by the auditor: by section, the rows of its JSON form."""
    with story.book.acting("audit:ann", purpose="audit"):
        return tables(story.book.audit.review(name, **given))


def tables(report: Report) -> dict[str, list[dict[str, Any]]]:
    said = json.loads(as_json(report))
    return {
        one["title"]: [dict(zip([c["name"] for c in one["columns"]], row, strict=True)) for row in one["rows"]]
        for one in said["sections"]
    }


def test_access_review_finds_what_was_done_and_nothing_else(story: Story) -> None:
    found = asked(story, "access-review")
    days = "nothing in the book ties the actor to the subject within 14 days of the read"
    ada, bob, cyd, dee = (str(one) for one in story[2:])
    rows = [
        (one["kind"], one["actor"], one["subjects"], one["first_position"], one["last_position"], one["count"],
         one["rule"])
        for one in found["findings"]
    ]  # fmt: skip
    assert rows == [
        ("snooping", "agent:kim", [dee], 4, 5, 2, days),
        ("outside_hours", "agent:lin", [bob], 3, 3, 1,
         "outside the hours of support: Mon-Fri 08:00-18:00 (UTC); the policy does not enforce them"),
        ("unused_right", "agent:bo", [], None, None, 0, "has the role support, and did nothing"),
        ("denied", "agent:kim", [ada], 9, 9, 1,
         "profiles.get for support is not allowed by house@1; the role support, which allowed it, had ended"),
        ("denied", "agent:lin", [dee], 11, 11, 1,
         "the data is restricted, and support does not go on meanwhile by house@1"),
        ("denied", "mail:mia", sorted([ada, bob, cyd]), 7, 12, 3,
         "marketing rests on a consent, and there was none by house@1"),
        ("denied", "mail:mia", [], 10, 10, 1,
         "the command customers.change for support is not allowed by house@1"),
        ("export", "agent:lin", [], 14, 14, 1,
         "data left the book for support, and house@1 does not mark it bulk: cloudevents-1.0"),
    ]  # fmt: skip
    assert {one["kind"]: one["findings"] for one in found["findings by kind"]} == {
        **dict.fromkeys(KINDS, 0), "snooping": 1, "outside_hours": 1, "unused_right": 1, "denied": 4, "export": 1,
    }  # fmt: skip
    assert [(one["actor"], one["denied"]) for one in found["findings by actor"]] == [
        ("agent:bo", 0), ("agent:kim", 1), ("agent:lin", 1), ("mail:mia", 2),
    ]  # fmt: skip
    assert [(one["role"], one["holders"], one["who used it"]) for one in found["Roles"]] == [
        ("admin", 1, 1), ("auditor", 1, 1), ("marketing", 1, 1), ("partner", 0, 0), ("support", 3, 2),
    ]  # fmt: skip
    assert [(one["role"], one["right"]) for one in found["Rights never used"]] == [
        ("support", "subject"), ("support", "command tickets.*"), ("auditor", "*"), ("partner", "name"),
    ]  # fmt: skip
    assert len(found["Exports"]) == 1
    assert [tuple(one.values()) for one in found["Withheld for lack of a consent"]] == [
        ("mail:mia", "marketing", "expired", 1), ("mail:mia", "marketing", "not confirmed", 1),
        ("mail:mia", "marketing", "withdrawn", 1),
    ]  # fmt: skip


def test_access_review_of_a_period_and_of_an_actor(story: Story) -> None:
    found = asked(story, "access-review", since="2026-01-12", until="2026-01-12", actor="agent:kim")
    assert [(one["kind"], one["first_position"]) for one in found["findings"]] == [("denied", 9)]
    # Within these days bo's role was unused, and so was marketing's: mia only tried.
    found = asked(story, "access-review", since="2026-01-12", until="2026-01-12")
    assert [(one["kind"], one["actor"]) for one in found["findings"] if one["kind"] == "unused_right"] == [
        ("unused_right", "admin:zoe"), ("unused_right", "agent:bo"), ("unused_right", "agent:lin"),
        ("unused_right", "audit:ann"), ("unused_right", "mail:mia"),
    ]  # fmt: skip
    assert [one["figure"] for one in found["Thresholds"]] == [14, 30, 3, 10, 90, 30, 7, 30]


def _found(book: Book, **given: Any) -> list[tuple[str, str]]:
    """Kinds and actors of the findings about looks."""
    with book.acting("audit:ann", purpose="audit"):
        found = tables(book.audit.review("access-review", **given))
    looks = ("snooping", "own_ties", "no_consent")
    return [(one["kind"], one["actor"]) for one in found["findings"] if one["kind"] in looks]


@pytest.mark.parametrize("how", ["a request", "a ticket", "an old ticket", "the owner", "a consent"])
def test_what_is_written_down_later_explains_no_look_whatever_time_it_is_given(how: str) -> None:
    clock = Clock()
    with tallybook.open("memory:", now_us=clock) as book:
        clock.set(0, 9)
        with book.acting("agent:reg", purpose="support"):
            star = book.customers.register(name="Star", effective_at="2025-12-01T00:00:00Z")
            old = book.tickets.open(star, subject="old")
        clock.set(40, 9)
        with book.acting("agent:eve", purpose="support"):
            book.profiles.get(star)
        clock.set(140, 9)
        assert _found(book) == [("snooping", "agent:eve")]
        before = "2026-02-01T09:00:00Z"
        with book.acting("agent:eve", purpose="support"):
            if how == "a request":
                book.customers.record_request(star, "access", effective_at=before)
            elif how == "a ticket":
                ticket = book.tickets.open(star, subject="call", effective_at=before)
                book.tickets.assign(ticket, "agent:eve", effective_at=before)
            elif how == "an old ticket":
                book.tickets.assign(old, "agent:eve", effective_at=before)
            elif how == "the owner":
                book.customers.change(star, owner="agent:eve", effective_at=before)
            else:
                book.customers.grant_consent(star, "support", source="web", text_version="v1", effective_at=before)
        assert _found(book) == [("snooping", "agent:eve")]


@pytest.mark.parametrize("how", ["a request", "a ticket", "the owner"])
def test_what_is_typed_in_late_accuses_nobody_who_looked_before(how: str) -> None:
    clock = Clock()
    with tallybook.open("memory:", now_us=clock) as book:
        clock.set(0, 9)
        with book.acting("agent:desk", purpose="support"):
            ada = book.customers.register(name="Ada")
            clock.set(30, 9)
            ticket = request = ada
            if how == "a request":
                request = book.customers.record_request(ada, "access")
            elif how == "a ticket":
                ticket = book.tickets.open(ada, subject="late")
                book.tickets.assign(ticket, "agent:kim")
            else:
                book.customers.change(ada, owner="agent:kim")
        clock.set(60, 9)
        with book.acting("agent:kim", purpose="support"):
            book.profiles.get(ada)  # as far as anybody knew, it was kim's business
        clock.set(61, 9)
        ended = "2026-02-05T09:00:00Z"
        with book.acting("agent:desk", purpose="support"):
            if how == "a request":
                book.customers.complete_request(ada, request, effective_at=ended)
            elif how == "a ticket":
                book.tickets.resolve(ticket, "solved", effective_at=ended)
                book.tickets.close(ticket, effective_at=ended)
            else:
                book.customers.change(ada, owner="agent:bo", effective_at=ended)
        assert _found(book) == []
        clock.set(90, 9)
        with book.acting("agent:kim", purpose="support"):
            book.profiles.get(ada)  # now it is over
        assert _found(book) == [("snooping", "agent:kim")]


def test_one_consent_does_not_turn_the_review() -> None:
    clock = Clock()
    with tallybook.open("memory:", now_us=clock) as book:
        tell_roles(book)
        clock.set(1, 10)
        with book.acting("agent:lin", purpose="support"):
            ada, bob, cyd = (book.customers.register(name=name) for name in ("Ada", "Bob", "Cyd"))
            book.profiles.get(ada)
        clock.set(60, 10)
        with book.acting("agent:kim", purpose="support"):
            book.profiles.get(bob)
            clock.set(61, 10)
            book.customers.grant_consent(cyd, "support", source="web", text_version="v1")
            book.profiles.get(ada)
        # The policy rests support on a contract, whatever somebody was asked for.
        assert _found(book) == [("snooping", "agent:kim")]


def tell_roles(book: Book, **purposes: Any) -> None:
    """A book with a policy, and who has which role."""
    with book.acting("admin:zoe", purpose="administration"):
        book.policy.grant("admin:zoe", "admin")
        for one in ("agent:lin", "agent:kim"):
            book.policy.grant(one, "support")
        book.policy.grant("mail:mia", "marketing")
        book.policy.grant("audit:ann", "auditor")
        book.policy.adopt({**POLICY, "purposes": {**POLICY["purposes"], **purposes}})


def test_a_purpose_is_judged_by_consents_from_when_it_was_declared_to_rest_on_one() -> None:
    clock = Clock()
    with tallybook.open("memory:", now_us=clock) as book:
        clock.set(0, 9)
        with book.acting("agent:lin", purpose="support"):
            ada, bob = book.customers.register(name="Ada"), book.customers.register(name="Bob")
            book.customers.grant_consent(bob, "marketing", source="web", text_version="v1")
        clock.set(30, 9)
        with book.acting("mail:mia", purpose="marketing"):
            book.profiles.get(bob)  # nobody had declared anything: bob's consent is what ties mia to him
        assert _found(book) == []
        with book.acting("agent:lin", purpose="support"):
            book.customers.withdraw_consent(bob, "marketing")
        clock.set(31, 9)
        with book.acting("mail:mia", purpose="marketing"):
            book.profiles.get(bob)
        assert _found(book) == [("snooping", "mail:mia")]
        clock.set(32, 9)
        interests = {"text": "Writing", "basis": "legitimate_interests", "bulk": True}
        tell_roles(book, marketing=interests)
        before = _found(book)
        with book.acting("mail:mia", purpose="marketing"):
            book.profiles.get(ada)
        assert _found(book) == before  # it rests on an interest
        with book.acting("admin:zoe", purpose="administration"):
            book.policy.adopt({**POLICY, "version": "2"})
            book.policy.withdraw()
        assert _found(book) == before
        clock.set(33, 9)
        with book.acting("mail:mia", purpose="marketing"):
            book.profiles.get(ada)  # none is in force: by the last, it rests on a consent
        [*others, last] = _found(book)
        assert [*others, last] == [*before, ("no_consent", "mail:mia")]
        with book.acting("audit:ann", purpose="audit"):
            rows = tables(book.audit.review("access-review"))["findings"]
        assert [one["count"] for one in rows if one["kind"] == "no_consent"] == [1]


def test_whoever_did_nothing_for_long_is_dormant(story: Story) -> None:
    story.clock.set(120, 9)
    found = asked(story, "access-review", thresholds=Thresholds(dormant_days=90))
    rows = [(one["actor"], one["last_position"], one["rule"]) for one in found["findings"] if one["kind"] == "dormant"]
    assert rows == [("admin:zoe", None, "has the role admin, and did nothing for 90 days")]
    found = asked(story, "access-review", thresholds=Thresholds(dormant_days=80))
    assert [one["actor"] for one in found["findings"] if one["kind"] == "dormant"] == [
        "admin:zoe", "agent:lin", "mail:mia",
    ]  # fmt: skip


def test_consents_at_a_time_as_known_then(story: Story) -> None:
    ada, bob, cyd = str(story.ada), str(story.bob), str(story.cyd)
    first = asked(story, "consent-at", at="2026-01-05")
    assert [(one["subject"], one["separate"], one["cross-border"]) for one in first["In force"]] == [
        (ada, "no", "yes"), (bob, "yes", "no"),
    ]  # fmt: skip
    assert [(one["subject"], one["state"]) for one in first["Not in force"]] == [(cyd, "not confirmed")]
    second = asked(story, "consent-at", at="2026-01-07")
    assert [one["subject"] for one in second["In force"]] == [ada]
    assert [(one["subject"], one["state"]) for one in second["Not in force"]] == [
        (bob, "withdrawn"), (cyd, "not confirmed"),
    ]  # fmt: skip
    now = asked(story, "consent-at")
    assert now["In force"] == []
    assert [(one["subject"], one["state"], one["erased"]) for one in now["Not in force"]] == [
        (ada, "expired", "no"), (bob, "withdrawn", "no"), (cyd, "not confirmed", "yes"),
    ]  # fmt: skip
    assert second["By purpose"] == [
        {"purpose": "marketing", "in force": 1, "subjects": 1, "separate": 0, "cross-border": 1, "not in force": 2}
    ]
    assert asked(story, "consent-at", at="2026-01-04")["By purpose"] == []
    assert [one["subject"] for one in asked(story, "consent-at", subject=story.bob, at="2026-01-05")["In force"]] == [
        bob
    ]


def test_exposure_of_an_actor_in_a_period(story: Story) -> None:
    found = asked(story, "exposure", actor="agent:lin")
    assert [(one["what"], one["figure"]) for one in found["In short"]][:5] == [
        ("subjects whose fields were seen", 2),  # ada and bob
        ("subjects who were looked at, and no sealed field", 0),
        ("subjects whose events were taken in exports", 2),  # of 12 events: eight of nobody, ada's three, bob's first
        ("subjects in all", 2),
        ("of these, erased since", 0),
    ]
    assert [(one["field"], one["subjects"], one["subjects in part"]) for one in found["Fields"]] == [
        ("birth_date", 0, 1), ("contact.email", 2, 0), ("name", 2, 0),
    ]  # fmt: skip
    assert [
        (one["subject"], one["fields"], one["in part"], one["reads"], one["first position"], one["in an export"])
        for one in found["Subjects"]
    ] == [
        (str(story.ada), "contact.email, name", "birth_date", 1, 2, "yes"),
        (str(story.bob), "contact.email, name", "", 1, 3, "yes"),
    ]
    night = asked(story, "exposure", actor="agent:lin", since="2026-01-06T20:00:00Z", until="2026-01-06")
    assert [one["subject"] for one in night["Subjects"]] == [str(story.bob)]
    one = asked(story, "exposure", actor="agent:lin", subject=story.bob)
    assert [one["subject"] for one in one["Subjects"]] == [str(story.bob)]
    denied = asked(story, "exposure", actor="mail:mia")
    assert {one["what"]: one["figure"] for one in denied["In short"]}["attempts that were denied"] == 4


def test_corrections_with_values_for_one_subject_only(story: Story) -> None:
    found = asked(story, "corrections")
    [row] = found["Corrections"]
    assert (row["subject"], row["field"], row["actor"]) == (str(story.ada), "name", "agent:lin")
    assert row["previous_position"] < row["position"]
    assert "before" not in row
    [request] = found["Requests for rectification"]
    assert (request["subject"], request["in time"]) == (str(story.ada), "late")
    with story.book.acting("agent:lin", purpose="support"):
        [row] = tables(story.book.audit.review("corrections", subject=story.ada))["Corrections"]
    assert (row["before"], row["after"]) == ("Ada Lovelace", "Ada King")
    assert asked(story, "corrections", since="2026-01-07")["Corrections"] == []


def test_erasures_and_restrictions_with_what_shows_them(story: Story) -> None:
    found = asked(story, "erasure-evidence")
    [row] = found["Erasures"]
    assert row["subject"] == str(story.cyd)
    assert (row["key left"], row["destruction"], row["table"]) == ("none", "noted", "noted")
    assert (row["look-ups removed"], row["look-ups left"], row["kept by law"]) == (0, 0, 0)
    assert int(row["proof"]) == story.book.position()
    assert [one["figure"] for one in found["Copies that were put back"]] == [0, 0, 1]
    assert [one["verdict"] for one in found["Logs verified"]] == ["verified", "verified"]
    [held] = found["Restrictions and objections"]
    assert (held["subject"], held["what"], held["until"]) == (str(story.dee), "restricted", None)
    assert (held["reads released"], held["reads withheld"]) == (0, 1)
    assert [one["in time"] for one in found["Requests for erasure"]] == ["open"]
    alone = asked(story, "restrictions")
    assert alone["Restrictions and objections"] == found["Restrictions and objections"]
    assert len(asked(story, "restrictions", subject=story.dee)["Restrictions and objections"]) == 1
    assert asked(story, "restrictions", subject=story.ada)["Restrictions and objections"] == []
    assert asked(story, "erasure-evidence", since="2026-02-01")["Erasures"] == []
    assert asked(story, "erasure-evidence", subject=story.ada)["Erasures"] == []


def test_records_of_processing_by_purpose(story: Story) -> None:
    found = asked(story, "processing-records")
    rows = {one["purpose"]: one for one in found["By purpose"]}
    # On a server, an erasure also rotates the wrapping key: the book itself does, for a purpose of its own.
    assert rows.keys() - {"erasure"} == {"administration", "audit", "marketing", "support"}
    support = rows["support"]
    assert (support["legal basis"], support["reads"], support["denied"], support["subjects"]) == ("contract", 5, 2, 4)
    assert support["categories read"] == "contact, identity"
    assert support["recipients"] == "cloudevents-1.0 (1)"
    assert support["retention"] == "identity: erase 1 months since recorded"
    assert (rows["marketing"]["reads"], rows["marketing"]["denied"]) == (1, 3)
    assert (rows["marketing"]["consent"], rows["marketing"]["fields read"]) == ("marketing", "contact.email, name")
    assert found["Categories of subjects"] == [{"kind": "person", "registered": 4}]
    assert [(one["format"], one["subjects"]) for one in found["Exports"]] == [("cloudevents-1.0", 2)]
    measures = {one["measure"]: one["state"] for one in found["Security measures in force"]}
    assert measures["access policy"].startswith("house@1, ")
    assert measures["data keys"] == "3 held, 1 subjects erased"


def test_figures_for_a_compliance_audit(story: Story) -> None:
    found = asked(story, "compliance-audit")
    figures = {one["figure"]: (one["covered"], one["of"]) for one in found["Coverage"]}
    # Reads: 2 to 9, 11, 12, the start of the export, the trail, and this review: 13.
    assert figures == {
        "purposes of reads with a declared legal basis": (3, 3),
        "reads for a declared purpose": (13, 13),
        "reads decided by an access policy": (13, 13),
        "subjects with a consent in force, each time they were read on one": (1, 1),
        "requests answered in time, of those answered or overdue": (0, 1),
        "erasures proved to be in the signed log": (1, 1),
        "keys destroyed, of those erased": (1, 1),
        "categories of data with a retention schedule": (1, 3),
        "logs verified": (2, 2),
        "leaves under a signed checkpoint": figures["leaves under a signed checkpoint"],
        "runs of the book that were closed": (0, 1),
    }
    counts = {one["what"]: one["figure"] for one in found["Counts"]}
    assert (counts["reads released"], counts["reads denied"], counts["commands denied"]) == (8, 5, 1)
    assert (counts["customers registered"], counts["customers erased"], counts["exports"]) == (4, 1, 1)
    assert [(one["purpose"], one["reads"]) for one in found["Purposes"]] == [
        ("audit", 2), ("marketing", 4), ("support", 7),
    ]  # fmt: skip
    assert [one["verdict"] for one in found["Logs verified"]] == ["verified", "verified"]
    assert [one["closed_at"] for one in found["Recording of reads"]] == [None]


def test_retention_says_what_is_kept_and_due(story: Story) -> None:
    found = asked(story, "retention")
    assert [(one["category"], one["held"], one["schedules"]) for one in found["Categories"]] == [
        ("identity", "yes", "identity-1m"), ("contact", "yes", ""), ("transaction", "no", ""),
        ("communication", "no", ""), ("preference", "no", ""), ("access_records", "yes", ""),
    ]  # fmt: skip
    # Recorded on 5 and 6 January: on 9 February all names are past a month.
    due = {one["customer"]: (one["erased"], one["due"], one["stays"], one["waits for"]) for one in found["Due"]}
    assert due == {
        str(story.ada): ("values", "identity: 3", "contact", ""),
        str(story.bob): ("no", "identity: 1", "contact", "request"),
        str(story.dee): ("no", "identity: 1", "", "restricted"),
    }  # fmt: skip
    assert [one["values past a period"] for one in found["Categories"]] == [5, 0, 0, 0, 0, 0]
    with story.book.acting("audit:ann", purpose="audit"):
        [told] = [one for one in story.book.audit.review("retention").sections if one.title == "Categories"]
    assert told.text.endswith("WITHOUT A SCHEDULE, so that nothing makes it due: contact.")
    assert asked(story, "retention", at="2026-01-20")["Due"] == []


def test_subject_access_and_the_portable_copy(story: Story) -> None:
    with story.book.acting("agent:lin", purpose="support"):
        access = tables(story.book.audit.review("subject-access", subject=story.ada))
        copy = tables(story.book.audit.review("portable-copy", subject=story.ada))
    assert [one["who"] for one in access["Who looked at your data"]] == [
        "agent:lin", "mail:mia", "agent:kim", "mail:mia", "audit:ann", "agent:lin",
    ]  # fmt: skip
    names = [one["value"] for one in copy["Provided"] if one["field"] == "name"]
    assert names == ["Ada Lovelace", "Ada King"]
    assert {one["field"] for one in copy["Derived"]} == {"key_id", "commitment"}


def test_an_erased_subject_is_shown_as_erased(story: Story) -> None:
    with story.book.acting("agent:lin", purpose="support"):
        copy = tables(story.book.audit.review("portable-copy", subject=story.cyd))
        assert "(erased)" in [one["value"] for one in copy["Provided"] if one["field"] == "name"]
        book = story.book
        book.customers.change(story.bob, name="Robert")
        book.erasures.erase(story.bob, reason="gdpr-17", even_so="subject-insists")
        [row] = tables(book.audit.review("corrections", subject=story.bob))["Corrections"]
    assert (row["before"], row["after"]) == ("(erased)", "(erased)")
    assert {one["subject"]: one["erased since"] for one in asked(story, "exposure", actor="agent:lin")["Subjects"]} == {
        str(story.ada): "no",
        str(story.bob): "yes",
    }, "of cyd, nothing was left to be seen"


def test_whoever_the_policy_denies_gets_no_review_and_is_on_record(story: Story) -> None:
    book = story.book
    for name, kind in REVIEWS.items():
        given: dict[str, Any] = {one: {"subject": story.ada, "actor": "agent:lin"}[one] for one in kind.needs}
        with book.acting("mail:mia", purpose="audit"), pytest.raises(Refused) as refused:
            book.audit.review(name, **given)
        assert refused.value.code == "access_denied"
        assert refused.value.values["action"] == f"audit.review.{name}"
    with book.acting("audit:ann", purpose="audit"):
        denied = [one.action for one in book.audit.trail(actor="mail:mia") if one.outcome == "denied"]
    assert denied[-len(REVIEWS) :] == [f"read:audit.review.{name}" for name in REVIEWS]


def test_each_review_is_one_record_of_a_read(story: Story) -> None:
    for name, kind in REVIEWS.items():
        given: dict[str, Any] = {one: {"subject": story.ada, "actor": "agent:lin"}[one] for one in kind.needs}
        before = story.book._core.gate.reads.position()
        asked(story, name, **given)
        after = story.book._core.gate.reads.position()
        assert after == before + 1, name


@pytest.mark.parametrize("name", REVIEWS)
def test_an_empty_book_gives_an_empty_review(name: str) -> None:
    with tallybook.open("memory:") as book, book.acting("audit:ann", purpose="audit"):
        if "subject" in REVIEWS[name].needs:
            with pytest.raises(Refused) as refused:
                book.audit.review(name, subject=UUID(int=7))
            assert refused.value.code == "unknown_customer"
            return
        given: dict[str, Any] = dict.fromkeys(REVIEWS[name].needs, "agent:lin")
        report = book.audit.review(name, **given)
        found = tables(report)
        assert as_html(report).startswith("<!DOCTYPE html>")
    shown = {
        "corrections": "Corrections", "erasure-evidence": "Erasures", "exposure": "Subjects",
        "restrictions": "Restrictions and objections", "consent-at": "In force",
        "access-review": "findings", "retention": "Due", "processing-records": "Exports",
        "compliance-audit": "Recording of reads",
    }[name]  # fmt: skip
    assert len(found[shown]) == (1 if name == "compliance-audit" else 0)


def test_what_is_asked_wrongly_is_refused() -> None:
    with tallybook.open("memory:") as book:
        with pytest.raises(Refused) as refused:
            book.audit.review("retention")
        assert refused.value.code == "acting_required"
        with book.acting("audit:ann", purpose="audit"):
            wrong: list[tuple[str, dict[str, Any]]] = [
                ("nothing", {}), ("exposure", {}), ("retention", {"actor": "a"}), ("corrections", {"subject": "x"}),
                ("access-review", {"thresholds": Thresholds(tie_days=0)}), ("consent-at", {"at": "soon"}),
                ("access-review", {"since": "2026-02-02", "until": "2026-02-01"}),
                ("exposure", {"actor": "a", "since": "8000-01-01T00:00:00Z"}),
            ]  # fmt: skip
            for name, given in wrong:
                with pytest.raises(Refused) as refused:
                    book.audit.review(name, **given)
                assert refused.value.code == "invalid_argument", name
            assert book._core.gate.reads.position() == 1  # refused before it is on record


def test_a_tampered_row_shows_in_the_audit_and_in_the_evidence(tmp_path: Path) -> None:
    import sqlite3

    clock = Clock()
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    with tallybook.open(url, now_us=clock) as book:
        story = tell(book, clock, tmp_path)
    with sqlite3.connect(tmp_path / "shop.book") as database:
        name = database.execute("SELECT name FROM sqlite_master WHERE sql LIKE '%topic%' AND type='table'").fetchone()
        state = bytearray(database.execute(f"SELECT state FROM {name[0]} WHERE position=14").fetchone()[0])
        at = state.index(b"agent:lin")
        state[at : at + 9] = b"agent:kim"
        database.execute(f"UPDATE {name[0]} SET state=? WHERE position=14", [bytes(state)])
    with tallybook.open(url, now_us=clock) as book:
        story = story._replace(book=book)
        for review in ("compliance-audit", "erasure-evidence"):
            rows = asked(story, review)["Logs verified"]
            assert [one["verdict"] for one in rows] == ["ALTERED", "verified"]
            assert "14" in rows[0]["problem"]


def test_an_actor_who_occurs_nowhere_is_told(story: Story) -> None:
    with story.book.acting("audit:ann", purpose="audit"):
        for name in ("access-review", "exposure"):
            for actor, there in (("agent:lin", True), ("agent:bo", True), ("agent:li", False), ("agent:linn", False)):
                about = story.book.audit.review(name, actor=actor).sections[0].text
                assert (f"NOBODY OF THIS NAME: no record in the book names {actor!r}" in about) is not there, actor


def test_an_answer_that_is_typed_in_later_is_not_in_time() -> None:
    clock = Clock()
    with tallybook.open("memory:", now_us=clock) as book:
        with book.acting("agent:lin", purpose="support"):
            clock.set(0, 9)
            ada = book.customers.register(name="Ada")
            clock.set(1, 9)
            asked = [book.customers.record_request(ada, "rectification") for _ in range(2)]
            clock.set(20, 9)
            book.customers.complete_request(ada, asked[0])
            clock.set(60, 9)
            book.customers.complete_request(ada, asked[1], effective_at="2026-01-25T09:00:00Z")
        with book.acting("audit:ann", purpose="audit"):
            coverage = tables(book.audit.review("compliance-audit"))["Coverage"]
            rows = tables(book.audit.review("corrections"))["Requests for rectification"]
    [answered] = [one for one in coverage if one["figure"].startswith("requests answered in time")]
    assert (answered["covered"], answered["of"]) == (1, 2)
    assert [(one["in time"], one["completed_at"][:10], one["recorded_at"][:10]) for one in rows] == [
        ("in time", "2026-01-25", "2026-01-25"), ("late", "2026-01-25", "2026-03-06"),
    ]  # fmt: skip


def test_every_fact_has_the_commands_that_record_it() -> None:
    facts = {
        name
        for name, one in REGISTRY.items()
        if issubclass(one.event_class, Fact) and not name.startswith(("access.", "log."))
    }
    assert COMMANDS_OF.keys() == facts


# ── forms ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_gives_each_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    url = f"sqlite:///{tmp_path / 'shop.book'}"
    with tallybook.open(url, now_us=clock) as book:
        tell(book, clock, tmp_path)
    monkeypatch.setenv("TALLYBOOK_URL", url)
    who = ["--actor", "audit:ann", "--purpose", "audit"]
    run = CliRunner().invoke
    found = run(cli.app, ["audit", "review", "access-review", *who, "--json"])
    assert found.exit_code == 0, found.output
    sections = {one["title"]: one for one in json.loads(found.stdout)["sections"]}
    assert [one["name"] for one in sections["findings"]["columns"]] == [
        "kind", "actor", "subjects", "first_position", "last_position", "count", "rule",
    ]  # fmt: skip
    shown = run(cli.app, ["audit", "review", "exposure", "--by", "agent:lin", "--from", "2026-01-06", *who])
    assert "contact.email" in shown.stdout
    folder, page = tmp_path / "tables", tmp_path / "page.html"
    done = run(cli.app, ["audit", "review", "compliance-audit", *who, "--csv", str(folder), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    with next(folder.glob("01-coverage.csv")).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][:4] == ["figure", "share", "covered", "of"]
    html = page.read_text(encoding="utf-8")
    assert "<svg" in html
    assert not re.search(r"(src|href)=\"(?!#)", html)
    for wrong in (
        ["nothing"], ["exposure"], ["retention", "--by", "x"], ["retention", "--csv", str(tmp_path / "x.csv")],
    ):  # fmt: skip
        assert run(cli.app, ["audit", "review", *wrong, *who]).exit_code != 0, wrong


def test_the_same_review_gives_the_same_bytes(story: Story, tmp_path: Path) -> None:
    with story.book.acting("audit:ann", purpose="audit"):
        report = story.book.audit.review("processing-records", until="2026-02-01")
        story.clock.set(60, 0)
        again = story.book.audit.review("processing-records", until="2026-02-01")
    assert [one for one in report.sections if one.title == "By purpose"] == [
        one for one in again.sections if one.title == "By purpose"
    ]
    assert as_json(report) == as_json(report)
    assert len(write_csv(report, tmp_path / "tables")) == 4
