"""`tallybook erase` and `tallybook erasures`: what is personal goes, and a receipt says so."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .cli_privacy import At, Subject
from .erasures import ErasurePreview, ErasureReceipt
from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    Purpose,
    acting_in,
    check_new,
    err,
    in_json,
    open_book,
    out,
    show_table,
    tell,
    the_customer,
    write_new,
)

erasure_app = typer.Typer()
erasures_app = typer.Typer(help="Who was erased, and the receipts of it.", no_args_is_help=True)
erasure_app.add_typer(erasures_app, name="erasures")

ReceiptFile = Annotated[Path | None, typer.Option("--receipt", help="Write the receipt to this file, as JSON")]


@erasure_app.command("erase")
def erase(
    subject: Subject,
    book: BookUrl,
    reason: Annotated[str, typer.Option("--reason", help="Why, as a code without spaces: gdpr-17")],
    request: Annotated[str | None, typer.Option("--request", help="Id of the data-subject request")] = None,
    even_so: Annotated[
        str | None,
        typer.Option("--even-so", help="Why, as a code, although the data is restricted or another request is open"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would go, what be kept, and what is in the way")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask; needed where nobody is at a terminal")] = False,
    receipt: ReceiptFile = None,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Erase a customer: destroy the key, so that no personal value can be opened again. There is no way back."""
    check_new(receipt)
    if not (dry_run or yes or at_a_terminal()):
        raise typer.BadParameter("there is no way back, and nobody to ask: give it", param_hint="--yes")
    with acting_in(book, actor, purpose) as opened:
        customer = the_customer(opened, subject)
        if dry_run:
            preview = opened.erasures.preview(customer)
            tell(preview, as_json, lambda: _show(preview))
            return
        if not yes:
            err.print(f"{customer} is erased for ever: --dry-run tells what goes. There is no way back.")
            typer.confirm("Erase?", abort=True, err=True)
        found = opened.erasures.erase(customer, reason=reason, request_id=request, even_so=even_so, effective_at=at)
    _answer(found, receipt, as_json)


def at_a_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty()


def _show(preview: ErasurePreview) -> None:
    rows = [("goes", category, f"{count:,}") for category, count in preview.goes.items()]
    rows += [(f"kept until {preview.kept_until}", category, f"{count:,}") for category, count in preview.kept.items()]
    show_table(f"An erasure of {preview.customer_id}", ["what", "category", "values"], rows, ["values"])
    out.print(f"{preview.lookups:,} look-ups (external ids, order ids) would be removed. Nothing was erased.")
    for reason in preview.because:
        out.print(f"In the way: {reason}.", markup=False)


@erasures_app.command("list")
def erasures_list(book: BookUrl, as_json: AsJson = False) -> None:
    """Who was erased, in the order of the erasures."""
    with open_book(book, create=False) as opened:
        found = opened.erasures.entries()
    tell(
        [asdict(one) for one in found],
        as_json,
        lambda: show_table(
            "Erased",
            ["subject", "position", "erased", "actor", "reason", "request"],
            [(one.customer_id, one.position, one.erased_at, one.actor, one.reason, one.request_id) for one in found],
            ["position"],
        ),
    )


@erasures_app.command("show")
def erasures_show(
    subject: Annotated[str, typer.Argument(help="The customer's id")],
    book: BookUrl,
    receipt: ReceiptFile = None,
    as_json: AsJson = False,
) -> None:
    """The receipt of an erasure, with a proof of today."""
    with open_book(book, create=False) as opened:
        found = opened.erasures.receipt(subject)
    _answer(found, receipt, as_json)


def _answer(receipt: ErasureReceipt, file: Path | None, as_json: bool) -> None:
    if file is not None:
        write_new(file, in_json(receipt) + "\n")

    def show() -> None:
        out.print(f"{receipt.subject} was erased at {receipt.erased_at} by {receipt.actor}: {receipt.reason}.")
        if receipt.even_so is not None:
            out.print(f"Something stood in the way; erased even so: {receipt.even_so}.")
        out.print(f"Position {receipt.position} of {receipt.origin}, event {receipt.event_id}.")
        rows = [(what, how) for what, how in receipt.done.items()]
        rows.append(("look-ups removed", str(receipt.lookups)))
        if receipt.unfinished:
            waits = ", ".join(receipt.unfinished)
            rows.append(("unfinished", f"{waits}: the next opening of the book, or erasure, goes on with it"))
        rows += [(f"commitment to key {key_id}", value) for key_id, value in receipt.commitments.items()]
        if receipt.kept:
            rows.append(("kept by law", f"{receipt.kept} values until {receipt.kept_until}"))
        show_table("What was done", ["what", "how"], rows)
        if receipt.proof is not None:
            out.print(receipt.proof, markup=False)

    tell(receipt, as_json, show)
