"""`book.customers`: who they are, how to reach them, what they bought and gave back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypedDict, TypeVar, Unpack
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from tallybook.domain.account import CLOSED
from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import days_in_month
from tallybook.domain.customer import (
    PROFILE_FIELDS,
    Customer,
    CustomerKind,
    Line,
    PurchaseRecorded,
    Referred,
    ReturnRecorded,
)
from tallybook.domain.earning import Rules
from tallybook.domain.errors import refusal, text
from tallybook.domain.events import CODE_CHARS_MAX, Code, Event
from tallybook.domain.loyalty import LoyaltyAccount, counted_nets
from tallybook.domain.points import ReferralCredited, ReferralReduced
from tallybook.domain.privacy import (
    Consent,
    ObjectionTo,
    RequestCompleted,
    RequestKind,
    RequestOutcome,
    RequestReceived,
)

from .commands import Desk, Work, command
from .times import When, as_of_us, iso, moment_us

E = TypeVar("E", bound=StrEnum)

_CODE: TypeAdapter[str] = TypeAdapter(Code)
_BIRTH_DATE = re.compile(r"(\d{4}|-)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
DEFAULT_CURRENCY = "USD"
DEFAULT_PROGRAMME = "main"


class ProfileFields(TypedDict, total=False):
    """What `register` and `change` take. Clear: country, source, owner, birth_month; all others are sealed."""

    country: str
    source: str
    owner: str
    birth_month: int
    name: str
    gender: str
    birth_date: str
    occupation: str
    company: str
    job_title: str
    address: str
    income_band: str
    risk_preference: str
    hobbies: str
    note: str


@dataclass(frozen=True, slots=True)
class PurchaseResult:
    """What recording a purchase did, by programme: points that were earned, and the tier held after it."""

    purchase_id: UUID
    earned: Mapping[str, int]
    tiers: Mapping[str, str]

    @property
    def points(self) -> int:
        """Points earned in all programmes together."""
        return sum(self.earned.values())

    @property
    def tier(self) -> str | None:
        """The tier in the programme `main`; None without an account there."""
        return self.tiers.get(DEFAULT_PROGRAMME)


@dataclass(frozen=True, slots=True)
class ReturnResult:
    """What recording a return did, by programme: points that were taken back (a debt included), and the tier held."""

    return_id: UUID
    net_minor: int
    reversed: Mapping[str, int]
    tiers: Mapping[str, str]

    @property
    def points(self) -> int:
        """Points taken back in all programmes together."""
        return sum(self.reversed.values())

    @property
    def tier(self) -> str | None:
        """The tier in the programme `main`; None without an account there."""
        return self.tiers.get(DEFAULT_PROGRAMME)


@dataclass(frozen=True, slots=True)
class ConsentView:
    """A consent, and whether it is in force at the moment that was asked for. None: for all contact points or brands.

    `confirmed_at`: None while a second step is awaited. `withdrawn_at`: also by an objection to marketing.
    """

    consent_id: UUID
    purpose: str
    in_force: bool
    text_version: str
    basis: str
    source: str
    point_id: UUID | None
    brand: str | None
    captured_at: str | None
    valid_from: str | None
    valid_until: str | None
    confirmed_at: str | None
    withdrawn_at: str | None
    separate: bool
    cross_border: bool


@dataclass(frozen=True, slots=True)
class RequestView:
    """A data-subject request. `outcome` is None while it is open."""

    request_id: UUID
    customer_id: UUID
    kind: str
    channel: str | None
    received_at: str
    due_at: str
    completed_at: str | None = None
    outcome: str | None = None
    reason: str | None = None
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class PrivacyView:
    """What a customer said about the use of their data: consents with what became of them, and what holds.

    `objections`: what they object to → since when.
    """

    customer_id: UUID
    consents: Sequence[ConsentView]
    restricted_since: str | None
    restriction_reason: str | None
    objections: Mapping[str, str]


def as_id(value: UUID | str, name: str) -> UUID:
    """An id as given by a host. Refuses: invalid_argument."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise refusal(
            "invalid_argument",
            f"{name}: an id is wanted, such as 0b8f4ee8-5fb3-4c83-8a3a-1c4f5f5a0a11 (a UUID).",
            argument=name,
        ) from None


def as_code(value: object, name: str) -> str:
    """A code as given by a host. Refuses: invalid_argument."""
    try:
        return _CODE.validate_python(value, strict=True)
    except ValidationError:
        raise refusal(
            "invalid_argument",
            f"{name}: a code is wanted: up to {CODE_CHARS_MAX} letters, digits and . : / + - _, without spaces.",
            argument=name,
        ) from None


def _check_mapping(value: object, name: str) -> None:
    if not isinstance(value, Mapping):
        raise refusal("invalid_argument", f"{name}: a mapping is wanted.", argument=name)


def _lines(lines: object) -> list[Line]:
    if isinstance(lines, (str, bytes, Mapping)) or not isinstance(lines, Iterable):
        raise refusal("invalid_argument", "lines: a list of lines is wanted.", argument="lines")
    found = []
    for line in lines:
        if not isinstance(line, (Line, Mapping)):
            raise refusal("invalid_argument", "lines: each is a Line, or a mapping of its fields.", argument="lines")
        found.append(line if isinstance(line, Line) else Line.model_validate(dict(line)))
    return found


def identifier_claim(work_or_desk: Work | Desk, system: str, external_id: str) -> bytes:
    """The claim that an external id's owner holds."""
    text(external_id, "external_id", nul=True)
    as_code(system, "system")
    return work_or_desk._core.keyring.lookup_hash("identifier", system, external_id)


def order_claim(work_or_desk: Work | Desk, order_id: str) -> bytes:
    """The claim by which an order is recorded once."""
    text(order_id, "order_id", nul=True)
    return work_or_desk._core.keyring.lookup_hash("order", order_id)


def link_identifier(work: Work, stamp: Stamp, customer: Customer, system: str, external_id: str) -> None:
    """Record an external id and claim it. Refuses: identifier_taken, identifier_linked, invalid_argument."""
    claim = identifier_claim(work, system, external_id)
    holder = work.find(claim, f"identifier.{system}")
    if holder is not None and holder != customer.id:
        raise refusal("identifier_taken", f"The external id in {system} belongs to another.", system=system)
    customer.link_identifier(stamp, system, external_id)
    work.claim(claim, customer.id)


ROLES = ("referrer", "referred")
"""Of a referral: who brought, and who was brought."""


def credit_registration(
    work: Work, referred: Customer, programme: str, fact_id: UUID, roles: Sequence[str] = ROLES
) -> None:
    """Tell accounts that the referred has one, if rules ask for it: dated when the referral and the account were there,
    and for the referrer theirs too. For each role once: by the command that records the last of these.
    """
    joined = work.account(referred.id, programme)
    if referred.referrer is None or not joined.enrolled:
        return
    for role in roles:
        account = joined if role == "referred" else work.account(referred.referrer, programme)
        stamp = work.stamp.at(max(referred.referred_us, joined.enrolled_us, account.enrolled_us))
        _credit_referral(work, stamp, referred, programme, role, "registration", fact_id)


def _credit_referral(
    work: Work,
    stamp: Stamp,
    referred: Customer,
    programme: str,
    role: str,
    occasion: str,
    fact_id: UUID,
    lines: tuple[int, ...] = (),
) -> None:
    """Tell the account of one of the two that the referral came to something, if rules ask for it.

    `lines`: of a purchase, what counts of each line. A closed account and whoever was erased get nothing more.
    """
    control = work.control()
    rules = control.rule_book.in_force(programme, stamp.effective_us)
    if referred.referrer is None or rules is None or not _has_referrals(rules):
        return
    customer = referred if role == "referred" else work.new_customer(referred.referrer)
    account = work.account(customer.id, programme)
    if _takes_referrals(customer, account) and account.enrolled_us <= stamp.effective_us:
        account.tell(
            ReferralCredited,
            stamp,
            control,
            customer.traits,
            occasion=occasion,
            role=role,
            fact_id=fact_id,
            number=referred.referral_number,
            lines=lines,
        )


def _has_referrals(rules: Rules) -> bool:
    return any(rule.on == "referral" for rule in rules.rule_set.earning)


def _takes_referrals(customer: Customer, account: LoyaltyAccount) -> bool:
    return account.enrolled and account.status != CLOSED and not customer.erased


def _credit_purchase(
    work: Work, stamp: Stamp, customer: Customer, account: LoyaltyAccount, fact: PurchaseRecorded
) -> None:
    """Tell what a purchase comes to for a referral: nothing, if it was made before that, or if all of it is free or
    excluded from what earns.
    """
    rules = work.control().rule_book.in_force(account.programme, stamp.effective_us)
    if customer.referrer is None or rules is None or not _has_referrals(rules):
        return
    if fact.effective_us < customer.referred_us:
        return
    lines = counted_nets(fact, rules)
    if not any(lines):
        return
    # Whether an earlier one counts, the credit for it tells; where there is none, what was bought.
    first = len(customer.purchases) == 1 or not (
        any(one in account.referrals for one in customer.purchases)
        or any(
            any(counted_nets(one, rules))
            for one in work.facts_of(customer, PurchaseRecorded)
            if one.event_id != fact.event_id
        )
    )
    for occasion in ("first_purchase", "every_purchase") if first else ("every_purchase",):
        for role in ROLES:
            _credit_referral(work, stamp, customer, account.programme, role, occasion, fact.event_id, lines)


def _reduce_referrals(work: Work, stamp: Stamp, customer: Customer, fact: ReturnRecorded) -> None:
    """Tell the accounts that got something because the customer, who was brought, bought what comes back."""
    if customer.referrer is None:
        return
    control = work.control()
    for other in (work.new_customer(customer.referrer), customer):
        for account in work.accounts_of(other.id):
            for credit_id in account.referrals.get(fact.purchase_id, ()) if _takes_referrals(other, account) else ():
                returned = [0] * len(customer.purchases[fact.purchase_id][1])
                for line in fact.lines:
                    returned[line.line - 1] += line.net_minor
                account.tell(
                    ReferralReduced,
                    stamp,
                    control,
                    credit_id=credit_id,
                    return_id=fact.event_id,
                    returned=tuple(returned),
                )


def refer(work: Work, customer: Customer, other: Customer, note: str | None, relation: str | None) -> UUID:
    """Record that a customer brought another, and what that comes to; the event's id. Refuses as the command does."""
    above: Customer | None = customer
    while above is not None and above.referrer is not None:
        if above.referrer == other.id:
            raise refusal("referral_circle", "The referrer was brought by the customer.", customer=other.id)
        above = work.new_customer(above.referrer)
    fact = customer.refer(work.stamp, other, note, relation)
    for account in work.accounts_of(other.id):
        credit_registration(work, other, account.programme, fact.event_id)
    return fact.event_id


def enrol(work: Work, member: Customer, programme: str) -> UUID:
    """Open an account, and credit referrals that waited for it; its id. Refuses as the command does."""
    account = work.account(member.id, programme)
    fact = account.enrol(work.stamp, member.id, programme, work.control(), member.traits)
    credit_registration(work, member, programme, fact.event_id)
    for referral in work.facts_of(member, Referred) if member.brought else ():
        brought = work.new_customer(referral.referred)
        credit_registration(work, brought, programme, referral.event_id, ["referrer"])
    return account.id


def record_purchase(
    work: Work, stamp: Stamp, customer: Customer, lines: Sequence[Line], *, due: Stamp | None = None, **details: Any
) -> PurchaseResult:
    """Record a purchase, and what it decides for each account of the customer. `due`: the stamp of what is due before
    it, if that is another one.
    """
    control = work.control()
    accounts = work.accounts_of(customer.id)
    for account in accounts:
        account.settle(due or stamp, stamp.effective_us, control)
    fact = customer.record_purchase(stamp, lines, **details)
    earned: dict[str, int] = {}
    for account in accounts:
        before = account.earned
        account.receive(fact, stamp, control, customer.traits)
        earned[account.programme] = account.earned - before
        _credit_purchase(work, stamp, customer, account, fact)
    return PurchaseResult(fact.event_id, earned, {one.programme: one.tier or "" for one in accounts})


def record_return(
    work: Work,
    stamp: Stamp,
    customer: Customer,
    purchase_id: UUID,
    lines: Mapping[int, int],
    reason: str | None,
    *,
    due: Stamp | None = None,
) -> ReturnResult:
    """Record what came back of a purchase, and what it decides for each account of the customer, and of who brought
    them. `due` as in `record_purchase`. Refuses as `Customer.record_return` does, before anything is decided.
    """
    control = work.control()
    accounts = work.accounts_of(customer.id)
    customer.returnable(stamp, purchase_id, lines)  # from here on the time stands
    for account in accounts:
        account.settle(due or stamp, stamp.effective_us, control)
    before = {account.programme: account.reversed for account in accounts}
    fact = customer.record_return(stamp, purchase_id, lines, reason)
    for account in accounts:
        account.receive(fact, stamp, control, customer.traits)
    _reduce_referrals(work, stamp, customer, fact)
    return ReturnResult(
        fact.event_id,
        fact.net_minor,
        {account.programme: account.reversed - before[account.programme] for account in accounts},
        {account.programme: account.tier or "" for account in accounts},
    )


class CustomerDesk(Desk):
    """Commands about customers. Each also has an awaitable form: `await book.customers.register.aio(…)`."""

    _name = "customers"

    @command
    def register(
        self,
        work: Work,
        *,
        kind: CustomerKind | str = CustomerKind.PERSON,
        email: str | None = None,
        phone: str | None = None,
        identifiers: Mapping[str, str] | None = None,
        customer_id: UUID | str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
        **fields: Unpack[ProfileFields],
    ) -> UUID:
        """Register a person, an organisation or an internal customer; the new id.

        `identifiers`: system → external id. Refuses: already_registered, identifier_taken, invalid_argument.
        """
        customer = (
            work.fresh_customer() if customer_id is None else work.new_customer(as_id(customer_id, "customer_id"))
        )
        key_id, commitment = (0, b"") if customer.registered else work.key_for(customer)
        customer.register(
            work.stamp,
            one_of(CustomerKind, kind, "kind"),
            key_id=key_id,
            commitment=commitment,
            fields=_profile_fields(fields),
        )
        if identifiers is not None:
            _check_mapping(identifiers, "identifiers")
        for system, external_id in (identifiers or {}).items():
            link_identifier(work, work.stamp, customer, system, external_id)
        for point, value in (("email", email), ("phone", phone)):
            if value is not None:
                customer.add_contact_point(work.stamp, point, value)
        return customer.id

    @command
    def change(
        self,
        work: Work,
        customer: UUID | str,
        *,
        clear: Sequence[str] = (),
        effective_at: When | None = None,
        command_id: str | None = None,
        **fields: Unpack[ProfileFields],
    ) -> UUID:
        """Set fields of a profile, or clear those named; the event's id.

        Refuses: unknown_customer, nothing_changed, invalid_argument.
        """
        unknown = [name for name in clear if name not in PROFILE_FIELDS]
        if unknown:
            raise refusal("invalid_argument", f"clear: there is no field {unknown[0]!r}.", argument="clear")
        draft = work.customer(as_id(customer, "customer"))
        given = _profile_fields(fields)
        both = sorted(given.keys() & set(clear))
        if both:
            raise refusal("invalid_argument", f"{both[0]} is both set and cleared.", argument=both[0])
        if "birth_date" in clear and "birth_month" not in given:
            clear = [*clear, "birth_month"]
        return draft.change(work.stamp, given, clear).event_id

    @command
    def link_identifier(
        self,
        work: Work,
        customer: UUID | str,
        system: str,
        external_id: str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Know the customer by an external id, too. Refuses: unknown_customer, identifier_taken, identifier_linked."""
        link_identifier(work, work.stamp, work.customer(as_id(customer, "customer")), system, external_id)

    @command
    def remove_identifier(
        self,
        work: Work,
        customer: UUID | str,
        system: str,
        external_id: str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Forget an external id: it is free again.

        Refuses: unknown_customer, unknown_identifier, effective_too_early.
        """
        draft = work.customer(as_id(customer, "customer"))
        claim = identifier_claim(work, system, external_id)
        if work.find(claim, f"identifier.{system}", draft) != draft.id:
            raise refusal("unknown_identifier", "The customer has no such external id.", system=system)
        draft.remove_identifier(work.stamp, system)
        work.release(claim)

    @command
    def add_contact_point(
        self,
        work: Work,
        customer: UUID | str,
        kind: str,
        value: str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Add a way to reach the customer (email, phone, …); its id. Refuses: unknown_customer, invalid_argument."""
        draft = work.customer(as_id(customer, "customer"))
        return draft.add_contact_point(work.stamp, kind, value).point_id

    @command
    def remove_contact_point(
        self,
        work: Work,
        customer: UUID | str,
        point_id: UUID | str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Stop using a contact point. Refuses: unknown_customer, unknown_contact_point, effective_too_early."""
        work.customer(as_id(customer, "customer")).remove_contact_point(work.stamp, as_id(point_id, "point_id"))

    @command
    def record_interaction(
        self,
        work: Work,
        customer: UUID | str,
        kind: str,
        *,
        direction: str = "in",
        outcome: str | None = None,
        text: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Record contact (enquiry, visit, follow_up, …) through the acting context's channel; its id.

        Refuses: unknown_customer, invalid_argument.
        """
        draft = work.customer(as_id(customer, "customer"))
        return draft.record_interaction(work.stamp, kind, direction, outcome, text).event_id

    @command
    def refer(
        self,
        work: Work,
        referrer: UUID | str,
        referred: UUID | str,
        *,
        note: str | None = None,
        relation: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Record that a customer brought another; the event's id. `note` is about the first, `relation` (friend,
        colleague, …) about the other, each sealed under their own key.

        Where the rule set in force has rules on referrals, both accounts are credited: once the other has one, the
        other's; once both have one, the referrer's; and for what the other buys from the referral on, so far as it
        counts, those that are there. The first purchase is the first of which something counts, though it may come
        back. Refuses: unknown_customer, invalid_argument, already_referred, referral_circle.
        """
        draft = work.customer(as_id(referrer, "referrer"))
        return refer(work, draft, work.customer(as_id(referred, "referred")), note, relation)

    @command
    def record_purchase(
        self,
        work: Work,
        customer: UUID | str,
        lines: Sequence[Line | Mapping[str, Any]],
        *,
        currency: str = DEFAULT_CURRENCY,
        order_id: str | None = None,
        store: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> PurchaseResult:
        """Record a purchase, and in the same transaction the points and the tier that it decides.

        `lines`: `Line`s or mappings of their fields, amounts in minor units. An order id is recorded once in a book.
        Refuses: unknown_customer, no_lines, order_recorded, invalid_argument.
        """
        customer_id = as_id(customer, "customer")
        result_lines = _lines(lines)
        draft = work.new_customer(customer_id)
        draft.check_purchase(result_lines)
        claim = None if order_id is None else order_claim(work, order_id)
        if claim is not None and work.find(claim, "order_id", draft) is not None:
            raise refusal("order_recorded", "The order id was recorded before.", customer=customer_id)
        result = record_purchase(
            work,
            work.stamp,
            draft,
            result_lines,
            currency=currency,
            order_id=order_id,
            store=store,
        )
        if claim is not None:
            work.claim(claim, result.purchase_id)
        return result

    @command
    def record_return(
        self,
        work: Work,
        customer: UUID | str,
        lines: Mapping[int, int],
        *,
        purchase_id: UUID | str | None = None,
        order_id: str | None = None,
        reason: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> ReturnResult:
        """Record what came back of a purchase, and take the points for it back; those too that it brought, as a
        referral, to the customer and to whoever brought them.

        `lines`: line number (from 1) → pieces. Name the purchase by its id or its order id.
        Refuses: invalid_argument, unknown_customer, no_lines, unknown_purchase, unknown_line, returned_too_much,
        effective_too_early.
        """
        customer_id = as_id(customer, "customer")
        _check_mapping(lines, "lines")
        draft = work.new_customer(customer_id)
        draft.check_return(lines)
        if (purchase_id is None) == (order_id is None):
            raise refusal("invalid_argument", "Give either purchase_id or order_id.", argument="purchase_id")
        found = as_id(purchase_id, "purchase_id") if purchase_id is not None else None
        if order_id is not None:
            found = work.find(order_claim(work, order_id), "order_id", draft)
        if found is None or (order_id is not None and found not in draft.purchases):
            raise refusal("unknown_purchase", "No purchase of the customer has that order id.", customer=customer_id)
        return record_return(work, work.stamp, draft, found, lines, reason)

    @command
    def grant_consent(
        self,
        work: Work,
        customer: UUID | str,
        purpose: str,
        *,
        source: str,
        text_version: str,
        point_id: UUID | str | None = None,
        brand: str | None = None,
        basis: str = "consent",
        captured_at: When | None = None,
        valid_from: When | None = None,
        valid_until: When | None = None,
        separate: bool = False,
        cross_border: bool = False,
        confirmed: bool = True,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Record that a customer agreed to a purpose; the consent's id.

        For one contact point and one brand, or (None) all of them. `text_version` names what they were told, `source`
        where they said so, `captured_at` when (default: the effective time). In force from `valid_from` (default: when
        it was given) until `valid_until`; with `confirmed=False` not before `confirm_consent` (double opt-in).
        `separate` and `cross_border`: a consent of its own, and one to a transfer abroad (PIPL 14, 39).
        Refuses: invalid_argument, unknown_customer, unknown_contact_point.
        """
        draft = work.new_customer(as_id(customer, "customer"))
        return draft.grant_consent(
            work.stamp,
            purpose,
            point_id=None if point_id is None else as_id(point_id, "point_id"),
            brand=brand,
            basis=basis,
            source=source,
            text_version=text_version,
            captured_us=None if captured_at is None else moment_us(captured_at, "captured_at"),
            from_us=None if valid_from is None else moment_us(valid_from, "valid_from"),
            until_us=None if valid_until is None else moment_us(valid_until, "valid_until"),
            separate=separate,
            cross_border=cross_border,
            confirmed=confirmed,
        ).event_id

    @command
    def confirm_consent(
        self,
        work: Work,
        customer: UUID | str,
        consent_id: UUID | str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Record the second step of a double opt-in: the consent is in force from then on.

        Refuses: unknown_customer, unknown_consent, consent_confirmed, effective_too_early.
        """
        draft = work.new_customer(as_id(customer, "customer"))
        draft.confirm_consent(work.stamp, as_id(consent_id, "consent_id"))

    @command
    def withdraw_consent(
        self,
        work: Work,
        customer: UUID | str,
        purpose: str,
        *,
        point_id: UUID | str | None = None,
        brand: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """End all consents to a purpose, or those for a contact point or brand. Does not act backwards.

        Refuses: unknown_customer, unknown_consent.
        """
        draft = work.new_customer(as_id(customer, "customer"))
        point = None if point_id is None else as_id(point_id, "point_id")
        draft.withdraw_consent(work.stamp, purpose, point_id=point, brand=brand)

    @command
    def restrict(
        self,
        work: Work,
        customer: UUID | str,
        reason: str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Restrict the use of a customer's data (GDPR 18): left out of scoring, read only where a policy allows it.

        Refuses: unknown_customer, already_restricted, effective_too_early.
        """
        work.new_customer(as_id(customer, "customer")).restrict(work.stamp, reason)

    @command
    def lift_restriction(
        self,
        work: Work,
        customer: UUID | str,
        reason: str | None = None,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Let a customer's data be used again. Refuses: unknown_customer, not_restricted, effective_too_early."""
        work.new_customer(as_id(customer, "customer")).lift_restriction(work.stamp, reason)

    @command
    def object_to(
        self,
        work: Work,
        customer: UUID | str,
        what: ObjectionTo | str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Record an objection: to automated_decisions (left out of scoring) or to marketing (ends consents to it).

        Refuses: invalid_argument, unknown_customer, already_objected, effective_too_early.
        """
        work.new_customer(as_id(customer, "customer")).object_to(work.stamp, one_of(ObjectionTo, what, "what"))

    @command
    def withdraw_objection(
        self,
        work: Work,
        customer: UUID | str,
        what: ObjectionTo | str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Record that a customer no longer objects. Revives no consent.

        Refuses: invalid_argument, unknown_customer, no_objection, effective_too_early.
        """
        work.new_customer(as_id(customer, "customer")).withdraw_objection(work.stamp, one_of(ObjectionTo, what, "what"))

    @command
    def record_request(
        self,
        work: Work,
        customer: UUID | str,
        kind: RequestKind | str,
        *,
        channel: str | None = None,
        due: When | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Record that a customer made use of a right (access, rectification, erasure, …), due in a month; its id.

        Refuses: invalid_argument, unknown_customer.
        """
        draft = work.new_customer(as_id(customer, "customer"))
        due_us = None if due is None else as_of_us(due, "due")
        return draft.receive_request(work.stamp, one_of(RequestKind, kind, "kind"), channel, due_us).event_id

    @command
    def complete_request(
        self,
        work: Work,
        customer: UUID | str,
        request_id: UUID | str,
        outcome: RequestOutcome | str = RequestOutcome.FULFILLED,
        reason: str | None = None,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Record how a request was answered: fulfilled, partly_fulfilled, refused (both with a reason), withdrawn.

        Refuses: invalid_argument, unknown_customer, unknown_request, request_completed, effective_too_early.
        """
        draft = work.new_customer(as_id(customer, "customer"))
        draft.complete_request(
            work.stamp, as_id(request_id, "request_id"), one_of(RequestOutcome, outcome, "outcome"), reason
        )

    @command
    def end_relation(
        self,
        work: Work,
        customer: UUID | str,
        reason: str | None = None,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Record that the relation with a customer is over: retention schedules may count from then.

        Refuses: unknown_customer.
        """
        work.new_customer(as_id(customer, "customer")).end_relation(work.stamp, reason)

    def privacy(
        self, customer: UUID | str, *, as_of: When | None = None, known_at: When | int | None = None
    ) -> PrivacyView:
        """Consents, restriction and objections now, at a moment (`as_of`), as the book knew it (`known_at`).

        One recorded read. Refuses: acting_required, unknown_customer, naive_time, invalid_argument.
        """
        core = self._core
        core.check_open()
        acting = core.acting_now()
        customer_id = as_id(customer, "customer")
        at_us = core.now_us() if as_of is None else as_of_us(as_of)
        known = core.known(known_at)
        found = Customer(customer_id)
        for recorded in core.stream(customer_id):
            if recorded.event.effective_us <= at_us and known(recorded):
                found.apply(recorded.event)
        if not found.registered:
            raise refusal("unknown_customer", "There is no such customer, or not by then.", customer=customer_id)
        core.gate.open(core.gate_metadata(acting), "customers.privacy", {}, [customer_id])
        restriction = found.restriction if found.restricted else None
        return PrivacyView(
            customer_id,
            [consent_view(one, at_us) for one in found.consents.given],
            None if restriction is None else iso(restriction.since_us),
            None if restriction is None else restriction.to,
            {one.to: iso(one.since_us) or "" for one in found.objections if one.holds},
        )

    def requests(self, customer: UUID | str | None = None, *, open_only: bool = False) -> list[RequestView]:
        """Data-subject requests, of one customer or of all, in the order of recording. Holds no personal value.

        One recorded read, about those who made them. Refuses: acting_required, access_denied, invalid_argument.
        """
        core = self._core
        core.check_open()
        acting = core.acting_now()
        customer_id = None if customer is None else as_id(customer, "customer")
        names = [RequestReceived.stored_name, RequestCompleted.stored_name]
        history = core.history(names) if customer_id is None else core.stream(customer_id)
        every = request_views((event for _, event in history), core.now_us())
        found = [one for one in every if not (open_only and one.outcome)]
        about = [one.customer_id for one in found] if customer_id is None else [customer_id]
        core.gate.record(core.gate_metadata(acting), "customers.requests", about, [])
        return found

    def find(self, system: str, external_id: str) -> UUID | None:
        """The customer who is known by an external id; None if nobody is. Opens nothing: a keyed hash is looked up.

        A search by personal data: one recorded read of `identifier.SYSTEM`, about whom it found, also if that is
        nobody. What was searched for is in no record. Refuses: acting_required, access_denied, invalid_argument.
        """
        core = self._core
        core.check_open()
        acting = core.acting_now()
        claim = identifier_claim(self, system, external_id)
        found = core.customer_of(claim)
        about = [] if found is None else [found]
        core.gate.record(core.gate_metadata(acting), "customers.find", about, [f"identifier.{system}"])
        return found


def consent_view(consent: Consent, at_us: int) -> ConsentView:
    """A consent as it stands at a moment."""
    return ConsentView(
        consent.consent_id,
        consent.purpose,
        consent.in_force(at_us),
        consent.text_version,
        consent.basis,
        consent.source,
        consent.point_id,
        consent.brand,
        iso(consent.captured_us),
        iso(consent.from_us),
        iso(consent.until_us),
        iso(consent.confirmed_us),
        iso(consent.ended_us),
        consent.separate,
        consent.cross_border,
    )


def request_views(events: Iterable[Event], now_us: int) -> list[RequestView]:
    """The requests among events, each with its answer."""
    found: dict[UUID, RequestView] = {}
    for event in events:
        if isinstance(event, RequestReceived):
            assert event.subject_id is not None
            found[event.event_id] = RequestView(
                event.event_id,
                event.subject_id,
                event.kind,
                event.channel,
                iso(event.effective_us) or "",
                iso(event.due_us) or "",
                overdue=event.due_us < now_us,
            )
        elif isinstance(event, RequestCompleted):
            found[event.request_id] = replace(
                found[event.request_id],
                completed_at=iso(event.effective_us),
                outcome=event.outcome,
                reason=event.reason,
                overdue=False,
            )
    return list(found.values())


def one_of(kind: type[E], value: E | str, name: str) -> E:
    """A member of an enumeration, as given by a host. Refuses: invalid_argument."""
    try:
        return kind(value)
    except ValueError:
        raise refusal("invalid_argument", f"{name}: one of {', '.join(kind)} is wanted.", argument=name) from None


def _profile_fields(fields: ProfileFields) -> dict[str, object]:
    given: dict[str, object] = {name: value for name, value in fields.items() if value is not None}
    unknown = [name for name in given if name not in PROFILE_FIELDS]
    if unknown:
        raise refusal("invalid_argument", f"There is no field {unknown[0]!r}.", argument=unknown[0])
    birth_date = fields.get("birth_date")
    if birth_date is not None:
        match = _BIRTH_DATE.fullmatch(birth_date) if isinstance(birth_date, str) else None
        if match is None:
            raise refusal(
                "invalid_argument",
                "birth_date: a date of the form YYYY-MM-DD (or --MM-DD) is wanted.",
                argument="birth_date",
            )
        year, month, day = match.groups()
        # A lunar month has up to 30 days, whatever the solar one has.
        if int(day) > 30 and int(day) > days_in_month(2000 if year == "-" else int(year), int(month)):
            raise refusal("invalid_argument", "birth_date: there is no such date.", argument="birth_date")
        # The coarse part that scoring may use stays in the clear, so that it outlives an erasure.
        given.setdefault("birth_month", int(month))
    return given
