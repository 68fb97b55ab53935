"""Stock of rewards: one stream for each counted reward, so that two can't take the last one."""

from __future__ import annotations

from typing import ClassVar
from uuid import NAMESPACE_OID, UUID, uuid5

from .aggregate import Aggregate, Appliers, Stamp, applies
from .copy_on_write import LayeredDict
from .errors import refusal, whole
from .events import Code, Fact, stored


@stored("reward.stocked")
class RewardStocked(Fact):
    """So many more of a reward are there; fewer, where `quantity` is below 0."""

    programme: Code
    reward: Code
    quantity: int
    reason: Code


@stored("reward.taken")
class RewardTaken(Fact):
    """One was taken for a redemption, or for a coupon that was given by hand (`redemption_id` is its id)."""

    redemption_id: UUID


@stored("reward.returned")
class RewardReturned(Fact):
    """One came back: the redemption was taken back, or the coupon voided."""

    redemption_id: UUID


def stock_id(book_id: UUID, programme: str, reward: str) -> UUID:
    """The stream of a reward's stock."""
    return uuid5(NAMESPACE_OID, f"{book_id.hex}/stock/{programme}/{reward}")


class Stock(Aggregate):
    """How many of a reward are there."""

    CONTAINERS = ("taken",)
    APPLIERS: ClassVar[Appliers] = {}

    there: int = 0
    taken: LayeredDict[UUID, int]
    """Redemptions that have one, each with how many were there before it."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(stream_id)
        self.taken = LayeredDict()

    def stock(self, stamp: Stamp, programme: str, reward: str, quantity: int, reason: str) -> RewardStocked:
        """Add to the stock, or take from it. Refuses: invalid_argument, out_of_stock."""
        whole(abs(quantity) if type(quantity) is int else quantity, "quantity")
        if self.there + quantity < 0:
            raise refusal("out_of_stock", f"{self.there} are there.", reward=reward, there=self.there)
        return self.record(
            RewardStocked, stamp, None, programme=programme, reward=reward, quantity=quantity, reason=reason
        )

    def take(self, stamp: Stamp, redemption_id: UUID) -> None:
        """One is taken. That there was one, the request has seen."""
        self.record(RewardTaken, stamp, None, redemption_id=redemption_id)

    def give_back(self, stamp: Stamp, redemption_id: UUID) -> None:
        """One is there again; nothing, if it is already."""
        if redemption_id in self.taken:
            self.record(RewardReturned, stamp, None, redemption_id=redemption_id)


@applies(Stock.APPLIERS, RewardStocked)
def _stocked(stock: Stock, event: RewardStocked) -> None:
    stock.there += event.quantity


@applies(Stock.APPLIERS, RewardTaken)
def _taken(stock: Stock, event: RewardTaken) -> None:
    stock.taken[event.redemption_id] = stock.there
    stock.there -= 1


@applies(Stock.APPLIERS, RewardReturned)
def _returned(stock: Stock, event: RewardReturned) -> None:
    stock.there += 1
    stock.taken.pop(event.redemption_id, None)
