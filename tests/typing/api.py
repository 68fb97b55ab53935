"""Typed usage of the front door: must pass mypy --strict and basedpyright. Never run."""

from __future__ import annotations

from typing import assert_type
from uuid import UUID

import tallybook
from tallybook import Book, Follower, Line, Recorded, RuleSet
from tallybook.adapters.rows_check import ReadModelVerification
from tallybook.audit import TrailEntry, Verification
from tallybook.customers import PurchaseResult, ReturnResult
from tallybook.domain.events import Event
from tallybook.liability import Liability
from tallybook.loyalty import AccountView, RedemptionResult, SweepResult
from tallybook.projections.backtest import Backtest
from tallybook.projections.replay import Certificate
from tallybook.statements import Explanation, Statement
from tallybook.tickets import TicketView
from tallybook.views import Members, Membership, ProfileView


def synchronous(book: Book) -> None:
    with book.acting("agent:lin", purpose="support", channel="phone"):
        ada = book.customers.register(name="Ada Lovelace", email="ada@example.org", command_id="r-1")
        assert_type(ada, UUID)
        assert_type(book.customers.change(ada, name="Ada King", clear=["note"]), UUID)
        assert_type(book.loyalty.enrol(ada), UUID)
        bought = book.customers.record_purchase(ada, [Line(sku="a", quantity=1, net_minor=100)], order_id="A-1")
        assert_type(bought, PurchaseResult)
        assert_type(book.customers.record_return(ada, {1: 1}, order_id="A-1"), ReturnResult)
        assert_type(book.loyalty.redeem(ada, 50, reward="R1"), RedemptionResult)
        case = book.tickets.open(ada, subject="Parcel damaged", kind="complaint")
        assert_type(case, UUID)
        assert_type(book.tickets.get(case), TicketView)
        assert_type(book.profiles.get(ada, as_of="2025-12-31T23:59:59Z"), ProfileView)
        assert_type(book.audit.trail(ada), list[TrailEntry])
        assert_type(book.loyalty.sweep(), SweepResult)
    assert_type(book.tiers.members("gold"), Members)
    assert_type(book.tiers.members("gold")[0], Membership)
    assert_type(book.loyalty.balance(ada), int)
    assert_type(book.loyalty.account(ada), AccountView)
    statement = book.loyalty.statement(ada, start="2024-01-01", order="effective")
    assert_type(statement, Statement)
    assert_type(statement.csv(), str)
    assert_type(book.loyalty.explain(ada), Explanation)
    assert_type(book.loyalty.explain_account(ada), list[Explanation])
    assert_type(book.loyalty.estimate(90, 100, source="actuary", reason="year-end"), UUID)
    assert_type(book.loyalty.allocate(5_000, source="ledger", reason="takeover"), UUID)
    assert_type(book.loyalty.liability("main", at="2024-12-31"), Liability)
    assert_type(book.audit.verify(), list[Verification])
    assert_type(book.audit.verify_read_models(), list[ReadModelVerification])
    assert_type(book.replay(), Certificate)
    for recorded in book.follow(after=10, names=["customer.registered"], timeout_s=1.5):
        assert_type(recorded, Recorded)
        assert_type(recorded.position, int)
    assert_type(book.backtest("rules/candidate.toml"), Backtest)
    assert_type(book.backtest("rules/candidate.toml", unfunded="clamp", customers="accounts.parquet").html(), str)
    assert_type(book.rules.check("rules/candidate.toml"), RuleSet)


async def awaited() -> None:
    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="support"):
        ada = await book.customers.register.aio(name="Ada Lovelace")
        assert_type(ada, UUID)
        async with book.follow() as follower:
            assert_type(follower, Follower)
            assert_type(await anext(follower), Recorded)
            async for position, event in follower:
                assert_type((position, event), tuple[int, Event])
        assert_type(await book.loyalty.redeem.aio(ada, 50, reward="R1"), RedemptionResult)
