"""The public suites, run on our own stores: in files, in memory and on a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from tests.postgres import drop_schema, made_schema, schema_url

from tallybook.adapters.database import Database
from tallybook.adapters.key_tables import FileKeyStore, WrappedKeyStore
from tallybook.adapters.keys import KeyName, KeyStore, MemoryKeyStore
from tallybook.adapters.log import EventStore, LogRecorder
from tallybook.adapters.postgres import PostgresDatabase
from tallybook.adapters.read_models import TableReadModelStore
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.adapters.wrapping import FileWrappingKeys
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


@pytest.mark.server
class OnServer:
    """Each store has a schema of its own."""

    @pytest.fixture(autouse=True)
    def schemas(self) -> Iterator[None]:
        self.made: list[str] = []
        yield
        for schema in self.made:
            drop_schema(schema)

    def new_database(self) -> PostgresDatabase:
        """In a new schema."""
        self.made.append(made_schema())
        return PostgresDatabase(schema_url(self.made[-1]))


def same_database(database: Database) -> PostgresDatabase:
    """Another handle on the same schema."""
    assert isinstance(database, PostgresDatabase)
    return PostgresDatabase(schema_url(database.schema))


class TestEventsOnAServer(OnServer, OnDatabase):
    text_streams = False

    def make(self, tmp_path: Path) -> EventStore:
        return recorder(self.new_database())

    def reopen(self, store: EventStore) -> EventStore:
        return LogRecorder(same_database(cast("LogRecorder", store).database), origin=ORIGIN)


class InTables(KeyStoreSuite):
    def forge(self, store: KeyStore, name: KeyName, position: int) -> None:
        with cast("WrappedKeyStore", store).database.session(write=True) as session:
            session.run(
                "UPDATE data_keys SET destroyed=?, wrapped=?, "
                "mac=(SELECT mac FROM data_keys ORDER BY mac DESC LIMIT 1) WHERE subject=? AND key_id=?",
                [position, b"", name[0].bytes, name[1]],
            )


class TestKeysInFiles(InTables):
    def make(self, tmp_path: Path) -> KeyStore:
        return FileKeyStore(tmp_path / "suite.keys", FileWrappingKeys(tmp_path / "suite.wrapping-key"), origin=ORIGIN)

    def reopen(self, store: KeyStore) -> KeyStore:
        files = cast("FileKeyStore", store)
        return FileKeyStore(files.path, files.source)


class TestKeysInMemory(KeyStoreSuite):
    durable = False

    def make(self, tmp_path: Path) -> KeyStore:
        return MemoryKeyStore(ORIGIN)


class TestKeysOnAServer(OnServer, InTables):
    def make(self, tmp_path: Path) -> KeyStore:
        database = self.new_database()
        with database.session(write=True) as session:
            for statement in WrappedKeyStore.definitions():
                session.define(statement)
            source = FileWrappingKeys(tmp_path / "suite.wrapping-key")
            WrappedKeyStore.begin(session.insert, ORIGIN, source, os.urandom(32))
        return WrappedKeyStore(database, ORIGIN, source)

    def reopen(self, store: KeyStore) -> KeyStore:
        wrapped = cast("WrappedKeyStore", store)
        return WrappedKeyStore(same_database(wrapped.database), ORIGIN, wrapped.source)

    def close(self, store: KeyStore) -> None:
        store.close()
        cast("WrappedKeyStore", store).database.close()


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


class TestRowsOnAServer(OnServer, RowsOnDatabase):
    def make(self, tmp_path: Path) -> ReadModelStore:
        return TableReadModelStore(self.new_database())

    def reopen(self, store: ReadModelStore) -> ReadModelStore:
        return TableReadModelStore(same_database(cast("TableReadModelStore", store).database))
