"""`book.loyalty`: accounts, redemptions, tiers, sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import merge
from uuid import UUID

from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.due_index import Note
from tallybook.adapters.form import uuid_from
from tallybook.domain.account import SUSPENDED
from tallybook.domain.calendar import DAY_US
from tallybook.domain.control import Control
from tallybook.domain.errors import (
    BookDamaged,
    Refused,
    StoredFormError,
    TallybookError,
    listed,
    refusal,
    text,
    whole,
)
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import TAKES_NOTHING, LoyaltyAccount, account_id
from tallybook.domain.points import (
    BUCKETS,
    AccountClosed,
    AccountResumed,
    AccountSuspended,
    ActivityRecorded,
    CorrectionRecorded,
    CouponGranted,
    CouponRefused,
    CouponUsed,
    CouponVoided,
    EarningConfirmed,
    EarningWithdrawn,
    ExtensionGranted,
    HoldRefused,
    HoldReleased,
    HoldReleaseRequested,
    HoldRequested,
    LotsExtended,
    PointsActivated,
    PointsHeld,
    PointsRedeemed,
    PointsTransferred,
    RedemptionReturned,
    ReinstatementGranted,
    TierOverridden,
    TierOverrideLifted,
    TransferReceived,
    TransferRefused,
    TransferRequested,
)
from tallybook.domain.rules import QUANTITY_MAX, Reward
from tallybook.projections.read_models import Progress
from tallybook.projections.replay import derived_by

from .commands import BoundCommand, Work, command
from .core import LOOKING
from .customers import DEFAULT_PROGRAMME, as_code, as_id, enrol
from .liability import Liability, liability
from .liability import issued as points_issued
from .loyalty_views import LoyaltyViews
from .statements import Explanation, Order, Statement, explain, explain_account, statement
from .times import When, as_of_us, iso, moment_us

ACCOUNTS_PER_COMMIT = 500
LOOK_AHEAD_US = 5 * 366 * DAY_US
"""How far beyond a sweep is looked: so often, an account to which time does nothing is loaded."""


@dataclass(frozen=True, slots=True)
class RedemptionResult:
    """A redemption that was paid: which lots gave how many points, and what is left."""

    redemption_id: UUID
    points: int
    lots: tuple[tuple[UUID, int], ...]
    balance: int
    coupon_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class EarningResult:
    """What a fact earned in a programme, and the balance and the tier after it."""

    fact_id: UUID
    points: int
    balance: int
    tier: str


@dataclass(frozen=True, slots=True)
class HoldResult:
    """Points that are set aside, until when, and what is left to spend."""

    hold_id: UUID
    points: int
    until: str
    balance: int


_WHY_NOT = {
    "insufficient_points": "{points} points asked for, {active} are there.",
    "account_suspended": "The account is suspended.",
    "account_closed": "The account is closed.",
    "receiver_suspended": "The account that they are for is suspended.",
    "receiver_closed": "The account that they are for is closed.",
    "unknown_reward": "The rule set in force has no such reward.",
    "tier_required": "The reward is for other tiers.",
    "segment_required": "The reward is for other segments.",
    "out_of_stock": "None of the reward is left.",
    "limit_exceeded": "A limit of the rule set is reached.",
    "transfers_not_allowed": "The rule set allows no transfers.",
}


_WHY_NOT_BACK = {
    "unknown_redemption": "The account paid for no such redemption.",
    "coupon_used": "The coupon that was paid for is used.",
    "coupon_voided": "The coupon that was paid for was taken back.",
    "coupon_expired": "The time of the coupon that was paid for is over.",
    "coupon_whole": "A coupon was paid for, which goes back whole.",
}


def _refused(code: str, points: int, active: int) -> Refused:
    return refusal(code, _WHY_NOT[code].format(points=points, active=active), asked=points, active=active)


@dataclass(frozen=True, slots=True)
class PassedOver:
    """An account that a sweep could not settle: what is due to it is not recorded. `reason` says why, in words."""

    account_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep recorded: so many `accounts` have followed it, all but those that were `passed_over`."""

    until: str
    accounts: int
    decisions: int
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True, slots=True)
class LotView:
    """Points of one earning that are left: active, or pending until `activates_at` (None: until that is confirmed)."""

    lot_id: UUID
    points: int
    earned_at: str | None
    expires_at: str | None
    pending: bool = False
    activates_at: str | None = None


@dataclass(frozen=True, slots=True)
class HoldView:
    """Points that are set aside."""

    hold_id: UUID
    points: int
    until: str | None


@dataclass(frozen=True, slots=True)
class CouponView:
    """A coupon: `outcome` is empty while it is good, then used, voided, expired or withdrawn (with its tier)."""

    coupon_id: UUID
    reward: str
    expires_at: str | None
    outcome: str


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account at a moment.

    earned + transferred_in + adjusted_up + reinstated + debt = pending + active + held + spent + expired + reversed +
    transferred_out + adjusted_down. `forgiven` points returns could not take back. `benefits` are what the rule set in
    force gives to its tier.
    """

    account_id: UUID
    customer_id: UUID
    programme: str
    status: str
    tier: str | None
    tier_since: str | None
    override_until: str | None
    qualifying: int
    active: int
    pending: int
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
    forgiven: int
    debt: int
    benefits: tuple[str, ...]
    lots: tuple[LotView, ...] = field(repr=False)
    holds: tuple[HoldView, ...] = field(repr=False)
    coupons: tuple[CouponView, ...] = field(repr=False)


class LoyaltyDesk(LoyaltyViews):
    """Commands about accounts. Each also has an awaitable form: `await book.loyalty.redeem.aio(…)`."""

    _name = "loyalty"
    _parts = {"_announce_sweep": "sweep", "_settle": "sweep", "_finish_sweep": "sweep"}  # noqa: RUF012 - as declared in Desk

    @command
    def enrol(
        self,
        work: Work,
        customer: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Open an account in its first tier; its id. Referrals that waited for it are credited.

        Refuses: unknown_customer, no_rule_set, already_enrolled.
        """
        as_code(programme, "programme")
        return enrol(work, work.customer(as_id(customer, "customer")), programme)

    @command
    def redeem(
        self,
        work: Work,
        customer: UUID | str,
        points: int | None = None,
        *,
        reward: str,
        hold_id: UUID | str | None = None,
        code: str | None = None,
        segments: Sequence[str] = (),
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> RedemptionResult:
        """Spend points, soonest expiry first, or (`hold_id`) such as were set aside.

        `points` may be left out where the rule set has the reward in its catalogue. `segments`: those of the customer
        that the reward may ask for. `code`: the secret of the coupon that the reward brings, sealed. An attempt that
        the account can't or must not pay is recorded, then refused. Refuses: invalid_argument, unknown_customer,
        not_enrolled, effective_too_early, no_rule_set, code_taken, and recorded: account_closed, insufficient_points,
        account_suspended, unknown_reward, tier_required, segment_required, out_of_stock, limit_exceeded.
        """
        if points is not None:
            whole(points, "points")
        if code is not None:
            text(code, "code", nul=True)
        for segment in listed(segments, "segments", "segments"):
            as_code(segment, "segments")
        account, control = self._opened(work, customer, programme, reward=reward)
        known = self._reward(work, programme, reward)
        if points is None and known is None:
            raise refusal("invalid_argument", "points: the reward has no price in the rule set.", argument="points")
        if code is not None and known is not None and known.coupon_days is None:
            raise refusal("invalid_argument", "code: the reward brings no coupon.", argument="code")
        if points is not None and known is not None and points != known.price:
            raise refusal("invalid_argument", f"points: the reward costs {known.price}.", argument="points")
        hold = None if hold_id is None else as_id(hold_id, "hold_id")
        stock = work.stock(programme, reward) if known is not None and known.counted else None
        redemption = account.redeem(
            work.stamp,
            known.price if known is not None else points or 0,
            reward,
            control,
            stock=None if stock is None else stock.there,
            segments=segments,
            hold_id=hold,
            code=code,
        )
        outcome = redemption.outcome
        lots: tuple[tuple[UUID, int], ...] = ()
        coupon = None
        if isinstance(outcome, PointsRedeemed):
            lots = tuple((part.lot_id, part.points) for part in outcome.lots)
            if stock is not None:
                stock.take(work.stamp, redemption.request.event_id)
            if redemption.request.event_id in account.coupons:
                coupon = redemption.request.event_id
                if code is not None:
                    self._claim_code(work, code, coupon)
        else:
            work.refuse(_refused(outcome.code, outcome.points, outcome.active))
        return RedemptionResult(redemption.request.event_id, outcome.points, lots, account.active, coupon)

    @command
    def return_redemption(
        self,
        work: Work,
        customer: UUID | str,
        redemption_id: UUID | str,
        points: int | None = None,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """Take a redemption back, whole or in part; how many points came back to the balance.

        By the rule set they come back to their own lots, with their ages (what is over by now is lost), or as a new
        lot; a debt is paid first. What brought a coupon goes back whole, and with it, while that is good. Refuses:
        unknown_redemption, returned_too_much, coupon_used, coupon_voided, coupon_expired, coupon_whole, account_full,
        invalid_argument, and as `record_activity`.
        """
        if points is not None:
            whole(points, "points")
        account, control = self._opened(work, customer, programme, reason=reason)
        found = as_id(redemption_id, "redemption_id")
        account.come_to(RedemptionReturned, work.stamp, control, redemption_id=found)
        state = account.redemptions.get(found)
        left = 0 if state is None else state.points
        asked = left if points is None else points
        code = account.why_not_returned(found, asked, work.stamp.effective_us)
        if state is None or code:
            raise refusal(code, _WHY_NOT_BACK[code], redemption=found)
        if not 0 < asked <= left:
            raise refusal("returned_too_much", f"{left} points of it can be given back.", asked=asked, left=left)
        before = account.active
        all_of_it = asked == left
        _, back = account.tell(
            RedemptionReturned, work.stamp, control, redemption_id=found, points=asked, reason=reason, whole=all_of_it
        )
        if back is not None and all_of_it:
            self._restock(work, programme, state.reward, found)
        return account.active - before

    @command
    def record_activity(
        self,
        work: Work,
        customer: UUID | str,
        activity: str,
        quantity: int = 1,
        *,
        partner: str | None = None,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> EarningResult:
        """Record what the customer did that is no purchase and may earn: `quantity` miles flown, a survey, a visit.

        Refuses: invalid_argument, unknown_customer, not_enrolled, effective_too_early, no_rule_set, account_closed.
        """
        whole(quantity, "quantity", 1, QUANTITY_MAX)
        account, control = self._opened(work, customer, programme)
        traits = work.customer(as_id(customer, "customer")).traits
        account.come_to(ActivityRecorded, work.stamp, control)
        before = account.earned
        fact, _ = account.tell(
            ActivityRecorded, work.stamp, control, traits, activity=activity, quantity=quantity, partner=partner
        )
        return EarningResult(fact.event_id, account.earned - before, account.active, account.tier or "")

    @command
    def confirm_earning(
        self,
        work: Work,
        customer: UUID | str,
        fact_id: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """What pending points wait for has happened (delivered, the time to return is over); how many became active.

        `fact_id`: the purchase or activity that earned them. Refuses: unknown_earning, and as `record_activity`.
        """
        account, control = self._opened(work, customer, programme)
        fact = self._earning(account, fact_id)
        _, confirmed = account.tell(EarningConfirmed, work.stamp, control, fact_id=fact)
        return sum(lot.points for lot in confirmed.lots) if isinstance(confirmed, PointsActivated) else 0

    @command
    def withdraw_earning(
        self,
        work: Work,
        customer: UUID | str,
        fact_id: UUID | str,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """Take back what a fact had earned, whole, as a return does; how many points. For what did not hold: a flight
        that was not flown. What a referral or an enrolment gave has the id of its lot (`account().lots`). Refuses:
        unknown_earning, and as `record_activity`.
        """
        account, control = self._opened(work, customer, programme, reason=reason)
        fact = self._earning(account, fact_id)
        before = account.reversed + account.forgiven
        account.tell(EarningWithdrawn, work.stamp, control, fact_id=fact, reason=reason)
        return account.reversed + account.forgiven - before

    @command
    def hold(
        self,
        work: Work,
        customer: UUID | str,
        points: int,
        *,
        purpose: str = "order",
        until: When | None = None,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> HoldResult:
        """Set points aside for a while: to be captured by `redeem(…, hold_id=…)`, or released.

        `until`: at most, and by default, so long as the rule set's `holds_days`; never beyond the expiry of what is
        held. Refuses: insufficient_points, account_suspended, invalid_argument, and as `record_activity`.
        """
        whole(points, "points")
        account, control = self._opened(work, customer, programme)
        rules = control.rule_book.in_force(programme, work.stamp.effective_us)
        until_us = NEVER if until is None else moment_us(until, "until")
        if rules is not None:
            until_us = min(until_us, rules.zone.add_days(work.stamp.effective_us, rules.rule_set.holds_days))
        if until_us <= work.stamp.effective_us:
            raise refusal("invalid_argument", "until: a hold ends after it begins.", argument="until")
        fact, decision = account.tell(
            HoldRequested, work.stamp, control, points=points, until_us=until_us, purpose=purpose
        )
        if isinstance(decision, HoldRefused):
            work.refuse(_refused(decision.code, points, decision.active))
            return HoldResult(fact.event_id, points, "", account.active)
        assert isinstance(decision, PointsHeld)
        return HoldResult(fact.event_id, points, iso(decision.until_us) or "", account.active)

    @command
    def release(
        self,
        work: Work,
        customer: UUID | str,
        hold_id: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """What was set aside is free again; how many points can be spent of it: a return or a debt may take some first.

        Refuses: unknown_hold (it may have ended), and as `record_activity`.
        """
        account, control = self._opened(work, customer, programme)
        found = as_id(hold_id, "hold_id")
        account.come_to(HoldReleaseRequested, work.stamp, control, hold_id=found)
        if found not in account.holds:
            raise refusal("unknown_hold", "The account holds nothing under that id.", hold=found)
        _, freed = account.tell(HoldReleaseRequested, work.stamp, control, hold_id=found)
        assert isinstance(freed, HoldReleased)
        return sum(part.points for part in freed.lots) - sum(part.points for part in freed.debt_paid)

    @command
    def transfer(
        self,
        work: Work,
        sender: UUID | str,
        receiver: UUID | str,
        points: int,
        *,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Give points to another customer's account, with their ages if the rule set keeps them; the transfer's id.

        An attempt that fails is recorded, then refused. Refuses: insufficient_points, transfers_not_allowed,
        limit_exceeded, account_suspended, receiver_suspended, receiver_closed, account_full, invalid_argument, and as
        `record_activity`.
        """
        whole(points, "points")
        source, control = self._opened(work, sender, programme, "sender")
        target, _ = self._opened(work, receiver, programme, "receiver")
        if source.id == target.id:
            raise refusal("invalid_argument", "receiver: an account gives nothing to itself.", argument="receiver")
        barred = TAKES_NOTHING.get(target.status)
        fact, decision = source.tell(
            TransferRequested, work.stamp, control, to_account=target.id, points=points, barred=barred
        )
        if isinstance(decision, PointsTransferred):
            target.tell(
                TransferReceived,
                work.stamp,
                control,
                transfer_id=fact.event_id,
                from_account=source.id,
                lots=decision.lots,
            )
        else:
            assert isinstance(decision, TransferRefused)
            work.refuse(_refused(decision.code, points, decision.active))
        transfer_id: UUID = fact.event_id
        return transfer_id

    @command
    def adjust(
        self,
        work: Work,
        customer: UUID | str,
        points: int,
        *,
        reason: str,
        into_debt: bool = False,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """Give points (above 0) or take them away (below 0) by hand; the balance after it.

        `reason` is a code. What can't be taken becomes a debt, if `into_debt`, or is left. They count for no tier.
        Refuses: account_full, invalid_argument, and as `record_activity`.
        """
        whole(abs(points) if type(points) is int else points, "points")
        if type(into_debt) is not bool:
            raise refusal("invalid_argument", "into_debt: True or False is wanted.", argument="into_debt")
        account, control = self._opened(work, customer, programme, reason=reason)
        if points > 0:
            account.grant_goodwill(work.stamp, points, reason, None, control)
        else:
            account.tell(CorrectionRecorded, work.stamp, control, points=-points, reason=reason, into_debt=into_debt)
        return account.active

    @command
    def extend(
        self,
        work: Work,
        customer: UUID | str,
        until: When,
        *,
        reason: str,
        lot_id: UUID | str | None = None,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """Let points live until a moment: those of a lot, or all that are there; how many lots.

        Refuses: unknown_lot, invalid_argument, and as `record_activity`.
        """
        until_us = moment_us(until, "until")
        lot = None if lot_id is None else as_id(lot_id, "lot_id")
        account, control = self._opened(work, customer, programme, reason=reason)
        if lot is not None and lot not in account.known:
            raise refusal("unknown_lot", "The account never had such a lot.", lot=lot)
        _, decision = account.tell(ExtensionGranted, work.stamp, control, lot_id=lot, until_us=until_us, reason=reason)
        return len(decision.lots) if isinstance(decision, LotsExtended) else 0

    @command
    def reinstate(
        self,
        work: Work,
        customer: UUID | str,
        points: int,
        until: When,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """Give points back that had expired, to live until a moment; the balance after it.

        Refuses: returned_too_much (more than expired and was not given back yet), account_full, and as
        `record_activity`.
        """
        whole(points, "points")
        until_us = moment_us(until, "until")
        account, control = self._opened(work, customer, programme, reason=reason)
        account.come_to(ReinstatementGranted, work.stamp, control)
        left = sum(there for _, there in account.lost(work.stamp.effective_us))
        if points > left:
            raise refusal("returned_too_much", f"{left} points expired.", asked=points, left=left)
        if until_us <= work.stamp.effective_us:
            raise refusal("invalid_argument", "until: it lies before the points come.", argument="until")
        account.tell(ReinstatementGranted, work.stamp, control, points=points, until_us=until_us, reason=reason)
        return account.active

    @command
    def override_tier(
        self,
        work: Work,
        customer: UUID | str,
        tier: str,
        until: When,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Let the account hold a tier until a moment, whatever it earns. Refuses: unknown_tier, invalid_argument, and
        as `record_activity`.
        """
        account, control = self._opened(work, customer, programme, tier=tier, reason=reason)
        rules = control.rule_book.in_force(programme, work.stamp.effective_us)
        if rules is not None and rules.ladder.rank(tier) < 0:
            known = ", ".join(rules.ladder.names)
            raise refusal("unknown_tier", f"The rule set has no tier {tier}: {known}.", tier=tier)
        until_us = moment_us(until, "until")
        if until_us <= work.stamp.effective_us:
            raise refusal("invalid_argument", "until: it lies before the override begins.", argument="until")
        account.tell(TierOverridden, work.stamp, control, tier=tier, until_us=until_us, reason=reason)

    @command
    def lift_override(
        self,
        work: Work,
        customer: UUID | str,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> str:
        """Let the tier follow the rules again; the tier. Refuses: no_override, and as `record_activity`."""
        account, control = self._opened(work, customer, programme, reason=reason)
        until_us = account.override_until_us
        if until_us is None or until_us <= work.stamp.effective_us:
            raise refusal("no_override", "No override of the tier is in force.", account=account.id)
        account.tell(TierOverrideLifted, work.stamp, control, reason=reason)
        return account.tier or ""

    @command
    def suspend(
        self,
        work: Work,
        customer: UUID | str,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Let the account earn and spend nothing until it is resumed; what time does goes on.

        Refuses: account_suspended, and as `record_activity`.
        """
        account, control = self._opened(work, customer, programme, reason=reason)
        if account.status == SUSPENDED:
            raise refusal("account_suspended", "The account is suspended already.", account=account.id)
        account.tell(AccountSuspended, work.stamp, control, reason=reason)

    @command
    def resume(
        self,
        work: Work,
        customer: UUID | str,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Let a suspended account earn and spend again. Refuses: not_suspended, and as `record_activity`."""
        account, control = self._opened(work, customer, programme, reason=reason)
        if account.status != SUSPENDED:
            raise refusal("not_suspended", "The account is not suspended.", account=account.id)
        account.tell(AccountResumed, work.stamp, control, reason=reason)

    @command
    def close(
        self,
        work: Work,
        customer: UUID | str,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """Close the account for good; how many points expired with it. Refuses: as `record_activity`."""
        account, control = self._opened(work, customer, programme, reason=reason)
        account.come_to(AccountClosed, work.stamp, control)
        before = account.expired
        account.tell(AccountClosed, work.stamp, control, reason=reason)
        return account.expired - before

    @command
    def issue_coupon(
        self,
        work: Work,
        customer: UUID | str,
        reward: str,
        *,
        reason: str,
        code: str | None = None,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Give a coupon for a reward by hand (goodwill, a campaign); its id. It lives as the rule set has it.

        Of a reward that is counted, one is taken. `code`: its secret, sealed. Refuses: code_taken, invalid_argument, as
        `record_activity`, and recorded: unknown_reward (or one without coupons), out_of_stock.
        """
        if code is not None:
            text(code, "code", nul=True)
        account, control = self._opened(work, customer, programme, reward=reward, reason=reason)
        known = self._reward(work, programme, reward)
        stock = work.stock(programme, reward) if known is not None and known.counted else None
        there = None if stock is None else stock.there
        fact, decision = account.tell(
            CouponGranted, work.stamp, control, reward=reward, reason=reason, stock=there, code=code
        )
        coupon_id: UUID = fact.event_id
        if isinstance(decision, CouponRefused):
            work.refuse(refusal(decision.code, "No such coupon can be given.", reward=reward))
            return coupon_id
        if stock is not None:
            stock.take(work.stamp, coupon_id)
        if code is not None:
            self._claim_code(work, code, coupon_id)
        return coupon_id

    @command
    def use_coupon(
        self,
        work: Work,
        customer: UUID | str,
        coupon: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """A coupon is presented, by its id or its code; its id. What is not good is recorded, then refused; so is a
        code that no coupon has, without the code.

        Refuses: unknown_coupon, coupon_used, coupon_voided, coupon_expired, account_suspended, and as
        `record_activity`.
        """
        account, control = self._opened(work, customer, programme)
        coupon_id = self._coupon(work, account, coupon)
        fact, decision = account.tell(CouponUsed, work.stamp, control, coupon_id=coupon_id)
        if isinstance(decision, CouponRefused):
            work.refuse(self._not_good(account, coupon_id, decision.code))
        return coupon_id or fact.event_id

    @staticmethod
    def _not_good(account: LoyaltyAccount, coupon_id: UUID | None, code: str) -> Refused:
        """A code that somebody else's coupon has is answered as one that no coupon has."""
        its_own = coupon_id if coupon_id in account.coupons else None
        return refusal(code, "The coupon is not good.", coupon=its_own)

    @command
    def void_coupon(
        self,
        work: Work,
        customer: UUID | str,
        coupon: UUID | str,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """Take a coupon back, by its id or its code; how many points came back, as the rule set has it for the reward.

        Refuses: unknown_coupon, coupon_used, coupon_voided, coupon_expired, account_full, and as `record_activity`.
        """
        account, control = self._opened(work, customer, programme, reason=reason)
        coupon_id = self._coupon(work, account, coupon)
        account.come_to(CouponVoided, work.stamp, control, coupon_id=coupon_id)
        code = account.why_not_good(coupon_id, work.stamp.effective_us)
        if coupon_id is None or code:
            raise self._not_good(account, coupon_id, code)
        before = account.active
        _, closed = account.tell(CouponVoided, work.stamp, control, coupon_id=coupon_id, reason=reason)
        if closed is not None:
            self._restock(work, programme, account.coupons[coupon_id].reward, coupon_id)
        return account.active - before

    @command
    def stock_reward(
        self,
        work: Work,
        reward: str,
        quantity: int,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> int:
        """So many more of a reward are there (fewer, below 0); how many then. Refuses: unknown_reward, out_of_stock,
        invalid_argument.
        """
        as_code(programme, "programme")
        known = self._reward(work, programme, as_code(reward, "reward"))
        if known is None or not known.counted:
            raise refusal("unknown_reward", f"No rule set in force counts a reward {reward}.", reward=reward)
        stock = work.stock(programme, reward)
        stock.stock(work.stamp, programme, reward, quantity, reason)
        return stock.there

    def _opened(
        self, work: Work, customer: UUID | str, programme: str, whose: str = "customer", **codes: str
    ) -> tuple[LoyaltyAccount, Control]:
        """An account, once it is sure that `codes`, named by their arguments, are such. `whose`: what is said to be the
        customer.
        """
        for name, value in {"programme": programme, **codes}.items():
            as_code(value, name)
        return work.enrolled_account(work.customer(as_id(customer, whose)).id, programme), work.control()

    @staticmethod
    def _reward(work: Work, programme: str, reward: str) -> Reward | None:
        """A reward of the rule set in force at the command's time."""
        rules = work.control().rule_book.in_force(programme, work.stamp.effective_us)
        return None if rules is None else rules.rewards.get(reward)

    @staticmethod
    def _earning(account: LoyaltyAccount, fact_id: UUID | str) -> UUID:
        found = as_id(fact_id, "fact_id")
        if found not in account.known:
            raise refusal("unknown_earning", "The account earned nothing for that fact.", fact=found)
        return found

    @staticmethod
    def _restock(work: Work, programme: str, reward: str, redemption_id: UUID) -> None:
        stock = work.stock(programme, reward)
        stock.give_back(work.stamp, redemption_id)

    @staticmethod
    def _code_claim(work: Work, code: str, name: str) -> bytes:
        return work._core.keyring.lookup_hash("coupon", text(code, name, nul=True))

    def _claim_code(self, work: Work, code: str, coupon_id: UUID) -> None:
        claim = self._code_claim(work, code, "code")
        if work.holder(claim) is not None:
            raise refusal("code_taken", "Another coupon has that code.")
        work.claim(claim, coupon_id)

    def _coupon(self, work: Work, account: LoyaltyAccount, coupon: UUID | str) -> UUID | None:
        """A coupon by its id, or by its code; None: no coupon has that code. The account's own ids go first: another
        account's code may be the same text."""
        found: UUID | None = None
        if isinstance(coupon, str):
            with suppress(ValueError):
                found = UUID(coupon)
            if found not in account.coupons:
                found = work.holder(self._code_claim(work, coupon, "coupon")) or found
        else:
            found = as_id(coupon, "coupon")
        return found

    @property
    def sweep(self) -> BoundCommand[..., SweepResult]:
        """Make expiries and tier changes due up to `until` (default: now), and record them for every account.

        First a fact in one transaction; then the accounts to which something is due, in transactions of 500. A sweep
        that is cut short goes on when it is repeated; commands meanwhile see what is due. An account that can't be
        settled (its stream is damaged) stops nothing: it is passed over and named, and the next sweep tries again, to
        the same moment too. `sweep(until=None, *,
        progress=None, effective_at=None, command_id=None)`. Refuses: sweep_goes_back, effective_in_future,
        invalid_argument.
        """
        return BoundCommand(self._sweep, LoyaltyDesk._sweep)

    def _sweep(
        self,
        until: When | None = None,
        *,
        progress: Progress | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> SweepResult:
        self._announce_sweep(until, effective_at=effective_at, command_id=command_id)
        core = self._core
        control = core.app.load(Control, core.book_id)
        until_text = iso(control.horizon_us) or ""
        if control.finished is not None and control.sweep_is_finished:
            return SweepResult(until_text, control.finished.accounts, control.finished.decisions)
        horizon_us = control.horizon_us or 0
        adoptions = len(control.rule_book)
        with rarely_collecting():
            # From here on, each command settles what it brings on: who is quiet now has followed.
            found = [(one.account, one.is_quiet(adoptions, horizon_us)) for one in core.app.due_index.enrolments()]
            due, passed_over = self._ids([account for account, quiet in found if not quiet])
            done, total, without_id = len(found) - len(due), len(found), len(passed_over)
            if progress:
                progress(done, total)
            decisions = 0
            for start in range(0, len(due), ACCOUNTS_PER_COMMIT):
                settled = self._settle(_Accounts(tuple(due[start : start + ACCOUNTS_PER_COMMIT])))
                decisions += settled.decisions
                passed_over += settled.passed_over
                core.app.due_index.write(settled.notes)
                core.app.keep_many(settled.accounts)
                if progress:
                    progress(done + min(start + ACCOUNTS_PER_COMMIT, len(due)), total)
        followed = total - len(passed_over)
        left = [UUID(one.account_id) for one in passed_over[without_id:]]
        self._finish_sweep(horizon_us, control.swept_under, followed, decisions, left)
        return SweepResult(until_text, followed, decisions, tuple(passed_over))

    @staticmethod
    def _ids(accounts: Iterable[bytes]) -> tuple[list[UUID], list[PassedOver]]:
        found: list[UUID] = []
        passed_over: list[PassedOver] = []
        for one in accounts:
            try:
                found.append(uuid_from(one))
            except ValueError:
                passed_over.append(PassedOver(one.hex(), "The id of its stream is none."))
        return found, passed_over

    @command
    def _announce_sweep(
        self, work: Work, until: When | None, *, effective_at: When | None = None, command_id: str | None = None
    ) -> None:
        control = work.control()
        if until is None and effective_at is None:
            # Where another host, whose clock is ahead, swept a moment ago: as far as it did.
            until_us = max(work.stamp.effective_us, control.horizon_us or 0)
        else:
            until_us = work.stamp.effective_us if until is None else moment_us(until, "until")
            work.at(until_us)
        control.sweep(work.stamp, until_us)

    @command
    def _settle(
        self, work: Work, batch: _Accounts, *, effective_at: When | None = None, command_id: str | None = None
    ) -> _Settled:
        control = work.control()
        horizon_us = control.horizon_us or 0
        adoptions = len(control.rule_book)
        if control.sweep_is_finished:
            # By another one; and other rules may have been adopted since, which only the next sweep follows.
            return _Settled(0, [], [], [])
        notes: list[Note] = []
        settled: list[LoyaltyAccount] = []
        accounts, passed_over = self._read(work, batch.ids)
        for account in accounts:
            before = len(work.journal)
            try:
                account.settle(work.stamp, horizon_us, control)
                quiet_until_us = account.quiet_until_us(control.rule_book, horizon_us + LOOK_AHEAD_US)
            except Exception as error:  # noqa: BLE001 - what a damaged or foreign stream holds may fail anywhere
                # The draft is left alone: nothing that it decided is recorded.
                del work.journal[before:]
                passed_over.append(_passed(account.id, error))
                continue
            notes.append(Note(account.id.bytes, account.version, adoptions, quiet_until_us))
            settled.append(account)
        return _Settled(len(work.journal), notes, settled, passed_over)

    @staticmethod
    def _read(work: Work, ids: Sequence[UUID]) -> tuple[list[LoyaltyAccount], list[PassedOver]]:
        """The accounts that can be read, and those that can't."""
        with suppress(*_UNREADABLE):
            return work.accounts(ids), []
        found: list[LoyaltyAccount] = []
        passed_over: list[PassedOver] = []
        for one in ids:
            try:
                found += work.accounts([one])
            except _UNREADABLE as error:
                passed_over.append(_passed(one, error))
        return found, passed_over

    @command
    def _finish_sweep(
        self,
        work: Work,
        until_us: int,
        adoptions: int,
        accounts: int,
        decisions: int,
        passed_over: Sequence[UUID],
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        control = work.control()
        # Somebody may have begun another one meanwhile, which only who follows it may finish.
        if (control.horizon_us, control.swept_under) == (until_us, adoptions):
            control.finish_sweep(work.stamp, accounts, decisions, passed_over)

    def balance(
        self,
        customer: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
    ) -> int:
        """Points that can be spent. Holds no personal value, so it is no recorded read. Refuses: not_enrolled."""
        return self._at(customer, programme, as_of, known_at)[0].active

    def account(
        self,
        customer: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
    ) -> AccountView:
        """An account now, or at a moment of the world (`as_of`), as the book knew it (`known_at`: time or position).

        What is due by the moment counts, recorded or not. The past is derived anew: from the facts that had taken
        effect by then, in the order in which the book learned of them. Refuses: not_enrolled, naive_time,
        invalid_argument.
        """
        at_us = self._core.now_us() if as_of is None else as_of_us(as_of)
        return view_of(*self._at(customer, programme, as_of, known_at), at_us)

    @command
    def estimate(
        self,
        work: Work,
        expected: int,
        issued: int | None = None,
        *,
        source: str,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Record that of `issued` points (default: all that the book knows to be issued by then), `expected` will be
        redeemed in the end, those that were included; the fact's id.

        `liability` goes by it from its effective time on. `source` and `reason` are codes. To correct one, record
        another with the same effective time. Refuses: no_rule_set, invalid_argument.
        """
        self._programme_known(work, programme)
        if issued is None:
            issued = points_issued(self._core, programme, work.stamp.effective_us)
            if not issued:
                raise refusal("invalid_argument", "issued: no points were issued by then.", argument="issued")
        valuation = work.valuation(programme)
        return valuation.estimate(work.stamp, programme, expected, issued, source, reason).event_id

    @command
    def allocate(
        self,
        work: Work,
        allocated_minor: int,
        *,
        source: str,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Record how much of the price of all sales up to the effective time is allocated to points, in minor units of
        the rule set's currency, in place of what the book reckons; the fact's id.

        What is sold later is reckoned again, and added. `source` and `reason` are codes. Refuses: no_rule_set,
        invalid_argument.
        """
        currency = self._programme_known(work, programme)
        valuation = work.valuation(programme)
        return valuation.allocate(work.stamp, programme, allocated_minor, currency, source, reason).event_id

    @staticmethod
    def _programme_known(work: Work, programme: str) -> str:
        """The currency of a programme."""
        as_code(programme, "programme")
        rules = work.control().rule_book.in_force(programme, work.stamp.effective_us)
        if rules is None:
            raise refusal("no_rule_set", f"No rule set is in force for {programme} at that time.", programme=programme)
        return rules.rule_set.currency

    def liability(
        self,
        programme: str = DEFAULT_PROGRAMME,
        *,
        at: When | None = None,
        since: When | None = None,
        known_at: When | int | None = None,
        reported_at: When | int | None = None,
    ) -> Liability:
        """What a programme owes for its points, by IFRS 15, at a moment (default: now); revenue in the period after
        `since`, as a cumulative catch-up.

        What is known now counts for both ends of the period; with `reported_at`, its beginning is taken as the book
        knew it then, so that what came late counts in the period. Sweep up to `at` first: what is due and not recorded
        is not in it. A plain date means all of that day, in UTC. Goes through the log. Refuses: no_rule_set,
        mixed_currencies, naive_time, invalid_argument.
        """
        return liability(self._core, programme, at, since, known_at, reported_at)

    def explain(self, decision: UUID | str) -> Explanation:
        """Why a decision about an account fell: facts, rule set, what each rule gave, arithmetic, lots.

        Goes through all of the log to find it: a second for a million events or two. Holds no personal value.
        Refuses: unknown_decision, invalid_argument.
        """
        return explain(self._core, decision)

    def explain_account(
        self,
        customer: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
    ) -> list[Explanation]:
        """Every decision about an account that took effect by a moment, explained, in the order of recording.

        `customer` may also be the account's own id. Refuses: not_enrolled, naive_time, invalid_argument.
        """
        return explain_account(self._core, customer, programme, as_of, known_at)

    def statement(
        self,
        customer: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        start: When | None = None,
        end: When | None = None,
        order: Order = "recorded",
        known_at: When | int | None = None,
    ) -> Statement:
        """An account from `start` (default: its beginning) to `end` (default: now), both included.

        `order="recorded"`: what the book recorded in the period, so that the statement of a period that is over never
        changes; what came late is a correction in the period in which the book learned of it. `"effective"`: what took
        effect in it, with what is due. Up to now, both hold what is due and not recorded yet. A plain date means all
        of that day, in UTC. `customer` may also be the account's own id. Refuses: not_enrolled, naive_time,
        invalid_argument.
        """
        return statement(self._core, customer, programme, start, end, order, known_at)

    def _at(
        self, customer: UUID | str, programme: str, as_of: When | None, known_at: When | int | None
    ) -> tuple[LoyaltyAccount, Control]:
        """The account's state, with what is due by then, and the rule sets that decided."""
        core = self._core
        core.check_open()
        customer_id = as_id(customer, "customer")
        text(programme, "programme")
        at_us = core.now_us() if as_of is None else as_of_us(as_of)
        stream_id = account_id(customer_id, programme)
        if as_of is None and known_at is None:
            account = core.app.load(LoyaltyAccount, stream_id).draft([])
            control = core.app.load(Control, core.book_id)
        else:
            known = core.known(known_at)
            core.catch_up(core.trail)
            streams = core.stream(core.book_id), core.subject_events(customer_id)
            history = merge(*streams, key=lambda recorded: recorded.position)
            derivation = derived_by(filter(known, history), at_us)
            account = derivation.accounts.get(stream_id) or LoyaltyAccount(stream_id)
            control = derivation.control
        if not account.enrolled:
            raise refusal("not_enrolled", f"The customer has no account in {programme}.", customer=customer_id)
        account.settle(LOOKING, at_us, control)
        return account, control


def _moment(us: int) -> str | None:
    return None if us >= NEVER else iso(us)


def view_of(account: LoyaltyAccount, control: Control, at_us: int) -> AccountView:
    """An account as hosts see it."""
    rules = control.rule_book.in_force(account.programme, at_us)
    known = account.known
    active = [LotView(lot.lot_id, lot.points, iso(lot.earned_us), _moment(lot.expires_us)) for lot in account.lots]
    pending = [
        LotView(
            lot_id,
            points,
            iso(known[lot_id].earned_us),
            _moment(known[lot_id].expires_us),
            True,
            _moment(known[lot_id].activates_us),
        )
        for _, _, lot_id, points in account.pending
    ]
    override_us = account.override_until_us
    assert account.customer_id is not None
    return AccountView(
        account_id=account.id,
        customer_id=account.customer_id,
        programme=account.programme,
        status=account.status,
        tier=account.tier,
        tier_since=iso(account.tier_since_us),
        override_until=None if override_us is None or override_us <= at_us else iso(override_us),
        qualifying=0 if rules is None else account.qualifying(at_us, rules),
        forgiven=account.forgiven,
        benefits=() if rules is None else rules.benefits.get(account.tier or "", ()),
        lots=(*active, *pending),
        holds=tuple(HoldView(hold_id, points, _moment(until)) for until, _, hold_id, points in account.held),
        coupons=tuple(
            CouponView(coupon_id, one.reward, _moment(one.expires_us), one.outcome)
            for coupon_id, one in sorted(account.coupons.items(), key=lambda item: item[1].arrival)
        ),
        **{name: account.bucket(name) for name in BUCKETS},
    )


@dataclass(frozen=True, slots=True)
class _Accounts:
    ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class _Settled:
    decisions: int
    notes: list[Note]
    accounts: list[LoyaltyAccount]
    passed_over: list[PassedOver]


_UNREADABLE = (BookDamaged, StoredFormError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)
"""What reading a damaged stream raises. A server that is gone, or a disk that is full, is no account's fault."""


def _passed(account: UUID, error: Exception) -> PassedOver:
    told = str(error) if isinstance(error, TallybookError) else f"Its events can't be followed: {type(error).__name__}."
    return PassedOver(str(account), told)
