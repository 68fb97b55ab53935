"""An auditor's pack: tools of others verify it, and whatever is done to it is found."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgpack
import pytest

import tallybook
from tallybook import Book
from tallybook.adapters import merkle, outputs, pack
from tallybook.adapters.clear_form import ClearForm, as_json, schemas
from tallybook.adapters.notes import Checkpoint, Proof, Signer, encoded, made, taken_apart
from tallybook.domain.access import Exported, PersonalDataRead
from tallybook.domain.errors import BookDamaged, BookError, BookFull, Refused

from .conftest import server_book
from .test_verifier import FILE, loaded

verifier: Any = loaded()
verifier.verify_ed25519 = functools.lru_cache(None)(verifier.verify_ed25519)

CUSTOMERS = 150


def fill(book: Book) -> None:
    """More than a tile of events, one of which is larger than an entry may be."""
    for number in range(CUSTOMERS):
        customer = book.customers.register(name=f"Zoë {number}", email=f"zoe{number}@example.com", country="DE")
    ticket = book.tickets.open(customer, kind="complaint", subject="ü" * 20_000, text="€" * 20_000)
    book.tickets.reply(ticket, text="We are sorry", author="human", public=True)
    book.rules.adopt(tallybook.__path__[0] + "/data/standard.toml")
    assert book.profiles.get(customer)["name"] == f"Zoë {CUSTOMERS - 1}"


class Made:
    """Packs of one book, and what an auditor has from elsewhere."""

    def __init__(self, folder: Path, url: str) -> None:
        with tallybook.open(url) as book, book.acting("agent:lin", purpose="audit"):
            book.customers.register(name="Ada")
            older = book.audit.checkpoint()
            self.older = folder / "older"
            self.older.write_text(older.note, encoding="utf-8")
            fill(book)
            self.vkey, self.origin = book.audit.vkey, book.origin
            self.older_size = older.size
            self.sealed = folder / "sealed"
            self.clear = folder / "clear"
            self.part = folder / "part"
            self.packed = book.audit.export(self.sealed)
            book.audit.export(self.clear, sealed=False)
            book.audit.export(self.part, after=270, until=280)
            proof = book.audit.proof(7)
            self.proof = folder / "7.tlog-proof"
            self.proof.write_text(proof.text, encoding="utf-8")
            self.exports = [one.event for one in book._core.reads() if isinstance(one.event, Exported)]
            self.reads = [one.event for one in book._core.reads() if isinstance(one.event, PersonalDataRead)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def packs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("packs")
    if request.param == "sqlite":
        yield Made(folder, f"sqlite:///{folder}/shop.book")
    else:
        with server_book(folder / "home") as url:
            yield Made(folder, url)


@pytest.fixture(scope="module")
def files_pack(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("pack")
    return Made(folder, f"sqlite:///{folder}/shop.book")


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The pack's own verifier, without site-packages."""
    return subprocess.run(
        [sys.executable, "-I", "-S", folder / "verify.py", folder, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def blocks(folder: Path, language: str) -> list[str]:
    readme = (folder / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


# ── tools of others ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("which", ["sealed", "clear", "part"])
def test_the_standalone_verifier_verifies_a_pack(packs: Made, which: str) -> None:
    done = run(getattr(packs, which), "--vkey", packs.vkey, "--against", packs.older, "--proof", packs.proof)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("VERIFIED\n")
    assert "proves position 7" in done.stdout
    assert f"({packs.older_size} leaves)" in done.stdout
    assert "proves only that the pack fits itself" not in done.stdout


def test_the_pack_s_own_key_proves_nothing_by_itself_and_that_is_said(packs: Made) -> None:
    done = run(packs.sealed)
    assert done.returncode == 0
    assert "proves only that the pack fits itself" in done.stdout
    assert "no older checkpoint was given" in done.stdout


def test_a_checkpoint_of_one_log_says_nothing_of_the_other(packs: Made) -> None:
    done = run(packs.sealed, "--against", packs.sealed / "reads" / "checkpoint")
    assert done.returncode == 0
    assert f"no older checkpoint of {packs.origin} was given" in done.stdout
    assert f"no older checkpoint of {packs.origin}/reads was given" not in done.stdout
    done = run(packs.sealed, "--against", packs.older, "--against", packs.sealed / "reads" / "checkpoint")
    assert "no older checkpoint" not in done.stdout


def test_an_older_python_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (files("tallybook") / "data" / "verify.py").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or later"):
        exec(compile(source, "verify.py", "exec"), {"__name__": "verify"})


def test_tamperlog_finds_the_root_by_the_readme_s_recipe(packs: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tamperlog")
    monkeypatch.chdir(packs.sealed)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(blocks(packs.sealed, "python")[0], "README.md", "exec"), {})
    assert printed.getvalue() == f"{packs.packed.size} entries give the root that was signed\n"


def test_aics_tlog_audits_every_tile_by_the_readme_s_recipe(packs: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aics_tlog", reason="needs Python 3.12")
    monkeypatch.chdir(packs.sealed)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(blocks(packs.sealed, "python")[1], "README.md", "exec"), {})
    assert printed.getvalue() == f"{packs.packed.size} leaves, signed and whole\n"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_and_coreutils_check_by_the_readme_s_commands(packs: Made, tmp_path: Path) -> None:
    shown, verify, sums, openssl = blocks(packs.sealed, "sh")
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=packs.sealed,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert shell(shown).stdout == packs.vkey + "\n"
    assert shell(sums).returncode == 0
    done = shell(openssl.replace("/tmp/", f"{tmp_path}/"))
    assert (done.returncode, done.stdout.strip()) == (0, "Signature Verified Successfully"), done.stderr
    assert "verify.py . --vkey KEY --against OLD" in verify
    given = verify.replace("python3", sys.executable).replace("OLD", str(packs.older))
    given = given.replace("KEY", f"'{packs.vkey}'")  # the last: a key may hold any of these letters
    assert shell(given).stdout.endswith("VERIFIED\n")
    checkpoint = (packs.sealed / "checkpoint").read_text(encoding="utf-8")
    forged = tmp_path / "forged"
    shutil.copytree(packs.sealed, forged)
    (forged / "checkpoint").write_text(checkpoint.replace(f"\n{packs.packed.size}\n", "\n1\n"), encoding="utf-8")
    refused = subprocess.run(
        ["sh", "-c", openssl.replace("/tmp/", f"{tmp_path}/")], cwd=forged, capture_output=True, check=False
    )
    assert refused.returncode != 0


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go, and its proxy")
def test_go_checks_by_the_readme_s_program(packs: Made, tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(blocks(packs.sealed, "go")[0], encoding="utf-8")
    for command in (["go", "mod", "init", "check"], ["go", "mod", "tidy"], ["go", "build", "-o", "check"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([tmp_path / "check"], cwd=packs.sealed, capture_output=True, text=True, check=True)
    assert done.stdout == f"{packs.packed.size} leaves, signed and whole\n"


# ── what is in it ───────────────────────────────────────────────────────────────────────────────────────────────────


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]


def test_a_sealed_pack_holds_no_personal_value_and_a_clear_one_what_was_opened(packs: Made) -> None:
    for path in packs.sealed.rglob("*"):
        if path.is_file():
            assert b"Zo\xc3\xab" not in path.read_bytes(), path
    registered = next(line for line in lines(packs.clear) if line.get("opened", {}).get("name") == "Zoë 7")
    assert registered["name"] == "customer.registered"
    assert [line for line in lines(packs.sealed) if "opened" in line] == []


def test_the_lines_say_all_of_the_range_and_nothing_else(packs: Made) -> None:
    assert [line["position"] for line in lines(packs.sealed)] == list(range(1, packs.packed.size + 1))
    assert [line["position"] for line in lines(packs.part)] == list(range(271, 281))
    bundles = [path for path in (packs.part / "tile" / "entries").rglob("*") if path.is_file()]
    assert len(bundles) == 1


def test_each_export_is_recorded_and_a_clear_one_is_one_bulk_read(packs: Made) -> None:
    assert [one.format for one in packs.exports] == ["pack-sealed", "pack-clear", "pack-sealed"]
    assert packs.exports[0].digest == packs.packed.digest
    assert (packs.exports[2].from_position, packs.exports[2].to_position) == (271, 280)
    bulk = [one for one in packs.reads if one.action == "audit.export" and one.subjects]
    assert [len(one.subjects) for one in bulk] == [CUSTOMERS + 1]
    assert {"name", "contact.email", "text", "subject"} <= set(bulk[0].fields)


def test_the_read_that_opened_a_pack_is_in_its_own_log_of_reads(packs: Made) -> None:
    last = lines(packs.clear / "reads")[-1]
    assert last["name"] == "access.personal_data_read"
    assert len(last["event"]["fields"]["subjects"]) == CUSTOMERS + 1


def test_rule_sets_are_there_under_their_digests(packs: Made) -> None:
    import hashlib

    found = list((packs.sealed / "documents").iterdir())
    assert len(found) == 1
    assert hashlib.sha256(found[0].read_bytes()).hexdigest() == found[0].stem


def test_events_of_older_versions_stand_as_they_were_with_what_upcasters_make_of_them(tmp_path: Path) -> None:
    from tallybook.adapters.packing import pack as packed
    from tallybook.domain.events import Code, Fact, Schema, stored

    registry: dict[str, Schema] = {}

    def in_cents(clear: list[Any]) -> list[Any]:
        return [clear[0] * 100, clear[1]]

    @stored("shop.gift_wrapped", 2, upcasters={1: in_cents}, registry=registry)
    class GiftWrapped(Fact):
        price_minor: int
        shop: Code

    state = packed([1, None, b"e" * 16, 5, None, [1, "a", "p"] + [None] * 7, 12, "berlin", None])
    line = ClearForm(registry).event("shop.gift_wrapped", state)
    assert line["event"]["fields"] == [12, "berlin"]
    assert line["upcast"] == {"price_minor": 1200, "shop": "berlin"}
    whole = {"position": 1, "stream": "s", "version": 1, "name": "shop.gift_wrapped", **line}
    entry = verifier.Entry("s", 1, "shop.gift_wrapped", state, None)
    shapes = json.loads(as_json(schemas(registry)))
    verifier.check_line(as_json(whole), entry, 1, shapes)
    whole["event"]["fields"][0] = 13
    with pytest.raises(verifier.Bad, match="fields"):
        verifier.check_line(as_json(whole), entry, 1, shapes)
    pack.write_code(tmp_path, registry)
    assert "return [clear[0] * 100" in (tmp_path / "upcasters" / "shop.gift_wrapped.v1.py").read_text(encoding="utf-8")


def test_an_empty_book_gives_a_pack_that_verifies(tmp_path: Path) -> None:
    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="audit"):
        packed = book.audit.export(tmp_path / "pack")
        assert (packed.size, packed.first, packed.last) == (0, 1, 0)
    assert run(tmp_path / "pack").returncode == 0


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 513, 65_536, 65_537, 66_049])
def test_tiles_are_those_of_the_specification_at_every_edge(size: int, tmp_path: Path) -> None:
    tiles = pack.Tiles(tmp_path)
    hashes = [verifier.leaf_hash(number.to_bytes(4, "big")) for number in range(size)]
    for one in hashes:
        tiles.append(one)
    tiles.close()
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set(verifier.tile_paths(size))
    full = [verifier.tree_hash(hashes[at : at + 256]) for at in range(0, size - size % 256, 256)]
    if full:
        tile = tmp_path / verifier.tile_path(1, 0, min(len(full), 256))
        assert tile.read_bytes() == b"".join(full[:256])


# ── nothing that looks complete ─────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_used(tmp_path: Path) -> None:
    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="audit"):
        (tmp_path / "empty").mkdir()
        book.audit.export(tmp_path / "empty")
        with pytest.raises(BookError, match="not empty"):
            book.audit.export(tmp_path / "empty")
        (tmp_path / "file").touch()
        with pytest.raises(BookError, match="no folder"):
            book.audit.export(tmp_path / "file")
        with pytest.raises(BookError, match="not there"):
            book.audit.export(tmp_path / "none" / "pack")
    with tallybook.open("memory:") as book, pytest.raises(Refused) as refused:
        book.audit.export(tmp_path / "pack")
    assert refused.value.code == "acting_required"


@pytest.mark.parametrize("after", [0, 1, 7, 12])
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [after]
    real = pack.written

    def full(path: Path, content: bytes) -> None:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        real(path, content)

    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="audit"):
        fill(book)
        monkeypatch.setattr(pack, "written", full)
        with pytest.raises(BookFull):
            book.audit.export(tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    script = (
        "import os, sys, tallybook\n"
        "from tallybook.adapters import pack\n"
        "pack.write_manifest = lambda *_: os.kill(os.getpid(), 9)\n"
        "with tallybook.open('memory:') as book, book.acting('agent:lin', purpose='audit'):\n"
        "    book.customers.register(name='Ada')\n"
        "    book.audit.export(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "pack"], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    [left] = tmp_path.iterdir()
    assert left.name.startswith("pack.")
    assert left.name.endswith(".part")
    assert run(left).returncode == 1
    os.utime(left, (1, 1))
    with outputs.new_folder(tmp_path / "pack"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_a_book_whose_rows_do_not_give_the_signed_root_is_not_exported(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="audit"):
        book.customers.register(name="Ada")
        book.audit.checkpoint()
        with book._core.storage.events.session(write=True) as session:
            session.run("UPDATE stored_events SET topic='customer.changed' WHERE position=2")
        with pytest.raises(BookDamaged, match="altered"):
            book.audit.export(tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


# ── whatever is done to it is found ─────────────────────────────────────────────────────────────────────────────────


def report(folder: Path, made_: Made, **given: Any) -> Any:
    keys = [verifier.parse_vkey(made_.vkey)]
    return verifier.check_pack(folder, keys, **given)


def positions(found: Any) -> list[tuple[int, int]]:
    return [(bad.first, bad.last) for log in found.logs for bad in log.problems if bad.first is not None]


Tamper = Callable[[random.Random, Path], str | None]


def flip(drawn: random.Random, path: Path) -> str | None:
    raw = bytearray(path.read_bytes())
    at = drawn.randrange(len(raw) * 8)
    raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)
    return None


def truncate(drawn: random.Random, path: Path) -> str | None:
    raw = path.read_bytes()
    path.write_bytes(raw[: drawn.randrange(len(raw))])
    return None


def append(drawn: random.Random, path: Path) -> str | None:
    path.write_bytes(path.read_bytes() + drawn.choice([b"\0", b"\n", b"x" * 32, path.read_bytes()]))
    return None


def delete(drawn: random.Random, path: Path) -> str | None:
    path.unlink()
    return None


def swap(drawn: random.Random, path: Path) -> str | None:
    """Two pieces of a file change places: lines, hashes, entries."""
    raw = path.read_bytes()
    if path.name == "events.jsonl":
        pieces = raw.splitlines(keepends=True)
    elif "entries" in path.parts:
        pieces = [len(one).to_bytes(2, "big") + one for one in verifier.parse_bundle(raw)]
    else:
        pieces = [raw[at : at + 32] for at in range(0, len(raw), 32)]
    if len(set(pieces)) < 2:
        return "skip"
    one, other = drawn.sample(range(len(pieces)), 2)
    if pieces[one] == pieces[other]:
        return "skip"
    pieces[one], pieces[other] = pieces[other], pieces[one]
    path.write_bytes(b"".join(pieces))
    return None


def double(drawn: random.Random, path: Path) -> str | None:
    """A piece of a file stands in the place of another."""
    if path.name != "events.jsonl":
        return "skip"
    pieces = path.read_bytes().splitlines(keepends=True)
    at = drawn.randrange(len(pieces))
    pieces[at : at + 1] = drawn.choice([[], [pieces[at]] * 2, [pieces[at - 1]]])
    if b"".join(pieces) == path.read_bytes():
        return "skip"
    path.write_bytes(b"".join(pieces))
    return None


def replace(drawn: random.Random, path: Path) -> str | None:
    """Another file of the pack stands in its place."""
    others = [one for one in sorted(path.parent.iterdir()) if one.is_file() and one.read_bytes() != path.read_bytes()]
    if not others:
        return "skip"
    path.write_bytes(drawn.choice(others).read_bytes())
    return None


TAMPERS: list[Tamper] = [flip, flip, truncate, append, delete, swap, double, replace]
ROUNDS = int(os.environ.get("TALLYBOOK_TAMPER_ROUNDS", "300"))


def tampered(folder: Path, drawn: random.Random, names: list[str]) -> Iterator[tuple[str, Path]]:
    """Do one thing after another to a pack's files, and undo it."""
    for _ in range(ROUNDS):
        tamper, name = drawn.choice(TAMPERS), drawn.choice(names)
        path = folder / name
        before = path.read_bytes()
        if not before:
            continue
        if tamper(drawn, path) != "skip":
            yield f"{tamper.__name__} {name}", path
        path.write_bytes(before)


def names_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_whatever_is_done_to_a_file_of_a_pack_is_found(files_pack: Made, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(files_pack.clear, folder)
    seed = random.randrange(2**32)
    assert report(folder, files_pack).holds
    for what, _ in tampered(folder, random.Random(seed), names_of(folder)):
        assert not report(folder, files_pack).holds, f"seed {seed}: {what} was not found"
    assert report(folder, files_pack).holds


def test_the_tree_finds_it_without_the_manifest_and_names_the_position(files_pack: Made, tmp_path: Path) -> None:
    """An insider signs a manifest anew; checkpoints that others have he can't."""
    folder = tmp_path / "pack"
    shutil.copytree(files_pack.sealed, folder)
    names = [one for one in names_of(folder) if re.match(r"tile/|events\.jsonl|checkpoint", one)]
    seed = random.randrange(2**32)
    keys = [verifier.parse_vkey(files_pack.vkey)]

    def found() -> Any:
        log = verifier.Found("events")
        verifier.check_log(folder, keys, log, None, verifier._unwatched)
        return log

    assert found().problems == []
    for what, path in tampered(folder, random.Random(seed), names):
        log = found()
        problems = log.problems
        # A signature that is made unknown is passed over, as notes are read: then the time that it told is not told.
        assert problems or (path.name == "checkpoint" and log.signed_at is None), f"seed {seed}: {what} was not found"
        if path.name != "checkpoint":
            assert any(bad.first is not None for bad in problems), f"seed {seed}: {what}: no position is named"


def test_the_altered_position_is_named(files_pack: Made, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(files_pack.sealed, folder)
    drawn = random.Random(9162)
    for _ in range(40):
        position = drawn.randint(1, files_pack.packed.size)
        index, at = divmod(position - 1, 256)
        width = min(256, files_pack.packed.size - index * 256)
        entry = drawn.random() < 0.5
        path = folder / verifier.tile_path("entries" if entry else 0, index, width)
        before = raw = path.read_bytes()
        if entry:
            entries = verifier.parse_bundle(raw)
            start = sum(2 + len(one) for one in entries[:at]) + 2
            flipped = start + drawn.randrange(len(entries[at]))
        else:
            flipped = at * 32 + drawn.randrange(32)
        path.write_bytes(raw[:flipped] + bytes([raw[flipped] ^ 1]) + raw[flipped + 1 :])
        found = positions(report(folder, files_pack))
        path.write_bytes(before)
        assert (position, position) in found
        assert min(first for first, _ in found) in (position, index * 256 + 1)


def test_added_and_missing_files_are_found(files_pack: Made, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(files_pack.sealed, folder)
    for name in ("tile/0/009", "tile/9/000", "tile/entries/000.p/7", "notes.txt", "reads/tile/1/000", "documents/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"more")
        assert not report(folder, files_pack).holds, name
        (folder / name).unlink()
    (folder / "link").symlink_to(folder / "checkpoint")
    assert not report(folder, files_pack).holds


def test_a_pack_that_was_made_anew_with_another_key_is_found_by_the_key_only(files_pack: Made, tmp_path: Path) -> None:
    forged = tmp_path / "pack"
    with tallybook.open("memory:") as book, book.acting("agent:eve", purpose="audit"):
        book.customers.register(name="Eve")
        book.audit.export(forged)
    assert run(forged).returncode == 0
    done = run(forged, "--vkey", files_pack.vkey)
    assert done.returncode == 1
    assert "not the key that you gave" in done.stdout


def test_a_log_rewritten_and_signed_with_the_real_key_is_found_by_an_older_checkpoint_only(tmp_path: Path) -> None:
    """The insider: the same origin, the same key, another history."""
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="audit"):
        book.customers.register(name="Ada")
        kept = book.audit.checkpoint().note
        core = book._core
        assert core.storage.signing is not None
        signer: Signer = core.storage.signing.signer(book.audit.vkey)
        rows = list(core.app.log.iterate())
    rows[1] = (*rows[1][:3], rows[1][3], rows[1][4][:-1] + bytes([rows[1][4][-1] ^ 1]))

    class Forged:
        origin = signer.verifier.name

        def iterate(self, after: int = 0, *, stop: int) -> Iterator[Any]:
            return iter(rows[after:stop])

    frontier = merkle.Frontier()
    frontier.append(merkle.leaf(Forged.origin, *row) for row in rows)
    text = Checkpoint(Forged.origin, len(rows), frontier.root()).text
    head = pack.Head(len(rows), frontier.root(), made(text, [signer.sign(text)]), (signer.vkey,))
    forged: Any = Forged()
    pack.write_log(tmp_path / "pack", forged, head)
    keys = [verifier.parse_vkey(signer.vkey)]
    found = verifier.Found("events")
    tree = verifier.check_log(tmp_path / "pack", keys, found, None, verifier._unwatched)
    assert found.problems == []
    with pytest.raises(verifier.Bad, match="does not go on from"):
        verifier.check_against(kept.encode(), keys, tree, "kept")


class Insider:
    """Who keeps the log, and its signing key: a pack that is altered, and sealed with the real key again."""

    def __init__(self, folder: Path, url: str) -> None:
        with tallybook.open(url) as book, book.acting("agent:lin", purpose="audit", on_behalf_of="boss:real"):
            ada = book.customers.register(name="Ada")
            book.profiles.get(ada)
            book.customers.restrict(ada, reason="disputed")
            book.audit.export(folder)
            self.origin, self.vkey = book.origin, book.audit.vkey
            keys = book._core.storage.signing
            assert keys is not None
            self.signer = keys.signer(self.vkey)
        self.folder = folder
        self.proofs: list[tuple[str, bytes]] = []

    def leaves(self) -> list[bytes]:
        """The leaf hashes of the log of events, of which there is less than a tile."""
        [path] = (self.folder / "tile" / "0" / "000.p").iterdir()
        return merkle.split(path.read_bytes())

    def forge(
        self, name: str, position: int, size: int, stream: UUID | str, **fields: Any
    ) -> tuple[bytes, str, list[Any]]:
        """An event that never was, in a tree of so many leaves that has it and otherwise what the log holds; signed.

        Its leaf, the proof, and its state.
        """
        told = json.loads((self.folder / "schemas.json").read_text(encoding="utf-8"))["events"][name]["fields"]
        subject = stream.bytes if isinstance(stream, UUID) else None
        metadata = [1, "agent:lin", "audit", *[None] * 7]
        state = [1, None, bytes(16), 1, subject, metadata, *[fields.get(one) for one in told], None]
        where = stream.bytes if isinstance(stream, UUID) else stream
        leaf = merkle.leaf(self.origin, position, where, 1, name, msgpack.packb(state))
        hashes = [*self.leaves(), *(os.urandom(32) for _ in range(size))][:size]
        hashes[position - 1] = merkle.hashes_of([leaf])[0]

        def node(level: int, index: int) -> bytes:
            return merkle.whole_root(hashes[index << level : (index + 1) << level])

        text = Checkpoint(self.origin, size, merkle.subtree(node, 0, size)).text
        path = merkle.inclusion(node, position - 1, size)
        return leaf, Proof(position - 1, path, made(text, [self.signer.sign(text)])).text, state

    def forge_sweep(self, deleted: int, position: int, size: int) -> None:
        """Leave out the first records of reads, by a sweep that never was."""
        reads = self.folder / "reads"
        [tile] = (reads / "tile" / "0" / "000.p").iterdir()
        root = verifier.tree_hash(merkle.split(tile.read_bytes())[:deleted]).hex()
        leaf, proof, _ = self.forge(
            "book.retention_swept", position, size, "retention", reads_pruned=deleted, reads_root=root
        )
        pack.write_swept(reads, encoded(leaf), proof)
        (reads / "events.jsonl").write_bytes(b"".join(map(as_json, lines(reads)[deleted:])))
        self.seal(lambda text: re.sub(r"reads: \d+", f"reads: {deleted + 1}", text))

    def forge_rotation(self, position: int, size: int) -> str:
        """A successor of the log's key, who never was; his key."""
        other = Signer.new(self.origin).vkey
        leaf, proof, state = self.forge(
            "book.signing_key_rotated", position, size, "signing", old_vkey=self.vkey, new_vkey=other
        )
        step = {"position": position, "leaf": encoded(leaf), "state": encoded(msgpack.packb(state)), "proof": proof}
        pack.written(self.folder / "rotations" / f"{position}.json", as_json(step))
        self.seal()
        return other

    def forge_receipt(self, position: int, size: int) -> UUID:
        """A receipt of the erasure of somebody who is not erased; his id."""
        subject = uuid4()
        leaf, proof, _ = self.forge(
            "customer.erased", position, size, subject, reason="gdpr-17", key_ids=[], lookups=0, kept=0
        )
        at = verifier.utc_text(1)
        receipt = {
            "origin": self.origin, "subject": str(subject), "position": position, "event_id": str(UUID(int=0)),
            "erased_at": at, "recorded_at": at, "actor": "agent:lin", "reason": "gdpr-17", "request_id": None,
            "even_so": None, "commitments": {}, "lookups": 0, "kept": 0, "kept_until": None, "done": [],
            "unfinished": [], "leaf": encoded(leaf), "proof": proof,
        }  # fmt: skip
        self.proofs.append(("receipt.json", as_json(receipt)))
        return subject

    def seal(self, says: Callable[[str], str] = str) -> None:
        for name in ("manifest", "SHA256SUMS"):
            text = (self.folder / name).read_text(encoding="utf-8")
            (self.folder / name).unlink()
            if name == "manifest":
                told = dict(line.split(": ", 1) for line in says(taken_apart(text)[0]).splitlines()[1:])
        del told["sha256sums"]
        pack.write_manifest(self.folder, pack.sums_of(self.folder), told, self.signer)

    def sign_checkpoint(self, size: int) -> None:
        text = Checkpoint(self.origin, size, bytes(32)).text
        (self.folder / "checkpoint").write_text(made(text, [self.signer.sign(text)]), encoding="utf-8")


@pytest.fixture
def insider(tmp_path: Path) -> Insider:
    return Insider(tmp_path / "pack", f"sqlite:///{tmp_path}/shop.book")


def test_names_of_fields_are_the_verifier_s_not_the_pack_s(insider: Insider) -> None:
    swapped = {"actor": "on_behalf_of", "on_behalf_of": "actor"}

    def renamed(metadata: dict[str, Any]) -> dict[str, Any]:
        return {swapped.get(name, name): value for name, value in metadata.items()}

    for where in (insider.folder, insider.folder / "reads"):
        told = json.loads((where / "schemas.json").read_text(encoding="utf-8"))
        told["envelope"]["metadata"] = renamed(told["envelope"]["metadata"])
        (where / "schemas.json").write_bytes(as_json(told))
        altered = lines(where)
        for one in altered:
            one["event"]["metadata"] = renamed(one["event"]["metadata"])
        (where / "events.jsonl").write_bytes(b"".join(map(as_json, altered)))
    insider.seal()
    done = run(insider.folder, "--vkey", insider.vkey)
    assert done.returncode == 1
    assert "the envelope's fields are not those of an event" in done.stdout


@pytest.mark.parametrize("name", ["customer.restricted", "customer.registered", "access.personal_data_read"])
def test_an_event_s_fields_are_those_of_its_version(insider: Insider, name: str) -> None:
    where = insider.folder / "reads" if name.startswith("access.") else insider.folder
    told = json.loads((where / "schemas.json").read_text(encoding="utf-8"))
    fields = told["events"][name]["fields"]
    first = next(iter(fields))
    told["events"][name]["fields"] = {f"former_{key}" if key == first else key: kind for key, kind in fields.items()}
    (where / "schemas.json").write_bytes(as_json(told))
    altered = lines(where)
    for one in altered:
        if one["name"] == name:
            shown = one["event"]["fields"]
            one["event"]["fields"] = {f"former_{key}" if key == first else key: value for key, value in shown.items()}
    (where / "events.jsonl").write_bytes(b"".join(map(as_json, altered)))
    insider.seal()
    done = run(insider.folder, "--vkey", insider.vkey)
    assert done.returncode == 1
    assert f"schemas.json: the fields of {name} are not those of its version 1" in done.stdout


def test_a_shape_that_the_verifier_does_not_know_is_told(insider: Insider) -> None:
    told = json.loads((insider.folder / "schemas.json").read_text(encoding="utf-8"))
    told["events"]["shop.gift_wrapped"] = {"schema_version": 3, "fields": {"price": "int"}, "personal": {}}
    (insider.folder / "schemas.json").write_bytes(as_json(told))
    insider.seal()
    done = run(insider.folder, "--vkey", insider.vkey)
    assert done.returncode == 0, done.stdout
    assert "not checked: the names of fields of shop.gift_wrapped (version 3)" in done.stdout


@pytest.mark.parametrize("kept", ["none", "some", "all but the last"])
def test_records_of_reads_that_no_sweep_deleted_can_not_be_left_out(insider: Insider, kept: str) -> None:
    reads = insider.folder / "reads"
    size = len(lines(reads))
    assert size >= 3
    first, last = {"none": (size + 1, size), "some": (3, size), "all but the last": (1, size - 1)}[kept]
    shown = lines(reads)[first - 1 : last]
    (reads / "events.jsonl").write_bytes(b"".join(map(as_json, shown)))
    if kept == "none":
        shutil.rmtree(reads / "tile" / "entries")
    insider.seal(lambda text: re.sub(r"reads: .*", f"reads: {first}-{last}", text))
    done = run(insider.folder, "--vkey", insider.vkey)
    assert done.returncode == 1, done.stdout
    assert "WRONG (reads)" in done.stdout


Place = tuple[int, int]
PLACES: list[Place] = [(1, 1), (2, 2), (1, 50), (40, 50)]
"""Where forged leaves are said to lie: position and size, in trees smaller and larger than the pack's."""


def problems_of(insider: Insider) -> list[str]:
    found = verifier.check_pack(insider.folder, [verifier.parse_vkey(insider.vkey)], (), insider.proofs)
    return [str(one) for one in [*found.problems, *(bad for log in found.logs for bad in log.problems)]]


@pytest.mark.parametrize("place", PLACES)
def test_a_sweep_that_the_pack_s_tree_does_not_hold_deleted_nothing(insider: Insider, place: Place) -> None:
    insider.forge_sweep(2, *place)
    told = problems_of(insider)
    why = {
        (1, 1): "position 1 of this pack holds another entry",
        (2, 2): "position 2 of this pack holds another entry",
        (1, 50): "position 1 of this pack holds another entry",
        (40, 50): "it leads to a checkpoint of 50 leaves, and this pack's has 3",
    }[place]
    assert any(one.startswith(f"reads/swept.tlog-proof: {why}") for one in told), told
    assert any("no sweep among the events deleted them" in one for one in told)


@pytest.mark.parametrize("place", PLACES)
def test_a_change_of_the_key_that_the_pack_s_tree_does_not_hold_is_none(insider: Insider, place: Place) -> None:
    insider.forge_rotation(*place)
    told = problems_of(insider)
    assert len(told) == 1, told
    assert told[0].startswith(f"rotations/{place[0]}.json: ")
    assert "of this pack holds another entry" in told[0] or "it shows nothing of the tree that is here" in told[0]


@pytest.mark.parametrize("place", PLACES)
def test_a_receipt_for_a_position_of_the_pack_is_held_against_what_is_there(insider: Insider, place: Place) -> None:
    subject = insider.forge_receipt(*place)
    told = problems_of(insider)
    if place[0] <= len(insider.leaves()):
        [bad] = told
        assert f"position {place[0]} of this pack holds another entry than the one that it proves" in bad
    else:
        # Of a position after its end, a pack shows nothing: the receipt holds by its signature, and that is said.
        assert told == []
        done = verifier.check_pack(insider.folder, [verifier.parse_vkey(insider.vkey)], (), insider.proofs)
        [note] = [one for one in done.notes if str(subject) in one]
        assert "not proven: done, unfinished, that the log went on from this pack's 3 leaves to the 50" in note


def test_a_pack_that_shows_nothing_of_a_log_is_none(insider: Insider, tmp_path: Path) -> None:
    size = len(lines(insider.folder))
    (insider.folder / "events.jsonl").write_bytes(b"")
    shutil.rmtree(insider.folder / "tile" / "entries")
    insider.seal(lambda text: re.sub(r"positions: .*", f"positions: {size + 1}-{size}", text))
    done = run(insider.folder, "--vkey", insider.vkey)
    assert done.returncode == 1
    assert f"leaves out all {size} positions" in done.stdout
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book, book.acting("agent:lin", purpose="audit"):
        with pytest.raises(Refused) as caught:
            book.audit.export(tmp_path / "nothing", after=10**6)
        assert caught.value.code == "invalid_argument"
        assert not (tmp_path / "nothing").exists()


def test_a_signed_size_that_is_far_from_what_is_there_ends_at_once(insider: Insider) -> None:
    insider.sign_checkpoint(10**18)
    insider.seal()
    done = run(insider.folder, "--vkey", insider.vkey)
    assert done.returncode == 1
    assert "tells of 1,000,000,000,000,000,000 leaves" in done.stdout


def test_names_of_files_give_no_orders_to_a_terminal(insider: Insider) -> None:
    (insider.folder / "zz\x1b[2K\nVERIFIED\n\u202e").write_text("")
    done = run(insider.folder, "--vkey", insider.vkey)
    assert done.returncode == 1
    assert r"zz\x1b[2K\nVERIFIED\n\u202e is not in SHA256SUMS" in done.stdout
    assert "\nVERIFIED\n" not in done.stdout


@pytest.mark.parametrize("name", ["checkpoint", "SHA256SUMS", "events.jsonl", "tile/0/000.p/{size}", "schemas.json"])
def test_a_pipe_in_the_place_of_a_file_is_found_and_not_waited_for(insider: Insider, name: str) -> None:
    path = insider.folder / name.format(size=len(lines(insider.folder)))
    path.unlink()
    os.mkfifo(path)
    assert run(insider.folder, "--vkey", insider.vkey).returncode == 1


def test_a_file_is_read_by_its_size_not_by_its_limit(tmp_path: Path) -> None:
    import resource

    small = tmp_path / "small"
    small.write_bytes(b"abc")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, before[1]))
    try:
        assert verifier.read(small, "small", 1 << 50) == b"abc"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    with pytest.raises(verifier.Bad, match="longer"):
        verifier.read(small, "small", 2)


def test_a_pack_that_was_cut_off_is_found_by_a_later_checkpoint(files_pack: Made, tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{files_pack.sealed.parent}/shop.book") as book:
        with book.acting("agent:lin", purpose="audit"):
            book.customers.register(name="Later")
        (tmp_path / "later").write_text(book.audit.checkpoint().note, encoding="utf-8")
    done = run(files_pack.sealed, "--vkey", files_pack.vkey, "--against", tmp_path / "later")
    assert done.returncode == 1
    assert "its end was cut off" in done.stdout


def test_a_proof_of_something_else_is_found(files_pack: Made, tmp_path: Path) -> None:
    text = files_pack.proof.read_text(encoding="utf-8")
    for number, bad in enumerate((text.replace("index 6", "index 5"), text.replace("\n\n", "\n", 1), text[:40])):
        (tmp_path / str(number)).write_text(bad, encoding="utf-8")
        done = run(files_pack.sealed, "--vkey", files_pack.vkey, "--proof", tmp_path / str(number))
        assert done.returncode == 1, bad


def test_the_verifier_answers_in_json(files_pack: Made) -> None:
    answer = json.loads(run(files_pack.sealed, "--json").stdout)
    assert answer["holds"] is True
    assert answer["first_bad"] is None
    assert (answer["logs"][0]["log"], answer["logs"][0]["size"]) == ("events", files_pack.packed.size)


def test_the_verifier_imports_nothing_but_the_standard_library() -> None:
    import ast

    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(FILE.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names
