"""The benchmarks run: a small pass, as `python -m benchmarks --quick` makes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.rows import OURS, RAW, ROWS, STOCK

ROOT = Path(__file__).parent.parent


@pytest.mark.server
def test_a_quick_run_measures_ours_beside_stock_and_raw(tmp_path: Path) -> None:
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", str(results), "--page", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = [entry["extra_info"] for entry in json.loads(results.read_text(encoding="utf-8"))["benchmarks"]]
    wanted = {
        (row.key, who) for row in ROWS for who, how in ((RAW, row.raw), (STOCK, row.stock), (OURS, row.ours)) if how
    }
    assert {(one["key"], one["who"]) for one in measured} == wanted
    text = page.read_text(encoding="utf-8")
    for word in ("append", "load", "scan", "catch", "import", "rebuild", "inline", "postgresql", "stock", "raw"):
        assert word in text.lower()


def test_replays_are_measured_beside_the_fold_and_what_is_written_by_hand(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    rows = ["fold-every", "columnar-every-2", "polars", "duckdb", "read-2"]
    command = [sys.executable, "-m", "benchmarks.replay", "--facts", "4000", "--sample", "400", "--rounds", "1"]
    done = subprocess.run(
        [*command, "-k", *rows, "--json", str(results)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(results.read_text(encoding="utf-8"))["rows"]
    assert list(measured) == rows
    assert all(one["count"] > 100 and one["totals"]["earned"] for one in measured.values())
    assert measured["polars"]["totals"]["expired"] == measured["duckdb"]["totals"]["expired"] > 0
    assert "DuckDB" in done.stdout
