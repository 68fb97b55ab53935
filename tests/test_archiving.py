"""The analyst's door: what it asks for, and what it says when something is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from queue import Queue
from threading import Thread, Timer
from typing import Any

import duckdb
import polars as pl
import pytest

import tallybook
from tallybook import Book, BookError, MissingExtra, Refused, cli

from .conftest import STANDARD

LINES = [{"sku": "lamp", "quantity": 2, "net_minor": 5000}]


@pytest.fixture
def shop(tmp_path: Path) -> Book:
    book = tallybook.open(f"sqlite:///{tmp_path}/shop.book")
    with book.acting("agent:lin", purpose="support"):
        book.rules.adopt(STANDARD, effective_at="2020-01-01T00:00:00Z")
        for _ in range(3):
            ada = book.customers.register(name="Ada")
            book.loyalty.enrol(ada)
            book.customers.record_purchase(ada, LINES)
    return book


def test_polars_duckdb_and_arrow_answer_the_same(shop: Book) -> None:
    with shop:
        scan = shop.archive.scan(names=["customer.purchase_recorded"], columns=["position", "lines", "subject_id"])
        rows = scan.arrow().to_pylist()
        assert [row["lines"][0]["net_minor"] for row in rows] == [5000] * 3
        assert scan.polars().collect().to_dicts() == rows
        assert [dict(zip(rows[0], row, strict=True)) for row in scan.duckdb().fetchall()] == rows
        with duckdb.connect() as connection:
            assert len(shop.archive.scan().duckdb(connection).fetchall()) == shop.position()
        counted = shop.archive.scan().polars().select(pl.len()).collect().item()
        assert counted == shop.archive.scan().dataset().count_rows() == shop.position()


def test_a_scan_sees_what_was_just_recorded(shop: Book) -> None:
    with shop:
        before = shop.archive.scan().arrow().num_rows
        with shop.acting("agent:lin", purpose="support"):
            shop.customers.register(name="Bob")
        assert shop.archive.scan().arrow().num_rows == shop.position() > before


def test_it_follows_the_log_until_nothing_comes(shop: Book) -> None:
    with shop:
        following = shop.archive.follow(every_s=0, timeout_s=0)
        assert next(following) == shop.position()
        for _ in range(3):
            with shop.acting("agent:lin", purpose="support"):
                shop.customers.register(name="Bob")
            assert next(following) == shop.position()
        assert list(following) == []
        assert list(shop.archive.follow(timeout_s=0)) == [shop.position()]
        status = shop.archive.status()
        assert (status.state, status.rows) == ("current", shop.position())
        assert status.delta_rows <= 0.05 * status.rows
        assert shop.archive.verify().holds


def test_it_follows_from_another_thread_until_the_book_is_closed(shop: Book) -> None:
    reached: Queue[int] = Queue()

    def follow() -> None:
        for position in shop.archive.follow(every_s=0):
            reached.put(position)

    with shop:
        thread = Thread(target=follow)
        thread.start()
        assert reached.get(timeout=60) == shop.position()
        with shop.acting("agent:lin", purpose="support"):
            shop.customers.register(name="Bob")
        assert reached.get(timeout=60) == shop.position()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_it_follows_on_when_another_writer_is_done(shop: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop:
        monkeypatch.setattr("tallybook.adapters.archive.archive.WAIT_S", 0.0)
        hold = shop._core.storage.models.hold("archive")
        assert hold is not None
        following = shop.archive.follow(every_s=0.01)
        rest = Timer(0.2, hold.release)
        rest.start()
        assert next(following) == shop.position()
        rest.join()
        following.close()


@pytest.mark.parametrize("given", [{"every_s": -1}, {"every_s": "1"}, {"timeout_s": True}, {"timeout_s": float("nan")}])
def test_seconds_that_are_none_are_refused(shop: Book, given: dict[str, Any]) -> None:
    with shop, pytest.raises(Refused, match=f"{next(iter(given))}: seconds"):
        shop.archive.follow(**given)


def test_names_and_columns_that_are_none_are_refused(shop: Book) -> None:
    with shop:
        with pytest.raises(Refused, match=r"There is no event 'no\.such'"):
            shop.archive.scan(names=["no.such"])
        with pytest.raises(Refused, match="no column name_of_ada"):
            shop.archive.scan(columns=["name_of_ada"])
        with pytest.raises(Refused, match="number"):
            shop.archive.bucket(65)
        assert shop.archive.status().state == "none"


def test_a_book_in_memory_needs_to_be_told_the_place(tmp_path: Path) -> None:
    with tallybook.open("memory:") as book, pytest.raises(BookError, match="--archive"):
        book.archive.status()
    with tallybook.open("memory:", archive=tmp_path / "here") as book:
        assert book.archive.catch_up() == 0
        assert book.archive.scan().arrow().num_rows == 0
        assert book.archive.verify().holds


@pytest.mark.parametrize("package", ["pyarrow", "numba"])
def test_without_the_extra_it_says_what_to_install(shop: Book, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith("tallybook.adapters.archive.")]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(name)
    monkeypatch.setitem(sys.modules, package, None)
    with shop, pytest.raises(MissingExtra, match=rf"{package}.*tallybook\[replay\]"):
        shop.archive.rebuild()


@pytest.mark.parametrize("package", ["polars", "duckdb"])
def test_without_polars_or_duckdb_arrow_still_answers(
    shop: Book, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop:
        scan = shop.archive.scan()
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtra, match=rf"{package}.*tallybook\[analysis\]"):
            getattr(scan, package)()
        assert scan.arrow().num_rows == shop.position()


def test_the_command_line_tells_by_its_exit_status(
    shop: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.close()
    place = tmp_path / "elsewhere"

    def run(*words: str) -> tuple[int, str]:
        line = ["tallybook", "--archive", str(place), "archive", *words, "--book", f"sqlite:///{tmp_path}/shop.book"]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as stop:
            cli.run()
        return int(stop.value.code or 0), capsys.readouterr().out

    assert run("status")[0] == 0
    assert run("compact")[0] == 2
    assert run("verify")[0] == 1
    assert run("rebuild") == (0, run("catch-up")[1].replace("is up to", "was made anew, up to"))
    assert run("verify")[0] == 0
    status, told = run("status", "--json")
    assert (status, json.loads(told)["state"]) == (0, "current")
    file = max(place.glob("bucket-*"), key=lambda one: one.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    status, told = run("status")
    assert status == 1
    assert f"{file.name} has" in told
    assert run("verify")[0] == 1
    assert run("catch-up")[0] == 0
    assert run("verify")[0] == 0
