"""One part of a parallel rebuild, in a Python process of its own."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tallybook.adapters import clock
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.storage import open_storage
from tallybook.domain.errors import BookError
from tallybook.projections.read_models import Generation

from .core import Core

logger = logging.getLogger("tallybook.projections")

Options = Mapping[str, Any]
"""How the book's storage is opened, as plain values."""


def fold_in_processes(options: Options, builds: Sequence[Generation], head: int, processes: int) -> bool:
    """Fold all subjects' events up to a position into builds, divided among processes; whether all went well.

    The processes get their task by standard input, so that no password is seen in a list of processes.
    """
    started = []
    try:
        for index in range(processes):
            task = {
                "options": dict(options),
                "builds": [(build.model.name, build.number) for build in builds],
                "head": head,
                "part": [index, processes],
            }
            try:
                process = subprocess.Popen(
                    [sys.executable, "-c", "from tallybook.worker import main; main()"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            except OSError as error:
                raise _not_started(error) from error
            started.append(process)
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it died at once: its status tells
                process.stdin.write(json.dumps(task).encode())
                process.stdin.close()
            process.stdin = None
        sound = True
        for process in started:
            _, said = process.communicate()
            if process.returncode:
                sound = False
                logger.warning("A part of a rebuild failed: %s", said.decode(errors="replace").strip()[-500:])
        return sound
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()


def _not_started(error: OSError) -> BookError:
    """The error for a process that the system does not let us start."""
    limits = {
        errno.EMFILE: "Raise the limit of open files (`ulimit -n`), or rebuild in one process.",
        errno.ENFILE: "Close files of other programs: the whole system has too many open; or rebuild in one process.",
        errno.EAGAIN: "Raise the limit of processes (`ulimit -u`), or rebuild in one process.",
    }
    return BookError(
        f"A process of the rebuild can't be started: {error.strerror or error}.",
        remedy=limits.get(error.errno or 0, "Rebuild in one process."),
    )


def main() -> None:
    """Carry out the task that stands on standard input."""
    task = json.load(sys.stdin)
    core = Core(open_storage(create=False, **task["options"]), clock.now_us, clock.new_id)
    try:
        with rarely_collecting():
            core.projector.fold_part(task["builds"], task["head"], tuple(task["part"]))
    finally:
        core.app.close()
        core.storage.close()
