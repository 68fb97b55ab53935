"""Statements of accounts: sums that always close, periods that are over and stay as they are, late facts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from itertools import count, pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.domain.conftest import rule_set
from tests.loyalty_lives import PROGRAMMES, START_US, Life, Step, living, steps

import tallybook
from tallybook.domain.calendar import DAY_US
from tallybook.domain.customer import PurchaseRecorded
from tallybook.domain.errors import Refused
from tallybook.domain.events import Event, Metadata
from tallybook.domain.points import (
    DEBT,
    PLACES,
    SINKS,
    SOURCES,
    Enrolled,
    LoyaltyDecision,
    PointsEarned,
    PointsExpired,
    TierChanged,
)
from tallybook.domain.rules import RuleSet
from tallybook.projections.corrections import Corrections
from tallybook.projections.read_models import Recorded
from tallybook.statements import Order, Statement
from tallybook.times import iso, moment_us

RULES = rule_set(expiry={"months": 12, "until": "month_end"}, refunds={"earning": "debt"})
LIVES = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
ORDERS: tuple[Order, ...] = ("recorded", "effective")
programmes = st.sampled_from(PROGRAMMES)
cuts = st.lists(st.integers(0, 1200), min_size=1, max_size=4).map(sorted)


def net(balances: Mapping[str, int]) -> int:
    return sum(balances[name] for name in PLACES) - balances[DEBT]


def closes(found: Statement) -> None:
    """Opening and movements give the closing balances, bucket by bucket, and each row is what the one before and its
    lots give."""
    held = dict(found.opening)
    for line in found.lines:
        for move in line.lots:
            held[move.source] += move.points if move.source in SOURCES else -move.points
            held[move.target] += -move.points if move.target == DEBT else move.points
        assert {name: held[name] for name in ("active", "pending", "held", "debt")} == {
            name: getattr(line, name) for name in ("active", "pending", "held", "debt")
        }
        assert line.points_in or line.points_out or line.lots
    assert held == found.closing
    came = sum(line.points_in for line in found.lines)
    went = sum(line.points_out for line in found.lines)
    assert net(found.opening) + came - went == net(found.closing)
    for balances in (found.opening, found.closing):
        assert sum(balances[name] for name in SOURCES) == sum(balances[name] for name in (*PLACES, *SINKS))


# ── whatever happens ──────────────────────────────────────────────────────────────────────────────────────────────


@LIVES
@given(programme=programmes, life=steps, days=cuts)
def test_statements_close_and_each_begins_where_the_one_before_ended(
    programme: str, life: list[Step], days: list[int]
) -> None:
    with living(programme) as one:
        one.lives(life)
        edges = [None, *(iso(START_US + day * DAY_US) for day in dict.fromkeys(days)), None]
        for customer in one.members:
            view = one.book.loyalty.account(customer)
            for order in ORDERS:
                before: Statement | None = None
                seen: list[UUID | None] = []
                for start, end in pairwise(edges):
                    if end is not None and moment_us(end, "end") > one.clock[0]:
                        break
                    until = None if end is None else iso(moment_us(end, "end") - 1)
                    found = one.book.loyalty.statement(customer, start=start, end=until, order=order)
                    closes(found)
                    assert before is None or found.opening == before.closing
                    assert found.order == order
                    before = found
                    seen += [line.decision_id for line in found.lines]
                everything = one.book.loyalty.statement(customer, order=order)
                closes(everything)
                assert all(points == getattr(view, name) for name, points in everything.closing.items())
                assert not any(everything.opening.values())
                if before is not None and before.end == everything.end:
                    # Nothing fell between two periods, and nothing stands in two.
                    assert sorted(seen, key=str) == sorted((line.decision_id for line in everything.lines), key=str)


@LIVES
@given(programme=programmes, life=steps, later=steps)
def test_the_statement_of_a_period_that_is_over_never_changes(
    programme: str, life: list[Step], later: list[Step]
) -> None:
    with living(programme) as one:
        one.lives(life)
        one.clock[0] += DAY_US
        member = one.members[0]
        over = iso(one.clock[0] - 1)
        told = one.book.loyalty.statement(member, end=over)
        effective = one.book.loyalty.statement(member, end=over, order="effective")
        position = one.book.position()
        one.lives(later)
        one.book.loyalty.sweep()
        assert one.book.loyalty.statement(member, end=over) == told
        # By effective time late facts come in; as the book knew it then, they don't.
        assert one.book.loyalty.statement(member, end=over, order="effective", known_at=position) == effective
        following = one.book.loyalty.statement(member, start=iso(one_later(over)))
        assert following.opening == told.closing
        explained = {one.decision_id: one.correction for one in one.book.loyalty.explain_account(member)}
        for statement in (told, effective, following, one.book.loyalty.statement(member, order="effective")):
            for line in statement.lines:
                assert line.correction == (line.decision_id is not None and explained[line.decision_id])


def one_later(at: str | None) -> int:
    assert at is not None
    return moment_us(at, "at") + 1


# ── as an accountant reads it ─────────────────────────────────────────────────────────────────────────────────────


class Year:
    """A member whose book is told things on the days that are given."""

    def __init__(self, life: Life) -> None:
        self.life, self.book, self.member = life, life.book, life.members[0]

    def on(self, day: str) -> None:
        self.life.clock[0] = moment_us(f"{day}T12:00:00Z", "day")

    def buys(self, minor: int, at: str | None = None) -> UUID:
        lines = [{"sku": "s", "quantity": 1, "net_minor": minor}]
        effective = None if at is None else f"{at}T12:00:00Z"
        return self.book.customers.record_purchase(self.member, lines, effective_at=effective).purchase_id

    def states(self, start: str | None, end: str | None, **options: Any) -> str:
        found = self.book.loyalty.statement(self.member, start=start, end=end, **options)
        closes(found)
        rows: list[tuple[object, ...]] = [
            ("opening", "", "", "", "", found.opening["active"], found.opening["debt"], "")
        ]
        rows += [
            (
                line.what,
                line.effective_at[:10],
                (line.recorded_at or "due")[:10],
                line.points_in or "",
                line.points_out or "",
                line.active,
                line.debt,
                "correction" if line.correction else "",
            )
            for line in found.lines
        ]
        rows.append(("closing", "", "", "", "", found.closing["active"], found.closing["debt"], ""))
        return "\n" + "\n".join(" | ".join(str(cell) for cell in row).rstrip(" |") for row in rows)


@pytest.fixture
def year() -> Iterator[Year]:
    with living(RULES) as life:
        yield Year(life)


def told(text: str) -> str:
    """A table, its columns two or more spaces apart, with `-` for an empty cell."""
    rows = [line.split("  ") for line in text.strip().splitlines()]
    cells = [[cell.strip().replace("-", "", 1) if cell.strip() == "-" else cell.strip() for cell in row if cell.strip()]
             for row in rows]  # fmt: skip
    return "\n" + "\n".join(" | ".join(row).rstrip(" |") for row in cells)


def test_a_quiet_month_and_a_redemption(year: Year) -> None:
    year.on("2023-01-10")
    year.buys(10_000)
    year.on("2023-02-03")
    year.book.loyalty.redeem(year.member, 30, reward="mug")
    year.on("2023-03-01")
    assert year.states("2023-01-01", "2023-01-31") == told("""
        opening              -           -           -    -   0    0
        points earned: base  2023-01-10  2023-01-10  100  -   100  0
        closing              -           -           -    -   100  0
    """)
    assert year.states("2023-02-01", "2023-02-28") == told("""
        opening              -           -           -    -   100  0
        points redeemed: mug  2023-02-03  2023-02-03  -   30  70   0
        closing              -           -           -    -   70   0
    """)


def test_a_late_fact_is_a_correction_in_the_period_in_which_the_book_learned_of_it(year: Year) -> None:
    year.on("2023-01-10")
    year.buys(10_000)
    year.on("2023-02-01")
    year.book.loyalty.sweep()
    year.on("2023-02-15")
    year.buys(5_000, at="2023-01-20")
    year.on("2023-03-01")
    january = """
        opening              -           -           -    -  0    0
        points earned: base  2023-01-10  2023-01-10  100  -  100  0
        closing              -           -           -    -  100  0
    """
    assert year.states("2023-01-01", "2023-01-31") == told(january)
    assert year.states("2023-02-01", "2023-02-28") == told("""
        opening              -           -           -    -  100  0
        points earned: base  2023-01-20  2023-02-15  50   -  150  0  correction
        closing              -           -           -    -  150  0
    """)
    assert year.states("2023-01-01", "2023-01-31", order="effective") == told("""
        opening              -           -           -    -  0    0
        points earned: base  2023-01-10  2023-01-10  100  -  100  0
        points earned: base  2023-01-20  2023-02-15  50   -  150  0  correction
        closing              -           -           -    -  150  0
    """)
    assert year.states("2023-01-01", "2023-01-31", order="effective", known_at="2023-02-01") == told(january)
    assert year.states("2023-02-01", "2023-02-28", order="effective") == told("""
        opening  -  -  -  -  150  0
        closing  -  -  -  -  150  0
    """)


def test_statements_and_explanations_agree_on_what_is_a_correction(year: Year) -> None:
    def corrections() -> list[tuple[str, str]]:
        explained = {one.decision_id: one.correction for one in year.book.loyalty.explain_account(year.member)}
        for order in ORDERS:
            for start in (None, "2023-02-15"):
                for line in year.book.loyalty.statement(year.member, start=start, order=order).lines:
                    assert line.correction == explained[line.decision_id or UUID(int=0)], line
        lines = year.book.loyalty.statement(year.member).lines
        return [(line.what, line.effective_at[:10]) for line in lines if line.correction]

    year.on("2023-01-10")
    first = year.buys(10_000)
    year.on("2023-02-15")
    # Nothing was decided after it, neither about the account nor by a sweep: it is only told later than it was.
    year.buys(2_000, at="2023-01-20")
    assert corrections() == []
    year.book.customers.record_return(year.member, {1: 1}, purchase_id=first, effective_at="2023-01-15T12:00:00Z")
    late = [("earning reversed", "2023-01-15")]
    assert corrections() == late
    # What a sweep records, however late it runs, was due: it rests on nothing new.
    year.on("2024-06-01")
    year.book.loyalty.sweep()
    [expired] = [one for one in year.book.loyalty.explain_account(year.member) if one.kind.endswith("points_expired")]
    assert (expired.effective_at[:10], expired.recorded_at[:10]) == ("2024-02-01", "2024-06-01")
    assert corrections() == late
    # Before where the sweep went, a fact is late for an account of which nothing was decided since.
    year.buys(3_000, at="2024-05-20")
    late += [("points earned: base", "2024-05-20")]
    assert corrections() == late
    # It brings what is over by then: that follows from the same fact.
    year.buys(4_000, at="2023-02-20")
    late += [("points earned: base", "2023-02-20"), ("points expired: expiry", "2024-03-01")]
    assert corrections() == late
    year.buys(5_000)
    assert corrections() == late


def test_of_many_facts_of_one_command_each_is_late_by_itself() -> None:
    account, customer = UUID(int=1), UUID(int=2)
    told = Metadata(recorded_us=900, actor="job:import", purpose="import")

    def event(kind: type[Event], at_us: int, **fields: Any) -> Recorded:
        number = next(numbers)
        stream = account if issubclass(kind, LoyaltyDecision) or kind is Enrolled else customer
        return Recorded(
            number,
            kind.model_construct(
                originator_id=stream, originator_version=number, event_id=UUID(int=100 + number), effective_us=at_us,
                subject_id=customer, metadata=told, **fields,
            ),
        )  # fmt: skip

    numbers = count(1)
    first, second = event(PurchaseRecorded, 10), event(PurchaseRecorded, 20)
    late = event(PurchaseRecorded, 15)
    corrections = Corrections()
    found = [
        corrections.late(one)
        for one in (
            event(Enrolled, 5),
            first,
            event(PointsEarned, 10, facts=(first.event.event_id,)),
            second,
            event(PointsEarned, 20, facts=(second.event.event_id,)),
            late,
            event(PointsEarned, 15, facts=(late.event.event_id,)),
            event(TierChanged, 20, facts=(late.event.event_id,)),
            event(PointsExpired, 110, facts=(first.event.event_id,)),
        )
    ]
    assert [None if one is None else (one.fact.position, one.decided_us) for one in found] == [
        None, None, None, None, None, None, (late.position, 20), (late.position, 20), None,
    ]  # fmt: skip


def test_a_return_into_debt_and_the_earning_that_pays_it(year: Year) -> None:
    year.on("2023-01-10")
    first = year.buys(10_000)
    year.book.loyalty.redeem(year.member, 80, reward="mug")
    year.on("2023-01-20")
    year.book.customers.record_return(year.member, {1: 1}, purchase_id=first)
    year.buys(3_000)
    assert year.states("2023-01-11", None) == told("""
        opening              -           -           -   -    20  0
        earning reversed     2023-01-20  2023-01-20  -   100  0   80
        points earned: base  2023-01-20  2023-01-20  30  -    0   50
        closing              -           -           -   -    0   50
    """)


def test_what_is_due_stands_in_a_statement_up_to_now_and_in_one_by_effective_time(year: Year) -> None:
    year.on("2023-01-10")
    year.buys(10_000)
    year.on("2024-02-20")
    due = """
        opening                  -           -           -    -    100  0
        points expired: expiry   2024-02-01  due         -    100  0    0
        closing                  -           -           -    -    0    0
    """
    assert year.states("2024-02-01", None) == told(due)
    assert year.states("2024-02-10", None) == told(due)
    assert year.states("2024-01-01", "2024-02-10", order="effective") == told(due)
    # A period that is over holds what was recorded in it, and no more.
    assert year.states("2024-01-01", "2024-02-10") == told("""
        opening  -  -  -  -  100  0
        closing  -  -  -  -  100  0
    """)
    [line] = year.book.loyalty.statement(year.member, start="2024-02-01").lines
    assert (line.recorded_at, line.position, line.decision_id) == (None, None, None)
    year.book.loyalty.sweep()
    assert year.states("2024-02-01", None) == told(due.replace("due ", "2024-02-20"))


# ── forms and refusals ────────────────────────────────────────────────────────────────────────────────────────────


def test_as_csv_it_has_a_line_a_movement_with_fact_rule_and_lots(year: Year) -> None:
    year.on("2023-01-10")
    purchase = year.buys(10_000)
    found = year.book.loyalty.statement(year.member)
    opening, movement, closing = csv.DictReader(io.StringIO(found.csv()))
    assert (opening["line"], opening["active"], opening["what"]) == ("opening", "0", "")
    assert (closing["line"], closing["active"], closing["points_in"]) == ("closing", "100", "")
    assert movement["facts"] == movement["lots"].partition(":")[0] == str(purchase)
    assert movement["lots"] == f"{purchase}:earned>active:100"
    assert (movement["rules"], movement["rule_ids"], movement["points_in"]) == ("standard@1", "base", "100")
    assert found.csv().count("\r\n") == 4


def test_an_account_is_found_by_its_own_id(year: Year) -> None:
    by_customer = year.book.loyalty.statement(year.member)
    assert year.book.loyalty.statement(by_customer.account_id) == by_customer
    assert year.book.loyalty.statement(str(by_customer.account_id), programme="another") == by_customer
    assert by_customer.customer_id == year.member


def test_what_a_statement_refuses(year: Year) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("not_enrolled", {"customer": uuid4()}),
        ("not_enrolled", {"customer": year.member, "programme": "another"}),
        ("not_enrolled", {"customer": year.member, "known_at": 1}),
        ("invalid_argument", {"customer": year.member, "order": "alphabetical"}),
        ("invalid_argument", {"customer": year.member, "start": "2023-02-01", "end": "2023-01-01"}),
        ("invalid_argument", {"customer": "nobody"}),
        ("naive_time", {"customer": year.member, "start": "2023-02-01T00:00:00"}),
    ]
    for code, arguments in cases:
        with pytest.raises(Refused) as refused:
            year.book.loyalty.statement(**arguments)
        assert refused.value.code == code, arguments


def test_two_programmes_have_statements_of_their_own() -> None:
    with tallybook.open("memory:") as book, book.acting("agent:ada", purpose="service"):
        for programme in ("main", "club"):
            rules: RuleSet = rule_set(name=programme, programme=programme)
            book.rules.adopt(rules, effective_at="2020-01-01T00:00:00Z")
        customer = book.customers.register(effective_at="2020-01-01T00:00:00Z")
        for programme in ("main", "club"):
            book.loyalty.enrol(customer, programme=programme, effective_at="2020-01-01T00:00:00Z")
        book.loyalty.adjust(customer, 7, reason="welcome", programme="club")
        assert book.loyalty.statement(customer).closing["active"] == 0
        assert book.loyalty.statement(customer, programme="club").closing["active"] == 7
