"""The rows of a log to tables: sorted by bucket first, into a file without a name; then each bucket is decoded.

So no more is held in memory than a chunk of rows and the bucket that is at work. The file is gone when it is closed,
however that comes: what it holds is as it stands in the log.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tallybook.adapters.form import Form, NewerVersion, form_of, uuid_from
from tallybook.domain.errors import NewerSchema, StoredFormError, UnknownStoredName
from tallybook.domain.events import REGISTRY, Metadata
from tallybook.domain.loyalty import account_id
from tallybook.domain.points import Enrolled

from . import decoding
from .columns import (
    BOOL,
    ENVELOPE_COLUMNS,
    FILES,
    ID,
    INT,
    KIND,
    LENGTH,
    LIST,
    METADATA_TEXTS,
    OPENED,
    PART,
    PARTS,
    POSITION,
    ROW_NUMBERS,
    SKIPPED,
    TEXT,
    VERSION,
    WIDTH,
    Column,
    Columns,
    columns,
)
from .sqlite_rows import SQLiteRows

if TYPE_CHECKING:
    from .replay_columns import Log

Numbers = npt.NDArray[np.int64]
Raw = npt.NDArray[np.uint8]
Row = tuple[int, bytes, int, str, bytes]
TEXTS_AT_FIRST = 4096
SLICE_ROWS = 32_768
"""So many rows are read at once, where several threads read."""
WORKERS, AHEAD = 2, 4
"""So many threads read chunks; so many chunks are at work, or wait to be kept."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Program:
    """The tables by which states are decoded."""

    of: Columns
    names: tuple[str, ...]
    numbers: dict[str, int]
    forms: tuple[Form, ...]
    newest: Numbers
    arities: Numbers
    firsts: Numbers
    fields: Numbers
    leaves: Numbers
    slots: dict[str, int]
    """The first slot of each column."""
    count: int
    """How many slots there are."""


def program() -> Program:
    """The tables of the registry of now."""
    of = columns()
    made = _PROGRAMS.get(of)
    if made is None:
        made = _PROGRAMS[of] = _program(of)
    return made


_SKIPPED = [SKIPPED, 0, 0, 0, 0]
_PROGRAMS: dict[Columns, Program] = {}


def _program(of: Columns) -> Program:
    slots: dict[str, int] = {}
    next_slot = 0
    for name in ("effective_us", "recorded_us", *METADATA_TEXTS):
        slots[name] = next_slot
        next_slot += 2
    for column in of.columns:
        slots[column.name] = next_slot
        next_slot = leaf_slot(column, len(column.leaves), next_slot)
    firsts, fields, leaves = [0], list[list[int]](), list[list[int]]()
    for kind in of.fields:
        # version, key, event id, effective time, subject, metadata
        fields += [_SKIPPED, _SKIPPED, _SKIPPED, [INT, slots["effective_us"], len(leaves), 1, 1], _SKIPPED]
        leaves.append([INT, slots["effective_us"] + 1])
        fields.append([OPENED, len(Metadata.model_fields), 0, 0, 0])
        for name in ("recorded_us", *METADATA_TEXTS):
            fields.append([INT if name == "recorded_us" else TEXT, slots[name], len(leaves), 1, 1])
            leaves.append([fields[-1][0], slots[name] + 1])
        fields += [_SKIPPED] * (len(Metadata.model_fields) - 1 - len(METADATA_TEXTS))
        for field in of.fields[kind]:
            if field.column is None:
                fields.append(_SKIPPED)
                continue
            column, start = field.column, slots[field.column.name]
            fields.append([column.shape, start, len(leaves), len(field.fills), len(column.leaves)])
            rest = [index for index in range(len(column.leaves)) if index not in field.fills]
            leaves += [[column.leaves[index].holds, leaf_slot(column, index, start)] for index in (*field.fills, *rest)]
        firsts.append(len(fields))
    names = tuple(of.fields)
    forms = tuple(form_of(REGISTRY[name]) for name in names)
    return Program(
        of,
        names,
        {name: number for number, name in enumerate(names)},
        forms,
        np.array([form.version for form in forms], np.int64),
        np.array([form.arity for form in forms], np.int64),
        np.array(firsts, np.int64),
        np.array(fields, np.int64),
        np.array(leaves, np.int64),
        slots,
        next_slot,
    )


def leaf_slot(column: Column, leaf: int, first: int) -> int:
    """The slot of a leaf of a column whose first one is given; the rows take one, and the lengths of lists."""
    before = 2 if column.shape in (LIST, PARTS) else 1
    return first + before + sum(WIDTH[one.holds] for one in column.leaves[:leaf])


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of the log: what is known of each (see `columns.ROW_NUMBERS`), and their states one after another."""

    rows: npt.NDArray[np.uint64]
    ends: Numbers
    data: Raw


def chunk_of(found: Sequence[Row], made: Program) -> Chunk:
    """Rows as a chunk. Raises StoredFormError and its kinds."""
    # Column by column, by what runs in C: to unzip the rows would take as long as to read them.
    count = len(found)
    rows = np.zeros((count, ROW_NUMBERS), np.uint64)
    rows[:, POSITION] = np.fromiter(map(_POSITION, found), np.uint64, count)
    rows[:, VERSION] = np.fromiter(map(_VERSION, found), np.uint64, count)
    streams = np.frombuffer(b"".join(map(_STREAM, found)), ">u8").reshape(-1, 2)
    rows[:, decoding.STREAM_HI : decoding.STREAM_LO + 1] = streams
    try:
        rows[:, KIND] = np.fromiter(map(made.numbers.__getitem__, map(_NAME, found)), np.uint64, count)
    except KeyError:
        position, name = next((one[0], one[3]) for one in found if one[3] not in made.numbers)
        raise UnknownStoredName(
            "The stored name is not known to this release.", where=f"position {position}, {name}"
        ) from None
    states = list(map(_STATE, found))
    ends = np.cumsum(np.fromiter(map(len, states), np.int64, count))
    return Chunk(rows, ends, np.frombuffer(b"".join(states), np.uint8))


_POSITION, _STREAM, _VERSION, _NAME, _STATE = map(itemgetter, range(5))


def slices_of(
    log: Log, stop: int, made: Program, asked: Callable[[int, int], Chunk], task: Callable[[Chunk], T]
) -> Generator[T]:
    """What a task gives for the rows of a log up to a position, slice by slice, in order, by threads: some are ahead of
    what is taken. `asked` gives the rows after a position up to another where `SQLiteRows` does not."""
    kinds = Texts({decoding.TEXT: made.numbers})

    def done(after: int) -> T:
        until = min(after + SLICE_ROWS, stop)
        found = rows.take(after, until, kinds)
        return task(asked(after, until) if found is None else Chunk(*found))

    starts = iter(range(0, stop, SLICE_ROWS))
    with SQLiteRows(log) as rows, ThreadPoolExecutor(WORKERS) as pool:
        pending = deque(pool.submit(done, after) for after in islice(starts, AHEAD))
        while pending:
            found = pending.popleft().result()
            pending += (pool.submit(done, after) for after in islice(starts, 1))
            yield found


class Texts:
    """Texts with their codes, to be found by their bytes; each sort by itself."""

    def __init__(self, sorts: Mapping[int, Mapping[str, int]]) -> None:
        raw = [[text.encode("utf-8", "surrogatepass") for text in one] for one in sorts.values()]
        self._data = np.frombuffer(b"".join(map(b"".join, raw)) + b"\0", np.uint8)
        lengths = np.array([len(text) for one in raw for text in one], np.int64)
        rows = np.zeros((len(lengths), 4), np.int64)
        rows[:, 0] = np.repeat(list(sorts), [len(one) for one in sorts.values()])
        rows[1:, 1] = np.cumsum(lengths)[:-1]
        rows[:, 2] = lengths
        rows[:, 3] = [code for one in sorts.values() for code in one.values()]
        places = np.full(1 << (2 * len(rows) + 1).bit_length(), -1, np.int64)
        decoding.known_texts(self._data.ctypes.data, rows, places)
        self.table = self._data.ctypes.data, rows, places
        """Where their bytes lie, what is known of each, and the hash table."""


def prepared(chunk: Chunk, made: Program) -> tuple[Chunk, Numbers]:
    """A chunk with its subjects and event ids, and the bucket of each row; older schema versions brought up.

    Raises StoredFormError and its kinds.
    """
    buckets = np.zeros(len(chunk.ends), np.int64)
    stale = np.zeros(len(chunk.ends), np.bool_)
    error, row = decoding.envelopes(
        chunk.data.ctypes.data, chunk.ends, chunk.rows, made.newest, made.arities, buckets, stale
    )
    _check(error, chunk.rows, row, made)
    if stale.any():
        chunk = _brought_up(chunk, stale, made)
        stale = np.zeros(len(chunk.ends), np.bool_)
        error, row = decoding.envelopes(
            chunk.data.ctypes.data, chunk.ends, chunk.rows, made.newest, made.arities, buckets, stale
        )
        _check(error, chunk.rows, row, made)
    return chunk, buckets


def _brought_up(chunk: Chunk, stale: npt.NDArray[np.bool_], made: Program) -> Chunk:
    """A chunk with the states of older schema versions as those of the newest."""
    data = chunk.data.tobytes()
    states = []
    start = 0
    for row, end in enumerate(chunk.ends.tolist()):
        state = data[start:end]
        start = end
        if stale[row]:
            form = made.forms[int(chunk.rows[row, KIND])]
            where = f"position {chunk.rows[row, POSITION]}, {form.name}"
            try:
                values = form.current(msgpack.unpackb(state))
                if len(values) != form.arity:
                    raise ValueError(f"{len(values)} items where {form.arity} belong")
                state = msgpack.packb(values)
            except NewerVersion as error:
                raise NewerSchema(str(error), where=where) from None
            except (ValueError, TypeError, IndexError, KeyError, msgpack.exceptions.UnpackException) as error:
                raise StoredFormError(f"The state can't be read: {error}.", where=where) from error
        states.append(state)
    ends = np.fromiter(accumulate(map(len, states)), np.int64, len(states))
    return Chunk(chunk.rows, ends, np.frombuffer(b"".join(states), np.uint8))


def _check(error: int, rows: npt.NDArray[np.uint64], row: int, made: Program) -> None:
    if error == decoding.FINE:
        return
    what = {
        decoding.TOO_LARGE: "A number is greater than 63 bits hold.",
        decoding.WRONG_ARITY: "The state does not have as many items as its kind of event.",
    }.get(error, "The state is not of the form of its kind of event.")
    where = f"position {int(rows[row, POSITION])}, {made.names[int(rows[row, KIND])]}"
    raise StoredFormError(what, where=where)


class Spill:
    """Rows of a log, sorted by bucket, in a file that has no name.

    `sorts`: by kind of event, the sort it is of, from 0 on; -1: it is left out. Those of the second sort are in the
    buckets from `FILES` on, and so forth. By default, all are of one.
    """

    def __init__(self, sorts: Numbers | None = None) -> None:
        self._file = tempfile.TemporaryFile(prefix="tallybook-archive-")  # noqa: SIM115 - closed by `close`
        self._at = 0
        self.program = program()
        self._sorts = np.zeros(len(self.program.names), np.int64) if sorts is None else sorts
        count = FILES * (int(self._sorts.max(initial=0)) + 1)
        self._parts: list[list[tuple[int, int, int, int]]] = [[] for _ in range(count)]
        self.counts = [0] * count

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk, which follows those before it. Raises StoredFormError and its kinds."""
        self.keep(*self.apart(chunk))

    def apart(self, chunk: Chunk) -> tuple[npt.NDArray[np.uint64], Raw, Numbers, Numbers]:
        """A chunk sorted by bucket, to be kept. Several threads may do this at once. Raises StoredFormError and its
        kinds."""
        chunk, buckets = prepared(chunk, self.program)
        data, rows = np.empty_like(chunk.data), np.empty_like(chunk.rows)
        number = len(self.counts)
        sorts = self._sorts[chunk.rows[:, KIND].astype(np.int64)]
        buckets = np.where(sorts < 0, number, buckets + FILES * sorts)
        counts, sizes = np.zeros(number + 2, np.int64), np.zeros(number + 2, np.int64)
        decoding.apart(chunk.data, chunk.ends, chunk.rows, buckets, data, rows, counts, sizes)
        return rows[: counts[number]], data[: sizes[number]], counts, sizes

    def keep(self, rows: npt.NDArray[np.uint64], data: Raw, counts: Numbers, sizes: Numbers) -> None:
        """Keep what follows what was kept before."""
        if not len(rows):
            return
        at, number = self._at, len(self.counts)
        self._file.write(rows.data.cast("B"))
        self._file.write(data.data)
        self._file.flush()  # it is read by its handle
        for bucket in np.flatnonzero(np.diff(counts[: number + 1])).tolist():
            count, size = int(counts[bucket + 1] - counts[bucket]), int(sizes[bucket + 1] - sizes[bucket])
            rows_at = at + int(counts[bucket]) * rows.itemsize * ROW_NUMBERS
            self._parts[bucket].append((rows_at, count, at + rows.nbytes + int(sizes[bucket]), size))
            self.counts[bucket] += count
        self._at += rows.nbytes + data.nbytes

    def bucket(self, number: int) -> Chunk:
        """All rows of a bucket, by position."""
        return self.buckets((number,))

    def buckets(self, numbers: Sequence[int]) -> Chunk:
        """All rows of some buckets, one after the other, each by position."""
        parts = [part for number in numbers for part in self._parts[number]]
        rows = np.empty((sum(part[1] for part in parts), ROW_NUMBERS), np.uint64)
        data = np.empty(sum(part[3] for part in parts), np.uint8)
        row = byte = 0
        for rows_at, count, data_at, size in parts:
            _read(self._file.fileno(), rows[row : row + count].data.cast("B"), rows_at)
            _read(self._file.fileno(), data[byte : byte + size].data, data_at)
            row, byte = row + count, byte + size
        return Chunk(rows, np.cumsum(rows[:, LENGTH], dtype=np.int64), data)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _read(handle: int, into: memoryview, at: int) -> None:
    while len(into):
        got = os.preadv(handle, [into], at)
        if not got:
            raise OSError("the temporary file is shorter than what was written")
        into, at = into[got:], at + got


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def table_of(
    chunk: Chunk, made: Program, *, keep: int = 0, nobody: bool = False, wanted: Container[str] | None = None
) -> pa.Table:
    """The rows of a chunk (which is `prepared`, those of each subject by position) as a table, by subject and position.

    What is null in all rows is left out. Rows up to the position `keep` are context only: what others refer to.
    `nobody`: the rows are about nobody; otherwise, each is about somebody. `wanted`: these columns alone; then every
    stream is named that is not its subject's.
    """
    rows = chunk.rows
    count = len(rows)
    codes, firsts = np.zeros(count, np.int64), np.zeros(count, np.int64)
    subjects = decoding.subject_codes(rows, codes, firsts)
    unique = rows[firsts[:subjects]]
    by_id = np.lexsort((unique[:, decoding.SUBJECT_LO], unique[:, decoding.SUBJECT_HI]))
    ranks = np.empty(subjects, np.int64)
    ranks[by_id] = np.arange(subjects)
    order = np.empty(count, np.int64)
    decoding.in_order(codes, ranks, subjects, order)
    events = decoding.event_table(rows, codes)
    numbers, shown = np.zeros(count, np.int32), np.zeros(count, np.bool_)
    decoding.stream_numbers(rows, codes, order, numbers, shown)
    if keep:
        order = order[rows[order, POSITION] > keep]
    decoded = _decoded(chunk, made, order, codes, events)
    held: dict[str, pa.Array] = {}
    positions = rows[order, POSITION].astype(np.int64)
    held["position"] = pa.array(positions)
    if not nobody:
        held["subject_id"] = _ids(rows, order, decoding.SUBJECT_HI)
    held["stream"] = pa.array(numbers[order])
    named = _named_streams(rows, order, shown, decoded, made) if wanted is None else shown[order]
    if named.any():
        held["stream_id"] = _ids(rows, order, decoding.STREAM_HI, named)
    held["version"] = pa.array(rows[order, VERSION].astype(np.int64))
    held["stored_name"] = _names(rows[order, KIND], made)
    for name in ENVELOPE_COLUMNS:
        if name in made.slots and (wanted is None or name in wanted):
            rows_of = decoded.slot(made.slots[name])
            if len(rows_of):
                held[name] = decoded.leaf(made.slots[name] + 1, TEXT if name in METADATA_TEXTS else INT, rows_of)
    for column in made.of.columns:
        if wanted is not None and column.name not in wanted:
            continue
        array = decoded.column(column)
        if array is not None:
            held[column.name] = array
    names = [name for name in (*ENVELOPE_COLUMNS, *(one.name for one in made.of.columns)) if name in held]
    return pa.table([held[name] for name in names], names)


def _named_streams(rows: Any, order: Numbers, shown: Any, decoded: Decoded, made: Program) -> npt.NDArray[np.bool_]:
    """The rows, in order, that name their stream: the first of one that is neither the subject's nor the account that
    its enrolment opens, whose id follows from the subject's and the programme's."""
    named: npt.NDArray[np.bool_] = shown[order]
    slot = made.slots["programme"]
    places = decoded.slot(slot)
    hits = np.flatnonzero(named[places] & (rows[order[places], KIND] == made.numbers[Enrolled.stored_name]))
    programmes = decoded.texts_of(slot + 1)
    numbers = decoded.slot(slot + 1)[hits].tolist()
    ids = rows[order[places[hits]], decoding.STREAM_HI : decoding.SUBJECT_LO + 1].astype(">u8").tobytes()
    for index, number in enumerate(numbers):
        stream, subject = ids[32 * index : 32 * index + 16], ids[32 * index + 16 : 32 * index + 32]
        if account_id(uuid_from(subject), programmes[number]).bytes == stream:
            named[places[hits[index]]] = False
    return named


def _ids(rows: Any, order: Numbers, first: int, valid: Any = None) -> pa.Array:
    raw = rows[order, first : first + 2].astype(">u8")
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(order), [bits, pa.py_buffer(raw)])


def _names(kinds: Any, made: Program) -> pa.Array:
    known, places = np.unique(kinds, return_inverse=True)
    return pa.DictionaryArray.from_arrays(places.astype(np.int32), [made.names[int(kind)] for kind in known])


def _decoded(chunk: Chunk, made: Program, order: Numbers, codes: Numbers, events: Any) -> Decoded:
    offsets = np.concatenate([np.zeros(1, np.int64), chunk.ends])
    used, starts = np.zeros(made.count, np.int64), np.zeros(made.count, np.int64)
    counts = np.zeros(made.count + 2, np.int64)
    arena, ids = np.empty(0, np.int64), np.empty((0, 16), np.uint8)
    texts, table = np.zeros((TEXTS_AT_FIRST, 5), np.int64), np.full(4 * TEXTS_AT_FIRST, -1, np.int64)
    begin, last = 0, np.empty(made.count, np.int64)
    for writing in (False, True):
        while True:
            error, row = decoding.decode(
                chunk.data.ctypes.data, offsets, chunk.rows, order, codes, events, made.arities, made.firsts,
                made.fields, made.leaves, begin, writing, used, starts, arena, table, texts, counts, last, ids,
            )  # fmt: skip
            if error != decoding.NO_ROOM:
                break
            begin = row
            needed = int(counts[0] + offsets[order[row] + 1] - offsets[order[row]])
            size = 1 << (2 * max(needed, len(texts)) - 1).bit_length()
            grown = np.zeros((size, 5), np.int64)
            grown[: counts[0]] = texts[: counts[0]]
            texts, table = grown, np.full(4 * size, -1, np.int64)
            decoding.rehash(texts, int(counts[0]), table)
        _check(error, chunk.rows, row, made)
        if not writing:
            np.cumsum(used[:-1], out=starts[1:])
            arena, ids = np.empty(int(used.sum()), np.int64), np.empty((int(counts[0]), 16), np.uint8)
            used[:] = 0
            counts[:] = 0
    return Decoded(made, len(order), chunk.data, arena, starts, used, texts, counts, ids)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The values of all slots, and what makes Arrow arrays of them."""

    program: Program
    count: int
    data: Raw
    arena: Numbers
    starts: Numbers
    used: Numbers
    texts: Numbers
    counts: Numbers
    ids: Raw

    def slot(self, number: int) -> Numbers:
        """The values of a slot."""
        start = self.starts[number]
        return self.arena[start : start + self.used[number]]

    def column(self, column: Column) -> pa.Array | None:
        """A column as an array; None where it is null in every row."""
        first = self.program.slots[column.name]
        rows = self.slot(first)
        if not len(rows):
            return None
        if column.shape < LIST:
            return self.leaf(first + 1, column.shape, rows)
        if column.shape == PART:
            leaves = [self.leaf(leaf_slot(column, n, first), one.holds, rows) for n, one in enumerate(column.leaves)]
            bits = np.zeros((self.count + 7) // 8, np.uint8)
            decoding.filled_at(rows, bits)
            return _struct([one.name for one in column.leaves], leaves, self.count, bits, self.count - len(rows))
        leaves = [self.leaf(leaf_slot(column, n, first), one.holds) for n, one in enumerate(column.leaves)]
        if column.shape == LIST:
            items = leaves[0]
        else:
            items = _struct([one.name for one in column.leaves], leaves, len(leaves[0]), None, 0)
        offsets, bits = np.zeros(self.count + 1, np.int32), np.zeros((self.count + 7) // 8, np.uint8)
        decoding.lists(rows, self.slot(first + 1), offsets, bits)
        buffers = [pa.py_buffer(bits) if len(rows) < self.count else None, pa.py_buffer(offsets)]
        return pa.ListArray.from_buffers(pa.list_(items.type), self.count, buffers, children=[items])

    def leaf(self, slot: int, holds: int, rows: Numbers | None = None) -> pa.Array:
        """The values of a leaf, one after another, or spread over all rows."""
        if holds == ID:
            positions, numbers = self._numbers(slot, rows), self._numbers(slot + 1, rows, np.int32)
            ids = self._ids(slot + 2, rows)
            # An id is null where it is neither of an event nor itself there.
            size = len(positions[0])
            held = positions[1] | ids[1]
            nulls = size - int(np.unpackbits(held, count=size, bitorder="little").sum())
            parts = [_flat(pa.int64(), *positions), _flat(pa.int32(), *numbers), ids[0]]
            return _struct(["position", "number", "id"], parts, size, held, nulls)
        values, bits, nulls = self._numbers(slot, rows, np.int32 if holds == TEXT else np.int64)
        if holds == INT:
            return _flat(pa.int64(), values, bits, nulls)
        if holds == BOOL:
            return _flat(pa.bool_(), np.packbits(values.astype(np.bool_), bitorder="little"), bits, nulls, len(values))
        codes = _flat(pa.int32(), values, bits, nulls)
        return pa.DictionaryArray.from_arrays(codes, self._texts(slot), safe=False)

    def _numbers(self, slot: int, rows: Numbers | None, kind: Any = np.int64) -> tuple[Any, Any, int]:
        values = self.slot(slot)
        size = len(values) if rows is None else self.count
        made, bits = np.zeros(size, kind), np.zeros((size + 7) // 8, np.uint8)
        nulls = decoding.filled(values, made, bits) if rows is None else decoding.spread(rows, values, made, bits)
        return made, bits, int(nulls)

    def _ids(self, slot: int, rows: Numbers | None) -> tuple[pa.Array, Any]:
        places, bits, nulls = self._numbers(slot, rows)
        if nulls == len(places):
            return pa.nulls(len(places), pa.binary(16)), bits
        raw = self.ids[places] if len(self.ids) else np.zeros((len(places), 16), np.uint8)
        if nulls:
            raw[np.unpackbits(bits, count=len(places), bitorder="little") == 0] = 0
        buffers = [pa.py_buffer(bits) if nulls else None, pa.py_buffer(np.ascontiguousarray(raw))]
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(places), buffers), bits

    def texts_of(self, slot: int) -> list[str]:
        """The texts of a slot, by their numbers."""
        made: list[str] = self._texts(slot).to_pylist()
        return made

    def _texts(self, slot: int) -> pa.Array:
        count = int(self.counts[1 + slot])
        known = self.texts[: self.counts[0]]
        size = int(known[known[:, 0] == slot, 2].sum())
        offsets, raw = np.zeros(count + 1, np.int32), np.empty(size, np.uint8)
        decoding.gathered(self.data, known, len(known), slot, offsets, raw)
        return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(raw)])


def _flat(kind: pa.DataType, values: Any, bits: Any, nulls: int, size: int | None = None) -> pa.Array:
    buffers = [pa.py_buffer(bits) if nulls else None, pa.py_buffer(values)]
    return pa.Array.from_buffers(kind, len(values) if size is None else size, buffers, null_count=nulls)


def _struct(names: Sequence[str], parts: Sequence[pa.Array], size: int, bits: Any, nulls: int) -> pa.Array:
    # What is null throughout is left out, but for the first: each column of a file costs a tenth of a byte a row.
    some = [index for index, part in enumerate(parts) if part.null_count < len(part)] or [0]
    names, parts = [names[index] for index in some], [parts[index] for index in some]
    kind = pa.struct([(name, part.type) for name, part in zip(names, parts, strict=True)])
    valid = pa.py_buffer(bits) if nulls else None
    return pa.StructArray.from_buffers(kind, size, [valid], null_count=nulls, children=list(parts))
