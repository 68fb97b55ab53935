"""Facts kept for replays to come: an Arrow IPC file for each bucket, beside the archive.

A record batch holds a block of customers, its columns as lists of one row. Arrays stand in it in the smallest integers
that hold them; texts, tiers and ids by numbers of the file's own, which the first batch has. All of it can be deleted
at any time: what is not there, or not as it was written, or not of the archive as it is, is made anew.

bucket-07-‹digest of what it was made from›-‹SHA-256 of its bytes›.arrow
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc

from tallybook.domain import customer
from tallybook.domain.customer import Traits
from tallybook.domain.errors import ArchiveError, BookError
from tallybook.projections.columnar import facts as columnar_facts
from tallybook.projections.columnar.facts import Accounts, Facts, Ids, in_blocks
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.names import Names
from tallybook.projections.columnar.native import cache_folder

from . import replay_columns
from .places import LocalFolder, Place
from .replay_columns import PARTS, SLOTS, Sort, Told, facts_of

if TYPE_CHECKING:
    from .archive import Archive
    from .manifest import Manifest

Array = npt.NDArray[Any]
FORMAT = 2
"""The version of the files: it rises when what they hold changes."""
SPARSE = 8
"""Of what fewer than one row in so many has, those rows alone are kept."""
_DIGITS = 32
_MADE_FROM = b"tallybook replay"
_ROWS = ("kind", "position", "at_us", "account", "trait")
_OF_ALL = ("texts", "tiers", "ids", "programmes", *(f"trait {name}" for name in Traits._fields))
"""What the first batch has for all."""
_IDS = ("customers", "accounts")
_SLOTS = [f"slot{place}" for place in range(m.SLOTS)]
_ITEMS = [f"item{place}" for place in range(m.ITEMS)]
_CHANNEL = "channel"
_OF_BLOCKS = (*_ROWS, *_IDS, "of_customer", "of_row", "programme", "customer")

logger = logging.getLogger("tallybook.archive")


_UNREADABLE = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError)
"""What reading a file raises that is none of these."""


class BucketFile(NamedTuple):
    """The file of a bucket's facts: whatever process reaches the place can read it."""

    place: Place
    name: str
    made_from: str

    def load(self, names: Names) -> Iterator[Facts]:
        """The facts, block by block, told by names that are known when this returns. Raises ArchiveError where the file
        is not what its name says, then or while it is read; BookError where it is not there."""
        path = f"{self.place.shown}/{self.name}"
        data, sound = _read_of(self.place, self.name)
        if data is None:
            raise BookError(
                f"{path} is not there, as this process sees it.",
                path=path,
                remedy="Have the archive where every worker reaches it under that name: docs/scaling.md.",
            )
        if not sound:
            raise _unreadable(path, "its SHA-256 is another")
        try:
            kept = Kept(data, names, self.made_from)
        except _UNREADABLE as error:
            raise _unreadable(path, error) from None
        return _told(kept, path)


def _told(kept: Kept, path: str) -> Iterator[Facts]:
    try:
        yield from kept.blocks()
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, why: object) -> ArchiveError:
    remedy = "It is made anew when the next replay begins."
    return ArchiveError(f"{path} can't be read: {why}.", path=path, remedy=remedy)


class ReplayCache:
    """The facts of an archive's buckets. `folder`: where they are kept, for one archive; by default beside a local one,
    else in the user's cache; `shared`: beside the archive wherever that is, so that other hosts reach them."""

    def __init__(self, archive: Archive, folder: Path | None = None, *, shared: bool = False) -> None:
        self._archive = archive
        self._folder = LocalFolder(folder) if folder else _place_for(archive, shared=shared)

    def load(self, bucket: int, names: Names, manifest: Manifest | None = None) -> Iterator[Facts]:
        """The facts of a bucket, block by block, told by names that are known when this returns: as they are kept, or
        made from the archive, and kept. Two threads take no `names` in common at once. Raises ArchiveError,
        BookDamaged."""
        manifest = manifest or self._archive.manifest()
        made_from = _made_from(manifest, bucket)
        for name, data in self._kept(f"bucket-{bucket:02}-{made_from}-"):
            try:
                return self._blocks(Kept(data, names, made_from), name)
            except _UNREADABLE as error:
                logger.warning("What is kept of bucket %d for replays can't be read: %s.", bucket, error)
        made = self._made(bucket, made_from, manifest)
        try:
            self._keep(bucket, made_from, made)
        except BookError as error:
            logger.info("Nothing is kept for replays: %s", error)
        return Kept(made, names, made_from).blocks()

    def _blocks(self, kept: Kept, name: str) -> Iterator[Facts]:
        assert self._folder is not None
        path = f"{self._folder.shown}/{name}"
        try:
            yield from _told(kept, path)
        except ArchiveError:
            self.forget(path)
            raise

    def there(self) -> list[str]:
        """The names of all files that are kept. Raises BookError."""
        return [] if self._folder is None else self._folder.names()

    def file(self, bucket: int, manifest: Manifest, there: Sequence[str]) -> BucketFile:
        """The file of a bucket: one of those that are there, which is not read; or made from the archive. Raises
        ArchiveError, BookDamaged, BookError."""
        if self._folder is None:
            raise BookError("There is no folder for what replays read.")
        made_from = _made_from(manifest, bucket)
        stem = f"bucket-{bucket:02}-{made_from}-"
        found = [name for name in there if name.startswith(stem) and name.endswith(".arrow")]
        name = found[0] if found else self._keep(bucket, made_from, self._made(bucket, made_from, manifest))
        return BucketFile(self._folder, name, made_from)

    def forget(self, path: str) -> None:
        """Remove a file that can't be read, by what errors call it. Raises BookError."""
        if self._folder is not None and path.startswith(f"{self._folder.shown}/bucket-"):
            self._folder.remove([path.removeprefix(f"{self._folder.shown}/")])

    def _made(self, bucket: int, made_from: str, manifest: Manifest) -> bytes:
        own = Names()
        return packed(facts_of(self._archive, bucket, own, manifest), own, made_from)

    def _kept(self, stem: str) -> Iterator[tuple[str, bytes | memoryview]]:
        """Files whose names begin so, and their bytes, if they are what the names say."""
        if self._folder is None:
            return
        try:
            names = [name for name in self._folder.names() if name.startswith(stem) and name.endswith(".arrow")]
            for name in names:
                data, sound = _read_of(self._folder, name)
                if data is not None and not sound:
                    logger.warning("%s/%s was altered: its SHA-256 is another.", self._folder.shown, name)
                elif data is not None:
                    yield name, data
        except (BookError, OSError) as error:
            logger.warning("What is kept for replays can't be read: %s", error)

    def _keep(self, bucket: int, made_from: str, data: bytes) -> str:
        """Write a bucket's file, in the place of any other of that bucket; its name. Raises BookError."""
        name = f"bucket-{bucket:02}-{made_from}-{_digest(data)}.arrow"
        if self._folder is not None:
            others = [one for one in self._folder.names() if one.lstrip(".").startswith(f"bucket-{bucket:02}-")]
            self._folder.write(name, data)
            self._folder.remove(one for one in others if one != name)
        return name


def _place_for(archive: Archive, *, shared: bool) -> Place | None:
    """Where an archive's facts are kept."""
    if shared or isinstance(archive.place, LocalFolder):
        return archive.place.inside("replay")
    found = cache_folder(_digest(f"{archive.log.origin}\n{archive.place.shown}".encode()))
    return None if found is None else LocalFolder(found)


_checked: dict[tuple[str, str], object] = {}
"""Files whose bytes were held against their hash, and what tells that nobody wrote to them since."""


def _read_of(place: Place, name: str) -> tuple[bytes | memoryview | None, bool]:
    """A file's bytes (None: there is none), and whether they are what its name says."""
    # An object store's tokens may be those of a listing, or say too little.
    token = place.token(name) if isinstance(place, LocalFolder) else None
    data = _bytes_in(place, name)
    if data is None:
        return None, False
    if token is None or _checked.get((place.shown, name)) != token:
        if not name.endswith(f"-{_digest(data)}.arrow"):
            return data, False
        if token is not None:
            _checked[place.shown, name] = token
    return data, True


def _bytes_in(place: Place, name: str) -> bytes | memoryview | None:
    """A file's bytes; None: there is none."""
    if not isinstance(place, LocalFolder):
        return place.read(name)
    try:
        return _read(place.path / name)
    except FileNotFoundError:
        return None


def _read(path: Path) -> memoryview:
    """A file's bytes, in memory of numpy's: that comes in large pages, which saves half of the time."""
    with path.open("rb", buffering=0) as opened:
        made = np.empty(os.fstat(opened.fileno()).st_size, np.uint8).data
        return made[: opened.readinto(made)]


def _digest(data: bytes | memoryview) -> str:
    return sha256(data).hexdigest()[:_DIGITS]


def _made_from(manifest: Manifest, bucket: int) -> str:
    """A digest of all that a bucket's file is made from: the archive's files, and the code."""
    files = sorted(one.sha256 for one in (*manifest.files, *manifest.deltas) if bucket in one.buckets)
    return _digest("\n".join([_code(), manifest.origin, str(bucket), *files]).encode())


@cache
def _code() -> str:
    """A digest of the code that makes facts, and of how they are kept."""
    of_traits = (Traits, customer.note_values, customer.traits_of)
    modules = (columnar_facts, replay_columns, sys.modules[__name__])
    sources = [inspect.getsource(one) for one in (*modules, *of_traits)]
    known = (FORMAT, m.FACTS, m.NAMING, m.SLOTS, m.ITEMS, m.NO_REF, m.UNKNOWN_REF, m.UNKNOWN_ID, m.NONE)
    return _digest("\n".join([*sources, repr(known)]).encode())


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def packed(facts: Facts, names: Names, made_from: str) -> bytes:
    """Facts as a file. `names` are theirs alone."""
    of_all: dict[str, pa.Array] = {
        "texts": pa.array(list(names.texts), pa.string()),
        "tiers": pa.array(list(names.tiers), pa.string()),
        "ids": _of_16(b"".join(one.bytes for one in names.ids)),
    }
    for place, name in enumerate(Traits._fields):
        of_all[f"trait {name}"] = pa.array([one[place] for one in facts.traits])
    blocks = []
    for block in in_blocks(facts):
        assert isinstance(block.accounts, Accounts)
        of_all["programmes"] = pa.array(list(block.accounts.programmes), pa.string())
        blocks.append(_of_block(block))
    kinds: dict[str, Any] = {}
    for name, array in (one for block in blocks for one in block.items()):
        kinds[name] = np.result_type(kinds.get(name, array.dtype), array.dtype)
    types = {name: one.type for name, one in of_all.items()}
    types |= {name: pa.binary(16) if name in _IDS else pa.from_numpy_dtype(kind) for name, kind in kinds.items()}
    schema = pa.schema([(name, pa.large_list(one)) for name, one in types.items()], {_MADE_FROM: made_from})
    sink = pa.BufferOutputStream()
    compression = "lz4" if pa.Codec.is_available("lz4_frame") else None
    with ipc.new_file(sink, schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        for columns in blocks:
            held = of_all | {name: _arrow(array.astype(kinds[name])) for name, array in columns.items()}
            arrays = (held.get(name, pa.array([], one)) for name, one in types.items())
            lists = [pa.LargeListArray.from_arrays(pa.array([0, len(one)], pa.int64()), one) for one in arrays]
            writer.write_batch(pa.record_batch(lists, schema=schema))
            of_all = {}
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _of_block(facts: Facts) -> dict[str, Array]:
    """What is held of a block, by column."""
    held: dict[str, Array] = {name: _narrow(getattr(facts, name)) for name in _ROWS}
    held["of_customer"] = _narrow(np.diff(facts.first))
    held["of_row"] = _narrow(np.diff(facts.item))
    _put(held, "channel text", facts.channel)
    kind_of_item = np.repeat(facts.kind, np.diff(facts.item))
    parts = {kind: told for kind, (_, told) in PARTS.items()}
    for name, array, kinds, table in (
        ("slot", facts.slots, facts.kind, SLOTS),
        ("item", facts.items, kind_of_item, parts),
    ):
        for place in range(array.shape[1]):
            for sort, values in _sorted_out(array[:, place], kinds, place, table).items():
                _put(held, f"{name}{place} {sort}", values)
    assert isinstance(facts.accounts, Accounts)
    held["customers"], held["accounts"] = facts.customer_ids(), facts.account_ids()
    held["programme"], held["customer"] = _narrow(facts.accounts.programme), _narrow(facts.accounts.customer)
    return held


def _arrow(array: Array) -> pa.Array:
    """A column; of ids, 16 bytes each."""
    return _of_16(array.tobytes()) if array.ndim == 2 else pa.array(array)


def _sorted_out(values: Array, kinds: Array, place: int, table: Mapping[str, Told]) -> dict[str, Array]:
    """Numbers, those that few have the like of apart, and codes of the file's own, which count from 1 on (of texts, the
    empty one is 0)."""
    found = {"number": values.copy()}

    def move(sort: str, rows: Array, codes: Array) -> None:
        found.setdefault(sort, np.zeros(len(values), np.int64))[rows] = codes
        found["number"][rows] = 0

    for kind, told in table.items():
        sort = told[place][0] if place < len(told) else Sort.NUMBER
        rows = np.flatnonzero(kinds == m.FACTS.index(kind))
        if sort in (Sort.TEXT, Sort.TEXT_OR_NONE):
            rows = rows[values[rows] != m.NONE]
            move("text", rows, values[rows])
        elif sort is Sort.TIER:
            move("tier", rows, values[rows] + 1)
        elif sort is Sort.STRANGER:
            move("stranger", rows, m.UNKNOWN_ID + m.UNKNOWN_REF + 1 - values[rows])
        elif sort in (Sort.ROW, Sort.LOT):
            rows = rows[values[rows] <= m.UNKNOWN_REF]
            move("id", rows, m.UNKNOWN_REF + 1 - values[rows])
    wide = np.flatnonzero(found["number"] != found["number"].astype(np.int32))
    if len(wide) * SPARSE < len(values):
        move("wide", wide, values[wide])
    return found


def _put(held: dict[str, Any], name: str, values: Array) -> None:
    """Hold an array; of one that is mostly zeros, the others and how far each is from the one before."""
    some = np.count_nonzero(values)
    if not some:
        return
    if SPARSE * some < len(values):
        rows = np.flatnonzero(values)
        held[f"{name} after"] = _narrow(np.diff(rows, prepend=0))
        values = values[rows]
    held[name] = _narrow(values)


def _narrow(values: Array) -> Array:
    """The same in the smallest integers that hold it."""
    least, most = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    kinds = (np.uint8, np.uint16, np.uint32) if least >= 0 else (np.int8, np.int16, np.int32)
    fitting = (kind for kind in kinds if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max)
    return values.astype(next(fitting, np.int64))


def _of_16(data: bytes) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(data) // 16, [None, pa.py_buffer(data)])


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Kept:
    """A file, told by `names`. Raises ValueError and whatever else of what is no such file, then or while it is
    read."""

    def __init__(self, data: bytes | memoryview, names: Names, made_from: str) -> None:
        options = ipc.IpcReadOptions(use_threads=False)
        self._reader = ipc.open_file(pa.BufferReader(pa.py_buffer(data)), options=options)
        schema = self._reader.schema
        if (schema.metadata or {}).get(_MADE_FROM) != made_from.encode():
            raise ValueError("it was made from something else")
        self._places = {name: place for place, name in enumerate(schema.names)}
        if missing := [name for name in (*_OF_ALL, *_OF_BLOCKS) if name not in self._places]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        of = {one.name: one.type.value_type for one in schema}
        self._kinds = {name: np.dtype(str(one)) for name, one in of.items() if pa.types.is_integer(one)}
        self._first = self._reader.get_batch(0)
        texts, tiers, ids = self._list("texts"), self._list("tiers"), list(Ids(self._bytes(self._first, "ids")))
        taken_up = names.take_up(texts, tiers, ids)
        references = np.arange(m.UNKNOWN_REF, m.UNKNOWN_REF - len(ids), -1)
        if not taken_up:
            references = np.array([*map(names.reference, ids)], np.int64)
        self._texts = len(texts)
        self._codes: dict[str, Array | None] = {
            "number": None,
            "wide": None,
            "text": None if taken_up else _codes(texts, names),
            "tier": np.array([0, *map(names.tier, tiers)], np.int64),
            "id": np.concatenate((np.zeros(1, np.int64), references)),
            "stranger": np.concatenate((np.zeros(1, np.int64), references + m.UNKNOWN_ID)),
        }
        self._traits = _Traits([self._array(self._first, f"trait {name}") for name in Traits._fields])
        if len({len(one) for one in self._traits.columns}) != 1:
            raise ValueError("what is known of customers is of different lengths")
        self._programmes = self._list("programmes")
        sorts = {name: [f"{name} {sort}" for sort in self._codes] for name in (*_SLOTS, *_ITEMS, _CHANNEL)}
        self._stored = {name: [one for one in of if one in self._places] for name, of in sorts.items()}

    def blocks(self) -> Iterator[Facts]:
        """All facts, block by block."""
        yield self._facts(self._first)
        for number in range(1, self._reader.num_record_batches):
            yield self._facts(self._reader.get_batch(number))

    def _facts(self, batch: pa.RecordBatch) -> Facts:
        rows = {name: self._numbers(batch, name).astype(np.int64) for name in _ROWS}
        item, first = (_sums(self._numbers(batch, name)) for name in ("of_row", "of_customer"))
        count = len(item) - 1
        if any(len(one) != count for one in rows.values()) or first[-1] != count:
            raise ValueError("its columns are of different lengths")
        slots, items = self._widened(batch, _SLOTS, count), self._widened(batch, _ITEMS, int(item[-1]))
        programme, customer = (self._numbers(batch, name).astype(np.int64) for name in ("programme", "customer"))
        return Facts(
            rows["kind"],
            rows["position"],
            rows["at_us"],
            rows["account"],
            slots.T,
            item,
            items.T,
            rows["trait"],
            self._widened(batch, [_CHANNEL], count)[0],
            self._traits,
            Ids(self._bytes(batch, "customers")),
            first,
            Accounts(Ids(self._bytes(batch, "accounts")), self._programmes, programme, customer),
        )

    def _array(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        return batch.column(self._places[name]).values

    def _list(self, name: str) -> list[str]:
        """Texts that the first batch has for all."""
        return _texts_of(self._array(self._first, name))

    def _bytes(self, batch: pa.RecordBatch, name: str) -> bytes:
        """Ids of 16 bytes, one after another."""
        array = self._array(batch, name)
        return array.buffers()[1].to_pybytes()[: 16 * len(array)] if len(array) else b""

    def _numbers(self, batch: pa.RecordBatch, name: str) -> Any:
        """Integers. (Arrow's own way loads pandas, where it is there.)"""
        array, kind = self._array(batch, name), self._kinds[name]
        if array.null_count:
            raise ValueError(f"{name} has {array.null_count} nulls")
        if not len(array):
            return np.zeros(0, kind)
        return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)

    def _widened(self, batch: pa.RecordBatch, places: Sequence[str], count: int) -> Array:
        """Columns of so many numbers, put together of what is held of each."""
        made = np.empty((len(places), count), np.int64)
        for place, into in zip(places, made, strict=True):
            filled = False
            sparse: list[tuple[Array, Array]] = []
            for stored in self._stored[place]:
                values = self._numbers(batch, stored)
                if not len(values):
                    continue
                sort = stored.rpartition(" ")[2]
                told = self._codes[sort]
                if sort == "text" and values.max() >= self._texts:
                    raise ValueError(f"{stored} names a text that there is not")
                values = values if told is None else told[values]
                after = f"{stored} after"
                if after in self._places and len(far := self._numbers(batch, after)):
                    sparse.append((np.cumsum(far, dtype=np.int64), values))
                elif len(values) != count:
                    raise ValueError(f"{stored} is of another length")
                elif filled:
                    into += values
                else:
                    into[:] = values
                    filled = True
            if not filled:
                into[:] = 0
            for rows, values in sparse:
                into[rows] += values
        return made


def _texts_of(array: pa.Array) -> list[str]:
    """Texts, several times as fast as Arrow's own way."""
    if array.null_count or not pa.types.is_string(array.type):
        raise ValueError(f"{array.type} with {array.null_count} nulls, where texts belong")
    if not len(array):
        return []
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(array) + 1, 4 * array.offset).tolist()
    written = data.to_pybytes() if data is not None else b""
    told = written.decode()
    if len(told) == len(written):
        return [told[begin:end] for begin, end in pairwise(bounds)]
    return [written[begin:end].decode() for begin, end in pairwise(bounds)]


class _Traits(Sequence[Traits]):
    """What is known of customers, read where it is asked for."""

    def __init__(self, columns: Sequence[pa.Array]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    @typing.overload
    def __getitem__(self, place: int) -> Traits: ...
    @typing.overload
    def __getitem__(self, place: slice) -> Sequence[Traits]: ...
    def __getitem__(self, place: int | slice) -> Traits | Sequence[Traits]:
        return self._all[place]

    @cached_property
    def _all(self) -> tuple[Traits, ...]:
        return tuple(Traits(*one) for one in zip(*(one.to_pylist() for one in self.columns), strict=True))


def _codes(texts: list[str], names: Names) -> Array:
    """The codes of texts, most of which other buckets have, too."""
    found = list(map(names.texts.get, texts))
    return np.array(list(map(names.text, texts)) if None in found else found, np.int64)


def _sums(lengths: Array) -> Array:
    """Where each begins, and where the last ends."""
    made = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=made[1:])
    return made
