"""Write the golden file of every new version of an event, and its shape: `python -m tests.golden.make`.

A golden file is the contract of one schema version: bytes that some release wrote, and what they say; of a version
after the first, what it makes of the golden events of all versions before it, too. It is made once and never again.
Where anything in `forms.json` no longer holds, this script says so and writes nothing. What changes the stored form
needs a new schema version, an upcaster, and a golden file beside the old ones.
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
from tools import forms

import tallybook.domain
import tallybook.domain.access
import tallybook.domain.control
import tallybook.domain.customer
import tallybook.domain.erasure
import tallybook.domain.liability
import tallybook.domain.loyalty
import tallybook.domain.operations
import tallybook.domain.policy
import tallybook.domain.privacy
import tallybook.domain.retention
import tallybook.domain.rewards
import tallybook.domain.signing
import tallybook.domain.ticket  # noqa: F401 - each registers its events
from tallybook.adapters.codec import EventMapper
from tallybook.adapters.keys import Keyring, MemoryKeyStore, commitment
from tallybook.domain.events import ENVELOPE, REGISTRY, Event, Metadata, Schema, Value
from tallybook.domain.personal import Personal

FOLDER = Path(__file__).parent
ORIGIN = "tallybook/golden"
SPACE = UUID("6d7f8a9b-0c1d-4e2f-8a3b-4c5d6e7f8091")
REFERRED = UUID(int=2**127 + 77)
SUBJECT = uuid5(SPACE, "subject")
DATA_KEY = bytes(range(32))
NONCE = bytes(range(100, 112))

# What a field of this name really holds, where any text or number would do for its type.
REAL: Mapping[tuple[str, str], object] = {
    ("customer.registered", "kind"): "person",
    ("customer.interaction_recorded", "direction"): "in",
    ("customer.key_created", "commitment"): commitment(DATA_KEY),
    ("customer.key_created", "key_id"): 1,
    ("customer.value_resealed", "key_id"): 2,
    ("customer.referred", "referred"): REFERRED,
    ("ticket.opened", "kind"): "complaint",
    ("ticket.replied", "author"): "human",
    ("book.rule_set_adopted", "zone_starts_us"): (-(2**62), 1_000_000_000_000_000),
    ("book.rule_set_adopted", "zone_offsets_s"): (-18_000, -14_400),
    ("policy.adopted", "zone_starts_us"): (-(2**62), 1_000_000_000_000_000),
    ("policy.adopted", "zone_offsets_s"): (-18_000, -14_400),
}


def keyring() -> Keyring:
    """A keyring whose subjects have the fixed key."""
    store = MemoryKeyStore(ORIGIN)
    store.add(dict.fromkeys(((SUBJECT, 1), (SUBJECT, 2), (REFERRED, 1)), DATA_KEY))
    return Keyring(store, lambda subject, _: commitment(DATA_KEY) if subject in (SUBJECT, REFERRED) else None)


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
            application="shop/1.2",
            rule="desk",
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
    return forms.golden_path(FOLDER, stored_name, version)


def said(path: Path, mapper: EventMapper) -> dict[str, Any]:
    """What the examples of a golden file say today, as JSON."""
    content = json.loads(path.read_text(encoding="utf-8"))
    made = {}
    for kind, example in content["examples"].items():
        wanted = example["decodes_to"]
        event = mapper.read(
            UUID(wanted["originator_id"]),
            wanted["originator_version"],
            content["stored_name"],
            bytes.fromhex(example["state"]),
        )
        made[kind] = meaning(event, mapper.keyring)
    return made


def golden(
    event_class: type[Event], registry: Mapping[str, Schema] = REGISTRY, folder: Path = FOLDER
) -> dict[str, Any]:
    """The content of a golden file."""
    ring = keyring()
    mapper = EventMapper(ring, registry)
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
    content = {
        "stored_name": event_class.stored_name,
        "schema_version": event_class.schema_version,
        "origin": ORIGIN,
        "data_key": DATA_KEY.hex(),
        "examples": made,
    }
    if event_class.schema_version > 1:
        content["older"] = older(event_class, mapper, folder)
    return content


def older(event_class: type[Event], mapper: EventMapper, folder: Path) -> dict[str, Any]:
    """What the present version makes of the golden events of each version before it."""
    return {
        str(version): said(forms.golden_path(folder, event_class.stored_name, version), mapper)
        for version in range(1, event_class.schema_version)
    }


def misread(registry: Mapping[str, Schema], folder: Path) -> list[str]:
    """Golden events that no longer give the event that they gave."""
    mapper = EventMapper(keyring(), registry)
    wrong = []
    for name, schema in sorted(registry.items()):
        path = forms.golden_path(folder, name, schema.event_class.schema_version)
        content = json.loads(path.read_text(encoding="utf-8"))
        wanted = {kind: example["decodes_to"] for kind, example in content["examples"].items()}
        if said(path, mapper) != wanted:
            wrong.append(f"{path.name} says something else")
        for version, found in older(schema.event_class, mapper, folder).items():
            if found != content["older"][version]:
                wrong.append(f"{name}: version {version} is read as something else than when {path.name} was made")
    return wrong


def write(registry: Mapping[str, Schema], folder: Path) -> int:
    """Write what is new, unless the contract is broken; the exit status."""
    problems = forms.broken(registry, folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 1
    kept = forms.kept(folder)
    for stored_name, version in forms.missing(registry, kept):
        event_class = registry[stored_name].event_class
        path = forms.golden_path(folder, stored_name, version)
        content = golden(event_class, registry, folder)
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        shapes = kept["events"].setdefault(stored_name, {})
        shapes[str(version)] = {**forms.shape_of(event_class), "golden": forms.digest_of(path)}
        print(f"wrote  {path.name}")
    kept["events"] = dict(sorted(kept["events"].items()))
    (folder / forms.FORMS).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


def main() -> int:
    """Write what is new."""
    return write(REGISTRY, FOLDER)


if __name__ == "__main__":
    sys.exit(main())
