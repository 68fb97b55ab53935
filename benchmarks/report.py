"""The page about a run: machine, table, spread, what each figure measures."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

from pytest_benchmark.stats import Stats

from .rows import BY_KEY, BYTES_MAX, OURS, RAW, ROWS, STOCK, WHO, Row

ROOT = Path(__file__).resolve().parent.parent
NOT_PLAIN = (
    *("load-plain", "catch-up", "catch-up-stock", "import"),
    *("rebuild", "inline-tiers", "inline-all", "inline-ask"),
    *("sweep-5", "sweep-20", "sweep-all", "redeem-lots"),
)
"""Rows whose stock column needs its explanation beside it."""


class Cell(NamedTuple):
    """One measurement: units a second of the median, slowest and fastest round; processor time a unit."""

    median: float
    slowest: float
    fastest: float
    cpu_us: float
    rounds: int
    units: int


def machine(folder: Path) -> dict[str, Any]:
    """What the figures depend on. `folder` is where the files of the run lie."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory": _memory(),
        "filesystem": _filesystem(folder),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "packages": {
            name: version(name) for name in ("tallybook", "eventsourcing", "pydantic", "msgpack", "cryptography")
        },
    }


def apart(module: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """What a module of benchmarks measures in a process of its own. Raises CalledProcessError."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    told = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run(command, cwd=ROOT, env=told, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def keep(results: dict[str, Any], folder: Path, packages: Iterable[str], where: Path | None) -> None:
    """Add to results of replays what they depend on, and write them where they are wanted."""
    results["machine_info"] = machine(folder)
    results["machine_info"]["packages"] |= {name: version(name) for name in packages}
    if where:
        where.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def footer(results: Mapping[str, Any]) -> str:
    """When and on what machine they were measured."""
    about = results["machine_info"]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    return (
        f"{results['datetime'][:16].replace('T', ' ')} UTC, {about['cpu']}, {about['cores']} cores, "
        f"{about['memory']}, {about['python']}, load {', '.join(map(str, about['load']))}; {packages}."
    )


def _first(path: str, name: str) -> str:
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return ""


def _memory() -> str:
    kilobytes = _first("/proc/meminfo", "MemTotal").partition(" ")[0]
    return f"{int(kilobytes) / 2**20:.1f} GiB" if kilobytes.isdigit() else "unknown"


def _filesystem(folder: Path) -> str:
    best, kind = "", "unknown"
    place = str(folder.resolve())
    try:
        with open("/proc/mounts", encoding="utf-8") as lines:
            for line in lines:
                _, mount, found, *_ = line.split()
                inside = place == mount or place.startswith(mount.rstrip("/") + "/")
                if inside and len(mount) >= len(best):
                    best, kind = mount, found
    except OSError:
        pass
    return kind


def cells(results: Mapping[str, Any]) -> dict[tuple[str, str], Cell]:
    """The measurements of pytest-benchmark's JSON, by row and who."""
    found = {}
    for entry in results["benchmarks"]:
        info, stats = entry["extra_info"], entry["stats"]
        units = info["count"]
        found[info["key"], info["who"]] = Cell(
            units / stats["median"],
            units / stats["max"],
            units / stats["min"],
            median(info["cpu"]) / units * 1_000_000,
            stats["rounds"],
            units,
        )
    return found


def verdict(row: Row, found: Mapping[tuple[str, str], Cell]) -> tuple[str, bool | None]:
    """The aims in words, and whether all are met (None: none is set, or one was not measured)."""
    ours, stock, raw = (found.get((row.key, who)) for who in (OURS, STOCK, RAW))
    aims: list[str] = []
    met: list[bool | None] = []
    for name, other, least in (("stock", stock, row.least_ratio), ("raw", raw, row.least_raw_ratio)):
        if least is not None:
            aims.append(f"ours/{name} ≥ {least:.3g}")
            met.append(None if ours is None or other is None else ours.median / other.median >= least)
    if row.least_rate is not None:
        aims.append(f"≥ {row.least_rate:,.0f}/s")
        met.append(None if ours is None else ours.median >= row.least_rate)
    return ", ".join(aims), None if not met or None in met else all(met)


def table(found: Mapping[tuple[str, str], Cell]) -> str:
    """The main table, in Markdown."""
    lines = [
        "| | unit | raw | stock | Tallybook | ours/stock | ours/raw | aim | met |",
        "|---|---|--:|--:|--:|--:|--:|---|---|",
    ]
    for row in ROWS:
        raw, stock, ours = (found.get((row.key, who)) for who in WHO)
        if ours is None:
            continue
        aim, met = verdict(row, found)
        mark = "†" if row.key in NOT_PLAIN else ""
        disturbed = raw is not None and row.raw_is_floor and ours.median > raw.median
        answer = "disturbed" if disturbed else "" if met is None else "yes" if met else "**no**"
        lines.append(
            f"| {row.title} | {row.unit}/s | {_rate(raw)} | {_rate(stock)}{mark} | **{_rate(ours)}** "
            f"| {_ratio(ours, stock)} | {_ratio(ours, raw)} | {aim} | {answer} |"
        )
    return "\n".join(lines)


def merged(passes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several passes as one: all rounds of each cell together. Still pytest-benchmark's form."""
    if len({tuple(entry["fullname"] for entry in one["benchmarks"]) for one in passes}) != 1:
        raise AssertionError("the passes ran different benchmarks")
    by_cell: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in passes:
        for entry in one["benchmarks"]:
            by_cell.setdefault((entry["extra_info"]["key"], entry["extra_info"]["who"]), []).append(entry)
    for first, *others in by_cell.values():
        stats: Any = cast(Any, Stats)()  # not typed
        for entry in (first, *others):
            for seconds in entry["stats"]["data"]:
                stats.update(seconds)
        first["stats"] = {**stats.as_dict(), "data": stats.data, "iterations": first["stats"]["iterations"]}
        first["extra_info"]["cpu"] = [seconds for entry in (first, *others) for seconds in entry["extra_info"]["cpu"]]
    whole = passes[0]
    whole["benchmarks"] = [entries[0] for entries in by_cell.values()]
    whole["machine_info"]["passes"] = len(passes)
    return whole


def page(results: Mapping[str, Any]) -> str:
    """The whole page, in Markdown."""
    found = cells(results)
    info = results["machine_info"]
    commit = results.get("commit_info") or {}
    dirty = ", with changes that are not committed" if commit.get("dirty") else ""
    packages = ", ".join(f"{name} {number}" for name, number in info["packages"].items())
    return f"""# Benchmarks

<!-- Written by `python -m benchmarks`. Don't edit. -->

Tallybook beside the stock way of the `eventsourcing` package and beside the database driver alone (raw), in the same
run. SQLite on files on disk, all with WAL and `synchronous=FULL` (checked): a commit that returned survives a power cut
as far as the disk keeps its promise. PostgreSQL as the table below says. Each figure is the median of all
rounds of {info["passes"]} passes over the suite. They hold for this machine; the ratios travel better.

{table(found)}

† Not the plain stock way, or not the same work: see below. "disturbed": ours came out faster than raw, which does only
a part of what ours does. So something else was at work on the machine or its disk, and the row says nothing.

## Machine

| | |
|---|---|
| Date | {results["datetime"][:16].replace("T", " ")} UTC |
| Commit | `{str(commit.get("id", "unknown"))[:12]}`{dirty} |
| Processor | {info["cpu"]}, {info["cores"]} cores |
| Memory | {info["memory"]} |
| File system of the measured files | {info["filesystem"]} |
| System | {info["system"]} |
| Load after the first pass (this run alone gives about 1) | {", ".join(map(str, info["load"]))} |
| Python | {info["python"]} |
| SQLite | {info["sqlite"]} |
| PostgreSQL | {_server(results)} |
| Packages | {packages} |

## What is measured

Every round that writes starts on fresh files, made outside of the measured time. Garbage is collected before each
round, and the collector stays on within it. Stock events are dataclasses with `apply` methods, the JSON transcoder and
the package's SQLite recorder with its defaults; they hold an event id, actor, purpose, effective time in microseconds,
currency and one line with article, quantity and amounts, as Tallybook's do. They are not validated, nothing in them is
sealed, and no Merkle tree grows with them. Tallybook and the floor use a page cache of 64 MiB; stock has SQLite's
default of 2 MB, which the package can't be told to change.

{_measured()}

## Spread

In thousands of the row's unit a second: the median round, and the slowest to the fastest one.

| | units a round | rounds raw / stock / ours | raw | stock | Tallybook |
|---|--:|---|--:|--:|--:|
{_spread(found)}

## Processor time

Microseconds of processor time for each unit, median round. The disk and other processes hardly enter here, so this
tells better than the table above what the code costs; a commit that waits for the disk costs nothing here. Of the rows
with several processes it is the sum of theirs; the PostgreSQL server's own is not in it.

| | raw | stock | Tallybook | stock/ours |
|---|--:|--:|--:|--:|
{_cpu(found)}

## Size on disk

Bytes for each event of the imported history, in closed files: {_imported(found)}
Tallybook's log is the book's file without read models: events, index, head, claims and receipts. Its keys lie in a file
of their own, one for each subject. Stock stores facts alone, without what was decided, sealed or claimed.

{_sizes(results)}

## Memory

What Python holds while an account of 100,000 events is loaded, measured outside of the timed rounds (`tracemalloc`), in
MiB: at the peak; what stays, which is the account itself; and the difference, which is what loading takes. Stock's is a
customer of as many purchases.

{_memories(results)}

## Run it

```sh
python -m benchmarks            # all; writes this page and benchmarks/results/latest.json
python -m benchmarks --quick    # seconds; writes nothing, and its figures mean little
python -m benchmarks -k append --folder /mnt/disk   # some rows, on another disk; writes nothing
```
"""


def _server(results: Mapping[str, Any]) -> str:
    servers = {one["extra_info"]["server"] for one in results["benchmarks"] if "server" in one["extra_info"]}
    return "; ".join(sorted(servers)) or "not measured"


def _cpu(found: Mapping[tuple[str, str], Cell]) -> str:
    lines = []
    for row in ROWS:
        raw, stock, ours = (found.get((row.key, who)) for who in WHO)
        if ours is not None:
            figures = " | ".join("" if cell is None else f"{cell.cpu_us:.1f}" for cell in (raw, stock, ours))
            ratio = "" if stock is None else f"{stock.cpu_us / ours.cpu_us:.2f}"
            lines.append(f"| {row.title} | {figures} | {ratio} |")
    return "\n".join(lines)


def _imported(found: Mapping[tuple[str, str], Cell]) -> str:
    counts = [f"{cell.units:,} ({who})" for who in WHO if (cell := found.get(("import", who)))]
    return ", ".join(counts) + " events." if counts else ""


def _sizes(results: Mapping[str, Any]) -> str:
    lines = ["| | bytes an event | aim | met |", "|---|--:|---|---|"]
    names = {RAW: "raw sqlite3, the same rows", STOCK: "stock", OURS: "Tallybook"}
    for entry in results["benchmarks"]:
        info = entry["extra_info"]
        for what, each in info.get("bytes", {}).items():
            aimed = info["who"] == OURS and what == "log_and_keys"
            aim = f"≤ {BYTES_MAX}" if aimed else ""
            met = ("yes" if each <= BYTES_MAX else "**no**") if aimed else ""
            lines.append(f"| {names[info['who']]}, {what.replace('_', ' ')} | {each:.0f} | {aim} | {met} |")
    return "\n".join(lines)


def _memories(results: Mapping[str, Any]) -> str:
    lines = ["| | | peak | stays | loading |", "|---|---|--:|--:|--:|"]
    for entry in results["benchmarks"]:
        info = entry["extra_info"]
        if "memory" in info:
            peak, stays = (info["memory"][name] / 2**20 for name in ("peak", "stays"))
            who = {RAW: "raw", STOCK: "stock", OURS: "Tallybook"}[info["who"]]
            lines.append(f"| {BY_KEY[info['key']].title} | {who} | {peak:.1f} | {stays:.1f} | {peak - stays:.1f} |")
    return "\n".join(lines)


def _measured() -> str:
    return "\n\n".join(
        f"**{row.title}**\n\n"
        + "\n".join(f"- {who}: {what}" for who, what in zip(WHO, (row.raw, row.stock, row.ours), strict=True) if what)
        for row in _merged(ROWS)
    )


def _merged(rows: Iterable[Row]) -> Sequence[Row]:
    merged: dict[tuple[str, str, str], Row] = {}
    titles: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        key = (row.raw, row.stock, row.ours)
        merged[key] = row
        titles.setdefault(key, []).append(row.title)
    return [Row(row.key, "; ".join(titles[key]), row.raw, row.stock, row.ours, row.unit) for key, row in merged.items()]


def _spread(found: Mapping[tuple[str, str], Cell]) -> str:
    lines = []
    for row in ROWS:
        three = [found.get((row.key, who)) for who in (RAW, STOCK, OURS)]
        counts = sorted({cell.units for cell in three if cell})
        if not counts:
            continue
        count = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        rounds = " / ".join("" if cell is None else str(cell.rounds) for cell in three)
        spread = " | ".join(
            "" if cell is None else f"{cell.median / 1000:.1f} ({cell.slowest / 1000:.1f} to {cell.fastest / 1000:.1f})"
            for cell in three
        )
        lines.append(f"| {row.title} | {count} | {rounds} | {spread} |")
    return "\n".join(lines)


def _rate(cell: Cell | None) -> str:
    if cell is None:
        return ""
    digits = max(0, len(str(int(cell.median))) - 3)
    return f"{round(cell.median, -digits):,.0f}"


def _ratio(one: Cell, other: Cell | None) -> str:
    return "" if other is None else f"{one.median / other.median:.2f}"
