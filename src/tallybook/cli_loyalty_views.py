"""`tallybook loyalty`, of whole programmes: balances, what expires, what is outstanding, and figures."""

from __future__ import annotations

from typing import Annotated

import typer

from tallybook.adapters.reports import Kind, shown
from tallybook.domain.points import BUCKETS
from tallybook.projections.programme import Difference, Share

from .cli_loyalty import Programme, loyalty_app
from .loyalty_views import CampaignEffect, ProgrammeFigures
from .terminal import (
    Actor,
    AsJson,
    AsOf,
    BookUrl,
    KnownAt,
    Purpose,
    acting_in,
    known_moment,
    open_book,
    out,
    show_left_out,
    show_table,
    tell,
    the_customer,
)

Since = Annotated[str | None, typer.Option("--since", help="First day, in the programme's zone: 2025-01-01")]
Until = Annotated[str | None, typer.Option("--until", help="Last day, in the programme's zone: 2025-12-31")]
Margin = Annotated[
    str | None, typer.Option("--margin", help="What of the net amount is left after the cost of goods: 0.35")
]
PointCost = Annotated[
    str | None,
    typer.Option("--point-cost", help="What a redeemed point costs, in minor units; by default the rule set's price"),
]


@loyalty_app.command("balances")
def balances(
    book: BookUrl,
    programme: Programme = "main",
    as_of: AsOf = None,
    known_at: KnownAt = None,
    as_json: AsJson = False,
) -> None:
    """The points of all accounts by bucket."""
    with open_book(book, create=False) as opened:
        found = opened.loyalty.balances(programme=programme, as_of=as_of, known_at=known_moment(known_at))
    rows = [(bucket, f"{getattr(found, bucket):,}") for bucket in BUCKETS]
    title = f"Points of {programme} as of {found.as_of}; swept until {found.swept_until or 'never'}"
    tell(found, as_json, lambda: show_table(title, ["bucket", "points"], rows, ["points"]))


@loyalty_app.command("outstanding")
def outstanding(
    book: BookUrl,
    programme: Programme = "main",
    as_of: AsOf = None,
    known_at: KnownAt = None,
    as_json: AsJson = False,
) -> None:
    """Points that customers have, by the month in which they were earned and the tier."""
    with open_book(book, create=False) as opened:
        found = opened.loyalty.outstanding(programme=programme, as_of=as_of, known_at=known_moment(known_at))

    def show() -> None:
        show_table(
            f"Outstanding points of {programme} as of {found.as_of}, by month in {found.zone}",
            ["earned in", "tier", "pending", "active", "held"],
            [
                *((one.earned_in, one.tier, *_counts(one.pending, one.active, one.held)) for one in found.rows),
                ("all", "", *_counts(found.pending, found.active, found.held)),
            ],
            ["pending", "active", "held"],
        )
        if found.overdue:
            out.print(f"{found.overdue:,} more are over, and no sweep has recorded it yet: `tallybook sweep`.")

    tell(found, as_json, show)


@loyalty_app.command("expiring")
def expiring(
    book: BookUrl,
    until: Annotated[str, typer.Option("--until", help="By the end of that day in the programme's zone, or by a time")],
    everybody: Annotated[
        bool, typer.Option("--everybody", help="With those whose data is restricted, or who object: for bookkeeping")
    ] = False,
    programme: Programme = "main",
    as_of: AsOf = None,
    known_at: KnownAt = None,
    as_json: AsJson = False,
) -> None:
    """Who loses points soon: without those whose data is restricted, or who object, who are counted."""
    with open_book(book, create=False) as opened:
        found = opened.loyalty.expiring(
            until, programme=programme, as_of=as_of, known_at=known_moment(known_at), everybody=everybody
        )

    def show() -> None:
        days = [(day, f"{points:,}") for day, points in found.by_day.items()]
        show_table(f"Points of {programme} that expire until {found.until}", ["day", "points"], days, ["points"])
        show_table(
            "Customers",
            ["customer", "points", "first at", "why"],
            [(one.customer_id, f"{one.points:,}", one.first_at, one.reason) for one in found],
            ["points"],
        )
        show_left_out(found.restricted, found.objecting)

    tell(
        {
            "until": found.until,
            "points": found.points,
            "by_day": found.by_day,
            "customers": list(found),
            "restricted": found.restricted,
            "objecting": found.objecting,
        },
        as_json,
        show,
    )


@loyalty_app.command("figures")
def figures(
    book: BookUrl,
    since: Annotated[str, typer.Option("--since", help="First day, in the programme's zone: 2025-01-01")],
    until: Annotated[str, typer.Option("--until", help="Last day, in the programme's zone: 2025-12-31")],
    programme: Programme = "main",
    margin: Margin = None,
    point_cost: PointCost = None,
    known_at: KnownAt = None,
    as_json: AsJson = False,
) -> None:
    """A programme from day to day: members beside others, who takes part, points, what they cost."""
    with open_book(book, create=False) as opened:
        found = opened.loyalty.programme_figures(
            since, until, programme=programme, margin=margin, point_cost=point_cost, known_at=known_moment(known_at)
        )
    tell(found, as_json, lambda: _show_figures(found))


@loyalty_app.command("campaign")
def campaign(
    book: BookUrl,
    name: Annotated[str, typer.Argument(help="The campaign, as rules name it")],
    since: Since = None,
    until: Until = None,
    programme: Programme = "main",
    margin: Margin = None,
    point_cost: PointCost = None,
    known_at: KnownAt = None,
    as_json: AsJson = False,
) -> None:
    """What a campaign changed, against its control group."""
    with open_book(book, create=False) as opened:
        found = opened.loyalty.campaign_effect(
            name,
            since=since,
            until=until,
            programme=programme,
            margin=margin,
            point_cost=point_cost,
            known_at=known_moment(known_at),
        )
    tell(found, as_json, lambda: _show_campaign(found))


@loyalty_app.command("rewards")
def rewards(
    book: BookUrl,
    since: Since = None,
    until: Until = None,
    programme: Programme = "main",
    known_at: KnownAt = None,
    as_json: AsJson = False,
) -> None:
    """How often each reward was redeemed, and what became of its coupons."""
    with open_book(book, create=False) as opened:
        found = opened.loyalty.reward_popularity(since, until, programme=programme, known_at=known_moment(known_at))
    numbers = ["redemptions", "share", "customers", "points", "returned", "issued", "used", "voided", "expired"]
    rows = [
        (
            one.reward,
            f"{one.redemptions.part:,}",
            _share(one.redemptions),
            *_counts(
                one.customers, one.points, one.returned_points,
                one.coupons_issued, one.coupons_used, one.coupons_voided, one.coupons_expired,
            ),
            ", ".join(f"{code} {count:,}" for code, count in one.refused.items()),
        )
        for one in found.rewards
    ]  # fmt: skip
    title = f"Rewards of {programme} from {found.since or 'the beginning'} to {found.until}; coupons from issued on"
    tell(found, as_json, lambda: show_table(title, ["reward", *numbers, "refused"], rows, numbers))


@loyalty_app.command("standing")
def standing(
    book: BookUrl,
    customer: Annotated[str, typer.Argument(help="The customer's id, or system:external_id")],
    programme: Programme = "main",
    as_of: AsOf = None,
    known_at: KnownAt = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """A customer's tier, since when, member since when, and the tiers before."""
    with acting_in(book, actor, purpose) as opened:
        found = opened.tiers.standing(
            the_customer(opened, customer), programme=programme, as_of=as_of, known_at=known_moment(known_at)
        )

    def show() -> None:
        out.print(f"{found.tier} since {found.since}, member since {found.member_since}", markup=False)
        show_table(
            "Before",
            ["tier", "since", "until", "why", "rules", "qualifying"],
            [(one.tier, one.since, one.until, one.reason, one.rules, f"{one.qualifying:,}") for one in found.previous],
            ["qualifying"],
        )

    tell(found, as_json, show)


def _counts(*numbers: int) -> list[str]:
    return [f"{number:,}" for number in numbers]


def _share(share: Share) -> str:
    told = f"{share.part / share.whole:.1%}" if share.whole > 0 else "-"
    return f"{told} (few)" if share.few else told


def _money(minor: int | None, currency: str) -> str:
    return "-" if minor is None else shown((minor, currency), Kind.MONEY)


def _show_figures(found: ProgrammeFigures) -> None:
    currency, groups = found.currency, (found.members, found.others)

    def row(name: str, told: list[str]) -> tuple[str, ...]:
        return (name, *told)

    def money(name: str, of: str) -> tuple[str, ...]:
        return row(name, [_money(getattr(one, of), currency) for one in groups])

    show_table(
        f"{found.programme} from {found.since} to {found.until} ({found.zone}), by {found.rules}",
        ["", "members", "others"],
        [
            row("buyers", _counts(*(one.buyers for one in groups))),
            row("purchases", _counts(*(one.purchases for one in groups))),
            money("net", "net_minor"),
            money("net for each buyer", "per_buyer_minor"),
            money("net for each purchase", "per_purchase_minor"),
            row("repurchase", [_share(one.repurchase) for one in groups]),
            row(f"retention (from {found.before[0]})", [_share(one.retention) for one in groups]),
        ],
        ["members", "others"],
    )
    part, points = found.participation, found.points
    rows = [
        ("members of all customers, at the end", _share(part.members)),
        ("members who were active", _share(part.active)),
        ("enrolled, closed", ", ".join(_counts(part.enrolled, part.closed))),
        ("members' share of buyers", _share(part.buyers)),
        ("members' share of purchases", _share(part.purchases)),
        ("members' share of net", _share(part.net)),
        ("points earned, redeemed, expired", ", ".join(_counts(points.earned, points.redeemed, points.expired))),
        ("redeemed of earned", _share(points.redemption)),
    ]
    if found.cost is not None:
        rows += [
            (f"margin of members' net ({found.cost.margin})", _money(found.cost.margin_minor, currency)),
            (f"cost of redeemed points ({found.cost.point_cost})", _money(found.cost.redeemed_minor, currency)),
            ("that cost of that margin", _share(found.cost.cost)),
        ]
    show_table("Programme", ["figure", ""], rows, [""])
    if found.unconverted:
        out.print(f"{found.unconverted:,} purchases in currencies without a rate are not counted.")
    show_left_out(found.restricted, found.objecting)


def _show_campaign(found: CampaignEffect) -> None:
    currency, groups = found.currency, (found.treated, found.control)

    def row(name: str, told: list[str]) -> tuple[str, ...]:
        return (name, *told)

    show_table(
        f"{found.campaign} of {found.programme} from {found.since} to {found.until} ({found.zone})",
        ["", "treated", f"control ({found.control_percent} %)"],
        [
            row("accounts", _counts(*(one.accounts for one in groups))),
            row("got points by it", [_share(one.reached) for one in groups]),
            row("bought", [_share(one.buyers) for one in groups]),
            row("net", [_money(one.net_minor, currency) for one in groups]),
            row("net for each account", [_money(one.net_per_account_minor, currency) for one in groups]),
            row("points earned", _counts(*(one.points for one in groups))),
        ],
        ["treated", f"control ({found.control_percent} %)"],
    )
    if found.net_per_account is None or found.buyers is None:
        out.print("No control group was drawn, or nobody is in it: what it changed can't be told.")
    else:
        out.print(f"Net for each account: {_difference(found.net_per_account, currency)}", markup=False)
        out.print(f"Buyers, for 10,000 accounts: {_difference(found.buyers, None)}", markup=False)
    if found.additional_net_minor is not None:
        told = f"Additional net {_money(found.additional_net_minor, currency)}, points {found.additional_points:,}"
        if found.gain is not None:
            told += f"; margin less the cost of points {_money(found.gain.gain_minor, currency)}"
        out.print(told, markup=False)
    show_left_out(found.restricted, found.objecting)


def _difference(found: Difference, currency: str | None) -> str:
    def told(value: int) -> str:
        return f"{value:,}" if currency is None else _money(value, currency)

    verdict = "clear" if found.clear else "could be chance"
    return f"{told(found.estimate)} (from {told(found.low)} to {told(found.high)}: {verdict})"


__all__ = ["loyalty_app"]
