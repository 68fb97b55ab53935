"""Print what each role of the shipped access policy may read and do: `python -m tools.matrix`, for docs/access.md."""

from __future__ import annotations

import tallybook.book  # noqa: F401 - its desks are the commands
from tallybook.adapters.policy_files import decider, load_policy
from tallybook.domain.policy import ALLOW, MASK, Decider, PolicyDocument, known_fields
from tallybook.policy_names import ACTIONS, commands

MATRIX = "## The policy that ships"


def matrix(document: PolicyDocument) -> str:
    """Two tables: actions and commands by role, each role with its purposes."""
    decides = decider(document.language, document.canonical())
    roles: dict[str, list[str]] = {}
    for rule in document.rules or ():
        for role in rule.roles:
            roles.setdefault(role, []).extend(one for one in rule.purposes if one not in (*roles.get(role, ()), "*"))
    head = "| | " + " | ".join(f"`{role}` ({', '.join(purposes)})" for role, purposes in roles.items()) + " |"
    lines = [head, "|---" * (len(roles) + 1) + "|"]
    alike: dict[tuple[str, ...], list[str]] = {}
    for action in sorted(ACTIONS):
        shown = tuple([_read(decides, role, purposes, action) for role, purposes in roles.items()])
        alike.setdefault(shown, []).append(f"`{action}`")
    lines += [f"| {', '.join(actions)} | {' | '.join(shown)} |" for shown, actions in alike.items()]
    there = commands()
    for group in sorted({name.partition(".")[0] for name in there}):
        names = sorted(name for name in there if name.startswith(f"{group}."))
        cells = []
        for role, purposes in roles.items():
            given = [
                name.partition(".")[2]
                for name in names
                if any(decides.command(frozenset([role]), purpose, name).effect == ALLOW for purpose in purposes)
            ]
            cells.append("all" if len(given) == len(names) else ", ".join(given))
        lines.append(f"| commands `{group}.*` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _read(decides: Decider, role: str, purposes: list[str], action: str) -> str:
    found = []
    for purpose in purposes:
        decision = decides.decide(frozenset([role]), purpose, action)
        for word, effect in (("in full", ALLOW), ("masked", MASK)):
            names = [name for name in known_fields() if decision.of(name).effect == effect]
            others = [name for name in known_fields() if name not in names]
            if names:
                which = f": {', '.join(names)}" if len(names) < len(others) else f", but {', '.join(others)}"
                found.append(word + (which if others else ""))
    return "; ".join(found)


if __name__ == "__main__":
    print(matrix(load_policy("shop")))
