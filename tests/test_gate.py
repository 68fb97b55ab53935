"""The gate: records in groups, policies at reads and commands, what a restriction or a missing consent withholds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import tallybook
from tallybook import Book, BookFull, Masked, MissingExtra, PolicyError, Refused, Withheld
from tallybook.adapters.database import KeyTaken
from tallybook.adapters.group_commit import GroupCommit
from tallybook.adapters.log import LogRecorder
from tallybook.domain.access import CommandDenied, Exported, LogClosed, LogOpened, PersonalDataRead
from tallybook.domain.events import Event

RULES: dict[str, Any] = {
    "name": "test",
    "version": "1",
    "purposes": {
        "support": {"text": "Answering", "basis": "contract"},
        "marketing": {"text": "Writing", "basis": "consent", "consent": "newsletter"},
        "duty": {"text": "What the law demands", "basis": "legal_obligation", "during_restriction": True},
    },
    "rules": [
        {"id": "admins", "roles": ["admin"], "commands": ["*"]},
        {"id": "see", "roles": ["support"], "fields": ["name", "contact.email"], "commands": ["customers.*"]},
        {"id": "less", "roles": ["support"], "fields": ["birth_date", "identifier.*"], "effect": "mask"},
        {"id": "never", "roles": ["*"], "fields": ["income_band"], "effect": "deny"},
    ],
}


def events(book: Book) -> list[Event]:
    return [one.event for one in book._core.reads()]


def reads(book: Book) -> list[PersonalDataRead]:
    return [one for one in events(book) if isinstance(one, PersonalDataRead)]


def name_of(book: Book, customer: UUID) -> Any:
    return getattr(book._core.stream(customer)[1].event, "name")  # noqa: B009 - of this kind of event


def register(book: Book, **others: Any) -> UUID:
    return book.customers.register(
        name="Ada Lovelace",
        birth_date="1815-12-10",
        income_band="high",
        note="likes engines",
        email="ada@example.org",
        identifiers={"crm": f"C-{uuid4()}-1234"},
        **others,
    )


def adopt(book: Book, policy: Any = RULES, **roles: str) -> None:
    book.policy.grant("admin:root", "admin")
    for actor, role in roles.items():
        book.policy.grant(f"agent:{actor}", role)
    book.policy.adopt(policy)


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_says_who_from_where_and_by_which_program(book_url: str) -> None:
    caused = uuid4()
    with tallybook.open(book_url, application="shop/1.2") as book:
        with book.acting("agent:lin", purpose="support", address="10.0.0.7", causation_id=caused):
            ada = register(book)
            book.profiles.get(ada)
        with book.acting("agent:lin", purpose="support", application="till/2"):
            book.profiles.get(ada)
        first, second = reads(book)
        assert (first.remote_address, first.metadata.application, first.metadata.causation_id) == (
            "10.0.0.7", "shop/1.2", caused,
        )  # fmt: skip
        assert (second.remote_address, second.metadata.application) == (None, "till/2")
        history = [one.event for one in book._core.history()]
        assert {one.metadata.causation_id for one in history} == {caused}
        assert not any("10.0.0.7" in repr(one) for one in history)
        entry = book_entries(book)[-1]
        assert (entry["application"], entry["outcome"]) == ("till/2", "released")
        for wrong in ({"address": "two words"}, {"application": "a b"}, {"actor": ""}):
            given: dict[str, Any] = {"actor": "a", "purpose": "b", **wrong}
            with pytest.raises(Refused) as caught, book.acting(**given):
                pass
            assert caught.value.code == "invalid_argument"
            assert next(iter(wrong)) in str(caught.value)


def book_entries(book: Book) -> list[dict[str, Any]]:
    with book.acting("auditor:kim", purpose="audit"):
        return [{name: getattr(one, name) for name in one.__dataclass_fields__} for one in book.audit.trail()[:-1]]


def test_opening_and_closing_are_on_record_and_a_kill_leaves_no_end(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url, application="shop"):
        pass
    script = f"import os, tallybook; tallybook.open({url!r}); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    with tallybook.open(url) as book:
        found = events(book)
        runs = [(type(one), one.originator_id) for one in found]
        first, killed, third = [stream for kind, stream in runs if kind is LogOpened]
        assert [stream for kind, stream in runs if kind is LogClosed] == [first]
        assert len({first, killed, third}) == 3
        opening = found[0]
        assert isinstance(opening, LogOpened)
        assert (opening.release, opening.process) == (tallybook.__version__, os.getpid())
        assert (opening.metadata.actor, opening.metadata.application) == ("system:book", "shop")
        book.projections.rebuild("profiles", processes=2)
        assert len(events(book)) == len(found)  # its parts are not on record one by one


def test_a_book_opens_though_its_log_of_reads_can_not_be_written_and_releases_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = register(book)
    real, broken = LogRecorder.append, [True]

    def failing(self: LogRecorder, *args: Any, **kwargs: Any) -> Any:
        if self.table.name == "access_records" and broken:
            raise BookFull("no space")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LogRecorder, "append", failing)
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        with pytest.raises(BookFull):
            book.profiles.get(ada)
        assert len(events(book)) == 2
        broken.clear()
        book.profiles.get(ada)
        assert [type(one) for one in events(book)] == [LogOpened, LogClosed, LogOpened, PersonalDataRead]


def test_an_export_is_on_record(book: Book) -> None:
    core = book._core
    core.gate.exported(
        core.gate_metadata(core.acting_now()), format="pack", digest="ab", count=3, from_position=1, to_position=3
    )
    exported = events(book)[-1]
    assert isinstance(exported, Exported)
    assert (exported.format, exported.digest, exported.count) == ("pack", "ab", 3)
    assert (exported.from_position, exported.to_position, exported.metadata.actor) == (1, 3, "agent:lin")


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Log:
    """A log in a list, which fails as it is told."""

    def __init__(self, fails: Callable[[Sequence[Any]], BaseException | None] = lambda _: None) -> None:
        self.groups: list[list[Any]] = []
        self.tried = 0
        self.go = threading.Event()
        self.go.set()
        self.fails = fails

    def append(self, rows: Sequence[Any], **_: Any) -> Sequence[int]:
        self.go.wait(10)
        self.tried += 1
        error = self.fails(rows)
        if error is not None:
            raise error
        self.groups.append(list(rows))
        return range(len(rows))

    @property
    def rows(self) -> list[Any]:
        return [row for group in self.groups for row in group]


def all_at_once(group: GroupCommit, log: Log, rows: Sequence[Any]) -> dict[Any, BaseException | None]:
    """Append each row in a thread of its own, all but the first while the first is being committed."""
    found: dict[Any, BaseException | None] = {}

    def run(row: Any) -> None:
        try:
            group.append(row)
        except BaseException as error:  # noqa: BLE001 - told to the test
            found[row] = error
        else:
            assert row in log.rows, "it returned before it was durable"
            found[row] = None

    log.go.clear()
    threads = [threading.Thread(target=run, args=(row,)) for row in rows]
    threads[0].start()
    while not group._led or group._waiting:
        pass
    for thread in threads[1:]:
        thread.start()
    while len(group._waiting) < len(rows) - 1:
        pass
    log.go.set()
    for thread in threads:
        thread.join(10)
    return found


ROWS: list[Any] = [(bytes([number]), 1, "x", b"") for number in range(20)]


def nothing_moved(streams: Sequence[bytes], subjects: Sequence[bytes]) -> Any:
    return {}, set()


def test_what_comes_during_a_commit_shares_the_next_one() -> None:
    log = Log()
    group = GroupCommit(log, nothing_moved)  # type: ignore[arg-type]  # all that it needs of a log
    assert set(all_at_once(group, log, ROWS).values()) == {None}
    assert [len(one) for one in log.groups] == [1, 19]
    assert not group._led
    group.append((b"later", 1, "x", b""))
    assert len(log.groups) == 3


def test_a_group_that_fails_releases_nobody_and_the_next_one_works() -> None:
    full = BookFull("no space")
    log = Log(lambda rows: full)
    group = GroupCommit(log, nothing_moved)  # type: ignore[arg-type]  # all that it needs of a log
    assert set(all_at_once(group, log, ROWS).values()) == {full}
    assert log.tried == 2  # not for each of them
    log.fails = lambda _: None
    group.append(ROWS[0])
    assert log.rows == [ROWS[0]]


@pytest.mark.parametrize("error", [KeyTaken("taken"), ValueError("too long"), TypeError("no row")])
def test_a_bad_row_fails_alone(error: Exception) -> None:
    bad = ROWS[7]
    log = Log(lambda rows: error if bad in rows else None)
    group = GroupCommit(log, nothing_moved)  # type: ignore[arg-type]  # all that it needs of a log
    found = all_at_once(group, log, ROWS)
    assert {row for row, failed in found.items() if failed} == {bad}
    assert sorted(log.rows) == sorted(row for row in ROWS if row != bad)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupt_of_whoever_leads_releases_nobody_and_leaves_no_one_waiting(error: BaseException) -> None:
    log = Log(lambda rows: error if len(rows) > 1 else None)
    group = GroupCommit(log, nothing_moved)  # type: ignore[arg-type]  # all that it needs of a log
    found = all_at_once(group, log, ROWS)
    assert [failed for row, failed in found.items() if row != ROWS[0]] == [error] * 19
    assert not group._led
    group.append((b"later", 1, "x", b""))


def test_whoever_leaves_while_waiting_takes_neither_row_nor_lead_along() -> None:
    log = Log()
    group = GroupCommit(log, nothing_moved)  # type: ignore[arg-type]  # all that it needs of a log
    log.go.clear()
    first = threading.Thread(target=group.append, args=(ROWS[0],))
    first.start()
    while not group._led or group._waiting:
        pass
    others = [threading.Thread(target=group.append, args=(row,)) for row in ROWS[1:3]]
    for number, other in enumerate(others, 1):
        other.start()
        while len(group._waiting) < number:
            pass
    leaving = group._waiting[0]
    group._leave(leaving)
    log.go.set()
    first.join(10)
    others[1].join(10)
    assert leaving.row not in log.rows
    assert len(log.rows) == 2
    assert leaving.wake is not None
    leaving.leads = True
    leaving.done = True
    leaving.wake.release()
    others[0].join(10)


@pytest.mark.parametrize("count", [0, 1, 3, 300])
def test_what_a_group_rests_on_is_looked_up_at_once(book: Book, count: int) -> None:
    log, database = book._core.app.log, book._core.storage.events
    people = [book.customers.register(name=f"Person {number}") for number in range(min(count, 3))]
    if people:
        book.erasures.erase(people[0], reason="request")
    streams = [one.bytes for one in people] + [uuid4().bytes for _ in range(count - len(people))]
    asked: list[str] = []
    real = database.rows
    log.look([], streams)  # since the last commit

    def rows(statement: str, params: Sequence[Any] = ()) -> Any:
        asked.append(statement)
        return real(statement, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "rows", rows)
        versions, erased = log.look(streams, streams)
    assert len(asked) == -(-count // 256)
    assert set(versions) == set(streams)
    assert [versions[one.bytes] for one in people] == [
        book._core.stream(one)[-1].event.originator_version for one in people
    ]
    assert [one for one in streams if not versions[one]] == streams[len(people) :]
    assert erased == {(one.bytes, 1) for one in people[:1]}
    assert log.look([], streams) == ({}, erased)
    assert log.look(streams, []) == (versions, set())


@pytest.mark.slow
def test_100_000_random_reads_are_100_000_records(tmp_path: Path) -> None:
    total, threads = 100_000, 50
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book, book.acting("agent:lin", purpose="support"):
        customers = [book.customers.register(name=f"Customer {number}", note="x") for number in range(40)]
        core = book._core
        sealed = [core.stream(customer)[1].event for customer in customers]
        errors: list[BaseException] = []
        asked: list[list[tuple[UUID, str]]] = [[] for _ in range(threads)]

        def run(number: int) -> None:
            draw = random.Random(number)
            try:
                with book.acting(f"agent:{number}", purpose="support"):
                    for _ in range(total // threads):
                        index, field = draw.randrange(len(customers)), draw.choice(["name", "note"])
                        given = core.gate.open(
                            core.gate_metadata(core.acting_now()), f"read.{field}", {0: getattr(sealed[index], field)}
                        )
                        assert given[0] == (f"Customer {index}" if field == "name" else "x")
                        asked[number].append((customers[index], field))
            except BaseException as error:  # noqa: BLE001 - told below
                errors.append(error)

        started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        assert errors == []
        found: dict[str, list[tuple[UUID, str]]] = {}
        for record in reads(book):
            [subject], [field] = record.subjects, record.fields
            found.setdefault(record.metadata.actor, []).append((subject, field))
        assert sum(map(len, found.values())) == total
        assert {f"agent:{number}": one for number, one in enumerate(asked)} == found
        assert all(one.holds for one in book.audit.verify())


# ── policies ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_policy_decides_field_by_field_and_the_record_says_by_which_rules(book: Book) -> None:
    ada = register(book)
    adopt(book, lin="support")
    profile = book.profiles.get(ada)
    assert profile["name"] == "Ada Lovelace"
    assert profile["birth_date"] == Masked("1815")
    assert profile["income_band"] == profile["note"] == Withheld(ada, "denied")
    assert str(profile.identifiers["crm"].value) == "…1234"
    assert profile.contact_points[0].value == "ada@example.org"
    [record] = reads(book)
    assert set(record.fields) == {"contact.email", "name"}
    assert set(record.masked) == {"birth_date", "identifier.crm"}
    assert set(record.withheld) == {"income_band", "note"}
    assert set(record.rules) == {"see", "less", "never"}
    found = book.policy.in_force()
    assert found is not None
    assert (record.policy, record.legal_basis, record.outcome) == (found.digest, "contract", "released")
    # Nothing of what the policy does not allow is in any answer.
    assert "engines" not in repr(book.profiles.timeline(ada))


def test_whoever_has_no_role_is_denied_and_the_attempts_are_on_record(book: Book) -> None:
    ada = register(book)
    adopt(book, kim="support")
    with pytest.raises(Refused) as caught:
        book.profiles.get(ada)
    assert caught.value.code == "access_denied"
    with pytest.raises(Refused) as caught:
        book.customers.change(ada, note="seen")
    assert caught.value.code == "access_denied"
    read, command = events(book)[-2:]
    assert isinstance(read, PersonalDataRead)
    assert isinstance(command, CommandDenied)
    assert (read.outcome, command.command) == ("denied", "customers.change")
    assert read.policy == command.policy
    with book.acting("agent:kim", purpose="support"):
        assert [one.actor for one in book.policy.roles("agent:kim")] == ["agent:kim"]
        book.customers.change(ada, note="seen")
        with pytest.raises(Refused, match="access_denied"):
            book.policy.withdraw()
    with book.acting("agent:kim", purpose="gossip"), pytest.raises(Refused, match="access_denied"):
        book.profiles.get(ada)


def test_the_trail_shows_what_was_denied_masked_and_withheld(book: Book) -> None:
    ada = register(book)
    adopt(book, {**RULES, "rules": [*RULES["rules"], AUDITORS]}, lin="support", kim="auditor")
    book.profiles.get(ada)
    with book.acting("agent:eve", purpose="support"), pytest.raises(Refused):
        book.profiles.get(ada)
    with book.acting("agent:eve", purpose="support"), pytest.raises(Refused):
        book.customers.change(ada, note="x")
    with book.acting("agent:kim", purpose="duty"):
        entries = book.audit.trail(ada)
        everything = book.audit.trail()
    read, denied = [one for one in entries if one.log == "reads"][:2]
    assert (read.outcome, read.masked, read.withheld) == (
        "released", ("birth_date", "identifier.crm"), ("income_band", "note"),
    )  # fmt: skip
    assert (denied.actor, denied.outcome, denied.fields, denied.why) == (
        "agent:eve", "denied", (), "policy rule never",
    )  # fmt: skip
    found = book.policy.in_force()
    assert found is not None
    assert read.policy == found.digest
    assert ("command:customers.change", "denied") in [(one.action, one.outcome) for one in everything]
    assert everything[0].action in ("log.opened", "customer.key_created")


def test_an_allowed_command_says_by_which_rule_of_which_policy(book: Book) -> None:
    before = register(book)
    adopt(book, {**RULES, "rules": [*RULES["rules"], AUDITORS]}, lin="support", kim="auditor")
    after = register(book)
    first = book.policy.in_force()
    with book.acting("admin:root", purpose="support"):
        book.policy.adopt({**RULES, "version": "2", "rules": [*RULES["rules"], AUDITORS]})
    book.customers.change(after, note="again")
    second = book.policy.in_force()
    assert first is not None
    assert second is not None
    assert {one.event.metadata.rule for one in book._core.stream(before)} == {None}
    assert {one.event.metadata.rule for one in book._core.stream(after)} == {"see"}
    with book.acting("agent:kim", purpose="duty"):
        told = [(one.action, one.policy, one.rules) for one in book.audit.trail() if one.log == "events"]
    assert [one[1:] for one in told if one[0] == "policy.adopted"] == [(None, ()), (first.digest, ("admins",))]
    assert [one[1:] for one in told if one[0] == "customer.registered"] == [(None, ()), (first.digest, ("see",))]
    assert [one[1:] for one in told if one[0] == "customer.changed"] == [(second.digest, ("see",))]
    with book.acting("admin:root", purpose="support"):
        book.erasures.erase(after, reason="gdpr-17")
        book.policy.withdraw()
    note = book.audit.replay(before, datetime.now(UTC)).document["state"]["fields"]["note"]["source"]
    assert (note["policy"], note["rule"]) == (None, None)
    book.customers.change(before, note="free")
    assert book._core.stream(before)[-1].event.metadata.rule is None


def test_an_audit_replay_names_policy_and_rule_of_each_command(book: Book) -> None:
    adopt(book, {**RULES, "rules": [*RULES["rules"], AUDITORS]}, lin="support", kim="auditor")
    ada = register(book)
    held = book.policy.in_force()
    assert held is not None
    with book.acting("agent:kim", purpose="duty"):
        replay = book.audit.replay(ada, datetime.now(UTC))
    source = replay.document["state"]["fields"]["name"]["source"]
    assert (source["policy"], source["rule"]) == (held.digest, "see")
    assert held.digest in replay.html()


AUDITORS = {"id": "audit", "roles": ["auditor"], "actions": ["audit.*"], "fields": ["*"], "effect": "mask"}


def test_a_policy_or_role_that_another_process_changed_counts_at_once(book_url: str) -> None:
    with (
        tallybook.open(book_url) as one,
        tallybook.open(book_url) as other,
        one.acting("agent:lin", purpose="support"),
    ):
        ada = register(one)
        one.profiles.get(ada)
        with other.acting("admin:root", purpose="support"):
            adopt(other)
        with pytest.raises(Refused, match="access_denied"):
            one.profiles.get(ada)
        with pytest.raises(Refused, match="access_denied"):
            one.customers.change(ada, note="x")
        with other.acting("admin:root", purpose="support"):
            other.policy.grant("agent:lin", "support")
        one.customers.change(ada, note="y")
        assert one.profiles.get(ada)["name"] == "Ada Lovelace"
        with other.acting("admin:root", purpose="support"):
            other.policy.revoke("agent:lin", "support")
        with pytest.raises(Refused, match="access_denied"):
            one.profiles.get(ada)
        with pytest.raises(Refused, match="access_denied"):
            one.customers.change(ada, note="z")


def test_a_role_ends_by_the_clock(tmp_path: Path) -> None:
    now = [1_700_000_000_000_000]
    with (
        tallybook.open(f"sqlite:///{tmp_path}/shop.book", now_us=lambda: now[0]) as book,
        book.acting("agent:lin", purpose="support"),
    ):
        ada = register(book)
        book.policy.grant("agent:lin", "support", until="2023-11-15T00:00:00Z")
        adopt(book)
        book.profiles.get(ada)
        assert [one.until for one in book.policy.roles("agent:lin")] == ["2023-11-15T00:00:00Z"]
        before = book.position()
        now[0] += 86_400_000_000
        with pytest.raises(Refused, match="access_denied"):
            book.profiles.get(ada)
        assert book.policy.roles("agent:lin") == []
        assert [one.role for one in book.policy.roles("agent:lin", known_at=before)] == ["support"]
        assert book.policy.in_force(known_at=before - 1) is None


def test_a_repeat_with_its_command_id_gives_nothing_to_who_may_not_any_more(book: Book) -> None:
    ada = book.customers.register(name="Ada", command_id="first")
    assert book.customers.register(name="Ada", command_id="first") == ada
    adopt(book)
    with pytest.raises(Refused, match="access_denied"):
        book.customers.register(name="Ada", command_id="first")
    with book.acting("admin:root", purpose="support"):
        assert book.customers.register(name="Ada", command_id="first") == ada


def test_until_a_policy_is_adopted_and_after_it_is_withdrawn_everybody_may(book: Book) -> None:
    ada = register(book)
    assert book.policy.in_force() is None
    assert book.policy.explain("agent:lin", "support", "profiles.get").policy is None
    with pytest.raises(Refused) as caught:
        book.policy.withdraw()
    assert caught.value.code == "no_policy"
    adopt(book)
    with book.acting("admin:root", purpose="support"):
        book.policy.withdraw()
    assert book.profiles.get(ada)["note"] == "likes engines"
    assert reads(book)[-1].policy is None


def test_nobody_is_locked_out(book: Book) -> None:
    with pytest.raises(Refused) as caught:
        book.policy.adopt(RULES)
    assert caught.value.code == "policy_locks_out"
    adopt(book)
    with book.acting("admin:root", purpose="support"):
        with pytest.raises(Refused) as caught:
            book.policy.revoke("admin:root", "admin")
        assert caught.value.code == "policy_locks_out"
        with pytest.raises(Refused) as caught:
            book.policy.adopt({**RULES, "description": "other"})
        assert caught.value.code == "policy_adopted"
        with pytest.raises(Refused) as caught:
            book.policy.revoke("agent:kim", "support")
        assert caught.value.code == "role_not_granted"


def test_explain_tells_field_by_field(book: Book) -> None:
    adopt(book, lin="support")
    found = book.policy.explain("agent:lin", "support", "profiles.get")
    effects = {one.field: (one.effect, one.rule) for one in found.fields}
    assert effects["name"] == ("allow", "see")
    assert effects["birth_date"] == ("mask", "less")
    assert effects["income_band"] == ("deny", "never")
    assert effects["note"] == ("deny", None)
    assert (found.policy, found.roles, found.legal_basis) == ("test@1", ("support",), "contract")
    assert book.policy.explain("agent:lin", "support", "customers.change").command.effect == "allow"


@pytest.mark.parametrize("form", ["toml", "json"])
def test_a_policy_is_a_file_of_toml_or_json(book: Book, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"policy.{form}"
    shop = Path(tallybook.__file__).parent / "data" / "shop.policy.toml"
    if form == "json":
        file.write_text(json.dumps(book.policy.check("shop").model_dump(mode="json", exclude_none=True)))
    else:
        file.write_bytes(shop.read_bytes())
    assert book.policy.check(file) == book.policy.check("shop")
    book.policy.grant("admin:root", "admin")
    assert book.policy.adopt(file) == "shop@1"
    file.write_text("{" if form == "json" else "name = ")
    for wrong in (file, tmp_path, tmp_path / "nowhere.toml", {"name": "x"}):
        with pytest.raises(PolicyError):
            book.policy.check(wrong)


# ── restriction and consent ───────────────────────────────────────────────────────────────────────────────────────


def test_restricted_data_is_released_for_duties_alone(book: Book) -> None:
    ada, bob = register(book), register(book)
    adopt(book, lin="support")
    book.customers.restrict(ada, reason="disputed")
    with pytest.raises(Refused) as caught:
        book.profiles.get(ada)
    assert (caught.value.code, caught.value.values["reason"]) == ("access_denied", "restricted")
    assert reads(book)[-1].restricted == (ada,)
    found = book._core.gate.open(
        book._core.gate_metadata(book._core.acting_now()),
        "both",
        {one: name_of(book, one) for one in (ada, bob)},
    )
    assert found == {ada: Withheld(ada, "restricted"), bob: "Ada Lovelace"}
    assert (reads(book)[-1].outcome, reads(book)[-1].restricted) == ("released", (ada,))
    with book.acting("agent:lin", purpose="duty"):
        assert book.profiles.get(ada)["name"] == "Ada Lovelace"
    book.customers.lift_restriction(ada)
    assert book.profiles.get(ada)["name"] == "Ada Lovelace"


def test_a_purpose_that_rests_on_a_consent_sees_those_who_gave_it(book: Book) -> None:
    ada, bob = register(book), register(book)
    adopt(book, lin="support")
    book.customers.grant_consent(ada, "newsletter", source="web", text_version="v3")
    core = book._core
    handles = {one: name_of(book, one) for one in (ada, bob)}
    with book.acting("agent:lin", purpose="marketing"):
        assert book.profiles.get(ada)["name"] == "Ada Lovelace"
        assert reads(book)[-1].consents == ("v3",)
        with pytest.raises(Refused) as caught:
            book.profiles.get(bob)
        assert caught.value.values["reason"] == "no_consent"
        found = core.gate.open(core.gate_metadata(core.acting_now()), "both", handles)
        assert found == {ada: "Ada Lovelace", bob: Withheld(bob, "no_consent")}
        record = reads(book)[-1]
        assert dict(zip(record.subjects, record.consents, strict=True)) == {ada: "v3", bob: "-"}
        many = core.standings([ada, bob, *(uuid4() for _ in range(200))], "newsletter")
        assert (many[ada].consent, many[bob].consent, len(many)) == ("v3", None, 2)
    book.customers.withdraw_consent(ada, "newsletter")
    with book.acting("agent:lin", purpose="marketing"), pytest.raises(Refused, match="access_denied"):
        book.profiles.get(ada)


def test_without_the_extra_a_policy_in_cedar_says_what_to_install(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    monkeypatch.delitem(sys.modules, "tallybook.adapters.cedar", raising=False)
    document = {key: value for key, value in RULES.items() if key != "rules"}
    with pytest.raises(MissingExtra) as caught:
        book.policy.check({**document, "cedar": "permit(principal, action, resource);"})
    assert "tallybook[cedar]" in str(caught.value)
