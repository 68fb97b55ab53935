"""Both executors over made-up histories: `python -m tests.differential --accounts 1_000_000`.

Each round draws, by its seed, a history of some thousand accounts and the rule sets that are adopted while it lasts, or
a candidate. Every word of every decision is compared (each lot, its points, its ages, each change of tier, what was
refused and why), and so is what came of each account where nothing is written. With `--backtests`, each round asks a
backtest of it: of redemptions that can't be paid, in hindsight, from a time on, without some customers. Ends with 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from itertools import pairwise, starmap
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
from benchmarks.histories import PROGRAMME, event_id, events_of, facts_of, swept
from tests.columnar import YEARS, ids

from tallybook.adapters import synth
from tallybook.adapters.rule_files import PACKAGED, frozen_zone
from tallybook.domain.calendar import DAY_US
from tallybook.domain.control import RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.earning import Rules
from tallybook.domain.errors import RuleSetError
from tallybook.domain.events import Decision, Event, Fact, Metadata
from tallybook.domain.loyalty import UNFUNDED
from tallybook.domain.points import BUCKETS
from tallybook.domain.rules import parse_rule_set
from tallybook.projections.backtest import CANONICAL, HINDSIGHT, Question, reference
from tallybook.projections.columnar.backtesting import partial_of
from tallybook.projections.columnar.executor import decisions_of, outcomes
from tallybook.projections.columnar.facts import Facts, with_tier_coupons
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.names import Names, words_of
from tallybook.projections.columnar.rulebook import Adoptions, Book
from tallybook.projections.exclusions import Exclusions
from tallybook.projections.read_models import Recorded
from tallybook.projections.replay import Derivation

CUSTOMERS = 1000
MEANS = (5, 8, 21)
"""Facts for each customer: what is drawn."""
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu")
_BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks" / "rule_sets"
_BOOK = UUID(int=2**99)


# ── rule sets ─────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _documents() -> Mapping[str, dict[str, Any]]:
    found = {path.stem: path.read_text(encoding="utf-8") for path in sorted(_BENCHMARKS.glob("*.toml"))}
    for name, file in PACKAGED.items():
        found[name] = files("tallybook").joinpath("data", file).read_text(encoding="utf-8")
    return {name: tomllib.loads(text) for name, text in found.items()}


_EXPIRIES: tuple[dict[str, Any], ...] = (
    {"months": 24, "until": "month_end", "from": "activated"},
    {"months": 6},
    {"months": 1, "until": "year_end"},
    {"days": 200, "from": "activated"},
    {"days": 45},
    {"never": True},
)
_PENDING: tuple[dict[str, Any] | None, ...] = (None, {"days": 14}, {"days": 60, "confirmed": True}, {"confirmed": True})
_WINDOWS: tuple[dict[str, Any], ...] = (
    {"window": "rolling", "window_months": 12, "hold_months": 12, "downgrade": "one_step"},
    {"window": "rolling", "window_months": 3},
    {"window": "rolling", "window_months": 6, "hold_months": 2, "grace_days": 30},
    {"window": "calendar_year"},
    {"window": "calendar_year", "grace_days": 45, "downgrade": "one_step"},
    {"window": "membership_year", "hold_months": 7},
    {"window": "membership_year", "downgrade": "never"},
    {"window": "lifetime"},
    {"window": "lifetime", "basis": "balance"},
)


def varied(random: Random, document: Mapping[str, Any]) -> dict[str, Any]:
    """A rule set like another: some of its policies are others, some of its rules are gone."""
    told = deepcopy(dict(document)) | {"programme": PROGRAMME}

    def drawn(name: str, *values: Any) -> None:
        if random.random() < 0.5:
            told.pop(name, None)
            if (value := random.choice(values)) is not None:
                told[name] = value

    drawn("zone", *ZONES)
    drawn("rounding", "floor", "ceil", "half_up", "half_even")
    drawn("inactivity_months", None, 3, 9)
    drawn("pending", *_PENDING)
    drawn("expiry", *_EXPIRIES)
    drawn("holds_days", 1, 40)
    drawn("caps", {}, {"day": 60}, {"month": 300, "year": 900}, {"event": 40})
    drawn("transfers", {"allowed": True, "keep_ages": False}, {"allowed": True}, {"allowed": False})
    drawn(
        "limits", [], [{"on": "redeem", "period": "month", "count": 1}, {"on": "earn", "period": "day", "points": 80}]
    )
    refunds = [
        {"earning": earning, "redemption": redemption}
        for earning in ("pending_only", "within_balance", "debt")
        for redemption in ("original", "new_lot")
    ]
    drawn("refunds", *refunds)
    if random.random() < 0.5:
        kept = {name: told["tiers"][name] for name in ("levels", "qualify") if name in told["tiers"]}
        told["tiers"] = kept | random.choice(_WINDOWS)
    if random.random() < 0.3:
        told["tiers"]["qualify"] = random.choice(("points", "base"))
    rules = [rule for rule in told["earning"] if random.random() < 0.85]
    if any(rule["kind"] != "multiplier" for rule in rules):
        told["earning"] = rules
        giving = [rule for rule in rules if rule["kind"] in ("per_amount", "per_piece")]
        if giving and random.random() < 0.3:
            # What the shortest way is for (`machine.plain`): one rule, and all that multiplies.
            told["earning"] = [random.choice(giving), *(rule for rule in rules if rule["kind"] == "multiplier")]
            told["limits"] = [limit for limit in told.get("limits", []) if limit["on"] != "earn"]
        groups = {rule["group"] for rule in rules if "group" in rule}
        told["groups"] = {name: how for name, how in told.get("groups", {}).items() if name in groups}
    for rule in told["earning"]:
        if rule["kind"] != "multiplier" and random.random() < 0.2:
            rule["expiry"] = random.choice(_EXPIRIES)
        if rule["kind"] != "multiplier" and random.random() < 0.2:
            rule["pending"] = random.choice(_PENDING[1:])
        if rule["kind"] != "multiplier" and random.random() < 0.1:
            rule["gives"] = random.choice(("both", "points", "qualifying"))
    return told


def drawn_rules(random: Random) -> Rules:
    """The rule set of a benchmark, or one that ships, or one like those."""
    documents = _documents()
    often = [4 if name == "every" else 1 for name in documents]
    (document,) = random.choices([*documents.values()], often)
    while True:
        told = varied(random, document) if random.random() < 0.8 else {**document, "programme": PROGRAMME}
        # What is drawn may hold two policies that don't go together.
        with suppress(RuleSetError):
            rule_set = parse_rule_set(told, "drawn")
            return Rules(rule_set, frozen_zone(rule_set.zone))


# ── a round ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a round came to."""

    seed: int
    accounts: int = 0
    facts: int = 0
    decisions: int = 0
    given_up: int = 0
    """Accounts that the domain can't follow: no command has made these histories."""
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Case:
    """A history, what the book itself does meanwhile, and a candidate, if there is one."""

    names: Names
    facts: Facts
    control: list[tuple[int, Event]]
    candidate: Rules | None

    @classmethod
    def drawn(cls, seed: int, customers: int) -> Case:
        """By a seed."""
        random, names = Random(seed), Names()
        made = synth.History(seed, customers, customers * random.choice(MEANS))
        found = facts_of(synth.chunks(made), names)
        facts = replace(found, position=found.position * 2)
        # Between any two facts there is room for what the book itself does.
        last = int(facts.position.max())
        control: list[tuple[int, Event]] = []
        candidate = None
        rules = [drawn_rules(random)]
        if random.random() < 0.4:
            (candidate,) = rules
        else:
            control.append((1, adopted(rules[0], 0, 1)))
            for _ in range(random.choice((0, 0, 1, 2))):
                rules.append(drawn_rules(random))
                position = random.randrange(3, last, 2)
                then_us = int(np.sort(facts.at_us)[position // 2]) + random.randrange(-90, 90) * DAY_US
                control.append((position, adopted(rules[-1], then_us, position)))
        if random.random() < 0.5:
            facts = disturbed(facts, rules, names, random)
        if random.random() < 0.5:
            position = random.randrange(3, last - 4, 2)
            until_us = int(np.sort(facts.at_us)[position // 2])
            passed_over = tuple(sorted(stream for stream, _, _ in facts.accounts if random.random() < 0.02))
            told: dict[str, Any] = {**_TOLD, "effective_us": until_us, "until_us": until_us}
            control.append((position, Swept(event_id=event_id(position), **told)))
            if random.random() < 0.8:
                told |= {"accounts": len(facts.accounts), "decisions": 0, "passed_over": passed_over}
                done = position + random.choice((2, 4))
                control.append((done, SweepFinished(event_id=event_id(done), **told)))
        taken: dict[int, Event] = {}
        for position, event in sorted(control, key=lambda one: one[0]):
            taken.setdefault(position, event)
        return cls(names, facts, [*taken.items(), *(swept(facts) if random.random() < 0.7 else ())], candidate)


def disturbed(facts: Facts, rules: Iterable[Rules], names: Names, random: Random) -> Facts:
    """The same facts, of which some are told late, and some are overrides of tiers: those that no other fact names."""
    kind, at_us, account = facts.kind.copy(), facts.at_us.copy(), facts.account.copy()
    slots = facts.slots.copy(order="K")
    named = np.zeros(len(facts), np.bool_)
    for number, columns in m.NAMING.items():
        for column in columns:
            rows = slots[kind == number, column]
            named[rows[rows >= 0]] = True
    # Most often the lowest one, which most hold anyway: such an override may end without effect.
    levels = [one.rule_set.tiers.levels for one in rules if one.rule_set.tiers]
    tiers = [names.tier(level.name) for of in levels for level in (*of[:1] * len(of), *of)]
    overridden, late = random.choice((0, 0.1, 0.4)) if tiers else 0, random.choice((0.05, 0.5))
    for first, last in pairwise(facts.first.tolist()):
        holder, enrolled_us = -1, 0
        for row in range(first, last):
            if kind[row] == m.F_ENROLLED:
                holder, enrolled_us = int(account[row]), int(at_us[row])
            elif kind[row] in (m.F_PURCHASE, m.F_ACTIVITY, m.F_GOODWILL) and holder >= 0:
                # Before it enrolled an account has nothing to be told of it.
                if random.random() < late:
                    at_us[row] = max(at_us[row] - random.randrange(1, 400 * DAY_US), enrolled_us)
                if not named[row] and random.random() < overridden:
                    until_us = at_us[row] + random.choice((1, 20, 90, 500)) * DAY_US
                    kind[row], account[row] = m.F_OVERRIDE, holder
                    slots[row] = random.choice(tiers), until_us, m.NONE, m.NONE
    return replace(facts, kind=kind, at_us=at_us, account=account, slots=slots)


_TOLD: dict[str, Any] = {
    "originator_id": _BOOK,
    "originator_version": 1,
    "subject_id": None,
    "metadata": Metadata(recorded_us=0, actor="system:synth", purpose="administration"),
}


def adopted(rules: Rules, at_us: int, position: int) -> Event:
    """A rule set is adopted."""
    zone, rule_set = rules.zone, rules.rule_set
    return RuleSetAdopted(
        event_id=event_id(position),
        effective_us=at_us,
        programme=PROGRAMME,
        name=rule_set.name,
        version=rule_set.version,
        digest=rule_set.digest(),
        document=rule_set.canonical(),
        zone_name=zone.name,
        tzdata=zone.tzdata,
        zone_starts_us=zone.starts_us,
        zone_offsets_s=zone.offsets_s,
        **_TOLD,
    )


Steps = dict[UUID, list[tuple[int, list[Decision]]]]


def by_reference(case: Case) -> tuple[Derivation, Steps, set[UUID]]:
    """What the domain's own code decides about each account, and the accounts that it can't follow."""
    decided: Steps = {}
    given_up: set[UUID] = set()
    derivation = Derivation(case.candidate, lambda stream, _customer, _error: given_up.add(stream))

    def note(position: int, derived: Any) -> None:
        for account, decisions in derived:
            if decisions:
                decided.setdefault(account.id, []).append((position, decisions))

    history = sorted([*events_of(case.facts, case.names), *case.control], key=lambda one: one[0])
    for position, event in history:
        if isinstance(event, Fact):
            note(position, derivation.feed(event))
    note(m.END, derivation.follow_sweep())
    return derivation, decided, given_up


def differences(case: Case, alter: Callable[[Book], object] = lambda _: None) -> Iterator[str | tuple[int, int, int]]:
    """What differs, told; at the end how many accounts, decisions, and accounts that were given up. `alter` what the
    machine runs by: what it does must be found."""
    derivation, decided, given_up = by_reference(case)
    facts, names = case.facts, case.names
    book = Book(Adoptions(PROGRAMME, case.control, case.candidate), names)
    with_tier_coupons(facts, book.grants, YEARS, names)
    alter(book)
    taken = [*facts.position.tolist(), *(position for position, _ in case.control)]
    positions = {event_id(position): position for position in taken}
    known = [place for place, (stream, _, _) in enumerate(facts.accounts) if stream not in given_up]
    of_account = {facts.accounts[place][0]: place for place in known}
    count = 0
    seen: set[UUID] = set()
    for place, steps in decisions_of(facts, book):
        account = facts.accounts[place][0]
        if account not in of_account:
            continue
        seen.add(account)
        id_of = ids(account, positions, book.grants, names)
        expected = [
            (at, [word for one in told for word in words_of(one, names, id_of, everything=True)])
            for at, told in decided.get(account, [])
        ]
        count += sum(len(told) for _, told in decided.get(account, []))
        found = [(position, words.tolist()) for position, words in steps]
        if found != expected:
            first = next((pair for pair in zip(expected, found, strict=False) if pair[0] != pair[1]), "one has more")
            yield f"account {account}: {first}"
    if missing := of_account.keys() - seen:
        yield f"{len(missing)} accounts were left out"
    places, out = outcomes(facts, book)
    for place, row in zip(places.tolist(), out.tolist(), strict=True):
        of_domain = derivation.accounts.get(facts.accounts[place][0])
        if of_domain is None or of_domain.id not in of_account:
            continue
        balances = [of_domain.bucket(bucket) for bucket in BUCKETS]
        tier = -1 if of_domain.tier is None else names.tiers[of_domain.tier]
        if balances != row[m.O_BUCKETS :] or tier != row[m.O_TIER]:
            yield f"account {of_domain.id}: {row}, and by the domain's code {balances}, tier {tier}"
    yield len(of_account), count, len(given_up)


def question(case: Case, random: Random) -> Question:
    """What a backtest of a history asks: any of all that it can be asked."""
    restricted, objecting = (
        frozenset(customer for customer in case.facts.customers if random.random() < 0.01) for _ in range(2)
    )
    return Question(
        case.candidate or drawn_rules(random),
        drawn_rules(random) if random.random() < 0.3 else None,
        random.choice(UNFUNDED),
        random.choice((CANONICAL, HINDSIGHT)),
        # Before there are rules nobody enrols.
        None if case.candidate else random.choice((None, int(np.median(case.facts.at_us)))),
        Exclusions(restricted, objecting - restricted),
    )


def backtested(case: Case, asked: Question) -> Iterator[str]:
    """What a backtest says otherwise by columns: sums, digests of all accounts' outcomes, movers."""
    events = sorted([*events_of(case.facts, case.names), *case.control], key=lambda one: one[0])
    expected, _, _ = reference(starmap(Recorded, events), asked)
    # What the book itself does is counted once, not with each part of its customers.
    expected.sums["facts",] -= len(case.control)
    names = Names()
    names.take_over(case.names)
    found = partial_of(case.facts.split(1 + len(case.facts) % 7), case.control, asked, names)
    for key in expected.sums.keys() | found.sums.keys():
        if expected.sums[key] != found.sums[key]:
            yield f"{key}: {expected.sums[key]}, and by columns {found.sums[key]}"
    if expected.digests != found.digests:
        yield "what came of accounts is another by columns"
    if (expected.gained, expected.lost) != (found.gained, found.lost):
        yield "others gain or lose most by columns"


def one(seed: int, customers: int = 0) -> Verdict:
    """A round."""
    case = Case.drawn(seed, customers or CUSTOMERS)
    *found, counts = differences(case)
    assert isinstance(counts, tuple)
    accounts, decisions, given_up = counts
    return Verdict(seed, accounts, len(case.facts), decisions, given_up, [str(told) for told in found])


def one_backtest(seed: int, customers: int = 0) -> Verdict:
    """A round that compares a backtest."""
    case = Case.drawn(seed, customers or CUSTOMERS)
    asked = question(case, Random(seed))
    found = list(backtested(case, asked))
    return Verdict(seed, len(case.facts.accounts), len(case.facts), 0, 0, found)


def main() -> int:
    """The whole run."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__.partition("\n")[0])
    parser.add_argument("--accounts", type=int, default=20_000, help="at least so many accounts: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the first round: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="processes: %(default)s")
    parser.add_argument("--backtests", action="store_true", help="compare a backtest of each, in place of decisions")
    given = parser.parse_args()
    run = one_backtest if given.backtests else one
    started = time.monotonic()
    accounts = facts = decisions = given_up = different = rounds = 0
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        seed = given.seed
        while accounts < given.accounts:
            batch = range(seed, seed + 4 * given.jobs)
            seed = batch.stop
            for verdict in pool.map(run, batch):
                accounts, facts = accounts + verdict.accounts, facts + verdict.facts
                decisions, given_up = decisions + verdict.decisions, given_up + verdict.given_up
                different, rounds = different + len(verdict.differences), rounds + 1
                for told in verdict.differences[:3]:
                    print(f"seed {verdict.seed}: {told}", flush=True)
            print(f"{accounts:,} accounts, {different:,} differences", file=sys.stderr, flush=True)
    print(
        f"{rounds:,} rounds from seed {given.seed} in {time.monotonic() - started:,.0f} s: {accounts:,} accounts, "
        f"{facts:,} facts, {decisions:,} decisions; {different:,} differences. "
        f"{given_up:,} accounts have histories that no rules can follow."
    )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
