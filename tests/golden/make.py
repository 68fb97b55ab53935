"""Write the golden file of every stored event that has none: `python -m tests.golden.make`.

A golden file is the contract of one schema version: bytes that some release wrote, and what they say. It is made once
and never again; this script refuses to overwrite one. What changes the stored form needs a new schema version, an
upcaster, and a golden file beside the old one.
"""

from __future__ import annotations

import json
import os
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID, uuid5

from pydantic import TypeAdapter, ValidationError

import tallybook.domain
import tallybook.domain.access
import tallybook.domain.control
import tallybook.domain.customer
import tallybook.domain.loyalty
import tallybook.domain.operations
import tallybook.domain.ticket  # noqa: F401 - each registers its events
from tallybook.adapters.codec import EventMapper
from tallybook.adapters.keys import Keyring, MemoryKeyStore, commitment
from tallybook.domain.events import ENVELOPE, REGISTRY, Event, Metadata, Value
from tallybook.domain.personal import Personal

FOLDER = Path(__file__).parent
ORIGIN = "tallybook/golden"
SPACE = UUID("6d7f8a9b-0c1d-4e2f-8a3b-4c5d6e7f8091")
SUBJECT = uuid5(SPACE, "subject")
DATA_KEY = bytes(range(32))
NONCE = bytes(range(100, 112))

# What a field of this name really holds, where any text or number would do for its type.
REAL: Mapping[tuple[str, str], object] = {
    ("customer.registered", "kind"): "person",
    ("customer.interaction_recorded", "direction"): "in",
    ("customer.key_created", "commitment"): commitment(DATA_KEY),
    ("customer.key_created", "key_id"): 1,
    ("ticket.opened", "kind"): "complaint",
    ("ticket.replied", "author"): "human",
    ("book.rule_set_adopted", "zone_starts_us"): (-(2**62), 1_000_000_000_000_000),
    ("book.rule_set_adopted", "zone_offsets_s"): (-18_000, -14_400),
}


def keyring() -> Keyring:
    """A keyring whose only subject has the fixed key."""
    store = MemoryKeyStore(ORIGIN)
    store.add({SUBJECT: DATA_KEY})
    return Keyring(store, lambda subject: commitment(DATA_KEY) if subject == SUBJECT else None)


@contextmanager
def fixed_nonce() -> Iterator[None]:
    """Sealing is random: here it is not."""
    with mock.patch.object(os, "urandom", lambda count: (NONCE * 3)[:count]):
        yield


def example(annotation: Any, name: str, number: int) -> Any:
    """A value of a type, told apart by the name of its field."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return fitting(annotation, example(typing.get_args(annotation)[0], name, number), name)
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in typing.get_args(annotation) if arg is not type(None))
        return example(inner, name, number)
    if origin is Personal or annotation is Personal:
        return f"{name} of Ada, née Byron №{number}"
    if origin is tuple:
        inner = typing.get_args(annotation)[0]
        return tuple(example(inner, name, number + step) for step in (0, 1))
    if annotation is UUID:
        return uuid5(SPACE, f"{name}/{number}")
    if annotation is bool:
        return True
    if annotation is int:
        return 1000 + number
    if annotation is str:
        return f"{name}-{number}"
    if annotation is bytes:
        return bytes([number]) * 32
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return annotation(**fields_of(annotation, number))
    raise TypeError(f"{name}: make an example of {annotation!r}")


def fitting(annotation: Any, wanted: Any, name: str) -> Any:
    """The example, or something else that the constraints of the type allow."""
    adapter = TypeAdapter(annotation)
    for value in (wanted, 3, "EUR", "standard@1"):
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError:
            continue
        return value
    raise TypeError(f"{name}: no example fits {annotation!r}")


def fields_of(model: type[Value], number: int, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
    """An example of each field of a model."""
    stored_name = getattr(model, "stored_name", "")
    made = {}
    for step, (name, info) in enumerate(model.model_fields.items()):
        if name in skip:
            continue
        annotation: Any = info.annotation
        for mark in info.metadata:
            annotation = typing.Annotated[annotation, mark]
        made[name] = REAL.get((stored_name, name)) or example(annotation, name, number + step)
    return made


def examples(event_class: type[Event]) -> dict[str, Event]:
    """`full`: every field set; `bare`: all that may be left out is left out."""
    number = sum(map(ord, event_class.stored_name)) % 50
    fields = fields_of(event_class, number, frozenset(ENVELOPE))
    metadata = {
        "full": Metadata(
            recorded_us=1_700_000_000_123_456,
            actor="agent:lin",
            purpose="support",
            on_behalf_of="agent:kim",
            channel="email",
            correlation_id=uuid5(SPACE, "correlation"),
            causation_id=uuid5(SPACE, "causation"),
            command_id=uuid5(SPACE, "command"),
        ),
        "bare": Metadata(recorded_us=0, actor="system:expiry", purpose="expiry"),
    }
    required = {name for name, info in event_class.model_fields.items() if info.is_required()}
    sets = {"full": fields, "bare": {name: value for name, value in fields.items() if name in required}}
    return {
        kind: event_class(
            originator_id=uuid5(SPACE, event_class.stored_name),
            originator_version=7,
            event_id=uuid5(SPACE, f"{event_class.stored_name}/{kind}"),
            effective_us=1_600_000_000_654_321 if kind == "full" else -1,
            subject_id=SUBJECT if kind == "full" or event_class.personal_fields else None,
            metadata=metadata[kind],
            **given,
        )
        for kind, given in sets.items()
    }


def readable(value: Any) -> Any:
    """Plain JSON of a value."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (tuple, list)):
        return [readable(item) for item in value]
    if isinstance(value, Value):
        return {name: readable(getattr(value, name)) for name in type(value).model_fields}
    return value


def meaning(event: Event, ring: Keyring) -> dict[str, Any]:
    """What an event that was read says, its personal fields opened."""
    opened: dict[str, Any] = {}
    for name in event.personal_fields:
        handle = getattr(event, name)
        if handle is not None:
            opened[name] = (ring.open(handle.sealed) or {})[handle.field]
    return {
        name: opened.get(name) if name in event.personal_fields else readable(getattr(event, name))
        for name in type(event).model_fields
    }


def path_of(stored_name: str, version: int) -> Path:
    """Where the golden file of a schema version lies."""
    return FOLDER / f"{stored_name}.v{version}.json"


def golden(event_class: type[Event]) -> dict[str, Any]:
    """The content of a golden file."""
    ring = keyring()
    mapper = EventMapper(ring)
    made = {}
    for kind, event in examples(event_class).items():
        with fixed_nonce():
            row = mapper.to_stored_event(event)
        made[kind] = {
            "state": row.state.hex(),
            "decodes_to": meaning(
                mapper.read(event.originator_id, event.originator_version, row.topic, row.state), ring
            ),
        }
    return {
        "stored_name": event_class.stored_name,
        "schema_version": event_class.schema_version,
        "origin": ORIGIN,
        "data_key": DATA_KEY.hex(),
        "examples": made,
    }


def main() -> int:
    """Write what is missing."""
    for stored_name, schema in sorted(REGISTRY.items()):
        path = path_of(stored_name, schema.event_class.schema_version)
        if path.exists():
            print(f"kept   {path.name}")
            continue
        content = json.dumps(golden(schema.event_class), indent=1, ensure_ascii=False) + "\n"
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
        print(f"wrote  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
