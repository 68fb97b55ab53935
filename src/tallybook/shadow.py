"""`book.shadow`: a candidate beside the adopted rules, on facts as they come. Nothing of it is recorded in the book."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from heapq import merge
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from uuid import UUID

from tallybook.adapters.outputs import trouble
from tallybook.domain.calendar import DAY_US
from tallybook.domain.control import RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.errors import BookError, refusal
from tallybook.domain.events import Fact
from tallybook.projections.backtest import Difference, Question, differing
from tallybook.projections.read_models import Hold, Progress, Recorded
from tallybook.projections.replay import FACT_NAMES, Derivation

from .archiving import ArchiveDesk
from .backtesting import CONTROL_NAMES, who_differs
from .core import Core

BATCH = 1_000
"""So many facts are looked at between two notes in the file."""
PAIRS = 2_000
"""So many customers' accounts are held in memory: some 40 KB each. Others are made of their histories again."""

AHEAD_US = 400 * DAY_US
"""So far beyond the last sweep is looked for what time does to accounts that are not held."""


@dataclass(frozen=True, slots=True)
class ShadowStatus:
    """How a shadow stands: the candidate, up to which position it followed; how many facts it looked at; how many
    customers it followed since it was opened, or cut short: those of these facts, and those for whom time alone decided
    otherwise; how often something was decided otherwise. `outstanding`: points of these customers' accounts under the
    adopted rules and under the candidate; `tiers`: how many accounts hold another tier."""

    candidate: str
    digest: str
    since_us: int
    position: int
    facts: int
    customers: int
    differences: int
    outstanding: tuple[int, int]
    tiers: int


class _Pair:
    """One customer's accounts under the adopted rules and under the candidate."""

    def __init__(self, question: Question) -> None:
        self.sides = Derivation(), Derivation(question.candidate, since_us=question.since_us)
        self.control = 0
        """How many of the facts that concern all accounts it knows."""

    def feed(self, one: Recorded) -> Iterator[Difference]:
        """Take in the next event; where the sides decide otherwise."""
        derived = [side.feed(one.event) for side in self.sides]
        yield from differing(one.position, one.event, *derived)

    def standing(self) -> _Standing:
        """How the accounts stand."""
        adopted, candidate = (side.accounts for side in self.sides)
        return _Standing(
            sum(account.active for account in adopted.values()),
            sum(account.active for account in candidate.values()),
            sum(account.tier != candidate[account_id].tier for account_id, account in adopted.items()),
        )

    def quiet_until_us(self, look_us: int) -> int:
        """Up to when time alone decides nothing, by the rule sets that are known; looks no further than `look_us`."""
        return min(
            account.quiet_until_us(side.control.rule_book, look_us)
            for side in self.sides
            for account in side.accounts.values()
        )


class _Standing(NamedTuple):
    """Of one customer: the points outstanding under either rules; how many accounts hold another tier."""

    adopted: int
    candidate: int
    tiers: int


class _Put(NamedTuple):
    """What is known of a customer whose accounts are not held: how they stand, and up to when time alone decides
    nothing, as long as so many rule sets are adopted."""

    standing: _Standing
    quiet_us: int
    adoptions: int


class _Kept(NamedTuple):
    """What was noted: up to which position; how many facts and differences that are."""

    position: int
    facts: int
    differences: int


class Shadow:
    """A candidate that runs beside the adopted rules: what it would decide about each fact, from `since` on, kept apart
    from the book. For one thread.

    A customer's history is read when a fact about the customer comes first; so it begins at once, however long the
    book is. Whenever a sweep has run, a backtest tells whose accounts differ: what time alone decides is looked at for
    these, too. With a `file`, what was found is appended there, and taken up again.
    """

    def __init__(self, core: Core, archive: ArchiveDesk, question: Question, file: Path | None) -> None:
        self._core, self._archive, self._question, self._file = core, archive, question, file
        self._pairs: OrderedDict[UUID, _Pair] = OrderedDict()
        """Those that were asked for last."""
        self._put: dict[UUID, _Put] = {}
        """The others."""
        self._found: list[Difference] = []
        self._counts: Counter[str] = Counter()
        self._position = core.app.position()
        self._closed = False
        self._differing: frozenset[UUID] | None = None
        """Whose accounts differ by then, if that was asked for."""
        self._hold: Hold | None = None
        if file is not None:
            try:
                self._take_up(file)
            except BaseException:
                self.close()
                raise
        self._kept = _Kept(self._position, self._counts["facts"], len(self._found))
        self._begin(core.history(CONTROL_NAMES, self._position))

    def _begin(self, control: Iterable[Recorded]) -> None:
        """Hold no accounts, and know of what concerns them all so much."""
        self._pairs.clear()
        self._put.clear()
        self._control: list[Recorded] = []
        self._horizon_us = self._adoptions = 0
        """Up to when was swept; how many rule sets were adopted."""
        for one in control:
            self._know(one)

    @property
    def position(self) -> int:
        """Up to which the shadow followed the book."""
        return self._position

    def close(self) -> None:
        """Let go of the file. The shadow follows the book no further."""
        self._closed = True
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def catch_up(self, progress: Progress | None = None) -> list[Difference]:
        """Look at the facts that came since the last time: where the candidate decides otherwise. Cut short, it goes on
        the next time from where it last noted what it had found. Raises BookError."""
        self._core.check_open()
        if self._closed:
            raise BookError("This shadow is closed.", remedy="Begin it again: `book.shadow(…)`.")
        try:
            return self._caught_up(progress)
        except BaseException:
            self._go_back()
            raise

    def _go_back(self) -> None:
        """Know what was noted, and no more: accounts may be in the middle of a fact."""
        self._position, facts, differences = self._kept
        self._counts["facts"] = facts
        del self._found[differences:]
        self._begin([one for one in self._control if one.position <= self._position])

    def _caught_up(self, progress: Progress | None) -> list[Difference]:
        core = self._core
        head, found = core.app.position(), list[Difference]()
        self._differing = None
        batch: list[Difference] = []
        for number, one in enumerate(self._news(head), 1):
            batch += self._looked_at(one)
            self._position = one.position
            if number % BATCH == 0:
                found += self._noted(batch)
                batch = []
                if progress:
                    progress(one.position, head)
        self._position = head
        for pair in self._pairs.values():
            batch += self._told_control(pair, head + 1)
        return found + self._noted(batch)

    def differences(self) -> Sequence[Difference]:
        """All that was found, in the order in which it was."""
        return tuple(self._found)

    def status(self) -> ShadowStatus:
        """How it stands."""
        rules = self._question.candidate
        found = [*(one.standing for one in self._put.values()), *(pair.standing() for pair in self._pairs.values())]
        adopted, candidate, tiers = (sum(one) for one in zip(_Standing(0, 0, 0), *found, strict=True))
        return ShadowStatus(
            rules.label,
            rules.rule_set.digest(),
            self._question.since_us or 0,
            self._position,
            self._counts["facts"],
            len(found),
            len(self._found),
            (adopted, candidate),
            tiers,
        )

    # ── following ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _news(self, head: int) -> Iterator[Recorded]:
        """The facts after the position, up to another."""
        rows = self._core.app.log.iterate(after=self._position, topics=FACT_NAMES)
        for one in self._core.app.decode(rows):
            if one.position > head:
                return
            yield one

    def _looked_at(self, one: Recorded) -> list[Difference]:
        event = one.event
        if event.subject_id is None:
            if event.stored_name in CONTROL_NAMES:
                self._know(one)
            return self._after_sweep(one) if isinstance(event, SweepFinished) else []
        if not isinstance(event, Fact) or event.subject_id in self._question.left_out:
            return []
        self._counts["facts"] += 1
        pair = self._pair_of(event.subject_id)
        return [*self._told_control(pair, one.position), *pair.feed(one)]

    def _know(self, one: Recorded) -> None:
        """Note what concerns all accounts, and what it tells of when they have to be looked at."""
        self._control.append(one)
        if isinstance(one.event, Swept):
            self._horizon_us = one.event.until_us
        self._adoptions += isinstance(one.event, RuleSetAdopted)

    def _after_sweep(self, one: Recorded) -> list[Difference]:
        """What time alone decided otherwise by a sweep, of all customers."""
        if self._differing is None:
            self._differing = who_differs(self._core, self._archive, self._question)
        others = [customer for customer in self._differing - self._pairs.keys() if self._may_be_due(customer)]
        found: list[Difference] = []
        for customer in (*self._pairs, *sorted(others)):
            found += self._told_control(self._pair_of(customer), one.position + 1)
        return found

    def _may_be_due(self, customer: UUID) -> bool:
        """Whether a sweep may have decided something about a customer whose accounts are not held."""
        put = self._put.get(customer)
        return put is None or put.quiet_us <= self._horizon_us or put.adoptions != self._adoptions

    def _pair_of(self, customer: UUID) -> _Pair:
        """A customer's accounts: at first, as they stood where what was looked at ends."""
        pair = self._pairs.get(customer)
        if pair is None:
            pair = self._pairs[customer] = self._made(customer)
            self._put.pop(customer, None)
            if len(self._pairs) > PAIRS:
                gone, oldest = self._pairs.popitem(last=False)
                quiet_us = oldest.quiet_until_us(self._horizon_us + AHEAD_US)
                self._put[gone] = _Put(oldest.standing(), quiet_us, self._adoptions)
        self._pairs.move_to_end(customer)
        return pair

    def _made(self, customer: UUID) -> _Pair:
        pair = _Pair(self._question)
        self._core.catch_up(self._core.trail)
        own = (
            one
            for one in self._core.subject_history(customer)
            if one.position <= self._position and one.event.stored_name in FACT_NAMES
        )
        pair.control = bisect_right(self._control, self._position, key=lambda one: one.position)
        for one in merge(own, self._control[: pair.control], key=lambda one: one.position):
            for _ in pair.feed(one):
                pass
        return pair

    def _told_control(self, pair: _Pair, before: int) -> list[Difference]:
        """What concerns all accounts and came since, told to a customer's."""
        found: list[Difference] = []
        while pair.control < len(self._control) and self._control[pair.control].position < before:
            found += pair.feed(self._control[pair.control])
            pair.control += 1
        return found

    # ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _head(self) -> dict[str, Any]:
        return {
            "shadow": self._question.candidate.rule_set.digest(),
            "candidate": self._question.candidate.label,
            "book": self._core.origin,
        }

    def _take_up(self, file: Path) -> None:
        """Go on where a file ends: what was being written when somebody stopped is looked at again."""
        self._hold = self._core.storage.models.hold(f"shadow-{sha256(str(file).encode()).hexdigest()[:16]}")
        if self._hold is None:
            raise refusal("busy", f"Another shadow writes to {file}.")
        try:
            if not file.exists():
                self._append([self._head() | {"since_us": self._question.since_us, "began": self._position}])
                return
            whole, lines = 0, file.read_bytes().splitlines(keepends=True)
            told: list[dict[str, Any]] = []
            pending: list[dict[str, Any]] = []
            for number, line in enumerate(lines):
                one = _line(file, number, line, last=number == len(lines) - 1)
                if one is None:
                    break
                pending.append(one)
                if number == 0 or "reached" in one:
                    told += pending
                    pending = []
                    whole = sum(map(len, lines[: number + 1]))
            if not told or any(told[0].get(name) != value for name, value in self._head().items()):
                raise BookError(
                    f"{file} is not the file of this shadow: it is of another candidate or book.",
                    path=str(file),
                    remedy="Name another file, or move this one away.",
                )
            os.truncate(file, whole)
            self._question = self._question.beginning(told[0]["since_us"])
            self._position = told[0]["began"]
            for one in told[1:]:
                if "reached" in one:
                    self._position = one["reached"]
                    self._counts["facts"] = one["facts"]
                else:
                    self._found.append(_difference(one))
        except OSError as error:
            raise trouble(error, file) from error

    def _noted(self, found: list[Difference]) -> list[Difference]:
        """Differences, kept."""
        if self._file is not None:
            reached = {"reached": self._position, "facts": self._counts["facts"]}
            self._append([*map(asdict, found), reached])
        self._found += found
        self._kept = _Kept(self._position, self._counts["facts"], len(self._found))
        return found

    def _append(self, told: Sequence[dict[str, Any]]) -> None:
        """All of it, or nothing."""
        assert self._file is not None
        text = "".join(json.dumps(one, default=str, separators=(",", ":")) + "\n" for one in told)
        try:
            with self._file.open("ab", buffering=0) as lines:
                size = lines.tell()
                try:
                    _write_all(lines, text.encode())
                    os.fsync(lines.fileno())
                except BaseException:
                    lines.truncate(size)
                    raise
        except OSError as error:
            raise trouble(error, self._file) from error


def _write_all(lines: FileIO, data: bytes) -> None:
    """Of a full disk, a first write tells by what it did not write."""
    while data:
        data = data[lines.write(data) :]


def _line(file: Path, number: int, line: bytes, *, last: bool) -> dict[str, Any] | None:
    """A line of a file; None: the last one, torn."""
    try:
        found = json.loads(line)
        if isinstance(found, dict) and (number == 0 or "reached" in found or _difference(found)):
            return found
    except (ValueError, TypeError, KeyError):
        pass
    if last and number:
        return None
    raise BookError(
        f"Line {number + 1} of {file} is none of a shadow.",
        path=str(file),
        remedy="Name another file, or put a copy of it back.",
    )


def _difference(told: dict[str, Any]) -> Difference:
    values = {one.name: told[one.name] for one in fields(Difference)}
    customer = values["customer_id"]
    values |= {
        "customer_id": None if customer is None else UUID(customer),
        "account_id": UUID(values["account_id"]),
        "baseline": tuple(values["baseline"]),
        "candidate": tuple(values["candidate"]),
    }
    return Difference(**values)
