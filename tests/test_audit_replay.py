"""Audit replay: how the book stood about a subject at a moment, who could see and saw what, why each decision fell."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tallybook
from tallybook import Book, Refused, cli
from tallybook.adapters.form import ENVELOPE_ARITY
from tallybook.audit_replay import AuditReplay
from tallybook.domain.access import KEEPING, PersonalDataRead
from tallybook.domain.events import REGISTRY, Decision, Schema
from tallybook.domain.points import GoodwillGranted
from tallybook.domain.rules import parse_rule_set
from tallybook.projections import audit_replay as pure
from tallybook.projections.reasons import _REASONS
from tallybook.reviews import REVIEWS

from .audit_story import (
    ADA,
    BOB,
    MAIL,
    MAIN,
    NAME,
    ORIGIN,
    PHONE,
    QUESTIONS,
    REPLY,
    TEXT,
    Clock,
    documents,
    opened,
    told,
)

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "data" / "audit-replay.sha256"


@pytest.fixture(scope="module")
def story() -> Iterator[tuple[Book, Clock]]:
    with opened() as (book, clock), book.acting("audit:jo", purpose="audit"):
        yield told(book, clock), clock


@pytest.fixture
def book(story: tuple[Book, Clock]) -> Book:
    return story[0]


def open_values(book: Book, *args: Any, **options: Any) -> AuditReplay:
    """Asked by somebody who may see all: the auditor of the story sees everything masked."""
    with book.acting("counsel:di", purpose="audit"):
        return book.audit.replay(*args, **options)


def decisions(replay: AuditReplay, kind: str) -> list[Any]:
    return [one for one in replay.document["decisions"] if one["event"] == f"loyalty.{kind}"]


def leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            assert isinstance(name, str)
            yield from leaves(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


# ── the state ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_profile_is_that_of_the_moment_with_its_sources(book: Book) -> None:
    state = open_values(book, ADA, "2020-01-16T00:00:00Z").document["state"]
    assert state["fields"]["name"]["value"] == NAME
    assert state["fields"]["name"]["since"] == "2020-01-10T09:00:01Z"
    assert state["fields"]["name"]["source"]["event"] == "customer.registered"
    assert state["fields"]["name"]["source"]["actor"] == "agent:lin"
    assert state["fields"]["name"]["source"]["channel"] == "phone"
    assert state["fields"]["birth_month"]["value"] == 12
    assert state["identifiers"]["crm"]["value"] == "C-1"
    assert [(one["kind"], one["value"]) for one in state["contact_points"]] == [("email", MAIL), ("phone", PHONE)]
    assert state["counts"]["purchases"] == 2
    assert state["tickets"] == []
    later = open_values(book, ADA, "2020-01-21T00:00:00Z").document["state"]
    assert later["fields"]["name"]["value"] == "Ada King"
    assert later["fields"]["name"]["source"]["recorded_at"].startswith("2020-02-10")


def test_what_the_book_learned_later_is_left_out_by_known_at(book: Book) -> None:
    at = "2020-01-16T00:00:00Z"
    informed, then = book.audit.replay(ADA, at).document, book.audit.replay(ADA, at, known_at=at).document
    assert informed["state"]["counts"]["purchases"] == 2
    assert then["state"]["counts"]["purchases"] == 1
    balances = [[one["balance"] for one in document["state"]["accounts"]] for document in (informed, then)]
    assert balances == [[56, 14], [31, 7]]
    assert [one["tier"] for one in then["state"]["accounts"]] == ["silver", "basic"]


@pytest.mark.parametrize("at", ["2020-01-16T00:00:00Z", "2020-03-02T00:00:00Z", "2021-02-20", "2021-03-31"])
def test_it_says_what_the_other_views_say(book: Book, at: str) -> None:
    document = open_values(book, ADA, at).document
    with book.acting("counsel:di", purpose="audit"):
        profile = book.profiles.get(ADA, as_of=at)
        privacy = book.customers.privacy(ADA, as_of=at)
    assert {name: one["value"] for name, one in document["state"]["fields"].items()} == {
        name: one.value for name, one in profile.fields.items()
    }
    for one in document["state"]["accounts"]:
        account = book.loyalty.account(ADA, programme=one["programme"], as_of=at)
        names = ("tier", "tier_since", "debt", "earned", "spent", "expired", "reversed", "forgiven")
        assert [one[name] for name in names] == [getattr(account, name) for name in names]
        assert one["balance"] == account.active
        assert [(lot["lot_id"], lot["points"]) for lot in one["lots"]] == [
            (str(lot.lot_id), lot.points) for lot in account.lots
        ]
    told_of = {one["consent_id"]: one["in_force"] for one in document["privacy"]["consents"]}
    assert told_of == {str(one.consent_id): one.in_force for one in privacy.consents}


def test_tickets_have_their_state_clocks_owner_and_texts(book: Book) -> None:
    [ticket] = open_values(book, ADA, "2020-02-03T00:00:00Z").document["state"]["tickets"]
    assert (ticket["kind"], ticket["state"], ticket["owner"]) == ("complaint", "open", "agent:mo")
    assert ticket["first_response_at"] == "2020-02-01T09:00:03Z"
    assert ticket["resolved_at"] is None
    assert ticket["compensated_points"] == 5
    assert (ticket["subject"], ticket["text"], ticket["replies"][0]["text"]) == (TEXT, "Very wet", REPLY)
    [ticket] = open_values(book, ADA, "2020-03-01T00:00:00Z").document["state"]["tickets"]
    assert ticket["state"] == "resolved"


def test_what_time_had_made_due_and_nobody_had_recorded_is_told(book: Book) -> None:
    # Of the facts by then, known when the book had not swept yet.
    document = book.audit.replay(ADA, "2021-02-20", known_at="2020-12-31").document
    main = document["state"]["accounts"][0]
    assert main["balance"] == 0
    assert any("points_expired" in one for one in main["due"])
    assert book.audit.replay(ADA, "2021-03-02").document["state"]["accounts"][0]["due"] == []


# ── privacy ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("at", "in_force"), [("2020-02-29", True), ("2020-03-01T00:00:00Z", False)])
def test_a_consent_is_in_force_until_it_expires(book: Book, at: str, in_force: bool) -> None:
    consents = book.audit.replay(ADA, at).document["privacy"]["consents"]
    by_purpose = {one["purpose"]: one for one in consents}
    assert by_purpose["marketing"]["in_force"] is in_force
    assert by_purpose["marketing"]["text_version"] == "v3"
    assert by_purpose["profiling"]["in_force"] is False  # never confirmed
    assert by_purpose["marketing"]["source"]["position"] > 0


def test_restriction_objections_and_open_requests_are_those_of_the_moment(book: Book) -> None:
    before = book.audit.replay(ADA, "2020-02-09").document["privacy"]
    assert (before["restriction"], before["objections"], before["open_requests"]) == (None, [], [])
    later = book.audit.replay(ADA, "2020-03-20").document["privacy"]
    assert [one["to"] for one in later["objections"]] == ["automated_decisions"]
    assert [(one["kind"], one["overdue"]) for one in later["open_requests"]] == [("access", True)]
    last = book.audit.replay(ADA, "2021-03-31").document["privacy"]
    assert last["restriction"]["reason"] == "accuracy_contested"


# ── access ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def actor(document: Any, name: str) -> Any:
    [found] = [one for one in document["access"]["actors"] if one["actor"] == name]
    return found


def test_before_a_policy_everybody_could_see_everything(book: Book) -> None:
    document = book.audit.replay(ADA, "2020-01-31").document
    assert document["access"]["policy"] is None
    [sight] = actor(document, "agent:mo")["could_see"]
    assert (sight["purpose"], sight["allowed"]) == (None, document["access"]["fields"])
    assert [one["role"] for one in actor(document, "agent:mo")["roles"]] == ["support"]


def test_under_a_policy_each_actor_could_see_what_the_gate_would_release(book: Book) -> None:
    document = book.audit.replay(ADA, "2021-03-31").document
    policy = document["access"]["policy"]
    assert policy["label"] == "story@1"
    assert (
        policy["digest"]
        == hashlib.sha256(json.dumps(policy["document"], sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    )
    assert policy["source"]["actor"] == "admin:root"
    compared = 0
    for one in document["access"]["actors"]:
        for sight in one["could_see"]:
            for action in sight["actions"]:
                released = _asked(book, one["actor"], sight["purpose"], action, document["access"]["fields"])
                assert released == (sight["allowed"], sight["masked"]), (one["actor"], sight)
                compared += bool(sight["allowed"] or sight["masked"])
    assert compared > 5


def _asked(book: Book, name: str, purpose: str, action: str, fields: list[str]) -> tuple[list[str], list[str]]:
    """What the gate itself releases now: nothing changed since the moment."""
    with book.acting(name, purpose=purpose):
        before = book._core.gate.reads.position()
        with suppress(Refused):
            book._core.gate.record(book._core.gate_metadata(book._core.acting_now()), action, [ADA], fields)
        [event] = [one.event for one in book._core.app.decode(book._core.gate.reads.iterate(before))]
    assert isinstance(event, PersonalDataRead)
    if ADA in event.restricted or event.outcome == "denied":
        return [], []
    return list(event.fields), list(event.masked)


def test_a_restriction_and_an_expired_consent_shut_the_eyes(book: Book) -> None:
    granted = book.audit.replay(ADA, "2020-02-20").document
    over = book.audit.replay(ADA, "2020-03-20").document
    for document, reason in ((granted, None), (over, "no_consent")):
        reasons = {one["reason"] for one in actor(document, "agent:lin")["could_see"] if one["purpose"] == "marketing"}
        assert reasons == {reason}
    restricted = actor(book.audit.replay(ADA, "2021-03-31").document, "agent:lin")["could_see"]
    assert {one["reason"] for one in restricted if one["purpose"] == "support"} == {"restricted"}
    assert {one["reason"] for one in restricted if one["purpose"] == "audit"} == {None}


def test_an_actor_whose_role_was_revoked_is_shown_without_it_and_with_what_he_saw(book: Book) -> None:
    document = book.audit.replay(ADA, "2020-03-02T00:00:00Z").document
    mo = actor(document, "agent:mo")
    assert mo["roles"] == []
    assert [(one["event"], one["actor"]) for one in mo["grants"]] == [
        ("policy.role_granted", "admin:root"),
        ("policy.role_revoked", "admin:root"),
    ]
    assert not any(one["allowed"] or one["masked"] for one in mo["could_see"])
    assert [(one["action"], one["outcome"]) for one in mo["saw"]] == [
        ("profiles.get", "released"),
        ("profiles.timeline", "released"),
        ("profiles.get", "denied"),
    ]
    assert "contact.email" in mo["saw"][0]["fields"]
    assert "contact.email" in mo["saw"][2]["withheld"]
    assert mo["saw"][2]["policy"] == document["access"]["policy"]["digest"]


def test_policies_and_roles_that_the_book_learned_of_later_are_left_out_by_known_at(book: Book) -> None:
    document = book.audit.replay(ADA, "2020-03-02", known_at="2020-01-31").document
    assert document["access"]["policy"] is None
    assert [one["role"] for one in actor(document, "agent:mo")["roles"]] == ["support"]
    assert actor(document, "agent:mo")["saw"] == []
    assert book.audit.replay(ADA, "2020-03-02").document["access"]["policy"] is not None


def test_reads_are_known_at_a_position_until_the_next_event(book: Book) -> None:
    def saw(known_at: int) -> list[str]:
        document = book.audit.replay(ADA, "2020-03-02", known_at=known_at).document
        return [one["action"] for one in actor(document, "agent:mo")["saw"]]

    [replied] = [one.position for one in book._core.history(["ticket.replied"])]
    assert saw(replied - 1) == []
    assert saw(replied) == ["profiles.get", "profiles.timeline"]  # beside it, before the compensation
    assert saw(book.position()) == ["profiles.get", "profiles.timeline", "profiles.get"]


def test_reads_that_came_later_are_not_in_it(book: Book) -> None:
    assert actor(book.audit.replay(ADA, "2020-02-01T09:00:01Z").document, "agent:mo")["saw"] == []
    for question in QUESTIONS:
        assert actor(book.audit.replay(ADA, question[0]).document, "audit:jo")["saw"] == []


def test_every_door_that_opens_values_of_a_subject_is_asked_for() -> None:
    source = "".join(one.read_text(encoding="utf-8") for one in (ROOT / "src" / "tallybook").glob("*.py"))
    doors = set(re.findall(r'(?:gate\.open|core\.opened|timeline_of)\((?:[^"]{0,80})"([a-z_]+\.[a-z_]+)"', source))
    doors |= set(re.findall(r'action: str = "([a-z_]+\.[a-z_]+)"', source))
    doors |= set(re.findall(r'^(?:[A-Z]+_)?ACTION = "([a-z_.]*[a-z])"', source, re.MULTILINE))
    doors |= {f"audit.review.{name}" for name, kind in REVIEWS.items() if kind.opens}
    # The first opens no value; by the second the book opens them for itself.
    assert doors == ({*pure.READ_ACTIONS} | {"customers.privacy"}) - {KEEPING}


# ── decisions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_kind_of_decision_has_its_reasons() -> None:
    kinds = {schema.event_class for schema in REGISTRY.values() if issubclass(schema.event_class, Decision)}
    assert kinds == set(_REASONS)


def test_every_decision_agrees_with_what_the_facts_lead_to(book: Book) -> None:
    replay = book.audit.replay(ADA, "2021-03-31")
    verification = replay.document["verification"]
    assert verification["holds"]
    assert verification["first_divergence"] is None
    assert verification["agreed"] == verification["decisions"] == len(replay.document["decisions"])
    assert all(one["agrees"] for one in replay.document["decisions"])
    # The other kinds are explained in tests/projections/test_reasons.py.
    assert {one["event"] for one in replay.document["decisions"]} == {
        f"loyalty.{name}"
        for name in (
            "tier_changed", "points_earned", "points_redeemed", "redemption_refused", "points_credited",
            "earning_reversed", "points_expired",
        )
    }  # fmt: skip


def test_an_earning_is_told_by_rule_and_arithmetic(book: Book) -> None:
    earned = decisions(book.audit.replay(ADA, "2021-03-31"), "points_earned")
    first = earned[0]
    assert first["rules"] == "main@1"
    assert [(one["event"], one["position"] < first["position"]) for one in first["facts"]] == [
        ("customer.purchase_recorded", True)
    ]
    assert first["facts"][0]["says"]["lines"][0]["net_minor"] == 12_001
    base, large = first["inputs"]["rules"]
    assert large == {"id": "large", "outcome": "multiplies", "factor": "3/2"}
    assert (base["id"], base["outcome"], base["measured"]) == ("base", "counts", 12_100)
    assert (base["factor"], base["multiplier"], base["points"]) == ("3/2", "large", 181)
    assert "1 × 12100 / 100, times 3/2 by rule large, rounded (floor): 181." in first["why"][0]
    assert {"what": "base: uncapped", "how": "floor(1 × 12100 / 100 × 3 / 2)", "gives": 181} in first["arithmetic"]
    for one in earned:
        assert one["inputs"]["points"] == one["says"]["points"]
    assert earned[-2]["rules"] == "main@2"  # adopted since
    assert "2 × 12100 / 100" in earned[-2]["why"][0]
    assert any("pay the debt of 29" in step for one in earned for step in one["why"])


def test_other_decisions_are_told_with_the_inputs_that_they_used(book: Book) -> None:
    replay = book.audit.replay(ADA, "2021-03-31")
    [paid] = decisions(replay, "points_redeemed")
    assert paid["inputs"]["active"] == 181
    assert paid["inputs"]["lots"][0]["points"] == 181
    [refused] = decisions(replay, "redemption_refused")
    assert refused["inputs"] == {"active": 31, "status": "open", "tier": "silver"}
    assert refused["why"] == ["5000 points were asked for, and 31 were there: insufficient_points."]
    [main, _club] = decisions(replay, "earning_reversed")
    assert main["inputs"]["lines"] == [{"line": 1, "points": 179, "basis": 12_001, "returned_before": 0, "back": 6_000}]
    assert main["inputs"]["policy"] == "debt"
    assert f"{main['says']['debt']}; forgiven: 0" in main["why"][-1]
    expired = decisions(replay, "points_expired")
    assert expired
    for one in expired:
        assert sum(lot["points"] for lot in one["inputs"]["lots"]) == one["says"]["points"]
        assert {lot["expires_at"] for lot in one["inputs"]["lots"]} == {one["effective_at"]}
    for one in decisions(replay, "tier_changed"):
        assert one["inputs"]["window"]["qualifying"] == one["says"]["qualifying"]
    moved = [one for one in decisions(replay, "tier_changed") if one["says"]["reason"] == "window_moved"]
    assert moved
    assert moved[0]["facts"] == []


def test_rule_sets_are_named_with_who_adopted_them_and_whether_they_were_in_force(book: Book) -> None:
    found = book.audit.replay(ADA, "2021-03-31").document["rule_sets"]
    assert [(one["programme"], one["label"], one["in_force"]) for one in found] == [
        ("club", "club@1", True),
        ("main", "main@1", False),
        ("main", "main@2", True),
    ]
    assert [one["adoptions"][0]["actor"] for one in found] == ["admin:root"] * 3
    for one in found:
        canonical = json.dumps(one["document"], sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(canonical.encode()).hexdigest() == one["digest"]
    early = book.audit.replay(ADA, "2020-01-11").document["rule_sets"]
    assert [one["label"] for one in early if one["in_force"]] == ["club@1", "main@1"]


def test_a_decision_that_was_altered_is_found(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with opened(url) as (book, clock):
        told(book, clock)
        with book.acting("audit:jo", purpose="audit"):
            asked = book.audit.replay(ADA, "2021-03-31")
    [refused] = decisions(asked, "redemption_refused")
    position = refused["position"]
    _rewrite(tmp_path / "shop.book", position, lambda clear: [*clear[:-1], clear[-1] + 1])  # `active`
    with tallybook.open(url, now_us=clock) as again, again.acting("audit:jo", purpose="audit"):
        found = again.audit.replay(ADA, "2021-03-31")
    verification = found.document["verification"]
    assert not verification["holds"]
    assert verification["first_divergence"]["position"] == position
    assert "active=32" in verification["first_divergence"]["found"]
    verdicts = {one["position"]: one["agrees"] for one in found.document["decisions"]}
    assert verdicts[position] is False
    assert verdicts[refused["position"] - 2] is True
    assert "NOT what the facts lead to" in found.html()
    runner = CliRunner()
    answer = runner.invoke(
        cli.app,
        ["audit", "replay", "--book", url, "--subject", str(ADA), "--at", "2021-03-31", "--actor", "audit:jo",
         "--purpose", "audit"],
    )  # fmt: skip
    assert answer.exit_code == 1


def _rewrite(path: Path, position: int, change: Any, *, version: int = 1) -> None:
    """Change the clear fields of a stored event, behind the book's back."""
    with sqlite3.connect(path) as connection:
        [(state,)] = connection.execute("SELECT state FROM stored_events WHERE position=?", [position]).fetchall()
        stored = msgpack.unpackb(state)
        stored[ENVELOPE_ARITY:-1] = change(stored[ENVELOPE_ARITY:-1])
        stored[0] = version
        connection.execute("UPDATE stored_events SET state=? WHERE position=?", [msgpack.packb(stored), position])
    connection.close()


# ── canonical bytes ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_document_is_canonical_json_and_the_digest_is_of_its_bytes(book: Book) -> None:
    replay = open_values(book, ADA, "2021-03-31")
    raw = replay.canonical()
    assert raw.endswith(b"}\n")
    assert raw.count(b"\n") == 1
    parsed = json.loads(raw, parse_float=lambda _: pytest.fail("a float"))
    assert json.dumps(parsed, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" == raw
    assert hashlib.sha256(raw).hexdigest() == replay.digest
    assert {type(one) for one in leaves(parsed)} <= {str, int, bool, type(None)}
    for one in leaves(parsed):
        if isinstance(one, str) and re.match(r"\d{4}-\d\d-\d\dT", one):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", one)
    whole = json.loads(replay.json())
    assert whole["digest"] == replay.digest
    assert whole["document"] == parsed


def test_asked_again_it_is_the_same(story: tuple[Book, Clock]) -> None:
    book, _ = story
    for at, known_at in QUESTIONS:
        first = book.audit.replay(ADA, at, known_at=known_at)
        again = book.audit.replay(ADA, at, known_at=first.document["question"]["known_at"])
        assert again.canonical() == first.canonical()
        assert again.json() == first.json()


def digests(answers: list[bytes]) -> str:
    return "".join(f"{hashlib.sha256(one).hexdigest()}\n" for one in answers)


def test_the_same_book_gives_the_same_bytes_as_ever() -> None:
    # Where the document was changed on purpose: write these lines into the file.
    assert digests(documents()) == GOLDEN.read_text(encoding="ascii")


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_other_interpreters_write_the_same_bytes(version: str) -> None:
    if version == "{}.{}".format(*sys.version_info):
        pytest.skip("this interpreter runs the test before")
    python = ROOT / f".venv-{version}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no .venv-{version} (`make setup PYTHON=python{version} VENV=.venv-{version}`)")
    told_there = subprocess.run([python, "-m", "tests.audit_story"], cwd=ROOT, capture_output=True, check=True)
    assert told_there.stdout == b"".join(documents())


def test_events_of_an_older_schema_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with opened(url) as (book, clock):
        told(book, clock)
        with book.acting("audit:jo", purpose="audit"):
            before = book.audit.replay(ADA, "2021-03-31")
        [position] = [one.position for one in book._core.history([GoodwillGranted.stored_name])]
    # What a first version might have held: no ticket, and the reason before the points.
    ticket = []

    def older(clear: list[Any]) -> list[Any]:
        ticket.append(clear[2])
        return [clear[1], clear[0]]

    _rewrite(tmp_path / "shop.book", position, older)
    upcast: dict[int, Any] = {1: lambda clear: [clear[1], clear[0], ticket[0]]}
    monkeypatch.setattr(GoodwillGranted, "schema_version", 2)
    monkeypatch.setitem(REGISTRY, GoodwillGranted.stored_name, Schema(GoodwillGranted, upcast, {}))
    with tallybook.open(url, now_us=clock) as again, again.acting("audit:jo", purpose="audit"):
        known_at = before.document["question"]["known_at"]
        assert again.audit.replay(ADA, "2021-03-31", known_at=known_at).canonical() == before.canonical()
    upcast[1] = lambda clear: [clear[1] + 1, clear[0], ticket[0]]
    with tallybook.open(url, now_us=clock) as again, again.acting("audit:jo", purpose="audit"):
        assert again.audit.replay(ADA, "2021-03-31", known_at=known_at).canonical() != before.canonical()


def test_after_an_erasure_it_is_the_same_less_what_was_sealed() -> None:
    with opened() as (book, clock):
        told(book, clock)
        before = open_values(book, ADA, "2021-03-31")
        known_at = before.document["question"]["known_at"]
        assert any(isinstance(one, str) and NAME.split()[0] in one for one in leaves(before.document))
        with book.acting("counsel:di", purpose="audit"):
            book.erasures.erase(ADA, reason="gdpr-17", even_so="asked-twice")
        after = open_values(book, ADA, "2021-03-31", known_at=known_at)
        positions = set[tuple[Any, ...]]()
        assert _erased(before.document, after.document, (), positions) == after.document
        values = {path[-1] for path in positions}
        assert {"value", "text", "subject", "relation"} == values
        assert len(positions) == 9
        assert after.digest != before.digest
        [erasure] = after.evidence["erasures"]
        assert erasure["reason"] == "gdpr-17"
        assert erasure["proof"]["proofs"][0]["proof"].startswith("c2sp.org/tlog-proof")
        assert before.evidence["erasures"] == []
        assert after.document["state"]["erasures"] == []  # not by then
        clock.put("2021-04-02T00:00:00Z")
        last = open_values(book, ADA, "2021-04-01T12:00:00Z").document
        assert [one["says"]["reason"] for one in last["state"]["erasures"]] == ["gdpr-17"]
        assert last["verification"]["holds"]


def _erased(before: Any, after: Any, path: tuple[Any, ...], found: set[tuple[Any, ...]]) -> Any:
    """The earlier document, with what reads as erased in the later one in its place."""
    if after == {"erased": True}:
        assert isinstance(before, str)
        found.add(path)
        return after
    if isinstance(before, dict):
        return {name: _erased(value, after[name], (*path, name), found) for name, value in before.items()}
    if isinstance(before, list):
        assert len(before) == len(after)
        return [
            _erased(one, other, (*path, n), found) for n, (one, other) in enumerate(zip(before, after, strict=True))
        ]
    return before


# ── the gate ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def last_read(book: Book) -> PersonalDataRead:
    *_, (_, event) = book._core.reads()
    assert isinstance(event, PersonalDataRead)
    return event


def test_one_replay_is_one_recorded_read_with_its_fields(book: Book) -> None:
    before = book._core.gate.reads.position()
    book.audit.replay(ADA, "2020-03-02")
    assert book._core.gate.reads.position() == before + 1
    read = last_read(book)
    assert (read.action, read.subjects, read.outcome) == ("audit.replay", (ADA,), "released")
    assert {"name", "contact.email", "identifier.crm", "text", "subject"} <= set(read.masked)
    assert read.metadata.actor == "audit:jo"


def test_sealed_opens_nothing_and_is_recorded_without_fields(book: Book) -> None:
    replay = book.audit.replay(ADA, "2020-03-02", sealed=True)
    read = last_read(book)
    assert (read.action, read.fields, read.masked, read.withheld) == ("audit.replay", (), (), ())
    assert replay.document["state"]["fields"]["name"]["value"] == {"sealed": True}
    assert NAME.encode() not in replay.json()
    assert MAIL.encode() not in replay.json()
    assert "(sealed)" in replay.html()


def test_masked_and_withheld_values_are_shown_as_such(book: Book) -> None:
    masked = book.audit.replay(ADA, "2020-01-16").document["state"]
    assert masked["fields"]["name"]["value"] == {"masked": "A. L."}
    with book.acting("admin:root", purpose="administration"):
        replay = book.audit.replay(ADA, "2020-01-16")
    state = replay.document["state"]
    assert state["identifiers"]["crm"]["value"] == "C-1"
    assert state["fields"]["name"]["value"] == {"withheld": "denied"}
    assert state["accounts"][0]["balance"] == 56  # no personal value
    assert "(withheld: denied)" in replay.html()


def test_whoever_may_see_nothing_is_refused_and_that_is_recorded(book: Book) -> None:
    with book.acting("agent:mo", purpose="support"), pytest.raises(Refused) as refused:
        book.audit.replay(ADA, "2020-01-16")
    assert refused.value.code == "access_denied"
    assert last_read(book).outcome == "denied"


def test_without_the_record_nothing_is_released(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book._core.gate._group, "append", mock.Mock(side_effect=OSError("full")))
    for sealed in (False, True):
        with pytest.raises(OSError, match="full"):
            book.audit.replay(ADA, "2020-01-16", sealed=sealed)


@pytest.mark.parametrize(
    ("at", "options", "code"),
    [
        ("2021-12-31", {}, "invalid_argument"),  # not over yet
        ("2020-01-01", {"known_at": 10**6}, "invalid_argument"),
        ("2020-01-01", {"known_at": -1}, "invalid_argument"),
        ("tomorrow", {}, "invalid_argument"),
        ("2020-01-01T00:00:00", {}, "naive_time"),
        ("2020-01-01", {}, "unknown_customer"),  # not by then
        ("2020-02-01", {"known_at": 3}, "unknown_customer"),
    ],
)
def test_a_question_without_an_answer_is_refused_and_reads_nothing(
    book: Book, at: str, options: dict[str, Any], code: str
) -> None:
    before = book._core.gate.reads.position()
    with pytest.raises(Refused) as refused:
        book.audit.replay(ADA, at, **options)
    assert refused.value.code == code
    assert book._core.gate.reads.position() == before


def test_nobody_acting_is_refused() -> None:
    with opened() as (book, _), pytest.raises(Refused) as refused:
        book.audit.replay(ADA, "2019-01-16")
    assert refused.value.code == "acting_required"


# ── evidence ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_proofs_hold_for_a_stranger(book: Book) -> None:
    replay = book.audit.replay(ADA, "2020-03-02T00:00:00Z", proofs=True)
    rests_on = {fact["position"] for one in replay.document["decisions"] for fact in one["facts"]}
    rests_on |= {one["position"] for one in replay.document["decisions"]}
    for log in ("events", "reads"):
        evidence = replay.evidence[log]
        head = evidence["checkpoint"]
        assert [one["position"] for one in evidence["proofs"]] == evidence["positions"]
        assert head["size"] >= evidence["covers"] >= max(evidence["positions"])
        for one in evidence["proofs"]:
            leaf = base64.b64decode(one["leaf"])
            assert _proves(one["proof"], leaf, one["position"], head)
            assert not _proves(one["proof"], leaf + b"!", one["position"], head)
    assert rests_on <= set(replay.evidence["events"]["positions"])
    saw = {seen["position"] for one in replay.document["access"]["actors"] for seen in one["saw"]}
    assert saw == set(replay.evidence["reads"]["positions"])


def _proves(text: str, leaf: bytes, position: int, head: Any) -> bool:
    lines = text.split("\n")
    hashes = [base64.b64decode(line) for line in lines[2 : lines.index("")]]
    root: str = head["root"]
    return _root(hashlib.sha256(b"\0" + leaf).digest(), position - 1, head["size"], hashes).hex() == root


def _root(node: bytes, index: int, size: int, hashes: list[bytes]) -> bytes:
    """RFC 9162, 2.1.3.2."""
    last = size - 1
    for one in hashes:
        if index % 2 == 1 or index == last:
            node = hashlib.sha256(b"\1" + one + node).digest()
            while index % 2 == 0 and index:
                index, last = index >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\1" + node + one).digest()
        index, last = index >> 1, last >> 1
    return node


# ── a book cut off ────────────────────────────────────────────────────────────────────────────────────────────────────

_steps = st.lists(
    st.one_of(
        st.tuples(st.just("buy"), st.integers(0, 500), st.sampled_from([100, 5_000, 31_000])),
        st.tuples(st.just("redeem"), st.integers(0, 500), st.sampled_from([10, 100, 900])),
        st.tuples(st.just("rename"), st.integers(0, 500), st.sampled_from([1, 2])),
        st.tuples(st.just("consent"), st.integers(0, 500), st.sampled_from([10, 300])),
        st.tuples(st.just("sweep"), st.integers(0, 500), st.just(0)),
        st.tuples(st.just("look"), st.just(0), st.just(0)),
        st.tuples(st.just("role"), st.just(0), st.integers(0, 2)),
        st.tuples(st.just("ticket"), st.integers(0, 500), st.just(0)),
    ),
    min_size=1,
    max_size=12,
)


def _day(day: int) -> str:
    return f"{2018 + day // 360}-{day % 360 // 30 + 1:02}-{day % 28 + 1:02}T12:00:00Z"


def _live(book: Book, clock: Clock, steps: list[tuple[str, int, int]]) -> list[int]:
    """The position before the steps, and after each."""
    with book.acting("agent:lin", purpose="support"):
        book.rules.adopt(parse_rule_set(MAIN, "main"), effective_at="2010-01-01T00:00:00Z")
        book.customers.register(customer_id=ADA, name=NAME, email=MAIL, effective_at=_day(0))
        book.loyalty.enrol(ADA, effective_at=_day(0))
        positions = [book.position()]
        for what, day, value in steps:
            clock.now_us += 86_400_000_000
            with suppress(Refused):
                if what == "buy":
                    line = {"sku": "a", "quantity": 1, "net_minor": value}
                    book.customers.record_purchase(ADA, [line], effective_at=_day(day))
                elif what == "redeem":
                    book.loyalty.redeem(ADA, value, reward="R", effective_at=_day(day))
                elif what == "rename":
                    book.customers.change(ADA, name=f"Ada {value}", effective_at=_day(day))
                elif what == "consent":
                    book.customers.grant_consent(
                        ADA, "marketing", source="web", text_version="v1", effective_at=_day(day),
                        valid_until=_day(day + value),
                    )  # fmt: skip
                elif what == "sweep":
                    book.loyalty.sweep(_day(day))
                elif what == "look":
                    book.profiles.get(ADA)
                elif what == "role":
                    book.policy.grant("agent:mo", f"role{value}")
                elif what == "ticket":
                    book.tickets.open(ADA, subject=TEXT, kind="enquiry", effective_at=_day(day))
            positions.append(book.position())
    return positions


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_steps, st.integers(0, 12), st.integers(0, 700) | st.integers(720, 735))
def test_known_at_a_position_is_the_book_cut_off_there(steps: list[tuple[str, int, int]], cut: int, day: int) -> None:
    """The other book ends there; both are asked, much later, for the same moment. Steps begin at day 720."""
    answers = []
    known_at, kept = 0, steps
    for first in (True, False):
        with opened() as (book, clock):
            positions = _live(book, clock, kept)
            if first:
                known_at = positions[min(cut, len(steps))]
                # Reads belong to the position beside which they were made: up to the next step that records an event.
                kept = steps[: len(positions) - 1 - positions[::-1].index(known_at)]
            assert first or book.position() == known_at
            clock.put("2022-01-01T00:00:00Z")
            with book.acting("agent:lin", purpose="support"):
                try:
                    answers.append(book.audit.replay(ADA, _day(day), known_at=known_at).canonical())
                except Refused as refused:
                    answers.append(refused.code.encode())
    assert answers[0] == answers[1]


def test_a_position_inside_of_a_command_is_verified_up_to_the_one_before(book: Book) -> None:
    [purchase] = [
        one.position for one in book._core.subject_events(BOB) if one.event.stored_name == "customer.purchase_recorded"
    ]
    for known_at in (purchase, purchase + 1):
        document = book.audit.replay(BOB, "2020-01-16", known_at=known_at).document
        assert document["verification"]["holds"]
        assert document["verification"]["up_to"] == purchase - 1
        assert [one["agrees"] for one in document["decisions"]] == [True, *([None] * (known_at - purchase))]


def test_each_subject_has_its_own(book: Book) -> None:
    document = open_values(book, BOB, "2021-03-31").document
    [referral] = document["state"]["referrals"]
    assert (referral["values"], referral["says"]) == ({"note": "Plays chess"}, {"referred": str(ADA)})
    [referral] = open_values(book, ADA, "2021-03-31").document["state"]["referrals"]
    assert (referral["values"], referral["by"]) == ({"relation": "a neighbour"}, str(BOB))
    assert NAME.encode() not in json.dumps(document).encode()
    assert document["state"]["fields"]["name"]["value"] == "Bob"
    assert document["access"]["actors"][0]["saw"] == []


# ── the command ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("replay")
    with opened(f"sqlite:///{folder}/shop.book") as (book, clock):
        told(book, clock)
    return f"sqlite:///{folder}/shop.book"


def run(url: str, *args: str) -> Any:
    given = ["audit", "replay", "--book", url, "--subject", str(ADA), "--at", "2020-03-02T00:00:00Z", *args]
    return CliRunner().invoke(cli.app, [*given, "--actor", "audit:jo", "--purpose", "audit"])


def test_the_command_prints_tables_and_the_digest(url: str) -> None:
    answer = run(url)
    assert answer.exit_code == 0, answer.output
    for shown in ("Accounts", "Decisions", "Who could see what", "story@1", "Digest of the document: ", "A. K."):
        assert shown in answer.output
    assert NAME not in answer.output


def test_the_command_writes_json_and_a_page(url: str, tmp_path: Path) -> None:
    whole = json.loads(run(url, "--json", "--proofs").stdout_bytes)
    assert whole["document"]["book"] == ORIGIN
    assert whole["evidence"]["events"]["proofs"]
    answer = run(
        url, "--out", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html"), "--sealed",
        "--known-at", str(whole["document"]["question"]["known_at"]),
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    written = (tmp_path / "a.json").read_bytes()
    assert json.loads(written)["digest"] in answer.output
    assert b"A. K." not in written
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Why" in page or "why" in page
    assert "<script src" not in page
    again = run(url, "--out", str(tmp_path / "a.json"))
    assert again.exit_code != 0  # nothing is overwritten
    assert (tmp_path / "a.json").read_bytes() == written


def test_a_book_on_a_server_gives_the_same_bytes(server_book_url: str) -> None:
    # Run on every version of Python that is promised, as all that needs a server: so each is held to the same bytes.
    assert digests(documents(server_book_url)) == GOLDEN.read_text(encoding="ascii")
