"""What a book shows: `book.profiles`, `book.tiers`, `book.audit`, `book.projections`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.form import known_uuid, uuid_from
from tallybook.domain.customer import IdentifierLinked, IdentifierRemoved, Line, PurchaseRecorded
from tallybook.domain.erasure import ValueResealed
from tallybook.domain.errors import refusal, text, whole
from tallybook.domain.events import Metadata
from tallybook.domain.loyalty import account_id
from tallybook.domain.personal import Erased, Personal
from tallybook.projections.exclusions import Scored
from tallybook.projections.profiles import CLEAR, PERSONAL, Entry, Profile, Profiles, handle_of, profile_of
from tallybook.projections.read_models import OPEN_END, Recorded
from tallybook.projections.segments import Purchase, Segments, segments
from tallybook.projections.tiers import Tiers, membership_filter

from .commands import Desk
from .core import RECORDED_US, Core
from .customers import DEFAULT_PROGRAMME, as_id
from .times import When, as_of_us, iso

# Where it stands in what a scan of the log gives.
_NET_MINOR = list(Line.model_fields).index("net_minor")


@dataclass(frozen=True, slots=True)
class FieldView:
    """A field's value, since when it holds in the world, and the position of the event that set it."""

    value: object
    since: str
    position: int
    personal: bool


@dataclass(frozen=True, slots=True)
class ContactPointView:
    """A way to reach the customer."""

    point_id: UUID
    kind: str
    value: object
    position: int


@dataclass(frozen=True, slots=True)
class ProfileView:
    """A customer's profile. `fields` are by name; a value is `Erased` where the subject's key was destroyed."""

    customer_id: UUID
    kind: str
    registered_at: str | None
    fields: Mapping[str, FieldView] = field(default_factory=dict)
    identifiers: Mapping[str, FieldView] = field(default_factory=dict)
    contact_points: Sequence[ContactPointView] = ()
    purchases: int = 0
    pieces: int = 0
    returns: int = 0
    interactions: int = 0
    tickets: int = 0
    tickets_resolved: int = 0
    spent_minor: Mapping[str, int] = field(default_factory=dict)
    first_purchase_at: str | None = None
    last_purchase_at: str | None = None
    last_interaction_at: str | None = None

    def __getitem__(self, name: str) -> object:
        """A field's value; KeyError if it has none."""
        return self.fields[name].value


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """Something that happened. `details` are in the clear, `texts` were opened by the gate (or are `Erased`)."""

    position: int
    effective_at: str
    actor: str
    channel: str | None
    action: str
    details: Mapping[str, object]
    texts: Mapping[str, object]


def timeline_of(
    core: Core, acting: Metadata, action: str, history: Sequence[Recorded], subject: UUID
) -> list[TimelineEntry]:
    """Events of one subject with their personal values, opened in one recorded read."""
    texts = core.opened(acting, action, history, subject)
    return [
        TimelineEntry(
            position,
            iso(event.effective_us) or "",
            event.metadata.actor,
            event.metadata.channel,
            event.stored_name,
            {name: value for name in event.clear_fields if (value := getattr(event, name)) not in (None, ())},
            opened,
        )
        for (position, event), opened in zip(history, texts, strict=True)
    ]


class ProfilesView(Desk):
    """Profiles, opened through the gate: each call is one recorded read."""

    def get(
        self, customer: UUID | str, *, as_of: When | None = None, known_at: When | int | None = None
    ) -> ProfileView:
        """A customer's profile now, at a moment of the world (`as_of`), as the book knew it (`known_at`).

        `known_at` is a time or a position. Refuses: acting_required, unknown_customer, naive_time, invalid_argument.
        """
        core = self._core
        core.check_open()
        acting = core.acting_now()
        customer_id = as_id(customer, "customer")
        if as_of is None and known_at is None:
            core.catch_up(core.profiles)
            rows = core.store.select(core.profiles, Profiles.table, ["profile"], "customer=?", [customer_id.bytes])
            found = Profile.unpacked(rows[0][0]) if rows else None
        else:
            core.catch_up(core.trail)
            at_us = core.now_us() if as_of is None else as_of_us(as_of)
            known = core.known(known_at)
            found = profile_of(
                core.subject_history(customer_id),
                lambda recorded: recorded.event.effective_us <= at_us and known(recorded),
            )
        if found is None or not found.kind:
            raise refusal("unknown_customer", "There is no such customer, or not by then.", customer=customer_id)
        return self._opened(customer_id, found, core.gate_metadata(acting))

    def _opened(self, customer_id: UUID, profile: Profile, acting: Any) -> ProfileView:
        core = self._core
        live = {name: entry for name, entry in profile.entries.items() if entry[2] in (PERSONAL, CLEAR)}
        positions = sorted({entry[1] for entry in live.values() if entry[2] == PERSONAL})
        events = {recorded.position: recorded.event for recorded in core.at_positions(positions)}
        handles = {name: handle_of(events[entry[1]], name) for name, entry in live.items() if entry[2] == PERSONAL}
        values = core.gate.open(acting, "profiles.get", handles, [customer_id])

        def view(name: str, entry: Entry) -> FieldView:
            personal = entry[2] == PERSONAL
            return FieldView(values[name] if personal else entry[3], iso(entry[0]) or "", entry[1], personal)

        counts = profile.counts
        return ProfileView(
            customer_id,
            profile.kind,
            iso(profile.registered_us),
            {name: view(name, entry) for name, entry in live.items() if ":" not in name},
            {
                name.removeprefix("external_id:"): view(name, entry)
                for name, entry in live.items()
                if name.startswith("external_id:")
            },
            [
                ContactPointView(UUID(name.removeprefix("contact:")), entry[3], values[name], entry[1])
                for name, entry in live.items()
                if name.startswith("contact:")
            ],
            counts.get("purchases", 0),
            counts.get("pieces", 0),
            counts.get("returns", 0),
            counts.get("interactions", 0),
            counts.get("tickets", 0),
            counts.get("tickets_resolved", 0),
            profile.spent,
            iso(counts.get("first_purchase_us")),
            iso(counts.get("last_purchase_us")),
            iso(counts.get("last_interaction_us")),
        )

    def timeline(
        self, customer: UUID | str, *, as_of: When | None = None, known_at: When | int | None = None
    ) -> list[TimelineEntry]:
        """All that happened with a customer, tickets and account included, its texts opened: one recorded read.

        In the order in which it took effect. Refuses: acting_required, unknown_customer, naive_time, invalid_argument.
        """
        core = self._core
        core.check_open()
        acting = core.acting_now()
        customer_id = as_id(customer, "customer")
        core.catch_up(core.trail)
        at_us = core.now_us() if as_of is None else as_of_us(as_of)
        known = core.known(known_at)
        history = [
            one
            for one in core.subject_history(customer_id)
            if one.event.effective_us <= at_us
            and known(one)
            # What stays where single values are erased is shown where it stands.
            and (not isinstance(one.event, ValueResealed) or one.event.kept)
        ]
        if not history:
            raise refusal("unknown_customer", "There is no such customer, or not by then.", customer=customer_id)
        history.sort(key=lambda recorded: (recorded.event.effective_us, recorded.position))
        return timeline_of(core, acting, "profiles.timeline", history, customer_id)

    def segments(
        self, *, as_of: When | None = None, known_at: When | int | None = None, system: str | None = None
    ) -> Segments:
        """Frequency, recency, tenure and value of all customers who bought by a date, by external id.

        Customers whose data is restricted then, and those who object to automated decisions, are left out and counted.
        With `system`, the first of each pair is the external id there (opened in one recorded read; "" for none);
        without, the customer id. Sorted by it. Refuses: acting_required (with `system`), naive_time.
        """
        core = self._core
        core.check_open()
        at_us = core.now_us() if as_of is None else as_of_us(as_of)
        known = core.known_at(known_at)
        acting = None if system is None else core.acting_now()

        def purchases() -> Iterator[Purchase]:
            fields = ["subject_id", "effective_us", "metadata", "lines"]
            for position, (subject, effective_us, metadata, lines) in core.app.scan(PurchaseRecorded, fields):
                if subject is not None and known(position, metadata[RECORDED_US]):
                    yield known_uuid(subject), effective_us, sum([line[_NET_MINOR] for line in lines])

        with rarely_collecting():
            left_out = core.left_out(at_us, known)
            everybody = segments(purchases(), at_us)
        found = [one for one in everybody if one.customer_id not in left_out]
        buyers = {one.customer_id for one in everybody if one.customer_id in left_out}

        def by_name(named: Callable[[UUID], str]) -> Segments:
            pairs = sorted(((named(one.customer_id), one) for one in found), key=lambda pair: pair[0])
            return Segments(tuple(pairs), len(buyers & left_out.restricted), len(buyers & left_out.objecting))

        if acting is None:
            return by_name(str)
        linked: dict[UUID, tuple[int, Personal[Any] | None]] = {}
        for recorded in core.history([IdentifierLinked.stored_name, IdentifierRemoved.stored_name]):
            event = recorded.event
            assert isinstance(event, (IdentifierLinked, IdentifierRemoved))
            assert event.subject_id is not None
            if (
                event.system == system
                and event.effective_us <= at_us
                and known(recorded.position, event.metadata.recorded_us)
                # As in profiles: what took effect last counts, at the same time the later position.
                and event.effective_us >= linked.get(event.subject_id, (event.effective_us,))[0]
            ):
                linked[event.subject_id] = (
                    event.effective_us,
                    event.external_id if isinstance(event, IdentifierLinked) else None,
                )
        handles = {
            one.customer_id: handle
            for one in found
            for _, handle in [linked.get(one.customer_id, (0, None))]
            if handle is not None
        }
        names = core.gate.open(core.gate_metadata(acting), "profiles.segments", handles)
        return by_name(lambda customer: str(names.get(customer, "")))


@dataclass(frozen=True, slots=True)
class Membership:
    """A customer's time in a tier. `until` is None while it lasts; `reason` and `rules` say why it began."""

    customer_id: UUID
    programme: str
    tier: str
    since: str
    until: str | None
    reason: str
    rules: str
    qualifying: int
    position: int


@dataclass(frozen=True, slots=True)
class TierStanding:
    """The tier that an account holds at a moment. `member_since` is its enrolment; `previous` tiers are in order."""

    customer_id: UUID
    programme: str
    tier: str
    since: str
    member_since: str
    reason: str
    rules: str
    qualifying: int
    previous: tuple[Membership, ...]


class Members(Scored[Membership]):
    """Who holds a tier; and how many who hold it are left out of the list, by the reason."""

    __slots__ = ()


class TiersView(Desk):
    """Tier membership, now and before. Holds no personal value."""

    def members(
        self,
        tier: str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
        everybody: bool = False,
    ) -> Members:
        """Who holds a tier, in order of joining it.

        Customers whose data is restricted then, and those who object to automated decisions, are left out and counted:
        a list of members is what people are picked from. With `everybody` they are in it, for the bookkeeping of what
        the contract gives them. Refuses: invalid_argument, naive_time.
        """
        text(tier, "tier")
        text(programme, "programme")
        where, params = self._filter(as_of, known_at)
        found = self._select(
            f"{where} AND programme=? AND tier=? ORDER BY from_us, from_position", [*params, programme, tier]
        )
        if everybody:
            return Members(tuple(found))
        core = self._core
        left_out = core.left_out(core.now_us() if as_of is None else as_of_us(as_of), core.known_at(known_at))
        return Members(
            tuple([one for one in found if one.customer_id not in left_out]),
            sum(one.customer_id in left_out.restricted for one in found),
            sum(one.customer_id in left_out.objecting for one in found),
        )

    def counts(
        self, *, programme: str = DEFAULT_PROGRAMME, as_of: When | None = None, known_at: When | int | None = None
    ) -> dict[str, int]:
        """How many accounts hold each tier, all of them: it is a sum of the books, and names nobody.

        Refuses: invalid_argument, naive_time.
        """
        text(programme, "programme")
        where, params = self._filter(as_of, known_at)
        core = self._core
        rows = core.store.select(
            core.tiers,
            Tiers.memberships,
            ["tier", "COUNT(*)"],
            f"{where} AND programme=? GROUP BY tier ORDER BY 2 DESC, 1",
            [*params, programme],
        )
        return {tier: int(count) for tier, count in rows}

    def history(self, customer: UUID | str) -> list[Membership]:
        """All tiers that a customer held, in order."""
        self._core.check_open()
        self._core.catch_up(self._core.tiers)
        return self._select("customer=? ORDER BY programme, from_position", [as_id(customer, "customer").bytes])

    def standing(
        self,
        customer: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
    ) -> TierStanding:
        """The tier that a customer holds, since when, member since when, and the tiers before it.

        Refuses: not_enrolled, naive_time, invalid_argument.
        """
        customer_id = as_id(customer, "customer")
        text(programme, "programme")
        where, params = self._filter(as_of, known_at)
        account = account_id(customer_id, programme).bytes
        held = self._select(f"{where} AND account=? ORDER BY from_position DESC LIMIT 1", [*params, account])
        if not held:
            raise refusal(
                "not_enrolled", f"The customer has no account in {programme}, or not by then.", customer=customer_id
            )
        now = held[0]
        before = self._select("account=? AND from_position<? ORDER BY from_position", [account, now.position])
        return TierStanding(
            customer_id,
            programme,
            now.tier,
            now.since,
            before[0].since if before else now.since,
            now.reason,
            now.rules,
            now.qualifying,
            tuple(before),
        )

    def _filter(self, as_of: When | None, known_at: When | int | None) -> tuple[str, list[Any]]:
        core = self._core
        core.check_open()
        core.catch_up(core.tiers)
        at_us = core.now_us() if as_of is None else as_of_us(as_of)
        position = whole(known_at, "known_at", 0, 2**62) if isinstance(known_at, int) else None
        known_us = None if known_at is None or isinstance(known_at, int) else as_of_us(known_at, "known_at")
        return membership_filter(at_us, position, known_us)

    def _select(self, where: str, params: Sequence[Any]) -> list[Membership]:
        core = self._core
        columns = [
            "customer", "programme", "tier", "from_us", "to_us", "reason", "rules", "qualifying", "from_position",
        ]  # fmt: skip
        rows = core.store.select(core.tiers, Tiers.memberships, columns, where, params)
        return [
            Membership(
                uuid_from(customer), programme, tier, iso(since) or "", None if until == OPEN_END else iso(until),
                reason, rules, qualifying, position,
            )
            for customer, programme, tier, since, until, reason, rules, qualifying, position in rows
        ]  # fmt: skip


__all__ = [
    "ContactPointView",
    "Erased",
    "FieldView",
    "Members",
    "Membership",
    "ProfileView",
    "ProfilesView",
    "TierStanding",
    "TiersView",
]
