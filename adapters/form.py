"""The stored form of each event class: an encoder and a decoder of its own, compiled once from its fields.

A generic loop over the fields, and pydantic's validation of what was validated before it was stored, would cost three
times as much for each event that is read. Reading checks form: arity, and the type of every value. Ranges and
patterns were checked when the event was made, and the log's Merkle tree tells whether the bytes are still those.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any
from uuid import UUID, SafeUUID

import msgpack
from pydantic import BaseModel

from tallybook.domain.events import Event, Metadata, Schema, Value, plain

ENVELOPE = ("version", "key_id", "event_id", "effective_us", "subject_id", "metadata")
"""What every state begins with; the clear fields follow, and the sealed part is last."""
ENVELOPE_ARITY = len(ENVELOPE)
_SCALARS = (int, str, bytes, bool)
_UNKNOWN = SafeUUID.unknown
V = typing.TypeVar("V", bound=Value)


def _draft(base: type, **namespace: Any) -> Any:
    """A class with the layout of `base`, or of what adds only a `__weakref__` to it, that lets attributes be set.

    An instance is filled as a draft and then given the class that it is to be. That makes an immutable one past its
    own `__init__` and `__setattr__`, for less than the calls of `object.__new__` and `object.__setattr__` would take.
    """
    open_to_all = {name: getattr(object, name) for name in ("__init__", "__setattr__", "__delattr__")}
    return type.__new__(type(base), f"{base.__name__}Draft", (base,), {**open_to_all, **namespace})


_UUIDDraft = _draft(UUID, __slots__=())
_ValueDraft = _draft(BaseModel)


def uuid_from(raw: bytes) -> UUID:
    """A UUID from 16 bytes, at a quarter of the cost of `UUID(bytes=…)`."""
    if type(raw) is not bytes or len(raw) != 16:
        raise ValueError("an id is 16 bytes")
    return uuid_of(int.from_bytes(raw, "big"))


def uuid_of(number: int) -> UUID:
    """A UUID from its number, below 2**128."""
    made = _UUIDDraft()
    made.int, made.is_safe = number, _UNKNOWN
    made.__class__ = UUID
    return typing.cast("UUID", made)


known_uuid = lru_cache(maxsize=16_384)(uuid_from)
"""The same for ids that neighbours in the log share."""


class Form:
    """How one event class is stored.

    `encode(held, metadata, mapper)` gives the values of a state from an event's `__dict__` and its packed metadata.
    `decode(state, originator_id, originator_version, mapper)` gives the event of a state.
    """

    __slots__ = ("_masks", "arity", "decode", "encode", "name", "named_by", "of", "personal", "schema", "version")

    def __init__(self, schema: Schema) -> None:
        event_class = schema.event_class
        self.schema = schema
        self.name = event_class.stored_name
        self.version = event_class.schema_version
        self.personal = tuple(event_class.personal_fields)
        self.of = {
            name: ENVELOPE_ARITY + event_class.clear_fields.index(mark.of)
            for name, mark in event_class.personal_fields.items()
            if mark.of is not None
        }
        """Personal fields of another than the event's subject, with the place of what names it."""
        self._masks: dict[tuple[int, int], tuple[str, ...]] = {}
        self.arity = ENVELOPE_ARITY + len(event_class.clear_fields) + 1
        self.named_by = [(name, mark.known_as) for name, mark in event_class.personal_fields.items() if mark.known_as]
        """Personal fields that policies call by the value of a clear one, and how."""
        source = Source()
        fields = [(name, event_class.model_fields[name].annotation) for name in event_class.clear_fields]
        some = " or ".join(f"held[{name!r}] is not None" for name in self.personal) or "False"
        self.encode: Callable[..., list[Any]] = source.function(
            "held, metadata, mapper",
            "subject = held['subject_id']",
            f"key_id, sealed = mapper._seal(form, held) if {some} else (None, None)",
            "return ["
            + ", ".join(
                [
                    f"{self.version}, key_id, held['event_id'].int.to_bytes(16, 'big'), held['effective_us']",
                    "None if subject is None else subject.int.to_bytes(16, 'big'), metadata",
                    *(source.encode(annotation, f"held[{name!r}]") for name, annotation in fields),
                    "sealed",
                ]
            )
            + "]",
            form=self,
        )
        checks = [
            ("stream's version", "type(originator_version) is int"),
            ("version", "type(version) is int"),
            ("event_id", "type(event_id) is bytes and len(event_id) == 16"),
            ("effective_us", "type(effective_us) is int"),
            *((name, source.check(annotation, f"f_{name}")) for name, annotation in fields),
        ]
        if not self.personal:
            checks.append(("sealed part", "sealed is None"))
        values = [*ENVELOPE, *(f"f_{name}" for name, _ in fields), "sealed"]
        held = [
            ("originator_id", "originator_id"),
            ("originator_version", "originator_version"),
            ("event_id", "made_id"),
            ("effective_us", "effective_us"),
            ("subject_id", "None if subject_id is None else _known(subject_id)"),
            ("metadata", "mapper._unpack_metadata(metadata)"),
            *((name, source.decoded(annotation, f"f_{name}")) for name, annotation in fields),
            *((name, "None") for name in self.personal),
        ]
        self.decode: Callable[..., Event] = source.function(
            "state, originator_id, originator_version, mapper",
            "values = _unpack(state)",
            f"if type(values) is not list or not values or values[0] != {self.version}: values = form.current(values)",
            f"if len(values) != {self.arity}: _arity({self.arity}, values)",
            f"{', '.join(values)} = values",
            *source.must(checks),
            "made_id = _uuid_draft()",
            "made_id.int, made_id.is_safe = _int(event_id, 'big'), _safe",
            "made_id.__class__ = _UUID",
            *source.build(event_class, held),
            *(
                ["if sealed is not None: made.__dict__.update(mapper._handles(form, values, made_id))"]
                if self.personal
                else []
            ),
            "return made",
            form=self,
        )

    def current(self, values: list[Any]) -> list[Any]:
        """The values of an older schema version as those of the newest. Raises NewerVersion, ValueError."""
        if type(values) is not list or not values or type(values[0]) is not int:
            raise ValueError("the state is not an array that begins with a schema version")
        version = values[0]
        if version > self.version:
            raise NewerVersion(
                f"Schema version {version} was written by a later release; this one reads {self.version}. "
                "Upgrade Tallybook."
            )
        if len(values) <= ENVELOPE_ARITY:
            raise ValueError(f"{len(values)} items where at least {ENVELOPE_ARITY + 1} belong")
        clear = values[ENVELOPE_ARITY:-1]
        for older in range(version, self.version):
            if older not in self.schema.upcasters:
                raise ValueError(f"there is no schema version {older}")
            clear = self.schema.upcasters[older](clear)
        return [*values[:ENVELOPE_ARITY], *clear, values[-1]]

    def known_as(self, values: Sequence[Any]) -> dict[str, str]:
        """What policies call the fields of `named_by`, in a state of the newest version."""
        clear = dict(zip(self.schema.event_class.clear_fields, values[ENVELOPE_ARITY:-1], strict=True))
        return {name: template.format_map(clear) for name, template in self.named_by}

    def places(self, fields: Sequence[str]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
        """What picks fields out of the values of a state: those of the envelope, and clear ones. Raises KeyError."""
        places = {name: index for index, name in enumerate(ENVELOPE) if name in Event.model_fields}
        places.update((name, index) for index, name in enumerate(self.schema.event_class.clear_fields, ENVELOPE_ARITY))
        unknown = [name for name in fields if name not in places]
        if unknown or not fields:
            raise KeyError(f"{self.name} has no clear field {', '.join(unknown)}; there are {', '.join(places)}")
        indexes = [places[name] for name in fields]
        if len(indexes) == 1:
            return itemgetter(slice(indexes[0], indexes[0] + 1))  # a tuple, as of several
        return itemgetter(*indexes)

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


@lru_cache(maxsize=1024)
def form_of(schema: Schema) -> Form:
    """The form of a schema, compiled once for all who read and write."""
    return Form(schema)


def unvalidated(kind: type[V], held: dict[str, Any]) -> V:
    """An instance of values that are known to be right, past validation (see `Value.__getattr__`)."""
    made = _ValueDraft()
    made.__dict__ = held
    made.__class__ = kind
    return typing.cast("V", made)


class NewerVersion(Exception):
    """A later release wrote a state."""


class Source:
    """Python source of expressions for fields, and the objects that it refers to by name."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {
            "_arity": _arity,
            "_int": int.from_bytes,
            "_known": known_uuid,
            "_safe": _UNKNOWN,
            "_unpack": msgpack.unpackb,
            "_uuid": uuid_from,
            "_uuid_draft": _UUIDDraft,
            "_UUID": UUID,
            "_wrong": _wrong,
        }
        self._made: dict[type, str] = {}

    def encode(self, annotation: Any, value: str) -> str:
        """What turns `value` into what msgpack packs."""
        annotation, optional = plain(annotation)
        if annotation is UUID:
            made = f"{value}.bytes"
        elif typing.get_origin(annotation) is tuple:
            item = self.encode(typing.get_args(annotation)[0], "item")
            made = value if item == "item" else f"[{item} for item in {value}]"
        elif _is_value(annotation):
            made = self._encoded_fields(annotation, value)
        else:
            return value
        return f"(None if {value} is None else {made})" if optional else made

    def _encoded_fields(self, kind: type[Value], value: str) -> str:
        fields = [(name, info.annotation) for name, info in kind.model_fields.items()]
        if len(fields) > 1 and all(self.encode(annotation, "field") == "field" for _, annotation in fields):
            return f"{self.named(itemgetter(*(name for name, _ in fields)))}({value}.__dict__)"
        return f"[{', '.join(self.encode(annotation, f'{value}.{name}') for name, annotation in fields)}]"

    def decode(self, annotation: Any, value: str, name: str) -> str:
        """What turns what msgpack unpacked into a value of the type, or raises ValueError or TypeError."""
        return f"({self.decoded(annotation, value)} if {self.check(annotation, value)} else _wrong({name!r}))"

    def check(self, annotation: Any, value: str) -> str:
        """A condition on the type of what msgpack unpacked."""
        annotation, optional = plain(annotation)
        if annotation is UUID:
            held = f"type({value}) is bytes and len({value}) == 16"
        elif typing.get_origin(annotation) is tuple or _is_value(annotation):
            held = f"type({value}) is list"
            if (item := _plain_item(annotation)) is not None:
                held += f" and {self.named({item})}.issuperset(map(type, {value}))"
        elif annotation in _SCALARS:
            held = f"type({value}) is {annotation.__name__}"
        else:
            raise TypeError(f"{annotation} has no stored form")
        return f"({value} is None or {held})" if optional else held

    def decoded(self, annotation: Any, value: str) -> str:
        """What turns what msgpack unpacked, and `check` let through, into the value. It may raise ValueError."""
        annotation, optional = plain(annotation)
        if annotation is UUID:
            made = f"_uuid({value})"
        elif _plain_item(annotation) is not None:
            made = f"tuple({value})"
        elif typing.get_origin(annotation) is tuple:
            maker = self._maker(typing.get_args(annotation)[0])
            # Most have one item, and an iterator for it would take longer than the item.
            made = f"({maker}({value}[0]),) if len({value}) == 1 else tuple(map({maker}, {value}))"
        elif _is_value(annotation):
            made = f"{self._maker(annotation)}({value})"
        else:
            return value
        return f"(None if {value} is None else {made})" if optional else f"({made})"

    def must(self, checks: Sequence[tuple[str, str]]) -> list[str]:
        """Statements that let nothing pass which does not meet all conditions: one test, and names when it fails."""
        return [
            f"if not ({' and '.join(held for _, held in checks)}):",
            *(f"    if not ({held}): _wrong({name!r})" for name, held in checks),
        ]

    def build(self, kind: type[Value], fields: Sequence[tuple[str, str]]) -> list[str]:
        """Statements that make an instance, `made`, from expressions, past validation (see `Value.__getattr__`)."""
        # One by one is a tenth faster where Python keeps the values of an instance beside it, and slower elsewhere.
        if sys.version_info >= (3, 13):
            filled = [f"made.__dict__ = {{{', '.join(f'{name!r}: {expression}' for name, expression in fields)}}}"]
        else:
            filled = [f"made.{name} = {expression}" for name, expression in fields]
        return [f"made = {self.named(_draft(BaseModel))}()", *filled, f"made.__class__ = {self.named(kind)}"]

    def function(self, parameters: str, *statements: str, **names: Any) -> Callable[..., Any]:
        """Compile a function."""
        self.names.update(names)
        made: dict[str, Any] = {}
        text = f"def made({parameters}):\n" + "".join(f"    {statement}\n" for statement in statements)
        exec(text, self.names, made)  # noqa: S102 - made of field names of registered classes, never of what was read
        function: Callable[..., Any] = made["made"]
        return function

    def maker(self, kind: type[Value]) -> Callable[[list[Any]], Any]:
        """A function that makes a value from what msgpack unpacked."""
        made: Callable[[list[Any]], Any] = self.names[self._maker(kind)]
        return made

    def named(self, value: Any) -> str:
        """A name by which the source refers to an object."""
        name = f"_named{len(self.names)}"
        self.names[name] = value
        return name

    def _maker(self, annotation: Any) -> str:
        """The name of a function that makes a field's value, or an item of it, and checks its type."""
        if annotation is UUID:
            return "_uuid"
        if annotation not in self._made:
            if _is_value(annotation):
                fields = [(name, info.annotation) for name, info in annotation.model_fields.items()]
                statements = [
                    f"if type(values) is not list or len(values) != {len(fields)}: _wrong({annotation.__name__!r})",
                    f"{''.join(f'f_{name}, ' for name, _ in fields)} = values",
                    *self.must([(name, self.check(one, f"f_{name}")) for name, one in fields]),
                    *self.build(annotation, [(name, self.decoded(one, f"f_{name}")) for name, one in fields]),
                    "return made",
                ]
            else:
                statements = [f"return {self.decode(annotation, 'values', 'an item')}"]
            self._made[annotation] = self.named(self.function("values", *statements))
        return self._made[annotation]


def _arity(wanted: int, values: Any) -> typing.NoReturn:
    raise ValueError(f"{len(values)} items where {wanted} belong")


def _wrong(name: str) -> typing.NoReturn:
    raise ValueError(f"{name}: what stands there is of another type")


def _plain_item(annotation: Any) -> type | None:
    """The type of a tuple's items, if msgpack packs such items as they are."""
    if typing.get_origin(annotation) is not tuple:
        return None
    item, optional = plain(typing.get_args(annotation)[0])
    return item if item in _SCALARS and not optional else None


def _is_value(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Value)


make_metadata: Callable[[list[Any]], Metadata] = Source().maker(Metadata)
"""Metadata from its stored values. Raises ValueError where a type is wrong."""
