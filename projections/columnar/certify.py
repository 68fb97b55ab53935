"""What accounts decide beside what was recorded of them, word by word, for the certificate."""

from __future__ import annotations

from .compiling import address
from .machine.layout import END, STEP, V_ACCOUNT, V_OUT0, V_OUTS, V_OVER, V_STEP0, V_STEPS, Array, Rows, Words
from .machine.running import run

AGREES, PENDING = range(2)
OUTCOME = 2
"""Of an account: whether all that was recorded is what follows, in this order; how many decisions a sweep has made due
and not recorded."""
NOTHING = -1


def certify(
    s: Array, x: Array, y: Rows, it: Rows, positions: Array, kinds: Array, times: Array, accounts: Array, slots: Rows,
    items: Array, traits: Array, lined: Array, ordinals: Array, depth: int, paid: Array, places: Array, first: Array,
    last: Array, shapes: Array, shape_of: Array, recorded: Array, begins: Array, decisions: Array, rests: Array,
    out: Rows, done: int,
) -> int:  # fmt: skip
    """Run accounts as `machine.replay` does, and compare with what was recorded: the decisions of an account are
    `decisions[place]` up to `decisions[place + 1]`, the words of each `recorded[begins[decision]]` up to the next.

    In `rests` goes, for each decision that names the fact which led to it, that fact's row; for others, NOTHING.
    `shapes`: what decisions consist of after kind and time, as pairs: whether a count stands before, how many words;
    `shape_of[kind]`: where those of a kind begin.
    """
    words = address(s)
    for place in range(done, len(places)):
        account = places[place]
        words[V_ACCOUNT] = account
        run(
            words, address(x), address(y), address(it), address(positions), address(kinds), address(times),
            address(accounts), address(slots), address(items), address(traits), address(lined), address(ordinals),
            depth, address(paid), 0, first[place], last[place],
        )  # fmt: skip
        if words[V_OVER] != 0:
            return place
        at = agreed(
            words, address(recorded), address(begins), decisions[account], decisions[account + 1], address(positions),
            first[place], last[place], address(rests),
        )  # fmt: skip
        if at != NOTHING:
            at = left_over(words, address(shapes), address(shape_of), at)
        out[place, AGREES] = 0 if at == NOTHING else 1
        out[place, PENDING] = 0 if at == NOTHING else at
    return len(places)


def agreed(
    s: Words, recorded: Words, begins: Words, first: int, last: int, positions: Words, row: int, row1: int, rests: Words
) -> int:
    """Where what was derived goes on behind what was recorded; NOTHING where they part before."""
    at, step = s[V_OUT0], s[V_STEP0]
    for decision in range(first, last):
        begin = begins[decision]
        size = begins[decision + 1] - begin
        if at + size > s[V_OUTS]:
            return NOTHING
        for word in range(size):
            if s[at + word] != recorded[begin + word]:
                return NOTHING
        while step + STEP < s[V_STEPS] and s[step + STEP + 1] <= at:
            step += STEP
        position = s[step]
        rests[decision] = NOTHING
        for named in range(at + 4, at + 4 + 2 * s[at + 3], 2):
            if s[named] == position and s[named + 1] == 0:
                while row < row1 and positions[row] < position:
                    row += 1
                if row < row1 and positions[row] == position:
                    rests[decision] = row
        at += size
    return at


def left_over(s: Words, shapes: Words, shape_of: Words, at: int) -> int:
    """How many decisions follow from a place on, if a sweep has made all of them due; else NOTHING."""
    if at == s[V_OUTS]:
        return 0
    last = s[V_STEPS] - STEP
    if s[last] != END or at < s[last + 1]:
        return NOTHING
    found = 0
    while at < s[V_OUTS]:
        kind = s[at]
        at += 2
        for shape in range(shape_of[kind], shape_of[kind + 1]):
            width = shapes[2 * shape + 1]
            at += width if shapes[2 * shape] == 0 else 1 + s[at] * width
        found += 1
    return found
