"""Texts and ids as integers, and decisions as words, as `machine` writes them."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from tallybook.domain.events import Decision, Value, plain

from .machine.layout import CODES, DECISIONS, NONE, UNKNOWN_ID, UNKNOWN_REF

Id = tuple[int, int]
"""An id among words: the position of a fact, and the number of a lot of it; a coupon that a tier granted; or an id that
is no fact's."""


class Names:
    """The codes of one run: of texts, of tiers (which are few), of ids that are no fact's."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {text: code for code, text in enumerate(CODES)}
        self.tiers: dict[str, int] = {}
        self.ids: dict[UUID, int] = {}

    def take_over(self, other: Names) -> None:
        """Give everything the codes that others gave it, before any is given here."""
        self.texts, self.tiers, self.ids = dict(other.texts), dict(other.tiers), dict(other.ids)

    def take_up(self, texts: Sequence[str], tiers: Sequence[str], ids: Sequence[UUID]) -> bool:
        """Give texts, tiers and ids their places as codes, if nothing has any but what the machine itself writes.
        Whether they were given."""
        if self.tiers or self.ids or len(self.texts) > len(CODES) or tuple(texts[: len(CODES)]) != CODES:
            return False
        self.texts = {text: code for code, text in enumerate(texts)}
        self.tiers = {tier: code for code, tier in enumerate(tiers)}
        self.ids = {other: number for number, other in enumerate(ids)}
        return True

    def text(self, text: str) -> int:
        """The code of a text."""
        return self.texts.setdefault(text, len(self.texts))

    def tier(self, tier: str) -> int:
        """The code of a tier."""
        return self.tiers.setdefault(tier, len(self.tiers))

    def reference(self, other: UUID) -> int:
        """An id that is no fact's, as a fact refers to it."""
        return UNKNOWN_REF - self.ids.setdefault(other, len(self.ids))

    def unknown(self, other: UUID) -> Id:
        """The same among words."""
        return UNKNOWN_ID + self.reference(other), 0


TIERS = {("loyalty.tier_changed", "previous"), ("loyalty.tier_changed", "tier"), ("loyalty.points_earned", "tier")}
"""Fields that hold the name of a tier."""
_KINDS = {name: number for number, name in enumerate(DECISIONS)}


def words_of(decision: Decision, names: Names, id_of: Callable[[UUID], Id], *, everything: bool = True) -> list[int]:
    """A decision as words. Without `everything`, the rule set and the rules that it names are left out."""
    words = [_KINDS[decision.stored_name], decision.effective_us]
    held = decision.__dict__
    for name in decision.clear_fields:
        if not everything and name in ("rules", "rule_ids"):
            continue
        code = names.tier if (decision.stored_name, name) in TIERS else names.text
        words.extend(_flat(held[name], type(decision).model_fields[name].annotation, code, id_of))
    return words


def _flat(value: Any, annotation: Any, code: Callable[[str], int], id_of: Callable[[UUID], Id]) -> Iterator[int]:
    annotation, optional = plain(annotation)
    if typing.get_origin(annotation) is tuple:
        item = typing.get_args(annotation)[0]
        yield len(value)
        for one in value:
            yield from _flat(one, item, code, id_of)
    elif isinstance(annotation, type) and issubclass(annotation, Value):
        if optional:
            yield 0 if value is None else 1
        if value is not None:
            for name, info in annotation.model_fields.items():
                yield from _flat(value.__dict__[name], info.annotation, code, id_of)
    elif annotation is UUID:
        yield from (NONE, 0) if value is None else id_of(value)
    elif value is None:
        yield NONE
    elif annotation is str:
        yield code(value)
    else:
        yield int(value)
