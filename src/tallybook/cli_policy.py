"""`tallybook policy`: who may read which personal fields for which purpose, and give which commands."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tallybook.adapters.policy_files import load_policy
from tallybook.domain.errors import refusal

from .policy_names import check_names
from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    KnownAt,
    Purpose,
    acting_in,
    known_moment,
    open_book,
    out,
    say,
    show_table,
    tell,
)

policy_app = typer.Typer(help="Who may read what for which purpose, and do what.", no_args_is_help=True)

PolicyFile = Annotated[str, typer.Argument(help='A TOML or JSON file, or "shop", which ships with Tallybook')]
Whose = Annotated[str, typer.Argument(help="Whose role: an actor such as agent:lin")]
Role = Annotated[str, typer.Argument(help="A role that the policy names: clerk, support, …")]


@policy_app.command("check")
def policy_check(policy: PolicyFile, as_json: AsJson = False) -> None:
    """Read and validate an access policy. Exit 2 if it is wrong, naming each problem's path."""
    document = load_policy(policy)
    check_names(document, policy)

    def show() -> None:
        rules = "in Cedar" if document.rules is None else f"{len(document.rules)} rules"
        out.print(f"{document.label}: {len(document.purposes)} purposes, {rules}", markup=False)

    tell({"policy": document.label, "digest": document.digest(), "language": document.language}, as_json, show)


@policy_app.command("adopt")
def policy_adopt(
    book: BookUrl, policy: PolicyFile, actor: Actor = None, purpose: Purpose = None, as_json: AsJson = False
) -> None:
    """Put an access policy in force at once. One after which nobody could adopt another is refused."""
    with acting_in(book, actor, purpose) as opened:
        label = opened.policy.adopt(policy)
    say({"policy": label}, as_json, f"{label} is in force.")


@policy_app.command("withdraw")
def policy_withdraw(book: BookUrl, actor: Actor = None, purpose: Purpose = None, as_json: AsJson = False) -> None:
    """Take the access policy out of force: everybody may do everything again."""
    with acting_in(book, actor, purpose) as opened:
        opened.policy.withdraw()
    tell({"policy": None}, as_json, lambda: out.print("No access policy is in force."))


@policy_app.command("show")
def policy_show(book: BookUrl, known_at: KnownAt = None, as_json: AsJson = False) -> None:
    """The access policy in force. Exit 1 if there is none."""
    with open_book(book, create=False) as opened:
        found = opened.policy.in_force(known_at=known_moment(known_at))

    def show() -> None:
        if found is None:
            out.print("No access policy is in force: everybody may do everything.")
            return
        out.print(f"{found.label}, adopted {found.adopted_at} by {found.actor} ({found.digest})", markup=False)
        document = json.loads(found.document)
        if "cedar" in document:
            out.print(document["cedar"], markup=False)
            return
        show_table(
            "Rules",
            ["rule", "effect", "roles", "purposes", "actions", "fields", "commands"],
            [
                (
                    rule["id"],
                    rule["effect"],
                    *(", ".join(rule[name]) for name in ("roles", "purposes", "actions", "fields", "commands")),
                )
                for rule in document["rules"]
            ],
        )

    tell(found, as_json, show)
    if found is None:
        raise typer.Exit(1)


@policy_app.command("grant")
def policy_grant(
    book: BookUrl,
    whose: Whose,
    role: Role,
    until: Annotated[str | None, typer.Option("--until", help="When it ends (default: never), with a zone")] = None,
    since: Annotated[str | None, typer.Option("--from", help="From when on (default: now), with a zone")] = None,
    actor: Actor = None,
    purpose: Purpose = None,
    as_json: AsJson = False,
) -> None:
    """Give an actor a role."""
    with acting_in(book, actor, purpose) as opened:
        opened.policy.grant(whose, role, until=until, effective_at=since)
    say({"actor": whose, "role": role}, as_json, f"{whose} has the role {role}.")


@policy_app.command("revoke")
def policy_revoke(
    book: BookUrl, whose: Whose, role: Role, actor: Actor = None, purpose: Purpose = None, as_json: AsJson = False
) -> None:
    """Take a role from an actor at once."""
    with acting_in(book, actor, purpose) as opened:
        opened.policy.revoke(whose, role)
    tell(
        {"actor": whose, "revoked": role},
        as_json,
        lambda: out.print(f"{whose} has the role {role} no more.", markup=False),
    )


@policy_app.command("roles")
def policy_roles(
    book: BookUrl,
    whose: Annotated[str | None, typer.Argument(help="Whose roles (default: everybody's)")] = None,
    known_at: KnownAt = None,
    as_json: AsJson = False,
) -> None:
    """Who has which role."""
    with open_book(book, create=False) as opened:
        found = opened.policy.roles(whose, known_at=known_moment(known_at))
    tell(
        found,
        as_json,
        lambda: show_table(
            "Roles",
            ["actor", "role", "since", "until"],
            [(one.actor, one.role, one.since, one.until) for one in found],
        ),
    )


@policy_app.command("explain")
def policy_explain(
    book: BookUrl,
    whose: Annotated[str, typer.Argument(help="An actor such as agent:lin")],
    why: Annotated[str, typer.Argument(help="A purpose: support, …")],
    action: Annotated[str, typer.Argument(help="A way to read (profiles.get) or a command (customers.register)")],
    as_json: AsJson = False,
) -> None:
    """What an actor may do now for a purpose, field by field, and by which rule. Exit 1 if nothing."""
    if not action.strip():
        raise refusal("invalid_argument", "action: a text that is not empty is wanted.", argument="action")
    with open_book(book, create=False) as opened:
        found = opened.policy.explain(whose, why, action)

    def show() -> None:
        roles = ", ".join(found.roles) or "no role"
        out.print(f"{whose} ({roles}) for {why}, by {found.policy or 'no access policy'}", markup=False)
        out.print(f"as a command: {found.command.effect} ({found.command.rule or 'no rule'})", markup=False)
        show_table(
            f"Fields in {action}",
            ["field", "effect", "rule"],
            [(one.field, one.effect, one.rule) for one in found.fields],
        )

    tell(found, as_json, show)
    if found.command.effect == "deny" and all(one.effect == "deny" for one in found.fields):
        raise typer.Exit(1)
