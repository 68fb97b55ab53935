"""`book.exports` and `book.audit.export`: what leaves the book for tools of others. Each is recorded as an export."""

from __future__ import annotations

import hashlib
import heapq
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import UUID

from tallybook.adapters import ocel, outputs, pack
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.checkpoints import Checkpoints, Stored
from tallybook.adapters.clear_form import as_json, rfc3339
from tallybook.adapters.cloudevents import cloud_event
from tallybook.adapters.log import EventStore, Row
from tallybook.adapters.notes import Verifier
from tallybook.adapters.ocsf import VERSION as OCSF_VERSION
from tallybook.adapters.ocsf import ocsf_event
from tallybook.adapters.pack import Packed
from tallybook.adapters.sqlite import translated
from tallybook.domain.errors import BookError, SigningKeyMissing, refusal, whole
from tallybook.domain.events import Event, Metadata
from tallybook.domain.personal import Erased, Masked, Personal, Withheld
from tallybook.projections.read_models import Progress, Recorded

from .commands import Desk
from .core import Core
from .release import RELEASE

EVENTS, READS, BOTH = "events", "reads", "both"
REPORT_EVERY = 5_000
PACK_ACTION = "audit.export"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. `digest` is the file's SHA-256, which the log of reads has noted too; `first` and `last` are
    positions of the log of events (0 and 0: none)."""

    file: str
    format: str
    count: int
    first: int
    last: int
    bytes: int
    digest: str


class ExportDesk(Desk):
    """The book in forms that other tools read: without personal values. Each export is recorded."""

    def cloudevents(
        self,
        file: Path | str,
        *,
        after: int = 0,
        until: int | None = None,
        batch: bool = False,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> ExportReport:
        """Write events as CloudEvents 1.0: one in a line, or all as one JSON array (`batch`).

        `after`, `until`: only events after a position, and up to one. A file that is there is refused, unless `replace`
        is given. Raises BookError and its kinds. Refuses: acting_required, invalid_argument.
        """
        acting, until = self._begin("export.cloudevents", after, until)
        name = "cloudevents-1.0-batch" if batch else "cloudevents-1.0"
        with rarely_collecting(), outputs.new_file(file, replace=replace) as part:
            with part.open("wb") as raw:
                lines = _Lines(raw, batch=batch)
                for recorded in _watched(self._history(after, until), until - after, progress):
                    lines.write(cloud_event(recorded, self._core.origin))
                lines.end()
            return self._done(acting, file, part, name, lines.count, after, until)

    def ocsf(
        self,
        file: Path | str,
        *,
        log: str = BOTH,
        after: int = 0,
        until: int | None = None,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> ExportReport:
        """Write events and recorded reads as OCSF 1.8 events, one in a line, by the time when they were recorded.

        `log`: "events", "reads" or "both". `after` and `until` are positions, of one log only. A file that is there is
        refused, unless `replace` is given. Raises BookError and its kinds. Refuses: acting_required, invalid_argument.
        """
        if log not in (EVENTS, READS, BOTH):
            raise refusal("invalid_argument", 'log: "events", "reads" or "both" is wanted.', argument="log")
        if log == BOTH and (after or until is not None):
            raise refusal(
                "invalid_argument",
                "after, until: each log has positions of its own; name one with `log`.",
                argument="log",
            )
        reads_head = self._core.gate.reads.position() if log != EVENTS else 0
        acting, until = self._begin("export.ocsf", after, until, reads_head if log == READS else None)
        with rarely_collecting(), outputs.new_file(file, replace=replace) as part:
            with part.open("wb") as raw:
                lines = _Lines(raw)
                total = until - after + (reads_head if log == BOTH else 0)
                merged = heapq.merge(
                    self._as_ocsf(EVENTS, after, until) if log != READS else iter(()),
                    self._as_ocsf(READS, after, until if log == READS else reads_head) if log != EVENTS else iter(()),
                    key=lambda pair: pair[0],
                )
                for _, event in _watched(merged, total, progress):
                    lines.write(event)
            return self._done(acting, file, part, f"ocsf-{OCSF_VERSION}-{log}", lines.count, after, until)

    def ocel(
        self,
        file: Path | str,
        *,
        sqlite: bool = False,
        after: int = 0,
        until: int | None = None,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> ExportReport:
        """Write customers, tickets, loyalty accounts and orders with their events as an OCEL 2.0 log: JSON, or SQLite.

        `after`, `until`: only events after a position, and up to one; objects are then those that these events name. A
        file that is there is refused, unless `replace` is given. Raises BookError and its kinds. Refuses:
        acting_required, invalid_argument.
        """
        acting, until = self._begin("export.ocel", after, until)
        name = "ocel-2.0-sqlite" if sqlite else "ocel-2.0-json"
        with rarely_collecting(), outputs.new_file(file, replace=replace) as part:
            history = _watched(self._history(after, until), until - after, progress)
            with _sqlite_errors(part):
                if sqlite:
                    count, _ = ocel.write_sqlite(part, history)
                else:
                    with outputs.part_of(part) as database:
                        count, _ = ocel.write_sqlite(database, history)
                        ocel.write_json(part, database)
            return self._done(acting, file, part, name, count, after, until)

    def _begin(self, action: str, after: int, until: int | None, head: int | None = None) -> tuple[Metadata, int]:
        """Who exports, and up to where. Refuses: acting_required, invalid_argument, access_denied."""
        core = self._core
        core.check_open()
        acting = core.acting_now()
        head = core.app.position() if head is None else head
        core.gate.record(core.gate_metadata(acting), action, [], [])  # before anything is told about the log
        until = span(after, until, head)
        return acting, until

    def _history(self, after: int, until: int) -> Iterator[Recorded]:
        core = self._core
        return core.app.decode(core.app.log.iterate(after, stop=until))

    def _as_ocsf(self, log: str, after: int, until: int) -> Iterator[tuple[int, dict[str, Any]]]:
        core = self._core
        store: EventStore = core.app.log if log == EVENTS else core.gate.reads
        policies = core.policies()
        for recorded in core.app.decode(store.iterate(after, stop=until)):
            yield recorded.event.metadata.recorded_us, ocsf_event(recorded, core.origin, log, RELEASE, policies)

    def _done(
        self, acting: Metadata, file: Path | str, part: Path, name: str, count: int, after: int, until: int
    ) -> ExportReport:
        """Record what was written, before it gets its name: without the record nobody gets it."""
        core = self._core
        with part.open("rb") as raw:
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
        first, last = (after + 1, until) if until > after else (0, 0)
        core.gate.exported(
            core.gate_metadata(acting), format=name, digest=digest, count=count, from_position=first, to_position=last
        )
        return ExportReport(str(outputs.named(file, "file")), name, count, first, last, part.stat().st_size, digest)


def span(after: int, until: int | None, head: int) -> int:
    """Up to where to export what follows a position. Refuses: invalid_argument, for what the log has not reached."""
    whole(after, "after", 0, 2**62)
    until = head if until is None else whole(until, "until", 0, 2**62)
    for name, value in (("after", after), ("until", until)):
        if value > head:
            raise refusal("invalid_argument", f"{name}: the log ends at position {head:,}.", argument=name)
    if until < after:
        raise refusal("invalid_argument", "until: it lies before what it is to follow (after).", argument="until")
    return until


def export_pack(
    core: Core,
    folder: Path | str,
    *,
    sealed: bool = True,
    after: int = 0,
    until: int | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Write an auditor's pack (see `book.audit.export`)."""
    core.check_open()
    acting = core.acting_now()
    keys = core.storage.signing or core.storage.pack_signing
    vkeys = core.signed_by().vkeys[::-1]
    if keys is None:
        raise SigningKeyMissing(
            "A pack is signed, and the book is open without its signing key.",
            path=core.storage.url,
            remedy="Open it with its key: see `signing_key` of `tallybook.open`.",
        )
    signer = keys.signer(vkeys[0])
    keyless = core.storage.keyless
    if keyless and not sealed:
        core.check_keys()
    with rarely_collecting(), outputs.new_folder(folder) as part:
        if sealed and not keyless:  # keyless, no look is on record: what he takes is what lies in the files
            core.gate.record(core.gate_metadata(acting), PACK_ACTION, [], [])
        signed = _newest(core.checkpoints[EVENTS], keyless=keyless)
        last = span(after, until, signed.size)
        first = after + 1
        opener = None if sealed else _opener(core, acting, first, last)
        # After the record of this very read, which is to be in it.
        signed_reads = _newest(core.checkpoints[READS], keyless=keyless)
        reads_vkeys = tuple(Verifier(f"{core.origin}/reads", Verifier.parse(one).public).vkey for one in vkeys)
        reads_head = pack.Head(signed_reads.size, signed_reads.root, signed_reads.note, reads_vkeys)
        tiles = core.checkpoints[READS].tiles
        pruned = tiles.log.pruned().position
        pack.write_log(
            part / READS,
            core.gate.reads,
            reads_head,
            first=pruned + 1,
            pruned=map(tiles.kept, range(pruned // pack.WIDTH)),
        )
        swept = core.reads_pruned()
        if swept is not None:
            if swept.position > signed.size:  # another process carried it out meanwhile: the pack's tree is to hold it
                signed = _newest(core.checkpoints[EVENTS], keyless=keyless)
            if swept.position <= signed.size:
                pack.write_swept(part / READS, *core.proof_of(swept.position, signed))
        head = pack.Head(signed.size, signed.root, signed.note, tuple(vkeys))
        documents = pack.write_log(part, core.app.log, head, first=first, last=last, opener=opener, progress=progress)
        events = core.checkpoints[EVENTS]
        steps = [
            (one, events.proof(one.position, one.both).text)
            for one in events.rotations()
            if one.both is not None and one.both.size <= signed.size
        ]
        pack.write_rotations(part, core.app.log, steps)
        for log, where in ((EVENTS, part), (READS, part / READS)):
            pack.write_cosigned(where, core.checkpoints[log].genuine())
        pack.write_documents(part, documents)
        pack.write_code(part)
        personal = "sealed" if sealed else "clear"
        pack.write_guide(
            part,
            {
                "origin": core.origin,
                "size": signed.size,
                "reads": signed_reads.size,
                "first": first,
                "last": last,
                "personal": personal,
                "release": RELEASE,
                "vkey": vkeys[0],
            },
        )
        sums = pack.sums_of(part)
        digest = hashlib.sha256(sums.encode()).hexdigest()
        count = last - first + 1
        from_position, to_position = (first, last) if count else (0, 0)
        if not keyless:
            core.gate.exported(
                core.gate_metadata(acting),
                format=f"pack-{personal}",
                digest=digest,
                count=count,
                from_position=from_position,
                to_position=to_position,
            )
        says = {
            "origin": core.origin,
            "made": rfc3339(core.now_us()),
            "positions": f"{first}-{last}",
            "reads": f"{pruned + 1}-{signed_reads.size}",
            "personal": personal,
            "release": RELEASE,
        }
        pack.write_manifest(part, sums, says, signer)
        files = sum(1 for path in part.rglob("*") if path.is_file())
    place = str(outputs.named(folder, "folder"))
    return Packed(
        place, core.origin, signed.size, signed.root.hex(), first, last, signed_reads.size, personal, digest, files
    )


def _newest(checkpoints: Checkpoints, *, keyless: bool) -> Stored:
    """A checkpoint of now; in a book that signs none, the last one that is there, by the book's own key.

    Raises BookError where there is none.
    """
    if not keyless:
        return checkpoints.sign()
    last = checkpoints.last()
    if last is None:
        raise BookError(
            f"No checkpoint of {checkpoints.name} was signed yet, and without the data keys none is.",
            path=checkpoints.log.database.place,
            remedy="Open the book with its keys.",
        )
    return last


def _opener(core: Core, acting: Metadata, first: int, last: int) -> pack.Opener:
    """What opens the personal fields of rows, under one record of all subjects and fields."""
    subjects: dict[UUID, set[int]] = {}
    fields: set[str] = set()
    for _, event in core.app.decode(core.app.log.iterate(first - 1, stop=last)):
        for handle in _handles(event).values():
            assert handle.sealed is not None
            subjects.setdefault(handle.sealed.subject_id, set()).add(handle.sealed.key_id)
            fields.add(handle.known_as)
    release = core.gate.bulk(core.gate_metadata(acting), PACK_ACTION, subjects, sorted(fields))

    def opened(rows: Sequence[Row]) -> list[dict[str, Any]]:
        events = list(core.app.decode(rows))
        values = release(
            {(position, name): handle for position, event in events for name, handle in _handles(event).items()}
        )
        return [
            {
                name: _shown(value)
                for name in event.personal_fields
                if (position, name) in values and not isinstance(value := values[position, name], Withheld)
            }
            for position, event in events
        ]

    return opened


def _shown(value: object) -> object:
    """A released value as it stands in a pack: null where it was erased, `{"masked": …}` for a part of it."""
    if isinstance(value, Erased):
        return None
    return {"masked": value.text} if isinstance(value, Masked) else value


def _handles(event: Event) -> dict[str, Personal[Any]]:
    held = event.__dict__
    return {name: held[name] for name in event.personal_fields if held[name] is not None}


class _Lines:
    """JSON values in a file: one in a line, or together an array."""

    def __init__(self, file: BinaryIO, *, batch: bool = False) -> None:
        self._file = file
        self._batch = batch
        self.count = 0
        if batch:
            file.write(b"[")

    def write(self, value: Any) -> None:
        """Add a value."""
        line = as_json(value)
        if self._batch:
            line = (b",\n" if self.count else b"\n") + line.removesuffix(b"\n")
        self._file.write(line)
        self.count += 1

    def end(self) -> None:
        """Finish what is an array."""
        if self._batch:
            self._file.write(b"\n]\n")


T = TypeVar("T")


def _watched(values: Iterator[T], total: int, progress: Progress | None) -> Iterator[T]:
    done = 0
    for done, value in enumerate(values, 1):
        if progress and done % REPORT_EVERY == 0:
            progress(done, max(total, done))
        yield value
    if progress:
        progress(done, done)


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, str(path)) from error


__all__ = ["ExportDesk", "ExportReport", "Packed", "export_pack"]
