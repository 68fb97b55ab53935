"""Every public way to personal data: it is known here, recorded, denied by a policy, shut if it can't be recorded.

A public method that stands in none of the lists fails, so that a new door can't be forgotten.
"""

from __future__ import annotations

import dataclasses
import resource
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints
from uuid import UUID

import pytest
import typer.main
from tools.reference import DESKS, public

import tallybook
from tallybook import Book, BookError, Refused, TallybookError, cli
from tallybook.adapters.gate import Gate
from tallybook.adapters.keys import Keyring
from tallybook.adapters.log import LogRecorder
from tallybook.commands import Desk, command
from tallybook.domain.access import DENIED, RELEASED, PersonalDataRead
from tallybook.domain.customer import CustomerRegistered
from tallybook.policy_names import ACTIONS
from tallybook.reviews import REVIEWS

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


def exported(filled: Filled) -> str:
    """All that an auditor's pack with opened values holds."""
    folder = filled.path.with_name("pack")
    filled.book.audit.export(folder, sealed=False)
    return " ".join(file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file())


def reviewed(filled: Filled, name: str, **about: Any) -> str:
    """All that a review holds, in each of its forms."""
    report = filled.book.audit.review(name, **about)
    folder = filled.path.with_name("review")
    report.csv(folder)
    return " ".join([report.json(), report.html(), *(file.read_text() for file in folder.iterdir())])


DOORS: Mapping[str, Call] = {
    "book.profiles.get": lambda it: it.book.profiles.get(it.customer),
    "book.profiles.get, as of a date": lambda it: it.book.profiles.get(it.customer, known_at=it.book.position()),
    "book.profiles.timeline": lambda it: it.book.profiles.timeline(it.customer),
    "book.profiles.segments": lambda it: it.book.profiles.segments(system="crm"),
    "book.tickets.read": lambda it: it.book.tickets.read(it.ticket),
    "book.audit.subject_report": lambda it: it.book.audit.subject_report(it.customer).json(),
    "book.audit.replay": lambda it: it.book.audit.replay(it.customer, datetime.now(UTC)),
    "book.audit.export": exported,
    "book.audit.review, subject-access": lambda it: reviewed(it, "subject-access", subject=it.customer),
    "book.audit.review, portable-copy": lambda it: reviewed(it, "portable-copy", subject=it.customer),
    "book.audit.review, corrections": lambda it: reviewed(it, "corrections", subject=it.customer),
}
"""What gives personal values."""

LOOKS: Mapping[str, Call] = {
    "book.audit.trail": lambda it: it.book.audit.trail(it.customer),
    "book.customers.privacy": lambda it: it.book.customers.privacy(it.customer),
    "book.audit.review, erasure-evidence": lambda it: reviewed(it, "erasure-evidence", subject=it.customer),
    "book.audit.review, restrictions": lambda it: reviewed(it, "restrictions", subject=it.customer),
    "book.audit.review, consent-at": lambda it: reviewed(it, "consent-at", subject=it.customer),
    "book.audit.review, exposure": lambda it: reviewed(it, "exposure", subject=it.customer, actor="agent:lin"),
}
"""What tells something about a person without opening anything: recorded, too."""

LOOKS_AT_ALL: Mapping[str, Call] = {
    "book.audit.review, corrections of all": lambda it: reviewed(it, "corrections"),
    "book.audit.review, processing-records": lambda it: reviewed(it, "processing-records"),
    "book.audit.review, compliance-audit": lambda it: reviewed(it, "compliance-audit"),
    "book.audit.review, access-review": lambda it: reviewed(it, "access-review"),
    "book.audit.review, retention": lambda it: reviewed(it, "retention"),
}
"""What tells something about all together, and opens nothing: recorded as a read about nobody."""

SHUT: Mapping[str, Call] = {
    "book.origin": lambda it: it.book.origin,
    "book.position": lambda it: it.book.position(),
    "book.follow": lambda it: list(it.book.follow(timeout_s=0)),
    "book.replay": lambda it: it.book.replay(),
    "book.backtest": lambda it: it.book.backtest(CANDIDATE),
    "book.backup": lambda it: it.book.backup(it.path.with_name("backup")),
    "book.backup_keys": lambda it: it.book.backup_keys(it.path.with_name("keys")),
    "book.doctor": lambda it: it.book.doctor(),
    "book.drop_snapshots": lambda it: it.book.drop_snapshots(),
    "book.profiles.segments": lambda it: it.book.profiles.segments(),
    "book.customers.find": lambda it: it.book.customers.find("crm", f"{STEM}-77"),
    "book.customers.requests": lambda it: it.book.customers.requests(),
    "book.loyalty.sweep": lambda it: it.book.loyalty.sweep(),
    "book.loyalty.balance": lambda it: it.book.loyalty.balance(it.customer),
    "book.loyalty.account": lambda it: it.book.loyalty.account(it.customer),
    "book.tickets.get": lambda it: it.book.tickets.get(it.ticket),
    "book.rules.check": lambda it: it.book.rules.check(STANDARD),
    "book.rules.rules_of": lambda it: it.book.rules.rules_of(STANDARD),
    "book.rules.adopted": lambda it: it.book.rules.adopted(),
    "book.rules.in_force": lambda it: it.book.rules.in_force(),
    "book.policy.check": lambda it: it.book.policy.check("shop"),
    "book.policy.in_force": lambda it: it.book.policy.in_force(),
    "book.policy.roles": lambda it: it.book.policy.roles(),
    "book.policy.explain": lambda it: it.book.policy.explain("agent:lin", "support", "profiles.get"),
    "book.tiers.members": lambda it: it.book.tiers.members("basic"),
    "book.tiers.counts": lambda it: it.book.tiers.counts(),
    "book.tiers.history": lambda it: it.book.tiers.history(it.customer),
    "book.audit.verify": lambda it: it.book.audit.verify(),
    "book.audit.verify_read_models": lambda it: it.book.audit.verify_read_models(),
    "book.audit.vkey": lambda it: it.book.audit.vkey,
    "book.audit.vkeys": lambda it: it.book.audit.vkeys(),
    "book.audit.checkpoint": lambda it: it.book.audit.checkpoint(),
    "book.audit.checkpoints": lambda it: it.book.audit.checkpoints(),
    "book.audit.proof": lambda it: it.book.audit.proof(1),
    "book.audit.consistency": lambda it: it.book.audit.consistency(*[it.book.audit.checkpoint()] * 2),
    "book.audit.rotate_signing_key": lambda it: it.book.audit.rotate_signing_key(),
    "book.projections.status": lambda it: it.book.projections.status(),
    "book.projections.catch_up": lambda it: it.book.projections.catch_up(),
    "book.projections.rebuild": lambda it: it.book.projections.rebuild(),
    "book.projections.drop_superseded": lambda it: it.book.projections.drop_superseded(),
    "book.retention.schedules": lambda it: it.book.retention.schedules(),
    "book.retention.due": lambda it: it.book.retention.due(),
    "Follower.position": lambda it: it.book.follow(timeout_s=0).position,
    "Event.effective_at": lambda it: [one.event.effective_at for one in it.book.follow(timeout_s=0)],
    "Event.recorded_at": lambda it: [one.event.recorded_at for one in it.book.follow(timeout_s=0)],
    "book.audit.rebuild_tiles": lambda it: it.book.audit.rebuild_tiles(),
    "Event.subject_ids": lambda it: [one.event.subject_ids for one in it.book.follow(timeout_s=0)],
    "Event.substance": lambda it: [one.event.substance() for one in it.book.follow(timeout_s=0)],
}
"""What gives no personal value, and opens none."""

ALL = dict([*DOORS.items(), *LOOKS.items(), *LOOKS_AT_ALL.items()])

NEITHER = {
    "book.acting", "book.close", "book.imports.cdnow", "book.projections.run", "book.projections.on_update",
    "book.retention.sweep", "Follower.close", "book.erasures.erase", "book.erasures.erase_kept",
    "book.erasures.receipt", "book.erasures.repeat", "book.erasures.follow", "book.erasures.all",
    "book.rotate_wrapping_key",
    "book.audit.keep", "book.audit.timestamp", "book.exports.cloudevents", "book.exports.ocel", "book.exports.ocsf",
}  # fmt: skip
"""What does something, and gives back counts and ids at most."""

RESULTS = {"UUID", "None", "NoneType", "str", "int", "bool", "PurchaseResult", "ReturnResult", "RedemptionResult"}
"""What commands give back: ids, counts, points."""


def members() -> Iterator[tuple[str, Any]]:
    for path, desk in {"book": Book, **DESKS}.items():
        for name, member in public(desk):
            yield f"{path}.{name}", member


def test_every_public_method_is_in_a_list() -> None:
    listed = {name.partition(",")[0] for name in (*ALL, *SHUT)} | NEITHER
    found = {name for name, member in members() if not isinstance(member, command)}
    assert found - listed == set(), "say in tests/test_doors.py whether it gives personal data, and how to call it"
    assert listed - found == set()


def test_every_review_is_in_a_list() -> None:
    listed = {name.partition(", ")[2].removesuffix(" of all") for name in ALL if name.startswith("book.audit.review")}
    assert listed == set(REVIEWS)


def test_no_command_gives_personal_data_back() -> None:
    for name, member in members():
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
                assert hasattr(desk, whole), f"{path}.{name}: which command is it a part of?"


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
    assert set(opened_by) == ({"_released"} if door in DOORS else set())


@pytest.mark.parametrize("name", SHUT)
def test_what_is_no_door_opens_nothing_and_shows_nothing(filled: Filled, opened_by: list[str], name: str) -> None:
    before = len(reads_of(filled.book))
    assert STEM not in shown(SHUT[name](filled))
    assert opened_by == []
    assert len(reads_of(filled.book)) == before


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

CLI_DOORS: Mapping[str, Callable[[Filled], list[str]]] = {
    "show customer": lambda it: [str(it.customer)],
    "segments": lambda it: ["--system", "crm"],
    "subject-report": lambda it: [str(it.customer)],
    "audit replay": lambda it: ["--subject", str(it.customer), "--at", datetime.now(UTC).isoformat(), "--json"],
    "audit review, subject-access": lambda it: ["subject-access", "--subject", str(it.customer)],
    "audit review, portable-copy": lambda it: ["portable-copy", "--subject", str(it.customer)],
    "audit review, corrections": lambda it: ["corrections", "--subject", str(it.customer)],
}
CLI_LOOKS: Mapping[str, Callable[[Filled], list[str]]] = {
    "audit trail": lambda it: ["--subject", str(it.customer)],
    "consent show": lambda it: [str(it.customer)],
    "audit review, erasure-evidence": lambda it: ["erasure-evidence", "--subject", str(it.customer)],
    "audit review, restrictions": lambda it: ["restrictions", "--subject", str(it.customer)],
    "audit review, consent-at": lambda it: ["consent-at", "--subject", str(it.customer)],
    "audit review, exposure": lambda it: ["exposure", "--subject", str(it.customer), "--by", "agent:lin"],
    "audit review, corrections of all": lambda it: ["corrections"],
    "audit review, processing-records": lambda it: ["processing-records"],
    "audit review, compliance-audit": lambda it: ["compliance-audit"],
    "audit review, access-review": lambda it: ["access-review"],
    "audit review, retention": lambda it: ["retention"],
}
CLI_ALL = dict([*CLI_DOORS.items(), *CLI_LOOKS.items()])
CLI_SHUT = {
    "demo", "sweep", "replay", "backtest", "backup", "restore", "doctor", "tiers", "follow", "show account",
    "show ticket",
    "audit verify", "audit checkpoint", "audit checkpoints", "audit proof", "audit consistency", "audit vkey",
    "audit rotate-key", "audit new-key", "policy check", "policy adopt", "policy withdraw", "policy show",
    "policy grant", "policy revoke", "policy roles", "policy explain", "rules check", "rules show", "rules adopt",
    "projections status", "projections catch-up", "projections rebuild", "projections run", "projections pause",
    "projections resume", "projections retry", "projections skip", "projections retire",
    "projections drop-superseded", "import cdnow", "restrict", "lift-restriction", "object", "withdraw-objection",
    "end-relation", "consent grant", "consent confirm", "consent withdraw", "request record", "request complete",
    "request list", "erase", "erasures list", "erasures show", "retention declare", "retention withdraw",
    "retention show", "retention sweep", "retention due",
    "audit export", "audit rebuild-tiles", "keys rotate", "export cloudevents", "export ocel", "export ocsf",
}  # fmt: skip
"""Commands that give no personal value: what they call is above."""


def commands(one: Any, path: str = "") -> Iterator[str]:
    if hasattr(one, "commands"):
        for name, child in one.commands.items():
            yield from commands(child, f"{path} {name}".strip())
    else:
        yield path


def test_every_command_of_the_command_line_is_in_a_list() -> None:
    found = set(commands(typer.main.get_command(cli.app)))
    listed = {name.partition(",")[0] for name in CLI_ALL} | CLI_SHUT
    assert found - listed == set(), "say in tests/test_doors.py whether it is a door"


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("name", CLI_ALL)
def test_the_command_line_obeys(
    filled: Filled,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    as_json: bool,
) -> None:
    path = name.partition(",")[0]
    if path not in set(commands(typer.main.get_command(cli.app))):
        pytest.skip(f"there is no command {path}")
    given = [*path.split(), *CLI_ALL[name](filled), "--book", f"sqlite:///{filled.path}"]
    given += ["--actor", "agent:kim", "--purpose", "support", *(["--json"] if as_json else [])]

    monkeypatch.setenv("COLUMNS", "2000")  # no cell of a table is folded, so that a value shows whole

    def run() -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tallybook", *given])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out + said.err

    before = len(reads_of(filled.book))
    status, said = run()
    assert status == 0, said
    assert (STEM in said) is (name in CLI_DOORS)
    assert len(reads_of(filled.book)) == before + 1
    filled.book.policy.grant("admin:root", "admin")
    filled.book.policy.adopt(DENIES)
    status, said = run()
    assert status == 2, said
    assert "access_denied" in said
    assert STEM not in said
    assert reads_of(filled.book)[-1].outcome == DENIED
