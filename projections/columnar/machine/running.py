"""Accounts, from their first fact to their last."""

from __future__ import annotations

from tallybook.projections.columnar.compiling import address

from .due import settle
from .layout import (
    B_CONTROL0,
    B_CONTROLS,
    B_VERSION0,
    BALANCES,
    CONTROL,
    CONTROL_KIND,
    CONTROL_PASSED,
    CONTROL_PASSED0,
    CONTROL_POS,
    CONTROL_VALUE,
    END,
    F_PURCHASE,
    HONOURED,
    LONG_AGO,
    MAP,
    NONE,
    O_BUCKETS,
    O_DIFFERS,
    O_FUNDED,
    O_SHORT,
    O_TIER,
    O_UNFUNDED,
    OUTCOME,
    PAID,
    REFUSED,
    RULES_ADOPTED,
    SILENT,
    STEP,
    SWEEP_BEGUN,
    V_A,
    V_ACCOUNT,
    V_ACTIVE_ORDER,
    V_AT,
    V_B,
    V_BUCKETS,
    V_C,
    V_CHANGE_TIER,
    V_COUNT0,
    V_COUNTS,
    V_D,
    V_FACT_COUNT,
    V_FIRST,
    V_FOLLOWED,
    V_FUNDED,
    V_HORIZON,
    V_ITEM1,
    V_ITEM_COUNT,
    V_ITEM_END,
    V_ITEM_WORDS,
    V_ITEMS0,
    V_KIND,
    V_LACKING,
    V_LENT,
    V_LINED,
    V_LOT0,
    V_LOTS,
    V_MAP0,
    V_MAP_END,
    V_MODE,
    V_ONLY,
    V_ONLY_FROM,
    V_OUTCOME,
    V_OUTS,
    V_OVER,
    V_OVERRIDE,
    V_PAID,
    V_PASSED,
    V_POS,
    V_POS_A,
    V_POS_D,
    V_PROGRAMME,
    V_ROW,
    V_ROW0,
    V_SEEN,
    V_SEVERAL,
    V_SHORT,
    V_SLOTS,
    V_STEP0,
    V_STEPS,
    V_SWEPT,
    V_TIER,
    V_TRAIT,
    V_VERSION,
    V_WINDOW0,
    V_YEAR_RULES,
    VERSION,
    Array,
    Rows,
    Words,
)
from .plain import buy
from .reacting import applied, receive
from .writing import more, unsettle


def reset(s: Words, rows: int) -> None:
    """An account that nothing has happened to."""
    for register in range(V_OVER, V_LOT0):
        if register != V_MODE and register != V_ACCOUNT and register != V_PROGRAMME:
            s[register] = 0
    for bucket in range(BALANCES):
        s[V_BUCKETS + bucket] = 0
    s[V_TIER] = -1
    s[V_LENT] = NONE
    s[V_OVERRIDE] = NONE
    for pointer in range(V_LOTS, V_MAP0, 3):
        s[pointer] = s[pointer - 1]
    s[V_STEPS] = s[V_STEP0]
    for order in range(V_ACTIVE_ORDER, V_CHANGE_TIER, 4):
        s[order + 1] = s[order]
        s[order + 2] = 0
    for slot in range(s[V_SLOTS]):
        s[s[V_COUNT0] + 2 * slot] = LONG_AGO
        s[s[V_COUNT0] + 2 * slot + 1] = 0
    s[V_COUNTS] = s[V_COUNT0] + 2 * s[V_SLOTS]
    s[V_FIRST] = s[V_WINDOW0]
    s[V_YEAR_RULES] = -1
    know_rules(s, 0)
    if s[V_MAP0] + rows * MAP > s[V_MAP_END]:
        s[V_OVER] = 1
        return
    for place in range(s[V_MAP0], s[V_MAP0] + rows * MAP):
        s[place] = 0


def step(s: Words, position: int, began: int) -> None:
    """Note where the decisions of a fact begin, if there are some."""
    if s[V_OUTS] > began:
        at = more(s, V_STEPS, STEP)
        s[at] = position
        s[at + 1] = began
    s[V_OUTCOME] = 0


def decide(
    s: Array, x: Array, y: Rows, it: Rows, positions: Array, kinds: Array, times: Array, accounts: Array, slots: Rows,
    items: Array, traits: Array, lined: Array, ordinals: Array, depth: int, paid: Array,
    row0: int, row1: int,
) -> None:  # fmt: skip
    """Run one account (V_ACCOUNT) over the rows of its customer, as `run` does."""
    run(
        address(s), address(x), address(y), address(it), address(positions), address(kinds), address(times),
        address(accounts), address(slots), address(items), address(traits), address(lined), address(ordinals), depth,
        address(paid), 0, row0, row1,
    )  # fmt: skip


def run(
    s: Words, x: Words, y: Words, it: Words, positions: Words, kinds: Words, times: Words, accounts: Words,
    slots: Words, items: Words, traits: Words, lined: Words, ordinals: Words, depth: int, paid: Words, reads: int,
    row0: int, row1: int,
) -> None:  # fmt: skip
    """All that an account (V_ACCOUNT, of V_PROGRAMME) decides about the rows of its customer, in their order.

    `x` and `y` are what the rule sets see: `x` of facts, a column after the other, in which each fact stands at its
    place among those of its kind (`ordinals`); `y` of items, `depth` numbers of each. `it` are the items; the others
    are columns of `Facts`; of slots and items, a column stands after the other. Whether a redemption is paid is noted
    in `paid` by row, unless that `reads` what was paid under other rules. Whether there was room for it all is told by
    V_OVER.
    """
    reset(s, row1 - row0)
    s[V_ROW0] = row0
    control, controls = s[B_CONTROL0], s[B_CONTROL0] + s[B_CONTROLS] * CONTROL
    exists = False
    s[V_FOLLOWED] = 1
    account, silent, facts = s[V_ACCOUNT], s[V_MODE] == SILENT, s[V_FACT_COUNT]
    for row in range(row0, row1):
        if accounts[row] >= 0 and accounts[row] != account:
            continue
        if accounts[row] < 0 and not exists:
            continue
        position = positions[row]
        while control < controls and s[control + CONTROL_POS] < position:
            follow(s, control, exists)
            control += CONTROL
        exists = True
        plain = silent and kinds[row] == F_PURCHASE and lined[row] == 0
        if plain and buy(s, x, row, position, times[row], ordinals[row]):
            if s[V_SWEPT] != 0:
                settle(s, s[V_HORIZON])
            if s[V_OVER] != 0:
                return
            continue
        s[V_KIND] = kinds[row]
        s[V_ROW] = row
        s[V_POS] = position
        s[V_AT] = times[row]
        a, d = slots[row], slots[row + 3 * facts]
        s[V_A] = a
        s[V_B] = slots[row + facts]
        s[V_C] = slots[row + 2 * facts]
        s[V_D] = d
        s[V_POS_A] = positions[a] if row0 <= a < row1 else 0
        s[V_POS_D] = positions[d] if row0 <= d < row1 else 0
        s[V_TRAIT] = traits[row]
        s[V_SEEN] = ordinals[row]
        s[V_PAID] = paid[row] if reads != 0 else 0
        s[V_LINED] = 0 if silent and lined[row] == 0 else 1
        copy_items(s, y, it, items[row], items[row + 1], depth)
        if s[V_OVER] != 0:
            return
        began = s[V_OUTS]
        until_us = times[row]
        if s[V_SWEPT] != 0:
            until_us = max(until_us, s[V_HORIZON])
        settle(s, until_us)
        if accounts[row] >= 0:
            applied(s)
        receive(s, x)
        if reads == 0:
            paid[row] = s[V_OUTCOME]
        elif s[V_PAID] == PAID and s[V_OUTCOME] in (REFUSED, HONOURED):
            s[V_LACKING] += 1
        elif s[V_PAID] == REFUSED and s[V_OUTCOME] == PAID:
            s[V_FUNDED] += 1
        step(s, position, began)
        if s[V_OVER] != 0:
            return
    while control < controls and exists:
        follow(s, control, exists)
        control += CONTROL
    if exists and s[V_SWEPT] != 0 and (s[V_FOLLOWED] == 0 or s[V_PASSED] != 0):
        began = s[V_OUTS]
        settle(s, s[V_HORIZON])
        step(s, END, began)


def copy_items(s: Words, y: Words, it: Words, item0: int, item1: int, depth: int) -> None:
    """Take in the items of the fact at hand."""
    s[V_ITEM1] = item1 - item0
    s[V_ITEM_WORDS] = 3 + depth
    if s[V_ITEMS0] + (item1 - item0) * (3 + depth) > s[V_ITEM_END]:
        s[V_OVER] = 1
        return
    if s[V_KIND] == F_PURCHASE and s[V_LINED] == 0:
        return
    at, count = s[V_ITEMS0], s[V_ITEM_COUNT]
    for item in range(item0, item1):
        for field in range(3):
            s[at + field] = it[item + field * count]
        for column in range(depth):
            s[at + 3 + column] = y[item * depth + column]
        at += 3 + depth


def know_rules(s: Words, version: int) -> None:
    """From now on a version of the rule book is known."""
    s[V_VERSION] = version
    known = s[B_VERSION0] + version * VERSION
    s[V_SEVERAL] = 1 if s[known + 2] > 1 else 0
    s[V_ONLY] = s[s[known] + 1] if s[known + 1] > 0 else -1
    s[V_ONLY_FROM] = s[s[known]] if s[known + 1] > 0 else LONG_AGO
    unsettle(s)


def follow(s: Words, control: int, exists: bool) -> None:
    """What the book itself does: rule sets are adopted, a sweep begins, or ends: then every account follows it that was
    not passed over."""
    kind = s[control + CONTROL_KIND]
    if kind == RULES_ADOPTED:
        know_rules(s, s[control + CONTROL_VALUE])
    elif kind == SWEEP_BEGUN:
        s[V_HORIZON] = s[control + CONTROL_VALUE]
        s[V_SWEPT] = 1
        s[V_FOLLOWED] = 0
        s[V_PASSED] = 0
    else:
        due = s[V_SWEPT] != 0 and (s[V_FOLLOWED] == 0 or s[V_PASSED] != 0)
        passed = passes(s, control)
        if exists and due and not passed:
            began = s[V_OUTS]
            settle(s, s[V_HORIZON])
            step(s, s[control + CONTROL_POS], began)
        s[V_FOLLOWED] = 1
        s[V_PASSED] = 1 if passed else 0


def passes(s: Words, control: int) -> bool:
    """Whether a sweep passed the account over."""
    first = s[control + CONTROL_PASSED0]
    found = False
    for place in range(first, first + s[control + CONTROL_PASSED]):
        found = found or s[place] == s[V_ACCOUNT]
    return found


def replay(
    s: Array, x: Array, y: Rows, it: Rows, positions: Array, kinds: Array, times: Array, accounts: Array, slots: Rows,
    items: Array, traits: Array, lined: Array, ordinals: Array, depth: int, paid: Array, reads: int, places: Array,
    first: Array, last: Array, out: Rows, done: int,
) -> int:  # fmt: skip
    """Run accounts (`places`; the rows of each are `first` up to `last`), from the one at `done` on; what came of each
    is in a row of `out`. How many are done: fewer than there are, where the next one needs more room.
    """
    words, outcomes = address(s), address(out)
    for place in range(done, len(places)):
        words[V_ACCOUNT] = places[place]
        run(
            words, address(x), address(y), address(it), address(positions), address(kinds), address(times),
            address(accounts), address(slots), address(items), address(traits), address(lined), address(ordinals),
            depth, address(paid), reads, first[place], last[place],
        )  # fmt: skip
        if words[V_OVER] != 0:
            return place
        ends(words, outcomes, place)
    return len(places)


def compare(
    s: Array, x: Array, y: Rows, other: Array, other_x: Array, other_y: Rows, it: Rows, positions: Array, kinds: Array,
    times: Array, accounts: Array, slots: Rows, items: Array, traits: Array, lined: Array, ordinals: Array,
    paid: Array, places: Array, first: Array, last: Array, depths: Array, out: Rows, other_out: Rows, done: int,
) -> int:  # fmt: skip
    """The same under two rule books, side by side: `depths` are those of `y` and `other_y`."""
    one, two = address(s), address(other)
    for place in range(done, len(places)):
        one[V_ACCOUNT] = places[place]
        two[V_ACCOUNT] = places[place]
        run(
            one, address(x), address(y), address(it), address(positions), address(kinds), address(times),
            address(accounts), address(slots), address(items), address(traits), address(lined), address(ordinals),
            depths[0], address(paid), 0, first[place], last[place],
        )  # fmt: skip
        run(
            two, address(other_x), address(other_y), address(it), address(positions), address(kinds), address(times),
            address(accounts), address(slots), address(items), address(traits), address(lined), address(ordinals),
            depths[1], address(paid), 1, first[place], last[place],
        )  # fmt: skip
        if one[V_OVER] != 0 or two[V_OVER] != 0:
            return place
        ends(one, address(out), place)
        ends(two, address(other_out), place)
        address(other_out)[place * OUTCOME + O_DIFFERS] = differs(one, two)
    return len(places)


def ends(s: Words, out: Words, place: int) -> None:
    """Note what came of an account."""
    at = place * OUTCOME
    out[at + O_DIFFERS] = 0
    out[at + O_UNFUNDED] = s[V_LACKING]
    out[at + O_FUNDED] = s[V_FUNDED]
    out[at + O_SHORT] = s[V_SHORT]
    out[at + O_TIER] = s[V_TIER]
    for bucket in range(BALANCES):
        out[at + O_BUCKETS + bucket] = s[V_BUCKETS + bucket]


def differs(s: Words, other: Words) -> int:
    """The position of the first fact about which two runs of an account decide otherwise; 0: nowhere."""
    mine, theirs = s[V_STEP0], other[V_STEP0]
    while mine < s[V_STEPS] or theirs < other[V_STEPS]:
        if theirs >= other[V_STEPS]:
            return s[mine]
        if mine >= s[V_STEPS]:
            return other[theirs]
        if s[mine] != other[theirs]:
            return min(s[mine], other[theirs])
        my_end = s[mine + STEP + 1] if mine + STEP < s[V_STEPS] else s[V_OUTS]
        their_end = other[theirs + STEP + 1] if theirs + STEP < other[V_STEPS] else other[V_OUTS]
        words = my_end - s[mine + 1]
        if their_end - other[theirs + 1] != words:
            return s[mine]
        for word in range(words):
            if s[s[mine + 1] + word] != other[other[theirs + 1] + word]:
                return s[mine]
        mine += STEP
        theirs += STEP
    return 0
