"""The ready-made programmes: a year of each, played through the front door, as a ledger."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import tallybook
from tallybook import Book
from tallybook.adapters.rule_files import PACKAGED, load_rule_set
from tallybook.domain.errors import Refused
from tallybook.domain.expressions import Codes, Integers
from tallybook.domain.rules import ON, fields_of, parse_rule_set

PROGRAMMES = ("stars", "miles", "retail", "growth")
PAGES = Path(__file__).parent.parent / "docs" / "programmes"
_GAP = re.compile(r"\s{2,}")


class Member:
    """A customer with an account, and what happens to it: each row of a ledger is one command.

    Columns stand two or more spaces apart: `when` (UTC, effective), `what`, `active`, `pending`, `debt`, `qualifying`,
    `tier`, `coupons` (those that are good).
    """

    def __init__(self, book: Book, programme: str, **profile: Any) -> None:
        self.book = book
        self.programme = programme
        # With a fixed id the draw of a campaign's control group is fixed.
        profile = {"customer_id": UUID(int=7), **profile}
        self.id = book.customers.register(effective_at="2022-12-01T00:00:00Z", **profile)
        self.facts: dict[str, UUID] = {}

    def plays(self, table: str) -> None:
        wanted, found = [], []
        for text in table.strip().splitlines()[1:]:
            row = _GAP.split(text.strip())
            row += [""] * (8 - len(row))
            wanted.append(tuple(row))
            at = f"{row[0]}Z" if "T" in row[0] else f"{row[0]}T12:00:00Z"
            self.do(row[1], at)
            found.append((row[0], row[1], *self.stands(at)))
        told = ["\n" + "\n".join("  ".join(f"{cell:<10}" for cell in row).rstrip() for row in rows)
                for rows in (wanted, found)]  # fmt: skip
        assert told[1] == told[0]

    def stands(self, at: str) -> tuple[str, ...]:
        account = self.book.loyalty.account(self.id, as_of=at)
        good = sorted(coupon.reward for coupon in account.coupons if not coupon.outcome)
        figures = (account.active, account.pending, account.debt, account.qualifying)
        return *(str(one) for one in figures), account.tier or "none", " ".join(good)

    def do(self, what: str, at: str) -> None:
        book, verb, *words = self.book, *what.split()
        match verb:
            case "enrol":
                book.loyalty.enrol(self.id, effective_at=at)
            case "buy":
                ref, *lines = words
                currency = "EUR" if ref.startswith("eur") else book.rules.in_force(at).currency  # type: ignore[union-attr]  # it is in force
                bought = book.customers.record_purchase(
                    self.id, [line(text) for text in lines], currency=currency, effective_at=at
                )
                self.facts[ref] = bought.purchase_id
            case "return":
                book.customers.record_return(self.id, {1: 1}, purchase_id=self.facts[words[0]], effective_at=at)
            case "does":
                ref, _, activity = words[0].rpartition(":")
                quantity = int(words[1]) if len(words) > 1 else 1
                partner = words[2] if len(words) > 2 else None
                done = book.loyalty.record_activity(self.id, activity, quantity, partner=partner, effective_at=at)
                self.facts[ref or activity] = done.fact_id
            case "confirm":
                book.loyalty.confirm_earning(self.id, self.facts[words[0]], effective_at=at)
            case "redeem":
                paid = book.loyalty.redeem(self.id, reward=words[0], effective_at=at)
                self.facts[words[0]] = paid.coupon_id or paid.redemption_id
            case "use":
                book.loyalty.use_coupon(self.id, self.facts[words[0]], effective_at=at)
            case "void":
                book.loyalty.void_coupon(self.id, self.facts[words[0]], reason="unwanted", effective_at=at)
            case "poor" | "sold-out":
                with pytest.raises(Refused) as refused:
                    book.loyalty.redeem(self.id, reward=words[0], effective_at=at)
                assert refused.value.code == {"poor": "insufficient_points", "sold-out": "out_of_stock"}[verb]
            case "sweep":
                book.loyalty.sweep(at)
            case "look":
                pass
            case _:
                raise AssertionError(f"no such command: {what}")


def line(text: str) -> dict[str, Any]:
    """A line of one piece, from "12.50", "12.50+2.50" (with tax) or "12.50/gift_card" (of a category)."""
    amount, _, category = text.partition("/")
    net, _, tax = amount.partition("+")
    return {"sku": category or "sku", "quantity": 1, "net_minor": minor(net), "tax_minor": minor(tax or "0"),
            **({"category": category} if category else {})}  # fmt: skip


def minor(text: str) -> int:
    whole, _, cents = text.partition(".")
    return int(whole) * 100 + int(cents.ljust(2, "0") or 0)


Joins = Callable[..., Member]


@pytest.fixture
def joins() -> Iterator[Joins]:
    """Makes a member of a programme in a book of its own."""
    with tallybook.open("memory:") as book, book.acting("agent:test", purpose="test"):

        def make(programme: str, **profile: Any) -> Member:
            if book.rules.in_force("2023-01-01T00:00:00Z") is None:
                book.rules.adopt(programme, effective_at="2022-12-01T00:00:00Z")
            return Member(book, programme, **profile)

        yield make


def test_programmes_load_by_name_have_no_idle_parts_and_a_page() -> None:
    assert set(PROGRAMMES) | {"standard", "candidate"} == set(PACKAGED)
    for name in PROGRAMMES:
        rule_set = load_rule_set(name)
        assert rule_set.name == name
        assert rule_set.warnings == ()
        page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert "not endorsed" in page


def test_a_year_of_stars(joins: Joins) -> None:
    joins("stars", birth_date="1990-09-14").plays("""
        when        what                      active  pending  debt  qualifying  tier   coupons
        2024-01-02  enrol                     25      0        0     0           green
        2024-01-10  buy A 12.95 30/gift_card  37      0        0     12          green
        2024-03-05  buy B 20.50               78      0        0     53          green
        2024-03-06  does personal_cup         103     0        0     78          green
        2024-03-06  does personal_cup         103     0        0     78          green
        2024-03-07  redeem two-dollars-off    43      0        0     78          green  two-dollars-off
        2024-03-08  void two-dollars-off      103     0        0     78          green
        2024-03-09  poor handcrafted-drink    103     0        0     78          green
        2024-04-03  buy C 425                 528     0        0     503         gold
        2024-04-04  redeem handcrafted-drink  328     0        0     503         gold   handcrafted-drink
        2024-04-05  use handcrafted-drink     328     0        0     503         gold
        2024-05-01  buy D 24                  356     0        0     531         gold
        2024-09-20  buy E 5.50                562     0        0     537         gold
        2024-09-21  buy F 5.50                568     0        0     543         gold
        2024-10-31  look                      568     0        0     543         gold
        2024-11-02  look                      240     0        0     543         gold
        2024-11-03  return D                  212     0        0     515         gold
        2024-12-01  sweep                     212     0        0     515         gold
        2025-04-02  look                      12      0        0     437         gold
        2025-05-02  look                      12      0        0     12          green
        2025-10-15  sweep                     12      0        0     0           green
    """)


def test_a_year_of_miles(joins: Joins) -> None:
    joins("miles").plays("""
        when                 what                             active  pending  debt  qualifying  tier    coupons
        2023-01-02           enrol                            0       0        0     0           member
        2023-01-20           does TYO:flight 6274             6274    0        0     6274        member
        2023-02-01           does HOP:flight 180              6774    0        0     6774        member
        2023-03-01           does SYD:flight 18500            25274   0        0     25274       silver
        2023-03-15           does ROM:flight 4800             31274   0        0     30074       silver
        2023-04-02           does ALP:flight 3001 alpine_air  32775   0        0     31575       silver
        2023-05-01           does hotel_night 25              37775   0        0     31575       silver
        2023-06-01           does card_spending 8000          45775   0        0     31575       silver
        2023-07-01           buy SEAT 35.49/seat 400/ticket   45846   0        0     31575       silver
        2023-08-01           does SIN:flight 17000            67096   0        0     48575       silver
        2023-09-01           does AKL:flight 8800             78096   0        0     57375       gold    upgrade
        2023-10-01           redeem return-flight             53096   0        0     57375       gold    upgrade
        2023-10-02           sold-out first-class             53096   0        0     57375       gold    upgrade
        2024-06-30           look                             53096   0        0     57375       gold    upgrade
        2024-12-31           look                             53096   0        0     57375       gold
        2025-01-01T06:00:00  look                             53096   0        0     0           silver
        2025-04-01T05:00:00  look                             0       0        0     0           silver
    """)


def test_a_year_of_retail(joins: Joins) -> None:
    joins("retail").plays("""
        when        what                             active  pending  debt  qualifying  tier    coupons
        2024-01-02  enrol                            0       0        0     0           member
        2024-02-01  buy A 100.00+20.00 50/gift_card  0       120      0     120         member
        2024-02-10  buy B 33.00+6.99                 0       198      0     159         member
        2024-02-20  confirm A                        120     78       0     159         member
        2024-03-10  look                             120     78       0     159         member
        2024-03-11  look                             198     0        0     159         member
        2024-03-12  return A                         78      0        0     39          member
        2024-04-01  buy C 350.00+70.00               78      420      0     459         member
        2024-05-03  does own_bag                     498     2        0     459         member
        2024-05-03  does own_bag                     498     2        0     459         member
        2024-05-05  redeem voucher-5                 0       0        0     459         member  voucher-5
        2024-05-06  void voucher-5                   500     0        0     459         member
        2024-06-01  buy eurD 100                     500     170      0     544         member
        2024-10-06  buy E 60.00+12.00                670     216      0     616         member
        2024-10-07  buy F 540.00+108.00              670     2160     0     1264        plus    thank-you
        2024-11-15  look                             2830    0        0     1264        plus    thank-you
        2024-11-16  redeem voucher-25                430     0        0     1264        plus    thank-you voucher-25
        2024-11-17  return C                         10      0        0     844         plus    thank-you voucher-25
        2024-11-18  return F                         0       0        1934  196         member  voucher-25
        2024-11-20  buy G 100.00+20.00               0       120      1934  316         member  voucher-25
        2024-12-21  look                             0       0        1814  316         member  voucher-25
        2025-01-06  sweep                            0       0        1814  316         member  voucher-25
    """)


def test_a_year_of_growth(joins: Joins) -> None:
    joins("growth", birth_date="1988-06-01").plays("""
        when                 what                      active  pending  debt  qualifying  tier  coupons
        2023-01-02           enrol                     0       0        0     0           v1
        2023-01-03           does check_in             5       0        0     0           v1
        2023-01-03           does check_in             5       0        0     0           v1
        2023-01-04           does check_in             10      0        0     0           v1
        2023-01-05           does profile_completed    10      0        0     50          v1
        2023-02-01           buy A 980                 108     0        0     1030        v2
        2023-02-20           does review               128     0        0     1050        v2
        2023-03-01           buy B 1000                248     0        0     2050        v2
        2023-06-18           buy C 3100 200/gift_card  992     0        0     5150        v3    coupon-20
        2023-07-01           redeem coupon-5           492     0        0     5150        v3    coupon-20 coupon-5
        2023-08-08           buy D 500                 567     0        0     5650        v3
        2023-08-20           return D                  492     0        0     5150        v3
        2024-02-01           look                      492     0        0     4120        v2
        2024-06-18           look                      492     0        0     0           v1
        2024-12-31T15:59:59  look                      492     0        0     0           v1
        2024-12-31T16:00:00  sweep                     0       0        0     0           v1
    """)


@pytest.mark.parametrize(("customer", "points"), [(7, 216), (2, 144)])
def test_the_control_group_of_the_autumn_offer_gets_the_weekend_offer_instead(
    joins: Joins, customer: int, points: int
) -> None:
    member = joins("retail", customer_id=UUID(int=customer))
    member.do("enrol", "2024-10-01T12:00:00Z")
    member.do("buy A 60.00+12.00", "2024-10-06T12:00:00Z")
    assert member.book.loyalty.account(member.id, as_of="2024-10-06T12:00:00Z").pending == points


def test_whoever_brings_a_friend_to_the_retail_card_gets_points_for_the_first_purchase(joins: Joins) -> None:
    member = joins("retail")
    member.do("enrol", "2024-01-02T12:00:00Z")
    friend = joins("retail", customer_id=UUID(int=8))
    member.book.customers.refer(member.id, friend.id, effective_at="2024-01-02T13:00:00Z")
    friend.do("enrol", "2024-01-03T12:00:00Z")
    for day in (4, 5):
        friend.do("buy A 10", f"2024-01-0{day}T12:00:00Z")
    assert member.book.loyalty.account(member.id).earned == 250
    assert member.book.loyalty.account(friend.id).earned == 20


def test_a_growth_member_who_was_invited_gets_points_and_so_does_who_invited(joins: Joins) -> None:
    member = joins("growth")
    member.do("enrol", "2024-01-02T12:00:00Z")
    friend = joins("growth", customer_id=UUID(int=8))
    member.book.customers.refer(member.id, friend.id, effective_at="2024-01-02T13:00:00Z")
    friend.do("enrol", "2024-01-03T12:00:00Z")
    found = [member.book.loyalty.account(one.id, as_of="2024-02-01T00:00:00Z") for one in (member, friend)]
    assert [(one.active, one.qualifying) for one in found] == [(100, 0), (100, 0)]


@pytest.mark.parametrize(("name", "most", "points"), [("retail", 10, 250), ("growth", 50, 100)])
def test_the_first_friends_count_though_more_are_brought_before_they_join_and_buy(
    joins: Joins, name: str, most: int, points: int
) -> None:
    member = joins(name)
    member.do("enrol", "2024-01-02T12:00:00Z")
    book = member.book
    friends = [joins(name, customer_id=UUID(int=100 + number)) for number in range(most + 1)]
    for one in friends:
        book.customers.refer(member.id, one.id, effective_at="2024-01-02T13:00:00Z")
    for one in reversed(friends):
        one.do("enrol", "2024-01-03T12:00:00Z")
        one.do("buy A 50", "2024-01-04T12:00:00Z")
    assert book.loyalty.account(member.id).earned == most * points


def test_miles_go_from_account_to_account_up_to_a_limit_and_keep_their_status_at_home(joins: Joins) -> None:
    giver, taker = joins("miles"), joins("miles", customer_id=UUID(int=8))
    for one in (giver, taker):
        one.do("enrol", "2024-01-02T12:00:00Z")
    for number in range(6):
        giver.do("does card_spending 20000", f"2024-0{number + 1}-03T12:00:00Z")
    giver.do("does flight 9000", "2024-07-01T12:00:00Z")
    loyalty = giver.book.loyalty
    loyalty.transfer(giver.id, taker.id, 100_000, effective_at="2024-08-01T12:00:00Z")
    with pytest.raises(Refused) as refused:
        loyalty.transfer(giver.id, taker.id, 1, effective_at="2024-08-02T12:00:00Z")
    assert refused.value.code == "limit_exceeded"
    loyalty.transfer(giver.id, taker.id, 1, effective_at="2025-01-02T12:00:00Z")
    found = [loyalty.account(one.id, as_of="2025-01-03T12:00:00Z") for one in (giver, taker)]
    assert [(one.active, one.qualifying) for one in found] == [(28_999, 9000), (100_001, 0)]


def test_programmes_refuse_by_tier_stock_segment_and_catalogue(joins: Joins) -> None:
    member = joins("stars")
    member.do("enrol", "2024-01-02T12:00:00Z")
    member.do("buy A 700", "2024-01-03T12:00:00Z")

    def refusal(act: Callable[[], object]) -> str:
        with pytest.raises(Refused) as refused:
            act()
        return refused.value.code

    loyalty, at = member.book.loyalty, "2024-01-04T12:00:00Z"
    other = joins("stars", customer_id=UUID(int=8))
    other.do("enrol", at)
    codes = [
        refusal(lambda: loyalty.redeem(member.id, reward="reserve-tasting", effective_at=at)),
        refusal(lambda: loyalty.redeem(member.id, reward="merchandise", effective_at=at)),
        refusal(lambda: loyalty.redeem(member.id, 5, reward="a-boat", effective_at=at)),
        refusal(lambda: loyalty.transfer(member.id, other.id, 5, effective_at=at)),
    ]
    assert codes == ["tier_required", "out_of_stock", "unknown_reward", "transfers_not_allowed"]
    for _ in range(10):
        member.do("redeem customisation", "2024-01-05T12:00:00Z")
    limited = refusal(lambda: loyalty.redeem(member.id, reward="customisation", effective_at="2024-01-05T13:00:00Z"))
    assert limited == "limit_exceeded"
    member.do("void customisation", "2024-01-05T14:00:00Z")
    coupon = member.facts["customisation"]
    assert (
        refusal(lambda: loyalty.use_coupon(member.id, coupon, effective_at="2024-01-05T15:00:00Z")) == "coupon_voided"
    )
    member.do("redeem customisation", "2024-01-06T12:00:00Z")
    coupon = member.facts["customisation"]
    assert (
        refusal(lambda: loyalty.use_coupon(member.id, coupon, effective_at="2024-01-07T12:00:00Z")) == "coupon_expired"
    )


def test_every_field_that_conditions_may_read_is_given_within_what_was_declared(joins: Joins) -> None:
    earning: list[dict[str, Any]] = []
    plain = parse_rule_set(json.loads(load_rule_set("stars").canonical()), "stars")
    for on, known in fields_of(plain).items():
        for name, possible in known.types.items():
            if on not in ON:
                continue
            read = name.replace("line.", "l.")
            if isinstance(possible, Integers):
                when = f"{read} >= {possible.lo} && {read} <= {possible.hi}"
            else:
                assert isinstance(possible, Codes)
                when = " || ".join(f'{read} == "{code}"' for code in possible.values or ()) or f'{read} != "-"'
            when = f"lines.all(l, {when})" if read != name else when
            earning.append({"id": f"{on}:{name}", "kind": "fixed", "on": on, "points": 1, "when": when})
    document = json.loads(plain.canonical())
    document |= {"name": "fields", "earning": earning, "expiry": {"never": True}, "limits": []}
    for level in document["tiers"]["levels"]:
        level["multiplier"] = "1/1"
    with tallybook.open("memory:") as book, book.acting("agent:test", purpose="test"):
        at = "2024-02-29T12:00:00Z"
        book.rules.adopt(parse_rule_set(document, "fields"), effective_at="2023-01-01T00:00:00Z")
        ids = [book.customers.register(effective_at=at) for _ in range(2)]
        book.customers.refer(ids[0], ids[1], effective_at=at)
        for one in reversed(ids):
            book.loyalty.enrol(one, effective_at=at)
        told = {on: sum(rule["on"] == on for rule in earning) for on in ON}
        before = book.loyalty.account(ids[0]).earned
        book.loyalty.record_activity(ids[0], "visit", effective_at=at)
        assert book.loyalty.account(ids[0]).earned - before == told["activity"]
        before = book.loyalty.account(ids[0]).earned
        lines = [line("10.00+1.00"), line("0"), line("20/books")]
        book.customers.record_purchase(ids[0], lines, effective_at=at)
        assert book.loyalty.account(ids[0]).earned - before == told["purchase"]
        third = book.customers.register(effective_at=at)
        book.loyalty.enrol(third, effective_at=at)
        assert book.loyalty.account(third).earned == told["enrolment"]
        before = book.loyalty.account(third).earned
        fourth = book.customers.register(effective_at=at)
        book.customers.refer(third, fourth, effective_at=at)
        book.loyalty.enrol(fourth, effective_at=at)
        assert book.loyalty.account(third).earned - before == told["referral"]
        assert book.loyalty.account(fourth).earned == told["enrolment"] + told["referral"]
