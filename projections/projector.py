"""The batch projector: pull events, fold them, write rows and position in one transaction. Exactly once.

A read model's life:

    new → catching up → live                  ⇄ paused      (a recorded decision)
                          ↓ an event can't be folded        → retired (a recorded decision; its rows are dropped)
                        failed at a position, with the error
                          ↓ retry or skip, a recorded decision
                        live

A failure stops that read model alone. A rebuild fills new tables beside the live ones and swaps them in at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from eventsourcing.persistence import OperationalError

from tallybook.domain.errors import BookError, ReadModelFailed, Refused, refusal
from tallybook.domain.operations import Operations

from .read_models import (
    Batch,
    BuildRecord,
    Generation,
    Hold,
    Log,
    Progress,
    ReadModel,
    ReadModelStore,
    Recorded,
    Rows,
    shape_of,
)

BATCH = 2000
"""Events a transaction: more would keep writers waiting for longer."""
PART_BATCH = 20_000
"""Events a transaction of one part of a parallel rebuild: nobody reads those tables yet."""

NEW, CATCHING_UP, LIVE, PAUSED, FAILED, RETIRED = "new", "catching up", "live", "paused", "failed", "retired"
SUPERSEDED, DIVERGED = "superseded", "diverged"
ERROR_CHARS_MAX = 500
LOOK_AGAIN_S = 0.1
"""How often a rebuild looks whether another one of the same read model has ended."""

logger = logging.getLogger("tallybook.projections")

Listener = Callable[[Sequence[Recorded]], None]
Parts = Callable[[Sequence[Generation], int], bool]
"""Folds all subjects' events up to a position into builds, in several processes; False if that did not succeed."""

_STORE_TROUBLE = (BookError, Refused, OperationalError, MemoryError)
"""What says nothing about the event that was being folded."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a read model is."""

    name: str
    version: int
    position: int
    head: int
    state: str
    """new, catching up, live, paused, failed, retired; diverged: rows from another history of the log, or tables that
    somebody dropped, which the next catch-up builds anew; superseded: rows of another version that nobody maintains."""
    failed_position: int | None = None
    error: str = ""
    rebuilding: int | None = None
    """The position of a build that is being filled beside the live one."""
    abandoned: int | None = None
    """The position of one that nobody fills any more: its rebuild was cut off. `drop_superseded` or the next rebuild
    removes it."""

    @property
    def lag(self) -> int:
        """Events that it has not folded yet."""
        return self.head - self.position


def remedy_for(name: str, state: str) -> str:
    """What leads out of a state in which a read model stands still; empty where that is no decision."""
    if state in (PAUSED, RETIRED):
        return f"`tallybook projections resume {name}` lets it {'go on' if state == PAUSED else 'start anew'}."
    if state == FAILED:
        return f"Mend the cause, then `tallybook projections retry {name}`; or skip the event."
    return ""


class _Moved(Exception):
    """Another process was faster, or swapped a rebuild in."""


class Projector:
    """Keeps read models in step with the log. Several processes may run one: each batch counts once."""

    def __init__(
        self,
        log: Log,
        store: ReadModelStore,
        models: Sequence[ReadModel],
        operations: Callable[[], Operations],
    ) -> None:
        self.log = log
        self.store = store
        self.models = tuple(models)
        self.listeners: dict[str, list[Listener]] = {}
        self._known: set[int] = set()  # builds that were found to come from this log
        self._operations = operations

    # ── what it does ────────────────────────────────────────────────────────────────────────────────────────────

    def catch_up(self, progress: Progress | None = None, names: Sequence[str] | None = None) -> int:
        """Fold everything up to the head; the position that every read model which is not stopped has reached.

        Resumes where the last run stopped.
        """
        head = self.log.position()
        wanted = [model for model in self.models if names is None or model.name in names]
        records = self._live_records()
        if all(self._at_head(model, records, head) for model in wanted):
            return head
        operations = self._operations()
        self._drop_damaged()
        records = self._without_diverged(self._live_records())
        for model in wanted:
            if operations.stopped.get(model.name) == RETIRED and any(name == model.name for name, _, _ in records):
                self.store.drop(model.name)
        builds = [self._live(model, head) for model in wanted if self._runs(model, records, operations)]
        return self._run(builds, operations, head, progress)

    def require(self, model: ReadModel) -> None:
        """Catch up, so that a question to a read model sees every commit before it. Refuses: read_model_stopped."""
        head = self.log.position()
        if self._at_head(model, self._live_records(), head):
            return
        self.catch_up()
        build = self.store.generation(model)
        position = self.store.tracked(build) if build else 0
        if position < head:
            status = next(one for one in self.status() if one.name == model.name)
            raise refusal(
                "read_model_stopped",
                f"The read model {model.name} is {status.state} at position {position}, the log at {head}.",
                remedy=remedy_for(status.name, status.state),
                read_model=model.name,
                state=status.state,
                position=position,
                head=head,
                failed_position=status.failed_position,
                error=status.error,
            )

    def rebuild(self, *names: str, progress: Progress | None = None, parts: Parts | None = None) -> int:
        """Build read models (default: all) anew beside the live ones and swap them in; the position reached.

        `parts` folds the bulk of it in several processes. Raises KeyError, ReadModelFailed.
        """
        models = [self.model(name) for name in names] or self.models
        with ExitStack() as held:
            for name in sorted({model.name for model in models}):
                held.callback(self._only_rebuild(name).release)
            return self._rebuild(models, progress, parts)

    def _rebuild(self, models: Sequence[ReadModel], progress: Progress | None, parts: Parts | None) -> int:
        self._drop_damaged()
        self._drop_begun({model.name for model in models})
        head = self.log.position()
        builds = [self.store.begin(model, head) for model in models]
        try:
            if parts is not None and head:
                apart = [build for build in builds if build.model.by_subject]
                if parts(apart, head):
                    mark = self.log.mark(head) or b""
                    for build in apart:
                        self.store.commit([(build, self.store.rows(build), 0)], head, mark)
                else:
                    # One event at least can't be folded, or a process died: one by one, it is found or made good.
                    for build in builds:
                        self.store.drop(build.model.name, number=build.number)
                    builds = [self.store.begin(model, head) for model in models]
            reached = head
            while builds:
                reached = max(reached, self._run(builds, self._operations(), self.log.position(), progress))
                for build in [*builds]:
                    if self._swapped(build):
                        builds.remove(build)
            return reached
        except BaseException:
            # Those that are live by now stay.
            for build in builds:
                if (record := self._record(build)) is not None and not record.live:
                    self.store.drop(build.model.name, number=build.number)
            raise

    def _swapped(self, build: Generation) -> bool:
        """Swap a build in. True as well if a newer one was swapped in meanwhile, and this one dropped."""
        record = self._record(build)
        if record is None:
            return True
        if record.failed_position is not None:
            raise ReadModelFailed(record.name, record.failed_position, record.failed_error)
        due_after = self.store.go_live(build)
        if due_after is None:
            return False
        self._catch_up_effects(build, due_after, record.position)
        return True

    def fold_part(
        self,
        builds: Sequence[tuple[str, int]],
        head: int,
        part: tuple[int, int] = (0, 1),
        *,
        after: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """Fold one part of the subjects (default: all) after a position and up to another into builds, by name and
        number. Raises what a fold raises."""
        operations = self._operations()
        work = [
            (Generation(model, number), operations.skips.get((name, model.version), frozenset()))
            for name, number in builds
            for model in [self.model(name)]
        ]
        folded = 0
        rows = {build: self.store.rows(build) for build, _ in work}
        while after < head:
            batch = self.log.read(after, min(5000, head - after), part)
            for build, skips in work:
                due = [one for one in batch.events if one.position not in skips] if skips else batch.events
                build.model.fold(due, rows[build])
            folded += len(batch.events)
            after = batch.last
            if batch.unreadable is not None:
                after, error = batch.unreadable
                if any(after not in skips for _, skips in work):
                    raise error
            if folded >= PART_BATCH or after >= head:
                for build, _ in work:
                    if not self.store.write(build, rows[build]):
                        raise ReadModelFailed(build.model.name, after, "the build was dropped meanwhile")
                    rows[build] = self.store.rows(build)
                folded = 0
            if progress:
                progress(after, head)

    def fold_in(
        self, session: object, operations: Operations, after: int, events: Sequence[Recorded], names: Sequence[str]
    ) -> None:
        """Fold events that a transaction is about to commit, within it: into the read models that stand right before.

        The others follow with the next catch-up. Raises whatever a fold raises.
        """
        store = self.store.within(session)
        found = [store.generation(self.model(name)) for name in names if name not in operations.stopped]
        # Builds are locked before their rows are read, as whoever swaps or drops one does, and by number, as `commit`
        # does: else two that fold would wait for each other.
        builds = sorted((one for one in found if one is not None), key=lambda one: one.number)
        work: list[tuple[Generation, Rows, int]] = []
        for build in [one for one in builds if store.tracked(one) == after]:
            rows = store.rows(build)
            build.model.fold(events, rows)
            work.append((build, rows, after))
        if work:
            store.commit(work, events[-1].position, _mark(events, events[-1].position))

    def drop_superseded(self) -> int:
        """Drop rows that read models of other versions left, and rebuilds that were cut off; how many there were."""
        dropped = 0
        for name in self._abandoned(self.store.builds()):
            hold = self.store.hold(_rebuilding(name))
            if hold is not None:
                try:
                    dropped += self._drop_begun({name})
                finally:
                    hold.release()
        left = [one for one in self.status() if one.state == SUPERSEDED]
        return dropped + sum(self.store.drop(one.name, version=one.version) for one in left)

    def status(self) -> list[Status]:
        """How each read model is, and which rows of other versions are left."""
        operations = self._operations()
        records = self.store.builds()
        abandoned = self._abandoned(records)
        head = self.log.position()  # after the positions, so that none is beyond it
        found = []
        for model in self.models:
            shape = shape_of(model)
            mine = [one for one in records if (one.name, one.version, one.shape) == (model.name, model.version, shape)]
            live = next((one for one in mine if one.live), None)
            beside = max((one.number for one in mine if not one.live), default=0)
            found.append(
                Status(
                    model.name,
                    model.version,
                    live.position if live else 0,
                    head,
                    self._state(model, live, operations),
                    live.failed_position if live and self._has_failed(live, operations) else None,
                    self._error(live, operations),
                    next((one.position for one in mine if one.number == beside and model.name not in abandoned), None),
                    abandoned.get(model.name),
                )
            )
        known = {(model.name, model.version, shape_of(model)) for model in self.models}
        found += [
            Status(one.name, one.version, one.position, head, DIVERGED if one.damaged else SUPERSEDED)
            for one in records
            if one.live and (one.name, one.version, one.shape) not in known
        ]
        return found

    def model(self, name: str) -> ReadModel:
        """The read model of a name. Raises KeyError."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(f"no read model is called {name!r}; there are {', '.join(model.name for model in self.models)}")

    # ── states ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _state(self, model: ReadModel, live: BuildRecord | None, operations: Operations) -> str:
        if model.name in operations.stopped:
            return operations.stopped[model.name]
        if live is None:
            return NEW
        if self._diverged(live):
            return DIVERGED
        if self._has_failed(live, operations):
            return FAILED
        return LIVE if live.position >= min(live.target, self.log.position()) else CATCHING_UP

    def _error(self, live: BuildRecord | None, operations: Operations) -> str:
        if live is not None and live.damaged:
            return _flaw(live)
        return live.failed_error if live is not None and self._has_failed(live, operations) else ""

    @staticmethod
    def _has_failed(live: BuildRecord, operations: Operations) -> bool:
        return live.failed_position is not None and operations.cleared.get(live.name, 0) <= live.failed_seen

    def _live_records(self) -> Mapping[tuple[str, int, str], BuildRecord]:
        return {(one.name, one.version, one.shape): one for one in self.store.builds() if one.live}

    def _at_head(self, model: ReadModel, records: Mapping[tuple[str, int, str], BuildRecord], head: int) -> bool:
        record = records.get((model.name, model.version, shape_of(model)))
        if record is None or record.damaged or record.number not in self._known:
            return False
        # Beyond the head that was seen there may be more by now; beyond the newest there is nothing.
        return record.position == head or head < record.position <= self.log.position()

    def _diverged(self, record: BuildRecord) -> bool:
        """Whether rows come from another history: the log was restored to an earlier state, or replaced. So are those
        taken of which the store does not know any more what they are."""
        if record.damaged or not record.position:
            return record.damaged or record.mark != b""
        found = self.log.mark(record.position)
        return found is None or (record.mark not in (b"", found) and found != b"")

    def _only_rebuild(self, name: str) -> Hold:
        """What the one process has that rebuilds a read model, once it is free."""
        while (hold := self.store.hold(_rebuilding(name))) is None:
            time.sleep(LOOK_AGAIN_S)
        return hold

    def _abandoned(self, records: Sequence[BuildRecord]) -> Mapping[str, int]:
        """Of read models with builds that are not live and that nobody fills: how far the last of these got."""
        found = {}
        for name in [model.name for model in self.models]:
            begun = [one.position for one in records if one.name == name and not one.live and not one.damaged]
            hold = self.store.hold(_rebuilding(name)) if begun else None
            if hold is not None:
                hold.release()
                found[name] = begun[-1]
        return found

    def _drop_begun(self, names: Collection[str]) -> int:
        """Drop builds that are not live, for whoever holds their rebuilds; how many there were."""
        begun = [one for one in self.store.builds() if one.name in names and not one.live]
        return sum(self.store.drop(one.name, number=one.number) for one in begun)

    def _drop_damaged(self) -> None:
        """Drop builds of which nothing is known but their number, or tables are gone: the log gives them again."""
        for record in self.store.builds():
            if record.damaged:
                logger.warning(
                    "Build %d of the read model %s is dropped: %s.", record.number, record.name, _flaw(record)
                )
                self.store.drop(record.name, number=record.number)

    def _without_diverged(
        self, records: Mapping[tuple[str, int, str], BuildRecord]
    ) -> Mapping[tuple[str, int, str], BuildRecord]:
        """Drop builds that come from another history."""
        sound = {}
        for key, record in records.items():
            if self._diverged(record):
                logger.warning(
                    "The read model %r stands at position %d of another history of the log: it is built anew.",
                    record.name,
                    record.position,
                )
                self.store.drop(record.name, number=record.number)
            else:
                self._known.add(record.number)
                sound[key] = record
        return sound

    def _runs(
        self, model: ReadModel, records: Mapping[tuple[str, int, str], BuildRecord], operations: Operations
    ) -> bool:
        live = records.get((model.name, model.version, shape_of(model)))
        if live is None and model.name not in operations.stopped:
            before = [one for (name, _, _), one in records.items() if name == model.name]
            if before:
                logger.warning(
                    "The read model %r has changed (version %d, was %d): its rows are built anew from the log.",
                    model.name,
                    model.version,
                    before[-1].version,
                )
        return self._state(model, live, operations) in (NEW, CATCHING_UP, LIVE)

    def _live(self, model: ReadModel, head: int) -> Generation:
        build = self.store.generation(model)
        while build is None:
            # Nothing of this version can be read yet: the new build is live at once, and filled like any other.
            self.store.go_live(self.store.begin(model, head))
            build = self.store.generation(model)
        return build

    def _record(self, build: Generation) -> BuildRecord | None:
        return next((one for one in self.store.builds() if one.number == build.number), None)

    # ── folding ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, builds: Sequence[Generation], operations: Operations, head: int, progress: Progress | None) -> int:
        at = {build: self.store.tracked(build) for build in builds}
        position = start = min(at.values(), default=head)
        while at and position < head:
            batch = self.log.read(position, BATCH)
            if batch.last == position and batch.unreadable is None:
                break
            try:
                self._advance(at, batch, operations)
            except _Moved:
                at = {
                    current: self.store.tracked(current)
                    for build in at
                    for current in [self._current(build)]
                    if current is not None
                }
            position = min(at.values(), default=head)
            if progress:
                progress(position - start, max(head - start, 1))
        return min(at.values(), default=head)

    def _current(self, build: Generation) -> Generation | None:
        """The build itself while it is there; if it was dropped, the one that took its place."""
        return self.store.generation(build.model) if self._record(build) is None else build

    def _advance(self, at: dict[Generation, int], batch: Batch, operations: Operations) -> None:
        """Fold a batch into all builds in one transaction; where that fails, into each by itself."""
        if batch.events or not batch.unreadable:
            waiting = {build: tracked for build, tracked in at.items() if tracked < batch.last}
            try:
                self._commit(waiting, batch.events, batch.last, operations)
                at.update(dict.fromkeys(waiting, batch.last))
            except _STORE_TROUBLE:
                raise
            except _Moved:
                raise
            except Exception:  # noqa: BLE001 - whatever a fold raises concerns that read model alone
                for build, tracked in waiting.items():
                    if self._isolate(build, tracked, _after(batch.events, tracked), batch.last, operations):
                        at[build] = batch.last
                    else:
                        del at[build]
        if batch.unreadable is not None:
            position, error = batch.unreadable
            for build in list(at):
                if position in operations.skips.get((build.model.name, build.model.version), ()):
                    self._commit({build: at[build]}, [], position, operations)
                    at[build] = position
                else:
                    self.store.fail(build, position, _said(error), operations.version)
                    del at[build]

    def _commit(
        self, builds: Mapping[Generation, int], events: Sequence[Recorded], last: int, operations: Operations
    ) -> None:
        work: list[tuple[Generation, Rows, int]] = []
        for build, tracked in builds.items():
            skips = operations.skips.get((build.model.name, build.model.version))
            due = _after(events, tracked)
            if skips:
                due = [one for one in due if one.position not in skips]
            rows = self.store.rows(build)
            build.model.fold(due, rows)
            work.append((build, rows, tracked))
        if not self.store.commit(work, last, _mark(events, last)):
            raise _Moved
        for build, tracked in builds.items():
            self._tell(build, _after(events, tracked))

    def _isolate(
        self, build: Generation, tracked: int, events: Sequence[Recorded], last: int, operations: Operations
    ) -> bool:
        """Fold as many of the events as can be; False if one of them can't, which is then noted."""
        try:
            self._commit({build: tracked}, events, last, operations)
        except (*_STORE_TROUBLE, _Moved):
            raise
        except Exception as error:  # noqa: BLE001 - the event at fault is found by halving
            if len(events) == 1:
                if tracked < events[0].position - 1:
                    self._commit({build: tracked}, [], events[0].position - 1, operations)
                self.store.fail(build, events[0].position, _said(error), operations.version)
                logger.error(
                    "The read model %r stopped at position %d: %s", build.model.name, events[0].position, _said(error)
                )
                return False
            half = len(events) // 2
            middle = events[half - 1].position
            return self._isolate(build, tracked, events[:half], middle, operations) and self._isolate(
                build, middle, events[half:], last, operations
            )
        return True

    # ── side effects ────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, build: Generation, events: Sequence[Recorded]) -> None:
        listeners = self.listeners.get(build.model.name)
        if not listeners:
            return
        record = self._record(build)
        if record is not None and record.live:
            self._call(listeners, _after(events, record.muted))

    def _catch_up_effects(self, build: Generation, after: int, until: int) -> None:
        """What a rebuild folded and the live build had not: its side effects are due now that it is live."""
        listeners = self.listeners.get(build.model.name)
        while listeners and after < until:
            batch = self.log.read(after, min(BATCH, until - after))
            self._call(listeners, batch.events)
            after = batch.unreadable.position if batch.unreadable else batch.last

    @staticmethod
    def _call(listeners: Iterable[Listener], events: Sequence[Recorded]) -> None:
        for listener in listeners if events else ():
            try:
                listener(events)
            except Exception:
                # The rows are durable and others listen, too.
                logger.exception("What listens to a read model raised an error.")


def _rebuilding(name: str) -> str:
    """What the one process holds that rebuilds a read model."""
    return f"rebuilding-{name}"


def _flaw(record: BuildRecord) -> str:
    """What is wrong with a build that is of no use."""
    if record.missing:
        return f"the table {', '.join(record.missing)} is gone"
    return "what is kept of it is damaged"


def _after(batch: Sequence[Recorded], position: int) -> Sequence[Recorded]:
    if not batch or batch[0].position > position:
        return batch
    return [recorded for recorded in batch if recorded.position > position]


def _mark(events: Sequence[Recorded], position: int) -> bytes:
    return events[-1].event.event_id.bytes if events and events[-1].position == position else b""


def _said(error: Exception) -> str:
    """An error in words that every database can keep."""
    text = f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode()
    return text.replace("\x00", "\\x00")[:ERROR_CHARS_MAX]
