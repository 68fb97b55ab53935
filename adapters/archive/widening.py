"""Narrow columns side by side as rows of 64-bit numbers: machine code does in one pass over memory what numpy takes one
for each column for."""

from __future__ import annotations

from tallybook.projections.columnar.compiling import Narrow
from tallybook.projections.columnar.machine.layout import Array, Rows


def slots(
    into: Rows, codes: Array, a: Narrow, b: Narrow, c: Narrow, d: Narrow, of_a: Narrow, of_b: Narrow, of_c: Narrow
) -> None:
    """Four numbers a row; in the first three places, the code of a text is added to what is 0 then."""
    for row in range(len(a)):
        into[row, 0] = a[row] + codes[of_a[row]]
        into[row, 1] = b[row] + codes[of_b[row]]
        into[row, 2] = c[row] + codes[of_c[row]]
        into[row, 3] = d[row]


def items(into: Rows, codes: Array, a: Narrow, b: Narrow, c: Narrow, d: Narrow, of_e: Narrow, of_f: Narrow) -> None:
    """Four numbers a row, and the codes of two texts."""
    for row in range(len(a)):
        into[row, 0] = a[row]
        into[row, 1] = b[row]
        into[row, 2] = c[row]
        into[row, 3] = d[row]
        into[row, 4] = codes[of_e[row]]
        into[row, 5] = codes[of_f[row]]
