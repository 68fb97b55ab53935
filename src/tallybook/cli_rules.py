"""What `tallybook rules` prints: a rule set in words, whole."""

from __future__ import annotations

from tallybook.domain.rules import Caps, Expiry, Fixed, Multiplier, Pending, PerAmount, RuleSet, Tiers

from .terminal import out, show_table

NONE = "-"


def show_rule_set(rule_set: RuleSet) -> None:
    """A rule set in words: every part of it."""
    out.print(f"{rule_set.label} of programme {rule_set.programme}, {rule_set.currency}, {rule_set.zone}", markup=False)
    if rule_set.description:
        out.print(rule_set.description, markup=False)
    show_table("Points", ["what", "how"], _points(rule_set))
    show_table(
        "Earning",
        ["rule", "for a", "gives", "when", "but"],
        [
            (rule.id, rule.on, _gives(rule), rule.when or "always", "; ".join(_but(rule, rule_set)) or NONE)
            for rule in rule_set.earning
        ],
    )
    if rule_set.limits:
        show_table(
            "Limits",
            ["on", "in a", "times", "points"],
            [(limit.on, limit.period, _number(limit.count), _number(limit.points)) for limit in rule_set.limits],
            ["times", "points"],
        )
    if rule_set.rewards:
        show_table(
            "Rewards",
            ["reward", "price", "for tiers", "for segments", "stock", "coupon", "voided"],
            [
                (
                    reward.id,
                    f"{reward.price:,}",
                    _names(reward.tiers, "all"),
                    _names(reward.segments, "all"),
                    "counted" if reward.counted else NONE,
                    _days(reward.coupon_days) if reward.coupon_days else NONE,
                    f"points {reward.voided}" if reward.coupon_days else NONE,
                )
                for reward in rule_set.rewards
            ],
            ["price"],
        )
    show_table(
        _tiers(rule_set.tiers),
        ["tier", "from", "kept with", "multiplier", "benefits", "coupons"],
        [
            (
                level.name,
                f"{level.threshold:,}",
                f"{level.keeps:,}",
                f"times {level.multiplier}",
                _names(level.benefits),
                _names(level.grants),
            )
            for level in rule_set.tiers.levels
        ],
        ["from", "kept with"],
    )


def _points(rule_set: RuleSet) -> list[tuple[str, str]]:
    amount = rule_set.amount
    rows = [("count", " + ".join(amount.include) + (f", but nothing where {amount.exclude}" if amount.exclude else ""))]
    rows += [(f"orders in {one.code}", f"times {one.rate} ({one.name}), in minor units") for one in rule_set.currencies]
    rows.append(("rounded", rule_set.rounding))
    rows.append(("pending", _pending(rule_set.pending)))
    rows.append(("expire", _expiry(rule_set.expiry)))
    if rule_set.inactivity_months is not None:
        rows.append(("expire all", f"{rule_set.inactivity_months} months after the account last earned or redeemed"))
    if capped := _caps(rule_set.caps):
        rows.append(("at most", capped))
    back = {
        "pending_only": "only points that are pending still are taken back",
        "within_balance": "at most what is there is taken back",
        "debt": "points are taken back; what is not there is a debt",
    }
    rows.append(("after a return", back[rule_set.refunds.earning]))
    restored = {"original": "to the lots that they were of", "new_lot": "as a new lot"}
    rows.append(("after a redemption is undone", f"points come back {restored[rule_set.refunds.redemption]}"))
    rows.append(("held", f"for {_days(rule_set.holds_days)} at most"))
    ages = "with their ages" if rule_set.transfers.keep_ages else "as new points"
    rows.append(("transferred", ages if rule_set.transfers.allowed else "not allowed"))
    rows.append(("sold by itself, a point is worth", f"{rule_set.point_price} minor units"))
    return rows


def _gives(rule: PerAmount | Fixed | Multiplier) -> str:
    if isinstance(rule, Multiplier):
        return f"times {rule.factor}"
    if isinstance(rule, Fixed):
        return f"{rule.points:,}"
    unit = "minor units" if rule.per_minor else "pieces" if rule.on == "purchase" else "of its quantity"
    whole = "whole " if rule.whole else ""
    lines = f" of lines where {rule.lines}" if rule.lines else ""
    return f"{rule.points:,} for each {whole}{rule.per:,} {unit}{lines}"


def _but(rule: PerAmount | Fixed | Multiplier, rule_set: RuleSet) -> list[str]:
    """What narrows a rule, in words."""
    found = []
    if rule.starts:
        found.append(f"from {rule.starts}")
    if rule.ends:
        found.append(f"until {rule.ends}")
    if isinstance(rule, Multiplier):
        return found
    if rule.gives != "both":
        found.append({"points": "points to spend only", "qualifying": "qualifying points only"}[rule.gives])
    if rule.group:
        found.append(f"the {rule_set.groups[rule.group]} of {rule.group}")
    if not rule.multiplied:
        found.append("not multiplied")
    if capped := _caps(rule.caps):
        found.append(f"at most {capped}")
    if rule.expiry is not None:
        found.append("never expire" if rule.expiry.never else f"expire {_expiry(rule.expiry)}")
    if rule.pending is not None:
        found.append(f"pending {_pending(rule.pending)}")
    if rule.campaign:
        control = f", {rule.control_percent} % of accounts left out" if rule.control_percent else ""
        found.append(f"campaign {rule.campaign}{control}")
    return found


def _caps(caps: Caps) -> str:
    found = [] if caps.event is None else [f"{caps.event:,} for one fact"]
    return ", ".join(found + [f"{cap:,} in a {period}" for period, cap in caps.periods])


def _expiry(expiry: Expiry) -> str:
    if expiry.never:
        return "never"
    life = _days(expiry.days) if expiry.days is not None else f"{expiry.months} months"
    until = {"exact": "", "month_end": ", at the end of that month", "year_end": ", at the end of that year"}
    return f"{life} after they were {expiry.counted_from}{until[expiry.until]}"


def _pending(pending: Pending | None) -> str:
    if pending is None:
        return "not at all"
    if not pending.confirmed:
        return f"for {_days(pending.days or 0)}"
    return "until confirmed" + (f", for {_days(pending.days)} at most" if pending.days else "")


def _tiers(tiers: Tiers) -> str:
    of = {
        "rolling": f"the last {tiers.window_months} months",
        "calendar_year": "the calendar year, held to the end of the next",
        "membership_year": "the membership year, held to the end of the next",
        "lifetime": "all time",
    }
    told = f"Tiers by the {'balance' if tiers.basis == 'balance' else f'qualifying points of {of[tiers.window]}'}"
    if tiers.qualify == "base":
        told += "; multipliers don't qualify"
    told += {"straight": "; down to what is earned", "one_step": "; down one step", "never": "; never down"}[
        tiers.downgrade
    ]
    if tiers.hold_months:
        told += f"; held {tiers.hold_months} months at least"
    if tiers.grace_days:
        told += f"; {_days(tiers.grace_days)} of grace"
    return told


def _days(count: int) -> str:
    return f"{count} day{'' if count == 1 else 's'}"


def _number(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _names(names: tuple[str, ...], none: str = NONE) -> str:
    return ", ".join(names) or none
