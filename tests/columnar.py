"""The two executors side by side: what the machine decides about a history, and what the domain's own code does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from tallybook.adapters.archive import certificate
from tallybook.adapters.archive.certificate import NotByColumns
from tallybook.adapters.codec import _pack_metadata
from tallybook.adapters.form import form_of
from tallybook.adapters.packing import packer
from tallybook.domain import arithmetic, calendar, lots
from tallybook.domain.earning import Rules
from tallybook.domain.events import REGISTRY, Decision, Event, Fact
from tallybook.domain.loyalty import LoyaltyAccount
from tallybook.domain.points import lot_of
from tallybook.projections.columnar import executor
from tallybook.projections.columnar.executor import decisions_of
from tallybook.projections.columnar.facts import Gathering, granted_by_tiers, with_tier_coupons
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.names import Id, Names, words_of
from tallybook.projections.columnar.rulebook import Adoptions, Book
from tallybook.projections.read_models import Recorded
from tallybook.projections.replay import DECISION_NAMES, FACT_NAMES, Certificate, Derivation, certify

YEARS = range(1990, 2060)
History = Sequence[tuple[int, Event]]
Steps = dict[UUID, list[tuple[int, list[int]]]]
"""By account: the position of each fact that something was decided about, and the words."""


def by_reference(history: History, candidate: Rules | None) -> dict[UUID, list[tuple[int, list[Decision]]]]:
    """What the domain's own code decides."""
    found: dict[UUID, list[tuple[int, list[Decision]]]] = {}

    def note(position: int, derived: Iterable[tuple[LoyaltyAccount, list[Event]]]) -> None:
        for account, decisions in derived:
            if decisions:
                told = [one for one in decisions if isinstance(one, Decision)]
                found.setdefault(account.id, []).append((position, told))

    derivation = Derivation(candidate)
    for position, event in history:
        if isinstance(event, Fact):
            note(position, derivation.feed(event))
    note(m.END, derivation.follow_sweep())
    return found


def both(history: History, candidate: Rules | None = None, *, everything: bool = True) -> tuple[Steps, Steps]:
    """What the machine and the domain decide about the accounts of all programmes that the history has."""
    names = Names()
    gathering = Gathering(names)
    for position, event in history:
        gathering.feed(position, event)
    facts = gathering.facts()
    reference = by_reference(history, candidate)
    positions = {event.event_id: position for position, event in history}
    machines: Steps = {}
    domains: Steps = {}
    for programme in sorted({programme for _, programme, _ in facts.accounts if programme}):
        is_its = candidate is not None and candidate.rule_set.programme == programme
        adoptions = Adoptions(programme, gathering.control, candidate if is_its else None)
        book = Book(adoptions, names)
        with_tier_coupons(facts, book.grants, YEARS, names)
        for place, steps in decisions_of(facts, book, everything=everything):
            account = facts.accounts[place][0]
            machines[account] = [(position, words.tolist()) for position, words in steps]
            id_of = ids(account, positions, book.grants, names)
            domains[account] = [
                (at, [word for one in told for word in words_of(one, names, id_of, everything=everything)])
                for at, told in reference.get(account, [])
            ]
    return machines, domains


def ids(
    account: UUID, positions: dict[UUID, int], grants: Sequence[tuple[str, str]], names: Names
) -> Callable[[UUID], Id]:
    """How the ids of an account's decisions are told."""
    granted = granted_by_tiers(account, grants, YEARS, names) if grants else {}

    def id_of(named: UUID) -> Id:
        if named in positions:
            return positions[named], 0
        if named in granted:
            return granted[named]
        for number in range(1, 32):
            fact = lot_of(named, number)  # the other way round
            if fact in positions:
                return positions[fact], number
        return names.unknown(named)

    return id_of


# ── the certificate ───────────────────────────────────────────────────────────────────────────────────────────────


class Rows:
    """Events as rows of a log."""

    database = None

    def __init__(self, history: History) -> None:
        pack = packer()
        self.events = dict(history)
        self.rows: dict[int, tuple[Any, ...]] = {}
        for position, event in history:
            clear = event.model_copy(update=dict.fromkeys(event.personal_fields))
            form = form_of(REGISTRY[event.stored_name])
            state = pack(form.encode(clear.__dict__, _pack_metadata(event.metadata), None))
            self.rows[position] = position, event.originator_id.bytes, event.originator_version, form.name, state

    def log_rows(self, after: int, limit: int, stop: int | None = None) -> list[tuple[Any, ...]]:
        return [row for at, row in self.rows.items() if after < at and (stop is None or at <= stop)][:limit]

    def rows_at(self, positions: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        return (self.rows[position] for position in positions)

    def decode(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Recorded]:
        return (Recorded(row[0], self.events[row[0]]) for row in rows)


@contextmanager
def plain_python() -> Iterator[None]:
    """The machine's source as it is: to compile it takes a minute. Answers that are kept are numpy's integers then,
    which are nobody else's."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (executor, certificate):
            patch.setattr(module, "compiled", lambda function: function)
        try:
            yield
        finally:
            for kept in (one for module in (arithmetic, calendar, lots) for one in vars(module).values()):
                getattr(kept, "cache_clear", int)()


def by_columns(history: History) -> Certificate:
    """The certificate over columns. Raises NotByColumns."""
    log = Rows(history)
    position = max(log.events, default=0)
    with plain_python():
        return certificate.by_columns(log, log.decode, position)


def certified(history: Iterable[Recorded], *, columnar: bool = True) -> Certificate:
    """The certificate as of a book with a history, which either executor gives; not `columnar`: columns don't."""
    told = list(history)
    read = (one for one in told if one.event.stored_name in (*FACT_NAMES, *DECISION_NAMES))
    reference = certify(read, max((one.position for one in told), default=0))
    if not columnar:
        with pytest.raises((NotByColumns, OverflowError)):
            by_columns(told)
        return reference
    made = by_columns(told)
    assert replace(made, executor=reference.executor) == reference, (made, reference)
    return reference
