"""`tallybook.synth`: fill a book with a made-up history, in the order and at the times in which it became known."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tallybook.adapters import clock as real
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.form import uuid_of
from tallybook.adapters.rule_files import load_rule_set
from tallybook.adapters.wrapping import WrappingKeys
from tallybook.domain.control import Control
from tallybook.domain.errors import BookError, refusal
from tallybook.domain.rules import RuleSet
from tallybook.projections.read_models import Progress

from .book import Book
from .book import open as open_book
from .filling import Batch, Filled, FillingDesk, MadeUp, Person, Words
from .rules import RulesDesk
from .times import iso

if TYPE_CHECKING:
    from tallybook.adapters.synth import Chunk, History

FACTS_PER_COMMIT = 1000
FACTS_IN_MEMORY = 1_000_000
"""So many facts of the months that are being recorded are held at most; unless a single month has more."""
HELD_MAX = 100_000
"""So many customers, accounts and tickets are held in memory at most."""
MONTH_S = 31 * 86_400.0


@dataclass(frozen=True, slots=True)
class SynthReport:
    """What a history that fills a book is made of.

    `digest`: SHA-256 of the generated facts, which the same seed and sizes give again. `facts`: of them, by kind, of
    which `left_out` are not in the book, by why: a command would have been refused. `events`: all that the book holds,
    with decisions and sweeps. `recorded` of the facts are of this run; those of an earlier one are not recorded again.
    """

    seed: int
    customers: int
    years: int
    digest: str
    rule_sets: tuple[str, ...]
    facts: int
    by_kind: dict[str, int]
    left_out: dict[str, int]
    recorded: int
    events: int
    seconds: float


@dataclass(slots=True)
class _Clock:
    """The clock and the ids of a host that lives in the history."""

    now_us: int
    book: Book | None = None
    salt: bytes = b""

    def now(self) -> int:
        return self.now_us

    def new_id(self) -> UUID:
        """In the history, by the position of what comes next: the same, however often the filling was cut short."""
        if self.book is None:
            return real.new_id()
        position = self.book.position().to_bytes(8, "big")
        return uuid_of(int.from_bytes(hashlib.blake2b(position, digest_size=16, key=self.salt).digest(), "big"))


@dataclass(slots=True)
class _Plan:
    """What a history holds, counted in one pass over it."""

    digest: str
    by_kind: dict[str, int]
    by_month: list[int]
    people: Mapping[int, Person] = field(repr=False)


def synth(
    url: str,
    *,
    customers: int,
    events: int | None = None,
    seed: int = 1,
    years: int = 5,
    rules: Sequence[RuleSet | str | Path] = ("standard",),
    progress: Progress | None = None,
    wrapping_key: Path | str | WrappingKeys | None = None,
    read_models: str | None = None,
    signing_key: Path | str | None = None,
    detached: bool | None = None,
) -> SynthReport:
    """Fill a book with a realistic made-up history of so many customers; the book is made, if it is not there.

    `events`: about so many facts in all (default: 21 for each customer); what the rules decide comes on top. The same
    seed and sizes give the same facts, with the same ids and at the same times, up to 2025-01-01. Of several `rules`
    of one programme, each is in force for an equal part of the time. At the end of each month a sweep runs. Stopped or
    killed, and called again with the same arguments, it goes on, and records nothing twice; any other book is left
    alone. The others are as for `open`. Needs the extra `replay`.
    Raises BookError and its kinds, RuleSetError, MissingExtra. Refuses: invalid_argument.
    """
    from tallybook.adapters.synth import History  # an extra

    started = perf_counter()
    history = History(seed, customers, events, years)
    rule_sets = _rule_sets(rules)
    plan = _planned(history)
    clock = _Clock(history.start_us)
    name = hashlib.sha256("/".join([plan.digest, *(one.digest() for one in rule_sets)]).encode()).hexdigest()[:32]
    # Its clock jumps from month to month: checkpoints are signed by it.
    with (
        rarely_collecting(),
        open_book(
            url,
            wrapping_key=wrapping_key,
            read_models=read_models,
            signing_key=signing_key,
            detached=detached,
            checkpoint_s=MONTH_S,
            now_us=clock.now,
            new_id=clock.new_id,
        ) as book,
        book.acting("job:synth", purpose="administration", application="tallybook-synth"),
    ):
        clock.salt = bytes.fromhex(name)
        _see_whose(book, name)
        clock.book = book
        filling = _Filling(book, clock, history, plan, rule_sets, f"synth/{name}")
        filling.run(progress)
        clock.book = None
        return SynthReport(
            seed=history.seed,
            customers=history.customers,
            years=history.years,
            digest=plan.digest,
            rule_sets=tuple(one.label for one in rule_sets),
            facts=sum(plan.by_month),
            by_kind=plan.by_kind,
            left_out=dict(sorted(filling.left_out.items())),
            recorded=filling.recorded,
            events=book.position(),
            seconds=perf_counter() - started,
        )


def _rule_sets(rules: Sequence[RuleSet | str | Path]) -> list[RuleSet]:
    given = [rules] if isinstance(rules, (str, Path, RuleSet)) else list(rules)
    if not given:
        raise refusal("invalid_argument", "rules: at least one rule set is wanted.", argument="rules")
    found = [one if isinstance(one, RuleSet) else load_rule_set(one) for one in given]
    programmes = sorted({one.programme for one in found})
    if len(programmes) > 1:
        raise refusal(
            "invalid_argument",
            f"rules: rule sets of one programme are wanted, and these are of {', '.join(programmes)}.",
            argument="rules",
        )
    labels = [one.label for one in found]
    if len(set(labels)) < len(labels):
        raise refusal("invalid_argument", f"rules: {labels[0]} is given twice.", argument="rules")
    return found


def _planned(history: History) -> _Plan:
    import numpy as np

    from tallybook.adapters import synth

    digest = synth.Digest(history)
    kinds = np.zeros(len(synth.KINDS), dtype=np.int64)
    ends = np.array(history.months())
    months = np.zeros(len(ends), dtype=np.int64)
    people: dict[int, Person] = {}
    for chunk in synth.chunks(history):
        digest.add(chunk)
        kinds += np.bincount(chunk.kind, minlength=len(kinds))
        months += np.bincount(np.searchsorted(ends, chunk.recorded_us, side="right"), minlength=len(ends))
        people.update(_people_of(chunk))
    return _Plan(
        digest.hexdigest(),
        {name: int(number) for name, number in zip(synth.KINDS, kinds, strict=True) if number},
        months.tolist(),
        people,
    )


def _people_of(chunk: Chunk) -> Iterator[tuple[int, Person]]:
    from tallybook.adapters import synth

    columns = (chunk.id_hi, chunk.id_lo, chunk.sort, chunk.country, chunk.source, chunk.birth_month)
    rows = zip(*(one.tolist() for one in columns), strict=True)
    for ordinal, (high, low, sort, country, source, month) in enumerate(rows, chunk.first):
        yield (
            ordinal,
            Person(
                uuid_of(high << 64 | low), synth.SORTS[sort], synth.COUNTRIES[country], synth.SOURCES[source], month
            ),
        )


def _see_whose(book: Book, name: str) -> None:
    """Raises BookError for a book that holds anything else."""
    if book.position() and RulesDesk.adopt.kept(book.rules, f"synth/{name}/rules/0") is None:
        place = book._core.app.database.place
        raise BookError(
            f"{place}: the book holds {book.position():,} events of something else, or of another history.",
            path=place,
            remedy="Name a book that is not there yet; to go on with a history, give all that it was begun with.",
        )


class _Filling:
    """A history on its way into a book, month by month."""

    def __init__(
        self, book: Book, clock: _Clock, history: History, plan: _Plan, rule_sets: Sequence[RuleSet], name: str
    ) -> None:
        self.book, self.clock, self.history, self.plan, self.name = book, clock, history, plan, name
        self.rule_sets = rule_sets
        self.desk: FillingDesk = book._filling
        self.words = _words(rule_sets[0])
        self.left_out: Counter[str] = Counter()
        self.recorded = 0
        self.ends = history.months()

    def run(self, progress: Progress | None) -> None:
        """Record what is not recorded yet."""
        core = self.book._core
        core.app.hold(min(3 * self.history.customers + 1000, HELD_MAX))
        total = sum(self.plan.by_month)
        done = 0
        for months in self._groups():
            facts = _Window(self.history, [self.history.start_us, *self.ends], months)
            for month in months:
                self._adopt(month)
                for number, batch in enumerate(facts.batches(month)):
                    done += batch.size
                    self._record(f"{self.name}/{month}/{number}", batch)
                    if progress:
                        progress(done, total)
                self._sweep(month)

    def _groups(self) -> Iterator[range]:
        """Months that are held in memory together."""
        first = held = 0
        for month, facts in enumerate(self.plan.by_month):
            if held and held + facts > FACTS_IN_MEMORY:
                yield range(first, month)
                first, held = month, 0
            held += facts
        yield range(first, len(self.plan.by_month))

    def _record(self, name: str, batch: _Slice) -> None:
        filled: Filled | None = FillingDesk.record.kept(self.desk, name)
        if filled is None:
            self.clock.now_us = max(self.clock.now_us, batch.until_us)
            filled = self.desk.record(
                Batch(name, batch.facts(self.rule_sets[0].currency), self.plan.people, self.words), command_id=name
            )
            self.recorded += filled.facts
        self.left_out.update(filled.left_out)

    def _adopt(self, month: int) -> None:
        """Put a rule set in force at the beginning of its part of the time."""
        parts = len(self.rule_sets)
        for number, rule_set in enumerate(self.rule_sets):
            if month == number * len(self.ends) // parts:
                self.clock.now_us = self.history.start_us if not month else self.ends[month - 1]
                self.book.rules.adopt(
                    rule_set, effective_at=iso(self.clock.now_us), command_id=f"{self.name}/rules/{number}"
                )

    def _sweep(self, month: int) -> None:
        until_us = self.ends[month]
        core = self.book._core
        control = core.app.load(Control, core.book_id)
        done_us = control.horizon_us or 0
        # One that is over is not begun again under rules that were adopted after it.
        if done_us < until_us or (done_us == until_us and not control.sweep_is_finished):
            self.clock.now_us = max(self.clock.now_us, until_us)
            self.book.loyalty.sweep(iso(until_us))


class _Window:
    """The facts of some months, in the order in which they became known."""

    def __init__(self, history: History, borders: Sequence[int], months: range) -> None:
        import numpy as np

        from tallybook.adapters import synth

        self._synth = synth
        self._borders = borders
        begin_us, end_us = borders[months[0]], borders[months[-1] + 1]
        parts: dict[str, list[Any]] = {name: [] for name in (*synth.OF_FACTS, "number", "sizes", *synth.OF_LINES)}
        for chunk in synth.chunks(history):
            some = np.flatnonzero((chunk.recorded_us >= begin_us) & (chunk.recorded_us < end_us))
            sizes = np.diff(chunk.line_start)
            for name in synth.OF_FACTS:
                parts[name].append(getattr(chunk, name)[some])
            parts["number"].append(some - chunk.fact_start[chunk.customer[some] - chunk.first])
            parts["sizes"].append(sizes[some])
            lines = synth.spread(chunk.line_start[some], sizes[some])
            for name in synth.OF_LINES:
                parts[name].append(getattr(chunk, name)[lines])
        found = {name: np.concatenate(of) for name, of in parts.items()}
        self.order = np.argsort(found["recorded_us"], kind="stable")
        self._recorded_us = found["recorded_us"][self.order]
        self.line_start = np.concatenate([[0], found.pop("sizes").cumsum()])
        self.columns = found

    def batches(self, month: int) -> Iterator[_Slice]:
        """What became known in a month, in pieces."""
        import numpy as np

        begin, end = np.searchsorted(self._recorded_us, [self._borders[month], self._borders[month + 1]])
        borders = [*range(int(begin), int(end), FACTS_PER_COMMIT), int(end)]
        for first, last in pairwise(borders):
            yield _Slice(self, first, last, int(self._recorded_us[last - 1]))


@dataclass(frozen=True, slots=True)
class _Slice:
    """Facts that are recorded in one commit, by their places in a window."""

    window: _Window
    first: int
    last: int
    until_us: int

    @property
    def size(self) -> int:
        return self.last - self.first

    def facts(self, home: str) -> list[MadeUp]:
        """The facts, by names. `home` is the programme's currency."""
        window = self.window
        synth, columns = window._synth, window.columns
        places = window.order[self.first : self.last]
        starts, ends = window.line_start[places].tolist(), window.line_start[places + 1].tolist()
        values = [columns[name][places].tolist() for name in ("customer", "number", *synth.OF_FACTS[1:])]
        currencies = (home, *[one for one in FOREIGN if one != home][:2])
        facts = []
        for row, start, end in zip(zip(*values, strict=True), starts, ends, strict=True):
            customer, number, kind, effective_us, recorded_us, ref, peer, code, a, b, channel, store, currency = row
            lines: tuple[Any, ...] = ()
            if end > start:
                of_lines = [columns[name][start:end].tolist() for name in synth.OF_LINES]
                of_lines[2] = [synth.CATEGORIES[one] for one in of_lines[2]]
                lines = tuple(zip(*of_lines, strict=True))
            facts.append(
                MadeUp(
                    customer,
                    number,
                    synth.KINDS[kind],
                    effective_us,
                    recorded_us,
                    ref,
                    peer,
                    code,
                    a,
                    b,
                    synth.CHANNELS[channel],
                    synth.STORES[store] or None,
                    currencies[currency],
                    lines,
                )
            )
        return facts


FOREIGN = ("EUR", "USD", "GBP")
"""Other currencies than the programme's."""


def _words(rule_set: RuleSet) -> Words:
    from tallybook.adapters import synth

    return Words(
        programme=rule_set.programme,
        traits=synth.TRAITS,
        countries=synth.COUNTRIES,
        sources=synth.SOURCES,
        interactions=synth.INTERACTIONS,
        reasons=synth.REASONS,
        activities=synth.ACTIVITIES,
        partners=synth.PARTNERS,
        rewards=synth.REWARDS,
        tickets=synth.TICKETS,
        authors=synth.AUTHORS,
    )
