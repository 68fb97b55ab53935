"""Recorded decisions as words, from their stored states: what `columnar.names.words_of` makes of events."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from tallybook.adapters.clear_form import Shape, shape_of
from tallybook.adapters.form import uuid_from
from tallybook.domain.errors import StoredFormError
from tallybook.domain.events import REGISTRY, plain
from tallybook.projections.columnar.machine.layout import DECISIONS, NONE
from tallybook.projections.columnar.names import TIERS, Id, Names

from . import decoding
from .building import Chunk, Program, Texts
from .columns import KIND, POSITION

Array = npt.NDArray[Any]
UNKNOWN = NONE + 1
"""Stands for what no word of the machine is."""


@lru_cache(maxsize=1)
def _forms() -> tuple[Array, Array, Array, Array]:
    """Of each kind of decision, what its clear fields hold, in stored order, and where those of a kind begin; what
    words they become (see `columnar.certify`), and where those begin."""
    fields: list[list[int]] = []
    firsts, shapes, shape_of_kind = [0], list[tuple[int, int]](), [0]
    for name in DECISIONS:
        kind = REGISTRY[name].event_class
        for field in kind.clear_fields:
            annotation = kind.model_fields[field].annotation
            text = decoding.TIER if (name, field) in TIERS else decoding.TEXT
            sort, leaves = _leaves(shape_of(annotation), optional=plain(annotation)[1])
            width = sum(2 if leaf == decoding.ID else 1 for leaf in leaves)
            if sort is not None:
                fields.append([sort, len(leaves)])
            fields += [[text if leaf == decoding.TEXT else leaf, 0] for leaf in leaves]
            shapes.append((int(sort is not None), width))
        firsts.append(len(fields))
        shape_of_kind.append(len(shapes))
    return tuple(np.array(one, np.int64) for one in (fields, firsts, shapes, shape_of_kind))  # type: ignore[return-value]  # four


_LEAVES = {"int": decoding.INT, "bool": decoding.INT, "text": decoding.TEXT, "id": decoding.ID}


def _leaves(shape: Shape, *, optional: bool) -> tuple[int | None, list[int]]:
    if isinstance(shape, str):
        return None, [_LEAVES[shape]]
    inner = shape[0] if isinstance(shape, list) else shape
    if isinstance(shape, dict) and not optional:
        raise TypeError("a part of a decision is one that may be missing")
    sort = decoding.PART if isinstance(shape, dict) else decoding.LIST if isinstance(inner, str) else decoding.PARTS
    return sort, [_LEAVES[one] for one in (inner.values() if isinstance(inner, dict) else (inner,))]


def shapes() -> tuple[Array, Array]:
    """What words decisions become, as `columnar.certify` reads it."""
    return _forms()[2].reshape(-1), _forms()[3]


def words_of_rows(
    chunk: Chunk,
    made: Program,
    order: Array,
    codes: Array,
    facts: tuple[Array, Array, Array],
    names: Names,
    texts: Texts,
    granted: Callable[[int, UUID], Id | None],
) -> tuple[Array, Array]:
    """Decisions of a chunk, in some order, as words, one after another, and where each begins.

    `codes`: the place of each row's customer; `facts`: the hash table of the facts that decisions name, those facts'
    rows, and the places of their customers. `granted` tells the id of a coupon that a tier granted the account of a
    decision; `texts`: the codes of `names`. Raises StoredFormError.
    """
    fields, firsts, _, _ = _forms()
    kinds = np.full(len(made.names), -1, np.int64)
    for number, name in enumerate(DECISIONS):
        kinds[made.numbers[name]] = number
    offsets = np.concatenate([np.zeros(1, np.int64), chunk.ends])
    # A word takes a byte at least, and the envelope more than what is told twice.
    words = np.empty(len(chunk.data) + 1, np.int64)
    begins = np.zeros(len(order) + 1, np.int64)
    others = np.empty((max(16, len(order) // 8), 3), np.int64)
    while True:
        error, row, found = decoding.decision_words(
            chunk.data.ctypes.data, offsets, chunk.rows, order, codes, *facts, kinds, firsts, fields,
            *texts.table, words, begins, others,
        )  # fmt: skip
        if error != decoding.NO_ROOM:
            break
        others = np.empty((4 * len(others), 3), np.int64)
    if error != decoding.FINE:
        where = f"position {int(chunk.rows[row, POSITION])}, {made.names[int(chunk.rows[row, KIND])]}"
        raise StoredFormError("The state is not of the form of its kind of event.", where=where)
    data = chunk.data
    for word, at, decision in others[:found].tolist():
        other = uuid_from(data[at : at + 16].tobytes())
        if other in names.ids:
            words[word : word + 2] = names.unknown(other)
            continue
        words[word : word + 2] = granted(decision, other) or (UNKNOWN, UNKNOWN)
    return words, begins
