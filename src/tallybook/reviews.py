"""`book.audit.review`: what auditors, supervisors and data subjects ask, each answered by one report.

A review reads both logs once or twice from end to end, keeps figures by actor, subject and purpose, and is itself on
record in the log of reads. docs/reviews.md says what each answers, and defines what it counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from tallybook.adapters import integrity
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.form import known_uuid
from tallybook.adapters.policy_files import decider_of
from tallybook.adapters.reports import Chart, ChartKind, Column, Kind, Report, Section
from tallybook.domain.access import (
    DENIED,
    RELEASED,
    CommandDenied,
    Exported,
    LogClosed,
    LogOpened,
    PersonalDataRead,
)
from tallybook.domain.customer import (
    ContactPointAdded,
    ContactPointRemoved,
    CustomerChanged,
    CustomerRegistered,
    IdentifierLinked,
    IdentifierRemoved,
    InteractionRecorded,
    ProfileFact,
)
from tallybook.domain.erasure import SubjectErased
from tallybook.domain.errors import BookDamaged, refusal, text, whole
from tallybook.domain.events import REGISTRY, Event, Fact, Metadata
from tallybook.domain.personal import Category, Personal
from tallybook.domain.policy import DENY, Purpose, fits, known_fields, marks_of, selects
from tallybook.domain.privacy import (
    Consent,
    ConsentConfirmed,
    ConsentGranted,
    Consents,
    ConsentWithdrawn,
    Objected,
    ObjectionWithdrawn,
    RequestCompleted,
    RequestReceived,
    Restricted,
    RestrictionLifted,
)
from tallybook.domain.retention import ACCESS_RECORDS, Retention, RetentionSwept
from tallybook.domain.ticket import TicketAssigned, TicketClosed, TicketOpened
from tallybook.projections.access_review import (
    KINDS,
    AccessReview,
    BulkReads,
    ConsentsKnown,
    Dealings,
    Finding,
    Policies,
    Thresholds,
    Usage,
    lacking,
    released_subjects,
)
from tallybook.projections.read_models import Recorded
from tallybook.projections.trail import Trail

from .core import RECORDED_US, Core
from .customers import as_id, request_views
from .erasures import ErasureDesk
from .retention import RetentionDesk
from .subject_report import subject_report
from .times import When, as_of_us, iso, moment_us

ACTOR, PURPOSE, ON_BEHALF_OF = (list(Metadata.model_fields).index(one) for one in ("actor", "purpose", "on_behalf_of"))
"""Where they stand in the metadata that a scan of the log gives."""
ALWAYS_US = -(2**62)

CONSENT_FACTS = (ConsentGranted, ConsentConfirmed, ConsentWithdrawn, Objected)
NAME, ID, TIME, COUNT, SHARE = Kind.TEXT, Kind.ID, Kind.TIME, Kind.COUNT, Kind.SHARE


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: times in µs, `until_us` excluded; heads of both logs, beyond which nothing is looked at."""

    acting: Metadata
    action: str
    events_head: int
    reads_head: int
    now_us: int
    subject: UUID | None = None
    actor: str | None = None
    since_us: int = ALWAYS_US
    until_us: int = 0
    at_us: int = 0
    thresholds: Thresholds = field(default_factory=Thresholds)

    def within(self, us: int) -> bool:
        """Whether a time lies in the period."""
        return self.since_us <= us < self.until_us


Answer = Callable[[Core, Question], Iterable[Section]]


@dataclass(frozen=True, slots=True)
class ReviewKind:
    """A review: its name, what it answers, and which parameters it takes; those in `needs` must be given."""

    name: str
    title: str
    about: str
    takes: frozenset[str]
    needs: frozenset[str]
    answer: Answer
    opens: bool
    """Whether it opens personal data itself: that is on record as one read, then, with its fields."""


REVIEWS: dict[str, ReviewKind] = {}
"""All reviews, by name."""


def _review(
    name: str, title: str, about: str, takes: str = "", needs: str = "", *, opens: bool = False
) -> Callable[[Answer], Answer]:
    def register(answer: Answer) -> Answer:
        taken = frozenset([*takes.split(), *needs.split()])
        REVIEWS[name] = ReviewKind(name, title, about, taken, frozenset(needs.split()), answer, opens)
        return answer

    return register


def review(
    core: Core,
    name: str,
    *,
    subject: UUID | str | None = None,
    actor: str | None = None,
    since: When | None = None,
    until: When | None = None,
    at: When | None = None,
    thresholds: Thresholds | None = None,
) -> Report:
    """A review of a book. Refuses: invalid_argument, naive_time, acting_required, access_denied, unknown_customer."""
    kind = REVIEWS.get(name)
    if kind is None:
        raise refusal("invalid_argument", f"name: one of {', '.join(REVIEWS)} is wanted.", argument="name")
    given = {
        "subject": subject, "actor": actor, "since": since, "until": until, "at": at, "thresholds": thresholds,
    }  # fmt: skip
    for one, value in given.items():
        if value is not None and one not in kind.takes:
            raise refusal("invalid_argument", f"{one}: {name} does not take it.", argument=one)
        if value is None and one in kind.needs:
            raise refusal("invalid_argument", f"{one}: {name} needs it.", argument=one)
    core.check_open()
    acting = core.gate_metadata(core.acting_now())
    now_us = acting.recorded_us
    if thresholds is not None:
        for one, figure in asdict(thresholds).items():
            whole(figure, one, 1)
    question = Question(
        acting,
        f"audit.review.{name}",
        core.app.position(),
        core.gate.reads.position(),
        now_us,
        None if subject is None else as_id(subject, "subject"),
        None if actor is None else text(actor, "actor"),
        ALWAYS_US if since is None else _since_us(since),
        (now_us if until is None else as_of_us(until, "until")) + 1,
        now_us if at is None else as_of_us(at, "at"),
        thresholds or Thresholds(),
    )
    if not kind.opens:
        about = [] if question.subject is None else [question.subject]
        core.gate.record(acting, question.action, about, [])
    with rarely_collecting():
        sections = tuple(kind.answer(core, question))
    made_of = {
        "book": core.origin,
        "review": name,
        "events up to": str(question.events_head),
        "records of reads up to": str(question.reads_head),
        **{one: str(value) for one, value in given.items() if value is not None and one != "thresholds"},
        "asked by": acting.actor,
        "purpose": acting.purpose,
    }
    return Report(kind.title, iso(now_us) or "", made_of, (Section("About", kind.about), *sections))


def _since_us(since: When) -> int:
    """A plain date means from its beginning on, in UTC."""
    if isinstance(since, str) and len(since) == len("2025-12-31"):
        since = f"{since}T00:00:00Z"
    return moment_us(since, "since")


# ── what several of them need ───────────────────────────────────────────────────────────────────────────────────────


def _columns(*named: tuple[str, Kind] | str) -> tuple[Column, ...]:
    return tuple(Column(one) if isinstance(one, str) else Column(*one) for one in named)


def _bars(label: str, *values: str) -> Chart:
    return Chart(ChartKind.BARS, label, values)


def _events(core: Core, question: Question, *kinds: type[Event]) -> Iterator[Recorded]:
    """All events of some kinds, in order."""
    names = [kind.stored_name for kind in kinds]
    return core.app.decode(core.app.log.iterate(stop=question.events_head, topics=names))


def _reads(core: Core, question: Question) -> Iterator[Recorded]:
    """The records of the log of reads, in order: those from before the question."""
    return core.app.decode(core.gate.reads.iterate(stop=question.reads_head))


def _policies(core: Core) -> Policies:
    found = Policies(decider_of, core.policy_id)
    for recorded in core.stream(core.policy_id):
        found.add(recorded.event)
    return found


def _consents(core: Core, question: Question) -> ConsentsKnown:
    found = ConsentsKnown()
    for _, event in _events(core, question, *CONSENT_FACTS):
        found.add(event.metadata.recorded_us, event)
    return found


def _customers(core: Core) -> Counter[str]:
    """How many customers of each kind were ever registered."""
    return Counter(kind for _, (kind,) in core.app.scan(CustomerRegistered, ["kind"]))


def _erased(core: Core, question: Question) -> dict[UUID, list[Recorded]]:
    """Who was erased, with the events of it."""
    found: dict[UUID, list[Recorded]] = {}
    for recorded in _events(core, question, SubjectErased):
        assert recorded.event.subject_id is not None
        found.setdefault(recorded.event.subject_id, []).append(recorded)
    return found


def _at(us: int | None) -> str | None:
    return iso(us)


# ── 1, 4: all data of a subject, and the copy to take elsewhere ─────────────────────────────────────────────────────


@_review(
    "subject-access",
    "Subject access",
    "All that the book holds about a person, and who consulted it, when and why (GDPR 15, CJEU C-579/21; PIPL 44, 45).",
    needs="subject",
    opens=True,
)
def _subject_access(core: Core, question: Question) -> Iterable[Section]:
    assert question.subject is not None
    return subject_report(core, question.subject, question.action).report().sections


@_review(
    "portable-copy",
    "Portable copy",
    "What a person provided, in a form for machines, and apart from it what was derived (GDPR 20; PIPL 45).",
    needs="subject",
    opens=True,
)
def _portable_copy(core: Core, question: Question) -> Iterator[Section]:
    assert question.subject is not None
    found = subject_report(core, question.subject, question.action)
    columns = _columns(
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


@_review(
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
        _events(core, question, *_CORRECTING)
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
            _at(event.metadata.recorded_us), _at(event.effective_us), event.subject_id, name, recorded.position,
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
        _columns(("field", ID), ("corrections", COUNT)),
        by_field.most_common(),
        _bars("field", "corrections"),
    )
    yield Section(
        "Corrections",
        "Each value that took the place of an earlier one, or was cleared or completed later. The earlier one stays in "
        "the log, at its position.",
        _columns(
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
    events = [event for _, event in _events(core, question, RequestReceived, RequestCompleted)]
    received = {event.event_id for event in events if question.within(event.metadata.recorded_us)}
    views = [
        one
        for one in request_views(events, question.now_us)
        if one.request_id in received and kind in (None, one.kind) and question.subject in (None, one.customer_id)
    ]
    return Section(
        title,
        "",
        _columns(
            ("request", ID), ("subject", ID), "kind", ("received_at", TIME), ("due_at", TIME), ("completed_at", TIME),
            "outcome", "in time",
        ),
        [
            (
                one.request_id, one.customer_id, one.kind, one.received_at, one.due_at, one.completed_at, one.outcome,
                _in_time(one.due_at, one.completed_at, overdue=one.overdue),
            )
            for one in views
        ],
    )  # fmt: skip


def _in_time(due_at: str, completed_at: str | None, *, overdue: bool) -> str:
    if completed_at is None:
        return "overdue" if overdue else "open"
    return "in time" if moment_us(completed_at, "completed_at") <= moment_us(due_at, "due_at") else "late"


# ── 3: erasures and restrictions ────────────────────────────────────────────────────────────────────────────────────


@_review(
    "erasure-evidence",
    "Erasures and restrictions",
    "Who was erased, and what shows it: key destroyed, look-ups gone, the event in the signed log, no copy put back; "
    "whose data is restricted or not to be used for automated decisions (GDPR 17, 18, 21, 22; PIPL 24, 44, 47).",
    takes="subject since until",
)
def _erasure_evidence(core: Core, question: Question) -> Iterator[Section]:
    erased = _erased(core, question)
    asked = {
        subject: found
        for subject, found in erased.items()
        if question.subject in (None, subject) and any(question.within(e.metadata.recorded_us) for _, e in found)
    }
    names = [(subject, key_id) for subject, found in asked.items() for _, e in found for key_id in _keys_of(e)]
    keys = core.storage.keys
    left = set(keys.get(names))
    tombs = keys.destroyed(names)
    by_table = {(subject, key_id) for subject, key_id, _ in core.app.log.erasures()}
    proofs = _proofs(core, [position for found in asked.values() for position, _ in found])
    rows: list[tuple[object, ...]] = []
    for subject, found in asked.items():
        look_ups = core.app.log.claims_of([subject.bytes])
        for position, event in found:
            assert isinstance(event, SubjectErased)
            held = [(subject, key_id) for key_id in event.key_ids]
            rows.append(
                (
                    subject, _at(event.effective_us), event.metadata.actor, event.reason, event.request_id, position,
                    ", ".join(map(str, event.key_ids)),
                    "STILL THERE" if any(one in left for one in held) else "none",
                    "noted" if all(one in tombs for one in held) else "NOT NOTED",
                    "noted" if all((subject.bytes, one) in by_table for one in event.key_ids) else "NOT NOTED",
                    event.lookups, len(look_ups), event.kept, _at(event.kept_until_us), proofs[position],
                )
            )  # fmt: skip
    yield Section(
        "Erasures",
        "One row for each erasure. Key left: whether the key store still gives the key. Destruction: whether it notes "
        "that it destroyed it. Proof: size of the signed checkpoint that the event was proved to be in, just now.",
        _columns(
            ("subject", ID), ("erased_at", TIME), ("actor", ID), ("reason", ID), ("request", ID), ("position", COUNT),
            ("keys", ID), "key left", "destruction", "table", ("look-ups removed", COUNT), ("look-ups left", COUNT),
            ("kept by law", COUNT), ("kept_until", TIME), ("proof", ID),
        ),
        rows,
    )  # fmt: skip
    again = [one for found in asked.values() for one in found if getattr(one.event, "reason", "") == "restored"]
    followed = keys.erased_up_to()
    behind = sum(1 for _, _, position in core.app.log.erasures() if position > followed)
    yield Section(
        "Copies that were put back",
        "A key store or a log that is put back from a copy follows the erasures again when the book is opened.",
        _columns("what", ("figure", COUNT)),
        [
            ("erasures that the key store has not followed yet", behind),
            ("subjects erased again after a log was put back", len(again)),
            ("subjects erased in all", len(erased)),
        ],
    )
    yield _verified(core)
    yield from _restrictions(core, question)
    yield _requests(core, question, "erasure", "Requests for erasure")


def _keys_of(event: Event) -> tuple[int, ...]:
    return event.key_ids if isinstance(event, SubjectErased) else ()


def _proofs(core: Core, positions: Sequence[int]) -> dict[int, str]:
    """Of each position: the size of the checkpoint that it was proved to be in."""
    if core.storage.signing is None:
        return dict.fromkeys(positions, "unsigned book")
    if not positions:
        return {}
    checkpoints = core.checkpoints["events"]
    try:
        stored = checkpoints.sign()
    except BookDamaged as error:
        return dict.fromkeys(positions, f"NOT SIGNED: {error.message}")
    found: dict[int, str] = {}
    for position in positions:
        try:
            checkpoints.proof(position, stored)
            found[position] = str(stored.size)
        except BookDamaged as error:
            found[position] = f"NOT PROVED: {error.message}"
    return found


def _verified(core: Core) -> Section:
    """What `audit verify` says of both logs."""
    rows: list[tuple[object, ...]] = []
    for log, checkpoints in core.checkpoints.items():
        kept = checkpoints if core.storage.vkey is not None else None
        one = integrity.verify(log, checkpoints.log, None, checkpoints=kept)
        last = checkpoints.last() if kept is not None else None
        rows.append(
            (
                log, one.size, one.root, "verified" if one.holds else "ALTERED", one.problem,
                None if last is None else last.size, None if last is None else _at(last.signed_us),
                None if last is None else max(one.size - last.size, 0),
            )
        )  # fmt: skip
    return Section(
        "Logs verified",
        "Roots recomputed from the stored bytes, and compared with heads, tiles and the checkpoints that the book "
        "keeps. Only a checkpoint that was kept elsewhere shows that nobody rewrote all of these.",
        _columns(
            ("log", ID), ("leaves", COUNT), ("root", ID), "verdict", "problem", ("last checkpoint", COUNT),
            ("signed_at", TIME), ("leaves since", COUNT),
        ),
        rows,
    )  # fmt: skip


def _restrictions(core: Core, question: Question) -> Iterator[Section]:
    held: dict[tuple[UUID, str], tuple[Recorded, Recorded | None]] = {}
    rows: list[tuple[UUID, str, Recorded, Recorded | None]] = []
    for recorded in _events(core, question, Restricted, RestrictionLifted, Objected, ObjectionWithdrawn):
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
    for _, event in _reads(core, question) if spans else ():
        if isinstance(event, PersonalDataRead):
            at_us = event.metadata.recorded_us
            given = set(released_subjects(event))
            for subject in event.subjects:
                if any(first <= at_us < last for first, last in spans.get(subject, ())):
                    (released if subject in given else withheld)[subject] += 1
    yield Section(
        "Restrictions and objections",
        "Objections to automated decisions keep a subject out of segments and backtests. Of restrictions: how many "
        "reads released something meanwhile (for purposes that go on, or where no policy was in force), or nothing.",
        _columns(
            ("subject", ID), "what", ("since", TIME), ("until", TIME), ("reason", ID), ("actor", ID),
            ("position", COUNT), ("reads released", COUNT), ("reads withheld", COUNT),
        ),
        [
            (
                subject, "restricted" if to == "restriction" else f"objects to {to}", _at(begun.event.effective_us),
                None if ended is None else _at(ended.event.effective_us), getattr(begun.event, "reason", None),
                begun.event.metadata.actor, begun.position,
                released[subject] if to == "restriction" else None, withheld[subject] if to == "restriction" else None,
            )
            for subject, to, begun, ended in rows
            if begun.event.metadata.recorded_us < question.until_us
            and (ended is None or ended.event.metadata.recorded_us >= question.since_us)
        ],
    )  # fmt: skip


# ── 5: records of processing ────────────────────────────────────────────────────────────────────────────────────────


class _Processing:
    """What was done for one purpose."""

    def __init__(self) -> None:
        self.reads = 0
        self.denied = 0
        self.commands = 0
        self.subjects: set[UUID] = set()
        self.fields: set[str] = set()
        self.actors: set[str] = set()
        self.exports: Counter[str] = Counter()
        self.first_us: int | None = None
        self.last_us: int | None = None

    def at(self, us: int) -> None:
        self.first_us = us if self.first_us is None else min(self.first_us, us)
        self.last_us = us if self.last_us is None else max(self.last_us, us)


def _processings(core: Core, question: Question) -> dict[str, _Processing]:
    found: dict[str, _Processing] = {}
    for kind in _fact_kinds():
        for position, (metadata,) in core.app.scan(kind, ["metadata"]):
            if position <= question.events_head and question.within(metadata[RECORDED_US]):
                one = found.setdefault(metadata[PURPOSE], _Processing())
                one.commands += 1
                one.at(metadata[RECORDED_US])
    for _, event in _reads(core, question):
        metadata = event.metadata
        if not question.within(metadata.recorded_us) or not isinstance(event, (PersonalDataRead, Exported)):
            continue
        one = found.setdefault(metadata.purpose, _Processing())
        one.at(metadata.recorded_us)
        if isinstance(event, Exported):
            one.exports[event.format] += 1
        elif event.outcome == DENIED:
            one.denied += 1
        else:
            one.reads += 1
            one.actors.add(metadata.actor)
            one.subjects.update(event.subjects)
            one.fields.update(event.fields, event.masked)
    return found


def _fact_kinds() -> list[type[Event]]:
    """The kinds of facts in the log of events."""
    return [
        one.event_class
        for name, one in REGISTRY.items()
        if issubclass(one.event_class, Fact) and not name.startswith(("access.", "log."))
    ]


def _categories(fields: set[str]) -> list[str]:
    return sorted({category for one in fields for category in marks_of(one).categories})


@_review(
    "processing-records",
    "Records of processing",
    "By purpose: legal basis, categories of data and of subjects, recipients, retention, and the security measures in "
    "force (GDPR 30, 32; PIPL 51, 55, 56).",
    takes="since until",
)
def _processing_records(core: Core, question: Question) -> Iterator[Section]:
    policies = _policies(core)
    declared: dict[str, tuple[Purpose | None, str | None]] = {}
    nothing: tuple[Purpose | None, str | None] = (None, None)
    permitted: dict[str, set[str]] = {}
    for policy in policies.any_in_force(question.since_us, question.until_us - 1):
        for name, stated in policies.decides(policy).purposes.items():
            declared[name] = (stated, f"{policy.name}@{policy.version}")
        for rule in json.loads(policy.document).get("rules") or ():
            for name in policies.decides(policy).purposes:
                if rule["effect"] != DENY and any(fits(one, name) for one in rule["purposes"]):
                    permitted.setdefault(name, set()).update(
                        one for one in known_fields() if any(selects(selector, one) for selector in rule["fields"])
                    )
    used = _processings(core, question)
    schedules = core.app.load(Retention, core.retention_id).schedules
    rows: list[tuple[object, ...]] = []
    for name in sorted({*declared, *used, *(one.purpose for one in schedules)}):
        one = used.get(name, _Processing())
        purpose, policy_label = declared.get(name, nothing)
        periods = [
            f"{s.category}: {s.action} {s.period} {s.unit} since {s.since}" for s in schedules if s.purpose == name
        ]
        rows.append(
            (
                name, None if purpose is None else purpose.text, "not declared" if purpose is None else purpose.basis,
                None if purpose is None else purpose.consent, policy_label, ", ".join(_categories(one.fields)),
                ", ".join(_categories(permitted.get(name, set()))), ", ".join(sorted(one.fields)), len(one.subjects),
                ", ".join(f"{one} ({count})" for one, count in sorted(one.exports.items())),
                "; ".join(periods), one.reads, one.denied, one.commands, len(one.actors), _at(one.first_us),
                _at(one.last_us),
            )
        )  # fmt: skip
    yield Section(
        "By purpose",
        "Categories read: of the fields that were released. Categories permitted: of those that the policy's rules "
        "name. Recipients: exports that left the book for the purpose.",
        _columns(
            ("purpose", ID), "text", "legal basis", ("consent", ID), ("policy", ID), "categories read",
            "categories permitted", ("fields read", ID), ("subjects", COUNT), "recipients", "retention",
            ("reads", COUNT), ("denied", COUNT), ("facts recorded", COUNT), ("actors", COUNT), ("first_at", TIME),
            ("last_at", TIME),
        ),
        rows,
        Chart(ChartKind.MATRIX, "purpose", ("subjects", "reads", "denied", "facts recorded")),
    )  # fmt: skip
    erased = len(_erased(core, question))
    yield Section(
        "Categories of subjects",
        "",
        _columns("kind", ("registered", COUNT)),
        sorted(_customers(core).items()),
        _bars("kind", "registered"),
    )
    yield _exports(core, question, None)
    yield Section("Security measures in force", "", _columns("measure", "state"), _measures(core, question, erased))


def _measures(core: Core, question: Question, erased: int) -> list[tuple[str, str]]:
    policy = core.policy().in_force
    signed = core.storage.signing is not None
    last = core.checkpoints["events"].last() if signed else None
    return [
        ("personal fields sealed", "AES-256-GCM, one data key for each subject, bound to event, subject and key"),
        ("data keys", f"{core.storage.keys.count():,} held, {erased:,} subjects erased"),
        ("access policy", "none in force" if policy is None else f"{policy.name}@{policy.version}, {policy.digest}"),
        ("reads of personal data", f"recorded before release; {question.reads_head:,} records"),
        ("log", f"Merkle tree over {question.events_head:,} events and {question.reads_head:,} records of reads"),
        ("checkpoints signed", core.signed_by().now if signed else "no: the book has no signing key"),
        ("last checkpoint", "none" if last is None else f"{last.size:,} events, {_at(last.signed_us)}"),
        ("retention", f"{len(core.app.load(Retention, core.retention_id).schedules):,} schedules"),
    ]


def _exports(core: Core, question: Question, actor: str | None) -> Section:
    """What left the book in the period, with how many subjects its positions are about."""
    rows = []
    for position, event in _reads(core, question):
        metadata = event.metadata
        if isinstance(event, Exported) and question.within(metadata.recorded_us) and actor in (None, metadata.actor):
            rows.append(
                (
                    _at(metadata.recorded_us), metadata.actor, metadata.purpose, event.format, event.count,
                    event.from_position, event.to_position, len(_subjects_between(core, event)), event.digest, position,
                )
            )  # fmt: skip
    return Section(
        "Exports",
        "What left the book, and to how many subjects the events of those positions belong. Where an export opens "
        "personal fields, that is a record of a read of its own.",
        _columns(
            ("at", TIME), ("actor", ID), ("purpose", ID), ("format", ID), ("entries", COUNT), ("from", COUNT),
            ("to", COUNT), ("subjects", COUNT), ("digest", ID), ("position", COUNT),
        ),
        rows,
    )  # fmt: skip


def _subjects_between(core: Core, event: Exported) -> set[UUID]:
    """Whose events an export held. One of the log of reads alone held none."""
    if event.to_position == 0 or event.format.endswith("-reads"):
        return set()
    core.catch_up(core.trail)
    rows = core.store.select(
        core.trail,
        Trail.table,
        ["DISTINCT subject"],
        "position>=? AND position<=?",
        [event.from_position, event.to_position],
    )
    return {known_uuid(subject) for (subject,) in rows if subject}


# ── 6: exposure ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Seen:
    """What an actor saw of one subject."""

    __slots__ = ("fields", "first", "first_us", "last", "last_us", "masked", "purposes", "reads")

    def __init__(self, position: int, at_us: int) -> None:
        self.fields: set[str] = set()
        self.masked: set[str] = set()
        self.purposes: set[str] = set()
        self.reads = 0
        self.first = self.last = position
        self.first_us = self.last_us = at_us


@_review(
    "exposure",
    "Exposure",
    "Whose data, and which fields, an actor saw or took in a period: what a notice of a breach has to say (GDPR 33, "
    "34; PIPL 57).",
    takes="since until subject",
    needs="actor",
)
def _exposure(core: Core, question: Question) -> Iterator[Section]:
    seen: dict[UUID, _Seen] = {}
    whole_fields: dict[str, set[UUID]] = {}
    masked_fields: dict[str, set[UUID]] = {}
    refused = records = 0
    taken: set[UUID] = set()
    for position, event in _reads(core, question):
        metadata = event.metadata
        if question.actor not in (metadata.actor, metadata.on_behalf_of) or not question.within(metadata.recorded_us):
            continue
        if isinstance(event, Exported):
            taken |= _subjects_between(core, event)
        elif isinstance(event, CommandDenied) or (isinstance(event, PersonalDataRead) and event.outcome == DENIED):
            refused += 1
        elif isinstance(event, PersonalDataRead):
            records += 1
            for subject in released_subjects(event):
                if question.subject not in (None, subject):
                    continue
                one = seen.get(subject)
                if one is None:
                    one = seen[subject] = _Seen(position, metadata.recorded_us)
                one.reads += 1
                one.fields.update(event.fields)
                one.masked.update(event.masked)
                one.purposes.add(metadata.purpose)
                one.last, one.last_us = position, metadata.recorded_us
                for name in event.fields:
                    whole_fields.setdefault(name, set()).add(subject)
                for name in event.masked:
                    masked_fields.setdefault(name, set()).add(subject)
    if question.subject is not None:
        taken &= {question.subject}
    erased = _erased(core, question)
    yield Section(
        "In short",
        "",
        _columns("what", ("figure", COUNT)),
        [
            ("subjects whose fields were seen", len(seen)),
            ("subjects whose events were taken in exports", len(taken)),
            ("subjects in all", len(seen.keys() | taken)),
            ("of these, erased since", len((seen.keys() | taken) & erased.keys())),
            ("records of reads that released something, or looked", records),
            ("attempts that were denied", refused),
        ],
    )
    yield Section(
        "Fields",
        "",
        _columns(("field", ID), "category", "sensitivity", ("subjects", COUNT), ("subjects in part", COUNT)),
        [
            (
                name, ", ".join(sorted(marks_of(name).categories)), ", ".join(sorted(marks_of(name).sensitivities)),
                len(whole_fields.get(name, ())), len(masked_fields.get(name, set()) - whole_fields.get(name, set())),
            )
            for name in sorted({*whole_fields, *masked_fields})
        ],
        _bars("field", "subjects"),
    )  # fmt: skip
    yield Section(
        "Subjects",
        "Of a read of many subjects, each is shown with all fields of the record: those that the subject has of them.",
        _columns(
            ("subject", ID), ("fields", ID), ("in part", ID), ("purposes", ID), ("reads", COUNT), ("first_at", TIME),
            ("last_at", TIME), ("first position", COUNT), ("last position", COUNT), "in an export", "erased since",
        ),
        [
            (
                subject, ", ".join(sorted(one.fields)), ", ".join(sorted(one.masked - one.fields)),
                ", ".join(sorted(one.purposes)), one.reads, _at(one.first_us), _at(one.last_us), one.first, one.last,
                "yes" if subject in taken else "no", "yes" if subject in erased else "no",
            )
            for subject, one in seen.items()
        ]
        + [
            (
                subject, "", "", "", 0, None, None, None, None, "yes", "yes" if subject in erased else "no",
            )
            for subject in sorted(taken - seen.keys())
        ],
    )  # fmt: skip
    yield _exports(core, question, question.actor)


# ── 7: consents at a time ───────────────────────────────────────────────────────────────────────────────────────────


@_review(
    "consent-at",
    "Consents in force",
    "The consents in force at a moment, as the book knew them then: separate ones and those to transfers abroad are "
    "marked (GDPR 7; PIPL 13 to 16, 23, 29, 39).",
    takes="subject at",
)
def _consent_at(core: Core, question: Question) -> Iterator[Section]:
    known = _consents(core, question)
    at_us = question.at_us
    wanted = known.subjects() if question.subject is None else [question.subject]
    erased = {
        subject
        for subject, found in _erased(core, question).items()
        if any(event.metadata.recorded_us <= at_us for _, event in found)
    }
    given = [(subject, one) for subject in wanted for one in known.at(subject, at_us).given]
    states = [_consent_state(one, at_us) for _, one in given]
    purposes = sorted({one.purpose for _, one in given})
    yield Section(
        "By purpose",
        "",
        _columns(
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
        _bars("purpose", "in force"),
    )  # fmt: skip
    columns = _columns(
        ("subject", ID), ("purpose", ID), "state", "separate", "cross-border", ("brand", ID), ("contact point", ID),
        ("text", ID), ("basis", ID), ("source", ID), ("captured_at", TIME), ("from", TIME), ("until", TIME),
        ("confirmed_at", TIME), ("withdrawn_at", TIME), ("consent", ID), "erased",
    )  # fmt: skip
    for title, live in (("In force", True), ("Not in force", False)):
        rows = [
            (
                subject, one.purpose, state, "yes" if one.separate else "no", "yes" if one.cross_border else "no",
                one.brand, one.point_id, one.text_version, one.basis, one.source, _at(one.captured_us),
                _at(one.from_us), _at(one.until_us), _at(one.confirmed_us), _at(one.ended_us), one.consent_id,
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


# ── 8: figures for the periodic audit ───────────────────────────────────────────────────────────────────────────────


@_review(
    "compliance-audit",
    "Compliance audit",
    "How far the rules are followed, in figures that each name what they count (GDPR 5(2), 24, 32; PIPL 54 and the "
    "Measures for Personal Information Protection Compliance Audits).",
    takes="since until",
)
def _compliance_audit(core: Core, question: Question) -> Iterator[Section]:
    policies, known = _policies(core), _consents(core, question)
    tally = _Tally()
    for _, event in _reads(core, question):
        tally.see(event, question, policies, known)
    requests = [event for _, event in _events(core, question, RequestReceived, RequestCompleted)]
    in_period = {event.event_id for event in requests if question.within(event.metadata.recorded_us)}
    views = [one for one in request_views(requests, question.now_us) if one.request_id in in_period]
    timely = [_in_time(one.due_at, one.completed_at, overdue=one.overdue) for one in views]
    erased = {
        subject: found
        for subject, found in _erased(core, question).items()
        if any(question.within(event.metadata.recorded_us) for _, event in found)
    }
    proofs = _proofs(core, [position for found in erased.values() for position, _ in found])
    names = [(subject, key_id) for subject, found in erased.items() for _, e in found for key_id in _keys_of(e)]
    left = core.storage.keys.get(names)
    schedules = core.app.load(Retention, core.retention_id).schedules
    held = _held_categories(core, question)
    covered = [one for one in held if any(schedule.covers(one) for schedule in schedules)]
    if question.reads_head:
        held.append(ACCESS_RECORDS)
        covered += [ACCESS_RECORDS] if any(one.category == ACCESS_RECORDS for one in schedules) else []
    due = RetentionDesk(core, ErasureDesk(core)).due()
    verified = _verified(core)
    log_rows = {str(row[0]): row for row in verified.rows}
    gaps = _gaps(core, question)
    used = sorted(tally.purposes)
    with_basis = [one for one in used if one in tally.with_basis]
    proved = sum(1 for one in proofs.values() if one.isdecimal())
    answered = [one for one in timely if one != "open"]
    figures: list[tuple[str, tuple[int, int], str, str]] = [
        ("purposes of reads with a declared legal basis", (len(with_basis), len(used)), "GDPR 6; PIPL 13",
         f"without: {', '.join(sorted(set(used) - set(with_basis)))}" if len(with_basis) < len(used) else ""),
        ("reads for a declared purpose", (tally.declared, tally.reads), "GDPR 5(1)(b); PIPL 6", ""),
        ("reads decided by an access policy", (tally.decided, tally.reads), "GDPR 25, 32; PIPL 51", ""),
        ("subjects with a consent in force, each time they were read on one", (tally.consenting, tally.on_consent),
         "GDPR 7; PIPL 14", ""),
        ("requests answered in time, of those answered or overdue", (timely.count("in time"), len(answered)),
         "GDPR 12(3); PIPL 50", f"open: {timely.count('open')}, overdue: {timely.count('overdue')}"),
        ("erasures proved to be in the signed log", (proved, len(proofs)), "GDPR 17; PIPL 47", ""),
        ("keys destroyed, of those erased", (len(names) - len(left), len(names)), "GDPR 17; PIPL 47", ""),
        ("categories of data with a retention schedule", (len(covered), len(held)), "GDPR 5(1)(e); PIPL 19",
         f"without: {', '.join(sorted(set(held) - set(covered)))}" if len(covered) < len(held) else ""),
        ("logs verified", (sum(row[3] == "verified" for row in verified.rows), len(verified.rows)),
         "GDPR 5(1)(f); PIPL 51", ""),
        ("leaves under a signed checkpoint",
         (sum(int(row[5] or 0) for row in log_rows.values()), sum(int(row[1]) for row in log_rows.values())),
         "GDPR 5(2); PIPL 54", ""),
        ("runs of the book that were closed", (gaps[0], gaps[1]), "GDPR 5(1)(f)", "others were killed, or still run"),
    ]  # fmt: skip
    yield Section(
        "Coverage",
        "Of each figure, the part that is covered, and of how many. Empty: there was nothing to cover.",
        _columns("figure", ("share", SHARE), ("covered", COUNT), ("of", COUNT), "law", "remark"),
        [(name, share, share[0], share[1], law, remark) for name, share, law, remark in figures],
        _bars("figure", "share"),
    )
    yield Section(
        "Counts",
        "",
        _columns("what", ("figure", COUNT)),
        [
            ("customers registered", _customers(core).total()),
            ("customers erased", len(_erased(core, question))),
            ("reads released", tally.reads - tally.denied),
            ("reads denied", tally.denied),
            ("commands denied", tally.commands_denied),
            ("exports", tally.exports),
            ("customers due for erasure by a schedule", len(due.ready)),
            ("customers past a period who wait for something", len(due.customers) - len(due.ready)),
            ("records of reads past their period", due.access_records),
        ],
    )
    yield Section(
        "Purposes",
        "",
        _columns(("purpose", ID), "legal basis", ("reads", COUNT)),
        [(name, tally.with_basis.get(name, "not declared"), tally.purposes[name]) for name in used],
        _bars("purpose", "reads"),
    )
    yield verified
    yield Section(
        "Recording of reads",
        "Each time the book was opened and closed. Without an end: it was killed, or still runs. Nothing is released "
        "that is not recorded, so that a gap hides no read.",
        _columns(("opened_at", TIME), ("closed_at", TIME), ("process", COUNT), ("release", ID), ("application", ID)),
        gaps[2],
    )


class _Tally:
    """Figures over the log of reads."""

    def __init__(self) -> None:
        self.reads = self.denied = self.declared = self.decided = 0
        self.on_consent = self.consenting = self.commands_denied = self.exports = 0
        self.purposes: Counter[str] = Counter()
        self.with_basis: dict[str, str] = {}

    def see(self, event: Event, question: Question, policies: Policies, known: ConsentsKnown) -> None:
        """One record."""
        at_us = event.metadata.recorded_us
        if not question.within(at_us):
            return
        self.commands_denied += isinstance(event, CommandDenied)
        self.exports += isinstance(event, Exported)
        if not isinstance(event, PersonalDataRead):
            return
        purpose = event.metadata.purpose
        self.reads += 1
        self.denied += event.outcome == DENIED
        self.decided += event.policy is not None
        self.purposes[purpose] += 1
        policy = policies.by_digest.get(event.policy or "")
        declared = None if policy is None else policies.decides(policy).purposes.get(purpose)
        if declared is not None:
            self.declared += 1
            self.with_basis[purpose] = declared.basis
            if declared.consent is not None and event.outcome == RELEASED:
                for subject in released_subjects(event):
                    self.on_consent += 1
                    self.consenting += lacking(known.at(subject, at_us), declared.consent, at_us) is None


def _held_categories(core: Core, question: Question) -> list[str]:
    """The categories of personal data that some event of the log holds."""
    found: set[str] = set()
    for schema in REGISTRY.values():
        kind = schema.event_class
        wanted = {mark.category.value for mark in kind.personal_fields.values()} - found
        if not wanted:
            continue
        for _, event in _events(core, question, kind):
            found.update(
                mark.category.value for name, mark in kind.personal_fields.items() if getattr(event, name) is not None
            )
            if wanted <= found:
                break
    return sorted(found)


def _gaps(core: Core, question: Question) -> tuple[int, int, list[tuple[object, ...]]]:
    """How many runs were closed, of how many, and each of them."""
    runs: dict[UUID, list[Event]] = {}
    names = [LogOpened.stored_name, LogClosed.stored_name]
    for _, event in core.app.decode(core.gate.reads.iterate(stop=question.reads_head, topics=names)):
        runs.setdefault(event.originator_id, []).append(event)
    rows: list[tuple[object, ...]] = []
    closed = 0
    for events in runs.values():
        opened = events[0]
        if not isinstance(opened, LogOpened) or not question.within(opened.metadata.recorded_us):
            continue
        closed += len(events) > 1
        rows.append(
            (
                _at(opened.metadata.recorded_us), _at(events[1].metadata.recorded_us) if len(events) > 1 else None,
                opened.process, opened.release, opened.metadata.application,
            )
        )  # fmt: skip
    return closed, len(rows), rows


# ── 9: access review ────────────────────────────────────────────────────────────────────────────────────────────────


@_review(
    "access-review",
    "Access review",
    "Who looked without cause, in bulk, without a consent, outside of purpose or hours; what was denied, exported, "
    "granted and never used (GDPR 5(1)(f), 25, 32; PIPL 51). Each finding is a question to somebody, not a verdict.",
    takes="actor since until thresholds",
)
def _access_review(core: Core, question: Question) -> Iterator[Section]:
    policies, known = _policies(core), _consents(core, question)
    usage = Usage(policies)
    dealings = _dealings(core, question, usage)
    bulk = BulkReads(policies, question.thresholds, question.since_us)
    for position, event in _reads(core, question):
        if isinstance(event, PersonalDataRead) and event.metadata.recorded_us < question.until_us:
            bulk.see(position, event)
    period = (question.since_us, question.until_us)
    found = AccessReview(policies, dealings, known, usage, bulk.found(), question.thresholds, period)
    for position, event in _reads(core, question):
        found.see(position, event)
    findings = [one for one in found.findings() if question.actor in (None, one.actor)]
    yield from _finding_sections(findings)
    yield from _rights_sections(question, policies, usage)
    yield _exports(core, question, question.actor)
    limits = [(name.replace("_", " "), figure) for name, figure in asdict(question.thresholds).items()]
    yield Section(
        "Thresholds",
        f"{found.records:,} records of the period were looked at, by these. docs/reviews.md defines each finding.",
        _columns("threshold", ("figure", COUNT)),
        limits,
    )


def _finding_sections(findings: Sequence[Finding]) -> Iterator[Section]:
    counts = Counter(one.kind for one in findings)
    yield Section(
        "findings by kind",
        "",
        _columns("kind", ("findings", COUNT)),
        [(kind, counts[kind]) for kind in KINDS],
        _bars("kind", "findings"),
    )
    by_actor: dict[str, Counter[str]] = {}
    for one in findings:
        by_actor.setdefault(one.actor, Counter())[one.kind] += 1
    yield Section(
        "findings by actor",
        "",
        _columns(("actor", ID), *((kind, COUNT) for kind in KINDS)),
        [(actor, *(found[kind] for kind in KINDS)) for actor, found in sorted(by_actor.items())],
        Chart(ChartKind.MATRIX, "actor", KINDS),
    )
    yield Section(
        "findings",
        "Positions are of the log of reads; count: records. Without any: nothing was done, which is what was found.",
        _columns(
            ("kind", ID), ("actor", ID), ("subjects", Kind.IDS), ("first_position", COUNT), ("last_position", COUNT),
            ("count", COUNT), "rule",
        ),
        [
            (one.kind, one.actor, one.subjects, one.first_position, one.last_position, one.count, one.rule)
            for one in findings
        ],
    )  # fmt: skip


def _rights_sections(question: Question, policies: Policies, usage: Usage) -> Iterator[Section]:
    period = (question.since_us, question.until_us)
    live = [one for one in policies.holdings if one.from_us < period[1] and one.until_us > period[0]]
    rows: list[tuple[object, ...]] = []
    roles: dict[str, set[str]] = {}
    given = 0
    for policy in policies.any_in_force(period[0], period[1] - 1):
        number, unused = usage.unused(policy)
        given += number
        label = f"{policy.name}@{policy.version}"
        rows += [(label, one.role, one.purpose, one.right, one.by) for one in unused]
        for role in policies.roles_in(policy):
            roles.setdefault(role, set()).add(label)
    for one in live:
        roles.setdefault(one.role, set())
    yield Section(
        "Rights never used",
        f"Of {given:,} rights of roles for purposes, those that nobody used in the period.",
        _columns(("policy", ID), ("role", ID), ("purpose", ID), ("right", ID), ("rule", ID)),
        rows,
    )
    yield Section(
        "Roles",
        "With no holder: a role of nobody.",
        _columns(("role", ID), ("policies", ID), ("holders", COUNT), ("who used it", COUNT), ("actors", ID)),
        [
            (
                role, ", ".join(sorted(labels)), len(holders),
                len({actor for actor in holders if (actor, role) in usage.used}), ", ".join(sorted(holders)),
            )
            for role, labels in sorted(roles.items())
            for holders in [{one.actor for one in live if one.role == role}]
        ],
    )  # fmt: skip


def _dealings(core: Core, question: Question, usage: Usage) -> Dealings:
    """What ties actors to subjects: from a scan of the clear fields of all facts."""
    found = Dealings(question.thresholds.tie_days)
    until_us = question.until_us

    def scanned(kind: type[Event], *names: str) -> Iterator[tuple[Any, ...]]:
        for position, values in core.app.scan(kind, names):
            if position > question.events_head:
                return
            yield values

    for kind in _fact_kinds():
        name = kind.stored_name
        for subject, metadata in scanned(kind, "subject_id", "metadata"):
            at_us, actor = metadata[RECORDED_US], metadata[ACTOR]
            behalf = metadata[ON_BEHALF_OF]
            if subject is not None:
                found.command(actor, subject, at_us)
                if behalf is not None:
                    found.command(behalf, subject, at_us)
            if at_us < until_us:
                usage.active(actor, at_us)
                if at_us >= question.since_us:
                    usage.fact(actor, metadata[PURPOSE], name, at_us)
    for subject, at_us, direction in scanned(InteractionRecorded, "subject_id", "effective_us", "direction"):
        if direction == "in":
            found.contact(subject, at_us)
    for request, subject, at_us in scanned(RequestReceived, "event_id", "subject_id", "effective_us"):
        found.request(request, subject, at_us)
    for request, at_us in scanned(RequestCompleted, "request_id", "effective_us"):
        found.answered(request, at_us)
    for ticket, subject, at_us in scanned(TicketOpened, "originator_id", "subject_id", "effective_us"):
        found.opened(ticket, subject, at_us)
    for ticket, owner, at_us in scanned(TicketAssigned, "originator_id", "owner", "effective_us"):
        found.assigned(ticket, owner, at_us)
    for ticket, at_us in scanned(TicketClosed, "originator_id", "effective_us"):
        found.ended(ticket, at_us)
    for kind in (CustomerRegistered, CustomerChanged):
        for subject, at_us, owner in scanned(kind, "subject_id", "effective_us", "owner"):
            if owner is not None:
                found.owner(subject, owner, at_us)
    found.settle()
    return found


# ── 10: retention ───────────────────────────────────────────────────────────────────────────────────────────────────


@_review(
    "retention",
    "Retention",
    "What is kept how long and for what, and what is past its period (GDPR 5(1)(e), 13(2)(a), 17; PIPL 19, 47).",
    takes="at",
)
def _retention(core: Core, question: Question) -> Iterator[Section]:
    schedules = core.app.load(Retention, core.retention_id).schedules
    due = RetentionDesk(core, ErasureDesk(core)).due(_at(question.at_us))
    held = _held_categories(core, question)
    past = Counter(category for one in due.customers for category in one.due)
    waits = Counter(category for one in due.customers for category in one.waits_for)
    yield Section(
        "Categories",
        "Held: some event holds a value of it. Without a schedule, nothing makes it due.",
        _columns(
            ("category", ID), "held", ("schedules", ID), "kept", ("customers past a period", COUNT),
            ("customers who wait for it", COUNT),
        ),
        [
            (
                name, "yes" if name in held or (name == ACCESS_RECORDS and question.reads_head) else "no",
                ", ".join(one.schedule for one in about),
                "; ".join(f"{one.action} {one.period} {one.unit} since {one.since}" for one in about),
                due.access_records if name == ACCESS_RECORDS else past[name], waits[name],
            )
            for name in [*(one.value for one in Category), ACCESS_RECORDS]
            for about in [[one for one in schedules if one.covers(name)]]
        ],
        _bars("category", "customers past a period"),
    )  # fmt: skip
    yield Section(
        "Schedules",
        "",
        _columns(
            ("schedule", ID), ("category", ID), ("purpose", ID), ("legal basis", ID), ("period", COUNT), "unit",
            ("since", ID), "action",
        ),
        [tuple(one) for one in schedules],
    )  # fmt: skip
    yield Section(
        "Due",
        f"Customers whose data is past a period at {due.at}. Ready: due as a whole, for the next sweep to erase.",
        _columns(
            ("customer", ID), "ready", ("due", ID), ("kept", ID), ("waits for", ID), ("schedules", ID),
            ("last_activity_at", TIME),
        ),
        [
            (
                one.customer_id, "yes" if one.ready else "no", ", ".join(one.due), ", ".join(one.kept),
                ", ".join(one.waits_for), ", ".join(one.schedules), one.last_activity_at,
            )
            for one in due.customers
        ],
    )  # fmt: skip
    yield Section(
        "Sweeps",
        "",
        _columns(
            ("recorded_at", TIME), ("until", TIME), ("due", COUNT), ("erased", COUNT), ("records of reads", COUNT)
        ),
        [
            (_at(event.metadata.recorded_us), _at(event.until_us), event.due, event.erased, event.access_records)
            for _, event in _events(core, question, RetentionSwept)
            if isinstance(event, RetentionSwept)
        ],
    )


__all__ = ["REVIEWS", "Finding", "Thresholds", "review"]
