"""One part of a parallel rebuild, in a Python process of its own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tallybook.adapters import clock
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.storage import open_storage
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
            process = subprocess.Popen(
                [sys.executable, "-c", "from tallybook.worker import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            started.append(process)
            assert process.stdin is not None
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
