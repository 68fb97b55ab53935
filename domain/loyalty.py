"""LoyaltyAccount: points in lots, tiers by qualifying points, every decision derived from facts by a rule set.

The account's state is a fold of its own stream alone: a fact from elsewhere (a purchase) touches it through the
decisions that it caused. `LoyaltyAccount.receive` is the one place where a fact meets the rules: commands, the
certificate and the backtest all call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any, ClassVar, NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5

from . import lots as lot_book
from .aggregate import Aggregate, Appliers, Stamp, applies
from .control import Control, RuleBook
from .copy_on_write import LayeredDict, Place, SortedAmounts
from .customer import Line, PurchaseRecorded, ReturnRecorded
from .errors import refusal, whole
from .events import Code, Decision, Event, Fact, Points, Value, stored
from .lots import NEVER, Lot, Lots
from .rules import Reader, Rules, Share

NO_RULES = "none@0"
"""What a decision names that falls when no rule set is in force."""


class LotPart(Value):
    """So many points of one lot. A lot is named by the fact that it was earned for."""

    lot_id: UUID
    points: int


@stored("loyalty.enrolled")
class Enrolled(Fact):
    """The customer takes part in a programme."""

    programme: Code


@stored("loyalty.redemption_requested")
class RedemptionRequested(Fact):
    """The customer wants to spend points. Whether the account can pay is a decision."""

    points: Points
    reward: Code


@stored("loyalty.goodwill_granted")
class GoodwillGranted(Fact):
    """Points given for a reason outside of the earning rules; they don't qualify for a tier."""

    points: Points
    reason: Code
    ticket_id: UUID | None = None


@stored("loyalty.points_earned")
class PointsEarned(Decision):
    """A new lot, named by the fact in `facts`. `basis` is what of each line earned, by which a return is reckoned.

    It counts in `basis_unit`: `minor` (net amount), or `pieces` where all that earned was free of charge.
    `debt_paid` of the points went into an older debt; the rest is the lot.
    """

    programme: Code
    points: int
    qualifying: int
    expires_us: int
    rule_ids: tuple[Code, ...]
    basis: tuple[int, ...]
    basis_unit: Code
    tier: Code
    debt_paid: int


@stored("loyalty.points_redeemed")
class PointsRedeemed(Decision):
    """The account paid; the lots that it used, in the order of use."""

    programme: Code
    points: int
    reward: Code
    lots: tuple[LotPart, ...]


@stored("loyalty.redemption_refused")
class RedemptionRefused(Decision):
    """The account could not pay."""

    programme: Code
    points: int
    reward: Code
    code: Code
    active: int


@stored("loyalty.points_expired")
class PointsExpired(Decision):
    """Lots reached their end. Dated when that was due."""

    programme: Code
    points: int
    lots: tuple[LotPart, ...]


@stored("loyalty.earning_reversed")
class EarningReversed(Decision):
    """A return took back what its lines had earned: from the lot itself, then from others, then as debt or not at all.

    `points` = lots + `debt` + `forgiven`. What expired before is forgiven: it can't be lost twice. `qualifying` leaves
    the tier window's sum, dated as it was earned. `basis` counts in the earning's unit.
    """

    programme: Code
    lot_id: UUID
    points: int
    qualifying: int
    basis: int
    lots: tuple[LotPart, ...]
    debt: int
    forgiven: int


@stored("loyalty.tier_changed")
class TierChanged(Decision):
    """The account holds another tier. `qualifying` points in the window decided."""

    programme: Code
    previous: Code | None
    tier: Code
    reason: Code
    qualifying: int


class Earning(NamedTuple):
    """What an account remembers of one earning, to reverse it. `basis` is empty where no return can reverse it."""

    points: int
    qualifying: int
    basis: tuple[int, ...]
    in_pieces: bool
    earned_us: int
    expires_us: int
    returned: int = 0
    reversed_points: int = 0
    reversed_qualifying: int = 0
    expired: int = 0


class Redemption(NamedTuple):
    """How a redemption ended."""

    request: RedemptionRequested
    outcome: PointsRedeemed | RedemptionRefused


@lru_cache(maxsize=16_384)
def account_id(customer_id: UUID, programme: str) -> UUID:
    """The stream of a customer's account in a programme: derived, so that nothing needs to be looked up."""
    return uuid5(NAMESPACE_OID, f"{customer_id.hex}/{programme}")


class LoyaltyAccount(Aggregate):
    """An account's stream, folded.

    earned + debt = active + spent + expired + reversed − forgiven, always.
    """

    CONTAINERS = ("lots", "earnings", "window")
    APPLIERS: ClassVar[Appliers] = {}

    customer_id: UUID | None = None
    programme: str = ""
    tier: str | None = None
    tier_since_us: int = 0
    enrolled_us: int = 0
    clock_us: int = 0
    earned: int = 0
    spent: int = 0
    expired: int = 0
    reversed: int = 0
    forgiven: int = 0
    debt: int = 0
    lots: Lots
    earnings: LayeredDict[UUID, Earning]
    """By lot, while points of it are left or a return may reverse it: a purchase may come back at any time."""
    window: SortedAmounts[tuple[int, int]]
    """(earned_us, qualifying). None leaves: a rule set that is adopted later may look back further."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(stream_id)
        self.lots = SortedAmounts()
        self.earnings = LayeredDict()
        self.window = SortedAmounts()

    @property
    def enrolled(self) -> bool:
        """Whether the account exists."""
        return self.customer_id is not None

    @property
    def active(self) -> int:
        """Points that can be spent now."""
        return self.lots.total

    # ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────

    def enrol(self, stamp: Stamp, customer_id: UUID, programme: str, control: Control) -> Enrolled:
        """Open the account in its first tier. Refuses: already_enrolled, no_rule_set."""
        if self.enrolled:
            raise refusal("already_enrolled", "The customer has an account.", customer=customer_id)
        if control.rule_book.in_force(programme, stamp.effective_us) is None:
            raise refusal("no_rule_set", f"No rule set is in force for {programme} at that time.", programme=programme)
        fact = self.record(Enrolled, stamp, customer_id, programme=programme)
        self.receive(fact, stamp, control)
        return fact

    def redeem(self, stamp: Stamp, points: int, reward: str, control: Control) -> Redemption:
        """Spend points. What the balance can't pay is recorded, and then told by the outcome.

        Refuses: invalid_argument, effective_too_early, no_rule_set.
        """
        whole(points, "points")
        self._must_be_open(stamp, control)
        self.settle(stamp, stamp.effective_us, control)
        request = self.record(RedemptionRequested, stamp, self.customer_id, points=points, reward=reward)
        outcome = self.receive(request, stamp, control)
        assert isinstance(outcome, (PointsRedeemed, RedemptionRefused))
        return Redemption(request, outcome)

    def grant_goodwill(
        self, stamp: Stamp, points: int, reason: str, ticket_id: UUID | None, control: Control
    ) -> GoodwillGranted:
        """Add points for a reason outside of the earning rules.

        Refuses: invalid_argument, effective_too_early, no_rule_set.
        """
        whole(points, "points")
        self._must_be_open(stamp, control)
        self.settle(stamp, stamp.effective_us, control)
        fact = self.record(GoodwillGranted, stamp, self.customer_id, points=points, reason=reason, ticket_id=ticket_id)
        self.receive(fact, stamp, control)
        return fact

    def _must_be_open(self, stamp: Stamp, control: Control) -> None:
        stamp.not_before(self.enrolled_us, "the account was opened")
        if control.rule_book.in_force(self.programme, stamp.effective_us) is None:
            raise refusal(
                "no_rule_set",
                f"No rule set is in force for {self.programme} at that time.",
                programme=self.programme,
            )

    # ── where facts meet rules ────────────────────────────────────────────────────────────────────────────────────

    def receive(self, fact: Event, stamp: Stamp, control: Control) -> Event | None:
        """Derive and record what a fact decides; the decision about the fact itself, if there is one.

        What is due by then must be settled first. Facts that say nothing to an account change nothing.
        """
        reaction = REACTIONS.get(type(fact))
        if reaction is None:
            return None
        rules = control.rule_book.in_force(self.programme, fact.effective_us)
        if rules is None:
            return None
        decision = reaction(self, fact, stamp, rules)
        reason = None if decision is None else EVALUATED.get(type(decision))
        if reason is not None:
            self._evaluate_tier(fact, stamp, control.rule_book, reason)
        horizon = control.horizon_us
        if horizon is not None:
            # A late fact may bring a lot or a tier that is over already by the last sweep.
            self.settle_until(stamp, horizon, control.rule_book)
        return decision

    def settle(self, stamp: Stamp, until_us: int, control: Control) -> None:
        """Record every decision that is due by a moment, or that a sweep made due, dated when it was due."""
        if control.horizon_us is not None:
            until_us = max(until_us, control.horizon_us)
        self.settle_until(stamp, until_us, control.rule_book)

    def settle_until(self, stamp: Stamp, until_us: int, rule_book: RuleBook) -> None:
        """Record every decision that time alone makes due by a moment, under one rule book."""
        if not self.enrolled:
            return
        while True:
            # At the same moment, the tier is evaluated before points go.
            tier_due = self._next_tier_change(until_us, rule_book)
            expiry_us = self.lots.first.expires_us if self.lots else NEVER
            if tier_due is not None and tier_due[0] <= expiry_us:
                at_us, rules, tier, qualifying, reason = tier_due
                self._change_tier(stamp.at(at_us), rules, (), tier, qualifying, reason)
            elif expiry_us <= until_us:
                self._expire(stamp.at(expiry_us), rule_book)
            else:
                return

    def _next_tier_change(self, until_us: int, rule_book: RuleBook) -> tuple[int, Rules, str, int, str] | None:
        """The first moment from the account's clock up to `until_us` at which time alone changes the tier."""
        if self.clock_us > until_us:
            return None
        moments: dict[int, str] = {}
        if rule_book.count(self.programme) > 1:
            # Rules that were adopted since, from before the account's clock, hold from the clock on.
            starts = rule_book.starts(self.programme, self.clock_us, until_us)
            moments = dict.fromkeys([self.clock_us, *starts], "rules_changed")
        if self.window:
            for index, start in enumerate(sorted({self.clock_us, *moments})):
                rules = rule_book.in_force(self.programme, start)
                if rules is None or (index == 0 and self.tier == rules.base_tier):
                    continue
                for leaves_us in self._leaving(rules, self.clock_us):
                    if leaves_us > until_us:
                        break
                    moments.setdefault(leaves_us, "window_moved")
        for at_us in sorted(moments):
            rules = rule_book.in_force(self.programme, at_us)
            if rules is None:
                continue
            qualifying = self.qualifying(at_us, rules)
            tier = rules.rule_set.tiers.level_for(qualifying)
            if tier != self.tier:
                return at_us, rules, tier, qualifying, moments[at_us]
        return None

    def qualifying(self, at_us: int, rules: Rules) -> int:
        """Qualifying points in the rolling window at a moment."""
        window = self.window
        points = window.total_from(self._first_in_window(rules, at_us))
        if window and window.last[0] > at_us:
            points -= window.total_from(window.after(at_us, lambda entry: entry[0]))
        return points

    def in_window(self, at_us: int, rules: Rules) -> list[tuple[int, int]]:
        """What counts in the rolling window at a moment: when it was earned, and how many qualifying points."""
        first = self._first_in_window(rules, at_us)
        return list(takewhile(lambda entry: entry[0] <= at_us, self.window.from_place(first)))

    def _first_in_window(self, rules: Rules, at_us: int) -> Place:
        zone, months = rules.zone, rules.window_months
        if not self.window or zone.months_after(self.window.first[0], months) > at_us:
            return 0, 0
        return self.window.after(at_us, lambda entry: zone.months_after(entry[0], months))

    def _leaving(self, rules: Rules, after_us: int) -> Iterator[int]:
        """Moments after another at which points leave the window, rising."""
        for earned_us, _ in self.window.from_place(self._first_in_window(rules, after_us)):
            yield rules.zone.months_after(earned_us, rules.window_months)

    def _change_tier(
        self,
        stamp: Stamp,
        rules: Rules,
        facts: tuple[UUID, ...],
        tier: str,
        qualifying: int,
        reason: str,
    ) -> None:
        self.record(
            TierChanged,
            stamp,
            self.customer_id,
            rules=rules.label,
            facts=facts,
            programme=self.programme,
            previous=self.tier,
            tier=tier,
            reason=reason,
            qualifying=qualifying,
        )

    def _evaluate_tier(self, fact: Event, stamp: Stamp, rule_book: RuleBook, reason: str) -> None:
        # Tiers follow one another in time: a late fact changes the tier from the account's clock on, by the rules of
        # that moment.
        at_us = max(fact.effective_us, self.clock_us)
        rules = rule_book.in_force(self.programme, at_us)
        assert rules is not None
        qualifying = self.qualifying(at_us, rules)
        tier = rules.rule_set.tiers.level_for(qualifying)
        if tier != self.tier:
            self._change_tier(stamp.at(at_us), rules, (fact.event_id,), tier, qualifying, reason)

    def _expire(self, stamp: Stamp, rule_book: RuleBook) -> None:
        rules = rule_book.in_force(self.programme, stamp.effective_us)
        gone = lot_book.take_expired(self.lots.copy(), stamp.effective_us)
        self.record(
            PointsExpired,
            stamp,
            self.customer_id,
            rules=rules.label if rules else NO_RULES,
            facts=tuple(lot_id for lot_id, _ in gone),
            programme=self.programme,
            points=sum(points for _, points in gone),
            lots=_parts(gone),
        )

    def _earn(
        self,
        fact: Event,
        stamp: Stamp,
        rules: Rules,
        points: int,
        qualifying: int,
        basis: Sequence[int],
        basis_unit: str,
        rule_ids: Sequence[str],
    ) -> PointsEarned:
        expires_us = rules.rule_set.expiry.expires_us(fact.effective_us, rules.zone)
        return self.record(
            PointsEarned,
            stamp.at(fact.effective_us),
            self.customer_id,
            rules=rules.label,
            facts=(fact.event_id,),
            programme=self.programme,
            points=points,
            qualifying=qualifying,
            expires_us=NEVER if expires_us is None else expires_us,
            rule_ids=tuple(rule_ids),
            basis=tuple(basis),
            basis_unit=basis_unit,
            tier=self.tier,
            debt_paid=min(self.debt, points),
        )


Reaction = Callable[[LoyaltyAccount, Any, Stamp, Rules], Event | None]
REACTIONS: dict[type[Event], Reaction] = {}
"""What an account does about each kind of fact."""

EVALUATED: dict[type[Event], str] = {PointsEarned: "points_earned", EarningReversed: "earning_reversed"}
"""Decisions after which the tier is evaluated, and the reason that a change then names."""


def reacts(event_class: type[Event]) -> Callable[[Reaction], Reaction]:
    """Mark a function as the account's reaction to a kind of fact."""

    def mark(function: Reaction) -> Reaction:
        REACTIONS[event_class] = function
        return function

    return mark


@reacts(Enrolled)
def _start(account: LoyaltyAccount, fact: Enrolled, stamp: Stamp, rules: Rules) -> None:
    account._change_tier(stamp.at(fact.effective_us), rules, (fact.event_id,), rules.base_tier, 0, "enrolled")


@reacts(PurchaseRecorded)
def _earn_for_purchase(
    account: LoyaltyAccount, fact: PurchaseRecorded, stamp: Stamp, rules: Rules
) -> PointsEarned | None:
    if fact.currency != rules.rule_set.currency or fact.effective_us < account.enrolled_us:
        return None
    points, basis, rule_ids = rules.earn(*_readers(fact, account.tier or "", rules))
    if points == 0:
        return None
    unit = "minor"
    if not any(basis):
        basis, unit = [line.quantity for line in fact.lines], "pieces"
    return account._earn(fact, stamp, rules, points, points, basis, unit, rule_ids)


@reacts(GoodwillGranted)
def _earn_goodwill(account: LoyaltyAccount, fact: GoodwillGranted, stamp: Stamp, rules: Rules) -> PointsEarned:
    return account._earn(fact, stamp, rules, fact.points, 0, (), "minor", ("goodwill",))


@reacts(RedemptionRequested)
def _pay(
    account: LoyaltyAccount, fact: RedemptionRequested, stamp: Stamp, rules: Rules
) -> PointsRedeemed | RedemptionRefused:
    active = account.active
    if fact.points > active:
        return account.record(
            RedemptionRefused,
            stamp.at(fact.effective_us),
            account.customer_id,
            rules=rules.label,
            facts=(fact.event_id,),
            programme=account.programme,
            points=fact.points,
            reward=fact.reward,
            code="insufficient_points",
            active=active,
        )
    return account.record(
        PointsRedeemed,
        stamp.at(fact.effective_us),
        account.customer_id,
        rules=rules.label,
        facts=(fact.event_id,),
        programme=account.programme,
        points=fact.points,
        reward=fact.reward,
        lots=_parts(lot_book.take(account.lots.copy(), fact.points)),
    )


@reacts(ReturnRecorded)
def _reverse_earning(
    account: LoyaltyAccount, fact: ReturnRecorded, stamp: Stamp, rules: Rules
) -> EarningReversed | None:
    earning = account.earnings.get(fact.purchase_id)
    if earning is None:
        return None
    total = sum(earning.basis)
    back = sum(
        line.quantity if earning.in_pieces else line.net_minor for line in fact.lines if earning.basis[line.line - 1]
    )
    returned = earning.returned + back
    if back == 0:
        return None
    # Cumulative, so that parts add up: after the last piece, everything is reversed.
    points = earning.points * returned // total - earning.reversed_points
    qualifying = earning.qualifying * returned // total - earning.reversed_qualifying
    remaining = account.lots.copy()
    own = lot_book.take_from(remaining, earning.expires_us, earning.earned_us, fact.purchase_id, points)
    taken = [(fact.purchase_id, own)] if own else []
    lost = min(points - own, earning.expired)
    taken += lot_book.take(remaining, points - own - lost)
    short = points - lost - sum(part for _, part in taken)
    in_debt = rules.rule_set.refunds.policy == "debt"
    return account.record(
        EarningReversed,
        stamp.at(fact.effective_us),
        account.customer_id,
        rules=rules.label,
        facts=(fact.event_id,),
        programme=account.programme,
        lot_id=fact.purchase_id,
        points=points,
        qualifying=qualifying,
        basis=back,
        lots=_parts(taken),
        debt=short if in_debt else 0,
        forgiven=lost if in_debt else lost + short,
    )


def _parts(taken: Sequence[tuple[UUID, int]]) -> tuple[LotPart, ...]:
    return tuple(LotPart(lot_id=lot_id, points=points) for lot_id, points in taken)


def shares_of(fact: PurchaseRecorded, tier: str, rules: Rules) -> list[Share]:
    """What each earning rule gives for a purchase to an account in a tier."""
    return rules.shares(*_readers(fact, tier, rules))


def _readers(fact: PurchaseRecorded, tier: str, rules: Rules) -> tuple[Reader, list[Reader], list[int]]:
    return (
        _order_reader(fact, tier, rules),
        [_line_reader(line) for line in fact.lines],
        [line.net_minor for line in fact.lines],
    )


def _order_reader(fact: PurchaseRecorded, tier: str, rules: Rules) -> Reader:
    def read(field: str) -> Any:
        match field:
            case "order.net_minor":
                return fact.net_minor
            case "order.quantity":
                return sum(line.quantity for line in fact.lines)
            case "order.lines":
                return len(fact.lines)
            case "order.month":
                return rules.zone.month(fact.effective_us)
            case "order.channel":
                return fact.metadata.channel or ""
            case "order.store":
                return fact.store or ""
            case "account.tier":
                return tier
            case _:
                raise KeyError(field)

    return read


def _line_reader(line: Line) -> Reader:
    def read(field: str) -> Any:
        return getattr(line, field.removeprefix("line.")) or ("" if field in ("line.category", "line.sku") else 0)

    return read


# ── how events change the account ─────────────────────────────────────────────────────────────────────────────────


@applies(LoyaltyAccount.APPLIERS, Enrolled)
def _enrolled(account: LoyaltyAccount, event: Enrolled) -> None:
    account.customer_id = event.subject_id
    account.programme = event.programme
    account.enrolled_us = account.clock_us = event.effective_us


@applies(LoyaltyAccount.APPLIERS, PointsEarned)
def _points_earned(account: LoyaltyAccount, event: PointsEarned) -> None:
    lot_id = event.facts[0]
    _tick(account, event)
    account.earned += event.points
    account.debt -= event.debt_paid
    if event.points > event.debt_paid:
        account.lots.put(Lot(event.expires_us, event.effective_us, lot_id, event.points - event.debt_paid))
    if event.basis or event.points > event.debt_paid:
        account.earnings[lot_id] = Earning(
            event.points,
            event.qualifying,
            event.basis,
            event.basis_unit == "pieces",
            event.effective_us,
            event.expires_us,
        )
    _qualify(account, event.effective_us, event.qualifying)


@applies(LoyaltyAccount.APPLIERS, PointsRedeemed)
def _points_redeemed(account: LoyaltyAccount, event: PointsRedeemed) -> None:
    _tick(account, event)
    account.spent += event.points
    _remove(account, event.lots)


@applies(LoyaltyAccount.APPLIERS, RedemptionRefused)
def _redemption_refused(account: LoyaltyAccount, event: RedemptionRefused) -> None:
    _tick(account, event)


@applies(LoyaltyAccount.APPLIERS, PointsExpired)
def _points_expired(account: LoyaltyAccount, event: PointsExpired) -> None:
    _tick(account, event)
    account.expired += event.points
    _remove(account, event.lots)
    for part in event.lots:
        earning = account.earnings.get(part.lot_id)
        if earning is not None:
            account.earnings[part.lot_id] = earning._replace(expired=earning.expired + part.points)


@applies(LoyaltyAccount.APPLIERS, EarningReversed)
def _earning_reversed(account: LoyaltyAccount, event: EarningReversed) -> None:
    _tick(account, event)
    account.reversed += event.points
    account.debt += event.debt
    account.forgiven += event.forgiven
    _remove(account, event.lots)
    earning = account.earnings[event.lot_id]
    if earning.returned + event.basis == sum(earning.basis):
        del account.earnings[event.lot_id]  # all is back: nothing can be reversed again, and nothing of it is left
    else:
        account.earnings[event.lot_id] = earning._replace(
            returned=earning.returned + event.basis,
            reversed_points=earning.reversed_points + event.points,
            reversed_qualifying=earning.reversed_qualifying + event.qualifying,
            expired=max(0, earning.expired - event.forgiven),
        )
    _qualify(account, earning.earned_us, -event.qualifying)


@applies(LoyaltyAccount.APPLIERS, TierChanged)
def _tier_changed(account: LoyaltyAccount, event: TierChanged) -> None:
    _tick(account, event)
    account.tier = event.tier
    account.tier_since_us = event.effective_us


def _remove(account: LoyaltyAccount, parts: Sequence[LotPart]) -> None:
    # What was recorded counts, not what today's order of use would take.
    for part in parts:
        earning = account.earnings[part.lot_id]
        key = (earning.expires_us, earning.earned_us, part.lot_id)
        lot_book.take_from(account.lots, *key, part.points)
        if not earning.basis and account.lots.find(key) is None:
            del account.earnings[part.lot_id]  # goodwill that is used up: no return asks for it


def _qualify(account: LoyaltyAccount, earned_us: int, points: int) -> None:
    if points:
        window = account.window
        had = window.find((earned_us,)) if window and earned_us <= window.last[0] else None
        window.put((earned_us, points + had[1] if had else points))


def _tick(account: LoyaltyAccount, event: Event) -> None:
    account.clock_us = max(account.clock_us, event.effective_us)
