"""`tallybook erase` and `tallybook erasures`: what is personal goes, and a receipt says so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_privacy import At, Subject
from .erasures import ErasureReceipt
from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    Purpose,
    acting_in,
    in_json,
    open_book,
    out,
    show_table,
    tell,
    the_customer,
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
    receipt: ReceiptFile = None,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Erase a customer: destroy the key, so that no personal value can be opened again. There is no way back."""
    with acting_in(book, actor, purpose) as opened:
        found = opened.erasures.erase(the_customer(opened, subject), reason=reason, request_id=request, effective_at=at)
    _answer(found, receipt, as_json)


@erasures_app.command("list")
def erasures_list(book: BookUrl, as_json: AsJson = False) -> None:
    """Who was erased, in the order of the erasures."""
    with open_book(book, create=False) as opened:
        found = opened.erasures.all()
    tell(found, as_json, lambda: show_table("Erased", ["subject"], [(one,) for one in found]))


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
        file.write_text(in_json(receipt) + "\n", encoding="utf-8")

    def show() -> None:
        out.print(f"{receipt.subject} was erased at {receipt.erased_at} by {receipt.actor}: {receipt.reason}.")
        out.print(f"Position {receipt.position} of {receipt.origin}, event {receipt.event_id}.")
        rows = [(what, how) for what, how in receipt.done.items()]
        rows.append(("look-ups removed", str(receipt.lookups)))
        if receipt.unfinished:
            rows.append(("unfinished", f"{', '.join(receipt.unfinished)}: `tallybook erasures show` goes on with it"))
        rows += [(f"commitment to key {key_id}", value) for key_id, value in receipt.commitments.items()]
        if receipt.kept:
            rows.append(("kept by law", f"{receipt.kept} values until {receipt.kept_until}"))
        show_table("What was done", ["what", "how"], rows)
        if receipt.proof is not None:
            out.print(receipt.proof, markup=False)

    tell(receipt, as_json, show)
