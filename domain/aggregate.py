"""What the three aggregates share: a fold of events that is never changed, and drafts of it that commands work on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from .copy_on_write import LayeredDict
from .errors import refusal
from .events import Event, Metadata

Appliers = dict[type[Event], Callable[[Any, Any], None]]
"""Event class → the function that folds such an event into an aggregate."""

A = TypeVar("A", bound="Aggregate")
EV = TypeVar("EV", bound=Event)


class Stamp:
    """What a command gives to each event that it records: metadata, effective time, and fresh event ids.

    `given`: somebody said when it happened. Otherwise the effective time is what the host's clock shows. `what_if`:
    what a replay under other rules asks for; no command does.
    """

    __slots__ = ("effective_us", "given", "metadata", "new_id", "what_if")

    def __init__(
        self,
        metadata: Metadata,
        effective_us: int,
        new_id: Callable[[], UUID],
        *,
        given: bool = True,
        what_if: Any = None,
    ) -> None:
        self.metadata = metadata
        self.effective_us = effective_us
        self.new_id = new_id
        self.given = given
        self.what_if = what_if

    def not_before(self, earlier_us: int, what: str) -> None:
        """See that a fact does not lie before what it rests on. Refuses: effective_too_early.

        Where nobody gave a time, this host's clock is behind that of the host which recorded `what`: what happens now
        happened at that time at the earliest.
        """
        if self.effective_us >= earlier_us:
            return
        if self.given:
            raise refusal(
                "effective_too_early",
                f"The effective time lies before {what}.",
                effective_us=self.effective_us,
                earliest_us=earlier_us,
            )
        self.effective_us = earlier_us

    def at(self, effective_us: int) -> Stamp:
        """The same, for another effective time."""
        return Stamp(self.metadata, effective_us, self.new_id, what_if=self.what_if)


class Aggregate:
    """The state that a stream's events add up to.

    An aggregate that was loaded is never changed: it may be shared and cached. A command works on a `draft()`, which
    copies the containers named in `CONTAINERS` one level deep (their items are immutable) and collects what it
    records in `journal`. Applying an event never raises, decides, opens personal data or reads a clock.

    The state is what a class annotates in its body, and nothing else: a snapshot holds these fields. What can be
    derived from them, `derive` makes anew. No personal value belongs there, sealed or not.
    """

    CONTAINERS: ClassVar[tuple[str, ...]] = ()
    APPLIERS: ClassVar[Appliers]

    def __init__(self, stream_id: UUID) -> None:
        self.id = stream_id
        self.version = 0
        self.snapshot_version = 0  # of the last snapshot that was taken or tried, in this process
        self.journal: list[Event] | None = None

    def draft(self: A, journal: list[Event]) -> A:
        """A copy for one command; what it records is appended to `journal` too."""
        draft = copy(self)
        for name in self.CONTAINERS:
            setattr(draft, name, getattr(self, name).copy())
        draft.journal = journal
        return draft

    def shared(self: A) -> A:
        """The draft itself, never to be changed from now on: it may be shared."""
        self.journal = None
        for name in self.CONTAINERS:
            container = getattr(self, name)
            if isinstance(container, LayeredDict):
                container.settle()
        return self

    def derive(self) -> None:
        """Make what is derived from the annotated fields, after they were set from a snapshot."""

    def apply(self, event: Event) -> None:
        """Fold one event in. Only on a draft, or while loading."""
        applier = self.APPLIERS.get(type(event))
        if applier is not None:
            applier(self, event)
        self.version = event.originator_version

    def record(self, event_class: type[EV], stamp: Stamp, subject_id: UUID | None, **fields: Any) -> EV:
        """Make the stream's next event, fold it in, and collect it."""
        if self.journal is None:
            raise TypeError("events are recorded on a draft, never on a shared aggregate")
        fields["originator_id"] = self.id
        fields["originator_version"] = self.version + 1
        fields["event_id"] = stamp.new_id()
        fields["effective_us"] = stamp.effective_us
        fields["subject_id"] = subject_id
        fields["metadata"] = stamp.metadata
        event: EV = event_class.__pydantic_validator__.validate_python(fields)
        self.apply(event)
        self.journal.append(event)
        return event

    @classmethod
    def fold(cls: type[A], state: A | None, events: Iterable[Any]) -> A | None:
        """The state after more events: `eventsourcing`'s projector function. None where there are no events."""
        rest = iter(events)
        first = next(rest, None)
        if first is None:
            return state
        draft = state.draft([]) if state is not None else cls(first.originator_id)
        draft.apply(first)
        event, appliers = first, cls.APPLIERS
        for event in rest:
            # As `apply` does it, without its call: long streams are loaded here.
            applier = appliers.get(type(event))
            if applier is not None:
                applier(draft, event)
        draft.version = event.originator_version
        return draft.shared()


def applies(
    appliers: Appliers, event_class: type[EV]
) -> Callable[[Callable[[Any, EV], None]], Callable[[Any, EV], None]]:
    """Mark a function as the one that folds `event_class` in."""

    def mark(function: Callable[[Any, EV], None]) -> Callable[[Any, EV], None]:
        appliers[event_class] = function
        return function

    return mark
