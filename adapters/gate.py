"""The gate: the one place where personal data is opened. It decides, records the read, and only then releases."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from eventsourcing.persistence import IntegrityError, PersistenceError

from tallybook.domain.access import (
    DENIED,
    NO_CONSENT,
    OUTSIDE_HOURS,
    RELEASED,
    RESEALED,
    TOLD,
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
from tallybook.domain.personal import Erased, Personal, Sealed, Withheld
from tallybook.domain.policy import ALLOW, DENY, MASK, Decision, InForce, Policy, Verdict, out_of_hours

from .codec import EventMapper
from .form import unvalidated, uuid_from
from .group_commit import GroupCommit, Moved
from .keys import Keyring, NoKeys
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


class Told(NamedTuple):
    """What the log tells of subjects whose keys are destroyed: of which, and what of it was sealed anew."""

    erased: Container[tuple[UUID, int]]
    resealed: Mapping[tuple[UUID, UUID, str], Personal[Any]]
    """By subject, event and field: the newest handle on the value."""


WhatIsLeft = Callable[[ErasedKeys], tuple[tuple[UUID, ...], Container[str]]]
"""Given destroyed keys: the subjects of whom all that was asked for is erased, and the fields of which some is not."""


class Account(NamedTuple):
    """What a read that is on record may release: by which ruling, of whom nothing and why, whose keys are destroyed."""

    ruling: Ruling | None
    withheld: Mapping[UUID, str]
    erased: ErasedKeys


class Gate:
    """Opens handles for an actor with a purpose. Fails closed: no record, no value.

    `log` tells which keys are destroyed, `told` what of that was sealed anew, `policy` gives the policy and the
    roles, `standings` whose data is restricted and who consented, each as this process saw it last or (`newest`) as it
    is now; `address` where the request came from.

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
        told: Callable[[Iterable[UUID]], Told],
    ) -> None:
        self._keyring = keyring
        self._check_erased = check_erased
        self._told = told
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
        names = sorted(fields)
        if to_seal_again:
            return self._released(handles, self._resealed(metadata, action, (*subjects,), names, (*sealed,)))
        return self._released(
            handles, self._record(metadata, action, subjects, names, sealed, lambda gone: self._left(handles, gone))
        )

    def bulk(
        self, metadata: Metadata, action: str, subjects: Mapping[UUID, Set[int]], fields: Sequence[str]
    ) -> Callable[[Mapping[K, Personal[Any]]], dict[K, object]]:
        """What opens handles a part at a time, as `open` does: one record for all of it, which is made here. Of each
        of `subjects`: the ids of the keys that the handles are under.

        Refuses: access_denied.
        """
        names = frozenset(fields)

        def left(gone: ErasedKeys) -> tuple[tuple[UUID, ...], Container[str]]:
            whose = {subject for subject, _ in gone}
            touched = [one for one in subjects if one.bytes in whose]
            again = {
                (subject, newest.sealed.key_id)
                for (subject, _, _), newest in self._told(touched).resealed.items()
                if newest.sealed is not None
            }
            held = {*again, *((subject, key_id) for subject in touched for key_id in subjects[subject])}
            alive = {subject for subject, key_id in held if (subject.bytes, key_id) not in gone}
            return tuple([one for one in touched if one not in alive]), names

        account = self._record(metadata, action, subjects, fields, [one.bytes for one in subjects], left)

        def opened(handles: Mapping[K, Personal[Any]]) -> dict[K, object]:
            for handle in handles.values():
                if handle.sealed is None or handle.sealed.subject_id not in subjects or handle.known_as not in names:
                    raise TypeError("only what was recorded can be opened")
            erased = self._log.erased_keys([*{one.sealed.subject_id.bytes for one in handles.values() if one.sealed}])
            return self._released(handles, account._replace(erased=erased))

        return opened

    def _released(self, handles: Mapping[K, Personal[Any]], account: Account) -> dict[K, object]:
        """What was recorded, and decided, of handles."""
        # The log says who is erased, whatever another process did and this one still has in its cache.
        ruling, withheld, gone = account
        decision = None if ruling is None else ruling.decision
        released: dict[K, object] = {}
        allowed: dict[K, Personal[Any]] = {}
        in_part: list[K] = []
        for key, handle in handles.items():
            assert handle.sealed is not None
            subject = handle.sealed.subject_id
            effect = ALLOW if decision is None else decision.of(handle.known_as).effect
            if withheld and subject in withheld:
                released[key] = Withheld(subject, withheld[subject])
            elif effect == DENY:
                released[key] = Withheld(subject, WITHHELD_DENIED)
            else:
                allowed[key] = handle
                if effect != ALLOW:
                    in_part.append(key)
        released |= self._values(allowed, gone)
        for key in in_part:
            if not isinstance(released[key], Erased):
                released[key] = masked(handles[key].known_as, released[key])
        return released

    def _values(self, handles: Mapping[K, Personal[Any]], gone: ErasedKeys) -> dict[K, object]:
        """The values of handles. Where the key is destroyed: of what was sealed anew, if it was, else `Erased`."""
        found: dict[K, object] = {}
        pending = handles
        tried: dict[K, Sealed] = {}
        while pending:
            self._keyring.load((one.sealed.subject_id, one.sealed.key_id) for one in pending.values() if one.sealed)
            opened: dict[tuple[UUID, UUID], dict[str, object] | None] = {}
            missing: list[K] = []
            for key, handle in pending.items():
                sealed = handle.sealed
                assert sealed is not None
                blob = (sealed.subject_id, sealed.event_id)
                if blob not in opened:
                    erased = (sealed.subject_id.bytes, sealed.key_id) in gone
                    opened[blob] = None if erased else self._keyring.open(sealed)
                values = opened[blob]
                if values is None:
                    missing.append(key)
                    tried[key] = sealed
                else:
                    found[key] = values[handle.field]
            if not missing:
                break
            told = self._told(dict.fromkeys([tried[key].subject_id for key in missing]))
            pending = again = {}
            for key in missing:
                first, last = handles[key].sealed, tried[key]
                assert first is not None
                subject = last.subject_id
                if (subject.bytes, last.key_id) in gone and (subject, last.key_id) not in told.erased:
                    self._check_erased(subject, last.key_id)
                newest = told.resealed.get((subject, first.event_id, handles[key].field))
                # Once more, as long as another process seals it anew meanwhile.
                if newest is None or newest.sealed == last:
                    found[key] = Erased(subject)
                else:
                    again[key] = newest
        return found

    def _left(self, handles: Mapping[Any, Personal[Any]], gone: ErasedKeys) -> tuple[tuple[UUID, ...], Container[str]]:
        """The subjects of whom all handles are on what was erased, and the fields of which some value was not."""
        whose = {subject for subject, _ in gone}
        asked = {one.sealed.subject_id for one in handles.values() if one.sealed}
        resealed = self._told([one for one in asked if one.bytes in whose]).resealed
        alive: set[UUID] = set()
        names: set[str] = set()
        for handle in handles.values():
            first = handle.sealed
            assert first is not None
            subject, last = first.subject_id, first
            newest = resealed.get((subject, first.event_id, handle.field))
            if newest is not None and newest.sealed is not None:
                last = newest.sealed
            if (subject.bytes, last.key_id) not in gone:
                alive.add(subject)
                names.add(handle.known_as)
        return tuple([one for one in asked if one not in alive]), names

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
        left: WhatIsLeft | None = None,
    ) -> Account:
        """Record a read, released or denied. `sealed` are subjects of whom something is to be opened; `left` tells
        what there is of it, where keys of theirs are destroyed."""
        subjects, sealed = tuple(dict.fromkeys(subjects)), tuple(sealed)
        try:
            return self._recorded(metadata, action, subjects, fields, sealed, left, self._policy(newest=False))
        except Moved:
            policy = self._policy(newest=True)
            return self._recorded(metadata, action, subjects, fields, sealed, left, policy, newest=True)

    def _resealed(
        self,
        metadata: Metadata,
        action: str,
        subjects: tuple[UUID, ...],
        fields: Sequence[str],
        sealed: tuple[bytes, ...],
    ) -> Account:
        """Record that the book opens something for itself."""
        record = {"action": action, "outcome": RESEALED, "subjects": subjects, "fields": tuple(fields)}
        return Account(None, {}, self._append(PersonalDataRead, metadata, record, subjects, (), sealed))

    def _recorded(
        self,
        metadata: Metadata,
        action: str,
        subjects: tuple[UUID, ...],
        fields: Sequence[str],
        sealed: Sequence[bytes],
        left: WhatIsLeft | None,
        policy: Policy,
        *,
        newest: bool = False,
    ) -> Account:
        """The same by a policy. Raises Moved if it is not the one in force any more."""
        record: dict[str, Any] = {"action": action, "outcome": RELEASED, "subjects": subjects}
        seen = [] if newest else [(policy.id.bytes, policy.version)]
        ruling = self._ruling(policy, metadata, action)
        if ruling is None:
            record["fields"] = tuple(fields)
            return Account(None, {}, self._append(PersonalDataRead, metadata, record, subjects, seen, sealed, left))
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
        erased = self._append(PersonalDataRead, metadata, record, subjects, seen, sealed, None if denied else left)
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

    def told(
        self,
        metadata: Metadata,
        command: str,
        policy: InForce | None,
        rule: str | None,
        found: Iterable[tuple[str, UUID | None]],
    ) -> None:
        """Record what a refused command tells by the way: by which fields somebody was looked for, and who was found.

        One record for each, so that each counts as a search. No policy on reads applies: `rule` of the policy allowed
        the command. Durable when this returns; to be called before anybody gets the refusal.
        """
        more: dict[str, Any] = {}
        if policy is not None:
            purpose = decider_of(policy).purposes.get(metadata.purpose)
            more = {"policy": policy.digest, "rules": () if rule is None else (rule,)}
            more["legal_basis"] = None if purpose is None else purpose.basis
        for field, subject in found:
            subjects = () if subject is None else (subject,)
            record = {"action": command, "outcome": TOLD, "subjects": subjects, "fields": (field,), **more}
            self._append(PersonalDataRead, metadata, record, subjects)

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

    def opened(self, metadata: Metadata, release: str, *, signs: bool, surely: bool = False) -> UUID:
        """Record that a process opened the book; the stream to close it by.

        A book whose log of reads can't be written opens all the same: it can be examined, and takes commands. The
        record is tried again before the first read, which is not released without it. Not so `surely`: then an
        opening that can't be recorded is none.
        """
        run = self._new_id()
        held = {"release": release, "process": os.getpid(), "signs": signs}
        self._opening = self._row(LogOpened, metadata, held, run, 1, run)
        try:
            self._write_opening()
        except (TallybookError, PersistenceError) as error:
            if surely:
                raise
            logger.warning("That the book was opened could not be recorded yet: %s", _in_one_line(error))
        return run

    def closed(self, metadata: Metadata, run: UUID) -> None:
        """Record that it closed the book, if it is on record that it opened it."""
        if self._opening is not None:
            return
        try:
            self._group.append(self._row(LogClosed, metadata, {}, run, 2, self._new_id()))
        except (TallybookError, PersistenceError) as error:
            # Whoever looks finds no end of this run, as after a kill.
            logger.warning("That the book was closed could not be recorded: %s", _in_one_line(error))

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
        left: WhatIsLeft | None = None,
    ) -> ErasedKeys:
        if isinstance(self._keyring.store, NoKeys):
            raise self._keyring.store.missing(": no look at it can be put on record")
        if self._opening is not None:
            self._write_opening()
        event_id = self._new_id()
        fields["remote_address"] = self._address()

        def row(**more: Any) -> NewRow:
            return self._row(kind, metadata, {**fields, **more}, event_id, 1, event_id, subjects)

        def rewrite(gone: ErasedKeys) -> NewRow:
            assert left is not None
            erased, names = left(gone)
            shown = {
                how: tuple([name for name in fields.get(how, ()) if name in names]) for how in ("fields", "masked")
            }
            return row(erased=erased, **shown)

        return self._group.append(row(), seen, sealed, None if left is None else rewrite)

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


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
