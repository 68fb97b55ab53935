"""`tallybook consent`, `request`, `restrict`, `object` and their kind: what a data subject is owed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .terminal import (
    Actor,
    AsJson,
    AsOf,
    BookUrl,
    KnownAt,
    Purpose,
    acting_as,
    known_moment,
    open_book,
    out,
    show_table,
    tell,
    the_customer,
)

consent_app = typer.Typer(help="What a customer agreed to, and what of it is in force.", no_args_is_help=True)
request_app = typer.Typer(help="Data-subject requests, and when they are due.", no_args_is_help=True)
privacy_app = typer.Typer()
privacy_app.add_typer(consent_app, name="consent")
privacy_app.add_typer(request_app, name="request")

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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
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
    tell({"consent_id": consent_id}, as_json, lambda: out.print(f"Consent {consent_id} to {to}.{waits}", markup=False))


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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        opened.customers.confirm_consent(the_customer(opened, subject), consent_id, effective_at=at)
    tell({"confirmed": consent_id}, as_json, lambda: out.print(f"Consent {consent_id} is confirmed.", markup=False))


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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        opened.customers.withdraw_consent(
            the_customer(opened, subject), to, point_id=point, brand=brand, effective_at=at
        )
    tell({"withdrawn": to}, as_json, lambda: out.print(f"Consent to {to} is withdrawn.", markup=False))


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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        found = opened.customers.privacy(the_customer(opened, subject), as_of=as_of, known_at=known_moment(known_at))

    def show() -> None:
        show_table(
            "Consents",
            ["consent", "purpose", "in force", "text", "given", "until", "withdrawn"],
            [
                (
                    one.consent_id,
                    one.purpose,
                    "yes" if one.in_force else "no" if one.confirmed_at else "not confirmed",
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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        customer = the_customer(opened, subject)
        opened.customers.restrict(customer, reason, effective_at=at)
    tell({"restricted": customer}, as_json, lambda: out.print(f"{customer} is restricted.", markup=False))


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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        customer = the_customer(opened, subject)
        opened.customers.lift_restriction(customer, reason, effective_at=at)
    tell({"lifted": customer}, as_json, lambda: out.print(f"{customer} is no longer restricted.", markup=False))


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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        customer = the_customer(opened, subject)
        opened.customers.object_to(customer, what, effective_at=at)
    tell({"objects_to": what}, as_json, lambda: out.print(f"{customer} objects to {what}.", markup=False))


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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        customer = the_customer(opened, subject)
        opened.customers.withdraw_objection(customer, what, effective_at=at)
    tell({"withdrawn": what}, as_json, lambda: out.print(f"{customer} no longer objects to {what}.", markup=False))


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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        customer = the_customer(opened, subject)
        opened.customers.end_relation(customer, reason, effective_at=at)
    tell({"ended": customer}, as_json, lambda: out.print(f"The relation with {customer} is over.", markup=False))


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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        request_id = opened.customers.record_request(
            the_customer(opened, subject), kind, channel=channel, due=due, effective_at=at
        )
    tell({"request_id": request_id}, as_json, lambda: out.print(f"Request {request_id}.", markup=False))


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
    with open_book(book, create=False) as opened, acting_as(opened, actor, purpose):
        opened.customers.complete_request(the_customer(opened, subject), request_id, outcome, reason, effective_at=at)
    answer = {"request_id": request_id, "outcome": outcome}
    tell(answer, as_json, lambda: out.print(f"Request {request_id}: {outcome}.", markup=False))


@request_app.command("list")
def request_list(
    book: BookUrl,
    subject: Annotated[str | None, typer.Option("--subject", help="Only of this customer")] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that wait for an answer")] = False,
    as_json: AsJson = False,
) -> None:
    """Requests, when they are due, and how they were answered."""
    with open_book(book, create=False) as opened:
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
