"""Who saw what, as reviews tell it: not what was erased or sealed anew; looks without a field; guesses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import tallybook
from tallybook import Book, Refused
from tallybook.domain.access import KEEPING, RELEASED, RESEALED, TOLD, PersonalDataRead
from tallybook.projections.access_review import Thresholds

LINES = [{"sku": "lamp", "quantity": 1, "net_minor": 500}]


@pytest.fixture
def book(book_url: str) -> Iterator[Book]:
    with tallybook.open(book_url) as found:
        yield found


def tables(book: Book, name: str, **given: Any) -> dict[str, list[dict[str, Any]]]:
    with book.acting("auditor:mo", purpose="audit"):
        report = book.audit.review(name, **given)
    return {
        one.title: [dict(zip([column.name for column in one.columns], row, strict=True)) for row in one.rows]
        for one in report.sections
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {one["what"]: one["figure"] for one in rows}


def read_records(book: Book) -> list[PersonalDataRead]:
    return [one.event for one in book._core.reads() if isinstance(one.event, PersonalDataRead)]


def buyers(book: Book, count: int) -> list[UUID]:
    with book.acting("agent:lin", purpose="support"):
        whom = [book.customers.register(name=f"Client {one}", email="c@example.org") for one in range(count)]
        for number, one in enumerate(whom):
            book.customers.record_purchase(one, LINES, order_id=f"O-{number}")
    return whom


def erase(book: Book, whom: list[UUID], *, keep: str | None = None) -> None:
    with book.acting("dpo:kim", purpose="subject_rights"):
        if keep is not None:
            book.retention.declare(
                "tax", keep, purpose="tax", legal_basis="HGB:257", period=10, unit="years", action="keep"
            )
        for one in whom:
            book.erasures.erase(one, reason="gdpr-17")


def test_what_an_erasure_seals_anew_is_seen_by_nobody(book: Book) -> None:
    whom = buyers(book, 3)
    erase(book, whom, keep="transaction")
    records = [one for one in read_records(book) if one.action == KEEPING]
    assert [(one.outcome, one.policy) for one in records] == [(RESEALED, None)] * 3
    seen = tables(book, "exposure", actor="dpo:kim")
    assert seen["Subjects"] == []
    assert figures(seen["In short"])["records of values that the book sealed anew, and showed to nobody"] == 3
    assert figures(seen["In short"])["records of reads that released something, or looked"] == 0
    audit = tables(book, "compliance-audit")
    assert figures(audit["Counts"])["reads released"] == 2  # the two reviews
    assert figures(audit["Counts"])["times that the book sealed values anew, which nobody saw"] == 3
    assert [one["purpose"] for one in audit["Purposes"]] == ["audit"]
    by_purpose = {one["purpose"]: one for one in tables(book, "processing-records")["By purpose"]}
    assert by_purpose["subject_rights"]["reads"] == 0
    assert tables(book, "access-review")["findings"] == []


def test_nobody_is_told_to_have_seen_what_was_erased(book: Book) -> None:
    ada, bob = buyers(book, 2)
    erase(book, [ada])
    with book.acting("agent:eve", purpose="support"):
        assert str(book.profiles.get(ada)["name"]) == "(erased)"
    record = read_records(book)[-1]
    assert (record.outcome, record.subjects, record.erased) == (RELEASED, (ada,), (ada,))
    assert (record.fields, record.masked, record.withheld) == ((), (), ())
    seen = tables(book, "exposure", actor="agent:eve")
    assert seen["Subjects"] == []
    assert figures(seen["In short"])["subjects asked for after all was erased, and not seen"] == 1
    assert tables(book, "access-review")["findings"] == []
    by_purpose = {one["purpose"]: one for one in tables(book, "processing-records")["By purpose"]}
    assert by_purpose["support"]["fields read"] == ""
    with book.acting("agent:eve", purpose="support"):
        book.profiles.get(bob)
    assert [one["subject"] for one in tables(book, "exposure", actor="agent:eve")["Subjects"]] == [bob]
    assert [one["subjects"] for one in tables(book, "access-review")["findings"]] == [(bob,)]


def test_without_a_consent_nothing_is_told_of_the_erased(book: Book) -> None:
    [ada] = buyers(book, 1)
    with book.acting("agent:lin", purpose="support"):
        book.customers.grant_consent(ada, "marketing", source="web", text_version="v1")
        book.customers.withdraw_consent(ada, "marketing")
    erase(book, [ada])
    with book.acting("mail:mia", purpose="marketing"):
        book.profiles.get(ada)
    assert tables(book, "access-review")["findings"] == []


def test_of_what_an_erasure_kept_it_is_told_who_saw_it_and_no_more(book: Book) -> None:
    [ada] = buyers(book, 1)
    erase(book, [ada], keep="transaction")
    with book.acting("agent:eve", purpose="support"):
        shown = book.profiles.timeline(ada)
    assert "O-0" in str(shown)
    record = read_records(book)[-1]
    assert (record.erased, record.fields) == ((), ("order_id",))
    [row] = tables(book, "exposure", actor="agent:eve")["Subjects"]
    assert (row["subject"], row["fields"]) == (ada, "order_id")


def test_a_pack_in_the_clear_tells_of_whom_nothing_was_left(book: Book, tmp_path: Path) -> None:
    ada, bob = buyers(book, 2)
    erase(book, [ada])
    with book.acting("admin:zoe", purpose="support"):
        book.audit.export(tmp_path / "pack", sealed=False)
    assert [one.erased for one in read_records(book) if one.fields] == [(ada,)]
    rows = tables(book, "exposure", actor="admin:zoe")["Subjects"]
    assert {one["subject"]: one["reads"] for one in rows} == {bob: 1, ada: 0}


def test_a_read_that_is_denied_tells_nothing_of_erasures(book: Book) -> None:
    [ada] = buyers(book, 1)
    erase(book, [ada])
    with book.acting("admin:root", purpose="administration"):
        book.policy.grant("admin:root", "admin")
        book.policy.adopt("shop")
    with book.acting("agent:eve", purpose="support"), pytest.raises(tallybook.Refused, match="access_denied"):
        book.profiles.get(ada)
    record = read_records(book)[-1]
    assert (record.outcome, record.erased, "name" in record.withheld) == ("denied", (), True)


def test_a_look_at_what_is_not_sealed_is_a_look(book: Book) -> None:
    [ada] = buyers(book, 1)
    with book.acting("agent:eve", purpose="support"):
        book.customers.privacy(ada)
        book.audit.trail(ada)
    seen = tables(book, "exposure", actor="agent:eve")
    [row] = seen["Subjects"]
    assert (row["subject"], row["fields"], row["reads"]) == (ada, "", 2)
    assert figures(seen["In short"])["subjects who were looked at, and no sealed field"] == 1
    assert figures(seen["In short"])["subjects in all"] == 1
    [found] = tables(book, "access-review")["findings"]
    assert (found["kind"], found["actor"], found["subjects"], found["count"]) == ("snooping", "agent:eve", (ada,), 2)


def test_records_of_processing_tell_what_was_collected(book: Book) -> None:
    buyers(book, 6)
    [row] = [one for one in tables(book, "processing-records")["By purpose"] if one["purpose"] == "support"]
    assert (row["subjects"], row["actors"], row["reads"]) == (6, 1, 0)
    assert row["categories recorded"] == "contact, identity, transaction"
    assert row["fields recorded"] == "contact.email, name, order_id"
    assert (row["categories read"], row["fields read"]) == ("", "")


def guess(book: Book, actor: str, count: int, *, register: bool = False, purpose: str = "support") -> None:
    with book.acting(actor, purpose=purpose):
        for number in range(count):
            assert book.customers.find("crm", f"{actor} {number}") is None
            if register:
                book.customers.register(name="New", identifiers={"crm": f"{actor} {number}"})


def test_whoever_searches_for_many_who_are_not_there_guesses(book: Book) -> None:
    guess(book, "agent:eve", 100)
    guess(book, "agent:few", 29)  # a morning of wrong numbers
    guess(book, "agent:fair", 40, register=True)  # cards from a trade fair
    with book.acting("agent:eve", purpose="support"):
        assert book.customers.find("crm", "agent:fair 3") is not None
    found = [one for one in tables(book, "access-review")["findings"] if one["kind"] == "guessing"]
    assert [(one["actor"], one["subjects"], one["count"]) for one in found] == [("agent:eve", (), 100)]
    assert found[0]["rule"].startswith("100 searches within an hour that found nobody, for support: at least 30")
    given = Thresholds(guesses=20)
    found = [one for one in tables(book, "access-review", thresholds=given)["findings"] if one["kind"] == "guessing"]
    assert {one["actor"] for one in found} == {"agent:eve", "agent:few"}


def test_searches_by_commands_that_are_refused_are_searches(book: Book) -> None:
    ada, bob = buyers(book, 2)
    with book.acting("agent:lin", purpose="support"):
        book.customers.link_identifier(ada, "crm", "C-1")
        book.customers.link_identifier(bob, "crm", "C-2")
    with book.acting("agent:eve", purpose="support"):
        for number in range(40):
            with pytest.raises(Refused, match="identifier_linked"):
                book.customers.link_identifier(bob, "crm", f"nobody {number}")
        for _ in range(3):
            with pytest.raises(Refused, match="identifier_taken"):
                book.customers.link_identifier(bob, "crm", "C-1")
    records = [one for one in read_records(book) if one.outcome == TOLD]
    assert [one.subjects for one in records] == [()] * 40 + [(ada,)] * 3
    found = [one for one in tables(book, "access-review")["findings"] if one["actor"] == "agent:eve"]
    assert [(one["kind"], one["subjects"], one["count"]) for one in found] == [
        ("snooping", (ada,), 3), ("guessing", (), 40),
    ]  # fmt: skip
    [row] = tables(book, "exposure", actor="agent:eve")["Subjects"]
    assert (row["subject"], row["fields"], row["reads"]) == (ada, "identifier.crm", 3)
    told = [one for one in tables(book, "processing-records")["By purpose"] if one["purpose"] == "support"]
    assert told[0]["reads"] == 43


def test_one_registration_explains_one_search(book: Book) -> None:
    guess(book, "agent:eve", 60)
    with book.acting("agent:eve", purpose="support"):
        book.customers.register(name="Alibi")
    [found] = [one for one in tables(book, "access-review")["findings"] if one["kind"] == "guessing"]
    assert (found["actor"], found["count"]) == ("agent:eve", 59)
