"""What was counted in a period, and what may still come or be spent."""

from __future__ import annotations

from tallybook.domain.account import POINTS_MAX
from tallybook.projections.columnar.compiling import apart

from .layout import (
    CLOSED,
    DEBT,
    EARNED,
    LIMIT,
    LIMIT_CODE_COUNT,
    LIMIT_CODE_POINTS,
    LIMIT_COUNT,
    LIMIT_ON,
    LIMIT_PERIOD,
    LIMIT_PERIOD_CODE,
    LIMIT_POINTS,
    LIMIT_SLOT_COUNT,
    LIMIT_SLOT_POINTS,
    RS_LIMIT0,
    RS_LIMITS,
    SILENT,
    SUSPENDED,
    T_CLOSED_ACCOUNT,
    T_EMPTY,
    T_SUSPENDED_ACCOUNT,
    USE,
    V_BUCKETS,
    V_COUNT0,
    V_COUNTS,
    V_MODE,
    V_OVER,
    V_SLOTS,
    V_STATUS,
    V_SUSPENSION0,
    V_SUSPENSIONS,
    V_TEMPS,
    V_WINDOWS,
    Words,
)
from .rules import period_of
from .tiers import before
from .writing import more, out, put

# What was counted in a period: of each slot (a counter and a period) the last period and its amount; then what there
# was in earlier ones, as slot, number, amount.


def counted(s: Words, slot: int, number: int) -> int:
    """What was counted in a slot in a period."""
    at = s[V_COUNT0] + slot * 2
    if s[at] == number:
        return s[at + 1]
    if s[at] < number:
        return 0
    place = s[V_COUNTS] - 3
    while place >= s[V_COUNT0] + s[V_SLOTS] * 2:
        if s[place] == slot and s[place + 1] == number:
            return s[place + 2]
        place -= 3
    return 0


def count(s: Words, slot: int, number: int, amount: int) -> None:
    """Count an amount in a slot in a period."""
    at = s[V_COUNT0] + slot * 2
    if s[at] == number:
        s[at + 1] += amount
        return
    if s[at] < number:
        if s[at + 1] != 0:
            older = more(s, V_COUNTS, 3)
            if s[V_OVER] != 0:
                return
            s[older] = slot
            s[older + 1] = s[at]
            s[older + 2] = s[at + 1]
        s[at] = number
        s[at + 1] = amount
        return
    place = s[V_COUNTS] - 3
    while place >= s[V_COUNT0] + s[V_SLOTS] * 2:
        if s[place] == slot and s[place + 1] == number:
            s[place + 2] += amount
            return
        place -= 3
    older = more(s, V_COUNTS, 3)
    if s[V_OVER] != 0:
        return
    s[older] = slot
    s[older + 1] = number
    s[older + 2] = amount


def note_use(s: Words, counter: int, period: int, number: int, amount: int, slot: int) -> None:
    """Note what is counted; of the same counter and period, together."""
    at = more(s, V_TEMPS, USE)
    s[at] = counter
    s[at + 1] = period
    s[at + 2] = number
    s[at + 3] = amount
    s[at + 4] = slot


@apart
def put_uses(s: Words, uses: int, until: int) -> None:
    """Write what is counted."""
    if s[V_MODE] == SILENT:
        return
    put(s, (until - uses) // USE)
    put_used(s, uses, until)


@apart
def put_used(s: Words, uses: int, until: int) -> None:
    """Write it, but for how much there is."""
    for place in range(uses, until, USE):
        at = out(s, 4)
        for field in range(4):
            s[at + field] = s[place + field]


def count_uses(s: Words, uses: int, until: int) -> None:
    """Count what was noted."""
    for place in range(uses, until, USE):
        count(s, s[place + 4], s[place + 2], s[place + 3])


def limited(s: Words, on: int, points: int, at_us: int, rules: int) -> int:
    """Whether a limit does not let so many points through; what they count against limits is noted from V_TEMPS on."""
    first = s[rules + RS_LIMIT0]
    noted_from = s[V_TEMPS]
    for limit in range(first, first + s[rules + RS_LIMITS] * LIMIT, LIMIT):
        if s[limit + LIMIT_ON] != on:
            continue
        number = period_of(s, rules, at_us, s[limit + LIMIT_PERIOD])
        if s[limit + LIMIT_COUNT] >= 0:
            if counted(s, s[limit + LIMIT_SLOT_COUNT], number) + 1 > s[limit + LIMIT_COUNT]:
                s[V_TEMPS] = noted_from
                return 1
            note_use(
                s, s[limit + LIMIT_CODE_COUNT], s[limit + LIMIT_PERIOD_CODE], number, 1, s[limit + LIMIT_SLOT_COUNT]
            )
        if s[limit + LIMIT_POINTS] >= 0:
            if counted(s, s[limit + LIMIT_SLOT_POINTS], number) + points > s[limit + LIMIT_POINTS]:
                s[V_TEMPS] = noted_from
                return 1
            note_use(
                s,
                s[limit + LIMIT_CODE_POINTS],
                s[limit + LIMIT_PERIOD_CODE],
                number,
                points,
                s[limit + LIMIT_SLOT_POINTS],
            )
    return 0


def fits(s: Words, points: int, more_qualifying: int) -> bool:
    """Whether so many points can come still."""
    came = 0
    for bucket in range(EARNED, DEBT + 1):
        came += s[V_BUCKETS + bucket]
    return came + points <= POINTS_MAX and before(s, s[V_WINDOWS]) + more_qualifying <= POINTS_MAX


def barred(s: Words, at_us: int) -> int:
    """Why nothing of a moment is earned or spent; T_EMPTY: it is."""
    if s[V_STATUS] == SUSPENDED:
        return T_SUSPENDED_ACCOUNT
    if s[V_STATUS] == CLOSED:
        return T_CLOSED_ACCOUNT
    for place in range(s[V_SUSPENSION0], s[V_SUSPENSIONS], 2):
        if s[place] <= at_us < s[place + 1]:
            return T_SUSPENDED_ACCOUNT
    return T_EMPTY
