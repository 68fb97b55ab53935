"""`book.archive`: the clear columns of the log as Parquet, and the analyst's door to them. Needs the extra `replay`."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tallybook.adapters.archive.columns import BUCKETS
from tallybook.adapters.archive.columns import columns as all_columns
from tallybook.adapters.archive.manifest import ArchiveStatus, ArchiveVerification
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.log import Tail
from tallybook.adapters.storage import archive_beside, file_of
from tallybook.domain.errors import BookClosed, BookError, MissingExtra, Refused, listed, refusal, whole
from tallybook.projections.read_models import Progress

from .commands import Desk
from .core import Core

if TYPE_CHECKING:
    from tallybook.adapters.archive.archive import Archive
    from tallybook.adapters.archive.manifest import Manifest
    from tallybook.adapters.archive.replay_cache import ReplayCache

__all__ = ["ArchiveDesk", "Scan"]

SECONDS_MAX = 1e9
_PACKAGES = ("pyarrow", "numpy", "numba", "llvmlite", "fsspec")


def missing_extra(error: ImportError) -> MissingExtra:
    """What to install, where one of the packages of the extra `replay` is not there. Raises the error of any other."""
    package = (error.name or "").partition(".")[0]
    if package not in _PACKAGES:
        raise error
    return MissingExtra(package, "replay")


class ArchiveDesk(Desk):
    """The archive: the clear columns of all events, in files beside the book or wherever it was opened with `archive`.

    It holds no personal value, sealed or not, and no key. All of it is derived from the log: it can be deleted.
    """

    _name = "archive"

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._made: Archive | None = None

    def status(self) -> ArchiveStatus:
        """How the archive stands: none, current, behind the log, or stale and why. All files are held against their
        hashes. Raises MissingExtra, BookError."""
        return self._archive().status()

    def catch_up(self, progress: Progress | None = None) -> int:
        """Bring the archive up to the log; the position reached. One that is not there, or of which anything is
        missing, torn or another's, is made anew. Raises MissingExtra, BookError. Refuses: busy."""
        with rarely_collecting():
            return self._archive().catch_up(progress)

    def follow(self, *, every_s: float = 1.0, timeout_s: float | None = None) -> Generator[int, None, None]:
        """Keep the archive up with the log: the position after each catch-up, as events come.

        To be iterated in a process or thread of its own: there, in the background, what was added is merged into the
        files, and whoever scans or replays meanwhile has little to catch up with. It catches up every `every_s` seconds
        at most. Ends when the book is closed, and when nothing came for `timeout_s`. While another writes to the
        archive, it waits. Raises MissingExtra, BookError. Refuses: invalid_argument.
        """
        self._archive()
        for name, given in (("every_s", every_s), ("timeout_s", 0 if timeout_s is None else timeout_s)):
            if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < SECONDS_MAX:
                raise refusal("invalid_argument", f"{name}: seconds, 0 or more, are wanted.", argument=name)
        return self._followed(every_s, timeout_s)

    def _followed(self, every_s: float, timeout_s: float | None) -> Generator[int, None, None]:
        tail = Tail(self._core.app.log, 0)
        try:
            while True:
                began = time.monotonic()
                try:
                    tail.after = self.catch_up()
                except Refused as refused:
                    if refused.code != "busy":
                        raise
                else:
                    yield tail.after
                    if not tail.pull(timeout_s):
                        return
                time.sleep(max(0.0, began + every_s - time.monotonic()))
        except BookClosed:
            return
        finally:
            tail.close()

    def rebuild(self, progress: Progress | None = None) -> int:
        """Make the archive anew from the log; the position reached. What is there answers until it is done.
        Raises MissingExtra, BookError. Refuses: busy."""
        with rarely_collecting():
            return self._archive().rebuild(progress)

    def compact(self, progress: Progress | None = None) -> int:
        """Merge what was added since into the files of its customers; how many events that were. Catching up does it
        by itself once they are more than a twentieth. Raises MissingExtra, ArchiveError. Refuses: busy."""
        return self._archive().compact(progress)

    def verify(self, progress: Progress | None = None) -> ArchiveVerification:
        """Derive the archive from the log once more and compare, event by event; and its root with the log's tree.
        Raises MissingExtra, BookError."""
        with rarely_collecting():
            return self._archive().verify(progress)

    def bucket(self, number: int, columns: Sequence[str] | None = None, *, encoded: bool = False) -> Any:
        """A `pyarrow.Table` of the events of the customers whose ids begin with the six bits of a number (0 to 63; 64:
        of events about nobody), by customer and position. `columns`: only these. `encoded`: texts as dictionaries.

        As of the last catch-up. Raises MissingExtra, ArchiveError. Refuses: invalid_argument.
        """
        archive = self._archive()
        whole(number, "number", 0, BUCKETS)
        wanted = None if columns is None else listed(columns, "columns", "columns")
        return archive.bucket(number, wanted, encoded=encoded)

    def scan(self, *, names: Sequence[str] | None = None, columns: Sequence[str] | None = None) -> Scan:
        """The events as columns, for Polars, DuckDB or Arrow; docs/archive.md tells the columns. The archive is brought
        up to the log first.

        `names`: only events of these stored names. `columns`: only these columns. Raises MissingExtra, BookError.
        Refuses: invalid_argument, busy.
        """
        archive = self._archive()
        kinds = all_columns().fields
        wanted_names = None if names is None else listed(names, "names", "stored names")
        for name in wanted_names or ():
            if name not in kinds:
                raise refusal("invalid_argument", f"There is no event {name!r}: docs/events.md lists them.")
        wanted = None if columns is None else listed(columns, "columns", "columns")
        archive.check_columns(wanted or ())
        with rarely_collecting():
            archive.catch_up()
        return Scan(archive.dataset(), wanted_names, wanted)

    def _archive(self) -> Archive:
        core = self._core
        core.check_open()
        if self._made is None:
            try:
                from tallybook.adapters.archive.archive import Archive
                from tallybook.adapters.archive.places import place_of
            except ImportError as missing:
                raise missing_extra(missing) from missing
            checkpoints = core.checkpoints["events"]
            self._made = Archive(
                core.app.log, place_of(self._place()), core.storage.models.hold, self._note, checkpoints.opened
            )
        return self._made

    def _place(self) -> str | Path:
        given = self._core.archive
        if given is not None:
            return given
        path = file_of(self._core.storage.url)
        if path is None:
            raise BookError(
                "No place for the archive is known: only a book in a file has one beside it.",
                path=self._core.storage.url,
                remedy='Open the book with `archive="…"`, a folder or a URL; or give --archive or TALLYBOOK_ARCHIVE.',
            )
        return archive_beside(path)

    def _note(self, position: int) -> str | None:
        """The signed checkpoint of a size, if the book signs any, and the log is still of that size."""
        checkpoints = self._core.checkpoints["events"]
        last = checkpoints.last()
        if last is None or last.size != position:
            if self._core.storage.signing is None:
                return None
            last = checkpoints.sign()
        return last.note if last.size == position else None


def facts_kept(desk: ArchiveDesk, *, shared: bool = False) -> tuple[ReplayCache, Manifest] | None:
    """The facts that replays read, of an archive that is there, brought up to the log; None: there is none. `shared`:
    they lie where the archive does. Raises MissingExtra, BookError. Refuses: busy."""
    archive = desk._archive()
    if not archive.exists():
        return None
    from tallybook.adapters.archive.replay_cache import ReplayCache

    with rarely_collecting():
        archive.catch_up()
    return ReplayCache(archive, shared=shared), archive.manifest()


class Scan:
    """Events as columns, as of one position of the log. Read when it is asked, and only what is asked for."""

    def __init__(self, dataset: Any, names: Sequence[str] | None, columns: Sequence[str] | None) -> None:
        self._dataset = dataset
        self._names = names
        self._columns = columns

    def dataset(self) -> Any:
        """A `pyarrow.dataset.Dataset`, with all columns; filtered by the names."""
        if self._names is None:
            return self._dataset
        import pyarrow.compute as pc

        return self._dataset.filter(pc.field("stored_name").isin(list(self._names)))

    def arrow(self) -> Any:
        """A `pyarrow.Table`: all of it in memory."""
        return self.dataset().to_table(columns=None if self._columns is None else list(self._columns))

    def polars(self) -> Any:
        """A `polars.LazyFrame`. Raises MissingExtra."""
        try:
            import polars
        except ImportError as missing:
            raise MissingExtra("polars", "analysis") from missing
        frame = polars.scan_pyarrow_dataset(self._dataset)
        if self._names is not None:
            frame = frame.filter(polars.col("stored_name").is_in(list(self._names)))
        return frame if self._columns is None else frame.select(self._columns)

    def duckdb(self, connection: Any = None) -> Any:
        """A `duckdb.DuckDBPyRelation`, in a connection of yours or DuckDB's own. Raises MissingExtra."""
        try:
            import duckdb
        except ImportError as missing:
            raise MissingExtra("duckdb", "analysis") from missing
        relation = (connection or duckdb).from_arrow(self.dataset())
        if self._columns is None:
            return relation
        return relation.select(*(duckdb.ColumnExpression(name) for name in self._columns))
