"""Audit replay: how a book stood about one subject at a moment, and why, from its events alone.

The answer is a tree of JSON values; a personal value stands in it as its handle, until the gate has opened it. Whole
numbers, times in UTC, no clock: the same events give the same tree.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Any
from uuid import UUID

from tallybook.domain.access import KEEPING, NO_CONSENT, OUTSIDE_HOURS, PersonalDataRead
from tallybook.domain.control import RuleSetAdopted
from tallybook.domain.customer import Customer, Referred
from tallybook.domain.erasure import DESTROYING
from tallybook.domain.events import Decision, Event, Value, utc_text
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import LoyaltyAccount
from tallybook.domain.personal import Personal
from tallybook.domain.policy import (
    ALLOW,
    MASK,
    NO_END,
    Decider,
    InForce,
    Policy,
    PolicyAdopted,
    PolicyHistory,
    PolicyWithdrawn,
    RoleGranted,
    RoleRevoked,
    out_of_hours,
)
from tallybook.domain.privacy import Consent
from tallybook.domain.ticket import Ticket, TicketOpened, TicketReplied

from .profiles import CLEAR, PERSONAL, Entry, Profile, handle_of, profile_of
from .read_models import Recorded
from .reasons import explained
from .replay import DECISION_NAMES, FACT_NAMES, Derivation, certify, derived_by, describe

READ_ACTIONS = (
    "audit.export",
    "audit.replay",
    "audit.review.corrections",
    "audit.review.portable-copy",
    "audit.review.subject-access",
    "audit.subject_report",
    KEEPING,
    "profiles.get",
    "profiles.segments",
    "profiles.timeline",
    "tickets.read",
)
"""The doors through which personal values of a subject are opened: what could be seen is told for each."""

FORMAT = "tallybook/audit-replay@1"

Tree = dict[str, Any]
Outcome = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Fields allowed, masked and withheld, and the rules that decide."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a replay is made of: what the book knew. `history` and `reads` are the subject's, each in its order.

    `control` and `access` are the book's own streams of rule sets and of policies; `policies` tells which one allowed
    a command. `decider_of` makes a policy ready to
    decide. Up to `whole_to` the history ends with a whole command; what comes after it can't be verified. Up to
    `pruned_us`, records of reads were pruned; None: none ever were.
    """

    subject: UUID
    at_us: int
    history: Sequence[Recorded]
    control: Sequence[Recorded]
    access: Sequence[Recorded]
    policies: PolicyHistory
    reads: Sequence[Recorded]
    pruned_us: int | None
    decider_of: Callable[[InForce], Decider]
    whole_to: int
    by_id: Mapping[UUID, Recorded] = field(init=False)
    effective: Sequence[Recorded] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {one.event.event_id: one for one in self.history})
        object.__setattr__(self, "effective", [one for one in self.history if one.event.effective_us <= self.at_us])

    def positions(self) -> list[int]:
        """Places in the log of events that the replay rests on, rising."""
        return sorted({one.position for part in (self.history, self.control, self.access) for one in part})


def replayed(material: Material) -> Tree | None:
    """What the book said. None: the subject was not registered by then."""
    profile = profile_of(material.effective, lambda _: True)
    if profile is None:
        return None
    decisions, verification = _decisions(material)
    return {
        "format": FORMAT,
        "state": _state(material, profile),
        "privacy": _privacy(material),
        "access": _access(material),
        "rule_sets": _rule_sets(material),
        "decisions": decisions,
        "verification": verification,
    }


# ── what the parts share ──────────────────────────────────────────────────────────────────────────────────────────────


def _time(us: int | None) -> str | None:
    return None if us is None else utc_text(us)


def _plain(value: Any) -> Any:
    """A clear value as JSON has it; times, in fields that end with `_us`, as text under a name that ends with `_at`."""
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, Value):
        return _fields(value, type(value).model_fields)
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, UUID) else value


def _fields(value: Value, names: Iterable[str]) -> Tree:
    found: Tree = {}
    for name in names:
        held = getattr(value, name)
        if held is None or held == ():
            continue
        if name.endswith("_us") and isinstance(held, int):
            found[f"{name.removesuffix('_us')}_at"] = None if held >= NEVER else utc_text(held)
        else:
            found[name] = _plain(held)
    return found


def _source(material: Material, recorded: Recorded) -> Tree:
    """Where something comes from: the event, who recorded it, when and why."""
    position, event = recorded
    metadata = event.metadata
    return {
        "position": position,
        "event": event.stored_name,
        "event_id": str(event.event_id),
        "effective_at": utc_text(event.effective_us),
        "recorded_at": utc_text(metadata.recorded_us),
        "actor": metadata.actor,
        "on_behalf_of": metadata.on_behalf_of,
        "purpose": metadata.purpose,
        "channel": metadata.channel,
        "policy": material.policies.behind(position, event),
        "rule": metadata.rule,
    }


def _said(material: Material, recorded: Recorded) -> Tree:
    """An event as a fact that something rests on."""
    return {**_source(material, recorded), "says": _fields(recorded.event, recorded.event.clear_fields)}


def _own(material: Material, event: Event) -> dict[str, Personal[Any]]:
    """The subject's personal values in an event: it may hold another person's, too."""
    return {
        name: handle
        for name in event.personal_fields
        if (handle := getattr(event, name)) is not None
        and handle.sealed is not None
        and handle.sealed.subject_id == material.subject
    }


# ── state ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _state(material: Material, profile: Profile) -> Tree:
    at = {one.position: one for one in material.effective}
    live = {name: entry for name, entry in sorted(profile.entries.items()) if entry[2] in (PERSONAL, CLEAR)}

    def view(name: str, entry: Entry) -> Tree:
        recorded = at[entry[1]]
        value = handle_of(recorded.event, name) if entry[2] == PERSONAL else entry[3]
        return {"value": value, "since": utc_text(entry[0]), "source": _source(material, recorded)}

    return {
        "kind": profile.kind,
        "registered_at": utc_text(profile.registered_us),
        "fields": {name: view(name, entry) for name, entry in live.items() if ":" not in name},
        "identifiers": {
            name.removeprefix("external_id:"): view(name, entry)
            for name, entry in live.items()
            if name.startswith("external_id:")
        },
        "contact_points": [
            {"point_id": name.removeprefix("contact:"), "kind": entry[3], **view(name, entry)}
            for name, entry in live.items()
            if name.startswith("contact:")
        ],
        "counts": {
            "spent_minor": dict(profile.spent),
            **{
                f"{name.removesuffix('_us')}_at" if name.endswith("_us") else name: utc_text(value)
                if name.endswith("_us")
                else value
                for name, value in profile.counts.items()
            },
        },
        "tickets": _tickets(material),
        "accounts": _accounts(material),
        "referrals": [
            {**_said(material, one), "by": str(one.event.subject_id), "values": _own(material, one.event)}
            for one in material.effective
            if isinstance(one.event, Referred)
        ],
        "erasures": [_said(material, one) for one in material.effective if isinstance(one.event, DESTROYING)],
    }


def _tickets(material: Material) -> list[Tree]:
    streams: defaultdict[UUID, list[Recorded]] = defaultdict(list)
    for one in material.effective:
        if type(one.event) in Ticket.APPLIERS:
            streams[one.event.originator_id].append(one)
    found = []
    for ticket_id, recorded in streams.items():
        ticket = Ticket.fold(None, [event for _, event in recorded])
        assert ticket is not None
        opened = next((one for one in recorded if isinstance(one.event, TicketOpened)), None)
        if opened is None:
            continue
        assert isinstance(opened.event, TicketOpened)
        found.append(
            {
                "ticket_id": str(ticket_id),
                "kind": ticket.kind,
                "severity": opened.event.severity,
                "state": ticket.state.value,
                "owner": ticket.owner,
                "opened_at": utc_text(ticket.opened_us),
                "first_response_at": _time(ticket.first_response_us),
                "resolved_at": _time(ticket.resolved_us),
                "compensated_points": ticket.compensated_points,
                "subject": opened.event.subject,
                "text": opened.event.text,
                "source": _source(material, opened),
                "replies": [
                    {**_said(material, one), "text": one.event.text}
                    for one in recorded
                    if isinstance(one.event, TicketReplied)
                ],
            }
        )
    return found


def _accounts(material: Material) -> list[Tree]:
    history = merge(material.control, material.history, key=lambda one: one.position)
    derivation = derived_by(history, material.at_us)
    due: defaultdict[UUID, list[str]] = defaultdict(list)
    for event in derivation.due(material.at_us):
        due[event.originator_id].append(describe(event))
    return [
        _account(material, derivation, account, due[account.id])
        for account in derivation.accounts.values()
        if account.enrolled
    ]


def _account(material: Material, derivation: Derivation, account: LoyaltyAccount, due: list[str]) -> Tree:
    rules = derivation.control.rule_book.in_force(account.programme, material.at_us)
    return {
        "account_id": str(account.id),
        "programme": account.programme,
        "enrolled_at": utc_text(account.enrolled_us),
        "tier": account.tier,
        "tier_since": utc_text(account.tier_since_us),
        "qualifying": 0 if rules is None else account.qualifying(material.at_us, rules),
        "balance": account.active,
        "debt": account.debt,
        "earned": account.earned,
        "spent": account.spent,
        "expired": account.expired,
        "reversed": account.reversed,
        "forgiven": account.forgiven,
        "lots": [
            {
                "lot_id": str(lot.lot_id),
                "points": lot.points,
                "earned_at": utc_text(lot.earned_us),
                "expires_at": None if lot.expires_us >= NEVER else utc_text(lot.expires_us),
            }
            for lot in account.lots
        ],
        # What time alone had brought by then, and no command or sweep had recorded.
        "due": due,
    }


# ── privacy ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _customer(material: Material, history: Iterable[Recorded]) -> Customer:
    own = [event for _, event in history if event.originator_id == material.subject]
    return Customer.fold(None, own) or Customer(material.subject)


def _privacy(material: Material) -> Tree:
    customer = _customer(material, material.effective)
    restriction = customer.restriction
    return {
        "consents": [_consent(material, one) for one in customer.consents.given],
        "restriction": None
        if restriction is None or not restriction.holds
        else {"reason": restriction.to, "since": utc_text(restriction.since_us)},
        "objections": [{"to": one.to, "since": utc_text(one.since_us)} for one in customer.objections if one.holds],
        "open_requests": [
            {
                "request_id": str(one.request_id),
                "kind": one.kind,
                "received_at": utc_text(one.received_us),
                "due_at": utc_text(one.due_us),
                "overdue": one.due_us < material.at_us,
                "source": _source(material, material.by_id[one.request_id]),
            }
            for one in customer.requests
            if one.completed_us is None
        ],
    }


def _consent(material: Material, consent: Consent) -> Tree:
    return {
        "consent_id": str(consent.consent_id),
        "in_force": consent.in_force(material.at_us),
        "purpose": consent.purpose,
        "point_id": _plain(consent.point_id),
        "brand": consent.brand,
        "basis": consent.basis,
        "given_by": consent.source,
        "text_version": consent.text_version,
        "captured_at": utc_text(consent.captured_us),
        "from": utc_text(consent.from_us),
        "until": _time(consent.until_us),
        "confirmed_at": _time(consent.confirmed_us),
        "ended_at": _time(consent.ended_us),
        "separate": consent.separate,
        "cross_border": consent.cross_border,
        "source": _source(material, material.by_id[consent.consent_id]),
    }


# ── access ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _access(material: Material) -> Tree:
    """Who could see and who saw. A policy acts from its recording on, whatever its date: so does what it looks at."""
    at_us = material.at_us
    acts = [one for one in material.access if one.event.metadata.recorded_us <= at_us]
    policy = Policy.fold(None, [event for _, event in acts]) or Policy(UUID(int=0))
    by_then = [one for one in material.history if one.event.metadata.recorded_us <= at_us]
    reads = [one for one in material.reads if one.event.metadata.recorded_us <= at_us]
    decider = None if policy.in_force is None else material.decider_of(policy.in_force)
    customer = _customer(material, by_then)
    fields = sorted({one.known_as for _, event in by_then for one in _own(material, event).values()})
    grants: defaultdict[str, list[Tree]] = defaultdict(list)
    for one in acts:
        if isinstance(one.event, (RoleGranted, RoleRevoked)):
            grants[one.event.actor].append(_said(material, one))
    acted: defaultdict[str, list[int]] = defaultdict(list)
    for one in material.history:
        acted[one.event.metadata.actor].append(one.position)
    actors = sorted({one.event.metadata.actor for one in reads} | acted.keys() | grants.keys())
    return {
        "policy": _policy(material, acts, policy.in_force),
        "fields": fields,
        **({} if material.pruned_us is None else {"reads_pruned_up_to": utc_text(material.pruned_us)}),
        "actors": [
            {
                "actor": actor,
                "roles": [
                    {
                        "role": grant.role,
                        "since": utc_text(grant.from_us),
                        "until": None if grant.until_us == NO_END else utc_text(grant.until_us),
                    }
                    for grant in sorted(policy.grants.get(actor, ()))
                    if grant.from_us <= at_us < grant.until_us
                ],
                "grants": grants.get(actor, []),
                "could_see": _could_see(decider, policy, actor, fields, customer, at_us),
                "saw": [_read(one, material.subject) for one in reads if one.event.metadata.actor == actor],
                "acted": acted.get(actor, []),
            }
            for actor in actors
        ],
    }


def _policy(material: Material, acts: Sequence[Recorded], in_force: InForce | None) -> Tree | None:
    if in_force is None:
        return None
    adopted = next(one for one in reversed(acts) if isinstance(one.event, (PolicyAdopted, PolicyWithdrawn)))
    return {
        "label": f"{in_force.name}@{in_force.version}",
        "digest": in_force.digest,
        "language": in_force.language,
        "document": json.loads(in_force.document),
        "source": _source(material, adopted),
    }


def _could_see(
    decider: Decider | None, policy: Policy, actor: str, fields: Sequence[str], customer: Customer, at_us: int
) -> list[Tree]:
    """Per purpose, what of the subject's fields would have been released, by which doors. `purpose` None: any."""
    if decider is None or policy.in_force is None:
        return [_sight(None, READ_ACTIONS, fields, (), (), (), None)]
    found = []
    roles = policy.roles_of(actor, at_us)
    for name, purpose in sorted(decider.purposes.items()):
        reason = None
        if purpose.consent is not None and customer.text_version_for(purpose.consent, at_us) is None:
            reason = "no_consent"
        if customer.restricted and not purpose.during_restriction:
            reason = "restricted"
        if out_of_hours(purpose, at_us, policy.in_force.zone):
            reason = OUTSIDE_HOURS
        alike: defaultdict[Outcome, list[str]] = defaultdict(list)
        for action in READ_ACTIONS:
            decision = decider.decide(roles, name, action)
            verdicts = {one: decision.of(one) for one in fields}
            allowed = tuple(one for one in fields if verdicts[one].effect == ALLOW)
            masked = tuple(one for one in fields if verdicts[one].effect == MASK)
            withheld = tuple(one for one in fields if verdicts[one].effect not in (ALLOW, MASK))
            rules = tuple(sorted({rule for one in verdicts.values() if (rule := one.rule) is not None}))
            if reason is not None:
                allowed, masked, withheld = (), (), tuple(fields)
            alike[allowed, masked, withheld, rules].append(action)
        found += [_sight(name, actions, *outcome, reason) for outcome, actions in sorted(alike.items())]
    return found


def _sight(
    purpose: str | None,
    actions: Sequence[str],
    allowed: Sequence[str],
    masked: Sequence[str],
    withheld: Sequence[str],
    rules: Sequence[str],
    reason: str | None,
) -> Tree:
    return {
        "purpose": purpose,
        "actions": list(actions),
        "allowed": list(allowed),
        "masked": list(masked),
        "withheld": list(withheld),
        "rules": list(rules),
        "reason": reason,
    }


def _read(recorded: Recorded, subject: UUID) -> Tree:
    position, event = recorded
    assert isinstance(event, PersonalDataRead)
    consent = dict(zip(event.subjects, event.consents, strict=False)).get(subject)
    return {
        "position": position,
        "at": utc_text(event.metadata.recorded_us),
        "action": event.action,
        "on_behalf_of": event.metadata.on_behalf_of,
        "purpose": event.metadata.purpose,
        "channel": event.metadata.channel,
        "outcome": event.outcome,
        "fields": list(event.fields),
        "masked": list(event.masked),
        "withheld": list(event.withheld),
        "restricted": subject in event.restricted,
        "erased": subject in event.erased,
        "consent": None if consent == NO_CONSENT else consent,
        "subjects": len(event.subjects),
        "policy": event.policy,
        "rules": list(event.rules),
        "legal_basis": event.legal_basis,
        "remote_address": event.remote_address,
    }


# ── rules and decisions ───────────────────────────────────────────────────────────────────────────────────────────────


def _rule_sets(material: Material) -> list[Tree]:
    """All that were in force at the moment, and all that a decision names, with each of their adoptions."""
    adopted: defaultdict[tuple[str, str], list[Recorded]] = defaultdict(list)
    for one in material.control:
        if isinstance(one.event, RuleSetAdopted):
            adopted[one.event.programme, f"{one.event.name}@{one.event.version}"].append(one)
    rule_book = derived_by(material.control, material.at_us).control.rule_book
    named = {
        (event.programme, event.rules)  # type: ignore[attr-defined]  # every decision about an account has a programme
        for _, event in material.effective
        if isinstance(event, Decision)
    }
    found = []
    for (programme, label), adoptions in sorted(adopted.items()):
        rules = rule_book.in_force(programme, material.at_us)
        in_force = rules is not None and rules.label == label
        if not in_force and (programme, label) not in named:
            continue
        event = adoptions[0].event
        assert isinstance(event, RuleSetAdopted)
        found.append(
            {
                "programme": programme,
                "label": label,
                "digest": event.digest,
                "in_force": in_force,
                "document": json.loads(event.document),
                "zone": {"name": event.zone_name, "tzdata": event.tzdata},
                "adoptions": [_source(material, one) for one in adoptions],
            }
        )
    return found


def _decisions(material: Material) -> tuple[list[Tree], Tree]:
    agreed: set[int] = set()
    merged = list(merge(material.control, material.history, key=lambda one: one.position))
    certificate = certify(
        (
            one
            for one in merged
            if one.position <= material.whole_to and one.event.stored_name in (*FACT_NAMES, *DECISION_NAMES)
        ),
        agreed=agreed.add,
    )
    found = [
        {
            **_said(material, one.recorded),
            "account_id": str(one.account_id),
            "rules": one.recorded.event.rules,  # type: ignore[attr-defined]  # it is a decision
            "facts": [_said(material, fact) for fact in one.facts],
            "inputs": one.reason.inputs,
            "arithmetic": [line._asdict() for line in one.reason.sums],
            "why": one.reason.steps,
            "agrees": None if one.recorded.position > material.whole_to else one.recorded.position in agreed,
        }
        for one in explained(merged, lambda recorded: recorded.event.effective_us <= material.at_us)
    ]
    first = certificate.first
    return found, {
        "holds": certificate.holds,
        "up_to": material.whole_to,
        "facts": certificate.facts,
        "decisions": certificate.decisions,
        "agreed": certificate.matched,
        "pending": certificate.pending,
        "first_divergence": None
        if first is None
        else {
            "kind": first.kind,
            "account_id": str(first.account_id),
            "position": first.position,
            "expected": first.expected,
            "found": first.found,
        },
    }


# ── personal values ───────────────────────────────────────────────────────────────────────────────────────────────────

Path = tuple[str | int, ...]


def handles(tree: Any, path: Path = ()) -> dict[Path, Personal[Any]]:
    """Every handle in a tree, by where it stands."""
    if isinstance(tree, Personal):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found: dict[Path, Personal[Any]] = {}
    for name, value in items:
        found |= handles(value, (*path, name))
    return found


def filled(tree: Any, value_of: Callable[[Path], Any], path: Path = ()) -> Any:
    """The tree, with a value in the place of every handle."""
    if isinstance(tree, Personal):
        return value_of(path)
    if isinstance(tree, dict):
        return {name: filled(value, value_of, (*path, name)) for name, value in tree.items()}
    if isinstance(tree, list):
        return [filled(value, value_of, (*path, index)) for index, value in enumerate(tree)]
    return tree


__all__ = ["FORMAT", "READ_ACTIONS", "Material", "filled", "handles", "replayed"]
