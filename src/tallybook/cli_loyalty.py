"""`tallybook loyalty`: statements and explanations of accounts, coupons, what a programme owes for its points."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tallybook.adapters.reports import visible

from .liability import Liability
from .statements import Explanation, Order, Statement
from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    KnownAt,
    Purpose,
    acting_as,
    acting_in,
    known_moment,
    open_book,
    out,
    say,
    show_table,
    tell,
    the_customer,
)

loyalty_app = typer.Typer(
    help="Statements and explanations of accounts, coupons by hand; programmes as a whole: balances, what expires, "
    "what is owed for points, members beside others, campaigns, rewards.",
    no_args_is_help=True,
)

Programme = Annotated[str, typer.Option("--programme", help="Which programme")]
At = Annotated[str | None, typer.Option("--at", help="From when on it holds (default: now), with a zone")]
Source = Annotated[str, typer.Option("--source", help="Who or what says so, as a code: actuary, auditor:kpmg")]
Why = Annotated[str, typer.Option("--reason", help="Why, as a code: year-end")]


@loyalty_app.command("statement")
def loyalty_statement(
    customer: Annotated[str, typer.Argument(help="The customer's or the account's id, or system:external_id")],
    book: BookUrl,
    programme: Programme = "main",
    start: Annotated[str | None, typer.Option("--from", help="From when; a plain date: its beginning")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Until when; a plain date means all of that day")] = None,
    order: Annotated[
        str, typer.Option("--order", help="recorded or effective: by which date a movement belongs to the period")
    ] = "recorded",
    known_at: KnownAt = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="A line a movement, to stdout")] = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """An account over a period: opening balances, each movement with its fact, rule and lots, closing balances."""
    by: Order = "effective" if order == "effective" else "recorded"
    if order != by:
        raise typer.BadParameter("recorded or effective is wanted", param_hint="--order")
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        found = opened.loyalty.statement(
            the_customer(opened, customer),
            programme=programme,
            start=start,
            end=end,
            order=by,
            known_at=known_moment(known_at),
        )
    if as_csv:
        text = found.csv()
        sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
        return
    tell(found, as_json, lambda: _show_statement(found))


def _show_statement(found: Statement) -> None:
    out.print(
        f"Account {found.account_id} in {found.programme}, from {found.start or 'its beginning'} to {found.end}, by "
        f"{'when it was recorded' if found.order == 'recorded' else 'when it took effect'}."
    )
    held = ("active", "pending", "held", "debt")
    rows: list[Sequence[object]] = [("", "", "opening", "", "", *(f"{found.opening[name]:,}" for name in held), "")]
    rows += [
        (
            _minute(one.effective_at),
            _minute(one.recorded_at) if one.recorded_at is not None else "due",
            one.what,
            _points(one.points_in),
            _points(one.points_out),
            *(f"{getattr(one, name):,}" for name in held),
            "correction" if one.correction else "",
        )
        for one in found.lines
    ]
    rows.append(("", "", "closing", "", "", *(f"{found.closing[name]:,}" for name in held), ""))
    columns = ["effective", "recorded", "what", "in", "out", *held, "note"]
    show_table("Movements", columns, rows, ["in", "out", *held])
    names = sorted(name for name in found.closing if found.closing[name] or found.opening[name])
    show_table(
        "Buckets",
        ["bucket", "opening", "closing", "change"],
        [
            (
                name,
                f"{found.opening[name]:,}",
                f"{found.closing[name]:,}",
                f"{found.closing[name] - found.opening[name]:+,}",
            )
            for name in names
        ],
        ["opening", "closing", "change"],
    )


def _minute(at: str) -> str:
    return at[:16].replace("T", " ")


def _points(points: int) -> str:
    return f"{points:,}" if points else ""


@loyalty_app.command("explain")
def loyalty_explain(
    decision: Annotated[str, typer.Argument(help="The decision's id, as statements and `show account` give it")],
    book: BookUrl,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Why a decision about an account fell: facts, rule set, what each rule gave, arithmetic, lots. Exit 1 if that does
    not give what was recorded."""
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        found = opened.loyalty.explain(decision)
    tell(found, as_json, lambda: show_explanation(found))
    if not found.agrees:
        raise typer.Exit(1)


def show_explanation(found: Explanation) -> None:
    """A decision in words: what, when, by what, and why."""
    out.print(
        f"{found.effective_at}  {found.kind.rpartition('.')[2].replace('_', ' ')}  (position {found.position}, "
        f"{found.decision_id})",
        markup=False,
        style="bold",
    )
    digest = "" if found.digest is None else f", sha256 {found.digest[:16]}…"
    out.print(f"  rule set: {found.rules}{digest}", markup=False)
    for fact in found.facts:
        out.print(
            f"  fact: {fact.kind} of {fact.effective_at}, recorded {fact.recorded_at} at position {fact.position}, "
            f"{fact.fact_id}",
            markup=False,
        )
    for step in found.why:
        out.print(f"  {step}", markup=False)
    for line in found.arithmetic:
        if line.how != str(line.gives):
            out.print(f"    {line.what}: {line.how} = {line.gives}", markup=False)
    for move in found.moves:
        out.print(f"    lot {move.lot_id}: {move.points:,} from {move.source} to {move.target}", markup=False)


@loyalty_app.command("liability")
def loyalty_liability(
    book: BookUrl,
    programme: Programme = "main",
    at: Annotated[
        str | None, typer.Option("--at", help="At which moment (default: now); a plain date means all of that day")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="The end of the period before")] = None,
    known_at: KnownAt = None,
    reported_at: Annotated[
        str | None,
        typer.Option("--reported-at", help="The end of the period before as it was known then: a time, or a position"),
    ] = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """What a programme owes for its points by IFRS 15: allocated, revenue to date and in the period, what is left."""
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        found = opened.loyalty.liability(
            programme,
            at=at,
            since=since,
            known_at=known_moment(known_at),
            reported_at=known_moment(reported_at),
        )
    tell(found, as_json, lambda: _show_liability(found))


def _show_liability(found: Liability) -> None:
    out.print(f"Programme {found.programme} at {found.at}, in minor units of {found.currency}.", markup=False)
    period = "" if found.since is None else f"{found.recognised_before_minor:,}"
    show_table(
        "Contract liability",
        ["what", "amount"],
        [
            ("allocated to points", f"{found.allocated_minor:,}"),
            ("revenue recognised to date", f"{found.recognised_minor:,}"),
            *([("  of that before the period", period)] if period else []),
            *([("  in the period", f"{found.recognised_in_period_minor:,}")] if period else []),
            ("liability", f"{found.liability_minor:,}"),
        ],
        ["amount"],
    )
    show_table(
        "Points",
        ["what", "points"],
        [
            ("issued", f"{found.issued:,}"),
            ("redeemed", f"{found.redeemed:,}"),
            ("expired", f"{found.expired:,}"),
            ("outstanding", f"{found.outstanding:,}"),
            ("owed by customers", f"{found.debt:,}"),
            ("expected to be redeemed in the end", f"{found.expected:,}"),
        ],
        ["points"],
    )
    if found.estimate is not None:
        one = found.estimate
        out.print(
            f"Estimate: {one.expected:,} of {one.issued:,} points, from {one.effective_at} on, by {one.source} "
            f"({one.reason}).",
            markup=False,
        )
    if found.given is not None:
        out.print(
            f"Given: {found.given.allocated_minor:,} for all points issued up to {found.given.effective_at}, by "
            f"{found.given.source} ({found.given.reason}).",
            markup=False,
        )
    for line in found.arithmetic:
        out.print(f"  {line.what}: {line.how} = {line.gives:,}", markup=False)
    for note in found.notes:
        out.print(f"Note: {note}", markup=False)


@loyalty_app.command("estimate")
def loyalty_estimate(
    expected: Annotated[int, typer.Argument(help="How many points will be redeemed in the end, with those that were")],
    book: BookUrl,
    source: Source,
    reason: Why,
    issued: Annotated[int | None, typer.Option("--issued", help="Of how many (default: all issued by then)")] = None,
    programme: Programme = "main",
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Record how many of the points issued are expected to be redeemed."""
    with acting_in(book, actor, purpose) as opened:
        fact_id = opened.loyalty.estimate(
            expected, issued, source=source, reason=reason, programme=programme, effective_at=at
        )
    say({"fact_id": fact_id}, as_json, f"Estimate {fact_id}: {expected:,} points.")


@loyalty_app.command("allocate")
def loyalty_allocate(
    allocated_minor: Annotated[int, typer.Argument(help="In minor units of the programme's currency")],
    book: BookUrl,
    source: Source,
    reason: Why,
    programme: Programme = "main",
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Record how much of the price of all sales so far is allocated to points, in place of what the book reckons."""
    with acting_in(book, actor, purpose) as opened:
        fact_id = opened.loyalty.allocate(
            allocated_minor, source=source, reason=reason, programme=programme, effective_at=at
        )
    say({"fact_id": fact_id}, as_json, f"Allocation {fact_id}: {allocated_minor:,}.")


@loyalty_app.command("issue-coupon")
def loyalty_issue_coupon(
    customer: Annotated[str, typer.Argument(help="The customer's id, or system:external_id")],
    reward: Annotated[str, typer.Argument(help="What the coupon is for, as the rule set calls it")],
    book: BookUrl,
    reason: Why,
    code: Annotated[
        str | None, typer.Option("--code", help="The coupon's secret, by which it may be presented: kept sealed")
    ] = None,
    programme: Programme = "main",
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Give a customer a coupon by hand: goodwill, a campaign. Of a reward that is counted, one is taken."""
    with acting_in(book, actor, purpose) as opened:
        coupon_id = opened.loyalty.issue_coupon(
            the_customer(opened, customer), reward, reason=reason, code=code, programme=programme, effective_at=at
        )
    say({"coupon_id": coupon_id}, as_json, f"Coupon {coupon_id} for {visible(reward)}.")
