"""What a book is asked in a process that loads nothing else: `python -m benchmarks.answers URL WHAT EXECUTOR TIMES`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import tallybook

Asked = Callable[[tallybook.Book, str], Any]


def _backtest(book: tallybook.Book, executor: str) -> Any:
    return book.backtest("candidate", executor="reference" if executor == "reference" else None).digest()


def _certificate(book: tallybook.Book, executor: str) -> Any:
    certificate = book.replay(executor="reference" if executor == "reference" else "columnar")
    assert certificate.holds
    return [certificate.facts, certificate.decisions]


def _rebuild(book: tallybook.Book, _: str) -> Any:
    return book.archive.rebuild()


ASKED: dict[str, Asked] = {"backtest": _backtest, "certificate": _certificate, "archive rebuild": _rebuild}


def answer(url: str, what: str, executor: str, times: int) -> dict[str, Any]:
    """Ask a book so many times; seconds of the clock and of the processor, and what it says."""
    seconds, cpu, told = [], [], []
    with tallybook.open(url) as book:
        for _ in range(times):
            started, worked = perf_counter(), process_time()
            told.append(ASKED[what](book, executor))
            seconds.append(perf_counter() - started)
            cpu.append(process_time() - worked)
        return {"seconds": seconds, "cpu": cpu, "told": told, "events": book.position()}


if __name__ == "__main__":
    given_url, given_what, given_executor, given_times = sys.argv[1:]
    print(json.dumps(answer(given_url, given_what, given_executor, int(given_times))))
