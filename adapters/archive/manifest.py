"""What an archive says of itself, and what is found about it. Loads nothing of what archives are made with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from tallybook.adapters import merkle

FORMAT = "tallybook archive"
NONE, CURRENT, BEHIND, STALE = "none", "current", "behind", "stale"


@dataclass(frozen=True, slots=True)
class File:
    """A file as the manifest names it. `buckets`: those of its rows."""

    name: str
    rows: int
    first: int
    last: int
    bytes: int
    sha256: str
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive is made of, and from. `frontier` is that of the log's tree at `position` (hex), `note` the signed
    checkpoint of that size, if the book signs any."""

    schema: int
    columns: str
    origin: str
    position: int
    root: str
    frontier: str
    note: str | None
    files: tuple[File, ...]
    deltas: tuple[File, ...]

    def packed(self) -> bytes:
        """As it is stored."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """From what is stored. Raises ValueError."""
        try:
            found = json.loads(data)
            if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
                raise ValueError("it is no manifest of an archive")
            for kind in ("files", "deltas"):
                found[kind] = tuple(File(**{**one, "buckets": tuple(one["buckets"])}) for one in found[kind])
            made = cls(**found)
            merkle.Frontier(made.position, bytes.fromhex(made.frontier))
            numbers = [(one.rows, one.first, one.last, one.bytes) for one in (*made.files, *made.deltas)]
            if any(type(number) is not int for one in numbers for number in one):
                raise ValueError("what should be a number is none")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"the manifest can't be read: {error}") from error
        return made

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(one.rows for one in (*self.files, *self.deltas))

    @property
    def delta_rows(self) -> int:
        """How many of them are in deltas."""
        return sum(one.rows for one in self.deltas)


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """How an archive stands.

    `state`: none, current, behind, or stale, for the reason that `problem` tells; the next catch-up makes a stale one
    anew. `bytes` is that of its files, without the manifest.
    """

    place: str
    state: str
    position: int
    head: int
    rows: int
    files: int
    deltas: int
    delta_rows: int
    bytes: int
    root: str
    signed: bool
    schema: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ArchiveVerification:
    """What holding an archive against its log found: nothing, or the first difference of each file."""

    position: int
    rows: int
    root: str
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the archive tells what the log tells."""
        return not self.problems
