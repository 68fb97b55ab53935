"""An auditor's pack: a log in a folder, in forms that tools of others read (C2SP tlog-tiles, JSON lines, sha256sum).

Tiles and entries are made from the stored rows, and have to give the root that is signed: a book that does not is
refused, not exported.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tallybook.domain.errors import BookDamaged
from tallybook.domain.events import REGISTRY, Schema
from tallybook.projections.read_models import Progress

from . import merkle
from .checkpoints import Rotation, Stored
from .clear_form import ClearForm, as_json, plain_json, schemas
from .log import EventStore, Row
from .notes import Signer, made
from .snapshots import current_form

WIDTH = 256
"""Hashes of a full tile, and entries of a full bundle."""
FORM = "tallybook-pack/v1"
SUMS = "SHA256SUMS"
COSIGNED = "cosigned"
ROTATIONS = "rotations"

Opener = Callable[[Sequence[Row]], Sequence[Mapping[str, Any]]]
"""The personal values of rows, by field: those that may be shown. None stands for one whose key was destroyed."""


@dataclass(frozen=True, slots=True)
class Head:
    """A log's signed head: what a pack is measured by."""

    size: int
    root: bytes
    checkpoint: str
    vkeys: tuple[str, ...]
    """Verifier keys, the one that signs now first."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What is in a pack. `digest` is that of its list of files (SHA256SUMS): it stands for all of them."""

    folder: str
    origin: str
    size: int
    root: str
    first: int
    last: int
    reads: int
    personal: str
    digest: str
    files: int


def tile_path(level: int | str, index: int, width: int) -> str:
    """The path of a tile, or of a bundle of entries (level "entries")."""
    name = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        name = f"x{index % 1000:03d}/{name}"
    return f"tile/{level}/{name}" + (f".p/{width}" if width < WIDTH else "")


class Tiles:
    """Writes the tiles of a growing tree below a folder. Holds up to one tile of each level."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._levels: list[list[bytes]] = [[]]
        self._counts = [0]

    def append(self, leaf: bytes) -> None:
        """Add the hash of a leaf."""
        level, node = 0, leaf
        while True:
            held = self._levels[level]
            held.append(node)
            if len(held) < WIDTH:
                return
            self._write(level)
            node = merkle.whole_root(held)
            held.clear()
            self._counts[level] += 1
            level += 1
            if level == len(self._levels):
                self._levels.append([])
                self._counts.append(0)

    def close(self) -> None:
        """Write what is not full."""
        for level, held in enumerate(self._levels):
            if held:
                self._write(level)

    def _write(self, level: int) -> None:
        held = self._levels[level]
        written(self._folder / tile_path(level, self._counts[level], len(held)), b"".join(held))


def written(path: Path, content: bytes) -> None:
    """Write a file of the pack, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)


def write_log(
    folder: Path,
    log: EventStore,
    head: Head,
    *,
    first: int = 1,
    last: int | None = None,
    opener: Opener | None = None,
    pruned: Iterable[Sequence[bytes]] = (),
    registry: Mapping[str, Schema] = REGISTRY,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Write one log: checkpoint, keys, tiles, entries, events. The documents that its events adopted, by digest.

    Events, and the bundles of entries that they are in, are those from `first` to `last`; tiles are always all.
    `pruned`: the leaf hashes of the tiles whose rows are gone, which `first` comes after.
    Raises BookDamaged where the rows do not give the root that is signed.
    """
    folder.mkdir(exist_ok=True)
    written(folder / "checkpoint", head.checkpoint.encode())
    written(folder / "log.vkey", "".join(f"{one}\n" for one in head.vkeys).encode())
    written(folder / "schemas.json", as_json(schemas(registry), indent=1))
    last = head.size if last is None else last
    frontier, tiles, clear = merkle.Frontier(), Tiles(folder), ClearForm(registry)
    documents: dict[str, str] = {}
    for hashes in pruned:
        frontier.append_hashes(list(hashes))
        for one in hashes:
            tiles.append(one)
    with (folder / "events.jsonl").open("xb") as lines:
        for rows in _bundles(log, frontier.size, head.size):
            start, end = frontier.size + 1, frontier.size + len(rows)
            if [row[0] for row in rows] != list(range(start, end + 1)):
                raise _damaged(f"between positions {start} and {end}, one is missing", folder)
            entries = [merkle.leaf(log.origin, *row) for row in rows]
            hashes = merkle.hashes_of(entries)
            frontier.append_hashes(hashes)
            for one in hashes:
                tiles.append(one)
            if start <= last and end >= first:
                bundle = b"".join([len(one).to_bytes(2, "big") + one for one in entries])
                written(folder / tile_path("entries", (start - 1) // WIDTH, len(rows)), bundle)
                shown = slice(max(first - start, 0), last - start + 1)
                opened = opener(rows[shown]) if opener is not None else [{}] * len(rows[shown])
                for row, entry, values in zip(rows[shown], entries[shown], opened, strict=True):
                    line = _line(clear, row, entry, values)
                    lines.write(as_json(line))
                    fields = line["event"]["fields"]
                    if isinstance(fields, dict) and isinstance(fields.get("document"), str) and "digest" in fields:
                        documents[str(fields["digest"])] = fields["document"]
            if progress and start % (WIDTH * 32) == 1:
                progress(end, head.size)
    tiles.close()
    if frontier.size != head.size or frontier.root() != head.root:
        raise _damaged(
            f"its {frontier.size:,} events do not give the root that is signed for {head.size:,}: one was altered",
            folder,
        )
    return documents


def _bundles(log: EventStore, after: int, size: int) -> Iterator[list[Row]]:
    """The rows of a log after a position, a bundle at a time."""
    rows: list[Row] = []
    for row in log.iterate(after, stop=size):
        rows.append(typing.cast("Row", row))
        if len(rows) == WIDTH:
            yield rows
            rows = []
    if rows:
        yield rows


def _damaged(why: str, folder: Path) -> BookDamaged:
    return BookDamaged(
        f"This log can't be exported: {why}.", path=str(folder), remedy="See what `tallybook audit verify` finds."
    )


def _line(clear: ClearForm, row: Row, entry: bytes, opened: Mapping[str, Any]) -> dict[str, Any]:
    position, stream, version, name, state = row
    line: dict[str, Any] = {"position": position, "stream": plain_json(stream), "version": version, "name": name}
    try:
        line.update(clear.event(name, state))
    except ValueError as error:
        raise _damaged(f"position {position}: {error}", Path(name)) from error
    if not entry.endswith(state):
        # The log holds only the hash of the state: whoever checks the line needs its bytes.
        line["state"] = base64.b64encode(state).decode()
    if opened:
        line["opened"] = dict(opened)
    return line


def write_cosigned(folder: Path, kept: Iterable[Stored]) -> None:
    """Write the checkpoints that witnesses cosigned, each as a note, and the witnesses' public keys."""
    witnesses: dict[str, None] = {}
    for one in kept:
        if one.witnesses:
            written(folder / COSIGNED / f"{one.size}-{one.signed_us // 1_000_000}", one.note.encode())
            witnesses.update(dict.fromkeys(one.witnesses.splitlines()))
    if witnesses:
        written(folder / COSIGNED / "witness.vkeys", "".join(f"{one}\n" for one in witnesses).encode())


def write_rotations(folder: Path, log: EventStore, steps: Iterable[tuple[Rotation, str]]) -> None:
    """Write each change of the key that signs: its event's leaf, and the proof of it under a checkpoint that the old
    key signed, too. Who knows an older key is led to the present one by them."""
    for rotation, proof in steps:
        [row] = log.rows_at([rotation.position])
        leaf = merkle.leaf(log.origin, *row)
        parts = {"leaf": leaf, "state": row[4]}
        step = {"position": rotation.position, **{name: base64.b64encode(one).decode() for name, one in parts.items()}}
        written(folder / ROTATIONS / f"{rotation.position}.json", as_json({**step, "proof": proof}, indent=1))


def write_swept(folder: Path, leaf: str, proof: str | None) -> None:
    """Write the proof of the sweep that deleted records of reads, with its leaf: it need not be among the events."""
    if proof is not None:
        form, _, rest = proof.partition("\n")
        written(folder / "swept.tlog-proof", f"{form}\nextra {leaf}\n{rest}".encode())


def write_code(folder: Path, registry: Mapping[str, Schema] = REGISTRY) -> None:
    """Write the upcasters as source, with their digests: what makes events of older versions what they are now."""
    listed: list[dict[str, Any]] = []
    for name, schema in sorted(registry.items()):
        for version, upcaster in sorted(schema.upcasters.items()):
            source = inspect.getsource(upcaster).encode()
            file = f"upcasters/{name}.v{version}.py"
            written(folder / file, source)
            listed.append({"name": name, "from": version, "file": file, "sha256": hashlib.sha256(source).hexdigest()})
    written(folder / "upcasters.json", as_json({"code": current_form().hex(), "upcasters": listed}, indent=1))


def write_documents(folder: Path, documents: Mapping[str, str]) -> None:
    """Write rule sets and policies, each under its digest."""
    for digest, document in sorted(documents.items()):
        written(folder / "documents" / f"{digest}.txt", document.encode())


def write_guide(folder: Path, values: Mapping[str, object]) -> None:
    """Write the verifier, and what the auditor is to read first."""
    data = files("tallybook") / "data"
    written(folder / "verify.py", (data / "verify.py").read_bytes())
    text = (data / "pack.md").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"{{{{{name}}}}}", str(value))
    written(folder / "README.md", text.encode())


def sums_of(folder: Path) -> str:
    """The digests of all files below a folder, in the form of sha256sum, by path."""

    def digests() -> Iterator[str]:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield f"{digest}  {path.relative_to(folder).as_posix()}\n"

    return "".join(digests())


def write_manifest(folder: Path, sums: str, says: Mapping[str, object], signer: Signer) -> None:
    """Write the list of files, and last of all the manifest that makes a pack of them: a note by the log's key."""
    written(folder / SUMS, sums.encode())
    digest = hashlib.sha256(sums.encode()).hexdigest()
    text = "".join([f"{FORM}\n", *(f"{name}: {value}\n" for name, value in says.items()), f"sha256sums: {digest}\n"])
    written(folder / "manifest", made(text, [signer.sign(text)]).encode())
