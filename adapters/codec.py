"""Events to bytes and back: positional msgpack, personal fields sealed, older schema versions upcast.

The stored state of an event is a msgpack array:

    [schema version, key id or nil, event id, effective µs, subject id or nil,
     [recorded µs, actor, purpose, on behalf of, channel, application, correlation id, causation id, command id],
     clear field, clear field, …,
     nil or [mask of the personal fields that are set, nonce and ciphertext]]

Where an event is about further subjects (a referral), the last item may go on with three more for each: mask, key id,
nonce and ciphertext. Whose they are is told by the clear field that the personal fields of the mask are marked with; a
mask of 0 and no bytes stand for the event's own subject, where nothing of it is set.

Ids are 16 bytes. Clear fields stand in the order in which their class declares them.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

import msgpack
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent
from pydantic import ValidationError

from tallybook.domain.errors import NewerSchema, StoredFormError, UnknownStoredName
from tallybook.domain.events import REGISTRY, Event, Metadata, Schema
from tallybook.domain.personal import Personal, Sealed

from .form import Form, NewerVersion, form_of, known_uuid, make_metadata
from .keys import Keyring
from .packing import packer
from .wrapping import NONCE_BYTES

SEALED_BYTES_MIN = NONCE_BYTES + 16
_UNREADABLE = (
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    KeyError,
    msgpack.exceptions.UnpackException,
    msgpack.exceptions.ExtraData,
)


class EventMapper(Mapper[UUID]):
    """The mapper of `eventsourcing`, with Tallybook's stored form. Errors name the event that can't be read."""

    def __init__(self, keyring: Keyring, registry: Mapping[str, Schema] = REGISTRY) -> None:
        super().__init__(transcoder=JSONTranscoder())
        self.keyring = keyring
        self._forms = {name: form_of(schema) for name, schema in registry.items()}
        self._read: tuple[list[Any] | None, Metadata | None] = (None, None)

    def to_stored_event(self, domain_event: DomainEventProtocol[UUID]) -> StoredEvent:
        """The stored form of a new event."""
        event = typing.cast(Event, domain_event)
        [(_, version, name, state)] = self.rows([event])
        return StoredEvent(event.originator_id, version, name, state)

    def rows(self, events: Iterable[Event]) -> list[tuple[bytes, int, str, bytes]]:
        """The stored form of new events: stream id, version, stored name, state."""
        pack = packer()
        rows = []
        # Neighbours share their stream, and all events of a command one metadata object.
        stream = metadata = None
        stream_bytes, packed = b"", []
        for event in events:
            held, name = event.__dict__, event.stored_name
            form = self._forms.get(name)
            if form is None:
                raise UnknownStoredName(
                    f"{type(event).__qualname__} is not in the registry of stored names.", where=name
                )
            if stream is not held["originator_id"]:
                stream = held["originator_id"]
                stream_bytes = stream.bytes
            if metadata is not held["metadata"]:
                metadata = held["metadata"]
                packed = _pack_metadata(metadata)
            rows.append((stream_bytes, held["originator_version"], name, pack(form.encode(held, packed, self))))
        return rows

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
        if form is None:
            raise UnknownStoredName(
                "The stored name is not known to this release.",
                where=_where(originator_id, originator_version, stored_name, position),
            )
        try:
            return form.decode(state, originator_id, originator_version, self)
        except NewerVersion as error:
            raise NewerSchema(
                str(error), where=_where(originator_id, originator_version, stored_name, position)
            ) from None
        except _UNREADABLE as error:
            raise StoredFormError(
                _problem(error), where=_where(originator_id, originator_version, stored_name, position)
            ) from error

    def scan(
        self, stored_name: str, fields: Sequence[str], rows: Sequence[tuple[int, bytes]]
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Fields of events of one name, as they are stored, with the positions: no events are made of them.

        `rows`: position and state. Arity is checked, types are not; lists come as tuples, ids as bytes. Raises
        StoredFormError and its kinds, KeyError for a field that is none or personal.
        """
        form = self._forms[stored_name]
        pick = form.places(fields)
        positions = [position for position, _ in rows]
        found: list[tuple[Any, ...]] = []
        try:
            found = [*map(_unpack_tuples, [state for _, state in rows])]
            version, arity = form.version, form.arity
            unlike = [1 for values in found if len(values) != arity or values[0] != version]
        except _UNREADABLE:
            unlike = [1]
        if unlike:
            found = [self._current_values(form, position, state) for position, state in rows]
        return zip(positions, map(pick, found), strict=True)

    def _current_values(self, form: Form, position: int, state: bytes) -> tuple[Any, ...]:
        where = f"position {position}, {form.name}"
        try:
            values = form.current(msgpack.unpackb(state))
            if len(values) != form.arity:
                raise ValueError(f"{len(values)} items where {form.arity} belong")
            current: tuple[Any, ...] = _as_tuples(values)
        except NewerVersion as error:
            raise NewerSchema(str(error), where=where) from None
        except _UNREADABLE as error:
            raise StoredFormError(_problem(error), where=where) from error
        return current

    def _handles(self, form: Form, values: list[Any], event_id: UUID) -> dict[str, Personal[Any]]:
        version, key_id, _, _, subject, *_, part = values
        if form.of:
            return self._handles_of_several(form, values, event_id)
        if type(part) is not list or len(part) != 2 or type(part[0]) is not int or type(part[1]) is not bytes:
            raise ValueError("the sealed part is not a mask and a blob")
        mask, blob = part
        if subject is None or len(blob) < SEALED_BYTES_MIN:
            raise ValueError("the sealed part does not fit the event")
        if type(key_id) is not int:
            raise ValueError("a sealed part needs the id of its key")
        names = form.fields_set(version, mask)
        sealed = Sealed(event_id, form.name, version, known_uuid(subject), key_id, names, blob)
        known_as = form.known_as(values) if form.named_by else {}
        return {
            name: Personal(None, sealed=sealed, field=name, known_as=known_as.get(name, name))
            for name in names
            if name in form.personal
        }

    def _handles_of_several(self, form: Form, values: list[Any], event_id: UUID) -> dict[str, Personal[Any]]:
        version, key_id, _, _, subject, *_, held = values
        if type(held) is not list or len(held) < 2 or (len(held) - 2) % 3:
            raise ValueError("the sealed part is not a mask and a blob, and three items for each further subject")
        parts = [(held[0], key_id, held[1]), *zip(held[2::3], held[3::3], held[4::3], strict=True)]
        handles: dict[str, Personal[Any]] = {}
        for number, (mask, key, blob) in enumerate(parts):
            if number == 0 and (mask, key, blob) == (0, None, b"") and len(parts) > 1:
                continue
            if (type(mask), type(key), type(blob)) != (int, int, bytes) or len(blob) < SEALED_BYTES_MIN:
                raise ValueError("a sealed part is not a mask, the id of a key, and a blob")
            names = form.fields_set(version, mask)
            owners = {form.of.get(name) for name in names}
            if len(owners) != 1 or (owners == {None}) != (number == 0) or not handles.keys().isdisjoint(names):
                raise ValueError("a sealed part holds what belongs to another subject")
            place = owners.pop()
            owner = subject if place is None else values[place]
            if owner is None:
                raise ValueError("a sealed part does not fit the event")
            sealed = Sealed(event_id, form.name, version, known_uuid(owner), key, names, blob)
            handles.update((name, Personal(None, sealed=sealed, field=name)) for name in names if name in form.personal)
        return handles

    def _seal_several(self, form: Form, held: Mapping[str, Any]) -> tuple[int | None, list[Any]]:
        """The same of an event that may hold values of several subjects."""
        owners = dict.fromkeys(["subject_id", *form.schema.event_class.other_subjects])
        event_class = form.schema.event_class
        key_id, parts = None, list[Any]([0, b""])
        for field in owners:
            of = None if field == "subject_id" else field
            mine = {name: None for name in form.personal if event_class.personal_fields[name].of != of}
            if all(held[name] is None for name in form.personal if name not in mine):
                continue
            key, part = self._seal_one(form, {**held, **mine}, held[field])
            if of is None:
                key_id, parts[:2] = key, part
            else:
                parts += [part[0], key, part[1]]
        return key_id, parts

    def _seal(self, form: Form, held: Mapping[str, Any]) -> tuple[int | None, list[Any]]:
        """The key's id and the sealed part of an event with at least one personal field that is set."""
        return self._seal_several(form, held) if form.of else self._seal_one(form, held, held["subject_id"])

    def _seal_one(self, form: Form, held: Mapping[str, Any], subject: UUID | None) -> tuple[int, list[Any]]:
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
        if subject is None:
            raise TypeError(f"{form.name} holds personal data and names no subject")
        named = form.schema.event_class.sealed_under
        key_id = self.keyring.ordinary(subject) if named is None else held[named]
        blob = self.keyring.seal(subject, held["event_id"], form.name, form.version, names, values, key_id)
        return key_id, [mask, blob]

    def _unpack_metadata(self, values: list[Any]) -> Metadata:
        # Neighbours in the log share their metadata more often than not.
        last, made = self._read
        if last == values and made is not None and type(values[0]) is int:
            return made
        _must_be_context(*values[1:7])
        made = make_metadata(values)
        self._read = (values, made)
        return made


_unpack_tuples = partial(msgpack.unpackb, use_list=False)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def _must_be_context(
    actor: str,
    purpose: str,
    on_behalf_of: str | None,
    channel: str | None,
    application: str | None,
    rule: str | None,
) -> None:
    """Raises ValidationError. Few of them are in a log, and many events of each."""
    Metadata(
        recorded_us=0,
        actor=actor,
        purpose=purpose,
        on_behalf_of=on_behalf_of,
        channel=channel,
        application=application,
        rule=rule,
    )


def _pack_metadata(metadata: Metadata) -> list[Any]:
    return [
        metadata.recorded_us,
        metadata.actor,
        metadata.purpose,
        metadata.on_behalf_of,
        metadata.channel,
        metadata.application,
        metadata.rule,
        metadata.correlation_id and metadata.correlation_id.bytes,
        metadata.causation_id and metadata.causation_id.bytes,
        metadata.command_id and metadata.command_id.bytes,
    ]


def _problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


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
