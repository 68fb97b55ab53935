"""A plain model of the loyalty account: what the rules' own words say, in the most obvious Python, however slow.

It shares no arithmetic with the package: days and months are `datetime` and `zoneinfo`, amounts are fractions, an
account is a few lists. One rule set for one account; facts are told in the order of recording, and may be dated before
others. `FakeLot.key` is the pair of the fact that brought a lot and its number among that fact's lots.
"""

from __future__ import annotations

import calendar
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

FOREVER = 2**62
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Lines = list[dict[str, Any]]


def moment(us: int) -> datetime:
    """Microseconds as a time in UTC."""
    return EPOCH + timedelta(microseconds=us)


class Calendar:
    """Wall clocks of a zone."""

    def __init__(self, zone: str) -> None:
        self.zone = ZoneInfo(zone)

    def local(self, us: int) -> datetime:
        """What a clock on the wall shows."""
        return moment(us).astimezone(self.zone).replace(tzinfo=None)

    def us(self, wall: datetime) -> int:
        """When it shows so for the first time."""
        return (wall.replace(tzinfo=self.zone, fold=0) - EPOCH) // timedelta(microseconds=1)

    def midnight(self, of: date) -> int:
        """When a day begins."""
        return self.us(datetime.combine(of, time()))

    def later(self, us: int, months: int = 0, days: int = 0) -> int:
        """The same time of day, so many months or days on."""
        wall = self.local(us)
        return self.us(datetime.combine(months_on(wall.date(), months) + timedelta(days), wall.time()))

    def period(self, us: int, name: str) -> tuple[int, ...]:
        """The day, month or year of a time."""
        wall = self.local(us)
        return (wall.year, wall.month, wall.day)[: {"year": 1, "month": 2, "day": 3}[name]]


def months_on(day: date, months: int) -> date:
    """The same day so many months on, or the last of that month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def rounded(value: Fraction, how: str) -> int:
    """To a whole number."""
    whole = value.numerator // value.denominator
    rest = value - whole
    up = {
        "floor": False,
        "ceil": rest > 0,
        "half_up": rest >= Fraction(1, 2),
        "half_even": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1),
    }[how]
    return whole + up


@dataclass
class FakeLine:
    """What of a lot one line earned."""

    basis: int
    points: int
    qualifying: int
    back: int = 0


@dataclass
class FakeLot:
    """Points with one age. `expired` may be reinstated; `owed` are taken when points of it come back."""

    key: tuple[int, int]
    earned: int
    activates: int
    expires: int
    rule: str = ""
    since: int = 0
    open_end: bool = False
    lines: list[FakeLine] = field(default_factory=list)
    in_pieces: bool = False
    active: int = 0
    pending: int = 0
    expired: int = 0
    lost_at: int = 0
    owed: int = 0
    qualifying: int = 0
    by: set[int] = field(default_factory=set)


@dataclass
class FakeHold:
    """Points set aside: (lot, points) in the order of use."""

    until: int
    parts: list[list[Any]]
    since: int


@dataclass
class FakeCoupon:
    """A coupon."""

    reward: str
    expires: int
    since: int
    outcome: str = ""
    level: int = -1

    def good(self, at: int) -> bool:
        """Whether it is taken."""
        return not self.outcome and at >= self.since


class Plain:
    """One account under one rule set, given as the plain document with its defaults spelt out."""

    def __init__(self, rules: dict[str, Any], cohorts: dict[str, int]) -> None:
        self.rules = rules
        self.cohorts = cohorts
        self.calendar = Calendar(rules["zone"])
        self.levels = rules["tiers"]["levels"]
        self.rewards = {reward["id"]: reward for reward in rules["rewards"]}
        self.lots: list[FakeLot] = []
        self.holds: dict[int, FakeHold] = {}
        self.paid: dict[int, tuple[int, list[list[Any]]]] = {}
        self.coupons: dict[Any, FakeCoupon] = {}
        self.sums: defaultdict[str, int] = defaultdict(int)
        self.uses: defaultdict[Any, int] = defaultdict(int)
        self.status = "open"
        self.suspended = 0
        self.suspensions: list[tuple[int, int]] = []
        self.lent: int | None = None
        self.clock = self.enrolled = self.moved = self.since = 0
        self.tier: int = -1
        self.override: int | None = None
        self.debt = self.forgiven = 0
        self.refused = ""
        self.horizon = -(2**62)

    # ── what there is ───────────────────────────────────────────────────────────────────────────────────────────

    def active(self) -> int:
        """Points to spend."""
        return sum(lot.active for lot in self.lots)

    def in_order(self) -> list[FakeLot]:
        """Lots with points to spend, in the order of use: `lots` are as they came."""
        return sorted((lot for lot in self.lots if lot.active), key=lambda lot: (lot.expires, lot.earned))

    def seen(self) -> dict[str, Any]:
        """All that an outsider may ask."""
        return {
            "clock": self.clock,
            "active": self.active(),
            "pending": sum(lot.pending for lot in self.lots),
            "held": sum(part[1] for hold in self.holds.values() for part in hold.parts),
            "debt": self.debt,
            "forgiven": self.forgiven,
            "sums": {name: points for name, points in self.sums.items() if points},
            "lots": [(lot.key, lot.active, lot.earned, lot.expires) for lot in self.in_order()],
            "waiting": sorted((lot.activates, lot.key, lot.pending) for lot in self.lots if lot.pending),
            "holds": {
                key: (hold.until, [(lot.key, points) for lot, points in hold.parts]) for key, hold in self.holds.items()
            },
            "paid": {key: [(lot.key, points) for lot, points in parts] for key, (_, parts) in self.paid.items()},
            "coupons": {key: (one.reward, one.expires, one.outcome) for key, one in self.coupons.items()},
            "status": self.status,
            "tier": self.levels[self.tier]["name"] if self.tier >= 0 else None,
            "qualifying": self.counted_at(self.clock),
        }

    # ── time ────────────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, until: int) -> None:
        """Whatever is due by then, one after the other."""
        while True:
            due = self.due(max(until, self.horizon))
            if not due:
                break
            at, _, _, act = min(due, key=lambda one: one[:3])
            before = self.active()
            self.decided(at)
            act(at)
            if self.active() != before:
                self.by_balance()

    def due(self, until: int) -> list[tuple[int, int, Any, Any]]:
        """(when, which first, which of these, what happens)."""
        found: list[tuple[int, int, Any, Any]] = []
        for lot in self.lots:
            if lot.pending:
                found.append((lot.activates, 0, 0, self.activate_due))
                found.append((lot.expires, 3, 0, self.expire_due))
            if lot.active:
                found.append((lot.expires, 3, 0, self.expire_due))
        for key, hold in self.holds.items():
            found.append((hold.until, 2, key, lambda at, key=key: self.free(key)))
        for key, coupon in self.coupons.items():
            if not coupon.outcome:
                found.append((coupon.expires, 5, 0, lambda at, key=key: self.close_coupon(key, "expired")))
        months = self.rules.get("inactivity_months")
        if months and (self.active() or self.holds or any(lot.pending for lot in self.lots)):
            at = self.calendar.midnight(months_on(self.calendar.local(self.moved).date(), months))
            found.append((at, 4, 0, self.expire_all))
        fall = self.next_fall(until)
        if fall is not None:
            found.append((fall[0], 1, 0, lambda at, fall=fall: self.to_tier(fall[1], at)))
        return [one for one in found if one[0] <= until]

    def activate_due(self, at: int) -> None:
        """Pending points whose time has come."""
        self.activate([lot for lot in self.lots if lot.pending and lot.activates <= at], at)

    def activate(self, lots: list[FakeLot], at: int) -> None:
        """Pending to active."""
        if lots:
            self.decided(at)
        for lot in sorted(lots, key=lambda lot: lot.activates):
            expiry = self.expiry_of(lot.rule)
            if lot.open_end:
                lot.expires = self.expires(expiry, at)
            lot.activates = at
            points, lot.pending = lot.pending, 0
            self.into(lot, points)

    def into(self, lot: FakeLot, points: int) -> None:
        """Points become active; a debt is paid first."""
        pays = min(points, self.debt)
        self.debt -= pays
        lot.active += points - pays

    def expire_due(self, at: int) -> None:
        """Points whose time is over."""
        for lot in self.lots:
            if lot.expires <= at:
                self.expire(lot, at, lot.active + lot.pending)
                lot.active = lot.pending = 0

    def expire(self, lot: FakeLot, at: int, points: int) -> None:
        """Points of a lot are lost."""
        if points:
            lot.lost_at = max(lot.lost_at, at)
        lot.expired += points
        self.sums["expired"] += points

    def expire_all(self, at: int) -> None:
        """The account was not used for too long, or is closed."""
        for key in sorted(self.holds, key=lambda key: (self.holds[key].until, key)):
            self.free(key)
        for lot in self.lots:
            self.expire(lot, at, lot.active + lot.pending)
            lot.active = lot.pending = 0

    def free(self, key: int) -> None:
        """A hold ends; its points can be spent again."""
        for lot, points in self.holds.pop(key).parts:
            self.into(lot, points - self.taken_late(lot, points))

    def taken_late(self, lot: FakeLot, points: int) -> int:
        """What a return could not take is taken of points that come back."""
        taken = min(lot.owed, points)
        lot.owed -= taken
        self.forgiven -= taken
        self.sums["reversed"] += taken
        return taken

    def used(self, at: int) -> None:
        """The account is in use."""
        self.moved = max(self.moved, at)

    # ── tiers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def year_of(self, at: int, shift: int = 0) -> int:
        """When the year of a moment began (or one so many years on), counted from 1 January or from enrolment."""
        today = self.calendar.local(at).date()
        if self.rules["tiers"]["window"] == "calendar_year":
            return self.calendar.midnight(date(today.year + shift, 1, 1))
        first = self.calendar.local(self.enrolled).date()
        years = 0
        while months_on(first, 12 * (years + 1)) <= today:
            years += 1
        return self.calendar.midnight(months_on(first, 12 * (years + shift)))

    def counted_at(self, at: int) -> int:
        """Qualifying points at a moment (or the balance)."""
        tiers = self.rules["tiers"]
        if tiers["basis"] == "balance":
            return self.active()
        had = [lot for lot in self.lots if lot.earned <= at]
        match tiers["window"]:
            case "lifetime":
                return sum(lot.qualifying for lot in had)
            case "rolling":
                return sum(lot.qualifying for lot in had if at < self.leaves(lot.earned))
        this, last = self.year_of(at), self.year_of(at, -1)
        return max(
            sum(lot.qualifying for lot in had if this <= lot.earned),
            sum(lot.qualifying for lot in had if last <= lot.earned < this),
        )

    def leaves(self, earned: int) -> int:
        """When points leave a rolling window."""
        day = self.calendar.local(earned).date()
        return self.calendar.midnight(months_on(day, self.rules["tiers"]["window_months"]))

    def standing(self) -> int:
        """The level that no people lent."""
        return self.tier if self.lent is None else self.lent

    def worth(self, points: int) -> int:
        """The level that so many points reach or keep."""
        found = 0
        for rank, level in enumerate(self.levels):
            keep = level["keep"] if level.get("keep") is not None else level["threshold"]
            if points >= (keep if rank <= self.standing() else level["threshold"]):
                found = rank
        return found

    def next_fall(self, until: int) -> tuple[int, int] | None:
        """The first moment from the clock on at which time alone lowers the tier, or ends an override."""
        tiers = self.rules["tiers"]
        free = self.clock
        if self.override is not None and self.override >= self.clock:
            free = self.override
            rank = self.worth(self.counted_at(free))
            if free <= until and (rank != self.tier or self.standing() != self.tier):
                return free, rank
        if tiers["basis"] == "balance" or tiers["downgrade"] == "never" or tiers["window"] == "lifetime":
            return None
        ends: set[int] = set()
        if tiers["window"] == "rolling":
            ends |= {self.leaves(lot.earned) for lot in self.lots if any(line.qualifying for line in lot.lines)}
        else:
            at = self.enrolled
            while at <= until:
                at = self.year_of(at, 1)
                ends.add(at)
        graced = {self.calendar.later(end, days=tiers["grace_days"]): end for end in ends}
        held = self.since
        if tiers["hold_months"]:
            held = self.calendar.midnight(months_on(self.calendar.local(self.since).date(), tiers["hold_months"]))
        for at in sorted({*graced, held}):
            if not self.clock < at <= until or at < max(held, free):
                continue
            then = graced.get(at, self.calendar.later(at, days=-tiers["grace_days"]))
            rank = self.worth(self.counted_at(at))
            between = [lot.earned for lot in self.lots if then <= lot.earned <= at]
            if all(self.worth(self.counted_at(moment)) < self.tier for moment in (then, *between, at)):
                return at, rank if tiers["downgrade"] == "straight" else self.tier - 1
        return None

    def points_came(self) -> None:
        """Up at once."""
        if self.free_tier() and self.worth(self.counted_at(self.clock)) > self.tier:
            self.to_tier(self.worth(self.counted_at(self.clock)), self.clock)

    def points_went(self, at: int, before: int) -> None:
        """A return took points that counted for the tier: down at once, straight."""
        if self.counted_at(max(at, self.clock)) == before:
            return
        rank = self.worth(self.counted_at(self.clock))
        if not self.free_tier():
            self.take_grants(rank)
        elif rank != self.tier:
            self.to_tier(rank, self.clock)
            self.take_grants(rank)

    def free_tier(self) -> bool:
        """Whether the rules decide on the tier."""
        return self.override is None or self.override <= self.clock

    def by_balance(self) -> None:
        """Where tiers go by the balance, they follow it."""
        if self.rules["tiers"]["basis"] == "balance" and self.free_tier():
            rank = self.worth(self.active())
            if rank < self.tier:
                how = self.rules["tiers"]["downgrade"]
                rank = {"straight": rank, "one_step": self.tier - 1, "never": self.tier}[how]
            self.to_tier(rank, self.clock)

    def take_grants(self, rank: int) -> None:
        """What came with higher levels goes with them."""
        for coupon in self.coupons.values():
            if coupon.level > rank and not coupon.outcome:
                self.decided(self.clock)
                coupon.outcome = "withdrawn"

    def to_tier(self, rank: int, at: int, *, by_people: bool = False) -> None:
        """Another tier; or the one that people lent, now by the rules."""
        if rank == self.tier and (by_people or self.standing() == self.tier):
            return
        up = rank > self.standing() >= 0 and not by_people
        self.decided(at)
        self.lent = self.standing() if by_people else None
        self.tier, self.since = rank, at
        if not by_people:
            self.override = None
        for reward in self.levels[rank].get("grants", ()) if up else ():
            key = ("grant", rank, reward, *self.calendar.period(at, "year"))
            if key not in self.coupons or self.coupons[key].outcome == "withdrawn":
                ends = self.calendar.later(at, days=self.rewards[reward]["coupon_days"])
                self.coupons[key] = FakeCoupon(reward, ends, at, level=rank)

    # ── earning ─────────────────────────────────────────────────────────────────────────────────────────────────

    def expiry_of(self, rule: str) -> dict[str, Any]:
        """The expiry of what a rule gives."""
        for one in self.rules["earning"]:
            if one["id"] == rule and one.get("expiry"):
                return dict(one["expiry"])
        return dict(self.rules["expiry"])

    def expires(self, expiry: dict[str, Any], start: int) -> int:
        """When points that count from a moment are gone."""
        if expiry.get("never"):
            return FOREVER
        at = self.calendar.later(start, months=expiry.get("months") or 0, days=expiry.get("days") or 0)
        wall = self.calendar.local(at)
        match expiry["until"]:
            case "month_end":
                return self.calendar.midnight(months_on(wall.date().replace(day=1), 1))
            case "year_end":
                return self.calendar.midnight(date(wall.year + 1, 1, 1))
        return at

    def holds_for(self, rule: dict[str, Any], at: int, on: str, values: dict[str, Any]) -> bool:
        """Whether a rule applies to a fact."""
        day = self.calendar.local(at).date().isoformat()
        if rule["on"] != on or not (rule.get("starts") or "0") <= day <= (rule.get("ends") or "9"):
            return False
        if rule.get("control_percent") and self.cohorts[rule["campaign"]] < rule["control_percent"]:
            return False
        return rule.get("when") is None or bool(CONDITIONS[rule["when"]](values))

    def earn(self, fact: int, at: int, on: str, values: dict[str, Any], lines: Lines | None = None) -> None:
        """What a fact earns: lots, within caps and limits."""
        amount_of = {
            number: sum(line[f"{part}_minor"] for part in self.rules["amount"]["include"])
            for number, line in enumerate(lines or [])
            if not (self.rules["amount"].get("exclude") and LINE_CONDITIONS[self.rules["amount"]["exclude"]](line))
        }
        values = {**values, "tier": self.levels[self.tier]["name"], "amount": sum(amount_of.values())}
        factors = [
            Fraction(rule["factor"])
            for rule in self.rules["earning"]
            if rule["kind"] == "multiplier" and self.holds_for(rule, at, on, values)
        ]
        factor = max(factors, default=Fraction(1)) * Fraction(self.levels[self.tier]["multiplier"])
        gives: list[dict[str, Any]] = []
        for rule in self.rules["earning"]:
            if rule["kind"] == "multiplier" or not self.holds_for(rule, at, on, values):
                continue
            pieces_of = {number: (lines or [])[number]["quantity"] for number in amount_of}
            weights = amount_of if sum(amount_of.values()) else pieces_of
            times = Fraction(1)
            if rule["kind"] == "fixed" and on == "purchase" and not weights:
                continue
            if rule["kind"] == "per_amount":
                weights = {
                    number: measure
                    for number, measure in (amount_of if rule.get("per_minor") else pieces_of).items()
                    if not rule.get("lines") or LINE_CONDITIONS[rule["lines"]]((lines or [])[number])
                }
                total = sum(weights.values()) if on == "purchase" else values["quantity"]
                if not total:
                    continue
                times = Fraction(total, rule.get("per_minor") or rule.get("per_quantity") or 1)
                if rule["whole"]:
                    times = Fraction(times.numerator // times.denominator)
            points = rounded(rule["points"] * times * (factor if rule["multiplied"] else 1), self.rules["rounding"])
            base = rounded(rule["points"] * times, self.rules["rounding"])
            gives.append({"rule": rule, "points": points, "base": base, "weights": weights})
        gives = self.best_of_groups(gives)
        self.cap(gives, at)
        spendable = sum(one["gets"] for one in gives)
        if not any(one["gets"] or one["counts"] or one["capped"] for one in gives):
            return
        if self.barred(at) or not self.within("earn", spendable, at):
            self.refused = "earning"
            self.clock = max(self.clock, at)
            return
        self.clock = max(self.clock, at)
        for one in gives:
            for name in (one["rule"]["id"], "all"):
                for period in ("day", "month", "year"):
                    where = self.calendar.period(at, period)
                    self.uses[name, period, where] += max(one["gets"], one["counts"])
        self.count("earn", spendable, at)
        self.bring(fact, at, gives, lines)
        if any(one["gets"] or one["counts"] for one in gives):
            self.used(at)

    def best_of_groups(self, gives: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of each group one."""
        left = []
        for one in gives:
            group = one["rule"].get("group")
            rivals = [other for other in gives if group and other["rule"].get("group") == group]
            if rivals:
                most = max(other["points"] for other in rivals)
                if self.rules["groups"][group] == "best":
                    rivals = [other for other in rivals if other["points"] == most]
                if one is not rivals[0]:
                    continue
            left.append(one)
        return left

    def cap(self, gives: list[dict[str, Any]], at: int) -> None:
        """By the caps of each rule, then by those of the programme, in the order of the rules."""
        given = 0
        for one in gives:
            full = one["points"]
            for name, caps, already in (
                (one["rule"]["id"], one["rule"]["caps"], 0),
                ("all", self.rules["caps"], given),
            ):
                for period in ("event", "day", "month", "year"):
                    if caps.get(period) is None:
                        continue
                    used = 0 if period == "event" else self.uses[name, period, self.calendar.period(at, period)]
                    one["points"] = max(0, min(one["points"], caps[period] - used - already))
            given += one["points"]
            one["capped"] = full - one["points"]
            counts = one["points"] if self.rules["tiers"]["qualify"] == "points" else min(one["base"], one["points"])
            one["gets"] = 0 if one["rule"]["gives"] == "qualifying" else one["points"]
            one["counts"] = 0 if one["rule"]["gives"] == "points" else counts

    def bring(self, fact: int, at: int, gives: list[dict[str, Any]], lines: Lines | None) -> None:
        """A lot for each age."""
        ages: dict[tuple[Any, ...], FakeLot] = {}
        for number, one in enumerate(gives):
            rule = one["rule"]
            expiry = self.expiry_of(rule["id"])
            pending = rule.get("pending") or self.rules.get("pending")
            activates = at
            if pending:
                activates = self.calendar.later(at, days=pending["days"]) if pending.get("days") else FOREVER
            start = at if expiry["from"] == "earned" else activates
            expires = FOREVER if start == FOREVER else self.expires(expiry, start)
            age: tuple[Any, ...] = (activates, expires)
            if activates > at and expiry["from"] == "activated":
                age = (*age, tuple(sorted(expiry.items(), key=str)))
            if age not in ages:
                ages[age] = FakeLot((fact, len(ages)), at, activates, expires, rule["id"], open_end=len(age) > 2)
                ages[age].lines = [FakeLine(0, 0, 0) for _ in lines or [{}]]
            ages[age].by.add(number)
            self.share(ages[age], one)
        useful = {number for number, one in enumerate(gives) if one["gets"] or one["counts"] or one["capped"]}
        brought = [lot for lot in ages.values() if useful & lot.by]
        for number, lot in enumerate(brought):
            lot.key = (fact, number)
            self.lots.append(lot)
            self.measure(lot, lines)
            points = sum(line.points for line in lot.lines)
            lot.qualifying = sum(line.qualifying for line in lot.lines)
            self.sums["earned"] += points
            if lot.activates > at:
                lot.pending = points
            else:
                self.into(lot, points)

    def share(self, lot: FakeLot, one: dict[str, Any]) -> None:
        """What each line of the order gets, by what of it the rule measured."""
        if len(lot.lines) == 1 and not one["weights"]:
            one["weights"] = {0: 1}
        total = sum(one["weights"].values())
        if not total:
            return
        run = 0
        for number, weight in one["weights"].items():
            line = lot.lines[number]
            line.points += one["gets"] * (run + weight) // total - one["gets"] * run // total
            line.qualifying += one["counts"] * (run + weight) // total - one["counts"] * run // total
            run += weight

    def measure(self, lot: FakeLot, lines: Lines | None) -> None:
        """A return is reckoned by net amounts, or by pieces where some that earned had no unit of it each."""
        earned = [number for number, line in enumerate(lot.lines) if line.points or line.qualifying]
        lot.in_pieces = any(lines[number]["net_minor"] < lines[number]["quantity"] for number in earned if lines)
        for number in earned:
            one = lines[number] if lines else {"net_minor": 1, "quantity": 1}
            lot.lines[number].basis = one["quantity"] if lot.in_pieces else one["net_minor"]

    # ── limits ──────────────────────────────────────────────────────────────────────────────────────────────────

    def within(self, on: str, points: int, at: int) -> bool:
        """Whether limits let so many points through."""
        for limit in self.rules["limits"]:
            if limit["on"] == on:
                where = (limit["period"], self.calendar.period(at, limit["period"]))
                if limit.get("count") and self.uses[f"{on} times", *where] + 1 > limit["count"]:
                    return False
                if limit.get("points") and self.uses[f"{on} points", *where] + points > limit["points"]:
                    return False
        return True

    def count(self, on: str, points: int, at: int) -> None:
        """Count against limits."""
        for period in ("day", "month", "year"):
            self.uses[f"{on} times", period, self.calendar.period(at, period)] += 1
            self.uses[f"{on} points", period, self.calendar.period(at, period)] += points

    # ── facts: each is told once it is settled up to its time, and settled again after it ────────────────────────

    def tell(self, what: str, fact: int, at: int, **given: Any) -> None:
        """A fact, and all that follows."""
        self.refused = ""
        self.settle(at)
        before = self.active()
        getattr(self, what)(fact, at, **given)
        if self.active() != before:
            self.by_balance()
        if self.horizon > -(2**62):
            self.settle(self.horizon)

    def decided(self, at: int) -> None:
        """The account's clock knows of facts by what they decide."""
        self.clock = max(self.clock, at)

    def sweep(self, until: int) -> None:
        """The book says that it is so late: whatever is due is recorded, now and after each later fact."""
        self.horizon = max(self.horizon, until)
        self.settle(until)

    def enrol(self, fact: int, at: int) -> None:
        """The account opens in its first tier."""
        self.enrolled = self.clock = self.moved = at
        self.to_tier(0, at)
        self.earn(fact, at, "enrolment", {})
        self.points_came()

    def buy(self, fact: int, at: int, lines: Lines) -> None:
        """A purchase."""
        if at < self.enrolled or self.status == "closed":
            return
        self.earn(fact, at, "purchase", {"net": sum(line["net_minor"] for line in lines)}, lines)
        self.points_came()

    def act(self, fact: int, at: int, quantity: int) -> None:
        """An activity."""
        self.earn(fact, at, "activity", {"quantity": quantity})
        self.points_came()

    def refer(self, fact: int, at: int, number: int, nets: tuple[int, ...] = ()) -> None:
        """A referral, for the lines of a purchase where it was one."""
        line = {"quantity": 1, "tax_minor": 0, "shipping_minor": 0, "category": "food"}
        self.earn(fact, at, "referral", {"number": number}, [{**line, "net_minor": net} for net in nets] or None)
        self.points_came()

    def reduce(self, fact: int, at: int, of: int, nets: tuple[int, ...]) -> None:
        """Lines come back of the purchase that a referral was credited for."""
        self.give_back(fact, at, of, {number: (0, net) for number, net in enumerate(nets, 1)})

    def confirm(self, fact: int, at: int, of: int) -> None:
        """What pending points wait for has happened."""
        self.activate([lot for lot in self.lots if lot.key[0] == of and lot.pending], at)

    def give_back(self, fact: int, at: int, of: int, lines: dict[int, tuple[int, int]]) -> None:
        """Lines come back: number → (pieces, net amount)."""
        before = self.counted_at(max(at, self.clock))
        for lot in self.lots:
            if lot.key[0] == of and lot.lines:
                self.take_back(
                    lot,
                    at,
                    {
                        number: lines[number + 1][0 if lot.in_pieces else 1]
                        for number in range(len(lot.lines))
                        if number + 1 in lines
                    },
                )
        self.points_went(at, before)

    def withdraw(self, fact: int, at: int, of: int) -> None:
        """What a fact earned is taken back whole."""
        before = self.counted_at(max(at, self.clock))
        for lot in self.lots:
            if lot.key[0] == of and lot.lines:
                self.take_back(lot, at, {n: line.basis - line.back for n, line in enumerate(lot.lines)})
        self.points_went(at, before)

    def take_back(self, lot: FakeLot, at: int, back: dict[int, int]) -> None:
        """The share of the lines that came back, by what came back in all."""
        due = 0
        backs = [line.back for line in lot.lines]
        for number, many in back.items():
            line = lot.lines[number]
            if not line.basis:
                continue
            was, line.back = line.back, min(line.basis, line.back + many)
            now, then = Fraction(line.basis - line.back, line.basis), Fraction(line.basis - was, line.basis)
            due += rounded(line.points * then, "floor") - rounded(line.points * now, "floor")
            lot.qualifying -= rounded(line.qualifying * then, "floor") - rounded(line.qualifying * now, "floor")
        if backs != [line.back for line in lot.lines]:
            self.decided(at)
        policy = self.rules["refunds"]["earning"]
        taken = min(due, lot.pending)
        lot.pending -= taken
        due -= taken
        self.sums["reversed"] += taken
        if policy == "pending_only":
            self.forgiven += due
            return
        due = self.take_active(lot, due)
        lost = min(due, lot.expired)
        lot.expired -= lost
        self.forgiven += lost
        due -= lost
        for other in self.in_order():
            due = self.take_active(other, due)
        if policy == "debt":
            self.debt += due
            self.sums["reversed"] += due
        else:
            self.forgiven += due
            lot.owed += due

    def take_active(self, lot: FakeLot, due: int) -> int:
        """Take points of a lot back; what is still due."""
        taken = min(due, lot.active)
        lot.active -= taken
        self.sums["reversed"] += taken
        return due - taken

    def take(self, points: int) -> list[list[Any]]:
        """Use points: soonest expiry first, then the oldest, those for ever last."""
        used: list[list[Any]] = []
        for lot in self.in_order():
            many = min(points, lot.active)
            if many:
                used.append([lot, many])
                lot.active -= many
                points -= many
        return used

    def redeem(self, fact: int, at: int, points: int, reward: str, stock: int | None = None, segments: Any = (),
               hold: int | None = None) -> None:  # fmt: skip
        """Spend points, or such as were set aside."""
        known = self.rewards.get(reward, {})
        self.decided(at)
        if (
            self.barred(at)
            or (self.rewards and not known)
            or (known.get("tiers") and self.levels[self.tier]["name"] not in known["tiers"])
            or (known.get("segments") and not set(segments) & set(known["segments"]))
            or (known.get("counted") and not stock)
            or not self.within("redeem", points, at)
            or (hold is None and points > self.active())
            or (hold is not None and hold not in self.holds)
            or (hold is not None and points > sum(part[1] for part in self.holds[hold].parts))
        ):
            self.refused = "redemption"
            return
        if hold is None:
            used = self.take(points)
        else:
            used, left = [], points
            for part in self.holds[hold].parts:
                many = min(left, part[1])
                if many:
                    used.append([part[0], many])
                part[1] -= many
                left -= many
            self.holds[hold].parts = [part for part in self.holds[hold].parts if part[1]]
        self.sums["spent"] += points
        self.paid[fact] = (at, [list(part) for part in used])
        self.count("redeem", points, at)
        self.used(at)
        if hold is not None:
            self.free(hold)
        if known.get("coupon_days"):
            self.coupons[fact] = FakeCoupon(reward, self.calendar.later(at, days=known["coupon_days"]), at)

    def unredeem(self, fact: int, at: int, of: int, points: int, whole: bool = False) -> None:
        """Points of a redemption come back, what was used last first; with a coupon, all of them or none."""
        if of not in self.paid:
            return
        _, parts = self.paid[of]
        left = sum(many for _, many in parts)
        points = left if whole else points
        if of in self.coupons:
            if not self.coupons[of].good(at) or points < left:
                return
            self.close_coupon(of, "voided")
        self.bring_back(fact, at, parts, points)

    def bring_back(self, fact: int, at: int, parts: list[list[Any]], points: int) -> None:
        """So many points of what was paid."""
        back: list[tuple[FakeLot, int]] = []
        while points and parts:
            many = min(points, parts[-1][1])
            back.append((parts[-1][0], many))
            parts[-1][1] -= many
            points -= many
            if not parts[-1][1]:
                parts.pop()
        if not back:
            return
        self.decided(at)
        self.used(at)
        self.sums["reinstated"] += sum(many for _, many in back)
        back = [(lot, many - self.taken_late(lot, many)) for lot, many in back]
        if self.rules["refunds"]["redemption"] == "new_lot":
            lot = FakeLot((fact, 0), at, at, self.expires(dict(self.rules["expiry"]), at))
            if any(many for _, many in back):
                self.lots.append(lot)
                self.into(lot, sum(many for _, many in back))
            return
        for lot, many in back:
            if lot.expires <= at:
                pays = min(many, self.debt)
                self.debt -= pays
                self.expire(lot, at, many - pays)
        for lot, many in back:
            if lot.expires > at:
                self.into(lot, many)

    def hold(self, fact: int, at: int, points: int, until: int) -> None:
        """Set points aside, no longer than the first of them lives."""
        self.decided(at)
        if self.barred(at) or points > self.active():
            self.refused = "hold"
            return
        used = self.take(points)
        self.holds[fact] = FakeHold(min([until, *(part[0].expires for part in used)]), used, at)

    def release(self, fact: int, at: int, of: int) -> None:
        """What was set aside is free."""
        if of in self.holds:
            self.decided(at)
            self.free(of)

    def send(self, fact: int, at: int, points: int, barred: bool = False) -> None:
        """Points leave for another account, if that takes them."""
        self.decided(at)
        if (
            barred
            or not self.rules["transfers"]["allowed"]
            or self.barred(at)
            or points > self.active()
            or not self.within("transfer", points, at)
        ):
            self.refused = "transfer"
            return
        self.count("transfer", points, at)
        self.used(at)
        self.take(points)
        self.sums["transferred_out"] += points

    def get(self, fact: int, at: int, lots: list[tuple[int, int, int]]) -> None:
        """Points come from another account: (points, earned, expires)."""
        if not self.rules["transfers"]["keep_ages"]:
            lots = [(points, at, self.expires(dict(self.rules["expiry"]), at)) for points, _, _ in lots]
        for number, (points, earned, expires) in enumerate(lots):
            self.credit((fact, number), "transferred_in", points, earned, expires, at)

    def credit(self, key: tuple[int, int], source: str, points: int, earned: int, expires: int, at: int) -> None:
        """Points from outside."""
        self.decided(at)
        self.used(at)
        lot = FakeLot(key, earned, earned, expires, since=at)
        self.lots.append(lot)
        self.sums[source] += points
        self.into(lot, points)

    def goodwill(self, fact: int, at: int, points: int) -> None:
        """Points that no rule gave."""
        self.credit((fact, 0), "adjusted_up", points, at, self.expires(dict(self.rules["expiry"]), at), at)

    def correct(self, fact: int, at: int, points: int, into_debt: bool) -> None:
        """Points taken by hand."""
        self.decided(at)
        taken = sum(part[1] for part in self.take(points))
        owed = points - taken if into_debt else 0
        self.sums["adjusted_down"] += taken + owed
        self.debt += owed

    def extend(self, fact: int, at: int, of: tuple[int, int] | None, until: int) -> None:
        """Points live longer."""
        for lot in self.lots:
            held = any(part[0] is lot for hold in self.holds.values() for part in hold.parts)
            if (of is None or lot.key == of) and (lot.active or held or lot.pending) and lot.expires < until:
                lot.expires, lot.open_end = until, False
                self.decided(at)

    def reinstate(self, fact: int, at: int, points: int, until: int) -> None:
        """Expired points come back as a new lot."""
        given = 0
        lost = [lot for lot in self.lots if lot.expired and lot.lost_at <= at]
        for lot in sorted(lost, key=lambda lot: -lot.lost_at):
            part = min(points - given, lot.expired)
            lot.expired -= part
            given += part
        if given:
            self.credit((fact, 0), "reinstated", given, at, until, at)

    def override_tier(self, fact: int, at: int, tier: str, until: int) -> None:
        """People decide on the tier."""
        names = [level["name"] for level in self.levels]
        now = max(self.clock, at)
        if until > self.clock:
            self.override = until
        if until > now:
            self.to_tier(names.index(tier), now, by_people=True)

    def lift(self, fact: int, at: int) -> None:
        """The rules decide again."""
        now = max(self.clock, at)
        if self.override is not None and self.override >= now:
            self.override = now
            self.to_tier(self.worth(self.counted_at(now)), now)

    def suspend(self, fact: int, at: int) -> None:
        """No earning, no spending."""
        self.status, self.suspended = "suspended", at

    def resume(self, fact: int, at: int) -> None:
        """Again; what is told later of the time between is barred still."""
        self.status = "open"
        self.suspensions.append((self.suspended, at))

    def barred(self, at: int) -> bool:
        """Whether nothing of a moment is earned or spent."""
        return self.status != "open" or any(start <= at < end for start, end in self.suspensions)

    def close(self, fact: int, at: int) -> None:
        """For good: what it held expires."""
        if self.holds or self.active() or any(lot.pending for lot in self.lots):
            self.decided(at)
        self.expire_all(at)
        self.status = "closed"
        for coupon in self.coupons.values():
            if not coupon.outcome:
                self.decided(at)
                coupon.outcome = "expired"

    def close_coupon(self, key: Any, outcome: str) -> None:
        """A coupon is no longer good."""
        self.coupons[key].outcome = outcome

    def use_coupon(self, fact: int, at: int, of: Any) -> None:
        """A coupon is presented."""
        self.decided(at)
        if of not in self.coupons or not self.coupons[of].good(at) or self.barred(at):
            self.refused = "coupon"
            return
        self.close_coupon(of, "used")

    def award(self, fact: int, at: int, reward: str, stock: int | None) -> None:
        """A coupon is given by hand."""
        self.decided(at)
        known = self.rewards.get(reward, {})
        if not known.get("coupon_days") or (known["counted"] and stock == 0):
            self.refused = "award"
            return
        self.coupons[fact] = FakeCoupon(reward, self.calendar.later(at, days=known["coupon_days"]), at)

    def void_coupon(self, fact: int, at: int, of: Any) -> None:
        """A coupon is taken back; points return where the reward's rule says so."""
        if of not in self.coupons or not self.coupons[of].good(at):
            return
        self.decided(at)
        self.close_coupon(of, "voided")
        if self.rewards[self.coupons[of].reward]["voided"] == "returned" and of in self.paid:
            self.bring_back(fact, at, self.paid[of][1], 10**18)


CONDITIONS: dict[str, Any] = {
    "order.net_minor >= 2000": lambda fact: fact["net"] >= 2000,
    "account.tier in ['silver', 'gold']": lambda fact: fact["tier"] in ("silver", "gold"),
    "activity.quantity > 2": lambda fact: fact["quantity"] > 2,
    "referral.number <= 2": lambda fact: fact["number"] <= 2,
}
"""What the generated rule sets ask of a fact, in their words and in Python."""
LINE_CONDITIONS: dict[str, Any] = {
    "line.category == 'gift'": lambda line: line["category"] == "gift",
    "line.category != 'gift'": lambda line: line["category"] != "gift",
}
"""And of a line."""
