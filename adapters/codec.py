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
from functools import lru_cache
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


def uuid_from(raw: bytes) -> UUID:
    """A UUID from 16 bytes, at a quarter of the cost of `UUID(bytes=…)`."""
    if len(raw) != 16:
        raise ValueError(f"an id has 16 bytes, not {len(raw)}")
    made = object.__new__(UUID)
    _set_int(made, int.from_bytes(raw, "big"))
    _set_safe(made, _UNKNOWN)
    return made


known_uuid = lru_cache(maxsize=16_384)(uuid_from)
"""The same for ids that neighbours in the log share."""


class _Source:
    """Source of two expressions for a field: its value as msgpack, and back.

    Each event class gets an encoder and a decoder of its own, compiled once from these: a generic loop over its fields
    costs twice as much for each event. `names` are the objects that the expressions refer to.
    """

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"_uuid": known_uuid}

    def encode(self, annotation: Any, value: str) -> str:
        """An expression that turns `value` into what msgpack packs."""
        annotation, optional = _plain(annotation)
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation is UUID:
            made = f"{value}.bytes"
        elif origin is tuple:
            item = self.encode(args[0], "item")
            return f"[{item} for item in {value}]" if item != "item" else f"list({value})"
        elif _is_value(annotation):
            fields = annotation.model_fields.items()
            made = f"[{', '.join(self.encode(info.annotation, f'{value}.{name}') for name, info in fields)}]"
        else:
            return value
        return f"(None if {value} is None else {made})" if optional else made

    def decode(self, annotation: Any, value: str) -> str:
        """An expression that turns what msgpack unpacked into what the event's validator takes."""
        annotation, optional = _plain(annotation)
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation is UUID:
            made = f"_uuid({value})"
        elif origin is tuple:
            item = self.decode(args[0], "item")
            return f"tuple([{item} for item in {value}])" if item != "item" else f"tuple({value})"
        elif _is_value(annotation):
            make = f"_make_{annotation.__name__}"
            self.names[make] = annotation.__pydantic_validator__.validate_python
            self.names[f"_arity_{annotation.__name__}"] = self._check_arity(len(annotation.model_fields))
            fields = ", ".join(
                f"{name!r}: {self.decode(info.annotation, f'{value}[{index}]')}"
                for index, (name, info) in enumerate(annotation.model_fields.items())
            )
            made = f"{make}({{{fields}}})"
            made = f"(_arity_{annotation.__name__}({value}) and {made})"
        else:
            return value
        return f"(None if {value} is None else {made})" if optional else made

    @staticmethod
    def _check_arity(arity: int) -> Callable[[Any], bool]:
        def check(values: Any) -> bool:
            if type(values) is not list or len(values) != arity:
                raise ValueError(f"a part of the event is not an array of {arity} items")
            return True

        return check


def _plain(annotation: Any) -> tuple[Any, bool]:
    """An annotation without its marks, and whether None is allowed."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in typing.get_args(annotation) if arg is not type(None))
        return _plain(inner)[0], True
    return annotation, False


def _is_value(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Value)


class _Plan:
    """How one event class is stored."""

    __slots__ = ("arity", "decode", "encode", "event_class", "name", "personal", "schema", "validate", "version")

    def __init__(self, schema: Schema) -> None:
        event_class = schema.event_class
        self.schema = schema
        self.event_class = event_class
        self.name = event_class.stored_name
        self.version = event_class.schema_version
        self.personal = tuple(event_class.personal_fields)
        self.validate: Callable[[dict[str, Any]], Event] = event_class.__pydantic_validator__.validate_python
        self.arity = _ENVELOPE_ARITY + len(event_class.clear_fields) + 1
        source = _Source()
        fields = [(name, event_class.model_fields[name].annotation) for name in event_class.clear_fields]
        encoded = ", ".join(source.encode(annotation, f"held[{name!r}]") for name, annotation in fields)
        decoded = "".join(
            f", {name!r}: {source.decode(annotation, f'values[{_ENVELOPE_ARITY + index}]')}"
            for index, (name, annotation) in enumerate(fields)
        )
        made: dict[str, Any] = {}
        exec(  # noqa: S102 - compiles field names of registered classes, never anything that was read
            f"def encode(held): return [{encoded}]\n"
            "def decode(values, originator_id, originator_version, event_id, subject_id, metadata):\n"
            "    return {'originator_id': originator_id, 'originator_version': originator_version, "
            "'event_id': event_id, 'effective_us': values[3], 'subject_id': subject_id, "
            f"'metadata': metadata{decoded}}}\n",
            source.names,
            made,
        )
        self.encode: Callable[[Mapping[str, Any]], list[Any]] = made["encode"]
        self.decode: Callable[..., dict[str, Any]] = made["decode"]


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
                *plan.encode(held),
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
            subject = None if values[4] is None else known_uuid(values[4])
            event_id = uuid_from(values[2])
            fields = plan.decode(
                values, originator_id, originator_version, event_id, subject, self._unpack_metadata(values[5])
            )
            if values[-1] is not None:
                mask, blob = values[-1]
                known = plan.schema.personal_fields(version)
                names = tuple([name for bit, name in enumerate(known) if mask >> bit & 1])
                if not names or mask >> len(known) or subject is None:
                    raise ValueError("the sealed part does not fit the event")
                sealed = Sealed(event_id, stored_name, version, subject, values[1], names, blob)
                for name in names:
                    if name in plan.personal:
                        fields[name] = Personal(sealed=sealed, field=name)
            return plan.validate(fields)
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
