"""What came of each account in a backtest, as a Parquet file. Needs the extra `replay`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tallybook.domain.points import BUCKETS
from tallybook.projections.backtest import END, SIDES
from tallybook.projections.backtest_tables import TOTALS

_ID = pa.binary(16)
_CODED = pa.dictionary(pa.int32(), pa.string())
_SIDES = dict(zip(SIDES, ("baseline", "candidate"), strict=True))
SCHEMA = pa.schema(
    {
        "account_id": _ID,
        "customer_id": _ID,
        **{f"tier_{side}": _CODED for side in _SIDES.values()},
        **{f"{name}_{side}": pa.int64() for name in TOTALS for side in _SIDES.values()},
        "changed": pa.bool_(),
        "first_difference": pa.int64(),
        "unfunded": pa.int64(),
        "newly_funded": pa.int64(),
        "short_points": pa.int64(),
        "value_minor": pa.int64(),
        "joined": pa.int32(),
        "channel": _CODED,
    }
)
"""The columns of the file: docs/backtest.md tells them."""


class AccountFile:
    """The file while it is written: each part of the accounts is a row group or several, so that no more than one part
    is held in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self.count = 0

    def begin(self) -> None:
        """Begin it, or begin it anew."""
        self.close()
        self._writer = pq.ParquetWriter(self._path, SCHEMA, compression="zstd")
        self.count = 0

    def add(self, rows: Mapping[str, Any]) -> None:
        """Write `Partial.rows`."""
        if not rows:
            return
        table = pa.table(_columns(rows), schema=SCHEMA)
        self._writer.write_table(table)
        self.count += table.num_rows

    def note(self, told: Mapping[str, str]) -> None:
        """Have the file say what it is of."""
        self._writer.add_key_value_metadata({f"tallybook.{name}": value for name, value in told.items()})

    def close(self) -> None:
        """Finish it."""
        if self._writer is not None:
            self._writer.close()


def _columns(rows: Mapping[str, Any]) -> dict[str, Any]:
    differs = np.asarray(rows["differs"], np.int64)
    at = (differs > 0) & (differs < END - 1)
    found: dict[str, Any] = {
        "account_id": _ids(rows["account_id"]),
        "customer_id": _ids(rows["customer_id"]),
        "changed": differs != 0,
        "first_difference": pa.array(differs, mask=~at),
        "channel": _coded(rows["channel"]),
        "value_minor": rows["value"],
        "short_points": rows["short"],
        "joined": pa.array(rows["joined"], pa.int32()),
        **{name: rows[name] for name in ("unfunded", "newly_funded")},
    }
    for side, name in _SIDES.items():
        balances = np.asarray(rows[side], np.int64)
        found[f"tier_{name}"] = _coded(rows[f"tier_{side}"])
        for what, bucket in TOTALS.items():
            found[f"{what}_{name}"] = np.ascontiguousarray(balances[:, BUCKETS.index(bucket)])
    return {name: found[name] for name in SCHEMA.names}


def _ids(ids: Any) -> Any:
    words = ids.tobytes() if isinstance(ids, np.ndarray) else b"".join(one.bytes for one in ids)
    return pa.Array.from_buffers(_ID, len(words) // 16, [None, pa.py_buffer(words)])


def _coded(texts: Any) -> Any:
    if not isinstance(texts, tuple):
        return pa.array(texts, pa.string()).dictionary_encode()
    codes, names = texts
    # As text first: so a file has the names that occur, whatever codes others got.
    return pa.array(list(names), pa.string()).take(pa.array(codes)).dictionary_encode()
