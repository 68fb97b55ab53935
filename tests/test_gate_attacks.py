"""Ways around the gate: what moves between decision and record, who acts where, odd names, forks, a full disk."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import tallybook
from tallybook import Book, BookError, BookFull, Erased, Refused, cli
from tallybook.domain.access import PersonalDataRead

RULES: dict[str, Any] = {
    "name": "test",
    "version": "1",
    "purposes": {
        "support": {"text": "Answering", "basis": "contract"},
        "letters": {"text": "Writing", "basis": "consent", "consent": "newsletter"},
    },
    "rules": [
        {"id": "admins", "roles": ["admin"], "commands": ["*"]},
        {"id": "see", "roles": ["support"], "fields": ["*"]},
    ],
}


def reads(book: Book) -> list[PersonalDataRead]:
    return [one.event for one in book._core.reads() if isinstance(one.event, PersonalDataRead)]


def name_of(book: Book, customer: UUID) -> Any:
    return getattr(book._core.stream(customer)[1].event, "name")  # noqa: B009 - of this kind of event


def opened(book: Book, *customers: UUID) -> dict[UUID, object]:
    core = book._core
    return core.gate.open(
        core.gate_metadata(core.acting_now()), "profiles.get", {one: name_of(book, one) for one in customers}
    )


class Two:
    """Two handles on one book, as two processes have; `between` happens after the first has decided."""

    def __init__(self, one: Book, other: Book, ada: UUID) -> None:
        self.one, self.other, self.ada = one, other, ada

    def as_admin(self, do: Callable[[Book], object]) -> None:
        with self.other.acting("admin:root", purpose="support"):
            do(self.other)

    def between(self, monkeypatch: pytest.MonkeyPatch, do: Callable[[Book], object]) -> None:
        group = self.one._core.gate._group
        real = group._look

        def look(streams: Sequence[bytes], subjects: Sequence[bytes]) -> Any:
            monkeypatch.setattr(group, "_look", real)
            self.as_admin(do)
            return real(streams, subjects)

        monkeypatch.setattr(group, "_look", look)


@pytest.fixture
def two(book_url: str) -> Iterator[Two]:
    with (
        tallybook.open(book_url) as one,
        tallybook.open(book_url) as other,
        one.acting("agent:lin", purpose="support"),
    ):
        ada = one.customers.register(name="Ada Lovelace")
        found = Two(one, other, ada)

        def begin(book: Book) -> None:
            book.policy.grant("admin:root", "admin")
            book.policy.grant("agent:lin", "support")
            book.policy.adopt(RULES)

        found.as_admin(begin)
        assert opened(one, ada) == {ada: "Ada Lovelace"}
        yield found


# ── what moves between decision and record ────────────────────────────────────────────────────────────────────────


def test_a_role_revoked_between_decision_and_record_counts(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.between(monkeypatch, lambda book: book.policy.revoke("agent:lin", "support"))
    before = len(reads(two.one))
    with pytest.raises(Refused, match="access_denied"):
        opened(two.one, two.ada)
    assert [one.outcome for one in reads(two.one)[before:]] == ["denied"]


def test_a_denial_by_a_policy_that_is_no_more_is_not_recorded(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.as_admin(lambda book: book.policy.revoke("agent:lin", "support"))
    with pytest.raises(Refused):
        opened(two.one, two.ada)
    long_ago = "2020-01-01T00:00:00Z"
    two.between(monkeypatch, lambda book: book.policy.grant("agent:lin", "support", effective_at=long_ago))
    before = len(reads(two.one))
    assert opened(two.one, two.ada) == {two.ada: "Ada Lovelace"}
    assert [one.outcome for one in reads(two.one)[before:]] == ["released"]


def test_an_erasure_between_decision_and_record_counts(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = {two.ada: name_of(two.one, two.ada)}
    two.between(monkeypatch, lambda book: book.erasures.erase(two.ada, reason="request"))
    core = two.one._core
    found = core.gate.open(core.gate_metadata(core.acting_now()), "profiles.get", handle)
    assert found == {two.ada: Erased(two.ada)}


def test_a_restriction_between_decision_and_record_counts(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.between(monkeypatch, lambda book: book.customers.restrict(two.ada, "unlawful"))
    with pytest.raises(Refused) as caught:
        opened(two.one, two.ada)
    assert caught.value.values["reason"] == "restricted"


def test_a_consent_withdrawn_between_decision_and_record_counts(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.as_admin(lambda book: book.customers.grant_consent(two.ada, "newsletter", source="web", text_version="v1"))
    with two.one.acting("agent:lin", purpose="letters"):
        assert opened(two.one, two.ada) == {two.ada: "Ada Lovelace"}
        two.between(monkeypatch, lambda book: book.customers.withdraw_consent(two.ada, "newsletter"))
        with pytest.raises(Refused) as caught:
            opened(two.one, two.ada)
    assert caught.value.values["reason"] == "no_consent"


def test_where_the_log_can_not_be_asked_nothing_is_released(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(streams: Sequence[bytes], subjects: Sequence[bytes]) -> Any:
        raise BookError("gone", path="x", remedy="none")

    handles = {two.ada: name_of(two.one, two.ada)}
    core, before = two.one._core, len(reads(two.one))
    with monkeypatch.context() as patch:
        patch.setattr(core.gate._group, "_look", failing)
        with pytest.raises(BookError, match="gone"):
            core.gate.open(core.gate_metadata(core.acting_now()), "profiles.get", handles)
    assert len(reads(two.one)) == before
    assert core.gate.open(core.gate_metadata(core.acting_now()), "profiles.get", handles) == {two.ada: "Ada Lovelace"}


def test_an_erasure_in_the_middle_of_a_bulk_read_counts_for_its_rest(two: Two) -> None:
    core = two.one._core
    with two.one.acting("agent:lin", purpose="support"):
        two.as_admin(lambda book: book.policy.withdraw())
        bob = two.one.customers.register(name="Bob")
        handles = [{one: name_of(two.one, one)} for one in (two.ada, bob)]
        release = core.gate.bulk(
            core.gate_metadata(core.acting_now()), "audit.export", {two.ada: {1}, bob: {1}}, ["name"]
        )
        assert release(handles[0]) == {two.ada: "Ada Lovelace"}
        two.as_admin(lambda book: book.erasures.erase(bob, reason="request"))
        assert release(handles[1]) == {bob: Erased(bob)}
        with pytest.raises(TypeError, match="only what was recorded"):
            release({two.ada: getattr(core.stream(two.ada)[1].event, "name"), "x": _other(two.one)})  # noqa: B009 - as above


def _other(book: Book) -> Any:
    return name_of(book, book.customers.register(name="Eve"))


def test_a_role_that_ends_while_a_bulk_read_is_under_way_ends_the_next_one(tmp_path: Path) -> None:
    now = [1_700_000_000_000_000]
    with (
        tallybook.open(f"sqlite:///{tmp_path}/shop.book", now_us=lambda: now[0]) as book,
        book.acting("agent:lin", purpose="support"),
    ):
        ada = book.customers.register(name="Ada")
        book.policy.grant("admin:root", "admin")
        book.policy.grant("agent:lin", "support", until="2023-11-15T00:00:00Z")
        book.policy.adopt(RULES)
        core, handles = book._core, {ada: name_of(book, ada)}
        release = core.gate.bulk(core.gate_metadata(core.acting_now()), "audit.export", {ada: {1}}, ["name"])
        now[0] += 86_400_000_000
        assert release(handles) == {ada: "Ada"}  # it was decided, and is on record, as of its beginning
        assert len(reads(book)) == 1
        with pytest.raises(Refused, match="access_denied"):
            core.gate.bulk(core.gate_metadata(core.acting_now()), "audit.export", {ada: {1}}, ["name"])


# ── who acts ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def governed(tmp_path: Path) -> Iterator[tuple[Book, UUID]]:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        with book.acting("admin:root", purpose="support"):
            ada = book.customers.register(name="Ada")
            book.policy.grant("admin:root", "admin")
            book.policy.grant("agent:lin", "support")
            book.policy.adopt(RULES)
        yield book, ada


@pytest.mark.parametrize(
    "actor",
    ["", " ", "agent:lin ", "agent:lin\n", "agent: lin", "agent:lin\x00", "agent:lin\u200b", "x" * 81, "*", "agent.*"],
)  # fmt: skip
def test_an_actor_that_looks_like_another_is_refused_or_has_no_role(governed: tuple[Book, UUID], actor: str) -> None:
    book, ada = governed
    with pytest.raises(Refused) as caught, book.acting(actor, purpose="support"):
        book.profiles.get(ada)
    assert caught.value.code in ("invalid_argument", "access_denied")


@pytest.mark.parametrize(
    "actor", ["agent:l\ufe0fin", "agent:lin\u200d", "AGENT:LIN", "agent:lın", "agent:ﬁn", "agent:lin:x", "agent"]
)
def test_a_look_alike_has_no_role_of_its_model(governed: tuple[Book, UUID], actor: str) -> None:
    book, ada = governed
    with pytest.raises(Refused) as caught, book.acting(actor, purpose="support"):
        book.profiles.get(ada)
    assert caught.value.code in ("invalid_argument", "access_denied")
    with pytest.raises(Refused), book.acting(actor, purpose="support"):
        book.customers.change(ada, note="x")


@pytest.mark.parametrize(
    "actor", ["system:book", "system:erasure", "system:restore", "system:keys", "system:", "SYSTEM:book", "ſystem:x"]
)
def test_no_host_acts_as_the_book_itself(governed: tuple[Book, UUID], actor: str) -> None:
    book, _ = governed
    before = book.position()
    for acting, behalf in ((actor, None), ("agent:lin", actor)):
        with pytest.raises(Refused) as caught, book.acting(acting, on_behalf_of=behalf, purpose="support"):
            book.customers.register(name="Eve")
        assert caught.value.code == "actor_reserved"
        assert "job:" in caught.value.remedy
    assert book.position() == before


@pytest.mark.parametrize("unseen", ["\u200c", "\u200d", "\u034f", "\ufe0f", "\ufeff"])
def test_no_host_looks_like_the_book_itself(governed: tuple[Book, UUID], unseen: str) -> None:
    book, ada = governed
    before = book.position()
    for acting, behalf in ((f"system{unseen}:erasure", None), ("agent:lin", f"s{unseen}ystem:erasure")):
        with pytest.raises(Refused) as caught, book.acting(acting, on_behalf_of=behalf, purpose="erasure"):
            book.profiles.get(ada)
        assert caught.value.code in ("actor_reserved", "invalid_argument")
    assert book.position() == before


def test_the_command_line_acts_no_more_as_the_book_than_a_host(
    governed: tuple[Book, UUID], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    book, ada = governed
    url = book._core.storage.url
    given = ["show", "customer", str(ada), "--book", url, "--actor", "system:book", "--purpose", "support"]
    monkeypatch.setattr(sys, "argv", ["tallybook", *given])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    assert stop.value.code == 2
    assert "actor_reserved" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["*", "support.*", "su*", " support"])
def test_no_role_can_be_granted_that_reads_as_a_pattern(governed: tuple[Book, UUID], role: str) -> None:
    book, ada = governed
    with book.acting("admin:root", purpose="support"), pytest.raises(Refused):
        book.policy.grant("agent:eve", role)
    with book.acting("agent:eve", purpose="support"), pytest.raises(Refused, match="access_denied"):
        book.profiles.get(ada)


def test_nested_actors_count_one_by_one(governed: tuple[Book, UUID]) -> None:
    book, ada = governed
    with book.acting("agent:lin", purpose="support"):
        book.profiles.get(ada)
        with book.acting("agent:eve", purpose="support", on_behalf_of="agent:lin"):
            with pytest.raises(Refused, match="access_denied"):
                book.profiles.get(ada)
            with book.acting("agent:lin", purpose="support"):
                book.profiles.get(ada)
            with pytest.raises(Refused, match="access_denied"):
                book.profiles.get(ada)
        book.profiles.get(ada)
    with pytest.raises(Refused, match="acting_required"):
        book.profiles.get(ada)
    said = [(one.metadata.actor, one.outcome) for one in reads(book)]
    lin, eve = ("agent:lin", "released"), ("agent:eve", "denied")
    assert said == [lin, eve, lin, eve, lin]


def test_threads_that_share_a_book_read_each_as_himself(governed: tuple[Book, UUID]) -> None:
    book, ada = governed
    wrong: list[str] = []

    def run(actor: str) -> None:
        with book.acting(actor, purpose="support"):
            for _ in range(20):
                try:
                    book.profiles.get(ada)
                    outcome = "released"
                except Refused:
                    outcome = "denied"
                if (outcome == "released") is not (actor == "agent:lin"):
                    wrong.append(actor)

    threads = [threading.Thread(target=run, args=(f"agent:{name}",)) for name in ("lin", "eve", "kim", "lin")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []
    counted = Counter((one.metadata.actor, one.outcome) for one in reads(book))
    assert counted == {("agent:lin", "released"): 40, ("agent:eve", "denied"): 20, ("agent:kim", "denied"): 20}


def test_tasks_that_share_a_thread_read_each_as_himself(governed: tuple[Book, UUID]) -> None:
    book, ada = governed

    async def run(actor: str) -> list[str]:
        found = []
        with book.acting(actor, purpose="support"):
            for _ in range(5):
                await asyncio.sleep(0)
                try:
                    await asyncio.to_thread(book.profiles.get, ada)
                    found.append("released")
                except Refused:
                    found.append("denied")
        return found

    async def both() -> tuple[list[str], list[str]]:
        return await asyncio.gather(run("agent:lin"), run("agent:eve"))

    assert list(asyncio.run(both())) == [["released"] * 5, ["denied"] * 5]


def test_a_forked_child_releases_nothing_of_its_parents_book(governed: tuple[Book, UUID]) -> None:
    book, ada = governed
    with book.acting("agent:lin", purpose="support"):
        book.profiles.get(ada)
        handle = {ada: name_of(book, ada)}
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            core, status = book._core, 1
            try:
                core.gate.open(core.gate_metadata(core.acting_now()), "profiles.get", handle)
            except BookError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        book.profiles.get(ada)
    assert len(reads(book)) == 2


# ── the disk of the log of reads ──────────────────────────────────────────────────────────────────────────────────


def test_the_disk_of_the_log_of_reads_fills_up_and_is_emptied_again(governed: tuple[Book, UUID]) -> None:
    """Its file may lie on another disk: what is full there stops reads, and nothing else."""
    book, ada = governed
    core, database = book._core, book._core.storage.reads
    handle = {ada: name_of(book, ada)}

    def limit(pages: str) -> None:
        with database.session(write=True) as session:
            session.run(f"PRAGMA max_page_count={pages}")

    with book.acting("agent:lin", purpose="support"):
        core.gate.open(core.gate_metadata(core.acting_now()), "profiles.get", handle)
    limit("1")  # as many as there are
    outcomes: list[object] = []

    def run() -> None:
        with book.acting("agent:lin", purpose="support"):
            for _ in range(30):
                try:
                    found = core.gate.open(core.gate_metadata(core.acting_now()), "profiles.get", handle)
                    outcomes.append(found[ada])
                except BookFull as error:
                    outcomes.append(type(error))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    released = [one for one in outcomes if one == "Ada"]
    assert outcomes.count(BookFull) + len(released) == 240
    assert BookFull in outcomes
    assert len(reads(book)) == 1 + len(released), "what was released is on record, and nothing else"
    with book.acting("admin:root", purpose="support"):
        book.customers.change(ada, note="commands go on")
    limit("1073741823")
    with book.acting("agent:lin", purpose="support"):
        assert core.gate.open(core.gate_metadata(core.acting_now()), "profiles.get", handle) == {ada: "Ada"}
    assert book.audit.verify()
