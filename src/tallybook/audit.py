"""`book.audit`: who did what, and that nothing was altered."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tallybook.adapters import integrity
from tallybook.adapters.integrity import Verification
from tallybook.domain.access import PersonalDataRead
from tallybook.domain.errors import text, whole
from tallybook.domain.events import Event
from tallybook.projections.read_models import Progress
from tallybook.projections.trail import Trail, fields_touched, outcome_of, why

from .commands import Desk
from .customers import as_id
from .times import iso


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """One entry of the audit trail. `log` is "events" or "reads"; `position` is its place in that log."""

    log: str
    position: int
    recorded_at: str
    effective_at: str
    actor: str
    on_behalf_of: str | None
    purpose: str
    channel: str | None
    action: str
    subject: UUID | None
    fields: tuple[str, ...]
    outcome: str
    why: str


class AuditView(Desk):
    """Who did what, and that nothing was altered."""

    def verify(self, progress: Progress | None = None) -> list[Verification]:
        """Recompute the Merkle root of both logs from the stored bytes, and compare with their frontiers."""
        core = self._core
        core.check_open()
        return [
            integrity.verify("events", core.app.log, progress),
            integrity.verify("reads", core.gate.reads),
        ]

    def trail(
        self, subject: UUID | str | None = None, *, actor: str | None = None, limit: int | None = None
    ) -> list[TrailEntry]:
        """Events and reads about a subject (default: all), by an actor (default: any), in order of recording.

        Personal fields are named, never opened. Looking at the trail of a subject is itself recorded as a read.
        Refuses: acting_required, invalid_argument.
        """
        core = self._core
        core.check_open()
        acting = core.acting_now()
        core.catch_up(core.trail)
        subject_id = None if subject is None else as_id(subject, "subject")
        if limit is not None:
            whole(limit, "limit")
        conditions, params = ["1=1"], list[Any]()
        if subject_id is not None:
            conditions.append("subject=?")
            params.append(subject_id.bytes)
        if actor is not None:
            conditions.append("actor=?")
            params.append(text(actor, "actor"))
        core.gate.record(core.gate_metadata(acting), "audit.trail", [] if subject_id is None else [subject_id], [])
        where = " AND ".join(conditions) + " ORDER BY position"
        found = core.store.select(core.trail, Trail.table, ["position"], where, params)
        # What is about two subjects has two rows.
        positions = list(dict.fromkeys(position for (position,) in found))
        wanted = positions if limit is None else positions[-limit:]
        entries = [
            (event.metadata.recorded_us, _entry(position, event, subject_id))
            for position, event in core.at_positions(wanted)
        ]
        reads: list[tuple[int, TrailEntry]] = []
        for position, event in core.reads():
            if (
                isinstance(event, PersonalDataRead)
                and (subject_id is None or subject_id in event.subjects)
                and (actor is None or event.metadata.actor == actor)
            ):
                reads.append((event.metadata.recorded_us, _read_entry(position, event, subject_id)))
        # Each log keeps its own order, whatever the clock did.
        merged = [entry for _, entry in heapq.merge(entries, reads, key=lambda pair: pair[0])]
        return merged if limit is None else merged[-limit:]


def _entry(position: int, event: Event, subject: UUID | None) -> TrailEntry:
    metadata = event.metadata
    return TrailEntry(
        "events",
        position,
        iso(metadata.recorded_us) or "",
        iso(event.effective_us) or "",
        metadata.actor,
        metadata.on_behalf_of,
        metadata.purpose,
        metadata.channel,
        event.stored_name,
        subject or event.subject_id,
        tuple(fields_touched(event)),
        outcome_of(event),
        why(event),
    )


def _read_entry(position: int, event: PersonalDataRead, subject: UUID | None) -> TrailEntry:
    metadata = event.metadata
    return TrailEntry(
        "reads",
        position,
        iso(metadata.recorded_us) or "",
        iso(event.effective_us) or "",
        metadata.actor,
        metadata.on_behalf_of,
        metadata.purpose,
        metadata.channel,
        f"read:{event.action}",
        subject or event.subject_id,
        event.fields,
        "released",
        metadata.purpose,
    )


__all__ = ["AuditView", "TrailEntry", "Verification"]
