"""What whoever runs a book does to one that is not open: `tallybook.restore`."""

from __future__ import annotations

from pathlib import Path

from tallybook.adapters import backup
from tallybook.adapters.backup import RestoreReport
from tallybook.projections.read_models import Progress

from .bulk import rarely_collecting


def restore(
    file: Path | str,
    url: str,
    *,
    keys: Path | str | None = None,
    checkpoint: tuple[int, str] | None = None,
    progress: Progress | None = None,
) -> RestoreReport:
    """Put a book back from a backup, at a place where there is none. All of it is verified first.

    `keys` is a copy of its keys; by default they lie beside the place already. A log of reads that lies there is kept
    if it goes on from the backup's. `checkpoint` is a position with the root (hex) that was noted for it: the restored
    log must reach and reproduce it. Raises BookError and its kinds: NotABook, NewerBook, BookDamaged, BookFull,
    KeysMissing, ReadsMissing; nothing is then put in place.
    """
    with rarely_collecting():
        return backup.restore(file, url, keys=keys, checkpoint=checkpoint, progress=progress)
