"""The columns of an archive: one for each field of any kind of event, made from the registry.

- A field's column bears the field's name. Where kinds use one name for fields of several shapes, the first of these
  that there is keeps the name: integer, text, yes or no, id, list of parts, list of integers, list of texts, list
  of ids, part. The others are told apart by `_text`, `_bool`, `_id`, `_parts`, `_ints`, `_texts`, `_ids`, `_part`.
- A field that bears the name of a column of the envelope is told apart by `event_` before it.
- Parts (values with fields of their own) of one column have the fields of all of them.
- Bytes have none: the log has one such field, the commitment to a data key, and it is random to whoever lacks that.
- An id is `{position, number, id}`: the position of the event whose id it is, an earlier one of the same subject; the
  number of a lot of it, whose id is derived (null: the event's own id); the id itself where it is of no such event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

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
from tallybook.adapters.clear_form import Shape, fields_of
from tallybook.domain import access
from tallybook.domain.events import REGISTRY, Event

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
"""Of the columns' names, types and meaning. It rises with every change but the addition of columns; an archive of
another version is made anew."""
BUCKETS = 64
"""Files by the subject's id: its first six bits."""
NO_SUBJECT = BUCKETS
"""The number of the bucket of events about nobody."""
FILES = BUCKETS + 1

POSITION, VERSION, STREAM_HI, STREAM_LO, SUBJECT_HI, SUBJECT_LO, EVENT_HI, EVENT_LO, KIND, LENGTH = range(10)
ROW_NUMBERS = 10
"""What is known of a row of the log beside its state: ids in two halves."""

INT, BOOL, TEXT, ID = range(4)
"""What a leaf holds."""
LIST, PARTS, PART, SKIPPED, OPENED = range(4, 9)
"""Beside them, what a field may be: a list of leaves, of parts, a part; what has no column; what holds fields."""
LEAVES: Mapping[str, int] = {"int": INT, "bool": BOOL, "text": TEXT, "id": ID}
WIDTH = {INT: 1, BOOL: 1, TEXT: 1, ID: 3}
"""How many numbers a leaf takes while it is decoded: an id is position, number, and where it stands among ids."""

_PRECEDENCE = ["int", "text", "bool", "id", "parts", "ints", "texts", "ids", "bools", "part"]

ENVELOPE_COLUMNS: Mapping[str, str] = {
    "position": "place in the log, from 1 on",
    "subject_id": "the customer whom it is about; null: nobody",
    "stream": "number of its stream among those with events about this subject, in their order of appearance",
    "stream_id": "the stream's id, in its first row of this subject; null where it is the subject's, or follows from "
    "it: a loyalty account's is `account_id(subject_id, programme)`",
    "version": "place in its stream, from 1 on",
    "stored_name": "the kind of event",
    "effective_us": "when it happened in the world, µs since 1970-01-01T00:00Z",
    "recorded_us": "when the book learned of it, µs since 1970-01-01T00:00Z",
    "actor": "who acted",
    "purpose": "why",
    "on_behalf_of": "for whom",
    "channel": "through what",
    "application": "by which program of the host",
    "rule": "the rule of the access policy that allowed it",
}
METADATA_TEXTS = ("actor", "purpose", "on_behalf_of", "channel", "application", "rule")
"""In the order in which they are stored, after the time of recording."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A single value: its name and what it holds."""

    name: str
    holds: int


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name; LIST, PARTS, PART, or what a leaf holds; of a list or a part, what it is made of.

    `kinds` are the events that have it, each with the name of the field.
    """

    name: str
    shape: int
    leaves: tuple[Leaf, ...]
    kinds: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a kind of event: its column (None: it has none), and the leaf that each value of a part fills."""

    name: str
    column: Column | None
    fills: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """All columns, and the fields of every kind in stored order."""

    columns: tuple[Column, ...]
    fields: Mapping[str, tuple[Field, ...]]


def kinds() -> dict[str, type[Event]]:
    """The kinds of events that stand in the log of events, by stored name."""
    return {
        name: schema.event_class
        for name, schema in sorted(REGISTRY.items())
        if schema.event_class.__module__ != access.__name__
    }


def columns() -> Columns:
    """The columns as of the registry of now."""
    return _columns(tuple(kinds().items()))


@lru_cache(maxsize=4)
def _columns(found: tuple[tuple[str, type[Event]], ...]) -> Columns:
    shapes: dict[str, dict[str, list[tuple[str, Shape]]]] = {}
    for kind, event_class in found:
        for field, shape in fields_of(event_class, event_class.clear_fields).items():
            if shape == "bytes":
                continue
            shapes.setdefault(field, {}).setdefault(_sort_of(shape), []).append((kind, shape))
    made: list[Column] = []
    place: dict[tuple[str, str], Column] = {}
    taken: dict[str, str] = dict.fromkeys(ENVELOPE_COLUMNS, "the envelope")
    for field, sorts in sorted(shapes.items()):
        plain = f"event_{field}" if field in ENVELOPE_COLUMNS else field
        for number, sort in enumerate(sorted(sorts, key=_PRECEDENCE.index)):
            name = f"{plain}_{sort}" if number else plain
            if name in taken:
                raise TypeError(f"the column {name} would be of {field} and of {taken[name]}")
            taken[name] = field
            column = _column(name, sort, sorts[sort], field)
            made.append(column)
            place.update(((kind, field), column) for kind, _ in sorts[sort])
    fields = {}
    for kind, event_class in found:
        of_kind = []
        for field, shape in fields_of(event_class, event_class.clear_fields).items():
            held = place.get((kind, field))
            if held is None:
                of_kind.append(Field(field, None, ()))
                continue
            inner = shape[0] if isinstance(shape, list) else shape
            at = {leaf.name: index for index, leaf in enumerate(held.leaves)}
            fills = tuple(at[name] for name in inner) if isinstance(inner, dict) else (0,)
            of_kind.append(Field(field, held, fills))
        fields[kind] = tuple(of_kind)
    return Columns(tuple(made), fields)


def _sort_of(shape: Shape) -> str:
    if isinstance(shape, str):
        return shape
    if isinstance(shape, dict):
        return "part"
    return "parts" if isinstance(shape[0], dict) else f"{shape[0]}s"


def _column(name: str, sort: str, found: list[tuple[str, Shape]], field: str) -> Column:
    of = tuple((kind, field) for kind, _ in found)
    if sort in LEAVES:
        return Column(name, LEAVES[sort], (Leaf(name, LEAVES[sort]),), of)
    if sort.removesuffix("s") in LEAVES:
        return Column(name, LIST, (Leaf("element", LEAVES[sort.removesuffix("s")]),), of)
    leaves: dict[str, int] = {}
    for kind, shape in found:
        inner = shape[0] if isinstance(shape, list) else shape
        if not isinstance(inner, dict):
            raise TypeError(f"{kind}.{field} is no part")
        for one, holds in inner.items():
            if not isinstance(holds, str) or leaves.setdefault(one, LEAVES[holds]) != LEAVES[holds]:
                raise TypeError(f"{kind}.{field}.{one}: a part holds single values, each name of one type")
    return Column(name, PART if sort == "part" else PARTS, tuple(Leaf(*one) for one in leaves.items()), of)


def arrow_leaf(holds: int) -> pa.DataType:
    """The Arrow type of a leaf."""
    import pyarrow as pa

    if holds == ID:
        return pa.struct([("position", pa.int64()), ("number", pa.int32()), ("id", pa.binary(16))])
    return {INT: pa.int64(), BOOL: pa.bool_(), TEXT: pa.string()}[holds]


def arrow_type(column: Column) -> pa.DataType:
    """The Arrow type of a column."""
    import pyarrow as pa

    if column.shape == LIST:
        return pa.list_(arrow_leaf(column.leaves[0].holds))
    if column.shape in (PARTS, PART):
        part = pa.struct([(leaf.name, arrow_leaf(leaf.holds)) for leaf in column.leaves])
        return part if column.shape == PART else pa.list_(part)
    return arrow_leaf(column.shape)


@lru_cache(maxsize=4)
def _arrow_schema(of: Columns) -> pa.Schema:
    import pyarrow as pa

    types = {
        "position": pa.int64(), "subject_id": pa.binary(16), "stream": pa.int32(), "stream_id": pa.binary(16),
        "version": pa.int64(), "effective_us": pa.int64(), "recorded_us": pa.int64(),
    }  # fmt: skip
    envelope = [(name, types.get(name, pa.string())) for name in ENVELOPE_COLUMNS]
    return pa.schema(
        [*envelope, *((one.name, arrow_type(one)) for one in of.columns)],
        {"tallybook archive": str(SCHEMA_VERSION)},
    )


def fingerprint() -> str:
    """Of all columns, and of the kinds of events and their schema versions that they are made from."""
    told = [*ENVELOPE_COLUMNS, *map(repr, columns().columns)]
    told += [f"{name} {kind.schema_version} {kind.clear_fields}" for name, kind in kinds().items()]
    return sha256("\n".join(told).encode()).hexdigest()[:32]


def arrow_schema() -> pa.Schema:
    """All columns with their Arrow types."""
    return _arrow_schema(columns())
