"""The columnar executor decides what the domain's own code decides, to the last word."""

from __future__ import annotations

import inspect
import lzma
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.columnar import History, both
from tests.domain.conftest import World, rule_set, us
from tests.domain.test_expressions import FACTS, LINES, TYPES, checked, run, trees
from tests.loyalty_lives import PROGRAMMES, Step, living, steps

import tallybook
from tallybook.adapters.rule_files import frozen_zone
from tallybook.domain import arithmetic, calendar, lots
from tallybook.domain.calendar import Zone
from tallybook.domain.control import SweepFinished, Swept
from tallybook.domain.earning import Rules
from tallybook.domain.errors import Refused
from tallybook.domain.events import Event
from tallybook.domain.expressions import Node
from tallybook.domain.points import TierChanged, TierOverridden
from tallybook.projections.backtest import backtest
from tallybook.projections.columnar import compiling, executor, native
from tallybook.projections.columnar.compiling import Uncompiled, digest_of, object_code
from tallybook.projections.columnar.conditions import Seen, evaluated
from tallybook.projections.columnar.facts import Gathering
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.machine import running
from tallybook.projections.columnar.names import Names
from tallybook.projections.columnar.native import compiled
from tallybook.projections.columnar.rulebook import TIERS_MAX, Adoptions, Book, TooManyTiers
from tallybook.projections.read_models import Recorded
from tallybook.projections.replay import derived_by
from tallybook.times import iso

QUICK = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu")


def alike(history: History, candidate: Rules | None = None, *, everything: bool = True) -> int:
    """Both executors decide the same; how many words."""
    machine, domain = both(history, candidate, everything=everything)
    assert machine == domain
    return sum(len(words) for account in machine.values() for _, words in account)


# ── whole histories ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_both_decide_the_same_in_every_programme_that_ships(programme: str) -> None:
    kinds: Counter[str] = Counter()

    @QUICK
    @given(life=steps)
    def live(life: list[Step]) -> None:
        with living(programme) as one:
            one.lives(life)
            one.book.loyalty.sweep(iso(one.clock[0]))
            history = list(one.book._core.history())
            assert alike(history)
            assert alike(history, everything=False)
            kinds.update(event.stored_name for _, event in history)

    live()
    assert {"loyalty.points_earned", "loyalty.tier_changed"} <= set(kinds), kinds


def beginning(folder: Path, lines: int) -> tuple[History, Rules]:
    """The first lines of CDNOW as a book's history, under the standard rules; and the candidate's."""
    shipped = files("tallybook") / "data" / "cdnow_master.txt.xz"
    told = lzma.decompress(shipped.read_bytes()).splitlines(keepends=True)[:lines]
    (folder / "cdnow.txt").write_bytes(b"".join(told))
    with tallybook.open("memory:") as book, book.acting("agent:test", purpose="test"):
        book.rules.adopt("standard", effective_at="1996-01-01T00:00:00Z")
        book.imports.cdnow(folder / "cdnow.txt")
        members = [
            account.customer_id
            for account in derived_by(book._core.history(), 2**62).accounts.values()
            if account.customer_id
        ]
        for number, customer in enumerate(members[:200]):
            with suppress(Refused):  # that is a fact, too
                book.loyalty.redeem(customer, 5 + 5 * (number % 9), reward="R", effective_at="1997-06-30T00:00:00Z")
        book.loyalty.sweep("1998-12-31T00:00:00Z")
        return list(book._core.history()), book.rules.rules_of("candidate")


def test_both_decide_the_same_about_the_beginning_of_the_cdnow_book(tmp_path: Path) -> None:
    history, candidate = beginning(tmp_path, 2_000)
    assert alike(history) > 50_000
    assert alike(history, candidate) > 50_000
    assert alike(history, candidate, everything=False) > 40_000


def lived(world: World) -> History:
    """An account that bought, came late, was swept, under rules that changed."""
    for month in range(1, 9):
        world.buy(f"2024-{month:02}-10T12:00:00Z", 30_000)
    world.sweep("2024-09-01T00:00:00Z")
    world.adopt(rule_set(version="2", expiry={"days": 90}), "2024-06-01T00:00:00Z")
    world.buy("2024-05-05T00:00:00Z", 30_000)
    world.buy("2024-10-10T00:00:00Z", 30_000)
    world.adopt(rule_set(version="3", rounding="ceil"), "2024-11-01T00:00:00Z")
    world.sweep("2025-09-01T00:00:00Z", follow=False)
    return world.history()


def test_rules_that_change_and_sweeps_that_are_cut_short_or_pass_accounts_over() -> None:
    world = World(rule_set(), zone=frozen_zone("Europe/Berlin"))
    world.enrol("2023-12-01T00:00:00Z")
    history = list(lived(world))
    assert alike(history) > 100
    assert alike(history, Rules(rule_set(version="9"), frozen_zone("Asia/Kathmandu"))) > 100
    account = world.accounts["ada"].id
    passing: list[tuple[int, Event]] = []
    for position, event in history:
        changed = event
        if isinstance(event, SweepFinished):
            changed = event.model_copy(update={"passed_over": (account,)})
        passing.append(Recorded(position, changed))
    assert any(isinstance(event, Swept) for _, event in passing)
    assert alike(passing) > 100


def test_what_is_earned_while_a_grace_lasts_does_not_count_when_points_left_the_window() -> None:
    levels = [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 500, "keep": 400}]
    tiers = {"window": "rolling", "window_months": 6, "grace_days": 30, "levels": levels}
    world = World(rule_set(tiers=tiers, pending={"days": 60}))
    world.enrol("2024-03-01T00:00:00Z")
    bought = (
        ("03-15", 256), ("03-29", 298), ("04-10", 63), ("07-15", 192), ("08-23", 14), ("10-18", 162), ("10-25", 27),
        ("10-31", 9),
    )  # fmt: skip
    for day, points in bought:
        world.buy(f"2024-{day}T12:00:00Z", points * 100)
    # On 22 October, what is due next is reckoned anew: points of August become active.
    # On 29 September 298 points leave, and 269 are left: what comes in October is too little at the end of the grace.
    lost = [one for one in world.decisions() if isinstance(one, TierChanged) and one.tier == "basic" and one.previous]
    assert [iso(one.effective_us) for one in lost] == ["2024-10-29T00:00:00Z"]
    assert alike(list(world.history())) > 100


@pytest.mark.parametrize("grace_days", [0, 30])
def test_what_rules_look_at_ends_where_others_take_their_place(grace_days: int) -> None:
    levels = [{"name": "basic", "threshold": 0}, {"name": "silver", "threshold": 500}]
    rolling = {"window": "rolling", "window_months": 12, "grace_days": grace_days, "levels": levels}
    world = World(rule_set(tiers=rolling))
    yearly = {"window": "calendar_year", "levels": [levels[0], levels[1] | {"threshold": 5000}]}
    world.adopt(rule_set(version="2", tiers=yearly), "2024-02-20T00:00:00Z")
    world.enrol("2023-01-01T00:00:00Z")
    world.buy("2023-03-01T12:00:00Z", 60_000)
    world.sweep("2024-02-10T00:00:00Z")
    # In March 2024 those points leave the window of rules that hold no more: the tier is held to the end of the year.
    world.sweep("2025-02-01T00:00:00Z")
    changes = [event for _, event in world.history() if isinstance(event, TierChanged)]
    assert [(one.tier, iso(one.effective_us)) for one in changes[-2:]] == [
        ("silver", "2023-03-01T12:00:00Z"),
        ("basic", "2025-01-01T00:00:00Z"),
    ]
    assert alike(list(world.history())) > 50


@pytest.mark.parametrize("between", ["sweep", "redemption", "another lot"])
@pytest.mark.parametrize("tier", ["basic", "silver"])
def test_an_override_that_ended_without_effect_has_one_for_what_is_told_late(tier: str, between: str) -> None:
    levels = [{"name": name, "threshold": points} for name, points in (("basic", 0), ("silver", 500), ("gold", 5000))]
    world = World(rule_set(tiers={"window": "lifetime", "levels": levels}))
    world.enrol("2024-01-01T00:00:00Z")
    if tier == "silver":
        world.buy("2024-01-15T00:00:00Z", 60_000)
        world.redeem("2024-01-16T00:00:00Z", 600)
    if between == "another lot":
        world.buy("2024-01-17T00:00:00Z", 100)
    world.tell("2024-02-01T00:00:00Z", TierOverridden, tier=tier, until_us=us("2024-06-01T00:00:00Z"), reason="vip")
    if between == "redemption":
        world.redeem("2024-07-01T00:00:00Z", 5)
    else:
        world.sweep("2024-09-01T00:00:00Z")
    world.buy("2024-03-01T00:00:00Z", 600_000)
    world.buy("2024-10-01T00:00:00Z", 100)
    world.sweep("2026-12-01T00:00:00Z")
    history = list(world.history())
    machines, domains = both(history)
    assert machines == domains
    changes = [event for _, event in history if isinstance(event, TierChanged)]
    assert changes[-1].tier == "gold"
    names = Names()
    gathering = Gathering(names)
    for position, event in history:
        gathering.feed(position, event)
    _, out = executor.outcomes(gathering.facts(), Book(Adoptions("main", gathering.control), names))
    assert out[:, m.O_TIER].tolist() == [names.tiers["gold"]]


def test_plain_python_decides_the_same_as_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(rule_set(), zone=frozen_zone("Europe/Berlin"))
    world.enrol("2023-12-01T00:00:00Z")
    history = lived(world)
    machine, _ = both(history)
    monkeypatch.setattr(executor, "compiled", lambda function: function)
    plain, domain = both(history)
    assert plain == machine == domain


def test_a_decision_that_differs_is_seen() -> None:
    world = World(rule_set())
    world.enrol("2023-12-01T00:00:00Z")
    history = lived(world)
    machine, domain = both(history, Rules(rule_set(version="9"), frozen_zone("UTC")))
    other, _ = both(history, Rules(rule_set(version="9", expiry={"days": 400}), frozen_zone("UTC")))
    assert machine == domain != other


def test_more_tiers_than_a_mask_has_bits_for_are_left_to_the_reference() -> None:
    levels = [{"name": f"t{place}", "threshold": place * 10} for place in range(TIERS_MAX + 1)]
    world = World(rule_set(tiers={"window": "lifetime", "levels": levels}))
    world.enrol("2023-12-01T00:00:00Z")
    gathering = Gathering(Names())
    for position, event in world.history():
        gathering.feed(position, event)
    names = Names()
    book = Book(Adoptions("main", gathering.control), names)
    with pytest.raises(TooManyTiers, match="tiers are named"):
        book.words(gathering.facts())


def test_what_comes_of_accounts_is_what_the_reference_says(tmp_path: Path) -> None:
    history, candidate = beginning(tmp_path, 1_500)
    names = Names()
    gathering = Gathering(names)
    for position, event in history:
        gathering.feed(position, event)
    facts = gathering.facts()
    baseline, other = (Book(Adoptions("main", gathering.control, rules), names) for rules in (None, candidate))
    found = executor.Comparison(baseline, other).of(facts)
    places, before, after = found.places, found.before, found.after
    tiers = {code: tier for tier, code in names.tiers.items()}
    report = backtest(starmap(Recorded, history), candidate)
    assert report.changed > 100
    matrix: dict[str, Counter[str]] = {}
    for place, old, new in zip(places, before, after, strict=True):
        matrix.setdefault(tiers[old[m.O_TIER]], Counter())[tiers[new[m.O_TIER]]] += 1
        customer = facts.customers[facts.accounts[place][2]]
        first = report.explain(customer)
        assert new[m.O_DIFFERS] == (0 if first is None else first.position)
    assert matrix == report.matrix
    for rows, totals in ((before, report.before), (after, report.after)):
        sums = rows[:, m.O_BUCKETS :].sum(axis=0)
        assert [totals.earned, totals.redeemed, totals.expired, totals.reversed, totals.outstanding, totals.debt] == [
            sums[bucket] for bucket in (m.EARNED, m.SPENT, m.EXPIRED, m.REVERSED, m.ACTIVE, m.DEBT)
        ]
    assert after[:, m.O_UNFUNDED].sum() == report.unfunded_redemptions
    assert after[:, m.O_FUNDED].sum() == report.newly_funded_redemptions
    alone, out = executor.outcomes(facts, baseline)
    assert (alone == places).all()
    assert (out == before).all()


# ── the integer functions, compiled ───────────────────────────────────────────────────────────────────────────────

moments = st.integers(-(10**15), 4 * 10**15)
BIG = st.one_of(st.integers(0, 100), st.integers(0, 2**61))


def arrays(zone: Zone) -> tuple[Any, Any, Any]:
    return tuple(np.array(one, np.int64) for one in (zone.starts_us, zone.offsets_s, zone.turns_us))  # type: ignore[return-value]  # three


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ZONES), moments, st.sampled_from([0, 1, 2]), st.integers(0, 60), st.sampled_from([0, 1, 2]))
def test_the_end_of_a_lot_is_the_same_in_machine_code(name: str, at: int, unit: int, count: int, until: int) -> None:
    zone = frozen_zone(name)
    found = compiled(lots.end_us)(*arrays(zone), at, unit, count, until)
    assert found == lots.end_us(zone.starts_us, zone.offsets_s, zone.turns_us, at, unit, count, until)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ZONES), moments, moments, st.integers(-3, 3), st.integers(-400, 400))
def test_calendars_are_the_same_in_machine_code(name: str, at: int, joined: int, years: int, days: int) -> None:
    zone = frozen_zone(name)
    starts, offsets, turns = arrays(zone)
    plain = zone.starts_us, zone.offsets_s, zone.turns_us
    for function, arguments in (
        (calendar.days_later, (at, days)),
        (calendar.midnight_months_later, (at, days)),
        (calendar.year_start_us, (joined, at, years)),
        (calendar.calendar_year_us, (at, years)),
    ):
        assert compiled(function)(starts, offsets, turns, *arguments) == function(*plain, *arguments)
    for period in (calendar.DAY, calendar.MONTH, calendar.YEAR):
        found = compiled(calendar.period_number)(starts, offsets, at, period)
        assert found == calendar.period_number(*plain[:2], at, period)


@settings(max_examples=200, deadline=None)
@given(BIG, st.integers(1, 2**61), st.sampled_from(range(4)), BIG)
def test_rounding_and_shares_are_the_same_in_machine_code(amount: int, whole: int, rounding: int, part: int) -> None:
    part = min(part, whole)
    assert compiled(arithmetic.quotient)(amount, whole, rounding) == arithmetic.quotient(amount, whole, rounding)
    assert (
        compiled(arithmetic.share)(amount, part, whole)
        == arithmetic.share(amount, part, whole)
        == amount * part // whole
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=8), BIG)
def test_what_is_allocated_is_the_same_in_machine_code(weights: list[int], amount: int) -> None:
    weights[0] += 1
    plain = [0] * len(weights)
    arithmetic.allocate(amount, weights, plain)
    into = np.zeros(len(weights), np.int64)
    compiled(arithmetic.allocate)(amount, np.array(weights, np.int64), into)
    assert into.tolist() == plain
    assert sum(plain) == amount


@settings(max_examples=300, deadline=None)
@given(tree=trees(), facts=st.lists(st.tuples(FACTS, LINES), min_size=1, max_size=4))
def test_conditions_over_columns_give_what_python_gives(tree: Node, facts: list[tuple[Any, list[Any]]]) -> None:
    expression = checked(tree)
    codes: dict[str, int] = {}

    def code(text: str) -> int:
        return codes.setdefault(text, len(codes))

    def column(values: list[Any]) -> Any:
        return np.array([code(value) if isinstance(value, str) else value for value in values])

    lines = [line for _, of in facts for line in of]
    counts = [len(of) for _, of in facts]
    seen = Seen(
        {name: column([fact[name] for fact, _ in facts]) for name in TYPES if not name.startswith("line.")},
        {name: column([line[name] for line in lines]) for name in TYPES if name.startswith("line.")},
        np.concatenate(([0], np.cumsum(counts))),
        np.repeat(np.arange(len(facts)), counts),
        code,
    )
    found = np.broadcast_to(evaluated(tree, seen, of_lines=False), len(facts)).tolist()
    wanted = [run(expression, fact, of) for fact, of in facts]
    assert found == [code(value) if isinstance(value, str) else value for value in wanted]


# ── compiling ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one file in which the machine code of `room` is kept, in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fresh(arithmetic.room)(5, 3) == 2
    [path] = (path for path in tmp_path.rglob("*") if path.is_file())
    return path


def fresh(function: Callable[..., Any]) -> Callable[..., int]:
    """As a new process finds it."""
    answer: Callable[..., int] = inspect.unwrap(compiled)(function)
    return answer


def test_machine_code_is_kept_and_called_without_the_compiler(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "object_code", None)
    assert native.is_kept(arithmetic.room)
    assert fresh(arithmetic.room)(5, 3) == 2
    assert list(kept.parent.iterdir()) == [kept]


def test_machine_code_is_kept_under_what_it_was_made_from_by_what_and_for_which_processor(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "digest_of", lambda _: "other sources")
    assert not native.is_kept(arithmetic.room)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept.parents[3]))
    assert native.is_kept(arithmetic.room)
    monkeypatch.setattr(native, "version", lambda _: "99.0")
    assert not native.is_kept(arithmetic.room)


@pytest.mark.parametrize("damage", ["nothing", "half", "a bit", "foreign"])
def test_a_file_that_is_not_as_it_was_written_is_made_anew(kept: Path, damage: str) -> None:
    whole = kept.read_bytes()
    flipped = bytes([*whole[:-9], whole[-9] ^ 1, *whole[-8:]])
    kept.write_bytes(
        {"nothing": b"", "half": whole[: len(whole) // 2], "a bit": flipped, "foreign": b"\x7fELF"}[damage]
    )
    assert fresh(arithmetic.room)(5, 3) == 2
    assert kept.read_bytes()[:64] == native._digest(kept.read_bytes()[64:])


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not native.is_kept(arithmetic.given_back)
    assert fresh(arithmetic.given_back)(10, 4, 0, 2) == 5


@pytest.mark.skipif(os.name != "posix", reason="modes of folders")
@pytest.mark.parametrize("above", [0, 1, 2])
def test_machine_code_that_others_could_have_put_there_is_not_run(kept: Path, above: int) -> None:
    assert native.is_kept(arithmetic.room)
    (kept.parent, *kept.parents[1:3])[above].chmod(0o777)
    assert not native.is_kept(arithmetic.room)


@pytest.mark.skipif(os.name != "posix", reason="modes of folders")
def test_a_user_who_shares_new_files_keeps_machine_code_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    before = os.umask(0o002)
    try:
        assert fresh(arithmetic.room)(5, 3) == 2
    finally:
        os.umask(before)
    assert native.is_kept(arithmetic.room)


def test_threads_that_call_it_first_compile_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[str] = []

    def counted(function: Callable[..., Any], takes: list[str]) -> tuple[str, bytes]:
        made.append(function.__name__)
        return object_code(function, takes)

    monkeypatch.setattr(native, "object_code", counted)
    function = fresh(arithmetic.room)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(function, [5] * 8, range(8))) == [5, 4, 3, 2, 1, 0, 0, 0]
    assert made == ["room"]


@pytest.mark.parametrize(
    "weights",
    [np.array([1, 2], np.int32), np.array([[1, 2]], np.int64), np.array([1, 0, 2, 0], np.int64)[::2]],
    ids=["narrow", "of two dimensions", "with gaps"],
)
def test_an_array_of_another_kind_is_refused(weights: Any) -> None:
    with pytest.raises(TypeError, match="where one of int64 belongs"):
        compiled(arithmetic.allocate)(10, weights, np.zeros(2, np.int64))


def test_a_compiler_that_passes_arguments_otherwise_is_told() -> None:
    with pytest.raises(Uncompiled, match="passes arguments otherwise: ptr, ptr, i64, i64"):
        object_code(arithmetic.room, ["ptr", "ptr", "i64"])


def test_machine_code_that_calls_what_is_not_its_own_is_told() -> None:
    def told(number: int) -> int:
        print(number)
        return number

    with pytest.raises(Uncompiled, match=r"told as machine code calls .*Py"):
        object_code(told, ["ptr", "ptr", "i64"])


def test_the_digest_of_a_function_tells_the_numbers_that_it_takes_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of(running.decide)
    monkeypatch.setattr(running, "V_HORIZON", 1)
    assert digest_of(running.decide) != before


def test_what_a_function_is_made_of_holds_all_that_it_calls() -> None:
    sources = {Path(inspect.getfile(one)).name for one in compiling.everything(running.decide)}
    rooms = {Path(one).name for one in (Path(inspect.getfile(running)).parent).glob("*.py")}
    assert sources == (rooms - {"__init__.py", "layout.py", "tables.py"}) | {
        "arithmetic.py",
        "calendar.py",
        "lots.py",
        "compiling.py",
    }


def test_without_the_compiler_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(Uncompiled, match=r"tallybook\[replay\]"):
        inspect.unwrap(compiling.compiler)()
    monkeypatch.setattr(native, "find_spec", lambda _: None)
    with pytest.raises(Uncompiled, match=r"tallybook\[replay\]"):
        native.check_compiler()
