"""Files that are handed out: whole under their name, or not there at all."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from uuid import uuid4

from tallybook.domain.errors import BookError, BookReadOnly, text

from . import limits

LEFTOVER_AGE_S = 86_400
"""How old a part is that no process can be writing any more."""


def named(path: Path | str, argument: str) -> Path:
    """The absolute path that an argument names. Refuses: invalid_argument."""
    return Path(os.path.abspath(text(str(path), argument)))


def there_already(path: Path) -> BookError:
    """The error for a place that is taken."""
    return BookError(f"{path} is there already.", path=str(path), remedy="Name another file, or have it replaced.")


def trouble(error: OSError, target: Path) -> BookError:
    """An error of the system as Tallybook's."""
    kind = BookReadOnly if isinstance(error, PermissionError) else BookError
    return limits.of_error(error, str(target)) or kind(
        f"{target} can't be written: {error.strerror or error}.",
        path=str(target),
        remedy="Check the disk and the folder, its owner and mode.",
    )


@contextmanager
def part_of(target: Path, mode: int = 0o666) -> Iterator[Path]:
    """An empty file beside another, for what is not whole yet. It is removed at the end."""
    _remove_leftovers(target)
    part = target.with_name(f"{target.name}.{uuid4().hex[:12]}.part")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode))
    try:
        yield part
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            part.with_name(part.name + suffix).unlink(missing_ok=True)


def publish(part: Path, target: Path, *, replace: bool = False) -> None:
    """Give a file its name, once it is on the disk; the name is on the disk when this returns. Raises BookError."""
    sync(part)
    if replace:
        part.replace(target)
    else:
        try:
            os.link(part, target)
        except FileExistsError:
            raise there_already(target) from None
        except OSError:  # a file system without hard links
            if target.exists():
                raise there_already(target) from None
            part.rename(target)
    sync(target.parent)


@contextmanager
def new_file(file: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """A file to write, for its owner alone, which gets its name when the block ends well. Raises BookError."""
    target = named(file, "file")
    _must_have_folder(target)
    if not replace and (target.exists() or target.is_symlink()):
        raise there_already(target)
    try:
        with part_of(target, 0o600) as part:
            yield part
            publish(part, target, replace=replace)
    except OSError as error:
        raise trouble(error, target) from error


@contextmanager
def new_folder(folder: Path | str) -> Iterator[Path]:
    """A folder to fill, for its owner alone, which gets its name when the block ends well. An empty one is replaced.

    Raises BookError and its kinds.
    """
    target = named(folder, "folder")
    _must_have_folder(target)
    _must_be_free(target)
    part = target.with_name(f"{target.name}.{uuid4().hex[:12]}.part")
    try:
        _remove_leftovers(target)
        part.mkdir(0o700)
        try:
            yield part
            for place, _, names in os.walk(part):
                for name in names:
                    sync(Path(place) / name)
                sync(Path(place))
            _must_be_free(target)
            part.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise trouble(error, target) from error


def sync(path: Path) -> None:
    """Have a file or folder written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _must_have_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise BookError(f"The folder {target.parent} is not there.", path=str(target), remedy="Make it first.")


def _must_be_free(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise BookError(f"{target} is there, and is no folder.", path=str(target), remedy="Name another folder.")
    if target.is_dir():
        try:
            full = any(target.iterdir())
        except OSError as error:
            raise trouble(error, target) from error
        if full:
            raise BookError(f"{target} is not empty.", path=str(target), remedy="Name a folder that is new or empty.")


def _remove_leftovers(target: Path) -> None:
    for left in target.parent.glob(f"{escape(target.name)}.*.part*"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFTOVER_AGE_S:
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
