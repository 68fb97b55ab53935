"""How fast histories are replayed: `python -m benchmarks.replay --facts 1_000_000`.

Made-up histories (`histories`) under the rule sets of `rule_sets`: by the columnar executor, by the domain's own code
(the fold, on a sample), and, for the part of L1 that they can do, by Polars and DuckDB as somebody would write it by
hand. Each row is measured in a process of its own; they follow one another. What is compared has to agree.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

from tallybook.adapters import synth
from tallybook.domain.customer import Traits
from tallybook.domain.points import BUCKETS
from tallybook.projections.columnar.executor import outcomes
from tallybook.projections.columnar.facts import Accounts, Facts
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.names import Names
from tallybook.projections.columnar.rulebook import Adoptions, Book
from tallybook.projections.replay import Derivation

from .histories import CURRENCIES, PROGRAMME, events_of, facts_of, rules_of, swept
from .report import ROOT, apart, footer, keep

Array = Any
RESULTS = ROOT / "benchmarks" / "results" / "replay.json"
FACTS = 1_000_000
EACH = 21
"""Facts for each customer."""
PARTS = 64
THREADS = 2
CAP = 500
"""What L1 gives at most in a month, its levels, and how long points live: for those who write it by hand."""
LEVELS = {"basic": 0, "silver": 500, "gold": 2000}
LIVES_MONTHS = 24


@dataclass(frozen=True, slots=True)
class Given:
    """What is measured, and how often."""

    facts: int
    sample: int
    """About so many facts are folded."""
    rounds: int
    seed: int
    folder: Path

    def history(self, names: Names) -> Facts:
        """The facts of all customers."""
        history = synth.History(self.seed, max(1, self.facts // EACH), max(1, self.facts // EACH) * EACH)
        return facts_of(synth.chunks(history), names)

    @property
    def files(self) -> list[Path]:
        """The purchases, by customers."""
        return sorted(self.folder.glob("*.parquet"))


class Row(NamedTuple):
    """What is measured: under which rules, on how many threads."""

    key: str
    title: str
    rules: str
    threads: int
    measure: Callable[[Given, Row], dict[str, Any]]
    baselines: tuple[str, ...] = ()
    """The rows that it is compared with."""


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────────


def measured(given: Given, run: Callable[[], Any], count: int, *, with_heap: bool = True) -> dict[str, Any]:
    """Seconds of each round, of the clock and of the processor; the memory of the process before and at its peak; and,
    `with_heap`, what Python (and numpy) allocate on top at the peak of one more round, which is not timed."""
    seconds: list[float] = []
    cpu: list[float] = []
    before = _memory_of_process("VmRSS")
    with_peak = _forget_peak()
    for _ in range(given.rounds):
        started, worked = perf_counter(), process_time()
        run()
        seconds.append(perf_counter() - started)
        cpu.append(process_time() - worked)
    peak = _memory_of_process("VmHWM") if with_peak else None
    heap = None
    if with_heap:
        tracemalloc.start()
        run()
        heap = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {"count": count, "seconds": seconds, "cpu": cpu, "before": before, "peak": peak, "heap": heap}


def _memory_of_process(name: str) -> int | None:
    """Bytes, as the system tells it."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            for line in lines:
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _forget_peak() -> bool:
    """From now on, the peak is that of what follows."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


# ── ours ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def book_of(rules: str, names: Names, facts: Facts) -> Book:
    """A rule set as the only one of all time, and a sweep at the end of a history."""
    return Book(Adoptions(PROGRAMME, swept(facts), rules_of(rules)), names)


def replayed(parts: Iterable[Facts], book: Book, threads: int) -> list[Array]:
    """What came of all accounts, by parts."""

    def run(part: Facts) -> Array:
        return outcomes(part, book)[1]

    if threads == 1:
        return [run(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, parts))


def first_run(part: Facts, book: Book) -> float:
    """Seconds until a first answer: with that, the machine code is there."""
    started = perf_counter()
    outcomes(part, book)
    return perf_counter() - started


def in_memory(given: Given, row: Row) -> dict[str, Any]:
    """The executor, over arrays that lie in memory: what the rules see of facts as columns, then the accounts."""
    names = Names()
    facts = given.history(names)
    parts = list(facts.split(PARTS))
    book = book_of(row.rules, names, facts)
    first = first_run(parts[0], book)
    found = measured(given, lambda: replayed(parts, book, row.threads), len(facts))
    whole = np.concatenate(replayed(parts, book, row.threads))
    return found | {"first": first, "accounts": len(whole), "totals": _totals(whole)}


def _totals(out: Array) -> dict[str, int]:
    """Sums of all balances, that something comes of it is seen."""
    sums = dict(zip(BUCKETS, out[:, m.O_BUCKETS :].sum(axis=0).tolist(), strict=True))
    return {name: total for name, total in sums.items() if total}


def folded(given: Given, row: Row) -> dict[str, Any]:
    """The domain's own code, over some customers of the same history, whose events lie in memory."""
    names = Names()
    facts = given.history(names)
    sample = next(facts.split(max(1, len(facts) // given.sample)))
    rules, book, sweep = rules_of(row.rules), book_of(row.rules, names, facts), swept(facts)
    del facts
    events = [*events_of(sample, names), *sweep]

    def fold() -> Derivation:
        derivation = Derivation(rules)
        for _, event in events:
            derivation.feed(event)
        return derivation

    accounts = fold().accounts
    places, out = outcomes(sample, book)
    for place, one in zip(places.tolist(), out, strict=True):
        account = accounts[sample.accounts[place][0]]
        balances = [account.bucket(bucket) for bucket in BUCKETS]
        if balances != one[m.O_BUCKETS :].tolist() or names.tiers[account.tier or ""] != one[m.O_TIER]:
            raise AssertionError(f"the two executors differ about {account.id}")
    return measured(given, fold, len(sample)) | {"accounts": len(accounts), "totals": _totals(out)}


# ── the part of L1 that columns can do ──────────────────────────────────────────────────────────────────────────────


class Members(NamedTuple):
    """Customers and their accounts, as `Facts` has them."""

    customers: Sequence[UUID]
    accounts: Accounts


def members_of(facts: Facts) -> Members:
    """Those of some facts."""
    assert isinstance(facts.accounts, Accounts)
    return Members(facts.customers, facts.accounts)


def purchases_of(facts: Facts) -> Facts:
    """Enrolments, and what members bought from then on, each purchase as one line: what Parquet then holds."""
    customer = np.repeat(np.arange(len(facts.customers)), np.diff(facts.first))
    joined_at, joined_us = (np.full(len(facts.customers), 2**62) for _ in range(2))
    enrolled = facts.kind == m.F_ENROLLED
    joined_at[customer[enrolled]] = facts.position[enrolled]
    joined_us[customer[enrolled]] = facts.at_us[enrolled]
    since = (facts.position > joined_at[customer]) & (facts.at_us >= joined_us[customer])
    rows = np.flatnonzero(enrolled | ((facts.kind == m.F_PURCHASE) & since))
    upto = np.concatenate(([0], np.cumsum(facts.items[:, 0])))
    net = upto[facts.item[rows + 1]] - upto[facts.item[rows]]
    customers = np.concatenate(([0], np.cumsum(np.bincount(customer[rows], minlength=len(facts.customers)))))
    members = members_of(facts)
    return _of_columns(
        facts.kind[rows], facts.position[rows], facts.at_us[rows], facts.slots[rows, 0], net, customers, members
    )


def _of_columns(
    kind: Array, position: Array, at_us: Array, currency: Array, amount: Array, first: Array, of: Members
) -> Facts:
    """Enrolments and purchases as the executor reads them."""
    bought = kind == m.F_PURCHASE
    # Column by column, as `Facts` keeps them.
    slots = np.zeros((m.SLOTS, len(kind)), np.int64).T
    slots[:, 0] = currency
    items = np.zeros((m.ITEMS, int(bought.sum())), np.int64).T
    items[:, 0], items[:, 1] = amount[bought], 1
    customer = np.repeat(np.arange(len(first) - 1), np.diff(first))
    account_of = np.full(len(first) - 1, -1)
    account_of[of.accounts.customer] = np.arange(len(of.accounts))
    return Facts(
        kind=kind,
        position=position,
        at_us=at_us,
        account=np.where(bought, -1, account_of[customer]),
        slots=slots,
        item=np.concatenate(([0], np.cumsum(bought))),
        items=items,
        trait=np.zeros(len(kind), np.int64),
        channel=np.zeros(len(kind), np.int64),
        traits=(Traits(),),
        customers=of.customers,
        first=first,
        accounts=of.accounts,
    )


def write(parts: Sequence[Facts], names: Names, folder: Path) -> None:
    """Write a file of each part: enrolments and purchases, by customer and position. Customers are numbered on."""
    import pyarrow as pa
    from pyarrow import parquet

    codes = {names.text(code): code for code in CURRENCIES}
    before = 0
    for number, part in enumerate(parts):
        customer = np.repeat(np.arange(len(part.customers)), np.diff(part.first)) + before
        before += len(part.customers)
        amount = np.zeros(len(part), np.int64)
        amount[part.kind == m.F_PURCHASE] = part.items[:, 0]
        written = [codes.get(code) for code in part.slots[:, 0].tolist()]
        columns = {
            "customer": pa.array(customer.astype(np.int32)),
            "kind": pa.array(part.kind.astype(np.uint8)),
            "position": pa.array(part.position),
            "moment": pa.array(part.at_us, pa.timestamp("us")),
            "currency": pa.array(written, pa.string()).dictionary_encode(),
            "amount": pa.array(amount),
        }
        parquet.write_table(
            pa.table(columns), folder / f"{number:02d}.parquet", compression="zstd", compression_level=1
        )


def read(path: Path, names: Names, of: Members, before: int) -> Facts:
    """A file as the executor reads it. Of its customers, who are known, so many stand in files before."""
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(path, use_threads=False)

    def column(name: str) -> Array:
        return table[name].combine_chunks().to_numpy(zero_copy_only=False)

    written = table["currency"].combine_chunks()
    codes = np.array([0 if one is None else names.text(one) for one in written.dictionary.to_pylist()], np.int64)
    places = written.indices.fill_null(0).to_numpy(zero_copy_only=False)
    first = np.searchsorted(column("customer"), np.arange(len(of.customers) + 1) + before)
    return _of_columns(
        column("kind").astype(np.int64),
        # Arrow's own are read-only, which the machine is not compiled for.
        column("position").copy(),
        table["moment"].combine_chunks().cast(pa.int64()).to_numpy().copy(),
        codes[places],
        column("amount"),
        first,
        of,
    )


@dataclass(frozen=True, slots=True)
class Purchases:
    """The purchases of a history, in memory and as files."""

    parts: list[Facts]
    names: Names
    book: Book

    @classmethod
    def of(cls, given: Given) -> Purchases:
        """Make them, and write the files, if they are not there."""
        names = Names()
        facts = purchases_of(given.history(names))
        parts = list(facts.split(PARTS))
        if not given.files:
            write(parts, names, given.folder)
        return cls(parts, names, book_of("L1", names, facts))

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def before(self) -> list[int]:
        """How many customers stand before each part."""
        return [0, *accumulate(len(part.customers) for part in self.parts)]

    def came_of_it(self) -> dict[int, tuple[int, int]]:
        """By customer, what the executor says is earned, and what of it expired."""
        found: dict[int, tuple[int, int]] = {}
        for part, before in zip(self.parts, self.before, strict=False):
            places, out = outcomes(part, self.book)
            customers = [part.accounts[place][2] + before for place in places.tolist()]
            points = out[:, [m.O_BUCKETS + m.EARNED, m.O_BUCKETS + m.EXPIRED]].tolist()
            found |= {
                customer: (earned, expired) for customer, (earned, expired) in zip(customers, points, strict=True)
            }
        return {customer: points for customer, points in found.items() if any(points)}


def purchases_in_memory(given: Given, row: Row) -> dict[str, Any]:
    """The executor over the purchases alone."""
    purchases = Purchases.of(given)
    book = purchases.book
    replayed(purchases.parts[:1], book, 1)
    found = measured(given, lambda: replayed(purchases.parts, book, row.threads), len(purchases))
    return found | {"totals": _totals(np.concatenate(replayed(purchases.parts, book, 1)))}


def purchases_read(given: Given, row: Row) -> dict[str, Any]:
    """The same, each part read from its file first."""
    purchases = Purchases.of(given)
    count, before = len(purchases), purchases.before
    of = [members_of(part) for part in purchases.parts]
    names, book = purchases.names, purchases.book
    del purchases

    def run(number: int) -> Array:
        return outcomes(read(given.files[number], names, of[number], before[number]), book)[1]

    def all_parts() -> list[Array]:
        with ThreadPoolExecutor(row.threads) as pool:
            return list(pool.map(run, range(len(of))))

    run(0)
    found = measured(given, all_parts, count)
    return found | {"totals": _totals(np.concatenate(all_parts())), "bytes": _size(given)}


def _size(given: Given) -> int:
    return sum(path.stat().st_size for path in given.files)


def by_polars(files: Sequence[Path]) -> Any:
    """L1 without returns, spending and tiers that are kept: by customer what is earned, what of it is over in 2025, and
    the tier after the last purchase."""
    import polars as pl

    base = pl.col("amount") // 100
    purchases = (
        pl.scan_parquet(list(files))
        .filter((pl.col("kind") == m.F_PURCHASE) & (pl.col("currency") == "USD"))
        .select("customer", "moment", base=base, month=pl.col("moment").dt.truncate("1mo"))
        .with_columns(upto=pl.col("base").cum_sum().over("customer", "month"))
        .select(
            "customer",
            "moment",
            points=pl.min_horizontal("upto", pl.lit(CAP)) - pl.min_horizontal(pl.col("upto") - pl.col("base"), CAP),
            expires=pl.col("month").dt.offset_by(f"{LIVES_MONTHS + 1}mo"),
        )
        .sort("customer", "moment")
        .with_columns(qualifying=pl.col("points").rolling_sum_by("moment", "12mo").over("customer"))
    )
    level = pl.lit("basic")
    for name, threshold in list(LEVELS.items())[1:]:
        level = pl.when(pl.col("qualifying") >= threshold).then(pl.lit(name)).otherwise(level)
    return (
        purchases.with_columns(tier=level)
        .group_by("customer")
        .agg(
            earned=pl.col("points").sum(),
            expired=pl.col("points").filter(pl.col("expires") <= pl.datetime(2025, 1, 1)).sum(),
            qualifying=pl.col("qualifying").last(),
            tier=pl.col("tier").last(),
        )
        .collect()
    )


def by_duckdb(files: Sequence[Path], threads: int) -> Any:
    """The same."""
    import duckdb

    levels = " ".join(f"when qualifying >= {least} then '{name}'" for name, least in reversed(LEVELS.items()))
    query = f"""
        with purchase as (
            select customer, position, moment, amount // 100 as base, date_trunc('month', moment) as month
            from read_parquet($files) where kind = {m.F_PURCHASE} and currency = 'USD'
        ), summed as (
            select *, sum(base) over (partition by customer, month order by position) as upto from purchase
        ), capped as (
            select customer, moment, month + interval {LIVES_MONTHS + 1} months as expires,
                least(upto, {CAP}) - least(upto - base, {CAP}) as points
            from summed
        ), rolling as (
            select *, sum(points) over (
                partition by customer order by moment range between interval 12 months preceding and current row
            ) as qualifying
            from capped
        ), tiered as (
            select *, case {levels} end as tier from rolling
        )
        select customer, sum(points)::bigint as earned,
            coalesce(sum(points) filter (expires <= timestamp '2025-01-01'), 0)::bigint as expired,
            arg_max(qualifying, moment)::bigint as qualifying, arg_max(tier, moment) as tier
        from tiered group by customer
    """
    with duckdb.connect(config={"threads": threads}) as connection:
        return connection.sql(query, params={"files": [str(path) for path in files]}).to_arrow_table()


def by_hand(given: Given, row: Row) -> dict[str, Any]:
    """Polars or DuckDB, all files in one query, if of each customer they say what the executor says."""
    purchases = Purchases.of(given)
    files, count, expected = given.files, len(purchases), purchases.came_of_it()
    del purchases

    def run() -> Any:
        return by_polars(files) if row.key == "polars" else by_duckdb(files, row.threads)

    found = run() if row.key == "polars" else run().to_pydict()
    columns = (found[name] for name in ("customer", "earned", "expired"))
    told = {customer: points for customer, *points in zip(*columns, strict=True) if any(points)}
    differ = [one for one in told.keys() | expected.keys() if tuple(told.get(one, ())) != expected.get(one)]
    if differ:
        raise AssertionError(f"{row.key} says something else of {len(differ)} of {len(expected)} customers")
    totals = dict(zip(("earned", "expired"), map(sum, zip(*expected.values(), strict=True)), strict=True))
    return measured(given, run, count) | {"accounts": len(expected), "totals": totals}


# ── the rows ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows() -> Iterator[Row]:
    for rules in ("L1", "L2", "every"):
        yield Row(f"fold-{rules}", f"{rules}: the domain's code", rules, 1, folded)
        for threads in (1, THREADS):
            yield Row(
                f"columnar-{rules}-{threads}", f"{rules}: columnar", rules, threads, in_memory, (f"fold-{rules}",)
            )
    by_others = ("polars", "duckdb")
    for who, title in zip(by_others, ("Polars", "DuckDB"), strict=True):
        yield Row(who, f"Purchases, from Parquet: {title}, by hand", "L1", THREADS, by_hand)
    for threads in (1, THREADS):
        yield Row(f"read-{threads}", "Purchases, from Parquet: columnar", "L1", threads, purchases_read, by_others)
    yield Row("purchases", "Purchases, in memory: columnar", "L1", 1, purchases_in_memory)


ROWS = {row.key: row for row in _rows()}


def table(results: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    found = results["rows"]
    rates = {key: one["count"] / median(one["seconds"]) for key, one in found.items()}
    lines = [
        "| | threads | facts | facts/s (slowest to fastest) | times | first run | memory before | at the peak | heap |",
        "|---|--:|--:|---|---|--:|--:|--:|--:|",
    ]
    for key, one in found.items():
        row = ROWS[key]
        slowest, fastest = (one["count"] / seconds for seconds in (max(one["seconds"]), min(one["seconds"])))
        times = ", ".join(f"{rates[key] / rates[other]:.1f} of {other}" for other in row.baselines if other in rates)
        first = f"{one['first']:.2f} s" if "first" in one else ""
        memory = " | ".join(memory_of(one[name]) for name in _MEMORY)
        lines.append(
            f"| {row.title} | {row.threads} | {one['count']:,} | **{table_rate(rates[key])}** "
            f"({table_rate(slowest)} to {table_rate(fastest)}) | {times} | {first} | {memory} |"
        )
    return "\n".join([*lines, "", footer(results)])


_MEMORY = ("before", "peak", "heap")
PACKAGES = ("numpy", "numba", "pyarrow", "polars", "duckdb")


def memory_of(size: int | None) -> str:
    """So many bytes, to be read."""
    return "" if size is None else f"{size / 2**20:.0f} MiB"


def table_rate(rate: float) -> str:
    """So many a second, to be read."""
    return f"{rate / 1000:,.1f}k" if rate < 100_000 else f"{rate / 1_000_000:,.2f}M"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each row, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--facts", type=int, default=FACTS, help=f"about so many made-up facts (default: {FACTS:,})")
    parser.add_argument("--sample", type=int, default=10_000, help="fold so many of them (default: 10,000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-k", nargs="+", metavar="ROW", choices=ROWS, help=f"some rows only, of {', '.join(ROWS)}")
    parser.add_argument("--folder", type=Path, help="write Parquet into this folder (default: the temporary one)")
    parser.add_argument("--json", type=Path, help=f"where the results go (results that are kept: {RESULTS})")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.row:
        row = ROWS[given.row]
        one = row.measure(Given(given.facts, given.sample, given.rounds, given.seed, given.folder), row)
        print(json.dumps(one))
        return 0
    sizes = {name: getattr(given, name) for name in ("facts", "sample", "rounds", "seed")}
    results: dict[str, Any] = {"datetime": datetime.now(UTC).isoformat(), "rows": {}, "given": sizes}
    scratch = Path(tempfile.mkdtemp(prefix="tallybook-replay-", dir=given.folder))
    try:
        for row in ROWS.values():
            if given.k and row.key not in given.k:
                continue
            print(row.key, file=sys.stderr, flush=True)
            wanted = ["--row", row.key, "--folder", str(scratch)]
            for name, value in results["given"].items():
                wanted += [f"--{name}", str(value)]
            results["rows"][row.key] = apart("replay", *wanted, POLARS_MAX_THREADS=str(row.threads))
        keep(results, scratch, PACKAGES, given.json)
    except subprocess.CalledProcessError:
        print(f"{row.key} failed: nothing is written.", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
