"""Events as CloudEvents 1.0, for brokers: clear fields only, personal ones by name."""

from __future__ import annotations

from typing import Any

from tallybook.projections.read_models import Recorded

from .clear_form import clear_fields, personal_set, rfc3339

SPEC_VERSION = "1.0"


def cloud_event(recorded: Recorded, origin: str) -> dict[str, Any]:
    """One event in the structured JSON form of CloudEvents 1.0.

    `id` is the event's id and `source` the book's origin: together they tell a repeat. `position` is its place in the
    log, as a text, since integers of CloudEvents end at 2**31. `data` holds the clear fields, and the names of the
    personal ones that are set; what those hold is not in it.
    """
    position, event = recorded
    metadata = event.metadata
    made: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": str(event.event_id),
        "source": origin,
        "type": event.stored_name,
        "subject": str(event.subject_id or event.originator_id),
        "time": rfc3339(event.effective_us),
        "dataschema": f"urn:tallybook:event:{event.stored_name}:{event.schema_version}",
        "datacontenttype": "application/json",
        "position": str(position),
        "recordedtime": rfc3339(metadata.recorded_us),
        "stream": str(event.originator_id),
        "streamversion": str(event.originator_version),
        "actor": metadata.actor,
        "purpose": metadata.purpose,
    }
    for name, value in (
        ("onbehalfof", metadata.on_behalf_of),
        ("channel", metadata.channel),
        ("correlationid", metadata.correlation_id),
        ("causationid", metadata.causation_id),
    ):
        if value is not None:
            made[name] = str(value)
    made["data"] = {"fields": clear_fields(event), "personal": personal_set(event)}
    return made
