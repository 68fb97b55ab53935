"""The campaign: `python -m tests.crash --kills 1000 --cuts 2000 --seed 1`. Ends with 1 if anything was found.

Each book has a seed of its own, made from the campaign's, its kind and its number: so one that was found broken can
be had again alone (`--only`). A cut is had again write for write. A kill comes after the same commands and the same
time, but where the process is by then depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from . import cuts, kills
from .report import Life

FOUND = ("lost", "doubled", "broken", "ahead")
"""What may be found: `Finding.kind`."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=0, help="at least so many: %(default)s")
    parser.add_argument("--cuts", type=int, default=0, help="power cuts, at least so many: %(default)s")
    parser.add_argument("--seed", type=int, default=None, help="TALLYBOOK_CRASH_SEED, or 1")
    parser.add_argument("--jobs", type=int, default=1, help="processes: %(default)s")
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL", help="of power cuts: %(default)s")
    parser.add_argument("--mistake", choices=(*kills.MISTAKES, *cuts.MISTAKES), help="plant one")
    parser.add_argument("--until", choices=FOUND, help="end with the first book of which this is found")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one book of a campaign: kills:3, cuts:17")
    parser.add_argument(
        "--folder", type=Path, help="where books lie, in a folder that is removed: the system's temporary"
    )
    found = parser.parse_args(given)
    if found.seed is None:
        found.seed = int(os.environ.get("TALLYBOOK_CRASH_SEED") or 1)
    return found


def one_life(kind: str, number: int, given: argparse.Namespace) -> tuple[str, int, Life]:
    """What happens to one book."""
    seed = f"{given.seed}/{kind}/{number}"
    folder = Path(tempfile.mkdtemp(prefix=f"tallybook-{kind}-", dir=given.folder))
    try:
        if kind == "kills":
            return kind, number, kills.live(folder, seed, kills.KILLS_PER_BOOK, given.mistake)
        return kind, number, cuts.live(folder, seed, cuts.CUTS_PER_BOOK, given.synchronous, given.mistake)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def lives(given: argparse.Namespace) -> Iterator[tuple[str, int, Life]]:
    """All books of a campaign, as they end."""
    if given.only:
        kind, _, number = given.only.partition(":")
        wanted = [(kind, int(number))]
    else:
        wanted = [("kills", one) for one in range(-(-given.kills // kills.KILLS_PER_BOOK))]
        wanted += [("cuts", one) for one in range(-(-given.cuts // cuts.CUTS_PER_BOOK))]
    if given.jobs == 1:
        yield from (one_life(kind, number, given) for kind, number in wanted)
        return
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("fork")) as pool:
        yield from pool.map(one_life, *zip(*wanted, strict=True), [given] * len(wanted))


def again(kind: str, number: int, given: argparse.Namespace) -> str:
    """The command by which one book is had again."""
    more = f" --synchronous {given.synchronous}" if kind == "cuts" and given.synchronous != "FULL" else ""
    more += f" --mistake {given.mistake}" if given.mistake else ""
    return f"python -m tests.crash --seed {given.seed} --only {kind}:{number}{more}"


def tell(ended: Iterable[tuple[str, int, Life]], given: argparse.Namespace) -> int:
    """Print what was found, with the command to have it again; the sums; and whether anything was found."""
    started = time.perf_counter()
    crashes, acknowledged = Counter[str](), Counter[str]()
    found, moments = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for kind, number, life in ended:
        crashes[kind] += life.crashes
        acknowledged[kind] += life.acknowledged
        moments.update({(kind, moment): count for moment, count in life.moments.items()})
        for _, finding in life.findings:
            found[kind, finding.kind] += 1
        if life.findings:
            crash, finding = life.findings[0]
            print(f"{kind}:{number}, after {crash}: {finding.kind}: {finding.text}")
            print(f"  again: {again(kind, number, given)}", flush=True)
        if given.until in (finding.kind for _, finding in life.findings):
            break
    for kind in crashes:
        sums = ", ".join(f"{found[kind, one]} {one}" for one in FOUND)
        print(f"{crashes[kind]} {kind}: {acknowledged[kind]} commands acknowledged, {sums}")
        print("  " + ", ".join(f"{moment} {count}" for (of, moment), count in moments.most_common() if of == kind))
    print(f"seed {given.seed}, {time.perf_counter() - started:.1f} s")
    return 1 if found else 0


def main(given: Sequence[str] | None = None) -> int:
    """Run a campaign."""
    parsed = arguments(given)
    return tell(lives(parsed), parsed)


if __name__ == "__main__":
    sys.exit(main())
