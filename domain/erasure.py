"""What an erasure leaves in the log: that it happened, why, and what stays, sealed anew: what the law demands to keep,
and where single values are erased, all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from . import personal
from .access import FieldName
from .aggregate import Stamp, applies
from .customer import Customer, KeyCreated
from .errors import refusal
from .events import Code, Event, Fact, Value, stored
from .privacy import RequestKind
from .retention import Held, Kept, Schedule, activity_until, kept

ORDINARY_KEY = 1
"""Id of a subject's first data key. Those that follow it, where single values were erased, count on from 3."""
KEPT_KEY = 2
"""Id of the data key under which is sealed what an erasure had to keep."""


@stored("customer.erased")
class SubjectErased(Fact):
    """Keys of the subject are destroyed: what was sealed under them can never be opened again.

    `key_ids`: 2 is the key of what was kept, all others are of ordinary values. `lookups` is the number of keyed hashes
    that were removed. `kept` values are sealed anew, to be erased at `kept_until_us`, by the schedules of then.
    `even_so`: why it was done although something stood in the way.
    """

    reason: Code
    key_ids: tuple[int, ...]
    lookups: int
    kept: int = 0
    kept_until_us: int | None = None
    request_id: UUID | None = None
    even_so: Code | None = None


class ErasedOf(Value):
    """How many values of a category were erased."""

    category: Code
    values: Annotated[int, Field(ge=1)]


@stored("customer.values_erased")
class ValuesErased(Fact):
    """Single values of the subject are erased: those of `schedules` that were past their period. The customer goes on.

    The keys `key_ids` are destroyed; `resealed` values stay, sealed anew under `new_key_id`, which seals what is new,
    too. Of `identifiers` (systems) and `orders` (purchases), whose ids are among what went, the look-ups were removed.
    """

    reason: Code
    schedules: tuple[Code, ...]
    erased: tuple[ErasedOf, ...]
    resealed: int
    key_ids: tuple[int, ...]
    new_key_id: int
    identifiers: tuple[Code, ...] = ()
    orders: tuple[UUID, ...] = ()


@stored("customer.value_resealed", sealed_under="key_id")
class ValueResealed(Fact):
    """A personal value that stays where the key that sealed it is destroyed, sealed anew under `key_id`.

    `source` is the event that brought it, `position` its place, `field` its name there, `known_as` what access policies
    call it. Of what an erasure had to keep, `schedule` and `until_us` tell by which schedule, and until when.
    """

    source: UUID
    position: Annotated[int, Field(ge=1)]
    field: Code
    known_as: FieldName
    key_id: int
    schedule: Code | None = None
    until_us: int | None = None
    value: personal.ResealedValue = None

    @property
    def kept(self) -> bool:
        """Whether an erasure kept it: for the purpose that demands it alone."""
        return self.key_id == KEPT_KEY


DESTROYING = (SubjectErased, ValuesErased)
"""Events that say that keys are destroyed: each has `key_ids`."""


def newest_of(resealed: Iterable[ValueResealed]) -> dict[tuple[UUID, str], personal.Personal[str]]:
    """Of values that were sealed anew for a customer who goes on, each with its newest handle, by event and field.

    What an erasure kept is not among them: it is kept for its purpose alone, and read nowhere else. A value that was
    sealed anew more than once is found by the events that did so, too.
    """
    found: dict[tuple[UUID, str], personal.Personal[str]] = {}
    former: dict[tuple[UUID, str], list[tuple[UUID, str]]] = {}
    for event in resealed:
        if not event.kept and event.value is not None:
            place = (event.source, event.field)
            names = former.setdefault(place, [place])
            found.update(dict.fromkeys(names, event.value))
            names.append((event.event_id, "value"))
    return found


def held_of(subject: UUID, history: Iterable[tuple[int, Event]], erased_keys: Collection[int] = ()) -> Iterator[Held]:
    """The values of a subject that can still be opened, from all events about them; not what an erasure kept."""
    history = list(history)
    newest = newest_of(event for _, event in history if isinstance(event, ValueResealed))
    for position, event in history:
        if isinstance(event, ValueResealed):
            continue
        for field, mark in event.personal_fields.items():
            handle: personal.Personal[str] | None = getattr(event, field)
            owner = event.subject_id if mark.of is None else getattr(event, mark.of)
            if handle is None or owner != subject:
                continue
            sealed = newest.get((event.event_id, field), handle).sealed
            if sealed is None or sealed.key_id not in erased_keys:
                yield Held(position, event, field, mark.category.value)


def check_erasable(customer: Customer) -> None:
    """Refuses: unknown_customer, customer_erased."""
    if not customer.registered:
        raise refusal("unknown_customer", "There is no such customer.", customer=customer.id)
    if customer.erased:
        raise refusal("customer_erased", f"The customer {customer.id} was erased.", customer=customer.id)


def check_erasure(customer: Customer, stamp: Stamp, request_id: UUID | None, even_so: str | None) -> None:
    """See that a customer may be erased as a whole, for the request that is given.

    Refuses: unknown_customer, customer_erased, unknown_request, request_completed, request_of_other_kind,
    effective_too_early, erasure_held.
    """
    check_erasable(customer)
    stamp.not_before(customer.registered_us, "the customer was registered")
    if request_id is not None:
        customer.asked_for_erasure(stamp, request_id)
    if customer.holds and even_so is None:
        raise refusal(
            "erasure_held",
            f"The customer {customer.id} is not erased: {'; '.join(in_the_way(customer))}.",
            customer=customer.id,
            waits_for=", ".join(customer.holds),
        )


def check_repeated(customer: Customer, stamp: Stamp, reason: str, request_id: UUID | None, even_so: str | None) -> None:
    """See that what is said of an erasure could be so, where the customer was erased before: nothing is recorded.

    Refuses: invalid_argument, unknown_request, request_of_other_kind, effective_too_early.
    """
    stamp.not_before(customer.registered_us, "the customer was registered")
    if request_id is not None:
        customer.asked_for_erasure(stamp, request_id, answered=True)
    customer.draft([]).record(
        SubjectErased, stamp, customer.id, reason=reason, key_ids=(), lookups=0, request_id=request_id, even_so=even_so
    )


def erase(
    customer: Customer,
    stamp: Stamp,
    reason: str,
    *,
    key_ids: Sequence[int] = (),
    lookups: int,
    kept: int,
    kept_until_us: int | None,
    request_id: UUID | None,
    even_so: str | None = None,
) -> SubjectErased:
    """The ordinary key is to be destroyed, and others that were left over (`key_ids`).

    Refuses: what `check_erasure` refuses.
    """
    check_erasure(customer, stamp, request_id, even_so)
    return customer.record(
        SubjectErased,
        stamp,
        customer.id,
        reason=reason,
        key_ids=(customer.ordinary_key, *key_ids),
        lookups=lookups,
        kept=kept,
        kept_until_us=kept_until_us,
        request_id=request_id,
        even_so=even_so if customer.holds else None,
    )


def in_the_way(customer: Customer) -> list[str]:
    """What stands in the way of erasing a customer, in words."""
    requests = [one for one in customer.requests if one.completed_us is None and one.kind != RequestKind.ERASURE]
    told = [f"the request for {one.kind} {one.request_id} is open" for one in requests]
    return ["the data is restricted"] * customer.restricted + told


def keep(
    customer: Customer, stamp: Stamp, values: Sequence[tuple[Held, Kept]], texts: Sequence[str], *, commitment: bytes
) -> None:
    """Seal values anew that schedules demand to keep beyond an erasure."""
    customer.record(KeyCreated, stamp, customer.id, key_id=KEPT_KEY, commitment=commitment)
    for (value, why), text in zip(values, texts, strict=True):
        assert why.until_us is not None
        _reseal(customer, stamp, value, text, key_id=KEPT_KEY, schedule=why.schedule, until_us=why.until_us)


def erase_values(
    customer: Customer,
    stamp: Stamp,
    reason: str,
    *,
    schedules: Sequence[str],
    erased: Sequence[Held],
    stays: Sequence[Held],
    texts: Sequence[str],
    key_id: int,
    commitment: bytes,
    identifiers: Sequence[str] = (),
    orders: Sequence[UUID] = (),
) -> ValuesErased:
    """Erase single values: those that stay are sealed anew under another ordinary key, and the one of now is to be
    destroyed. Refuses: unknown_customer, customer_erased."""
    check_erasable(customer)
    customer.record(KeyCreated, stamp, customer.id, key_id=key_id, commitment=commitment)
    counts = Counter(value.category for value in erased)
    event = customer.record(
        ValuesErased,
        stamp,
        customer.id,
        reason=reason,
        schedules=tuple(schedules),
        erased=tuple(ErasedOf(category=category, values=count) for category, count in sorted(counts.items())),
        resealed=len(texts),
        key_ids=(customer.ordinary_key,),
        new_key_id=key_id,
        identifiers=tuple(identifiers),
        orders=tuple(orders),
    )
    for value, text in zip(stays, texts, strict=True):
        _reseal(customer, stamp, value, text, key_id=key_id)
    return event


def _reseal(customer: Customer, stamp: Stamp, value: Held, text: str, **fields: Any) -> None:
    position, event, field, _ = value
    customer.record(
        ValueResealed,
        stamp,
        customer.id,
        source=event.event_id,
        position=position,
        field=field,
        known_as=getattr(event, field).known_as,
        value=text,
        **fields,
    )


def still_kept(schedules: Sequence[Schedule], history: Iterable[tuple[int, Event]], at_us: int) -> Kept | None:
    """Why what an erasure kept must be kept at a moment still; of several reasons the longest. None: it may go.

    By the schedules in force, whatever they were at the erasure. `history` holds all events about the subject, each
    with its position. Pure.
    """
    events = dict(history)
    erased_us = min((one.effective_us for one in events.values() if isinstance(one, SubjectErased)), default=at_us)
    when = activity_until(events.values(), erased_us)
    values = [
        Held(one.position, source, one.field, source.personal_fields[one.field].category.value)
        for one in events.values()
        if isinstance(one, ValueResealed) and one.kept
        for source in [events[one.position]]
    ]
    reasons = [why for value in values if (why := kept(schedules, value, when, at_us)) is not None]
    return max(reasons, key=lambda one: one.lasts_us, default=None)


def erase_kept(customer: Customer, stamp: Stamp, reason: str, why: Kept | None) -> SubjectErased | None:
    """The key of what an erasure kept is to be destroyed. None if there is none, or it is destroyed already.

    Refuses: still_kept, where there is a reason to keep it (`still_kept`).
    """
    if customer.kept_until_us is None or KEPT_KEY in customer.erased_keys:
        return None
    if why is not None:
        raise refusal(
            "still_kept",
            f"What was kept of the customer must still be kept: {why.schedule}.",
            customer=customer.id,
            until_us=why.until_us,
        )
    return customer.record(SubjectErased, stamp, customer.id, reason=reason, key_ids=(KEPT_KEY,), lookups=0)


@applies(Customer.APPLIERS, SubjectErased)
def _erased(customer: Customer, event: SubjectErased) -> None:
    customer.erased_keys = (*customer.erased_keys, *event.key_ids)
    if event.kept_until_us is not None:
        customer.kept_until_us = event.kept_until_us


@applies(Customer.APPLIERS, ValuesErased)
def _values_erased(customer: Customer, event: ValuesErased) -> None:
    customer.erased_keys = (*customer.erased_keys, *event.key_ids)
    customer.ordinary_key = event.new_key_id
    for system in event.identifiers:
        customer.identifiers.pop(system, None)
