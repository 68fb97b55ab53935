"""Programs that a test runs in processes of their own, forked from one that has imported and used everything before.

A new interpreter takes a second to import what a book needs, and a test that kills a process at any step starts a
hundred. The process that is forked from is started when the first program of a test process is, opens a book once and
closes it, and then has nothing open: no connection, no thread, no book of a test. Where a program does what an
interpreter of its own would have to do (its options, its imports, its end), start one.

Who forks waits for the program and tells its status, so that it can be told of any child how it ended.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
STATUS = struct.Struct("!i")


class Started:
    """A program that runs, as `subprocess.Popen` tells of one. What it writes to standard error goes to a file."""

    def __init__(self, code: str, argv: tuple[str, ...]) -> None:
        out, writing = os.pipe()
        self._status, telling = os.pipe()
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it is read when the program has ended
        try:
            _ask(code, argv, [writing, self._errors.fileno(), telling])
        finally:
            os.close(writing)
            os.close(telling)
        self.stdout: IO[str] = open(out)  # noqa: SIM115 - as long as this
        self.args = argv
        self.returncode: int | None = None
        self.pid = self._told(None)

    def _told(self, timeout: float | None) -> int:
        if not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        told = os.read(self._status, STATUS.size)
        if len(told) != STATUS.size:
            raise RuntimeError("the process that programs are forked from has ended")
        [found] = STATUS.unpack(told)
        return int(found)

    def poll(self) -> int | None:
        """Its status, if it has ended."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Its status, once it has ended."""
        if self.returncode is None:
            self.returncode = self._told(timeout)
            os.close(self._status)
        return self.returncode

    def kill(self) -> None:
        """Nothing, if it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it writes until it ends."""
        if timeout is not None:
            timer = threading.Timer(timeout, self.kill)
            timer.start()
            until = time.monotonic() + timeout
        with self.stdout:
            out = self.stdout.read()
        self.wait()
        if timeout is not None:
            timer.cancel()
            if time.monotonic() >= until:
                raise subprocess.TimeoutExpired(self.args, timeout, out)
        with self._errors:
            self._errors.seek(0)
            return out, self._errors.read()


def start(code: str, *argv: str) -> Started:
    """A program that begins now, as `python -c code argv` would, in the folder and environment of the test."""
    return Started(code, argv)


def run(code: str, *argv: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """A program from its beginning to its end."""
    started = start(code, *argv)
    out, errors = started.communicate(timeout)
    return subprocess.CompletedProcess(argv, started.wait(), out, errors)


# ── who is forked from ──────────────────────────────────────────────────────────────────────────────────────────────

_LOCK = threading.Lock()
_WARM: list[tuple[int, socket.socket]] = []


def _ask(code: str, argv: tuple[str, ...], files: list[int]) -> None:
    asked = json.dumps({"code": code, "argv": argv, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    with _LOCK:
        if not _WARM or _WARM[0][0] != os.getpid():
            _WARM[:] = [(os.getpid(), _made())]
        _, connection = _WARM[0]
        socket.send_fds(connection, [STATUS.pack(len(asked))], files)
        connection.sendall(asked)


def _made() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        warm = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
        )  # fmt: skip

    def stop() -> None:
        ours.close()
        warm.wait(timeout=30)

    atexit.register(stop)
    return ours


def _warm_up() -> None:
    """What is imported when it is first used, and made when it is first needed."""
    import psycopg  # noqa: F401 - for books on a server

    import tallybook
    import tallybook.adapters.backup
    import tallybook.adapters.postgres

    with (
        tempfile.TemporaryDirectory() as folder,
        tallybook.open(f"sqlite:///{folder}/shop.book") as book,
        book.acting("job:warm", purpose="test"),
    ):
        book.rules.adopt("standard", effective_at="1996-01-01T00:00:00Z")
        ada = book.customers.register(name="Ada", identifiers={"crm": "77"})
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, [{"sku": "x", "quantity": 1, "net_minor": 5000}], order_id="1")
        book.tickets.open(ada, subject="Wet", kind="complaint")
        book.profiles.get(ada)
        book.loyalty.sweep()
        book.projections.rebuild()
        book.erasures.erase(ada, reason="gdpr-17")
        book.rotate_wrapping_key()
        book.audit.rotate_signing_key()
        book.backup(f"{folder}/backup")
    for one in threading.enumerate():  # a timer that was stopped needs a moment to end
        if one is not threading.current_thread():
            one.join(30)
    assert threading.active_count() == 1, threading.enumerate()


def _serve(connection: socket.socket) -> None:
    _warm_up()
    gc.collect()
    gc.freeze()
    while True:
        size, files, _, _ = socket.recv_fds(connection, STATUS.size, 3)
        if not size:
            return
        asked = b""
        while len(asked) < STATUS.unpack(size)[0]:
            asked += connection.recv(1 << 20)
        if os.fork() == 0:
            connection.close()
            _mind(json.loads(asked), *files)
        for one in files:
            os.close(one)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those who waited for programs that have ended
                pass


def _mind(asked: dict[str, Any], out: int, errors: int, telling: int) -> None:
    """Start a program, wait for it, and tell its status."""
    child = os.fork()
    if child == 0:
        os.close(telling)
        _become(asked, out, errors)
    os.close(out)
    os.close(errors)
    with suppress(BrokenPipeError):  # nobody waits for it
        os.write(telling, STATUS.pack(child))
        os.write(telling, STATUS.pack(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    os._exit(0)


def _become(asked: dict[str, Any], out: int, errors: int) -> None:
    """Run a program as the interpreter does, and end."""
    for file, place in (out, 1), (errors, 2):
        os.dup2(file, place)
        os.close(file)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115 - until the end
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    tempfile.tempdir = None
    sys.argv = ["-c", *asked["argv"]]
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    status: Any = 0
    try:
        exec(compile(asked["code"], "<string>", "exec"), main.__dict__)
    except SystemExit as end:
        status = end.code
        if not isinstance(status, int | None):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        status = 1
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that are left
        atexit._run_exitfuncs()
        sys.stdout.flush()
    os._exit(status or 0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it closes its connection
    _serve(socket.socket(fileno=int(sys.argv[1])))
