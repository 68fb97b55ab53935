"""Made-up histories: the same for the same seed, realistic, and consistent in themselves."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tallybook import Refused
from tallybook.adapters import synth
from tallybook.adapters.synth import BLOCK, KIND, KINDS, Chunk, Digest, History, block, chunks
from tallybook.domain.calendar import DAY_US
from tallybook.domain.events import REGISTRY, Fact

GOLDEN = "227cba3f80393eef5368cb1b5478f6b517e9f92dd833cdb2343795f583455fae"
"""Of 500 customers of seed 1. If it changes, histories that others have measured with can't be made again."""


def digest(history: History, size: int = BLOCK) -> str:
    found = Digest(history)
    for chunk in chunks(history, customers=size):
        found.add(chunk)
    return found.hexdigest()


@pytest.fixture(scope="module")
def one() -> Chunk:
    """20,000 customers in one chunk."""
    (found,) = chunks(History(seed=3, customers=20_000), customers=20_000)
    return found


def rows(chunk: Chunk, name: str) -> Any:
    return np.flatnonzero(chunk.kind == KIND[name])


def parents(chunk: Chunk, facts: Any) -> Any:
    return chunk.fact_start[chunk.customer[facts] - chunk.first] + chunk.ref[facts]


def test_the_same_seed_gives_the_same_history() -> None:
    assert digest(History(seed=1, customers=500)) == GOLDEN


def test_another_seed_gives_another_history() -> None:
    assert digest(History(seed=2, customers=500)) != GOLDEN


@pytest.mark.parametrize("size", [1, 77, 4096, 9999])
def test_the_size_of_chunks_changes_nothing(size: int) -> None:
    history = History(seed=1, customers=500 if size == 1 else 9000)
    assert digest(history, size) == digest(history)


def test_a_customer_is_the_same_however_many_are_asked_for() -> None:
    (few,) = chunks(History(seed=7, customers=50))
    (many,) = chunks(History(seed=7, customers=5000), customers=5000)
    last = int(few.fact_start[-1])
    assert last == many.fact_start[50]
    for name in synth.OF_FACTS:
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:last])
    later = next(chunks(History(seed=7, customers=5000), first=40))
    assert later.customer_id(45) == many.customer_id(45) == few.customer_id(45)


def test_all_customers_have_ids_of_their_own(one: Chunk) -> None:
    assert len({one.customer_id(ordinal) for ordinal in range(20_000)}) == 20_000
    assert one.customer_id(0).version == 4


def test_as_many_facts_come_as_are_asked_for() -> None:
    for mean in (5, 21, 60):
        history = History(seed=1, customers=BLOCK, events=BLOCK * mean)
        assert block(history, 0).facts == pytest.approx(BLOCK * mean, rel=0.12)


def test_activity_follows_zipf(one: Chunk) -> None:
    sizes = np.sort(np.diff(one.fact_start))[::-1]
    ranks = np.arange(1, len(sizes) + 1)
    middle = slice(20, 5000)
    slope, _ = np.polyfit(np.log(ranks[middle]), np.log(sizes[middle]), 1)
    assert slope == pytest.approx(-synth.ZIPF, abs=0.06)
    assert sizes[0] > 60 * sizes.mean()


def test_about_one_fact_in_twenty_is_late(one: Chunk) -> None:
    late = (one.recorded_us - one.effective_us > DAY_US).mean()
    assert late == pytest.approx(synth.LATE_SHARE, abs=0.01)
    # Some of them after facts that happened later were known.
    same = one.customer[1:] == one.customer[:-1]
    assert ((np.diff(one.effective_us) < 0) & same).mean() > 0.015


def test_returns_are_in_full_in_part_and_repeated(one: Chunk) -> None:
    bought, back = rows(one, "customer.purchase_recorded"), rows(one, "customer.return_recorded")
    assert len(back) / len(bought) == pytest.approx(0.085, abs=0.015)
    of, times = np.unique(parents(one, back), return_counts=True)
    assert (times > 1).mean() > 0.03
    assert (one.kind[of] == KIND["customer.purchase_recorded"]).all()
    whole = np.isin(back, back[one.a[back] == one.a[parents(one, back)]])
    assert 0.3 < whole.mean() < 0.75


def test_nobody_gives_back_more_than_was_bought(one: Chunk) -> None:
    back = rows(one, "customer.return_recorded")
    left: dict[tuple[int, int], list[int]] = {}
    for fact, purchase in zip(back.tolist(), parents(one, back).tolist(), strict=True):
        begin = int(one.line_start[purchase])
        for at in range(int(one.line_start[fact]), int(one.line_start[fact + 1])):
            line = int(one.line[at])
            place = begin + line - 1
            rest = left.setdefault((purchase, line), [int(one.quantity[place]), int(one.net[place])])
            rest[0] -= int(one.quantity[at])
            rest[1] -= int(one.net[at])
            assert one.sku[at] == one.sku[place]
            assert rest[0] >= 0
            assert rest[1] >= 0
            assert rest[0] or not rest[1]


def test_all_kinds_of_facts_are_there_and_known_to_the_domain(one: Chunk) -> None:
    assert np.unique(one.kind).tolist() == list(range(len(KINDS)))
    assert set(KINDS) <= REGISTRY.keys()
    of_loyalty = {
        name
        for name, schema in REGISTRY.items()
        if name.startswith("loyalty.") and issubclass(schema.event_class, Fact)
    }
    assert of_loyalty == {name for name in KINDS if name.startswith("loyalty.")}


def test_facts_rest_on_earlier_ones_of_the_same_customer(one: Chunk) -> None:
    number = np.arange(one.facts) - one.fact_start[one.customer - one.first]
    assert (one.ref < number).all()
    for kind, on in {
        "loyalty.hold_release_requested": "loyalty.hold_requested",
        "loyalty.redemption_returned": "loyalty.redemption_requested",
        "loyalty.resumed": "loyalty.suspended",
        "loyalty.coupon_used": "loyalty.coupon_granted",
        "loyalty.tier_override_lifted": "loyalty.tier_overridden",
        "loyalty.referral_reduced": "loyalty.referral_credited",
        "ticket.satisfaction_recorded": "ticket.opened",
    }.items():
        facts = rows(one, kind)
        assert len(facts)
        assert (one.kind[parents(one, facts)] == KIND[on]).all(), kind


def test_facts_become_known_in_order_after_they_happened(one: Chunk) -> None:
    same = one.customer[1:] == one.customer[:-1]
    assert (np.diff(one.recorded_us)[same] >= 0).all()
    assert (one.recorded_us >= one.effective_us).all()
    assert one.recorded_us.max() < synth.END_US
    assert one.effective_us.min() >= History().start_us - DAY_US
    assert (one.kind[one.fact_start[:-1]] == KIND["customer.registered"]).all()


def test_what_moves_between_two_customers_stands_with_both(one: Chunk) -> None:
    sent, got = rows(one, "loyalty.transfer_requested"), rows(one, "loyalty.transfer_received")
    theirs = {(int(one.customer[at]), int(one.peer[at]), int(one.a[at])) for at in sent}
    mine = {(int(one.peer[at]), int(one.customer[at]), int(one.a[at])) for at in got}
    assert {pair for pair in mine if pair[0] < 16_384} <= theirs
    assert (one.customer[sent] != one.peer[sent]).all()


def test_shops_are_busy_by_day_and_before_christmas(one: Chunk) -> None:
    bought = rows(one, "customer.purchase_recorded")
    month = (one.effective_us[bought] * 1000).astype("datetime64[ns]").astype("datetime64[M]").astype(int) % 12
    counts = np.bincount(month, minlength=12)
    assert counts[11] > 1.3 * counts[1]
    in_stores = bought[(one.channel[bought] == synth.ONLINE) & (one.country[one.customer[bought]] == 2)]  # in the UK
    hour = one.effective_us[in_stores] // 3_600_000_000 % 24
    assert ((hour >= 7) & (hour < 22)).mean() > 0.98


@pytest.mark.parametrize(
    "wrong",
    [
        {"customers": 0},
        {"customers": -1},
        {"customers": 10**9},
        {"customers": "many"},
        {"events": 10},
        {"events": 10**9},
        {"seed": -1},
        {"seed": 1.5},
        {"years": 0},
        {"years": 100},
    ],
)
def test_sizes_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        History(**wrong)
    assert caught.value.code == "invalid_argument"
    assert next(iter(wrong)) in str(caught.value)


def test_without_numpy_the_extra_is_named() -> None:
    code = "import sys; sys.modules['numpy'] = None; import tallybook.adapters.synth"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'tallybook[replay]'" in told.stderr
