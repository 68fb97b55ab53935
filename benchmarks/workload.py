"""What is measured, in two sizes, and small things that all benchmarks share."""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

QUICK_VARIABLE = "TALLYBOOK_BENCHMARKS_QUICK"

DATA = Path(str(files("tallybook") / "data"))
CDNOW = DATA / "cdnow_master.txt.xz"
RULES = DATA / "standard.toml"
RULES_FROM = "1997-01-01T00:00:00Z"
SWEEP_TO = "1998-07-01T00:00:00Z"

FIRST_US = 1_767_225_600_000_000  # 2026-01-01T00:00Z
ACTOR, PURPOSE = "job:shop", "sale"
CURRENCY = "USD"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done in one round, and in how many rounds."""

    append_commits: dict[int, int]
    append_rounds: int
    customers: int
    commands: int
    load_events: int
    load_rounds: int
    scan_customers: int
    scan_events_each: int
    scan_rounds: int
    catch_up_lines: int
    catch_up_rounds: int
    import_lines: int | None
    import_rounds: int
    rebuild_rounds: int
    postgres_writers: int
    postgres_commits: dict[int, int]
    """Of each writer."""
    postgres_rounds: int
    reads: int
    reads_alone: int
    bulk_subjects: int
    reads_rounds: int
    members: int
    sweep_rounds: int
    open_lots: int


FULL = Sizes(
    append_commits={1: 500, 10: 200, 100: 50, 1000: 10},
    append_rounds=7,
    customers=50,
    commands=500,
    load_events=1000,
    load_rounds=20,
    scan_customers=50,
    scan_events_each=1000,
    scan_rounds=3,
    catch_up_lines=5000,
    catch_up_rounds=3,
    import_lines=None,
    import_rounds=1,
    rebuild_rounds=2,
    postgres_writers=4,
    postgres_commits={1: 500, 100: 100},
    postgres_rounds=3,
    reads=20_000,
    reads_alone=1_000,
    bulk_subjects=10_000,
    reads_rounds=3,
    members=100_000,
    sweep_rounds=2,
    open_lots=5_000,
)
"""One pass; a full run makes several."""

QUICK = Sizes(
    append_commits={1: 20, 10: 10, 100: 3, 1000: 1},
    append_rounds=3,
    customers=5,
    commands=20,
    load_events=1000,
    load_rounds=3,
    scan_customers=5,
    scan_events_each=400,
    scan_rounds=2,
    catch_up_lines=300,
    catch_up_rounds=2,
    import_lines=1000,
    import_rounds=1,
    rebuild_rounds=1,
    postgres_writers=2,
    postgres_commits={1: 20, 100: 3},
    postgres_rounds=1,
    reads=200,
    reads_alone=20,
    bulk_subjects=100,
    reads_rounds=1,
    members=600,
    sweep_rounds=1,
    open_lots=200,
)

SIZES = QUICK if os.environ.get(QUICK_VARIABLE) else FULL


class Sale(NamedTuple):
    """The content of one purchase: the same for all who record it."""

    number: int
    sku: str
    quantity: int
    net_minor: int
    tax_minor: int
    order_id: str | None


def sales(count: int, *, order_ids: bool = False) -> list[Sale]:
    """Purchases that differ as real ones do, always the same ones."""
    made = []
    for number in range(count):
        net = 499 + number * 7919 % 9000
        order_id = f"O-2026-{number:07d}" if order_ids else None
        made.append(Sale(number, f"sku-{number * 31 % 997:04d}", 1 + number % 3, net, net * 19 // 100, order_id))
    return made


def cdnow_lines(folder: Path, lines: int | None) -> Path:
    """The CDNOW file that ships with the package, or one of its first lines."""
    if lines is None:
        return CDNOW
    path = folder / f"cdnow-{lines}.txt"
    if not path.exists():
        with lzma.open(CDNOW, "rb") as whole:
            path.write_bytes(b"".join(line for line, _ in zip(whole, range(lines), strict=False)))
    return path


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of a list."""
    for start in range(0, count, size):
        yield slice(start, start + size)
