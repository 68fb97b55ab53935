"""What a programme still owes for its points, by IFRS 15: the two inputs that people give, and the arithmetic.

A sale with points is a sale of two things. Part of the price is allocated to the points, and is revenue only when they
are redeemed: in proportion to the points redeemed of those that are expected to be, in the end. All points of a
programme are one pool. What it was in figures, and for which answers, is in docs/loyalty-liability.md.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, ClassVar
from uuid import NAMESPACE_OID, UUID, uuid5

from pydantic import Field

from . import arithmetic
from .aggregate import Aggregate, Appliers, Stamp
from .errors import refusal, whole
from .events import Code, Fact, Minor, stored
from .points import Count

MINOR_MAX = 10**15


@stored("liability.redemption_estimated")
class RedemptionEstimated(Fact):
    """Of `issued` points of a programme, `expected` are thought to be redeemed in the end, those that were included.

    It holds from its effective time on, in this proportion, also for what is issued later; until another one does, that
    lies later, or at the same time and was recorded later. `source` is who or what estimated, `reason` why.
    """

    programme: Code
    expected: Count
    issued: Annotated[int, Field(ge=1, le=2**62)]
    source: Code
    reason: Code


@stored("liability.price_allocated")
class PriceAllocated(Fact):
    """Of the price of all sales up to its effective time, so much is allocated to the points of a programme: in place
    of what the book reckons. What is sold later is reckoned again, and added.
    """

    programme: Code
    allocated_minor: Minor
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    source: Code
    reason: Code


def valuation_id(book_id: UUID, programme: str) -> UUID:
    """The stream of what people gave to value a programme's points."""
    return uuid5(NAMESPACE_OID, f"{book_id.hex}/valuation/{programme}")


def _told(valuation: Aggregate, event: Fact) -> None:
    """Nothing is remembered: figures are made from the log."""


class Valuation(Aggregate):
    """What people gave to value a programme's points."""

    APPLIERS: ClassVar[Appliers] = {RedemptionEstimated: _told, PriceAllocated: _told}

    def estimate(
        self, stamp: Stamp, programme: str, expected: int, issued: int, source: str, reason: str
    ) -> RedemptionEstimated:
        """Say how many of the points issued will be redeemed. Refuses: invalid_argument."""
        whole(issued, "issued", 1, 2**62)
        whole(expected, "expected", 0, 2**62)
        if expected > issued:
            raise refusal(
                "invalid_argument", f"expected: of {issued} points, no more can be redeemed.", argument="expected"
            )
        return self.record(
            RedemptionEstimated,
            stamp,
            None,
            programme=programme,
            expected=expected,
            issued=issued,
            source=source,
            reason=reason,
        )

    def allocate(
        self, stamp: Stamp, programme: str, allocated_minor: int, currency: str, source: str, reason: str
    ) -> PriceAllocated:
        """Say how much of the price of all sales so far is for points. Refuses: invalid_argument."""
        whole(allocated_minor, "allocated_minor", 0, MINOR_MAX)
        return self.record(
            PriceAllocated,
            stamp,
            None,
            programme=programme,
            allocated_minor=allocated_minor,
            currency=currency,
            source=source,
            reason=reason,
        )


def allocated(price_minor: int, goods_minor: int, points: int, point_price: Fraction) -> int:
    """What of a price is for points, by relative stand-alone selling prices, rounded half up, in minor units.

    `goods_minor` is what the goods cost by themselves, `point_price` what a point does.
    """
    worth = points * point_price.numerator
    whole_worth = goods_minor * point_price.denominator + worth
    return arithmetic.quotient(price_minor * worth, whole_worth, arithmetic.HALF_UP) if whole_worth else 0
