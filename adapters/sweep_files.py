"""Files that name many candidates at once: a list of rule sets, or one of which some values are varied."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tallybook.domain.errors import RuleSetError
from tallybook.domain.rules import RuleSet, parse_rule_set, problems_of

from .rule_files import FILE_BYTES_MAX, PACKAGED, load_rule_set

SCENARIOS_MAX = 1_000
NAMED_BY = ("id", "name", "code")
"""By what the parts of a list are named in a path."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a sweep tries: rule sets, each with a name; and what they may cost in points beyond the baseline, if that is
    said."""

    scenarios: tuple[tuple[str, RuleSet], ...]
    budget: int | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    candidate: str | None = None
    candidates: list[str] = Field(default_factory=list)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    budget: int | None = Field(default=None, ge=0)


def load_candidates(path: str | Path) -> Candidates:
    """Read a TOML file:

        candidate = "candidate.toml"      # the rule set that `grid` varies: a file beside this one, or one that ships
        candidates = ["other.toml"]       # further rule sets, as they are
        budget = 250000                   # points that a scenario may give beyond the baseline

        [grid]                            # every combination of these is a scenario
        "expiry.months" = [12, 18, 24]
        "earning.base.points" = [1, 2]
        "tiers.levels.gold.threshold" = [300, 400]

    Paths name parts of lists by their id, name or code. Raises RuleSetError, which names each problem.
    """
    path = Path(path)
    told = _read(path)
    wrong: list[str] = []
    found: list[tuple[str, RuleSet]] = [(name, _load(path, name)) for name in told.candidates]
    if told.grid and told.candidate is None:
        wrong.append('grid: there is no candidate whose values it varies; write candidate = "FILE"')
    if told.candidate is not None:
        base = _load(path, told.candidate)
        wrong += [f"grid.{one}: no values are given" for one, values in told.grid.items() if not values]
        count = 1
        for values in told.grid.values():
            count *= len(values)
        if count + len(found) > SCENARIOS_MAX:
            wrong.append(f"grid: these are {count + len(found):,} scenarios; {SCENARIOS_MAX:,} are the most")
        elif not wrong:
            for name, document in _varied(base, told.grid, told.candidate, wrong):
                found.append((name, parse_rule_set(document, f"{path} ({name})")))
    if not found and not wrong:
        wrong.append("there is nothing to try: write candidate with a grid, or candidates")
    names = [name for name, _ in found]
    wrong += [f"{name} is named twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    programmes = sorted({rule_set.programme for _, rule_set in found})
    if len(programmes) > 1:
        wrong.append(f"the candidates are of several programmes: {', '.join(programmes)}")
    if wrong:
        raise RuleSetError(str(path), wrong)
    return Candidates(tuple(found), told.budget)


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            read = file.read(FILE_BYTES_MAX + 1)
        if len(read) > FILE_BYTES_MAX:
            raise RuleSetError(str(path), [f"the file has more than {FILE_BYTES_MAX} bytes"])
        return _File.model_validate(tomllib.loads(read.decode("utf-8-sig")))
    except FileNotFoundError:
        raise RuleSetError(str(path), ["the file is not there"]) from None
    except UnicodeDecodeError as error:
        raise RuleSetError(str(path), [f"the file is not UTF-8 (byte {error.start}); save it as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise RuleSetError(str(path), [f"this is not TOML: {error}"]) from None
    except ValidationError as error:
        raise RuleSetError(str(path), problems_of(error)) from None
    except OSError as error:
        raise RuleSetError(str(path), [f"the file can't be read: {error.strerror}"]) from None


def _load(beside: Path, name: str) -> RuleSet:
    there = beside.parent / name
    return load_rule_set(name if name in PACKAGED and not there.exists() else there)


def _varied(
    base: RuleSet, grid: Mapping[str, Sequence[Any]], name: str, wrong: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The documents of all combinations, each with a name."""
    for values in product(*grid.values()):
        document: dict[str, Any] = json.loads(base.canonical())
        pairs = list(zip(grid, values, strict=True))
        for place, value in pairs:
            problem = _put(document, place, value)
            if problem:
                message = f"grid.{place}: {problem}"
                if message not in wrong:
                    wrong.append(message)
        if wrong:
            return
        yield ", ".join(f"{place} = {json.dumps(value)}" for place, value in pairs) or name, document


def _put(document: dict[str, Any], path: str, value: Any) -> str:
    """Put a value in its place in a document; what is wrong, if it can't be."""
    *within, last = path.split(".")
    part: Any = document
    for step in within:
        inner = _step(part, step)
        if not isinstance(inner, (dict, list)):
            return f"there is no {step!r} in the rule set; there is {', '.join(_steps(part)) or 'nothing'}"
        part = inner
    if isinstance(part, list):
        return f"{last!r} is a part of a list: name a value of it"
    part[last] = value
    return ""


def _step(part: Any, step: str) -> Any:
    if isinstance(part, dict):
        return part.get(step)
    named = [one for one in part if isinstance(one, dict) and step in (one.get(by) for by in NAMED_BY)]
    return named[0] if named else None


def _steps(part: Any) -> list[str]:
    if isinstance(part, dict):
        return sorted(part)
    return [str(one.get(by)) for one in part if isinstance(one, dict) for by in NAMED_BY if by in one]
