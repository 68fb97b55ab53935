"""What the commands of the command line share: options, the book that they open, and how they answer."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO
from uuid import UUID

import typer
from pydantic_core import to_json
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tallybook.adapters.outputs import new_file
from tallybook.adapters.reports import NUMERIC, Kind, Report, shown, visible
from tallybook.adapters.signing import UNSIGNED
from tallybook.domain.errors import KeysMissing, Refused, SigningKeyMissing, TallybookError, refusal

from . import book as front
from .book import Book


class Terminal(Console):
    """A console that no text can give orders to: what it prints as text shows control characters escaped."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints, but for these characters."""
        super().print(*(visible(one) if isinstance(one, str) else one for one in objects), **options)


out = Terminal(soft_wrap=True, highlight=False, emoji=False)
err = Terminal(stderr=True, soft_wrap=True, highlight=False, emoji=False)


class Told(logging.Handler):
    """Shows what is logged on the terminal, as everything else: it may tell what stands in a book that was altered."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. What follows its first line is indented, so that it looks like no message of its own."""
        try:
            err.print(self.format(record).replace("\n", "\n    "), markup=False)
        except Exception:  # noqa: BLE001 - to log something stops nothing
            self.handleError(record)


def show_log() -> None:
    """From here on, show on the terminal what is logged, by other libraries and at the end of the process too."""
    logging.getLogger().addHandler(Told(logging.WARNING))


WRAPPING_KEY: ContextVar[Path | None] = ContextVar("wrapping_key", default=None)
SIGNING_KEY: ContextVar[str | None] = ContextVar("signing_key", default=None)
DETACHED: ContextVar[bool | None] = ContextVar("detached", default=None)
ARCHIVE: ContextVar[str | None] = ContextVar("archive", default=None)
READ_MODELS: ContextVar[str | None] = ContextVar("read_models", default=None)

BookUrl = Annotated[
    str,
    typer.Option(
        "--book",
        envvar="TALLYBOOK_URL",
        help="The book: sqlite:///shop.book, or postgresql://user@host/database?schema=shop",
        show_default=False,
    ),
]
Actor = Annotated[
    str | None, typer.Option("--actor", envvar="TALLYBOOK_ACTOR", help="Who acts: a surrogate such as agent:lin")
]
Purpose = Annotated[str | None, typer.Option("--purpose", envvar="TALLYBOOK_PURPOSE", help="Why: support, audit, …")]
ReadModelName = Annotated[str, typer.Argument(help="profiles, tiers, trail or balances")]
ReadModelOrAll = Annotated[str | None, typer.Argument(help="profiles, tiers, trail or balances (default: each)")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for machines")]
Keyless = Annotated[
    bool, typer.Option("--keyless", help="Open the book without its data keys, to be read only; nothing is recorded")
]
AsOf = Annotated[
    str | None, typer.Option("--as-of", help="State of the world at a time; a plain date means all of that day, UTC")
]
KnownAt = Annotated[str | None, typer.Option("--known-at", help="As the book knew it: a time, or a position")]


def open_book(url: str, *, create: bool = True, signing_key: str | None = None) -> Book:
    """Open the book that a command works on."""
    return front.open(
        url,
        create=create,
        wrapping_key=WRAPPING_KEY.get(),
        read_models=READ_MODELS.get(),
        archive=ARCHIVE.get(),
        signing_key=signing_key or SIGNING_KEY.get(),
        detached=DETACHED.get(),
    )


def open_to_verify(url: str, *, keyless: bool = False, signs: bool = True) -> Book:
    """Open a book for what needs no data key. Without them, if that is asked for: never by itself, so that a place of
    a key that is misspelt is an error. Without `signs`, the signing key may be missing at its default place: that is
    told, and on record as an opening without it."""
    if not keyless:
        try:
            return open_book(url, create=False)
        except KeysMissing:
            err.print("With --keyless, this needs no data keys.", markup=False)
            raise
        except SigningKeyMissing as error:
            if signs or SIGNING_KEY.get() is not None:
                raise
            err.print(f"Opened without the signing key, which this does not need. {error.message}", markup=False)
            return open_book(url, create=False, signing_key=UNSIGNED)
    return front.open(
        url,
        create=False,
        keyless=True,
        wrapping_key=WRAPPING_KEY.get(),
        read_models=READ_MODELS.get(),
        archive=ARCHIVE.get(),
        signing_key=SIGNING_KEY.get(),
    )


def fail(error: TallybookError, as_json: bool) -> None:
    if as_json:
        code = error.code if isinstance(error, Refused) else type(error).__name__
        values = error.values if isinstance(error, Refused) else {}
        print_json(in_json({"error": {"code": code, "message": str(error), "values": values}}), file=sys.stderr)
    else:
        err.print(str(error), markup=False)


def in_json(answer: Any) -> str:
    if is_dataclass(answer) and not isinstance(answer, type):
        answer = asdict(answer)
    return json.dumps(json.loads(to_json(answer, fallback=str)), indent=2, ensure_ascii=False)


def print_json(text: str, file: TextIO | None = None) -> None:
    """Print a JSON text: exactly what it says, with control characters as JSON's own escapes."""
    print(visible(text.removesuffix("\n")), file=file, flush=True)


def tell(answer: Any, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        print_json(in_json(answer))
    else:
        show()


def say(answer: Any, as_json: bool, line: str) -> None:
    """An answer that is one line for people."""
    tell(answer, as_json, lambda: out.print(line, markup=False))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    # As text: what a cell holds is no markup, and no order.
    shown_rows = [["" if value is None else visible(str(value)) for value in row] for row in rows]
    words = [max(map(len, [*name.split(), *(word for row in shown_rows for word in row[at].split())]), default=0)
             for at, name in enumerate(columns)]  # fmt: skip
    if sum(words) + 3 * len(words) + 1 > out.width:
        # In columns, ids and times would be cut within: nobody could copy them.
        _show_lines(title, columns, shown_rows)
        return
    table = Table(title=escape(visible(title)), title_justify="left")
    for column in columns:
        justify: JustifyMethod = "right" if column in right else "left"
        table.add_column(escape(visible(column)), justify=justify, overflow="fold")
    for row in shown_rows:
        table.add_row(*map(Text, row))
    out.print(table)


def _show_lines(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows with a line for each value."""
    out.print(f"{title}: {len(rows):,}", markup=False)
    for number, row in enumerate(rows, 1):
        out.print(f"{number}.", markup=False)
        for name, value in zip(columns, row, strict=True):
            if value:
                out.print(f"   {name}: {_NEXT_LINE.join(value.splitlines())}", markup=False)


def show_report(report: Report) -> None:
    """A report as tables."""
    out.print(f"{report.title}, made {report.generated_at}", markup=False, style="bold")
    for name, value in report.made_of.items():
        out.print(f"{name}: {value}", markup=False)
    for section in report.sections:
        out.print()
        if section.text:
            out.print(section.text, markup=False)
        for one in section.figures:
            out.print(f"{one.name}: {one.value}{f' ({one.note})' if one.note else ''}", markup=False)
        kinds = [one.kind for one in section.columns]
        rows = [list(map(_shortly, row, kinds)) for row in section.rows]
        names = [one.name for one in section.columns]
        if not rows:
            out.print(f"{section.title}: nothing.", markup=False)
        elif len(names) <= out.width // COLUMN_CHARS:
            show_table(section.title, names, rows, [one.name for one in section.columns if one.kind in NUMERIC])
        else:
            _show_lines(section.title, names, rows)  # too many columns for the terminal


def show_left_out(restricted: int, objecting: int) -> None:
    """Who is not scored, if anybody."""
    if restricted or objecting:
        out.print(
            f"Left out: {restricted:,} customers whose data is restricted, {objecting:,} who object to automated "
            "decisions."
        )


COLUMN_CHARS = 14
"""How wide a column of a report is at least where it is shown as a table."""
IDS_SHOWN = 3
_NEXT_LINE = "\n" + " " * 6
"""Within a value: so that none looks like a line of its own."""


def _shortly(cell: object, kind: Kind) -> str:
    """A cell for a terminal: of a list, the first few. All of it is in JSON, CSV and HTML."""
    if kind is Kind.IDS and isinstance(cell, Sequence) and len(cell) > IDS_SHOWN:
        return f"{shown(cell[:IDS_SHOWN], kind)} and {len(cell) - IDS_SHOWN:,} more"
    return shown(cell, kind)


@contextmanager
def watched(label: str, as_json: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr with rate and time left; nothing where nobody watches."""
    if as_json or not err.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(label, total=None, rate="")

        def advance(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

        yield advance


def acting_as(book: Book, actor: str | None, purpose: str | None) -> AbstractContextManager[None]:
    if not actor or not purpose:
        return nullcontext()
    return book.acting(actor, purpose=purpose, channel="cli")


def check_new(*files: Path | None) -> None:
    """See that files can be written where they are wanted, and replace none, before anything is done for their sake."""
    for file in files:
        if file is None:
            continue
        if not file.absolute().parent.is_dir():
            raise typer.BadParameter(f"{file.parent} is no folder: make it first", param_hint=str(file))
        if file.is_symlink() or (file.exists() and not (file.is_dir() and not any(file.iterdir()))):
            raise typer.BadParameter(f"{file} is there already: name another", param_hint=str(file))


def write_new(file: Path, text: str) -> None:
    """Write a file that is not there yet, for its owner's eyes only. Raises BookError."""
    with new_file(file) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def acting_in(url: str, actor: str | None, purpose: str | None) -> Iterator[Book]:
    """A book that is there, with somebody acting in it, if he was named."""
    with open_book(url, create=False) as opened, acting_as(opened, actor, purpose):
        yield opened


def known_moment(known_at: str | None) -> str | int | None:
    return int(known_at) if known_at is not None and known_at.isdecimal() else known_at


def the_customer(book: Book, given: str) -> UUID:
    """A customer by id, or by `system:external id`."""
    try:
        return UUID(given)
    except ValueError:
        pass
    system, colon, external_id = given.partition(":")
    if not colon:
        raise refusal("invalid_argument", f"{given!r} is neither a customer's id nor system:external_id.")
    found = book.customers.find(system, external_id)
    if found is None:
        raise refusal("unknown_customer", f"Nobody is known by that external id in {system}.", system=system)
    return found
