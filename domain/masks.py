"""Masks: what of a personal value is shown where a policy says `mask`. Pure functions of the value.

A masked value does not tell how long the value is, nor more of it than named here:

    birth_date                               the year
    contact.*                                of a mail address the domain; of a telephone number the last four digits
    identifier.*, order_id, source_ref       the last four characters
    name                                     the initials
    all others                               nothing

Where that would show the whole value or most of it, and where a value is not of the form, nothing is shown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from .personal import Masked

HIDDEN = "•••"
"""What stands for all that is not shown: the same for every value."""
LAST = 4
"""How many characters are shown of a value's end."""
LAST_OF_MIN = 2 * LAST
"""How long a value is at least for its end to be shown: of a shorter one it would be more than half."""

_YEAR = re.compile(r"(\d{4})-\d\d-\d\d", re.ASCII)
_DOMAIN = re.compile(r"[^\W_]([\w\-]*[^\W_])?(\.[^\W_]([\w\-]*[^\W_])?)+")
_PHONE = re.compile(r"[\d\s+()./\-]+")


def masked(field: str, value: object) -> Masked:
    """What is shown of a field's value."""
    mask = _MASKS.get(field) or _MASKS.get(field.partition(".")[0])
    return Masked(HIDDEN if mask is None or not isinstance(value, str) else mask(value) or HIDDEN)


def _year(value: str) -> str:
    found = _YEAR.fullmatch(value)
    return found.group(1) if found else ""


def _contact(value: str) -> str:
    local, at, domain = value.strip().rpartition("@")
    if at:
        return f"…@{domain}" if local and _DOMAIN.fullmatch(domain) else ""
    return _last("".join(sign for sign in value if sign.isdecimal())) if _PHONE.fullmatch(value) else ""


def _last(value: str) -> str:
    value = value.strip()
    if len(value) < LAST_OF_MIN:
        return ""
    # A mark that stands over its letter would show one letter more.
    end = value[-LAST:]
    return "" if any(map(unicodedata.combining, end)) or not end.isprintable() else f"…{end}"


def _initials(value: str) -> str:
    words = [
        [sign for sign in word if sign.isalnum()] for word in re.split(r"[\s\-]+", unicodedata.normalize("NFC", value))
    ]
    words = [word for word in words if word]
    if all(len(word) == 1 for word in words):
        return ""
    return " ".join(f"{word[0]}." for word in words)


_MASKS: dict[str, Callable[[str], str]] = {
    "birth_date": _year,
    "contact": _contact,
    "identifier": _last,
    "name": _initials,
    "order_id": _last,
    "source_ref": _last,
}
