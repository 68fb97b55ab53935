"""`book.erasures`: a subject's key is destroyed, the look-ups go, and a receipt says so."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from uuid import UUID

from tallybook.adapters.database import damaged
from tallybook.adapters.form import known_uuid, uuid_from
from tallybook.domain.access import KEEPING
from tallybook.domain.customer import Customer, KeyCreated
from tallybook.domain.erasure import (
    KEPT_KEY,
    SubjectErased,
    check_erasable,
    erase,
    erase_kept,
    erase_values,
    held_of,
    keep,
)
from tallybook.domain.errors import BookError, Refused, refusal
from tallybook.domain.events import Metadata
from tallybook.domain.personal import Erased
from tallybook.domain.retention import Action, Held, Kept, activity_of, kept

from .commands import Desk, Work, awaitable, command
from .core import Acting, Core
from .customers import as_id
from .sealing import SealingDesk
from .times import When, iso

logger = logging.getLogger("tallybook.erasures")

RESTORED = "restored"
"""Why something is erased again: a log was put back that knows nothing of it."""


def opened_again(core: Core, work: Work, subject: UUID, values: Sequence[Held]) -> tuple[list[Held], list[str]]:
    """Values of a subject that are to be sealed anew, opened in one recorded read; those that still can be opened."""
    if not values:
        return [], []
    handles = {place: getattr(value.event, value.field) for place, value in enumerate(values)}
    found = core.gate.open(core.gate_metadata(work.metadata), KEEPING, handles, [subject], to_seal_again=True)
    # In a log that was put back from before an erasure, the key is destroyed already.
    there = [place for place in handles if not isinstance(found[place], Erased)]
    return [values[place] for place in there], [str(found[place]) for place in there]


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What shows that a subject was erased. `proof` can be checked by anybody who has the log's verifier key.

    `commitments`: of each destroyed key, by its id, what the log holds of it (hex). `kept` records stay sealed under a
    key of their own until `kept_until`. `done` says what was destroyed or cleared, and where. `leaf` holds the
    bytes that the log commits to for the event at `position` (base64), `proof` is a C2SP tlog-proof of it, with the
    checkpoint that it leads to; None in a book that signs nothing. As JSON, the receipt is checked by the `verify.py`
    of an auditor's pack.
    """

    origin: str
    subject: UUID
    position: int
    event_id: UUID
    erased_at: str
    recorded_at: str
    actor: str
    reason: str
    request_id: UUID | None
    commitments: Mapping[int, str]
    lookups: int
    kept: int
    kept_until: str | None
    done: Mapping[str, str]
    leaf: str
    proof: str | None


class ErasureDesk(Desk):
    """Erasing what is personal, and showing that it is gone. What was decided from coarse data stays."""

    _name = "erasures"
    _parts = {"_record": "erase", "_record_kept": "erase_kept", "_record_lost": "erase"}  # noqa: RUF012 - as declared in Desk

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._sealing = SealingDesk(core)

    @awaitable
    def erase(
        self,
        customer: UUID | str,
        *,
        reason: str,
        request_id: UUID | str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> ErasureReceipt:
        """Erase a customer: destroy the data key, so that no personal value can be opened again, by anybody.

        The log, its proofs, points, tiers and SLA figures stay as they are; reading gives `Erased`. What a retention
        schedule demands to keep is sealed anew under a key of its own, and erased when its time is over. `reason` is a
        code (`gdpr-17`), written in the clear. Of a customer who was erased before, the work is finished where it was
        cut short, and the receipt given again. Refuses: acting_required, unknown_customer, invalid_argument.
        """
        core = self._core
        core.check_open()
        core.acting_now()
        customer_id = as_id(customer, "customer")
        if not core.app.load(Customer, customer_id).erased:
            try:
                self._record(
                    customer_id,
                    reason=reason,
                    request_id=None if request_id is None else as_id(request_id, "request_id"),
                    effective_at=effective_at,
                    command_id=command_id,
                )
            except Refused as refused:
                if refused.code != "customer_erased":  # by somebody else, meanwhile
                    raise
        return self._completed(customer_id)

    @command
    def _record(
        self,
        work: Work,
        customer: UUID,
        *,
        reason: str,
        request_id: UUID | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        draft = work.new_customer(customer)
        check_erasable(draft)
        lookups = self._core.app.log.claims_of([draft.id.bytes, *(purchase.bytes for purchase in draft.purchases)])
        for claim in lookups:
            work.release(claim)
        held = self._keep(work, draft)
        event = erase(
            draft,
            work.stamp,
            reason,
            key_ids=self._core.keyring.left_over(draft.id, draft.ordinary_key),
            lookups=len(lookups),
            kept=len(held),
            kept_until_us=max((why.until_us or 0 for *_, why in held), default=None),
            request_id=request_id,
        )
        work.erase(draft.id, event.key_ids)
        return event.event_id

    def _keep(self, work: Work, customer: Customer) -> list[tuple[Held, Kept]]:
        """Seal anew, under a key of its own, what retention schedules demand to keep; what that is."""
        schedules = work.retention().schedules
        if not any(one.action == Action.KEEP for one in schedules):
            return []
        history = work.history_of(customer.id)
        # An erasure ends the relation, if nothing ended it before.
        at_us = work.stamp.effective_us
        when = activity_of(event for _, event in history)
        when = when if when.ended_us is not None else when._replace(ended_us=at_us)
        demanded = {
            value.place: (value, why)
            for value in held_of(customer.id, history, customer.erased_keys)
            if (why := kept(schedules, value, when, at_us)) is not None
        }
        values, texts = opened_again(self._core, work, customer.id, [value for value, _ in demanded.values()])
        held = [demanded[value.place] for value in values]
        if held:
            key_id, commitment = work.key_for(customer, KEPT_KEY)
            assert key_id == KEPT_KEY
            keep(customer, work.stamp, held, texts, commitment=commitment)
        return held

    @awaitable
    def erase_kept(self, customer: UUID | str, *, reason: str = "retention-over") -> ErasureReceipt:
        """Erase what an erasure kept, once no schedule demands it any more.

        Refuses: acting_required, not_erased, still_kept.
        """
        core = self._core
        core.check_open()
        core.acting_now()
        customer_id = as_id(customer, "customer")
        self._record_kept(customer_id, reason=reason)
        return self._completed(customer_id)

    @command
    def _record_kept(
        self,
        work: Work,
        customer: UUID,
        *,
        reason: str,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        draft = work.new_customer(customer)
        if not draft.erased:
            raise refusal("not_erased", "The customer was not erased.", customer=customer)
        event = erase_kept(draft, work.stamp, reason)
        if event is not None:
            work.erase(draft.id, event.key_ids)

    def receipt(self, customer: UUID | str) -> ErasureReceipt:
        """The receipt of a customer who was erased, with a proof under a checkpoint of now.

        Refuses: not_erased.
        """
        self._core.check_open()
        return self._completed(as_id(customer, "customer"))

    def follow(self) -> None:
        """Destroy the keys of all whom the log says to be erased, if the key store has not followed it that far.

        After an erasure, after one that was cut short, and after a key store was put back from a copy of before. Where
        bytes of what was deleted stay, the wrapping key is rotated too: they are worth nothing then. No key is
        destroyed for a row of the table alone: the subject's own stream has to tell. Raises BookDamaged.
        """
        core = self._core
        keys = core.storage.keys
        rows = core.app.log.erasures(keys.erased_up_to())
        if not rows:
            return
        for subject, key_id, position in rows:
            core.check_erased(uuid_from(subject), key_id)
            if not core.app.log.log_rows(position - 1, 1):
                raise damaged(f"The table erased names position {position}, beyond the log", core.app.database.place)
        for position, of_commit in groupby(rows, key=itemgetter(2)):
            core.keyring.destroy([(uuid_from(subject), key_id) for subject, key_id, _ in of_commit], position)
        if not keys.overwrites:
            with core.acting(Acting(Metadata(recorded_us=0, actor="system:erasure", purpose="erasure"), by_book=True)):
                self._sealing.rotate()
        keys.set_erased_up_to(rows[-1][2])

    def repeat(self) -> list[UUID]:
        """Erase again whom the key store has destroyed keys of, and a log that was put back from before knows nothing.

        `tallybook.open` does it. Without the keys nothing could be read of them, but their look-ups are back.
        """
        core = self._core
        log, keys = core.app.log, core.storage.keys
        followed = keys.erased_up_to()
        if not followed or log.log_rows(followed - 1, 1):
            return []  # the log reaches as far as the keys have followed it
        whole, partly = self._lost()
        position = log.position()
        with core.acting(Acting(Metadata(recorded_us=0, actor="system:restore", purpose="erasure"), by_book=True)):
            for customer_id in whole:
                try:
                    self._record(customer_id, reason=RESTORED)
                except Refused as refused:
                    if refused.code != "customer_erased":  # by another process that opens the book at once
                        raise
            for customer_id, key_id in partly:
                self._record_lost(customer_id, key_id)
        # No further: what others erase meanwhile is still to be followed.
        keys.set_erased_up_to(position)
        self.follow()
        if whole:
            logger.warning(
                "The log of %s was put back from before the erasure of %d customers: they were erased again.",
                core.storage.url,
                len(whole),
            )
        if partly:
            logger.warning(
                "The log of %s was put back from before single values of %d customers were erased, and the rest sealed "
                "under other keys: none of the values that it holds of them can be opened. With the keys of the same "
                "time, they can.",
                core.storage.url,
                len(partly),
            )
        return whole

    def _lost(self) -> tuple[list[UUID], list[tuple[UUID, int]]]:
        """Of whom the key store destroyed the ordinary key, and the log knows nothing of it: those who were erased, and
        those of whom single values were (a later key is there), each with the key that the log has for them.
        """
        core = self._core
        keys, log = core.storage.keys, core.app.log
        whole: list[UUID] = []
        partly: list[tuple[UUID, int]] = []
        made = ((one.event.originator_id, one.event) for one in core.history([KeyCreated.stored_name]))
        names = ((stream, event.key_id) for stream, event in made if isinstance(event, KeyCreated))
        while some := [name for name in islice(names, 1000) if name[1] != KEPT_KEY]:
            known = log.erased_keys([subject.bytes for subject, _ in some])
            for subject, key_id in keys.destroyed(some):
                if (subject.bytes, key_id) not in known:
                    if core.keyring.left_over(subject, key_id):
                        partly.append((subject, key_id))
                    else:
                        whole.append(subject)
        return whole, partly

    @command
    def _record_lost(
        self,
        work: Work,
        customer: UUID,
        key_id: int,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Record that values of a customer are lost with the log that told of their other key: what is new is sealed
        under a key that is there. Which of them were due nobody knows any more."""
        draft = work.customer(customer)
        if draft.ordinary_key != key_id or draft.erased:
            return  # another process that opens the book at once was faster
        lost = list(held_of(customer, work.history_of(customer), draft.erased_keys))
        next_id, commitment = work.next_key_for(draft)
        event = erase_values(
            draft,
            work.stamp,
            RESTORED,
            schedules=(),
            erased=lost,
            stays=(),
            texts=(),
            key_id=next_id,
            commitment=commitment,
        )
        work.erase(draft.id, event.key_ids)

    def all(self) -> list[UUID]:
        """All customers who were erased, in the order of their erasures."""
        core = self._core
        core.check_open()
        told = core.app.scan(SubjectErased, ["subject_id"])
        return list(dict.fromkeys(known_uuid(subject) for _, (subject,) in told))

    def finish(self, what: str) -> dict[str, str]:
        """Destroy the keys that the log says to be erased, and clear what follows it; what was done, by place.

        Raises BookError, where that can't be done yet: it stands, and is done later.
        """
        try:
            self.follow()
        except Refused as busy:  # whose own words would be that nothing happened
            raise BookError(
                f"{what} is recorded, and every read gives `Erased`; the key could not be destroyed yet: "
                f"{busy.message}",
                path=self._core.storage.url,
                remedy="Repeat it, or open the book again: it goes on from there.",
            ) from busy
        return self._core.clear_after_erasure()

    def _completed(self, customer_id: UUID) -> ErasureReceipt:
        core = self._core
        found = [one for one in core.stream(customer_id) if isinstance(one.event, SubjectErased)]
        if not found:
            raise refusal("not_erased", "The customer was not erased.", customer=customer_id)
        done = self.finish(f"The erasure of {customer_id}")
        position, event = found[0]
        last = found[-1].event
        assert isinstance(event, SubjectErased)
        assert isinstance(last, SubjectErased)
        customer = core.app.load(Customer, customer_id)
        return ErasureReceipt(
            core.origin,
            customer_id,
            position,
            event.event_id,
            iso(event.effective_us) or "",
            iso(event.metadata.recorded_us) or "",
            event.metadata.actor,
            event.reason,
            event.request_id,
            {
                key_id: customer.commitments[key_id].hex()
                for key_id in customer.erased_keys
                if key_id in customer.commitments
            },
            event.lookups,
            event.kept,
            iso(event.kept_until_us),
            done,
            *core.proof_of(position),
        )
