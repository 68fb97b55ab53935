"""Who looked at what without cause: folds of both logs into findings that an auditor can check by hand.

Each detector keeps a state of actors, subjects and hours, never of single records. docs/reviews.md has the definitions.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple
from uuid import UUID

from tallybook.domain.access import (
    DENIED,
    NO_CONSENT,
    RELEASED,
    RESEALED,
    TOLD,
    CommandDenied,
    Exported,
    PersonalDataRead,
)
from tallybook.domain.aggregate import Aggregate
from tallybook.domain.calendar import DAY_US
from tallybook.domain.events import Event
from tallybook.domain.policy import (
    ALLOW,
    DENY,
    Decider,
    InForce,
    Policy,
    PolicyAdopted,
    Purpose,
    RoleGranted,
    RoleRevoked,
    fits,
    known_fields,
    out_of_hours,
    selects,
)
from tallybook.domain.policy import NO_END as NEVER_US
from tallybook.domain.privacy import ConsentGranted, Consents

HOUR_US = 3_600_000_000
ANYONE = ""
"""Stands for every actor: of what ties each of them to a subject."""

SNOOPING, BULK, NO_CONSENT_KIND, OUTSIDE_PURPOSE = "snooping", "bulk", "no_consent", "outside_purpose"
OUTSIDE_HOURS, UNUSED_RIGHT, DENIED_KIND = "outside_hours", "unused_right", "denied"
DORMANT, EXPORT, OWN_TIES, GUESSING = "dormant", "export", "own_ties", "guessing"
KINDS = (
    SNOOPING, OWN_TIES, BULK, GUESSING, NO_CONSENT_KIND, OUTSIDE_PURPOSE, OUTSIDE_HOURS, UNUSED_RIGHT, DENIED_KIND,
    DORMANT, EXPORT,
)  # fmt: skip

COMMANDS_OF: Mapping[str, tuple[str, ...]] = {
    "book.read_model_directed": (
        "projections.pause", "projections.resume", "projections.retry", "projections.skip", "projections.retire",
    ),
    "book.adoption_guarded": ("rules.require_backtest",),
    "book.retention_declared": ("retention.declare",),
    "book.retention_swept": ("retention.sweep",),
    "book.retention_withdrawn": ("retention.withdraw",),
    "book.rule_set_adopted": ("rules.adopt",),
    "book.rule_set_backtested": ("rules.backtest",),
    "book.rule_set_proposed": ("rules.propose",),
    "book.rule_set_withdrawn": ("rules.withdraw",),
    "book.signing_key_rotated": ("audit.rotate_signing_key",),
    "book.sweep_finished": ("loyalty.sweep",),
    "book.swept": ("loyalty.sweep",),
    "book.wrapping_key_rotated": ("sealing.rotate_wrapping_key",),
    "customer.changed": ("customers.change", "imports.synth"),
    "customer.consent_confirmed": ("customers.confirm_consent",),
    "customer.consent_granted": ("customers.grant_consent",),
    "customer.consent_withdrawn": ("customers.withdraw_consent",),
    "customer.contact_point_added": ("customers.add_contact_point", "customers.register", "imports.synth"),
    "customer.contact_point_removed": ("customers.remove_contact_point",),
    "customer.erased": ("erasures.erase", "erasures.erase_kept"),
    "customer.identifier_linked": ("customers.link_identifier", "customers.register", "imports.cdnow", "imports.synth"),
    "customer.identifier_removed": ("customers.remove_identifier",),
    "customer.interaction_recorded": ("customers.record_interaction", "imports.synth"),
    "customer.key_created": (
        "customers.register", "imports.cdnow", "imports.synth", "erasures.erase", "retention.sweep",
    ),
    "customer.objected": ("customers.object_to",),
    "customer.objection_withdrawn": ("customers.withdraw_objection",),
    "customer.purchase_recorded": ("customers.record_purchase", "imports.cdnow", "imports.synth"),
    "customer.referred": ("customers.refer", "imports.synth"),
    "customer.referred_by": ("customers.refer", "imports.synth"),
    "customer.registered": ("customers.register", "imports.cdnow", "imports.synth"),
    "customer.relation_ended": ("customers.end_relation",),
    "customer.request_completed": ("customers.complete_request", "erasures.erase"),
    "customer.request_received": ("customers.record_request",),
    "customer.restricted": ("customers.restrict",),
    "customer.restriction_lifted": ("customers.lift_restriction",),
    "customer.return_recorded": ("customers.record_return", "imports.synth"),
    "customer.value_resealed": ("erasures.erase", "retention.sweep"),
    "customer.values_erased": ("retention.sweep",),
    "liability.price_allocated": ("loyalty.allocate",),
    "liability.redemption_estimated": ("loyalty.estimate",),
    "loyalty.activity_recorded": ("loyalty.record_activity", "imports.synth"),
    "loyalty.closed": ("loyalty.close", "imports.synth"),
    "loyalty.correction_recorded": ("loyalty.adjust", "imports.synth"),
    "loyalty.coupon_granted": ("loyalty.issue_coupon", "imports.synth"),
    "loyalty.coupon_used": ("loyalty.use_coupon", "imports.synth"),
    "loyalty.coupon_voided": ("loyalty.void_coupon", "imports.synth"),
    "loyalty.earning_confirmed": ("loyalty.confirm_earning", "imports.synth"),
    "loyalty.earning_withdrawn": ("loyalty.withdraw_earning", "imports.synth"),
    "loyalty.enrolled": ("loyalty.enrol", "imports.cdnow", "imports.synth"),
    "loyalty.extension_granted": ("loyalty.extend", "imports.synth"),
    "loyalty.goodwill_granted": ("tickets.compensate", "loyalty.adjust", "imports.synth"),
    "loyalty.hold_release_requested": ("loyalty.release", "imports.synth"),
    "loyalty.hold_requested": ("loyalty.hold", "imports.synth"),
    "loyalty.redemption_requested": ("loyalty.redeem", "imports.synth"),
    "loyalty.redemption_returned": ("loyalty.return_redemption", "imports.synth"),
    "loyalty.referral_credited": (
        "customers.refer", "customers.record_purchase", "loyalty.enrol", "imports.cdnow", "imports.synth"),
    "loyalty.referral_reduced": ("customers.record_return", "imports.synth"),
    "loyalty.reinstatement_granted": ("loyalty.reinstate", "imports.synth"),
    "loyalty.resumed": ("loyalty.resume", "imports.synth"),
    "loyalty.suspended": ("loyalty.suspend", "imports.synth"),
    "loyalty.tier_overridden": ("loyalty.override_tier", "imports.synth"),
    "loyalty.tier_override_lifted": ("loyalty.lift_override", "imports.synth"),
    "loyalty.transfer_received": ("loyalty.transfer", "imports.synth"),
    "loyalty.transfer_requested": ("loyalty.transfer", "imports.synth"),
    "policy.adopted": ("policy.adopt",),
    "policy.role_granted": ("policy.grant",),
    "policy.role_revoked": ("policy.revoke",),
    "policy.withdrawn": ("policy.withdraw",),
    "reward.returned": ("loyalty.return_redemption", "loyalty.void_coupon"),
    "reward.stocked": ("loyalty.stock_reward",),
    "reward.taken": ("loyalty.redeem", "loyalty.issue_coupon"),
    "ticket.assigned": ("tickets.assign", "imports.synth"),
    "ticket.closed": ("tickets.close", "imports.synth"),
    "ticket.compensated": ("tickets.compensate", "imports.synth"),
    "ticket.opened": ("tickets.open", "imports.synth"),
    "ticket.replied": ("tickets.reply", "imports.synth"),
    "ticket.resolved": ("tickets.resolve", "imports.synth"),
    "ticket.satisfaction_recorded": ("tickets.record_satisfaction", "imports.synth"),
}  # fmt: skip
"""Fact → the commands that record it: the log names what happened, not the command."""

WITH_THE_CUSTOMER = frozenset(
    ["customer.purchase_recorded", "customer.return_recorded", "loyalty.redemption_requested"]
)  # fmt: skip
"""Facts that somebody can check against goods and money: whoever records them, the customer had a part in them."""
REGISTERED, INTERACTION = "customer.registered", "customer.interaction_recorded"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on something is a finding.

    - `tie_days`: so many days around what ties an actor to a subject, a read is explained by it;
    - `bulk_subjects`: so many distinct subjects within an hour are many;
    - `bulk_factor`: and more than so many times the habit of the actor and of those who read for the same purpose;
    - `habit_hours`: whoever read in so many hours has a habit;
    - `dormant_days`: whoever did nothing for so many days is dormant;
    - `own_tie_subjects`: so many subjects, tied to the actor by nothing but his own records, are many;
    - `own_tie_days`: if he read them within so many days;
    - `guesses`: so many searches within an hour that find nobody are many.
    """

    tie_days: int = 14
    bulk_subjects: int = 30
    bulk_factor: int = 3
    habit_hours: int = 10
    dormant_days: int = 90
    own_tie_subjects: int = 30
    own_tie_days: int = 7
    guesses: int = 30


@dataclass(frozen=True, slots=True)
class Finding:
    """What an actor did or holds, and the rule that it broke. Positions are of the log of reads; None: no record."""

    kind: str
    actor: str
    subjects: tuple[UUID, ...]
    first_position: int | None
    last_position: int | None
    count: int
    rule: str


# ── what ties an actor to a subject ─────────────────────────────────────────────────────────────────────────────────


class Spans:
    """For each key, the times that are covered: merged, so that what lies close together takes no more room."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, bytes], list[tuple[int, int]]] = {}

    def add(self, key: tuple[str, bytes], from_us: int, until_us: int) -> None:
        """Cover a time, both ends included."""
        held = self._held.get(key)
        if held is None:
            self._held[key] = [(from_us, until_us)]
            return
        # From the last on: what overlaps becomes one.
        place = len(held)
        while place and held[place - 1][1] >= from_us:
            place -= 1
        stop = place
        while stop < len(held) and held[stop][0] <= until_us:
            from_us, until_us = min(from_us, held[stop][0]), max(until_us, held[stop][1])
            stop += 1
        held[place:stop] = [(from_us, until_us)]

    def covers(self, key: tuple[str, bytes], at_us: int) -> bool:
        """Whether a time is covered."""
        held = self._held.get(key)
        if held is None:
            return False
        place = bisect_right(held, at_us, key=lambda span: span[0])
        return place > 0 and at_us <= held[place - 1][1]


class Ticket(NamedTuple):
    """Of a ticket, what ties its owners to its customer."""

    subject: bytes
    opened_us: int
    by: str
    owners: tuple[tuple[int, str, str], ...] = ()
    """From when, who, and who assigned it."""
    ended_us: int | None = None


class Dealings:
    """What ties actors to subjects, and when; and in which ties others have a part.

    Subjects are the bytes of their ids. `by` names who recorded something. A tie that nobody but the actor had a part
    in is his own. All times are those of recording: what somebody writes down later, whatever time he gives it, ties
    nobody to what was read before, and takes no tie away that there was.
    """

    def __init__(self, tie_days: int) -> None:
        self._margin = tie_days * DAY_US
        self._spans = Spans()
        self._shared = Spans()
        self._vouching: dict[tuple[str, bytes], list[str]] = {}
        self._tickets: dict[bytes, Ticket] = {}
        self._owners: dict[bytes, list[tuple[int, int, str | None, str]]] = {}
        self._requests: dict[bytes, tuple[bytes, int, str]] = {}
        self.registrations: dict[str, list[int]] = {}
        """By actor: when he registered customers."""

    def command(self, actor: str, subject: bytes, at_us: int, fact: str) -> None:
        """The actor recorded a fact about the subject."""
        span = (at_us - self._margin, at_us + self._margin)
        day = (at_us - DAY_US, at_us + DAY_US)
        self._spans.add((actor, subject), *span)
        if fact in WITH_THE_CUSTOMER or _is(actor, subject):
            self._vouch(ANYONE, subject, ANYONE, *day)
        elif fact == REGISTERED:  # what he could read there, he wrote there
            self._vouch(actor, subject, ANYONE, *span)
            self.registrations.setdefault(actor, []).append(at_us)
        elif fact == INTERACTION:
            self._vouch(ANYONE, subject, actor, *day)

    def _vouch(self, whom: str, subject: bytes, by: str, from_us: int, until_us: int) -> None:
        """Somebody has a part in what ties an actor (or any) to a subject."""
        if by != ANYONE:
            vouching = self._vouching.setdefault((whom, subject), [])
            if by not in vouching:
                vouching.append(by)
        self._shared.add((f"{by}\0{whom}", subject), from_us, until_us)

    def request(self, request: bytes, subject: bytes, at_us: int, by: str) -> None:
        """A data-subject request came in: whoever answers it may look until it is answered."""
        self._requests[request] = (subject, at_us, by)

    def answered(self, request: bytes, at_us: int) -> None:
        """It was answered. To be told after `request`."""
        found = self._requests.pop(request, None)
        if found is not None:
            self._asked(*found, at_us)

    def _asked(self, subject: bytes, at_us: int, by: str, until_us: int) -> None:
        self._spans.add((ANYONE, subject), at_us, until_us)
        self._vouch(ANYONE, subject, by, at_us, until_us)

    def opened(self, ticket: bytes, subject: bytes, at_us: int, by: str) -> None:
        """A ticket of the subject was opened."""
        self._tickets[ticket] = Ticket(subject, at_us, by)

    def assigned(self, ticket: bytes, owner: str, at_us: int, by: str) -> None:
        """Somebody, or a team, owns the ticket. To be told after `opened`."""
        found = self._tickets.get(ticket)
        if found is not None:
            self._tickets[ticket] = found._replace(owners=(*found.owners, (at_us, owner, by)))

    def ended(self, ticket: bytes, at_us: int) -> None:
        """The ticket was closed. To be told after `opened`."""
        found = self._tickets.get(ticket)
        if found is not None:
            self._tickets[ticket] = found._replace(ended_us=at_us)

    def owner(self, subject: bytes, owner: str | None, at_us: int, by: str, effective_us: int) -> None:
        """Somebody, or a team, owns the customer, or nobody does: since `effective_us`, known from `at_us` on."""
        self._owners.setdefault(subject, []).append((max(at_us, effective_us), effective_us, owner, by))

    def settle(self) -> None:
        """All is told."""
        margin = self._margin
        for request in self._requests.values():
            self._asked(*request, NEVER_US)
        for subject, opened_us, opener, owners, ended_us in self._tickets.values():
            until_us = NEVER_US if ended_us is None else ended_us + DAY_US
            opened_by = ANYONE if _is(opener, subject) else opener
            if opened_by == ANYONE:
                self._vouch(ANYONE, subject, ANYONE, opened_us - DAY_US, until_us)
            for place, (at_us, owner, by) in enumerate(owners):
                ends = [one for one in (ended_us, *(after[0] for after in owners[place + 1 : place + 2])) if one]
                span = (at_us - margin, min(ends) + margin if ends else NEVER_US)
                self._spans.add((owner, subject), *span)
                self._vouch(owner, subject, by, *span)
                self._vouch(owner, subject, opened_by, *span)
        for subject, changes in self._owners.items():
            held = _in_force(changes)
            for (at_us, whom, by), after in zip(held, [*held[1:], None], strict=True):
                if whom is not None:
                    span = (at_us - margin, NEVER_US if after is None else after[0] + margin)
                    self._spans.add((whom, subject), *span)
                    self._vouch(whom, subject, by, *span)
        self._requests, self._tickets, self._owners = {}, {}, {}

    def tie(self, actors: Collection[str], roles: Iterable[str], subject: UUID, at_us: int) -> bool:
        """Whether something ties one of these actors, or of the teams named as their roles, to a subject at a time."""
        key = subject.bytes
        covers = self._spans.covers
        return any(covers((one, key), at_us) for one in _whom(actors, roles)) or any(_is(one, key) for one in actors)

    def shared(self, actors: Collection[str], roles: Iterable[str], subject: UUID, at_us: int) -> bool:
        """Whether somebody else, or the customer, has a part in a tie that there is; else it is the actor's own."""
        key = subject.bytes
        if any(_is(one, key) for one in actors):
            return True
        covers = self._shared.covers
        for whom in _whom(actors, roles):
            if covers((f"{ANYONE}\0{whom}", key), at_us):
                return True
            for by in self._vouching.get((whom, key), ()):
                if by not in actors and covers((f"{by}\0{whom}", key), at_us):
                    return True
        return False


def _in_force(changes: Iterable[tuple[int, int, str | None, str]]) -> list[tuple[int, str | None, str]]:
    """Of changes (known from, effective from, to whom, by whom), those that came into force as the book knew them: what
    is recorded later about an earlier time changes nothing."""
    found: list[tuple[int, str | None, str]] = []
    latest_us: int | None = None
    for at_us, effective_us, owner, by in sorted(changes, key=lambda one: one[0]):
        if latest_us is None or effective_us >= latest_us:
            latest_us = effective_us
            found.append((at_us, owner, by))
    return found


def _whom(actors: Iterable[str], roles: Iterable[str]) -> Iterator[str]:
    """By what names a tie can be to these actors: anyone's, their own, their teams'."""
    yield ANYONE
    yield from actors
    for role in roles:
        yield from (role, f"team:{role}", f"role:{role}")


def _is(actor: str, subject: bytes) -> bool:
    """Whether the actor is the subject, as in self-service: `customer:` and the id."""
    return actor.startswith(CUSTOMER) and actor == f"{CUSTOMER}{UUID(bytes=subject)}"


CUSTOMER = "customer:"


class ConsentsKnown:
    """The consents of subjects, as the book knew them at the times of reads."""

    def __init__(self) -> None:
        self._facts: dict[bytes, list[tuple[int, Event]]] = {}
        self._told: dict[bytes, tuple[int, int, Consents]] = {}
        self._by: dict[UUID, str] = {}

    def add(self, recorded_us: int, event: Event) -> None:
        """A fact about a consent, in the order of recording."""
        assert event.subject_id is not None
        self._facts.setdefault(event.subject_id.bytes, []).append((recorded_us, event))
        if isinstance(event, ConsentGranted):
            self._by[event.event_id] = event.metadata.actor

    def agreed(self, subject: UUID, purpose: str, at_us: int) -> list[str]:
        """Of the consents of a subject to a purpose that were in force at a time, as known then: who recorded them."""
        return [self._by[one.consent_id] for one in self.at(subject, at_us).in_force(at_us, purpose)]

    def subjects(self) -> list[UUID]:
        """All who were asked for a consent."""
        return [UUID(bytes=subject) for subject in self._facts]

    def at(self, subject: UUID, known_us: int) -> Consents:
        """All consents of a subject, with what was recorded by a time."""
        facts = self._facts.get(subject.bytes)
        if facts is None:
            return Consents()
        done, until_us, consents = self._told.get(subject.bytes, (0, known_us, Consents()))
        if known_us < until_us:
            done, consents = 0, Consents()
        while done < len(facts) and facts[done][0] <= known_us:
            consents = consents.after(facts[done][1])
            done += 1
        self._told[subject.bytes] = (done, known_us, consents)
        return consents


def lacking(consents: Consents, purpose: str, at_us: int) -> str | None:
    """Why there is no consent to a purpose in force at a time; None: there is one."""
    given = [one for one in consents.given if one.purpose == purpose]
    if any(one.in_force(at_us) for one in given):
        return None
    if not given:
        return "never given"
    last = max(given, key=lambda one: one.captured_us)
    if last.ended_us is not None and last.ended_us <= at_us:
        return "withdrawn"
    if last.until_us is not None and last.until_us <= at_us:
        return "expired"
    if last.confirmed_us is None or last.confirmed_us > at_us:
        return "not confirmed"
    return "not in force yet"


# ── policies and roles over time ────────────────────────────────────────────────────────────────────────────────────


class Holding(NamedTuple):
    """A role that an actor had, as the book knew it: from its recording on, until its end or its revocation."""

    actor: str
    role: str
    from_us: int
    until_us: int


class Policies:
    """Which access policy was in force when, and who had which role. `decides` makes a policy ready to decide."""

    def __init__(self, decides: Callable[[InForce], Decider], stream: UUID) -> None:
        self.decides = decides
        self._state: Aggregate = Policy(stream)
        self._times: list[int] = []
        self._in_force: list[InForce | None] = []
        self.by_digest: dict[str, InForce] = {}
        self.holdings: list[Holding] = []
        self._by_actor: dict[str, list[int]] = {}
        self._any_role: dict[tuple[str, str, str], frozenset[str]] = {}

    def add(self, event: Event) -> None:
        """An event of the policies' stream, in order."""
        policy = Policy.fold(self._state, [event])  # type: ignore[arg-type]  # it is one
        assert policy is not None
        self._state = policy
        recorded_us = event.metadata.recorded_us
        if isinstance(event, RoleGranted):
            until_us = NEVER_US if event.until_us is None else event.until_us
            self._end(event.actor, event.role, recorded_us)
            held = self._by_actor.setdefault(event.actor, [])
            held.append(len(self.holdings))
            self.holdings.append(Holding(event.actor, event.role, max(event.effective_us, recorded_us), until_us))
        elif isinstance(event, RoleRevoked):
            self._end(event.actor, event.role, recorded_us)
        else:
            self._times.append(recorded_us)
            self._in_force.append(policy.in_force)
            if isinstance(event, PolicyAdopted) and policy.in_force is not None:
                self.by_digest[event.digest] = policy.in_force

    def _end(self, actor: str, role: str, at_us: int) -> None:
        for index in self._by_actor.get(actor, ()):
            one = self.holdings[index]
            if one.role == role and one.until_us > at_us:
                self.holdings[index] = one._replace(until_us=max(at_us, one.from_us))

    def roles_of(self, actor: str, at_us: int) -> frozenset[str]:
        """The roles that an actor had at a time."""
        held = self._by_actor.get(actor)
        if held is None:
            return frozenset()
        return frozenset(
            [one.role for index in held for one in [self.holdings[index]] if one.from_us <= at_us < one.until_us]
        )

    def ended_roles(self, actor: str, at_us: int) -> dict[str, int]:
        """Roles that an actor had had by a time and has no more, with their ends."""
        has = self.roles_of(actor, at_us)
        return {
            one.role: one.until_us
            for index in self._by_actor.get(actor, ())
            for one in [self.holdings[index]]
            if one.until_us <= at_us and one.role not in has
        }

    def in_force(self, at_us: int) -> InForce | None:
        """The policy in force at a time."""
        place = bisect_right(self._times, at_us)
        return self._in_force[place - 1] if place else None

    def measure(self, at_us: int, digest: str | None = None) -> InForce | None:
        """What a read is measured by: the policy that decided it; where none was in force, the last one before, or the
        first one after.
        """
        found = self.last(at_us, digest)
        if found is None:
            found = next((one for one in self._in_force if one is not None), None)
        return found

    def last(self, at_us: int, digest: str | None = None) -> InForce | None:
        """The policy that decided a read; where none was in force, the last one before it."""
        if digest is not None and digest in self.by_digest:
            return self.by_digest[digest]
        place = bisect_right(self._times, at_us)
        return next((one for one in reversed(self._in_force[:place]) if one is not None), None)

    def any_in_force(self, from_us: int, until_us: int) -> list[InForce]:
        """The policies that were in force at some time of a period, in order."""
        starts = [*self._times, NEVER_US]
        found = [
            one
            for place, one in enumerate(self._in_force)
            if one is not None and starts[place] <= until_us and starts[place + 1] > from_us
        ]
        return list({one.digest: one for one in found}.values())

    def roles_in(self, policy: InForce) -> list[str]:
        """The roles that a policy's rules name, and those that were ever granted."""
        document = json.loads(policy.document)
        named = [role for rule in document.get("rules") or () for role in rule["roles"] if role != "*"]
        return sorted({*named, *(one.role for one in self.holdings)})

    def for_any_role(self, policy: InForce, purpose: str, action: str) -> frozenset[str]:
        """The fields that somebody, in whatever one role, is given some of for a purpose."""
        key = (policy.digest, purpose, action)
        if key not in self._any_role:
            decides = self.decides(policy)
            decisions = [
                decides.decide(frozenset(one), purpose, action) for one in [(), *((r,) for r in self.roles_in(policy))]
            ]
            self._any_role[key] = frozenset(
                [field for field in known_fields() for one in decisions if one.of(field).effect != DENY]
            )
        return self._any_role[key]


# ── reading many ────────────────────────────────────────────────────────────────────────────────────────────────────


def released_subjects(event: PersonalDataRead) -> tuple[UUID, ...]:
    """Whom a read showed: also where no sealed field was opened, as of consents or a trail. Not those of whom all was
    erased or withheld, nor whose values the book sealed anew."""
    if event.outcome not in (RELEASED, TOLD):
        return ()
    if not event.restricted and not event.erased and NO_CONSENT not in event.consents:
        return event.subjects
    lacks = {one for one, consent in zip(event.subjects, event.consents, strict=False) if consent == NO_CONSENT}
    lacks.update(event.restricted, event.erased)
    return tuple([one for one in event.subjects if one not in lacks])


class Episode:
    """Reads of one actor that follow each other within a window, of many subjects in all."""

    __slots__ = ("count", "first", "last", "most", "purposes", "subjects")

    def __init__(self, first: int) -> None:
        self.first = self.last = first
        self.count = 0
        self.most = 0
        self.subjects: set[UUID] = set()
        self.purposes: set[str] = set()


class Crowds:
    """Who read at least so many subjects within a window of time. Holds each actor's last window, and a histogram: of
    each window of the clock in which he read, the most subjects within a window."""

    def __init__(self, window_us: int, least: int, from_us: int) -> None:
        self._window_us = window_us
        self._least = least
        self._from_us = from_us
        self._window: dict[str, deque[tuple[int, int, str, tuple[UUID, ...]]]] = {}
        self._inside: dict[str, Counter[UUID]] = {}
        self._now: dict[str, tuple[int, int]] = {}
        self._histogram: dict[str, Counter[int]] = {}
        self._readers: dict[str, set[str]] = {}
        self.episodes: dict[str, list[Episode]] = {}

    def see(self, position: int, event: PersonalDataRead, subjects: tuple[UUID, ...]) -> None:
        """A read, in order, with those of its subjects that count; of none, it still counts for the habit."""
        actor, at_us, purpose = event.metadata.actor, event.metadata.recorded_us, event.metadata.purpose
        self._readers.setdefault(purpose, set()).add(actor)
        window, inside = self._window.setdefault(actor, deque()), self._inside.setdefault(actor, Counter())
        while window and window[0][0] <= at_us - self._window_us:
            for one in window.popleft()[3]:
                inside[one] -= 1
                if not inside[one]:
                    del inside[one]
        if subjects:
            window.append((at_us, position, purpose, subjects))
            inside.update(subjects)
        figure = len(inside)
        self._note(actor, at_us // self._window_us, figure)
        if subjects and figure >= self._least and at_us >= self._from_us:
            self._note_episode(actor, window, inside, position, figure)

    def _note(self, actor: str, number: int, figure: int) -> None:
        current, most = self._now.get(actor, (number, 0))
        if current != number:
            self._histogram.setdefault(actor, Counter())[most] += 1
            most = 0
        self._now[actor] = (number, max(most, figure))

    def _note_episode(
        self,
        actor: str,
        window: deque[tuple[int, int, str, tuple[UUID, ...]]],
        inside: Counter[UUID],
        position: int,
        figure: int,
    ) -> None:
        episodes = self.episodes.setdefault(actor, [])
        if episodes and episodes[-1].last >= window[0][1]:
            episode = episodes[-1]
            for _, at, purpose, subjects in reversed(window):
                if at <= episode.last:
                    break
                episode.count += 1
                episode.subjects.update(subjects)
                episode.purposes.add(purpose)
        else:
            episode = Episode(window[0][1])
            episode.count = len(window)
            episode.subjects.update(inside)
            episode.purposes.update(purpose for _, _, purpose, _ in window)
            episodes.append(episode)
        episode.last = position
        episode.most = max(episode.most, figure)

    def habits(self, windows: int) -> dict[str, float]:
        """Of each actor who read in at least so many windows: the median of his windows. All is told."""
        for actor, (_, most) in self._now.items():
            self._histogram.setdefault(actor, Counter())[most] += 1
        self._now = {}
        return {
            actor: median(list(found.elements()))
            for actor, found in self._histogram.items()
            if found.total() >= windows
        }

    def beyond(self, windows: int, factor: int) -> dict[str, list[tuple[Episode, float]]]:
        """By actor: the episodes of more than so many times the habit, his own or that of others, each with it."""
        habits = self.habits(windows)
        found: dict[str, list[tuple[Episode, float]]] = {}
        for actor, episodes in self.episodes.items():
            for one in episodes:
                habit = max(habits.get(actor, 0.0), self.of_peers(actor, one.purposes, habits) or 0.0)
                if one.most > factor * habit:
                    found.setdefault(actor, []).append((one, habit))
        return found

    def of_peers(self, actor: str, purposes: Iterable[str], habits: Mapping[str, float]) -> float | None:
        """The median of the habits of others who read for the same purposes; None: nobody has one."""
        peers = {peer for purpose in purposes for peer in self._readers[purpose] if peer != actor}
        found = [habits[peer] for peer in peers if peer in habits]
        return median(found) if found else None


class BulkReads:
    """Who read many subjects within an hour."""

    def __init__(self, policies: Policies, thresholds: Thresholds, from_us: int) -> None:
        self._policies = policies
        self._limits = thresholds
        self._crowds = Crowds(HOUR_US, thresholds.bulk_subjects, from_us)
        self._today: dict[tuple[str, str], tuple[int, set[UUID]]] = {}
        self.campaigns: set[tuple[str, str, int]] = set()
        """Actor, bulk purpose, and day (UTC, since 1970) on which he read many subjects for it."""

    def see(self, position: int, event: PersonalDataRead) -> None:
        """A record, in order."""
        subjects = released_subjects(event)
        if not subjects:
            return
        declared = purpose_of(self._policies, event)
        if declared is not None and declared.bulk:
            metadata = event.metadata
            self._note_day(metadata.actor, metadata.purpose, metadata.recorded_us // DAY_US, subjects)
            return
        self._crowds.see(position, event, subjects)

    def _note_day(self, actor: str, purpose: str, day: int, subjects: Sequence[UUID]) -> None:
        current, seen = self._today.get((actor, purpose), (day, set()))
        if current != day:
            seen = set()
        seen.update(subjects)
        self._today[actor, purpose] = (day, seen)
        if len(seen) >= self._limits.bulk_subjects:
            self.campaigns.add((actor, purpose, day))

    def found(self) -> dict[str, list[tuple[Episode, float]]]:
        """By actor: the episodes that are far beyond the habit, each with that habit (subjects within an hour)."""
        return self._crowds.beyond(self._limits.habit_hours, self._limits.bulk_factor)


SEARCH = "customers.find"
REGISTERS_WITHIN_US = HOUR_US // 2
"""Whoever registers a customer so long after a search had a reason for it."""


class Guesses:
    """Who searched within an hour for many who are not there, by `customers.find` or by commands that were refused: so
    one finds out who is.

    `registered`: by actor, when he registered customers. Whoever searches first, and then registers, guesses nothing.
    """

    def __init__(
        self, policies: Policies, registered: Mapping[str, Sequence[int]], thresholds: Thresholds, from_us: int
    ) -> None:
        self._policies = policies
        self._limits = thresholds
        self._crowds = Crowds(HOUR_US, thresholds.guesses, from_us)
        self._registered = {actor: deque(sorted(times)) for actor, times in registered.items()}

    def see(self, position: int, event: PersonalDataRead) -> None:
        """A record, in order."""
        if event.outcome != TOLD and (event.action != SEARCH or event.outcome != RELEASED):
            return
        declared = purpose_of(self._policies, event)
        if declared is not None and declared.bulk:
            return
        missed = not event.subjects and not self._registers(event.metadata.actor, event.metadata.recorded_us)
        # Each search that finds nobody is for somebody else: it counts by its own id.
        self._crowds.see(position, event, (event.event_id,) if missed else ())

    def _registers(self, actor: str, at_us: int) -> bool:
        """Whether the actor registers a customer soon after; each that he registers explains one search."""
        times = self._registered.get(actor)
        while times and times[0] < at_us:
            times.popleft()
        if times and times[0] <= at_us + REGISTERS_WITHIN_US:
            times.popleft()
            return True
        return False

    def found(self) -> dict[str, list[tuple[Episode, float]]]:
        """By actor: the episodes that are far beyond the habit, each with that habit (searches within an hour)."""
        return self._crowds.beyond(self._limits.habit_hours, self._limits.bulk_factor)


HABIT_WEEKS = 4
"""Whoever read in so many windows of `own_tie_days` has a habit of own ties."""


class OwnTies:
    """Who read many subjects to whom nothing ties him but what he recorded himself."""

    def __init__(self, thresholds: Thresholds, from_us: int) -> None:
        self._limits = thresholds
        self._from_us = from_us
        self._crowds = Crowds(thresholds.own_tie_days * DAY_US, thresholds.own_tie_subjects, from_us)
        self.tied: dict[str, set[UUID]] = {}
        """By actor: subjects whom he read on any tie."""
        self.own: dict[str, dict[UUID, set[int]]] = {}
        """By actor: subjects whom he read on nothing but his own ties, and on which days (UTC, since 1970)."""

    def see(self, position: int, event: PersonalDataRead, tied: Sequence[UUID], own: tuple[UUID, ...]) -> None:
        """A read for one customer at a time, in order: whom something ties to the actor, and whom of them only he."""
        metadata = event.metadata
        self._crowds.see(position, event, own)
        if metadata.recorded_us < self._from_us:
            return
        if tied:
            self.tied.setdefault(metadata.actor, set()).update(tied)
        for subject in own:
            self.own.setdefault(metadata.actor, {}).setdefault(subject, set()).add(metadata.recorded_us // DAY_US)

    def found(self) -> dict[str, list[tuple[Episode, float]]]:
        """By actor: the episodes far beyond the habit of others; where no other has one, beyond his own."""
        habits = self._crowds.habits(HABIT_WEEKS)
        found: dict[str, list[tuple[Episode, float]]] = {}
        for actor, episodes in self._crowds.episodes.items():
            for one in episodes:
                habit = self._crowds.of_peers(actor, one.purposes, habits)
                if habit is None:
                    habit = habits.get(actor, 0.0)
                if one.most > self._limits.bulk_factor * habit:
                    found.setdefault(actor, []).append((one, habit))
        return found


def purpose_of(policies: Policies, event: PersonalDataRead) -> Purpose | None:
    """The purpose of a read, as declared by the policy that it is measured by."""
    policy = policies.measure(event.metadata.recorded_us, event.policy)
    return None if policy is None else policies.decides(policy).purposes.get(event.metadata.purpose)


# ── what was used of what was granted ───────────────────────────────────────────────────────────────────────────────


class Right(NamedTuple):
    """Something that a role may do for a purpose: read a field or group of fields, or give a command."""

    role: str
    purpose: str
    right: str
    """A field, `contact.*`, `category:identity`; of commands `command tickets.*`."""
    by: str
    """The rule that gives it."""


class Usage:
    """Which roles and rights were used, and when each actor was last active."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self.last_us: dict[str, int] = {}
        """When each actor was last active, denied attempts included."""
        self.last_position: dict[str, int] = {}
        """Position of his last record in the log of reads."""
        self.used: set[tuple[str, str]] = set()
        """Actor and role, where he did something that the role allows."""
        self._read: dict[tuple[str, str], set[str]] = {}
        self._recorded: dict[tuple[str, str], set[str]] = {}
        self._allowing: dict[tuple[str, frozenset[str], str, str, tuple[str, ...]], frozenset[str]] = {}

    def active(self, actor: str, at_us: int) -> None:
        """An actor did something."""
        if at_us > self.last_us.get(actor, -NEVER_US):
            self.last_us[actor] = at_us

    def fact(self, actor: str, purpose: str, stored_name: str, at_us: int) -> None:
        """A command's fact was recorded."""
        roles = self._policies.roles_of(actor, at_us)
        policy = self._policies.measure(at_us) if roles else None
        if policy is not None:
            commands = COMMANDS_OF.get(stored_name, ())
            for role in self._that_allow(policy, roles, purpose, "", commands):
                self.used.add((actor, role))
                self._recorded.setdefault((role, purpose), set()).add(stored_name)

    def read(self, event: PersonalDataRead) -> None:
        """A read was released."""
        metadata = event.metadata
        roles = self._policies.roles_of(metadata.actor, metadata.recorded_us)
        policy = self._policies.measure(metadata.recorded_us, event.policy) if roles else None
        if policy is not None:
            fields = (*event.fields, *event.masked)
            for role in self._that_allow(policy, roles, metadata.purpose, event.action, fields):
                self.used.add((metadata.actor, role))
                self._read.setdefault((role, metadata.purpose), set()).update(fields)

    def told(self, event: PersonalDataRead) -> None:
        """A command was allowed, and refused."""
        metadata = event.metadata
        roles = self._policies.roles_of(metadata.actor, metadata.recorded_us)
        policy = self._policies.measure(metadata.recorded_us, event.policy) if roles else None
        if policy is not None:
            for role in self._that_allow(policy, roles, metadata.purpose, "", (event.action,)):
                self.used.add((metadata.actor, role))

    def _that_allow(
        self, policy: InForce, roles: frozenset[str], purpose: str, action: str, names: tuple[str, ...]
    ) -> frozenset[str]:
        """Those of the roles that by themselves allow one of these fields (by an action) or commands."""
        key = (policy.digest, roles, purpose, action, names)
        found = self._allowing.get(key)
        if found is None:
            decides = self._policies.decides(policy)
            allowing = []
            for role in roles:
                if action:
                    decision = decides.decide(frozenset([role]), purpose, action)
                    allows = (
                        any(decision.of(name).effect != DENY for name in names)
                        if names
                        else decision.permitted is not None
                    )
                else:
                    allows = any(decides.command(frozenset([role]), purpose, name).effect == ALLOW for name in names)
                if allows:
                    allowing.append(role)
            if len(self._allowing) > 4096:
                self._allowing.clear()
            found = self._allowing[key] = frozenset(allowing)
        return found

    def unused(self, policy: InForce) -> tuple[int, list[Right]]:
        """How many rights a policy gives, and those that nobody used."""
        rights = list(dict.fromkeys(self._rights(policy)))
        return len(rights), [one for one in rights if not self._was_used(one)]

    def _was_used(self, right: Right) -> bool:
        command = right.right.removeprefix("command ")
        for held, names in (self._recorded if command != right.right else self._read).items():
            if right.role in ("*", held[0]) and held[1] == right.purpose:
                for name in names:
                    if command == right.right:
                        if selects(right.right, name):
                            return True
                    elif any(fits(command, one) for one in COMMANDS_OF[name]):
                        return True
        return False

    def _rights(self, policy: InForce) -> Iterator[Right]:
        document = json.loads(policy.document)
        purposes = list(document["purposes"])
        for rule in document.get("rules") or ():
            if rule["effect"] == DENY:
                continue
            for role in rule["roles"]:
                for purpose in purposes:
                    if any(fits(pattern, purpose) for pattern in rule["purposes"]):
                        yield from (Right(role, purpose, name, rule["id"]) for name in rule["fields"])
                        yield from (Right(role, purpose, f"command {name}", rule["id"]) for name in rule["commands"])
        if document.get("rules") is None:
            yield from self._rights_by_asking(policy, purposes)

    def _rights_by_asking(self, policy: InForce, purposes: Sequence[str]) -> Iterator[Right]:
        """Of a policy whose rules can't be listed: each field and command is asked for."""
        decides = self._policies.decides(policy)
        commands = sorted({one for names in COMMANDS_OF.values() for one in names})
        for role in self._policies.roles_in(policy):
            for purpose in purposes:
                decision = decides.decide(frozenset([role]), purpose, "profiles.get")
                for field in known_fields():
                    if (verdict := decision.of(field)).effect != DENY:
                        yield Right(role, purpose, field, verdict.rule or "")
                for command in commands:
                    ruled = decides.command(frozenset([role]), purpose, command)
                    if ruled.effect == ALLOW:
                        yield Right(role, purpose, f"command {command}", ruled.rule or "")


# ── the findings ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Group:
    __slots__ = ("count", "details", "first", "last", "subjects")

    def __init__(self, position: int) -> None:
        self.first = self.last = position
        self.count = 0
        self.subjects: set[UUID] = set()
        self.details: set[str] = set()


_Rule = Callable[[str], str]


class AccessReview:
    """The second pass over the log of reads: what each record breaks. `period`: from, until (exclusive), in µs."""

    def __init__(
        self,
        policies: Policies,
        dealings: Dealings,
        consents: ConsentsKnown,
        usage: Usage,
        reads: BulkReads,
        thresholds: Thresholds,
        period: tuple[int, int],
    ) -> None:
        self._policies = policies
        self._dealings = dealings
        self._consents = consents
        self._usage = usage
        self._bulk = reads.found()
        self._campaigns = reads.campaigns
        self.own_ties = OwnTies(thresholds, period[0])
        self._guesses = Guesses(policies, dealings.registrations, thresholds, period[0])
        self._limits = thresholds
        self._period = period
        self._groups: dict[tuple[str, str, str], tuple[_Group, _Rule]] = {}
        self.withheld: Counter[tuple[str, str, str]] = Counter()
        """Actor, purpose, and why there was no consent → of how many subjects nothing was released for lack of it."""
        self.records = 0
        """How many records of the period were seen."""

    def see(self, position: int, event: Event) -> None:
        """A record of the log of reads, in order."""
        if not isinstance(event, (PersonalDataRead, CommandDenied, Exported)):
            return
        metadata = event.metadata
        if metadata.recorded_us >= self._period[1]:
            return
        self._usage.active(metadata.actor, metadata.recorded_us)
        self._usage.last_position[metadata.actor] = position
        strangers = self._strangers(position, event) if isinstance(event, PersonalDataRead) else []
        if isinstance(event, PersonalDataRead):
            self._guesses.see(position, event)
        if metadata.recorded_us < self._period[0]:
            return
        self.records += 1
        if isinstance(event, PersonalDataRead):
            if event.outcome == RESEALED:
                return
            if event.outcome == RELEASED:
                self._usage.read(event)
                self._released(position, event)
                self._snooping(position, event, strangers)
            elif event.outcome == TOLD:  # what the policy says of commands counts for it, and allowed this one
                self._usage.told(event)
                self._snooping(position, event, strangers)
                return
            self._check_consents(position, event)
            if event.outcome == DENIED:
                self._denied_read(position, event)
        elif isinstance(event, CommandDenied):
            asked = f"the command {event.command} for {metadata.purpose} is not allowed"
            self._denied(position, event, asked, (), partial(self._command_was_allowed, event.command))
        else:
            self._exported(position, event)

    def _add(
        self, kind: str, event: Event, key: str, rule: _Rule, position: int, subjects: Iterable[UUID], *details: str
    ) -> None:
        name = (kind, event.metadata.actor, key)
        found = self._groups.get(name)
        if found is None:
            found = self._groups[name] = (_Group(position), rule)
        group = found[0]
        group.last = position
        group.count += 1
        group.subjects.update(subjects)
        group.details.update(details)

    def _released(self, position: int, event: PersonalDataRead) -> None:
        metadata, at_us = event.metadata, event.metadata.recorded_us
        policy = self._policies.measure(at_us, event.policy)
        declared = None if policy is None else self._policies.decides(policy).purposes.get(metadata.purpose)
        subjects = released_subjects(event)
        if policy is not None and declared is not None and subjects and not declared.in_hours(at_us, policy.zone):
            why = "no policy was in force" if event.policy is None else "the policy does not enforce them"
            times = f"{', '.join(declared.hours)} ({policy.zone.name})"
            hours = f"outside the hours of {metadata.purpose}: {times}; {why}"
            self._add(OUTSIDE_HOURS, event, hours, lambda _: hours, position, subjects)
        roles = self._policies.roles_of(metadata.actor, at_us)
        if policy is not None and subjects:
            outside = self._outside(policy, event, roles)
            if outside:
                purpose = metadata.purpose
                named = f"{policy.name}@{policy.version}"
                when = "" if event.policy else " (none was in force)"
                self._add(
                    OUTSIDE_PURPOSE,
                    event,
                    f"{purpose} {policy.digest} {when}",
                    lambda details: f"{named} does not give for {purpose}{when}: {details}",
                    position,
                    subjects,
                    *outside,
                )

    def _strangers(self, position: int, event: PersonalDataRead) -> list[UUID]:
        """Of a read for one customer at a time: those to whom nothing ties the actor. Notes ties that are his own."""
        metadata, at_us = event.metadata, event.metadata.recorded_us
        subjects = released_subjects(event)
        if not subjects or len(subjects) >= self._limits.bulk_subjects:
            return []  # a list: a matter of bulk, not of looking at somebody
        declared, basis = purpose_of(self._policies, event), self._basis(event)
        if (declared is not None and declared.bulk) or (basis is not None and basis.consent):
            return []  # where a consent is what counts, it is looked at by itself
        actors = [metadata.actor, *([metadata.on_behalf_of] if metadata.on_behalf_of else [])]
        roles = self._policies.roles_of(metadata.actor, at_us)
        tied, own = list[UUID](), list[UUID]()
        for one in subjects:
            # Where nobody had said what the purpose rests on, a consent to it is a tie like others.
            agreed = self._consents.agreed(one, metadata.purpose, at_us) if basis is None else []
            if agreed or self._dealings.tie(actors, roles, one, at_us):
                tied.append(one)
                if set(agreed) <= set(actors) and not self._dealings.shared(actors, roles, one, at_us):
                    own.append(one)
        self.own_ties.see(position, event, tied, tuple(own))
        return [one for one in subjects if one not in tied]

    def _snooping(self, position: int, event: PersonalDataRead, strangers: Sequence[UUID]) -> None:
        if any(one.first <= position <= one.last for one, _ in self._bulk.get(event.metadata.actor, ())):
            return
        if strangers:
            days = self._limits.tie_days
            rule = f"nothing in the book ties the actor to the subject within {days} days of the read"
            self._add(SNOOPING, event, "", lambda _: rule, position, strangers)

    def _outside(self, policy: InForce, event: PersonalDataRead, roles: frozenset[str]) -> list[str]:
        """Fields that were released, though the policy gives them not."""
        metadata = event.metadata
        if event.policy is None and not roles:
            given = self._policies.for_any_role(policy, metadata.purpose, event.action)
            return [one for one in (*event.fields, *event.masked) if not any(fits(name, one) for name in given)]
        decision = self._policies.decides(policy).decide(roles, metadata.purpose, event.action)
        beyond = [one for one in event.fields if decision.of(one).effect == DENY]
        beyond += [one for one in event.masked if decision.of(one).effect == DENY]
        if event.policy is not None:  # where one decided, what it masks may not be whole either
            beyond += [one for one in event.fields if decision.of(one).effect not in (ALLOW, DENY)]
        return sorted(beyond)

    def _check_consents(self, position: int, event: PersonalDataRead) -> None:
        asked = event.fields or event.masked or event.withheld
        if not asked or not event.subjects:
            return
        metadata, at_us = event.metadata, event.metadata.recorded_us
        basis = self._basis(event)
        consent = None if basis is None else basis.consent
        if consent is None:
            return
        whose, gone = set(released_subjects(event)), set(event.erased)
        found: dict[str, dict[UUID, str]] = {}
        for subject in event.subjects:
            if subject in gone:
                continue
            why = lacking(self._consents.at(subject, at_us), consent, at_us)
            if why is not None:
                found.setdefault(RELEASED if subject in whose else DENIED, {})[subject] = why
        for subject, why in found.pop(DENIED, {}).items():
            del subject
            self.withheld[metadata.actor, metadata.purpose, why] += 1
        for outcome, reasons in found.items():
            rule = partial(_consent_rule, metadata.purpose, consent, outcome)
            self._add(
                NO_CONSENT_KIND, event, f"{consent} {outcome} {metadata.purpose}", rule, position, reasons,
                *sorted(set(reasons.values())),
            )  # fmt: skip

    def _basis(self, event: PersonalDataRead) -> Purpose | None:
        """The purpose of a read, as it was declared by then; None: nobody had declared it."""
        policy = self._policies.last(event.metadata.recorded_us, event.policy)
        return None if policy is None else self._policies.decides(policy).purposes.get(event.metadata.purpose)

    def _denied_read(self, position: int, event: PersonalDataRead) -> None:
        metadata = event.metadata
        policy = self._policies.measure(metadata.recorded_us, event.policy)
        if policy is not None:
            decides = self._policies.decides(policy)
            if out_of_hours(decides.purposes.get(metadata.purpose), metadata.recorded_us, policy.zone):
                asked = f"{event.action} is outside of the hours of {metadata.purpose}"
                self._denied(position, event, asked, event.subjects, None)
                return
            roles = self._policies.roles_of(metadata.actor, metadata.recorded_us)
            decision = decides.decide(roles, metadata.purpose, event.action)
            verdicts = [decision.of(field).effect for field in event.withheld]
            allowed = any(one != DENY for one in verdicts) if verdicts else decision.permitted is not None
            if allowed:
                asked = (
                    f"the data is restricted, and {metadata.purpose} does not go on meanwhile"
                    if event.restricted
                    else f"{metadata.purpose} rests on a consent, and there was none"
                )
                self._denied(position, event, asked, event.subjects, None)
                return
        asked = f"{event.action} for {metadata.purpose} is not allowed"
        self._denied(position, event, asked, event.subjects, partial(self._read_was_allowed, event.action))

    def _denied(
        self,
        position: int,
        event: Event,
        asked: str,
        subjects: Iterable[UUID],
        allowed: Callable[[Decider, frozenset[str], str], bool] | None,
    ) -> None:
        metadata = event.metadata
        policy = self._policies.measure(metadata.recorded_us, getattr(event, "policy", None))
        had = ""
        if policy is not None and allowed is not None:
            decides = self._policies.decides(policy)
            for role in self._policies.ended_roles(metadata.actor, metadata.recorded_us):
                if allowed(decides, frozenset([role]), metadata.purpose):
                    had = f"; the role {role}, which allowed it, had ended"
        label = "" if policy is None else f" by {policy.name}@{policy.version}"
        rule = f"{asked}{label}{had}"
        self._add(DENIED_KIND, event, rule, lambda _: rule, position, subjects)

    @staticmethod
    def _command_was_allowed(command: str, decides: Decider, roles: frozenset[str], purpose: str) -> bool:
        return decides.command(roles, purpose, command).effect == ALLOW

    @staticmethod
    def _read_was_allowed(action: str, decides: Decider, roles: frozenset[str], purpose: str) -> bool:
        return decides.decide(roles, purpose, action).permitted is not None

    def _exported(self, position: int, event: Exported) -> None:
        purpose = event.metadata.purpose
        policy = self._policies.in_force(event.metadata.recorded_us)
        declared = None if policy is None else self._policies.decides(policy).purposes.get(purpose)
        day = event.metadata.recorded_us // DAY_US
        if declared is not None and declared.bulk:
            if declared.consent and (event.metadata.actor, purpose, day) not in self._campaigns:
                rule = f"data left the book for {purpose}, which rests on a consent, on a day without a campaign"
                self._add(EXPORT, event, rule, lambda details: f"{rule}: {details}", position, (), event.format)
        else:
            label = f"{policy.name}@{policy.version} does not mark it bulk" if policy else "no policy was in force"
            rule = f"data left the book for {purpose}, and {label}"
            self._add(EXPORT, event, rule, lambda details: f"{rule}: {details}", position, (), event.format)

    def findings(self) -> list[Finding]:
        """All findings, by kind, actor and position."""
        found = [
            Finding(
                kind, actor, _sorted(group.subjects), group.first, group.last, group.count,
                rule(", ".join(sorted(group.details))),
            )
            for (kind, actor, _), (group, rule) in self._groups.items()
        ]  # fmt: skip
        found += self._bulk_findings()
        found += self._own_tie_findings()
        found += self._guessing_findings()
        found += self._unused()
        found += self._dormant()
        order = {kind: place for place, kind in enumerate(KINDS)}
        return sorted(found, key=lambda one: (order[one.kind], one.actor, one.first_position or 0, one.rule))

    def _bulk_findings(self) -> Iterator[Finding]:
        for actor, episodes in self._bulk.items():
            for one, habit in episodes:
                rule = (
                    f"{one.most} subjects within an hour for {', '.join(sorted(one.purposes))}: at least "
                    f"{self._limits.bulk_subjects}, and more than {self._limits.bulk_factor} times the habit "
                    f"({_usual(habit)})"
                )
                yield Finding(BULK, actor, _sorted(one.subjects), one.first, one.last, one.count, rule)

    def _guessing_findings(self) -> Iterator[Finding]:
        for actor, episodes in self._guesses.found().items():
            for one, habit in episodes:
                rule = (
                    f"{one.most} searches within an hour that found nobody, for {', '.join(sorted(one.purposes))}: at "
                    f"least {self._limits.guesses}, and more than {self._limits.bulk_factor} times the habit "
                    f"({_usual(habit)})"
                )
                yield Finding(GUESSING, actor, (), one.first, one.last, one.count, rule)

    def _own_tie_findings(self) -> Iterator[Finding]:
        days = self._limits.own_tie_days
        for actor, episodes in self.own_ties.found().items():
            for one, habit in episodes:
                rule = (
                    f"{one.most} subjects within {days} days for {', '.join(sorted(one.purposes))}, tied to the actor "
                    f"by nothing but his own records: at least {self._limits.own_tie_subjects}, and more than "
                    f"{self._limits.bulk_factor} times the habit ({_usual(habit)})"
                )
                yield Finding(OWN_TIES, actor, _sorted(one.subjects), one.first, one.last, one.count, rule)

    def _unused(self) -> Iterator[Finding]:
        from_us, until_us = self._period
        governed = bool(self._policies.any_in_force(from_us, until_us - 1))
        held: dict[tuple[str, str], bool] = {}
        for one in self._policies.holdings:
            if one.from_us < until_us and one.until_us > from_us and one.from_us < one.until_us:
                held[one.actor, one.role] = one.until_us >= until_us
        for (actor, role), lasts in held.items():
            if (actor, role) in self._usage.used:
                continue
            state = "" if lasts else " (it has ended)"
            last_us = self._usage.last_us.get(actor)
            if last_us is None or last_us < from_us:
                yield Finding(UNUSED_RIGHT, actor, (), None, None, 0, f"has the role {role}{state}, and did nothing")
            elif governed:
                rule = f"has the role {role}{state}, and never used a right of it"
                yield Finding(UNUSED_RIGHT, actor, (), None, None, 0, rule)

    def _dormant(self) -> Iterator[Finding]:
        until_us = self._period[1]
        before_us = until_us - self._limits.dormant_days * DAY_US
        holders: dict[str, set[str]] = {}
        for one in self._policies.holdings:
            if one.from_us < until_us <= one.until_us:
                holders.setdefault(one.actor, set()).add(one.role)
        for actor, roles in holders.items():
            last_us = self._usage.last_us.get(actor)
            if last_us is not None and last_us < before_us:
                last = self._usage.last_position.get(actor)
                rule = (
                    f"has the role{'s' if len(roles) > 1 else ''} {', '.join(sorted(roles))}, and did nothing for "
                    f"{self._limits.dormant_days} days"
                )
                yield Finding(DORMANT, actor, (), last, last, 0, rule)


def _consent_rule(purpose: str, consent: str, outcome: str, why: str) -> str:
    return f"{purpose} rests on a consent to {consent}, and it was {why}; {outcome}"


def _usual(habit: float) -> str:
    return f"{habit:g}" if habit else "none"


def _sorted(subjects: Iterable[UUID]) -> tuple[UUID, ...]:
    return tuple(sorted(subjects))
