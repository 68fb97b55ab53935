"""Snapshots: the state of a long stream at some version, so that loading it does not begin at its first event.

They may be dropped at any time: a snapshot is only a shorter way to what the events add up to. One that is damaged,
of another release, or ahead of its stream is passed over and later replaced. So is one that the book did not write:
each bears an HMAC under a key that is not in the database, so that whoever can write there can't make commands
believe a state.
"""

from __future__ import annotations

import hashlib
import hmac
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any
from uuid import UUID

import msgpack
from eventsourcing.persistence import PersistenceError

from tallybook.domain.aggregate import Aggregate
from tallybook.domain.control import Control
from tallybook.domain.copy_on_write import LayeredDict, SortedAmounts
from tallybook.domain.customer import Customer
from tallybook.domain.errors import TallybookError
from tallybook.domain.events import plain
from tallybook.domain.liability import Valuation
from tallybook.domain.loyalty import LoyaltyAccount
from tallybook.domain.operations import Operations
from tallybook.domain.policy import Policy
from tallybook.domain.retention import Retention
from tallybook.domain.rewards import Stock
from tallybook.domain.signing import Signing
from tallybook.domain.ticket import Ticket
from tallybook.projections.read_models import Table

from .database import Database, marks
from .form import Source, uuid_from
from .packing import pack

EVERY = 1024
"""How many events a stream has before it gets a snapshot, and at least from one to the next."""
EVERY_BY_MANY = 16
"""The same for those who load many aggregates at once, and write the snapshots of many in one transaction."""

SNAPSHOTS = Table(
    "snapshots",
    (
        ("stream", "blob"),
        ("version", "integer"),
        ("kind", "text"),
        ("form", "blob"),
        ("state", "blob"),
        ("checksum", "blob"),
    ),
    ("stream",),
)
_DEFINITION = (
    "CREATE TABLE IF NOT EXISTS snapshots (stream {blob} PRIMARY KEY, version {integer} NOT NULL, "
    "kind {text} NOT NULL, form {blob} NOT NULL, state {blob} NOT NULL, checksum {blob} NOT NULL)"
)
_SELECT = "SELECT stream, version, kind, form, state, checksum FROM snapshots WHERE "
_FIND = _SELECT + "stream=? AND form=?"

_FAILURES = (PersistenceError, TallybookError)
"""With these, a snapshot is not written, or taken for none: what the book says does not depend on it."""


@dataclass(frozen=True, slots=True)
class WrongSnapshot:
    """A snapshot that says something else than the events of its stream."""

    stream_id: UUID
    kind: str
    version: int
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"snapshot of {self.kind} {self.stream_id} at version {self.version}: wrong in {', '.join(self.fields)}"


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """Snapshots compared with a replay of their streams. Those that can't be used, and so do no harm, were skipped.

    `foreign` are the streams of those that the book did not write as they are: altered, damaged, or another key's.
    """

    compared: int
    skipped: int
    wrong: tuple[WrongSnapshot, ...]
    foreign: tuple[UUID, ...] = ()


def is_due(aggregate: Aggregate, every: int | None = None) -> bool:
    """Whether an aggregate has moved on far enough since its last snapshot.

    By an eighth of its stream, where that is more than EVERY: so the snapshots of a state that grows with its stream
    cost the same for each event, however long the stream is.
    """
    return aggregate.version - aggregate.snapshot_version >= max(every or EVERY, aggregate.version // 8)


class SnapshotStore:
    """The snapshots of a book, in the database of its log. `key` must not lie there: it tells ours from others."""

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._key = key

    def find(self, stream_id: UUID) -> Aggregate | None:
        """A stream as its snapshot has it, whether it reaches that far or not; None if there is none to be used."""
        with suppress(*_FAILURES):
            if not self._database.has_table(SNAPSHOTS.name):
                return None
            for row in self._database.rows(_FIND, [stream_id.bytes, current_form()]):
                return self._restored(stream_id, row)
        return None

    def find_many(self, stream_ids: Sequence[UUID]) -> dict[UUID, Aggregate]:
        """Of many streams, those with a snapshot, as `find` gives each."""
        found: dict[UUID, Aggregate] = {}
        with suppress(*_FAILURES):
            if not self._database.has_table(SNAPSHOTS.name):
                return found
            for start in range(0, len(stream_ids), 100):
                chunk = {one.bytes: one for one in stream_ids[start : start + 100]}
                asked = f"{_SELECT}stream IN ({marks(len(chunk))}) AND form=?"
                for row in self._database.rows(asked, [*chunk, current_form()]):
                    snapshot = self._restored(chunk[row[0]], row)
                    if snapshot is not None:
                        found[snapshot.id] = snapshot
        return found

    def _restored(self, stream_id: UUID, row: Sequence[Any]) -> Aggregate | None:
        *parts, checksum = row
        if not self._is_ours(parts, checksum):
            return None
        _, version, kind, _, state = parts
        return restored(kind, stream_id, version, state) if version > 0 else None

    def write(self, *aggregates: Aggregate) -> None:
        """Keep snapshots in the place of those before, if they can be written."""
        for one in aggregates:
            one.snapshot_version = one.version  # if it can't, not again before the next one is due
        rows = []
        for one in aggregates:
            with suppress(OverflowError):
                kind, state = packed(one)
                row = [one.id.bytes, one.version, kind, current_form(), state]
                rows.append((*row, self._checksum(row)))
        with suppress(*_FAILURES):
            missing = not self._database.has_table(SNAPSHOTS.name)
            with self._database.session(write=True) as session:
                if missing:
                    session.define(_DEFINITION)
                session.upsert(SNAPSHOTS, rows)

    def streams(self) -> list[UUID]:
        """The streams that have one, whether it can be used or not."""
        if not self._database.has_table(SNAPSHOTS.name):
            return []
        return [uuid_from(stream) for (stream,) in self._database.rows("SELECT stream FROM snapshots ORDER BY stream")]

    def foreign(self) -> Iterator[UUID]:
        """The streams of those in the form of this release that the book did not write as they are."""
        if self._database.has_table(SNAPSHOTS.name):
            for stream in self.streams():
                for row in self._database.rows(_FIND, [stream.bytes, current_form()]):
                    *parts, checksum = row
                    if not self._is_ours(parts, checksum):
                        yield stream

    def drop_all(self) -> None:
        """Drop all snapshots. Refuses: busy."""
        if self._database.has_table(SNAPSHOTS.name):
            with self._database.session(write=True) as session:
                session.run("DELETE FROM snapshots")

    def _is_ours(self, parts: Sequence[Any], checksum: Any) -> bool:
        return type(checksum) is bytes and hmac.compare_digest(checksum, self._checksum(parts))

    def _checksum(self, parts: Sequence[Any]) -> bytes:
        return hmac.digest(self._key, pack(parts), "sha256")


def differing(one: Aggregate, other: Aggregate) -> tuple[str, ...]:
    """Names of the fields in which two states of one stream differ."""
    form = _FORMS[type(one).__name__]
    return tuple(name for name in form.fields if getattr(one, name) != getattr(other, name))


@cache
def current_form() -> bytes:
    """Fingerprint of all that a state depends on beside its events: the code that folds, reads and packs."""
    digest = hashlib.sha256()
    for package, modules in (("tallybook.domain", None), ("tallybook.adapters", ("codec", "form", "snapshots"))):
        for file in sorted(files(package).iterdir(), key=lambda file: file.name):
            module, _, suffix = file.name.rpartition(".")
            if suffix in ("py", "pyc") and (modules is None or module in modules):
                digest.update(hashlib.sha256(file.name.encode()).digest())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()


def packed(aggregate: Aggregate) -> tuple[str, bytes]:
    """The kind of an aggregate, and its state as msgpack. OverflowError where a number is longer than 64 bits."""
    kind = type(aggregate).__name__
    return kind, msgpack.packb(_FORMS[kind].encode(aggregate))


def restored(kind: str, stream_id: UUID, version: int, state: bytes) -> Aggregate | None:
    """The aggregate that `packed` was given; None where the bytes are no state of that kind."""
    form = _FORMS.get(kind)
    if form is None:
        return None
    made = form.kind(stream_id)
    try:
        form.decode(msgpack.unpackb(state), made)
        made.derive()
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        return None
    made.version = made.snapshot_version = version
    return made


class StateForm:
    """How the state of one kind of aggregate is packed: `encode` gives its fields as plain values, `decode` sets them.

    A compiled function each, from the fields that the class annotates.
    """

    __slots__ = ("decode", "encode", "fields", "kind")

    def __init__(self, kind: type[Aggregate]) -> None:
        self.kind = kind
        hints = typing.get_type_hints(kind)
        self.fields = {name: hint for name, hint in hints.items() if typing.get_origin(hint) is not typing.ClassVar}
        source = _StateSource()
        encoded = ", ".join(source.encode(hint, f"held.{name}") for name, hint in self.fields.items())
        self.encode: Callable[[Aggregate], list[Any]] = source.function("held", f"return [{encoded}]")
        self.decode: Callable[[Any, Aggregate], None] = source.function(
            "values, held",
            f"if type(values) is not list or len(values) != {len(self.fields)}: _wrong('state')",
            *(
                f"held.{name} = {source.decode(hint, f'values[{index}]', name)}"
                for index, (name, hint) in enumerate(self.fields.items())
            ),
        )


class _StateSource(Source):
    """What events hold, and beside it what aggregates hold: named tuples, enums, sets, the containers of a state."""

    def encode(self, annotation: Any, value: str) -> str:
        """What turns `value` into what msgpack packs."""
        inner, optional = plain(annotation)
        origin, args = typing.get_origin(inner), typing.get_args(inner)
        if origin in (dict, LayeredDict):
            entries = f"{value}.items()" if origin is dict else f"{value}.plain().items()"
            made = f"[[{self.encode(args[0], 'key')}, {self.encode(args[1], 'item')}] for key, item in {entries}]"
        elif origin is frozenset:
            made = f"sorted({value})"
        elif origin is SortedAmounts:
            made = f"[{self.encode(args[0], 'item')} for item in {value}]"
        elif parts := _parts(inner):
            made = f"[{', '.join(self.encode(part, f'{value}[{index}]') for index, part in enumerate(parts))}]"
        elif isinstance(inner, type) and issubclass(inner, StrEnum):
            made = f"{value}.value"
        else:
            return super().encode(annotation, value)
        return f"(None if {value} is None else {made})" if optional else made

    def decode(self, annotation: Any, value: str, name: str) -> str:
        """What turns what msgpack unpacked into the field's value, or raises ValueError or TypeError."""
        inner, optional = plain(annotation)
        origin, args = typing.get_origin(inner), typing.get_args(inner)
        if origin in (dict, LayeredDict):
            made = "{%s: %s for key, item in %s}" % (  # noqa: UP031 - an f-string would double all braces
                self.decode(args[0], "key", name),
                self.decode(args[1], "item", name),
                value,
            )
            if origin is LayeredDict:
                made = f"{self.named(LayeredDict)}({made})"
        elif origin is frozenset:
            made = f"frozenset([{self.decode(args[0], 'item', name)} for item in {value}])"
        elif origin is SortedAmounts:
            made = f"{self.named(SortedAmounts)}([{self.decode(args[0], 'item', name)} for item in {value}])"
        elif parts := _parts(inner):
            made = f"{self._tuple_maker(inner, parts, name)}({value})"
        elif isinstance(inner, type) and issubclass(inner, StrEnum):
            made = f"{self.named(inner)}({value})"
        else:
            return super().decode(annotation, value, name)
        return f"(None if {value} is None else {made})" if optional else made

    def _tuple_maker(self, annotation: Any, parts: list[Any], name: str) -> str:
        values = "".join(f"{self.decode(part, f'values[{index}]', name)}, " for index, part in enumerate(parts))
        kind = annotation if isinstance(annotation, type) else tuple
        made = f"({values})" if kind is tuple else f"{self.named(kind)}._make(({values}))"
        make = self.function(
            "values",
            f"if type(values) is not list or len(values) != {len(parts)}: _wrong({name!r})",
            f"return {made}",
        )
        return self.named(make)


def _parts(annotation: Any) -> list[Any]:
    """The types of a named tuple's fields, or of a tuple of fixed length; none for anything else."""
    if typing.get_origin(annotation) is tuple:
        args = typing.get_args(annotation)
        return [] if Ellipsis in args else list(args)
    if isinstance(annotation, type) and issubclass(annotation, tuple) and annotation is not tuple:
        return list(typing.get_type_hints(annotation).values())
    return []


_FORMS = {
    kind.__name__: StateForm(kind)
    for kind in (Customer, LoyaltyAccount, Ticket, Control, Operations, Policy, Signing, Retention, Stock, Valuation)
}
