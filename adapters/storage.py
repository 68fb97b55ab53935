"""Where a book lies: three files side by side, a schema on a server, or memory. Opening checks before it touches.

shop.book                the log with its head, claims, receipts, and the read models
shop.book.keys           the subjects' data keys, wrapped (mode 0600; back it up apart, and for a short time)
shop.book.wrapping-key   what they are wrapped under (mode 0600; best in another place than they are)
shop.book.signing-key    what signs the book's checkpoints (mode 0600), unless another place is named
shop.book.reads          the log of reads of personal data
shop.book.archive        a folder: the clear columns of the log as Parquet, once somebody asks for them

A schema holds the same; the wrapping key lies on each host, in a file. It may also be a source of the host's own.
Read models may live elsewhere than the log: in an SQLite file or a schema of their own.
"""

from __future__ import annotations

import hmac
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgpack

from tallybook.domain.errors import BookError, BookNotFound, KeysMissing, ReadsMissing, SigningKeyMissing

from . import limits
from .database import FORMAT, NOTES, Database, damaged, sound
from .files import check_writable, is_ours
from .key_tables import FileKeyStore, WrappedKeyStore
from .keys import PUT_BACK, KeyStore, MemoryKeyStore, NoKeys, commitment, secret
from .log import EVENTS_TABLE, LogRecorder, head_key, log_of
from .merkle import DETACHED, is_detached
from .signing import ENVIRONMENT, UNSIGNED, SigningKeys, in_memory, keys_at, make_keys
from .sqlite import DEFAULT_LOCK_TIMEOUT_S, DIALECT, SQLiteDatabase, patiently, translated
from .wrapping import KEY_BYTES, FileWrappingKeys, WrappingKeys, home_of, wrapping_keys

if TYPE_CHECKING:
    from .postgres import PostgresDatabase

APPLICATION_ID = 0x7A11B00C
READS_APPLICATION_ID = 0x7A11B00D
MODELS_APPLICATION_ID = 0x7A11B00F
READS_TABLE = "access_records"
BOOK, MODELS = "tallybook", "tallybook read models"
"""What a schema notes to be."""
BESIDE_THE_LOG = "log:"
SIGNING = "vkey"
"""Under this name, a book notes the public key that signed its checkpoints when it was made."""
NOTES_MAC = "mac"
"""Under this name, a book notes a MAC over those of its notes that opening and verifying rest on."""
WRAPPING = "wrapping key"
"""Under this name, a book notes the fingerprint of the wrapping key that it was made with."""
LOOKUP = "lookup key"
"""Under this name, a book in files notes a commitment to its look-up key. On a server that key is sealed."""

BOUND = ("origin", LOOKUP, SIGNING, WRAPPING)
"""The notes that are made with the book, and never change. What is noted later (that there is a log of reads, where
read models live) is not relied on."""

logger = logging.getLogger("tallybook.storage")


@dataclass(frozen=True, slots=True)
class Storage:
    """The open parts of a book. A host may put them together itself, and give them to `tallybook.open`.

    `url` is what messages call the book. `origin` names it for good: its keys' origin. The log of events has the tables
    of `log_of(events, keys)`, that of reads those of `log_of(reads, keys, READS_TABLE)`; both may be in one database.
    Read models make their own tables in `models`, which may be that database too. The book closes them all.
    """

    url: str
    origin: str
    events: Database
    reads: Database
    models: Database
    keys: KeyStore
    options: Mapping[str, Any] | None = None
    """What `open_storage` needs to open it in another process; None for a book that only this process has."""
    signing: SigningKeys | None = None
    """What signs the checkpoints of both logs; None for a book that signs none."""
    pack_signing: SigningKeys | None = None
    """What signs the manifests of packs in a book that is opened without its data keys, and signs no checkpoint."""
    vkey: str | None = None
    """The public key that was noted when the book was made: rotations, which are events, lead from it to the present
    one."""
    first_wrapping: str | None = None
    """The fingerprint of the wrapping key that the book was made with: rotations lead from it to the present one. None
    where none is noted."""

    @property
    def keyless(self) -> bool:
        """Whether it was opened without its data keys: to be verified, and not to be worked with."""
        return isinstance(self.keys, NoKeys)

    @property
    def kept_in(self) -> list[Database]:
        """The databases that hold what can't be made anew: the logs, and the keys."""
        keys = [self.keys.database] if isinstance(self.keys, WrappedKeyStore) else []
        return list(dict.fromkeys((self.events, self.reads, *keys)))

    def close(self) -> None:
        """Release all files and connections."""
        for database in dict.fromkeys((self.events, self.reads, self.models)):
            database.close()
        self.keys.close()


def open_storage(
    url: str,
    *,
    create: bool,
    lock_timeout_s: int,
    wrapping_key: str | Path | WrappingKeys | None = None,
    read_models: str | None = None,
    signing_key: str | Path | None = None,
    detached: bool | None = None,
    keyless: bool = False,
) -> Storage:
    """Open or make a book: `sqlite:///relative/path`, `sqlite:////absolute/path`, `postgresql://…`, `memory:`.

    `wrapping_key` is a file or a `WrappingKeys`; `read_models` a URL, where they live elsewhere than the log. The log
    notes that place; a book that is opened without it later says so in the log `tallybook.storage`, and builds them
    anew. `signing_key` is a file, "env:NAME", or "unsigned". `detached` is how the book is made, or must have been.
    `keyless` opens a book that is there without its data keys, to be read only: it signs no checkpoint.
    """
    if not isinstance(url, str):
        raise _names_no_book(url)
    if url in ("memory:", "memory://"):
        if keyless:
            raise BookNotFound("A book in memory is new: none is there to verify.", path=url, remedy="Name a book.")
        storage = _in_memory(url, lock_timeout_s, detached)
    elif url.startswith(SERVER_SCHEMES):
        storage = _on_server(url, create, lock_timeout_s, wrapping_key, signing_key, detached, keyless)
    else:
        path = _path_of(url)
        try:
            if keyless:
                storage = _files_without_keys(url, path, lock_timeout_s, signing_key)
            else:
                storage = _in_files(url, path, create, lock_timeout_s, wrapping_key, signing_key, detached)
        except OSError as error:
            raise _cant_be_opened(path, error) from error
    try:
        _check_detached(storage, detached)
        if read_models is None or (keyless and read_models == BESIDE_THE_LOG):
            elsewhere = models_noted(storage.events)
            if elsewhere is not None:
                logger.warning(
                    "The read models of %s live at %s. It is opened without: they are built anew beside its log. "
                    'Name that place with `read_models`, or give them up with read_models="%s".',
                    storage.url,
                    elsewhere,
                    BESIDE_THE_LOG,
                )
            return storage
        if read_models == BESIDE_THE_LOG:
            _note_models(storage.events, None)
            return storage
        models = _models_elsewhere(read_models, storage.origin, lock_timeout_s)
        try:
            if not keyless:
                _note_models(storage.events, models.place)
        except BaseException:
            models.close()
            raise
    except BaseException:
        storage.close()
        raise
    options = None if storage.options is None else {**storage.options, "read_models": read_models}
    return replace(storage, models=models, options=options)


def models_noted(events: Database) -> str | None:
    """Where a book's read models live, if it was opened with a place of their own: without a password."""
    return noted(events, "read_models")


def noted(events: Database, name: str) -> str | None:
    """What the database of a log notes of itself under a name."""
    if not events.has_table(NOTES.name):  # in memory
        return None
    rows = events.rows("SELECT value FROM book WHERE name=?", [name])
    return str(rows[0][0]) if rows else None


def notes_of(events: Database) -> dict[str, str]:
    """What the database of a log notes of itself. Raises BookDamaged."""
    rows = events.rows("SELECT name, value FROM book")
    return dict(sound(NOTES, rows, events.place))


def notes_mac(lookup_key: bytes, notes: Mapping[str, str]) -> str:
    """What authenticates a book's notes. Whoever has the database alone lacks the key."""
    told: bytes = msgpack.packb([[name, notes.get(name)] for name in BOUND])
    return hmac.digest(secret(lookup_key, NOTES.name), told, sha256).hex()


def check_notes(events: Database, lookup_key: bytes) -> None:
    """Raises BookDamaged where the notes of a book are not those that it was made with: who exchanges the public key
    that they name, or the wrapping key, is not believed."""
    if not events.has_table(NOTES.name):  # in memory, or of a host's own
        return
    notes = notes_of(events)
    if not hmac.compare_digest(notes.get(NOTES_MAC, "").encode(), notes_mac(lookup_key, notes).encode()):
        raise damaged(
            "What the table book notes (the book's name, the first key that signs, the first wrapping key) bears a MAC "
            "that was not made with the keys of this book",
            events.place,
        )


def _note_models(events: Database, place: str | None) -> None:
    if models_noted(events) == place or not events.has_table(NOTES.name):
        return
    with events.session(write=True) as session:
        if place is None:
            session.run("DELETE FROM book WHERE name='read_models'")
        else:
            session.upsert(NOTES, [("read_models", place)])


SERVER_SCHEMES = ("postgresql://", "postgres://")


def _path_of(url: str) -> Path:
    path = file_of(url)
    if path is None:
        raise _names_no_book(url)
    return path


def _shown(url: object) -> str:
    """Of something that is no URL: without what may be a password."""
    shown = str(url).encode(errors="replace").decode()
    if "@" in shown or "password" in shown.lower():
        scheme, separator, _ = shown.partition("://")
        return f"{scheme[:12]}://…" if separator else "…"
    return shown


def _names_no_place(url: object) -> BookError:
    shown = _shown(url)
    return BookError(
        f"{shown!r} names no place for read models of their own.",
        path=shown,
        remedy='Write "sqlite:///models.db" (four slashes for an absolute path) or '
        '"postgresql://user@host/database?schema=models"; leave `read_models` out to keep them beside the log.',
    )


def _names_no_book(url: object) -> BookError:
    shown = _shown(url)
    return BookError(
        f"{shown!r} names no book.",
        path=shown,
        remedy='Write "sqlite:///shop.book" (four slashes for an absolute path), '
        '"postgresql://user@host/database?schema=shop" or "memory:".',
    )


def _cant_be_opened(path: Path, error: OSError) -> BookError:
    return limits.of_error(error, str(path)) or BookError(
        f"{path} can't be opened: {error.strerror or error}.",
        path=str(path),
        remedy="Check the name, its owner and its mode.",
    )


def file_of(url: str) -> Path | None:
    """The file that a `sqlite:///` URL names, as an absolute path; None for any other."""
    prefix = "sqlite:///"
    if not isinstance(url, str) or not url.startswith(prefix) or len(url) == len(prefix) or "\x00" in url:
        return None
    try:
        url.encode()
    except UnicodeError:
        return None
    return Path(os.path.abspath(url.removeprefix(prefix)))


def beside(path: Path) -> tuple[Path, Path]:
    """The key file and the log of reads of the book in a file."""
    return path.with_name(path.name + ".keys"), path.with_name(path.name + ".reads")


def wrapping_key_beside(path: Path) -> Path:
    """Where the wrapping key of the book in a file lies, if no other place is named."""
    return path.with_name(path.name + ".wrapping-key")


def archive_beside(path: Path) -> Path:
    """Where the archive of the book in a file is, if no other place is named."""
    return path.with_name(path.name + ".archive")


def _in_memory(url: str, lock_timeout_s: int, detached: bool | None) -> Storage:
    origin = _new_origin(detached)
    stores = [
        SQLiteDatabase(f"file:tallybook-{uuid4().hex}?mode=memory&cache=shared", lock_timeout_s=lock_timeout_s)
        for _ in range(2)
    ]
    keys, signing = MemoryKeyStore(origin), in_memory(origin)
    log_of(stores[0], keys).create_table()
    log_of(stores[1], keys, READS_TABLE).create_table()
    vkey = signing.signers()[0].vkey
    return Storage(url, origin, stores[0], stores[1], stores[0], keys, signing=signing, vkey=vkey)


def signing_place(given: str | Path | None, default: Path) -> str:
    """Where a book's signing key is: as given ("env:NAME", "unsigned" or a file), or at its default."""
    if isinstance(given, str) and (given.startswith(ENVIRONMENT) or given == UNSIGNED):
        return given
    return os.path.abspath(default if given is None else given)


def signing_file(path: Path) -> Path:
    """The default place of the signing key of the book in a file."""
    return path.with_name(path.name + ".signing-key")


def _signing(origin: str, place: str, vkey: str | None, book: str) -> SigningKeys | None:
    if vkey is None:
        raise damaged("The table book does not note the key that signs the book's checkpoints", book)
    return None if place == UNSIGNED else keys_at(origin, place)


def _in_files(
    url: str,
    path: Path,
    create: bool,
    lock_timeout_s: int,
    wrapping_key: str | Path | WrappingKeys | None,
    signing_key: str | Path | None,
    detached: bool | None,
) -> Storage:
    place = signing_place(signing_key, signing_file(path))
    keys_path, reads_path = beside(path)
    source = wrapping_keys(wrapping_key, wrapping_key_beside(path))
    if not path.parent.is_dir():
        raise BookError(f"The folder {path.parent} is not there.", path=str(path), remedy="Make it first.")
    exists = is_ours(path, APPLICATION_ID, lock_timeout_s=lock_timeout_s)
    if not exists and not create:
        raise BookNotFound(
            f"There is no book at {path}.", path=str(path), remedy="Check the path, or make one with `tallybook.open`."
        )
    for one in (path, keys_path, reads_path):
        check_writable(one)
    keys: FileKeyStore | None = None
    try:
        if not exists:
            keys = FileKeyStore(keys_path, source, origin=_new_origin(detached), lock_timeout_s=lock_timeout_s)
            # Another process may have made the book, and used it, since we looked: count first, then look again.
            used = keys.count()
            exists = is_ours(path, APPLICATION_ID, lock_timeout_s=lock_timeout_s)
            if not exists and used:
                raise KeysMissing(
                    f"{keys_path} holds the keys of a book, and the book {path} is not there.",
                    path=str(path),
                    remedy="Put the book back from its backup, or move the key file away.",
                )
            if not exists and is_ours(reads_path, READS_APPLICATION_ID, "log of reads", lock_timeout_s=lock_timeout_s):
                # A book is there before its log of reads is.
                exists = is_ours(path, APPLICATION_ID, lock_timeout_s=lock_timeout_s)
                if not exists:
                    raise BookNotFound(
                        f"{reads_path} is the log of reads of a book, and the book {path} is not there.",
                        path=str(path),
                        remedy="Put the book back from its backup, or move the log of reads away.",
                    )
            if not exists:
                notes = {
                    "origin": keys.origin,
                    LOOKUP: commitment(keys.lookup_key).hex(),
                    SIGNING: _made(keys.origin, place),
                    WRAPPING: keys.wrapping(),
                }
                make_log_file(
                    path,
                    APPLICATION_ID,
                    EVENTS_TABLE,
                    keys.origin,
                    head_key(keys.lookup_key),
                    lock_timeout_s,
                    {**notes, NOTES_MAC: notes_mac(keys.lookup_key, notes)},
                )
        if keys is None:
            book = note(path, "origin", lock_timeout_s) or ""
            keys = FileKeyStore(keys_path, source, book=book, lock_timeout_s=lock_timeout_s)
        origin = note(path, "origin", lock_timeout_s) or ""
        if keys.origin != origin:
            raise KeysMissing(
                f"{keys_path} holds the keys of another book ({keys.origin}, not {origin}).",
                path=str(path),
                remedy="Put back the key file that belongs to this book.",
            )
        check_lookup_key(note(path, LOOKUP, lock_timeout_s), keys.lookup_key, keys_path)
        _open_reads(path, reads_path, origin, head_key(keys.lookup_key), lock_timeout_s)
        vkey = note(path, SIGNING, lock_timeout_s)
        signing = _signing(origin, place, vkey, str(path))
        first_wrapping = note(path, WRAPPING, lock_timeout_s)
    except BaseException as error:
        if keys:
            keys.close()
        if isinstance(error, sqlite3.Error):
            raise translated(error, str(path)) from error
        raise
    stores = [SQLiteDatabase(str(file), lock_timeout_s=lock_timeout_s, create=False) for file in (path, reads_path)]
    try:
        check_notes(stores[0], keys.lookup_key)
    except BaseException:
        for store in stores:
            store.close()
        keys.close()
        raise
    return Storage(
        url,
        origin,
        stores[0],
        stores[1],
        stores[0],
        keys,
        _options(f"sqlite:///{path}", lock_timeout_s, source, place),
        signing,
        vkey=vkey,
        first_wrapping=first_wrapping,
    )


def _files_without_keys(url: str, path: Path, lock_timeout_s: int, signing_key: str | Path | None) -> Storage:
    """A book in files that is there, without its keys."""
    if not is_ours(path, APPLICATION_ID, lock_timeout_s=lock_timeout_s):
        raise BookNotFound(f"There is no book at {path}.", path=str(path), remedy="Check the path.")
    reads_path = beside(path)[1]
    try:
        origin = note(path, "origin", lock_timeout_s) or ""
        _check_reads(reads_path, origin, lock_timeout_s)
        vkey = note(path, SIGNING, lock_timeout_s)
    except sqlite3.Error as error:
        raise translated(error, str(path)) from error
    signing = _signing_if_there(origin, signing_place(signing_key, signing_file(path)), vkey, str(path))
    events, reads = (
        SQLiteDatabase(str(file), lock_timeout_s=lock_timeout_s, create=False, read_only=True)
        for file in (path, reads_path)
    )
    return Storage(url, origin, events, reads, events, NoKeys(origin, url), vkey=vkey, pack_signing=signing)


def _signing_if_there(origin: str, place: str, vkey: str | None, book: str) -> SigningKeys | None:
    try:
        return _signing(origin, place, vkey, book)
    except SigningKeyMissing:
        return None


def _open_reads(path: Path, reads_path: Path, origin: str, key: bytes | None, lock_timeout_s: int) -> None:
    """Make the log of reads once; after that it must be there, and be this book's."""
    with closing(sqlite3.connect(path, timeout=lock_timeout_s)) as connection:
        # Whoever deletes that note does not get an empty log: there is no event before there is a log of reads.
        [(noted,)] = connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM book WHERE name='reads') OR EXISTS (SELECT 1 FROM {EVENTS_TABLE})"  # noqa: S608 - a name of ours
        )
    if noted or is_ours(reads_path, READS_APPLICATION_ID, "log of reads", lock_timeout_s=lock_timeout_s):
        _check_reads(reads_path, origin, lock_timeout_s)
    else:
        make_log_file(reads_path, READS_APPLICATION_ID, READS_TABLE, origin, key, lock_timeout_s)
    if not noted:
        with closing(sqlite3.connect(path, timeout=lock_timeout_s)) as connection, connection:
            connection.execute("INSERT OR IGNORE INTO book VALUES ('reads', 'made')")


def _check_reads(reads_path: Path, origin: str, lock_timeout_s: int) -> None:
    """Raises ReadsMissing where a book's log of reads is not there, or is another book's."""
    if not is_ours(reads_path, READS_APPLICATION_ID, "log of reads", lock_timeout_s=lock_timeout_s):
        raise ReadsMissing(
            f"The log of reads {reads_path} is not there.",
            path=str(reads_path),
            remedy="Put it back from its backup: without it, nobody can tell who saw whose data.",
        )
    found = note(reads_path, "origin", lock_timeout_s)
    if found != origin:
        raise ReadsMissing(
            f"{reads_path} is the log of reads of another book ({found}, not {origin}).",
            path=str(reads_path),
            remedy="Put back the one that belongs to this book.",
        )


def _made(origin: str, place: str) -> str:
    """The public key that a new book notes. On disk before the book is."""
    if place == UNSIGNED:
        raise BookError(
            "A new book has a signing key from its beginning.",
            path=place,
            remedy='Leave `signing_key` out, or name a place for it: a file, or "env:NAME".',
        )
    return make_keys(origin, place)


def _new_origin(detached: bool | None) -> str:
    return f"{DETACHED if detached else 'tallybook/'}{uuid4().hex}"


def _check_detached(storage: Storage, wanted: bool | None) -> None:
    """Raises BookError for a book that was made the other way: its leaves are committed."""
    found = is_detached(storage.origin)
    if wanted not in (None, found):
        raise BookError(
            f"{storage.url} {'is' if found else 'is not'} detached: its log commits to "
            f"{'the hashes of states only' if found else 'the states themselves'}. That was fixed when it was made.",
            path=storage.url,
            remedy="Leave `detached` out to open it as it is, or make a new book.",
        )


def note(path: Path, name: str, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S) -> str | None:
    """What a log's file notes of itself under a name."""
    with closing(sqlite3.connect(path, timeout=lock_timeout_s)) as connection:
        row = connection.execute("SELECT value FROM book WHERE name=?", (name,)).fetchone()
        return None if row is None else str(row[0])


def check_lookup_key(known: str | None, lookup_key: bytes, path: Path) -> None:
    """Raises KeysMissing where a look-up key is not the one that the book notes a commitment to: with another, no
    external id, order or command id would be found again. Books of before that note have none."""
    if known not in (None, commitment(lookup_key).hex()):
        raise KeysMissing(f"{path} holds another look-up key than the book's.", path=str(path), remedy=PUT_BACK)


def make_log_file(
    path: Path,
    application_id: int,
    table: str,
    origin: str,
    key: bytes | None = None,
    lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Make a log's file in one transaction, unless another process was faster. `key` authenticates its head."""
    definitions = LogRecorder(SQLiteDatabase(str(path)), table, origin, key).definitions()
    _make_file(path, application_id, definitions, origin, lock_timeout_s, notes)


def _make_file(
    path: Path,
    application_id: int,
    definitions: Sequence[str],
    origin: str,
    lock_timeout_s: float,
    notes: Mapping[str, str] | None = None,
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=lock_timeout_s)) as connection:
        patiently(lambda: connection.execute("PRAGMA journal_mode=WAL"), lock_timeout_s)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA application_id").fetchone()[0] == 0:
            for statement in definitions:
                connection.execute(statement.format_map(DIALECT))
            connection.execute("CREATE TABLE book (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")
            connection.executemany("INSERT INTO book VALUES (?, ?)", list({"origin": origin, **(notes or {})}.items()))
            connection.execute(f"PRAGMA application_id={application_id}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")


# ── on a server ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _on_server(
    url: str,
    create: bool,
    lock_timeout_s: int,
    wrapping_key: str | Path | WrappingKeys | None,
    signing_key: str | Path | None,
    detached: bool | None,
    keyless: bool,
) -> Storage:
    from .postgres import PostgresDatabase

    database = PostgresDatabase(url, lock_timeout_s=lock_timeout_s, read_only=keyless)
    try:
        database.check_server()
        notes = database.notes(BOOK)
        if notes is None:
            if not create or keyless:
                raise BookNotFound(
                    f"There is no book at {database.place}.",
                    path=database.place,
                    remedy="Check the schema, or make a book with `tallybook.open`.",
                )
            notes = _made_on_server(database, wrapping_key, signing_key, detached)
        origin = notes["origin"]
        source = wrapping_keys(wrapping_key, home_of(origin))
        if keyless:
            vkey, place = noted(database, SIGNING), signing_place(signing_key, _signing_file_of(origin, source))
            signing = _signing_if_there(origin, place, vkey, database.place)
            none = NoKeys(origin, database.place)
            return Storage(database.place, origin, database, database, database, none, vkey=vkey, pack_signing=signing)
        keys = WrappedKeyStore(database, origin, source)
        keys.finish_rotation()
        check_notes(database, keys.lookup_key)
        place = signing_place(signing_key, _signing_file_of(origin, source))
        vkey = noted(database, SIGNING)
        signing = _signing(origin, place, vkey, database.place)
    except BaseException:
        database.close()
        raise
    options = _options(url, lock_timeout_s, source, place)
    first_wrapping = noted(database, WRAPPING)
    return Storage(
        database.place,
        origin,
        database,
        database,
        database,
        keys,
        options,
        signing,
        vkey=vkey,
        first_wrapping=first_wrapping,
    )


def _signing_file_of(origin: str, source: WrappingKeys) -> Path:
    """The default place of the signing key of a book on a server: beside its wrapping key, if that is a file."""
    beside_it = source.path if isinstance(source, FileWrappingKeys) else home_of(origin)
    return beside_it.with_name(f"{origin.rpartition('/')[2]}.signing-key")


def _options(url: str, lock_timeout_s: int, source: WrappingKeys, signing_key: str) -> Mapping[str, Any] | None:
    """What opens a book in another process. A source of the host's own is in this process alone."""
    if not isinstance(source, FileWrappingKeys):
        return None
    return {
        "url": url,
        "lock_timeout_s": lock_timeout_s,
        "wrapping_key": os.path.abspath(source.path),
        "signing_key": signing_key,
    }


def _made_on_server(
    database: PostgresDatabase,
    wrapping_key: str | Path | WrappingKeys | None,
    signing_key: str | Path | None,
    detached: bool | None,
) -> dict[str, str]:
    """Make a book's schema and tables in one transaction, unless another host was faster; what the schema notes."""
    origin = _new_origin(detached)
    with database.making(BOOK, origin) as (session, notes):
        if session is not None:
            source = wrapping_keys(wrapping_key, home_of(origin))
            place = signing_place(signing_key, _signing_file_of(origin, source))
            notes |= {SIGNING: _made(origin, place)}
            lookup_key = os.urandom(KEY_BYTES)
            for statement in (
                *LogRecorder(database, EVENTS_TABLE, origin, head_key(lookup_key)).definitions(),
                *LogRecorder(database, READS_TABLE, origin, head_key(lookup_key)).definitions(),
                *WrappedKeyStore.definitions(),
            ):
                session.define(statement)
            notes |= {WRAPPING: WrappedKeyStore.begin(session.insert, origin, source, lookup_key)}
            notes |= {NOTES_MAC: notes_mac(lookup_key, notes)}
            session.insert(NOTES, [(name, notes[name]) for name in (SIGNING, WRAPPING, NOTES_MAC)])
    return notes


def _models_elsewhere(url: str, origin: str, lock_timeout_s: int) -> Database:
    """A database of read models, which belongs to one book. Raises NotABook, and BookError for another book's."""
    database: Database
    if not isinstance(url, str):
        raise _names_no_place(url)
    if url.startswith(SERVER_SCHEMES):
        from .postgres import PostgresDatabase

        database = PostgresDatabase(url, lock_timeout_s=lock_timeout_s)
        try:
            database.check_server()
            with database.making(MODELS, origin) as (_, notes):
                found: str | None = notes["origin"]
        except BaseException:
            database.close()
            raise
    else:
        path = file_of(url)
        if path is None:
            raise _names_no_place(url)
        try:
            if not path.parent.is_dir():
                raise BookError(f"The folder {path.parent} is not there.", path=str(path), remedy="Make it first.")
            if not is_ours(path, MODELS_APPLICATION_ID, "file of read models", lock_timeout_s=lock_timeout_s):
                _make_file(path, MODELS_APPLICATION_ID, [], origin, lock_timeout_s)
            found = note(path, "origin", lock_timeout_s)
        except OSError as error:
            raise _cant_be_opened(path, error) from error
        except sqlite3.Error as error:
            raise translated(error, str(path)) from error
        database = SQLiteDatabase(str(path), lock_timeout_s=lock_timeout_s)
    if found != origin:
        place = database.place
        database.close()
        raise BookError(
            f"{place} holds the read models of another book ({found}, not {origin}).",
            path=place,
            remedy="Name another place for them, or remove this one: read models are derived from the log.",
        )
    return database
