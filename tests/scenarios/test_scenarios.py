"""The access review finds what was planted, all of it, and nothing else (see README.md beside this file)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
    drawn,
)
from .office import LENIENT, NONE, PRIVACY, STRICT, Office, at_us, played
from .truth import Finding, Verdict, compare, review, told_as_seen

SEEDS = range(1, 7)
NOTHING = Verdict((), ())


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_drawn_is_found_and_nothing_else(seed: int, tmp_path: Path) -> None:
    office, mischief = drawn(seed)
    with played(office.steps, tmp_path, seed=str(seed)) as book:
        assert compare(mischief.truth, review(book), office) == NOTHING
        assert told_as_seen(book, mischief.truth, office) == []


def planted(kind: str, ways: Sequence[Callable[[Mischief], None]]) -> tuple[Office, Mischief]:
    """An office with these misdeeds."""
    office = Office("fixed", kind)
    mischief = Mischief(office, "fixed")
    for way in ways:
        way(mischief)
    return office, mischief


FIXED = {
    "a snooping clerk: an ex-partner": (STRICT, Mischief.the_ex, SNOOPING),
    "a snooping clerk: celebrities": (LENIENT, Mischief.celebrities, SNOOPING),
    "a snooping clerk where there is no policy": (NONE, Mischief.the_ex, SNOOPING),
    "reasons that are written down later": (STRICT, Mischief.the_cover_up, SNOOPING),
    "reasons that are written down later where there is no policy": (NONE, Mischief.the_cover_up, SNOOPING),
    "reads behind records of one's own": (STRICT, Mischief.the_covered_walk, OWN_TIES),
    "reads behind records of one's own where there is no policy": (NONE, Mischief.the_covered_walk, OWN_TIES),
    "a bulk export: through hundreds of customers": (STRICT, Mischief.the_walk, BULK),
    "a bulk export: a list": (LENIENT, Mischief.the_list, BULK),
    "a bulk export: a file": (STRICT, Mischief.the_export, EXPORT),
    "searches for many who are not there": (STRICT, Mischief.the_prober, GUESSING),
    "commands that are refused for many who are not there": (STRICT, Mischief.the_refused_prober, GUESSING),
    "looks at what is not sealed": (NONE, Mischief.the_peeker, SNOOPING),
    "an export outside of a campaign": (STRICT, Mischief.between_campaigns, EXPORT),
    "reads without consent, while the policy is out of force": (
        STRICT,
        Mischief.without_consent_in_the_gap,
        NO_CONSENT,
    ),
    "reads on expired consent where there is no policy": (NONE, Mischief.expired, SNOOPING),
    "reads on expired consent, under a policy that stops them": (STRICT, Mischief.expired, DENIED),
    "a permission that is never used": (STRICT, Mischief.never_used, UNUSED_RIGHT),
    "a permission that is used no more": (STRICT, Mischief.gone_quiet, DORMANT),
    "a role that was revoked": (STRICT, Mischief.revoked, DENIED),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_planted_misdeed_is_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    kind, way, what = FIXED[name]
    office, mischief = planted(kind, [way])
    [deed] = mischief.truth
    assert what in deed.kinds
    with played(office.steps, tmp_path) as book:
        assert compare(mischief.truth, review(book), office) == NOTHING


@pytest.mark.parametrize("name", outsider.WAYS)
def test_a_row_that_an_outsider_alters_between_audits_is_found_and_no_other(name: str, tmp_path: Path) -> None:
    office, mischief = planted(LENIENT, [Mischief.the_ex])
    if name == "why somebody was erased":
        day = at_us(50, 600)
        seen = {client for step in office.steps for client in step.look}
        erased = next(one for one in office.clients if one.id not in seen and not one.consents)
        office.add(day, "privacy:noor", PRIVACY, lambda book: book.erasures.erase(erased.id, reason="gdpr-17"))
    stranger = outsider.Outsider(office, "fixed", name)
    with played(office.steps, tmp_path, f"sqlite:///{tmp_path}/office.book") as book:
        assert stranger.truth.position is not None
        assert len(stranger.before) == 1
        assert stranger.missed(book) == []
        stranger.truth.position += 1  # another row than that: what is missed is told
        assert len(stranger.missed(book)) == 1
        stranger.truth.position -= 1
        # Who did what in the office is found all the same.
        assert compare(mischief.truth, review(book), office).missed == ()


@pytest.mark.parametrize("kind", [STRICT, LENIENT, NONE])
def test_of_an_honest_office_nothing_is_said(kind: str, tmp_path: Path) -> None:
    office, _ = planted(kind, [])
    with played(office.steps, tmp_path) as book:
        assert review(book) == []


@pytest.mark.parametrize("kind", [STRICT, LENIENT, NONE])
def test_all_misdeeds_at_once(kind: str, tmp_path: Path) -> None:
    office, mischief = planted(kind, [])
    mischief.plan([way for way, kinds in WAYS.items() if kind in kinds])
    with played(office.steps, tmp_path) as book:
        assert compare(mischief.truth, review(book), office) == NOTHING


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
