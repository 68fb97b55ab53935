"""Rule sets as an array of integers, and what they see of each fact: what `machine` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from tallybook.domain.calendar import DAY_US, PERIODS, Zone
from tallybook.domain.control import Control, RuleBook, RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.customer import Traits
from tallybook.domain.earning import Rules, cohort
from tallybook.domain.events import Event
from tallybook.domain.lots import FOR_EVER
from tallybook.domain.loyalty import granted_by
from tallybook.domain.rules import LIMITS, ON, Expiry, Fixed, Multiplier, PerAmount
from tallybook.domain.tiers import DOWNGRADES

from . import machine as m
from .compiling import compiled
from .conditions import Seen, evaluated
from .facts import Facts
from .names import Names

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
    """Which rule sets of a programme are in force, version by version as they were adopted, and which sweeps ran."""

    def __init__(self, programme: str, control: Iterable[tuple[int, Event]], candidate: Rules | None = None) -> None:
        self.programme = programme
        self.versions: list[tuple[list[tuple[int, Rules]], int]] = []
        self.entries: list[tuple[int, int, int, tuple[UUID, ...]]] = []
        """Position, kind, version or time, accounts that a sweep passed over."""
        state = Control(_NO_ID)
        if candidate is not None:
            state.rule_book = RuleBook().adding(m.LONG_AGO, programme, candidate)
        self._add(state.rule_book)
        for position, event in control:
            if isinstance(event, RuleSetAdopted):
                if event.programme == programme and candidate is None:
                    state.apply(event)
                    self._add(state.rule_book)
                    self.entries.append((position, m.RULES_ADOPTED, len(self.versions) - 1, ()))
            elif isinstance(event, Swept):
                self.entries.append((position, m.SWEEP_BEGUN, event.until_us, ()))
            elif isinstance(event, SweepFinished):
                self.entries.append((position, m.SWEEP_ENDED, 0, event.passed_over))

    def _add(self, book: RuleBook) -> None:
        self.versions.append((book.in_order(self.programme), book.count(self.programme)))

    def rules(self) -> list[Rules]:
        """The rule sets, each once."""
        found: dict[int, Rules] = {}
        for adoptions, _ in self.versions:
            for _, rules in adoptions:
                found.setdefault(id(rules), rules)
        return list(found.values())


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
        self.x = self.y = 0
        """How many columns `seen` has, of facts and of items."""
        self._at: dict[int, int] = {}
        self._expiries: list[tuple[Zone, int]] = []
        for rules in self.rules:
            for level in rules.rule_set.tiers.levels:
                names.tier(level.name)
        for rules in self.rules:
            self._at[id(rules)] = self._add([0] * m.RULE_SET)
        for rules in self.rules:
            self._fill(rules, self._at[id(rules)])
        self._versions()

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
            m.RS_X: self._columns_x(1),
            m.RS_Y: self._columns_y(2),
        }
        for field, value in fields.items():
            words[at + field] = value
        of_kind: dict[str, list[int]] = {on: [] for on in ON}
        for place, rule in enumerate(rule_set.earning):
            factor = multipliers.index(rule.id) + 1 if isinstance(rule, Multiplier) else 0
            row = self._rule(rules, place, factor)
            row[m.E_EXPIRY] = expiry(
                rule_set.expiry if isinstance(rule, Multiplier) else rule.expiry or rule_set.expiry
            )
            of_kind[rule.on] += row
        for number, on in enumerate(ON):
            first = self._add(of_kind[on])
            words[at + m.RS_RULES + 2 * number : at + m.RS_RULES + 2 * number + 2] = [first, first + len(of_kind[on])]
        words[at + m.RS_SLOTS] = 0  # set when all are known

    def _rule(self, rules: Rules, place: int, factor: int) -> list[int]:
        rule, names = rules.rule_set.earning[place], self.names
        row = [0] * m.RULE
        row[m.E_CODE] = names.text(rule.id)
        row[m.E_FACTOR] = factor
        row[m.E_GROUP] = row[m.E_PICKS] = -1
        row[m.E_MASK] = self._columns_x(1)
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
        by_tier = (
            rule.lines is not None and "account.tier" in rules.rule_set.conditions[f"earning.{place}.lines"].fields()
        )
        row[m.E_WHOLE] = int(rule.whole) | (2 if by_tier else 0)
        row[m.E_MEASURED] = self._columns_x(TIERS_MAX + 1 if by_tier else 1)
        if rule.lines is not None:
            row[m.E_PICKS] = self._columns_y(1)
        return row

    def _slot(self, counter: str, period: str) -> int:
        return self.slots.setdefault((counter, period), len(self.slots))

    def _columns_x(self, count: int) -> int:
        self.x += count
        return self.x - count

    def _columns_y(self, count: int) -> int:
        self.y += count
        return self.y - count

    def _zone(self, zone: Zone) -> int:
        return self._add([*zone.starts_us, *zone.offsets_s, *zone.turns_us])

    # ── for some facts ──────────────────────────────────────────────────────────────────────────────────────────

    def words(self, facts: Facts) -> Array:
        """The array, as it goes with some facts: with what decisions name of customers, and the accounts that sweeps
        passed over."""
        import numpy as np

        if len(self.names.tiers) > TIERS_MAX:
            raise TooManyTiers(f"{len(self.names.tiers)} tiers are named, and {TIERS_MAX} can be told apart.")
        words = self._words.copy()
        place_of = {stream: place for place, (stream, _, _) in enumerate(facts.accounts)}
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
        for rules in self.rules:
            at = self._at[id(rules)]
            words[at + m.RS_SLOTS] = len(self.slots)
            self._inputs(words, at, rules, facts.traits)
        self._days(words, facts)
        return np.array(words, np.int64)

    def _days(self, words: list[int], facts: Facts) -> None:
        """What calendars say of each day that the facts may be of."""
        if not len(facts):
            return
        first = (int(facts.at_us.min()) // DAY_US - MARGIN_DAYS) // SPAN_DAYS * SPAN_DAYS
        last = -((-int(facts.at_us.max()) // DAY_US - MARGIN_DAYS) // SPAN_DAYS) * SPAN_DAYS
        if last - first > DAYS_MAX:
            return
        known: dict[tuple[Any, ...], int] = {}

        def table(made: Callable[..., Array], *of: Any) -> int:
            if (made, *of) not in known:
                known[made, *of] = len(words)
                words.extend(made(*of, first, last - first).tolist())
            return known[made, *of]

        calendars: dict[tuple[Zone, int | None], int] = {}
        for rules in self.rules:
            at, months = self._at[id(rules)], words[self._at[id(rules)] + m.RS_MONTHS]
            words[at + m.RS_DAY0], words[at + m.RS_DAYS] = first, last - first
            words[at + m.RS_OFFSETS] = table(_offsets, rules.zone)
            words[at + m.RS_MONTH_NUMBERS] = table(_months)
            if months >= 0:
                words[at + m.RS_LEAVING] = table(_leaving, rules.zone, months)
            words[at + m.RS_CALENDAR] = calendars.setdefault((rules.zone, months), len(calendars) + 1)
        for zone, expiry in self._expiries:
            unit, count, until = words[expiry : expiry + 3]
            if unit != FOR_EVER:
                words[expiry + m.X_TABLE] = table(_ends, zone, unit, count, until)

    def _inputs(self, words: list[int], at: int, rules: Rules, traits: Sequence[Traits]) -> None:
        """For each kind of fact and each customer's traits, the texts that decisions name them by."""
        table: list[int] = []
        for on in ON:
            read = [name for name in rules.layouts[on].fact if name.startswith("customer.")]
            for one in traits:
                told = [self.names.text(f"{name}={getattr(one, name.partition('.')[2])}") for name in read]
                table += [len(words), len(told)]
                words += told
        words.append(len(traits))
        words[at + m.RS_INPUT0] = len(words)
        words += table

    def seen(self, facts: Facts) -> tuple[Array, Array]:
        """What the rule sets see of facts and of their items."""
        import numpy as np

        x = np.zeros((len(facts), max(self.x, 1)), np.int64)
        y = np.zeros((len(facts.items), max(self.y, 1)), np.int64)
        for rules in self.rules:
            for number, on in enumerate(ON):
                rows = np.flatnonzero(facts.kind == _FACTS[on])
                if len(rows):
                    _See(self, rules, facts, rows, on, self._rules_of(rules, number)).into(x, y, self._at[id(rules)])
        return x, y

    def word(self, at: int) -> int:
        """A word of the array that no facts change."""
        return self._words[at]

    def _rules_of(self, rules: Rules, number: int) -> Mapping[int, int]:
        """Where the rules about a kind of fact stand: by their place in the rule set."""
        first = self._words[self._at[id(rules)] + m.RS_RULES + 2 * number]
        places = [place for place, rule in enumerate(rules.rule_set.earning) if rule.on == ON[number]]
        return {place: first + m.RULE * index for index, place in enumerate(places)}


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
    compiled(m.months_by_day)(first, into)
    return into


@lru_cache(maxsize=64)
def _offsets(zone: Zone, first: int, days: int) -> Array:
    starts, offsets, _ = _arrays(zone)
    into = _table(days)
    compiled(m.offsets_by_day)(starts, offsets, first, into)
    return into


@lru_cache(maxsize=64)
def _leaving(zone: Zone, months: int, first: int, days: int) -> Array:
    into = _table(days)
    compiled(m.leaving_by_day)(*_arrays(zone), _offsets(zone, first, days), first, months, into)
    return into


@lru_cache(maxsize=64)
def _ends(zone: Zone, unit: int, count: int, until: int, first: int, days: int) -> Array:
    into = _table(days)
    compiled(m.ends_by_day)(*_arrays(zone), _offsets(zone, first, days), first, unit, count, until, into)
    return into


class _See:
    """What one rule set sees of the facts of one kind."""

    def __init__(self, book: Book, rules: Rules, facts: Facts, rows: Array, on: str, places: Mapping[int, int]) -> None:
        import numpy as np

        self.book, self.rules, self.facts, self.rows, self.on, self.places = book, rules, facts, rows, on, places
        counts = facts.item[rows + 1] - facts.item[rows]
        self.first = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        self.fact_of = np.repeat(np.arange(len(rows)), counts)
        self.items = np.arange(self.first[-1]) - self.first[self.fact_of] + facts.item[rows][self.fact_of]
        self.conditions = rules.rule_set.conditions
        self.fields = {name for path in self._paths() for name in self.conditions[path].fields()}

    def _paths(self) -> list[str]:
        found = [f"earning.{place}.{part}" for place in self.places for part in ("when", "lines")]
        return [path for path in [*found, "amount.exclude"] if path in self.conditions]

    def _sum(self, values: Array) -> Array:
        """By fact, of values of its lines."""
        import numpy as np

        sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))
        return sums[self.first[1:]] - sums[self.first[:-1]]

    def into(self, x: Array, y: Array, at: int) -> None:
        """Fill the columns of these facts."""
        import numpy as np

        rows, facts, rules, book = self.rows, self.facts, self.rules, self.book
        of_facts: dict[str, Array] = {}
        of_lines: dict[str, Array] = {}
        amounts = pieces = np.zeros(0, np.int64)
        x0, y0 = book.word(at + m.RS_X), book.word(at + m.RS_Y)
        if self.on == "purchase":
            known, of_facts, of_lines, amounts, pieces = self._purchases()
            y[self.items, y0], y[self.items, y0 + 1] = amounts, pieces
            by_amount, by_piece = self._sum(amounts != 0) > 0, self._sum(pieces != 0) > 0
            x[rows, x0] = np.where(known, np.where(by_amount, 2, np.where(by_piece, 3, 1)), 0)
        slots = facts.slots[rows]
        if self.on == "activity":
            of_facts |= {
                "activity.quantity": slots[:, 0],
                "activity.code": slots[:, 1],
                "activity.partner": slots[:, 2],
            }
        elif self.on == "referral":
            of_facts |= {
                "referral.number": slots[:, 0],
                "referral.occasion": slots[:, 1],
                "referral.role": slots[:, 2],
            }
        days = self._times(of_facts)
        seen = Seen(of_facts, of_lines, self.first, self.fact_of, book.names.text)
        for place, rule_at in self.places.items():
            rule = rules.rule_set.earning[place]
            open_ = np.ones(len(rows), bool)
            first_day, last_day = rule.days
            if rule.dated:
                open_ &= (first_day <= days) & (days <= last_day)
            if not isinstance(rule, Multiplier) and rule.control_percent:
                open_ &= ~self._controls(rule.campaign or "", rule.control_percent)
            column = book.word(rule_at + m.E_MASK)
            x[rows, column] = np.where(open_, self._mask(f"earning.{place}.when", seen, of_lines=False), 0)
            if not isinstance(rule, PerAmount):
                continue
            measured = book.word(rule_at + m.E_MEASURED)
            if self.on != "purchase":
                x[rows, measured] = slots[:, 0]
                continue
            weights = amounts if rule.per_minor is not None else pieces
            picks = self._mask(f"earning.{place}.lines", seen, of_lines=True)
            if rule.lines is not None:
                y[self.items, book.word(rule_at + m.E_PICKS)] = picks
            if book.word(rule_at + m.E_WHOLE) & 2:
                for bit in range(len(book.names.tiers) + 1):
                    x[rows, measured + bit] = self._sum(np.where(picks >> bit & 1, weights, 0))
            else:
                x[rows, measured] = self._sum(np.where(picks & 1, weights, 0))

    def _mask(self, path: str, seen: Seen, *, of_lines: bool) -> Array:
        """In which tiers a condition holds, as bits: the first is that of no tier."""
        import numpy as np

        count = len(self.items if of_lines else self.rows)
        condition = self.conditions.get(path)
        if condition is None:
            return np.full(count, -1, np.int64)
        if "account.tier" not in condition.fields():
            return np.where(np.broadcast_to(evaluated(condition.tree, seen, of_lines=of_lines), count), -1, 0)
        mask = np.zeros(count, np.int64)
        for bit, tier in enumerate(("", *self.book.names.tiers)):
            there = Seen(
                {**seen.facts, "account.tier": np.int64(seen.code(tier))},
                seen.lines,
                seen.first,
                seen.fact_of,
                seen.code,
            )
            holds = np.broadcast_to(evaluated(condition.tree, there, of_lines=of_lines), count)
            mask |= np.where(holds, np.int64(1 << bit), 0)
        return mask

    def _controls(self, campaign: str, percent: int) -> Array:
        """Whose account is in a campaign's control group."""
        import numpy as np

        members = np.zeros(len(self.facts.customers), bool)
        for stream, programme, customer in self.facts.accounts:
            if programme == self.book.programme:
                members[customer] = cohort(stream, campaign) < percent
        return members[self._customers()]

    def _customers(self) -> Array:
        """The place of the customer of each fact."""
        import numpy as np

        return np.searchsorted(self.facts.first, self.rows, side="right") - 1

    def _times(self, of_facts: dict[str, Array]) -> Array:
        """Fields of time, of the customer and of the account; the local day of each fact, where it is needed."""
        import numpy as np

        facts, rows = self.facts, self.rows
        trait = facts.trait[rows]
        for name in self.fields:
            scope, _, part = name.partition(".")
            if scope == "customer":
                values = [getattr(one, part) for one in facts.traits]
                code = self.book.names.text
                of_facts[name] = np.array([code(v) if isinstance(v, str) else v for v in values], np.int64)[trait]
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
            of_facts["account.member_days"] = np.maximum(0, civil[:, 0] - self._joined()[self._customers()])
        return civil[:, 0]

    def _joined(self) -> Array:
        """The local day on which each customer joined the programme."""
        import numpy as np

        facts = self.facts
        joined = np.zeros(len(facts.customers), np.int64)
        enrolled = np.flatnonzero(facts.kind == m.F_ENROLLED)
        days = self._civil(facts.at_us[enrolled])[:, 0]
        for row, day in zip(enrolled, days, strict=True):
            _, programme, customer = facts.accounts[facts.account[row]]
            if programme == self.book.programme:
                joined[customer] = day
        return joined

    def _civil(self, times: Array) -> Array:
        import numpy as np

        into = np.zeros((len(times), 5), np.int64)
        zone = self.rules.zone
        arrays = (np.array(zone.starts_us, np.int64), np.array(zone.offsets_s, np.int64))
        compiled(m.civil)(*arrays, np.ascontiguousarray(times), into)
        return into

    def _purchases(self) -> tuple[Array, dict[str, Array], dict[str, Array], Array, Array]:
        """Of purchases: whether the currency has a rate, fields of orders, of lines, what counts of each line."""
        import numpy as np

        facts, rows, rules, names = self.facts, self.rows, self.rules, self.book.names
        items = facts.items[self.items]
        currency = facts.slots[rows, 0]
        rates = {names.text(code): rate for code, rate in rules.rates.items()}
        known = np.isin(currency, list(rates))
        numerators, denominators = np.ones(len(rows), np.int64), np.ones(len(rows), np.int64)
        for code, (numerator, denominator) in rates.items():
            numerators[currency == code], denominators[currency == code] = numerator, denominator

        def converted(minor: Array) -> Array:
            if not (numerators != 1).any() and not (denominators != 1).any():
                return minor
            into = np.zeros(len(minor), np.int64)
            of, by = numerators[self.fact_of], denominators[self.fact_of]
            compiled(m.convert)(np.ascontiguousarray(minor), of, by, rules.rounding, into)
            return into

        net = converted(items[:, 0])
        of_lines = {
            "line.sku": items[:, 4],
            "line.category": items[:, 5],
            "line.quantity": items[:, 1],
            "line.net_minor": net,
        }
        amounts, pieces = net, items[:, 1]
        include = rules.rule_set.amount.include
        if include != ("net",):
            places = {"net": 0, "tax": 2, "shipping": 3}
            whole = sum((items[:, places[part]] for part in include), np.zeros(len(items), np.int64))
            amounts = np.where(whole == items[:, 0], net, converted(whole))
        exclude = self.conditions.get("amount.exclude")
        if exclude is not None:
            seen = Seen({}, of_lines, self.first, self.fact_of, names.text)
            out = np.broadcast_to(evaluated(exclude.tree, seen, of_lines=True), len(items))
            amounts, pieces = np.where(out, 0, amounts), np.where(out, 0, pieces)
        of_facts = {
            "order.net_minor": self._sum(net),
            "order.amount_minor": self._sum(amounts),
            "order.quantity": self._sum(items[:, 1]),
            "order.currency": currency,
            "order.store": facts.slots[rows, 1],
        }
        return known, of_facts, of_lines, amounts, pieces
