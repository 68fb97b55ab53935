"""Whether a log is what its head says: positions without gaps, and the Merkle root recomputed from the stored bytes."""

from __future__ import annotations

from dataclasses import dataclass

from eventsourcing.persistence import PersistenceError

from tallybook.domain.errors import BookDamaged
from tallybook.projections.read_models import Progress

from . import merkle
from .log import EventStore, Head


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found in one log. `problem` names the first thing wrong; None: all is well."""

    log: str
    size: int
    root: str
    problem: str | None

    @property
    def holds(self) -> bool:
        """Whether the log is what its frontier says."""
        return self.problem is None


def verify(name: str, log: EventStore, progress: Progress | None = None) -> Verification:
    """Recompute a log's root from its rows, and compare with its head."""
    frontier = merkle.Frontier()
    size = 0
    try:
        head, problem = outline(log)
        size = head.position
        problem = problem or _contents(log, head, frontier, progress)
    except (PersistenceError, BookDamaged, TypeError, ValueError, AttributeError) as error:
        problem = f"what follows position {frontier.size} can't be read: {error}"
    return Verification(name, size, frontier.root().hex(), problem)


def outline(log: EventStore) -> tuple[Head, str | None]:
    """The head, and the first thing wrong with the first and last position; None if they fit it."""
    # In this order: a commit between the two moves the head on, never back behind what was there.
    count, least, greatest = log.extent()
    head = log.head()
    if count and least < 1:
        return head, f"there is an event at position {least}: positions count from 1"
    if greatest > head.position:
        return head, f"there is an event at position {greatest}, and its head says that the log ends at {head.position}"
    return head, None


def _contents(log: EventStore, head: Head, frontier: merkle.Frontier, progress: Progress | None) -> str | None:
    expected = 1
    for position, stream, version, stored_name, state in log.iterate(stop=head.position):
        if position != expected:
            return f"position {expected} is missing"
        frontier.append([merkle.leaf(log.origin, position, stream, version, stored_name, state)])
        expected += 1
        if progress and position % 10_000 == 0:
            progress(position, head.position)
    if frontier.size != head.position:
        return f"the log ends at position {frontier.size}, its head says {head.position}"
    if frontier.packed() != head.frontier.packed():
        return "the stored bytes do not give the recorded root: an event was altered, moved or replaced"
    return None


def root_at(log: EventStore, position: int) -> str:
    """The root of a log's first events, recomputed from their rows."""
    frontier = merkle.Frontier()
    frontier.append(merkle.leaf(log.origin, *row) for row in log.iterate(stop=position))
    return frontier.root().hex()
