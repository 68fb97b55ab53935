"""How a backtest is run: by the columnar executor where it can, from the archive where there is one; otherwise by the
domain's own code."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from heapq import merge
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import UUID

from tallybook.domain.control import RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.errors import ArchiveError, BookError, MissingExtra, Refused, refusal
from tallybook.domain.events import Event
from tallybook.projections.backtest import Backtest, Difference, Key, Partial, Question, reference, report_of
from tallybook.projections.read_models import Progress, Recorded
from tallybook.projections.replay import FACT_NAMES
from tallybook.projections.sweep import Sweep, sweep_of

from .archiving import ArchiveDesk, facts_kept
from .core import Core

if TYPE_CHECKING:
    from tallybook.projections.columnar.backtesting import Asked
    from tallybook.projections.columnar.facts import Facts
    from tallybook.projections.columnar.names import Names

EXECUTORS = ("columnar", "reference")
CONTROL_NAMES = tuple(kind.stored_name for kind in (RuleSetAdopted, Swept, SweepFinished))
BUCKETS = 64

T = TypeVar("T")

logger = logging.getLogger("tallybook.replay")


class Falls(Exception):
    """The columnar executor can't do it; the text says why."""


class Source(NamedTuple):
    """Where facts come from: so many parts of the customers, each loaded when it is asked for; what concerns all
    accounts; the position of the log that they are of."""

    parts: int
    load: Callable[[int, Names], Facts]
    control: Sequence[tuple[int, Event]]
    position: int


def backtest(
    core: Core,
    archive: ArchiveDesk,
    question: Question,
    executor: str | None,
    progress: Progress | None,
    workers: Any = None,
) -> Backtest:
    """Run a backtest. `executor`: that one; None: the columnar one where it can. `workers`: see `cluster_of`; None:
    threads."""

    def columns() -> Backtest:
        from tallybook.projections.columnar.backtesting import Asked

        (total,), position = _over_all(core, archive, Asked((question,), sums=False), progress, workers)
        return report_of(question, total, position, _explaining(core, question), "columnar")

    def by_reference(why: str) -> Backtest:
        position = core.app.position()
        partial, first, _ = reference(core.history(FACT_NAMES), question, position, progress)
        return report_of(question, partial, position, first.get, "reference", why)

    return _by(executor, columns, by_reference, workers)


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
        totals, position = _over_all(core, archive, asked, progress, workers)
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
    from tallybook.projections.columnar.compiling import Uncompiled, compiler

    try:
        compiler()
    except Uncompiled as missing:
        raise Falls(str(missing)) from missing


def _over_all(
    core: Core, archive: ArchiveDesk, asked: Asked, progress: Progress | None, workers: Any
) -> tuple[list[Partial], int]:
    """What is found over all facts, part by part; and the position of the log that they are of."""
    from tallybook.projections.columnar.compiling import Uncompiled
    from tallybook.projections.columnar.rulebook import TooManyTiers

    if workers is None:
        source = _archived(core, archive) or _gathered(core)
        parts, control, position, found_in = source.parts, source.control, source.position, _by_threads(source, asked)
    else:
        parts = BUCKETS
        control, position, found_in = _by_workers(core, archive, asked, workers)
    totals: list[Partial] = []
    try:
        with closing(found_in):
            for done, found in enumerate(found_in, 1):
                totals = totals or [Partial() for _ in found]
                for total, one in zip(totals, found, strict=True):
                    total.add(one)
                if progress:
                    progress(position * done // parts, position)
    except (TooManyTiers, Uncompiled) as reason:
        raise Falls(str(reason)) from reason
    for total in totals:
        total.sums["facts",] += len(control)
    return totals, position


def _by_threads(source: Source, asked: Asked) -> Generator[list[Partial]]:
    """What is found in each part, by threads of this process."""
    from tallybook.projections.columnar.names import Names

    def part(number: int) -> list[Partial]:
        names = Names()
        return asked.of(source.load(number, names), source.control, names)

    return _in_threads(part, source.parts)


def _by_workers(
    core: Core, archive: ArchiveDesk, asked: Asked, workers: Any
) -> tuple[Sequence[tuple[int, Event]], int, Generator[list[Partial]]]:
    """What concerns all accounts, the position of the log; and what is found in each bucket, by workers that read its
    file."""
    kept = facts_kept(archive, shared=True)
    if kept is None:
        raise BookError(
            "Workers read the archive, and there is none.", remedy="Make it first: `book.archive.catch_up()`."
        )
    cache, manifest = kept
    control = _control(core, manifest.position)

    def found() -> Generator[list[Partial]]:
        from tallybook.adapters.archive.bucket_task import BucketTask, bucket_task, code
        from tallybook.adapters.clusters import cluster_of

        there = cache.there()
        files = list(_in_threads(lambda number: cache.file(number, manifest, there), BUCKETS))
        own = asked.by_bucket()
        tasks = [BucketTask(file, one, control, code()) for file, one in zip(files, own, strict=True)]
        try:
            with cluster_of(workers) as cluster:
                yield from cluster.map(bucket_task, tasks)
        except ArchiveError as error:
            cache.forget(error.path)
            raise

    return control, manifest.position, found()


def _in_threads(task: Callable[[int], T], parts: int) -> Generator[T]:
    """What a task gives for each part, as they are done. The first is done alone: it compiles what all need."""
    yield task(0)
    pool = ThreadPoolExecutor(os.cpu_count() or 1, "tallybook-replay")
    try:
        waiting: list[Future[T]] = [pool.submit(task, number) for number in range(1, parts)]
        for one in waiting:
            yield one.result()
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
    control = _control(core, manifest.position)
    return Source(BUCKETS, lambda number, names: cache.load(number, names, manifest), control, manifest.position)


def _control(core: Core, position: int) -> list[Recorded]:
    """What concerns all accounts, up to a position."""
    return [one for one in core.history(CONTROL_NAMES) if one.position <= position]


def _gathered(core: Core) -> Source:
    """The facts out of the log, in memory."""
    from tallybook.projections.columnar.facts import Gathering
    from tallybook.projections.columnar.names import Names

    position = core.app.position()
    own = Names()
    gathering = Gathering(own)
    for at, event in core.history(FACT_NAMES):
        gathering.feed(at, event)
    facts = gathering.facts()

    def load(_: int, names: Names) -> Facts:
        names.take_over(own)
        return facts

    return Source(1, load, gathering.control, position)


def _explaining(core: Core, question: Question) -> Callable[[UUID], Difference | None]:
    """The first difference of a customer, by the domain's own code."""

    def explain(customer: UUID) -> Difference | None:
        core.check_open()
        core.catch_up(core.trail)
        control: Iterable[Recorded] = core.history(CONTROL_NAMES)
        own = (one for one in core.subject_history(customer) if one.event.stored_name in FACT_NAMES)
        history: Iterable[Any] = merge(control, own, key=lambda one: one.position)
        _, first, _ = reference(history, question)
        return first.get(customer)

    return explain
