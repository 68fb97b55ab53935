"""The CDNOW form: one purchase a line, `customer date CDs dollars`, separated by spaces.

The 1/10 sample has the number within the sample as a second column; it is read too. Source of form and data:
P. S. Fader, B. G. S. Hardie, "Forecasting Repeat Sales at CDNOW: A Case Study", Interfaces 31 (2001).
"""

from __future__ import annotations

import hashlib
import lzma
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tallybook.domain.calendar import DAY_US, days_from_civil
from tallybook.domain.errors import ImportFileError

_AMOUNT = re.compile(r"\d{1,12}(\.\d{1,2})?", re.ASCII)
_NUMBER = re.compile(r"\d{1,12}", re.ASCII)
LINE_BYTES_MAX = 4096
FAR_US = 2**62
LONG_LINE_KEPT_MAX = 1 << 20


class CdnowRow(NamedTuple):
    """One purchase. `line` counts from 1 in the file; the day begins at 00:00 UTC."""

    line: int
    customer: str
    effective_us: int
    quantity: int
    net_minor: int


class BadLine(NamedTuple):
    """A line that can't be read."""

    line: int
    text: bytes
    problem: str


def open_lines(path: Path) -> BinaryIO:
    """The file's bytes; a name that ends in .xz is unpacked. Raises ImportFileError."""
    try:
        if path.suffix == ".xz":
            return lzma.open(path, "rb")  # type: ignore[return-value]  # LZMAFile reads as a binary file does
        return path.open("rb")
    except OSError as error:
        raise ImportFileError(str(path), 0, f"the file can't be opened: {error.strerror or error}") from error


def digest_of(path: Path) -> tuple[str, int]:
    """SHA-256 (hex) and number of lines of the unpacked file: what identifies its lines."""
    digest = hashlib.sha256()
    lines = 0
    last = b"\n"
    with open_lines(path) as file:
        try:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                lines += chunk.count(b"\n")
                last = chunk[-1:]
        except (lzma.LZMAError, EOFError, OSError) as error:
            raise ImportFileError(str(path), lines + 1, f"the file can't be read: {error}") from error
    return digest.hexdigest(), lines + (last != b"\n")


def read_cdnow(path: Path, after_line: int = 0, *, ends_us: int = FAR_US) -> Iterator[CdnowRow | BadLine]:
    """All purchases after a line, in the order of the file, with broken lines where they stand.

    A heading and empty lines are passed over. A purchase after `ends_us` has not happened yet: a broken line.
    """
    number = 0
    with open_lines(path) as file:
        while raw := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            if len(raw) > LINE_BYTES_MAX:
                while not raw.endswith(b"\n") and (rest := file.readline(1 << 16)):
                    raw = raw + rest if len(raw) < LONG_LINE_KEPT_MAX else raw
                    if rest.endswith(b"\n"):
                        break
                if number > after_line:
                    yield BadLine(number, raw, f"the line is longer than {LINE_BYTES_MAX} bytes")
                continue
            if number <= after_line or not raw.strip() or (number == 1 and b"customer_id" in raw):
                continue
            try:
                row = _row(number, raw)
                if row.effective_us > ends_us:
                    raise ValueError("the date lies in the future")
                yield row
            except ValueError as error:
                yield BadLine(number, raw, str(error))


def _row(number: int, raw: bytes) -> CdnowRow:
    try:
        fields = raw.decode("ascii").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is no ASCII character") from None
    if len(fields) == 5:
        del fields[1]
    if len(fields) != 4:
        raise ValueError(f"{len(fields)} columns where customer, date, CDs, dollars belong")
    customer, day, quantity, amount = fields
    if not _NUMBER.fullmatch(customer):
        raise ValueError("the customer is not a number")
    if not (len(day) == 8 and _NUMBER.fullmatch(day)):
        raise ValueError("the date is not of the form YYYYMMDD")
    try:
        when = date(int(day[:4]), int(day[4:6]), int(day[6:]))
    except ValueError:
        raise ValueError("there is no such date") from None
    if not _NUMBER.fullmatch(quantity) or not 1 <= int(quantity) <= 10**9:
        raise ValueError("the number of CDs is not a whole number of at least 1")
    if not _AMOUNT.fullmatch(amount):
        raise ValueError("the amount is not of the form 12.34")
    dollars, _, cents = amount.partition(".")
    return CdnowRow(
        number,
        customer,
        days_from_civil(when.year, when.month, when.day) * DAY_US,
        int(quantity),
        int(dollars) * 100 + int(cents.ljust(2, "0") or 0),
    )
