"""What the system has run out of: space, a quota, the size of a file, descriptors.

SQLite tells only that something could not be read, written or opened, and drivers of servers not even that. So it is
tried, where an error might mean it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tallybook.domain.errors import BookError, BookFull

FULL: Mapping[int, tuple[str, str]] = {
    errno.ENOSPC: ("There is no space left for", "Make space on its disk, and try again."),
    errno.EDQUOT: ("A quota of the disk leaves no space for", "Make space, or have the quota raised, and try again."),
    errno.EFBIG: (
        "The limit to the size of a file leaves no space for",
        "Raise the limit of this process (`ulimit -f`), and try again.",
    ),
}
NO_DESCRIPTORS = "Raise the limit of open files (`ulimit -n`), or close what is open, and try again."

PROBE_BYTES = 64 * 1024
"""More than SQLite asks for at once; it needs 32 KB beside a file to read it."""
PROBE_DESCRIPTORS = 8
"""More than SQLite needs to open a file with its journals."""


def of_error(error: OSError, place: str) -> BookError | None:
    """The error for a limit that an operation of the system has met; None for any other trouble."""
    full = FULL.get(error.errno or 0)
    if full is not None:
        said, remedy = full
        return BookFull(f"{said} {place}; what was being written is not in it.", path=place, remedy=remedy)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        who = "This process" if error.errno == errno.EMFILE else "The system"
        return BookError(f"{who} has no file descriptor left for {place}.", path=place, remedy=NO_DESCRIPTORS)
    return None


def of_file(place: str) -> BookError | None:
    """The error for a limit that a file can't grow or be opened for; None where none is met.

    A file without a name is written in its folder, as far from the beginning as the file and its journals are long.
    """
    end = 0
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(OSError):
            end = max(end, os.stat(place + suffix).st_size)
    try:
        with tempfile.TemporaryFile(dir=Path(place).parent, buffering=0) as probe:
            _open_some(probe.fileno())
            written = 0
            while written < PROBE_BYTES:  # the last write before a limit is cut short, and the next one fails
                written += os.pwrite(probe.fileno(), bytes(PROBE_BYTES - written), end + written)
    except OSError as error:
        return of_error(error, place)
    return None


def of_process(place: str) -> BookError | None:
    """The error for a process that can't open anything more; None for one that can."""
    try:
        _open_some()
    except OSError as error:
        return of_error(error, place)
    return None


def _open_some(descriptor: int | None = None) -> None:
    opened: list[int] = []
    try:
        opened.append(os.open(os.devnull, os.O_RDONLY) if descriptor is None else os.dup(descriptor))
        while len(opened) < PROBE_DESCRIPTORS:
            opened.append(os.dup(opened[0]))
    finally:
        for one in opened:
            os.close(one)
