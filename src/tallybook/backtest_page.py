"""A backtest as a report: figures, tables with charts, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from tallybook.adapters.reports import Chart, ChartKind, Column, Figure, Kind, Report, Section
from tallybook.projections.backtest import ASSUMED, HINDSIGHT, Backtest, Class, Mover
from tallybook.projections.backtest_tables import MONTHLY, TOTALS

from .times import iso

SIDES = ("baseline", "candidate")
UNFUNDED = {
    "reject": "What was paid and can't be funded now is refused, and counted.",
    "clamp": "What was paid and can't be funded now takes what is there.",
    "deficit": "What was paid and can't be funded now is paid all the same; what is lacking becomes a debt.",
}
ORDERS = {
    "canonical": "Facts count as they became known to the book, without looking ahead.",
    "hindsight": "Facts count as if each had been known when it happened.",
}
DIMENSIONS = {
    "value": ("By value", "What the customer bought in all, in minor units of the programme's currency."),
    "joined": ("By year joined", "The year in which the account was opened."),
    "channel": ("By channel", "The channel of most of the customer's purchases."),
}


def page(report: Backtest, made_us: int) -> Report:
    """The whole report."""
    sections = (
        _in_short(report),
        _tiers(report),
        _points(report),
        _months(report),
        _rules(report),
        *(_classes(*DIMENSIONS[dimension], dimension, found) for dimension, found in report.classes.items()),
        _movers("Who gains most", report.gained),
        _movers("Who loses most", report.lost),
        Section(
            "What this rests on",
            "\n".join(rests_on(report)),
            (Column("what"), Column("is")),
            [*made_of(report).items()],
        ),
    )
    shortly = {
        "candidate": report.candidate,
        "baseline": report.baseline,
        "book": f"{report.book}, position {report.position:,}",
        "digest": report.digest(),
    }
    return Report(f"Backtest of {report.candidate}", iso(made_us) or "", shortly, sections)


def made_of(report: Backtest) -> dict[str, str]:
    """What a backtest was made of, to make it again."""
    kept = {
        "candidate": f"{report.candidate}, sha256 {report.candidate_digest}",
        "baseline": report.baseline + (f", sha256 {report.baseline_digest}" if report.baseline_digest else ""),
        "digest of the report": report.digest(),
        "digest of all accounts": report.outcomes,
        "book": report.book,
        "checkpoint": f"{report.position:,} events, root {report.root}",
        "facts": f"{report.facts:,}",
        "redemptions": report.unfunded,
        "order": report.order,
        "candidate in force": "always" if report.since_us is None else f"from {iso(report.since_us)} on",
        "executor": report.executor + (f": {report.why}" if report.why else ""),
        "Tallybook": f"{report.release}, sha256 of what reckons {report.code}",
        "took": f"{report.seconds:.1f} s, at most {report.peak_bytes / 2**20:,.0f} MiB of memory",
    }
    return {name: value for name, value in kept.items() if value}


def rests_on(report: Backtest) -> list[str]:
    """What is assumed, and who is left out."""
    told = [ASSUMED, UNFUNDED[report.unfunded], "What was refused and can be paid now is paid, and counted."]
    told.append(ORDERS[report.order])
    if report.order == HINDSIGHT:
        told.append("This is not what the book would have decided.")
    if report.since_us is not None:
        told.append(f"Before {iso(report.since_us)}, the recorded rule sets are in force on both sides.")
    told.append("What was known of a customer stays as it was known when each fact was recorded.")
    if report.restricted or report.objecting:
        told.append(
            f"Left out: {report.restricted:,} customers whose data is restricted, {report.objecting:,} who object to "
            "automated decisions."
        )
    return told


def changed(before: int, after: int) -> str:
    """By how much a figure changes."""
    share = f" ({(after - before) / before:+.1%})" if before else ""
    return f"{after - before:+,}{share}"


def class_name(dimension: str, name: str) -> str:
    """A class as people read it."""
    return f"from {int(name):,}" if dimension == "value" else name or "(none)"


def _in_short(report: Backtest) -> Section:
    before, after = report.before, report.after
    against = report.baseline if report.baseline_digest else "the rule sets as recorded"

    def accounts(count: int) -> str:
        return f"{count / report.accounts:.1%} of accounts" if report.accounts else ""

    def points(name: str, title: str) -> Figure:
        was, now = getattr(before, name), getattr(after, name)
        return Figure(title, f"{now:,}", f"{changed(was, now)} against {was:,}")

    return Section(
        "In short",
        f"{report.candidate} against {against}, for {report.accounts:,} accounts. {ASSUMED}",
        figures=(
            Figure("move up a tier", f"{report.moved_up:,}", accounts(report.moved_up)),
            Figure("move down a tier", f"{report.moved_down:,}", accounts(report.moved_down)),
            Figure("have more points", f"{report.gain_points:,}", accounts(report.gain_points)),
            Figure("have fewer points", f"{report.lose_points:,}", accounts(report.lose_points)),
            points("earned", "points earned"),
            points("redeemed", "points redeemed"),
            points("expired", "points expired"),
            points("outstanding", "points outstanding"),
            Figure(
                "redemptions not funded",
                f"{report.unfunded_redemptions:,}",
                f"lacking {report.short_points:,} points" if report.short_points else "were paid",
            ),
            Figure("redemptions newly funded", f"{report.newly_funded_redemptions:,}", "were refused"),
            Figure("decided otherwise", f"{report.changed:,}", accounts(report.changed)),
        ),
    )


def _tiers(report: Backtest) -> Section:
    label = "tier under the baseline"
    rows = [(tier, *(report.matrix.get(tier, {}).get(other, 0) for other in report.tiers)) for tier in report.tiers]
    return Section(
        "Tiers",
        "Accounts by their tier under the baseline (rows) and under the candidate (columns).",
        (Column(label), *(Column(tier, Kind.COUNT) for tier in report.tiers)),
        rows,
        Chart(ChartKind.MATRIX, label, report.tiers, "Accounts: baseline down, candidate across"),
    )


def _points(report: Backtest) -> Section:
    rows = []
    for name in TOTALS:
        was, now = getattr(report.before, name), getattr(report.after, name)
        rows.append((name, was, now, now - was))
    return Section(
        "Points",
        "Points of all accounts at the end. Outstanding points are what is owed to customers.",
        (Column("points"), *(Column(side, Kind.COUNT) for side in (*SIDES, "change"))),
        rows,
        Chart(ChartKind.BARS, "points", SIDES, "Points"),
    )


def _months(report: Backtest) -> Section:
    names = [f"{what}, {side}" for what in MONTHLY for side in SIDES]
    kind = ChartKind.LINE if len(report.months) > 1 else ChartKind.BARS
    return Section(
        "Months",
        "Points earned, redeemed and expired in each month, and outstanding at its end.",
        (Column("month"), *(Column(name, Kind.COUNT) for name in names)),
        [(one.month, *(points for what in MONTHLY for points in getattr(one, what))) for one in report.months],
        tuple(
            Chart(kind, "month", tuple(f"{what}, {side}" for side in SIDES), f"Points {what}", SIDES)
            for what in MONTHLY
        ),
    )


def _rules(report: Backtest) -> Section:
    columns = [f"{what}, {side}" for what in ("points", "times") for side in SIDES]
    rows = sorted(report.rules, key=lambda one: (-max(one.points), one.rule))
    return Section(
        "Rules",
        "What each earning rule gave, and how often. Of a multiplier: the points that it multiplied.",
        (Column("rule"), *(Column(name, Kind.COUNT) for name in columns)),
        [(one.rule, *one.points, *one.times) for one in rows],
        Chart(ChartKind.BARS, "rule", ("points, baseline", "points, candidate"), "Points", SIDES),
    )


_COUNTED = {
    "moved_up": "up",
    "moved_down": "down",
    "gain_points": "more",
    "lose_points": "fewer",
    "changed": "otherwise",
}


def _classes(title: str, text: str, dimension: str, found: Sequence[Class]) -> Section:
    points = tuple(f"points, {side}" for side in SIDES)
    return Section(
        title,
        f"{text} How many move up or down, have more or fewer points outstanding, are decided about otherwise.",
        (
            Column(title[3:]),
            Column("accounts", Kind.COUNT),
            *(Column(name, Kind.COUNT) for name in _COUNTED.values()),
            *(Column(name, Kind.COUNT) for name in points),
        ),
        [
            (
                class_name(dimension, one.name),
                one.accounts,
                *(getattr(one, what) for what in _COUNTED),
                *one.outstanding,
            )
            for one in found
        ],
        (
            Chart(ChartKind.BARS, title[3:], points, "Points outstanding", SIDES),
            Chart(ChartKind.BARS, title[3:], ("fewer", "more"), "Accounts with other points"),
        ),
    )


def _movers(title: str, movers: Sequence[Mover]) -> Section:
    return Section(
        title,
        "The accounts whose points outstanding change most.",
        (
            Column("customer", Kind.ID),
            *(Column(f"tier, {side}") for side in SIDES),
            *(Column(name, Kind.COUNT) for name in (*(f"points, {side}" for side in SIDES), "change")),
        ),
        [
            (
                one.customer_id,
                one.tier_before,
                one.tier_after,
                one.outstanding_before,
                one.outstanding_after,
                one.change,
            )
            for one in movers
        ],
    )
