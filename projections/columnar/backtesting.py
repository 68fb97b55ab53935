"""A backtest of some customers, as arrays: what `projections.backtest.reference` finds, at columnar speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
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

from .executor import Compared, compared, places_of, replayed, unpaid
from .facts import Facts, with_tier_coupons
from .machine import layout as m
from .names import Names
from .rulebook import Adoptions, Book, years_of

Array = Any
COUPON_YEARS = range(1970, 2100)
"""The years in which tiers may grant coupons that facts name."""


def partial_of(facts: Facts, control: Sequence[tuple[int, Event]], question: Question, names: Names) -> Partial:
    """What a backtest finds about the customers of some facts. `control`: what concerns all accounts. Raises
    TooManyTiers, Uncompiled."""
    hindsight = question.order == HINDSIGHT
    positions = facts.position
    if hindsight:
        facts, positions = in_hindsight(facts)
    baseline, candidate = (
        Book(Adoptions(question.programme, control, rules, since_us=question.since_us, hindsight=hindsight), names)
        for rules in (question.baseline, question.candidate)
    )
    with_tier_coupons(facts, [*baseline.grants, *candidate.grants], COUPON_YEARS, names)
    left_out = question.left_out.restricted | question.left_out.objecting
    found = compared(
        facts,
        baseline,
        candidate,
        months=question.months(),
        unfunded=UNFUNDED.index(question.unfunded),
        without=left_out,
    )
    partial = _Sums(facts, found, question, names, candidate, positions if hindsight else None).partial()
    _tallied(partial, found, baseline, candidate)
    partial.sums["facts",] = _rows_of_others(facts, left_out)
    _count_left_out(partial, facts, question)
    return partial


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
    partial.sums["restricted",] = len(members & question.left_out.restricted)
    partial.sums["objecting",] = len(members & question.left_out.objecting)


def _tallied(partial: Partial, found: Compared, baseline: Book, candidate: Book) -> None:
    """What was counted by month and by rule."""
    import numpy as np

    for side, months, rules, book in zip(
        SIDES,
        (found.months_before, found.months_after),
        (found.rules_before, found.rules_after),
        (baseline, candidate),
        strict=True,
    ):
        for month, bucket in zip(*np.nonzero(months), strict=True):
            partial.sums["month", month_name(int(month)), side, BUCKETS[bucket]] += int(months[month, bucket])
        for rule, place in book.tallied.items():
            for what, value in zip(("points", "times"), rules[place], strict=True):
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
        sums[name,] = int(of.sum())
    for name, column in (("unfunded", m.O_UNFUNDED), ("newly_funded", m.O_FUNDED), ("short", m.O_SHORT)):
        sums[name,] = int(after[:, column].sum())
    for pair, accounts in zip(*np.unique(was * len(tiers) + becomes, return_counts=True), strict=True):
        one, other = divmod(int(pair), len(tiers))
        sums["matrix", tiers[one], tiers[other]] = int(accounts)
    for side, outcomes in zip(SIDES, (before, after), strict=True):
        for bucket, points in zip(BUCKETS, outcomes[:, m.O_BUCKETS :].sum(axis=0), strict=True):
            sums["balance", side, bucket] = int(points)
    return counts


def scenarios_of(
    facts: Facts, control: Sequence[tuple[int, Event]], questions: Sequence[Question], names: Names
) -> list[Partial]:
    """What a sweep finds about the customers of some facts under each of many candidates: sums alone. What is asked
    differs in the candidate only."""
    first = questions[0]
    hindsight = first.order == HINDSIGHT
    if hindsight:
        facts, _ = in_hindsight(facts)

    def book_of(rules: Rules | None) -> Book:
        return Book(Adoptions(first.programme, control, rules, since_us=first.since_us, hindsight=hindsight), names)

    baseline, candidates = book_of(first.baseline), [book_of(question.candidate) for question in questions]
    grants = [grant for book in (baseline, *candidates) for grant in book.grants]
    with_tier_coupons(facts, list(dict.fromkeys(grants)), COUPON_YEARS, names)
    left_out = first.left_out.restricted | first.left_out.objecting
    members, paid = places_of(facts, first.programme, left_out), unpaid(facts)
    before = replayed(facts, baseline, members, paid)
    tiers = [NO_TIER, *names.tiers]
    seen: dict[object, tuple[Array, Array]] = {}
    found: list[Partial] = []
    for question, candidate in zip(questions, candidates, strict=True):
        key = candidate.sees
        if key not in seen:
            seen = {key: candidate.seen(facts)}
        unfunded = UNFUNDED.index(question.unfunded)
        after = replayed(facts, candidate, members, paid, unfunded, seen=seen[key])
        partial = Partial()
        _counted(before, after, tiers, question.ranks, partial.sums)
        partial.sums["facts",] = _rows_of_others(facts, left_out)
        _count_left_out(partial, facts, question)
        found.append(partial)
    return found


class Asked(NamedTuple):
    """What is asked about the customers of some facts: a backtest; or, for `sums` alone, a sweep."""

    questions: tuple[Question, ...]
    sums: bool

    def of(self, facts: Facts, control: Sequence[tuple[int, Event]], names: Names) -> list[Partial]:
        """What is found, question by question."""
        if self.sums:
            return scenarios_of(facts, control, self.questions, names)
        return [partial_of(facts, control, question, names) for question in self.questions]

    def by_bucket(self) -> Iterator[Asked]:
        """The same for each bucket: of those who are left out, its own customers alone are named."""
        parts: list[tuple[set[UUID], set[UUID]]] = [(set(), set()) for _ in range(BUCKETS_OF_SUBJECTS)]
        for why, customers in enumerate(self.questions[0].left_out):
            for customer in customers:
                parts[bucket_of(customer)][why].add(customer)
        for restricted, objecting in parts:
            left_out = Exclusions(frozenset(restricted), frozenset(objecting))
            yield self._replace(questions=tuple(replace(question, left_out=left_out) for question in self.questions))


class _Sums:
    """What came of accounts, added up."""

    def __init__(
        self, facts: Facts, found: Compared, question: Question, names: Names, book: Book, positions: Array | None
    ) -> None:
        import numpy as np

        self._facts, self._found, self._question, self._names, self._book = facts, found, question, names, book
        _, customers = facts.members(question.programme)
        of = np.full(len(facts.accounts), -1)
        of[facts.members(question.programme)[0]] = customers
        self._customers = of[found.places]
        self._positions = positions
        self._tiers = [NO_TIER, *names.tiers]

    def partial(self) -> Partial:
        """All of it."""
        import numpy as np

        found, partial = self._found, Partial()
        if not len(found.places):
            return partial
        sums = partial.sums
        before, after = found.before[:, m.O_BUCKETS :], found.after[:, m.O_BUCKETS :]
        was, becomes = found.before[:, m.O_TIER] + 1, found.after[:, m.O_TIER] + 1
        change = after[:, ACTIVE_PLACE] - before[:, ACTIVE_PLACE]
        differs = self._differs()
        counts = _counted(found.before, found.after, self._tiers, self._question.ranks, sums)
        counts["changed"] = differs != 0
        sums["changed",] = int(counts["changed"].sum())
        told = counts | {"before": before[:, ACTIVE_PLACE], "after": after[:, ACTIVE_PLACE]}
        for dimension, (classes, codes) in self._classes.items():
            order = np.argsort(codes, kind="stable")
            some, starts = np.unique(codes[order], return_index=True)
            for what, of in told.items():
                for place, total in zip(some, np.add.reduceat(of[order].astype(np.int64), starts), strict=True):
                    sums["class", dimension, str(classes[int(place)]), what] += int(total)
        partial.gained = self._movers(change, change > 0)
        partial.lost = self._movers(change, change < 0)
        partial.digests = self._digests(differs, was, becomes, before, after)
        if self._question.rows:
            partial.rows = self._rows(differs, was, becomes, before, after)
        return partial

    def _differs(self) -> Array:
        """Where the rule books part: positions of the log."""
        import numpy as np

        differs = self._found.after[:, m.O_DIFFERS]
        if self._positions is None or not len(self._positions):
            return differs
        inside = (differs > 0) & (differs < m.END - 1)
        return np.where(inside, self._positions[np.where(inside, differs, 1) - 1], np.where(differs > 0, m.END, 0))

    def _movers(self, change: Array, which: Array) -> list[Mover]:
        """The accounts whose balances change most."""
        import numpy as np

        rows = np.flatnonzero(which)
        if len(rows) > MOVERS:
            least = np.partition(np.abs(change[rows]), -MOVERS)[-MOVERS]
            rows = rows[np.abs(change[rows]) >= least]
        found, facts = self._found, self._facts
        return most(
            Mover(
                facts.accounts[found.places[row]][0],
                facts.customers[self._customers[row]],
                self._tiers[found.before[row, m.O_TIER] + 1],
                self._tiers[found.after[row, m.O_TIER] + 1],
                int(found.before[row, m.O_BUCKETS + ACTIVE_PLACE]),
                int(found.after[row, m.O_BUCKETS + ACTIVE_PLACE]),
            )
            for row in rows
        )

    @cached_property
    def _purchases(self) -> tuple[Array, Array]:
        """The rows of purchases, and the customer of each."""
        import numpy as np

        rows = self._facts.earning[m.F_PURCHASE]
        return rows, np.searchsorted(self._facts.first, rows, side="right") - 1

    @cached_property
    def _value(self) -> Array:
        """What each account's customer bought."""
        import numpy as np

        sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(self._found.amounts)))
        first = np.searchsorted(self._purchases[1], np.arange(len(self._facts.customers) + 1))
        return (sums[first[1:]] - sums[first[:-1]])[self._customers]

    @cached_property
    def _classes(self) -> dict[str, tuple[Sequence[str], Array]]:
        """By dimension: the names of classes, and the class of each account."""
        import numpy as np

        facts, question = self._facts, self._question
        rows, customer_of = self._purchases
        powers = [0, *(10**power for power in range(19))]
        names = ["0", *(value_class(power) for power in powers[1:])]
        found: dict[str, tuple[Sequence[str], Array]] = {}
        found["value"] = names, np.searchsorted(powers[1:], np.maximum(self._value, 0), side="right")
        joined = np.zeros(len(facts.accounts), np.int64)
        enrolled = facts.earning[m.F_ENROLLED]
        joined[facts.account[enrolled]] = facts.at_us[enrolled]
        years, place = np.unique(years_of(question.candidate.zone, joined[self._found.places]), return_inverse=True)
        found["joined"] = [str(year) for year in years], place
        found["channel"] = self._channels(rows, customer_of)
        return found

    def _channels(self, rows: Array, customer_of: Array) -> tuple[Sequence[str], Array]:
        """The channel of most of each account's customer's purchases; of two, the first by name."""
        import numpy as np

        codes, place = np.unique(self._facts.channel[rows], return_inverse=True)
        texts = {code: text for text, code in self._names.texts.items()}
        named = sorted((texts[int(code)], index) for index, code in enumerate(codes))
        rank = np.zeros(len(codes), np.int64)
        rank[[index for _, index in named]] = np.arange(len(named))
        names = [name for name, _ in named] or [""]
        if "" not in names:
            names.append("")
        most_of = np.full(len(self._facts.customers), names.index(""))
        if len(rows):
            pairs, times = np.unique(customer_of * len(names) + rank[place], return_counts=True)
            customer, channel = pairs // len(names), pairs % len(names)
            order = np.lexsort((-channel, times, customer))
            most_of[customer[order]] = channel[order]
        return names, most_of[self._customers]

    def _digests(self, differs: Array, was: Array, becomes: Array, before: Array, after: Array) -> dict[int, str]:
        """By bucket of customers: the digest of what came of their accounts."""
        import numpy as np

        found = self._found
        number = np.array([tier_number(tier) for tier in self._tiers], np.int64)
        counts = found.after[:, [m.O_UNFUNDED, m.O_FUNDED, m.O_SHORT]]
        rows = np.column_stack((differs, counts, number[was], number[becomes], before, after)).astype("<i8")
        accounts, _, bucket, order = self._ordered
        told = np.concatenate((accounts, rows.view(np.uint8).reshape(len(rows), -1)), axis=1)[order]
        buckets, first = np.unique(bucket[order], return_index=True)
        return {
            int(number): sha256(told[begin:end].tobytes()).hexdigest()
            for number, begin, end in zip(buckets, first, [*first[1:], len(told)], strict=True)
        }

    @cached_property
    def _ordered(self) -> tuple[Array, Array, Array, Array]:
        """The ids of accounts and of their customers, the bucket of each, and their order by bucket and account."""
        import numpy as np

        facts = self._facts
        accounts, customers = facts.account_ids()[self._found.places], facts.customer_ids()[self._customers]
        bucket = customers[:, 0] >> 2
        keys = np.ascontiguousarray(accounts).view(">u8")
        return accounts, customers, bucket, np.lexsort((keys[:, 1], keys[:, 0], bucket))

    def _rows(self, differs: Array, was: Array, becomes: Array, before: Array, after: Array) -> dict[str, Any]:
        """As `projections.backtest.rows_of` gives them, as arrays."""
        import numpy as np

        accounts, customers, _, order = self._ordered
        out = self._found.after
        years, year = self._classes["joined"]
        channels, channel = self._classes["channel"]
        return {
            "account_id": accounts[order],
            "customer_id": customers[order],
            "tier_before": (was[order], self._tiers),
            "tier_after": (becomes[order], self._tiers),
            "before": before[order],
            "after": after[order],
            "differs": differs[order],
            "unfunded": out[order, m.O_UNFUNDED],
            "newly_funded": out[order, m.O_FUNDED],
            "short": out[order, m.O_SHORT],
            "value": self._value[order],
            "joined": np.array([*map(int, years)], np.int64)[year][order],
            "channel": (channel[order], channels),
        }
