"""Profiles: what is known of a customer now, at a past date, or as the book knew it then.

A profile holds no personal value: for each personal field it holds the position of the event that set it, and the gate
opens that event. One fold serves the read model and every look into the past.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import msgpack

from tallybook.domain.customer import (
    PROFILE_FIELDS,
    ContactPointAdded,
    ContactPointRemoved,
    CustomerChanged,
    CustomerRegistered,
    IdentifierLinked,
    IdentifierRemoved,
    InteractionRecorded,
    ProfileFact,
    PurchaseRecorded,
    ReturnRecorded,
)
from tallybook.domain.errors import BookDamaged
from tallybook.domain.events import Event
from tallybook.domain.personal import Personal
from tallybook.domain.ticket import TicketOpened, TicketResolved

from .read_models import Recorded, Rows, Table

PERSONAL, CLEAR, REMOVED = "personal", "clear", "removed"

Entry = tuple[int, int, str, Any]
"""effective µs, position of the event that set it, personal / clear / removed, the value if it is clear"""


class Profile:
    """One customer's profile. Of several values of a field the one that took effect last counts, not the one that
    was recorded last; at the same time, the later position."""

    __slots__ = ("counts", "entries", "kind", "registered_us", "spent")

    def __init__(self) -> None:
        self.kind = ""
        self.registered_us = 0
        self.entries: dict[str, Entry] = {}
        self.counts: dict[str, int] = {}
        self.spent: dict[str, int] = {}

    def packed(self) -> bytes:
        """As bytes, for a row."""
        packed: bytes = msgpack.packb([self.kind, self.registered_us, self.entries, self.counts, self.spent])
        return packed

    @classmethod
    def unpacked(cls, raw: bytes) -> Profile:
        """From a row's bytes. Raises BookDamaged."""
        profile = cls()
        try:
            profile.kind, profile.registered_us, entries, profile.counts, profile.spent = msgpack.unpackb(raw)
            profile.entries = {name: tuple(entry) for name, entry in entries.items()}
        except (ValueError, TypeError, AttributeError, msgpack.exceptions.UnpackException) as error:
            raise BookDamaged(
                "A row of the read model profiles is no profile.",
                remedy="Build it anew from the log: `tallybook projections rebuild profiles`.",
            ) from error
        return profile

    def apply(self, recorded: Recorded) -> None:
        """Fold one event in."""
        applier = _APPLIERS.get(type(recorded.event))
        if applier is not None:
            applier(self, recorded.position, recorded.event)

    def set(self, name: str, effective_us: int, position: int, state: str, value: Any = None) -> None:
        """Give a field a value, unless one that took effect later is known."""
        held = self.entries.get(name)
        if held is None or (effective_us, position) >= (held[0], held[1]):
            self.entries[name] = (effective_us, position, state, value)

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter."""
        self.counts[what] = self.counts.get(what, 0) + by

    def earliest(self, what: str, at_us: int) -> None:
        """Keep the earliest time."""
        self.counts[what] = min(self.counts.get(what, at_us), at_us)

    def latest(self, what: str, at_us: int) -> None:
        """Keep the latest time."""
        self.counts[what] = max(self.counts.get(what, at_us), at_us)


_APPLIERS: dict[type[Event], Callable[[Profile, int, Any], None]] = {}


def _fields(profile: Profile, position: int, event: ProfileFact) -> None:
    personal = event.personal_fields
    for name in PROFILE_FIELDS:
        value = getattr(event, name)
        if value is not None:
            if name in personal:
                profile.set(name, event.effective_us, position, PERSONAL)
            else:
                profile.set(name, event.effective_us, position, CLEAR, value)


def _registered(profile: Profile, position: int, event: CustomerRegistered) -> None:
    profile.kind = event.kind
    profile.registered_us = event.effective_us
    _fields(profile, position, event)


def _changed(profile: Profile, position: int, event: CustomerChanged) -> None:
    _fields(profile, position, event)
    for name in event.cleared:
        profile.set(name, event.effective_us, position, REMOVED)


def _identifier_linked(profile: Profile, position: int, event: IdentifierLinked) -> None:
    profile.set(f"external_id:{event.system}", event.effective_us, position, PERSONAL)


def _identifier_removed(profile: Profile, position: int, event: IdentifierRemoved) -> None:
    profile.set(f"external_id:{event.system}", event.effective_us, position, REMOVED)


def _contact_point_added(profile: Profile, position: int, event: ContactPointAdded) -> None:
    profile.set(f"contact:{event.point_id}", event.effective_us, position, PERSONAL, event.kind)


def _contact_point_removed(profile: Profile, position: int, event: ContactPointRemoved) -> None:
    profile.set(f"contact:{event.point_id}", event.effective_us, position, REMOVED)


def _interaction(profile: Profile, _: int, event: InteractionRecorded) -> None:
    profile.count("interactions")
    profile.latest("last_interaction_us", event.effective_us)


def _purchase(profile: Profile, _: int, event: PurchaseRecorded) -> None:
    profile.count("purchases")
    profile.count("pieces", sum(line.quantity for line in event.lines))
    profile.earliest("first_purchase_us", event.effective_us)
    profile.latest("last_purchase_us", event.effective_us)
    profile.spent[event.currency] = profile.spent.get(event.currency, 0) + event.net_minor


def _return(profile: Profile, _: int, _event: ReturnRecorded) -> None:
    profile.count("returns")


def _ticket_opened(profile: Profile, _: int, _event: TicketOpened) -> None:
    profile.count("tickets")


def _ticket_resolved(profile: Profile, _: int, _event: TicketResolved) -> None:
    profile.count("tickets_resolved")


_APPLIERS.update(
    {
        CustomerRegistered: _registered,
        CustomerChanged: _changed,
        IdentifierLinked: _identifier_linked,
        IdentifierRemoved: _identifier_removed,
        ContactPointAdded: _contact_point_added,
        ContactPointRemoved: _contact_point_removed,
        InteractionRecorded: _interaction,
        PurchaseRecorded: _purchase,
        ReturnRecorded: _return,
        TicketOpened: _ticket_opened,
        TicketResolved: _ticket_resolved,
    }
)


class Profiles:
    """The read model of current profiles."""

    name = "profiles"
    version = 1
    by_subject = True
    table = Table("profiles", (("customer", "blob"), ("profile", "blob")), ("customer",))
    tables = (table,)

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        """Fold events in order."""
        due = [
            (applier, subject, position, event)
            for position, event in batch
            if (applier := _APPLIERS.get(type(event))) is not None and (subject := event.subject_id) is not None
        ]
        keys = {subject: (subject.bytes,) for subject in {subject for _, subject, _, _ in due}}
        rows.load(self.table, keys.values())
        profiles: dict[UUID, Profile] = {}
        for subject, key in keys.items():
            row = rows.get(self.table, key)
            profiles[subject] = Profile() if row is None else Profile.unpacked(row[1])
        for applier, subject, position, event in due:
            applier(profiles[subject], position, event)
        for subject, key in keys.items():
            rows.put(self.table, key, (*key, profiles[subject].packed()))


def handle_of(event: Event, name: str) -> Personal[Any]:
    """The handle of a profile's entry of that name, in the event that set it."""
    if name.startswith("external_id:"):
        attribute = "external_id"
    elif name.startswith("contact:"):
        attribute = "value"
    else:
        attribute = name
    handle: Personal[Any] = getattr(event, attribute)
    return handle


def profile_of(history: Sequence[Recorded], known: Callable[[Recorded], bool]) -> Profile | None:
    """A profile from a subject's events, of those only that `known` lets through. None: not registered by then."""
    profile = Profile()
    for recorded in history:
        if known(recorded):
            profile.apply(recorded)
    return profile if profile.kind else None
