"""The batch projector: pull events, fold them, write rows and tracking in one transaction. Exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .read_models import Generation, Log, Progress, ReadModel, ReadModelStore, Recorded

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Status:
    """How far a read model is."""

    name: str
    version: int
    position: int
    head: int

    @property
    def lag(self) -> int:
        """Events that it has not folded yet."""
        return self.head - self.position


class Projector:
    """Keeps read models in step with the log. Several processes may run one: each batch counts once."""

    def __init__(self, log: Log, store: ReadModelStore, models: Sequence[ReadModel]) -> None:
        self.log = log
        self.store = store
        self.models = tuple(models)

    def catch_up(self, progress: Progress | None = None, names: Sequence[str] | None = None) -> int:
        """Fold everything up to the head; the position reached. Resumes where the last run stopped."""
        builds = [self._live(model) for model in self.models if names is None or model.name in names]
        return self._run(builds, progress)

    def rebuild(self, name: str, progress: Progress | None = None) -> int:
        """Build a read model anew beside the live one and swap it in; the position reached."""
        build = self.store.begin(self.model(name))
        while True:
            position = self._run([build], progress)
            if self.store.go_live(build):
                return position

    def status(self) -> list[Status]:
        """How far each read model is."""
        head = self.log.position()
        return [
            Status(model.name, model.version, self.store.tracked(build) if build else 0, head)
            for model in self.models
            for build in [self.store.generation(model)]
        ]

    def model(self, name: str) -> ReadModel:
        """The read model of a name. Raises KeyError."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(f"no read model is called {name!r}; there are {', '.join(model.name for model in self.models)}")

    def _live(self, model: ReadModel) -> Generation:
        build = self.store.generation(model)
        while build is None:
            # Nothing of this version can be read yet: the new build is live at once, and filled like any other.
            self.store.go_live(self.store.begin(model))
            build = self.store.generation(model)
        return build

    def _run(self, builds: Sequence[Generation], progress: Progress | None) -> int:
        head = self.log.position()
        at = {build: self.store.tracked(build) for build in builds}
        position = start = min(at.values(), default=head)
        while position < head:
            batch = self.log.read(position, BATCH)
            if not batch:
                break
            last = batch[-1].position
            work = []
            for build, tracked in at.items():
                if tracked < last:
                    rows = self.store.rows(build)
                    build.model.fold(_after(batch, tracked), rows)
                    work.append((build, rows, tracked))
            if self.store.commit(work, last):
                at.update((build, last) for build, _, _ in work)
            else:
                # Another process was faster, or swapped a rebuild in: look again.
                at = {
                    current: self.store.tracked(current)
                    for build in builds
                    for current in [self.store.generation(build.model) or build]
                }
            position = min(at.values())
            if progress:
                progress(position - start, max(head - start, 1))
        return position


def _after(batch: Sequence[Recorded], position: int) -> Sequence[Recorded]:
    if batch[0].position > position:
        return batch
    return [recorded for recorded in batch if recorded.position > position]
