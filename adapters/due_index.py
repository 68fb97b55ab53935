"""When time alone next does something to an account: noted, so that a sweep leaves those alone to whom it does nothing.

A note says what an account's events up to a version and a number of adoptions add up to. Neither of them ever changes:
so it is right as long as the account stands at that version and the book knows no further adoption, and one that is not
of today is seen to be so. An account without a note is loaded. One that the book did not write is no note: each bears
an HMAC under a key that is not in the database, so that whoever can write there can't keep points from expiring.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from eventsourcing.persistence import PersistenceError

from tallybook.domain.control import RuleBook
from tallybook.domain.errors import TallybookError
from tallybook.domain.loyalty import LoyaltyAccount
from tallybook.domain.points import Enrolled
from tallybook.projections.read_models import Table

from .database import Database
from .form import known_uuid
from .packing import packer
from .snapshots import current_form

DUE_INDEX = Table(
    "due_index",
    (
        ("account", "blob"),
        ("version", "integer"),
        ("adoptions", "integer"),
        ("quiet_until_us", "integer"),
        ("form", "blob"),
        ("checksum", "blob"),
    ),
    ("account",),
)
_DEFINITION = (
    "CREATE TABLE IF NOT EXISTS due_index (account {blob} PRIMARY KEY, version {integer} NOT NULL, "
    "adoptions {integer} NOT NULL, quiet_until_us {integer} NOT NULL, form {blob} NOT NULL, checksum {blob} NOT NULL)"
    "{compact}"
)
FORM_BYTES = 8
CHECKSUM_BYTES = 16
CHUNK = 10_000
"""How many accounts are looked at in one statement."""

LOOKED_UP = 500
"""How many versions are looked up in one statement."""

_FAILURES = (PersistenceError, TallybookError)
"""With these, notes are not written, or taken for none: their accounts are loaded once more."""


class Note(NamedTuple):
    """Up to `quiet_until_us`, exclusive, time alone does nothing to an account at a version, by so many adoptions."""

    account: bytes
    version: int
    adoptions: int
    quiet_until_us: int


class Enrolment(NamedTuple):
    """An account, the last version of its stream, and its note, if there is one that the book wrote."""

    account: bytes
    version: int
    note: Note | None

    def is_quiet(self, adoptions: int, until_us: int) -> bool:
        """Whether nothing is due up to a moment, as the book knows so many adoptions."""
        note = self.note
        return (
            note is not None
            and (note.version, note.adoptions) == (self.version, adoptions)
            and note.quiet_until_us > until_us
        )


@dataclass(frozen=True, slots=True)
class DueReport:
    """Notes compared with what is due by the events. Those that are not of today, and so do no harm, were skipped, and
    those of accounts that can't be read.

    `wrong` are accounts to which time does something before the moment that is noted. `foreign`: how many notes are not
    as the book wrote them.
    """

    compared: int
    skipped: int
    wrong: tuple[UUID, ...]
    foreign: int


class DueIndex:
    """The notes of a book, in the database of its log. `key` must not lie there: it tells ours from others."""

    def __init__(self, database: Database, key: bytes, events_table: str) -> None:
        self._database = database
        self._key = key
        # By an index of the log that holds nothing else; the latest version of each is a look-up in another one.
        enrolled = (
            f"SELECT originator_id, (SELECT MAX(originator_version) FROM {events_table} "  # noqa: S608 - names of ours
            f"WHERE originator_id=enrolled.originator_id){{}} FROM {events_table} AS enrolled{{}} "
            f"WHERE topic='{Enrolled.stored_name}' AND originator_id>? ORDER BY originator_id LIMIT {CHUNK}"
        )
        self._versions = (
            f"SELECT column1, (SELECT MAX(originator_version) FROM {events_table} "  # noqa: S608 - names of ours
            "WHERE originator_id=column1) FROM (VALUES {}) AS streams"
        )
        self._select_plain = enrolled.format("", "")
        self._select = enrolled.format(
            ", version, adoptions, quiet_until_us, checksum",
            " LEFT JOIN due_index ON account=originator_id AND form=?",
        )

    def enrolments(self) -> Iterator[Enrolment]:
        """All accounts that are enrolled, in the order of their ids. Each as of a moment after this was called."""
        after = b""
        while True:
            rows = self._rows(after)
            for account, version, *noted in rows:
                yield Enrolment(account, version, self._note(account, noted) if noted else None)
            if len(rows) < CHUNK:
                return
            after = rows[-1][0]

    def _rows(self, after: bytes) -> list[tuple[Any, ...]]:
        if self._database.has_table(DUE_INDEX.name):
            with suppress(*_FAILURES):
                return self._database.rows(self._select, [_form(), after])
        return self._database.rows(self._select_plain, [after])

    def write(self, notes: Iterable[Note]) -> None:
        """Keep notes in the place of those before, if they can be written.

        Not of accounts that have not come so far: a server that took over may have lost what a note is about, and what
        comes in its place would be taken for that.
        """
        sealed, form, noted = self._sealed, _form(), list(notes)
        with suppress(*_FAILURES):
            missing = not self._database.has_table(DUE_INDEX.name)
            with self._database.session(write=True) as session:
                if missing:
                    session.define(_DEFINITION)
                for start in range(0, len(noted), LOOKED_UP):
                    some = noted[start : start + LOOKED_UP]
                    asked = self._versions.format(", ".join(["(?)"] * len(some)))
                    there = dict(session.rows(asked, [one.account for one in some]))
                    rows = [(*one[:4], form, sealed(one)) for one in some if one.version <= (there[one.account] or 0)]
                    session.upsert(DUE_INDEX, rows)

    def drop_all(self) -> None:
        """Drop all notes. Refuses: busy."""
        if self._database.has_table(DUE_INDEX.name):
            with self._database.session(write=True) as session:
                session.run("DELETE FROM due_index")

    def check(self, load: Callable[[UUID], LoyaltyAccount], rule_book: RuleBook) -> DueReport:
        """Compare all notes of today with what is due to their accounts under the rule book of today."""
        compared = skipped = 0
        wrong: list[UUID] = []
        for account, version, note in self.enrolments():
            if note is None:
                continue
            skipped += 1
            if (note.version, note.adoptions) != (version, len(rule_book)):
                continue
            account_id = known_uuid(account)
            with suppress(TallybookError):  # what is wrong with a stream, others tell
                due_us = load(account_id).quiet_until_us(rule_book, note.quiet_until_us)
                compared, skipped = compared + 1, skipped - 1
                if due_us < note.quiet_until_us:
                    wrong.append(account_id)
        return DueReport(compared, skipped, tuple(wrong), self._foreign())

    def _foreign(self) -> int:
        if not self._database.has_table(DUE_INDEX.name):
            return 0
        rows = self._database.rows(
            "SELECT account, version, adoptions, quiet_until_us, checksum FROM due_index WHERE form=?", [_form()]
        )
        return sum(self._note(account, noted) is None for account, *noted in rows)

    def _note(self, account: bytes, noted: Sequence[Any]) -> Note | None:
        *values, checksum = noted
        if checksum is None:
            return None
        note = Note(account, *values)
        return note if type(checksum) is bytes and hmac.compare_digest(checksum, self._sealed(note)) else None

    def _sealed(self, note: Note) -> bytes:
        return hmac.digest(self._key, _form() + packer()(note), "sha256")[:CHECKSUM_BYTES]


def _form() -> bytes:
    """What the notes depend on beside events and adoptions: the code that decides."""
    return current_form()[:FORM_BYTES]
