"""Backtest: what would change under other rules. All facts are replayed under a candidate and under a baseline (the
rule sets as recorded, or another one), and what comes of each account is compared.

What is asked is a `Question`; what is found about some customers is a `Partial`, and partials add up. So customers can
be taken in any parts, in any order, by either executor. A counterfactual never crosses subjects, and behaviour is
assumed unchanged: customers do what they did.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from hashlib import sha256
from heapq import nlargest
from typing import Any, NamedTuple
from uuid import UUID

from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import DAY_US, Zone, civil_from_days, days_from_civil
from tallybook.domain.control import RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.customer import ProfileFact, PurchaseRecorded, Traits, note_traits, traits_of
from tallybook.domain.earning import Rules
from tallybook.domain.events import Event, Fact
from tallybook.domain.loyalty import NOBODY as NO_TRAITS
from tallybook.domain.loyalty import LoyaltyAccount, WhatIf, measured_purchase
from tallybook.domain.points import (
    BUCKETS,
    DEBT,
    PLACES,
    Enrolled,
    LoyaltyDecision,
    PointsRedeemed,
    RedemptionRefused,
    RedemptionRequested,
)

from .backtest_tables import TOTALS, Table, frame_of, tables_of
from .exclusions import NOBODY, Exclusions
from .read_models import Progress, Recorded
from .replay import ACCOUNT_FACTS, CONTROL_FACTS, STAMP, SUBJECT_FACTS, Derivation, describe

_COUNTED = (*ACCOUNT_FACTS, *SUBJECT_FACTS, *CONTROL_FACTS)
"""The facts that accounts react to."""
CANONICAL, HINDSIGHT = "canonical", "hindsight"
ORDERS = (CANONICAL, HINDSIGHT)
FIRST_YEAR, LAST_YEAR = 1970, 2100
"""Months are counted within these years; what lies before or after, with the first or the last of them."""
MOVERS = 20
"""How many accounts are named that gain most, and that lose most."""
BUCKETS_OF_SUBJECTS = 64
REPORT_EVERY = 10_000
NO_TIER = "none"
SIDES = ("before", "after")


@dataclass(frozen=True, slots=True)
class Question:
    """What a backtest asks.

    `unfunded`: what becomes of a redemption that the baseline pays, and for which there is too little under the
    candidate: one of UNFUNDED. `order`: "canonical": facts as they became known, without looking ahead; "hindsight": as
    if each had been known when it happened. `since_us`: the candidate (and a `baseline`) is in force from then on, and
    before it the recorded rule sets, so that balances at that time are as they were; None: from the beginning.
    `rows`: whether what came of each account is wanted, too.
    """

    candidate: Rules
    baseline: Rules | None = None
    unfunded: str = "reject"
    order: str = CANONICAL
    since_us: int | None = None
    left_out: Exclusions = NOBODY
    rows: bool = False

    def beginning(self, since_us: int | None) -> Question:
        """The same, with the candidate in force from another time on."""
        return replace(self, since_us=since_us)

    @property
    def programme(self) -> str:
        """Whose accounts are looked at."""
        return self.candidate.rule_set.programme

    @property
    def ranks(self) -> dict[str, int]:
        """The candidate's tiers from 0."""
        return {level.name: rank for rank, level in enumerate(self.candidate.rule_set.tiers.levels)}

    def months(self) -> Sequence[int]:
        """When each month begins by which points are counted, in the candidate's zone."""
        return _months_in(self.candidate.zone)


@lru_cache(maxsize=16)
def _months_in(zone: Zone) -> tuple[int, ...]:
    starts = [days_from_civil(year, month, 1) for year in range(FIRST_YEAR, LAST_YEAR) for month in range(1, 13)]
    return tuple([zone.utc_us(day * DAY_US) for day in starts])


def month_name(place: int) -> str:
    """A month of `Question.months`, as YYYY-MM."""
    return f"{FIRST_YEAR + place // 12}-{place % 12 + 1:02}"


Key = tuple[str, ...]


class Mover(NamedTuple):
    """An account whose balance another rule book changes."""

    account_id: UUID
    customer_id: UUID
    tier_before: str
    tier_after: str
    outstanding_before: int
    outstanding_after: int

    @property
    def change(self) -> int:
        """What it has more, or less."""
        return self.outstanding_after - self.outstanding_before


@dataclass(slots=True)
class Partial:
    """What was found about some customers. Adds up.

    `sums`, by key: matrix, tier before, tier after · balance, side, bucket · month, YYYY-MM, side, bucket · rule, id,
    side, points or times · class, dimension, name, what · and single ones.
    """

    sums: Counter[Key] = field(default_factory=Counter)
    gained: list[Mover] = field(default_factory=list)
    lost: list[Mover] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)
    """By bucket of customers: the SHA-256 of what came of each of their accounts."""
    rows: dict[str, Any] = field(default_factory=dict)
    """What came of each account, if it is asked for: the fields of `Outcome` as columns, by bucket and account. Texts
    may be a pair: codes, and the texts. They don't add up."""

    def add(self, other: Partial) -> None:
        """Take in what was found about others, but for the rows."""
        for key, value in other.sums.items():
            self.sums[key] += value
        self.gained = most(self.gained + other.gained)
        self.lost = most(self.lost + other.lost)
        self.digests |= other.digests


def most(movers: Iterable[Mover]) -> list[Mover]:
    """Those whose balances change most; of two alike, by id."""
    return nlargest(MOVERS, movers, key=lambda one: (abs(one.change), -one.account_id.int))


class Outcome(NamedTuple):
    """What came of an account. `before`, `after`: its balances in the order of BUCKETS. `differs`: the position of the
    first fact about which the rule books decide otherwise; 0: none."""

    account_id: UUID
    customer_id: UUID
    tier_before: str
    tier_after: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    differs: int
    unfunded: int
    newly_funded: int
    short: int
    value: int
    joined: int
    channel: str


ACTIVE_PLACE = BUCKETS.index("active")


def bucket_of(subject: UUID) -> int:
    """The bucket of a customer: the first six bits of the id."""
    return subject.int >> 122


def tier_number(tier: str) -> int:
    """What stands for a tier where outcomes are digested."""
    return int.from_bytes(sha256(tier.encode()).digest()[:7], "big")


def value_class(value: int) -> str:
    """The class of what a customer bought, in minor units of the programme's currency: the power of ten below it."""
    return "0" if value <= 0 else str(10 ** (len(str(value)) - 1))


def partial_of(outcomes: Iterable[Outcome], order: Mapping[str, int]) -> Partial:
    """What outcomes add up to. `order`: the candidate's tiers from 0; a tier that it lacks counts as its first."""
    partial = Partial()
    sums = partial.sums
    rows: defaultdict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
    for one in outcomes:
        was, becomes = order.get(one.tier_before, 0), order.get(one.tier_after, 0)
        mover = Mover(
            one.account_id,
            one.customer_id,
            one.tier_before,
            one.tier_after,
            one.before[ACTIVE_PLACE],
            one.after[ACTIVE_PLACE],
        )
        counts = {
            "accounts": 1,
            "moved_up": int(becomes > was),
            "moved_down": int(becomes < was),
            "gain_points": int(mover.change > 0),
            "lose_points": int(mover.change < 0),
            "changed": int(one.differs != 0),
        }
        for what, count in counts.items():
            sums[what,] += count
        sums["unfunded",] += one.unfunded
        sums["newly_funded",] += one.newly_funded
        sums["short",] += one.short
        sums["matrix", one.tier_before, one.tier_after] += 1
        for side, balances in zip(SIDES, (one.before, one.after), strict=True):
            for bucket, points in zip(BUCKETS, balances, strict=True):
                sums["balance", side, bucket] += points
        classes = {"value": value_class(one.value), "joined": str(one.joined), "channel": one.channel}
        for dimension, name in classes.items():
            for what, count in counts.items():
                sums["class", dimension, name, what] += count
            sums["class", dimension, name, "before"] += mover.outstanding_before
            sums["class", dimension, name, "after"] += mover.outstanding_after
        if mover.change > 0:
            partial.gained.append(mover)
        if mover.change < 0:
            partial.lost.append(mover)
        told = (one.differs, one.unfunded, one.newly_funded, one.short, tier_number(one.tier_before))
        numbers = (*told, tier_number(one.tier_after), *one.before, *one.after)
        row = b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)
        rows[bucket_of(one.customer_id)].append((one.account_id.bytes, row))
    partial.gained, partial.lost = most(partial.gained), most(partial.lost)
    for number, of in rows.items():
        partial.digests[number] = sha256(b"".join(account + row for account, row in sorted(of))).hexdigest()
    return partial


def rows_of(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Outcomes as columns, by bucket and account."""
    ordered = sorted(outcomes, key=lambda one: (bucket_of(one.customer_id), one.account_id))
    return {name: [getattr(one, name) for one in ordered] for name in Outcome._fields}


# ── the reference: the domain's own code ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact about which two rule books decide otherwise, and what either decides."""

    customer_id: UUID | None
    account_id: UUID
    position: int
    effective_us: int
    fact: str
    baseline: tuple[str, ...]
    candidate: tuple[str, ...]


END = 2**62
"""The position of what no fact brought up."""


def reference(
    history: Iterable[Recorded],
    question: Question,
    total: int = 0,
    progress: Progress | None = None,
) -> tuple[Partial, dict[UUID, Difference], int]:
    """A backtest by the domain's own code: what was found, the first difference of each customer, and the position of
    the last event that was looked at."""
    months = question.months()
    old = _Side(SIDES[0], question, question.baseline, months)
    new = _Side(SIDES[1], question, question.candidate, months)
    found = _Found(question)
    if question.order == HINDSIGHT:
        recorded = list(history)
        old.derivation.traits = new.derivation.traits = _known_traits(recorded)
        in_order = list(_in_hindsight(recorded))
        found.facts += len(recorded) - len(in_order)
        history = in_order
    excluded = question.left_out.restricted | question.left_out.objecting
    members: set[UUID] = set()
    last = 0
    for position, event in history:
        last = max(last, position)
        if not isinstance(event, Fact):
            continue
        if event.subject_id is not None and event.subject_id in excluded:
            if isinstance(event, Enrolled) and event.programme == question.programme:
                members.add(event.subject_id)
            continue
        found.facts += isinstance(event, _COUNTED)
        before = old.noted(old.derivation.feed(event))
        paid = isinstance(event, RedemptionRequested) and any(
            isinstance(one, PointsRedeemed) for _, decisions in before for one in decisions
        )
        new.what_if.paid = paid
        new.what_if.short = None
        after = new.noted(new.derivation.feed(event))
        found.note(position, event, before, after, new.what_if.short)
        if progress and position % REPORT_EVERY == 0:
            progress(position, total)
    old_tail, new_tail = (side.noted(list(side.derivation.follow_sweep())) for side in (old, new))
    found.note(END, None, old_tail, new_tail)
    outcomes = list(found.outcomes(old.derivation, new.derivation))
    partial = partial_of(outcomes, question.ranks)
    if question.rows:
        partial.rows = rows_of(outcomes)
    partial.sums.update(old.sums)
    partial.sums.update(new.sums)
    partial.sums["facts",] = found.facts
    partial.sums["restricted",] = len(members & question.left_out.restricted)
    partial.sums["objecting",] = len(members & question.left_out.objecting)
    return partial, found.first, last


def backtest(
    history: Iterable[Recorded],
    candidate: Rules,
    baseline: Rules | None = None,
    total: int = 0,
    progress: Progress | None = None,
    left_out: Exclusions = NOBODY,
    **asked: Any,
) -> Backtest:
    """A backtest of a history by the domain's own code: the whole report. `asked`: what else `Question` has."""
    question = Question(candidate, baseline, left_out=left_out, **asked)
    partial, first, last = reference(history, question, total, progress)
    return report_of(question, partial, max(last, total), first.get)


def _known_traits(history: Iterable[Recorded]) -> dict[UUID, Traits]:
    """What was known of each fact's customer when it was recorded."""
    noted: defaultdict[UUID, dict[str, tuple[int, str]]] = defaultdict(dict)
    found: dict[UUID, Traits] = {}
    for _, event in history:
        if isinstance(event, ProfileFact) and event.subject_id is not None:
            note_traits(noted[event.subject_id], event)
        elif event.subject_id is not None and event.subject_id in noted:
            found[event.event_id] = traits_of(noted[event.subject_id])
    return found


def _in_hindsight(history: list[Recorded]) -> Iterator[Recorded]:
    """Facts in the order in which they happened, under rule sets that are known from the beginning; of sweeps, the
    furthest at the end."""
    yield from (one for one in history if isinstance(one.event, RuleSetAdopted))
    swept = [(one.event.until_us, one) for one in history if isinstance(one.event, Swept)]
    facts = [one for one in history if not isinstance(one.event, (RuleSetAdopted, Swept, SweepFinished))]
    yield from sorted(facts, key=lambda one: (one.event.effective_us, one.position))
    if swept:
        yield max(swept, key=lambda one: (one[0], one[1].position))[1]


class _Side:
    """One rule book's side: the accounts, and what balances change by month and what rules give."""

    def __init__(self, side: str, question: Question, rules: Rules | None, months: Sequence[int]) -> None:
        self.side, self._programme, self._months = side, question.programme, months
        self.what_if = WhatIf(question.unfunded if side == SIDES[1] else "reject")
        stamp = Stamp(STAMP.metadata, STAMP.effective_us, STAMP.new_id, what_if=self.what_if)
        self.derivation = Derivation(rules, since_us=question.since_us, stamp=stamp)
        self.sums: Counter[Key] = Counter()

    def noted(self, derived: list[tuple[LoyaltyAccount, list[Event]]]) -> list[tuple[LoyaltyAccount, list[Event]]]:
        """What was derived, counted."""
        for account, decisions in derived:
            for decision in decisions if account.programme == self._programme else ():
                if not isinstance(decision, LoyaltyDecision):
                    continue
                place = bisect_right(self._months, decision.effective_us) - 1
                month = month_name(min(max(place, 0), len(self._months) - 1))
                for _, source, target, points in decision.moves():
                    self.sums["month", month, self.side, source] += -points if source in PLACES else points
                    self.sums["month", month, self.side, target] += -points if target == DEBT else points
        for programme, share in self.what_if.shares:
            for rule in (share.rule.id, share.multiplier):
                if programme == self._programme and rule is not None:
                    self.sums["rule", rule, self.side, "points"] += share.points
                    self.sums["rule", rule, self.side, "times"] += 1
        self.what_if.shares.clear()
        return derived


def differing(
    position: int,
    fact: Event | None,
    old: list[tuple[LoyaltyAccount, list[Event]]],
    new: list[tuple[LoyaltyAccount, list[Event]]],
) -> Iterator[Difference]:
    """The accounts about which either side decides otherwise at a fact; None: time alone brought it up."""
    derived = {account.id: decisions for account, decisions in new}
    for account, decisions in old:
        others = derived.get(account.id, [])
        if [*map(_essence, decisions)] != [*map(_essence, others)]:
            yield Difference(
                account.customer_id,
                account.id,
                position,
                fact.effective_us if fact else (decisions or others)[0].effective_us,
                fact.stored_name if fact else Swept.stored_name,
                tuple(map(describe, decisions)),
                tuple(map(describe, others)),
            )


class _Found:
    """What is found about each account while facts are fed."""

    def __init__(self, question: Question) -> None:
        self.facts = 0
        self.first: dict[UUID, Difference] = {}
        self._question = question
        self._differs: dict[UUID, int] = {}
        self._counts: defaultdict[UUID, Counter[str]] = defaultdict(Counter)
        self._value: Counter[UUID] = Counter()
        self._channels: defaultdict[UUID, Counter[str]] = defaultdict(Counter)

    def note(
        self,
        position: int,
        fact: Event | None,
        old: list[tuple[LoyaltyAccount, list[Event]]],
        new: list[tuple[LoyaltyAccount, list[Event]]],
        short: int | None = None,
    ) -> None:
        """Take in what either side decided about a fact. `short`: the points that a redemption lacked which was
        honoured."""
        if isinstance(fact, PurchaseRecorded) and fact.subject_id is not None:
            candidate = self._question.candidate
            measured = measured_purchase(LoyaltyAccount(fact.subject_id), fact, candidate, NO_TRAITS)
            self._value[fact.subject_id] += 0 if measured is None else sum(measured.amounts)
            self._channels[fact.subject_id][fact.metadata.channel or ""] += 1
        derived = {account.id: decisions for account, decisions in new}
        for account, decisions in old:
            others = derived.pop(account.id, [])
            if decisions == others == []:
                continue
            if isinstance(fact, RedemptionRequested):
                paid = any(isinstance(one, PointsRedeemed) for one in decisions)
                pays = any(isinstance(one, PointsRedeemed) for one in others)
                refused, refuses = (
                    any(isinstance(one, RedemptionRefused) for one in side) for side in (decisions, others)
                )
                counts = self._counts[account.id]
                counts["unfunded"] += paid and (refuses or short is not None)
                counts["short"] += short or 0
                counts["newly_funded"] += pays and refused
        for difference in differing(position, fact, old, new):
            self._differs.setdefault(difference.account_id, position)
            if difference.customer_id is not None:
                self.first.setdefault(difference.customer_id, difference)

    def outcomes(self, old: Derivation, new: Derivation) -> Iterator[Outcome]:
        """What came of each account of the programme."""
        zone = self._question.candidate.zone
        for account_id, then in old.accounts.items():
            now, customer = new.accounts[account_id], then.customer_id
            if then.programme != self._question.programme or customer is None:
                continue
            counts, channels = self._counts[account_id], self._channels[customer]
            yield Outcome(
                account_id,
                customer,
                then.tier or NO_TIER,
                now.tier or NO_TIER,
                _balances(then),
                _balances(now),
                differs=self._differs.get(account_id, 0),
                unfunded=counts["unfunded"],
                newly_funded=counts["newly_funded"],
                short=counts["short"],
                value=self._value[customer],
                joined=civil_from_days(zone.day(then.enrolled_us))[0],
                channel=min(channels, key=lambda name: (-channels[name], name)) if channels else "",
            )


def _balances(account: LoyaltyAccount) -> tuple[int, ...]:
    places = {"pending": account.pending.total, "active": account.active, "held": account.held.total}
    return tuple([places[bucket] if bucket in places else getattr(account, bucket) for bucket in BUCKETS])


def _essence(decision: Event) -> tuple[Any, ...]:
    # Without the rule set's name: the same decision under another name is the same.
    return (
        decision.stored_name,
        decision.effective_us,
        *(getattr(decision, name) for name in decision.clear_fields if name not in ("rules", "rule_ids")),
    )


# ── the report ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Totals:
    """Points of all accounts under one rule book."""

    earned: int = 0
    redeemed: int = 0
    expired: int = 0
    reversed: int = 0
    outstanding: int = 0
    pending: int = 0
    debt: int = 0


def totals_of(sums: Mapping[Key, int], side: str) -> Totals:
    """The points of all accounts on one side."""
    return Totals(**{name: sums.get(("balance", side, bucket), 0) for name, bucket in TOTALS.items()})


@dataclass(frozen=True, slots=True)
class Month:
    """A month under both rule books: points earned, redeemed, expired in it, and those outstanding at its end."""

    month: str
    earned: tuple[int, int]
    redeemed: tuple[int, int]
    expired: tuple[int, int]
    outstanding: tuple[int, int]


@dataclass(frozen=True, slots=True)
class RuleCost:
    """What an earning rule gave, under both rule books; of a multiplier: the points that it multiplied."""

    rule: str
    points: tuple[int, int]
    times: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Class:
    """Accounts of one class, and what changes for them. `outstanding` under both rule books."""

    name: str
    accounts: int
    moved_up: int
    moved_down: int
    gain_points: int
    lose_points: int
    changed: int
    outstanding: tuple[int, int]


ASSUMED = "Customers are assumed to do what they did: behaviour does not change with the rules."


@dataclass(slots=True)
class Backtest:
    """What would change under a candidate.

    `matrix[baseline tier][candidate tier]` counts accounts; `tiers` is their order from low to high. Gains and losses
    count accounts by outstanding points, moves by the order of the candidate's levels (a tier that it lacks counts as
    its first). `changed` counts accounts about which anything is decided otherwise. `unfunded_redemptions` were paid,
    and there is too little for them now; what becomes of them says `unfunded` ("reject", "clamp" or "deficit"), and how
    many points are lacking where they are honoured all the same `short_points`; `newly_funded_redemptions` were refused
    and are paid now. `restricted` and `objecting` count the customers with an account who are left out of scoring.

    `months`, `rules`, `classes` (by value: what they bought, in minor units, the power of ten below it; by joined: the
    year; by channel: that of most of their purchases), `gained`, `lost`: pairs of figures are baseline and candidate.
    Beside what was found: `book` and `root` are the book's name and the root of its log at `position`; `release` and
    `code` are Tallybook's, and the digest of the sources that reckon. `executor`: which code reckoned, and `why`, if
    not the columnar one; `seconds` it took, and `peak_bytes` the most memory that the process has had. `customers`: the
    file that has a row for each account, if it was asked for.
    """

    candidate: str
    baseline: str
    candidate_digest: str = ""
    baseline_digest: str = ""
    unfunded: str = "reject"
    order: str = CANONICAL
    since_us: int | None = None
    position: int = 0
    facts: int = 0
    accounts: int = 0
    tiers: tuple[str, ...] = ()
    matrix: dict[str, dict[str, int]] = field(default_factory=dict)
    moved_up: int = 0
    moved_down: int = 0
    gain_points: int = 0
    lose_points: int = 0
    changed: int = 0
    restricted: int = 0
    objecting: int = 0
    unfunded_redemptions: int = 0
    newly_funded_redemptions: int = 0
    short_points: int = 0
    before: Totals = field(default_factory=Totals)
    after: Totals = field(default_factory=Totals)
    months: tuple[Month, ...] = ()
    rules: tuple[RuleCost, ...] = ()
    classes: dict[str, tuple[Class, ...]] = field(default_factory=dict)
    gained: tuple[Mover, ...] = ()
    lost: tuple[Mover, ...] = ()
    outcomes: str = ""
    """The SHA-256 of what came of each account, in hex."""
    book: str = ""
    root: str = ""
    release: str = ""
    code: str = ""
    executor: str = "reference"
    why: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0
    customers: str = ""
    _explain: Callable[[UUID], Difference | None] = field(default=lambda _: None, repr=False)
    _page: Callable[[Backtest], str] = field(default=lambda _: "", repr=False)

    def digest(self) -> str:
        """SHA-256 of the report in hex: the same rule sets on the same facts give the same, wherever the log ends, and
        whichever executor reckoned."""
        told = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _BESIDE}
        return sha256(json.dumps(_plain(told), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """All of it for machines, with its digest; ids as text."""
        told = {one.name: getattr(self, one.name) for one in fields(self) if not one.name.startswith("_")}
        found: dict[str, Any] = _plain(told)
        return found | {"assumed": ASSUMED, "digest": self.digest()}

    def explain(self, customer_id: UUID) -> Difference | None:
        """The first fact at which the candidate decides otherwise for a customer; None: nowhere."""
        return self._explain(customer_id)

    def html(self) -> str:
        """One page with tables and charts, that needs nothing else."""
        return self._page(self)

    def tables(self) -> dict[str, Table]:
        """The figures as tables: totals, matrix, months, rules, classes, movers."""
        return tables_of(self)

    def frame(self, name: str) -> Any:
        """One of the tables as a `polars.DataFrame`; "customers": the rows of all accounts, if the backtest was asked
        to write them. Raises MissingExtra. Refuses: invalid_argument."""
        return frame_of(self, name)


_BESIDE = (
    "position", "book", "root", "release", "code", "executor", "why", "seconds", "peak_bytes", "customers", "_explain",
    "_page",
)  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, (Totals, Month, RuleCost, Class)):
        return {key: _plain(one) for key, one in asdict(value).items()}
    if isinstance(value, Mover):
        return {key: _plain(one) for key, one in value._asdict().items()}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, UUID) else value


def report_of(
    question: Question,
    partial: Partial,
    position: int,
    explain: Callable[[UUID], Difference | None],
    **beside: Any,
) -> Backtest:
    """The report on all that was found. `beside`: what is known of it beside that, such as `executor`."""
    sums = partial.sums
    baseline = question.baseline
    matrix: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for key, count in sorted(sums.items()):
        if key[0] == "matrix":
            matrix[key[1]][key[2]] = count
    order = question.ranks
    held = set(matrix) | {tier for row in matrix.values() for tier in row}
    before, after = (totals_of(sums, side) for side in SIDES)
    told = "".join(f"{bucket}:{partial.digests[bucket]}\n" for bucket in sorted(partial.digests))
    return Backtest(
        question.candidate.label,
        baseline.label if baseline else "as recorded",
        question.candidate.rule_set.digest(),
        baseline.rule_set.digest() if baseline else "",
        question.unfunded,
        question.order,
        question.since_us,
        position,
        sums["facts",],
        sums["accounts",],
        (*order, *sorted(held - set(order))),
        dict(matrix),
        moved_up=sums["moved_up",],
        moved_down=sums["moved_down",],
        gain_points=sums["gain_points",],
        lose_points=sums["lose_points",],
        changed=sums["changed",],
        restricted=sums["restricted",],
        objecting=sums["objecting",],
        unfunded_redemptions=sums["unfunded",],
        newly_funded_redemptions=sums["newly_funded",],
        short_points=sums["short",],
        before=before,
        after=after,
        months=_months(sums),
        rules=_rules(sums),
        classes=_classes(sums),
        gained=tuple(partial.gained),
        lost=tuple(partial.lost),
        outcomes=sha256(told.encode()).hexdigest(),
        **beside,
        _explain=explain,
    )


def _pair(sums: Mapping[Key, int], *key: str) -> tuple[int, int]:
    """Under both rule books: `key` with a side in the place of the empty one."""
    first, second = (sums.get(tuple(side if part == "" else part for part in key), 0) for side in SIDES)
    return first, second


def _months(sums: Mapping[Key, int]) -> tuple[Month, ...]:
    named = sorted({key[1] for key, value in sums.items() if key[0] == "month" and value})
    if not named:
        return ()
    first, last = (int(name[:4]) * 12 + int(name[5:]) - 1 for name in (named[0], named[-1]))
    found: list[Month] = []
    there = (0, 0)
    for number in range(first, last + 1):
        month = f"{number // 12}-{number % 12 + 1:02}"
        came = _pair(sums, "month", month, "", "active")
        there = there[0] + came[0], there[1] + came[1]
        found.append(
            Month(
                month,
                _pair(sums, "month", month, "", "earned"),
                _pair(sums, "month", month, "", "spent"),
                _pair(sums, "month", month, "", "expired"),
                there,
            )
        )
    return tuple(found)


def _rules(sums: Mapping[Key, int]) -> tuple[RuleCost, ...]:
    named = sorted({key[1] for key, value in sums.items() if key[0] == "rule" and value})
    return tuple(
        RuleCost(rule, *(_pair(sums, "rule", rule, "", what) for what in ("points", "times"))) for rule in named
    )


def _classes(sums: Mapping[Key, int]) -> dict[str, tuple[Class, ...]]:
    named: defaultdict[str, set[str]] = defaultdict(set)
    for key in sums:
        if key[0] == "class":
            named[key[1]].add(key[2])
    counts = ("accounts", "moved_up", "moved_down", "gain_points", "lose_points", "changed")

    def one(dimension: str, name: str) -> Class:
        accounts, up, down, gain, lose, changed = (sums["class", dimension, name, what] for what in counts)
        outstanding = sums["class", dimension, name, "before"], sums["class", dimension, name, "after"]
        return Class(name, accounts, up, down, gain, lose, changed, outstanding)

    return {
        dimension: tuple(
            one(dimension, name)
            for name in sorted(named[dimension], key=lambda name: (len(name) if dimension == "value" else 0, name))
        )
        for dimension in ("value", "joined", "channel")
        if dimension in named
    }
