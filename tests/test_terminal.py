"""A customer's values give no orders to the terminal of whoever looks at them, and lead nobody astray in a page."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from rich.table import Table

import tallybook
from tallybook import Book, cli, terminal
from tallybook.adapters.reports import visible
from tallybook.terminal import Terminal, Told, show_table

HOSTILE = "Ada\x1b]0;root\x07\x1b[2J\x9b31m \u202egpj.\u2066exe\u2069\u202c\x08\r\x7f\u0085\u2028 Lovelace"
ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""But for line ends and tabs: all of C0 and C1, and what turns the direction of a line."""


class Shop(NamedTuple):
    book: Book
    url: str
    customer: UUID
    ticket: UUID


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(
            name=HOSTILE, note=f"{HOSTILE}\nand more", email=HOSTILE, identifiers={"crm": HOSTILE}
        )
        book.customers.change(ada, name=f"{HOSTILE} Byron")
        book.customers.record_purchase(ada, [{"sku": "cd", "quantity": 1, "net_minor": 500}])
        book.customers.record_interaction(ada, "visit", text=HOSTILE)
        ticket = book.tickets.open(ada, subject=HOSTILE, text=HOSTILE)
        book.tickets.reply(ticket, author="human", text=HOSTILE)
        yield Shop(book, url, ada, ticket)


SHOWS: dict[str, Callable[[Shop], list[str]]] = {
    "show customer": lambda shop: [str(shop.customer)],
    "show ticket": lambda shop: [str(shop.ticket), "--texts"],
    "segments": lambda _: ["--system", "crm"],
    "subject-report": lambda shop: [str(shop.customer)],
    "audit replay": lambda shop: ["--subject", str(shop.customer), "--at", datetime.now(UTC).isoformat()],
    "audit review": lambda shop: ["subject-access", "--subject", str(shop.customer)],
    "audit review corrections": lambda shop: ["--subject", str(shop.customer)],
    "audit review portable-copy": lambda shop: ["--subject", str(shop.customer)],
}
"""What shows values. Others show none, but in what they refuse: see below."""

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shop: Shop) -> Say:
    monkeypatch.setenv("COLUMNS", "2000")

    def said(*given: str) -> tuple[int, str, str]:
        whole = [*given, "--book", shop.url, "--actor", "agent:kim", "--purpose", "support"]
        monkeypatch.setattr(sys, "argv", ["tallybook", *whole])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        found = capsys.readouterr()
        return int(stop.value.code or 0), found.out, found.err

    return said


@pytest.mark.parametrize("width", ["2000", "60"])
@pytest.mark.parametrize("name", SHOWS)
def test_no_order_reaches_the_terminal(
    shop: Shop, say: Say, monkeypatch: pytest.MonkeyPatch, name: str, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    status, out, err = say(*name.split(), *SHOWS[name](shop))
    assert status == 0, err
    assert ORDERS.findall(out + err) == []
    if width == "2000":  # no cell is folded
        assert r"Ada\u001b]0;root\u0007\u001b[2J\u009b31m \u202egpj.\u2066exe\u2069\u202c\u0008\u000d\u007f" in out


@pytest.mark.parametrize("name", SHOWS)
def test_json_is_exactly_what_was_recorded_and_gives_no_orders_either(shop: Shop, say: Say, name: str) -> None:
    status, out, err = say(*name.split(), *SHOWS[name](shop), "--json")
    assert status == 0, err
    assert ORDERS.findall(out) == []
    assert any(HOSTILE in text for text in texts(json.loads(out)))


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


@pytest.mark.parametrize("tty", [True, False])
def test_csv_is_exact_where_no_terminal_shows_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, say: Say, *, tty: bool
) -> None:
    del shop
    monkeypatch.setattr("tallybook.cli._for_people", lambda: tty)
    _, out, _ = say("segments", "--system", "crm", "--csv")
    [_, row] = csv.reader(io.StringIO(out, newline=""))
    assert row[0] == (visible(HOSTILE) if tty else HOSTILE)


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_refusal_tells_what_was_given_and_gives_no_orders(say: Say, as_json: list[str]) -> None:
    status, out, err = say("show", "customer", f"{HOSTILE}", *as_json)
    assert status == 2
    assert ORDERS.findall(out + err) == []
    status, out, err = say("show", "customer", f"{HOSTILE}:x", *as_json)
    assert status == 2
    assert ORDERS.findall(out + err) == []


def test_titles_and_columns_of_tables_give_none(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(f"[bold]{HOSTILE}", [HOSTILE], [[HOSTILE], [None]], [HOSTILE])
    said = capsys.readouterr().out
    assert ORDERS.findall(said) == []
    assert "[bold]Ada" in said


def test_a_value_of_many_lines_looks_like_no_other_line(capsys: pytest.CaptureFixture[str], shop: Shop) -> None:
    report = shop.book.audit.subject_report(shop.customer).report()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal.out, "_width", 40)
        terminal.show_report(report)
    said = capsys.readouterr().out
    assert ORDERS.findall(said) == []
    assert "\nand more" not in said


NOTED = "\x1b[31m\u202e/models.db\nevents: verified"


@pytest.mark.parametrize("command", [["audit", "verify"], ["audit", "verify", "--keyless"], ["tiers"], ["doctor"]])
def test_what_is_logged_gives_no_orders_either(tmp_path: Path, command: list[str]) -> None:
    """The note of where read models live is in no MAC: whoever writes the database writes what is told of it."""
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name="Ada")
    with closing(sqlite3.connect(tmp_path / "shop.book")) as raw, raw:
        raw.execute("INSERT OR REPLACE INTO book VALUES ('read_models', ?)", [NOTED])
    done = subprocess.run(
        [sys.executable, "-m", "tallybook", *command, "--book", url], capture_output=True, text=True, check=False
    )
    assert ORDERS.search(done.stdout + done.stderr) is None
    assert r"live at \u001b[31m\u202e/models.db" in done.stderr
    assert "\nevents: verified" not in done.stderr


def test_what_can_not_be_logged_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(logging.WARNING)
    told.emit(logging.LogRecord("any", logging.WARNING, "", 1, "%s\x1b[2J\n%s", ("\u202e", "VERIFIED"), None))
    told.emit(logging.LogRecord("any", logging.WARNING, "", 1, "%d", ("no number",), None))
    shown = capsys.readouterr().err
    assert shown.startswith("\\u202e\\u001b[2J\n    VERIFIED\n")
    assert ORDERS.search(shown) is None


def test_the_console_leaves_alone_what_is_no_text() -> None:
    file = io.StringIO()
    console = Terminal(file=file, force_terminal=True, width=40)
    console.print(Table("a", title="b"), "\x1b[31mred", highlight=False)
    assert "\\u001b[31mred" in file.getvalue()
    assert "\x1b[3m" in file.getvalue()  # its own style


@pytest.mark.parametrize(
    "text", ["", "Ada", "Zoë 王小明", "a\tb\nc\r\nd", "\U0001f468\u200d\U0001f469", "عادة‌", "\N{NO-BREAK SPACE}"]
)
def test_what_is_only_writing_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_all_that_gives_orders_is_shown_and_json_stays_the_same_value() -> None:
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x061C, 0x2028):
        character = chr(code)
        if character not in "\n\t":
            assert visible(f"a{character}b") == f"a\\u{code:04x}b"
        for ascii_only in (True, False):
            assert json.loads(visible(json.dumps({character: character}, ensure_ascii=ascii_only))) == {
                character: character
            }


def test_a_page_shows_what_would_turn_the_text_around(shop: Shop) -> None:
    book, customer = shop.book, shop.customer
    pages = [
        book.audit.subject_report(customer).html(),
        book.audit.replay(customer, datetime.now(UTC)).html(),
        book.audit.review("subject-access", subject=customer).html(),
        book.audit.review("corrections", subject=customer).html(),
    ]
    for page in pages:
        assert ORDERS.findall(page) == []
        assert "\\u202egpj.\\u2066exe" in page


def test_names_of_little_pictures_stay_as_they_were_written(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.out.print("team:b :smile:", markup=False)
    terminal.show_table("by :smile:", ["who"], [("team:b",)])
    printed = capsys.readouterr().out
    assert printed.count("team:b") == printed.count(":smile:") == 2


WRITES: dict[str, tuple[str, list[str], str]] = {
    "subject-report": ("--html", ["{customer}"], "page.html"),
    "subject-report as JSON": ("--out", ["{customer}"], "report.json"),
    "subject-report to carry along": ("--portable", ["{customer}"], "copy.json"),
    "audit review": ("--html", ["subject-access", "--subject", "{customer}"], "page.html"),
    "audit review as tables": ("--csv", ["subject-access", "--subject", "{customer}"], "tables.zip"),
    "audit replay": ("--out", ["--subject", "{customer}", "--at", "{now}"], "replay.json"),
}


@pytest.mark.parametrize("name", WRITES)
def test_files_with_personal_data_are_new_and_for_their_owner_alone(
    shop: Shop, say: Say, tmp_path: Path, name: str
) -> None:
    option, given, file = WRITES[name]
    command = [
        *name.partition(" as ")[0].partition(" to ")[0].split(),
        *(one.format(customer=shop.customer, now=datetime.now(UTC).isoformat()) for one in given),
    ]
    there = tmp_path / "out" / file
    there.parent.mkdir()
    status, _, told = say(*command, option, str(there))
    assert status == 0, told
    assert stat.S_IMODE(there.stat().st_mode) == 0o600
    there.write_text("what was there")
    there.chmod(0o644)
    before = shop.book._core.gate.reads.position()
    status, _, told = say(*command, option, str(there))
    assert (status, "is there already: name another" in " ".join(told.split())) == (2, True), told
    assert there.read_text() == "what was there"
    assert shop.book._core.gate.reads.position() == before, "nothing is opened for a file that can't be written"
