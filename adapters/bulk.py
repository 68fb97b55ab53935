"""What bulk jobs do to the process while they run."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

RARELY = (100_000, 20, 50)

_lock = threading.Lock()
_running = 0
_before = gc.get_threshold()


@contextmanager
def rarely_collecting() -> Iterator[None]:
    """Let Python look for reference cycles less often while a bulk job makes millions of small objects, none cyclic.

    With the defaults that takes a fifth of an import. What the host had set comes back with the end of the last job; a
    host that has switched collection off, or made it rarer itself, is left alone.
    """
    global _running, _before  # noqa: PLW0603 - the collector's thresholds are one for the process, too
    with _lock:
        if _running == 0:
            _before = gc.get_threshold()
            if 0 < _before[0] < RARELY[0]:
                gc.set_threshold(*RARELY)
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0 and gc.get_threshold() == RARELY:
                gc.set_threshold(*_before)
