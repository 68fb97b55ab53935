"""The suites that the `eventsourcing` package ships for its recorders, run on ours, in files, in memory, on a server.

Not run: `eventsourcing.tests.projection`, which imports msgspec for its own aggregates; what it asks of a
`ProjectionRunner` is asked in `TestProjectionRunner…`. The suites print their rates; pytest keeps that to itself.
"""

from __future__ import annotations

import tempfile
import threading
from abc import ABC
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import TestCase
from uuid import UUID, uuid4

import eventsourcing.tests.persistence as shipped
import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import InfrastructureFactory, IntegrityError, ProgrammingError, StoredEvent, Tracking
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import Environment, get_topic
from tests.postgres import drop_schema, made_schema, schema_url

from tallybook.adapters.log import BookFactory, LogProcessRecorder, LogRecorder, LogTrackingRecorder
from tallybook.adapters.postgres import PostgresDatabase
from tallybook.adapters.sqlite import SQLiteDatabase

if TYPE_CHECKING:
    from eventsourcing.persistence import AggregateRecorder, ApplicationRecorder, ProcessRecorder, TrackingRecorder

ORIGIN = "tallybook/conformance"
FACTORY = f"{BookFactory.__module__}:{BookFactory.__qualname__}"


def join_threads() -> None:
    """The suite's readers are told to stop and not waited for: a database must not be closed under them."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(timeout=10)


class Files(TestCase):
    """Each test has a database file of its own."""

    def make_database(self) -> SQLiteDatabase:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        database = SQLiteDatabase(str(Path(folder.name) / "suite.book"))
        self.addCleanup(database.close)
        self.addCleanup(join_threads)
        return database


class Memory(TestCase):
    """Each test has a database in memory of its own."""

    def make_database(self) -> SQLiteDatabase:
        database = SQLiteDatabase(f"file:suite-{uuid4().hex}?mode=memory&cache=shared")
        self.addCleanup(database.close)
        self.addCleanup(join_threads)
        return database


@pytest.mark.server
class Server(TestCase):
    """Each test has a schema of its own on a PostgreSQL server."""

    def make_database(self) -> PostgresDatabase:
        schema = made_schema()
        database = PostgresDatabase(schema_url(schema))
        self.addCleanup(drop_schema, schema)
        self.addCleanup(database.close)
        self.addCleanup(join_threads)
        return database


class LogRecorderSuite(shipped.ApplicationRecorderTestCase[LogRecorder], ABC):
    __test__ = False

    make_database: Any

    def create_recorder(self) -> LogRecorder:
        recorder = LogRecorder(self.make_database(), origin=ORIGIN)
        recorder.create_table()
        return recorder

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestLogRecorderInFiles(Files, LogRecorderSuite):
    __test__ = True


class TestLogRecorderInMemory(Memory, LogRecorderSuite):
    __test__ = True


class TestLogRecorderOnAServer(Server, LogRecorderSuite):
    __test__ = True


class NonInterleavingSuite(shipped.NonInterleavingNotificationIDsBaseCase, ABC):
    __test__ = False

    make_database: Any

    def create_recorder(self) -> LogRecorder:
        recorder = LogRecorder(self.make_database(), origin=ORIGIN)
        recorder.create_table()
        return recorder


class TestPositionsOfOneCommitAreNeighboursInFiles(Files, NonInterleavingSuite):
    __test__ = True


class TestPositionsOfOneCommitAreNeighboursInMemory(Memory, NonInterleavingSuite):
    __test__ = True


class TestPositionsOfOneCommitAreNeighboursOnAServer(Server, NonInterleavingSuite):
    __test__ = True


class TrackingSuite(shipped.TrackingRecorderTestCase, ABC):
    __test__ = False

    make_database: Any

    def create_recorder(self) -> LogTrackingRecorder:
        recorder = LogTrackingRecorder(self.make_database())
        recorder.create_table()
        return recorder


class TestLogTrackingRecorderInFiles(Files, TrackingSuite):
    __test__ = True


class TestLogTrackingRecorderInMemory(Memory, TrackingSuite):
    __test__ = True


class TestLogTrackingRecorderOnAServer(Server, TrackingSuite):
    __test__ = True


class ProcessSuite(shipped.ProcessRecorderTestCase, ABC):
    __test__ = False

    make_database: Any

    def create_recorder(self) -> LogProcessRecorder:
        recorder = LogProcessRecorder(self.make_database())
        recorder.create_table()
        return recorder


class TestLogProcessRecorderInFiles(Files, ProcessSuite):
    __test__ = True


class TestLogProcessRecorderInMemory(Memory, ProcessSuite):
    __test__ = True


class TestLogProcessRecorderOnAServer(Server, ProcessSuite):
    __test__ = True


class AggregateExpectations(TestCase, ABC):
    """What `AggregateRecorderTestCase` expects of streams. It wants no positions back, and ours gives them, so its
    test can't run as it stands; everything else that it asks for is asked here."""

    __test__ = False

    make_database: Any

    def setUp(self) -> None:
        self.recorder = LogRecorder(self.make_database(), origin=ORIGIN)
        self.recorder.create_table()
        self.stream = uuid4()

    def event(self, version: int) -> StoredEvent:
        return StoredEvent(self.stream, version, f"topic{version}", f"state{version}".encode())

    def test_inserting_nothing_is_allowed_and_moves_nothing(self) -> None:
        assert not self.recorder.insert_events([])
        assert self.recorder.position() == 0

    def test_a_version_of_a_stream_is_written_once(self) -> None:
        self.recorder.insert_events([self.event(1)])
        with pytest.raises(IntegrityError):
            self.recorder.insert_events([self.event(1)])

    def test_an_insert_that_fails_leaves_no_event_position_or_leaf(self) -> None:
        self.recorder.insert_events([self.event(1)])
        before = self.recorder.head()
        with pytest.raises(IntegrityError):
            self.recorder.insert_events([self.event(2), self.event(1)])
        with pytest.raises(IntegrityError):
            self.recorder.insert_events([self.event(2), self.event(2)])
        after = self.recorder.head()
        assert self.recorder.select_events(self.stream) == [self.event(1)]
        assert (after.position, after.frontier.packed()) == (before.position, before.frontier.packed())

    def test_a_stream_is_read_by_version_forwards_backwards_and_in_part(self) -> None:
        events = [self.event(version) for version in (1, 2, 3)]
        self.recorder.insert_events(events[:1])
        self.recorder.insert_events(events[1:])
        select = self.recorder.select_events
        assert select(self.stream) == events
        assert select(self.stream, desc=True, limit=1) == [events[2]]
        assert select(self.stream, lte=2, desc=True, limit=1) == [events[1]]
        assert select(self.stream, gt=1, lte=2) == [events[1]]
        assert select(self.stream, gt=3) == []
        assert isinstance(select(self.stream)[0].state, bytes)

    def test_the_last_position_of_an_empty_log_is_none_and_its_extent_is_nothing(self) -> None:
        assert self.recorder.max_notification_id() is None
        assert (self.recorder.position(), self.recorder.extent()) == (0, (0, 0, 0))
        self.recorder.insert_events([self.event(1), self.event(2)])
        assert self.recorder.max_notification_id() == self.recorder.position() == 2
        assert self.recorder.extent() == (2, 1, 2)

    def test_appending_rows_is_inserting_events(self) -> None:
        append, stream = self.recorder.append, self.stream.bytes
        assert list(append([(stream, 1, "topic1", b"state1")])) == [1]
        assert list(append([(stream, 2, "topic2", b"state2"), (stream, 3, "topic3", b"state3")])) == [2, 3]
        assert list(append([])) == []
        with pytest.raises(IntegrityError):
            append([(stream, 4, "topic4", b"state4"), (stream, 3, "topic3", b"state3")])
        assert self.recorder.select_events(self.stream) == [self.event(version) for version in (1, 2, 3)]
        by_rows = self.recorder.head()
        other = LogRecorder(self.make_database(), origin=ORIGIN)
        other.create_table()
        other.insert_events([self.event(version) for version in (1, 2, 3)])
        assert by_rows.frontier.root() == other.head().frontier.root()

    def test_streams_are_told_apart(self) -> None:
        self.recorder.insert_events([self.event(1)])
        other = uuid4()
        assert self.recorder.select_events(other) == []
        self.recorder.insert_events([StoredEvent(other, 0, "topic", b"")])
        assert self.recorder.select_events(other) == [StoredEvent(other, 0, "topic", b"")]

    def test_stream_ids_may_be_texts_as_the_library_allows(self) -> None:
        self.recorder.insert_events([StoredEvent("a stream", 1, "topic", b"x")])
        assert self.recorder.select_events("a stream") == [StoredEvent("a stream", 1, "topic", b"x")]
        assert self.recorder.select_notifications(1, 10)[0].originator_id == "a stream"


class TestStreamsInFiles(Files, AggregateExpectations):
    __test__ = True

    def setUp(self) -> None:
        AggregateExpectations.setUp(self)


class TestStreamsInMemory(Memory, AggregateExpectations):
    __test__ = True

    def setUp(self) -> None:
        AggregateExpectations.setUp(self)


class TestStreamsOnAServer(Server, AggregateExpectations):
    __test__ = True

    def setUp(self) -> None:
        AggregateExpectations.setUp(self)

    def test_stream_ids_may_be_texts_as_the_library_allows(self) -> None:
        # A column has one type here, and that of a book's streams is a UUID's bytes.
        with pytest.raises(ProgrammingError, match="streams have UUIDs"):
            self.recorder.insert_events([StoredEvent("a stream", 1, "topic", b"x")])
        assert self.recorder.position() == 0


class OwnTrackingRecorder(LogTrackingRecorder):
    """A subclass, as the suite asks for one."""


class FactorySuite(shipped.InfrastructureFactoryTestCase[BookFactory], ABC):
    __test__ = False

    def expected_factory_class(self) -> type[BookFactory]:
        return BookFactory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return LogRecorder

    def expected_application_recorder_class(self) -> type[ApplicationRecorder]:
        return LogRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return LogTrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return OwnTrackingRecorder

    def expected_process_recorder_class(self) -> type[ProcessRecorder]:
        return LogProcessRecorder

    def test_the_module_alone_names_it(self) -> None:
        env = Environment("Suite", {**self.env, "PERSISTENCE_MODULE": BookFactory.__module__})
        assert type(InfrastructureFactory.construct(env)) is BookFactory

    def test_it_hands_out_our_database(self) -> None:
        assert isinstance(self.factory.database, SQLiteDatabase)

    def test_a_recorder_that_it_made_works(self) -> None:
        recorder = self.factory.application_recorder()
        assert recorder.insert_events([StoredEvent(uuid4(), 1, "topic", b"state")]) == [1]


class TestBookFactoryInMemory(FactorySuite):
    __test__ = True

    def setUp(self) -> None:
        self.env = Environment(
            "Suite",
            {
                "PERSISTENCE_MODULE": FACTORY,
                "SQLITE_DBNAME": f"file:suite-{uuid4().hex}?mode=memory&cache=shared",
            },
        )
        super().setUp()


class TestBookFactoryInFiles(FactorySuite):
    __test__ = True

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.env = Environment(
            "Suite",
            {"PERSISTENCE_MODULE": FACTORY, "SQLITE_DBNAME": str(Path(folder.name) / "suite.book")},
        )
        super().setUp()


class Noted(Aggregate):
    """Of the library's own kind: its events go through the library's own mapper."""

    class Written(Aggregate.Event):
        """A note."""

    def __init__(self) -> None:
        self.notes = 0

    @event(Written)
    def write(self) -> None:
        self.notes += 1


class Notes(Application[UUID]):
    """Writes `Noted`."""


class CountingView(LogTrackingRecorder):
    """How many events of each class there were, counted in the transaction that tracks them."""

    def tracking_definitions(self) -> list[str]:
        return [
            *super().tracking_definitions(),
            "CREATE TABLE IF NOT EXISTS counted (kind {text} PRIMARY KEY, events {integer} NOT NULL){compact}",
        ]

    def count(self, kind: str, tracking: Tracking) -> None:
        with self.database.session(write=True) as session:
            self.track_in(session, tracking)
            session.run(
                "INSERT INTO counted VALUES (?, 1) ON CONFLICT (kind) DO UPDATE SET events=counted.events+1", [kind]
            )

    def counts(self) -> dict[str, int]:
        return dict(self.database.rows("SELECT kind, events FROM counted"))


class Counting(Projection[CountingView]):
    """Counts, and stumbles over what it is told to stumble over."""

    stumbles_at: int | None = None

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        if tracking.notification_id == self.stumbles_at:
            raise ValueError("a poisonous event")
        self.view.count(type(domain_event).__name__, tracking)


class WrittenOnly(Counting):
    topics = (get_topic(Noted.Written),)


class RunnerSuite(TestCase, ABC):
    """The library's `ProjectionRunner` over our recorders: what the package's suite asks of it, with a view of ours."""

    __test__ = False

    env: dict[str, str]

    def tearDown(self) -> None:
        Counting.stumbles_at = None

    def runner(self, projection: type[Counting] = Counting) -> ProjectionRunner[Notes, CountingView]:
        return ProjectionRunner(
            application_class=Notes, projection_class=projection, view_class=CountingView, env=self.env
        )

    def test_what_was_written_before_and_what_comes_is_counted_once_and_a_later_run_goes_on(self) -> None:
        with self.runner() as runner:
            first = Noted()
            first.write()
            recordings = runner.app.save(first)
            runner.wait(recordings[-1].notification.id, timeout=30)
            assert runner.view.counts() == {"Created": 1, "Written": 1}
            first.write()
            first.write()
            runner.wait(runner.app.save(first)[-1].notification.id, timeout=30)
            assert runner.view.counts() == {"Created": 1, "Written": 3}
        if "mode=memory" in self.env["SQLITE_DBNAME"]:
            return  # gone with the runner
        with self.runner() as runner:
            last = runner.app.save(Noted())[-1].notification.id
            runner.wait(last, timeout=30)
            assert runner.view.counts() == {"Created": 2, "Written": 3}
            assert runner.view.max_tracking_id(runner.app_name) == last == 5

    def test_only_the_topics_of_the_projection_reach_it(self) -> None:
        with self.runner(WrittenOnly) as runner:
            noted = Noted()
            noted.write()
            runner.wait(runner.app.save(noted)[-1].notification.id, timeout=30)
            assert runner.view.counts() == {"Written": 1}

    def test_an_error_of_the_projection_ends_the_runner_and_is_raised(self) -> None:
        Counting.stumbles_at = 2
        with self.runner() as runner:
            noted = Noted()
            noted.write()
            runner.app.save(noted)
            with pytest.raises(ValueError, match="poisonous"):
                runner.run_forever(timeout=30)
            assert runner.view.counts() == {"Created": 1}


class TestProjectionRunnerInFiles(RunnerSuite):
    __test__ = True

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.env = {"PERSISTENCE_MODULE": FACTORY, "SQLITE_DBNAME": str(Path(folder.name) / "suite.book")}


class TestProjectionRunnerInMemory(RunnerSuite):
    __test__ = True

    def setUp(self) -> None:
        self.env = {
            "PERSISTENCE_MODULE": FACTORY,
            "SQLITE_DBNAME": f"file:suite-{uuid4().hex}?mode=memory&cache=shared",
        }
