"""The names that access policies may use: of what reads (actions), and of commands."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches

from tallybook.domain.errors import PolicyError, refusal
from tallybook.domain.policy import PolicyDocument, fits, is_selector, known_fields

from .commands import Desk, command

ACTIONS: dict[str, str] = {
    "profiles.get": "a customer's profile",
    "profiles.timeline": "what happened with a customer, with texts",
    "profiles.segments": "external ids of all who bought",
    "tickets.read": "a ticket with its texts",
    "customers.privacy": "consents, restriction, objections, requests",
    "customers.find": "who is known by an external id",
    "customers.requests": "who made use of which right, and when",
    "book.backup": "a copy of the book, all personal values sealed",
    "book.backup_keys": "a copy of its keys, wrapped",
    "audit.trail": "who did and saw what",
    "audit.subject_report": "all that the book holds about a customer",
    "audit.replay": "how the book stood about a customer at a moment",
    "audit.export": "an auditor's pack",
    "export.cloudevents": "both logs for brokers",
    "export.ocsf": "both logs for security tools",
    "export.ocel": "the log for process mining",
    "export.backtest": "what a backtest finds of each account",
}
"""Each action, and what it shows. Reviews add theirs: `audit.review.exposure` and its kind."""


def commands() -> frozenset[str]:
    """All commands that can be given: of Tallybook's desks, and of those that the host has defined."""
    return frozenset(
        f"{desk._name}.{desk._parts.get(name, name)}"
        for desk in _desks(Desk)
        if desk._name
        for name in dir(desk)
        if isinstance(getattr(desk, name), command)
    )


def _desks(desk: type[Desk]) -> Iterator[type[Desk]]:
    for one in desk.__subclasses__():
        yield one
        yield from _desks(one)


def check_names(document: PolicyDocument, source: str) -> None:
    """See that each action and command that rules name is there, so that no rule is mistyped. Raises PolicyError.

    Of rules in Cedar: that each entity that they name is. What they compare texts with is not known before a request.
    """
    problems = []
    there = commands()
    if document.cedar is not None:
        problems = _unknown_in_cedar(document, there)
    for number, rule in enumerate(document.rules or ()):
        for kind, patterns, names in (("action", rule.actions, ACTIONS.keys()), ("command", rule.commands, there)):
            for place, pattern in enumerate(patterns):
                if not any(fits(pattern, name) for name in names):
                    problems.append(f"rules.{number}.{kind}s.{place}: {_unknown(kind, pattern, names)}")
    if problems:
        raise PolicyError(source, problems)


def check_asked(action: str) -> None:
    """See that an action or a command of that name is there. Refuses: invalid_argument."""
    names = {*ACTIONS, *commands()}
    if action not in names:
        raise refusal("invalid_argument", f"action: {_unknown('action or command', action, names)}.", argument="action")


def _unknown_in_cedar(document: PolicyDocument, there: Collection[str]) -> list[str]:
    from tallybook.adapters.cedar import names_in  # an extra

    named = names_in(document)
    problems = [
        f"cedar: {_unknown(kind.lower(), name, names)}"
        for kind, names in (("Action", ("read", "mask", "command")), ("Command", there))
        for name in sorted(named.get(kind, ()))
        if name not in names
    ]
    fields = [name for name in sorted(named.get("Field", ())) if not is_selector(name) or "*" in name or ":" in name]
    return problems + [f"cedar: {_unknown('field', name, known_fields())}" for name in fields]


def _unknown(kind: str, pattern: str, names: Collection[str]) -> str:
    groups = {f"{name.rpartition('.')[0]}.*" for name in names}
    near = get_close_matches(pattern, sorted({*names, *groups}), cutoff=0.5)
    other = "" if not near else f"; did you mean {', '.join(near)}?"
    return f"there is no {kind} {pattern!r}{other}" if "*" not in pattern else f"{pattern!r} fits no {kind}{other}"
