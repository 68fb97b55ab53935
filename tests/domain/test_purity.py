"""The domain touches no clock, no disk, no socket and no random source: they are poisoned here, and nothing happens."""

from __future__ import annotations

import builtins
import datetime as datetime_module
import os
import random
import secrets
import socket
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import eventsourcing.domain
import pytest

from tallybook.domain.customer import Customer
from tallybook.domain.errors import Refused
from tallybook.domain.events import Metadata
from tallybook.domain.loyalty import LoyaltyAccount
from tallybook.domain.ticket import Author, Ticket, TicketKind
from tallybook.projections.backtest import backtest
from tallybook.projections.replay import certify

if TYPE_CHECKING:
    from tests.domain.conftest import World


class Touched(BaseException):
    """Something impure was called. Not an Exception, so that nothing swallows it."""


def poison(*_: Any, **__: Any) -> NoReturn:
    raise Touched


class PoisonedDatetime(datetime_module.datetime):
    """A datetime that knows no now."""

    now = utcnow = today = classmethod(poison)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in {
        time: ["time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "localtime", "gmtime", "sleep"],
        uuid: ["uuid1", "uuid4"],
        os: ["urandom", "getrandom", "open", "stat", "listdir"],
        random: ["random", "randint", "getrandbits", "choice"],
        secrets: ["token_bytes", "token_hex", "randbits"],
        socket: ["socket", "create_connection"],
        builtins: ["open"],
        eventsourcing.domain: ["datetime_now_with_tzinfo", "uuid4"],
    }.items():
        for name in names:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, poison)
    monkeypatch.setattr(datetime_module, "datetime", PoisonedDatetime)
    for module in list(vars(eventsourcing.domain).values()):
        if module is datetime_module.datetime:
            monkeypatch.setattr(eventsourcing.domain, "datetime", PoisonedDatetime)


def test_the_poison_works(poisoned: None) -> None:
    acts: list[Callable[[], object]] = [
        time.time, time.time_ns, uuid.uuid4, partial(os.urandom, 1), partial(builtins.open, "x"), socket.socket,
        datetime_module.datetime.now, eventsourcing.domain.datetime_now_with_tzinfo,
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(Touched):
            act()


def test_all_loyalty_commands_and_folds_run_without_clock_disk_and_chance(
    new_world: Callable[..., World], rules_with: Callable[..., Any], poisoned: None
) -> None:
    world = new_world()
    world.enrol(0 + 10**15)
    purchase = world.buy(10**15 + 1, 20_000, 10_000)
    world.redeem(10**15 + 2, 120)
    world.redeem(10**15 + 2, 10**6)
    world.give_back(10**15 + 3, purchase, {1: 1})
    world.goodwill(10**15 + 4, 30)
    world.adopt(rules_with(version="2", expiry={"days": 9}), 10**15 + 5)
    world.sweep(10**15 + 10**14)
    world.buy(10**15 + 6, 500)
    account = world.accounts["ada"]
    folded = LoyaltyAccount.fold(None, [event for event in world.log if event.originator_id == account.id])
    assert folded is not None
    assert folded.active == account.active
    assert Customer.fold(None, [event for event in world.log if event.originator_id == world.customers["ada"].id])
    assert certify(world.history()).holds
    rules = world.control.rule_book.in_force("main", 10**15)
    assert rules is not None
    assert backtest(world.history(), rules).accounts == 1


def test_customers_and_tickets_run_without_clock_disk_and_chance(
    new_world: Callable[..., World], poisoned: None
) -> None:
    world = new_world()
    world.enrol(10**15)
    stamp = world.stamp(10**15)
    customer = world.customers["ada"].draft([])
    customer.change(stamp, {"country": "IT", "name": "Ada"}, ["owner"])
    customer.link_identifier(stamp, "shop", "1")
    point = customer.add_contact_point(stamp, "email", "a@b")
    customer.remove_contact_point(stamp, point.point_id)
    customer.remove_identifier(stamp, "shop")
    customer.record_interaction(stamp, "visit", "in", None, "text")
    ticket = Ticket(UUID(int=4)).draft([])
    ticket.open(stamp, customer.id, TicketKind.COMPLAINT, "subject", None, None)
    ticket.assign(stamp, "agent:lin")
    ticket.reply(stamp, "text", Author.HUMAN, True)
    ticket.compensate(stamp, 5, "sorry")
    ticket.resolve(stamp, "done", None)
    ticket.record_satisfaction(stamp, 5, None)
    ticket.close(stamp)
    with pytest.raises(Refused):
        ticket.close(stamp)


def test_every_event_takes_its_id_and_its_times_from_the_stamp(new_world: Callable[..., World]) -> None:
    world = new_world()
    world.enrol("2020-01-01")
    world.buy("2020-01-02", 30_000)
    world.redeem("2020-01-03", 50)
    world.sweep("2022-01-01")
    assert len({event.event_id for event in world.log}) == len(world.log)
    assert all(event.event_id.int < 10**6 for event in world.log)
    assert all(isinstance(event.metadata, Metadata) and event.metadata.recorded_us < 1000 for event in world.log)


def test_the_same_commands_give_the_same_events_to_the_last_byte(new_world: Callable[..., World]) -> None:
    def story() -> list[Any]:
        world = new_world()
        world.enrol("2020-01-01")
        purchase = world.buy("2020-01-02", 30_000, 777)
        world.redeem("2020-01-03", 50)
        world.give_back("2020-01-04", purchase, {2: 1})
        world.sweep("2022-01-01")
        return world.log

    assert story() == story()
