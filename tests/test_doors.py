"""Every public way to personal data: it is known here, recorded, denied by a policy, shut if it can't be recorded.

A public method that stands in none of the lists fails, so that a new door can't be forgotten.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import inspect
import pickle
import re
import resource
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints
from uuid import UUID

import click
import pytest
import typer.main
from tools.reference import DESKS

import tallybook
from tallybook import Book, BookError, BookFull, Refused, TallybookError, cli
from tallybook.adapters.gate import Gate
from tallybook.adapters.keys import Keyring
from tallybook.adapters.log import LogRecorder
from tallybook.adapters.notes import Signer, taken_apart
from tallybook.commands import BoundCommand, Desk, awaitable, command
from tallybook.customers import PurchaseResult, ReturnResult
from tallybook.domain.access import DENIED, RELEASED, TOLD, Exported, PersonalDataRead
from tallybook.domain.customer import CustomerRegistered, PurchaseRecorded, ReturnRecorded
from tallybook.domain.events import REGISTRY, Decision, Event
from tallybook.domain.personal import Personal
from tallybook.domain.points import LoyaltyDecision, PointsEarned
from tallybook.domain.policy import PolicyDocument
from tallybook.domain.retention import Schedule
from tallybook.domain.rules import Multiplier, Reward, RuleSet
from tallybook.policy_names import ACTIONS
from tallybook.projections.backtest import Backtest
from tallybook.projections.sweep import Sweep
from tallybook.reviews import REVIEWS
from tallybook.shadow import Shadow
from tallybook.views import ProfilesView

from .conftest import CANDIDATE, STANDARD

STEM = "Quetzalcoatl"
DENIES = {
    "name": "closed",
    "version": "1",
    "purposes": {"support": {"text": "Answering", "basis": "contract"}},
    "rules": [{"id": "admins", "roles": ["admin"], "commands": ["*"]}],
}


class Filled(NamedTuple):
    book: Book
    customer: UUID
    ticket: UUID
    path: Path


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    """A book with the stem in every personal field."""
    path = tmp_path / "shop.book"
    with (
        tallybook.open(f"sqlite:///{path}", lock_timeout_s=1) as book,
        book.acting("agent:lin", purpose="support"),
    ):
        book.rules.adopt(STANDARD, effective_at="2020-01-01T00:00:00Z")
        sealed = set(CustomerRegistered.personal_fields) - {"birth_date"}
        profile: dict[str, Any] = {name: f"{STEM} {name}" for name in sealed}
        customer = book.customers.register(
            **profile,
            email=f"{STEM}@example.org",
            phone="+49 30 12345678",
            identifiers={"crm": f"{STEM}-77"},
        )
        book.customers.change(customer, note=f"{STEM} changed")
        book.loyalty.enrol(customer)
        book.customers.record_purchase(customer, [{"sku": "cd", "quantity": 1, "net_minor": 500}], order_id=STEM)
        book.customers.record_interaction(customer, "visit", text=f"{STEM} came")
        ticket = book.tickets.open(customer, subject=f"{STEM} asks", text=f"{STEM} asks")
        book.tickets.reply(ticket, author="human", text=f"{STEM} answered")
        yield Filled(book, customer, ticket, path)


Call = Callable[[Filled], object]


def packed(filled: Filled, *, sealed: bool) -> str:
    """All that an auditor's pack holds."""
    folder = filled.path.with_name(f"pack-{next(_NUMBERS)}")
    filled.book.audit.export(folder, sealed=sealed)
    return " ".join(file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file())


_NUMBERS = count(1)


def decisions(filled: Filled) -> list[UUID]:
    """The decisions about the customer's account."""
    events = [one.event for one in filled.book.follow(timeout_s=0)]
    return [one.event_id for one in events if isinstance(one, Decision)]


def spring(filled: Filled) -> str:
    """A campaign that runs."""
    rule_set = filled.book.rules.check(STANDARD)
    earning = [
        rule if isinstance(rule, Multiplier) else rule.model_copy(update={"campaign": "spring"})
        for rule in rule_set.earning
    ]
    filled.book.rules.adopt(
        rule_set.model_copy(update={"version": "2", "earning": earning}), effective_at="2025-01-01T00:00:00Z"
    )
    return "spring"


def held(filled: Filled, report: Any) -> str:
    """All that a file holds which was written, and what is told of it."""
    del filled
    file = Path(getattr(report, "file", None) or report.path)
    return f"{report!r} {file.read_bytes().decode(errors='replace')}"


def reviewed(filled: Filled, name: str, **about: Any) -> str:
    """All that a review holds, in each of its forms."""
    report = filled.book.audit.review(name, **about)
    folder = filled.path.with_name("review")
    report.csv(folder)
    return " ".join([report.json(), report.html(), *(file.read_text() for file in folder.iterdir())])


def swept(filled: Filled) -> Sweep:
    """A sweep of two candidates."""
    return filled.book.backtest_sweep([CANDIDATE, STANDARD], executor="reference", budget=0)


def shadowed(filled: Filled) -> Shadow:
    """A candidate beside the adopted rules, that has seen what there is."""
    shadow = filled.book.shadow(CANDIDATE, since="1996-01-01T00:00:00Z")
    shadow.catch_up()
    return shadow


def backtested(filled: Filled) -> Backtest:
    """A backtest with a row for each account, in a file."""
    file = filled.path.with_name("accounts")
    return filled.book.backtest(CANDIDATE, executor="reference", customers=file, replace=True)


def archived(filled: Filled, number: int) -> Any:
    """The rows of a bucket of the archive."""
    return filled.book.archive.bucket(number).to_pylist()


DOORS: Mapping[str, Call] = {
    "book.profiles.get": lambda it: it.book.profiles.get(it.customer),
    "book.profiles.get, as of a date": lambda it: it.book.profiles.get(it.customer, known_at=it.book.position()),
    "book.profiles.timeline": lambda it: it.book.profiles.timeline(it.customer),
    "book.profiles.segments": lambda it: it.book.profiles.segments(system="crm"),
    "book.tickets.read": lambda it: it.book.tickets.read(it.ticket),
    "book.audit.subject_report": lambda it: it.book.audit.subject_report(it.customer).json(),
    "book.audit.replay": lambda it: it.book.audit.replay(it.customer, datetime.now(UTC)),
    "book.audit.export": lambda it: packed(it, sealed=False),
    "book.audit.review, subject-access": lambda it: reviewed(it, "subject-access", subject=it.customer),
    "book.audit.review, portable-copy": lambda it: reviewed(it, "portable-copy", subject=it.customer),
    "book.audit.review, corrections": lambda it: reviewed(it, "corrections", subject=it.customer),
}
"""What gives personal values."""

LOOKS: Mapping[str, Call] = {
    "book.customers.find": lambda it: it.book.customers.find("crm", f"{STEM}-77"),
    "book.customers.requests, of one": lambda it: it.book.customers.requests(it.customer),
    "book.audit.replay, sealed": lambda it: it.book.audit.replay(it.customer, datetime.now(UTC), sealed=True),
    "book.audit.trail": lambda it: it.book.audit.trail(it.customer),
    "book.audit.trail, by an actor": lambda it: it.book.audit.trail(it.customer, actor="agent:lin"),
    "book.customers.privacy": lambda it: it.book.customers.privacy(it.customer),
    "book.audit.review, erasure-evidence": lambda it: reviewed(it, "erasure-evidence", subject=it.customer),
    "book.audit.review, restrictions": lambda it: reviewed(it, "restrictions", subject=it.customer),
    "book.audit.review, consent-at": lambda it: reviewed(it, "consent-at", subject=it.customer),
    "book.audit.review, exposure": lambda it: reviewed(it, "exposure", subject=it.customer, actor="agent:lin"),
}
"""What tells something about a person without opening anything: recorded, too."""

LOOKS_AT_ALL: Mapping[str, Call] = {
    "book.customers.find, nobody": lambda it: it.book.customers.find("crm", f"{STEM}-78"),
    "book.customers.requests": lambda it: it.book.customers.requests(),
    "book.audit.export, sealed": lambda it: packed(it, sealed=True),
    "book.backup": lambda it: held(it, it.book.backup(it.path.with_name("backup"), replace=True)),
    "book.backup_keys": lambda it: held(it, it.book.backup_keys(it.path.with_name("keys"), replace=True)),
    "book.exports.cloudevents": lambda it: held(it, it.book.exports.cloudevents(it.path.with_name("ce"), replace=True)),
    "book.exports.ocsf": lambda it: held(it, it.book.exports.ocsf(it.path.with_name("ocsf"), replace=True)),
    "book.exports.ocel": lambda it: held(it, it.book.exports.ocel(it.path.with_name("ocel"), replace=True)),
    "book.backtest, with a row for each account": lambda it: backtested(it).frame("customers").rows(),
    "book.audit.trail, of all": lambda it: it.book.audit.trail(),
    "book.audit.review, corrections of all": lambda it: reviewed(it, "corrections"),
    "book.audit.review, processing-records": lambda it: reviewed(it, "processing-records"),
    "book.audit.review, compliance-audit": lambda it: reviewed(it, "compliance-audit"),
    "book.audit.review, access-review": lambda it: reviewed(it, "access-review"),
    "book.audit.review, retention": lambda it: reviewed(it, "retention"),
}
"""What tells something about all together, finds nobody, or copies what is sealed: recorded as a read about nobody."""

SHUT: Mapping[str, Call] = {
    "book.origin": lambda it: it.book.origin,
    "book.position": lambda it: it.book.position(),
    "book.follow": lambda it: list(it.book.follow(timeout_s=0)),
    "book.replay": lambda it: it.book.replay(),
    "book.backtest": lambda it: it.book.backtest(CANDIDATE, executor="reference"),
    "book.doctor": lambda it: it.book.doctor(),
    "book.drop_snapshots": lambda it: it.book.drop_snapshots(),
    "book.profiles.segments": lambda it: it.book.profiles.segments(),
    "book.loyalty.sweep": lambda it: it.book.loyalty.sweep(),
    "book.loyalty.balance": lambda it: it.book.loyalty.balance(it.customer),
    "book.loyalty.account": lambda it: it.book.loyalty.account(it.customer),
    "book.loyalty.explain": lambda it: [it.book.loyalty.explain(one) for one in decisions(it)],
    "book.loyalty.explain_account": lambda it: it.book.loyalty.explain_account(it.customer),
    "book.loyalty.statement": lambda it: it.book.loyalty.statement(it.customer),
    "book.loyalty.statement, by effective time": lambda it: it.book.loyalty.statement(it.customer, order="effective"),
    "book.loyalty.liability": lambda it: it.book.loyalty.liability(),
    "book.archive.status": lambda it: it.book.archive.status(),
    "book.archive.catch_up": lambda it: it.book.archive.catch_up(),
    "book.archive.follow": lambda it: list(it.book.archive.follow(every_s=0, timeout_s=0)),
    "book.archive.rebuild": lambda it: it.book.archive.rebuild(),
    "book.archive.compact": lambda it: [it.book.archive.rebuild(), it.book.archive.compact()],
    "book.archive.verify": lambda it: it.book.archive.verify(),
    "book.archive.bucket": lambda it: [it.book.archive.rebuild(), *(archived(it, one) for one in range(65))],
    "book.archive.scan": lambda it: it.book.archive.scan(),
    "ArchiveVerification.holds": lambda it: it.book.archive.verify().holds,
    "Scan.dataset": lambda it: it.book.archive.scan().dataset().to_table().to_pylist(),
    "Scan.arrow": lambda it: it.book.archive.scan().arrow().to_pylist(),
    "Scan.polars": lambda it: it.book.archive.scan().polars().collect().to_dicts(),
    "Scan.duckdb": lambda it: it.book.archive.scan().duckdb().fetchall(),
    "Statement.csv": lambda it: it.book.loyalty.statement(it.customer).csv(),
    "book.loyalty.balances": lambda it: it.book.loyalty.balances(),
    "book.loyalty.outstanding": lambda it: it.book.loyalty.outstanding(),
    "book.loyalty.expiring": lambda it: it.book.loyalty.expiring("2100-01-01"),
    "book.loyalty.programme_figures": lambda it: it.book.loyalty.programme_figures("2025-01-01", "2099-12-31"),
    "book.loyalty.campaign_effect": lambda it: it.book.loyalty.campaign_effect(spring(it)),
    "book.loyalty.reward_popularity": lambda it: it.book.loyalty.reward_popularity(),
    "OutstandingPoints.points": lambda it: [one.points for one in it.book.loyalty.outstanding().rows],
    "book.tickets.get": lambda it: it.book.tickets.get(it.ticket),
    "book.rules.check": lambda it: it.book.rules.check(STANDARD),
    "book.rules.rules_of": lambda it: it.book.rules.rules_of(STANDARD),
    "book.rules.adopted": lambda it: it.book.rules.adopted(),
    "book.rules.proposals": lambda it: it.book.rules.proposals(),
    "book.rules.in_force": lambda it: it.book.rules.in_force(),
    "book.policy.check": lambda it: it.book.policy.check("shop"),
    "book.policy.in_force": lambda it: it.book.policy.in_force(),
    "book.policy.roles": lambda it: it.book.policy.roles(),
    "book.policy.explain": lambda it: it.book.policy.explain("agent:lin", "support", "profiles.get"),
    "book.tiers.members": lambda it: it.book.tiers.members("basic"),
    "book.tiers.counts": lambda it: it.book.tiers.counts(),
    "book.tiers.history": lambda it: it.book.tiers.history(it.customer),
    "book.tiers.standing": lambda it: it.book.tiers.standing(it.customer),
    "book.audit.verify": lambda it: it.book.audit.verify(),
    "book.audit.verify_read_models": lambda it: it.book.audit.verify_read_models(),
    "book.audit.vkey": lambda it: it.book.audit.vkey,
    "book.audit.vkeys": lambda it: it.book.audit.vkeys(),
    "book.audit.rotations": lambda it: it.book.audit.rotations(),
    "book.audit.checkpoint": lambda it: it.book.audit.checkpoint(),
    "book.audit.checkpoints": lambda it: it.book.audit.checkpoints(),
    "book.audit.proof": lambda it: it.book.audit.proof(1),
    "book.audit.check_certificate": lambda it: it.book.audit.check_certificate(it.book.replay(sign=True).note),
    "book.audit.consistency": lambda it: it.book.audit.consistency(*[it.book.audit.checkpoint()] * 2),
    "book.audit.rotate_signing_key": lambda it: it.book.audit.rotate_signing_key(),
    "book.projections.status": lambda it: it.book.projections.status(),
    "book.projections.catch_up": lambda it: it.book.projections.catch_up(),
    "book.projections.rebuild": lambda it: it.book.projections.rebuild(),
    "book.projections.drop_superseded": lambda it: it.book.projections.drop_superseded(),
    "book.retention.schedules": lambda it: it.book.retention.schedules(),
    "book.erasures.preview": lambda it: it.book.erasures.preview(it.customer),
    "book.retention.due": lambda it: it.book.retention.due(),
    "Follower.position": lambda it: it.book.follow(timeout_s=0).position,
    "Event.effective_at": lambda it: [one.event.effective_at for one in it.book.follow(timeout_s=0)],
    "Event.recorded_at": lambda it: [one.event.recorded_at for one in it.book.follow(timeout_s=0)],
    "book.audit.rebuild_tiles": lambda it: it.book.audit.rebuild_tiles(),
    "Event.subject_ids": lambda it: [one.event.subject_ids for one in it.book.follow(timeout_s=0)],
    "Event.substance": lambda it: [one.event.substance() for one in it.book.follow(timeout_s=0)],
    "PurchaseRecorded.net_minor": lambda it: [
        one.event.net_minor for one in it.book.follow(timeout_s=0) if isinstance(one.event, PurchaseRecorded)
    ],
    "ReturnRecorded.net_minor": lambda it: [
        one.event.net_minor for one in it.book.follow(timeout_s=0) if isinstance(one.event, ReturnRecorded)
    ],
    "Personal.sealed": lambda it: [one.sealed for one in handles(it)],
    "Personal.field": lambda it: [one.field for one in handles(it)],
    "Personal.known_as": lambda it: [one.known_as for one in handles(it)],
    "Certificate.holds": lambda it: it.book.replay().holds,
    "book.backtest_sweep": lambda it: swept(it).scenarios,
    "Sweep.digest": lambda it: swept(it).digest(),
    "Sweep.as_dict": lambda it: swept(it).as_dict(),
    "book.shadow": lambda it: shadowed(it).catch_up(),
    "Shadow.catch_up": lambda it: shadowed(it).catch_up(),
    "Shadow.differences": lambda it: shadowed(it).differences(),
    "Shadow.status": lambda it: shadowed(it).status(),
    "Shadow.position": lambda it: shadowed(it).position,
    "Shadow.close": lambda it: shadowed(it).close(),
    "Backtest.explain": lambda it: it.book.backtest(CANDIDATE, executor="reference").explain(it.customer),
    "Backtest.digest": lambda it: it.book.backtest(CANDIDATE, executor="reference").digest(),
    "Mover.change": lambda it: [one.change for one in it.book.backtest(CANDIDATE, executor="reference").gained],
    "Backtest.as_dict": lambda it: it.book.backtest(CANDIDATE, executor="reference").as_dict(),
    "Backtest.html": lambda it: it.book.backtest(CANDIDATE, executor="reference").html(),
    "Backtest.tables": lambda it: it.book.backtest(CANDIDATE, executor="reference").tables(),
    "Backtest.frame": lambda it: it.book.backtest(CANDIDATE, executor="reference").frame("movers").rows(),
    "Certificate.document": lambda it: it.book.replay(executor="reference").document(),
    "Certificate.canonical": lambda it: it.book.replay().canonical(),
    "Certificate.digest": lambda it: it.book.replay().digest(),
    "Certificate.parse": lambda it: type(made := it.book.replay(sign=True)).parse(made.canonical()),
    **{
        f"{schema.event_class.__name__}.moves": lambda it: [
            one.event.moves() for one in it.book.follow(timeout_s=0) if isinstance(one.event, LoyaltyDecision)
        ]
        for schema in REGISTRY.values()
        if issubclass(schema.event_class, LoyaltyDecision)
    },
    **{
        f"{schema.event_class.__name__}.in_use": lambda it: [
            one.event.in_use for one in it.book.follow(timeout_s=0) if isinstance(one.event, LoyaltyDecision)
        ]
        for schema in REGISTRY.values()
        if issubclass(schema.event_class, LoyaltyDecision)
    },
    "PointsEarned.pending": lambda it: [
        one.event.pending for one in it.book.follow(timeout_s=0) if isinstance(one.event, PointsEarned)
    ],
    "Verification.holds": lambda it: [one.holds for one in it.book.audit.verify()],
    "ReadModelVerification.holds": lambda it: [one.holds for one in it.book.audit.verify_read_models()],
    "ReadModelVerification.behind": lambda it: [one.behind for one in it.book.audit.verify_read_models()],
    "Status.lag": lambda it: [one.lag for one in it.book.projections.status()],
    "Due.ready": lambda it: it.book.retention.due().ready,
    "Due.values": lambda it: it.book.retention.due().values,
    "DueSubject.due_text": lambda it: [one.due_text() for one in it.book.retention.due().customers],
    "ValueResealed.kept": lambda it: [getattr(one.event, "kept", None) for one in it.book.follow(timeout_s=0)],
    "PurchaseResult.points": lambda it: bought(it, "points").points,
    "PurchaseResult.tier": lambda it: bought(it, "tier").tier,
    "ReturnResult.points": lambda it: returned(it).points,
    "ReturnResult.tier": lambda it: returned(it).tier,
    "tallybook.doctor": lambda it: tallybook.doctor(f"sqlite:///{it.path}"),
}
"""What gives no personal value, and opens none."""

RELEASED_BEFORE: Mapping[str, Callable[[Filled], Callable[[], object]]] = {
    "SubjectReport.json": lambda it: it.book.audit.subject_report(it.customer).json,
    "SubjectReport.html": lambda it: it.book.audit.subject_report(it.customer).html,
    "SubjectReport.portable": lambda it: it.book.audit.subject_report(it.customer).portable,
    "SubjectReport.report": lambda it: it.book.audit.subject_report(it.customer).report,
    "AuditReplay.canonical": lambda it: it.book.audit.replay(it.customer, datetime.now(UTC)).canonical,
    "AuditReplay.json": lambda it: it.book.audit.replay(it.customer, datetime.now(UTC)).json,
    "AuditReplay.report": lambda it: it.book.audit.replay(it.customer, datetime.now(UTC)).report,
    "AuditReplay.html": lambda it: it.book.audit.replay(it.customer, datetime.now(UTC)).html,
    "Report.json": lambda it: it.book.audit.review("subject-access", subject=it.customer).json,
    "Report.html": lambda it: it.book.audit.review("subject-access", subject=it.customer).html,
    "Report.csv": lambda it: partial(
        it.book.audit.review("subject-access", subject=it.customer).csv, it.path.with_name("review")
    ),
    "EventEntry.values": lambda it: partial(
        lambda report: [one.values for one in report.events], it.book.audit.subject_report(it.customer)
    ),
}
"""What an object gives again that a recorded read released: no further record, and nothing is opened for it."""

DOCUMENTS = {"RuleSet", "Rules", "Expiry", "Tiers", "Predicate", "PolicyDocument", "Purpose", "Schedule"}
"""What a host writes about its rules, policies and schedules: of the domain, which knows no book and no customer."""

ALL = dict([*DOORS.items(), *LOOKS.items(), *LOOKS_AT_ALL.items()])

NEITHER = {
    "book.acting", "book.close", "book.imports.cdnow", "book.projections.run", "book.projections.on_update",
    "book.retention.sweep", "Follower.close", "book.erasures.erase", "book.erasures.erase_kept",
    "book.erasures.receipt", "book.erasures.all", "book.erasures.entries",
    "book.rotate_wrapping_key",
    "book.audit.keep", "book.audit.timestamp", "tallybook.open", "tallybook.restore", "tallybook.synth",
    "BoundCommand.aio",
}  # fmt: skip
"""What does something, and gives back counts and ids at most."""

RESULTS = {
    "UUID", "None", "NoneType", "str", "int", "bool", "PurchaseResult", "ReturnResult", "RedemptionResult",
    "EarningResult", "HoldResult",
}  # fmt: skip
"""What commands give back: ids, counts, points."""


# ── the walk ──────────────────────────────────────────────────────────────────────────────────────────────────────

WALKED = ("__iter__", "__next__", "__aiter__", "__anext__", "__getitem__", "__enter__", "__call__")
"""What has no name of its own and gives something back all the same."""

SELECTS = {
    "as_of", "known_at", "at", "since", "until", "after", "limit", "position", "log", "names", "timeout_s", "programme",
    "customer", "subject", "ticket", "tier", "actor", "role", "purpose", "action", "name", "known", "file", "folder",
    "replace", "progress", "processes", "workers", "stop", "system", "external_id", "open_only", "thresholds",
}  # fmt: skip
"""Parameters that say whose, of when, how many, or where to: they choose, and add nothing to what a method shows."""

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "book.acting": dict.fromkeys(
        ["on_behalf_of", "channel", "application", "address", "correlation_id", "causation_id"], "what records hold"
    ),
    "book.archive.bucket": {"number": "which customers", "columns": "which columns", "encoded": "texts by dictionary"},
    "book.archive.follow": {"every_s": "how often"},
    "book.archive.scan": {"columns": "which columns"},
    "Scan.duckdb": {"connection": "one of the host's"},
    "book.audit.consistency": {"old": "a checkpoint", "new": "a checkpoint"},
    "book.audit.check_certificate": {"certificate": "a signed note", "vkey": "a public key"},
    "book.audit.keep": {"cosigned": "a checkpoint", "witness": "a public key"},
    "book.audit.export": {"sealed": "book.audit.export, sealed"},
    "book.audit.proof": {"checkpoint": "book.audit.proof"},
    "book.audit.replay": {"sealed": "book.audit.replay, sealed", "proofs": "leaves hold what is sealed"},
    "book.audit.rotate_signing_key": {"command_id": "a command"},
    "book.audit.timestamp": {"checkpoint": "a checkpoint", "url": "whom it is sent to: a hash alone"},
    "book.audit.verify": {"against": "a checkpoint", "vkey": "a public key"},
    "book.backtest": {
        "candidate": "a rule set",
        "baseline": "a rule set",
        "unfunded": "a way to reckon",
        "order": "a way to reckon",
        "executor": "a way to reckon",
        "customers": "book.backtest, with a row for each account",
        "record": "a digest and a position",
    },
    "book.backtest_sweep": {
        "candidates": "rule sets",
        "baseline": "a rule set",
        "budget": "a figure",
        "unfunded": "a way to reckon",
        "order": "a way to reckon",
        "executor": "a way to reckon",
    },
    "book.shadow": {"candidate": "a rule set"},
    "book.doctor": {"quick": "book.doctor"},
    "book.erasures.erase": dict.fromkeys(
        ["reason", "request_id", "even_so", "effective_at", "command_id"], "a command"
    ),
    "book.erasures.erase_kept": {"reason": "a command"},
    "book.exports.cloudevents": {"batch": "book.exports.cloudevents"},
    "book.exports.ocel": {"sqlite": "book.exports.ocel"},
    "book.imports.cdnow": dict.fromkeys(["path", "skip_bad", "enrol"], "a command"),
    "book.loyalty.explain": {"decision": "which one"},
    "book.loyalty.liability": {"reported_at": "what was known by then"},
    "book.loyalty.statement": {
        "start": "from when",
        "end": "until when",
        "order": "book.loyalty.statement, by effective time",
    },
    "book.policy.check": {"policy": "a document"},
    "book.replay": {"executor": "Certificate.document", "sign": "Certificate.parse"},
    "Certificate.parse": {"canonical": "a certificate"},
    "book.projections.on_update": {"listener": "is told names and positions"},
    "book.rules.check": {"path": "a document"},
    "book.rules.rules_of": {"rule_set": "a document"},
    "book.loyalty.expiring": {"everybody": "ids of more customers; see book.tiers.members"},
    "book.loyalty.programme_figures": dict.fromkeys(["margin", "point_cost"], "a rate"),
    "book.loyalty.campaign_effect": {"campaign": "whose", "margin": "a rate", "point_cost": "a rate"},
    "book.tiers.members": {"everybody": "ids of more customers; see book.tiers.members"},
    "BoundCommand.aio": {"args": "the command's", "kwargs": "the command's"},
    "Backtest.explain": {"customer_id": "Backtest.explain"},
    "Report.csv": {"place": "where to"},
}
"""Every other parameter, and why it shows nothing more, or under which name above it is tried."""


def function_of(member: Any) -> Any:
    """What a member runs."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, (staticmethod, classmethod)):
        return member.__func__
    return member.function if isinstance(member, (command, awaitable)) else inspect.unwrap(member)


def ours(found: type) -> bool:
    return found.__module__.partition(".")[0] == "tallybook" or found.__module__ == __name__


def public_of(owner: type) -> dict[str, Any]:
    """Public methods and properties of a class, with those that it inherits from another of ours."""
    return {
        name: member
        for one in reversed(owner.__mro__)
        if ours(one)
        for name, member in vars(one).items()
        if not name.startswith("_")
        and not isinstance(member, type)
        and (callable(member) or isinstance(member, (property, awaitable, command, staticmethod, classmethod)))
        and not (issubclass(owner, enum.Enum) and isinstance(member, owner))
    }


def classes_in(hint: Any) -> Iterator[type]:
    """Classes of ours that a type names."""
    if isinstance(found := get_origin(hint) or hint, type) and ours(found) and not issubclass(found, BaseException):
        yield found
    for part in get_args(hint):
        yield from classes_in(part)


def given_back(owner: type, *, fields: bool) -> Iterator[type]:
    """Classes of what the members of a class give back and, with `fields`, of what it holds."""
    unnamed = {name: vars(one)[name] for one in owner.__mro__ if ours(one) for name in WALKED if name in vars(one)}
    for member in (*public_of(owner).values(), *unnamed.values()):
        yield from classes_in(get_type_hints(function_of(member)).get("return"))
        if isinstance(member, (command, awaitable)):
            yield BoundCommand
    if fields:
        for name, hint in get_type_hints(owner).items():
            if not name.startswith("_"):
                yield from classes_in(hint)
    if owner is Event:
        yield from (schema.event_class for schema in REGISTRY.values())


def walk(book: Book) -> dict[str, Any]:
    """Every public way: of the package, of an open book, of its desks, of all that these give back, and so on."""
    roots = {"book": type(book)}
    roots |= {f"book.{name}": type(desk) for name, desk in vars(book).items() if not name.startswith("_")}
    found: dict[str, Any] = {
        f"tallybook.{name}": member
        for name in tallybook.__all__
        if inspect.isfunction(member := getattr(tallybook, name))
    }
    known = set(roots.values())
    ahead = list(roots.items())
    while ahead:
        path, owner = ahead.pop(0)
        for name, member in public_of(owner).items():
            # An event's own members are everybody's; those of one kind are named by it.
            found.setdefault(f"{'Event' if hasattr(Event, name) and issubclass(owner, Event) else path}.{name}", member)
        for one in given_back(owner, fields=path not in roots):
            if one not in known and one.__name__ not in DOCUMENTS:
                known.add(one)
                ahead.append((one.__name__, one))
    return found


def must_be_known(book: Book) -> None:
    """Each way that the walk finds is in one of the lists, and each that is listed is there."""
    found = walk(book)
    listed = {name.partition(",")[0] for name in (*ALL, *SHUT, *RELEASED_BEFORE)} | NEITHER
    ways = {name for name, member in found.items() if not isinstance(member, command)}
    assert ways - listed == set(), (
        f"{sorted(ways - listed)}: a public way that tests/test_doors.py does not know. Call it in DOORS (it "
        "shows personal values), LOOKS (it tells something about somebody), LOOKS_AT_ALL, "
        "SHUT (it shows and opens nothing) or RELEASED_BEFORE; in NEITHER only if it does "
        "something and shows nothing. A door has to go through core.gate."
    )
    assert listed - ways == set(), "listed in tests/test_doors.py, and not there any more"


def options_must_be_known(book: Book) -> None:
    """Each parameter is one that selects, or is listed with what it does; a command gives nothing back anyway."""
    found = {
        (path, name)
        for path, member in walk(book).items()
        if not isinstance(member, (command, property)) and not path.startswith("tallybook.")
        for name in list(inspect.signature(function_of(member)).parameters)[1:]
    }
    unknown = {(path, name) for path, name in found if name not in SELECTS and name not in OPTIONS.get(path, {})}
    assert unknown == set(), (
        f"{sorted(unknown)}: an option that tests/test_doors.py does not know. Say in OPTIONS what it changes; where "
        "that is what is shown, try it in DOORS, LOOKS or SHUT under a name of its own."
    )
    gone = {(path, name) for path, names in OPTIONS.items() for name in names} - found
    assert gone == set(), "listed in OPTIONS, and not there any more"


def test_every_public_way_is_in_a_list(filled: Filled) -> None:
    must_be_known(filled.book)


def test_every_option_of_them_is_known(filled: Filled) -> None:
    options_must_be_known(filled.book)


def test_the_walk_gets_to_all_that_can_be_reached(filled: Filled) -> None:
    found = walk(filled.book)
    assert {"book.customers.find", "Follower.position", "Event.substance", "Personal.sealed", "BoundCommand.aio",
            "Backtest.explain", "AuditReplay.html", "tallybook.open"} <= found.keys()  # fmt: skip
    assert not any(name.startswith(tuple(f"{one}." for one in DOCUMENTS)) for name in found)
    desks = {
        path: type(desk)
        for name, desk in vars(filled.book).items()
        if not (path := f"book.{name}").startswith("book._")
    }
    assert {path: desk for path, desk in DESKS.items() if path.startswith("book.")} == desks


def test_documents_are_of_the_domain() -> None:
    """Which imports nothing that could open a value: import-linter holds it to that."""
    for one in (RuleSet, PolicyDocument, Schedule):
        assert one.__name__ in DOCUMENTS
        assert one.__module__.startswith("tallybook.domain.")


class Parcels(Desk):
    """A desk that nobody told the test of."""

    def contents(self, customer: UUID) -> str:
        """What is in it."""
        return f"{customer}"


class Parcel:
    """What a method might give back."""

    def label(self) -> str:
        """Where it goes to."""
        return ""


def whole_name(self: ProfilesView, customer: UUID) -> list[Parcel]:
    """A method that is new."""
    del self, customer
    return []


def timeline(self: ProfilesView, customer: UUID, *, with_drafts: bool = False) -> list[str]:
    """One that has got another option."""
    del self, customer, with_drafts
    return []


@pytest.mark.parametrize(
    "new", ["book.parcels.contents", "book.profiles.whole_name", "Parcel.label", "book.nickname", "Event.reveal"]
)
def test_a_door_that_is_new_makes_the_walk_fail(filled: Filled, monkeypatch: pytest.MonkeyPatch, new: str) -> None:
    book = filled.book
    if new == "book.parcels.contents":
        book.parcels = Parcels(book._core)  # type: ignore[attr-defined]  # that is what is tried
    elif new == "book.nickname":
        monkeypatch.setattr(Book, "nickname", property(lambda _: ""), raising=False)
    elif new == "Event.reveal":
        monkeypatch.setattr(Event, "reveal", lambda _: "", raising=False)
    else:
        monkeypatch.setattr(ProfilesView, "whole_name", whole_name, raising=False)
    with pytest.raises(AssertionError, match=re.escape(new)) as caught:
        must_be_known(book)
    assert "Call it in DOORS" in str(caught.value)


def test_an_option_that_is_new_makes_the_walk_fail(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProfilesView, "timeline", timeline)
    with pytest.raises(AssertionError, match="with_drafts") as caught:
        options_must_be_known(filled.book)
    assert "Say in OPTIONS" in str(caught.value)


def test_a_door_that_is_gone_makes_the_walk_fail(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not deleted: what is put back stands last in its class, and the pages of reference go by the order.
    monkeypatch.setattr(ProfilesView, "timeline", None)
    with pytest.raises(AssertionError, match="not there any more"):
        must_be_known(filled.book)


def test_every_review_is_in_a_list() -> None:
    listed = {name.partition(", ")[2].removesuffix(" of all") for name in ALL if name.startswith("book.audit.review")}
    assert listed == set(REVIEWS)


def test_no_command_gives_personal_data_back(filled: Filled) -> None:
    for name, member in walk(filled.book).items():
        if isinstance(member, command):
            result = get_type_hints(member.function)["return"]
            assert getattr(result, "__name__", str(result)) in RESULTS, name


def test_every_desk_with_commands_is_called_in_policies_as_in_the_book() -> None:
    for path, desk in DESKS.items():
        if any(isinstance(member, command) for member in vars(desk).values()):
            assert issubclass(desk, Desk)
            assert f"book.{desk._name}" == path
        for name, member in vars(desk).items():
            if isinstance(member, command) and name.startswith("_"):
                assert issubclass(desk, Desk)
                whole = desk._parts[name]
                assert hasattr(desk, whole) or hasattr(Book, whole), f"{path}.{name}: which command is it a part of?"


def shown(answer: object) -> str:
    """All that an answer holds, as text."""
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        return " ".join(shown(getattr(answer, field.name)) for field in dataclasses.fields(answer))
    if isinstance(answer, Mapping):
        return " ".join(f"{shown(key)} {shown(value)}" for key, value in answer.items())
    if isinstance(answer, Sequence) and not isinstance(answer, (str, bytes)):
        return " ".join(map(shown, answer))
    return f"{answer} {answer!r}"


@pytest.fixture
def opened_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who opened sealed values."""
    found: list[str] = []
    real = Keyring.open

    def watched(self: Keyring, *args: Any, **kwargs: Any) -> Any:
        found.append(sys._getframe(1).f_code.co_name if _is_gate(sys._getframe(1)) else "somebody else")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Keyring, "open", watched)
    return found


def _is_gate(frame: Any) -> bool:
    return isinstance(frame.f_locals.get("self"), Gate)


def about(filled: Filled, door: str) -> tuple[UUID, ...]:
    """Whom a read by a door is recorded to be about."""
    return () if door in LOOKS_AT_ALL else (filled.customer,)


def handles(filled: Filled) -> list[Personal[Any]]:
    """All that iterating over the events gives of personal fields."""
    held = [value for one in filled.book.follow(timeout_s=0) for value in one.event.__dict__.values()]
    found = [value for value in held if isinstance(value, Personal)]
    assert len(found) > 15
    return found


def bought(filled: Filled, order: str) -> PurchaseResult:
    lines = [{"sku": "cd", "quantity": 1, "net_minor": 500}]
    return filled.book.customers.record_purchase(filled.customer, lines, order_id=order)


def returned(filled: Filled) -> ReturnResult:
    order = f"returned {next(_NUMBERS)}"
    bought(filled, order)
    return filled.book.customers.record_return(filled.customer, {1: 1}, order_id=order)


def reads_of(book: Book) -> list[PersonalDataRead]:
    return [one.event for one in book._core.reads() if isinstance(one.event, PersonalDataRead)]


@pytest.mark.parametrize("door", ALL)
def test_a_door_is_one_record_and_opens_by_the_gate_alone(filled: Filled, opened_by: list[str], door: str) -> None:
    before = len(reads_of(filled.book))
    answer = ALL[door](filled)
    [record] = reads_of(filled.book)[before:]
    assert record.outcome == RELEASED
    assert record.action in ACTIONS
    assert record.subjects == about(filled, door)
    assert (STEM in shown(answer)) is (door in DOORS)
    assert set(opened_by) == ({"_values"} if door in DOORS else set())


@pytest.mark.parametrize("name", SHUT)
def test_what_is_no_door_opens_nothing_and_shows_nothing(filled: Filled, opened_by: list[str], name: str) -> None:
    before = len(reads_of(filled.book))
    assert STEM not in shown(SHUT[name](filled))
    assert opened_by == []
    assert len(reads_of(filled.book)) == before


@pytest.mark.parametrize("name", RELEASED_BEFORE)
def test_what_was_released_is_given_again_without_opening_anything(
    filled: Filled, opened_by: list[str], name: str
) -> None:
    again = RELEASED_BEFORE[name](filled)
    before = len(reads_of(filled.book))
    opened_by.clear()
    again()
    assert opened_by == []
    assert len(reads_of(filled.book)) == before


def test_iterating_gives_no_plaintext_in_any_form(filled: Filled, opened_by: list[str]) -> None:
    """Neither by the handles, nor by what pydantic and the interpreter make of an event."""
    events = [one.event for one in filled.book.follow(timeout_s=0)]
    forms: list[Callable[[Any], object]] = [repr, str, vars, lambda one: one.model_dump(), lambda one: one.substance()]
    for event in events:
        for form in forms:
            assert STEM not in shown(form(event))
        assert STEM.encode() not in pickle.dumps([str(value) for value in event.__dict__.values()])
    for handle in handles(filled):
        assert handle._take() is None
        assert handle.sealed is not None
        assert STEM.encode() not in bytes(handle.sealed.blob)
        assert (str(handle), repr(handle)) == ("Personal(sealed)", "Personal(sealed)")
    assert opened_by == []


@pytest.mark.parametrize("door", ALL)
def test_a_policy_that_denies_shuts_a_door_and_the_attempt_is_recorded(
    filled: Filled, opened_by: list[str], door: str
) -> None:
    filled.book.policy.grant("admin:root", "admin")
    filled.book.policy.adopt(DENIES)
    before = len(reads_of(filled.book))
    with pytest.raises(Refused) as caught:
        ALL[door](filled)
    assert caught.value.code == "access_denied"
    assert STEM not in str(caught.value)
    assert opened_by == []
    [record] = reads_of(filled.book)[before:]
    assert (record.outcome, record.fields, record.masked) == (DENIED, (), ())
    assert record.subjects == about(filled, door)
    assert record.metadata.actor == "agent:lin"


# ── the log of reads can't be written ─────────────────────────────────────────────────────────────────────────────


@contextmanager
def full(filled: Filled) -> Iterator[None]:
    """No file may grow beyond what a log needs to be there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def locked(filled: Filled) -> Iterator[None]:
    with closing(sqlite3.connect(f"{filled.path}.reads", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filled.book._core.storage.reads, "lock_timeout_s", 0.05)
            yield
        other.execute("ROLLBACK")


@contextmanager
def closed(filled: Filled) -> Iterator[None]:
    filled.book._core.storage.reads.close()
    yield


@contextmanager
def dropped(filled: Filled) -> Iterator[None]:
    with closing(sqlite3.connect(f"{filled.path}.reads")) as other, other:
        other.execute("DROP TABLE access_records")
    yield


@contextmanager
def torn(filled: Filled) -> Iterator[None]:
    """The transaction fails after the rows are in."""
    reads, real = filled.book._core.gate.reads, LogRecorder.append_in

    def failing(self: LogRecorder, *args: Any, **kwargs: Any) -> Any:
        found = real(self, *args, **kwargs)
        if self is reads:
            raise OSError("the disk is gone")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogRecorder, "append_in", failing)
        yield


FAULTS = {"disk full": full, "locked": locked, "closed": closed, "table dropped": dropped, "torn": torn}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("door", ALL)
def test_nothing_leaves_by_a_door_that_can_not_be_recorded(
    filled: Filled, opened_by: list[str], door: str, fault: str
) -> None:
    call = ALL[door]
    filled.book.projections.catch_up()
    with FAULTS[fault](filled), pytest.raises((TallybookError, BookError, OSError)) as caught:
        call(filled)
    assert opened_by == []
    assert STEM not in str(caught.value)
    if fault in ("disk full", "locked", "torn"):
        before = len(reads_of(filled.book))
        call(filled)  # and afterwards it works again
        assert len(reads_of(filled.book)) == before + 1


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────────────

EVERYWHERE = {"--book", "--actor", "--purpose", "--json", "--as-of", "--known-at", "--help"}
"""Options that choose the book, who acts, the moment or the form."""

Given = Callable[[Filled], list[object]]


def out(it: Filled, name: str) -> Path:
    """A file or folder to be written."""
    folder = it.path.with_name("out")
    folder.mkdir(exist_ok=True)
    return folder / name


def id_of(it: Filled, kind: str) -> UUID:
    """The id that the last event of a kind gave out."""
    return next(
        one.event.event_id for one in reversed(it.book._core.stream(it.customer)) if one.event.stored_name == kind
    )


def certificate_file(it: Filled) -> Path:
    """A signed certificate in a file."""
    path = out(it, f"certificate-{next(_NUMBERS)}")
    path.write_text(it.book.replay(sign=True).note, "utf-8")
    return path


def sweep_file(filled: Filled) -> str:
    """A file that varies one value."""
    file = filled.path.with_name("sweep.toml")
    file.write_text('candidate = "candidate"\n[grid]\n"expiry.months" = [6, 12]\n', encoding="utf-8")
    return str(file)


def checkpoint_file(it: Filled) -> Path:
    file = out(it, "checkpoint")
    file.write_text(it.book.audit.checkpoint().note)
    return file


WITNESS = Signer.new("witness.example/w1")
WITNESS_KEY = WITNESS.verifier.cosigner().vkey


def cosigned_file(it: Filled) -> Path:
    file = out(it, "cosigned")
    note = it.book.audit.checkpoint().note
    file.write_text(note + WITNESS.cosign(taken_apart(note)[0], 1_800_000_000))
    return file


def of_an_archive(it: Filled) -> list[object]:
    """Nothing more is to be given than an archive."""
    it.book.archive.rebuild()
    return []


def rules_file(it: Filled) -> Path:
    file = it.path.with_name("second.toml")
    file.write_text(Path(STANDARD).read_text().replace('version = "1"', 'version = "1b"', 1))
    return file


NOW = "2099-01-01T00:00:00Z"

CLI_DOORS: Mapping[str, Given] = {
    "show customer": lambda it: [it.customer],
    "show ticket, with texts": lambda it: [it.ticket, "--texts"],
    "segments": lambda _: ["--system", "crm"],
    "segments, in CSV": lambda _: ["--csv", "--system", "crm"],
    "subject-report": lambda it: [it.customer],
    "subject-report, in files": lambda it: [
        it.customer, "--html", out(it, "html"), "--out", out(it, "json"), "--portable", out(it, "portable")
    ],
    "audit replay": lambda it: ["--subject", it.customer, "--at", datetime.now(UTC).isoformat(), "--proofs"],
    "audit replay, in files": lambda it: [
        "--subject", it.customer, "--at", datetime.now(UTC).isoformat(), "--html", out(it, "html"),
        "--out", out(it, f"json-{next(_NUMBERS)}"),
    ],
    "audit export, in the clear": lambda it: [out(it, f"pack-{next(_NUMBERS)}"), "--clear"],
    "audit review, subject-access": lambda it: ["subject-access", "--subject", it.customer],
    "audit review, portable-copy": lambda it: ["portable-copy", "--subject", it.customer],
    "audit review, corrections": lambda it: ["corrections", "--subject", it.customer, "--from", "2020-01-01"],
    "audit review, in files": lambda it: [
        "subject-access", "--subject", it.customer, "--csv", out(it, "csv"), "--html", out(it, "page"),
    ],
}  # fmt: skip
"""What shows personal values, or writes them."""

CLI_LOOKS: Mapping[str, Given] = {
    "show account, by an external id": lambda _: [f"crm:{STEM}-77", "--programme", "main"],
    "loyalty standing, by an external id": lambda _: [f"crm:{STEM}-77"],
    "backtest, explained by an external id": lambda _: [
        CANDIDATE, "--executor", "reference", "--explain", f"crm:{STEM}-77"
    ],
    "backtest, with a row for each account": lambda it: [
        CANDIDATE, "--executor", "reference", "--customers", out(it, f"accounts-{next(_NUMBERS)}")
    ],
    "audit trail": lambda it: ["--subject", it.customer],
    "audit trail, of one actor": lambda _: ["--by", "agent:lin", "--limit", "5"],
    "audit replay, sealed": lambda it: ["--subject", it.customer, "--at", datetime.now(UTC).isoformat(), "--sealed"],
    "audit export": lambda it: [out(it, f"pack-{next(_NUMBERS)}"), "--after", "1", "--until", "5"],
    "export cloudevents": lambda it: [out(it, "ce"), "--replace", "--batch", "--after", "1", "--until", "9"],
    "export ocsf": lambda it: [out(it, "ocsf"), "--replace", "--log", "both"],
    "export ocsf, of one log": lambda it: [
        out(it, "ocsf"), "--replace", "--log", "events", "--after", "1", "--until", "9"
    ],
    "export ocel": lambda it: [
        out(it, "ocel"), "--replace", "--format", "json", "--after", "1", "--until", "9"
    ],
    "export ocel, in SQLite": lambda it: [out(it, "ocel"), "--replace", "--format", "sqlite"],
    "backup": lambda it: [out(it, "backup"), "--replace"],
    "consent show": lambda it: [it.customer],
    "request list": lambda it: ["--subject", it.customer, "--open"],
    "audit review, erasure-evidence": lambda it: ["erasure-evidence", "--subject", it.customer],
    "audit review, consent-at": lambda it: ["consent-at", "--subject", it.customer, "--at", "2021-01-01"],
    "audit review, exposure": lambda it: ["exposure", "--subject", it.customer, "--by", "agent:lin"],
    "audit review, corrections of all": lambda _: ["corrections", "--until", "2099-01-01"],
    "audit review, processing-records": lambda _: ["processing-records"],
    "audit review, compliance-audit": lambda _: ["compliance-audit"],
    "audit review, access-review": lambda _: [
        "access-review", "--tie-days", "9", "--bulk-subjects", "9", "--bulk-factor", "9", "--habit-hours", "9",
        "--dormant-days", "9", "--guesses", "9", "--own-tie-days", "9", "--own-tie-subjects", "9",
    ],
    "audit review, retention": lambda _: ["retention"],
}  # fmt: skip
"""What is recorded as one read, and shows or writes no personal value."""

CLI_TWICE: Mapping[str, Given] = {
    "show customer, by an external id": lambda _: [f"crm:{STEM}-77"],
    "backup, with its keys": lambda it: [out(it, "backup"), "--replace", "--keys", out(it, "keys")],
}
"""What is two of them."""

CLI_ACTS: Mapping[str, Given] = {
    "sweep": lambda _: ["--until", "2020-01-02T00:00:00Z"],
    "loyalty estimate": lambda _: [
        "90", "--issued", "100", "--source", "actuary", "--reason", "year-end", "--programme", "main", "--at",
        "2021-01-01T00:00:00Z",
    ],
    "loyalty issue-coupon": lambda it: [
        it.customer, "mug", "--reason", "sorry", "--code", f"{STEM}-{next(_NUMBERS)}", "--programme", "main", "--at",
        datetime.now(UTC).isoformat(),
    ],
    "loyalty allocate": lambda _: [
        "90", "--source", "actuary", "--reason", "year-end", "--programme", "main", "--at", "2021-01-01T00:00:00Z"
    ],
    "keys rotate": lambda _: [],
    "audit rotate-key": lambda _: [],
    "policy adopt": lambda _: ["shop"],
    "policy grant": lambda _: ["agent:mo", "support", "--from", "2020-01-01T00:00:00Z", "--until", NOW],
    "policy revoke": lambda _: ["admin:root", "admin"],
    "rules adopt": lambda it: [rules_file(it), "--from", "2098-01-01T00:00:00Z", "--reason", "autumn"],
    "rules propose": lambda it: [rules_file(it), "--reason", "autumn"],
    "rules require-backtest": lambda _: ["--reason", "policy", "--programme", "main", "--yes"],
    "projections pause": lambda _: ["tiers"],
    "projections retire": lambda _: ["tiers"],
    "import cdnow": lambda it: [
        Path(__file__).parent / "data" / "cdnow_sample.txt.xz", "--no-enrol", "--skip-bad", out(it, "bad")
    ],
    "restrict": lambda it: [it.customer, "--reason", "gdpr-18", "--at", "2090-01-01T00:00:00Z"][:3],
    "object": lambda it: [it.customer, "marketing"],
    "end-relation": lambda it: [it.customer, "--reason", "moved"],
    "consent grant": lambda it: [
        it.customer, "newsletter", "--source", "web", "--text", "v1", "--brand", "shop", "--basis", "consent",
        "--captured-at", "2021-01-01T00:00:00Z", "--from", "2021-01-01T00:00:00Z", "--until", NOW, "--separate",
        "--cross-border", "--confirmed",
    ],
    "consent confirm": lambda it: [it.customer, id_of(it, "customer.consent_granted")],
    "consent withdraw": lambda it: [it.customer, "survey", "--brand", "shop"],
    "request record": lambda it: [it.customer, "access", "--channel", "mail", "--due", NOW],
    "request complete": lambda it: [
        it.customer, id_of(it, "customer.request_received"), "--outcome", "refused", "--reason", "gdpr-12-5"
    ],
    "retention declare": lambda _: [
        "tickets", "communication", "--period", "3", "--basis", "GDPR:17", "--for", "support", "--unit", "years",
        "--since", "recorded", "--action", "erase",
    ],
    "retention withdraw": lambda _: ["old"],
    "retention sweep": lambda _: [],
    "erase": lambda it: [
        it.customer, "--reason", "gdpr-17", "--receipt", out(it, "receipt"), "--yes", "--even-so", "subject-insists",
    ],
}  # fmt: skip
"""Commands: decided by the policy, recorded as events; they tell of nobody."""

CLI_SHUT: Mapping[str, Given] = {
    "replay": lambda _: [],
    "backtest": lambda it: [
        CANDIDATE,
        "--baseline",
        STANDARD,
        "--explain",
        it.customer,
        "--unfunded",
        "clamp",
        "--order",
        "hindsight",
        "--since",
        "2020-02-01",
        "--executor",
        "reference",
        "--report",
        out(it, f"page-{next(_NUMBERS)}"),
    ],
    "replay, signed": lambda it: ["--sign", out(it, f"certificate-{next(_NUMBERS)}"), "--executor", "reference"],
    "doctor": lambda _: ["--quick", "--lock-timeout", "1"],
    "tiers": lambda _: ["--programme", "main"],
    "tiers, the members of one": lambda _: ["--tier", "basic"],
    "tiers, the members of one, those who object too": lambda _: ["--tier", "basic", "--everybody"],
    "follow": lambda _: ["--after", "0", "--no-wait"],
    "follow, some": lambda _: ["--name", "customer.registered", "--name", "ticket.replied", "--no-wait"],
    "show account": lambda it: [it.customer, "--programme", "main"],
    "show account, with its decisions": lambda it: [it.customer, "--explain"],
    "loyalty statement": lambda it: [
        it.customer,
        "--programme",
        "main",
        "--from",
        "2020-01-01",
        "--to",
        NOW,
        "--order",
        "effective",
    ],
    "loyalty statement, as a table for machines": lambda it: [it.customer, "--csv"],
    "loyalty explain": lambda it: [decisions(it)[0]],
    "loyalty liability": lambda _: [
        "--programme",
        "main",
        "--at",
        "2090-01-01",
        "--since",
        "2020-01-01",
        "--reported-at",
        "1",
    ],
    "loyalty balances": lambda _: ["--programme", "main", "--as-of", "2100-01-01", "--known-at", "9"],
    "loyalty outstanding": lambda _: ["--programme", "main", "--as-of", "2100-01-01", "--known-at", "9"],
    "loyalty expiring": lambda _: [
        "--until",
        "2100-01-01",
        "--programme",
        "main",
        "--as-of",
        "2090-01-01",
        "--known-at",
        "9",
        "--everybody",
    ],
    "loyalty figures": lambda _: [
        "--since",
        "2025-01-01",
        "--until",
        "2099-12-31",
        "--margin",
        "0.3",
        "--point-cost",
        "2",
        "--programme",
        "main",
        "--known-at",
        "9",
    ],
    "loyalty campaign": lambda it: [
        spring(it),
        "--since",
        "2025-01-01",
        "--until",
        "2099-12-31",
        "--margin",
        "0.3",
        "--point-cost",
        "2",
        "--programme",
        "main",
        "--known-at",
        "999",
    ],
    "loyalty rewards": lambda _: [
        "--since",
        "2025-01-01",
        "--until",
        "2099-12-31",
        "--programme",
        "main",
        "--known-at",
        "9",
    ],
    "loyalty standing": lambda it: [it.customer, "--programme", "main", "--as-of", "2100-01-01", "--known-at", "9"],
    "show ticket": lambda it: [it.ticket],
    "audit verify, without keys": lambda _: ["--keyless", "--log-only"],
    "replay, without keys": lambda _: ["--keyless"],
    "backtest-sweep": lambda it: [
        sweep_file(it),
        "--executor",
        "reference",
        "--baseline",
        STANDARD,
        "--budget",
        "5",
        "--unfunded",
        "clamp",
        "--order",
        "hindsight",
        "--since",
        "2020-01-01T00:00:00Z",
    ],
    "backtest-sweep, without keys": lambda it: [sweep_file(it), "--keyless", "--executor", "reference"],
    "shadow": lambda it: [
        CANDIDATE,
        "--no-wait",
        "--since",
        "2020-01-01T00:00:00Z",
        "--file",
        out(it, f"shadow-{next(_NUMBERS)}"),
    ],
    "backtest, without keys": lambda _: [CANDIDATE, "--keyless", "--executor", "reference"],
    "audit export, without keys": lambda it: [out(it, f"pack-{next(_NUMBERS)}"), "--keyless"],
    "audit verify": lambda it: ["--against", checkpoint_file(it), "--log-only"],
    "audit checkpoint": lambda it: ["--log", "reads", "--out", out(it, f"checkpoint-{next(_NUMBERS)}")],
    "audit checkpoint, of a witness": lambda it: ["--cosigned", cosigned_file(it), "--witness", WITNESS_KEY],
    "audit proof": lambda it: ["3", "--log", "events", "--out", out(it, f"proof-{next(_NUMBERS)}")],
    "audit certificate": lambda it: [certificate_file(it), "--vkey", it.book.audit.vkey],
    "audit certificate, without keys": lambda it: [certificate_file(it), "--keyless"],
    "audit vkey": lambda _: [],
    "audit new-key": lambda _: ["shop/1"],
    "audit rebuild-tiles": lambda _: [],
    "archive status": lambda _: [],
    "archive catch-up": lambda _: [],
    "archive follow": lambda _: ["--every", "0", "--timeout", "0"],
    "archive rebuild": lambda _: [],
    "archive compact": of_an_archive,
    "archive verify": of_an_archive,
    "policy check": lambda _: ["shop"],
    "policy roles": lambda _: [],
    "policy explain": lambda _: ["agent:lin", "support", "profiles.get"],
    "rules check": lambda _: [STANDARD],
    "rules show": lambda _: [],
    "rules proposals": lambda _: [],
    "projections status": lambda _: [],
    "projections catch-up": lambda _: [],
    "projections rebuild": lambda _: ["tiers", "--processes", "1"],
    "projections drop-superseded": lambda _: [],
    "retention show": lambda _: [],
    "retention due": lambda _: ["--at", "2021-01-01"],
    "erasures list": lambda _: [],
}
"""What opens nothing and tells of nobody by name: not governed, and not on record."""

CLI_NOT_RUN: Mapping[str, tuple[str, ...]] = {
    "demo": (),  # a book of its own
    "restore": ("--keys", "--checkpoint"),  # makes a book; opening that is on record
    "synth": ("--customers", "--events", "--seed", "--years", "--rules"),  # makes a book of nobody
    "projections run": (),  # until it is stopped
    "projections resume": (),  # of one that is paused: as `pause`
    "projections retry": (),  # of one that failed
    "projections skip": (),
    "policy withdraw": (),  # of one that is in force
    "rules withdraw": ("--reason", "--programme"),  # of one that is put forward; see tests/test_cli.py
    "rules adopt": ("--backtest",),
    "backtest": ("--record",),
    "policy show": (),
    "lift-restriction": ("--reason", "--at"),  # as `restrict`
    "withdraw-objection": ("--at",),
    "erasures show": ("--receipt",),  # of an erasure: ids, counts, a proof; see tests/test_erasure.py
    "audit checkpoint": ("--timestamp",),  # needs an authority
    "audit export": ("--keyless",),  # see tests/test_without_keys.py
    "audit verify": ("--tsa-cert", "--vkey", "--keyless"),
    "consent grant": ("--point", "--at"),  # ids and times of a command
    "consent confirm": ("--at",),
    "consent withdraw": ("--point", "--at"),
    "request record": ("--at",),
    "request complete": ("--at",),
    "restrict": ("--at",),
    "object": ("--at",),
    "end-relation": ("--at",),
    "erase": ("--request", "--at", "--dry-run"),
    "retention sweep": ("--at",),
}
"""Commands and options that are not tried here."""

CLI_GOVERNED = dict([*CLI_DOORS.items(), *CLI_LOOKS.items(), *CLI_TWICE.items()])
CLI_ALL = dict([*CLI_GOVERNED.items(), *CLI_ACTS.items(), *CLI_SHUT.items()])


def commands(one: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if hasattr(one, "commands"):
        for name, child in one.commands.items():
            yield from commands(child, f"{path} {name}".strip())
    else:
        yield path, one


def options_of(one: Any) -> dict[str, set[str]]:
    """The options of a command, each under its first name."""
    return {part.opts[0]: {*part.opts, *part.secondary_opts} for part in one.params if part.param_type_name == "option"}


def the_line_must_be_known(line: Any, filled: Filled) -> None:
    """Each command and each of its options is tried, or listed with the reason why it isn't."""
    there = dict(commands(line))
    tried: dict[str, set[str]] = {path: set(names) for path, names in CLI_NOT_RUN.items()}
    for name, given in CLI_ALL.items():
        words = {word for one in given(filled) if (word := str(one)).startswith("--")}
        tried.setdefault(name.partition(",")[0], set()).update(words)
    assert there.keys() - tried.keys() == set(), (
        f"{sorted(there.keys() - tried.keys())}: a command that tests/test_doors.py does not know. Try it in CLI_DOORS "
        "(it shows personal values), CLI_LOOKS (it is one recorded read), CLI_ACTS (it records events) or CLI_SHUT."
    )
    unknown = {
        f"{path} {option}"
        for path, one in there.items()
        for option, names in options_of(one).items()
        if option not in EVERYWHERE and not names & tried[path]
    }
    assert unknown == set(), (
        f"{sorted(unknown)}: an option that tests/test_doors.py does not know. Try it, under a name of its own if it "
        "changes what is shown: in CLI_DOORS, CLI_LOOKS, CLI_ACTS or CLI_SHUT."
    )
    assert tried.keys() - there.keys() == set(), "listed in tests/test_doors.py, and not there any more"
    gone = {
        f"{path} {word}"
        for path, words in tried.items()
        for word in words
        if not any(word in names for names in options_of(there[path]).values())
    }
    assert gone == set(), "options that are listed, and not there any more"


@pytest.fixture
def kept(filled: Filled) -> Filled:
    """The same, with what commands need to have something to do."""
    book = filled.book
    book.policy.grant("admin:root", "admin")
    book.policy.grant("admin:other", "admin")
    book.customers.grant_consent(
        filled.customer, "survey", source="web", text_version="v1", brand="shop", confirmed=False
    )
    book.customers.record_request(filled.customer, "access")
    book.retention.declare("old", "all", purpose="support", legal_basis="GDPR:17", period=90, unit="years")
    rewards = (Reward(id="mug", price=20, coupon_days=30),)
    rule_set = book.rules.check(STANDARD).model_copy(update={"version": "1c", "rewards": rewards})
    book.rules.adopt(rule_set, effective_at="2020-01-01T00:00:00Z")
    return filled


def test_every_command_and_option_of_the_command_line_is_known(kept: Filled) -> None:
    the_line_must_be_known(cli.the_line(), kept)


@pytest.mark.parametrize("new", ["show nickname", "show customer --nicknames", "audit trail --texts"])
def test_a_command_or_option_that_is_new_makes_it_fail(kept: Filled, new: str) -> None:
    line: Any = typer.main.get_command(cli.app)  # one of its own, to be altered
    group, name, *option = new.split()
    if option:
        line.commands[group].commands[name].params.append(click.Option([option[0]], is_flag=True))
    else:
        line.commands[group].commands[name] = click.Command(name)
    with pytest.raises(AssertionError, match=re.escape(new)) as caught:
        the_line_must_be_known(line, kept)
    assert "CLI_SHUT" in str(caught.value)


Said = Callable[..., tuple[int, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: Filled) -> Said:
    """Runs a command line; its exit status, and all that it said and wrote."""
    monkeypatch.setenv("COLUMNS", "2000")  # no cell of a table is folded, so that a value shows whole

    def said(name: str, *, as_json: bool) -> tuple[int, str]:
        line: Any = dict(commands(cli.the_line()))[path := name.partition(",")[0]]
        takes = options_of(line)
        given = [*path.split(), *map(str, CLI_ALL[name](kept))]
        for option, value in (("--book", f"sqlite:///{kept.path}"), ("--actor", "agent:kim"), ("--purpose", "support")):
            given += [option, value] if option in takes else []
        monkeypatch.setattr(sys, "argv", ["tallybook", *given, *(["--json"] if as_json and "--json" in takes else [])])
        before = set(written(kept))
        with pytest.raises(SystemExit) as stop:
            cli.run()
        found = capsys.readouterr()
        files = [one.read_bytes().decode(errors="replace") for one in set(written(kept)) - before]
        for one in set(written(kept)) - before:
            one.unlink()
        return int(stop.value.code or 0), " ".join([found.out, found.err, *files])

    return said


def written(it: Filled) -> list[Path]:
    return [one for one in it.path.with_name("out").rglob("*") if one.is_file()]


@contextmanager
def closed_to_all(it: Filled) -> Iterator[None]:
    """A policy that denies everything but to admins is in force."""
    with it.book.acting("admin:root", purpose="support"):
        it.book.policy.adopt(DENIES)
        yield
        it.book.policy.withdraw()


@pytest.mark.parametrize("name", CLI_GOVERNED)
def test_the_command_line_obeys(kept: Filled, say: Said, name: str) -> None:
    records = 2 if name in CLI_TWICE else 1
    with closed_to_all(kept):
        before = len(reads_of(kept.book))
        status, said = say(name, as_json=False)
        assert status == 2, said
        assert "access_denied" in said
        assert STEM not in said.replace(f"crm:{STEM}-77", "")
        [record] = reads_of(kept.book)[before:]
        assert (record.outcome, record.metadata.actor) == (DENIED, "agent:kim")
    for as_json in (False, True):
        before = len(reads_of(kept.book))
        status, said = say(name, as_json=as_json)
        assert status == 0, said
        shows = name in CLI_DOORS or name == "show customer, by an external id"
        assert (STEM in said.replace(f"crm:{STEM}-77", "")) is shows
        found = reads_of(kept.book)[before:]
        assert [one.outcome for one in found] == [RELEASED] * records
        assert {one.metadata.actor for one in found} == {"agent:kim"}


@pytest.mark.parametrize("name", CLI_ACTS)
def test_a_command_of_the_line_is_decided_and_tells_of_nobody(kept: Filled, say: Said, name: str) -> None:
    with closed_to_all(kept):
        before = kept.book.position()
        status, said = say(name, as_json=False)
        assert (status, "access_denied" in said) == (2, True), said
        assert STEM not in said
        assert kept.book.position() == before
    before = len(reads_of(kept.book))
    status, said = say(name, as_json=True)
    assert status == 0, said
    assert STEM not in said
    assert len(reads_of(kept.book)) == before


@pytest.mark.parametrize("name", CLI_SHUT)
def test_what_is_no_door_of_the_line_shows_nothing(kept: Filled, say: Said, opened_by: list[str], name: str) -> None:
    for as_json in (False, True) if "--csv" not in CLI_SHUT[name](kept) else (False,):
        before = len(reads_of(kept.book))
        status, said = say(name, as_json=as_json)
        assert status == 0, said
        assert STEM not in said
        assert opened_by == []
        assert len(reads_of(kept.book)) == before


def test_nobody_is_found_by_an_external_id_without_a_record(kept: Filled, say: Said) -> None:
    """Whichever command takes one in the place of a customer's id."""
    book, before = kept.book, len(reads_of(kept.book))
    say("show account, by an external id", as_json=False)
    [found] = reads_of(book)[before:]
    assert (found.action, found.fields, found.subjects) == ("customers.find", ("identifier.crm",), (kept.customer,))
    with book.acting("agent:kim", purpose="support"):
        assert book.customers.find("crm", "nobody's") is None
    assert reads_of(book)[-1].subjects == ()
    assert STEM not in str([vars(one) for one in reads_of(book)])


TILL = {
    "name": "till",
    "version": "1",
    "purposes": {"support": {"text": "Answering", "basis": "contract"}},
    "rules": [
        {"id": "admins", "roles": ["admin"], "commands": ["*"]},
        {"id": "tills", "roles": ["till"], "purposes": ["support"], "commands": ["customers.*"]},
    ],
}


class Known(NamedTuple):
    book: Book
    ada: UUID
    bob: UUID
    purchase: UUID


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Known]:
    """A book whose policy lets somebody give commands about customers, and read nothing."""
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        with book.acting("admin:root", purpose="administration"):
            ada = book.customers.register(name="Ada", identifiers={"crm": "C-1"})
            bob = book.customers.register(name="Bob", identifiers={"shop": "S-2"})
            bought = book.customers.record_purchase(ada, LINES, order_id="O-1")
            book.policy.grant("admin:root", "admin")
            book.policy.grant("till:1", "till")
            book.policy.adopt(TILL)
        with book.acting("till:1", purpose="support"):
            yield Known(book, ada, bob, bought.purchase_id)


LINES = [{"sku": "lamp", "quantity": 1, "net_minor": 500}]
REFUSED_SEARCHES: dict[str, tuple[Callable[[Known], object], str, str, Callable[[Known], UUID | None]]] = {
    "a new customer with a taken id": (
        lambda it: it.book.customers.register(identifiers={"crm": "C-1"}),
        "identifier_taken", "identifier.crm", lambda it: it.ada,
    ),
    "a taken id for another": (
        lambda it: it.book.customers.link_identifier(it.bob, "crm", "C-1"),
        "identifier_taken", "identifier.crm", lambda it: it.ada,
    ),
    "a free id for whom has one": (
        lambda it: it.book.customers.link_identifier(it.bob, "shop", "S-3"),
        "identifier_linked", "identifier.shop", lambda it: None,
    ),
    "a free id with what is refused for another reason": (
        lambda it: it.book.customers.register(identifiers={"crm": "C-9"}, email="x" * 10_000),
        "invalid_argument", "identifier.crm", lambda it: None,
    ),
    "another's id taken away": (
        lambda it: it.book.customers.remove_identifier(it.bob, "crm", "C-1"),
        "unknown_identifier", "identifier.crm", lambda it: None,
    ),
    "another's order": (
        lambda it: it.book.customers.record_purchase(it.bob, LINES, order_id="O-1"),
        "order_recorded", "order_id", lambda it: None,
    ),
    "the same order again": (
        lambda it: it.book.customers.record_purchase(it.ada, LINES, order_id="O-1"),
        "order_recorded", "order_id", lambda it: it.ada,
    ),
    "a free order with what is refused for another reason": (
        lambda it: it.book.customers.record_purchase(it.bob, LINES, order_id="O-9", currency="?"),
        "invalid_argument", "order_id", lambda it: None,
    ),
    "a return of another's order": (
        lambda it: it.book.customers.record_return(it.bob, {1: 1}, order_id="O-1"),
        "unknown_purchase", "order_id", lambda it: None,
    ),
    "a return of an order that is not there": (
        lambda it: it.book.customers.record_return(it.bob, {1: 1}, order_id="O-9"),
        "unknown_purchase", "order_id", lambda it: None,
    ),
    "a return of more than there was": (
        lambda it: it.book.customers.record_return(it.ada, {1: 2}, order_id="O-1"),
        "returned_too_much", "order_id", lambda it: it.ada,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_SEARCHES)
def test_a_refused_command_tells_nobody_who_is_known_without_a_record(known: Known, name: str) -> None:
    command, code, field, found = REFUSED_SEARCHES[name]
    before, position = len(reads_of(known.book)), known.book.position()
    with pytest.raises(Refused) as caught:
        command(known)
    assert caught.value.code == code
    [record] = reads_of(known.book)[before:]
    assert (record.outcome, record.fields, record.metadata.actor) == (TOLD, (field,), "till:1")
    assert record.action in {f"customers.{one}" for one in vars(type(known.book.customers))}
    assert record.rules == ("tills",)
    assert record.policy
    assert record.legal_basis == "contract"
    whom = found(known)
    assert record.subjects == (() if whom is None else (whom,))
    assert known.book.position() == position
    if "another" in name or "taken" in name:
        told = f"{caught.value} {caught.value.values}"
        assert str(known.ada) not in told
        assert str(known.purchase) not in told


def test_what_tells_the_same_says_the_same(known: Known) -> None:
    """Whether an order is another's or nobody's is not told by a return of it."""

    def said(order: str) -> str:
        with pytest.raises(Refused) as caught:
            known.book.customers.record_return(known.bob, {1: 1}, order_id=order)
        return f"{caught.value} {caught.value.values}"

    assert said("O-1") == said("O-9")


@pytest.mark.parametrize("name", REFUSED_SEARCHES)
def test_no_refusal_tells_who_is_known_that_can_not_be_recorded(
    known: Known, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise BookFull("full", path="shop.book.reads", remedy="Make room.")

    monkeypatch.setattr(known.book._core.gate._group, "append", full)
    with pytest.raises(BookFull):
        REFUSED_SEARCHES[name][0](known)


def test_a_command_that_is_carried_out_needs_no_record_of_its_search(known: Known) -> None:
    before = len(reads_of(known.book))
    done = known.book.customers.record_purchase(known.bob, LINES, order_id="O-2", command_id="once")
    known.book.customers.link_identifier(known.bob, "crm", "C-2")
    assert known.book.customers.record_purchase(known.bob, LINES, order_id="O-2", command_id="once") == done
    assert len(reads_of(known.book)) == before


def test_whoever_searches_names_himself(tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        for search in (partial(book.customers.find, "crm", "77"), book.customers.requests):
            with pytest.raises(Refused) as caught:
                search()
            assert caught.value.code == "acting_required"
        with book.acting("agent:lin", purpose="support"), pytest.raises(Refused) as caught:
            book.customers.find("no code", "77")
        assert caught.value.code == "invalid_argument"


def test_a_backup_is_an_export_on_record(filled: Filled) -> None:
    book, place = filled.book, filled.path.with_name
    done, keys = book.backup(place("backup")), book.backup_keys(place("keys"))
    digests = [(done.path, done.digest), (keys.path, keys.digest)]
    found = [one.event for one in book._core.reads() if isinstance(one.event, Exported)]
    assert [(one.format, one.count, one.from_position, one.to_position) for one in found] == [
        ("backup", done.position, 1, done.position), ("keys", keys.subjects, 0, 0),
    ]  # fmt: skip
    for (path, digest), record in zip(digests, found, strict=True):
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest == record.digest
        assert (record.metadata.actor, record.metadata.purpose) == ("agent:lin", "support")


def test_a_backup_by_nobody_is_the_book_s_own_until_a_policy_is_in_force(tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        book.backup(tmp_path / "one")
        last = [one.event for one in book._core.reads()][-1]
        assert isinstance(last, Exported)
        assert last.metadata.actor == "system:book"
        with book.acting("admin:root", purpose="support"):
            book.policy.grant("admin:root", "admin")
            book.policy.adopt(DENIES)
        for copy in (book.backup, book.backup_keys):
            with pytest.raises(Refused) as caught:
                copy(tmp_path / "two")
            assert caught.value.code == "acting_required"
            with book.acting("admin:root", purpose="support"), pytest.raises(Refused) as caught:
                copy(tmp_path / "two")
            assert caught.value.code == "access_denied"
        assert not (tmp_path / "two").exists()
