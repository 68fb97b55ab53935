"""Why a decision fell: the inputs that it used, and the rule and its arithmetic in words and numbers.

Nothing is decided here. The state is the account's own fold as it stood before the decision; the parts of an earning
are those that the rule set adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from tallybook.domain.customer import PurchaseRecorded, ReturnRecorded
from tallybook.domain.events import Decision, Event, utc_text
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import NO_RULES, LoyaltyAccount, shares_of
from tallybook.domain.points import EarningReversed, GoodwillGranted, LotPart, PointsEarned, PointsExpired, PointsRedeemed, RedemptionRefused, TierChanged
from tallybook.domain.earning import Rules
from tallybook.domain.rules import Expiry, PerAmount


class Reason(NamedTuple):
    """`inputs` come from what stood before the decision, and are not in the event itself; `steps` are sentences."""

    inputs: dict[str, Any]
    steps: list[str]


def reason_of(decision: Decision, before: LoyaltyAccount, rules: Rules | None, facts: Mapping[UUID, Event]) -> Reason:
    """Why a decision fell. `before` is its account as it stood, `rules` was in force, `facts` are the subject's."""
    in_force = NO_RULES if rules is None else rules.label
    if in_force != decision.rules:
        return Reason({}, [f"The decision names the rule set {decision.rules}, and {in_force} was in force."])
    return _REASONS[type(decision)](decision, before, rules, facts)


def _time(us: int) -> str | None:
    return None if us >= NEVER else utc_text(us)


def _parts(parts: Sequence[LotPart]) -> str:
    return " + ".join(f"{part.points} of {part.lot_id}" for part in parts) or "none"


def _lots(before: LoyaltyAccount, parts: Sequence[LotPart]) -> list[dict[str, Any]]:
    """The lots that a decision took from, as they stood."""
    found = []
    for part in parts:
        earning = before.earnings[part.lot_id]
        lot = before.lots.find((earning.expires_us, earning.earned_us, part.lot_id))
        found.append(
            {
                "lot_id": str(part.lot_id),
                "points": 0 if lot is None else lot.points,
                "earned_at": utc_text(earning.earned_us),
                "expires_at": _time(earning.expires_us),
            }
        )
    return found


def _life(expiry: Expiry, zone: str) -> str:
    if expiry.never:
        return "points don't expire"
    span = f"{expiry.days} days" if expiry.days is not None else f"{expiry.months} months"
    return f"points live {span} in {zone}" + (", and to the end of that month" if expiry.until == "month_end" else "")


def _earned(decision: PointsEarned, before: LoyaltyAccount, rules: Rules | None, facts: Mapping[UUID, Event]) -> Reason:
    assert rules is not None
    fact = facts.get(decision.facts[0])
    inputs: dict[str, Any] = {"debt": before.debt}
    steps = []
    if isinstance(fact, PurchaseRecorded):
        inputs["rules"] = []
        total = 0
        for share in shares_of(fact, decision.tier, rules):
            rule, factor = share.rule, f"{share.factor.numerator}/{share.factor.denominator}"
            total += share.points
            inputs["rules"].append(
                {
                    "id": rule.id,
                    "amount_minor": share.amount_minor,
                    "factor": factor,
                    "multiplier": share.multiplier,
                    "points": share.points,
                }
            )
            if isinstance(rule, PerAmount):
                text = (
                    f"Rule {rule.id} gives {rule.points} for each {rule.per_minor} minor units; of the lines that it "
                    f"counts, {share.amount_minor}: {rule.points} × {share.amount_minor} / {rule.per_minor}"
                )
            else:
                text = f"Rule {rule.id} gives {rule.points} for a purchase"
            if share.multiplier is not None:
                text += f", times {factor} by rule {share.multiplier}"
            steps.append(f"{text}, rounded ({rules.rule_set.rounding}): {share.points}.")
        inputs["points"] = total
        steps.append(f"Together {total} points; the account was in tier {decision.tier}.")
    elif isinstance(fact, GoodwillGranted):
        inputs["points"] = fact.points
        steps.append(f"{fact.points} points were granted for {fact.reason}; they don't qualify for a tier.")
    if before.debt:
        steps.append(f"{decision.debt_paid} of them pay the debt of {before.debt}.")
    end = "" if decision.expires_us >= NEVER else f": these expire at {utc_text(decision.expires_us)}"
    steps.append(f"By the rule set, {_life(rules.rule_set.expiry, rules.rule_set.zone)}{end}.")
    return Reason(inputs, steps)


def _redeemed(decision: PointsRedeemed, before: LoyaltyAccount, *_: Any) -> Reason:
    return Reason(
        {"active": before.active, "lots": _lots(before, decision.lots)},
        [
            f"{decision.points} points were asked for, and {before.active} were there.",
            f"Soonest expiry first, then oldest: {_parts(decision.lots)}.",
        ],
    )


def _refused(decision: RedemptionRefused, before: LoyaltyAccount, *_: Any) -> Reason:
    return Reason(
        {"active": before.active},
        [f"{decision.points} points were asked for, and {before.active} were there: {decision.code}."],
    )


def _expired(decision: PointsExpired, before: LoyaltyAccount, *_: Any) -> Reason:
    lots = _lots(before, decision.lots)
    return Reason(
        {"active": before.active, "lots": lots},
        [
            *(
                f"Lot {lot['lot_id']}, earned at {lot['earned_at']}, reached its end at {lot['expires_at']} with "
                f"{lot['points']} points."
                for lot in lots
            ),
            f"Together {decision.points} points, gone at {utc_text(decision.effective_us)}.",
        ],
    )


def _reversed(
    decision: EarningReversed, before: LoyaltyAccount, rules: Rules | None, facts: Mapping[UUID, Event]
) -> Reason:
    assert rules is not None
    earning = before.earnings[decision.lot_id]
    total, back = sum(earning.basis), earning.returned + decision.basis
    unit = "pieces" if earning.in_pieces else "minor units"
    fact = facts.get(decision.facts[0])
    lines = ""
    if isinstance(fact, ReturnRecorded):
        lines = " (" + ", ".join(f"line {line.line}: {line.quantity} pieces" for line in fact.lines) + ")"
    policy = rules.rule_set.refunds.policy
    return Reason(
        {
            "earned_points": earning.points,
            "earned_qualifying": earning.qualifying,
            "basis": total,
            "returned_before": earning.returned,
            "reversed_before": earning.reversed_points,
            "expired_before": earning.expired,
            "lots": _lots(before, decision.lots),
            "policy": policy,
        },
        [
            f"The purchase had earned {earning.points} points for {total} {unit}. With this return{lines}, {back} of "
            f"them came back: {earning.points} × {back} / {total}, rounded down, less {earning.reversed_points} taken "
            f"back before: {decision.points}.",
            f"Of these, taken from lots: {_parts(decision.lots)}; as a debt: {decision.debt}; forgiven: "
            f"{decision.forgiven} (policy {policy}; what expired before is not lost twice).",
        ],
    )


_REASONS_OF_TIERS = {
    "enrolled": "The account was opened: everybody starts in the first tier.",
    "points_earned": "Points were earned, so the tier was looked at.",
    "earning_reversed": "An earning was taken back, so the tier was looked at.",
    "window_moved": "Time alone moved the window: points left it.",
    "rules_changed": "Another rule set took effect.",
}


def _tier(decision: TierChanged, before: LoyaltyAccount, rules: Rules | None, *_: Any) -> Reason:
    assert rules is not None
    counted = before.in_window(decision.effective_us, rules)
    tiers = rules.rule_set.tiers
    levels = [{"name": level.name, "threshold": level.threshold} for level in tiers.levels]
    total = sum(points for _, points in counted)
    ladder = ", ".join(f"{level.name} from {level.threshold}" for level in tiers.levels)
    return Reason(
        {
            "window": {
                "months": tiers.window_months,
                "zone": rules.rule_set.zone,
                "entries": len(counted),
                "first_earned_at": utc_text(counted[0][0]) if counted else None,
                "last_earned_at": utc_text(counted[-1][0]) if counted else None,
                "qualifying": total,
            },
            "levels": levels,
        },
        [
            _REASONS_OF_TIERS.get(decision.reason, decision.reason),
            f"Earnings that count in the {tiers.window_months} months up to {utc_text(decision.effective_us)}: "
            f"{len(counted)}, together {total} qualifying points.",
            f"Tiers: {ladder}. {total} points hold {tiers.level_for(total)}; it was {decision.previous or 'none'}.",
        ],
    )


_REASONS: dict[type[Event], Callable[..., Reason]] = {
    PointsEarned: _earned,
    PointsRedeemed: _redeemed,
    RedemptionRefused: _refused,
    PointsExpired: _expired,
    EarningReversed: _reversed,
    TierChanged: _tier,
}
"""Each kind of decision has an entry: a test holds this against the registry."""
