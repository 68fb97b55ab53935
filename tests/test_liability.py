"""What a programme owes for its points: the examples of IFRS 15 to the unit, and an answer to each question that can
come up. Against a plain reckoning, over random lives."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.domain.conftest import rule_set
from tests.loyalty_lives import PROGRAMMES, START_US, Life, Step, living, steps
from tests.projections.test_reasons import value_of

import tallybook
from tallybook import Book
from tallybook.domain.calendar import DAY_US
from tallybook.domain.customer import PurchaseRecorded
from tallybook.domain.errors import Refused
from tallybook.domain.liability import allocated
from tallybook.domain.points import EarningReversed, LoyaltyDecision, PointsEarned
from tallybook.liability import Liability
from tallybook.times import iso

LIVES = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def points_for(*, price: str = "1", **changes: Any) -> Any:
    """A point for each 10 minor units, for ever; `price` is what one is worth by itself."""
    return rule_set(
        **{
            "earning": [{"id": "base", "kind": "per_amount", "points": 1, "per_minor": 10}],
            "expiry": {"never": True},
            "point_price": price,
            "tiers": {"window": "lifetime", "levels": [{"name": "basic", "threshold": 0}]},
            **changes,
        }
    )


class Programme:
    """One member of a programme; what happens is dated."""

    def __init__(self, book: Book, rules: Any) -> None:
        self.book = book
        book.rules.adopt(rules, effective_at="2019-01-01T00:00:00Z")
        self.member = book.customers.register(effective_at="2019-01-01T00:00:00Z")
        book.loyalty.enrol(self.member, effective_at="2019-01-01T00:00:00Z")

    def buys(self, minor: int, day: str, discount: int = 0) -> UUID:
        line = {"sku": "s", "quantity": 1, "net_minor": minor, "discount_minor": discount}
        bought = self.book.customers.record_purchase(self.member, [line], effective_at=f"{day}T12:00:00Z")
        return bought.purchase_id

    def returns(self, purchase: UUID, day: str) -> None:
        self.book.customers.record_return(self.member, {1: 1}, purchase_id=purchase, effective_at=f"{day}T12:00:00Z")

    def redeems(self, points: int, day: str) -> UUID:
        paid = self.book.loyalty.redeem(self.member, points, reward="mug", effective_at=f"{day}T12:00:00Z")
        return paid.redemption_id

    def estimates(self, expected: int, issued: int | None, day: str) -> UUID:
        return self.book.loyalty.estimate(
            expected, issued, source="actuary", reason="year-end", effective_at=f"{day}T12:00:00Z"
        )

    def gives(self, minor: int, day: str) -> UUID:
        return self.book.loyalty.allocate(minor, source="ledger", reason="takeover", effective_at=f"{day}T12:00:00Z")

    def owes(self, day: str, since: str | None = None, **options: Any) -> Liability:
        found = self.book.loyalty.liability(at=day, since=since, **options)
        sums(found)
        return found


def sums(found: Liability) -> None:
    """What holds whatever happened, and the arithmetic that is shown."""
    assert found.allocated_minor == found.recognised_minor + found.liability_minor
    assert 0 <= found.recognised_minor <= found.allocated_minor
    assert found.recognised_in_period_minor == found.recognised_minor - found.recognised_before_minor
    for line in found.arithmetic:
        assert value_of(line.how) == line.gives, line
    given = {line.what: line.gives for line in found.arithmetic}
    assert given["recognised"] == found.recognised_minor
    assert given["allocated"] == found.allocated_minor
    assert given["liability"] == found.liability_minor
    assert given.get("expected", given["redeemed or redeemable"]) == found.expected


@pytest.fixture
def shop() -> Iterator[Programme]:
    with tallybook.open("memory:") as book, book.acting("agent:ada", purpose="service"):
        yield Programme(book, points_for())


# ── the examples ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_example_52_of_ifrs_15_to_the_unit() -> None:
    # Goods for CU 100,000, with 10,000 points of CU 1 off; 9,500 are expected to be redeemed: CU 0.95 a point.
    with tallybook.open("memory:") as book, book.acting("agent:ada", purpose="service"):
        shop = Programme(book, points_for(price="0.95"))
        shop.buys(100_000, "2020-01-10")
        shop.estimates(9500, 10_000, "2020-01-31")
        shop.redeems(4500, "2020-06-01")
        first = shop.owes("2020-12-31")
        assert (first.issued, first.redeemed, first.outstanding) == (10_000, 4500, 5500)
        assert (first.allocated_minor, 100_000 - first.allocated_minor) == (8_676, 91_324)
        assert (first.recognised_minor, first.liability_minor) == (4_110, 4_566)
        shop.redeems(4000, "2021-06-01")
        shop.estimates(9700, 10_000, "2021-12-31")
        second = shop.owes("2021-12-31", "2020-12-31")
        assert second.redeemed == 8500
        assert (second.recognised_before_minor, second.recognised_in_period_minor) == (4_110, 3_493)
        assert (second.recognised_minor, second.liability_minor) == (7_603, 1_073)


@pytest.mark.parametrize(("expected", "in_period", "to_date"), [(9900, 3_552, 7_727), (9200, 4_140, 8_315)])
def test_a_changed_estimate_is_a_cumulative_catch_up(
    shop: Programme, expected: int, in_period: int, to_date: int
) -> None:
    shop.buys(100_000, "2020-01-10")
    shop.gives(9_000, "2020-01-31")
    shop.estimates(9700, None, "2020-01-31")
    shop.redeems(4500, "2020-06-01")
    first = shop.owes("2020-12-31")
    assert (first.allocated_minor, first.recognised_minor, first.liability_minor) == (9_000, 4_175, 4_825)
    assert first.arithmetic[-2].how == "half_up(9000 × 4500 / 9700)"
    shop.redeems(4000, "2021-06-01")
    shop.estimates(expected, 10_000, "2021-12-31")
    second = shop.owes("2021-12-31", "2020-12-31")
    assert (second.recognised_before_minor, second.recognised_in_period_minor) == (4_175, in_period)
    assert (second.recognised_minor, second.liability_minor) == (to_date, 9_000 - to_date)


def test_an_estimate_that_is_corrected_counts_from_the_same_time_and_the_old_figure_can_still_be_had(
    shop: Programme,
) -> None:
    shop.buys(100_000, "2020-01-10")
    shop.gives(9_000, "2020-01-31")
    shop.estimates(9200, 10_000, "2020-01-31")
    shop.redeems(4500, "2020-06-01")
    reported = shop.book.position()
    wrong = shop.owes("2020-12-31")
    right_id = shop.estimates(9700, 10_000, "2020-01-31")
    right = shop.owes("2020-12-31")
    assert (wrong.recognised_minor, right.recognised_minor) == (4_402, 4_175)
    assert right.estimate is not None
    assert right.estimate.fact_id == right_id
    assert shop.owes("2020-12-31", known_at=reported) == wrong
    # What was reported stays; the correction falls into the next period.
    catch_up = shop.owes("2021-12-31", "2020-12-31", reported_at=reported)
    assert (catch_up.recognised_before_minor, catch_up.recognised_in_period_minor) == (4_402, 4_175 - 4_402)
    restated = shop.owes("2021-12-31", "2020-12-31")
    assert (restated.recognised_before_minor, restated.recognised_in_period_minor) == (4_175, 0)


# ── questions that can come up ────────────────────────────────────────────────────────────────────────────────────


def test_without_an_estimate_all_that_can_be_redeemed_is_expected_to_be(shop: Programme) -> None:
    shop.buys(100_000, "2020-01-10")
    shop.gives(9_000, "2020-01-31")
    shop.redeems(4500, "2020-06-01")
    found = shop.owes("2020-12-31")
    assert found.estimate is None
    assert (found.expected, found.recognised_minor, found.liability_minor) == (10_000, 4_050, 4_950)
    assert "No estimate was given" in found.notes[0]


def test_where_more_was_redeemed_than_was_expected_all_of_the_price_is_revenue(shop: Programme) -> None:
    shop.buys(100_000, "2020-01-10")
    shop.gives(9_000, "2020-01-31")
    shop.estimates(4000, 10_000, "2020-01-31")
    shop.redeems(4500, "2020-06-01")
    found = shop.owes("2020-12-31")
    assert (found.expected, found.recognised_minor, found.liability_minor) == (4000, 9_000, 0)
    assert any("4500 points were redeemed, and 4000 expected" in note for note in found.notes)
    shop.estimates(9000, 10_000, "2021-01-31")
    again = shop.owes("2021-12-31", "2020-12-31")
    assert (again.recognised_minor, again.recognised_in_period_minor) == (4_500, -4_500)


def test_an_estimate_holds_in_its_proportion_for_what_is_issued_later(shop: Programme) -> None:
    shop.buys(100_000, "2020-01-10")
    shop.estimates(9700, 10_000, "2020-01-31")
    shop.buys(50_000, "2020-02-10")
    found = shop.owes("2020-12-31")
    assert (found.issued, found.expected) == (15_000, 14_550)
    purchase = shop.buys(10_000, "2020-03-10")
    shop.returns(purchase, "2020-03-11")
    assert shop.owes("2020-12-31") == found


def test_a_redemption_that_is_taken_back_takes_its_revenue_back(shop: Programme) -> None:
    shop.buys(100_000, "2020-01-10")
    shop.gives(9_000, "2020-01-31")
    shop.estimates(9700, 10_000, "2020-01-31")
    redemption = shop.redeems(4500, "2020-06-01")
    shop.book.loyalty.return_redemption(
        shop.member, redemption, 500, reason="cancelled", effective_at="2021-01-10T12:00:00Z"
    )
    found = shop.owes("2021-12-31", "2020-12-31")
    assert (found.redeemed, found.outstanding, found.issued) == (4000, 6000, 10_000)
    assert (found.recognised_minor, found.recognised_in_period_minor) == (3_711, 3_711 - 4_175)


def test_points_that_expired_can_not_be_redeemed_so_all_is_revenue_in_the_end() -> None:
    with tallybook.open("memory:") as book, book.acting("agent:ada", purpose="service"):
        shop = Programme(book, points_for(expiry={"months": 12}))
        shop.buys(100_000, "2020-01-10")
        shop.gives(9_000, "2020-01-31")
        shop.estimates(9700, 10_000, "2020-01-31")
        shop.redeems(4500, "2020-06-01")
        unswept = shop.owes("2021-12-31")
        assert (unswept.expired, unswept.recognised_minor) == (0, 4_175)
        assert "sweep first" in unswept.notes[-1]
        book.loyalty.sweep("2022-01-01T00:00:00Z")
        over = shop.owes("2021-12-31", "2020-12-31")
        assert (over.expired, over.outstanding, over.expected) == (5500, 0, 4500)
        assert (over.recognised_minor, over.recognised_in_period_minor, over.liability_minor) == (9_000, 4_825, 0)
        assert not any("sweep" in note for note in over.notes)
        assert any("4500 can be redeemed at most" in note for note in over.notes)
        # What people give back is owed again.
        book.loyalty.reinstate(
            shop.member, 500, "2030-01-01T00:00:00Z", reason="sorry", effective_at="2022-02-01T12:00:00Z"
        )
        back = shop.owes("2022-12-31", "2021-12-31")
        assert (back.expired, back.outstanding, back.expected) == (5000, 500, 5000)
        assert (back.recognised_minor, back.recognised_in_period_minor) == (8_100, -900)


def test_a_sale_that_is_returned_takes_its_part_of_the_price_along(shop: Programme) -> None:
    kept = shop.owes("2020-12-31")
    assert (kept.allocated_minor, kept.recognised_minor) == (0, 0)
    shop.buys(100_000, "2020-01-10")
    alone = shop.owes("2020-12-31").allocated_minor
    assert alone == allocated(100_000, 100_000, 10_000, Fraction(1)) == 9_091
    lines = [{"sku": "s", "quantity": 3, "net_minor": 9_999}]
    purchase = shop.book.customers.record_purchase(shop.member, lines, effective_at="2020-02-10T12:00:00Z").purchase_id
    both = shop.owes("2020-12-31").allocated_minor
    assert both == alone + allocated(9_999, 9_999, 999, Fraction(1))
    for day in ("2020-03-01", "2020-03-02", "2020-03-03"):
        before = shop.owes("2020-12-31").allocated_minor
        shop.returns(purchase, day)
        assert shop.owes("2020-12-31").allocated_minor < before
    assert shop.owes("2020-12-31").allocated_minor == alone


def test_a_discount_is_shared_by_goods_and_points(shop: Programme) -> None:
    shop.buys(80_000, "2020-01-10", discount=20_000)  # 8,000 points, with goods that cost 100,000 by themselves
    assert shop.owes("2020-12-31").allocated_minor == allocated(80_000, 100_000, 8_000, Fraction(1)) == 5_926


def test_points_for_no_sale_are_in_the_pool_and_bring_no_price(shop: Programme) -> None:
    shop.buys(100_000, "2020-01-10")
    before = shop.owes("2020-12-31")
    shop.book.loyalty.adjust(shop.member, 2_000, reason="sorry", effective_at="2020-02-01T12:00:00Z")
    after = shop.owes("2020-12-31")
    assert (after.issued - before.issued, after.allocated_minor) == (2_000, before.allocated_minor)


def test_a_price_that_was_given_counts_for_what_was_sold_before_and_what_follows_is_reckoned(shop: Programme) -> None:
    purchase = shop.buys(100_000, "2020-01-10")
    shop.gives(5_000, "2020-01-31")
    shop.buys(10_000, "2020-02-10")
    found = shop.owes("2020-12-31")
    later = allocated(10_000, 10_000, 1_000, Fraction(1))
    assert found.allocated_minor == 5_000 + later
    assert found.given is not None
    assert (found.given.allocated_minor, found.given.source) == (5_000, "ledger")
    assert shop.owes("2020-01-30").allocated_minor == 9_091
    # A return takes off what the book would have reckoned for its sale; never more than there is.
    shop.returns(purchase, "2020-03-01")
    assert shop.owes("2020-12-31").allocated_minor == 0
    shop.gives(777, "2020-03-02")
    assert shop.owes("2020-12-31").allocated_minor == 777


def test_two_programmes_are_two_pools(shop: Programme) -> None:
    club = points_for(name="club", programme="club", currency="EUR", price="2")
    shop.book.rules.adopt(club, effective_at="2019-01-01T00:00:00Z")
    shop.book.loyalty.enrol(shop.member, programme="club", effective_at="2019-01-01T00:00:00Z")
    lines = [{"sku": "s", "quantity": 1, "net_minor": 1_000}]
    shop.book.customers.record_purchase(shop.member, lines, currency="EUR", effective_at="2020-02-10T12:00:00Z")
    shop.buys(100_000, "2020-01-10")
    shop.estimates(5_000, 10_000, "2020-02-11")
    main, other = shop.owes("2020-12-31"), shop.book.loyalty.liability("club", at="2020-12-31")
    assert (main.issued, main.currency, main.expected, main.allocated_minor) == (10_000, "USD", 5_000, 9_091)
    assert (other.issued, other.currency, other.expected) == (100, "EUR", 100)
    assert other.allocated_minor == allocated(1_000, 1_000, 100, Fraction(2))
    assert other.estimate is None


def test_a_debt_of_customers_is_told(shop: Programme) -> None:
    purchase = shop.buys(10_000, "2020-01-10")
    shop.redeems(600, "2020-01-11")
    shop.returns(purchase, "2020-01-12")
    found = shop.owes("2020-12-31")
    assert (found.issued, found.redeemed, found.outstanding, found.debt) == (0, 600, 0, 600)
    assert (found.allocated_minor, found.recognised_minor) == (0, 0)
    assert any("Customers owe 600 points" in note for note in found.notes)


def test_points_taken_away_by_hand_that_were_not_there_are_owed_too(shop: Programme) -> None:
    shop.book.loyalty.adjust(shop.member, -50, reason="mistake", into_debt=True, effective_at="2020-01-10T12:00:00Z")
    shop.estimates(90, 100, "2020-01-11")
    found = shop.owes("2020-12-31")
    assert (found.issued, found.redeemed, found.outstanding, found.debt) == (-50, 0, 0, 50)
    assert (found.expected, found.allocated_minor, found.liability_minor) == (0, 0, 0)


def test_facts_that_come_late_count_in_the_period_in_which_the_book_learned_of_them(shop: Programme) -> None:
    shop.buys(100_000, "2020-01-10")
    shop.gives(9_000, "2020-01-31")
    shop.estimates(10_000, 10_000, "2020-01-31")
    reported = shop.book.position()
    shop.redeems(1_000, "2020-06-01")  # recorded after the figures of 2020
    found = shop.owes("2021-12-31", "2020-12-31", reported_at=reported)
    assert (found.recognised_before_minor, found.recognised_in_period_minor) == (0, 900)


def test_what_a_liability_refuses(shop: Programme) -> None:
    desk = shop.book.loyalty
    for code, call in (
        ("no_rule_set", lambda: desk.liability("another")),
        ("no_rule_set", lambda: desk.liability(at="2018-01-01")),
        ("invalid_argument", lambda: desk.liability(at="2020-01-01", since="2020-01-02")),
        ("invalid_argument", lambda: desk.liability(reported_at=1)),
        ("invalid_argument", lambda: desk.liability(known_at=-1)),
        ("invalid_argument", lambda: desk.liability(known_at=-(10**30))),
        ("invalid_argument", lambda: desk.liability(known_at=True)),
        ("invalid_argument", lambda: desk.liability(since="2019-02-01", reported_at=-1)),
        ("invalid_argument", lambda: shop.estimates(1, None, "2020-01-01")),
        ("invalid_argument", lambda: shop.estimates(11, 10, "2020-01-01")),
        ("invalid_argument", lambda: shop.estimates(-1, 10, "2020-01-01")),
        ("invalid_argument", lambda: shop.estimates(0, 0, "2020-01-01")),
        ("invalid_argument", lambda: shop.gives(-1, "2020-01-01")),
        ("no_rule_set", lambda: desk.allocate(1, source="x", reason="y", programme="another")),
        ("no_rule_set", lambda: desk.estimate(1, 2, source="x", reason="y", programme="another")),
    ):
        with pytest.raises(Refused) as refused:
            call()
        assert refused.value.code == code


def test_a_programme_whose_currency_changed_needs_a_price_for_what_was_sold_before(shop: Programme) -> None:
    shop.buys(100_000, "2020-01-10")
    shop.book.rules.adopt(points_for(version="2", currency="EUR"), effective_at="2020-06-01T00:00:00Z")
    assert shop.owes("2020-05-31").currency == "USD"
    with pytest.raises(Refused) as refused:
        shop.owes("2020-12-31")
    assert refused.value.code == "mixed_currencies"
    shop.gives(8_000, "2020-06-01")
    found = shop.owes("2020-12-31")
    assert (found.currency, found.allocated_minor) == ("EUR", 8_000)


# ── whatever happens ──────────────────────────────────────────────────────────────────────────────────────────────


def plainly(life: Life, at_us: int) -> tuple[int, int, int]:
    """Issued, redeemed, allocated: each summed from the events in the plainest way, all sales kept in mind."""
    sales: dict[UUID, PurchaseRecorded] = {}
    earned: dict[UUID, dict[UUID, int]] = {}
    fact_of: dict[UUID, UUID] = {}
    back: dict[UUID, int] = {}
    issued = redeemed = 0
    for _, event in life.book._core.history():
        if isinstance(event, PurchaseRecorded):
            sales[event.event_id] = event
        if not isinstance(event, LoyaltyDecision) or event.effective_us > at_us:
            continue
        for _, source, target, points in event.moves():
            issued += points * ((source in ("earned", "adjusted_up")) - (target in ("reversed", "adjusted_down")))
            redeemed += points * (target == "spent")
        if event.stored_name == "loyalty.redemption_reversed":
            redeemed -= event.points  # type: ignore[attr-defined]  # this kind has it
        if isinstance(event, PointsEarned) and event.facts[0] in sales:
            earned.setdefault(event.facts[0], {})[event.lot_id] = event.points
            fact_of[event.lot_id] = event.facts[0]
        if isinstance(event, EarningReversed) and event.lot_id in fact_of:
            back[event.lot_id] = back.get(event.lot_id, 0) + event.points
    money = Fraction(0)
    rates = {one.code: one.rate for one in life.rules.currencies} | {life.rules.currency: Fraction(1)}
    for fact, lots in earned.items():
        sale = sales[fact]
        price = sum(line.net_minor for line in sale.lines) * rates[sale.currency]
        goods = sum(line.net_minor + line.discount_minor for line in sale.lines) * rates[sale.currency]
        worth = sum(lots.values()) * life.rules.point_price
        if not goods + worth:
            continue
        for lot, points in lots.items():
            if points:
                share = price * worth / (goods + worth) * points / sum(lots.values())
                money += share * (points - back.get(lot, 0)) / points
    return issued, redeemed, round(money)


@LIVES
@given(programme=st.sampled_from(PROGRAMMES), life=steps, day=st.integers(0, 900), expected=st.integers(0, 100))
def test_the_pool_is_what_the_events_plainly_add_up_to(
    programme: str, life: list[Step], day: int, expected: int
) -> None:
    with living(programme) as one:
        one.lives(life)
        one.book.loyalty.estimate(expected, 100, source="actuary", reason="random", effective_at=iso(START_US))
        for at_us in (START_US + day * DAY_US, one.clock[0]):
            if at_us > one.clock[0]:
                continue
            found = one.book.loyalty.liability(at=iso(at_us))
            sums(found)
            issued, redeemed, money = plainly(one, at_us)
            assert (found.issued, found.redeemed) == (issued, redeemed)
            # Rounded sale by sale.
            assert abs(found.allocated_minor - money) <= 2 * len(life)
            # What was told late may have spent, by a moment, points that came after it.
            assert found.expected <= found.redeemed + max(0, found.outstanding)
            if at_us == one.clock[0]:
                assert found.issued == found.redeemed + found.expired + found.outstanding - found.debt
