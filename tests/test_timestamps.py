"""Timestamps of an authority on checkpoints, tried with one of our own: openssl behind a web server on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook import BookError, NoteError
from tallybook.adapters import timestamps
from tallybook.cli import app

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not there")

CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[tsa]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[ts]
default_tsa = here
[here]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
"""


def openssl(folder: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> Path:
    """Keys and certificates of an authority."""
    folder.mkdir()
    (folder / "config").write_text(CONFIG.format(name=name, folder=folder))
    (folder / "serial").write_text("01\n")
    key = ("-newkey", "rsa:2048", "-nodes", "-config", "config")
    openssl(
        folder, "req", "-x509", *key, "-keyout", "root.key", "-out", "root.pem", "-extensions", "root", "-days", "9"
    )
    (folder / "config").write_text((folder / "config").read_text().replace(f"CN = {name}", f"CN = {name} stamps"))
    openssl(folder, "req", "-new", *key, "-keyout", "tsa.key", "-out", "tsa.csr")
    openssl(
        folder, "x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key", "-set_serial", "7",
        "-out", "tsa.pem", "-days", "9", "-extfile", "config", "-extensions", "tsa",
    )  # fmt: skip
    return folder


class Authority(HTTPServer):
    """Answers requests for timestamps; in the ways that `answers` says."""

    folder: Path
    answers = "rightly"


class Handler(BaseHTTPRequestHandler):
    server: Authority

    def do_POST(self) -> None:
        folder = self.server.folder
        (folder / "request").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.answers == "to another":
            openssl(folder, "ts", "-query", "-data", "config", "-cert", "-sha256", "-out", "request")
        chain = ("-chain", "root.pem") if self.server.answers == "with its chain" else ()
        openssl(
            folder, "ts", "-reply", "-queryfile", "request", "-config", "config", "-section", "here", "-out", "answer",
            *chain,
        )  # fmt: skip
        body = {"nonsense": b"<html>", "endlessly": bytes(300_000)}.get(
            self.server.answers, (folder / "answer").read_bytes()
        )
        self.send_response(500 if self.server.answers == "not" else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    made = Authority(("127.0.0.1", 0), Handler)
    made.folder = authority(tmp_path_factory.mktemp("tsa") / "here", "Authority")
    thread = Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_checkpoint_is_stamped_kept_and_verified(server: Authority, tmp_path: Path) -> None:
    url, tsa = f"sqlite:///{tmp_path}/shop.book", f"http://127.0.0.1:{server.server_port}/"
    server.answers = "rightly"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        book.customers.register(name="Ada")
        made = book.audit.timestamp(book.audit.checkpoint(), tsa)
        assert made.token is not None
        seen = timestamps.stamped_at(made.note, made.token, server.folder / "root.pem")
        assert made.stamped_at == seen.isoformat()
        book.audit.checkpoint()
        book.audit.checkpoint()
        assert made in list(book.audit.checkpoints()), "a stamped one stays, whatever is signed after it"
        with pytest.raises(NoteError, match="does not hold"):
            timestamps.stamped_at(made.note + "x", made.token, server.folder / "root.pem")
        stranger = authority(tmp_path / "stranger", "Stranger")
        with pytest.raises(NoteError, match="does not hold"):
            timestamps.stamped_at(made.note, made.token, stranger / "root.pem")
        with pytest.raises(NoteError, match="no certificates"):
            timestamps.stamped_at(made.note, made.token, server.folder / "serial")
        with pytest.raises(NoteError):
            timestamps.stamped_at(made.note, b"nonsense", server.folder / "root.pem")
    env = {"TALLYBOOK_URL": url}
    out = tmp_path / "checkpoint"
    run = CliRunner().invoke
    done = run(app, ["audit", "checkpoint", "--out", str(out), "--timestamp", tsa], env=env)
    assert done.exit_code == 0, done.output
    verify = ["audit", "verify", "--against", str(out), "--tsa-cert"]
    done = run(app, [*verify, str(server.folder / "root.pem")], env=env)
    assert done.exit_code == 0
    assert "saw the checkpoint at" in done.output
    assert run(app, [*verify, str(stranger / "root.pem")], env=env).exit_code != 0
    # And by openssl itself.
    root = str(server.folder / "root.pem")
    openssl(tmp_path, "ts", "-verify", "-data", "checkpoint", "-in", "checkpoint.tsr", "-CAfile", root)


def test_an_authority_may_send_the_certificates_that_lead_to_its_root(server: Authority, tmp_path: Path) -> None:
    server.answers = "with its chain"
    with tallybook.open("memory:") as book:
        made = book.audit.timestamp(book.audit.checkpoint(), f"http://127.0.0.1:{server.server_port}/")
        assert made.token is not None
        assert made.stamped_at == timestamps.stamped_at(made.note, made.token, server.folder / "root.pem").isoformat()
    # What is kept is what was sent: openssl does not put the certificates in the order that DER demands.
    assert made.token == (server.folder / "answer").read_bytes()
    assert len({made.token, timestamps._in_der(made.token)}) == 2
    assert timestamps._in_der(timestamps._in_der(made.token)) == timestamps._in_der(made.token)
    (tmp_path / "note").write_text(made.note)
    (tmp_path / "token").write_bytes(made.token)
    openssl(tmp_path, "ts", "-verify", "-data", "note", "-in", "token", "-CAfile", str(server.folder / "root.pem"))


@pytest.mark.parametrize("data", [b"", b"0", b"0\x84", b"\x30\x05\x30\x03", bytes(50), b"\x30\x80\x30\x80"])
def test_what_is_no_answer_stays_as_it_is(data: bytes) -> None:
    assert timestamps._in_der(data) == data


def test_a_checkpoint_whose_timestamp_failed_is_asked_for_again(server: Authority, tmp_path: Path) -> None:
    env = {"TALLYBOOK_URL": f"sqlite:///{tmp_path}/shop.book"}
    ask = ["audit", "checkpoint", "--out", str(tmp_path / "checkpoint"), "--timestamp"]
    tallybook.open(env["TALLYBOOK_URL"]).close()
    for answers, well in (("not", False), ("rightly", True)):
        server.answers = answers
        done = CliRunner().invoke(app, [*ask, f"http://127.0.0.1:{server.server_port}/"], env=env)
        assert (done.exit_code == 0) is well
        assert (tmp_path / "checkpoint").exists() is well


@pytest.mark.parametrize("answers", ["not", "nonsense", "endlessly", "to another"])
def test_an_authority_that_gives_no_timestamp_leaves_the_checkpoint(server: Authority, answers: str) -> None:
    server.answers = answers
    with tallybook.open("memory:") as book:
        made = book.audit.checkpoint()
        for url in (f"http://127.0.0.1:{server.server_port}/", "http://127.0.0.1:1/", "file:///etc/passwd", "nowhere"):
            with pytest.raises(BookError, match=r"gave no timestamp|no address"):
                book.audit.timestamp(made, url, timeout_s=5)
        assert [one.token for one in book.audit.checkpoints()] == [None]


def test_without_the_extra_it_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tallybook.adapters.timestamps")
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with tallybook.open("memory:") as book, pytest.raises(tallybook.MissingExtra, match=r"tallybook\[timestamp\]"):
        book.audit.timestamp(book.audit.checkpoint(), "http://127.0.0.1:1/")
