"""The stored form of each event class: an encoder and a decoder of its own, compiled once from its fields.

A generic loop over the fields, and pydantic's validation of what was validated before it was stored, would cost three
times as much for each event that is read. Reading checks form: arity, and the type of every value. Ranges and
patterns were checked when the event was made, and the log's Merkle tree tells whether the bytes are still those.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID, SafeUUID

from tallybook.domain.events import Event, Schema, Value

ENVELOPE_ARITY = 6
_SCALARS = (int, str, bytes, bool)
_set_int = UUID.__dict__["int"].__set__
_set_safe = UUID.__dict__["is_safe"].__set__
_UNKNOWN = SafeUUID.unknown
_set = object.__setattr__


def uuid_from(raw: bytes) -> UUID:
    """A UUID from 16 bytes, at a quarter of the cost of `UUID(bytes=…)`."""
    if type(raw) is not bytes or len(raw) != 16:
        raise ValueError("an id is 16 bytes")
    made = object.__new__(UUID)
    _set_int(made, int.from_bytes(raw, "big"))
    _set_safe(made, _UNKNOWN)
    return made


known_uuid = lru_cache(maxsize=16_384)(uuid_from)
"""The same for ids that neighbours in the log share."""


class Form:
    """How one event class is stored: `encode` gives its clear fields, `decode` makes the event from all values."""

    __slots__ = ("_masks", "arity", "decode", "encode", "name", "personal", "schema", "version")

    def __init__(self, schema: Schema) -> None:
        event_class = schema.event_class
        self.schema = schema
        self.name = event_class.stored_name
        self.version = event_class.schema_version
        self.personal = tuple(event_class.personal_fields)
        self._masks: dict[tuple[int, int], tuple[str, ...]] = {}
        self.arity = ENVELOPE_ARITY + len(event_class.clear_fields) + 1
        source = Source()
        fields = [(name, event_class.model_fields[name].annotation) for name in event_class.clear_fields]
        encoded = ", ".join(source.encode(annotation, f"held[{name!r}]") for name, annotation in fields)
        decoded = [
            ("originator_id", "originator_id"),
            ("originator_version", "originator_version"),
            ("event_id", "event_id"),
            ("effective_us", source.decode(int, "values[3]", "effective_us")),
            ("subject_id", "subject_id"),
            ("metadata", "metadata"),
            *(
                (name, source.decode(annotation, f"values[{ENVELOPE_ARITY + index}]", name))
                for index, (name, annotation) in enumerate(fields)
            ),
            *((name, "None") for name in self.personal),
        ]
        made = source.compile(
            f"def encode(held): return [{encoded}]\n"
            "def decode(values, originator_id, originator_version, event_id, subject_id, metadata, handles):\n"
            f"    held = {_dict(decoded)}\n"
            "    if handles: held.update(handles)\n" + source.build(event_class)
        )
        self.encode: Callable[[Mapping[str, Any]], list[Any]] = made["encode"]
        self.decode: Callable[..., Event] = made["decode"]

    def fields_set(self, version: int, mask: int) -> tuple[str, ...]:
        """Names of the personal fields that a mask of a schema version tells of. Raises ValueError."""
        names = self._masks.get((version, mask))
        if names is None:
            known = self.schema.personal_fields(version)
            if not 0 < mask < 1 << len(known):
                raise ValueError("the mask names personal fields that the event does not have")
            names = tuple(name for bit, name in enumerate(known) if mask >> bit & 1)
            self._masks[version, mask] = names
        return names


class Source:
    """Python source of expressions for fields, and the objects that it refers to by name."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"_uuid": uuid_from, "_wrong": _wrong, "_new": object.__new__, "_set": _set}
        self._made: dict[type, str] = {}

    def encode(self, annotation: Any, value: str) -> str:
        """What turns `value` into what msgpack packs."""
        annotation, optional = plain(annotation)
        if annotation is UUID:
            made = f"{value}.bytes"
        elif typing.get_origin(annotation) is tuple:
            item = self.encode(typing.get_args(annotation)[0], "item")
            return f"[{item} for item in {value}]" if item != "item" else f"list({value})"
        elif _is_value(annotation):
            fields = annotation.model_fields.items()
            made = f"[{', '.join(self.encode(info.annotation, f'{value}.{name}') for name, info in fields)}]"
        else:
            return value
        return f"(None if {value} is None else {made})" if optional else made

    def decode(self, annotation: Any, value: str, name: str) -> str:
        """What turns what msgpack unpacked into the field's value, or raises ValueError."""
        annotation, optional = plain(annotation)
        if annotation is UUID:
            made = f"_uuid({value})"
        elif typing.get_origin(annotation) is tuple:
            item = self.decode(typing.get_args(annotation)[0], "item", name)
            made = f"(tuple([{item} for item in {value}]) if type({value}) is list else _wrong({name!r}, {value}))"
        elif _is_value(annotation):
            made = f"{self._maker(annotation)}({value})"
        elif annotation in _SCALARS:
            made = f"({value} if type({value}) is {annotation.__name__} else _wrong({name!r}, {value}))"
        else:
            raise TypeError(f"{name}: {annotation} has no stored form")
        return f"(None if {value} is None else {made})" if optional else made

    def build(self, kind: type[Value]) -> str:
        """Statements that make an instance from the dict `held`, past validation, as pydantic itself lays it out."""
        kind_name = f"_kind{len(self.names)}"
        self.names[kind_name] = kind
        self.names[f"{kind_name}_set"] = set(kind.model_fields)
        return (
            f"    made = _new({kind_name})\n"
            "    _set(made, '__dict__', held)\n"
            f"    _set(made, '__pydantic_fields_set__', {kind_name}_set)\n"
            "    _set(made, '__pydantic_extra__', None)\n"
            "    _set(made, '__pydantic_private__', None)\n"
            "    return made\n"
        )

    def compile(self, text: str) -> dict[str, Any]:
        """Run the source; what it defines."""
        made: dict[str, Any] = {}
        exec(text, self.names, made)  # noqa: S102 - made of field names of registered classes, never of what was read
        return made

    def _maker(self, kind: type[Value]) -> str:
        if kind not in self._made:
            name = self._made[kind] = f"_make{len(self._made)}"
            fields = [
                (field, self.decode(info.annotation, f"values[{index}]", field))
                for index, (field, info) in enumerate(kind.model_fields.items())
            ]
            self.names[name] = self.compile(
                "def make(values):\n"
                f"    if type(values) is not list or len(values) != {len(fields)}: _wrong({kind.__name__!r}, values)\n"
                f"    held = {_dict(fields)}\n" + self.build(kind)
            )["make"]
        return self._made[kind]


def _dict(fields: typing.Iterable[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{name!r}: {expression}" for name, expression in fields) + "}"


def _wrong(name: str, value: Any) -> typing.NoReturn:
    raise ValueError(f"{name}: a value of type {type(value).__name__} does not belong there")


def plain(annotation: Any) -> tuple[Any, bool]:
    """An annotation without its marks, and whether None is allowed."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return plain(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in typing.get_args(annotation) if arg is not type(None))
        return plain(inner)[0], True
    return annotation, False


def _is_value(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Value)
