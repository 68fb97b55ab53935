"""A disk that forgets: what was not synced when the power goes may be there, be lost, or be torn at 512 bytes.

The model is the one that SQLite names in "Atomic Commit In SQLite" (powersafe overwrite, no order of writes):

- a sync of a file makes all that was written to it before durable, and nothing of other files;
- of the writes since, any subset survives, each sector by itself; where a lost write made the file longer, the new
  bytes may be there without what was written: zeros, or anything;
- a truncation may have happened or not;
- that a file was made or deleted is durable after a sync of its folder: that is the first sync of a journal or a
  write-ahead log by the handle that was to create it, and a deletion that asks for it. Until then, each name by
  itself is as it was at any moment since.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from . import shim

SECTOR = 512
JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
IOERR = {
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "read": apsw.SQLITE_IOERR_READ,
    "create": apsw.SQLITE_CANTOPEN,
    "full": apsw.SQLITE_FULL,
    "readonly": apsw.SQLITE_READONLY,
}


KINDS = {"create": apsw.CantOpenError, "full": apsw.FullError, "readonly": apsw.ReadOnlyError}


def failure(kind: str) -> apsw.Error:
    """The error with which an operation fails."""
    code = IOERR[kind]
    error = KINDS.get(kind, apsw.IOError)(f"made to fail: {kind}")
    error.extendedresult = code  # type: ignore[attr-defined]  # APSW takes the result code from it
    return error


class Content:
    """A file's durable bytes, and what was done to it since: (offset, bytes) or, for a truncation, (size, None)."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = bytearray(durable)
        self.pending: list[tuple[int, bytes | None]] = []

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()

    def after_cut(self, chance: random.Random) -> bytes:
        """The bytes as they may be found after a cut."""
        found = bytearray(self.durable)
        how = chance.choice(("nothing", "all", "prefix", "some", "torn", "torn"))
        kept = chance.randrange(len(self.pending) + 1)
        for number, (offset, data) in enumerate(self.pending):
            survives = (
                how == "all"
                or (how == "prefix" and number < kept)
                or (how in ("some", "torn") and chance.random() < 0.5)
            )
            if data is None:
                if survives:
                    _apply(found, offset, None)
            elif how == "torn":
                for start, end in _sectors(offset, len(data)):
                    if chance.random() < 0.5:
                        _apply(found, start, data[start - offset : end - offset])
            elif survives:
                _apply(found, offset, data)
            elif offset + len(data) > len(found) and how != "nothing" and chance.random() < 0.2:
                more = offset + len(data) - len(found)
                found += chance.choice((bytes, chance.randbytes))(more)
        return bytes(found)


def _apply(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
        return
    if len(image) < offset:
        image += bytes(offset - len(image))
    image[offset : offset + len(data)] = data


def _sectors(offset: int, size: int) -> Iterator[tuple[int, int]]:
    end = offset + size
    while offset < end:
        upto = min(end, (offset // SECTOR + 1) * SECTOR)
        yield offset, upto
        offset = upto


class Disk(apsw.VFS):
    """A file system over real files in one folder that knows what of them is durable.

    `fails(kind, number)` is asked at each operation that changes something, by its number from 1 on; it may raise.
    `reads_fail` is asked at each read.
    """

    def __init__(
        self,
        folder: Path,
        chance: random.Random,
        *,
        fails: Callable[[str, int], None] = lambda kind, number: None,
        reads_fail: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.chance = chance
        self.fails = fails
        self.reads_fail = reads_fail
        self.operations = 0
        self.last = ""
        self.off = False
        self.now: dict[str, Content] = {
            path.name: Content(path.read_bytes()) for path in folder.iterdir() if not path.name.endswith("-shm")
        }
        self.entries: dict[str, list[Content | None]] = {name: [content] for name, content in self.now.items()}
        self.vfs_name = f"forgetful-{os.getpid()}-{id(self)}"
        super().__init__(self.vfs_name, "unix")

    # ── what a cut leaves ───────────────────────────────────────────────────────────────────────────────────────

    def after_cut(self) -> dict[str, bytes]:
        """The files as they may be found after the power went."""
        found: dict[str, bytes] = {}
        for name, states in sorted(self.entries.items()):
            content = self.chance.choice(states)
            if content is not None:
                found[name] = content.after_cut(self.chance)
        return found

    # ── the file system ─────────────────────────────────────────────────────────────────────────────────────────

    def step(self, kind: str, name: str) -> None:
        """An operation that changes a file is about to happen. Raises as `fails` does."""
        if self.off:
            raise failure(kind)
        self.operations += 1
        self.last = f"{kind} {name}"
        self.fails(kind, self.operations)

    def power_off(self) -> None:
        """From now on nothing works."""
        self.off = True

    def sync_folder(self) -> None:
        """Make what was made and deleted durable."""
        self.entries = {name: [content] for name, content in self.now.items()}

    def content(self, name: str) -> Content:
        """What is tracked of a file. One that appeared by another way than this file system is not durable yet."""
        if name not in self.now:
            self.now[name] = Content((self.folder / name).read_bytes())
            self.entries.setdefault(name, [None]).append(self.now[name])
        return self.now[name]

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - APSW's name
        if name is None:
            return apsw.VFSFile("unix", name, flags)
        path = name if isinstance(name, str) else name.filename()
        if not os.path.exists(path) and flags[0] & apsw.SQLITE_OPEN_CREATE:
            self.step("create", os.path.basename(path))
        return DiskFile(self, os.path.basename(path), name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - APSW's name
        name = os.path.basename(filename)
        self.step("delete", name)
        super().xDelete(filename, False)
        if self.now.pop(name, None) is not None:
            self.entries.setdefault(name, [None]).append(None)
        if syncdir:
            self.sync_folder()

    def excepthook(self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: Any) -> bool:
        """Errors that SQLite has no use for, at a close: they are ours."""
        return True

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let every connection that is made within lie on this disk."""
        try:
            with shim.on(self.vfs_name):
                yield
        finally:
            self.unregister()


class DiskFile(apsw.VFSFile):
    """An open file on a disk."""

    def __init__(self, disk: Disk, name: str, where: str | apsw.URIFilename, flags: Sequence[int]) -> None:
        self.disk = disk
        self.name = name
        super().__init__("unix", where, list(flags))
        self.content = disk.content(name)
        # SQLite syncs the folder with the first sync of a journal.
        self.syncs_folder = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & JOURNALS)

    def excepthook(self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: Any) -> bool:
        """As the disk's."""
        return True

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - APSW's name
        if self.disk.off:
            raise failure("read")
        self.disk.reads_fail()
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - APSW's name
        data = bytes(data)
        with self._cut_short(offset, data):
            self.disk.step("write", self.name)
        super().xWrite(data, offset)
        self.content.pending.append((offset, data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - APSW's name
        with self._cut_short(newsize, None):
            self.disk.step("truncate", self.name)
        super().xTruncate(newsize)
        self.content.pending.append((newsize, None))

    def xSync(self, flags: int) -> None:  # noqa: N802 - APSW's name
        self.disk.step("sync", self.name)
        self.content.sync()
        if self.syncs_folder:
            self.syncs_folder = False
            self.disk.sync_folder()

    @contextmanager
    def _cut_short(self, offset: int, data: bytes | None) -> Iterator[None]:
        """If the power goes at this operation, it may have been done all the same, or in part."""
        on = not self.disk.off
        try:
            yield
        except apsw.Error:
            if on and self.disk.off:
                self.content.pending.append((offset, data))
            raise
