"""Reviews of what is held: all data of a subject, corrections, erasures, restrictions, consents, retention."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from uuid import UUID

from tallybook.adapters.form import uuid_from
from tallybook.adapters.reports import Section
from tallybook.domain.access import (
    RESEALED,
    PersonalDataRead,
)
from tallybook.domain.customer import (
    ContactPointAdded,
    ContactPointRemoved,
    CustomerChanged,
    CustomerRegistered,
    IdentifierLinked,
    IdentifierRemoved,
    ProfileFact,
)
from tallybook.domain.erasure import SubjectErased, ValuesErased
from tallybook.domain.errors import refusal
from tallybook.domain.events import Event, Fact
from tallybook.domain.personal import Category, Personal
from tallybook.domain.privacy import (
    Consent,
    Consents,
    Objected,
    ObjectionWithdrawn,
    RequestCompleted,
    RequestKind,
    RequestReceived,
    Restricted,
    RestrictionLifted,
)
from tallybook.domain.retention import ACCESS_RECORDS, Retention, RetentionSwept
from tallybook.projections.access_review import (
    lacking,
    released_subjects,
)
from tallybook.projections.read_models import Recorded

from .core import Core
from .customers import request_views
from .retention import RetentionDesk
from .review_kinds import (
    COUNT,
    ID,
    TIME,
    Question,
    answered,
    answers,
    bars_of,
    columns_of,
    consents_known,
    erasures_of,
    events_of,
    held_categories,
    keys_of,
    proofs_of,
    reads_of,
    verified_logs,
)
from .subject_report import subject_report
from .times import iso

# ── 1, 4: all data of a subject, and the copy to take elsewhere ─────────────────────────────────────────────────────


@answers(
    "subject-access",
    "Subject access",
    "All that the book holds about a person, and who consulted it, when and why (GDPR 15, CJEU C-579/21; PIPL 44, 45).",
    needs="subject",
    opens=True,
)
def _subject_access(core: Core, question: Question) -> Iterable[Section]:
    assert question.subject is not None
    return subject_report(core, question.subject, question.action).report().sections


@answers(
    "portable-copy",
    "Portable copy",
    "What a person provided, in a form for machines, and apart from it what was derived (GDPR 20; PIPL 45).",
    needs="subject",
    opens=True,
)
def _portable_copy(core: Core, question: Question) -> Iterator[Section]:
    assert question.subject is not None
    found = subject_report(core, question.subject, question.action)
    columns = columns_of(
        ("position", COUNT), ("event", ID), ("kind", ID), ("effective_at", TIME), ("field", ID), "value", "category",
    )  # fmt: skip
    for title, provided in (("Provided", True), ("Derived", False)):
        rows = [
            (
                entry.position, entry.event_id, entry.name, entry.effective_at, one.name,
                json.dumps(one.value, ensure_ascii=False, default=str) if not isinstance(one.value, str) else one.value,
                one.category,
            )
            for entry in found.events
            if entry.provided_by_you is provided
            for one in entry.fields
        ]  # fmt: skip
        yield Section(title, "One row for each value that was recorded.", columns, rows)


# ── 2: corrections ──────────────────────────────────────────────────────────────────────────────────────────────────


_CORRECTING = (
    CustomerRegistered, CustomerChanged, IdentifierLinked, IdentifierRemoved, ContactPointAdded, ContactPointRemoved,
)  # fmt: skip


@answers(
    "corrections",
    "Corrections",
    "Which personal data was corrected or completed, when and by whom, and the requests for it (GDPR 16; PIPL 46). "
    "Values are opened only where one subject is asked about.",
    takes="subject since until",
    opens=True,
)
def _corrections(core: Core, question: Question) -> Iterator[Section]:
    subject = question.subject
    events = (
        events_of(core, question, *_CORRECTING)
        if subject is None
        else (one for one in core.stream(subject) if isinstance(one.event, _CORRECTING))
    )
    last: dict[tuple[UUID, str], tuple[int, object]] = {}
    found: list[tuple[Recorded, str, tuple[int, object] | None, object]] = []
    for recorded in events:
        event = recorded.event
        assert event.subject_id is not None
        for name, value in _values_set(event):
            before = last.get((event.subject_id, name))
            last[event.subject_id, name] = (recorded.position, value if subject is not None else None)
            new = before is None and not isinstance(event, CustomerChanged)
            if not new and question.within(event.metadata.recorded_us):
                found.append((recorded, name, before, value if subject is not None else None))
    opened: Mapping[tuple[int, str], object] = {}
    if subject is None:
        core.gate.record(question.acting, question.action, [], [])
    else:
        if not core.app.log.stream_rows(subject, limit=1):
            raise refusal("unknown_customer", "There is no such customer.", customer=subject)
        handles = {
            (position, name): value
            for recorded, name, before, after in found
            for position, value in ((recorded.position, after), before or (0, None))
            if isinstance(value, Personal)
        }
        opened = core.gate.open(question.acting, question.action, handles, [subject])

    def shown(position: int, name: str, value: object) -> object:
        return str(opened[position, name]) if isinstance(value, Personal) else value

    values = () if subject is None else ("before", "after")
    rows = []
    for recorded, name, before, after in found:
        event = recorded.event
        row: list[object] = [
            iso(event.metadata.recorded_us), iso(event.effective_us), event.subject_id, name, recorded.position,
            None if before is None else before[0], event.metadata.actor, event.metadata.purpose,
        ]  # fmt: skip
        if subject is not None:
            row += [None if before is None else shown(before[0], name, before[1]),
                    shown(recorded.position, name, after)]  # fmt: skip
        rows.append(row)
    by_field = Counter(name for _, name, _, _ in found)
    yield Section(
        "Corrections by field",
        "",
        columns_of(("field", ID), ("corrections", COUNT)),
        by_field.most_common(),
        bars_of("field", "corrections"),
    )
    yield Section(
        "Corrections",
        "Each value that took the place of an earlier one, or was cleared or completed later. The earlier one stays in "
        "the log, at its position.",
        columns_of(
            ("recorded_at", TIME), ("effective_at", TIME), ("subject", ID), ("field", ID), ("position", COUNT),
            ("previous_position", COUNT), ("actor", ID), ("purpose", ID), *values,
        ),
        rows,
    )  # fmt: skip
    yield _requests(core, question, "rectification", "Requests for rectification")


def _values_set(event: Event) -> Iterator[tuple[str, object]]:
    """What an event says of fields of the profile: None where it takes a value away."""
    if isinstance(event, ProfileFact):
        for name in ProfileFact.model_fields:
            if name not in Fact.model_fields and (value := getattr(event, name)) is not None:
                yield name, value
        if isinstance(event, CustomerChanged):
            yield from ((name, None) for name in event.cleared)
    elif isinstance(event, (IdentifierLinked, IdentifierRemoved)):
        yield f"identifier.{event.system}", getattr(event, "external_id", None)
    elif isinstance(event, (ContactPointAdded, ContactPointRemoved)):
        yield f"contact {event.point_id}", getattr(event, "value", None)


def _requests(core: Core, question: Question, kind: str | None, title: str) -> Section:
    """Data-subject requests of a kind that came in during the period."""
    events = [event for _, event in events_of(core, question, RequestReceived, RequestCompleted)]
    received = {event.event_id for event in events if question.within(event.metadata.recorded_us)}
    views = [
        one
        for one in request_views(events, question.now_us)
        if one.request_id in received and kind in (None, one.kind) and question.subject in (None, one.customer_id)
    ]
    how = answered(events, question.now_us)
    return Section(
        title,
        "In time is what was recorded in time: an answer that is typed in later was not shown to be.",
        columns_of(
            ("request", ID), ("subject", ID), "kind", ("received_at", TIME), ("due_at", TIME), ("completed_at", TIME),
            ("recorded_at", TIME), "outcome", "in time",
        ),
        [
            (
                one.request_id, one.customer_id, one.kind, one.received_at, one.due_at, one.completed_at,
                iso(how[one.request_id].recorded_us), one.outcome, how[one.request_id].in_time,
            )
            for one in views
        ],
    )  # fmt: skip


# ── 3: erasures and restrictions ────────────────────────────────────────────────────────────────────────────────────


@answers(
    "erasure-evidence",
    "Erasures and restrictions",
    "Who was erased, and what shows it: key destroyed, look-ups gone, the event in the signed log, no copy put back; "
    "whose data is restricted or not to be used for automated decisions (GDPR 17, 18, 21, 22; PIPL 24, 44, 47).",
    takes="subject since until",
)
def _erasure_evidence(core: Core, question: Question) -> Iterator[Section]:
    erased = erasures_of(core, question)
    asked = {
        subject: found
        for subject, found in erased.items()
        if question.subject in (None, subject) and any(question.within(e.metadata.recorded_us) for _, e in found)
    }
    names = [(subject, key_id) for subject, found in asked.items() for _, e in found for key_id in keys_of(e)]
    keys = core.storage.keys
    left = set(keys.get(names))
    tombs = keys.destroyed(names)
    by_table = {(subject, key_id) for subject, key_id, _ in core.app.log.erasures()}
    proofs = proofs_of(core, [position for found in asked.values() for position, _ in found])
    fits = _request_fits(core)
    rows: list[tuple[object, ...]] = []
    for subject, found in asked.items():
        look_ups = core.app.log.claims_of([subject.bytes])
        for position, event in found:
            assert isinstance(event, SubjectErased)
            held = [(subject, key_id) for key_id in event.key_ids]
            rows.append(
                (
                    subject, iso(event.effective_us), event.metadata.actor, event.reason, event.request_id,
                    fits(subject, event.request_id, position), event.even_so, position,
                    ", ".join(map(str, event.key_ids)),
                    "STILL THERE" if any(one in left for one in held) else "none",
                    "noted" if all(one in tombs for one in held) else "NOT NOTED",
                    "noted" if all((subject.bytes, one) in by_table for one in event.key_ids) else "NOT NOTED",
                    event.lookups, len(look_ups), event.kept, iso(event.kept_until_us), proofs[position],
                )
            )  # fmt: skip
    yield Section(
        "Erasures",
        "One row for each erasure. Key left: whether the key store still gives the key. Destruction: whether it notes "
        "that it destroyed it. Request fits: whether it was the subject's own, for erasure, and open. Even so: why it "
        "was done although something stood in the way. Proof: size of the signed checkpoint that the event was proved "
        "to be in, just now.",
        columns_of(
            ("subject", ID), ("erased_at", TIME), ("actor", ID), ("reason", ID), ("request", ID),
            "request fits", ("even so", ID), ("position", COUNT), ("keys", ID), "key left", "destruction", "table",
            ("look-ups removed", COUNT), ("look-ups left", COUNT), ("kept by law", COUNT), ("kept_until", TIME),
            ("proof", ID),
        ),
        rows,
    )  # fmt: skip
    yield _values_erased(core, question)
    again = [one for found in asked.values() for one in found if getattr(one.event, "reason", "") == "restored"]
    everything = {(uuid_from(subject), key_id) for subject, key_id in by_table}
    behind = len(everything - keys.destroyed(everything).keys())
    yield Section(
        "Copies that were put back",
        "A key store or a log that is put back from a copy follows the erasures again when the book is opened.",
        columns_of("what", ("figure", COUNT)),
        [
            ("erasures that the key store has not followed yet", behind),
            ("subjects erased again after a log was put back", len(again)),
            ("subjects erased in all", len(erased)),
        ],
    )
    yield verified_logs(core)
    yield from _restrictions(core, question)
    yield _requests(core, question, "erasure", "Requests for erasure")


def _request_fits(core: Core) -> Callable[[UUID, UUID | None, int], str]:
    """What tells whether the request that an erasure names is its subject's, for erasure, and was open then."""
    requests: dict[UUID, tuple[UUID | None, str]] = {}
    answered: dict[UUID, int] = {}
    for one in core.history([RequestReceived.stored_name, RequestCompleted.stored_name]):
        event = one.event
        if isinstance(event, RequestReceived):
            requests[event.event_id] = (event.subject_id, event.kind)
        elif isinstance(event, RequestCompleted):
            answered[event.request_id] = one.position

    def fits(subject: UUID, request_id: UUID | None, position: int) -> str:
        if request_id is None:
            return ""
        owner, kind = requests.get(request_id, (None, ""))
        if owner != subject:
            return "NOT THIS SUBJECT'S"
        if kind != RequestKind.ERASURE:
            return f"FOR {kind.upper()}"
        return "ANSWERED BEFORE" if answered.get(request_id, position) < position else "yes"

    return fits


def _values_erased(core: Core, question: Question) -> Section:
    found = [
        (position, event)
        for position, event in events_of(core, question, ValuesErased)
        if isinstance(event, ValuesErased)
        and question.subject in (None, event.subject_id)
        and question.within(event.metadata.recorded_us)
    ]
    names = {position: [(event.originator_id, one) for one in event.key_ids] for position, event in found}
    everything = [name for some in names.values() for name in some]
    left, tombs = set(core.storage.keys.get(everything)), core.storage.keys.destroyed(everything)
    proofs = proofs_of(core, [position for position, _ in found])
    return Section(
        "Single values erased",
        "One row for each customer and sweep that erased what was past its period, and sealed anew what stays.",
        columns_of(
            ("subject", ID), ("erased_at", TIME), ("actor", ID), ("reason", ID), ("position", COUNT),
            ("schedules", ID), "erased", ("sealed anew", COUNT), ("look-ups removed", COUNT), ("keys", ID), "key left",
            "destruction", ("proof", ID),
        ),
        [
            (
                event.subject_id, iso(event.effective_us), event.metadata.actor, event.reason, position,
                ", ".join(event.schedules), ", ".join(f"{one.category}: {one.values:,}" for one in event.erased),
                event.resealed, len(event.identifiers) + len(event.orders), ", ".join(map(str, event.key_ids)),
                "STILL THERE" if any(one in left for one in names[position]) else "none",
                "noted" if all(one in tombs for one in names[position]) else "NOT NOTED", proofs[position],
            )
            for position, event in found
        ],
    )  # fmt: skip


@answers(
    "restrictions",
    "Restrictions and objections",
    "Whose data is or was restricted, or not to be used for automated decisions, and the reads meanwhile (GDPR 18, 21, "
    "22; PIPL 24, 44). The same stands in erasure-evidence.",
    takes="subject since until",
)
def _restrictions(core: Core, question: Question) -> Iterator[Section]:
    held: dict[tuple[UUID, str], tuple[Recorded, Recorded | None]] = {}
    rows: list[tuple[UUID, str, Recorded, Recorded | None]] = []
    for recorded in events_of(core, question, Restricted, RestrictionLifted, Objected, ObjectionWithdrawn):
        event = recorded.event
        assert event.subject_id is not None
        if question.subject not in (None, event.subject_id):
            continue
        to = event.to if isinstance(event, (Objected, ObjectionWithdrawn)) else "restriction"
        if isinstance(event, (Restricted, Objected)):
            held[event.subject_id, to] = (recorded, None)
        elif (event.subject_id, to) in held:
            rows.append((event.subject_id, to, held.pop((event.subject_id, to))[0], recorded))
    rows += [(subject, to, begun, None) for (subject, to), (begun, _) in held.items()]
    rows.sort(key=lambda row: row[2].position)
    spans: dict[UUID, list[tuple[int, int]]] = {}
    for subject, to, begun, ended in rows:
        if to == "restriction":
            until_us = 2**62 if ended is None else ended.event.metadata.recorded_us
            spans.setdefault(subject, []).append((begun.event.metadata.recorded_us, until_us))
    released: Counter[UUID] = Counter()
    withheld: Counter[UUID] = Counter()
    for _, event in reads_of(core, question) if spans else ():
        if isinstance(event, PersonalDataRead) and event.outcome != RESEALED:
            at_us = event.metadata.recorded_us
            given = set(released_subjects(event))
            for subject in event.subjects:
                if subject not in event.erased and any(first <= at_us < last for first, last in spans.get(subject, ())):
                    (released if subject in given else withheld)[subject] += 1
    yield Section(
        "Restrictions and objections",
        "Restrictions, and objections to automated decisions, keep a subject out of segments, backtests and lists of a "
        "tier; the points and tier that the contract gives go on being booked. Of restrictions: how many reads "
        "released something meanwhile (for purposes that go on, or where no policy was in force), or nothing.",
        columns_of(
            ("subject", ID), "what", ("since", TIME), ("until", TIME), ("reason", ID), ("actor", ID),
            ("position", COUNT), ("reads released", COUNT), ("reads withheld", COUNT),
        ),
        [
            (
                subject, "restricted" if to == "restriction" else f"objects to {to}", iso(begun.event.effective_us),
                None if ended is None else iso(ended.event.effective_us), getattr(begun.event, "reason", None),
                begun.event.metadata.actor, begun.position,
                released[subject] if to == "restriction" else None, withheld[subject] if to == "restriction" else None,
            )
            for subject, to, begun, ended in rows
            if begun.event.metadata.recorded_us < question.until_us
            and (ended is None or ended.event.metadata.recorded_us >= question.since_us)
        ],
    )  # fmt: skip


# ── 7: consents at a time ───────────────────────────────────────────────────────────────────────────────────────────


@answers(
    "consent-at",
    "Consents in force",
    "The consents in force at a moment, as the book knew them then: separate ones and those to transfers abroad are "
    "marked (GDPR 7; PIPL 13 to 16, 23, 29, 39).",
    takes="subject at",
)
def _consent_at(core: Core, question: Question) -> Iterator[Section]:
    known = consents_known(core, question)
    at_us = question.at_us
    wanted = known.subjects() if question.subject is None else [question.subject]
    erased = {
        subject
        for subject, found in erasures_of(core, question).items()
        if any(event.metadata.recorded_us <= at_us for _, event in found)
    }
    given = [(subject, one) for subject in wanted for one in known.at(subject, at_us).given]
    states = [_consent_state(one, at_us) for _, one in given]
    purposes = sorted({one.purpose for _, one in given})
    yield Section(
        "By purpose",
        "",
        columns_of(
            ("purpose", ID), ("in force", COUNT), ("subjects", COUNT), ("separate", COUNT), ("cross-border", COUNT),
            ("not in force", COUNT),
        ),
        [
            (
                name, len(live), len({subject for subject, _ in live}), sum(one.separate for _, one in live),
                sum(one.cross_border for _, one in live),
                sum(1 for (_, one), state in zip(given, states, strict=True) if one.purpose == name) - len(live),
            )
            for name in purposes
            for live in [[
                pair for pair, state in zip(given, states, strict=True)
                if pair[1].purpose == name and state == "in force"
            ]]
        ],
        bars_of("purpose", "in force"),
    )  # fmt: skip
    columns = columns_of(
        ("subject", ID), ("purpose", ID), "state", "separate", "cross-border", ("brand", ID), ("contact point", ID),
        ("text", ID), ("basis", ID), ("source", ID), ("captured_at", TIME), ("from", TIME), ("until", TIME),
        ("confirmed_at", TIME), ("withdrawn_at", TIME), ("consent", ID), "erased",
    )  # fmt: skip
    for title, live in (("In force", True), ("Not in force", False)):
        rows = [
            (
                subject, one.purpose, state, "yes" if one.separate else "no", "yes" if one.cross_border else "no",
                one.brand, one.point_id, one.text_version, one.basis, one.source, iso(one.captured_us),
                iso(one.from_us), iso(one.until_us), iso(one.confirmed_us), iso(one.ended_us), one.consent_id,
                "yes" if subject in erased else "no",
            )
            for (subject, one), state in zip(given, states, strict=True)
            if (state == "in force") is live
        ]  # fmt: skip
        yield Section(
            title, "" if live else "Given by then, and expired, withdrawn, not confirmed or not begun.", columns, rows
        )


def _consent_state(consent: Consent, at_us: int) -> str:
    return lacking(Consents((consent,)), consent.purpose, at_us) or "in force"


# ── 10: retention ───────────────────────────────────────────────────────────────────────────────────────────────────


@answers(
    "retention",
    "Retention",
    "What is kept how long and for what, and what is past its period (GDPR 5(1)(e), 13(2)(a), 17; PIPL 19, 47).",
    takes="at",
)
def _retention(core: Core, question: Question) -> Iterator[Section]:
    schedules = core.app.load(Retention, core.retention_id).schedules
    due = RetentionDesk(core).due(iso(question.at_us))
    held = held_categories(core, question)
    past = Counter(category for one in due.customers for category in one.due)
    values = due.values
    bare = sorted({*held} & {*due.unscheduled})
    yield Section(
        "Categories",
        "Held: some event brought a value of it. "
        + (f"WITHOUT A SCHEDULE, so that nothing makes it due: {', '.join(bare)}." if bare else ""),
        columns_of(
            ("category", ID), "held", ("schedules", ID), "kept", ("customers past a period", COUNT),
            ("values past a period", COUNT),
        ),
        [
            (
                name, "yes" if name in held or (name == ACCESS_RECORDS and question.reads_head) else "no",
                ", ".join(one.schedule for one in about),
                "; ".join(f"{one.action} {one.period} {one.unit} since {one.since}" for one in about),
                *((None, due.access_records) if name == ACCESS_RECORDS else (past[name], values.get(name, 0))),
            )
            for name in [*(one.value for one in Category), ACCESS_RECORDS]
            for about in [[one for one in schedules if one.covers(name)]]
        ],
        bars_of("category", "values past a period"),
    )  # fmt: skip
    yield Section(
        "Schedules",
        "",
        columns_of(
            ("schedule", ID), ("category", ID), ("purpose", ID), ("legal basis", ID), ("period", COUNT), "unit",
            ("since", ID), "action",
        ),
        [tuple(one) for one in schedules],
    )  # fmt: skip
    yield Section(
        "Due",
        f"Customers of whom values are past their period at {due.at}, by category. The next sweep erases those, or the "
        "customer as a whole, unless something is waited for; what stays is sealed anew.",
        columns_of(
            ("customer", ID), "erased", ("due", ID), ("kept", ID), ("stays", ID), ("waits for", ID), ("schedules", ID),
            ("last_activity_at", TIME),
        ),
        [
            (
                one.customer_id, ("whole" if one.whole else "values") if one.ready else "no", one.due_text(),
                ", ".join(one.kept), ", ".join(one.stays), ", ".join(one.waits_for), ", ".join(one.schedules),
                one.last_activity_at,
            )
            for one in due.customers
        ],
    )  # fmt: skip
    yield Section(
        "Sweeps",
        "Records of reads: those past their period by then. They are deleted by whole tiles of 256. Pruned up to: the "
        "last that was deleted; who looked before the first one that is left, nobody can tell.",
        columns_of(
            ("recorded_at", TIME), ("until", TIME), ("due", COUNT), ("erased", COUNT), ("in part", COUNT),
            ("values", COUNT), ("records of reads", COUNT), ("pruned up to", COUNT),
        ),
        [
            (
                iso(event.metadata.recorded_us), iso(event.until_us), event.due, event.erased, event.partly,
                event.values, event.access_records, event.reads_pruned,
            )
            for _, event in events_of(core, question, RetentionSwept)
            if isinstance(event, RetentionSwept)
        ],
    )  # fmt: skip
