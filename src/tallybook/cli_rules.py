"""`tallybook rules`: which rule sets are in force, proposed, adopted; and a rule set in words, whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tallybook.adapters.rule_files import PACKAGED, load_rule_set
from tallybook.domain.errors import RuleSetError
from tallybook.domain.rules import Caps, Expiry, Fixed, Multiplier, Pending, PerAmount, RuleSet, Tiers

from .customers import DEFAULT_PROGRAMME
from .terminal import Actor, AsJson, BookUrl, Purpose, acting_as, acting_in, open_book, out, say, show_table, tell

rules_app = typer.Typer(help="Check, show, propose and adopt rule sets.", no_args_is_help=True)
NONE = "-"

RuleFile = Annotated[
    Path, typer.Argument(help="A rule set: a TOML, JSON or YAML file, or one that ships: " + ", ".join(PACKAGED))
]


Programme = Annotated[str, typer.Option("--programme", help="Of which programme")]


@rules_app.command("check")
def rules_check(file: RuleFile, as_json: AsJson = False) -> None:
    """Validate a rule set. Exit 1 with each problem and its path; what is allowed and does nothing is a warning."""
    try:
        rule_set = load_rule_set(file)
    except RuleSetError as error:
        problems = error.problems

        def show() -> None:
            for problem in problems:
                out.print(f"{file}: {problem}", markup=False)

        tell({"valid": False, "problems": problems}, as_json, show)
        raise typer.Exit(1) from None
    warnings = rule_set.warnings

    def show_valid() -> None:
        for warning in warnings:
            out.print(f"{file}: warning: {warning}", markup=False)
        out.print(f"{rule_set.label} is valid; sha256 {rule_set.digest()}")

    tell(
        {"valid": True, "rule_set": rule_set.label, "digest": rule_set.digest(), "warnings": warnings},
        as_json,
        show_valid,
    )


@rules_app.command("show")
def rules_show(
    file: Annotated[
        Path | None, typer.Argument(help="A rule set, as for check; without it, those that the book adopted")
    ] = None,
    book: Annotated[str | None, typer.Option("--book", envvar="TALLYBOOK_URL", help="The book")] = None,
    as_json: AsJson = False,
) -> None:
    """Explain a rule set, or list the adoptions of a book."""
    if file is not None:
        rule_set = load_rule_set(file)
        tell(json.loads(rule_set.canonical()), as_json, lambda: show_rule_set(rule_set))
        return
    if book is None:
        raise typer.BadParameter("Name a rule set file, or a book with --book.")
    with open_book(book, create=False) as opened:
        adopted = opened.rules.adopted()
        now = opened.rules.in_force()

    def show() -> None:
        show_table(
            "Adopted",
            ["rule set", "programme", "in force from", "by", "position", "sha256"],
            [(one.label, one.programme, one.effective_at, one.actor, one.position, one.digest[:16]) for one in adopted],
        )
        if now is not None:
            show_rule_set(now)

    tell(adopted, as_json, show)


@rules_app.command("adopt")
def rules_adopt(
    file: RuleFile,
    book: BookUrl,
    effective_at: Annotated[
        str | None, typer.Option("--from", help="From when on it is in force (default: now), with a zone")
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why: a code")] = None,
    backtest: Annotated[
        str | None, typer.Option("--backtest", help="The digest of a backtest of it that is on record")
    ] = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Put a rule set in force: an event that names who, why and from when on."""
    with open_book(book) as opened, acting_as(opened, actor, purpose):
        before = opened.position()
        label = opened.rules.adopt(file, reason=reason, backtest=backtest, effective_at=effective_at)
        recorded = opened.position() > before
    start = effective_at or "now"
    told = (
        f"{label} is adopted from {start} on." if recorded else (f"Nothing new: {label} was adopted from then before.")
    )
    say({"rule_set": label, "recorded": recorded}, as_json, told)


@rules_app.command("propose")
def rules_propose(
    file: RuleFile,
    book: BookUrl,
    reason: Annotated[str, typer.Option("--reason", help="Why: a code")],
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Put a rule set forward for adoption. It decides nothing yet."""
    with acting_in(book, actor, purpose) as opened:
        digest = opened.rules.propose(file, reason=reason)
    say({"digest": digest}, as_json, f"Put forward: sha256 {digest}")


@rules_app.command("proposals")
def rules_proposals(book: BookUrl, as_json: AsJson = False) -> None:
    """The rule sets that are put forward, each with its last backtest on record."""
    with open_book(book, create=False) as opened:
        found = opened.rules.proposals()

    def show() -> None:
        show_table(
            "Put forward",
            ["rule set", "programme", "sha256", "backtest"],
            [(one.label, one.programme, one.digest, one.backtest or NONE) for one in found],
        )

    tell(found, as_json, show)


@rules_app.command("withdraw")
def rules_withdraw(
    digest: Annotated[str, typer.Argument(help="That of the proposal: see `rules proposals`")],
    book: BookUrl,
    reason: Annotated[str, typer.Option("--reason", help="Why: a code")],
    programme: Programme = DEFAULT_PROGRAMME,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Put a rule set forward no longer."""
    with acting_in(book, actor, purpose) as opened:
        opened.rules.withdraw(digest, reason=reason, programme=programme)
    say({"digest": digest}, as_json, "Withdrawn.")


@rules_app.command("require-backtest")
def rules_require_backtest(
    book: BookUrl,
    reason: Annotated[str, typer.Option("--reason", help="Why: a code")],
    required: Annotated[bool, typer.Option("--yes/--no", help="Demand it, or no longer")] = True,
    programme: Programme = DEFAULT_PROGRAMME,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Let rule sets of a programme be adopted with a backtest on record only."""
    with acting_in(book, actor, purpose) as opened:
        opened.rules.require_backtest(required, reason=reason, programme=programme)
    told = "only with a backtest on record" if required else "with or without a backtest"
    say({"required": required, "programme": programme}, as_json, f"Rule sets of {programme} are adopted {told}.")


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
        rows.append(("expire all", f"{rule_set.inactivity_months} months after the account was last in use"))
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
