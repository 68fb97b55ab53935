"""An auditor's key from the contract leads to the one that signs now, step by step, and to no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import tallybook
from tallybook.adapters.notes import Signer, made
from tallybook.cli import app

from .test_verifier import loaded

verifier: Any = loaded()


class Rotated(NamedTuple):
    url: str
    pack: Path
    keys: list[str]
    kept: list[Path]


@pytest.fixture(scope="module", params=["sqlite", "detached"])
def rotated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rotated:
    """A book whose key was rotated twice, with a checkpoint that was kept from each time."""
    folder = tmp_path_factory.mktemp("rotated")
    url = f"sqlite:///{folder}/shop.book"
    kept = []
    with (
        tallybook.open(url, detached=request.param == "detached") as book,
        book.acting("admin:root", purpose="administration"),
    ):
        for number in range(3):
            ada = book.customers.register(name=f"Ada {number}")
            book.profiles.get(ada)
            for log in ("events", "reads"):
                kept.append(folder / f"{log}-{number}")
                kept[-1].write_text(book.audit.checkpoint(log).note, encoding="utf-8")
            if number < 2:
                book.audit.rotate_signing_key()
        book.audit.export(folder / "pack")
        return Rotated(url, folder / "pack", book.audit.vkeys(), kept)


def checked(pack: Path, key: str, against: list[Path]) -> Any:
    return verifier.check_pack(
        pack, [verifier.parse_vkey(key)], [(path.name, path.read_bytes()) for path in against]
    )  # fmt: skip


@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_key_that_the_book_had_checks_the_pack_and_all_that_was_kept(rotated: Rotated, which: int) -> None:
    report = checked(rotated.pack, rotated.keys[which], rotated.kept)
    assert report.holds, [*report.problems, *(bad for one in report.logs for bad in one.problems)]
    told = [one for one in report.notes if "was followed by" in one]
    assert len(told) == 2 - which
    for one, (old, new) in zip(told, list(zip(rotated.keys, rotated.keys[1:], strict=False))[which:], strict=True):
        assert f"the key {old} was followed by {new} at position" in one
        assert "leaves that it signed says so" in one


def test_a_step_that_was_taken_out_is_missed_and_said(rotated: Rotated, tmp_path: Path) -> None:
    for gone in (0, 1):
        pack = tmp_path / str(gone)
        shutil.copytree(rotated.pack, pack)
        sorted((pack / "rotations").iterdir(), key=lambda one: int(one.stem))[gone].unlink()
        report = checked(pack, rotated.keys[0], [])
        assert not report.holds
        [told] = [str(one) for one in report.logs[0].problems]
        assert "no signature by the key" in told
        assert "has no step to it that your key signed" in told


def test_nobody_makes_himself_the_successor_of_a_key(rotated: Rotated, tmp_path: Path) -> None:
    """By his signature under a checkpoint that the key signed, by another state, or by another event."""
    step = min((rotated.pack / "rotations").iterdir(), key=lambda one: int(one.stem))
    says = json.loads(step.read_text())
    old = verifier.parse_vkey(rotated.keys[0])
    thief = Signer.new(old.name)
    raw = verifier._base64(says["state"])
    true_new = rotated.keys[1]
    forged = raw.replace(true_new.encode(), thief.vkey.encode())
    assert forged != raw
    keys = [old]
    assert verifier.check_rotation(json.dumps(says).encode(), keys, "step").new.text == true_new

    def wrong(changed: dict[str, Any]) -> str:
        with pytest.raises(verifier.Bad) as caught:
            verifier.check_rotation(json.dumps({**says, **changed}).encode(), keys, "step")
        return str(caught.value)

    def encoded(data: bytes) -> str:
        return str(verifier.base64.b64encode(data).decode())

    assert "its state is not that of the entry" in wrong({"state": encoded(forged)})
    leaf = verifier._base64(says["leaf"])
    if raw in leaf:
        assert "does not lead from the entry" in wrong(
            {"state": encoded(forged), "leaf": encoded(leaf.replace(raw, forged))}
        )
    # A checkpoint of his own that tells of such an event, under his signature only.
    head, _, note = says["proof"].partition("\n\n")
    text = note.partition("\n\n")[0] + "\n"
    assert "no signature by the key" in wrong({"proof": f"{head}\n\n{made(text, [thief.sign(text)])}"})
    assert "no change of the key" in wrong({"state": encoded(b"\x90")})
    assert "no change of the key" in wrong({"proof": None, "leaf": "?"})
    # A step between other keys says nothing of this one.
    assert verifier.check_rotation(step.read_bytes(), [verifier.parse_vkey(thief.vkey)], "step") is None


def test_a_key_that_was_followed_signs_nothing_of_today(rotated: Rotated, tmp_path: Path) -> None:
    """Who has the present key, and is given a pack that an older one signed, is told so."""
    with tallybook.open(rotated.url) as book:
        older = next(one for one in book.audit.checkpoints() if one.size < book.audit.rotations()[0].position)
    pack = tmp_path / "pack"
    shutil.copytree(rotated.pack, pack)
    (pack / "checkpoint").write_text(older.note)
    assert not checked(pack, rotated.keys[2], []).holds


def test_audit_verify_leads_from_an_older_key(rotated: Rotated, tmp_path: Path) -> None:
    def run(key: str, *more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["audit", "verify", "--book", rotated.url, "--vkey", key, *more])
        return done.exit_code, " ".join(done.output.split())

    status, told = run(rotated.keys[0])
    assert status == 0
    assert told.count("was followed by") == 2
    file = tmp_path / "key.txt"
    file.write_text(rotated.keys[1] + "\n")
    status, told = run(str(file), "--against", str(rotated.kept[0]))
    assert (status, told.count("was followed by")) == (0, 1)
    other = Signer.new(verifier.parse_vkey(rotated.keys[0]).name).vkey
    for more in ((), ("--json",)):
        status, told = run(other, *more)
        assert (status, "was never a key of this book" in told) == (1, True)
    assert run("nokey")[0] == 2
