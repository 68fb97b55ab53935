"""The keys that sign a book's checkpoints: in a file beside it (mode 0600), or in the environment; never in the book.

A key is made with a new book only. A file that is lost is a refusal, not a new key: what a stranger checks by the old
one would be another log to him. A rotation writes both keys into the file, then records the event, then signs a
checkpoint of each log with both, and then leaves the old one out; a kill in between leaves something that opening
goes on from.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from tallybook.domain.errors import BookError, NoteError, SigningKeyMissing

from . import limits
from .notes import Signer, Verifier

ENVIRONMENT = "env:"
UNSIGNED = "unsigned"
"""In the place of a key's place: the book is opened without, and signs no checkpoint."""
FILE_BYTES_MAX = 10_000
_PUT_BACK = (
    "Put it back from where you keep a copy, or name its place with `signing_key`. "
    'signing_key="unsigned" (--signing-key unsigned) opens the book without; then no checkpoint can be signed.'
)


class SigningKeys:
    """The private keys at hand for one book: one, and two during a rotation.

    `write` is None where keys can't be written from here.
    """

    def __init__(
        self,
        origin: str,
        place: str,
        read: Callable[[], str],
        write: Callable[[str], None] | None = None,
    ) -> None:
        self.origin = origin
        self.place = place
        self._read = read
        self._write = write
        self._held: Sequence[Signer] = ()

    @property
    def writable(self) -> bool:
        """Whether a new key can be put among them."""
        return self._write is not None

    def signers(self, *, newest: bool = False) -> Sequence[Signer]:
        """The keys at hand, under the book's name. Raises SigningKeyMissing, BookError."""
        if newest or not self._held:
            self._held = parsed(self._read(), self.origin, self.place)
        return self._held

    def signer(self, vkey: str) -> Signer:
        """The private key to a public one. Raises SigningKeyMissing."""
        for newest in (False, True):  # another process may have rotated it
            for one in self.signers(newest=newest):
                if one.vkey == vkey:
                    return one
        found = ", ".join(one.vkey for one in self._held)
        raise SigningKeyMissing(
            f"{self.place} holds another key than the one that signs the book's checkpoints ({found}, not {vkey}).",
            path=self.place,
            remedy=_PUT_BACK,
        )

    def copy_to(self, path: Path) -> bool:
        """Copy them into a file, if it is one that they are in, and whether they are. Raises BookError."""
        if self.writable:
            write_file(path, self._read())
        return self.writable

    def put(self, *signers: Signer) -> None:
        """Have exactly these keys at hand, durably. Raises BookError."""
        assert self._write is not None
        self._write("".join(f"{one.text}\n" for one in signers))
        self._held = signers


def parsed(text: str, origin: str, place: str) -> Sequence[Signer]:
    """The keys in a text, one in a line, under a book's name. Raises SigningKeyMissing; never shows one."""
    try:
        found = [Signer.parse(word).named(origin) for word in text.split()]
    except NoteError as error:
        raise SigningKeyMissing(
            f"What {place} holds is no signing key. {error}", path=place, remedy=_PUT_BACK
        ) from None
    if not found:
        raise SigningKeyMissing(f"{place} holds no signing key.", path=place, remedy=_PUT_BACK)
    return found


def in_memory(origin: str) -> SigningKeys:
    """A new key for a book that ends with its process."""
    text = [Signer.new(origin).text]

    def write(new: str) -> None:
        text[0] = new

    return SigningKeys(origin, "the memory", lambda: text[0], write)


def make_keys(origin: str, place: str) -> str:
    """The public key for a new book: of the key that is at its place already, or is made there, durably."""
    if place.startswith(ENVIRONMENT):
        return parsed(_of_environment(place), origin, place)[0].vkey
    path = Path(place)
    if not path.exists():
        write_file(path, Signer.new(origin).text + "\n", replace=False)
    found = Signer.parse(read_file(path).split("\n")[0])
    if found.verifier.name != origin:
        raise SigningKeyMissing(
            f"{path} is there already, and is the signing key of another book ({found.verifier.name}).",
            path=str(path),
            remedy="Move it away, or name another place with `signing_key`.",
        )
    return found.vkey


def keys_at(origin: str, place: str) -> SigningKeys:
    """The keys at a place: a file, or "env:NAME". Raises SigningKeyMissing, BookError where others may read it."""
    if place.startswith(ENVIRONMENT):
        keys = SigningKeys(origin, place, lambda: _of_environment(place))
    else:
        path = Path(place)
        keys = SigningKeys(origin, place, lambda: read_file(path), lambda text: write_file(path, text))
    keys.signers()
    return keys


def _of_environment(place: str) -> str:
    name = place.removeprefix(ENVIRONMENT)
    if name not in os.environ:
        raise SigningKeyMissing(
            f"The signing key is to be in the environment variable {name}, which is not set.",
            path=place,
            remedy="Set it. `tallybook audit new-key` prints a new key for a new book.",
        )
    return os.environ[name]


def read_file(path: Path) -> str:
    """What a key's file holds. Raises SigningKeyMissing, and BookError for one that others may use."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(FILE_BYTES_MAX)
    except FileNotFoundError as error:
        raise SigningKeyMissing(
            f"The signing key {path} is not there: without it, no checkpoint of the book can be signed.",
            path=str(path),
            remedy=_PUT_BACK,
        ) from error
    except OSError as error:
        raise limits.of_error(error, str(path)) or SigningKeyMissing(
            f"The signing key {path} can't be read: {error.strerror or error}.", path=str(path), remedy=_PUT_BACK
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BookError(
            f"Others than its owner may use the signing key {path} (mode {stat.S_IMODE(mode):04o}).",
            path=str(path),
            remedy="Give it mode 0600. If somebody may have read it, rotate it: `tallybook audit rotate-key`.",
        )
    return data.decode("ascii", "replace")


def write_file(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file for its owner's eyes, whole or not at all, durable when this returns."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            try:
                os.write(file, text.encode("ascii"))
                os.fsync(file)
            finally:
                os.close(file)
            if replace:
                os.replace(draft, path)
            else:
                try:
                    os.link(draft, path)  # unlike a rename, never in the place of a key that is there
                except OSError:  # it is there, or the file system has no hard links
                    if not path.exists():
                        os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise limits.of_error(error, str(path)) or SigningKeyMissing(
            f"The signing key {path} can't be written: {error.strerror or error}.",
            path=str(path),
            remedy="Name a place for it that you may write to, with `signing_key`.",
        ) from error


def verifiers(vkeys: Sequence[str], origin: str, name: str) -> list[Verifier]:
    """What verifies the checkpoints of a log of a book: signatures of the log, and the book's with the time."""
    keys = [Verifier.parse(vkey).public for vkey in vkeys]
    return [one for public in keys for one in (Verifier(name, public), Verifier(origin, public).cosigner())]
