"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

import tallybook
from tallybook import Book

from .postgres import UNMARKED_VARIABLE, drop_schema, new_schema, password_of, schema_url, server_url

DATA = Path(__file__).parent.parent / "src" / "tallybook" / "data"
MASTER = DATA / "cdnow_master.txt.xz"
STANDARD = DATA / "standard.toml"
CANDIDATE = DATA / "candidate.toml"

ON_A_SERVER = {"server", "postgresql", "postgresql without order"}
"""Parameters by which a test has its book, log or store on a server."""

IN_MEMORY = Path("/dev/shm")
WANTED_BYTES = 4 << 30
COMPILED: list[str] = []
"""Where processes that tests start find what an earlier one compiled, if this run says where."""


def pytest_configure() -> None:
    """Temporary files in memory, where there is room: every commit of a book waits for its disk, and a slow disk makes
    minutes of tests an hour. Nothing here cuts the power of the machine. A TMPDIR that is set is kept.
    """
    # Where this is set, pytest writes whole diffs of what differs: of the rows that a broken store gives, for hours.
    os.environ.pop("CI", None)
    # Rich takes these for the width of a terminal for good, if they are there when it is imported.
    os.environ.pop("COLUMNS", None)
    os.environ.pop("LINES", None)
    usable = "TMPDIR" not in os.environ and IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK | os.X_OK)
    if usable and shutil.disk_usage(IN_MEMORY).free >= WANTED_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)
    # Tests start hundreds of processes: where nothing compiled may lie beside the sources, each compiled them anew.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) and "PYTHONPYCACHEPREFIX" not in os.environ:
        COMPILED.append(tempfile.mkdtemp(prefix="tallybook-compiled-"))
        os.environ["PYTHONPYCACHEPREFIX"] = COMPILED[0]


def pytest_unconfigure() -> None:
    """What was compiled for them goes."""
    for folder in COMPILED:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a PostgreSQL server, as far as its fixtures and parameters tell; the rest is marked where it
    stands. `pytest_runtest_setup` sees to it that nothing is left out.
    """
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
        if "server_book_url" in getattr(item, "fixturenames", ()) or not ON_A_SERVER.isdisjoint(
            one for one in parameters if isinstance(one, str)
        ):
            item.add_marker("server")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test without the mark `server` gets none."""
    os.environ.pop(UNMARKED_VARIABLE, None)
    if item.get_closest_marker("server") is None:
        os.environ[UNMARKED_VARIABLE] = item.nodeid


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """What is put away may be a module's, and of other tests than the last."""
    os.environ.pop(UNMARKED_VARIABLE, None)


def holder_of(book: Book, system: str, external_id: str) -> UUID | None:
    """Who is known by an external id; a recorded read by somebody who acts for it."""
    with book.acting("agent:test", purpose="test"):
        return book.customers.find(system, external_id)


@contextmanager
def server_book(home: Path) -> Iterator[str]:
    """The URL of a book that is not made yet, in a schema of its own; wrapping keys lie in `home`."""
    schema = new_schema()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        if password := password_of(server_url()):
            patch.setenv("PGPASSWORD", password)  # a book tells its URL without it
        yield schema_url(schema)
    drop_schema(schema)


@pytest.fixture
def server_book_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a book that is not made yet, on a server. Wrapping keys lie in a home of the test's own."""
    with server_book(tmp_path / "home") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def book_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a book that is not made yet: in files, and on a server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.book"
    url: str = request.getfixturevalue("server_book_url")
    return url


@pytest.fixture
def book(book_url: str) -> Iterator[Book]:
    """A new book with somebody acting."""
    with tallybook.open(book_url) as opened, opened.acting("agent:lin", purpose="support"):
        yield opened
