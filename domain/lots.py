"""Lots of points, in the order in which they are used, and the arithmetic on them.

The order of use: soonest expiry first, then oldest, lots without expiry last.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple
from uuid import UUID

NEVER = 2**62
"""Stands for the expiry of a lot that does not expire, so that it sorts last."""


class Lot(NamedTuple):
    """What is left of one earning. Sorts in the order of use."""

    expires_us: int
    earned_us: int
    lot_id: UUID
    points: int


def add(lots: list[Lot], lot: Lot) -> None:
    """Put a lot in its place."""
    insort(lots, lot)


def take(lots: list[Lot], points: int) -> list[tuple[UUID, int]]:
    """Use up to so many points in the order of use: which lot gave how many. Takes them from `lots`."""
    taken: list[tuple[UUID, int]] = []
    used_up = 0
    for lot in lots:
        if points <= 0:
            break
        part = min(points, lot.points)
        taken.append((lot.lot_id, part))
        points -= part
        if part < lot.points:
            lots[used_up] = lot._replace(points=lot.points - part)
            break
        used_up += 1
    del lots[:used_up]
    return taken


def take_from(lots: list[Lot], expires_us: int, earned_us: int, lot_id: UUID, points: int) -> int:
    """Use up to so many points of one lot; how many it had."""
    index = bisect_left(lots, (expires_us, earned_us, lot_id))
    if index == len(lots) or lots[index].lot_id != lot_id:
        return 0
    lot = lots[index]
    part = min(points, lot.points)
    if part == lot.points:
        del lots[index]
    else:
        lots[index] = lot._replace(points=lot.points - part)
    return part


def take_expired(lots: list[Lot], at_us: int) -> list[tuple[UUID, int]]:
    """Remove all lots that are gone at a moment: which lot lost how many."""
    count = 0
    for lot in lots:
        if lot.expires_us > at_us:
            break
        count += 1
    gone = [(lot.lot_id, lot.points) for lot in lots[:count]]
    del lots[:count]
    return gone
