"""What `book.loyalty` shows of a whole programme: balances, what expires, what is outstanding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.form import uuid_from
from tallybook.domain.calendar import DAY_US, Zone, civil_from_days, days_from_civil
from tallybook.domain.control import Control
from tallybook.domain.earning import Rules
from tallybook.domain.errors import refusal, text
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import LoyaltyAccount, inactive_us
from tallybook.domain.points import BUCKETS, PLACES
from tallybook.projections.balances import Balances, OpenLot, OutstandingPoints, expiring, open_lots, outstanding
from tallybook.projections.exclusions import NOBODY, Scored
from tallybook.projections.read_models import OPEN_END
from tallybook.projections.replay import FACT_NAMES, derived_by
from tallybook.projections.tiers import Tiers

from .commands import Desk
from .core import LOOKING
from .customers import DEFAULT_PROGRAMME
from .times import EARLIEST_US, LATEST_US, When, as_of_us, iso, moment_us

Day = date | str
"""A day as 2025-12-31, in the zone of the programme."""
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
            columns = [f"SUM({bucket})" for bucket in BUCKETS]
            [row] = core.store.select(core.balances, Balances.table, columns, "programme=?", [programme])
            sums = [int(found or 0) for found in row]
        else:
            sums = [sum(one.bucket(bucket) for one in seen.accounts) for bucket in BUCKETS]
        control = seen.control
        swept_us = control.horizon_us if control.sweep_is_finished else None
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


def _until_us(until: When | Day, zone: Zone) -> int:
    """A moment; of a plain date, the midnight with which it ends."""
    if isinstance(until, datetime) or (isinstance(until, str) and not _DAY.fullmatch(until)):
        return moment_us(until, "until")
    return zone.utc_us((day_of(until, "until") + 1) * DAY_US)
