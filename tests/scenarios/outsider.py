"""Somebody who is not of the office, and writes in the database itself: alters one row, between two audits."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tallybook import Book

from .office import AUDIT, DAYS, Office, Step, at_us, is_weekday

TABLES = {"events": ("office.book", "stored_events"), "reads": ("office.book.reads", "access_records")}
WAYS = {
    "what was bought": ("events", "customer.purchase_recorded", b"lamp", b"limp"),
    "why somebody was erased": ("events", "customer.erased", b"gdpr-17", b"gdpr-71"),
    "what an auditor looked at": ("reads", "access.personal_data_read", b"audit.trail", b"audit.trial"),
}
"""What is altered: the log, whose rows, and which bytes for which: of equal length, so that all can still be read."""


@dataclass(slots=True)
class Alteration:
    """One altered row, once it is done."""

    name: str
    log: str
    position: int | None = None


class Outsider:
    """Draws an alteration, and plans it into an office that is played on files, with an audit before and one after."""

    def __init__(self, office: Office, seed: str, name: str | None = None) -> None:
        self.random = Random(f"{seed}/outsider")
        chosen = name or self.random.choice(list(WAYS))
        self.office = office
        self.truth = Alteration(chosen, WAYS[chosen][0])
        day = self.random.choice([one for one in range(100, DAYS - 10) if is_weekday(one)])
        self.before: list[dict[str, str]] = []
        office.steps.append(Step(at_us(day, 600), "auditor:eve", AUDIT, self._audit))
        self.altering = Step(at_us(day + 1, 200), "nobody", "none", self._alter)
        office.steps.append(self.altering)

    def _audit(self, book: Book) -> None:
        for log in TABLES:
            book.audit.checkpoint(log)
        self.before.append(verdicts(book))

    def _alter(self, book: Book) -> None:
        file, table = TABLES[self.truth.log]
        _, topic, old, new = WAYS[self.truth.name]
        folder = Path(book._core.app.database.place).parent
        with closing(sqlite3.connect(folder / file)) as raw, raw:
            rows = raw.execute(f"SELECT position, state FROM {table} WHERE topic=?", [topic]).fetchall()
            fitting = [(position, state) for position, state in rows if old in state]
            if fitting:
                self.truth.position, state = self.random.choice(fitting)
                found = [state.replace(old, new), self.truth.position]
                raw.execute(f"UPDATE {table} SET state=? WHERE position=?", found)
                self.office.altered = self.truth.log == "events"

    def missed(self, book: Book) -> list[str]:
        """What does not agree: with the audit before, with `audit verify`, and with the reviews that show evidence."""
        wanted = dict.fromkeys(TABLES, "verified")
        told = [f"before the outsider came: {one}" for one in self.before if one != wanted]
        if self.truth.position is not None:
            wanted[self.truth.log] = "ALTERED"
        for name in ("compliance-audit", "erasure-evidence"):
            found = verdicts(book, name)
            if found != wanted:
                told.append(f"{self.truth.name}: {name} says {found}")
        for one in book.audit.verify():
            position = self.truth.position if one.log == self.truth.log else None
            if one.position != position or one.holds is not (position is None):
                told.append(f"{self.truth.name}: verify says {one}, and {self.truth.position} was altered")
        return told


def verdicts(book: Book, name: str = "compliance-audit") -> dict[str, str]:
    """What a review says of both logs."""
    with book.acting("auditor:eve", purpose=AUDIT):
        report: dict[str, Any] = json.loads(book.audit.review(name).json())
    [section] = [one for one in report["sections"] if one["title"] == "Logs verified"]
    names = [one["name"] for one in section["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in section["rows"]]
    return {row["log"]: row["verdict"] for row in rows}
