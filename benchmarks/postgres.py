"""PostgreSQL: the floor, the stock recorder and ours, with writers that are processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import process_time
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict
from tests.postgres import drop_schema, made_schema, run_sql, schema_url, server_url

from tallybook.adapters.log import LogRecorder, NewRow, Receipt
from tallybook.adapters.postgres import PostgresDatabase

from .rows import OURS, RAW, STOCK

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 120
KEEPER = "from tests import postgres; postgres.SERVER = ('-c', 'max_connections=200'); postgres.keep()"
"""The server of the tests, but it syncs each commit to the disk."""
SERVER_VARIABLE = "TALLYBOOK_TEST_POSTGRES_URL"

Commits = Sequence[Sequence[NewRow]]


@contextmanager
def server() -> Iterator[str]:
    """A server of one's own, or the one that TALLYBOOK_TEST_POSTGRES_URL names, as it is; its version and promises."""
    if os.environ.get(SERVER_VARIABLE):
        yield settings()
        return
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert keeper.stdin
    assert keeper.stdout
    try:
        url = keeper.stdout.readline().strip()
        if not url:
            raise AssertionError(f"the server did not start: keeper ended with status {keeper.wait()}")
        os.environ[SERVER_VARIABLE] = url
        yield settings()
    finally:
        os.environ.pop(SERVER_VARIABLE, None)
        keeper.stdin.close()
        keeper.wait(timeout=30)


def settings() -> str:
    """What the server is, and what a commit on it promises."""
    version, *rest = (run_sql(f"SHOW {name}")[0][0] for name in ("server_version", "fsync", "synchronous_commit"))
    return "{}, fsync={}, synchronous_commit={}".format(version, *rest)


class Writer(ABC):
    """One of several that write to a schema. Connected, and its work is ready, once it is made."""

    @abstractmethod
    def __init__(self, schema: str, commits: Commits) -> None: ...

    @abstractmethod
    def make(self) -> None:
        """Make the tables."""

    @abstractmethod
    def run(self) -> None:
        """One transaction for each list of rows."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect."""


class RawWriter(Writer):
    """psycopg alone: one `INSERT … SELECT unnest` a commit, in binary form; positions from a sequence, no lock."""

    def __init__(self, schema: str, commits: Commits) -> None:
        self.connection = psycopg.connect(server_url(), autocommit=True, options=f"-c search_path={schema}")
        self.commits = commits

    def make(self) -> None:
        self.connection.execute(
            "CREATE TABLE stored_events (position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
            "originator_id BYTEA NOT NULL, originator_version BIGINT NOT NULL, topic TEXT NOT NULL, "
            "state BYTEA NOT NULL, UNIQUE (originator_id, originator_version))"
        )

    def run(self) -> None:
        cursor = self.connection.cursor(binary=True)
        for rows in self.commits:
            cursor.execute(
                "INSERT INTO stored_events (originator_id, originator_version, topic, state) "
                "SELECT * FROM unnest(%b::bytea[], %b::bigint[], %b::text[], %b::bytea[])",
                [list(column) for column in zip(*rows, strict=True)],
                prepare=True,
            )

    def close(self) -> None:
        self.connection.close()


class StockWriter(Writer):
    """`PostgresApplicationRecorder` with its defaults: its table lock, its sequence."""

    def __init__(self, schema: str, commits: Commits) -> None:
        named: dict[str, Any] = dict(conninfo_to_dict(server_url()))
        self.datastore = PostgresDatastore(
            named["dbname"],
            named.get("host", "localhost"),
            named.get("port", 5432),
            named["user"],
            named.get("password", ""),
            schema=schema,
        )
        with self.datastore.get_connection():
            pass  # its pool connects at the first use
        self.recorder = PostgresApplicationRecorder(self.datastore)
        self.commits = [
            [StoredEvent(_uuid(stream), version, name, state) for stream, version, name, state in rows]
            for rows in commits
        ]

    def make(self) -> None:
        self.recorder.create_table()

    def run(self) -> None:
        for events in self.commits:
            self.recorder.insert_events(events)

    def close(self) -> None:
        self.datastore.close()


class OurWriter(Writer):
    """`LogRecorder`, with a receipt in each commit."""

    def __init__(self, schema: str, commits: Commits) -> None:
        self.database = PostgresDatabase(schema_url(schema))
        self.log = LogRecorder(self.database, origin="benchmark", key=bytes(32))
        self.database.rows("SELECT 1")  # it connects at the first use
        self.commits = commits
        self.receipts = [Receipt(os.urandom(16), os.urandom(32), b'+"' + b"0" * 36 + b'"') for _ in commits]

    def make(self) -> None:
        self.log.create_table()

    def run(self) -> None:
        for rows, receipt in zip(self.commits, self.receipts, strict=True):
            self.log.append(rows, receipt=receipt)

    def close(self) -> None:
        self.database.close()


WRITERS: dict[str, type[Writer]] = {RAW: RawWriter, STOCK: StockWriter, OURS: OurWriter}


def _uuid(stream: bytes | str) -> UUID:
    assert isinstance(stream, bytes)
    return UUID(bytes=stream)


def _write(who: str, schema: str, commits: Commits, barrier: Barrier, answer: Connection) -> None:
    """A writing process: ready, go, and how much of the processor's time it took."""
    writer = WRITERS[who](schema, commits)
    try:
        barrier.wait()
        barrier.wait()
        started = process_time()
        writer.run()
        answer.send(process_time() - started)
    finally:
        writer.close()


class Writers:
    """Processes that write to a schema of their own at once: connected, and waiting for the start."""

    def __init__(self, who: str, work: Sequence[Commits]) -> None:
        self.count = sum(len(rows) for commits in work for rows in commits)
        self.schema = made_schema()
        maker = WRITERS[who](self.schema, ())
        maker.make()
        maker.close()
        # Spawned, not forked: a fork would inherit what this process has open.
        spawn = multiprocessing.get_context("spawn")
        self._barrier = spawn.Barrier(len(work) + 1, timeout=WAIT_S)
        self._answers: list[Connection] = []
        self._processes = []
        for commits in work:
            here, there = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_write, args=(who, self.schema, commits, self._barrier, there), daemon=True)
            process.start()
            there.close()
            self._answers.append(here)
            self._processes.append(process)
        self._barrier.wait()

    def run(self) -> float:
        """Start them and wait for the last; the processor's time that they took, in seconds."""
        self._barrier.wait()
        spent: list[float] = [answer.recv() for answer in self._answers]
        return sum(spent)

    def close(self) -> None:
        """Check that all rows are there, and drop the schema."""
        for process in self._processes:
            process.join(WAIT_S)
        [(count, distinct)] = run_sql(
            f"SELECT COUNT(*), COUNT(DISTINCT (originator_id, originator_version)) FROM {self.schema}.stored_events"
        )
        drop_schema(self.schema)
        if not count == distinct == self.count:
            raise AssertionError(f"{count} rows, {distinct} of them different, in the place of {self.count}")
