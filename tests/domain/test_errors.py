"""Errors, as they come out of other processes."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import tallybook.testing.conformance  # noqa: F401 - all modules that define errors are loaded
from tallybook.adapters.policy_files import decider_of
from tallybook.domain.calendar import UTC_ZONE
from tallybook.domain.control import Adopted
from tallybook.domain.errors import StoredFormError, TallybookError
from tallybook.domain.policy import InForce

SAMPLES: dict[str, Any] = {
    "code": "unknown_customer",
    "values": {"customer": 7},
    "problems": ["a: b"],
    "position": 3,
    "line": 4,
    "unknown": True,
    "key_id": 5,
}


def kinds(root: type[TallybookError] = TallybookError) -> Iterator[type[TallybookError]]:
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


def sample(kind: type[TallybookError]) -> TallybookError:
    """An error with a value in each argument."""
    arguments: list[Any] = []
    named: dict[str, Any] = {}
    if kind.__init__ is Exception.__init__:
        return kind("what, where", 7)
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        value = SAMPLES.get(name, f"the {name}")
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            named[name] = value
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            arguments.append(value)
    return kind(*arguments, **named)


@pytest.mark.parametrize("kind", dict.fromkeys(kinds()), ids=lambda kind: kind.__name__)
def test_an_error_comes_out_of_another_process_as_it_was(kind: type[TallybookError]) -> None:
    error = sample(kind)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


def test_a_stored_document_that_is_none_is_told_by_its_name() -> None:
    rules = Adopted(0, "main", "standard", "1", "0" * 64, '{"name": "standard"}', UTC_ZONE)
    with pytest.raises(StoredFormError, match=r"^rule set standard@1: what is stored as its document is none"):
        rules.rules()
    policy = InForce("shop", "2", "0" * 64, "tallybook", '{"nonsense": 1}', UTC_ZONE)
    with pytest.raises(StoredFormError, match=r"^access policy shop@2: what is stored as its document is none"):
        decider_of(policy)
