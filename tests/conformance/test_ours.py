"""The public suites, run on our own stores: in files and in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from tallybook.adapters.database import Database
from tallybook.adapters.keys import FileKeyStore, KeyStore, MemoryKeyStore
from tallybook.adapters.log import EventStore, LogRecorder
from tallybook.adapters.read_models import TableReadModelStore
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.projections.read_models import ReadModelStore
from tallybook.testing.conformance import EventStoreSuite, KeyStoreSuite, ReadModelStoreSuite

ORIGIN = "tallybook/conformance"


def recorder(database: Database) -> LogRecorder:
    """A log with its tables."""
    made = LogRecorder(database, origin=ORIGIN)
    made.create_table()
    return made


class OnDatabase(EventStoreSuite):
    """A recorder is closed with its database."""

    def close(self, store: EventStore) -> None:
        cast("LogRecorder", store).database.close()


class TestEventsInFiles(OnDatabase):
    def make(self, tmp_path: Path) -> EventStore:
        return recorder(SQLiteDatabase(str(tmp_path / "suite.book")))

    def reopen(self, store: EventStore) -> EventStore:
        return recorder(SQLiteDatabase(cast("LogRecorder", store).database.place))


class TestEventsInMemory(OnDatabase):
    durable = False

    def make(self, tmp_path: Path) -> EventStore:
        return recorder(SQLiteDatabase(f"file:suite-{uuid4().hex}?mode=memory&cache=shared"))


class TestKeysInFiles(KeyStoreSuite):
    def make(self, tmp_path: Path) -> KeyStore:
        return FileKeyStore(tmp_path / "suite.keys", origin=ORIGIN)

    def reopen(self, store: KeyStore) -> KeyStore:
        return FileKeyStore(cast("FileKeyStore", store).path)


class TestKeysInMemory(KeyStoreSuite):
    durable = False

    def make(self, tmp_path: Path) -> KeyStore:
        return MemoryKeyStore(ORIGIN)


class RowsOnDatabase(ReadModelStoreSuite):
    """A store is closed with its database."""

    def transaction(self, store: ReadModelStore) -> AbstractContextManager[Any]:
        return cast("TableReadModelStore", store).database.session(write=True)

    def close(self, store: ReadModelStore) -> None:
        cast("TableReadModelStore", store).database.close()


class TestRowsInFiles(RowsOnDatabase):
    def make(self, tmp_path: Path) -> ReadModelStore:
        return TableReadModelStore(SQLiteDatabase(str(tmp_path / "suite.rows")))

    def reopen(self, store: ReadModelStore) -> ReadModelStore:
        return TableReadModelStore(SQLiteDatabase(cast("TableReadModelStore", store).database.place))


class TestRowsInMemory(RowsOnDatabase):
    durable = False

    def make(self, tmp_path: Path) -> ReadModelStore:
        return TableReadModelStore(SQLiteDatabase(f"file:suite-{uuid4().hex}?mode=memory&cache=shared"))
