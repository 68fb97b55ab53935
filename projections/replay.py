"""Replay: every decision derived again from the facts, in canonical order, by the domain's own code.

The *certificate* compares what the recorded rule sets derive with what was recorded. It reads facts only; what an
account decides never depends on another subject. `backtest` derives under other rules in the same way.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import UUID

from tallybook.domain.aggregate import Stamp
from tallybook.domain.control import Control, RuleBook, RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.customer import (
    CustomerChanged,
    CustomerRegistered,
    ProfileFact,
    PurchaseRecorded,
    ReturnRecorded,
    Traits,
    note_traits,
    traits_of,
)
from tallybook.domain.earning import Rules
from tallybook.domain.errors import TallybookError
from tallybook.domain.events import REGISTRY, Decision, Event, Fact, Metadata, from_us
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import NOBODY as NO_TRAITS
from tallybook.domain.loyalty import LoyaltyAccount

from .read_models import Progress, Recorded

_NO_ID = UUID(int=0)
STAMP = Stamp(Metadata(recorded_us=0, actor="system:replay", purpose="replay"), 0, lambda: _NO_ID)
_ALWAYS = -(2**62)
Failed = Callable[[UUID, UUID | None, Exception], None]

ACCOUNT_FACTS: tuple[type[Event], ...] = tuple(
    schema.event_class
    for name, schema in REGISTRY.items()
    if name.startswith("loyalty.") and issubclass(schema.event_class, Fact)
)
"""What happens to an account."""
PROFILE_FACTS: tuple[type[Event], ...] = (CustomerRegistered, CustomerChanged)
"""What conditions of rule sets read of a customer."""
SUBJECT_FACTS: tuple[type[Event], ...] = (PurchaseRecorded, ReturnRecorded)
CONTROL_FACTS: tuple[type[Event], ...] = (RuleSetAdopted, Swept, SweepFinished)
FACT_NAMES = tuple(kind.stored_name for kind in (*ACCOUNT_FACTS, *PROFILE_FACTS, *SUBJECT_FACTS, *CONTROL_FACTS))
"""Stored names of the facts that an account can react to: all that a backtest reads."""
DECISION_NAMES = tuple(name for name, schema in REGISTRY.items() if issubclass(schema.event_class, Decision))
"""Stored names of decisions: the certificate compares them."""


class Derivation:
    """The facts of a book, fed in order, and the accounts that they lead to under one rule book.

    Without `candidate`, each fact meets the rule sets that were in force and known at its position. With it, the
    candidate takes the place of every rule set of its programme that is in force from `since_us` on (None: of all).
    `stamp` is what decisions are recorded with. `traits`: what was known of the customer when a fact was recorded, by
    the fact's id, where facts are not fed in that order.

    A history that no command has made may be one that the rules can't follow. `failed` is told of the stream and the
    customer where that is found out, and of the error; nothing more is derived there. Without it, that is raised.
    """

    def __init__(
        self,
        candidate: Rules | None = None,
        failed: Failed | None = None,
        *,
        since_us: int | None = None,
        stamp: Stamp = STAMP,
    ) -> None:
        self.candidate = candidate
        self.traits: Mapping[UUID, Traits] | None = None
        self._failed, self._stamp = failed, stamp
        self._since_us = _ALWAYS if since_us is None else since_us
        self._given_up: set[UUID] = set()
        self.control = Control(_NO_ID)
        if candidate is not None:
            self.control.rule_book = RuleBook().adding(self._since_us, candidate.rule_set.programme, candidate)
        self.accounts: dict[UUID, LoyaltyAccount] = {}
        self._by_subject: defaultdict[UUID, list[LoyaltyAccount]] = defaultdict(list)
        self._journal: list[Event] = []
        self._noted: defaultdict[UUID, dict[str, tuple[int, str]]] = defaultdict(dict)

    def feed(self, event: Event) -> list[tuple[LoyaltyAccount, list[Event]]]:
        """Feed the next event; the accounts that it concerns, with the decisions derived for each."""
        if isinstance(event, SweepFinished):
            # Every other account followed by now, under the rules of this moment.
            derived = list(self.follow_sweep(passing_over=event.passed_over))
            self.control.apply(event)
            return derived
        if isinstance(event, CONTROL_FACTS):
            replaced = (
                isinstance(event, RuleSetAdopted)
                and self.candidate is not None
                and event.programme == self.candidate.rule_set.programme
                and event.effective_us >= self._since_us
            )
            if not replaced:
                self._try(event.originator_id, None, lambda: self.control.apply(event))
            return []
        if isinstance(event, ProfileFact):
            if event.subject_id is not None:
                note_traits(self._noted[event.subject_id], event)
            return []
        if isinstance(event, ACCOUNT_FACTS):
            account = self.accounts.get(event.originator_id)
            if account is None:
                account = self.accounts[event.originator_id] = LoyaltyAccount(event.originator_id)
                account.journal = self._journal
                if event.subject_id is not None:
                    self._by_subject[event.subject_id].append(account)
            return self._derived(account, event)
        if isinstance(event, SUBJECT_FACTS) and event.subject_id is not None:
            accounts = self._by_subject.get(event.subject_id, ())
            return [one for account in accounts for one in self._derived(account, event)]
        return []

    def _derived(self, account: LoyaltyAccount, event: Event) -> list[tuple[LoyaltyAccount, list[Event]]]:
        """What an account decides about an event, of its own stream or of its customer's."""

        def decide() -> None:
            account.settle(self._stamp, event.effective_us, self.control)
            if event.originator_id == account.id:
                account.apply(event)
            account.receive(event, self._stamp, self.control, self._traits(event))

        return [(account, self._drain())] if self._try(account.id, account.customer_id, decide) else []

    def _try(self, stream: UUID, customer: UUID | None, step: Callable[[], None]) -> bool:
        """Go a step further with a stream; False where that can't be done, or could not before."""
        if stream in self._given_up:
            return False
        try:
            step()
        except Exception as error:  # what a foreign history holds may fail anywhere
            if self._failed is None:
                raise
            self._journal.clear()
            if customer is not None:
                self._given_up.add(stream)
            self._failed(stream, customer, error)
            return False
        return True

    def _traits(self, event: Event) -> Traits:
        if self.traits is not None:
            return self.traits.get(event.event_id, NO_TRAITS)
        noted = None if event.subject_id is None else self._noted.get(event.subject_id)
        return NO_TRAITS if noted is None else traits_of(noted)

    def follow_sweep(self, passing_over: Container[UUID] = ()) -> Iterator[tuple[LoyaltyAccount, list[Event]]]:
        """What the last sweep made due and no fact brought up."""
        control = self.control
        left = self.accounts if not control.sweep_is_finished else control.passed_over
        for account_id in left if control.horizon_us is not None else ():
            account = self.accounts.get(account_id)
            if account is not None and account_id not in passing_over:
                settle = partial(account.settle, self._stamp, _ALWAYS, self.control)
                if self._try(account.id, account.customer_id, settle):
                    yield account, self._drain()

    def due(self, at_us: int) -> list[Event]:
        """What is due by a moment and was not derived yet, of all accounts."""
        for account in self.accounts.values():
            account.settle(self._stamp, at_us, self.control)
        return self._drain()

    def _drain(self) -> list[Event]:
        drained = self._journal.copy()
        self._journal.clear()
        return drained


def derived_by(history: Iterable[Recorded], at_us: int) -> Derivation:
    """The accounts that the facts lead to which had taken effect by a moment, in the order of recording."""
    derivation = Derivation()
    for _, event in history:
        if isinstance(event, (Swept, SweepFinished)):
            due = event.until_us <= at_us
        else:
            due = isinstance(event, (RuleSetAdopted, ProfileFact)) or (
                event.subject_id is not None and event.effective_us <= at_us
            )
        if due:
            derivation.feed(event)
    return derivation


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where what was recorded and what the rules derive part for the first time.

    Where a rule set itself can't be read, `account_id` names the book's own stream.
    """

    kind: str
    account_id: UUID
    customer_id: UUID | None
    position: int
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.kind} at position {self.position}, account {self.account_id} of customer {self.customer_id}: "
            f"expected {self.expected}, found {self.found}"
        )


REFERENCE, COLUMNAR = "reference", "columnar"
"""What replays a book for its certificate."""


@dataclass(slots=True)
class Certificate:
    """The outcome of `replay`: the recorded decisions against the derived ones.

    `facts` counts those that an account can react to; `position` is that of the book's head.
    `pending`: decisions that a sweep has made due and not recorded, since it was cut short or passed accounts over; no
    divergence.
    `executor`: what replayed it: "reference", the domain's own code; or "columnar", the same compiled, over columns
    made from the log, and the domain's own code for every customer about whom the two don't agree. `why` it was not
    "columnar".
    `origin`, `root` and `rules`: whose log that is, its Merkle root at that position, and a digest of all rule sets
    that were adopted in it; `release`: of Tallybook. `checkpoint`: the signed checkpoint of that position, and `note`:
    this certificate as a signed note; empty where it is not signed.
    """

    position: int = 0
    facts: int = 0
    decisions: int = 0
    accounts: int = 0
    matched: int = 0
    pending: int = 0
    divergent_accounts: int = 0
    first: Divergence | None = None
    executor: str = REFERENCE
    why: str = ""
    origin: str = ""
    root: str = ""
    rules: str = ""
    release: str = ""
    checkpoint: str = ""
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether replaying the facts reproduces the recorded decisions exactly."""
        return self.first is None

    def document(self) -> dict[str, Any]:
        """All that it says, as JSON values: what is signed."""
        told = asdict(self)
        del told["note"]
        if self.first is not None:
            customer = self.first.customer_id
            told["first"] |= {"account_id": str(self.first.account_id), "customer_id": customer and str(customer)}
        return {**told, "holds": self.holds}

    def canonical(self) -> str:
        """The document as JSON on one line: equal for equal certificates."""
        return json.dumps(self.document(), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of that in hex."""
        return sha256(self.canonical().encode()).hexdigest()

    @classmethod
    def parse(cls, canonical: str) -> Certificate:
        """A certificate from its canonical form. Raises ValueError where it is none."""
        told = json.loads(canonical)
        holds, first = told.pop("holds"), told.pop("first")
        if first is not None:
            customer = first["customer_id"]
            first |= {"account_id": UUID(first["account_id"]), "customer_id": customer and UUID(customer)}
        made = cls(**told, first=None if first is None else Divergence(**first))
        if made.holds != holds or made.canonical() != canonical:
            raise ValueError("this is no certificate in its one right form")
        return made


class _Comparison:
    """Recorded decisions against derived ones, account by account."""

    def __init__(self, agreed: Callable[[int], None]) -> None:
        self.certificate = Certificate()
        self._agreed = agreed
        self._derived: defaultdict[UUID, deque[tuple[int, Fact | None, Decision]]] = defaultdict(deque)
        self._recorded: defaultdict[UUID, deque[tuple[int, Decision]]] = defaultdict(deque)
        self._divergent: set[UUID] = set()

    def recorded(self, position: int, decision: Decision) -> None:
        self.certificate.decisions += 1
        if decision.originator_id not in self._divergent:
            self._recorded[decision.originator_id].append((position, decision))
            self._match(decision.originator_id)

    def derived(self, position: int, fact: Fact | None, account: LoyaltyAccount, decisions: Iterable[Event]) -> None:
        if account.id not in self._divergent:
            queue = self._derived[account.id]
            queue.extend((position, fact, decision) for decision in decisions if isinstance(decision, Decision))
            self._match(account.id)

    def _match(self, account_id: UUID) -> None:
        derived, recorded = self._derived[account_id], self._recorded[account_id]
        while derived and recorded:
            fact_at, fact, expected = derived.popleft()
            found_at, found = recorded.popleft()
            if expected.substance() != found.substance() or expected.subject_id != found.subject_id:
                self._diverge("another decision", account_id, found_at, expected, found)
                return
            if fact is not None and fact.event_id in found.facts:
                # What a fact decided at once stands behind it, recorded by the same command.
                if found_at < fact_at:
                    self._diverge("a decision before its fact", account_id, found_at, expected, found)
                    return
                if found.metadata != fact.metadata:
                    self._diverge("a decision of another command than its fact", account_id, found_at, expected, found)
                    return
            self.certificate.matched += 1
            self._agreed(found_at)

    def failed(self, position: int, event: Event | None, stream: UUID, customer: UUID | None, error: Exception) -> None:
        """The rules can't follow a history beyond an event (None: beyond a sweep)."""
        why = str(error) if isinstance(error, TallybookError) else type(error).__name__
        what = "a sweep" if event is None else f"{event.stored_name} on {_moment(event.effective_us)}"
        found = f"{what}, by which they can't go on: {why}"
        self._name("a history that the rules can't follow", stream, customer, position, "what the rules derive", found)

    def finish(self, tail: Mapping[UUID, int]) -> None:
        """Compare what is left over. `tail`: how many decisions of accounts a sweep made due, and did not record."""
        for account_id, queue in self._derived.items():
            if queue and account_id not in self._divergent:
                if len(queue) <= tail.get(account_id, 0):
                    self.certificate.pending += len(queue)
                    continue
                position, _, expected = queue[0]
                self._diverge("a missing decision", account_id, position, expected, None)
        for account_id, waiting in self._recorded.items():
            if waiting and account_id not in self._divergent:
                position, found = waiting[0]
                self._diverge("a decision that nothing derives", account_id, position, None, found)
        self.certificate.divergent_accounts = len(self._divergent)

    def _diverge(
        self, kind: str, account_id: UUID, position: int, expected: Decision | None, found: Decision | None
    ) -> None:
        one = expected or found
        if one is not None:
            self._name(kind, account_id, one.subject_id, position, describe(expected), describe(found))

    def _name(self, kind: str, stream: UUID, customer: UUID | None, position: int, expected: str, found: str) -> None:
        self._divergent.add(stream)
        first = self.certificate.first
        if first is None or position < first.position:
            self.certificate.first = Divergence(kind, stream, customer, position, expected, found)


def describe(decision: Event | None) -> str:
    """A decision in one line, without ids of facts."""
    if decision is None:
        return "nothing"
    parts = [
        f"{name}={_shown(name, getattr(decision, name))}"
        for name in decision.clear_fields
        if name not in ("facts", "programme", "lots", "basis", "basis_unit", "lot_id")
    ]
    return f"{decision.stored_name} on {_moment(decision.effective_us)} ({', '.join(parts)})"


def _moment(us: int) -> str:
    """A time; one that no calendar has, as the number that stands there."""
    try:
        return f"{from_us(us):%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        return f"{us} µs"


def _shown(name: str, value: Any) -> Any:
    if name.endswith("_us") and isinstance(value, int):
        return "never" if value >= NEVER else _moment(value)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def certify(
    history: Iterable[Recorded],
    total: int = 0,
    progress: Progress | None = None,
    agreed: Callable[[int], None] = lambda _: None,
    last: int = 0,
) -> Certificate:
    """Replay all facts under the rule sets then in force, and compare with the recorded decisions.

    `agreed` is told the position of each recorded decision that the facts lead to. `last`: where the history ends that
    this one is a part of.
    """
    comparison = _Comparison(agreed)
    certificate = comparison.certificate
    fed: Event | None = None
    derivation = Derivation(
        failed=lambda stream, customer, error: comparison.failed(certificate.position, fed, stream, customer, error)
    )
    for position, event in history:
        certificate.position, fed = position, event
        if isinstance(event, Decision):
            comparison.recorded(position, event)
        elif isinstance(event, Fact):
            certificate.facts += not isinstance(event, ProfileFact)
            for account, decisions in derivation.feed(event):
                comparison.derived(position, event, account, decisions)
        if progress and position % 10_000 == 0:
            progress(position, total)
    fed = None
    certificate.position = max(certificate.position, last)
    tail: dict[UUID, int] = {}
    for account, decisions in derivation.follow_sweep():
        tail[account.id] = len(decisions)
        comparison.derived(certificate.position, None, account, decisions)
    certificate.position = max(certificate.position, total)
    comparison.finish(tail)
    certificate.accounts = len(derivation.accounts)
    return certificate
