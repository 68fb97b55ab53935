"""The stored form of every event as a contract: what `tests/golden/forms.json` holds, and what breaks it.

`forms.json` keeps the shape of each version of each stored name for ever, with the digest of its golden file. A class
whose shape differs from the one kept for its version has changed under the feet of what was written.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from tallybook.domain.events import Decision, Event, Schema, Value
from tallybook.domain.personal import Personal

FORMS = "forms.json"
SCALARS: Mapping[Any, str] = {int: "int", str: "text", bytes: "bytes", bool: "bool", UUID: "id"}

Shape = dict[str, Any]
"""`kind`, and `clear` and `sealed`: the fields in stored order, each `name: type`."""


def type_of(annotation: Any) -> str:
    """A type as it is stored: `int`, `text?` (or nil), `[id]`, `{sku: text, quantity: int}`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_of(args[0])
    if origin in (typing.Union, types.UnionType):
        (inner,) = (arg for arg in args if arg is not type(None))
        return type_of(inner) + "?"
    if origin is Personal:
        return type_of(args[0])
    if origin is tuple:
        return f"[{type_of(args[0])}]"
    if isinstance(annotation, type) and issubclass(annotation, Value):
        fields = (f"{name}: {type_of(info.annotation)}" for name, info in annotation.model_fields.items())
        return f"{{{', '.join(fields)}}}"
    return SCALARS[annotation]


def shape_of(event_class: type[Event]) -> Shape:
    """The shape of an event class. Ranges and patterns are no part of it: they are checked when an event is made."""
    fields = event_class.model_fields
    return {
        "kind": "decision" if issubclass(event_class, Decision) else "fact",
        "clear": [f"{name}: {type_of(fields[name].annotation)}" for name in event_class.clear_fields],
        "sealed": [
            f"{name}: {type_of(fields[name].annotation)}, {mark.category.value}, {mark.sensitivity.value}"
            + (f", of {mark.of}" if mark.of else "")
            for name, mark in event_class.personal_fields.items()
        ],
    }


def envelope() -> list[str]:
    """What every event carries beside its own fields."""
    return [f"{name}: {type_of(info.annotation)}" for name, info in Event.model_fields.items()]


def kept(folder: Path) -> dict[str, Any]:
    """The forms of a folder; empty ones if it has none yet."""
    path = folder / FORMS
    if not path.exists():
        return {"envelope": envelope(), "events": {}}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def golden_path(folder: Path, stored_name: str, version: int) -> Path:
    """Where the golden file of a version lies."""
    return folder / f"{stored_name}.v{version}.json"


def missing(registry: Mapping[str, Schema], forms: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Stored names whose present version is new: it has no shape and no golden file yet."""
    return [
        (name, schema.event_class.schema_version)
        for name, schema in sorted(registry.items())
        if str(schema.event_class.schema_version) not in forms["events"].get(name, {})
    ]


def broken(registry: Mapping[str, Schema], folder: Path) -> list[str]:
    """What breaks the contract, each with how to mend it; empty where it holds."""
    forms = kept(folder)
    found = []
    if forms["envelope"] != envelope():
        found.append(f"what every event carries has changed: {_difference(forms['envelope'], envelope())}")
    for name, versions in forms["events"].items():
        if name not in registry:
            found.append(f"{name} is gone: a stored name is for ever, or what was written can't be read")
        else:
            found += _broken_event(name, registry[name], versions)
        for version, shape in versions.items():
            path = golden_path(folder, name, int(version))
            if not path.exists():
                found.append(f"{path.name} is missing: put it back")
            elif digest_of(path) != shape["golden"]:
                found.append(f"{path.name} was altered: a golden file is never changed")
    for name, schema in registry.items():
        if name not in forms["events"] and schema.event_class.schema_version != 1:
            found.append(f"{name} is new and begins at version {schema.event_class.schema_version}, not at 1")
    known = {golden_path(folder, name, int(one)) for name, versions in forms["events"].items() for one in versions}
    found += [
        f"{path.name} is not in {FORMS}: take it away; `python -m tests.golden.make` writes both"
        for path in sorted(folder.glob("*.v*.json"))
        if path not in known
    ]
    return found


def _broken_event(name: str, schema: Schema, versions: Mapping[str, Shape]) -> list[str]:
    found = []
    version, newest = schema.event_class.schema_version, len(versions)
    if set(versions) != {str(one) for one in range(1, newest + 1)}:
        return [f"{name}: {FORMS} holds versions {', '.join(versions)}: put back those that are missing"]
    if not newest <= version <= newest + 1:
        found.append(f"{name} is at version {version}, and the newest kept is {newest}: count on from it")
    shape = shape_of(schema.event_class)
    before = versions.get(str(version))
    if before is not None:
        changes = [_difference(before[part], shape[part]) for part in shape if before[part] != shape[part]]
        if changes:
            found.append(
                f"{name} has changed without a new version ({'; '.join(changes)}): "
                f"make it version {version + 1}, with an upcaster from {version}"
            )
    if set(schema.upcasters) != set(range(1, version)):
        found.append(f"{name}: version {version} needs upcasters from each of 1 to {version - 1}, and no others")
    for older in range(1, min(version, newest + 1)):
        sealed = [field.partition(":")[0] for field in versions[str(older)]["sealed"]]
        if list(schema.personal_fields(older)) != sealed:
            found.append(f"{name}: former_personal[{older}] must be {tuple(sealed)}, as that version sealed them")
    return found


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return sha256(path.read_bytes()).hexdigest()


def _difference(before: Any, after: Any) -> str:
    return f"{before} became {after}"
