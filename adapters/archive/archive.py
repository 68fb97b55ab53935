"""The archive: what its manifest says, how it follows the log, and how it is held against it.

manifest.json               what counts: book, position, root, and each file with its SHA-256
bucket-07-….parquet         the rows of the subjects whose ids begin with those six bits, by subject and position;
                            bucket-64: of nobody; bucket-00-15: of several buckets, in a small book
delta-000000123-….arrow     rows that were added since, of any bucket, by subject and position

All that is derived: where anything of it is not as the manifest says, or the manifest is not of this log, the next
catch-up makes everything anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from tallybook.adapters import merkle
from tallybook.adapters.log import LogRecorder
from tallybook.adapters.notes import Checkpoint
from tallybook.domain.errors import ArchiveError, BookDamaged, NoteError, refusal
from tallybook.projections.read_models import Hold, Progress

from .columns import BUCKETS, FILES, NO_SUBJECT, SCHEMA_VERSION, arrow_schema, fingerprint
from .files import fitted, slimmed, sorted_rows, text_paths, write_parquet
from .manifest import BEHIND, CURRENT, NONE, STALE, ArchiveStatus, ArchiveVerification, File, Manifest
from .places import MANIFEST, Place

if TYPE_CHECKING:
    import pyarrow.dataset as pads

    from .building import Chunk, Spill

pc: Any = pyarrow.compute
"""Its functions are made when it is loaded: no checker sees them."""
CHUNK_ROWS = 8_192
"""So many rows are read at once, where they are read as tuples."""
FILE_ROWS = 32_768
"""Buckets of fewer rows share a file with their neighbours: a file costs some 7,000 bytes before its first row."""
DELTA_ROWS = 200_000
"""How many rows a delta has at most."""
DELTAS_MAX = 16
"""So many small deltas there are at most: one more, and they are joined to one."""
DELTA_SHARE = 0.05
"""Deltas of more than this share of all rows are merged into their buckets by the catch-up that finds them so."""
REBUILD_SHARE = 0.25
"""Where more than this share of the log is new, everything is made anew: that takes less time than merging."""
WAIT_S = 30.0

logger = logging.getLogger("tallybook.archive")


class Archive:
    """The archive of one log, at one place. `sign` gives the signed note of a checkpoint at a position, if it can."""

    def __init__(
        self,
        log: LogRecorder,
        place: Place,
        hold: Callable[[str], Hold | None],
        sign: Callable[[int], str | None] = lambda _: None,
        opened: Callable[[str], tuple[Checkpoint, Any]] | None = None,
    ) -> None:
        self.log = log
        self.place = place
        self._hold = hold
        self._sign = sign
        self._opened = opened
        self._seen: dict[str, tuple[str, object]] = {}
        """Files whose bytes were held against their hash: that, and what tells that nobody wrote to them since."""

    # ── looking ─────────────────────────────────────────────────────────────────────────────────────────────────

    def status(self) -> ArchiveStatus:
        """How it stands: every file is held against its hash. Raises BookDamaged for the log's own sake."""
        head = self.log.position()
        manifest, problem = self._sound(self.place.read(MANIFEST), thorough=True)
        if manifest is None:
            state = STALE if problem else NONE
            return ArchiveStatus(self.place.shown, state, 0, head, 0, 0, 0, 0, 0, "", False, SCHEMA_VERSION, problem)
        state = STALE if problem else CURRENT if manifest.position == head else BEHIND
        return ArchiveStatus(
            self.place.shown,
            state,
            manifest.position,
            head,
            manifest.rows,
            len(manifest.files),
            len(manifest.deltas),
            manifest.delta_rows,
            sum(one.bytes for one in (*manifest.files, *manifest.deltas)),
            manifest.root,
            manifest.note is not None,
            manifest.schema,
            problem,
        )

    def exists(self) -> bool:
        """Whether there is one, sound or not."""
        return self.place.read(MANIFEST) is not None

    def manifest(self) -> Manifest:
        """What counts. Raises ArchiveError where there is none, or anything is not as it says."""
        manifest, problem = self._sound(self.place.read(MANIFEST))
        if manifest is None or problem:
            raise self._unusable(problem or "there is none yet")
        return manifest

    def bucket(
        self,
        number: int,
        columns: Sequence[str] | None = None,
        *,
        encoded: bool = False,
        manifest: Manifest | None = None,
    ) -> pa.Table:
        """The rows of a bucket (0 to 63, 64: of nobody) by subject and position, what deltas hold of it included.

        `columns`: only those. `encoded`: texts come as dictionaries. `manifest`: as of that one. Raises ArchiveError.
        """
        if number not in range(FILES):
            raise refusal("invalid_argument", f"There is no bucket {number}; there are 0 to {FILES - 1}.")
        return self.rows((number,), columns, encoded=encoded, manifest=manifest)

    def rows(
        self,
        buckets: Sequence[int],
        columns: Sequence[str] | None = None,
        *,
        encoded: bool = False,
        manifest: Manifest | None = None,
    ) -> pa.Table:
        """The same of several buckets: by subject, those of nobody last, and position."""
        manifest = manifest or self.manifest()
        schema = arrow_schema()
        self.check_columns(columns or ())
        wanted = list(schema.names if columns is None else columns)
        files = [one for one in (*manifest.files, *manifest.deltas) if not set(one.buckets).isdisjoint(buckets)]
        read = list(dict.fromkeys([*wanted, *(("subject_id", "position") if len(files) > 1 else ())]))
        parts = [
            self._read(one, read, encoded)
            if set(one.buckets).issubset(buckets)
            else _of_buckets(self._read(one, [*read, "subject_id"], encoded), buckets)
            for one in files
        ]
        kept = pa.schema([schema.field(name) for name in read])
        parts = [fitted(part, kept, encoded=encoded) for part in parts]
        if not parts:
            return fitted(kept.empty_table(), kept, encoded=encoded).select(wanted)
        table = pa.concat_tables(parts)
        if len(parts) > 1:
            table = sorted_rows(table)
        return (table.unify_dictionaries() if encoded else table).combine_chunks().select(wanted)

    @staticmethod
    def check_columns(names: Sequence[str]) -> None:
        """Refuses: invalid_argument for what is no column."""
        known = set(arrow_schema().names)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise refusal("invalid_argument", f"The archive has no column {', '.join(unknown)}: see docs/archive.md.")

    def dataset(self, manifest: Manifest | None = None) -> pads.Dataset:
        """All rows as one dataset of pyarrow, read when it is asked. Raises ArchiveError."""
        # It loads pandas, where that is installed: a backtest is to have begun by then.
        import pyarrow.dataset as pads

        manifest = manifest or self.manifest()
        filesystem, folder = self.place.for_arrow()
        schema = arrow_schema()
        parts = [
            pads.dataset([f"{folder}/{one.name}" for one in files], schema=schema, format=kind, filesystem=filesystem)
            for files, kind in ((manifest.files, "parquet"), (manifest.deltas, "ipc"))
            if files
        ]
        return pads.dataset(parts) if parts else pads.dataset(schema.empty_table())

    # ── following the log ───────────────────────────────────────────────────────────────────────────────────────

    def catch_up(self, progress: Progress | None = None) -> int:
        """Bring it up to the log; the position reached. What is stale is made anew. Refuses: busy."""
        with self._alone():
            stored = self.place.read(MANIFEST)
            manifest, problem = self._sound(stored)
            head = self.log.head()
            if manifest is None or problem or head.position - manifest.position > REBUILD_SHARE * head.position:
                if problem:
                    logger.warning("The archive %s is made anew: %s.", self.place.shown, problem)
                return self._rebuilt(stored, progress).position
            if head.position > manifest.position:
                manifest = self._extended(manifest, head.position, progress)
                if manifest.root != head.frontier.root().hex():
                    logger.warning(
                        "The archive %s is made anew: the log it was made from is another.", self.place.shown
                    )
                    return self._rebuilt(stored, progress).position
                manifest = replace(self._joined(manifest), note=self._sign(head.position))
                self._swap(stored, manifest)
            if manifest.delta_rows > DELTA_SHARE * manifest.rows:
                self._compacted(self.place.read(MANIFEST), manifest, progress)
            return manifest.position

    def rebuild(self, progress: Progress | None = None) -> int:
        """Make everything anew from the log; the position reached. What is there answers until then. Refuses: busy."""
        with self._alone():
            return self._rebuilt(self.place.read(MANIFEST), progress).position

    def compact(self, progress: Progress | None = None) -> int:
        """Merge all deltas into the buckets that they touch; how many rows those were. Raises ArchiveError.
        Refuses: busy."""
        with self._alone():
            stored = self.place.read(MANIFEST)
            manifest, problem = self._sound(stored)
            if manifest is None or problem:
                raise self._unusable(problem or "there is none yet")
            self._compacted(stored, manifest, progress)
            return manifest.delta_rows

    def _rebuilt(self, stored: bytes | None, progress: Progress | None) -> Manifest:
        head = self.log.head()
        spill = self._spilled(head.position, progress)
        try:
            with ThreadPoolExecutor(2) as pool:
                made = list(pool.map(lambda buckets: self._group_file(spill, buckets), groups_of(spill.counts)))
        finally:
            spill.close()
        manifest = Manifest(
            SCHEMA_VERSION,
            fingerprint(),
            self.log.origin,
            head.position,
            head.frontier.root().hex(),
            head.frontier.packed().hex(),
            self._sign(head.position),
            tuple(one for one in made if one is not None),
            (),
        )
        self._swap(stored, manifest)
        return manifest

    def _group_file(self, spill: Spill, buckets: tuple[int, ...]) -> File | None:
        if not any(spill.counts[number] for number in buckets):
            return None
        from .building import table_of

        table = table_of(spill.buckets(buckets), spill.program, nobody=buckets == (NO_SUBJECT,))
        return self._keep_group(buckets, table)

    def _keep_group(self, buckets: tuple[int, ...], table: pa.Table) -> File:
        written = BytesIO()
        write_parquet(table, written)
        stem = "-".join(f"{one:02}" for one in dict.fromkeys((buckets[0], buckets[-1])))
        return self._keep(f"bucket-{stem}", "parquet", written.getvalue(), table, buckets)

    def _keep(self, stem: str, suffix: str, data: bytes, table: pa.Table, buckets: tuple[int, ...]) -> File:
        digest = sha256(data).hexdigest()
        name = f"{stem}-{digest[:16]}.{suffix}"
        self.place.write(name, data)
        ends = pc.min_max(table["position"]).as_py()
        return File(name, len(table), ends["min"], ends["max"], len(data), digest, buckets)

    def _spilled(self, stop: int, progress: Progress | None, hashed: merkle.Frontier | None = None) -> Spill:
        """All rows up to a position, by bucket; `hashed` takes their leaves in."""
        from .building import SLICE_ROWS, Spill, chunk_of, slices_of

        spill = Spill()
        made = spill.program

        try:
            if hashed is not None:
                for rows in self._rows(0, stop, progress):
                    hashed.append_hashes(merkle.row_hashes(self.log.origin, rows))
                    spill.add(chunk_of(rows, made))
            else:
                done = 0
                for parts in slices_of(
                    self.log, stop, made, lambda after, until: chunk_of(self._whole(after, until), made), spill.apart
                ):
                    spill.keep(*parts)
                    done = min(done + SLICE_ROWS, stop)
                    if progress is not None:
                        progress(done, stop)
        except BaseException:
            spill.close()
            raise
        return spill

    def _rows(self, after: int, stop: int, progress: Progress | None = None) -> Iterator[Sequence[tuple[Any, ...]]]:
        """The rows after a position up to another, chunk by chunk. Raises BookDamaged for a gap."""
        for begin in range(after, stop, CHUNK_ROWS):
            until = min(begin + CHUNK_ROWS, stop)
            yield self._whole(begin, until)
            if progress is not None:
                progress(until - after, stop - after)

    def _whole(self, after: int, stop: int) -> Sequence[tuple[Any, ...]]:
        """The rows after a position up to another. Raises BookDamaged for a gap."""
        rows = self.log.log_rows(after, stop - after, stop)
        if len(rows) != stop - after or rows[0][0] != after + 1 or rows[-1][0] != stop:
            raise BookDamaged(
                f"Of the rows {after + 1:,} to {stop:,} of the log, {len(rows):,} are there.",
                path=self.log.database.place,
                remedy="See what `tallybook doctor` finds, and restore the book from a backup.",
            )
        return rows

    def _extended(self, manifest: Manifest, stop: int, progress: Progress | None) -> Manifest:
        """A manifest with the deltas of what was added since; their files are written."""
        frontier = merkle.Frontier(manifest.position, bytes.fromhex(manifest.frontier))
        pending: list[tuple[Any, ...]] = []
        for rows in self._rows(manifest.position, stop, progress):
            frontier.append_hashes(merkle.row_hashes(self.log.origin, rows))
            pending += rows
            if len(pending) >= DELTA_ROWS or rows[-1][0] == stop:
                added = self._delta(manifest, pending)
                manifest = replace(
                    manifest,
                    position=pending[-1][0],
                    root=frontier.root().hex(),
                    frontier=frontier.packed().hex(),
                    deltas=(*manifest.deltas, added),
                )
                pending = []
        return manifest

    def _delta(self, manifest: Manifest, rows: Sequence[tuple[Any, ...]]) -> File:
        """A delta of rows that follow a manifest's.

        What they refer to may stand before them: the earlier events of the same subjects are read with them, from the
        log, at the positions that the archive tells.
        """
        from .building import chunk_of, prepared, program, table_of

        made = program()
        chunk, buckets = prepared(chunk_of(rows, made), made)
        touched = tuple(sorted(set(buckets.tolist())))
        subjects = {bytes(one) for one in _subjects(chunk)[buckets != NO_SUBJECT]}
        earlier = self._positions(manifest, subjects, touched)
        tables = []
        before = list(self.log.rows_at(earlier)) if earlier else []
        if [row[0] for row in before] != earlier:
            raise BookDamaged(
                "Rows of the log are gone to which the archive leads.",
                path=self.log.database.place,
                remedy="See what `tallybook doctor` finds, and restore the book from a backup.",
            )
        if before:
            chunk, buckets = prepared(chunk_of([*before, *rows], made), made)
        for nobody in (False, True):
            mine = (buckets == NO_SUBJECT) == nobody
            if (mine & (chunk.rows[:, 0] > manifest.position)).any():
                tables.append(table_of(_part(chunk, mine), made, keep=manifest.position, nobody=nobody))
        schema = arrow_schema()
        return self._keep_delta(pa.concat_tables([fitted(one, schema) for one in tables]), touched)

    def _keep_delta(self, table: pa.Table, buckets: tuple[int, ...]) -> File:
        table = slimmed(table.combine_chunks())
        written = BytesIO()
        with ipc.new_file(written, table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        first = pc.min(table["position"]).as_py()
        return self._keep(f"delta-{first:012}", "arrow", written.getvalue(), table, buckets)

    def _joined(self, manifest: Manifest) -> Manifest:
        """A manifest with the small ones of many deltas as one: who catches up often opens no thousand files."""
        small = tuple(one for one in manifest.deltas if one.rows < DELTA_ROWS)
        if len(small) <= DELTAS_MAX:
            return manifest
        schema = arrow_schema()
        tables = [fitted(self._read(one, schema.names, encoded=False), schema) for one in small]
        buckets = tuple(sorted({number for one in small for number in one.buckets}))
        joined = self._keep_delta(sorted_rows(pa.concat_tables(tables)), buckets)
        kept = [one for one in manifest.deltas if one not in small]
        return replace(manifest, deltas=tuple(sorted([*kept, joined], key=lambda one: one.first)))

    def _positions(self, manifest: Manifest, subjects: set[bytes], buckets: Sequence[int]) -> list[int]:
        """The positions of all events of some subjects, and of nobody if that bucket is among the given."""
        table = self.rows(buckets, ["subject_id", "position"], manifest=manifest)
        known = pc.is_in(table["subject_id"], value_set=pa.array(sorted(subjects), pa.binary(16)))
        if NO_SUBJECT in buckets:
            known = pc.or_(known, pc.is_null(table["subject_id"]))
        found: list[int] = np.sort(table.filter(known)["position"].to_numpy()).tolist()
        return found

    def _compacted(self, stored: bytes | None, manifest: Manifest, progress: Progress | None) -> Manifest:
        touched = sorted({bucket for one in manifest.deltas for bucket in one.buckets})
        if not touched:
            return manifest
        kept = [one for one in manifest.files if not set(one.buckets).intersection(touched)]
        groups = [one.buckets for one in manifest.files if one not in kept]
        groups += [(number,) for number in touched if not any(number in group for group in groups)]
        made = []
        for done, group in enumerate(groups, 1):
            table = self.rows(group, encoded=True, manifest=manifest)
            parts = parted(group, len(table))
            for part in parts:
                mine = table if len(parts) == 1 else _of_buckets(table, part)
                if len(mine):
                    made.append(self._keep_group(part, slimmed(mine)))
            if progress is not None:
                progress(done, len(groups))
        files = sorted([*kept, *made], key=lambda one: one.buckets)
        manifest = replace(manifest, files=tuple(files), deltas=())
        self._swap(stored, manifest)
        return manifest

    def _swap(self, stored: bytes | None, manifest: Manifest) -> None:
        """Put a manifest in the place of another, and remove what neither names. Refuses: busy."""
        if self.place.read(MANIFEST) != stored:
            raise refusal("busy", f"Somebody else wrote to the archive {self.place.shown} meanwhile.")
        self.place.write(MANIFEST, manifest.packed())
        named = {one.name for one in (*manifest.files, *manifest.deltas)}
        if stored is not None:
            try:
                before = Manifest.parse(stored)
                named |= {one.name for one in (*before.files, *before.deltas)}  # who reads it now goes on
            except ValueError:
                pass
        ours = [name for name in self.place.names() if name.startswith(("bucket-", "delta-")) or name.endswith(".part")]
        self.place.remove(name for name in ours if name not in named)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """As the only process that writes. Refuses: busy."""
        until = time.monotonic() + WAIT_S
        while (hold := self._hold("archive")) is None:
            if time.monotonic() > until:
                raise refusal("busy", "Another process is writing to the archive.")
            time.sleep(0.05)
        try:
            yield
        finally:
            hold.release()

    # ── being held against it ───────────────────────────────────────────────────────────────────────────────────

    def verify(self, progress: Progress | None = None) -> ArchiveVerification:
        """Derive everything from the log once more, and compare. Raises BookDamaged for the log's own sake."""
        manifest, problem = self._sound(self.place.read(MANIFEST), thorough=True)
        if manifest is None or problem:
            return ArchiveVerification(0, 0, "", (problem or "there is no archive yet",))
        problems: list[str] = []
        frontier = merkle.Frontier()
        spill = self._spilled(manifest.position, progress, frontier)
        try:
            if frontier.root().hex() != manifest.root:
                problems.append(
                    f"{MANIFEST}: the first {manifest.position:,} events of the log have the root "
                    f"{frontier.root().hex()}, and it says {manifest.root}"
                )
            problems += self._note_problem(manifest)
            groups = [one.buckets for one in manifest.files]
            rest = [(number,) for number in range(FILES) if not any(number in group for group in groups)]
            for group in (*groups, *rest):
                problems += self._compare(manifest, spill, group)
        finally:
            spill.close()
        return ArchiveVerification(manifest.position, manifest.rows, manifest.root, tuple(problems))

    def _note_problem(self, manifest: Manifest) -> Iterator[str]:
        """What is wrong with the signed note of a manifest."""
        if manifest.note is None or self._opened is None:
            return
        try:
            told, _ = self._opened(manifest.note)
        except NoteError as error:
            yield f"{MANIFEST}: its checkpoint is none of this book: {error}"
            return
        if (told.size, told.root.hex()) != (manifest.position, manifest.root):
            yield f"{MANIFEST}: its checkpoint is of {told.size:,} events, or of another root"

    def _compare(self, manifest: Manifest, spill: Spill, group: tuple[int, ...]) -> Iterator[str]:
        """The first difference between the buckets of a file and the log."""
        from .building import table_of

        schema = arrow_schema()
        if any(spill.counts[number] for number in group):
            told = table_of(spill.buckets(group), spill.program, nobody=group == (NO_SUBJECT,))
            expected = fitted(told, schema).combine_chunks()
        else:
            expected = schema.empty_table()
        try:
            found = self.rows(group, manifest=manifest)
        except ArchiveError as error:
            yield error.message
            return
        if expected.equals(found):
            return
        low, high = 0, min(len(expected), len(found))
        while low < high:
            middle = (low + high + 1) // 2
            if expected.slice(0, middle).equals(found.slice(0, middle)):
                low = middle
            else:
                high = middle - 1
        log_at: int | None = expected["position"][low].as_py() if low < len(expected) else None
        at: int | None = found["position"][low].as_py() if low < len(found) else None
        there = at if at is not None else log_at
        name = next(
            (
                one.name
                for one in (*manifest.deltas, *manifest.files)
                if not set(one.buckets).isdisjoint(group) and there is not None and one.first <= there <= one.last
            ),
            f"bucket {group[0]}",
        )
        if at == log_at:
            one, other = expected.slice(low, 1).to_pylist()[0], found.slice(low, 1).to_pylist()[0]
            differing = [column for column in one if one[column] != other[column]]
            yield f"{name}: position {at:,} differs from the log in {', '.join(differing)}"
        elif at is None or (log_at is not None and log_at < at):
            yield f"{name}: position {log_at:,} of the log is missing"
        else:
            yield f"{name}: position {at:,} stands where the log has none such"

    # ── whether it can be believed ──────────────────────────────────────────────────────────────────────────────

    def _sound(self, stored: bytes | None, *, thorough: bool = False) -> tuple[Manifest | None, str]:
        """What counts, and what is wrong with it; an empty text: nothing. Neither: there is no archive.

        Every file is there and is what the manifest says; `thorough`: each is read again, even where nobody wrote to it
        since it was read before.
        """
        if stored is None:
            return None, ""
        try:
            manifest = Manifest.parse(stored)
        except ValueError as error:
            return None, str(error)
        problem = self._foreign(manifest) or self._torn(manifest, thorough=thorough)
        return manifest, problem

    def _foreign(self, manifest: Manifest) -> str:
        """Why a manifest is not one of this log, by this release."""
        if (manifest.schema, manifest.columns) != (SCHEMA_VERSION, fingerprint()):
            return (
                f"its columns are those of another release (schema version {manifest.schema}; "
                f"this release writes {SCHEMA_VERSION})"
            )
        if manifest.origin != self.log.origin:
            return f"it is of the book {manifest.origin}, and this one is {self.log.origin}"
        head = self.log.head()
        if manifest.position > head.position:
            return f"it tells of {manifest.position:,} events, and the log ends at {head.position:,}"
        frontier = merkle.Frontier(manifest.position, bytes.fromhex(manifest.frontier))
        if frontier.root().hex() != manifest.root:
            return "its root is not that of the tree that it names"
        if head.position == manifest.position and frontier.root() != head.frontier.root():
            return "the log has another root than that it was made from"
        if sum(one.rows for one in (*manifest.files, *manifest.deltas)) != manifest.position:
            return "its files have not as many rows as the log has events"
        groups = [one.buckets for one in manifest.files]
        parted_once = sum(map(len, groups)) == len({number for group in groups for number in group})
        in_order = all(list(group) == sorted(group) and group for group in groups)
        if not parted_once or not in_order or any(NO_SUBJECT in group and len(group) > 1 for group in groups):
            return "its files do not part the customers"
        return ""

    def _torn(self, manifest: Manifest, *, thorough: bool) -> str:
        """Why a file is not what the manifest says."""
        for one in (*manifest.files, *manifest.deltas):
            token = self.place.token(one.name)
            if self._seen.get(one.name) == (one.sha256, token) and not thorough:
                continue
            data = self.place.read(one.name)
            if data is None:
                return f"{one.name} is missing"
            if len(data) != one.bytes:
                return f"{one.name} has {len(data):,} bytes, and should have {one.bytes:,}"
            if sha256(data).hexdigest() != one.sha256:
                return f"{one.name} was altered: its SHA-256 is another"
            self._seen[one.name] = one.sha256, token
        return ""

    def _read(self, one: File, columns: Sequence[str], encoded: bool) -> pa.Table:
        """Columns of a file, as far as it has them. Raises ArchiveError."""
        data = self.place.read(one.name)
        if data is None or len(data) != one.bytes:
            raise self._unusable(f"{one.name} is {'missing' if data is None else 'torn'}")
        try:
            if one.name.endswith(".arrow"):
                table = ipc.open_file(pa.BufferReader(data)).read_all()
                if len(table) != one.rows:
                    raise ValueError(f"it has {len(table):,} rows, and should have {one.rows:,}")
                return table.select([name for name in table.column_names if name in columns])
            file = pq.ParquetFile(pa.BufferReader(data))
            if file.metadata.num_rows != one.rows:
                raise ValueError(f"it has {file.metadata.num_rows:,} rows, and should have {one.rows:,}")
            if encoded:
                file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=text_paths(file.schema_arrow))
            return file.read(columns=[name for name in file.schema_arrow.names if name in columns])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unusable(f"{one.name} can't be read: {error}") from error

    def _unusable(self, problem: str) -> ArchiveError:
        return ArchiveError(
            f"The archive {self.place.shown} can't be read: {problem}.",
            path=self.place.shown,
            remedy="Run `tallybook archive catch-up`, which makes it anew from the log.",
        )


def groups_of(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Which buckets share a file, by how many rows each has: in a small book, neighbours do."""
    return [*parted(tuple(range(BUCKETS)), sum(counts[:BUCKETS])), (NO_SUBJECT,)]


def parted(buckets: tuple[int, ...], rows: int) -> list[tuple[int, ...]]:
    """Buckets that share a file, in as many parts as make files of a good size; their number is a power of two."""
    parts = 1
    while parts < len(buckets) and rows > FILE_ROWS * parts:
        parts *= 2
    size = len(buckets) // parts
    return [buckets[start : start + size] for start in range(0, len(buckets), size)]


def _subjects(chunk: Chunk) -> Any:
    """The subjects of a chunk's rows, as ids of 16 bytes."""
    return np.ascontiguousarray(chunk.rows[:, 4:6].astype(">u8")).view("V16").reshape(-1)


def _part(chunk: Chunk, mine: Any) -> Chunk:
    """Some rows of a chunk."""
    from .building import Chunk

    rows = chunk.rows[mine]
    lengths = np.diff(chunk.ends, prepend=0)
    return Chunk(rows, np.cumsum(lengths[mine]), chunk.data[np.repeat(mine, lengths)])


def _of_buckets(table: pa.Table, buckets: Sequence[int]) -> pa.Table:
    """The rows of a file that belong to some buckets."""
    if "subject_id" not in table.column_names:
        return table if NO_SUBJECT in buckets else table.slice(0, 0)
    subjects = table["subject_id"].combine_chunks()
    if isinstance(subjects, pa.ChunkedArray):
        subjects = pa.concat_arrays(subjects.chunks)
    nobody = pc.is_null(subjects).to_numpy(zero_copy_only=False)
    raw = np.frombuffer(subjects.buffers()[1], np.uint8)[subjects.offset * 16 : (subjects.offset + len(subjects)) * 16]
    numbers = raw.reshape(-1, 16)[:, 0] >> (8 - (BUCKETS - 1).bit_length())
    return table.filter(pa.array(np.isin(np.where(nobody, NO_SUBJECT, numbers), np.asarray(buckets))))
