"""Many at once: threads that share a book, and processes that each open it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests import warm
from tests.conftest import holder_of

import tallybook
from tallybook import commands
from tallybook.adapters.log import LogRecorder, Receipt
from tallybook.domain.customer import IdentifierLinked
from tallybook.domain.errors import Refused, TallybookError
from tallybook.domain.points import Enrolled, PointsRedeemed, RedemptionRefused, RedemptionRequested

RULES = Path(tallybook.__file__).parent / "data" / "standard.toml"
ADOPTED = "1996-01-01T00:00:00Z"
THREADS = 8


ONLY_FILES = pytest.mark.parametrize("book_url", ["sqlite"], indirect=True)


@pytest.fixture
def url(book_url: str) -> str:
    return book_url


@pytest.fixture
def book(url: str) -> Iterator[tallybook.Book]:
    with tallybook.open(url) as book:
        with book.acting("job:setup", purpose="test"):
            book.rules.adopt(RULES, effective_at=ADOPTED)
        yield book
        sound(book)


def sound(book: tallybook.Book) -> None:
    """What holds after any race: the logs, the certificate, positions and versions without gaps."""
    assert [one.problem for one in book.audit.verify()] == [None, None]
    certificate = book.replay()
    assert certificate.holds, certificate.first
    history = list(book._core.history())
    assert [recorded.position for recorded in history] == list(range(1, book.position() + 1))
    versions: dict[UUID, int] = {}
    for recorded in history:
        event = recorded.event
        assert event.originator_version == versions.get(event.originator_id, 0) + 1
        versions[event.originator_id] = event.originator_version


def line(net_minor: int = 5000) -> list[dict[str, Any]]:
    return [{"sku": "cd", "quantity": 1, "net_minor": net_minor}]


def at_once(book: tallybook.Book, *jobs: Callable[[], Any]) -> list[Any]:
    """Results (or refusals) of jobs that begin at the same moment, each in a thread of its own."""
    barrier = Barrier(len(jobs))

    def run(job: Callable[[], Any], number: int) -> Any:
        with book.acting(f"agent:{number}", purpose="test"):
            barrier.wait()
            try:
                return job()
            except Refused as refused:
                return refused

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(run, job, n) for n, job in enumerate(jobs)]]


def refusals(results: Sequence[Any]) -> list[str]:
    return sorted(result.code for result in results if isinstance(result, Refused))


PRELUDE = """
import sys, time, tallybook
from pathlib import Path
from uuid import UUID
book = tallybook.open(sys.argv[1])
ready, go, args = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
def refused(job):
    try:
        return job()
    except tallybook.Refused as error:
        return error.code
with book.acting("agent:process", purpose="test"):
    ready.touch()
    while not go.exists():
        time.sleep(0.001)
"""


def processes(url: str, tmp_path: Path, body: str, many_args: Sequence[Sequence[str]]) -> list[str]:
    """Output of processes that open the book, wait for each other, and run `body`."""
    folder = tmp_path / uuid4().hex
    folder.mkdir()
    go = folder / "go"
    code = PRELUDE + "".join(f"    {text}\n" for text in body.strip().splitlines())
    running = [
        warm.start(code, url, str(folder / f"ready-{number}"), str(go), *args) for number, args in enumerate(many_args)
    ]
    try:
        until = time.monotonic() + 30
        while len(list(folder.glob("ready-*"))) < len(running):
            assert time.monotonic() < until, "a process did not start"
            assert all(one.poll() in (None, 0) for one in running), [one.communicate() for one in running]
            time.sleep(0.005)
        go.touch()
        outputs = [one.communicate(timeout=60) for one in running]
    finally:
        for one in running:
            if one.poll() is None:
                one.kill()
    assert [one.returncode for one in running] == [0] * len(running), outputs
    return [out.strip() for out, _ in outputs]


# ── one command id ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_command_from_eight_threads_has_one_effect_and_one_result(book: tallybook.Book) -> None:
    before = book.position()
    results = at_once(book, *[lambda: book.customers.register(name="Ada", command_id="c-1")] * THREADS)
    assert len(set(results)) == 1
    assert isinstance(results[0], UUID)
    assert book.position() == before + 2  # the key and the registration, once


def test_the_same_purchase_from_eight_threads_earns_once(book: tallybook.Book) -> None:
    with book.acting("job:setup", purpose="test"):
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
    results = at_once(
        book, *[lambda: book.customers.record_purchase(ada, line(), order_id="A-1", command_id="p-1")] * THREADS
    )
    assert results == [results[0]] * THREADS
    assert book.loyalty.balance(ada) == results[0].points == 75
    assert len(list(book._core.history(["customer.purchase_recorded"]))) == 1


def test_a_refused_redemption_is_recorded_once_and_refused_to_all(book: tallybook.Book) -> None:
    with book.acting("job:setup", purpose="test"):
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
    results = at_once(book, *[lambda: book.loyalty.redeem(ada, 10, reward="R1", command_id="r-1")] * THREADS)
    assert refusals(results) == ["insufficient_points"] * THREADS
    assert len({str(result) for result in results}) == 1
    assert len(list(book._core.history([RedemptionRefused.stored_name]))) == 1


@pytest.mark.parametrize("kind", ["purchase", "enrol", "register", "change of an identifier"])
def test_a_repeat_that_overlaps_with_the_first_gives_its_result_and_no_refusal(
    book: tallybook.Book, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The repeat looks for a receipt, the first call commits, the repeat then finds the order, account or id taken.
    with book.acting("agent:lin", purpose="test"):
        ada = book.customers.register(name="Ada")
        run: dict[str, Callable[[], object]] = {
            "purchase": lambda: book.customers.record_purchase(ada, line(), order_id="A-1", command_id="c-1"),
            "enrol": lambda: book.loyalty.enrol(ada, command_id="c-1"),
            "register": lambda: book.customers.register(name="Grace", identifiers={"crm": "77"}, command_id="c-1"),
            "change of an identifier": lambda: book.customers.link_identifier(ada, "crm", "78", command_id="c-1"),
        }
        first = run[kind]()
        before = book.position()
        real = LogRecorder.receipt
        asked: list[bytes] = []

        def late(self: LogRecorder, command_id: bytes) -> Receipt | None:
            asked.append(command_id)
            return None if len(asked) == 1 else real(self, command_id)

        monkeypatch.setattr(LogRecorder, "receipt", late)
        assert run[kind]() == first
        assert book.position() == before


def test_the_same_command_from_four_processes_has_one_effect_and_one_result(
    book: tallybook.Book, url: str, tmp_path: Path
) -> None:
    before = book.position()
    body = 'print(book.customers.register(name="Ada", identifiers={"crm": "77"}, command_id="c-1"))'
    results = processes(url, tmp_path, body, [[]] * 4)
    assert len(set(results)) == 1
    assert book.position() == before + 3
    assert holder_of(book, "crm", "77") == UUID(results[0])
    with book.acting("agent:later", purpose="test"):
        again = book.customers.register(name="Ada", identifiers={"crm": "77"}, command_id="c-1")
    assert again == UUID(results[0])


def test_an_order_id_is_recorded_once_however_many_try(book: tallybook.Book) -> None:
    with book.acting("job:setup", purpose="test"):
        customers = [book.customers.register(name=f"Customer {number}") for number in range(THREADS)]
    results = at_once(
        book,
        *[lambda one=one: book.customers.record_purchase(one, line(), order_id="A-1") for one in customers],
    )
    assert refusals(results) == ["order_recorded"] * (THREADS - 1)


def test_a_command_id_with_other_arguments_is_refused(book: tallybook.Book) -> None:
    with book.acting("agent:lin", purpose="test"):
        ada = book.customers.register(name="Ada", command_id="c-1")
        before = book.position()
        others: list[Callable[[], object]] = [
            lambda: book.customers.register(name="Grace", command_id="c-1"),
            lambda: book.customers.register(name="Ada", email="a@example.org", command_id="c-1"),
            lambda: book.customers.register(command_id="c-1"),
            lambda: book.customers.register(name="Ada", effective_at=ADOPTED, command_id="c-1"),
            lambda: book.customers.change(ada, name="Ada", command_id="c-1"),
            lambda: book.loyalty.enrol(ada, command_id="c-1"),
        ]
        for other in others:
            with pytest.raises(Refused) as caught:
                other()
            assert caught.value.code == "command_id_reused"
        assert book.position() == before
        assert book.customers.register(name="Ada", command_id="c-1") == ada


def test_of_two_commands_that_race_for_one_id_one_is_refused(book: tallybook.Book) -> None:
    names = ["Ada", "Grace"] * 4
    results = at_once(
        book,
        *[lambda name=name: book.customers.register(name=name, command_id="c-1") for name in names],
    )
    assert refusals(results) == ["command_id_reused"] * 4
    assert len({result for result in results if isinstance(result, UUID)}) == 1


def test_a_command_that_was_refused_before_it_recorded_may_be_repeated(book: tallybook.Book) -> None:
    with book.acting("agent:lin", purpose="test"):
        first = book.customers.register(name="Ada", identifiers={"crm": "77"})
        with pytest.raises(Refused):
            book.customers.register(name="Grace", identifiers={"crm": "77"}, command_id="c-1")
        book.customers.remove_identifier(first, "crm", "77")
        second = book.customers.register(name="Grace", identifiers={"crm": "77"}, command_id="c-1")
        assert book.customers.find("crm", "77") == second


# ── one account ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_eight_threads_that_redeem_never_overdraw_an_account(book: tallybook.Book) -> None:
    with book.acting("job:setup", purpose="test"):
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, line(10_000))
    assert book.loyalty.balance(ada) == 150
    results = at_once(book, *[lambda: book.loyalty.redeem(ada, 40, reward="R1")] * THREADS)
    assert refusals(results) == ["insufficient_points"] * 5
    assert sorted(result.balance for result in results if not isinstance(result, Refused)) == [30, 70, 110]
    assert book.loyalty.balance(ada) == 30
    history = [recorded.event for recorded in book._core.history()]
    assert sum(isinstance(event, RedemptionRequested) for event in history) == THREADS
    assert sum(isinstance(event, PointsRedeemed) for event in history) == 3


def test_four_processes_that_redeem_never_overdraw_an_account(book: tallybook.Book, url: str, tmp_path: Path) -> None:
    with book.acting("job:setup", purpose="test"):
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, line(10_000))
    body = """
for number in range(5):
    print(getattr(refused(lambda: book.loyalty.redeem(args[0], 15, reward="R1")), "points", "refused"))
"""
    outputs = " ".join(processes(url, tmp_path, body, [[str(ada)]] * 4)).split()
    assert (outputs.count("15"), outputs.count("refused")) == (10, 10)
    assert book.loyalty.balance(ada) == 0


# ── facts that decide, racing with what they depend on ────────────────────────────────────────────────────────────


def test_enrolling_while_purchases_come_in_never_breaks_the_certificate(book: tallybook.Book) -> None:
    with book.acting("job:setup", purpose="test"):
        customers = [book.customers.register(name=f"Customer {number}") for number in range(6)]
    for customer in customers:
        jobs: list[Callable[[], Any]] = [lambda one=customer: book.loyalty.enrol(one)] * 2  # type: ignore[misc]  # defaults
        jobs += [lambda one=customer: book.customers.record_purchase(one, line())] * 4  # type: ignore[misc]  # defaults
        results = at_once(book, *jobs)
        assert refusals(results) == ["already_enrolled"]
        earned = sum(result.points for result in results[2:])
        assert book.loyalty.balance(customer) == earned
    assert len(list(book._core.history([Enrolled.stored_name]))) == len(customers)


def test_adopting_while_purchases_come_in_never_breaks_the_certificate(book: tallybook.Book, tmp_path: Path) -> None:
    with book.acting("job:setup", purpose="test"):
        customers = [book.customers.register(name=f"Customer {number}") for number in range(4)]
        for customer in customers:
            book.loyalty.enrol(customer, effective_at="1997-01-01T00:00:00Z")
    text = RULES.read_text(encoding="utf-8")
    for version in range(2, 5):
        rules = tmp_path / f"rules-{version}.toml"
        rules.write_text(
            text.replace('version = "1"', f'version = "{version}"').replace("points = 1", f"points = {version}")
        )
        jobs: list[Callable[[], Any]] = [
            lambda rules=rules: book.rules.adopt(rules, effective_at="1998-01-01T00:00:00Z")  # type: ignore[misc]  # defaults
        ]
        jobs += [
            lambda one=customer: [  # type: ignore[misc]  # defaults
                book.customers.record_purchase(one, line(), effective_at="1998-02-01T00:00:00Z") for _ in range(3)
            ]
            for customer in customers
        ]
        assert refusals(at_once(book, *jobs)) == []
    assert len(book.rules.adopted()) == 4


def test_sweeping_while_purchases_come_in_never_breaks_the_certificate(book: tallybook.Book) -> None:
    with book.acting("job:setup", purpose="test"):
        customers = [book.customers.register(name=f"Customer {number}") for number in range(6)]
        for customer in customers:
            book.loyalty.enrol(customer, effective_at="1997-01-01T00:00:00Z")
            book.customers.record_purchase(customer, line(20_000), effective_at="1997-01-02T00:00:00Z")
    for year in (1998, 1999, 2000):
        jobs: list[Callable[[], Any]] = [lambda year=year: book.loyalty.sweep(f"{year}-06-30T00:00:00Z")]  # type: ignore[misc]  # defaults
        jobs += [
            lambda one=customer, year=year: [  # type: ignore[misc]  # defaults
                book.customers.record_purchase(one, line(), effective_at=f"{year}-0{month}-01T00:00:00Z")
                for month in (1, 5, 6)
            ]
            for customer in customers
        ]
        assert refusals(at_once(book, *jobs)) == []
    assert book.replay().pending == 0


def test_two_sweeps_at_once_are_one(book: tallybook.Book) -> None:
    with book.acting("job:setup", purpose="test"):
        for number in range(20):
            customer = book.customers.register(name=f"Customer {number}")
            book.loyalty.enrol(customer, effective_at="1997-01-01T00:00:00Z")
            book.customers.record_purchase(customer, line(20_000), effective_at="1997-01-02T00:00:00Z")
    results = at_once(book, *[lambda: book.loyalty.sweep("1999-01-01T00:00:00Z")] * 4)
    assert refusals(results) == []
    assert len(list(book._core.history(["book.swept"]))) == 1
    assert len(list(book._core.history(["book.sweep_finished"]))) == 1
    assert len(list(book._core.history(["loyalty.points_expired"]))) == 20


def test_processes_that_buy_sweep_enrol_and_adopt_at_once_never_break_the_certificate(
    book: tallybook.Book, url: str, tmp_path: Path
) -> None:
    with book.acting("job:setup", purpose="test"):
        customers = [str(book.customers.register(name=f"Customer {number}")) for number in range(5)]
    body = f"""
for number in range(8):
    one = args[1 + number % 5]
    when = f"199{{7 + number // 4}}-0{{1 + number}}-01T00:00:00Z"
    if args[0] == "buy":
        refused(lambda: book.customers.record_purchase(
            one, [dict(sku="cd", quantity=1, net_minor=9000)], effective_at=when))
    elif args[0] == "enrol":
        refused(lambda: book.loyalty.enrol(one, effective_at="1997-01-01T00:00:00Z"))
    elif args[0] == "sweep":
        refused(lambda: book.loyalty.sweep(when))
    else:
        refused(lambda: book.rules.adopt({str(RULES)!r}, effective_at=when))
"""
    processes(url, tmp_path, body, [[kind, *customers] for kind in ("buy", "enrol", "sweep", "adopt")])
    assert book.position() > 10


# ── claims ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_external_id_that_several_processes_claim_has_one_owner(
    book: tallybook.Book, url: str, tmp_path: Path
) -> None:
    body = """
for number in range(10):
    print(refused(lambda: book.customers.register(name=args[0], identifiers={"crm": str(number)})))
"""
    outputs = [out.split() for out in processes(url, tmp_path, body, [[name] for name in ("Ada", "Bea", "Cy", "Di")])]
    for number in range(10):
        answers = [out[number] for out in outputs]
        assert answers.count("identifier_taken") == 3
        [owner] = [answer for answer in answers if answer != "identifier_taken"]
        assert holder_of(book, "crm", str(number)) == UUID(owner)
    linked = [recorded.event for recorded in book._core.history([IdentifierLinked.stored_name])]
    assert len(linked) == 10


def test_a_customer_id_that_several_threads_register_is_registered_once_and_opens(book: tallybook.Book) -> None:
    for _ in range(5):
        wanted = uuid4()
        names = [f"Ada {number}" for number in range(4)]
        results = at_once(
            book,
            *[lambda name=name, one=wanted: book.customers.register(name=name, customer_id=one) for name in names],
        )
        assert refusals(results) == ["already_registered"] * 3
        with book.acting("agent:lin", purpose="test"):
            assert book.profiles.get(wanted)["name"] in names


def test_a_customer_id_that_several_processes_register_is_registered_once_and_opens(
    book: tallybook.Book, url: str, tmp_path: Path
) -> None:
    wanted = [str(uuid4()) for _ in range(10)]
    body = """
for one in args:
    print(refused(lambda: book.customers.register(name="Ada", customer_id=one)))
"""
    outputs = [out.split() for out in processes(url, tmp_path, body, [wanted] * 3)]
    for number, one in enumerate(wanted):
        assert sorted(out[number] for out in outputs) == sorted([one, "already_registered", "already_registered"])
        with book.acting("agent:lin", purpose="test"):
            assert book.profiles.get(one)["name"] == "Ada"


# ── one order ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_positions_of_many_writers_have_no_gaps_and_commits_do_not_interleave(
    book: tallybook.Book, url: str, tmp_path: Path
) -> None:
    body = """
for number in range(25):
    book.customers.register(name=f"{args[0]} {number}", identifiers={args[0]: str(number)}, email="x@example.org")
"""
    processes(url, tmp_path, body, [["a"], ["b"], ["c"]])
    history = list(book._core.history())
    assert book.position() == 1 + 3 * 25 * 4
    streams = [recorded.event.originator_id for recorded in history[1:]]
    changes = sum(one != other for one, other in pairwise(streams))
    assert changes == 3 * 25 - 1


def test_projections_of_several_processes_and_threads_count_each_event_once(
    book: tallybook.Book, url: str, tmp_path: Path
) -> None:
    with book.acting("job:setup", purpose="test"):
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
    body = """
for number in range(10):
    book.customers.record_purchase(args[0], [dict(sku="cd", quantity=2, net_minor=100)])
    book.projections.rebuild("profiles") if number == 5 else book.projections.catch_up()
"""
    processes(url, tmp_path, body, [[str(ada)]] * 3)
    with book.acting("agent:lin", purpose="test"):
        profile = book.profiles.get(ada)
    assert (profile.purchases, profile.pieces, profile.spent_minor) == (30, 60, {"USD": 3000})


# ── giving up ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_when_others_are_always_faster_the_command_ends_with_conflict_and_no_effect(
    book: tallybook.Book, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "TRIES", 3)
    with book.acting("agent:lin", purpose="test"):
        ada = book.customers.register(name="Ada")
        real = commands.Work.reads
        tries = []

        def meanwhile(self: commands.Work) -> list[tuple[UUID, int]]:
            monkeypatch.setattr(commands.Work, "reads", real)
            tries.append(1)
            book.customers.change(ada, country="GB")  # somebody else commits to the stream first
            monkeypatch.setattr(commands.Work, "reads", meanwhile)
            return real(self)

        monkeypatch.setattr(commands.Work, "reads", meanwhile)
        with pytest.raises(Refused) as caught:
            book.customers.change(ada, name="Ada King")
        monkeypatch.setattr(commands.Work, "reads", real)
        assert caught.value.code == "conflict"
        assert caught.value.values == {"tries": 3}
        assert len(tries) == 3
        assert book.profiles.get(ada)["name"] == "Ada"


@ONLY_FILES
def test_when_another_process_holds_the_lock_the_command_ends_with_busy_and_no_effect(
    book: tallybook.Book, url: str
) -> None:
    path = url.removeprefix("sqlite:///")
    with tallybook.open(url, lock_timeout_s=1) as impatient, impatient.acting("agent:lin", purpose="test"):
        ada = impatient.customers.register(name="Ada")
        before = impatient.position()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            with pytest.raises(Refused) as caught:
                impatient.customers.change(ada, country="GB")
            waited = time.monotonic() - started
            assert impatient.position() == before  # readers are not kept waiting
            other.execute("ROLLBACK")
        assert caught.value.code == "busy"
        assert 0.5 < waited < 5
        impatient.customers.change(ada, country="GB")


@ONLY_FILES
def test_when_another_process_holds_the_key_file_the_command_ends_with_busy_and_works_later(
    book: tallybook.Book, url: str
) -> None:
    path = url.removeprefix("sqlite:///") + ".keys"
    book._core.storage.keys.database.lock_timeout_s = 0.1  # type: ignore[attr-defined]  # files
    with book.acting("agent:lin", purpose="test"):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Refused) as caught:
                book.customers.register(name="Ada")
            other.execute("ROLLBACK")
        assert caught.value.code == "busy"
        ada = book.customers.register(name="Ada")
        assert book.profiles.get(ada)["name"] == "Ada"


@ONLY_FILES
def test_when_another_process_holds_the_log_of_reads_nothing_is_released(book: tallybook.Book, url: str) -> None:
    with tallybook.open(url, lock_timeout_s=1) as impatient, impatient.acting("agent:lin", purpose="test"):
        ada = impatient.customers.register(name="Ada")
        impatient.projections.catch_up()
        with closing(sqlite3.connect(url.removeprefix("sqlite:///") + ".reads", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(TallybookError) as caught:
                impatient.profiles.get(ada)
            other.execute("ROLLBACK")
        assert getattr(caught.value, "code", "") == "busy"
        assert impatient.profiles.get(ada)["name"] == "Ada"


def test_acting_in_one_thread_is_not_acting_in_another(book: tallybook.Book) -> None:
    def without() -> str:
        with pytest.raises(Refused) as caught:
            book.customers.register(name="Ada")
        return caught.value.code

    with book.acting("agent:lin", purpose="test"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(without).result() == "acting_required"


def test_threads_act_as_themselves(book: tallybook.Book) -> None:
    at_once(book, *[lambda: book.customers.register(name="Ada")] * THREADS)
    actors = {recorded.event.metadata.actor for recorded in book._core.history(["customer.registered"])}
    assert actors == {f"agent:{number}" for number in range(THREADS)}


def test_a_book_in_memory_serves_threads_too() -> None:
    with tallybook.open("memory:") as book:
        with book.acting("job:setup", purpose="test"):
            book.rules.adopt(RULES, effective_at=ADOPTED)
            ada = book.customers.register(name="Ada")
            book.loyalty.enrol(ada)
            book.customers.record_purchase(ada, line(10_000))
        results = at_once(book, *[lambda: book.loyalty.redeem(ada, 40, reward="R1")] * THREADS)
        assert refusals(results) == ["insufficient_points"] * 5
        sound(book)
