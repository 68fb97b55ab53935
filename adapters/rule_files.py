"""Rule set files, and the freezing of what a rule set depends on."""

from __future__ import annotations

import json
import tomllib
import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from tallybook.domain.calendar import UTC_ZONE, Zone
from tallybook.domain.errors import RuleSetError
from tallybook.domain.events import to_us
from tallybook.domain.rules import RuleSet, parse_rule_set

FROZEN_FROM = 1970
FROZEN_TO = 2100
FILE_BYTES_MAX = 4_000_000
"""How long a file may be: so much holds a document of the longest canonical form, in characters of four bytes."""


PACKAGED = {
    "standard": "standard.toml",
    "candidate": "candidate.toml",
    "stars": "programmes/stars.toml",
    "miles": "programmes/miles.toml",
    "retail": "programmes/retail.toml",
    "growth": "programmes/growth.toml",
}
"""Rule sets that ship with the package: named without a path, unless a file of that name is there."""


def load_rule_set(path: str | Path) -> RuleSet:
    """Read and validate a file in TOML, JSON (`.json`) or YAML (`.yaml`, `.yml`), or one of `PACKAGED`.

    Raises RuleSetError, which names each problem's path; MissingExtra.
    """
    path = Path(path)
    try:
        if str(path) in PACKAGED and not path.exists():
            text = files("tallybook").joinpath("data", PACKAGED[str(path)]).read_text(encoding="utf-8")
        else:
            with path.open("rb") as file:
                read = file.read(FILE_BYTES_MAX + 1)
            if len(read) > FILE_BYTES_MAX:
                raise RuleSetError(str(path), [f"the file has more than {FILE_BYTES_MAX} bytes: is it a rule set?"])
            text = read.decode("utf-8-sig")
        document = _READERS.get(path.suffix.lower(), tomllib.loads)(text)
        if not isinstance(document, dict):
            raise RuleSetError(
                str(path), ["the file holds no table: write keys with their values, such as name: standard"]
            )
        rule_set = parse_rule_set(document, str(path))
    except FileNotFoundError:
        known = f"; the rule sets that ship are called {', '.join(PACKAGED)}" if path.parent == Path() else ""
        raise RuleSetError(str(path), [f"the file is not there{known}"]) from None
    except IsADirectoryError:
        raise RuleSetError(str(path), ["this is a folder, not a file"]) from None
    except UnicodeDecodeError as error:
        raise RuleSetError(str(path), [f"the file is not UTF-8 (byte {error.start}); save it as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise RuleSetError(str(path), [f"this is not TOML: {error}"]) from None
    except json.JSONDecodeError as error:
        raise RuleSetError(str(path), [f"this is not JSON: {error}"]) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        if "integer string conversion" in str(error):
            why = "a number in it has thousands of digits"
        raise RuleSetError(str(path), [f"the file can't be read: {why}"]) from None
    except RecursionError:
        raise RuleSetError(str(path), ["lists or tables are nested too deep"]) from None
    frozen_zone(rule_set.zone, str(path))
    return rule_set


def _from_json(text: str) -> object:
    """As TOML would be read: a key that is there twice is a mistake, and so is what is no number of JSON."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {twice!r} is there twice in one object")
        return found

    def no_number(sign: str) -> object:
        raise ValueError(f"{sign} is no number of JSON")

    return json.loads(text, object_pairs_hook=once, parse_constant=no_number)


def _from_yaml(text: str) -> object:
    from .yaml_files import from_yaml  # an extra

    return from_yaml(text)


_READERS: dict[str, Callable[[str], object]] = {".json": _from_json, ".yaml": _from_yaml, ".yml": _from_yaml}
"""By the end of a file's name; all others are TOML."""


_NO_ZONES = ("localtime", "posixrules", "factory")
"""Files beside the zones on many machines; so are the folders posix and right, the latter with leap seconds."""


@lru_cache(maxsize=64)
def frozen_zone(name: str, source: str = "rule set") -> Zone:
    """A zone's offsets from 1970 to 2100 as arrays, with the tzdata release behind them. Raises RuleSetError."""
    if name == "UTC":
        return UTC_ZONE
    if name.lower() in _NO_ZONES or name.lower().startswith(("posix/", "right/")):
        raise RuleSetError(source, [f"zone: {name!r} is no time zone of a place; write one like Europe/Rome"])
    try:
        zone = zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise RuleSetError(
            source, [f"zone: {name!r} is not a time zone that this machine knows; write one like Europe/Rome"]
        ) from None

    def offset(moment: datetime) -> int:
        found = moment.astimezone(zone).utcoffset()
        assert found is not None
        return int(found.total_seconds())

    moment = datetime(FROZEN_FROM, 1, 1, tzinfo=UTC)
    starts, offsets = [-(2**62)], [offset(moment)]
    end = datetime(FROZEN_TO, 1, 1, tzinfo=UTC)
    # No zone changes twice within a day and back; each change is then found to the second by halving.
    while moment < end:
        following = moment + timedelta(days=1)
        if offset(following) != offsets[-1]:
            low, high = moment, following
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
                if offset(middle) == offsets[-1]:
                    low = middle
                else:
                    high = middle
            starts.append(to_us(high))
            offsets.append(offset(high))
            moment = high
        else:
            moment = following
    return Zone(name=name, tzdata=_tzdata_release(), starts_us=tuple(starts), offsets_s=tuple(offsets))


def _tzdata_release() -> str:
    for folder in zoneinfo.TZPATH:
        for name in ("tzdata.zi", "+VERSION"):
            file = Path(folder) / name
            if file.is_file():
                with file.open(encoding="utf-8") as lines:
                    return lines.readline().removeprefix("# version").strip()[:64] or "unknown"
    try:
        return metadata.version("tzdata")
    except metadata.PackageNotFoundError:
        return "unknown"
