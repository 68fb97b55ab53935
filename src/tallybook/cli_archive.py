"""`tallybook archive`: the clear columns of the log as Parquet, for analysts and replays."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .terminal import AsJson, BookUrl, open_book, open_to_verify, out, say, tell, watched

archive_app = typer.Typer(
    help="The clear columns of the log as Parquet, for analysts: how they stand, catching up, verifying.",
    no_args_is_help=True,
)


@archive_app.command("status")
def archive_status(book: BookUrl, as_json: AsJson = False) -> None:
    """Where the archive is, up to which position, and whether its files are sound. Exit status 1: it is stale."""
    with open_to_verify(book, signs=False) as opened:
        found = opened.archive.status()

    def show() -> None:
        out.print(f"{found.place}: {found.state}", markup=False)
        if found.problem:
            out.print(f"The next catch-up makes it anew: {found.problem}.", markup=False)
        if found.rows:
            out.print(
                f"{found.rows:,} of {found.head:,} events, {found.files} files and {found.deltas} deltas of "
                f"{found.delta_rows:,} events, {found.bytes:,} bytes ({found.bytes / found.rows:.1f} for each)\n"
                f"made from position {found.position:,}, root {found.root}"
                f"{', signed' if found.signed else ', not signed'}",
                markup=False,
            )

    tell(asdict(found), as_json, show)
    if found.state == "stale":
        raise typer.Exit(1)


@archive_app.command("catch-up")
def archive_catch_up(book: BookUrl, as_json: AsJson = False) -> None:
    """Bring the archive up to the log; one that is not there, or stale, is made anew."""
    with open_book(book, create=False) as opened, watched("archive", as_json) as progress:
        position = opened.archive.catch_up(progress)
    say({"position": position}, as_json, f"The archive is up to position {position:,}.")


@archive_app.command("follow")
def archive_follow(
    book: BookUrl,
    every: Annotated[float, typer.Option("--every", min=0, help="Catch up every so many seconds at most")] = 1.0,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="End when nothing came for so many seconds")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep the archive up with the log as events come, and merge what was added, in the background."""
    with open_book(book, create=False) as opened:
        for position in opened.archive.follow(every_s=every, timeout_s=timeout):
            say({"position": position}, as_json, f"The archive is up to position {position:,}.")


@archive_app.command("rebuild")
def archive_rebuild(book: BookUrl, as_json: AsJson = False) -> None:
    """Make the archive anew from the log; the one that is there answers until that is done."""
    with open_book(book, create=False) as opened, watched("archive", as_json) as progress:
        position = opened.archive.rebuild(progress)
    say({"position": position}, as_json, f"The archive was made anew, up to position {position:,}.")


@archive_app.command("compact")
def archive_compact(book: BookUrl, as_json: AsJson = False) -> None:
    """Merge what was added since the last time into the files of its customers."""
    with open_book(book, create=False) as opened, watched("compact", as_json) as progress:
        rows = opened.archive.compact(progress)
    say({"merged": rows}, as_json, f"{rows:,} events were merged.")


@archive_app.command("verify")
def archive_verify(book: BookUrl, as_json: AsJson = False) -> None:
    """Derive the archive from the log once more, and compare. Exit status 1: they differ."""
    with open_to_verify(book, signs=False) as opened, watched("verify", as_json) as progress:
        found = opened.archive.verify(progress)

    def show() -> None:
        for problem in found.problems:
            out.print(problem, markup=False)
        if found.holds:
            out.print(f"{found.rows:,} events are as in the log. Root {found.root}", markup=False)

    tell({**asdict(found), "holds": found.holds}, as_json, show)
    if not found.holds:
        raise typer.Exit(1)
