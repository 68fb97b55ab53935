"""Events to bytes and back: positional msgpack, personal fields sealed, older schema versions upcast.

The stored state of an event is a msgpack array:

    [schema version, key id or nil, event id, effective µs, subject id or nil,
     [recorded µs, actor, purpose, on behalf of, channel, correlation id, causation id, command id],
     clear field, clear field, …,
     nil or [mask of the personal fields that are set, nonce and ciphertext]]

Ids are 16 bytes. Clear fields stand in the order in which their class declares them.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgpack
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent
from pydantic import ValidationError

from tallybook.domain.errors import NewerSchema, StoredFormError, UnknownStoredName
from tallybook.domain.events import REGISTRY, Event, Metadata, Schema
from tallybook.domain.personal import Personal, Sealed

from .form import ENVELOPE_ARITY, Form, known_uuid, uuid_from
from .keys import FIRST_KEY_ID, NONCE_BYTES, Keyring

SEALED_BYTES_MIN = NONCE_BYTES + 16


class EventMapper(Mapper[UUID]):
    """The mapper of `eventsourcing`, with Tallybook's stored form. Errors name the event that can't be read."""

    def __init__(self, keyring: Keyring, registry: Mapping[str, Schema] = REGISTRY) -> None:
        super().__init__(transcoder=JSONTranscoder())
        self.keyring = keyring
        self._forms = {name: Form(schema) for name, schema in registry.items()}
        self._metadata: tuple[Metadata | None, list[Any]] = (None, [])
        self._read: tuple[list[Any] | None, Metadata | None] = (None, None)

    def to_stored_event(self, domain_event: DomainEventProtocol[UUID]) -> StoredEvent:
        """The stored form of a new event."""
        event = typing.cast(Event, domain_event)
        return StoredEvent(event.originator_id, event.originator_version, event.stored_name, self.state_of(event))

    def state_of(self, event: Event) -> bytes:
        """The stored state of a new event."""
        form = self._forms.get(event.stored_name)
        if form is None:
            raise UnknownStoredName(
                f"{type(event).__qualname__} is not in the registry of stored names.", where=event.stored_name
            )
        held = event.__dict__
        subject: UUID | None = held["subject_id"]
        sealed = self._seal(form, held, subject) if form.personal else None
        return msgpack.packb(
            [
                form.version,
                FIRST_KEY_ID if sealed else None,
                held["event_id"].bytes,
                held["effective_us"],
                None if subject is None else subject.bytes,
                self._pack_metadata(held["metadata"]),
                *form.encode(held),
                sealed,
            ]
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """The event that a stored form holds. Raises StoredFormError and its kinds."""
        return self.read(
            stored_event.originator_id,
            stored_event.originator_version,
            stored_event.topic,
            stored_event.state,
            getattr(stored_event, "id", None),
        )

    def read(
        self,
        originator_id: UUID | str,
        originator_version: int,
        stored_name: str,
        state: bytes,
        position: int | None = None,
    ) -> Event:
        """The same from the parts of a row. Raises StoredFormError and its kinds."""
        form = self._forms.get(stored_name)
        try:
            if form is None:
                raise UnknownStoredName(
                    "The stored name is not known to this release.",
                    where=_where(originator_id, originator_version, stored_name, position),
                )
            values = msgpack.unpackb(state, strict_map_key=True)
            if type(values) is not list or not values or type(values[0]) is not int:
                raise ValueError("the state is not an array that begins with a schema version")
            version = values[0]
            if version != form.version:
                if version > form.version:
                    raise NewerSchema(
                        f"Schema version {version} was written by a later release; this one reads {form.version}. "
                        "Upgrade Tallybook.",
                        where=_where(originator_id, originator_version, stored_name, position),
                    )
                values = self._upcast(form, values)
            if len(values) != form.arity:
                raise ValueError(f"{len(values)} items where {form.arity} belong")
            subject = None if values[4] is None else known_uuid(values[4])
            event_id = uuid_from(values[2])
            handles: dict[str, Personal[Any]] | None = None
            if values[-1] is not None:
                part = values[-1]
                if type(part) is not list or len(part) != 2 or type(part[0]) is not int or type(part[1]) is not bytes:
                    raise ValueError("the sealed part is not a mask and a blob")
                mask, blob = part
                if subject is None or len(blob) < SEALED_BYTES_MIN:
                    raise ValueError("the sealed part does not fit the event")
                names = form.fields_set(version, mask)
                if type(values[1]) is not int:
                    raise ValueError("a sealed part needs the id of its key")
                sealed = Sealed(event_id, stored_name, version, subject, values[1], names, blob)
                handles = {name: Personal(sealed=sealed, field=name) for name in names if name in form.personal}
            return form.decode(
                values,
                originator_id,
                originator_version,
                event_id,
                subject,
                self._unpack_metadata(values[5]),
                handles,
            )
        except StoredFormError:
            raise
        except ValidationError as error:
            problem = error.errors()[0]
            raise StoredFormError(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                where=_where(originator_id, originator_version, stored_name, position),
            ) from error
        except (
            ValueError,
            TypeError,
            AttributeError,
            IndexError,
            KeyError,
            msgpack.exceptions.UnpackException,
            msgpack.exceptions.ExtraData,
        ) as error:
            raise StoredFormError(
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
                where=_where(originator_id, originator_version, stored_name, position),
            ) from error

    def _upcast(self, form: Form, values: list[Any]) -> list[Any]:
        clear = values[ENVELOPE_ARITY:-1]
        for version in range(values[0], form.version):
            if version not in form.schema.upcasters:
                raise ValueError(f"there is no schema version {version}")
            clear = form.schema.upcasters[version](clear)
        return [*values[:ENVELOPE_ARITY], *clear, values[-1]]

    def _seal(self, form: Form, held: Mapping[str, Any], subject: UUID | None) -> list[Any] | None:
        mask = 0
        names: list[str] = []
        values: list[object] = []
        for bit, name in enumerate(form.personal):
            handle: Personal[Any] | None = held[name]
            if handle is not None:
                value = handle._take()
                if value is None:
                    raise TypeError(f"{form.name}.{name} was sealed before: an event is stored once")
                mask |= 1 << bit
                names.append(name)
                values.append(value)
        if not mask:
            return None
        if subject is None:
            raise TypeError(f"{form.name} holds personal data and names no subject")
        blob = self.keyring.seal(subject, held["event_id"], form.name, form.version, names, values)
        return [mask, blob]

    def _pack_metadata(self, metadata: Metadata) -> list[Any]:
        # All events of a command share one metadata object: its packed form is kept for the next.
        last, packed = self._metadata
        if last is metadata:
            return packed
        packed = [
            metadata.recorded_us,
            metadata.actor,
            metadata.purpose,
            metadata.on_behalf_of,
            metadata.channel,
            metadata.correlation_id and metadata.correlation_id.bytes,
            metadata.causation_id and metadata.causation_id.bytes,
            metadata.command_id and metadata.command_id.bytes,
        ]
        self._metadata = (metadata, packed)
        return packed

    def _unpack_metadata(self, values: list[Any]) -> Metadata:
        # Neighbours in the log share their metadata more often than not.
        last, made = self._read
        if last == values and made is not None and type(values[0]) is int:
            return made
        recorded_us, actor, purpose, on_behalf_of, channel, correlation, causation, command = values
        made = Metadata(
            recorded_us=recorded_us,
            actor=actor,
            purpose=purpose,
            on_behalf_of=on_behalf_of,
            channel=channel,
            correlation_id=None if correlation is None else uuid_from(correlation),
            causation_id=None if causation is None else uuid_from(causation),
            command_id=None if command is None else uuid_from(command),
        )
        self._read = (values, made)
        return made


def subject_of(state: bytes) -> bytes | None:
    """The subject of a stored state, without reading the rest of it."""
    # Nearly always: a short array, two small items, an id, a time of eight bytes, the subject.
    if state[0] >> 4 == 9 and state[3:5] == b"\xc4\x10" and state[21] in b"\xcf\xd3" and state[30:32] == b"\xc4\x10":
        return state[32:48]
    subject: bytes | None = msgpack.unpackb(state)[4]
    return subject


def _where(originator_id: UUID | str, originator_version: int, stored_name: str, position: int | None) -> str:
    at = f"position {position}, " if position is not None else ""
    return f"{at}stream {originator_id} version {originator_version}, {stored_name}"
