"""Where the files of an archive lie: a local folder, or whatever fsspec opens by a URL.

A file is written whole under a name that its bytes give it, and never altered. What counts is the manifest alone: the
one file that is replaced, at once. So a writer that is killed leaves files that nobody names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from pyarrow import fs as arrow_fs

from tallybook.adapters.outputs import sync, trouble
from tallybook.domain.errors import BookError, MissingExtra

MANIFEST = "manifest.json"


class Place(Protocol):
    """A folder of files."""

    shown: str
    """What messages call it."""

    def read(self, name: str) -> bytes | None:
        """What a file holds; None if there is none."""
        ...

    def token(self, name: str) -> object:
        """Something that is another once the file was written to; None if there is no file."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        ...

    def names(self) -> list[str]:
        """The names of all files."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone, too."""
        ...

    def for_arrow(self) -> tuple[Any, str]:
        """A file system of pyarrow, and the path of the folder in it."""
        ...

    def inside(self, name: str) -> Place:
        """A folder in it."""
        ...


class LocalFolder:
    """A folder of this host."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(os.path.abspath(path))
        self.shown = str(self.path)

    def read(self, name: str) -> bytes | None:
        """What a file holds; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unread(error, f"{self.shown}/{name}") from error

    def token(self, name: str) -> object:
        """Something that is another once the file was written to; None if there is no file."""
        try:
            found = (self.path / name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def write(self, name: str, data: bytes) -> None:
        """Write a file: it is on the disk before it has its name, and so is its name when this returns."""
        target = self.path / name
        part = self.path / f".{name}.{uuid4().hex[:12]}.part"
        try:
            self.path.mkdir(exist_ok=True)
            try:
                with part.open("xb") as opened:
                    opened.write(data)
                    opened.flush()
                    os.fsync(opened.fileno())
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
            sync(self.path)
        except OSError as error:
            raise trouble(error, target) from error

    def names(self) -> list[str]:
        """The names of all files."""
        try:
            return sorted(entry.name for entry in self.path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unread(error, self.shown) from error

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone, too."""
        for name in names:
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError as error:
                raise trouble(error, self.path / name) from error

    def for_arrow(self) -> tuple[Any, str]:
        """A file system of pyarrow, and the path of the folder in it."""
        return arrow_fs.LocalFileSystem(), str(self.path)

    def inside(self, name: str) -> LocalFolder:
        """A folder in it."""
        return LocalFolder(self.path / name)


class ObjectStore:
    """A folder of another file system, by fsspec: an object is there whole or not at all."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as missing:
            raise MissingExtra("fsspec", "replay") from missing
        try:
            self._fs, self._root = url_to_fs(url.rstrip("/"))
        except (ValueError, ImportError) as error:
            raise BookError(
                f"{_shown(url)!r} names no place for an archive: {error}.",
                path=_shown(url),
                remedy="Name a folder, or a URL of a file system that fsspec knows, and install what opens it.",
            ) from error
        self.shown = _shown(url.rstrip("/"))

    def read(self, name: str) -> bytes | None:
        """What a file holds; None if there is none."""
        with self._told(name, "read"), suppress(FileNotFoundError):
            found: bytes = self._fs.cat_file(f"{self._root}/{name}")
            return found
        return None

    def token(self, name: str) -> object:
        """Something that is another once the object was written to; None if there is none."""
        with self._told(name, "read"), suppress(FileNotFoundError):
            found = self._fs.info(f"{self._root}/{name}")
            return tuple(str(found.get(key)) for key in ("size", "ETag", "etag", "mtime", "created", "LastModified"))
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in one go. The folder is made, if it is not there; what that is in is not, be it a bucket."""
        path = f"{self._root}/{name}"
        with self._told(name, "written"):
            try:
                self._fs.pipe_file(path, data)
            except FileNotFoundError:
                if "/" not in self._root.strip("/"):
                    raise
                with suppress(FileExistsError):
                    self._fs.mkdir(self._root, create_parents=False)
                self._fs.pipe_file(path, data)

    def names(self) -> list[str]:
        """The names of all files."""
        with self._told("", "read"), suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            found = self._fs.ls(self._root, detail=False)
            return sorted(str(one).rstrip("/").rsplit("/", 1)[-1] for one in found)
        return []

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone, too."""
        for name in names:
            with self._told(name, "removed"), suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{name}")

    @contextmanager
    def _told(self, name: str, done: str) -> Iterator[None]:
        """Whatever the store's own package raises is told as a BookError."""
        try:
            yield
        except Exception as error:
            place = f"{self.shown}/{name}".rstrip("/")
            raise BookError(
                f"{place} can't be {done}: {str(error) or type(error).__name__}.",
                path=place,
                remedy="See that the store can be reached and has the bucket, and check the credentials for it.",
            ) from error

    def for_arrow(self) -> tuple[Any, str]:
        """A file system of pyarrow, and the path of the folder in it."""
        return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(self._fs)), self._root

    def inside(self, name: str) -> ObjectStore:
        """A folder in it."""
        found = copy(self)
        found._root, found.shown = f"{self._root}/{name}", f"{self.shown}/{name}"
        return found


def place_of(where: str | Path) -> Place:
    """The place that a path or a URL names. Raises BookError, MissingExtra."""
    if isinstance(where, Path) or "://" not in where:
        return LocalFolder(where)
    if where.startswith("file://"):
        return LocalFolder(where.removeprefix("file://"))
    return ObjectStore(where)


def _shown(url: str) -> str:
    """A URL without what may be a password."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rsplit('@', 1)[-1]}{slash}{path.partition('?')[0]}"


def _unread(error: OSError, place: str) -> BookError:
    return BookError(
        f"{place} can't be read: {error.strerror or error}.", path=place, remedy="Check its owner and mode."
    )
