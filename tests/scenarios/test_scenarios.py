"""The access review finds what was planted, all of it, and nothing else (see README.md beside this file)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from . import outsider
from .misdeeds import (
    BULK,
    DENIED,
    DORMANT,
    EXPORT,
    GUESSING,
    NO_CONSENT,
    OWN_TIES,
    SNOOPING,
    UNUSED_RIGHT,
    WAYS,
    Mischief,
    Misdeed,
    drawn,
)
from .office import LENIENT, NONE, PRIVACY, STRICT, Office, at_us, played
from .truth import Finding, Verdict, compare, review, told_as_seen

SEEDS = (1, 3)
"""An office with a policy, and one without. `make scenarios` plays a hundred."""
NOTHING = Verdict((), ())


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_drawn_is_found_and_nothing_else(seed: int, tmp_path: Path) -> None:
    office, mischief = drawn(seed)
    with played(office.steps, tmp_path, seed=str(seed)) as book:
        assert compare(mischief.truth, review(book), office) == NOTHING
        assert told_as_seen(book, mischief.truth, office) == []


def planted(kind: str, ways: Sequence[Callable[[Mischief], None]], seed: str = "fixed") -> tuple[Office, Mischief]:
    """An office with these misdeeds, as far as there are culprits for them."""
    office = Office(seed, kind)
    mischief = Mischief(office, seed)
    mischief.plan(ways)
    return office, mischief


# ── each misdeed, in one of a few offices ───────────────────────────────────────────────────────────────────────

OFFICES = {STRICT: 3, LENIENT: 2, NONE: 2}
"""How many are played of each kind: each with as many misdeeds at once as it has culprits for."""
PLANTED = {
    (STRICT, Mischief.the_ex): SNOOPING,
    (LENIENT, Mischief.celebrities): SNOOPING,
    (NONE, Mischief.the_ex): SNOOPING,
    (STRICT, Mischief.the_cover_up): SNOOPING,
    (NONE, Mischief.the_cover_up): SNOOPING,
    (STRICT, Mischief.the_covered_walk): OWN_TIES,
    (NONE, Mischief.the_covered_walk): OWN_TIES,
    (STRICT, Mischief.the_walk): BULK,
    (LENIENT, Mischief.the_list): BULK,
    (STRICT, Mischief.the_export): EXPORT,
    (STRICT, Mischief.the_prober): GUESSING,
    (STRICT, Mischief.the_refused_prober): GUESSING,
    (NONE, Mischief.the_peeker): SNOOPING,
    (STRICT, Mischief.between_campaigns): EXPORT,
    (STRICT, Mischief.without_consent_in_the_gap): NO_CONSENT,
    (NONE, Mischief.expired): SNOOPING,
    (STRICT, Mischief.expired): DENIED,
    (STRICT, Mischief.never_used): UNUSED_RIGHT,
    (STRICT, Mischief.gone_quiet): DORMANT,
    (STRICT, Mischief.revoked): DENIED,
}
"""What a misdeed is found as, in which kind of office: these are planted, whatever else is."""


@dataclass(slots=True)
class Planted:
    """An office, with what was planted in it: by way, as far as it notes any."""

    office: Office
    mischief: Mischief
    deeds: dict[Callable[[Mischief], None], Misdeed]


@cache
def offices(kind: str) -> list[Planted]:
    """Offices of a kind, in which each misdeed that it can have is planted once: what one has no culprit left for, the
    next has."""
    found = []
    left = [way for way, kinds in WAYS.items() if kind in kinds]
    for number in range(OFFICES[kind]):
        office = Office(f"{kind} {number}", kind)
        mischief = Mischief(office, f"{kind} {number}")
        deeds = {}
        for way in mischief.in_order(left):
            before = len(mischief.truth)
            way(mischief)
            if len(mischief.truth) > before:
                [deeds[way]] = mischief.truth[before:]
        left = [way for way in left if way not in deeds]
        found.append(Planted(office, mischief, deeds))
    return found


@pytest.mark.parametrize(("kind", "number"), [(kind, number) for kind in OFFICES for number in range(OFFICES[kind])])
def test_what_is_planted_is_found_and_nothing_else(kind: str, number: int, tmp_path: Path) -> None:
    one = offices(kind)[number]
    with played(one.office.steps, tmp_path) as book:
        assert compare(one.mischief.truth, review(book), one.office) == NOTHING


def test_every_misdeed_is_planted() -> None:
    found = {(kind, way): deed for kind in OFFICES for one in offices(kind) for way, deed in one.deeds.items()}
    assert {way for _, way in found} == set(WAYS)
    for place, what in PLANTED.items():
        assert what in found[place].kinds


# ── somebody from outside ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Altered:
    """An office into which outsiders come, played until the first of them does. Each has his alteration."""

    office: Office
    mischief: Mischief
    strangers: dict[str, outsider.Outsider]
    until_us: int
    folder: Path


@pytest.fixture(scope="module")
def altered(tmp_path_factory: pytest.TempPathFactory) -> Altered:
    office, mischief = planted(LENIENT, [Mischief.the_ex])
    seen = {client for step in office.steps for client in step.look}
    erased = next(one for one in office.clients if one.id not in seen and not one.consents)
    office.add(at_us(50, 600), "privacy:noor", PRIVACY, lambda book: book.erasures.erase(erased.id, reason="gdpr-17"))
    strangers = {name: outsider.Outsider(office, "fixed", name) for name in outsider.WAYS}
    [until_us] = {one.altering.at_us for one in strangers.values()}
    folder = tmp_path_factory.mktemp("office")
    with played(office.steps, folder, f"sqlite:///{folder}/office.book", until_us=until_us):
        pass
    return Altered(office, mischief, strangers, until_us, folder)


@pytest.mark.parametrize("name", outsider.WAYS)
def test_a_row_that_an_outsider_alters_between_audits_is_found_and_no_other(
    name: str, altered: Altered, tmp_path: Path
) -> None:
    office, stranger = altered.office, altered.strangers[name]
    others = [one.altering for one in altered.strangers.values() if one is not stranger]
    steps = [one for one in office.steps if one not in others]
    office.altered = False
    shutil.copytree(altered.folder, tmp_path, dirs_exist_ok=True)
    with played(steps, tmp_path, f"sqlite:///{tmp_path}/office.book", since_us=altered.until_us) as book:
        assert stranger.truth.position is not None
        assert len(stranger.before) == 1
        assert stranger.missed(book) == []
        stranger.truth.position += 1  # another row than that: what is missed is told
        assert len(stranger.missed(book)) == 1
        stranger.truth.position -= 1
        # Who did what in the office is found all the same.
        assert compare(altered.mischief.truth, review(book), office).missed == ()


@pytest.mark.parametrize("kind", [STRICT, LENIENT, NONE])
def test_of_an_honest_office_nothing_is_said(kind: str, tmp_path: Path) -> None:
    office, _ = planted(kind, [])
    with played(office.steps, tmp_path) as book:
        assert review(book) == []


# ── the comparison itself ───────────────────────────────────────────────────────────────────────────────────────


def test_the_comparison_misses_nothing_and_lets_nothing_pass() -> None:
    office, mischief = planted(STRICT, [Mischief.celebrities, Mischief.the_walk])
    right = [
        Finding(kind, deed.actor, deed.subjects, 1, 2, len(deed.subjects), "")
        for deed in mischief.truth
        for kind in deed.kinds
    ]
    assert compare(mischief.truth, right, office) == NOTHING
    for number, one in enumerate(right):
        others = right[:number] + right[number + 1 :]
        assert compare(mischief.truth, others, office).missed
        assert one.subjects
        some = frozenset(list(one.subjects)[1:])
        assert compare(mischief.truth, [*others, replace(one, subjects=some)], office).missed
        assert compare(mischief.truth, [*others, replace(one, actor="agent:other")], office).false
        assert compare(mischief.truth, [*others, replace(one, kind=NO_CONSENT)], office).false
        strangers = one.subjects | {office.new_id()}
        assert compare(mischief.truth, [*others, replace(one, subjects=strangers)], office).false
