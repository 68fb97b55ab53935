"""The gate: the one place where personal data is opened. It decides, records the read, and only then releases."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from eventsourcing.persistence import IntegrityError, PersistenceError

from tallybook.domain.access import (
    DENIED,
    NO_CONSENT,
    OUTSIDE_HOURS,
    RELEASED,
    WITHHELD_DENIED,
    WITHHELD_NO_CONSENT,
    WITHHELD_RESTRICTED,
    CommandDenied,
    Exported,
    LogClosed,
    LogOpened,
    PersonalDataRead,
    Standing,
    Standings,
)
from tallybook.domain.errors import Refused, TallybookError, refusal
from tallybook.domain.events import Event, Metadata
from tallybook.domain.masks import masked
from tallybook.domain.personal import Erased, Personal, Withheld
from tallybook.domain.policy import ALLOW, DENY, MASK, Decision, InForce, Policy, Verdict, out_of_hours

from .codec import EventMapper
from .form import unvalidated, uuid_from
from .group_commit import GroupCommit, Moved
from .keys import Keyring
from .log import ErasedKeys, EventStore, LogRecorder, NewRow
from .policy_files import decider_of

K = TypeVar("K")

logger = logging.getLogger("tallybook.storage")


class Ruling(NamedTuple):
    """What the access policy in force says of a request."""

    policy: str
    decision: Decision
    out_of_hours: bool


class PolicySource(Protocol):
    """Gives the access policy and the roles."""

    def __call__(self, *, newest: bool) -> Policy:
        """As they are in force now; without `newest`, as this process saw them last."""
        ...


class Account(NamedTuple):
    """What a read that is on record may release: by which ruling, of whom nothing and why, whose keys are destroyed."""

    ruling: Ruling | None
    withheld: Mapping[UUID, str]
    erased: ErasedKeys


class Gate:
    """Opens handles for an actor with a purpose. Fails closed: no record, no value.

    `log` tells which keys are destroyed, `policy` gives the policy and the roles, `standings` whose data is restricted
    and who consented, each as this process saw it last or (`newest`) as it is now; `address` where the request came
    from.

    A read is decided by what this process saw last. Before it is recorded, whoever leads the group looks whether all
    that it rests on still stands, and who is erased; if something moved, it is decided again by the newest. So what
    was committed before a read began counts for it, whichever process did it.
    """

    def __init__(
        self,
        keyring: Keyring,
        reads: EventStore,
        new_id: Callable[[], UUID],
        log: LogRecorder,
        policy: PolicySource,
        standings: Standings,
        address: Callable[[], str | None],
        check_erased: Callable[[UUID, int], None],
    ) -> None:
        self._keyring = keyring
        self._check_erased = check_erased
        self._log = log
        self._mapper = EventMapper(keyring)
        self.reads = reads
        self._group = GroupCommit(reads, log.look)
        self._new_id = new_id
        self._policy = policy
        self._standings = standings
        self._address = address
        self._opening: NewRow | None = None

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def open(
        self,
        metadata: Metadata,
        action: str,
        handles: Mapping[K, Personal[Any]],
        about: Sequence[UUID] = (),
        *,
        to_seal_again: bool = False,
    ) -> dict[K, object]:
        """The values of handles: `Erased` where the subject's key was destroyed, `Masked` or `Withheld` where the
        access policy says so. One call is one record.

        `about`: subjects who are looked at even where nothing of theirs is sealed. `to_seal_again`: for the book
        itself, which shows them to nobody: no policy applies. Refuses: access_denied, where nothing of it is released.
        """
        subjects: dict[UUID, None] = dict.fromkeys(about)
        fields: dict[str, None] = {}
        sealed: dict[bytes, None] = {}
        for handle in handles.values():
            if handle.sealed is None:
                raise TypeError("only what was stored can be opened")
            subjects[handle.sealed.subject_id] = None
            sealed[handle.sealed.subject_id.bytes] = None
            fields[handle.known_as] = None
        if not subjects and (to_seal_again or self._may_be_empty(metadata, action)):
            return {}
        return self._released(
            handles, self._record(metadata, action, subjects, sorted(fields), sealed, to_seal_again=to_seal_again)
        )

    def bulk(
        self, metadata: Metadata, action: str, subjects: Sequence[UUID], fields: Sequence[str]
    ) -> Callable[[Mapping[K, Personal[Any]]], dict[K, object]]:
        """What opens handles a part at a time, as `open` does: one record for all of it, which is made here.

        Refuses: access_denied.
        """
        account = self._record(metadata, action, subjects, fields)
        people, names = frozenset(subjects), frozenset(fields)

        def opened(handles: Mapping[K, Personal[Any]]) -> dict[K, object]:
            for handle in handles.values():
                if handle.sealed is None or handle.sealed.subject_id not in people or handle.known_as not in names:
                    raise TypeError("only what was recorded can be opened")
            erased = self._log.erased_keys([*{one.sealed.subject_id.bytes for one in handles.values() if one.sealed}])
            return self._released(handles, account._replace(erased=erased))

        return opened

    def _released(self, handles: Mapping[K, Personal[Any]], account: Account) -> dict[K, object]:
        """What was recorded, and decided, of handles."""
        # The log says who is erased, whatever another process did and this one still has in its cache.
        ruling, withheld, gone = account
        self._keyring.load((one.sealed.subject_id, one.sealed.key_id) for one in handles.values() if one.sealed)
        decision = None if ruling is None else ruling.decision
        opened: dict[tuple[UUID, UUID], dict[str, object] | None] = {}
        released: dict[K, object] = {}
        for key, handle in handles.items():
            sealed = handle.sealed
            assert sealed is not None
            subject = sealed.subject_id
            effect = ALLOW if decision is None else decision.of(handle.known_as).effect
            if withheld and subject in withheld:
                released[key] = Withheld(subject, withheld[subject])
                continue
            if effect == DENY:
                released[key] = Withheld(subject, WITHHELD_DENIED)
                continue
            blob = (subject, sealed.event_id)
            if blob not in opened:
                erased = (subject.bytes, sealed.key_id) in gone
                if erased:
                    self._check_erased(subject, sealed.key_id)
                opened[blob] = None if erased else self._keyring.open(sealed)
            values = opened[blob]
            if values is None:
                released[key] = Erased(subject)
            else:
                value = values[handle.field]
                released[key] = value if effect == ALLOW else masked(handle.known_as, value)
        return released

    def record(self, metadata: Metadata, action: str, subjects: Iterable[UUID], fields: Sequence[str]) -> None:
        """Record a read of what is not sealed, or is opened elsewhere. Durable when this returns.

        Refuses: access_denied, where the access policy allows nothing of it.
        """
        self._record(metadata, action, subjects, fields)

    @staticmethod
    def _ruling(policy: Policy, metadata: Metadata, action: str) -> Ruling | None:
        """What an access policy says of a read; None: none is in force."""
        if policy.in_force is None:
            return None
        decider = decider_of(policy.in_force)
        at_us = metadata.recorded_us
        decision = decider.decide(policy.roles_of(metadata.actor, at_us), metadata.purpose, action)
        closed = out_of_hours(decision.purpose, at_us, policy.in_force.zone)
        return Ruling(policy.in_force.digest, decision, closed)

    def _may_be_empty(self, metadata: Metadata, action: str) -> bool:
        """Whether somebody may read what there is nothing of: then there is nothing to record."""
        ruling = self._ruling(self._policy(newest=True), metadata, action)
        return ruling is None or (ruling.decision.permitted is not None and not ruling.out_of_hours)

    def _record(
        self,
        metadata: Metadata,
        action: str,
        subjects: Iterable[UUID],
        fields: Sequence[str],
        sealed: Iterable[bytes] = (),
        *,
        to_seal_again: bool = False,
    ) -> Account:
        """Record a read, released or denied. `sealed` are subjects of whom something is to be opened."""
        subjects, sealed = tuple(dict.fromkeys(subjects)), tuple(sealed)
        if to_seal_again:
            return self._recorded(metadata, action, subjects, fields, sealed, None)
        try:
            return self._recorded(metadata, action, subjects, fields, sealed, self._policy(newest=False))
        except Moved:
            return self._recorded(metadata, action, subjects, fields, sealed, self._policy(newest=True), newest=True)

    def _recorded(
        self,
        metadata: Metadata,
        action: str,
        subjects: tuple[UUID, ...],
        fields: Sequence[str],
        sealed: Sequence[bytes],
        policy: Policy | None,
        *,
        newest: bool = False,
    ) -> Account:
        """The same by a policy; None: it does not matter. Raises Moved if it is not the one in force any more."""
        record: dict[str, Any] = {"action": action, "outcome": RELEASED, "subjects": subjects}
        seen = [] if policy is None or newest else [(policy.id.bytes, policy.version)]
        ruling = None if policy is None else self._ruling(policy, metadata, action)
        if ruling is None:
            record["fields"] = tuple(fields)
            return Account(None, {}, self._append(PersonalDataRead, metadata, record, subjects, seen, sealed))
        decision = ruling.decision
        withheld = self._withheld(decision, subjects, record, None if newest else seen)
        verdicts = {field: decision.of(field) for field in fields}
        denied = OUTSIDE_HOURS if ruling.out_of_hours else self._denial(decision, subjects, withheld, verdicts.values())
        if denied:
            record["outcome"] = DENIED
        effects = {
            effect: tuple([field for field, verdict in verdicts.items() if verdict.effect == effect])
            for effect in (ALLOW, MASK, DENY)
        }
        rules = dict.fromkeys([verdict.rule for verdict in verdicts.values()] or [decision.permitted])
        record |= {
            "fields": () if denied else effects[ALLOW],
            "masked": () if denied else effects[MASK],
            "withheld": tuple(fields) if denied else effects[DENY],
            "policy": ruling.policy,
            "rules": () if ruling.out_of_hours else tuple([rule for rule in rules if rule]),
            "legal_basis": None if decision.purpose is None else decision.purpose.basis,
        }
        erased = self._append(PersonalDataRead, metadata, record, subjects, seen, sealed)
        if denied:
            raise _access_denied(metadata, action, denied)
        return Account(ruling, withheld, erased)

    def _withheld(
        self,
        decision: Decision,
        subjects: tuple[UUID, ...],
        record: dict[str, Any],
        seen: list[tuple[bytes, int]] | None,
    ) -> dict[UUID, str]:
        """Subjects whose data may not be used for the purpose, and why; notes in the record what that rests on, and in
        `seen` what is to stand. None: by the newest.
        """
        purpose = decision.purpose
        if purpose is None or not subjects or (purpose.consent is None and purpose.during_restriction):
            return {}
        found = self._standings(subjects, purpose.consent, newest=seen is None)
        if seen is not None:
            seen += [(subject.bytes, one.version) for subject, one in found.items() if one.version is not None]
        standing = {subject: found.get(subject, _UNKNOWN) for subject in subjects}
        withheld: dict[UUID, str] = {}
        if purpose.consent is not None:
            withheld = {subject: WITHHELD_NO_CONSENT for subject, one in standing.items() if one.consent is None}
            record["consents"] = tuple([one.consent or NO_CONSENT for one in standing.values()])
        if not purpose.during_restriction:
            restricted = tuple([subject for subject, one in standing.items() if one.restricted])
            record["restricted"] = restricted
            withheld |= dict.fromkeys(restricted, WITHHELD_RESTRICTED)
        return withheld

    @staticmethod
    def _denial(
        decision: Decision, subjects: tuple[UUID, ...], withheld: Mapping[UUID, str], verdicts: Iterable[Verdict]
    ) -> str:
        """Why nothing at all is released; empty, where something is."""
        verdicts = list(verdicts)
        if all(verdict.effect == DENY for verdict in verdicts) if verdicts else decision.permitted is None:
            return WITHHELD_DENIED
        if subjects and len(withheld) == len(subjects):
            return withheld[subjects[0]]
        return ""

    # ── what else the log of reads holds ────────────────────────────────────────────────────────────────────────

    def deny(self, metadata: Metadata, command: str, policy: InForce, verdict: Verdict) -> Refused:
        """Record that a command was denied; the refusal, to be raised."""
        rules = () if verdict.rule is None else (verdict.rule,)
        self._append(CommandDenied, metadata, {"command": command, "policy": policy.digest, "rules": rules})
        closed = out_of_hours(decider_of(policy).purposes.get(metadata.purpose), metadata.recorded_us, policy.zone)
        return _access_denied(metadata, command, OUTSIDE_HOURS if closed else WITHHELD_DENIED)

    def exported(
        self,
        metadata: Metadata,
        *,
        format: str,  # noqa: A002 - what it is called everywhere
        digest: str,
        count: int,
        from_position: int,
        to_position: int,
    ) -> None:
        """Record that data left the book. Durable when this returns; to be called before anybody gets what was written.

        `digest` is the SHA-256 of what was written, in hex. That somebody may export is decided by `record` before.
        """
        self._append(
            Exported,
            metadata,
            {
                "format": format,
                "digest": digest,
                "count": count,
                "from_position": from_position,
                "to_position": to_position,
            },
        )

    def opened(self, metadata: Metadata, release: str, *, signs: bool) -> UUID:
        """Record that a process opened the book; the stream to close it by.

        A book whose log of reads can't be written opens all the same: it can be examined, and takes commands. The
        record is tried again before the first read, which is not released without it.
        """
        run = self._new_id()
        held = {"release": release, "process": os.getpid(), "signs": signs}
        self._opening = self._row(LogOpened, metadata, held, run, 1, run)
        try:
            self._write_opening()
        except (TallybookError, PersistenceError):
            logger.warning("That the book was opened could not be recorded yet.", exc_info=True)
        return run

    def closed(self, metadata: Metadata, run: UUID) -> None:
        """Record that it closed the book, if it is on record that it opened it."""
        if self._opening is not None:
            return
        try:
            self._group.append(self._row(LogClosed, metadata, {}, run, 2, self._new_id()))
        except (TallybookError, PersistenceError):
            # Whoever looks finds no end of this run, as after a kill.
            logger.warning("That the book was closed could not be recorded.", exc_info=True)

    def _write_opening(self) -> None:
        row = self._opening
        if row is not None:
            try:
                self._group.append(row)
            except IntegrityError:
                if not self.reads.stream_rows(_stream_of(row)):  # else another thread was faster
                    raise
            self._opening = None

    def _append(
        self,
        kind: type[Event],
        metadata: Metadata,
        fields: dict[str, Any],
        subjects: tuple[UUID, ...] = (),
        seen: Sequence[tuple[bytes, int]] = (),
        sealed: Sequence[bytes] = (),
    ) -> ErasedKeys:
        if self._opening is not None:
            self._write_opening()
        event_id = self._new_id()
        fields["remote_address"] = self._address()
        return self._group.append(self._row(kind, metadata, fields, event_id, 1, event_id, subjects), seen, sealed)

    def _row(
        self,
        kind: type[Event],
        metadata: Metadata,
        fields: dict[str, Any],
        stream: UUID,
        version: int,
        event_id: UUID,
        subjects: tuple[UUID, ...] = (),
    ) -> NewRow:
        # Past validation: what the host gave was validated where it was given, all else is Tallybook's.
        held = {
            **_DEFAULTS[kind],
            "originator_id": stream,
            "originator_version": version,
            "event_id": event_id,
            "effective_us": metadata.recorded_us,
            "subject_id": subjects[0] if len(subjects) == 1 else None,
            "metadata": metadata,
            **fields,
        }
        [row] = self._mapper.rows([unvalidated(kind, held)])
        return row


_UNKNOWN = Standing()
_DEFAULTS: dict[type[Event], dict[str, Any]] = {
    kind: {name: info.default for name, info in kind.model_fields.items() if not info.is_required()}
    for kind in (PersonalDataRead, CommandDenied, Exported, LogOpened, LogClosed)
}
_REASONS = {
    OUTSIDE_HOURS: "The purpose has hours, and it is outside of them.",
    WITHHELD_DENIED: "The access policy does not allow it.",
    WITHHELD_RESTRICTED: "The data is restricted: it is kept, and not used for this purpose.",
    WITHHELD_NO_CONSENT: "The purpose rests on a consent, and there is none.",
}


def _stream_of(row: NewRow) -> UUID | str:
    return uuid_from(row[0]) if isinstance(row[0], bytes) else row[0]


def _access_denied(metadata: Metadata, what: str, reason: str) -> Refused:
    return refusal(
        "access_denied",
        f"{what} for {metadata.purpose}: {_REASONS[reason]}",
        actor=metadata.actor,
        purpose=metadata.purpose,
        action=what,
        reason=reason,
    )
