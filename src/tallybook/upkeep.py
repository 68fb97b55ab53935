"""What whoever runs a book does to one that is not open: `tallybook.restore`, `tallybook.doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tallybook.adapters import backup
from tallybook.adapters.backup import RestoreReport
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.doctor import Finding, examine
from tallybook.adapters.storage import beside, file_of
from tallybook.adapters.wrapping import WrappingKeys
from tallybook.domain.errors import KeysMissing
from tallybook.projections.projector import Status
from tallybook.projections.read_models import Progress

from .book import Book
from .book import open as open_book


def restore(
    file: Path | str,
    url: str,
    *,
    keys: Path | str | None = None,
    wrapping_key: Path | str | WrappingKeys | None = None,
    signing_key: Path | str | None = None,
    checkpoint: tuple[int, str] | None = None,
    progress: Progress | None = None,
) -> RestoreReport:
    """Put a book back from a backup, at a place where there is none. All of it is verified first.

    `keys` is a copy of its keys; by default they lie beside the place already. `wrapping_key` is where the key lies
    that those are wrapped under, by default `….wrapping-key` beside the place: no backup holds it. `signing_key` is a
    copy of the key that signs its checkpoints, to be put in its place; by default, the one that `backup_keys` put
    beside `keys`. A log of reads that lies there is kept if it goes on from the backup's. `checkpoint` is a position
    with the root (hex) that was noted for it: the restored log must reach and reproduce it. Raises BookError and its
    kinds: NotABook, NewerBook, BookDamaged, BookFull, KeysMissing, ReadsMissing; nothing is then put in place.
    """
    with rarely_collecting():
        return backup.restore(
            file,
            url,
            keys=keys,
            wrapping_key=wrapping_key,
            signing_key=signing_key,
            checkpoint=checkpoint,
            progress=progress,
        )


def doctor(
    url: str,
    *,
    quick: bool = False,
    progress: Progress | None = None,
    wrapping_key: Path | str | WrappingKeys | None = None,
    signing_key: Path | str | None = None,
    read_models: str | None = None,
    lock_timeout_s: int = 30,
) -> list[Finding]:
    """Check a book that need not be fit to be opened; see `Book.doctor`, and `tallybook.open` for the last four.

    Its files are looked at for reading only. It is opened at the end, for its read models, if nothing failed before.
    A book on a server is opened at once, without its data keys where they are not at hand. Raises BookNotFound where
    there is nothing of a book.
    """
    path = file_of(url)

    def opened(*, keyless: bool = False) -> Book:
        return open_book(
            url,
            create=False,
            lock_timeout_s=lock_timeout_s,
            wrapping_key=wrapping_key,
            read_models=read_models,
            signing_key=signing_key,
            keyless=keyless,
        )

    if path is None or not any(one.exists() for one in (path, *beside(path))):
        try:
            book = opened()
        except KeysMissing:
            book = opened(keyless=True)
        with book:
            return book.doctor(quick=quick, progress=progress)

    def status() -> Sequence[Status]:
        with opened() as book:
            return book.projections.status()

    with rarely_collecting():
        return examine(
            path,
            status,
            quick=quick,
            progress=progress,
            lock_timeout_s=lock_timeout_s,
            models_elsewhere=read_models is not None,
            wrapping_key=wrapping_key,
            signing_key=signing_key,
        )
