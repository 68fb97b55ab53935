"""What the book records about its keys."""

from __future__ import annotations

from dataclasses import dataclass

from tallybook.domain.control import Control
from tallybook.domain.events import Metadata

from .commands import Desk, Work, command
from .core import Acting


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """A wrapping key that took another's place: their fingerprints, and how many keys are wrapped under it."""

    old: str
    new: str
    keys: int


class SealingDesk(Desk):
    """Rotation of the wrapping key. Not part of the public API: see `Book.rotate_wrapping_key`."""

    _name = "keys"
    _parts = {"_allowed": "rotate", "_record": "rotate"}  # noqa: RUF012 - as declared in Desk

    def rotate(self) -> KeyRotation:
        """Rotate, and record it."""
        core = self._core
        core.check_open()
        core.acting_now()
        self._allowed()
        store = core.storage.keys
        old, new = store.rotate()
        self._record(old, new)
        return KeyRotation(old, new, store.count())

    def follow(self) -> None:
        """Record that the wrapping key is another than the log says, if it is.

        After a rotation that was cut short before its event, and after keys or log were put back from a copy.
        """
        core = self._core
        if self._unrecorded(core.app.load(Control, core.book_id)) is not None:
            with core.acting(Acting(Metadata(recorded_us=0, actor="system:keys", purpose="keys"), by_book=True)):
                self._record_what_is()

    def _unrecorded(self, control: Control) -> tuple[str, str] | None:
        """The wrapping key that the log knows of, and the present one; None where they are one, or none is known."""
        storage = self._core.storage
        known, now = control.wrapping or storage.first_wrapping, storage.keys.wrapping()
        return None if known is None or now is None or known == now else (known, now)

    @command
    def _allowed(self, work: Work) -> None:
        """Nothing: whoever may not rotate is refused before anything is done."""

    @command
    def _record(self, work: Work, old: str, new: str) -> None:
        work.control().rotated_wrapping_key(work.stamp, old, new)

    @command
    def _record_what_is(self, work: Work) -> None:
        control = work.control()
        found = self._unrecorded(control)
        if found is not None:
            control.rotated_wrapping_key(work.stamp, *found)
