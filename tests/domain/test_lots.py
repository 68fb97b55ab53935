"""Lots: the order of use, and arithmetic that neither loses nor makes points."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from tallybook.domain import lots as lot_book
from tallybook.domain.lots import NEVER, Lot, Lots


def lot(expires: int, earned: int, number: int, points: int) -> Lot:
    return Lot(expires, earned, number, UUID(int=99 - number), points)


_many = st.lists(
    st.tuples(st.integers(1, 20) | st.just(NEVER), st.integers(0, 20), st.integers(1, 100)), max_size=8
).map(lambda rows: [lot(expires, earned, number, points) for number, (expires, earned, points) in enumerate(rows, 1)])


def booked(lots: list[Lot]) -> Lots:
    book = Lots()
    for one in lots:
        book.put(one)
    return book


def total(lots: Lots) -> int:
    assert lots.total == sum(one.points for one in lots)
    return lots.total


def test_soonest_expiry_goes_first_then_the_oldest_and_those_for_ever_last() -> None:
    for_ever, late, soon_young, soon_old = lot(NEVER, 0, 1, 5), lot(9, 0, 2, 5), lot(3, 2, 3, 5), lot(3, 1, 4, 5)
    book = booked([for_ever, late, soon_young, soon_old])
    assert book == [soon_old, soon_young, late, for_ever]
    assert lot_book.take(book, 12) == [(soon_old.lot_id, 5), (soon_young.lot_id, 5), (late.lot_id, 2)]
    assert book == [late._replace(points=3), for_ever]


def test_a_lot_is_gone_at_the_instant_of_its_expiry_and_not_before() -> None:
    one = lot(10, 0, 1, 5)
    book = booked([one])
    assert lot_book.take_expired(book, 9) == []
    assert book == [one]
    assert lot_book.take_expired(book, 10) == [(one.lot_id, 5)]
    assert book == []


def test_taking_nothing_takes_nothing() -> None:
    book = booked([lot(10, 0, 1, 5)])
    assert lot_book.take(book, 0) == []
    assert total(book) == 5


def test_lots_that_are_alike_are_used_as_they_came() -> None:
    first, second = lot(10, 0, 1, 5), lot(10, 0, 2, 5)
    assert first.lot_id > second.lot_id
    assert lot_book.take(booked([second, first]), 6) == [(first.lot_id, 5), (second.lot_id, 1)]


def test_taking_from_a_lot_that_is_used_up_gives_nothing() -> None:
    book = booked([lot(10, 0, 1, 5), lot(10, 0, 3, 5)])
    assert lot_book.take_from(book, lot(10, 0, 2, 0)[:-1], 5) == 0
    assert lot_book.take_from(book, lot(11, 0, 9, 0)[:-1], 5) == 0
    assert total(book) == 10


@settings(deadline=None, print_blob=True)
@given(lots=_many, points=st.integers(0, 900))
def test_what_is_taken_and_what_is_left_add_up(lots: list[Lot], points: int) -> None:
    book = booked(lots)
    order = [one.lot_id for one in book]
    had = {one.lot_id: one.points for one in book}
    taken = lot_book.take(book, points)
    assert sum(part for _, part in taken) == min(points, sum(had.values()))
    assert total(book) + sum(part for _, part in taken) == sum(had.values())
    assert [lot_id for lot_id, _ in taken] == order[: len(taken)]
    assert all(0 < part <= had[lot_id] for lot_id, part in taken)
    assert all(part == had[lot_id] for lot_id, part in taken[:-1])
    assert all(one.points > 0 for one in book)
    assert book == sorted(book)


@settings(deadline=None, print_blob=True)
@given(lots=_many, points=st.integers(1, 150), data=st.data())
def test_taking_from_one_lot_leaves_the_others_alone(lots: list[Lot], points: int, data: st.DataObject) -> None:
    book = booked(lots)
    if not book:
        return
    one = data.draw(st.sampled_from(list(book)))
    others = [other for other in book if other != one]
    taken = lot_book.take_from(book, one[:-1], points)
    assert taken == min(points, one.points)
    left = [one._replace(points=one.points - taken)] if taken < one.points else []
    assert book == sorted(others + left)


@settings(deadline=None, print_blob=True)
@given(lots=_many, at=st.integers(0, 25))
def test_expiry_takes_exactly_the_lots_that_are_due(lots: list[Lot], at: int) -> None:
    book = booked(lots)
    gone = lot_book.take_expired(book, at)
    assert dict(gone) == {one.lot_id: one.points for one in lots if one.expires_us <= at}
    assert book == sorted(one for one in lots if one.expires_us > at)
