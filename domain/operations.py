"""What whoever runs a book decided about its read models: a stream of its own, so that each decision has an actor, a
purpose and a place in the order, and every process follows the same ones."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from .aggregate import Aggregate, Appliers, Stamp, applies
from .events import Code, Fact, stored

PAUSED, RESUMED, RETRIED, SKIPPED, RETIRED = "paused", "resumed", "retried", "skipped", "retired"


@stored("book.read_model_directed")
class ReadModelDirected(Fact):
    """A read model was paused, resumed, retired; or one that had failed is to try again, with or without an event."""

    model: Code
    version: int
    action: Code
    position: int | None


class Operations(Aggregate):
    """The fold of these decisions."""

    CONTAINERS = ("cleared", "skips", "stopped")
    APPLIERS: ClassVar[Appliers] = {}

    stopped: dict[str, str]
    """Read model → paused or retired."""
    skips: dict[tuple[str, int], frozenset[int]]
    """Read model and version → positions that it leaves out."""
    cleared: dict[str, int]
    """Read model → this stream's version at the last decision that lets it try again."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(stream_id)
        self.stopped = {}
        self.skips = {}
        self.cleared = {}

    def direct(
        self, stamp: Stamp, model: str, version: int, action: str, position: int | None = None
    ) -> ReadModelDirected | None:
        """Record a decision. None if it changes nothing."""
        if self.stopped.get(model) == action or (action == RESUMED and model not in self.stopped):
            return None
        return self.record(
            ReadModelDirected, stamp, None, model=model, version=version, action=action, position=position
        )


@applies(Operations.APPLIERS, ReadModelDirected)
def _directed(operations: Operations, event: ReadModelDirected) -> None:
    if event.action in (PAUSED, RETIRED):
        operations.stopped[event.model] = event.action
        return
    if event.action == RESUMED:
        operations.stopped.pop(event.model, None)
    if event.action == SKIPPED and event.position is not None:
        named = (event.model, event.version)
        operations.skips[named] = operations.skips.get(named, frozenset()) | {event.position}
    operations.cleared[event.model] = event.originator_version
