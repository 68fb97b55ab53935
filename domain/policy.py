"""Access policies: who may read which personal fields for which purpose, and give which commands. As data.

A policy is a document (TOML or JSON). It declares purposes, and holds rules. A rule that fits a request allows, masks
or denies; deny beats mask, mask beats allow, and what no rule allows is denied. Who has which role is said by events.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol
from uuid import UUID

from pydantic import Field, StringConstraints, ValidationError, model_validator

from .aggregate import Aggregate, Appliers, Stamp, applies
from .calendar import DAY_US, UTC_ZONE, Zone
from .copy_on_write import LayeredDict
from .errors import PolicyError, refusal
from .events import CODE_CHARS, COMPOSED, REGISTRY, Code, Event, Fact, Value, stored
from .personal import Category, Sensitivity

Effect = Literal["allow", "mask", "deny"]
ALLOW, MASK, DENY = "allow", "mask", "deny"
_RANK = {DENY: 0, MASK: 1, ALLOW: 2}

Pattern = Annotated[str, StringConstraints(pattern=rf"^(\*|{CODE_CHARS}(\.\*)?)$", max_length=80), COMPOSED]
"""A name, all names that begin with one (`tickets.*`), or all (`*`)."""
Basis = Literal["consent", "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests"]
"""The legal bases of GDPR article 6; those of PIPL article 13 are named by the same words."""

BUILT_IN, CEDAR = "tallybook", "cedar"
"""The languages of rules."""
ADOPT = "policy.adopt"
"""Whoever may give this command can mend a policy."""
DECISIONS_MAX = 4096
"""How many decisions a policy remembers."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY, _TIME = "|".join(_DAYS), r"(?:[01]\d|2[0-3]):[0-5]\d"
_HOURS = re.compile(rf"({_DAY})(?:-({_DAY}))? ({_TIME})-({_TIME}|24:00)")
_MINUTE_US = 60_000_000


# ── the document ────────────────────────────────────────────────────────────────────────────────────────────────────


class Purpose(Value):
    """Why personal data is used. A purpose that is not declared is allowed nothing.

    `consent`: the purpose of the consent that it rests on; nothing is released of subjects who have not given it.
    `during_restriction`: it goes on while a subject's data is restricted. `hours`: when it is usually followed
    (`Mon-Fri 08:00-18:00`, in the policy's zone); reads at other times are shown by a review and, with
    `enforce_hours`, they and commands are refused.
    `bulk`: its work goes over many subjects with whom whoever does it has no dealings (campaigns, audits, exports); a
    review does not ask for any.
    """

    text: Annotated[str, Field(min_length=1)]
    basis: Basis
    consent: Code | None = None
    during_restriction: bool = False
    bulk: bool = False
    hours: list[str] = Field(default_factory=list)
    enforce_hours: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Purpose:
        for one in self.hours:
            if not _HOURS.fullmatch(one):
                raise ValueError(f'hours: {one!r} is not of the form "Mon-Fri 08:00-18:00"')
            if not opens_before_it_closes(one):
                raise ValueError(
                    f"hours: {one!r} never come: they end before they begin. A shift over midnight is two: until "
                    "24:00, and from 00:00"
                )
        if self.enforce_hours and not self.hours:
            raise ValueError("enforce_hours: give the `hours` that are to be enforced")
        if self.basis == "consent" and self.consent is None:
            raise ValueError('basis is "consent": name the consent\'s purpose in `consent`')
        return self

    def in_hours(self, at_us: int, zone: Zone = UTC_ZONE) -> bool:
        """Whether a time lies within the hours; true where none are given."""
        local = zone.local_us(at_us)
        day, minute = (local // DAY_US + 3) % 7, local % DAY_US // _MINUTE_US  # 1970-01-01 was a Thursday
        return not self.hours or any(_within(one, day, minute) for one in self.hours)


def opens_before_it_closes(hours: str) -> bool:
    """Whether there is a minute within hours of the right form."""
    _, _, times = hours.rpartition(" ")
    opens, _, closes = times.partition("-")
    return _minutes(opens) < _minutes(closes)


def _within(hours: str, day: int, minute: int) -> bool:
    found = _HOURS.fullmatch(hours)
    assert found is not None
    first, last, opens, closes = found.groups()
    start, end = _DAYS.index(first), _DAYS.index(last or first)
    return (day - start) % 7 <= (end - start) % 7 and _minutes(opens) <= minute < _minutes(closes)


def _minutes(time: str) -> int:
    hour, _, minute = time.partition(":")
    return int(hour) * 60 + int(minute)


class Rule(Value):
    """What some roles may do for some purposes: read `fields` by `actions`, or give `commands`. `*` stands for all.

    `fields`: a name (`name`, `contact.email`, `identifier.crm`), `contact.*`, `identifier.*`, `category:identity`,
    `sensitivity:high`. The role `*` is everybody's who acts.
    """

    id: Code
    effect: Effect = "allow"
    roles: Annotated[list[Pattern], Field(min_length=1)]
    purposes: list[Pattern] = Field(default_factory=lambda: ["*"], min_length=1)
    actions: list[Pattern] = Field(default_factory=lambda: ["*"], min_length=1)
    fields: list[Pattern] = Field(default_factory=list)
    commands: list[Pattern] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if not self.fields and not self.commands:
            raise ValueError("give `fields` (what may be read), `commands`, or both")
        if self.commands and self.effect == "mask":
            raise ValueError("a command can't be masked: give `commands` to a rule that allows or denies")
        if self.actions != ["*"] and not self.fields:
            raise ValueError("`actions` are those of reading: give `fields`, too")
        for name in self.fields:
            if not is_selector(name):
                raise ValueError(
                    f"fields: there is no field {name!r}; there are {', '.join(known_fields())}, contact.*, "
                    f"identifier.*, {', '.join(f'category:{one}' for one in Category)}, "
                    f"{', '.join(f'sensitivity:{one}' for one in Sensitivity)} and *"
                )
        return self


class PolicyDocument(Value):
    """A versioned access policy: purposes, and rules in the built-in language or in Cedar."""

    name: Code
    version: Code
    description: str = ""
    zone: str = "UTC"
    purposes: Annotated[dict[Code, Purpose], Field(min_length=1)]
    rules: list[Rule] | None = None
    cedar: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PolicyDocument:
        if (self.rules is None) == (self.cedar is None):
            raise ValueError("give either `rules`, or `cedar` with policies in that language")
        ids = [rule.id for rule in self.rules or ()]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"two rules have the id {twice[0]!r}")
        for rule in self.rules or ():
            for name in rule.purposes:
                if not any(fits(name, one) for one in self.purposes):
                    raise ValueError(f"rule {rule.id}: there is no purpose {name!r}; declare it under `purposes`")
        return self

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def language(self) -> str:
        """Of the rules: `tallybook` or `cedar`."""
        return BUILT_IN if self.cedar is None else CEDAR

    def canonical(self) -> str:
        """The document as canonical JSON: what is adopted, digested and stored."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of the canonical document, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def parse_policy(document: object, source: str) -> PolicyDocument:
    """Validate a document. Raises PolicyError: every problem names its path within the document."""
    try:
        return PolicyDocument.model_validate(document)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, one['loc'])) or 'document'}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        ]
        raise PolicyError(source, problems) from None


def fits(pattern: str, name: str) -> bool:
    """Whether a name is meant by a pattern."""
    return pattern in ("*", name) or (pattern.endswith(".*") and name.startswith(pattern[:-1]))


# ── fields ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class FieldMarks(NamedTuple):
    """What a personal field is marked with, in any event that has it."""

    categories: frozenset[str]
    sensitivities: frozenset[str]


@lru_cache(maxsize=4)
def _marks(registered: int) -> Mapping[str, FieldMarks]:  # noqa: ARG001 - a registry that grew is looked at anew
    found: dict[str, FieldMarks] = {}
    for schema in REGISTRY.values():
        for field, mark in schema.event_class.personal_fields.items():
            if mark.known_as.startswith("{"):
                continue  # it goes by the name of a field of another event
            name = mark.known_as.partition("{")[0] or field
            had = found.get(name, FieldMarks(frozenset(), frozenset()))
            found[name] = FieldMarks(
                had.categories | {mark.category.value}, had.sensitivities | {mark.sensitivity.value}
            )
    return found


def marks_of(field: str) -> FieldMarks:
    """The marks of a field; none, of one that no event has."""
    found = _marks(len(REGISTRY))
    kind, dot, _ = field.partition(".")
    return found.get(f"{kind}." if dot else field, FieldMarks(frozenset(), frozenset()))


def known_fields() -> tuple[str, ...]:
    """All personal fields, in order; of those that are called by a kind, the kinds that Tallybook itself uses."""
    names = []
    for name in _marks(len(REGISTRY)):
        names += {"contact.": ["contact.email", "contact.phone", "contact.*"]}.get(
            name, [f"{name}*" if name.endswith(".") else name]
        )
    return tuple(sorted(names))


def is_selector(name: str) -> bool:
    """Whether a rule may name fields so."""
    kind, colon, value = name.partition(":")
    if colon and kind in ("category", "sensitivity"):
        return value in [*(Category if kind == "category" else Sensitivity)]
    group, dot, rest = name.partition(".")
    return name == "*" or (
        bool(rest) and f"{group}." in _marks(len(REGISTRY)) if dot else name in _marks(len(REGISTRY))
    )


def selects(selector: str, field: str) -> bool:
    """Whether a rule that names fields so means this one."""
    kind, colon, value = selector.partition(":")
    if colon and kind in ("category", "sensitivity"):
        marks = marks_of(field)
        return value in (marks.categories if kind == "category" else marks.sensitivities)
    return fits(selector, field)


# ── deciding ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Verdict(NamedTuple):
    """What becomes of a field or a command, and by which rule; None: no rule fits."""

    effect: str
    rule: str | None = None


class Decision:
    """What a request may read: decided once, the same for all of its fields.

    `allowed` and `masked` are the fields known so far; one that is asked for the first time is added.
    """

    __slots__ = ("_decide", "_verdicts", "allowed", "masked", "permitted", "purpose")

    def __init__(self, purpose: Purpose | None, decide: Callable[[str], Verdict], probes: Iterable[str] = ()) -> None:
        self.purpose = purpose
        """As the policy declares it; None: it does not."""
        self._decide = decide
        self._verdicts: dict[str, Verdict] = {}
        self.allowed: frozenset[str] = frozenset()
        self.masked: frozenset[str] = frozenset()
        verdicts = map(self.of, probes)
        self.permitted = next((one.rule or "" for one in verdicts if one.effect != DENY), None)
        """The rule that lets one of `probes` be read; None: nothing may be."""

    def of(self, field: str) -> Verdict:
        """What becomes of a field."""
        verdict = self._verdicts.get(field)
        if verdict is None:
            verdict = self._decide(field)
            if len(self._verdicts) < DECISIONS_MAX:
                self._verdicts[field] = verdict
                if verdict.effect == ALLOW:
                    self.allowed |= {field}
                elif verdict.effect == MASK:
                    self.masked |= {field}
        return verdict


class Decider(Protocol):
    """A policy ready to decide, in whatever language its rules are."""

    purposes: Mapping[str, Purpose]

    def decide(self, roles: frozenset[str], purpose: str, action: str) -> Decision:
        """What somebody with these roles may read."""
        ...

    def command(self, roles: frozenset[str], purpose: str, command: str) -> Verdict:
        """Whether somebody with these roles may give a command."""
        ...


def out_of_hours(purpose: Purpose | None, at_us: int, zone: Zone) -> bool:
    """Whether a purpose must not be followed at a time. None: one that is not declared, which is allowed nothing."""
    return purpose is not None and purpose.enforce_hours and not purpose.in_hours(at_us, zone)


class Remembered(ABC):
    """Remembers what was decided. What decides, `_decided` and `_commanded`, is another's."""

    purposes: Mapping[str, Purpose]

    def __init__(self, document: PolicyDocument) -> None:
        self.purposes = document.purposes
        self._decisions: dict[tuple[frozenset[str], str, str], Decision] = {}
        self._commands: dict[tuple[frozenset[str], str, str], Verdict] = {}

    def decide(self, roles: frozenset[str], purpose: str, action: str) -> Decision:
        """What somebody with these roles may read."""
        request = (roles, purpose, action)
        decision = self._decisions.get(request)
        if decision is None:
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            declared = self.purposes.get(purpose)
            decision = (
                Decision(None, lambda _: Verdict(DENY)) if declared is None else self._decided(*request, declared)
            )
            self._decisions[request] = decision
        return decision

    def command(self, roles: frozenset[str], purpose: str, command: str) -> Verdict:
        """Whether somebody with these roles may give a command."""
        request = (roles, purpose, command)
        verdict = self._commands.get(request)
        if verdict is None:
            if len(self._commands) >= DECISIONS_MAX:
                self._commands.clear()
            verdict = self._commanded(*request) if purpose in self.purposes else Verdict(DENY)
            self._commands[request] = verdict
        return verdict

    @abstractmethod
    def _decided(self, roles: frozenset[str], purpose: str, action: str, declared: Purpose) -> Decision: ...

    @abstractmethod
    def _commanded(self, roles: frozenset[str], purpose: str, command: str) -> Verdict: ...


class CompiledPolicy(Remembered):
    """A policy in the built-in language."""

    def __init__(self, document: PolicyDocument) -> None:
        super().__init__(document)
        self._rules = document.rules or []

    def _fitting(self, roles: frozenset[str], purpose: str) -> list[Rule]:
        return [
            rule
            for rule in self._rules
            if any(one == "*" or any(fits(one, role) for role in roles) for one in rule.roles)
            and any(fits(one, purpose) for one in rule.purposes)
        ]

    def _decided(self, roles: frozenset[str], purpose: str, action: str, declared: Purpose) -> Decision:
        rules = [
            rule
            for rule in self._fitting(roles, purpose)
            if rule.fields and any(fits(one, action) for one in rule.actions)
        ]
        named = [one for rule in rules for one in rule.fields if "*" not in one and ":" not in one]
        return Decision(
            declared,
            lambda field: _strictest(rules, lambda rule: any(selects(one, field) for one in rule.fields)),
            (*known_fields(), *named),
        )

    def _commanded(self, roles: frozenset[str], purpose: str, command: str) -> Verdict:
        return _strictest(self._fitting(roles, purpose), lambda rule: any(fits(one, command) for one in rule.commands))


def _strictest(rules: Iterable[Rule], meant: Callable[[Rule], bool]) -> Verdict:
    """Deny beats mask, mask beats allow; of equals the first; nothing is a denial."""
    found = min((rule for rule in rules if meant(rule)), key=lambda rule: _RANK[rule.effect], default=None)
    return Verdict(DENY) if found is None else Verdict(found.effect, found.id)


@lru_cache(maxsize=64)
def compiled_policy(document: str) -> CompiledPolicy:
    """The policy of a canonical document in the built-in language."""
    return CompiledPolicy(PolicyDocument.model_validate_json(document))


# ── what the book holds of it ───────────────────────────────────────────────────────────────────────────────────────


@stored("policy.adopted")
class PolicyAdopted(Fact):
    """The access policy is in force from its recording on, in the place of the one before. Holds all that it says."""

    name: Code
    version: Code
    digest: str
    language: Code
    document: str
    zone_name: str
    tzdata: str
    zone_starts_us: tuple[int, ...]
    zone_offsets_s: tuple[int, ...]


@stored("policy.withdrawn")
class PolicyWithdrawn(Fact):
    """No access policy is in force any more: whoever names himself and a purpose may do everything."""

    digest: str


@stored("policy.role_granted")
class RoleGranted(Fact):
    """An actor has a role from `effective_us` on, up to `until_us` if there is an end."""

    actor: Code
    role: Code
    until_us: int | None = None


@stored("policy.role_revoked")
class RoleRevoked(Fact):
    """An actor has a role no more, from the recording on."""

    actor: Code
    role: Code


class InForce(NamedTuple):
    """The access policy that is in force. `zone` is that of its hours."""

    name: str
    version: str
    digest: str
    language: str
    document: str
    zone: Zone


class PolicyHistory:
    """Which access policy was in force at which place of the log."""

    def __init__(self, history: Iterable[tuple[int, Event]]) -> None:
        """`history`: the events of the policies' stream with their positions, in order."""
        self._changes: list[tuple[int, str | None]] = []
        for position, event in history:
            if isinstance(event, (PolicyAdopted, PolicyWithdrawn)):
                self._changes.append((position, event.digest if isinstance(event, PolicyAdopted) else None))

    def behind(self, position: int, event: Event) -> str | None:
        """Digest of the policy by which the command was allowed that recorded an event; None: none decided about it."""
        if event.metadata.rule is None:
            return None
        place = bisect_left(self._changes, position, key=itemgetter(0))
        return self._changes[place - 1][1] if place else None


NO_END = 2**62


class Grant(NamedTuple):
    """A role that an actor has, from when on and until when (`NO_END`: without end)."""

    role: str
    from_us: int
    until_us: int


class Policy(Aggregate):
    """The fold of the book's stream of access policies and roles."""

    CONTAINERS = ("labels", "grants")
    APPLIERS: ClassVar[Appliers] = {}

    in_force: InForce | None = None
    labels: dict[str, str]
    """`name@version` of every policy that was adopted → its digest."""
    grants: LayeredDict[str, tuple[Grant, ...]]
    """Actor → what he was granted and is not revoked."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(stream_id)
        self.labels = {}
        self.grants = LayeredDict()

    def roles_of(self, actor: str, at_us: int) -> frozenset[str]:
        """The roles that an actor has at a time."""
        held = self.grants.get(actor)
        if held is None:
            return frozenset()
        return frozenset([role for role, from_us, until_us in held if from_us <= at_us < until_us])

    def adopt(self, stamp: Stamp, document: PolicyDocument, zone: Zone, decider: Decider) -> PolicyAdopted | None:
        """Put a policy in force. None if it is already. Refuses: policy_adopted, policy_locks_out."""
        digest = document.digest()
        if self.labels.get(document.label, digest) != digest:
            raise refusal(
                "policy_adopted",
                f"{document.label} was adopted with other content.",
                policy=document.label,
                adopted=self.labels[document.label],
                given=digest,
            )
        if self.in_force is not None and self.in_force.digest == digest:
            return None
        self._must_let_in(decider, stamp)
        return self.record(
            PolicyAdopted,
            stamp,
            None,
            name=document.name,
            version=document.version,
            digest=digest,
            language=document.language,
            document=document.canonical(),
            zone_name=zone.name,
            tzdata=zone.tzdata,
            zone_starts_us=zone.starts_us,
            zone_offsets_s=zone.offsets_s,
        )

    def withdraw(self, stamp: Stamp) -> PolicyWithdrawn:
        """Take the policy out of force. Refuses: no_policy."""
        if self.in_force is None:
            raise refusal("no_policy", "No access policy is in force.")
        return self.record(PolicyWithdrawn, stamp, None, digest=self.in_force.digest)

    def grant(
        self, stamp: Stamp, actor: str, role: str, until_us: int | None, decider: Decider | None
    ) -> RoleGranted | None:
        """Give an actor a role; in the place of what he has of it. None if that changes nothing.

        Refuses: invalid_argument, policy_locks_out.
        """
        if until_us is not None and until_us <= stamp.effective_us:
            raise refusal("invalid_argument", "until: the role would end before it begins.", argument="until")
        wanted = Grant(role, stamp.effective_us, NO_END if until_us is None else until_us)
        held = next((one for one in self.grants.get(actor, ()) if one.role == role), None)
        if held is not None and (
            held == wanted or (until_us is None and held.until_us == NO_END and held.from_us <= wanted.from_us)
        ):
            return None
        event = self.record(RoleGranted, stamp, None, actor=actor, role=role, until_us=until_us)
        if decider is not None:
            self._must_let_in(decider, stamp)
        return event

    def revoke(self, stamp: Stamp, actor: str, role: str, decider: Decider | None) -> RoleRevoked:
        """Take a role from an actor. Refuses: role_not_granted, policy_locks_out."""
        if not any(one.role == role for one in self.grants.get(actor, ())):
            raise refusal("role_not_granted", "The actor does not have that role.", actor=actor, role=role)
        event = self.record(RoleRevoked, stamp, None, actor=actor, role=role)
        if decider is not None:
            self._must_let_in(decider, stamp)
        return event

    def _must_let_in(self, decider: Decider, stamp: Stamp) -> None:
        """See that somebody, whose role has no end, may adopt another policy. Refuses: policy_locks_out."""
        now_us = stamp.metadata.recorded_us
        for grants in [(), *self.grants.values()]:
            lasting = frozenset([one.role for one in grants if one.until_us == NO_END and one.from_us <= now_us])
            for purpose in decider.purposes:
                if decider.command(lasting, purpose, ADOPT).effect == ALLOW:
                    return
        raise refusal("policy_locks_out", f"Nobody could give the command {ADOPT} any more.", command=ADOPT)


@applies(Policy.APPLIERS, PolicyAdopted)
def _adopted(policy: Policy, event: PolicyAdopted) -> None:
    zone = Zone(
        name=event.zone_name,
        tzdata=event.tzdata,
        starts_us=event.zone_starts_us,
        offsets_s=event.zone_offsets_s,
    )
    policy.in_force = InForce(event.name, event.version, event.digest, event.language, event.document, zone)
    policy.labels[f"{event.name}@{event.version}"] = event.digest


@applies(Policy.APPLIERS, PolicyWithdrawn)
def _withdrawn(policy: Policy, _event: PolicyWithdrawn) -> None:
    policy.in_force = None


@applies(Policy.APPLIERS, RoleGranted)
def _granted(policy: Policy, event: RoleGranted) -> None:
    others = [one for one in policy.grants.get(event.actor, ()) if one.role != event.role]
    until_us = NO_END if event.until_us is None else event.until_us
    policy.grants[event.actor] = (*others, Grant(event.role, event.effective_us, until_us))


@applies(Policy.APPLIERS, RoleRevoked)
def _revoked(policy: Policy, event: RoleRevoked) -> None:
    others = tuple([one for one in policy.grants.get(event.actor, ()) if one.role != event.role])
    if others:
        policy.grants[event.actor] = others
    else:
        policy.grants.pop(event.actor, None)
