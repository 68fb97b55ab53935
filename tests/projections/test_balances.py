"""The read model of balances, and what is asked of it, against the accounts themselves: folded or derived alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.programme_life import KINDS, MAIN, NOW, START, Life, Step, steps

import tallybook
from tallybook.domain.errors import NotFound
from tallybook.domain.loyalty import LoyaltyAccount, account_id
from tallybook.domain.points import BUCKETS, SOURCES, LoyaltyDecision
from tallybook.projections import projector as projector_module
from tallybook.projections.balances import Balances
from tallybook.projections.balances import open_lots as lots_of

A_BIT_OF_ALL: list[Step] = [
    (kind, number % 5, 9 if kind.startswith("buy") else 3, 90 + 37 * number % 200)
    for number, kind in enumerate([*KINDS[:5], "visit", "hold", "tea", "redeem", "take", "give", *KINDS] * 2)
    if kind not in ("close", "suspend")
]


def rows_of(life: Life) -> list[dict[str, Any]]:
    core = life.book._core
    core.catch_up(core.balances)
    names = [name for name, _ in Balances.table.columns]
    found = core.store.select(core.balances, Balances.table, ["*"], "1=1 ORDER BY lot, account")
    return [dict(zip(names, row, strict=True)) for row in found]


def accounts_of(life: Life, programme: str) -> list[LoyaltyAccount]:
    """The accounts as their streams fold."""
    found = [life.book._core.app.load(LoyaltyAccount, account_id(one, programme)) for one in life.customers]
    return [one for one in found if one.enrolled]


def test_the_steps_reach_every_kind_of_decision() -> None:
    life = Life().live(A_BIT_OF_ALL)
    seen = {event.stored_name for _, event in life.book._core.history() if isinstance(event, LoyaltyDecision)}
    life.close()
    assert {
        "loyalty.points_earned", "loyalty.points_activated", "loyalty.points_credited", "loyalty.points_redeemed",
        "loyalty.redemption_reversed", "loyalty.points_held", "loyalty.hold_released", "loyalty.points_expired",
        "loyalty.earning_reversed", "loyalty.points_transferred", "loyalty.points_corrected", "loyalty.lots_extended",
        "loyalty.coupon_issued", "loyalty.coupon_closed",
    } <= seen  # fmt: skip


@settings(max_examples=40, deadline=None, print_blob=True)
@given(what=steps)
def test_rows_are_what_the_moves_of_each_lot_add_up_to_and_what_the_accounts_hold(what: list[Step]) -> None:
    life = Life().live(what)
    rows = rows_of(life)
    # Lot by lot, from the log.
    moved: defaultdict[tuple[bytes, bytes], Counter[str]] = defaultdict(Counter)
    for _, event in life.book._core.history():
        if isinstance(event, LoyaltyDecision):
            for lot, source, target, points in event.moves():
                moved[event.originator_id.bytes, lot.bytes][source] -= points
                moved[event.originator_id.bytes, lot.bytes][target] += points
    for row in rows:
        signed = {name: -row[name] if name in SOURCES else row[name] for name in BUCKETS}
        assert signed == {name: moved[row["account"], row["lot"]][name] for name in BUCKETS}
        assert sum(signed.values()) == 0
    assert {key for key, sums in moved.items() if any(sums.values())} <= {(row["account"], row["lot"]) for row in rows}
    # Account by account, as the aggregate folds.
    for programme in ("main", "club"):
        for account in accounts_of(life, programme):
            mine = [row for row in rows if row["account"] == account.id.bytes]
            assert {name: sum(row[name] for row in mine) for name in BUCKETS} == {
                name: account.bucket(name) for name in BUCKETS
            }
            assert {(row["programme"], row["customer"]) for row in mine} <= {
                (programme, account.customer_id.bytes if account.customer_id else b"")
            }
            left = sorted(
                (row["earned_us"], row["expires_us"], row["pending"], row["active"], row["held"])
                for row in mine
                if row["pending"] + row["active"] + row["held"]
            )
            assert left == sorted(tuple(one)[2:7] for one in lots_of(account))
            assert max([account.enrolled_us, *(row["moved_us"] for row in mine)]) == account.moved_us
    life.close()


@settings(max_examples=25, deadline=None, print_blob=True)
@given(what=steps, days=st.integers(0, 420), data=st.data())
def test_a_programme_at_a_moment_is_the_sum_of_its_accounts_then(
    what: list[Step], days: int, data: st.DataObject
) -> None:
    life = Life().live(what)
    loyalty = life.book.loyalty
    at = START + timedelta(days=days)
    known = data.draw(st.integers(2, life.book.position()), label="known_at")
    for programme in ("main", "club"):
        views = []
        for customer in life.customers:
            with suppress(NotFound):  # not enrolled by then
                views.append(loyalty.account(customer, programme=programme, as_of=at, known_at=known))
        told = loyalty.balances(programme=programme, as_of=at, known_at=known)
        assert {name: getattr(told, name) for name in BUCKETS} == {
            name: sum(getattr(one, name) for one in views) for name in BUCKETS
        }
        outstanding = loyalty.outstanding(programme=programme, as_of=at, known_at=known)
        assert (outstanding.pending, outstanding.active, outstanding.held, outstanding.overdue) == (
            told.pending, told.active, told.held, 0,
        )  # fmt: skip
        by_tier: Counter[str] = Counter()
        for one in views:
            by_tier[one.tier or ""] += one.active + one.pending + one.held
        found: Counter[str] = Counter()
        for row in outstanding.rows:
            found[row.tier] += row.points
        assert found == +by_tier
    life.close()


@example(what=A_BIT_OF_ALL, ahead=60)
@settings(max_examples=25, deadline=None, print_blob=True)
@given(what=steps, ahead=st.integers(1, 200))
def test_what_is_told_to_expire_is_gone_then_if_nothing_happens(what: list[Step], ahead: int) -> None:
    """By expiry or inactivity, out of holds and pending too, whichever comes first."""
    life = Life().live(what)
    loyalty = life.book.loyalty
    loyalty.sweep(NOW)
    later = NOW + timedelta(days=ahead)
    for programme in ("main", "club"):
        before = loyalty.balances(programme=programme)
        after = loyalty.balances(programme=programme, as_of=later)
        told = loyalty.expiring(later, programme=programme)
        derived = loyalty.expiring(later, programme=programme, as_of=NOW)
        assert (told.customers, told.points, told.by_day) == (derived.customers, derived.points, derived.by_day)
        if not before.debt:
            assert told.points == after.expired - before.expired
        assert sum(told.by_day.values()) == sum(one.points for one in told) == told.points
        firsts = [one.first_at for one in told]
        assert firsts == sorted(firsts)
    life.close()


@example(what=A_BIT_OF_ALL)
@settings(max_examples=15, deadline=None, print_blob=True)
@given(what=steps)
def test_recorded_and_derived_agree_after_a_sweep(what: list[Step]) -> None:
    life = Life().live(what)
    loyalty = life.book.loyalty
    loyalty.sweep(NOW)
    for programme in ("main", "club"):
        recorded, derived = loyalty.balances(programme=programme), loyalty.balances(programme=programme, as_of=NOW)
        assert recorded == derived
        assert loyalty.outstanding(programme=programme) == loyalty.outstanding(programme=programme, as_of=NOW)
    life.close()


def test_what_no_sweep_recorded_is_overdue_and_in_no_row() -> None:
    life = Life(main={**MAIN, "inactivity_months": None})
    ada = life.member(0)
    life.step("buy", 0, 0, 100)
    told = life.book.loyalty.outstanding()
    assert (told.points, told.overdue, told.rows) == (0, 200, ())
    assert life.book.loyalty.balances().active == 200
    assert life.book.loyalty.balances().swept_until is None
    life.book.loyalty.sweep(NOW)
    told = life.book.loyalty.outstanding()
    assert (told.points, told.overdue) == (0, 0)
    assert (life.book.loyalty.balances().expired, life.book.loyalty.balances().swept_until) == (
        200,
        "2025-02-04T00:00:00Z",
    )
    assert life.book.loyalty.balance(ada) == 0
    life.close()


def test_outstanding_is_by_the_local_month_of_earning_and_the_tier() -> None:
    life = Life()
    ada, bob = life.member(0), life.member(1)
    buy = life.book.customers.record_purchase
    for customer, at, net in (
        (ada, "2024-12-31T22:59:00Z", 5_000),  # still December in Berlin
        (ada, "2024-12-31T23:00:00Z", 1_000),  # January
        (ada, "2025-01-10T12:00:00Z", 10_000),  # silver from here on
        (bob, "2025-01-20T12:00:00Z", 700),
    ):
        buy(customer, [{"sku": "s", "quantity": 1, "net_minor": net}], currency="EUR", effective_at=at)
    life.book.loyalty.record_activity(bob, "visit", effective_at="2025-01-25T12:00:00Z")
    life.book.loyalty.hold(ada, 20, effective_at="2025-01-30T12:00:00Z")
    told = life.book.loyalty.outstanding()
    assert [(one.earned_in, one.tier, one.pending, one.active, one.held) for one in told.rows] == [
        ("2024-12", "silver", 0, 30, 20),
        ("2025-01", "basic", 25, 7, 0),
        ("2025-01", "silver", 0, 110, 0),
    ]
    assert (told.zone, told.points, told.pending, told.active, told.held) == ("Europe/Berlin", 192, 25, 147, 20)
    life.close()


def test_what_expires_is_told_by_customer_and_by_the_last_day_to_spend_it() -> None:
    life = Life()
    ada, bob = life.member(0), life.member(1)
    for customer, at, net in ((ada, "2024-12-10T12:00:00Z", 5_000), (bob, "2025-01-10T12:00:00Z", 3_000)):
        lines = [{"sku": "s", "quantity": 1, "net_minor": net}]
        life.book.customers.record_purchase(customer, lines, currency="EUR", effective_at=at)
    expiring = life.book.loyalty.expiring
    # Three months to the end of the month, so midnight of 1 April in Berlin: the last day is 31 March.
    assert expiring("2025-03-30").points == 0
    told = expiring("2025-03-31")
    assert (told.points, dict(told.by_day)) == (50, {"2025-03-31": 50})
    [one] = told
    assert (one.customer_id, one.points, one.first_at, one.reason) == (ada, 50, "2025-03-31T22:00:00Z", "expiry")
    both = expiring("2025-04-30T22:00:00Z")
    assert (both.points, [one.customer_id for one in both]) == (80, [ada, bob])
    assert expiring("2025-04-30").customers == both.customers
    # Who must not be written to is left out, and his points are counted.
    life.book.customers.restrict(ada, reason="accuracy")
    told = expiring("2025-03-31")
    assert (len(told), told.restricted, told.objecting, told.points) == (0, 1, 0, 50)
    assert [one.customer_id for one in expiring("2025-03-31", everybody=True)] == [ada]
    life.close()


def test_inactivity_takes_points_that_never_expire() -> None:
    life = Life(main={**MAIN, "expiry": {"never": True}, "inactivity_months": 2})
    ada, bob = life.member(0), life.member(1)
    for customer, at in ((ada, "2024-12-20T12:00:00Z"), (bob, "2025-01-20T12:00:00Z")):
        lines = [{"sku": "s", "quantity": 1, "net_minor": 5_000}]
        life.book.customers.record_purchase(customer, lines, currency="EUR", effective_at=at)
    life.book.loyalty.redeem(ada, reward="mug", effective_at="2025-01-05T12:00:00Z")
    told = life.book.loyalty.expiring("2025-03-04")
    assert [(one.customer_id, one.points, one.first_at, one.reason) for one in told] == [
        (ada, 35, "2025-03-04T23:00:00Z", "inactivity")
    ]
    assert life.book.loyalty.expiring("2025-03-03").points == 0
    assert life.book.loyalty.expiring("2025-03-31").points == 85
    life.close()


def test_rows_of_a_bit_of_all_are_verified_and_the_same_however_they_come_about(
    book_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(book_url)
    book = life.book
    for number, step in enumerate(A_BIT_OF_ALL):
        life.live([step])
        if number % 3 == 0:
            book.projections.catch_up()
    live = rows_of(life)
    assert len(live) > 20
    assert {one.read_model: one.problem for one in book.audit.verify_read_models()}["balances"] is None
    for batch in (1, 7, 64):
        monkeypatch.setattr(projector_module, "BATCH", batch)
        book.projections.rebuild("balances")
        assert rows_of(life) == live
    book.projections.rebuild("balances", processes=2)
    assert rows_of(life) == live
    life.close()


def test_an_empty_book_and_an_unknown_programme_are_refused_and_an_empty_programme_has_zeros(tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        for ask in (book.loyalty.balances, book.loyalty.outstanding, lambda: book.loyalty.expiring("2025-01-01")):
            with pytest.raises(tallybook.Refused) as refused:
                ask()
            assert refused.value.code == "no_rule_set"
    life = Life()
    loyalty = life.book.loyalty
    for as_of in (None, NOW):
        told = loyalty.balances(as_of=as_of)
        assert {getattr(told, name) for name in BUCKETS} == {0}
        assert loyalty.outstanding(as_of=as_of).rows == ()
        assert (len(loyalty.expiring("2030-01-01", as_of=as_of)), loyalty.expiring("2030-01-01").points) == (0, 0)
    with pytest.raises(tallybook.Refused) as refused:
        loyalty.balances(programme="club2")
    assert refused.value.code == "no_rule_set"
    with pytest.raises(tallybook.Refused) as refused:
        loyalty.balances(as_of="2023-12-31")  # before the first rule set
    assert refused.value.code == "no_rule_set"
    life.close()


def test_an_erasure_changes_none_of_it() -> None:
    life = Life().live(A_BIT_OF_ALL)
    loyalty = life.book.loyalty

    def told() -> list[object]:
        return [
            ask(programme=programme, as_of=as_of)
            for programme in ("main", "club")
            for as_of in (None, START + timedelta(days=200))
            for ask in (loyalty.balances, loyalty.outstanding)
        ] + [loyalty.expiring("2026-01-01").points, loyalty.expiring("2026-01-01").by_day]

    before, rows = told(), rows_of(life)
    for customer in life.customers[:3]:
        life.book.erasures.erase(customer, reason="gdpr-17", even_so="subject-insists")
    assert (told(), rows_of(life)) == (before, rows)
    assert {one.read_model: one.problem for one in life.book.audit.verify_read_models()}["balances"] is None
    life.close()


def test_no_row_holds_a_personal_value() -> None:
    """Ids, a programme's name, times and points: nothing else has a place."""
    life = Life().live(A_BIT_OF_ALL)
    known = {one.bytes for one in life.customers}
    for row in rows_of(life):
        assert row["customer"] in known
        assert UUID(bytes=row["account"])
        assert row["programme"] in ("main", "club")
        assert all(isinstance(value, int) for name, value in row.items()
                   if name not in ("account", "lot", "customer", "programme"))  # fmt: skip
    life.close()
