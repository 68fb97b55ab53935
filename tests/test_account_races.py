"""Random commands at the front door, two at once: a book in memory against plain sums."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.domain.conftest import rule_set

import tallybook
from tallybook.domain.errors import Refused
from tallybook.domain.loyalty import LoyaltyAccount, account_id

RULES = rule_set(
    rewards=[{"id": "mug", "price": 20, "counted": True}, {"id": "cash", "price": 5}],
    transfers={"allowed": True},
)
NAMES = "ada", "bob"
POINTS = st.integers(1, 80)
WHO = st.integers(0, 1)
NEVER_THERE = {"insufficient_points", "out_of_stock"}


class RacesMachine(RuleBasedStateMachine):
    """Two accounts, two threads, and what each command answered."""

    @initialize(mugs=st.integers(0, 4))
    def begin(self, mugs: int) -> None:
        self.book = tallybook.open("memory:")
        with self.book.acting("job:setup", purpose="test"):
            self.book.rules.adopt(RULES, effective_at="2000-01-01T00:00:00Z")
            self.ids = [self.book.customers.register(name=name) for name in NAMES]
            for one in self.ids:
                self.book.loyalty.enrol(one)
            if mugs:
                self.book.loyalty.stock_reward("mug", mugs, reason="delivered")
        self.mugs = mugs
        self.given = [0, 0]
        self.spent = [0, 0]
        self.sent = [0, 0]
        self.number = 0

    def at_once(self, *jobs: Callable[[], Any]) -> list[Any]:
        """What jobs that begin at the same moment answer, or how they are refused."""
        barrier = Barrier(len(jobs))

        def run(job: Callable[[], Any], number: int) -> Any:
            with self.book.acting(f"agent:{number}", purpose="test"):
                barrier.wait()
                try:
                    return job()
                except Refused as refused:
                    return refused

        with ThreadPoolExecutor(len(jobs)) as pool:
            return [one.result() for one in [pool.submit(run, job, n) for n, job in enumerate(jobs)]]

    def command_id(self) -> str:
        self.number += 1
        return f"command-{self.number}"

    def account(self, who: int) -> LoyaltyAccount:
        return self.book._core.app.load(LoyaltyAccount, account_id(self.ids[who], "main"))

    @rule(who=WHO, points=POINTS)
    def is_given_points(self, who: int, points: int) -> None:
        command_id = self.command_id()

        def give() -> Any:
            return self.book.loyalty.adjust(self.ids[who], points, reason="sorry", command_id=command_id)

        # The same command, sent twice at once and once more: it acts once, and answers the same.
        answers = [*self.at_once(give, give), *self.at_once(give)]
        self.given[who] += points
        assert answers == [self.account(who).active] * 3

    @rule(first=WHO, second=WHO, rewards=st.lists(st.sampled_from(["mug", "cash"]), min_size=2, max_size=2))
    def redeem_at_once(self, first: int, second: int, rewards: list[str]) -> None:
        tries = [(who, reward, self.command_id()) for who, reward in zip((first, second), rewards, strict=True)]

        def spend(who: int, reward: str, command_id: str) -> Any:
            return self.book.loyalty.redeem(self.ids[who], reward=reward, command_id=command_id)

        there = [self.account(who).active for who in (0, 1)]
        answers = self.at_once(*[partial(spend, *one) for one in tries])
        for (who, reward, command_id), answer in zip(tries, answers, strict=True):
            if isinstance(answer, Refused):
                assert answer.code in NEVER_THERE
                continue
            self.spent[who] += answer.points
            self.mugs -= reward == "mug"
            assert self.at_once(partial(spend, who, reward, command_id)) == [answer]
        assert self.mugs >= 0
        if all(isinstance(answer, Refused) for answer in answers):
            # Of two that fit each by itself, one is paid.
            prices = {"mug": 20, "cash": 5}
            assert not any(there[who] >= prices[reward] and (reward == "cash" or self.mugs) for who, reward, _ in tries)

    @rule(points=POINTS, other=POINTS)
    def transfer_to_each_other_at_once(self, points: int, other: int) -> None:
        ada, bob = self.ids
        answers = self.at_once(
            lambda: self.book.loyalty.transfer(ada, bob, points), lambda: self.book.loyalty.transfer(bob, ada, other)
        )
        for who, (answer, many) in enumerate(zip(answers, (points, other), strict=True)):
            if isinstance(answer, UUID):
                self.sent[who] += many
            else:
                assert answer.code == "insufficient_points"

    @rule(who=WHO, points=POINTS, captured=POINTS)
    def hold_and_capture_or_release_at_once(self, who: int, points: int, captured: int) -> None:
        held = self.at_once(
            lambda: self.book.loyalty.hold(self.ids[who], points, purpose="booking"),
        )[0]
        if isinstance(held, Refused):
            assert held.code == "insufficient_points"
            return
        answers = self.at_once(
            lambda: self.book.loyalty.redeem(self.ids[who], reward="cash", hold_id=held.hold_id),
            lambda: self.book.loyalty.release(self.ids[who], held.hold_id),
        )
        if not isinstance(answers[0], Refused):
            self.spent[who] += answers[0].points
        else:
            assert answers[0].code in {"unknown_hold", "insufficient_points"}

    @invariant()
    def sums_close(self) -> None:
        if not hasattr(self, "book"):
            return
        accounts = [self.account(who) for who in (0, 1)]
        for who, account in enumerate(accounts):
            came, went = self.given[who] + self.sent[1 - who], self.spent[who] + self.sent[who]
            assert (account.adjusted_up, account.spent) == (self.given[who], self.spent[who])
            assert (account.transferred_in, account.transferred_out) == (self.sent[1 - who], self.sent[who])
            assert (account.active + account.bucket("held"), account.debt) == (came - went, 0)
            assert account.bucket("held") == 0

    def teardown(self) -> None:
        if not hasattr(self, "book"):
            return
        try:
            certificate = self.book.replay()
            assert certificate.holds, certificate.first
            assert [one.problem for one in self.book.audit.verify()] == [None, None]
        finally:
            self.book.close()


TestRaces = RacesMachine.TestCase
TestRaces.settings = settings(
    max_examples=15, stateful_step_count=10, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
