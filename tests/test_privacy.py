"""Consents, restriction, objection and requests at the front door: commands, looks into the past, command line."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import Book, Refused
from tallybook.cli import app

JAN, FEB, MAR, APR = (f"2024-0{month}-01T00:00:00Z" for month in range(1, 5))


@pytest.fixture
def ada(book: Book) -> UUID:
    return book.customers.register(name="Ada", email="ada@example.org", effective_at=JAN)


def in_force(book: Book, customer: UUID, at: str, known_at: int | None = None) -> list[str]:
    found = book.customers.privacy(customer, as_of=at, known_at=known_at)
    return [one.text_version for one in found.consents if one.in_force]


def test_a_consent_can_be_told_at_any_date_as_the_book_knew_it(book: Book, ada: UUID) -> None:
    book.customers.grant_consent(ada, "marketing", source="web", text_version="v1", effective_at=FEB)
    known = book.position()
    book.customers.withdraw_consent(ada, "marketing", effective_at=MAR)
    assert in_force(book, ada, "2024-01-15") == []
    assert in_force(book, ada, "2024-02-15") == ["v1"]
    assert in_force(book, ada, "2024-03-15") == []
    assert in_force(book, ada, "2024-03-15", known) == ["v1"]


def test_all_that_was_said_of_a_consent_is_kept(book: Book, ada: UUID) -> None:
    [point] = book.profiles.get(ada).contact_points
    consent = book.customers.grant_consent(
        ada, "newsletter", source="paper", text_version="terms-7", point_id=point.point_id, brand="north",
        basis="GDPR:6.1.a", captured_at="2024-02-01T00:00:00Z", valid_from="2024-02-10T00:00:00Z",
        valid_until="2024-12-31T00:00:00Z", separate=True, cross_border=True, confirmed=False, effective_at=MAR,
    )  # fmt: skip
    book.customers.confirm_consent(ada, str(consent), effective_at=APR)
    [found] = book.customers.privacy(ada, as_of=APR).consents
    assert found == type(found)(
        consent, "newsletter", True, "terms-7", "GDPR:6.1.a", "paper", point.point_id, "north", FEB,
        "2024-02-10T00:00:00Z", "2024-12-31T00:00:00Z", APR, None, True, True,
    )  # fmt: skip


def test_what_the_gate_asks_for_is_what_is_live_now(book: Book, ada: UUID) -> None:
    def standing(purpose: str) -> tuple[bool, str | None]:
        return book._core.standings([ada], purpose)[ada][:2]

    assert standing("marketing") == (False, None)
    book.customers.grant_consent(ada, "marketing", source="web", text_version="v1")
    assert standing("marketing") == (False, "v1")
    assert standing("profiling") == (False, None)
    book.customers.restrict(ada, "unlawful")
    book.customers.object_to(ada, "marketing")
    assert standing("marketing") == (True, None)
    book.customers.lift_restriction(ada)
    assert standing("marketing") == (False, None)


def test_restriction_and_objections_are_told(book: Book, ada: UUID) -> None:
    book.customers.restrict(ada, "accuracy_contested", effective_at=FEB)
    book.customers.object_to(ada, "automated_decisions", effective_at=MAR)
    found = book.customers.privacy(ada)
    assert (found.restricted_since, found.restriction_reason) == (FEB, "accuracy_contested")
    assert found.objections == {"automated_decisions": MAR}
    book.customers.withdraw_objection(ada, "automated_decisions")
    book.customers.lift_restriction(ada, "corrected")
    now = book.customers.privacy(ada)
    assert (now.restricted_since, now.restriction_reason, now.objections) == (None, None, {})
    then = book.customers.privacy(ada, as_of="2024-03-15")
    assert (then.restricted_since, then.objections) == (FEB, {"automated_decisions": MAR})


def test_looking_at_it_is_a_recorded_read(book: Book, ada: UUID) -> None:
    book.customers.privacy(ada)
    assert next(one.action for one in book.audit.trail(ada) if one.log == "reads") == "read:customers.privacy"


def test_requests_are_told_with_their_dates_and_answers(book: Book, ada: UUID) -> None:
    bob = book.customers.register()
    first = book.customers.record_request(ada, "access", channel="mail", effective_at="2024-01-31T10:00:00Z")
    second = book.customers.record_request(bob, "erasure", due="2999-01-01T00:00:00Z")
    by_id = {one.request_id: one for one in book.customers.requests()}
    assert (by_id[first].due_at, by_id[first].overdue, by_id[first].channel) == ("2024-02-29T10:00:00Z", True, "mail")
    assert (by_id[second].due_at, by_id[second].overdue) == ("2999-01-01T00:00:00Z", False)
    book.customers.complete_request(ada, first, "refused", "manifestly_unfounded")
    [answered] = book.customers.requests(ada)
    assert (answered.outcome, answered.reason, answered.overdue) == ("refused", "manifestly_unfounded", False)
    assert [one.request_id for one in book.customers.requests(open_only=True)] == [second]


@pytest.mark.parametrize(
    ("code", "method", "given"),
    [
        ("unknown_consent", "withdraw_consent", ("marketing",)),
        ("unknown_consent", "confirm_consent", (UUID(int=9),)),
        ("not_restricted", "lift_restriction", ()),
        ("no_objection", "withdraw_objection", ("marketing",)),
        ("invalid_argument", "object_to", ("everything",)),
        ("invalid_argument", "record_request", ("gossip",)),
        ("invalid_argument", "complete_request", (UUID(int=9), "lost")),
        ("invalid_argument", "restrict", ("two words",)),
        ("unknown_request", "complete_request", (UUID(int=9),)),
    ],
)
def test_refusals_at_the_desk(book: Book, ada: UUID, code: str, method: str, given: tuple[object, ...]) -> None:
    before = book.position()
    with pytest.raises(Refused) as error:
        getattr(book.customers, method)(ada, *given)
    assert error.value.code == code
    assert book.position() == before


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("withdraw_consent", ("marketing",)), ("confirm_consent", (UUID(int=9),)), ("restrict", ("unlawful",)),
        ("lift_restriction", ()), ("object_to", ("marketing",)), ("withdraw_objection", ("marketing",)),
        ("record_request", ("access",)), ("complete_request", (UUID(int=9),)), ("end_relation", ()), ("privacy", ()),
    ],
)  # fmt: skip
def test_nobody_is_made_by_them(book: Book, method: str, given: tuple[object, ...]) -> None:
    with pytest.raises(Refused) as error:
        getattr(book.customers, method)(uuid4(), *given)
    assert error.value.code == "unknown_customer"


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shop(tmp_path: Path) -> list[str]:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as opened, opened.acting("agent:lin", purpose="setup"):
        opened.customers.register(name="Ada", identifiers={"crm": "A-1"}, effective_at=JAN)
    return ["--book", url, "--actor", "agent:lin", "--purpose", "support"]


def run(*args: str) -> str:
    done = CliRunner().invoke(app, list(args))
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def test_consents_on_the_command_line(shop: list[str]) -> None:
    told = run("consent", "grant", "crm:A-1", "marketing", "--source", "web", "--text", "v1", "--unconfirmed",
               "--at", FEB, "--json", *shop)  # fmt: skip
    consent = json.loads(told)["consent_id"]
    [waiting] = json.loads(run("consent", "show", "crm:A-1", "--json", *shop))["consents"]
    assert (waiting["in_force"], waiting["confirmed_at"]) == (False, None)
    assert "unconf" in run("consent", "show", "crm:A-1", *shop)
    assert "is confirmed" in run("consent", "confirm", "crm:A-1", consent, *shop)
    [shown] = json.loads(run("consent", "show", "crm:A-1", "--json", *shop))["consents"]
    assert (shown["in_force"], shown["text_version"]) == (True, "v1")
    assert "withdrawn" in run("consent", "withdraw", "crm:A-1", "marketing", *shop)
    [shown] = json.loads(run("consent", "show", "crm:A-1", "--json", *shop))["consents"]
    assert shown["in_force"] is False
    [then] = json.loads(run("consent", "show", "crm:A-1", "--as-of", "2024-01-15", "--json", *shop))["consents"] or [
        None
    ]
    assert then is None


def test_restriction_and_objection_on_the_command_line_and_who_is_left_out(shop: list[str]) -> None:
    url = shop[1]
    with tallybook.open(url) as opened, opened.acting("agent:lin", purpose="setup"):
        opened.rules.adopt("standard", effective_at=JAN)
        for customer in (opened.customers.find("crm", "A-1"), opened.customers.register(effective_at=JAN)):
            assert customer is not None
            opened.loyalty.enrol(customer, effective_at=FEB)
            opened.customers.record_purchase(
                customer, [{"sku": "tea", "quantity": 1, "net_minor": 100}], effective_at=FEB
            )
    assert "is restricted" in run("restrict", "crm:A-1", "--reason", "unlawful", *shop)
    assert "Restricted since" in run("consent", "show", "crm:A-1", *shop)
    told = json.loads(run("segments", "--system", "crm", "--json", *shop))
    assert (len(told["customers"]), told["restricted"], told["objecting"]) == (1, 1, 0)
    assert "Left out: 1 customers whose data is restricted" in run("segments", "--system", "crm", *shop)
    told = json.loads(run("tiers", "--tier", "basic", "--json", "--book", url))
    assert (len(told["members"]), told["restricted"], told["objecting"]) == (1, 1, 0)
    assert "Left out: 1 customers whose data is restricted" in run("tiers", "--tier", "basic", "--book", url)
    told = json.loads(run("tiers", "--tier", "basic", "--everybody", "--json", "--book", url))
    assert (len(told["members"]), told["restricted"], told["objecting"]) == (2, 0, 0)
    assert json.loads(run("tiers", "--json", "--book", url)) == {"basic": 2}
    assert "no longer restricted" in run("lift-restriction", "crm:A-1", *shop)
    assert "objects to" in run("object", "crm:A-1", "automated_decisions", *shop)
    assert "Objects to automated_decisions" in run("consent", "show", "crm:A-1", *shop)
    told = json.loads(run("backtest", "candidate", "--book", url, "--json"))
    assert (told["accounts"], told["restricted"], told["objecting"]) == (1, 0, 1)
    assert "1 who object to automated decisions" in run("backtest", "candidate", "--book", url)
    assert "no longer objects" in run("withdraw-objection", "crm:A-1", "automated_decisions", *shop)
    assert json.loads(run("segments", "--system", "crm", "--json", *shop))["objecting"] == 0


def test_requests_on_the_command_line(shop: list[str]) -> None:
    request = json.loads(run("request", "record", "crm:A-1", "access", "--channel", "mail", "--json", *shop))
    assert "open" in run("request", "list", *shop)
    assert "fulfilled" in run("request", "complete", "crm:A-1", request["request_id"], *shop)
    assert json.loads(run("request", "list", "--open", "--json", *shop)) == []
    [found] = json.loads(run("request", "list", "--subject", "crm:A-1", "--json", *shop))
    assert found["outcome"] == "fulfilled"


def test_retention_on_the_command_line(shop: list[str]) -> None:
    book = shop[:2]
    run("retention", "declare", "quiet", "all", "--period", "36", "--since", "last_activity", "--basis", "GDPR:5.1.e",
        "--for", "crm", *shop)  # fmt: skip
    assert "36 months" in run("retention", "show", *book)
    assert "0 customers are due as a whole" in run("retention", "due", "--at", "2025-01-01", *book)
    assert "1 customers are due as a whole" in run("retention", "due", "--at", "2028-01-01", *book)
    run("retention", "declare", "short", "all", "--period", "1", "--unit", "days", "--since", "last_activity",
        "--basis", "GDPR:5.1.e", "--for", "crm", *shop)  # fmt: skip
    assert json.loads(run("retention", "sweep", "--json", *book))["erased"] == 1
    assert "short is no longer in force" in run("retention", "withdraw", "short", *shop)
    assert "The relation" not in run("retention", "show", *book)


def test_single_values_and_what_has_no_schedule_on_the_command_line(shop: list[str]) -> None:
    book = shop[:2]
    run("retention", "declare", "names", "identity", "--period", "36", "--basis", "GDPR:5.1.e", "--for", "crm", *shop)
    told = run("retention", "due", "--at", "2090-01-01", *book)
    assert "0 customers are due as a whole, single values of 1 others" in told
    assert "No schedule is about contact, transaction, communication, preference: nothing makes these due." in told
    [found] = json.loads(run("retention", "due", "--at", "2090-01-01", "--json", *book))["customers"]
    assert (found["whole"], found["values"], found["stays"]) == (False, {"identity": 2}, [])
    told = run("retention", "sweep", *book)
    assert "0 customers due, 0 erased, 0 single values of 0 others, 0 left" in " ".join(told.split())
    assert "No schedule is about contact" in told


def test_the_end_of_a_relation_on_the_command_line(shop: list[str]) -> None:
    assert "is over" in run("end-relation", "crm:A-1", "--reason", "moved_away", *shop)
