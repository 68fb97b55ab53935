"""Reviews of what is done with it: records of processing, exposure, figures for an audit, access review."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from tallybook.adapters.form import known_uuid
from tallybook.adapters.reports import Chart, ChartKind, Kind, Section
from tallybook.domain.access import (
    DENIED,
    RELEASED,
    RESEALED,
    TOLD,
    CommandDenied,
    Exported,
    LogClosed,
    LogOpened,
    PersonalDataRead,
)
from tallybook.domain.customer import (
    CustomerChanged,
    CustomerRegistered,
)
from tallybook.domain.erasure import ValueResealed
from tallybook.domain.events import REGISTRY, Event, Fact, Metadata
from tallybook.domain.policy import DENY, Purpose, fits, known_fields, marks_of, selects
from tallybook.domain.privacy import (
    RequestCompleted,
    RequestReceived,
)
from tallybook.domain.retention import ACCESS_RECORDS, Retention
from tallybook.domain.ticket import TicketAssigned, TicketClosed, TicketOpened
from tallybook.projections.access_review import (
    KINDS,
    AccessReview,
    BulkReads,
    ConsentsKnown,
    Dealings,
    Finding,
    Policies,
    Usage,
    lacking,
    released_subjects,
)
from tallybook.projections.trail import Trail

from .core import RECORDED_US, Core
from .retention import RetentionDesk
from .review_kinds import (
    ACTOR,
    COUNT,
    ID,
    ON_BEHALF_OF,
    PURPOSE,
    SHARE,
    TIME,
    Question,
    answered,
    answers,
    bars_of,
    columns_of,
    consents_known,
    customers_by_kind,
    erasures_of,
    events_of,
    held_categories,
    keys_of,
    policies_of,
    proofs_of,
    reads_of,
    verified_logs,
)
from .times import iso

# ── 5: records of processing ────────────────────────────────────────────────────────────────────────────────────────


class _Processing:
    """What was done for one purpose."""

    def __init__(self) -> None:
        self.reads = 0
        self.denied = 0
        self.commands = 0
        self.subjects: set[UUID] = set()
        self.fields: set[str] = set()
        self.recorded: set[str] = set()
        self.actors: set[str] = set()
        self.exports: Counter[str] = Counter()
        self.first_us: int | None = None
        self.last_us: int | None = None

    def at(self, us: int) -> None:
        self.first_us = us if self.first_us is None else min(self.first_us, us)
        self.last_us = us if self.last_us is None else max(self.last_us, us)


def _processings(core: Core, question: Question) -> dict[str, _Processing]:
    found: dict[str, _Processing] = {}
    for kind in fact_kinds():
        for metadata, subjects, fields in _facts(core, question, kind):
            if question.within(metadata[RECORDED_US]):
                one = found.setdefault(metadata[PURPOSE], _Processing())
                one.commands += 1
                one.at(metadata[RECORDED_US])
                one.actors.add(metadata[ACTOR])
                one.subjects.update(subjects)
                one.recorded.update(fields)
    for _, event in reads_of(core, question):
        told = event.metadata
        if not question.within(told.recorded_us) or not isinstance(event, (PersonalDataRead, Exported)):
            continue
        one = found.setdefault(told.purpose, _Processing())
        one.at(told.recorded_us)
        if isinstance(event, Exported):
            one.exports[event.format] += 1
        elif event.outcome == DENIED:
            one.denied += 1
        elif event.outcome in (RELEASED, TOLD):
            one.reads += 1
            one.actors.add(told.actor)
            one.subjects.update(released_subjects(event))
            one.fields.update(event.fields, event.masked)
    return found


def _facts(
    core: Core, question: Question, kind: type[Event]
) -> Iterator[tuple[Sequence[Any], tuple[UUID, ...], list[str]]]:
    """Of each fact of a kind: its metadata as stored, whom it is about, and the personal fields that it brought."""
    if kind.personal_fields and kind is not ValueResealed:  # which brings nothing new
        for _, event in events_of(core, question, kind):
            handles = [value for name in kind.personal_fields if (value := getattr(event, name)) is not None]
            metadata = [getattr(event.metadata, name) for name in Metadata.model_fields]
            yield metadata, event.subject_ids(), [one.known_as for one in handles]
        return
    for position, (metadata, *subjects) in core.app.scan(kind, ["metadata", "subject_id", *kind.other_subjects]):
        if position <= question.events_head:
            yield metadata, tuple([known_uuid(one) for one in subjects if one is not None]), []


def fact_kinds() -> list[type[Event]]:
    """The kinds of facts in the log of events."""
    return [
        one.event_class
        for name, one in REGISTRY.items()
        if issubclass(one.event_class, Fact) and not name.startswith(("access.", "log."))
    ]


def _categories(fields: set[str]) -> list[str]:
    return sorted({category for one in fields for category in marks_of(one).categories})


@answers(
    "processing-records",
    "Records of processing",
    "By purpose: legal basis, categories of data and of subjects, recipients, retention, and the security measures in "
    "force (GDPR 30, 32; PIPL 51, 55, 56).",
    takes="since until",
)
def _processing_records(core: Core, question: Question) -> Iterator[Section]:
    policies = policies_of(core)
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
                None if purpose is None else purpose.consent, policy_label,
                ", ".join(_categories(one.recorded)), ", ".join(_categories(one.fields)),
                ", ".join(_categories(permitted.get(name, set()))), ", ".join(sorted(one.recorded)),
                ", ".join(sorted(one.fields)), len(one.subjects),
                ", ".join(f"{one} ({count})" for one, count in sorted(one.exports.items())),
                "; ".join(periods), one.reads, one.denied, one.commands, len(one.actors), iso(one.first_us),
                iso(one.last_us),
            )
        )  # fmt: skip
    yield Section(
        "By purpose",
        "Categories recorded: of the personal fields that facts brought. Categories read: of the fields that were "
        "released. Subjects and actors: of both, without reads of what was erased. Categories permitted: of those that "
        "the policy's rules name. Recipients: exports that left the book for the purpose.",
        columns_of(
            ("purpose", ID), "text", "legal basis", ("consent", ID), ("policy", ID), "categories recorded",
            "categories read", "categories permitted", ("fields recorded", ID), ("fields read", ID),
            ("subjects", COUNT), "recipients", "retention", ("reads", COUNT), ("denied", COUNT),
            ("facts recorded", COUNT), ("actors", COUNT), ("first_at", TIME), ("last_at", TIME),
        ),
        rows,
        Chart(ChartKind.MATRIX, "purpose", ("subjects", "reads", "denied", "facts recorded")),
    )  # fmt: skip
    erased = len(erasures_of(core, question))
    yield Section(
        "Categories of subjects",
        "",
        columns_of("kind", ("registered", COUNT)),
        sorted(customers_by_kind(core).items()),
        bars_of("kind", "registered"),
    )
    yield _exports(core, question, None)
    yield Section("Security measures in force", "", columns_of("measure", "state"), _measures(core, question, erased))


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
        ("last checkpoint", "none" if last is None else f"{last.size:,} events, {iso(last.signed_us)}"),
        ("retention", f"{len(core.app.load(Retention, core.retention_id).schedules):,} schedules"),
    ]


def _exports(core: Core, question: Question, actor: str | None) -> Section:
    """What left the book in the period, with how many subjects its positions are about."""
    rows = []
    for position, event in reads_of(core, question):
        metadata = event.metadata
        if isinstance(event, Exported) and question.within(metadata.recorded_us) and actor in (None, metadata.actor):
            rows.append(
                (
                    iso(metadata.recorded_us), metadata.actor, metadata.purpose, event.format, event.count,
                    event.from_position, event.to_position, len(_subjects_between(core, event)), event.digest, position,
                )
            )  # fmt: skip
    return Section(
        "Exports",
        "What left the book, and to how many subjects the events of those positions belong. Where an export opens "
        "personal fields, that is a record of a read of its own.",
        columns_of(
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


@answers(
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
    refused = records = resealed = 0
    gone: set[UUID] = set()
    taken: set[UUID] = set()
    for position, event in reads_of(core, question):
        metadata = event.metadata
        if question.actor not in (metadata.actor, metadata.on_behalf_of) or not question.within(metadata.recorded_us):
            continue
        if isinstance(event, Exported):
            taken |= _subjects_between(core, event)
        elif isinstance(event, CommandDenied) or (isinstance(event, PersonalDataRead) and event.outcome == DENIED):
            refused += 1
        elif isinstance(event, PersonalDataRead) and event.outcome == RESEALED:
            resealed += 1
        elif isinstance(event, PersonalDataRead):
            records += 1
            gone.update(event.erased)
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
        gone &= {question.subject}
    erased = erasures_of(core, question)
    fielded = sum(bool(one.fields or one.masked) for one in seen.values())
    yield Section(
        "In short",
        "",
        columns_of("what", ("figure", COUNT)),
        [
            ("subjects whose fields were seen", fielded),
            ("subjects who were looked at, and no sealed field", len(seen) - fielded),
            ("subjects whose events were taken in exports", len(taken)),
            ("subjects in all", len(seen.keys() | taken)),
            ("of these, erased since", len((seen.keys() | taken) & erased.keys())),
            ("records of reads that released something, or looked", records),
            ("attempts that were denied", refused),
            ("subjects asked for after all was erased, and not seen", len(gone - seen.keys())),
            ("records of values that the book sealed anew, and showed to nobody", resealed),
        ],
    )
    yield Section(
        "Fields",
        "",
        columns_of(("field", ID), "category", "sensitivity", ("subjects", COUNT), ("subjects in part", COUNT)),
        [
            (
                name, ", ".join(sorted(marks_of(name).categories)), ", ".join(sorted(marks_of(name).sensitivities)),
                len(whole_fields.get(name, ())), len(masked_fields.get(name, set()) - whole_fields.get(name, set())),
            )
            for name in sorted({*whole_fields, *masked_fields})
        ],
        bars_of("field", "subjects"),
    )  # fmt: skip
    yield Section(
        "Subjects",
        "Of a read of many subjects, each is shown with all fields of the record: those that the subject has of them. "
        "Without a field: what was looked at is not sealed, as consents and trails. Left out are those of whom all was "
        "erased before the read, and what the book opened to seal it anew.",
        columns_of(
            ("subject", ID), ("fields", ID), ("in part", ID), ("purposes", ID), ("reads", COUNT), ("first_at", TIME),
            ("last_at", TIME), ("first position", COUNT), ("last position", COUNT), "in an export", "erased since",
        ),
        [
            (
                subject, ", ".join(sorted(one.fields)), ", ".join(sorted(one.masked - one.fields)),
                ", ".join(sorted(one.purposes)), one.reads, iso(one.first_us), iso(one.last_us), one.first, one.last,
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


# ── 8: figures for the periodic audit ───────────────────────────────────────────────────────────────────────────────


@answers(
    "compliance-audit",
    "Compliance audit",
    "How far the rules are followed, in figures that each name what they count (GDPR 5(2), 24, 32; PIPL 54 and the "
    "Measures for Personal Information Protection Compliance Audits).",
    takes="since until",
)
def _compliance_audit(core: Core, question: Question) -> Iterator[Section]:
    policies, known = policies_of(core), consents_known(core, question)
    tally = _Tally()
    for _, event in reads_of(core, question):
        tally.see(event, question, policies, known)
    requests = [event for _, event in events_of(core, question, RequestReceived, RequestCompleted)]
    in_period = {event.event_id for event in requests if question.within(event.metadata.recorded_us)}
    timely = [one.in_time for request, one in answered(requests, question.now_us).items() if request in in_period]
    erased = {
        subject: found
        for subject, found in erasures_of(core, question).items()
        if any(question.within(event.metadata.recorded_us) for _, event in found)
    }
    proofs = proofs_of(core, [position for found in erased.values() for position, _ in found])
    names = [(subject, key_id) for subject, found in erased.items() for _, e in found for key_id in keys_of(e)]
    left = core.storage.keys.get(names)
    schedules = core.app.load(Retention, core.retention_id).schedules
    held = held_categories(core, question)
    covered = [one for one in held if any(schedule.covers(one) for schedule in schedules)]
    if question.reads_head:
        held.append(ACCESS_RECORDS)
        covered += [ACCESS_RECORDS] if any(one.category == ACCESS_RECORDS for one in schedules) else []
    due = RetentionDesk(core).due()
    verified = verified_logs(core)
    log_rows = {str(row[0]): row for row in verified.rows}
    gaps = _gaps(core, question)
    used = sorted(tally.purposes)
    with_basis = [one for one in used if one in tally.with_basis]
    proved = sum(1 for one in proofs.values() if one.isdecimal())
    due_or_done = [one for one in timely if one != "open"]
    figures: list[tuple[str, tuple[int, int], str, str]] = [
        ("purposes of reads with a declared legal basis", (len(with_basis), len(used)), "GDPR 6; PIPL 13",
         f"without: {', '.join(sorted(set(used) - set(with_basis)))}" if len(with_basis) < len(used) else ""),
        ("reads for a declared purpose", (tally.declared, tally.reads), "GDPR 5(1)(b); PIPL 6", ""),
        ("reads decided by an access policy", (tally.decided, tally.reads), "GDPR 25, 32; PIPL 51", ""),
        ("subjects with a consent in force, each time they were read on one", (tally.consenting, tally.on_consent),
         "GDPR 7; PIPL 14", ""),
        ("requests answered in time, of those answered or overdue", (timely.count("in time"), len(due_or_done)),
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
        columns_of("figure", ("share", SHARE), ("covered", COUNT), ("of", COUNT), "law", "remark"),
        [(name, share, share[0], share[1], law, remark) for name, share, law, remark in figures],
        bars_of("figure", "share"),
    )
    yield Section(
        "Counts",
        "",
        columns_of("what", ("figure", COUNT)),
        [
            ("customers registered", customers_by_kind(core).total()),
            ("customers erased", len(erasures_of(core, question))),
            ("reads released", tally.reads - tally.denied),
            ("reads denied", tally.denied),
            ("times that the book sealed values anew, which nobody saw", tally.resealed),
            ("commands denied", tally.commands_denied),
            ("exports", tally.exports),
            ("customers due for erasure by a schedule", sum(one.whole for one in due.ready)),
            ("customers of whom single values are due", sum(not one.whole for one in due.ready)),
            ("values past a period", sum(due.values.values())),
            ("customers past a period who wait for something", len(due.customers) - len(due.ready)),
            ("records of reads past their period", due.access_records),
        ],
    )
    yield Section(
        "Purposes",
        "",
        columns_of(("purpose", ID), "legal basis", ("reads", COUNT)),
        [(name, tally.with_basis.get(name, "not declared"), tally.purposes[name]) for name in used],
        bars_of("purpose", "reads"),
    )
    yield verified
    yield Section(
        "Recording of reads",
        "Each time the book was opened and closed. Without an end: it was killed, or still runs. Nothing is released "
        "that is not recorded, so that a gap hides no read.",
        columns_of(
            ("opened_at", TIME), ("closed_at", TIME), ("process", COUNT), ("release", ID), ("application", ID), "signs"
        ),
        gaps[2],
    )


class _Tally:
    """Figures over the log of reads."""

    def __init__(self) -> None:
        self.reads = self.denied = self.declared = self.decided = 0
        self.on_consent = self.consenting = self.commands_denied = self.exports = self.resealed = 0
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
        if event.outcome == RESEALED:
            self.resealed += 1
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
                iso(opened.metadata.recorded_us), iso(events[1].metadata.recorded_us) if len(events) > 1 else None,
                opened.process, opened.release, opened.metadata.application, "yes" if opened.signs else "no",
            )
        )  # fmt: skip
    return closed, len(rows), rows


# ── 9: access review ────────────────────────────────────────────────────────────────────────────────────────────────


@answers(
    "access-review",
    "Access review",
    "Who looked without cause, in bulk, without a consent, outside of purpose or hours; what was denied, exported, "
    "granted and never used (GDPR 5(1)(f), 25, 32; PIPL 51). Each finding is a question to somebody, not a verdict.",
    takes="actor since until thresholds",
)
def _access_review(core: Core, question: Question) -> Iterator[Section]:
    policies, known = policies_of(core), consents_known(core, question)
    usage = Usage(policies)
    dealings = _dealings(core, question, usage)
    bulk = BulkReads(policies, question.thresholds, question.since_us)
    for position, event in reads_of(core, question):
        if isinstance(event, PersonalDataRead) and event.metadata.recorded_us < question.until_us:
            bulk.see(position, event)
    period = (question.since_us, question.until_us)
    found = AccessReview(policies, dealings, known, usage, bulk, question.thresholds, period)
    for position, event in reads_of(core, question):
        found.see(position, event)
    findings = [one for one in found.findings() if question.actor in (None, one.actor)]
    yield from _finding_sections(findings)
    yield _own_ties(found, question)
    yield from _rights_sections(question, policies, usage)
    yield Section(
        "Withheld for lack of a consent",
        "Subjects of whom nothing was released, because a consent that the purpose rests on was not in force.",
        columns_of(("actor", ID), ("purpose", ID), "consent", ("subjects", COUNT)),
        [(*key, count) for key, count in sorted(found.withheld.items()) if question.actor in (None, key[0])],
    )
    yield _exports(core, question, question.actor)
    limits = [(name.replace("_", " "), figure) for name, figure in asdict(question.thresholds).items()]
    yield Section(
        "Thresholds",
        f"{found.records:,} records of the period were looked at, by these. docs/reviews.md defines each finding.",
        columns_of("threshold", ("figure", COUNT)),
        limits,
    )


def _finding_sections(findings: Sequence[Finding]) -> Iterator[Section]:
    counts = Counter(one.kind for one in findings)
    yield Section(
        "findings by kind",
        "",
        columns_of("kind", ("findings", COUNT)),
        [(kind, counts[kind]) for kind in KINDS],
        bars_of("kind", "findings"),
    )
    by_actor: dict[str, Counter[str]] = {}
    for one in findings:
        by_actor.setdefault(one.actor, Counter())[one.kind] += 1
    yield Section(
        "findings by actor",
        "",
        columns_of(("actor", ID), *((kind, COUNT) for kind in KINDS)),
        [(actor, *(found[kind] for kind in KINDS)) for actor, found in sorted(by_actor.items())],
        Chart(ChartKind.MATRIX, "actor", KINDS),
    )
    yield Section(
        "findings",
        "Positions are of the log of reads; count: records. Without any: nothing was done, which is what was found.",
        columns_of(
            ("kind", ID), ("actor", ID), ("subjects", Kind.IDS), ("first_position", COUNT), ("last_position", COUNT),
            ("count", COUNT), "rule",
        ),
        [
            (one.kind, one.actor, one.subjects, one.first_position, one.last_position, one.count, one.rule)
            for one in findings
        ],
    )  # fmt: skip


def _own_ties(found: AccessReview, question: Question) -> Section:
    own, tied = found.own_ties.own, found.own_ties.tied
    return Section(
        "Own ties",
        "Of the subjects whom each actor read one at a time with a tie to them: to how many nothing ties him but what "
        "he recorded himself, and on how many days he read the one of them whom he read most often. One own tie is no "
        "finding: most who answer a call record it themselves.",
        columns_of(
            ("actor", ID), ("subjects", COUNT), ("by own records only", COUNT), ("share", SHARE),
            ("most days on one", COUNT), ("whom", ID),
        ),
        [
            (actor, len(subjects), len(mine), (len(mine), len(subjects)), len(mine[most]) if most else 0, most)
            for actor, subjects in sorted(tied.items())
            if question.actor in (None, actor)
            for mine in [own.get(actor, {})]
            for most in [max(mine, key=lambda one: (len(mine[one]), one), default=None)]
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
        columns_of(("policy", ID), ("role", ID), ("purpose", ID), ("right", ID), ("rule", ID)),
        rows,
    )
    yield Section(
        "Roles",
        "With no holder: a role of nobody.",
        columns_of(("role", ID), ("policies", ID), ("holders", COUNT), ("who used it", COUNT), ("actors", ID)),
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

    for kind in fact_kinds():
        name = kind.stored_name
        others = sorted({mark.of for mark in kind.personal_fields.values() if mark.of})  # an event may be about two
        for metadata, *subjects in scanned(kind, "metadata", "subject_id", *others):
            at_us, actor = metadata[RECORDED_US], metadata[ACTOR]
            behalf = metadata[ON_BEHALF_OF]
            for subject in subjects:
                if subject is not None:
                    found.command(actor, subject, at_us, name)
                    if behalf is not None:
                        found.command(behalf, subject, at_us, name)
            if at_us < until_us:
                usage.active(actor, at_us)
                if at_us >= question.since_us:
                    usage.fact(actor, metadata[PURPOSE], name, at_us)
    for request, subject, metadata in scanned(RequestReceived, "event_id", "subject_id", "metadata"):
        found.request(request, subject, metadata[RECORDED_US], metadata[ACTOR])
    for request, metadata in scanned(RequestCompleted, "request_id", "metadata"):
        found.answered(request, metadata[RECORDED_US])
    for _, event in events_of(core, question, TicketOpened, TicketAssigned, TicketClosed):
        ticket, at_us = event.originator_id.bytes, event.metadata.recorded_us
        if isinstance(event, TicketOpened):
            assert event.subject_id is not None
            found.opened(ticket, event.subject_id.bytes, at_us, event.metadata.actor)
        elif isinstance(event, TicketAssigned):
            found.assigned(ticket, event.owner, at_us, event.metadata.actor)
        else:
            found.ended(ticket, at_us)
    for kind in (CustomerRegistered, CustomerChanged):
        names = ["subject_id", "owner", "metadata", "effective_us", *(["cleared"] if kind is CustomerChanged else [])]
        for subject, owner, metadata, effective_us, *cleared in scanned(kind, *names):
            if owner is not None or any("owner" in one for one in cleared):
                found.owner(subject, owner, metadata[RECORDED_US], metadata[ACTOR], effective_us)
    found.settle()
    return found
