"""Domain functions as machine code: the same source, and all that it calls, by numba. `native` keeps and calls it."""

from __future__ import annotations

import dis
import inspect
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

PACKAGE = "tallybook"
SMALL = 256
"""Functions of so much bytecode are copied to where they are called, and those that are called once."""


_APART = "apart"
ADDRESS = "address"
Memory: TypeAlias = Annotated[MutableSequence[int], ADDRESS]
"""64-bit integers from an address on: what of them is there is not checked in machine code."""


def address(words: Any) -> Memory:
    """An array of 64-bit integers, of any shape, as the integers that it holds one after another."""
    found: Memory = words.reshape(-1)
    return found


F = TypeVar("F", bound=Callable[..., Any])


def apart(function: F) -> F:
    """Mark a function that is called from many places, and seldom where time counts: it is copied to none of them."""
    setattr(function, _APART, True)
    return function


def view(words: Memory, first: int, count: int) -> MutableSequence[int]:
    """So many words from one on, as an array on the same memory."""
    return words[first : first + count]


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
    """A digest of the sources of all modules that a function and what it calls stand in, and of the numbers that they
    take from others."""
    functions = list(everything(function))
    told = sha256()
    for file in sorted({inspect.getfile(one) for one in functions}):
        told.update(Path(file).read_bytes())
    numbers = {
        (name, value)
        for one in functions
        for name in one.__code__.co_names
        if isinstance(value := one.__globals__.get(name), int)
    }
    told.update(repr(sorted(numbers)).encode())
    return told.hexdigest()


@cache
def compiler() -> Any:
    """The compiler, if it is here. Raises Uncompiled."""
    try:
        import numba
    except ImportError as error:
        raise Uncompiled('The compiler is not here: pip install "tallybook[replay]".') from error
    return numba


@cache
def _intrinsics() -> dict[Callable[..., Any], Any]:
    """What machine code does in its own way."""
    import numba.core.cgutils
    import numba.extending
    import numba.np.arrayobj

    # None of these tells its types.
    cgutils: Any = numba.core.cgutils
    types: Any = numba.types
    intrinsic: Any = numba.extending.intrinsic
    arrays: Any = numba.np.arrayobj

    def of_address(_: Any, words: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return arrays.make_array(signature.args[0])(context, builder, arguments[0]).data

        return types.CPointer(types.int64)(words), codegen

    def of_view(_: Any, words: Any, first: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = arrays.make_array(signature.return_type)(context, builder)
            size = context.get_constant(types.intp, 8)
            arrays.populate_array(
                array,
                data=builder.gep(arguments[0], [arguments[1]]),
                shape=cgutils.pack_array(builder, [arguments[2]]),
                strides=cgutils.pack_array(builder, [size]),
                itemsize=size,
                meminfo=None,
            )
            return array._getvalue()

        return types.Array(types.int64, 1, "C")(words, first, count), codegen

    return {address: intrinsic(of_address), view: intrinsic(of_view)}


class _Linking:
    """What one function calls, compiled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._made: dict[Callable[..., Any], Any] = dict(_intrinsics())
        self._calls: Counter[Callable[..., Any]] = Counter()
        for one in everything(function):
            names = called(one)
            for step in dis.get_instructions(one):
                if step.opname == "LOAD_GLOBAL" and step.argval in names:
                    self._calls[names[step.argval]] += 1

    def names(self, function: Callable[..., Any]) -> dict[str, Any]:
        """What a function calls, by name."""
        return {name: self._linked(other) for name, other in called(function).items()}

    def _linked(self, function: Callable[..., Any]) -> Any:
        if function not in self._made:
            made = _clone(function)
            made.__globals__.update(self.names(function))
            self._made[function] = compiler().njit(
                _signature(function),
                forceinline=not hasattr(function, _APART)
                and (self._calls[function] == 1 or len(function.__code__.co_code) <= SMALL),
                **_OPTIONS,
            )(made)
        return self._made[function]


_OPTIONS: dict[str, Any] = {
    "error_model": "numpy", "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
}  # fmt: skip
"""What is divided by is above 0; nothing is allocated, so that no references are counted."""


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
    hints = typing.get_type_hints(function, include_extras=True)
    given = [_numba_type(hints[name]) for name in inspect.signature(function).parameters]
    return _numba_type(hints["return"])(*given)


def _numba_type(annotation: Any) -> Any:
    types_ = compiler().types
    if annotation in (int, bool, type(None)):
        return {int: types_.int64, bool: types_.boolean, type(None): types_.void}[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return types_.CPointer(types_.int64)
    if origin is tuple:
        return types_.UniTuple(types_.int64, len(arguments))
    if origin is MutableMapping:
        return types_.Array(types_.int64, 2, "C")
    return types_.Array(types_.int64, 1, "C")


def object_code(function: Callable[..., Any], takes: Sequence[str]) -> tuple[str, bytes]:
    """A function of integers and arrays as machine code: its symbol, and the object file in which it stands with all
    that it calls. `takes`: what it is called with, as "ptr" and "i64". Raises Uncompiled."""
    made = _clone(function)
    made.__globals__.update(_Linking(function).names(function))
    [found] = compiler().njit(_signature(function), **_OPTIONS)(made).overloads.values()
    symbol, library = found.fndesc.llvm_func_name, found.library
    module = library._final_module
    outside = {one.name for one in module.functions if one.is_declaration and not one.name.startswith("llvm.")}
    if outside:  # but for what every C library has
        raise Uncompiled(f"{function.__name__} as machine code calls {', '.join(sorted(outside))}.")
    types_ = [str(one.type) for one in module.get_function(symbol).arguments]
    if ["ptr" if one.endswith("*") else one for one in types_] != list(takes):
        raise Uncompiled(f"This version of the compiler passes arguments otherwise: {', '.join(types_)}.")
    return symbol, library.serialize_using_object_code()[2][0]
