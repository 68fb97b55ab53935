"""docs/replay-speed.md from the results that are kept: `python -m tools.replay_speed`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import books, passes, replay

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "replay-speed.md"
MARK = "<!-- {} -->"
TABLES = {
    "passes": (passes.RESULTS, passes.table),
    "books": (books.RESULTS, books.table),
    "replay": (replay.RESULTS, replay.table),
}


def page(text: str) -> str:
    """The page with the tables that the results give, each between its marks."""
    for name, (results, table) in TABLES.items():
        begin, end = MARK.format(name), MARK.format(f"/{name}")
        before, rest = text.split(begin)
        told = table(json.loads(results.read_text(encoding="utf-8")))
        text = f"{before}{begin}\n\n{told}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    """Write the page anew."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
