"""Accounts run through the machine."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
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


class Space:
    """The array that the machine works on: the rule sets, what is counted of all accounts, and room for one account of
    so many rows; more where one needs more. `months`: when each begins by which balances are counted; none: they are
    not."""

    _times = 1
    """How many times the least room accounts have needed so far."""

    def __init__(self, facts: Facts, book: Book, depth: int, months: Sequence[int]) -> None:
        self._words, self._depth, self._slots = book.words(facts), depth, len(book.slots)
        self._rows, self._months, self._rules = facts.most, months, len(book.tallied)
        self.s = self._laid_out()

    def _laid_out(self) -> Array:
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
        if self._months:
            bounds[m.V_MONTH0], _ = region(len(self._months))
            bounds[m.V_MONTHS] = len(self._months)
            bounds[m.V_TALLY], _ = region(len(self._months) * m.BALANCES)
            bounds[m.V_RULE_TALLY], _ = region(self._rules * m.BY_RULE)
        s = np.zeros(at, np.int64)
        s[: len(self._words)] = self._words
        for register, value in bounds.items():
            s[register] = value
        if self._months:
            s[bounds[m.V_MONTH0] : bounds[m.V_MONTH0] + len(self._months)] = self._months
        return s

    def grow(self) -> None:
        """Twice the room; what was counted is gone."""
        self._times = Space._times = 2 * self._times
        self.s = self._laid_out()

    def tallies(self) -> tuple[Array, Array]:
        """What was counted: of each month, by how much each balance changed; of each rule, points, and how often."""
        s = self.s
        if not self._months:
            return s[:0].reshape(-1, m.BALANCES), s[:0].reshape(-1, m.BY_RULE)
        months, rules = s[m.V_TALLY], s[m.V_RULE_TALLY]
        return (
            s[months : months + len(self._months) * m.BALANCES].reshape(-1, m.BALANCES),
            s[rules : rules + self._rules * m.BY_RULE].reshape(-1, m.BY_RULE),
        )


class Run:
    """One rule book's side of a replay of some facts."""

    def __init__(
        self,
        facts: Facts,
        book: Book,
        mode: int,
        months: Sequence[int] = (),
        unfunded: int = m.REJECT,
        seen: tuple[Array, Array] | None = None,
    ) -> None:
        self.x, self.y = seen or book.seen(facts)
        self.depth = self.y.shape[1]
        self.space = Space(facts, book, self.depth, months)
        self._registers = {m.V_MODE: mode, m.V_PROGRAMME: book.names.text(book.programme), m.V_UNFUNDED: unfunded}

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
        facts.items, facts.position, facts.kind, facts.at_us, facts.account, facts.slots, facts.item, facts.trait,
        facts.lined, facts.ordinal,
    )  # fmt: skip


def unpaid(facts: Facts) -> Array:
    """Room for what becomes of redemptions, by row."""
    import numpy as np

    return np.zeros(len(facts), np.int64)


def decisions_of(facts: Facts, book: Book, *, everything: bool = True) -> Iterator[tuple[int, list[tuple[int, Array]]]]:
    """What each account of the book's programme decides: the account's place, and by position the words."""
    side, paid = Run(facts, book, m.ALL if everything else m.STEPS), unpaid(facts)
    for place, first, last in zip(*places_of(facts, book.programme), strict=True):
        while True:
            s = side.s
            s[m.V_ACCOUNT] = place
            compiled(running.decide)(s, side.x, side.y, *columns_of(facts), side.depth, paid, first, last)
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
    return places, replayed(facts, book, (places, first, last), unpaid(facts))


def replayed(
    facts: Facts,
    book: Book,
    members: tuple[Array, Array, Array],
    paid: Array,
    unfunded: int | None = None,
    *,
    seen: tuple[Array, Array] | None = None,
) -> Array:
    """What came of accounts (`places_of`): rows of `O_…`. Which redemptions are paid is noted in `paid`, by row; or,
    where `unfunded` is given, read there: what was paid under other rules, and what becomes of it where there is too
    little. `seen`: what the book sees of the facts, if that is known."""
    import numpy as np

    places, first, last = members
    side = Run(facts, book, m.SILENT, unfunded=unfunded or 0, seen=seen)
    out = np.zeros((len(places), m.OUTCOME), np.int64)
    done = 0
    while done < len(places):
        done = compiled(running.replay)(
            side.s, side.x, side.y, *columns_of(facts), side.depth, paid, int(unfunded is not None), places, first,
            last, out, done,
        )  # fmt: skip
        if done < len(places):
            side.space.grow()
    return out


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of accounts (places in `facts.accounts`) under two rule books: rows of `O_…`; where they part is in
    those of `after`. Of all of them: what balances changed by month, and what each rule gave. `amounts`: what each
    purchase comes to under the candidate."""

    places: Array
    before: Array
    after: Array
    months_before: Array
    months_after: Array
    rules_before: Array
    rules_after: Array
    amounts: Array


def compared(
    facts: Facts,
    baseline: Book,
    candidate: Book,
    *,
    months: Sequence[int] = (),
    unfunded: int = m.REJECT,
    without: Container[UUID] = (),
) -> Compared:
    """Accounts of the candidate's programme under either rule book. `unfunded`: what becomes of redemptions that the
    baseline pays, and for which there is too little under the candidate."""
    import numpy as np

    places, first, last = places_of(facts, candidate.programme, without)
    one, other = Run(facts, baseline, m.STEPS, months), Run(facts, candidate, m.STEPS, months, unfunded)
    before, after = (np.zeros((len(places), m.OUTCOME), np.int64) for _ in range(2))
    depths, paid = np.array([one.depth, other.depth], np.int64), unpaid(facts)
    done = 0
    while done < len(places):
        done = compiled(running.compare)(
            one.s, one.x, one.y, other.s, other.x, other.y, *columns_of(facts), paid, places, first, last, depths,
            before, after, done,
        )  # fmt: skip
        if done < len(places):
            # What is counted of all is counted anew.
            one.space.grow()
            other.space.grow()
            done = 0 if months else done
    (months, rules), (other_months, other_rules) = one.space.tallies(), other.space.tallies()
    amounts = candidate.amounts(facts, other.x) if candidate.has_candidate else unpaid(facts)[:0]
    return Compared(places, before, after, months, other_months, rules, other_rules, amounts)
