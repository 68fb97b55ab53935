"""How made-up facts get into a book: through the domain, many in one commit, each dated by the history itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from tallybook.adapters.form import uuid_of
from tallybook.domain.account import CLOSED, SUSPENDED, CouponState
from tallybook.domain.aggregate import Stamp
from tallybook.domain.customer import Customer, CustomerKind, Line
from tallybook.domain.earning import Rules
from tallybook.domain.errors import Refused
from tallybook.domain.loyalty import TAKES_NOTHING, LoyaltyAccount, account_id
from tallybook.domain.points import (
    AccountClosed,
    AccountResumed,
    AccountSuspended,
    ActivityRecorded,
    CorrectionRecorded,
    CouponGranted,
    CouponUsed,
    CouponVoided,
    EarningConfirmed,
    EarningWithdrawn,
    ExtensionGranted,
    GoodwillGranted,
    HoldReleaseRequested,
    HoldRequested,
    PointsTransferred,
    RedemptionRequested,
    RedemptionReturned,
    ReinstatementGranted,
    TierOverridden,
    TierOverrideLifted,
    TransferReceived,
    TransferRequested,
)
from tallybook.domain.rules import Reward
from tallybook.domain.ticket import Author, Ticket, TicketKind

from .commands import Desk, Work, command
from .customers import (
    enrol,
    identifier_claim,
    link_identifier,
    order_claim,
    record_purchase,
    record_return,
    refer,
)
from .times import When

SYSTEM = "synth"
FACT_BITS = 40
"""A fact's id lies so many bits from its neighbour's, with room for the decisions about it."""
BEFORE = 1 << 39
"""From here on go the ids of what is due before a fact."""
TICKET = 1 << 38
"""So far from the fact that opens it lies a ticket's id."""


class MadeUp(NamedTuple):
    """A fact of a history (tallybook.adapters.synth), by names. `number`: its place among those of its customer."""

    customer: int
    number: int
    kind: str
    effective_us: int
    recorded_us: int
    ref: int
    peer: int
    code: int
    a: int
    b: int
    channel: str
    store: str | None
    currency: str
    lines: tuple[tuple[int, int, str, int, int, int, int, int], ...]
    """Of each: number, article, category, pieces, net, tax, shipping, discount."""


@dataclass(frozen=True, slots=True)
class Person:
    """A customer of a history, as registered."""

    id: UUID
    kind: str
    country: str
    source: str
    birth_month: int


class Batch:
    """Facts that are recorded in one commit. `name` says which they are: so the commit is known again."""

    def __init__(self, name: str, facts: Sequence[MadeUp], people: Mapping[int, Person], words: Words) -> None:
        self.name = name
        self.facts = facts
        self.people = people
        self.words = words

    def __str__(self) -> str:
        return self.name


class Words(NamedTuple):
    """What the numbers in a history stand for."""

    programme: str
    traits: Sequence[str]
    countries: Sequence[str]
    sources: Sequence[str]
    interactions: Sequence[str]
    reasons: Sequence[str]
    activities: Sequence[str]
    partners: Sequence[str]
    rewards: Sequence[str]
    tickets: Sequence[str]
    authors: Sequence[str]


@dataclass(frozen=True, slots=True)
class Filled:
    """What a commit did. `left_out`: facts that a book would have refused, or can't hold, by why."""

    facts: int
    events: int
    left_out: dict[str, int] = field(default_factory=dict)


class FillingDesk(Desk):
    """Records made-up facts."""

    _name = "imports"
    _parts: ClassVar[Mapping[str, str]] = {"record": "synth"}

    @command
    def record(
        self, work: Work, batch: Batch, *, effective_at: When | None = None, command_id: str | None = None
    ) -> Filled:
        """Record a batch, each fact as known from its own time on, with what the rules decide of it."""
        self._fetch(work, batch)
        one = _Recording(work, batch)
        for fact in batch.facts:
            one.record(fact)
        return Filled(len(batch.facts), len(work.journal), dict(one.left_out))

    def _fetch(self, work: Work, batch: Batch) -> None:
        """Load at once whom the batch is about, and look up at once what it claims."""
        ordinals = {fact.customer for fact in batch.facts}
        ordinals |= {fact.peer for fact in batch.facts if fact.peer in batch.people}
        ids = [batch.people[one].id for one in ordinals]
        app = self._core.app
        app.fetch(Customer, ids)
        app.fetch(LoyaltyAccount, [account_id(one, batch.words.programme) for one in ids])
        tickets = [(fact, fact.ref if fact.ref >= 0 else fact.number) for fact in batch.facts if "ticket." in fact.kind]
        app.fetch(Ticket, [_ticket(batch.people[fact.customer].id, number) for fact, number in tickets])
        new = [fact.customer for fact in batch.facts if fact.kind == "customer.registered"]
        work.look_up([identifier_claim(work, SYSTEM, external_id(one)) for one in new])


def external_id(ordinal: int) -> str:
    """What a customer is called in the system that a history is said to come from."""
    return f"S{ordinal:08d}"


def fact_id(customer: UUID, number: int) -> UUID:
    """The id of a customer's fact: it follows from the history, so that the facts that rest on it know it."""
    return uuid_of((customer.int + ((number + 1) << FACT_BITS)) % 2**128)


def _ticket(customer: UUID, number: int) -> UUID:
    return uuid_of(fact_id(customer, number).int ^ TICKET)


class _LeftOut(Exception):
    """A book would refuse such a command, or has nobody to record it of."""


class _Recording:
    """The facts of a batch on their way into the book.

    Each is told to the domain as its command would tell it. What a command would refuse is left out before anything is
    decided: a refusal in the middle would leave what was due by then without the fact that brought it on.
    """

    def __init__(self, work: Work, batch: Batch) -> None:
        self.work = work
        self.control = work.control()
        self.people = batch.people
        self.words = batch.words
        self.programme = batch.words.programme
        self.left_out: Counter[str] = Counter()
        self._fact = batch.facts[0]
        self._due = work.stamp

    def record(self, fact: MadeUp) -> None:
        """Record one."""
        step = _STEPS.get(fact.kind)
        if step is None:
            return  # a twin: the command about the other customer records it
        metadata = self.work.metadata.model_copy(update={"recorded_us": fact.recorded_us, "channel": fact.channel})
        first = fact_id(self.people[fact.customer].id, fact.number).int
        self._fact = fact
        self.work.stamp = Stamp(metadata, fact.effective_us, _ids(first))
        self._due = Stamp(metadata, fact.effective_us, _ids(first ^ BEFORE))
        try:
            step(self, fact)
        except (Refused, _LeftOut) as why:
            self.left_out[why.code if isinstance(why, Refused) else str(why)] += 1

    # ── who and what ──────────────────────────────────────────────────────────────────────────────────────────────

    def _id(self, ordinal: int) -> UUID:
        if ordinal not in self.people:
            raise _LeftOut("other_customer_not_asked_for")
        return self.people[ordinal].id

    def _customer(self, fact: MadeUp) -> Customer:
        return self.work.customer(self._id(fact.customer))

    def _rests_on(self, fact: MadeUp) -> UUID:
        return fact_id(self._id(fact.customer), fact.ref)

    def _account(self, fact: MadeUp, *, attempt: bool = False) -> LoyaltyAccount:
        """An account that takes facts at that time."""
        account = self.work.account(self._id(fact.customer), self.programme)
        if not account.enrolled:
            raise _LeftOut("not_enrolled")
        if account.enrolled_us > fact.effective_us:
            raise _LeftOut("effective_too_early")
        if account.status == CLOSED and not attempt:
            raise _LeftOut("account_closed")
        return account

    def _rules(self) -> Rules:
        rules = self.control.rule_book.in_force(self.programme, self.work.stamp.effective_us)
        if rules is None:
            raise _LeftOut("no_rule_set")
        return rules

    def _reaches_us(self) -> int:
        """Up to when things are due."""
        return max(self.work.stamp.effective_us, self.control.horizon_us or 0)

    def _reward(self, fact: MadeUp, *, coupon: bool = False) -> Reward | str:
        """The reward of the rule set that costs as much, at most, as was asked for; else its cheapest. Any code will
        do where it has no rewards."""
        there = sorted((one for one in self._rules().rewards.values() if not one.counted), key=lambda one: one.price)
        if coupon:
            there = [one for one in there if one.coupon_days is not None]
        if not there:
            return self.words.rewards[fact.code]
        if coupon:
            return there[fact.code % len(there)]
        return next((one for one in reversed(there) if one.price <= fact.a), there[0])

    def _tell(self, account: LoyaltyAccount, kind: type[Any], **fields: Any) -> Any:
        account.come_to(kind, self._due, self.control, **fields)
        traits = self.work.new_customer(account.customer_id).traits if account.customer_id else None
        assert traits is not None
        return account.tell(kind, self.work.stamp, self.control, traits, **fields)[1]

    def _coupon(self, account: LoyaltyAccount, coupon_id: UUID) -> CouponState:
        """A coupon that is good now."""
        coupon: CouponState | None = account.coupons.get(coupon_id)
        if coupon is None:
            raise _LeftOut("unknown_coupon")
        if coupon.outcome or coupon.expires_us <= self._reaches_us():
            raise _LeftOut("coupon_over")
        if coupon.since_us > self.work.stamp.effective_us:
            raise _LeftOut("effective_too_early")
        return coupon

    # ── customers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _registered(self, fact: MadeUp) -> None:
        work, person = self.work, self.people[fact.customer]
        customer = work.new_customer(person.id)
        key_id, commitment = work.key_for(customer)
        given, family = NAMES[fact.customer % len(NAMES)], FAMILIES[fact.customer // len(NAMES) % len(FAMILIES)]
        organisation = person.kind == CustomerKind.ORGANISATION
        fields: dict[str, object] = {
            "country": person.country,
            "source": person.source,
            "name": f"{family} & Co {fact.customer}" if organisation else f"{given} {family}",
        }
        if person.birth_month:
            fields["birth_month"] = person.birth_month
        customer.register(work.stamp, CustomerKind(person.kind), key_id=key_id, commitment=commitment, fields=fields)
        link_identifier(work, work.stamp, customer, SYSTEM, external_id(fact.customer))
        if fact.customer % 3:
            customer.add_contact_point(work.stamp, "email", f"{given}.{family}.{fact.customer}@example.org".lower())

    def _changed(self, fact: MadeUp) -> None:
        trait = self.words.traits[fact.code]
        names = {"country": self.words.countries, "source": self.words.sources}
        value: object = names[trait][fact.a] if trait in names else fact.a
        if trait == "name":
            value = f"{NAMES[fact.a % len(NAMES)]} {FAMILIES[fact.a // len(NAMES) % len(FAMILIES)]}"
        self._customer(fact).change(self.work.stamp, {trait: value}, ())

    def _interaction(self, fact: MadeUp) -> None:
        kind = self.words.interactions[fact.code]
        text = f"{TEXTS[fact.number % len(TEXTS)]} ({external_id(fact.customer)})"
        self._customer(fact).record_interaction(self.work.stamp, kind, "in" if fact.a else "out", None, text)

    def _referred(self, fact: MadeUp) -> None:
        other = self.work.customer(self._id(fact.peer))
        refer(self.work, self._customer(fact), other, None, None)

    def _bought(self, fact: MadeUp) -> None:
        work, customer = self.work, self._customer(fact)
        lines = [
            Line(
                sku=f"sku-{sku}",
                category=category,
                quantity=quantity,
                net_minor=net,
                tax_minor=tax,
                shipping_minor=shipping,
                discount_minor=discount,
            )
            for _, sku, category, quantity, net, tax, shipping, discount in fact.lines
        ]
        customer.check_purchase(lines)
        order = f"{external_id(fact.customer)}-{fact.number}"
        done = record_purchase(
            work,
            work.stamp,
            customer,
            lines,
            due=self._due,
            currency=fact.currency,
            store=fact.store,
            order_id=order,
        )
        work.claim(order_claim(work, order), done.purchase_id)

    def _gave_back(self, fact: MadeUp) -> None:
        customer, purchase = self._customer(fact), self._rests_on(fact)
        lines = {number: quantity for number, _, _, quantity, *_ in fact.lines}
        reason = self.words.reasons[fact.code]
        record_return(self.work, self.work.stamp, customer, purchase, lines, reason, due=self._due)

    # ── accounts ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _enrolled(self, fact: MadeUp) -> None:
        enrol(self.work, self._customer(fact), self.programme)

    def _active(self, fact: MadeUp) -> None:
        partner = self.words.partners[fact.b] or None
        activity = self.words.activities[fact.code]
        self._tell(self._account(fact), ActivityRecorded, activity=activity, quantity=fact.a, partner=partner)

    def _about_earning(self, fact: MadeUp, kind: type[Any], **fields: Any) -> None:
        account, earned = self._account(fact), self._rests_on(fact)
        lot = account.known.get(earned)
        if lot is None:
            raise _LeftOut("unknown_earning")
        if lot.since_us > fact.effective_us:
            raise _LeftOut("effective_too_early")
        self._tell(account, kind, fact_id=earned, **fields)

    def _confirmed(self, fact: MadeUp) -> None:
        self._about_earning(fact, EarningConfirmed)

    def _withdrawn(self, fact: MadeUp) -> None:
        self._about_earning(fact, EarningWithdrawn, reason="undone")

    def _redeemed(self, fact: MadeUp) -> None:
        account, reward = self._account(fact, attempt=True), self._reward(fact)
        hold_id = None
        if fact.ref >= 0:
            hold_id = self._rests_on(fact)
            hold = account.holds.get(hold_id)
            if hold is None or hold.until_us <= self._reaches_us():
                raise _LeftOut("unknown_hold")
        points, name = (reward.price, reward.id) if isinstance(reward, Reward) else (fact.a, reward)
        self._tell(
            account,
            RedemptionRequested,
            points=points,
            reward=name,
            stock=None,
            segments=(),
            hold_id=hold_id,
            code=None,
        )

    def _redemption_back(self, fact: MadeUp) -> None:
        account, redemption = self._account(fact), self._rests_on(fact)
        state = account.redemptions.get(redemption)
        if state is None:
            raise _LeftOut("unknown_redemption")
        if state.since_us > fact.effective_us:
            raise _LeftOut("effective_too_early")
        points = state.points if fact.b else min(fact.a, state.points)
        if redemption in account.coupons:
            self._coupon(account, redemption)
            points = state.points
        self._tell(
            account,
            RedemptionReturned,
            redemption_id=redemption,
            points=points,
            reason="goods_returned",
            whole=points == state.points,
        )

    def _held(self, fact: MadeUp) -> None:
        rules = self._rules()
        until_us = min(fact.b, rules.zone.add_days(fact.effective_us, rules.rule_set.holds_days))
        if until_us <= fact.effective_us:
            raise _LeftOut("no_holds")
        account = self._account(fact, attempt=True)
        self._tell(account, HoldRequested, points=fact.a, until_us=until_us, purpose="order")

    def _released(self, fact: MadeUp) -> None:
        account, hold_id = self._account(fact), self._rests_on(fact)
        hold = account.holds.get(hold_id)
        if hold is None or hold.until_us <= self._reaches_us():
            raise _LeftOut("unknown_hold")
        self._tell(account, HoldReleaseRequested, hold_id=hold_id)

    def _sent(self, fact: MadeUp) -> None:
        source = self._account(fact, attempt=True)
        target = self._account(fact._replace(customer=fact.peer), attempt=True)
        decision = self._tell(
            source, TransferRequested, to_account=target.id, points=fact.a, barred=TAKES_NOTHING.get(target.status)
        )
        if isinstance(decision, PointsTransferred):
            target.tell(
                TransferReceived,
                self.work.stamp,
                self.control,
                transfer_id=decision.facts[0],
                from_account=source.id,
                lots=decision.lots,
            )

    def _pleased(self, fact: MadeUp) -> None:
        if fact.ref < 0:  # what a ticket gives is recorded with it
            self._tell(self._account(fact), GoodwillGranted, points=fact.a, reason="goodwill", ticket_id=None)

    def _corrected(self, fact: MadeUp) -> None:
        into_debt = fact.a % 20 == 0
        self._tell(self._account(fact), CorrectionRecorded, points=fact.a, reason="correction", into_debt=into_debt)

    def _extended(self, fact: MadeUp) -> None:
        self._tell(self._account(fact), ExtensionGranted, lot_id=None, until_us=fact.b, reason="goodwill")

    def _reinstated(self, fact: MadeUp) -> None:
        account = self._account(fact)
        left = sum(points for _, points in account.lost(fact.effective_us))
        if not left:
            raise _LeftOut("nothing_expired")
        points = min(fact.a, left)
        self._tell(account, ReinstatementGranted, points=points, until_us=fact.b, reason="goodwill")

    def _overridden(self, fact: MadeUp) -> None:
        names = self._rules().ladder.names
        tier = names[min(fact.code, len(names) - 1)]
        self._tell(self._account(fact), TierOverridden, tier=tier, until_us=fact.b, reason="goodwill")

    def _lifted(self, fact: MadeUp) -> None:
        account = self._account(fact)
        if account.override_until_us is None or account.override_until_us <= fact.effective_us:
            raise _LeftOut("no_override")
        self._tell(account, TierOverrideLifted, reason="review")

    def _coupon_given(self, fact: MadeUp) -> None:
        account, reward = self._account(fact), self._reward(fact, coupon=True)
        if not isinstance(reward, Reward):
            raise _LeftOut("no_coupons")
        self._tell(account, CouponGranted, reward=reward.id, reason="campaign", stock=None, code=None)

    def _coupon_used(self, fact: MadeUp) -> None:
        account, coupon_id = self._account(fact, attempt=True), self._rests_on(fact)
        if coupon_id not in account.coupons:
            raise _LeftOut("unknown_coupon")
        self._tell(account, CouponUsed, coupon_id=coupon_id)

    def _coupon_voided(self, fact: MadeUp) -> None:
        account, coupon_id = self._account(fact), self._rests_on(fact)
        self._coupon(account, coupon_id)
        self._tell(account, CouponVoided, coupon_id=coupon_id, reason="mistake")

    def _suspended(self, fact: MadeUp) -> None:
        account = self._account(fact)
        if account.status == SUSPENDED:
            raise _LeftOut("account_suspended")
        self._tell(account, AccountSuspended, reason="review")

    def _resumed(self, fact: MadeUp) -> None:
        account = self._account(fact)
        if account.status != SUSPENDED:
            raise _LeftOut("not_suspended")
        self._tell(account, AccountResumed, reason="review")

    def _closed(self, fact: MadeUp) -> None:
        self._tell(self._account(fact), AccountClosed, reason="customer_wish")

    # ── tickets ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _ticket(self, fact: MadeUp) -> Ticket:
        number = fact.number if fact.ref < 0 else fact.ref
        return self.work.ticket(_ticket(self._id(fact.customer), number))

    def _opened(self, fact: MadeUp) -> None:
        customer, kind = self._customer(fact), TicketKind(self.words.tickets[fact.code])
        severity = "high" if kind is TicketKind.COMPLAINT and fact.number % 3 == 0 else None
        subject = f"{SUBJECTS[fact.number % len(SUBJECTS)]} ({external_id(fact.customer)})"
        self._ticket(fact).open(self.work.stamp, customer.id, kind, subject, None, severity)

    def _assigned(self, fact: MadeUp) -> None:
        self._ticket(fact).assign(self.work.stamp, f"agent:{fact.a:03d}")

    def _replied(self, fact: MadeUp) -> None:
        text = f"{TEXTS[fact.number % len(TEXTS)]} ({external_id(fact.customer)})"
        self._ticket(fact).reply(self.work.stamp, text, Author(self.words.authors[fact.a]), True)

    def _resolved(self, fact: MadeUp) -> None:
        self._ticket(fact).resolve(self.work.stamp, "solved", None)

    def _compensated(self, fact: MadeUp) -> None:
        account, ticket = self._account(fact), self._ticket(fact)
        ticket.compensate(self.work.stamp, fact.a, "complaint")
        account.grant_goodwill(self.work.stamp, fact.a, "complaint", ticket.id, self.control)

    def _satisfied(self, fact: MadeUp) -> None:
        self._ticket(fact).record_satisfaction(self.work.stamp, fact.a, None)

    def _ended(self, fact: MadeUp) -> None:
        self._ticket(fact).close(self.work.stamp)


def _ids(first: int) -> Callable[[], UUID]:
    ids: Iterator[UUID] = map(uuid_of, count(first))
    return ids.__next__


_STEPS: Mapping[str, Callable[[_Recording, MadeUp], None]] = {
    "customer.registered": _Recording._registered,
    "customer.changed": _Recording._changed,
    "customer.interaction_recorded": _Recording._interaction,
    "customer.purchase_recorded": _Recording._bought,
    "customer.return_recorded": _Recording._gave_back,
    "customer.referred": _Recording._referred,
    "loyalty.enrolled": _Recording._enrolled,
    "loyalty.activity_recorded": _Recording._active,
    "loyalty.earning_confirmed": _Recording._confirmed,
    "loyalty.earning_withdrawn": _Recording._withdrawn,
    "loyalty.redemption_requested": _Recording._redeemed,
    "loyalty.redemption_returned": _Recording._redemption_back,
    "loyalty.hold_requested": _Recording._held,
    "loyalty.hold_release_requested": _Recording._released,
    "loyalty.transfer_requested": _Recording._sent,
    "loyalty.goodwill_granted": _Recording._pleased,
    "loyalty.correction_recorded": _Recording._corrected,
    "loyalty.extension_granted": _Recording._extended,
    "loyalty.reinstatement_granted": _Recording._reinstated,
    "loyalty.tier_overridden": _Recording._overridden,
    "loyalty.tier_override_lifted": _Recording._lifted,
    "loyalty.coupon_granted": _Recording._coupon_given,
    "loyalty.coupon_used": _Recording._coupon_used,
    "loyalty.coupon_voided": _Recording._coupon_voided,
    "loyalty.suspended": _Recording._suspended,
    "loyalty.resumed": _Recording._resumed,
    "loyalty.closed": _Recording._closed,
    "ticket.opened": _Recording._opened,
    "ticket.assigned": _Recording._assigned,
    "ticket.replied": _Recording._replied,
    "ticket.resolved": _Recording._resolved,
    "ticket.compensated": _Recording._compensated,
    "ticket.satisfaction_recorded": _Recording._satisfied,
    "ticket.closed": _Recording._ended,
}
"""How each kind of fact gets into the book. Twins are recorded by the command about the other customer."""

NAMES = (
    "Ada", "Bela", "Carla", "Dmitri", "Elif", "Femi", "Greta", "Hiro", "Ines", "Jonas", "Kavya", "Lin", "Mara", "Noor",
    "Olga", "Pedro", "Quinn", "Rosa", "Sven", "Tariq", "Uma", "Vera", "Wen", "Xenia", "Yusuf", "Zoe",
)  # fmt: skip
FAMILIES = (
    "Abbot", "Bauer", "Costa", "Dubois", "Eriksen", "Fontana", "Garcia", "Haddad", "Ivanova", "Jansen", "Kim", "Lopez",
    "Meyer", "Nakamura", "Okafor", "Petrov", "Rossi", "Santos", "Tanaka", "Umar", "Vogel", "Wang", "Yilmaz",
)  # fmt: skip
TEXTS = (
    "Asked when the parcel comes", "Thanked for the quick answer", "Wants to know about the opening hours",
    "Called back, nobody answered", "Sent the missing papers",
)  # fmt: skip
SUBJECTS = ("Parcel damaged", "Wrong size", "Invoice missing", "Points missing", "Delivery late", "Question")
