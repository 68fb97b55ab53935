"""The suite of projections that the `eventsourcing` package ships, run with our recorders in files and on a server.

Not run of it: `TaggedDecisionCountersProjectionTestCase`, which asks for a recorder of tagged decisions (DCB). A book
has streams.
"""

from __future__ import annotations

import tempfile
from abc import ABC
from pathlib import Path
from typing import Any
from unittest import TestCase

import eventsourcing.tests.projection as shipped
import pytest
from eventsourcing.persistence import Tracking
from tests.conformance.test_eventsourcing_suites import FACTORY, Files, Server, ServerFactory
from tests.postgres import drop_schema, made_schema, schema_url

from tallybook.adapters.log import LogTrackingRecorder


class CountersView(LogTrackingRecorder, shipped.EventCountersView):
    """Two counters, each counted in the transaction that tracks the event."""

    def tracking_definitions(self) -> list[str]:
        return [
            *super().tracking_definitions(),
            "CREATE TABLE IF NOT EXISTS counters (kind {text} PRIMARY KEY, events {integer} NOT NULL){compact}",
        ]

    def get_created_event_counter(self) -> int:
        return self._counted("created")

    def get_subsequent_event_counter(self) -> int:
        return self._counted("subsequent")

    def incr_created_event_counter(self, tracking: Tracking) -> None:
        self._count("created", tracking)

    def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
        self._count("subsequent", tracking)

    def _counted(self, kind: str) -> int:
        return sum(events for (events,) in self.database.rows("SELECT events FROM counters WHERE kind=?", [kind]))

    def _count(self, kind: str, tracking: Tracking) -> None:
        with self.database.session(write=True) as session:
            session.run(
                "INSERT INTO counters VALUES (?, 1) ON CONFLICT (kind) DO UPDATE SET events=counters.events+1", [kind]
            )
            self.track_in(session, tracking)


class ViewSuite(shipped.EventCountersViewTestCase, ABC):
    __test__ = False

    make_database: Any

    def construct_event_counters_view(self) -> shipped.EventCountersView:
        view = CountersView(self.make_database())
        view.create_table()
        return view


class TestViewInFiles(Files, ViewSuite):
    __test__ = True


class TestViewOnAServer(Server, ViewSuite):
    __test__ = True


class InFiles(TestCase):
    """The environment of an application in a file."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.env = {
            "PERSISTENCE_MODULE": FACTORY,
            "SQLITE_DBNAME": str(Path(folder.name) / "suite.book"),
            "COUNTERS_SQLITE_DBNAME": str(Path(folder.name) / "counters.book"),  # another application, another log
        }


@pytest.mark.server
class OnAServer(TestCase):
    """That of one in a schema."""

    def setUp(self) -> None:
        schema, counters = made_schema(), made_schema()
        self.addCleanup(drop_schema, schema)
        self.addCleanup(drop_schema, counters)
        self.env = {
            "PERSISTENCE_MODULE": f"{ServerFactory.__module__}:{ServerFactory.__qualname__}",
            "SERVER_URL": schema_url(schema),
            "COUNTERS_SERVER_URL": schema_url(counters),
        }


class RunnerSuite(shipped.AggregateEventCountersProjectionTestCase, ABC):
    __test__ = False
    view_class = CountersView


class TestRunnerInFiles(InFiles, RunnerSuite):
    __test__ = True


class TestRunnerOnAServer(OnAServer, RunnerSuite):
    __test__ = True


class EventSourcedSuite(shipped.EventSourcedProjectionTestCase, ABC):
    __test__ = False


class TestEventSourcedProjectionInFiles(InFiles, EventSourcedSuite):
    __test__ = True


class TestEventSourcedProjectionOnAServer(OnAServer, EventSourcedSuite):
    __test__ = True
