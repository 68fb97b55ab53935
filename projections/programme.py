"""Figures of a programme, counted from facts and decisions: what members do beside others, what a campaign did, which
rewards are taken.

Money is in minor units of the programme's currency. Each figure's formula stands in `FORMULAS`, and in each result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, isqrt
from typing import NamedTuple

from tallybook.domain.calendar import DAY_US, Zone, civil_from_days, days_in_month, shift_months

FEW = 30
"""Of fewer a share or a mean says little: it is marked."""
Z_95 = Fraction(196, 100)
"""Standard errors either side of a mean within which the true one lies in 95 of 100 cases."""


@dataclass(frozen=True, slots=True)
class Share:
    """`part` of `whole`. `few`: fewer than 30 were counted, so that it says little."""

    part: int
    whole: int
    few: bool


def share(part: int, whole: int, counted: int | None = None) -> Share:
    """`counted`: how many there were, where `whole` is no count."""
    return Share(part, whole, (whole if counted is None else counted) < FEW)


def nearest(value: Fraction) -> int:
    """The nearest integer; of two, the greater."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def per(amount: int, count: int) -> int | None:
    """An amount for each of a count; None of none."""
    return nearest(Fraction(amount, count)) if count else None


# ── periods ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Period(NamedTuple):
    """Local days of a zone, both included, and the instants from and before which they last."""

    first: int
    last: int
    start_us: int
    end_us: int

    @classmethod
    def of(cls, first: int, last: int, zone: Zone) -> Period:
        """From day to day, as days since 1970-01-01."""
        return cls(first, last, zone.utc_us(first * DAY_US), zone.utc_us((last + 1) * DAY_US))

    def holds(self, at_us: int) -> bool:
        """Whether a moment lies in it."""
        return self.start_us <= at_us < self.end_us

    def before(self, zone: Zone) -> Period:
        """The one before: as many months where these are whole ones, as many days else."""
        year, month, day = civil_from_days(self.first)
        to_year, to_month, to_day = civil_from_days(self.last)
        first = self.first - (self.last + 1 - self.first)
        if day == 1 and to_day == days_in_month(to_year, to_month):
            first = shift_months(self.first, year * 12 + month - (to_year * 12 + to_month) - 1)
        return Period.of(first, self.first - 1, zone)


class Membership(NamedTuple):
    """From when on, and until when, a customer has an account."""

    from_us: int
    to_us: int

    def holds(self, at_us: int) -> bool:
        """Whether the customer is a member at a moment."""
        return self.from_us <= at_us < self.to_us


Members = Mapping[bytes, Membership]
"""By customer."""


class Sale(NamedTuple):
    """A purchase, or what came back of one: `at_us` is when it was bought."""

    customer: bytes
    at_us: int
    minor: int


# ── members beside others ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Buying:
    """What a group bought in a period. `net_minor` is less what came back (`returned_minor`)."""

    buyers: int
    purchases: int
    net_minor: int
    returned_minor: int
    per_buyer_minor: int | None
    per_purchase_minor: int | None
    repurchase: Share
    retention: Share


class _Tally:
    def __init__(self) -> None:
        self.buyers: set[bytes] = set()
        self.purchases = 0
        self.sold = 0
        self.returned = 0
        self.began = 0
        self.again = 0
        self.before = 0
        self.stayed = 0

    def buying(self) -> Buying:
        net = self.sold - self.returned
        return Buying(
            len(self.buyers),
            self.purchases,
            net,
            self.returned,
            per(net, len(self.buyers)),
            per(net, self.purchases),
            share(self.again, self.began),
            share(self.stayed, self.before),
        )


def beside_others(
    sales: Iterable[Sale], returned: Iterable[Sale], members: Members, period: Period, before: Period, zone: Zone
) -> tuple[Buying, Buying]:
    """What members bought in a period, and what others did. `returned` is what came back in the period."""
    groups = _Tally(), _Tally()

    def group(customer: bytes, at_us: int) -> _Tally:
        membership = members.get(customer)
        return groups[0 if membership is not None and membership.holds(at_us) else 1]

    first: dict[bytes, tuple[int, int, int]] = {}  # when first, and the first and the last day
    earlier: set[bytes] = set()
    for customer, at_us, minor in sales:
        if period.holds(at_us):
            tally = group(customer, at_us)
            tally.buyers.add(customer)
            tally.purchases += 1
            tally.sold += minor
            day = zone.day(at_us)
            had = first.get(customer)
            first[customer] = (
                (at_us, day, day) if had is None else (min(had[0], at_us), min(had[1], day), max(had[2], day))
            )
        elif before.holds(at_us):
            earlier.add(customer)
    for customer, (at_us, first_day, last_day) in first.items():
        tally = group(customer, at_us)
        tally.began += 1
        tally.again += last_day > first_day
    for customer in earlier:
        tally = group(customer, period.start_us - 1)
        tally.before += 1
        tally.stayed += customer in first
    for customer, at_us, minor in returned:
        group(customer, at_us).returned += minor
    return groups[0].buying(), groups[1].buying()


@dataclass(frozen=True, slots=True)
class Participation:
    """Who takes part, at the end of a period and in it."""

    members: Share
    """Of all customers, at the end."""
    active: Share
    """Members at the end who bought, earned or redeemed in the period."""
    enrolled: int
    closed: int
    buyers: Share
    purchases: Share
    net: Share
    """What of all that was bought members bought: of buyers, purchases and the net amount."""


@dataclass(frozen=True, slots=True)
class PointsFlow:
    """Points of a period, by when it took effect. `earned` is less what returns took back, `redeemed` less what was
    given back."""

    earned: int
    redeemed: int
    expired: int
    redemption: Share
    """Redeemed of earned."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What points cost beside the margin of what members bought. `cost` is that of what was redeemed, of the margin."""

    margin: str
    point_cost: str
    margin_minor: int
    redeemed_minor: int
    earned_minor: int
    cost: Share


def flow(earned: int, redeemed: int, expired: int, decisions: int) -> PointsFlow:
    """`decisions`: how many earnings there were."""
    return PointsFlow(earned, redeemed, expired, share(redeemed, earned, decisions))


def cost(members: Buying, points: PointsFlow, margin: Fraction, point_cost: Fraction) -> Cost:
    """What the points cost: each redeemed one `point_cost` minor units; `margin` is the share of the net amount."""
    margin_minor = nearest(members.net_minor * margin)
    redeemed_minor = nearest(points.redeemed * point_cost)
    return Cost(
        str(margin),
        str(point_cost),
        margin_minor,
        redeemed_minor,
        nearest(points.earned * point_cost),
        share(redeemed_minor, margin_minor, members.buyers),
    )


# ── a campaign beside its control group ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CampaignGroup:
    """What the accounts of a group did in the time of a campaign, whether or not they did what it rewards.

    `reached` got points by a rule of it; `points` are all that the group earned.
    """

    accounts: int
    reached: Share
    buyers: Share
    purchases: int
    net_minor: int
    net_per_account_minor: int | None
    points: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Treated less control: the estimate, and between what the true difference lies in 95 of 100 cases.

    `clear`: 0 does not lie between.
    """

    estimate: int
    low: int
    high: int
    clear: bool


@dataclass(frozen=True, slots=True)
class Gain:
    """What the campaign brought beside what it cost: margin of the additional net amount, cost of additional points."""

    margin: str
    point_cost: str
    margin_minor: int
    points_minor: int
    gain_minor: int


class Outcome(NamedTuple):
    """What one account did."""

    purchases: int = 0
    net_minor: int = 0
    points: int = 0
    reached: bool = False


def campaign_group(outcomes: Iterable[Outcome]) -> CampaignGroup:
    """The sums of a group."""
    all_of_them = list(outcomes)
    accounts = len(all_of_them)
    net = sum(one.net_minor for one in all_of_them)
    return CampaignGroup(
        accounts,
        share(sum(one.reached for one in all_of_them), accounts),
        share(sum(one.purchases > 0 for one in all_of_them), accounts),
        sum(one.purchases for one in all_of_them),
        net,
        per(net, accounts),
        sum(one.points for one in all_of_them),
    )


def difference(treated: Sequence[int], control: Sequence[int]) -> Difference | None:
    """Of the means, by Welch's standard error; None where a group has fewer than two."""
    if min(len(treated), len(control)) < 2:
        return None
    estimate = _mean(treated) - _mean(control)
    squared = _variance(treated) / len(treated) + _variance(control) / len(control)
    low, high = estimate - Z_95 * _root(squared), estimate + Z_95 * _root(squared)
    return Difference(nearest(estimate), floor(low), ceil(high), not low <= 0 <= high)


def additional(treated: Sequence[int], control: Sequence[int]) -> int | None:
    """What the treated had more than they would have as the control group had: the difference of the means, for each
    of them."""
    if not treated or not control:
        return None
    return nearest((_mean(treated) - _mean(control)) * len(treated))


def gain(net_minor: int, points: int, margin: Fraction, point_cost: Fraction) -> Gain:
    """Of an additional net amount and additional points."""
    margin_minor, points_minor = nearest(net_minor * margin), nearest(points * point_cost)
    return Gain(str(margin), str(point_cost), margin_minor, points_minor, margin_minor - points_minor)


def _mean(values: Sequence[int]) -> Fraction:
    return Fraction(sum(values), len(values))


def _variance(values: Sequence[int]) -> Fraction:
    total = sum(values)
    return (sum(value * value for value in values) - Fraction(total * total, len(values))) / (len(values) - 1)


def _root(value: Fraction) -> Fraction:
    """Its square root, not above it by more than a millionth."""
    scale = 10**6
    return Fraction(isqrt(value.numerator * value.denominator * scale * scale), value.denominator * scale)


# ── rewards ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RewardFigures:
    """How a reward was taken in a period. `price` is that of the rule set in force at its end (None: not in it).

    `points` were spent on it, `returned_points` came back. `refused`: attempts that failed, by the reason. Coupons: of
    redemptions, and those that tiers grant.
    """

    reward: str
    price: int | None
    redemptions: Share
    """Of all redemptions."""
    customers: int
    points: int
    returned_points: int
    refused: Mapping[str, int]
    coupons_issued: int
    coupons_used: int
    coupons_voided: int
    coupons_expired: int


FORMULAS: Mapping[str, str] = {
    "member": "has an account: from enrolment until it is closed; of each purchase, at the time of the purchase",
    "net_minor": "net amount of the purchases of the period, converted by the rates of `rules`, less what came back in "
    "it; what came back belongs to the group of its purchase",
    "per_buyer_minor": "net_minor / buyers, to the nearest",
    "per_purchase_minor": "net_minor / purchases, to the nearest",
    "repurchase": "customers who bought again on a later day of the period / customers who bought in it, by group at "
    "their first purchase in it",
    "retention": "customers who bought in the period before and in this one / customers who bought in the period "
    "before, by group at its end",
    "participation.members": "members at the end / customers registered by then",
    "participation.active": "members at the end who bought, earned or redeemed in the period / members at the end",
    "participation.buyers": "buyers while members / buyers while members + buyers while not; whoever joins meanwhile "
    "may be both",
    "points.earned": "points earned, less those that returns took back, by when it took effect",
    "points.redeemed": "points redeemed, less those given back",
    "points.redemption": "points.redeemed / points.earned",
    "cost.margin_minor": "net_minor of members × margin",
    "cost.redeemed_minor": "points.redeemed × point_cost",
    "cost.earned_minor": "points.earned × point_cost",
    "cost.cost": "cost.redeemed_minor / cost.margin_minor",
    "few": "fewer than 30 counted",
}
"""Of the programme's figures. They describe: that members buy more does not say that the programme is why."""
CAMPAIGN_FORMULAS: Mapping[str, str] = {
    "control": "accounts whose cohort for the campaign is below control_percent; drawn by the ids alone",
    "treated": "the other accounts of the programme; both: those open at some time of the period, whatever they did "
    "(intention to treat), from their enrolment on",
    "net_minor": "net amount of the purchases of the period, converted by the rates of `rules`, less what came back of "
    "them in it",
    "net_per_account": "mean of treated − mean of control, in minor units; between mean ± 1.96 standard errors (Welch)",
    "buyers": "the same of accounts that bought, for 10,000 accounts",
    "additional_net_minor": "(mean of treated − mean of control) × treated accounts",
    "additional_points": "the same of all points earned",
    "gain.gain_minor": "additional_net_minor × margin − additional_points × point_cost",
    "few": "fewer than 30 counted",
}
"""Of a campaign's effect."""
