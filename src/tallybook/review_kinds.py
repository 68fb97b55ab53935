"""What the reviews share: the question, the registry of those that there are, and what several of them read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from tallybook.adapters import integrity
from tallybook.adapters.policy_files import decider_of
from tallybook.adapters.reports import Chart, ChartKind, Column, Kind, Section
from tallybook.domain.customer import (
    CustomerRegistered,
)
from tallybook.domain.erasure import DESTROYING, SubjectErased
from tallybook.domain.errors import BookDamaged
from tallybook.domain.events import REGISTRY, Event, Metadata
from tallybook.domain.privacy import (
    ConsentConfirmed,
    ConsentGranted,
    ConsentWithdrawn,
    Objected,
    RequestCompleted,
    RequestReceived,
)
from tallybook.projections.access_review import (
    ConsentsKnown,
    Policies,
    Thresholds,
)
from tallybook.projections.read_models import Recorded

from .core import Core
from .policy_names import ACTIONS
from .times import iso

ACTOR, PURPOSE, ON_BEHALF_OF = (list(Metadata.model_fields).index(one) for one in ("actor", "purpose", "on_behalf_of"))
"""Where they stand in the metadata that a scan of the log gives."""
ALWAYS_US = -(2**62)

CONSENT_FACTS = (ConsentGranted, ConsentConfirmed, ConsentWithdrawn, Objected)
NAME, ID, TIME, COUNT, SHARE = Kind.TEXT, Kind.ID, Kind.TIME, Kind.COUNT, Kind.SHARE


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: times in µs, `until_us` excluded; heads of both logs, beyond which nothing is looked at.

    The record of the review itself is within them, where it opens nothing.
    """

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


PREFIX = "audit.review."
"""What the actions of all reviews begin with."""
REVIEWS: dict[str, ReviewKind] = {}
"""All reviews, by name."""


def answers(
    name: str, title: str, about: str, takes: str = "", needs: str = "", *, opens: bool = False
) -> Callable[[Answer], Answer]:
    def register(answer: Answer) -> Answer:
        taken = frozenset([*takes.split(), *needs.split()])
        ACTIONS[f"{PREFIX}{name}"] = title[:1].lower() + title[1:]
        REVIEWS[name] = ReviewKind(name, title, about, taken, frozenset(needs.split()), answer, opens)
        return answer

    return register


def columns_of(*named: tuple[str, Kind] | str) -> tuple[Column, ...]:
    return tuple(Column(one) if isinstance(one, str) else Column(*one) for one in named)


def bars_of(label: str, *values: str) -> Chart:
    return Chart(ChartKind.BARS, label, values)


def events_of(core: Core, question: Question, *kinds: type[Event]) -> Iterator[Recorded]:
    """All events of some kinds, in order."""
    names = [kind.stored_name for kind in kinds]
    return core.app.decode(core.app.log.iterate(stop=question.events_head, topics=names))


def reads_of(core: Core, question: Question) -> Iterator[Recorded]:
    """The records of the log of reads, in order: those from before the question."""
    return core.app.decode(core.gate.reads.iterate(stop=question.reads_head))


def policies_of(core: Core) -> Policies:
    found = Policies(decider_of, core.policy_id)
    for recorded in core.stream(core.policy_id):
        found.add(recorded.event)
    return found


def consents_known(core: Core, question: Question) -> ConsentsKnown:
    found = ConsentsKnown()
    for _, event in events_of(core, question, *CONSENT_FACTS):
        found.add(event.metadata.recorded_us, event)
    return found


def customers_by_kind(core: Core) -> Counter[str]:
    """How many customers of each kind were ever registered."""
    return Counter(kind for _, (kind,) in core.app.scan(CustomerRegistered, ["kind"]))


def erasures_of(core: Core, question: Question) -> dict[UUID, list[Recorded]]:
    """Who was erased, with the events of it."""
    found: dict[UUID, list[Recorded]] = {}
    for recorded in events_of(core, question, SubjectErased):
        assert recorded.event.subject_id is not None
        found.setdefault(recorded.event.subject_id, []).append(recorded)
    return found


class Answered(NamedTuple):
    """Whether a request was answered in time, and when that was recorded: an answer that is typed in later, whatever
    time it is given, was not shown to be in time."""

    in_time: str
    recorded_us: int | None


def answered(events: Iterable[Event], now_us: int) -> dict[UUID, Answered]:
    """Of each request among events, how it was answered."""
    due: dict[UUID, int] = {}
    found: dict[UUID, Answered] = {}
    for event in events:
        if isinstance(event, RequestReceived):
            due[event.event_id] = event.due_us
            found[event.event_id] = Answered("overdue" if event.due_us < now_us else "open", None)
        elif isinstance(event, RequestCompleted):
            at_us = event.metadata.recorded_us
            found[event.request_id] = Answered("in time" if at_us <= due[event.request_id] else "late", at_us)
    return found


def keys_of(event: Event) -> tuple[int, ...]:
    return event.key_ids if isinstance(event, DESTROYING) else ()


def proofs_of(core: Core, positions: Sequence[int]) -> dict[int, str]:
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


def verified_logs(core: Core) -> Section:
    """What `audit verify` says of both logs."""
    rows: list[tuple[object, ...]] = []
    for log, checkpoints in core.checkpoints.items():
        kept = checkpoints if core.storage.vkey is not None else None
        one = integrity.verify(log, checkpoints.log, None, checkpoints=kept)
        last = checkpoints.last() if kept is not None else None
        rows.append(
            (
                log, one.size, one.root, "verified" if one.holds else "ALTERED", one.problem,
                None if last is None else last.size, None if last is None else iso(last.signed_us),
                None if last is None else max(one.size - last.size, 0),
            )
        )  # fmt: skip
    return Section(
        "Logs verified",
        "Roots recomputed from the stored bytes, and compared with heads, tiles and the checkpoints that the book "
        "keeps. Only a checkpoint that was kept elsewhere shows that nobody rewrote all of these.",
        columns_of(
            ("log", ID), ("leaves", COUNT), ("root", ID), "verdict", "problem", ("last checkpoint", COUNT),
            ("signed_at", TIME), ("leaves since", COUNT),
        ),
        rows,
    )  # fmt: skip


def held_categories(core: Core, question: Question) -> list[str]:
    """The categories of personal data that some event of the log holds."""
    found: set[str] = set()
    for schema in REGISTRY.values():
        kind = schema.event_class
        wanted = {mark.category.value for mark in kind.personal_fields.values()} - found
        if not wanted:
            continue
        for _, event in events_of(core, question, kind):
            found.update(
                mark.category.value for name, mark in kind.personal_fields.items() if getattr(event, name) is not None
            )
            if wanted <= found:
                break
    return sorted(found)
