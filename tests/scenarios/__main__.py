"""Play many offices: `python -m tests.scenarios --seeds 500`. Ends with 1 if anything was missed or is false."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from .misdeeds import KINDS
from .truth import one


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
    for kind in (*KINDS, "altered row"):
        print(f"{kind:16} {planted[kind]:6,} planted")
    print(f"{given.seeds:,} offices in {time.monotonic() - started:,.0f} s: {missed:,} missed, {false:,} false")
    return 1 if missed or false else 0


if __name__ == "__main__":
    sys.exit(main())
