"""Containers whose copies share all that they have in common, so that a draft of a large aggregate costs little.

What is shared is never changed. Their price is a little time for each look-up; the built-in ones would be copied whole
for every command: 3 ms for 100,000 entries.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Generic, TypeVar, cast

K = TypeVar("K")
V = TypeVar("V")
E = TypeVar("E", bound=tuple[Any, ...])

RUN_MAX = 64
"""How many entries stand in one run: what a change copies."""
CHANGES_MAX = 512
"""How many changes a copy takes with it before they are merged into a new base."""

_GONE: Any = object()
_EMPTY: dict[Any, Any] = {}
"""The base of all that have none: a base is never changed."""
_last = itemgetter(-1)

Place = tuple[int, int]
"""Where an entry stands, or would stand: run, and index in the run."""


class LayeredDict(MutableMapping[K, V]):
    """A dict in two layers: a base that copies share, and the changes since, which they copy.

    In no particular order, once entries were removed or changed.
    """

    __slots__ = ("_base", "_changes")

    def __init__(self, entries: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        self._base: dict[K, V] = dict(entries) if entries else _EMPTY
        self._changes: dict[K, V] = {}

    def __getitem__(self, key: K) -> V:
        found = self._changes.get(key, None)
        if found is None:
            return self._base[key]
        if found is _GONE:
            raise KeyError(key)
        return found

    def get(self, key: K, default: Any = None) -> Any:
        """The value of a key, or the default."""
        found = self._changes.get(key, None)
        if found is None:
            return self._base.get(key, default)
        return default if found is _GONE else found

    def __setitem__(self, key: K, value: V) -> None:
        self._changes[key] = value

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        if key in self._base:
            self._changes[key] = _GONE
        else:
            del self._changes[key]

    def __contains__(self, key: object) -> bool:
        return self.get(cast("K", key), _GONE) is not _GONE

    def __iter__(self) -> Iterator[K]:
        return iter(self.plain())

    def __len__(self) -> int:
        return len(self.plain())

    def __repr__(self) -> str:
        return f"LayeredDict({dict(self)!r})"

    def copy(self) -> LayeredDict[K, V]:
        """A copy that shares the base."""
        made: LayeredDict[K, V] = LayeredDict.__new__(LayeredDict)
        made._base = self._base
        made._changes = self._changes.copy()
        return made

    def plain(self) -> dict[K, V]:
        """All entries as a dict, not to be changed."""
        if not self._changes:
            return self._base
        if not self._base:
            return self._changes  # nothing is marked as gone where there is no base
        merged = {**self._base, **self._changes}
        for key in [key for key, value in self._changes.items() if value is _GONE]:
            del merged[key]
        return merged

    def settle(self) -> None:
        """Merge the changes into a new base if they are many: what is shared from now on has few."""
        if len(self._changes) > CHANGES_MAX:
            self._base, self._changes = self.plain(), {}


class SortedAmounts(Generic[E]):
    """Entries `(*key, amount)` in the order of their keys, each key once, and their total.

    They stand in runs that are never changed: copies share them, and a change makes one run anew.
    """

    __slots__ = ("_runs", "_totals", "total")

    def __init__(self, entries: Iterable[E] = ()) -> None:
        self._runs: list[tuple[E, ...]] = []
        self._totals: list[int] = []
        self.total: int = 0
        if entries:
            rest = iter(entries)
            self._runs.extend(iter(lambda: tuple(islice(rest, RUN_MAX)), ()))
            self._totals.extend(sum(map(_last, run)) for run in self._runs)
            self.total = sum(self._totals)

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __iter__(self) -> Iterator[E]:
        return chain.from_iterable(self._runs)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (SortedAmounts, list)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can change

    def __repr__(self) -> str:
        return f"SortedAmounts({list(self)!r})"

    @property
    def first(self) -> E:
        """The entry with the least key. IndexError if there is none."""
        return self._runs[0][0]

    @property
    def last(self) -> E:
        """The entry with the greatest key. IndexError if there is none."""
        return self._runs[-1][-1]

    def copy(self) -> SortedAmounts[E]:
        """A copy that shares the runs."""
        made: SortedAmounts[E] = SortedAmounts.__new__(SortedAmounts)
        made._runs = self._runs.copy()
        made._totals = self._totals.copy()
        made.total = self.total
        return made

    def find(self, key: tuple[Any, ...]) -> E | None:
        """The entry with a key."""
        at, index = self._place(key)
        if at < len(self._runs) and self._runs[at][index][:-1] == key:
            return self._runs[at][index]
        return None

    def put(self, entry: E) -> None:
        """Put an entry in its place, or in the place of the one with the same key."""
        amount: int = entry[-1]
        runs = self._runs
        if not runs or runs[-1][-1][:-1] < entry[:-1]:
            if runs and len(runs[-1]) < RUN_MAX:
                self._change(len(runs) - 1, (*runs[-1], entry), amount)
            else:
                runs.append((entry,))
                self._totals.append(amount)
                self.total += amount
            return
        at, index = self._place(entry[:-1])
        run = runs[at]
        if run[index][:-1] == entry[:-1]:
            self._change(at, (*run[:index], entry, *run[index + 1 :]), amount - run[index][-1])
        elif len(run) < RUN_MAX:
            self._change(at, (*run[:index], entry, *run[index:]), amount)
        else:
            half = RUN_MAX // 2
            self._runs[at : at + 1] = [run[:half], run[half:]]
            self._totals[at : at + 1] = [sum(map(_last, run[:half])), sum(map(_last, run[half:]))]
            self.put(entry)

    def add(self, entry: E) -> None:
        """Add an amount, which may be negative, to the entry with the same key; it goes where nothing is left."""
        by: int = entry[-1]
        runs, key = self._runs, entry[:-1]
        if not by:
            return
        if not runs or runs[-1][-1][:-1] < key:
            self.put(entry)
            return
        at, index = self._place(key)
        run = runs[at]
        had = run[index]
        if had[:-1] != key:
            self.put(entry)
        elif had[-1] + by:
            made: E = tuple.__new__(type(entry), (*key, had[-1] + by))
            self._change(at, (*run[:index], made, *run[index + 1 :]), by)
        else:
            self._drop(at, index)

    def remove(self, key: tuple[Any, ...]) -> None:
        """Remove the entry with a key. KeyError if there is none."""
        at, index = self._place(key)
        if at == len(self._runs) or self._runs[at][index][:-1] != key:
            raise KeyError(key)
        self._drop(at, index)

    def after(self, bound: Any, key: Callable[[E], Any]) -> Place:
        """The place of the first entry whose `key` lies above a bound. `key` must never fall from entry to entry."""
        if len(self._runs) == 1:
            return 0, bisect_right(self._runs[0], bound, key=key)
        at = bisect_right(self._runs, bound, key=lambda run: key(run[-1]))
        return at, bisect_right(self._runs[at], bound, key=key) if at < len(self._runs) else 0

    def from_place(self, place: Place) -> Iterator[E]:
        """The entries from a place on."""
        at, index = place
        for run in islice(self._runs, at, None):
            yield from islice(run, index, None)
            index = 0

    def total_from(self, place: Place) -> int:
        """The sum of the amounts from a place on."""
        at, index = place
        if not at and not index:
            return self.total
        if at == len(self._runs):
            return 0
        amount: int = sum(map(_last, self._runs[at][index:])) + sum(self._totals[at + 1 :])
        return amount

    def _place(self, key: tuple[Any, ...]) -> Place:
        # A key is a shorter tuple than an entry with the same key: it sorts right before it.
        runs = self._runs
        if not runs or runs[-1][-1] < key:
            return len(runs), 0
        at = bisect_left(runs, key, key=_last)
        return at, bisect_left(runs[at], key)

    def _drop(self, at: int, index: int) -> None:
        run = self._runs[at]
        self._change(at, (*run[:index], *run[index + 1 :]), -run[index][-1])
        if len(run) == 1:
            del self._runs[at], self._totals[at]

    def _change(self, at: int, run: tuple[E, ...], by: int) -> None:
        self._runs[at] = run
        self._totals[at] += by
        self.total += by
