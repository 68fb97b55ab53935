"""What a scheduler runs, under the policy that ships: actors with the role `job`, and the command line's defaults."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from uuid import UUID

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import Refused
from tallybook.cli import app

from .conftest import STANDARD


@pytest.fixture
def shop(tmp_path: Path) -> tuple[str, UUID]:
    """A book with somebody whose points have expired, and of whom everything is past its period."""
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book:
        with book.acting("admin:root", purpose="administration"):
            book.rules.adopt(STANDARD, effective_at="2014-01-01T00:00:00Z")
            book.policy.grant("admin:root", "admin")
            for actor, role in (("agent:lin", "support"), ("agent:cai", "clerk"), ("dpo:kim", "dpo")):
                book.policy.grant(actor, role)
            for job in ("job:import", "job:sweep", "job:retention", "job:backup"):
                book.policy.grant(job, "job")
            book.policy.adopt("shop")
        with book.acting("agent:cai", purpose="sales"):
            ada = book.customers.register(name="Ada", effective_at="2015-01-01T00:00:00Z")
            book.loyalty.enrol(ada, effective_at="2015-01-01T00:00:00Z")
            book.customers.record_purchase(
                ada, [{"sku": "tea", "quantity": 1, "net_minor": 90_000}], effective_at="2015-01-02T00:00:00Z"
            )
        with book.acting("dpo:kim", purpose="subject_rights"):
            book.retention.declare(
                "quiet", "all", purpose="crm", legal_basis="GDPR:5.1.e", period=24, since="last_activity"
            )
    return url, ada


def run(*arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return dict(json.loads(done.stdout)) if "--json" in arguments else {}


def test_every_job_of_the_docs_runs_under_the_policy_that_ships(shop: tuple[str, UUID], tmp_path: Path) -> None:
    url, ada = shop
    book = ("--book", url)
    file = tmp_path / "purchases.txt"
    file.write_text("00001 19970101  1   11.77\n00002 19970112  1   12.00\n")
    assert run("import", "cdnow", str(file), "--json", *book)["recorded"] == 2
    assert run("sweep", "--json", *book)["decisions"], "points expired, and the tier moved on"
    assert run("retention", "sweep", "--json", *book)["erased"] == 3
    run("projections", "catch-up", "--json", *book)
    with tallybook.open(url) as opened:
        stop = Event()
        stop.set()
        opened.projections.run(stop=stop)
    run("audit", "checkpoint", *book)
    run("doctor", *book)
    run("backup", str(tmp_path / "copy"), "--actor", "job:backup", "--purpose", "administration", *book)
    with tallybook.open(url) as opened:
        assert ada in opened.erasures.all()
        by = {one.event.metadata.actor for one in opened._core.history(["customer.erased"])}
    assert by == {"job:retention"}


def test_who_may_sweep_may_not_erase_by_hand_or_with_another_purpose(shop: tuple[str, UUID]) -> None:
    url, ada = shop
    with tallybook.open(url) as book:
        for purpose in ("administration", "support"):
            with book.acting("job:retention", purpose=purpose), pytest.raises(Refused) as caught:
                book.erasures.erase(ada, reason="curiosity")
            assert caught.value.code == "access_denied"
        with book.acting("agent:lin", purpose="support"), pytest.raises(Refused) as caught:
            book.retention.sweep()
        assert caught.value.code == "access_denied"
        assert book.erasures.all() == []


def test_a_sweep_ends_what_an_erasure_kept_and_erases_single_values_too(tmp_path: Path) -> None:
    now = [1_700_000_000_000_000]
    year_us = 366 * 86_400 * 1_000_000
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book", now_us=lambda: now[0]) as book:
        with book.acting("admin:root", purpose="administration"):
            book.policy.grant("admin:root", "admin")
            book.policy.grant("job:retention", "job")
        with book.acting("dpo:kim", purpose="subject_rights"):
            ada = book.customers.register(name="Ada", note="Tall")
            bob = book.customers.register(name="Bob")
            order = [{"sku": "tea", "quantity": 1, "net_minor": 100}]
            book.customers.record_purchase(bob, order, order_id="O-1")
            book.customers.record_interaction(ada, "enquiry", text="Where?")
            book.retention.declare(
                "tax", "transaction", purpose="tax", legal_basis="HGB:257", period=1, unit="years", action="keep"
            )
            book.retention.declare("letters", "communication", purpose="crm", legal_basis="GDPR:5.1.e", period=6)
            book.erasures.erase(bob, reason="gdpr-17")
        with book.acting("admin:root", purpose="administration"):
            book.policy.adopt("shop")
        now[0] += 2 * year_us
        with book.acting("job:retention", purpose="administration"):
            swept = book.retention.sweep()
        assert (swept.erased, swept.partly, swept.left) == (1, 1, 0)
        assert book.erasures.receipt(bob).commitments.keys() == {1, 2}
