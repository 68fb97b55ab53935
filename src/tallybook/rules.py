"""`book.rules`: rule sets proposed, tried, adopted, superseded; and which are in force."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tallybook.adapters.rule_files import frozen_zone, load_rule_set
from tallybook.domain.control import Control, RuleSetAdopted
from tallybook.domain.earning import Rules
from tallybook.domain.errors import refusal
from tallybook.domain.rules import RuleSet, parse_rule_set

from .commands import Desk, Work, command, command_ahead
from .customers import DEFAULT_PROGRAMME
from .times import When, as_of_us, iso


@dataclass(frozen=True, slots=True)
class Adoption:
    """A rule set and from when on it is in force. `position` is where the book recorded it.

    `superseded_at`: from when on another one, adopted later, is in force instead; None: none so far.
    """

    programme: str
    label: str
    digest: str
    effective_at: str
    actor: str
    position: int
    reason: str | None = None
    backtest: str | None = None
    superseded_at: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A rule set that is put forward. `backtest` is the digest of the last recorded report on it."""

    programme: str
    label: str
    digest: str
    backtest: str | None


def _wanted(rule_set: RuleSet | str | Path) -> RuleSet:
    """What a host hands in, read and validated whole: an object too, which may be a copy with other fields."""
    if not isinstance(rule_set, (RuleSet, str, Path)):
        raise refusal("invalid_argument", "rule_set: a RuleSet or the path of a file is wanted.", argument="rule_set")
    if not isinstance(rule_set, RuleSet):
        return load_rule_set(rule_set)
    wanted = parse_rule_set(rule_set, "rule set")
    frozen_zone(wanted.zone)
    return wanted


class RulesDesk(Desk):
    """Rule sets: check, propose, adopt, look up."""

    _name = "rules"
    _parts = {"_note_backtest": "backtest"}  # noqa: RUF012 - as declared in Desk

    @command_ahead
    def adopt(
        self,
        work: Work,
        rule_set: RuleSet | str | Path,
        *,
        reason: str | None = None,
        backtest: str | None = None,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> str:
        """Put a rule set (an object, a TOML or JSON file, or the name of one that ships, as "standard") in force from
        `effective_at` on; its `name@version`.

        `reason` is a code. `backtest` is the digest of a recorded backtest of it, which `require_backtest` may demand.

        The zone it names is frozen into the event. May lie in the past (it then holds for facts recorded from now on)
        or the future. Adopting the same again from the same time records nothing. Refuses: rule_set_adopted,
        sweep_unfinished, backtest_required.
        Raises RuleSetError.
        """
        wanted = _wanted(rule_set)
        work.control().adopt(work.stamp, wanted, frozen_zone(wanted.zone), reason=reason, backtest=backtest)
        return wanted.label

    @command
    def propose(
        self,
        work: Work,
        rule_set: RuleSet | str | Path,
        *,
        reason: str,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> str:
        """Put a rule set forward for adoption; its digest. It decides nothing yet. `reason` is a code.

        Refuses: rule_set_adopted. Raises RuleSetError.
        """
        wanted = _wanted(rule_set)
        work.control().propose(work.stamp, wanted, reason)
        return wanted.digest()

    @command
    def withdraw(
        self,
        work: Work,
        digest: str,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Put a rule set forward no longer. Refuses: not_proposed."""
        work.control().withdraw(work.stamp, programme, digest, reason)

    @command
    def require_backtest(
        self,
        work: Work,
        required: bool = True,
        *,
        reason: str,
        programme: str = DEFAULT_PROGRAMME,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        """Let rule sets of a programme be adopted with a recorded backtest of theirs only; or without, again."""
        work.control().guard(work.stamp, programme, required, reason)

    @command
    def _note_backtest(
        self,
        work: Work,
        candidate: RuleSet,
        report: str,
        position: int,
        *,
        effective_at: When | None = None,
        command_id: str | None = None,
    ) -> None:
        work.control().backtest(work.stamp, candidate, report, position)

    def proposals(self, *, programme: str | None = None) -> list[Proposal]:
        """Rule sets that are put forward, in the order of their proposal, with the last backtest of each."""
        core = self._core
        core.check_open()
        control = core.app.load(Control, core.book_id)
        return [
            Proposal(one.programme, f"{one.name}@{one.version}", one.digest, control.backtested.get(one.digest))
            for one in control.proposed
            if programme in (None, one.programme)
        ]

    def check(self, path: str | Path) -> RuleSet:
        """Read and validate a file. Raises RuleSetError, which names each problem's path."""
        return load_rule_set(path)

    def rules_of(self, rule_set: RuleSet | str | Path) -> Rules:
        """A rule set ready to decide, its zone as this machine knows it today. Raises RuleSetError."""
        wanted = _wanted(rule_set)
        return Rules(wanted, frozen_zone(wanted.zone))

    def adopted(self) -> list[Adoption]:
        """All adoptions, in the order of recording."""
        core = self._core
        core.check_open()
        found = [
            (position, event) for position, event in core.stream(core.book_id) if isinstance(event, RuleSetAdopted)
        ]
        return [
            Adoption(
                event.programme,
                f"{event.name}@{event.version}",
                event.digest,
                iso(event.effective_us) or "",
                event.metadata.actor,
                position,
                event.reason,
                event.backtest,
                iso(
                    min(
                        (
                            other.effective_us
                            for at, other in found
                            if other.programme == event.programme
                            and (other.effective_us, at) > (event.effective_us, position)
                        ),
                        default=None,
                    )
                ),
            )
            for position, event in found
        ]

    def in_force(self, at: When | None = None, *, programme: str = DEFAULT_PROGRAMME) -> RuleSet | None:
        """The rule set in force at a moment (default: now)."""
        core = self._core
        core.check_open()
        at_us = core.now_us() if at is None else as_of_us(at, "at")
        rules = core.app.load(Control, core.book_id).rule_book.in_force(programme, at_us)
        # The book's own is not given away: whoever changes a list of it would change what it decides.
        return None if rules is None else parse_rule_set(rules.rule_set, rules.label)
