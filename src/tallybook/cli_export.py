"""`tallybook export` and `tallybook audit export`: what leaves the book for tools of others."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tallybook.domain.errors import refusal

from .cli_audit import audit_app
from .exports import ExportReport
from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    Keyless,
    Purpose,
    acting_as,
    acting_in,
    open_to_verify,
    out,
    tell,
    watched,
)

export_app = typer.Typer(
    help="The book in forms that other tools read. No personal values; each is recorded.", no_args_is_help=True
)

Target = Annotated[Path, typer.Argument(help="The file to write", show_default=False)]
After = Annotated[int, typer.Option("--after", min=0, help="Only what follows this position")]
Until = Annotated[int | None, typer.Option("--until", min=0, help="Only up to this position (default: the head)")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the file if it is there")]


class LogChoice(StrEnum):
    """Which log."""

    EVENTS = "events"
    READS = "reads"
    BOTH = "both"


class OcelForm(StrEnum):
    """How an OCEL log is written."""

    JSON = "json"
    SQLITE = "sqlite"


def _tell(report: ExportReport, as_json: bool) -> None:
    def show() -> None:
        out.print(
            f"{report.file}: {report.count:,} entries, {report.format}, {report.bytes:,} bytes\nsha256 {report.digest}",
            markup=False,
        )

    tell(report, as_json, show)


@export_app.command("cloudevents")
def export_cloudevents(
    file: Target,
    book: BookUrl,
    batch: Annotated[bool, typer.Option("--batch", help="One JSON array in the place of JSON lines")] = False,
    after: After = 0,
    until: Until = None,
    replace: Replace = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Write the events as CloudEvents 1.0, for a broker: clear fields, and the names of personal ones."""
    with acting_in(book, actor, purpose) as opened, watched("export", as_json) as bar:
        report = opened.exports.cloudevents(file, after=after, until=until, batch=batch, replace=replace, progress=bar)
    _tell(report, as_json)


@export_app.command("ocsf")
def export_ocsf(
    file: Target,
    book: BookUrl,
    log: Annotated[LogChoice, typer.Option("--log", help="Which log")] = LogChoice.BOTH,
    after: After = 0,
    until: Until = None,
    replace: Replace = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Write events and recorded reads as OCSF 1.8 JSON lines, for security monitoring."""
    with acting_in(book, actor, purpose) as opened, watched("export", as_json) as bar:
        report = opened.exports.ocsf(file, log=log.value, after=after, until=until, replace=replace, progress=bar)
    _tell(report, as_json)


@export_app.command("ocel")
def export_ocel(
    file: Target,
    book: BookUrl,
    form: Annotated[
        OcelForm | None, typer.Option("--format", help="json or sqlite (default: by the file's name)")
    ] = None,
    after: After = 0,
    until: Until = None,
    replace: Replace = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Write customers, tickets, loyalty accounts and orders with their events as OCEL 2.0, for process mining."""
    if form is None:
        found = {".json": OcelForm.JSON, ".jsonocel": OcelForm.JSON, ".sqlite": OcelForm.SQLITE}.get(file.suffix)
        if found is None:
            raise refusal(
                "invalid_argument",
                f"{file.name} tells no form; give --format json or --format sqlite.",
                argument="file",
            )
        form = found
    with acting_in(book, actor, purpose) as opened, watched("export", as_json) as bar:
        report = opened.exports.ocel(
            file, sqlite=form is OcelForm.SQLITE, after=after, until=until, replace=replace, progress=bar
        )
    _tell(report, as_json)


@audit_app.command("export")
def audit_export(
    folder: Annotated[Path, typer.Argument(help="A folder that is new or empty", show_default=False)],
    book: BookUrl,
    clear: Annotated[bool, typer.Option("--clear", help="Open personal fields: one recorded bulk read")] = False,
    after: After = 0,
    until: Until = None,
    keyless: Keyless = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Write an auditor's pack: both logs as Merkle tiles with signed checkpoints, events, rules, a verifier."""
    with (
        open_to_verify(book, keyless=keyless) as opened,
        acting_as(opened, actor, purpose),
        watched("export", as_json) as bar,
    ):
        packed = opened.audit.export(folder, sealed=not clear, after=after, until=until, progress=bar)

    which = f"events {packed.first:,} to {packed.last:,}" if packed.last >= packed.first else "no events"

    def show() -> None:
        out.print(
            f"{packed.folder}: {which} of {packed.size:,}, {packed.reads:,} reads, "
            f"personal fields {packed.personal}, {packed.files:,} files\nroot {packed.root}\nsha256 {packed.digest}\n"
            "Give the log's key to the auditor by another way than this pack.",
            markup=False,
        )

    tell(asdict(packed), as_json, show)
