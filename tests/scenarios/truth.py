"""What a review found, held against what was planted: nothing missed, nothing false."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from tallybook import Book
from tallybook.adapters.reports import as_json

from .misdeeds import BULK, KINDS, OWN_TIES, Misdeed, drawn
from .office import AUDIT, NONE, Office, at_us, played
from .outsider import Outsider

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of the review. `subjects`: None, if it names none."""

    kind: str
    actor: str
    subjects: frozenset[UUID] | None
    first: int | None
    last: int | None
    count: int
    rule: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What does not agree: texts, empty if all does."""

    missed: tuple[str, ...]
    false: tuple[str, ...]


def review(book: Book) -> list[Finding]:
    """What the access review of a book finds."""
    with book.acting("auditor:eve", purpose=AUDIT):
        report = json.loads(as_json(book.audit.review("access-review")))
    return findings_of(report)


def told_as_seen(book: Book, truth: Sequence[Misdeed], office: Office) -> list[str]:
    """Whom the exposure of honest people names though they were erased before anybody looked; what a compliance audit
    counts as a read that no policy decided, though the book read for itself."""
    wrong = []
    for actor in sorted(office.late - {one.actor for one in truth}):
        with book.acting("auditor:eve", purpose=AUDIT):
            report = json.loads(as_json(book.audit.review("exposure", actor=actor)))
        [section] = [one for one in report["sections"] if one["title"] == "Subjects"]
        names = [one["name"] for one in section["columns"]]
        rows = [dict(zip(names, cells, strict=True)) for cells in section["rows"]]
        seen = {UUID(row["subject"]) for row in rows if row["reads"]} & office.unseen
        if seen:
            wrong.append(f"exposure of {actor}: {len(seen)} customers were erased before he looked")
    with book.acting("auditor:eve", purpose=AUDIT):
        report = json.loads(as_json(book.audit.review("compliance-audit", since=_iso(at_us(0, 0)))))
    [section] = [one for one in report["sections"] if one["title"] == "Coverage"]
    [(covered, of)] = [row[2:4] for row in section["rows"] if row[0] == "reads decided by an access policy"]
    if office.kind != NONE and not office.gaps and covered != of:
        wrong.append(f"compliance-audit: of {of} reads, {of - covered} were decided by no policy")
    return wrong


def _iso(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat()


def findings_of(report: dict[str, Any]) -> list[Finding]:
    """The findings of a report."""
    [section] = [one for one in report["sections"] if one["title"].lower() == "findings"]
    names = [one["name"] for one in section["columns"]]
    found = []
    for cells in section["rows"]:
        row = dict(zip(names, cells, strict=True))
        ids = frozenset(UUID(one) for one in _ID.findall(str(row["subjects"] or "")))
        assert row["kind"] in KINDS, f"an unknown kind of finding: {row['kind']}"
        found.append(
            Finding(
                row["kind"],
                row["actor"],
                ids or None,
                row["first_position"],
                row["last_position"],
                row["count"],
                row["rule"],
            )
        )
    return found


def compare(truth: Sequence[Misdeed], found: Sequence[Finding], office: Office) -> Verdict:
    """Whether each misdeed was found as what it is, with all its subjects, and each finding is of one."""
    looked = {actor: _honestly_seen(office, actor) for actor in {one.actor for one in truth}}
    return Verdict(tuple(_missed(truth, found)), tuple(_false(truth, found, looked)))


def _missed(truth: Iterable[Misdeed], found: Sequence[Finding]) -> Iterable[str]:
    for deed in truth:
        for kind in sorted(deed.kinds):
            fitting = [one for one in found if one.kind == kind and one.actor == deed.actor]
            named = frozenset[UUID]().union(*(one.subjects or () for one in fitting))
            if not fitting:
                yield f"{deed.name}: no {kind} of {deed.actor}"
            elif deed.subjects - named and all(one.subjects is not None for one in fitting):
                yield f"{deed.name}: {kind} of {deed.actor} lacks {len(deed.subjects - named)} of {len(deed.subjects)}"


def _false(truth: Sequence[Misdeed], found: Iterable[Finding], looked: dict[str, frozenset[UUID]]) -> Iterable[str]:
    for one in found:
        deeds = [deed for deed in truth if deed.actor == one.actor and one.kind in deed.kinds | deed.may]
        if not deeds:
            yield f"{one.kind} of {one.actor}: {one.rule} ({one.count}, positions {one.first} to {one.last})"
            continue
        planted = frozenset[UUID]().union(*(deed.subjects for deed in deeds))
        if one.kind in (BULK, OWN_TIES):
            planted |= looked[one.actor]  # a day's, or a week's, honest looks stand between those of the walk
        if one.subjects is not None and all(deed.subjects for deed in deeds) and one.subjects - planted:
            yield f"{one.kind} of {one.actor} names {len(one.subjects - planted)} of {len(one.subjects)} without reason"


def _honestly_seen(office: Office, actor: str) -> frozenset[UUID]:
    return frozenset(client for step in office.steps if step.actor == actor for client in step.look)


IN_MEMORY = Path("/dev/shm")
OUTSIDERS = 0.25
"""In how many of the offices an outsider alters a row."""


def one(seed: int) -> tuple[int, Counter[str], Verdict]:
    """What was planted by a seed, and what does not agree."""
    office, mischief = drawn(seed)
    outsider = Outsider(office, str(seed)) if Random(f"{seed}/outsider comes").random() < OUTSIDERS else None
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        url = "memory:" if outsider is None else f"sqlite:///{folder}/office.book"
        with played(office.steps, Path(folder), url, seed=str(seed)) as book:
            found = review(book)
            seen = told_as_seen(book, mischief.truth, office)
            altered = [] if outsider is None else outsider.missed(book)
    planted = Counter(kind for deed in mischief.truth for kind in deed.kinds)
    planted["altered row"] += outsider is not None and outsider.truth.position is not None
    verdict = compare(mischief.truth, found, office)
    return seed, planted, Verdict((*verdict.missed, *altered), (*verdict.false, *seen))
