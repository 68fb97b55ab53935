"""What a data subject said about the use of their data: consents, restriction, objections, requests.

Consents follow effective time, in whatever order the book learned of them: a withdrawal ends what was given before it,
and never acts backwards. Restrictions and objections alternate: one can be lifted only after it began.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from .aggregate import Aggregate, Appliers, Stamp, applies
from .calendar import UTC_ZONE
from .errors import refusal
from .events import Code, Event, Fact, stored

MARKETING_PURPOSE = "marketing"
"""The purpose whose consents an objection to marketing ends."""


class ObjectionTo(StrEnum):
    """What a subject may object to: decisions without a human (GDPR 22, PIPL 24), or direct marketing (GDPR 21)."""

    AUTOMATED_DECISIONS = "automated_decisions"
    MARKETING = "marketing"


class RequestKind(StrEnum):
    """Which right a data-subject request makes use of."""

    ACCESS = "access"
    RECTIFICATION = "rectification"
    ERASURE = "erasure"
    RESTRICTION = "restriction"
    PORTABILITY = "portability"
    OBJECTION = "objection"


class RequestOutcome(StrEnum):
    """How a request ended."""

    FULFILLED = "fulfilled"
    PARTLY_FULFILLED = "partly_fulfilled"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


@stored("customer.consent_granted")
class ConsentGranted(Fact):
    """The customer agreed to a purpose, for one contact point and brand or for all of them.

    `captured_us`: when they said so. In force from `from_us` until `until_us`, once it is confirmed.
    """

    purpose: Code
    point_id: UUID | None
    brand: Code | None
    basis: Code
    source: Code
    text_version: Code
    captured_us: int
    from_us: int
    until_us: int | None
    separate: bool
    cross_border: bool
    confirmed: bool


@stored("customer.consent_confirmed")
class ConsentConfirmed(Fact):
    """The customer confirmed a consent by a second step (double opt-in)."""

    consent_id: UUID


@stored("customer.consent_withdrawn")
class ConsentWithdrawn(Fact):
    """The customer no longer agrees to a purpose: for one contact point or brand, or (None) for all of them."""

    purpose: Code
    point_id: UUID | None
    brand: Code | None


@stored("customer.restricted")
class Restricted(Fact):
    """The customer's data may be kept, and not be used otherwise."""

    reason: Code


@stored("customer.restriction_lifted")
class RestrictionLifted(Fact):
    """The customer's data may be used again."""

    reason: Code | None


@stored("customer.objected")
class Objected(Fact):
    """The customer objects to automated decisions, or to marketing."""

    to: Code


@stored("customer.objection_withdrawn")
class ObjectionWithdrawn(Fact):
    """The customer no longer objects. Consents that the objection ended stay ended."""

    to: Code


@stored("customer.request_received")
class RequestReceived(Fact):
    """The customer made use of a right; an answer is due by `due_us`."""

    kind: str
    channel: Code | None
    due_us: int


@stored("customer.request_completed")
class RequestCompleted(Fact):
    """A request was answered."""

    request_id: UUID
    outcome: str
    reason: Code | None


@stored("customer.relation_ended")
class RelationEnded(Fact):
    """The relation with the customer is over; what happens later begins it anew."""

    reason: Code | None


class Consent(NamedTuple):
    """A consent and what became of it. Times in µs since 1970-01-01T00:00Z; `confirmed_us` None: not yet."""

    consent_id: UUID
    purpose: str
    point_id: UUID | None
    brand: str | None
    basis: str
    source: str
    text_version: str
    captured_us: int
    from_us: int
    until_us: int | None
    separate: bool
    cross_border: bool
    confirmed_us: int | None
    ended_us: int | None

    def in_force(self, at_us: int) -> bool:
        """Whether it is confirmed, within its time, and not withdrawn by then."""
        return (
            self.confirmed_us is not None
            and max(self.from_us, self.confirmed_us) <= at_us
            and (self.until_us is None or at_us < self.until_us)
            and (self.ended_us is None or at_us < self.ended_us)
        )


class Withdrawal(NamedTuple):
    """When what was withdrawn. None: for all contact points, for all brands."""

    at_us: int
    purpose: str
    point_id: UUID | None
    brand: str | None

    def ends(self, consent: Consent) -> bool:
        """Whether it is about such a consent."""
        return (
            self.purpose == consent.purpose
            and self.point_id in (None, consent.point_id)
            and self.brand in (None, consent.brand)
        )


class Consents(NamedTuple):
    """All consents of a subject, folded. Immutable."""

    given: tuple[Consent, ...] = ()
    withdrawals: tuple[Withdrawal, ...] = ()

    def after(self, event: Event) -> Consents:
        """The consents with one more event, which may lie before others that are known."""
        if isinstance(event, ConsentGranted):
            return self._granted(event)
        if isinstance(event, ConsentConfirmed):
            given = tuple(
                one._replace(confirmed_us=_earlier(one.confirmed_us, event.effective_us))
                if one.consent_id == event.consent_id
                else one
                for one in self.given
            )
            return self._replace(given=given)
        if isinstance(event, ConsentWithdrawn):
            return self._withdrawn(Withdrawal(event.effective_us, event.purpose, event.point_id, event.brand))
        if isinstance(event, Objected) and event.to == ObjectionTo.MARKETING:
            return self._withdrawn(Withdrawal(event.effective_us, MARKETING_PURPOSE, None, None))
        return self

    def in_force(self, at_us: int, purpose: str | None = None) -> tuple[Consent, ...]:
        """Those in force at a moment, for a purpose or all of them, in the order in which the book learned of them."""
        return tuple(one for one in self.given if purpose in (None, one.purpose) and one.in_force(at_us))

    def _granted(self, event: ConsentGranted) -> Consents:
        consent = Consent(
            event.event_id,
            event.purpose,
            event.point_id,
            event.brand,
            event.basis,
            event.source,
            event.text_version,
            event.captured_us,
            event.from_us,
            event.until_us,
            event.separate,
            event.cross_border,
            event.captured_us if event.confirmed else None,
            None,
        )
        ended = [one.at_us for one in self.withdrawals if one.ends(consent) and one.at_us > consent.captured_us]
        return self._replace(given=(*self.given, consent._replace(ended_us=min(ended, default=None))))

    def _withdrawn(self, withdrawal: Withdrawal) -> Consents:
        at_us = withdrawal.at_us
        given = tuple(
            one._replace(ended_us=_earlier(one.ended_us, at_us))
            if withdrawal.ends(one) and one.captured_us <= at_us
            else one
            for one in self.given
        )
        return self._replace(given=given, withdrawals=(*self.withdrawals, withdrawal))


def _earlier(one_us: int | None, other_us: int) -> int:
    return other_us if one_us is None else min(one_us, other_us)


def consents_of(events: Iterable[tuple[int, Event]], known: Callable[[Any], bool] = lambda _: True) -> Consents:
    """All consents of a subject, from its events (with their positions) of those that `known` lets through."""
    consents = Consents()
    for recorded in events:
        if known(recorded):
            consents = consents.after(recorded[1])
    return consents


def consents_at(
    events: Iterable[tuple[int, Event]], at_us: int, known: Callable[[Any], bool] = lambda _: True
) -> tuple[Consent, ...]:
    """The consents of a subject in force at a moment, as the book knew them: each has its text version.

    Pure: the answer depends on the subject's events alone, of those that `known` lets through.
    """
    return consents_of(events, known).in_force(at_us)


class Hold(NamedTuple):
    """A restriction, or an objection `to` something: whether it holds, and since when."""

    to: str
    holds: bool
    since_us: int


class Request(NamedTuple):
    """A data-subject request. `completed_us` None: open."""

    request_id: UUID
    kind: str
    received_us: int
    due_us: int
    completed_us: int | None


class DataSubject(Aggregate, ABC):
    """The part of a customer's stream that tells what may be done with their data."""

    APPLIERS: ClassVar[Appliers] = {}

    contact_points: dict[UUID, int]
    """Contact point → since when."""
    consents: Consents = Consents()
    restriction: Hold | None = None
    objections: tuple[Hold, ...] = ()
    requests: tuple[Request, ...] = ()

    @property
    @abstractmethod
    def registered(self) -> bool:
        """Whether the customer is in the book."""

    @property
    def restricted(self) -> bool:
        """Whether the data may only be kept."""
        return self.restriction is not None and self.restriction.holds

    @property
    def holds(self) -> tuple[str, ...]:
        """What stands in the way of erasing: `restricted`, since such data is kept (GDPR 18), and `request`, one that
        is open and that nothing would be left to answer by. A request for erasure does not."""
        waiting = any(one.completed_us is None and one.kind != RequestKind.ERASURE for one in self.requests)
        return ("restricted",) * self.restricted + ("request",) * waiting

    def objects_to(self, to: str) -> bool:
        """Whether the customer objects to it."""
        return any(one.to == to and one.holds for one in self.objections)

    def text_version_for(self, purpose: str, at_us: int) -> str | None:
        """The text version of the consent to a purpose in force; of several the last given. None: there is none."""
        found = self.consents.in_force(at_us, purpose)
        return max(found, key=lambda one: one.captured_us).text_version if found else None

    def grant_consent(
        self,
        stamp: Stamp,
        purpose: str,
        *,
        point_id: UUID | None,
        brand: str | None,
        basis: str,
        source: str,
        text_version: str,
        captured_us: int | None,
        from_us: int | None,
        until_us: int | None,
        separate: bool,
        cross_border: bool,
        confirmed: bool,
    ) -> ConsentGranted:
        """Nothing holds before it was said. Refuses: invalid_argument, unknown_customer, unknown_contact_point."""
        captured = stamp.effective_us if captured_us is None else captured_us
        starts = captured if from_us is None else from_us
        if captured > stamp.effective_us:
            raise refusal("invalid_argument", "captured_at: lies after the effective time.", argument="captured_at")
        if starts < captured:
            raise refusal("invalid_argument", "valid_from: lies before the consent was given.", argument="valid_from")
        if until_us is not None and until_us <= starts:
            raise refusal("invalid_argument", "valid_until: lies before the consent begins.", argument="valid_until")
        self.must_be_registered()
        if point_id is not None and point_id not in self.contact_points:
            raise refusal(
                "unknown_contact_point", "The customer has no such contact point.", customer=self.id, point=point_id
            )
        return self.record(
            ConsentGranted,
            stamp,
            self.id,
            purpose=purpose,
            point_id=point_id,
            brand=brand,
            basis=basis,
            source=source,
            text_version=text_version,
            captured_us=captured,
            from_us=starts,
            until_us=until_us,
            separate=separate,
            cross_border=cross_border,
            confirmed=confirmed,
        )

    def confirm_consent(self, stamp: Stamp, consent_id: UUID) -> ConsentConfirmed:
        """Refuses: unknown_customer, unknown_consent, consent_confirmed, effective_too_early."""
        self.must_be_registered()
        consent = next((one for one in self.consents.given if one.consent_id == consent_id), None)
        if consent is None:
            raise refusal("unknown_consent", "The customer has no such consent.", customer=self.id, consent=consent_id)
        if consent.confirmed_us is not None:
            raise refusal("consent_confirmed", "The consent is confirmed.", customer=self.id, consent=consent_id)
        stamp.not_before(consent.captured_us, "the consent was given")
        if consent.ended_us is not None and consent.ended_us <= stamp.effective_us:
            raise refusal("unknown_consent", "The consent was withdrawn.", customer=self.id, consent=consent_id)
        return self.record(ConsentConfirmed, stamp, self.id, consent_id=consent_id)

    def withdraw_consent(
        self, stamp: Stamp, purpose: str, *, point_id: UUID | None, brand: str | None
    ) -> ConsentWithdrawn:
        """Refuses: unknown_customer, unknown_consent where nothing is left of what it would end."""
        self.must_be_registered()
        withdrawal = Withdrawal(stamp.effective_us, purpose, point_id, brand)
        about = [one for one in self.consents.given if withdrawal.ends(one)]
        if not stamp.given and about:
            # Where another host's clock is ahead, what happens now comes after the consent that it is about.
            stamp.not_before(min(one.captured_us for one in about), "the consent was given")
        at_us = stamp.effective_us
        if not any(one.captured_us <= at_us and (one.ended_us is None or at_us < one.ended_us) for one in about):
            raise refusal(
                "unknown_consent", f"There is no consent to {purpose} to withdraw.", customer=self.id, purpose=purpose
            )
        return self.record(ConsentWithdrawn, stamp, self.id, purpose=purpose, point_id=point_id, brand=brand)

    def restrict(self, stamp: Stamp, reason: str) -> Restricted:
        """Refuses: unknown_customer, already_restricted, effective_too_early."""
        self.must_be_registered()
        if self.restricted:
            raise refusal("already_restricted", "The customer's data is restricted already.", customer=self.id)
        if self.restriction is not None:
            stamp.not_before(self.restriction.since_us, "that of what it rests on")
        return self.record(Restricted, stamp, self.id, reason=reason)

    def lift_restriction(self, stamp: Stamp, reason: str | None) -> RestrictionLifted:
        """Refuses: unknown_customer, not_restricted, effective_too_early."""
        self.must_be_registered()
        if self.restriction is None or not self.restriction.holds:
            raise refusal("not_restricted", "The customer's data is not restricted.", customer=self.id)
        stamp.not_before(self.restriction.since_us, "that of what it rests on")
        return self.record(RestrictionLifted, stamp, self.id, reason=reason)

    def object_to(self, stamp: Stamp, to: ObjectionTo) -> Objected:
        """Refuses: unknown_customer, already_objected, effective_too_early."""
        self.must_be_registered()
        last = self._objection(to)
        if last is not None and last.holds:
            raise refusal("already_objected", f"The customer objects to {to} already.", customer=self.id, to=to.value)
        if last is not None:
            stamp.not_before(last.since_us, "that of what it rests on")
        return self.record(Objected, stamp, self.id, to=to.value)

    def withdraw_objection(self, stamp: Stamp, to: ObjectionTo) -> ObjectionWithdrawn:
        """Refuses: unknown_customer, no_objection, effective_too_early."""
        self.must_be_registered()
        last = self._objection(to)
        if last is None or not last.holds:
            raise refusal("no_objection", f"The customer does not object to {to}.", customer=self.id, to=to.value)
        stamp.not_before(last.since_us, "that of what it rests on")
        return self.record(ObjectionWithdrawn, stamp, self.id, to=to.value)

    def receive_request(
        self, stamp: Stamp, kind: RequestKind, channel: str | None, due_us: int | None
    ) -> RequestReceived:
        """Due within a month by default (GDPR 12). Refuses: invalid_argument, unknown_customer."""
        due = UTC_ZONE.add_months(stamp.effective_us, 1) if due_us is None else due_us
        if due <= stamp.effective_us:
            raise refusal("invalid_argument", "due: lies before the request.", argument="due")
        self.must_be_registered()
        return self.record(RequestReceived, stamp, self.id, kind=kind.value, channel=channel, due_us=due)

    def complete_request(
        self, stamp: Stamp, request_id: UUID, outcome: RequestOutcome, reason: str | None
    ) -> RequestCompleted:
        """What is not fulfilled needs a reason (GDPR 12).

        Refuses: invalid_argument, unknown_customer, unknown_request, request_completed, effective_too_early.
        """
        if reason is None and outcome in (RequestOutcome.REFUSED, RequestOutcome.PARTLY_FULFILLED):
            raise refusal("invalid_argument", f"reason: {outcome} needs one.", argument="reason")
        self.must_be_registered()
        self._open_request(stamp, request_id)
        return self.record(
            RequestCompleted, stamp, self.id, request_id=request_id, outcome=outcome.value, reason=reason
        )

    def asked_for_erasure(self, stamp: Stamp, request_id: UUID, *, answered: bool = False) -> None:
        """See that a request is this subject's, open (but for `answered`), and for erasure.

        Refuses: unknown_request, request_completed, request_of_other_kind, effective_too_early.
        """
        request = self._open_request(stamp, request_id, answered=answered)
        if request.kind != RequestKind.ERASURE:
            raise refusal(
                "request_of_other_kind",
                f"The request is one for {request.kind}, not for erasure.",
                customer=self.id,
                request=request_id,
                kind=request.kind,
            )

    def _open_request(self, stamp: Stamp, request_id: UUID, *, answered: bool = False) -> Request:
        request = next((one for one in self.requests if one.request_id == request_id), None)
        if request is None:
            raise refusal("unknown_request", "The customer has no such request.", customer=self.id, request=request_id)
        if request.completed_us is not None and not answered:
            raise refusal("request_completed", "The request was answered.", customer=self.id, request=request_id)
        stamp.not_before(request.received_us, "the request was received")
        return request

    def end_relation(self, stamp: Stamp, reason: str | None) -> RelationEnded:
        """Refuses: unknown_customer."""
        self.must_be_registered()
        return self.record(RelationEnded, stamp, self.id, reason=reason)

    def must_be_registered(self) -> None:
        """Refuses: unknown_customer."""
        if not self.registered:
            raise refusal("unknown_customer", "There is no such customer.", customer=self.id)

    def _objection(self, to: str) -> Hold | None:
        return next((one for one in self.objections if one.to == to), None)


def _consent(subject: DataSubject, event: Event) -> None:
    subject.consents = subject.consents.after(event)


DataSubject.APPLIERS.update(dict.fromkeys((ConsentGranted, ConsentConfirmed, ConsentWithdrawn), _consent))


@applies(DataSubject.APPLIERS, Restricted)
def _restricted(subject: DataSubject, event: Restricted) -> None:
    subject.restriction = Hold(event.reason, holds=True, since_us=event.effective_us)


@applies(DataSubject.APPLIERS, RestrictionLifted)
def _restriction_lifted(subject: DataSubject, event: RestrictionLifted) -> None:
    subject.restriction = Hold(event.reason or "", holds=False, since_us=event.effective_us)


@applies(DataSubject.APPLIERS, Objected)
def _objected(subject: DataSubject, event: Objected) -> None:
    subject.consents = subject.consents.after(event)
    _object(subject, Hold(event.to, holds=True, since_us=event.effective_us))


@applies(DataSubject.APPLIERS, ObjectionWithdrawn)
def _objection_withdrawn(subject: DataSubject, event: ObjectionWithdrawn) -> None:
    _object(subject, Hold(event.to, holds=False, since_us=event.effective_us))


def _object(subject: DataSubject, hold: Hold) -> None:
    subject.objections = (*(one for one in subject.objections if one.to != hold.to), hold)


@applies(DataSubject.APPLIERS, RequestReceived)
def _request_received(subject: DataSubject, event: RequestReceived) -> None:
    request = Request(event.event_id, event.kind, event.effective_us, event.due_us, None)
    subject.requests = (*subject.requests, request)


@applies(DataSubject.APPLIERS, RequestCompleted)
def _request_completed(subject: DataSubject, event: RequestCompleted) -> None:
    subject.requests = tuple(
        one._replace(completed_us=event.effective_us) if one.request_id == event.request_id else one
        for one in subject.requests
    )
