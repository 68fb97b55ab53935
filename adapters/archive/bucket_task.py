"""What is found about one bucket, from its file alone: the task that other processes and hosts run.

It needs the package and the file, neither the book nor its log.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from tallybook import domain, projections
from tallybook.domain.errors import BookError
from tallybook.domain.events import Event
from tallybook.projections.backtest import Partial
from tallybook.projections.columnar.backtesting import Asked

from .replay_cache import BucketFile


@cache
def code() -> str:
    """A digest of the code that finds it."""
    folders = [Path(path) for package in (domain, projections) for path in package.__path__]
    sources = sorted((path.name, path.read_bytes()) for folder in folders for path in folder.rglob("*.py"))
    return sha256(repr(sources).encode()).hexdigest()


class BucketTask(NamedTuple):
    """One bucket and what is asked about it. `control`: what concerns all accounts; `code`: that of whoever asks."""

    file: BucketFile
    asked: Asked
    control: Sequence[tuple[int, Event]]
    code: str


_first = Lock()
_compiled: list[bool] = []


def bucket_task(task: BucketTask) -> list[Partial]:
    """What is found. Of several threads of a process, one compiles, and the others wait for it. Raises ArchiveError,
    BookError, TooManyTiers, Uncompiled."""
    if task.code != code():
        raise BookError(
            "A worker runs other code of Tallybook than this process.", remedy="Install the same release on both."
        )
    with _first:
        if not _compiled:
            found = _found(task)
            if any(one.sums["accounts",] for one in found):
                _compiled.append(True)
            return found
    return _found(task)


def _found(task: BucketTask) -> list[Partial]:
    return task.asked.of(task.file.load, task.control)
