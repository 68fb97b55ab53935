"""How a backtest is run: by the columnar executor where it can, from the archive where there is one; otherwise by the
domain's own code."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import merge
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from tallybook.domain.control import RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.errors import BookError, MissingExtra, Refused
from tallybook.domain.events import Event
from tallybook.projections.backtest import Backtest, FirstDifference, Partial, Question, reference, report_of
from tallybook.projections.read_models import Progress, Recorded
from tallybook.projections.replay import FACT_NAMES

from .archiving import ArchiveDesk, facts_kept
from .core import Core

if TYPE_CHECKING:
    from tallybook.projections.columnar.facts import Facts
    from tallybook.projections.columnar.names import Names

EXECUTORS = ("columnar", "reference")
CONTROL_NAMES = tuple(kind.stored_name for kind in (RuleSetAdopted, Swept, SweepFinished))
BUCKETS = 64

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
    core: Core, archive: ArchiveDesk, question: Question, executor: str | None, progress: Progress | None
) -> Backtest:
    """Run a backtest. `executor`: that one; None: the columnar one where it can."""
    why = "asked for"
    if executor != "reference":
        try:
            return _by_columns(core, archive, question, progress)
        except Falls as reason:
            if executor == "columnar":
                raise BookError(
                    f"The columnar executor can't do this: {reason}",
                    remedy='Leave out `executor="columnar"`: the reference executor can.',
                ) from reason.__cause__
            why = str(reason)
            logger.info("Backtest by the reference executor: %s", why)
    partial, first, _ = reference(core.history(FACT_NAMES), question, core.app.position(), progress)
    return report_of(question, partial, core.app.position(), first.get, "reference", why)


def _by_columns(core: Core, archive: ArchiveDesk, question: Question, progress: Progress | None) -> Backtest:
    try:
        from tallybook.projections.columnar.backtesting import partial_of
        from tallybook.projections.columnar.compiling import Uncompiled, compiler
        from tallybook.projections.columnar.names import Names
        from tallybook.projections.columnar.rulebook import TooManyTiers

        compiler()
    except ImportError as missing:
        raise Falls(f'{missing.name} is not here: pip install "tallybook[replay]".') from missing
    except Uncompiled as missing:
        raise Falls(str(missing)) from missing
    source = _archived(core, archive) or _gathered(core)

    def part(number: int) -> Partial:
        names = Names()
        return partial_of(source.load(number, names), source.control, question, names)

    try:
        total = Partial()
        for done, one in enumerate(_in_threads(part, source.parts), 1):
            total.add(one)
            if progress:
                progress(source.position * done // source.parts, source.position)
    except TooManyTiers as reason:
        raise Falls(str(reason)) from reason
    total.sums["facts",] += len(source.control)
    return report_of(question, total, source.position, _explaining(core, question), "columnar")


def _in_threads(task: Callable[[int], Partial], parts: int) -> Iterator[Partial]:
    """What a task gives for each part, as they are done. The first is done alone: it compiles what all need."""
    yield task(0)
    pool = ThreadPoolExecutor(os.cpu_count() or 1, "tallybook-replay")
    try:
        waiting: list[Future[Partial]] = [pool.submit(task, number) for number in range(1, parts)]
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
    control = [one for one in core.history(CONTROL_NAMES) if one.position <= manifest.position]
    return Source(BUCKETS, lambda number, names: cache.load(number, names, manifest), control, manifest.position)


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


def _explaining(core: Core, question: Question) -> Callable[[UUID], FirstDifference | None]:
    """The first difference of a customer, by the domain's own code."""

    def explain(customer: UUID) -> FirstDifference | None:
        core.check_open()
        control: Iterable[Recorded] = core.history(CONTROL_NAMES)
        own = (one for one in core.subject_history(customer) if one.event.stored_name in FACT_NAMES)
        history: Iterable[Any] = merge(control, own, key=lambda one: one.position)
        _, first, _ = reference(history, question)
        return first.get(customer)

    return explain
