"""Stored states to numbers, compiled by numba: what reads msgpack, driven by tables made from the registry.

Each value goes to a *slot*, one after another: an integer as it is, a text as its number among the slot's texts, an id
as three numbers (see `columns.WIDTH`). A column that is not null in a row has that row's number in a slot of its own.
Two passes: the first counts how much comes to each slot, the second writes.

Without the GIL, so that two threads decode two buckets at once.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tallybook.domain.errors import MissingExtra

try:
    import numba
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic
except ImportError as missing:
    raise MissingExtra("numba", "replay") from missing

from . import columns

INT, BOOL, TEXT, ID, LIST, PARTS, PART, SKIPPED, OPENED = range(9)
BUCKETS = NO_SUBJECT = 64
# Written once more: what numba keeps compiled is made anew when this file changes, whatever becomes of another.
assert (INT, BOOL, TEXT, ID) == (columns.INT, columns.BOOL, columns.TEXT, columns.ID)
assert (LIST, PARTS, PART) == (columns.LIST, columns.PARTS, columns.PART)
assert (SKIPPED, OPENED) == (columns.SKIPPED, columns.OPENED)
assert (BUCKETS, NO_SUBJECT) == (columns.BUCKETS, columns.NO_SUBJECT)

POSITION, VERSION, STREAM_HI, STREAM_LO, SUBJECT_HI, SUBJECT_LO, EVENT_HI, EVENT_LO, KIND, LENGTH = range(10)
assert (POSITION, VERSION, STREAM_HI, STREAM_LO) == (
    columns.POSITION, columns.VERSION, columns.STREAM_HI, columns.STREAM_LO,
)  # fmt: skip
assert (SUBJECT_HI, SUBJECT_LO, EVENT_HI, EVENT_LO) == (
    columns.SUBJECT_HI, columns.SUBJECT_LO, columns.EVENT_HI, columns.EVENT_LO,
)  # fmt: skip
assert (KIND, LENGTH) == (columns.KIND, columns.LENGTH)

NULL = -(2**63)
"""Stands for null among numbers."""

FINE, BROKEN, TOO_LARGE, WRONG_ARITY, NO_ROOM = 0, -1, -2, -3, -4
_LOW_40 = np.uint64(2**40 - 1)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_SHIFT = np.uint64(29)
_TOP = np.uint64(58)
_40 = np.uint64(40)
_ONE = np.uint64(1)
_FNV = np.uint64(0x100000001B3)
_32 = 2**32 - 1
_SQLITE_ROW = 100


_intrinsic: Any = intrinsic  # which takes the first parameter away
_copying: Any = cgutils.raw_memcpy  # which tells no types


def kept_compiled(function: Any) -> Any:
    """Compiled when it is called first, and kept beside the module (or in the user's cache) for the next process."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no folder in which it could be kept
        return numba.njit(nogil=True)(function)


def _inlined(function: Any) -> Any:
    return numba.njit(nogil=True, forceinline=True)(function)


# What reads takes an address, not an array: numba counts the references of an array at each call, by which
# a value would take ten times as long. Nothing is read that is not before `end`.


@_intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _byte(_context: Any, address: Any) -> Any:
    """The byte at an address."""
    if address != types.int64:
        return None

    def load(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(8).as_pointer()))

    return types.uint8(types.int64), load


@_intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _eight(_context: Any, address: Any) -> Any:
    """The big-endian number of eight bytes at an address."""
    if address != types.int64:
        return None

    def load(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        found = builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), align=1)
        return builder.bswap(found) if sys.byteorder == "little" else found

    return types.uint64(types.int64), load


@_intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _called(_context: Any, function: Any, given: Any, number: Any) -> Any:
    """What a C function at an address gives for an address and an int: 64 bits, of which it may have set 32."""
    if (function, given, number) != (types.int64,) * 3:
        return None

    def call(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64), ir.IntType(32)])
        pointer = builder.inttoptr(args[0], kind.as_pointer())
        return builder.call(pointer, [args[1], builder.trunc(args[2], ir.IntType(32))])

    return types.int64(types.int64, types.int64, types.int64), call


@_intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _copied(_context: Any, target: Any, source: Any, size: Any) -> Any:
    """Copy bytes from an address to another."""
    if (target, source, size) != (types.int64,) * 3:
        return None

    def copy(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        one, other = (builder.inttoptr(arg, byte) for arg in args[:2])
        _copying(builder, one, other, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), copy


@_inlined
def _be(at: int, count: int) -> Any:
    """A big-endian number of some bytes."""
    made = np.uint64(0)
    for index in range(count):
        made = (made << np.uint64(8)) | np.uint64(_byte(at + index))
    return made


@_inlined
def _integer(at: int, end: int) -> Any:
    """Where an integer ends (or an error), and what it is; NULL for nil."""
    if at >= end:
        return BROKEN, 0
    tag = _byte(at)
    if tag < 0x80:
        return at + 1, np.int64(tag)
    if tag >= 0xE0:
        return at + 1, np.int64(tag) - 256
    if tag == 0xC0:
        return at + 1, NULL
    if tag == 0xC2 or tag == 0xC3:
        return at + 1, np.int64(tag) - 0xC2
    if tag < 0xCC or tag > 0xD3:
        return BROKEN, 0
    size = 1 << ((np.int64(tag) - 0xCC) & 3)
    if at + 1 + size > end:
        return BROKEN, 0
    found = _be(at + 1, size)
    if tag < 0xD0:
        if found > np.uint64(2**63 - 1):
            return TOO_LARGE, 0
        return at + 1 + size, np.int64(found)
    if size == 1:
        return at + 2, np.int64(np.int8(found))
    if size == 2:
        return at + 3, np.int64(np.int16(found))
    if size == 4:
        return at + 5, np.int64(np.int32(found))
    if np.int64(found) == NULL:
        return TOO_LARGE, 0
    return at + 9, np.int64(found)


@_inlined
def _run(at: int, end: int) -> Any:
    """Where the bytes of a text or of bytes begin (or an error), and how many there are; -1 for nil."""
    if at >= end:
        return BROKEN, 0
    tag = _byte(at)
    if tag == 0xC0:
        return at + 1, -1
    size: Any = 0
    start = at + 1
    if 0xA0 <= tag <= 0xBF:
        size = np.int64(tag & 0x1F)
    elif tag == 0xC4 or tag == 0xD9:
        if at + 2 > end:
            return BROKEN, 0
        size = np.int64(_byte(at + 1))
        start = at + 2
    elif tag == 0xC5 or tag == 0xDA:
        if at + 3 > end:
            return BROKEN, 0
        size = np.int64(_be(at + 1, 2))
        start = at + 3
    elif tag == 0xC6 or tag == 0xDB:
        if at + 5 > end:
            return BROKEN, 0
        size = np.int64(_be(at + 1, 4))
        start = at + 5
    else:
        return BROKEN, 0
    if start + size > end:
        return BROKEN, 0
    return start, size


@_inlined
def _array(at: int, end: int) -> Any:
    """Where the items of an array begin (or an error), and how many there are; -1 for nil."""
    if at >= end:
        return BROKEN, 0
    tag = _byte(at)
    if tag == 0xC0:
        return at + 1, -1
    if 0x90 <= tag <= 0x9F:
        return at + 1, np.int64(tag & 0x0F)
    if tag == 0xDC and at + 3 <= end:
        return at + 3, np.int64(_be(at + 1, 2))
    if tag == 0xDD and at + 5 <= end:
        return at + 5, np.int64(_be(at + 1, 4))
    return BROKEN, 0


@kept_compiled
def envelopes(memory: int, ends: Any, rows: Any, newest: Any, arities: Any, buckets: Any, stale: Any) -> Any:
    """Fill in subject, event id and bucket of each row; and whether its schema version is not the newest.

    The states lie at the address `memory`; `ends` tells where each ends, `rows` has the kind. Gives an error and the
    row where one is broken.
    """
    start = 0
    for row in range(ends.shape[0]):
        end = memory + ends[row]
        kind = np.int64(rows[row, KIND])
        at, items = _array(memory + start, end)
        if at < 0:
            return BROKEN, row
        at, version = _integer(at, end)
        if at < 0:
            return BROKEN, row
        stale[row] = version != newest[kind] or items != arities[kind]
        at, _ = _integer(at, end)
        if at < 0:
            return BROKEN, row
        at, size = _run(at, end)
        if at < 0 or size != 16:
            return BROKEN, row
        rows[row, EVENT_HI] = _eight(at)
        rows[row, EVENT_LO] = _eight(at + 8)
        at, effective = _integer(at + 16, end)
        if at < 0 or effective == NULL:
            return BROKEN, row
        at, size = _run(at, end)
        if at < 0 or (size != 16 and size != -1):
            return BROKEN, row
        if size == -1:
            rows[row, SUBJECT_HI] = np.uint64(0)
            rows[row, SUBJECT_LO] = np.uint64(0)
            buckets[row] = NO_SUBJECT
        else:
            rows[row, SUBJECT_HI] = _eight(at)
            rows[row, SUBJECT_LO] = _eight(at + 8)
            buckets[row] = np.int64(rows[row, SUBJECT_HI] >> _TOP)
        rows[row, LENGTH] = np.uint64(ends[row] - start)
        start = ends[row]
    return FINE, 0


@kept_compiled
def apart(data: Any, ends: Any, rows: Any, buckets: Any, out_data: Any, out_rows: Any, counts: Any, sizes: Any) -> None:
    """Sort rows and their states by bucket, each bucket's in the order in which they came."""
    for row in range(ends.shape[0]):
        counts[buckets[row] + 1] += 1
        sizes[buckets[row] + 1] += np.int64(rows[row, LENGTH])
    for bucket in range(counts.shape[0] - 1):
        counts[bucket + 1] += counts[bucket]
        sizes[bucket + 1] += sizes[bucket]
    next_row, next_byte = counts.copy(), sizes.copy()
    start = 0
    for row in range(ends.shape[0]):
        end = ends[row]
        bucket = buckets[row]
        out_rows[next_row[bucket], :] = rows[row, :]
        next_row[bucket] += 1
        to = next_byte[bucket]
        out_data[to : to + end - start] = data[start:end]
        next_byte[bucket] = to + end - start
        start = end


@_inlined
def _hash(hi: Any, lo: Any, more: Any) -> Any:
    mixed = (lo ^ (hi * _MIX_2) ^ (np.uint64(more) * _MIX)) * _MIX
    return np.int64((mixed ^ (mixed >> _SHIFT)) >> np.uint64(1))


@kept_compiled
def subject_codes(rows: Any, codes: Any, firsts: Any) -> Any:
    """Number the subjects in the order in which they come; `firsts` has a row of each. How many there are."""
    count = rows.shape[0]
    size = 16
    while size < 2 * count:
        size *= 2
    table = np.full(size, -1, np.int32)
    found = 0
    last = -1
    for row in range(count):
        hi, lo = rows[row, SUBJECT_HI], rows[row, SUBJECT_LO]
        if last >= 0 and rows[firsts[last], SUBJECT_HI] == hi and rows[firsts[last], SUBJECT_LO] == lo:
            codes[row] = last
            continue
        at = _hash(hi, lo, 0) & (size - 1)
        while True:
            code = table[at]
            if code < 0:
                table[at] = found
                firsts[found] = row
                code = found
                found += 1
                break
            if rows[firsts[code], SUBJECT_HI] == hi and rows[firsts[code], SUBJECT_LO] == lo:
                break
            at = (at + 1) & (size - 1)
        codes[row] = code
        last = code
    return found


@kept_compiled
def in_order(codes: Any, ranks: Any, subjects: int, order: Any) -> None:
    """The rows by the rank of their subject, those of one in the order in which they stand; `codes` become ranks."""
    starts = np.zeros(subjects + 1, np.int64)
    for row in range(codes.shape[0]):
        codes[row] = ranks[codes[row]]
        starts[codes[row] + 1] += 1
    for subject in range(subjects):
        starts[subject + 1] += starts[subject]
    for row in range(codes.shape[0]):
        order[starts[codes[row]]] = row
        starts[codes[row]] += 1


@kept_compiled
def event_table(rows: Any, codes: Any) -> Any:
    """A hash table of event ids, by subject and the 104 bits that all lots of an event share: of equal ones the first.

    `rows` ascend by position within each subject.
    """
    size = 16
    while size < 2 * rows.shape[0]:
        size *= 2
    table = np.full(size, -1, np.int32)
    for row in range(rows.shape[0]):
        low, lo = rows[row, EVENT_HI] & _LOW_40, rows[row, EVENT_LO]
        at = _hash(low, lo, codes[row]) & (size - 1)
        while table[at] >= 0:
            other = table[at]
            if rows[other, EVENT_LO] == lo and rows[other, EVENT_HI] & _LOW_40 == low and codes[other] == codes[row]:
                break
            at = (at + 1) & (size - 1)
        if table[at] < 0:
            table[at] = row
    return table


@kept_compiled
def stream_numbers(rows: Any, codes: Any, order: Any, numbers: Any, shown: Any) -> None:
    """Number each subject's streams in the order in which they appear; `shown`: rows that are to name their stream."""
    size = 16
    while size < 2 * rows.shape[0]:
        size *= 2
    table = np.full(size, -1, np.int32)
    subject = -1
    found = 0
    last = -1
    for place in range(order.shape[0]):
        row = order[place]
        if codes[row] != subject:
            subject, found, last = codes[row], 0, -1
        hi, lo = rows[row, STREAM_HI], rows[row, STREAM_LO]
        if last >= 0 and rows[last, STREAM_HI] == hi and rows[last, STREAM_LO] == lo:
            numbers[row] = numbers[last]
            continue
        at = _hash(hi, lo, subject) & (size - 1)
        while table[at] >= 0:
            other = table[at]
            if rows[other, STREAM_LO] == lo and rows[other, STREAM_HI] == hi and codes[other] == subject:
                break
            at = (at + 1) & (size - 1)
        if table[at] < 0:
            table[at] = row
            numbers[row] = found
            shown[row] = hi != rows[row, SUBJECT_HI] or lo != rows[row, SUBJECT_LO]
            found += 1
        else:
            numbers[row] = numbers[table[at]]
        last = row


@_inlined
def _same(one: int, other: int, size: int) -> Any:
    for index in range(size):  # noqa: SIM110 - numba compiles no generator expression
        if _byte(one + index) != _byte(other + index):
            return False
    return True


@kept_compiled
def rehash(texts: Any, count: int, table: Any) -> None:
    """Fill a larger hash table of texts."""
    for seen in range(count):
        mixed = np.uint64(texts[seen, 4])
        place = np.int64((mixed ^ (mixed >> _SHIFT)) >> np.uint64(1)) & (table.shape[0] - 1)
        while table[place] >= 0:
            place = (place + 1) & (table.shape[0] - 1)
        table[place] = seen


@kept_compiled
def decode(
    memory: int, offsets: Any, rows: Any, order: Any, codes: Any, events: Any, arities: Any,
    firsts: Any, fields: Any, leaves: Any, begin: int, writing: bool,
    used: Any, starts: Any, arena: Any, table: Any, texts: Any, counts: Any, last: Any, ids: Any,
) -> Any:  # fmt: skip
    """Take the values of all rows, in order from `begin` on, to their slots. An error and the row. With NO_ROOM, the
    place from which to go on once there is more room for texts.

    `firsts[kind]` is the kind's first field; `fields` has for each: shape, first slot, first leaf, how many leaves of
    it are stored, how many there are. `leaves`: what each holds, and its slot. The first fields of every kind are those
    of the envelope: what is left out has the shape SKIPPED, the metadata OPENED. `texts` has for each its slot, where
    it stands, its length, its number in the slot, its hash; `counts` how many there are, and of each slot, and of ids.
    """
    last[:] = -1
    for place in range(begin, order.shape[0]):
        row = order[place]
        at, end = memory + offsets[row], memory + offsets[row + 1]
        if writing and (counts[0] + end - at > texts.shape[0] or 2 * (counts[0] + end - at) > table.shape[0]):
            return NO_ROOM, place
        kind = np.int64(rows[row, KIND])
        code = codes[row]
        at, items = _array(at, end)
        if at < 0 or items != arities[kind]:
            return WRONG_ARITY, row
        for field in range(firsts[kind], firsts[kind + 1]):
            if at >= end:
                return BROKEN, row
            shape = fields[field, 0]
            if shape >= SKIPPED:
                if shape == OPENED:
                    at, items = _array(at, end)
                    if at < 0 or items != fields[field, 1]:
                        return BROKEN, row
                    continue
                tag = _byte(at)
                if tag < 0x80 or tag >= 0xE0 or 0xCC <= tag <= 0xD3:
                    at, _ = _integer(at, end)
                else:
                    at, size = _run(at, end)
                    at += max(size, 0)
                if at < 0:
                    return BROKEN, row
                continue
            if _byte(at) == 0xC0:
                at += 1
                continue
            slot, first, stored, count = fields[field, 1], fields[field, 2], fields[field, 3], fields[field, 4]
            if writing:
                arena[starts[slot] + used[slot]] = place
            used[slot] += 1
            length = 1
            if shape in (LIST, PARTS):
                at, length = _array(at, end)
                if at < 0:
                    return BROKEN, row
                if writing:
                    arena[starts[slot + 1] + used[slot + 1]] = length
                used[slot + 1] += 1
            for _ in range(length):
                if shape >= PARTS:
                    at, items = _array(at, end)
                    if at < 0 or items != stored:
                        return BROKEN, row
                for leaf in range(first, first + stored):
                    holds, to = leaves[leaf, 0], leaves[leaf, 1]
                    target = starts[to] + used[to]
                    used[to] += 1
                    if holds in (INT, BOOL):
                        at, value = _integer(at, end)
                        if at < 0:
                            return at, row
                        if writing:
                            arena[target] = value
                        continue
                    at, size = _run(at, end)
                    if at < 0:
                        return BROKEN, row
                    if holds == ID:
                        used[to + 1] += 1
                        used[to + 2] += 1
                        if size != 16 and size >= 0:
                            return BROKEN, row
                        if not writing:
                            if size >= 0:
                                counts[0] += 1
                            at += max(size, 0)
                            continue
                        number = starts[to + 1] + used[to + 1] - 1
                        index = starts[to + 2] + used[to + 2] - 1
                        arena[target], arena[number], arena[index] = NULL, NULL, NULL
                        if size < 0:
                            continue
                        hi, lo = _eight(at), _eight(at + 8)
                        at += 16
                        low = hi & _LOW_40
                        where = _hash(low, lo, code) & (events.shape[0] - 1)
                        found = -1
                        while events[where] >= 0:
                            other = events[where]
                            if (
                                rows[other, EVENT_LO] == lo
                                and rows[other, EVENT_HI] & _LOW_40 == low
                                and codes[other] == code
                            ):
                                if rows[other, POSITION] < rows[row, POSITION]:
                                    found = other
                                break
                            where = (where + 1) & (events.shape[0] - 1)
                        if found >= 0:
                            arena[target] = np.int64(rows[found, POSITION])
                            if rows[found, EVENT_HI] != hi:
                                arena[number] = np.int64((rows[found, EVENT_HI] ^ hi) >> _40)
                        else:
                            known = counts[counts.shape[0] - 1]
                            counts[counts.shape[0] - 1] += 1
                            arena[index] = known
                            for byte in range(16):
                                ids[known, byte] = _byte(at - 16 + byte)
                        continue
                    if not writing:
                        at += max(size, 0)
                        continue
                    if size < 0:
                        arena[target] = NULL
                        continue
                    seen = last[to]
                    if seen < 0 or texts[seen, 2] != size or not _same(memory + texts[seen, 1], at, size):
                        mixed = np.uint64(to + 1) * _MIX_2
                        for byte in range(size):
                            mixed = (mixed ^ np.uint64(_byte(at + byte))) * _FNV
                        where = np.int64((mixed ^ (mixed >> _SHIFT)) >> _ONE) & (table.shape[0] - 1)
                        while True:
                            seen = table[where]
                            if seen < 0:
                                seen = counts[0]
                                counts[0] += 1
                                table[where] = seen
                                texts[seen, 0] = to
                                texts[seen, 1] = at - memory
                                texts[seen, 2] = size
                                texts[seen, 3] = counts[1 + to]
                                texts[seen, 4] = np.int64(mixed)
                                counts[1 + to] += 1
                                break
                            if (
                                texts[seen, 0] == to
                                and texts[seen, 2] == size
                                and _same(memory + texts[seen, 1], at, size)
                            ):
                                break
                            where = (where + 1) & (table.shape[0] - 1)
                        last[to] = seen
                    arena[target] = texts[seen, 3]
                    at += size
                for leaf in range(first + stored, first + count):  # the part of this kind of event has none of it
                    width = 3 if leaves[leaf, 0] == ID else 1
                    for more in range(width):
                        to = leaves[leaf, 1] + more
                        if writing:
                            arena[starts[to] + used[to]] = NULL
                        used[to] += 1
    return FINE, 0


@kept_compiled
def gathered(data: Any, texts: Any, count: int, slot: int, offsets: Any, out: Any) -> None:
    """The texts of a slot one after another, and where each begins."""
    at = 0
    number = 0
    for index in range(count):
        if texts[index, 0] == slot:
            size = texts[index, 2]
            out[at : at + size] = data[texts[index, 1] : texts[index, 1] + size]
            at += size
            number += 1
            offsets[number] = at


@kept_compiled
def spread(rows: Any, values: Any, out: Any, bits: Any) -> Any:
    """Values to the rows that they belong to, and a bit for each that is not null; how many are null."""
    nulls = out.shape[0]
    for index in range(rows.shape[0]):
        value = values[index]
        if value != NULL:
            row = rows[index]
            out[row] = value
            bits[row >> 3] |= np.uint8(1 << (row & 7))
            nulls -= 1
    return nulls


@kept_compiled
def filled(values: Any, out: Any, bits: Any) -> Any:
    """The same of values that stand one after another."""
    nulls = 0
    for index in range(values.shape[0]):
        value = values[index]
        if value == NULL:
            nulls += 1
        else:
            out[index] = value
            bits[index >> 3] |= np.uint8(1 << (index & 7))
    return nulls


@kept_compiled
def filled_at(rows: Any, bits: Any) -> None:
    """A bit for each of some rows."""
    for index in range(rows.shape[0]):
        bits[rows[index] >> 3] |= np.uint8(1 << (rows[index] & 7))


@kept_compiled
def lists(rows: Any, lengths: Any, offsets: Any, bits: Any) -> None:
    """Where the list of each row begins, and a bit for each row that has one."""
    at = 0
    row = 0
    for index in range(rows.shape[0]):
        while row <= rows[index]:
            offsets[row] = at
            row += 1
        bits[rows[index] >> 3] |= np.uint8(1 << (rows[index] & 7))
        at += lengths[index]
    while row < offsets.shape[0]:
        offsets[row] = at
        row += 1


# ── decisions as words ────────────────────────────────────────────────────────────────────────────────────────────

TIER = 9
"""What a leaf holds, beside INT, TEXT and ID: the name of a tier."""


@_inlined
def _text_hash(sort: int, at: int, size: int) -> Any:
    mixed = np.uint64(sort + 1) * _MIX_2
    for byte in range(size):
        mixed = (mixed ^ np.uint64(_byte(at + byte))) * _FNV
    return np.int64((mixed ^ (mixed >> _SHIFT)) >> _ONE)


@kept_compiled
def known_texts(memory: int, texts: Any, table: Any) -> None:
    """Fill a hash table of texts: of each, what a leaf of it holds, where it stands, its length, its code."""
    for text in range(texts.shape[0]):
        at = _text_hash(texts[text, 0], memory + texts[text, 1], texts[text, 2]) & (table.shape[0] - 1)
        while table[at] >= 0:
            at = (at + 1) & (table.shape[0] - 1)
        table[at] = text


@_inlined
def _skipped(at: int, end: int) -> Any:
    """Where a single value ends, or an error."""
    if at >= end:
        return BROKEN
    tag = _byte(at)
    if tag < 0x80 or tag >= 0xE0 or tag == 0xC2 or tag == 0xC3 or 0xCC <= tag <= 0xD3:
        at, _ = _integer(at, end)
        return at
    at, size = _run(at, end)
    return at if at < 0 else at + max(size, 0)


@_inlined
def _metadata(at: int, end: int) -> Any:
    """Where the metadata of a state begins, and where it ends (or an error)."""
    at, _ = _array(at, end)
    for _ in range(5):
        if at < 0:
            return BROKEN, BROKEN
        at = _skipped(at, end)
    start = at
    if at < 0:
        return BROKEN, BROKEN
    at, items = _array(at, end)
    for _ in range(items):
        if at < 0:
            return BROKEN, BROKEN
        at = _skipped(at, end)
    return start, at


@kept_compiled
def same_metadata(memory: int, offsets: Any, row: Any, other_memory: int, other_offsets: Any, other: Any) -> Any:
    """By pair of rows of two chunks, whether the same command recorded them."""
    found = np.zeros(row.shape[0], np.bool_)
    for pair in range(row.shape[0]):
        start, end = _metadata(memory + offsets[row[pair]], memory + offsets[row[pair] + 1])
        at, to = _metadata(other_memory + other_offsets[other[pair]], other_memory + other_offsets[other[pair] + 1])
        found[pair] = start >= 0 and end >= 0 and end - start == to - at and _same(start, at, end - start)
    return found


@kept_compiled
def decision_words(
    memory: int, offsets: Any, rows: Any, order: Any, codes: Any, events: Any, facts: Any, fact_codes: Any, kinds: Any,
    firsts: Any, fields: Any, text_memory: int, texts: Any, table: Any, out: Any, begins: Any, others: Any,
) -> Any:  # fmt: skip
    """Decisions, in order, as words. An error (NO_ROOM: in `others`), the row, and how many `others` there are: ids
    of no fact, of which each has the place of its word, where it stands, and the place of its decision.

    `fields` has, for each kind from `firsts` on, what a field holds (NULL stays NULL): a leaf; LIST, PARTS or PART, and
    how many leaves follow that each item has.
    """
    written = 0
    found = 0
    low_40 = _LOW_40
    for place in range(order.shape[0]):
        row = order[place]
        at, end = memory + offsets[row], memory + offsets[row + 1]
        begins[place] = written
        kind = kinds[np.int64(rows[row, KIND])]
        out[written] = kind
        at, _ = _array(at, end)
        for _ in range(3):
            at = _skipped(at, end)
            if at < 0:
                return BROKEN, row, found
        at, effective_us = _integer(at, end)
        if at < 0 or effective_us == NULL:
            return BROKEN, row, found
        out[written + 1] = effective_us
        written += 2
        at = _skipped(at, end)
        if at < 0:
            return BROKEN, row, found
        at, items = _array(at, end)
        for _ in range(items):
            if at < 0:
                return BROKEN, row, found
            at = _skipped(at, end)
        field = firsts[kind]
        while field < firsts[kind + 1]:
            if at < 0 or at >= end:
                return BROKEN, row, found
            sort = fields[field, 0]
            count, width = 1, 1
            if sort in (LIST, PARTS, PART):
                width = fields[field, 1]
                field += 1
                if sort == PART:
                    if _byte(at) == 0xC0:
                        at += 1
                        count = 0
                else:
                    at, count = _array(at, end)
                    if at < 0 or count < 0:
                        return BROKEN, row, found
                out[written] = count
                written += 1
            for _ in range(count):
                if sort in (PARTS, PART):
                    at, items = _array(at, end)
                    if at < 0 or items != width:
                        return BROKEN, row, found
                for leaf in range(field, field + width):
                    holds = fields[leaf, 0]
                    if holds == INT:
                        at, value = _integer(at, end)
                        if at < 0:
                            return BROKEN, row, found
                        out[written] = value
                        written += 1
                        continue
                    at, size = _run(at, end)
                    if at < 0:
                        return BROKEN, row, found
                    if holds == ID:
                        out[written] = NULL
                        out[written + 1] = 0
                        written += 2
                        if size < 0 and sort < LIST:
                            continue
                        if size != 16:
                            return BROKEN, row, found
                        hi, lo = _eight(at), _eight(at + 8)
                        low = hi & low_40
                        where = _hash(low, lo, codes[row]) & (events.shape[0] - 1)
                        fact = -1
                        while events[where] >= 0:
                            other = events[where]
                            if (
                                facts[other, EVENT_LO] == lo
                                and facts[other, EVENT_HI] & low_40 == low
                                and fact_codes[other] == codes[row]
                            ):
                                if facts[other, POSITION] < rows[row, POSITION]:
                                    fact = other
                                break
                            where = (where + 1) & (events.shape[0] - 1)
                        if fact >= 0:
                            out[written - 2] = np.int64(facts[fact, POSITION])
                            out[written - 1] = np.int64((facts[fact, EVENT_HI] ^ hi) >> _40)
                        else:
                            if found == others.shape[0]:
                                return NO_ROOM, row, found
                            others[found, 0] = written - 2
                            others[found, 1] = at - memory
                            others[found, 2] = place
                            found += 1
                        at += 16
                        continue
                    value = NULL
                    if size >= 0:
                        value = NULL + 1
                        where = _text_hash(holds, at, size) & (table.shape[0] - 1)
                        while table[where] >= 0:
                            text = table[where]
                            if (
                                texts[text, 0] == holds
                                and texts[text, 2] == size
                                and _same(text_memory + texts[text, 1], at, size)
                            ):
                                value = texts[text, 3]
                                break
                            where = (where + 1) & (table.shape[0] - 1)
                        at += size
                    out[written] = value
                    written += 1
            field += width
        # What decisions hold is clear: nothing is sealed.
        if at < 0 or at + 1 != end or _byte(at) != 0xC0:
            return BROKEN, row, found
    begins[order.shape[0]] = written
    return FINE, 0, found


@kept_compiled
def places_of(rows: Any, first: int, ids: Any) -> Any:
    """By row, the place of its id (whose halves stand from `first` on) among those that `ids` holds; -1: it is not."""
    size = 16
    while size < 2 * ids.shape[0]:
        size *= 2
    table = np.full(size, -1, np.int32)
    for place in range(ids.shape[0]):
        at = _hash(ids[place, 0], ids[place, 1], 0) & (size - 1)
        while table[at] >= 0:
            at = (at + 1) & (size - 1)
        table[at] = place
    found = np.full(rows.shape[0], -1, np.int64)
    for row in range(rows.shape[0]):
        at = _hash(rows[row, first], rows[row, first + 1], 0) & (size - 1)
        while table[at] >= 0:
            place = table[at]
            if ids[place, 0] == rows[row, first] and ids[place, 1] == rows[row, first + 1]:
                found[row] = place
                break
            at = (at + 1) & (size - 1)
    return found


@_inlined
def _code_of(at: int, size: int, text_memory: int, texts: Any, table: Any) -> Any:
    """The code of a text; -1: it is not known."""
    where = _text_hash(TEXT, at, size) & (table.shape[0] - 1)
    while table[where] >= 0:
        text = table[where]
        if texts[text, 2] == size and _same(text_memory + texts[text, 1], at, size):
            return texts[text, 3]
        where = (where + 1) & (table.shape[0] - 1)
    return -1


@kept_compiled
def take(
    functions: Any, statement: int, after: int, known: int, stands: bool, rows: Any, ends: Any, data: Any,
    text_memory: int, texts: Any, table: Any,
) -> Any:  # fmt: skip
    """Take the rows of a log after a position from a statement of SQLite that gives them in order. Those before `known`
    are there; `stands`: the statement is on that one. Gives how many are there, and FINE; or BROKEN, where the next one
    is missing or not as it should be; or NO_ROOM, where its state has none in `data`: then `ends` tells how much it is
    up to it.

    `functions`: addresses of sqlite3_step, _column_int64, _column_blob and _column_bytes.
    """
    step, integer, blob, bytes_of = functions[0], functions[1], functions[2], functions[3]
    memory, size = data.ctypes.data, data.shape[0]
    for row in range(known, rows.shape[0]):
        if not (stands and row == known) and _called(step, statement, 0) & _32 != _SQLITE_ROW:
            return row, BROKEN
        if _called(integer, statement, 0) != after + 1 + row or _called(bytes_of, statement, 2) & _32 != 16:
            return row, BROKEN
        stream = _called(blob, statement, 2)
        rows[row, STREAM_HI], rows[row, STREAM_LO] = _eight(stream), _eight(stream + 8)
        name = _called(blob, statement, 3)
        kind = _code_of(name, _called(bytes_of, statement, 3) & _32, text_memory, texts, table)
        state = _called(blob, statement, 4)
        length = _called(bytes_of, statement, 4) & _32
        if kind < 0 or length == 0:
            return row, BROKEN
        start = ends[row - 1] if row > 0 else 0
        ends[row] = start + length
        if ends[row] > size:
            return row, NO_ROOM
        _copied(memory + start, state, length)
        rows[row, POSITION] = np.uint64(after + 1 + row)
        rows[row, VERSION] = np.uint64(_called(integer, statement, 1))
        rows[row, KIND] = np.uint64(kind)
    return rows.shape[0], FINE
