"""How an erasure is carried out: recorded, followed by the key store, finished after what cut it short."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import groupby, islice
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

from tallybook.adapters.database import damaged
from tallybook.adapters.form import uuid_from
from tallybook.domain.customer import Customer, KeyCreated
from tallybook.domain.erasure import KEPT_KEY, ORDINARY_KEY, check_erasable, erase, erase_kept, keep, still_kept
from tallybook.domain.errors import BookClosed, BookError, Refused, refusal
from tallybook.domain.events import Event, Metadata
from tallybook.domain.personal import Erased
from tallybook.domain.retention import Action, Kept, activity_until, kept

from .commands import Desk, Work, command
from .core import Acting, Core
from .sealing import SealingDesk
from .times import When

ACTS = Acting(Metadata(recorded_us=0, actor="system:erasure", purpose="erasure"), by_book=True)
KEYS = "keys"
"""What `Completed` and receipts call the wrapping key that could not be rotated."""

logger = logging.getLogger("tallybook.erasures")


class Completed(NamedTuple):
    """What was done beyond the keys, by place; what is unfinished; and why the wrapping key could not be rotated."""

    done: Mapping[str, str]
    unfinished: tuple[str, ...]
    why: str | None


class Erasing(Desk):
    """Recording erasures, and following them. Not part of the public API: see `ErasureDesk`."""

    _name = "erasures"
    _parts = {"_record": "erase", "_record_kept": "erase_kept"}  # noqa: RUF012 - as declared in Desk

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._sealing = SealingDesk(core)

    def record(
        self,
        customer_id: UUID,
        *,
        reason: str,
        request_id: UUID | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """The first half of `erase`, for those who erase many: `complete` is due after the last of them."""
        if ORDINARY_KEY in self._core.app.load(Customer, customer_id).erased:
            return
        try:
            self._record(
                customer_id, reason=reason, request_id=request_id, effective_at=effective_at, command_id=command_id
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
            lookups=len(lookups),
            kept=len(held),
            kept_until_us=max((why.until_us or 0 for *_, why in held), default=None),
            request_id=request_id,
        )
        work.erase(draft.id, event.key_ids)
        return event.event_id

    def _keep(self, work: Work, customer: Customer) -> list[tuple[int, Event, str, Kept]]:
        """Seal anew, under a key of its own, what retention schedules demand to keep; what that is."""
        core = self._core
        schedules = work.retention().schedules
        if not any(one.action == Action.KEEP for one in schedules):
            return []
        core.catch_up(core.trail)
        history = core.subject_history(customer.id)
        work.rest_on(history)
        at_us = work.stamp.effective_us
        when = activity_until((event for _, event in history), at_us)
        held = [
            (position, event, field, why)
            for position, event in history
            if event.subject_id == customer.id
            for field, why in kept(schedules, event, when, at_us).items()
        ]
        if held:
            handles = {place: getattr(event, field) for place, (_, event, field, _) in enumerate(held)}
            values = core.gate.open(
                core.gate_metadata(work.metadata), "erasures.keep", handles, [customer.id], to_seal_again=True
            )
            # In a log that was put back from before the erasure, the key is destroyed already.
            there = [place for place in handles if not isinstance(values[place], Erased)]
            held = [held[place] for place in there]
            if held:
                key_id, commitment = work.key_for(customer, KEPT_KEY)
                assert key_id == KEPT_KEY
                keep(customer, work.stamp, held, [str(values[place]) for place in there], commitment=commitment)
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
        if ORDINARY_KEY not in draft.erased:
            raise refusal("not_erased", "The customer was not erased.", customer=customer)
        core = self._core
        core.catch_up(core.trail)
        history = core.subject_history(customer)
        work.rest_on(history)
        why = still_kept(work.retention().schedules, history, work.stamp.effective_us)
        event = erase_kept(draft, work.stamp, reason, why)
        if event is not None:
            work.erase(draft.id, event.key_ids)

    def follow(self) -> str | None:
        """Destroy the keys of all whom the log says to be erased, if the key store has not followed it that far, and
        the wrapping key that copies of the store need; once for all of them.

        After an erasure, after one that was cut short, and after a key store was put back from a copy of before. Where
        the wrapping key can't be rotated, that stops nothing: the reason is given. Raises BookDamaged.
        """
        self.destroy()
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

    def destroy(self) -> None:
        """The first half of `follow`: the keys, and no rotation.

        No key is destroyed for a row of the table alone: the subject's own stream has to tell. Raises BookDamaged.
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
        keys.set_erased_up_to(rows[-1][2])

    def finish(self) -> None:
        """Go on with what an erasure could not finish. `tallybook.open` does it, and does not wait for readers."""
        self.follow()
        core = self._core
        if core.storage.keys.erased_up_to():
            done, finished = core.overwrite_deleted(wait_s=0)
            if not finished:
                logger.info("Deleted rows of %s: %s.", core.storage.url, done)

    def repeat(self) -> list[UUID]:
        """Erase again whom the key store has destroyed keys of, and a log that was put back from before knows nothing.

        Without the keys nothing could be read of them, but their look-ups are back. `tallybook.open` does it before it
        records anything: from then on the log may reach as far as the keys have followed it.
        """
        core = self._core
        log, keys = core.app.log, core.storage.keys
        followed = keys.erased_up_to()
        if not followed or log.log_rows(followed - 1, 1):
            return []  # the log reaches as far as the keys have followed it
        again: list[UUID] = []
        lost: list[UUID] = []
        position = log.position()
        streams = (recorded.event.originator_id for recorded in core.history([KeyCreated.stored_name]))
        while names := [(stream, ORDINARY_KEY) for stream in islice(streams, 1000)]:
            known = log.erased_keys([subject.bytes for subject, _ in names])
            gone = keys.destroyed(names)
            again += [name[0] for name in gone if (name[0].bytes, ORDINARY_KEY) not in known]
            held = keys.get(names)
            lost += [
                name[0]
                for name in names
                if name not in held and name not in gone and (name[0].bytes, ORDINARY_KEY) not in known
            ]
        with core.acting(Acting(Metadata(recorded_us=0, actor="system:restore", purpose="erasure"), by_book=True)):
            for customer_id in again:
                try:
                    self._record(customer_id, reason="restored")
                except Refused as refused:
                    if refused.code != "customer_erased":  # by another process that opens the book at once
                        raise
        # No further: what others erase meanwhile is still to be followed.
        keys.set_erased_up_to(position)
        if again:
            logger.warning(
                "The log of %s was put back from before the erasure of %d customers: they were erased again.",
                core.storage.url,
                len(again),
            )
        if lost := list(dict.fromkeys(lost)):
            logger.warning(
                "%d customers of %s have no key in the key store, and nobody erased them; the first is %s.",
                len(lost),
                core.storage.url,
                lost[0],
            )
        return again

    def complete(self) -> Completed:
        """Carry out what is recorded: keys, the wrapping key of then, what follows the log, deleted rows.

        Once for all erasures. Raises BookError where a key can't be destroyed yet.
        """
        try:
            why = self.follow()
        except Refused as busy:  # whose own words would be that nothing happened
            raise BookError(
                f"The erasure is recorded, and every read gives `Erased`; the key could not be destroyed yet: "
                f"{busy.message}",
                path=self._core.storage.url,
                remedy="Repeat it, or open the book again: it goes on from there.",
            ) from busy
        done, unfinished = self._core.clear_after_erasure()
        return Completed(done, unfinished, why)
