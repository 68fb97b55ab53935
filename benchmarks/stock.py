"""The stock way of the `eventsourcing` package: its `Application`, dataclass events, JSON transcoder, SQLite recorder.

The events hold what Tallybook's hold, in the form that is fastest for the package: `apply` methods on the event
classes (no decorators), integers for times and amounts, lines as plain JSON objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import StoredEvent, Tracking
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteDatastore,
    SQLiteTrackingRecorder,
)
from eventsourcing.utils import Environment, EnvType

from tallybook.adapters.clock import new_id

from .raw import assert_durable
from .workload import ACTOR, CURRENCY, FIRST_US, PURPOSE, Sale

StockLine = dict[str, Any]


class StockCustomer(Aggregate):
    """A customer with purchases."""

    class Registered(Aggregate.Created):
        """The shop knows the customer."""

        event_id: UUID
        effective_us: int
        actor: str
        purpose: str
        kind: str
        source: str

    class Purchased(Aggregate.Event):
        """The customer bought."""

        event_id: UUID
        effective_us: int
        actor: str
        purpose: str
        currency: str
        lines: list[StockLine]
        store: str | None
        order_id: str | None

        def apply(self, aggregate: Any) -> None:
            """Keep the lines, as Tallybook's customer does."""
            aggregate.purchases[self.event_id] = self.lines

    class Interacted(Aggregate.Event):
        """The customer came by, called or wrote."""

        event_id: UUID
        effective_us: int
        actor: str
        purpose: str
        kind: str
        direction: str
        outcome: str | None
        text: str | None

        def apply(self, aggregate: Any) -> None:
            """Nothing is kept of it, as in Tallybook's customer."""

    def __init__(self, *, event_id: UUID, effective_us: int, actor: str, purpose: str, kind: str, source: str) -> None:
        self.kind = kind
        self.purchases: dict[UUID, list[StockLine]] = {}

    @classmethod
    def register(cls, effective_us: int) -> StockCustomer:
        """A new customer."""
        return cls._create(
            cls.Registered,
            event_id=new_id(),
            effective_us=effective_us,
            actor=ACTOR,
            purpose=PURPOSE,
            kind="person",
            source="shop",
        )

    def purchase(
        self, sku: str, quantity: int, net_minor: int, tax_minor: int, at_us: int, order_id: str | None
    ) -> None:
        """Record a purchase of one line."""
        self.trigger_event(
            self.Purchased,
            event_id=new_id(),
            effective_us=at_us,
            actor=ACTOR,
            purpose=PURPOSE,
            currency=CURRENCY,
            lines=[
                {
                    "sku": sku,
                    "quantity": quantity,
                    "net_minor": net_minor,
                    "category": None,
                    "tax_minor": tax_minor,
                    "shipping_minor": 0,
                    "discount_minor": 0,
                }
            ],
            store=None,
            order_id=order_id,
        )

    def buy(self, sale: Sale) -> None:
        """Record a purchase of the workload."""
        self.purchase(
            sale.sku, sale.quantity, sale.net_minor, sale.tax_minor, FIRST_US + sale.number * 1_000_000, sale.order_id
        )

    def interact(self, kind: str, at_us: int) -> None:
        """Record an interaction."""
        self.trigger_event(
            self.Interacted,
            event_id=new_id(),
            effective_us=at_us,
            actor=ACTOR,
            purpose=PURPOSE,
            kind=kind,
            direction="in",
            outcome=None,
            text=None,
        )


def _project(aggregate: StockCustomer | None, events: Iterable[Any]) -> StockCustomer | None:
    for event in events:
        aggregate = event.mutate(aggregate)
    return aggregate


class StockShop(Application[UUID]):
    """The package's application, as it comes, over an SQLite file."""

    def __init__(self, path: Path, *, cached: int | None = None) -> None:
        self._settings = {
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(path),
            **({} if cached is None else {"AGGREGATE_CACHE_MAXSIZE": str(cached)}),
        }
        super().__init__()
        assert isinstance(self.recorder, SQLiteApplicationRecorder)
        _assert_durable(self.recorder.datastore)

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        """Nothing from this process's environment: it would win over what is wanted here."""
        return Environment(name, self._settings)

    def customer(self, customer_id: UUID) -> StockCustomer:
        """A customer, from its events or the cache."""
        found: StockCustomer = self.repository.get(customer_id)
        return found

    def customer_without_assertion(self, customer_id: UUID) -> StockCustomer:
        """The same with a projector function of one's own."""
        found: StockCustomer = self.repository.get(customer_id, projector_func=_project)
        return found

    def registered(self, count: int) -> list[StockCustomer]:
        """New customers, stored."""
        made = [StockCustomer.register(FIRST_US) for _ in range(count)]
        self.save(*made)
        return made

    def history(self, page: int) -> Iterator[Any]:
        """All events, so many rows at a time."""
        position = 0
        while notifications := self.recorder.select_notifications(position, page, inclusive_of_start=False):
            position = notifications[-1].id
            for notification in notifications:
                yield self.mapper.to_domain_event(notification)

    def events_from_new_log(self, page: int) -> Iterator[tuple[Any, Tracking]]:
        """All events with their tracking, as the package's subscriptions give them."""
        position = 0
        while notifications := self.recorder.select_notifications(position, page, inclusive_of_start=False):
            position = notifications[-1].id
            for notification in notifications:
                tracking = Tracking(self.name, notification.id)
                yield self.mapper.to_domain_event(notification), tracking


class StockRecorder:
    """The package's recorder alone."""

    def __init__(self, path: Path) -> None:
        self._datastore = SQLiteDatastore(str(path))
        self._recorder = SQLiteApplicationRecorder(self._datastore)
        self._recorder.create_table()
        _assert_durable(self._datastore)

    def append(self, commits: Sequence[Sequence[StoredEvent]]) -> None:
        """Insert events, one transaction for each list."""
        for events in commits:
            self._recorder.insert_events(events)

    def close(self) -> None:
        """Release the file."""
        self._datastore.close()


class StockView(SQLiteTrackingRecorder):
    """A materialised view as the package's manual shows them: rows and tracking of an event in one transaction."""

    def __init__(self, path: Path) -> None:
        super().__init__(SQLiteDatastore(str(path)))
        self.create_table()
        _assert_durable(self.datastore)

    def construct_create_table_statements(self) -> list[str]:
        """A trail and profiles, like Tallybook's."""
        return [
            *super().construct_create_table_statements(),
            "CREATE TABLE trail (position INTEGER PRIMARY KEY, recorded_us INTEGER, effective_us INTEGER, actor TEXT, "
            "purpose TEXT, action TEXT, subject TEXT)",
            "CREATE INDEX trail_subject ON trail (subject, position)",
            "CREATE TABLE profiles (customer TEXT PRIMARY KEY, purchases INTEGER, pieces INTEGER, spent INTEGER, "
            "first_us INTEGER, last_us INTEGER) WITHOUT ROWID",
        ]

    def process_event(self, event: Any, tracking: Tracking) -> None:
        """What a `Projection` calls for each event."""
        subject = event.originator_id.hex
        lines: Sequence[StockLine] = event.lines if isinstance(event, StockCustomer.Purchased) else ()
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "INSERT INTO trail VALUES (?,?,?,?,?,?,?)",
                (
                    tracking.notification_id,
                    int(event.timestamp.timestamp() * 1_000_000),
                    event.effective_us,
                    event.actor,
                    event.purpose,
                    type(event).__name__,
                    subject,
                ),
            )
            cursor.execute(
                "INSERT INTO profiles VALUES (?1,?2,?3,?4,?5,?5) ON CONFLICT (customer) DO UPDATE SET "
                "purchases=purchases+?2, pieces=pieces+?3, spent=spent+?4, first_us=min(first_us,?5), "
                "last_us=max(last_us,?5)",
                (
                    subject,
                    1 if lines else 0,
                    sum(line["quantity"] for line in lines),
                    sum(line["net_minor"] for line in lines),
                    event.effective_us,
                ),
            )

    def close(self) -> None:
        """Release the file."""
        self.datastore.close()


def _assert_durable(datastore: SQLiteDatastore) -> None:
    connection = datastore.pool.get_connection(is_writer=True)
    try:
        assert_durable(connection._sqlite_conn)
    finally:
        datastore.pool.put_connection(connection)
