"""The command line. Answers go to stdout (`--json`: for machines), progress and errors to stderr."""

from __future__ import annotations

import csv
import re
import signal
import sqlite3
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from eventsourcing.persistence import PersistenceError
from pydantic_core import to_json

from tallybook.adapters.reports import visible
from tallybook.domain.errors import TallybookError, refusal
from tallybook.projections.projector import FAILED

from .cli_archive import archive_app
from .cli_backtest import backtest_app
from .cli_erasure import erasure_app
from .cli_export import export_app
from .cli_keys import keys_app
from .cli_log import audit_app
from .cli_loyalty import show_explanation
from .cli_loyalty_views import loyalty_app
from .cli_policy import policy_app
from .cli_privacy import privacy_app
from .cli_rules import rules_app
from .demo import run_demo
from .synthesis import synth
from .terminal import (
    ARCHIVE,
    DETACHED,
    READ_MODELS,
    SIGNING_KEY,
    WRAPPING_KEY,
    Actor,
    AsJson,
    AsOf,
    BookUrl,
    Keyless,
    KnownAt,
    Purpose,
    ReadModelName,
    ReadModelOrAll,
    acting_as,
    acting_in,
    check_new,
    err,
    fail,
    in_json,
    known_moment,
    open_book,
    open_to_verify,
    out,
    print_json,
    show_left_out,
    show_table,
    tell,
    the_customer,
    watched,
    write_new,
)
from .times import iso
from .upkeep import doctor as examine_book
from .upkeep import restore as restore_book
from .views import FieldView

app = typer.Typer(
    name="tallybook",
    help="An event-sourced book of customer relationships: sealed facts, explained decisions, replay under new rules.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
show_app = typer.Typer(help="Current or past state, with the event that set each field.", no_args_is_help=True)
projections_app = typer.Typer(help="Read models: lag, catching up, rebuilding.", no_args_is_help=True)
import_app = typer.Typer(help="History from other systems: resumable, and recorded once.", no_args_is_help=True)
app.add_typer(show_app, name="show")
app.add_typer(archive_app, name="archive")
app.add_typer(audit_app, name="audit")
app.add_typer(keys_app, name="keys")
app.add_typer(loyalty_app, name="loyalty")
app.add_typer(policy_app, name="policy")
app.add_typer(rules_app, name="rules")
app.add_typer(projections_app, name="projections")
app.add_typer(import_app, name="import")
app.add_typer(export_app, name="export")
app.add_typer(privacy_app)
app.add_typer(erasure_app)
app.add_typer(backtest_app)


@cache
def the_line() -> Any:
    """All commands, built once a process: that takes a tenth of a second."""
    return typer.main.get_command(app)


def run() -> None:
    """Run the command line, and turn errors into messages and exit status."""
    as_json = "--json" in sys.argv
    try:
        the_line()()
    except TallybookError as error:
        fail(error, as_json)
        raise SystemExit(2) from None
    except (PersistenceError, sqlite3.Error, OSError) as error:
        err.print(
            f"{type(error).__name__}: {error}. Try again; if it stays so, see what `tallybook doctor` finds.",
            markup=False,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        err.print("Interrupted. What was committed stands; the same command goes on from there.")
        raise SystemExit(130) from None


@app.callback()
def options(
    wrapping_key: Annotated[
        Path | None,
        typer.Option(
            "--wrapping-key",
            envvar="TALLYBOOK_WRAPPING_KEY",
            help="File of the key that a PostgreSQL book's data keys are wrapped under; by default, in ~/.tallybook",
            show_default=False,
        ),
    ] = None,
    signing_key: Annotated[
        str | None,
        typer.Option(
            "--signing-key",
            envvar="TALLYBOOK_SIGNING_KEY",
            help='File of the key that signs checkpoints, "env:NAME", or "unsigned"; by default, beside the book',
            show_default=False,
        ),
    ] = None,
    read_models: Annotated[
        str | None,
        typer.Option(
            "--read-models",
            envvar="TALLYBOOK_READ_MODELS",
            help="Where the read models live, if not beside the log: sqlite:///models.db, or postgresql://…",
            show_default=False,
        ),
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive",
            envvar="TALLYBOOK_ARCHIVE",
            help="Where the archive is: a folder, or a URL that fsspec opens; by default, beside a book in a file",
            show_default=False,
        ),
    ] = None,
    detached: Annotated[
        bool,
        typer.Option(
            "--detached",
            envvar="TALLYBOOK_DETACHED",
            help="A book that is made commits to hashes only; one that is there must have been made so",
        ),
    ] = False,
) -> None:
    """Options that stand before a command, whichever it is."""
    WRAPPING_KEY.set(wrapping_key)
    READ_MODELS.set(read_models)
    ARCHIVE.set(archive)
    SIGNING_KEY.set(signing_key)
    DETACHED.set(True if detached else None)


# ── the main job ──────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="Where to leave the book to explore")] = Path("demo-book"),
    as_json: AsJson = False,
) -> None:
    """The whole main job on 69,659 real purchases: record, project, audit, replay under other rules."""

    def say(line: str) -> None:
        if not as_json:
            out.print(line, markup=False)

    with watched("import", as_json) as progress:
        figures = run_demo(directory, say, progress)
    if as_json:
        print_json(in_json(figures))
    clear = figures["personal_values_in_the_clear"]
    if clear or not (figures["verified"] and figures["certificate"]["holds"]):
        raise typer.Exit(1)


@import_app.command("cdnow")
def import_cdnow(
    file: Annotated[Path, typer.Argument(help="A file of the CDNOW form (.xz is unpacked)")],
    book: BookUrl,
    skip_bad: Annotated[Path | None, typer.Option("--skip-bad", help="Where lines that can't be read go")] = None,
    enrol: Annotated[bool, typer.Option(help="Enrol new customers where a rule set is in force")] = True,
    actor: Actor = "job:import",
    purpose: Purpose = "administration",
    as_json: AsJson = False,
) -> None:
    """Import purchases. Broken off, it goes on where it stopped; done, importing again records nothing."""
    with open_book(book) as opened, acting_as(opened, actor, purpose), watched("import", as_json) as progress:
        report = opened.imports.cdnow(file, skip_bad=skip_bad, enrol=enrol, progress=progress)

    def show() -> None:
        if report.recorded == 0 and report.known:
            out.print(f"Nothing new: all {report.known:,} purchases of {report.file} were recorded before.")
        else:
            rate = report.events / report.seconds if report.seconds else 0
            out.print(
                f"{report.recorded:,} of {report.purchases:,} purchases recorded, {report.customers:,} new customers, "
                f"{report.events:,} events in {report.seconds:.1f} s ({rate:,.0f}/s)."
            )
            if report.known:
                out.print(f"{report.known:,} purchases were recorded before.")
        if report.rejected:
            out.print(f"{report.rejected:,} lines could not be read; they are in {skip_bad}.")

    tell(report, as_json, show)


@app.command("synth")
def fill(
    url: Annotated[str, typer.Argument(help="A book that is not there yet, or one that this was begun with")],
    customers: Annotated[int, typer.Option("--customers", help="How many customers")],
    events: Annotated[
        int | None,
        typer.Option("--events", help="About how many facts in all; default: 21 a customer", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which history: the same seed gives the same one")] = 1,
    years: Annotated[int, typer.Option("--years", help="How many years it has, up to the end of 2024")] = 5,
    rules: Annotated[
        list[Path] | None,
        typer.Option(
            "--rules", help="A rule set, as for `rules check` (default: standard); of several, one after the other"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fill a book with a made-up history. Broken off, it goes on where it stopped. Needs the extra replay."""
    with watched("synth", as_json) as progress:
        report = synth(
            url,
            customers=customers,
            events=events,
            seed=seed,
            years=years,
            rules=rules or ["standard"],
            progress=progress,
            wrapping_key=WRAPPING_KEY.get(),
            read_models=READ_MODELS.get(),
            signing_key=SIGNING_KEY.get(),
            detached=DETACHED.get(),
        )

    def show() -> None:
        if not report.recorded:
            out.print(f"Nothing new: all {report.facts:,} facts were recorded before.")
        else:
            out.print(
                f"{report.recorded:,} of {report.facts:,} facts of {report.customers:,} customers recorded in "
                f"{report.seconds:.1f} s ({report.recorded / report.seconds:,.0f}/s)."
            )
        left_out = sum(report.left_out.values())
        out.print(f"The book holds {report.events:,} events; {left_out:,} facts are left out, as it would refuse them.")
        out.print(f"sha256 of the history: {report.digest}")
        rows = [(kind, f"{number:,}") for kind, number in report.by_kind.items()]
        show_table("Facts", ["kind", "facts"], rows, ["facts"])
        if left_out:
            rows = [(why, f"{number:,}") for why, number in report.left_out.items()]
            show_table("Left out", ["why", "facts"], rows, ["facts"])

    tell(report, as_json, show)


@app.command()
def sweep(
    book: BookUrl,
    until: Annotated[str | None, typer.Option("--until", help="Up to when (default: now)")] = None,
    actor: Actor = "job:sweep",
    purpose: Purpose = "administration",
    as_json: AsJson = False,
) -> None:
    """Record what time made due: expired points, tiers whose window moved on. Exit 1 if it passed accounts over."""
    with (
        open_book(book, create=False) as opened,
        acting_as(opened, actor, purpose),
        watched("sweep", as_json) as progress,
    ):
        result = opened.loyalty.sweep(until, progress=progress)

    def show() -> None:
        out.print(f"Swept to {result.until}: {result.accounts:,} accounts, {result.decisions:,} decisions.")
        for one in result.passed_over:
            out.print(f"Passed over: account {one.account_id}. {one.reason}", markup=False)
        if result.passed_over:
            out.print(f"{len(result.passed_over):,} accounts could not be settled; the next sweep tries again.")

    tell(result, as_json, show)
    if result.passed_over:
        raise typer.Exit(1)


@app.command()
def replay(
    book: BookUrl,
    sign: Annotated[
        Path | None, typer.Option("--sign", help="Sign it, and write the signed note here; see audit certificate")
    ] = None,
    executor: Annotated[
        str | None, typer.Option("--executor", help="reference or columnar (default: what is sooner done)")
    ] = None,
    keyless: Keyless = False,
    as_json: AsJson = False,
) -> None:
    """The certificate: do the facts, under the rule sets then in force, give the recorded decisions? Exit 1 if not."""
    check_new(sign)
    with open_to_verify(book, keyless=keyless) as opened, watched("replay", as_json) as progress:
        certificate = opened.replay(progress, executor=executor, sign=sign is not None)
    if sign is not None:
        write_new(sign, certificate.note)

    def show() -> None:
        if certificate.holds:
            out.print(
                f"The certificate holds: {certificate.facts:,} facts reproduce all {certificate.matched:,} recorded "
                f"decisions of {certificate.accounts:,} accounts."
            )
            if certificate.pending:
                out.print(f"{certificate.pending:,} decisions are due by a sweep that is not done: run it again.")
        else:
            out.print(f"The certificate fails for {certificate.divergent_accounts:,} accounts. First: ", end="")
            out.print(str(certificate.first), markup=False)
        err.print(f"Replayed by the {certificate.executor} executor. {certificate.why}".rstrip(), markup=False)
        if sign is not None:
            out.print(f"Signed, up to position {certificate.position:,}: {sign}", markup=False)

    tell({"holds": certificate.holds, **asdict(certificate)}, as_json, show)
    if not certificate.holds:
        raise typer.Exit(1)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where the backup is to lie")],
    book: BookUrl,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="Also copy the keys, to a file of their own: keep it apart"),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace files of those names")] = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Copy a book into one file while others write: the log, its read models, the log of reads. Without its keys.

    Recorded as an export.
    """
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        with watched("backup", as_json) as progress:
            report = opened.backup(file, replace=replace, progress=progress)
        copied = None if keys is None else opened.backup_keys(keys, replace=replace)

    def show() -> None:
        out.print(
            f"{report.path}: the book up to position {report.position:,}, {report.reads:,} reads, "
            f"{report.bytes:,} bytes in {report.seconds:.1f} s.",
            markup=False,
        )
        out.print(f"Keep elsewhere, to check a restored copy by: --checkpoint {report.position}:{report.root}")
        if copied is not None:
            out.print(
                f"{copied.path}: {copied.subjects:,} keys, wrapped. They open nothing without the wrapping key "
                f"{copied.wrapping}, which is not in it: keep that one apart. Each erasure changes it: copy both again "
                "then.",
                markup=False,
            )
            out.print(
                "No copy of the signing key was made: it lies in no file, or the book is open without it."
                if copied.signing_key is None
                else f"{copied.signing_key}: the key that signs the book's checkpoints.",
                markup=False,
            )

    tell({**asdict(report), "keys": None if copied is None else asdict(copied)}, as_json, show)


def _some(subjects: Sequence[UUID]) -> str:
    more = f" and {len(subjects) - 5:,} more" if len(subjects) > 5 else ""
    return ", ".join(str(one) for one in subjects[:5]) + more


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `backup` made")],
    book: BookUrl,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="A copy of the keys (default: they lie in their place already)")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="POSITION:ROOT that the log must reach and reproduce")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a book back from a backup, at a place where there is none, after all of it was verified."""
    with watched("restore", as_json) as progress:
        report = restore_book(
            file,
            book,
            keys=keys,
            wrapping_key=WRAPPING_KEY.get(),
            checkpoint=_checkpoint(checkpoint),
            progress=progress,
        )

    def show() -> None:
        out.print(
            f"{report.path}: restored up to position {report.position:,}, with {report.reads:,} reads, verified in "
            f"{report.seconds:.1f} s. Root {report.root}",
            markup=False,
        )
        if report.erased:
            out.print(f"{len(report.erased):,} of {report.subjects:,} subjects were erased: {_some(report.erased)}")
        if report.lost:
            out.print(
                f"{len(report.lost):,} of {report.subjects:,} subjects have lost their key, and nobody erased them; "
                f"their data can't be opened without an older or later copy of the keys: {_some(report.lost)}"
            )

    tell(report, as_json, show)


@app.command()
def doctor(
    book: BookUrl,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what reads everything")] = False,
    lock_timeout: Annotated[int, typer.Option("--lock-timeout", min=0, help="Seconds to wait for a lock")] = 30,
    as_json: AsJson = False,
) -> None:
    """Is the book well? Files, pages, positions, roots, events, keys, read models, space. Exit 1 if a check failed."""
    with watched("doctor", as_json) as progress:
        findings = examine_book(
            book,
            quick=quick,
            progress=progress,
            wrapping_key=WRAPPING_KEY.get(),
            read_models=READ_MODELS.get(),
            signing_key=SIGNING_KEY.get(),
            lock_timeout_s=lock_timeout,
        )

    def show() -> None:
        show_table("Findings", ["check", "state", "what"], [(one.name, one.state, one.what) for one in findings])
        for one in findings:
            if one.remedy:
                out.print(f"{one.name}: {one.remedy}", markup=False)

    tell(findings, as_json, show)
    if any(one.state == "failed" for one in findings):
        raise typer.Exit(1)


def _checkpoint(given: str | None) -> tuple[int, str] | None:
    if given is None:
        return None
    position, _, root = given.partition(":")
    if not position.isdecimal() or not re.fullmatch("[0-9a-fA-F]{64}", root):
        raise refusal("invalid_argument", f"{given!r} is no POSITION:ROOT.", argument="checkpoint")
    return int(position), root


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@show_app.command("customer")
def show_customer(
    customer: Annotated[str, typer.Argument(help="The customer's id, or system:external_id")],
    book: BookUrl,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """A profile, each field with the event that set it. Opens personal data: a recorded read."""
    with acting_in(book, actor, purpose) as opened:
        profile = opened.profiles.get(the_customer(opened, customer), as_of=as_of, known_at=known_moment(known_at))

    def show() -> None:
        out.print(f"{profile.kind} {profile.customer_id}, registered {profile.registered_at}")
        fields: list[tuple[str, FieldView]] = [
            *profile.fields.items(),
            *((f"id in {system}", view) for system, view in profile.identifiers.items()),
        ]
        show_table(
            "Fields",
            ["field", "value", "since", "set by event"],
            [
                *[(name, view.value, view.since, f"position {view.position}") for name, view in fields],
                *[(point.kind, point.value, "", f"position {point.position}") for point in profile.contact_points],
            ],
        )
        spent = ", ".join(f"{amount / 100:,.2f} {currency}" for currency, amount in profile.spent_minor.items())
        out.print(
            f"{profile.purchases} purchases ({spent or 'nothing spent'}), {profile.returns} returns, "
            f"{profile.interactions} interactions, {profile.tickets} tickets; "
            f"first purchase {profile.first_purchase_at}, last {profile.last_purchase_at}"
        )

    tell(profile, as_json, show)


@show_app.command("account")
def show_account(
    customer: Annotated[str, typer.Argument(help="The customer's id, or system:external_id")],
    book: BookUrl,
    programme: Annotated[str, typer.Option("--programme")] = "main",
    explain: Annotated[bool, typer.Option("--explain", help="Also why each decision about it fell")] = False,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """A loyalty account: balance, tier and lots. By an external id, a recorded search."""
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        found, known = the_customer(opened, customer), known_moment(known_at)
        account = opened.loyalty.account(found, programme=programme, as_of=as_of, known_at=known)
        explained = (
            opened.loyalty.explain_account(found, programme=programme, as_of=as_of, known_at=known) if explain else []
        )

    def show() -> None:
        out.print(
            f"{account.active:,} points, tier {account.tier} since {account.tier_since}: earned {account.earned:,}, "
            f"spent {account.spent:,}, expired {account.expired:,}, reversed {account.reversed:,}, "
            f"debt {account.debt:,}"
        )
        show_table(
            "Lots, in the order of use",
            ["points", "earned", "expires", "fact"],
            [(f"{lot.points:,}", lot.earned_at, lot.expires_at or "never", lot.lot_id) for lot in account.lots],
            ["points"],
        )
        for one in explained:
            out.print()
            show_explanation(one)

    answer = asdict(account)
    if explain:
        answer["decisions"] = [asdict(one) for one in explained]
    tell(answer, as_json, show)


@show_app.command("ticket")
def show_ticket(
    ticket: Annotated[str, typer.Argument(help="The ticket's id")],
    book: BookUrl,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    texts: Annotated[bool, typer.Option("--texts", help="Open what was written: a recorded read")] = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Where a case stands; with --texts, what was written in it."""
    with acting_in(book, actor, purpose) as opened:
        view = opened.tickets.get(ticket, as_of=as_of, known_at=known_moment(known_at))
        entries = opened.tickets.read(ticket) if texts else []

    def show() -> None:
        show_table("Ticket", ["", ""], list(asdict(view).items()))
        if texts:
            show_table(
                "What happened",
                ["at", "actor", "action", "texts"],
                [
                    (one.effective_at[:19], one.actor, one.action, "; ".join(map(str, one.texts.values())))
                    for one in entries
                ],
            )

    answer = asdict(view)
    if texts:
        answer["texts"] = [asdict(one) for one in entries]
    tell(answer, as_json, show)


@app.command()
def tiers(
    book: BookUrl,
    tier: Annotated[str | None, typer.Option("--tier", help="List the members of a tier")] = None,
    everybody: Annotated[
        bool, typer.Option("--everybody", help="With those whose data is restricted, or who object: for bookkeeping")
    ] = False,
    programme: Annotated[str, typer.Option("--programme")] = "main",
    as_of: AsOf = None,
    known_at: KnownAt = None,
    as_json: AsJson = False,
) -> None:
    """How many accounts hold each tier, or who holds one: without those whose data is restricted, or who object to
    automated decisions, who are counted."""
    with open_book(book, create=False) as opened:
        if tier is None:
            counts = opened.tiers.counts(programme=programme, as_of=as_of, known_at=known_moment(known_at))
            tell(
                counts,
                as_json,
                lambda: show_table(
                    "Tiers", ["tier", "accounts"], [(name, f"{n:,}") for name, n in counts.items()], ["accounts"]
                ),
            )
        else:
            members = opened.tiers.members(
                tier, programme=programme, as_of=as_of, known_at=known_moment(known_at), everybody=everybody
            )

            def show() -> None:
                show_table(
                    f"Members of {tier}",
                    ["customer", "since", "until", "why", "rules"],
                    [(one.customer_id, one.since, one.until, one.reason, one.rules) for one in members],
                )
                show_left_out(members.restricted, members.objecting)

            tell(
                {
                    "members": list(members),
                    "restricted": members.restricted,
                    "objecting": members.objecting,
                },
                as_json,
                show,
            )


@app.command()
def segments(
    book: BookUrl,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    system: Annotated[str, typer.Option("--system", help="Whose external ids to show")] = "cdnow",
    as_csv: Annotated[bool, typer.Option("--csv", help="One line a customer, to stdout")] = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Frequency, recency, tenure and value of each customer at a date. Opens external ids: one recorded read."""
    with acting_in(book, actor, purpose) as opened:
        found = opened.profiles.segments(as_of=as_of, known_at=known_moment(known_at), system=system)
    columns = ["external_id", "frequency", "recency_days", "tenure_days", "monetary_minor"]
    rows = [(name, one.frequency, one.recency_days, one.tenure_days, one.monetary_minor) for name, one in found]
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\r\n")
        writer.writerow(columns)
        # Exactly for whatever reads it; for people, with nothing that a terminal would obey.
        named = visible if _for_people() else str
        writer.writerows([(None if name is None else named(str(name)), *figures) for name, *figures in rows])
        if found.restricted or found.objecting:
            err.print(
                f"Left out: {found.restricted:,} restricted, {found.objecting:,} who object to automated decisions."
            )
        return

    def show() -> None:
        repeat = sum(1 for _, one in found if one.frequency)
        total = sum(one.total_minor for _, one in found)
        out.print(
            f"{len(found):,} customers, {repeat:,} with a repeat purchase, {total / 100:,.2f} spent. "
            "--csv prints one line each."
        )
        show_left_out(found.restricted, found.objecting)
        show_table("The first 20", columns, rows[:20], columns[1:])

    answer = {
        "customers": [{"external_id": name, **asdict(one)} for name, one in found],
        "restricted": found.restricted,
        "objecting": found.objecting,
    }
    tell(answer, as_json, show)


def _for_people() -> bool:
    return sys.stdout.isatty()


@app.command()
def follow(
    book: BookUrl,
    after: Annotated[int, typer.Option("--after", min=0, help="Begin after this position")] = 0,
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Only events of this stored name; may be repeated")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="At the head, wait for more, or end")] = True,
    as_json: AsJson = False,
) -> None:
    """The events in order, a line each (--json: an object), then those to come. Opens no personal data."""
    with (
        open_book(book, create=False) as opened,
        opened.follow(after, names=names or (), timeout_s=None if wait else 0) as follower,
    ):
        for position, event in follower:
            clear = {name: value for name in event.clear_fields if (value := getattr(event, name)) not in (None, ())}
            line = {
                "position": position,
                "name": event.stored_name,
                "stream": event.originator_id,
                "subject": event.subject_id,
                "effective_at": iso(event.effective_us),
                "recorded_at": iso(event.metadata.recorded_us),
                "actor": event.metadata.actor,
                "fields": clear,
            }
            if as_json:
                print_json(to_json(line, fallback=str, bytes_mode="hex").decode())
            else:
                fields = to_json(clear, fallback=str, bytes_mode="hex").decode()
                who = event.subject_id or "-"
                print(position, line["effective_at"], event.stored_name, who, visible(fields), flush=True)


# ── projections ───────────────────────────────────────────────────────────────────────────────────────────────────────


@projections_app.command("status")
def projections_status(book: BookUrl, as_json: AsJson = False) -> None:
    """State, position and lag of each read model, and what one that failed stumbled over."""
    with open_book(book, create=False) as opened:
        status = opened.projections.status()

    def show() -> None:
        show_table(
            "Read models",
            ["read model", "version", "state", "position", "head", "lag"],
            [
                (one.name, one.version, one.state, f"{one.position:,}", f"{one.head:,}", f"{one.lag:,}")
                for one in status
            ],
            ["version", "position", "head", "lag"],
        )
        for one in status:
            if one.failed_position is not None:
                out.print(f"{one.name} failed at position {one.failed_position}: {one.error}", markup=False)
            if one.rebuilding is not None:
                out.print(f"{one.name} is being rebuilt: at position {one.rebuilding:,}.")
            if one.abandoned is not None:
                out.print(
                    f"A rebuild of {one.name} was cut off at position {one.abandoned:,}: "
                    "`tallybook projections drop-superseded` removes what it left, and so does the next rebuild."
                )

    tell([{**asdict(one), "lag": one.lag} for one in status], as_json, show)


@projections_app.command("catch-up")
def projections_catch_up(book: BookUrl, as_json: AsJson = False) -> None:
    """Fold what is not folded yet. Exit status 1 if a read model has failed."""
    with open_book(book, create=False) as opened, watched("catch up", as_json) as progress:
        position = opened.projections.catch_up(progress)
        failed = [one for one in opened.projections.status() if one.state == FAILED]

    def show() -> None:
        out.print(f"The read models that are not stopped are at position {position:,}.")
        for one in failed:
            out.print(f"{one.name} failed at position {one.failed_position}: {one.error}", markup=False)

    tell({"position": position, "failed": [asdict(one) for one in failed]}, as_json, show)
    if failed:
        raise typer.Exit(1)


@projections_app.command("rebuild")
def projections_rebuild(
    book: BookUrl,
    name: ReadModelOrAll = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Divide the subjects among so many processes")] = 1,
    as_json: AsJson = False,
) -> None:
    """Build read models anew beside the live ones, and swap them in."""
    with open_book(book, create=False) as opened, watched("rebuild", as_json) as progress:
        position = opened.projections.rebuild(name, progress, processes=processes)
    tell(
        {"rebuilt": name or "all", "position": position},
        as_json,
        lambda: out.print(f"{name or 'All read models'} rebuilt up to position {position:,}."),
    )


@projections_app.command("run")
def projections_run(
    book: BookUrl,
    names: Annotated[list[str] | None, typer.Argument(help="Read models (default: all)")] = None,
    as_json: AsJson = False,
) -> None:
    """Keep read models in step with the log, until interrupted. Of several such processes one works on each."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_book(book, create=False) as opened:
        opened.projections.run(names=names or None, stop=stop)
        status = opened.projections.status()
    tell([asdict(one) for one in status], as_json, lambda: out.print("Stopped."))


@projections_app.command("pause")
def projections_pause(
    book: BookUrl, name: ReadModelName, actor: Actor = None, purpose: Purpose = None, as_json: AsJson = False
) -> None:
    """Stop folding into a read model, by a recorded decision."""
    with acting_in(book, actor, purpose) as opened:
        opened.projections.pause(name)
    tell({"read_model": name, "decision": "paused"}, as_json, lambda: out.print(f"{name} is paused."))


@projections_app.command("resume")
def projections_resume(
    book: BookUrl, name: ReadModelName, actor: Actor = None, purpose: Purpose = None, as_json: AsJson = False
) -> None:
    """Let a paused read model go on; a retired one starts anew."""
    with acting_in(book, actor, purpose) as opened:
        opened.projections.resume(name)
    tell({"read_model": name, "decision": "resumed"}, as_json, lambda: out.print(f"{name} goes on."))


@projections_app.command("retry")
def projections_retry(
    book: BookUrl, name: ReadModelName, actor: Actor = None, purpose: Purpose = None, as_json: AsJson = False
) -> None:
    """Let a failed read model try its event again."""
    with acting_in(book, actor, purpose) as opened:
        opened.projections.retry(name)
    tell(
        {"read_model": name, "decision": "retried"},
        as_json,
        lambda: out.print(f"{name} tries again with the next catch-up."),
    )


@projections_app.command("skip")
def projections_skip(
    book: BookUrl,
    name: ReadModelName,
    position: Annotated[int, typer.Argument(help="The position at which it failed")],
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Let a failed read model leave out the event that it failed at."""
    with acting_in(book, actor, purpose) as opened:
        opened.projections.skip(name, position)
    answer = {"read_model": name, "decision": "skipped", "position": position}
    tell(answer, as_json, lambda: out.print(f"{name} leaves out the event at position {position:,}."))


@projections_app.command("retire")
def projections_retire(
    book: BookUrl, name: ReadModelName, actor: Actor = None, purpose: Purpose = None, as_json: AsJson = False
) -> None:
    """Give a read model up, and drop its rows."""
    with acting_in(book, actor, purpose) as opened:
        opened.projections.retire(name)
        opened.projections.catch_up(names=[name])
    tell({"read_model": name, "decision": "retired"}, as_json, lambda: out.print(f"{name} is retired."))


@projections_app.command("drop-superseded")
def projections_drop_superseded(book: BookUrl, as_json: AsJson = False) -> None:
    """Drop the rows that other versions of the read models left."""
    with open_book(book, create=False) as opened:
        dropped = opened.projections.drop_superseded()
    tell({"dropped": dropped}, as_json, lambda: out.print(f"{dropped} dropped."))
