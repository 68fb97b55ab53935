"""LoyaltyAccount: points in lots, tiers by qualifying points, every decision derived from facts by a rule set.

`LoyaltyAccount.receive` is the one place where a fact meets the rules: commands, the certificate and the backtest all
call it. `settle` records what time alone makes due, dated when it was due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise, takewhile
from typing import Any, ClassVar, NamedTuple, TypeVar
from uuid import NAMESPACE_OID, UUID, uuid5

from . import arithmetic
from . import lots as lot_book
from .account import (
    CLOSED,
    OVERRIDDEN,
    SUSPENDED,
    Account,
    CouponState,
    HoldState,
    LotState,
    RedemptionState,
)
from .aggregate import Appliers, Stamp
from .calendar import civil_from_days
from .control import Control, RuleBook
from .customer import PurchaseRecorded, ReturnRecorded, Traits
from .earning import Measured, NewPoints, Rules, Share
from .errors import refusal, whole
from .events import CODE_CHARS_MAX, Event
from .lots import NEVER
from .points import (
    ADJUSTED_UP,
    REINSTATED,
    TRANSFERRED_IN,
    AccountClosed,
    ActivityRecorded,
    CorrectionRecorded,
    CouponClosed,
    CouponGranted,
    CouponIssued,
    CouponRefused,
    CouponUsed,
    CouponVoided,
    EarningConfirmed,
    EarningRefused,
    EarningReversed,
    EarningWithdrawn,
    Enrolled,
    ExtensionGranted,
    GoodwillGranted,
    HoldRefused,
    HoldReleased,
    HoldReleaseRequested,
    HoldRequested,
    LotPart,
    LotsExtended,
    LoyaltyDecision,
    NewLot,
    PointsActivated,
    PointsCorrected,
    PointsCredited,
    PointsEarned,
    PointsExpired,
    PointsHeld,
    PointsRedeemed,
    PointsTransferred,
    RedemptionHonoured,
    RedemptionRefused,
    RedemptionRequested,
    RedemptionReturned,
    RedemptionReversed,
    ReferralCredited,
    ReferralReduced,
    ReinstatementGranted,
    TierChanged,
    TierOverridden,
    TierOverrideLifted,
    TransferReceived,
    TransferRefused,
    TransferRequested,
    Use,
    lot_of,
)
from .tiers import Change

D = TypeVar("D", bound=LoyaltyDecision)

NO_RULES = "none@0"
"""What a decision names that falls when no rule set is in force."""


NOBODY = Traits()

ATTEMPTS = (RedemptionRequested, HoldRequested, TransferRequested, CouponUsed)
"""Facts that are recorded of a closed account too, and then refused."""
TAKES_NOTHING = {SUSPENDED: "receiver_suspended", CLOSED: "receiver_closed"}
"""Status of an account → why nothing is transferred to it."""
WITHDRAWN = "withdrawn"
OVER = {"used": "coupon_used", "voided": "coupon_voided", "expired": "coupon_expired", WITHDRAWN: "coupon_voided"}
"""How a coupon ended → why it is not good."""


UNFUNDED = ("reject", "clamp", "deficit")
"""What becomes of a redemption that was paid, and that the account has too little for under other rules: it is refused;
it takes what is there; it takes what is there, and the rest becomes a debt."""


@dataclass(slots=True)
class WhatIf:
    """What a replay under other rules asks of an account. `unfunded`: one of UNFUNDED; `paid`: whether the fact at hand
    is a redemption that was paid.

    It takes in what happens: `shares` that rules give, with the programme; how many points were `short` for the last
    redemption that was honoured.
    """

    unfunded: str = "reject"
    paid: bool = False
    shares: list[tuple[str, Share]] = field(default_factory=list)
    short: int | None = None

    def honoured(self, points: int, there: int) -> tuple[int, int] | None:
        """How many points are spent for a redemption of more than there are, and how many of these become a debt; None:
        it is refused."""
        clamps = self.unfunded == "clamp"
        if not self.paid or self.unfunded == "reject" or (clamps and not there):
            return None
        self.short = points - there
        return (there, 0) if clamps else (points, points - there)


class Redemption(NamedTuple):
    """How a redemption ended."""

    request: RedemptionRequested
    outcome: PointsRedeemed | RedemptionRefused


def granted_by(tier: str) -> str:
    """Why a coupon was issued that a tier grants."""
    return f"tier:{tier}"[:CODE_CHARS_MAX]


def tier_coupon_id(account: UUID, tier: str, reward: str, year: int) -> UUID:
    """The coupon that a tier grants an account in a year: derived, so that it is granted once."""
    return uuid5(account, f"{tier} {reward} {year}")


@lru_cache(maxsize=16_384)
def account_id(customer_id: UUID, programme: str) -> UUID:
    """The stream of a customer's account in a programme: derived, so that nothing needs to be looked up."""
    return uuid5(NAMESPACE_OID, f"{customer_id.hex}/{programme}")


def inactive_us(rule_book: RuleBook, programme: str, moved_us: int) -> int | None:
    """When an account that was last in use at a moment has been inactive for so long that its points go; None: never,
    by the rule sets that are known."""
    starts = [moved_us]
    if rule_book.count(programme) > 1:
        starts += rule_book.starts(programme, moved_us, NEVER)
    for place, start in enumerate(starts):
        rules = rule_book.in_force(programme, start)
        months = None if rules is None else rules.rule_set.inactivity_months
        if rules is not None and months is not None:
            at_us = max(start, rules.zone.months_after(moved_us, months))
            if place + 1 == len(starts) or at_us < starts[place + 1]:
                return at_us
    return None


class LoyaltyAccount(Account):
    """An account: what it is, and what it decides."""

    APPLIERS: ClassVar[Appliers] = Account.APPLIERS

    # ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────

    def enrol(
        self, stamp: Stamp, customer_id: UUID, programme: str, control: Control, traits: Traits = NOBODY
    ) -> Enrolled:
        """Open the account in its first tier. Refuses: already_enrolled, no_rule_set."""
        if self.enrolled:
            raise refusal("already_enrolled", "The customer has an account.", customer=customer_id)
        if control.rule_book.in_force(programme, stamp.effective_us) is None:
            raise refusal("no_rule_set", f"No rule set is in force for {programme} at that time.", programme=programme)
        fact = self.record(Enrolled, stamp, customer_id, programme=programme)
        self.receive(fact, stamp, control, traits)
        return fact

    def come_to(self, event_class: type[Event], stamp: Stamp, control: Control, **fields: Any) -> None:
        """Settle what is due by a fact, which can't lie before what it answers. Refuses: effective_too_early."""
        stamp.not_before(self.enrolled_us, "the account was opened")
        answered = ANSWERED.get(event_class)
        at_us = None if answered is None else answered(self, fields)
        if at_us is not None:
            stamp.not_before(at_us, "that of what it rests on")
        self.settle(stamp, stamp.effective_us, control)

    def tell(
        self, event_class: type[Any], stamp: Stamp, control: Control, traits: Traits = NOBODY, **fields: Any
    ) -> tuple[Any, Event | None]:
        """Record a fact on the account, and what it decides; both. An attempt to spend is recorded of a closed one too.

        Refuses: effective_too_early, no_rule_set, account_closed, account_full.
        """
        self.come_to(event_class, stamp, control, **fields)
        if control.rule_book.in_force(self.programme, stamp.effective_us) is None:
            raise refusal(
                "no_rule_set",
                f"No rule set is in force for {self.programme} at that time.",
                programme=self.programme,
            )
        if self.status == CLOSED and event_class not in ATTEMPTS:
            raise refusal("account_closed", "The account is closed.", account=self.id)
        if self._is_full(event_class, fields):
            raise refusal("account_full", "So many points don't fit into the account.", account=self.id)
        fact = self.record(event_class, stamp, self.customer_id, **fields)
        return fact, self.receive(fact, stamp, control, traits)

    def redeem(
        self,
        stamp: Stamp,
        points: int,
        reward: str,
        control: Control,
        *,
        stock: int | None = None,
        segments: Sequence[str] = (),
        hold_id: UUID | None = None,
        code: str | None = None,
    ) -> Redemption:
        """Spend points. What the account can't pay is recorded, and then told by the outcome.

        Refuses: invalid_argument, effective_too_early, no_rule_set.
        """
        whole(points, "points")
        request, outcome = self.tell(
            RedemptionRequested,
            stamp,
            control,
            points=points,
            reward=reward,
            stock=stock,
            segments=tuple(segments),
            hold_id=hold_id,
            code=code,
        )
        assert isinstance(outcome, (PointsRedeemed, RedemptionRefused))
        return Redemption(request, outcome)

    def grant_goodwill(
        self, stamp: Stamp, points: int, reason: str, ticket_id: UUID | None, control: Control
    ) -> GoodwillGranted:
        """Add points for a reason outside of the earning rules.

        Refuses: invalid_argument, effective_too_early, no_rule_set, account_closed.
        """
        whole(points, "points")
        fact, _ = self.tell(GoodwillGranted, stamp, control, points=points, reason=reason, ticket_id=ticket_id)
        assert isinstance(fact, GoodwillGranted)
        return fact

    def why_not_good(self, coupon_id: UUID | None, at_us: int) -> str:
        """Why a coupon is not good at a moment; empty: it is. What is due by then must be settled."""
        coupon = None if coupon_id is None else self.coupons.get(coupon_id)
        if coupon is None:
            return "unknown_coupon"
        if coupon.outcome:
            return OVER[coupon.outcome]
        return "effective_too_early" if at_us < coupon.since_us else ""

    def why_not_returned(self, redemption_id: UUID, points: int, at_us: int) -> str:
        """Why so many points of a redemption can't be given back at a moment; empty: they can, so far as they are left.

        Nobody keeps what the points were paid for, and points: a coupon goes back while it is good, and whole.
        """
        state = self.redemptions.get(redemption_id)
        if state is None:
            return "unknown_redemption"
        if redemption_id not in self.coupons:
            return ""
        return self.why_not_good(redemption_id, at_us) or ("coupon_whole" if points < state.points else "")

    # ── where facts meet rules ────────────────────────────────────────────────────────────────────────────────────

    def receive(self, fact: Event, stamp: Stamp, control: Control, traits: Traits = NOBODY) -> Event | None:
        """Derive and record what a fact decides; the decision about the fact itself, if there is one.

        What is due by then must be settled first. Facts that say nothing to an account change nothing.
        """
        reaction = REACTIONS.get(type(fact))
        if reaction is None:
            return None
        rules = control.rule_book.in_force(self.programme, fact.effective_us)
        if rules is None or self._is_full(type(fact), fact.__dict__):
            return None
        active, at_us = self.active, max(fact.effective_us, self.clock_us)
        then = control.rule_book.in_force(self.programme, at_us) if isinstance(fact, TAKING) else None
        counted = None if then is None else then.ladder.qualifying(self, at_us)
        decision = reaction(self, fact, stamp.at(fact.effective_us), rules, traits)
        reason = None if decision is None else EVALUATED.get(type(decision))
        if then is not None and then.ladder.qualifying(self, at_us) == counted:
            # What was taken did not count for the tier any more.
            reason = None
        moved = self.active != active
        if reason is None and moved:
            reason = BALANCE_CHANGED
        if reason is not None:
            self._evaluate_tier((fact.event_id,), fact.effective_us, stamp, control.rule_book, reason, moved=moved)
        horizon = control.horizon_us
        if horizon is not None:
            # A late fact may bring a lot or a tier that is over already by the last sweep.
            self.settle_until(stamp, horizon, control.rule_book)
        return decision

    def _is_full(self, event_class: type[Event], fields: Mapping[str, Any]) -> bool:
        """Whether a fact brings more than fits. What an earning rule gives is looked at when it is known."""
        brings = BRINGING.get(event_class)
        return brings is not None and not self.fits(brings(self, fields))

    def settle(self, stamp: Stamp, until_us: int, control: Control) -> None:
        """Record every decision that is due by a moment, or that a sweep made due, dated when it was due."""
        if control.horizon_us is not None:
            until_us = max(until_us, control.horizon_us)
        self.settle_until(stamp, until_us, control.rule_book)

    def settle_until(self, stamp: Stamp, until_us: int, rule_book: RuleBook) -> None:
        """Record every decision that time alone makes due by a moment, under one rule book.

        In order of time; at one moment points are activated first, then tiers evaluated, holds released, points
        expired: so a tier counts what is there before it goes, and no hold outlives its lot.
        """
        if not self.enrolled:
            return
        while True:
            due = self._due(until_us, rule_book)
            if due is None:
                return
            at_us, _, decide = due
            active = self.active
            decide(self, stamp.at(at_us), rule_book)
            if self.active != active:
                self._evaluate_tier((), at_us, stamp, rule_book, BALANCE_CHANGED, moved=True)

    def quiet_until_us(self, rule_book: RuleBook, look_us: int) -> int:
        """Up to this moment, exclusive, time alone makes no decision due under a rule book; looks no further than
        `look_us`. Commands may bring it on.
        """
        due = self._due(look_us, rule_book) if self.enrolled else None
        return look_us if due is None else due[0]

    def _due(self, until_us: int, rule_book: RuleBook) -> tuple[int, int, Timely] | None:
        """What is due first, up to a moment: when, its place among what is due then, and how it is decided."""
        found: list[tuple[int, int, Timely]] = []
        if self.pending:
            found.append(self._next_of_pending())
        if self.held:
            found.append((self.held.first[0], 2, LoyaltyAccount._end_hold))
        if self.lots:
            found.append((self.lots.first.expires_us, 3, LoyaltyAccount._expire))
        if self.lots or self.pending or self.held:
            gone_us = inactive_us(rule_book, self.programme, self.moved_us)
            if gone_us is not None:
                found.append((gone_us, 4, LoyaltyAccount._expire_inactive))
        if self.due_coupons:
            found.append((self.due_coupons.first[0], 5, LoyaltyAccount._expire_coupon))
        first = min(found, key=lambda one: one[:2], default=(NEVER, 0, LoyaltyAccount._activate))
        # Beyond what is due anyway, tiers are not looked at: that is done again after each decision.
        change = self._next_tier_change(min(until_us, first[0]), rule_book)
        if change is not None and (change[0], 1) < first[:2]:
            return change[0], 1, lambda account, stamp, _: account._change_tier(stamp, (), *change[1:])
        return None if first[0] > until_us or first[0] >= NEVER else first

    # ── tiers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _next_tier_change(self, until_us: int, rule_book: RuleBook) -> tuple[int, Rules, Change, str] | None:
        """The first moment from the account's clock up to `until_us` at which time alone changes the tier."""
        clock_us = self.clock_us
        if clock_us > until_us:
            return None
        moments: dict[int, str] = {}
        free_us = clock_us
        if self.override_until_us is not None and self.override_until_us >= clock_us:
            free_us = self.override_until_us
            moments[free_us] = OVERRIDE_ENDED
        starts = [clock_us]
        if rule_book.count(self.programme) > 1:
            # Rules that were adopted since, from before the account's clock, hold from the clock on.
            starts += rule_book.starts(self.programme, clock_us, until_us)
            for start in starts:
                moments.setdefault(start, RULES_CHANGED)
        for start, end in pairwise((*starts, NEVER)):
            # What rules look at ends where others take their place.
            rules = rule_book.in_force(self.programme, start)
            if rules is not None:
                for at_us in rules.ladder.moments(self, start, min(until_us, end - 1)):
                    moments.setdefault(at_us, "window_moved")
        for at_us in sorted(moments):
            if at_us > until_us:
                return None
            rules = rule_book.in_force(self.programme, at_us)
            if rules is None or at_us < free_us:
                continue
            change = self._by_time(rules, at_us, moments[at_us])
            if change.tier != self.tier or (moments[at_us] == OVERRIDE_ENDED and self._is_lent):
                return at_us, rules, change, moments[at_us]
        return None

    @property
    def _is_lent(self) -> bool:
        """Whether the tier is one that people decided on, and the rules had decided on another."""
        return self.standing != self.tier

    def _by_time(self, rules: Rules, at_us: int, reason: str) -> Change:
        ladder = rules.ladder
        if reason == OVERRIDE_ENDED:
            return ladder.after_points(self, at_us, reversed_=True)
        if reason == RULES_CHANGED and ladder.yearly:
            return ladder.after_points(self, at_us, reversed_=False)
        return ladder.by_time(self, at_us)

    def _evaluate_tier(
        self,
        facts: tuple[UUID, ...],
        effective_us: int,
        stamp: Stamp,
        rule_book: RuleBook,
        reason: str,
        *,
        moved: bool,
    ) -> None:
        """Where the tier goes after points came or went; `moved`: whether the balance is another."""
        # Tiers follow one another in time: a late fact changes the tier from the account's clock on, by the rules of
        # that moment.
        at_us = max(effective_us, self.clock_us)
        rules = rule_book.in_force(self.programme, at_us)
        if rules is None:
            return
        if self.override_until_us is not None and self.override_until_us > at_us:
            if moved and reason == EVALUATED[EarningReversed]:
                change = rules.ladder.after_points(self, at_us, reversed_=True)
                self._withdraw_grants(stamp.at(at_us), rules, facts, change.tier)
            return
        by_balance = rules.rule_set.tiers.basis == "balance"
        if not moved if by_balance else reason == BALANCE_CHANGED:
            return
        change = rules.ladder.after_points(self, at_us, reversed_=reason == "earning_reversed")
        if change.tier != self.tier:
            self._change_tier(stamp.at(at_us), facts, rules, change, reason)

    def _change_tier(
        self,
        stamp: Stamp,
        facts: tuple[UUID, ...],
        rules: Rules,
        change: Change,
        reason: str,
        until_us: int | None = None,
    ) -> TierChanged:
        before = rules.ladder.rank(self.standing)
        changed = self._decide(
            TierChanged,
            stamp,
            rules,
            facts,
            previous=self.tier,
            tier=change.tier,
            reason=reason,
            qualifying=max(change.points, 0),
            until_us=until_us,
        )
        rank = rules.ladder.rank(change.tier)
        if rank > before >= 0 and reason != OVERRIDDEN:
            for reward in rules.rule_set.tiers.levels[rank].grants:
                self._grant(stamp, rules, facts, reward, change.tier)
        if rank < before and reason == EVALUATED[EarningReversed]:
            self._withdraw_grants(stamp, rules, facts, change.tier)
        return changed

    def _grant(self, stamp: Stamp, rules: Rules, facts: tuple[UUID, ...], reward: str, tier: str) -> None:
        """A coupon for reaching a tier: once a year, however often it is reached."""
        year = rules.zone.period(stamp.effective_us, "year")
        coupon_id = tier_coupon_id(self.id, tier, reward, year)
        had = self.coupons.get(coupon_id)
        if had is None or had.outcome == WITHDRAWN:
            self._issue(stamp, rules, facts, coupon_id, reward, granted_by(tier))

    def _withdraw_grants(self, stamp: Stamp, rules: Rules, facts: tuple[UUID, ...], tier: str) -> None:
        """What came with tiers above one goes with them when a return took them away, so far as it is good still. A
        tier that the rules of now don't know is above all of them.
        """
        kept = {granted_by(name) for name in rules.ladder.names[: rules.ladder.rank(tier) + 1]}
        for coupon_id in [coupon_id for _, _, coupon_id, _ in self.due_coupons]:
            why = self.coupons[coupon_id].reason
            if why.startswith(granted_by("")) and why not in kept:
                self._decide(CouponClosed, stamp, rules, facts, coupon_id=coupon_id, outcome=WITHDRAWN)

    def qualifying(self, at_us: int, rules: Rules) -> int:
        """Qualifying points that count at a moment."""
        return rules.ladder.qualifying(self, at_us)

    # ── what time alone does ──────────────────────────────────────────────────────────────────────────────────────

    def _rules_then(self, stamp: Stamp, rule_book: RuleBook) -> Rules | None:
        return rule_book.in_force(self.programme, stamp.effective_us)

    def _activate(self, stamp: Stamp, rule_book: RuleBook) -> None:
        at_us = stamp.effective_us
        due = [
            (lot_id, points)
            for _, _, lot_id, points in takewhile(lambda entry: entry[0] <= at_us, self.pending)
            if self.known[lot_id].activates_us <= at_us
        ]
        self._activated(stamp, self._rules_then(stamp, rule_book), self._facts_of(due), due)

    def _activated(
        self, stamp: Stamp, rules: Rules | None, facts: tuple[UUID, ...], due: Sequence[tuple[UUID, int]]
    ) -> PointsActivated:
        return self._decide(
            PointsActivated,
            stamp,
            rules,
            facts,
            lots=tuple(
                NewLot(
                    lot_id=lot_id,
                    points=points,
                    earned_us=self.known[lot_id].earned_us,
                    expires_us=self._new_age(self.known[lot_id], stamp.effective_us, rules),
                )
                for lot_id, points in due
            ),
            debt_paid=self._into_debt(due),
        )

    @staticmethod
    def _new_age(lot: LotState, at_us: int, rules: Rules | None) -> int:
        """When a lot expires that is activated at a moment: an open end is decided by the rules of that moment."""
        if rules is None or not lot.open_end:
            return lot.expires_us
        expiry = rules.expiry_of(lot.rule)
        return rules.expires_us(expiry, at_us if expiry.counted_from == "activated" else lot.earned_us)

    def _end_hold(self, stamp: Stamp, rule_book: RuleBook) -> None:
        _, _, hold_id, _ = self.held.first
        self._release(stamp, self._rules_then(stamp, rule_book), (hold_id,), hold_id, "expired")

    def _release(
        self, stamp: Stamp, rules: Rules | None, facts: tuple[UUID, ...], hold_id: UUID, reason: str
    ) -> HoldReleased:
        recovered, free = self._recovered((part.lot_id, part.points) for part in self.holds[hold_id].parts)
        return self._decide(
            HoldReleased,
            stamp,
            rules,
            facts,
            hold_id=hold_id,
            reason=reason,
            reversed=_parts(recovered),
            lots=_parts(free),
            debt_paid=self._into_debt(free),
        )

    def _next_of_pending(self) -> tuple[int, int, Timely]:
        """The first moment at which points cease to be pending: active, or gone, where their time is over before."""
        due_us = self.pending.first[0]
        for _, _, lot_id, _ in takewhile(lambda entry: entry[0] == due_us, self.pending):
            if self.known[lot_id].activates_us == due_us:
                return due_us, 0, LoyaltyAccount._activate
        return due_us, 3, LoyaltyAccount._expire_pending

    def _expire_pending(self, stamp: Stamp, rule_book: RuleBook) -> None:
        at_us = stamp.effective_us
        pending = [
            (lot_id, points) for _, _, lot_id, points in takewhile(lambda entry: entry[0] <= at_us, self.pending)
        ]
        self._expired(stamp, self._rules_then(stamp, rule_book), self._facts_of(pending), "expiry", (), pending)

    def _expire(self, stamp: Stamp, rule_book: RuleBook) -> None:
        gone = lot_book.take_expired(self.lots.copy(), stamp.effective_us)
        self._expired(stamp, self._rules_then(stamp, rule_book), self._facts_of(gone), "expiry", gone)

    def _expire_inactive(self, stamp: Stamp, rule_book: RuleBook) -> None:
        self._expire_all(stamp, self._rules_then(stamp, rule_book), None, "inactivity")

    def _expire_all(
        self, stamp: Stamp, rules: Rules | None, facts: tuple[UUID, ...] | None, reason: str
    ) -> Event | None:
        """All points go, those that are held too. `facts`: why; None: those that brought them."""
        for hold_id in [hold_id for _, _, hold_id, _ in self.held]:
            self._release(stamp, rules, (hold_id,) if facts is None else facts, hold_id, reason)
        gone = [(lot.lot_id, lot.points) for lot in self.lots]
        pending = [(lot_id, points) for _, _, lot_id, points in self.pending]
        if not gone and not pending:
            return None
        named = self._facts_of((*gone, *pending)) if facts is None else facts
        return self._expired(stamp, rules, named, reason, gone, pending)

    def _expired(
        self,
        stamp: Stamp,
        rules: Rules | None,
        facts: tuple[UUID, ...],
        reason: str,
        gone: Sequence[tuple[UUID, int]],
        pending: Sequence[tuple[UUID, int]] = (),
    ) -> PointsExpired:
        return self._decide(
            PointsExpired,
            stamp,
            rules,
            facts,
            points=sum(points for _, points in (*gone, *pending)),
            reason=reason,
            lots=_parts(gone),
            pending=_parts(pending),
        )

    def _expire_coupon(self, stamp: Stamp, rule_book: RuleBook) -> None:
        _, _, coupon_id, _ = self.due_coupons.first
        self._decide(
            CouponClosed,
            stamp,
            self._rules_then(stamp, rule_book),
            (coupon_id,),
            coupon_id=coupon_id,
            outcome="expired",
        )

    # ── what reactions share ──────────────────────────────────────────────────────────────────────────────────────

    def _decide(
        self, event_class: type[D], stamp: Stamp, rules: Rules | None, facts: tuple[UUID, ...], **fields: Any
    ) -> D:
        """Record a decision."""
        return self.record(
            event_class,
            stamp,
            self.customer_id,
            rules=rules.label if rules else NO_RULES,
            facts=facts,
            programme=self.programme,
            **fields,
        )

    def _facts_of(self, parts: Iterable[tuple[UUID, int]]) -> tuple[UUID, ...]:
        """The facts that lots were earned for."""
        return tuple(dict.fromkeys(self.known[lot_id].fact for lot_id, _ in parts))

    def _recovered(self, coming: Iterable[tuple[UUID, int]]) -> tuple[list[tuple[UUID, int]], list[tuple[UUID, int]]]:
        """Of points that come back to their lots: what a return could not take of these before, and the others."""
        recovered, free = [], []
        for lot_id, points in coming:  # each lot once
            part = min(points, self.known[lot_id].recoverable)
            recovered += [(lot_id, part)] if part else []
            free += [(lot_id, points - part)] if points > part else []
        return recovered, free

    def _into_debt(self, coming: Iterable[tuple[UUID, int]]) -> tuple[LotPart, ...]:
        """What of points that become active goes into a debt at once."""
        debt, paid = self.debt, []
        for lot_id, points in coming:
            part = min(debt, points)
            if part:
                paid.append((lot_id, part))
                debt -= part
        return _parts(paid)

    def _limited(self, on: str, points: int, at_us: int, rules: Rules) -> tuple[str, tuple[Use, ...]]:
        """Why a limit does not let so many points through (empty: none does), and what they count against limits."""
        uses: dict[tuple[str, str], int] = {}
        for limit in rules.rule_set.limits:
            if limit.on != on:
                continue
            number = rules.zone.period(at_us, limit.period)
            for counter, most, amount in (
                (f"limit:{on}:times", limit.count, 1),
                (f"limit:{on}:points", limit.points, points),
            ):
                if most is not None:
                    if self.used(counter, limit.period, number) + amount > most:
                        return "limit_exceeded", ()
                    uses[counter, limit.period] = amount
        return "", tuple(
            Use(counter=counter, period=period, number=rules.zone.period(at_us, period), amount=amount)
            for (counter, period), amount in uses.items()
        )

    def _earn(self, fact: Event, stamp: Stamp, rules: Rules, measured: Measured) -> Event | None:
        """Record what a fact earns: a lot for each age that rules give."""
        if self.status == CLOSED or measured.at_us < self.enrolled_us:
            return None
        found = [
            lot
            for lot in rules.earn(measured, self.tier, self.id, self.used)
            if lot.points or lot.qualifying or lot.capped
        ]
        if not found:
            return None
        points = sum(lot.points for lot in found)
        code, uses = self._limited("earn", points, measured.at_us, rules)
        if not self.fits(points, sum(lot.qualifying for lot in found)):
            code = "account_full"
        code = self.barred(measured.at_us) or code
        if code:
            return self._decide(EarningRefused, stamp, rules, (fact.event_id,), points=points, code=code)
        lots = [
            self._earned(fact, stamp, rules, measured, number, lot, uses if number == 0 else ())
            for number, lot in enumerate(found)
        ]
        return lots[0]

    def _earned(
        self,
        fact: Event,
        stamp: Stamp,
        rules: Rules,
        measured: Measured,
        number: int,
        lot: NewPoints,
        uses: tuple[Use, ...],
    ) -> PointsEarned:
        at_once = lot.activates_us <= measured.at_us
        if isinstance(stamp.what_if, WhatIf):
            stamp.what_if.shares.extend((self.programme, share) for share in lot.shares)
        return self._decide(
            PointsEarned,
            stamp,
            rules,
            (fact.event_id,),
            lot_id=lot_of(fact.event_id, number),
            points=lot.points,
            qualifying=lot.qualifying,
            activates_us=lot.activates_us,
            expires_us=lot.expires_us,
            rule_ids=lot.rule_ids,
            lines=lot.lines,
            basis_unit=lot.basis_unit,
            tier=self.tier,
            debt_paid=min(self.debt, lot.points) if at_once else 0,
            capped=lot.capped,
            uses=(*lot.uses, *uses),
            inputs=measured.inputs,
            open_end=lot.open_end,
        )

    def _issue(
        self, stamp: Stamp, rules: Rules, facts: tuple[UUID, ...], coupon_id: UUID, reward: str, reason: str
    ) -> CouponIssued:
        known = rules.rewards[reward]
        return self._decide(
            CouponIssued,
            stamp,
            rules,
            facts,
            coupon_id=coupon_id,
            reward=reward,
            expires_us=rules.zone.add_days(stamp.effective_us, known.coupon_days or 0),
            reason=reason,
            voided=known.voided,
        )

    def _give_back(self, fact: Event, stamp: Stamp, rules: Rules, redemption_id: UUID, points: int) -> Event | None:
        """Points of a redemption come back, those that were used last first: to what a return could not take of their
        lots, to a debt (first those that would lapse), and then to the customer.
        """
        state = self.redemptions.get(redemption_id)
        points = 0 if state is None else min(points, state.points)
        if state is None or not points:
            return None
        at_us = stamp.effective_us
        recovered, free = self._recovered(lot_book.split(reversed(state.parts), points)[0])
        restored: list[tuple[UUID, int]] = []
        lapsed: list[tuple[UUID, int]] = []
        new_lot: NewLot | None = None
        if rules.rule_set.refunds.redemption == "new_lot":
            left = sum(part for _, part in free)
            expires_us = rules.expires_us(rules.rule_set.expiry, at_us)
            if left:
                new_lot = NewLot(lot_id=fact.event_id, points=left, earned_us=at_us, expires_us=expires_us)
                restored = [(new_lot.lot_id, left)]
        else:
            over = [part for part in free if self.known[part[0]].expires_us <= at_us]
            restored, lapsed = lot_book.split(over, self.debt)
            restored += [part for part in free if self.known[part[0]].expires_us > at_us]
        return self._decide(
            RedemptionReversed,
            stamp,
            rules,
            (fact.event_id,),
            redemption_id=redemption_id,
            points=points,
            reversed=_parts(recovered),
            restored=() if new_lot is not None else _parts(restored),
            lapsed=_parts(lapsed),
            new_lot=new_lot,
            debt_paid=self._into_debt(restored),
        )


Timely = Callable[[LoyaltyAccount, Stamp, RuleBook], Any]
Reaction = Callable[[LoyaltyAccount, Any, Stamp, Rules, Traits], Event | None]
REACTIONS: dict[type[Event], Reaction] = {}
"""What an account does about each kind of fact. The stamp is dated as the fact is."""

BALANCE_CHANGED = "balance_changed"
OVERRIDE_ENDED = "override_ended"
RULES_CHANGED = "rules_changed"
EVALUATED: dict[type[Event], str] = {
    PointsEarned: "points_earned",
    EarningReversed: "earning_reversed",
}
"""Decisions after which the tier is evaluated, and the reason that a change then names."""
TAKING = (ReturnRecorded, EarningWithdrawn, ReferralReduced)
"""Facts that take back what was earned."""


def _since(found: LotState | HoldState | RedemptionState | CouponState | None) -> int | None:
    return None if found is None else found.since_us


ANSWERED: dict[type[Event], Callable[[LoyaltyAccount, Mapping[str, Any]], int | None]] = {
    EarningConfirmed: lambda account, fields: _since(account.known.get(fields["fact_id"])),
    EarningWithdrawn: lambda account, fields: _since(account.known.get(fields["fact_id"])),
    RedemptionRequested: lambda account, fields: (
        None if fields.get("hold_id") is None else _since(account.holds.get(fields["hold_id"]))
    ),
    RedemptionReturned: lambda account, fields: _since(account.redemptions.get(fields["redemption_id"])),
    HoldReleaseRequested: lambda account, fields: _since(account.holds.get(fields["hold_id"])),
    ExtensionGranted: lambda account, fields: _since(account.known.get(fields["lot_id"])),
    ReferralReduced: lambda account, fields: _since(account.known.get(fields["credit_id"])),
    CouponUsed: lambda account, fields: _since(account.coupons.get(fields["coupon_id"])),
    CouponVoided: lambda account, fields: _since(account.coupons.get(fields["coupon_id"])),
}
"""Facts that answer something of the account, and when that was: they can't lie before it."""

Brings = Callable[[LoyaltyAccount, Mapping[str, Any]], int]


def _voided(account: LoyaltyAccount, fields: Mapping[str, Any]) -> int:
    state = account.redemptions.get(fields["coupon_id"])
    return 0 if state is None else state.points


BRINGING: dict[type[Event], Brings] = {
    GoodwillGranted: lambda _, fields: fields["points"],
    ReinstatementGranted: lambda _, fields: fields["points"],
    CorrectionRecorded: lambda _, fields: fields["points"] if fields["into_debt"] else 0,
    TransferReceived: lambda _, fields: sum(lot.points for lot in fields["lots"]),
    RedemptionReturned: lambda _, fields: fields["points"],
    CouponVoided: _voided,
}
"""Facts that bring points, or a debt, without an earning rule: how many, by their fields."""


def reacts(event_class: type[Event]) -> Callable[[Reaction], Reaction]:
    """Mark a function as the account's reaction to a kind of fact."""

    def mark(function: Reaction) -> Reaction:
        REACTIONS[event_class] = function
        return function

    return mark


# ── earning ───────────────────────────────────────────────────────────────────────────────────────────────────────


@reacts(Enrolled)
def _start(account: LoyaltyAccount, fact: Enrolled, stamp: Stamp, rules: Rules, traits: Traits) -> Event | None:
    account._change_tier(stamp, (fact.event_id,), rules, Change(rules.ladder.base, 0), "enrolled")
    return _give(account, fact, stamp, rules, traits)


@reacts(PurchaseRecorded)
@reacts(ActivityRecorded)
@reacts(ReferralCredited)
def _give(account: LoyaltyAccount, fact: Event, stamp: Stamp, rules: Rules, traits: Traits) -> Event | None:
    seen = measured_of(account, fact, rules, traits)
    return None if seen is None else account._earn(fact, stamp, rules, seen)


@reacts(EarningConfirmed)
def _confirm(account: LoyaltyAccount, fact: EarningConfirmed, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    due = [(lot_id, lot.pending) for lot_id, lot in _lots_of(account, fact.fact_id) if lot.pending]
    return account._activated(stamp, rules, (fact.event_id,), due) if due else None


def _lots_of(account: LoyaltyAccount, fact_id: UUID) -> Iterator[tuple[UUID, LotState]]:
    number = 0
    while (lot := account.known.get(lot_id := lot_of(fact_id, number))) is not None:
        yield lot_id, lot
        number += 1


@reacts(ReturnRecorded)
def _return(account: LoyaltyAccount, fact: ReturnRecorded, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    def back(lot: LotState) -> list[int]:
        came = [0] * len(lot.lines)
        for given in fact.lines:
            came[given.line - 1] += given.quantity if lot.in_pieces else given.net_minor
        return came

    return _take_back(account, fact, stamp, rules, fact.purchase_id, back)


@reacts(EarningWithdrawn)
def _withdraw(account: LoyaltyAccount, fact: EarningWithdrawn, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    return _take_back(account, fact, stamp, rules, fact.fact_id, lambda lot: [line.basis for line in lot.lines])


@reacts(ReferralReduced)
def _reduce(account: LoyaltyAccount, fact: ReferralReduced, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    return _take_back(account, fact, stamp, rules, fact.credit_id, lambda _: list(fact.returned))


def _take_back(
    account: LoyaltyAccount,
    fact: Event,
    stamp: Stamp,
    rules: Rules,
    fact_id: UUID,
    back: Callable[[LotState], list[int]],
) -> EarningReversed | None:
    """Take back what another fact earned, of each of its lots what came `back` of its lines; the first decision."""
    lots = list(_lots_of(account, fact_id))
    decisions = [_reverse(account, fact, stamp, rules, lot_id, back(lot)) for lot_id, lot in lots]
    return next((one for one in decisions if one is not None), None)


def _reverse(
    account: LoyaltyAccount, fact: Event, stamp: Stamp, rules: Rules, lot_id: UUID, back: list[int]
) -> EarningReversed | None:
    """Take back what the lines of a lot earned that came `back`, at most what is left; cumulative, so that parts add
    up to the whole.
    """
    lot = account.known[lot_id]
    points = qualifying = 0
    for place, line in enumerate(lot.lines):
        back[place] = min(back[place], line.basis - line.returned)
        if back[place]:
            upto = line.returned + back[place]
            points += arithmetic.given_back(line.points, line.basis, line.returned, upto)
            qualifying += arithmetic.given_back(line.qualifying, line.basis, line.returned, upto)
    if not any(back):
        return None
    policy = rules.rule_set.refunds.earning
    pending = min(points, lot.pending)
    rest = points - pending
    taken: list[tuple[UUID, int]] = []
    debt = lost = recoverable = 0
    if policy != "pending_only":
        remaining = account.lots.copy()
        own = lot_book.take_from(remaining, account.order_of(lot_id), rest)
        taken = [(lot_id, own)] if own else []
        rest -= own
        lost = min(rest, lot.expired)
        others = lot_book.take(remaining, rest - lost)
        taken += others
        rest -= sum(part for _, part in others)
        if policy == "debt":
            debt, rest = rest - lost, lost
        else:
            recoverable = rest - lost
    return account._decide(
        EarningReversed,
        stamp,
        rules,
        (fact.event_id,),
        lot_id=lot_id,
        points=points,
        qualifying=qualifying,
        returned=tuple(back),
        pending=pending,
        lots=_parts(taken),
        debt=debt,
        forgiven=rest,
        expired=lost,
        recoverable=recoverable,
    )


# ── spending ──────────────────────────────────────────────────────────────────────────────────────────────────────


@reacts(RedemptionRequested)
def _pay(
    account: LoyaltyAccount, fact: RedemptionRequested, stamp: Stamp, rules: Rules, _: Traits
) -> PointsRedeemed | RedemptionRefused:
    reward = rules.rewards.get(fact.reward)
    points = fact.points if reward is None else reward.price
    hold = None if fact.hold_id is None else account.holds.get(fact.hold_id)
    there = account.active if fact.hold_id is None else (0 if hold is None else hold.points)
    code, uses = account._limited("redeem", points, stamp.effective_us, rules)
    if barred := account.barred(stamp.effective_us):
        code = barred
    elif reward is None and rules.rewards:
        code = "unknown_reward"
    elif reward is not None and reward.tiers and account.tier not in reward.tiers:
        code = "tier_required"
    elif reward is not None and reward.segments and not set(reward.segments).intersection(fact.segments):
        code = "segment_required"
    elif reward is not None and reward.counted and fact.stock is not None and fact.stock < 1:
        code = "out_of_stock"
    elif points > there:
        code = "insufficient_points"
    facts = (fact.event_id,)
    debt = 0
    if code == "insufficient_points" and isinstance(stamp.what_if, WhatIf):
        honoured = stamp.what_if.honoured(points, there)
        if honoured is not None:
            code, (points, debt) = "", honoured
    if code:
        return account._decide(
            RedemptionRefused, stamp, rules, facts, points=points, reward=fact.reward, code=code, active=there
        )
    if hold is not None:
        used = lot_book.split(hold.parts, points)[0]
    else:
        # Out of a hold that there never was, nothing is used: all of it is owed.
        used = lot_book.take(account.lots.copy(), points) if fact.hold_id is None else []
    kind, owed = (RedemptionHonoured, {"debt": debt}) if debt else (PointsRedeemed, {})
    paid = account._decide(
        kind,
        stamp,
        rules,
        facts,
        points=points,
        reward=fact.reward,
        lots=_parts(used),
        hold_id=None if hold is None else fact.hold_id,
        uses=uses,
        **owed,
    )
    if fact.hold_id is not None and fact.hold_id in account.holds:
        account._release(stamp, rules, facts, fact.hold_id, "captured")
    if reward is not None and reward.coupon_days is not None:
        account._issue(stamp, rules, facts, fact.event_id, reward.id, "redeemed")
    return paid


@reacts(RedemptionReturned)
def _unspend(account: LoyaltyAccount, fact: RedemptionReturned, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    state = account.redemptions.get(fact.redemption_id)
    points = state.points if state is not None and fact.whole else fact.points
    if account.why_not_returned(fact.redemption_id, points, stamp.effective_us):
        return None
    back = account._give_back(fact, stamp, rules, fact.redemption_id, points)
    if back is not None and fact.redemption_id in account.coupons:
        account._decide(CouponClosed, stamp, rules, (fact.event_id,), coupon_id=fact.redemption_id, outcome="voided")
    return back


@reacts(HoldRequested)
def _hold(account: LoyaltyAccount, fact: HoldRequested, stamp: Stamp, rules: Rules, _: Traits) -> Event:
    active, facts = account.active, (fact.event_id,)
    code = account.barred(stamp.effective_us) or ("insufficient_points" if fact.points > active else "")
    if code:
        return account._decide(HoldRefused, stamp, rules, facts, points=fact.points, code=code, active=active)
    used = lot_book.take(account.lots.copy(), fact.points)
    ends = [account.known[lot_id].expires_us for lot_id, _ in used]
    return account._decide(
        PointsHeld, stamp, rules, facts, points=fact.points, until_us=min(fact.until_us, *ends), lots=_parts(used)
    )


@reacts(HoldReleaseRequested)
def _unhold(account: LoyaltyAccount, fact: HoldReleaseRequested, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    if fact.hold_id not in account.holds:
        return None
    return account._release(stamp, rules, (fact.event_id,), fact.hold_id, "released")


@reacts(TransferRequested)
def _send(account: LoyaltyAccount, fact: TransferRequested, stamp: Stamp, rules: Rules, _: Traits) -> Event:
    active, facts = account.active, (fact.event_id,)
    code, uses = account._limited("transfer", fact.points, stamp.effective_us, rules)
    if barred := account.barred(stamp.effective_us):
        code = barred
    elif not rules.rule_set.transfers.allowed:
        code = "transfers_not_allowed"
    elif fact.barred is not None:
        code = fact.barred
    elif fact.points > active:
        code = "insufficient_points"
    if code:
        return account._decide(TransferRefused, stamp, rules, facts, points=fact.points, code=code, active=active)
    lots = tuple(
        NewLot(
            lot_id=lot_id,
            points=points,
            earned_us=account.known[lot_id].earned_us,
            expires_us=account.known[lot_id].expires_us,
        )
        for lot_id, points in lot_book.take(account.lots.copy(), fact.points)
    )
    return account._decide(
        PointsTransferred, stamp, rules, facts, to_account=fact.to_account, points=fact.points, lots=lots, uses=uses
    )


@reacts(TransferReceived)
def _get(account: LoyaltyAccount, fact: TransferReceived, stamp: Stamp, rules: Rules, _: Traits) -> Event:
    at_us = stamp.effective_us
    aged = rules.rule_set.transfers.keep_ages
    lots = [
        NewLot(
            lot_id=lot_of(fact.event_id, number),
            points=lot.points,
            earned_us=lot.earned_us if aged else at_us,
            expires_us=lot.expires_us if aged else rules.expires_us(rules.rule_set.expiry, at_us),
        )
        for number, lot in enumerate(fact.lots)
    ]
    return _credit(account, fact, stamp, rules, TRANSFERRED_IN, lots)


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _credit(
    account: LoyaltyAccount,
    fact: Event,
    stamp: Stamp,
    rules: Rules,
    source: str,
    lots: Sequence[NewLot],
    expired: Sequence[tuple[UUID, int]] = (),
) -> Event:
    return account._decide(
        PointsCredited,
        stamp,
        rules,
        (fact.event_id,),
        source=source,
        lots=tuple(lots),
        debt_paid=account._into_debt((lot.lot_id, lot.points) for lot in lots),
        expired=_parts(expired),
    )


@reacts(GoodwillGranted)
def _please(account: LoyaltyAccount, fact: GoodwillGranted, stamp: Stamp, rules: Rules, _: Traits) -> Event:
    at_us = stamp.effective_us
    expires_us = rules.expires_us(rules.rule_set.expiry, at_us)
    lot = NewLot(lot_id=fact.event_id, points=fact.points, earned_us=at_us, expires_us=expires_us)
    return _credit(account, fact, stamp, rules, ADJUSTED_UP, [lot])


@reacts(ReinstatementGranted)
def _reinstate(
    account: LoyaltyAccount, fact: ReinstatementGranted, stamp: Stamp, rules: Rules, _: Traits
) -> Event | None:
    parts, _left = lot_book.split(account.lost(stamp.effective_us), fact.points)
    if not parts:
        return None
    points = sum(part for _, part in parts)
    lot = NewLot(lot_id=fact.event_id, points=points, earned_us=stamp.effective_us, expires_us=fact.until_us)
    return _credit(account, fact, stamp, rules, REINSTATED, [lot], parts)


@reacts(CorrectionRecorded)
def _correct(account: LoyaltyAccount, fact: CorrectionRecorded, stamp: Stamp, rules: Rules, _: Traits) -> Event:
    taken = lot_book.take(account.lots.copy(), fact.points)
    short = fact.points - sum(points for _, points in taken)
    return account._decide(
        PointsCorrected,
        stamp,
        rules,
        (fact.event_id,),
        points=fact.points,
        lots=_parts(taken),
        debt=short if fact.into_debt else 0,
        debt_lot=fact.event_id,
        missing=0 if fact.into_debt else short,
    )


@reacts(ExtensionGranted)
def _extend(account: LoyaltyAccount, fact: ExtensionGranted, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    there = [lot.lot_id for lot in account.lots] + [lot_id for _, _, lot_id, _ in account.pending]
    there += [part.lot_id for _, _, hold_id, _ in account.held for part in account.holds[hold_id].parts]
    found = tuple(
        lot_id
        for lot_id in dict.fromkeys(there)
        if fact.lot_id in (None, lot_id) and account.known[lot_id].expires_us < fact.until_us
    )
    if not found:
        return None
    return account._decide(LotsExtended, stamp, rules, (fact.event_id,), lots=found, expires_us=fact.until_us)


@reacts(TierOverridden)
def _override(account: LoyaltyAccount, fact: TierOverridden, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    at_us = max(stamp.effective_us, account.clock_us)
    if fact.tier == account.tier or fact.until_us <= at_us:
        return None
    change = Change(fact.tier, rules.ladder.qualifying(account, at_us))
    return account._change_tier(stamp.at(at_us), (fact.event_id,), rules, change, OVERRIDDEN, fact.until_us)


@reacts(TierOverrideLifted)
def _lift(account: LoyaltyAccount, fact: TierOverrideLifted, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    at_us = max(stamp.effective_us, account.clock_us)
    if account.override_until_us != at_us:
        return None  # none was in force
    change = rules.ladder.after_points(account, at_us, reversed_=True)
    if change.tier == account.tier and not account._is_lent:
        return None
    return account._change_tier(stamp.at(at_us), (fact.event_id,), rules, change, OVERRIDE_ENDED)


@reacts(AccountClosed)
def _close(account: LoyaltyAccount, fact: AccountClosed, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    for coupon_id in [coupon_id for _, _, coupon_id, _ in account.due_coupons]:
        account._decide(CouponClosed, stamp, rules, (fact.event_id,), coupon_id=coupon_id, outcome="expired")
    return account._expire_all(stamp, rules, (fact.event_id,), "closed")


# ── coupons ───────────────────────────────────────────────────────────────────────────────────────────────────────


@reacts(CouponGranted)
def _award(
    account: LoyaltyAccount, fact: CouponGranted, stamp: Stamp, rules: Rules, _: Traits
) -> CouponIssued | CouponRefused:
    reward = rules.rewards.get(fact.reward)
    code, facts = "", (fact.event_id,)
    if reward is None or reward.coupon_days is None:
        code = "unknown_reward"
    elif reward.counted and fact.stock is not None and fact.stock < 1:
        code = "out_of_stock"
    if code:
        return account._decide(CouponRefused, stamp, rules, facts, coupon_id=fact.event_id, code=code)
    return account._issue(stamp, rules, facts, fact.event_id, fact.reward, "granted")


@reacts(CouponUsed)
def _present(account: LoyaltyAccount, fact: CouponUsed, stamp: Stamp, rules: Rules, _: Traits) -> Event:
    code = account.barred(stamp.effective_us) or account.why_not_good(fact.coupon_id, stamp.effective_us)
    facts = (fact.event_id,)
    if code:
        return account._decide(CouponRefused, stamp, rules, facts, coupon_id=fact.coupon_id, code=code)
    return account._decide(CouponClosed, stamp, rules, facts, coupon_id=fact.coupon_id, outcome="used")


@reacts(CouponVoided)
def _void(account: LoyaltyAccount, fact: CouponVoided, stamp: Stamp, rules: Rules, _: Traits) -> Event | None:
    if account.why_not_good(fact.coupon_id, stamp.effective_us):
        return None
    closed = account._decide(CouponClosed, stamp, rules, (fact.event_id,), coupon_id=fact.coupon_id, outcome="voided")
    state = account.redemptions.get(fact.coupon_id)
    if state is not None and account.coupons[fact.coupon_id].voided == "returned":
        account._give_back(fact, stamp, rules, fact.coupon_id, state.points)
    return closed


# ── what rules see of a fact ──────────────────────────────────────────────────────────────────────────────────────


def measured_of(account: LoyaltyAccount, fact: Event, rules: Rules, traits: Traits) -> Measured | None:
    """A fact that may earn, as the rules see it; None for a purchase in a currency without a rate."""
    if isinstance(fact, PurchaseRecorded):
        return measured_purchase(account, fact, rules, traits)
    at_us = fact.effective_us
    if isinstance(fact, ActivityRecorded):
        values: dict[str, Any] = {
            "activity.code": fact.activity,
            "activity.partner": fact.partner or "",
            "activity.quantity": fact.quantity,
        }
        row, inputs = _seen(account, fact, rules, traits, "activity", values)
        return Measured("activity", at_us, row, quantity=fact.quantity, inputs=inputs)
    if isinstance(fact, ReferralCredited):
        values = {
            "referral.occasion": fact.occasion,
            "referral.role": fact.role,
            "referral.number": fact.number,
        }
        row, inputs = _seen(account, fact, rules, traits, "referral", values)
        # What it earns goes back with the lines of the purchase, as that of the purchase does.
        lines = fact.lines if any(fact.lines) else ()
        return Measured("referral", at_us, row, amounts=lines, nets=lines, inputs=inputs)
    row, inputs = _seen(account, fact, rules, traits, "enrolment", {})
    return Measured("enrolment", at_us, row, inputs=inputs)


def _seen(
    account: LoyaltyAccount, fact: Event, rules: Rules, traits: Traits, on: str, values: Mapping[str, Any]
) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """What conditions on a fact read, and what of it is of the customer, as `name=value`."""
    names = rules.layouts[on].fact
    if not names:
        return (), ()
    day = rules.zone.day(fact.effective_us)
    row: list[Any] = []
    inputs: list[str] = []
    for name in names:
        scope, _, part = name.partition(".")
        if scope == "customer":
            value = getattr(traits, part)
            inputs.append(f"{name}={value}")
        elif scope == "fact":
            value = _of_time(part, day) if part != "channel" else fact.metadata.channel or ""
        elif name == "account.tier":
            value = account.tier or ""
        elif name == "account.member_days":
            value = max(0, day - rules.zone.day(account.enrolled_us))
        else:
            value = values[name]
        row.append(value)
    return tuple(row), tuple(inputs)


def _of_time(part: str, day: int) -> int:
    year, month, of_month = civil_from_days(day)
    # 1970-01-01 was a Thursday.
    return {"year": year, "month": month, "day": of_month, "weekday": (day + 3) % 7 + 1}[part]


def measured_purchase(account: LoyaltyAccount, fact: PurchaseRecorded, rules: Rules, traits: Traits) -> Measured | None:
    """A purchase as the rules see it; None in a currency without a rate."""
    if rules.converted(0, fact.currency) is None:
        return None
    nets = tuple([line.net_minor for line in fact.lines])
    converted = [rules.converted(net, fact.currency) or 0 for net in nets]
    rows = _line_rows(fact, rules, converted)
    amounts: list[int] = []
    pieces: list[int] = []
    for line, net, row in zip(fact.lines, converted, rows, strict=True):
        if rules.excluded(row):
            amounts.append(0)
            pieces.append(0)
            continue
        whole_amount = sum([getattr(line, f"{part}_minor") for part in rules.rule_set.amount.include])
        amounts.append(net if whole_amount == line.net_minor else rules.converted(whole_amount, fact.currency) or 0)
        pieces.append(line.quantity)
    values = {
        "order.net_minor": sum(converted),
        "order.amount_minor": sum(amounts),
        "order.quantity": sum([line.quantity for line in fact.lines]),
        "order.currency": fact.currency,
        "order.store": fact.store or "",
    }
    row, inputs = _seen(account, fact, rules, traits, "purchase", values)
    return Measured(
        "purchase",
        fact.effective_us,
        row,
        lines=tuple(rows),
        amounts=tuple(amounts),
        pieces=tuple(pieces),
        nets=nets,
        inputs=inputs,
    )


def counted_nets(fact: PurchaseRecorded, rules: Rules) -> tuple[int, ...]:
    """The net amount of each line of a purchase, in minor units of its currency; 0, where nothing of it counts."""
    if rules.converted(0, fact.currency) is None:
        return (0,) * len(fact.lines)
    rows = _line_rows(fact, rules, [rules.converted(line.net_minor, fact.currency) or 0 for line in fact.lines])
    return tuple(0 if rules.excluded(row) else line.net_minor for line, row in zip(fact.lines, rows, strict=True))


def _line_rows(fact: PurchaseRecorded, rules: Rules, converted: Sequence[int]) -> list[tuple[Any, ...]]:
    """The lines of a purchase as conditions read them."""
    names = rules.layouts["purchase"].line
    if not names:
        return [()] * len(fact.lines)
    rows: list[tuple[Any, ...]] = []
    for line, net in zip(fact.lines, converted, strict=True):
        of_line = {
            "line.sku": line.sku,
            "line.category": line.category or "",
            "line.quantity": line.quantity,
            "line.net_minor": net,
        }
        rows.append(tuple([of_line[name] for name in names]))
    return rows


def _parts(taken: Iterable[tuple[UUID, int]]) -> tuple[LotPart, ...]:
    return tuple(LotPart(lot_id=lot_id, points=points) for lot_id, points in taken)
