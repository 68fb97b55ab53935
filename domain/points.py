"""What happens to points: the facts and decisions of a loyalty account, as a double-entry ledger.

Every point that there is lies in one bucket of one lot. A decision about points is a set of `moves`, each from one
bucket to another; nothing else changes a balance. So the sums close by construction:

    earned + transferred in + adjusted up + reinstated + debt
        = pending + active + held + spent + expired + reversed + transferred out + adjusted down

The buckets on the left are where points come from: their balances are what was taken out of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, NamedTuple
from uuid import UUID

from pydantic import Field

from . import personal
from .events import Code, Decision, Fact, Minor, Points, Value, stored

PENDING = "pending"
ACTIVE = "active"
HELD = "held"
EARNED = "earned"
TRANSFERRED_IN = "transferred_in"
ADJUSTED_UP = "adjusted_up"
REINSTATED = "reinstated"
DEBT = "debt"
SPENT = "spent"
EXPIRED = "expired"
REVERSED = "reversed"
TRANSFERRED_OUT = "transferred_out"
ADJUSTED_DOWN = "adjusted_down"

SOURCES = (EARNED, TRANSFERRED_IN, ADJUSTED_UP, REINSTATED, DEBT)
"""Where points come from."""
PLACES = (PENDING, ACTIVE, HELD)
"""Where points are that the account has."""
SINKS = (SPENT, EXPIRED, REVERSED, TRANSFERRED_OUT, ADJUSTED_DOWN)
"""Where points go."""
BUCKETS = (*SOURCES, *PLACES, *SINKS)

Instant = Annotated[int, Field(ge=-(2**62), le=2**62)]
"""Microseconds since 1970-01-01T00:00Z; 2**62 stands for never."""
Count = Annotated[int, Field(ge=0, le=2**62)]


class Move(NamedTuple):
    """So many points of a lot go from one bucket to another."""

    lot_id: UUID
    source: str
    target: str
    points: int


class LotPart(Value):
    """So many points of one lot."""

    lot_id: UUID
    points: Count


class NewLot(Value):
    """Points that come with an age: when they were earned first, and when they expire."""

    lot_id: UUID
    points: Count
    earned_us: Instant
    expires_us: Instant


class LineShare(Value):
    """What of an earning is from one line of the order: points to spend and points that qualify, for `basis` (net
    amount in minor units of the order's currency, or pieces, where what earned was free of charge).
    """

    basis: Count
    points: Count
    qualifying: Count


class Use(Value):
    """What an earning or a spending counts against a cap or a limit: `number` is the day, month or year, counted in
    the programme's zone (days since 1970-01-01; year × 12 + month − 1; year).
    """

    counter: Code
    period: Code
    number: int
    amount: Count


def lot_of(fact_id: UUID, number: int) -> UUID:
    """The id of the lot that a fact brought: the fact's own for the first; derived for those that follow.

    Lots of a fact differ where rules give points with other lifetimes. Up to 16 million.
    """
    return UUID(int=fact_id.int ^ (number << 104)) if number else fact_id


def number_of(fact_id: UUID, lot_id: UUID) -> int | None:
    """The number under which a fact brought a lot; None: it did not."""
    number = fact_id.int ^ lot_id.int
    return None if number & ((1 << 104) - 1) else number >> 104


# ── facts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@stored("loyalty.enrolled")
class Enrolled(Fact):
    """The customer takes part in a programme."""

    programme: Code


@stored("loyalty.activity_recorded")
class ActivityRecorded(Fact):
    """The customer did something that is no purchase and may earn: a flight of so many miles, a survey, a visit."""

    activity: Code
    quantity: Annotated[int, Field(ge=1, le=10**9)]
    partner: Code | None = None


@stored("loyalty.earning_confirmed")
class EarningConfirmed(Fact):
    """What pending points wait for has happened (delivered, the time to return is over): those of `fact_id`."""

    fact_id: UUID


@stored("loyalty.earning_withdrawn")
class EarningWithdrawn(Fact):
    """What a fact had earned is to be taken back, whole: it did not hold (a flight not flown, a referral undone)."""

    fact_id: UUID
    reason: Code


@stored("loyalty.redemption_requested")
class RedemptionRequested(Fact):
    """The customer wants to spend points. Whether the account can pay is a decision.

    What was observed beside the account: `stock` of the reward (None: not counted), `segments` of the customer that
    the reward asks for. `code` is the secret of a coupon.
    """

    points: Points
    reward: Code
    stock: int | None = None
    segments: tuple[Code, ...] = ()
    hold_id: UUID | None = None
    code: personal.CouponCode = None


@stored("loyalty.redemption_returned")
class RedemptionReturned(Fact):
    """A redemption is taken back, in whole or in part: `points` of it; `whole`: all that was left."""

    redemption_id: UUID
    points: Points
    reason: Code
    whole: bool = False


@stored("loyalty.hold_requested")
class HoldRequested(Fact):
    """Points are to be set aside, to be captured or released until `until_us`."""

    points: Points
    until_us: Instant
    purpose: Code


@stored("loyalty.hold_release_requested")
class HoldReleaseRequested(Fact):
    """What was set aside is free again."""

    hold_id: UUID


@stored("loyalty.transfer_requested")
class TransferRequested(Fact):
    """The customer wants to give points to another account.

    What was observed of that one: `barred` is why it takes none (receiver_closed, receiver_suspended), or None.
    """

    to_account: UUID
    points: Points
    barred: Code | None = None


@stored("loyalty.transfer_received")
class TransferReceived(Fact):
    """Points came from another account, with their ages. `transfer_id` is the request there."""

    transfer_id: UUID
    from_account: UUID
    lots: tuple[NewLot, ...]


@stored("loyalty.goodwill_granted")
class GoodwillGranted(Fact):
    """Points given for a reason outside of the earning rules; they don't qualify for a tier."""

    points: Points
    reason: Code
    ticket_id: UUID | None = None


@stored("loyalty.correction_recorded")
class CorrectionRecorded(Fact):
    """Points taken away by hand, for a reason. What is not there is a debt, if `into_debt`, or left."""

    points: Points
    reason: Code
    into_debt: bool


@stored("loyalty.extension_granted")
class ExtensionGranted(Fact):
    """Points live longer: those of a lot, or (None) all that are there, up to `until_us`."""

    lot_id: UUID | None
    until_us: Instant
    reason: Code


@stored("loyalty.reinstatement_granted")
class ReinstatementGranted(Fact):
    """Points that expired are given back, up to so many of them, to live until `until_us`."""

    points: Points
    until_us: Instant
    reason: Code


@stored("loyalty.tier_overridden")
class TierOverridden(Fact):
    """The account holds a tier by a decision of people, until `until_us`."""

    tier: Code
    until_us: Instant
    reason: Code


@stored("loyalty.tier_override_lifted")
class TierOverrideLifted(Fact):
    """The tier follows the rules again."""

    reason: Code


@stored("loyalty.referral_credited")
class ReferralCredited(Fact):
    """A referral came to something: `occasion` registration, first_purchase or every_purchase; this account's `role` in
    it referrer or referred; `fact_id` is what happened.

    What was observed of that: `lines`, the net amount of each line of a purchase, in minor units of its currency (0: of
    that line nothing counts).
    """

    occasion: Code
    role: Code
    fact_id: UUID
    number: Annotated[int, Field(ge=1)]
    lines: tuple[Minor, ...] = ()


@stored("loyalty.referral_reduced")
class ReferralReduced(Fact):
    """Of a purchase that a referral was credited for (`credit_id`), something came back: `returned` of each line, in
    minor units, by the return `return_id`.
    """

    credit_id: UUID
    return_id: UUID
    returned: tuple[Minor, ...]


@stored("loyalty.coupon_granted")
class CouponGranted(Fact):
    """A coupon for a reward is to be given by hand. What was observed beside the account: `stock` of the reward (None:
    not counted). `code` is the secret of the coupon.
    """

    reward: Code
    reason: Code
    stock: int | None = None
    code: personal.CouponCode = None


@stored("loyalty.coupon_used")
class CouponUsed(Fact):
    """A coupon was presented; None: by a code that no coupon has."""

    coupon_id: UUID | None


@stored("loyalty.coupon_voided")
class CouponVoided(Fact):
    """A coupon is taken back."""

    coupon_id: UUID
    reason: Code


@stored("loyalty.suspended")
class AccountSuspended(Fact):
    """The account earns and spends nothing until it is resumed."""

    reason: Code


@stored("loyalty.resumed")
class AccountResumed(Fact):
    """The account is in use again."""

    reason: Code


@stored("loyalty.closed")
class AccountClosed(Fact):
    """The account is closed for good; what it held expires."""

    reason: Code


# ── decisions ─────────────────────────────────────────────────────────────────────────────────────────────────────


class LoyaltyDecision(Decision):
    """A decision about an account of a programme."""

    programme: Code

    resets_inactivity: ClassVar[bool] = False
    """Whether points come by such a decision, or are spent or given away."""

    @property
    def in_use(self) -> bool:
        """Whether the account is in use by it: inactivity counts from the last of these."""
        return self.resets_inactivity

    def moves(self) -> Iterator[Move]:
        """What it moves between buckets."""
        return iter(())


def _each(parts: Sequence[LotPart | NewLot], source: str, target: str) -> Iterator[Move]:
    return (Move(part.lot_id, source, target, part.points) for part in parts)


@stored("loyalty.points_earned")
class PointsEarned(LoyaltyDecision):
    """A new lot. `lines` is what each line of the order earned, by which a return is reckoned.

    It counts in `basis_unit`: `minor` (net amount), or `pieces` where all that earned was free of charge. Until
    `activates_us` the points are pending (2**62: until what they wait for is confirmed). `debt_paid` of them, if they
    are active at once, went into an older debt. `inputs` names what the rules read of the customer, with its value;
    `capped` points were earned and cut off by caps. `open_end`: `expires_us` is decided anew when the points become
    active, since their life counts from then.
    """

    resets_inactivity = True

    lot_id: UUID
    points: Count
    qualifying: Count
    activates_us: Instant
    expires_us: Instant
    rule_ids: tuple[Code, ...]
    lines: tuple[LineShare, ...]
    basis_unit: Code
    tier: Code
    debt_paid: Count
    capped: Count = 0
    uses: tuple[Use, ...] = ()
    inputs: tuple[str, ...] = ()
    open_end: bool = False

    @property
    def pending(self) -> bool:
        """Whether the points can't be spent yet."""
        return self.activates_us > self.effective_us

    @property
    def in_use(self) -> bool:
        """Not where caps left nothing."""
        return super().in_use and bool(self.points or self.qualifying)

    def moves(self) -> Iterator[Move]:
        """From outside into the lot; of what is active at once, a debt is paid first."""
        yield Move(self.lot_id, EARNED, PENDING if self.pending else ACTIVE, self.points)
        if self.debt_paid:
            yield Move(self.lot_id, ACTIVE, DEBT, self.debt_paid)


@stored("loyalty.earning_refused")
class EarningRefused(LoyaltyDecision):
    """A fact would have earned points, and did not: the account is suspended or full, or a limit is reached."""

    points: Count
    code: Code


@stored("loyalty.points_activated")
class PointsActivated(LoyaltyDecision):
    """Pending points can be spent from now on, and expire when `lots` says. `debt_paid` went into an older debt."""

    lots: tuple[NewLot, ...]
    debt_paid: tuple[LotPart, ...]

    def moves(self) -> Iterator[Move]:
        """Pending to active, and from there into a debt."""
        yield from _each(self.lots, PENDING, ACTIVE)
        yield from _each(self.debt_paid, ACTIVE, DEBT)


@stored("loyalty.points_credited")
class PointsCredited(LoyaltyDecision):
    """Points that no earning rule gave: `source` is transferred_in, adjusted_up or reinstated. They don't qualify.

    `expired` are the lots that reinstated points had expired of.
    """

    resets_inactivity = True

    source: Code
    lots: tuple[NewLot, ...]
    debt_paid: tuple[LotPart, ...]
    expired: tuple[LotPart, ...] = ()

    def moves(self) -> Iterator[Move]:
        """From outside into the lots, and from there into a debt."""
        for lot in self.lots:
            yield Move(lot.lot_id, self.source, ACTIVE, lot.points)
        yield from _each(self.debt_paid, ACTIVE, DEBT)


@stored("loyalty.points_redeemed")
class PointsRedeemed(LoyaltyDecision):
    """The account paid; the lots that it used, in the order of use. Out of a hold, where `hold_id` names one."""

    resets_inactivity = True

    points: Count
    reward: Code
    lots: tuple[LotPart, ...]
    hold_id: UUID | None = None
    uses: tuple[Use, ...] = ()

    def moves(self) -> Iterator[Move]:
        """Active, or held, to spent."""
        return _each(self.lots, ACTIVE if self.hold_id is None else HELD, SPENT)


class RedemptionHonoured(PointsRedeemed):
    """The account paid with what was there, and owes the rest: a backtest honours what was paid under other rules. No
    book holds such a decision."""

    clear_fields: ClassVar[tuple[str, ...]] = (*PointsRedeemed.clear_fields, "debt")

    debt: Count

    def moves(self) -> Iterator[Move]:
        """As of a redemption; what was lacking, out of debt."""
        yield from super().moves()
        yield Move(self.facts[0], DEBT, SPENT, self.debt)


@stored("loyalty.redemption_refused")
class RedemptionRefused(LoyaltyDecision):
    """The account did not pay; `code` says why."""

    points: Count
    reward: Code
    code: Code
    active: Count


@stored("loyalty.redemption_reversed")
class RedemptionReversed(LoyaltyDecision):
    """Points of a redemption came back: into the lots that they were of (`restored`), or as a new one.

    `reversed` are those that a return of what had earned them could not take before. `lapsed` came back to lots whose
    time was over, and are gone with them. `debt_paid` went into an older debt, of what would have lapsed first.
    """

    resets_inactivity = True

    redemption_id: UUID
    points: Count
    reversed: tuple[LotPart, ...]
    restored: tuple[LotPart, ...]
    lapsed: tuple[LotPart, ...]
    new_lot: NewLot | None
    debt_paid: tuple[LotPart, ...]

    def moves(self) -> Iterator[Move]:
        """Reinstated, into lots; what lapsed goes on to expired, what was due to reversed."""
        yield from _each(self.reversed, REINSTATED, REVERSED)
        yield from _each(self.restored, REINSTATED, ACTIVE)
        yield from _each(self.lapsed, REINSTATED, EXPIRED)
        if self.new_lot is not None:
            yield Move(self.new_lot.lot_id, REINSTATED, ACTIVE, self.new_lot.points)
        yield from _each(self.debt_paid, ACTIVE, DEBT)


@stored("loyalty.points_held")
class PointsHeld(LoyaltyDecision):
    """Points are set aside until `until_us`, which is never after their expiry. The hold is named by its request."""

    points: Count
    until_us: Instant
    lots: tuple[LotPart, ...]

    def moves(self) -> Iterator[Move]:
        """Active to held."""
        return _each(self.lots, ACTIVE, HELD)


@stored("loyalty.hold_refused")
class HoldRefused(LoyaltyDecision):
    """The account could not set so many points aside."""

    points: Count
    code: Code
    active: Count


@stored("loyalty.hold_released")
class HoldReleased(LoyaltyDecision):
    """What is left of a hold is free again: `reason` is released, captured (the rest of it), expired, inactivity or
    closed.

    `reversed` are points that a return of what had earned them could not take while they were held. `debt_paid` went
    into a debt that came about meanwhile.
    """

    hold_id: UUID
    reason: Code
    reversed: tuple[LotPart, ...]
    lots: tuple[LotPart, ...]
    debt_paid: tuple[LotPart, ...]

    def moves(self) -> Iterator[Move]:
        """Held to reversed, or to active, and from there into a debt."""
        yield from _each(self.reversed, HELD, REVERSED)
        yield from _each(self.lots, HELD, ACTIVE)
        yield from _each(self.debt_paid, ACTIVE, DEBT)


@stored("loyalty.points_expired")
class PointsExpired(LoyaltyDecision):
    """Points reached their end, dated when that was due. `reason`: expiry, inactivity, or closed."""

    points: Count
    reason: Code
    lots: tuple[LotPart, ...]
    pending: tuple[LotPart, ...] = ()

    def moves(self) -> Iterator[Move]:
        """Active, or pending, to expired."""
        yield from _each(self.lots, ACTIVE, EXPIRED)
        yield from _each(self.pending, PENDING, EXPIRED)


@stored("loyalty.earning_reversed")
class EarningReversed(LoyaltyDecision):
    """A return took back what its lines had earned: from the lot itself, then from others, then as debt or not at all.

    `points` = `pending` + `lots` + `debt` + `forgiven`. Of the forgiven, `expired` had expired before, and can't be
    lost twice; `recoverable` are taken when points of the lot come back out of a hold or a redemption.
    `qualifying` leaves the tier window's sum, dated as it was earned. `returned` is what came back of each line, in the
    earning's unit.
    """

    lot_id: UUID
    points: Count
    qualifying: Count
    returned: tuple[Count, ...]
    pending: Count
    lots: tuple[LotPart, ...]
    debt: Count
    forgiven: Count
    expired: Count
    recoverable: Count

    def moves(self) -> Iterator[Move]:
        """To reversed."""
        if self.pending:
            yield Move(self.lot_id, PENDING, REVERSED, self.pending)
        yield from _each(self.lots, ACTIVE, REVERSED)
        if self.debt:
            yield Move(self.lot_id, DEBT, REVERSED, self.debt)


@stored("loyalty.points_transferred")
class PointsTransferred(LoyaltyDecision):
    """Points left for another account, with their ages."""

    resets_inactivity = True

    to_account: UUID
    points: Count
    lots: tuple[NewLot, ...]
    uses: tuple[Use, ...] = ()

    def moves(self) -> Iterator[Move]:
        """Active to transferred out."""
        return (Move(lot.lot_id, ACTIVE, TRANSFERRED_OUT, lot.points) for lot in self.lots)


@stored("loyalty.transfer_refused")
class TransferRefused(LoyaltyDecision):
    """The account did not give the points away; `code` says why."""

    points: Count
    code: Code
    active: Count


@stored("loyalty.points_corrected")
class PointsCorrected(LoyaltyDecision):
    """Points were taken away by hand. `missing` were not there and not made a debt."""

    points: Count
    lots: tuple[LotPart, ...]
    debt: Count
    debt_lot: UUID
    missing: Count

    def moves(self) -> Iterator[Move]:
        """Active to adjusted down; what is not there, out of debt."""
        yield from _each(self.lots, ACTIVE, ADJUSTED_DOWN)
        if self.debt:
            yield Move(self.debt_lot, DEBT, ADJUSTED_DOWN, self.debt)


@stored("loyalty.lots_extended")
class LotsExtended(LoyaltyDecision):
    """Lots live until `expires_us`."""

    lots: tuple[UUID, ...]
    expires_us: Instant


@stored("loyalty.tier_changed")
class TierChanged(LoyaltyDecision):
    """The account holds another tier. `qualifying` points (or the balance, where tiers go by that) decided."""

    previous: Code | None
    tier: Code
    reason: Code
    qualifying: Count
    until_us: Instant | None = None


@stored("loyalty.coupon_issued")
class CouponIssued(LoyaltyDecision):
    """The account has a coupon, named by what brought it: a redemption, a grant by hand, or a tier that grants one.

    `voided`: what becomes of its points if it is taken back: returned or forfeited.
    """

    coupon_id: UUID
    reward: Code
    expires_us: Instant
    reason: Code
    voided: Code = "returned"


@stored("loyalty.coupon_closed")
class CouponClosed(LoyaltyDecision):
    """A coupon is no longer good: `outcome` is used, voided, expired, or withdrawn: it came with a tier that a return
    took away.
    """

    coupon_id: UUID
    outcome: Code


@stored("loyalty.coupon_refused")
class CouponRefused(LoyaltyDecision):
    """A coupon was presented that is not good (used, voided, expired, not this account's; None: nobody's), or could not
    be given by hand."""

    coupon_id: UUID | None
    code: Code
