"""What becomes of an attack: which defence finds it, and where; or that no answer changes; or that it is missed."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tallybook import Book, TallybookError
from tallybook.domain.control import WrappingKeyRotated

from .attacks import Attack, draw
from .victim import NOW_US, Clock, Ids, Template, asked, copy, opened, right, short_streams

NAMED, FOUND, AGAINST = "verify names it", "verify finds it", "found against a checkpoint kept elsewhere"
LIMIT = "nothing can tell: what a killed process had not signed is gone"
DOCTOR, OPENING, REFUSED = "doctor finds it", "the book is not opened", "a question or command is refused"
AGAIN = "destroyed again: as the book records"
HARMLESS, MISSED = "harmless: no answer changes", "MISSED"
TELL_OF_ALL_EVENTS = {"position", "trail", "subject report", "proofs", "follow", "replay", "cloudevents", "ocsf"}
"""Answers that are others once the book has recorded something."""
OUTCOMES = (NAMED, FOUND, AGAINST, DOCTOR, OPENING, REFUSED, AGAIN, HARMLESS, LIMIT, MISSED)


@dataclass(slots=True)
class Tally:
    """What became of many attacks: by kind; and what was missed, told."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)

    def __iadd__(self, other: Tally) -> Tally:
        self.outcomes += other.outcomes
        self.missed += other.missed
        return self

    def table(self) -> str:
        """By kind of attack."""
        kinds = sorted({kind for kind, _ in self.outcomes})
        lines = [f"{'':48}" + "".join(f"{one.split(':')[0][:18]:>20}" for one in OUTCOMES)]
        lines += [f"{kind:48}" + "".join(f"{self.outcomes[kind, one] or '':>20}" for one in OUTCOMES) for kind in kinds]
        sums = [sum(self.outcomes[kind, one] for kind in kinds) for one in OUTCOMES]
        return "\n".join([*lines, f"{'all':48}" + "".join(f"{one or '':>20}" for one in sums)])


def judge(book_of: Template, folder: Path, attack: Attack) -> tuple[str, str]:
    """What finds an attack, and what it says."""
    ids = Ids()
    try:
        with opened(folder, Clock(NOW_US), ids) as book:
            return _verdict(book_of, book, ids, attack)
    except TallybookError as error:
        return OPENING, str(error)
    except Exception as error:  # noqa: BLE001 - any other error is what must not be
        return MISSED, f"{type(error).__name__}: {error}"


def _verdict(book_of: Template, book: Book, ids: Ids, attack: Attack) -> tuple[str, str]:
    for one in book.audit.verify():
        if one.problem is not None:
            if attack.insider:
                return FOUND, one.problem
            if attack.log == one.log and attack.position is not None and one.position is not None:
                if one.position != attack.position:
                    return MISSED, f"{one.problem}: but it is {attack.position}"
                return NAMED, one.problem
            return FOUND, one.problem
    if attack.log is not None:
        for one in book.audit.verify(against=book_of.kept[attack.log]):
            if one.problem is not None and attack.insider:
                return AGAINST, one.problem
        return MISSED, "verify finds nothing"
    for model in book.audit.verify_read_models():
        if not model.holds:
            return FOUND, repr(model)
    findings = [one for one in book.doctor() if one.state != "ok" and one.name != "versions"]
    if findings:
        return DOCTOR, findings[0].what
    refused = ""
    added = list(book.follow(int(book_of.answers["position"]), timeout_s=0))
    # A tombstone was gone: the opening destroyed the key once more, and changed what older copies are under.
    again = bool(added) and all(isinstance(one.event, WrappingKeyRotated) for one in added)
    for name, told, error in asked(book, ids):
        if again and name in TELL_OF_ALL_EVENTS:
            continue
        if not right(name, told, book_of.answers[name]):
            if not error:
                return (
                    (REFUSED, refused) if refused else (MISSED, f"{name}: {_difference(told, book_of.answers[name])}")
                )
            refused = refused or f"{name}: {told}"
    return (REFUSED, refused) if refused else (AGAIN, repr(added)) if again else (HARMLESS, "")


def _difference(told: str, right: str) -> str:
    at = next((at for at, (one, other) in enumerate(zip(told, right, strict=False)) if one != other), len(right))
    return f"{told[max(0, at - 60) : at + 60]!r}, not {right[max(0, at - 60) : at + 60]!r}"


def campaign(book_of: Template, seed: str, count: int, scratch: Path) -> Tally:
    """Attack a book so many times, each a copy of its own."""
    tally = Tally()
    number = 0
    with short_streams():
        while tally.outcomes.total() < count:
            number += 1
            folder = scratch / f"{number}"
            copy(book_of.folder, folder)
            drawn = draw(Random(f"{seed}/{number}"), folder)
            if drawn is not None:
                kind, attack = drawn
                outcome, told = judge(book_of, folder, attack)
                tally.outcomes[kind, outcome] += 1
                if outcome == MISSED:
                    tally.missed.append(f"{seed}/{number}: {kind}: {attack.what[:300]}: {told[:500]}")
            shutil.rmtree(folder)
    return tally
