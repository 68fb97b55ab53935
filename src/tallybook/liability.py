"""`book.loyalty.liability`: what a programme owes for its points, by IFRS 15. From the log; no personal value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from tallybook.domain.control import Control
from tallybook.domain.errors import refusal, text
from tallybook.domain.liability import PriceAllocated, RedemptionEstimated, valuation_id
from tallybook.domain.points import EarningReversed
from tallybook.projections.liability import POOLED, Allocations, Known, Pool, Valued, fill, in_force, valued
from tallybook.projections.read_models import Recorded

from .core import Core
from .statements import ArithmeticLine
from .times import When, as_of_us, iso


@dataclass(frozen=True, slots=True)
class EstimateView:
    """An estimate: of `issued` points, `expected` are thought to be redeemed in the end."""

    fact_id: UUID
    expected: int
    issued: int
    effective_at: str
    recorded_at: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class AllocationView:
    """A price that people allocated to all points issued up to its effective time."""

    fact_id: UUID
    allocated_minor: int
    currency: str
    effective_at: str
    recorded_at: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Liability:
    """What a programme owes for its points at a moment. Money in minor units of `currency`.

    issued = redeemed + expired + outstanding − debt. `expected` points are redeemed in the end, those that were
    included. allocated = recognised + liability. What was recognised before the period and in it: `since` says when
    that began; without it, all is in the period. `arithmetic` shows how; `notes` what to know beside it.
    """

    programme: str
    currency: str
    at: str
    issued: int
    redeemed: int
    expired: int
    outstanding: int
    debt: int
    expected: int
    allocated_minor: int
    recognised_minor: int
    liability_minor: int
    since: str | None
    recognised_before_minor: int
    recognised_in_period_minor: int
    estimate: EstimateView | None
    given: AllocationView | None
    arithmetic: tuple[ArithmeticLine, ...] = field(repr=False)
    notes: tuple[str, ...]


class _Moment(NamedTuple):
    """A moment of the world, as the book knew it."""

    at_us: int
    known: Known
    given: list[Recorded]


def liability(
    core: Core,
    programme: str,
    at: When | None,
    since: When | None,
    known_at: When | int | None,
    reported_at: When | int | None,
) -> Liability:
    """See `LoyaltyDesk.liability`."""
    core.check_open()
    text(programme, "programme")
    now = _moment(core, programme, core.time_of(known_at) if at is None else as_of_us(at, "at"), known_at)
    moments = [now]
    if since is not None:
        known = (known_at, "known_at") if reported_at is None else (reported_at, "reported_at")
        before = _moment(core, programme, as_of_us(since, "since"), *known)
        if before.at_us > now.at_us:
            raise refusal("invalid_argument", "since: it lies after the end of the period.", argument="since")
        moments.append(before)
    elif reported_at is not None:
        raise refusal("invalid_argument", "reported_at: say since when the period runs.", argument="reported_at")
    control = core.app.load(Control, core.book_id)
    rules = control.rule_book.in_force(programme, now.at_us)
    if rules is None:
        raise refusal("no_rule_set", f"No rule set is in force for {programme} at that time.", programme=programme)
    currency = rules.rule_set.currency
    pools = _pools(core, programme, control, currency, moments)
    [pool, *earlier] = pools
    found = valued(pool, in_force(now.given, RedemptionEstimated, now.at_us))
    notes = list(found.notes)
    if control.horizon_us is None or control.horizon_us < now.at_us:
        notes.append(
            f"What time made due after {iso(control.horizon_us) or 'the beginning'} counts once it is recorded: sweep "
            "first."
        )
    elif not control.sweep_is_finished:
        notes.append(f"The sweep to {iso(control.horizon_us)} was cut short: finish it first.")
    elif control.passed_over:
        notes.append(
            f"Accounts that the sweep to {iso(control.horizon_us)} passed over: {len(control.passed_over):,}. What "
            "time made due to them is not counted."
        )
    recognised_before = 0
    if earlier:
        recognised_before = valued(
            earlier[0], in_force(moments[1].given, RedemptionEstimated, moments[1].at_us)
        ).recognised_minor
    return _view(programme, currency, now, pool, found, moments, recognised_before, notes)


def issued(core: Core, programme: str, at_us: int) -> int:
    """Points of a programme that had been issued by a moment, as the book knows now."""
    pool = Pool(at_us, None)
    allocations = Allocations({}, "", frozenset())
    decisions = core.history([name for name in POOLED if name.startswith("loyalty.")])
    fill([(pool, lambda _: True)], decisions, programme, allocations)
    return pool.issued


def _moment(core: Core, programme: str, at_us: int, known_at: When | int | None, name: str = "known_at") -> _Moment:
    known = core.known(known_at, name)
    return _Moment(at_us, known, [one for one in core.stream(valuation_id(core.book_id, programme)) if known(one)])


def _pools(core: Core, programme: str, control: Control, currency: str, moments: Iterable[_Moment]) -> list[Pool]:
    pools = [(Pool(one.at_us, in_force(one.given, PriceAllocated, one.at_us)), one.known) for one in moments]
    labelled = {one.rules().label: one.rules() for one in control.adopted if one.programme == programme}
    returned = {
        event.lot_id for _, event in core.history([EarningReversed.stored_name]) if isinstance(event, EarningReversed)
    }
    fill(pools, core.history(POOLED), programme, Allocations(labelled, currency, returned))
    for pool, _ in pools:
        if pool.mixed or (pool.given is not None and pool.given.currency != currency):
            raise refusal(
                "mixed_currencies",
                f"Points of {programme} were sold under rule sets with other currencies than {currency}.",
                programme=programme,
                currency=currency,
            )
    return [pool for pool, _ in pools]


def _view(
    programme: str,
    currency: str,
    now: _Moment,
    pool: Pool,
    found: Valued,
    moments: list[_Moment],
    recognised_before: int,
    notes: list[str],
) -> Liability:
    estimate = in_force(now.given, RedemptionEstimated, now.at_us)
    given = pool.given
    return Liability(
        programme,
        currency,
        iso(now.at_us) or "",
        pool.issued,
        pool.redeemed,
        pool.expired,
        pool.outstanding,
        pool.debt,
        found.expected,
        found.allocated_minor,
        found.recognised_minor,
        found.liability_minor,
        iso(moments[1].at_us) if len(moments) > 1 else None,
        recognised_before,
        found.recognised_minor - recognised_before,
        None
        if estimate is None
        else EstimateView(
            estimate.event_id,
            estimate.expected,
            estimate.issued,
            iso(estimate.effective_us) or "",
            iso(estimate.metadata.recorded_us) or "",
            estimate.source,
            estimate.reason,
        ),
        None
        if given is None
        else AllocationView(
            given.event_id,
            given.allocated_minor,
            given.currency,
            iso(given.effective_us) or "",
            iso(given.metadata.recorded_us) or "",
            given.source,
            given.reason,
        ),
        tuple(ArithmeticLine(*line) for line in found.sums),
        tuple(notes),
    )
