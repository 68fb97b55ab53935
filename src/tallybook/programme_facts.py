"""What figures of a programme count: facts and decisions of the log, as the book knew them at one moment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import date, datetime
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID

from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.form import known_uuid
from tallybook.domain.calendar import DAY_US, civil_from_days, days_from_civil
from tallybook.domain.control import Control
from tallybook.domain.customer import CustomerRegistered, Line, PurchaseRecorded, ReturnLine, ReturnRecorded
from tallybook.domain.earning import Rules
from tallybook.domain.errors import refusal
from tallybook.domain.events import Event
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import account_id
from tallybook.domain.points import (
    AccountClosed,
    CouponClosed,
    CouponIssued,
    EarningReversed,
    Enrolled,
    HoldReleased,
    LotPart,
    PointsEarned,
    PointsExpired,
    PointsRedeemed,
    RedemptionRefused,
    RedemptionReversed,
)
from tallybook.domain.rules import Multiplier
from tallybook.projections.exclusions import Exclusions
from tallybook.projections.programme import (
    Members,
    Membership,
    Outcome,
    Period,
    RewardFigures,
    Sale,
    share,
)

from .core import RECORDED_US, Core
from .times import EARLIEST_US, LATEST_US

Day = date | str
"""A day as 2025-12-31, in the zone of the programme."""
Rate = Fraction | str | int
"""A number without rounding: Fraction(7, 20), "0.35", "7/20", 1."""

# Where they stand in what a scan of the log gives.
_NET_MINOR = list(Line.model_fields).index("net_minor")
_PART_POINTS = list(LotPart.model_fields).index("points")
_BACK_MINOR = list(ReturnLine.model_fields).index("net_minor")


class Moved(NamedTuple):
    """What happened to points in a period, beside what was earned, redeemed and expired."""

    earnings: int
    reversed: int
    given_back: int
    customers: frozenset[bytes]
    """Who earned or redeemed."""


class Ran(NamedTuple):
    """When a campaign ran, its rules, and the least and the most of its `control_percent`."""

    start_us: int
    end_us: int
    rules: frozenset[str]
    least: int
    most: int


class Facts:
    """Facts and decisions about a programme, up to a position, of all who are not left out."""

    def __init__(
        self,
        core: Core,
        programme: str,
        rules: Rules,
        control: Control,
        at_us: int,
        head: int,
        known: Callable[[int, int], bool],
        left_out: Exclusions,
    ) -> None:
        self.programme = programme
        self.rules = rules
        """In force at the end of what is asked for: its zone, currency and rates count."""
        self.zone = rules.zone
        self.at_us = at_us
        self.head = head
        self.left_out = left_out
        self.unconverted = 0
        """Purchases in currencies without a rate."""
        self._core = core
        self._control = control
        self._known = known
        self._nobody = {one.bytes for one in (*left_out.restricted, *left_out.objecting)}

    def _all(self, kind: type[Event], *fields: str) -> Iterator[tuple[Any, ...]]:
        """Subject, effective time and fields of all events of a class."""
        known, head, nobody = self._known, self.head, self._nobody
        asked = ["metadata", "subject_id", "effective_us", *fields]
        with rarely_collecting():
            for position, (metadata, *found) in self._core.app.scan(kind, asked):
                if position <= head and known(position, metadata[RECORDED_US]) and found[0] not in nobody:
                    yield tuple(found)

    def _ours(self, kind: type[Event], *fields: str) -> Iterator[tuple[Any, ...]]:
        """The same of this programme."""
        for customer, at_us, programme, *found in self._all(kind, "programme", *fields):
            if programme == self.programme:
                yield customer, at_us, *found

    # ── the question ────────────────────────────────────────────────────────────────────────────────────────────

    def period(self, since: Day | int, until: Day | int) -> Period:
        """From day to day. Refuses: invalid_argument."""
        first = since if isinstance(since, int) else day_of(since, "since")
        last = until if isinstance(until, int) else day_of(until, "until")
        if last < first:
            raise refusal("invalid_argument", "until: it lies before since.", argument="until")
        return Period.of(first, last, self.zone)

    def rates(self, margin: Rate, point_cost: Rate | None) -> tuple[Fraction, Fraction]:
        """The share of the margin, and the cost of a point. Refuses: invalid_argument."""
        price: Fraction = self.rules.rule_set.point_price
        return rate_of(margin, "margin", 1), price if point_cost is None else rate_of(point_cost, "point_cost", 10**9)

    def ran(self, campaign: str) -> Ran:
        """When a campaign ran, by the rule sets in force. Refuses: invalid_argument."""
        book, programme, zone = self._control.rule_book, self.programme, self.zone
        starts = book.starts(programme, -NEVER, self.at_us)
        found: list[tuple[int, int, str, int]] = []
        others: set[str] = set()
        for start_us, end_us in zip(starts, [*starts[1:], self.at_us + 1], strict=True):
            rules = book.in_force(programme, start_us)
            for rule in rules.rule_set.earning if rules is not None else ():
                if isinstance(rule, Multiplier) or rule.campaign != campaign:
                    others |= {rule.campaign} if not isinstance(rule, Multiplier) and rule.campaign else set()
                    continue
                first, last = rule.days
                from_us = max(start_us, start_us if rule.starts is None else zone.utc_us(first * DAY_US))
                to_us = min(end_us, end_us if rule.ends is None else zone.utc_us((last + 1) * DAY_US))
                if from_us < to_us:
                    found.append((from_us, to_us, rule.id, rule.control_percent))
        if not found:
            raise refusal(
                "invalid_argument",
                f"campaign: no rule of {programme} that was in force is of {campaign!r}.",
                argument="campaign",
                known=sorted(others),
            )
        percents = [percent for *_, percent in found]
        return Ran(
            min(start for start, *_ in found),
            max(end for _, end, *_ in found),
            frozenset(rule for _, _, rule, _ in found),
            min(percents),
            max(percents),
        )

    # ── who ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def members(self) -> Members:
        """Who is a member, from when to when."""
        closed: dict[UUID, int] = {}
        for position, event in self._core.history([AccountClosed.stored_name]):
            if position <= self.head and self._known(position, event.metadata.recorded_us):
                closed[event.originator_id] = event.effective_us
        found: dict[bytes, Membership] = {}
        for customer, at_us in self._ours(Enrolled):
            to_us = closed.get(account_id(known_uuid(customer), self.programme), NEVER) if closed else NEVER
            found[customer] = Membership(at_us, to_us)
        return found

    def registered(self, before_us: int) -> set[bytes]:
        """Customers whom the book knew of before a moment."""
        return {customer for customer, at_us in self._all(CustomerRegistered) if at_us < before_us}

    # ── what ────────────────────────────────────────────────────────────────────────────────────────────────────

    def sales(self, period: Period) -> tuple[list[Sale], list[Sale]]:
        """All purchases, and what came back in a period, dated as it was bought; in the programme's currency."""
        back: defaultdict[bytes, int] = defaultdict(int)
        for _, at_us, purchase, lines in self._all(ReturnRecorded, "purchase_id", "lines"):
            if period.holds(at_us):
                back[purchase] += sum([line[_BACK_MINOR] for line in lines])
        sold: list[Sale] = []
        returned: list[Sale] = []
        own, self.unconverted = self.rules.rule_set.currency, 0
        for customer, at_us, event_id, currency, lines in self._all(PurchaseRecorded, "event_id", "currency", "lines"):
            net: int | None = sum([line[_NET_MINOR] for line in lines])
            gone: int | None = back.get(event_id, 0)
            if currency != own:
                net, gone = self.rules.converted(net or 0, currency), self.rules.converted(gone or 0, currency)
            if net is None:
                self.unconverted += period.holds(at_us)
                continue
            sold.append(Sale(customer, at_us, net))
            if gone:
                returned.append(Sale(customer, at_us, gone))
        return sold, returned

    def points(self, period: Period) -> tuple[int, int, int, Moved]:
        """Points earned, redeemed, expired in a period; and what else happened to them."""
        earned = redeemed = expired = reversed_ = given_back = earnings = 0
        customers: set[bytes] = set()
        for customer, at_us, points in self._ours(PointsEarned, "points"):
            if period.holds(at_us):
                earned, earnings = earned + points, earnings + 1
                customers.add(customer)
        for customer, at_us, points in self._ours(PointsRedeemed, "points"):
            if period.holds(at_us):
                redeemed += points
                customers.add(customer)
        for _, at_us, points in self._ours(PointsExpired, "points"):
            expired += points if period.holds(at_us) else 0
        for _, at_us, points, forgiven in self._ours(EarningReversed, "points", "forgiven"):
            reversed_ += points - forgiven if period.holds(at_us) else 0
        for _, at_us, points, taken in self._ours(RedemptionReversed, "points", "reversed"):
            if period.holds(at_us):
                given_back += points
                reversed_ += sum([part[_PART_POINTS] for part in taken])
        for _, at_us, taken in self._ours(HoldReleased, "reversed"):
            reversed_ += sum([part[_PART_POINTS] for part in taken]) if period.holds(at_us) else 0
        return earned, redeemed, expired, Moved(earnings, reversed_, given_back, frozenset(customers))

    def outcomes(self, period: Period, rules: frozenset[str]) -> dict[UUID, Outcome]:
        """What each account that was open at some time of a period did in it; `rules`: those of a campaign."""
        members = {
            customer: one
            for customer, one in self.members().items()
            if one.from_us < period.end_us and one.to_us > period.start_us
        }
        purchases: Counter[bytes] = Counter()
        net: Counter[bytes] = Counter()
        points: Counter[bytes] = Counter()
        reached: set[bytes] = set()

        def counts(customer: bytes, at_us: int) -> bool:
            return period.holds(at_us) and customer in members and members[customer].holds(at_us)

        sold, returned = self.sales(period)
        for customer, at_us, minor in sold:
            if counts(customer, at_us):
                purchases[customer] += 1
                net[customer] += minor
        for customer, at_us, minor in returned:
            if counts(customer, at_us):
                net[customer] -= minor
        for customer, at_us, given, by in self._ours(PointsEarned, "points", "rule_ids"):
            if counts(customer, at_us):
                points[customer] += given
                if not rules.isdisjoint(by):
                    reached.add(customer)
        return {
            account_id(known_uuid(one), self.programme): Outcome(purchases[one], net[one], points[one], one in reached)
            for one in members
        }

    def rewards(self, period: Period) -> list[RewardFigures]:
        """What became of each reward in a period, the most taken first."""
        redeemed: Counter[str] = Counter()
        points: Counter[str] = Counter()
        returned: Counter[str] = Counter()
        customers: defaultdict[str, set[bytes]] = defaultdict(set)
        refused: defaultdict[str, Counter[str]] = defaultdict(Counter)
        coupons: defaultdict[str, Counter[str]] = defaultdict(Counter)
        reward_of: dict[bytes, str] = {}  # by redemption, and by coupon
        for customer, at_us, spent, reward, facts in self._ours(PointsRedeemed, "points", "reward", "facts"):
            reward_of[facts[0]] = reward
            if period.holds(at_us):
                redeemed[reward] += 1
                points[reward] += spent
                customers[reward].add(customer)
        for _, at_us, back, redemption in self._ours(RedemptionReversed, "points", "redemption_id"):
            if period.holds(at_us) and redemption in reward_of:
                returned[reward_of[redemption]] += back
        for _, at_us, reward, code in self._ours(RedemptionRefused, "reward", "code"):
            if period.holds(at_us):
                refused[reward][code] += 1
        for _, at_us, coupon, reward in self._ours(CouponIssued, "coupon_id", "reward"):
            reward_of[coupon] = reward
            coupons[reward]["issued"] += period.holds(at_us)
        for _, at_us, coupon, outcome in self._ours(CouponClosed, "coupon_id", "outcome"):
            if coupon in reward_of:  # as known by the clock of a host that went back, it may not be
                coupons[reward_of[coupon]][outcome] += period.holds(at_us)
        prices = {name: reward.price for name, reward in self.rules.rewards.items()}
        all_of_them = redeemed.total()
        seen = {*prices, *redeemed, *refused, *returned, *(name for name, of in coupons.items() if of.total())}
        return [
            RewardFigures(
                name,
                prices.get(name),
                share(redeemed[name], all_of_them),
                len(customers[name]),
                points[name],
                returned[name],
                dict(sorted(refused[name].items())),
                coupons[name]["issued"],
                coupons[name]["used"],
                coupons[name]["voided"] + coupons[name]["withdrawn"],
                coupons[name]["expired"],
            )
            for name in sorted(seen, key=lambda name: (-redeemed[name], -points[name], name))
        ]


def rate_of(given: Rate, name: str, most: int) -> Fraction:
    """A number from 0 on. Refuses: invalid_argument."""
    try:
        if isinstance(given, (bool, float)) or (isinstance(given, str) and len(given) > 40):
            raise ValueError
        found = Fraction(given)
        if not 0 <= found <= most:
            raise ValueError
    except (ValueError, TypeError, ZeroDivisionError):
        raise refusal(
            "invalid_argument", f'{name}: a text like "0.35" or "7/20", from 0 to {most}, is wanted.', argument=name
        ) from None
    return found


def day_text(day: int) -> str:
    """A day as 2025-12-31."""
    year, month, of_month = civil_from_days(day)
    return f"{year:04}-{month:02}-{of_month:02}"


def day_of(given: Day, name: str) -> int:
    """A day as days since 1970-01-01. Refuses: invalid_argument."""
    try:
        found = date.fromisoformat(given) if isinstance(given, str) else given
        if isinstance(found, datetime) or not isinstance(found, date):
            raise ValueError
        day = days_from_civil(found.year, found.month, found.day)
    except ValueError:
        raise refusal("invalid_argument", f"{name}: a day as 2025-12-31 is wanted.", argument=name) from None
    if not EARLIEST_US <= day * DAY_US < LATEST_US:
        raise refusal("invalid_argument", f"{name}: a day between the years 1 and 9000 is wanted.", argument=name)
    return day
