"""`book.audit`: who did what, and that nothing was altered."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from tallybook.adapters import integrity, merkle, rows_check
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.checkpoints import Checkpoints, Stored
from tallybook.adapters.database import planted
from tallybook.adapters.integrity import Verification
from tallybook.adapters.key_tables import WrappedKeyStore
from tallybook.adapters.notes import NOTE_BYTES_MAX, Checkpoint, Signer, Verifier, taken_apart
from tallybook.adapters.reports import Report
from tallybook.adapters.rows_check import ReadModelVerification
from tallybook.adapters.storage import check_notes
from tallybook.domain.access import CommandDenied, PersonalDataRead
from tallybook.domain.errors import BookDamaged, BookError, NoteError, refusal, text, whole
from tallybook.domain.events import Event
from tallybook.domain.policy import PolicyHistory
from tallybook.projections.read_models import Progress
from tallybook.projections.replay import Certificate
from tallybook.projections.trail import Trail, fields_touched, outcome_of, why

from .audit_replay import AuditReplay, audit_replay
from .certificates import opened
from .commands import Desk, Work, command
from .customers import as_id
from .exports import Packed, export_pack
from .reviews import Thresholds
from .reviews import review as answer
from .subject_report import SubjectReport, subject_report
from .times import When, iso


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """One entry of the audit trail. `log` is "events" or "reads"; `position` is its place in that log.

    `outcome` is "recorded", "refused" (a redemption), "released" or "denied". `fields` were touched: set by an event;
    by a read, released as they are. `masked` and `withheld` are those of which a read gave a part, or nothing. `policy`
    is the digest of the access policy that decided about the command or read, `rules` are its rules that did; None:
    none was in force.
    """

    log: str
    position: int
    recorded_at: str
    effective_at: str
    actor: str
    on_behalf_of: str | None
    purpose: str
    channel: str | None
    action: str
    subject: UUID | None
    fields: tuple[str, ...]
    outcome: str
    why: str
    application: str | None = None
    address: str | None = None
    masked: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    policy: str | None = None
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A log's head, signed. `note` is all that a stranger needs beside the public key: size and root are in it.

    `token` is the answer of a timestamp authority (RFC 3161), if one was asked; `stamped_at` the time that it tells.
    `cosigned`: the public keys of witnesses who signed it too, each with the time that it tells.
    """

    log: str
    size: int
    root: str
    signed_at: str
    note: str
    stamped_at: str | None = None
    token: bytes | None = None
    cosigned: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Rotation:
    """From a position on, the key `new_vkey` signs in the place of `old_vkey`. `checkpoint` covers that event, and both
    keys signed it: whoever has the old key is led to the new one. None: the old key was not at hand any more."""

    position: int
    old_vkey: str
    new_vkey: str
    checkpoint: SignedCheckpoint | None


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That an event is in a log, under a checkpoint. `leaf` holds the bytes that the log commits to for the event.

    `text` is the proof in the form of C2SP's tlog-proof, for a file that ends with `.tlog-proof`.
    """

    log: str
    position: int
    size: int
    root: str
    leaf: bytes
    hashes: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Consistency:
    """That the tree of a size goes on from that of an older size: the proof of RFC 6962."""

    log: str
    old_size: int
    new_size: int
    hashes: tuple[str, ...]


def _signed(log: str, stored: Stored) -> SignedCheckpoint:
    cosigned = tuple([(one.vkey, iso(seconds * 1_000_000) or "") for one, seconds in stored.cosigned()])
    made = SignedCheckpoint(
        log, stored.size, stored.root.hex(), iso(stored.signed_us) or "", stored.note, cosigned=cosigned
    )
    if not stored.token:
        return made
    from tallybook.adapters.timestamps import said_at

    return replace(made, stamped_at=said_at(stored.token).isoformat(), token=stored.token)


def _head(checkpoints: Checkpoints, given: SignedCheckpoint) -> Checkpoint:
    """What a checkpoint's signed note says, whatever stands beside it. Raises NoteError."""
    head, _ = checkpoints.opened(given.note)
    return head


def _note_of(given: str | Path) -> str:
    """The text of a note, which may lie in a file. Raises NoteError."""
    if isinstance(given, str) and "\n" in given:
        return given
    try:
        return Path(given).read_bytes()[: NOTE_BYTES_MAX + 1].decode()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise NoteError(f"The note {given} can't be read: {said}.") from error


class AuditView(Desk):
    """Who did what, and that nothing was altered."""

    _name = "audit"
    _parts = {"_rotate": "rotate_signing_key"}  # noqa: RUF012 - as declared in Desk

    def verify(
        self, progress: Progress | None = None, *, against: str | Path | None = None, vkey: str | None = None
    ) -> list[Verification]:
        """Recompute the Merkle root of both logs from the stored bytes; compare with their heads, tiles, checkpoints.

        Whoever has the key and the database can rewrite all of these: only a checkpoint that was kept elsewhere tells.
        `against` is such a one, of either log: its text, or the path of a file. `vkey`: the public key, as you had it
        from elsewhere; it must have signed the last checkpoint of each log. Without the data keys, and without either,
        a log is compared with the key that its own database names, and `vouched` is False. Raises NoteError where
        `against` or `vkey` is none.
        """
        core = self._core
        core.check_open()
        given = None if against is None else _note_of(against)
        if vkey is not None:
            Verifier.parse(vkey)
        found: list[Verification] = []
        known = {checkpoints.name for checkpoints in core.checkpoints.values()}
        for log, checkpoints in core.checkpoints.items():
            head: Checkpoint | None = None
            refused: str | None = None
            if given is not None:
                try:
                    claimed = Checkpoint.parse(taken_apart(given)[0])
                except NoteError as error:
                    what = str(against) if "\n" not in str(against) else "that was given"
                    raise NoteError(f"The checkpoint {what} can't be read: {error}") from None
                if claimed.origin == checkpoints.name or (log == "events" and claimed.origin not in known):
                    try:
                        head, _ = checkpoints.opened(given)
                    except NoteError as error:
                        refused = f"the checkpoint that was given does not fit this book: {error}"
            kept = checkpoints if core.storage.vkey is not None else None
            shown = progress if log == "events" else None
            one = integrity.verify(log, checkpoints.log, shown, checkpoints=kept, against=head, events=core.app.log)
            if log == "reads" and kept is not None and one.problem is None:
                one = replace(one, unsigned_openings=len(integrity.unsigned_openings(checkpoints.log)))
            if log == "events" and one.problem is None and (told := self._in_keys()) is not None:
                one = replace(one, problem=told)
            refused = refused or self._of_another(checkpoints, vkey)
            if core.storage.keyless:
                last = checkpoints.last()
                vouched = vkey is not None or (head is not None and last is not None and head.size >= last.size)
                unchecked = integrity.WITHOUT_KEYS if log == "events" else ()
                one = replace(
                    one, unchecked=unchecked if vouched else (*unchecked, integrity.BY_ITS_OWN_KEY), vouched=vouched
                )
            found.append(one if refused is None or one.problem is not None else replace(one, problem=refused))
        return found

    def _in_keys(self) -> str | None:
        """What acts by itself in the store of the keys, where the book can tell."""
        keys = self._core.storage.keys
        found = planted(keys.database) if isinstance(keys, WrappedKeyStore) else None
        return None if found is None else f"there is a {found} in the store of its keys, which the book never made"

    def _of_another(self, checkpoints: Checkpoints, vkey: str | None) -> str | None:
        """What tells that a log is not the one whose public key was given, or that the book's notes were altered."""
        storage = self._core.storage
        try:
            if vkey is not None:
                checkpoints.must_bear(vkey)
            if not storage.keyless and checkpoints.log is self._core.app.log:
                check_notes(storage.events, storage.keys.lookup_key)
        except BookDamaged as error:
            return error.message
        except NoteError as error:
            return str(error)
        return None

    def verify_read_models(self, progress: Progress | None = None) -> list[ReadModelVerification]:
        """Fold each read model anew from the log, and compare that row by row with what it holds, as of one position.

        The log itself is what `verify` looks at. Writers go on, and the book is not written to: the rows are folded in
        the system's folder for temporary files. One that is paused, failed or behind is compared as of where it stands;
        one that is new or retired has no rows.
        """
        core = self._core
        core.check_open()
        with rarely_collecting():
            return rows_check.verify_rows(core.projector, core.store, core.app, core.operations, progress)

    def rebuild_tiles(self) -> None:
        """Make the tiles of both logs anew from their rows. For a book in which `verify` found wrong ones.

        Refuses: busy.
        """
        self._core.check_open()
        for checkpoints in self._core.checkpoints.values():
            checkpoints.tiles.rebuild()

    # ── the Merkle log ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def vkey(self) -> str:
        """The public key that signs the checkpoints of the log of events now, as a text: give it to whoever verifies.

        The log of reads is signed by the same key, under the name `…/reads`. Raises BookError in an unsigned book.
        """
        self._core.check_open()
        return self._core.signed_by().now

    def vkeys(self) -> list[str]:
        """All public keys that the book ever signed with, in their order."""
        self._core.check_open()
        return list(self._core.signed_by().vkeys)

    def checkpoint(self, log: str = "events") -> SignedCheckpoint:
        """Sign the head of a log ("events" or "reads") as it is now, with the time, and keep that.

        Keep it elsewhere too: whoever holds it can prove later that the log was not rewritten (see `verify`). Nothing
        is signed that does not go on from the last checkpoint. Raises BookDamaged, BookError.
        Refuses: invalid_argument.
        """
        checkpoints = self._checkpoints(log)
        return _signed(log, checkpoints.sign())

    def checkpoints(self, log: str = "events") -> Iterator[SignedCheckpoint]:
        """The checkpoints that are kept of a log, by size and time. Refuses: invalid_argument."""
        checkpoints = self._checkpoints(log)
        return (_signed(log, one) for one in checkpoints.stored())

    def timestamp(self, checkpoint: SignedCheckpoint, url: str, *, timeout_s: float = 30) -> SignedCheckpoint:
        """Have a timestamp authority (RFC 3161) at a URL sign when it saw a checkpoint, and keep its answer with it.

        Only the hash of the note is sent. Needs the extra `timestamp`. Raises BookError, MissingExtra.
        """
        from tallybook.adapters.timestamps import stamped

        self._core.check_open()
        checkpoints = self._checkpoints(checkpoint.log)
        head = _head(checkpoints, checkpoint)
        token = stamped(checkpoint.note, url, timeout_s=timeout_s)
        for stored in checkpoints.genuine(head.size - 1):
            if stored.note == checkpoint.note:
                checkpoints.keep_token(stored, token)
                return _signed(checkpoint.log, stored._replace(token=token))
        raise refusal("invalid_argument", "The checkpoint is not one that is kept.", argument="checkpoint")

    def keep(self, cosigned: str | Path, witness: str) -> SignedCheckpoint:
        """Keep a checkpoint of either log that a witness has cosigned (C2SP's tlog-cosignature), beside the others.

        `cosigned` is the signed note with the witness's line added, or the path of its file; `witness` the witness's
        public key, which you had from the witness. `verify` tells of it from then on, and packs hold it. Raises
        NoteError where log or witness did not sign it, BookDamaged where the log does not lead through it.
        """
        core = self._core
        core.check_open()
        note = _note_of(cosigned)
        origin = Checkpoint.parse(taken_apart(note)[0]).origin
        for log, checkpoints in core.checkpoints.items():
            if origin == checkpoints.name:
                return _signed(log, checkpoints.keep_cosigned(note, witness))
        raise NoteError(f"This is a checkpoint of {origin}, and no log of this book.")

    def check_certificate(self, certificate: str | Path, *, vkey: str | None = None) -> Certificate:
        """A signed certificate (`book.replay(sign=True)`), held against the keys of this book, or one public key that
        you kept: what it says is what was signed, up to a checkpoint that is signed, too.

        `certificate` is the signed note, or the path of its file. Whether the log still leads through that checkpoint
        is for `verify(against=…)` to say. Raises NoteError for any other; BookError in an unsigned book.
        """
        self._core.check_open()
        return opened(_note_of(certificate), self.vkeys() if vkey is None else [vkey])

    def proof(self, position: int, *, log: str = "events", checkpoint: SignedCheckpoint | None = None) -> Inclusion:
        """That the event at a position is in the log: what a stranger needs beside the event's leaf and the public key.

        `checkpoint`: of which (default: the newest that covers the position; one is signed if there is none).
        Raises BookDamaged where the log's bytes are not what was signed. Refuses: invalid_argument, also for a record
        of a read that was pruned.
        """
        checkpoints = self._checkpoints(log)
        pruned = checkpoints.log.pruned().position
        whole(position, "position", pruned + 1, max(pruned + 1, checkpoints.log.position()))
        if checkpoint is None:
            last = checkpoints.last()
            stored = checkpoints.sign() if last is None or last.size < position else last
        else:
            head = _head(checkpoints, checkpoint)
            whole(head.size, "checkpoint", position, checkpoints.log.position())
            stored = Stored(head.size, 0, head.root, checkpoint.note)
        found = checkpoints.proof(position, stored)
        [row] = checkpoints.log.rows_at([position])
        return Inclusion(
            log,
            position,
            stored.size,
            stored.root.hex(),
            merkle.leaf(self._core.origin, *row),
            tuple(one.hex() for one in found.hashes),
            found.text,
        )

    def consistency(self, old: SignedCheckpoint, new: SignedCheckpoint) -> Consistency:
        """That a log's later checkpoint goes on from an earlier one. Raises BookDamaged. Refuses: invalid_argument."""
        self._core.check_open()
        checkpoints = self._checkpoints(old.log)
        first, second = _head(checkpoints, old), _head(checkpoints, new)
        whole(second.size, "new", first.size, checkpoints.log.position())
        hashes = checkpoints.consistency(first, second)
        return Consistency(old.log, first.size, second.size, tuple(one.hex() for one in hashes))

    def rotations(self) -> list[Rotation]:
        """Each change of the key that signs, in order, with the checkpoint that the old and the new key both signed."""
        self._core.check_open()
        return [
            Rotation(one.position, one.old, one.new, None if one.both is None else _signed("events", one.both))
            for one in self._checkpoints("events").rotations()
        ]

    def rotate_signing_key(self, *, command_id: str | None = None) -> str:
        """Have another key sign the checkpoints from now on; the new public key. The first checkpoint of each
        log after it bears both signatures, where the old key is at hand: `rotations` leads from the old key to the new.

        The new key is put into the key's file, and the old one is taken out at the end. Where the key comes from the
        environment, put the new one before the old one there first, and take the old one out afterwards.
        Raises BookError and SigningKeyMissing. Refuses: acting_required.
        """
        core = self._core
        core.check_open()
        if core.storage.signing is None:
            raise BookError("The book was opened without a signing key.", path=core.storage.url)
        vkey = self._rotate(command_id=command_id)
        core.finish_rotation()
        return vkey

    @command
    def _rotate(self, work: Work, *, effective_at: When | None = None, command_id: str | None = None) -> str:
        core = self._core
        keys = core.storage.signing
        assert keys is not None
        history = core.signed_by()
        present = keys.signer(history.now)
        # One that a rotation left which was cut short before its event is taken, else a new one is made.
        waiting = [one for one in keys.signers(newest=True) if one.vkey not in history.vkeys]
        if waiting:
            new = waiting[0]
        elif keys.writable:
            new = Signer.new(core.origin)
            keys.put(new, present)
        else:
            raise BookError(
                f"{keys.place} holds no key but the present one.",
                path=keys.place,
                remedy="Put a new key before the present one, with a space between them, and open the book again. "
                "`tallybook audit new-key` prints one.",
            )
        work.signing().rotate(work.stamp, history.now, new.vkey)
        return new.vkey

    def _checkpoints(self, log: str) -> Checkpoints:
        self._core.check_open()
        found = self._core.checkpoints.get(log)
        if found is None:
            raise refusal("invalid_argument", 'log: "events" or "reads" is wanted.', argument="log")
        return found

    def export(
        self,
        folder: Path | str,
        *,
        sealed: bool = True,
        after: int = 0,
        until: int | None = None,
        progress: Progress | None = None,
    ) -> Packed:
        """Write an auditor's pack into a folder that is new or empty: both logs as C2SP tlog-tiles with their signed
        checkpoints, events as JSON lines, rule sets and policies, a verifier and a guide (docs/auditors-guide.md).

        Personal fields stay `sealed`; otherwise they are opened, as one recorded bulk read. `after`, `until`: only the
        events after a position, and up to one; tiles are always all, and bundles of entries whole (256 events). The
        folder is whole under its name, or not there. The export is recorded; not so in a book that is open without its
        data keys, whose pack goes as far as the last checkpoints that are kept. Raises BookError and its kinds.
        Refuses: acting_required, invalid_argument.
        """
        return export_pack(self._core, folder, sealed=sealed, after=after, until=until, progress=progress)

    def trail(
        self, subject: UUID | str | None = None, *, actor: str | None = None, limit: int | None = None
    ) -> list[TrailEntry]:
        """Events and reads about a subject (default: all), by an actor (default: any), in order of recording.

        Of no subject, also denied commands, exports, and when the book was opened and closed. Where records of reads
        were pruned, the last sweep that did it is among the entries, whoever was asked for. Personal fields are named,
        never opened. Looking at the trail is itself recorded as a read. Refuses: acting_required, access_denied,
        invalid_argument.
        """
        core = self._core
        core.check_open()
        acting = core.acting_now()
        core.catch_up(core.trail)
        subject_id = None if subject is None else as_id(subject, "subject")
        if limit is not None:
            whole(limit, "limit")
        conditions, params = ["1=1"], list[Any]()
        if subject_id is not None:
            conditions.append("subject=?")
            params.append(subject_id.bytes)
        if actor is not None:
            conditions.append("actor=?")
            params.append(text(actor, "actor"))
        core.gate.record(core.gate_metadata(acting), "audit.trail", [] if subject_id is None else [subject_id], [])
        where = " AND ".join(conditions) + " ORDER BY position"
        found = core.store.select(core.trail, Trail.table, ["position"], where, params)
        # What is about two subjects has two rows.
        positions = list(dict.fromkeys(position for (position,) in found))
        pruned = core.reads_pruned()
        if pruned is not None and pruned.position not in positions:
            positions = sorted([*positions, pruned.position])  # whatever is asked for: it says what can't be told
        wanted = positions if limit is None else positions[-limit:]
        policies = core.policies()
        entries = [
            (
                event.metadata.recorded_us,
                _entry(position, event, subject_id if event.subject_id else None, policies),
            )
            for position, event in core.at_positions(wanted)
        ]
        reads: list[tuple[int, TrailEntry]] = []
        for position, event in core.reads():
            about = subject_id is None or (isinstance(event, PersonalDataRead) and subject_id in event.subjects)
            if about and (actor is None or event.metadata.actor == actor):
                reads.append((event.metadata.recorded_us, _read_entry(position, event, subject_id)))
        # Each log keeps its own order, whatever the clock did.
        merged = [entry for _, entry in heapq.merge(entries, reads, key=lambda pair: pair[0])]
        return merged if limit is None else merged[-limit:]

    def review(
        self,
        name: str,
        *,
        subject: UUID | str | None = None,
        actor: str | None = None,
        since: When | None = None,
        until: When | None = None,
        at: When | None = None,
        thresholds: Thresholds | None = None,
    ) -> Report:
        """One of the reviews: a report of tables, with its forms `json()`, `html()`, `csv(FOLDER)`.

        subject-access and portable-copy (of a `subject`), corrections, erasure-evidence, restrictions,
        processing-records, exposure (of an `actor`), consent-at, compliance-audit, access-review, retention: see
        docs/reviews.md. `since` and `until` bound what was recorded; `at` is the moment of consent-at and retention.
        One recorded read.
        Refuses: invalid_argument, naive_time, acting_required, access_denied, unknown_customer.
        """
        return answer(
            self._core,
            name,
            subject=subject,
            actor=actor,
            since=since,
            until=until,
            at=at,
            thresholds=thresholds,
        )

    def subject_report(self, customer: UUID | str) -> SubjectReport:
        """All that the book holds about a customer, by topic and field by field: `json()`, `html()`, `portable()`.

        For access (GDPR 15, PIPL 45) and portability (GDPR 20): values with category and source, consents, decisions
        with their rules and inputs, retention, who looked at the data and why. One recorded read.
        Refuses: acting_required, unknown_customer, invalid_argument.
        """
        core = self._core
        core.check_open()
        core.acting_now()
        return subject_report(core, as_id(customer, "customer"))

    def replay(
        self,
        subject: UUID | str,
        at: When,
        *,
        known_at: When | int | None = None,
        sealed: bool = False,
        proofs: bool = False,
    ) -> AuditReplay:
        """How the book stood about a subject at a moment of the world, as it knew it (`known_at`), and why.

        State, consents, access policy and rule sets in force, who could see what and who saw what, each decision with
        its facts, rule and arithmetic, derived again and compared. One recorded read (`audit.replay`). `sealed` opens
        no personal value. `proofs` adds an inclusion proof of each event and read. With the position of `known_at`, the
        document is the same whenever it is asked for, but for what was erased meanwhile. `at` must be over.
        Refuses: acting_required, access_denied, unknown_customer, naive_time, invalid_argument. Raises MissingExtra.
        """
        core = self._core
        core.check_open()
        return audit_replay(core, as_id(subject, "subject"), at, known_at, sealed=sealed, proofs=proofs)


def _entry(position: int, event: Event, subject: UUID | None, policies: PolicyHistory) -> TrailEntry:
    metadata = event.metadata
    return TrailEntry(
        "events",
        position,
        iso(metadata.recorded_us) or "",
        iso(event.effective_us) or "",
        metadata.actor,
        metadata.on_behalf_of,
        metadata.purpose,
        metadata.channel,
        event.stored_name,
        subject or event.subject_id,
        tuple(fields_touched(event)),
        outcome_of(event),
        why(event),
        metadata.application,
        policy=policies.behind(position, event),
        rules=() if metadata.rule is None else (metadata.rule,),
    )


def _read_entry(position: int, event: Event, subject: UUID | None) -> TrailEntry:
    """An entry of the log of reads."""
    metadata = event.metadata
    action, outcome, why = event.stored_name, "recorded", metadata.purpose
    fields: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    policy: str | None = None
    rules: tuple[str, ...] = ()
    if isinstance(event, PersonalDataRead):
        action, outcome, policy, rules = f"read:{event.action}", event.outcome, event.policy, event.rules
        fields, masked, withheld = event.fields, event.masked, event.withheld
    elif isinstance(event, CommandDenied):
        action, outcome, policy, rules = f"command:{event.command}", "denied", event.policy, event.rules
    if isinstance(event, (PersonalDataRead, CommandDenied)) and event.policy is not None:
        why = f"policy rule {', '.join(event.rules)}" if event.rules else "no policy rule allows it"
    return TrailEntry(
        "reads",
        position,
        iso(metadata.recorded_us) or "",
        iso(event.effective_us) or "",
        metadata.actor,
        metadata.on_behalf_of,
        metadata.purpose,
        metadata.channel,
        action,
        subject or event.subject_id,
        fields,
        outcome,
        why,
        metadata.application,
        getattr(event, "remote_address", None),
        masked,
        withheld,
        policy,
        rules,
    )


__all__ = ["AuditView", "Consistency", "Inclusion", "Rotation", "SignedCheckpoint", "TrailEntry", "Verification"]
