"""An archive's bucket as `Facts`: the arrays that a replay runs over, made from columns.

What no column tells is asked of the log: what concerns all accounts, and ids of events that no account reacts to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from tallybook.adapters.form import uuid_from, uuid_of
from tallybook.domain.customer import CustomerChanged, CustomerRegistered, Traits, note_values, traits_of
from tallybook.domain.errors import BookDamaged
from tallybook.domain.loyalty import account_id
from tallybook.domain.points import Enrolled, lot_of
from tallybook.projections.columnar.facts import Accounts, Facts, Ids
from tallybook.projections.columnar.machine.layout import FACTS, ITEMS, NO_REF, NONE
from tallybook.projections.columnar.names import Names

from .columns import EVENT_HI, EVENT_LO, POSITION, arrow_schema, columns
from .files import fitted

if TYPE_CHECKING:
    from .archive import Archive
    from .building import Chunk, Program
    from .manifest import Manifest

Array = npt.NDArray[Any]
pc: Any = pyarrow.compute
"""Its functions are made when it is loaded: no checker sees them."""


class Log(Protocol):
    """What is asked of a log."""

    database: Any

    def rows_at(self, positions: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """The rows at positions that ascend."""
        ...

    def log_rows(self, after: int, limit: int, stop: int | None = None) -> Sequence[tuple[Any, ...]]:
        """Up to `limit` rows after a position, in order; up to `stop` (inclusive)."""
        ...


class Sort(Enum):
    """What a number of a fact is."""

    NUMBER = auto()
    TEXT = auto()
    """The code of a text; of none, that of the empty one."""
    TEXT_OR_NONE = auto()
    TIER = auto()
    ROW = auto()
    """The row of a fact that is named."""
    LOT = auto()
    """The row of the fact that brought a lot that is named."""
    LOT_NUMBER = auto()
    """That lot's number."""
    STRANGER = auto()
    """An id of somebody else's, among words."""
    NONE_LEFT = auto()
    """Whether a stock is known, and used up."""


Told = tuple[tuple[Sort, str], ...]
"""Sorts of numbers, and the fields that they are of."""
_N, _T = Sort.NUMBER, Sort.TEXT

SLOTS: Mapping[str, Told] = {
    "customer.purchase_recorded": ((_T, "currency"), (_T, "store")),
    "customer.return_recorded": ((Sort.ROW, "purchase_id"),),
    "loyalty.activity_recorded": ((_N, "quantity"), (_T, "activity"), (_T, "partner")),
    "loyalty.earning_confirmed": ((Sort.LOT, "fact_id"), (Sort.LOT_NUMBER, "fact_id")),
    "loyalty.earning_withdrawn": ((Sort.LOT, "fact_id"), (Sort.LOT_NUMBER, "fact_id")),
    "loyalty.redemption_requested": (
        (_N, "points"), (_T, "reward"), (Sort.NONE_LEFT, "stock"), (Sort.ROW, "hold_id"),
    ),
    "loyalty.redemption_returned": ((Sort.ROW, "redemption_id"), (_N, "points"), (_N, "whole")),
    "loyalty.hold_requested": ((_N, "points"), (_N, "until_us")),
    "loyalty.hold_release_requested": ((Sort.ROW, "hold_id"),),
    "loyalty.transfer_requested": ((_N, "points"), (Sort.TEXT_OR_NONE, "barred"), (Sort.STRANGER, "to_account")),
    "loyalty.goodwill_granted": ((_N, "points"),),
    "loyalty.correction_recorded": ((_N, "points"), (_N, "into_debt")),
    "loyalty.extension_granted": ((Sort.LOT, "lot_id"), (_N, "until_us"), (Sort.LOT_NUMBER, "lot_id")),
    "loyalty.reinstatement_granted": ((_N, "points"), (_N, "until_us")),
    "loyalty.tier_overridden": ((Sort.TIER, "tier"), (_N, "until_us")),
    "loyalty.referral_credited": ((_N, "number"), (_T, "occasion"), (_T, "role")),
    "loyalty.referral_reduced": ((Sort.LOT, "credit_id"), (Sort.LOT_NUMBER, "credit_id")),
    "loyalty.coupon_granted": ((_T, "reward"), (Sort.NONE_LEFT, "stock")),
    "loyalty.coupon_used": ((Sort.ROW, "coupon_id"),),
    "loyalty.coupon_voided": ((Sort.ROW, "coupon_id"),),
}  # fmt: skip
"""What stands in the slots of each kind of fact (see `facts`)."""

PARTS: Mapping[str, tuple[str, Told]] = {
    "customer.purchase_recorded": (
        "lines",
        (
            (_N, "net_minor"), (_N, "quantity"), (_N, "tax_minor"), (_N, "shipping_minor"), (_T, "sku"),
            (_T, "category"),
        ),
    ),
    "customer.return_recorded": ("lines", ((_N, "line"), (_N, "quantity"), (_N, "net_minor"))),
    "loyalty.redemption_requested": ("segments", ((_T, ""),)),
    "loyalty.transfer_received": ("lots", ((_N, "points"), (_N, "earned_us"), (_N, "expires_us"))),
    "loyalty.referral_credited": ("lines", ((_N, ""),)),
    "loyalty.referral_reduced": ("returned", ((_N, ""),)),
}  # fmt: skip
"""The lists of facts that are their items, and what of each; an empty name: the item itself."""

_KINDS = {
    name: number for number, name in enumerate((*FACTS, CustomerRegistered.stored_name, CustomerChanged.stored_name))
}
_TRAITS = ("kind", "country", "source", "birth_month")
_ENVELOPE = ("position", "subject_id", "stream", "stream_id", "stored_name", "effective_us", "channel")
_PLACES = 40
"""Positions have as many bits at most."""


def facts_of(archive: Archive, bucket: int, names: Names, manifest: Manifest | None = None) -> Facts:
    """The facts of a bucket's customers, by customer and position.

    What `Gathering` makes of the same history; but an id that an event was given only after a fact had named it is
    that of no fact. Raises ArchiveError, BookDamaged.
    """
    table = archive.bucket(bucket, columns_read(), encoded=True, manifest=manifest)
    return _Making(table, names, archive.log).facts()


def facts_in(chunk: Chunk, made: Program, names: Names, log: Log) -> Facts:
    """The same of rows of the log, if each is of a kind among FACTS or tells of a customer. Raises StoredFormError,
    BookDamaged."""
    from .building import table_of

    wanted = columns_read()
    schema = arrow_schema()
    read = pa.schema([schema.field(name) for name in wanted])
    table = fitted(table_of(chunk, made, wanted=frozenset(wanted)), read, encoded=True)
    return _Making(table, names, log).facts()


def columns_read() -> list[str]:
    """The columns of the archive that facts are made from."""
    told = [(kind, field) for kind, of in SLOTS.items() for _, field in of]
    told += [(kind, field) for kind, (field, _) in PARTS.items()]
    told += [(Enrolled.stored_name, "programme"), (CustomerChanged.stored_name, "cleared")]
    told += [(CustomerRegistered.stored_name, name) for name in _TRAITS]
    of = _column_of()
    return list(dict.fromkeys([*_ENVELOPE, *(of[one] for one in told)]))


def _column_of() -> dict[tuple[str, str], str]:
    """The column of each field of a fact."""
    fields = columns().fields
    return {
        (kind, field.name): field.column.name for kind in _KINDS for field in fields[kind] if field.column is not None
    }


def _rows_at(log: Log, positions: Array) -> list[tuple[Any, ...]]:
    wanted: list[int] = positions.tolist()
    rows = list(log.rows_at(wanted)) if wanted else []
    if [row[0] for row in rows] != wanted:
        raise BookDamaged(
            "Rows of the log are gone to which the archive leads.",
            path=log.database.place,
            remedy="See what `tallybook doctor` finds, and restore the book from a backup.",
        )
    return rows


class _Named(NamedTuple):
    """Ids as the archive has them: of the event at a position (0: of none), a lot of it (0: itself), or as they are."""

    position: Array
    number: Array
    other: Array
    """Which of `others` it is, from 1 on; 0: none."""
    others: list[UUID]


class _Making:
    """A bucket at work. `rows`: those of the table that are facts; all arrays that are returned are of these."""

    def __init__(self, table: pa.Table, names: Names, log: Log) -> None:
        self._log = log
        self._names = names
        self._column_of = _column_of()
        self._table = table
        self._arrays: dict[str, pa.Array] = {}
        kinds = self._codes("stored_name", lambda name: _KINDS.get(name, -1), -1)
        raw = np.frombuffer(self._array("subject_id").buffers()[1] or b"", np.uint8)
        offset = self._array("subject_id").offset
        self._subjects = raw[offset * 16 : (offset + len(kinds)) * 16].reshape(-1, 16)
        halves = np.ascontiguousarray(self._subjects).view(np.uint64)
        new = np.ones(len(kinds), np.bool_)
        new[1:] = (halves[1:] != halves[:-1]).any(axis=1)
        self._run = np.cumsum(new) - 1
        """Which subject of the table each of its rows is about."""
        self._profiles = np.flatnonzero(kinds >= len(FACTS))
        self.rows = np.flatnonzero((kinds >= 0) & (kinds < len(FACTS)))
        self._kind = kinds[self.rows]
        self._of_kind = {name: np.flatnonzero(self._kind == number) for number, name in enumerate(FACTS)}
        self._position = self._numbers("position")[self.rows]
        known = np.zeros(int(new.sum()), np.bool_)
        known[self._run[self.rows]] = True
        known[self._run[self._profiles]] = True
        self._place = np.cumsum(known) - 1
        """The customer's place, by subject."""
        self._firsts = np.flatnonzero(new)[known]
        self._customer = self._place[self._run[self.rows]]
        self._key = self._customer << _PLACES | self._position

    # ── columns ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _array(self, name: str) -> pa.Array:
        if name not in self._arrays:
            self._arrays[name] = _whole(self._table[name])
        return self._arrays[name]

    def _numbers(self, name: str) -> Array:
        return _numbers(self._array(name))

    def _codes(self, name: str, code: Callable[[str], int], none: int) -> Array:
        return _codes(self._array(name), code, none)

    def _values(self, name: str) -> list[Any]:
        """What a column says of those who are told of: texts, or numbers; None: nothing."""
        array = self._array(name)
        if not pa.types.is_dictionary(array.type):
            values: list[Any] = array.take(pa.array(self._profiles)).to_pylist()
            return values
        texts = [*array.dictionary.to_pylist(), None]
        return [texts[code] for code in _numbers(array.indices, len(texts) - 1)[self._profiles].tolist()]

    # ── facts ───────────────────────────────────────────────────────────────────────────────────────────────────

    def facts(self) -> Facts:
        count = len(self.rows)
        account, accounts = self._accounts()
        trait, traits = self._traits()
        slots = np.zeros((count, 4), np.int64)
        for kind, told in SLOTS.items():
            rows = self._of_kind[kind]
            for place, (sort, field) in enumerate(told if len(rows) else ()):
                slots[rows, place] = self._slot(sort, self._array(self._column_of[kind, field]), rows)
        item, items = self._items()
        customers = Ids(self._subjects[self._firsts].tobytes())
        return Facts(
            self._kind.astype(np.int64),
            self._position.astype(np.int64),
            self._numbers("effective_us")[self.rows].astype(np.int64),
            account,
            slots,
            item,
            items,
            trait,
            self._codes("channel", self._names.text, 0)[self.rows],
            traits,
            customers,
            np.searchsorted(self._customer, np.arange(len(customers) + 1)),
            accounts,
        )

    def _slot(self, sort: Sort, column: pa.Array, rows: Array) -> Array:
        at = self.rows[rows]
        if sort is Sort.TEXT or sort is Sort.TEXT_OR_NONE or sort is Sort.TIER:
            code = self._names.tier if sort is Sort.TIER else self._names.text
            return _codes(column, code, 0 if sort is Sort.TEXT else NONE)[at]
        if sort is Sort.NONE_LEFT:
            return np.asarray(_numbers(column, 1)[at] < 1).astype(np.int64)
        if sort is Sort.NUMBER:
            return _numbers(column)[at]
        named = _named(column, at)
        if sort is Sort.STRANGER:
            return np.array([self._names.unknown(other)[0] for other in self._ids(named)], np.int64)
        key = self._customer[rows] << _PLACES | named.position
        found = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
        there = (self._key[found] == key) & (named.position > 0)
        if sort is Sort.LOT_NUMBER:
            return np.where(there, named.number, 0)
        if sort is Sort.ROW:
            there &= named.number == 0
        none = (named.position == 0) & (named.other == 0)
        made = np.where(there, found, NO_REF)
        unknown = np.flatnonzero(~there & ~none)
        if len(unknown):
            some = _Named(named.position[unknown], named.number[unknown], named.other[unknown], named.others)
            made[unknown] = [self._names.reference(other) for other in self._ids(some)]
        return made

    def _ids(self, named: _Named) -> Iterator[UUID]:
        """Ids themselves."""
        positions = np.unique(named.position[named.other == 0])
        events: dict[int, UUID] = {}
        if len(positions):
            from .building import chunk_of, prepared, program

            made = program()
            chunk, _ = prepared(chunk_of(_rows_at(self._log, positions), made), made)
            for row in chunk.rows:
                events[int(row[POSITION])] = uuid_of(int(row[EVENT_HI]) << 64 | int(row[EVENT_LO]))
        for position, number, other in zip(*(one.tolist() for one in named[:3]), strict=True):
            yield named.others[other - 1] if other else lot_of(events[position], number)

    def _items(self) -> tuple[Array, Array]:
        counts = np.zeros(len(self.rows), np.int64)
        starts: dict[str, Array] = {}
        for kind, (field, _) in PARTS.items():
            rows = self._of_kind[kind]
            offsets = _numbers(self._array(self._column_of[kind, field]).offsets)
            starts[kind] = offsets[self.rows[rows]]
            counts[rows] = offsets[self.rows[rows] + 1] - starts[kind]
        item = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=item[1:])
        items = np.zeros((item[-1], ITEMS), np.int64)
        for kind, (field, told) in PARTS.items():
            rows = self._of_kind[kind]
            if not len(rows):
                continue
            values = self._array(self._column_of[kind, field]).values
            leaves = _fields(values)
            source, target = _ranges(starts[kind], counts[rows]), _ranges(item[rows], counts[rows])
            for place, (sort, name) in enumerate(told):
                leaf = leaves[name]
                found = _codes(leaf, self._names.text, 0) if sort is Sort.TEXT else _numbers(leaf)
                items[target, place] = found[source]
        return item, items

    def _accounts(self) -> tuple[Array, Accounts]:
        """The account of each row, and all of them."""
        on_account = np.array([name.startswith("loyalty.") for name in FACTS])[self._kind]
        streams = self._run << 32 | self._numbers("stream")
        rows = self.rows[on_account]
        keys, first, place = np.unique(streams[rows], return_index=True, return_inverse=True)
        account = np.full(len(self.rows), -1, np.int64)
        account[on_account] = place
        column = self._array(self._column_of[Enrolled.stored_name, "programme"])
        programmes = ["", *column.dictionary.to_pylist()]
        programme = np.zeros(len(keys), np.int64)
        enrolments = self._of_kind[Enrolled.stored_name][::-1]  # of several, the first counts
        programme[account[enrolments]] = _numbers(column.indices)[self.rows[enrolments]] + 1
        subjects = self._subjects[rows[first]]
        ids = self._array("stream_id")
        shown = np.flatnonzero(pc.is_valid(ids).to_numpy(zero_copy_only=False))
        named: dict[int, bytes] = dict(zip(streams[shown].tolist(), ids.take(pa.array(shown)).to_pylist(), strict=True))

        def stream_id(key: int, subject: bytes, of: int) -> bytes:
            """What the archive names, or what it leaves out since it follows."""
            if key in named:
                return named[key]
            return account_id(uuid_from(subject), programmes[of]).bytes if of else subject

        told = zip(keys.tolist(), map(bytes, subjects), programme.tolist(), strict=True)
        made = Ids(b"".join(stream_id(*one) for one in told))
        return account, Accounts(made, programmes, programme, self._place[self._run[rows[first]]])

    def _traits(self) -> tuple[Array, tuple[Traits, ...]]:
        """What was known of the customer at each row, and what there is to know."""
        profiles = self._profiles
        taken = [self._values(self._column_of[CustomerRegistered.stored_name, name]) for name in _TRAITS]
        cleared = self._array(self._column_of[CustomerChanged.stored_name, "cleared"]).take(pa.array(profiles))
        gone = [None] * len(profiles) if cleared.null_count == len(profiles) else cleared.to_pylist()
        told = zip(zip(*taken, strict=True), map(tuple, (one or () for one in gone)), strict=True)
        times = self._numbers("effective_us")[profiles].tolist()
        runs = self._run[profiles]
        codes = {Traits(): 0}
        alone: dict[Any, int] = {}
        """What is known of somebody of whom only that was told."""
        after = [0]
        noted: dict[str, tuple[int, str]] = {}
        last, first = -1, None

        def note(at_us: int, values: tuple[Any, ...], gone: tuple[str, ...]) -> int:
            known = {name: str(value) for name, value in zip(_TRAITS, values, strict=True) if value is not None}
            note_values(noted, at_us, known, gone)
            return codes.setdefault(traits_of(noted), len(codes))

        for run, at_us, one in zip(runs.tolist(), times, told, strict=True):
            if run != last:
                last, first = run, (at_us, one)
                code = alone.get(one)
                if code is None:
                    noted = {}
                    code = alone[one] = note(at_us, *one)
            else:
                if first is not None:
                    noted = {}
                    note(first[0], *first[1])
                    first = None
                code = note(at_us, *one)
            after.append(code)
        before = np.searchsorted(profiles, self.rows)
        mine = before > 0
        mine[mine] = runs[before[mine] - 1] == self._run[self.rows[mine]]
        seen = np.where(mine, np.array(after, np.int64)[before], 0)
        used = np.union1d(seen, [0])
        traits = tuple(codes)
        return np.searchsorted(used, seen), tuple(traits[code] for code in used.tolist())


# ── what columns hold ─────────────────────────────────────────────────────────────────────────────────────────────


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def _numbers(array: pa.Array, none: int = 0) -> Array:
    """Integers; yes is 1."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    filled = array.fill_null(none) if array.null_count else array
    made: Array = filled.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return made


def _codes(array: pa.Array, code: Callable[[str], int], none: int) -> Array:
    """The codes of texts."""
    texts = array.dictionary.to_pylist()
    told = np.array([*(none if text is None else code(text) for text in texts), none], np.int64)
    return told[_numbers(array.indices, len(texts))]


def _fields(array: pa.Array) -> dict[str, pa.Array]:
    """The fields of parts, null where the part is; what has none, by an empty name."""
    if not pa.types.is_struct(array.type):
        return {"": array}
    return {field.name: one for field, one in zip(array.type, array.flatten(), strict=True)}


def _named(column: pa.Array, rows: Array) -> _Named:
    """The ids of some rows."""
    fields = _fields(column.take(pa.array(rows)))
    ids = fields["id"].dictionary_encode()
    return _Named(
        _numbers(fields["position"]),
        _numbers(fields["number"]),
        _numbers(ids.indices, -1) + 1,
        [uuid_from(one) for one in ids.dictionary.to_pylist()],
    )


def _ranges(starts: Array, lengths: Array) -> Array:
    """The numbers of ranges, one after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)
