"""Customer: who somebody is, how to reach them, what they bought and gave back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, NamedTuple
from uuid import UUID

from pydantic import Field

from . import personal
from .aggregate import Appliers, Stamp, applies
from .copy_on_write import LayeredDict
from .errors import refusal, whole
from .events import Code, Fact, Minor, Value, stored
from .privacy import DataSubject
from .rules import LINES_MAX, ORDER_MINOR_MAX, QUANTITY_MAX

Quantity = Annotated[int, Field(ge=1, le=10**9)]


class CustomerKind(StrEnum):
    """Person, organisation, or internal (employee, partner)."""

    PERSON = "person"
    ORGANISATION = "organisation"
    INTERNAL = "internal"


class Traits(NamedTuple):
    """What conditions of rule sets may read of a customer: clear and coarse. "" and 0 stand for what is not known."""

    kind: str = CustomerKind.PERSON.value
    country: str = ""
    source: str = ""
    birth_month: int = 0


class Line(Value):
    """One line of a purchase. `net_minor` is what the line costs after discounts, before tax and shipping."""

    sku: Code
    quantity: Quantity
    net_minor: Minor
    category: Code | None = None
    tax_minor: Minor = 0
    shipping_minor: Minor = 0
    discount_minor: Minor = 0


class ReturnLine(Value):
    """What came back of a purchase's line. `line` counts from 1; `net_minor` is the part of its net amount."""

    line: Annotated[int, Field(ge=1, le=10**6)]
    quantity: Quantity
    net_minor: Minor


@stored("customer.key_created")
class KeyCreated(Fact):
    """The subject has a data key. `commitment` is HMAC-SHA-256(data key, "commit"): AES-GCM alone commits to no key."""

    key_id: int
    commitment: bytes


class ProfileFact(Fact):
    """A fact that sets fields of a profile: those that are given."""

    country: Code | None = None
    source: Code | None = None
    owner: Code | None = None
    birth_month: Annotated[int, Field(ge=1, le=12)] | None = None
    name: personal.Name = None
    gender: personal.Detail = None
    birth_date: personal.BirthDate = None
    occupation: personal.Detail = None
    company: personal.Detail = None
    job_title: personal.Detail = None
    address: personal.Detail = None
    income_band: personal.Income = None
    risk_preference: personal.Preference = None
    hobbies: personal.Preference = None
    note: personal.FreeText = None


@stored("customer.registered")
class CustomerRegistered(ProfileFact):
    """The book knows the customer from now on."""

    kind: str


@stored("customer.changed")
class CustomerChanged(ProfileFact):
    """Fields got new values, or none (those in `cleared`); the old ones are in earlier events."""

    cleared: tuple[Code, ...] = ()


PROFILE_FIELDS: tuple[str, ...] = tuple(name for name in ProfileFact.model_fields if name not in Fact.model_fields)
"""Fields that `register` and `change` take."""


@stored("customer.identifier_linked")
class IdentifierLinked(Fact):
    """The customer is known by an external id in another system."""

    system: Code
    external_id: personal.ExternalId = None


@stored("customer.identifier_removed")
class IdentifierRemoved(Fact):
    """The customer is no longer known by its external id in that system."""

    system: Code


@stored("customer.contact_point_added")
class ContactPointAdded(Fact):
    """A way to reach the customer."""

    point_id: UUID
    kind: Code
    value: personal.ContactValue = None


@stored("customer.contact_point_removed")
class ContactPointRemoved(Fact):
    """A way to reach the customer is no longer in use."""

    point_id: UUID


@stored("customer.interaction_recorded")
class InteractionRecorded(Fact):
    """Contact with the customer. The channel stands in the metadata too, for all events alike."""

    kind: Code
    direction: str
    outcome: Code | None = None
    text: personal.FreeText = None


@stored("customer.referred")
class Referred(Fact):
    """The customer brought another: `note` is about the one who did, `relation` about the other."""

    referred: UUID
    note: personal.FreeText = None
    relation: Annotated[
        personal.Personal[personal.ShortText] | None,
        personal.PersonalData(personal.Category.IDENTITY, of="referred"),
    ] = None


@stored("customer.referred_by")
class ReferredBy(Fact):
    """The customer was brought by another. `referral_id` is what says so on the other's stream; `number`: which one of
    those whom the other brought.
    """

    referrer: UUID
    referral_id: UUID
    number: Annotated[int, Field(ge=1)]


@stored("customer.purchase_recorded")
class PurchaseRecorded(Fact):
    """The customer bought. `source_ref` tells where an imported purchase stood."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    lines: tuple[Line, ...]
    store: Code | None = None
    order_id: personal.OrderId = None
    source_ref: personal.OrderId = None

    @property
    def net_minor(self) -> int:
        """Net amount of all lines, in minor units."""
        return sum(line.net_minor for line in self.lines)


@stored("customer.return_recorded")
class ReturnRecorded(Fact):
    """The customer gave lines of a purchase back."""

    purchase_id: UUID
    lines: tuple[ReturnLine, ...]
    reason: Code | None = None

    @property
    def net_minor(self) -> int:
        """Net amount of what came back, in minor units."""
        return sum(line.net_minor for line in self.lines)


class Customer(DataSubject):
    """A customer's own stream, folded: what the guards of commands ask for. What a customer is like is in profiles."""

    CONTAINERS = ("noted", "commitments", "identifiers", "contact_points", "purchases", "returned")
    APPLIERS: ClassVar[Appliers] = {**DataSubject.APPLIERS}

    kind: CustomerKind | None = None
    noted: dict[str, tuple[int, str]]
    """Trait → from when on it is so, and what it is; of two values the one that took effect last."""
    registered_us: int = 0
    commitments: dict[int, bytes]
    """Id of each data key → the commitment to it."""
    referrer: UUID | None = None
    """Who brought the customer."""
    referral_number: int = 0
    """Which one of those whom the referrer brought."""
    referred_us: int = 0
    brought: int = 0
    """How many customers this one brought."""
    ordinary_key: int = 1
    """Id of the data key under which new values are sealed."""
    erased_keys: tuple[int, ...] = ()
    """Ids of the keys that are destroyed."""
    kept_until_us: int | None = None
    """Until when what an erasure kept must be kept."""
    identifiers: dict[str, int]
    """System → since when."""
    purchases: LayeredDict[UUID, tuple[int, tuple[tuple[int, int], ...]]]
    """Purchase → when, and of each line quantity and net amount. None leaves: any may come back at any time."""
    returned: LayeredDict[tuple[UUID, int], tuple[int, int]]
    """Purchase and line → pieces and net amount that came back."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(stream_id)
        self.noted = {}
        self.commitments = {}
        self.identifiers = {}
        self.contact_points = {}
        self.purchases = LayeredDict()
        self.returned = LayeredDict()

    @property
    def registered(self) -> bool:
        """Whether the customer is in the book."""
        return self.kind is not None

    @property
    def traits(self) -> Traits:
        """What conditions of rule sets may read."""
        return traits_of(self.noted)

    @property
    def erased(self) -> bool:
        """Whether the customer was erased as a whole, and not single values only."""
        return self.ordinary_key in self.erased_keys

    def register(
        self,
        stamp: Stamp,
        kind: CustomerKind,
        *,
        key_id: int,
        commitment: bytes,
        fields: Mapping[str, object],
    ) -> CustomerRegistered:
        """Refuses: already_registered."""
        if self.registered:
            raise refusal("already_registered", "The customer is registered already.", customer=self.id)
        self.record(KeyCreated, stamp, self.id, key_id=key_id, commitment=commitment)
        return self.record(CustomerRegistered, stamp, self.id, kind=kind.value, **fields)

    def change(self, stamp: Stamp, fields: Mapping[str, object], clear: Sequence[str]) -> CustomerChanged:
        """Refuses: unknown_customer, nothing_changed."""
        self.must_be_registered()
        cleared = tuple(name for name in clear if name in PROFILE_FIELDS)
        if not fields and not cleared:
            raise refusal("nothing_changed", "No field is set or cleared.", customer=self.id)
        return self.record(CustomerChanged, stamp, self.id, cleared=cleared, **fields)

    def link_identifier(self, stamp: Stamp, system: str, external_id: str) -> IdentifierLinked:
        """Refuses: unknown_customer, identifier_linked. That nobody else has the id is the book's claim."""
        self.must_be_registered()
        if system in self.identifiers:
            raise refusal(
                "identifier_linked",
                f"The customer has an external id in {system}.",
                customer=self.id,
                system=system,
            )
        return self.record(IdentifierLinked, stamp, self.id, system=system, external_id=external_id)

    def remove_identifier(self, stamp: Stamp, system: str) -> IdentifierRemoved:
        """Refuses: unknown_customer, unknown_identifier."""
        self.must_be_registered()
        if system not in self.identifiers:
            raise refusal(
                "unknown_identifier",
                f"The customer has no external id in {system}.",
                customer=self.id,
                system=system,
            )
        stamp.not_before(self.identifiers[system], "that of what it rests on")
        return self.record(IdentifierRemoved, stamp, self.id, system=system)

    def add_contact_point(self, stamp: Stamp, kind: str, value: str) -> ContactPointAdded:
        """Refuses: unknown_customer."""
        self.must_be_registered()
        return self.record(ContactPointAdded, stamp, self.id, point_id=stamp.new_id(), kind=kind, value=value)

    def remove_contact_point(self, stamp: Stamp, point_id: UUID) -> ContactPointRemoved:
        """Refuses: unknown_customer, unknown_contact_point."""
        self.must_be_registered()
        if point_id not in self.contact_points:
            raise refusal(
                "unknown_contact_point",
                "The customer has no such contact point.",
                customer=self.id,
                point=point_id,
            )
        stamp.not_before(self.contact_points[point_id], "that of what it rests on")
        return self.record(ContactPointRemoved, stamp, self.id, point_id=point_id)

    def record_interaction(
        self, stamp: Stamp, kind: str, direction: str, outcome: str | None, text: str | None
    ) -> InteractionRecorded:
        """Refuses: unknown_customer, invalid_argument."""
        self.must_be_registered()
        if direction not in ("in", "out"):
            raise refusal("invalid_argument", 'direction is "in" or "out".', direction=direction)
        return self.record(
            InteractionRecorded, stamp, self.id, kind=kind, direction=direction, outcome=outcome, text=text
        )

    def refer(self, stamp: Stamp, referred: Customer, note: str | None, relation: str | None) -> Referred:
        """A fact on each of the two. Refuses: unknown_customer, invalid_argument, already_referred."""
        self.must_be_registered()
        referred.must_be_registered()
        if referred.id == self.id:
            raise refusal("invalid_argument", "referred: nobody refers themselves.", argument="referred")
        if referred.referrer is not None:
            raise refusal("already_referred", "The customer was referred before.", customer=referred.id)
        fact = self.record(Referred, stamp, self.id, referred=referred.id, note=note, relation=relation)
        referred.record(
            ReferredBy, stamp, referred.id, referrer=self.id, referral_id=fact.event_id, number=self.brought
        )
        return fact

    def record_purchase(
        self,
        stamp: Stamp,
        lines: Sequence[Line],
        *,
        currency: str,
        store: str | None = None,
        order_id: str | None = None,
        source_ref: str | None = None,
    ) -> PurchaseRecorded:
        """Refuses: invalid_argument, unknown_customer, no_lines."""
        self.check_purchase(lines)
        return self.record(
            PurchaseRecorded,
            stamp,
            self.id,
            currency=currency,
            lines=tuple(lines),
            store=store,
            order_id=order_id,
            source_ref=source_ref,
        )

    def check_purchase(self, lines: Sequence[Line]) -> None:
        """The guards of a purchase. Refuses: invalid_argument, unknown_customer, no_lines."""
        # Rule sets are checked against these bounds when they are published.
        for found, most, what in (
            (len(lines), LINES_MAX, "lines"),
            (
                sum([one.net_minor + one.tax_minor + one.shipping_minor for one in lines]),
                ORDER_MINOR_MAX,
                "minor units",
            ),
            (sum([line.quantity for line in lines]), QUANTITY_MAX, "pieces"),
        ):
            if found > most:
                raise refusal("invalid_argument", f"lines: a purchase has at most {most} {what}.", argument="lines")
        self.must_be_registered()
        if not lines:
            raise refusal("no_lines", "The purchase has no lines.", customer=self.id)

    def check_return(self, quantities: Mapping[int, int]) -> None:
        """The guards of a return that need no purchase. Refuses: invalid_argument, unknown_customer, no_lines."""
        for number, quantity in quantities.items():
            whole(number, "line number")
            whole(quantity, f"quantity of line {number}")
        self.must_be_registered()
        if not quantities:
            raise refusal("no_lines", "The return names no lines.", customer=self.id)

    def record_return(
        self, stamp: Stamp, purchase_id: UUID, quantities: Mapping[int, int], reason: str | None
    ) -> ReturnRecorded:
        """Give back `quantities` (line number → pieces). The net amount of partial returns never exceeds the line's.

        Refuses: invalid_argument, unknown_customer, no_lines, unknown_purchase, unknown_line, returned_too_much,
        effective_too_early.
        """
        lines = self.returnable(stamp, purchase_id, quantities)
        return self.record(ReturnRecorded, stamp, self.id, purchase_id=purchase_id, lines=lines, reason=reason)

    def returnable(self, stamp: Stamp, purchase_id: UUID, quantities: Mapping[int, int]) -> tuple[ReturnLine, ...]:
        """What such a return gives back, at the stamp's time. Refuses as `record_return` does."""
        self.check_return(quantities)
        purchase = self.purchases.get(purchase_id)
        if purchase is None:
            raise refusal(
                "unknown_purchase", "The customer has no such purchase.", customer=self.id, purchase=purchase_id
            )
        bought_us, bought = purchase
        unknown = [number for number in sorted(quantities) if number > len(bought)]
        if unknown:
            raise refusal("unknown_line", f"The purchase has no line {unknown[0]}.", line=unknown[0], lines=len(bought))
        lines = []
        for number, quantity in sorted(quantities.items()):
            pieces, net_minor = bought[number - 1]
            back, net_back = self.returned.get((purchase_id, number), (0, 0))
            if back + quantity > pieces:
                raise refusal(
                    "returned_too_much",
                    f"Line {number}: {quantity} returned, {pieces - back} left.",
                    line=number,
                    asked=quantity,
                    left=pieces - back,
                )
            net = net_minor * (back + quantity) // pieces - net_back
            lines.append(ReturnLine(line=number, quantity=quantity, net_minor=net))
        stamp.not_before(bought_us, "that of what it rests on")
        return tuple(lines)


@applies(Customer.APPLIERS, KeyCreated)
def _key_created(customer: Customer, event: KeyCreated) -> None:
    customer.commitments[event.key_id] = event.commitment


def note_traits(noted: dict[str, tuple[int, str]], event: ProfileFact) -> None:
    """Fold a fact about the profile into traits."""
    given = {name: getattr(event, name) for name in _TOLD}
    values = {name: str(value) for name, value in given.items() if value is not None}
    if isinstance(event, CustomerRegistered):
        values["kind"] = event.kind
    note_values(noted, event.effective_us, values, event.cleared if isinstance(event, CustomerChanged) else ())


_TOLD = ("country", "source", "birth_month")


def note_values(
    noted: dict[str, tuple[int, str]], at_us: int, values: Mapping[str, str], cleared: Iterable[str]
) -> None:
    """Fold what a fact about the profile tells: of two values of a trait, the one that took effect last."""
    for name, value in (*values.items(), *((name, "") for name in cleared if name in _TOLD)):
        if name not in noted or noted[name][0] <= at_us:
            noted[name] = (at_us, value)


_UNKNOWN = Traits()


def traits_of(noted: Mapping[str, tuple[int, str]]) -> Traits:
    """The traits that were noted."""
    known = {name: value for name, (_, value) in noted.items() if value}
    return Traits(
        known.get("kind", _UNKNOWN.kind),
        known.get("country", ""),
        known.get("source", ""),
        int(known.get("birth_month", 0)),
    )


@applies(Customer.APPLIERS, CustomerRegistered)
def _registered(customer: Customer, event: CustomerRegistered) -> None:
    customer.kind = CustomerKind(event.kind)
    customer.registered_us = event.effective_us
    note_traits(customer.noted, event)


@applies(Customer.APPLIERS, CustomerChanged)
def _changed(customer: Customer, event: CustomerChanged) -> None:
    note_traits(customer.noted, event)


@applies(Customer.APPLIERS, IdentifierLinked)
def _identifier_linked(customer: Customer, event: IdentifierLinked) -> None:
    customer.identifiers[event.system] = event.effective_us


@applies(Customer.APPLIERS, IdentifierRemoved)
def _identifier_removed(customer: Customer, event: IdentifierRemoved) -> None:
    customer.identifiers.pop(event.system, None)


@applies(Customer.APPLIERS, ContactPointAdded)
def _contact_point_added(customer: Customer, event: ContactPointAdded) -> None:
    customer.contact_points[event.point_id] = event.effective_us


@applies(Customer.APPLIERS, ContactPointRemoved)
def _contact_point_removed(customer: Customer, event: ContactPointRemoved) -> None:
    customer.contact_points.pop(event.point_id, None)


@applies(Customer.APPLIERS, Referred)
def _referred(customer: Customer, _: Referred) -> None:
    customer.brought += 1


@applies(Customer.APPLIERS, ReferredBy)
def _referred_by(customer: Customer, event: ReferredBy) -> None:
    customer.referrer = event.referrer
    customer.referral_number = event.number
    customer.referred_us = event.effective_us


@applies(Customer.APPLIERS, PurchaseRecorded)
def _purchase_recorded(customer: Customer, event: PurchaseRecorded) -> None:
    lines = tuple([(line.quantity, line.net_minor) for line in event.lines])
    customer.purchases[event.event_id] = (event.effective_us, lines)


@applies(Customer.APPLIERS, ReturnRecorded)
def _return_recorded(customer: Customer, event: ReturnRecorded) -> None:
    for line in event.lines:
        key = (event.purchase_id, line.line)
        quantity, net = customer.returned.get(key, (0, 0))
        customer.returned[key] = (quantity + line.quantity, net + line.net_minor)
