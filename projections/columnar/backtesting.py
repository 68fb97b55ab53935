"""A backtest of some customers, as arrays: what `projections.backtest.reference` finds, at columnar speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from tallybook.domain.earning import Rules
from tallybook.domain.events import Event
from tallybook.domain.loyalty import UNFUNDED
from tallybook.domain.points import BUCKETS
from tallybook.projections.backtest import (
    ACTIVE_PLACE,
    BUCKETS_OF_SUBJECTS,
    HINDSIGHT,
    MOVERS,
    NO_TIER,
    SIDES,
    Key,
    Mover,
    Partial,
    Question,
    bucket_of,
    month_name,
    most,
    tier_number,
    value_class,
)
from tallybook.projections.exclusions import Exclusions

from .executor import Compared, Comparison, Run, places_of, replayed, unpaid
from .facts import Facts, with_tier_coupons
from .machine import layout as m
from .names import Names
from .rulebook import Adoptions, Book, years_of

Array = Any
COUPON_YEARS = range(1970, 2100)
"""The years in which tiers may grant coupons that facts name."""


def partial_of(
    parts: Iterable[Facts], control: Sequence[tuple[int, Event]], question: Question, names: Names
) -> Partial:
    """What a backtest finds about the customers of some facts, part after part. `control`: what concerns all accounts.
    Raises TooManyTiers, Uncompiled."""
    hindsight = question.order == HINDSIGHT
    left_out = question.left_out.restricted | question.left_out.objecting
    books = [_book_of(question, control, rules, names) for rules in (question.baseline, question.candidate)]
    grants = [grant for book in books for grant in book.grants]
    comparison = Comparison(*books, months=question.months(), unfunded=UNFUNDED.index(question.unfunded))
    partial, sums = Partial(), _Sums(question, names)
    for part in parts:
        facts, positions = in_hindsight(part) if hindsight else (part, None)
        with_tier_coupons(facts, grants, COUPON_YEARS, names)
        sums.add(facts, comparison.of(facts, left_out), positions)
        partial.sums["facts",] += _rows_of_others(facts, left_out)
        _count_left_out(partial, facts, question)
    sums.into(partial)
    _tallied(partial, comparison)
    return partial


def _book_of(question: Question, control: Sequence[tuple[int, Event]], rules: Rules | None, names: Names) -> Book:
    hindsight = question.order == HINDSIGHT
    return Book(Adoptions(question.programme, control, rules, since_us=question.since_us, hindsight=hindsight), names)


def in_hindsight(facts: Facts) -> tuple[Facts, Array]:
    """Facts with the rows of each customer in the order in which they happened, numbered so; and what their positions
    are."""
    import numpy as np

    customer = np.repeat(np.arange(len(facts.customers)), np.diff(facts.first))
    order = np.lexsort((facts.position, facts.at_us, customer))
    row_of = np.empty(len(order), np.int64)
    row_of[order] = np.arange(len(order))
    slots = facts.slots[order]
    for kind, columns in m.NAMING.items():
        rows = np.flatnonzero(facts.kind[order] == kind)
        for column in columns:
            named = slots[rows, column]
            slots[rows, column] = np.where(named >= 0, row_of[np.maximum(named, 0)], named)
    counts = np.diff(facts.item)[order]
    item = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    of = np.arange(item[-1]) + np.repeat(facts.item[:-1][order] - item[:-1], counts)
    told = {name: getattr(facts, name)[order] for name in ("kind", "at_us", "account", "trait", "channel")}
    positions = facts.position[order]
    number = np.arange(1, len(order) + 1)
    return replace(facts, **told, slots=slots, item=item, items=facts.items[of], position=number), positions


def _rows_of_others(facts: Facts, left_out: Container[UUID]) -> int:
    """How many rows there are of customers who are not left out."""
    if not left_out:
        return len(facts)
    sizes = facts.first[1:] - facts.first[:-1]
    return sum(int(size) for customer, size in zip(facts.customers, sizes, strict=True) if customer not in left_out)


def _count_left_out(partial: Partial, facts: Facts, question: Question) -> None:
    if not (question.left_out.restricted or question.left_out.objecting):
        return
    _, customers = facts.members(question.programme)
    members = {facts.customers[customer] for customer in customers}
    partial.sums["restricted",] += len(members & question.left_out.restricted)
    partial.sums["objecting",] += len(members & question.left_out.objecting)


def _tallied(partial: Partial, comparison: Comparison) -> None:
    """What was counted by month and by rule."""
    import numpy as np

    for side, run in zip(SIDES, (comparison.one, comparison.other), strict=True):
        months, rules = run.space.tallies()
        for month, bucket in zip(*np.nonzero(months), strict=True):
            partial.sums["month", month_name(int(month)), side, BUCKETS[bucket]] += int(months[month, bucket])
        for rule, place in run.book.tallied.items():
            for what, value in zip(("points", "times"), rules[place] if len(rules) else (), strict=False):
                if value:
                    partial.sums["rule", rule, side, what] += int(value)


def _counted(
    before: Array, after: Array, tiers: Sequence[str], ranks: Mapping[str, int], sums: Counter[Key]
) -> dict[str, Array]:
    """Add up what came of accounts; what is counted, by account."""
    import numpy as np

    was, becomes = before[:, m.O_TIER] + 1, after[:, m.O_TIER] + 1
    rank = np.array([ranks.get(tier, 0) for tier in tiers])
    change = after[:, m.O_BUCKETS + ACTIVE_PLACE] - before[:, m.O_BUCKETS + ACTIVE_PLACE]
    counts = {
        "accounts": np.ones(len(before), np.int64),
        "moved_up": rank[becomes] > rank[was],
        "moved_down": rank[becomes] < rank[was],
        "gain_points": change > 0,
        "lose_points": change < 0,
    }
    for name, of in counts.items():
        sums[name,] += int(of.sum())
    for name, column in (("unfunded", m.O_UNFUNDED), ("newly_funded", m.O_FUNDED), ("short", m.O_SHORT)):
        sums[name,] += int(after[:, column].sum())
    for pair, accounts in zip(*np.unique(was * len(tiers) + becomes, return_counts=True), strict=True):
        one, other = divmod(int(pair), len(tiers))
        sums["matrix", tiers[one], tiers[other]] += int(accounts)
    for side, outcomes in zip(SIDES, (before, after), strict=True):
        for bucket, points in zip(BUCKETS, outcomes[:, m.O_BUCKETS :].sum(axis=0), strict=True):
            sums["balance", side, bucket] += int(points)
    return counts


def scenarios_of(
    parts: Iterable[Facts], control: Sequence[tuple[int, Event]], questions: Sequence[Question], names: Names
) -> list[Partial]:
    """What a sweep finds about the customers of some facts, part after part, under each of many candidates: sums alone.
    What is asked differs in the candidate only."""
    first = questions[0]
    left_out = first.left_out.restricted | first.left_out.objecting
    candidates = [question.candidate for question in questions]
    books = [_book_of(first, control, rules, names) for rules in (first.baseline, *candidates)]
    grants = list(dict.fromkeys(grant for book in books for grant in book.grants))
    sees = [book.sees for book in books]
    tiers = [NO_TIER, *names.tiers]
    found = [Partial() for _ in questions]
    for part in parts:
        facts = in_hindsight(part)[0] if first.order == HINDSIGHT else part
        with_tier_coupons(facts, grants, COUPON_YEARS, names)
        members, paid = places_of(facts, first.programme, left_out), unpaid(facts)
        before = replayed(facts, Run(books[0], m.SILENT).over(facts), members, paid)
        seen: dict[object, tuple[Array, Array]] = {}
        for question, book, key, partial in zip(questions, books[1:], sees[1:], found, strict=True):
            # Each in its turn has room of its own: all at once would take some megabytes for each candidate.
            run = Run(book, m.SILENT, unfunded=UNFUNDED.index(question.unfunded))
            if key not in seen:
                seen = {key: run.sees(facts)}
            after = replayed(facts, run.over(facts, seen[key]), members, paid, reads=True)
            _counted(before, after, tiers, question.ranks, partial.sums)
            partial.sums["facts",] += _rows_of_others(facts, left_out)
            _count_left_out(partial, facts, question)
    return found


class Asked(NamedTuple):
    """What is asked about the customers of some facts: a backtest; or, for `sums` alone, a sweep."""

    questions: tuple[Question, ...]
    sums: bool

    def of(self, parts: Callable[[Names], Iterable[Facts]], control: Sequence[tuple[int, Event]]) -> list[Partial]:
        """What is found, question by question. `parts`: the facts of some customers, told by names."""
        if self.sums:
            names = Names()
            return scenarios_of(parts(names), control, self.questions, names)
        found = []
        for question in self.questions:
            names = Names()
            found.append(partial_of(parts(names), control, question, names))
        return found

    def by_bucket(self) -> Iterator[Asked]:
        """The same for each bucket: of those who are left out, its own customers alone are named."""
        parts: list[tuple[set[UUID], set[UUID]]] = [(set(), set()) for _ in range(BUCKETS_OF_SUBJECTS)]
        for why, customers in enumerate(self.questions[0].left_out):
            for customer in customers:
                parts[bucket_of(customer)][why].add(customer)
        for restricted, objecting in parts:
            left_out = Exclusions(frozenset(restricted), frozenset(objecting))
            yield self._replace(questions=tuple(replace(question, left_out=left_out) for question in self.questions))


class _Told(NamedTuple):
    """What came of the accounts of some facts: by account, its id and the customer's (n × 16 bytes); what balances and
    tier were and become, as `machine` tells them; where the rule books part; what the customer bought; when the account
    joined; the channel of most purchases, as the code of a text."""

    accounts: Array
    customers: Array
    before: Array
    after: Array
    differs: Array
    value: Array
    joined_us: Array
    channel: Array


class _Sums:
    """What came of accounts, added up."""

    def __init__(self, question: Question, names: Names) -> None:
        self._question, self._names = question, names
        self._told: list[_Told] = []

    def add(self, facts: Facts, found: Compared, positions: Array | None) -> None:
        """Take in what came of the accounts of some facts. `positions`: those of their rows, if the rows are numbered
        otherwise."""
        import numpy as np

        if not len(found.places):
            return
        of = np.full(len(facts.accounts), -1)
        places, customers = facts.members(self._question.programme)
        of[places] = customers
        customer = of[found.places]
        joined = np.zeros(len(facts.accounts), np.int64)
        enrolled = facts.earning[m.F_ENROLLED]
        joined[facts.account[enrolled]] = facts.at_us[enrolled]
        rows = facts.earning[m.F_PURCHASE]
        begins = np.searchsorted(rows, facts.first)
        told = _Told(
            facts.account_ids()[found.places],
            facts.customer_ids()[customer],
            found.before,
            found.after,
            _positions_of(found.after[:, m.O_DIFFERS], positions),
            _sums_of(found.amounts, begins)[customer],
            joined[found.places],
            self._channels(facts.channel[rows], begins)[customer],
        )
        self._told.append(told)

    def _channels(self, channel: Array, begins: Array) -> Array:
        """The channel of most of each customer's purchases, as the code of its text; of two, the first by name. Those
        of a customer stand from `begins` on."""
        import numpy as np

        most_of = np.zeros(len(begins) - 1, np.int64)  # the empty text's code
        if not len(channel):
            return most_of
        codes = np.flatnonzero(np.bincount(channel)).tolist()
        named = np.array(sorted(codes, key=self._channel_names.__getitem__))
        rank = np.zeros(max(codes) + 1, np.int64)
        rank[named] = np.arange(len(named))
        customer_of = np.repeat(np.arange(len(most_of)), np.diff(begins))
        pairs, times = np.unique(customer_of * len(named) + rank[channel], return_counts=True)
        customer, place = pairs // len(named), pairs % len(named)
        order = np.lexsort((-place, times, customer))
        most_of[customer[order]] = named[place[order]]
        return most_of

    @cached_property
    def _channel_names(self) -> dict[int, str]:
        return {code: text for text, code in self._names.texts.items()}

    def into(self, partial: Partial) -> None:
        """Add all of it up."""
        import numpy as np

        if not self._told:
            return
        told = _Told(*(np.concatenate(columns) for columns in zip(*self._told, strict=True)))
        _Totals(told, self._question, self._names).into(partial)


def _sums_of(values: Array, begins: Array) -> Array:
    """Of each customer's values, which stand from `begins` on."""
    import numpy as np

    sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))
    found: Array = sums[begins[1:]] - sums[begins[:-1]]
    return found


def _positions_of(differs: Array, positions: Array | None) -> Array:
    """Where the rule books part: positions of the log."""
    import numpy as np

    if positions is None or not len(positions):
        return differs
    inside = (differs > 0) & (differs < m.END - 1)
    return np.where(inside, positions[np.where(inside, differs, 1) - 1], np.where(differs > 0, m.END, 0))


class _Totals:
    """What came of all accounts of a bucket."""

    def __init__(self, told: _Told, question: Question, names: Names) -> None:
        self._told, self._question = told, question
        self._tiers = [NO_TIER, *names.tiers]
        self._names = names

    def into(self, partial: Partial) -> None:
        """Add it up."""
        import numpy as np

        told, sums = self._told, partial.sums
        counts = _counted(told.before, told.after, self._tiers, self._question.ranks, sums)
        counts["changed"] = told.differs != 0
        sums["changed",] = int(counts["changed"].sum())
        active = m.O_BUCKETS + ACTIVE_PLACE
        change = told.after[:, active] - told.before[:, active]
        by_account = counts | {"before": told.before[:, active], "after": told.after[:, active]}
        for dimension, (classes, codes) in self._classes.items():
            order = np.argsort(codes, kind="stable")
            some, starts = np.unique(codes[order], return_index=True)
            for what, of in by_account.items():
                for place, total in zip(some, np.add.reduceat(of[order].astype(np.int64), starts), strict=True):
                    sums["class", dimension, str(classes[int(place)]), what] += int(total)
        partial.gained = self._movers(change, change > 0)
        partial.lost = self._movers(change, change < 0)
        partial.digests = self._digests()
        if self._question.rows:
            partial.rows = self._rows()

    def _movers(self, change: Array, which: Array) -> list[Mover]:
        """The accounts whose balances change most."""
        import numpy as np

        rows = np.flatnonzero(which)
        if len(rows) > MOVERS:
            least = np.partition(np.abs(change[rows]), -MOVERS)[-MOVERS]
            rows = rows[np.abs(change[rows]) >= least]
        told = self._told
        return most(
            Mover(
                UUID(bytes=told.accounts[row].tobytes()),
                UUID(bytes=told.customers[row].tobytes()),
                self._tiers[told.before[row, m.O_TIER] + 1],
                self._tiers[told.after[row, m.O_TIER] + 1],
                int(told.before[row, m.O_BUCKETS + ACTIVE_PLACE]),
                int(told.after[row, m.O_BUCKETS + ACTIVE_PLACE]),
            )
            for row in rows
        )

    @cached_property
    def _classes(self) -> dict[str, tuple[Sequence[str], Array]]:
        """By dimension: the names of classes, and the class of each account."""
        import numpy as np

        told = self._told
        powers = [0, *(10**power for power in range(19))]
        names = ["0", *(value_class(power) for power in powers[1:])]
        found: dict[str, tuple[Sequence[str], Array]] = {}
        found["value"] = names, np.searchsorted(powers[1:], np.maximum(told.value, 0), side="right")
        years, place = np.unique(years_of(self._question.candidate.zone, told.joined_us), return_inverse=True)
        found["joined"] = [str(year) for year in years], place
        codes, place = np.unique(told.channel, return_inverse=True)
        texts = {code: text for text, code in self._names.texts.items()}
        found["channel"] = [texts[int(code)] for code in codes], place
        return found

    @cached_property
    def _columns(self) -> tuple[Array, Array, Array, Array]:
        """The tiers before and after as codes from 1 on, the balances before and after."""
        told = self._told
        return (
            told.before[:, m.O_TIER] + 1,
            told.after[:, m.O_TIER] + 1,
            told.before[:, m.O_BUCKETS :],
            told.after[:, m.O_BUCKETS :],
        )

    def _digests(self) -> dict[int, str]:
        """By bucket of customers: the digest of what came of their accounts."""
        import numpy as np

        told = self._told
        was, becomes, before, after = self._columns
        number = np.array([tier_number(tier) for tier in self._tiers], np.int64)
        counts = told.after[:, [m.O_UNFUNDED, m.O_FUNDED, m.O_SHORT]]
        rows = np.column_stack((told.differs, counts, number[was], number[becomes], before, after)).astype("<i8")
        bucket, order = self._ordered
        all_of = np.concatenate((told.accounts, rows.view(np.uint8).reshape(len(rows), -1)), axis=1)[order]
        buckets, first = np.unique(bucket[order], return_index=True)
        return {
            int(number): sha256(all_of[begin:end].tobytes()).hexdigest()
            for number, begin, end in zip(buckets, first, [*first[1:], len(all_of)], strict=True)
        }

    @cached_property
    def _ordered(self) -> tuple[Array, Array]:
        """The bucket of each account, and their order by bucket and account."""
        import numpy as np

        bucket = self._told.customers[:, 0] >> 2
        keys = np.ascontiguousarray(self._told.accounts).view(">u8")
        return bucket, np.lexsort((keys[:, 1], keys[:, 0], bucket))

    def _rows(self) -> dict[str, Any]:
        """As `projections.backtest.rows_of` gives them, as arrays."""
        import numpy as np

        told = self._told
        _, order = self._ordered
        was, becomes, before, after = self._columns
        years, year = self._classes["joined"]
        channels, channel = self._classes["channel"]
        return {
            "account_id": told.accounts[order],
            "customer_id": told.customers[order],
            "tier_before": (was[order], self._tiers),
            "tier_after": (becomes[order], self._tiers),
            "before": before[order],
            "after": after[order],
            "differs": told.differs[order],
            "unfunded": told.after[order, m.O_UNFUNDED],
            "newly_funded": told.after[order, m.O_FUNDED],
            "short": told.after[order, m.O_SHORT],
            "value": told.value[order],
            "joined": np.array([*map(int, years)], np.int64)[year][order],
            "channel": (channel[order], channels),
        }
