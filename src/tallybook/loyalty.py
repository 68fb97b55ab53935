"""`book.loyalty`: accounts, redemptions, sweeps. `book.rules`: which rule sets are in force from when on."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from uuid import UUID

from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.form import uuid_from
from tallybook.adapters.rule_files import frozen_zone, load_rule_set
from tallybook.domain.control import Control, RuleSetAdopted
from tallybook.domain.earning import Rules
from tallybook.domain.errors import refusal, text, whole
from tallybook.domain.lots import NEVER
from tallybook.domain.loyalty import LoyaltyAccount, account_id
from tallybook.domain.points import Enrolled, PointsRedeemed
from tallybook.domain.rules import RuleSet
from tallybook.projections.read_models import Progress
from tallybook.projections.replay import derived_by

from .commands import BoundCommand, Desk, Work, command, command_ahead
from .core import LOOKING
from .customers import DEFAULT_PROGRAMME, as_id
from .times import When, as_of_us, iso, moment_us

ACCOUNTS_PER_COMMIT = 500


@dataclass(frozen=True, slots=True)
class RedemptionResult:
    """A redemption that was paid: which lots gave how many points, and what is left."""

    redemption_id: UUID
    points: int
    lots: tuple[tuple[UUID, int], ...]
    balance: int


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep recorded."""

    until: str
    accounts: int
    decisions: int


@dataclass(frozen=True, slots=True)
class LotView:
    """Points of one earning that are left."""

    lot_id: UUID
    points: int
    earned_at: str | None
    expires_at: str | None


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account at a moment. earned + debt = active + spent + expired + reversed − forgiven."""

    account_id: UUID
    customer_id: UUID
    programme: str
    tier: str | None
    tier_since: str | None
    active: int
    earned: int
    spent: int
    expired: int
    reversed: int
    forgiven: int
    debt: int
    lots: tuple[LotView, ...] = field(repr=False)


class LoyaltyDesk(Desk):
    """Commands about accounts. Each also has an awaitable form: `await book.loyalty.redeem.aio(…)`."""

    _name = "loyalty"
    _parts = {"_announce_sweep": "sweep", "_settle": "sweep", "_finish_sweep": "sweep"}  # noqa: RUF012 - as declared in Desk

    @command
    def enrol(
        self,
        work: Work,
        customer: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> UUID:
        """Open an account in its first tier; its id. Refuses: unknown_customer, no_rule_set, already_enrolled."""
        member = work.customer(as_id(customer, "customer"))
        account = work.account(member.id, programme)
        account.enrol(work.stamp, member.id, programme, work.control(), member.traits)
        return account.id

    @command
    def redeem(
        self,
        work: Work,
        customer: UUID | str,
        points: int,
        *,
        reward: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> RedemptionResult:
        """Spend points, soonest expiry first. An attempt that the balance can't pay is recorded, then refused.

        Refuses: invalid_argument, unknown_customer, not_enrolled, effective_too_early, no_rule_set,
        insufficient_points.
        """
        whole(points, "points")
        account = work.enrolled_account(work.customer(as_id(customer, "customer")).id, programme)
        redemption = account.redeem(work.stamp, points, reward, work.control())
        outcome = redemption.outcome
        if isinstance(outcome, PointsRedeemed):
            lots = tuple((part.lot_id, part.points) for part in outcome.lots)
        else:
            lots = ()
            work.refuse(
                refusal(
                    "insufficient_points",
                    f"{points} points asked for, {outcome.active} are there.",
                    asked=points,
                    active=outcome.active,
                )
            )
        return RedemptionResult(redemption.request.event_id, points, lots, account.active)

    @property
    def sweep(self) -> BoundCommand[..., SweepResult]:
        """Make expiries and tier changes due up to `until` (default: now), and record them for every account.

        First a fact in one transaction; then the accounts follow in transactions of 500. A sweep that is cut short
        goes on when it is repeated; commands meanwhile see what is due. `sweep(until=None, *, progress=None,
        effective_at=None, command_id=None)`. Refuses: sweep_goes_back, effective_in_future, invalid_argument.
        """
        return BoundCommand(self._sweep, LoyaltyDesk._sweep)

    def _sweep(
        self,
        until: When | None = None,
        *,
        progress: Progress | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> SweepResult:
        self._announce_sweep(until, effective_at=effective_at, command_id=command_id)
        core = self._core
        control = core.app.load(Control, core.book_id)
        until_text = iso(control.horizon_us) or ""
        if control.finished is not None and control.sweep_is_finished:
            return SweepResult(until_text, control.finished.accounts, control.finished.decisions)
        accounts = [uuid_from(stream) for _, stream, *_ in core.app.log.iterate(topics=[Enrolled.stored_name])]
        decisions = 0
        with rarely_collecting():
            for start in range(0, len(accounts), ACCOUNTS_PER_COMMIT):
                decisions += self._settle(_Accounts(tuple(accounts[start : start + ACCOUNTS_PER_COMMIT])))
                if progress:
                    progress(min(start + ACCOUNTS_PER_COMMIT, len(accounts)), len(accounts))
        self._finish_sweep(len(accounts), decisions)
        return SweepResult(until_text, len(accounts), decisions)

    @command
    def _announce_sweep(
        self, work: Work, until: When | None, *, effective_at: When | None = None, command_id: str | None = None
    ) -> None:
        control = work.control()
        if until is None and effective_at is None:
            # Where another host, whose clock is ahead, swept a moment ago: as far as it did.
            until_us = max(work.stamp.effective_us, control.horizon_us or 0)
        else:
            until_us = work.stamp.effective_us if until is None else moment_us(until, "until")
            work.at(until_us)
        control.sweep(work.stamp, until_us)

    @command
    def _settle(
        self, work: Work, batch: _Accounts, *, effective_at: When | None = None, command_id: str | None = None
    ) -> int:
        control = work.control()
        for account in work.accounts(batch.ids):
            account.settle(work.stamp, control.horizon_us or 0, control)
        return len(work.journal)

    @command
    def _finish_sweep(
        self,
        work: Work,
        accounts: int,
        decisions: int,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        work.control().finish_sweep(work.stamp, accounts, decisions)

    def balance(
        self,
        customer: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
    ) -> int:
        """Points that can be spent. Holds no personal value, so it is no recorded read. Refuses: not_enrolled."""
        return self._at(customer, programme, as_of, known_at).active

    def account(
        self,
        customer: UUID | str,
        *,
        programme: str = DEFAULT_PROGRAMME,
        as_of: When | None = None,
        known_at: When | int | None = None,
    ) -> AccountView:
        """An account now, or at a moment of the world (`as_of`), as the book knew it (`known_at`: time or position).

        What is due by the moment counts, recorded or not. The past is derived anew: from the facts that had taken
        effect by then, in the order in which the book learned of them. Refuses: not_enrolled, naive_time,
        invalid_argument.
        """
        account = self._at(customer, programme, as_of, known_at)
        return AccountView(
            account.id,
            as_id(customer, "customer"),
            account.programme,
            account.tier,
            iso(account.tier_since_us),
            account.active,
            account.earned,
            account.spent,
            account.expired,
            account.reversed,
            account.forgiven,
            account.debt,
            tuple(
                LotView(
                    lot.lot_id,
                    lot.points,
                    iso(lot.earned_us),
                    None if lot.expires_us == NEVER else iso(lot.expires_us),
                )
                for lot in account.lots
            ),
        )

    def _at(
        self, customer: UUID | str, programme: str, as_of: When | None, known_at: When | int | None
    ) -> LoyaltyAccount:
        """The account's state, with what is due by then."""
        core = self._core
        core.check_open()
        customer_id = as_id(customer, "customer")
        text(programme, "programme")
        at_us = core.now_us() if as_of is None else as_of_us(as_of)
        stream_id = account_id(customer_id, programme)
        if as_of is None and known_at is None:
            account = core.app.load(LoyaltyAccount, stream_id).draft([])
            control = core.app.load(Control, core.book_id)
        else:
            known = core.known(known_at)
            core.catch_up(core.trail)
            streams = core.stream(core.book_id), core.subject_events(customer_id)
            history = merge(*streams, key=lambda recorded: recorded.position)
            derivation = derived_by(filter(known, history), at_us)
            account = derivation.accounts.get(stream_id) or LoyaltyAccount(stream_id)
            control = derivation.control
        if not account.enrolled:
            raise refusal("not_enrolled", f"The customer has no account in {programme}.", customer=customer_id)
        account.settle(LOOKING, at_us, control)
        return account


@dataclass(frozen=True, slots=True)
class _Accounts:
    ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Adoption:
    """A rule set and from when on it is in force. `position` is where the book recorded it."""

    programme: str
    label: str
    digest: str
    effective_at: str
    actor: str
    position: int


class RulesDesk(Desk):
    """Rule sets: check, adopt, look up."""

    _name = "rules"

    @command_ahead
    def adopt(
        self,
        work: Work,
        rule_set: RuleSet | str | Path,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> str:
        """Put a rule set (an object, a TOML file, or "standard") in force from `effective_at` on; its `name@version`.

        The zone it names is frozen into the event. May lie in the past (it then holds for facts recorded from now on)
        or the future. Adopting the same again from the same time records nothing. Refuses: rule_set_adopted.
        Raises RuleSetError.
        """
        if not isinstance(rule_set, (RuleSet, str, Path)):
            raise refusal(
                "invalid_argument", "rule_set: a RuleSet or the path of a file is wanted.", argument="rule_set"
            )
        wanted = rule_set if isinstance(rule_set, RuleSet) else load_rule_set(rule_set)
        work.control().adopt(work.stamp, wanted, frozen_zone(wanted.zone))
        return wanted.label

    def check(self, path: str | Path) -> RuleSet:
        """Read and validate a file. Raises RuleSetError, which names each problem's path."""
        return load_rule_set(path)

    def rules_of(self, rule_set: RuleSet | str | Path) -> Rules:
        """A rule set ready to decide, its zone as this machine knows it today. Raises RuleSetError."""
        wanted = rule_set if isinstance(rule_set, RuleSet) else load_rule_set(rule_set)
        return Rules(wanted, frozen_zone(wanted.zone))

    def adopted(self) -> list[Adoption]:
        """All adoptions, in the order of recording."""
        core = self._core
        core.check_open()
        return [
            Adoption(
                event.programme,
                f"{event.name}@{event.version}",
                event.digest,
                iso(event.effective_us) or "",
                event.metadata.actor,
                position,
            )
            for position, event in core.stream(core.book_id)
            if isinstance(event, RuleSetAdopted)
        ]

    def in_force(self, at: When | None = None, *, programme: str = DEFAULT_PROGRAMME) -> RuleSet | None:
        """The rule set in force at a moment (default: now)."""
        core = self._core
        core.check_open()
        at_us = core.now_us() if at is None else as_of_us(at, "at")
        rules = core.app.load(Control, core.book_id).rule_book.in_force(programme, at_us)
        return None if rules is None else rules.rule_set
