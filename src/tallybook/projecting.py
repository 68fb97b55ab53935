"""`book.projections`: the life of read models."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from eventsourcing.persistence import OperationalError

from tallybook.adapters.bulk import rarely_collecting
from tallybook.domain.errors import BookClosed, BookUnreachable, Refused, listed, refusal, whole
from tallybook.domain.operations import PAUSED, RESUMED, RETIRED, RETRIED, SKIPPED
from tallybook.projections.projector import FAILED, Status, remedy_for
from tallybook.projections.read_models import Generation, Hold, Progress, ReadModel, Recorded

from .commands import Desk, Work, command
from .times import When
from .worker import fold_in_processes

TAKE_OVER_S = 0.5
"""How often a projector looks whether it is to stop, and whether another's read model has become free."""

logger = logging.getLogger("tallybook.projections")


class ProjectionsDesk(Desk):
    """Read models: how they are, catching up, rebuilding; pausing, retrying, retiring by recorded decisions."""

    _name = "projections"

    # ── looking and working ─────────────────────────────────────────────────────────────────────────────────────

    def status(self) -> list[Status]:
        """State, position and lag of each read model, and the error of one that failed."""
        self._core.check_open()
        return self._core.projector.status()

    def catch_up(self, progress: Progress | None = None, *, names: Sequence[str] | None = None) -> int:
        """Fold all events that are not folded yet; the position reached. Queries do this by themselves.

        A read model that is paused, failed or retired is left as it is. Refuses: invalid_argument, busy.
        """
        self._core.check_open()
        wanted = None if names is None else listed(names, "names", "read models")
        for name in wanted or ():
            self._model(name)
        with rarely_collecting():
            return self._core.projector.catch_up(progress, wanted)

    def rebuild(self, name: str | None = None, progress: Progress | None = None, *, processes: int = 1) -> int:
        """Build one read model (default: each) anew beside the live one, and swap it in; the position reached.

        The live rows answer queries, and writers go on, until the swap. With `processes`, the subjects are divided
        among as many Python processes (a book in memory has only one). Side effects (`on_update`) are muted.
        One that is paused or retired is left as it is. Waits for another rebuild of the same one.
        Refuses: invalid_argument, read_model_stopped. Raises ReadModelFailed; the live rows stay then.
        """
        core = self._core
        core.check_open()
        whole(processes, "processes", 1, 64)
        stopped = core.operations().stopped
        if name in stopped:
            raise refusal(
                "read_model_stopped",
                f"The read model {name} is {stopped[name]}.",
                remedy=remedy_for(name, stopped[name]),
                read_model=name,
                state=stopped[name],
            )
        models = [self._model(name)] if name else [one for one in core.projector.models if one.name not in stopped]
        options = core.storage.options

        def parts(builds: Sequence[Generation], head: int) -> bool:
            return options is not None and fold_in_processes(options, builds, head, processes)

        with rarely_collecting():
            return core.projector.rebuild(
                *[model.name for model in models],
                progress=progress,
                parts=parts if processes > 1 and options is not None else None,
            )

    def run(self, *, names: Sequence[str] | None = None, stop: threading.Event | None = None) -> None:
        """Keep read models in step with the log, until `stop` is set or the book is closed. Checkpoints are signed as
        time goes by, though nothing is added: the log still stands as it stood.

        Several processes may run this on one book: each read model has one of them that works on it, and when that one
        ends, however it ends, another takes over within a second; within 12 seconds where its whole host vanished and
        could not tell the server. Refuses: invalid_argument.
        """
        core = self._core
        core.check_open()
        wanted = (
            [model.name for model in core.projector.models] if names is None else listed(names, "names", "read models")
        )
        for name in wanted:
            self._model(name)
        stop = stop or threading.Event()
        watch = core.app.log.watch()
        held: dict[str, Hold] = {}
        try:
            while not stop.is_set() and not core.closed:
                try:
                    held = {name: hold for name, hold in held.items() if hold.alive()}
                    for name in wanted:
                        hold = None if name in held else core.storage.models.hold(f"projecting-{name}")
                        if hold is not None:
                            held[name] = hold
                    if held:
                        core.projector.catch_up(names=list(held))
                    core.heartbeat()
                    watch.wait(TAKE_OVER_S)
                except BookClosed:
                    return
                except (BookUnreachable, Refused, OperationalError) as error:
                    logger.warning("The projector tries again: %s", error)
                    stop.wait(TAKE_OVER_S)
        finally:
            watch.close()
            for hold in held.values():
                hold.release()

    def on_update(self, name: str, listener: Callable[[Sequence[Recorded]], None]) -> None:
        """Call a function with the events of each batch that this process folded into a read model, once it is durable.

        For what hangs on the rows: caches, screens. What is folded inline, in a command's own transaction, tells
        nobody: whoever gave the command knows. Muted while a read model catches up for the first time or is
        rebuilt. It runs in the thread that folded; for reactions that must not be lost, use `book.follow`.
        Refuses: invalid_argument.
        """
        self._model(name)
        self._core.projector.listeners.setdefault(name, []).append(listener)

    def drop_superseded(self) -> int:
        """Drop what other versions of the read models and rebuilds that were cut off left; how many builds there were.

        Rows of other versions are kept until then, because hosts that run another release may still ask them.
        """
        self._core.check_open()
        return self._core.projector.drop_superseded()

    # ── recorded decisions ──────────────────────────────────────────────────────────────────────────────────────

    @command
    def pause(self, work: Work, name: str, *, effective_at: When | None = None, command_id: str | None = None) -> None:
        """Stop folding into a read model; questions to it are refused once it is behind. Refuses: invalid_argument."""
        self._direct(work, name, PAUSED)

    @command
    def resume(self, work: Work, name: str, *, effective_at: When | None = None, command_id: str | None = None) -> None:
        """Let a paused read model go on from where it stands; a retired one starts anew. Refuses: invalid_argument."""
        self._direct(work, name, RESUMED)

    @command
    def retry(self, work: Work, name: str, *, effective_at: When | None = None, command_id: str | None = None) -> None:
        """Let a failed read model try its event again, with the next catch-up.

        Refuses: invalid_argument, not_failed.
        """
        self._failed_position(name)
        self._direct(work, name, RETRIED)

    @command
    def skip(
        self,
        work: Work,
        name: str,
        position: int,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Let a failed read model leave out the event that it failed at, now and in every rebuild of this version.

        Refuses: invalid_argument, not_failed.
        """
        if self._failed_position(name) != whole(position, "position", 1, 2**62):
            raise refusal(
                "not_failed", f"The read model {name} has not failed at position {position}.", read_model=name
            )
        self._direct(work, name, SKIPPED, position)

    @command
    def retire(self, work: Work, name: str, *, effective_at: When | None = None, command_id: str | None = None) -> None:
        """Give a read model up: the next catch-up drops its rows. `resume` brings it back.

        Refuses: invalid_argument.
        """
        self._direct(work, name, RETIRED)

    def _direct(self, work: Work, name: str, action: str, position: int | None = None) -> None:
        work.operations().direct(work.stamp, name, self._model(name).version, action, position)

    def _model(self, name: str) -> ReadModel:
        self._core.check_open()
        models = {model.name: model for model in self._core.projector.models}
        if name not in models:
            raise refusal("invalid_argument", f"There is no read model {name!r}; there are {', '.join(models)}.")
        return models[name]

    def _failed_position(self, name: str) -> int:
        self._model(name)
        for status in self._core.projector.status():
            if status.name == name and status.state == FAILED and status.failed_position is not None:
                return status.failed_position
        raise refusal("not_failed", f"The read model {name} has not failed.", read_model=name)
