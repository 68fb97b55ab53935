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
    AccountClosed,
    AccountResumed,
    AccountSuspended,
    ActivityRecorded,
    CorrectionRecorded,
    CouponClosed,
    CouponIssued,
    CouponRefused,
    CouponUsed,
    CouponVoided,
    EarningConfirmed,
    EarningRefused,
    EarningReversed,
    EarningWithdrawn,
    ExtensionGranted,
    HoldRefused,
    HoldReleased,
    HoldReleaseRequested,
    HoldRequested,
    LotPart,
    LotsExtended,
    NewLot,
    PointsActivated,
    PointsCorrected,
    PointsCredited,
    PointsEarned,
    PointsExpired,
    PointsHeld,
    PointsRedeemed,
    PointsTransferred,
    RedemptionRefused,
    RedemptionRequested,
    RedemptionReturned,
    RedemptionReversed,
    ReferralCredited,
    ReinstatementGranted,
    TierChanged,
    TierOverridden,
    TierOverrideLifted,
    TransferReceived,
    TransferRefused,
    TransferRequested,
    lot_of,
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

    def tell(
        self, at: str | int, kind: type[Event], *, ref: str = "", name: str = "ada", **fields: Any
    ) -> tuple[Event, Event | None]:
        """A fact on the account, and what it decides."""
        stamp = self.stamp(at)
        found: list[tuple[Event, Event | None]] = []
        self._on_account(name, lambda account: found.append(account.tell(kind, stamp, self.control, **fields)))
        if ref:
            self.purchases[ref] = found[0][0].event_id
        return found[0]

    def transfer(self, at: str | int, points: int, to: str, name: str = "ada") -> Event | None:
        """Points go to another account: a fact on each. What the first decides."""
        there = self.accounts[to].id
        request, sent = self.tell(at, TransferRequested, points=points, to_account=there, name=name)
        if isinstance(sent, PointsTransferred):
            self.tell(
                at,
                TransferReceived,
                name=to,
                transfer_id=request.event_id,
                from_account=self.accounts[name].id,
                lots=sent.lots,
            )
        return sent

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

    Columns stand two or more spaces apart and are named by the first row: `when` (effective), `what`, then any of
    `balance`, `pending`, `held`, `debt`, `tier`, `status`, and `decided` as the last. Rows stand in the order of
    recording, so that a late fact is a row with an earlier date. `=` in a column: as in the row above.

    Commands: enrol · buy REF AMOUNT… · return REF [LINExPIECES…] · redeem POINTS [REF [REWARD]] · unredeem REF POINTS ·
    hold REF POINTS UNTIL · capture HOLD POINTS [REF] · release HOLD · visit REF QUANTITY · refer REF NUMBER ·
    confirm REF · withdraw REF · goodwill POINTS · adjust -POINTS [debt] · extend REF|all UNTIL · reinstate POINTS
    UNTIL · transfer POINTS NAME · override TIER UNTIL · lift · use REF · void REF ·
    suspend · resume · close · sweep · look.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def plays(self, table: str) -> None:
        """Run the table; on a difference, show both tables."""
        wanted, found = [], []
        head, *texts = table.strip().splitlines()
        columns = _ROUGH.split(head.strip())
        above = [""] * len(columns)
        for text in texts:
            row = _ROUGH.split(text.strip())
            row += [""] * (len(columns) - len(row))
            row = [above[place] if cell == "=" else cell for place, cell in enumerate(row)]
            above = row
            wanted.append(tuple(row))
            after = self._after(row[0], row[1])
            found.append((row[0], row[1], *(after[column] for column in columns[2:])))
        shown = ["\n" + "\n".join("  ".join(f"{cell:<12}" for cell in row).rstrip() for row in rows) for rows in
                 (wanted, found)]  # fmt: skip
        assert shown[1] == shown[0]

    def _after(self, when: str, what: str) -> dict[str, str]:
        world, refs = self.world, self.world.purchases
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
                points, ref, reward = [*words, "", ""][:3]
                world.tell(when, RedemptionRequested, ref=ref, points=int(points), reward=reward or "R1")
            case "unredeem":
                back: dict[str, Any] = {"redemption_id": refs[words[0]], "points": int(words[1])}
                world.tell(when, RedemptionReturned, **back, reason="cancelled")
            case "hold":
                world.tell(
                    when, HoldRequested, ref=words[0], points=int(words[1]), until_us=us(words[2]), purpose="booking"
                )
            case "capture":
                hold, ref = refs[words[0]], [*words, ""][2]
                world.tell(when, RedemptionRequested, ref=ref, points=int(words[1]), reward="R1", hold_id=hold)
            case "release":
                world.tell(when, HoldReleaseRequested, hold_id=refs[words[0]])
            case "visit":
                world.tell(when, ActivityRecorded, ref=words[0], activity="visit", quantity=int(words[1]))
            case "refer":
                came: dict[str, Any] = {"occasion": "registration", "role": "referrer", "fact_id": UUID(int=7)}
                world.tell(when, ReferralCredited, ref=words[0], number=int(words[1]), **came)
            case "confirm":
                world.tell(when, EarningConfirmed, fact_id=refs[words[0]])
            case "withdraw":
                world.tell(when, EarningWithdrawn, fact_id=refs[words[0]], reason="undone")
            case "adjust":
                debt = "debt" in words
                world.tell(when, CorrectionRecorded, points=-int(words[0]), into_debt=debt, reason="mistake")
            case "extend":
                lot = None if words[0] == "all" else refs[words[0]]
                world.tell(when, ExtensionGranted, lot_id=lot, until_us=us(words[1]), reason="sorry")
            case "reinstate":
                until = us(words[1])
                world.tell(when, ReinstatementGranted, points=int(words[0]), until_us=until, reason="sorry")
            case "transfer":
                world.transfer(when, int(words[0]), words[1])
            case "override":
                world.tell(when, TierOverridden, tier=words[0], until_us=us(words[1]), reason="vip")
            case "lift":
                world.tell(when, TierOverrideLifted, reason="over")
            case "use":
                world.tell(when, CouponUsed, coupon_id=refs[words[0]])
            case "void":
                world.tell(when, CouponVoided, coupon_id=refs[words[0]], reason="lost")
            case "suspend":
                world.tell(when, AccountSuspended, reason="fraud")
            case "resume":
                world.tell(when, AccountResumed, reason="cleared")
            case "close":
                world.tell(when, AccountClosed, reason="left")
            case "goodwill":
                world.goodwill(when, int(words[0]))
            case "sweep":
                world.sweep(when)
            case "look":
                account = world.look(when)
            case _:
                raise AssertionError(f"no such command: {what}")
        account = account or world.accounts["ada"]
        decided = [
            self._told(event, when)
            for event in world.log[before:]
            if isinstance(event, Decision) and event.originator_id == account.id
        ]
        return {
            "balance": str(account.active),
            "pending": str(account.bucket("pending")),
            "held": str(account.bucket("held")),
            "debt": str(account.debt),
            "tier": account.tier or "none",
            "status": account.status,
            "decided": ", ".join(decided),
        }

    def _told(self, event: Decision, when: str) -> str:
        match event:
            case PointsEarned():
                text = f"+{event.points}"
                if event.debt_paid:
                    text += f" (debt {event.debt_paid})"
                if event.pending:
                    text += " pending"
                    text += "" if event.activates_us == NEVER else f" to {day(event.activates_us)}"
                text += " for ever" if event.expires_us == NEVER else f" until {day(event.expires_us)}"
            case PointsRedeemed():
                text = f"-{event.points} ({self._lots(event.lots)})"
            case PointsCredited():
                text = f"+{sum(lot.points for lot in event.lots)}{self._paid(event.debt_paid)}"
                text += f" of {self._lots(event.expired)}" if event.expired else ""
                expires_us = event.lots[0].expires_us
                text += " for ever" if expires_us == NEVER else f" until {day(expires_us)}"
            case RedemptionRefused() | HoldRefused() | TransferRefused():
                text = f"refused {event.points} of {event.active}"
                text += "" if event.code == "insufficient_points" else f" {event.code}"
            case EarningRefused():
                text = f"no +{event.points} {event.code}"
            case PointsActivated():
                text = f"active {self._lots(event.lots)}{self._paid(event.debt_paid)}"
            case RedemptionReversed():
                parts = [f"reversed {self._lots(event.reversed)}"] if event.reversed else []
                parts += [self._lots(event.restored)] if event.restored else []
                parts += [f"lapsed {self._lots(event.lapsed)}"] if event.lapsed else []
                parts += [f"new until {day(event.new_lot.expires_us)}"] if event.new_lot else []
                text = f"again {event.points} ({' '.join(parts)}){self._paid(event.debt_paid)}"
            case PointsHeld():
                text = f"held {event.points} ({self._lots(event.lots)}) until {day(event.until_us)}"
            case HoldReleased():
                parts = [f"reversed {self._lots(event.reversed)}"] if event.reversed else []
                parts += [self._lots(event.lots)] if event.lots else []
                text = f"{event.reason} {' '.join(parts)}{self._paid(event.debt_paid)}"
            case PointsTransferred():
                text = f"sent {event.points} ({self._lots(event.lots)})"
            case PointsCorrected():
                parts = [self._lots(event.lots)] if event.lots else []
                parts += [f"debt {event.debt}"] if event.debt else []
                parts += [f"missing {event.missing}"] if event.missing else []
                text = f"taken {event.points} ({' '.join(parts)})"
            case LotsExtended():
                text = f"extended until {day(event.expires_us)}"
            case CouponIssued():
                text = f"coupon {event.reward} until {day(event.expires_us)}"
            case CouponClosed():
                text = f"coupon {event.outcome}"
            case CouponRefused():
                text = f"refused {event.code}"
            case PointsExpired():
                parts = [self._lots(event.lots)] if event.lots else []
                parts += [f"pending {self._lots(event.pending)}"] if event.pending else []
                text = f"expired {event.points} ({' '.join(parts)})"
                text += "" if event.reason == "expiry" else f" {event.reason}"
            case EarningReversed():
                parts = [f"pending {event.pending}"] if event.pending else []
                parts += [self._lots(event.lots)] if event.lots else []
                parts += [f"debt {event.debt}"] if event.debt else []
                parts += [f"forgiven {event.forgiven}"] if event.forgiven else []
                text = f"back {event.points} ({' '.join(parts)})"
            case TierChanged():
                text = event.tier
            case _:
                raise AssertionError(event)
        dated = day(event.effective_us)
        return text if dated == when else f"{text} on {dated}"

    def _paid(self, parts: tuple[LotPart, ...]) -> str:
        return f" (debt {sum(part.points for part in parts)})" if parts else ""

    def _lots(self, parts: tuple[LotPart, ...] | tuple[NewLot, ...]) -> str:
        names: dict[UUID, str] = {}
        for ref, fact in self.world.purchases.items():
            names |= {fact: ref, **{lot_of(fact, number): f"{ref}/{number}" for number in range(1, 4)}}
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
