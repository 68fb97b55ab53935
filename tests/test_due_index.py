"""A sweep loads the accounts to whom time does something, and no others: by notes, which are right or not believed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.projections.conftest import Shop, at, rule_set
from tests.test_concurrency import at_once, refusals

import tallybook
from tallybook import Book, Refused, loyalty
from tallybook.adapters import application
from tallybook.adapters.due_index import DUE_INDEX, DueIndex, Note
from tallybook.adapters.form import uuid_from
from tallybook.adapters.snapshots import differing
from tallybook.domain.customer import Customer
from tallybook.domain.errors import BookError
from tallybook.domain.events import Value, to_us
from tallybook.domain.loyalty import LoyaltyAccount, account_id

NEVER = 2**62


class Crash(BaseException):
    """The process ends here."""


@contextmanager
def loads_counted(book: Book) -> Iterator[list[UUID]]:
    """The accounts that are loaded by sweeps meanwhile."""
    loaded: list[UUID] = []
    app = book._core.app
    real = app.load_many

    def counted(kind: Any, stream_ids: Sequence[UUID], *, kept: bool = False) -> Any:
        if kind is LoyaltyAccount:
            loaded.extend(stream_ids)
        return real(kind, stream_ids, kept=kept)

    app.load_many = counted  # type: ignore[method-assign]  # put back below
    try:
        yield loaded
    finally:
        del app.load_many


def loaded_by(book: Book, until: str) -> set[UUID]:
    """The accounts that a sweep loads."""
    with loads_counted(book) as loaded:
        book.loyalty.sweep(at(until))
    assert len(loaded) == len(set(loaded))
    return set(loaded)


def account(customer: UUID, programme: str = "main") -> UUID:
    return account_id(customer, programme)


def notes(book: Book) -> dict[UUID, tuple[int, int, int]]:
    """What is noted: version, adoptions, until when nothing is due."""
    rows = book._core.app.database.rows(
        "SELECT account, version, adoptions, quiet_until_us FROM due_index ORDER BY account"
    )
    return {uuid_from(stream): tuple(noted) for stream, *noted in rows}


# ── what is loaded ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """A book under the standard rules: points live to the end of the month a year later."""
    url = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/shop.book"}.get(request.param)
    opened = Shop(url or request.getfixturevalue("server_book_url"))
    yield opened
    opened.close()


def test_a_sweep_loads_those_to_whom_time_does_something(shop: Shop) -> None:
    spring, summer, idle = (shop.member() for _ in range(3))
    shop.buy(spring, "2020-03-10", 500_00)
    shop.buy(summer, "2020-07-10", 500_00)
    assert loaded_by(shop.book, "2020-12-31") == {account(one) for one in (spring, summer, idle)}
    assert loaded_by(shop.book, "2021-02-28") == set()
    # The tier goes with what was earned a year ago, the points at the end of the month.
    assert loaded_by(shop.book, "2021-03-10") == {account(spring)}
    assert loaded_by(shop.book, "2021-03-31") == set()
    assert loaded_by(shop.book, "2021-04-01") == {account(spring)}
    assert [shop.book.loyalty.balance(one, as_of=at("2021-04-02")) for one in (spring, summer, idle)] == [0, 500, 0]
    assert loaded_by(shop.book, "2021-08-01") == {account(summer)}
    assert loaded_by(shop.book, "2023-01-01") == set()
    assert shop.book.loyalty.account(summer).tier == "basic"
    assert shop.book.replay().holds
    assert shop.book.replay().pending == 0


def test_whoever_moved_since_is_loaded_and_noted_anew(shop: Shop) -> None:
    busy, idle = shop.member(), shop.member()
    shop.buy(busy, "2020-03-10", 500_00)
    shop.sweep("2020-12-30")
    assert loaded_by(shop.book, "2020-12-31") == set()
    shop.buy(busy, "2020-02-10", 500_00)  # late, and over earlier than all before
    assert loaded_by(shop.book, "2021-01-01") == {account(busy)}
    assert loaded_by(shop.book, "2021-02-09") == set()
    assert loaded_by(shop.book, "2021-03-01") == {account(busy)}
    assert shop.book.loyalty.balance(busy, as_of=at("2021-03-02")) == 500
    new = shop.member("2021-03-01")
    assert loaded_by(shop.book, "2021-03-02") == {account(new)}
    assert account(idle) in notes(shop.book)


def test_a_rule_set_that_is_adopted_makes_all_notes_old(shop: Shop) -> None:
    ada, bob = shop.member(), shop.member()
    shop.buy(ada, "2020-06-10", 500_00)
    shop.sweep("2020-12-30")
    assert loaded_by(shop.book, "2020-12-31") == set()
    shop.book.rules.adopt(rule_set(version="2", inactivity_months=3), effective_at=at("2020-08-01"))
    assert loaded_by(shop.book, "2020-12-31") == {account(ada), account(bob)}  # to the same moment, by other rules
    assert shop.book.loyalty.balance(ada, as_of=at("2021-01-01")) == 0
    assert shop.book.replay().holds
    ahead = rule_set(version="3", inactivity_months=1)
    shop.book.rules.adopt(ahead, effective_at=at("2021-06-01"))
    shop.buy(bob, "2021-01-02", 500_00)
    shop.sweep("2021-01-03")
    assert loaded_by(shop.book, "2021-03-31") == set()
    # By the second rule set the points of somebody who is not seen for three months go.
    assert loaded_by(shop.book, "2021-04-02") == {account(bob)}


def test_programmes_go_by_their_own_zones(shop: Shop) -> None:
    china = {"programme": "china", "zone": "Asia/Shanghai", "expiry": {"months": 0, "until": "year_end"}}
    hawaii = {"programme": "hawaii", "zone": "Pacific/Honolulu", "expiry": {"months": 0, "until": "year_end"}}
    for document in (china, hawaii):
        shop.book.rules.adopt(rule_set(name=str(document["programme"]), **document), effective_at=at("2000-01-01"))
    ada = shop.member()
    for programme in ("china", "hawaii"):
        shop.book.loyalty.enrol(ada, programme=programme, effective_at=at("2020-01-02"))
    shop.buy(ada, "2020-06-10", 90_00)
    shop.sweep("2020-12-30")
    assert loaded_by(shop.book, "2020-12-31T15:59") == set()
    assert loaded_by(shop.book, "2020-12-31T16:00") == {account(ada, "china")}
    assert loaded_by(shop.book, "2021-01-01T09:59") == set()
    assert loaded_by(shop.book, "2021-01-01T10:00") == {account(ada, "hawaii")}
    assert [shop.book.loyalty.balance(ada, programme=one) for one in ("china", "hawaii")] == [0, 0]


def test_a_sweep_that_runs_late_dates_what_was_due_when_it_was(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-03-10", 500_00)
    shop.sweep("2020-12-31")
    shop.sweep("2022-12-31")
    decided = [(event.effective_at, event.stored_name) for _, event in shop.history()[-3:-1]]
    assert decided == [(at("2021-03-10"), "loyalty.tier_changed"), (at("2021-04-01"), "loyalty.points_expired")]


def test_who_is_suspended_closed_restricted_or_erased_follows_too(shop: Shop) -> None:
    members = [shop.member() for _ in range(5)]
    for member in members:
        shop.buy(member, "2020-03-10", 500_00)
    _, suspended, closed, restricted, erased = members
    shop.book.loyalty.suspend(suspended, reason="fraud", effective_at=at("2020-04-01"))
    shop.book.loyalty.close(closed, reason="left", effective_at=at("2020-04-01"))
    shop.book.customers.restrict(restricted, "disputed", effective_at=at("2020-04-01"))
    shop.book.erasures.erase(erased, reason="gdpr-17")
    shop.sweep("2020-12-31")
    # Of what was closed, the points are gone, and the tier goes like everybody's.
    assert loaded_by(shop.book, "2021-03-31") == {account(one) for one in members}
    assert loaded_by(shop.book, "2021-04-30") == {account(one) for one in members if one != closed}
    assert [shop.book.loyalty.account(one).tier for one in members] == ["basic"] * 5
    assert [shop.book.loyalty.balance(one) for one in members] == [0] * 5
    assert shop.book.replay().holds


def test_of_many_accounts_none_is_forgotten(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    monkeypatch.setattr("tallybook.adapters.due_index.CHUNK", 3)
    core = shop.book._core
    core.app.due_index = DueIndex(core.app.database, b"key" * 11, "stored_events")
    members = {shop.member() for _ in range(10)}
    enrolled = {account(one) for one in members}
    assert loaded_by(shop.book, "2020-12-31") == enrolled
    assert {uuid_from(one.account) for one in core.app.due_index.enrolments()} == enrolled
    assert loaded_by(shop.book, "2021-12-31") == set()


# ── with notes and without, the same ────────────────────────────────────────────────────────────────────────────────

DOCUMENTS: list[dict[str, Any]] = [
    {"name": "a", "zone": "America/New_York"},
    {"name": "b", "zone": "Europe/Berlin", "inactivity_months": 2, "expiry": {"days": 45}},
    {
        "name": "c",
        "expiry": {"never": True},
        "pending": {"days": 20},
        "tiers": {
            "window": "calendar_year",
            "grace_days": 31,
            "levels": [{"name": "basic", "threshold": 0}, {"name": "gold", "threshold": 150}],
        },
    },
    {"name": "d", "programme": "other", "zone": "Asia/Shanghai", "expiry": {"months": 1, "until": "month_end"}},
]
WHO = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        *[st.tuples(st.just("buy"), WHO, st.integers(0, 400), st.integers(5_000, 40_000))] * 4,
        st.tuples(st.just("redeem"), WHO, st.integers(1, 300)),
        st.tuples(st.just("hold"), WHO, st.integers(1, 100), st.integers(1, 90)),
        st.tuples(st.just("override"), WHO, st.sampled_from(["gold", "basic"]), st.integers(1, 200)),
        st.tuples(st.sampled_from(["suspend", "resume", "restrict", "erase", "close"]), st.just(3)),
        st.tuples(st.just("adopt"), st.integers(0, 3), st.integers(-300, 100)),
        *[st.tuples(st.just("pass"), st.integers(1, 60))] * 3,
        *[st.tuples(st.just("sweep"), st.sampled_from([0, 0, 1, 30]))] * 3,
        st.tuples(st.just("cut"), WHO, st.integers(0, 4)),
        st.tuples(st.sampled_from(["keep_notes", "put_back"])),
        st.tuples(st.sampled_from(["amid", "amid_adoption"]), WHO),
    ),
    min_size=12,
    max_size=40,
)


class Story:
    """A book that goes through steps; its ids depend on nothing but these."""

    def __init__(self, *, forgetful: bool) -> None:
        self.forgetful = forgetful
        self.begun = 0
        self.kept: Sequence[tuple[Any, ...]] = ()
        self.now = at("2020-06-01")
        self.begin()
        self.book = tallybook.open("memory:", now_us=lambda: to_us(self.now), new_id=lambda: next(self.ids))
        with self.book.acting("agent:test", purpose="test"):
            for document in (DOCUMENTS[0], DOCUMENTS[3]):
                self.begin()
                self.book.rules.adopt(rule_set(version="0", **document), effective_at=at("2018-01-01"))
            self.members = []
            for number in range(4):
                self.begin()
                self.members.append(self.book.customers.register(effective_at=at("2019-01-01")))
                self.book.loyalty.enrol(self.members[-1], effective_at=at("2019-01-01"))
                for month in range(1, 13, 2 + number):
                    lines = [{"sku": "s", "quantity": 1, "net_minor": 4_000 * month}]
                    when = at(f"2019-{month:02}-15")
                    self.book.customers.record_purchase(self.members[-1], lines, effective_at=when)
                if number % 2:
                    self.book.loyalty.enrol(self.members[-1], programme="other", effective_at=at("2019-01-01"))

    def begin(self) -> None:
        """From here on ids are greater than all before, and depend on how often this was called alone: what falls due
        at one moment goes by ids, and a command that is tried twice takes some more."""
        self.begun += 1
        self.ids = (UUID(int=(self.begun << 96) | (number << 64) | 0x4000_8000_0000_0000) for number in count())

    def step(self, number: int, what: str, *values: Any) -> None:
        self.begin()
        self.now += timedelta(minutes=1)  # lots of one moment go by their ids
        with self.book.acting("agent:test", purpose="test"), suppress(Refused):
            getattr(self, what)(number, *values)

    def buy(self, number: int, who: int, days: int, net: int) -> None:
        when = self.now - timedelta(days=days if number % 3 == 0 else 0)
        lines = [{"sku": "s", "quantity": 1, "net_minor": net}]
        self.book.customers.record_purchase(self.members[who], lines, effective_at=when)

    def redeem(self, number: int, who: int, points: int) -> None:
        self.book.loyalty.redeem(self.members[who], points, reward="mug")

    def hold(self, number: int, who: int, points: int, days: int) -> None:
        self.book.loyalty.hold(self.members[who], points, until=self.now + timedelta(days=days))

    def override(self, number: int, who: int, tier: str, days: int) -> None:
        self.book.loyalty.override_tier(self.members[who], tier, self.now + timedelta(days=days), reason="vip")

    def suspend(self, number: int, who: int) -> None:
        self.book.loyalty.suspend(self.members[who], reason="fraud")

    def resume(self, number: int, who: int) -> None:
        self.book.loyalty.resume(self.members[who], reason="cleared")

    def close(self, number: int, who: int) -> None:
        self.book.loyalty.close(self.members[who], reason="left")

    def restrict(self, number: int, who: int) -> None:
        self.book.customers.restrict(self.members[who], "disputed")

    def erase(self, number: int, who: int) -> None:
        self.book.erasures.erase(self.members[who], reason="gdpr-17")

    def adopt(self, number: int, which: int, days: int) -> None:
        document = rule_set(version=str(number + 1), **DOCUMENTS[which])
        self.book.rules.adopt(document, effective_at=self.now + timedelta(days=days))

    def sweep(self, number: int, days: int) -> None:
        self.sweep_to(self.now - timedelta(days=days))

    def sweep_to(self, until: datetime) -> None:
        if self.forgetful:
            self.book.drop_snapshots()
        self.book.loyalty.sweep(until)

    def cut(self, number: int, who: int, after: int) -> None:
        """A sweep that ends early; somebody buys; it goes on."""
        real = loyalty.LoyaltyDesk.__dict__["_settle"]
        done: list[Any] = []

        class Cut:
            def __get__(self, desk: Any, owner: Any) -> Callable[[Any], Any]:
                def settle(batch: Any) -> Any:
                    if len(done) == after:
                        raise Crash
                    done.append(batch)
                    return real.__get__(desk, owner)(batch)

                return settle

        until = self.now
        self.book.loyalty.__dict__.pop("_settle", None)
        with pytest.MonkeyPatch.context() as patch, suppress(Crash):
            patch.setattr(loyalty, "ACCOUNTS_PER_COMMIT", 1)
            patch.setattr(loyalty.LoyaltyDesk, "_settle", Cut())
            self.sweep_to(until)
        self.begin()
        self.now += timedelta(minutes=1)
        with suppress(Refused):
            self.buy(number, who, 0, 5000)
        self.begin()
        self.sweep_to(until)

    def keep_notes(self, number: int) -> None:
        """What is noted now is kept, to be put back."""
        database = self.book._core.app.database
        if database.has_table("due_index"):
            self.kept = database.rows("SELECT * FROM due_index")

    def put_back(self, number: int) -> None:
        """Old notes stand where new ones stood: each was written by the book."""
        with self.book._core.app.database.session(write=True) as session:
            if self.kept:
                session.upsert(DUE_INDEX, self.kept)

    def amid(self, number: int, who: int) -> None:
        """Somebody buys after a sweep has looked at the notes, and again before it notes anew what it found."""
        self._sweep_amid(number, lambda: self.buy(number, who, 0, 5_000), ["read", "write"])

    def amid_adoption(self, number: int, which: int) -> None:
        """A rule set is adopted, in force from before, while one sweep is under way that another has finished."""
        document = rule_set(version=f"{number}.1", **DOCUMENTS[which])

        def adopted() -> None:
            self.book.loyalty.sweep(self.now - timedelta(minutes=1))
            self.book.rules.adopt(document, effective_at=self.now - timedelta(days=40))

        self._sweep_amid(number, adopted, ["read"])

    def _sweep_amid(self, number: int, what: Callable[[], None], places: list[str]) -> None:
        """A sweep, and something else at its weakest moments: after it read the notes, and before it writes them."""
        until = self.now

        def once(place: str) -> None:
            if place in places:
                places.remove(place)
                self.begin()
                self.now += timedelta(minutes=1)
                with suppress(Refused):
                    what()
                self.begin()

        real_write, real_enrolments = DueIndex.write, DueIndex.enrolments

        def enrolments(index: DueIndex) -> Iterator[Any]:
            found = list(real_enrolments(index))
            once("read")
            return iter(found)

        def write(index: DueIndex, noted: Any) -> None:
            once("write")
            real_write(index, noted)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DueIndex, "enrolments", enrolments)
            patch.setattr(DueIndex, "write", write)
            self.sweep_to(until)
        once("write")  # where nobody was noted

    def told(self) -> dict[UUID, list[Any]]:
        """What the accounts' streams say. Events are named by their places: a command's second try has other ids."""
        history = [event for _, event in self.book._core.history()]
        places = {event.event_id: (event.originator_id, event.originator_version) for event in history}
        streams: dict[UUID, list[Any]] = {}
        for event in history:
            if event.stored_name.startswith("loyalty."):
                streams.setdefault(event.originator_id, []).append(placed(event.substance(), places))
        return streams


def placed(value: Any, places: dict[UUID, Any]) -> Any:
    """A value with the places of events instead of their ids."""
    if isinstance(value, Value):
        value = tuple(value.__dict__.values())
    if isinstance(value, tuple):
        return tuple(placed(one, places) for one in value)
    return places.get(value, value) if isinstance(value, UUID) else value


setattr(Story, "pass", lambda self, number, days: setattr(self, "now", self.now + timedelta(days=days)))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_with_notes_and_without_the_same_is_decided(steps: list[tuple[Any, ...]]) -> None:
    noting, forgetful = (Story(forgetful=forgetful) for forgetful in (False, True))
    with closing(noting.book), closing(forgetful.book), pytest.MonkeyPatch.context() as patch:
        patch.setattr(application, "EVERY_BY_MANY", 1)
        for number, (what, *values) in enumerate([*steps, ("sweep", 0)]):
            for story in (noting, forgetful):
                story.step(number, what, *values)
            if what in ("sweep", "cut", "amid", "amid_adoption"):
                assert noting.told() == forgetful.told()
        certificate = noting.book.replay()
        assert certificate.holds, certificate.first
        assert certificate.pending == 0


# ── what sweeps keep of accounts ────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def rows_counted(book: Book) -> Iterator[list[int]]:
    """The versions of the events that are read of many accounts at once meanwhile."""
    read: list[int] = []
    log = book._core.app.log
    names = ("streams_rows", "newer_rows")
    real = [getattr(log, name) for name in names]

    def counting(rows: Callable[..., Iterator[tuple[Any, ...]]]) -> Callable[..., Iterator[tuple[Any, ...]]]:
        def counted(*args: Any) -> Iterator[tuple[Any, ...]]:
            for row in rows(*args):
                read.append(row[2])
                yield row

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name, rows in zip(names, real, strict=True):
            patch.setattr(log, name, counting(rows))
        yield read


def with_history(shop: Shop) -> list[UUID]:
    """Two members who bought each month for two years, and one who bought once; swept up to 2022."""
    members = [shop.member() for _ in range(3)]
    for year in ("2020", "2021"):
        for month in range(1, 13):
            for member in members[:2]:
                shop.buy(member, f"{year}-{month:02}-10", 500_00)
    shop.buy(members[2], "2021-01-10", 500_00)
    shop.sweep("2022-01-01")
    return members


def test_a_sweep_does_not_read_long_histories_again(shop: Shop) -> None:
    members = with_history(shop)
    versions = [shop.book._core.app.load(LoyaltyAccount, account(one)).version for one in members]
    assert versions[0] > 24
    shop.buy(members[1], "2022-01-05", 100_00)
    with rows_counted(shop.book) as read:
        shop.sweep("2022-02-01")
    # Of the first its last event, of the second that and the new one, of the third all that there are.
    assert read == sorted(read, key=read.index)
    assert sorted(read) == sorted([versions[0], versions[1], versions[1] + 1, *range(1, versions[2] + 1)])
    assert [shop.book.loyalty.balance(one, as_of=at("2022-02-01")) for one in members] == [5_500, 5_600, 0]
    assert shop.book.replay().holds
    assert shop.book._core.app.check_snapshots().wrong == ()


PLANTED = {
    "altered": "UPDATE snapshots SET state=substr(state, 1, 40)",
    "older": "UPDATE snapshots SET version=3",
    "another's": "UPDATE snapshots SET state=(SELECT MAX(state) FROM snapshots)",
    "words": "UPDATE snapshots SET version='x', state='x', kind='x'",
    "form": "UPDATE snapshots SET form=x'00'",
    "none": "DELETE FROM snapshots",
    "gone": "DROP TABLE snapshots",
}


@pytest.mark.parametrize("what", PLANTED)
def test_snapshots_that_can_not_be_used_are_passed_over(tmp_path: Path, what: str) -> None:
    shop = Shop(f"sqlite:///{tmp_path}/shop.book")
    members = with_history(shop)
    shop.close()
    with closing(sqlite3.connect(tmp_path / "shop.book")) as raw, raw:
        raw.execute(PLANTED[what])
    with reopened(tmp_path / "shop.book") as book, book.acting("job:sweep", purpose="expiry"):
        book.loyalty.sweep(at("2022-02-01"))
        assert [book.loyalty.balance(one, as_of=at("2022-02-01")) for one in members] == [5_500, 5_500, 0]
        assert book.replay().holds


def test_a_snapshot_ahead_of_its_stream_or_of_another_kind_is_passed_over(shop: Shop) -> None:
    members = with_history(shop)
    app = shop.book._core.app
    streams = [account(one) for one in members]
    right = app.load_many(LoyaltyAccount, streams)
    ahead = right[streams[0]].draft([])
    ahead.version += 1
    ahead.spent = 99
    other = Customer(streams[1])
    other.version = right[streams[1]].version
    app.snapshot_store.write(ahead, other)
    found = app.load_many(LoyaltyAccount, [*streams, UUID(int=404)], kept=True)
    assert found.keys() == right.keys()
    for stream in streams:
        assert found[stream].version == right[stream].version
        assert differing(found[stream], right[stream]) == ()


def reopened(path: Path) -> Book:
    return tallybook.open(f"sqlite:///{path}", now_us=lambda: to_us(at("2024-01-01")))


# ── what is lost, altered, forged ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def swept(tmp_path: Path) -> tuple[Path, list[UUID]]:
    """A closed book of three members whose points expire on 1 April, 1 July and 1 October 2021, swept up to January."""
    shop = Shop(f"sqlite:///{tmp_path}/shop.book")
    members = [shop.member() for _ in range(3)]
    for member, month in zip(members, ("03", "06", "09"), strict=True):
        shop.buy(member, f"2020-{month}-10", 50_00)
    shop.sweep("2021-01-01")
    shop.close()
    return tmp_path / "shop.book", members


def doubted(book: Book) -> bool:
    """Whether the doctor has a word about notes that the book did not write."""
    return ("sweep notes", "warning") in {(one.name, one.state) for one in book.doctor()}


ALTERED = {
    "never": "UPDATE due_index SET quiet_until_us=4611686018427387904",
    "another's": "UPDATE due_index SET quiet_until_us=other.quiet_until_us, checksum=other.checksum FROM "
    "(SELECT * FROM due_index ORDER BY quiet_until_us DESC LIMIT 1) AS other",
    "version": "UPDATE due_index SET version=version+1",
    "adoptions": "UPDATE due_index SET adoptions=adoptions+1",
    "form": "UPDATE due_index SET form=x'00'",
    "account": "UPDATE due_index SET account=x'00' WHERE account=(SELECT MIN(account) FROM due_index)",
    "words": "UPDATE due_index SET quiet_until_us='never', version='1'",
    "checksum": "UPDATE due_index SET checksum='x'",
    "a half": "DELETE FROM due_index WHERE account=(SELECT MIN(account) FROM due_index)",
    "all": "DELETE FROM due_index",
    "the table": "DROP TABLE due_index",
    "the index": "DROP INDEX stored_events__enrolled",
}


@pytest.mark.parametrize("what", ALTERED)
def test_notes_that_are_lost_or_altered_are_not_believed(swept: tuple[Path, list[UUID]], what: str) -> None:
    path, members = swept
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(ALTERED[what])
    with reopened(path) as book:
        assert doubted(book) == (what not in ("form", "a half", "all", "the table", "the index"))
        with book.acting("job:sweep", purpose="expiry"):
            book.loyalty.sweep(at("2021-07-01"))
            assert [book.loyalty.balance(one, as_of=at("2021-07-01")) for one in members] == [0, 0, 50]
            expired = list(book._core.history(["loyalty.points_expired"]))
            assert len(expired) == 2
            assert book.replay().holds
            assert book.replay().pending == 0
            assert loaded_by(book, "2021-07-02") == set()
        assert doubted(book) == (what == "account")  # one that is no account's is nobody's to replace


def test_an_old_note_that_is_put_back_is_not_believed(swept: tuple[Path, list[UUID]]) -> None:
    path, [first, *_] = swept
    with reopened(path) as book, book.acting("agent:test", purpose="test"):
        kept = book._core.app.database.rows("SELECT * FROM due_index WHERE account=?", [account(first).bytes])
        book.loyalty.extend(first, at("2021-02-01"), reason="sorry", effective_at=at("2021-01-02"))
        lines = [{"sku": "s", "quantity": 1, "net_minor": 10_00}]
        book.customers.record_purchase(first, lines, effective_at=at("2020-01-10"))  # over on 1 February
        book.loyalty.sweep(at("2021-01-15"))
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("INSERT OR REPLACE INTO due_index VALUES (?,?,?,?,?,?)", kept[0])
    with reopened(path) as book, book.acting("agent:test", purpose="test"):
        assert not doubted(book)  # it is one of the book's own
        assert loaded_by(book, "2021-02-01") == {account(first)}
        assert book.loyalty.balance(first) == 0


def test_a_note_that_is_forged_with_the_keys_is_found_and_the_next_command_settles(
    swept: tuple[Path, list[UUID]],
) -> None:
    path, [first, *_] = swept
    with reopened(path) as book, book.acting("agent:test", purpose="test"):
        index = book._core.app.due_index
        [note] = [one.note for one in index.enrolments() if one.account == account(first).bytes]
        assert note is not None
        index.write([note._replace(quiet_until_us=NEVER)])
        [told] = [one for one in book.doctor() if one.name == "sweep notes"]
        assert told.state == "failed"
        assert str(account(first)) in told.what
        assert loaded_by(book, "2021-04-02") == set()
        certificate = book.replay()
        assert not certificate.holds
        assert book.loyalty.balance(first) == 0  # a question counts what is due, and so does a command
        with pytest.raises(Refused, match="insufficient_points") as refused:
            book.loyalty.redeem(first, 10, reward="mug", effective_at=at("2021-04-02"))
        assert refused.value.code == "insufficient_points"


def test_a_sweep_that_can_note_nothing_is_right_and_loads_all_again(
    swept: tuple[Path, list[UUID]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, members = swept
    with reopened(path) as book, book.acting("job:sweep", purpose="expiry"):
        index, database = book._core.app.due_index, book._core.app.database

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(database, name)

            def session(self, *, write: bool) -> Any:
                raise BookError("The disk is full.", path="/", remedy="Make room.")

        monkeypatch.setattr(index, "_database", Full())
        assert loaded_by(book, "2021-04-01") == {account(members[0])}
        assert loaded_by(book, "2021-04-02") == {account(members[0])}
        monkeypatch.undo()
        assert loaded_by(book, "2021-04-03") == {account(members[0])}
        assert loaded_by(book, "2021-04-04") == set()
        assert len(list(book._core.history(["loyalty.points_expired"]))) == 1


def test_a_sweep_that_dies_before_it_notes_what_it_did_goes_on(
    swept: tuple[Path, list[UUID]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = swept
    monkeypatch.setattr(loyalty, "ACCOUNTS_PER_COMMIT", 1)

    def dies(index: DueIndex, noted: Any) -> None:
        raise Crash

    with pytest.MonkeyPatch.context() as patch, reopened(path) as book, book.acting("job:sweep", purpose="expiry"):
        patch.setattr(DueIndex, "write", dies)
        with pytest.raises(Crash):
            book.loyalty.sweep(at("2021-12-31"))
    with reopened(path) as book, book.acting("job:sweep", purpose="expiry"):
        assert book.replay().pending == 2
        assert len(loaded_by(book, "2021-12-31")) == 3
        assert book.replay().holds
        assert book.replay().pending == 0
        assert len(list(book._core.history(["book.swept"]))) == 2


def test_a_sweep_finishes_itself_and_no_other_that_was_begun_meanwhile(shop: Shop) -> None:
    members = [shop.member() for _ in range(4)]
    for month, member in enumerate(members, 3):
        shop.buy(member, f"2020-{month:02}-10", 50_00)
    shop.sweep("2021-01-01")
    book = shop.book

    def begun(done: int, total: int) -> None:
        """Another process announces a sweep that goes further, and is cut short."""
        if not done - total:
            book.loyalty._announce_sweep(at("2021-06-15"))

    book.loyalty.sweep(at("2021-04-15"), progress=begun)
    with pytest.raises(Refused, match="under way") as refused:
        book.rules.adopt(rule_set(version="2", inactivity_months=1), effective_at=at("2020-01-01"))
    assert refused.value.code == "sweep_unfinished"
    assert book.replay().pending > 0
    book.loyalty.sweep(at("2021-06-15"))
    assert book.replay().pending == 0
    assert len(list(book._core.history(["loyalty.points_expired"]))) == 3
    assert book.replay().holds


def test_a_sweep_that_another_has_finished_decides_nothing_by_rules_that_came_since(shop: Shop) -> None:
    members = [shop.member() for _ in range(3)]
    for member in members:
        shop.buy(member, "2020-06-10", 50_00)
    book = shop.book
    shop.sweep("2021-01-01")
    for member in members:
        shop.buy(member, "2020-07-10", 50_00)

    def begun(done: int, total: int) -> None:
        """Another process finishes the sweep; by what is adopted then, points are gone since March."""
        if not done:
            book.loyalty.sweep(at("2021-05-01"))
            book.rules.adopt(rule_set(version="2", inactivity_months=8), effective_at=at("2020-06-01"))

    book.loyalty.sweep(at("2021-05-01"), progress=begun)
    assert list(book._core.history(["loyalty.points_expired"])) == []
    book.rules.adopt(rule_set(version="3", inactivity_months=24), effective_at=at("2020-06-01"))
    shop.sweep("2021-05-02")
    assert list(book._core.history(["loyalty.points_expired"])) == []
    assert book.replay().holds
    assert book.replay().pending == 0


def test_a_note_about_what_the_server_has_lost_is_not_written(shop: Shop) -> None:
    ada = shop.member()
    shop.buy(ada, "2020-03-10", 500_00)
    shop.sweep("2020-12-30")
    index = shop.book._core.app.due_index
    [(version, adoptions, until_us)] = notes(shop.book).values()
    # What comes up to that version here says something else.
    index.write([Note(account(ada).bytes, version + 1, adoptions, NEVER)])
    index.write([Note(account(customer).bytes, 0, adoptions, NEVER) for customer in (UUID(int=5), UUID(int=6))])
    assert notes(shop.book)[account(ada)] == (version, adoptions, until_us)
    shop.buy(ada, "2020-03-10", 500_00)
    assert shop.book._core.app.load(LoyaltyAccount, account(ada)).version >= version + 1
    assert loaded_by(shop.book, "2021-04-01") == {account(ada)}
    assert shop.book.loyalty.balance(ada, as_of=at("2021-04-02")) == 0


def test_sweeps_at_once_and_purchases_among_them_are_one_sweep(shop: Shop) -> None:
    members = [shop.member() for _ in range(8)]
    for month, member in enumerate(members, 1):
        shop.buy(member, f"2020-{month:02}-10", 50_00)
    shop.sweep("2021-01-01")
    book = shop.book
    lines = [{"sku": "s", "quantity": 1, "net_minor": 10_00}]
    jobs: list[Callable[[], Any]] = [lambda: book.loyalty.sweep(at("2021-06-01"))] * 3
    jobs += [
        lambda one=member: book.customers.record_purchase(one, lines, effective_at=at("2021-05-31"))  # type: ignore[misc]  # a default
        for member in members[2:5]
    ]
    assert refusals(at_once(book, *jobs)) == []
    assert len(list(book._core.history(["loyalty.points_expired"]))) == 5
    certificate = book.replay()
    assert certificate.holds, certificate.first
    assert certificate.pending == 0
    assert loaded_by(book, "2021-06-02") <= {account(one) for one in members[2:5]}
    assert loaded_by(book, "2021-06-03") == set()
