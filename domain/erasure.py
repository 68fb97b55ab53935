"""What an erasure leaves in the log: that it happened, why, and what the law demands to keep until when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated
from uuid import UUID

from pydantic import Field

from . import personal
from .aggregate import Stamp, applies
from .customer import Customer, KeyCreated
from .errors import refusal
from .events import Code, Event, Fact, stored
from .retention import Kept, Schedule, activity_until, kept

ORDINARY_KEY = 1
"""Id of the data key under which all personal values of a subject are sealed, but for those of `RecordKept`."""
KEPT_KEY = 2
"""Id of the data key under which is sealed what an erasure had to keep."""


@stored("customer.erased")
class SubjectErased(Fact):
    """Keys of the subject are destroyed: what was sealed under them can never be opened again.

    `key_ids`: 1 is the key of all ordinary values, 2 that of what was kept. `lookups` is the number of keyed hashes
    that were removed. `kept` records are sealed anew, to be erased at `kept_until_us`, by the schedules of then.
    """

    reason: Code
    key_ids: tuple[int, ...]
    lookups: int
    kept: int = 0
    kept_until_us: int | None = None
    request_id: UUID | None = None


@stored("customer.record_kept", sealed_under=KEPT_KEY)
class RecordKept(Fact):
    """A personal value that a retention schedule demands to keep beyond an erasure, sealed under a key of its own.

    `source` is the event that held it, `position` its place, `field` its name there.
    """

    source: UUID
    position: Annotated[int, Field(ge=1)]
    field: Code
    schedule: Code
    until_us: int
    value: personal.KeptValue = None


def check_erasable(customer: Customer) -> None:
    """Refuses: unknown_customer, customer_erased."""
    if not customer.registered:
        raise refusal("unknown_customer", "There is no such customer.", customer=customer.id)
    if ORDINARY_KEY in customer.erased:
        raise refusal("customer_erased", f"The customer {customer.id} was erased.", customer=customer.id)


def erase(
    customer: Customer,
    stamp: Stamp,
    reason: str,
    *,
    lookups: int,
    kept: int,
    kept_until_us: int | None,
    request_id: UUID | None,
) -> SubjectErased:
    """The ordinary key is to be destroyed. Refuses: unknown_customer, customer_erased."""
    check_erasable(customer)
    return customer.record(
        SubjectErased,
        stamp,
        customer.id,
        reason=reason,
        key_ids=(ORDINARY_KEY,),
        lookups=lookups,
        kept=kept,
        kept_until_us=kept_until_us,
        request_id=request_id,
    )


def keep(
    customer: Customer,
    stamp: Stamp,
    held: Sequence[tuple[int, Event, str, Kept]],
    values: Sequence[str],
    *,
    commitment: bytes,
) -> None:
    """Seal values anew that schedules demand to keep: the event of each with its position, the field, and why."""
    customer.record(KeyCreated, stamp, customer.id, key_id=KEPT_KEY, commitment=commitment)
    for (position, event, field, why), value in zip(held, values, strict=True):
        assert why.until_us is not None
        customer.record(
            RecordKept,
            stamp,
            customer.id,
            source=event.event_id,
            position=position,
            field=field,
            schedule=why.schedule,
            until_us=why.until_us,
            value=value,
        )


def still_kept(schedules: Sequence[Schedule], history: Iterable[tuple[int, Event]], at_us: int) -> Kept | None:
    """Why what an erasure kept must be kept at a moment still; of several reasons the longest. None: it may go.

    By the schedules in force, whatever they were at the erasure. `history` holds all events about the subject, each
    with its position. Pure.
    """
    events = dict(history)
    erased_us = min((one.effective_us for one in events.values() if isinstance(one, SubjectErased)), default=at_us)
    when = activity_until(events.values(), erased_us)
    reasons = [
        why
        for record in events.values()
        if isinstance(record, RecordKept)
        for field, why in kept(schedules, events[record.position], when, at_us).items()
        if field == record.field
    ]
    return max(reasons, key=lambda one: one.lasts_us, default=None)


def erase_kept(customer: Customer, stamp: Stamp, reason: str, why: Kept | None) -> SubjectErased | None:
    """The key of what an erasure kept is to be destroyed. None if there is none, or it is destroyed already.

    Refuses: still_kept, where there is a reason to keep it (`still_kept`).
    """
    if customer.kept_until_us is None or KEPT_KEY in customer.erased:
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
    customer.erased = (*customer.erased, *event.key_ids)
    if event.kept_until_us is not None:
        customer.kept_until_us = event.kept_until_us
