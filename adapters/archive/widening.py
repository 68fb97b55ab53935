"""Narrow columns side by side as rows of 64-bit numbers, compiled by numba: in one pass over memory, where numpy takes
one for each column. Compiled anew for each choice of widths, of which a book has few.
"""

from __future__ import annotations

from typing import Any

from .decoding import kept_compiled


@kept_compiled
def slots(into: Any, codes: Any, a: Any, b: Any, c: Any, d: Any, of_a: Any, of_b: Any, of_c: Any) -> None:
    """Four numbers a row; in the first three places, the code of a text is added to what is 0 then."""
    for row in range(into.shape[0]):
        into[row, 0] = a[row] + codes[of_a[row]]
        into[row, 1] = b[row] + codes[of_b[row]]
        into[row, 2] = c[row] + codes[of_c[row]]
        into[row, 3] = d[row]


@kept_compiled
def items(into: Any, codes: Any, a: Any, b: Any, c: Any, d: Any, of_e: Any, of_f: Any) -> None:
    """Four numbers a row, and the codes of two texts."""
    for row in range(into.shape[0]):
        into[row, 0] = a[row]
        into[row, 1] = b[row]
        into[row, 2] = c[row]
        into[row, 3] = d[row]
        into[row, 4] = codes[of_e[row]]
        into[row, 5] = codes[of_f[row]]
