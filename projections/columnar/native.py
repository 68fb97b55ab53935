"""Machine code, kept on disk and called: the compiler itself is loaded only where some has to be made.

What `compiling` makes is kept in the user's cache under a digest of every source that went into it, of the compiler and
of the processor. LLVM, which the compiler comes with, links it into the process. To load the compiler, too, would take
half a second and 80 MB.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import tempfile
import threading
import typing
from collections.abc import Callable, MutableMapping
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .compiling import PACKAGE, Uncompiled, digest_of, object_code

_TYPES: dict[str, Any] = {"ptr": ctypes.c_void_p, "i64": ctypes.c_int64}
_FOUND = 64
"""So many bytes, the digest of the rest, come first in a file; then the symbol, a line of its own; then the object."""


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., int]:
    """A function of integers and arrays as machine code: read from the cache, or compiled, at its first call.

    Whatever it calls must be of the same kind. It leaves the interpreter's lock alone. Raises Uncompiled.
    """
    return _Code(function)


def check_compiler() -> None:
    """Raises Uncompiled where nothing can be compiled."""
    if find_spec("numba") is None:
        raise Uncompiled('The compiler is not here: pip install "tallybook[replay]".')


def is_kept(function: Callable[..., Any]) -> bool:
    """Whether a function was compiled before, and kept."""
    file = _file_of(function)
    return file is not None and file.exists()


class _Code:
    """A function as machine code."""

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = typing.get_type_hints(function, include_extras=True)
        self._function = function
        self._passed = [_passed(hints[name]) for name in inspect.signature(function).parameters]
        self._lock = threading.Lock()
        self._call: Callable[..., int] | None = None
        self._engine: Any = None

    def __call__(self, *given: Any) -> int:
        call = self._call or self._loaded()
        words: list[int | None] = []
        for one, (_, words_of) in zip(given, self._passed, strict=True):
            words += words_of(one)
        answer, error = ctypes.c_int64(), ctypes.c_void_p()
        if call(ctypes.byref(answer), ctypes.byref(error), *words):
            raise AssertionError(f"{self._function.__qualname__} failed as machine code")
        return answer.value

    def _loaded(self) -> Callable[..., int]:
        with self._lock:
            if self._call is None:
                takes = ["ptr", "ptr", *(one for types, _ in self._passed for one in types)]
                symbol, code = _code_of(self._function, takes)
                self._engine = _linked(code)
                made = ctypes.CFUNCTYPE(ctypes.c_int32, *(_TYPES[one] for one in takes))
                self._call = made(self._engine.get_function_address(symbol))
            return self._call


def _passed(annotation: Any) -> tuple[list[str], Callable[[Any], list[int | None]]]:
    """How machine code takes what is annotated so: the types of words, and what makes them of a value.

    Of an array, these are: who owns it (twice: nobody), its size, the bytes of an item, its address, its shape, its
    strides.
    """
    if annotation is int:
        return ["i64"], lambda value: [int(value)]
    dimensions = 2 if typing.get_origin(annotation) is MutableMapping else 1

    def words_of(array: Any) -> list[int | None]:
        if array.dtype != "int64" or array.ndim != dimensions or not array.flags.c_contiguous:
            raise TypeError(f"an array of {array.dtype}, {array.ndim}-dimensional, where one of int64 belongs")
        address = array.__array_interface__["data"][0]
        return [None, None, array.size, array.itemsize, address, *array.shape, *array.strides]

    return ["ptr", "ptr", "i64", "i64", "ptr", *["i64"] * (2 * dimensions)], words_of


def _code_of(function: Callable[..., Any], takes: list[str]) -> tuple[str, bytes]:
    """The symbol of a function, and the object in which it stands: as kept, or made and kept. Raises Uncompiled."""
    file = _file_of(function)
    if file is not None and file.exists():
        data = file.read_bytes()
        if data[:_FOUND] == _digest(data[_FOUND:]):
            named, _, kept = data[_FOUND:].partition(b"\n")
            return named.decode(), kept
    check_compiler()
    symbol, code = object_code(function, takes)
    if file is not None:
        made = symbol.encode() + b"\n" + code
        handle, written = tempfile.mkstemp(dir=file.parent)
        with open(handle, "wb") as into:
            into.write(_digest(made) + made)
        os.replace(written, file)
    return symbol, code


def _digest(data: bytes) -> bytes:
    return sha256(data).hexdigest().encode()


def _file_of(function: Callable[..., Any]) -> Path | None:
    """Where a function is kept; None where nothing can be."""
    try:
        import llvmlite.binding as llvm

        made_by = [version("numba"), version("llvmlite")]
    except (ImportError, PackageNotFoundError):
        return None
    made_for = [llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    told = sha256("\n".join([digest_of(function), *made_by, *made_for]).encode()).hexdigest()
    folder = cache_folder("code")
    return None if folder is None else Path(folder) / f"{function.__name__}-{told[:32]}.o"


def _linked(code: bytes) -> Any:
    """An object file in memory, as long as this lives, ready to run."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def cache_folder(name: str) -> str | None:
    """A folder in the user's cache for what replays keep, machine code among it; None where nothing can be written, or
    where somebody else could write."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        os.makedirs(folder, exist_ok=True)
        for inner in (PACKAGE, "replay", name):
            folder = os.path.join(folder, inner)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if not _is_ours(folder):
                return None
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _is_ours(folder: str) -> bool:
    """Whether nobody else can put a file into a folder, or another folder into its place."""
    found = os.stat(folder)
    return os.name != "posix" or (found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022)
