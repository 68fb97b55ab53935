"""Packing with msgpack, without making a packer for each call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgpack


class _Packers(threading.local):
    """A packer for each thread: one is no place for two threads."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer(autoreset=True).pack


_packers = _Packers()


def packer() -> Callable[[Any], bytes]:
    """`pack` for a loop: this thread's own, to be used in this thread only."""
    return _packers.pack


def pack(value: Any) -> bytes:
    """The bytes of a value, as `msgpack.packb` gives them."""
    return _packers.pack(value)
