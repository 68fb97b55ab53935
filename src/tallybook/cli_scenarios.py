"""`tallybook backtest-sweep` and `tallybook shadow`: many candidates on one history; one beside the adopted rules."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from time import sleep
from typing import Annotated

import typer

from tallybook.domain.events import from_us
from tallybook.projections.backtest import ASSUMED, Difference
from tallybook.projections.sweep import Sweep

from .cli_backtest import BaselineFile, ByExecutor, InForceSince, InOrder, Order, Unfunded, WhatOfUnfunded
from .terminal import (
    AsJson,
    BookUrl,
    Keyless,
    open_book,
    open_to_verify,
    out,
    print_json,
    show_left_out,
    show_table,
    tell,
    watched,
)

scenarios_app = typer.Typer()
WAIT_S = 1.0
"""How often a shadow looks for facts that came."""


@scenarios_app.command("backtest-sweep")
def backtest_sweep(
    file: Annotated[Path, typer.Argument(help="A TOML file: candidates, or one and the values that are varied")],
    book: BookUrl,
    baseline: BaselineFile = None,
    budget: Annotated[
        int | None, typer.Option("--budget", min=0, help="Points that a scenario may give beyond the baseline")
    ] = None,
    unfunded: WhatOfUnfunded = Unfunded.REJECT,
    order: InOrder = Order.CANONICAL,
    since: InForceSince = None,
    executor: ByExecutor = None,
    keyless: Keyless = False,
    as_json: AsJson = False,
) -> None:
    """Try many candidates on the same history, loaded once: what each costs, who moves, which are efficient."""
    with open_to_verify(book, keyless=keyless) as opened, watched("sweep", as_json) as progress:
        sweep = opened.backtest_sweep(
            file,
            baseline=baseline,
            budget=budget,
            unfunded=unfunded.value,
            order=order.value,
            since=since,
            executor=None if executor is None else executor.value,
            progress=progress,
        )
    tell(sweep.as_dict(), as_json, lambda: _show_sweep(sweep))


def _show_sweep(sweep: Sweep) -> None:
    out.print(
        f"{len(sweep.scenarios):,} scenarios against {sweep.baseline}: {sweep.facts:,} facts, "
        f"{sweep.accounts:,} accounts, by the {sweep.executor} executor."
    )
    out.print(ASSUMED)
    show_left_out(sweep.restricted, sweep.objecting)
    names = ["scenario", "cost", "liability", "up", "down", "unfunded"]
    names += [] if sweep.budget is None else ["budget"]
    show_table(
        "Scenarios (* efficient: no other costs as little, leaves as little liability and moves as many up)",
        names,
        [
            (
                f"{'* ' if one.efficient else '  '}{one.name}",
                f"{one.cost:+,}",
                f"{one.liability:,}",
                f"{one.moved_up:,}",
                f"{one.moved_down:,}",
                f"{one.unfunded_redemptions:,}",
                *([] if one.within_budget is None else ["within" if one.within_budget else "beyond"]),
            )
            for one in sweep.scenarios
        ],
        names[1:6],
    )


@scenarios_app.command("shadow")
def shadow(
    file: Annotated[Path, typer.Argument(help="The candidate: a TOML file, or standard, candidate")],
    book: BookUrl,
    kept: Annotated[
        Path | None, typer.Option("--file", help="Keep what is found in this file (JSON lines), and go on from it")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="From when on the candidate is in force (default: now)"),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for more facts, or end")] = True,
    as_json: AsJson = False,
) -> None:
    """Run a candidate beside the adopted rules: where it would decide otherwise, as facts come. Records nothing."""
    with open_book(book, create=False) as opened, opened.shadow(file, since=since, file=kept) as running:
        while True:
            for difference in running.catch_up():
                if as_json:
                    print_json(_line(difference))
                else:
                    _show(difference)
            if not wait:
                break
            sleep(WAIT_S)
        status = running.status()
    if not as_json:
        adopted, candidate = status.outstanding
        out.print(
            f"{status.candidate}: {status.facts:,} facts of {status.customers:,} customers up to position "
            f"{status.position:,}; {status.differences:,} decided otherwise. Points outstanding: {adopted:,} as "
            f"adopted, {candidate:,} under the candidate; {status.tiers:,} accounts in another tier.",
            markup=False,
        )


def _line(difference: Difference) -> str:
    from pydantic_core import to_json

    return to_json(asdict(difference)).decode()


def _show(difference: Difference) -> None:
    out.print(
        f"{difference.position} {from_us(difference.effective_us):%Y-%m-%d} {difference.fact} of "
        f"{difference.customer_id}",
        markup=False,
    )
    for label, decisions in (("adopted", difference.baseline), ("candidate", difference.candidate)):
        for decision in decisions or ("nothing",):
            out.print(f"  {label:9}  {decision}", markup=False)
