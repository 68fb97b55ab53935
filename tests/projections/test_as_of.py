"""As of, known at: every view that answers for another moment, against an oracle that reads the log and nothing else.

The oracle keeps of all events those that had taken effect by the moment asked for and that the book had recorded by
then, and works the answer out in the plainest way. Of accounts it is another book, in which only those facts happen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallybook
from tallybook.domain.control import RuleSetAdopted, Swept
from tallybook.domain.customer import (
    PROFILE_FIELDS,
    ContactPointAdded,
    ContactPointRemoved,
    CustomerChanged,
    CustomerRegistered,
    IdentifierLinked,
    IdentifierRemoved,
    InteractionRecorded,
    PurchaseRecorded,
    ReturnRecorded,
)
from tallybook.domain.events import Event, from_us, to_us
from tallybook.domain.points import Enrolled, RedemptionRequested, TierChanged
from tallybook.domain.rules import RuleSet, parse_rule_set
from tallybook.domain.ticket import TicketOpened, TicketResolved
from tallybook.loyalty import AccountView
from tallybook.projections.read_models import Recorded
from tallybook.projections.segments import Segment
from tallybook.views import ProfileView

if TYPE_CHECKING:
    from tests.projections.conftest import Shop

START = datetime(2020, 1, 1, tzinfo=UTC)
DAYS = 420
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)

# ── a history ─────────────────────────────────────────────────────────────────────────────────────────────────────

_day = st.integers(0, DAYS) | st.sampled_from([0, 31, 60, 366])
_who = st.sampled_from([0, 0, 1])
CHANGES = ["name=A", "name=B", "name", "owner=o", "owner"]
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("buy"), _day, _who, st.sampled_from([100, 5_000, 12_000, 31_000])),
        st.tuples(st.just("buy"), _day, _who, st.sampled_from([100, 5_000, 12_000, 31_000])),
        st.tuples(st.just("return"), _day, _who, st.integers(0, 3)),
        st.tuples(st.just("redeem"), _day, _who, st.sampled_from([1, 40, 400])),
        st.tuples(st.just("change"), _day, _who, st.sampled_from(CHANGES)),
        st.tuples(st.just("change"), _day, _who, st.sampled_from(CHANGES)),
        st.tuples(st.just("contact"), _day, _who, st.sampled_from(["add", "remove"])),
        st.tuples(st.just("identifier"), _day, _who, st.sampled_from(["link", "remove"])),
        st.tuples(st.just("interaction"), _day, _who, st.just(0)),
        st.tuples(st.just("ticket"), _day, _who, st.sampled_from(["open", "resolve"])),
        st.tuples(st.just("sweep"), st.integers(60, 900), _who, st.just(0)),
        st.tuples(st.just("adopt"), _day, _who, st.sampled_from([2, 3])),
        st.tuples(st.just("join"), _day, _who, st.just(0)),
    ),
    min_size=4,
    max_size=16,
)  # fmt: skip

VARIANTS: dict[int, dict[str, Any]] = {
    2: {"expiry": {"days": 30}},
    3: {
        "tiers": {"window_months": 2, "levels": [{"name": "basic", "threshold": 0}, {"name": "gold", "threshold": 99}]}
    },
}


class History:
    """Two customers' lives, told to a shop in the order of the steps; each step is recorded an hour after the last."""

    def __init__(self, shop: Shop, rules_with: Callable[..., RuleSet]) -> None:
        self.shop, self.book, self.rules_with = shop, shop.book, rules_with
        self.texts: dict[tuple[int, str], str] = {}  # the personal values, by position and field
        self.members: list[UUID] = []
        self.purchases: list[tuple[UUID, UUID]] = []
        self.points: list[tuple[UUID, UUID]] = []
        self.tickets: list[UUID] = []
        self.number = 0
        for day in (0, 31):
            self.tell(partial(self.join, START + day * DAY), name="first", value="x@example.org")

    def join(self, moment: datetime) -> None:
        customer = self.book.customers.register(name="first", email="x@example.org", effective_at=moment)
        self.members.append(customer)
        self.book.loyalty.enrol(customer, effective_at=moment)

    def tell(self, command: Callable[[], object], **texts: str) -> None:
        before = self.book.position()
        with suppress(tallybook.Refused):
            command()
        for position, event in enumerate(self.shop.history()[before:], before + 1):
            fields = [name for name in event.event.personal_fields if getattr(event.event, name) is not None]
            self.texts.update({(position, name): texts[name] for name in fields})
        self.shop.now += timedelta(hours=1)

    def take(self, what: str, day: int, who: int, detail: Any) -> None:
        self.number += 1
        customers = self.book.customers
        moment, one, text = START + day * DAY, self.members[who], f"text {self.number}"
        line = {"sku": "s", "quantity": 2, "net_minor": detail}
        if what == "buy":
            self.tell(lambda: self.purchases.append(
                (one, customers.record_purchase(one, [line], effective_at=moment).purchase_id)
            ))  # fmt: skip
        elif what == "return" and self.purchases:
            buyer, purchase = self.purchases[detail % len(self.purchases)]
            self.tell(lambda: customers.record_return(buyer, {1: 1}, purchase_id=purchase, effective_at=moment))
        elif what == "redeem":
            self.tell(lambda: self.book.loyalty.redeem(one, detail, reward="R1", effective_at=moment))
        elif what == "change":
            name, _, value = detail.partition("=")
            given: dict[str, Any] = {name: value} if value else {"clear": [name]}
            self.tell(lambda: customers.change(one, effective_at=moment, **given), name=value)
        elif what == "contact" and detail == "add":
            self.tell(lambda: self.points.append(
                (one, customers.add_contact_point(one, "phone", text, effective_at=moment))
            ), value=text)  # fmt: skip
        elif what == "contact" and self.points:
            owner, point = self.points[-1]
            self.tell(lambda: customers.remove_contact_point(owner, point, effective_at=moment))
        elif what == "identifier" and detail == "link":
            self.tell(lambda: customers.link_identifier(one, "crm", text, effective_at=moment), external_id=text)
        elif what == "identifier":
            held = [value for (_, name), value in self.texts.items() if name == "external_id"]
            for value in held[::-1]:
                self.tell(partial(customers.remove_identifier, one, "crm", value, effective_at=moment))
        elif what == "interaction":
            self.tell(lambda: customers.record_interaction(one, "visit", text=text, effective_at=moment), text=text)
        elif what == "ticket" and detail == "open":
            self.tell(lambda: self.tickets.append(
                self.book.tickets.open(one, subject=text, effective_at=moment)
            ), subject=text)  # fmt: skip
        elif what == "ticket" and self.tickets:
            self.tell(lambda: self.book.tickets.resolve(self.tickets[-1], "done", effective_at=moment))
        elif what == "sweep":
            self.tell(lambda: self.book.loyalty.sweep(moment))
        elif what == "adopt":
            rules = self.rules_with(version=str(detail), **VARIANTS[detail])
            self.tell(lambda: self.book.rules.adopt(rules, effective_at=moment))
        elif what == "join":
            self.tell(lambda: self.join(moment), name="first", value="x@example.org")


# ── the oracle ────────────────────────────────────────────────────────────────────────────────────────────────────


class Oracle:
    """What a log says as of a moment, as it was known."""

    def __init__(
        self,
        log: Sequence[Recorded],
        at: datetime,
        known: Callable[[Recorded], bool],
        texts: Mapping[tuple[int, str], str],
    ) -> None:
        self.at = at
        self.known = [one for one in log if known(one)]
        self.seen = [one for one in self.known if one.event.effective_us <= to_us(at)]
        self.texts = texts

    def about(self, customer: UUID, *kinds: type[Event]) -> list[Recorded]:
        """Events about a customer, in the order in which they took effect; at one moment, in that of recording."""
        found = [
            one for one in self.seen if one.event.subject_id == customer and (not kinds or isinstance(one.event, kinds))
        ]
        return sorted(found, key=lambda one: (one.event.effective_us, one.position))

    def profile(self, customer: UUID) -> dict[str, Any] | None:
        if not self.about(customer, CustomerRegistered):
            return None
        fields: dict[str, Any] = {}
        systems: dict[str, Any] = {}
        points: dict[UUID, Any] = {}
        for position, event in self.about(customer):
            since = from_us(event.effective_us)
            if isinstance(event, (CustomerRegistered, CustomerChanged)):
                for name in PROFILE_FIELDS:
                    if getattr(event, name) is not None:
                        fields[name] = (self.texts.get((position, name), getattr(event, name)), since, position)
                for name in getattr(event, "cleared", ()):
                    fields.pop(name, None)
            elif isinstance(event, IdentifierLinked):
                systems[event.system] = (self.texts[position, "external_id"], since, position)
            elif isinstance(event, IdentifierRemoved):
                systems.pop(event.system, None)
            elif isinstance(event, ContactPointAdded):
                points[event.point_id] = (event.kind, self.texts[position, "value"], position)
            elif isinstance(event, ContactPointRemoved):
                points.pop(event.point_id, None)
        bought: list[Any] = [event for _, event in self.about(customer, PurchaseRecorded)]
        talks = [event for _, event in self.about(customer, InteractionRecorded)]
        return {
            "fields": fields,
            "identifiers": systems,
            "contact_points": points,
            "purchases": len(bought),
            "pieces": sum(line.quantity for event in bought for line in event.lines),
            "returns": len(self.about(customer, ReturnRecorded)),
            "interactions": len(talks),
            "tickets": len(self.about(customer, TicketOpened)),
            "tickets_resolved": len(self.about(customer, TicketResolved)),
            "spent_minor": {"USD": sum(event.net_minor for event in bought)} if bought else {},
            "first_purchase_at": bought[0].effective_at if bought else None,
            "last_purchase_at": bought[-1].effective_at if bought else None,
            "last_interaction_at": talks[-1].effective_at if talks else None,
        }

    def timeline(self, customer: UUID) -> list[Any]:
        return [
            (
                position,
                event.effective_at,
                event.stored_name,
                {name: value for (at, name), value in self.texts.items() if at == position},
            )
            for position, event in self.about(customer)
        ]

    def tiers(self) -> dict[UUID, str]:
        """Tiers of customers: the recorded decision that stands last."""
        changes = [event for _, event in self.seen if isinstance(event, TierChanged)]
        return {event.subject_id: event.tier for event in changes if event.subject_id is not None}

    def segments(self) -> dict[UUID, Segment]:
        bought: dict[UUID, dict[Any, int]] = {}
        for _, event in self.seen:
            if isinstance(event, PurchaseRecorded) and event.subject_id is not None:
                days = bought.setdefault(event.subject_id, {})
                day = event.effective_at.date()
                days[day] = days.get(day, 0) + event.net_minor
        found = {}
        for customer, days in bought.items():
            first, last = min(days), max(days)
            repeats = [net for day, net in days.items() if day != first]
            # The mean, rounded half up.
            mean = (2 * sum(repeats) + len(repeats)) // (2 * len(repeats)) if repeats else 0
            found[customer] = Segment(
                customer, len(repeats), (last - first).days, (self.at.date() - first).days, mean, sum(days.values())
            )
        return found

    def external_ids(self) -> dict[UUID, str]:
        customers = {one.event.subject_id for one in self.seen if one.event.subject_id}
        found = {}
        for customer in customers:
            for position, _ in self.about(customer, IdentifierLinked, IdentifierRemoved):
                found[customer] = self.texts.get((position, "external_id"), "")
        return found

    def accounts(self, other: Shop) -> dict[UUID, AccountView]:
        """The accounts in another book, which hears of those facts only; its clock ends at the moment asked for."""
        same: dict[UUID, UUID] = {}  # ids of purchases there
        book = other.book
        for _, event in self.known:
            moment = event.effective_at
            other.now = max(other.now, event.recorded_at)
            if isinstance(event, RuleSetAdopted):
                book.rules.adopt(parse_rule_set(json.loads(event.document), "log"), effective_at=moment)
            elif isinstance(event, Swept) and event.until_us <= to_us(self.at):
                book.loyalty.sweep(from_us(event.until_us))
            elif isinstance(event, CustomerRegistered):
                # No matter when it took effect: an account reacts to nothing of it.
                book.customers.register(customer_id=event.subject_id, effective_at=moment)
            elif event.subject_id is None or event.effective_us > to_us(self.at):
                continue
            elif isinstance(event, Enrolled):
                book.loyalty.enrol(event.subject_id, effective_at=moment)
            elif isinstance(event, PurchaseRecorded):
                bought = book.customers.record_purchase(event.subject_id, event.lines, effective_at=moment)
                same[event.event_id] = bought.purchase_id
            elif isinstance(event, ReturnRecorded):
                lines = {line.line: line.quantity for line in event.lines}
                book.customers.record_return(
                    event.subject_id, lines, purchase_id=same[event.purchase_id], effective_at=moment
                )
            elif isinstance(event, RedemptionRequested):
                other.redeem(event.subject_id, moment.isoformat(), event.points)
        other.now = self.at
        enrolled = {one.event.subject_id for one in self.seen if isinstance(one.event, Enrolled)}
        return {customer: book.loyalty.account(customer) for customer in enrolled if customer}


# ── what the views say, in the oracle's words ─────────────────────────────────────────────────────────────────────


def moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def shown(view: ProfileView) -> dict[str, Any]:
    def fields(given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: (one.value, moment(one.since), one.position) for name, one in given.items()}

    return {
        "fields": fields(view.fields),
        "identifiers": fields(view.identifiers),
        "contact_points": {one.point_id: (one.kind, one.value, one.position) for one in view.contact_points},
        **{
            name: getattr(view, name)
            for name in ("purchases", "pieces", "returns", "interactions", "tickets", "tickets_resolved")
        },
        "spent_minor": dict(view.spent_minor),
        **{
            name: moment(getattr(view, name))
            for name in ("first_purchase_at", "last_purchase_at", "last_interaction_at")
        },
    }


def or_none(question: Callable[[], Any], code: str) -> Any:
    """The answer; None where it is refused with that code."""
    try:
        return question()
    except tallybook.Refused as refused:
        if refused.code != code:
            raise
        return None


def lots_apart(view: AccountView | None) -> Any:
    """An account without ids of lots, which differ from book to book."""
    return view and (replace(view, lots=()), [(lot.points, lot.earned_at, lot.expires_at) for lot in view.lots])


def check_views(history: History, oracle: Oracle, asked: Mapping[str, Any]) -> None:
    """All views but the account, and the account's sums."""
    book = history.book
    for customer in history.members:
        view = or_none(partial(book.profiles.get, customer, **asked), "unknown_customer")
        assert (view and shown(view)) == oracle.profile(customer)
        timeline = or_none(partial(book.profiles.timeline, customer, **asked), "unknown_customer")
        assert [
            (one.position, moment(one.effective_at), one.action, dict(one.texts)) for one in timeline or ()
        ] == oracle.timeline(customer)
    tiers = oracle.tiers()
    held = {one.customer_id: tier for tier in ("basic", "silver", "gold") for one in book.tiers.members(tier, **asked)}
    assert held == tiers
    assert book.tiers.counts(**asked) == {tier: list(tiers.values()).count(tier) for tier in set(tiers.values())}
    segments = oracle.segments()
    assert dict(book.profiles.segments(**asked)) == {str(customer): one for customer, one in segments.items()}
    names = oracle.external_ids()
    assert sorted((name, one.customer_id) for name, one in book.profiles.segments(system="crm", **asked)) == sorted(
        (names.get(customer, ""), customer) for customer in segments
    )


# ── the properties ────────────────────────────────────────────────────────────────────────────────────────────────

# A moment is that of an event of the history, or just beside it.
_moments = st.none() | st.tuples(
    st.integers(0, 60), st.sampled_from([-MICROSECOND, timedelta(), timedelta(), MICROSECOND, timedelta(hours=13)])
)
_knowledge = st.none() | st.tuples(
    st.integers(0, 60), st.sampled_from(["position", "time", "just before", "just after"])
)
_questions = st.lists(st.tuples(_moments, _knowledge), min_size=4, max_size=6)


def asking(history: History, when: Any, knowledge: Any) -> tuple[datetime, Callable[[Recorded], bool], dict[str, Any]]:
    """A question, and what it means: the moment, which events are known, the arguments."""
    log = history.shop.history()
    asked: dict[str, Any] = {}
    at = history.shop.now
    if when is not None:
        at = log[-1 - when[0] % len(log)].event.effective_at + when[1]
        asked["as_of"] = at
    if knowledge is None:
        return at, lambda one: True, asked
    # From the end: what is asked about is seldom the beginning.
    back, how = knowledge
    position = max(len(log) + 2 - back, 0)
    if how == "position":
        asked["known_at"] = position
        return at, lambda one: one.position <= position, asked
    nudge = {"time": timedelta(), "just before": -MICROSECOND, "just after": MICROSECOND}[how]
    known_at = log[min(max(position, 1), len(log)) - 1].event.recorded_at + nudge
    asked["known_at"] = known_at
    return at, lambda one: one.event.recorded_at <= known_at, asked


@settings(max_examples=60, deadline=None, print_blob=True)
@given(steps=_steps, questions=_questions)
def test_every_view_answers_by_effective_and_by_recorded_time(
    open_shop: Callable[..., Shop], rules_with: Callable[..., RuleSet], steps: list[Any], questions: list[Any]
) -> None:
    shop = open_shop()
    history = History(shop, rules_with)
    for step in steps:
        history.take(*step)
    for question in questions:
        at, known, asked = asking(history, *question)
        oracle = Oracle(shop.history(), at, known, history.texts)
        check_views(history, oracle, asked)
        other = open_shop(adopted=False)
        wanted = oracle.accounts(other)
        for customer in history.members:
            view = or_none(partial(shop.book.loyalty.account, customer, **asked), "not_enrolled")
            assert lots_apart(view) == lots_apart(wanted.get(customer))
        other.close()
    shop.close()


@settings(max_examples=25, deadline=None, print_blob=True)
@given(steps=_steps)
def test_as_of_now_and_known_at_the_head_is_what_the_live_read_models_say(
    open_shop: Callable[..., Shop], rules_with: Callable[..., RuleSet], steps: list[Any]
) -> None:
    shop = open_shop()
    history = History(shop, rules_with)
    for step in steps:
        history.take(*step)
    oracle = Oracle(shop.history(), shop.now, lambda one: True, history.texts)
    for asked in ({}, {"as_of": shop.now}, {"known_at": shop.book.position()}, {"known_at": 2**62}):
        check_views(history, oracle, asked)
    shop.book.projections.rebuild()
    check_views(history, oracle, {})
    shop.close()


# ── boundaries ────────────────────────────────────────────────────────────────────────────────────────────────────

NOON = "2023-06-01T12:00:00Z"


@pytest.fixture
def told_late(shop: Shop) -> tuple[Shop, UUID, int]:
    """Ada is known since January. On 10 January 2024 the book hears what happened on 1 June 2023 at noon."""
    ada = shop.member("2020-01-01", owner="before")
    shop.now = datetime(2024, 1, 10, tzinfo=UTC)
    known = shop.book.position()
    shop.book.customers.change(ada, owner="after", effective_at=NOON)
    shop.book.customers.record_purchase(ada, [{"sku": "s", "quantity": 1, "net_minor": 15_000}], effective_at=NOON)
    shop.now = datetime(2024, 2, 1, tzinfo=UTC)
    return shop, ada, known


def answers(shop: Shop, ada: UUID, **asked: Any) -> tuple[Any, ...]:
    """What each view says of whether the noon of 1 June has come: owner, purchases, tier, balance, segments."""
    book = shop.book
    return (
        or_none(lambda: book.profiles.get(ada, **asked)["owner"], "unknown_customer"),
        or_none(lambda: book.profiles.get(ada, **asked).purchases, "unknown_customer"),
        or_none(lambda: len(book.profiles.timeline(ada, **asked)), "unknown_customer"),
        set(book.tiers.counts(**asked)),
        or_none(lambda: book.loyalty.balance(ada, **asked), "not_enrolled"),
        or_none(lambda: book.loyalty.account(ada, **asked).tier, "not_enrolled"),
        [one.total_minor for _, one in book.profiles.segments(**asked)],
    )


NOTHING: Any = (None, None, None, set(), None, None, [])
BEFORE: Any = ("before", 0, 4, {"basic"}, 0, "basic", [])
AFTER: Any = ("after", 1, 8, {"silver"}, 150, "silver", [15_000])


@pytest.mark.parametrize(
    ("as_of", "wanted"),
    [
        ("2023-06-01T12:00:00Z", AFTER),
        ("2023-06-01T11:59:59.999999Z", BEFORE),
        ("2023-06-01T14:00:00+02:00", AFTER),
        ("2023-06-01T13:59:59.999999+02:00", BEFORE),
        ("2023-06-01T06:00:00-06:00", AFTER),
        (datetime(2023, 6, 1, 12, tzinfo=UTC), AFTER),
        (datetime(2023, 6, 1, 19, 59, 59, tzinfo=timezone(timedelta(hours=8))), BEFORE),
        ("2023-06-01", AFTER),  # all of that day
        ("2023-05-31", BEFORE),
        ("2020-01-01T00:00:00Z", BEFORE),
        ("2019-12-31T23:59:59.999999Z", NOTHING),
        ("0002-01-01", NOTHING),
    ],
)
def test_every_view_knows_the_moment_exactly(told_late: tuple[Shop, UUID, int], as_of: Any, wanted: Any) -> None:
    shop, ada, _ = told_late
    assert answers(shop, ada, as_of=as_of) == wanted


@pytest.mark.parametrize(
    ("known_at", "wanted"),
    [
        ("2024-01-10T00:00:00Z", AFTER),
        ("2024-01-09T23:59:59.999999Z", BEFORE),
        ("2024-01-10T01:00:00+01:00", AFTER),
        ("2024-01-10", AFTER),  # all of that day
        ("2024-01-09", BEFORE),
        ("2023-12-31", NOTHING),
        (0, NOTHING),
        (2**62, AFTER),
        ("8999-12-31", AFTER),
    ],
)
def test_every_view_knows_what_was_known_exactly(told_late: tuple[Shop, UUID, int], known_at: Any, wanted: Any) -> None:
    shop, ada, _ = told_late
    assert answers(shop, ada, known_at=known_at) == wanted


def test_a_position_is_the_last_event_that_was_known(told_late: tuple[Shop, UUID, int]) -> None:
    shop, ada, known = told_late
    assert answers(shop, ada, known_at=known) == BEFORE
    head = shop.book.position()
    assert answers(shop, ada, known_at=head) == AFTER
    # Between a fact and its decisions, what is derived from facts is ahead of what tells the recorded decisions.
    names = [one.event.stored_name for one in shop.history()]
    at = names.index("customer.purchase_recorded") + 1
    assert answers(shop, ada, known_at=at) == ("after", 1, 6, {"basic"}, 150, "silver", [15_000])


def test_moment_and_knowledge_together_show_what_came_late(told_late: tuple[Shop, UUID, int]) -> None:
    shop, ada, known = told_late
    for as_of, known_at, wanted in (
        ("2023-06-02", known, BEFORE),
        ("2023-06-02", shop.book.position(), AFTER),
        ("2023-05-31", shop.book.position(), BEFORE),
        ("2023-06-02", "2024-01-09", BEFORE),
        ("2023-06-02", "2024-01-10", AFTER),
        ("2019-01-01", "2024-01-10", NOTHING),
        ("2023-06-02", 0, NOTHING),
    ):
        assert answers(shop, ada, as_of=as_of, known_at=known_at) == wanted


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"as_of": "2023-06-01T12:00:00"}, "naive_time"),
        ({"as_of": datetime(2023, 6, 1)}, "naive_time"),  # noqa: DTZ001 - naive on purpose
        ({"known_at": datetime(2023, 6, 1)}, "naive_time"),  # noqa: DTZ001 - naive on purpose
        ({"as_of": "yesterday"}, "invalid_argument"),
        ({"as_of": "2020-02-30"}, "invalid_argument"),
        ({"as_of": 5}, "invalid_argument"),
        ({"known_at": -1}, "invalid_argument"),
        ({"known_at": True}, "invalid_argument"),
        ({"known_at": 1.5}, "invalid_argument"),
        ({"known_at": "9999-12-31"}, "invalid_argument"),
    ],
)
def test_every_view_refuses_what_is_no_moment(told_late: tuple[Shop, UUID, int], asked: Any, code: str) -> None:
    shop, ada, _ = told_late
    book = shop.book
    questions: list[Callable[..., Any]] = [
        partial(book.profiles.get, ada), partial(book.profiles.timeline, ada), book.profiles.segments,
        book.tiers.counts, partial(book.tiers.members, "basic"),
        partial(book.loyalty.account, ada), partial(book.loyalty.balance, ada),
    ]  # fmt: skip
    for question in questions:
        with pytest.raises(tallybook.Refused) as refused:
            question(**asked)
        assert refused.value.code == code
