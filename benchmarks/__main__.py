"""Run the benchmarks, each pass in a process of its own, and write the page about them."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .report import ROOT, cells, merged, page, table
from .workload import QUICK_VARIABLE

RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PASSES = 3
"""Raw, stock and ours are measured one after the other. Several passes keep a machine that is slow for a minute from
falling on one of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit status is pytest's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run in seconds; writes nothing by itself")
    parser.add_argument("-k", metavar="EXPRESSION", help="some benchmarks only, as pytest's -k; writes nothing")
    parser.add_argument("--folder", type=Path, help="measure on files in this folder (default: the temporary one)")
    parser.add_argument("--json", type=Path, help=f"where the results go (default of a full run: {RESULTS.name})")
    parser.add_argument("--page", type=Path, help=f"where the page goes (default of a full run: docs/{PAGE.name})")
    parser.add_argument(
        "--passes", type=int, metavar="N", help=f"how often the suite is run (default of a full run: {PASSES})"
    )
    given = parser.parse_args(arguments)
    whole = not given.quick and given.k is None
    results_path: Path | None = given.json or (RESULTS if whole else None)
    page_path: Path | None = given.page or (PAGE if whole else None)

    passes = given.passes or (PASSES if whole else 1)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment.pop(QUICK_VARIABLE, None)
    if given.quick:
        environment[QUICK_VARIABLE] = "1"

    scratch = Path(tempfile.mkdtemp(prefix="tallybook-benchmarks-", dir=given.folder))
    try:
        measured = []
        for number in range(1, passes + 1):
            print(f"Pass {number} of {passes}", file=sys.stderr, flush=True)
            found = scratch / "results.json"
            command = [
                *(sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:xdist", "-p", "no:randomly"),
                *("--import-mode=importlib", f"--rootdir={ROOT}", f"--confcutdir={ROOT}"),
                *("--benchmark-only", "--benchmark-quiet", f"--benchmark-json={found}"),
                *(f"--basetemp={scratch / 'files'}", "-o", "tmp_path_retention_policy=none"),
                *([] if given.k is None else ["-k", given.k]),
                str(ROOT / "benchmarks"),
            ]
            status = subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=sys.stderr).returncode
            if status:
                print("The benchmarks failed: nothing is written.", file=sys.stderr)
                return status
            measured.append(json.loads(found.read_text(encoding="utf-8")))
        results = merged(measured)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

    if results_path is not None:
        results_path.parent.mkdir(parents=True, exist_ok=True)
        results_path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if page_path is not None:
        page_path.parent.mkdir(parents=True, exist_ok=True)
        page_path.write_text(page(results), encoding="utf-8")
    print(table(cells(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
