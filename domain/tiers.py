"""Which tier an account holds: by its qualifying points in a window, at once upwards, downwards as the rules say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple, Protocol

from . import arithmetic
from .calendar import Zone
from .copy_on_write import Place, SortedAmounts
from .rules import RuleSet, Tiers

DOWNGRADES = {"straight": arithmetic.STRAIGHT, "one_step": arithmetic.ONE_STEP, "never": arithmetic.KEEP}

Window = SortedAmounts[tuple[int, int]]
"""(earned_us, qualifying points), each moment once."""


class Standing(Protocol):
    """What of an account its tier depends on."""

    tier: str | None
    tier_since_us: int
    enrolled_us: int
    window: Window

    @property
    def standing(self) -> str | None:
        """The tier that the rules decided on last."""
        ...

    @property
    def active(self) -> int:
        """Points that can be spent."""
        ...


class Ladder:
    """The tiers of a rule set, ready to decide."""

    def __init__(self, rule_set: RuleSet, zone: Zone) -> None:
        tiers = rule_set.tiers
        self.tiers: Tiers = tiers
        self.zone = zone
        self.names = [level.name for level in tiers.levels]
        self.base = self.names[0]
        self._ranks = {name: rank for rank, name in enumerate(self.names)}
        self._thresholds = [level.threshold for level in tiers.levels]
        self._keeps = [level.keeps for level in tiers.levels]
        self._downgrade = DOWNGRADES[tiers.downgrade]
        self.yearly = tiers.window in ("calendar_year", "membership_year")

    def rank(self, tier: str | None) -> int:
        """A tier's place from 0; −1 for none, or one that these rules don't know."""
        return self._ranks.get(tier or "", -1)

    def reached(self, points: int, held: int = -1) -> str:
        """The tier that so many points hold, for somebody at a rank."""
        return self.names[arithmetic.level_reached(points, self._thresholds, self._keeps, held)]

    # ── what counts ─────────────────────────────────────────────────────────────────────────────────────────────

    def qualifying(self, account: Standing, at_us: int) -> int:
        """The points that count for the tier at a moment: the greater of two years' sums, where windows are years."""
        if self.tiers.basis == "balance":
            return account.active
        if not self.yearly:
            return self._sum(account.window, self._first(account, at_us), at_us)
        start = self.year_start(account, at_us, 0)
        before = self.year_start(account, at_us, -1)
        return max(
            self._sum(account.window, _from(account.window, start), at_us),
            self._sum(account.window, _from(account.window, before), start - 1),
        )

    def counted(self, account: Standing, at_us: int) -> list[tuple[int, int]]:
        """What counts at a moment: when it was earned, and how many points. Of two years, those of both."""
        if self.tiers.basis == "balance":
            return []
        if self.yearly:
            first = _from(account.window, self.year_start(account, at_us, -1))
        else:
            first = self._first(account, at_us)
        return list(takewhile(lambda entry: entry[0] <= at_us, account.window.from_place(first)))

    def counts_until(self, account: Standing, earned_us: int) -> int:
        """When points that were earned at a moment cease to count; 2**62: never."""
        if self.yearly:
            return self.year_start(account, earned_us, 2)
        months = self.tiers.window_months
        return 2**62 if months is None else self.zone.months_after(earned_us, months)

    def year_start(self, account: Standing, at_us: int, years: int) -> int:
        """When the calendar or membership year of a moment began, or one so many years later."""
        joined_us = None if self.tiers.window == "calendar_year" else account.enrolled_us
        return self.zone.year_start(at_us, years, joined_us)

    def _first(self, account: Standing, at_us: int) -> Place:
        window, months = account.window, self.tiers.window_months
        if not window or months is None:
            return 0, 0
        zone = self.zone
        if zone.months_after(window.first[0], months) > at_us:
            return 0, 0
        return window.after(at_us, lambda entry: zone.months_after(entry[0], months))

    @staticmethod
    def _sum(window: Window, first: Place, until_us: int) -> int:
        points = window.total_from(first)
        if window and window.last[0] > until_us:
            points -= window.total_from(max(first, window.after(until_us, lambda entry: entry[0])))
        return points

    # ── where the tier goes ─────────────────────────────────────────────────────────────────────────────────────

    def after_points(self, account: Standing, at_us: int, *, reversed_: bool) -> Change:
        """The tier after points came or went: up at once; down at once where a return took them, or by the balance."""
        points = self.qualifying(account, at_us)
        held = self.rank(account.standing)
        earned = self.rank(self.reached(points, held))
        if earned < held and not reversed_:
            if self.tiers.basis == "balance":
                earned = arithmetic.level_after(held, earned, self._downgrade)
            else:
                return Change(account.tier or self.base, points)
        return Change(self.names[max(earned, 0)], points)

    def by_time(self, account: Standing, at_us: int) -> Change:
        """The tier at a moment of `moments`, or at one from which other rules are in force."""
        points = self.qualifying(account, at_us)
        held = self.rank(account.tier)
        earned = self.rank(self.reached(points, held))
        if earned >= held:
            return Change(self.names[earned], points)
        tiers = self.tiers
        if at_us < self._held_until(account) or (
            self.yearly and account.tier_since_us >= self.year_start(account, at_us, 0)
        ):  # what was decided in a year holds until it ends
            return Change(self.names[held], points)
        if tiers.grace_days:
            most = self._most_since(account, self.zone.add_days(at_us, -tiers.grace_days), at_us)
            if self.rank(self.reached(most, held)) >= held:
                return Change(self.names[held], points)
        return Change(self.names[arithmetic.level_after(held, earned, self._downgrade)], points)

    def moments(self, account: Standing, after_us: int, until_us: int) -> Iterator[int]:
        """Moments after one, up to another, at which time alone may lower the tier; in no order."""
        tiers, held = self.tiers, self.rank(account.tier)
        if tiers.basis == "balance" or tiers.window == "lifetime" or held <= 0:
            return
        grace = tiers.grace_days
        hold_us = self._held_until(account)
        if after_us < hold_us <= until_us:
            yield hold_us
        for at_us, left in self._ends(account, after_us if not grace else self.zone.add_days(after_us, -grace)):
            if at_us > until_us:
                return
            if left >= self._keeps[held]:
                continue
            due_us = self.zone.add_days(at_us, grace) if grace else at_us
            if after_us < due_us <= until_us:
                yield due_us

    def _ends(self, account: Standing, after_us: int) -> Iterator[tuple[int, int]]:
        """Moments at which points cease to count, rising, with how many are left then; -1: that is to be looked up."""
        if self.yearly:
            years = 1
            while True:
                yield self.year_start(account, after_us, years), -1
                years += 1
        assert self.tiers.window_months is not None
        window, first = account.window, self._first(account, after_us)
        left = window.total_from(first)
        for earned_us, points in window.from_place(first):
            left -= points
            at_us = self.zone.months_after(earned_us, self.tiers.window_months)
            # Of those that end at one moment, the last one leaves what is left.
            yield at_us, left if window.last[0] <= at_us else -1

    def _held_until(self, account: Standing) -> int:
        """Until when a tier is held whatever is earned."""
        if not self.tiers.hold_months:
            return -(2**62)
        return self.zone.months_after(account.tier_since_us, self.tiers.hold_months)

    def _most_since(self, account: Standing, since_us: int, at_us: int) -> int:
        """The most that counted at any moment from one to another: it rises where something was earned only."""
        earned = takewhile(lambda entry: entry[0] <= at_us, account.window.from_place(_from(account.window, since_us)))
        moments = (earned_us for earned_us, points in earned if points)
        return max(self.qualifying(account, moment) for moment in (since_us, *moments))


class Change(NamedTuple):
    """A tier, and the points that decided it."""

    tier: str
    points: int


def _from(window: Window, at_us: int) -> Place:
    return window.after(at_us - 1, lambda entry: entry[0])
