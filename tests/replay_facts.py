"""Facts of a replay told in full: without the codes, rows and places of one run, so that two can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import numpy as np

from tallybook.adapters.archive.replay_columns import PARTS, SLOTS, Sort, Told
from tallybook.domain.events import Event
from tallybook.projections.columnar.facts import Facts, Gathering
from tallybook.projections.columnar.machine.layout import FACTS, NO_REF, NONE, UNKNOWN_ID, UNKNOWN_REF
from tallybook.projections.columnar.names import Names

Customer = tuple[frozenset[tuple[UUID, str]], list[dict[str, Any]]]
"""The accounts, with their programmes, and the rows."""


def all_in_full(parts: Iterable[Facts], names: Names) -> dict[UUID, Customer]:
    """What facts say that come in parts, by customer."""
    found: dict[UUID, Customer] = {}
    for facts in parts:
        found |= in_full(facts, names)
    return found


def in_full(facts: Facts, names: Names) -> dict[UUID, Customer]:
    """What facts say, by customer."""
    texts, tiers, ids = ({code: name for name, code in one.items()} for one in (names.texts, names.tiers, names.ids))

    def value(sort: Sort, number: int) -> Any:
        if sort is Sort.TEXT:
            return texts[number]
        if sort is Sort.TEXT_OR_NONE:
            return None if number == NONE else texts[number]
        if sort is Sort.TIER:
            return tiers[number]
        if sort is Sort.STRANGER:
            return ids[UNKNOWN_REF - (number - UNKNOWN_ID)]
        if sort in (Sort.ROW, Sort.LOT) and number <= UNKNOWN_REF:
            return ids[UNKNOWN_REF - number]
        if sort in (Sort.ROW, Sort.LOT) and number != NO_REF:
            return int(facts.position[number])
        return number

    def values(told: Told, numbers: list[int]) -> list[Any]:
        sorts = [sort for sort, _ in told]
        return [value(sort, number) for sort, number in zip(sorts, numbers, strict=False)] + numbers[len(sorts) :]

    found: dict[UUID, Customer] = {}
    for place, customer in enumerate(facts.customers):
        rows = []
        for row in range(facts.first[place], facts.first[place + 1]):
            kind = FACTS[facts.kind[row]]
            _, told = PARTS.get(kind, ("", ()))
            items = facts.items[facts.item[row] : facts.item[row + 1]].tolist()
            account = int(facts.account[row])
            rows.append(
                {
                    "kind": kind,
                    "position": int(facts.position[row]),
                    "at_us": int(facts.at_us[row]),
                    "account": facts.accounts[account][:2] if account >= 0 else None,
                    "slots": values(SLOTS.get(kind, ()), facts.slots[row].tolist()),
                    "items": [values(told, one) for one in items],
                    "traits": facts.traits[facts.trait[row]],
                    "channel": texts[int(facts.channel[row])],
                }
            )
        found[customer] = frozenset(one[:2] for one in facts.accounts if one[2] == place), rows
    assert facts.first[-1] == len(facts)
    assert facts.item[-1] == len(facts.items)
    for array in (facts.kind, facts.position, facts.at_us, facts.account, facts.slots, facts.item, facts.items):
        assert array.dtype == np.int64
        assert array.flags.c_contiguous or array.flags.f_contiguous
        assert array.flags.writeable
    for array in (facts.trait, facts.channel, facts.first):
        assert array.dtype == np.int64
    return found


def gathered(history: Iterable[tuple[int, Event]]) -> tuple[dict[UUID, Customer], list[tuple[int, Event]]]:
    """The same of a history, from its events; and what concerns all accounts."""
    names = Names()
    gathering = Gathering(names)
    for position, event in history:
        gathering.feed(position, event)
    return in_full(gathering.facts(), names), gathering.control
