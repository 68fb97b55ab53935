"""What a campaign tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .checks import Finding


@dataclass
class Life:
    """What happened to one book."""

    seed: str
    crashes: int = 0
    acknowledged: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, Finding]] = field(default_factory=list)

    def add(self, number: int, findings: Sequence[Finding], moment: str) -> None:
        """A crash, at what kind of moment, and what was found after it."""
        self.crashes = number
        self.moments[moment] += 1
        self.findings += [(number, finding) for finding in findings]
