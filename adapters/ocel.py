"""The book as an object-centric event log, OCEL 2.0 (JSON and SQLite), for process mining. No personal values.

Objects are customers, tickets, loyalty accounts and orders. An event belongs to the objects that it names: its
subject, its stream, and every id in its clear fields that is an object's, under that field's name. The SQLite form is
written first, with keys that let nothing dangle; the JSON form is made from it.
"""

from __future__ import annotations

import json
import sqlite3
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from tallybook.domain.errors import BookError
from tallybook.domain.events import REGISTRY, Event, plain
from tallybook.projections.read_models import Recorded

from .clear_form import rfc3339

STRING, INTEGER, BOOLEAN, TIME = "string", "integer", "boolean", "time"
_COLUMNS = {STRING: "TEXT", INTEGER: "INTEGER", BOOLEAN: "BOOLEAN", TIME: "TIMESTAMP"}

OBJECT_TYPES: Mapping[str, Mapping[str, str]] = {
    "customer": {"kind": STRING, "country": STRING, "source": STRING, "owner": STRING},
    "ticket": {"kind": STRING, "severity": STRING, "owner": STRING, "outcome": STRING, "score": INTEGER},
    "account": {"programme": STRING, "tier": STRING},
    "order": {"currency": STRING, "store": STRING, "lines": INTEGER, "net_minor": INTEGER},
}
"""Object types with their attributes and their types."""

_OBJECT_OF = {"customer": "customer", "ticket": "ticket", "loyalty": "account"}
"""Which object a stream is, by the first word of its events' stored names."""

_SETS: Mapping[str, tuple[str, ...]] = {
    "customer.registered": ("kind", "country", "source", "owner"),
    "customer.changed": ("country", "source", "owner"),
    "ticket.opened": ("kind", "severity"),
    "ticket.assigned": ("owner",),
    "ticket.resolved": ("outcome",),
    "ticket.satisfaction_recorded": ("score",),
    "loyalty.enrolled": ("programme",),
    "loyalty.tier_changed": ("tier",),
}
"""Which attributes of its object an event sets."""

_BY = ("position", "recorded", "actor", "purpose", "on_behalf_of", "channel")
"""Attributes that every event has, beside its own."""
_BY_TYPES = (INTEGER, TIME, STRING, STRING, STRING, STRING)
PURCHASE = "customer.purchase_recorded"


def order_id(purchase_id: UUID) -> str:
    """The id of a purchase as an object: its event has the bare one."""
    return f"order:{purchase_id}"


class EventType(NamedTuple):
    """An event type: its table, its fields that are attributes, and those that name objects."""

    table: str
    attributes: Mapping[str, str]
    fields: tuple[str, ...]
    references: tuple[str, ...]


def event_type(event_class: type[Event]) -> EventType:
    """What is shown of an event class: texts, whole numbers, truth values and times, and ids that may be objects'."""
    attributes: dict[str, str] = dict(zip(_BY, _BY_TYPES, strict=True))
    fields, references = [], []
    for name in event_class.clear_fields:
        kind, _ = plain(event_class.model_fields[name].annotation)
        if kind is UUID or (typing.get_origin(kind) is tuple and plain(typing.get_args(kind)[0])[0] is UUID):
            references.append(name)
        elif kind in (int, str, bool):
            shown = _shown(name)
            timed = shown != name
            if (
                shown in attributes
            ):  # what every event has under that name: the purpose of a consent is not that of acting
                shown = f"event_{shown}"
            attributes[shown] = TIME if timed else {int: INTEGER, str: STRING, bool: BOOLEAN}[kind]
            fields.append(name)
    table = "event_" + event_class.stored_name.replace(".", "_")
    return EventType(table, attributes, tuple(fields), tuple(references))


def _shown(field: str) -> str:
    return field.removesuffix("_us") if field.endswith("_us") else field


def write_sqlite(path: Path, history: Iterable[Recorded]) -> tuple[int, int]:
    """Write an OCEL 2.0 log into an empty SQLite file; how many events and objects it holds.

    Events that belong to no object (the book's own) are left out. Raises BookError where keys do not hold.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=OFF")  # a file that is not whole is thrown away
        connection.execute("PRAGMA synchronous=OFF")  # and one that is whole is synced when it gets its name
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("BEGIN")
        writer = _Writer(connection)
        for recorded in history:
            writer.add(recorded)
        connection.execute("COMMIT")
        dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
        if dangling:
            raise BookError(f"{path} does not hold together: {dangling[0]}.", path=str(path))
        [(events,)] = connection.execute("SELECT COUNT(*) FROM event")
        [(objects,)] = connection.execute("SELECT COUNT(*) FROM object")
    return events, objects


def _set_by(event: Event) -> dict[str, Any]:
    """What an event sets in its stream's object. What was cleared is an empty text: OCEL knows no nil."""
    held = event.__dict__
    cleared = held.get("cleared", ())
    values = {name: "" if name in cleared else held[name] for name in _SETS.get(event.stored_name, ())}
    return {name: value for name, value in values.items() if value is not None}


class _Writer:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute
        self._types: dict[str, EventType] = {}
        for statement in _TABLES:
            self._run(statement)
        for name, attributes in OBJECT_TYPES.items():
            self._run("INSERT INTO object_map_type VALUES (?,?)", (name, name))
            columns = "".join(f', "{one}" {_COLUMNS[kind]}' for one, kind in attributes.items())
            self._run(
                f'CREATE TABLE "object_{name}" (ocel_id TEXT NOT NULL REFERENCES object(ocel_id), '
                f"ocel_time TIMESTAMP NOT NULL, ocel_changed_field TEXT{columns})"
            )
            self._run(f'CREATE INDEX "{name}_by_id" ON "object_{name}" (ocel_id)')

    def add(self, recorded: Recorded) -> None:
        """Write an event, the objects that it brings, what it changes in them, and what belongs to what."""
        event = recorded.event
        kind = _OBJECT_OF.get(event.stored_name.partition(".")[0])
        if kind is None:
            return
        related = self._objects(event, kind)
        form = self._types.get(event.stored_name) or self._declare(event)
        held, metadata = event.__dict__, event.metadata
        event_id = str(event.event_id)
        values: list[Any] = [
            recorded.position,
            rfc3339(metadata.recorded_us),
            metadata.actor,
            metadata.purpose,
            metadata.on_behalf_of,
            metadata.channel,
        ]
        values += [
            rfc3339(held[name]) if name.endswith("_us") and held[name] is not None else held[name]
            for name in form.fields
        ]
        self._run("INSERT INTO event VALUES (?,?)", (event_id, event.stored_name))
        marks = ",".join("?" * (2 + len(values)))
        self._run(f'INSERT INTO "{form.table}" VALUES ({marks})', (event_id, rfc3339(event.effective_us), *values))  # noqa: S608 - names of registered classes
        for name in form.references:
            ids = held[name] if isinstance(held[name], tuple) else (held[name],)
            for one in ids:
                if one is not None:
                    self._refer(event_id, str(one), name)
                    self._refer(event_id, order_id(one), name)
        for object_id, qualifier in related:
            self._run("INSERT OR IGNORE INTO event_object VALUES (?,?,?)", (event_id, object_id, qualifier))

    def _refer(self, event_id: str, object_id: str, qualifier: str) -> None:
        # Not every id is an object's: of contact points and lots nothing else is known. A lot may have its fact's id.
        self._run(
            "INSERT OR IGNORE INTO event_object SELECT ?, ocel_id, ? FROM object WHERE ocel_id=? "
            "AND NOT EXISTS (SELECT 1 FROM event_object WHERE ocel_event_id=? AND ocel_object_id=ocel_id)",
            (event_id, qualifier, object_id, event_id),
        )

    def _objects(self, event: Event, kind: str) -> list[tuple[str, str]]:
        """The objects of an event's subject and stream, and an order's, with qualifiers; made where they are new."""
        related = []
        moment = rfc3339(event.effective_us)
        subject = str(event.subject_id) if event.subject_id is not None else None
        if subject is not None:
            if subject != str(event.originator_id):
                self._made(subject, "customer", moment, {})
            related.append((subject, "customer"))
        stream = str(event.originator_id)
        sets = _set_by(event)
        if stream != subject:
            if self._made(stream, kind, moment, sets) and subject is not None:
                self._run("INSERT INTO object_object VALUES (?,?,?)", (stream, subject, "customer"))
            related.append((stream, kind))
        else:
            self._made(stream, kind, moment, sets)
        if event.stored_name == PURCHASE:
            order = order_id(event.event_id)
            lines = event.__dict__["lines"]
            self._run("INSERT INTO object VALUES (?,?)", (order, "order"))
            self._run(
                "INSERT INTO object_order VALUES (?,?,NULL,?,?,?,?)",
                (
                    order,
                    moment,
                    event.__dict__["currency"],
                    event.__dict__["store"],
                    len(lines),
                    sum(line.net_minor for line in lines),
                ),
            )
            self._run("INSERT INTO object_object VALUES (?,?,?)", (order, subject, "customer"))
            related.append((order, "order"))
        return related

    def _made(self, object_id: str, kind: str, moment: str, sets: Mapping[str, Any]) -> bool:
        """Whether an object was new, and is made with its first attributes; else those are changes."""
        run, table = self._run, f'"object_{kind}"'
        if run("INSERT OR IGNORE INTO object VALUES (?,?)", (object_id, kind)).rowcount:
            columns = "".join(f', "{name}"' for name in sets)
            run(
                f"INSERT INTO {table} (ocel_id, ocel_time{columns}) VALUES (?,?{',?' * len(sets)})",  # noqa: S608 - names of ours
                (object_id, moment, *sets.values()),
            )
            return True
        for name, value in sets.items():
            run(
                f'INSERT INTO {table} (ocel_id, ocel_time, ocel_changed_field, "{name}") VALUES (?,?,?,?)',  # noqa: S608 - names of ours
                (object_id, moment, name, value),
            )
        return False

    def _declare(self, event: Event) -> EventType:
        form = self._types[event.stored_name] = event_type(type(event))
        columns = "".join(f', "{name}" {_COLUMNS[kind]}' for name, kind in form.attributes.items())
        self._run("INSERT INTO event_map_type VALUES (?,?)", (event.stored_name, form.table.removeprefix("event_")))
        self._run(
            f'CREATE TABLE "{form.table}" (ocel_id TEXT NOT NULL PRIMARY KEY REFERENCES event(ocel_id), '
            f"ocel_time TIMESTAMP NOT NULL{columns})"
        )
        return form


_TABLES = (
    "CREATE TABLE event_map_type (ocel_type TEXT NOT NULL PRIMARY KEY, ocel_type_map TEXT NOT NULL UNIQUE)",
    "CREATE TABLE object_map_type (ocel_type TEXT NOT NULL PRIMARY KEY, ocel_type_map TEXT NOT NULL UNIQUE)",
    "CREATE TABLE event (ocel_id TEXT NOT NULL PRIMARY KEY, "
    "ocel_type TEXT NOT NULL REFERENCES event_map_type(ocel_type) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE object (ocel_id TEXT NOT NULL PRIMARY KEY, "
    "ocel_type TEXT NOT NULL REFERENCES object_map_type(ocel_type))",
    "CREATE TABLE event_object (ocel_event_id TEXT NOT NULL REFERENCES event(ocel_id), "
    "ocel_object_id TEXT NOT NULL REFERENCES object(ocel_id), ocel_qualifier TEXT NOT NULL, "
    "PRIMARY KEY (ocel_event_id, ocel_object_id, ocel_qualifier))",
    "CREATE TABLE object_object (ocel_source_id TEXT NOT NULL REFERENCES object(ocel_id), "
    "ocel_target_id TEXT NOT NULL REFERENCES object(ocel_id), ocel_qualifier TEXT NOT NULL, "
    "PRIMARY KEY (ocel_source_id, ocel_target_id, ocel_qualifier))",
)


def write_json(path: Path, database: Path) -> None:
    """Write the JSON form of an OCEL 2.0 log from its SQLite form, an object or event at a time."""
    with closing(sqlite3.connect(database)) as connection, path.open("w", encoding="ascii") as file:
        run = connection.execute
        event_types = [name for (name,) in run("SELECT ocel_type FROM event_map_type ORDER BY ocel_type")]
        forms = {name: event_type(REGISTRY[name].event_class) for name in event_types}
        file.write('{"objectTypes":')
        file.write(_compact(_declared(OBJECT_TYPES)))
        file.write(',"eventTypes":')
        file.write(_compact(_declared({name: form.attributes for name, form in forms.items()})))
        file.write(',\n"objects":[')
        _write_all(file, _objects_of(connection))
        file.write('],\n"events":[')
        _write_all(file, _events_of(connection, forms))
        file.write("]}\n")


def _declared(types: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "attributes": [{"name": one, "type": kind} for one, kind in attributes.items()]}
        for name, attributes in types.items()
    ]


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _write_all(file: typing.TextIO, values: Iterator[dict[str, Any]]) -> None:
    between = "\n"
    for value in values:
        file.write(between + _compact(value))
        between = ",\n"


def _objects_of(connection: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    run = connection.execute
    for object_id, kind in run("SELECT ocel_id, ocel_type FROM object ORDER BY rowid"):
        names = list(OBJECT_TYPES[kind])
        attributes = [
            {"name": name, "time": moment, "value": value}
            for moment, _, *values in run(
                f'SELECT ocel_time, ocel_changed_field, {_quoted(names)} FROM "object_{kind}" '  # noqa: S608 - names of ours
                "WHERE ocel_id=? ORDER BY rowid",
                (object_id,),
            )
            for name, value in zip(names, values, strict=True)
            if value is not None
        ]
        relations = run("SELECT ocel_target_id, ocel_qualifier FROM object_object WHERE ocel_source_id=?", (object_id,))
        yield {
            "id": object_id,
            "type": kind,
            "attributes": attributes,
            "relationships": [{"objectId": target, "qualifier": name} for target, name in relations],
        }


def _events_of(connection: sqlite3.Connection, forms: Mapping[str, EventType]) -> Iterator[dict[str, Any]]:
    run = connection.execute
    for event_id, kind in run("SELECT ocel_id, ocel_type FROM event ORDER BY rowid"):
        form = forms[kind]
        names = list(form.attributes)
        moment, *values = run(
            f'SELECT ocel_time, {_quoted(names)} FROM "{form.table}" WHERE ocel_id=?',  # noqa: S608 - names of registered classes
            (event_id,),
        ).fetchone()
        relations = run("SELECT ocel_object_id, ocel_qualifier FROM event_object WHERE ocel_event_id=?", (event_id,))
        yield {
            "id": event_id,
            "type": kind,
            "time": moment,
            "attributes": [
                {"name": name, "value": bool(value) if form.attributes[name] == BOOLEAN else value}
                for name, value in zip(names, values, strict=True)
                if value is not None
            ],
            "relationships": [{"objectId": target, "qualifier": name} for target, name in relations],
        }


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
