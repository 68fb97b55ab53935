"""Packs that their keeper alters and seals with the real key: the verifier finds each, or the pack says the same."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.test_pack import Insider, lines

from tallybook.adapters.clear_form import as_json
from tallybook.data import verify

Draw = Callable[[random.Random, Insider], str]


def _log(drawn: random.Random, insider: Insider) -> Path:
    return drawn.choice([insider.folder, insider.folder / "reads"])


def _rename(names: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    swapped = {one: other, other: one}
    return {swapped.get(name, name): value for name, value in names.items()}


def names_swapped(drawn: random.Random, insider: Insider) -> str:
    """Two names of an event's fields, in schemas.json and in its lines."""
    where = _log(drawn, insider)
    told = json.loads((where / "schemas.json").read_text(encoding="utf-8"))
    shown = lines(where)
    name = drawn.choice([one["name"] for one in shown if len(one["event"]["fields"]) > 1])
    first, second = drawn.sample(list(told["events"][name]["fields"]), 2)
    told["events"][name]["fields"] = _rename(told["events"][name]["fields"], first, second)
    for one in shown:
        if one["name"] == name:
            one["event"]["fields"] = _rename(one["event"]["fields"], first, second)
    (where / "schemas.json").write_bytes(as_json(told))
    (where / "events.jsonl").write_bytes(b"".join(map(as_json, shown)))
    insider.seal()
    return f"{name}: {first} and {second}"


def envelope_swapped(drawn: random.Random, insider: Insider) -> str:
    """Two names of what all events have."""
    where = _log(drawn, insider)
    told = json.loads((where / "schemas.json").read_text(encoding="utf-8"))
    shown = lines(where)
    first, second = drawn.sample(list(told["envelope"]["metadata"]), 2)
    told["envelope"]["metadata"] = _rename(told["envelope"]["metadata"], first, second)
    for one in shown:
        one["event"]["metadata"] = _rename(one["event"]["metadata"], first, second)
    (where / "schemas.json").write_bytes(as_json(told))
    (where / "events.jsonl").write_bytes(b"".join(map(as_json, shown)))
    insider.seal()
    return f"{first} and {second}"


def value_altered(drawn: random.Random, insider: Insider) -> str:
    """A value in a line."""
    where = _log(drawn, insider)
    shown = lines(where)
    event = drawn.choice(shown)["event"]
    part = drawn.choice([one for one in (event, event["metadata"], event["fields"]) if one])
    name = drawn.choice(list(part))
    others: list[Any] = [None, 7, "forged", [], {}, True]
    part[name] = drawn.choice([one for one in others if one != part[name]])
    (where / "events.jsonl").write_bytes(b"".join(map(as_json, shown)))
    insider.seal()
    return f"{name} = {part[name]!r}"


def range_altered(drawn: random.Random, insider: Insider) -> str:
    """What the manifest says of the log of reads, with fewer lines to fit."""
    where = insider.folder / "reads"
    size = len(lines(where))
    first, last = drawn.choice(
        [(one, other) for one in range(1, size + 2) for other in range(one - 1, size + 1) if (one, other) != (1, size)]
    )
    (where / "events.jsonl").write_bytes(b"".join(map(as_json, lines(where)[first - 1 : last])))
    if first > last:
        shutil.rmtree(where / "tile" / "entries")
    insider.seal(lambda text: re.sub(r"reads: .*", f"reads: {first}-{last}", text))
    return f"reads: {first}-{last}"


def size_altered(drawn: random.Random, insider: Insider) -> str:
    """Another size under a signed checkpoint."""
    size = drawn.choice([0, 1, 255, 256, 2**16, 2**32, 10**18])
    insider.sign_checkpoint(size)
    insider.seal()
    return str(size)


def _place(drawn: random.Random, insider: Insider, *, beyond: bool) -> tuple[int, int]:
    """Where a forged leaf is said to lie: position and size, of a tree that is smaller or larger than the pack's."""
    there = len(insider.leaves())
    size = drawn.choice([1, there, there + 1, drawn.randint(1, 400)])
    return drawn.randint(1, size if beyond else min(size, there)), size


def sweep_forged(drawn: random.Random, insider: Insider) -> str:
    """A sweep that never was, with a proof of it; the records that it is to have deleted are left out."""
    position, size = _place(drawn, insider, beyond=True)
    deleted = drawn.randint(1, len(lines(insider.folder / "reads")) - 1)
    insider.forge_sweep(deleted, position, size)
    return f"{deleted} deleted at position {position} of {size}"


def rotation_forged(drawn: random.Random, insider: Insider) -> str:
    """A key that followed the log's, with a proof of it."""
    position, size = _place(drawn, insider, beyond=True)
    insider.forge_rotation(position, size)
    return f"position {position} of {size}"


def receipt_forged(drawn: random.Random, insider: Insider) -> str:
    """The receipt of an erasure at a position that the pack holds."""
    position, size = _place(drawn, insider, beyond=False)
    insider.forge_receipt(position, size)
    return f"position {position} of {size}"


KINDS: list[Draw] = [
    names_swapped,
    envelope_swapped,
    value_altered,
    range_altered,
    size_altered,
    sweep_forged,
    rotation_forged,
    receipt_forged,
]


@pytest.mark.parametrize("kind", KINDS)
def test_no_pack_that_its_keeper_altered_and_sealed_again_is_verified(kind: Draw, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    drawn, insider = random.Random(seed), Insider(tmp_path / "pack", f"sqlite:///{tmp_path}/shop.book")
    keys = [verify.parse_vkey(insider.vkey)]
    kept = tmp_path / "kept"
    insider.folder.rename(kept)
    for _ in range(8):
        shutil.copytree(kept, insider.folder)
        what = kind(drawn, insider)
        assert not verify.check_pack(insider.folder, keys, (), insider.proofs).holds, f"seed {seed}: {what}"
        shutil.rmtree(insider.folder)
        insider.proofs.clear()
    shutil.copytree(kept, insider.folder)
    insider.seal()
    assert verify.check_pack(insider.folder, keys).holds, "sealed again as it was"
