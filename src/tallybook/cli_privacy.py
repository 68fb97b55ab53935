"""`tallybook consent`, `request`, `restrict`, `object` and their kind: what a data subject is owed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .terminal import (
    Actor,
    AsJson,
    AsOf,
    BookUrl,
    KnownAt,
    Purpose,
    acting_in,
    check_new,
    known_moment,
    open_book,
    out,
    print_json,
    say,
    show_report,
    show_table,
    tell,
    the_customer,
    write_new,
)

consent_app = typer.Typer(help="What a customer agreed to, and what of it is in force.", no_args_is_help=True)
request_app = typer.Typer(help="Data-subject requests, and when they are due.", no_args_is_help=True)
retention_app = typer.Typer(help="How long what is kept, what is due, and the sweep.", no_args_is_help=True)
privacy_app = typer.Typer()
privacy_app.add_typer(consent_app, name="consent")
privacy_app.add_typer(request_app, name="request")
privacy_app.add_typer(retention_app, name="retention")

Subject = Annotated[str, typer.Argument(help="The customer's id, or system:external_id")]
To = Annotated[str, typer.Argument(help="What the consent is to: marketing, profiling, …")]
Point = Annotated[str | None, typer.Option("--point", help="Only for this contact point (its id)")]
Brand = Annotated[str | None, typer.Option("--brand", help="Only for this brand")]
At = Annotated[str | None, typer.Option("--at", help="When it happened (default: now), with a zone")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, as a code without spaces")]
What = Annotated[str, typer.Argument(help="automated_decisions or marketing")]


@consent_app.command("grant")
def consent_grant(
    subject: Subject,
    to: To,
    book: BookUrl,
    source: Annotated[str, typer.Option("--source", help="Where they said so: web, paper, phone, …")],
    text_version: Annotated[str, typer.Option("--text", help="Version of the text that they were shown")],
    point: Point = None,
    brand: Brand = None,
    basis: Annotated[str, typer.Option("--basis", help="Legal basis")] = "consent",
    captured_at: Annotated[str | None, typer.Option("--captured-at", help="When they said so")] = None,
    valid_from: Annotated[str | None, typer.Option("--from", help="From when on it holds")] = None,
    valid_until: Annotated[str | None, typer.Option("--until", help="Until when it holds")] = None,
    separate: Annotated[bool, typer.Option("--separate", help="A separate consent (PIPL)")] = False,
    cross_border: Annotated[bool, typer.Option("--cross-border", help="To a transfer abroad")] = False,
    confirmed: Annotated[
        bool, typer.Option("--confirmed/--unconfirmed", help="In force at once, or after `consent confirm`")
    ] = True,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Record a consent, and print its id."""
    with acting_in(book, actor, purpose) as opened:
        consent_id = opened.customers.grant_consent(
            the_customer(opened, subject),
            to,
            source=source,
            text_version=text_version,
            point_id=point,
            brand=brand,
            basis=basis,
            captured_at=captured_at,
            valid_from=valid_from,
            valid_until=valid_until,
            separate=separate,
            cross_border=cross_border,
            confirmed=confirmed,
            effective_at=at,
        )
    waits = "" if confirmed else " It waits for `consent confirm`."
    say({"consent_id": consent_id}, as_json, f"Consent {consent_id} to {to}.{waits}")


@consent_app.command("confirm")
def consent_confirm(
    subject: Subject,
    consent_id: Annotated[str, typer.Argument(help="The id that `consent grant` printed")],
    book: BookUrl,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """The second step of a double opt-in: from now on the consent is in force."""
    with acting_in(book, actor, purpose) as opened:
        opened.customers.confirm_consent(the_customer(opened, subject), consent_id, effective_at=at)
    say({"confirmed": consent_id}, as_json, f"Consent {consent_id} is confirmed.")


@consent_app.command("withdraw")
def consent_withdraw(
    subject: Subject,
    to: To,
    book: BookUrl,
    point: Point = None,
    brand: Brand = None,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """End all consents to a purpose, or those for a contact point or a brand."""
    with acting_in(book, actor, purpose) as opened:
        opened.customers.withdraw_consent(
            the_customer(opened, subject), to, point_id=point, brand=brand, effective_at=at
        )
    say({"withdrawn": to}, as_json, f"Consent to {to} is withdrawn.")


@consent_app.command("show")
def consent_show(
    subject: Subject,
    book: BookUrl,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Consents, restriction and objections, now or at a past date. A recorded read."""
    with acting_in(book, actor, purpose) as opened:
        found = opened.customers.privacy(the_customer(opened, subject), as_of=as_of, known_at=known_moment(known_at))

    def show() -> None:
        show_table(
            "Consents",
            ["consent", "purpose", "in force", "text", "given", "until", "withdrawn"],
            [
                (
                    one.consent_id,
                    one.purpose,
                    "yes" if one.in_force else "no" if one.confirmed_at else "unconfirmed",
                    one.text_version,
                    one.captured_at,
                    one.valid_until,
                    one.withdrawn_at,
                )
                for one in found.consents
            ],
        )
        if found.restricted_since is not None:
            out.print(f"Restricted since {found.restricted_since}: {found.restriction_reason}", markup=False)
        for what, since in found.objections.items():
            out.print(f"Objects to {what} since {since}", markup=False)

    tell(found, as_json, show)


@privacy_app.command()
def restrict(
    subject: Subject,
    book: BookUrl,
    reason: Annotated[str, typer.Option("--reason", help="accuracy_contested, unlawful, claims, objection, …")],
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Restrict the use of a customer's data: kept, and left out of scoring."""
    with acting_in(book, actor, purpose) as opened:
        customer = the_customer(opened, subject)
        opened.customers.restrict(customer, reason, effective_at=at)
    say({"restricted": customer}, as_json, f"{customer} is restricted.")


@privacy_app.command("lift-restriction")
def lift_restriction(
    subject: Subject,
    book: BookUrl,
    reason: Reason = None,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Let a customer's data be used again."""
    with acting_in(book, actor, purpose) as opened:
        customer = the_customer(opened, subject)
        opened.customers.lift_restriction(customer, reason, effective_at=at)
    say({"lifted": customer}, as_json, f"{customer} is no longer restricted.")


@privacy_app.command("object")
def object_to(
    subject: Subject,
    what: What,
    book: BookUrl,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Record an objection to automated decisions or to marketing."""
    with acting_in(book, actor, purpose) as opened:
        customer = the_customer(opened, subject)
        opened.customers.object_to(customer, what, effective_at=at)
    say({"objects_to": what}, as_json, f"{customer} objects to {what}.")


@privacy_app.command("withdraw-objection")
def withdraw_objection(
    subject: Subject,
    what: What,
    book: BookUrl,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Record that a customer no longer objects."""
    with acting_in(book, actor, purpose) as opened:
        customer = the_customer(opened, subject)
        opened.customers.withdraw_objection(customer, what, effective_at=at)
    say({"withdrawn": what}, as_json, f"{customer} no longer objects to {what}.")


@privacy_app.command("end-relation")
def end_relation(
    subject: Subject,
    book: BookUrl,
    reason: Reason = None,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Record that the relation with a customer is over: retention may count from then."""
    with acting_in(book, actor, purpose) as opened:
        customer = the_customer(opened, subject)
        opened.customers.end_relation(customer, reason, effective_at=at)
    say({"ended": customer}, as_json, f"The relation with {customer} is over.")


@request_app.command("record")
def request_record(
    subject: Subject,
    kind: Annotated[str, typer.Argument(help="access, rectification, erasure, restriction, portability or objection")],
    book: BookUrl,
    channel: Annotated[str | None, typer.Option("--channel", help="How it came: mail, phone, web, …")] = None,
    due: Annotated[str | None, typer.Option("--due", help="By when (default: within a month)")] = None,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Record a request, and print its id."""
    with acting_in(book, actor, purpose) as opened:
        request_id = opened.customers.record_request(
            the_customer(opened, subject), kind, channel=channel, due=due, effective_at=at
        )
    say({"request_id": request_id}, as_json, f"Request {request_id}.")


@request_app.command("complete")
def request_complete(
    subject: Subject,
    request_id: Annotated[str, typer.Argument(help="The id that `request record` printed")],
    book: BookUrl,
    outcome: Annotated[
        str, typer.Option("--outcome", help="fulfilled, partly_fulfilled, refused or withdrawn")
    ] = "fulfilled",
    reason: Reason = None,
    at: At = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Record how a request was answered."""
    with acting_in(book, actor, purpose) as opened:
        opened.customers.complete_request(the_customer(opened, subject), request_id, outcome, reason, effective_at=at)
    answer = {"request_id": request_id, "outcome": outcome}
    say(answer, as_json, f"Request {request_id}: {outcome}.")


@request_app.command("list")
def request_list(
    book: BookUrl,
    subject: Annotated[str | None, typer.Option("--subject", help="Only of this customer")] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that wait for an answer")] = False,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Requests, when they are due, and how they were answered. One recorded read."""
    with acting_in(book, actor, purpose) as opened:
        found = opened.customers.requests(
            None if subject is None else the_customer(opened, subject), open_only=open_only
        )
    tell(
        [asdict(one) for one in found],
        as_json,
        lambda: show_table(
            "Requests",
            ["request", "customer", "kind", "received", "due", "answer"],
            [
                (
                    one.request_id,
                    one.customer_id,
                    one.kind,
                    one.received_at,
                    one.due_at,
                    one.outcome or ("overdue" if one.overdue else "open"),
                )
                for one in found
            ],
        ),
    )


@privacy_app.command("subject-report")
def subject_report(
    subject: Subject,
    book: BookUrl,
    html: Annotated[Path | None, typer.Option("--html", help="Write one readable page into this file")] = None,
    file: Annotated[Path | None, typer.Option("--out", help="Write all of it as JSON into this file")] = None,
    portable: Annotated[
        Path | None, typer.Option("--portable", help="Write the copy to take elsewhere (JSON) into this file")
    ] = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """All that the book holds about a customer: for access and portability. One recorded read."""
    check_new(html, file, portable)
    with acting_in(book, actor, purpose) as opened:
        report = opened.audit.subject_report(the_customer(opened, subject))
    wanted = ((html, report.html), (file, report.json), (portable, report.portable))
    written = []
    for place, text in wanted:
        if place is not None:
            write_new(place, text())
            written.append(place)
    if as_json:
        print_json(report.json())
        return
    for place in written:
        out.print(f"{place}: {len(report.events):,} events about {report.customer_id}.", markup=False)
    if not written:
        show_report(report.report())


@retention_app.command("declare")
def retention_declare(
    schedule: Annotated[str, typer.Argument(help="Its name")],
    category: Annotated[
        str,
        typer.Argument(help="identity, contact, transaction, communication, preference, all, or access_records"),
    ],
    book: BookUrl,
    period: Annotated[int, typer.Option("--period", min=1, help="How many days, months or years")],
    basis: Annotated[str, typer.Option("--basis", help="The legal basis, as a code: HGB:257, GDPR:5.1.e")],
    kept_for: Annotated[str, typer.Option("--for", help="The purpose that the data is kept for")],
    unit: Annotated[str, typer.Option("--unit", help="days, months or years")] = "months",
    since: Annotated[str, typer.Option("--since", help="recorded, last_activity or end_of_relation")] = "recorded",
    action: Annotated[str, typer.Option("--action", help="erase after it, or keep until then")] = "erase",
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Declare how long a category of personal data is kept, and for what."""
    with acting_in(book, actor, purpose) as opened:
        opened.retention.declare(
            schedule,
            category,
            purpose=kept_for,
            legal_basis=basis,
            period=period,
            unit=unit,
            since=since,
            action=action,
        )
    say({"schedule": schedule}, as_json, f"{schedule} is in force.")


@retention_app.command("withdraw")
def retention_withdraw(
    schedule: Annotated[str, typer.Argument(help="Its name")],
    book: BookUrl,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Take a schedule out of force."""
    with acting_in(book, actor, purpose) as opened:
        opened.retention.withdraw(schedule)
    say({"withdrawn": schedule}, as_json, f"{schedule} is no longer in force.")


@retention_app.command("show")
def retention_show(book: BookUrl, as_json: AsJson = False) -> None:
    """The schedules in force."""
    with open_book(book, create=False) as opened:
        found = opened.retention.schedules()
    tell(
        [one._asdict() for one in found],
        as_json,
        lambda: show_table(
            "Retention",
            ["schedule", "category", "purpose", "basis", "period", "since", "action"],
            [
                (
                    one.schedule,
                    one.category,
                    one.purpose,
                    one.legal_basis,
                    f"{one.period} {one.unit}",
                    one.since,
                    one.action,
                )
                for one in found
            ],
        ),
    )


@retention_app.command("due")
def retention_due(
    book: BookUrl,
    at: Annotated[str | None, typer.Option("--at", help="At which moment (default: now); may lie ahead")] = None,
    as_json: AsJson = False,
) -> None:
    """Whose values are past their period, by category, and what stands in the way. Changes nothing, opens nothing."""
    with open_book(book, create=False) as opened:
        found = opened.retention.due(at)

    def show() -> None:
        show_table(
            f"Due at {found.at}",
            ["customer", "erased", "due", "kept", "stays", "waits for", "schedules", "last active"],
            [
                (
                    one.customer_id,
                    ("whole" if one.whole else "values") if one.ready else "no",
                    one.due_text(),
                    ", ".join(one.kept),
                    ", ".join(one.stays),
                    ", ".join(one.waits_for),
                    ", ".join(one.schedules),
                    one.last_activity_at,
                )
                for one in found.customers
            ],
        )
        ready = found.ready
        whole = sum(one.whole for one in ready)
        out.print(
            f"{whole:,} customers are due as a whole, single values of {len(ready) - whole:,} others; "
            f"{found.access_records:,} records of reads are past their period."
        )
        _warn(found.unscheduled)

    tell(found, as_json, show)


@retention_app.command("sweep")
def retention_sweep(
    book: BookUrl,
    at: Annotated[str | None, typer.Option("--at", help="Up to which moment (default: now)")] = None,
    actor: Actor = "job:retention",
    purpose: Purpose = "administration",
    as_json: AsJson = False,
) -> None:
    """Erase what is past its period, record the sweep, and delete the records of reads that are past theirs.

    There is no way back: see `retention due` first.
    """
    with acting_in(book, actor, purpose) as opened:
        found = opened.retention.sweep(at)

    def show() -> None:
        out.print(
            f"Swept to {found.until}: {found.due:,} customers due, {found.erased:,} erased, {found.values:,} single "
            f"values of {found.partly:,} others, {found.left:,} left; "
            f"{found.access_records:,} records of reads were past their period; the log of reads is pruned up to "
            f"{found.pruned:,}."
        )
        _warn(found.unscheduled)
        if found.unfinished:
            out.print(f"Unfinished: {', '.join(found.unfinished)}. The next opening of the book goes on with it.")

    tell(found, as_json, show)


def _warn(unscheduled: Sequence[str]) -> None:
    if unscheduled:
        out.print(f"No schedule is about {', '.join(unscheduled)}: nothing makes these due.")
