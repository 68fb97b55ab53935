"""The certificate over columns: made from the rows of the log, a bucket at a time, and compared word by word.

Whoever does not agree here is replayed by the domain's own code, which says what is wrong. What no command makes, or
what integers of 64 bits don't hold, counts as not agreeing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from queue import SimpleQueue
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from tallybook.domain.control import Swept
from tallybook.domain.events import Event, from_us
from tallybook.domain.lots import NEVER
from tallybook.projections.columnar import certify as c
from tallybook.projections.columnar.compiling import Uncompiled
from tallybook.projections.columnar.executor import Run, columns_of, unpaid
from tallybook.projections.columnar.facts import CONTROL, Accounts, Facts, Ids, granted_by_tiers, with_tier_coupons
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.names import Id, Names
from tallybook.projections.columnar.native import compiled, is_kept
from tallybook.projections.columnar.rulebook import Adoptions, Book, TooManyTiers
from tallybook.projections.read_models import Progress, Recorded
from tallybook.projections.replay import COLUMNAR, DECISION_NAMES, FACT_NAMES, PROFILE_FACTS, Certificate, certify

from . import decoding
from .building import WORKERS, Chunk, Program, Spill, Texts, chunk_of, program, slices_of
from .columns import BUCKETS, FILES, KIND, NO_SUBJECT, POSITION, STREAM_HI, SUBJECT_HI
from .recorded import shapes, words_of_rows
from .replay_columns import PARTS, SLOTS, Log, Sort, facts_in

Array = npt.NDArray[Any]
GROUP_ROWS = 100_000
"""Buckets of fewer rows are made facts of together: each takes some milliseconds before its first row."""
MOST = 10**15
"""What amounts of facts stay below, by which rule sets are held to 64 bits."""
LINES_MAX = 10**6
EARLIEST_US, LATEST_US = -62_135_596_800_000_000, 253_402_300_799_000_000
"""The years 1 to 9999."""
PROFILES = tuple(kind.stored_name for kind in PROFILE_FACTS)


class NotByColumns(Exception):
    """This history is the domain's own code to replay: why."""


def is_compiled() -> bool:
    """Whether what compares accounts was compiled before, and kept."""
    return is_kept(c.certify)


def by_columns(
    log: Log,
    decode: Callable[[Iterable[tuple[Any, ...]]], Iterable[Recorded]],
    position: int,
    progress: Progress | None = None,
) -> Certificate:
    """The certificate of a log up to a position. `decode` makes events of its rows. Raises NotByColumns."""
    try:
        return _Certifying(log, decode, position, progress).certificate()
    except (Uncompiled, TooManyTiers) as error:
        raise NotByColumns(str(error)) from error
    except NotByColumns:
        raise
    except Exception as error:  # what a foreign history holds may fail anywhere; if it is the log, the other says so
        raise NotByColumns(f"What is stored can't be made columns of: {type(error).__name__}: {error}") from error


@dataclass(slots=True)
class _Found:
    """What a bucket came to."""

    accounts: bytes = b""
    """Their ids."""
    matched: int = 0
    pending: int = 0
    strangers: bytes = b""
    """The ids of streams that decisions are on, and no fact of their customers."""
    positions: list[int] = field(default_factory=list)
    """Where all stands about customers who are left to the domain's own code."""


class _Side:
    """What one thread works with: names, and rule sets by programme."""

    def __init__(self, control: Sequence[tuple[int, Event]]) -> None:
        self.names = Names()
        self._control = control
        self._books: dict[str, Book] = {}
        self._texts: tuple[int, int, Texts] | None = None

    def texts(self) -> Texts:
        """The codes of all names so far."""
        names, kept = self.names, self._texts
        if kept is None or kept[:2] != (len(names.texts), len(names.tiers)):
            made = Texts({decoding.TEXT: names.texts, decoding.TIER: names.tiers})
            kept = self._texts = len(names.texts), len(names.tiers), made
        return kept[2]

    def book(self, programme: str) -> Book:
        """The rule sets of a programme. Raises NotByColumns."""
        if programme not in self._books:
            try:
                adoptions = Adoptions(programme, self._control)
            except Exception as error:  # what is adopted may be nothing that anybody can read
                raise NotByColumns(f"A rule set can't be read: {type(error).__name__}.") from error
            self._books[programme] = Book(adoptions, self.names)
        return self._books[programme]


class _Certifying:
    def __init__(self, log: Log, decode: Any, position: int, progress: Progress | None) -> None:
        self._log, self._decode, self._position = log, decode, position
        self._progress = progress or (lambda *_: None)
        self._counts: dict[str, int] = {}
        self._last = 0
        self._control_at: list[int] = []

    def certificate(self) -> Certificate:
        spill = Spill(_sorts(program()))
        try:
            self._read(spill)
            control = [(at, event) for at, event in self._decode(self._log.rows_at(self._control_at))]
            if spill.counts[NO_SUBJECT] or spill.counts[FILES + NO_SUBJECT]:
                raise NotByColumns("Something of an account is about nobody.")
            self._horizon_us = max([0, *(one.until_us for _, one in control if isinstance(one, Swept))])
            found = self._buckets(spill, control)
        finally:
            spill.close()
        return self._summed(found)

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, spill: Spill) -> None:
        """All rows to their buckets: some threads read and sort chunks, which are kept in their order."""
        made = spill.program
        control = [made.numbers[kind.stored_name] for kind in CONTROL]
        counts = np.zeros(len(made.names), np.int64)
        read = np.isin(made.names, (*FACT_NAMES, *DECISION_NAMES))

        def sorted_out(chunk: Chunk) -> tuple[Any, Array]:
            return spill.apart(chunk), chunk.rows[:, [POSITION, KIND]].astype(np.int64)

        def asked(after: int, stop: int) -> Chunk:
            return chunk_of(self._log.log_rows(after, stop - after, stop), made)

        for parts, rows in slices_of(self._log, self._position, made, asked, sorted_out):
            spill.keep(*parts)
            counts += np.bincount(rows[:, 1], minlength=len(counts))
            self._control_at += rows[np.isin(rows[:, 1], control), 0].tolist()
            if len(rows):
                self._last = int(rows[read[rows[:, 1]], 0].max(initial=self._last))
                self._progress(int(rows[-1, 0]) // 2, self._position)
        self._counts = dict(zip(made.names, counts.tolist(), strict=True))

    # ── buckets ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _buckets(self, spill: Spill, control: Sequence[tuple[int, Event]]) -> list[_Found]:
        groups = list(_groups([spill.counts[one] + spill.counts[FILES + one] for one in range(BUCKETS)]))
        sides: SimpleQueue[_Side] = SimpleQueue()
        for _ in range(WORKERS):
            sides.put(_Side(control))
        half = self._position // 2
        found: list[_Found] = []

        def at_work(group: Sequence[int]) -> _Found:
            side = sides.get()
            try:
                facts, decisions = spill.buckets(group), spill.buckets([FILES + one for one in group])
                if len(facts.ends):
                    return _Bucket(facts, decisions, spill.program, side, self._log, self._horizon_us).found()
                strangers = decisions.rows[:, STREAM_HI : STREAM_HI + 2].astype(">u8").tobytes()
                return _Found(strangers=strangers, positions=decisions.rows[:, POSITION].tolist())
            finally:
                sides.put(side)

        def note(one: _Found) -> None:
            found.append(one)
            self._progress(half + half * len(found) // len(groups), self._position)

        if groups:
            note(at_work(groups[0]))  # what is not compiled yet is compiled once
        with ThreadPoolExecutor(WORKERS) as pool:
            for one in pool.map(at_work, groups[1:]):
                note(one)
        return found

    # ── all together ────────────────────────────────────────────────────────────────────────────────────────────

    def _summed(self, found: Sequence[_Found]) -> Certificate:
        accounts = _ids(b"".join(one.accounts for one in found))
        strangers = np.unique(_ids(b"".join(one.strangers for one in found)), axis=0)
        if _several(np.concatenate([accounts, strangers])):
            raise NotByColumns("A stream holds what is about several customers.")
        positions = sorted(position for one in found for position in one.positions)
        facts = sum(self._counts[name] for name in FACT_NAMES)
        decisions = sum(self._counts[name] for name in DECISION_NAMES)
        if len(positions) > (facts + decisions) // 2 and len(accounts) > 2:
            raise NotByColumns("Most accounts differ from what columns tell.")
        made = Certificate(
            position=self._position,
            facts=facts - sum(self._counts[name] for name in PROFILES),
            decisions=decisions,
            accounts=len(accounts),
            matched=sum(one.matched for one in found),
            pending=sum(one.pending for one in found),
            executor=COLUMNAR,
        )
        if positions:
            rows = self._log.rows_at(sorted([*positions, *self._control_at]))
            part = certify(self._decode(rows), last=self._last)
            made.matched += part.matched
            made.pending += part.pending
            made.divergent_accounts, made.first = part.divergent_accounts, part.first
        self._progress(self._position, self._position)
        return made


class _Bucket:
    """The facts and the decisions of some customers: facts there are."""

    def __init__(self, facts: Chunk, decisions: Chunk, made: Program, side: _Side, log: Log, horizon_us: int) -> None:
        self._chunk, self._recorded, self._program, self._side = facts, decisions, made, side
        self._facts = found = facts_in(facts, made, side.names, log)
        self._accounts = accounts = found.accounts
        assert isinstance(accounts, Accounts)
        assert isinstance(found.customers, Ids)
        times = (int(found.at_us.min(initial=0)), int(found.at_us.max(initial=0)), horizon_us)
        self._years = range(_year(min(times)) - 1, _year(max(times)) + 2)
        customers = _ids(found.customers.data)
        self._customer_of_fact = decoding.places_of(facts.rows, SUBJECT_HI, customers)
        """By row of the chunk, the customer's place."""
        numbers = np.full(len(made.names), -1, np.int64)
        numbers[[made.numbers[name] for name in m.FACTS]] = np.arange(len(m.FACTS))
        rows = np.flatnonzero(numbers[facts.rows[:, KIND].astype(np.int64)] >= 0)
        of = self._customer_of_fact[rows]
        self._row_of = rows[np.argsort(of, kind="stable")]
        """By fact, its row in the chunk."""
        named = np.ascontiguousarray(facts.rows[rows])
        self._named = decoding.event_table(named, of), named, of
        self._customer = decoding.places_of(decisions.rows, SUBJECT_HI, customers)
        """By row of a decision, its customer's place; -1: one of whom there are no facts."""
        account = decoding.places_of(decisions.rows, STREAM_HI, _ids(accounts.ids.data))
        self._astray = account < 0
        there = np.flatnonzero(~self._astray)
        self._astray[there] = accounts.customer[account[there]] != self._customer[there]
        account[self._astray] = len(accounts)
        order = np.argsort(account, kind="stable")
        self._account = account[order]
        """By decision, in the order of accounts, its account's place; that of none is behind the last."""
        self._begins = np.searchsorted(self._account, np.arange(len(accounts) + 1))
        self._order = order[: self._begins[-1]]
        """By decision of an account, its row."""

    def found(self) -> _Found:
        facts, accounts, recorded = self._facts, self._accounts, self._recorded
        assert isinstance(accounts, Accounts)
        odd = _odd(facts, accounts)
        books = {place: self._side.book(name) for place, name in enumerate(accounts.programmes) if name}
        for book in books.values():
            with_tier_coupons(facts, book.grants, self._years, book.names)
        runs = {place: Run(book, m.ALL).over(facts) for place, book in books.items()}
        words, begins = words_of_rows(
            recorded,
            self._program,
            self._order,
            self._customer,
            self._named,
            self._side.names,
            self._side.texts(),
            self._granted(),
        )
        agrees, pending = np.zeros(len(accounts), np.bool_), np.zeros(len(accounts), np.int64)
        rests = np.full(len(self._order), c.NOTHING, np.int64)
        for place, run in runs.items():
            places = np.flatnonzero((accounts.programme == place) & ~odd[accounts.customer])
            out = self._compared(run, places, words, begins, rests)
            agrees[places] = out[:, c.AGREES] != 0
            pending[places] = out[:, c.PENDING]
        named = np.flatnonzero(rests != c.NOTHING)
        same = decoding.same_metadata(
            *_states(self._chunk), self._row_of[rests[named]], *_states(recorded), self._order[named]
        )
        agrees[self._account[named[~same]]] = False
        odd[accounts.customer[~agrees]] = True
        astray = self._customer[self._astray]
        odd[astray[astray >= 0]] = True
        sound = ~odd[accounts.customer]
        left = (
            self._chunk.rows[odd[self._customer_of_fact], POSITION],
            recorded.rows[(self._customer < 0) | odd[self._customer], POSITION],
        )
        return _Found(
            accounts.ids.data,
            int(np.diff(self._begins)[sound].sum()),
            int(pending[sound].sum()),
            recorded.rows[self._astray, STREAM_HI : STREAM_HI + 2].astype(">u8").tobytes(),
            [position for one in left for position in one.tolist()],
        )

    def _granted(self) -> Callable[[int, UUID], Id | None]:
        """Tells ids of coupons that tiers granted the account of a decision."""
        accounts = self._accounts

        @cache
        def known(account: int) -> dict[UUID, Id]:
            stream, programme, _ = accounts[account]
            grants = self._side.book(programme).grants if programme else []
            return granted_by_tiers(stream, grants, self._years, self._side.names) if grants else {}

        return lambda decision, other: known(int(self._account[decision])).get(other)

    def _compared(self, run: Run, places: Array, words: Array, begins: Array, rests: Array) -> Array:
        facts = self._facts
        assert isinstance(facts.accounts, Accounts)
        customers = facts.accounts.customer[places]
        first, last = facts.first[customers], facts.first[customers + 1]
        out = np.zeros((len(places), c.OUTCOME), np.int64)
        columns, paid, done = columns_of(facts), unpaid(facts), 0
        while done < len(places):
            done = compiled(c.certify)(
                run.s, run.x, run.y, *columns, run.depth, paid, places, first, last, *shapes(), words, begins,
                self._begins, rests, out, done,
            )  # fmt: skip
            if done < len(places):
                run.space.grow()
        return out


def _odd(facts: Facts, accounts: Accounts) -> Array:
    """The customers of whom something is told that no command writes: what integers of 64 bits don't hold, lines of an
    order that it does not have, accounts that begin otherwise than with an enrolment."""
    odd = np.zeros(len(facts), np.bool_)
    odd |= (facts.at_us < EARLIEST_US) | (facts.at_us > LATEST_US)
    kind_of_item = np.repeat(facts.kind, np.diff(facts.item))
    row_of_item = np.repeat(np.arange(len(facts)), np.diff(facts.item))
    parts = {kind: told for kind, (_, told) in PARTS.items()}
    for array, kinds, rows_of, table in (
        (facts.slots, facts.kind, np.arange(len(facts)), SLOTS),
        (facts.items, kind_of_item, row_of_item, parts),
    ):
        for kind, told in table.items():
            rows = np.flatnonzero(kinds == m.FACTS.index(kind))
            for place, (sort, name) in enumerate(told if len(rows) else ()):
                if sort is Sort.NUMBER:
                    values = array[rows, place]
                    least, most = (-NEVER, NEVER) if name.endswith("_us") else (0, MOST)
                    odd[rows_of[rows[(values < least) | (values > most)]]] = True
    lines = np.diff(facts.item)
    for number in (m.F_RETURN, m.F_REDUCED):
        items = np.flatnonzero(kind_of_item == number)
        rows = row_of_item[items]
        of = facts.slots[rows, 0]
        there = np.where(of >= 0, lines[np.maximum(of, 0)], LINES_MAX)
        line = facts.items[items, 0] if number == m.F_RETURN else items - facts.item[rows] + 1
        odd[rows[(line < 1) | (line > there)]] = True
    customers = np.repeat(np.arange(len(facts.customers)), np.diff(facts.first))
    found = np.zeros(len(facts.customers), np.bool_)
    found[customers[odd]] = True
    rows = np.flatnonzero(facts.account >= 0)
    _, first = np.unique(facts.account[rows], return_index=True)
    enrolled = facts.account[(facts.kind == m.F_ENROLLED) & (facts.account >= 0)]
    begins = facts.kind[rows[first]] == m.F_ENROLLED
    begins &= np.bincount(enrolled, minlength=len(accounts)) == 1
    found[accounts.customer[~begins]] = True
    return found


def _groups(counts: Sequence[int]) -> Iterator[list[int]]:
    """Neighbouring buckets of so many rows, by what is made at once."""
    group: list[int] = []
    rows = 0
    for number, count in enumerate(counts):
        if group and rows + count > GROUP_ROWS:
            yield group
            group, rows = [], 0
        if count:
            group.append(number)
            rows += count
    if group:
        yield group


def _states(chunk: Chunk) -> tuple[int, Array]:
    """Where the states of a chunk lie, and where each begins and the last ends."""
    return chunk.data.ctypes.data, np.concatenate([np.zeros(1, np.int64), chunk.ends])


def _ids(data: bytes) -> Array:
    """Ids of 16 bytes in two halves each."""
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)


def _several(ids: Array) -> bool:
    """Whether any is there twice."""
    ids = ids[np.lexsort((ids[:, 1], ids[:, 0]))]
    return bool((ids[1:] == ids[:-1]).all(axis=1).any())


def _year(at_us: int) -> int:
    return from_us(min(max(at_us, EARLIEST_US), LATEST_US)).year


def _sorts(made: Program) -> Array:
    """By kind of event: 0, a fact of a customer; 1, a decision; -1, something else."""
    of = dict.fromkeys((*m.FACTS, *PROFILES), 0) | dict.fromkeys(m.DECISIONS, 1)
    return np.array([of.get(name, -1) for name in made.names], np.int64)
