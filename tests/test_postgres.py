"""A book on a PostgreSQL server: what only a server brings. All else that a book does is tested on both."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

import tallybook
from tallybook import Book
from tallybook.domain.errors import (
    BookError,
    BookNotFound,
    BookUnreachable,
    KeysMissing,
    NewerBook,
    NotABook,
)

from . import warm
from .conftest import STANDARD
from .postgres import (
    LOCKED_USER,
    Proxy,
    all_bytes,
    drop_schema,
    is_own_server,
    new_schema,
    password_of,
    run_sql,
    schema_url,
    server_url,
    tcp_server_url,
)

COMMIT = b"COMMIT\0"  # as it stands on the wire; BEGIN … READ COMMITTED is none
ADOPTED = "2000-01-01T00:00:00Z"
LINES = [{"sku": "cd", "quantity": 1, "net_minor": 5000}]


def schema_of(url: str) -> str:
    return url.rpartition("schema=")[2].partition("&")[0]


@pytest.fixture
def url(server_book_url: str) -> str:
    return server_book_url


@pytest.fixture
def book(url: str) -> Iterator[Book]:
    with tallybook.open(url) as opened, opened.acting("agent:lin", purpose="support"):
        yield opened


def sound(book: Book) -> None:
    assert [one.problem for one in book.audit.verify()] == [None, None]
    assert book.replay().holds


# ── a commit whose answer is lost ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    between = Proxy()
    yield between
    between.close()


@pytest.fixture
def cut_book(url: str, proxy: Proxy) -> Iterator[Book]:
    """A book whose connections go through the proxy."""
    with tallybook.open(proxy.url(schema_of(url))) as opened, opened.acting("agent:lin", purpose="support"):
        opened.rules.adopt(STANDARD, effective_at=ADOPTED)
        yield opened


@pytest.mark.parametrize("command_id", [None, "c-1"])
@pytest.mark.parametrize("passes_on", [True, False], ids=["the server commits", "the server never hears of it"])
def test_a_connection_lost_at_the_commit_gives_one_effect_and_the_result(
    cut_book: Book, proxy: Proxy, passes_on: bool, command_id: str | None
) -> None:
    ada = cut_book.customers.register(name="Ada")
    cut_book.loyalty.enrol(ada)
    cut_book.customers.record_purchase(ada, LINES)
    proxy.cut_once(COMMIT, passes_on=passes_on)
    bought = cut_book.customers.record_purchase(ada, LINES, command_id=command_id)
    assert proxy.cuts == 1
    purchases = list(cut_book._core.history(["customer.purchase_recorded"]))
    assert len(purchases) == 2
    assert cut_book.loyalty.balance(ada) == 2 * bought.points
    if command_id:
        assert cut_book.customers.record_purchase(ada, LINES, command_id=command_id) == bought
        assert len(list(cut_book._core.history(["customer.purchase_recorded"]))) == 2
    sound(cut_book)


@pytest.mark.parametrize("at", [COMMIT, b"INSERT INTO stored_events", b"SELECT position, frontier"])
def test_connections_cut_in_every_place_again_and_again_never_double_or_lose_a_command(
    cut_book: Book, proxy: Proxy, at: bytes
) -> None:
    # Statements have their text on the wire until they are prepared: each new connection sends it again.
    ada = cut_book.customers.register(name="Ada")
    for number in range(12):
        proxy.cut_all()
        proxy.cut_once(at, passes_on=number % 2 == 0)
        cut_book.customers.record_purchase(ada, LINES, order_id=f"A-{number}")
    assert proxy.cuts == 12
    assert len(list(cut_book._core.history(["customer.purchase_recorded"]))) == 12
    sound(cut_book)


def test_a_server_that_ends_sessions_while_eight_threads_write_loses_and_doubles_nothing(book: Book, url: str) -> None:
    customers = [book.customers.register(name="Ada") for _ in range(8)]
    done = threading.Event()

    def write(number: int) -> int:
        written = 0
        with book.acting(f"agent:{number}", purpose="test"):
            while not done.is_set():
                book.customers.record_purchase(customers[number], LINES, command_id=f"{number}-{written}")
                written += 1
        return written

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(write, number) for number in range(8)]
        try:
            for _ in range(8):
                time.sleep(0.15)
                run_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name=%s",
                    f"tallybook {schema_of(url)}",
                )
        finally:
            done.set()
        written = sum(future.result() for future in futures)
    assert written > 0
    assert len(list(book._core.history(["customer.purchase_recorded"]))) == written
    sound(book)


def test_a_server_that_stays_away_is_unreachable_and_the_book_works_when_it_is_back(
    cut_book: Book, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallybook.commands.SETTLE_S", 0.3)
    ada = cut_book.customers.register(name="Ada")
    proxy.refuses = True
    proxy.cut_once(COMMIT, passes_on=True)
    with pytest.raises(BookUnreachable) as lost:
        cut_book.customers.record_purchase(ada, LINES, command_id="c-1")
    assert lost.value.unknown
    assert "command_id" in lost.value.remedy
    with pytest.raises(BookUnreachable) as away:
        cut_book.customers.record_purchase(ada, LINES, command_id="c-2")
    assert not away.value.unknown
    proxy.refuses = False
    cut_book.customers.record_purchase(ada, LINES, command_id="c-1")
    assert len(list(cut_book._core.history(["customer.purchase_recorded"]))) == 1


def test_reads_survive_that_all_idle_connections_were_lost(cut_book: Book, proxy: Proxy) -> None:
    ada = cut_book.customers.register(name="Ada")
    for _ in range(3):
        proxy.cut_all()
        assert cut_book.profiles.get(ada)["name"] == "Ada"
        proxy.cut_all()
        assert cut_book.position() > 0
        proxy.cut_all()
        assert cut_book.projections.catch_up() == cut_book.position()


# ── opening ─────────────────────────────────────────────────────────────────────────────────────────────────────────

RACE = """
import sys, time, tallybook
from pathlib import Path
ready, go = Path(sys.argv[2]), Path(sys.argv[3])
ready.touch()
while not go.exists():
    time.sleep(0.001)
with tallybook.open(sys.argv[1]) as book, book.acting("agent:process", purpose="test"):
    book.customers.register(name="Ada")
    print(book.origin)
"""


def test_several_processes_that_make_a_book_at_once_make_one(url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    running = [warm.start(RACE, url, str(tmp_path / f"ready-{number}"), str(go)) for number in range(4)]
    until = time.monotonic() + 30
    while len(list(tmp_path.glob("ready-*"))) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    go.touch()
    outputs = [one.communicate(timeout=60) for one in running]
    assert [one.returncode for one in running] == [0] * 4, outputs
    assert len({out for out, _ in outputs}) == 1
    with tallybook.open(url, create=False) as book:
        assert book.position() == 8
        assert book.origin == outputs[0][0].strip()
        sound(book)
    book_id = outputs[0][0].strip().removeprefix("tallybook/")
    made = {path.name for path in (tmp_path / "home" / ".tallybook").iterdir()}
    assert made == {f"{book_id}.wrapping-key", f"{book_id}.signing-key"}


def test_a_book_that_is_not_there_is_not_found_and_nothing_is_made(url: str, tmp_path: Path) -> None:
    with pytest.raises(BookNotFound, match="There is no book at postgresql://"):
        tallybook.open(url, create=False)
    assert run_sql("SELECT 1 FROM pg_namespace WHERE nspname=%s", schema_of(url)) == []
    assert not (tmp_path / "home").exists()


def test_a_schema_that_was_made_beforehand_is_used(url: str) -> None:
    run_sql(f"CREATE SCHEMA {schema_of(url)}")
    with tallybook.open(url) as book:
        assert book.position() == 0


@pytest.mark.parametrize(
    "table", ["orders (id bigint)", "book (name text, value text)", "book (isbn text)"], ids=["another", "book", "isbn"]
)
def test_a_schema_of_something_else_is_no_book_and_is_left_alone(url: str, table: str) -> None:
    schema = schema_of(url)
    run_sql(f"CREATE SCHEMA {schema}")
    run_sql(f"CREATE TABLE {schema}.{table}")
    with pytest.raises(NotABook, match="in use by something else"):
        tallybook.open(url)
    assert len(run_sql("SELECT 1 FROM pg_tables WHERE schemaname=%s", schema)) == 1


def test_a_newer_book_is_refused(url: str) -> None:
    tallybook.open(url).close()
    run_sql(f"UPDATE {schema_of(url)}.book SET value='2' WHERE name='format'")
    with pytest.raises(NewerBook, match="format 2"):
        tallybook.open(url)


def test_both_spellings_of_the_scheme_open_the_same_book(url: str) -> None:
    with tallybook.open(url) as book:
        origin = book.origin
    with tallybook.open(url.replace("postgresql://", "postgres://"), create=False) as book:
        assert book.origin == origin


def test_without_the_driver_the_message_names_the_extra(url: str) -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\nimport tallybook\n"
        "try: tallybook.open(sys.argv[1])\nexcept tallybook.MissingExtra as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, check=False)
    assert "pip install 'tallybook[postgres]'" in done.stdout, done.stderr


# ── passwords, and whose word counts ────────────────────────────────────────────────────────────────────────────────

SECRET = "p4ss%2Fw%40rd"  # in a URL; p4ss/w@rd
PLAIN = "p4ss/w@rd"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/shop",
        f"postgres://ada:{SECRET}@127.0.0.1:1/shop?schema=x&connect_timeout=2",
        f"postgresql://ada:{SECRET}@127.0.0.1:1/shop?schema=Not-One",
        f"postgresql://ada:{SECRET}@127.0.0.1:1/shop?nonsense=1",
        f"postgresql://ada:{SECRET}@127.0.0.1:port/shop",
        f"postgresql://ada:{SECRET}@127.0.0.1:1/",
        f"postgresql://ada:{SECRET}@[::1/shop",
        f"postgresql://127.0.0.1:1/shop?password={SECRET}",
        f"postgresql://ada@127.0.0.1:1/shop?password={SECRET}",
        f"postgresql://ada:{SECRET}@127.0.0.1:1/shop?service=other",
        f"postgresqll://ada:{SECRET}@127.0.0.1:1/shop",
        f"POSTGRESQL://ada:{SECRET}@127.0.0.1:1/shop",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    import traceback

    with pytest.raises(BookError) as refused:
        tallybook.open(url)
    said = "".join(traceback.format_exception(refused.value)) + refused.value.path + refused.value.remedy
    said = said.replace(f"tallybook.open({url!r})", "")
    for secret in (SECRET, PLAIN, "p4ss"):
        assert secret not in said


def locked_url(schema: str, password: str = "") -> str:
    _, _, rest = server_url().partition("@")
    return f"postgresql://{LOCKED_USER}{password and ':' + password}@{rest}&schema={schema}"


@pytest.fixture
def locked(url: str) -> str:
    """The schema of a user who needs a password."""
    if not is_own_server():
        pytest.skip("a server that is not the tests' own has its own rules about passwords")
    run_sql(f"DO $$ BEGIN CREATE ROLE {LOCKED_USER} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    run_sql(f"ALTER ROLE {LOCKED_USER} PASSWORD '{PLAIN}'")
    run_sql(f"CREATE SCHEMA {schema_of(url)} AUTHORIZATION {LOCKED_USER}")
    return schema_of(url)


def test_a_password_opens_the_book_and_is_shown_nowhere(locked: str, tmp_path: Path) -> None:
    with tallybook.open(locked_url(locked, SECRET)) as book, book.acting("agent:lin", purpose="test"):
        book.customers.register(name="Ada")
        for shown in (repr(book), repr(book._core.storage.events), book._core.storage.url):
            assert "p4ss" not in shown
            assert LOCKED_USER in shown
    with pytest.raises(tallybook.BookClosed) as closed:
        book.position()
    assert "p4ss" not in str(closed.value) + closed.value.path
    with pytest.raises(BookUnreachable, match="password"):
        tallybook.open(locked_url(locked, "wrong"))


def test_a_password_may_come_from_libpqs_own_file(locked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"*:*:*:{LOCKED_USER}:{PLAIN}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    with tallybook.open(locked_url(locked)) as book:
        assert book.position() == 0


def test_variables_of_the_host_do_not_say_which_book_it_is(
    book: Book, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.customers.register(name="Ada")
    steering = {
        "PGHOST": "192.0.2.1",
        "PGHOSTADDR": "192.0.2.1",
        "PGPORT": "1",
        "PGDATABASE": "elsewhere",
        "PGUSER": "nobody",
        "PGOPTIONS": "-c synchronous_commit=off -c search_path=elsewhere",
        "PGTARGETSESSIONATTRS": "standby",
        "PGCLIENTENCODING": "LATIN1",
    }
    with monkeypatch.context() as patch:
        for name, value in steering.items():
            patch.setenv(name, value)
        same = tallybook.open(url, create=False)
    with same:
        assert same.position() == 2
        assert same.origin == book.origin
        assert same._core.storage.events.rows("SELECT current_setting('synchronous_commit')") == [("on",)]


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def key_file(tmp_path: Path) -> Path:
    """Of the two keys that lie there, the wrapping key."""
    [_, path] = sorted((tmp_path / "home" / ".tallybook").iterdir())
    assert path.suffix == ".wrapping-key"
    return path


def written(origin: str, *keys: bytes) -> bytes:
    """A file of wrapping keys of a book."""
    return "\n".join(["tallybook wrapping key", origin, *(b64encode(key).decode() for key in keys), ""]).encode()


def keys_in(path: Path, origin: str) -> list[bytes]:
    """What such a file of a book holds."""
    header, name, *lines = path.read_text().splitlines()
    assert (header, name) == ("tallybook wrapping key", origin)
    return [b64decode(line, validate=True) for line in lines]


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(33)])
def test_a_wrapping_key_that_is_none_and_may_be_read_by_others_is_told_to_be_both(
    book: Book, url: str, tmp_path: Path, content: bytes
) -> None:
    book.close()
    other = tmp_path / "other-key"
    other.write_bytes(content)
    other.chmod(0o644)
    with pytest.raises(
        KeysMissing, match=r"no wrapping key: .*32 bytes in base64 are wanted; and others .* \(mode 0644\)"
    ) as both:
        tallybook.open(url, wrapping_key=other)
    assert "mode 0600" in both.value.remedy
    other.chmod(0o600)
    with pytest.raises(KeysMissing, match=r"32 bytes in base64 are wanted\."):
        tallybook.open(url, wrapping_key=other)


def test_the_wrapping_key_is_made_with_the_book_and_is_readable_by_its_owner_only(book: Book, tmp_path: Path) -> None:
    path = key_file(tmp_path)
    assert path.name == f"{book.origin.removeprefix('tallybook/')}.wrapping-key"
    [key] = keys_in(path, book.origin)
    assert (path.stat().st_mode & 0o777, len(key)) == (0o600, 32)
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_another_place_for_the_wrapping_key_may_be_named(url: str, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "shop.key"
    with tallybook.open(url, wrapping_key=path) as book, book.acting("agent:lin", purpose="test"):
        ada = book.customers.register(name="Ada")
    assert not (tmp_path / "home").exists()
    with (
        tallybook.open(url, create=False, wrapping_key=str(path)) as book,
        book.acting("agent:lin", purpose="test"),
    ):
        assert book.profiles.get(ada)["name"] == "Ada"
    with pytest.raises(KeysMissing, match="Copy the wrapping key from the host that made the book"):
        tallybook.open(url)


@pytest.mark.parametrize("content", [b"k" * 32, written(f"tallybook/{UUID(int=1).hex}", b"k" * 32)])
def test_what_lies_there_beforehand_is_neither_taken_nor_replaced_and_no_book_is_made(
    url: str, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "shop.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeysMissing, match=r"is no wrapping key|is the wrapping key of another book"):
        tallybook.open(url, wrapping_key=path)
    assert path.read_bytes() == content
    with pytest.raises(BookNotFound):
        tallybook.open(url, wrapping_key=path, create=False)
    assert not (tmp_path / "home").exists()


def damaged_by(kind: str, path: Path, origin: str) -> None:
    if kind == "missing":
        path.unlink()
    elif kind == "wrong":
        path.write_bytes(written(origin, os.urandom(32)))
    elif kind == "of another book":
        path.write_bytes(written("tallybook/another", *keys_in(path, origin)))
    elif kind == "short":
        path.write_bytes(b"short")
    elif kind == "readable by others":
        path.chmod(0o640)


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("missing", KeysMissing, "is not there"),
        ("wrong", KeysMissing, "is not the wrapping key of the book"),
        ("of another book", KeysMissing, "is the wrapping key of another book"),
        ("short", KeysMissing, "32 bytes in base64 are wanted"),
        ("readable by others", BookError, "mode 0640"),
    ],
)
def test_a_wrapping_key_that_is_not_right_refuses_and_none_is_made(
    url: str, tmp_path: Path, kind: str, error: type[BookError], says: str
) -> None:
    with tallybook.open(url) as made:
        origin = made.origin
    path = key_file(tmp_path)
    damaged_by(kind, path, origin)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(error, match=says):
        tallybook.open(url)
    assert (path.read_bytes() if path.exists() else None) == before


def test_no_data_key_and_no_wrapping_key_is_in_the_database_in_the_clear(book: Book, url: str, tmp_path: Path) -> None:
    customers = [book.customers.register(name=f"Customer {number}") for number in range(20)]
    keys = book._core.storage.keys.get([(one, 1) for one in customers])
    assert len(keys) == 20
    wrapping = keys_in(key_file(tmp_path), book.origin)
    assert len(wrapping) == 1
    secrets = [*keys.values(), *wrapping, book._core.storage.keys.lookup_key]
    found = all_bytes(schema_of(url))
    assert customers[0].bytes in found["stored_events"]
    if is_own_server():
        assert sum(customers[0].bytes in data for data in found.values()) >= 3  # a table, its file, the log of changes
    for secret in secrets:
        forms = (secret, secret.hex().encode(), b64encode(secret))
        assert [name for name, data in found.items() if any(form in data for form in forms)] == []


@pytest.mark.parametrize("move", ["between subjects", "altered", "of another book"])
def test_a_wrapped_key_that_was_moved_or_altered_is_refused(book: Book, url: str, tmp_path: Path, move: str) -> None:
    path = key_file(tmp_path)
    ada, bea = (book.customers.register(name=name) for name in ("Ada", "Bea"))
    table = f"{schema_of(url)}.data_keys"
    if move == "between subjects":
        run_sql(f"UPDATE {table} SET wrapped=(SELECT wrapped FROM {table} WHERE subject=%s)", bea.bytes)
    elif move == "altered":
        run_sql(f"UPDATE {table} SET wrapped=set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)")
    else:
        run_sql(f"UPDATE {schema_of(url)}.book SET value='tallybook/other' WHERE name='origin'")
        path.write_bytes(written("tallybook/other", *keys_in(path, book.origin)))  # the very key that wraps it
    with (
        pytest.raises(KeysMissing, match="can't be unwrapped"),
        tallybook.open(url, wrapping_key=path) as other,
        other.acting("agent:kim", purpose="test"),
    ):
        other.profiles.get(ada)


def test_a_destroyed_key_reads_as_erased(url: str) -> None:
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="test"):
        ada = book.customers.register(name="Ada")
        book._core.keyring.destroy([(ada, 1)], book.position())
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="test"):
        assert isinstance(book.profiles.get(ada)["name"], tallybook.Erased)
        sound(book)


# ── read models elsewhere ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/models.db"
    else:
        schema = new_schema()
        yield schema_url(schema)
        drop_schema(schema)


BOTH = pytest.mark.parametrize("elsewhere", ["sqlite", "postgresql"], indirect=True)


@BOTH
def test_read_models_may_live_in_another_database_than_the_log(book_url: str, elsewhere: str) -> None:
    with tallybook.open(book_url, read_models=elsewhere) as book, book.acting("agent:lin", purpose="test"):
        book.rules.adopt(STANDARD, effective_at=ADOPTED)
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, LINES)
        assert book.profiles.get(ada)["name"] == "Ada"
        storage = book._core.storage
        assert storage.models is not storage.events
        assert storage.models.has_table("read_model_builds")
        assert not storage.events.has_table("read_model_builds")
        rebuilt = book.projections.rebuild(processes=2)
        assert rebuilt == book.position()
    with tallybook.open(book_url, read_models=elsewhere) as book, book.acting("agent:lin", purpose="test"):
        assert {one.position for one in book.projections.status()} == {rebuilt}
    # Read models are derived: without the other database, the book makes them anew beside its log.
    with tallybook.open(book_url) as book, book.acting("agent:lin", purpose="test"):
        assert book.profiles.get(ada)["name"] == "Ada"


@BOTH
def test_a_database_of_read_models_belongs_to_one_book(book_url: str, elsewhere: str, tmp_path: Path) -> None:
    tallybook.open(book_url, read_models=elsewhere).close()
    with pytest.raises(BookError, match="read models of another book"):
        tallybook.open(f"sqlite:///{tmp_path}/other.book", read_models=elsewhere)
    with pytest.raises(BookError, match=r"no book|something else"):
        tallybook.open(elsewhere)


def test_a_book_is_no_place_for_anothers_read_models(book_url: str, tmp_path: Path) -> None:
    tallybook.open(book_url).close()
    with pytest.raises(NotABook):
        tallybook.open(f"sqlite:///{tmp_path}/other.book", read_models=book_url)
    with pytest.raises(NotABook):
        tallybook.open(book_url, read_models=book_url)


@BOTH
def test_a_book_whose_read_models_live_elsewhere_says_so_when_it_is_opened_without(
    book_url: str, elsewhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "tallybook.storage"]

    def findings(read_models: str | None) -> list[str]:
        with tallybook.open(book_url, read_models=read_models) as book:
            from_within = [one.what for one in book.doctor(quick=True) if "live at" in one.what]
        outside = tallybook.doctor(book_url, quick=True, read_models=read_models)
        assert [one.what for one in outside if "live at" in one.what] == from_within
        assert all(one.state == "warning" and "log:" in one.remedy for one in outside if "live at" in one.what)
        return from_within

    tallybook.open(book_url).close()
    with tallybook.open(book_url, read_models=elsewhere) as book:
        place = book._core.storage.models.place
    assert findings(elsewhere) == []
    assert told() == []
    [finding] = findings(None)
    assert place in finding
    assert told()
    assert all(place in one for one in told())
    caplog.clear()
    assert findings("log:") == []
    assert findings(None) == [], "the place was given up"
    assert told() == []


def test_the_place_of_read_models_is_noted_without_its_password(url: str, tmp_path: Path, proxy: Proxy) -> None:
    schema = new_schema()
    password = password_of(server_url()) or "hunter2"  # a server of the tests' own asks for none
    models = proxy.url(schema)
    if f":{password}@" not in models:
        models = models.replace("@", f":{password}@", 1)
    path = tmp_path / "shop.book"
    try:
        tallybook.open(f"sqlite:///{path}", read_models=models).close()
    finally:
        drop_schema(schema)
    with closing(sqlite3.connect(path)) as raw:
        [(noted,)] = raw.execute("SELECT value FROM book WHERE name='read_models'")
    assert schema in noted
    assert password not in noted


# ── the command line ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_opens_a_book_on_a_server(url: str, tmp_path: Path) -> None:
    key = tmp_path / "shop.key"
    with tallybook.open(url, wrapping_key=key) as book, book.acting("agent:lin", purpose="test"):
        ada = book.customers.register(name="Ada Lovelace")

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from tallybook.console import main; main()", *words, "--book", url],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TALLYBOOK_ACTOR": "agent:lin", "TALLYBOOK_PURPOSE": "test", **variables},
        )

    assert "Ada Lovelace" in run("--wrapping-key", str(key), "show", "customer", str(ada)).stdout
    assert "Ada Lovelace" in run("show", "customer", str(ada), TALLYBOOK_WRAPPING_KEY=str(key)).stdout
    models = tmp_path / "models.db"
    place = f"sqlite:///{models}"
    keyed = ("--wrapping-key", str(key))
    assert run(*keyed, "--read-models", place, "projections", "catch-up").returncode == 0
    head = run_sql(f"SELECT position FROM {schema_of(url)}.head WHERE log='stored_events'")
    with closing(sqlite3.connect(models)) as raw:
        assert set(raw.execute("SELECT position FROM read_model_builds")) == set(head)
    done = run(*keyed, "doctor", "--quick", TALLYBOOK_READ_MODELS=place)
    assert done.returncode == 0
    assert "live at" not in done.stdout
    done = run(*keyed, "doctor", "--quick", "--json")
    assert f"the read models live at {models}" in done.stdout
    assert str(models) in done.stderr
    refused = run("show", "customer", str(ada))
    assert refused.returncode == 2
    assert "Copy the wrapping key" in refused.stderr


@pytest.mark.server
def test_the_server_gives_up_a_host_that_vanished_within_seconds() -> None:
    # What holds a projector's lock must not hold it for the two hours of TCP's own patience.
    from tallybook.adapters.postgres import VANISHED_S, PostgresDatabase

    asked = "SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp%'"
    with tcp_server_url() as url:
        database = PostgresDatabase(url)
        hold = database.hold("projecting-tiers")
        assert hold is not None
        answers = [hold._connection.execute(asked).fetchall(), database.rows(asked)]
        hold.release()
        database.close()
    for answer in answers:
        found = {str(name): int(setting) for name, setting in answer}
        silence = found["tcp_keepalives_idle"] + found["tcp_keepalives_interval"] * found["tcp_keepalives_count"]
        assert silence == VANISHED_S == found["tcp_user_timeout"] / 1000
