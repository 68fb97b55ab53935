"""An office that does its work honestly for half a year: who does what, when, and why. Planned from a seed, and
played on a book through its public interface alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

import tallybook
from tallybook import Book, BookDamaged, Refused

ZONE = "Europe/Berlin"
FIRST_DAY = date(2025, 1, 6)
"""A Monday. The clocks are put forward on 30 March."""
WEEKS = 26
DAYS = WEEKS * 7
CLIENTS = 260
MINUTE_US = 60_000_000
DAY_US = 24 * 60 * MINUTE_US

STRICT, LENIENT, NONE = "strict", "lenient", "none"
"""The office's access policy: stops marketing without consent, does not, or there is none."""

SUPPORT, SALES, NIGHT, MARKETING, SELF = "support", "sales", "night-line", "marketing", "self-service"
AUDIT, ADMINISTRATION, PRIVACY = "audit", "administration", "privacy"

LOOKING = ["profiles.*", "tickets.*", "customers.find", "customers.privacy"]
LINES = [{"sku": "lamp", "category": "home", "quantity": 1, "net_minor": 4900}]

Do = Callable[[Book], object]


def at_us(day: int, minute: int) -> int:
    """A minute of a local day, counted from the first."""
    local = datetime.combine(FIRST_DAY + timedelta(days=day), time(minute // 60, minute % 60), ZoneInfo(ZONE))
    return int(local.timestamp()) * 1_000_000


def is_weekday(day: int) -> bool:
    """Monday to Friday."""
    return day % 7 < 5


def policy(kind: str) -> dict[str, Any]:
    """The office's access policy."""
    marketing: dict[str, Any] = {"text": "Writing to customers", "basis": "legitimate_interests", "bulk": True}
    if kind == STRICT:
        marketing |= {"basis": "consent", "consent": MARKETING}
    office_hours = ["Mon-Fri 08:00-18:00"]

    def individual(text: str, *hours: str) -> dict[str, Any]:
        return {"text": text, "basis": "contract", "hours": list(hours)}

    def duty(text: str, basis: str = "legal_obligation") -> dict[str, Any]:
        return {"text": text, "basis": basis, "during_restriction": True, "bulk": True}

    def rule(role: str, purpose: str, actions: list[str], commands: list[str], **more: Any) -> dict[str, Any]:
        base = {"id": f"{role}-{purpose}", "roles": [role], "purposes": [purpose], "fields": ["*"]}
        return {**base, "actions": actions, "commands": commands, **more}

    return {
        "name": "office",
        "version": "1",
        "zone": ZONE,
        "purposes": {
            SUPPORT: individual("Answering customers", *office_hours),
            SALES: individual("Selling", "Mon-Sat 09:00-20:00"),
            NIGHT: individual("Answering customers at night", "Mon-Sun 20:00-24:00", "Mon-Sun 00:00-06:00"),
            SELF: individual("Customers look at their own data"),
            MARKETING: {**marketing, "hours": office_hours},
            AUDIT: duty("Showing that the rules are followed"),
            PRIVACY: duty("Answering those whose data it is"),
            ADMINISTRATION: duty("Running the book", "legitimate_interests"),
        },
        "rules": [
            rule("support", SUPPORT, [*LOOKING, "export.*"], ["customers.*", "tickets.*"]),
            rule(
                "sales",
                SALES,
                ["profiles.*", "customers.find", "customers.privacy"],
                ["customers.record_purchase", "customers.record_interaction", "customers.change", "customers.register"],
            ),
            rule("refunds", SALES, ["profiles.get"], ["customers.record_return"]),
            rule("night", NIGHT, LOOKING, ["customers.*", "tickets.*"]),
            rule("marketing", MARKETING, ["profiles.*", "export.*"], []),
            rule("auditor", AUDIT, ["*"], ["audit.*"], effect="allow"),
            rule("privacy", PRIVACY, ["*"], ["customers.*", "erasures.*", "retention.*"]),
            rule("admin", ADMINISTRATION, ["audit.*", "profiles.segments"], ["policy.*", "rules.*"]),
            rule("lead", ADMINISTRATION, ["profiles.segments"], ["customers.change"]),
            rule("job", ADMINISTRATION, ["profiles.segments", "export.*"], []),
            rule("*", SELF, ["profiles.*"], ["tickets.open", "customers.*"], id="everybody-their-own"),
        ],
    }


@dataclass(slots=True)
class Step:
    """Something that somebody does at a time. `look`: whom he looks at; `denied`: it has to be."""

    at_us: int
    actor: str
    purpose: str
    do: Do
    look: tuple[UUID, ...] = ()
    campaign: UUID | None = None
    denied: bool = False


@dataclass(slots=True)
class Client:
    """A customer. `consents`: to marketing, from when until when, in the order in which they were given."""

    id: UUID
    consents: list[tuple[int, int]] = field(default_factory=list)
    gone_us: int | None = None
    """When erased or restricted: nobody works with them from then on."""

    def consenting(self, at: int, margin_us: int = 0) -> bool:
        """Whether a consent is in force, well away from its ends."""
        return any(start + margin_us <= at < end - margin_us for start, end in self.consents)

    def refusing(self, at: int, margin_us: int) -> bool:
        """Whether none is in force, nor was or will be near that time."""
        return not any(start - margin_us <= at < end + margin_us for start, end in self.consents)


@dataclass(slots=True)
class Clerk:
    """Somebody who works with customers: when, and with whom he had business."""

    name: str
    purpose: str
    role: str
    days: set[int]
    met: dict[UUID, list[int]] = field(default_factory=dict)


NEVER = 2**62


class Office:
    """The plan: steps in their order of time."""

    def __init__(self, seed: str, kind: str) -> None:
        self.random = Random(f"{seed}/office")
        self.kind = kind
        self.steps: list[Step] = []
        self.tickets: dict[int, UUID] = {}
        self.clients = [Client(self.new_id()) for _ in range(CLIENTS)]
        self.admin = "admin:root"
        self.clerks: list[Clerk] = []
        self.marketers = ["marketing:ida", "marketing:tom"]
        self.campaign_days: dict[str, list[int]] = {name: [] for name in self.marketers}
        self.altered = False
        """Whether somebody from outside wrote in the log of events: nothing more is swept from then on."""
        self.unseen: set[UUID] = set()
        """Customers who were erased before anybody looked at them one by one; clerks tried to later."""
        self.asked: set[UUID] = set()
        """Customers with whom the whole desk had business for weeks."""
        self.late: set[str] = {"privacy:noor"}
        """Who opened profiles of erased customers, or erased them."""
        self.gaps: list[int] = []
        """Local days on which no policy is in force from 12:00 to 12:40."""
        self._import()
        self._hire()
        self._consents()
        self._duties()
        for clerk in self.clerks:
            self.work(clerk)
        self._calls_by_plan()
        self._storm()
        self._busy_week()
        self._campaigns()
        self._erasures()
        self._searches()
        self._typed_in_late()
        self._letters()

    def new_id(self) -> UUID:
        """A drawn id."""
        return UUID(int=self.random.getrandbits(128), version=4)

    def add(self, at: int, actor: str, purpose: str, do: Do, *look: UUID, campaign: UUID | None = None) -> None:
        """Plan an honest step."""
        self.steps.append(Step(at, actor, purpose, do, look, campaign))

    # ── beginnings ──────────────────────────────────────────────────────────────────────────────────────────────

    def _import(self) -> None:
        start = at_us(-2, 600)
        for number, client in enumerate(self.clients):
            self.add(start, self.admin, ADMINISTRATION, _register(client.id, number))
            if number % 6:
                self.add(start, self.admin, ADMINISTRATION, _purchase(client.id, f"old {number}"))

    def grant(self, actor: str, role: str, at: int | None = None) -> None:
        """Plan that the administrator gives a role."""
        if self.kind != NONE:
            at = at_us(-1, 600) if at is None else at
            self.add(at, self.admin, ADMINISTRATION, lambda book: book.policy.grant(actor, role))

    def revoke(self, actor: str, role: str, at: int) -> None:
        """Plan that the administrator takes a role away."""
        if self.kind != NONE:
            self.add(at, self.admin, ADMINISTRATION, lambda book: book.policy.revoke(actor, role))

    def hire(self, name: str, purpose: str, role: str, first: int = 0, last: int = DAYS) -> Clerk:
        """Somebody who works with customers from a day on until another."""
        days = [
            day for day in range(first, last) if day % 7 < (6 if purpose == SALES else 7 if purpose == NIGHT else 5)
        ]
        clerk = Clerk(name, purpose, role, set(days))
        self.grant(name, role, at_us(first, 7 * 60) if first else None)
        return clerk

    def _hire(self) -> None:
        random = self.random
        for role, names in (
            ("admin", [self.admin]),
            ("marketing", self.marketers),
            ("auditor", ["auditor:eve"]),
            ("privacy", ["privacy:noor"]),
            ("lead", [LEAD]),
            ("job", ["job:nightly"]),
        ):
            for name in names:
                self.grant(name, role)
        if self.kind != NONE:
            document = policy(self.kind)
            self.add(at_us(-1, 720), self.admin, ADMINISTRATION, lambda book: book.policy.adopt(document))
        for name in ("lin", "max", "ana"):
            self.clerks.append(self.hire(f"agent:{name}", SUPPORT, "support"))
        for name in ("pia", "rob"):
            self.clerks.append(self.hire(f"seller:{name}", SALES, "sales"))
        for name in ("nox",):
            self.clerks.append(self.hire(f"night:{name}", NIGHT, "night"))
        for clerk in self.clerks:
            # Holidays of up to three weeks.
            away = random.randrange(0, DAYS)
            clerk.days -= set(range(away, away + random.choice([7, 14, 21])))
            clerk.days |= {day for day in (0, 1, 2, DAYS - 4, DAYS - 3) if day % 7 < 5}
        self.clerks.append(self.hire("agent:new", SUPPORT, "support", DAYS - 14))
        leaver = self.hire("agent:old", SUPPORT, "support", 0, 70)
        self.clerks.append(leaver)
        self.revoke(leaver.name, leaver.role, at_us(72, 600))
        # A role that is used once a month.
        self.grant("seller:pia", "refunds")
        for month in range(6):
            day = next(one for one in range(month * 30, DAYS) if is_weekday(one))
            client = self.clients[6 * month + 1]
            self.look(Clerk("seller:pia", SALES, "refunds", set()), client, day, 700)
            self.add(at_us(day, 712), "seller:pia", SALES, _return(client.id, f"old {6 * month + 1}"))

    # ── work with customers ─────────────────────────────────────────────────────────────────────────────────────

    def look(self, clerk: Clerk, client: Client, day: int, minute: int) -> None:
        """Plan an honest look at a customer."""
        how = self.random.choice(["get", "get", "get", "timeline"]) if clerk.purpose != SALES else "get"
        self.add(at_us(day, minute), clerk.name, clerk.purpose, looking(how, client.id), client.id)
        clerk.met.setdefault(client.id, []).append(at_us(day, minute))

    def client_at(self, day: int) -> Client:
        """Some customer whom anybody may work with."""
        while True:
            client = self.random.choice(self.clients)
            if client.gone_us is None:
                return client

    def work(self, clerk: Clerk) -> None:
        """Plan a clerk's days: a few customers on each."""
        random = self.random
        first = min(day for day in clerk.days if day % 7 < 5)
        self._call(clerk, self.client_at(first), first, 1280 if clerk.purpose == NIGHT else 580, 10)
        for day in sorted(clerk.days):
            for _ in range(random.choice([0, 0, 1, 1, 1, 2, 4]) if day % 7 < 5 else random.choice([0, 0, 1])):
                client = self.client_at(day)
                if clerk.purpose == SALES:
                    self._sell(clerk, client, day, random.randrange(10 * 60, 18 * 60))
                elif clerk.purpose == NIGHT:
                    minute = random.choice([random.randrange(21 * 60, 24 * 60), random.randrange(30, 4 * 60)])
                    self._call(clerk, client, day, minute, 40)
                else:
                    minute = random.randrange(8 * 60 + 30, 14 * 60)
                    random.choice([self._call_by_day, self._ticket, self._ticket, self._change])(
                        clerk, client, day, minute
                    )

    def _sell(self, clerk: Clerk, client: Client, day: int, minute: int) -> None:
        self.look(clerk, client, day, minute)
        after = at_us(day, minute) + self.random.randrange(1, 30) * MINUTE_US
        order = f"{clerk.name} {day} {minute} {client.id} {len(self.steps)}"  # two may fall on one minute
        if self.random.random() < 0.15:
            self.add(after, clerk.name, SALES, _change(client.id, order))
        else:
            self.add(after, clerk.name, SALES, _purchase(client.id, order))

    def _call_by_day(self, clerk: Clerk, client: Client, day: int, minute: int) -> None:
        # Some record their calls at the end of the day.
        self._call(clerk, client, day, minute, self.random.choice([10, 40, 40, 180]))

    def _call(self, clerk: Clerk, client: Client, day: int, minute: int, longest: int) -> None:
        self.look(clerk, client, day, minute)
        after = at_us(day, minute) + self.random.randrange(1, longest) * MINUTE_US
        self.add(after, clerk.name, clerk.purpose, calling(client.id))

    def _change(self, clerk: Clerk, client: Client, day: int, minute: int) -> None:
        self.look(clerk, client, day, minute)
        at = at_us(day, minute) + self.random.randrange(1, 25) * MINUTE_US
        self.add(at, clerk.name, clerk.purpose, _change(client.id, f"{clerk.name} {day} {minute}"))

    def _ticket(self, clerk: Clerk, client: Client, day: int, minute: int) -> None:
        random, number = self.random, len(self.tickets)
        self.tickets[number] = UUID(int=0)  # its id is known when it is played
        start = at_us(day, minute)
        by_customer = random.random() < 0.5
        opener = (f"customer:{client.id}", SELF) if by_customer else (clerk.name, clerk.purpose)

        def opened(book: Book) -> None:
            self.tickets[number] = book.tickets.open(client.id, subject="late", text="where is it?", kind="complaint")

        self.add(start - (90 * MINUTE_US if by_customer and minute > 600 else 0), *opener, opened)
        worker = clerk

        def then(after_minutes: int, do: Do, *look: UUID) -> None:
            self.add(start + after_minutes * MINUTE_US, worker.name, worker.purpose, do, *look)

        later = [one for one in sorted(clerk.days) if day < one < day + 9]
        then(1, lambda book: book.tickets.assign(self.tickets[number], clerk.name))
        then(3, lambda book: book.tickets.read(self.tickets[number]), client.id)
        self.look(clerk, client, day, minute + 4)
        then(12, lambda book: book.tickets.reply(self.tickets[number], "We look into it."))
        colleagues = [one for one in self.clerks if one.role == "support" and day in one.days and one is not clerk]
        if colleagues and random.random() < 0.3:
            # A colleague takes it over: he looks first, and is its owner some minutes later.
            worker = random.choice(colleagues)
            name = worker.name
            then(60, lambda book: book.tickets.read(self.tickets[number]), client.id)
            self.look(worker, client, day, minute + 62)
            then(66 + random.randrange(10), lambda book: book.tickets.assign(self.tickets[number], name))
            then(90, lambda book: book.tickets.reply(self.tickets[number], "I took over."))
            then(100, lambda book: book.tickets.resolve(self.tickets[number], "solved"))
            then(101, lambda book: book.tickets.close(self.tickets[number]))
        elif later and random.random() < 0.6:
            # It stays open for days; its owner looks at it again and again.
            for one in later[:-1]:
                if random.random() < 0.5:
                    at = at_us(one, random.randrange(8 * 60 + 15, 17 * 60))
                    self.add(
                        at, clerk.name, clerk.purpose, lambda book: book.tickets.read(self.tickets[number]), client.id
                    )
                    clerk.met.setdefault(client.id, []).append(at)
            end = at_us(later[-1], 16 * 60)
            self.add(end, clerk.name, clerk.purpose, lambda book: book.tickets.resolve(self.tickets[number], "solved"))
            self.add(end + MINUTE_US, clerk.name, clerk.purpose, lambda book: book.tickets.close(self.tickets[number]))
        else:
            then(30, lambda book: book.tickets.resolve(self.tickets[number], "solved"))
            then(31, lambda book: book.tickets.close(self.tickets[number]))

    # ── many customers at once, each for a reason ────────────────────────────────────────────────────────────────

    def _free_week(self) -> tuple[Clerk, list[int]]:
        """A clerk of support, and up to five weekdays in a row on which he is there."""
        clerk = self.random.choice([one for one in self.clerks if one.role == "support" and len(one.days) > 60])
        mondays = [day for day in sorted(clerk.days) if 14 < day < DAYS - 21 and day % 7 == 0 and day + 4 in clerk.days]
        monday = self.random.choice(mondays)
        return clerk, [day for day in range(monday, monday + 5) if day in clerk.days]

    def _present(self, count: int) -> list[Client]:
        free = [one for one in self.clients if one.gone_us is None]
        return self.random.sample(free, min(count, len(free)))

    def _calls_by_plan(self) -> None:
        """The lead hands customers to a clerk, who calls all of them within some days; then they are handed back.
        Some more lists are handed out and not called."""
        random = self.random
        for month in (1, 3, 5):
            [client] = self._present(1)
            self.add(at_us(month * 28, 540), LEAD, ADMINISTRATION, owning(client.id, "desk:house"))
        clerk, days = self._free_week()
        whom = self._present(random.randrange(50, 110))
        handed, back = at_us(days[0] - random.randrange(3, 7), 600), at_us(days[-1] + 3, 600)
        for number, client in enumerate(whom):
            self.add(handed + number * 2_000_000, LEAD, ADMINISTRATION, owning(client.id, clerk.name))
            self.add(back + number * 2_000_000, LEAD, ADMINISTRATION, owning(client.id, "desk:house"))
            clerk.met.setdefault(client.id, []).extend([handed, back])
        for day, minute, client in spread(whom, days, random.randrange(5, 12)):
            self.look(clerk, client, day, minute)
            self.add(at_us(day, minute) + 2 * MINUTE_US, clerk.name, clerk.purpose, calling(client.id))

    def _storm(self) -> None:
        """Parcels are late: dozens of customers open tickets themselves, and one clerk takes and answers them."""
        clerk, days = self._free_week()
        held = dict[UUID, UUID]()

        def opening(client: UUID) -> Do:
            def do(book: Book) -> None:
                held[client] = book.tickets.open(client, subject="late", text="where is it?", kind="complaint")

            return do

        def taking(client: UUID) -> Do:
            return lambda book: book.tickets.assign(held[client], clerk.name)

        def solving(client: UUID) -> Do:
            def do(book: Book) -> None:
                book.tickets.resolve(held[client], "solved")
                book.tickets.close(held[client])

            return do

        for day, minute, client in spread(self._present(self.random.randrange(40, 70)), days[:2], 7):
            opened, at = at_us(days[0], 420) + self.random.randrange(90) * MINUTE_US, at_us(day, minute)
            self.add(opened, *_OF_CLIENT(client), opening(client.id))
            self.add(at - MINUTE_US, clerk.name, clerk.purpose, taking(client.id))
            self.look(clerk, client, day, minute)
            self.add(at + MINUTE_US, clerk.name, clerk.purpose, solving(client.id))

    def _busy_week(self) -> None:
        """A clerk has twice as many calls as usual, and records them himself."""
        clerk, days = self._free_week()
        for day, minute, client in spread(self._present(self.random.randrange(7, 11)), days, 45):
            self._call(clerk, client, day, minute, 30)

    # ── what is erased, and who is not there ─────────────────────────────────────────────────────────────────────

    def _erasures(self) -> None:
        """The privacy desk declares what the law demands to keep, erases dozens who ask for it, in a day, and lets
        sweeps erase what is past its period. Colleagues who have nothing to do with the erased open their profiles
        afterwards: from a list of before, by an old link."""
        random, actor = self.random, "privacy:noor"
        first = at_us(0, 520)

        def declaring(name: str, category: str, period: int, **how: Any) -> Do:
            given = {"purpose": "tax", "legal_basis": "HGB:257", "period": period, **how}
            return lambda book: book.retention.declare(name, category, **given)

        self.add(first, actor, PRIVACY, declaring("books", "transaction", 10, unit="years", action="keep"))
        self.add(first, actor, PRIVACY, declaring("calls", "communication", random.randrange(2, 4), since="recorded"))
        for month in range(1, 6):
            self.add(at_us(month * 28, 1200), actor, PRIVACY, self._sweep)
        day = next(one for one in range(random.randrange(90, 120), DAYS) if is_weekday(one))
        leaving = [Client(self.new_id()) for _ in range(random.randrange(32, 45))]
        self.unseen.update(one.id for one in leaving)
        for number, client in enumerate(leaving):
            self.add(at_us(-2, 660), self.admin, ADMINISTRATION, _register(client.id, 10_000 + number))
            self.add(at_us(-2, 660), self.admin, ADMINISTRATION, _purchase(client.id, f"leaving {number}"))
            self.add(at_us(day, 600) + number * 1_000_000, actor, PRIVACY, _erasure(client.id))
        for clerk in self.clerks:
            if clerk.role in ("support", "night"):
                later = [one for one in sorted(clerk.days) if one > day and is_weekday(one)]
                minute = 1300 if clerk.purpose == NIGHT else 650
                self.late.add(clerk.name)
                for one in later[: random.randrange(1, 4)]:
                    for number, client in enumerate(random.sample(leaving, random.choice([1, 2, 12]))):
                        at = at_us(one, minute) + number * 3_000_000
                        self.add(at, clerk.name, clerk.purpose, looking("get", client.id))

    def _sweep(self, book: Book) -> None:
        try:
            book.retention.sweep()
        except BookDamaged:
            if not self.altered:
                raise

    def _searches(self) -> None:
        """Clerks search for customers who call and turn out to be unknown, now and then; and a seller takes up the
        cards of a trade fair: each is looked for, found nowhere, and registered."""
        random = self.random
        for clerk in self.clerks:
            for day in sorted(clerk.days):
                if is_weekday(day) and random.random() < 0.2:
                    for number in range(random.randrange(1, 4)):
                        minute = 1300 if clerk.purpose == NIGHT else 670
                        self.add(at_us(day, minute + number), clerk.name, clerk.purpose, searching(f"X{day} {number}"))
        clerk = random.choice([one for one in self.clerks if one.purpose == SALES])
        day = random.choice([one for one in sorted(clerk.days) if 20 < one < DAYS - 20 and is_weekday(one)])
        for number in range(random.randrange(40, 90)):
            at = at_us(day, 600) + number * 40_000_000
            self.add(at, clerk.name, SALES, searching(f"C{20_000 + number}"))
            self.add(at + 20_000_000, clerk.name, SALES, _register(self.new_id(), 20_000 + number))

    # ── what is written down later than it happened ──────────────────────────────────────────────────────────────

    def _typed_in_late(self) -> None:
        """Somebody's business with a customer is over, and the book learns of it weeks later, with the time of then:
        an answer that was sent, a ticket that was solved, a customer who was handed back. Meanwhile a colleague, who
        knows what the book knows, goes on with it."""
        random = self.random
        desk = [one for one in self.clerks if one.role == "support" and len(one.days) > 60]
        for number in range(random.randrange(4, 8)):
            worker = random.choice(desk)
            start = random.choice([one for one in sorted(worker.days) if 7 < one < DAYS - 60 and is_weekday(one)])
            later = [one for one in sorted(worker.days) if start + 20 < one < start + 40 and is_weekday(one)]
            client = self.client_at(start)
            if not later or client.id in self.asked:
                continue
            self.asked.add(client.id)
            begin, over = at_us(start, 610), at_us(start + random.randrange(1, 4), 700)
            end = at_us(later[-1] + random.randrange(1, 5), 720)
            way = [self._request_late, self._ticket_late, self._owner_late][number % 3]
            way(worker, client, begin, over, end)
            for one in random.sample(later, min(len(later), random.randrange(1, 3))):
                self.look(worker, client, one, random.randrange(8 * 60 + 15, 17 * 60))
            for clerk in self.clerks:
                # All of the desk may have to do with it.
                clerk.met.setdefault(client.id, []).extend(range(begin, end + 14 * DAY_US, 10 * DAY_US))

    def _request_late(self, worker: Clerk, client: Client, begin: int, over: int, end: int) -> None:
        held, colleague = dict[str, UUID](), self._colleague(worker)

        def received(book: Book) -> None:
            held["request"] = book.customers.record_request(client.id, "access", effective_at=moment(begin - DAY_US))

        self.add(begin, colleague, SUPPORT, received)
        self.add(
            end,
            colleague,
            SUPPORT,
            lambda book: book.customers.complete_request(client.id, held["request"], effective_at=moment(over)),
        )

    def _ticket_late(self, worker: Clerk, client: Client, begin: int, over: int, end: int) -> None:
        held = dict[str, UUID]()

        def opened(book: Book) -> None:
            held["ticket"] = book.tickets.open(client.id, subject="late", text="where is it?", kind="complaint")

        def solved(book: Book) -> None:
            book.tickets.resolve(held["ticket"], "solved", effective_at=moment(over))
            book.tickets.close(held["ticket"], effective_at=moment(over))

        self.add(begin, *_OF_CLIENT(client), opened)
        self.add(begin + MINUTE_US, worker.name, SUPPORT, lambda book: book.tickets.assign(held["ticket"], worker.name))
        self.add(end, worker.name, SUPPORT, solved)

    def _owner_late(self, worker: Clerk, client: Client, begin: int, over: int, end: int) -> None:
        self.add(begin, LEAD, ADMINISTRATION, owning(client.id, worker.name))
        self.add(end, LEAD, ADMINISTRATION, owning(client.id, "desk:house", moment(over)))

    def _colleague(self, worker: Clerk) -> str:
        others = [one for one in self.clerks if one.role == "support" and one is not worker and len(one.days) > 60]
        return self.random.choice(others).name

    def _letters(self) -> None:
        """Where letters to customers rest on an interest of the house, they go to those too who never consented. And
        where it is said what each purpose rests on, some customers consent to what needs no consent."""
        random = self.random
        if self.kind == LENIENT:
            for day in random.sample([one for one in range(10, DAYS) if is_weekday(one)], 4):
                at, actor = at_us(day, random.randrange(540, 960)), random.choice(self.marketers)
                pool = [one for one in self.clients if one.gone_us is None and one.refusing(at, DAY_US)]
                for number, client in enumerate(random.sample(pool, random.choice([1, 5, 12]))):
                    self.add(at + number * 5_000_000, actor, MARKETING, looking("get", client.id), client.id)
        if self.kind != NONE:
            for purpose in (SUPPORT, SALES, NIGHT):
                client = self.client_at(0)
                self.add(at_us(random.randrange(1, 20), 555), *_OF_CLIENT(client), _consent(client.id, purpose, None))

    # ── all else ────────────────────────────────────────────────────────────────────────────────────────────────

    def _consents(self) -> None:
        """Consents to marketing: kept, expired, withdrawn, given again; some to research only; some never any."""
        random = self.random
        for client in self.clients:
            lot = random.random()
            if lot < 0.15:
                continue
            at = at_us(0, random.randrange(9 * 60, 11 * 60))
            if lot < 0.25:
                self.add(at, *_OF_CLIENT(client), _consent(client.id, "research", None))
                continue
            days = random.randrange(30, 90)
            end = at_us(days, 600)
            if lot < 0.7:
                end = NEVER
            self.add(at, *_OF_CLIENT(client), _consent(client.id, MARKETING, None if lot < 0.85 else end))
            if 0.7 <= lot < 0.85:
                self.add(end, *_OF_CLIENT(client), _withdrawal(client.id))
            client.consents.append((at, end))
            if lot >= 0.95:
                again = at_us(days + random.randrange(10, 40), 700)
                self.add(again, *_OF_CLIENT(client), _consent(client.id, MARKETING, None))
                client.consents.append((again, NEVER))

    def _duties(self) -> None:
        """What administrators, auditors, jobs, the privacy desk and customers themselves do."""
        random = self.random
        for month in range(6):
            first = month * 30 + random.randrange(0, 3)
            self.add(at_us(first, 1300), self.admin, ADMINISTRATION, lambda book: book.audit.trail(limit=20))
            day = next(one for one in range(first + 5, DAYS) if is_weekday(one))
            self.add(at_us(day, 560), "auditor:eve", AUDIT, lambda book: book.audit.trail(limit=50))
            if self.kind != NONE:
                for n in range(random.randrange(1, 6)):
                    client = self.client_at(day)
                    self.add(at_us(day, 570 + n), "auditor:eve", AUDIT, looking("trail", client.id), client.id)
                self.add(at_us(day, 700), "auditor:eve", AUDIT, exporting("ocsf"))
                self.add(at_us(day, 120), "job:nightly", ADMINISTRATION, exporting("cloudevents"))
        if self.kind != NONE:
            for day in range(0, DAYS, 7):
                self.add(
                    at_us(day, 150), "job:nightly", ADMINISTRATION, lambda book: book.profiles.segments(system="crm")
                )
        for day in range(10, DAYS, random.randrange(15, 25)):
            client = self.client_at(day)
            kind = random.choice(["access", "access", "erasure", "restriction"])
            self._request(client, day, "access" if client.consents else kind)
        for client in random.sample(self.clients, 20):
            # Through self-service, at any hour, again and again.
            if client.gone_us is None:
                for _ in range(random.randrange(1, 25)):
                    at = at_us(random.randrange(1, DAYS), random.randrange(0, 60 * 24))
                    self.add(at, *_OF_CLIENT(client), looking("get", client.id), client.id)
        if self.kind != NONE and random.random() < 0.4:
            self.gap(random.choice([day for day in range(40, 120) if is_weekday(day)]))

    def gap(self, day: int) -> None:
        """Plan that the policy is taken out of force for forty minutes, at noon."""
        if day not in self.gaps:
            self.gaps.append(day)
            document = policy(self.kind)
            self.add(at_us(day, 720), self.admin, ADMINISTRATION, lambda book: book.policy.withdraw())
            self.add(at_us(day, 760), self.admin, ADMINISTRATION, lambda book: book.policy.adopt(document))

    def _request(self, client: Client, day: int, kind: str) -> None:
        if kind != "access" and any(client.id in step.look for step in self.steps):
            return  # somebody is to look at her later: a refund
        actor, held = "privacy:noor", dict[str, UUID]()

        def received(book: Book) -> None:
            held["request"] = book.customers.record_request(client.id, kind)

        self.add(at_us(day, 600), actor, PRIVACY, received)
        if kind == "access":
            self.add(at_us(day, 640), actor, PRIVACY, lambda book: book.audit.subject_report(client.id), client.id)
        elif kind == "restriction":
            client.gone_us = at_us(day, 640)
            self.add(
                at_us(day, 640), actor, PRIVACY, lambda book: book.customers.restrict(client.id, reason="disputed")
            )
        else:
            client.gone_us = at_us(day, 640)
            self.add(at_us(day, 640), actor, PRIVACY, lambda book: book.erasures.erase(client.id, reason="gdpr-17"))
        if kind != "erasure":
            self.add(
                at_us(day, 650),
                actor,
                PRIVACY,
                lambda book: book.customers.complete_request(client.id, held["request"]),
            )

    def _campaigns(self) -> None:
        """Each month, somebody in marketing reads the data of hundreds who consented, and exports. Where there is no
        policy, of a dozen, and exports nothing: nothing tells there which purposes go over many."""
        random = self.random
        for month in range(6):
            day = next(one for one in range(month * 30 + random.randrange(1, 15), DAYS) if is_weekday(one))
            actor, campaign, minute = self.marketers[month % 2], self.new_id(), random.randrange(9 * 60, 15 * 60)
            self.campaign_days[actor].append(day)
            start = at_us(day, minute)
            if self.kind == STRICT and random.random() < 0.5:
                # In one read of all: the gate withholds those who have not consented.
                self.add(start, actor, MARKETING, lambda book: book.profiles.segments(system="crm"), campaign=campaign)
            consenting = [one for one in self.clients if one.gone_us is None and one.consenting(start, DAY_US)]
            for number, client in enumerate(consenting[: 12 if self.kind == NONE else None]):
                self.add(
                    start + number * 1_000_000,
                    actor,
                    MARKETING,
                    looking("get", client.id),
                    client.id,
                    campaign=campaign,
                )
            other = self.marketers[1 - month % 2]
            for number, client in enumerate(random.sample(consenting, 3)):
                # A test letter to a few.
                at = at_us(day, 1020) + number * MINUTE_US
                self.add(at, other, MARKETING, looking("get", client.id), client.id)
            if self.kind != NONE:
                self.add(start + 20 * MINUTE_US, actor, MARKETING, exporting("cloudevents", 1000), campaign=campaign)

    def open_to(self, clerk: Clerk, at: int) -> list[Client]:
        """Customers with whom a clerk had no business within ten weeks of a time, and whom anybody may work with."""
        far = 70 * DAY_US
        return [
            one
            for one in self.clients
            if one.gone_us is None and all(abs(met - at) > far for met in clerk.met.get(one.id, ()))
        ]


LEAD = "lead:uma"


def spread(whom: list[Client], days: list[int], pace: int) -> list[tuple[int, int, Client]]:
    """Customers over some days, one every so many minutes from 9:00 on: day, minute, customer."""
    each = -(-len(whom) // len(days))
    return [(days[n // each], 540 + n % each * min(pace, 480 // each), client) for n, client in enumerate(whom)]


def _OF_CLIENT(client: Client) -> tuple[str, str]:  # noqa: N802 - reads as a value
    return f"customer:{client.id}", SELF


# ── what can be done ────────────────────────────────────────────────────────────────────────────────────────────


def _register(client: UUID, number: int) -> Do:
    fields: dict[str, Any] = {"name": f"Client {number}", "email": f"c{number}@example.org"}
    return lambda book: book.customers.register(customer_id=client, identifiers={"crm": f"C{number}"}, **fields)


def _purchase(client: UUID, order: str) -> Do:
    return lambda book: book.customers.record_purchase(client, LINES, order_id=order)


def _return(client: UUID, order: str) -> Do:
    return lambda book: book.customers.record_return(client, {1: 1}, order_id=order)


def _change(client: UUID, what: str) -> Do:
    return lambda book: book.customers.change(client, address=what)


def _erasure(client: UUID) -> Do:
    return lambda book: book.erasures.erase(client, reason="gdpr-17")


def searching(known_as: str) -> Do:
    """Look for somebody who is not there."""

    def search(book: Book) -> None:
        assert book.customers.find("crm", known_as) is None

    return search


def probing(known_as: str) -> Do:
    """Try whether somebody is there, by a command that can't be carried out."""

    def probe(book: Book) -> None:
        with pytest.raises(Refused, match="invalid_argument"):
            book.customers.register(identifiers={"crm": known_as}, email="x" * 1000)

    return probe


def calling(client: UUID) -> Do:
    """Record a call."""
    return lambda book: book.customers.record_interaction(client, "enquiry", text="called")


def owning(client: UUID, owner: str, since: datetime | None = None) -> Do:
    """Hand a customer to somebody: now, or as of a time before."""
    return lambda book: book.customers.change(client, owner=owner, effective_at=since)


def moment(us: int) -> datetime:
    """A time as a host gives it."""
    return datetime.fromtimestamp(us / 1e6, ZoneInfo("UTC"))


def _consent(client: UUID, purpose: str, until: int | None) -> Do:
    def give(book: Book) -> UUID:
        end = None if until is None else moment(until)
        return book.customers.grant_consent(client, purpose, source="web", text_version="v1", valid_until=end)

    return give


def _withdrawal(client: UUID) -> Do:
    return lambda book: book.customers.withdraw_consent(client, MARKETING)


def looking(how: str, client: UUID) -> Do:
    """Look at a customer."""
    ways: dict[str, Do] = {
        "get": lambda book: book.profiles.get(client),
        "timeline": lambda book: book.profiles.timeline(client),
        "privacy": lambda book: book.customers.privacy(client),
        "trail": lambda book: book.audit.trail(client),
    }
    return ways[how]


def exporting(form: str, last: int = 200) -> Do:
    """Take an export of the last events, and put it away."""

    def export(book: Book) -> None:
        file = EXPORTS[-1] / f"out.{form}"
        if form == "ocsf":
            book.exports.ocsf(file, log="events", after=max(0, book.position() - last))
        else:
            book.exports.cloudevents(file, after=max(0, book.position() - last))
        file.unlink()

    return export


EXPORTS: list[Path] = []
"""The folder that exports go to, while something is played."""


# ── playing ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """Shows the time of the step that is played."""

    def __init__(self) -> None:
        self.now = at_us(-3, 0)

    def __call__(self) -> int:
        return self.now


def _must_be_denied(step: Step, book: Book) -> None:
    try:
        step.do(book)
    except Refused as refused:
        if refused.code == "access_denied":
            return
        raise
    raise AssertionError(f"{step.actor} was not denied")


@contextmanager
def played(
    steps: list[Step], folder: Path, url: str = "memory:", seed: str = "", since_us: int = 0, until_us: int = NEVER
) -> Iterator[Book]:
    """A book on which steps were played in the order of their time, at its last moment. Of a book in files, the steps
    `since_us` and before `until_us` may be played alone, and the others on it or on copies of it.
    """
    ids, clock = Random(f"{seed}/ids{since_us or ''}"), Clock()
    clock.now = max(clock.now, since_us)
    EXPORTS.append(folder)
    try:
        with tallybook.open(
            url, now_us=clock, new_id=lambda: UUID(int=ids.getrandbits(128), version=4), checkpoint_s=DAYS * 86400
        ) as book:
            for step in sorted(steps, key=lambda one: one.at_us):
                if not since_us <= step.at_us < until_us:
                    continue
                clock.now = step.at_us
                with book.acting(step.actor, purpose=step.purpose, correlation_id=step.campaign):
                    if step.denied:
                        _must_be_denied(step, book)
                    else:
                        step.do(book)
            clock.now = min(at_us(DAYS, 600), until_us)
            yield book
    finally:
        EXPORTS.pop()
