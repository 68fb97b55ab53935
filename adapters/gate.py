"""The gate: the one place where personal data is opened. It records the read first, then releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from tallybook.domain.access import Exported, PersonalDataRead
from tallybook.domain.events import Metadata
from tallybook.domain.personal import Erased, Personal

from .codec import EventMapper
from .keys import Keyring
from .log import EventStore

K = TypeVar("K")


class Gate:
    """Opens handles for an actor with a purpose. Fails closed: no record, no value."""

    def __init__(self, keyring: Keyring, reads: EventStore, new_id: Callable[[], UUID]) -> None:
        self._keyring = keyring
        self._mapper = EventMapper(keyring)
        self.reads = reads
        self._new_id = new_id

    def open(
        self, metadata: Metadata, action: str, handles: Mapping[K, Personal[Any]], about: Sequence[UUID] = ()
    ) -> dict[K, object]:
        """The values of handles, `Erased` where the subject's key was destroyed. One call is one record.

        `about`: subjects who are looked at even where nothing of theirs is sealed.
        """
        subjects: dict[UUID, None] = dict.fromkeys(about)
        fields: dict[str, None] = {}
        for handle in handles.values():
            if handle.sealed is None:
                raise TypeError("only what was stored can be opened")
            subjects[handle.sealed.subject_id] = None
            fields[handle.field] = None
        if not subjects:
            return {}
        self.record(metadata, action, list(subjects), sorted(fields))
        return self._released(handles)

    def bulk(
        self, metadata: Metadata, action: str, subjects: Sequence[UUID], fields: Sequence[str]
    ) -> Callable[[Mapping[K, Personal[Any]]], dict[K, object]]:
        """What opens handles of subjects, a part at a time: one record for all of it, which is made here."""
        self.record(metadata, action, subjects, fields)
        wanted = frozenset(subjects)

        def opened(handles: Mapping[K, Personal[Any]]) -> dict[K, object]:
            if any(handle.sealed is None or handle.sealed.subject_id not in wanted for handle in handles.values()):
                raise TypeError("only what was recorded can be opened")
            return self._released(handles)

        return opened

    def exported(
        self,
        metadata: Metadata,
        *,
        format: str,  # noqa: A002 - what it is
        digest: str,
        count: int,
        from_position: int,
        to_position: int,
    ) -> None:
        """Record that data left the book. Durable when this returns; before anybody gets what was written."""
        event_id = self._new_id()
        record = Exported(
            originator_id=event_id,
            originator_version=1,
            event_id=event_id,
            effective_us=metadata.recorded_us,
            subject_id=None,
            metadata=metadata,
            format=format,
            digest=digest,
            count=count,
            from_position=from_position,
            to_position=to_position,
        )
        self.reads.append(self._mapper.rows([record]))

    def _released(self, handles: Mapping[K, Personal[Any]]) -> dict[K, object]:
        self._keyring.load(dict.fromkeys(handle.sealed.subject_id for handle in handles.values() if handle.sealed))
        opened: dict[tuple[UUID, UUID], dict[str, object] | None] = {}
        released: dict[K, object] = {}
        for key, handle in handles.items():
            sealed = handle.sealed
            assert sealed is not None
            blob = (sealed.subject_id, sealed.event_id)
            if blob not in opened:
                opened[blob] = self._keyring.open(sealed)
            values = opened[blob]
            released[key] = Erased(sealed.subject_id) if values is None else values[handle.field]
        return released

    def record(self, metadata: Metadata, action: str, subjects: Sequence[UUID], fields: Sequence[str]) -> None:
        """Record a read. Durable when this returns."""
        event_id = self._new_id()
        only = subjects[0] if len(subjects) == 1 else None
        record = PersonalDataRead(
            originator_id=event_id,
            originator_version=1,
            event_id=event_id,
            effective_us=metadata.recorded_us,
            subject_id=only,
            metadata=metadata,
            action=action,
            subjects=tuple(subjects),
            fields=tuple(fields),
        )
        self.reads.append(self._mapper.rows([record]))
