"""Events and reads as OCSF 1.8 (Open Cybersecurity Schema Framework), for security monitoring. No personal values.

| what | class | activity |
|---|---|---|
| read about one subject | Entity Management (3004) | Read |
| bulk read, export, denied command | Datastore Activity (6005) | Read, Other |
| command on a customer, ticket, account, rule set or policy | Entity Management (3004) | Create, Update, … |
| role granted or revoked | User Access Management (3005) | Assign, Revoke Privileges |
| log opened or closed | Application Lifecycle (6002) | Start, Stop |
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from tallybook.domain.events import Decision, Event
from tallybook.domain.policy import PolicyHistory
from tallybook.projections.read_models import Recorded

from .clear_form import clear_fields, personal_set

VERSION = "1.8.0"
ENTITY, ACCESS, DATASTORE, LIFECYCLE = 3004, 3005, 6005, 6002
_CLASS_NAMES = {
    ENTITY: ("Identity & Access Management", "Entity Management"),
    ACCESS: ("Identity & Access Management", "User Access Management"),
    DATASTORE: ("Application Activity", "Datastore Activity"),
    LIFECYCLE: ("Application Activity", "Application Lifecycle"),
}
_ACTIVITIES: Mapping[int, Mapping[int, str]] = {
    ENTITY: {1: "Create", 2: "Read", 3: "Update", 4: "Delete", 6: "Enroll", 12: "Suspend", 13: "Resume", 99: "Other"},
    ACCESS: {1: "Assign Privileges", 2: "Revoke Privileges"},
    DATASTORE: {1: "Read", 99: "Other"},
    LIFECYCLE: {3: "Start", 4: "Stop"},
}
_ENTITY_ACTIVITIES: Mapping[str, int] = {
    "customer.registered": 1,
    "customer.erased": 4,
    "customer.values_erased": 4,
    "customer.restricted": 12,
    "customer.restriction_lifted": 13,
    "ticket.opened": 1,
    "loyalty.enrolled": 6,
    "book.rule_set_adopted": 1,
    "policy.adopted": 1,
    "policy.withdrawn": 4,
}
"""What is not an update."""
INFORMATIONAL, LOW, MEDIUM = 1, 2, 3
_FAILURE = 2
_SEVERITIES = {INFORMATIONAL: "Informational", LOW: "Low", MEDIUM: "Medium"}
_ENTITY_POLICY, _ENTITY_OTHER = 5, 99
_MANAGED = {"customer": "customer", "ticket": "ticket", "loyalty": "loyalty account", "policy": "access policy"}


def ocsf_event(recorded: Recorded, origin: str, log: str, release: str, policies: PolicyHistory) -> dict[str, Any]:
    """One event of the log of events ("events") or of reads ("reads") as an OCSF event."""
    position, event = recorded
    name = event.stored_name
    if name == "access.personal_data_read":
        made = _read(event, origin)
    elif name in ("policy.role_granted", "policy.role_revoked"):
        fields = event.__dict__
        made = _made(ACCESS, 1 if name == "policy.role_granted" else 2)
        made["user"] = {"uid": fields["actor"]}
        made["privileges"] = [fields["role"]]
        made["resource"] = {"uid": origin, "type": "book"}
    elif name in ("log.opened", "log.closed"):
        made = _made(LIFECYCLE, 3 if name == "log.opened" else 4)
        made["app"] = _product(release)
    elif log == "reads":
        made = _made(DATASTORE, 99, name)
        made.update(_datastore(event, origin))
        if name == "access.command_denied":
            _denied(made)
    else:
        made = _made(ENTITY, _ENTITY_ACTIVITIES.get(name, 3))
        made["entity"] = _entity(event)
    made.update(_common(position, event, origin, log, release))
    _allowed(made, event, policies.behind(position, event))
    if made["class_uid"] == LIFECYCLE:  # which knows no actor
        made["unmapped"]["actor"] = made.pop("actor")
    return made


def _made(class_uid: int, activity: int, other: str | None = None) -> dict[str, Any]:
    category, class_name = _CLASS_NAMES[class_uid]
    activity_name = other or _ACTIVITIES[class_uid][activity]
    return {
        "class_uid": class_uid,
        "class_name": class_name,
        "category_uid": class_uid // 1000,
        "category_name": category,
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": class_uid * 100 + activity,
        "type_name": f"{class_name}: {activity_name}",
        "severity_id": INFORMATIONAL,
        "severity": _SEVERITIES[INFORMATIONAL],
        "status_id": 1,
        "status": "Success",
    }


def _allowed(made: dict[str, Any], event: Event, behind: str | None) -> None:
    """By which access policy, and which of its rules, somebody was allowed or denied what he asked for."""
    held = event.__dict__
    policy, rules = (held.get("policy"), held.get("rules")) if behind is None else (behind, [event.metadata.rule])
    if policy is not None:
        decision = "denied" if made["status_id"] == _FAILURE else "allowed"
        made["actor"]["authorizations"] = [{"decision": decision, "policy": {"uid": policy, "is_applied": True}}]
        made["unmapped"]["rules"] = list(rules or ())


def _denied(made: dict[str, Any]) -> None:
    made.update(status_id=_FAILURE, status="Failure", status_code="access_denied")
    made.update(severity_id=MEDIUM, severity=_SEVERITIES[MEDIUM])


def _read(event: Event, origin: str) -> dict[str, Any]:
    subjects = event.__dict__["subjects"]
    if len(subjects) == 1:
        made = _made(ENTITY, 2)
        made["entity"] = {"uid": str(subjects[0]), "type": "customer", "type_id": _ENTITY_OTHER}
    else:
        made = _made(DATASTORE, 1)
        made.update(_datastore(event, origin))
        made["severity_id"], made["severity"] = LOW, _SEVERITIES[LOW]
    if event.__dict__.get("outcome", "released") == "denied":
        _denied(made)
    return made


def _datastore(event: Event, origin: str) -> dict[str, Any]:
    return {
        "database": {"uid": origin, "name": "Tallybook", "type_id": 99, "type": "event log"},
        "src_endpoint": _endpoint(event),
    }


def _endpoint(event: Event) -> dict[str, Any]:
    """Where a request came from: required here, and known only where the host says it."""
    address = event.__dict__.get("address")
    if address is None:
        return {"name": event.metadata.channel or "unknown"}
    try:
        return {"ip": str(ipaddress.ip_address(address))}
    except ValueError:
        return {"name": address}


def _entity(event: Event) -> dict[str, Any]:
    fields = event.__dict__
    kind = event.stored_name.partition(".")[0]
    if "digest" in fields:
        made = {"uid": fields["digest"], "type": _MANAGED.get(kind, "rule set"), "type_id": _ENTITY_POLICY}
        for name in ("name", "version"):
            if name in fields:
                made[name] = fields[name]
        return made
    uid = event.subject_id if kind == "customer" and event.subject_id is not None else event.originator_id
    return {"uid": str(uid), "type": _MANAGED.get(kind, "book"), "type_id": _ENTITY_OTHER}


def _product(release: str) -> dict[str, Any]:
    return {"name": "Tallybook", "vendor_name": "Tallybook", "version": release}


def _common(position: int, event: Event, origin: str, log: str, release: str) -> dict[str, Any]:
    metadata = event.metadata
    recorded_ms = metadata.recorded_us // 1000
    described: dict[str, Any] = {
        "version": VERSION,
        "product": _product(release),
        "log_name": log,
        "uid": str(event.event_id),
        "sequence": position,
        "tenant_uid": origin,
        "logged_time": recorded_ms,
        "event_code": event.stored_name,
    }
    if metadata.correlation_id is not None:
        described["correlation_uid"] = str(metadata.correlation_id)
    actor: dict[str, Any] = {"user": {"uid": metadata.actor}}
    application = getattr(metadata, "application", None)
    if application is not None:
        actor["app_name"] = application
    unmapped: dict[str, Any] = {
        "purpose": metadata.purpose,
        "stream": str(event.originator_id),
        "kind": "decision" if isinstance(event, Decision) else "fact",
        "fields": clear_fields(event),
        "personal_fields": personal_set(event),
    }
    for name in ("on_behalf_of", "channel", "causation_id"):
        value = getattr(metadata, name)
        if value is not None:
            unmapped[name] = str(value)
    if event.subject_id is not None:
        unmapped["subject"] = str(event.subject_id)
    return {"time": event.effective_us // 1000, "metadata": described, "actor": actor, "unmapped": unmapped}
