"""`book.loyalty.explain`, `explain_account` and `statement`: why an account holds what it holds. No personal value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from itertools import takewhile
from typing import Any, Literal, NamedTuple
from uuid import UUID

from tallybook.adapters.reports import Column, Kind, Section, as_csv
from tallybook.domain.account import Account
from tallybook.domain.control import Control
from tallybook.domain.errors import refusal, text
from tallybook.domain.events import Event
from tallybook.domain.loyalty import LoyaltyAccount, account_id
from tallybook.domain.points import Enrolled, LoyaltyDecision, PointsEarned
from tallybook.projections.corrections import Corrections
from tallybook.projections.read_models import Recorded
from tallybook.projections.reasons import Explained, explained
from tallybook.projections.statement import Booked, Movement, stated

from .core import LOOKING, Core
from .customers import as_id
from .times import When, as_of_us, iso, since_us

Order = Literal["recorded", "effective"]


@dataclass(frozen=True, slots=True)
class FactView:
    """A fact that a decision rests on. `says` holds its clear fields; personal ones stay sealed."""

    fact_id: UUID
    position: int
    kind: str
    effective_at: str
    recorded_at: str
    says: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class MoveView:
    """So many points of a lot went from one bucket to another."""

    lot_id: UUID
    source: str
    target: str
    points: int

    def __str__(self) -> str:
        return f"{self.lot_id}:{self.source}>{self.target}:{self.points}"


@dataclass(frozen=True, slots=True)
class ArithmeticLine:
    """A line of arithmetic: `what` it gives (a place in the decision, or a step towards one), `how`, and the number.

    `how` is written with + − × /, parentheses, min, max, floor, ceil, half_up, half_even.
    """

    what: str
    how: str
    gives: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a decision fell: the facts, the rule set that was in force, what each rule gave, the arithmetic, the lots.

    `correction`: it rests on a late fact (docs/loyalty-statements.md). `agrees`: the arithmetic, made from the
    account as it stood, gives the amounts that were recorded.
    """

    decision_id: UUID
    position: int
    kind: str
    account_id: UUID
    customer_id: UUID
    programme: str
    effective_at: str
    recorded_at: str
    actor: str
    rules: str
    digest: str | None
    correction: bool
    agrees: bool
    says: Mapping[str, Any] = field(repr=False)
    facts: tuple[FactView, ...] = field(repr=False)
    why: tuple[str, ...]
    arithmetic: tuple[ArithmeticLine, ...] = field(repr=False)
    moves: tuple[MoveView, ...] = field(repr=False)
    inputs: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StatementLine:
    """A movement: `points_in` came from outside, `points_out` went there; balances are those after it.

    `recorded_at`, `position` and `decision_id` are None for what is due and not recorded yet. `correction`: it rests on
    a late fact, as its explanation says.
    """

    effective_at: str
    recorded_at: str | None
    position: int | None
    decision_id: UUID | None
    kind: str
    what: str
    facts: tuple[UUID, ...]
    rules: str
    rule_ids: tuple[str, ...]
    points_in: int
    points_out: int
    lots: tuple[MoveView, ...]
    active: int
    pending: int
    held: int
    debt: int
    correction: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """An account over a period, both ends included: balances by bucket when it began, movements, balances at its end.

    `order` says by which date a movement belongs to the period, and in which order they stand.
    """

    account_id: UUID
    customer_id: UUID
    programme: str
    start: str | None
    end: str
    order: Order
    opening: Mapping[str, int]
    lines: tuple[StatementLine, ...]
    closing: Mapping[str, int]

    def csv(self) -> str:
        """As RFC 4180 has it: a line a movement, between one for the opening and one for the closing balances.

        `lots` holds `lot:source>target:points`, apart by spaces.
        """
        head = [Column("line"), *(Column(name, Kind.COUNT if name in _COUNTS else Kind.TEXT) for name in _COLUMNS)]
        edges = {name: ["" if one not in HELD else balances[one] for one in _COLUMNS]
                 for name, balances in (("opening", self.opening), ("closing", self.closing))}  # fmt: skip
        rows = [["movement", *(_cell(getattr(one, name)) for name in _COLUMNS)] for one in self.lines]
        return as_csv(
            Section(
                "Statement",
                columns=tuple(head),
                rows=[["opening", *edges["opening"]], *rows, ["closing", *edges["closing"]]],
            )
        )


HELD = ("active", "pending", "held", "debt")
"""What an account has, and what it owes: balances that a statement shows after each movement."""
_COLUMNS = (
    "effective_at", "recorded_at", "position", "decision_id", "kind", "what", "facts", "rules", "rule_ids", "points_in",
    "points_out", *HELD, "correction", "lots",
)  # fmt: skip
_COUNTS = ("position", "points_in", "points_out", *HELD)


def _cell(value: object) -> object:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return {True: "yes", False: ""}[value] if isinstance(value, bool) else value


class Found(NamedTuple):
    """An account that is there."""

    account_id: UUID
    customer_id: UUID
    programme: str


def find_account(core: Core, given: UUID | str, programme: str) -> Found:
    """The account of a customer in a programme, or the one with that id. Refuses: not_enrolled, invalid_argument."""
    found = as_id(given, "customer")
    text(programme, "programme")
    for stream in (account_id(found, programme), found):
        rows = core.app.log.stream_rows(stream, limit=1)
        if rows and rows[0][2] == Enrolled.stored_name:
            account = core.app.load(LoyaltyAccount, stream)
            assert account.customer_id is not None
            return Found(stream, account.customer_id, account.programme)
    raise refusal("not_enrolled", f"The customer has no account in {programme}.", customer=found)


# ── explanations ──────────────────────────────────────────────────────────────────────────────────────────────────


def explain(core: Core, decision: UUID | str) -> Explanation:
    """See `LoyaltyDesk.explain`."""
    core.check_open()
    wanted = as_id(decision, "decision")
    for position, event in core.at(core.app.log.holding(wanted.bytes)):
        if event.event_id == wanted and isinstance(event, LoyaltyDecision) and event.subject_id is not None:
            told = history(core, event.subject_id, event.originator_id)
            [found] = explained(takewhile(_up_to(position), told), lambda one: one.event.event_id == wanted)
            return _explanation(found)
    raise refusal("unknown_decision", "No decision about an account has that id.", decision=wanted)


def explain_account(
    core: Core, customer: UUID | str, programme: str, as_of: When | None, known_at: When | int | None
) -> list[Explanation]:
    """See `LoyaltyDesk.explain_account`."""
    core.check_open()
    found = find_account(core, customer, programme)
    known = core.known(known_at)
    until_us = core.now_us() if as_of is None else as_of_us(as_of)

    told = filter(known, history(core, found.customer_id, found.account_id))
    return [_explanation(one) for one in explained(told, lambda one: one.event.effective_us <= until_us)]


def history(core: Core, customer: UUID, account: UUID) -> Iterator[Recorded]:
    """All that an account's decisions rest on, in order: its own stream, its customer's, the book's."""
    streams = (core.stream(one) for one in (core.book_id, customer, account))
    return merge(*streams, key=lambda one: one.position)


def _up_to(position: int) -> Callable[[Recorded], bool]:
    return lambda one: one.position <= position


def _says(event: Event) -> dict[str, Any]:
    """The clear fields of an event, as JSON has them."""
    return event.model_dump(mode="json", include=set(event.clear_fields), exclude_none=True)


def _time(us: int) -> str:
    return iso(us) or ""


def _explanation(one: Explained) -> Explanation:
    position, event = one.recorded
    assert isinstance(event, LoyaltyDecision)
    assert event.subject_id is not None
    return Explanation(
        event.event_id,
        position,
        event.stored_name,
        one.account_id,
        event.subject_id,
        event.programme,
        _time(event.effective_us),
        _time(event.metadata.recorded_us),
        event.metadata.actor,
        event.rules,
        None if one.rules is None else one.rules.rule_set.digest(),
        one.late is not None,
        one.reason.agrees,
        {name: value for name, value in _says(event).items() if name not in ("rules", "facts", "programme")},
        tuple(
            FactView(
                fact.event_id,
                at,
                fact.stored_name,
                _time(fact.effective_us),
                _time(fact.metadata.recorded_us),
                _says(fact),
            )
            for at, fact in one.facts
        ),
        tuple(one.reason.steps),
        tuple(ArithmeticLine(*line) for line in one.reason.sums),
        _moves(event),
        one.reason.inputs,
    )


def _moves(decision: LoyaltyDecision) -> tuple[MoveView, ...]:
    return tuple(MoveView(*move) for move in decision.moves() if move.points)


# ── statements ────────────────────────────────────────────────────────────────────────────────────────────────────


def statement(
    core: Core,
    customer: UUID | str,
    programme: str,
    start: When | None,
    end: When | None,
    order: Order,
    known_at: When | int | None,
) -> Statement:
    """See `LoyaltyDesk.statement`."""
    core.check_open()
    if order not in ("recorded", "effective"):
        raise refusal("invalid_argument", "order: recorded or effective is wanted.", argument="order")
    found = find_account(core, customer, programme)
    known, now_us = core.known(known_at), core.now_us()
    if known_at is not None and not isinstance(known_at, int):
        now_us = min(now_us, as_of_us(known_at, "known_at"))
    start_us = -(2**62) if start is None else since_us(start, "start")
    end_us = now_us if end is None else as_of_us(end, "end")
    if end_us < start_us:
        raise refusal("invalid_argument", "end: it lies before the start.", argument="end")
    told = list(filter(known, history(core, found.customer_id, found.account_id)))
    control = Control.fold(None, (event for _, event in told if event.originator_id == core.book_id))
    account = LoyaltyAccount.fold(None, (event for _, event in told if event.originator_id == found.account_id))
    if account is None or control is None:
        raise refusal("not_enrolled", "The book did not know of that account by then.", customer=found.customer_id)
    corrections = Corrections()
    decisions = []
    for one in told:
        late = corrections.late(one)
        if isinstance(one.event, LoyaltyDecision):
            decisions.append(Booked(one.position, one.event, late is not None))
    if end_us >= now_us or order == "effective":
        decisions += _due(account, control, min(end_us, now_us))
    period = stated(decisions, start_us, end_us, now_us, by_effective=order == "effective")
    return Statement(
        found.account_id,
        found.customer_id,
        found.programme,
        None if start is None else iso(start_us),
        _time(end_us),
        order,
        period.opening,
        tuple(_line(one) for one in period.movements),
        period.closing,
    )


def _due(account: Account, control: Control, until_us: int) -> Iterator[Booked]:
    """What time alone has made due, and nobody has recorded yet."""
    journal: list[Event] = []
    draft = account.draft(journal)
    assert isinstance(draft, LoyaltyAccount)
    draft.settle(LOOKING, until_us, control)
    return (Booked(None, event) for event in journal if isinstance(event, LoyaltyDecision))


def _line(movement: Movement) -> StatementLine:
    position, decision, correction = movement.booked
    after = movement.after
    return StatementLine(
        _time(decision.effective_us),
        None if position is None else _time(decision.metadata.recorded_us),
        position,
        None if position is None else decision.event_id,
        decision.stored_name,
        _what(decision),
        decision.facts,
        decision.rules,
        decision.rule_ids if isinstance(decision, PointsEarned) else (),
        movement.into,
        movement.out_of,
        _moves(decision),
        after["active"],
        after["pending"],
        after["held"],
        after["debt"],
        correction,
    )


def _what(decision: LoyaltyDecision) -> str:
    """A movement in a few words."""
    about = next(
        (
            value
            for name in ("rule_ids", "reward", "source", "reason")
            if (value := getattr(decision, name, None)) not in (None, ())
        ),
        "",
    )
    told = decision.stored_name.rpartition(".")[2].replace("_", " ")
    named = ", ".join(about) if isinstance(about, tuple) else str(about)
    return f"{told}: {named}" if named else told
