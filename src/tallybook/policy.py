"""`book.policy`: who may read which personal fields for which purpose, and give which commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallybook.adapters.policy_files import decider, decider_of, load_policy
from tallybook.adapters.rule_files import frozen_zone
from tallybook.domain.errors import refusal, text
from tallybook.domain.events import Event
from tallybook.domain.policy import DENY, NO_END, Policy, PolicyDocument, Verdict, known_fields, out_of_hours

from .commands import Desk, Work, command, command_ahead
from .policy_names import check_asked, check_names
from .times import When, iso, moment_us

_CLOSED = Verdict(DENY)
"""Of everything, outside of the hours that a purpose enforces."""
PolicySource = str | Path | Mapping[str, Any] | PolicyDocument


@dataclass(frozen=True, slots=True)
class PolicyView:
    """The access policy in force. `document` is canonical JSON, `digest` its SHA-256, `position` its adoption's."""

    label: str
    digest: str
    language: str
    document: str
    actor: str
    adopted_at: str
    position: int


@dataclass(frozen=True, slots=True)
class RoleView:
    """A role that an actor has. `until` is None if it has no end."""

    actor: str
    role: str
    since: str
    until: str | None


@dataclass(frozen=True, slots=True)
class FieldRuling:
    """What becomes of a field: `allow`, `mask` or `deny`, and by which rule; None: no rule fits."""

    field: str
    effect: str
    rule: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an actor may do now for a purpose, by an action of reading or a command.

    `policy` is None where no policy is in force: everything is allowed then. `command` is what would become of a
    command of that name, `fields` what would become of each field in a read of that name.
    """

    policy: str | None
    roles: tuple[str, ...]
    purpose: str
    legal_basis: str | None
    command: FieldRuling
    fields: tuple[FieldRuling, ...]


class PolicyDesk(Desk):
    """The access policy and the roles. Each command also has an awaitable form: `await book.policy.grant.aio(…)`.

    As long as no policy is adopted, whoever names himself and a purpose may do everything.
    """

    _name = "policy"

    @command
    def adopt(
        self,
        work: Work,
        policy: PolicySource,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> str:
        """Put an access policy in force: a TOML or JSON file, a mapping of that form, or "shop"; its `name@version`.

        It takes the place of the one before. What it allows nobody is denied from now on. Adopting the one in force
        again records nothing. Refuses: policy_adopted, policy_locks_out. Raises PolicyError, MissingExtra.
        """
        document = self.check(policy)
        zone = frozen_zone(document.zone)
        work.policy().adopt(work.stamp, document, zone, decider(document.language, document.canonical()))
        return document.label

    @command
    def withdraw(self, work: Work, *, effective_at: When | None = None, command_id: str | None = None) -> None:
        """Take the access policy out of force: everybody may do everything again. Roles stay. Refuses: no_policy."""
        work.policy().withdraw(work.stamp)

    @command_ahead
    def grant(
        self,
        work: Work,
        actor: str,
        role: str,
        *,
        until: When | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Give an actor a role from `effective_at` on (it may lie ahead), up to `until`, in the place of what he has of
        it.

        Refuses: invalid_argument, policy_locks_out.
        """
        until_us = None if until is None else moment_us(until, "until")
        policy = work.policy()
        policy.grant(work.stamp, actor, role, until_us, _decider(policy))

    @command
    def revoke(
        self,
        work: Work,
        actor: str,
        role: str,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Take a role from an actor at once. Refuses: role_not_granted, policy_locks_out."""
        policy = work.policy()
        policy.revoke(work.stamp, actor, role, _decider(policy))

    def check(self, policy: PolicySource) -> PolicyDocument:
        """Read and validate an access policy; every action and command that it names must be there.

        Raises PolicyError, which names each problem's path; MissingExtra.
        """
        if isinstance(policy, PolicyDocument):
            check_names(policy, policy.label)
            return policy
        if not isinstance(policy, (str, Path, Mapping)):
            raise refusal("invalid_argument", "policy: a file's path or a mapping is wanted.", argument="policy")
        document = load_policy(policy)
        check_names(document, "policy" if isinstance(policy, Mapping) else str(policy))
        return document

    def in_force(self, *, known_at: When | int | None = None) -> PolicyView | None:
        """The access policy in force now, or as the book knew it. Refuses: naive_time, invalid_argument."""
        policy, adoption = self._as_known(known_at)
        held = policy.in_force
        if held is None or adoption is None:
            return None
        position, event = adoption
        return PolicyView(
            f"{held.name}@{held.version}",
            held.digest,
            held.language,
            held.document,
            event.metadata.actor,
            iso(event.metadata.recorded_us) or "",
            position,
        )

    def roles(self, actor: str | None = None, *, known_at: When | int | None = None) -> list[RoleView]:
        """The roles of an actor (default: everybody's), by actor and role; those that ended are left out.

        `known_at`: as the book knew them, and at that time. Refuses: naive_time, invalid_argument.
        """
        if actor is not None:
            text(actor, "actor")
        policy, _ = self._as_known(known_at)
        at_us = self._core.time_of(known_at)
        return sorted(
            (
                RoleView(
                    one, grant.role, iso(grant.from_us) or "", None if grant.until_us == NO_END else iso(grant.until_us)
                )
                for one, grants in policy.grants.items()
                for grant in grants
                if actor in (None, one) and at_us < grant.until_us
            ),
            key=lambda view: (view.actor, view.role),
        )

    def explain(self, actor: str, purpose: str, action: str) -> Explanation:
        """What would become of each field if an actor read by an action (`profiles.get`) for a purpose now, and of a
        command of that name. Nothing is read. Refuses: invalid_argument.
        """
        core = self._core
        core.check_open()
        for name, value in (("actor", actor), ("purpose", purpose), ("action", action)):
            text(value, name)
        check_asked(action)
        policy = core.policy()
        roles = policy.roles_of(actor, core.now_us())
        if policy.in_force is None:
            free = tuple(FieldRuling(field, "allow", None) for field in known_fields())
            return Explanation(None, tuple(sorted(roles)), purpose, None, FieldRuling(action, "allow", None), free)
        decides = decider_of(policy.in_force)
        decision = decides.decide(roles, purpose, action)
        closed = out_of_hours(decision.purpose, core.now_us(), policy.in_force.zone)
        return Explanation(
            f"{policy.in_force.name}@{policy.in_force.version}",
            tuple(sorted(roles)),
            purpose,
            None if decision.purpose is None else decision.purpose.basis,
            FieldRuling(action, *(_CLOSED if closed else decides.command(roles, purpose, action))),
            tuple(FieldRuling(field, *(_CLOSED if closed else decision.of(field))) for field in known_fields()),
        )

    def _as_known(self, known_at: When | int | None) -> tuple[Policy, tuple[int, Event] | None]:
        """The policy as the book knew it, and its adoption."""
        core = self._core
        core.check_open()
        known = core.known(known_at)
        history = [recorded for recorded in core.stream(core.policy_id) if known(recorded)]
        policy = Policy.fold(None, [event for _, event in history]) or Policy(core.policy_id)
        adoptions = [one for one in history if one.event.stored_name == "policy.adopted"]
        return policy, adoptions[-1] if adoptions else None


def _decider(policy: Policy) -> Any:
    return None if policy.in_force is None else decider_of(policy.in_force)
