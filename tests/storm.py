"""Storms: many writers and readers at once, in threads and in processes, some killed in the middle. On any database.

What runs in a process of its own is told a way to open a log (a name in `WAYS`) and where, as text.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Barrier, Lock, local
from typing import Any
from uuid import UUID, uuid4

from eventsourcing.persistence import IntegrityError

import tallybook
from tallybook import imports
from tallybook.adapters.database import Database, Session
from tallybook.adapters.log import LogRecorder, NewRow, Tail
from tallybook.adapters.postgres import PostgresDatabase
from tallybook.adapters.sqlite import SQLiteDatabase

from .postgres import drop_schema, made_schema, schema_url

ROOT = Path(__file__).parent.parent
Seen = list[tuple[int, str]]
"""Positions with what stands there, in the order in which a reader met them."""

NAMES = ("storm.even", "storm.odd")
PATIENCE_S = 60.0


# ── ways to open a log ────────────────────────────────────────────────────────────────────────────────────────────


class LogWithoutOrder(LogRecorder):
    """What a log is without its order: positions are handed out ahead of the transaction that inserts them."""

    counter: Database

    def append(self, rows: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        with self.counter.session(write=True) as session:
            [(last,)] = session.rows("UPDATE counter SET last=last+? RETURNING last", [len(rows)])
        time.sleep(random.random() * 0.005)  # as when the system gives another process its turn
        if between := kwargs.get("between"):
            between()
        positions = range(last - len(rows) + 1, last + 1)
        with self.database.session(write=True) as session:
            session.insert(self.table, [(position, *row) for position, row in zip(positions, rows, strict=True)])
            session.announce(self.table.name)
            if inline := kwargs.get("inline"):
                inline(session, positions[0] - 1)
        return positions

    def position(self) -> int:
        return self.extent()[2]


def sqlite_log(where: str) -> LogRecorder:
    """A log in an SQLite file."""
    log = LogRecorder(SQLiteDatabase(where))
    log.create_table()
    return log


def sqlite_log_without_order(where: str) -> LogRecorder:
    """The same with the ordering taken out."""
    log = LogWithoutOrder(SQLiteDatabase(where))
    log.create_table()
    log.counter = SQLiteDatabase(where + ".counter")
    with log.counter.session(write=True) as session:
        session.define("CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id=1), last INTEGER)")
        session.run("INSERT INTO counter VALUES (1, 0) ON CONFLICT DO NOTHING")
    return log


def postgres_log(where: str) -> LogRecorder:
    """A log in a PostgreSQL schema."""
    log = LogRecorder(PostgresDatabase(where))
    if not log.database.has_table("head"):
        log.create_table()
    return log


def postgres_log_without_order(where: str) -> LogRecorder:
    """The same with the ordering taken out: two transactions may insert at once."""
    log = LogWithoutOrder(PostgresDatabase(where))
    log.counter = PostgresDatabase(where)
    if not log.database.has_table("counter"):
        log.create_table()
        with log.counter.session(write=True) as session:
            session.define("CREATE TABLE counter (id INTEGER PRIMARY KEY, last INTEGER)")
            session.run("INSERT INTO counter VALUES (1, 0)")
    return log


WAYS: Mapping[str, Callable[[str], LogRecorder]] = {
    "sqlite": sqlite_log,
    "sqlite without order": sqlite_log_without_order,
    "postgresql": postgres_log,
    "postgresql without order": postgres_log_without_order,
}


@contextmanager
def place(way: str, folder: Path) -> Iterator[str]:
    """Where a log of a way may be made."""
    if way.startswith("sqlite"):
        yield str(folder / "log.db")
        return
    schema = made_schema()
    yield schema_url(schema)
    drop_schema(schema)


# ── writers ───────────────────────────────────────────────────────────────────────────────────────────────────────


class RolledBackError(Exception):
    """A transaction that fails after its events were inserted."""


def write(
    log: LogRecorder,
    name: str,
    transactions: int,
    seed: int,
    acknowledge: Callable[[Sequence[tuple[int, str]]], None],
    *,
    dies_in: int | None = None,
) -> None:
    """Append transactions of 1 to 5 events. Some fail after their inserts, some at a key that is there; in the one
    numbered `dies_in`, the process kills itself between insert and commit."""
    chance = random.Random(seed)
    stream, version = uuid4().bytes, 0

    def fail(_session: Session, _last: int) -> None:
        raise RolledBackError

    for number in range(transactions):
        size = chance.randint(1, 5)
        states = [f"{name}/{number}/{one}" for one in range(1, size + 1)]
        fate = "die" if number == dies_in else chance.choices(["stand", "fail", "clash"], [8, 1, 1])[0]
        if fate != "stand":
            states = [f"never/{state}" for state in states]
        rows = [(stream, version + one, NAMES[one % 2], state.encode()) for one, state in enumerate(states, 1)]
        if fate == "clash":
            rows.append(rows[0])
        try:
            positions = log.append(rows, inline={"fail": fail, "die": die}.get(fate))
        except (RolledBackError, IntegrityError):
            assert fate in ("fail", "clash")
            continue
        assert fate == "stand", fate
        version += size
        acknowledge(list(zip(positions, states, strict=True)))


# ── readers ───────────────────────────────────────────────────────────────────────────────────────────────────────

END = "end"
"""What the last event of a storm says: here readers stop."""


def read(log: LogRecorder, names: Sequence[str], restarts: bool) -> Seen:
    """Tail a log up to its end. One that restarts goes on from what it saw, after each pull, with another tail."""
    seen: Seen = []
    tail = Tail(log, 0, names)
    while True:
        rows = tail.pull(PATIENCE_S)
        if not rows:
            raise TimeoutError(f"nothing came after position {tail.after}")
        for position, _, _, _, state in rows:
            if state.decode() == END:
                return seen
            seen.append((position, state.decode()))
        if restarts:
            tail.close()
            tail = Tail(log, rows[-1][0], names)


def subscribed(log: LogRecorder) -> Seen:
    """The same through the library's subscription."""
    with log.subscribe(gt=None) as subscription:
        return [(one.id, one.state.decode()) for one in takewhile(lambda one: one.state != END.encode(), subscription)]


# ── the storm ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Outcome:
    """What a storm left, and what its readers saw."""

    seed: int
    stored: Seen
    names: dict[int, str]
    acknowledged: Seen = field(default_factory=list)
    seen: dict[str, tuple[Sequence[str], Seen]] = field(default_factory=dict)
    killed: int = 0

    def problems_of_readers(self) -> list[str]:
        """Events that a reader missed, met twice, met out of order, or that never were."""
        found = []
        for reader, (names, seen) in self.seen.items():
            wanted = [one for one in self.stored if not names or self.names[one[0]] in names]
            missed, extra = set(wanted) - set(seen), set(seen) - set(wanted)
            doubled = [one for one, count in Counter(seen).items() if count > 1]
            found += [f"{reader} missed {len(missed)} events, first {min(missed)}"] if missed else []
            found += [f"{reader} met {len(extra)} events that are not there, first {min(extra)}"] if extra else []
            found += [f"{reader} met {len(doubled)} events twice, first {min(doubled)}"] if doubled else []
            if not (missed or extra or doubled) and seen != wanted:
                found.append(f"{reader} met events out of order")
        return found

    def problems_of_the_log(self) -> list[str]:
        """Gaps, events of transactions that failed or were killed, acknowledged events that are not there."""
        found = []
        if [position for position, _ in self.stored] != list(range(1, len(self.stored) + 1)):
            found.append("the positions have gaps")
        states = [state for _, state in self.stored]
        found += [f"{state} was rolled back and is there" for state in states if state.startswith("never/")]
        found += [f"{state} is there twice" for state, count in Counter(states).items() if count > 1]
        found += [f"{one} was acknowledged and is not there" for one in sorted({*self.acknowledged} - {*self.stored})]
        return found


def storm(
    way: str,
    where: str,
    *,
    seed: int = 1,
    writer_threads: int = 4,
    writer_processes: int = 4,
    lives: int = 3,
    transactions: int = 40,
) -> Outcome:
    """Let writers and readers loose on one log; when the writers have ended, what each reader saw.

    Each writer process has `lives`: in all but the last it is killed, in turn by itself between insert and commit and
    from outside at any moment.
    """
    chance = random.Random(seed)
    log, other = WAYS[way](where), WAYS[way](where)
    acknowledged: Seen = []

    def live(slot: int, seeds: Sequence[int]) -> int:
        killed = 0
        for life, own in enumerate(seeds):
            mortal = life < len(seeds) - 1
            from_outside = mortal and (slot + life) % 2 == 1
            dies_in = own % transactions if mortal and not from_outside else -1
            long = 100 * transactions if from_outside else transactions  # it is at it when it is killed
            arguments = [way, where, f"process-{slot}-{life}", str(long), str(own), str(dies_in)]
            with start("write", arguments) as process:
                for count, line in enumerate(process.stdout, 1):
                    acknowledged.extend((position, state) for position, state in json.loads(line))
                    if from_outside and count == own % transactions // 2 + 1:
                        process.kill()
                status = process.wait(PATIENCE_S)
            assert status == (-signal.SIGKILL if mortal else 0), f"a writer ended with {status}"
            killed += mortal
        return killed

    reading: dict[str, tuple[Sequence[str], Future[Seen]]] = {}
    with ThreadPoolExecutor(32) as pool:
        try:
            for number, (names, restarts) in enumerate([((), False), (NAMES[:1], False), ((), True)]):
                outside = [way, where, json.dumps(names), str(int(restarts))]
                reading[f"process {number}"] = (names, pool.submit(run_reader, outside))
                reading[f"thread {number}"] = (names, pool.submit(read, log, names, restarts))
            reading["subscription"] = ((), pool.submit(subscribed, log))
            reading["other database object"] = ((), pool.submit(read, other, (), False))
            writing = [
                pool.submit(write, log, f"thread-{one}", transactions, chance.getrandbits(32), acknowledged.extend)
                for one in range(writer_threads)
            ]
            living = [
                pool.submit(live, slot, [chance.getrandbits(32) for _ in range(lives)])
                for slot in range(writer_processes)
            ]
            for future in writing:
                future.result(PATIENCE_S)
            killed = sum(future.result(PATIENCE_S) for future in living)
        finally:
            log.append([(uuid4().bytes, 1, name, END.encode()) for name in NAMES])
        seen = {name: (names, future.result(PATIENCE_S)) for name, (names, future) in reading.items()}
    rows = [row for row in log.iterate() if row[4] != END.encode()]
    outcome = Outcome(
        seed,
        [(position, state.decode()) for position, _, _, _, state in rows],
        {position: name for position, _, _, name, _ in rows},
        acknowledged,
        seen,
        killed,
    )
    log.database.close()
    other.database.close()
    return outcome


# ── the same with commands and followers ──────────────────────────────────────────────────────────────────────────


class Fate(local):
    """What is to happen to this thread's next transaction: it may "fail" or its process "die" between its inserts and
    its commit, or the process "die after" the commit, before anybody is told of it."""

    next: str | None = None


FATE = Fate()


def give_in_to_fate(book: tallybook.Book) -> None:
    """Let transactions of a book fail, or its process die, when `FATE` says so."""
    log = book._core.app.log
    append, append_in = log.append, log.append_in

    def fateful(session: Session, new: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        positions = append_in(session, new, **kwargs)
        if FATE.next == "die":
            session.rows("SELECT 1")  # a server has got what was held back for it
            os.kill(os.getpid(), signal.SIGKILL)
        if FATE.next == "fail":
            FATE.next = None
            raise RolledBackError
        return positions

    def fateful_after(new: Sequence[NewRow], **kwargs: Any) -> Sequence[int]:
        positions = append(new, **kwargs)
        if FATE.next == "die after":
            os.kill(os.getpid(), signal.SIGKILL)
        return positions

    vars(log).update(append=fateful_after, append_in=fateful)


def give_commands(book: tallybook.Book, name: str, commands: int, seed: int, dies_in: int = -1) -> None:
    """Give commands of several kinds; some are refused, some fail between inserts and commit."""
    chance = random.Random(seed)
    with book.acting(f"agent:{name}", purpose="storm"):
        customer = book.customers.register(name=f"First of {name}")
        for number in range(commands):
            FATE.next = "die" if number == dies_in else chance.choices([None, "fail"], [9, 1])[0]
            with suppress(RolledBackError, tallybook.Refused):
                match chance.randrange(4):
                    case 0:
                        customer = book.customers.register(name=f"{name} {number}", email="a@example.org")
                    case 1:
                        book.customers.register(identifiers={"crm": str(chance.randrange(20))})  # taken, mostly
                    case 2:
                        book.customers.change(customer, note=f"note {number}")
                    case _:
                        book.customers.record_interaction(customer, "visit", command_id=f"{name}/{number}")
        FATE.next = None


def follow(book: tallybook.Book, names: Sequence[str] = (), timeout_s: float = PATIENCE_S) -> Seen:
    """What a follower gives up to the end, which is a ticket that was opened."""
    seen: Seen = []
    for position, event in book.follow(names=names, timeout_s=timeout_s):
        if event.stored_name == END_NAME:
            return seen
        seen.append((position, str(event.event_id)))
    raise TimeoutError(f"nothing came after {seen[-1:]}")


async def follow_async(book: tallybook.Book, names: Sequence[str] = ()) -> Seen:
    """The same with `async for`, given up now and then in the middle of a wait."""
    seen: Seen = []
    async with book.follow(names=names, timeout_s=PATIENCE_S) as follower:
        while True:
            try:
                position, event = await asyncio.wait_for(anext(follower), 0.01)
            except TimeoutError:
                continue
            if event.stored_name == END_NAME:
                return seen
            seen.append((position, str(event.event_id)))


END_NAME = "ticket.opened"


def storm_of_commands(url: str, *, seed: int = 1, lives: int = 3, commands: int = 30) -> Outcome:
    """Let 4 threads and 4 processes that give commands, and followers of all kinds, loose on a book."""
    chance = random.Random(seed)
    names = ["customer.registered", "customer.interaction_recorded", END_NAME]

    def live(slot: int, seeds: Sequence[int]) -> int:
        killed = 0
        for life, own in enumerate(seeds):
            mortal = life < len(seeds) - 1
            arguments = [url, f"process-{slot}-{life}", str(commands), str(own), str(own % commands if mortal else -1)]
            with start("command", arguments) as process:
                if mortal and (slot + life) % 2:
                    time.sleep(own % 1000 / 3000)  # at any moment, its start included
                    process.kill()
                status = process.wait(PATIENCE_S)
            # A command whose fate was to die may have been refused before it came to a transaction.
            assert status in ((0, -signal.SIGKILL) if mortal else (0,)), f"a writer ended with {status}"
            killed += status == -signal.SIGKILL
        return killed

    with tallybook.open(url) as book, tallybook.open(url) as other, ThreadPoolExecutor(32) as pool:
        with book.acting("agent:begin", purpose="storm"):
            somebody = book.customers.register()
        give_in_to_fate(book)
        reading: dict[str, tuple[Sequence[str], Future[Seen]]] = {
            "thread": ((), pool.submit(follow, book)),
            "thread, some names": (names, pool.submit(follow, book, names)),
            "thread, other book object": ((), pool.submit(follow, other)),
            "asyncio": ((), pool.submit(lambda: asyncio.run(follow_async(book)))),
            "asyncio, some names": (names, pool.submit(lambda: asyncio.run(follow_async(book, names)))),
            "process": ((), pool.submit(run_reader, [url, "[]"], "follow")),
            "process, some names": (names, pool.submit(run_reader, [url, json.dumps(names)], "follow")),
        }
        try:
            writing = [
                pool.submit(give_commands, book, f"thread-{one}", commands, chance.getrandbits(32)) for one in range(4)
            ]
            living = [pool.submit(live, slot, [chance.getrandbits(32) for _ in range(lives)]) for slot in range(4)]
            for future in writing:
                future.result(PATIENCE_S)
            killed = sum(future.result(PATIENCE_S) for future in living)
        finally:
            with book.acting("agent:end", purpose="storm"):
                book.tickets.open(somebody, subject="The end")
        seen = {name: (names, future.result(PATIENCE_S)) for name, (names, future) in reading.items()}
        history = [one for one in book._core.history() if one.event.stored_name != END_NAME]
        return Outcome(
            seed,
            [(position, str(event.event_id)) for position, event in history],
            {position: event.stored_name for position, event in history},
            seen=seen,
            killed=killed,
        )


# ── a server that crashes ─────────────────────────────────────────────────────────────────────────────────────────


def opened(url: str) -> tallybook.Book:
    """A book, as soon as its server is there."""
    while True:
        try:
            return tallybook.open(url)
        except tallybook.BookUnreachable:
            time.sleep(0.02)


def insist(book: tallybook.Book, name: str, commands: int, acknowledge: Callable[[str], None]) -> None:
    """Give commands with ids, each until it is acknowledged: what a host does whose server goes away."""
    with book.acting(f"agent:{name}", purpose="storm"):
        for number in range(commands):
            while True:
                try:
                    customer = book.customers.register(name=f"{name} {number}", command_id=f"{name}/{number}")
                    break
                except tallybook.BookUnreachable:
                    time.sleep(0.02)
            acknowledge(str(customer))


def follow_on(book: tallybook.Book, upto: Callable[[], int | None]) -> list[int]:
    """The positions that a follower gives up to the end, begun anew after the last one whenever the server is gone."""
    seen: list[int] = []
    while seen[-1:] != [upto()]:
        with suppress(tallybook.BookUnreachable):
            seen += [position for position, _ in book.follow(seen[-1] if seen else 0, timeout_s=0.2)]
    return seen


def storm_on_a_server_that_crashes(url: str, crash: Callable[[], None], *, commands: int = 60) -> list[str]:
    """Let 4 threads, 2 processes and a follower work on a book whose server crashes 3 times; what must not be."""
    acknowledged: list[str] = []
    wanted = 6 * commands
    end: list[int] = []

    def acknowledged_by_process(name: str) -> int:
        with start("insist", [url, name, str(commands)]) as process:
            acknowledged.extend(line.strip() for line in process.stdout)
            return process.wait(PATIENCE_S)

    with tallybook.open(url) as book, ThreadPoolExecutor(7) as pool:
        following = pool.submit(follow_on, book, lambda: end[0] if end else None)
        processes = [pool.submit(acknowledged_by_process, f"process-{one}") for one in range(2)]
        threads = [pool.submit(insist, book, f"thread-{one}", commands, acknowledged.append) for one in range(4)]
        try:
            until = time.monotonic() + PATIENCE_S
            for quarter in (1, 2, 3):
                while len(acknowledged) < wanted * quarter // 4 and time.monotonic() < until:
                    time.sleep(0.01)
                crash()
            for thread in threads:
                thread.result(PATIENCE_S)
            assert [process.result(PATIENCE_S) for process in processes] == [0, 0]
        finally:
            end.append(book.position())
        seen = following.result(PATIENCE_S)
        registered = list(book._core.history(["customer.registered"]))
        there = Counter(str(event.originator_id) for _, event in registered)
        problems = [f"{one} was acknowledged and is not there" for one in {*acknowledged} - {*there}]
        problems += [f"{one} is there {count} times" for one, count in there.items() if count > 1]
        ids = {event.metadata.command_id for _, event in registered}
        if not len(ids) == len(registered) == len(acknowledged) == wanted:
            problems.append(
                f"{wanted} commands: {len(acknowledged)} acknowledged, {len(registered)} there, {len(ids)} ids"
            )
        if seen != list(range(1, end[0] + 1)):
            problems.append("the follower did not see each position once and in order")
        problems += [one.problem for one in book.audit.verify() if one.problem is not None]
        if not book.replay().holds:
            problems.append("the certificate fails")
    return problems


# ── one command, many times ───────────────────────────────────────────────────────────────────────────────────────

RULES = Path(tallybook.__file__).parent / "data" / "standard.toml"


def give(book: tallybook.Book, kind: str, target: str, command_id: str | None, variant: int = 0) -> str:
    """What giving a command answers, as text; a refusal with its code. Another variant has other arguments."""
    with book.acting("agent:storm", purpose="test"):
        try:
            return repr(_give(book, kind, target, command_id, variant))
        except tallybook.Refused as refused:
            return f"{refused.code}: {refused.message}"


def _give(book: tallybook.Book, kind: str, target: str, command_id: str | None, variant: int) -> object:
    lines = [tallybook.Line(sku="cd", quantity=1, net_minor=5000 + variant)]
    match kind:
        case "register":
            return book.customers.register(
                name=f"Ada {variant}", identifiers={"crm": target}, email="a@example.org", command_id=command_id
            )
        case "claim identifier":
            return book.customers.register(identifiers={"crm": target}, command_id=command_id)
        case "purchase":
            return book.customers.record_purchase(target, lines, order_id=command_id, command_id=command_id)
        case "claim order":
            customer, order = target.split()
            return book.customers.record_purchase(customer, lines, order_id=order, command_id=command_id)
        case "redeem":
            return book.loyalty.redeem(target, 10 + variant, reward="R1", command_id=command_id)
        case "refused redeem":
            return book.loyalty.redeem(target, 10**9 + variant, reward="R1", command_id=command_id)
        case "ticket":
            return book.tickets.open(target, subject=f"Parcel {variant}", command_id=command_id)
        case "adopt":
            return book.rules.adopt(RULES, effective_at=f"199{2 + variant}-{target}T00:00:00Z", command_id=command_id)
        case _:
            imports.ROWS_PER_COMMIT = 25
            return book.imports.cdnow(target).purchases


def lend_a_hand(book: tallybook.Book) -> None:
    """Give the commands that stdin tells, one a line, and answer each with a line."""
    print("ready", flush=True)
    for line in sys.stdin:
        fate, *command = json.loads(line)
        FATE.next = fate
        answer = give(book, *command)
        FATE.next = None
        print(answer, flush=True)


class Hand:
    """A process that gives commands; it may die of one, and is then replaced."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.begin()

    def begin(self) -> None:
        """Start it; it has the book open when this returns."""
        self._process = start("hand", [self.url])
        assert self.answer() == "ready"

    def ask(self, *command: object, fate: str | None = None) -> None:
        """Tell it a command, with what is to happen in its transaction."""
        self._process.stdin.write(json.dumps([fate, *command]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> str | None:
        """Its answer; None if it died."""
        answer = self._process.stdout.readline()
        if answer:
            return answer.strip()
        assert self._process.wait(PATIENCE_S) == -signal.SIGKILL
        self.close()
        return None

    def close(self) -> None:
        """End it."""
        self._process.kill()
        with self._process:
            pass


def all_at_once(book: tallybook.Book, hands: Sequence[Hand], *commands: Sequence[Any], threads: int = 8) -> list[str]:
    """What `threads` threads and all hands answer that give a command at the same time; the commands take turns."""
    barrier = Barrier(threads)

    def one(number: int) -> str:
        barrier.wait(PATIENCE_S)
        return give(book, *commands[number % len(commands)])

    with ThreadPoolExecutor(threads) as pool:
        for number, hand in enumerate(hands):
            hand.ask(*commands[number % len(commands)])
        answers = list(pool.map(one, range(threads)))
    for hand in hands:
        answer = hand.answer()
        assert answer is not None
        answers.append(answer)
    return answers


# ── claims ────────────────────────────────────────────────────────────────────────────────────────────────────────

COUPONS = 12


def coupon(number: int) -> bytes:
    """The claim on a coupon."""
    return b"coupon" + bytes([number])


def claim_coupons(
    log: LogRecorder,
    customer: int,
    seed: int,
    rounds: int,
    acknowledge: Callable[[int], None] = lambda position: None,
    *,
    guarded: bool = True,
    dies_in: int | None = None,
) -> None:
    """Claim and release coupons for a customer, whom others serve as well. Unguarded: without the claims. From the
    round numbered `dies_in` on, the process kills itself in the first transaction that comes to its commit: before
    it, or in every second round after it."""
    chance = random.Random(seed)
    stream = customer.to_bytes(16, "big")
    for number in range(rounds):
        events = log.stream_rows(UUID(bytes=stream))
        held = {int(state) for _, _, name, state in events if name == "taken"}
        for _, _, name, state in events:  # in order: what was released is not held, unless it was taken again
            (held.add if name == "taken" else held.discard)(int(state))
        free = [number for number in range(COUPONS) if log.holder(coupon(number)) is None]
        releases = bool(held) and chance.random() < 0.5
        if not releases and not free:
            continue
        wanted = chance.choice(sorted(held) if releases else free)
        doomed = dies_in is not None and number >= dies_in
        before_commit = doomed and number % 2 == 0
        name = "never" if before_commit else "released" if releases else "taken"
        row = (stream, len(events) + 1, name, str(wanted).encode())
        claims = [(coupon(wanted), stream)] if guarded and not releases else []
        released = [coupon(wanted)] if guarded and releases else []
        with suppress(IntegrityError):  # another was faster: with the coupon, or with this customer
            positions = log.append([row], claims=claims, releases=released, inline=die if before_commit else None)
            if doomed:
                die()
            acknowledge(positions[0])


def die(session: Session | None = None, _last: int = 0) -> None:
    """Kill this process, in a transaction whose inserts a server has got, or outside of any."""
    if session is not None:
        session.rows("SELECT 1")
    os.kill(os.getpid(), signal.SIGKILL)


def storm_of_claims(way: str, where: str, *, seed: int = 1, rounds: int = 60, guarded: bool = True) -> list[str]:
    """Let 8 threads and 4 processes, each killed once and begun anew, claim coupons for 6 customers; what the log then
    says that must not be."""
    log = WAYS[way](where)
    chance = random.Random(seed)
    acknowledged: list[int] = []

    def live(customer: int, seeds: Sequence[int]) -> int:
        killed = 0
        for life, own in enumerate(seeds):
            dies_in = own % (rounds // 2) // 2 * 2 + customer % 2 if life == 0 else -1
            long = rounds if life else 100 * rounds  # until it comes to a commit, and dies of it
            arguments = [way, where, str(customer), str(own), str(long), str(int(guarded)), str(dies_in)]
            with start("claim", arguments) as process:
                acknowledged.extend(int(line) for line in process.stdout)
                killed += process.wait(PATIENCE_S) == -signal.SIGKILL
        return killed

    with ThreadPoolExecutor(12) as pool:
        living = [pool.submit(live, customer, [chance.getrandbits(32) for _ in range(2)]) for customer in range(4)]
        jobs = [
            pool.submit(
                claim_coupons, log, one % 6, chance.getrandbits(32), rounds, acknowledged.append, guarded=guarded
            )
            for one in range(8)
        ]
        for job in jobs:
            job.result(PATIENCE_S)
        killed = sum(future.result(PATIENCE_S) for future in living)
    problems = []
    holders: dict[bytes, bytes] = {}
    taken = released = 0
    for position, stream, _, name, state in log.iterate():
        claim = coupon(int(state))
        if name == "taken":
            taken += 1
            if claim in holders:
                problems.append(f"position {position}: coupon {int(state)} is taken while another holds it")
            holders[claim] = stream
        elif name == "released":
            released += 1
            if holders.pop(claim, None) != stream:
                problems.append(f"position {position}: coupon {int(state)} is released by one who does not hold it")
        else:
            problems.append(f"position {position}: this transaction was killed before its commit")
    if log.holders([coupon(number) for number in range(COUPONS)]) != holders:
        problems.append("the claims are not what the log says")
    if max(acknowledged) > log.position() or len(acknowledged) != len(set(acknowledged)):
        problems.append("what was acknowledged is not there once")
    assert killed == 4, f"only {killed} processes were killed"
    assert min(taken, released) > 20, f"only {taken} taken, {released} released: no storm"
    log.database.close()
    return problems


UNITS = 100
FIRST_UNITS = 6
"""What each buyer buys at most until those that are to be killed are dead: so there is something left for them."""


def unit(number: int) -> bytes:
    """The claim on one unit of an article in stock."""
    return b"stock" + number.to_bytes(2, "big")


def buy_units(
    log: LogRecorder,
    buyer: int,
    seed: int,
    acknowledge: Callable[[int], None],
    *,
    most: int = UNITS,
    guarded: bool = True,
    dies_in: int | None = None,
) -> None:
    """Buy units until so many are bought or none is free. In the purchase numbered `dies_in` the process kills itself,
    before the commit or, if the number is odd, after it. Unguarded: what is free is looked up, and not claimed."""
    chance = random.Random(seed)
    stream, bought = (1000 + buyer).to_bytes(16, "big"), 0
    while bought < most:
        version = len(log.stream_rows(UUID(bytes=stream)))
        sold = (
            {number for number in range(UNITS) if log.holder(unit(number)) is not None}
            if guarded
            else {int(row[4]) for row in log.iterate()}
        )
        free = [number for number in range(UNITS) if number not in sold]
        if not free:
            return
        wanted = chance.choice(free[:3])  # all want the same few
        doomed = bought == dies_in
        before_commit = doomed and bought % 2 == 0
        row = (stream, version + 1, "never" if before_commit else "sold", str(wanted).encode())
        with suppress(IntegrityError):  # another was faster
            log.append([row], claims=[(unit(wanted), stream)] if guarded else [], inline=die if before_commit else None)
            if doomed:
                die()
            acknowledge(wanted)
            bought += 1


def storm_of_stock(way: str, where: str, *, seed: int = 1, guarded: bool = True) -> list[str]:
    """Let 8 threads and 4 processes, two of which are killed, buy all units of an article; what must not be."""
    log = WAYS[way](where)
    chance = random.Random(seed)
    acknowledged: list[int] = []

    def buy(buyer: int, most: int) -> None:
        buy_units(log, buyer, chance.getrandbits(32), acknowledged.append, most=most, guarded=guarded)

    with ThreadPoolExecutor(8) as pool:
        processes = [
            start("buy", [way, where, str(8 + one), str(one), str(int(guarded)), str({0: 2, 1: 3}.get(one, -1))])
            for one in range(4)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for job in [pool.submit(buy, buyer, FIRST_UNITS) for buyer in range(8)]:
            job.result(PATIENCE_S)
        assert [process.wait(PATIENCE_S) for process in processes[:2]] == [-signal.SIGKILL] * 2
        jobs = [pool.submit(buy, buyer, UNITS) for buyer in range(8)]
        for process in processes[2:]:
            process.stdin.write("go\n")
            process.stdin.flush()
        for job in jobs:
            job.result(PATIENCE_S)
        for process in processes:
            with process:
                acknowledged.extend(int(line) for line in process.stdout)
        assert [process.returncode for process in processes[2:]] == [0, 0]
    rows = list(log.iterate())
    sold = [int(state) for *_, state in rows]
    problems = [f"position {row[0]}: this transaction was killed before its commit" for row in rows if row[3] != "sold"]
    problems += [f"unit {one} is sold {count} times" for one, count in Counter(sold).items() if count > 1]
    problems += [f"unit {one} was sold and is not in the log" for one in {*acknowledged} - {*sold}]
    if len(sold) != UNITS:
        problems.append(f"{len(sold)} of {UNITS} units are sold")
    # One purchase was committed by a process that was killed before it could tell.
    if len(acknowledged) != len(sold) - 1:
        problems.append(f"{len(acknowledged)} sales were acknowledged of {len(sold)}")
    if guarded and log.holders([unit(number) for number in range(UNITS)]) != {
        unit(int(state)): stream for _, stream, _, _, state in rows
    }:
        problems.append("the claims are not what the log says")
    log.database.close()
    return problems


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────


_NURSERY = get_context("forkserver")
_NURSERY.set_forkserver_preload(["tests.storm", "tallybook.book"])  # which `tallybook.open` imports when it is called
_ONE_BY_ONE = Lock()
"""A start looks after the ends of all processes, and whoever waits for one reads its end: only one of them may."""


class Process:
    """A process of this module with pipes: forked off one that has imported everything, and does nothing else."""

    def __init__(self, role: str, arguments: Sequence[str]) -> None:
        to_read, to_tell = os.pipe()
        to_hear, to_write = os.pipe()
        self.stdin, self.stdout = os.fdopen(to_tell, "w"), os.fdopen(to_hear)
        with Connection(to_read, writable=False) as ears, Connection(to_write, readable=False) as mouth, _ONE_BY_ONE:
            self._process = _NURSERY.Process(
                target=_grown_up, args=(ears, mouth, dict(os.environ), role, *arguments), daemon=True
            )
            self._process.start()

    @property
    def returncode(self) -> int | None:
        """How it ended, as of a `subprocess.Popen`."""
        with _ONE_BY_ONE:
            return self._process.exitcode

    def kill(self) -> None:
        """Kill it, if it is still there: at once, whoever starts or waits."""
        self._process.kill()

    def wait(self, timeout_s: float | None = None) -> int:
        """How it ended, when it has."""
        ended = wait([self._process.sentinel], timeout_s)
        code = self.returncode
        if not ended or code is None:
            raise TimeoutError(f"a process did not end within {timeout_s} s")
        return code

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait()


def _grown_up(ears: Connection, mouth: Connection, environ: dict[str, str], role: str, *arguments: str) -> None:
    """What a process does that was forked off."""
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(ROOT)
    sys.stdin, sys.stdout = os.fdopen(ears.fileno(), closefd=False), os.fdopen(mouth.fileno(), "w", closefd=False)
    main(role, *arguments)


def start(role: str, arguments: Sequence[str]) -> Process:
    """A process of this module."""
    return Process(role, arguments)


def run_reader(arguments: Sequence[str], role: str = "read") -> Seen:
    """What a reader in a process of its own saw."""
    with start(role, arguments) as process:
        out = process.stdout.read()
        assert process.wait(2 * PATIENCE_S) == 0
    return [(position, state) for position, state in json.loads(out)]


def tell(number: int) -> None:
    """A line for whoever started this process."""
    print(number, flush=True)


def main(role: str, *arguments: str) -> None:
    """What a process does."""
    match role, arguments:
        case "write", (way, where, name, transactions, seed, dies_in):
            log = WAYS[way](where)

            def acknowledge(rows: Sequence[tuple[int, str]]) -> None:
                print(json.dumps(rows), flush=True)

            write(log, name, int(transactions), int(seed), acknowledge, dies_in=int(dies_in))
            log.database.close()
        case "read", (way, where, names, restarts):
            log = WAYS[way](where)
            print(json.dumps(read(log, json.loads(names), restarts == "1")))
            log.database.close()
        case "command", (url, name, commands, seed, dies_in):
            with tallybook.open(url) as book:
                give_in_to_fate(book)
                give_commands(book, name, int(commands), int(seed), int(dies_in))
        case "follow", (url, names):
            with tallybook.open(url) as book:
                print(json.dumps(follow(book, json.loads(names))))
        case "claim", (way, where, customer, seed, rounds, guarded, dies_in):
            log = WAYS[way](where)
            dies = None if dies_in == "-1" else int(dies_in)
            claim_coupons(log, int(customer), int(seed), int(rounds), tell, guarded=guarded == "1", dies_in=dies)
            log.database.close()
        case "insist", (url, name, commands):
            with opened(url) as book:
                insist(book, name, int(commands), lambda customer: print(customer, flush=True))
        case "buy", (way, where, buyer, seed, guarded, dies_in):
            log = WAYS[way](where)
            print("ready", flush=True)
            for most, dies in ((FIRST_UNITS, int(dies_in)), (UNITS, -1)):
                sys.stdin.readline()
                buy_units(log, int(buyer), int(seed), tell, most=most, guarded=guarded == "1", dies_in=dies)
            log.database.close()
        case "hand", (url,):
            with tallybook.open(url) as book:
                give_in_to_fate(book)
                lend_a_hand(book)
        case _:
            raise SystemExit(f"{role} {arguments}?")


if __name__ == "__main__":
    main(*sys.argv[1:])
