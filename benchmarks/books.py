"""How soon a book answers: `python -m benchmarks.books --customers 20_000`.

The CDNOW book under the standard rules, and a made-up one, both in SQLite. Each answer is asked of a new process
(`benchmarks.answers`), and timed from its start to its end: a first one after another (cold), then again within the
process (warm); what stands beside it is the domain's own code on the same book (the reference executor).
"""

from __future__ import annotations

import argparse
import lzma
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import tallybook
from tallybook.synthesis import synth

from .replay import PACKAGES
from .report import ROOT, apart, footer, keep

RESULTS = ROOT / "benchmarks" / "results" / "books.json"


def cdnow(folder: Path) -> str:
    """The CDNOW book, with its archive."""
    shipped = files("tallybook") / "data" / "cdnow_master.txt.xz"
    (folder / "cdnow.txt").write_bytes(lzma.decompress(shipped.read_bytes()))
    url = f"sqlite:///{folder}/cdnow.book"
    with tallybook.open(url) as book, book.acting("agent:benchmark", purpose="benchmark"):
        book.rules.adopt("standard", effective_at="1996-01-01T00:00:00Z")
        book.imports.cdnow(folder / "cdnow.txt")
        book.loyalty.sweep("1998-12-31T00:00:00Z")
        book.archive.catch_up()
        # What is compiled once for a machine is not what is measured.
        book.backtest("candidate")
        book.replay(executor="columnar")
    return url


def made_up(folder: Path, customers: int) -> str:
    """A made-up book, with its archive."""
    url = f"sqlite:///{folder}/made-up.book"
    synth(url, customers=customers)
    with tallybook.open(url) as book:
        book.archive.catch_up()
    return url


def asked_apart(url: str, what: str, executor: str, times: int) -> dict[str, Any]:
    """The same in a new process; `whole`: seconds from its start to its end."""
    print(url.rpartition("/")[2], what, executor, file=sys.stderr, flush=True)
    started = perf_counter()
    found = apart("answers", url, what, executor, str(times))
    whole = perf_counter() - started
    return found | {"whole": whole}


def measured(url: str, what: str, rounds: int, *, reference: bool) -> dict[str, Any]:
    """Cold and warm, and by the reference."""
    cold = [asked_apart(url, what, "default", 1) for _ in range(rounds)]
    warm = asked_apart(url, what, "default", 1 + rounds)
    found: dict[str, Any] = {
        "book": url.rpartition("/")[2],
        "what": what,
        "events": warm["events"],
        "cold": [one["whole"] for one in cold],
        "warm": warm["seconds"][1:],
        "warm_cpu": warm["cpu"][1:],
    }
    if reference:
        other = asked_apart(url, what, "reference", 1)
        if other["told"] != cold[0]["told"]:
            raise AssertionError(f"the executors differ: {other['told']} and {cold[0]['told']}")
        found["reference"] = other["seconds"]
    return found


def table(results: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    lines = [
        "| book | | events | cold process, s | again, s | processor, s | events/s and core | reference, s |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in results["rows"]:
        cpu = median(one["warm_cpu"])
        reference = f"{one['reference'][0]:.1f}" if "reference" in one else ""
        lines.append(
            f"| {one['book']} | {one['what']} | {one['events']:,} | {median(one['cold']):.2f} "
            f"| {median(one['warm']):.2f} | {cpu:.2f} | {one['events'] / cpu / 1e6:.2f}M | {reference} |"
        )
    lines += ["", footer(results)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.books", description=__doc__)
    parser.add_argument("--customers", type=int, default=5_000, help="of the made-up book (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help=f"where the results go (results that are kept: {RESULTS})")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tallybook-books-") as scratch:
        folder = Path(scratch)
        one, other = cdnow(folder), made_up(folder, given.customers)
        results: dict[str, Any] = {
            "datetime": datetime.now(UTC).isoformat(),
            "rows": [
                measured(one, "backtest", given.rounds, reference=True),
                measured(one, "certificate", given.rounds, reference=True),
                measured(other, "certificate", given.rounds, reference=given.customers <= 20_000),
                measured(other, "backtest", given.rounds, reference=False),
                measured(other, "archive rebuild", given.rounds, reference=False),
            ],
        }
        keep(results, folder, PACKAGES, given.json)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
