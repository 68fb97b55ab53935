"""What a rule set gives for a fact: conditions, amounts, multipliers, groups, caps; then what each line earned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

from . import arithmetic
from .calendar import Zone
from .expressions import Compiled, Layout, layout_of
from .lots import NEVER
from .points import LineShare, Use
from .rules import ALL_RULES, ON, ROUNDINGS, Caps, Expiry, Fixed, Multiplier, Pending, PerAmount, Reward, RuleSet
from .tiers import Ladder

Row = Sequence[Any]
Used = Callable[[str, str, int], int]
"""What was counted against a cap: by counter, period, number of the period."""


class Measured(NamedTuple):
    """A fact as rules see it: what conditions read (rows in the order of `Rules.layouts`), and what of lines counts.

    `amounts` are in minor units of the programme's currency, `pieces` quantities; `nets` what a return names, in the
    order's currency. All empty where the fact is no purchase; `quantity` is that of an activity.
    """

    on: str
    at_us: int
    row: Row
    lines: Sequence[Row] = ()
    amounts: Sequence[int] = ()
    pieces: Sequence[int] = ()
    nets: Sequence[int] = ()
    quantity: int = 0
    inputs: tuple[str, ...] = ()
    """What of the row is of the customer, as `name=value`."""


class Room(NamedTuple):
    """A cap that a share was held against: of `cap`, `used` was taken before. `period` is empty for one fact's."""

    counter: str
    period: str
    cap: int
    used: int


class Share(NamedTuple):
    """What one rule gives for a fact: `measured` (amount or quantity) × factor; `points` is what caps leave of it."""

    rule: PerAmount | Fixed
    measured: int
    factor: Fraction
    multiplier: str | None
    """The rule that multiplied; None: none did, or a level alone."""
    uncapped: int
    points: int
    qualifying: int
    weights: tuple[int, ...]
    """What of each line counted."""
    cut: int = 0
    """What caps took of it."""
    rooms: tuple[Room, ...] = ()
    """The caps that did, or could have."""


class Tried(NamedTuple):
    """What became of a rule for a fact: `outcome` is counts, multiplies, or why it did neither: out_of_time, condition,
    greater_multiplier, control_group, nothing_counts, group.
    """

    rule: PerAmount | Fixed | Multiplier
    outcome: str
    share: Share | None = None
    """What it gave, where it counts; what it would have given, where another of its group does."""


class NewPoints(NamedTuple):
    """Points of one age that a fact brings: one lot."""

    points: int
    qualifying: int
    activates_us: int
    expires_us: int
    rule_ids: tuple[str, ...]
    lines: tuple[LineShare, ...]
    basis_unit: str
    capped: int
    uses: tuple[Use, ...]
    shares: tuple[Share, ...]
    """What each rule gave of it."""
    open_end: bool
    """Whether its end is decided when it becomes active."""


class Ready(NamedTuple):
    """A rule ready to be asked: its days, and its conditions compiled; `picks` are the lines that count (None: all)."""

    rule: PerAmount | Fixed | Multiplier
    first_day: int
    last_day: int
    when: Compiled | None
    picks: Compiled | None


_ONCE = Fraction(1)
Cap = tuple[str, str, int]
"""Counter, period (empty: one fact's), most points."""


class Rules:
    """A rule set ready to decide: conditions compiled, its zone frozen."""

    def __init__(self, rule_set: RuleSet, zone: Zone) -> None:
        self.rule_set = rule_set
        self.zone = zone
        self.label = rule_set.label
        self.ladder = Ladder(rule_set, zone)
        self.rewards: Mapping[str, Reward] = {reward.id: reward for reward in rule_set.rewards}
        self.multipliers: dict[str, Fraction] = {level.name: level.multiplier for level in rule_set.tiers.levels}
        self.benefits: Mapping[str, tuple[str, ...]] = {one.name: one.benefits for one in rule_set.tiers.levels}
        self._giving = {rule.id: rule for rule in rule_set.earning if not isinstance(rule, Multiplier)}
        self.rounding = ROUNDINGS[rule_set.rounding]
        rates = {one.code: one.rate for one in rule_set.currencies} | {rule_set.currency: _ONCE}
        self.rates = {code: (rate.numerator, rate.denominator) for code, rate in rates.items()}
        factors: dict[str | None, Fraction] = {None: _ONCE}
        factors |= {rule.id: rule.factor for rule in rule_set.earning if isinstance(rule, Multiplier)}
        levels = [(None, _ONCE), *self.multipliers.items()]
        self._factors: dict[tuple[str | None, str | None], Fraction] = {
            (by, level): one * other for by, one in factors.items() for level, other in levels
        }
        """By the rule that multiplies, if one does, and the account's level, if it is one of these rules."""
        self._of_base = rule_set.tiers.qualify == "base"
        self.conditions = found = rule_set.conditions
        about_lines = [path for path in found if not path.endswith(".when")]
        self.layouts: dict[str, Layout] = {}
        """What conditions on each kind of fact read, and in which order."""
        self._conditions: dict[str, Compiled] = {}
        for on in ON:
            places = [place for place, rule in enumerate(rule_set.earning) if rule.on == on]
            paths = [path for path in (f"earning.{place}.when" for place in places) if path in found]
            paths += about_lines if on == "purchase" else []
            self.layouts[on] = layout_of(found[path] for path in paths)
            self._conditions |= {path: found[path].compile(self.layouts[on]) for path in paths}
        self._exclude = self._conditions.get("amount.exclude")
        self._about: dict[str, list[Ready]] = {on: [] for on in ON}
        """The rules about each kind of fact, in their order."""
        for place, rule in enumerate(rule_set.earning):
            when, picks = (self._conditions.get(f"earning.{place}.{name}") for name in ("when", "lines"))
            self._about[rule.on].append(Ready(rule, *rule.days, when, picks))
        for_all = _caps(ALL_RULES, rule_set.caps)
        self._caps: dict[str, list[Cap]] = {
            name: [*_caps(name, rule.caps), *for_all] for name, rule in self._giving.items()
        }
        """What a rule's points are held against: its own caps, then the programme's."""

    def __reduce__(self) -> tuple[Any, ...]:
        # What is compiled is made anew where it arrives.
        return Rules, (self.rule_set, self.zone)

    def factor(self, multiplier: str | None, tier: str | None) -> Fraction:
        """By what a rule that multiplies, or none, and a level of these rules, or none, multiply together."""
        return self._factors[multiplier, tier]

    def caps_of(self, rule_id: str) -> Sequence[Cap]:
        """What a rule's points are held against: its own caps, then the programme's."""
        return self._caps[rule_id]

    def converted(self, minor: int, currency: str) -> int | None:
        """An amount in the programme's currency, rounded; None for a currency without a rate."""
        rate = self.rates.get(currency)
        if rate is None:
            return None
        return arithmetic.quotient(minor * rate[0], rate[1], self.rounding)

    def excluded(self, line: Row) -> bool:
        """Whether nothing of a line counts."""
        return self._exclude is not None and bool(self._exclude((), line))

    # ── earning ─────────────────────────────────────────────────────────────────────────────────────────────────

    def shares(self, fact: Measured, tier: str | None, account_id: UUID, used: Used) -> list[Share]:
        """What each rule gives for a fact to an account in a tier, after groups and caps."""
        given = [share for _, _, share in self._asked(fact, tier, account_id) if share is not None]
        return self._capped(self._chosen(given), fact.at_us, used)

    def earn(self, fact: Measured, tier: str | None, account_id: UUID, used: Used) -> list[NewPoints]:
        """The lots that a fact brings to an account in a tier: one for each age that rules give."""
        lots: dict[tuple[int, int, Expiry | None], list[Share]] = {}
        for share in self.shares(fact, tier, account_id, used):
            lots.setdefault(self._age(share.rule, fact.at_us), []).append(share)
        return [self._lot(fact, age, shares) for age, shares in lots.items()]

    def tried(self, fact: Measured, tier: str | None, account_id: UUID, used: Used) -> list[Tried]:
        """What became of each rule that is about such facts, in their order: for whoever asks why."""
        found = self._asked(fact, tier, account_id)
        given = [share for _, _, share in found if share is not None]
        counting = {share.rule.id: share for share in self._capped(self._chosen(given), fact.at_us, used)}
        return [
            Tried(rule, bar or ("counts" if rule.id in counting else "group"), counting.get(rule.id, share))
            for rule, bar, share in found
        ]

    def _asked(
        self, fact: Measured, tier: str | None, account_id: UUID
    ) -> list[tuple[PerAmount | Fixed | Multiplier, str, Share | None]]:
        """Each rule that is about such facts, in their order: why it gives nothing (as `Tried` calls it), or what."""
        about = self._about[fact.on]
        if not about:
            return []
        day = self.zone.day(fact.at_us)
        bars = [self._bar(ready, fact, day, account_id) for ready in about]
        by: Multiplier | None = None
        for (rule, *_), bar in zip(about, bars, strict=True):
            if isinstance(rule, Multiplier) and not bar and (by is None or rule.factor > by.factor):
                by = rule
        multiplier = None if by is None else by.id
        factor = self._factors[multiplier, tier if tier in self.multipliers else None]
        found: list[tuple[PerAmount | Fixed | Multiplier, str, Share | None]] = []
        for (rule, *_, picks), bar in zip(about, bars, strict=True):
            if bar:
                found.append((rule, bar, None))
            elif isinstance(rule, Multiplier):
                found.append((rule, "multiplies" if rule is by else "greater_multiplier", None))
            else:
                share = self._share(rule, picks, fact, factor, multiplier)
                found.append((rule, "nothing_counts" if share is None else "", share))
        return found

    def _bar(self, ready: Ready, fact: Measured, day: int, account_id: UUID) -> str:
        """Why a rule is not asked about a fact; empty: it is."""
        rule, first_day, last_day, when, _ = ready
        if not first_day <= day <= last_day:
            return "out_of_time"
        if when is not None and not when(fact.row, fact.lines):
            return "condition"
        if isinstance(rule, Multiplier) or not rule.control_percent:
            return ""
        return "control_group" if cohort(account_id, rule.campaign or "") < rule.control_percent else ""

    def _share(
        self,
        rule: PerAmount | Fixed,
        picks: Compiled | None,
        fact: Measured,
        factor: Fraction,
        multiplier: str | None,
    ) -> Share | None:
        """What a rule gives before its caps; None where nothing of the fact counts for it."""
        if not rule.multiplied:
            factor, multiplier = _ONCE, None
        weights: Sequence[int]
        if isinstance(rule, Fixed):
            # Of no line in particular: it goes back with the order, each line by what counts of it.
            weights = fact.amounts if any(fact.amounts) else fact.pieces
            if fact.on == "purchase" and not any(weights):
                return None
            measured, numerator, denominator = 0, rule.points, 1
        else:
            weights = fact.amounts if rule.per_minor is not None else fact.pieces
            if picks is not None:
                weights = [
                    amount if picks(fact.row, line) else 0 for line, amount in zip(fact.lines, weights, strict=True)
                ]
            measured = fact.quantity if fact.on == "activity" else sum(weights)
            if not measured:
                return None
            denominator = rule.per
            numerator = rule.points * (measured // denominator * denominator if rule.whole else measured)
        uncapped = arithmetic.quotient(numerator * factor.numerator, denominator * factor.denominator, self.rounding)
        qualifying = arithmetic.quotient(numerator, denominator, self.rounding) if self._of_base else uncapped
        return Share(
            rule,
            measured,
            factor,
            multiplier,
            uncapped,
            0 if rule.gives == "qualifying" else uncapped,
            0 if rule.gives == "points" else min(qualifying, uncapped),
            tuple(weights),
        )

    def _chosen(self, shares: list[Share]) -> list[Share]:
        """Of each group the best or the first; of two that give the same, the first."""
        if len(shares) < 2:
            return shares
        winners: dict[str, Share] = {}
        for share in shares:
            group = share.rule.group
            if group is not None and (
                group not in winners
                or (self.rule_set.groups[group] == "best" and share.uncapped > winners[group].uncapped)
            ):
                winners[group] = share
        return [share for share in shares if share.rule.group is None or winners[share.rule.group] is share]

    def _capped(self, shares: list[Share], at_us: int, used: Used) -> list[Share]:
        """In the order of the rules, each cut by its own caps and then by what the programme's leave."""
        spent: dict[tuple[str, str], int] = {}
        capped = []
        for share in shares:
            caps, left, rooms = self._caps[share.rule.id], share.uncapped, []
            for counter, period, cap in caps:
                before = spent.get((counter, period), 0)
                if period:
                    before += used(counter, period, self.zone.period(at_us, period))
                rooms.append(Room(counter, period, cap, before))
                left = min(left, arithmetic.room(cap, before))
            for counter, period, _ in caps:
                spent[counter, period] = spent.get((counter, period), 0) + left
            capped.append(
                share._replace(
                    points=min(share.points, left),
                    qualifying=min(share.qualifying, left),
                    cut=share.uncapped - left,
                    rooms=tuple(rooms),
                )
                if caps
                else share
            )
        return capped

    def _age(self, rule: PerAmount | Fixed, at_us: int) -> tuple[int, int, Expiry | None]:
        """When points that a rule gives become active, and when they expire; by what, if that is known only then."""
        activates_us = self.activates_us(rule.pending or self.rule_set.pending, at_us)
        expiry = rule.expiry or self.rule_set.expiry
        if expiry.counted_from == "earned":
            return activates_us, self.expires_us(expiry, at_us), None
        if activates_us <= at_us:
            return activates_us, self.expires_us(expiry, activates_us), None
        return activates_us, NEVER if activates_us >= NEVER else self.expires_us(expiry, activates_us), expiry

    def expiry_of(self, rule_id: str) -> Expiry:
        """How points of a rule expire; of one that these rules don't know, as the programme's."""
        rule = self._giving.get(rule_id)
        return self.rule_set.expiry if rule is None or rule.expiry is None else rule.expiry

    def expires_us(self, expiry: Expiry, from_us: int) -> int:
        """When points that count from a moment expire; NEVER: they don't."""
        return expiry.expires_us(from_us, self.zone)

    def activates_us(self, pending: Pending | None, at_us: int) -> int:
        """When points earned at a moment can be spent; NEVER: once that is confirmed."""
        if pending is None:
            return at_us
        return NEVER if pending.days is None else self.zone.add_days(at_us, pending.days)

    def _lot(self, fact: Measured, age: tuple[int, int, Expiry | None], shares: list[Share]) -> NewPoints:
        points, qualifying = [0] * len(fact.nets), [0] * len(fact.nets)
        in_all = qualifying_in_all = cut = 0
        rule_ids, multipliers = [], []
        for share in shares:
            in_all += share.points
            qualifying_in_all += share.qualifying
            cut += share.cut
            if share.points or share.qualifying:
                rule_ids.append(share.rule.id)
                if share.multiplier:
                    multipliers.append(share.multiplier)
                if fact.nets and any(share.weights):
                    arithmetic.allocate(share.points, share.weights, points)
                    arithmetic.allocate(share.qualifying, share.weights, qualifying)
        if not fact.nets:
            # No lines: it comes back whole, or not at all.
            points, qualifying = [in_all], [qualifying_in_all]
        earning = [bool(one or other) for one, other in zip(points, qualifying, strict=True)]
        pieces = fact.pieces or (1,) * len(points)
        # By amounts, unless one is so small that a piece of its line has none.
        in_minor = bool(fact.nets) and all(
            net >= many for net, many, earns in zip(fact.nets, pieces, earning, strict=True) if earns
        )
        basis = fact.nets if in_minor else pieces
        return NewPoints(
            in_all,
            qualifying_in_all,
            *age[:2],
            tuple(dict.fromkeys([*rule_ids, *multipliers])),
            tuple(
                [
                    LineShare(basis=amount if earns else 0, points=one, qualifying=other)
                    for amount, earns, one, other in zip(basis, earning, points, qualifying, strict=True)
                ]
            ),
            "minor" if in_minor else "pieces",
            cut,
            self._uses(shares, fact.at_us),
            tuple(shares),
            age[2] is not None,
        )

    def _uses(self, shares: list[Share], at_us: int) -> tuple[Use, ...]:
        """What counts against caps: of each rule that has some, and of the programme."""
        counted: dict[tuple[str, str], int] = {}
        for share in shares:
            for counter, period, *_ in share.rooms:
                if period:
                    counted[counter, period] = counted.get((counter, period), 0) + max(share.points, share.qualifying)
        return tuple(
            Use(counter=counter, period=period, number=self.zone.period(at_us, period), amount=amount)
            for (counter, period), amount in counted.items()
            if amount
        )


def _caps(counter: str, caps: Caps) -> list[Cap]:
    return [(counter, period, cap) for period, cap in (("", caps.event), *caps.periods) if cap is not None]


def cohort(account_id: UUID, campaign: str) -> int:
    """0 to 99: which part of all accounts an account is in, for a campaign. Drawn by the ids alone, for ever."""
    return drawn(int.from_bytes(account_id.bytes[:4], "big"), campaign)


def drawn(first: int, campaign: str) -> int:
    """The same by the first four bytes of the account's id, as a number."""
    return (first ^ crc32(campaign.encode())) % 100


@lru_cache(maxsize=256)
def compiled(document: str, zone: Zone) -> Rules:
    """The rules of a canonical document and its frozen zone."""
    return Rules(RuleSet.model_validate_json(document), zone)
