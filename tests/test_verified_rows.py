"""Rows of read models that somebody altered, deleted or added are found; rows that nobody touched never are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import STANDARD
from typer.testing import CliRunner

import tallybook
from tallybook import Book, BookDamaged
from tallybook.adapters import read_models, rows_check
from tallybook.adapters.rows_check import ReadModelVerification, RowDifference
from tallybook.cli import app
from tallybook.projections import projector
from tallybook.projections.balances import Balances
from tallybook.projections.profiles import Profiles
from tallybook.projections.read_models import Table
from tallybook.projections.tiers import Tiers
from tallybook.projections.trail import Trail

ADA, BOB, EVE = UUID(int=1), UUID(int=2), UUID(int=3)
MODELS = (Profiles(), Tiers(), Trail(), Balances())
TABLES = {table.name: (model.name, table) for model in MODELS for table in model.tables}


def fill(book: Book) -> None:
    """Two rows at least in each table."""
    book.rules.adopt(STANDARD, effective_at="2020-01-01T00:00:00Z")
    for customer in (ADA, BOB):
        book.customers.register(customer_id=customer, name="Name")
        book.loyalty.enrol(customer)
        book.customers.record_purchase(customer, [{"sku": "a", "category": "c", "quantity": 1, "net_minor": 90_000}])
    book.projections.catch_up()


@pytest.fixture(params=["sqlite", "postgresql", "elsewhere", "memory"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Book]:
    urls = {"sqlite": f"sqlite:///{tmp_path}/shop.book", "elsewhere": f"sqlite:///{tmp_path}/shop.book"}
    with ExitStack() as stack:
        if request.param == "postgresql":
            urls["postgresql"] = request.getfixturevalue("server_book_url")
        models = f"sqlite:///{tmp_path}/models.db" if request.param == "elsewhere" else None
        book = stack.enter_context(tallybook.open(urls.get(request.param, "memory:"), read_models=models))
        stack.enter_context(book.acting("agent:lin", purpose="support"))
        fill(book)
        yield book


def found(book: Book) -> dict[str, ReadModelVerification]:
    return {one.read_model: one for one in book.audit.verify_read_models()}


def the_first(book: Book, name: str) -> RowDifference:
    """The one difference that there is."""
    for other, one in found(book).items():
        assert (one.problem is None) == (other != name), one
        assert one.differing == (other == name)
    first = found(book)[name].first
    assert first is not None
    return first


def built(book: Book, table: Table) -> str:
    name, _ = TABLES[table.name]
    build = book._core.store.generation(book._core.projector.model(name))
    assert build is not None
    return read_models.table_name(table.name, build.number)


def change(book: Book, statement: str, *values: Any) -> None:
    with book._core.storage.models.session(write=True) as session:
        session.run(statement, values)


def rows_of(book: Book, table: Table) -> list[tuple[Any, ...]]:
    return book._core.storage.models.rows(f"SELECT * FROM {built(book, table)} ORDER BY {', '.join(table.key)}")


def shown(table: Table, row: tuple[Any, ...]) -> str:
    held = dict(zip((name for name, _ in table.columns), row, strict=True))
    return ", ".join(
        (str(UUID(bytes=one)) if one else "x''") if isinstance(one, bytes) else str(one)
        for one in map(held.get, table.key)
    )


def test_rows_that_nobody_touched_are_what_the_log_gives(shop: Book) -> None:
    for one in found(shop).values():
        assert (one.problem, one.first, one.differing, one.state) == (None, None, 0, "live")
        assert (one.position, one.head, one.behind) == (shop.position(), shop.position(), 0)
        assert one.holds
        assert one.rows == sum(len(rows_of(shop, table)) for name, table in TABLES.values() if name == one.read_model)
        assert one.rows >= 2


def test_an_altered_value_in_any_column_is_found(shop: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_check, "CHUNK", 2)
    others: dict[str, Callable[[Any], Any]] = {
        "integer": lambda value: value + 1,
        "text": lambda value: value + "x",
        "blob": lambda value: value + b"x",
    }
    for name, (model, table) in TABLES.items():
        row = rows_of(shop, table)[1]
        where = " AND ".join(f"{one}=?" for one in table.key)
        places = [[one for one, _ in table.columns].index(key) for key in table.key]
        key = [row[place] for place in places]
        for place, (column, kind) in enumerate(table.columns):
            if column in table.key:
                continue
            for value in (others[kind](row[place]), row[place]):
                change(shop, f"UPDATE {built(shop, table)} SET {column}=? WHERE {where}", value, *key)
                if value != row[place]:
                    assert the_first(shop, model) == RowDifference(name, shown(table, row), "other", (column,))
    assert all(one.holds for one in found(shop).values())


def test_a_deleted_and_an_added_row_are_found_wherever_they_stand(shop: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_check, "CHUNK", 2)
    for name, (model, table) in TABLES.items():
        rows = rows_of(shop, table)
        marks = ", ".join("?" * len(table.columns))
        where = " AND ".join(f"{one}=?" for one in table.key)
        places = [[one for one, _ in table.columns].index(key) for key in table.key]
        for row in (rows[0], rows[1], rows[-1]):
            change(shop, f"DELETE FROM {built(shop, table)} WHERE {where}", *[row[place] for place in places])
            assert the_first(shop, model) == RowDifference(name, shown(table, row), "missing")
            change(shop, f"INSERT INTO {built(shop, table)} VALUES ({marks})", *row)
        for stranger in (UUID(int=0), EVE, UUID(int=2**128 - 2)):
            row = (stranger.bytes, *rows[0][1:])
            change(shop, f"INSERT INTO {built(shop, table)} VALUES ({marks})", *row)
            assert the_first(shop, model) == RowDifference(name, shown(table, row), "extra")
            change(shop, f"DELETE FROM {built(shop, table)} WHERE {table.key[0]}=?", stranger.bytes)
        change(shop, f"DELETE FROM {built(shop, table)}")
        one = found(shop)[model]
        assert (one.differing, one.first) == (len(rows), RowDifference(name, shown(table, rows[0]), "missing"))
        live = Table(built(shop, table), table.columns, table.key)
        with shop._core.storage.models.session(write=True) as session:
            session.upsert(live, rows)
    assert all(one.holds for one in found(shop).values())


def test_a_table_that_is_gone_and_rows_of_another_history_are_found(shop: Book) -> None:
    dropped = built(shop, Tiers.current)
    with shop._core.storage.models.session(write=True) as session:
        session.define(f"DROP TABLE {dropped}")
    change(shop, "UPDATE read_model_builds SET mark=? WHERE name='trail'", bytes(16))
    checks = found(shop)
    assert checks["profiles"].holds
    assert "is gone" in (checks["tiers"].problem or "")
    assert "another history" in (checks["trail"].problem or "")
    shop.projections.catch_up()
    assert all(one.holds for one in found(shop).values())


def test_one_that_is_stopped_or_behind_is_no_error_and_compared_where_it_stands(
    shop: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shop.position()
    shop.projections.pause("profiles")
    shop.projections.retire("tiers")
    real = Trail.fold
    monkeypatch.setattr(Trail, "fold", lambda *_: 1 // 0)
    shop.customers.register(customer_id=EVE)
    shop.projections.catch_up()
    monkeypatch.setattr(Trail, "fold", real)
    head = shop.position()
    checks = found(shop)
    assert {one.read_model: (one.state, one.position, one.head, one.problem) for one in checks.values()} == {
        "profiles": ("paused", before, head, None),
        "tiers": ("retired", 0, head, None),
        "trail": ("failed", before, head, None),
        "balances": ("live", head, head, None),
    }
    assert checks["profiles"].rows == 2
    assert checks["tiers"].rows == 0
    change(shop, f"DELETE FROM {built(shop, Profiles.table)} WHERE customer=?", ADA.bytes)
    assert found(shop)["profiles"].first == RowDifference("profiles", str(ADA), "missing")
    shop.projections.resume("profiles")
    assert found(shop)["profiles"].state == "live"
    assert found(shop)["profiles"].behind > 0


def test_an_event_that_was_left_out_is_left_out_here_too(shop: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Profiles.fold
    monkeypatch.setattr(Profiles, "fold", lambda *_: 1 // 0)
    shop.customers.register(customer_id=EVE)
    shop.projections.catch_up()
    monkeypatch.setattr(Profiles, "fold", real)
    failed = next(one for one in shop.projections.status() if one.name == "profiles").failed_position
    assert failed is not None
    shop.projections.skip("profiles", failed)
    shop.projections.catch_up()
    assert found(shop)["profiles"] == ReadModelVerification("profiles", "live", shop.position(), shop.position(), 3)


def test_a_fold_that_fails_now_is_told_of_its_read_model_alone(shop: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trail, "fold", lambda *_: 1 // 0)
    checks = found(shop)
    assert [one.holds for one in checks.values()] == [True, True, False, True]
    assert "ZeroDivisionError" in (checks["trail"].problem or "")


def test_after_an_erasure_too(shop: Book) -> None:
    shop.erasures.erase(ADA, reason="request")
    assert all(one.holds for one in found(shop).values())
    assert found(shop)["trail"].position == shop.position()
    change(shop, f"DELETE FROM {built(shop, Profiles.table)} WHERE customer=?", ADA.bytes)
    assert the_first(shop, "profiles") == RowDifference("profiles", str(ADA), "missing")


@pytest.mark.parametrize("inline", [False, True])
def test_writers_projectors_and_rebuilds_beside_give_no_false_finding(
    book_url: str, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    monkeypatch.setattr(rows_check, "CHUNK", 7)
    monkeypatch.setattr(projector, "BATCH", 5)
    done = threading.Event()
    failed: list[BaseException] = []
    kept = [one.name for one in MODELS] if inline else []
    with tallybook.open(book_url, inline=kept) as shop:
        with shop.acting("agent:lin", purpose="support"):
            fill(shop)

        def beside(work: Callable[[], object]) -> None:
            try:
                with shop.acting("agent:lin", purpose="support"):
                    while not done.is_set():
                        work()
            except BaseException as error:  # noqa: BLE001 - told by the test
                failed.append(error)

        def write() -> None:
            customer = shop.customers.register(name="Name")
            shop.loyalty.enrol(customer)
            shop.customers.record_purchase(customer, [{"sku": "a", "quantity": 1, "net_minor": 90_000}])

        works = (write, shop.projections.catch_up, lambda: shop.projections.rebuild("trail"))
        threads = [threading.Thread(target=beside, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        seen = set()
        try:
            for _ in range(12):
                for one in shop.audit.verify_read_models():
                    assert one.problem is None, one
                    seen.add(one.position)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert failed == []
        assert len(seen) > 3  # it moved meanwhile
        shop.projections.catch_up()
        assert all(one.holds for one in shop.audit.verify_read_models())


def test_sqlite_keeps_any_value_in_any_column_and_that_is_found(tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as shop, shop.acting("agent:lin", purpose="support"):
        fill(shop)
        for table, column, value in (
            (Tiers.memberships, "to_us", float(2**62)),
            (Tiers.memberships, "from_us", "soon"),
            (Trail.table, "actor", b"agent:lin"),
            (Trail.table, "actor", None),
        ):
            name = built(shop, table)
            key = ", ".join(table.key)
            [(before,), *_] = shop._core.storage.models.rows(f"SELECT {column} FROM {name} ORDER BY {key}")
            change(shop, _first(name, table, column), value)
            assert the_first(shop, TABLES[table.name][0]).columns == (column,)
            change(shop, _first(name, table, column), before)
        # A table without its constraints may hold a row twice, and rows without a key.
        name = built(shop, Trail.table)
        rows = rows_of(shop, Trail.table)
        change(shop, f"DROP TABLE {name}")
        change(shop, f"CREATE TABLE {name} (subject, position, actor)")
        for row in (*rows, rows[0], (None, None, "nobody"), ("text", 2.5, "somebody")):
            change(shop, f"INSERT INTO {name} VALUES (?,?,?)", *row)
        one = found(shop)["trail"]
        assert one.differing == 3
        assert one.first is not None
        assert one.first.difference == "extra"


def _first(name: str, table: Table, column: str) -> str:
    key = ", ".join(table.key)
    return f"UPDATE {name} SET {column}=? WHERE ({key})=(SELECT {key} FROM {name} ORDER BY {key} LIMIT 1)"


def test_the_command_line_tells_of_rows_and_leaves_them_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as shop, shop.acting("agent:lin", purpose="support"):
        fill(shop)
        shop.customers.register(customer_id=EVE)
        name = built(shop, Profiles.table)
    run = CliRunner().invoke
    done = run(app, ["audit", "verify", "--book", url])
    assert done.exit_code == 0
    assert "profiles: 2 rows as of position" in done.output
    assert "events behind): verified" in done.output
    with tallybook.open(url) as shop:
        change(shop, f"DELETE FROM {name} WHERE customer=?", BOB.bytes)
    done = run(app, ["audit", "verify", "--book", url])
    assert done.exit_code == 1
    assert f"NOT VERIFIED: 1 of its rows differ from what the log gives; the first: profiles {BOB}: missing" in (
        done.output.replace("\n", " ")
    )
    assert run(app, ["audit", "verify", "--book", url, "--log-only"]).exit_code == 0


def test_builds_that_cannot_be_read_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as shop, shop.acting("agent:lin", purpose="support"):
        fill(shop)
        monkeypatch.setattr(rows_check, "_live", _damaged)
        assert ["no builds" in (one.problem or "") for one in found(shop).values()] == [True] * len(MODELS)


def _damaged(*_: object) -> None:
    raise BookDamaged("no builds", remedy="none")
