"""Access policies whose rules are written in Cedar (https://www.cedarpolicy.com), decided by the package `cedarpy`.

A request of the gate becomes, for each field:

    principal   Actor::"actor", whose parents are his roles: Role::"support"
    action      Action::"read" or Action::"mask"; of a command Action::"command"
    resource    Field::"contact.email" with `category` and `sensitivity` (sets of texts) and `name`; of a command
                Command::"customers.register" with `name`
    context     { purpose, action }: `action` is the kind of reading (`profiles.get`), or the command

What may be read is released; what may be masked and not read is released in part; all else is denied, as Cedar does by
default. A `forbid` of "read" alone leaves the mask. A policy may be named by the annotation `@id("…")`: that name is
what records of reads hold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tallybook.domain.errors import MissingExtra, PolicyError
from tallybook.domain.events import Code
from tallybook.domain.policy import (
    ALLOW,
    DENY,
    MASK,
    Decision,
    PolicyDocument,
    Purpose,
    Remembered,
    Verdict,
    known_fields,
    marks_of,
)

try:
    import cedarpy
except ImportError as missing:
    raise MissingExtra("cedarpy", "cedar") from missing


def names_in(document: PolicyDocument) -> dict[str, set[str]]:
    """The entities that policies in Cedar name (`Command::"tickets.open"`), by type. Raises PolicyError."""
    found: dict[str, set[str]] = {}

    def walk(part: object) -> None:
        if isinstance(part, dict):
            if part.keys() == {"type", "id"}:
                found.setdefault(part["type"], set()).add(part["id"])
            for one in part.values():
                walk(one)
        elif isinstance(part, list):
            for one in part:
                walk(one)

    try:
        walk(json.loads(cedarpy.policies_to_json_str(document.cedar or "")))
    except ValueError as error:
        raise PolicyError("cedar", [f"cedar: {error}"]) from None
    return found


class CedarPolicy(Remembered):
    """A policy in Cedar, parsed once."""

    def __init__(self, document: PolicyDocument) -> None:
        super().__init__(document)
        try:
            self._set = cedarpy.PolicySet.from_str(document.cedar or "")
        except ValueError as error:
            raise PolicyError("cedar", [f"cedar: {error}"]) from None

        annotated = json.loads(cedarpy.policies_to_json_str(document.cedar or ""))["staticPolicies"].values()
        for name in [one["annotations"]["id"] for one in annotated if "id" in one.get("annotations", {})]:
            try:
                _CODE.validate_python(name)
            except ValidationError:
                problem = f"@id({json.dumps(name)}): up to 64 letters, digits and . : / + - _ are wanted"
                raise PolicyError("cedar", [f"cedar: {problem}"]) from None

    def _decided(self, roles: frozenset[str], purpose: str, action: str, declared: Purpose) -> Decision:
        context = {"purpose": purpose, "action": action}

        def decide(field: str) -> Verdict:
            marks = marks_of(field)
            resource = _entity(
                "Field",
                field,
                category=sorted(marks.categories),
                sensitivity=sorted(marks.sensitivities),
            )
            read, mask = self._ask(roles, ("read", "mask"), resource, context)
            if read.effect == ALLOW:
                return read
            return Verdict(MASK, mask.rule) if mask.effect == ALLOW else Verdict(DENY, read.rule or mask.rule)

        # Whether anything may be read at all: Cedar has no other way to tell than to ask for each field.
        return Decision(declared, decide, known_fields())

    def _commanded(self, roles: frozenset[str], purpose: str, command: str) -> Verdict:
        resource = _entity("Command", command)
        [verdict] = self._ask(roles, ("command",), resource, {"purpose": purpose, "action": command})
        return verdict

    def _ask(
        self, roles: frozenset[str], actions: Sequence[str], resource: dict[str, Any], context: dict[str, str]
    ) -> list[Verdict]:
        entities: list[dict[str, Any]] = [
            {"uid": _ACTOR, "attrs": {}, "parents": [{"type": "Role", "id": role} for role in sorted(roles)]},
            *({"uid": {"type": "Role", "id": role}, "attrs": {}, "parents": []} for role in sorted(roles)),
            resource,
        ]
        requests = [
            {
                "principal": _ACTOR,
                "action": {"type": "Action", "id": action},
                "resource": resource["uid"],
                "context": context,
            }
            for action in actions
        ]
        return [_verdict(result) for result in cedarpy.is_authorized_batch(requests, self._set, entities)]


_CODE: TypeAdapter[str] = TypeAdapter(Code)
"""Ids of rules stand in events, in the clear."""
_ACTOR = {"type": "Actor", "id": "actor"}


def _entity(kind: str, name: str, **attributes: object) -> dict[str, Any]:
    return {"uid": {"type": kind, "id": name}, "attrs": {"name": name, **attributes}, "parents": []}


def _verdict(result: Any) -> Verdict:
    # A policy that fails is passed over by Cedar. A `forbid` that fails would then forbid nothing: here it denies.
    names = result.diagnostics.id_annotations_by_reason
    reasons = [names.get(reason) or reason for reason in result.diagnostics.reasons]
    rule = reasons[0] if reasons else None
    return Verdict(ALLOW if result.allowed and not result.diagnostics.errors else DENY, rule)


@lru_cache(maxsize=64)
def cedar_policy(document: str) -> CedarPolicy:
    """The policy of a canonical document in Cedar. Raises PolicyError."""
    return CedarPolicy(PolicyDocument.model_validate_json(document))
