"""Accounts run through the machine."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from .facts import Facts
from .machine import layout as m
from .machine import running
from .native import compiled
from .rulebook import Book

Array = Any

_REGIONS = (
    # pointer to what is used, words at first
    (m.V_LOTS, 64 * m.LOT),
    (m.V_LINES, 128 * m.LINE),
    (m.V_PARTS, 64 * m.PART),
    (m.V_HOLDS, 8 * m.HOLD),
    (m.V_COUPONS, 8 * m.COUPON),
    (m.V_SPENDINGS, 32 * m.SPENDING),
    (m.V_SUSPENSIONS, 8),
    (m.V_WINDOWS, 64 * m.WINDOW),
    (m.V_MOMENTS, 256),
    (m.V_COUNTS, 64),
    (m.V_TEMPS, 1024),
    (m.V_OUTS, 4096),
)
_ORDERS = (
    (m.V_ACTIVE_ORDER, 64),
    (m.V_PENDING_ORDER, 64),
    (m.V_HELD_ORDER, 8),
    (m.V_DUE_ORDER, 8),
)


def _nothing() -> Array:
    import numpy as np

    return np.zeros(0, np.int64)


class Space:
    """The array that the machine works on: the rule sets, what is counted of all accounts, and room for one account of
    so many rows; more where one needs more. `months`: when each begins by which balances are counted; none: they are
    not."""

    _times = 1
    """How many times the least room accounts have needed so far."""

    def __init__(self, book: Book, months: Sequence[int]) -> None:
        self._slots, self._months, self._rules = len(book.slots), months, len(book.tallied)
        self._words: Array = None
        self._rows = self._depth = 0
        self.s: Array = None
        self._counted: Array = None
        """What was counted of the facts before."""

    def take(self, words: Array, rows: int, depth: int) -> None:
        """Make room for other facts: what is counted goes on."""
        fits = words is self._words and rows <= self._rows and depth <= self._depth
        self._words, self._rows, self._depth = words, max(rows, self._rows), max(depth, self._depth)
        if self.s is not None:
            self._counted = self.s[self._tallied].copy()
        if not fits:
            self._lay_out()

    def _lay_out(self) -> None:
        """All regions one after another."""
        import numpy as np

        bounds: dict[int, int] = {}
        at = len(self._words)

        def region(size: int) -> tuple[int, int]:
            nonlocal at
            at += size
            return at - size, at

        for pointer, size in _REGIONS:
            more = 2 * self._slots if pointer == m.V_COUNTS else 0
            bounds[pointer - 1], bounds[pointer + 1] = region(size * self._times + more)
            bounds[pointer] = bounds[pointer - 1]
        for order, size in _ORDERS:
            bounds[order], bounds[order + 3] = region(size * self._times)
            bounds[order + 1] = bounds[order]
        bounds[m.V_MAP0], bounds[m.V_MAP_END] = region(self._rows * m.MAP)
        bounds[m.V_STEP0], bounds[m.V_STEP_END] = region(2 * self._rows * m.STEP + 64)
        bounds[m.V_ITEMS0], bounds[m.V_ITEM_END] = region(16 * self._times * (3 + self._depth))
        bounds[m.V_SPENT0], _ = region(self._slots)
        bounds[m.V_SLOTS] = self._slots
        first = at
        if self._months:
            bounds[m.V_MONTH0], _ = region(len(self._months))
            bounds[m.V_MONTHS] = len(self._months)
            first = at
            bounds[m.V_TALLY], _ = region(len(self._months) * m.BALANCES)
            bounds[m.V_RULE_TALLY], _ = region(self._rules * m.BY_RULE)
        self._tallied = slice(first, at)
        s = np.zeros(at, np.int64)
        s[: len(self._words)] = self._words
        for register, value in bounds.items():
            s[register] = value
        if self._months:
            s[bounds[m.V_MONTH0] : bounds[m.V_MONTH0] + len(self._months)] = self._months
        if self._counted is not None:
            s[self._tallied] = self._counted
        self.s = s

    def grow(self) -> None:
        """Twice the room; what was counted of these facts is gone."""
        self._times = Space._times = 2 * self._times
        self._lay_out()

    def tallies(self) -> tuple[Array, Array]:
        """What was counted: of each month, by how much each balance changed; of each rule, points, and how often."""
        counted = self.s[self._tallied] if self.s is not None else _nothing()
        months = counted[: len(self._months) * m.BALANCES]
        return months.reshape(-1, m.BALANCES), counted[len(months) :].reshape(-1, m.BY_RULE)


class Run:
    """One rule book's side of a replay: over some facts after others."""

    def __init__(self, book: Book, mode: int, months: Sequence[int] = (), unfunded: int = m.REJECT) -> None:
        self.book, self.space = book, Space(book, months)
        self._registers = {m.V_MODE: mode, m.V_PROGRAMME: book.names.text(book.programme), m.V_UNFUNDED: unfunded}

    def over(self, facts: Facts, seen: tuple[Array, Array] | None = None) -> Run:
        """This, ready to run over some facts. `seen`: what the book sees of them, if that is known."""
        self.x, self.y = seen or self.sees(facts)
        self.depth = self.y.shape[1]
        words, own = self.book.words(facts)
        self.space.take(words, facts.most, self.depth)
        self._registers |= own | {m.V_FACT_COUNT: len(facts), m.V_ITEM_COUNT: len(facts.items)}
        return self

    def sees(self, facts: Facts) -> tuple[Array, Array]:
        """What the book sees of some facts, as far as this needs it."""
        return self.book.seen(facts, silent=self._registers[m.V_MODE] == m.SILENT)

    @property
    def s(self) -> Array:
        """The array, ready to run."""
        s = self.space.s
        for register, value in self._registers.items():
            s[register] = value
        return s


def columns_of(facts: Facts) -> tuple[Array, ...]:
    """The columns of facts, as the machine takes them."""
    return (
        facts.items.T, facts.position, facts.kind, facts.at_us, facts.account, facts.slots.T,
        facts.item, facts.trait, facts.lined, facts.ordinal,
    )  # fmt: skip


def unpaid(facts: Facts) -> Array:
    """Room for what becomes of redemptions, by row."""
    import numpy as np

    return np.zeros(len(facts), np.int64)


def decisions_of(facts: Facts, book: Book, *, everything: bool = True) -> Iterator[tuple[int, list[tuple[int, Array]]]]:
    """What each account of the book's programme decides: the account's place, and by position the words."""
    side, paid = Run(book, m.ALL if everything else m.STEPS).over(facts), unpaid(facts)
    columns = columns_of(facts)
    for place, first, last in zip(*places_of(facts, book.programme), strict=True):
        while True:
            s = side.s
            s[m.V_ACCOUNT] = place
            compiled(running.decide)(s, side.x, side.y, *columns, side.depth, paid, first, last)
            if not s[m.V_OVER]:
                break
            side.space.grow()
        steps = s[s[m.V_STEP0] : s[m.V_STEPS]].reshape(-1, m.STEP)
        ends = [*steps[1:, 1], s[m.V_OUTS]]
        yield int(place), [(int(step[0]), s[step[1] : end].copy()) for step, end in zip(steps, ends, strict=True)]


def places_of(facts: Facts, programme: str, without: Container[UUID] = ()) -> tuple[Array, Array, Array]:
    """The accounts of a programme, and the rows of each one's customer. Customers `without` whom it is done are left
    out."""
    import numpy as np

    places, customers = facts.members(programme)
    if without:
        kept = np.array([facts.customers[customer] not in without for customer in customers], bool)
        places, customers = places[kept], customers[kept]
    return places, facts.first[customers], facts.first[customers + 1]


def outcomes(facts: Facts, book: Book) -> tuple[Array, Array]:
    """The accounts of the book's programme, as places in `facts.accounts`, and what came of each: rows of `O_…`."""
    places, first, last = places_of(facts, book.programme)
    run = Run(book, m.SILENT).over(facts)
    return places, replayed(facts, run, (places, first, last), unpaid(facts))


def replayed(facts: Facts, run: Run, members: tuple[Array, Array, Array], paid: Array, *, reads: bool = False) -> Array:
    """What came of accounts (`places_of`) of the facts that a silent run is over: rows of `O_…`. Which redemptions are
    paid is noted in `paid`, by row; or, if it `reads` that, what was paid under other rules stands there."""
    import numpy as np

    places, first, last = members
    columns, out = columns_of(facts), np.zeros((len(places), m.OUTCOME), np.int64)
    done = 0
    while done < len(places):
        done = compiled(running.replay)(
            run.s, run.x, run.y, *columns, run.depth, paid, int(reads), places, first, last, out, done
        )
        if done < len(places):
            run.space.grow()
    return out


class Compared(NamedTuple):
    """What came of accounts (places in `facts.accounts`) under two rule books: rows of `O_…`; where they part is in
    those of `after`. `amounts`: what each purchase comes to under the candidate."""

    places: Array
    before: Array
    after: Array
    amounts: Array


class Comparison:
    """Accounts of the candidate's programme under either rule book, some facts after others. `months`: when those begin
    by which balances are counted; `unfunded`: what becomes of redemptions that the baseline pays, and for which there
    is too little under the candidate."""

    def __init__(
        self, baseline: Book, candidate: Book, *, months: Sequence[int] = (), unfunded: int = m.REJECT
    ) -> None:
        self.one, self.other = Run(baseline, m.STEPS, months), Run(candidate, m.STEPS, months, unfunded)
        self._counts = bool(months)

    def of(self, facts: Facts, without: Container[UUID] = ()) -> Compared:
        """Those of some facts, but for customers `without` whom it is done."""
        import numpy as np

        one, other = self.one.over(facts), self.other.over(facts)
        places, first, last = places_of(facts, other.book.programme, without)
        before, after = (np.zeros((len(places), m.OUTCOME), np.int64) for _ in range(2))
        depths, paid, columns = np.array([one.depth, other.depth], np.int64), unpaid(facts), columns_of(facts)
        done = 0
        while done < len(places):
            done = compiled(running.compare)(
                one.s, one.x, one.y, other.s, other.x, other.y, *columns, paid, places, first, last, depths, before,
                after, done,
            )  # fmt: skip
            if done < len(places):
                # What is counted of all is counted anew.
                one.space.grow()
                other.space.grow()
                done = 0 if self._counts else done
        book = other.book
        return Compared(places, before, after, book.amounts(facts, other.x) if book.has_candidate else paid[:0])
