"""How a command runs: one decorator gives each of them its actor, its receipt, its transaction, its retries, and its
awaitable form. `Work` is what a command does its work with."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial, update_wrapper
from itertools import count
from types import MappingProxyType
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, get_type_hints, overload
from uuid import UUID

from eventsourcing.persistence import IntegrityError
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from tallybook.adapters.database import damaged
from tallybook.adapters.form import uuid_from, uuid_of
from tallybook.adapters.keys import KeyName
from tallybook.adapters.log import NAMING_BYTES, KeyGone, Receipt
from tallybook.domain.aggregate import A, Aggregate, Stamp
from tallybook.domain.control import Control
from tallybook.domain.customer import Customer
from tallybook.domain.erasure import ORDINARY_KEY, SubjectErased
from tallybook.domain.errors import REFUSALS, BookUnreachable, Refused, refusal
from tallybook.domain.events import CODE_CHARS_MAX, Event, Fact, Metadata
from tallybook.domain.liability import Valuation, valuation_id
from tallybook.domain.loyalty import LoyaltyAccount, account_id
from tallybook.domain.operations import Operations
from tallybook.domain.policy import ALLOW, Policy
from tallybook.domain.privacy import RequestCompleted
from tallybook.domain.retention import Retention
from tallybook.domain.rewards import Stock, stock_id
from tallybook.domain.signing import Signing
from tallybook.domain.ticket import Ticket
from tallybook.projections.read_models import Recorded

from .core import Core
from .times import When, moment_us

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Fact)

TRIES = 24
FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.25
SETTLE_S = 30.0
"""How long a command tries to find out what became of a commit whose answer was lost."""
COMMAND_ID_CHARS_MAX = 200


def _waited(pause_s: float) -> float:
    """Wait for up to so long, and say for how long the next time: by chance, or writers that collide do so in step."""
    time.sleep(pause_s * random.random())  # noqa: S311 - nobody gains from guessing it
    return min(pause_s * 2, LONGEST_PAUSE_S)


AFTER_ERASURE = (SubjectErased, RequestCompleted)
"""Facts about a subject that may follow an erasure."""

_encode = json.JSONEncoder(sort_keys=True).encode
_decode = json.JSONDecoder().decode


class Desk:
    """Base of the desks at which commands are given: `book.customers` and its kind."""

    _name: ClassVar[str] = ""
    """What the book calls it; access policies name commands by it: `customers.register`."""
    _parts: ClassVar[Mapping[str, str]] = {}
    """Commands that are parts of a larger one: whoever may give that one may give them."""

    def __init__(self, core: Core) -> None:
        self._core = core


D = TypeVar("D", bound=Desk)


class BoundCommand(Generic[P, R]):
    """A command of one book: call it, or await its `aio` form."""

    def __init__(self, run: Callable[P, R], function: Callable[..., Any]) -> None:
        self._run = run
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(*args, **kwargs)

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same without blocking the event loop. Once begun, it is carried out even if the waiting is cancelled."""
        return await asyncio.to_thread(partial(self._run, *args, **kwargs))


class awaitable(Generic[D, P, R]):  # noqa: N801 - used as a decorator
    """Give a desk's method an awaitable form, as commands have it."""

    def __init__(self, function: Callable[Concatenate[D, P], R]) -> None:
        self.function = function
        update_wrapper(self, function)  # type: ignore[arg-type]  # it is callable through __get__ only

    @overload
    def __get__(self, desk: None, owner: type[D]) -> awaitable[D, P, R]: ...
    @overload
    def __get__(self, desk: D, owner: type[D]) -> BoundCommand[P, R]: ...
    def __get__(self, desk: D | None, owner: type[D]) -> awaitable[D, P, R] | BoundCommand[P, R]:
        return self if desk is None else BoundCommand(partial(self.function, desk), self.function)


class command(Generic[D, P, R]):  # noqa: N801 - used as a decorator
    """Make a command of a desk's method `(self, work, …, effective_at=None, command_id=None)`."""

    may_lie_ahead = False
    """Whether the effective time may lie in the future."""

    def __init__(self, function: Callable[Concatenate[D, Work, P], R]) -> None:
        self.function = function
        update_wrapper(self, function)  # type: ignore[arg-type]  # it is callable through __get__ only

    @overload
    def __get__(self, desk: None, owner: type[D]) -> command[D, P, R]: ...
    @overload
    def __get__(self, desk: D, owner: type[D]) -> BoundCommand[P, R]: ...
    def __get__(self, desk: D | None, owner: type[D]) -> command[D, P, R] | BoundCommand[P, R]:
        if desk is None:
            return self
        # Kept where the next look-up finds it before this one.
        bound: BoundCommand[P, R] = BoundCommand(partial(self._run, desk), self.function)
        desk.__dict__[self.function.__name__] = bound
        return bound

    @cached_property
    def signature(self) -> inspect.Signature:
        """Of the method that it wraps."""
        return inspect.signature(self.function)

    @cached_property
    def _parameters(self) -> tuple[tuple[str, ...], frozenset[str], str | None]:
        """Names of the parameters that may be given by position, of all with a name, and of the one for all others."""
        parameters = list(self.signature.parameters.values())[2:]
        others = [one.name for one in parameters if one.kind is one.VAR_KEYWORD]
        return (
            tuple(one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD),
            frozenset(one.name for one in parameters).difference(others),
            others[0] if others else None,
        )

    @cached_property
    def _result(self) -> TypeAdapter[R]:
        return TypeAdapter(get_type_hints(self.function)["return"])

    def kept(self, desk: D, command_id: str) -> R | None:
        """The result of a command that was recorded under an id before; None if there is none."""
        receipt = desk._core.app.log.receipt(desk._core.keyring.lookup_hash("command", command_id)[:16])
        return None if receipt is None else self._repeat(desk._core, receipt, receipt.digest)

    def _run(self, desk: D, *args: P.args, **kwargs: P.kwargs) -> R:
        core = desk._core
        core.check_open()
        core.check_keys()
        given: Mapping[str, Any] = MappingProxyType(kwargs)
        acting = core.acting_now()
        command_id = given.get("command_id")
        effective_at: When | None = given.get("effective_at")
        key, digest = (None, b"") if command_id is None else self._identity(desk, command_id, args, kwargs)
        name = self.function.__name__
        asked = f"{desk._name}.{desk._parts.get(name, name)}"
        # The first try trusts what this process saw last of the streams. Its commit finds out whether they moved.
        newest = False
        pause_s = FIRST_PAUSE_S
        lost: BookUnreachable | None = None
        for _ in range(TRIES):
            policy = core.policy(newest=newest)
            rule = None
            if policy.in_force is not None:
                verdict = core.verdict(policy, policy.in_force, acting, asked)
                if verdict.effect != ALLOW:
                    if not newest:
                        newest = True  # it may be allowed meanwhile
                        continue
                    metadata = core.gate_metadata(acting)
                    raise core.gate.deny(metadata, asked, policy.in_force, verdict)
                rule = verdict.rule
            if key is not None:
                receipt = core.app.log.receipt(key)
                if receipt is not None:
                    return self._repeat(core, receipt, digest)
            work = Work(core, acting, effective_at, key, may_lie_ahead=self.may_lie_ahead, newest=newest, rule=rule)
            work.policy_seen = policy
            try:
                result = self.function(desk, work, *args, **kwargs)
                kept = None if key is None else Receipt(key, digest, self._outcome(work, result))
                self._commit(core, work, kept)
            except (Refused, UnicodeError, ValidationError) as error:
                if not newest and not core.app.log.stand(work.seen()):
                    newest = True  # it may have been refused for what is so no more
                    continue
                # A repeat that overlaps with the first finds the first's effects: its result is what was asked for.
                receipt = None if key is None else core.app.log.receipt(key)
                if receipt is None:
                    core.gate.told(core.gate_metadata(acting), asked, policy.in_force, rule, work.looked_for)
                    raise _refusal_for(error) from None
                return self._repeat(core, receipt, digest)
            except IntegrityError:
                lost = None
                if newest:
                    pause_s = _waited(pause_s)
                newest = True
                continue
            except BookUnreachable as error:
                if error.unknown:
                    raise  # to try again could double what is recorded
                lost = error
                newest = True
                pause_s = _waited(pause_s)
                continue
            if work.refused is not None:
                raise work.refused
            return result
        if lost is not None:
            raise lost
        raise refusal("conflict", f"Other writers were faster {TRIES} times.", tries=TRIES)

    def _commit(self, core: Core, work: Work, kept: Receipt | None) -> None:
        """Save a try's work. Raises BookUnreachable: `unknown`, where it can't be found out whether that took place."""
        try:
            core.app.save(
                work,
                keys=work.keys,
                reads=work.reads(),
                claims=work.claims,
                releases=work.releases,
                receipt=kept,
                erased=work.erased,
                about=work.about(),
                quiet=work.quiet,
                forgotten=work.forgotten,
                drafts=work.written(),
            )
        except KeyGone as gone:
            self._learn(core, gone)
            raise
        except BookUnreachable as lost:
            if not lost.unknown:
                raise
            if not self._is_recorded(core, work, lost):
                lost.unknown = False
                raise

    def _learn(self, core: Core, gone: KeyGone) -> None:
        """Find out under which key the next try seals what is new of a subject. Refuses: customer_erased."""
        core.check_erased(gone.subject, gone.key_id)
        core.keyring.learn(gone.subject)
        if core.app.load(Customer, gone.subject).erased:
            raise refusal("customer_erased", f"The customer {gone.subject} was erased.", customer=gone.subject)

    def _is_recorded(self, core: Core, work: Work, lost: BookUnreachable) -> bool:
        """Whether a commit took place whose answer was lost. Raises the loss, if that can't be found out in time."""
        if not work.journal:
            return False  # at most a receipt: the next try finds it
        first = work.journal[0]
        until = time.monotonic() + SETTLE_S
        while True:
            try:
                return core.app.is_recorded(first)
            except (BookUnreachable, Refused):  # the server is not back yet, or still at work on the commit
                if time.monotonic() > until:
                    raise lost from None
                time.sleep(0.1)

    def _identity(
        self, desk: D, command_id: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[bytes, bytes]:
        if not isinstance(command_id, str) or not 1 <= len(command_id) <= COMMAND_ID_CHARS_MAX:
            raise refusal(
                "invalid_argument",
                f"command_id: a text of 1 to {COMMAND_ID_CHARS_MAX} characters is wanted.",
                argument="command_id",
            )
        keyring = desk._core.keyring
        try:
            given = self._given(args, kwargs)
            canonical = _encode(_decode(to_json(given, fallback=str).decode()))
            name = self.function.__qualname__
            # What tells the arguments is forgotten when somebody is erased whom they may be about.
            digest = keyring.lookup_hash("command name", name)[:NAMING_BYTES]
            digest += keyring.lookup_hash("arguments", name, canonical)[NAMING_BYTES:]
            return keyring.lookup_hash("command", command_id)[:16], digest
        except (UnicodeError, PydanticSerializationError):
            raise refusal("invalid_argument", "A text holds a character that is not Unicode.") from None

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, without the command id: as `Signature.bind` gives them, in a tenth of its time."""
        positional, named, others = self._parameters
        given: dict[str, Any] = dict(zip(positional, args, strict=False))
        rest = {name: value for name, value in kwargs.items() if name not in named}
        if len(args) > len(positional) or not given.keys().isdisjoint(kwargs) or (rest and others is None):
            self.signature.bind(None, None, *args, **kwargs)  # raises TypeError, as the call would
        given.update(kwargs)
        for name in rest:
            del given[name]
        if rest and others is not None:
            given[others] = rest
        given.pop("command_id", None)
        return given

    def _outcome(self, work: Work, result: R) -> bytes:
        if work.refused is not None:
            values = {name: str(value) for name, value in work.refused.values.items()}
            return to_json(["refused", work.refused.code, work.refused.message, values])
        return b"+" + self._result.dump_json(result)

    def _repeat(self, core: Core, receipt: Receipt, digest: bytes) -> R:
        if len(receipt.digest) < NAMING_BYTES or not digest.startswith(receipt.digest):
            raise refusal("command_id_reused", "The command id belongs to a command with other arguments.")
        try:
            if receipt.result.startswith(b"+"):
                return self._result.validate_json(receipt.result[1:])
            _, code, message, values = json.loads(receipt.result)
            refused = REFUSALS[code].error(code, message, {**values})
        except (ValueError, TypeError, KeyError) as error:
            what = f"The row {receipt.command_id.hex()} of the table receipts holds no result"
            raise damaged(what, core.app.database.place) from error
        raise refused


def _refusal_for(error: Refused | UnicodeError | ValidationError) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, ValidationError):
        # Of a personal field, the handle is one choice and the value the other: the value's problem is meant.
        problem = error.errors(include_input=False, include_url=False)[-1]
        name = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))
        told = problem["msg"]
        if problem["type"] == "string_pattern_mismatch":
            told = (
                f"a code is wanted, since it is written in the clear and for ever: up to {CODE_CHARS_MAX} letters, "
                "digits and . : / + - _, without spaces, such as gdpr-17"
            )
        return refusal("invalid_argument", f"{name}: {told}.", argument=name)
    return refusal("invalid_argument", "A text holds a character that is not Unicode.")


class command_ahead(command[D, P, R]):  # noqa: N801 - used as a decorator
    """A command whose effective time may lie in the future."""

    may_lie_ahead = True


class Work:
    """One try of one command: what it read, what it records, in one transaction, in this order."""

    def __init__(
        self,
        core: Core,
        acting: Metadata,
        effective_at: When | None,
        command_id: bytes | None,
        *,
        may_lie_ahead: bool = False,
        newest: bool = True,
        rule: str | None = None,
    ) -> None:
        self._core = core
        self._newest = newest
        self.id = core.book_id  # the library saves things that have an id and a version
        self.version = 0
        self.now_us = core.now_us()
        effective_us = self.now_us if effective_at is None else moment_us(effective_at, "effective_at")
        if not may_lie_ahead:
            self._must_have_happened(effective_us)
        self.metadata = acting.model_copy(
            update={
                "recorded_us": self.now_us,
                "rule": rule,
                "command_id": None if command_id is None else uuid_from(command_id),
            }
        )
        # One random id a command; the ids of its events count on from there.
        first = core.new_id().int
        new_event_id = map(uuid_of, count(first)).__next__
        self.stamp = Stamp(self.metadata, effective_us, new_event_id, given=effective_at is not None)
        self.journal: list[Event] = []
        self.keys: dict[KeyName, bytes] = {}
        self.claims: list[tuple[bytes, bytes]] = []
        self.releases: list[bytes] = []
        self.erased: list[tuple[bytes, int]] = []
        self.quiet: tuple[int, bytes] | None = None
        """A position, and a subject whom nothing after it may be about at the commit."""
        self.forgotten: list[bytes] = []
        """Ids of commands whose receipts tell nothing of their arguments from the commit on."""
        self.refused: Refused | None = None
        self.policy_seen: Policy | None = None
        """By which the command was allowed: at the commit, it must stand."""
        self._control: Control | None = None
        self._drafts: dict[UUID, Aggregate] = {}
        self._versions: dict[UUID, int] = {}
        self._loaded: set[UUID] = set()
        self._aside: set[UUID] = set()
        self._claimed: dict[bytes, UUID | None] = {}
        self.looked_for: list[tuple[str, UUID | None]] = []
        """By which fields, as access policies call them, somebody was looked for, and who was found."""

    def at(self, effective_us: int) -> Stamp:
        """A stamp for a fact of another time within the same command. Refuses: effective_in_future."""
        self._must_have_happened(effective_us)
        return self.stamp.at(effective_us)

    def refuse(self, refused: Refused) -> None:
        """Raise a refusal after what was recorded of it is committed."""
        self.refused = refused

    # ── aggregates ──────────────────────────────────────────────────────────────────────────────────────────────

    def control(self) -> Control:
        """The rule sets and sweeps, to be read."""
        if self._control is None:
            self._control = self._draft(Control, self._core.book_id)
        return self._control

    def operations(self) -> Operations:
        """A draft of what was decided about read models."""
        return self._draft(Operations, self._core.operations_id)

    def policy(self) -> Policy:
        """A draft of the access policy and the roles, as they were when the command was allowed."""
        seen = self.policy_seen
        assert seen is not None
        if seen.id not in self._drafts:
            self._versions[seen.id] = seen.version
            self._drafts[seen.id] = seen.draft(self.journal)
        return self._draft(Policy, seen.id)

    def signing(self) -> Signing:
        """A draft of which key signed checkpoints when."""
        return self._draft(Signing, self._core.signing_id)

    def retention(self) -> Retention:
        """A draft of the retention schedules."""
        return self._draft(Retention, self._core.retention_id)

    def customer(self, customer_id: UUID) -> Customer:
        """A draft of a registered customer. Refuses: unknown_customer."""
        customer = self._draft(Customer, customer_id)
        if not customer.registered:
            raise refusal("unknown_customer", "There is no such customer.", customer=customer_id)
        return customer

    def new_customer(self, customer_id: UUID) -> Customer:
        """A draft of a customer who may not be there yet."""
        return self._draft(Customer, customer_id)

    def fresh_customer(self) -> Customer:
        """A draft under a new id."""
        return self._fresh(Customer, self._core.new_id())

    def next_key_for(self, customer: Customer) -> tuple[int, bytes]:
        """Id and commitment of the data key that is to take the place of a customer's ordinary one."""
        return self.key_for(customer, self._core.keyring.following(customer.id, customer.ordinary_key))

    def key_for(self, customer: Customer, key_id: int = ORDINARY_KEY) -> tuple[int, bytes]:
        """Id and commitment of a new data key of a customer; it is kept with the commit."""
        fresh = customer.id not in self._loaded
        key_id, committed, key = self._core.keyring.key_for(customer.id, fresh=fresh, key_id=key_id)
        self.keys[customer.id, key_id] = key
        return key_id, committed

    def account(self, customer_id: UUID, programme: str) -> LoyaltyAccount:
        """A draft of an account, which may not be there yet."""
        return self._draft(LoyaltyAccount, account_id(customer_id, programme))

    def accounts_of(self, customer_id: UUID) -> list[LoyaltyAccount]:
        """Drafts of all accounts of a customer, in every programme that has a rule set.

        That there is none in a programme is read too: a concurrent enrolment makes the command start again.
        """
        accounts = [self.account(customer_id, one) for one in self.control().rule_book.programmes()]
        return [account for account in accounts if account.enrolled]

    def fresh_account(self, customer_id: UUID, programme: str) -> LoyaltyAccount:
        """A draft of the account of a customer who is new in this command, so that it can't be there yet."""
        return self._fresh(LoyaltyAccount, account_id(customer_id, programme))

    def enrolled_account(self, customer_id: UUID, programme: str) -> LoyaltyAccount:
        """A draft of an account that is there. Refuses: not_enrolled."""
        account = self.account(customer_id, programme)
        if not account.enrolled:
            raise refusal(
                "not_enrolled",
                f"The customer has no account in {programme}.",
                customer=customer_id,
                programme=programme,
            )
        return account

    def accounts(self, stream_ids: Sequence[UUID]) -> list[LoyaltyAccount]:
        """Drafts of the accounts of many streams, past the cache; but for those that a bulk job holds."""
        app = self._core.app
        held = app.held(LoyaltyAccount, stream_ids) if app.sweeps_held and not self._newest else {}
        others = [stream_id for stream_id in stream_ids if stream_id not in held]
        loaded = app.load_many(LoyaltyAccount, others, kept=True) if others else {}
        for stream_id, one in (*held.items(), *loaded.items()):
            self._versions[stream_id] = one.version
            self._drafts[stream_id] = one.draft(self.journal)
        self._aside.update(loaded)
        return [self._draft(LoyaltyAccount, stream_id) for stream_id in stream_ids]

    def valuation(self, programme: str) -> Valuation:
        """A draft of what people gave to value a programme's points."""
        return self._draft(Valuation, valuation_id(self._core.book_id, programme))

    def stock(self, programme: str, reward: str) -> Stock:
        """A draft of a reward's stock."""
        return self._draft(Stock, stock_id(self._core.book_id, programme, reward))

    def ticket(self, ticket_id: UUID) -> Ticket:
        """A draft of a ticket, which may not be there."""
        return self._draft(Ticket, ticket_id)

    def fresh_ticket(self) -> Ticket:
        """A draft under a new id."""
        return self._fresh(Ticket, self._core.new_id())

    def _draft(self, kind: type[A], stream_id: UUID) -> A:
        draft = self._drafts.get(stream_id)
        if draft is None:
            loaded = self._core.app.load(kind, stream_id, newest=self._newest)
            self._versions[stream_id] = loaded.version
            self._loaded.add(stream_id)
            draft = self._drafts[stream_id] = loaded.draft(self.journal)
        if not isinstance(draft, kind):
            raise refusal("invalid_argument", "The id belongs to something else.", id=stream_id)
        return draft

    def _fresh(self, kind: type[A], stream_id: UUID) -> A:
        self._versions[stream_id] = 0
        fresh = kind(stream_id)
        fresh.journal = self.journal
        self._drafts[stream_id] = fresh
        return fresh

    # ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────

    def holder(self, claim: bytes) -> UUID | None:
        """Who holds a claim, this command's own changes included."""
        if claim not in self._claimed:
            self.look_up([claim])
        return self._claimed[claim]

    def find(self, claim: bytes, field: str, customer: Customer | None = None) -> UUID | None:
        """Who holds a claim on a value that somebody gave: if the command is refused, that goes on record as a search.

        `field`: what access policies call such values. `customer`: what is told is about nobody else.
        """
        holder = self.holder(claim)
        found = holder
        if customer is not None:
            found = customer.id if holder == customer.id or holder in customer.purchases else None
        self.looked_for.append((field, found))
        return holder

    def look_up(self, claims: Sequence[bytes]) -> None:
        """Look many claims up at once, for `holder` to find."""
        held = self._core.holders(claims)
        self._claimed.update((claim, held.get(claim)) for claim in claims)

    def claim(self, claim: bytes, holder: UUID) -> None:
        """Take a claim that is free."""
        self.claims.append((claim, holder.bytes))
        self._claimed[claim] = holder

    def release(self, claim: bytes) -> None:
        """Give a claim up."""
        self.releases.append(claim)
        self._claimed[claim] = None

    def facts_of(self, customer: Customer, kind: type[F]) -> Iterator[F]:
        """A customer's facts of a kind, in the order of recording, this command's own too. Reads the whole stream."""
        stream = [one.event for one in self._core.stream(customer.id)] if customer.id in self._loaded else []
        own = (one for one in self.journal if one.originator_id == customer.id)
        return (one for one in (*stream, *own) if isinstance(one, kind))

    def history_of(self, subject: UUID) -> list[Recorded]:
        """All events about a subject, and that they are those which were recorded. The command starts again if another
        is recorded before the commit. For what destroys: goes through all of the log, unless a sweep has done that for
        all whom it is about. Raises BookDamaged.
        """
        core = self._core
        self.quiet = (core.app.position(), subject.bytes)
        if subject in core.verified:
            core.catch_up(core.trail)
            return core.subject_history(subject)
        history = core.whole_history(subject)
        schedules = core.stream(core.retention_id)
        core.checkpoints["events"].must_hold(sorted({one.position for one in (*history, *schedules)}))
        return history

    def erase(self, subject: UUID, key_ids: Sequence[int]) -> None:
        """Keys of a subject are to be destroyed once this is committed. No guess at the arguments of the commands about
        them is confirmed from then on. The command starts again if another is recorded before the commit."""
        self.erased += [(subject.bytes, key_id) for key_id in key_ids]
        if self.quiet is None:
            self.quiet = (self._core.app.position(), subject.bytes)
        self.forgotten += self._core.commands_about(subject)

    # ── for the application's save ──────────────────────────────────────────────────────────────────────────────

    def collect_events(self) -> list[Event]:
        """What is to be stored, in order."""
        return self.journal

    def written(self) -> list[Aggregate]:
        """Drafts that events were recorded on, but for those that were loaded past the cache."""
        return [
            draft
            for stream, draft in self._drafts.items()
            if draft.version > self._versions[stream] and stream not in self._aside
        ]

    def about(self) -> list[tuple[bytes, int]]:
        """The subjects of the facts that are to be stored, each with the id of the key that seals what is new of them:
        it must not be destroyed, but for what ends an erasure."""
        facts = (one for one in self.journal if isinstance(one, Fact) and not isinstance(one, AFTER_ERASURE))
        subjects = {subject: None for one in facts for subject in one.subject_ids()}
        return [(subject.bytes, self._core.keyring.believed(subject)) for subject in subjects]

    def seen(self) -> list[tuple[UUID, int]]:
        """All streams that were read, with the version that was seen."""
        return list(self._versions.items())

    def reads(self) -> list[tuple[UUID, int]]:
        """Streams that were seen: at the commit, they must stand where they stood, neither further nor less far.

        A new one that is written needs no look: its first version can be written once.
        """
        drafts, policy = self._drafts, self.policy_seen
        reads = [(stream, seen) for stream, seen in self._versions.items() if seen or drafts[stream].version == seen]
        if policy is not None and policy.id not in drafts:
            reads.append((policy.id, policy.version))
        return reads

    def _must_have_happened(self, effective_us: int) -> None:
        if effective_us > self.now_us:
            raise refusal(
                "effective_in_future",
                "The effective time lies after now.",
                effective_us=effective_us,
                now_us=self.now_us,
            )
