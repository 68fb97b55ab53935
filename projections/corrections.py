"""What a correction is: a decision that rests on a fact which the book learned of too late.

Explanations and statements both ask here, so that they say the same of each decision.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from tallybook.domain.control import Swept
from tallybook.domain.events import Fact
from tallybook.domain.points import Enrolled, LoyaltyDecision

from .read_models import Recorded


class Late(NamedTuple):
    """A fact that took effect before `decided_us`, up to where the account had been decided when the fact came."""

    fact: Recorded
    decided_us: int


class Corrections:
    """Tells of each decision about accounts whether it is a correction. Fed with all that they rest on, in order.

    A decision is one if a fact that it names came with the same command, and had taken effect before something that was
    decided about the account already, or before the moment up to which a sweep ran. So what a sweep that runs late
    records is none: that was due, and rests on nothing new. Nor is what a late fact leads to in later commands.
    """

    def __init__(self) -> None:
        self.facts: dict[UUID, Recorded] = {}
        """Those that were seen, by their ids."""
        self._decided: dict[UUID, int] = {}
        self._swept_us = -(2**62)
        self._late: dict[tuple[UUID, UUID], Late | None] = {}

    def late(self, recorded: Recorded) -> Late | None:
        """The late fact that a decision is a correction by. None: it is none; or the event is no such decision."""
        event = recorded.event
        if isinstance(event, Fact):
            self.facts[event.event_id] = recorded
            if isinstance(event, Swept):
                self._swept_us = event.until_us
            elif isinstance(event, Enrolled):
                self._decided[event.originator_id] = event.effective_us
        if not isinstance(event, LoyaltyDecision):
            return None
        account = event.originator_id
        decided_us = max(self._decided.get(account, self._swept_us), self._swept_us)
        found = None
        for fact_id in event.facts:
            fact = self.facts.get(fact_id)
            if fact is None:
                continue
            # What counts is where the account stood when the fact was decided about first: it has gone on since.
            late = Late(fact, decided_us) if fact.event.effective_us < decided_us else None
            late = self._late.setdefault((account, fact_id), late)
            if found is None and late is not None and fact.event.metadata == event.metadata:
                found = late
        self._decided[account] = max(self._decided.get(account, event.effective_us), event.effective_us)
        return found
