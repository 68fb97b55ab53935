"""`book.audit.review`: what auditors, supervisors and data subjects ask, each answered by one report.

A review reads both logs once or twice from end to end, keeps figures by actor, subject and purpose, and is itself on
record in the log of reads. docs/reviews.md says what each answers, and defines what it counts.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from uuid import UUID

from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.reports import Report, Section
from tallybook.domain.errors import refusal, text, whole
from tallybook.projections.access_review import (
    Finding,
    Thresholds,
)

from . import reviews_of_data, reviews_of_use  # noqa: F401 - they register what they answer
from .core import Core
from .customers import as_id
from .review_kinds import (
    ALWAYS_US,
    PREFIX,
    REVIEWS,
    Question,
)
from .times import When, as_of_us, iso, moment_us


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
        f"{PREFIX}{name}",
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
    if question.since_us >= question.until_us:
        raise refusal("invalid_argument", "since: lies after the end of the period.", argument="since")
    if not kind.opens:
        about = [] if question.subject is None else [question.subject]
        core.gate.record(acting, question.action, about, [])
        # Whoever asks acts, too: his own record counts.
        question = replace(question, reads_head=core.gate.reads.position())
    with rarely_collecting():
        sections = tuple(kind.answer(core, question))
    pruned = core.checkpoints["reads"].log.pruned().position
    made_of = {
        "book": core.origin,
        "review": name,
        "events up to": str(question.events_head),
        **({"records of reads pruned up to": str(pruned)} if pruned else {}),
        "records of reads up to": str(question.reads_head),
        **{one: str(value) for one, value in given.items() if value is not None and one != "thresholds"},
        "asked by": acting.actor,
        "purpose": acting.purpose,
    }
    told = kind.about
    if question.actor is not None and not _occurs(core, question.actor):
        told += f" NOBODY OF THIS NAME: no record in the book names {question.actor!r} as an actor."
    return Report(kind.title, iso(now_us) or "", made_of, (Section("About", told), *sections))


def _occurs(core: Core, actor: str) -> bool:
    """Whether anything on record names an actor: who did it, whom he acted for, who got a role."""
    for checkpoints in core.checkpoints.values():
        log = checkpoints.log
        for position in log.holding(actor.encode()):
            for _, event in core.app.decode(log.iterate(position - 1, stop=position)):
                told = event.metadata
                if actor in (told.actor, told.on_behalf_of, getattr(event, "actor", None)):
                    return True
    return False


def _since_us(since: When) -> int:
    """A plain date means from its beginning on, in UTC."""
    if isinstance(since, str) and len(since) == len("2025-12-31"):
        since = f"{since}T00:00:00Z"
    return moment_us(since, "since")


__all__ = ["REVIEWS", "Finding", "Thresholds", "review"]
