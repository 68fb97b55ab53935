"""Containers that copies share: they hold what the built-in ones hold, and no copy ever changes another."""

from __future__ import annotations

from bisect import insort
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallybook.domain import copy_on_write
from tallybook.domain.copy_on_write import LayeredDict, SortedAmounts

_acts = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "add", "add", "remove", "copy", "settle"]),
        st.integers(0, 40),
        st.integers(-9, 9),
    ),
    max_size=60,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and layers of a few entries, so that short examples reach every branch."""
    monkeypatch.setattr(copy_on_write, "RUN_MAX", 4)
    monkeypatch.setattr(copy_on_write, "CHANGES_MAX", 3)


@settings(deadline=None, print_blob=True)
@given(start=st.sampled_from([{}, {1: 1, 2: 2}]), acts=_acts)
def test_a_layered_dict_is_a_dict_and_its_copies_stay_as_they_were(
    start: dict[int, int], acts: list[tuple[str, int, int]]
) -> None:
    held: LayeredDict[int, int] = LayeredDict(start)
    model = dict(start)
    copies: list[tuple[LayeredDict[int, int], dict[int, int]]] = []
    for act, key, value in acts:
        if act in ("put", "add"):
            held[key] = model[key] = value
        elif act == "remove":
            if key in model:
                del held[key], model[key]
            else:
                with pytest.raises(KeyError):
                    del held[key]
        elif act == "settle":
            held.settle()
        else:
            copies.append((held, dict(model)))
            held = held.copy()
        assert (held.get(key), key in held) == (model.get(key), key in model)
    for one, wanted in [*copies, (held, model)]:
        assert one == wanted
        assert (len(one), sorted(one)) == (len(wanted), sorted(wanted))
        for key in range(41):
            assert one.get(key, "none") == wanted.get(key, "none")
            if key in wanted:
                assert one[key] == wanted[key]
            else:
                with pytest.raises(KeyError):
                    one[key]


@settings(deadline=None, print_blob=True)
@given(acts=_acts, bound=st.integers(-1, 42))
def test_sorted_amounts_are_a_sorted_list_and_their_copies_stay_as_they_were(
    acts: list[tuple[str, int, int]], bound: int
) -> None:
    held: SortedAmounts[tuple[int, int, int]] = SortedAmounts()
    model: list[tuple[int, int, int]] = []
    copies: list[tuple[Any, list[Any]]] = []
    for act, number, amount in acts:
        key = (number // 3, number % 3)
        there = [entry for entry in model if entry[:2] == key]
        assert held.find(key) == (there[0] if there else None)
        if act == "put":
            model = [entry for entry in model if entry[:2] != key]
            insort(model, (*key, amount))
            held.put((*key, amount))
        elif act == "add":
            sum_ = amount + sum(entry[-1] for entry in there)
            if amount:
                model = [entry for entry in model if entry[:2] != key]
                if sum_:
                    insort(model, (*key, sum_))
            held.add((*key, amount))
        elif act == "remove":
            if there:
                held.remove(key)
                model = [entry for entry in model if entry[:2] != key]
            else:
                with pytest.raises(KeyError):
                    held.remove(key)
        else:
            copies.append((held, list(model)))
            held = held.copy()
    for one, wanted in [*copies, (held, model)]:
        assert list(one) == wanted
        assert (len(one), bool(one), one.total) == (len(wanted), bool(wanted), sum(entry[-1] for entry in wanted))
        if wanted:
            assert (one.first, one.last) == (wanted[0], wanted[-1])
        above = [entry for entry in wanted if entry[0] > bound]
        place = one.after(bound, lambda entry: entry[0])
        assert list(one.from_place(place)) == above
        assert one.total_from(place) == sum(entry[-1] for entry in above)
        assert SortedAmounts(wanted) == one == wanted
    assert all(len(run) <= copy_on_write.RUN_MAX for run in held._runs)


def test_a_copy_shares_what_it_does_not_change() -> None:
    many = SortedAmounts((number, number) for number in range(100))
    copy = many.copy()
    copy.put((50, 0))
    assert sum(mine is not theirs for mine, theirs in zip(copy._runs, many._runs, strict=True)) == 1
    layered = LayeredDict((number, number) for number in range(100))
    changed = layered.copy()
    changed[50] = 0
    assert changed._base is layered._base
    assert layered[50] == 50
