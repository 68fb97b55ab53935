"""Attacks on what is newer than the last checkpoint: of a book that is open, and of one whose process was killed."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.heads import Head, head_in

from tallybook import Book, TallybookError
from tallybook.adapters.merkle import Frontier

from .attacks import LOGS, MACS, add_row, cut, fit, fit_tiles, flip_at, run
from .judge import AGAINST, FOUND, LIMIT, MISSED, Tally, campaign
from .victim import ADA, NOW_US, Clock, Ids, Template, copy, opened, short_streams, template


@dataclass(slots=True)
class Tail:
    """A book in the middle of its work. What he knows who attacks it: its files, and each head that it had lately."""

    folder: Path
    log: str
    heads: list[Head]
    signed: int
    """The size of the last checkpoint."""
    twin: Path | None
    """A copy of the book that went another way after its last checkpoint."""
    other: Book | None = None
    """Another process's: it saw the first of the heads, and none after."""

    @property
    def file(self) -> Path:
        """The log's."""
        return self.folder / LOGS[self.log][0]

    @property
    def table(self) -> str:
        """The log's."""
        return LOGS[self.log][1]

    @property
    def end(self) -> int:
        """Its position."""
        return self.heads[-1][0]


Way = Callable[[Random, Tail], str | None]
"""Does it; what was done, or None, if it came to nothing."""


def _mac(random: Random, at: Tail) -> str:
    mac = random.choice([*MACS, *(f"'{one[3]}'" for one in at.heads[-3:])])
    if mac is not None:
        run(at.file, (f"UPDATE head SET mac={mac} WHERE log=?", [at.table]))
    return mac or "the MAC of before"


def _fitted(random: Random, at: Tail) -> str:
    fit(at.folder, at.log, tiles=random.random() < 0.5)
    return f"a head that fits, with {_mac(random, at)}"


def add(random: Random, at: Tail) -> str:
    """Append events of clear fields with a fitting head, as one who knows the format and has no keys."""
    count = random.randrange(1, 4)
    for _ in range(count):
        add_row(at.file, at.table, random.randrange(1, at.end + 1), random.randbytes(16))
    return f"{count} events added, {_fitted(random, at)}"


def set_back(random: Random, at: Tail) -> str:
    """Put an older head back and delete the tail."""
    return cut(at.folder, at.log, random.choice(at.heads[:-1]), everything=random.random() < 0.7)


def drop(random: Random, at: Tail) -> str:
    """Delete the last events, with a head that fits."""
    left = random.randrange(at.signed, at.end)
    run(at.file, (f"DELETE FROM {at.table} WHERE position>?", [left]))
    return f"cut after {left}, {_fitted(random, at)}"


def alter(random: Random, at: Tail) -> str | None:
    """Alter an unsigned event, alone or with a head that fits."""
    position = random.randrange(at.signed + 1, at.end + 1)
    told = flip_at(random, at.file, at.table, position)
    return told and f"{told}, {_fitted(random, at) if random.random() < 0.5 else 'alone'}"


def empty(random: Random, at: Tail) -> str:
    """Set the log back to an empty one."""
    run(at.file, f"DELETE FROM {at.table}", ("DELETE FROM checkpoints WHERE log=?", [at.table]))
    fit(at.folder, at.log)
    return f"emptied, with {_mac(random, at)}"


def replace(random: Random, at: Tail) -> str:
    """Put what a copy of the book became in its place: genuine, and another history."""
    assert at.twin is not None
    other = at.twin / at.file.name
    tables = [at.table, "head", "checkpoints"]
    statements: list[str | tuple[str, list[object]]] = []
    for table in tables:
        where = "" if table == at.table else f" WHERE log='{at.table}'"
        statements += [
            f"DELETE FROM main.{table}{where}",
            f"INSERT INTO main.{table} SELECT * FROM twin.{table}{where}",
        ]
    run(at.file, ("ATTACH ? AS twin", [str(other)]), *statements)
    if random.random() < 0.5:
        fit_tiles(at.folder, at.log)
    return "replaced by what a copy became"


def fork(random: Random, at: Tail) -> str:
    """Put an older head back, and have another process that saw no newer one go on from there with its keys."""
    assert at.other is not None
    told = cut(at.folder, at.log, random.choice(at.heads[:-1]), everything=random.random() < 0.7)
    for _ in range(random.randrange(1, 4)):
        with suppress(TallybookError):  # it may find what followed the log and is ahead of it now
            work(at.other, random)
    return f"{told}, and gone on with up to position {head_in(at.file, at.table)[0]}"


FORK = "put an older head back, and have another process go on"

WAYS: dict[str, tuple[Way, bool]] = {
    "add events with a head that fits": (add, True),
    "put an older head back, delete the tail": (set_back, True),
    "cut the tail, with a head that fits": (drop, True),
    "alter the tail": (alter, True),
    "set a log back to an empty one": (empty, True),
    "replace the tail by another genuine one": (replace, False),
    FORK: (fork, False),
}
"""Kinds of attacks, and whether they are tried on a book that is not open too."""


def work(book: Book, random: Random, after: Callable[[], object] = lambda: None) -> None:
    """Commit to both logs, several times."""
    for number in range(random.randrange(3, 7)):
        with book.acting("agent:lin", purpose="support"):
            book.customers.record_interaction(ADA, "visit", text=f"tail {number}")
            book.profiles.get(ADA)
        after()


def attacked(book_of: Path, scratch: Path, random: Random, *, is_open: bool, kind: str) -> tuple[str, str, str] | None:
    """Attack a book while it is open, or after it was killed: what was done, what finds it, and what that says. None,
    if it came to nothing."""
    log = random.choice(["events", "reads"])
    folder, twin = scratch / "book", scratch / "twin"
    copy(book_of, folder)
    name, table = LOGS[log]
    ids = Ids()
    with ExitStack() as open_books:
        book = open_books.enter_context(opened(folder, Clock(NOW_US), ids))
        book._core.tail_timer.stop()
        kept = {one: book.audit.checkpoint(one) for one in LOGS}
        if kind == "replace the tail by another genuine one":
            book._core.app.database.scrub()
            book._core.storage.reads.scrub()
            copy(folder, twin)
            with opened(twin, Clock(NOW_US + 1), Ids("twin")) as other:
                work(other, random)
        second = open_books.enter_context(opened(folder, Clock(NOW_US), Ids("other"))) if kind == FORK else None
        if second is not None:
            second._core.tail_timer.stop()
        heads = [head_in(folder / name, table)]
        work(book, random, lambda: heads.append(head_in(folder / name, table)))
        genuine = {head[0]: head for head in heads}
        at = Tail(folder, log, [genuine[one] for one in sorted(genuine)], kept[log].size, twin, second)
        if is_open:
            told = WAYS[kind][0](random, at)
            return None if told is None else (told, *found_open(book, at, ids))
        left = scratch / "left"
        left.mkdir()
        for one in folder.iterdir():  # as a process that is killed leaves its files
            if not one.name.endswith("-shm"):
                shutil.copy2(one, left / one.name)
    at.folder = left
    told = WAYS[kind][0](random, at)
    return None if told is None else (told, *found_killed(at, kept[log].note))


def found_open(book: Book, at: Tail, ids: Ids) -> tuple[str, str]:
    """Whether an open book finds what was done, releases and records nothing, and signs nothing but what it wrote."""
    checkpoints = book._core.checkpoints[at.log]
    before = [one.note for one in checkpoints.stored()]
    problem = _problem(book, at.log)
    if not problem:
        return MISSED, "verify finds nothing"
    if not any(one.state == "failed" and one.name in ("positions", "root") for one in book.doctor()):
        return MISSED, "doctor finds nothing"
    try:
        made = checkpoints.sign()
    except TallybookError:
        if [one.note for one in checkpoints.stored()] != before:
            return MISSED, "something was signed in spite of the error"
    else:
        if (made.size, made.root) != (at.end, Frontier(*at.heads[-1][:2]).root()):
            return MISSED, f"signed: {made.size} leaves of what was altered"
        return FOUND, problem  # the head is the book's own, and so is what was signed
    ids.begin("after the attack")
    try:
        with book.acting("agent:lin", purpose="support"):
            if at.log == "events":
                book.customers.record_interaction(ADA, "visit")
            else:
                book.profiles.get(ADA)
    except TallybookError:
        return FOUND, problem
    return MISSED, "it went on"


def found_killed(at: Tail, kept: str) -> tuple[str, str]:
    """The same of a book that is opened after its process was killed. That what was newer than the last checkpoint is
    gone, with a head that the book wrote, nothing can tell."""
    try:
        with opened(at.folder, Clock(NOW_US), Ids()) as book:
            book._core.tail_timer.stop()
            problem = _problem(book, at.log)
            if problem:
                return FOUND, problem
            one = book.audit.verify(against=kept)[list(LOGS).index(at.log)]
            if one.problem:
                return AGAINST, one.problem
            position = book._core.checkpoints[at.log].log.position()
            ends = {position, position - 1} if at.log == "reads" else {position}  # that it was opened is on record
            if position >= at.signed and ends & {head[0] for head in at.heads[:-1]}:
                return LIMIT, f"the log ends at {position}"
            return MISSED, "verify finds nothing"
    except TallybookError as error:
        return FOUND, str(error)


def _problem(book: Book, log: str) -> str:
    return book.audit.verify()[list(LOGS).index(log)].problem or ""


def tails(book_of: Template, seed: str, count: int, scratch: Path, kinds: Sequence[str] = tuple(WAYS)) -> Tally:
    """Attack the tails of so many books, each a copy of its own."""
    tally = Tally()
    number = 0
    with short_streams():
        while tally.outcomes.total() < count:
            number += 1
            random = Random(f"{seed}/tail/{number}")
            kind = random.choice(kinds)
            is_open = not WAYS[kind][1] or random.random() < 0.6
            folder = scratch / f"tail-{number}"
            folder.mkdir()
            try:
                done = attacked(book_of.folder, folder, random, is_open=is_open, kind=kind)
            except (sqlite3.IntegrityError, OverflowError):
                done = None  # the database itself does not take it
            if done is not None:
                what, outcome, told = done
                called = f"{'open' if is_open else 'killed'}: {kind}"
                tally.outcomes[called, outcome] += 1
                if outcome == MISSED:
                    tally.missed.append(f"{seed}/tail/{number}: {called}: {what[:300]}: {told[:500]}")
            shutil.rmtree(folder)
    return tally


IN_MEMORY = Path("/dev/shm")
TAILS = 10
"""Of so many attacks, one is on the tail of a book that is open or was killed."""


def part(seed: str, count: int) -> Tally:
    """Some of a campaign's attacks, on a book of their own."""
    scratch = Path(tempfile.mkdtemp(prefix="tallybook-adversary-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
    logging.getLogger("tallybook").setLevel(logging.CRITICAL)  # what is refused is logged too
    try:
        book_of = template(scratch / "book")
        tally = campaign(book_of, seed, count - count // TAILS, scratch)
        tally += tails(book_of, seed, count // TAILS, scratch)
        return tally
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
