"""Personal data: marked in the type of the field, held as a handle, sealed before it reaches a disk."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args
from uuid import UUID

from pydantic import GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")


class Category(StrEnum):
    """What kind of personal data a field holds, for reviews and retention."""

    IDENTITY = "identity"
    CONTACT = "contact"
    TRANSACTION = "transaction"
    COMMUNICATION = "communication"
    PREFERENCE = "preference"


class Sensitivity(StrEnum):
    """How much harm a leak of the field does."""

    ORDINARY = "ordinary"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class PersonalData:
    """The mark on a personal field's type.

    `known_as` is how access policies and records of reads call it, where that depends on a clear field of the event:
    `contact.{kind}`. All others are called as in their events.
    `of` is the clear field that names whom the value is about, where that is not the event's subject.
    """

    category: Category
    sensitivity: Sensitivity = Sensitivity.ORDINARY
    known_as: str = ""
    of: str | None = None


class Sealed(NamedTuple):
    """One subject's sealed blob of an event and what its encryption is bound to, beside the book's origin."""

    event_id: UUID
    stored_name: str
    schema_version: int
    subject_id: UUID
    key_id: int
    fields: tuple[str, ...]
    blob: bytes


class Personal(Generic[T]):
    """A handle on a personal value.

    In the command that brings the value, the handle holds it until the event is stored. After that, and in every
    event that was loaded, the handle holds sealed bytes, and only the gate can open it. It never shows its value.
    """

    __slots__ = ("_field", "_held", "_known_as", "_sealed")

    def __init__(
        self, held: T | None = None, *, sealed: Sealed | None = None, field: str = "", known_as: str = ""
    ) -> None:
        self._held = held
        self._sealed = sealed
        self._field = field
        self._known_as = known_as

    @property
    def sealed(self) -> Sealed | None:
        """The blob that holds the value, or None while the handle still holds the value itself."""
        return self._sealed

    @property
    def field(self) -> str:
        """The field's name within the blob."""
        return self._field

    @property
    def known_as(self) -> str:
        """What access policies and records of reads call the field."""
        return self._known_as or self._field

    def _take(self) -> T | None:
        """The value, for the codec that seals it. None once sealed."""
        return self._held

    def __repr__(self) -> str:
        return f"Personal({'sealed' if self._sealed else 'held'})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Personal):
            return NotImplemented
        return (self._held, self._sealed, self._field) == (other._held, other._sealed, other._field)

    def __hash__(self) -> int:
        return hash((self._sealed, self._field))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        args = get_args(source)
        inner = handler.generate_schema(args[0]) if args else core_schema.any_schema()
        return core_schema.union_schema(
            [
                core_schema.is_instance_schema(Personal),
                core_schema.no_info_after_validator_function(Personal, inner),
            ],
            mode="left_to_right",
        )


@dataclass(frozen=True, slots=True)
class Erased:
    """What reading gives where the subject's key was destroyed."""

    subject_id: UUID

    def __str__(self) -> str:
        return "(erased)"


@dataclass(frozen=True, slots=True)
class Masked:
    """What reading gives where the access policy shows a part of a value only: `text` is that part."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Withheld:
    """What reading gives where a value is not released.

    `reason`: "denied" (the access policy does not allow the field), "restricted" (the subject's data is kept and not
    used, but for purposes that the policy lets go on), "no_consent" (the purpose rests on one, and there is none).
    """

    subject_id: UUID
    reason: str

    def __str__(self) -> str:
        return f"(withheld: {self.reason})"


Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=500)]

Name = Annotated[Personal[ShortText] | None, PersonalData(Category.IDENTITY)]
Detail = Annotated[Personal[ShortText] | None, PersonalData(Category.IDENTITY)]
BirthDate = Annotated[Personal[ShortText] | None, PersonalData(Category.IDENTITY, Sensitivity.HIGH)]
Income = Annotated[Personal[ShortText] | None, PersonalData(Category.IDENTITY, Sensitivity.HIGH)]
ContactValue = Annotated[Personal[ShortText] | None, PersonalData(Category.CONTACT, known_as="contact.{kind}")]
ExternalId = Annotated[Personal[ShortText] | None, PersonalData(Category.IDENTITY, known_as="identifier.{system}")]
OrderId = Annotated[Personal[ShortText] | None, PersonalData(Category.TRANSACTION)]
FreeText = Annotated[Personal[Text] | None, PersonalData(Category.COMMUNICATION, Sensitivity.HIGH)]
CouponCode = Annotated[Personal[ShortText] | None, PersonalData(Category.TRANSACTION)]
Preference = Annotated[Personal[ShortText] | None, PersonalData(Category.PREFERENCE)]
ResealedValue = Annotated[Personal[Text] | None, PersonalData(Category.TRANSACTION, known_as="{known_as}")]
