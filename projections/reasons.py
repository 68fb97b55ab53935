"""Why a decision fell: the rules that were asked and what each gave, the arithmetic, the lots, in words and numbers.

Nothing is decided here. The state is the account's own fold as it stood before the decision; the parts of an earning
are those that the rule set adds up. Every amount of points in a decision has a line of arithmetic, made from that state
and not from the decision: where the two differ, the explanation says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple
from uuid import UUID

from tallybook.domain.account import POINTS_MAX, SUSPENDED
from tallybook.domain.calendar import DAY_US, days_from_civil
from tallybook.domain.control import Control, RuleBook
from tallybook.domain.customer import ProfileFact, PurchaseRecorded, ReturnRecorded, Traits, note_traits, traits_of
from tallybook.domain.earning import Measured, NewPoints, Rules, Share, Tried, cohort
from tallybook.domain.events import Decision, Event, utc_text
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import NO_RULES, LoyaltyAccount, measured_of
from tallybook.domain.points import (
    ADJUSTED_UP,
    TRANSFERRED_IN,
    CorrectionRecorded,
    CouponClosed,
    CouponGranted,
    CouponIssued,
    CouponRefused,
    EarningRefused,
    EarningReversed,
    ExtensionGranted,
    GoodwillGranted,
    HoldRefused,
    HoldReleased,
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
    RedemptionRefused,
    RedemptionRequested,
    RedemptionReturned,
    RedemptionReversed,
    ReferralReduced,
    ReinstatementGranted,
    TierChanged,
    TransferReceived,
    TransferRefused,
    TransferRequested,
    Use,
)
from tallybook.domain.rules import ALL_RULES, Expiry, Multiplier, PerAmount

from .corrections import Corrections, Late
from .read_models import Recorded
from .reckoning import Part, Sum, least, minus, most, over, plus, reckoned, term, times, whole

BEGINNING_US = days_from_civil(1, 1, 1) * DAY_US
"""The first moment that has a text."""


@dataclass(slots=True)
class Reason:
    """`inputs` come from what stood before the decision, and are not in the event itself; `steps` are sentences;
    `sums` has a line for every amount of points that the event holds, by its place there (`lots.1.points`), and for
    what leads to it (`base: uncapped`). `agrees`: whether these give the amounts that were recorded.
    """

    inputs: dict[str, Any] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    agrees: bool = True


class Context(NamedTuple):
    """What a decision rested on: its account as it stood, and as it stood before the first lot of the same fact; the
    rules in force; the subject's facts; what conditions could read of the customer.
    """

    before: LoyaltyAccount
    start: LoyaltyAccount
    rules: Rules | None
    rule_book: RuleBook
    facts: Mapping[UUID, Event]
    traits: Traits

    @property
    def known_rules(self) -> Rules:
        """The rules in force, of a decision that falls by some."""
        assert self.rules is not None
        return self.rules


class Explained(NamedTuple):
    """A decision with its reason. `facts` are those that it names and the book knew, with their positions."""

    recorded: Recorded
    account_id: UUID
    reason: Reason
    rules: Rules | None
    facts: tuple[Recorded, ...]
    late: Late | None
    """The late fact that this is a correction by."""


def explained(history: Iterable[Recorded], wanted: Callable[[Recorded], bool] = lambda _: True) -> Iterator[Explained]:
    """Every decision about a subject's accounts that is `wanted`, with its reason, in order.

    `history`: all events about the subject, and the book's own stream, by position.
    """
    accounts: dict[UUID, LoyaltyAccount] = {}
    starts: dict[UUID, tuple[UUID, LoyaltyAccount]] = {}
    control = Control(UUID(int=0))
    corrections = Corrections()
    noted: dict[str, tuple[int, str]] = {}
    for recorded in history:
        event = recorded.event
        late = corrections.late(recorded)
        if type(event) in Control.APPLIERS:
            control.apply(event)
            continue
        if isinstance(event, ProfileFact):
            note_traits(noted, event)
        if type(event) not in LoyaltyAccount.APPLIERS:
            continue
        account = accounts.setdefault(event.originator_id, LoyaltyAccount(event.originator_id))
        if isinstance(event, LoyaltyDecision):
            fact, start = starts.get(account.id, (None, account))
            if not isinstance(event, PointsEarned) or fact != event.facts[0]:
                start = account
            if wanted(recorded):
                yield _explained(recorded, event, account, start, control, corrections.facts, noted, late)
            if isinstance(event, PointsEarned) and start is account:
                # Further lots of the fact are reckoned from here: what was is kept, and a draft goes on.
                starts[account.id] = event.facts[0], account
                account = accounts[account.id] = account.draft([])
        account.apply(event)


def _explained(
    recorded: Recorded,
    event: LoyaltyDecision,
    account: LoyaltyAccount,
    start: LoyaltyAccount,
    control: Control,
    facts: Mapping[UUID, Recorded],
    noted: Mapping[str, tuple[int, str]],
    late: Late | None,
) -> Explained:
    named = [facts[one] for one in event.facts if one in facts]
    rules = _in_force(event, control, named)
    by_id = {one.event.event_id: one.event for one in named}
    context = Context(account, start, rules, control.rule_book, by_id, traits_of(noted))
    return Explained(recorded, account.id, _reason(event, context, late), rules, tuple(named), late)


def _in_force(event: LoyaltyDecision, control: Control, named: Sequence[Recorded]) -> Rules | None:
    """The rules that a decision fell by: those of its time; of a tier that a late fact asked for, those of the fact."""
    moments = (event.effective_us, *(one.event.effective_us for one in named))
    found = [control.rule_book.in_force(event.programme, at_us) for at_us in moments]
    return next((one for one in found if _label(one) == event.rules), found[0])


def _label(rules: Rules | None) -> str:
    return NO_RULES if rules is None else rules.label


def _reason(event: LoyaltyDecision, of: Context, late: Late | None) -> Reason:
    if _label(of.rules) != event.rules:
        text = f"The decision names the rule set {event.rules}, and {_label(of.rules)} was in force."
        return Reason(steps=[text], agrees=False)
    reason = Reason()
    try:
        _REASONS[type(event)](event, of, reason)
    except LookupError:
        reason.steps.append("The account as it stood does not hold what the decision names.")
        reason.agrees = False
        return reason
    if late is not None:
        fact = late.fact.event
        reason.steps.append(
            f"The fact took effect at {utc_text(fact.effective_us)}, and the book learned of it at "
            f"{utc_text(fact.metadata.recorded_us)}, after it had decided up to {utc_text(late.decided_us)}: "
            "this is a correction. What was recorded stays; what follows from the fact was decided anew from there."
        )
    derived = {one.what: one.gives for one in reason.sums if ": " not in one.what}
    lots = {one["place"]: one["lot_id"] for one in reason.inputs.get("lots", ())}
    reason.agrees = derived == figures(event) and all(lots.get(place, lot) == lot for place, lot in _lot_ids(event))
    if not reason.agrees:
        reason.steps.append("This arithmetic does not give what was recorded.")
    return reason


# ── what a decision says ──────────────────────────────────────────────────────────────────────────────────────────

_AMOUNTS = frozenset(
    [
        "points",
        "qualifying",
        "capped",
        "debt_paid",
        "debt",
        "forgiven",
        "expired",
        "recoverable",
        "missing",
        "pending",
        "active",
        "amount",
    ]
)


def figures(event: Event) -> dict[str, int]:
    """Every amount of points in a decision, by its place: `points`, `lots.1.points`, `lines.2.qualifying`."""
    found: dict[str, int] = {}
    for name in event.clear_fields:
        value = getattr(event, name)
        if isinstance(value, int) and name in _AMOUNTS:
            found[name] = value
        elif isinstance(value, NewLot):
            found[f"{name}.points"] = value.points
        elif isinstance(value, tuple):
            for number, part in enumerate(value, 1):
                if isinstance(part, int):
                    found[f"{name}.{number}"] = part
                for inner in _AMOUNTS.intersection(getattr(type(part), "model_fields", ())):
                    found[f"{name}.{number}.{inner}"] = getattr(part, inner)
    return found


def _lot_ids(event: Event) -> Iterator[tuple[str, str]]:
    for name in event.clear_fields:
        value = getattr(event, name)
        for number, part in enumerate(value, 1) if isinstance(value, tuple) else ():
            if isinstance(part, (LotPart, NewLot)):
                yield f"{name}.{number}", str(part.lot_id)


def _time(us: int) -> str | None:
    """None: never, or before the year 1, where years of the calendar and graces may begin."""
    return utc_text(us) if BEGINNING_US <= us < NEVER else None


def _since(us: int) -> str:
    return _time(us) or "the beginning"


def _until(us: int) -> str:
    return "for ever" if us >= NEVER else f"until {utc_text(us)}"


# ── lots ──────────────────────────────────────────────────────────────────────────────────────────────────────────

There = tuple[UUID, int]
"""A lot, and how many points of it there are."""


def _lot(reason: Reason, before: LoyaltyAccount, place: str, lot_id: UUID, there: int) -> None:
    """Tell of a lot that a decision touches, as it stood."""
    state = before.known.get(lot_id)
    told: dict[str, Any] = {"place": place, "lot_id": str(lot_id), "points": there}
    if state is not None:
        told |= {
            "fact": str(state.fact),
            "earned_at": utc_text(state.earned_us),
            "expires_at": _time(state.expires_us),
        }
    reason.inputs.setdefault("lots", []).append(told)


def _use(
    reason: Reason, before: LoyaltyAccount, wanted: int, there: Iterable[There], place: str = "lots", given: int = 0
) -> int:
    """Points are taken from lots, one after the other, until enough are there; how many were."""
    taken, number = 0, given
    for lot_id, points in there:
        left = wanted - taken
        if left <= 0:
            break
        part = min(left, points)
        if part:
            number += 1
            _lot(reason, before, f"{place}.{number}", lot_id, points)
            wish: Part = minus(wanted, taken) if taken else wanted
            reason.sums.append(reckoned(f"{place}.{number}.points", least(wish, points)))
            taken += part
    return taken


def _whole_lots(reason: Reason, before: LoyaltyAccount, there: Iterable[There], place: str = "lots") -> int:
    """Whole lots are taken; how many points that is."""
    total = 0
    for number, (lot_id, points) in enumerate(there, 1):
        _lot(reason, before, f"{place}.{number}", lot_id, points)
        reason.sums.append(reckoned(f"{place}.{number}.points", points))
        total += points
    return total


def _active(before: LoyaltyAccount) -> Iterator[There]:
    return ((lot.lot_id, lot.points) for lot in before.lots)


def _into_debt(reason: Reason, debt: int, coming: Iterable[There]) -> None:
    """What of points that become active pays a debt."""
    paid = number = 0
    for _, points in coming:
        part = min(debt - paid, points)
        if part:
            number += 1
            owed: Part = minus(debt, paid) if paid else debt
            reason.sums.append(reckoned(f"debt_paid.{number}.points", least(owed, points)))
            paid += part
    reason.inputs["debt"] = debt
    if debt:
        reason.steps.append(f"A debt of {debt} is paid first: {paid} of them.")


def _sum(reason: Reason, what: str, how: Part) -> int:
    line = reckoned(what, how)
    reason.sums.append(line)
    return line.gives


def _parts_text(reason: Reason, place: str = "lots") -> str:
    """Which lot gave how many, of those that were told."""
    given = {one.what: one.gives for one in reason.sums}
    texts = [
        f"{given[told_as]} of {one['lot_id']}"
        for one in reason.inputs.get("lots", ())
        if (told_as := f"{one.get('place')}.points").startswith(f"{place}.")
    ]
    return " + ".join(texts) or "none"


# ── earning ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _life(expiry: Expiry, zone: str) -> str:
    if expiry.never:
        return "points don't expire"
    span = f"{expiry.days} days" if expiry.days is not None else f"{expiry.months} months"
    end = {"exact": "", "month_end": ", and to the end of that month", "year_end": ", and to the end of that year"}
    since = " from when they are activated" if expiry.counted_from == "activated" else ""
    return f"points live {span}{since} in {zone}{end[expiry.until]}"


_OUTCOMES = {
    "out_of_time": "was not in force on that day",
    "condition": "asks for something else: {when}",
    "greater_multiplier": "multiplies by less than another one",
    "control_group": "is a campaign's, in whose control group the account is ({drawn} of 100, below {percent})",
    "nothing_counts": "counts nothing of it",
    "group": "is in group {group}, of which only the {kind} counts: it would have given {points}",
}


def _amounts(reason: Reason, fact: PurchaseRecorded, seen: Measured, rules: Rules) -> None:
    """What of each line counts."""
    rate = {one.code: one.rate for one in rules.rule_set.currencies}.get(fact.currency)
    included = rules.rule_set.amount.include
    for number, (line, row) in enumerate(zip(fact.lines, seen.lines, strict=True), 1):
        if rules.excluded(row):
            reason.steps.append(f"Line {number} counts for nothing: {rules.rule_set.amount.exclude}.")
            continue
        money = {"net": line.net_minor, "tax": line.tax_minor, "shipping": line.shipping_minor}
        amount = plus([money[name] for name in included])
        _sum(
            reason,
            f"line {number}: amount",
            amount if rate is None else whole(times(amount, rate), rules.rule_set.rounding),
        )


def _tried(reason: Reason, seen: Measured, of: Context) -> None:
    """What became of each rule, with its arithmetic."""
    rules, start = of.known_rules, of.start
    reason.inputs["seen"] = dict(zip(rules.layouts[seen.on].fact, seen.row, strict=True))
    told_rules = reason.inputs["rules"] = []
    for one in rules.tried(seen, start.tier, start.id, start.used):
        told: dict[str, Any] = {"id": one.rule.id, "outcome": one.outcome}
        told_rules.append(told)
        if isinstance(one.rule, Multiplier):
            told["factor"] = f"{one.rule.factor.numerator}/{one.rule.factor.denominator}"
        if one.outcome in _OUTCOMES:
            reason.steps.append(_not_counted(one, of))
        if one.outcome == "counts" and one.share is not None:
            told |= _share(reason, one.share, seen, of)


def _not_counted(one: Tried, of: Context) -> str:
    rule = one.rule
    text = _OUTCOMES[one.outcome]
    if not isinstance(rule, Multiplier):
        group = rule.group or ""
        text = text.format(
            when=rule.when,
            drawn=cohort(of.start.id, rule.campaign or ""),
            percent=rule.control_percent,
            group=group,
            kind=of.known_rules.rule_set.groups.get(group),
            points=0 if one.share is None else one.share.uncapped,
        )
    return f"Rule {rule.id} {text.format(when=rule.when)}."


def _share(reason: Reason, share: Share, seen: Measured, of: Context) -> dict[str, Any]:
    """The arithmetic of one rule: measure, factors, rounding, caps."""
    rules, rule = of.known_rules, share.rule
    rounding, name = rules.rule_set.rounding, share.rule.id
    by = next(
        (one.factor for one in rules.rule_set.earning if isinstance(one, Multiplier) and one.id == share.multiplier),
        None,
    )
    level = rules.multipliers.get(of.start.tier or "") if rule.multiplied else None
    factors = [factor for factor in (by, level) if factor not in (None, 1)]
    base: Part
    if isinstance(rule, PerAmount):
        counted: Part = seen.quantity if seen.on == "activity" else plus([one for one in share.weights if one])
        measured: Part = _sum(reason, f"{name}: measured", counted)
        if rule.whole:
            measured = _sum(reason, f"{name}: whole multiples", times(whole(over(measured, rule.per)), rule.per))
        base = over(times(rule.points, measured), rule.per)
        unit = "minor units" if rule.per_minor is not None else "pieces"
        text = (
            f"Rule {name} gives {rule.points} for each {rule.per} {unit}{' (whole multiples)' if rule.whole else ''}; "
            f"of what it counts, {share.measured}: {rule.points} × {measured} / {rule.per}"
        )
    else:
        base = rule.points
        text = f"Rule {name} gives {rule.points}"
    if by is not None:
        text += f", times {by} by rule {share.multiplier}"
    if level not in (None, 1):
        text += f", times {level} by the tier {of.start.tier}"
    product = times(base, *factors) if factors else term(base)
    exact = isinstance(base, int) and not factors
    _sum(reason, f"{name}: uncapped", product if exact else whole(product, rounding))
    text += f", rounded ({rounding}): {share.uncapped}"
    qualifying: Part = share.uncapped
    if rules.rule_set.tiers.qualify == "base" and share.rule.gives != "points":
        qualifying = _sum(reason, f"{name}: qualifying", base if isinstance(base, int) else whole(base, rounding))
    left: Part = share.uncapped
    if share.rooms:
        rooms = [most(0, minus(room.cap, room.used)) for room in share.rooms]
        left = _sum(reason, f"{name}: after caps", least(share.uncapped, *rooms))
    if share.cut:
        text += f"; caps leave {left}"
    if share.points != share.qualifying:
        text += f"; {share.points} to spend, {share.qualifying} for the tier"
    reason.steps.append(f"{text}.")
    _sum(reason, f"{name}: points", 0 if rule.gives == "qualifying" else left)
    if rule.gives != "points":
        _sum(reason, f"{name}: for the tier", least(qualifying, left))
    return {
        "measured": share.measured,
        "factor": f"{share.factor.numerator}/{share.factor.denominator}",
        "multiplier": share.multiplier,
        "uncapped": share.uncapped,
        "caps": [
            {"of": "all rules" if one.counter == ALL_RULES else "the rule", "period": one.period or "fact",
             "cap": one.cap, "used": one.used}
            for one in share.rooms
        ],
        "points": share.points,
        "qualifying": share.qualifying,
    }  # fmt: skip


def _lines(reason: Reason, lot: NewPoints, seen: Measured) -> None:
    """What each line of the order earned: cumulative floors, so that the parts add up."""
    for number in range(1, len(lot.lines) + 1):
        for name in ("points", "qualifying"):
            parts: list[Part] = []
            for share in lot.shares:
                given = getattr(share, name)
                if not seen.nets:
                    parts.append(given)
                elif given and any(share.weights):
                    total, upto = sum(share.weights), sum(share.weights[:number])
                    before = upto - share.weights[number - 1]
                    if before != upto:
                        to_here = whole(over(times(given, upto), total))
                        parts.append(minus(to_here, whole(over(times(given, before), total))) if before else to_here)
            _sum(reason, f"lines.{number}.{name}", plus(parts))


def _limits(reason: Reason, on: str, points: int, at_us: int, of: Context) -> None:
    """The limits on what was asked for, and how far they were used."""
    rules = of.known_rules
    told = []
    for limit in rules.rule_set.limits:
        if limit.on != on:
            continue
        number = rules.zone.period(at_us, limit.period)
        for kind, cap, asked in (("times", limit.count, 1), ("points", limit.points, points)):
            if cap is None:
                continue
            used = of.start.used(f"limit:{on}:{kind}", limit.period, number)
            told.append({"on": on, "period": limit.period, "in": kind, "limit": cap, "used": used, "asked": asked})
            if used + asked > cap:
                reason.steps.append(
                    f"In a {limit.period}, {on} is limited to {cap} {kind}: {used} were used, {asked} more asked for."
                )
    if told:
        reason.inputs["limits"] = told


def _uses(reason: Reason, uses: Sequence[Use], points: int, lot: NewPoints | None = None) -> None:
    """What is counted against caps and limits."""
    for number, use in enumerate(uses, 1):
        how: Part
        if use.counter.startswith("limit:"):
            how = 1 if use.counter.endswith(":times") else points
        else:
            how = plus(
                most(share.points, share.qualifying)
                for share in (() if lot is None else lot.shares)
                if use.counter in (share.rule.id, ALL_RULES)
            )
        _sum(reason, f"uses.{number}.amount", how)


def _found(reason: Reason, fact: Event | None, of: Context) -> tuple[Measured | None, list[NewPoints]]:
    """The lots that a fact brings, each rule told."""
    rules, start = of.known_rules, of.start
    seen = None if fact is None else measured_of(start, fact, rules, of.traits)
    if seen is None:
        return None, []
    if isinstance(fact, PurchaseRecorded):
        _amounts(reason, fact, seen, rules)
    _tried(reason, seen, of)
    lots = rules.earn(seen, start.tier, start.id, start.used)
    return seen, [lot for lot in lots if lot.points or lot.qualifying or lot.capped]


def _earned(decision: PointsEarned, of: Context, reason: Reason) -> None:
    rules = of.known_rules
    fact = of.facts.get(decision.facts[0])
    seen, lots = _found(reason, fact, of)
    number = (decision.lot_id.int ^ decision.facts[0].int) >> 104
    reason.inputs |= {"debt": of.before.debt, "customer": list(decision.inputs), "tier": of.start.tier}
    if seen is None or number >= len(lots):
        reason.steps.append("The rules give no such lot for that fact.")
        return
    lot = lots[number]
    points = _sum(reason, "points", plus(share.points for share in lot.shares))
    _sum(reason, "qualifying", plus(share.qualifying for share in lot.shares))
    _sum(reason, "capped", plus(share.cut for share in lot.shares))
    _lines(reason, lot, seen)
    at_once = lot.activates_us <= decision.effective_us
    _sum(reason, "debt_paid", least(of.before.debt, points) if at_once else 0)
    _uses(reason, decision.uses, sum(one.points for one in lots), lot)
    reason.inputs |= {"points": points, "lot": {"number": number + 1, "of": len(lots)}}
    of_lots = "" if len(lots) == 1 else f", {number + 1} of {len(lots)}"
    reason.steps.append(f"This lot{of_lots}: {points} points; the account was in tier {of.start.tier}.")
    if decision.inputs:
        reason.steps.append(f"Read of the customer: {', '.join(decision.inputs)}.")
    if not at_once:
        when = "once that is confirmed" if lot.activates_us >= NEVER else f"at {utc_text(lot.activates_us)}"
        reason.steps.append(f"They are pending, and can be spent {when}.")
    elif of.before.debt:
        reason.steps.append(f"{min(of.before.debt, points)} of them pay the debt of {of.before.debt}.")
    end = "" if lot.expires_us >= NEVER else f": these expire at {utc_text(lot.expires_us)}"
    expiry = rules.expiry_of(decision.rule_ids[0] if decision.rule_ids else "")
    reason.steps.append(f"By the rule set, {_life(expiry, rules.rule_set.zone)}{end}.")


def _suspended(of: Context) -> str:
    return "The account is suspended" if of.before.status == SUSPENDED else "The account was suspended then"


def _earning_refused(decision: EarningRefused, of: Context, reason: Reason) -> None:
    fact = of.facts.get(decision.facts[0])
    _, lots = _found(reason, fact, of)
    points = _sum(reason, "points", plus(lot.points for lot in lots))
    reason.inputs["status"] = of.before.status
    _limits(reason, "earn", points, decision.effective_us, of)
    why = {
        "account_suspended": _suspended(of),
        "account_full": f"Of all sources, at most {POINTS_MAX} points come to one account",
    }.get(decision.code, "A limit is reached")
    reason.steps.append(f"{why}: {points} points were not earned ({decision.code}).")


def _activated(decision: PointsActivated, of: Context, reason: Reason) -> None:
    before, rules = of.before, of.rules
    confirmed = bool(of.facts) and any(one.stored_name == "loyalty.earning_confirmed" for one in of.facts.values())
    there = [(lot.lot_id, before.known[lot.lot_id].pending) for lot in decision.lots]
    _whole_lots(reason, before, there)
    lots = reason.inputs.get("lots", [])
    for told, lot in zip(lots, decision.lots, strict=True):
        told["new_expires_at"] = _time(lot.expires_us)
    why = "What they waited for was confirmed" if confirmed else f"Their time came at {utc_text(decision.effective_us)}"
    reason.steps.append(f"{why}: {sum(points for _, points in there)} pending points can be spent.")
    if rules is not None and lots and any(told["expires_at"] != told["new_expires_at"] for told in lots):
        reason.steps.append(
            "Their end was open until they were activated: it is decided by the rule set of that moment."
        )
    _into_debt(reason, before.debt, there)


def _credited(decision: PointsCredited, of: Context, reason: Reason) -> None:
    before, fact = of.before, of.facts.get(decision.facts[0])
    amounts: list[Part] = []
    if isinstance(fact, GoodwillGranted):
        amounts = [fact.points]
    elif isinstance(fact, TransferReceived):
        amounts = [lot.points for lot in fact.lots]
    elif isinstance(fact, ReinstatementGranted):
        lost = before.lost(decision.effective_us)
        _use(reason, before, fact.points, lost, "expired")
        amounts = [least(fact.points, plus(points for _, points in lost))]
    coming = []
    for number, (lot, amount) in enumerate(zip(decision.lots, amounts, strict=False), 1):
        _lot(reason, before, f"lots.{number}", lot.lot_id, 0)
        reason.inputs["lots"][-1] |= {"earned_at": utc_text(lot.earned_us), "expires_at": _time(lot.expires_us)}
        coming.append((lot.lot_id, _sum(reason, f"lots.{number}.points", amount)))
    why = {
        ADJUSTED_UP: "were granted by people",
        TRANSFERRED_IN: "came from another account",
    }.get(decision.source, "had expired, and were given back by people")
    reason.inputs["points"] = sum(points for _, points in coming)
    reason.steps.append(f"{reason.inputs['points']} points {why}; they don't qualify for a tier.")
    if of.rules is not None and decision.source == TRANSFERRED_IN:
        aged = of.rules.rule_set.transfers.keep_ages
        reason.steps.append("They keep their ages." if aged else "They are as old as the transfer.")
    _into_debt(reason, before.debt, coming)


# ── spending ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _asked(reason: Reason, fact: Event | None, of: Context) -> int:
    """How many points a request was about, by its own word or by the price of the reward."""
    if isinstance(fact, RedemptionRequested):
        reward = of.known_rules.rewards.get(fact.reward)
        if reward is not None:
            reason.steps.append(f"The reward {reward.id} costs {reward.price} points.")
            return reward.price
        return fact.points
    if isinstance(fact, (HoldRequested, TransferRequested, CorrectionRecorded, GoodwillGranted)):
        return fact.points
    return 0


def _redeemed(decision: PointsRedeemed, of: Context, reason: Reason) -> None:
    before = of.before
    wanted = _sum(reason, "points", _asked(reason, of.facts.get(decision.facts[0]), of))
    if decision.hold_id is not None:
        hold = before.holds[decision.hold_id]
        reason.inputs["held"] = hold.points
        _use(reason, before, wanted, hold.parts)
        reason.steps.append(f"{wanted} points were asked for out of a hold of {hold.points}: {_parts_text(reason)}.")
    else:
        reason.inputs["active"] = before.active
        _use(reason, before, wanted, _active(before))
        reason.steps.append(f"{wanted} points were asked for, and {before.active} were there.")
        reason.steps.append(f"Soonest expiry first, then oldest: {_parts_text(reason)}.")
    _uses(reason, decision.uses, wanted)
    _limits(reason, "redeem", wanted, decision.effective_us, of)


def _refused(decision: RedemptionRefused | HoldRefused | TransferRefused, of: Context, reason: Reason) -> None:
    before, fact = of.before, of.facts.get(decision.facts[0])
    there = before.active
    if isinstance(fact, RedemptionRequested) and fact.hold_id is not None:
        hold = before.holds.get(fact.hold_id)
        there = 0 if hold is None else hold.points
    points = _sum(reason, "points", _asked(reason, fact, of))
    _sum(reason, "active", there)
    reason.inputs |= {"active": there, "status": before.status, "tier": before.tier}
    on = {RedemptionRefused: "redeem", TransferRefused: "transfer"}.get(type(decision))
    if on is not None:
        _limits(reason, on, points, decision.effective_us, of)
    reward = None if not isinstance(fact, RedemptionRequested) else of.known_rules.rewards.get(fact.reward)
    match decision.code:
        case "account_suspended":
            reason.steps.append(f"{_suspended(of)}.")
        case "account_closed":
            reason.steps.append(f"The account is {before.status}.")
        case "unknown_reward":
            reason.steps.append(f"The rule set has these rewards: {', '.join(of.known_rules.rewards)}.")
        case "tier_required" if reward is not None:
            reason.steps.append(f"It is for {', '.join(reward.tiers)}; the account is in tier {before.tier}.")
        case "segment_required" if reward is not None and isinstance(fact, RedemptionRequested):
            seen = ", ".join(fact.segments) or "none"
            reason.steps.append(f"It is for segments {', '.join(reward.segments)}; the customer was in: {seen}.")
        case "out_of_stock" if isinstance(fact, RedemptionRequested):
            reason.steps.append(f"{fact.stock} were in stock.")
        case "receiver_closed" | "receiver_suspended":
            reason.steps.append(f"The account that they were to go to is {decision.code.removeprefix('receiver_')}.")
        case "transfers_not_allowed":
            reason.steps.append("The rule set allows no transfers.")
    reason.steps.append(f"{points} points were asked for, and {there} were there: {decision.code}.")


def _redemption_reversed(decision: RedemptionReversed, of: Context, reason: Reason) -> None:
    before, fact = of.before, of.facts.get(decision.facts[0])
    state = before.redemptions[decision.redemption_id]
    reason.inputs["left"] = state.points
    asked = fact.points if isinstance(fact, RedemptionReturned) and not fact.whole else state.points
    points = _sum(reason, "points", least(asked, state.points))
    reason.steps.append(
        f"{points} of {state.points} points come back that the redemption had used, the last used first."
    )
    came: list[There] = []
    left = points
    for part in reversed(state.parts):
        if left:
            wish: Part = minus(points, points - left) if left != points else points
            came.append((part.lot_id, _sum(reason, f"back: {len(came) + 1}", least(wish, part.points))))
            left -= came[-1][1]
    free = _recovered(reason, before, came)
    if of.known_rules.rule_set.refunds.redemption == "new_lot":
        if free:
            whole_lot = _sum(reason, "new_lot.points", plus(points for _, points in free))
            expires_us = NEVER if decision.new_lot is None else decision.new_lot.expires_us
            reason.steps.append(f"By the rule set, as a new lot, {_until(expires_us)}.")
            _into_debt(reason, before.debt, [(decision.facts[0], whole_lot)])
        return
    debt = before.debt
    back: dict[str, list[There]] = {"restored": [], "lapsed": []}
    over_by_now = [one for one in free if before.known[one[0]].expires_us <= decision.effective_us]
    for lot_id, there in over_by_now:
        pays = min(debt, there)
        for name, much, how in (("restored", pays, least(debt, there)), ("lapsed", there - pays, minus(there, pays))):
            if much:
                back[name].append((lot_id, much))
                _lot(reason, before, f"{name}.{len(back[name])}", lot_id, there)
                _sum(reason, f"{name}.{len(back[name])}.points", how if pays else there)
        debt -= pays
    for lot_id, there in free:
        if (lot_id, there) not in over_by_now:
            back["restored"].append((lot_id, there))
            _lot(reason, before, f"restored.{len(back['restored'])}", lot_id, there)
            _sum(reason, f"restored.{len(back['restored'])}.points", there)
    reason.steps.append(
        f"Into their own lots: {_parts_text(reason, 'restored')}; into lots that are over: "
        f"{_parts_text(reason, 'lapsed')}."
    )
    if debt != before.debt:
        reason.steps.append("Lots that are over pay the debt before their points are lost.")
    _into_debt(reason, before.debt, back["restored"])


def _held(decision: PointsHeld, of: Context, reason: Reason) -> None:
    before, fact = of.before, of.facts.get(decision.facts[0])
    wanted = _sum(reason, "points", _asked(reason, fact, of))
    reason.inputs["active"] = before.active
    _use(reason, before, wanted, _active(before))
    reason.steps.append(f"{wanted} points are set aside, soonest expiry first: {_parts_text(reason)}.")
    if isinstance(fact, HoldRequested) and decision.until_us < fact.until_us:
        reason.steps.append(f"Until {utc_text(decision.until_us)}, when the first of these lots expires.")
    else:
        reason.steps.append(f"Until {utc_text(decision.until_us)}, as was asked for.")


_RELEASED = {
    "released": "It was released",
    "captured": "What it was for was paid out of it, and this is the rest",
    "expired": "Its time was over",
    "inactivity": "All points of the account expired, for it was not in use",
    "closed": "The account was closed",
}


def _released(decision: HoldReleased, of: Context, reason: Reason) -> None:
    hold = of.before.holds[decision.hold_id]
    reason.inputs |= {"held": hold.points, "until": utc_text(hold.until_us)}
    free = _recovered(reason, of.before, hold.parts)
    _whole_lots(reason, of.before, free)
    reason.steps.append(f"The hold ended. {_RELEASED[decision.reason]}; free again: {_parts_text(reason)}.")
    _into_debt(reason, of.before.debt, free)


def _recovered(reason: Reason, before: LoyaltyAccount, coming: Iterable[There]) -> list[There]:
    """Points come back to their lots: what a return could not take of these before; the others."""
    free: list[There] = []
    number = 0
    for lot_id, points in coming:
        due = before.known[lot_id].recoverable
        part = min(points, due)
        if part:
            number += 1
            _lot(reason, before, f"reversed.{number}", lot_id, points)
            _sum(reason, f"reversed.{number}.points", least(points, due))
        if points > part:
            free.append((lot_id, points - part))
    if number:
        reason.steps.append(
            f"A return could not take these before, and takes them now: {_parts_text(reason, 'reversed')}."
        )
    return free


def _expired(decision: PointsExpired, of: Context, reason: Reason) -> None:
    before, at_us = of.before, decision.effective_us
    active, pending = list(_active(before)), [(lot_id, points) for _, _, lot_id, points in before.pending]
    if decision.reason == "expiry":
        # At one moment, lots that are pending go by themselves.
        active = [one for one in active if before.known[one[0]].expires_us <= at_us] if not decision.pending else []
        pending = [
            (lot_id, points)
            for _, _, lot_id, points in takewhile(lambda entry: entry[0] <= at_us, before.pending)
        ] if decision.pending else []  # fmt: skip
    total = _whole_lots(reason, before, active) + _whole_lots(reason, before, pending, "pending")
    _sum(reason, "points", plus(points for _, points in (*active, *pending)))
    if decision.reason == "expiry":
        reason.steps += [
            f"Lot {lot['lot_id']}, earned at {lot['earned_at']}, reached its end at {lot['expires_at']} with "
            f"{lot['points']} points."
            for lot in reason.inputs.get("lots", ())
        ]
    elif decision.reason == "inactivity":
        _inactive(reason, of, at_us)
    else:
        reason.steps.append("The account was closed.")
    reason.inputs["active"] = before.active
    reason.steps.append(f"Together {total} points, gone at {utc_text(at_us)}.")


def _inactive(reason: Reason, of: Context, at_us: int) -> None:
    """Since when an account was inactive, how many months were too many, by which rule set, and when they were over."""
    before, rule_book = of.before, of.rule_book
    moved_us = before.moved_us
    starts = [moved_us, *rule_book.starts(before.programme, moved_us, at_us)]
    for start, end in zip(starts, [*starts[1:], NEVER], strict=True):
        rules = rule_book.in_force(before.programme, start)
        months = None if rules is None else rules.rule_set.inactivity_months
        if rules is None or months is None:
            continue
        over_us = rules.zone.months_after(moved_us, months)
        due_us = max(start, over_us)
        if due_us < end and due_us <= at_us:
            reason.inputs["inactive"] = {"since": utc_text(moved_us), "months": months, "rules": rules.label}
            text = (
                f"The account was last in use at {utc_text(moved_us)}; by {rules.label}, points go when it was not for "
                f"{months} month{'s' if months > 1 else ''}, which ended at {utc_text(over_us)}"
            )
            text += f"; that rule set is in force from {utc_text(start)} on" if start > over_us else ""
            later = f"; the account had been decided up to {utc_text(at_us)} by then" if at_us > due_us else ""
            reason.steps.append(f"{text}{later}.")
            return
    reason.steps.append(f"The account was last in use at {utc_text(moved_us)}, and no rule set ends that.")


def _reversed(decision: EarningReversed, of: Context, reason: Reason) -> None:
    before, fact = of.before, of.facts.get(decision.facts[0])
    lot = before.known[decision.lot_id]
    unit = "pieces" if lot.in_pieces else "minor units"
    policy = of.known_rules.rule_set.refunds.earning
    asked = [line.basis for line in lot.lines]
    lines = ""
    if isinstance(fact, ReturnRecorded):
        asked = [0] * len(lot.lines)
        for given in fact.lines:
            asked[given.line - 1] += given.quantity if lot.in_pieces else given.net_minor
        lines = " (" + ", ".join(f"line {line.line}: {line.quantity} pieces" for line in fact.lines) + ")"
    elif isinstance(fact, ReferralReduced):
        asked = list(fact.returned)
        lines = " of the purchase that a referral was credited for"
    reason.steps.append(
        f"A return{lines} takes back what its lines had earned, in proportion, all parts together never more:"
        if lines
        else "What the fact had earned is withdrawn:"
    )
    told, parts = [], {"points": list[Part](), "qualifying": list[Part]()}
    for number, (line, back) in enumerate(zip(lot.lines, asked, strict=True), 1):
        came = _sum(reason, f"returned.{number}", least(back, minus(line.basis, line.returned)))
        if not came:
            continue
        upto = line.returned + came
        for name, of_parts in parts.items():
            earned = getattr(line, name)
            left_before = (
                whole(over(times(earned, line.basis - line.returned), line.basis)) if line.returned else earned
            )
            left = whole(over(times(earned, line.basis - upto), line.basis))
            of_parts.append(minus(left_before, left))
        told.append(
            {
                "line": number,
                "points": line.points,
                "basis": line.basis,
                "returned_before": line.returned,
                "back": came,
            }
        )
        reason.steps.append(
            f"Line {number} had earned {line.points} points for {line.basis} {unit}; {upto} of them came back. "
            f"{line.points} × {line.basis - upto} / {line.basis}, rounded down, are left; the rest is taken, less what "
            "was before."
        )
    points = _sum(reason, "points", plus(parts["points"]))
    _sum(reason, "qualifying", plus(parts["qualifying"]))
    pending = _sum(reason, "pending", least(points, lot.pending))
    rest = points - pending
    debt = lost = 0
    if policy != "pending_only":
        own_lot = before.lots.find(before.order_of(decision.lot_id))
        own = min(rest, 0 if own_lot is None else own_lot.points)
        if own_lot is not None and own:
            _use(reason, before, rest, [(decision.lot_id, own_lot.points)])
        rest -= own
        lost = _sum(reason, "expired", least(rest, lot.expired))
        others = ((lot_id, there) for lot_id, there in _active(before) if lot_id != decision.lot_id)
        rest -= _use(reason, before, rest - lost, others, given=1 if own else 0)
        debt = rest - lost if policy == "debt" else 0
    taken = points - pending - rest
    short = minus(points, pending, taken)
    _sum(reason, "debt", minus(points, pending, taken, lost) if policy == "debt" else 0)
    _sum(reason, "forgiven", lost if policy == "debt" else short)
    if policy == "pending_only":
        _sum(reason, "expired", 0)
    _sum(reason, "recoverable", minus(points, pending, taken, lost) if policy == "within_balance" else 0)
    reason.inputs |= {"lines": told, "expired_before": lot.expired, "policy": policy}
    reason.steps.append(
        f"Of these {points}, taken from what is pending: {pending}; from lots: {_parts_text(reason)}; as a debt: "
        f"{debt}; forgiven: {rest - debt} (policy {policy}; what expired before is not lost twice)."
    )
    if policy == "within_balance" and rest > lost:
        reason.steps.append(f"{rest - lost} of them are taken when points of the lot come back.")


def _transferred(decision: PointsTransferred, of: Context, reason: Reason) -> None:
    before = of.before
    wanted = _sum(reason, "points", _asked(reason, of.facts.get(decision.facts[0]), of))
    reason.inputs["active"] = before.active
    _use(reason, before, wanted, _active(before))
    _uses(reason, decision.uses, wanted)
    _limits(reason, "transfer", wanted, decision.effective_us, of)
    reason.steps.append(f"{wanted} points went to another account, soonest expiry first: {_parts_text(reason)}.")


def _corrected(decision: PointsCorrected, of: Context, reason: Reason) -> None:
    before, fact = of.before, of.facts.get(decision.facts[0])
    wanted = _sum(reason, "points", _asked(reason, fact, of))
    reason.inputs["active"] = before.active
    taken = _use(reason, before, wanted, _active(before))
    into_debt = isinstance(fact, CorrectionRecorded) and fact.into_debt
    debt = _sum(reason, "debt", minus(wanted, taken) if into_debt else 0)
    missing = _sum(reason, "missing", 0 if into_debt else minus(wanted, taken))
    reason.steps.append(
        f"{wanted} points were taken away by people: {_parts_text(reason)}; as a debt: {debt}; not there: {missing}."
    )


def _extended(decision: LotsExtended, of: Context, reason: Reason) -> None:
    fact = of.facts.get(decision.facts[0])
    for number, lot_id in enumerate(decision.lots, 1):
        state = of.before.lots.find(of.before.order_of(lot_id))
        _lot(reason, of.before, f"lots.{number}", lot_id, 0 if state is None else state.points)
    which = "all that were there" if isinstance(fact, ExtensionGranted) and fact.lot_id is None else "those named"
    reason.steps.append(
        f"{len(decision.lots)} lots, {which} and would have ended before, live {_until(decision.expires_us)}."
    )


# ── coupons ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _coupon_issued(decision: CouponIssued, of: Context, reason: Reason) -> None:
    days = of.known_rules.rewards[decision.reward].coupon_days
    why = {"redeemed": "was paid for", "granted": "was given by hand"}.get(
        decision.reason, f"comes with reaching a tier ({decision.reason})"
    )
    reason.steps.append(
        f"A coupon for {decision.reward} {why}: good for {days} days, until {utc_text(decision.expires_us)}."
    )


def _coupon_closed(decision: CouponClosed, of: Context, reason: Reason) -> None:
    coupon = of.before.coupons[decision.coupon_id]
    reason.inputs |= {"reward": coupon.reward, "expires_at": _time(coupon.expires_us)}
    why = {
        "used": "was presented",
        "voided": "was taken back",
        "expired": "reached its end"
        if decision.effective_us >= coupon.expires_us
        else "went with the account, which was closed",
        "withdrawn": "came with a tier that a return took away",
    }[decision.outcome]
    reason.steps.append(f"The coupon for {coupon.reward} {why}.")


def _coupon_refused(decision: CouponRefused, of: Context, reason: Reason) -> None:
    fact = of.facts.get(decision.facts[0])
    if isinstance(fact, CouponGranted):
        reason.inputs["stock"] = fact.stock
        reason.steps.append(f"The coupon for {fact.reward} is not given: {decision.code}.")
        return
    coupon = None if decision.coupon_id is None else of.before.coupons.get(decision.coupon_id)
    reason.inputs |= {"status": of.before.status, "outcome": None if coupon is None else coupon.outcome or "good"}
    reason.steps.append(f"The coupon is not taken: {decision.code}.")


# ── tiers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_REASONS_OF_TIERS = {
    "enrolled": "The account was opened: everybody starts in the first tier.",
    "points_earned": "Points were earned, so the tier was looked at.",
    "earning_reversed": "An earning was taken back that counted, so the tier was looked at.",
    "balance_changed": "The balance changed, so the tier was looked at.",
    "window_moved": "Time alone moved the window: points left it, or what had put the fall off was over.",
    "rules_changed": "Another rule set took effect.",
    "overridden": "People decided.",
    "override_ended": "What people had decided ended: the rules count again.",
}


def _tier(decision: TierChanged, of: Context, reason: Reason) -> None:
    rules, before, at_us = of.known_rules, of.before, decision.effective_us
    ladder, tiers = rules.ladder, rules.rule_set.tiers
    enrolled = decision.reason == "enrolled"
    counted = [] if enrolled else ladder.counted(before, at_us)
    total = _sum(reason, "qualifying", 0) if enrolled else _counted_sum(reason, counted, at_us, of)
    held = -1 if enrolled else ladder.rank(before.standing)
    levels: list[dict[str, Any]] = []
    for rank, level in enumerate(tiers.levels):
        needed = level.keeps if rank <= held else level.threshold
        levels.append(
            {
                "name": level.name,
                "threshold": level.threshold,
                "keep": level.keeps,
                "needed": needed,
                "reached": rank == 0 or total >= needed,
            }
        )
    reached = ladder.reached(total, held)
    facts = _facts_of_window(before, counted)
    reason.inputs |= {
        "window": {
            "basis": tiers.basis,
            "window": tiers.window,
            "months": tiers.window_months,
            "zone": rules.rule_set.zone,
            "qualifying": total,
            "entries": len(counted),
            "first_earned_at": utc_text(counted[0][0]) if counted else None,
            "last_earned_at": utc_text(counted[-1][0]) if counted else None,
            "counted": [
                {
                    "earned_at": utc_text(earned_us),
                    "points": points,
                    "until": _time(ladder.counts_until(before, earned_us)),
                    "facts": facts.get(earned_us, []),
                }
                for earned_us, points in counted
            ],
        },
        "levels": levels,
        "held": before.standing,
        "lent": before.tier if before.tier != before.standing else None,
        "reached": reached,
        "downgrade": tiers.downgrade,
    }
    reason.steps.append(_REASONS_OF_TIERS[decision.reason])
    if enrolled:
        return
    _window_text(reason, of, counted, total, at_us)
    told = ", ".join(f"{level['name']} {level['needed']}" for level in levels)
    reason.steps.append(f"The tiers ask for: {told}. {total} points give {reached}.")
    if decision.reason == "overridden":
        until = "" if decision.until_us is None else f" until {utc_text(decision.until_us)}"
        reason.steps.append(f"Whatever is earned, the account holds {decision.tier}{until}.")
    elif decision.reason == "override_ended":
        reason.steps.append(f"Before people decided, it was {before.standing or 'none'}.")
        reason.steps.append("From what people decided it goes straight to what is earned.")
    elif 0 <= ladder.rank(reached) < held:
        _fall_text(reason, of, decision, held)
    reason.steps.append(f"It was {decision.previous or 'none'}, and is {decision.tier}.")


def _counted_sum(reason: Reason, counted: Sequence[tuple[int, int]], at_us: int, of: Context) -> int:
    """The points that decide about the tier."""
    ladder, before = of.known_rules.ladder, of.before
    if ladder.tiers.basis == "balance":
        return _sum(reason, "qualifying", before.active)
    if not ladder.yearly:
        return _sum(reason, "qualifying", most(0, plus(points for _, points in counted)))
    start = ladder.year_start(before, at_us, 0)
    this = _sum(reason, "year: this one", plus(points for earned_us, points in counted if earned_us >= start))
    last = _sum(reason, "year: the one before", plus(points for earned_us, points in counted if earned_us < start))
    return _sum(reason, "qualifying", most(0, this, last))


def _facts_of_window(before: LoyaltyAccount, counted: Sequence[tuple[int, int]]) -> dict[int, list[str]]:
    """The facts whose earnings count, by when they were."""
    moments = {earned_us for earned_us, _ in counted}
    found: dict[int, list[str]] = {}
    for lot in before.known.values():
        if lot.earned_us in moments and any(line.qualifying for line in lot.lines):
            facts = found.setdefault(lot.earned_us, [])
            if str(lot.fact) not in facts:
                facts.append(str(lot.fact))
    return found


def _window_text(reason: Reason, of: Context, counted: Sequence[tuple[int, int]], total: int, at_us: int) -> None:
    rules, before = of.known_rules, of.before
    ladder, tiers = rules.ladder, rules.rule_set.tiers
    if tiers.basis == "balance":
        reason.steps.append(f"The tier goes by the balance: {total} points could be spent.")
        return
    window = f"{tiers.window_months} months" if tiers.window_months else tiers.window.replace("_", " ")
    reason.steps.append(
        f"Earnings that count in the window ({window}, {rules.rule_set.zone}) up to {utc_text(at_us)}: {len(counted)}; "
        f"{total} points count."
    )
    if ladder.yearly:
        this, last = (ladder.year_start(before, at_us, years) for years in (0, -1))
        reason.steps.append(
            f"The greater of two years' sums counts: from {_since(this)}, and from {_since(last)} to then."
        )
    left = [entry for entry in before.window if entry[0] <= at_us and ladder.counts_until(before, entry[0]) <= at_us]
    if left and not ladder.yearly:
        reason.inputs["window"]["left"] = {"entries": len(left), "points": sum(points for _, points in left)}
        reason.steps.append(f"Out of the window by then: {sum(points for _, points in left)} points of {len(left)}.")


def _fall_text(reason: Reason, of: Context, decision: TierChanged, held: int) -> None:
    """Why a tier that is not earned any more went down then, and how far."""
    ladder, before, at_us = of.known_rules.ladder, of.before, decision.effective_us
    tiers = ladder.tiers
    by_time = decision.reason in ("window_moved", "rules_changed")
    if by_time and tiers.hold_months:
        until_us = of.known_rules.zone.months_after(before.tier_since_us, tiers.hold_months)
        reason.inputs["hold_until"] = utc_text(until_us)
        reason.steps.append(
            f"It was held for {tiers.hold_months} months whatever was earned, until {utc_text(until_us)}."
        )
    if by_time and tiers.grace_days:
        then_us = of.known_rules.zone.add_days(at_us, -tiers.grace_days)
        points = ladder.qualifying(before, then_us)
        reason.inputs["grace"] = {"days": tiers.grace_days, "since": _time(then_us), "qualifying": points}
        reason.steps.append(
            f"{tiers.grace_days} days before, at {_since(then_us)}, {points} points counted already, too few for "
            f"{ladder.names[held]}: the grace is over."
        )
    if decision.reason == "earning_reversed":
        reason.steps.append("A return lowers the tier at once, straight to what is earned.")
    else:
        how = {"straight": "straight to what is earned", "one_step": "one step at a time", "never": "never"}
        reason.steps.append(f"By the rule set it goes down {how[tiers.downgrade]}.")


_REASONS: dict[type[Decision], Callable[..., None]] = {
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
    CouponIssued: _coupon_issued,
    CouponClosed: _coupon_closed,
    CouponRefused: _coupon_refused,
}
"""Each kind of decision has an entry: a test holds this against the registry."""
