"""Domain functions, compiled: the same source, and all that it calls, as machine code (numba).

What is compiled is kept on disk, in the user's cache, under a digest of every source that went into it: numba itself
looks at the file of the outermost function alone.
"""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

PACKAGE = "tallybook"


class Uncompiled(RuntimeError):
    """There is no compiler here."""


def _plain(function: Any) -> Any:
    """A function as it was written, without what caches its answers."""
    return inspect.unwrap(function)


def _bisect_right(values: Sequence[int], value: int) -> int:
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if value < values[middle]:
            high = middle
        else:
            low = middle + 1
    return low


_INSTEAD: dict[str, Callable[..., Any]] = {"bisect_right": _bisect_right}
"""What of other packages is called, in a form that can be compiled."""


def called(function: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The functions that a function calls by name: of this package, and those of `_INSTEAD`."""
    found: dict[str, Callable[..., Any]] = {}
    for name in function.__code__.co_names:
        value = _INSTEAD.get(name) or _plain(function.__globals__.get(name))
        if isinstance(value, types.FunctionType) and value.__module__.split(".")[0] == PACKAGE:
            found[name] = value
    return found


def everything(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """A function, and all that it calls, each once."""
    found = {function: None}
    queue = [function]
    while queue:
        for other in called(queue.pop()).values():
            if other not in found:
                found[other] = None
                queue.append(other)
    return iter(found)


def digest_of(function: Callable[..., Any]) -> str:
    """A digest of the sources of all modules that a function and what it calls stand in."""
    files = sorted({inspect.getfile(one) for one in everything(function)})
    told = sha256()
    for file in files:
        told.update(Path(file).read_bytes())
    return told.hexdigest()


@cache
def _numba() -> Any:
    try:
        import numba
    except ImportError as error:
        raise Uncompiled('The compiler is not here: pip install "tallybook[replay]".') from error
    return numba


@cache
def _linked(function: Callable[..., Any]) -> Any:
    """A function compiled, those that it calls first."""
    made = _clone(function)
    made.__globals__.update({name: _linked(other) for name, other in called(function).items()})
    return _numba().njit(_signature(function), no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(made)


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _clone(function: Callable[..., Any]) -> types.FunctionType:
    """The same function with globals of its own."""
    made = types.FunctionType(
        function.__code__, dict(function.__globals__), function.__name__, function.__defaults__, function.__closure__
    )
    made.__qualname__ = function.__qualname__
    made.__module__ = function.__module__
    return made


def _signature(function: Callable[..., Any]) -> Any:
    """The types of a function, by its annotations: else numba would compile it anew for each constant that it is
    called with."""
    hints = typing.get_type_hints(function)
    given = [_numba_type(hints[name]) for name in inspect.signature(function).parameters]
    return _numba_type(hints["return"])(*given)


def _numba_type(annotation: Any) -> Any:
    types_ = _numba().types
    if annotation in (int, bool, type(None)):
        return {int: types_.int64, bool: types_.boolean, type(None): types_.void}[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        return types_.UniTuple(types_.int64, len(arguments))
    if origin is MutableMapping:
        return types_.Array(types_.int64, 2, "C")
    # A part of an array need not be contiguous.
    return types_.Array(types_.int64, 1, "C" if origin is MutableSequence else "A")


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of integers and arrays as machine code: compiled at its first call, or read from the cache.

    Whatever it calls must be of the same kind. It leaves the interpreter's lock alone. Raises Uncompiled.
    """
    made = _clone(function)
    dispatcher = _numba().njit(**_OPTIONS)(made)

    def link() -> None:
        made.__globals__.update({name: _linked(other) for name, other in called(function).items()})

    folder = cache_folder(digest_of(function)[:32])
    if folder is None:
        link()
    else:
        dispatcher._cache = _cache_in(folder, link)(made)
    answer: Callable[..., Any] = dispatcher
    return answer


def cache_folder(name: str) -> str | None:
    """A folder in the user's cache for what replays keep; None where nothing can be written."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(home, PACKAGE, "replay", name)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _cache_in(folder: str, link: Callable[[], None]) -> Any:
    """numba's cache of one function, in a folder that is named by what the function is made of. What is not there is
    about to be compiled: `link` compiles first what it calls."""
    from numba.core.caching import CompileResultCacheImpl, FunctionCache

    class Locator:
        """As numba asks for it: where the cache lies, and by what it would be stale."""

        def __init__(self, name: str) -> None:
            self._name = name

        @classmethod
        def from_function(cls, function: Any, _file: str) -> Locator:
            return cls(function.__name__)

        def ensure_cache_path(self) -> None:
            os.makedirs(folder, exist_ok=True)

        def get_cache_path(self) -> str:
            return folder

        def get_source_stamp(self) -> str:
            return folder

        def get_disambiguator(self) -> str:
            return self._name

    class Kept(CompileResultCacheImpl):
        pass

    setattr(Kept, "_locator_classes", [Locator])  # noqa: B010 - numba declares it with a type of its own

    class KeptFunction(FunctionCache):
        _impl_class = Kept

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            load: Any = FunctionCache.load_overload
            found = load(self, sig, target_context)
            if found is None:
                link()
            return found

    return KeptFunction
