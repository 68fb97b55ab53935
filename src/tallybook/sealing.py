"""What the book records about its keys."""

from __future__ import annotations

from dataclasses import dataclass

from .commands import Desk, Work, command


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """A wrapping key that took another's place: their fingerprints, and how many keys are wrapped under it."""

    old: str
    new: str
    keys: int


class SealingDesk(Desk):
    """Rotation of the wrapping key. Not part of the public API: see `Book.rotate_wrapping_key`."""

    def rotate(self) -> KeyRotation:
        """Rotate, and record it."""
        core = self._core
        core.check_open()
        core.acting_now()
        store = core.storage.keys
        old, new = store.rotate()
        self.record(old, new)
        return KeyRotation(old, new, store.count())

    @command
    def record(self, work: Work, old: str, new: str) -> None:
        """Record a rotation."""
        work.control().rotated_wrapping_key(work.stamp, old, new)
