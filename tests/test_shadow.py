"""A candidate beside the adopted rules: what it would decide of facts as they come."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from uuid import UUID

import pytest

import tallybook
from tallybook import Book
from tallybook.backtesting import Falls
from tallybook.domain.calendar import DAY_US
from tallybook.domain.errors import BookError, Refused
from tallybook.projections.backtest import Difference
from tallybook.projections.read_models import Recorded
from tallybook.shadow import _Pair
from tallybook.times import iso

from .conftest import STANDARD

LINES = [{"sku": "a", "quantity": 1, "net_minor": 7_000}]


@pytest.fixture
def clock() -> list[int]:
    return [1_700_000_000_000_000]


@pytest.fixture
def book(tmp_path: Path, clock: list[int]) -> Iterator[Book]:
    def now() -> int:
        clock[0] += 1_000_000
        return clock[0]

    with tallybook.open(f"sqlite:///{tmp_path}/shop.book", now_us=now) as one, one.acting("agent:t", purpose="t"):
        one.rules.adopt("standard", effective_at="2023-01-01T00:00:00Z")
        yield one


def member(book: Book, number: int) -> UUID:
    customer = book.customers.register(identifiers={"shop": str(number)})
    book.loyalty.enrol(customer)
    return customer


def buys(book: Book, customer: UUID, net: int = 7_000) -> None:
    book.customers.record_purchase(customer, [{**LINES[0], "net_minor": net}])


def test_what_a_candidate_would_decide_is_found_as_facts_come(book: Book, tmp_path: Path) -> None:
    ada, bob = member(book, 1), member(book, 2)
    buys(book, ada)
    with book.shadow("candidate") as shadow:
        assert not shadow.catch_up()
        buys(book, ada)
        buys(book, bob, 1_000)
        found = shadow.catch_up()
        # A large basket: half as much again now, no more then; a small one: the same points, that live longer.
        assert [(one.customer_id, one.fact) for one in found] == [
            (ada, "customer.purchase_recorded"),
            (bob, "customer.purchase_recorded"),
        ]
        assert "points=105" in found[0].baseline[0]
        assert "points=70" in found[0].candidate[0]
        assert not shadow.catch_up()
        status = shadow.status()
        assert (status.facts, status.customers, status.differences) == (2, 2, 2)
        # What was earned before it began is as it was.
        assert status.outstanding == (105 + 105 + 10, 105 + 70 + 10)
        assert status.position == book.position()
        assert shadow.differences() == tuple(found)
    assert not [event for _, event in book._core.history() if "candidate" in str(event)]


def test_it_finds_what_a_backtest_finds_from_then_on(book: Book, clock: list[int]) -> None:
    customers = [member(book, number) for number in range(5)]
    for customer in customers:
        buys(book, customer)
    clock[0] += 1_000_000
    since = iso(clock[0]) or ""
    with book.shadow("candidate", since=since) as shadow:
        for number, customer in enumerate(customers[:4]):
            buys(book, customer, 2_000 * (number + 1))
            shadow.catch_up()
        clock[0] += 600 * DAY_US
        book.loyalty.sweep(iso(clock[0]) or "")
        shadow.catch_up()
        first: dict[UUID | None, Difference] = {}
        for one in shadow.differences():
            first.setdefault(one.customer_id, one)
        report = book.backtest("candidate", since=since, executor="reference")
        for customer in customers:
            assert report.explain(customer) == first.get(customer)
        assert any(one.fact == "book.sweep_finished" for one in shadow.differences())


def higher(folder: Path) -> Path:
    """The adopted rules with levels that take ten times as much."""
    told = STANDARD.read_text().replace('"standard"', '"higher"')
    for threshold in ("100", "300"):
        told = told.replace(f"threshold = {threshold}", f"threshold = {threshold}0")
    file = folder / "higher.toml"
    file.write_text(told)
    return file


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("executor", ["columnar", "reference"])
def test_what_time_alone_decides_is_found_for_customers_without_facts(
    book: Book, clock: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str, *, at_once: bool
) -> None:
    def no_compiler() -> None:
        raise Falls("there is no compiler")

    monkeypatch.setattr("tallybook.shadow.PAIRS", 1)
    if executor == "reference":
        monkeypatch.setattr("tallybook.backtesting._check_compiler", no_compiler)
    quiet, later = member(book, 1), member(book, 2)
    for customer in (quiet, later):
        buys(book, customer, 10_000)
    assert book.tiers.counts() == {"silver": 2}
    file = tmp_path / "shadow.jsonl"

    def looked() -> list[Difference]:
        with book.shadow(higher(tmp_path), file=file) as shadow:
            found = shadow.catch_up()
            if at_once and found:
                status = shadow.status()
                assert (status.customers, status.tiers) == (2, 2)
                assert status.outstanding[0] == status.outstanding[1] > 0
            return found

    assert not looked()
    clock[0] += 10 * DAY_US
    book.loyalty.sweep(iso(clock[0]) or "")
    found = [] if at_once else looked()
    # Its first fact since comes after the sweep; what the sweep decided is told before it.
    buys(book, later, 1_000)
    found += looked()
    swept = [one for one in found if one.fact == "book.sweep_finished"]
    assert {one.customer_id for one in swept} == {quiet, later}
    assert all(not one.baseline and "tier=basic" in one.candidate[0] for one in swept)
    assert not looked()
    # Once found, it is told once.
    clock[0] += DAY_US
    book.loyalty.sweep(iso(clock[0]) or "")
    assert not looked()


def place(one: Difference) -> tuple[int, UUID]:
    return one.position, one.account_id


@pytest.mark.parametrize("kept", [1, 2, 5])
@pytest.mark.parametrize("then", ["time", "rules"])
def test_however_few_accounts_are_held_it_finds_the_same(
    book: Book, clock: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, then: str
) -> None:
    rules = higher(tmp_path)
    customers = [member(book, number) for number in range(5)]
    for customer in customers:
        buys(book, customer, 20_000)
    clock[0] += DAY_US
    monkeypatch.setattr("tallybook.shadow.PAIRS", kept)
    since = iso(clock[0]) or ""
    with book.shadow(rules, since=since) as shadow, book.shadow(rules, since=since) as other:
        for number in range(12):
            buys(book, customers[number * 7 % 4], 1_500 * (number + 1))
            if number % 4 == 3:
                clock[0] += 100 * DAY_US
                book.loyalty.sweep(iso(clock[0]) or "")
            if number % 3 == 0:
                shadow.catch_up()
        shadow.catch_up()
        before = len(shadow.differences())
        # Now the adopted rules lower tiers: their window moves, or others are adopted.
        clock[0] += (200 if then == "time" else 1) * DAY_US
        if then == "rules":
            book.rules.adopt(rules)
            clock[0] += DAY_US
        book.loyalty.sweep(iso(clock[0]) or "")
        assert len(shadow.catch_up()) > 1
        assert {one.fact for one in shadow.differences()[before:]} == {"book.sweep_finished"}
        monkeypatch.setattr("tallybook.shadow.PAIRS", 1_000)
        other.catch_up()
        for one, another in zip(
            sorted(shadow.differences(), key=place), sorted(other.differences(), key=place), strict=True
        ):
            assert one == another
        assert {one.fact for one in shadow.differences()} == {"customer.purchase_recorded", "book.sweep_finished"}
        assert shadow.status() == other.status()


def test_a_file_keeps_what_was_found_and_is_taken_up_again(book: Book, tmp_path: Path) -> None:
    ada, file = member(book, 1), tmp_path / "shadow.jsonl"
    with book.shadow("candidate", file=file) as shadow:
        buys(book, ada)
        first = shadow.catch_up()
    buys(book, ada, 9_000)
    whole = file.read_bytes()
    # Half a line, and a whole one with no end of a batch behind it: both are looked at again.
    line = next(one for one in whole.splitlines() if b"reached" not in one and b"shadow" not in one)
    for torn in (b"", line + b"\n", b'{"position": 1'):
        file.write_bytes(whole + torn)
        with book.shadow("candidate", file=file) as shadow:
            assert shadow.differences() == tuple(first)
            found = shadow.catch_up()
            assert len(found) == 1
            assert "points=135" in found[0].baseline[0]
            assert shadow.status().facts == 2
        told = [json.loads(one) for one in file.read_text().splitlines()]
        assert [one["position"] for one in told if "position" in one] == [one.position for one in (*first, *found)]


def test_a_file_of_something_else_is_left_alone(book: Book, tmp_path: Path) -> None:
    file = tmp_path / "shadow.jsonl"
    with book.shadow("candidate", file=file):
        pass
    kept = file.read_bytes()
    with pytest.raises(BookError, match="another candidate"):
        book.shadow("standard", file=file)
    assert file.read_bytes() == kept
    for odd in (b"odd\n", b'{"a": 1}\n', kept + b"odd\n" + kept):
        file.write_bytes(odd)
        with pytest.raises(BookError):
            book.shadow("candidate", file=file)
        assert file.read_bytes() == odd
    with pytest.raises(BookError, match="can't be written"):
        book.shadow("candidate", file=tmp_path / "none" / "shadow.jsonl")


def test_two_can_not_run_one_shadow(book: Book, tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    with book.shadow("candidate", file=file), pytest.raises(Refused, match=r"Another shadow writes to .*one\.jsonl"):
        book.shadow("candidate", file=file)
    book.shadow("candidate", file=file).close()


def test_a_look_that_was_cut_short_is_taken_again(
    book: Book, clock: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is interrupted: the same is found, and each difference stands in the file once."""
    customers = [member(book, number) for number in range(3)]
    monkeypatch.setattr("tallybook.shadow.BATCH", 3)
    cuts = range(1, 25, 2)
    shadows = [book.shadow("candidate", file=tmp_path / f"{cut}.jsonl") for cut in (0, *cuts)]
    for customer in customers * 2:
        buys(book, customer)
    clock[0] += 10 * DAY_US
    book.loyalty.sweep(iso(clock[0]) or "")
    for customer in customers:
        buys(book, customer)
    whole, *others = shadows
    found = whole.catch_up()
    assert len(found) == 9
    feed, fed = _Pair.feed, 0

    def cut_short(self: _Pair, one: Recorded) -> Iterator[Difference]:
        nonlocal fed
        fed += 1
        made = list(feed(self, one))
        if fed == cut:
            raise KeyboardInterrupt
        yield from made

    monkeypatch.setattr(_Pair, "feed", cut_short)
    for cut, shadow in zip(cuts, others, strict=True):
        fed = 0
        with pytest.raises(KeyboardInterrupt):
            shadow.catch_up()
        noted, upto = shadow.differences(), shadow.position
        assert upto < book.position()
        assert [*noted, *shadow.catch_up()] == list(shadow.differences()) == found
        assert shadow.status().facts == whole.status().facts
        shadow.close()
        with book.shadow("candidate", file=tmp_path / f"{cut}.jsonl") as taken_up:
            assert list(taken_up.differences()) == found
            assert not taken_up.catch_up()
    whole.close()


def test_what_a_full_disk_cut_short_is_written_again(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, file = member(book, 1), tmp_path / "s.jsonl"
    with book.shadow("candidate", file=file) as shadow:
        buys(book, ada)
        before = file.read_bytes()

        def full(lines: FileIO, data: bytes) -> None:
            lines.write(data[:20])
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("tallybook.shadow._write_all", full)
            with pytest.raises(BookError, match="There is no space left"):
                shadow.catch_up()
        assert file.read_bytes() == before
        assert not shadow.differences()
        assert len(shadow.catch_up()) == 1
    with book.shadow("candidate", file=file) as shadow:
        assert len(shadow.differences()) == 1


def test_a_closed_shadow_follows_no_further(book: Book) -> None:
    ada = member(book, 1)
    with book.shadow("candidate") as shadow:
        buys(book, ada)
        shadow.catch_up()
    assert len(shadow.differences()) == shadow.status().differences == 1
    with pytest.raises(BookError, match="This shadow is closed"):
        shadow.catch_up()


def test_who_is_left_out_of_scoring_is_left_out(book: Book) -> None:
    ada, bob = member(book, 1), member(book, 2)
    book.customers.restrict(bob, "asked")
    with book.shadow("candidate") as shadow:
        for customer in (ada, bob):
            buys(book, customer)
        assert [one.customer_id for one in shadow.catch_up()] == [ada]


def test_rules_that_are_adopted_meanwhile_are_followed(book: Book) -> None:
    ada = member(book, 1)
    with book.shadow("candidate") as shadow:
        buys(book, ada)
        assert len(shadow.catch_up()) == 1
        book.rules.adopt("candidate")
        buys(book, ada)
        # Both decide by the same rules now, on what they decided before.
        [found] = shadow.catch_up()
        for decided in (found.baseline[0], found.candidate[0]):
            assert "rules=candidate@1, points=70" in decided
