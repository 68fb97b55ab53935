"""Replays out of files, at any size: `python -m benchmarks.passes --facts 10_000_000 --passes 1 10 100`.

Made-up histories (`histories`) as the files of 64 buckets, as they lie beside an archive (Arrow IPC, lz4). A pass reads
each of them, and runs its accounts; a hundred passes over ten million facts are what a billion facts would take, but
for the disk: the files of one pass stay in the system's cache. Each row is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tallybook.adapters.archive.replay_cache import BucketFile
from tallybook.adapters.rule_files import frozen_zone
from tallybook.domain.earning import Rules
from tallybook.domain.rules import parse_rule_set
from tallybook.projections.backtest import Question
from tallybook.projections.columnar.backtesting import Asked
from tallybook.projections.columnar.executor import Run, places_of, replayed, unpaid
from tallybook.projections.columnar.machine.layout import SILENT
from tallybook.projections.columnar.names import Names
from tallybook.projections.columnar.rulebook import Adoptions, Book

from .clusters import tasks_of, write
from .histories import PROGRAMME, rules_of
from .replay import PACKAGES, THREADS, Given, measured, memory_of, table_rate
from .report import ROOT, apart, footer, keep

PARTS = 64
SCENARIOS = 20
RESULTS = ROOT / "benchmarks" / "results" / "passes.json"
Task = Callable[[BucketFile, Any], int]


def scenarios() -> list[Rules]:
    """L2 with other rates and other levels."""
    document = rules_of("L2").rule_set.model_dump(mode="json", exclude_none=True, by_alias=True)
    found = []
    for number in range(SCENARIOS):
        document["version"] = str(number + 1)
        document["earning"][0]["per_minor"] = 100 - number % 5
        for level, threshold, kept in ((1, 500, 400), (2, 2000, 1500)):
            document["tiers"]["levels"][level] |= {"threshold": threshold + 20 * number, "keep": kept + 20 * number}
        rule_set = parse_rule_set(document, "scenario")
        found.append(Rules(rule_set, frozen_zone(rule_set.zone)))
    return found


def _replay(name: str) -> Task:
    rules = rules_of(name)

    def run(file: BucketFile, control: Any) -> int:
        names = Names()
        parts = file.load(names)
        found, silent = 0, Run(Book(Adoptions(PROGRAMME, control, rules), names), SILENT)
        for facts in parts:
            found += len(replayed(facts, silent.over(facts), places_of(facts, PROGRAMME), unpaid(facts)))
        return found

    return run


def _asked(asked: Asked) -> Task:
    return lambda file, control: sum(one.sums["accounts",] for one in asked.of(file.load, control))


def _backtest() -> Task:
    return _asked(Asked((Question(rules_of("L2"), rules_of("L1")),), sums=False))


def _sweep() -> Task:
    return _asked(Asked(tuple(Question(rules, rules_of("L1")) for rules in scenarios()), sums=True))


class Row(NamedTuple):
    """What is measured."""

    key: str
    title: str
    task: Callable[[], Task]
    threads: int
    times: int = 1
    """How often each fact is replayed."""


def _rows() -> Iterator[Row]:
    for threads in (1, THREADS):
        yield Row(f"L2-{threads}", "L2", lambda: _replay("L2"), threads)
    for threads in (1, THREADS):
        yield Row(f"every-{threads}", "every policy", lambda: _replay("every"), threads)
    yield Row("backtest", "backtest of L2 against L1: months, rules, classes, digests", _backtest, THREADS)
    yield Row("sweep", f"sweep of {SCENARIOS} scenarios, L2", _sweep, THREADS, SCENARIOS)


ROWS = {row.key: row for row in _rows()}


def run(row: Row, folder: Path, passes: int, rounds: int, count: int) -> dict[str, Any]:
    """Seconds of some passes, and the memory."""
    tasks = tasks_of(folder, Asked((Question(rules_of("L2"), rules_of("L1")),), sums=False))
    files: list[BucketFile] = [task.file for task in tasks]
    control, task = tasks[0].control, row.task()

    def one(file: BucketFile) -> int:
        return task(file, control)

    def whole() -> int:
        with ThreadPoolExecutor(row.threads) as pool:
            return sum(pool.map(one, files * passes))

    accounts = one(files[0])
    assert accounts
    given = Given(count, 0, rounds, 0, folder)
    return measured(given, whole, count * passes * row.times, with_heap=passes == 1) | {"passes": passes}


def table(results: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    files = results["files"]
    lines = [
        f"{files['facts']:,} facts (of {files['events']:,} made-up events; the others concern no account) of "
        f"{files['customers']:,} customers, in {PARTS} files: {files['bytes'] / files['facts']:.1f} bytes a fact.",
        "",
        "| from files, lz4 | threads | facts | seconds | facts/s | memory before | at the peak | heap |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for told in results["rows"]:
        row = ROWS[told["key"]]
        seconds = median(told["seconds"])
        rate = table_rate(told["count"] / seconds)
        before, peak, heap = (memory_of(told[name]) for name in ("before", "peak", "heap"))
        cells = [row.title, row.threads, f"{told['count']:,}", f"{seconds:.1f}", f"**{rate}**", before, peak, heap]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", footer(results)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passes", description=__doc__)
    parser.add_argument("--facts", type=int, default=1_000_000, help="about so many made-up events (%(default)s)")
    parser.add_argument("--passes", type=int, nargs="+", default=[1], help="of the first rows: so many passes, each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", nargs="+", metavar="ROW", choices=ROWS, help=f"some rows only, of {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, help=f"where the results go (results that are kept: {RESULTS})")
    parser.add_argument("--row", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.row:
        key, folder, passes, count = given.row[0], Path(given.row[1]), int(given.row[2]), int(given.row[3])
        told = (
            write(given.facts, PARTS, folder)
            if key == "write"
            else run(ROWS[key], folder, passes, given.rounds if passes == 1 else 1, count)
        )
        print(json.dumps(told))
        return 0
    scratch = Path(tempfile.mkdtemp(prefix="tallybook-passes-"))

    def measured_apart(key: str, passes: int, count: int) -> dict[str, Any]:
        print(key, passes, file=sys.stderr, flush=True)
        sizes = ["--facts", str(given.facts), "--rounds", str(given.rounds)]
        return apart("passes", "--row", key, str(scratch), str(passes), str(count), *sizes)

    try:
        files = measured_apart("write", 1, 0) | {"events": given.facts}
        results: dict[str, Any] = {"datetime": datetime.now(UTC).isoformat(), "files": files, "rows": []}
        for key in given.k or ROWS:
            for passes in given.passes if key == f"L2-{THREADS}" else [1]:
                results["rows"].append(measured_apart(key, passes, files["facts"]) | {"key": key})
        keep(results, scratch, PACKAGES, given.json)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
