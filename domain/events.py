"""The base of every event, and the closed registry of stored names.

An event is a frozen pydantic model that satisfies `eventsourcing`'s event protocol. Its stored name and schema
version are independent of where its class lives. It is a *fact* (the world caused it) or a *decision* (a rule derived
it from facts; it names the rule set and the facts). Personal fields are `Personal[T]` handles.
"""

from __future__ import annotations

import types
import typing
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from .personal import PersonalData

CODE_CHARS_MAX = 64


def _composed(code: str) -> str:
    if code.isascii() or unicodedata.is_normalized("NFC", code):
        return code
    raise ValueError("characters that are composed (Unicode NFC) are wanted")


COMPOSED = AfterValidator(_composed)
"""One form of each text: `é` is one character, not two that look the same."""
# A code is written in the clear and for ever: no spaces and no "@", so that names and mail addresses don't slip in; and
# nothing that is not seen (joiners, variation selectors, fillers), so that no actor looks like another.
CODE_CHARS = r"[\w.:/+\-&&\P{Default_Ignorable_Code_Point}]+"
# The length stands beside the pattern: `{1,64}` in it makes an automaton that takes as long as the rest of the event.
Code = Annotated[str, StringConstraints(pattern=f"^{CODE_CHARS}$", max_length=CODE_CHARS_MAX), COMPOSED]
RulesLabel = Annotated[
    str, StringConstraints(pattern=f"^{CODE_CHARS}@{CODE_CHARS}$", max_length=2 * CODE_CHARS_MAX + len("@")), COMPOSED
]
"""A rule set and its version, both a code: `name@version`."""
Points = Annotated[int, Field(ge=0, le=10**12)]
Minor = Annotated[int, Field(ge=0, le=10**15)]
"""Money in minor units of its currency (cents)."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970-01-01T00:00Z of an aware datetime, exactly."""
    return (moment - EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """The UTC datetime of microseconds since 1970-01-01T00:00Z."""
    return EPOCH + timedelta(microseconds=us)


def utc_text(us: int) -> str:
    """ISO 8601 in UTC, as short as exact allows, of microseconds since 1970-01-01T00:00Z."""
    text = from_us(us).isoformat(timespec="microseconds").removesuffix("+00:00")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "Z"


class Value(BaseModel):
    """An immutable value, strictly typed: nothing is coerced, unknown fields are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    if not TYPE_CHECKING:  # to mypy, it would make every name an attribute

        def __getattr__(self, name: str) -> Any:
            """What pydantic keeps of an instance beside its fields. Where values are read in millions, nobody sets it:
            nothing is extra or private, and all fields are set."""
            if name == "__pydantic_fields_set__":
                return set(type(self).__pydantic_fields__)
            if name in ("__pydantic_extra__", "__pydantic_private__"):
                return None
            return super().__getattr__(name)


def plain(annotation: Any) -> tuple[Any, bool]:
    """An annotation without its marks, and whether None is allowed."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return plain(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in typing.get_args(annotation) if arg is not type(None))
        return plain(inner)[0], True
    return annotation, False


class Metadata(Value):
    """What all events of one command share.

    - `recorded_us`: when the book learned of it, in microseconds since 1970-01-01T00:00Z;
    - `actor`, `purpose`, `on_behalf_of`, `channel`, `application`: who, why, for whom, through what and by which
      program of the host, as given to `book.acting`;
    - `rule`: the rule of the access policy that allowed the command; None: no policy was in force, or the book acted
      by itself;
    - `correlation_id`, `causation_id`: as given to `book.acting`, or None;
    - `command_id`: a UUID that stands for the command id of the host (its keyed hash), or None.
    """

    recorded_us: int
    actor: Code
    purpose: Code
    on_behalf_of: Code | None = None
    channel: Code | None = None
    application: Code | None = None
    rule: Code | None = None
    correlation_id: UUID | None = None
    causation_id: UUID | None = None
    command_id: UUID | None = None


class Event(Value):
    """One immutable entry of a stream. Beside the fields of its kind (docs/events.md), each has:

    - `stored_name`, `schema_version`: which event it is, as docs/events.md lists them;
    - `originator_id`, `originator_version`: its stream (a customer, a ticket, an account, the book), and its place in
      that, from 1 on without gaps;
    - `event_id`: its own id; decisions name the facts that they rest on by it;
    - `effective_us`: when it happened in the world, in microseconds since 1970-01-01T00:00Z;
    - `subject_id`: the customer whom it is about; None: nobody;
    - `metadata`: who, why, through what, and when the book learned of it.
    """

    stored_name: ClassVar[str]
    schema_version: ClassVar[int]
    personal_fields: ClassVar[Mapping[str, PersonalData]]
    clear_fields: ClassVar[tuple[str, ...]]
    sealed_under: ClassVar[str | None]
    """Clear field that holds the id of the data key; None: sealed under the subject's ordinary one."""
    other_subjects: ClassVar[tuple[str, ...]]
    """Clear fields that name further subjects."""
    TOPIC: ClassVar[str]

    originator_id: UUID
    originator_version: int
    event_id: UUID
    effective_us: int
    subject_id: UUID | None
    metadata: Metadata

    @property
    def effective_at(self) -> datetime:
        """When it happened in the world (UTC)."""
        return from_us(self.effective_us)

    @property
    def recorded_at(self) -> datetime:
        """When the book learned of it (UTC)."""
        return from_us(self.metadata.recorded_us)

    def subject_ids(self) -> tuple[UUID, ...]:
        """All customers whom it is about."""
        if not self.other_subjects:
            return () if self.subject_id is None else (self.subject_id,)
        named = (self.subject_id, *(getattr(self, name) for name in self.other_subjects))
        return tuple(dict.fromkeys(one for one in named if one is not None))

    def substance(self) -> tuple[Any, ...]:
        """What the event says, without its ids, version and metadata: equal for equal decisions."""
        return (self.stored_name, self.effective_us, *(getattr(self, name) for name in self.clear_fields))


class Fact(Event):
    """An event that the world caused."""


class Decision(Event):
    """An event that a rule derived: it names the rule set version and the ids of the facts that it rests on."""

    rules: RulesLabel
    facts: tuple[UUID, ...]


ENVELOPE = frozenset(Event.model_fields)

Upcaster = Callable[[list[Any]], list[Any]]
"""Turns the clear fields of one schema version (positional, as stored) into those of the next."""


class Schema:
    """One row of the registry: the class that reads a stored name, and how older versions become the newest."""

    __slots__ = ("event_class", "former_personal", "upcasters")

    def __init__(
        self,
        event_class: type[Event],
        upcasters: Mapping[int, Upcaster],
        former_personal: Mapping[int, Sequence[str]],
    ) -> None:
        self.event_class = event_class
        self.upcasters = upcasters
        self.former_personal = former_personal

    def personal_fields(self, version: int) -> Sequence[str]:
        """Names of the personal fields, in stored order, of a schema version."""
        if version in self.former_personal:
            return self.former_personal[version]
        return tuple(self.event_class.personal_fields)


REGISTRY: dict[str, Schema] = {}
"""Stored name → schema. Closed: a stored name that is not here can't be read."""

EventT = TypeVar("EventT", bound=Event)


def stored(
    name: str,
    version: int = 1,
    *,
    upcasters: Mapping[int, Upcaster] | None = None,
    former_personal: Mapping[int, Sequence[str]] | None = None,
    sealed_under: str | None = None,
    registry: dict[str, Schema] | None = None,
) -> Callable[[type[EventT]], type[EventT]]:
    """Register an event class under its stored name and schema version.

    `upcasters[v]` turns the clear fields of version v into those of v + 1; all from 1 to `version` - 1 are needed.
    `former_personal[v]` names the personal fields of version v where they differ from today's. `sealed_under`: the
    clear field that holds the id of the data key which seals them, where that is not the subject's ordinary one.
    """
    upcasters = upcasters or {}
    registry = REGISTRY if registry is None else registry
    if set(upcasters) != set(range(1, version)):
        raise TypeError(f"{name}: version {version} needs upcasters from 1 to {version - 1}, has {sorted(upcasters)}")
    if name in registry:
        raise TypeError(f"{name}: the stored name is taken by {registry[name].event_class.__qualname__}")

    def register(event_class: type[EventT]) -> type[EventT]:
        personal: dict[str, PersonalData] = {}
        for field, info in event_class.model_fields.items():
            for mark in info.metadata:
                if isinstance(mark, PersonalData):
                    personal[field] = mark
        event_class.stored_name = event_class.TOPIC = name
        event_class.schema_version = version
        event_class.personal_fields = personal
        event_class.sealed_under = sealed_under
        event_class.clear_fields = tuple(
            field for field in event_class.model_fields if field not in ENVELOPE and field not in personal
        )
        event_class.other_subjects = tuple(dict.fromkeys(mark.of for mark in personal.values() if mark.of is not None))
        unknown = set(event_class.other_subjects).difference(event_class.clear_fields)
        if unknown:
            raise TypeError(f"{name}: there is no clear field {sorted(unknown)[0]} that could name a subject")
        if sealed_under not in (None, *event_class.clear_fields):
            raise TypeError(f"{name}: there is no clear field {sealed_under} that could name a key")
        registry[name] = Schema(event_class, upcasters, former_personal or {})
        return event_class

    return register
