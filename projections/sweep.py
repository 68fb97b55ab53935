"""A sweep: many candidates tried on the same history, and which of them are worth a closer look."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any

from .backtest import ASSUMED, Key, Question, Totals, totals_of


@dataclass(frozen=True, slots=True)
class Scenario:
    """What would come of one candidate.

    `cost`: the points that it gives beyond what the baseline gives; `liability`: those outstanding or pending at the
    end. `within_budget`: whether the cost is; None: no budget was given. `efficient`: no other scenario costs as
    little, leaves as little liability and moves as many more members up than down, and is better in one of these.
    """

    name: str
    candidate: str
    digest: str
    cost: int
    liability: int
    moved_up: int
    moved_down: int
    gain_points: int
    lose_points: int
    unfunded_redemptions: int
    newly_funded_redemptions: int
    short_points: int
    totals: Totals
    within_budget: bool | None = None
    efficient: bool = False


@dataclass(slots=True)
class Sweep:
    """Scenarios on the same history, in the order in which they were named; `before` is what the baseline gives."""

    baseline: str
    programme: str
    unfunded: str
    order: str
    since_us: int | None
    budget: int | None
    position: int
    facts: int
    accounts: int
    restricted: int
    objecting: int
    before: Totals
    scenarios: tuple[Scenario, ...] = ()
    executor: str = "reference"
    why: str = ""
    seconds: float = field(default=0.0, compare=False)

    def digest(self) -> str:
        """SHA-256 in hex: the same candidates on the same facts give the same."""
        told = {name: value for name, value in asdict(self).items() if name not in _BESIDE}
        return sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """All of it for machines, with its digest."""
        return asdict(self) | {"assumed": ASSUMED, "digest": self.digest()}


_BESIDE = ("position", "executor", "why", "seconds")


def sweep_of(
    questions: Sequence[tuple[str, Question]],
    sums: Sequence[Mapping[Key, int]],
    budget: int | None,
    position: int,
    executor: str,
    why: str = "",
) -> Sweep:
    """What was found under each candidate (`sums`, as in `Partial`), side by side."""
    first, found = questions[0][1], sums[0]
    before = totals_of(found, "before")
    scenarios = [
        _scenario(name, question, one, before, budget) for (name, question), one in zip(questions, sums, strict=True)
    ]
    return Sweep(
        first.baseline.label if first.baseline else "as recorded",
        first.programme,
        first.unfunded,
        first.order,
        first.since_us,
        budget,
        position,
        found.get(("facts",), 0),
        found.get(("accounts",), 0),
        found.get(("restricted",), 0),
        found.get(("objecting",), 0),
        before,
        _marked(scenarios),
        executor,
        why,
    )


def _scenario(name: str, question: Question, sums: Mapping[Key, int], before: Totals, budget: int | None) -> Scenario:
    after = totals_of(sums, "after")
    cost = after.earned - before.earned
    counts = ("moved_up", "moved_down", "gain_points", "lose_points", "unfunded", "newly_funded", "short")
    up, down, gain, lose, unfunded, funded, short = (sums.get((what,), 0) for what in counts)
    return Scenario(
        name,
        question.candidate.label,
        question.candidate.rule_set.digest(),
        cost,
        after.outstanding + after.pending,
        up,
        down,
        gain,
        lose,
        unfunded,
        funded,
        short,
        after,
        None if budget is None else cost <= budget,
    )


def _aims(one: Scenario) -> tuple[int, int, int]:
    """What is to be small."""
    return one.cost, one.liability, one.moved_down - one.moved_up


def _marked(scenarios: Iterable[Scenario]) -> tuple[Scenario, ...]:
    """Scenarios, the efficient ones marked."""
    found = list(scenarios)
    aims = [_aims(one) for one in found]

    def beaten(mine: tuple[int, ...]) -> bool:
        return any(other != mine and all(o <= m for o, m in zip(other, mine, strict=True)) for other in aims)

    return tuple(replace(one, efficient=not beaten(mine)) for one, mine in zip(found, aims, strict=True))
