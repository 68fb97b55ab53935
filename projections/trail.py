"""The audit trail: who did what, about whom, which fields, when, why, with what outcome."""

from __future__ import annotations

from collections.abc import Sequence

from tallybook.domain.customer import PROFILE_FIELDS, CustomerChanged, ProfileFact
from tallybook.domain.events import Decision, Event
from tallybook.domain.points import RedemptionRefused
from tallybook.domain.retention import RetentionSwept

from .read_models import Recorded, Rows, Table


class Trail:
    """The read model of the audit trail: which events are about whom, and by whom.

    What an entry shows stands in the event, which is at its position in the log: it is not kept twice.
    """

    name = "trail"
    version = 3
    by_subject = True
    table = Table(
        "trail",
        (("subject", "blob"), ("position", "integer"), ("actor", "text")),
        ("subject", "position"),
    )
    tables = (table,)

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        """Fold events in order."""
        for position, event in batch:
            for subject in event.subject_ids() or (None,):
                key = (NOBODY if subject is None else subject.bytes, position)
                rows.put(self.table, key, (*key, event.metadata.actor))


NOBODY = b""
"""The subject of events that are about nobody."""


def outcome_of(event: Event) -> str:
    """What became of it: recorded, or refused."""
    return "refused" if isinstance(event, RedemptionRefused) else "recorded"


def why(event: Event) -> str:
    """The rule set that a decision rests on; of facts, the purpose. Of a sweep, up to where it pruned reads."""
    if isinstance(event, RetentionSwept) and event.reads_pruned:
        return f"{event.metadata.purpose}; records of reads up to {event.reads_pruned:,} were pruned"
    return f"rule set {event.rules}" if isinstance(event, Decision) else event.metadata.purpose


def fields_touched(event: Event) -> list[str]:
    """Names of the personal fields that an event sets; of a profile's, the clear and the cleared ones too."""
    held = event.__dict__
    touched = [name for name in event.personal_fields if held[name] is not None]
    if isinstance(event, ProfileFact):
        touched += [name for name in PROFILE_FIELDS if name not in event.personal_fields and held[name] is not None]
    if isinstance(event, CustomerChanged):
        touched += event.cleared
    return touched
