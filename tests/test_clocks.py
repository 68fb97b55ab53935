"""Several hosts on one book, whose clocks differ: what happens now never fails for that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from uuid import UUID

import pytest

import tallybook
from tallybook import Book, Refused

START_US = 1_800_000_000_000_000
BEHIND_US = 3_600_000_000
LINE = {"sku": "s", "quantity": 2, "net_minor": 40_000}


def on_time() -> int:
    return START_US


def behind() -> int:
    return START_US - BEHIND_US


@pytest.fixture
def hosts(book_url: str) -> Iterator[tuple[Book, Book]]:
    """A host, and another whose clock is an hour behind."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(tallybook.open(book_url, now_us=clock)) for clock in (on_time, behind))
        for one in (first, second):
            stack.enter_context(one.acting("agent:lin", purpose="support"))
        first.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
        yield first, second


def times(book: Book, name: str) -> list[int]:
    return [event.effective_us for _, event in book.follow(names=[name], timeout_s=0)]


def customer(book: Book) -> UUID:
    made = book.customers.register(name="Ada")
    book.loyalty.enrol(made)
    return made


def sound(book: Book) -> None:
    assert book.replay().holds
    assert all(check.holds for check in book.audit.verify())


def test_a_ticket_that_one_host_opened_is_worked_on_by_another_at_once(hosts: tuple[Book, Book]) -> None:
    first, second = hosts
    case = first.tickets.open(customer(first), subject="Parcel damaged", kind="complaint")
    second.tickets.assign(case, "agent:lin")
    second.tickets.reply(case, "We are sorry.")
    second.tickets.resolve(case, "replaced")
    second.tickets.compensate(case, 50)
    second.tickets.record_satisfaction(case, 5)
    second.tickets.close(case)
    assert second.tickets.get(case).first_response_minutes == 0
    assert set(times(first, "ticket.replied")) == set(times(first, "loyalty.goodwill_granted")) == {START_US}
    recorded = [event.metadata.recorded_us for _, event in first.follow(names=["ticket.replied"], timeout_s=0)]
    assert recorded == [START_US - BEHIND_US]  # what the host's clock showed
    sound(first)


def test_a_return_is_dated_when_it_was_bought_at_the_earliest(hosts: tuple[Book, Book]) -> None:
    first, second = hosts
    ada = customer(first)
    first.customers.record_purchase(ada, [LINE], order_id="one")
    second.customers.record_return(ada, {1: 1}, order_id="one")
    assert times(first, "customer.return_recorded") == [START_US]
    assert second.loyalty.redeem(ada, 100, reward="voucher").points == 100
    assert times(first, "loyalty.redemption_requested") == [START_US]
    sound(first)


def test_what_was_added_is_removed_on_another_host(hosts: tuple[Book, Book]) -> None:
    first, second = hosts
    ada = customer(first)
    first.customers.link_identifier(ada, "crm", "1")
    point = first.customers.add_contact_point(ada, "email", "ada@example.org")
    second.customers.remove_identifier(ada, "crm", "1")
    second.customers.remove_contact_point(ada, point)
    assert second.customers.find("crm", "1") is None


def test_two_hosts_sweep_one_after_the_other(hosts: tuple[Book, Book]) -> None:
    first, second = hosts
    customer(first)
    assert first.loyalty.sweep().until == second.loyalty.sweep().until
    with pytest.raises(Refused) as refused:
        second.loyalty.sweep("2020-01-02T00:00:00Z")
    assert refused.value.code == "sweep_goes_back"


def test_a_time_that_was_given_is_taken_at_its_word(hosts: tuple[Book, Book]) -> None:
    first, _ = hosts
    case = first.tickets.open(customer(first), subject="Parcel damaged")
    for host in hosts:
        with pytest.raises(Refused) as refused:
            host.tickets.reply(case, "We are sorry.", effective_at="2026-01-01T00:00:00Z")
        assert refused.value.code == "effective_too_early"
