"""Ledgers of what other engines got wrong, and of all that an account can do: tables that an accountant reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tallybook.adapters.rule_files import frozen_zone
from tallybook.domain.customer import Line
from tallybook.domain.errors import Refused
from tallybook.domain.points import EarningReversed
from tallybook.projections.replay import certify

if TYPE_CHECKING:
    from tests.domain.conftest import Ledger

NewLedger = Callable[..., "Ledger"]

FAR = {"window_months": 12, "levels": [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 10_000}]}
"""Tiers that nobody reaches here."""
FOREVER = {"never": True}
BASE = {"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100}
SILVER_GOLD = [
    {"name": "basic", "threshold": 0},
    {"name": "silver", "threshold": 100},
    {"name": "gold", "threshold": 300},
]


def ladder(**changes: Any) -> dict[str, Any]:
    return {"window_months": 12, "levels": SILVER_GOLD, **changes}


@pytest.fixture
def plays(new_ledger: NewLedger) -> Callable[..., Ledger]:
    """Plays a table under the standard rules with some parts replaced; what was recorded can be derived again."""

    def play(table: str, **changes: Any) -> Ledger:
        if "zone" in changes:
            changes["frozen"] = frozen_zone(changes["zone"])
        ledger = new_ledger(**{"tiers": FAR, **changes})
        ledger.plays(table)
        certificate = certify(ledger.world.history())
        assert certificate.holds, certificate.first
        return ledger

    return play


Plays = Callable[..., "Ledger"]

# ── bugs of others ────────────────────────────────────────────────────────────────────────────────────────────────


def test_debits_are_matched_to_lots_so_that_expiry_takes_only_what_is_left(plays: Plays) -> None:
    # FloCafe 78: debits that named no lot made the balance collapse when the lots expired.
    plays("""
        when        what            balance  debt  decided
        2020-01-10  enrol           0        0     basic
        2020-01-15  buy A 100       100      0     +100 until 2021-02-01
        2020-06-15  buy B 100       200      0     +100 until 2021-07-01
        2020-07-01  redeem 130 R    70       0     -130 (A 100 B 30)
        2021-02-01  sweep           70       0
        2021-07-01  sweep           0        0     expired 70 (B 70)
        2021-07-02  buy C 10        10       0     +10 until 2022-08-01
    """)


def test_a_loop_of_buying_spending_and_returning_farms_nothing(plays: Plays) -> None:
    # Odoo 257854, ERPNext 32951
    plays("""
        when        what          balance  debt  decided
        2020-01-01  enrol         0        0     basic
        2020-01-02  buy A 50      50       0     +50 until 2021-02-01
        2020-01-03  redeem 50 R   0        0     -50 (A 50)
        2020-01-04  return A      0        50    back 50 (debt 50)
        2020-01-05  buy B 50      0        0     +50 (debt 50) until 2021-02-01
        2020-01-06  return B      0        50    back 50 (debt 50)
        2020-01-07  unredeem R 50  0       0     again 50 (A 50) (debt 50)
        2020-01-08  redeem 1      0        0     refused 1 of 0
    """)


def test_a_capped_earning_that_is_returned_makes_no_room_for_another(plays: Plays) -> None:
    # Odoo 257854, ERPNext 32951: the loop under a daily cap.
    plays(
        """
        when              what         balance  debt  decided
        2020-01-01        enrol        0        0     basic
        2020-01-02        buy A 80     30       0     +30 until 2021-02-01
        2020-01-02 10:00  redeem 30    0        0     -30 (A 30)
        2020-01-02 11:00  return A     0        30    back 30 (debt 30)
        2020-01-02 12:00  buy B 80     0        30    +0 until 2021-02-01
        2020-01-03        buy C 80     0        0     +30 (debt 30) until 2021-02-01
    """,
        earning=[{**BASE, "caps": {"day": 30}}],
    )


def test_a_partial_refund_takes_its_part_once(plays: Plays) -> None:
    # Odoo 212922, 221928: a refund took the points twice; a partial one took all.
    plays("""
        when        what           balance  debt  decided
        2020-01-01  enrol          0        0     basic
        2020-01-02  buy A 60 30 10  100     0     +100 until 2021-02-01
        2020-01-03  return A 2x1   70       0     back 30 (A 30)
        2020-01-04  return A 1x1   10       0     back 60 (A 60)
        2020-01-05  return A 3x1   0        0     back 10 (A 10)
    """)


def test_cancel_redeem_and_earn_interleaved(plays: Plays) -> None:
    # nopCommerce 5595
    plays("""
        when        what           balance  debt  decided
        2020-01-01  enrol          0        0     basic
        2020-01-02  buy A 60 40    100      0     +100 until 2021-02-01
        2020-01-03  redeem 30 R    70       0     -30 (A 30)
        2020-01-04  return A 1x1   10       0     back 60 (A 60)
        2020-01-05  unredeem R 30  40       0     again 30 (A 30)
        2020-01-06  redeem 40 S    0        0     -40 (A 40)
        2020-01-07  return A 2x1   0        40    back 40 (debt 40)
        2020-01-08  buy B 25       0        15    +25 (debt 25) until 2021-02-01
        2020-01-09  unredeem S 40  25       0     again 40 (A 40) (debt 15)
    """)


def test_a_redemption_is_refunded_whose_lot_has_since_expired(plays: Plays) -> None:
    plays("""
        when        what           balance  debt  decided
        2020-01-01  enrol          0        0     basic
        2020-01-02  buy A 50       50       0     +50 until 2021-02-01
        2020-06-02  buy B 50       100      0     +50 until 2021-07-01
        2020-06-03  redeem 80 R    20       0     -80 (A 50 B 30)
        2021-03-01  unredeem R 80  50       0     again 80 (B 30 lapsed A 50)
        2021-07-01  sweep          0        0     expired 50 (B 50)
    """)


def test_a_redemption_is_refunded_into_a_new_lot_where_the_policy_says_so(plays: Plays) -> None:
    plays(
        """
        when        what           balance  debt  decided
        2020-01-01  enrol          0        0     basic
        2020-01-02  buy A 50       50       0     +50 until 2021-02-01
        2020-01-03  redeem 50 R    0        0     -50 (A 50)
        2021-03-01  unredeem R 20  20       0     again 20 (new until 2022-04-01)
        2021-03-02  unredeem R 90  50       0     again 30 (new until 2022-04-01)
        2021-03-03  unredeem R 1   50       0
    """,
        refunds={"redemption": "new_lot"},
    )


def test_month_ends(plays: Plays) -> None:
    plays(
        """
        when        what       balance  decided
        2020-01-01  enrol      0        basic
        2020-01-22  buy A 1    1        +1 until 2020-02-01
        2020-01-31  buy B 2    3        +2 until 2020-02-01
        2020-02-01  look       0
        2020-02-29  buy C 4    4        expired 3 (A 1 B 2) on 2020-02-01, +4 until 2020-03-01
    """,
        expiry={"months": 0, "until": "month_end"},
    )
    plays(
        """
        when        what       balance  decided
        2020-01-01  enrol      0        basic
        2020-01-31  buy A 1    1        +1 until 2020-02-29
        2020-02-29  buy B 2    2        expired 1 (A 1), +2 until 2020-03-29
        2020-12-31  buy C 4    4        expired 2 (B 2) on 2020-03-29, +4 until 2021-01-31
    """,
        expiry={"months": 1},
    )
    plays(
        """
        when        what       balance  decided
        2020-01-01  enrol      0        basic
        2020-07-06  buy A 1    1        +1 until 2021-08-01
    """,
        expiry={"months": 12, "until": "month_end"},
    )
    plays(
        """
        when        what       balance  decided
        2020-01-01  enrol      0        basic
        2020-01-01  buy A 1    1        +1 until 2021-01-01
        2020-12-31  buy B 1    2        +1 until 2021-01-01
        2021-01-01  buy C 1    1        expired 2 (A 1 B 1), +1 until 2022-01-01
    """,
        expiry={"months": 0, "until": "year_end"},
    )


def test_daylight_saving(plays: Plays) -> None:
    # 8 March 2020 has 23 hours in New York, 1 November 25: a day is a day of the wall clock.
    plays(
        """
        when              what       balance  decided
        2020-01-01        enrol      0        basic
        2020-03-07 17:00  buy A 1    1        +1 until 2020-03-08 16:00
        2020-03-08 16:00  look       0
        2020-10-31 16:00  buy B 2    2        expired 1 (A 1) on 2020-03-08 16:00, +2 until 2020-11-01 17:00
        2020-11-01 16:59  look       2
        2020-11-01 17:00  sweep      0        expired 2 (B 2)
        2021-03-13 07:30  buy C 4    4        +4 until 2021-03-14 07:30
    """,
        zone="America/New_York",
        expiry={"days": 1},
    )


def test_a_late_purchase_reopens_a_closed_tier_window_by_a_new_decision(plays: Plays) -> None:
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-05-01  buy A 120   120      silver  +120 for ever, silver
        2021-02-01  buy B 10    130      silver  +10 for ever
        2022-01-01  sweep       130      basic   basic
        2020-12-31  buy C 200   330      basic   +200 for ever
        2021-12-31  buy D 95    425      silver  +95 for ever, silver on 2022-01-01
    """,
        expiry=FOREVER,
        tiers={"window": "calendar_year", "levels": SILVER_GOLD},
    )


def test_proportional_reversals_round_to_what_was_earned(new_ledger: NewLedger) -> None:
    for pieces, cents, points in ((3, 1000, 10), (7, 9999, 99), (9, 100, 1), (4, 350, 3)):
        ledger = new_ledger()
        world = ledger.world
        world.enrol("2020-01-01")
        bought = world.buy_lines("2020-01-02", [Line(sku="a", quantity=pieces, net_minor=cents)])
        assert world.accounts["ada"].active == points
        for _ in range(pieces):
            world.give_back("2020-01-03", bought, {1: 1})
        back = [event.points for event in world.decisions() if isinstance(event, EarningReversed)]
        assert (sum(back), world.accounts["ada"].active, world.accounts["ada"].debt) == (points, 0, 0)
        assert max(back) - min(back) <= 1


# ── pending and activation ────────────────────────────────────────────────────────────────────────────────────────


def test_pending_points_become_active_by_time_though_recorded_late(plays: Plays) -> None:
    plays(
        """
        when        what        balance  pending  decided
        2020-01-01  enrol       0        0        basic
        2020-01-02  buy A 50    0        50       +50 pending to 2020-01-16 until 2021-02-01
        2020-01-15  redeem 50   0        50       refused 50 of 0
        2020-01-16  look        50       0
        2020-02-01  redeem 50   0        0        active A 50 on 2020-01-16, -50 (A 50)
    """,
        pending={"days": 14},
    )


def test_pending_points_become_active_when_that_is_confirmed(plays: Plays) -> None:
    plays(
        """
        when        what        balance  pending  decided
        2020-01-01  enrol       0        0        basic
        2020-01-02  buy A 50    0        50       +50 pending until 2021-02-01
        2020-01-03  buy B 20    0        70       +20 pending until 2021-02-01
        2020-06-01  confirm A   50       20       active A 50
        2020-06-02  confirm A   50       20
    """,
        pending={"confirmed": True},
    )


def test_points_whose_life_counts_from_activation_expire_from_then_on(plays: Plays) -> None:
    plays(
        """
        when        what        balance  pending  decided
        2020-01-01  enrol       0        0        basic
        2020-01-02  buy A 50    0        50       +50 pending for ever
        2020-06-01  confirm A   50       0        active A 50
        2020-06-30  look        50       0
        2020-07-01  sweep       0        0        expired 50 (A 50)
    """,
        pending={"confirmed": True},
        expiry={"days": 30, "from": "activated"},
    )


def test_pending_points_expire_where_their_time_is_over_before_they_are_confirmed(plays: Plays) -> None:
    plays(
        """
        when        what        balance  pending  decided
        2020-01-01  enrol       0        0        basic
        2020-01-02  buy A 50    0        50       +50 pending until 2020-02-01
        2020-02-02  confirm A   0        0        expired 50 (pending A 50) on 2020-02-01
        2020-02-03  return A    0        0        back 50 (forgiven 50)
    """,
        pending={"confirmed": True},
        expiry={"days": 30},
    )


def test_points_that_are_confirmed_together_keep_the_lives_that_their_rules_give(plays: Plays) -> None:
    plays(
        """
        when        what        balance  pending  decided
        2020-01-01  enrol       0        0        basic
        2020-01-02  buy A 50    0        60       +50 pending for ever, +10 pending for ever
        2020-01-10  confirm A   60       0        active A 50 A/1 10
        2020-01-15  look        50       0
        2020-02-09  look        0        0
    """,
        earning=[BASE, {"id": "quick", "kind": "fixed", "points": 10, "expiry": {"days": 5, "from": "activated"}}],
        pending={"confirmed": True},
        expiry={"days": 30, "from": "activated"},
    )


def test_a_debt_is_paid_when_points_become_active(plays: Plays) -> None:
    plays(
        """
        when        what            balance  pending  debt  decided
        2020-01-01  enrol           0        0        0     basic
        2020-01-02  adjust -30 debt  0       0        30    taken 30 (debt 30)
        2020-01-02  buy A 50        0        50       30    +50 pending to 2020-01-16 until 2021-02-01
        2020-01-16  sweep           20       0        0     active A 50 (debt 30)
    """,
        pending={"days": 14},
    )


# ── refund of an earning ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_refund_takes_pending_points_first(plays: Plays) -> None:
    plays(
        """
        when        what          balance  pending  debt  decided
        2020-01-01  enrol         0        0        0     basic
        2020-01-02  buy A 30 20   0        50       0     +50 pending to 2020-01-16 until 2021-02-01
        2020-01-03  return A 1x1  0        20       0     back 30 (pending 30)
        2020-01-16  sweep         20       0        0     active A 20
        2020-01-17  return A 2x1  0        0        0     back 20 (A 20)
    """,
        pending={"days": 14},
    )


def test_a_refund_takes_only_pending_points_where_the_policy_says_so(plays: Plays) -> None:
    plays(
        """
        when        what          balance  pending  debt  decided
        2020-01-01  enrol         0        0        0     basic
        2020-01-02  buy A 30 20   0        50       0     +50 pending to 2020-01-16 until 2021-02-01
        2020-01-03  return A 1x1  0        20       0     back 30 (pending 30)
        2020-01-17  return A 2x1  20       0        0     active A 20 on 2020-01-16, back 20 (forgiven 20)
    """,
        pending={"days": 14},
        refunds={"earning": "pending_only"},
    )


def test_a_fact_that_did_not_hold_is_withdrawn_whole_and_once(plays: Plays) -> None:
    plays(
        """
        when        what          balance  debt  decided
        2020-01-01  enrol         0        0     basic
        2020-01-02  visit F 3     30       0     +30 until 2021-02-01
        2020-01-03  redeem 12     18       0     -12 (F 12)
        2020-01-04  withdraw F    0        12    back 30 (F 18 debt 12)
        2020-01-05  withdraw F    0        12
    """,
        earning=[{"id": "miles", "kind": "per_amount", "on": "activity", "points": 10, "per_quantity": 1}],
    )


# ── holds ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hold_is_captured_in_part_and_the_rest_is_free(plays: Plays) -> None:
    plays("""
        when        what                  balance  held  decided
        2020-01-01  enrol                 0        0     basic
        2020-01-02  buy A 50              50       0     +50 until 2021-02-01
        2020-01-03  hold H 30 2020-02-01  20       30    held 30 (A 30) until 2020-02-01
        2020-01-04  redeem 30             20       30    refused 30 of 20
        2020-01-05  capture H 25 R        25       0     -25 (A 25), captured A 5
        2020-01-06  capture H 1           25       0     refused 1 of 0
        2020-01-07  unredeem R 25         50       0     again 25 (A 25)
    """)


def test_a_hold_is_released_by_hand_or_by_time_though_recorded_late(plays: Plays) -> None:
    plays("""
        when        what                  balance  held  decided
        2020-01-01  enrol                 0        0     basic
        2020-01-02  buy A 50              50       0     +50 until 2021-02-01
        2020-01-03  hold H 30 2020-02-01  20       30    held 30 (A 30) until 2020-02-01
        2020-01-04  release H             50       0     released A 30
        2020-01-04  release H             50       0
        2020-01-05  hold I 40 2020-02-01  10       40    held 40 (A 40) until 2020-02-01
        2020-01-06  hold J 20 2020-02-01  10       40    refused 20 of 10
        2020-03-01  redeem 50             0        0     expired A 40 on 2020-02-01, -50 (A 50)
    """)


def test_a_hold_never_outlives_its_lot(plays: Plays) -> None:
    plays("""
        when        what                  balance  held  decided
        2020-01-01  enrol                 0        0     basic
        2020-01-02  buy A 50              50       0     +50 until 2021-02-01
        2020-12-02  buy B 50              100      0     +50 until 2022-01-01
        2021-01-20  hold H 70 2021-06-01  30       70    held 70 (A 50 B 20) until 2021-02-01
        2021-01-31  look                  30       70
        2021-02-01  sweep                 50       0     expired A 50 B 20, expired 50 (A 50)
    """)


def test_what_a_return_could_not_take_from_a_hold_is_paid_when_the_hold_ends(plays: Plays) -> None:
    plays("""
        when        what                  balance  held  debt  decided
        2020-01-01  enrol                 0        0     0     basic
        2020-01-02  buy A 50              50       0     0     +50 until 2021-02-01
        2020-01-03  hold H 40 2020-02-01  10       40    0     held 40 (A 40) until 2020-02-01
        2020-01-04  return A              0        40    40    back 50 (A 10 debt 40)
        2020-01-05  capture H 15          0        0     15    -15 (A 15), captured A 25 (debt 25)
    """)


# ── by hand, and between accounts ─────────────────────────────────────────────────────────────────────────────────


def test_points_are_taken_by_hand_and_what_is_not_there_is_left_or_owed(plays: Plays) -> None:
    plays("""
        when        what            balance  debt  decided
        2020-01-01  enrol           0        0     basic
        2020-01-02  buy A 50        50       0     +50 until 2021-02-01
        2020-01-03  adjust -20      30       0     taken 20 (A 20)
        2020-01-04  adjust -40      0        0     taken 40 (A 30 missing 10)
        2020-01-05  adjust -40 debt  0       40    taken 40 (debt 40)
        2020-01-06  goodwill 60     20       0     +60 (debt 40) until 2021-02-01
    """)


def test_lots_live_longer_never_shorter(plays: Plays) -> None:
    plays("""
        when        what                   balance  decided
        2020-01-01  enrol                  0        basic
        2020-01-02  buy A 50               50       +50 until 2021-02-01
        2020-03-02  buy B 20               70       +20 until 2021-04-01
        2020-03-03  extend A 2021-06-01    70       extended until 2021-06-01
        2020-03-04  extend all 2021-05-01  70       extended until 2021-05-01
        2020-03-05  extend all 2021-04-01  70
        2020-03-06  redeem 30              40       -30 (B 20 A 10)
        2021-06-01  sweep                  0        expired 40 (A 40)
    """)


def test_an_extension_reaches_what_is_held(plays: Plays) -> None:
    plays("""
        when        what                    balance  held  decided
        2020-01-01  enrol                   0        0     basic
        2020-01-02  buy A 50                50       0     +50 until 2021-02-01
        2020-01-03  hold H 50 2021-03-01    0        50    held 50 (A 50) until 2021-02-01
        2020-01-04  extend all 2021-06-01   0        50    extended until 2021-06-01
        2021-02-01  sweep                   50       0     expired A 50
        2021-06-01  sweep                   0        0     expired 50 (A 50)
    """)


def test_expired_points_are_reinstated_and_no_more_than_expired(plays: Plays) -> None:
    plays("""
        when        what                     balance  decided
        2020-01-01  enrol                    0        basic
        2020-01-02  buy A 50                 50       +50 until 2021-02-01
        2020-01-03  reinstate 10 2021-06-01  50
        2021-02-01  sweep                    0        expired 50 (A 50)
        2021-02-02  reinstate 30 2021-06-01  30       +30 of A 30 until 2021-06-01
        2021-02-03  reinstate 30 2021-07-01  50       +20 of A 20 until 2021-07-01
        2021-02-04  reinstate 30 2021-07-01  50
    """)


def test_a_transfer_conserves_points_and_their_ages(new_ledger: NewLedger) -> None:
    ledger = new_ledger(tiers=FAR, transfers={"allowed": True})
    ledger.world.enrol("2020-01-01", name="bob")
    ledger.plays("""
        when        what             balance  decided
        2020-01-01  enrol            0        basic
        2020-01-02  buy A 50         50       +50 until 2021-02-01
        2020-03-02  buy B 50         100      +50 until 2021-04-01
        2020-03-03  transfer 70 bob  30       sent 70 (A 50 B 20)
        2020-03-04  transfer 40 bob  30       refused 40 of 30
    """)
    ada, bob = (ledger.world.accounts[name] for name in ("ada", "bob"))
    assert (ada.transferred_out, bob.transferred_in, bob.active) == (70, 70, 70)
    known = ada.known
    assert [(lot.points, lot.earned_us, lot.expires_us) for lot in bob.lots] == [
        (points, known[ledger.world.purchases[ref]].earned_us, known[ledger.world.purchases[ref]].expires_us)
        for ref, points in (("A", 50), ("B", 20))
    ]
    assert ledger.world.look("2021-02-01", "bob").active == 20
    assert certify(ledger.world.history()).holds


def test_no_transfer_where_the_rules_allow_none(new_ledger: NewLedger) -> None:
    ledger = new_ledger(tiers=FAR)
    ledger.world.enrol("2020-01-01", name="bob")
    ledger.plays("""
        when        what             balance  decided
        2020-01-01  enrol            0        basic
        2020-01-02  buy A 50         50       +50 until 2021-02-01
        2020-03-03  transfer 10 bob  50       refused 10 of 50 transfers_not_allowed
    """)
    assert ledger.world.accounts["bob"].active == 0


# ── expiry by inactivity ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_account_that_rests_for_too_long_loses_all_its_points(plays: Plays) -> None:
    plays(
        """
        when              what          balance  decided
        2020-01-01        enrol         0        basic
        2020-01-31 15:00  buy A 50      50       +50 for ever
        2020-04-29        look          50
        2020-04-30        look          0
        2020-05-15        buy B 10      10       expired 50 (A 50) inactivity on 2020-04-30, +10 for ever
        2020-08-14        redeem 4      6        -4 (B 4)
        2020-11-13        look          6
        2020-11-14        look          0
    """,
        expiry=FOREVER,
        inactivity_months=3,
    )


def test_points_that_come_to_an_account_that_rested_stay_as_long_as_any_others(plays: Plays) -> None:
    plays(
        """
        when        what            balance  decided
        2020-01-01  enrol           0        basic
        2020-01-02  buy A 50        50       +50 for ever
        2020-01-03  redeem 50 R     0        -50 (A 50)
        2020-05-05  goodwill 5      5        +5 for ever
        2020-07-05  unredeem R 20   25       again 20 (A 20)
        2020-10-04  look            25
        2020-10-05  sweep           0        expired 25 (A 20 goodwill 5) inactivity
        2020-12-05  reinstate 3 2022-01-01  3  +3 of A 3 until 2022-01-01
        2021-03-04  look            3
        2021-03-05  look            0
    """,
        expiry=FOREVER,
        inactivity_months=3,
    )


def test_an_account_that_rests_loses_what_is_held_too(plays: Plays) -> None:
    plays(
        """
        when        what                  balance  held  debt  decided
        2020-01-01  enrol                 0        0     0     basic
        2020-01-02  buy A 50              50       0     0     +50 for ever
        2020-01-03  hold H 30 2021-01-01  20       30    0     held 30 (A 30) until 2021-01-01
        2020-04-02  sweep                 0        0     0     inactivity A 30, expired 50 (A 50) inactivity
        2020-06-02  buy B 40              40       0     0     +40 for ever
        2020-06-03  hold I 40 2021-01-01  0        40    0     held 40 (B 40) until 2021-01-01
        2020-06-04  return B              0        40    40    back 40 (debt 40)
        2020-12-01  look                  0        0     0
        2020-12-01  sweep                 0        0     0     inactivity B 40 (debt 40) on 2020-09-02
    """,
        expiry=FOREVER,
        inactivity_months=3,
    )


# ── what comes back ───────────────────────────────────────────────────────────────────────────────────────────────

WITHIN = {"earning": "within_balance"}


def test_points_that_were_held_while_their_purchase_went_back_go_when_they_are_free(plays: Plays) -> None:
    ledger = plays(
        """
        when        what                   balance  held  decided
        2020-01-01  enrol                  0        0     basic
        2020-01-02  buy A 60 40            100      0     +100 until 2021-02-01
        2020-01-03  hold H 90 2020-06-01   10       90    held 90 (A 90) until 2020-06-01
        2020-01-04  return A 1x1           0        90    back 60 (A 10 forgiven 50)
        2020-01-05  release H              40       0     released reversed A 50 A 40
        2020-01-06  return A 2x1           0        0     back 40 (A 40)
    """,
        refunds=WITHIN,
    )
    account = ledger.world.accounts["ada"]
    assert (account.reversed, account.forgiven) == (100, 0)


def test_points_that_were_spent_while_their_purchase_went_back_go_when_they_return(plays: Plays) -> None:
    ledger = plays(
        """
        when        what            balance  decided
        2020-01-01  enrol           0        basic
        2020-01-02  buy A 100       100      +100 until 2021-02-01
        2020-01-03  goodwill 30     130      +30 until 2021-02-01
        2020-01-04  redeem 120 R    10       -120 (A 100 goodwill 20)
        2020-01-05  return A        0        back 100 (goodwill 10 forgiven 90)
        2020-01-06  unredeem R 50   20       again 50 (reversed A 30 goodwill 20)
        2020-01-07  unredeem R 70   30       again 70 (reversed A 60 A 10)
    """,
        refunds=WITHIN,
    )
    account = ledger.world.accounts["ada"]
    # 130 came; 100 of them for a purchase that went back.
    assert (account.active, account.reversed, account.forgiven) == (30, 100, 0)


def test_a_new_lot_holds_only_what_no_return_is_owed(plays: Plays) -> None:
    plays(
        """
        when        what            balance  decided
        2020-01-01  enrol           0        basic
        2020-01-02  buy A 100       100      +100 until 2021-02-01
        2020-01-04  redeem 70 R     30       -70 (A 70)
        2020-01-04  redeem 20 S     10       -20 (A 20)
        2020-01-05  return A        0        back 100 (A 10 forgiven 90)
        2020-01-06  unredeem R 70   0        again 70 (reversed A 70)
        2020-01-07  unredeem S 20   0        again 20 (reversed A 20)
    """,
        refunds={**WITHIN, "redemption": "new_lot"},
    )


def test_points_of_lots_that_are_over_pay_a_debt_before_they_lapse(plays: Plays) -> None:
    plays(
        """
        when        what            balance  debt  decided
        2020-01-01  enrol           0        0     basic
        2020-01-02  buy A 100       100      0     +100 until 2021-02-01
        2020-12-02  buy B 30        130      0     +30 until 2022-01-01
        2020-12-04  redeem 130 R    0        0     -130 (A 100 B 30)
        2020-12-05  return B        0        30    back 30 (debt 30)
        2021-03-01  unredeem R 130  30       0     again 130 (A 30 B 30 lapsed A 70) (debt 30)
    """,
    )


def test_points_that_were_given_back_after_their_expiry_go_with_their_purchase(plays: Plays) -> None:
    ledger = plays(
        """
        when        what                      balance  decided
        2020-01-01  enrol                     0        basic
        2020-01-02  buy A 100                 100      +100 until 2021-02-01
        2020-02-02  buy B 50                  150      +50 until 2021-03-01
        2021-02-01  sweep                     50       expired 100 (A 100)
        2021-03-01  sweep                     0        expired 50 (B 50)
        2021-04-02  reinstate 120 2022-01-01  120      +120 of B 50 A 70 until 2022-01-01
        2021-04-03  return A                  50       back 100 (goodwill 70 forgiven 30)
        2021-04-04  return B                  0        back 50 (goodwill 50)
        2021-04-05  reinstate 30 2022-01-01   0
    """,
    )
    assert (ledger.world.accounts["ada"].forgiven, ledger.world.accounts["ada"].debt) == (30, 0)


def test_what_is_given_back_had_expired_by_then(plays: Plays) -> None:
    plays("""
        when        what                     balance  decided
        2020-01-01  enrol                    0        basic
        2020-01-02  buy A 100                100      +100 until 2021-02-01
        2020-02-02  buy B 50                 150      +50 until 2021-03-01
        2021-04-01  sweep                    0        expired 100 (A 100) on 2021-02-01, expired 50 (B 50) on 2021-03-01
        2021-02-10  reinstate 120 2022-01-01  100     +100 of A 100 until 2022-01-01
    """)


@pytest.mark.parametrize(
    "what",
    ["confirm A", "withdraw A", "release H", "capture H 10", "unredeem R 5", "extend A 2030-01-01"],
)
def test_a_fact_can_not_lie_before_what_it_answers(new_ledger: NewLedger, what: str) -> None:
    ledger = new_ledger(tiers=FAR)
    ledger.plays("""
        when        what                   balance  decided
        2020-01-01  enrol                  0        basic
        2020-01-05  buy A 100              100      +100 until 2021-02-01
        2020-01-05  hold H 10 2020-06-01   90       held 10 (A 10) until 2020-06-01
        2020-01-05  redeem 10 R            80       -10 (A 10)
    """)
    with pytest.raises(Refused) as early:
        ledger._after("2020-01-04", what)
    assert early.value.code == "effective_too_early"
    ledger._after("2020-01-05", what)


def test_the_rounding_of_parts_leaves_the_customer_nothing_of_many_small_ones(new_ledger: NewLedger) -> None:
    world = new_ledger(tiers=FAR).world
    world.enrol("2020-01-01")
    bought = [world.buy_lines("2020-01-02", [Line(sku="a", quantity=100, net_minor=100)]) for _ in range(50)]
    assert world.accounts["ada"].active == 50
    for purchase in bought:
        world.give_back("2020-01-03", purchase, {1: 99})
    assert world.accounts["ada"].active == 0


def test_pending_points_go_with_an_account_that_rests(plays: Plays) -> None:
    plays(
        """
        when        what       balance  pending  decided
        2020-01-01  enrol      0        0        basic
        2020-01-02  buy A 50   0        50       +50 pending for ever
        2020-04-02  sweep      0        0        expired 50 (pending A 50) inactivity
        2020-04-03  confirm A  0        0
    """,
        expiry=FOREVER,
        pending={"confirmed": True},
        inactivity_months=3,
    )


# ── tiers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_points_of_a_calendar_year_hold_a_tier_until_the_end_of_the_next(plays: Plays) -> None:
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-12-31  buy A 300   300      gold    +300 for ever, gold
        2021-06-01  buy B 150   450      gold    +150 for ever
        2021-12-31  look        450      gold
        2022-01-01  sweep       450      silver  silver
        2022-12-31  look        450      silver
        2023-01-01  sweep       450      basic   basic
    """,
        expiry=FOREVER,
        tiers={"window": "calendar_year", "levels": SILVER_GOLD},
    )


def test_points_of_a_membership_year_count_from_the_day_of_enrolment(plays: Plays) -> None:
    plays(
        """
        when              what        balance  tier    decided
        2020-02-29 12:00  enrol       0        basic   basic
        2021-02-27        buy A 60    60       basic   +60 for ever
        2021-02-28        buy B 60    120      basic   +60 for ever
        2021-03-01        buy C 40    160      silver  +40 for ever, silver
        2023-02-27 23:59  look        160      silver
        2023-02-28        sweep       160      basic   basic
    """,
        expiry=FOREVER,
        tiers={"window": "membership_year", "levels": SILVER_GOLD},
    )


def test_a_lifetime_tier_is_lost_by_a_return_alone(plays: Plays) -> None:
    plays(
        """
        when        what            balance  tier    decided
        2020-01-01  enrol           0        basic   basic
        2020-01-02  buy A 100 200   300      gold    +300 until 2021-02-01, gold
        2030-01-01  sweep           0        gold    expired 300 (A 300) on 2021-02-01
        2030-01-02  return A 1x1    0        silver  back 100 (forgiven 100), silver
    """,
        tiers={"window": "lifetime", "levels": SILVER_GOLD},
    )


def test_a_tier_goes_down_one_step_at_a_time(plays: Plays) -> None:
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-03-01  buy A 300   300      gold    +300 for ever, gold
        2022-06-01  sweep       300      silver  silver on 2022-01-01
        2023-01-01  sweep       300      basic   basic
    """,
        expiry=FOREVER,
        tiers={"window": "calendar_year", "downgrade": "one_step", "levels": SILVER_GOLD},
    )


def test_a_tier_that_is_never_lost_stays(plays: Plays) -> None:
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-03-01  buy A 300   300      gold    +300 for ever, gold
        2030-01-01  sweep       300      gold
    """,
        expiry=FOREVER,
        tiers=ladder(downgrade="never"),
    )


def test_a_tier_is_kept_with_less_than_it_was_reached_with(plays: Plays) -> None:
    levels = [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 100, "keep": 40}]
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-02-01  buy A 60    60       basic   +60 for ever
        2020-05-01  buy B 40    100      silver  +40 for ever, silver
        2021-02-01  sweep       100      silver
        2021-05-01  sweep       100      basic   basic
        2021-05-02  buy C 40    140      basic   +40 for ever
    """,
        expiry=FOREVER,
        tiers=ladder(levels=levels),
    )


def test_grace_begins_anew_where_the_tier_was_warranted_meanwhile(plays: Plays) -> None:
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-01-10  buy A 60    60       basic   +60 for ever
        2020-01-20  buy B 60    120      silver  +60 for ever, silver
        2020-02-15  buy C 50    170      silver  +50 for ever
        2020-03-11  look        170      silver
        2020-03-19  look        170      silver
        2020-04-20  sweep       170      basic   basic on 2020-03-20
    """,
        expiry=FOREVER,
        tiers=ladder(window="rolling", window_months=1, grace_days=29, levels=SILVER_GOLD[:2]),
    )


def test_grace_counts_from_the_last_time_that_the_tier_was_not_earned(plays: Plays) -> None:
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-02-01  buy A 60    60       basic   +60 for ever
        2020-02-20  buy B 40    100      silver  +40 for ever, silver
        2021-02-10  buy C 60    160      silver  +60 for ever
        2021-02-20  look        160      silver
        2021-03-01  look        160      silver
        2021-03-02  sweep       160      basic   basic
    """,
        expiry=FOREVER,
        tiers=ladder(grace_days=10),
    )


def test_a_tier_is_held_for_its_months_and_lands_softly(plays: Plays) -> None:
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-01-15  buy A 300   300      gold    +300 for ever, gold
        2020-02-15  look        300      gold
        2020-07-15  sweep       300      silver  silver
        2021-01-14  look        300      silver
        2021-01-15  sweep       300      basic   basic
    """,
        expiry=FOREVER,
        tiers=ladder(window_months=1, hold_months=6, downgrade="one_step"),
    )


def test_a_tier_by_the_balance_follows_it(plays: Plays) -> None:
    plays(
        """
        when        what          balance  tier    decided
        2020-01-01  enrol         0        basic   basic
        2020-01-02  buy A 120     120      silver  +120 until 2021-02-01, silver
        2020-01-03  redeem 30 R   90       basic   -30 (A 30), basic
        2020-01-04  unredeem R 30  120     silver  again 30 (A 30), silver
        2020-01-05  goodwill 200  320      gold    +200 until 2021-02-01, gold
        2021-02-01  sweep         0        basic   expired 320 (A 120 goodwill 200), basic
    """,
        tiers={"window": "lifetime", "basis": "balance", "levels": SILVER_GOLD},
    )


def test_an_override_ends_and_the_rules_decide_again(plays: Plays) -> None:
    plays(
        """
        when        what                      balance  tier    decided
        2020-01-01  enrol                     0        basic   basic
        2020-01-02  override gold 2020-06-01  0        gold    gold
        2020-01-03  buy A 120                 120      gold    +120 for ever
        2020-05-31  look                      120      gold
        2020-07-01  sweep                     120      silver  silver on 2020-06-01
        2020-07-02  override gold 2021-01-01  120      gold    gold
        2020-07-03  lift                      120      silver  silver
    """,
        expiry=FOREVER,
        tiers=ladder(),
    )


def test_a_late_override_counts_from_the_accounts_clock_on(plays: Plays) -> None:
    plays(
        """
        when        what                      balance  tier    decided
        2020-01-01  enrol                     0        basic   basic
        2020-03-01  buy A 10                  10       basic   +10 for ever
        2020-02-01  override gold 2020-06-01  10       gold    gold on 2020-03-01
        2020-02-02  override silver 2020-02-20  10     gold
    """,
        expiry=FOREVER,
        tiers=ladder(),
    )


def test_a_lifted_override_still_meets_what_is_told_later_of_its_time(plays: Plays) -> None:
    plays(
        """
        when        what                       balance  tier    decided
        2020-01-01  enrol                      0        basic   basic
        2020-01-02  override basic 2020-06-01  0        basic
        2020-05-01  lift                       0        basic
        2020-03-01  buy A 120                  120      basic   +120 for ever
        2020-05-02  look                       120      silver
        2020-05-03  sweep                      120      silver  silver on 2020-05-01
    """,
        expiry=FOREVER,
        tiers=ladder(),
    )


def test_a_return_of_what_left_the_window_leaves_the_tier_to_its_grace(plays: Plays) -> None:
    rolling = ladder(window="rolling", window_months=1, grace_days=60)
    plays(
        """
        when        what      balance  tier    decided
        2020-01-01  enrol     0        basic   basic
        2020-01-02  buy A 90  90       basic   +90 for ever
        2020-01-20  buy B 60  150      silver  +60 for ever, silver
        2020-02-10  return A  60       silver  back 90 (A 90)
        2020-04-01  look      60       silver
        2020-04-20  sweep     60       basic   basic on 2020-04-02
    """,
        expiry=FOREVER,
        tiers=rolling,
    )
    plays(
        """
        when        what       balance  tier    decided
        2020-01-01  enrol      0        basic   basic
        2020-01-02  buy A 120  120      silver  +120 for ever, silver
        2020-01-20  return A   0        basic   back 120 (A 120), basic
    """,
        expiry=FOREVER,
        tiers=rolling,
    )


def test_a_return_of_what_never_qualified_leaves_the_tier(plays: Plays) -> None:
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-01-02  buy A 100   200      silver  +200 for ever, silver
        2021-06-01  visit V 1   205      silver  +5 for ever
        2021-06-02  withdraw V  200      silver  back 5 (V 5)
    """,
        expiry=FOREVER,
        earning=[
            {**BASE, "points": 2},
            {"id": "visit", "kind": "fixed", "on": "activity", "points": 5, "gives": "points"},
        ],
        tiers=ladder(downgrade="never", levels=[SILVER_GOLD[0], SILVER_GOLD[1]]),
    )


# ── earning ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_caps_of_a_day_a_month_and_a_year(plays: Plays) -> None:
    plays(
        """
        when              what       balance  decided
        2020-01-01        enrol      0        basic
        2020-01-30 10:00  buy A 80   50       +50 for ever
        2020-01-30 23:59  buy B 80   60       +10 for ever
        2020-01-31        buy C 80   100      +40 for ever
        2020-02-01        buy D 80   150      +50 for ever
        2020-02-02        buy E 80   170      +20 for ever
        2021-01-01        buy F 80   220      +50 for ever
    """,
        expiry=FOREVER,
        earning=[{**BASE, "caps": {"event": 50, "day": 60, "month": 100}}],
        caps={"year": 170},
    )


def test_best_first_and_sum(plays: Plays) -> None:
    rules = [
        {**BASE, "group": "one"},
        {"id": "flat", "kind": "fixed", "points": 30, "group": "one"},
        {"id": "extra", "kind": "fixed", "points": 5},
    ]
    for how, first, second in (("best", 35, 105), ("first", 15, 105)):
        plays(
            f"""
            when        what       balance  decided
            2020-01-01  enrol      0        basic
            2020-01-02  buy A 10   {first:<7}  +{first} for ever
            2020-01-03  buy B 100  {first + second:<7}  +{second} for ever
        """,
            expiry=FOREVER,
            earning=rules,
            groups={"one": how},
        )


def test_multipliers_the_greatest_counts_and_a_tiers_comes_on_top(plays: Plays) -> None:
    levels = [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 100, "multiplier": "3/2"}]
    plays(
        """
        when        what       balance  tier    decided
        2020-01-01  enrol      0        basic   basic
        2020-01-02  buy A 50   100      silver  +100 for ever, silver
        2020-01-03  buy B 33   199      silver  +99 for ever
        2020-03-01  buy C 33   273      silver  +74 for ever
    """,
        expiry=FOREVER,
        earning=[
            BASE,
            {"id": "double", "kind": "multiplier", "factor": "2", "ends": "2020-02-29"},
            {"id": "half", "kind": "multiplier", "factor": "3/2"},
        ],
        tiers=ladder(levels=levels),
    )


def test_lines_that_are_excluded_earn_nothing_and_take_nothing_back(new_ledger: NewLedger) -> None:
    ledger = new_ledger(tiers=FAR, amount={"include": ["net", "tax"], "exclude": 'line.category == "gift"'})
    world = ledger.world
    world.enrol("2020-01-01")
    lines = [
        Line(sku="card", quantity=1, net_minor=5000, category="gift"),
        Line(sku="book", quantity=2, net_minor=2000, tax_minor=400, category="book"),
    ]
    bought = world.buy_lines("2020-01-02", lines)
    balances = [world.accounts["ada"].active]
    for line in (1, 2, 2):
        world.give_back("2020-01-03", bought, {line: 1})
        balances.append(world.accounts["ada"].active)
    assert balances == [24, 24, 12, 0]


# ── limits, suspended, closed ─────────────────────────────────────────────────────────────────────────────────────


def test_limits_of_earning_and_redemption(plays: Plays) -> None:
    plays(
        """
        when        what       balance  decided
        2020-01-01  enrol      0        basic
        2020-01-02  buy A 90   90       +90 until 2021-02-01
        2020-01-02  buy B 20   90       no +20 limit_exceeded
        2020-01-03  redeem 10  80       -10 (A 10)
        2020-01-03  redeem 10  70       -10 (A 10)
        2020-01-31  redeem 10  70       refused 10 of 70 limit_exceeded
        2020-02-01  redeem 10  60       -10 (A 10)
    """,
        limits=[{"on": "earn", "period": "day", "points": 100}, {"on": "redeem", "period": "month", "count": 2}],
    )


def test_a_suspended_account_earns_and_spends_nothing_and_time_goes_on(plays: Plays) -> None:
    plays("""
        when        what                  balance  status     decided
        2020-01-01  enrol                 0        open       basic
        2020-01-02  buy A 50              50       open       +50 until 2021-02-01
        2020-01-03  suspend               50       suspended
        2020-01-04  buy B 50              50       suspended  no +50 account_suspended
        2020-01-05  redeem 10             50       suspended  refused 10 of 50 account_suspended
        2020-01-05  hold H 10 2020-03-01  50       suspended  refused 10 of 50 account_suspended
        2020-01-06  return A              0        suspended  back 50 (A 50)
        2020-01-07  resume                0        open
        2020-01-08  buy C 5               5        open       +5 until 2021-02-01
    """)


def test_a_closed_account_keeps_nothing(plays: Plays) -> None:
    plays("""
        when        what                  balance  held  status  decided
        2020-01-01  enrol                 0        0     open    basic
        2020-01-02  buy A 50              50       0     open    +50 until 2021-02-01
        2020-01-03  hold H 20 2020-03-01  30       20    open    held 20 (A 20) until 2020-03-01
        2020-01-04  close                 0        0     closed  closed A 20, expired 50 (A 50) closed
        2020-01-05  buy B 50              0        0     closed
    """)


# ── rewards, coupons, referrals ───────────────────────────────────────────────────────────────────────────────────

REWARDS = [
    {"id": "mug", "price": 20, "coupon_days": 10},
    {"id": "pen", "price": 10, "coupon_days": 10, "voided": "forfeited"},
    {"id": "lounge", "price": 30, "tiers": ["silver"]},
]


def test_a_coupon_is_used_voided_or_expires(plays: Plays) -> None:
    plays(
        """
        when        what             balance  decided
        2020-01-01  enrol            0        basic
        2020-01-02  buy A 90         90       +90 until 2021-02-01
        2020-01-03  redeem 20 R mug  70       -20 (A 20), coupon mug until 2020-01-13
        2020-01-04  use R            70       coupon used
        2020-01-04  use R            70       refused coupon_used
        2020-01-05  redeem 20 S mug  50       -20 (A 20), coupon mug until 2020-01-15
        2020-01-06  void S           70       coupon voided, again 20 (A 20)
        2020-01-06  void S           70
        2020-01-07  redeem 10 T pen  60       -10 (A 10), coupon pen until 2020-01-17
        2020-01-08  void T           60       coupon voided
        2020-01-09  redeem 20 U mug  40       -20 (A 20), coupon mug until 2020-01-19
        2020-01-20  use U            40       coupon expired on 2020-01-19, refused coupon_expired
        2020-01-21  redeem 30 V lounge  40    refused 30 of 40 tier_required
    """,
        rewards=REWARDS,
    )


def test_nobody_keeps_a_coupon_and_its_price(plays: Plays) -> None:
    plays(
        """
        when        what             balance  decided
        2020-01-01  enrol            0        basic
        2020-01-02  buy A 90         90       +90 until 2021-02-01
        2020-01-03  redeem 20 R mug  70       -20 (A 20), coupon mug until 2020-01-13
        2020-01-04  unredeem R 5     70
        2020-01-05  unredeem R 20    90       again 20 (A 20), coupon voided
        2020-01-06  use R            90       refused coupon_voided
    """,
        rewards=REWARDS,
    )


def test_a_level_grants_its_coupon_once_a_year(plays: Plays) -> None:
    levels = [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 100, "grants": ["mug"]}]
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-01-02  buy A 100   100      silver  +100 for ever, silver, coupon mug until 2020-01-12
        2020-01-13  return A    0        basic   coupon expired on 2020-01-12, back 100 (A 100), basic
        2020-01-14  buy B 100   100      silver  +100 for ever, silver
        2021-02-01  sweep       100      basic   basic on 2021-01-14
        2021-02-02  buy C 100   200      silver  +100 for ever, silver, coupon mug until 2021-02-12
    """,
        expiry=FOREVER,
        rewards=REWARDS[:1],
        tiers=ladder(levels=levels),
    )


def test_a_referral_earns_and_is_taken_back_when_it_did_not_hold(plays: Plays) -> None:
    plays(
        """
        when        what        balance  debt  decided
        2020-01-01  enrol       25       0     basic, +25 for ever
        2020-01-02  refer F 1   75       0     +50 for ever
        2020-01-03  refer G 2   75       0
        2020-01-04  redeem 70   5        0     -70 (goodwill 25 F 45)
        2020-01-05  withdraw F  0        45    back 50 (F 5 debt 45)
    """,
        expiry=FOREVER,
        earning=[
            {"id": "friend", "kind": "fixed", "on": "referral", "points": 50, "when": "referral.number <= 1"},
            {"id": "welcome", "kind": "fixed", "on": "enrolment", "points": 25},
        ],
    )


def test_a_line_of_more_pieces_than_cents_comes_back_by_pieces(new_ledger: NewLedger) -> None:
    by_piece = {"id": "piece", "kind": "per_amount", "points": 10, "per_quantity": 1}
    world = new_ledger(tiers=FAR, earning=[by_piece]).world
    world.enrol("2020-01-01")
    bought = world.buy_lines("2020-01-02", [Line(sku="a", quantity=1000, net_minor=1)])
    world.give_back("2020-01-03", bought, {1: 999})
    assert (world.accounts["ada"].active, world.accounts["ada"].reversed) == (10, 9990)


def test_an_open_end_is_decided_by_the_rules_under_which_points_become_active(
    new_ledger: NewLedger, rules_with: Callable[..., Any]
) -> None:
    confirmed = {"pending": {"confirmed": True}, "tiers": FAR}
    ledger = new_ledger(**confirmed, expiry={"months": 12, "from": "activated"})
    ledger.plays("""
        when        what        balance  decided
        2020-01-01  enrol       0        basic
        2020-02-01  buy A 120   0        +120 pending for ever
    """)
    ledger.world.adopt(rules_with(version="2", **confirmed, expiry={"months": 12}), "2020-03-01")
    ledger.plays("""
        when        what        balance  decided
        2020-04-01  confirm A   120      active A 120
        2021-01-31  look        120
        2021-02-01  look        0
    """)
    assert certify(ledger.world.history()).holds


def test_pending_points_are_extended_too(plays: Plays) -> None:
    plays(
        """
        when        what                 balance  pending  decided
        2020-01-03  enrol                0        0        basic
        2020-01-03  buy A 100            0        100      +100 pending to 2020-02-12 until 2020-01-23
        2020-01-05  extend A 2020-12-01  0        100      extended until 2020-12-01
        2020-03-01  sweep                100      0        active A 100 on 2020-02-12
        2020-12-01  sweep                0        0        expired 100 (A 100)
    """,
        pending={"days": 40},
        expiry={"days": 20},
    )


def test_what_a_tier_granted_goes_with_a_return_that_takes_the_tier(plays: Plays) -> None:
    plays(
        """
        when        what        balance  tier    decided
        2020-01-01  enrol       0        basic   basic
        2020-01-02  buy A 200   200      silver  +200 for ever, silver, coupon gift until 2020-04-11
        2020-01-03  return A    0        basic   back 200 (A 200), basic, coupon withdrawn
        2020-01-04  buy B 100   100      silver  +100 for ever, silver, coupon gift until 2020-04-13
        2021-01-04  sweep       100      basic   coupon expired on 2020-04-13, basic
    """,
        expiry=FOREVER,
        rewards=[{"id": "gift", "price": 50, "coupon_days": 100}],
        tiers=ladder(levels=[SILVER_GOLD[0], {**SILVER_GOLD[1], "grants": ["gift"]}]),
    )
