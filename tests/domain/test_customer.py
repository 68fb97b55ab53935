"""The customer: guards with their codes, and the arithmetic of returns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tallybook.domain.aggregate import Stamp
from tallybook.domain.customer import (
    PROFILE_FIELDS,
    ContactPointAdded,
    ContactPointRemoved,
    Customer,
    CustomerChanged,
    CustomerKind,
    CustomerRegistered,
    IdentifierLinked,
    IdentifierRemoved,
    InteractionRecorded,
    KeyCreated,
    Line,
    PurchaseRecorded,
    ReturnRecorded,
)
from tallybook.domain.errors import REFUSALS, Refused
from tallybook.domain.events import Event, Metadata
from tallybook.domain.rules import LINES_MAX, ORDER_MINOR_MAX, QUANTITY_MAX

CUSTOMER = UUID(int=77)
UNKNOWN = UUID(int=5)


def stamp(at_us: int = 0) -> Stamp:
    ids = count(int.from_bytes(b"id") + at_us * 1000)
    return Stamp(Metadata(recorded_us=1, actor="agent:test", purpose="test"), at_us, lambda: UUID(int=next(ids)))


def registered(journal: list[Event] | None = None) -> Customer:
    customer = Customer(CUSTOMER).draft([] if journal is None else journal)
    customer.register(stamp(), CustomerKind.PERSON, key_id=3, commitment=b"c", fields={"name": "Ada", "country": "GB"})
    return customer


def refused(code: str, act: Callable[[], object], customer: Customer) -> Refused:
    """The act is refused with a code, and records nothing."""
    before = list(customer.journal or ())
    with pytest.raises(Refused) as error:
        act()
    assert error.value.code == code
    assert type(error.value) is REFUSALS[code].error
    assert customer.journal == before
    return error.value


def line(quantity: int, net_minor: int) -> Line:
    return Line(sku="sku", quantity=quantity, net_minor=net_minor)


def test_registering_records_the_key_first_and_then_the_customer() -> None:
    journal: list[Event] = []
    customer = registered(journal)
    key, fact = journal
    assert isinstance(key, KeyCreated)
    assert isinstance(fact, CustomerRegistered)
    assert (key.key_id, key.originator_version, fact.originator_version) == (3, 1, 2)
    assert fact.subject_id == key.subject_id == CUSTOMER
    assert (customer.kind, customer.version) == (CustomerKind.PERSON, 2)
    assert fact.country == "GB"


def test_nobody_registers_twice() -> None:
    customer = registered()
    refused(
        "already_registered",
        lambda: customer.register(stamp(), CustomerKind.PERSON, key_id=1, commitment=b"", fields={}),
        customer,
    )


@pytest.mark.parametrize(
    "act",
    [
        lambda c: c.change(stamp(), {"country": "IT"}, ()),
        lambda c: c.link_identifier(stamp(), "shop", "1"),
        lambda c: c.remove_identifier(stamp(), "shop"),
        lambda c: c.add_contact_point(stamp(), "email", "a@b"),
        lambda c: c.remove_contact_point(stamp(), UNKNOWN),
        lambda c: c.record_interaction(stamp(), "visit", "in", None, None),
        lambda c: c.record_purchase(stamp(), [line(1, 1)], currency="USD"),
        lambda c: c.record_return(stamp(), UNKNOWN, {1: 1}, None),
    ],
)
def test_a_customer_who_is_not_there_does_nothing(act: Callable[[Customer], object]) -> None:
    customer = Customer(CUSTOMER).draft([])
    refused("unknown_customer", lambda: act(customer), customer)


def test_a_change_sets_and_clears_fields() -> None:
    customer = registered()
    fact = customer.change(stamp(), {"owner": "agent:lin"}, ["country", "name"])
    assert isinstance(fact, CustomerChanged)
    assert fact.cleared == ("country", "name")
    assert (fact.owner, fact.country) == ("agent:lin", None)


@pytest.mark.parametrize("clear", [(), ("no_such_field",)])
def test_a_change_of_nothing_is_refused(clear: tuple[str, ...]) -> None:
    customer = registered()
    refused("nothing_changed", lambda: customer.change(stamp(), {}, clear), customer)


def test_one_external_id_for_each_system() -> None:
    customer = registered()
    assert isinstance(customer.link_identifier(stamp(), "shop", "S-1"), IdentifierLinked)
    error = refused("identifier_linked", lambda: customer.link_identifier(stamp(), "shop", "S-2"), customer)
    assert "S-2" not in str(error)
    assert "S-2" not in str(error.values)
    customer.link_identifier(stamp(), "till", "T-1")
    assert isinstance(customer.remove_identifier(stamp(), "shop"), IdentifierRemoved)
    assert list(customer.identifiers) == ["till"]
    refused("unknown_identifier", lambda: customer.remove_identifier(stamp(), "shop"), customer)
    customer.link_identifier(stamp(), "shop", "S-3")


def test_contact_points_come_and_go_by_their_ids() -> None:
    customer = registered()
    first = customer.add_contact_point(stamp(1), "email", "a@b")
    second = customer.add_contact_point(stamp(2), "email", "c@d")
    assert isinstance(first, ContactPointAdded)
    assert first.point_id != second.point_id
    assert isinstance(customer.remove_contact_point(stamp(3), first.point_id), ContactPointRemoved)
    assert list(customer.contact_points) == [second.point_id]
    refused("unknown_contact_point", lambda: customer.remove_contact_point(stamp(), first.point_id), customer)


def test_an_interaction_goes_in_or_out() -> None:
    customer = registered()
    fact = customer.record_interaction(stamp(), "visit", "out", "sold", "nice talk")
    assert isinstance(fact, InteractionRecorded)
    assert (fact.kind, fact.direction, fact.outcome) == ("visit", "out", "sold")
    refused("invalid_argument", lambda: customer.record_interaction(stamp(), "visit", "up", None, None), customer)


def test_a_purchase_has_lines() -> None:
    customer = registered()
    refused("no_lines", lambda: customer.record_purchase(stamp(), [], currency="USD"), customer)
    fact = customer.record_purchase(stamp(), [line(2, 300), line(1, 50)], currency="USD", store="rome")
    assert isinstance(fact, PurchaseRecorded)
    assert fact.net_minor == 350
    assert dict(customer.purchases) == {fact.event_id: (0, ((2, 300), (1, 50)))}


@pytest.mark.parametrize("currency", ["usd", "US", "USDX", "", "€"])
def test_a_currency_has_three_capitals(currency: str) -> None:
    customer = registered()
    with pytest.raises(ValidationError):
        customer.record_purchase(stamp(), [line(1, 1)], currency=currency)


@pytest.mark.parametrize(
    "wrong", [{"quantity": 0}, {"quantity": 1.0}, {"net_minor": -1}, {"net_minor": 9.99}, {"sku": "two words"},
              {"sku": "ada@example.org"}, {"quantity": True}]
)  # fmt: skip
def test_a_line_is_exact(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Line.model_validate({"sku": "a", "quantity": 1, "net_minor": 1, **wrong})


@pytest.mark.parametrize(
    "lines",
    [
        [line(1, 0)] * LINES_MAX,
        [line(QUANTITY_MAX - 1, 0), line(1, 0)],
        [Line(sku="a", quantity=1, net_minor=ORDER_MINOR_MAX - 2, tax_minor=1, shipping_minor=1)],
    ],
    ids=["lines", "pieces", "minor units"],
)
def test_a_purchase_is_within_what_rule_sets_are_checked_against(lines: list[Line]) -> None:
    customer = registered()
    customer.record_purchase(stamp(), lines, currency="USD")
    more = Line(sku="b", quantity=1, net_minor=0, tax_minor=1)
    error = refused(
        "invalid_argument", lambda: customer.record_purchase(stamp(), [*lines, more], currency="USD"), customer
    )
    assert "lines: a purchase has at most" in str(error)


# ── returns ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_return_names_lines_and_pieces() -> None:
    customer = registered()
    bought = customer.record_purchase(stamp(), [line(3, 1000), line(1, 50)], currency="USD")
    fact = customer.record_return(stamp(1), bought.event_id, {2: 1, 1: 2}, "broken")
    assert isinstance(fact, ReturnRecorded)
    assert [(one.line, one.quantity, one.net_minor) for one in fact.lines] == [(1, 2, 666), (2, 1, 50)]
    assert fact.net_minor == 716
    last = customer.record_return(stamp(2), bought.event_id, {1: 1}, None)
    assert last.net_minor == 334


@pytest.mark.parametrize(
    ("quantities", "code"),
    [
        ({}, "no_lines"),
        ({0: 1}, "invalid_argument"),
        ({2: 1}, "unknown_line"),
        ({-1: 1}, "invalid_argument"),
        ({True: 1}, "invalid_argument"),
        ({1: 0}, "invalid_argument"),
        ({1: -1}, "invalid_argument"),
        ({1: 4}, "returned_too_much"),
    ],
)
def test_a_return_that_makes_no_sense_is_refused(quantities: dict[int, int], code: str) -> None:
    customer = registered()
    bought = customer.record_purchase(stamp(), [line(3, 1000)], currency="USD")
    refused(code, lambda: customer.record_return(stamp(1), bought.event_id, quantities, None), customer)
    refused("unknown_purchase", lambda: customer.record_return(stamp(1), UNKNOWN, {1: 1}, None), customer)


def test_what_came_back_does_not_come_back_again() -> None:
    customer = registered()
    bought = customer.record_purchase(stamp(), [line(3, 1000)], currency="USD")
    customer.record_return(stamp(1), bought.event_id, {1: 2}, None)
    error = refused(
        "returned_too_much", lambda: customer.record_return(stamp(2), bought.event_id, {1: 2}, None), customer
    )
    assert error.values == {"line": 1, "asked": 2, "left": 1}


def test_a_return_is_refused_as_a_whole() -> None:
    customer = registered()
    bought = customer.record_purchase(stamp(), [line(3, 1000), line(1, 5)], currency="USD")
    refused("returned_too_much", lambda: customer.record_return(stamp(), bought.event_id, {1: 1, 2: 2}, None), customer)
    assert dict(customer.returned) == {}


@pytest.mark.parametrize(
    ("purchase", "quantities", "first", "second"),
    [
        (UNKNOWN, {}, "no_lines", "unknown_purchase"),
        (None, {9: 0}, "invalid_argument", "unknown_line"),
        (None, {1: 9, 9: 1}, "unknown_line", "returned_too_much"),
    ],
)
def test_of_several_refusals_the_first_in_the_catalogue_wins(
    purchase: UUID | None, quantities: dict[int, int], first: str, second: str
) -> None:
    order = list(REFUSALS)
    assert order.index(first) < order.index(second)
    customer = registered()
    bought = customer.record_purchase(stamp(), [line(3, 1000)], currency="USD")
    refused(first, lambda: customer.record_return(stamp(1), purchase or bought.event_id, quantities, None), customer)


def test_nothing_comes_back_before_it_was_bought() -> None:
    customer = registered()
    bought = customer.record_purchase(stamp(1000), [line(3, 1000)], currency="USD")
    error = refused(
        "effective_too_early", lambda: customer.record_return(stamp(999), bought.event_id, {1: 1}, None), customer
    )
    assert error.values == {"effective_us": 999, "earliest_us": 1000}
    customer.record_return(stamp(1000), bought.event_id, {1: 1}, None)


def test_a_return_is_refused_by_the_codes_of_the_catalogue_in_their_order() -> None:
    # Each call is wrong in what its code names and in all that stands below it.
    codes = ["invalid_argument", "unknown_customer", "no_lines", "unknown_purchase", "unknown_line",
             "returned_too_much", "effective_too_early"]  # fmt: skip
    assert sorted(codes, key=list(REFUSALS).index) == codes
    customer = registered()
    bought = customer.record_purchase(stamp(1000), [line(3, 1000)], currency="USD").event_id
    nobody = Customer(CUSTOMER).draft([])
    calls: list[tuple[Customer, UUID, dict[int, int]]] = [
        (nobody, UNKNOWN, {9: 0}),
        (nobody, UNKNOWN, {}),
        (customer, UNKNOWN, {}),
        (customer, UNKNOWN, {9: 9, 1: 9}),
        (customer, bought, {9: 9, 1: 9}),
        (customer, bought, {1: 9}),
        (customer, bought, {1: 1}),
    ]
    for code, (who, purchase, quantities) in zip(codes, calls, strict=True):
        refused(code, partial(who.record_return, stamp(999), purchase, quantities, None), who)


@pytest.mark.parametrize("wrong", [0, -1, 10**12 + 1, 1.0, "1", True, None])
def test_a_returns_lines_and_pieces_are_whole_numbers(wrong: Any) -> None:
    customer = registered()
    bought = customer.record_purchase(stamp(), [line(3, 1000)], currency="USD")
    for quantities in ({wrong: 1}, {1: wrong}):
        refused(
            "invalid_argument", partial(customer.record_return, stamp(1), bought.event_id, quantities, None), customer
        )


def test_an_external_id_or_a_contact_point_does_not_go_before_it_came() -> None:
    customer = registered()
    customer.link_identifier(stamp(1000), "shop", "S-1")
    point = customer.add_contact_point(stamp(1000), "email", "a@b").point_id
    for act in (
        lambda at: customer.remove_identifier(stamp(at), "shop"),
        lambda at: customer.remove_contact_point(stamp(at), point),
    ):
        error = refused("effective_too_early", partial(act, 999), customer)
        assert error.values == {"effective_us": 999, "earliest_us": 1000}
        act(1000)
    assert (customer.identifiers, customer.contact_points) == ({}, {})


def test_what_a_customer_holds_says_since_when() -> None:
    customer = registered()
    customer.link_identifier(stamp(5), "shop", "S-1")
    point = customer.add_contact_point(stamp(6), "email", "a@b")
    bought = customer.record_purchase(stamp(7), [line(3, 1000)], currency="USD")
    assert customer.identifiers == {"shop": 5}
    assert customer.contact_points == {point.point_id: 6}
    assert dict(customer.purchases) == {bought.event_id: (7, ((3, 1000),))}


def test_an_order_is_worth_at_most_what_can_be_counted() -> None:
    customer = registered()
    half = ORDER_MINOR_MAX // 2
    refused(
        "invalid_argument",
        lambda: customer.record_purchase(stamp(), [line(1, half), line(1, half + 1)], currency="USD"),
        customer,
    )
    nobody = Customer(CUSTOMER).draft([])
    refused(
        "invalid_argument",
        lambda: nobody.record_purchase(stamp(), [line(1, ORDER_MINOR_MAX + 1)], currency="USD"),
        nobody,
    )
    assert customer.record_purchase(stamp(), [line(1, half), line(1, half)], currency="USD").net_minor == 10**12


@settings(deadline=None, print_blob=True)
@given(quantity=st.integers(1, 40), net=st.integers(0, 10**9), data=st.data())
def test_partial_returns_of_a_line_add_up_to_its_net_and_never_exceed_it(
    quantity: int, net: int, data: st.DataObject
) -> None:
    customer = registered()
    bought = customer.record_purchase(stamp(), [line(quantity, net)], currency="USD")
    left, back = quantity, 0
    while left:
        pieces = data.draw(st.integers(1, left), label="pieces")
        fact = customer.record_return(stamp(1), bought.event_id, {1: pieces}, None)
        left -= pieces
        back += fact.net_minor
        assert fact.net_minor >= 0
        # To the last minor unit, what is back is the share of the pieces that are back.
        assert back == net * (quantity - left) // quantity
    assert back == net
    assert customer.returned[(bought.event_id, 1)] == (quantity, net)


def test_a_customer_is_the_fold_of_its_events() -> None:
    journal: list[Event] = []
    customer = registered(journal)
    customer.change(stamp(1), {"country": "IT"}, ["name"])
    customer.link_identifier(stamp(2), "shop", "S-1")
    customer.add_contact_point(stamp(3), "email", "a@b")
    bought = customer.record_purchase(stamp(4), [line(3, 1000)], currency="USD")
    customer.record_return(stamp(5), bought.event_id, {1: 1}, None)
    folded = Customer.fold(None, journal)
    assert folded is not None
    assert {**vars(folded), "journal": None} == {**vars(customer), "journal": None}


def test_profile_fields_are_the_same_for_registering_and_changing() -> None:
    for name in PROFILE_FIELDS:
        assert name in CustomerRegistered.model_fields
        assert name in CustomerChanged.model_fields
    assert set(CustomerRegistered.personal_fields) == set(CustomerChanged.personal_fields)
