"""`book.audit.subject_report`: all that a book holds about one person, and a copy that they can take elsewhere.

Complete by construction: it walks every event about the subject, and every field that the registry knows of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from tallybook.adapters.reports import Column, Kind, Report, Section, as_html
from tallybook.domain.access import Exported, PersonalDataRead
from tallybook.domain.control import Control
from tallybook.domain.customer import (
    PROFILE_FIELDS,
    ContactPointAdded,
    ContactPointRemoved,
    Customer,
    CustomerChanged,
    IdentifierLinked,
    IdentifierRemoved,
    InteractionRecorded,
    KeyCreated,
    ProfileFact,
    PurchaseRecorded,
    ReturnRecorded,
)
from tallybook.domain.erasure import SubjectErased, ValueResealed, ValuesErased
from tallybook.domain.errors import refusal
from tallybook.domain.events import ENVELOPE, Decision, Event, Fact
from tallybook.domain.loyalty import LoyaltyAccount
from tallybook.domain.personal import Masked, Personal, Withheld
from tallybook.domain.points import Enrolled, GoodwillGranted
from tallybook.domain.privacy import Restricted, RestrictionLifted
from tallybook.domain.retention import Retention
from tallybook.domain.ticket import (
    Author,
    SatisfactionRecorded,
    TicketAssigned,
    TicketClosed,
    TicketCompensated,
    TicketOpened,
    TicketReplied,
    TicketResolved,
)
from tallybook.projections.profiles import CLEAR, PERSONAL, profile_of
from tallybook.projections.read_models import Recorded

from .core import LOOKING, Core
from .customers import consent_view, request_views
from .times import iso

SCHEMA = "tallybook/subject-report@1"
PORTABLE_SCHEMA = "tallybook/portable-copy@1"

BY_US = (
    KeyCreated, TicketAssigned, TicketResolved, TicketCompensated, TicketClosed, GoodwillGranted, Restricted,
    RestrictionLifted, SubjectErased, ValuesErased, ValueResealed,
)  # fmt: skip
"""Facts that did not come from the subject: in the portable copy they stand with what was derived."""
TICKET_EVENTS = (
    TicketOpened, TicketAssigned, TicketReplied, TicketResolved, TicketCompensated, SatisfactionRecorded, TicketClosed,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FieldEntry:
    """One field of one event. `category` and `sensitivity` are None for fields that are written in the clear."""

    name: str
    value: object
    personal: bool
    category: str | None
    sensitivity: str | None


@dataclass(frozen=True, slots=True)
class EventEntry:
    """One event about the subject, with all of its fields that are set."""

    position: int
    event_id: UUID
    name: str
    stream_id: UUID
    effective_at: str
    recorded_at: str
    actor: str
    purpose: str
    channel: str | None
    on_behalf_of: str | None
    fields: tuple[FieldEntry, ...]
    provided_by_you: bool

    def values(self) -> dict[str, object]:
        """The fields by name."""
        return {one.name: one.value for one in self.fields}


@dataclass(frozen=True, slots=True)
class SubjectReport:
    """All that a book holds about one person. Values are `Erased` where the subject's key was destroyed.

    `json()` and `html()` hold the same; `portable()` is the copy to take elsewhere. `data` is what `json()` writes;
    `data["withheld"]` counts the values that the access policy does not release to whoever asked: then it is not
    complete.
    """

    customer_id: UUID
    generated_at: str
    events: tuple[EventEntry, ...]
    data: Mapping[str, Any]

    def json(self) -> str:
        """For machines: see docs/subject-report.md."""
        return _json(self.data)

    def html(self) -> str:
        """One page that needs nothing else."""
        return as_html(self.report())

    def portable(self) -> str:
        """The copy to take elsewhere (GDPR 20, PIPL 45): what the person provided, and what was derived, apart."""
        items = [
            (
                entry.provided_by_you,
                {
                    "kind": entry.name,
                    "id": entry.event_id,
                    "about": entry.stream_id,
                    "effective_at": entry.effective_at,
                    "recorded_at": entry.recorded_at,
                    "values": entry.values(),
                },
            )
            for entry in self.events
        ]
        return _json(
            {
                "schema": PORTABLE_SCHEMA,
                "subject": self.customer_id,
                "generated_at": self.generated_at,
                "provided_by_you": [item for provided, item in items if provided],
                "derived": [item for provided, item in items if not provided],
            }
        )

    def report(self) -> Report:
        """As a report of tables."""
        data = self.data
        made_of = {"customer": str(self.customer_id), **{name: str(value) for name, value in data["made_of"].items()}}
        return Report("Your data", self.generated_at, made_of, tuple(_sections(data, self.events)))


def subject_report(core: Core, customer_id: UUID, action: str = "audit.subject_report") -> SubjectReport:
    """All that the book holds about a customer, opened in one recorded read. Refuses: unknown_customer."""
    acting = core.acting_now()
    core.catch_up(core.trail)
    history = _history(core, customer_id)
    if not history:
        raise refusal("unknown_customer", "There is no such customer.", customer=customer_id)
    handles = {
        (recorded.position, name): handle
        for recorded in history
        for name in recorded.event.personal_fields
        if (handle := getattr(recorded.event, name)) is not None and _is_of(handle, customer_id)
    }
    opened = core.gate.open(core.gate_metadata(acting), action, handles, [customer_id])
    entries = tuple(_entry(recorded, opened) for recorded in history)
    now_us = core.now_us()
    data = _data(core, customer_id, history, entries, now_us)
    data["made_of"] |= {"asked_by": acting.actor, "purpose": acting.purpose}
    data["withheld"] = sum(isinstance(value, (Withheld, Masked)) for value in opened.values())
    return SubjectReport(customer_id, iso(now_us) or "", entries, data)


def _is_of(handle: Personal[Any], subject: UUID) -> bool:
    """Whether a value is the subject's own: an event may hold another person's, too."""
    return handle.sealed is not None and handle.sealed.subject_id == subject


def _history(core: Core, customer_id: UUID) -> list[Recorded]:
    """Events about the subject, and those of their own stream, in order."""
    found = {recorded.position: recorded for recorded in core.whole_history(customer_id)}
    found.update((recorded.position, recorded) for recorded in core.stream(customer_id))
    return [found[position] for position in sorted(found)]


def _entry(recorded: Recorded, opened: Mapping[tuple[int, str], object]) -> EventEntry:
    position, event = recorded
    fields = []
    for name in type(event).model_fields:
        if name in ENVELOPE:
            continue
        mark = event.personal_fields.get(name)
        if mark is None:
            value: object = getattr(event, name)
        elif (position, name) in opened:
            value = opened[position, name]
            if not isinstance(value, (str, int, tuple, list, dict)):
                value = str(value)  # erased
        else:
            continue  # not set, or another person's
        if value is not None and value != ():
            category, sensitivity = (None, None) if mark is None else (mark.category.value, mark.sensitivity.value)
            fields.append(FieldEntry(name, value, mark is not None, category, sensitivity))
    metadata = event.metadata
    return EventEntry(
        position,
        event.event_id,
        event.stored_name,
        event.originator_id,
        iso(event.effective_us) or "",
        iso(metadata.recorded_us) or "",
        metadata.actor,
        metadata.purpose,
        metadata.channel,
        metadata.on_behalf_of,
        tuple(fields),
        provided_by_subject(event),
    )


def provided_by_subject(event: Event) -> bool:
    """Whether what an event says came from the subject: told, done or bought. Decisions and staff's work did not."""
    if isinstance(event, TicketReplied):
        return event.author == Author.CUSTOMER
    if isinstance(event, InteractionRecorded):
        return event.direction == "in"
    return isinstance(event, Fact) and not isinstance(event, BY_US)


# ── what the report says, by topic ────────────────────────────────────────────────────────────────────────────────────


def _data(
    core: Core, customer_id: UUID, history: Sequence[Recorded], entries: Sequence[EventEntry], now_us: int
) -> dict[str, Any]:
    by_position = {entry.position: entry for entry in entries}
    customer = Customer(customer_id)
    for _, event in history:
        if type(event) in Customer.APPLIERS:
            customer.apply(event)

    def of(*kinds: type[Event]) -> list[dict[str, Any]]:
        return [_said(by_position[position]) for position, event in history if isinstance(event, kinds)]

    tickets: dict[UUID, list[dict[str, Any]]] = {}
    for position, event in history:
        if isinstance(event, TICKET_EVENTS):
            tickets.setdefault(event.originator_id, []).append(_said(by_position[position]))
    restrictions = of(Restricted, RestrictionLifted)
    decisions = of(Decision)
    consulted, exports = _reads(core, customer_id, [position for position, _ in history])
    pruned = core.reads_pruned()
    return {
        "schema": SCHEMA,
        "subject": customer_id,
        "generated_at": iso(now_us),
        "made_of": {"book": core.origin, "position": core.app.position()},
        "profile": _profile(history, by_position),
        "profile_history": _field_history(history, by_position),
        "contact_points": of(ContactPointAdded, ContactPointRemoved),
        "identifiers": of(IdentifierLinked, IdentifierRemoved),
        "consents": [consent_view(one, now_us) for one in customer.consents.given],
        "restricted": customer.restricted,
        "restrictions": restrictions,
        "objections": [{"to": one.to, "holds": one.holds, "since": iso(one.since_us)} for one in customer.objections],
        "requests": request_views((event for _, event in history), now_us),
        "purchases": of(PurchaseRecorded),
        "returns": of(ReturnRecorded),
        "interactions": of(InteractionRecorded),
        "tickets": [{"ticket": ticket, "entries": said} for ticket, said in tickets.items()],
        "accounts": list(_accounts(core, history, now_us)),
        "decisions": decisions,
        "rule_sets": _rule_sets(core, {str(one["values"]["rules"]) for one in decisions}),
        "retention": [one._asdict() for one in core.app.load(Retention, core.retention_id).schedules],
        "erasures": of(SubjectErased, ValuesErased),
        "kept": [
            _said(by_position[position])
            for position, event in history
            if isinstance(event, ValueResealed) and event.kept
        ],
        "consulted": consulted,
        "reads_pruned": None if pruned is None else {"position": pruned.reads, "at": iso(pruned.at_us)},
        "exports": exports,
        "events": entries,
    }


def _said(entry: EventEntry) -> dict[str, Any]:
    return {
        "position": entry.position,
        "id": entry.event_id,
        "what": entry.name,
        "effective_at": entry.effective_at,
        "recorded_at": entry.recorded_at,
        "by": entry.actor,
        "channel": entry.channel,
        "values": entry.values(),
    }


def _profile(history: Sequence[Recorded], by_position: Mapping[int, EventEntry]) -> list[dict[str, Any]]:
    """Each field as it stands, and where it comes from."""
    profile = profile_of(history, lambda _: True)
    found = []
    for name, (effective_us, position, state, value) in () if profile is None else profile.entries.items():
        if state not in (PERSONAL, CLEAR):
            continue
        entry = by_position[position]
        field, _, which = name.partition(":")
        plain = {"external_id": "external_id", "contact": "value"}.get(field, field)
        given = entry.values().get(plain) if state == PERSONAL else value
        label = f"{field} {which if field == 'external_id' else value}" if which else field
        mark = next((one for one in entry.fields if one.name == plain), None)
        found.append(
            {
                "field": label,
                "value": given,
                "since": iso(effective_us),
                "category": None if mark is None else mark.category,
                "sensitivity": None if mark is None else mark.sensitivity,
                "set_by": entry.actor,
                "channel": entry.channel,
                "position": position,
            }
        )
    return found


def _field_history(history: Sequence[Recorded], by_position: Mapping[int, EventEntry]) -> list[dict[str, Any]]:
    """All values that each field of the profile ever had."""
    found = []
    for position, event in history:
        if not isinstance(event, ProfileFact):
            continue
        entry = by_position[position]
        changes = [(name, value) for name, value in entry.values().items() if name in PROFILE_FIELDS]
        if isinstance(event, CustomerChanged):
            changes += [(name, "(cleared)") for name in event.cleared]
        found += [
            {
                "field": name,
                "value": value,
                "since": entry.effective_at,
                "recorded_at": entry.recorded_at,
                "set_by": entry.actor,
                "channel": entry.channel,
                "position": position,
            }
            for name, value in changes
        ]
    return sorted(found, key=lambda one: (one["field"], one["since"], one["position"]))


def _accounts(core: Core, history: Sequence[Recorded], now_us: int) -> Iterator[dict[str, Any]]:
    control = core.app.load(Control, core.book_id)
    for _, event in history:
        if isinstance(event, Enrolled):
            account = core.app.load(LoyaltyAccount, event.originator_id).draft([])
            account.settle(LOOKING, now_us, control)  # what is due by now counts, recorded or not
            yield {
                "account": account.id,
                "programme": account.programme,
                "tier": account.tier,
                "tier_since": iso(account.tier_since_us),
                **{
                    name: getattr(account, name)
                    for name in ("active", "earned", "spent", "expired", "reversed", "forgiven", "debt")
                },
            }


def _rule_sets(core: Core, labels: set[str]) -> list[dict[str, Any]]:
    """The logic that decisions rest on, as adopted (GDPR 15(1)(h))."""
    adopted = core.app.load(Control, core.book_id).adopted
    return [
        {
            "rule_set": f"{one.name}@{one.version}",
            "programme": one.programme,
            "in_force_from": iso(one.effective_us),
            "digest": one.digest,
            "document": json.loads(one.document),
        }
        for one in adopted
        if f"{one.name}@{one.version}" in labels
    ]


def _reads(
    core: Core, customer_id: UUID, positions: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Who asked for the subject's data, and the exports that held it. Of other subjects, only how many they were."""
    consulted: list[dict[str, Any]] = []
    exports: list[dict[str, Any]] = []
    for position, event in core.reads():
        if isinstance(event, PersonalDataRead) and customer_id in event.subjects:
            others = len(event.subjects) - 1
            said = _own(event, customer_id)
            consulted.append({**_record(position, event, event.action), "with_others": others, **said})
        elif isinstance(event, Exported) and any(event.from_position <= one <= event.to_position for one in positions):
            said = {name: getattr(event, name) for name in event.clear_fields}
            exports.append({**_record(position, event, event.stored_name), **said})
    return consulted, exports


def _record(position: int, event: Event, what: str) -> dict[str, Any]:
    metadata = event.metadata
    return {
        "position": position,
        "at": iso(metadata.recorded_us),
        "by": metadata.actor,
        "on_behalf_of": metadata.on_behalf_of,
        "purpose": metadata.purpose,
        "channel": metadata.channel,
        "application": metadata.application,
        "what": what,
    }


def _own(event: PersonalDataRead, customer_id: UUID) -> dict[str, Any]:
    """What a record of a read says of one subject: what it says of the others is theirs."""
    said = {name: getattr(event, name) for name in event.clear_fields if name not in ("subjects", "action")}
    said["restricted"] = customer_id in event.restricted
    said["erased"] = customer_id in event.erased
    said["consents"] = [
        consent for subject, consent in zip(event.subjects, event.consents, strict=False) if subject == customer_id
    ]
    return said


# ── as tables ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_Pick = tuple[str, Kind, Callable[[Mapping[str, Any]], Any]]


def _sections(data: Mapping[str, Any], events: Sequence[EventEntry]) -> Iterator[Section]:
    yield Section(
        "What this is",
        "All that this book holds about you: each field with its source, what was decided and why, who looked at your "
        "data and why, and how long it is kept. Times are in UTC. What was erased is shown as (erased). The last table "
        "holds everything; those before it show the same by topic."
        + (
            f"\nNOT COMPLETE: {data['withheld']:,} values were withheld or shown in part only, because the access "
            "policy does not release them to whoever asked for this report."
            if data["withheld"]
            else ""
        ),
    )
    yield _table("Profile", data["profile"], ("field", "value", "category", "sensitivity"), ("since",), "set_by")
    times = ("since", "recorded_at")
    yield _table("Profile: all values", data["profile_history"], ("field", "value"), times, "set_by")
    yield _topic("Contact points", data["contact_points"])
    yield _topic("Identifiers in other systems", data["identifiers"])
    consents = json.loads(_json(data["consents"]))
    yield _table(
        "Consents",
        consents,
        ("purpose", "in_force", "text_version", "basis", "source", "brand", "separate", "cross_border"),
        ("captured_at", "valid_from", "valid_until", "confirmed_at", "withdrawn_at"),
    )
    yield _topic("Restriction", data["restrictions"])
    yield _table("Objections", data["objections"], ("to", "holds"), ("since",))
    requests = json.loads(_json(data["requests"]))
    yield _table("Your requests", requests, ("kind", "outcome", "reason"), ("received_at", "due_at", "completed_at"))
    yield _topic("Purchases", data["purchases"])
    yield _topic("Returns", data["returns"])
    yield _topic("Contacts with us", data["interactions"])
    yield _topic("Tickets", [entry for ticket in data["tickets"] for entry in ticket["entries"]])
    accounts = data["accounts"]
    counts = ("active", "earned", "spent", "expired", "reversed", "forgiven", "debt")
    yield Section(
        "Loyalty accounts",
        "",
        (
            Column("programme"),
            Column("tier"),
            Column("since", Kind.TIME),
            *(Column(name, Kind.COUNT) for name in counts),
        ),
        [(one["programme"], one["tier"], one["tier_since"], *(one[name] for name in counts)) for one in accounts],
    )
    yield Section(
        "Decisions about you, and why",
        "Each was made by rules, from the facts that it names. The rules stand below.",
        (
            Column("when", Kind.TIME),
            Column("decision", Kind.ID),
            Column("rules", Kind.ID),
            Column("inputs", Kind.ID),
            Column("what it says"),
        ),
        [
            (
                one["effective_at"],
                one["what"],
                one["values"].get("rules"),
                ", ".join(map(str, one["values"].get("facts", ()))),
                _listed({name: value for name, value in one["values"].items() if name not in ("rules", "facts")}),
            )
            for one in data["decisions"]
        ],
    )
    yield Section(
        "The rules behind the decisions",
        "",
        (Column("rules", Kind.ID), Column("in force from", Kind.TIME), Column("what they say")),
        [
            (one["rule_set"], one["in_force_from"], json.dumps(one["document"], indent=1, ensure_ascii=False))
            for one in data["rule_sets"]
        ],
    )
    yield _table(
        "How long it is kept",
        data["retention"],
        ("schedule", "category", "purpose", "legal_basis", "period", "unit", "since", "action"),
    )
    yield _topic("Erasures", data["erasures"])
    yield _topic("What the law demands to keep beyond an erasure", data["kept"])
    yield Section(
        "Who looked at your data",
        ""
        if data["reads_pruned"] is None
        else "Records of reads are kept for a time only: those up to number {position:,} were deleted at {at}. Who "
        "looked before, nobody can tell any more.".format(**data["reads_pruned"]),
        (
            Column("when", Kind.TIME), Column("who"), Column("purpose"), Column("what", Kind.ID), Column("details"),
            Column("with others", Kind.COUNT),
        ),
        [_looked(one) for one in data["consulted"]],
    )  # fmt: skip
    yield Section(
        "Exports that held your data",
        "",
        (
            Column("when", Kind.TIME), Column("who"), Column("purpose"), Column("what", Kind.ID), Column("details"),
            Column("with others", Kind.COUNT),
        ),
        [_looked(one) for one in data["exports"]],
    )  # fmt: skip
    yield Section(
        "Everything that is recorded",
        "Every event about you with every field, in the order of recording.",
        (
            Column("entry", Kind.COUNT), Column("what", Kind.ID), Column("field"), Column("value"), Column("category"),
            Column("sensitivity"), Column("since", Kind.TIME), Column("recorded", Kind.TIME), Column("by"),
            Column("channel"), Column("purpose"),
        ),
        [
            (
                entry.position, entry.name, field.name, _plain(field.value), field.category or "(in the clear)",
                field.sensitivity, entry.effective_at, entry.recorded_at, entry.actor, entry.channel, entry.purpose,
            )
            for entry in events
            for field in entry.fields or (FieldEntry("", None, False, None, None),)
        ],
    )  # fmt: skip


_LOOKED = ("position", "at", "by", "on_behalf_of", "purpose", "channel", "application", "what", "with_others")


def _looked(one: Mapping[str, Any]) -> tuple[Any, ...]:
    rest = {
        name: value for name, value in one.items() if name not in _LOOKED and value not in (None, (), [], "", False)
    }
    return one["at"], one["by"], one["purpose"], one["what"], _listed(rest), one.get("with_others")


def _table(
    title: str, rows: Sequence[Mapping[str, Any]], texts: Sequence[str], times: Sequence[str] = (), *more: str
) -> Section:
    columns = [*(Column(name) for name in texts), *(Column(name, Kind.TIME) for name in times), *map(Column, more)]
    return Section(title, "", tuple(columns), [[_plain(row.get(column.name)) for column in columns] for row in rows])


def _topic(title: str, rows: Sequence[Mapping[str, Any]]) -> Section:
    columns = (
        Column("when", Kind.TIME), Column("what", Kind.ID), Column("details"), Column("recorded", Kind.TIME),
        Column("by"), Column("channel"),
    )  # fmt: skip
    return Section(
        title,
        "",
        columns,
        [
            (one["effective_at"], one["what"], _listed(one["values"]), one["recorded_at"], one["by"], one["channel"])
            for one in rows
        ],
    )


def _listed(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> Any:
    """A value as people read it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    answer = json.loads(_json(value))
    if isinstance(answer, list):
        return "; ".join(map(_item, answer))
    return answer if isinstance(answer, str) else _item(answer)


def _item(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_item(one)}" for name, one in value.items() if one is not None)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(value: Any) -> str:
    # In the order in which it was made, which does not vary.
    text = to_json(value, fallback=str, bytes_mode="hex").decode()
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
