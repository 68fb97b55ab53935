"""The audit trail: who did what, about whom, which fields, when, why, with what outcome."""

from __future__ import annotations

from collections.abc import Sequence

from tallybook.domain.customer import PROFILE_FIELDS, CustomerChanged, ProfileFact
from tallybook.domain.events import Decision, Event
from tallybook.domain.loyalty import RedemptionRefused

from .read_models import Recorded, Rows, Table


class Trail:
    """The read model of the audit trail: one row an event."""

    name = "trail"
    version = 1
    by_subject = True
    table = Table(
        "trail",
        (
            ("position", "integer"),
            ("recorded_us", "integer"),
            ("effective_us", "integer"),
            ("actor", "text"),
            ("on_behalf_of", "text"),
            ("purpose", "text"),
            ("channel", "text"),
            ("action", "text"),
            ("subject", "blob"),
            ("stream", "blob"),
            ("fields", "text"),
            ("outcome", "text"),
            ("why", "text"),
        ),
        ("position",),
        (("subject", "position"),),
    )
    tables = (table,)

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        """Fold events in order."""
        for position, event in batch:
            metadata = event.metadata
            rows.put(
                self.table,
                (position,),
                (
                    position,
                    metadata.recorded_us,
                    event.effective_us,
                    metadata.actor,
                    metadata.on_behalf_of,
                    metadata.purpose,
                    metadata.channel,
                    event.stored_name,
                    event.subject_id.bytes if event.subject_id else None,
                    event.originator_id.bytes,
                    ",".join(fields_touched(event)),
                    "refused" if isinstance(event, RedemptionRefused) else "recorded",
                    f"rule set {event.rules}" if isinstance(event, Decision) else metadata.purpose,
                ),
            )


def fields_touched(event: Event) -> list[str]:
    """Names of the personal fields that an event sets; of a profile's, the clear and the cleared ones too."""
    held = event.__dict__
    touched = [name for name in event.personal_fields if held[name] is not None]
    if isinstance(event, ProfileFact):
        touched += [name for name in PROFILE_FIELDS if name not in event.personal_fields and held[name] is not None]
    if isinstance(event, CustomerChanged):
        touched += event.cleared
    return touched
