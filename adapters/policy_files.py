"""Access policy files, and what decides by an adopted policy."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tallybook.domain.errors import PolicyError, RuleSetError, not_a_document
from tallybook.domain.policy import CEDAR, Decider, InForce, PolicyDocument, compiled_policy, parse_policy

from .rule_files import frozen_zone

PACKAGED = ("shop",)
"""Access policies that ship with the package: named without a path, unless a file of that name is there."""


def load_policy(policy: str | Path | Mapping[str, Any]) -> PolicyDocument:
    """Read and validate a TOML or JSON file, one of `PACKAGED`, or a mapping of the same form.

    Raises PolicyError, which names each problem's path; MissingExtra, if it is in Cedar and that is not installed.
    """
    if isinstance(policy, Mapping):
        source, document = "policy", dict(policy)
    else:
        source, document = str(policy), _read(Path(policy))
    try:
        parsed = parse_policy(document, source)
        frozen_zone(parsed.zone, source)
    except RuleSetError as error:
        raise PolicyError(source, error.problems) from None
    except RecursionError:
        raise PolicyError(source, ["the document is nested too deep"]) from None
    decider(parsed.language, parsed.canonical())
    return parsed


def _read(path: Path) -> dict[str, Any]:
    try:
        if str(path) in PACKAGED and not path.exists():
            text = files("tallybook").joinpath("data", f"{path}.policy.toml").read_text(encoding="utf-8")
        else:
            text = path.read_bytes().decode("utf-8-sig")
        document: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise PolicyError(str(path), ["the file is not there"]) from None
    except IsADirectoryError:
        raise PolicyError(str(path), ["this is a folder, not a file"]) from None
    except UnicodeDecodeError as error:
        raise PolicyError(str(path), [f"the file is not UTF-8 (byte {error.start}); save it as UTF-8"]) from None
    except json.JSONDecodeError as error:
        raise PolicyError(str(path), [f"this is not JSON: {error}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(str(path), [f"this is not TOML: {error}"]) from None
    except (OSError, ValueError) as error:
        raise PolicyError(str(path), [f"the file can't be read: {getattr(error, 'strerror', None) or error}"]) from None
    except RecursionError:
        raise PolicyError(str(path), ["the document is nested too deep"]) from None
    if not isinstance(document, dict):
        raise PolicyError(str(path), ["document: a table of name, version, purposes and rules is wanted"])
    return document


def decider(language: str, document: str) -> Decider:
    """What decides by a canonical document. Raises MissingExtra, PolicyError."""
    if language == CEDAR:
        from .cedar import cedar_policy  # an extra

        return cedar_policy(document)
    return compiled_policy(document)


def decider_of(policy: InForce) -> Decider:
    """What decides by the policy in force. Raises MissingExtra; StoredFormError where the document is none."""
    try:
        return decider(policy.language, policy.document)
    except ValueError as error:
        raise not_a_document("access policy", f"{policy.name}@{policy.version}", error) from error
