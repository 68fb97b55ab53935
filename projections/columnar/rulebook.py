"""Rule sets as an array of integers, and what they see of each fact: what `machine` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple
from uuid import UUID

from tallybook.domain.calendar import DAY_US, PERIODS, Zone
from tallybook.domain.control import Control, RuleBook, RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.customer import Traits
from tallybook.domain.earning import Rules, drawn
from tallybook.domain.events import Event
from tallybook.domain.lots import FOR_EVER
from tallybook.domain.loyalty import granted_by
from tallybook.domain.rules import LIMITS, ON, Expiry, Fixed, Multiplier, PerAmount
from tallybook.domain.tiers import DOWNGRADES

from .conditions import Seen, evaluated
from .facts import Facts
from .machine import layout as m
from .machine import tables
from .names import Names
from .native import compiled

Array = Any
TIERS_MAX = 62
"""How many tiers, of all rule sets together, a mask has bits for."""
_WINDOWS = {"rolling": m.ROLLING, "calendar_year": m.CALENDAR_YEAR, "membership_year": m.MEMBERSHIP_YEAR}
_REFUNDS = {"pending_only": m.PENDING_ONLY, "within_balance": m.WITHIN_BALANCE, "debt": m.AS_DEBT}
_LIMITED = {"earn": m.LIMIT_EARN, "redeem": m.LIMIT_REDEEM, "transfer": m.LIMIT_TRANSFER}
_GIVES = {"both": m.BOTH, "points": m.POINTS, "qualifying": m.QUALIFYING}
_FACTS = {"purchase": m.F_PURCHASE, "activity": m.F_ACTIVITY, "enrolment": m.F_ENROLLED, "referral": m.F_REFERRAL}
_NO_ID = UUID(int=0)
SPAN_DAYS, MARGIN_DAYS, DAYS_MAX = 4096, 400, 40_960
"""Tables by day begin and end at multiples of a span, so that they serve other facts, too; they reach some days further
than the facts. Facts that lie too far apart have none."""


class TooManyTiers(ValueError):
    """The columnar executor can't tell so many tiers apart: the reference executor can."""


class Adoptions:
    """Which rule sets of a programme are in force, version by version as they were adopted, and which sweeps ran.

    A candidate takes the place of all that are in force from `since_us` on. In hindsight, the last version is known
    from the beginning.
    """

    def __init__(
        self,
        programme: str,
        control: Iterable[tuple[int, Event]],
        candidate: Rules | None = None,
        *,
        since_us: int | None = None,
        hindsight: bool = False,
    ) -> None:
        since_us = m.LONG_AGO if since_us is None else since_us
        self.programme, self.candidate = programme, candidate
        self.versions: list[tuple[list[tuple[int, Rules]], int]] = []
        self.entries: list[tuple[int, int, int, tuple[UUID, ...]]] = []
        """Position, kind, version or time, accounts that a sweep passed over."""
        state = Control(_NO_ID)
        if candidate is not None:
            state.rule_book = RuleBook().adding(since_us, programme, candidate)
        self._add(state.rule_book)
        for position, event in control:
            if isinstance(event, RuleSetAdopted):
                if event.programme == programme and (candidate is None or event.effective_us < since_us):
                    state.apply(event)
                    self._add(state.rule_book)
                    self.entries.append((position, m.RULES_ADOPTED, len(self.versions) - 1, ()))
            elif isinstance(event, Swept):
                self.entries.append((position, m.SWEEP_BEGUN, event.until_us, ()))
            elif isinstance(event, SweepFinished):
                self.entries.append((position, m.SWEEP_ENDED, 0, event.passed_over))
        if hindsight:
            # All is known from the beginning, and the furthest sweep comes last.
            swept = [entry for entry in self.entries if entry[1] == m.SWEEP_BEGUN]
            self.versions = self.versions[-1:]
            self.entries = [(m.END - 1, *max(swept, key=lambda entry: entry[2])[1:])] if swept else []

    def _add(self, book: RuleBook) -> None:
        self.versions.append((book.in_order(self.programme), book.count(self.programme)))

    def rules(self) -> list[Rules]:
        """The rule sets, each once."""
        found: dict[int, Rules] = {}
        for adoptions, _ in self.versions:
            for _, rules in adoptions:
                found.setdefault(id(rules), rules)
        return list(found.values())


class _Kept(NamedTuple):
    """The array of a book, as it goes with facts of some days whose customers have some traits; and its words that say
    where a column of facts begins, each with the column."""

    traits: Sequence[Traits]
    days: tuple[int, int] | None
    words: Array
    columns: list[tuple[int, int]]


class _Tables:
    """Arrays that stand one after another behind so many words."""

    def __init__(self, words: int) -> None:
        self.arrays: list[Array] = []
        self._end = words

    def add(self, array: Array) -> int:
        """Where the next one begins, which this becomes."""
        self.arrays.append(array)
        self._end += len(array)
        return self._end - len(array)


class Book:
    """The rule sets of a programme as integers."""

    def __init__(self, adoptions: Adoptions, names: Names) -> None:
        self.programme = adoptions.programme
        self.names = names
        self.rules = adoptions.rules()
        self._words: list[int] = [0] * m.BOOK
        self._adoptions = adoptions
        self.slots: dict[tuple[str, str], int] = {}
        """Counter and period → slot."""
        self.x: list[str] = []
        """The columns of facts: which kind each is of."""
        self.y = 0
        """How many columns there are of items."""
        self._at: dict[int, int] = {}
        self._expiries: list[tuple[Zone, int]] = []
        self.tallied: dict[str, int] = {}
        """The rules, each by its place in what is counted by rule."""
        for rules in self.rules:
            for level in rules.rule_set.tiers.levels:
                names.tier(level.name)
        self.tiers = len(names.tiers)
        """How many tiers its accounts may be in: others may be named later, by other books."""
        for rules in self.rules:
            self._at[id(rules)] = self._add([0] * m.RULE_SET)
        for rules in self.rules:
            self._fill(rules, self._at[id(rules)])
        self._versions()
        self._kept: _Kept | None = None
        self.traits: tuple[Sequence[Traits], dict[str, Array]] = (), {}
        """What is known of customers, and what conditions read of it, by their fields' names."""

    @property
    def sees(self) -> object:
        """What `seen` depends on: books that have the same see the same."""
        return (
            self.tiers,
            tuple(self.names.tiers),
            tuple(
                (
                    rules.zone,
                    tuple(rules.rates.items()),
                    rules.rounding,
                    rules.rule_set.amount.include,
                    tuple((path, str(condition)) for path, condition in rules.conditions.items()),
                    tuple(_seen_of(rule) for rule in rules.rule_set.earning),
                )
                for rules in self.rules
            ),
        )

    @property
    def has_candidate(self) -> bool:
        """Whether a rule set is tried that was not recorded."""
        return self._adoptions.candidate is not None

    @property
    def grants(self) -> list[tuple[str, str]]:
        """The tiers that grant coupons, each with what."""
        levels = (level for rules in self.rules for level in rules.rule_set.tiers.levels)
        return list(dict.fromkeys((level.name, reward) for level in levels for reward in level.grants))

    # ── putting together ────────────────────────────────────────────────────────────────────────────────────────

    def _add(self, words: Sequence[int]) -> int:
        at = len(self._words)
        self._words.extend(words)
        return at

    def _versions(self) -> None:
        table = self._add([0] * (m.VERSION * len(self._adoptions.versions)))
        self._words[m.B_VERSION0] = table
        for number, (adoptions, count) in enumerate(self._adoptions.versions):
            first = self._add([word for at_us, rules in adoptions for word in (at_us, self._at[id(rules)])])
            self._words[table + m.VERSION * number : table + m.VERSION * (number + 1)] = [first, len(adoptions), count]

    def _fill(self, rules: Rules, at: int) -> None:
        names, rule_set, words = self.names, rules.rule_set, self._words
        tiers = rule_set.tiers
        expiries: dict[tuple[int, ...], int] = {}

        def expiry(one: Expiry) -> int:
            form = (*one.form, int(one.counted_from == "activated"), 0)
            if form not in expiries:
                expiries[form] = self._add(form)
                self._expiries.append((rules.zone, expiries[form]))
            return expiries[form]

        rewards = [
            [
                names.text(reward.id),
                reward.price,
                self._add([names.tier(tier) for tier in reward.tiers]),
                len(reward.tiers),
                self._add([names.text(segment) for segment in reward.segments]),
                len(reward.segments),
                int(reward.counted),
                -1 if reward.coupon_days is None else reward.coupon_days,
                int(reward.voided == "forfeited"),
            ]
            for reward in rule_set.rewards
        ]
        reward0 = self._add([word for reward in rewards for word in reward])
        place_of = {reward.id: reward0 + m.REWARD * place for place, reward in enumerate(rule_set.rewards)}
        levels = [
            [
                names.tier(level.name),
                names.text(granted_by(level.name)),
                self._add([place_of[reward] for reward in level.grants]),
                len(level.grants),
            ]
            for level in tiers.levels
        ]
        limits = [
            [
                _LIMITED[limit.on],
                PERIODS[limit.period],
                names.text(limit.period),
                -1 if limit.count is None else limit.count,
                -1 if limit.points is None else limit.points,
                self._slot(f"{LIMITS}{limit.on}:times", limit.period),
                self._slot(f"{LIMITS}{limit.on}:points", limit.period),
                names.text(f"{LIMITS}{limit.on}:times"),
                names.text(f"{LIMITS}{limit.on}:points"),
            ]
            for limit in rule_set.limits
        ]
        ranks = [-1] * (max(names.tiers.values()) + 1)
        for place, level in enumerate(tiers.levels):
            ranks[names.tier(level.name)] = place
        multipliers = [rule.id for rule in rule_set.earning if isinstance(rule, Multiplier)]
        level_names = [None, *(level.name for level in tiers.levels)]
        factors = [rules.factor(by, level) for by in (None, *multipliers) for level in level_names]
        zone = self._zone(rules.zone)
        fields = {
            m.RS_LABEL: names.text(rules.label),
            m.RS_ROUNDING: rules.rounding,
            m.RS_OF_BASE: int(tiers.qualify == "base"),
            m.RS_LEVEL0: self._add([word for level in levels for word in level]),
            m.RS_LEVELS: len(levels),
            m.RS_THRESHOLD0: self._add(
                [level.threshold for level in tiers.levels] + [level.keeps for level in tiers.levels]
            ),
            m.RS_WINDOW: _WINDOWS.get(tiers.window, m.LIFETIME),
            m.RS_MONTHS: -1 if tiers.window_months is None else tiers.window_months,
            m.RS_BALANCE: int(tiers.basis == "balance"),
            m.RS_DOWNGRADE: DOWNGRADES[tiers.downgrade],
            m.RS_GRACE: tiers.grace_days,
            m.RS_HOLD: tiers.hold_months,
            m.RS_REFUND: _REFUNDS[rule_set.refunds.earning],
            m.RS_NEW_LOT: int(rule_set.refunds.redemption == "new_lot"),
            m.RS_TRANSFERS: int(rule_set.transfers.allowed),
            m.RS_KEEP_AGES: int(rule_set.transfers.keep_ages),
            m.RS_INACTIVE: -1 if rule_set.inactivity_months is None else rule_set.inactivity_months,
            m.RS_EXPIRY: expiry(rule_set.expiry),
            m.RS_REWARD0: reward0,
            m.RS_REWARDS: len(rewards),
            m.RS_LIMIT0: self._add([word for limit in limits for word in limit]),
            m.RS_LIMITS: len(limits),
            m.RS_ZONE0: zone,
            m.RS_ZONES: len(rules.zone.starts_us),
            m.RS_RANK0: self._add(ranks),
            m.RS_RANKS: len(ranks),
            m.RS_FACTOR0: self._add([word for one in factors for word in (one.numerator, one.denominator)]),
            m.RS_X: self._columns_x("purchase", 3),
            m.RS_Y: self._columns_y(2),
        }
        for field, value in fields.items():
            words[at + field] = value
        of_kind: dict[str, list[int]] = {on: [] for on in ON}
        for place, rule in enumerate(rule_set.earning):
            factor = multipliers.index(rule.id) + 1 if isinstance(rule, Multiplier) else 0
            row = self._rule(rules, place, factor, fields[m.RS_X])
            row[m.E_EXPIRY] = expiry(
                rule_set.expiry if isinstance(rule, Multiplier) else rule.expiry or rule_set.expiry
            )
            of_kind[rule.on] += row
        for number, on in enumerate(ON):
            first = self._add(of_kind[on])
            words[at + m.RS_RULES + 2 * number : at + m.RS_RULES + 2 * number + 2] = [first, first + len(of_kind[on])]
        words[at + m.RS_PLAIN] = self._plain(rules, words[at + m.RS_RULES + 2 * m.ON_PURCHASE])
        words[at + m.RS_SLOTS] = 0  # set when all are known

    def _plain(self, rules: Rules, first: int) -> int:
        """Where the one rule stands that gives points for purchases, at once; 0: there is not one. The rules about
        purchases stand from `first` on."""
        of_purchases = [rule for rule in rules.rule_set.earning if rule.on == "purchase"]
        giving = [place for place, rule in enumerate(of_purchases) if not isinstance(rule, Multiplier)]
        if len(giving) != 1 or any(limit.on == "earn" for limit in rules.rule_set.limits):
            return 0
        row = first + m.RULE * giving[0]
        words = self._words[row : row + m.RULE]
        plain = words[m.E_KIND] != m.FIXED and words[m.E_PENDING] == 0 and words[m.E_CAPS] <= 1
        return row if plain else 0

    def _rule(self, rules: Rules, place: int, factor: int, x0: int) -> list[int]:
        rule, names = rules.rule_set.earning[place], self.names
        row = [0] * m.RULE
        row[m.E_CODE] = names.text(rule.id)
        row[m.E_TALLY] = self.tallied.setdefault(rule.id, len(self.tallied))
        row[m.E_FACTOR] = factor
        row[m.E_GROUP] = row[m.E_PICKS] = -1
        conditional = rule.when is not None or rule.dated or (not isinstance(rule, Multiplier) and rule.control_percent)
        row[m.E_MASK] = self._columns_x(rule.on, 1) if conditional else -1
        row[m.E_MEASURED] = -1
        if isinstance(rule, Multiplier):
            row[m.E_KIND] = m.MULTIPLIER
            row[m.E_NUMERATOR], row[m.E_DENOMINATOR] = rule.factor.numerator, rule.factor.denominator
            return row
        row[m.E_POINTS] = rule.points
        row[m.E_GIVES] = _GIVES[rule.gives]
        if rule.group is not None:
            row[m.E_GROUP] = names.text(rule.group)
            row[m.E_BEST] = int(rules.rule_set.groups[rule.group] == "best")
        row[m.E_MULTIPLIED] = int(rule.multiplied)
        pending = rule.pending or rules.rule_set.pending
        row[m.E_PENDING] = 0 if pending is None else -1 if pending.days is None else pending.days
        caps = [
            [self._slot(counter, period), PERIODS.get(period, -1), most, names.text(counter), names.text(period)]
            for counter, period, most in rules.caps_of(rule.id)
        ]
        row[m.E_CAP0] = self._add([word for cap in caps for word in cap])
        row[m.E_CAPS] = len(caps)
        if isinstance(rule, Fixed):
            row[m.E_KIND] = m.FIXED
            return row
        row[m.E_KIND] = m.PER_PIECE if rule.per_minor is None else m.PER_AMOUNT
        row[m.E_PER] = rule.per
        by_tier = rule.lines is not None and "account.tier" in rules.conditions[f"earning.{place}.lines"].fields()
        row[m.E_WHOLE] = int(rule.whole) | (2 if by_tier else 0)
        if rule.on == "purchase":
            row[m.E_MEASURED] = x0 + (1 if rule.per_minor is not None else 2)
        if rule.lines is not None:
            row[m.E_PICKS] = self._columns_y(1)
            row[m.E_MEASURED] = self._columns_x(rule.on, self.tiers + 1 if by_tier else 1)
        return row

    def _slot(self, counter: str, period: str) -> int:
        return self.slots.setdefault((counter, period), len(self.slots))

    def _columns_x(self, on: str, count: int) -> int:
        self.x += [on] * count
        return len(self.x) - count

    def _columns_y(self, count: int) -> int:
        self.y += count
        return self.y - count

    def _zone(self, zone: Zone) -> int:
        return self._add([*zone.starts_us, *zone.offsets_s, *zone.turns_us])

    # ── for some facts ──────────────────────────────────────────────────────────────────────────────────────────

    def words(self, facts: Facts) -> tuple[Array, dict[int, int]]:
        """The array, as it goes with some facts: with what decisions name of customers, and the accounts that sweeps
        passed over; it is the same for others like them. And what of its words is of these facts alone."""
        if len(self.names.tiers) > TIERS_MAX:
            raise TooManyTiers(f"{len(self.names.tiers)} tiers are named, and {TIERS_MAX} can be told apart.")
        days, kept = _days_of(facts), self._kept
        if kept is None or kept.traits is not facts.traits or kept.days != days or self._passes:
            kept = self._kept = self._made(facts, days)
        offsets = self._offsets(facts)
        own = {at: offsets[column] for at, column in kept.columns}
        return kept.words, own | {m.B_PURCHASES: len(facts.earning[m.F_PURCHASE])}

    def _made(self, facts: Facts, days: tuple[int, int] | None) -> _Kept:
        """The array, but for where the columns of facts begin."""
        import numpy as np

        words = self._words.copy()
        place_of = {stream: place for place, (stream, _, _) in enumerate(facts.accounts)} if self._passes else {}
        rows: list[int] = []
        passed: list[int] = []
        for position, kind, value, passed_over in self._adoptions.entries:
            there = [place_of[stream] for stream in passed_over if stream in place_of]
            rows += [position, kind, value, len(passed), len(there)]
            passed += there
        passed0 = len(words)
        words += passed
        for row in range(0, len(rows), m.CONTROL):
            rows[row + m.CONTROL_PASSED0] += passed0
        words[m.B_CONTROL0], words[m.B_CONTROLS] = len(words), len(rows) // m.CONTROL
        words += rows
        columns: list[tuple[int, int]] = []
        tables = _Tables(len(words))
        for rules in self.rules:
            at = self._at[id(rules)]
            words[at + m.RS_SLOTS] = len(self.slots)
            words[at + m.RS_INPUT0] = self._inputs(tables, rules, facts.traits)
            columns.append((at + m.RS_X, words[at + m.RS_X]))
            for rule in range(words[at + m.RS_RULES], words[at + m.RS_RULES + 7], m.RULE):
                fields = (rule + field for field in (m.E_MASK, m.E_MEASURED))
                columns += ((field, words[field]) for field in fields if words[field] >= 0)
        if days is not None:
            self._days(words, tables, *days)
        return _Kept(facts.traits, days, np.concatenate((np.array(words, np.int64), *tables.arrays)), columns)

    @property
    def _passes(self) -> bool:
        """Whether a sweep passed accounts over."""
        return any(passed_over for _, _, _, passed_over in self._adoptions.entries)

    def _days(self, words: list[int], tables: _Tables, first: int, last: int) -> None:
        """What calendars say of each of some days."""
        known: dict[tuple[Any, ...], int] = {}

        def table(made: Callable[..., Array], *of: Any) -> int:
            if (made, *of) not in known:
                known[made, *of] = tables.add(made(*of, first, last - first))
            return known[made, *of]

        calendars: dict[tuple[Zone, int | None], int] = {}
        for rules in self.rules:
            at, months = self._at[id(rules)], words[self._at[id(rules)] + m.RS_MONTHS]
            words[at + m.RS_DAY0], words[at + m.RS_DAYS] = first, last - first
            words[at + m.RS_OFFSETS] = table(_offsets, rules.zone)
            words[at + m.RS_MONTH_NUMBERS] = table(_months)
            for field, count in ((m.RS_LEAVING, m.RS_MONTHS), (m.RS_HELD, m.RS_HOLD), (m.RS_IDLE, m.RS_INACTIVE)):
                if words[at + count] >= 0:
                    words[at + field] = table(_midnights, rules.zone, words[at + count])
            words[at + m.RS_CALENDAR] = calendars.setdefault((rules.zone, months), len(calendars) + 1)
        for zone, expiry in self._expiries:
            unit, count, until = words[expiry : expiry + 3]
            if unit != FOR_EVER:
                words[expiry + m.X_TABLE] = table(_ends, zone, unit, count, until)

    def _inputs(self, tables: _Tables, rules: Rules, traits: Sequence[Traits]) -> int:
        """For each kind of fact and each customer's traits, where the texts stand that decisions name them by, and how
        many there are. How many traits there are stands before."""
        import numpy as np

        table = np.zeros(1 + 2 * len(ON) * len(traits), np.int64)
        table[0] = len(traits)
        of_kinds = table[1:].reshape(len(ON), len(traits), 2)
        for on, into in zip(ON, of_kinds, strict=True):
            read = [name for name in rules.layouts[on].fact if name.startswith("customer.")]
            if read:
                texts = [f"{name}={getattr(one, name.partition('.')[2])}" for one in traits for name in read]
                first = tables.add(np.array([*map(self.names.text, texts)], np.int64))
                into[:, 0] = first + len(read) * np.arange(len(traits))
                into[:, 1] = len(read)
        return tables.add(table) + 1

    def seen(self, facts: Facts, *, silent: bool = False) -> tuple[Array, Array]:
        """What the rule sets see of facts, a column after the other, and of their items; where a run is `silent`, of
        those alone that come back."""
        import numpy as np

        offsets = self._offsets(facts)
        x = np.zeros(offsets[-1] or 1, np.int64)
        columns = [x[first:last] for first, last in pairwise(offsets)]
        y = (np.empty if silent else np.zeros)((len(facts.items), max(self.y, 1)), np.int64)
        for rules in self.rules:
            for number, on in enumerate(ON):
                places = self._rules_of(rules, number)
                if len(facts.earning[_FACTS[on]]) and (places or on == "purchase"):
                    _See(self, rules, facts, on, places, silent).into(columns, y, self._at[id(rules)])
        return x, y

    def _offsets(self, facts: Facts) -> list[int]:
        """Where each column of facts begins, and where the last one ends."""
        sizes = {on: len(facts.earning[kind]) for on, kind in _FACTS.items()}
        return [0, *accumulate(sizes[on] for on in self.x)]

    def amounts(self, facts: Facts, x: Array) -> Array:
        """What each purchase comes to under the candidate; 0 where its currency has no rate."""
        import numpy as np

        first = self._offsets(facts)[self._words[self._at[id(self._adoptions.candidate)] + m.RS_X]]
        count = len(facts.earning[m.F_PURCHASE])
        return np.where(x[first : first + count] != 0, x[first + count : first + 2 * count], 0)

    def word(self, at: int) -> int:
        """A word of the array that no facts change."""
        return self._words[at]

    def _rules_of(self, rules: Rules, number: int) -> Mapping[int, int]:
        """Where the rules about a kind of fact stand: by their place in the rule set."""
        first = self._words[self._at[id(rules)] + m.RS_RULES + 2 * number]
        places = [place for place, rule in enumerate(rules.rule_set.earning) if rule.on == ON[number]]
        return {place: first + m.RULE * index for index, place in enumerate(places)}


def _days_of(facts: Facts) -> tuple[int, int] | None:
    """The days that tables for some facts begin and end with; None: they have none."""
    if not len(facts):
        return None
    first = (int(facts.at_us.min()) // DAY_US - MARGIN_DAYS) // SPAN_DAYS * SPAN_DAYS
    last = -((-int(facts.at_us.max()) // DAY_US - MARGIN_DAYS) // SPAN_DAYS) * SPAN_DAYS
    return None if last - first > DAYS_MAX else (first, last)


def _arrays(zone: Zone) -> tuple[Array, Array, Array]:
    import numpy as np

    starts, offsets, turns = (np.array(one, np.int64) for one in (zone.starts_us, zone.offsets_s, zone.turns_us))
    return starts, offsets, turns


def _table(days: int) -> Array:
    import numpy as np

    return np.zeros(days, np.int64)


@lru_cache(maxsize=16)
def _months(first: int, days: int) -> Array:
    into = _table(days)
    compiled(tables.months_by_day)(first, into)
    return into


@lru_cache(maxsize=64)
def _offsets(zone: Zone, first: int, days: int) -> Array:
    starts, offsets, _ = _arrays(zone)
    into = _table(days)
    compiled(tables.offsets_by_day)(starts, offsets, first, into)
    return into


@lru_cache(maxsize=64)
def _midnights(zone: Zone, months: int, first: int, days: int) -> Array:
    into = _table(days)
    compiled(tables.midnights_by_day)(*_arrays(zone), _offsets(zone, first, days), first, months, into)
    return into


@lru_cache(maxsize=64)
def _ends(zone: Zone, unit: int, count: int, until: int, first: int, days: int) -> Array:
    into = _table(days)
    compiled(tables.ends_by_day)(*_arrays(zone), _offsets(zone, first, days), first, unit, count, until, into)
    return into


def _seen_of(rule: PerAmount | Fixed | Multiplier) -> tuple[object, ...]:
    """What of a rule the columns depend on."""
    if isinstance(rule, Multiplier):
        return rule.on, rule.days
    by_piece = isinstance(rule, PerAmount) and rule.per_minor is None
    return rule.on, rule.days, isinstance(rule, Fixed), by_piece, rule.control_percent, rule.campaign


def years_of(zone: Zone, times: Array) -> Array:
    """The local year of each time."""
    import numpy as np

    into = np.zeros((len(times), 5), np.int64)
    compiled(tables.civil)(*_arrays(zone)[:2], np.ascontiguousarray(times), into)
    return into[:, 1]


BLOCK = 16_384
"""What the rule sets see is reckoned for so many facts at a time."""


class _Block:
    """Some of the facts of one kind: their rows, and their lines."""

    def __init__(self, facts: Facts, rows: Array) -> None:
        self.facts, self.rows = facts, rows

    @cached_property
    def first(self) -> Array:
        """Where the lines of each fact begin among those of all of them."""
        import numpy as np

        counts = self.facts.item[self.rows + 1] - self.facts.item[self.rows]
        return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))

    @cached_property
    def fact_of(self) -> Array:
        """The place of each line's fact."""
        import numpy as np

        return np.repeat(np.arange(len(self.rows)), np.diff(self.first))

    @cached_property
    def items(self) -> Array:
        """The place of each line among all items."""
        import numpy as np

        return np.arange(self.first[-1]) + (self.facts.item[self.rows] - self.first[:-1])[self.fact_of]

    @cached_property
    def customers(self) -> Array:
        """The place of the customer of each fact."""
        import numpy as np

        return np.searchsorted(self.facts.first, self.rows, side="right") - 1

    def sums(self, values: Array) -> Array:
        """By fact, of values of its lines."""
        import numpy as np

        sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))
        return sums[self.first[1:]] - sums[self.first[:-1]]


class _See:
    """What one rule set sees of the facts of one kind."""

    def __init__(
        self, book: Book, rules: Rules, facts: Facts, on: str, places: Mapping[int, int], silent: bool
    ) -> None:
        self.book, self.rules, self.facts, self.on, self.places, self.silent = book, rules, facts, on, places, silent
        self.conditions = rules.conditions
        self.fields = {name for path in self._paths for name in self.conditions[path].fields()}
        self._cohorts: dict[str, Array] = {}

    @cached_property
    def _traits(self) -> Mapping[str, Array]:
        """What conditions read of customers, by their fields' names: of each of the facts' traits."""
        import numpy as np

        traits, known = self.book.traits
        if traits is not self.facts.traits:
            traits, known = self.book.traits = self.facts.traits, {}
        for name in self.fields - known.keys():
            scope, _, part = name.partition(".")
            if scope == "customer":
                values = [getattr(one, part) for one in traits]
                codes = [self.book.names.text(v) if isinstance(v, str) else v for v in values]
                known[name] = np.array(codes, np.int64)
        return {name: known[name] for name in self.fields & known.keys()}

    @cached_property
    def _paths(self) -> list[str]:
        """The conditions that are evaluated."""
        found = [f"earning.{place}.{part}" for place in self.places for part in ("when", "lines")]
        return [path for path in [*found, "amount.exclude"] if path in self.conditions]

    def into(self, columns: Sequence[Array], y: Array, at: int) -> None:
        """Fill the columns of these facts, some of them at a time: what is reckoned of those stays near."""
        rows = self.facts.earning[_FACTS[self.on]]
        for first in range(0, len(rows), BLOCK):
            block = _Block(self.facts, rows[first : first + BLOCK])
            self._block_into([column[first : first + BLOCK] for column in columns], y, at, block)

    def _block_into(self, columns: Sequence[Array], y: Array, at: int, block: _Block) -> None:
        import numpy as np

        rows, facts, rules, book = block.rows, self.facts, self.rules, self.book
        of_facts: dict[str, Array] = {}
        of_lines: dict[str, Array] = {}
        amounts = pieces = np.zeros(0, np.int64)
        if self.on == "purchase":
            x0 = book.word(at + m.RS_X)
            of_facts, of_lines, amounts, pieces = self._purchases(
                columns[x0 : x0 + 3], y, book.word(at + m.RS_Y), block
            )
        if self.on == "activity" and self.fields:
            slots = facts.slots[rows]
            of_facts |= {
                "activity.quantity": slots[:, 0],
                "activity.code": slots[:, 1],
                "activity.partner": slots[:, 2],
            }
        elif self.on == "referral" and self.fields:
            slots = facts.slots[rows]
            of_facts |= {
                "referral.number": slots[:, 0],
                "referral.occasion": slots[:, 1],
                "referral.role": slots[:, 2],
            }
        days = self._times(of_facts, block)
        for place, rule_at in self.places.items():
            rule = rules.rule_set.earning[place]
            column = book.word(rule_at + m.E_MASK)
            if column >= 0:
                mask = self._mask(f"earning.{place}.when", of_facts, of_lines, block, of_lines_too=False)
                first_day, last_day = rule.days
                if rule.dated:
                    mask = np.where((first_day <= days) & (days <= last_day), mask, 0)
                if not isinstance(rule, Multiplier) and rule.control_percent:
                    controls = self._drawn(rule.campaign or "") < rule.control_percent
                    mask = np.where(controls[block.customers], 0, mask)
                columns[column][:] = mask
            if not isinstance(rule, PerAmount) or rule.lines is None:
                continue
            weights = amounts if rule.per_minor is not None else pieces
            picks = self._mask(f"earning.{place}.lines", of_facts, of_lines, block, of_lines_too=True)
            y[block.items, book.word(rule_at + m.E_PICKS)] = picks
            measured = book.word(rule_at + m.E_MEASURED)
            for bit in range(book.tiers + 1 if book.word(rule_at + m.E_WHOLE) & 2 else 1):
                columns[measured + bit][:] = block.sums(np.where(picks >> bit & 1, weights, 0))

    def _mask(
        self,
        path: str,
        of_facts: Mapping[str, Array],
        of_lines: Mapping[str, Array],
        block: _Block,
        *,
        of_lines_too: bool,
    ) -> Array:
        """In which tiers a condition holds, as bits: the first is that of no tier."""
        import numpy as np

        condition = self.conditions.get(path)
        if condition is None:
            return np.int64(-1)
        count = len(block.items) if of_lines_too else len(block.rows)

        def holds(tier: str) -> Array:
            code = self.book.names.text
            facts = {**of_facts, "account.tier": np.int64(code(tier))}
            seen = Seen(facts, of_lines, block.first, block.fact_of, code)
            return np.broadcast_to(evaluated(condition.tree, seen, of_lines=of_lines_too), count)

        if "account.tier" not in condition.fields():
            return np.where(holds(""), np.int64(-1), np.int64(0))
        mask = np.zeros(count, np.int64)
        for bit, tier in enumerate(("", *self.book.names.tiers)):
            mask |= np.where(holds(tier), np.int64(1 << bit), np.int64(0))
        return mask

    def _read(self, columns: Mapping[str, Callable[[], Array]]) -> dict[str, Array]:
        """Those that a condition reads."""
        return {name: made() for name, made in columns.items() if name in self.fields}

    def _drawn(self, campaign: str) -> Array:
        """The part of all accounts that each customer's is in, for a campaign."""
        import numpy as np

        if campaign in self._cohorts:
            return self._cohorts[campaign]
        found = self._cohorts[campaign] = np.full(len(self.facts.customers), 100)
        places, customers = self.facts.members(self.book.programme)
        first = self.facts.account_ids()[places, :4].copy().view(">u4").ravel().astype(np.int64)
        found[customers] = drawn(first, campaign)
        return found

    def _times(self, of_facts: dict[str, Array], block: _Block) -> Array:
        """Fields of time, of the customer and of the account; the local day of each fact, where it is needed."""
        import numpy as np

        facts, rows = self.facts, block.rows
        trait = facts.trait[rows]
        of_facts |= {name: values[trait] for name, values in self._traits.items()}
        if "fact.channel" in self.fields:
            of_facts["fact.channel"] = facts.channel[rows].astype(np.int64)
        timed = any(self.rules.rule_set.earning[place].dated for place in self.places)
        if not timed and not any(name.startswith(("fact.", "account.member")) for name in self.fields):
            return np.zeros(len(rows), np.int64)
        civil = self._civil(facts.at_us[rows])
        of_facts |= {
            "fact.year": civil[:, 1],
            "fact.month": civil[:, 2],
            "fact.day": civil[:, 3],
            "fact.weekday": civil[:, 4],
        }
        if "account.member_days" in self.fields:
            of_facts["account.member_days"] = np.maximum(0, civil[:, 0] - self._joined[block.customers])
        return civil[:, 0]

    @cached_property
    def _joined(self) -> Array:
        """The local day on which each customer joined the programme."""
        import numpy as np

        facts = self.facts
        joined = np.zeros(len(facts.customers), np.int64)
        places, customers = facts.members(self.book.programme)
        customer_of = np.full(len(facts.accounts), -1)
        customer_of[places] = customers
        enrolled = facts.earning[m.F_ENROLLED]
        of = customer_of[facts.account[enrolled]]
        joined[of[of >= 0]] = self._civil(facts.at_us[enrolled])[of >= 0, 0]
        return joined

    def _civil(self, times: Array) -> Array:
        import numpy as np

        into = np.zeros((len(times), 5), np.int64)
        zone = self.rules.zone
        arrays = (np.array(zone.starts_us, np.int64), np.array(zone.offsets_s, np.int64))
        compiled(tables.civil)(*arrays, np.ascontiguousarray(times), into)
        return into

    def _purchases(
        self, columns: Sequence[Array], y: Array, column: int, block: _Block
    ) -> tuple[dict[str, Array], dict[str, Array], Array, Array]:
        """Of purchases: fields of orders, of lines, what counts of each line. Fills `columns`: by what lines weigh, and
        the sums of amounts and of pieces."""
        import numpy as np

        facts, rows, rules, names = self.facts, block.rows, self.rules, self.book.names
        include = rules.rule_set.amount.include
        rates = [(names.text(code), numerator, denominator) for code, (numerator, denominator) in rules.rates.items()]
        codes, numerators, denominators = (np.array(one, np.int64) for one in zip(*rates, strict=True))
        flags = int("tax" in include), int("shipping" in include), int("net" in include)
        items, none = facts.items.T, np.zeros(0, np.int64)
        if not self._paths:
            compiled(tables.weigh_lines)(
                rows, facts.item, items, facts.slots.T, codes, numerators, denominators, rules.rounding,
                *flags, facts.lined, int(not self.silent), y, column, *columns,
            )  # fmt: skip
            return {}, {}, none, none
        currency = np.ascontiguousarray(facts.slots[rows, 0])
        lines = int((facts.item[rows + 1] - facts.item[rows]).sum())
        known = np.zeros(len(rows), np.int64)
        net, amounts, pieces = (np.zeros(lines, np.int64) for _ in range(3))
        compiled(tables.rate_lines)(
            rows, facts.item, items, currency, codes, numerators, denominators, rules.rounding, *flags, known, net,
            amounts, pieces,
        )  # fmt: skip
        of_lines = self._read(
            {
                "line.sku": lambda: items[4, block.items],
                "line.category": lambda: items[5, block.items],
                "line.quantity": lambda: items[1, block.items],
                "line.net_minor": lambda: net,
            }
        )
        exclude = self.conditions.get("amount.exclude")
        if exclude is not None:
            seen = Seen({}, of_lines, block.first, block.fact_of, names.text)
            out = np.broadcast_to(evaluated(exclude.tree, seen, of_lines=True), lines)
            amounts, pieces = np.where(out, 0, amounts), np.where(out, 0, pieces)
        compiled(tables.sum_lines)(rows, facts.item, known, amounts, pieces, y, column, *columns)
        of_facts = self._read(
            {
                "order.net_minor": lambda: block.sums(net),
                "order.amount_minor": lambda: columns[1],
                "order.quantity": lambda: block.sums(items[1, block.items]),
                "order.currency": lambda: currency,
                "order.store": lambda: facts.slots[rows, 1],
            }
        )
        return of_facts, of_lines, amounts, pieces
