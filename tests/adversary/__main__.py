"""Attack a book in many ways: `python -m tests.adversary --count 10000 --seed 1`. Ends with 1 if one is missed."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random

from .judge import MISSED, Tally
from .tail import part
from .test_sealing import swaps, two_keys

AT_ONCE = 250


def main() -> int:
    """The whole campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.adversary", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="attacks: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="%(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="processes: %(default)s")
    given = parser.parse_args()
    started = time.monotonic()
    tally = Tally()
    sizes = [min(AT_ONCE, given.count - done) for done in range(0, given.count, AT_ONCE)]
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for found in pool.map(part, [f"{given.seed}/{number}" for number in range(len(sizes))], sizes):
            tally += found
    for told in tally.missed:
        print(f"MISSED {told}")
    print(tally.table())
    chance = Random(given.seed)
    print(f"ciphertexts, keys and subjects swapped between events: {swaps(chance, given.count):,}, all refused")
    print(f"ciphertexts of two keys: {two_keys(chance, max(1, given.count // 10)):,}, all refused")
    missed = sum(count for (_, outcome), count in tally.outcomes.items() if outcome == MISSED)
    print(f"{given.count:,} attacks in {time.monotonic() - started:,.0f} s: {missed:,} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
