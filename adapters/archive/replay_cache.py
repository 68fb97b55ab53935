"""Facts kept for replays to come: an Arrow IPC file for each bucket, beside the archive.

Arrays stand in it in the smallest integers that hold them; texts, tiers and ids by numbers of the file's own. All of it
can be deleted at any time: what is not there, or not as it was written, or not of the archive as it is, is made anew.

bucket-07-‹digest of what it was made from›-‹SHA-256 of its bytes›.arrow
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
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
from tallybook.projections.columnar.facts import Accounts, Facts, Ids
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.names import Names
from tallybook.projections.columnar.native import cache_folder, compiled

from . import replay_columns
from .places import LocalFolder, Place
from .replay_columns import PARTS, SLOTS, Sort, Told, facts_of

if TYPE_CHECKING:
    from .archive import Archive
    from .manifest import Manifest

Array = npt.NDArray[Any]
FORMAT = 1
"""The version of the files: it rises when what they hold changes."""
SPARSE = 8
"""Of what fewer than one row in so many has, those rows alone are kept."""
BLOCK = 1 << 14
"""So many rows are widened at once: they stay in the processor's own memory meanwhile."""
MANY = 1 << 15
"""From so many rows on, what widens them is compiled: that takes a second once."""
_AT_ONCE = {"slot": (0, 1, 2), "item": (4, 5)}
"""The places in which there may be texts, if not few, of what is compiled."""
_DIGITS = 32
_MADE_FROM = b"tallybook replay"
_ROWS = ("kind", "position", "at_us", "account", "trait")

logger = logging.getLogger("tallybook.archive")


_UNREADABLE = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError)
"""What reading a file raises that is none of these."""


class BucketFile(NamedTuple):
    """The file of a bucket's facts: whatever process reaches the place can read it."""

    place: Place
    name: str
    made_from: str

    def load(self, names: Names) -> Facts:
        """The facts. Raises ArchiveError where the file is not what its name says, BookError where it is not there."""
        path = f"{self.place.shown}/{self.name}"
        data = _bytes_in(self.place, self.name)
        if data is None:
            raise BookError(
                f"{path} is not there, as this process sees it.",
                path=path,
                remedy="Have the archive where every worker reaches it under that name: docs/scaling.md.",
            )
        try:
            if not self.name.endswith(f"-{_digest(data)}.arrow"):
                raise ValueError("its SHA-256 is another")
            return unpacked(data, names, self.made_from)
        except _UNREADABLE as error:
            remedy = "It is made anew when the next replay begins."
            raise ArchiveError(f"{path} can't be read: {error}.", path=path, remedy=remedy) from None


class ReplayCache:
    """The facts of an archive's buckets. `folder`: where they are kept, for one archive; by default beside a local one,
    else in the user's cache; `shared`: beside the archive wherever that is, so that other hosts reach them."""

    def __init__(self, archive: Archive, folder: Path | None = None, *, shared: bool = False) -> None:
        self._archive = archive
        self._folder = LocalFolder(folder) if folder else _place_for(archive, shared=shared)
        self._seen: dict[str, object] = {}
        """Files whose bytes were held against their hash, and what tells that nobody wrote to them since."""

    def load(self, bucket: int, names: Names, manifest: Manifest | None = None) -> Facts:
        """The facts of a bucket: as they are kept, or made from the archive, and kept. Two threads take no `names` in
        common at once. Raises ArchiveError, BookDamaged."""
        manifest = manifest or self._archive.manifest()
        made_from = _made_from(manifest, bucket)
        for data in self._kept(f"bucket-{bucket:02}-{made_from}-"):
            try:
                return unpacked(data, names, made_from)
            except _UNREADABLE as error:
                logger.warning("What is kept of bucket %d for replays can't be read: %s.", bucket, error)
        made = self._made(bucket, made_from, manifest)
        try:
            self._keep(bucket, made_from, made)
        except BookError as error:
            logger.info("Nothing is kept for replays: %s", error)
        return unpacked(made, names, made_from)

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

    def _kept(self, stem: str) -> Iterator[bytes | memoryview]:
        """The bytes of files whose names begin so, if they are what the names say."""
        if self._folder is None:
            return
        try:
            names = [name for name in self._folder.names() if name.startswith(stem) and name.endswith(".arrow")]
            for name in names:
                token = self._folder.token(name)
                data = _bytes_in(self._folder, name)
                if data is None:
                    continue
                if self._seen.get(name) != token or token is None:
                    if f"{stem}{_digest(data)}.arrow" != name:
                        logger.warning("%s/%s was altered: its SHA-256 is another.", self._folder.shown, name)
                        continue
                    self._seen[name] = token
                yield data
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
    known = (FORMAT, m.FACTS, m.SLOTS, m.ITEMS, m.NO_REF, m.UNKNOWN_REF, m.UNKNOWN_ID, m.NONE)
    return _digest("\n".join([*sources, repr(known)]).encode())


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def packed(facts: Facts, names: Names, made_from: str) -> bytes:
    """Facts as a file. `names` are theirs alone."""
    held: dict[str, Any] = {name: _narrow(getattr(facts, name)) for name in _ROWS}
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
    held["texts"] = pa.array(list(names.texts), pa.string())
    held["tiers"] = pa.array(list(names.tiers), pa.string())
    held["ids"] = _of_16(b"".join(one.bytes for one in names.ids))
    held["customers"] = _of_16(b"".join(one.bytes for one in facts.customers))
    accounts = list(facts.accounts)
    held["accounts"] = _of_16(b"".join(one.bytes for one, _, _ in accounts))
    programmes = {programme: code for code, programme in enumerate(sorted({one[1] for one in accounts}))}
    held["programmes"] = pa.array(list(programmes), pa.string())
    held["programme"] = _narrow(np.array([programmes[one[1]] for one in accounts], np.int64))
    held["customer"] = _narrow(np.array([one[2] for one in accounts], np.int64))
    for place, name in enumerate(Traits._fields):
        held[f"trait {name}"] = pa.array([one[place] for one in facts.traits])
    arrays = [one if isinstance(one, pa.Array) else pa.array(one) for one in held.values()]
    lists = [pa.LargeListArray.from_arrays(pa.array([0, len(one)], pa.int64()), one) for one in arrays]
    schema = pa.schema([(name, one.type) for name, one in zip(held, lists, strict=True)], {_MADE_FROM: made_from})
    sink = pa.BufferOutputStream()
    compression = "lz4" if pa.Codec.is_available("lz4_frame") else None
    with ipc.new_file(sink, schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(pa.record_batch(lists, schema=schema))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _sorted_out(values: Array, kinds: Array, place: int, table: Mapping[str, Told]) -> dict[str, Array]:
    """Numbers apart from codes of the file's own, which count from 1 on (of texts, the empty one is 0)."""
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


def _numbers(array: pa.Array) -> Any:
    """Integers of an array. Raises ValueError for what has none. (Arrow's own way loads pandas, where it is there.)"""
    if array.null_count or not pa.types.is_integer(array.type):
        raise ValueError(f"{array.type} with {array.null_count} nulls, where integers belong")
    kind = np.dtype(str(array.type))
    if not len(array):
        return np.zeros(0, kind)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)


def unpacked(data: bytes | memoryview, names: Names, made_from: str) -> Facts:
    """A file as facts, told by `names`. Raises ValueError and whatever else of what is no such file."""
    with ipc.open_file(pa.BufferReader(pa.py_buffer(data)), options=ipc.IpcReadOptions(use_threads=False)) as reader:
        if (reader.schema.metadata or {}).get(_MADE_FROM) != made_from.encode():
            raise ValueError("it was made from something else")
        batch = reader.get_batch(0)
    held = {name: batch.column(place).values for place, name in enumerate(batch.schema.names)}
    ids = [names.reference(one) for one in Ids(_bytes_of(held["ids"]))]
    codes = {
        "number": None,
        "text": _codes(held["texts"].to_pylist(), names),
        "tier": np.array([0, *(names.tier(tier) for tier in held["tiers"].to_pylist())], np.int64),
        "id": np.array([0, *ids], np.int64),
        "stranger": np.array([0, *(m.UNKNOWN_ID + one for one in ids)], np.int64),
    }
    rows = {name: _numbers(held[name]).astype(np.int64) for name in _ROWS}
    item, first = _sums(held["of_row"]), _sums(held["of_customer"])
    traits = zip(*(held[f"trait {name}"].to_pylist() for name in Traits._fields), strict=True)
    programmes = held["programmes"].to_pylist()
    return Facts(
        rows["kind"],
        rows["position"],
        rows["at_us"],
        rows["account"],
        _widened(held, "slot", len(item) - 1, m.SLOTS, codes),
        item,
        _widened(held, "item", int(item[-1]), m.ITEMS, codes),
        rows["trait"],
        _widened(held, "channel", len(item) - 1, 1, codes).reshape(-1),
        tuple(Traits(*one) for one in traits),
        Ids(_bytes_of(held["customers"])),
        first,
        Accounts(
            Ids(_bytes_of(held["accounts"])),
            programmes,
            _numbers(held["programme"]).astype(np.int64),
            _numbers(held["customer"]).astype(np.int64),
        ),
    )


def _codes(texts: list[str], names: Names) -> Array:
    """The codes of texts, most of which other buckets have, too."""
    found = list(map(names.texts.get, texts))
    return np.array(list(map(names.text, texts)) if None in found else found, np.int64)


def _bytes_of(array: pa.Array) -> bytes:
    """Ids of 16 bytes, one after another."""
    return array.buffers()[1].to_pybytes()[: 16 * len(array)] if len(array) else b""


def _sums(lengths: pa.Array) -> Array:
    """Where each begins, and where the last ends."""
    made = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(_numbers(lengths).astype(np.int64), out=made[1:])  # twice as fast as from what is narrow
    return made


def _widened(held: Mapping[str, pa.Array], name: str, count: int, width: int, codes: Mapping[str, Any]) -> Array:
    """An array of so many rows and places, put together of what is held of it."""
    dense: dict[tuple[int, str], Array] = {}
    sparse: list[tuple[int, Array, Array]] = []
    for place in range(width):
        for sort, told in codes.items():
            stored = f"{name}{place if width > 1 else ''} {sort}"
            if stored not in held:
                continue
            values, after = _numbers(held[stored]), held.get(f"{stored} after")
            if len(values) != (count if after is None else len(after)):
                raise ValueError(f"{stored} is of another length")
            if after is None:
                dense[place, sort] = values
            else:
                sparse.append((place, _numbers(after), values if told is None else told[values]))
    if count >= MANY and name in _AT_ONCE:
        made = _at_once(name, count, width, codes["text"], dense)
    else:
        made = np.zeros((count, width), np.int64)
    for begin in range(0, count if dense else 0, BLOCK):
        block = made[begin : begin + BLOCK]
        for (place, sort), values in dense.items():
            told, part = codes[sort], values[begin : begin + BLOCK]
            block[:, place] += part if told is None else told[part]
    for place, after, values in sparse:
        made[np.cumsum(after, dtype=np.int64), place] += values
    return made


def _at_once(name: str, count: int, width: int, texts: Array, dense: dict[tuple[int, str], Array]) -> Array:
    """What can be put together in one pass; it is taken out of `dense`."""
    from . import widening

    told = [(place, "number") for place in range(4)] + [(place, "text") for place in _AT_ONCE[name]]
    nothing = np.zeros(count, np.int32)
    fitting = {one for one in told if one in dense and np.can_cast(dense[one].dtype, np.int32)}
    columns = [dense.pop(one).astype(np.int32) if one in fitting else nothing for one in told]
    if any(one.max() >= len(texts) for one in columns[4:]):
        raise ValueError(f"{name} names a text that there is not")
    made = np.empty((count, width), np.int64)
    compiled(getattr(widening, f"{name}s"))(made, texts, *columns)
    return made
