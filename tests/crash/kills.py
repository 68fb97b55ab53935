"""SIGKILL: workers that are forked from a warm parent do all kinds of work on one book, and die at random moments."""

from __future__ import annotations

import gc
import hashlib
import itertools
import lzma
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import tallybook
from tallybook import Book, imports, loyalty
from tallybook.adapters.database import Session
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters.log import LogRecorder
from tallybook.adapters.read_models import TableReadModelStore
from tallybook.adapters.sqlite import SQLiteSession
from tallybook.projections.read_models import Generation, Rows

from . import workload
from .checks import Finding, check, check_backups
from .ledger import ACTOR, PURPOSE, Deed, Import, Ledger, Outcome
from .report import Life

KILLS_PER_BOOK = 10
WORKERS_MAX = 3
TELLS = (1, 10, 60)
"""A worker dies within DELAY_S after it told its parent something for up to one of these times; some die before."""
DELAY_S = 0.01
REBUILD_S = 1.0
"""About what a rebuild in processes takes: it tells nothing meanwhile, and its end falls anywhere in this time."""
GIVE_UP_S = 60
LINES = 400
LINES_PER_COMMIT = 20
MASTER = Path(tallybook.__file__).parent / "data" / "cdnow_master.txt.xz"


@dataclass
class Worker:
    """What a worker works with. It tells its parent what it begins, and what has returned."""

    book: Book
    ledger: Ledger
    chance: random.Random
    tell: Callable[[tuple[Any, ...]], None]
    folder: Path

    def begin(self, deed: Deed) -> None:
        self.ledger.begin(deed)
        self.tell(("begin", deed))

    def end(self, token: UUID, outcome: Outcome) -> None:
        self.tell(("end", token, outcome))
        self.ledger.end(token, outcome)

    def commands(self, count: int, ids: float) -> None:
        """Some commands, each told before and after."""
        for _ in range(count):
            deed = workload.next_deed(self.chance, self.ledger, ids=ids)
            workload.perform(self.book, deed, self.begin, self.end)
            if deed.verb == "register" and self.chance.random() < 0.8:
                workload.enrol(self.book, self.ledger.customers[-1])


def append(worker: Worker) -> None:
    """Commands without command ids."""
    worker.commands(20, 0)


def append_with_ids(worker: Worker) -> None:
    """Those in doubt that have a command id once more, as a host does, and new ones."""
    for deed in worker.ledger.in_doubt():
        if deed.command_id is not None:
            worker.end(deed.token, deed.run(worker.book))
    worker.commands(20, 1)


def import_lines(worker: Worker) -> None:
    """An import that goes on where the last one was killed."""
    imported = worker.ledger.imported
    assert imported is not None
    imports.ROWS_PER_COMMIT = LINES_PER_COMMIT
    with worker.book.acting(ACTOR, purpose=PURPOSE):
        worker.book.imports.cdnow(imported.path, progress=lambda done, total: worker.tell(("imported", done)))
    worker.commands(5, 0.5)


def project(worker: Worker) -> None:
    """Read models that follow what is appended."""
    worker.commands(3, 0.5)
    worker.book.projections.catch_up()


def rebuild(worker: Worker) -> None:
    """Read models that are built anew beside the live ones."""
    worker.book.projections.rebuild(worker.chance.choice([one.name for one in worker.book.projections.status()]))
    worker.commands(1, 0.5)


def rebuild_in_processes(worker: Worker) -> None:
    """The same in two processes, which outlive the one that is killed."""
    worker.commands(1, 0.5)
    worker.tell(("rebuilding",))
    worker.book.projections.rebuild(processes=2)


def sweep(worker: Worker) -> None:
    """Sweeps, each of some commits, while facts come in."""
    worker.commands(3, 0.5)
    loyalty.ACCOUNTS_PER_COMMIT = 3
    with worker.book.acting(ACTOR, purpose=PURPOSE):
        worker.book.loyalty.sweep(progress=lambda done, total: worker.tell(("swept", done)))


def back_up(worker: Worker) -> None:
    """Backups, each after some commands."""
    worker.commands(3, 0.5)
    file = worker.folder / f"{worker.chance.getrandbits(64):x}.backup"
    worker.tell(("backup", str(file), tuple(worker.ledger.outcomes)))
    worker.book.backup(file)


ACTIVITIES: Mapping[str, Callable[[Worker], None]] = {
    "append": append,
    "append with ids": append_with_ids,
    "import": import_lines,
    "project": project,
    "rebuild": rebuild,
    "rebuild in processes": rebuild_in_processes,
    "sweep": sweep,
    "back up": back_up,
}


def forget_commits() -> None:
    """A mistake on purpose: every 20th commit is acknowledged and rolled back."""
    commit, commits = SQLiteSession.__exit__, itertools.count(1)

    def leave(session: SQLiteSession, *problem: Any) -> None:
        if session._write and problem[1] is None and next(commits) % 20 == 0:
            session._cursor.execute("ROLLBACK")
            session._cursor.execute("BEGIN IMMEDIATE")
        commit(session, *problem)

    mock.patch.object(SQLiteSession, "__exit__", leave).start()


def forget_receipts() -> None:
    """A mistake on purpose: no receipt is kept, so that a command that is given again is done again."""
    append = LogRecorder.append_in

    def append_in(recorder: LogRecorder, *args: Any, **kwargs: Any) -> Any:
        return append(recorder, *args, **{**kwargs, "receipt": None})

    mock.patch.object(LogRecorder, "append_in", append_in).start()


def forget_frontiers() -> None:
    """A mistake on purpose: every 20th commit leaves the frontier as it was."""
    append, commits = LogRecorder.append_in, itertools.count(1)

    def append_in(recorder: LogRecorder, session: Session, *args: Any, **kwargs: Any) -> Any:
        before = session.rows("SELECT frontier FROM head")
        positions = append(recorder, session, *args, **kwargs)
        if next(commits) % 20 == 0:
            session.run("UPDATE head SET frontier=?", before[0])
        return positions

    mock.patch.object(LogRecorder, "append_in", append_in).start()


def part_positions_from_rows() -> None:
    """A mistake on purpose: the position of a read model is committed before its rows."""
    commit = TableReadModelStore.commit

    def in_two(
        store: TableReadModelStore, work: Sequence[tuple[Generation, Rows, int]], position: int, mark: bytes = b""
    ) -> bool:
        if not commit(store, [(build, store.rows(build), start) for build, _, start in work], position, mark):
            return False
        time.sleep(DELAY_S / 2)  # as when the system gives another process its turn
        written = [store.write(build, rows) for build, rows, _ in work]
        return all(written)

    mock.patch.object(TableReadModelStore, "commit", in_two).start()


def forget_to_destroy() -> None:
    """A mistake on purpose: an erasure leaves the key, and says that it is done."""
    mock.patch.object(FileKeyStore, "destroy", return_value=None).start()


MISTAKES: Mapping[str, Callable[[], None]] = {
    "erasures": forget_to_destroy,
    "commits": forget_commits,
    "receipts": forget_receipts,
    "frontiers": forget_frontiers,
    "positions": part_positions_from_rows,
}


def live(folder: Path, seed: str, kills: int, mistake: str | None = None) -> Life:
    """One book from its making through some kills."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    life, ledger = Life(seed), Ledger(imported=slice_of_master(folder))
    url = f"sqlite:///{folder / 'shop.book'}"
    number = 0
    while number < kills:
        doing = [
            chance.choice(list(ACTIVITIES)) for _ in range(chance.randrange(1, min(WORKERS_MAX, kills - number) + 1))
        ]
        if sum(one in ("import", "append with ids") for one in doing) > 1:
            # Two that go on with the same would give one command twice at once: tests/test_concurrency.py does.
            doing = doing[:1]
        findings = _run(url, folder, ledger, chance, doing, mistake, seed=f"{seed}/{number}")
        number += len(doing)
        last = number >= kills
        findings += check(url, ledger, chance, thorough=last or chance.random() < 0.2)
        findings += check_backups(folder, ledger)
        if last and not findings:
            findings += _finish_import(url, ledger)
        for one in doing:
            life.moments[one] += 1
        life.crashes = number
        life.findings += [(number, finding) for finding in findings]
        if findings:
            break
    life.acknowledged = sum(outcome.recorded for outcome in ledger.outcomes.values())
    return life


def slice_of_master(folder: Path) -> Import:
    """The first lines of the file that ships with the package, to be imported."""
    with lzma.open(MASTER, "rb") as file:
        content = b"".join(next(file) for _ in range(LINES))
    path = folder / "slice.txt"
    path.write_bytes(content)
    return Import(str(path), hashlib.sha256(content).hexdigest(), LINES)


def _run(
    url: str,
    folder: Path,
    ledger: Ledger,
    chance: random.Random,
    doing: list[str],
    mistake: str | None,
    *,
    seed: str,
) -> list[Finding]:
    """Start a worker for each activity, kill each at a moment of its own, and enter what they told into the ledger."""
    pids: dict[Connection, int] = {}
    ends: dict[Connection, float] = {}
    tells: dict[Connection, int] = {}
    patient: set[Connection] = set()
    for number, activity in enumerate(doing):
        receiving, sending = Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            receiving.close()
            if mistake is not None:
                MISTAKES[mistake]()
            _work(url, folder, ledger, random.Random(f"{seed}/{number}"), ACTIVITIES[activity], sending)
        sending.close()
        pids[receiving] = pid
        tells[receiving] = chance.randrange(chance.choice(TELLS)) + 1
        if chance.random() < 0.15:
            ends[receiving] = time.monotonic() + chance.random() * 2 * DELAY_S  # while it opens the book
        else:
            patient.add(receiving)
            ends[receiving] = time.monotonic() + GIVE_UP_S
    findings: list[Finding] = []
    alive, telling = set(pids), set(pids)
    while telling:
        for one in [one for one in alive if ends[one] <= time.monotonic()]:
            alive.remove(one)
            os.kill(pids[one], signal.SIGKILL)
            if one in patient and tells[one] > 0:
                findings.append(Finding("broken", f"a worker told nothing more within {GIVE_UP_S} s"))
        next_end = min((ends[one] for one in alive), default=time.monotonic() + GIVE_UP_S)
        for ready in wait(list(telling), max(0.0, next_end - time.monotonic())):
            assert isinstance(ready, Connection)
            try:
                message = ready.recv()
            except (EOFError, OSError):
                telling.discard(ready)
                if ready in alive:
                    findings.append(Finding("broken", "a worker ended by itself"))
                    alive.remove(ready)
                continue
            tells[ready] -= 1
            if tells[ready] == 0:
                ends[ready] = min(ends[ready], time.monotonic() + chance.random() * DELAY_S)
            if message[0] == "failed":
                findings.append(Finding("broken", message[1]))
            elif message[0] == "rebuilding":
                ends[ready] = min(ends[ready], time.monotonic() + chance.random() * REBUILD_S)
                patient.discard(ready)
            elif message[0] != "open":
                _enter(ledger, message)
    for one, pid in pids.items():
        one.close()
        os.waitpid(pid, 0)
    return findings


def _enter(ledger: Ledger, message: tuple[Any, ...]) -> None:
    kind, *rest = message
    if kind == "begin":
        ledger.begin(*rest)
    elif kind == "end":
        ledger.end(*rest)
    elif kind == "backup":
        file, tokens = rest
        ledger.backups[file] = tokens
    elif kind == "imported" and ledger.imported is not None:
        ledger.imported.acknowledged = max(ledger.imported.acknowledged, *rest)


def _work(
    url: str,
    folder: Path,
    ledger: Ledger,
    chance: random.Random,
    activity: Callable[[Worker], None],
    sending: Connection,
) -> None:
    """The life of a worker: never returns."""
    try:
        gc.freeze()
        book = tallybook.open(url, checkpoint_s=workload.CHECKPOINT_S)
        workload.prepare(book)
        sending.send(("open",))
        worker = Worker(book, ledger, chance, sending.send, folder)
        while True:
            activity(worker)
    except BaseException:  # noqa: BLE001 - the parent reports it
        with suppress(OSError):
            sending.send(("failed", traceback.format_exc(limit=-4)))
    finally:
        os._exit(1)


def _finish_import(url: str, ledger: Ledger) -> list[Finding]:
    """What is left of the file is imported; then each line is there once, and importing it again adds nothing."""
    imported = ledger.imported
    assert imported is not None
    found = []
    with tallybook.open(url, checkpoint_s=workload.CHECKPOINT_S) as book, book.acting(ACTOR, purpose=PURPOSE):
        report = book.imports.cdnow(imported.path)
        position = book.position()
        again = book.imports.cdnow(imported.path)
        if report.recorded + report.known != imported.lines - 1 or again.known != imported.lines - 1:
            found.append(Finding("lost", f"an import of {imported.lines - 1} lines ends with {report}"))
        if book.position() != position:
            found.append(Finding("doubled", "an import that was finished adds events when it is repeated"))
    return found
