"""A small world for tests of the domain alone: one book's control stream, customers and their accounts, no adapters.

`World` does with drafts what the front door does with transactions: settle, record, receive. `Ledger` reads a table of
dated commands as an accountant would write it, and compares each row's decisions, balance, debt and tier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest

from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import UTC_ZONE, Zone
from tallybook.domain.control import Control
from tallybook.domain.customer import Customer, CustomerKind, Line, PurchaseRecorded
from tallybook.domain.events import Decision, Event, Metadata, to_us
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import LoyaltyAccount, Redemption, account_id
from tallybook.domain.points import (
    EarningReversed,
    LotPart,
    PointsCredited,
    PointsEarned,
    PointsExpired,
    PointsRedeemed,
    RedemptionRefused,
    TierChanged,
)
from tallybook.domain.rules import RuleSet, parse_rule_set
from tallybook.projections.read_models import Recorded

STANDARD: dict[str, Any] = {
    "name": "standard",
    "version": "1",
    "currency": "USD",
    "earning": [{"id": "base", "kind": "per_amount", "points": 1, "per_minor": 100}],
    "expiry": {"months": 12, "until": "month_end"},
    "tiers": {
        "window_months": 12,
        "levels": [
            {"name": "basic", "threshold": 0},
            {"name": "silver", "threshold": 100},
            {"name": "gold", "threshold": 300},
        ],
    },
}

_ROUGH = re.compile(r"\s{2,}")


def us(text: str) -> int:
    """µs of "2020-07-06" or "2020-07-06 15:00", in UTC."""
    from datetime import UTC, datetime

    return to_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


def day(at_us: int) -> str:
    """The UTC date, with the time where it is not midnight."""
    from tallybook.domain.events import from_us

    moment = from_us(at_us)
    return f"{moment:%Y-%m-%d}" if at_us % 86_400_000_000 == 0 else f"{moment:%Y-%m-%d %H:%M}"


def rule_set(**changes: Any) -> RuleSet:
    """The standard document with some parts replaced."""
    return parse_rule_set({**STANDARD, **changes}, "test")


class World:
    """One control stream, and customers with one account each in the programme `main`."""

    def __init__(self, rules: RuleSet | None = None, since: str = "2000-01-01", zone: Zone = UTC_ZONE) -> None:
        self._ids = self._counted()
        self.now_us = 0
        self.log: list[Event] = []
        self.zone = zone
        self.control = Control(UUID(int=1))
        self.customers: dict[str, Customer] = {}
        self.accounts: dict[str, LoyaltyAccount] = {}
        self.purchases: dict[str, UUID] = {}
        if rules is not None:
            self.adopt(rules, since)

    @staticmethod
    def _counted() -> Iterator[UUID]:
        number = 1000
        while True:
            number += 1
            yield UUID(int=number)

    def stamp(self, at: str | int) -> Stamp:
        """What a command dated so would give to its events."""
        self.now_us += 1
        metadata = Metadata(recorded_us=self.now_us, actor="agent:test", purpose="test")
        return Stamp(metadata, us(at) if isinstance(at, str) else at, lambda: next(self._ids))

    def history(self) -> list[Recorded]:
        """All that was recorded, with positions."""
        return [Recorded(position, event) for position, event in enumerate(self.log, 1)]

    def decisions(self, name: str = "ada") -> list[Decision]:
        """The decisions of one account, in order."""
        stream = self.accounts[name].id
        return [event for event in self.log if isinstance(event, Decision) and event.originator_id == stream]

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────

    def adopt(self, rules: RuleSet, at: str | int, zone: Zone | None = None) -> None:
        """Put a rule set in force, with its zone (default: the world's). A sweep that was cut short goes on first."""
        if not self.control.sweep_is_finished and self.control.horizon_us is not None:
            self.sweep(self.control.horizon_us)
        journal: list[Event] = []
        draft = self.control.draft(journal)
        draft.adopt(self.stamp(at), rules, zone or self.zone)
        self.control = self._kept(draft, journal)

    def sweep(self, until: str | int, *, follow: bool = True) -> None:
        """Announce a sweep; with `follow`, every account follows it and the sweep is finished."""
        until_us = us(until) if isinstance(until, str) else until
        journal: list[Event] = []
        control = self.control.draft(journal)
        control.sweep(self.stamp(until_us), until_us)
        self.control = self._kept(control, journal)
        if not follow:
            return
        for name in list(self.accounts):
            self._on_account(name, lambda account: account.settle(self.stamp(until_us), until_us, self.control))
        journal = []
        control = self.control.draft(journal)
        control.finish_sweep(self.stamp(until_us), len(self.accounts), 0)
        self.control = self._kept(control, journal)

    def enrol(self, at: str | int, name: str = "ada") -> None:
        """Register a customer if need be, and open an account."""
        customer = self._customer(name)
        self.accounts.setdefault(name, LoyaltyAccount(account_id(customer.id, "main")))
        stamp = self.stamp(at)
        self._on_account(name, lambda account: account.enrol(stamp, customer.id, "main", self.control))

    def buy(
        self, at: str | int, *net_minor: int, ref: str = "", name: str = "ada", currency: str = "USD", **line: Any
    ) -> UUID:
        """A purchase with a line of one piece for each amount; its id."""
        lines = [Line(**{"sku": "sku", "quantity": 1, "net_minor": net, **line}) for net in net_minor]
        return self.buy_lines(at, lines, ref=ref, name=name, currency=currency)

    def buy_lines(
        self, at: str | int, lines: list[Line], *, ref: str = "", name: str = "ada", currency: str = "USD"
    ) -> UUID:
        """A purchase, and what it decides."""
        stamp = self.stamp(at)
        journal: list[Event] = []
        customer = self._customer(name).draft(journal)
        account = self._account(name).draft(journal)
        account.settle(stamp, stamp.effective_us, self.control)
        fact = customer.record_purchase(stamp, lines, currency=currency)
        if account.enrolled:
            account.receive(fact, stamp, self.control)
        self.customers[name] = self._kept(customer, journal)
        self.accounts[name] = self._kept(account, [])
        if ref:
            self.purchases[ref] = fact.event_id
        return fact.event_id

    def give_back(
        self, at: str | int, purchase: UUID | str, quantities: Mapping[int, int] | None = None, name: str = "ada"
    ) -> None:
        """A return of pieces of lines (default: all of them), and what it decides."""
        stamp = self.stamp(at)
        journal: list[Event] = []
        customer = self._customer(name).draft(journal)
        account = self._account(name).draft(journal)
        purchase_id = self.purchases[purchase] if isinstance(purchase, str) else purchase
        if quantities is None:
            _, bought = customer.purchases[purchase_id]
            quantities = {number: quantity for number, (quantity, _) in enumerate(bought, 1)}
        account.settle(stamp, stamp.effective_us, self.control)
        fact = customer.record_return(stamp, purchase_id, quantities, None)
        if account.enrolled:
            account.receive(fact, stamp, self.control)
        self.customers[name] = self._kept(customer, journal)
        self.accounts[name] = self._kept(account, [])

    def redeem(self, at: str | int, points: int, name: str = "ada") -> Redemption:
        """Spend points."""
        stamp = self.stamp(at)
        found: list[Redemption] = []
        self._on_account(name, lambda account: found.append(account.redeem(stamp, points, "R1", self.control)))
        return found[0]

    def goodwill(self, at: str | int, points: int, name: str = "ada") -> None:
        """Give points for a reason outside of the earning rules."""
        stamp = self.stamp(at)
        self._on_account(name, lambda account: account.grant_goodwill(stamp, points, "sorry", None, self.control))

    def look(self, at: str | int, name: str = "ada") -> LoyaltyAccount:
        """The account as it stands at a moment, with what is due by then. Records nothing."""
        draft = self.accounts[name].draft([])
        at_us = us(at) if isinstance(at, str) else at
        draft.settle_until(self.stamp(at_us), at_us, self.control.rule_book)
        return draft

    # ── how ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _customer(self, name: str) -> Customer:
        if name not in self.customers:
            number = len(self.customers) + 1
            journal: list[Event] = []
            draft = Customer(UUID(int=number << 64)).draft(journal)
            draft.register(self.stamp(0), CustomerKind.PERSON, key_id=number, commitment=b"c", fields={})
            self.customers[name] = self._kept(draft, journal)
        return self.customers[name]

    def _account(self, name: str) -> LoyaltyAccount:
        return self.accounts.get(name) or LoyaltyAccount(account_id(self._customer(name).id, "main"))

    def _on_account(self, name: str, act: Callable[[LoyaltyAccount], object]) -> None:
        journal: list[Event] = []
        draft = self._account(name).draft(journal)
        act(draft)
        self.accounts[name] = self._kept(draft, journal)

    def _kept(self, draft: Any, journal: list[Event]) -> Any:
        self.log += journal
        draft.journal = None
        return draft


class Ledger:
    """Dated commands and what the account decides and holds after each, as a table.

    Columns stand two or more spaces apart: `when` (effective), `what`, `balance`, `debt`, `tier`, `decided`. Rows stand
    in the order of recording, so that a late fact is a row with an earlier date. `=` in a column: as in the row above.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def plays(self, table: str) -> None:
        """Run the table; on a difference, show both tables."""
        wanted, found = [], []
        above = ["", "", "0", "0", "none"]
        for text in table.strip().splitlines()[1:]:
            row = _ROUGH.split(text.strip())
            row += [""] * (6 - len(row))
            row[2:5] = [above[i] if row[i] == "=" else row[i] for i in range(2, 5)]
            above = row[:5]
            wanted.append(tuple(row))
            found.append((row[0], row[1], *self._after(row[0], row[1])))
        shown = ["\n" + "\n".join("  ".join(f"{cell:<12}" for cell in row).rstrip() for row in rows) for rows in
                 (wanted, found)]  # fmt: skip
        assert shown[1] == shown[0]

    def _after(self, when: str, what: str) -> tuple[str, str, str, str]:
        world = self.world
        verb, *words = what.split()
        before = len(world.log)
        account: LoyaltyAccount | None = None
        match verb:
            case "enrol":
                world.enrol(when)
            case "buy":
                world.buy(when, *(_minor(word) for word in words[1:]), ref=words[0])
            case "return":
                pieces = {int(line): int(many) for line, _, many in (word.partition("x") for word in words[1:])}
                world.give_back(when, words[0], pieces or None)
            case "redeem":
                world.redeem(when, int(words[0]))
            case "goodwill":
                world.goodwill(when, int(words[0]))
            case "sweep":
                world.sweep(when)
            case "look":
                account = world.look(when)
            case _:
                raise AssertionError(f"no such command: {what}")
        account = account or world.accounts["ada"]
        decided = [self._told(event, when) for event in world.log[before:] if isinstance(event, Decision)]
        return str(account.active), str(account.debt), account.tier or "none", ", ".join(decided)

    def _told(self, event: Decision, when: str) -> str:
        match event:
            case PointsEarned():
                text = f"+{event.points}"
                if event.debt_paid:
                    text += f" (debt {event.debt_paid})"
                text += " for ever" if event.expires_us == NEVER else f" until {day(event.expires_us)}"
            case PointsRedeemed():
                text = f"-{event.points} ({self._lots(event.lots)})"
            case PointsCredited():
                text = f"+{sum(lot.points for lot in event.lots)}"
                if event.debt_paid:
                    text += f" (debt {sum(part.points for part in event.debt_paid)})"
                expires_us = event.lots[0].expires_us
                text += " for ever" if expires_us == NEVER else f" until {day(expires_us)}"
            case RedemptionRefused():
                text = f"refused {event.points} of {event.active}"
            case PointsExpired():
                text = f"expired {event.points} ({self._lots(event.lots)})"
            case EarningReversed():
                parts = [self._lots(event.lots)] if event.lots else []
                parts += [f"debt {event.debt}"] if event.debt else []
                parts += [f"forgiven {event.forgiven}"] if event.forgiven else []
                text = f"back {event.points} ({' '.join(parts)})"
            case TierChanged():
                text = event.tier
            case _:
                raise AssertionError(event)
        dated = day(event.effective_us)
        return text if dated == when else f"{text} on {dated}"

    def _lots(self, parts: tuple[LotPart, ...]) -> str:
        names = {purchase: ref for ref, purchase in self.world.purchases.items()}
        return " ".join(f"{names.get(part.lot_id, 'goodwill')} {part.points}" for part in parts)


def _minor(text: str) -> int:
    whole, _, cents = text.partition(".")
    return int(whole) * 100 + int(cents.ljust(2, "0") or 0)


@pytest.fixture(scope="session")
def new_world() -> Callable[..., World]:
    """Makes a world under the standard rule set with some parts replaced."""

    def make(**changes: Any) -> World:
        zone = changes.pop("frozen", UTC_ZONE)
        return World(rule_set(**changes), zone=zone)

    return make


@pytest.fixture(scope="session")
def new_ledger(new_world: Callable[..., World]) -> Callable[..., Ledger]:
    """Makes a ledger on a world of its own."""

    def make(**changes: Any) -> Ledger:
        return Ledger(new_world(**changes))

    return make


@pytest.fixture(scope="session")
def rules_with() -> Callable[..., RuleSet]:
    """The standard rule set with some parts replaced."""
    return rule_set


__all__ = ["Customer", "Ledger", "PurchaseRecorded", "World", "us"]
