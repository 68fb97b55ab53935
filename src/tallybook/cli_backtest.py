"""`tallybook backtest`: what would change under other rules."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tallybook.domain.events import from_us
from tallybook.projections.backtest import Backtest, Difference, Month, Mover
from tallybook.projections.backtest_tables import COUNTS, MONTHLY, TOTALS

from .backtest_page import DIMENSIONS, SIDES, changed, class_name, made_of, rests_on
from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    Keyless,
    Purpose,
    acting_as,
    check_new,
    open_to_verify,
    out,
    show_left_out,
    show_table,
    tell,
    the_customer,
    watched,
    write_new,
)

backtest_app = typer.Typer()
MOVERS_SHOWN = 5


class Unfunded(StrEnum):
    """What becomes of a redemption that was paid, and that the candidate can't fund."""

    REJECT = "reject"
    CLAMP = "clamp"
    DEFICIT = "deficit"


class Order(StrEnum):
    """In which order facts count."""

    CANONICAL = "canonical"
    HINDSIGHT = "hindsight"


class Executor(StrEnum):
    """Which code reckons."""

    COLUMNAR = "columnar"
    REFERENCE = "reference"


BaselineFile = Annotated[
    Path | None, typer.Option("--baseline", help="Compare with this rule set, not the recorded ones")
]
WhatOfUnfunded = Annotated[
    Unfunded, typer.Option("--unfunded", help="A redemption that was paid and can't be: refused, cut, or owed")
]
InOrder = Annotated[
    Order, typer.Option("--order", help="Facts as they became known, or as if known when they happened")
]
InForceSince = Annotated[
    str | None, typer.Option("--since", help="From when on the candidate is in force (a date, or a time with a zone)")
]
ByExecutor = Annotated[
    Executor | None, typer.Option("--executor", help="Which code reckons (default: columnar, where it can)")
]


@backtest_app.command("backtest")
def backtest(
    file: Annotated[Path, typer.Argument(help="The candidate: a TOML file, or standard, candidate")],
    book: BookUrl,
    baseline: BaselineFile = None,
    unfunded: WhatOfUnfunded = Unfunded.REJECT,
    order: InOrder = Order.CANONICAL,
    since: InForceSince = None,
    executor: ByExecutor = None,
    explain: Annotated[
        str | None, typer.Option("--explain", help="Also the first fact that differs for a customer")
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write the report to this file, as a page with charts")
    ] = None,
    customers: Annotated[
        Path | None, typer.Option("--customers", help="Write a row for each account to this file, as Parquet")
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Put it on record, for `rules adopt --backtest`")] = False,
    keyless: Keyless = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Replay history under a candidate rule set: who moves tier, what it costs."""
    check_new(report_file, customers)
    with (
        open_to_verify(book, keyless=keyless) as opened,
        acting_as(opened, actor, purpose),
        watched("backtest", as_json) as progress,
    ):
        report = opened.backtest(
            file,
            baseline=baseline,
            unfunded=unfunded.value,
            order=order.value,
            since=since,
            executor=None if executor is None else executor.value,
            customers=customers,
            record=record,
            progress=progress,
        )
        difference = report.explain(the_customer(opened, explain)) if explain else None
        if report_file is not None:
            write_new(report_file, report.html())

    def show() -> None:
        show_backtest(report)
        if explain:
            _show_difference(explain, difference)
        for written in filter(None, (report_file, customers)):
            out.print(f"Written: {written}", markup=False)

    answer = report.as_dict()
    if explain:
        answer["explain"] = None if difference is None else asdict(difference)
    tell(answer, as_json, show)


def show_backtest(report: Backtest) -> None:
    """A backtest as tables."""
    out.print(
        f"{report.candidate} against {report.baseline}: {report.facts:,} facts, {report.accounts:,} accounts. "
        "Behaviour is assumed unchanged."
    )
    show_left_out(report.restricted, report.objecting)
    show_matrix(report)
    show_table(
        "Points",
        ["", *SIDES, "change"],
        [
            (name, f"{was:,}", f"{now:,}", changed(was, now))
            for name in TOTALS
            for was, now in [(getattr(report.before, name), getattr(report.after, name))]
        ],
        [*SIDES, "change"],
    )
    out.print(
        f"{report.moved_up:,} move up, {report.moved_down:,} move down; {report.gain_points:,} have more points, "
        f"{report.lose_points:,} fewer; something is decided otherwise for {report.changed:,}. Redemptions: "
        f"{report.unfunded_redemptions:,} could no longer be paid"
        f"{f' ({report.short_points:,} points are lacking)' if report.short_points else ''}, "
        f"{report.newly_funded_redemptions:,} that were refused could."
    )
    show_table("By year: baseline → candidate", ["year", *MONTHLY], _years(report.months), MONTHLY)
    show_table(
        "Rules: baseline → candidate",
        ["rule", "points", "times"],
        [(one.rule, _pair(one.points), _pair(one.times)) for one in report.rules],
        ["points", "times"],
    )
    for dimension, found in report.classes.items():
        title, text = DIMENSIONS[dimension]
        show_table(
            f"{title}. {text}",
            ["", "accounts", "up", "down", "more", "fewer", "otherwise", "outstanding"],
            [
                (
                    class_name(dimension, one.name),
                    f"{one.accounts:,}",
                    *(f"{getattr(one, what):,}" for what in COUNTS),
                    _pair(one.outstanding),
                )
                for one in found
            ],
            ["accounts", "up", "down", "more", "fewer", "otherwise", "outstanding"],
        )
    for title, movers in (("Who gains most", report.gained), ("Who loses most", report.lost)):
        show_table(
            title,
            ["customer", "tier", "points", "change"],
            [(one.customer_id, _tiers(one), _pair(_points(one)), f"{one.change:+,}") for one in movers[:MOVERS_SHOWN]],
            ["points", "change"],
        )
    for line in rests_on(report):
        out.print(line, markup=False)
    for name, value in made_of(report).items():
        out.print(f"{name}: {value}", markup=False)


def show_matrix(report: Backtest) -> None:
    """Who would be in which tier."""
    tiers = report.tiers
    show_table(
        "Tier under the baseline (rows) and under the candidate (columns)",
        ["", *tiers],
        [[tier, *[f"{report.matrix.get(tier, {}).get(other, 0):,}" for other in tiers]] for tier in tiers],
        tiers,
    )


def _show_difference(customer: str, difference: Difference | None) -> None:
    if difference is None:
        out.print(f"Nothing differs for {customer}.", markup=False)
        return
    out.print(
        f"First difference for {customer}: {difference.fact} on {from_us(difference.effective_us):%Y-%m-%d}, "
        f"position {difference.position}",
        markup=False,
    )
    for label, decisions in (("baseline", difference.baseline), ("candidate", difference.candidate)):
        for decision in decisions or ("nothing",):
            out.print(f"  {label:9}  {decision}", markup=False)


def _pair(pair: tuple[int, int]) -> str:
    return f"{pair[0]:,} → {pair[1]:,}"


def _points(mover: Mover) -> tuple[int, int]:
    return mover.outstanding_before, mover.outstanding_after


def _tiers(mover: Mover) -> str:
    return mover.tier_before if mover.tier_before == mover.tier_after else f"{mover.tier_before} → {mover.tier_after}"


def _years(months: tuple[Month, ...]) -> list[tuple[str, ...]]:
    """Months by year: what was earned, redeemed and expired in it, and outstanding at its end."""
    years: defaultdict[str, list[Month]] = defaultdict(list)
    for one in months:
        years[one.month[:4]].append(one)

    def total(of: list[Month], what: str) -> tuple[int, int]:
        if what == "outstanding":
            return of[-1].outstanding
        before, after = zip(*(getattr(one, what) for one in of), strict=True)
        return sum(before), sum(after)

    return [(year, *(_pair(total(of, what)) for what in MONTHLY)) for year, of in years.items()]
