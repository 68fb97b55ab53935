"""The state of a loyalty account: a fold of its own stream alone.

A fact from elsewhere (a purchase) touches it through the decisions that it caused. What is decided, and when, is in
`loyalty`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from .aggregate import Aggregate, Appliers, applies
from .copy_on_write import LayeredDict, SortedAmounts
from .events import REGISTRY
from .lots import Lot, Lots
from .points import (
    ACTIVE,
    DEBT,
    HELD,
    PENDING,
    PLACES,
    SOURCES,
    AccountClosed,
    AccountResumed,
    AccountSuspended,
    CouponClosed,
    CouponIssued,
    EarningReversed,
    Enrolled,
    HoldReleased,
    LotPart,
    LotsExtended,
    LoyaltyDecision,
    Move,
    NewLot,
    PointsActivated,
    PointsCredited,
    PointsEarned,
    PointsExpired,
    PointsHeld,
    PointsRedeemed,
    PointsTransferred,
    RedemptionHonoured,
    RedemptionReversed,
    ReferralCredited,
    TierChanged,
    TierOverridden,
    TierOverrideLifted,
    Use,
)
from .tiers import Window

POINTS_MAX = 2**61
"""Most points that ever come to one account, and most that count for its tier: so every sum of it has 64 bits.

What returns make a debt comes on top, and is never more than what was earned.
"""
OPEN, SUSPENDED, CLOSED = "open", "suspended", "closed"
BARRED = {SUSPENDED: "account_suspended", CLOSED: "account_closed"}
"""Status of an account → why it earns and spends nothing."""
OVERRIDDEN = "overridden"
"""Why a tier changed that people decided."""


class LineState(NamedTuple):
    """What of a lot is from one line of an order, and what of it came back. `basis` as in `LineShare`."""

    basis: int
    points: int
    qualifying: int
    returned: int = 0


class LotState(NamedTuple):
    """What an account remembers of a lot. `lines` is empty where no return can take anything back.

    `arrival` is its place among all that ever came to the account: of lots that are alike in their times, the first
    that came is used first. `since_us` is when it came to the account, which is later than `earned_us` where it kept
    its age. `expired` points of it were lost, at `expired_us` the last of them, and not given back; `recoverable` ones
    a return could not take.
    """

    fact: UUID
    arrival: int
    since_us: int
    earned_us: int
    activates_us: int
    expires_us: int
    lines: tuple[LineState, ...] = ()
    in_pieces: bool = False
    expired: int = 0
    expired_us: int = 0
    recoverable: int = 0
    pending: int = 0
    rule: str = ""
    """The first of the rules that gave it."""
    open_end: bool = False
    """Whether its end is decided when it becomes active."""


class SpentPart(NamedTuple):
    """So many points of one lot that a redemption used, or a hold set aside."""

    lot_id: UUID
    points: int


class HoldState(NamedTuple):
    """Points that are set aside. `arrival` as in `LotState`."""

    arrival: int
    since_us: int
    until_us: int
    parts: tuple[SpentPart, ...]

    @property
    def points(self) -> int:
        """How many."""
        return sum(part.points for part in self.parts)


class RedemptionState(NamedTuple):
    """A redemption that was paid, as far as it can be taken back: what is left of it."""

    since_us: int
    reward: str
    parts: tuple[SpentPart, ...]

    @property
    def points(self) -> int:
        """How many points can be given back."""
        return sum(part.points for part in self.parts)


class CouponState(NamedTuple):
    """A coupon. `outcome` is empty while it is good; `reason` is why it was issued; `voided` as in `CouponIssued`;
    `arrival` as in `LotState`."""

    arrival: int
    since_us: int
    reward: str
    expires_us: int
    reason: str
    voided: str
    outcome: str = ""


class Account(Aggregate):
    """An account's stream, folded. Its balances are what the moves of its decisions add up to (`points`)."""

    CONTAINERS = (
        "lots",
        "pending",
        "held",
        "known",
        "holds",
        "redemptions",
        "coupons",
        "due_coupons",
        "suspensions",
        "referrals",
        "window",
        "counted",
    )
    APPLIERS: ClassVar[Appliers] = {}

    customer_id: UUID | None = None
    programme: str = ""
    status: str = OPEN
    suspended_us: int = 0
    """Since when, while it is."""
    tier: str | None = None
    tier_since_us: int = 0
    lent_from: str | None = None
    """The tier before people decided on it, until the rules have decided again."""
    override_until_us: int | None = None
    enrolled_us: int = 0
    clock_us: int = 0
    moved_us: int = 0
    """When the account was last in use: points came to it, or were spent or given away."""
    earned: int = 0
    transferred_in: int = 0
    adjusted_up: int = 0
    reinstated: int = 0
    spent: int = 0
    expired: int = 0
    reversed: int = 0
    transferred_out: int = 0
    adjusted_down: int = 0
    debt: int = 0
    arrivals: int = 0
    """How many lots, holds and coupons came so far."""
    forgiven: int = 0
    """Points that returns could not take back, so far; in no bucket."""
    lots: Lots
    """Active points, in the order of use."""
    pending: SortedAmounts[tuple[int, int, UUID, int]]
    """(when they become active, or expire before that; arrival, lot, points)."""
    held: SortedAmounts[tuple[int, int, UUID, int]]
    """(until_us, arrival, hold, points)."""
    known: LayeredDict[UUID, LotState]
    """Every lot that there was: a purchase may come back at any time."""
    holds: LayeredDict[UUID, HoldState]
    redemptions: LayeredDict[UUID, RedemptionState]
    """By request, while something of it can be given back."""
    coupons: LayeredDict[UUID, CouponState]
    due_coupons: SortedAmounts[tuple[int, int, UUID, int]]
    """(expires_us, arrival, coupon, 1) of those that are good."""
    suspensions: SortedAmounts[tuple[int, int, int]]
    """(suspended_us, resumed_us, 1) of those that are over."""
    referrals: LayeredDict[UUID, tuple[UUID, ...]]
    """Purchase that referrals were credited for → the credits. None leaves: it may come back at any time."""
    window: Window
    """(earned_us, qualifying). None leaves: a rule set that is adopted later may look back further."""
    counted: LayeredDict[str, int]
    """What counts against caps and limits: by counter, period and its number."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(stream_id)
        self.lots = SortedAmounts()
        self.pending = SortedAmounts()
        self.held = SortedAmounts()
        self.known = LayeredDict()
        self.holds = LayeredDict()
        self.redemptions = LayeredDict()
        self.coupons = LayeredDict()
        self.due_coupons = SortedAmounts()
        self.suspensions = SortedAmounts()
        self.referrals = LayeredDict()
        self.window = SortedAmounts()
        self.counted = LayeredDict()

    @property
    def enrolled(self) -> bool:
        """Whether the account exists."""
        return self.customer_id is not None

    @property
    def standing(self) -> str | None:
        """The tier that the rules decided on last: what people lend for a time is not kept by it."""
        return self.tier if self.lent_from is None else self.lent_from

    @property
    def active(self) -> int:
        """Points that can be spent now."""
        return self.lots.total

    def barred(self, at_us: int) -> str:
        """Why nothing of a moment is earned or spent: the account is closed or suspended, or was then; or nothing."""
        if self.status in BARRED:
            return BARRED[self.status]
        then = any(since_us <= at_us < until_us for since_us, until_us, _ in self.suspensions)
        return BARRED[SUSPENDED] if then else ""

    def bucket(self, name: str) -> int:
        """The balance of a bucket: of a source, what came out of it."""
        if name in PLACES:
            return {PENDING: self.pending.total, ACTIVE: self.lots.total, HELD: self.held.total}[name]
        points: int = getattr(self, name)
        return points

    def lost(self, at_us: int) -> list[tuple[UUID, int]]:
        """Points that had expired by a moment and were not given back: of which lots, the last to expire first."""
        found = [
            (-state.expired_us, state.arrival, lot_id, state.expired)
            for lot_id, state in self.known.items()
            if state.expired and state.expired_us <= at_us
        ]
        return [(lot_id, points) for *_, lot_id, points in sorted(found)]

    def fits(self, points: int, qualifying: int = 0) -> bool:
        """Whether so many points can come still."""
        came = sum(map(self.bucket, SOURCES))
        return came + points <= POINTS_MAX and self.window.total + qualifying <= POINTS_MAX

    def order_of(self, lot_id: UUID) -> tuple[int, int, int, UUID]:
        """Where a lot stands in the order of use."""
        state = self.known[lot_id]
        return state.expires_us, state.earned_us, state.arrival, lot_id

    def used(self, counter: str, period: str, number: int) -> int:
        """What was counted for a counter in a period."""
        found: int = self.counted.get(f"{counter} {period} {number}", 0)
        return found

    def arrive(self) -> int:
        """The place of the next that comes."""
        self.arrivals += 1
        return self.arrivals

    # ── the past, moved ───────────────────────────────────────────────────────────────────────────────────────────

    def _move(self, move: Move) -> None:
        """Points go from one bucket to another: the only thing that changes a balance."""
        _, source, target, points = move
        if not points:
            return
        if source in PLACES:
            self._place(source, move.lot_id, -points)
        else:
            setattr(self, source, getattr(self, source) + points)
        if target in PLACES:
            self._place(target, move.lot_id, points)
        elif target == DEBT:
            self.debt -= points
        else:
            setattr(self, target, getattr(self, target) + points)

    def _place(self, place: str, lot_id: UUID, by: int) -> None:
        """Points of a lot come to a place, or leave it. What is held stands in `holds`."""
        state = self.known[lot_id]
        if place == ACTIVE:
            self.lots.add(Lot(*self.order_of(lot_id), by))
        elif place == PENDING:
            self.pending.add((min(state.activates_us, state.expires_us), state.arrival, lot_id, by))
            self.known[lot_id] = state._replace(pending=state.pending + by)

    def _age(self, lot_id: UUID, expires_us: int) -> None:
        """A lot gets another end: its points stand elsewhere in the orders that go by it."""
        state = self.known[lot_id]
        active = self.lots.find(self.order_of(lot_id))
        there = [(PENDING, state.pending), (ACTIVE, 0 if active is None else active.points)]
        for place, points in there:
            if points:
                self._place(place, lot_id, -points)
        self.known[lot_id] = self.known[lot_id]._replace(expires_us=expires_us)
        for place, points in there:
            if points:
                self._place(place, lot_id, points)


# ── how events change the account ─────────────────────────────────────────────────────────────────────────────────


def _decided(account: Account, event: LoyaltyDecision) -> None:
    """What all decisions do: the account's clock goes on, and points move."""
    account.clock_us = max(account.clock_us, event.effective_us)
    if event.in_use:
        account.moved_us = max(account.moved_us, event.effective_us)
    for move in event.moves():
        account._move(move)


Step = Callable[[Account, Any], None]


def _folds(event_class: type[Any], *, before: Step | None = None, after: Step | None = None) -> None:
    """Fold a decision: what has to be known for its moves (new lots), the moves, and what else it changes."""

    def fold(account: Account, event: Any) -> None:
        if before is not None:
            before(account, event)
        _decided(account, event)
        if after is not None:
            after(account, event)

    Account.APPLIERS[event_class] = fold


def _after_moves(event_class: type[Any], *, before: Step | None = None) -> Callable[[Step], Step]:
    """Mark what a decision changes beside its moves."""

    def mark(after: Step) -> Step:
        _folds(event_class, before=before, after=after)
        return after

    return mark


def _know(account: Account, lot: NewLot, event: LoyaltyDecision) -> None:
    if lot.lot_id not in account.known:
        account.known[lot.lot_id] = LotState(
            event.facts[0], account.arrive(), event.effective_us, lot.earned_us, lot.earned_us, lot.expires_us
        )


def _count(account: Account, uses: Sequence[Use]) -> None:
    for use in uses:
        key = f"{use.counter} {use.period} {use.number}"
        account.counted[key] = account.counted.get(key, 0) + use.amount


def _qualify(account: Account, earned_us: int, points: int) -> None:
    if points:
        window = account.window
        had = window.find((earned_us,)) if window and earned_us <= window.last[0] else None
        # What a return took stays as 0: from when it would have left the window on, grace runs all the same.
        window.put((earned_us, points + had[1] if had else points))


@applies(Account.APPLIERS, Enrolled)
def _enrolled(account: Account, event: Enrolled) -> None:
    account.customer_id = event.subject_id
    account.programme = event.programme
    account.enrolled_us = account.clock_us = account.moved_us = event.effective_us


@applies(Account.APPLIERS, AccountSuspended)
def _suspended(account: Account, event: AccountSuspended) -> None:
    account.status = SUSPENDED
    account.suspended_us = event.effective_us


@applies(Account.APPLIERS, AccountResumed)
def _resumed(account: Account, event: AccountResumed) -> None:
    account.status = OPEN
    if event.effective_us > account.suspended_us:
        account.suspensions.put((account.suspended_us, event.effective_us, 1))


@applies(Account.APPLIERS, AccountClosed)
def _closed(account: Account, _: AccountClosed) -> None:
    account.status = CLOSED


@applies(Account.APPLIERS, TierOverridden)
def _overridden(account: Account, event: TierOverridden) -> None:
    # One that was over before it was told leaves alone what is decided since.
    if event.until_us > account.clock_us:
        account.override_until_us = event.until_us


@applies(Account.APPLIERS, TierOverrideLifted)
def _override_lifted(account: Account, event: TierOverrideLifted) -> None:
    # What is told later of a time before that still meets the override.
    if account.override_until_us is not None:
        account.override_until_us = min(account.override_until_us, max(event.effective_us, account.clock_us))


@applies(Account.APPLIERS, ReferralCredited)
def _referral_credited(account: Account, event: ReferralCredited) -> None:
    if event.lines:
        account.referrals[event.fact_id] = (*account.referrals.get(event.fact_id, ()), event.event_id)


def _new_lot(account: Account, event: PointsEarned) -> None:
    account.known[event.lot_id] = LotState(
        event.facts[0],
        account.arrive(),
        event.effective_us,
        event.effective_us,
        event.activates_us,
        event.expires_us,
        tuple([LineState(line.basis, line.points, line.qualifying) for line in event.lines]),
        event.basis_unit == "pieces",
        rule=event.rule_ids[0] if event.rule_ids else "",
        open_end=event.open_end,
    )


@_after_moves(PointsEarned, before=_new_lot)
def _points_earned(account: Account, event: PointsEarned) -> None:
    _qualify(account, event.effective_us, event.qualifying)
    _count(account, event.uses)


def _new_ages(account: Account, event: PointsActivated) -> None:
    for lot in event.lots:
        account._age(lot.lot_id, lot.expires_us)


_folds(PointsActivated, before=_new_ages)


def _new_lots(account: Account, event: PointsCredited) -> None:
    for lot in event.lots:
        _know(account, lot, event)


@_after_moves(PointsCredited, before=_new_lots)
def _points_credited(account: Account, event: PointsCredited) -> None:
    for part in event.expired:
        state = account.known[part.lot_id]
        account.known[part.lot_id] = state._replace(expired=state.expired - part.points)


def _out_of_hold(account: Account, event: PointsRedeemed) -> None:
    if event.hold_id is not None:
        _take_from_hold(account, event.hold_id, event.lots)


@_after_moves(RedemptionHonoured, before=_out_of_hold)
@_after_moves(PointsRedeemed, before=_out_of_hold)
def _points_redeemed(account: Account, event: PointsRedeemed) -> None:
    account.redemptions[event.facts[0]] = RedemptionState(event.effective_us, event.reward, _spent(event.lots))
    _count(account, event.uses)


def _restored_lot(account: Account, event: RedemptionReversed) -> None:
    if event.new_lot is not None:
        _know(account, event.new_lot, event)


@_after_moves(RedemptionReversed, before=_restored_lot)
def _redemption_reversed(account: Account, event: RedemptionReversed) -> None:
    _lost(account, event.lapsed, event.effective_us)
    _recovered(account, event.reversed)
    state = account.redemptions[event.redemption_id]
    left = event.points
    parts: list[SpentPart] = []
    # What was used last comes back first.
    for part in reversed(state.parts):
        back = min(left, part.points)
        left -= back
        if part.points > back:
            parts.append(part._replace(points=part.points - back))
    account.redemptions[event.redemption_id] = state._replace(parts=tuple(reversed(parts)))


@_after_moves(PointsHeld)
def _points_held(account: Account, event: PointsHeld) -> None:
    hold_id = event.facts[0]
    hold = HoldState(account.arrive(), event.effective_us, event.until_us, _spent(event.lots))
    account.holds[hold_id] = hold
    account.held.put((event.until_us, hold.arrival, hold_id, event.points))


def _out_of_release(account: Account, event: HoldReleased) -> None:
    _take_from_hold(account, event.hold_id, (*event.reversed, *event.lots))


@_after_moves(HoldReleased, before=_out_of_release)
def _hold_released(account: Account, event: HoldReleased) -> None:
    _recovered(account, event.reversed)


@_after_moves(PointsExpired)
def _points_expired(account: Account, event: PointsExpired) -> None:
    _lost(account, (*event.lots, *event.pending), event.effective_us)


@_after_moves(EarningReversed)
def _earning_reversed(account: Account, event: EarningReversed) -> None:
    account.forgiven += event.forgiven
    state = account.known[event.lot_id]
    account.known[event.lot_id] = state._replace(
        lines=tuple(
            line._replace(returned=line.returned + back) for line, back in zip(state.lines, event.returned, strict=True)
        ),
        expired=state.expired - event.expired,
        recoverable=state.recoverable + event.recoverable,
    )
    _qualify(account, state.earned_us, -event.qualifying)


@_after_moves(PointsTransferred)
def _points_transferred(account: Account, event: PointsTransferred) -> None:
    _count(account, event.uses)


@_after_moves(LotsExtended)
def _lots_extended(account: Account, event: LotsExtended) -> None:
    for lot_id in event.lots:
        account._age(lot_id, event.expires_us)
        account.known[lot_id] = account.known[lot_id]._replace(open_end=False)


@_after_moves(TierChanged)
def _tier_changed(account: Account, event: TierChanged) -> None:
    if event.reason == OVERRIDDEN:
        account.lent_from = account.standing
    else:
        account.lent_from = account.override_until_us = None
    account.tier = event.tier
    account.tier_since_us = event.effective_us


@_after_moves(CouponIssued)
def _coupon_issued(account: Account, event: CouponIssued) -> None:
    coupon = CouponState(
        account.arrive(), event.effective_us, event.reward, event.expires_us, event.reason, event.voided
    )
    account.coupons[event.coupon_id] = coupon
    account.due_coupons.put((event.expires_us, coupon.arrival, event.coupon_id, 1))


@_after_moves(CouponClosed)
def _coupon_closed(account: Account, event: CouponClosed) -> None:
    coupon = account.coupons[event.coupon_id]
    account.coupons[event.coupon_id] = coupon._replace(outcome=event.outcome)
    account.due_coupons.remove((coupon.expires_us, coupon.arrival, event.coupon_id))


for _schema in REGISTRY.values():
    if issubclass(_schema.event_class, LoyaltyDecision):
        Account.APPLIERS.setdefault(_schema.event_class, _decided)


def _lost(account: Account, parts: Sequence[LotPart], at_us: int) -> None:
    """Points of lots expired: a return that would take them back later finds them lost already."""
    for part in parts:
        state = account.known[part.lot_id]
        account.known[part.lot_id] = state._replace(
            expired=state.expired + part.points, expired_us=max(state.expired_us, at_us)
        )


def _recovered(account: Account, parts: Sequence[LotPart]) -> None:
    """Points that a return could not take, and had forgiven, came back and were taken."""
    for part in parts:
        state = account.known[part.lot_id]
        account.known[part.lot_id] = state._replace(recoverable=state.recoverable - part.points)
        account.forgiven -= part.points


def _spent(lots: Sequence[LotPart]) -> tuple[SpentPart, ...]:
    return tuple(SpentPart(part.lot_id, part.points) for part in lots)


def _take_from_hold(account: Account, hold_id: UUID, lots: Sequence[LotPart]) -> None:
    hold = account.holds[hold_id]
    gone: dict[UUID, int] = {}
    for part in lots:
        gone[part.lot_id] = gone.get(part.lot_id, 0) + part.points
    parts = tuple(
        part._replace(points=part.points - gone.get(part.lot_id, 0))
        for part in hold.parts
        if part.points > gone.get(part.lot_id, 0)
    )
    account.held.remove((hold.until_us, hold.arrival, hold_id))
    if parts:
        account.holds[hold_id] = hold._replace(parts=parts)
        account.held.put((hold.until_us, hold.arrival, hold_id, sum(part.points for part in parts)))
    else:
        del account.holds[hold_id]
