"""`tallybook audit`: integrity, and who did what."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    Purpose,
    acting_as,
    open_book,
    out,
    show_table,
    tell,
    the_customer,
    watched,
)

audit_app = typer.Typer(help="Integrity, and who did what.", no_args_is_help=True)


@audit_app.command("verify")
def audit_verify(book: BookUrl, as_json: AsJson = False) -> None:
    """Recompute the Merkle root of each log from the stored bytes. Exit 1 if a log was altered."""
    with open_book(book, create=False) as opened, watched("verify", as_json) as progress:
        found = opened.audit.verify(progress)

    def show() -> None:
        for one in found:
            verdict = "verified" if one.holds else f"NOT VERIFIED: {one.problem}"
            out.print(f"{one.log}: {one.size:,} leaves, root {one.root}: {verdict}", markup=False)

    tell([{**asdict(one), "holds": one.holds} for one in found], as_json, show)
    if not all(one.holds for one in found):
        raise typer.Exit(1)


@audit_app.command("trail")
def audit_trail(
    book: BookUrl,
    subject: Annotated[str | None, typer.Option("--subject", help="A customer's id, or system:external_id")] = None,
    by: Annotated[str | None, typer.Option("--by", help="Only what this actor did")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the last N entries")] = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Who did what, about whom, which fields, when, why. Names personal fields, opens none; is itself recorded."""
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        entries = opened.audit.trail(None if subject is None else the_customer(opened, subject), actor=by, limit=limit)
    tell(
        entries,
        as_json,
        lambda: show_table(
            "Audit trail",
            ["entry", "effective", "actor", "purpose", "action", "fields", "outcome", "why"],
            [
                (
                    f"{entry.log} {entry.position}",
                    entry.effective_at[:10],
                    entry.actor,
                    entry.purpose,
                    entry.action,
                    ", ".join(
                        [
                            *entry.fields,
                            *(f"{name} (masked)" for name in entry.masked),
                            *(f"{name} (withheld)" for name in entry.withheld),
                        ]
                    ),
                    entry.outcome,
                    entry.why,
                )
                for entry in entries
            ],
        ),
    )
