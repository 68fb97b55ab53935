"""Events to bytes and back: positional msgpack, personal fields sealed, older schema versions upcast.

The stored state of an event is a msgpack array:

    [schema version, key id or nil, event id, effective µs, subject id or nil,
     [recorded µs, actor, purpose, on behalf of, channel, correlation id, causation id, command id],
     clear field, clear field, …,
     nil or [mask of the personal fields that are set, nonce and ciphertext]]

Ids are 16 bytes. Clear fields stand in the order in which their class declares them.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID, SafeUUID

import msgpack
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent
from pydantic import ValidationError

from tallybook.domain.errors import NewerSchema, StoredFormError, UnknownStoredName
from tallybook.domain.events import REGISTRY, Event, Metadata, Schema, Value
from tallybook.domain.personal import Personal, Sealed

from .keys import FIRST_KEY_ID, Keyring

_ENVELOPE_ARITY = 6
_set_int = UUID.__dict__["int"].__set__
_set_safe = UUID.__dict__["is_safe"].__set__
_UNKNOWN = SafeUUID.unknown

Convert = Callable[[Any], Any]


def uuid_from(raw: bytes) -> UUID:
    """A UUID from 16 bytes, at a quarter of the cost of `UUID(bytes=…)`."""
    if len(raw) != 16:
        raise ValueError(f"an id has 16 bytes, not {len(raw)}")
    made = object.__new__(UUID)
    _set_int(made, int.from_bytes(raw, "big"))
    _set_safe(made, _UNKNOWN)
    return made


def _optional(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _converters(annotation: Any) -> tuple[Convert | None, Convert | None]:
    """How a field's value becomes msgpack and comes back; None: as it is."""
    origin = typing.get_origin(annotation)
    args = typing.get_args(annotation)
    if origin is typing.Annotated:
        return _converters(args[0])
    if origin in (typing.Union, types.UnionType):
        encode, decode = _converters(next(arg for arg in args if arg is not type(None)))
        return encode and _optional(encode), decode and _optional(decode)
    if annotation is UUID:
        return (lambda value: value.bytes), uuid_from
    if origin is tuple:
        encode, decode = _converters(args[0])
        return (
            (lambda values: [encode(value) for value in values]) if encode else list,
            (lambda values: tuple([decode(value) for value in values])) if decode else tuple,
        )
    if isinstance(annotation, type) and issubclass(annotation, Value):
        names = tuple(annotation.model_fields)
        plans = [_converters(info.annotation) for info in annotation.model_fields.values()]
        encoders = [plan[0] for plan in plans]
        decoders = [plan[1] for plan in plans]
        make = annotation.__pydantic_validator__.validate_python

        def encode_value(value: Any) -> list[Any]:
            held = value.__dict__
            return [
                held[name] if encoder is None else encoder(held[name])
                for name, encoder in zip(names, encoders, strict=True)
            ]

        def decode_value(values: Any) -> Any:
            return make(
                {
                    name: value if decoder is None else decoder(value)
                    for name, decoder, value in zip(names, decoders, values, strict=True)
                }
            )

        return encode_value, decode_value
    return None, None


class _Plan:
    """How one event class is stored."""

    __slots__ = ("arity", "decoders", "encoders", "event_class", "make", "name", "personal", "schema", "version")

    def __init__(self, schema: Schema) -> None:
        event_class = schema.event_class
        self.schema = schema
        self.event_class = event_class
        self.name = event_class.stored_name
        self.version = event_class.schema_version
        self.personal = tuple(event_class.personal_fields)
        plans = [(name, _converters(event_class.model_fields[name].annotation)) for name in event_class.clear_fields]
        self.encoders = [(name, plan[0]) for name, plan in plans]
        self.decoders = [(name, plan[1]) for name, plan in plans]
        self.arity = _ENVELOPE_ARITY + len(plans) + 1
        self.make = event_class.__pydantic_validator__.validate_python


class EventMapper(Mapper[UUID]):
    """The mapper of `eventsourcing`, with Tallybook's stored form. Errors name the event that can't be read."""

    def __init__(self, keyring: Keyring, registry: Mapping[str, Schema] = REGISTRY) -> None:
        super().__init__(transcoder=JSONTranscoder())
        self.keyring = keyring
        self._plans = {name: _Plan(schema) for name, schema in registry.items()}
        self._metadata: tuple[Metadata | None, list[Any]] = (None, [])
        self._read: tuple[list[Any] | None, Metadata | None] = (None, None)

    def to_stored_event(self, domain_event: DomainEventProtocol[UUID]) -> StoredEvent:
        """The stored form of a new event."""
        event = typing.cast(Event, domain_event)
        plan = self._plans.get(event.stored_name)
        if plan is None:
            raise UnknownStoredName(
                f"{type(event).__qualname__} is not in the registry of stored names.", where=event.stored_name
            )
        held = event.__dict__
        subject: UUID | None = held["subject_id"]
        sealed = self._seal(plan, held, subject) if plan.personal else None
        state = msgpack.packb(
            [
                plan.version,
                FIRST_KEY_ID if sealed else None,
                held["event_id"].bytes,
                held["effective_us"],
                None if subject is None else subject.bytes,
                self._pack_metadata(held["metadata"]),
                *[held[name] if encode is None else encode(held[name]) for name, encode in plan.encoders],
                sealed,
            ]
        )
        return StoredEvent(held["originator_id"], held["originator_version"], plan.name, state)

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
        plan = self._plans.get(stored_name)
        try:
            if plan is None:
                raise UnknownStoredName(
                    "The stored name is not known to this release.",
                    where=_where(originator_id, originator_version, stored_name, position),
                )
            values = msgpack.unpackb(state, strict_map_key=True)
            if type(values) is not list or not values or type(values[0]) is not int:
                raise ValueError("the state is not an array that begins with a schema version")
            version = values[0]
            if version != plan.version:
                if version > plan.version:
                    raise NewerSchema(
                        f"Schema version {version} was written by a later release; this one reads {plan.version}. "
                        "Upgrade Tallybook.",
                        where=_where(originator_id, originator_version, stored_name, position),
                    )
                values = self._upcast(plan, values)
            if len(values) != plan.arity:
                raise ValueError(f"{len(values)} items where {plan.arity} belong")
            subject = None if values[4] is None else uuid_from(values[4])
            event_id = uuid_from(values[2])
            fields: dict[str, Any] = {
                "originator_id": originator_id,
                "originator_version": originator_version,
                "event_id": event_id,
                "effective_us": values[3],
                "subject_id": subject,
                "metadata": self._unpack_metadata(values[5]),
            }
            index = _ENVELOPE_ARITY
            for name, decode in plan.decoders:
                value = values[index]
                fields[name] = value if decode is None else decode(value)
                index += 1
            if values[index] is not None:
                mask, blob = values[index]
                known = plan.schema.personal_fields(version)
                names = tuple([name for bit, name in enumerate(known) if mask >> bit & 1])
                if not names or mask >> len(known) or subject is None:
                    raise ValueError("the sealed part does not fit the event")
                sealed = Sealed(event_id, stored_name, version, subject, values[1], names, blob)
                for name in names:
                    if name in plan.personal:
                        fields[name] = Personal(sealed=sealed, field=name)
            return typing.cast(Event, plan.make(fields))
        except StoredFormError:
            raise
        except ValidationError as error:
            problem = error.errors()[0]
            raise StoredFormError(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                where=_where(originator_id, originator_version, stored_name, position),
            ) from error
        except (ValueError, TypeError, msgpack.exceptions.UnpackException, msgpack.exceptions.ExtraData) as error:
            raise StoredFormError(
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
                where=_where(originator_id, originator_version, stored_name, position),
            ) from error

    def _upcast(self, plan: _Plan, values: list[Any]) -> list[Any]:
        clear = values[_ENVELOPE_ARITY:-1]
        for version in range(values[0], plan.version):
            if version not in plan.schema.upcasters:
                raise ValueError(f"there is no schema version {version}")
            clear = plan.schema.upcasters[version](clear)
        return [*values[:_ENVELOPE_ARITY], *clear, values[-1]]

    def _seal(self, plan: _Plan, held: Mapping[str, Any], subject: UUID | None) -> list[Any] | None:
        mask = 0
        names: list[str] = []
        values: list[object] = []
        for bit, name in enumerate(plan.personal):
            handle: Personal[Any] | None = held[name]
            if handle is not None:
                value = handle._take()
                if value is None:
                    raise TypeError(f"{plan.name}.{name} was sealed before: an event is stored once")
                mask |= 1 << bit
                names.append(name)
                values.append(value)
        if not mask:
            return None
        if subject is None:
            raise TypeError(f"{plan.name} holds personal data and names no subject")
        blob = self.keyring.seal(subject, held["event_id"], plan.name, plan.version, names, values)
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
        if last == values and made is not None:
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


def _where(originator_id: UUID | str, originator_version: int, stored_name: str, position: int | None) -> str:
    at = f"position {position}, " if position is not None else ""
    return f"{at}stream {originator_id} version {originator_version}, {stored_name}"


def describe_registry(registry: Mapping[str, Schema] = REGISTRY) -> Sequence[tuple[str, int, tuple[str, ...]]]:
    """Stored name, schema version and field names of every event, for documentation and checks."""
    return [
        (
            name,
            schema.event_class.schema_version,
            (*schema.event_class.clear_fields, *schema.event_class.personal_fields),
        )
        for name, schema in sorted(registry.items())
    ]
