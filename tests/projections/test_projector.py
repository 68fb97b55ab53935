"""The batch projector: exactly once, resumable, and a rebuild that ends up the same row by row."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from eventsourcing.persistence import OperationalError

import tallybook
from tallybook.adapters.read_models import TableReadModelStore
from tallybook.domain.events import Decision
from tallybook.domain.points import RedemptionRefused
from tallybook.projections import projector as projector_module
from tallybook.projections.projector import Projector
from tallybook.projections.read_models import Recorded, Rows, Table

if TYPE_CHECKING:
    from tests.projections.conftest import Shop

NewShop = Callable[..., "Shop"]


TWICE = 10**9


class Counting:
    """A read model that shows each event that is folded twice or out of order."""

    name = "counting"
    version = 1
    by_subject = False
    table = Table("counting", (("stream", "blob"), ("events", "integer"), ("last", "integer")), ("stream",))
    tables = (table,)

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        for position, event in batch:
            stream = event.originator_id.bytes
            row = rows.get(self.table, (stream,))
            events, last = (0, 0) if row is None else row[1:]
            # Another projector's rows may show up in a fold, which then must not count: so no assertion here.
            step = 1 if position > last else TWICE
            rows.put(self.table, (stream,), (stream, events + step, position))


def counted(shop: Shop) -> int:
    return sum(row[1] for row in shop.rows(Counting(), Counting.table))


def busy(shop: Shop, facts: int = 12, seed: int = 1) -> None:
    """Some life in the book, late facts and sweeps included."""
    chance = random.Random(seed)
    members = [shop.member(name=f"name {number}", country="GB") for number in range(4)]
    for number in range(facts):
        member = chance.choice(members)
        day = f"20{chance.choice((20, 21))}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
        purchase = shop.buy(member, day, chance.randint(0, 30_000), 500)
        if number % 3 == 0:
            shop.redeem(member, day, chance.randint(1, 200))
        if number % 4 == 0:
            shop.give_back(member, day, purchase, 2)
        if number % 5 == 0:
            shop.book.customers.change(member, owner=f"o{number}", effective_at=f"{day}T00:00:00Z")
    shop.sweep("2022-06-01")


def all_rows(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of all read models, by table."""
    core = shop.book._core
    return {table.name: list(shop.rows(model, table)) for model in core.projector.models for table in model.tables}


def projector_on(shop: Shop, *models: Any) -> Projector:
    core = shop.book._core
    return Projector(core.app, core.store, models, core.operations)


def test_a_projection_resumes_where_it_stopped_whatever_the_size_of_the_batches(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(shop)
    shop.book.projections.catch_up()
    at_once = all_rows(shop)
    assert all(at_once.values())
    for batch in (1, 7, 64):
        monkeypatch.setattr(projector_module, "BATCH", batch)
        shop.book.projections.rebuild()
        assert all_rows(shop) == at_once


def test_live_in_small_steps_equals_rebuilt_at_once_row_by_row(shop: Shop) -> None:
    chance = random.Random(3)
    members = [shop.member(name="x") for _ in range(3)]
    for number in range(25):
        member = chance.choice(members)
        shop.buy(member, f"2020-{chance.randint(1, 12):02}-11", chance.randint(0, 20_000))
        if number % 2:
            shop.book.projections.catch_up()
    shop.sweep("2022-01-01")
    shop.book.projections.catch_up()
    live = all_rows(shop)
    shop.book.projections.rebuild()
    assert all_rows(shop) == live


def test_the_trail_has_a_row_for_each_event(shop: Shop) -> None:
    busy(shop, 6)
    shop.book.projections.catch_up()
    rows = all_rows(shop)["trail"]
    assert sorted(position for _, position, _ in rows) == list(range(1, shop.book.position() + 1))
    events = dict(shop.history())
    for subject, position, actor in rows:
        event = events[position]
        assert subject == (b"" if event.subject_id is None else event.subject_id.bytes)
        assert actor == event.metadata.actor


def test_the_trail_shows_what_stands_in_the_log(shop: Shop) -> None:
    busy(shop, 6)
    entries = [one for one in shop.book.audit.trail() if one.log == "events"]
    for entry, (position, event) in zip(entries, shop.history(), strict=True):
        assert (entry.position, entry.action, entry.subject) == (position, event.stored_name, event.subject_id)
        assert (entry.actor, entry.purpose) == (event.metadata.actor, event.metadata.purpose)
        assert entry.why == (f"rule set {event.rules}" if isinstance(event, Decision) else event.metadata.purpose)
        assert entry.outcome == ("refused" if isinstance(event, RedemptionRefused) else "recorded")
    # The clock stands: of one time, events come before the opening of the book and the two looks at its trail.
    last = shop.book.audit.trail(limit=8)
    assert [one.action for one in last[5:]] == ["log.opened", "read:audit.trail", "read:audit.trail"]
    assert last[:5] == entries[-5:]
    someone = next(event.subject_id for _, event in shop.history() if event.subject_id)
    with shop.book.acting("agent:other", purpose="call"):
        shop.book.customers.record_interaction(someone, "visit")
        mine = shop.book.audit.trail(someone, actor="agent:other")
    assert [one.action for one in mine if one.log == "events"] == ["customer.interaction_recorded"]
    assert len([one for one in shop.book.audit.trail(actor="agent:other") if one.log == "events"]) == 1


def test_status_tells_the_lag_and_catching_up_takes_it_away(shop: Shop) -> None:
    book = shop.book
    assert {one.name for one in book.projections.status()} == {"profiles", "tiers", "trail", "balances"}
    busy(shop, 4)
    head = book.position()
    assert all((one.position, one.head, one.lag) == (0, head, head) for one in book.projections.status())
    assert book.projections.catch_up() == head
    assert all((one.position, one.lag) == (head, 0) for one in book.projections.status())
    busy(shop, 2)
    more = book.position()
    assert all((one.position, one.lag) == (head, more - head) for one in book.projections.status())
    assert book.projections.catch_up() == more


def test_catching_up_twice_folds_nothing_twice(shop: Shop) -> None:
    busy(shop, 4)
    counting = projector_on(shop, Counting())
    for _ in range(3):
        assert counting.catch_up() == shop.book.position()
    assert counted(shop) == shop.book.position()


def test_only_the_named_read_models_catch_up(shop: Shop) -> None:
    busy(shop, 2)
    shop.book._core.projector.catch_up(names=["tiers"])
    assert {one.name: one.lag == 0 for one in shop.book.projections.status()} == {
        "profiles": False, "tiers": True, "trail": False, "balances": False,
    }  # fmt: skip


def test_read_models_that_stand_at_different_positions_catch_up_together(shop: Shop) -> None:
    class Another(Counting):
        name = "another"
        table = Table("another", Counting.table.columns, ("stream",))
        tables = (table,)

    both = projector_on(shop, Counting(), Another())
    both.catch_up()
    for names in (["counting"], ["another"]):
        busy(shop, 2)
        both.catch_up(names=names)
    busy(shop, 2)
    assert both.catch_up() == shop.book.position()
    assert counted(shop) == sum(row[1] for row in shop.rows(Another(), Another.table)) == shop.book.position()


def test_a_build_that_is_behind_the_live_one_does_not_take_its_place(shop: Shop) -> None:
    busy(shop, 2)
    projector_on(shop, Counting()).catch_up()
    store = shop.book._core.store
    behind = store.begin(Counting(), 0)
    assert store.go_live(behind) is None
    assert counted(shop) == shop.book.position()


def test_an_unknown_read_model_is_refused(shop: Shop) -> None:
    with pytest.raises(tallybook.Refused) as refused:
        shop.book.projections.rebuild("nonsense")
    assert refused.value.code == "invalid_argument"
    with pytest.raises(KeyError):
        shop.book._core.projector.rebuild("nonsense")


def test_a_batch_that_fails_leaves_neither_rows_nor_position(shop: Shop) -> None:
    class Failing(Counting):
        name = "failing"
        table = Table("failing", Counting.table.columns, ("stream",))
        tables = (table,)
        broken = False

        def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
            super().fold(batch, rows)
            if self.broken:
                raise OperationalError("the disk is away")

    model = Failing()
    failing = projector_on(shop, model)
    busy(shop, 2)
    failing.catch_up()
    before = shop.rows(model, model.table)
    busy(shop, 2)
    model.broken = True
    with pytest.raises(OperationalError):
        failing.catch_up()
    assert shop.rows(model, model.table) == before
    assert failing.status()[0].lag > 0
    model.broken = False
    assert failing.catch_up() == shop.book.position()
    assert sum(row[1] for row in shop.rows(model, model.table)) == shop.book.position()


def test_a_new_version_of_a_read_model_is_built_anew(shop: Shop) -> None:
    class Newer(Counting):
        version = 2

    busy(shop, 2)
    projector_on(shop, Counting()).catch_up()
    newer = projector_on(shop, Newer())
    assert newer.status()[0].position == 0
    assert newer.catch_up() == shop.book.position()
    assert sum(row[1] for row in shop.rows(Newer(), Counting.table)) == shop.book.position()


def test_a_projection_is_kept_with_the_book(new_shop: NewShop, book_url: str) -> None:
    shop = new_shop(book_url)
    busy(shop, 4)
    shop.book.projections.catch_up()
    rows, position = all_rows(shop), shop.book.position()
    again = tallybook.open(book_url)
    assert {one.position for one in again.projections.status()} == {position}
    assert again.projections.catch_up() == position
    again.close()
    assert all_rows(shop) == rows


def test_rows_are_looked_for_by_their_key_and_never_in_the_whole_table(
    new_shop: NewShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite scans a table for `(a, b) IN (VALUES …)`: the more rows, the longer each batch took."""
    path = tmp_path / "shop.book"
    shop = new_shop(f"sqlite:///{path}")
    asked: list[tuple[str, Sequence[Any]]] = []
    real = TableReadModelStore._rows

    def rows(self: TableReadModelStore, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if "wanted" in statement:
            asked.append((statement, params))
        return real(self, statement, params)

    monkeypatch.setattr(TableReadModelStore, "_rows", rows)
    monkeypatch.setattr(projector_module, "BATCH", 5)
    busy(shop, 8)
    shop.book.projections.catch_up()
    tables = {statement.split("CROSS JOIN ")[1].partition("__")[0] for statement, _ in asked}
    assert tables == {"profiles", "tier_current", "tier_memberships", "lot_balances"}
    with closing(sqlite3.connect(path)) as raw:
        for statement, params in asked:
            plan = [step for *_, step in raw.execute(f"EXPLAIN QUERY PLAN {statement}", params)]
            assert any(step.startswith("SEARCH kept USING PRIMARY KEY") for step in plan), plan


def _together(*acts: Callable[[], object]) -> list[BaseException]:
    errors: list[BaseException] = []
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> None:
        try:
            start.wait()
            act()
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("first_build", [True, False])
def test_each_event_counts_once_when_two_projectors_race_on_one_file(
    new_shop: NewShop, book_url: str, monkeypatch: pytest.MonkeyPatch, first_build: bool
) -> None:
    monkeypatch.setattr(projector_module, "BATCH", 5)
    shop = new_shop(book_url)
    other = tallybook.open(book_url)
    mine = projector_on(shop, Counting())
    theirs = Projector(other._core.app, other._core.store, [Counting()], other._core.operations)
    if not first_build:
        mine.catch_up()
    for seed in range(2):
        busy(shop, 8, seed)
        assert _together(*[mine.catch_up, theirs.catch_up, other.projections.catch_up] * 2) == []
        assert counted(shop) == shop.book.position()
    live = all_rows(shop)
    shop.book.projections.rebuild()
    assert all_rows(shop) == live
    other.close()


def test_a_rebuild_ends_up_the_same_while_writers_and_projectors_go_on(
    new_shop: NewShop, book_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector_module, "BATCH", 10)
    shop = new_shop(book_url)
    busy(shop, 8)
    shop.book.projections.catch_up()
    writer = tallybook.open(book_url, now_us=shop.book._core.now_us)
    done = threading.Event()

    def write() -> None:
        try:
            with writer.acting("agent:writer", purpose="test"):
                for number in range(12):
                    customer = writer.customers.register(name=f"new {number}", effective_at="2020-01-01T00:00:00Z")
                    writer.loyalty.enrol(customer, effective_at="2020-01-01T00:00:00Z")
                    lines = [{"sku": "s", "quantity": 1, "net_minor": 20_000}]
                    writer.customers.record_purchase(customer, lines, effective_at="2020-02-01T00:00:00Z")
                    writer.projections.catch_up()
        finally:
            done.set()

    def rebuild() -> None:
        while not done.is_set():
            shop.book.projections.rebuild()

    assert _together(write, rebuild) == []
    shop.book.projections.catch_up()
    live = all_rows(shop)
    assert len(live["trail"]) == shop.book.position()
    assert len(live["profiles"]) == 4 + 12
    shop.book.projections.rebuild()
    assert all_rows(shop) == live
    assert shop.book.replay().holds
    writer.close()


def test_two_rebuilds_at_once_leave_one_build_that_is_whole(new_shop: NewShop, book_url: str) -> None:
    shop = new_shop(book_url)
    busy(shop, 6)
    shop.book.projections.catch_up()
    live = all_rows(shop)
    other = tallybook.open(book_url)
    assert _together(shop.book.projections.rebuild, other.projections.rebuild) == []
    assert all_rows(shop) == live
    assert all(one.lag == 0 for one in shop.book.projections.status())
    other.close()


def test_a_query_sees_every_commit_before_it(shop: Shop) -> None:
    ada = shop.member(owner="a")
    for number in range(5):
        shop.book.customers.change(ada, owner=f"o{number}")
        assert shop.book.profiles.get(ada)["owner"] == f"o{number}"
    shop.buy(ada, "2020-02-01", 15_000)
    assert [one.customer_id for one in shop.book.tiers.members("silver", as_of="2020-02-02")] == [ada]
