"""The figures of a backtest as tables, for people and for data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tallybook.domain.errors import MissingExtra, refusal

if TYPE_CHECKING:
    from .backtest import Backtest

TOTALS = {
    "earned": "earned",
    "redeemed": "spent",
    "expired": "expired",
    "reversed": "reversed",
    "outstanding": "active",
    "pending": "pending",
    "debt": "debt",
}
"""What is told of points, and the bucket of an account that has them."""
MONTHLY = ("earned", "redeemed", "expired", "outstanding")
COUNTS = ("moved_up", "moved_down", "gain_points", "lose_points", "changed")
CUSTOMERS = "customers"


class Table(NamedTuple):
    """Figures in rows."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


_TEXTS = {"what", "month", "rule", "by", "class", "direction", "account_id", "customer_id",
          "tier_baseline", "tier_candidate"}  # fmt: skip


def _paired(name: str) -> tuple[str, str]:
    return f"{name}_baseline", f"{name}_candidate"


def tables_of(report: Backtest) -> dict[str, Table]:
    """The figures of a report as tables, by name."""
    movers = [*((one, "gained") for one in report.gained), *((one, "lost") for one in report.lost)]
    return {
        "totals": Table(
            ("what", *_paired("points")),
            [(name, getattr(report.before, name), getattr(report.after, name)) for name in TOTALS],
        ),
        "matrix": Table(
            (*_paired("tier"), "accounts"),
            [(was, now, report.matrix.get(was, {}).get(now, 0)) for was in report.tiers for now in report.tiers],
        ),
        "months": Table(
            ("month", *(name for what in MONTHLY for name in _paired(what))),
            [(one.month, *(points for what in MONTHLY for points in getattr(one, what))) for one in report.months],
        ),
        "rules": Table(
            ("rule", *_paired("points"), *_paired("times")),
            [(one.rule, *one.points, *one.times) for one in report.rules],
        ),
        "classes": Table(
            ("by", "class", "accounts", *COUNTS, *_paired("outstanding")),
            [
                (dimension, one.name, one.accounts, *(getattr(one, what) for what in COUNTS), *one.outstanding)
                for dimension, found in report.classes.items()
                for one in found
            ],
        ),
        "movers": Table(
            ("direction", "account_id", "customer_id", *_paired("tier"), *_paired("outstanding"), "change"),
            [
                (
                    direction,
                    str(one.account_id),
                    str(one.customer_id),
                    one.tier_before,
                    one.tier_after,
                    one.outstanding_before,
                    one.outstanding_after,
                    one.change,
                )
                for one, direction in movers
            ],
        ),
    }


def frame_of(report: Backtest, name: str) -> Any:
    """A table of a report as a `polars.DataFrame`. Raises MissingExtra. Refuses: invalid_argument."""
    try:
        import polars
    except ImportError as missing:
        raise MissingExtra("polars", "analysis") from missing
    if name == CUSTOMERS:
        if not report.customers:
            raise refusal(
                "invalid_argument",
                'name: the backtest wrote no rows of customers; give it a file: `customers="rows.parquet"`.',
                argument="name",
            )
        parts = ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))
        ids = {name: polars.col(name).bin.encode("hex") for name in ("account_id", "customer_id")}
        as_text = {
            name: polars.concat_str([digits.str.slice(first, count) for first, count in parts], separator="-")
            for name, digits in ids.items()
        }
        return polars.read_parquet(report.customers).with_columns(**as_text)
    tables = tables_of(report)
    if name not in tables:
        names = ", ".join([*tables, CUSTOMERS])
        raise refusal("invalid_argument", f"name: {name!r} is given, and one of {names} is wanted.", argument="name")
    columns, rows = tables[name]
    kinds = {column: polars.String if column in _TEXTS else polars.Int64 for column in columns}
    return polars.DataFrame(rows, schema=kinds, orient="row")
