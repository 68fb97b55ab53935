"""Words of decisions, and room for records."""

from __future__ import annotations

from tallybook.domain.lots import NEVER
from tallybook.projections.columnar.compiling import apart

from .layout import (
    ALL,
    BALANCES,
    L_FACT,
    L_NUMBER,
    LONG_AGO,
    P_LOT,
    P_POINTS,
    PART,
    RS_LABEL,
    SILENT,
    T_NO_RULES,
    V_BUCKETS,
    V_CALM,
    V_CLOCK,
    V_MODE,
    V_MONTH,
    V_MONTH0,
    V_MONTH_FROM,
    V_MONTH_UNTIL,
    V_MONTHS,
    V_MOVED,
    V_OUTS,
    V_OVER,
    V_PROGRAMME,
    V_QUIET,
    V_SEVERAL,
    V_TALLY,
    V_TEMPS,
    Words,
)


def out(s: Words, size: int) -> int:
    """Room for so many words of a decision."""
    return more(s, V_OUTS, size)


@apart
def put(s: Words, word: int) -> None:
    """Write a word of a decision."""
    s[out(s, 1)] = word


@apart
def put_id(s: Words, first: int, second: int) -> None:
    """Write an id."""
    at = out(s, 2)
    s[at] = first
    s[at + 1] = second


@apart
def put_lot(s: Words, lot: int) -> None:
    """Write the id of a lot."""
    put_id(s, s[lot + L_FACT], s[lot + L_NUMBER])


@apart
def put_parts(s: Words, parts: int, count: int) -> None:
    """Write parts of lots."""
    if s[V_MODE] == SILENT:
        return
    at = out(s, 1 + 3 * count)
    if s[V_OVER] != 0:
        return
    s[at] = count
    for place in range(parts, parts + count * PART, PART):
        lot = s[place + P_LOT]
        s[at + 1] = s[lot + L_FACT]
        s[at + 2] = s[lot + L_NUMBER]
        s[at + 3] = s[place + P_POINTS]
        at += 3


def begin(s: Words, kind: int, at_us: int, rules: int) -> None:
    """Begin a decision: it is counted, and the account's clock goes on. The facts follow (`because`)."""
    if at_us > s[V_CLOCK]:
        s[V_CLOCK] = at_us
    if s[V_TALLY] != 0 and not s[V_MONTH_FROM] <= at_us < s[V_MONTH_UNTIL]:
        find_month(s, at_us)
    if s[V_SEVERAL] != 0:
        # At the account's clock, other rules may hold than those that decided last.
        unsettle(s)
    if s[V_MODE] == SILENT:
        return
    at = out(s, 2)
    s[at] = kind
    s[at + 1] = at_us
    if s[V_MODE] == ALL:
        put(s, T_NO_RULES if rules < 0 else s[rules + RS_LABEL])


def unsettle(s: Words) -> None:
    """When time alone changes the tier has to be reckoned anew."""
    s[V_CALM] = LONG_AGO
    s[V_QUIET] = LONG_AGO


def find_month(s: Words, at_us: int) -> None:
    """The month of a decision; what lies before the first counts as of the first, what lies after the last as of it."""
    low, high = 1, s[V_MONTHS]
    while low < high:
        middle = (low + high) // 2
        if s[s[V_MONTH0] + middle] <= at_us:
            low = middle + 1
        else:
            high = middle
    s[V_MONTH] = low - 1
    s[V_MONTH_FROM] = LONG_AGO if low == 1 else s[s[V_MONTH0] + low - 1]
    s[V_MONTH_UNTIL] = NEVER + 1 if low == s[V_MONTHS] else s[s[V_MONTH0] + low]


def change(s: Words, bucket: int, by: int) -> None:
    """A balance becomes another: the only place where one does."""
    s[V_BUCKETS + bucket] += by
    if s[V_TALLY] != 0:
        s[s[V_TALLY] + s[V_MONTH] * BALANCES + bucket] += by


@apart
def because(s: Words, first: int, second: int) -> None:
    """Write the one fact that a decision rests on."""
    if s[V_MODE] == SILENT:
        return
    at = out(s, 4)
    s[at] = 1
    s[at + 1] = first
    s[at + 2] = second
    s[at + 3] = s[V_PROGRAMME]


@apart
def because_of_lots(s: Words, parts: int, count: int) -> None:
    """Write the facts that lots were earned for, each once."""
    if s[V_MODE] == SILENT:
        return
    put(s, 0)
    counter = s[V_OUTS] - 1
    found = 0
    for place in range(parts, parts + count * PART, PART):
        fact = s[s[place + P_LOT] + L_FACT]
        known = False
        for before in range(parts, place, PART):
            if s[s[before + P_LOT] + L_FACT] == fact:
                known = True
                break
        if not known:
            put_id(s, fact, 0)
            found += 1
    if s[V_OVER] == 0:
        s[counter] = found
    put(s, s[V_PROGRAMME])


@apart
def because_of_nothing(s: Words) -> None:
    """Write that no fact is named."""
    if s[V_MODE] == SILENT:
        return
    put(s, 0)
    put(s, s[V_PROGRAMME])


def used(s: Words, at_us: int) -> None:
    """The account was in use: inactivity counts from now."""
    if at_us > s[V_MOVED]:
        s[V_MOVED] = at_us


def more(s: Words, pointer: int, size: int) -> int:
    """So many words more of a region, whose first, next and last word the registers from `pointer` - 1 on name; the
    region's beginning, where there is no room: then nothing that follows counts."""
    at = s[pointer]
    if at + size > s[pointer + 1]:
        s[V_OVER] = 1
        return s[pointer - 1]
    s[pointer] = at + size
    return at


def push(s: Words, lot: int, points: int) -> None:
    """Note so many points of a lot."""
    at = more(s, V_TEMPS, PART)
    s[at + P_LOT] = lot
    s[at + P_POINTS] = points


def noted(s: Words, since: int) -> int:
    """How many parts were noted since."""
    return (s[V_TEMPS] - since) // PART
