"""What stands in the way of an erasure: restricted data, requests that wait for an answer, requests that don't fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import Book, Refused
from tallybook.adapters.reports import Section
from tallybook.cli import app
from tallybook.domain.erasure import SubjectErased

YEAR_US = 366 * 86_400 * 1_000_000


@pytest.fixture
def now() -> list[int]:
    return [1_700_000_000_000_000]


@pytest.fixture
def shop(tmp_path: Path, now: list[int]) -> Iterator[Book]:
    with (
        tallybook.open(f"sqlite:///{tmp_path}/shop.book", now_us=lambda: now[0]) as book,
        book.acting("dpo:kim", purpose="subject_rights"),
    ):
        yield book


def section(book: Book, review: str, title: str) -> Section:
    return next(one for one in book.audit.review(review).sections if one.title == title)


def refused(book: Book, customer: UUID, **given: object) -> Refused:
    with pytest.raises(Refused) as caught:
        book.erasures.erase(customer, reason="gdpr-17", **given)  # type: ignore[arg-type]  # of several types
    assert customer not in book.erasures.all()
    return caught.value


def test_an_erasure_is_for_a_request_of_that_subject_for_erasure_that_is_open(shop: Book) -> None:
    ada, bob = shop.customers.register(name="Ada"), shop.customers.register(name="Bob")
    access = shop.customers.record_request(bob, "access")
    assert refused(shop, ada, request_id=access).code == "unknown_request"
    assert refused(shop, ada, request_id=uuid4()).code == "unknown_request"
    own = shop.customers.record_request(ada, "access")
    found = refused(shop, ada, request_id=own)
    assert (found.code, found.values["kind"]) == ("request_of_other_kind", "access")
    shop.customers.complete_request(ada, own)
    done = shop.customers.record_request(ada, "erasure")
    shop.customers.complete_request(ada, done, outcome="withdrawn")
    assert refused(shop, ada, request_id=done).code == "request_completed"
    asked = shop.customers.record_request(ada, "erasure")
    assert refused(shop, ada, request_id=asked, effective_at="2020-01-01T00:00:00Z").code == "effective_too_early"
    assert shop.erasures.erase(ada, reason="gdpr-17", request_id=str(asked)).request_id == asked
    shop.customers.complete_request(ada, asked)
    assert shop.customers.requests(ada, open_only=True) == []


def test_who_is_restricted_or_waits_for_an_answer_is_not_erased_unless_it_is_said_why(shop: Book) -> None:
    ada, bob = shop.customers.register(name="Ada"), shop.customers.register(name="Bob")
    asked = shop.customers.record_request(ada, "access")
    found = refused(shop, ada)
    assert (found.code, found.values["waits_for"]) == ("erasure_held", "request")
    assert f"the request for access {asked} is open" in found.message
    shop.customers.restrict(ada, "claims")
    erasure = shop.customers.record_request(ada, "erasure")
    found = refused(shop, ada, request_id=erasure)
    assert (found.code, found.values["waits_for"]) == ("erasure_held", "restricted, request")
    assert "the data is restricted" in found.message
    assert refused(shop, ada, even_so="not a code").code == "invalid_argument"
    receipt = shop.erasures.erase(ada, reason="gdpr-17", request_id=erasure, even_so="subject-insists")
    assert receipt.even_so == "subject-insists"
    [row] = section(shop, "erasure-evidence", "Erasures").rows
    assert "subject-insists" in row
    # Where nothing stood in the way, there is nothing to say.
    assert shop.erasures.erase(bob, reason="gdpr-17", even_so="to-be-sure").even_so is None


@pytest.mark.parametrize("since", ["last_activity", "recorded"])
def test_a_sweep_waits_for_the_answer_to_a_request(shop: Book, now: list[int], since: str) -> None:
    ada = shop.customers.register(name="Ada", note="Tall")
    shop.retention.declare("quiet", "all", purpose="crm", legal_basis="GDPR:5.1.e", period=12, since=since)
    now[0] += 2 * YEAR_US
    request = shop.customers.record_request(ada, "access")
    [due] = shop.retention.due().customers
    assert (due.ready, due.waits_for) == (False, ("request",))
    assert shop.retention.sweep().due == 0
    assert shop.profiles.get(ada)["name"] == "Ada"
    assert any("request" in row for row in section(shop, "retention", "Due").rows)
    shop.customers.complete_request(ada, request)
    wanted = shop.customers.record_request(ada, "erasure")  # stands in nobody's way
    [due] = shop.retention.due().customers
    assert (due.ready, due.waits_for) == (True, ())
    swept = shop.retention.sweep()
    assert swept.erased + swept.partly == 1
    shop.customers.complete_request(ada, wanted)


def test_a_request_that_comes_while_a_sweep_is_under_way_counts(
    shop: Book, now: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = shop.customers.register(name="Ada")
    shop.retention.declare("quiet", "all", purpose="crm", legal_basis="GDPR:5.1.e", period=12, since="last_activity")
    now[0] += 2 * YEAR_US
    erasing = shop.retention._erasing
    before = erasing.record

    def late(customer: UUID, **given: object) -> None:
        shop.customers.record_request(customer, "access")
        before(customer, **given)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(erasing, "record", late)
    swept = shop.retention.sweep()
    assert (swept.due, swept.erased, swept.left) == (1, 0, 1)
    assert shop.profiles.get(ada)["name"] == "Ada"


def test_the_review_marks_erasures_whose_request_does_not_fit(shop: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a host recorded by itself, or an earlier release."""
    ada, bob = shop.customers.register(name="Ada"), shop.customers.register(name="Bob")
    cyd, dee = shop.customers.register(name="Cyd"), shop.customers.register(name="Dee")
    access = shop.customers.record_request(bob, "access")
    fits, own, asked = (
        shop.customers.record_request(cyd, "erasure"),
        shop.customers.record_request(dee, "access"),
        shop.customers.record_request(dee, "erasure"),
    )
    shop.customers.complete_request(dee, asked, outcome="withdrawn")
    with monkeypatch.context() as patched:
        patched.setattr("tallybook.domain.erasure.check_erasure", lambda *_: None)
        patched.setattr("tallybook.erasing.check_erasure", lambda *_: None)
        shop.erasures.erase(ada, reason="x", request_id=access)
        shop.erasures.erase(dee, reason="x", request_id=own)
    shop.erasures.erase(cyd, reason="x", request_id=fits)
    found = section(shop, "erasure-evidence", "Erasures")
    place = [one.name for one in found.columns].index("request fits")
    told = {row[0]: row[place] for row in found.rows}
    assert told == {ada: "NOT THIS SUBJECT'S", dee: "FOR ACCESS", cyd: "yes"}
    [event] = [one.event for one in shop._core.stream(cyd) if isinstance(one.event, SubjectErased)]
    assert event.request_id == fits


def test_a_log_that_was_put_back_is_erased_again_whatever_stands_in_the_way(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("dpo:kim", purpose="subject_rights"):
        ada = book.customers.register(name="Ada")
        asked = book.customers.record_request(ada, "access")
        book.backup(tmp_path / "copy")
        book.customers.complete_request(ada, asked)
        book.erasures.erase(ada, reason="gdpr-17")
    for file in tmp_path.glob("shop.book*"):
        if file.name in ("shop.book", "shop.book-wal", "shop.book-shm"):
            file.unlink()
    tallybook.restore(tmp_path / "copy", url)
    with tallybook.open(url) as book:
        assert book.erasures.receipt(ada).reason == "restored"


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────────────


def run(*arguments: str, answer: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments, input=answer)
    return done.exit_code, done.output


@pytest.fixture
def there(tmp_path: Path) -> tuple[UUID, tuple[str, ...]]:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("dpo:kim", purpose="subject_rights"):
        ada = book.customers.register(name="Ada", note="Tall", identifiers={"crm": "C-1"})
        book.customers.record_purchase(ada, [{"sku": "tea", "quantity": 1, "net_minor": 100}], order_id="O-1")
        book.retention.declare(
            "tax", "transaction", purpose="tax", legal_basis="HGB:257", period=10, unit="years", action="keep"
        )
    return ada, ("--reason", "gdpr-17", "--book", url, "--actor", "dpo:kim", "--purpose", "subject_rights")


def test_a_dry_run_tells_what_would_go_and_what_would_be_kept(there: tuple[UUID, tuple[str, ...]]) -> None:
    ada, rest = there
    status, told = run("erase", str(ada), "--dry-run", "--json", *rest)
    found = json.loads(told)
    assert (status, found["goes"], found["kept"], found["lookups"]) == (
        0,
        {"communication": 1, "identity": 2},
        {"transaction": 1},
        2,
    )
    assert found["waits_for"] == []
    assert found["kept_until"]
    status, told = run("erase", "crm:C-1", "--dry-run", *rest)
    assert status == 0
    for said in ("identity", "transaction", "Nothing was erased"):
        assert said in told
    with tallybook.open(rest[3]) as book, book.acting("dpo:kim", purpose="subject_rights"):
        assert book.profiles.get(ada)["name"] == "Ada"
        book.customers.record_request(ada, "access")
        assert book.erasures.preview(ada).waits_for == ("request",)
        with pytest.raises(Refused, match="unknown_customer"):
            book.erasures.preview(uuid4())
    status, told = run("erase", str(ada), "--dry-run", *rest)
    assert "In the way: the request for access" in told


def test_without_a_terminal_an_erasure_needs_yes(there: tuple[UUID, tuple[str, ...]]) -> None:
    ada, rest = there
    status, told = run("erase", str(ada), *rest, answer="y\n")
    assert status == 2
    assert "--yes" in told
    status, told = run("erase", str(ada), "--yes", *rest)
    assert (status, "was erased at" in told) == (0, True)
    with tallybook.open(rest[3]) as book, pytest.raises(Refused, match="customer_erased"):
        book.erasures.preview(ada)
    assert run("erase", str(ada), "--yes", *rest)[0] == 0  # finished, and the receipt given again


@pytest.mark.parametrize(("answer", "gone"), [("n\n", False), ("\n", False), ("y\n", True)])
def test_on_a_terminal_it_is_asked_for(
    there: tuple[UUID, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, answer: str, gone: bool
) -> None:
    ada, rest = there
    monkeypatch.setattr("tallybook.cli_erasure.at_a_terminal", lambda: True)
    status, told = run("erase", str(ada), *rest, answer=answer)
    assert "There is no way back" in told
    assert ("was erased at" in told, status) == (gone, 0 if gone else 1)


def test_even_so_on_the_command_line(there: tuple[UUID, tuple[str, ...]]) -> None:
    ada, rest = there
    assert run("restrict", str(ada), "--reason", "claims", *rest[2:])[0] == 0
    done = CliRunner().invoke(app, ["erase", str(ada), "--yes", *rest])
    assert isinstance(done.exception, Refused)
    assert done.exception.code == "erasure_held"
    status, told = run("erase", str(ada), "--yes", "--even-so", "claims-over", *rest)
    assert status == 0
    assert "claims-over" in told
