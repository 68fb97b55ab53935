"""What `book.loyalty` shows of a whole programme: balances, what expires, what is outstanding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.form import uuid_from
from tallybook.domain.calendar import DAY_US, Zone
from tallybook.domain.control import Control
from tallybook.domain.earning import Rules, cohort
from tallybook.domain.errors import refusal, text
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import LoyaltyAccount, inactive_us
from tallybook.domain.points import BUCKETS, PLACES
from tallybook.projections.balances import Balances, OpenLot, OutstandingPoints, expiring, open_lots, outstanding
from tallybook.projections.exclusions import NOBODY, Scored
from tallybook.projections.programme import (
    CAMPAIGN_FORMULAS,
    FORMULAS,
    Buying,
    CampaignGroup,
    Cost,
    Difference,
    Gain,
    Outcome,
    Participation,
    PointsFlow,
    RewardFigures,
    additional,
    beside_others,
    campaign_group,
    cost,
    difference,
    flow,
    gain,
    share,
)
from tallybook.projections.read_models import OPEN_END
from tallybook.projections.replay import FACT_NAMES, derived_by
from tallybook.projections.tiers import Tiers

from .commands import Desk
from .core import LOOKING
from .customers import DEFAULT_PROGRAMME
from .programme_facts import Day, Facts, Rate, day_of, day_text
from .times import EARLIEST_US, When, as_of_us, iso, moment_us

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ProgrammeBalances:
    """The points of all accounts of a programme by bucket, as in `AccountView`.

    earned + transferred_in + adjusted_up + reinstated + debt = pending + active + held + spent + expired + reversed +
    transferred_out + adjusted_down. `swept_until`: up to when a sweep has recorded for every account what time alone
    decides; None: none has.
    """

    programme: str
    as_of: str
    swept_until: str | None
    pending: int
    active: int
    held: int
    earned: int
    transferred_in: int
    adjusted_up: int
    reinstated: int
    spent: int
    expired: int
    reversed: int
    transferred_out: int
    adjusted_down: int
    debt: int


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What customers have of a programme's points: the base of its liability. The sums are those of the `rows`.

    `overdue` points are in none of them: their time was over, and no sweep has recorded it yet.
    """

    programme: str
    as_of: str
    zone: str
    points: int
    pending: int
    active: int
    held: int
    overdue: int
    rows: tuple[OutstandingPoints, ...]


@dataclass(frozen=True, slots=True)
class ExpiringPoints:
    """Points that a customer loses: how many up to the moment asked for, when the first of them go, and why: `expiry`
    or `inactivity`."""

    customer_id: UUID
    points: int
    first_at: str
    reason: str


@dataclass(frozen=True, slots=True)
class Expiring(Scored[ExpiringPoints]):
    """Who loses points up to a moment, soonest first; and how many who do are left out of the list, by the reason.

    `by_day` are the points of all, by the last day on which they can be spent; `points` is their sum.
    """

    until: str = ""
    points: int = 0
    by_day: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProgrammeFigures:
    """A programme in a period: what members do beside others, who takes part, points, what they cost.

    `before` is the period that `retention` compares with. `formulas` say how each figure is counted. Of `position`
    events; `restricted` and `objecting` customers are left out, and `unconverted` purchases in currencies without a
    rate.
    """

    programme: str
    since: str
    until: str
    before: tuple[str, str]
    zone: str
    rules: str
    currency: str
    position: int
    members: Buying
    others: Buying
    participation: Participation
    points: PointsFlow
    cost: Cost | None
    unconverted: int
    restricted: int
    objecting: int
    formulas: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CampaignEffect:
    """What the accounts that a campaign was for did beside its control group.

    `net_per_account` is in minor units, `buyers` for 10,000 accounts. They, the additional figures and `gain` are None
    where no control group was drawn. `between`: accounts that some of the campaign's rules leave out and others don't,
    in neither group. Else as `ProgrammeFigures`.
    """

    campaign: str
    programme: str
    since: str
    until: str
    zone: str
    rules: str
    currency: str
    position: int
    control_percent: int
    treated: CampaignGroup
    control: CampaignGroup
    between: int
    net_per_account: Difference | None
    buyers: Difference | None
    additional_net_minor: int | None
    additional_points: int | None
    gain: Gain | None
    unconverted: int
    restricted: int
    objecting: int
    formulas: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RewardPopularity:
    """How often each reward was taken in a period, most often first; those of the catalogue that nobody took, too."""

    programme: str
    since: str | None
    until: str
    zone: str
    rules: str
    position: int
    redemptions: int
    points: int
    rewards: tuple[RewardFigures, ...]


HALF = 2**31
"""What sums are taken apart by, so that a database adds them up within 64 bits."""


class _Seen(NamedTuple):
    """A programme at a moment. `accounts` are derived for it; None: the read model has what is recorded by now."""

    programme: str
    at_us: int
    control: Control
    rules: Rules
    accounts: Sequence[LoyaltyAccount] | None


class LoyaltyViews(Desk):
    """Figures of programmes. They hold no personal value, so that none is a recorded read."""

    def balances(
        self,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
    ) -> ProgrammeBalances:
        """The points of all accounts by bucket: as recorded by now; or at a moment of the world (`as_of`), as the book
        knew it (`known_at`: time or position), derived anew as `account` does, with all that is due by then.

        Refuses: no_rule_set, naive_time, invalid_argument.
        """
        seen = self._seen(programme, as_of, known_at)
        if seen.accounts is None:
            core = self._core
            core.catch_up(core.balances)
            # Two sums for each: of many full accounts, one would not have 64 bits.
            columns = [part for one in BUCKETS for part in (f"SUM({one} / {HALF})", f"SUM({one} % {HALF})")]
            [row] = core.store.select(core.balances, Balances.table, columns, "programme=?", [programme])
            halves = [int(found or 0) for found in row]
            sums = [high * HALF + low for high, low in zip(halves[::2], halves[1::2], strict=True)]
        else:
            sums = [sum(one.bucket(bucket) for one in seen.accounts) for bucket in BUCKETS]
        control = seen.control
        swept_us = control.horizon_us if control.sweep_is_finished and not control.passed_over else None
        return ProgrammeBalances(
            programme, iso(seen.at_us) or "", iso(swept_us), **dict(zip(BUCKETS, sums, strict=True))
        )

    def outstanding(
        self,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
    ) -> Outstanding:
        """What all accounts have, by the month in which it was earned and the tier: the base of the liability.

        As recorded by now, or derived for a moment, as `balances`. Refuses: no_rule_set, naive_time, invalid_argument.
        """
        seen = self._seen(programme, as_of, known_at)
        zone = seen.rules.zone
        with rarely_collecting():
            lots = self._lots(seen)
            rows, overdue = outstanding(lots, self._tiers(seen), seen.at_us, zone)
        pending, active, held = (sum(getattr(one, place) for one in rows) for place in PLACES)
        return Outstanding(
            programme,
            iso(seen.at_us) or "",
            zone.name,
            pending + active + held,
            pending,
            active,
            held,
            overdue,
            tuple(rows),
        )

    def expiring(
        self,
        until: When | Day,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
        everybody: bool = False,
    ) -> Expiring:
        """Who loses points by a moment if nothing happens, by their expiry or the account's inactivity; soonest first.

        A plain date means by the end of that day in the programme's zone. Customers whose data is restricted, and those
        who object to automated decisions, are left out and counted: it is a list that people are written to from. With
        `everybody` they are in it. As recorded by now, or derived for a moment, as `balances`.
        Refuses: no_rule_set, naive_time, invalid_argument.
        """
        seen = self._seen(programme, as_of, known_at)
        zone = seen.rules.zone
        until_us = _until_us(until, zone)
        with rarely_collecting():
            found, by_day = expiring(self._lots(seen), seen.at_us, until_us, zone)
        core = self._core
        listed = [
            ExpiringPoints(uuid_from(one.customer), one.points, iso(one.at_us) or "", one.reason) for one in found
        ]
        left_out = NOBODY if everybody else core.left_out(seen.at_us, core.known_at(known_at))
        return Expiring(
            tuple([one for one in listed if one.customer_id not in left_out]),
            sum(one.customer_id in left_out.restricted for one in listed),
            sum(one.customer_id in left_out.objecting for one in listed),
            until=iso(until_us) or "",
            points=sum(by_day.values()),
            by_day={day_text(day): points for day, points in by_day.items()},
        )

    def programme_figures(
        self,
        since: Day,
        until: Day,
        *,
        programme: str = DEFAULT_PROGRAMME,
        margin: Rate | None = None,
        point_cost: Rate | None = None,
        known_at: When | int | None = None,
    ) -> ProgrammeFigures:
        """A programme from day to day (both included, in its zone): members beside others, who takes part, points, and
        what they cost beside the margin.

        `margin`: what of the net amount is left after the cost of the goods ("0.35"): no purchase carries it, so that
        without it there is no `cost`. `point_cost`: what a redeemed point costs, in minor units (default: the rule
        set's `point_price`). Customers whose data is restricted, and those who object to automated decisions, are left
        out and counted. Refuses: no_rule_set, naive_time, invalid_argument.
        """
        _must_go_with(margin, point_cost)
        facts = self._facts(programme, known_at, until)
        period = facts.period(since, until)
        before = period.before(facts.zone)
        sales, returned = facts.sales(period)
        members = facts.members()
        ours, others = beside_others(sales, returned, members, period, before, facts.zone)
        earned, redeemed, expired, moved = facts.points(period)
        points = flow(earned - moved.reversed, redeemed - moved.given_back, expired, moved.earnings)
        bought = {sale.customer for sale in sales if period.holds(sale.at_us)}
        at_end = {one for one, membership in members.items() if membership.holds(period.end_us - 1)}
        registered = facts.registered(period.end_us)
        everybody = share(ours.buyers, ours.buyers + others.buyers)
        return ProgrammeFigures(
            programme,
            day_text(period.first),
            day_text(period.last),
            (day_text(before.first), day_text(before.last)),
            facts.zone.name,
            facts.rules.label,
            facts.rules.rule_set.currency,
            facts.head,
            ours,
            others,
            Participation(
                share(len(at_end), len(registered)),
                share(len(at_end & (bought | moved.customers)), len(at_end)),
                sum(period.holds(one.from_us) for one in members.values()),
                sum(period.holds(one.to_us) for one in members.values()),
                everybody,
                share(ours.purchases, ours.purchases + others.purchases),
                share(ours.net_minor, ours.net_minor + others.net_minor, ours.purchases + others.purchases),
            ),
            points,
            None if margin is None else cost(ours, points, *facts.rates(margin, point_cost)),
            facts.unconverted,
            len(facts.left_out.restricted),
            len(facts.left_out.objecting),
            FORMULAS,
        )

    def campaign_effect(
        self,
        campaign: str,
        *,
        since: Day | None = None,
        until: Day | None = None,
        programme: str = DEFAULT_PROGRAMME,
        margin: Rate | None = None,
        point_cost: Rate | None = None,
        known_at: When | int | None = None,
    ) -> CampaignEffect:
        """What a campaign changed, against the control group that its rules (`control_percent`) left out of it.

        From its first day to its last (or to today), unless other days are given. Everybody in a group counts, whatever
        he did. `margin` and `point_cost` as in `programme_figures`; without `margin` there is no `gain`.
        Refuses: no_rule_set, naive_time, invalid_argument (no rule is of that campaign).
        """
        _must_go_with(margin, point_cost)
        text(campaign, "campaign")
        facts = self._facts(programme, known_at, until)
        ran = facts.ran(campaign)
        first, last = facts.zone.day(ran.start_us), facts.zone.day(ran.end_us - 1)
        period = facts.period(first if since is None else since, last if until is None else until)
        groups: dict[str, list[Outcome]] = {"treated": [], "control": [], "between": []}
        for account, outcome in facts.outcomes(period, ran.rules).items():
            drawn = cohort(account, campaign)
            groups["control" if drawn < ran.least else "treated" if drawn >= ran.most else "between"].append(outcome)
        treated, control = groups["treated"], groups["control"]
        net = [one.net_minor for one in treated], [one.net_minor for one in control]
        buyers = [10_000 * (one.purchases > 0) for one in treated], [10_000 * (one.purchases > 0) for one in control]
        more_net = additional(*net)
        more_points = additional([one.points for one in treated], [one.points for one in control])
        return CampaignEffect(
            campaign,
            programme,
            day_text(period.first),
            day_text(period.last),
            facts.zone.name,
            facts.rules.label,
            facts.rules.rule_set.currency,
            facts.head,
            ran.least,
            campaign_group(treated),
            campaign_group(control),
            len(groups["between"]),
            difference(*net),
            difference(*buyers),
            more_net,
            more_points,
            None
            if margin is None or more_net is None or more_points is None
            else gain(more_net, more_points, *facts.rates(margin, point_cost)),
            facts.unconverted,
            len(facts.left_out.restricted),
            len(facts.left_out.objecting),
            CAMPAIGN_FORMULAS,
        )

    def reward_popularity(
        self,
        since: Day | None = None,
        until: Day | None = None,
        *,
        programme: str = DEFAULT_PROGRAMME,
        known_at: When | int | None = None,
    ) -> RewardPopularity:
        """How often each reward was redeemed, by how many, for how many points, what came back and what was refused;
        and what became of its coupons.

        From day to day (both included, in the programme's zone; default: all days, to today). All accounts count: it is
        a sum of the books. Refuses: no_rule_set, naive_time, invalid_argument.
        """
        facts = self._facts(programme, known_at, until, everybody=True)
        first = facts.zone.day(EARLIEST_US) if since is None else since
        period = facts.period(first, facts.zone.day(facts.at_us) if until is None else until)
        rewards = facts.rewards(period)
        return RewardPopularity(
            programme,
            None if since is None else day_text(period.first),
            day_text(period.last),
            facts.zone.name,
            facts.rules.label,
            facts.head,
            sum(one.redemptions.part for one in rewards),
            sum(one.points for one in rewards),
            tuple(rewards),
        )

    def _facts(
        self, programme: str, known_at: When | int | None, until: Day | None, *, everybody: bool = False
    ) -> Facts:
        """What is counted: of what the book knows at one moment."""
        core = self._core
        core.check_open()
        text(programme, "programme")
        now_us, head, known = core.now_us(), core.app.position(), core.known_at(known_at)
        if known_at is None:
            control = core.app.load(Control, core.book_id)
        else:
            control = Control(core.book_id)
            for position, event in core.stream(core.book_id):
                if known(position, event.metadata.recorded_us):
                    control.apply(event)
        if isinstance(known_at, int):
            head = min(head, known_at)
        at_us = now_us
        if until is not None:
            zone = self._rules(control, programme, now_us).zone
            at_us = min(now_us, zone.utc_us((day_of(until, "until") + 1) * DAY_US) - 1)
        left_out = NOBODY if everybody else core.left_out(now_us, known)
        return Facts(core, programme, self._rules(control, programme, at_us), control, at_us, head, known, left_out)

    # ── where figures come from ─────────────────────────────────────────────────────────────────────────────────

    def _seen(self, programme: str, as_of: When | None, known_at: When | int | None) -> _Seen:
        core = self._core
        core.check_open()
        text(programme, "programme")
        at_us = core.now_us() if as_of is None else as_of_us(as_of)
        accounts: list[LoyaltyAccount] | None = None
        if as_of is None and known_at is None:
            control = core.app.load(Control, core.book_id)
        else:
            with rarely_collecting():
                derivation = derived_by(filter(core.known(known_at), core.history(FACT_NAMES)), at_us)
                control = derivation.control
                accounts = [one for one in derivation.accounts.values() if one.programme == programme]
                for account in accounts:
                    account.settle(LOOKING, at_us, control)
        return _Seen(programme, at_us, control, self._rules(control, programme, at_us), accounts)

    @staticmethod
    def _rules(control: Control, programme: str, at_us: int) -> Rules:
        rules = control.rule_book.in_force(programme, at_us)
        if rules is None:
            raise refusal("no_rule_set", f"No rule set is in force for {programme} at that time.", programme=programme)
        return rules

    def _lots(self, seen: _Seen) -> Iterator[OpenLot]:
        """All lots of which something is left."""
        programme = seen.programme
        if seen.accounts is not None:
            for account in seen.accounts:
                gone_us = inactive_us(seen.control.rule_book, programme, account.moved_us)
                yield from open_lots(account, NEVER if gone_us is None else gone_us)
            return
        core = self._core
        core.catch_up(core.balances, core.tiers)
        gone = self._gone(seen)
        columns = ["account", "customer", "earned_us", "expires_us", *PLACES]
        where = f"programme=? AND {'+'.join(PLACES)}>0"
        for row in core.store.select(core.balances, Balances.table, columns, where, [programme]):
            yield OpenLot._make((*row, gone.get(row[0], NEVER)))

    def _gone(self, seen: _Seen) -> Mapping[bytes, int]:
        """When the inactivity of accounts takes what they have, where rule sets say that it does."""
        core, programme, control = self._core, seen.programme, seen.control
        if not any(one.rules().rule_set.inactivity_months for one in control.adopted if one.programme == programme):
            return {}
        of_each = "programme=? GROUP BY account"
        enrolled = core.store.select(core.tiers, Tiers.memberships, ["account", "MIN(from_us)"], of_each, [programme])
        moved = dict(
            core.store.select(core.balances, Balances.table, ["account", "MAX(moved_us)"], of_each, [programme])
        )
        found = {}
        for account, since_us in enrolled:
            gone_us = inactive_us(control.rule_book, programme, max(since_us, moved.get(account, since_us)))
            if gone_us is not None:
                found[account] = gone_us
        return found

    def _tiers(self, seen: _Seen) -> Mapping[bytes, str]:
        """The tier of each account."""
        if seen.accounts is not None:
            return {account.id.bytes: account.tier or "" for account in seen.accounts}
        core = self._core
        core.catch_up(core.tiers)
        where, params = "programme=? AND to_position=?", [seen.programme, OPEN_END]
        return dict(core.store.select(core.tiers, Tiers.memberships, ["account", "tier"], where, params))


def _must_go_with(margin: Rate | None, point_cost: Rate | None) -> None:
    if margin is None and point_cost is not None:
        raise refusal("invalid_argument", "point_cost: it is set against a margin: give one.", argument="point_cost")


def _until_us(until: When | Day, zone: Zone) -> int:
    """A moment; of a plain date, the midnight with which it ends."""
    if isinstance(until, datetime) or (isinstance(until, str) and not _DAY.fullmatch(until)):
        return moment_us(until, "until")
    return zone.utc_us((day_of(until, "until") + 1) * DAY_US)
