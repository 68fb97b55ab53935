"""Accounts run through the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import machine as m
from .compiling import compiled
from .facts import Facts
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
    """The array that the machine works on: the rule sets, and room for one account of so many rows; more where one
    needs more."""

    _times = 1
    """How many times the least room accounts have needed so far."""

    def __init__(self, words: Array, depth: int, slots: int, rows: int) -> None:
        self._words, self._depth, self._slots, self._rows = words, depth, slots, rows
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
        s = np.zeros(at, np.int64)
        s[: len(self._words)] = self._words
        for register, value in bounds.items():
            s[register] = value
        return s

    def grow(self) -> None:
        """Twice the room."""
        self._times = Space._times = 2 * self._times
        self.s = self._laid_out()


class Run:
    """One rule book's side of a replay of some facts."""

    def __init__(self, facts: Facts, book: Book, mode: int) -> None:
        self.x, self.y = book.seen(facts)
        self.space = Space(book.words(facts), self.y.shape[1], len(book.slots), facts.most)
        self._mode, self._programme = mode, book.names.text(book.programme)

    @property
    def s(self) -> Array:
        """The array, ready to run."""
        s = self.space.s
        s[m.V_MODE], s[m.V_PROGRAMME] = self._mode, self._programme
        return s


def decisions_of(facts: Facts, book: Book, *, everything: bool = True) -> Iterator[tuple[int, list[tuple[int, Array]]]]:
    """What each account of the book's programme decides: the account's place, and by position the words."""
    side = Run(facts, book, m.ALL if everything else m.STEPS)
    for place, first, last in zip(*_places(facts, book.programme), strict=True):
        while True:
            s = side.s
            s[m.V_ACCOUNT] = place
            compiled(m.decide)(
                s, side.x, side.y, facts.items, facts.position, facts.kind, facts.at_us, facts.account, facts.slots,
                facts.item, facts.trait, facts.lined, facts.ordinal, side.y.shape[1], first, last,
            )  # fmt: skip
            if not s[m.V_OVER]:
                break
            side.space.grow()
        steps = s[s[m.V_STEP0] : s[m.V_STEPS]].reshape(-1, m.STEP)
        ends = [*steps[1:, 1], s[m.V_OUTS]]
        yield int(place), [(int(step[0]), s[step[1] : end].copy()) for step, end in zip(steps, ends, strict=True)]


def _places(facts: Facts, programme: str) -> tuple[Array, Array, Array]:
    """The accounts of a programme, and the rows of each one's customer."""
    import numpy as np

    places = [place for place, (_, of, _) in enumerate(facts.accounts) if of == programme]
    customers = np.array([facts.accounts[place][2] for place in places], np.int64)
    return np.array(places, np.int64), facts.first[customers], facts.first[customers + 1]


def outcomes(facts: Facts, book: Book) -> tuple[Array, Array]:
    """The accounts of the book's programme, as places in `facts.accounts`, and what came of each: rows of `O_…`."""
    import numpy as np

    places, first, last = _places(facts, book.programme)
    side = Run(facts, book, m.SILENT)
    out = np.zeros((len(places), m.OUTCOME), np.int64)
    done = 0
    while done < len(places):
        done = compiled(m.replay)(
            side.s, side.x, side.y, facts.items, facts.position, facts.kind, facts.at_us, facts.account, facts.slots,
            facts.item, facts.trait, facts.lined, facts.ordinal, side.y.shape[1], places, first, last, out, done,
        )  # fmt: skip
        if done < len(places):
            side.space.grow()
    return places, out


def compared(facts: Facts, baseline: Book, candidate: Book) -> tuple[Array, Array, Array]:
    """The accounts of the candidate's programme, and what came of each under either rule book. Where they part is in
    the candidate's rows."""
    import numpy as np

    places, first, last = _places(facts, candidate.programme)
    one, other = Run(facts, baseline, m.STEPS), Run(facts, candidate, m.STEPS)
    before, after = (np.zeros((len(places), m.OUTCOME), np.int64) for _ in range(2))
    depths = np.array([one.y.shape[1], other.y.shape[1]], np.int64)
    done = 0
    while done < len(places):
        done = compiled(m.compare)(
            one.s, one.x, one.y, other.s, other.x, other.y, facts.items, facts.position, facts.kind, facts.at_us,
            facts.account, facts.slots, facts.item, facts.trait, facts.lined, facts.ordinal, places, first, last,
            depths, before, after, done,
        )  # fmt: skip
        if done < len(places):
            one.space.grow()
            other.space.grow()
    return places, before, after
