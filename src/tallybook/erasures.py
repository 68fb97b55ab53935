"""`book.erasures`: a subject's key is destroyed, the look-ups go, and a receipt says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from tallybook.adapters.form import known_uuid
from tallybook.domain.customer import Customer
from tallybook.domain.erasure import SubjectErased, check_erasable, held_of, in_the_way
from tallybook.domain.errors import refusal
from tallybook.domain.retention import Retention, activity_until, kept

from .commands import Desk, awaitable
from .core import Core
from .customers import as_id
from .erasing import KEYS, Completed, Erasing
from .times import When, iso


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What shows that a subject was erased. `proof` can be checked by anybody who has the log's verifier key.

    `commitments`: of each destroyed key, by its id, what the log holds of it (hex). `kept` records stay sealed under a
    key of their own until `kept_until`. `done` says what was destroyed or cleared, and where; `unfinished` names what
    of it still waits: `erase` of the same customer, the next erasure and the next opening go on with it. `leaf` holds
    the bytes that the log commits to for the event at `position` (base64), `proof` is a C2SP tlog-proof of it, with the
    checkpoint that it leads to; None in a book that signs nothing. As JSON, the receipt is checked by `verify.py` of an
    auditor's pack.
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
    even_so: str | None
    commitments: Mapping[int, str]
    lookups: int
    kept: int
    kept_until: str | None
    done: Mapping[str, str]
    unfinished: tuple[str, ...]
    leaf: str
    proof: str | None


@dataclass(frozen=True, slots=True)
class ErasureEntry:
    """One erasure of a customer: its event's position, when, by whom, why, and for which request."""

    customer_id: UUID
    position: int
    erased_at: str
    actor: str
    reason: str
    request_id: UUID | None


@dataclass(frozen=True, slots=True)
class ErasurePreview:
    """What an erasure of a customer would do now: how many values go, and how many are kept (each by category), until
    when, how many look-ups are removed. `waits_for`: what stands in the way (`restricted`, `request`), `because` the
    same in words."""

    customer_id: UUID
    goes: Mapping[str, int]
    kept: Mapping[str, int]
    kept_until: str | None
    lookups: int
    waits_for: tuple[str, ...]
    because: tuple[str, ...]


class ErasureDesk(Desk):
    """Erasing what is personal, and showing that it is gone. What was decided from coarse data stays."""

    _name = "erasures"

    def __init__(self, core: Core, erasing: Erasing) -> None:
        super().__init__(core)
        self._erasing = erasing

    @awaitable
    def erase(
        self,
        customer: UUID | str,
        *,
        reason: str,
        request_id: UUID | str | None = None,
        even_so: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> ErasureReceipt:
        """Erase a customer: destroy the data key, so that no personal value can be opened again, by anybody.

        The log, its proofs, points, tiers and SLA figures stay as they are; reading gives `Erased`. What a retention
        schedule demands to keep is sealed anew under a key of its own, and erased when its time is over. `reason` is a
        code (`gdpr-17`), written in the clear. `request_id`: of this customer's open request for erasure. Who is
        restricted, or waits for an answer to another request, is erased only if `even_so` says why, as a code. Of a
        customer who was erased before, what is given is looked at too, the work is finished where it was cut short, and
        the receipt given again.
        Refuses: acting_required, unknown_customer, unknown_request, request_completed, request_of_other_kind,
        effective_too_early, erasure_held, invalid_argument.
        """
        core = self._core
        core.check_open()
        core.acting_now()
        customer_id = as_id(customer, "customer")
        self._erasing.record(
            customer_id,
            reason=reason,
            request_id=None if request_id is None else as_id(request_id, "request_id"),
            even_so=even_so,
            effective_at=effective_at,
            command_id=command_id,
        )
        return self._receipt(customer_id, self._erasing.complete(customer_id))

    def preview(self, customer: UUID | str) -> ErasurePreview:
        """What `erase` would do now. Changes nothing, opens nothing. Refuses: unknown_customer, customer_erased."""
        core = self._core
        core.check_open()
        customer_id = as_id(customer, "customer")
        draft = core.app.load(Customer, customer_id)
        check_erasable(draft)
        core.catch_up(core.trail)
        history = core.subject_history(customer_id)
        now_us = core.now_us()
        when = activity_until((event for _, event in history), now_us)
        schedules = core.app.load(Retention, core.retention_id).schedules
        goes: Counter[str] = Counter()
        keeps: Counter[str] = Counter()
        ends: list[int] = []
        for value in held_of(customer_id, history, draft.erased_keys):
            why = kept(schedules, value, when, now_us)
            (goes if why is None else keeps)[value.category] += 1
            if why is not None:
                ends.append(why.until_us or 0)
        return ErasurePreview(
            customer_id,
            dict(sorted(goes.items())),
            dict(sorted(keeps.items())),
            iso(max(ends, default=None)),
            len(core.app.log.claims_of([customer_id.bytes, *(purchase.bytes for purchase in draft.purchases)])),
            draft.holds,
            tuple(in_the_way(draft)),
        )

    @awaitable
    def erase_kept(self, customer: UUID | str, *, reason: str = "retention-over") -> ErasureReceipt:
        """Erase what an erasure kept, once no schedule demands it any more: its period is over, or it was withdrawn.

        Schedules in force now count, whatever they were at the erasure. Refuses: acting_required, not_erased,
        still_kept.
        """
        core = self._core
        core.check_open()
        core.acting_now()
        customer_id = as_id(customer, "customer")
        self._erasing.record_kept(customer_id, reason=reason)
        return self._receipt(customer_id, self._erasing.complete(customer_id))

    def receipt(self, customer: UUID | str) -> ErasureReceipt:
        """The receipt of a customer who was erased, with a proof under a checkpoint of now.

        A question: it destroys no key and records nothing. What is `unfinished`, `erase` of the same customer goes on
        with. Refuses: not_erased.
        """
        self._core.check_open()
        return self._receipt(as_id(customer, "customer"), None)

    def all(self) -> list[UUID]:
        """All customers who were erased, in the order of their erasures."""
        core = self._core
        core.check_open()
        told = core.app.scan(SubjectErased, ["subject_id"])
        return list(dict.fromkeys(known_uuid(subject) for _, (subject,) in told))

    def entries(self) -> list[ErasureEntry]:
        """The same with when, by whom and why; what ended what an erasure kept has an entry of its own."""
        core = self._core
        core.check_open()
        return [
            ErasureEntry(
                event.subject_id, position, iso(event.effective_us) or "", event.metadata.actor, event.reason,
                event.request_id,
            )
            for position, event in core.history([SubjectErased.stored_name])
            if isinstance(event, SubjectErased) and event.subject_id is not None
        ]  # fmt: skip

    def _receipt(self, customer_id: UUID, completed: Completed | None) -> ErasureReceipt:
        """The receipt after what was carried out just now; None: of what is so."""
        core = self._core
        found = [one for one in core.stream(customer_id) if isinstance(one.event, SubjectErased)]
        if not found:
            raise refusal("not_erased", "The customer was not erased.", customer=customer_id)
        if completed is None:
            completed = Completed(*core.clear_after_erasure(), None)
        position, event = found[0]
        last = found[-1].event
        assert isinstance(event, SubjectErased)
        assert isinstance(last, SubjectErased)
        customer = core.app.load(Customer, customer_id)
        unfinished, keys = self._of_keys(customer, completed.why)
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
            event.even_so,
            {
                key_id: customer.commitments[key_id].hex()
                for key_id in customer.erased_keys
                if key_id in customer.commitments
            },
            event.lookups,
            event.kept,
            iso(event.kept_until_us),
            {KEYS: keys, **completed.done},
            (*([KEYS] if unfinished else []), *completed.unfinished),
            *core.proof_of(position),
        )

    def _of_keys(self, customer: Customer, why: str | None) -> tuple[bool, str]:
        """Whether copies of a customer's destroyed keys can still be opened, and what a receipt says of the keys."""
        store = self._core.storage.keys
        if store.get([(customer.id, key_id) for key_id in customer.erased_keys]):
            return True, "not destroyed yet; every read asks the log first, and gives nothing all the same"
        if store.wrapping() is None:
            return False, "destroyed; the store has no wrapping key: a copy that somebody made of it still holds them"
        if store.outlived((customer.id, key_id) for key_id in customer.erased_keys):
            return True, (
                "destroyed; copies of the key store from before still open with the wrapping key, which could not be "
                f"rotated yet: {why or 'it is tried again'}"
            )
        return False, (
            "destroyed, and so is the wrapping key that they were under: copies of the key store from before open "
            "nothing, unless somebody copied that wrapping key too"
        )
