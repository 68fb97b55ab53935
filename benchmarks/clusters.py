"""What a backtest needs on one core, and what each engine adds: `python -m benchmarks.clusters --facts 4_000_000`.

Made-up histories (`histories`) as the files of 64 buckets; each row is measured in a process of its own, and rows
follow one another. The question: L2 against L1, as a backtest (with months, rules and where they part) and as a sweep
of four candidates. docs/scaling.md reckons with these figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np

from tallybook.adapters import synth
from tallybook.adapters.archive.bucket_task import BucketTask, bucket_task, code
from tallybook.adapters.archive.places import LocalFolder
from tallybook.adapters.archive.replay_cache import BucketFile, packed
from tallybook.adapters.clusters import cluster_of
from tallybook.projections.backtest import Partial, Question
from tallybook.projections.columnar.backtesting import Asked
from tallybook.projections.columnar.facts import Facts
from tallybook.projections.columnar.names import Names
from tallybook.projections.columnar.rulebook import Adoptions, Book

from .histories import PROGRAMME, facts_of, rules_of, swept
from .replay import EACH, _forget_peak, _memory_of_process
from .report import apart, machine

PARTS = 64
TASKS = 640
"""So many tasks that do nothing tell what a task costs."""
WORKERS = 2
MADE_FROM = "benchmark"
STEPS = ("load", "seen", "load and backtest", "load and sweep")
ENGINES = ("threads", "processes", "dask", "ray")


def asked(sums: bool) -> Asked:
    """A backtest, or a sweep."""
    names = ["L2", "L1", "L2", "L1"] if sums else ["L2"]
    return Asked(tuple(Question(rules_of(name), rules_of("L1")) for name in names), sums)


def write(facts: int, parts: int, folder: Path) -> dict[str, Any]:
    """Write the files of so many facts: of each bucket a history of its own."""
    told: Counter[str] = Counter()
    customers = max(1, facts // EACH // parts)
    for number in range(parts):
        names = Names()
        found = facts_of(synth.chunks(synth.History(number + 1, customers, customers * EACH)), names)
        data = packed(found, names, MADE_FROM)
        (folder / f"bucket-{number:02}-{MADE_FROM}-{sha256(data).hexdigest()[:32]}.arrow").write_bytes(data)
        told["facts"] += len(found)
        told["items"] += len(found.items)
        told["customers"] += len(found.customers)
        told["bytes"] += len(data)
        told["held"] += sum(one.nbytes for one in vars(found).values() if isinstance(one, np.ndarray))
    return dict(told)


def tasks_of(folder: Path, what: Asked) -> list[BucketTask]:
    """The tasks of all files."""
    place = LocalFolder(folder)
    files = [BucketFile(place, name, MADE_FROM) for name in place.names() if name.endswith(".arrow")]
    names = Names()
    customers = synth.History(1, 100, 2100)
    control = swept(facts_of(synth.chunks(customers), names))
    return [BucketTask(file, what, control, code()) for file in files]


def _loaded(file: BucketFile, names: Names) -> list[Facts]:
    return list(file.load(names))


def _seen(book: Book, blocks: Sequence[Facts]) -> None:
    for facts in blocks:
        book.seen(facts)


def on_one_core(folder: Path) -> dict[str, Any]:
    """Seconds of the processor for each step over all files, one after another."""
    backtest, sweep = tasks_of(folder, asked(False)), tasks_of(folder, asked(True))
    bucket_task(backtest[0]), bucket_task(sweep[0])
    seconds: dict[str, float] = dict.fromkeys(STEPS, 0.0)

    def timed(step: str, run: Callable[[], Any]) -> Any:
        started = process_time()
        found = run()
        seconds[step] += process_time() - started
        return found

    for task, other in zip(backtest, sweep, strict=True):
        names = Names()
        blocks: list[Facts] = timed("load", partial(_loaded, task.file, names))
        book = Book(Adoptions(PROGRAMME, task.control, rules_of("L2")), names)
        timed("seen", partial(_seen, book, blocks))
        timed("load and backtest", partial(bucket_task, task))
        timed("load and sweep", partial(bucket_task, other))
    return {"seconds": seconds}


def memory(folder: Path) -> dict[str, Any]:
    """Bytes of the process at the peak of one file, and before."""
    (task,) = tasks_of(folder, asked(False))
    (sweep,) = tasks_of(folder, asked(True))
    found: dict[str, Any] = {"before": _memory_of_process("VmRSS")}
    for name, one in (("backtest", task), ("sweep", sweep)):
        _forget_peak()
        bucket_task(one)
        found[name] = _memory_of_process("VmHWM")
    return found


def nothing(_: int) -> int:
    """A task that costs what tasks cost."""
    return 0


@contextmanager
def engine_of(name: str) -> Iterator[Any]:
    """What runs tasks, with two workers."""
    if name == "dask":
        import distributed

        started: Any = distributed.Client
        client: Any = started(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
        with client:
            yield client
    elif name == "ray":
        import ray

        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level=40)
        try:
            yield name
        finally:
            ray.shutdown()
    else:
        made: Executor = (
            ThreadPoolExecutor(WORKERS)
            if name == "threads"
            else ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))
        )
        with made:
            yield made


def with_engine(name: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds until it is there; of the first run, in which workers load the machine code; of those that follow; and of
    a task that does nothing."""
    tasks = tasks_of(folder, asked(False))
    started = perf_counter()
    with engine_of(name) as workers, cluster_of(workers) as cluster:
        begun = perf_counter() - started

        def run() -> float:
            started, total = perf_counter(), Partial()
            for (one,) in cluster.map(bucket_task, tasks):
                total.add(one)
            assert total.sums["accounts",]
            return perf_counter() - started

        first, others = run(), [run() for _ in range(rounds)]
        list(cluster.map(nothing, range(WORKERS)))
        started = perf_counter()
        list(cluster.map(nothing, range(TASKS)))
        each = (perf_counter() - started) / TASKS
    return {"start": begun, "first": first, "seconds": others, "task": each}


def table(results: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    files, core, of_one = results["files"], results["core"]["seconds"], results["memory"]
    count = files["facts"]
    lines = [
        f"{count:,} facts of {files['customers']:,} customers with {files['items']:,} items, in {PARTS} files: "
        f"{files['bytes'] / count:.1f} bytes a fact; its arrays in memory: {files['held'] / count:.0f}.",
        "",
        "| one core, by its own time | facts/s |",
        "|---|--:|",
        *(f"| {step} | {count / seconds / 1e6:.2f}M |" for step, seconds in core.items()),
        "",
        f"{of_one['facts']:,} facts in one file, bytes a fact at the peak: "
        + ", ".join(
            f"{step} {(of_one[step] - of_one['before']) / of_one['facts']:.0f}" for step in ("backtest", "sweep")
        )
        + f"; the process before: {of_one['before'] / 2**20:.0f} MiB.",
        "",
        f"| {WORKERS} workers | start | first run | each run after | facts/s | a task |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in ENGINES:
        one = results[name]
        each = median(one["seconds"])
        lines.append(
            f"| {name} | {one['start']:.2f} s | {one['first']:.2f} s | {each:.2f} s | {count / each / 1e6:.2f}M "
            f"| {one['task'] * 1000:.2f} ms |"
        )
    about = results["machine_info"]
    lines += [
        "",
        f"{about['cpu']}, {about['cores']} cores, {about['memory']}, load {about['load']}, {about['python']}.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clusters", description=__doc__)
    parser.add_argument("--facts", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.row:
        step, parts, folder = given.row[0], int(given.row[1]), Path(given.row[2])
        if step == "write":
            print(json.dumps(write(given.facts, parts, folder)))
        elif step == "core":
            print(json.dumps(on_one_core(folder)))
        elif step == "memory":
            print(json.dumps(memory(folder)))
        else:
            print(json.dumps(with_engine(step, folder, given.rounds)))
        return 0

    def measured(step: str, folder: Path, parts: int = PARTS, facts: int = given.facts) -> dict[str, Any]:
        print(step, file=sys.stderr, flush=True)
        sizes = ["--facts", str(facts), "--rounds", str(given.rounds)]
        return apart("clusters", "--row", step, str(parts), str(folder), *sizes)

    with tempfile.TemporaryDirectory(prefix="tallybook-clusters-") as scratch:
        many, single = Path(scratch) / "many", Path(scratch) / "single"
        many.mkdir()
        single.mkdir()
        results = {"files": measured("write", many), "core": measured("core", many)}
        wrote = measured("write", single, 1, given.facts // 2)
        results["memory"] = measured("memory", single) | {"facts": wrote["facts"]}
        results |= {name: measured(name, many) for name in ENGINES}
        results["machine_info"] = machine(many)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
