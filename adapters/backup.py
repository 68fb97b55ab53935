"""Backups of a book in files: one file with the log, its read models and the log of reads, as of one moment. Never with
a key; keys are copied apart. Restoring verifies all of it before anything is put in its place.

A file is written under a name of its own beside its place, brought to the disk, and then linked into its place: what
has the right name is whole. A file that a kill left (`*.part`) is removed by the next backup or restore to the same
place, once it is a day old.

A backup's last bytes are an HMAC of all others, under a key that is made of the book's look-up key. So what the Merkle
roots don't cover (read models, claims, receipts) comes back as it was written, or not at all.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import BinaryIO, Protocol
from uuid import UUID

from tallybook.domain.customer import KeyCreated
from tallybook.domain.erasure import KEPT_KEY, ORDINARY_KEY
from tallybook.domain.errors import (
    BookDamaged,
    BookError,
    BookFull,
    KeysMissing,
    NotABook,
    ReadsMissing,
)
from tallybook.projections.read_models import Progress

from .checkpoints import CHECKPOINTS, Checkpoints, signed_by
from .codec import EventMapper
from .database import check_format, marks
from .files import is_ours
from .form import known_uuid
from .integrity import outline, root_at, verify
from .key_tables import FileKeyStore, WrappedKeyStore
from .keys import KEYS_APPLICATION_ID, KeyName, Keyring, MemoryKeyStore, commitment, secret
from .log import HEAD, PRUNED, LogRecorder, head_key, log_of
from .outputs import named, part_of, publish, there_already, trouble
from .signing import read_file, write_file
from .sqlite import DIALECT, SQLiteDatabase, translated
from .storage import (
    APPLICATION_ID,
    LOOKUP,
    READS_APPLICATION_ID,
    READS_TABLE,
    SIGNING,
    Storage,
    beside,
    check_lookup_key,
    check_notes,
    file_of,
    make_log_file,
    noted,
    signing_file,
    wrapping_key_beside,
)
from .tiles import TILES, TileStore
from .wrapping import WrappingKeys, wrapping_keys

BACKUP_APPLICATION_ID = 0x7A11B010
PAGES_A_STEP = 4096

EXAMINE = "See what `tallybook doctor` finds; restore the book from a backup."
SEAL_BYTES = sha256().digest_size
ANOTHER = "Use another backup; nothing was changed."

_TROUBLE_OF_THE_PLACE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds. `position` and `root` name the log's state: keep them elsewhere, and give them to `restore`.

    `reads` counts the records of the log of reads. `digest` is the SHA-256 of the file, in hex: so is it on record.
    """

    path: str
    position: int
    root: str
    reads: int
    bytes: int
    digest: str
    seconds: float


@dataclass(frozen=True, slots=True)
class KeysReport:
    """What a copy of the wrapped keys holds. Whoever has it, the wrapping key and a backup can read everything.

    `digest` is the SHA-256 of the file, in hex: so is it on record.
    `wrapping` is the fingerprint of the wrapping key that opens it: with the next erasure or rotation, the book has
    another. `signing_key` is the copy of the signing key; None: none was made, since it lies in no file, or the book is
    open without.
    """

    path: str
    subjects: int
    bytes: int
    digest: str
    wrapping: str
    signing_key: str | None


class Recording(Protocol):
    """Puts a copy on record."""

    def __call__(self, digest: str, count: int, position: int) -> None:
        """`count` is of its events, or of its keys; `position` the last one that it holds."""
        ...


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored. Of `subjects`, `erased` were erased, by what the log or the keys tell; `lost` have no key that
    would open their personal values, though nobody erased them.
    """

    path: str
    position: int
    root: str
    reads: int
    subjects: int
    erased: tuple[UUID, ...]
    lost: tuple[UUID, ...]
    seconds: float


# ── backup ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def back_up(
    storage: Storage,
    file: Path | str,
    *,
    replace: bool = False,
    progress: Progress | None = None,
    recorded: Recording,
) -> BackupReport:
    """Copy the log, its read models and the log of reads into one file, while others write.

    The reads are looked at first: each of them is about events that the copy of the log holds. The file has its name
    when `recorded` has put it on record. Raises BookError.
    """
    started = perf_counter()
    events, reads = _in_file(storage.events), _in_file(storage.reads)
    target = _target(file, Path(events.name), replace)
    with (
        _errors(target),
        part_of(target, 0o600) as part,
        _snapshot(reads) as looked,
        _snapshot(events) as logged,
        _errors(target),
    ):
        needed = _size(looked) + _size(logged)
        _must_fit(target, needed)
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            with _source_errors(Path(events.name), EXAMINE):
                _copy_pages(logged, copy, progress)
            copy.execute("BEGIN IMMEDIATE")
            for statement in LogRecorder(reads, READS_TABLE).definitions():
                copy.execute(statement.format_map(DIALECT))
            with _source_errors(Path(reads.name), EXAMINE):
                _copy_reads(looked, copy)
            copy.execute(f"PRAGMA application_id={BACKUP_APPLICATION_ID}")
            copy.execute("COMMIT")
            with _source_errors(Path(events.name), EXAMINE):
                _must_be_sound(copy, "quick_check")
        with closing(SQLiteDatabase(str(part), read_only=True)) as written:
            head, wrong = outline(log_of(written, storage.keys))
            seen, also_wrong = outline(log_of(written, storage.keys, READS_TABLE))
        if wrong or also_wrong:
            raise _damaged(Path(reads.name if wrong is None else events.name), wrong or also_wrong or "", EXAMINE)
        _seal(part, storage.keys.lookup_key)
        size, digest = part.stat().st_size, _digest(part)
        recorded(digest, head.position, head.position)
        publish(part, target, replace=replace)
    root = head.frontier.root().hex()
    return BackupReport(str(target), head.position, root, seen.position, size, digest, perf_counter() - started)


def _digest(file: Path) -> str:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def back_up_keys(storage: Storage, file: Path | str, *, replace: bool = False, recorded: Recording) -> KeysReport:
    """Copy the key file, and beside it that of the signing key, for their owner's eyes only. Keep them apart from the
    book's backups, and for a short time.

    Take it after the backup that it belongs to: a key is there before any event that needs it. Raises BookError.
    """
    keys = storage.keys
    if not isinstance(keys, FileKeyStore):
        raise BookError(
            "The keys of this book lie in no file that could be copied.",
            path=storage.url,
            remedy="Copy them by the means of the place where they lie.",
        )
    target = _target(file, _book_of(keys.path), replace)
    with _errors(target), part_of(target, 0o600) as part:
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            with _source_errors(keys.path, EXAMINE):
                keys.copy_to(copy)
                _must_be_sound(copy, "integrity_check")
            [(subjects,)] = copy.execute("SELECT COUNT(*) FROM data_keys WHERE destroyed=0").fetchall()
            [(wrapping,)] = copy.execute("SELECT wrapping_key FROM book_keys").fetchall()
        size, digest = part.stat().st_size, _digest(part)
        recorded(digest, subjects, 0)
        publish(part, target, replace=replace)
        copied = storage.signing is not None and storage.signing.copy_to(signing_file(target))
    signing = str(signing_file(target)) if copied else None
    return KeysReport(str(target), subjects, size, digest, wrapping.hex(), signing)


# ── restore ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    """Put a book back from a backup, at a place where there is none, after all of it was verified.

    `signing_key` is a copy of the key that signs its checkpoints, to be put in its place; by default, one that lies
    beside `keys`, if there is one.

    The keys are those of a copy (`keys`), or those that lie beside the place already; so is the wrapping key. A log of
    reads that lies there is kept, if it goes on from the backup's. `checkpoint`: a position and a root (hex) kept
    elsewhere, that the log must reach and reproduce. Raises BookError and its kinds; nothing is put in place then.
    """
    started = perf_counter()
    source = named(file, "file")
    path = _free_place(url)
    keys_path, reads_path = beside(path)
    source_of_wrapping = wrapping_keys(wrapping_key, wrapping_key_beside(path))
    origin, known_key = _must_be_backup(source)
    given = None if keys is None else named(keys, "keys")
    if given == keys_path:
        given = None
    lookup_key = _must_be_keys(given or keys_path, source_of_wrapping, origin, theirs=given is None)
    check_lookup_key(known_key, lookup_key, given or keys_path)
    _must_be_sealed(source, lookup_key)
    there = is_ours(reads_path, READS_APPLICATION_ID, "log of reads")
    signer = _signer(signing_key, given)
    with _errors(path), ExitStack() as parts:
        _must_fit(path, source.stat().st_size)
        book_part = parts.enter_context(part_of(path, 0o666))
        reads_part = parts.enter_context(part_of(reads_path, 0o666))
        _take_apart(source, book_part, reads_part, origin, progress)
        keys_part = keys_path
        if given is not None:
            keys_part = parts.enter_context(part_of(keys_path, 0o600))
            with closing(_read_only(given)) as copied, closing(sqlite3.connect(keys_part)) as copy:
                copied.backup(copy)
        with (
            closing(SQLiteDatabase(str(book_part), read_only=True)) as events,
            closing(SQLiteDatabase(str(reads_part), read_only=True)) as reads,
            closing(FileKeyStore(keys_part, source_of_wrapping)) as store,
        ):
            log, seen = log_of(events, store), log_of(reads, store, READS_TABLE)
            vkey = noted(events, SIGNING)
            position, root = _must_hold(source, "log", log, progress, log, vkey)
            count, reads_root = _must_hold(source, "log of reads", seen, None, log, vkey)
            if checkpoint is not None:
                _must_reach(source, log, position, checkpoint)
            subjects, erased, lost = _must_match(log, store, given or keys_path)
        for part in (book_part, reads_part):
            with closing(sqlite3.connect(part)) as one:
                one.execute("PRAGMA journal_mode=WAL")
        if there:
            count = _must_go_on(reads_path, origin, head_key(lookup_key), count, reads_root)
        # Subjects that the lost log had erased since the backup are to be shredded again here, before the book opens.
        if given is not None:
            _publish_keys(keys_part, keys_path, source_of_wrapping)
        if signer is not None and not signing_file(path).exists():
            write_file(signing_file(path), signer, replace=False)
        if not there:
            publish(reads_part, reads_path)
        publish(book_part, path)  # last: before this, there is no book at the place that could be opened
    return RestoreReport(str(path), position, root, count, subjects, erased, lost, perf_counter() - started)


def _free_place(url: str) -> Path:
    path = file_of(url)
    if path is None:
        raise BookError(
            "A backup is restored to files, and the URL names none.",
            remedy='Write "sqlite:///shop.book". To PostgreSQL, pg_restore puts it back: see docs/operations.md.',
        )
    if not path.parent.is_dir():
        raise BookError(f"The folder {path.parent} is not there.", path=str(path), remedy="Make it first.")
    left = [path, *_journals(path)]
    for one in beside(path):
        if not one.exists():
            left += _journals(one)  # SQLite would take it for the journal of the file that is restored
    for one in left:
        if one.exists() and (one == path or one.stat().st_size):
            raise BookError(
                f"{one} is there already.",
                path=str(one),
                remedy="Restore to another place, or move the old book away with all of its files.",
            )
    return path


def _signer(signing_key: Path | str | None, keys: Path | None) -> str | None:
    """The signing key that goes with a backup; None: it lies in its place already, or elsewhere."""
    if signing_key is not None:
        return read_file(named(signing_key, "signing_key"))
    if keys is not None:
        for one in (signing_file(keys), signing_file(_book_of(keys))):
            if one.exists():
                return read_file(one)
    return None


def _journals(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]


def _seal(part: Path, lookup_key: bytes) -> None:
    with part.open("r+b") as file:
        seal = _hmac(file, part.stat().st_size, lookup_key)
        file.write(seal)


def _must_be_sealed(source: Path, lookup_key: bytes) -> None:
    """Raises BookDamaged unless each byte is what `back_up` has written."""
    try:
        with source.open("rb") as file:
            found = _hmac(file, source.stat().st_size - SEAL_BYTES, lookup_key)
            sealed = hmac.compare_digest(file.read(), found)
    except OSError as error:
        raise _unreadable(source, error.strerror or str(error)) from error
    if not sealed:
        raise _damaged(source, "its bytes are not those that were written", ANOTHER)


def _hmac(file: BinaryIO, length: int, lookup_key: bytes) -> bytes:
    """Of the first bytes of a file, which is read on from there."""
    sealing = hmac.new(secret(lookup_key, "backup"), digestmod=sha256)
    while length > 0 and (chunk := file.read(min(length, 2**20))):
        sealing.update(chunk)
        length -= len(chunk)
    return sealing.digest()


def _must_be_backup(source: Path) -> tuple[str, str | None]:
    """The origin of the book that a backup is of, and its commitment to the look-up key. Looks at some pages only."""
    try:
        with closing(_immutable(source)) as backup:
            [(found,)] = backup.execute("PRAGMA application_id").fetchall()
            [(version,)] = backup.execute("PRAGMA user_version").fetchall()
            if found != BACKUP_APPLICATION_ID:
                what = "a book, or a plain copy" if found == APPLICATION_ID else "an SQLite file of something else"
                raise NotABook(
                    f"{source} is {what}, and no backup.",
                    path=str(source),
                    remedy="Name a file that `tallybook backup` made.",
                )
            check_format(version, str(source))
            notes = dict(backup.execute("SELECT name, value FROM book").fetchall())
            if "origin" not in notes:
                raise _damaged(source, "it does not say which book it is of", ANOTHER)
            return str(notes["origin"]), notes.get(LOOKUP)
    except sqlite3.OperationalError as error:
        raise _unreadable(source, str(error)) from error
    except sqlite3.DatabaseError as error:
        if _code(error) == sqlite3.SQLITE_NOTADB:
            raise NotABook(
                f"{source} is no backup: it is no SQLite file.",
                path=str(source),
                remedy="Name a file that `tallybook backup` made.",
            ) from error
        raise _damaged(source, str(error), ANOTHER) from error


def _must_be_keys(path: Path, source: WrappingKeys, origin: str, *, theirs: bool) -> bytes:
    """The look-up key in a book's key file. `theirs`: it lies in its place, and may have a hot journal.

    Raises KeysMissing.
    """
    if theirs:
        with closing(FileKeyStore(path, source)) as store:
            _must_be_of(path, store.origin, origin)
            return store.lookup_key
    found: str | None = None
    if path.exists():
        try:
            with closing(_read_only(path)) as keys:
                if keys.execute("PRAGMA application_id").fetchone()[0] == KEYS_APPLICATION_ID:
                    found = dict(keys.execute("SELECT name, value FROM book").fetchall()).get("origin")
        except sqlite3.DatabaseError as error:
            raise KeysMissing(
                f"{path} is no key file: {error}.", path=str(path), remedy="Give a copy that `backup --keys` made."
            ) from error
    _must_be_of(path, found, origin)
    with closing(SQLiteDatabase(str(path), read_only=True)) as database:
        return WrappedKeyStore(database, origin, source).lookup_key


def _must_be_of(path: Path, found: str | None, origin: str) -> None:
    if found != origin:
        raise KeysMissing(
            f"{path} does not hold the keys of the book {origin}, but {found or 'nothing'}.",
            path=str(path),
            remedy="Give the keys of the book that the backup is of.",
        )


def _take_apart(source: Path, book_part: Path, reads_part: Path, origin: str, progress: Progress | None) -> None:
    """The backup's pages as the book's file, without the reads; those in a file of their own."""
    make_log_file(reads_part, READS_APPLICATION_ID, READS_TABLE, origin)
    with closing(_immutable(source)) as backup, _source_errors(source, ANOTHER):
        with closing(sqlite3.connect(reads_part, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.execute("BEGIN IMMEDIATE")
            _copy_reads(backup, copy)
            copy.execute("COMMIT")
        with closing(sqlite3.connect(book_part, isolation_level=None)) as copy:
            _copy_pages(backup, copy, progress)
            copy.execute("PRAGMA journal_mode=OFF")
            copy.execute("PRAGMA secure_delete=ON")
            copy.execute("BEGIN IMMEDIATE")
            copy.execute(f"DROP TABLE {READS_TABLE}")
            for table in (HEAD.name, TILES.name, CHECKPOINTS.name, PRUNED.name):
                copy.execute(f"DELETE FROM {table} WHERE log=?", (READS_TABLE,))  # noqa: S608 - three names of ours
            copy.execute(f"PRAGMA application_id={APPLICATION_ID}")
            copy.execute("COMMIT")
        for part in (book_part, reads_part):
            with closing(sqlite3.connect(part)) as copy:
                _must_be_sound(copy, "integrity_check")


def _must_hold(
    source: Path, name: str, log: LogRecorder, progress: Progress | None, events: LogRecorder, vkey: str | None
) -> tuple[int, str]:
    found = verify(name, log, progress, checkpoints=kept_of(log, events, vkey), events=events)
    if found.problem:
        raise _damaged(source, f"{name}: {found.problem}", ANOTHER)
    return found.size, found.root


def kept_of(log: LogRecorder, events: LogRecorder, vkey: str | None) -> Checkpoints:
    """The checkpoints of one of a book's logs, to be looked at: rotations of its key are in the log of events."""
    name = log.origin if log.table.name == events.table.name else f"{log.origin}/reads"
    return Checkpoints(TileStore(log), name, lambda: signed_by(events, vkey))


def _must_reach(source: Path, log: LogRecorder, position: int, checkpoint: tuple[int, str]) -> None:
    expected_position, expected_root = checkpoint
    if position < expected_position:
        raise BookError(
            f"{source} ends at position {position}, before the checkpoint's {expected_position}.",
            path=str(source),
            remedy="Look for a later backup, or restore this one without the checkpoint and do without what followed.",
        )
    if root_at(log, expected_position) != expected_root.lower():
        raise _damaged(source, f"its first {expected_position} events do not give the checkpoint's root", ANOTHER)


def _must_match(log: LogRecorder, store: FileKeyStore, path: Path) -> tuple[int, tuple[UUID, ...], tuple[UUID, ...]]:
    """How many subjects the log made a key for, those of them who were erased, and those whose key is lost."""
    check_lookup_key(noted(log.database, LOOKUP), store.lookup_key, path)
    check_notes(log.database, store.lookup_key)
    subjects = 0
    last: dict[UUID, int] = {}
    """The ordinary key of those for whom it is not the first."""
    told = {(known_uuid(subject), key_id) for subject, key_id, _ in log.erasures()}
    without: list[KeyName] = []
    for name, committed, key in keys_in(log, store.get):
        subjects += name[1] == ORDINARY_KEY
        if name[1] not in (ORDINARY_KEY, KEPT_KEY):
            last[name[0]] = name[1]
        if key is None:
            without.append(name)
        elif not hmac.compare_digest(commitment(key), committed):
            raise KeysMissing(
                f"{path} holds another key for subject {name[0]} than the one that the log commits to.",
                path=str(path),
                remedy="Give the key file that belongs to the backup.",
            )
    again = store.destroyed(without).keys() - told
    lost = dict.fromkeys(name[0] for name in without if name not in told and name not in again)
    erased = {subject for subject, key_id in told | again if key_id == last.get(subject, ORDINARY_KEY)}
    # Of whom a later key is there, single values were erased after the backup, and the rest was sealed under that.
    keyring = Keyring(store, lambda *_: None)
    erased -= {subject for subject, key_id in again if keyring.left_over(subject, key_id)}
    return subjects, tuple(sorted(erased)), tuple(lost)


def keys_in(
    log: LogRecorder, get: Callable[[list[KeyName]], dict[KeyName, bytes]]
) -> Iterator[tuple[KeyName, bytes, bytes | None]]:
    """The keys that a log tells of, what it commits to, and the key, if it is there."""
    read = EventMapper(Keyring(MemoryKeyStore(log.origin), lambda *_: None)).read
    made: list[KeyCreated] = []

    def held() -> Iterator[tuple[KeyName, bytes, bytes | None]]:
        found = get([(event.originator_id, event.key_id) for event in made])
        for event in made:
            name = (event.originator_id, event.key_id)
            yield name, event.commitment, found.get(name)
        made.clear()

    for position, stream, version, name, state in log.iterate(stop=log.extent()[2], topics=[KeyCreated.stored_name]):
        event = read(known_uuid(stream), version, name, state, position)
        assert isinstance(event, KeyCreated)
        made.append(event)
        if len(made) == 5000:
            yield from held()
    yield from held()


def _must_go_on(reads_path: Path, origin: str, key: bytes, count: int, root: str) -> int:
    """How many reads there are in the log of reads that was left, if the backup's is its beginning."""
    with closing(SQLiteDatabase(str(reads_path))) as reads:
        log = LogRecorder(reads, READS_TABLE, origin, key)
        found = verify("log of reads", log)
        if found.problem or found.size < count or root_at(log, count) != root:
            raise ReadsMissing(
                f"{reads_path} is there already, and does not go on from the backup's log of reads.",
                path=str(reads_path),
                remedy="Move it away: the backup's is then put in its place.",
            )
        return found.size


def _publish_keys(part: Path, path: Path, source: WrappingKeys) -> None:
    """Put keys in place, unless a restore that was cut short, or the host, did so already."""
    try:
        publish(part, path)
    except BookError:
        with closing(FileKeyStore(part, source)) as given, closing(FileKeyStore(path, source)) as there:
            if (there.origin, there.lookup_key) != (given.origin, given.lookup_key) or not given.is_within(there):
                raise


# ── both ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _in_file(database: object) -> SQLiteDatabase:
    if not isinstance(database, SQLiteDatabase):
        raise BookError(
            "A book in PostgreSQL is backed up by pg_dump: of its schema, in one snapshot.",
            path=getattr(database, "place", ""),
            remedy="See docs/operations.md.",
        )
    if database.in_memory:
        raise BookError(
            "A book in memory has no backup: it is gone when it is closed.",
            path=database.place,
            remedy='Open a book in files: "sqlite:///shop.book".',
        )
    return database


def _target(file: Path | str, book: Path, replace: bool) -> Path:
    """Where a copy is to lie."""
    target = named(file, "file")
    if not target.parent.is_dir():
        raise BookError(f"The folder {target.parent} is not there.", path=str(target), remedy="Make it first.")
    if target.exists() or target.is_symlink():
        own = [book.with_name(book.name + one) for one in ("", ".keys", ".reads", ".wrapping-key", ".signing-key")]
        own += [one.with_name(one.name + suffix) for one in own for suffix in ("-wal", "-shm", "-journal")]
        if any(one.exists() and target.exists() and one.samefile(target) for one in own):
            raise BookError(f"{target} is a file of the book itself.", path=str(target), remedy="Name another file.")
        if not replace:
            raise there_already(target)
    return target


def _book_of(keys: Path) -> Path:
    return keys.with_name(keys.name.removesuffix(".keys"))


def _unreadable(source: Path, why: str) -> BookError:
    return BookError(
        f"{source} can't be read: {why}.", path=str(source), remedy="Check the name, its owner and its mode."
    )


def _damaged(source: Path, why: str, remedy: str) -> BookDamaged:
    return BookDamaged(f"{source} is damaged or cut short: {why}.", path=str(source), remedy=remedy)


@contextmanager
def _errors(target: Path) -> Iterator[None]:
    """Errors of what is written as Tallybook's."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, str(target)) from error
    except OSError as error:
        raise trouble(error, target) from error


@contextmanager
def _source_errors(source: Path, remedy: str) -> Iterator[None]:
    """What is wrong with the content that is copied, and not with the place that it is copied to, as BookDamaged."""
    try:
        yield
    except sqlite3.Error as error:
        if _code(error) in _TROUBLE_OF_THE_PLACE:
            raise
        raise _damaged(source, str(error), remedy) from error


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextmanager
def _snapshot(database: SQLiteDatabase) -> Iterator[sqlite3.Connection]:
    """A connection that sees one moment, until the end of the block."""
    with database.connection() as connection:
        connection.execute("BEGIN")
        try:
            connection.execute("SELECT position FROM head").fetchall()
            yield connection
        finally:
            connection.execute("ROLLBACK")


def _immutable(file: Path) -> sqlite3.Connection:
    """A file that nobody writes to: read without locks, and from where nothing can be written."""
    return sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, isolation_level=None)


def _copy_pages(source: sqlite3.Connection, copy: sqlite3.Connection, progress: Progress | None) -> None:
    copy.execute("PRAGMA synchronous=OFF")  # it is brought to the disk before it gets its name

    def advance(_: int, remaining: int, total: int) -> None:
        if progress:
            progress(total - remaining, max(total, 1))

    source.backup(copy, pages=PAGES_A_STEP, progress=advance)
    copy.execute("PRAGMA journal_mode=DELETE")


def _copy_reads(source: sqlite3.Connection, copy: sqlite3.Connection) -> None:
    rows = source.execute(f"SELECT * FROM {READS_TABLE} ORDER BY position")  # noqa: S608 - a name of ours
    copy.executemany(f"INSERT INTO {READS_TABLE} VALUES (?,?,?,?,?)", rows)  # noqa: S608 - a name of ours
    for table in (TILES, CHECKPOINTS, PRUNED):
        rows = source.execute(f"SELECT * FROM {table.name} WHERE log=?", (READS_TABLE,))  # noqa: S608 - two names of ours
        copy.executemany(f"INSERT INTO {table.name} VALUES ({marks(len(table.columns))})", rows)  # noqa: S608 - two names of ours
    columns = ", ".join(name for name, _ in HEAD.columns)
    head = source.execute(f"SELECT {columns} FROM head WHERE log=?", (READS_TABLE,)).fetchone()  # noqa: S608 - names of ours
    copy.execute(f"UPDATE head SET ({columns})=({marks(len(head))}) WHERE log=?", (*head, READS_TABLE))  # noqa: S608 - names of ours


def _must_be_sound(copy: sqlite3.Connection, pragma: str) -> None:
    [(found,), *_] = copy.execute(f"PRAGMA {pragma}(1)").fetchall()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _must_fit(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise BookFull(
            f"{target} needs {needed:,} bytes, and {free:,} are free; nothing was written.",
            path=str(target),
            remedy="Make space, or name a place with more.",
        )


def _size(connection: sqlite3.Connection) -> int:
    [(pages,)] = connection.execute("PRAGMA page_count").fetchall()
    [(page_bytes,)] = connection.execute("PRAGMA page_size").fetchall()
    return int(pages * page_bytes)
