"""Tier membership with its history: who held which tier from when to when, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tallybook.domain.points import TierChanged

from .read_models import OPEN_END, Recorded, Rows, Table


class Tiers:
    """The read model of memberships. A row is closed by the decision that ends it, never changed otherwise."""

    name = "tiers"
    version = 1
    by_subject = True
    memberships = Table(
        "tier_memberships",
        (
            ("account", "blob"),
            ("from_position", "integer"),
            ("customer", "blob"),
            ("programme", "text"),
            ("tier", "text"),
            ("from_us", "integer"),
            ("to_us", "integer"),
            ("from_recorded_us", "integer"),
            ("to_position", "integer"),
            ("to_recorded_us", "integer"),
            ("reason", "text"),
            ("rules", "text"),
            ("qualifying", "integer"),
        ),
        ("account", "from_position"),
        (("customer",),),
    )
    current = Table("tier_current", (("account", "blob"), ("from_position", "integer")), ("account",))
    tables = (memberships, current)

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        """Fold events in order."""
        changes = [(position, event) for position, event in batch if isinstance(event, TierChanged)]
        accounts = {(event.originator_id.bytes,) for _, event in changes}
        rows.load(self.current, accounts)
        before = [rows.get(self.current, account) for account in accounts]
        rows.load(self.memberships, [row for row in before if row is not None])
        for position, event in changes:
            if event.subject_id is None:
                continue
            account = event.originator_id.bytes
            recorded_us = event.metadata.recorded_us
            current = rows.get(self.current, (account,))
            if current is not None:
                key = (account, current[1])
                row = rows.get(self.memberships, key)
                if row is not None:
                    rows.put(
                        self.memberships, key, (*row[:6], event.effective_us, row[7], position, recorded_us, *row[10:])
                    )
            rows.put(self.current, (account,), (account, position))
            rows.put(
                self.memberships,
                (account, position),
                (
                    account,
                    position,
                    event.subject_id.bytes,
                    event.programme,
                    event.tier,
                    event.effective_us,
                    OPEN_END,
                    recorded_us,
                    OPEN_END,
                    OPEN_END,
                    event.reason,
                    event.rules,
                    event.qualifying,
                ),
            )


def membership_filter(as_of_us: int, known_position: int | None, known_us: int | None) -> tuple[str, list[Any]]:
    """The rows in force at a moment, as the book knew them by a position or a recorded time (default: now)."""
    if known_position is not None:
        known, column = known_position, "position"
    elif known_us is not None:
        known, column = known_us, "recorded_us"
    else:
        known, column = OPEN_END - 1, "position"
    return (
        f"from_us<=? AND from_{column}<=? AND (to_us>? OR to_{column}>?)",
        [as_of_us, known, as_of_us, known],
    )
