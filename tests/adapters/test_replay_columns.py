"""Facts that are made from the archive's columns are those that are gathered from events; and so are those kept."""

from __future__ import annotations

import lzma
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from hypothesis import HealthCheck, given, settings
from tests.loyalty_lives import PROGRAMMES, living
from tests.loyalty_lives import Step as Command
from tests.loyalty_lives import steps as commands
from tests.programme_life import Life, Step, steps
from tests.replay_facts import Customer, all_in_full, gathered
from tests.test_synth import generous

import tallybook
from tallybook.adapters.archive import archive as archive_module
from tallybook.adapters.archive import replay_cache, replay_columns
from tallybook.adapters.archive.archive import Archive
from tallybook.adapters.archive.places import place_of
from tallybook.adapters.archive.replay_cache import Kept, ReplayCache, packed
from tallybook.adapters.archive.replay_columns import facts_of
from tallybook.domain.errors import ArchiveError, BookDamaged
from tallybook.domain.events import Event
from tallybook.domain.loyalty import account_id, tier_coupon_id
from tallybook.domain.points import (
    CouponUsed,
    CouponVoided,
    EarningConfirmed,
    Enrolled,
    ExtensionGranted,
    ReferralReduced,
    TransferRequested,
    lot_of,
)
from tallybook.projections.columnar import facts as columnar_facts
from tallybook.projections.columnar.facts import Facts
from tallybook.projections.columnar.machine.layout import CODES, FACTS, NO_REF
from tallybook.projections.columnar.names import Names

QUICK = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
ADA, BOB = UUID(int=7), UUID(int=(3 << 122) + 8)
"""Of two buckets."""


def archive_of(book: tallybook.Book, place: str | Path) -> Archive:
    return Archive(book._core.app.log, place_of(place), book._core.storage.models.hold)


def alike(book: tallybook.Book, archive: Archive) -> dict[UUID, Customer]:
    """What the archive tells is what the log tells: made, and kept."""
    wanted, _control = gathered(book._core.history())
    buckets = sorted({customer.int >> 122 for customer in wanted})

    def of_all(load: Callable[[int], Iterable[Facts]], names: Names) -> dict[UUID, Customer]:
        found: dict[UUID, Customer] = {}
        for bucket in buckets:
            found |= all_in_full(load(bucket), names)
        assert list(found) == sorted(found)
        return found

    names = Names()
    assert of_all(lambda bucket: [facts_of(archive, bucket, names)], names) == wanted
    cache, names = ReplayCache(archive), Names()
    assert of_all(lambda bucket: cache.load(bucket, names), names) == wanted
    names = Names()
    names.text("another"), names.tier("another"), names.reference(uuid4())
    assert of_all(lambda bucket: cache.load(bucket, names), names) == wanted
    return wanted


# ── what is made ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_lives_in_every_programme_that_ships(programme: str, tmp_path: Path) -> None:
    @QUICK
    @given(life=commands)
    def live(life: list[Command]) -> None:
        with living(programme) as one:
            one.lives(life)
            archive = archive_of(one.book, tmp_path / uuid4().hex)
            archive.catch_up()
            alike(one.book, archive)

    live()


@settings(max_examples=4, deadline=None)
@given(what=steps, after=steps)
def test_several_programmes_and_deltas(
    tmp_path_factory: pytest.TempPathFactory, what: list[Step], after: list[Step]
) -> None:
    life = Life().live(what)
    try:
        archive = archive_of(life.book, tmp_path_factory.mktemp("archive"))
        archive.catch_up()
        alike(life.book, archive)
        life.live(after)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archive_module, "DELTA_SHARE", 9)
            patch.setattr(archive_module, "REBUILD_SHARE", 9)
            archive.catch_up()
        found = alike(life.book, archive)
        archive.compact()
        assert alike(life.book, archive) == found
    finally:
        life.close()


@pytest.mark.parametrize("rows", [1 << 14, 50], ids=["in one block", "in many"])
def test_the_beginning_of_the_cdnow_book(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar_facts, "BLOCK", rows)
    shipped = files("tallybook") / "data" / "cdnow_master.txt.xz"
    told = lzma.decompress(shipped.read_bytes()).splitlines(keepends=True)[:1_500]
    (tmp_path / "cdnow.txt").write_bytes(b"".join(told))
    with tallybook.open("memory:") as book, book.acting("agent:test", purpose="test"):
        book.rules.adopt("standard", effective_at="1996-01-01T00:00:00Z")
        book.imports.cdnow(tmp_path / "cdnow.txt")
        book.loyalty.sweep("1998-12-31T00:00:00Z")
        archive = archive_of(book, tmp_path / "archive")
        archive.catch_up()
        found = alike(book, archive)
    assert sum(len(rows) for _, rows in found.values()) > 1_900


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tallybook.Book]:
    url = f"sqlite:///{tmp_path_factory.mktemp('synth')}/made.book"
    tallybook.synth(url, customers=400, seed=5, rules=["standard", generous()])
    with tallybook.open(url) as book:
        yield book


@pytest.mark.slow
def test_every_kind_of_fact_of_a_made_up_book(made_up: tallybook.Book, tmp_path: Path) -> None:
    archive = archive_of(made_up, tmp_path / "archive")
    archive.catch_up()
    found = alike(made_up, archive)
    assert {row["kind"] for _, rows in found.values() for row in rows} == set(FACTS)


# ── what is rare ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[tallybook.Book, Archive]]:
    """Two members of a programme who bought, and the archive of their book, which is behind."""
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book, book.acting("agent:test", purpose="test"):
        book.rules.adopt("standard", effective_at="2024-01-01T00:00:00Z")
        for customer in (ADA, BOB):
            book.customers.register(
                customer_id=customer,
                name="Ada",
                country="GB",
                birth_date="1990-03-14",
                effective_at="2024-01-02T00:00:00Z",
            )
            book.loyalty.enrol(customer)
            book.customers.record_purchase(
                customer, [{"sku": "lamp", "quantity": 1, "net_minor": 5_000}], currency="USD", order_id=f"{customer}"
            )
        yield book, archive_of(book, tmp_path / "archive")


def test_an_erasure_changes_nothing(shop: tuple[tallybook.Book, Archive]) -> None:
    book, archive = shop
    archive.catch_up()
    before = alike(book, archive)
    book.erasures.erase(ADA, reason="asked")
    archive.catch_up()
    assert alike(book, archive) == before


def test_what_was_told_late_of_a_customer_and_what_was_taken_back(shop: tuple[tallybook.Book, Archive]) -> None:
    book, archive = shop
    told: list[dict[str, Any]] = [
        {"country": "FR", "effective_at": "2024-07-01T00:00:00Z"},
        {"country": "DE", "source": "fair", "effective_at": "2024-06-01T00:00:00Z"},
        {"clear": ["country"], "effective_at": "2024-08-01T00:00:00Z"},
        {"birth_date": "1990-04-14", "effective_at": "2024-08-02T00:00:00Z"},
        {"clear": ["birth_date", "source"], "effective_at": "2024-08-03T00:00:00Z"},
    ]
    for changes in told:
        book.customers.change(ADA, **changes)
        book.loyalty.record_activity(ADA, "visit", 1)
    archive.catch_up()
    seen = [row["traits"] for row in alike(book, archive)[ADA][1]]
    assert [one[1:] for one in seen[-6:]] == [
        ("GB", "", 3), ("FR", "", 3), ("FR", "fair", 3), ("", "fair", 3), ("", "fair", 4), ("", "", 0),
    ]  # fmt: skip


def test_ids_of_nothing_that_an_account_reacts_to(shop: tuple[tallybook.Book, Archive]) -> None:
    book, archive = shop
    account, second, third, stranger = account_id(ADA, "main"), uuid4(), uuid4(), uuid4()
    events = [event for _, event in book._core.history()]
    mine = [event for event in events if event.subject_id == ADA]
    bobs = next(event.event_id for event in events if event.subject_id == BOB)
    earned, bought, registered = (
        next(event for event in mine if event.stored_name == name).event_id
        for name in ("loyalty.points_earned", "customer.purchase_recorded", "customer.registered")
    )
    versions = Counter(event.originator_id for event in mine)

    def save(kind: type[Event], stream: UUID = account, **fields: Any) -> None:
        versions[stream] += 1
        one = kind.model_validate(
            {
                "originator_id": stream, "originator_version": versions[stream], "event_id": uuid4(),
                "subject_id": ADA, "effective_us": mine[-1].effective_us, "metadata": mine[-1].metadata, **fields,
            }
        )  # fmt: skip
        book._core.app.save(one)

    coupon = tier_coupon_id(account, "gold", "mug", 2024)
    of_no_fact = [
        stranger, coupon, bobs, earned, registered, lot_of(earned, 2), lot_of(registered, 9), lot_of(stranger, 1),
    ]  # fmt: skip
    for named in (None, *of_no_fact, bought, lot_of(bought, 3)):
        save(CouponUsed, coupon_id=named)
        save(ExtensionGranted, lot_id=named, until_us=2**62, reason="r")
        if named is not None:
            save(EarningConfirmed, fact_id=named)
            save(ReferralReduced, credit_id=named, return_id=named, returned=(5, 0))
            save(TransferRequested, to_account=named, points=1, barred=None if named == bobs else "receiver_closed")
    save(CouponVoided, third, coupon_id=stranger, reason="r")
    save(CouponVoided, second, coupon_id=stranger, reason="r")
    save(Enrolled, second, programme="side")
    save(Enrolled, second, programme="other")
    save(CouponVoided, ADA, coupon_id=stranger, reason="r")
    archive.catch_up()
    accounts, rows = alike(book, archive)[ADA]
    assert accounts == {(account, "main"), (second, "side"), (third, ""), (ADA, "")}
    position = next(row["position"] for row in rows if row["kind"] == "customer.purchase_recorded")
    used = [row["slots"][0] for row in rows if row["kind"] == "loyalty.coupon_used"]
    assert used == [NO_REF, *of_no_fact, position, lot_of(bought, 3)]
    confirmed = [row["slots"][:2] for row in rows if row["kind"] == "loyalty.earning_confirmed"]
    assert confirmed == [*([named, 0] for named in of_no_fact), [position, 0], [position, 3]]


def test_rows_of_the_log_that_are_gone_are_told(
    shop: tuple[tallybook.Book, Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    _book, archive = shop
    archive.catch_up()
    monkeypatch.setattr(archive.log, "rows_at", lambda _: iter(()))
    with pytest.raises(BookDamaged, match="gone"):
        replay_columns._rows_at(archive.log, np.array([1]))


def test_where_sqlite_can_not_be_reached_the_archive_is_the_same(
    shop: tuple[tallybook.Book, Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    _book, archive = shop
    made = archive.rebuild()
    monkeypatch.setattr("tallybook.adapters.archive.sqlite_rows._library", lambda: None)
    assert archive.rebuild() == made
    assert archive.verify().holds


def test_a_bucket_of_nobody(shop: tuple[tallybook.Book, Archive]) -> None:
    _, archive = shop
    archive.catch_up()
    facts = facts_of(archive, 40, Names())
    assert (len(facts), len(facts.customers), facts.first.tolist(), facts.item.tolist()) == (0, 0, [0], [0])
    assert facts.slots.shape == (0, 4)
    assert facts.items.shape == (0, 6)


def test_ids_and_accounts_are_sequences(shop: tuple[tallybook.Book, Archive]) -> None:
    _, archive = shop
    archive.catch_up()
    facts = facts_of(archive, 0, Names())
    assert list(facts.customers) == [ADA]
    assert facts.customers[-1] == ADA
    assert list(facts.customers[:1]) == [ADA]
    assert facts.accounts[0] == (account_id(ADA, "main"), "main", 0)
    assert facts.accounts[:] == list(facts.accounts)
    for of in (facts.customers, facts.accounts):
        with pytest.raises(IndexError):
            of[1]


# ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────────


class Making:
    """How often facts were made from columns."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.times = 0
        patch.setattr(replay_cache, "facts_of", self)

    def __call__(self, *given: Any) -> Facts:
        self.times += 1
        return facts_of(*given)


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Making:
    return Making(monkeypatch)


def kept_of(archive: Archive, bucket: int = 0) -> Path:
    """The one file of a bucket."""
    assert archive.place.shown
    (found,) = (Path(archive.place.shown) / "replay").glob(f"bucket-{bucket:02}-*")
    return found


def loaded(cache: ReplayCache, bucket: int = 0) -> dict[UUID, Customer]:
    names = Names()
    return all_in_full(cache.load(bucket, names), names)


def test_what_is_kept_is_made_once(shop: tuple[tallybook.Book, Archive], making: Making) -> None:
    _, archive = shop
    archive.catch_up()
    first = loaded(ReplayCache(archive))
    cache = ReplayCache(archive)
    assert loaded(cache) == loaded(cache) == loaded(ReplayCache(archive)) == first
    assert making.times == 1


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.write_bytes(kept_of_another(path).read_bytes())


def kept_of_another(path: Path) -> Path:
    (found,) = path.parent.glob("bucket-48-*")
    return found


def renamed(path: Path) -> None:
    """Another bucket's, under the name of its own digest."""
    other = kept_of_another(path)
    stem = path.name.rpartition("-")[0]
    path.unlink()
    (path.parent / f"{stem}-{other.name.rpartition('-')[2]}").write_bytes(other.read_bytes())


def replaced(path: Path, data: bytes) -> None:
    stem = path.name.rpartition("-")[0]
    path.unlink()
    (path.parent / f"{stem}-{replay_cache._digest(data)}.arrow").write_bytes(data)


def without_a_column(path: Path) -> None:
    """Its digest and what it was made from are right; what it holds is not."""
    batch = ipc.open_file(path).get_batch(0)
    left = batch.select([name for name in batch.schema.names if name != "kind"])
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, left.schema.with_metadata(batch.schema.metadata)) as writer:
        writer.write_batch(left)
    replaced(path, sink.getvalue().to_pybytes())


def of_another_length(path: Path) -> None:
    """The same, of a column."""
    batch = ipc.open_file(path).get_batch(0)
    place = batch.schema.names.index("kind")
    shorter = pa.LargeListArray.from_arrays(pa.array([0, 1], pa.int64()), batch.column(place).values[:1])
    altered = batch.set_column(place, batch.schema.field(place), shorter)
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(altered)
    replaced(path, sink.getvalue().to_pybytes())


def no_arrow(path: Path) -> None:
    replaced(path, b"ARROW1 and no more")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def gone(path: Path) -> None:
    path.unlink()


def all_gone(path: Path) -> None:
    shutil.rmtree(path.parent)


def other_code(path: Path) -> None:
    """As another release left it."""
    path.rename(path.with_name(path.name.replace(path.name.split("-")[2], "0" * 32)))


DAMAGES = (torn, emptied, flipped, foreign, renamed, without_a_column, no_arrow, gone, all_gone, other_code)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("opened", ["by the same process", "by another"])
def test_what_is_not_as_it_was_written_is_made_anew(
    shop: tuple[tallybook.Book, Archive], making: Making, damage: Callable[[Path], None], opened: str
) -> None:
    _, archive = shop
    archive.catch_up()
    cache = ReplayCache(archive)
    first = loaded(cache)
    loaded(cache, 48)
    damage(kept_of(archive))
    cache = cache if opened == "by the same process" else ReplayCache(archive)
    assert loaded(cache) == first
    assert making.times == 3
    assert loaded(cache) == loaded(ReplayCache(archive)) == first
    assert making.times == 3
    assert kept_of(archive).is_file()


def test_what_turns_out_to_be_wrong_while_it_is_read_is_told_and_made_anew(
    shop: tuple[tallybook.Book, Archive],
) -> None:
    _, archive = shop
    archive.catch_up()
    first = loaded(ReplayCache(archive))
    of_another_length(kept_of(archive))
    path = str(kept_of(archive))
    with pytest.raises(ArchiveError, match=r"can't be read: its columns are of different lengths") as told:
        loaded(ReplayCache(archive))
    assert told.value.path == path
    assert "made anew" in str(told.value.remedy)
    assert loaded(ReplayCache(archive)) == first


def test_a_folder_in_the_place_of_a_file_stops_nothing(shop: tuple[tallybook.Book, Archive]) -> None:
    _, archive = shop
    archive.catch_up()
    first = loaded(ReplayCache(archive))
    a_folder(kept_of(archive))
    assert loaded(ReplayCache(archive)) == first


def test_what_is_stale_is_made_anew_and_what_is_not_is_left(
    shop: tuple[tallybook.Book, Archive], making: Making
) -> None:
    book, archive = shop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_module, "DELTA_SHARE", 9)
        patch.setattr(archive_module, "REBUILD_SHARE", 9)
        archive.rebuild()
        cache = ReplayCache(archive)
        before = archive.manifest()
        first, other = loaded(cache), loaded(cache, 48)
        file = kept_of(archive, 48)
        book.loyalty.record_activity(ADA, "visit", 1)
        archive.catch_up()
    assert loaded(cache) != first
    assert loaded(cache, 48) == other
    assert making.times == 3
    assert kept_of(archive, 48) == file
    kept_of(archive)  # one
    names = Names()
    assert all_in_full(cache.load(0, names, before), names) == first


def test_leftovers_of_a_writer_that_was_killed_go(shop: tuple[tallybook.Book, Archive]) -> None:
    _, archive = shop
    archive.catch_up()
    folder = Path(archive.place.shown) / "replay"
    folder.mkdir()
    left, others = folder / ".bucket-00-x.arrow.0123456789ab.part", folder / ".bucket-01-x.arrow.0123456789ab.part"
    left.touch()
    others.touch()
    loaded(ReplayCache(archive))
    assert (left.exists(), others.exists()) == (False, True)


def test_where_nothing_can_be_written_facts_are_made_each_time(
    shop: tuple[tallybook.Book, Archive], making: Making
) -> None:
    _, archive = shop
    archive.catch_up()
    (Path(archive.place.shown) / "replay").write_text("a file")
    cache = ReplayCache(archive)
    assert loaded(cache) == loaded(cache)
    assert making.times == 2


def test_of_an_archive_on_an_object_store_facts_are_kept_in_the_users_cache(
    shop: tuple[tallybook.Book, Archive], making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, _ = shop
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archives = [archive_of(book, f"memory://{uuid4().hex}") for _ in range(2)]
    for archive in archives:
        archive.catch_up()
        loaded(ReplayCache(archive))
        loaded(ReplayCache(archive))
    assert making.times == 2
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len({path.parent for path in kept}) == len(kept) == 2
    (tmp_path / "no folder").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    loaded(ReplayCache(archives[0]))
    assert making.times == 3


def test_the_archive_passes_over_what_is_kept(shop: tuple[tallybook.Book, Archive]) -> None:
    _, archive = shop
    archive.catch_up()
    loaded(ReplayCache(archive))
    file = kept_of(archive)
    archive.rebuild()
    assert file.is_file()
    assert archive.verify().holds
    assert archive.status().state == "current"


def test_numbers_of_every_size_are_kept() -> None:
    count = 40_000
    drawn = np.random.default_rng(3)
    kinds = [FACTS.index(one) for one in ("customer.purchase_recorded", "loyalty.hold_requested")]
    zeros = np.zeros(count, np.int64)
    for most in (1, 255, 256, -128, -129, 2**16, -(2**15) - 1, 2**31, 2**32 - 1, 2**32, -(2**31) - 1, 2**62, -(2**63)):
        kind = drawn.choice(kinds, count)
        bought = kind == kinds[0]
        item = np.concatenate([[0], np.cumsum(bought * 2)])
        items = np.zeros((item[-1], 6), np.int64)
        items[:, 0] = drawn.integers(min(most, 0), max(most, 0), len(items), endpoint=True)
        items[::50, 1] = items[::50, 0]
        items[-1, 2] = items[0, 3] = most
        items[:, 4:] = drawn.integers(0, len(CODES), (len(items), 2))
        texts = drawn.integers(0, len(CODES), count)
        slots = np.stack([np.where(bought, texts, items[0, 0]), np.where(bought, texts, most), zeros, zeros], axis=1)
        facts = Facts(
            kind, np.arange(count), slots[:, 1].copy(), zeros - 1, slots, item, items, zeros, zeros, (), (ADA,),
            np.array([0, count]), (),
        )  # fmt: skip
        (found,) = Kept(packed(facts, Names(), "x"), Names(), "x").blocks()
        for name in ("kind", "position", "at_us", "account", "slots", "item", "items", "trait", "channel", "first"):
            assert (getattr(found, name) == getattr(facts, name)).all(), (most, name)
