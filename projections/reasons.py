"""Why a decision fell: the inputs that it used, and the rule and its arithmetic in words and numbers.

Nothing is decided here. The state is the account's own fold as it stood before the decision; the parts of an earning
are those that the rule set adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from tallybook.domain.customer import PurchaseRecorded, ReturnRecorded, Traits
from tallybook.domain.earning import Rules, Share
from tallybook.domain.events import Decision, Event, utc_text
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import NO_RULES, LoyaltyAccount, shares_of
from tallybook.domain.points import (
    CouponClosed,
    CouponIssued,
    CouponRefused,
    EarningRefused,
    EarningReversed,
    HoldRefused,
    HoldReleased,
    LotPart,
    LotsExtended,
    PointsActivated,
    PointsCorrected,
    PointsCredited,
    PointsEarned,
    PointsExpired,
    PointsHeld,
    PointsRedeemed,
    PointsTransferred,
    RedemptionRefused,
    RedemptionReversed,
    TierChanged,
    TransferRefused,
)
from tallybook.domain.rules import Expiry, PerAmount


class Reason(NamedTuple):
    """`inputs` come from what stood before the decision, and are not in the event itself; `steps` are sentences."""

    inputs: dict[str, Any]
    steps: list[str]


class Context(NamedTuple):
    """What a decision rested on: its account as it stood, the rules in force, the subject's facts, and what conditions
    could read of the customer.
    """

    before: LoyaltyAccount
    rules: Rules | None
    facts: Mapping[UUID, Event]
    traits: Traits


def reason_of(
    decision: Decision,
    before: LoyaltyAccount,
    rules: Rules | None,
    facts: Mapping[UUID, Event],
    traits: Traits,
) -> Reason:
    """Why a decision fell. `before` is its account as it stood, `rules` was in force, `facts` are the subject's."""
    in_force = NO_RULES if rules is None else rules.label
    if in_force != decision.rules:
        return Reason({}, [f"The decision names the rule set {decision.rules}, and {in_force} was in force."])
    return _REASONS[type(decision)](decision, Context(before, rules, facts, traits))


def _time(us: int) -> str | None:
    return None if us >= NEVER else utc_text(us)


def _parts(parts: Sequence[LotPart]) -> str:
    return " + ".join(f"{part.points} of {part.lot_id}" for part in parts) or "none"


def _lots(before: LoyaltyAccount, parts: Sequence[LotPart]) -> list[dict[str, Any]]:
    """The lots that a decision took from, as they stood."""
    found = []
    for part in parts:
        state = before.known[part.lot_id]
        lot = before.lots.find((state.expires_us, state.earned_us, part.lot_id))
        found.append(
            {
                "lot_id": str(part.lot_id),
                "points": 0 if lot is None else lot.points,
                "earned_at": utc_text(state.earned_us),
                "expires_at": _time(state.expires_us),
            }
        )
    return found


def _life(expiry: Expiry, zone: str) -> str:
    if expiry.never:
        return "points don't expire"
    span = f"{expiry.days} days" if expiry.days is not None else f"{expiry.months} months"
    end = {"exact": "", "month_end": ", and to the end of that month", "year_end": ", and to the end of that year"}
    since = " from when they are activated" if expiry.counted_from == "activated" else ""
    return f"points live {span}{since} in {zone}{end[expiry.until]}"


def _share(share: Share, rounding: str) -> tuple[dict[str, Any], str]:
    """What a rule gave: its inputs, and a sentence."""
    rule, factor = share.rule, f"{share.factor.numerator}/{share.factor.denominator}"
    told = {
        "id": rule.id,
        "measured": share.measured,
        "factor": factor,
        "multiplier": share.multiplier,
        "uncapped": share.uncapped,
        "points": share.points,
        "qualifying": share.qualifying,
    }
    if isinstance(rule, PerAmount):
        unit = "minor units" if rule.per_minor is not None else "pieces"
        text = (
            f"Rule {rule.id} gives {rule.points} for each {rule.per} {unit}"
            f"{' (whole multiples)' if rule.whole else ''}; "
            f"of what it counts, {share.measured}: {rule.points} × {share.measured} / {rule.per}"
        )
    else:
        text = f"Rule {rule.id} gives {rule.points}"
    if share.factor != 1:
        text += f", times {factor}" + (
            f" by rule {share.multiplier}" if share.multiplier is not None else " by the tier"
        )
    text += f", rounded ({rounding}): {share.uncapped}"
    if share.cut:
        text += f"; caps leave {share.uncapped - share.cut}"
    if share.points != share.qualifying:
        text += f"; {share.points} to spend, {share.qualifying} for the tier"
    return told, f"{text}."


def _earned(decision: PointsEarned, of: Context) -> Reason:
    rules, before = of.rules, of.before
    assert rules is not None
    fact = of.facts.get(decision.facts[0])
    inputs: dict[str, Any] = {"debt": before.debt, "customer": list(decision.inputs)}
    steps = []
    if isinstance(fact, PurchaseRecorded):
        inputs["rules"] = []
        for share in shares_of(before, fact, rules, of.traits):
            told, text = _share(share, rules.rule_set.rounding)
            inputs["rules"].append(told)
            steps.append(text)
    else:
        steps.append(f"Rules {', '.join(decision.rule_ids)} give {decision.points}.")
    inputs["points"] = decision.points
    steps.append(f"This lot: {decision.points} points; the account was in tier {decision.tier}.")
    if decision.inputs:
        steps.append(f"Read of the customer: {', '.join(decision.inputs)}.")
    if decision.pending:
        when = "once that is confirmed" if decision.activates_us >= NEVER else f"at {utc_text(decision.activates_us)}"
        steps.append(f"They are pending, and can be spent {when}.")
    elif before.debt:
        steps.append(f"{decision.debt_paid} of them pay the debt of {before.debt}.")
    end = "" if decision.expires_us >= NEVER else f": these expire at {utc_text(decision.expires_us)}"
    expiry = rules.expiry_of(decision.rule_ids[0] if decision.rule_ids else "")
    steps.append(f"By the rule set, {_life(expiry, rules.rule_set.zone)}{end}.")
    return Reason(inputs, steps)


def _earning_refused(decision: EarningRefused, of: Context) -> Reason:
    return Reason({"status": of.before.status}, [f"{decision.points} points would have been earned: {decision.code}."])


def _activated(decision: PointsActivated, of: Context) -> Reason:
    lots = [
        {"lot_id": str(lot.lot_id), "points": lot.points, "expires_at": _time(lot.expires_us)} for lot in decision.lots
    ]
    return Reason(
        {"debt": of.before.debt, "lots": lots},
        [
            f"The time of {sum(lot.points for lot in decision.lots)} pending points had come, or it was confirmed.",
            f"Into the debt of {of.before.debt}: {_parts(decision.debt_paid)}.",
        ],
    )


def _credited(decision: PointsCredited, of: Context) -> Reason:
    points = sum(lot.points for lot in decision.lots)
    why = {
        "adjusted_up": "were granted by people",
        "transferred_in": "came from another account",
        "reinstated": "had expired, and were given back by people",
    }[decision.source]
    return Reason(
        {"debt": of.before.debt, "points": points},
        [
            f"{points} points {why}; they don't qualify for a tier.",
            f"Into the debt of {of.before.debt}: {_parts(decision.debt_paid)}.",
        ],
    )


def _redeemed(decision: PointsRedeemed, of: Context) -> Reason:
    before = of.before
    if decision.hold_id is not None:
        hold = before.holds[decision.hold_id]
        steps = [f"{decision.points} points were asked for out of a hold of {hold.points}: {_parts(decision.lots)}."]
        return Reason({"held": hold.points, "lots": _lots(before, decision.lots)}, steps)
    return Reason(
        {"active": before.active, "lots": _lots(before, decision.lots)},
        [
            f"{decision.points} points were asked for, and {before.active} were there.",
            f"Soonest expiry first, then oldest: {_parts(decision.lots)}.",
        ],
    )


def _refused(decision: RedemptionRefused | HoldRefused | TransferRefused, of: Context) -> Reason:
    return Reason(
        {"active": of.before.active},
        [f"{decision.points} points were asked for, and {decision.active} were there: {decision.code}."],
    )


def _redemption_reversed(decision: RedemptionReversed, of: Context) -> Reason:
    state = of.before.redemptions[decision.redemption_id]
    steps = [f"{decision.points} of {state.points} points come back that the redemption had used, the last used first."]
    if decision.new_lot is not None:
        steps.append(f"They come as a new lot that expires at {_time(decision.new_lot.expires_us) or 'no time'}.")
    else:
        steps.append(
            f"Into their own lots: {_parts(decision.restored)}; into lots that are over: {_parts(decision.lapsed)}."
        )
    steps.append(f"Into the debt of {of.before.debt}: {_parts(decision.debt_paid)}.")
    return Reason({"left": state.points, "debt": of.before.debt}, steps)


def _held(decision: PointsHeld, of: Context) -> Reason:
    return Reason(
        {"active": of.before.active, "lots": _lots(of.before, decision.lots)},
        [
            f"{decision.points} points are set aside, soonest expiry first: {_parts(decision.lots)}.",
            f"Until {utc_text(decision.until_us)}: what was asked for, or when the first of these lots expires.",
        ],
    )


def _released(decision: HoldReleased, of: Context) -> Reason:
    hold = of.before.holds[decision.hold_id]
    return Reason(
        {"held": hold.points, "until": utc_text(hold.until_us)},
        [f"The hold ended ({decision.reason}); free again: {_parts(decision.lots)}."],
    )


def _expired(decision: PointsExpired, of: Context) -> Reason:
    lots = _lots(of.before, decision.lots)
    if decision.reason == "expiry":
        steps = [
            f"Lot {lot['lot_id']}, earned at {lot['earned_at']}, reached its end at {lot['expires_at']} with "
            f"{lot['points']} points."
            for lot in lots
        ]
    elif decision.reason == "inactivity":
        steps = [f"The account last earned or redeemed at {utc_text(of.before.moved_us)}: too long ago."]
    else:
        steps = ["The account was closed."]
    return Reason(
        {"active": of.before.active, "lots": lots},
        [*steps, f"Together {decision.points} points, gone at {utc_text(decision.effective_us)}."],
    )


def _reversed(decision: EarningReversed, of: Context) -> Reason:
    rules, before = of.rules, of.before
    assert rules is not None
    lot = before.known[decision.lot_id]
    unit = "pieces" if lot.in_pieces else "minor units"
    fact = of.facts.get(decision.facts[0])
    lines = ""
    if isinstance(fact, ReturnRecorded):
        lines = " (" + ", ".join(f"line {line.line}: {line.quantity} pieces" for line in fact.lines) + ")"
    policy = rules.rule_set.refunds.earning
    steps = [f"A return{lines} takes back what its lines had earned, in proportion, all parts together never more:"]
    told = []
    for number, (line, back) in enumerate(zip(lot.lines, decision.returned, strict=True), 1):
        if back:
            upto = line.returned + back
            told.append(
                {
                    "line": number,
                    "points": line.points,
                    "basis": line.basis,
                    "returned_before": line.returned,
                    "back": back,
                }
            )
            steps.append(
                f"Line {number} had earned {line.points} points for {line.basis} {unit}; {upto} of them came back: "
                f"{line.points} × {upto} / {line.basis}, rounded down, less what was taken back before: "
                f"{line.points * upto // line.basis - line.points * line.returned // line.basis}."
            )
    steps.append(
        f"Of these {decision.points}, taken from what is pending: {decision.pending}; from lots: "
        f"{_parts(decision.lots)}; as a debt: {decision.debt}; forgiven: {decision.forgiven} (policy {policy}; what "
        "expired before is not lost twice)."
    )
    return Reason(
        {
            "lines": told,
            "expired_before": lot.expired,
            "lots": _lots(before, decision.lots),
            "policy": policy,
        },
        steps,
    )


def _transferred(decision: PointsTransferred, of: Context) -> Reason:
    parts = [LotPart(lot_id=lot.lot_id, points=lot.points) for lot in decision.lots]
    return Reason(
        {"active": of.before.active, "lots": _lots(of.before, parts)},
        [f"{decision.points} points went to another account, soonest expiry first: {_parts(parts)}."],
    )


def _corrected(decision: PointsCorrected, of: Context) -> Reason:
    return Reason(
        {"active": of.before.active, "lots": _lots(of.before, decision.lots)},
        [
            f"{decision.points} points were taken away by people: {_parts(decision.lots)}; as a debt: {decision.debt}; "
            f"not there: {decision.missing}."
        ],
    )


def _extended(decision: LotsExtended, of: Context) -> Reason:
    lots = [{"lot_id": str(one), "expires_at": _time(of.before.known[one].expires_us)} for one in decision.lots]
    return Reason({"lots": lots}, [f"{len(lots)} lots live until {_time(decision.expires_us) or 'no end'}."])


def _coupon(decision: CouponIssued | CouponClosed | CouponRefused, _: Context) -> Reason:
    match decision:
        case CouponIssued():
            return Reason(
                {}, [f"A coupon for {decision.reward} ({decision.reason}), until {utc_text(decision.expires_us)}."]
            )
        case CouponClosed():
            return Reason({}, [f"The coupon is {decision.outcome}."])
        case CouponRefused():
            return Reason({}, [f"The coupon is not good: {decision.code}."])


_REASONS_OF_TIERS = {
    "enrolled": "The account was opened: everybody starts in the first tier.",
    "points_earned": "Points were earned, so the tier was looked at.",
    "earning_reversed": "An earning was taken back, so the tier was looked at.",
    "balance_changed": "The balance changed, so the tier was looked at.",
    "window_moved": "Time alone moved the window: points left it.",
    "rules_changed": "Another rule set took effect.",
    "overridden": "People decided.",
    "override_ended": "What people had decided ended: the rules count again.",
}


def _tier(decision: TierChanged, of: Context) -> Reason:
    rules, before = of.rules, of.before
    assert rules is not None
    ladder = rules.ladder
    counted = ladder.counted(before, decision.effective_us)
    tiers = rules.rule_set.tiers
    levels = [{"name": level.name, "threshold": level.threshold, "keep": level.keeps} for level in tiers.levels]
    total = ladder.qualifying(before, decision.effective_us)
    told = ", ".join(f"{level.name} from {level.threshold}" for level in tiers.levels)
    window = f"{tiers.window_months} months" if tiers.window_months else tiers.window.replace("_", " ")
    return Reason(
        {
            "window": {
                "window": tiers.window,
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
            f"Earnings that count in the window ({window}) up to {utc_text(decision.effective_us)}: "
            f"{len(counted)}; {total} points count.",
            f"Tiers: {told}. {total} points reach {ladder.reached(total)}; it was {decision.previous or 'none'}, and "
            f"is {decision.tier}.",
        ],
    )


_REASONS: dict[type[Decision], Callable[..., Reason]] = {
    PointsEarned: _earned,
    EarningRefused: _earning_refused,
    PointsActivated: _activated,
    PointsCredited: _credited,
    PointsRedeemed: _redeemed,
    RedemptionRefused: _refused,
    RedemptionReversed: _redemption_reversed,
    PointsHeld: _held,
    HoldRefused: _refused,
    HoldReleased: _released,
    PointsExpired: _expired,
    EarningReversed: _reversed,
    PointsTransferred: _transferred,
    TransferRefused: _refused,
    PointsCorrected: _corrected,
    LotsExtended: _extended,
    TierChanged: _tier,
    CouponIssued: _coupon,
    CouponClosed: _coupon,
    CouponRefused: _coupon,
}
"""Each kind of decision has an entry: a test holds this against the registry."""
