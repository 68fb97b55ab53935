"""Misdeeds among the honest work: drawn, planned into an office, and written down as the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from random import Random
from uuid import UUID

from tallybook import Book

from .office import (
    ADMINISTRATION,
    DAY_US,
    DAYS,
    LENIENT,
    MARKETING,
    MINUTE_US,
    NIGHT,
    NONE,
    SALES,
    SELF,
    STRICT,
    SUPPORT,
    Clerk,
    Client,
    Do,
    Office,
    Step,
    at_us,
    calling,
    exporting,
    is_weekday,
    looking,
    moment,
    owning,
    probing,
    searching,
    spread,
)

SNOOPING, BULK, NO_CONSENT = "snooping", "bulk", "no_consent"
OUTSIDE_PURPOSE, OUTSIDE_HOURS = "outside_purpose", "outside_hours"
UNUSED_RIGHT, DORMANT, DENIED, EXPORT = "unused_right", "dormant", "denied", "export"
OWN_TIES, GUESSING = "own_ties", "guessing"
KINDS = (
    SNOOPING,
    OWN_TIES,
    BULK,
    GUESSING,
    NO_CONSENT,
    OUTSIDE_PURPOSE,
    OUTSIDE_HOURS,
    UNUSED_RIGHT,
    DORMANT,
    DENIED,
    EXPORT,
)


@dataclass(frozen=True, slots=True)
class Misdeed:
    """What somebody did: it is all of `kinds`, and may be called `may` besides. `subjects`: whom, if anybody."""

    name: str
    actor: str
    kinds: frozenset[str]
    subjects: frozenset[UUID] = frozenset()
    may: frozenset[str] = frozenset()


class Mischief:
    """Draws misdeeds and plans them. Each has a culprit of its own."""

    def __init__(self, office: Office, seed: str) -> None:
        self.office = office
        self.random = Random(f"{seed}/misdeeds")
        self.truth: list[Misdeed] = []
        self._culprits: set[str] = set()

    def draw(self, count: int) -> None:
        """Plan so many misdeeds, of those that there can be in this office."""
        possible = [one for one, kinds in WAYS.items() if self.office.kind in kinds]
        self.plan([self.random.choice(possible) for _ in range(count)])

    def plan(self, ways: Iterable[Callable[[Mischief], None]]) -> None:
        """Plan misdeeds."""
        for way in self.in_order(ways):
            way(self)

    @staticmethod
    def in_order(ways: Iterable[Callable[[Mischief], None]]) -> list[Callable[[Mischief], None]]:
        """First those that come with honest work, so that the others are drawn beside all of it."""
        first = (Mischief.gone_quiet, Mischief.revoked, Mischief.restricted)
        return sorted(ways, key=lambda one: one not in first)

    # ── help ────────────────────────────────────────────────────────────────────────────────────────────────────

    def note(
        self, name: str, actor: str, kinds: Iterable[str], whom: Iterable[Client] = (), may: Iterable[str] = ()
    ) -> None:
        """Write down what somebody did."""
        subjects = frozenset(one.id for one in whom)
        self.truth.append(Misdeed(name, actor, frozenset(kinds), subjects, frozenset(may)))

    def add(self, at: int, actor: str, purpose: str, do: Do, *look: UUID, denied: bool = False) -> None:
        """Plan a step of a misdeed."""
        self.office.steps.append(Step(at, actor, purpose, do, look, denied=denied))

    def clerk(self, *purposes: str) -> Clerk | None:
        """A clerk who is there all the time, and has done nothing wrong yet."""
        free = [
            one
            for one in self.office.clerks
            if one.purpose in purposes and one.name not in self._culprits and max(one.days) - min(one.days) > 150
        ]
        if not free:
            return None
        found = self.random.choice(free)
        self._culprits.add(found.name)
        return found

    def minute(self, clerk: Clerk) -> int:
        """A minute within the hours of a clerk's purpose."""
        if clerk.purpose == NIGHT:
            return self.random.choice([self.random.randrange(1260, 1430), self.random.randrange(30, 240)])
        return self.random.randrange(*((600, 1100) if clerk.purpose == SALES else (510, 1000)))

    def victims(self, clerk: Clerk, days: Iterable[int], count: int) -> list[Client]:
        """Customers with whom a clerk has had nothing to do for long before and after some days."""
        found = [set(map(id, self.office.open_to(clerk, at_us(day, 720)))) for day in days]
        common = set.intersection(*found)
        free = [one for one in self.office.clients if id(one) in common]
        return self.random.sample(free, min(count, len(free)))

    def look(self, clerk: Clerk, client: Client, at: int, *, denied: bool = False) -> None:
        """Plan a look, in any of the ways to look."""
        how = "get" if clerk.purpose == SALES else self.random.choice(["get", "get", "timeline"])
        self.add(at, clerk.name, clerk.purpose, looking(how, client.id), client.id, denied=denied)

    # ── ways to do wrong ────────────────────────────────────────────────────────────────────────────────────────

    def the_ex(self) -> None:
        """A clerk looks at one customer, again and again for weeks."""
        clerk = self.clerk(SUPPORT, SALES, NIGHT)
        if clerk:
            start = self.random.randrange(20, 90)
            days = [one for one in sorted(clerk.days) if start <= one < start + 56]
            days = sorted(self.random.sample(days, min(len(days), self.random.randrange(5, 13))))
            whom = self.victims(clerk, days, 1)
            for day in days:
                self.look(clerk, whom[0], at_us(day, self.minute(clerk)))
            self.note("the ex", clerk.name, {SNOOPING}, whom)

    def celebrities(self) -> None:
        """A clerk looks at some well-known people, one now and one then."""
        clerk = self.clerk(SUPPORT, SALES, NIGHT)
        if clerk:
            start = self.random.randrange(20, 90)
            days = [one for one in sorted(clerk.days) if start <= one < start + 42]
            days = sorted(self.random.sample(days, min(len(days), self.random.randrange(5, 10))))
            whom = self.victims(clerk, days, len(days))
            for day, client in zip(days, whom, strict=False):
                for _ in range(self.random.randrange(1, 3)):
                    self.look(clerk, client, at_us(day, self.minute(clerk)))
            self.note("celebrities", clerk.name, {SNOOPING}, whom)

    def the_cover_up(self) -> None:
        """A clerk looks at some people, and weeks later writes himself reasons, with times of before he looked."""
        clerk = self.clerk(SUPPORT, SALES, NIGHT)
        if clerk:
            start = self.random.randrange(20, 60)
            days = [one for one in sorted(clerk.days) if start <= one < start + 42]
            days = sorted(self.random.sample(days, min(len(days), self.random.randrange(3, 8))))
            whom = self.victims(clerk, days, len(days))
            covering = self.random.choice(
                [one for one in sorted(clerk.days) if days[-1] + 40 < one and is_weekday(one)]
            )
            for number, (day, client) in enumerate(zip(days, whom, strict=False)):
                at = at_us(day, self.minute(clerk))
                self.look(clerk, client, at)
                since = moment(at - self.random.randrange(1, 120) * MINUTE_US)
                self.add(
                    at_us(covering, 1300 if clerk.purpose == NIGHT else 660) + number * MINUTE_US,
                    clerk.name,
                    clerk.purpose,
                    self.random.choice(self._excuses(clerk, client.id, since)),
                )
            self.note("the cover-up", clerk.name, {SNOOPING}, whom)

    @staticmethod
    def _excuses(clerk: Clerk, client: UUID, since: datetime) -> list[Do]:
        """What a clerk can write down of a time before."""

        def ticket(book: Book) -> None:
            held = book.tickets.open(client, subject="question", text="asked", kind="enquiry", effective_at=since)
            book.tickets.assign(held, clerk.name, effective_at=since)

        def request(book: Book) -> None:
            held = book.customers.record_request(client, "access", effective_at=since)
            book.customers.complete_request(client, held)

        def call(book: Book) -> None:
            book.customers.record_interaction(client, "enquiry", text="called", effective_at=since)

        ways: list[Do] = [call, owning(client, clerk.name, since)]
        return ways if clerk.purpose == SALES else [*ways, ticket, request]

    def the_walk(self) -> None:
        """A clerk walks through hundreds of customers in an evening, or over lunch."""
        clerk = self.clerk(SUPPORT, SALES)
        if clerk:
            day = self.random.choice([one for one in sorted(clerk.days) if one > 20 and is_weekday(one)])
            late = self.random.random() < 0.6
            start = at_us(day, self.random.randrange(1230, 1290) if late else self.random.randrange(660, 720))
            free = [one for one in self.office.clients if one.gone_us is None]
            whom = self.random.sample(free, self.random.randrange(160, len(free)))
            pace_us = self.random.randrange(10, 25) * 1_000_000
            for number, client in enumerate(whom):
                self.look(clerk, client, start + number * pace_us)
            late_too = {OUTSIDE_HOURS} if late and self.office.kind != NONE else set[str]()
            self.note("the walk", clerk.name, {BULK, *late_too}, whom, {SNOOPING, OWN_TIES})

    def the_covered_walk(self) -> None:
        """A clerk looks at dozens of customers within a week, and writes himself a reason for each."""
        clerk = self.clerk(SUPPORT, SALES)
        if clerk:
            length = self.random.randrange(1, 6)
            monday = self.random.choice([one for one in sorted(clerk.days) if 20 < one < DAYS - 14 and one % 7 == 0])
            days = [one for one in range(monday, monday + length) if one in clerk.days]
            free = self.untouched(clerk, at_us(days[0], 720), at_us(days[-1], 720))
            if len(free) < COVERED:
                return
            whom = self.random.sample(free, self.random.randrange(COVERED, min(len(free), 120) + 1))
            for day, minute, client in spread(whom, days, self.random.randrange(3, 9)):
                at = at_us(day, minute)
                before = self.random.random() < 0.5
                self.look(clerk, client, at + (MINUTE_US if before else 0))
                for step, do in enumerate(self.cover(clerk, client)):
                    self.add(at + (0 if before else MINUTE_US) + step * 1_000_000, clerk.name, clerk.purpose, do)
            self.note("the covered walk", clerk.name, {OWN_TIES}, whom, {BULK})

    def cover(self, clerk: Clerk, client: Client) -> list[Do]:
        """Something that a clerk can record of a customer who knows nothing of it."""
        held: list[UUID] = []

        def ticket(book: Book) -> None:
            held.append(book.tickets.open(client.id, subject="question", text="asked", kind="enquiry"))

        ways: list[list[Do]] = [[calling(client.id)], [owning(client.id, clerk.name)]]
        if clerk.purpose == SUPPORT:
            ways.append([ticket, lambda book: book.tickets.assign(held[0], clerk.name)])
        return self.random.choice(ways)

    def untouched(self, clerk: Clerk, first: int, last: int) -> list[Client]:
        """Customers who did nothing themselves and with whom nobody had business around some days, and this clerk had
        none for a month."""
        near, far = 10 * DAY_US, 30 * DAY_US
        touched = {
            client
            for step in self.office.steps
            if first - near <= step.at_us <= last + near and step.purpose != MARKETING
            for client in (*step.look, *([UUID(step.actor.partition(":")[2])] if step.purpose == SELF else ()))
        }
        return [
            one
            for one in self.office.clients
            if one.gone_us is None
            and one.id not in touched
            and not any(first - far <= met <= last + far for met in clerk.met.get(one.id, ()))
        ]

    def the_list(self) -> None:
        """A clerk has a list of all buyers made."""
        clerk = self.clerk(SUPPORT)
        if clerk:
            day = self.random.choice([one for one in sorted(clerk.days) if one > 20 and is_weekday(one)])
            at = at_us(day, self.minute(clerk))
            self.add(at, clerk.name, clerk.purpose, lambda book: book.profiles.segments(system="crm"))
            self.note("the list", clerk.name, {BULK}, may={SNOOPING})

    def the_prober(self) -> None:
        """A clerk tries hundreds of numbers, to learn who is a customer."""
        self._probe("the prober", searching)

    def the_refused_prober(self) -> None:
        """The same by commands, none of which can be carried out."""
        self._probe("the refused prober", probing)

    def _probe(self, deed: str, tries: Callable[[str], Do]) -> None:
        clerk = self.clerk(SUPPORT, SALES, NIGHT)
        if clerk:
            day = self.random.choice([one for one in sorted(clerk.days) if one > 20 and is_weekday(one)])
            start = at_us(day, self.minute(clerk))
            for number in range(self.random.randrange(150, 400)):
                self.add(start + number * 4_000_000, clerk.name, clerk.purpose, tries(f"guess {number}"))
            self.note(deed, clerk.name, {GUESSING})

    def the_peeker(self) -> None:
        """A clerk opens no profile, and looks at consents and objections of customers he has nothing to do with."""
        clerk = self.clerk(SUPPORT, NIGHT)
        if clerk:
            days = [one for one in sorted(clerk.days) if one > 20 and is_weekday(one)]
            days = sorted(self.random.sample(days, min(len(days), self.random.randrange(4, 8))))
            whom = self.victims(clerk, days, len(days))
            for day, client in zip(days, whom, strict=False):
                at = at_us(day, self.minute(clerk))
                self.add(at, clerk.name, clerk.purpose, looking("privacy", client.id), client.id)
            self.note("the peeker", clerk.name, {SNOOPING}, whom)

    def the_export(self) -> None:
        """A clerk takes all events home."""
        clerk = self.clerk(SUPPORT)
        if clerk:
            day = self.random.choice([one for one in sorted(clerk.days) if one > 20])
            form = self.random.choice(["ocsf", "cloudevents"])
            self.add(at_us(day, self.minute(clerk)), clerk.name, clerk.purpose, exporting(form, 1_000_000))
            self.note("the export", clerk.name, {EXPORT})

    def between_campaigns(self) -> None:
        """Somebody in marketing exports when no campaign runs."""
        actor = self.marketer()
        if actor:
            busy = [day for days in self.office.campaign_days.values() for day in days]
            quiet = [day for day in range(20, DAYS) if is_weekday(day) and all(abs(day - one) > 5 for one in busy)]
            at = at_us(self.random.choice(quiet), self.random.randrange(540, 1000))
            self.add(at, actor, MARKETING, exporting("cloudevents", self.random.choice([500, 1_000_000])))
            self.note("between campaigns", actor, {EXPORT})

    def marketer(self) -> str | None:
        """Somebody in marketing who has done nothing wrong yet."""
        free = [one for one in self.office.marketers if one not in self._culprits]
        if not free:
            return None
        self._culprits.add(found := self.random.choice(free))
        return found

    def expired(self) -> None:
        """Somebody in marketing looks at customers whose consent is over: expired, or withdrawn."""
        self._without_consent(lambda one: bool(one.consents))

    def never_given(self) -> None:
        """Somebody in marketing looks at customers who never consented to it, or to something else."""
        self._without_consent(lambda one: not one.consents)

    def _without_consent(self, meant: Callable[[Client], bool]) -> None:
        actor = self.marketer()
        if actor:
            day = self.random.choice([one for one in range(100, DAYS) if is_weekday(one)])
            start = at_us(day, self.random.randrange(540, 960))
            refusing = [one for one in self.office.clients if one.gone_us is None and one.refusing(start, 3 * DAY_US)]
            pool = [one for one in refusing if meant(one) and one.id not in self.office.asked]
            whom = self.random.sample(pool, min(len(pool), self.random.choice([1, 2, 5, 12])))
            for number, client in enumerate(whom):
                at, how = start + number * 7_000_000, self.random.choice(["get", "timeline"])
                denied = self.office.kind == STRICT
                self.add(at, actor, MARKETING, looking(how, client.id), client.id, denied=denied)
            self.note("without consent", actor, {DENIED if self.office.kind == STRICT else SNOOPING}, whom)

    def without_consent_in_the_gap(self) -> None:
        """While no policy is in force for a moment, somebody in marketing looks at customers who don't consent."""
        actor = self.marketer()
        if actor:
            busy = {day for days in self.office.campaign_days.values() for day in days}
            day = self.random.choice([one for one in range(40, 120) if is_weekday(one) and one not in busy])
            self.office.gap(day)
            at = at_us(day, 722)
            pool = [one for one in self.office.clients if one.gone_us is None and one.refusing(at, 3 * DAY_US)]
            whom = self.random.sample(pool, self.random.choice([1, 2, 5, 12]))
            for number, client in enumerate(whom):
                self.add(at + number * 7_000_000, actor, MARKETING, looking("get", client.id), client.id)
            self.note("without consent in the gap", actor, {NO_CONSENT}, whom)

    def too_late(self) -> None:
        """A clerk looks at customers late at night or on Sunday, with an occasion or without."""
        clerk = self.clerk(SUPPORT, SALES)
        if clerk:
            whom: list[Client] = []
            with_occasion = clerk.purpose == SUPPORT and self.random.random() < 0.5
            for _ in range(self.random.randrange(1, 7)):
                day = self.random.randrange(20, DAYS - 20)
                at = at_us(day, self.random.choice([self.random.randrange(1280, 1420), self.random.randrange(60, 360)]))
                if self.random.random() < 0.4:
                    at = at_us(day - day % 7 + 6, self.random.randrange(600, 1000))
                client = self.victims(clerk, [day], 1)[0]
                self.look(clerk, client, at)
                if with_occasion:
                    self.add(at + 10 * MINUTE_US, clerk.name, clerk.purpose, calling(client.id))
                whom.append(client)
            self.note("too late", clerk.name, {OUTSIDE_HOURS}, whom, set() if with_occasion else {SNOOPING})

    def night_purpose_by_day(self) -> None:
        """Somebody of the night shift looks by day."""
        clerk = self.clerk(NIGHT)
        if clerk:
            day = self.random.randrange(20, DAYS - 20)
            whom = self.victims(clerk, [day], self.random.randrange(1, 4))
            for number, client in enumerate(whom):
                self.look(clerk, client, at_us(day, self.random.randrange(600, 900) + number))
            self.note("night purpose by day", clerk.name, {OUTSIDE_HOURS}, whom, {SNOOPING})

    def never_used(self) -> None:
        """A role that is never used: a second one, or the only one of somebody who never comes."""
        office = self.office
        if self.random.random() < 0.5:
            name = f"agent:ghost{len(self.truth)}"
            office.grant(name, self.random.choice(["support", "sales", "night"]))
            self.note("ghost", name, {UNUSED_RIGHT}, may={DORMANT})
            return
        clerk = self.clerk(SUPPORT, NIGHT)
        if clerk:
            office.grant(clerk.name, self.random.choice(["refunds", "marketing", "privacy"]))
            self.note("second role", clerk.name, {UNUSED_RIGHT})

    def gone_quiet(self) -> None:
        """Somebody leaves, and nobody revokes the role."""
        name = f"agent:gone{len(self.truth)}"
        clerk = self.office.hire(name, SUPPORT, "support", 0, self.random.randrange(14, 40))
        self.office.work(clerk)
        self.office.look(clerk, client := self.office.client_at(3), 3, 600)
        self.office.add(at_us(3, 605), name, SUPPORT, calling(client.id))
        self.note("gone quiet", name, {DORMANT})

    def revoked(self) -> None:
        """Somebody tries on with a role that was revoked."""
        name = f"agent:fired{len(self.truth)}"
        last = self.random.randrange(40, 100)
        clerk = self.office.hire(name, SUPPORT, "support", 0, last)
        self.office.work(clerk)
        # Tickets that stay open are answered within nine days.
        self.office.revoke(name, "support", at_us(last + 10, 600))
        whom: list[Client] = []
        for number in range(self.random.randrange(1, 6)):
            at = at_us(last + 11 + number, self.random.randrange(540, 1000))
            client = self.office.client_at(last)
            if self.random.random() < 0.3:
                self.add(at, name, SUPPORT, calling(client.id), denied=True)
            else:
                self.look(clerk, client, at, denied=True)
                whom.append(client)
        self.note("revoked", name, {DENIED}, whom)

    def not_his_purpose(self) -> None:
        """A clerk tries for a purpose that is not his, or for one that is not declared."""
        clerk = self.clerk(SUPPORT, SALES, NIGHT)
        if clerk:
            at = at_us(self.random.choice(sorted(clerk.days)), self.minute(clerk))
            purpose = self.random.choice([MARKETING, ADMINISTRATION, "curiosity"])
            client = self.office.client_at(0)
            self.add(at, clerk.name, purpose, looking("get", client.id), client.id, denied=True)
            self.note("not his purpose", clerk.name, {DENIED}, [client])

    def restricted(self) -> None:
        """A clerk tries to look at a customer whose data is restricted."""
        office = self.office
        day = self.random.randrange(10, 60)
        seen = {client for step in office.steps for client in step.look}
        free = [one for one in office.clients if one.gone_us is None and not one.consents and one.id not in seen]
        clerk = self.clerk(SUPPORT, SALES)
        if clerk and free:
            client = self.random.choice(free)
            client.gone_us = at_us(day, 600)
            office.add(
                client.gone_us,
                "privacy:noor",
                "privacy",
                lambda book: book.customers.restrict(client.id, reason="disputed"),
            )
            later = next(one for one in sorted(clerk.days) if one > day)
            self.look(clerk, client, at_us(later, self.minute(clerk)), denied=True)
            self.note("restricted", clerk.name, {DENIED}, [client])

    def in_the_gap(self) -> None:
        """While no policy is in force for a moment, somebody looks for a purpose that no policy declares."""
        clerk = self.clerk(SUPPORT, SALES, NIGHT)
        if clerk:
            day = next((one for one in self.office.gaps), None) or self.random.choice(
                [one for one in range(40, 120) if is_weekday(one)]
            )
            self.office.gap(day)
            whom = self.victims(clerk, [day], self.random.randrange(1, 5))
            for number, client in enumerate(whom):
                at = at_us(day, 725 + number * 5)
                self.add(at, clerk.name, "curiosity", looking("get", client.id), client.id)
            self.note("in the gap", clerk.name, {OUTSIDE_PURPOSE}, whom, {SNOOPING})


COVERED = 45
"""Of how many customers at least a walk with own covers is drawn."""
WITH_POLICY = {STRICT, LENIENT}
ANYWHERE = {STRICT, LENIENT, NONE}
WAYS: dict[Callable[[Mischief], None], set[str]] = {
    Mischief.the_ex: ANYWHERE,
    Mischief.celebrities: ANYWHERE,
    Mischief.the_cover_up: ANYWHERE,
    Mischief.the_walk: ANYWHERE,
    Mischief.the_covered_walk: ANYWHERE,
    Mischief.the_list: ANYWHERE,
    Mischief.the_prober: ANYWHERE,
    Mischief.the_refused_prober: ANYWHERE,
    Mischief.the_peeker: ANYWHERE,
    Mischief.the_export: ANYWHERE,
    Mischief.between_campaigns: {STRICT, NONE},
    Mischief.expired: {STRICT, NONE},
    Mischief.never_given: {STRICT, NONE},
    Mischief.without_consent_in_the_gap: {STRICT},
    Mischief.too_late: WITH_POLICY,
    Mischief.night_purpose_by_day: WITH_POLICY,
    Mischief.never_used: WITH_POLICY,
    Mischief.gone_quiet: WITH_POLICY,
    Mischief.revoked: WITH_POLICY,
    Mischief.not_his_purpose: WITH_POLICY,
    Mischief.restricted: WITH_POLICY,
    Mischief.in_the_gap: WITH_POLICY,
}
"""Each way to do wrong, and the offices in which it can be told."""


def drawn(seed: int) -> tuple[Office, Mischief]:
    """The office and the misdeeds of a seed."""
    random = Random(f"{seed}/which")
    office = Office(str(seed), random.choice([STRICT, STRICT, LENIENT, NONE]))
    mischief = Mischief(office, str(seed))
    mischief.draw(random.choice([0, 1, 2, 3, 4, 5, 6]))
    return office, mischief
