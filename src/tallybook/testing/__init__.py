"""For those who write adapters: `tallybook.testing.conformance` holds the suites that every store passes.

Needs the extra `testing`. Raises MissingExtra.
"""

from __future__ import annotations

from tallybook.domain.errors import MissingExtra

try:
    import pytest
except ModuleNotFoundError as error:
    if error.name != "pytest":
        raise
    raise MissingExtra("pytest", "testing") from None

# So that a check that fails shows both sides, as it does in a test file.
pytest.register_assert_rewrite("tallybook.testing.conformance")
