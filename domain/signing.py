"""Which key signed the book's checkpoints when: a stream of its own."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from .aggregate import Aggregate, Appliers, Stamp, applies
from .events import Fact, stored


@stored("book.signing_key_rotated")
class SigningKeyRotated(Fact):
    """From here on, another key signs the book's checkpoints. Keys are public ones, as texts (vkeys)."""

    old_vkey: str
    new_vkey: str


class Signing(Aggregate):
    """The fold of the rotations."""

    APPLIERS: ClassVar[Appliers] = {}

    vkeys: tuple[str, ...] = ()
    """The keys that rotations brought, the newest last."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(stream_id)

    def rotate(self, stamp: Stamp, old_vkey: str, new_vkey: str) -> SigningKeyRotated:
        """Record that a key follows another."""
        return self.record(SigningKeyRotated, stamp, None, old_vkey=old_vkey, new_vkey=new_vkey)


@applies(Signing.APPLIERS, SigningKeyRotated)
def _rotated(signing: Signing, event: SigningKeyRotated) -> None:
    signing.vkeys = (*signing.vkeys, event.new_vkey)
