"""Whether a book is well: a table of small checks, each on its own, that report and never raise.

The files of a book are opened for reading only, by SQLite alone: a handle on one of them that is closed by other means
would drop the locks of a book that this process has open.
"""

from __future__ import annotations

import hmac
import json
import platform
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from glob import escape
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5

from tallybook.domain.control import Control, RuleBook, WrappingKeyRotated
from tallybook.domain.customer import IdentifierLinked, IdentifierRemoved, PurchaseRecorded
from tallybook.domain.erasure import DESTROYING, KEPT_KEY, ORDINARY_KEY, SubjectErased, ValuesErased
from tallybook.domain.errors import (
    BookDamaged,
    BookError,
    NewerSchema,
    Refused,
    StoredFormError,
    UnknownStoredName,
)
from tallybook.domain.events import REGISTRY, utc_text
from tallybook.domain.loyalty import LoyaltyAccount
from tallybook.projections.projector import DIVERGED, FAILED, Status, remedy_for
from tallybook.projections.read_models import Progress

from . import limits
from .application import BookEventStore, compared
from .backup import kept_of, keys_in
from .checkpoints import CHECKPOINTS, Stored, signed_by
from .codec import EventMapper
from .database import DROP, FORMAT, Database, marks, onward, planted, sound
from .due_index import DUE_INDEX, DueIndex
from .form import known_uuid
from .integrity import outline, unsigned_openings, verify
from .key_tables import FileKeyStore, WrappedKeyStore
from .keys import KEYS_APPLICATION_ID, KeyName, Keyring, KeyStore, MemoryKeyStore, commitment, secret
from .log import CLAIMS, EVENTS_TABLE, NAMING_BYTES, PRUNED, RECEIPTS, HeadRow, LogRecorder, head_key
from .signing import UNSIGNED, keys_at
from .snapshots import SNAPSHOTS, SnapshotStore
from .sqlite import DEFAULT_LOCK_TIMEOUT_S, SQLiteDatabase, check_not_inherited, translated
from .storage import (
    APPLICATION_ID,
    LOOKUP,
    READS_APPLICATION_ID,
    READS_TABLE,
    SIGNING,
    WRAPPING,
    Storage,
    beside,
    check_lookup_key,
    check_notes,
    models_noted,
    noted,
    signing_file,
    signing_place,
    wrapping_key_beside,
)
from .tiles import AGAIN as REBUILD_TILES
from .tiles import TILES, TileStore
from .wrapping import WrappingKeys, wrapping_keys

CLAIMING = [one.stored_name for one in (IdentifierLinked, IdentifierRemoved, PurchaseRecorded, ValuesErased)]
"""Events that take or release a claim."""
ERASING = [one.stored_name for one in DESTROYING]

HASH_BYTES = 32
WAL_BYTES_MAX = 64 * 2**20
"""A longer write-ahead log is worth a word: SQLite folds it in every 4 MB, unless a reader holds it up."""

CLOCK_FALL_US = 60_000_000
"""Writers that wait for each other record times out of order by less than this."""

State = Literal["ok", "warning", "failed"]
OK: State = "ok"
WARNING: State = "warning"
FAILURE: State = "failed"
Word = tuple[State, str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `state`: ok, warning, failed. `remedy` tells how to mend it."""

    name: str
    state: State
    what: str
    remedy: str = ""


@dataclass
class Patient:
    """A book as far as it can be read. What is None can't be; why is found by the check of the files."""

    path: Path | None
    log: LogRecorder | None
    reads: LogRecorder | None
    keys: Callable[[], KeyStore] | None
    status: Callable[[], Sequence[Status]] | None
    progress: Progress | None
    lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S
    models_elsewhere: bool = False
    """Whether a place for the read models was named."""
    signing_place: str | None = None
    """Where its signing key lies; None where that is not known."""
    vkey: str | None = None
    """The first public key, of a book that notes nothing."""
    in_sqlite: bool = True
    """Whether something of the book is a file of SQLite."""
    failed: bool = False

    @property
    def logs(self) -> list[tuple[str, LogRecorder]]:
        """Those that can be read, with what they are called."""
        pairs = (("log", self.log), ("log of reads", self.reads))
        return [(name, log) for name, log in pairs if log is not None]

    @property
    def mapper(self) -> EventMapper:
        """Reads events; opens nothing."""
        return EventMapper(Keyring(MemoryKeyStore(self.log.origin if self.log else ""), lambda *_: None))


class Check(NamedTuple):
    """One row of the table. `deep`: it reads everything, and is left out of a quick look."""

    name: str
    run: Callable[[Patient], Iterator[Word]]
    deep: bool = False


def ok(what: str) -> Word:
    """All is well."""
    return (OK, what, "")


def warning(what: str, remedy: str) -> Word:
    """Something to look at; the book does its work."""
    return (WARNING, what, remedy)


def failed(what: str, remedy: str) -> Word:
    """Something is wrong."""
    return (FAILURE, what, remedy)


RESTORE = "Restore the book from a backup: `tallybook restore`."
REBUILD = "Run `tallybook projections rebuild`."
AGAIN = "Try again. If it stays so, look for a process that holds a transaction on the book open."


def unchecked(error: Exception, otherwise: str = RESTORE) -> Word:
    """What it means that a check ended in an error: nothing is known to be well, but only damage calls for a backup.

    `otherwise` mends what none of the errors that Tallybook knows says how to mend.
    """
    if isinstance(error, OSError):
        error = limits.of_error(error, error.filename or "the book") or error
    if isinstance(error, Refused):
        remedy = AGAIN if error.code == "busy" else error.remedy
    elif isinstance(error, BookError) and not isinstance(error, BookDamaged):
        remedy = error.remedy or otherwise
    elif isinstance(error, OSError):
        remedy = "Check the disk, and owner and mode of the files and their folder."
    else:
        remedy = otherwise
    said = error.message if isinstance(error, (Refused, BookError)) else str(error)
    return failed(f"could not be checked: {type(error).__name__}: {said}", remedy)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def files(path: Path, usable: dict[Path, str], lock_timeout_s: float) -> Iterator[Word]:
    """Look at a book's three files: there, of a book, of this book, of a known format, readable by their owner alone.

    Those that can be read are put into `usable`, with the origin of the book that they belong to.
    """
    keys_path, reads_path = beside(path)
    kinds = (
        (path, APPLICATION_ID, "book", RESTORE),
        (
            keys_path,
            KEYS_APPLICATION_ID,
            "key file",
            "Put it back: without it, what is sealed stays so.",
        ),
        (reads_path, READS_APPLICATION_ID, "log of reads", "Put it back from its backup, or restore the book."),
    )
    origins: dict[Path, str] = {}
    for file, application_id, what, remedy in kinds:
        words, origin = _look_at(file, application_id, what, remedy, lock_timeout_s)
        yield from words
        if origin is not None:
            origins[file] = origin
    mine = origins.get(path)
    for file, origin in origins.items():
        if mine is not None and origin != mine:
            yield failed(f"{file.name} belongs to another book: {origin}, not {mine}", "Put back the one of this book.")
        else:
            usable[file] = origin
    if keys_path.exists() and keys_path.stat().st_mode & 0o077:
        yield failed(
            f"{keys_path.name} has mode {keys_path.stat().st_mode & 0o777:o}: others may read the keys",
            f"chmod 600 {keys_path}",
        )
    if len(usable) == len(kinds):
        yield ok(f"{path.name}, {keys_path.name} and {reads_path.name} are there and belong together")


def _look_at(
    file: Path, application_id: int, what: str, remedy: str, lock_timeout_s: float
) -> tuple[list[Word], str | None]:
    if not file.exists():
        return [failed(f"the {what} {file.name} is not there", remedy)], None
    try:
        with closing(_looking(file, lock_timeout_s)) as raw:
            [(found,)] = raw.execute("PRAGMA application_id").fetchall()
            [(form,)] = raw.execute("PRAGMA user_version").fetchall()
            if found != application_id:
                return [failed(f"{file.name} is no {what}: its application id is {found:#x}", remedy)], None
            if form > FORMAT:
                told = f"{file.name} has format {form}; this release reads up to {FORMAT}"
                return [failed(told, "Upgrade Tallybook.")], None
            [(origin,)] = raw.execute("SELECT value FROM book WHERE name='origin'").fetchall()
            return [], str(origin)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
            told = f"{file.name} has a journal of a commit that was cut short; to be undone first"
            return [warning(told, "Open the book once (SQLite undoes it by itself), and run doctor again.")], None
        _, told, mended = unchecked(translated(error, str(file)), remedy)
        return [failed(f"{file.name} {told}", mended)], None
    except BookError as error:
        return [failed(error.message, error.remedy)], None
    except ValueError:
        return [failed(f"{file.name} does not say which book it belongs to", remedy)], None


def _looking(file: Path, lock_timeout_s: float) -> sqlite3.Connection:
    check_not_inherited(file)
    return sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=lock_timeout_s)


def left_over(patient: Patient) -> Iterator[Word]:
    """Files that a killed backup or restore left beside the book."""
    if patient.path is None:
        return
    found = sorted(one for one in patient.path.parent.glob(f"{escape(patient.path.name)}*.part*") if one.is_file())
    if found:
        size = sum(one.stat().st_size for one in found)
        yield warning(
            f"{', '.join(one.name for one in found)} ({_mb(size)}): of a backup or a restore that runs, or was killed",
            "If none is running, delete them; the next one deletes those that are a day old.",
        )
    else:
        yield ok("nothing is left of backups or restores")


def pages(patient: Patient) -> Iterator[Word]:
    """SQLite's own check of the files' pages and indexes."""
    if patient.path is None:
        return
    for file in (patient.path, *beside(patient.path)):
        if not file.exists():
            continue
        with closing(_looking(file, patient.lock_timeout_s)) as raw:
            try:
                problems = [str(row[0]) for row in raw.execute("PRAGMA integrity_check(5)")]
            except sqlite3.Error as error:
                ours = translated(error, str(file))
                if not isinstance(ours, BookDamaged):
                    raise ours from error
                problems = [str(error)]
        if problems == ["ok"]:
            yield ok(f"the pages of {file.name} are sound")
        else:
            yield failed(f"the pages of {file.name} are damaged: {'; '.join(problems)}", RESTORE)


def space(patient: Patient) -> Iterator[Word]:
    """Free space, against the size of the book: what a backup beside it or a rebuild needs at most."""
    if patient.path is None:
        if patient.log is not None and not isinstance(patient.log.database, SQLiteDatabase):
            yield ok("the free space of a server is not known to its client: look at it there")
        return
    whole = [file.with_name(file.name + wal) for file in (patient.path, *beside(patient.path)) for wal in ("", "-wal")]
    size = sum(file.stat().st_size for file in whole if file.exists())
    free = shutil.disk_usage(patient.path.parent).free
    told = f"the book takes {_mb(size)}, {_mb(free)} are free"
    if free < size:
        yield warning(told, "Make space: a rebuild or a backup at the same place might not fit.")
    else:
        yield ok(told)


def write_ahead(patient: Patient) -> Iterator[Word]:
    """The length of the write-ahead logs."""
    if patient.path is None:
        return
    for file in (patient.path, beside(patient.path)[1]):
        wal = file.with_name(file.name + "-wal")
        size = wal.stat().st_size if wal.exists() else 0
        if size > WAL_BYTES_MAX:
            yield warning(
                f"{wal.name} has grown to {_mb(size)}: a reader that does not end, or one very large commit",
                "Look for a process that holds a transaction open; when all have closed the book, it is gone.",
            )
        else:
            yield ok(f"{_mb(size)} of {file.name} are in its write-ahead log")


# ── logs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def schema(patient: Patient) -> Iterator[Word]:
    """Triggers, views and rules: a book has none."""
    databases = {log.database: name for name, log in patient.logs}
    with suppress(BookError, Refused):  # what is wrong with the keys, another check tells
        store = None if patient.keys is None else patient.keys()
        if isinstance(store, WrappedKeyStore):
            databases.setdefault(store.database, "keys")
    found = {name: told for one, name in databases.items() if (told := planted(one)) is not None}
    for name, told in found.items():
        yield failed(f"{name}: there is a {told} among the tables, which the book never made", DROP)
    if not found:
        yield ok("nothing is in the databases that acts by itself, or stands for a table")


def positions(patient: Patient) -> Iterator[Word]:
    """The head against the rows."""
    for name, log in patient.logs:
        head, problem = outline(log)
        count, _, greatest = log.extent()
        if problem is None and greatest < head.position:
            problem = f"it ends at position {greatest}, and its head says {head.position}"
        pruned = log.pruned().position
        if problem is None and count != greatest - pruned:
            problem = f"of the positions {pruned + 1} to {greatest}, {greatest - pruned - count} are missing"
        told = f"; those up to {pruned:,} were pruned" if pruned else ""
        if log.key is None:
            told += "; the MAC of its head was not looked at: the book's keys can't be read"
        yield (
            failed(f"{name}: {problem}", RESTORE) if problem else ok(f"{name}: {count:,} positions without a gap{told}")
        )


def roots(patient: Patient) -> Iterator[Word]:
    """The Merkle roots, recomputed from the stored bytes."""
    for name, log in patient.logs:
        checkpoints = None
        if patient.log is not None:
            checkpoints = kept_of(log, patient.log, noted(patient.log.database, SIGNING) or patient.vkey)
        found = verify(
            name, log, patient.progress if name == "log" else None, checkpoints=checkpoints, events=patient.log
        )
        if found.problem:
            yield failed(f"{name}: {found.problem}", RESTORE)
        else:
            told = f"the root of {found.size:,} leaves is {found.root}"
            yield ok(f"{name}: {told}, as {found.checkpoints:,} signed checkpoints tell")


def signed(patient: Patient) -> Iterator[Word]:
    """How far tiles and checkpoints are behind their log, and those that are of none."""
    known = [log.table.name for _, log in patient.logs]
    for name, log in patient.logs:
        for table in (TILES.name, CHECKPOINTS.name, PRUNED.name):
            [(strays,)] = log.database.rows(
                f"SELECT COUNT(*) FROM {table} WHERE log IS NULL OR log NOT IN ({marks(len(known))})",  # noqa: S608 - names of ours
                known,
            )
            if strays:
                told = f"{name}: {strays:,} rows of the table {table} are of no log: they were altered"
                yield failed(told, f"Find out who writes to the database. {REBUILD_TILES}")
        _, _, position = log.extent()
        tiles = TileStore(log)
        last = _last_of(patient, log)
        told = f"{name}: the tiles are {max(0, position - tiles.size()):,} leaves behind"
        if last is None:
            told += "; no checkpoint was signed yet"
        else:
            since = datetime.fromtimestamp(last.signed_us // 1_000_000, UTC).isoformat()
            told += f", the last checkpoint {max(0, position - last.size):,}; it was signed at {since}"
        yield ok(told)


def _last_of(patient: Patient, log: LogRecorder) -> Stored | None:
    """The last checkpoint of a log; None where there is none, or no key is known that could have signed one."""
    vkey = None if patient.log is None else noted(patient.log.database, SIGNING) or patient.vkey
    return None if patient.log is None or vkey is None else kept_of(log, patient.log, vkey).last()


def signing_key(patient: Patient) -> Iterator[Word]:
    """The signing key: there, of this book, and its owner's alone; and who opened the book without it."""
    if patient.log is None:
        return
    yield from _unsigned_openings(patient)
    if patient.signing_place is None:
        return
    place = patient.signing_place
    history = signed_by(patient.log, noted(patient.log.database, SIGNING) or patient.vkey)
    if place == UNSIGNED:
        yield warning("the signing key was not looked at: the book is opened without", "Name its place.")
        return
    keys_at(patient.log.origin, place).signer(history.now)
    yield ok(f"the signing key is there, and is {history.now}")


def _unsigned_openings(patient: Patient) -> Iterator[Word]:
    if patient.log is None or patient.reads is None:
        return
    if noted(patient.log.database, SIGNING) is None and patient.vkey is None:
        return  # a book that was never signed
    without = unsigned_openings(patient.reads)
    if not without:
        return
    newest = max(one.metadata.recorded_us for one in without)
    last = _last_of(patient, patient.log)
    told = f"the book was opened {len(without):,} times without its signing key, the last time at {utc_text(newest)}"
    if last is None or last.signed_us < newest:
        yield warning(f"{told}; nothing was signed since", "Open it with its key: `tallybook audit checkpoint`.")
    else:
        yield ok(f"{told}; a checkpoint was signed since")


def streams(patient: Patient) -> Iterator[Word]:
    """Versions of each stream: from 1, without a gap."""
    for name, log in patient.logs:
        table = log.table.name
        rows = log.database.rows(
            "SELECT originator_id, COUNT(*), MIN(originator_version), MAX(originator_version) "  # noqa: S608 - a name of ours
            f"FROM {table} GROUP BY originator_id "
            "HAVING MIN(originator_version)<>1 OR MAX(originator_version)<>COUNT(*)"
        )
        if rows:
            stream, count, least, greatest = rows[0]
            told = f"{name}: {len(rows):,} streams have gaps in their versions; first {_stream(stream)}"
            yield failed(f"{told}, {count} versions from {least} to {greatest}", RESTORE)
        else:
            yield ok(f"{name}: the versions of all streams are without gaps")


def names(patient: Patient) -> Iterator[Word]:
    """Stored names that this release doesn't know."""
    for name, log in patient.logs:
        rows = log.database.rows(f"SELECT topic, COUNT(*), MIN(position) FROM {log.table.name} GROUP BY topic")  # noqa: S608 - a name of ours
        unknown = [(topic, count, first) for topic, count, first in rows if topic not in REGISTRY]
        for topic, count, first in sorted(unknown):
            yield failed(
                f"{name}: {count:,} events are called {topic!r}, which this release does not know; first at {first}",
                "Upgrade Tallybook: a later release wrote them.",
            )
        if not unknown:
            yield ok(f"{name}: the names of all {sum(count for _, count, _ in rows):,} events are known")


def contents(patient: Patient) -> Iterator[Word]:
    """Every event read: schema versions, stored forms, and a clock that went back."""
    read = patient.mapper.read
    for name, log in patient.logs:
        newer: list[int] = []
        wrong: list[StoredFormError | str] = []
        falls: list[tuple[int, int]] = []
        latest = 0
        for position, stream, version_, topic, state in log.iterate(stop=log.extent()[2]):
            try:
                recorded_us = read(known_uuid(stream), version_, topic, state, position).metadata.recorded_us
            except UnknownStoredName:
                continue
            except NewerSchema:
                newer.append(position)
                continue
            except (StoredFormError, ValueError) as error:
                wrong.append(error if isinstance(error, StoredFormError) else f"position {position}: {error}")
                continue
            if recorded_us < latest - CLOCK_FALL_US:
                falls.append((position, latest - recorded_us))
            latest = max(latest, recorded_us)
        if newer:
            told = f"{name}: {len(newer):,} events have a newer schema version; first at position {newer[0]}"
            yield failed(told, "Upgrade Tallybook: a later release wrote them.")
        if wrong:
            yield failed(f"{name}: {len(wrong):,} events can't be read; first: {wrong[0]}", RESTORE)
        if falls:
            first, _ = falls[0]
            yield warning(
                f"{name}: {len(falls):,} events were recorded before events that precede them, by up to "
                f"{max(fall for _, fall in falls) / 1e6:,.0f} s; first at position {first}",
                "Check the clocks of the writing machines; `known_at` answers by the order of positions all the same.",
            )
        if not newer and not wrong:
            yield ok(f"{name}: all events can be read")


def claims(patient: Patient) -> Iterator[Word]:
    """Claims by their holders, against the external ids and orders that the log tells of."""
    log = patient.log
    if log is None:
        return
    # In one read: whoever writes meanwhile adds events after `stop` and claims that belong to them.
    with log.database.session(write=False) as session:
        # As they are looked up: a table may hold what its index does not lead to.
        by = log.database.indexed_by(session, CLAIMS.name, CLAIMS.key, {})
        rows = session.rows(f"SELECT * FROM claims{by} ORDER BY claim")  # noqa: S608 - a name of ours
        [(stop,)] = session.rows("SELECT position FROM head WHERE log=?", [log.table.name])
    ours = [row for row in sound(CLAIMS, rows, log.database.place) if log.is_ours(CLAIMS, row)]
    whole = [holder for claim, holder, _ in ours if len(claim) == HASH_BYTES]
    held = Counter(whole)
    read = patient.mapper.read
    released = {stream for _, stream, *_ in log.iterate(stop=stop, topics=[SubjectErased.stored_name])}
    for position, stream, version_, name, state in log.iterate(stop=stop, topics=CLAIMING):
        if stream in released:
            continue  # the claims of who is erased go with the erasure
        try:
            event = read(known_uuid(stream), version_, name, state, position)
        except StoredFormError:
            return  # the check of the events tells; whose claims these are can't be told
        if isinstance(event, ValuesErased):
            held[stream] += len(event.identifiers)
            held.update(order.bytes for order in event.orders)
        elif not isinstance(event, PurchaseRecorded):
            held[stream] += 1 if isinstance(event, IdentifierRemoved) else -1
        elif event.order_id is not None:
            held[event.event_id.bytes] -= 1  # a purchase is called by its event
    missing = -sum(count for count in held.values() if count < 0)
    beyond = sum(count for count in held.values() if count > 0)
    if missing or beyond or len(whole) < len(rows):
        told = (
            f"of {len(rows):,} claims, {len(rows) - len(whole):,} are not what the book wrote, and {beyond:,} are held "
        )
        told += "by those to whom the log gives none"
        yield failed(f"{told}; {missing:,} that it gives are missing: those ids could be given out again", RESTORE)
    else:
        yield ok(f"{len(rows):,} claims are held by those to whom the log gives them")


def receipts(patient: Patient) -> Iterator[Word]:
    """Receipts that can't be one, and those of commands whose events are not there."""
    log = patient.log
    if log is None:
        return
    last = b""
    wrong = 0
    while rows := log.database.rows("SELECT * FROM receipts WHERE command_id>? ORDER BY command_id LIMIT 5000", [last]):
        last = onward(sound(RECEIPTS, rows, log.database.place)[-1][0], last, log.database.place)
        wrong += sum(not (_can_be_a_receipt(*row[:-1]) and log.is_ours(RECEIPTS, row)) for row in rows)
    [(count, beyond)] = log.database.rows(
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN last_position > (SELECT position FROM head WHERE log=?) "
        "THEN 1 ELSE 0 END), 0) FROM receipts",
        [log.table.name],
    )
    if beyond:
        yield failed(f"{beyond:,} of {count:,} receipts tell of events after the head: those are lost", RESTORE)
    elif wrong:
        yield failed(f"{wrong:,} of {count:,} receipts can't be what was written", RESTORE)
    else:
        yield ok(f"the events of all {count:,} receipts are there")


def _can_be_a_receipt(command_id: bytes, digest: bytes, first: int, last: int, result: bytes) -> bool:
    try:
        json.loads(result[1:] if result.startswith(b"+") else result)
    except ValueError:
        return False
    return len(command_id) == 16 and len(digest) in (NAMING_BYTES, HASH_BYTES) and 1 <= first <= last + 1


def command_ids(patient: Patient) -> Iterator[Word]:
    """Commands with an id of which no receipt is left: repeated, they would have their effect again."""
    log = patient.log
    if log is None:
        return
    read = patient.mapper.read
    seen = missing = 0
    last: UUID | None = None
    waiting: dict[bytes, int] = {}
    first = 0

    def look() -> None:
        nonlocal missing, first
        asked = list(waiting)
        rows = log.database.rows(f"SELECT command_id FROM receipts WHERE command_id IN ({marks(len(asked))})", asked)  # noqa: S608 - marks only
        for (command_id,) in rows:
            waiting.pop(command_id, None)
        missing += len(waiting)
        first = first or min(waiting.values(), default=0)
        waiting.clear()

    for position, stream, version_, name, state in log.iterate(stop=log.extent()[2]):
        try:
            command_id = read(known_uuid(stream), version_, name, state, position).metadata.command_id
        except (StoredFormError, ValueError):
            continue  # the check of the events tells
        if command_id is not None and command_id != last:
            seen += 1
            waiting.setdefault(command_id.bytes, position)
            if len(waiting) == 500:
                look()
        last = command_id
    if waiting:
        look()
    if missing:
        yield failed(f"the receipts of {missing:,} of {seen:,} commands are gone; first of the one at {first}", RESTORE)
    else:
        yield ok(f"the receipts of all {seen:,} commands with an id are there")


NO_KEYS = "the data keys are not at hand"
KEYS_BACK = "Put the keys back, and look again."


def keys(patient: Patient) -> Iterator[Word]:
    """Every subject's key: there, and the one that the log commits to."""
    if patient.log is None:
        return
    if patient.keys is None:
        # Of a key file, the check of the files has told what is wrong with it.
        yield (failed if patient.path is None else warning)(f"not checked: {NO_KEYS}", KEYS_BACK)
        return
    store = patient.keys()
    place = Path(patient.log.database.place) if patient.path is None else beside(patient.path)[0]
    check_lookup_key(noted(patient.log.database, LOOKUP), store.lookup_key, place)
    check_notes(patient.log.database, store.lookup_key)
    count = 0
    gone: set[UUID] = set()
    missing: list[UUID] = []
    other: list[UUID] = []
    erased = {(known_uuid(subject), key_id) for subject, key_id, _ in patient.log.erased_rows()}
    for name, committed, key in keys_in(patient.log, store.get):
        subject, key_id = name
        count += key_id == ORDINARY_KEY
        if key_id != KEPT_KEY:  # the last of them tells: where single values were erased, another key follows
            (gone.add if name in erased else gone.discard)(subject)
        if key is None and name in erased:
            continue
        if key is None:
            missing.append(subject)
        elif not hmac.compare_digest(commitment(key), committed):
            other.append(subject)
    put_back = "Put the key file back from its backup."
    if other:
        yield failed(
            f"{len(other):,} of {count:,} subjects have another key than the log commits to; first: {other[0]}",
            "Put the key file back from its backup.",
        )
    if missing:
        yield warning(
            f"{len(missing):,} of {count:,} subjects have no key, and nobody erased them: their personal values can't "
            f"be opened; first: {missing[0]}",
            put_back,
        )
    # First the tombstones: of an erasure that goes on meanwhile, the log tells before the keys are destroyed.
    unknown = {name for name, _ in store.tombstones()}
    unknown -= {(known_uuid(subject), key_id) for subject, key_id, _ in patient.log.erased_rows()}
    # Of whom all was erased, whatever was destroyed beside it may be: keys that were made for nothing.
    unknown = {name for name in unknown if name[0] not in gone}
    if unknown:
        yield warning(
            f"{len(unknown):,} keys were destroyed by erasures that the log knows nothing of; first: {min(unknown)[0]}",
            "If the book was put back from a backup that is older than its keys, open it: it erases them again.",
        )
    behind = store.behind() if isinstance(store, WrappedKeyStore) else 0
    if behind:
        yield warning(
            f"{behind:,} keys are wrapped under another wrapping key than the book's",
            "Open the book: a rotation that was cut short goes on.",
        )
    known, now = _recorded_wrapping(patient.log, patient.mapper), store.wrapping()
    if known is not None and now is not None and known != now:
        yield warning(
            f"the keys are wrapped under {now}, and the last rotation on record led to {known}",
            "Open the book: it records what is so. If nobody rotated the key, find out who did.",
        )
    if isinstance(store, WrappedKeyStore) and not other and not missing:
        yield ok(f"all keys are wrapped under {store.wrapping()}, from {store.source.place}")
    if not other and not missing:
        there = f"the keys of all {count - len(gone):,} subjects"
        yield ok(
            f"{there} are there, and are those that the log commits to" + (f"; {len(gone):,} erased" if gone else "")
        )


def _recorded_wrapping(log: LogRecorder, mapper: EventMapper) -> str | None:
    """The fingerprint of the wrapping key that the log knows of, by its last rotation or the book's making."""
    known = noted(log.database, WRAPPING)
    for position, stream, version_, name, state in log.iterate(
        stop=log.extent()[2], topics=[WrappingKeyRotated.stored_name]
    ):
        event = mapper.read(known_uuid(stream), version_, name, state, position)
        assert isinstance(event, WrappingKeyRotated)
        known = event.new
    return known


def erasures(patient: Patient) -> Iterator[Word]:
    """What the log says to be erased, the table of erasures, and the key store agree."""
    log = patient.log
    if log is None:
        return
    told: dict[KeyName, int] = {}
    read = patient.mapper.read
    head = log.extent()[2]
    for position, stream, version_, name, state in log.iterate(stop=head, topics=ERASING):
        event = read(known_uuid(stream), version_, name, state, position)
        assert isinstance(event, DESTROYING)
        told.update(((event.originator_id, key_id), position) for key_id in event.key_ids)
    # Up to the same position: who erases meanwhile is in neither of them.
    noted = {(known_uuid(one), key_id): position for one, key_id, position in log.erased_rows() if position <= head}
    moved = [name for name in sorted(told.keys() & noted.keys()) if noted[name] < told[name]]
    if moved:
        yield failed(f"the table erased has another position for {moved[0][0]} than the log", RESTORE)
    if told.keys() != noted.keys():
        name = min(told.keys() ^ noted.keys())
        which = "lacks" if name in told else "holds, and the log does not,"
        yield failed(f"the table erased {which} the erasure of {name[0]}", RESTORE)
    held = [] if patient.keys is None else sorted(patient.keys().get(sorted(told)), key=lambda name: told[name])
    if held:
        yield failed(
            f"{len(held):,} keys of erased subjects are in the key store; first: of {held[0][0]}",
            "Open the book: it destroys them again.",
        )
    if patient.keys is not None and patient.keys().outlived():
        yield warning(
            "keys were destroyed, and the wrapping key that they were under is still there: copies of the keys from "
            "before open with it",
            "Open the book: it rotates the wrapping key. If it can't, it says why.",
        )
    if told.keys() == noted.keys() and not held and not moved:
        erased = f"keys of {len({subject for subject, _ in told}):,} subjects were erased"
        if patient.keys is None:
            yield warning(f"{erased}; not checked: whether they are gone", KEYS_BACK)
        else:
            yield ok(f"{erased}, and none of these is there")


# ── the rest ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def versions(patient: Patient) -> Iterator[Word]:
    """What the book is run by."""
    yield ok(
        f"format {FORMAT}, Tallybook {version('tallybook')}, eventsourcing {version('eventsourcing')}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )
    if patient.in_sqlite and _may_lose_the_wal(sqlite3.sqlite_version_info):
        yield warning(
            f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug: rarely, it damages a file that several write to",
            "Use SQLite 3.51.3 or later (or 3.44.6, 3.50.7), unless your distribution has mended its own.",
        )


def _may_lose_the_wal(release: tuple[int, ...]) -> bool:
    """Whether a release of SQLite has the bug that sqlite.org/wal.html#walresetbug tells of."""
    mended = release >= (3, 51, 3) or (3, 44, 6) <= release < (3, 45) or (3, 50, 7) <= release < (3, 51)
    return not mended


def read_models(patient: Patient) -> Iterator[Word]:
    """Each read model's state, version, position, lag."""
    noted = None if patient.log is None or patient.models_elsewhere else models_noted(patient.log.database)
    if noted is not None:
        yield warning(
            f"the read models live at {noted}; those beside the log were looked at",
            'Name that place with --read-models, or give it up: `tallybook.open(…, read_models="log:")`.',
        )
    if patient.status is None:
        return
    if patient.failed:
        yield warning("the read models were not looked at, since the book is not well", "Mend the rest first.")
        return
    found = patient.status()
    head = patient.log.position() if patient.log else 0  # after them: they follow it
    for one in found:
        if one.abandoned is not None:
            yield warning(
                f"a rebuild of {one.name} was cut off at position {one.abandoned:,}; its tables are left",
                "`tallybook projections drop-superseded` removes them, and so does the next rebuild.",
            )
        lag = max(0, one.lag)
        told = f"{one.name} (version {one.version}) is {one.state}, at position {one.position:,}, {lag:,} behind"
        if one.position > head:
            yield failed(f"{told}: ahead of the log", REBUILD)
        elif one.state == FAILED:
            yield failed(
                f"{told}; position {one.failed_position}: {one.error}",
                remedy_for(one.name, one.state),
            )
        elif one.state == DIVERGED:
            why = one.error or "its rows are another log's"
            yield warning(f"{told}: {why}", "The next question or catch-up builds it anew.")
        else:
            yield ok(told)


def snapshots(patient: Patient) -> Iterator[Word]:
    """Snapshots of long streams: written by this book, and the same as a replay of their events."""
    if patient.log is None:
        return
    if patient.keys is None:
        yield warning("not checked: only the look-up key tells which of them the book wrote", KEYS_BACK)
        return
    store = SnapshotStore(patient.log.database, secret(patient.keys().lookup_key, SNAPSHOTS.name))
    report = compared(store, BookEventStore(patient.mapper, patient.log))
    if report.foreign:
        yield warning(
            f"{len(report.foreign):,} snapshots are not as the book wrote them; they are passed over. "
            f"First: that of {report.foreign[0]}",
            "Find out who writes to the database. `book.drop_snapshots()` removes them.",
        )
    if report.wrong:
        yield failed(
            f"{len(report.wrong):,} of {report.compared:,} snapshots say something else than their events; "
            f"first: {report.wrong[0]}",
            "Call `book.drop_snapshots()`: the events alone count. `tallybook replay` tells what was decided by it.",
        )
    else:
        yield ok(f"{report.compared:,} snapshots agree with their events, {report.skipped:,} are out of use")


def due(patient: Patient) -> Iterator[Word]:
    """Notes of when something is next due to an account: written by this book, and as its events tell."""
    if patient.log is None:
        return
    if patient.keys is None:
        yield warning("not checked: only the look-up key tells which notes the book wrote", KEYS_BACK)
        return
    log, events = patient.log, BookEventStore(patient.mapper, patient.log)
    try:
        control = Control.fold(None, events.get(uuid5(NAMESPACE_OID, log.origin)))
    except (BookDamaged, StoredFormError):  # the check of streams, or of events, tells what is wrong
        return
    index = DueIndex(log.database, secret(patient.keys().lookup_key, DUE_INDEX.name), EVENTS_TABLE)
    report = index.check(
        lambda account: LoyaltyAccount.fold(None, events.get(account)) or LoyaltyAccount(account),
        RuleBook() if control is None else control.rule_book,
    )
    if report.foreign:
        yield warning(
            f"{report.foreign:,} notes are not as the book wrote them; their accounts are loaded by the next sweep",
            "Find out who writes to the database. `book.drop_snapshots()` removes them.",
        )
    if report.wrong:
        yield failed(
            f"{len(report.wrong):,} of {report.compared:,} notes say that nothing is due where something is; "
            f"first: of the account {report.wrong[0]}",
            "Call `book.drop_snapshots()`, and sweep again. `tallybook replay` tells what was left out.",
        )
    else:
        yield ok(f"{report.compared:,} notes agree with what is due, {report.skipped:,} are out of use")


def server(patient: Patient) -> Iterator[Word]:
    """Settings of a PostgreSQL server on which it depends whether a commit lasts."""
    settings = getattr(patient.log.database, "settings", None) if patient.log else None
    if settings is None:
        return
    found: dict[str, Any] = settings()
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if found[name] == "off":
            yield warning(f"{name} is off: a power cut may lose or damage what was acknowledged", f"Set {name} = on.")
    yield ok(
        f"PostgreSQL {found['server_version']}, encoding {found['server_encoding']}; the tables take "
        f"{_mb(found['schema_bytes'])} of the database's {_mb(found['database_bytes'])}"
    )


CHECKS: Sequence[Check] = (
    Check("left over", left_over),
    Check("space", space),
    Check("write-ahead log", write_ahead),
    Check("versions", versions),
    Check("server", server),
    Check("pages", pages, deep=True),
    Check("schema", schema),
    Check("positions", positions),
    Check("root", roots, deep=True),
    Check("checkpoints", signed),
    Check("signing key", signing_key),
    Check("streams", streams),
    Check("stored names", names),
    Check("events", contents, deep=True),
    Check("claims", claims, deep=True),
    Check("receipts", receipts),
    Check("command ids", command_ids, deep=True),
    Check("keys", keys),
    Check("erasures", erasures, deep=True),
    Check("read models", read_models),
    Check("snapshots", snapshots, deep=True),
    Check("sweep notes", due, deep=True),
)


def examine(
    path: Path,
    status: Callable[[], Sequence[Status]] | None,
    *,
    quick: bool,
    progress: Progress | None,
    lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S,
    models_elsewhere: bool = False,
    wrapping_key: str | Path | WrappingKeys | None = None,
    signing_key: str | Path | None = None,
    seen: Mapping[str, HeadRow | None] = MappingProxyType({}),
) -> list[Finding]:
    """Check a book in files, whether or not it can be opened. `seen`: the heads that this process saw, by log."""
    source = wrapping_keys(wrapping_key, wrapping_key_beside(path))
    usable: dict[Path, str] = {}
    findings = _run("files", files(path, usable, lock_timeout_s))
    if any(one.remedy == AGAIN for one in findings):
        lock_timeout_s = 0  # waited for in vain: once is enough
    keys_path, reads_path = beside(path)
    with ExitStack() as stack:
        opened = {file: SQLiteDatabase(str(file), read_only=True, lock_timeout_s=lock_timeout_s) for file in usable}
        for database in opened.values():
            stack.callback(database.close)
        keys = partial(WrappedKeyStore, opened[keys_path], usable[keys_path], source) if keys_path in opened else None
        key: bytes | None = None
        with suppress(Exception):  # what is wrong with the keys is found by their check
            key = None if keys is None else head_key(keys().lookup_key)
        logs = {
            table: LogRecorder(opened[file], table, usable[file], key)
            for file, table in ((path, EVENTS_TABLE), (reads_path, READS_TABLE))
            if file in opened
        }
        for log in logs.values():
            log.seen = seen.get(log.table.name)
        patient = Patient(
            path,
            logs.get(EVENTS_TABLE),
            logs.get(READS_TABLE),
            keys,
            status,
            progress,
            lock_timeout_s,
            models_elsewhere,
            signing_place(signing_key, signing_file(path)),
        )
        return [*findings, *_checked(patient, findings, quick)]


def examine_open(
    storage: Storage,
    logs: Sequence[LogRecorder],
    status: Callable[[], Sequence[Status]],
    *,
    quick: bool,
    progress: Progress | None,
) -> list[Finding]:
    """Check an open book, wherever it lies. `logs`: that of events and that of reads, which know what they saw."""
    events: Database = storage.events
    if isinstance(events, SQLiteDatabase) and not events.in_memory and isinstance(storage.keys, FileKeyStore):
        return examine(
            Path(events.name),
            status,
            quick=quick,
            progress=progress,
            lock_timeout_s=events.lock_timeout_s,
            models_elsewhere=storage.models is not events,
            wrapping_key=storage.keys.source,
            signing_key=UNSIGNED if storage.signing is None else storage.signing.place,
            seen={one.table.name: one.seen for one in logs},
        )
    patient = Patient(
        None,
        logs[0],
        logs[1],
        None if storage.keyless else lambda: storage.keys,
        status,
        progress,
        models_elsewhere=storage.models is not events,
        vkey=storage.vkey,
        in_sqlite=any(isinstance(one, SQLiteDatabase) and not one.in_memory for one in (events, storage.models)),
    )
    return _checked(patient, [], quick)


def _checked(patient: Patient, found: Sequence[Finding], quick: bool) -> list[Finding]:
    findings: list[Finding] = []
    for check in CHECKS:
        if not (quick and check.deep):
            patient.failed = any(one.state == FAILURE for one in (*found, *findings))
            findings += _run(check.name, check.run(patient))
    return findings


def _run(name: str, words: Iterator[Word]) -> list[Finding]:
    findings = []
    try:
        for word in words:
            findings.append(Finding(name, *word))  # noqa: PERF401 - what was found before an error counts
    except Exception as error:  # noqa: BLE001 - whatever a damaged book throws is what was found
        findings.append(Finding(name, *unchecked(error)))
    return findings


def _stream(stream: bytes) -> str:
    return str(known_uuid(stream)) if len(stream) == 16 else repr(stream)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
