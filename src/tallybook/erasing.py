"""How an erasure is carried out: recorded, followed by the key store, finished after what cut it short."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

from tallybook.adapters.database import damaged
from tallybook.adapters.form import uuid_from
from tallybook.adapters.keys import KeyName
from tallybook.domain.access import KEEPING
from tallybook.domain.customer import Customer, KeyCreated
from tallybook.domain.erasure import (
    DESTROYING,
    KEPT_KEY,
    ValuesErased,
    check_erasure,
    check_repeated,
    erase,
    erase_kept,
    erase_values,
    held_of,
    keep,
    still_kept,
)
from tallybook.domain.errors import BookClosed, BookDamaged, BookError, Refused, refusal
from tallybook.domain.events import Metadata
from tallybook.domain.personal import Erased
from tallybook.domain.retention import Action, Held, Kept, activity_until, kept

from .commands import Desk, Work, command
from .core import Acting, Core
from .sealing import SealingDesk
from .times import When

ACTS = Acting(Metadata(recorded_us=0, actor="system:erasure", purpose="erasure"), by_book=True)
KEYS = "keys"
"""What `Completed` and receipts call the wrapping key that could not be rotated."""

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


class Completed(NamedTuple):
    """What was done beyond the keys, by place; what is unfinished; and why the wrapping key could not be rotated."""

    done: Mapping[str, str]
    unfinished: tuple[str, ...]
    why: str | None


class Erasing(Desk):
    """Recording erasures, and following them. Not part of the public API: see `ErasureDesk`."""

    _name = "erasures"
    _parts = {"_record": "erase", "_record_kept": "erase_kept", "_record_lost": "erase"}  # noqa: RUF012 - as declared in Desk

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._sealing = SealingDesk(core)

    def record(
        self,
        customer_id: UUID,
        *,
        reason: str,
        request_id: UUID | None = None,
        even_so: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """The first half of `erase`, for those who erase many: `complete` is due after the last of them.

        Of a customer who was erased before, it sees that what is given could be so, and records nothing.
        """
        try:
            self._record(
                customer_id,
                reason=reason,
                request_id=request_id,
                even_so=even_so,
                effective_at=effective_at,
                command_id=command_id,
            )
        except Refused as refused:
            if refused.code != "customer_erased":  # by somebody else, meanwhile
                raise

    @command
    def _record(
        self,
        work: Work,
        customer: UUID,
        *,
        reason: str,
        request_id: UUID | None = None,
        even_so: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID | None:
        draft = work.new_customer(customer)
        if draft.erased:
            check_repeated(draft, work.stamp, reason, request_id, even_so)
            return None
        check_erasure(draft, work.stamp, request_id, even_so)
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
            even_so=even_so,
        )
        work.erase(draft.id, event.key_ids)
        return event.event_id

    def _keep(self, work: Work, customer: Customer) -> list[tuple[Held, Kept]]:
        """Seal anew, under a key of its own, what retention schedules demand to keep; what that is."""
        schedules = work.retention().schedules
        if not any(one.action == Action.KEEP for one in schedules):
            return []
        history = work.history_of(customer.id)
        at_us = work.stamp.effective_us
        when = activity_until((event for _, event in history), at_us)
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

    def record_kept(self, customer_id: UUID, *, reason: str = "retention-over") -> None:
        """The first half of `erase_kept`, for those who erase many."""
        self._record_kept(customer_id, reason=reason)

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
        history = work.history_of(customer)
        why = still_kept(work.retention().schedules, history, work.stamp.effective_us)
        event = erase_kept(draft, work.stamp, reason, why)
        if event is not None:
            work.erase(draft.id, event.key_ids)

    def follow(self, *subjects: UUID, everything: bool = False) -> str | None:
        """Destroy the keys of all whom the log says to be erased, if the key store has not followed it that far, and
        the wrapping key that copies of the store need; once for all of them. Of `subjects`, and with `everything` of
        all, that is seen to, whatever the store notes of how far it has followed.

        After an erasure, after one that was cut short, and after a key store was put back from a copy of before. Where
        the wrapping key can't be rotated, that stops nothing: the reason is given. Raises BookDamaged.
        """
        self.destroy(everything=everything)
        for one in subjects:
            self.see_destroyed(one)
        core = self._core
        try:
            if core.storage.keys.outlived():
                with core.acting(ACTS):
                    self._sealing.rotate()
        except BookClosed:
            raise
        except (BookError, Refused) as error:
            logger.warning(
                "Keys of %s were destroyed, and the wrapping key could not be rotated: copies of the keys from before "
                "open with it. %s",
                core.storage.url,
                error.message,
            )
            return error.message
        return None

    def destroy(self, *, everything: bool = False) -> None:
        """The first half of `follow`: the keys, and no rotation.

        No key is destroyed for a row of the table alone: the head's digest has to prove it, and the subject's own
        stream to tell of it. Raises BookDamaged.
        """
        core = self._core
        keys = core.storage.keys
        followed = keys.erased_up_to()
        # A note that is ahead of the log, which was not put back, is nobody's but somebody's who altered it.
        rows = core.app.log.erasures(0 if everything or followed > core.app.position() else followed)
        if not rows:
            return
        names = [(uuid_from(subject), key_id) for subject, key_id, _ in rows]
        left = self._left(names)
        for subject, key_id, position in rows:
            name = (uuid_from(subject), key_id)
            if name in left:
                core.check_erased(*name)
            if not core.app.log.log_rows(position - 1, 1):
                raise damaged(f"The table erased names position {position}, beyond the log", core.app.database.place)
        for position, of_commit in groupby(rows, key=itemgetter(2)):
            due = [(uuid_from(subject), key_id) for subject, key_id, _ in of_commit]
            core.keyring.forget(due)
            if due := [name for name in due if name in left]:
                core.keyring.destroy(due, position)
        keys.set_erased_up_to(rows[-1][2])

    def _left(self, names: Sequence[KeyName]) -> set[KeyName]:
        """Of keys that are to be destroyed, those that are not: a tombstone holds no key."""
        return set(names) - self._core.storage.keys.destroyed(names).keys()

    def see_destroyed(self, subject: UUID) -> None:
        """See that the keys of a subject are destroyed which the log says to be, whatever the notes of the key store
        say of how far it has followed. Raises BookDamaged."""
        core = self._core
        told = [(subject, key_id) for _, key_id in core.app.log.erased_keys([subject.bytes])]
        if sorted(key_id for _, key_id in told) != sorted(core.app.load(Customer, subject).erased_keys):
            raise damaged(f"The table erased and the log differ about {subject}", core.app.database.place)
        if left := self._left(told):
            core.keyring.destroy(left, core.app.position())
        core.keyring.check_destroyed(told)

    def make_table_anew(self) -> None:
        """See that the table of erasures is what the head of the log tells; if not, make it anew from the events.

        Those that somebody added don't give the head's digest: then nothing is changed. Raises BookDamaged.
        """
        core = self._core
        log = core.app.log
        try:
            log.erasures()
        except BookDamaged:
            rows: list[tuple[bytes, int, int]] = []
            for position, event in core.history([one.stored_name for one in DESTROYING]):
                assert isinstance(event, DESTROYING)
                # The last position of its commit: what is sealed anew for who goes on follows it there.
                last = position + (event.resealed if isinstance(event, ValuesErased) else 0)
                rows += [(event.originator_id.bytes, key_id, last) for key_id in sorted(event.key_ids)]
            if not log.make_erased_anew(rows):
                raise
            logger.warning(
                "The table erased of %s was not what the log tells: somebody altered it. It was made anew.",
                core.storage.url,
            )
            log.erasures()

    def finish(self, *, sound: bool) -> None:
        """Go on with what an erasure could not finish. `tallybook.open` does it, and does not wait for readers.

        Nothing is destroyed by a log whose head is not `sound`.
        """
        if sound:
            self.follow(everything=True)
        core = self._core
        if core.storage.keys.erased_up_to():
            done, finished = core.overwrite_deleted(wait_s=0)
            if not finished:
                logger.info("Deleted rows of %s: %s.", core.storage.url, done)

    def repeat(self) -> list[UUID]:
        """Erase again whom the key store has destroyed keys of, and a log that was put back from before knows nothing.

        Without the keys nothing could be read of them, but their look-ups are back. `tallybook.open` does it before it
        records anything. Only the tombstones count, which nobody without the book's keys can make: no note of how far
        the keys have followed the log, and no row that somebody else wrote: that is told where it is read.
        """
        core = self._core
        whole, partly = self._unknown()
        with core.acting(Acting(Metadata(recorded_us=0, actor="system:restore", purpose="erasure"), by_book=True)):
            for customer_id in whole:
                try:
                    self._record(customer_id, reason=RESTORED, even_so=RESTORED)
                except Refused as refused:
                    if refused.code != "customer_erased":  # by another process that opens the book at once
                        raise
            for customer_id, key_id in partly:
                self._record_lost(customer_id, key_id)
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
        if (whole or partly) and (lost := self._lost()):
            logger.warning(
                "%d customers of %s have no key in the key store, and nobody erased them; the first is %s.",
                len(lost),
                core.storage.url,
                lost[0],
            )
        return whole

    def _unknown(self) -> tuple[list[UUID], list[KeyName]]:
        """Of whom the ordinary key was destroyed, and the log knows nothing of it: those who were erased; and those of
        whom single values were (a later key is there), each with the key that the log has for them."""
        core = self._core
        whole: list[UUID] = []
        partly: list[KeyName] = []
        try:
            core.app.position()
        except BookDamaged:  # nothing can be recorded; the book is opened to be looked at
            return whole, partly
        # All of them, not those alone that are newer than the log: whoever did this before may have been cut short.
        gone = (name for name, _ in core.storage.keys.tombstones())
        while some := list(islice(gone, 5000)):
            known = core.app.log.erased_keys(list({subject.bytes for subject, _ in some}))
            for subject, key_id in some:
                customer = None if (subject.bytes, key_id) in known else core.app.load(Customer, subject)
                if customer is None or not customer.version or customer.ordinary_key != key_id:
                    continue
                if core.keyring.left_over(subject, key_id):
                    partly.append((subject, key_id))
                else:
                    whole.append(subject)
        return whole, partly

    def _lost(self) -> list[UUID]:
        """Of whom a key is neither there nor was destroyed."""
        core = self._core
        keys, log = core.storage.keys, core.app.log
        lost: dict[UUID, None] = {}
        made = (one.event for one in core.history([KeyCreated.stored_name]))
        names = ((one.originator_id, one.key_id) for one in made if isinstance(one, KeyCreated))
        while some := list(islice(names, 1000)):
            there = keys.get(some).keys() | keys.destroyed(some).keys()
            known = log.erased_keys([subject.bytes for subject, _ in some])
            left = (name for name in some if name not in there and (name[0].bytes, name[1]) not in known)
            lost.update((subject, None) for subject, _ in left)
        return list(lost)

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

    def complete(self, *subjects: UUID) -> Completed:
        """Carry out what is recorded: keys, the wrapping key of then, what follows the log, deleted rows.

        Once for all erasures, those of `subjects` among them. Raises BookError where a key can't be destroyed yet.
        """
        try:
            why = self.follow(*subjects)
        except Refused as busy:  # whose own words would be that nothing happened
            raise BookError(
                f"The erasure is recorded, and every read gives `Erased`; the key could not be destroyed yet: "
                f"{busy.message}",
                path=self._core.storage.url,
                remedy="Repeat it, or open the book again: it goes on from there.",
            ) from busy
        done, unfinished = self._core.clear_after_erasure()
        return Completed(done, unfinished, why)
