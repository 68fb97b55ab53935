"""`tallybook audit`: integrity, and who did what."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tallybook.adapters.integrity import Verification
from tallybook.adapters.reports import shown
from tallybook.adapters.rows_check import ReadModelVerification
from tallybook.domain.errors import Refused

from .book import Book
from .reviews import REVIEWS, Thresholds
from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    Keyless,
    KnownAt,
    Purpose,
    acting_in,
    check_new,
    err,
    known_moment,
    open_to_verify,
    out,
    print_json,
    show_report,
    show_table,
    tell,
    the_customer,
    watched,
    write_new,
)


def key_of(given: str) -> str:
    """A public key, which may lie in a file, as an option gives it."""
    path = Path(given)
    if "+" in given and not path.is_file():
        return given
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise typer.BadParameter(f"{given} is neither a public key nor a file of one", param_hint="--vkey") from None


audit_app = typer.Typer(help="Integrity, and who did what.", no_args_is_help=True)


@audit_app.command("verify")
def audit_verify(
    book: BookUrl,
    against: Annotated[
        Path | None, typer.Option("--against", help="A checkpoint that was kept elsewhere, of either log")
    ] = None,
    tsa_cert: Annotated[
        Path | None,
        typer.Option("--tsa-cert", help="Certificates (PEM) of the authority whose timestamp lies beside that (.tsr)"),
    ] = None,
    log_only: Annotated[bool, typer.Option("--log-only", help="Leave the rows of the read models out")] = False,
    vkey: Annotated[
        str | None,
        typer.Option("--vkey", help="A public key of the log, present or former, kept elsewhere: its text, or a file"),
    ] = None,
    keyless: Keyless = False,
    as_json: AsJson = False,
) -> None:
    """Recompute the Merkle root of each log from the stored bytes, and compare with its head, tiles and checkpoints;
    then fold the read models anew, and compare their rows. With --keyless it needs no data keys, and names what can't
    be checked without; give --vkey or --against then: else only the key that the database names is compared with.

    Exit 1 if a log or a row was altered.
    """
    stamped = None
    if tsa_cert is not None:
        if against is None:
            raise typer.BadParameter("needs --against", param_hint="--tsa-cert")
        from tallybook.adapters.timestamps import stamped_at

        token = against.with_name(against.name + ".tsr")
        if not token.is_file():
            raise typer.BadParameter(f"{token} is not there", param_hint="--tsa-cert")
        stamped = stamped_at(against.read_text("utf-8"), token.read_bytes(), tsa_cert).isoformat()
    key = None if vkey is None else key_of(vkey)
    with open_to_verify(book, keyless=keyless, signs=False) as opened, watched("verify", as_json) as progress:
        steps, lost = _from_key(opened, key)
        # A key that was kept is as good as the one that it leads to.
        now = None if key is None else key if lost is not None else opened.audit.vkeys()[-1]
        found = opened.audit.verify(progress, against=against, vkey=now)
        models = [] if log_only else opened.audit.verify_read_models(progress)

    def show() -> None:
        for one in found:
            by = "verified" if one.vouched else "verified, by the key that this database names"
            verdict = by if one.holds else f"NOT VERIFIED: {one.problem}"
            kept = f", rows after {one.pruned:,} (pruned up to there)" if one.pruned else ""
            out.print(f"{one.log}: {one.size:,} leaves{kept}, root {one.root}: {verdict}", markup=False)
            if one.unsigned_openings:
                out.print(f"{one.log}: the book was opened {one.unsigned_openings:,} times without its signing key.")
            for what in one.cosigned:
                out.print(f"{one.log}: cosigned: size {what}", markup=False)
            for what in one.unchecked:
                out.print(f"{one.log}: not checked without the data keys: {what}", markup=False)
        for model in models:
            verdict = "verified" if model.holds else f"NOT VERIFIED: {model.problem}"
            stands = f"{model.state}, {model.behind:,} events behind" if model.behind else model.state
            out.print(
                f"{model.read_model}: {model.rows:,} rows as of position {model.position:,} ({stands}): {verdict}",
                markup=False,
            )
        for step in steps:
            out.print(step, markup=False)
        if lost is not None:
            out.print(f"NOT VERIFIED: {lost}" if all(one.holds for one in found) else lost, markup=False)
        if stamped is not None:
            out.print(f"The timestamp authority saw the checkpoint at {stamped}.", markup=False)

    checks: list[Verification | ReadModelVerification] = [*found, *models]
    tell([{**asdict(one), "holds": one.holds} for one in checks], as_json, show)
    if as_json and lost is not None:
        err.print(f"NOT VERIFIED: {lost}", markup=False)
    if lost is not None or not all(one.holds for one in checks):
        raise typer.Exit(1)


def _from_key(book: Book, key: str | None) -> tuple[list[str], str | None]:
    """How a key that was kept elsewhere leads to the one that signs now, and why it does not."""
    if key is None:
        return [], None
    keys = book.audit.vkeys()
    if key not in keys:
        return [], f"{key} was never a key of this book; the present one is {keys[-1]}"
    steps: list[str] = []
    for one in book.audit.rotations()[keys.index(key) :]:
        if one.checkpoint is None:
            return steps, f"no checkpoint that {one.old_vkey} signed tells of its successor {one.new_vkey}"
        steps.append(
            f"The key {one.old_vkey} was followed by {one.new_vkey} at position {one.position:,}: both signed the "
            f"checkpoint of {one.checkpoint.size:,} leaves."
        )
    return [*steps, f"Signed now by {keys[-1]}."], None


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
    with acting_in(book, actor, purpose) as opened:
        entries = opened.audit.trail(None if subject is None else the_customer(opened, subject), actor=by, limit=limit)
    tell(
        entries,
        as_json,
        lambda: show_table(
            "Audit trail",
            ["entry", "effective", "actor", "purpose", "action", "fields", "outcome", "why", "policy"],
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
                    None if entry.policy is None else f"{', '.join(entry.rules) or 'no rule'} of {entry.policy[:12]}",
                )
                for entry in entries
            ],
        ),
    )


@audit_app.command("replay")
def audit_replay(
    book: BookUrl,
    subject: Annotated[str, typer.Option("--subject", help="A customer's id, or system:external_id")],
    at: Annotated[str, typer.Option("--at", help="The moment in the world; a plain date means all of that day, UTC")],
    known_at: KnownAt = None,
    sealed: Annotated[bool, typer.Option("--sealed", help="Open no personal value")] = False,
    proofs: Annotated[bool, typer.Option("--proofs", help="With an inclusion proof of each event and read")] = False,
    file: Annotated[Path | None, typer.Option("--out", help="Write the JSON into this file")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="Write one HTML page into this file")] = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """How the book stood about a customer at a moment, who could see and saw what, and why each decision fell.

    Exit 1 if a recorded decision is not what the facts lead to. One recorded read.
    """
    check_new(file, page)
    with acting_in(book, actor, purpose) as opened:
        found = opened.audit.replay(
            the_customer(opened, subject), at, known_at=known_moment(known_at), sealed=sealed, proofs=proofs
        )
    if file is not None:
        write_new(file, found.json().decode())
    if page is not None:
        write_new(page, found.html())
    if as_json:
        print_json(found.json().decode())
    elif file is None and page is None:
        for section in found.report().sections:
            if section.text:
                out.print(section.text, markup=False)
            if section.rows:
                columns = [one.name for one in section.columns]
                rows = [
                    [shown(cell, one.kind) for cell, one in zip(row, section.columns, strict=True)]
                    for row in section.rows
                ]
                show_table(section.title, columns, rows)
    if not as_json:
        out.print(f"Digest of the document: {found.digest}", markup=False)
    if not found.document["verification"]["holds"]:
        raise typer.Exit(1)


_LIMITS = Thresholds()
REVIEW_OPTIONS = {
    "subject": "--subject", "actor": "--by", "since": "--from", "until": "--until", "at": "--at",
    "thresholds": "--tie-days and the other thresholds",
}  # fmt: skip
"""How the command line calls what a review takes."""


@audit_app.command("review")
def audit_review(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(REVIEWS)}")],
    book: BookUrl,
    subject: Annotated[str | None, typer.Option("--subject", help="A customer's id, or system:external_id")] = None,
    by: Annotated[str | None, typer.Option("--by", help="The actor who is looked at")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Only what was recorded from then on")] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Only what was recorded up to then; a plain date means all of it, UTC")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="The moment, for consent-at and retention")] = None,
    tie_days: Annotated[
        int | None, typer.Option("--tie-days", help=f"For access-review (default {_LIMITS.tie_days})", min=1)
    ] = None,
    bulk_subjects: Annotated[
        int | None, typer.Option("--bulk-subjects", help=f"For access-review (default {_LIMITS.bulk_subjects})", min=1)
    ] = None,
    bulk_factor: Annotated[
        int | None, typer.Option("--bulk-factor", help=f"For access-review (default {_LIMITS.bulk_factor})", min=1)
    ] = None,
    habit_hours: Annotated[
        int | None, typer.Option("--habit-hours", help=f"For access-review (default {_LIMITS.habit_hours})", min=1)
    ] = None,
    dormant_days: Annotated[
        int | None, typer.Option("--dormant-days", help=f"For access-review (default {_LIMITS.dormant_days})", min=1)
    ] = None,
    own_tie_subjects: Annotated[
        int | None,
        typer.Option("--own-tie-subjects", help=f"For access-review (default {_LIMITS.own_tie_subjects})", min=1),
    ] = None,
    own_tie_days: Annotated[
        int | None, typer.Option("--own-tie-days", help=f"For access-review (default {_LIMITS.own_tie_days})", min=1)
    ] = None,
    guesses: Annotated[
        int | None, typer.Option("--guesses", help=f"For access-review (default {_LIMITS.guesses})", min=1)
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the tables: into this folder, or an archive NAME.zip")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write one page that needs nothing else")] = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Answer what auditors ask, as tables: see docs/reviews.md. Is itself recorded as a read."""
    given = {
        "tie_days": tie_days, "bulk_subjects": bulk_subjects, "bulk_factor": bulk_factor, "habit_hours": habit_hours,
        "dormant_days": dormant_days, "own_tie_subjects": own_tie_subjects, "own_tie_days": own_tie_days,
        "guesses": guesses,
    }  # fmt: skip
    limits = {one: figure for one, figure in given.items() if figure is not None}
    check_new(csv, html)
    with acting_in(book, actor, purpose) as opened:
        whose = None if subject is None else the_customer(opened, subject)
        try:
            report = opened.audit.review(
                name,
                subject=whose,
                actor=by,
                since=since,
                until=until,
                at=at,
                thresholds=Thresholds(**limits) if limits else None,
            )
        except Refused as refused:
            argument = str(refused.values.get("argument"))
            option = REVIEW_OPTIONS.get(argument)
            if option is not None:
                refused.args = (str(refused).replace(f"{argument}:", f"{option}:", 1),)
            raise
    try:
        if csv is not None:
            report.csv(csv)
        if html is not None:
            write_new(html, report.html())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--csv") from None
    if as_json:
        print_json(report.json())
    elif csv is None and html is None:
        show_report(report)
    else:
        for written in filter(None, (csv, html)):
            out.print(f"Written: {written}", markup=False)
