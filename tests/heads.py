"""The heads of a book's logs, as somebody writes them who knows the format: with the book's keys, or without."""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import msgpack

from tallybook.adapters import merkle
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters.log import head_key
from tallybook.adapters.storage import beside, wrapping_key_beside
from tallybook.adapters.wrapping import FileWrappingKeys

Head = tuple[int, bytes, int, str, bytes, bytes]
"""position, frontier, how many sizes were signed, MAC, digest of what is erased, versions of the book's own streams"""


def key_of(path: Path) -> bytes:
    """What authenticates the heads of the book in a file: to be had with its keys only."""
    with closing(FileKeyStore(beside(path)[0], FileWrappingKeys(wrapping_key_beside(path)))) as store:
        return head_key(store.lookup_key)


def mac_of(
    key: bytes,
    origin: str,
    table: str,
    position: int,
    frontier: bytes,
    signed: int,
    erased: bytes = b"",
    own: bytes = b"",
) -> str:
    """A head's MAC, made a second time."""
    told: bytes = msgpack.packb([origin, table, position, frontier, signed, "", erased, own])
    return hmac.new(key, told, sha256).hexdigest()


def erased_in(raw: sqlite3.Connection) -> bytes:
    """The digest of the table erased, made a second time."""
    digest = b""
    for row in raw.execute("SELECT subject, key_id, position FROM erased ORDER BY position, subject, key_id"):
        digest = sha256(msgpack.packb([digest, *row])).digest()
    return digest


def own_in(rows: Sequence[tuple[Any, ...]], origin: str) -> bytes:
    """The versions of the book's own streams, as the rows of its log give them."""
    book = uuid5(NAMESPACE_OID, origin)
    own = [book, *(uuid5(book, name) for name in ("operations", "retention", "policy", "signing"))]
    versions = [max([0, *(version for _, stream, version, *_ in rows if stream == one.bytes)]) for one in own]
    return bytes(msgpack.packb(versions)) if any(versions) else b""


def head_in(file: Path, table: str = "stored_events") -> Head:
    """The head in a log's file."""
    with closing(sqlite3.connect(file)) as raw:
        [found] = raw.execute("SELECT position, frontier, signed, mac, erased, own FROM head WHERE log=?", [table])
        position, frontier, signed, mac, erased, own = found
        return position, frontier, signed, mac, erased or b"", own or b""


def put_head(file: Path, head: Head, table: str = "stored_events") -> None:
    """Put a head there."""
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute(
            "UPDATE head SET position=?, frontier=?, signed=?, mac=?, erased=?, own=? WHERE log=?", [*head, table]
        )


def fit_head(file: Path, key: bytes | None = None, table: str = "stored_events") -> None:
    """Have a log's head say what its rows give, and count the checkpoints that are there. Without the key, its MAC
    stays what it was."""
    with closing(sqlite3.connect(file)) as raw:
        [(origin,)] = raw.execute("SELECT value FROM book WHERE name='origin'")
        rows = raw.execute(f"SELECT * FROM {table} ORDER BY position").fetchall()
        [(signed,)] = raw.execute("SELECT COUNT(DISTINCT size) FROM checkpoints WHERE log=?", [table])
        erased = erased_in(raw) if table == "stored_events" else b""
    frontier = merkle.Frontier()
    frontier.append_hashes(merkle.row_hashes(origin, rows))
    packed = frontier.packed()
    was = head_in(file, table)
    own = own_in(rows, origin) if key is not None else was[5]
    mac = was[3] if key is None else mac_of(key, origin, table, len(rows), packed, signed, erased, own)
    put_head(file, (len(rows), packed, signed, mac, erased, own), table)
