"""How a backtest is run: by the columnar executor where it can, from the archive where there is one; otherwise by the
domain's own code."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace as replaced
from functools import cache
from heapq import merge
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

import tallybook.domain
import tallybook.projections
from tallybook.adapters.outputs import named, new_file
from tallybook.domain.control import RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.errors import ArchiveError, BookError, MissingExtra, Refused, refusal
from tallybook.domain.events import Event
from tallybook.projections.backtest import (
    REPORT_EVERY,
    Backtest,
    Difference,
    Key,
    Partial,
    Question,
    reference,
    report_of,
)
from tallybook.projections.read_models import Progress, Recorded
from tallybook.projections.replay import FACT_NAMES
from tallybook.projections.sweep import Sweep, sweep_of

from .archiving import ArchiveDesk, facts_kept
from .backtest_page import page
from .core import Core
from .release import RELEASE

if TYPE_CHECKING:
    from tallybook.adapters.archive.manifest import Manifest
    from tallybook.adapters.archive.replay_cache import ReplayCache
    from tallybook.adapters.backtest_files import AccountFile
    from tallybook.projections.columnar.backtesting import Asked
    from tallybook.projections.columnar.facts import Facts
    from tallybook.projections.columnar.names import Names

EXECUTORS = ("columnar", "reference")
CONTROL_NAMES = tuple(kind.stored_name for kind in (RuleSetAdopted, Swept, SweepFinished))
BUCKETS = 64
ACTION, FORMAT = "export.backtest", "backtest-parquet"

T = TypeVar("T")
Done = Callable[[Backtest], None]

logger = logging.getLogger("tallybook.replay")


class Falls(Exception):
    """The columnar executor can't do it; the text says why."""


class Source(NamedTuple):
    """Where facts come from: so many parts of the customers, each loaded block by block when it is asked for; what
    concerns all accounts; the position of the log that they are of, and its root there."""

    parts: int
    load: Callable[[int, Names], Iterable[Facts]]
    control: Sequence[tuple[int, Event]]
    position: int
    root: str


class Taker(Protocol):
    """Takes what came of each account, part by part."""

    def begin(self) -> None:
        """Begin, or begin anew."""
        ...

    def add(self, rows: Mapping[str, Any]) -> None:
        """Take in `Partial.rows`."""
        ...


def backtest(
    core: Core,
    archive: ArchiveDesk,
    question: Question,
    executor: str | None,
    progress: Progress | None,
    customers: Path | str | None = None,
    *,
    replace: bool = False,
    workers: Any = None,
) -> Backtest:
    """Run a backtest. `executor`: that one; None: the columnar one where it can. `customers`: a file for a row of each
    account. `workers`: see `cluster_of`; None: threads."""
    started = perf_counter()
    if customers is None:
        report = _reckoned(core, archive, question, executor, progress, workers)
    else:
        with _recorded(core, customers, replace=replace) as (file, done):
            report = _reckoned(core, archive, replaced(question, rows=True), executor, progress, workers, file)
            report.customers = str(named(customers, "customers"))
            done(report)
    report.seconds = round(perf_counter() - started, 3)
    report.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return report


@contextmanager
def _recorded(core: Core, target: Path | str, *, replace: bool) -> Iterator[tuple[AccountFile, Done]]:
    """A file that leaves the book: decided by the access policy, and recorded before it has its name; and what says of
    which backtest it is. Refuses: acting_required, access_denied. Raises MissingExtra, BookError."""
    try:
        from tallybook.adapters.backtest_files import AccountFile
    except ImportError as missing:
        raise MissingExtra((missing.name or "").partition(".")[0], "replay") from missing
    acting = core.acting_now()
    core.gate.record(core.gate_metadata(acting), ACTION, [], [])
    found: list[Backtest] = []
    with new_file(target, replace=replace) as part:
        with closing(AccountFile(part)) as file:
            yield file, found.append
            [report] = found
            file.note({"digest": report.digest(), "book": report.book, "position": str(report.position)})
        with part.open("rb") as raw:
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
        core.gate.exported(
            core.gate_metadata(acting),
            format=FORMAT,
            digest=digest,
            count=file.count,
            from_position=min(1, report.position),
            to_position=report.position,
        )


def _reckoned(
    core: Core,
    archive: ArchiveDesk,
    question: Question,
    executor: str | None,
    progress: Progress | None,
    workers: Any,
    file: Taker | None = None,
) -> Backtest:

    def columns() -> Backtest:
        from tallybook.projections.columnar.backtesting import Asked

        if file is not None:
            file.begin()
        asked = Asked((question,), sums=False)
        (total,), position, root = _over_all(core, archive, asked, progress, workers, file)
        explain = _explaining(core, question, position)
        return report_of(question, total, position, explain, executor="columnar", **_beside(core, root))

    def by_reference(why: str) -> Backtest:
        position, root = _head(core)
        partial, first, _ = reference(core.history(FACT_NAMES, position), question, position, progress)
        if file is not None:
            file.begin()
            file.add(partial.rows)
        return report_of(question, partial, position, first.get, executor="reference", why=why, **_beside(core, root))

    return _by(executor, columns, by_reference, workers)


class _WhoDiffers:
    """The customers about whose accounts something is decided otherwise."""

    def __init__(self) -> None:
        self.customers: set[UUID] = set()

    def begin(self) -> None:
        self.customers.clear()

    def add(self, rows: Mapping[str, Any]) -> None:
        for customer, differs in zip(rows.get("customer_id", ()), rows.get("differs", ()), strict=True):
            if differs:
                self.customers.add(customer if isinstance(customer, UUID) else UUID(bytes=customer.tobytes()))


def who_differs(core: Core, archive: ArchiveDesk, question: Question) -> frozenset[UUID]:
    """The customers about whose accounts the candidate decides something otherwise."""
    found = _WhoDiffers()
    _reckoned(core, archive, replaced(question, rows=True), None, None, None, found)
    return frozenset(found.customers)


def _head(core: Core) -> tuple[int, str]:
    """Where the log ends, and its root."""
    head = core.app.log.head()
    return head.position, head.frontier.root().hex()


def _beside(core: Core, root: str) -> dict[str, Any]:
    """What a report says of the book and of the code."""

    def html(report: Backtest) -> str:
        return page(report, core.now_us()).html()

    return {"book": core.origin, "root": root, "release": RELEASE, "code": code_digest(), "_page": html}


@cache
def code_digest() -> str:
    """SHA-256 of all sources that decide and reckon, in hex: those of the domain and of the projections."""
    told = hashlib.sha256()
    for package in (tallybook.domain, tallybook.projections):
        root = Path(str(package.__file__)).parent
        for file in sorted(root.rglob("*.py")):
            told.update(f"{package.__name__}/{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return told.hexdigest()


def sweep(
    core: Core,
    archive: ArchiveDesk,
    questions: Sequence[tuple[str, Question]],
    budget: int | None,
    executor: str | None,
    progress: Progress | None,
    workers: Any = None,
) -> Sweep:
    """Run a sweep: each question differs in its candidate alone."""

    def columns() -> Sweep:
        from tallybook.projections.columnar.backtesting import Asked

        asked = Asked(tuple(question for _, question in questions), sums=True)
        totals, position, _ = _over_all(core, archive, asked, progress, workers)
        return sweep_of(questions, [one.sums for one in totals], budget, position, "columnar")

    def by_reference(why: str) -> Sweep:
        position = core.app.position()
        found: list[Mapping[Key, int]] = []
        for number, (_, question) in enumerate(questions, 1):
            partial, _, _ = reference(core.history(FACT_NAMES), question, position)
            found.append(partial.sums)
            if progress:
                progress(position * number // len(questions), position)
        return sweep_of(questions, found, budget, position, "reference", why)

    return _by(executor, columns, by_reference, workers)


def _by(executor: str | None, columns: Callable[[], T], by_reference: Callable[[str], T], workers: Any) -> T:
    """By the columnar executor, where it can, unless the other one is asked for, which no workers run."""
    why = "asked for"
    if workers is not None:
        if executor == "reference":
            raise refusal(
                "invalid_argument", "workers: the reference executor runs in this process.", argument="workers"
            )
        executor = "columnar"
    if executor != "reference":
        try:
            _check_compiler()
            return columns()
        except Falls as reason:
            if executor == "columnar":
                left_out = 'executor="columnar"' if workers is None else "workers"
                raise BookError(
                    f"The columnar executor can't do this: {reason}",
                    remedy=f"Leave out `{left_out}`: the reference executor can.",
                ) from reason.__cause__
            why = str(reason)
            logger.info("The reference executor replays: %s", why)
    return by_reference(why)


def _check_compiler() -> None:
    """See that what the columnar executor needs is here. Raises Falls."""
    from tallybook.projections.columnar.compiling import Uncompiled
    from tallybook.projections.columnar.native import check_compiler

    try:
        check_compiler()
    except Uncompiled as missing:
        raise Falls(str(missing)) from missing


def _over_all(
    core: Core,
    archive: ArchiveDesk,
    asked: Asked,
    progress: Progress | None,
    workers: Any,
    file: Taker | None = None,
) -> tuple[list[Partial], int, str]:
    """What is found over all facts, part by part; the position of the log that they are of, and its root there. `file`
    takes the rows of accounts."""
    from tallybook.projections.columnar.compiling import Uncompiled
    from tallybook.projections.columnar.rulebook import TooManyTiers

    if workers is None:
        source = _archived(core, archive) or _gathered(core, progress)
        found_in = _by_threads(source, asked)
    else:
        source, found_in = _by_workers(core, archive, asked, workers)
    totals: list[Partial] = []
    try:
        with closing(found_in):
            for done, found in enumerate(found_in, 1):
                totals = totals or [Partial() for _ in found]
                for total, one in zip(totals, found, strict=True):
                    total.add(one)
                    if file is not None:
                        file.add(one.rows)
                if progress:
                    progress(source.position * done // source.parts, source.position)
    except (TooManyTiers, Uncompiled) as reason:
        raise Falls(str(reason)) from reason
    for total in totals:
        total.sums["facts",] += len(source.control)
    return totals, source.position, source.root


def _by_threads(source: Source, asked: Asked) -> Generator[list[Partial]]:
    """What is found in each part, by threads of this process."""

    def found_in(number: int) -> list[Partial]:
        return asked.of(lambda names: source.load(number, names), source.control)

    return _in_threads(found_in, source.parts)


def _by_workers(
    core: Core, archive: ArchiveDesk, asked: Asked, workers: Any
) -> tuple[Source, Generator[list[Partial]]]:
    """Where the facts are, and what is found in each bucket, by workers that read its file."""
    kept = facts_kept(archive, shared=True)
    if kept is None:
        raise BookError(
            "Workers read the archive, and there is none.", remedy="Make it first: `book.archive.catch_up()`."
        )
    cache, manifest = kept
    source = _kept(core, cache, manifest)

    def found() -> Generator[list[Partial]]:
        from tallybook.adapters.archive.bucket_task import BucketTask, bucket_task, code
        from tallybook.adapters.clusters import cluster_of

        there = cache.there()
        files = list(_in_threads(lambda number: cache.file(number, manifest, there), BUCKETS))
        own = asked.by_bucket()
        tasks = [BucketTask(file, one, source.control, code()) for file, one in zip(files, own, strict=True)]
        try:
            with cluster_of(workers) as cluster:
                yield from cluster.map(bucket_task, tasks)
        except ArchiveError as error:
            cache.forget(error.path)
            raise

    return source, found()


def _in_threads(task: Callable[[int], T], parts: int) -> Generator[T]:
    """What a task gives for each part, in order. The first is done alone: it compiles what all need. Few are ahead of
    what is taken, so that memory holds so many only."""
    yield task(0)
    workers = os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers, "tallybook-replay")
    try:
        waiting: deque[Future[T]] = deque()
        for number in range(1, parts):
            waiting.append(pool.submit(task, number))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _archived(core: Core, archive: ArchiveDesk) -> Source | None:
    """The facts as the archive has them, brought up to the log; None where there is none, or it can't be used."""
    try:
        kept = facts_kept(archive)
    except (BookError, MissingExtra, Refused) as error:
        logger.info("The archive is not used: %s", error)
        return None
    if kept is None:
        return None
    cache, manifest = kept
    return _kept(core, cache, manifest)


def _kept(core: Core, cache: ReplayCache, manifest: Manifest) -> Source:
    """The facts of an archive."""
    control = list(core.history(CONTROL_NAMES, manifest.position))
    return Source(
        BUCKETS, lambda number, names: cache.load(number, names, manifest), control, manifest.position, manifest.root
    )


def _gathered(core: Core, progress: Progress | None) -> Source:
    """The facts out of the log, in memory."""
    from tallybook.projections.columnar.facts import Gathering, in_blocks
    from tallybook.projections.columnar.names import Names

    position, root = _head(core)
    own = Names()
    gathering = Gathering(own)
    for number, (at, event) in enumerate(core.history(FACT_NAMES, position), 1):
        gathering.feed(at, event)
        if progress and number % REPORT_EVERY == 0:
            progress(at, position)
    facts = gathering.facts()

    def load(_: int, names: Names) -> Iterator[Facts]:
        names.take_over(own)
        return in_blocks(facts)

    return Source(1, load, gathering.control, position, root)


def _explaining(core: Core, question: Question, position: int) -> Callable[[UUID], Difference | None]:
    """The first difference of a customer up to a position, by the domain's own code."""

    def own(customer: UUID) -> list[Recorded]:
        try:
            core.catch_up(core.trail)
            return core.subject_history(customer)
        except (BookError, Refused):
            return core.whole_history(customer)

    def explain(customer: UUID) -> Difference | None:
        core.check_open()
        control: Iterable[Recorded] = core.history(CONTROL_NAMES, position)
        facts = (one for one in own(customer) if one.event.stored_name in FACT_NAMES and one.position <= position)
        history: Iterable[Any] = merge(control, facts, key=lambda one: one.position)
        _, first, _ = reference(history, question)
        return first.get(customer)

    return explain
