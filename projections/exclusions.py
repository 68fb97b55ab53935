"""Who is left out of scoring: subjects whose data is restricted (GDPR 18), and those who object to automated decisions.

Scoring looks at many people to judge them. The bookkeeping of a contract (points, tiers) is none: it goes on, and the
certificate covers it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, overload
from uuid import UUID

from tallybook.domain.privacy import Objected, ObjectionWithdrawn, Restricted, RestrictionLifted

EXCLUDING = (Restricted, RestrictionLifted, Objected, ObjectionWithdrawn)
"""The facts that decide it: a scan of the log for these alone is enough."""


class Notice(NamedTuple):
    """One such fact, known by then: where it stands, whom it is about, and what it says."""

    position: int
    subject: UUID
    restricts: bool
    """Whether it is about a restriction; if not, about an objection to automated decisions."""
    holds: bool


class Exclusions(NamedTuple):
    """Who is left out. Whoever is restricted and objects, too, counts as restricted."""

    restricted: frozenset[UUID] = frozenset()
    objecting: frozenset[UUID] = frozenset()

    def __contains__(self, subject: object) -> bool:
        return subject in self.restricted or subject in self.objecting


NOBODY = Exclusions()

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Scored(Sequence[T_co]):
    """A list of customers who are looked at to judge them; and how many are left out of it, by the reason."""

    customers: tuple[T_co, ...]
    restricted: int = 0
    objecting: int = 0

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        return self.customers[index]

    def __len__(self) -> int:
        return len(self.customers)

    def __iter__(self) -> Iterator[T_co]:
        return iter(self.customers)


def exclusions(notices: Iterable[Notice]) -> Exclusions:
    """Who is left out after all of these. Of one subject, the later in the log counts: they alternate."""
    held: dict[bool, dict[UUID, bool]] = {True: {}, False: {}}
    for notice in sorted(notices):
        held[notice.restricts][notice.subject] = notice.holds
    restricted = frozenset(subject for subject, holds in held[True].items() if holds)
    objecting = frozenset(subject for subject, holds in held[False].items() if holds)
    return Exclusions(restricted, objecting - restricted)
