"""Events as JSON, from their stored bytes: clear fields by name, personal ones as they are sealed. Opens nothing.

Ids of 16 bytes are written as UUIDs, other bytes as base64, arrays of fields as objects in stored order. So the stored
array can be had back from its JSON form, and compared with it.
"""

from __future__ import annotations

import base64
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import msgpack

from tallybook.domain.events import REGISTRY, Event, Metadata, Schema, Value, from_us, plain

from .form import ENVELOPE, ENVELOPE_ARITY, Form, form_of

Shape = str | list[Any] | dict[str, Any]
"""The kind of a stored value: its name; `[shape]` of a list; `{name: shape}` of an array of fields."""

_KINDS: Mapping[Any, str] = {int: "int", str: "text", bytes: "bytes", bool: "bool", UUID: "id"}


def shape_of(annotation: Any) -> Shape:
    """The shape of a field's type. What may be nil is not told: it is seen."""
    annotation, _ = plain(annotation)
    if typing.get_origin(annotation) is tuple:
        return [shape_of(typing.get_args(annotation)[0])]
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return fields_of(annotation, annotation.model_fields)
    return _KINDS[annotation]


def fields_of(kind: type[Value], names: Sequence[str] | Mapping[str, Any]) -> dict[str, Shape]:
    """The shapes of fields of a class, in stored order."""
    return {name: shape_of(kind.model_fields[name].annotation) for name in names}


_ENVELOPE_SHAPES: Mapping[str, Shape] = {
    "schema_version": "int",
    "key_id": "int",
    "event_id": "id",
    "effective_us": "int",
    "subject_id": "id",
    "metadata": fields_of(Metadata, Metadata.model_fields),
}
assert len(_ENVELOPE_SHAPES) == ENVELOPE_ARITY == len(ENVELOPE)


def schemas(registry: Mapping[str, Schema] = REGISTRY) -> dict[str, Any]:
    """What the JSON form says that the bytes don't: the names of fields, by stored name."""
    return {
        "envelope": _ENVELOPE_SHAPES,
        "events": {
            name: {
                "schema_version": schema.event_class.schema_version,
                "fields": fields_of(schema.event_class, schema.event_class.clear_fields),
                "personal": {
                    field: {"category": mark.category.value, "sensitivity": mark.sensitivity.value}
                    for field, mark in schema.event_class.personal_fields.items()
                },
            }
            for name, schema in sorted(registry.items())
        },
    }


def clear_fields(event: Event) -> dict[str, Any]:
    """The clear fields of an event as JSON values."""
    held = event.__dict__
    return {name: as_plain(held[name]) for name in event.clear_fields}


def personal_set(event: Event) -> list[str]:
    """The names of the personal fields that an event holds, sealed."""
    held = event.__dict__
    return [name for name in event.personal_fields if held[name] is not None]


def as_plain(value: Any) -> Any:
    """A field's value as a JSON value."""
    if isinstance(value, (tuple, list)):
        return [as_plain(one) for one in value]
    if isinstance(value, Value):
        return {name: as_plain(value.__dict__[name]) for name in type(value).model_fields}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, UUID) else value


def as_json(value: Any, indent: int | None = None, *, canonical: bool = False) -> bytes:
    """JSON in UTF-8, ended by a newline. Half of a surrogate pair, which UTF-8 can't hold, is escaped.

    `canonical`: names in order, so that equal values have equal bytes.
    """
    separators = (",", ": " if indent else ":")
    dumps = partial(json.dumps, value, separators=separators, indent=indent, allow_nan=False, sort_keys=canonical)
    try:
        return f"{dumps(ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:
        return f"{dumps()}\n".encode()


def rfc3339(us: int) -> str:
    """Microseconds since 1970-01-01T00:00Z as an RFC 3339 time in UTC, always with six decimals."""
    return from_us(us).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


class ClearForm:
    """Stored states as JSON values. For one thread."""

    def __init__(self, registry: Mapping[str, Schema] = REGISTRY) -> None:
        self._forms = {name: form_of(schema) for name, schema in registry.items()}
        self._writers: dict[str, Callable[[list[Any]], dict[str, Any]]] = {}
        self._envelope = _writer_of(_ENVELOPE_SHAPES)

    def event(self, name: str, state: bytes) -> dict[str, Any]:
        """An event's line: `event`, and `upcast` where it is of an older schema version.

        The fields of an older version have no names any more: they are a list, and `upcast` holds what upcasters make
        of them. Raises ValueError where the state is no event's.
        """
        stored = unpacked(state)
        if not isinstance(stored, list) or len(stored) <= ENVELOPE_ARITY:
            raise ValueError("the state is no event's")
        form = self._forms.get(name)
        current = form is not None and stored[0] == form.version
        line: dict[str, Any] = {"event": {**self._envelope(stored[:ENVELOPE_ARITY])}}
        line["event"]["fields"] = (
            self._fields(form, stored) if form is not None and current else plain_json(stored[ENVELOPE_ARITY:-1])
        )
        line["event"]["sealed"] = plain_json(stored[-1])
        if form is not None and not current:
            line["upcast"] = self._fields(form, form.current(stored))
        return line

    def fields(self, name: str, state: bytes) -> dict[str, Any]:
        """The clear fields of an event, brought up to the newest version. Raises ValueError, KeyError."""
        form = self._forms[name]
        stored = unpacked(state)
        return self._fields(form, stored if stored[0] == form.version else form.current(stored))

    def _fields(self, form: Form, stored: list[Any]) -> dict[str, Any]:
        if len(stored) != form.arity:
            raise ValueError(f"{len(stored)} items where {form.arity} belong")
        writer = self._writers.get(form.name)
        if writer is None:
            kind: type[Event] = form.schema.event_class
            writer = self._writers[form.name] = _writer_of(fields_of(kind, kind.clear_fields))
        return writer(stored[ENVELOPE_ARITY:-1])


def unpacked(state: bytes) -> Any:
    """What a state holds. Raises ValueError."""
    try:
        return msgpack.unpackb(state)
    except (msgpack.exceptions.UnpackException, msgpack.exceptions.ExtraData, ValueError, RecursionError) as error:
        raise ValueError(f"the state can't be read: {error or type(error).__name__}") from error


def plain_json(value: Any) -> Any:
    """A stored value without the names of its parts."""
    if isinstance(value, bytes):
        return str(UUID(bytes=value)) if len(value) == 16 else base64.b64encode(value).decode()
    return [plain_json(one) for one in value] if isinstance(value, list) else value


def _writer_of(shapes: Mapping[str, Shape]) -> Callable[[list[Any]], dict[str, Any]]:
    """What names the values of an array of fields. Raises ValueError where it is another array."""
    names = tuple(shapes)
    parts = [_part(shape) for shape in shapes.values()]

    def write(values: list[Any]) -> dict[str, Any]:
        if not isinstance(values, list) or len(values) != len(names):
            raise ValueError(f"where {', '.join(names)} belong, there is something else")
        return {
            name: value if part is None else part(value) for name, part, value in zip(names, parts, values, strict=True)
        }

    return write


def _part(shape: Shape) -> Callable[[Any], Any] | None:
    """What writes a value of a shape; None where it stands as it is."""
    if isinstance(shape, dict):
        inner = _writer_of(shape)
        return lambda value: None if value is None else inner(value)
    if isinstance(shape, list):
        item = _part(shape[0])
        return None if item is None else lambda value: None if value is None else [item(one) for one in value]
    return plain_json if shape in ("id", "bytes") else None
