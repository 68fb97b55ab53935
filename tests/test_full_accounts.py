"""Sums over many accounts that hold as much as one may: exact, though no database could add them up in 64 bits."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from tests.projections.conftest import Shop, at

from tallybook import Refused
from tallybook.commands import Desk, Work, command
from tallybook.domain.account import POINTS_MAX
from tallybook.domain.events import to_us
from tallybook.domain.points import NewLot, TransferReceived
from tallybook.times import When


class Planting(Desk):
    """Fills accounts as only years could."""

    _name = "loyalty"

    @command
    def plant(
        self, work: Work, customer: UUID, lots: int, *, effective_at: When | None = None, command_id: str | None = None
    ) -> None:
        parts = tuple(
            NewLot(lot_id=UUID(int=one), points=POINTS_MAX // lots, earned_us=0, expires_us=to_us(at("2030-01-01")))
            for one in range(lots)
        )
        work.enrolled_account(customer, "main").tell(
            TransferReceived, work.stamp, work.control(), transfer_id=customer, from_account=customer, lots=parts
        )


@pytest.fixture(params=["memory", "postgresql"])
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    opened = Shop("memory:" if request.param == "memory" else request.getfixturevalue("server_book_url"))
    yield opened
    opened.close()


def test_sums_over_full_accounts_are_exact(shop: Shop) -> None:
    book, members = shop.book, [shop.member() for _ in range(6)]
    planting = Planting(book._core)
    for number, member in enumerate(members):
        planting.plant(member, 1 + number % 2)
        shop.redeem(member, "2024-01-01", 7)
    came = 6 * POINTS_MAX
    assert came > 2**63
    for found in (book.loyalty.balances(), book.loyalty.balances(as_of=at("2024-01-01"))):
        assert (found.transferred_in, found.spent, found.active) == (came, 42, came - 42)
    outstanding = book.loyalty.outstanding()
    assert (outstanding.points, outstanding.active) == (came - 42, came - 42)
    expiring = book.loyalty.expiring(at("2031-01-01"))
    assert (expiring.points, sum(expiring.by_day.values())) == (came - 42, came - 42)
    with pytest.raises(Refused) as refused:
        book.loyalty.adjust(members[1], 1, reason="sorry")
    assert refused.value.code == "account_full"
    assert book.replay().holds


def test_a_debt_that_another_lot_has_paid_is_summed_with_its_sign(shop: Shop) -> None:
    ada = shop.member()
    bought = shop.buy(ada, "2020-02-01", 100_00)
    shop.redeem(ada, "2020-02-02", 80)
    shop.give_back(ada, "2020-02-03", bought, 1)
    shop.buy(ada, "2020-02-04", 50_00)
    # The debt of 80 stands on the first lot, and what was paid of it on the second.
    found = shop.book.loyalty.balances()
    assert (found.earned, found.spent, found.reversed, found.debt, found.active) == (150, 80, 100, 30, 0)
