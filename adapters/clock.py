"""The real clock and the real source of ids. Both are injected: a test gives its own."""

from __future__ import annotations

import os
import time
from uuid import UUID

from .form import uuid_of

_VERSION_MASK = ~((0xF << 76) | (0xC << 60)) & (2**128 - 1)
_VERSION_BITS = (0x4 << 76) | (0x8 << 60)


def now_us() -> int:
    """Microseconds since 1970-01-01T00:00Z."""
    return time.time_ns() // 1000


def new_id() -> UUID:
    """A random UUID (version 4)."""
    return uuid_of((int.from_bytes(os.urandom(16), "big") & _VERSION_MASK) | _VERSION_BITS)
