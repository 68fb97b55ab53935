"""The book's own stream: which rule sets were adopted from when on, and up to when sweeps ran.

Commands that decide read this fold, and are recorded only if it has not moved meanwhile; so for every fact the log
itself tells which rule sets were known when the decisions about it were made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, NamedTuple
from uuid import UUID

from .aggregate import Aggregate, Appliers, Stamp, applies
from .calendar import Zone
from .earning import Rules, compiled
from .errors import not_a_document, refusal
from .events import Code, Fact, stored
from .rules import RuleSet


@stored("book.rule_set_adopted")
class RuleSetAdopted(Fact):
    """A rule set is in force for its programme from `effective_us` on. Holds all that it depends on.

    `backtest` is the report on it that the adoption rests on, by its SHA-256; `reason` is why.
    """

    programme: Code
    name: Code
    version: Code
    digest: str
    document: str
    zone_name: str
    tzdata: str
    zone_starts_us: tuple[int, ...]
    zone_offsets_s: tuple[int, ...]
    reason: Code | None = None
    backtest: str | None = None


@stored("book.rule_set_proposed")
class RuleSetProposed(Fact):
    """A rule set is put forward for adoption, with the reason. It decides nothing yet."""

    programme: Code
    name: Code
    version: Code
    digest: str
    document: str
    reason: Code


@stored("book.rule_set_backtested")
class RuleSetBacktested(Fact):
    """A candidate was tried on the book's facts up to a position; `report` is the SHA-256 of what came out, in hex."""

    programme: Code
    name: Code
    version: Code
    digest: str
    report: str
    position: int


@stored("book.rule_set_withdrawn")
class RuleSetWithdrawn(Fact):
    """A proposal is no longer put forward, with the reason."""

    programme: Code
    digest: str
    reason: Code


@stored("book.adoption_guarded")
class AdoptionGuarded(Fact):
    """From now on, a rule set of the programme is adopted only with a backtest of it on record; or without, again."""

    programme: Code
    backtest: bool
    reason: Code


@stored("book.swept")
class Swept(Fact):
    """Time-driven decisions are due up to `until_us`; the accounts follow in commits of their own, up to SweepFinished.

    No rule set is adopted in between, so that it does not matter when an account follows.
    """

    until_us: int


@stored("book.sweep_finished")
class SweepFinished(Fact):
    """Every account followed a sweep, but for those that could not be settled and were `passed_over`: the next sweep
    tries again. `decisions` were recorded. Without it, a sweep may have been cut short.
    """

    until_us: int
    accounts: int
    decisions: int
    passed_over: tuple[UUID, ...] = ()


@stored("book.wrapping_key_rotated")
class WrappingKeyRotated(Fact):
    """All data keys were wrapped under a new wrapping key, and the old one destroyed. Both by their fingerprints."""

    old: str
    new: str


class Adopted(NamedTuple):
    """What the book knows of one adoption."""

    effective_us: int
    programme: str
    name: str
    version: str
    digest: str
    document: str
    zone: Zone

    def rules(self) -> Rules:
        """The rule set, ready to decide. Raises StoredFormError where the document is none."""
        try:
            return compiled(self.document, self.zone)
        except ValueError as error:
            raise not_a_document("rule set", f"{self.name}@{self.version}", error) from error


class Proposed(NamedTuple):
    """A rule set that was put forward."""

    programme: str
    name: str
    version: str
    digest: str
    document: str


class Finished(NamedTuple):
    """What the last sweep recorded."""

    accounts: int
    decisions: int
    passed_over: tuple[UUID, ...] = ()
    """Accounts that could not be settled."""


class RuleBook:
    """The adoptions known at some moment. Immutable."""

    __slots__ = ("_adoptions", "_counts", "_in_force")

    def __init__(self, adoptions: tuple[tuple[int, str, Rules], ...] = ()) -> None:
        # (effective_us, programme, rules) in the order of recording
        self._adoptions = adoptions
        self._counts = Counter(name for _, name, _ in adoptions)
        # From when on each is in force, rising: of two from the same time the last that was adopted.
        self._in_force: dict[str, tuple[list[int], list[Rules]]] = {}
        for programme in self._counts:
            starts = {at: rules for at, name, rules in adoptions if name == programme}
            self._in_force[programme] = (sorted(starts), [starts[at] for at in sorted(starts)])

    def adding(self, effective_us: int, programme: str, rules: Rules) -> RuleBook:
        """The rule book with one more adoption."""
        return RuleBook((*self._adoptions, (effective_us, programme, rules)))

    def in_force(self, programme: str, at_us: int) -> Rules | None:
        """The rules for a moment: of those effective by then the latest; of two from the same time the last adopted."""
        starts, rules = self._in_force.get(programme, _NONE)
        place = bisect_right(starts, at_us)
        return rules[place - 1] if place else None

    def starts(self, programme: str, after_us: int, until_us: int) -> list[int]:
        """Moments in (after, until] from which a rule set of the programme is in force, rising."""
        starts, _ = self._in_force.get(programme, _NONE)
        return starts[bisect_right(starts, after_us) : bisect_right(starts, until_us)]

    def in_order(self, programme: str) -> list[tuple[int, Rules]]:
        """From when on each rule set of a programme is in force, rising."""
        return list(zip(*self._in_force.get(programme, _NONE), strict=True))

    def programmes(self) -> tuple[str, ...]:
        """Programmes with an adoption, in the order of their first."""
        return tuple(self._counts)

    def count(self, programme: str) -> int:
        """How many adoptions a programme has."""
        return self._counts[programme]

    def __len__(self) -> int:
        return len(self._adoptions)


_NONE: tuple[list[int], list[Rules]] = ([], [])


class Control(Aggregate):
    """The fold of the book's own stream."""

    CONTAINERS = ("backtested",)
    APPLIERS: ClassVar[Appliers] = {}

    horizon_us: int | None = None
    swept_under: int = 0
    """How many adoptions the last sweep knew."""
    finished: Finished | None = None
    adopted: tuple[Adopted, ...] = ()
    proposed: tuple[Proposed, ...] = ()
    """Rule sets that are put forward and neither adopted nor withdrawn, in the order of their proposal."""
    backtested: dict[str, str]
    """Digest of a rule set → the last report on it."""
    guarded: tuple[str, ...] = ()
    """Programmes whose rule sets are adopted with a backtest only."""
    wrapping: str | None = None
    """Fingerprint of the wrapping key that the last rotation led to; None where there was none."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(stream_id)
        self.rule_book = RuleBook()
        self.backtested = {}

    def derive(self) -> None:
        """The rule book, from the adoptions."""
        self.rule_book = RuleBook(tuple((one.effective_us, one.programme, one.rules()) for one in self.adopted))

    @property
    def sweep_is_finished(self) -> bool:
        """Whether every account followed the last sweep that can be settled. True too where none ran."""
        return self.horizon_us is None or self.finished is not None

    @property
    def passed_over(self) -> tuple[UUID, ...]:
        """Accounts that have not followed the last sweep, though it is finished: they could not be settled."""
        return () if self.finished is None else self.finished.passed_over

    def finish_sweep(
        self, stamp: Stamp, accounts: int, decisions: int, passed_over: Sequence[UUID] = ()
    ) -> SweepFinished | None:
        """Every account followed the last sweep, but for some. None if that is known, or there was none."""
        if self.horizon_us is None or self.sweep_is_finished:
            return None
        return self.record(
            SweepFinished,
            stamp,
            None,
            until_us=self.horizon_us,
            accounts=accounts,
            decisions=decisions,
            passed_over=tuple(passed_over),
        )

    def propose(self, stamp: Stamp, rule_set: RuleSet, reason: str) -> RuleSetProposed | None:
        """Put a rule set forward. None if it is already. Refuses: rule_set_adopted, with other content."""
        digest = rule_set.digest()
        self._must_be_the_same(rule_set, digest)
        if any(one.digest == digest for one in self.proposed):
            return None
        return self.record(
            RuleSetProposed,
            stamp,
            None,
            programme=rule_set.programme,
            name=rule_set.name,
            version=rule_set.version,
            digest=digest,
            document=rule_set.canonical(),
            reason=reason,
        )

    def withdraw(self, stamp: Stamp, programme: str, digest: str, reason: str) -> RuleSetWithdrawn:
        """A proposal is put forward no longer. Refuses: not_proposed."""
        if not any((one.programme, one.digest) == (programme, digest) for one in self.proposed):
            raise refusal("not_proposed", "No such rule set is put forward.", digest=digest)
        return self.record(RuleSetWithdrawn, stamp, None, programme=programme, digest=digest, reason=reason)

    def backtest(self, stamp: Stamp, rule_set: RuleSet, report: str, position: int) -> RuleSetBacktested:
        """A candidate was tried."""
        return self.record(
            RuleSetBacktested,
            stamp,
            None,
            programme=rule_set.programme,
            name=rule_set.name,
            version=rule_set.version,
            digest=rule_set.digest(),
            report=report,
            position=position,
        )

    def guard(self, stamp: Stamp, programme: str, backtest: bool, reason: str) -> AdoptionGuarded | None:
        """Demand a backtest before an adoption, or not any more. None if it is so."""
        if (programme in self.guarded) == backtest:
            return None
        return self.record(AdoptionGuarded, stamp, None, programme=programme, backtest=backtest, reason=reason)

    def _must_be_the_same(self, rule_set: RuleSet, digest: str) -> None:
        named = (rule_set.programme, rule_set.name, rule_set.version)
        for adopted in self.adopted:
            if (adopted.programme, adopted.name, adopted.version) == named and adopted.digest != digest:
                raise refusal(
                    "rule_set_adopted",
                    f"{rule_set.label} was adopted with other content.",
                    rule_set=rule_set.label,
                    adopted=adopted.digest,
                    given=digest,
                )

    def adopt(
        self, stamp: Stamp, rule_set: RuleSet, zone: Zone, *, reason: str | None = None, backtest: str | None = None
    ) -> RuleSetAdopted | None:
        """Put a rule set in force from the stamp's effective time on. None if it is already, unchanged, from then.

        Not while a sweep is under way: all accounts follow it under the same rules. Refuses: rule_set_adopted,
        sweep_unfinished, backtest_required.
        """
        digest = rule_set.digest()
        self._must_be_the_same(rule_set, digest)
        known = self.backtested.get(digest, "")
        if (rule_set.programme in self.guarded and not backtest) or (backtest and backtest != known):
            raise refusal(
                "backtest_required",
                f"A backtest of {rule_set.label} on this book is wanted, by its digest.",
                rule_set=rule_set.label,
                given=backtest,
                known=known or None,
            )
        in_force = [
            adopted
            for adopted in self.adopted
            if (adopted.programme, adopted.effective_us) == (rule_set.programme, stamp.effective_us)
        ]
        if in_force and in_force[-1].digest == digest:
            return None
        if not self.sweep_is_finished:
            raise refusal("sweep_unfinished", "A sweep is under way.", until_us=self.horizon_us)
        return self.record(
            RuleSetAdopted,
            stamp,
            None,
            programme=rule_set.programme,
            name=rule_set.name,
            version=rule_set.version,
            digest=digest,
            document=rule_set.canonical(),
            zone_name=zone.name,
            tzdata=zone.tzdata,
            zone_starts_us=zone.starts_us,
            zone_offsets_s=zone.offsets_s,
            reason=reason,
            backtest=backtest,
        )

    def rotated_wrapping_key(self, stamp: Stamp, old: str, new: str) -> WrappingKeyRotated:
        """The wrapping key was rotated."""
        return self.record(WrappingKeyRotated, stamp, None, old=old, new=new)

    def sweep(self, stamp: Stamp, until_us: int) -> Swept | None:
        """Make time-driven decisions due up to a moment. None if they are already, up to exactly that moment, and no
        account was passed over.

        Refuses: sweep_goes_back.
        """
        horizon = self.horizon_us
        if horizon is not None and until_us < horizon:
            raise refusal("sweep_goes_back", "An earlier sweep went further.", until_us=until_us, horizon_us=horizon)
        if horizon == until_us and self.swept_under == len(self.rule_book) and not self.passed_over:
            return None  # a sweep that was cut short goes on
        return self.record(Swept, stamp, None, until_us=until_us)


@applies(Control.APPLIERS, RuleSetAdopted)
def _adopted(control: Control, event: RuleSetAdopted) -> None:
    zone = Zone(
        name=event.zone_name,
        tzdata=event.tzdata,
        starts_us=event.zone_starts_us,
        offsets_s=event.zone_offsets_s,
    )
    adopted = Adopted(
        event.effective_us, event.programme, event.name, event.version, event.digest, event.document, zone
    )
    control.adopted = (*control.adopted, adopted)
    control.proposed = tuple(one for one in control.proposed if one.digest != event.digest)
    control.rule_book = control.rule_book.adding(event.effective_us, event.programme, adopted.rules())


@applies(Control.APPLIERS, RuleSetProposed)
def _proposed(control: Control, event: RuleSetProposed) -> None:
    one = Proposed(event.programme, event.name, event.version, event.digest, event.document)
    control.proposed = (*control.proposed, one)


@applies(Control.APPLIERS, RuleSetWithdrawn)
def _withdrawn(control: Control, event: RuleSetWithdrawn) -> None:
    control.proposed = tuple(one for one in control.proposed if one.digest != event.digest)


@applies(Control.APPLIERS, RuleSetBacktested)
def _backtested(control: Control, event: RuleSetBacktested) -> None:
    control.backtested[event.digest] = event.report


@applies(Control.APPLIERS, AdoptionGuarded)
def _guarded(control: Control, event: AdoptionGuarded) -> None:
    others = tuple(one for one in control.guarded if one != event.programme)
    control.guarded = (*others, event.programme) if event.backtest else others


@applies(Control.APPLIERS, Swept)
def _swept(control: Control, event: Swept) -> None:
    control.horizon_us = event.until_us
    control.finished = None
    control.swept_under = len(control.rule_book)


@applies(Control.APPLIERS, SweepFinished)
def _sweep_finished(control: Control, event: SweepFinished) -> None:
    control.finished = Finished(event.accounts, event.decisions, event.passed_over)


@applies(Control.APPLIERS, WrappingKeyRotated)
def _wrapping_key_rotated(control: Control, event: WrappingKeyRotated) -> None:
    control.wrapping = event.new
