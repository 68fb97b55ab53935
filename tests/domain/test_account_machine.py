"""Random lives of an account, under random rule sets, against a plain model; what must always hold, after each step.

The noted run: `python -m tests.domain.test_account_machine SEED EXAMPLES STEPS` plays so many lives of so many steps,
and tells how many steps that were.
"""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.columnar import both
from tests.domain.conftest import World, rule_set
from tests.domain.plain_model import CONDITIONS, LINE_CONDITIONS, Plain

from tallybook.adapters.rule_files import frozen_zone
from tallybook.adapters.snapshots import differing, packed, restored
from tallybook.domain.calendar import DAY_US
from tallybook.domain.customer import Line
from tallybook.domain.earning import Rules, cohort
from tallybook.domain.errors import Refused
from tallybook.domain.loyalty import ATTEMPTS, LoyaltyAccount
from tallybook.domain.points import (
    BUCKETS,
    DEBT,
    PLACES,
    SINKS,
    SOURCES,
    AccountClosed,
    AccountResumed,
    AccountSuspended,
    ActivityRecorded,
    CorrectionRecorded,
    CouponGranted,
    CouponUsed,
    CouponVoided,
    EarningConfirmed,
    EarningWithdrawn,
    ExtensionGranted,
    GoodwillGranted,
    HoldReleaseRequested,
    HoldRequested,
    LoyaltyDecision,
    NewLot,
    RedemptionRequested,
    RedemptionReturned,
    ReferralCredited,
    ReferralReduced,
    ReinstatementGranted,
    TierOverridden,
    TierOverrideLifted,
    TransferReceived,
    TransferRequested,
    lot_of,
)
from tallybook.projections.columnar import executor
from tallybook.projections.reasons import explained
from tallybook.projections.replay import certify

START = 18_262 * DAY_US
HOUR = DAY_US // 24
ENDS = "exact", "month_end", "year_end"
TIERS = "basic", "silver", "gold", "platinum"
STEPS = [0]
COMPILED = [False]

# ── rule sets ─────────────────────────────────────────────────────────────────────────────────────────────────────

expiries = st.one_of(
    st.just({"never": True}),
    st.builds(
        lambda days, until, since: {"days": days, "until": until, "from": since},
        st.sampled_from([1, 10, 45, 200, 400]), st.sampled_from(ENDS), st.sampled_from(["earned", "activated"]),
    ),
    st.builds(
        lambda months, until, since: {"months": months, "until": until, "from": since},
        st.sampled_from([1, 3, 12]), st.sampled_from(ENDS), st.sampled_from(["earned", "activated"]),
    ),
    st.just({"months": 0, "until": "year_end"}),
)  # fmt: skip
pendings = st.sampled_from(
    [None, None, {"days": 3}, {"days": 30}, {"confirmed": True}, {"confirmed": True, "days": 20}]
)
caps = st.fixed_dictionaries(
    {},
    optional={period: st.sampled_from([0, 30, 200, 900]) for period in ("event", "day", "month", "year")},
)
sometimes_caps: st.SearchStrategy[dict[str, int]] = st.one_of(st.just({}), st.just({}), caps)


def without_none(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value is not None}


def giving(on: str) -> dict[str, Any]:
    conditions: dict[str, list[str | None]] = {
        "purchase": [None, None, "order.net_minor >= 2000", "account.tier in ['silver', 'gold']"],
        "activity": [None, "activity.quantity > 2"],
        "referral": [None, "referral.number <= 2"],
        "enrolment": [None],
    }
    return {
        "on": st.just(on),
        "when": st.sampled_from(conditions[on]),
        "starts": st.sampled_from([None, None, "2020-03-10"]),
        "ends": st.sampled_from([None, None, "2021-02-28"]),
        "points": st.sampled_from([1, 2, 7, 50, 120]),
        "gives": st.sampled_from(["both", "both", "points", "qualifying"]),
        "group": st.sampled_from([None, None, "one", "two"]),
        "multiplied": st.booleans(),
        "caps": sometimes_caps,
        "expiry": st.one_of(st.none(), st.none(), expiries),
        "pending": pendings,
        "campaign": st.sampled_from([None, "spring"]),
        "control_percent": st.sampled_from([0, 0, 50]),
    }


fixed = st.sampled_from(["purchase", "activity", "enrolment", "referral"]).flatmap(
    lambda on: st.fixed_dictionaries({**giving(on), "kind": st.just("fixed")})
)
by_amount = st.fixed_dictionaries({
    **giving("purchase"),
    "kind": st.just("per_amount"),
    "per_minor": st.sampled_from([100, 100, 250, 999]),
    "whole": st.booleans(),
    "lines": st.sampled_from([None, None, *LINE_CONDITIONS]),
})  # fmt: skip
by_pieces = st.sampled_from(["purchase", "activity"]).flatmap(
    lambda on: st.fixed_dictionaries({
        **giving(on),
        "kind": st.just("per_amount"),
        "per_quantity": st.sampled_from([1, 2, 3]),
        "whole": st.booleans(),
        "lines": st.sampled_from([None, *LINE_CONDITIONS]) if on == "purchase" else st.none(),
    })
)  # fmt: skip
multipliers = st.fixed_dictionaries({
    "kind": st.just("multiplier"),
    "factor": st.sampled_from(["2", "3/2", "5/3", "1/2"]),
    "when": st.sampled_from([None, "order.net_minor >= 2000", "account.tier in ['silver', 'gold']"]),
})  # fmt: skip
ladders = st.one_of(
    st.fixed_dictionaries({
        "window": st.just("rolling"), "window_months": st.sampled_from([1, 3, 12]),
        "downgrade": st.sampled_from(["straight", "never"]),
        "grace_days": st.sampled_from([0, 0, 10, 60]), "hold_months": st.sampled_from([0, 0, 2, 7]),
    }),
    st.fixed_dictionaries({
        "window": st.just("rolling"), "window_months": st.sampled_from([1, 3, 12]), "downgrade": st.just("one_step"),
        "grace_days": st.sampled_from([0, 10]), "hold_months": st.sampled_from([1, 7]),
    }),
    st.fixed_dictionaries({
        "window": st.sampled_from(["calendar_year", "membership_year", "lifetime"]),
        "downgrade": st.sampled_from(["straight", "one_step", "never"]),
        "grace_days": st.sampled_from([0, 0, 31]), "hold_months": st.sampled_from([0, 0, 14]),
    }),
    st.fixed_dictionaries({
        "window": st.just("lifetime"), "basis": st.just("balance"),
        "downgrade": st.sampled_from(["straight", "one_step", "never"]),
    }),
)  # fmt: skip
REWARDS: list[dict[str, Any]] = [
    {"id": "mug", "price": 20, "coupon_days": 40},
    {"id": "pen", "price": 10, "coupon_days": 5, "voided": "forfeited"},
    {"id": "lounge", "price": 30, "tiers": ["silver", "gold"]},
    {"id": "vip", "price": 15, "segments": ["best"], "counted": True},
    {"id": "print", "price": 15, "coupon_days": 20, "counted": True},
]


@st.composite
def rule_sets(draw: st.DrawFn) -> dict[str, Any]:
    """A document over all policies."""
    earning = [draw(by_amount), *draw(st.lists(st.one_of(fixed, by_amount, by_pieces, multipliers), max_size=4))]
    for number, one in enumerate(earning):
        one["id"] = f"rule{number}"
        if one.get("control_percent") and not one.get("campaign"):
            one["control_percent"] = 0
    steps = draw(st.sampled_from([(60, 200), (100, 300, 900), (1, 2)]))
    levels: list[dict[str, Any]] = [
        {"name": name, "threshold": at} for name, at in zip(TIERS, (0, *steps), strict=False)
    ]
    for level in levels[1:]:
        level["keep"] = level["threshold"] if draw(st.booleans()) else level["threshold"] // 2
        level["multiplier"] = draw(st.sampled_from(["1", "1", "5/4", "2"]))
        level["grants"] = draw(st.sampled_from([[], [], ["mug"], ["pen", "mug"]]))
    keeps = [level["keep"] for level in levels[1:]]
    if keeps != sorted(keeps):
        for level in levels[1:]:
            level["keep"] = level["threshold"]
    rewards = draw(st.sampled_from([[], REWARDS]))
    if not rewards:
        for level in levels[1:]:
            level["grants"] = []
    groups = {one["group"] for one in earning if one.get("group")}
    return without_none({
        "earning": [without_none(one) for one in earning],
        "groups": {name: draw(st.sampled_from(["best", "first"])) for name in sorted(groups)},
        "caps": draw(sometimes_caps),
        "rounding": draw(st.sampled_from(["floor", "ceil", "half_up", "half_even"])),
        "amount": {
            "include": draw(st.sampled_from([["net"], ["net", "tax"], ["net", "tax", "shipping"]])),
            **draw(st.sampled_from([{}, {"exclude": "line.category == 'gift'"}])),
        },
        "expiry": draw(expiries),
        "inactivity_months": draw(st.sampled_from([None, None, 1, 6])),
        "pending": draw(pendings),
        "refunds": {
            "earning": draw(st.sampled_from(["pending_only", "within_balance", "debt", "debt"])),
            "redemption": draw(st.sampled_from(["original", "new_lot"])),
        },
        "transfers": {"allowed": draw(st.sampled_from([True, True, False])), "keep_ages": draw(st.booleans())},
        "limits": draw(st.sampled_from([
            [], [], [],
            [{"on": "earn", "period": "day", "points": 300}, {"on": "redeem", "period": "month", "count": 2}],
            [{"on": "redeem", "period": "year", "points": 100}, {"on": "transfer", "period": "day", "count": 1}],
            [{"on": "earn", "period": "month", "count": 3}],
        ])),
        "rewards": rewards,
        "tiers": {**draw(ladders), "qualify": draw(st.sampled_from(["points", "base"])), "levels": levels},
        "zone": draw(st.sampled_from(["UTC", "America/New_York", "Asia/Shanghai", "Europe/Berlin"])),
    })  # fmt: skip


# ── lives ─────────────────────────────────────────────────────────────────────────────────────────────────────────

some_points = st.sampled_from([1, 5, 20, 60, 150, 1000])
which = st.integers(0, 50)
gaps = st.one_of(
    st.sampled_from([0, 0, 1, HOUR, DAY_US, 3 * DAY_US]),
    st.sampled_from([0, HOUR, DAY_US]),
    st.integers(0, 6).map(lambda days: days * DAY_US),
    st.integers(0, 60).map(lambda days: days * DAY_US),
    st.integers(0, 500 * 24).map(lambda hours: hours * HOUR),
    st.sampled_from([-HOUR, -DAY_US, -40 * DAY_US, -400 * DAY_US]),
)
a_line = st.fixed_dictionaries({
    "sku": st.just("s"),
    "quantity": st.integers(1, 4),
    "net_minor": st.one_of(st.just(0), st.integers(0, 30_000)),
    "tax_minor": st.sampled_from([0, 0, 77]),
    "shipping_minor": st.sampled_from([0, 0, 500]),
    "category": st.sampled_from(["gift", "food"]),
})  # fmt: skip
LATER = st.integers(0, 500).map(lambda days: days * DAY_US)


class AccountMachine(RuleBasedStateMachine):
    """One account and its plain twin."""

    @initialize(rules=rule_sets(), other=rule_sets(), at=st.integers(0, 400 * 24), start=st.sampled_from([0, 400]))
    def enrol(self, rules: dict[str, Any], other: dict[str, Any], at: int, start: int) -> None:
        parsed = rule_set(**rules)
        candidate = rule_set(**other)
        self.other = Rules(candidate, frozen_zone(candidate.zone))
        self.world = World(parsed, zone=frozen_zone(parsed.zone))
        self.now = self.first = START + at * HOUR
        self.world.enrol(self.now)
        stream = self.world.accounts["ada"].id
        cohorts = {"spring": cohort(stream, "spring")}
        self.plain = Plain(parsed.model_dump(mode="json", by_alias=True), cohorts)
        fact = next(event for event in self.world.log if event.stored_name == "loyalty.enrolled")
        self.plain.tell("enrol", fact.event_id.int, self.now)
        self.bought: dict[UUID, list[dict[str, Any]]] = {}
        self.facts: list[int] = []
        self.redeemed: list[int] = []
        self.credited: list[tuple[int, list[int]]] = []
        self.held: list[int] = []
        self.number = 0
        if start:
            self.says(GoodwillGranted, "goodwill", self.now, {"points": start}, points=start, reason="welcome")

    @staticmethod
    def _lot(key: tuple[int, int]) -> UUID:
        return lot_of(UUID(int=key[0]), key[1])

    def at(self, gap: int) -> int:
        """When: so much later than all before, or earlier."""
        at = max(self.first, self.now + gap)
        self.now = max(self.now, at)
        return at

    def says(self, kind: Any, what: str, at: int, told: dict[str, Any] | None = None, **fields: Any) -> int:
        """One fact on both accounts; its id."""
        found: list[Any] = []
        world = self.world
        earliest = self._rests_on(what, fields if told is None else told)
        if at < earliest:
            with pytest.raises(Refused) as early:
                world._on_account("ada", lambda account: account.tell(kind, world.stamp(at), world.control, **fields))
            assert early.value.code == "effective_too_early"
            at = earliest
            self.now = max(self.now, at)
        if self.plain.status == "closed" and kind not in ATTEMPTS:
            with pytest.raises(Refused) as closed:
                world._on_account("ada", lambda account: account.tell(kind, world.stamp(at), world.control, **fields))
            assert closed.value.code == "account_closed"
            return 0
        world._on_account(
            "ada", lambda account: found.append(account.tell(kind, world.stamp(at), world.control, **fields))
        )
        fact, outcome = found[0]
        key: int = fact.event_id.int
        self.plain.tell(what, key, at, **(fields if told is None else told))
        refused = outcome is not None and "refused" in outcome.stored_name
        assert refused == bool(self.plain.refused), (outcome, self.plain.refused)
        return key

    def _rests_on(self, what: str, told: dict[str, Any]) -> int:
        """When that was which a fact answers."""
        plain, of = self.plain, told.get("of")
        match what:
            case "confirm" | "withdraw" | "reduce":
                return max([lot.earned for lot in plain.lots if lot.lines and lot.key[0] == of], default=0)
            case "release" | "redeem":
                hold = plain.holds.get(told.get("hold", of) or 0)
                return 0 if hold is None else hold.since
            case "unredeem":
                return plain.paid[of][0] if of in plain.paid else 0
            case "use_coupon" | "void_coupon":
                return plain.coupons[of].since if of in plain.coupons else 0
            case "extend":
                return max([max(lot.since, lot.earned) for lot in plain.lots if lot.key == of], default=0)
        return 0

    @rule(gap=gaps, lines=st.lists(a_line, min_size=1, max_size=3))
    def buys(self, gap: int, lines: list[dict[str, Any]]) -> None:
        at = self.at(gap)
        purchase = self.world.buy_lines(at, [Line(**line) for line in lines])
        self.plain.tell("buy", purchase.int, at, lines=lines)
        self.bought[purchase] = [{**line, "at": at, "back": 0, "net_back": 0} for line in lines]
        self.facts.append(purchase.int)

    @precondition(lambda self: self.bought)
    @rule(gap=gaps, which=which, pieces=st.lists(st.integers(0, 4), min_size=3, max_size=3))
    def gives_back(self, gap: int, which: int, pieces: list[int]) -> None:
        purchase, lines = list(self.bought.items())[which % len(self.bought)]
        many = {
            number: min(pieces[number - 1], line["quantity"] - line["back"]) for number, line in enumerate(lines, 1)
        }
        many = {number: quantity for number, quantity in many.items() if quantity}
        if not many:
            return
        at = max(self.at(gap), lines[0]["at"])
        self.now = max(self.now, at)
        self.world.give_back(at, purchase, many)
        back = {}
        for number, quantity in many.items():
            line = lines[number - 1]
            line["back"] += quantity
            net = line["net_minor"] * line["back"] // line["quantity"]
            back[number] = (quantity, net - line["net_back"])
            line["net_back"] = net
        self.plain.tell("give_back", 0, at, of=purchase.int, lines=back)

    @rule(gap=gaps, quantity=st.integers(1, 6))
    def acts(self, gap: int, quantity: int) -> None:
        at = self.at(gap)
        self.facts.append(
            self.says(ActivityRecorded, "act", at, {"quantity": quantity}, activity="visit", quantity=quantity)
        )

    @rule(gap=gaps)
    def refers(self, gap: int) -> None:
        self.number += 1
        fields = {"occasion": "registration", "role": "referrer", "fact_id": UUID(int=self.number)}
        told = {"number": self.number}
        self.facts.append(self.says(ReferralCredited, "refer", self.at(gap), told, **fields, number=self.number))

    @rule(gap=gaps, nets=st.lists(st.sampled_from([0, 1, 99, 5_000]), min_size=1, max_size=3).filter(any))
    def brings_a_buyer(self, gap: int, nets: list[int]) -> None:
        self.number += 1
        fields = {"occasion": "every_purchase", "role": "referrer", "fact_id": UUID(int=self.number)}
        told = {"number": self.number, "nets": tuple(nets)}
        fact = self.says(ReferralCredited, "refer", self.at(gap), told, **fields, number=self.number, lines=tuple(nets))
        self.facts.append(fact)
        self.credited.append((fact, nets))

    @precondition(lambda self: self.credited)
    @rule(gap=gaps, which=which, many=st.lists(st.sampled_from([0, 1, 50, 5_000]), min_size=3, max_size=3))
    def sees_the_buyer_return(self, gap: int, which: int, many: list[int]) -> None:
        of, nets = self.credited[which % len(self.credited)]
        back = tuple(min(one, net) for one, net in zip(many, nets, strict=False))
        if self.plain.status != "closed":
            self.says(
                ReferralReduced, "reduce", self.at(gap), {"of": of, "nets": back},
                credit_id=UUID(int=of), return_id=UUID(int=8), returned=back,
            )  # fmt: skip

    @precondition(lambda self: self.facts)
    @rule(gap=gaps, which=which)
    def confirms(self, gap: int, which: int) -> None:
        of = self.facts[which % len(self.facts)]
        self.says(EarningConfirmed, "confirm", self.at(gap), {"of": of}, fact_id=UUID(int=of))

    @precondition(lambda self: self.facts)
    @rule(gap=gaps, which=which)
    def withdraws(self, gap: int, which: int) -> None:
        of = self.facts[which % len(self.facts)]
        self.says(EarningWithdrawn, "withdraw", self.at(gap), {"of": of}, fact_id=UUID(int=of), reason="undone")

    @rule(gap=gaps, points=some_points)
    def redeems(self, gap: int, points: int) -> None:
        told = {"points": 20, "reward": "mug"} if self.plain.rewards else {"points": points, "reward": "cash"}
        self.redeemed.append(self.says(RedemptionRequested, "redeem", self.at(gap), told, **told))

    @precondition(lambda self: self.plain.rewards)
    @rule(gap=gaps, place=st.integers(0, 4), stock=st.integers(0, 1), segments=st.sampled_from([(), ("best",)]))
    def redeems_a_reward(self, gap: int, place: int, stock: int, segments: tuple[str, ...]) -> None:
        reward = REWARDS[place]
        told = {
            "points": reward["price"],
            "reward": reward["id"],
            "stock": stock if reward.get("counted") else None,
            "segments": segments,
        }
        self.redeemed.append(self.says(RedemptionRequested, "redeem", self.at(gap), told, **told))

    @precondition(lambda self: self.held)
    @rule(gap=gaps, which=which, points=some_points)
    def captures(self, gap: int, which: int, points: int) -> None:
        hold = self.held[which % len(self.held)]
        told = {"points": 20, "reward": "mug"} if self.plain.rewards else {"points": points, "reward": "cash"}
        self.redeemed.append(
            self.says(
                RedemptionRequested, "redeem", self.at(gap), {**told, "hold": hold}, **told, hold_id=UUID(int=hold)
            )
        )

    @precondition(lambda self: self.redeemed)
    @rule(gap=gaps, which=which, points=some_points, whole=st.booleans())
    def unredeems(self, gap: int, which: int, points: int, whole: bool) -> None:
        of = self.redeemed[which % len(self.redeemed)]
        told = {"of": of, "points": points, "whole": whole}
        self.says(
            RedemptionReturned, "unredeem", self.at(gap), told,
            redemption_id=UUID(int=of), points=points, reason="cancelled", whole=whole,
        )  # fmt: skip

    @rule(gap=gaps, points=some_points, life=LATER)
    def holds(self, gap: int, points: int, life: int) -> None:
        at = self.at(gap)
        told = {"points": points, "until": at + life + 1}
        self.held.append(
            self.says(HoldRequested, "hold", at, told, points=points, until_us=at + life + 1, purpose="booking")
        )

    @precondition(lambda self: self.held)
    @rule(gap=gaps, which=which)
    def releases(self, gap: int, which: int) -> None:
        of = self.held[which % len(self.held)]
        self.says(HoldReleaseRequested, "release", self.at(gap), {"of": of}, hold_id=UUID(int=of))

    @rule(gap=gaps, points=some_points, back=some_points)
    def spends_two_lots_twice_and_cancels(self, gap: int, points: int, back: int) -> None:
        """What chance alone rarely brings together."""
        at = self.at(gap)
        for many in (points, 30):
            self.says(GoodwillGranted, "goodwill", at, {"points": many}, points=many, reason="sorry")
        self.redeems(0, points + 10)
        self.redeems(0, 20)
        told = {"of": self.redeemed[-2], "points": back}
        fields = {"redemption_id": UUID(int=self.redeemed[-2]), "points": back, "reason": "cancelled"}
        self.says(RedemptionReturned, "unredeem", at, told, **fields)

    @rule(gap=gaps, net_minor=st.integers(5_000, 60_000), captured=st.booleans())
    def returns_what_is_held(self, gap: int, net_minor: int, captured: bool) -> None:
        """A debt that comes about while points are held."""
        line = {"sku": "s", "quantity": 1, "net_minor": net_minor, "tax_minor": 0, "shipping_minor": 0}
        self.buys(gap, [{**line, "category": "food"}])
        points = self.plain.active()
        if points:
            self.holds(0, points, 40 * DAY_US)
        purchases = len(self.bought)
        self.gives_back(0, purchases - 1, [1, 1, 1])
        if points and captured:
            self.captures(0, len(self.held) - 1, 20)
        elif points:
            self.releases(0, len(self.held) - 1)

    @rule(gap=gaps, points=some_points, barred=st.sampled_from([None, None, "receiver_closed"]))
    def sends(self, gap: int, points: int, barred: str | None) -> None:
        self.says(
            TransferRequested, "send", self.at(gap), {"points": points, "barred": barred is not None},
            points=points, to_account=UUID(int=7), barred=barred,
        )  # fmt: skip

    @rule(gap=gaps, many=st.lists(st.tuples(some_points, LATER), min_size=1, max_size=2, unique_by=lambda one: one[1]))
    def receives(self, gap: int, many: list[tuple[int, int]]) -> None:
        at = self.at(gap)
        lots = [(points, at - DAY_US, at + life + 1) for points, life in many]
        self.says(
            TransferReceived, "get", at, {"lots": lots}, transfer_id=UUID(int=8), from_account=UUID(int=9),
            lots=tuple(
                NewLot(lot_id=UUID(int=9), points=points, earned_us=earned, expires_us=expires)
                for points, earned, expires in lots
            ),
        )  # fmt: skip

    @rule(gap=gaps, points=some_points)
    def is_given_goodwill(self, gap: int, points: int) -> None:
        self.says(GoodwillGranted, "goodwill", self.at(gap), {"points": points}, points=points, reason="sorry")

    @rule(gap=gaps, points=some_points, into_debt=st.booleans())
    def is_corrected(self, gap: int, points: int, into_debt: bool) -> None:
        told = {"points": points, "into_debt": into_debt}
        self.says(CorrectionRecorded, "correct", self.at(gap), told, **told, reason="mistake")

    @rule(gap=gaps, which=st.one_of(st.none(), which), life=LATER)
    def is_extended(self, gap: int, which: int | None, life: int) -> None:
        at = self.at(gap)
        lots = [lot for lot in self.plain.lots if lot.active or lot.pending]
        of = lots[which % len(lots)].key if which is not None and lots else None
        self.says(
            ExtensionGranted, "extend", at, {"of": of, "until": at + life},
            lot_id=self._lot(of) if of else None, until_us=at + life, reason="sorry",
        )  # fmt: skip

    @rule(gap=gaps, points=some_points, life=LATER)
    def is_reinstated(self, gap: int, points: int, life: int) -> None:
        at = self.at(gap)
        told = {"points": points, "until": at + life + 1}
        self.says(ReinstatementGranted, "reinstate", at, told, points=points, until_us=at + life + 1, reason="sorry")

    @rule(gap=gaps, tier=st.sampled_from(["basic", "silver", "gold"]), life=LATER)
    def is_overridden(self, gap: int, tier: str, life: int) -> None:
        at = self.at(gap)
        told = {"tier": tier, "until": at + life + 1}
        self.says(TierOverridden, "override_tier", at, told, tier=tier, until_us=at + life + 1, reason="vip")

    @precondition(lambda self: self.plain.override is not None)
    @rule(gap=gaps)
    def is_lifted(self, gap: int) -> None:
        at = self.at(gap)
        if self.plain.override is not None and self.plain.override > max(at, self.plain.clock, self.plain.horizon):
            self.says(TierOverrideLifted, "lift", at, {}, reason="over")

    @precondition(lambda self: self.plain.status == "open")
    @rule(gap=gaps, sure=st.integers(0, 4))
    def is_suspended(self, gap: int, sure: int) -> None:
        if sure:
            return
        self.says(AccountSuspended, "suspend", self.at(gap), {}, reason="fraud")

    @precondition(lambda self: self.plain.status == "suspended")
    @rule(gap=gaps)
    def is_resumed(self, gap: int) -> None:
        self.says(AccountResumed, "resume", self.at(gap), {}, reason="cleared")

    @rule(gap=gaps, sure=st.integers(0, 9))
    def is_closed(self, gap: int, sure: int) -> None:
        if not sure:
            self.says(AccountClosed, "close", self.at(gap), {}, reason="left")

    @rule(gap=gaps, place=st.integers(0, 5), stock=st.integers(0, 1))
    def is_given_a_coupon(self, gap: int, place: int, stock: int) -> None:
        reward = [*REWARDS, {"id": "none"}][place]
        told = {"reward": reward["id"], "stock": stock if reward.get("counted") else None}
        self.says(CouponGranted, "award", self.at(gap), told, **told, reason="sorry")

    @rule(gap=gaps)
    def guesses_a_code(self, gap: int) -> None:
        self.says(CouponUsed, "use_coupon", self.at(gap), {"of": None}, coupon_id=None)

    @precondition(lambda self: self.plain.coupons)
    @rule(gap=gaps, which=which, voided=st.booleans())
    def presents_a_coupon(self, gap: int, which: int, voided: bool) -> None:
        mine = [key for key in self.plain.coupons if isinstance(key, int)]
        if not mine:
            return
        of = mine[which % len(mine)]
        if voided:
            self.says(CouponVoided, "void_coupon", self.at(gap), {"of": of}, coupon_id=UUID(int=of), reason="lost")
        else:
            self.says(CouponUsed, "use_coupon", self.at(gap), {"of": of}, coupon_id=UUID(int=of))

    @rule(gap=st.one_of(st.just(0), gaps.map(abs)))
    def is_swept(self, gap: int) -> None:
        self.now += gap
        self.world.sweep(self.now)
        self.plain.sweep(self.now)

    @rule(cuts=st.lists(LATER, max_size=3))
    def settles_in_steps_as_at_once(self, cuts: list[int]) -> None:
        end = self.now + 1600 * DAY_US
        once = self.world.look(end)
        often = self.world.accounts["ada"].draft([])
        for cut in [*sorted(self.now + cut for cut in cuts), end]:
            often.settle_until(self.world.stamp(cut), cut, self.world.control.rule_book)
        assert [event.substance() for event in often.journal or ()] == [
            event.substance() for event in once.journal or ()
        ]

    @invariant()
    def agrees_with_the_plain_model(self) -> None:
        if not hasattr(self, "plain"):
            return
        STEPS[0] += 1
        want, have = self.plain.seen(), self._seen(self.world.accounts["ada"])
        differ = [f"{name}: {have[name]}, by the model {want[name]}" for name in have if have[name] != want[name]]
        assert not differ, "\n".join(differ)

    def _seen(self, account: LoyaltyAccount) -> dict[str, Any]:
        """What the account shows, in the model's words."""
        keys = {self._lot(lot.key): lot.key for lot in self.plain.lots}
        rules = self.world.control.rule_book.in_force("main", account.clock_us)
        assert rules is not None
        balance = rules.rule_set.tiers.basis == "balance"
        want = self.plain.seen()
        coupons = sorted((one.reward, one.expires_us, one.outcome) for one in account.coupons.values())
        return {
            "clock": account.clock_us,
            "active": account.active,
            "pending": account.bucket("pending"),
            "held": account.bucket("held"),
            "debt": account.debt,
            "forgiven": account.forgiven,
            "sums": {
                name: account.bucket(name) for name in (*SOURCES, *SINKS) if name != DEBT and account.bucket(name)
            },
            "lots": [(keys.get(lot.lot_id), lot.points, lot.earned_us, lot.expires_us) for lot in account.lots],
            "waiting": sorted(
                (account.known[lot].activates_us, keys[lot], points) for _, _, lot, points in account.pending
            ),
            "holds": {
                key.int: (hold.until_us, [(keys[lot], points) for lot, points in hold.parts])
                for key, hold in account.holds.items()
            },
            "paid": {
                key.int: [(keys[lot], points) for lot, points in one.parts] for key, one in account.redemptions.items()
            },
            "coupons": want["coupons"] if coupons == sorted(want["coupons"].values()) else coupons,
            "status": account.status,
            "tier": account.tier,
            "qualifying": account.active if balance else account.qualifying(account.clock_us, rules),
        }

    @invariant()
    def the_books_balance(self) -> None:
        if not hasattr(self, "plain"):
            return
        account = self.world.accounts["ada"]
        assert sum(account.bucket(name) for name in SOURCES) == sum(account.bucket(name) for name in (*PLACES, *SINKS))
        assert min(account.bucket(name) for name in BUCKETS) >= 0
        assert account.reversed <= account.earned
        assert account.debt == 0 or account.active == 0
        known = account.known
        for hold in account.holds.values():
            assert all(hold.until_us <= known[part.lot_id].expires_us for part in hold.parts)
        lots: dict[UUID, dict[str, int]] = {}
        for event in self.world.decisions():
            assert isinstance(event, LoyaltyDecision)
            for move in event.moves():
                lot = lots.setdefault(move.lot_id, {})
                lot[move.source] = lot.get(move.source, 0) - move.points
                lot[move.target] = lot.get(move.target, 0) + move.points
        for lot in lots.values():
            assert all(lot.get(name, 0) >= 0 for name in (*PLACES, *SINKS)), lot
        for name in (*PLACES, *SINKS):
            assert sum(lot.get(name, 0) for lot in lots.values()) == account.bucket(name)

    def teardown(self) -> None:
        if not hasattr(self, "plain"):
            return
        account = self.world.accounts["ada"]
        own = [event for event in self.world.log if event.originator_id == account.id]
        folded = LoyaltyAccount.fold(None, own)
        assert folded is not None
        assert differing(folded, account) == ()
        half = LoyaltyAccount.fold(None, own[: len(own) // 2 + 1])
        assert half is not None
        name, plain = packed(half)
        back = restored(name, account.id, half.version, plain)
        assert back is not None
        resumed = type(back).fold(back, own[len(own) // 2 + 1 :])
        assert resumed is not None
        assert differing(resumed, account) == ()
        certificate = certify(self.world.history())
        assert certificate.holds, certificate.first
        for one in explained(self.world.history()):
            assert one.reason.agrees, (one.recorded.event, one.reason)
        self._compiled_alike()

    def _compiled_alike(self) -> None:
        """The columnar executor decides the same, under these rules and under others."""
        history = list(self.world.history())
        with pytest.MonkeyPatch.context() as patch:
            if not COMPILED[0]:  # the same source: to compile it takes a minute
                patch.setattr(executor, "compiled", lambda function: function)
            for candidate in (None, self.other):
                machine, reference = both(history, candidate)
                assert machine == reference


LIVES = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
TestAccount = AccountMachine.TestCase
TestAccount.settings = LIVES
assert set(CONDITIONS)

if __name__ == "__main__":
    COMPILED[0] = True
    start, examples, steps = (int(word) for word in sys.argv[1:4])
    run_state_machine_as_test(
        seed(start)(AccountMachine),
        settings=settings(
            LIVES, max_examples=examples, stateful_step_count=steps, database=None, phases=[Phase.generate]
        ),
    )
    print(f"seed {start}: {examples} lives, {STEPS[0]} steps, no difference")
