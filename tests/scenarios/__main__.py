"""Play many offices: `python -m tests.scenarios --seeds 500`. Ends with 1 if anything was missed or is false."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from .misdeeds import KINDS, drawn
from .office import played
from .truth import Verdict, compare, review

IN_MEMORY = Path("/dev/shm")


def one(seed: int) -> tuple[int, Counter[str], Verdict]:
    """What was planted by a seed, and what does not agree."""
    office, mischief = drawn(seed)
    with (
        tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder,
        played(office.steps, Path(folder), seed=str(seed)) as book,
    ):
        found = review(book)
    planted = Counter(kind for deed in mischief.truth for kind in deed.kinds)
    return seed, planted, compare(mischief.truth, found, office)


def main() -> int:
    """The whole run."""
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=100, help="how many offices: %(default)s")
    parser.add_argument("--first", type=int, default=1, help="the first seed: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="processes: %(default)s")
    given = parser.parse_args()
    started = time.monotonic()
    planted, missed, false = Counter[str](), 0, 0
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for seed, kinds, verdict in pool.map(one, range(given.first, given.first + given.seeds)):
            planted += kinds
            missed, false = missed + len(verdict.missed), false + len(verdict.false)
            for what, told in (("missed", verdict.missed), ("false", verdict.false)):
                for text in told:
                    print(f"seed {seed}: {what}: {text}", flush=True)
    for kind in KINDS:
        print(f"{kind:16} {planted[kind]:6,} planted")
    print(f"{given.seeds:,} offices in {time.monotonic() - started:,.0f} s: {missed:,} missed, {false:,} false")
    return 1 if missed or false else 0


if __name__ == "__main__":
    sys.exit(main())
